//! The measuring programs still measure: `cronium-bench` in its quickest form, on this machine's engine. What it finds is
//! bounded loosely here, since other tests and other people share the machine; BENCHMARKS.md has the figures.

use std::path::PathBuf;
use std::time::Duration;

use cronium_bench::fleet::{self, Herd};
use cronium_bench::{Setup, Size, footprint};

use crate::harness::{alone, binary, engine_socket, require_engine};

fn agent() -> PathBuf {
    binary().get_program().into()
}

/// Figures of both halves that are there and plausible, and ratios that only a defect would miss by so much.
#[test]
fn the_benchmark_prints_each_figure_beside_its_floor() {
    let _alone = alone();
    require_engine();
    let setup = Setup { agent: agent(), socket: engine_socket(), size: Size::least(), only: None };
    let table = cronium_bench::run(&setup, &mut |_| {}).expect("a table");
    let text = table.render();
    eprintln!("{text}");
    for (name, unit, least, most) in [
        ("one job, hand-out to verdict, 1 worker", "ms", 0.5, 3.0),
        ("create and start, the agent's profile beside the engine's", "ms", 0.5, 2.0),
        ("hand-out to first line", "ms", 0.5, 5.0),
        ("hand-out to first line, warm", "ms", 0.5, 500.0),
        ("jobs, 2 workers", "jobs/s", 0.3, 3.0),
        ("lines of 80 bytes, attach to WebSocket", "lines/s", 0.02, 3.0),
        ("lines with 20 secrets, beside none", "lines/s", 0.2, 5.0),
        ("print to receipt, median", "ms", 0.5, 50.0),
        ("getVariable in a script, median", "ms", 0.9, 200.0),
        ("first line of a script on a server, connected", "ms", 0.2, 50.0),
    ] {
        let row = table.row(name, unit).unwrap_or_else(|| panic!("no row '{name}' in {unit}:\n{text}"));
        let ratio = row.ratio.expect("a ratio");
        assert!((least..most).contains(&ratio), "{name}: {ratio}\n{text}");
        assert!(row.agent > 0.0 && row.floor.is_some_and(|floor| floor > 0.0), "{text}");
    }
    let peaks: Vec<f64> = table.rows.iter().filter(|row| row.unit == "MB").map(|row| row.agent).collect();
    assert!(peaks.len() >= 3 && peaks.iter().all(|mb| (2.0..100.0).contains(mb)), "{text}");
}

/// The targets that do not depend on the build profile or on who else uses the machine.
#[test]
fn an_idle_agent_has_only_threads_and_descriptors_that_are_written_down() {
    let _alone = alone();
    require_engine();
    let threads = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/threads.md");
    let socket = engine_socket();
    let setup = footprint::Setup { agent: agent(), socket, threads, length: Duration::from_secs(3) };
    let seen = footprint::measure(&setup).expect("figures");
    eprintln!("{}", seen.text);
    let missed: Vec<&String> =
        seen.missed.iter().filter(|text| text.starts_with("threads") || text.starts_with("descriptors")).collect();
    assert_eq!(missed, Vec::<&String>::new(), "{}", seen.text);
    let told = std::fs::read_to_string(&setup.threads).expect("docs/threads.md");
    let count = seen.text.split("threads: ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a count");
    assert!(told.contains(&format!("An idle agent with five workers has {count} threads.")), "{}", seen.text);
    for word in ["PSS: ", "CPU: ", "start to first poll: ", "state.dir: lock", "listens: health"] {
        assert!(seen.text.contains(word), "no '{word}' in\n{}", seen.text);
    }
}

/// Whatever happens to all agents at one moment, their requests come spread. Were they in step, all of them would come within
/// each 200 ms; the bounds leave room for a machine that is busy.
#[test]
fn a_fleet_comes_spread_after_a_start_a_restart_and_a_hang_of_its_backend() {
    let _alone = alone();
    let size = fleet::Size::least();
    let setup = fleet::Setup { agent: agent(), socket: engine_socket(), size: size.clone() };
    let seen = fleet::measure(&setup, &mut |_| {}).expect("figures");
    let text = seen.table().render();
    eprintln!("{text}");
    let agents = size.agents as f64;
    let spread = |name: &str, herd: &Herd| {
        assert!(herd.second as f64 <= 0.9 * agents, "{name}: {} of {agents} within a second\n{text}", herd.second);
        assert!(herd.tenth as f64 <= 0.3 * agents, "{name}: {} of {agents} within 100 ms\n{text}", herd.tenth);
    };
    spread("at rest", &seen.rest);
    spread("after a restart", &seen.restart.herd);
    spread("after a hang and a restart", &seen.crash.herd);
    spread("after 429", &seen.after_told.herd);
    // A poll each 2.2 s, and few heartbeats.
    assert!((0.4..0.6).contains(&seen.each), "{text}");
    for (name, back, least) in
        [("restart", &seen.restart, 4.0), ("hang", &seen.crash, 4.0), ("429", &seen.after_told, 6.0)]
    {
        assert!(back.all_back.is_some_and(|back| back.as_secs_f64() <= least), "{name}: {:?}\n{text}", back.all_back);
    }
    // Without a time they ask half as often or less; with one, not sooner than that.
    assert!(seen.crowded.mean <= 0.75 * seen.rest.mean, "{text}");
    assert!(seen.told.mean <= agents / f64::from(size.retry_after), "{text}");
    // In a burst all agents see the same rows. A claim that is lost costs one acknowledgement.
    for (queue, lost_each) in [(&seen.steady, 0.5), (&seen.burst, 4.0)] {
        assert!(queue.handed_late <= 2500.0, "{text}");
        assert!(queue.lost as f64 <= lost_each * queue.jobs as f64, "{text}");
    }
    // In a burst an agent takes as many as it has workers.
    assert!(seen.burst.most <= 10 && seen.burst.busy_agents >= 5, "{text}");
    assert_eq!(seen.wrong, 0, "jobs that were not reported once\n{text}");
    assert!(seen.memory < 3.0, "{text}");
}

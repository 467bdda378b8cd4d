//! The journal: what becomes of jobs whose agent is killed, stopped or cut off, and of reports that nobody takes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cronium_dev_backend::{Action, DevBackend, Fault, JobRow};

use crate::harness::{
    Agent, Folder, LONG, PROVING, binary, deployed, docker, eventually, finish, finished, job, report, shared, stderr,
    stdout, with_socket,
};
use crate::ssh_rig::Rig;

/// A script that prints numbered lines for some seconds, and a word that is another in each run.
pub const COUNT: &str = "echo \"run $(cat /proc/sys/kernel/random/uuid)\"; for n in $(seq 1 60); do echo \"line $n\"; \
                     [ $((n % 7)) = 0 ] && echo \"error $n\" >&2; sleep 0.05; done; exit 7";

fn counted() -> String {
    (1..=60).map(|n| format!("line {n}\n")).collect()
}

/// The script ran once, all of its output is in the result, and every line was live, none with two numbers' texts.
pub fn whole(backend: &DevBackend, row: &JobRow) {
    let (first, rest) = stdout(row).split_once('\n').expect("lines");
    assert!(first.starts_with("run "), "{first}");
    assert_eq!((rest, row.exit_code), (counted().as_str(), Some(7)), "{}", stderr(row));
    let lines = backend.lines(&row.id);
    let runs: BTreeSet<&str> = lines.iter().filter(|l| l.text.starts_with("run ")).map(|l| l.text.as_str()).collect();
    assert_eq!(runs.len(), 1, "the script ran more than once: {runs:?}");
    let live: BTreeSet<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    let missing: Vec<_> = (1..=60).map(|n| format!("line {n}")).filter(|line| !live.contains(line.as_str())).collect();
    assert_eq!(missing, Vec::<String>::new(), "lines that were never live");
}

fn begun(backend: &DevBackend, id: &str, lines: usize) {
    eventually("some lines", || backend.lines(id).len() > lines);
}

#[test]
pub fn a_script_goes_on_when_its_agent_is_killed_and_every_line_comes() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[PROVING]);
    let id = backend.enqueue(job("BASH", COUNT)).expect("queued");
    begun(&backend, &id, 10);
    let agent = agent.again(&backend, &[]);
    let row = finished(&backend, &id);
    whole(&backend, &row);
    assert_eq!(row.claims, 1);
    assert!(agent.log().contains("going on with it"));
    agent.stop();
}

#[test]
fn a_last_line_without_an_end_is_not_lost_when_the_agent_was_killed() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[PROVING]);
    let script = "echo first; sleep 3; echo before; printf last";
    let id = backend.enqueue(job("BASH", script)).expect("queued");
    begun(&backend, &id, 0);
    let agent = agent.again(&backend, &[]);
    let row = finished(&backend, &id);
    assert_eq!(stdout(&row), "first\nbefore\nlast");
    agent.stop();
}

#[test]
pub fn a_script_that_ended_while_no_agent_lived_is_reported_with_all_of_its_output() {
    let _machine = shared();
    let backend = with_socket();
    let mut agent = Agent::start(&backend, &[PROVING]);
    let id = backend.enqueue(job("BASH", COUNT)).expect("queued");
    begun(&backend, &id, 5);
    agent.signal("KILL");
    agent.wait(LONG);
    let filter = format!("label=cronium.agent.id={}", agent.id);
    eventually("the script has ended", || docker(&["ps", "-q", "--filter", &filter]).is_empty());
    let agent = agent.again(&backend, &[]);
    whole(&backend, &finished(&backend, &id));
    agent.stop();
}

#[test]
pub fn time_without_an_agent_counts_for_the_deadline() {
    let _machine = shared();
    let backend = with_socket();
    let mut agent = Agent::start(&backend, &[PROVING, ("jobs.stopGrace", "1s")]);
    let mut long = job("BASH", "echo begun; sleep 300");
    long["execution"]["timeout"] = serde_json::json!(8);
    let id = backend.enqueue(long).expect("queued");
    begun(&backend, &id, 0);
    let start = Instant::now();
    agent.signal("KILL");
    agent.wait(LONG);
    std::thread::sleep(Duration::from_secs(6));
    let agent = agent.again(&backend, &[("jobs.stopGrace", "1s")]);
    let row = finished(&backend, &id);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("timeout"), Some(-1)), "{}", stderr(&row));
    // Not counted, it would be 14 s at least.
    assert!(start.elapsed() < Duration::from_secs(13), "{:?}", start.elapsed());
    agent.stop();
}

#[test]
pub fn an_end_while_no_agent_lived_is_told_by_when_it_came() {
    let _machine = shared();
    let backend = with_socket();
    let mut agent = Agent::start(&backend, &[PROVING, ("jobs.stopGrace", "1s")]);
    let queue = |script: &str, limit: u32| {
        let mut row = job("BASH", script);
        row["execution"]["timeout"] = serde_json::json!(limit);
        let id = backend.enqueue(row).expect("queued");
        begun(&backend, &id, 0);
        id
    };
    // One ends by itself within its limit, one is ended for its limit by an agent that does not live to report that.
    let in_time = queue("echo begun; sleep 1.5; exit 3", 4);
    let too_late = queue("trap 'echo caught; sleep 0.3; exit 143' TERM; echo begun; while :; do sleep 0.1; done", 3);
    eventually("TERM was sent", || backend.lines(&too_late).iter().any(|line| line.text == "caught"));
    agent.signal("KILL");
    agent.wait(LONG);
    std::thread::sleep(Duration::from_secs(4));
    let agent = agent.again(&backend, &[("jobs.stopGrace", "1s")]);
    let row = finished(&backend, &too_late);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("timeout"), Some(-1)), "{}", stderr(&row));
    assert_eq!(finished(&backend, &in_time).exit_code, Some(3));
    // The same where the agent was killed before.
    drop(agent);
    let mut agent = Agent::start(&backend, &[PROVING]);
    let in_time = queue("echo begun; sleep 1; exit 3", 3);
    agent.signal("KILL");
    agent.wait(LONG);
    std::thread::sleep(Duration::from_secs(4));
    let agent = agent.again(&backend, &[]);
    let row = finished(&backend, &in_time);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(3)), "{}", stderr(&row));
    agent.stop();
}

#[test]
fn a_container_that_is_gone_is_told_as_an_unknown_end() {
    let _machine = shared();
    let backend = with_socket();
    let mut agent = Agent::start(&backend, &[PROVING]);
    let id = backend.enqueue(job("BASH", "echo begun; sleep 300")).expect("queued");
    begun(&backend, &id, 0);
    agent.signal("KILL");
    agent.wait(LONG);
    for container in agent.containers() {
        docker(&["rm", "-f", &container]);
    }
    let agent = agent.again(&backend, &[]);
    let row = finished(&backend, &id);
    assert_eq!(report(&row)["status"], "failed");
    assert!(
        stderr(&row).contains("its end is unknown") && stderr(&row).contains("not in the engine"),
        "{}",
        stderr(&row)
    );
    agent.stop();
}

#[test]
fn the_drain_leaves_what_still_runs_and_the_next_start_goes_on_with_it() {
    let _machine = shared();
    let backend = with_socket();
    let mut agent = Agent::start(&backend, &[PROVING, ("jobs.drainTimeout", "500ms")]);
    let id = backend.enqueue(job("BASH", COUNT)).expect("queued");
    begun(&backend, &id, 10);
    agent.signal("TERM");
    assert_eq!(agent.wait(LONG).code(), Some(4));
    assert_eq!(backend.job(&id).expect("row").terminal_reports(), 0);
    assert_eq!(docker(&["ps", "-q", "--filter", &format!("label=cronium.agent.id={}", agent.id)]).lines().count(), 1);
    let agent = agent.again(&backend, &[]);
    whole(&backend, &finished(&backend, &id));
    agent.stop();
}

#[test]
fn a_third_signal_ends_it_at_once() {
    let _machine = shared();
    let backend = with_socket();
    let mut agent = Agent::start(&backend, &[PROVING, ("jobs.onShutdown", "cancel"), ("jobs.stopGrace", "20s")]);
    let id = backend.enqueue(job("BASH", "trap '' TERM; echo begun; while :; do sleep 0.2; done")).expect("queued");
    begun(&backend, &id, 0);
    agent.signal("TERM");
    eventually("draining", || agent.get("/ready").0 == 503);
    agent.signal("TERM");
    eventually("cancelling", || agent.log().contains("cancelling 1 jobs"));
    agent.signal("TERM");
    assert_eq!(agent.wait(Duration::from_secs(5)).code(), Some(5));
    let agent = agent.again(&backend, &[("jobs.stopGrace", "1s")]);
    assert!(backend.cancel(&id, cronium_dev_backend::Via::Heartbeat), "cancelled");
    assert_eq!(report(&finished(&backend, &id))["status"], "cancelled");
    agent.stop();
}

#[test]
fn a_report_that_nobody_takes_outlives_the_agent_and_arrives_once() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING]);
    let down = Action::Status { status: 503, headers: Default::default(), body: None };
    let fault = |path: &str| Fault { path: Some(path.to_owned()), action: down.clone(), ..Fault::default() };
    backend.set_faults(vec![fault("/complete"), fault("/update")]);
    let id = backend.enqueue(job("BASH", "echo kept; exit 3")).expect("queued");
    eventually("a report that waits", || agent.log().contains("is not delivered yet"));
    eventually("a figure of it", || agent.metric("cronium_outbox_reports") == Some(1.0));
    assert!(std::fs::read_dir(agent.state().join("jobs")).expect("jobs").count() == 1);
    let agent = agent.again(&backend, &[]);
    agent.wait_ready();
    eventually("it waits again", || agent.metric("cronium_outbox_reports") == Some(1.0));
    backend.set_faults(Vec::new());
    let row = finished(&backend, &id);
    assert_eq!((row.exit_code, stdout(&row)), (Some(3), "kept\n"));
    eventually("nothing waits", || agent.metric("cronium_outbox_reports") == Some(0.0));
    assert_eq!(std::fs::read_dir(agent.state().join("jobs")).expect("jobs").count(), 0);
    agent.stop();
    assert_eq!(backend.job(&id).expect("row").terminal_reports(), 1);
}

#[test]
fn two_agents_do_not_share_a_state_folder() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING]);
    agent.wait_ready();
    let mut second = binary();
    second.arg("run").env("CRONIUM_API_TOKEN", backend.token());
    for (key, value) in [
        ("api.endpoint", backend.url()),
        ("state.dir", agent.state().display().to_string()),
        ("monitoring.enabled", "false".to_owned()),
    ] {
        second.arg("--set").arg(format!("{key}={value}"));
    }
    let output = second.output().expect("the second agent");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&agent.pid().to_string()), "the first one's pid is not named: {said}");
    agent.stop();
}

#[test]
fn a_full_state_folder_ends_the_claims_and_loses_no_job() {
    let _machine = shared();
    let backend = with_socket();
    let small = Folder::new();
    let mount =
        |arguments: &[&str]| std::process::Command::new(arguments[0]).args(&arguments[1..]).status().expect("mount");
    let place = small.path().to_str().expect("text");
    assert!(mount(&["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", place]).success());
    let agent = Agent::start(&backend, &[PROVING, ("state.dir", place), ("state.minFreeDisk", "0")]);
    agent.wait_ready();
    let id = backend
        .enqueue(job("BASH", "echo begun; sleep 4; head -c 300000 /dev/zero | tr '\\0' x; exit 3"))
        .expect("queued");
    begun(&backend, &id, 0);
    let _ = std::fs::write(small.path().join("filler"), vec![0; 1 << 20]);
    let row = finished(&backend, &id);
    assert_eq!((row.exit_code, stdout(&row).len()), (Some(3), 300_006));
    eventually("no more claims", || agent.get("/ready").1.contains("cannot be written"));
    let late = backend.enqueue(job("BASH", "true")).expect("queued");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(backend.job(&late).expect("row").terminal_reports(), 0);
    std::fs::remove_file(small.path().join("filler")).expect("remove");
    assert_eq!(finished(&backend, &late).exit_code, Some(0), "claims go on by themselves");
    agent.stop();
    assert!(mount(&["umount", "-l", place]).success());
}

#[test]
fn a_script_on_a_server_goes_on_when_the_agent_is_killed() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let id = rig.queue(rig.job("BASH", COUNT));
    begun(&rig.backend, &id, 10);
    let Rig { agent, backend, sshd, known_hosts } = rig;
    let temp_dir = sshd.temp_dir();
    let settings = [
        ("ssh.security.knownHostsFile", known_hosts.to_str().expect("text")),
        ("ssh.execution.tempDir", temp_dir.to_str().expect("text")),
    ];
    let agent = agent.again(&backend, &settings);
    whole(&backend, &finished(&backend, &id));
    Rig { agent, backend, sshd, known_hosts }.stop();
}

/// Ten jobs of one agent, which is killed once in the life of each; the moments are spread over all lanes.
pub fn killed_ten_times(lane: u64) {
    let backend = with_socket();
    let script = "echo \"run $(cat /proc/sys/kernel/random/uuid)\"; sleep 0.4; echo over; exit 4";
    let mut agent = Agent::start(&backend, &[PROVING]);
    let mut ids = Vec::new();
    for round in 0..10 {
        ids.push(backend.enqueue(job("BASH", script)).expect("queued"));
        // Moments all over a job's life, which is about a second, and more where five agents share the machine.
        std::thread::sleep(Duration::from_millis(70 + (lane * 10 + round) * 137 % 1300));
        agent = agent.again(&backend, &[]);
    }
    for id in &ids {
        let row = finished(&backend, id);
        let lines = backend.lines(id);
        let runs: BTreeSet<&str> =
            lines.iter().map(|l| l.text.as_str()).filter(|text| text.starts_with("run ")).collect();
        let kept: Vec<&str> = stdout(&row).lines().filter(|line| line.starts_with("run ")).collect();
        assert!(runs.len() <= 1 && kept.len() <= 1, "job {id} ran twice: {runs:?} {kept:?}");
        assert_eq!(row.terminal_reports(), 1, "job {id}");
        // An end that cannot be known is said to be unknown, and nothing else may be said of a job that did not end well.
        let unknown = ["unknown", "not known", "never ran"].iter().any(|words| stderr(&row).contains(words));
        assert!(row.exit_code == Some(4) || unknown, "job {id}: {:?} {}", row.exit_code, stderr(&row));
    }
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    eventually("nothing is left behind", || agent.containers().is_empty());
    agent.stop();
}

#[test]
fn agents_killed_at_fifty_moments_report_each_job_once_and_run_none_twice() {
    let _machine = shared();
    std::thread::scope(|lanes| {
        for lane in 0..5 {
            lanes.spawn(move || killed_ten_times(lane));
        }
    });
}

#[test]
fn a_job_that_was_finished_is_reported_again_as_it_was_and_runs_again_only_as_a_further_attempt() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING]);
    let id = finish(&backend, job("BASH", "echo \"run $(cat /proc/sys/kernel/random/uuid)\"; exit 6")).id;
    // Killed before, it would not know that its report was taken, and the next agent would send that again.
    eventually("the agent knows", || agent.log().contains("\"message\":\"reported as "));
    // Each run prints another word.
    let said = || -> Vec<String> {
        let row = backend.job(&id).expect("row");
        let reports = row.reports.iter().filter(|report| report.terminal);
        reports.map(|report| report.body["output"]["stdout"].as_str().expect("stdout").to_owned()).collect()
    };
    // The next agent knows it as well.
    let agent = agent.again(&backend, &[]);
    assert!(backend.requeue(&id, false));
    eventually("the old report", || backend.job(&id).expect("row").terminal_reports() == 2);
    let row = backend.job(&id).expect("row");
    let last = &row.reports.iter().rfind(|report| report.terminal).expect("a report").body;
    assert_eq!((last["status"].as_str(), last["exitCode"].as_i64()), (Some("failed"), Some(6)), "{last}");
    assert!(said()[0].starts_with("run ") && said()[1].is_empty(), "it ran again: {:?}", said());
    assert!(backend.requeue(&id, true));
    eventually("another report", || backend.job(&id).expect("row").terminal_reports() == 3);
    assert!(said()[2].starts_with("run ") && said()[2] != said()[0], "{:?}", said());
    assert_eq!(backend.problems(), Vec::<String>::new());
    agent.stop();
}

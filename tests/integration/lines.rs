//! Lines: none lost, none split, none invented, none held up, and the agent's memory does not move.

use std::time::{Duration, Instant};

use cronium_dev_backend::{DevBackend, JobRow, LogSocket, checksum, checksum_start};
use serde_json::json;

use crate::harness::{
    Agent, alone, eventually, finish, finished, job, record, report, shared, stderr, stdout, with_socket,
};

/// A million lines need time on a slow machine.
const MINUTES: Duration = Duration::from_secs(240);
/// What the agent promises to stay below is 32 MB, of which 8 are left to the pages of the program.
const MEMORY_KB: u64 = 24 * 1024;

/// A script that prints `count` numbered lines of 80 bytes, line feed included.
fn numbered(count: u64) -> serde_json::Value {
    let mut job = job("BASH", &format!("exec perl -e 'printf(\"%079d\\n\", $_) for 1..{count}'"));
    job["execution"]["resources"] = json!({ "cpuLimit": 2 });
    job["execution"]["timeout"] = json!(600);
    job
}

/// The text of line `n`.
fn line(n: u64) -> String {
    format!("{n:079}")
}

/// Runs `count` lines through; asserts that each arrived live, once, in order and byte-exact.
fn run_numbered(backend: &DevBackend, count: u64) -> JobRow {
    let id = backend.enqueue(numbered(count)).expect("queued");
    let done = backend.wait_for(MINUTES, |b| b.job(&id).is_some_and(|row| row.terminal_reports() > 0));
    assert!(done, "not finished within {MINUTES:?}");
    let row = finished(backend, &id);
    assert_eq!(row.exit_code, Some(0), "{}", stderr(&row));
    let dropped = record(backend, &row)["executionMetadata"]["liveLinesDropped"].clone();
    assert_eq!(dropped, json!("0"), "lines were left out of the live stream");
    let sums = backend.line_sums(&id).expect("lines");
    let want = (1..=count).fold(checksum_start(), |sum, n| checksum(sum, line(n).as_bytes()));
    assert_eq!(sums.counts[0], count, "lines of stdout");
    assert_eq!((sums.first, sums.last, sums.count), (1, count + 1, count + 1), "sequences, with the verdict's line");
    assert_eq!((sums.gaps(), sums.duplicates, sums.out_of_order), (0, 0, 0));
    assert_eq!(sums.checksums[0], want, "the bytes of the lines");
    // A read may end anywhere in a line. Only where the machine stood still for half a second is such a line shown.
    assert!(sums.partials < 20, "{} lines of a chatty job were sent before they had ended", sums.partials);
    row
}

#[test]
fn a_million_lines_arrive_live_and_in_the_result_and_memory_does_not_move() {
    let _machine = alone();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let before = agent.memory_kb("VmRSS");
    let begun = Instant::now();
    let row = run_numbered(&backend, 1_000_000);
    let (took, peak) = (begun.elapsed(), agent.own_peak_kb());
    eprintln!("1,000,000 lines of 80 bytes in {took:.1?}; agent RSS {before} kB before, {peak} kB at its highest");
    assert!(peak < MEMORY_KB, "{peak} kB");

    let text = stdout(&row);
    let (head, rest) = text.split_once("\n[... ").expect("a marker");
    let (marker, tail) = rest.split_once(" left out ...]\n").expect("a whole marker");
    let mut numbers = marker.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
    let (bytes, lines) = (numbers.next().expect("bytes"), numbers.next().expect("lines"));
    let kept = head.lines().count() as u64 + tail.lines().count() as u64;
    assert_eq!((kept + lines, (head.len() + 1 + tail.len()) as u64 + bytes), (1_000_000, 80_000_000));
    assert!(head.lines().enumerate().all(|(i, text)| text == line(i as u64 + 1)), "the head is not exact");
    assert!(
        tail.lines().rev().enumerate().all(|(i, text)| text == line(1_000_000 - i as u64)),
        "the tail is not exact"
    );
    assert_eq!(agent.metric("cronium_log_lines_dropped_total"), Some(0.0));
    agent.stop();
}

#[test]
fn the_deployed_dialect_loses_nothing_either() {
    let _machine = alone();
    let backend = with_socket();
    let mut settings = backend.settings();
    settings.log_socket = LogSocket::Lines;
    backend.set_settings(settings);
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let begun = Instant::now();
    run_numbered(&backend, 200_000);
    eprintln!("200,000 lines, one frame each, in {:.1?}", begun.elapsed());
    agent.stop();
}

#[test]
fn a_line_of_ten_megabytes_is_cut_live_and_never_held_whole() {
    let _machine = alone();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let row = finish(&backend, job("BASH", "perl -e 'print \"x\" x 10_000_000, \"\\nlast\"'"));
    let lines = backend.lines(&row.id);
    assert_eq!(lines.len(), 3, "a cut line, a last line without an end, the verdict");
    assert_eq!(lines[0].text, format!("{} […9934464 bytes of this line were left out]", "x".repeat(65_536)));
    assert_eq!(lines[1].text, "last");
    let text = stdout(&row);
    assert!(text.starts_with("xxxx") && text.ends_with("xxx\nlast") && text.contains(" left out ...]"));
    assert!((4_000_000..4_200_000).contains(&text.len()), "{}", text.len());
    let peak = agent.own_peak_kb();
    eprintln!("agent RSS at its highest with a line of 10 MB: {peak} kB");
    assert!(peak < MEMORY_KB, "{peak} kB");
    agent.stop();
}

#[test]
fn odd_bytes_and_odd_line_ends_are_told_right() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let script = "printf 'a\\r\\n\\n\\xff\\xfeb\\nn\\000l\\nü\\rx\\nend'; printf 'e1\\ne2' >&2";
    let row = finish(&backend, job("BASH", script));
    let text = |stream| {
        let lines = backend.lines(&row.id);
        lines.iter().filter(|line| line.stream == stream).map(|line| line.text.clone()).collect::<Vec<_>>()
    };
    assert_eq!(text("stdout"), ["a", "", "\u{fffd}\u{fffd}b", "n\u{fffd}l", "ü\rx", "end"]);
    assert_eq!(text("stderr"), ["e1", "e2"]);
    assert_eq!(stdout(&row), "a\r\n\n\u{fffd}\u{fffd}b\nn\u{fffd}l\nü\rx\nend");
    assert_eq!(stderr(&row), "e1\ne2");
    agent.stop();
}

#[test]
fn a_stalled_socket_slows_no_job_and_what_was_left_out_is_said() {
    let _machine = alone();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let took = |backend: &DevBackend| {
        let id = backend.enqueue(numbered(100_000)).expect("queued");
        let row = finished(backend, &id);
        (Duration::from_millis(row.duration_ms.expect("duration")), row)
    };
    let (free, _) = took(&backend);
    backend.stall_sockets(Duration::from_secs(8));
    let (stalled, row) = took(&backend);
    eprintln!("100,000 lines: {free:.2?} with a prompt receiver, {stalled:.2?} with a stalled one");
    assert!(stalled < free.mul_f64(1.25) + Duration::from_secs(1), "{stalled:?} against {free:?}");
    let dropped = record(&backend, &row)["executionMetadata"]["liveLinesDropped"].clone();
    let dropped: f64 = dropped.as_str().and_then(|text| text.parse().ok()).expect("a number");
    assert!(dropped > 0.0, "a stalled receiver cannot have got everything");
    assert!(agent.metric("cronium_log_lines_dropped_total") >= Some(dropped));
    // The result has what the live stream has not.
    let text = stdout(&row);
    assert!(text.starts_with(&line(1)) && text.trim_end().ends_with(&line(100_000)));
    agent.stop();
}

#[test]
fn cut_connections_lose_no_line() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[("logging.websocket.bufferSize", "5000")]);
    agent.wait_ready();
    let slow = "for i in $(seq 1 400); do echo line $i; sleep 0.01; done";
    let id = backend.enqueue(job("BASH", slow)).expect("queued");
    for cut in 1..=3_u64 {
        eventually("lines arrive", || backend.line_sums(&id).is_some_and(|sums| sums.count > cut * 60));
        backend.drop_sockets();
    }
    let row = finished(&backend, &id);
    let sums = backend.line_sums(&id).expect("lines");
    assert_eq!((sums.last, sums.gaps()), (401, 0), "every sequence arrived, the verdict's too");
    // A batch that was received but not yet acknowledged when the connection was cut comes a second time: at most the
    // few lines that were under way, three times.
    assert!(sums.duplicates < 100, "{} lines came twice", sums.duplicates);
    assert_eq!(stdout(&row).lines().count(), 400);
    agent.stop();
}

#[test]
fn a_line_is_at_the_backend_within_milliseconds_of_its_print() {
    let _machine = alone();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let script = "import time\nfor _ in range(200):\n    print(f'T{time.time_ns()}')\n    time.sleep(0.01)\n";
    let row = finish(&backend, job("PYTHON", script));
    let sums = backend.line_sums(&row.id).expect("lines");
    let figures = sums.latency();
    let of = |name: &str| Duration::from_micros(figures[name].as_u64().expect("microseconds"));
    let (median, worst) = (of("p50"), of("p99"));
    assert_eq!(figures["samples"], 200);
    eprintln!("from print to receipt: median {median:?}, 99th percentile {worst:?}");
    assert!(median < Duration::from_millis(5), "{median:?}");
    assert!(worst < Duration::from_millis(50), "{worst:?}");
    agent.stop();
}

#[test]
fn the_lines_are_there_before_the_report() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let id = backend.enqueue(job("BASH", "seq 1 5000")).expect("queued");
    let mut at_report = 0;
    backend.wait_for(MINUTES, |b| {
        let reported = b.job(&id).is_some_and(|row| row.terminal_reports() > 0);
        if reported {
            at_report = b.line_sums(&id).map_or(0, |sums| sums.count);
        }
        reported
    });
    assert_eq!(at_report, 5001, "5,000 lines and the verdict");
    assert_eq!(report(&finished(&backend, &id))["status"], "completed");
    agent.stop();
}

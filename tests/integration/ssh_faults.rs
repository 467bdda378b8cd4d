//! Connections that break, hosts that go, hang or lie, scripts that will not end: what a job loses by it, and what is said.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use cronium_dev_backend::{JobRow, Via};
use serde_json::{Value, json};

use crate::harness::{eventually, finished, free_port, report, shared, stderr, stdout, unique};
use crate::ssh::{all_numbered, numbered};
use crate::ssh_rig::{HOST, Rig, has_words};
use crate::sshd::{Sshd, silent_host};

/// Prints numbered lines on both streams and notes in a file that it ran.
fn counting(count: u32, pause: f32) -> String {
    format!(
        "echo ran >> ~/ran; for i in $(seq 1 {count}); do echo line $i; echo err $i >&2; sleep {pause}; done; exit 7"
    )
}

/// Asserts that a script of [`counting`] ran once, and that each of its lines came once, live and in the result.
fn counted(rig: &Rig, row: &JobRow, count: u32) {
    let text = |word: &str| (1..=count).map(|n| format!("{word} {n}\n")).collect::<String>();
    assert_eq!(row.exit_code, Some(7), "{}", rig.said(row));
    assert_eq!(stdout(row), text("line"));
    assert!(stderr(row).starts_with(&text("err")), "{}", stderr(row));
    assert_eq!(rig.live(&row.id, "stdout"), text("line"));
    assert_eq!(rig.live(&row.id, "stderr"), text("err"));
    let ran = std::fs::read_to_string(rig.sshd.path("home/ran")).expect("the script's file");
    assert_eq!((ran.as_str(), row.claims), ("ran\n", 1));
}

/// Waits until this many lines of stdout have come.
fn lines(rig: &Rig, id: &str, count: u64) {
    eventually("lines arrive", || rig.backend.line_sums(id).is_some_and(|sums| sums.counts[0] >= count));
}

#[test]
fn killed_connections_cost_a_running_job_nothing() {
    let _machine = shared();
    let rig = Rig::start(&[("ssh.execution.reconnectTimeout", "30s")]);
    let id = rig.begin(rig.job("BASH", &counting(300, 0.02)));
    for cut in 1..=3 {
        lines(&rig, &id, cut * 60);
        assert!(rig.sshd.kill_sessions() >= 1, "there was no connection to kill");
    }
    let row = finished(&rig.backend, &id);
    counted(&rig, &row, 300);
    assert!(rig.sshd.logins() >= 4, "{} logins", rig.sshd.logins());
    rig.stop();
}

#[test]
fn killed_connections_lose_no_byte_of_a_flood() {
    let _machine = shared();
    let rig = Rig::start(&[("ssh.execution.reconnectTimeout", "30s")]);
    let id = rig.begin(rig.job("BASH", &numbered(300_000)));
    let mut cuts = 0;
    while rig.backend.job(&id).expect("row").terminal_reports() == 0 && cuts < 5 {
        cuts += usize::from(rig.sshd.kill_sessions() > 0);
        std::thread::sleep(Duration::from_millis(300));
    }
    let row = finished(&rig.backend, &id);
    assert!(cuts > 0, "no connection was killed");
    all_numbered(&rig, &row, 300_000);
    rig.stop();
}

#[test]
fn a_connection_killed_as_the_script_ends_loses_neither_the_end_nor_the_code() {
    let _machine = shared();
    let rig = Rig::start(&[("ssh.execution.reconnectTimeout", "30s")]);
    for pause in ["0", "0.05", "0.1", "0.2"] {
        let id = rig.queue(rig.job("BASH", &format!("echo begun; sleep {pause}; echo last; exit 6")));
        // It may have been reported by then.
        lines(&rig, &id, 1);
        rig.sshd.kill_sessions();
        let row = finished(&rig.backend, &id);
        assert_eq!((stdout(&row), row.exit_code), ("begun\nlast\n", Some(6)), "{}", rig.said(&row));
    }
    rig.stop();
}

#[test]
fn a_cable_pulled_for_ten_seconds_costs_a_running_job_nothing() {
    let _machine = shared();
    let rig = Rig::with(
        Sshd::start_in_netns(),
        &[("ssh.connectionPool.connectionTimeout", "2s"), ("ssh.connectionPool.healthCheckInterval", "1s")],
    );
    let id = rig.begin(rig.job("BASH", &counting(300, 0.05)));
    lines(&rig, &id, 40);
    let network = rig.sshd.network.as_ref().expect("a network");
    network.cut();
    std::thread::sleep(Duration::from_secs(10));
    let before = rig.backend.line_sums(&id).expect("lines").counts[0];
    assert!(before < 80, "{before} lines came through a cable that was pulled");
    network.restore();
    let row = finished(&rig.backend, &id);
    counted(&rig, &row, 300);
    rig.stop();
}

#[test]
fn a_host_that_stays_away_fails_the_job_and_its_end_is_called_unknown() {
    let _machine = shared();
    let settings = [
        ("ssh.execution.reconnectTimeout", "5s"),
        ("ssh.connectionPool.connectionTimeout", "1s"),
        ("ssh.circuitBreaker.enabled", "false"),
    ];
    let mut rig = Rig::start(&settings);
    let id = rig.begin(rig.job("BASH", "echo begun; sleep 60"));
    rig.sshd.stop();
    let begun = Instant::now();
    let row = finished(&rig.backend, &id);
    let took = begun.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(15)).contains(&took), "{took:?}");
    assert_eq!((report(&row)["status"].as_str(), stdout(&row), row.exit_code), (Some("failed"), "begun\n", Some(125)));
    has_words(&rig.said(&row), &["unknown|not known", "reconnectTimeout", HOST]);
    rig.sshd.end_user_processes();
    rig.sshd.start_again();
    rig.leave();
}

#[test]
fn a_host_that_comes_back_in_time_is_found_again() {
    let _machine = shared();
    let mut rig = Rig::start(&[("ssh.execution.reconnectTimeout", "30s")]);
    let id = rig.begin(rig.job("BASH", &counting(150, 0.02)));
    lines(&rig, &id, 40);
    rig.sshd.stop();
    std::thread::sleep(Duration::from_secs(4));
    rig.sshd.start_again();
    counted(&rig, &finished(&rig.backend, &id), 150);
    rig.stop();
}

#[test]
fn a_host_that_was_rebooted_has_lost_the_job_and_the_verdict_says_so() {
    let _machine = shared();
    let mut rig = Rig::start(&[("ssh.execution.reconnectTimeout", "30s")]);
    let id = rig.begin(rig.job("BASH", "echo begun; sleep 60"));
    rig.sshd.reboot();
    let row = finished(&rig.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), "begun\n"));
    has_words(&rig.said(&row), &["vanished|gone|no longer|removed", "reboot|restart", HOST]);
    assert_eq!(stdout(&rig.bash("echo fine")), "fine\n");
    rig.stop();
}

#[test]
fn a_script_that_was_killed_with_all_of_its_shells_leaves_no_job_hanging() {
    let _machine = shared();
    let rig = Rig::start(&[("ssh.execution.reconnectTimeout", "5s")]);
    // As an operator's `pkill -9 -u` does, or a reboot that leaves the directory.
    let id = rig.begin(rig.job("BASH", "echo begun; sleep 60"));
    rig.sshd.end_user_processes();
    let row = finished(&rig.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), "begun\n"));
    assert_ne!(row.exit_code, Some(0));
    has_words(&rig.said(&row), &["kill|unknown|not known|without an exit", HOST]);
    rig.stop();
}

#[test]
fn a_directory_removed_under_a_running_job_does_not_hang_it() {
    let _machine = shared();
    let rig = Rig::start(&[("ssh.execution.reconnectTimeout", "5s")]);
    let id = rig.begin(rig.job("BASH", "echo begun; sleep 3; echo end"));
    std::fs::remove_dir_all(rig.sshd.temp_dir()).expect("removed");
    rig.sshd.kill_sessions();
    let row = finished(&rig.backend, &id);
    assert_eq!(report(&row)["status"], "failed");
    has_words(&rig.said(&row), &["vanished|gone|no longer|removed", HOST]);
    rig.sshd.end_user_processes();
    rig.leave();
}

/// A script whose children will not hear TERM: one in its group, one in a session by itself, one whose parent has gone.
fn deaf(mark: &str) -> String {
    format!(
        "trap '' TERM\nbash -c 'exec -a {mark}-child sleep 301' &\nsetsid bash -c 'exec -a {mark}-session sleep 302' &\n\
         (setsid bash -c 'exec -a {mark}-orphan sleep 303' &)\nsleep 0.3; echo begun; exec -a {mark}-self sleep 304\n"
    )
}

fn marked(rig: &Rig, mark: &str) -> Vec<String> {
    let all = rig.sshd.user_processes().into_iter();
    all.filter(|process| process.arguments.starts_with(mark)).map(|process| process.arguments).collect()
}

#[test]
fn a_timeout_ends_children_that_will_not_hear_it_wherever_they_went() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let mark = unique("mark");
    let mut job = rig.job("BASH", &deaf(&mark));
    job["execution"]["timeout"] = json!(2);
    let id = rig.begin(job);
    assert_eq!(marked(&rig, &mark).len(), 4, "{:?}", rig.sshd.user_processes());
    let row = finished(&rig.backend, &id);
    assert_eq!(marked(&rig, &mark), Vec::<String>::new(), "they live on after the report");
    assert_eq!((report(&row)["status"].as_str(), row.exit_code, stdout(&row)), (Some("timeout"), Some(-1), "begun\n"));
    has_words(&rig.said(&row), &["limit of 2 s (the job's timeout)", "SIGKILL"]);
    rig.stop();
}

#[test]
fn a_cancel_ends_children_that_will_not_hear_it_wherever_they_went() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let mark = unique("mark");
    let id = rig.begin(rig.job("BASH", &deaf(&mark)));
    assert_eq!(marked(&rig, &mark).len(), 4, "{:?}", rig.sshd.user_processes());
    let begun = Instant::now();
    assert!(rig.backend.cancel(&id, Via::WebSocket));
    let row = finished(&rig.backend, &id);
    assert_eq!(marked(&rig, &mark), Vec::<String>::new(), "they live on after the report");
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("cancelled"), "begun\n"));
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    rig.stop();
}

#[test]
fn a_script_that_hears_term_may_tidy_up() {
    let _machine = shared();
    let rig = Rig::start(&[("jobs.stopGrace", "5s")]);
    let script = "trap 'echo bye; exit 3' TERM; echo begun; while :; do sleep 0.1; done";
    let id = rig.begin(rig.job("BASH", script));
    let begun = Instant::now();
    assert!(rig.backend.cancel(&id, Via::WebSocket));
    let row = finished(&rig.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("cancelled"), "begun\nbye\n"));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    has_words(&rig.said(&row), &["SIGTERM"]);
    rig.stop();
}

#[test]
fn a_cancel_is_reported_also_while_the_host_is_away() {
    let _machine = shared();
    let settings = [("ssh.execution.reconnectTimeout", "5s"), ("ssh.connectionPool.connectionTimeout", "1s")];
    let mut rig = Rig::start(&settings);
    let id = rig.begin(rig.job("BASH", "echo begun; sleep 60"));
    rig.sshd.stop();
    assert!(rig.backend.cancel(&id, Via::WebSocket));
    let row = finished(&rig.backend, &id);
    assert!(matches!(report(&row)["status"].as_str(), Some("cancelled" | "failed")), "{row:?}");
    has_words(&rig.said(&row), &["unknown|not known|may still run|could not be", HOST]);
    rig.sshd.end_user_processes();
    rig.sshd.start_again();
    rig.leave();
}

#[test]
fn a_cancel_that_meets_a_broken_connection_still_ends_the_script() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let mark = unique("mark");
    let id = rig.begin(rig.job("BASH", &deaf(&mark)));
    rig.sshd.kill_sessions();
    assert!(rig.backend.cancel(&id, Via::WebSocket));
    let row = finished(&rig.backend, &id);
    assert_eq!(marked(&rig, &mark), Vec::<String>::new(), "they live on after the report");
    assert_eq!(report(&row)["status"], "cancelled");
    rig.stop();
}

#[test]
fn the_first_signal_drains_a_job_on_a_server() {
    let _machine = shared();
    let mut rig = Rig::start(&[]);
    let id = rig.begin(rig.job("BASH", "echo begun; sleep 2; echo ended"));
    rig.agent.signal("TERM");
    let row = finished(&rig.backend, &id);
    assert_eq!((stdout(&row), row.exit_code), ("begun\nended\n", Some(0)));
    assert_eq!(rig.agent.wait(crate::harness::LONG).code(), Some(0));
    assert_eq!(rig.sshd.job_dirs().len(), 0);
    eventually("connections are closed", || rig.sshd.open_connections() == 0);
}

/// How long a job took that cannot succeed, from the claim to its report.
pub fn worker_was_held(row: &JobRow) -> Duration {
    let stamp = |stamp: &Option<cronium_dev_backend::Stamp>| stamp.as_ref().expect("a time").since_start;
    stamp(&row.finished) - stamp(&row.claimed)
}

pub const TWO_SECONDS: (&str, &str) = ("ssh.connectionPool.connectionTimeout", "2s");
/// How long a server is tried that refuses or closes connections.
pub const FOUR_SECONDS: (&str, &str) = ("jobs.setupTimeout", "4s");

#[test]
fn a_frozen_server_holds_a_worker_no_longer_than_allowed() {
    let _machine = shared();
    let rig = Rig::start(&[TWO_SECONDS]);
    rig.sshd.freeze();
    let row = rig.refused(rig.job("BASH", "echo ran"), &[HOST, "connectionTimeout|2 s"]);
    let held = worker_was_held(&row);
    assert!((Duration::from_millis(1500)..Duration::from_secs(5)).contains(&held), "{held:?}");
    rig.sshd.thaw();
    assert_eq!(stdout(&rig.bash("echo fine")), "fine\n");
    // The same with a connection in the pool that looks alive.
    rig.sshd.freeze();
    let row = rig.refused(rig.job("BASH", "echo ran"), &[HOST]);
    let held = worker_was_held(&row);
    assert!(held < Duration::from_secs(9), "{held:?}");
    rig.sshd.thaw();
    assert_eq!(stdout(&rig.bash("echo fine")), "fine\n");
    rig.stop();
}

#[test]
fn a_server_frozen_for_a_while_costs_a_running_job_nothing() {
    let _machine = shared();
    let rig = Rig::start(&[TWO_SECONDS, ("ssh.connectionPool.healthCheckInterval", "1s")]);
    let id = rig.begin(rig.job("BASH", &counting(200, 0.02)));
    lines(&rig, &id, 30);
    rig.sshd.freeze();
    std::thread::sleep(Duration::from_secs(6));
    rig.sshd.thaw();
    counted(&rig, &finished(&rig.backend, &id), 200);
    rig.stop();
}

/// What a host may do that is no SSH server.
fn serve(act: fn(std::net::TcpStream)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || act(stream));
        }
    });
    port
}

#[test]
fn hosts_that_say_nothing_or_nonsense_hold_no_worker() {
    let _machine = shared();
    let rig = Rig::start(&[TWO_SECONDS, FOUR_SECONDS]);
    let (_listener, silent) = silent_host();
    let banner_only = serve(|mut stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let drip = serve(|mut stream| {
        for byte in b"SSH-2.0-slow".iter().cycle() {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let flood = serve(|mut stream| while stream.write_all(&[b'x'; 65536]).is_ok() {});
    let web = serve(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let hang_up = serve(drop);
    for (what, port) in [
        ("silence", silent),
        ("a banner and silence", banner_only),
        ("a byte at a time", drip),
        ("a flood", flood),
        ("a web server", web),
        ("a hang-up", hang_up),
    ] {
        let mut job = rig.job("BASH", "echo ran");
        job["execution"]["target"]["serverDetails"]["port"] = json!(port);
        let row = rig.refused(job, &[HOST, &port.to_string()]);
        let held = worker_was_held(&row);
        eprintln!("{what}: {held:.1?}: {}", rig.said(&row).lines().next().unwrap_or_default());
        assert!(held < Duration::from_secs(5), "{what}: {held:?}");
    }
    assert!(rig.agent.memory_kb("VmHWM") < 40 * 1024, "a flood is not to be kept");
    assert_eq!(stdout(&rig.bash("echo fine")), "fine\n");
    rig.stop();
}

#[test]
fn a_refused_connection_and_a_name_that_nobody_knows_are_told() {
    let _machine = shared();
    let rig = Rig::start(&[TWO_SECONDS, FOUR_SECONDS]);
    let with = |field: &str, value: Value| {
        let mut job = rig.job("BASH", "echo ran");
        job["execution"]["target"]["serverDetails"][field] = value;
        job
    };
    let port = free_port();
    rig.refused(with("port", json!(port)), &["refused", &port.to_string(), "127.0.0.1"]);
    rig.refused(with("host", json!("no-such-host.invalid")), &["no-such-host.invalid", "resolve|unknown|name"]);
    // A job that nobody could run is refused for what it is.
    rig.refused(with("host", json!("")), &["host"]);
    rig.refused(with("port", json!(70_000)), &["port"]);
    rig.refused(with("username", Value::Null), &["username"]);
    rig.stop();
}

#[test]
fn an_address_that_drops_packets_holds_no_worker() {
    let _machine = shared();
    let rig = Rig::with(Sshd::start_in_netns(), &[TWO_SECONDS]);
    rig.sshd.network.as_ref().expect("a network").cut();
    let row = rig.refused(rig.job("BASH", "echo ran"), &["10.213."]);
    let held = worker_was_held(&row);
    assert!(held < Duration::from_secs(5), "{held:?}");
    rig.sshd.network.as_ref().expect("a network").restore();
    assert_eq!(stdout(&rig.bash("echo fine")), "fine\n");
    rig.stop();
}

#[test]
fn a_dead_connection_in_the_pool_costs_a_job_nothing_but_time() {
    let _machine = shared();
    let mut rig = Rig::start(&[]);
    assert_eq!(stdout(&rig.bash("echo one")), "one\n");
    assert!(rig.sshd.kill_sessions() > 0, "the connection was not kept");
    assert_eq!(stdout(&rig.bash("echo two")), "two\n");
    rig.sshd.stop();
    rig.sshd.start_again();
    let row = rig.bash("echo three");
    assert_eq!((stdout(&row), row.claims), ("three\n", 1));
    rig.stop();
}

#[test]
fn a_temporary_directory_that_is_not_the_users_is_told() {
    let _machine = shared();
    let sshd = Sshd::with_config(&[]);
    let place = sshd.path("closed");
    std::fs::create_dir(&place).expect("folder");
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o700)).expect("mode");
    let inside = place.join("jobs");
    let rig = Rig::with(sshd, &[("ssh.execution.tempDir", inside.to_str().expect("text"))]);
    rig.refused(rig.job("BASH", "echo ran"), &["permission denied", inside.to_str().expect("text"), HOST]);
    rig.stop();
}

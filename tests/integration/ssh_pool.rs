//! The connections to a server that jobs share.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cronium_dev_backend::Via;

use crate::harness::{alone, eventually, finished, report, shared, stdout};
use crate::ssh_rig::{Rig, first_line_after};
use crate::sshd::Sshd;

#[test]
fn the_second_job_makes_no_handshake_and_starts_at_once() {
    let _machine = alone();
    let rig = Rig::start(&[]);
    let row = rig.bash("echo cold");
    eprintln!("on a server, from the job in hand to its first line: cold {:?}", first_line_after(&rig.backend, &row));
    assert_eq!((stdout(&row), rig.sshd.logins()), ("cold\n", 1));
    let mut times: Vec<Duration> = (0..10)
        .map(|_| {
            let row = rig.bash("echo warm");
            assert_eq!(stdout(&row), "warm\n");
            first_line_after(&rig.backend, &row)
        })
        .collect();
    times.sort();
    eprintln!("on a server, from the job in hand to its first line: warm {:?} (median of 10)", times[5]);
    assert!(times[5] < Duration::from_millis(300), "{times:?}");
    assert_eq!((rig.sshd.accepted(), rig.sshd.logins()), (1, 1), "{}", rig.sshd.log());
    rig.stop();
}

/// Runs so many jobs side by side; the most connections that were open at once.
fn side_by_side(rig: &Rig, count: usize, script: &str) -> usize {
    let ids: Vec<String> = (0..count).map(|_| rig.queue(rig.job("BASH", script))).collect();
    let mut most = 0;
    eventually("all are reported", || {
        most = most.max(rig.sshd.open_connections());
        ids.iter().all(|id| rig.backend.job(id).is_some_and(|row| row.terminal_reports() > 0))
    });
    let outputs: BTreeSet<String> = ids
        .iter()
        .map(|id| {
            let row = finished(&rig.backend, id);
            assert_eq!(row.exit_code, Some(0), "{}", rig.said(&row));
            stdout(&row).to_owned()
        })
        .collect();
    assert_eq!(outputs.len(), count, "each job has its own output: {outputs:?}");
    most
}

#[test]
fn twelve_jobs_side_by_side_keep_within_the_connections_that_are_allowed() {
    let _machine = alone();
    let rig = Rig::start(&[
        ("jobs.maxConcurrent", "12"),
        ("jobs.pollBatchSize", "12"),
        ("ssh.connectionPool.maxPerServer", "3"),
    ]);
    let begun = Instant::now();
    let most = side_by_side(&rig, 12, "echo $CRONIUM_JOB_ID; sleep 3");
    let took = begun.elapsed();
    eprintln!("12 jobs of 3 s over at most {most} connections in {took:.1?}");
    assert!((1..=3).contains(&most), "{most} connections at once");
    assert!(rig.sshd.logins() <= 3, "{} logins", rig.sshd.logins());
    assert!(took < Duration::from_secs(15), "{took:?}: they ran one after the other");
    rig.stop();
}

#[test]
fn a_server_that_allows_one_session_a_connection_is_served() {
    let _machine = shared();
    let settings = [("jobs.maxConcurrent", "4"), ("ssh.connectionPool.maxPerServer", "2")];
    let rig = Rig::with(Sshd::with_config(&["MaxSessions 1"]), &settings);
    let most = side_by_side(&rig, 4, "echo $CRONIUM_JOB_ID; sleep 1");
    assert!((1..=2).contains(&most), "{most} connections at once");
    let id = rig.begin(rig.job("BASH", "echo begun; sleep 60"));
    assert!(rig.backend.cancel(&id, Via::WebSocket));
    assert_eq!(report(&finished(&rig.backend, &id))["status"], "cancelled");
    rig.stop();
}

#[test]
fn idle_connections_are_closed_after_their_time() {
    let _machine = shared();
    let rig = Rig::start(&[("ssh.connectionPool.idleTimeout", "2s")]);
    assert_eq!(stdout(&rig.bash("echo one")), "one\n");
    assert_eq!(rig.sshd.open_connections(), 1, "kept for the next job");
    assert!(rig.metric("cronium_ssh_connections") >= 1.0);
    let begun = Instant::now();
    eventually("it is closed", || rig.sshd.open_connections() == 0);
    let took = begun.elapsed();
    assert!((Duration::from_millis(1000)..Duration::from_secs(8)).contains(&took), "{took:?}");
    eventually("the metric knows", || rig.metric("cronium_ssh_connections") == 0.0);
    assert_eq!(stdout(&rig.bash("echo two")), "two\n");
    assert_eq!(rig.sshd.logins(), 2);
    rig.stop();
}

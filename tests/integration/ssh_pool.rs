//! The connections to a server that jobs share.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cronium_dev_backend::Via;
use serde_json::{Value, json};

use crate::harness::{alone, eventually, finished, report, shared, stdout};
use crate::ssh_rig::{HOST, Rig, first_line_after};
use crate::sshd::{Options, Sshd};

#[test]
fn the_second_job_makes_no_handshake_and_starts_at_once() {
    let _machine = alone();
    let rig = Rig::start(&[]);
    let row = rig.bash("echo cold");
    eprintln!("on a server, from the claim to the first line: cold {:?}", first_line_after(&rig.backend, &row));
    assert_eq!((stdout(&row), rig.sshd.logins()), ("cold\n", 1));
    let mut times: Vec<Duration> = (0..10)
        .map(|_| {
            let row = rig.bash("echo warm");
            assert_eq!(stdout(&row), "warm\n");
            first_line_after(&rig.backend, &row)
        })
        .collect();
    times.sort();
    eprintln!("on a server, from the claim to the first line: warm {:?} (median of 10)", times[5]);
    assert!(times[5] < Duration::from_millis(300), "{times:?}");
    assert_eq!((rig.sshd.accepted(), rig.sshd.logins()), (1, 1), "{}", rig.sshd.log());
    rig.stop();
}

/// Runs this many jobs side by side; returns the most connections that were open at once.
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

/// An agent with a worker for each of forty jobs, and a connection for each.
fn busy(sshd: Sshd, settings: &[(&str, &str)]) -> Rig {
    let mut all =
        vec![("jobs.maxConcurrent", "40"), ("jobs.pollBatchSize", "40"), ("ssh.connectionPool.maxPerServer", "40")];
    all.extend_from_slice(settings);
    Rig::with(sshd, &all)
}

/// This many jobs with a key each, so that no two can share a connection.
fn with_own_keys(rig: &Rig, count: usize) -> Vec<Value> {
    let one = |n: usize| {
        let mut job = rig.job("BASH", &format!("echo job {n}"));
        let key = rig.sshd.client_key(&["-t", "ed25519"], "");
        job["execution"]["target"]["serverDetails"]["privateKey"] = json!(key.text);
        job
    };
    (0..count).map(one).collect()
}

/// Queues all at once; each must succeed, and the breaker must not have opened.
fn all_run(rig: &Rig, jobs: Vec<Value>) {
    let begun = Instant::now();
    let count = jobs.len();
    let ids: Vec<String> = jobs.into_iter().map(|job| rig.queue(job)).collect();
    let failed: Vec<String> = ids
        .iter()
        .map(|id| finished(&rig.backend, id))
        .filter(|row| row.exit_code != Some(0))
        .map(|row| rig.said(&row).lines().take(3).collect::<Vec<_>>().join(" "))
        .collect();
    let turned_away = rig.sshd.log().lines().filter(|line| line.contains("past MaxStartups")).count();
    eprintln!("{count} jobs at once in {:.1?}, {turned_away} turns away noted", begun.elapsed());
    assert!(failed.is_empty(), "{} of {count} failed, one of them: {}", failed.len(), failed[0]);
    assert!(!rig.agent.log().contains("circuit breaker"), "a breaker has opened");
    assert_eq!(rig.metric("cronium_ssh_breaker_state"), 0.0);
}

#[test]
fn forty_jobs_at_once_run_on_a_server_with_openssh_s_own_limits() {
    let _machine = alone();
    let rig = busy(Sshd::start(&Options::default()), &[]);
    let same = (0..40).map(|n| rig.job("BASH", &format!("echo job {n}"))).collect();
    all_run(&rig, same);
    let own = with_own_keys(&rig, 40);
    all_run(&rig, own);
    rig.stop();
}

#[test]
fn forty_logins_at_once_come_through_where_two_may_log_in_at_a_time() {
    let _machine = alone();
    // Each connection beyond two that has not logged in yet is turned away.
    let rig = busy(Sshd::with_config(&["MaxStartups 2:100:3"]), &[]);
    let own = with_own_keys(&rig, 40);
    all_run(&rig, own);
    // What was learned stays: the same again costs few turns away.
    let before = rig.sshd.accepted();
    assert!(before < 120, "{before} connections for 40 logins");
    rig.stop();
}

#[test]
fn jobs_at_once_outlast_a_restart_of_their_server() {
    let _machine = shared();
    let mut rig = busy(Sshd::start(&Options::default()), &[]);
    rig.sshd.stop();
    let jobs = with_own_keys(&rig, 20);
    let ids: Vec<String> = jobs.into_iter().map(|job| rig.queue(job)).collect();
    eventually("all are claimed", || ids.iter().all(|id| rig.backend.job(id).is_some_and(|row| row.claimed.is_some())));
    std::thread::sleep(Duration::from_secs(1));
    rig.sshd.start_again();
    for id in &ids {
        let row = finished(&rig.backend, id);
        assert_eq!((row.exit_code, row.claims), (Some(0), 1), "{}", rig.said(&row));
    }
    assert!(!rig.agent.log().contains("circuit breaker"), "one burst of failures counted as many");
    rig.stop();
}

#[test]
fn a_server_that_lets_nobody_in_is_told_with_the_tries_and_what_to_look_at() {
    let _machine = shared();
    let settings = [("jobs.setupTimeout", "4s"), ("ssh.circuitBreaker.failureThreshold", "100")];
    let rig = Rig::with(Sshd::with_config(&["MaxStartups 1:100:1"]), &settings);
    // Somebody holds the only place of those who have not logged in.
    let held = std::net::TcpStream::connect((rig.sshd.host.as_str(), rig.sshd.port)).expect("connect");
    eventually("it holds the place", || rig.sshd.accepted() == 1);
    let begun = Instant::now();
    let words = ["tries in", "jobs.setupTimeout", "Exceeded MaxStartups", "PerSourcePenalties", HOST];
    rig.refused(rig.job("BASH", "echo ran"), &words);
    let took = begun.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(8)).contains(&took), "{took:?}");
    // The place comes free while a job waits.
    let id = rig.queue(rig.job("BASH", "echo ran"));
    std::thread::sleep(Duration::from_millis(1500));
    drop(held);
    assert_eq!(stdout(&finished(&rig.backend, &id)), "ran\n");
    rig.stop();
}

#[test]
fn what_another_try_cannot_cure_fails_at_once() {
    let _machine = shared();
    let rig = Rig::with(Sshd::start(&Options { forgiving: true, ..Options::default() }), &[]);
    let stranger = crate::sshd::make_key(&rig.sshd.path(""), "stranger", &["-t", "ed25519"], "");
    let mut job = rig.job("BASH", "echo ran");
    job["execution"]["target"]["serverDetails"]["privateKey"] = json!(stranger.text);
    let begun = Instant::now();
    rig.refused(job, &["cannot log in", HOST]);
    std::fs::write(&rig.known_hosts, "").expect("write");
    rig.refused(rig.job("BASH", "echo ran"), &["does not know", HOST]);
    assert_eq!(rig.sshd.accepted(), 2, "it was tried again: {}", rig.sshd.log());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    rig.stop();
}

#[test]
fn jobs_that_come_while_a_breaker_tries_share_its_outcome() {
    let _machine = shared();
    let settings = [
        ("ssh.circuitBreaker.failureThreshold", "1"),
        ("ssh.circuitBreaker.successThreshold", "1"),
        ("ssh.circuitBreaker.halfOpenRequests", "1"),
        ("ssh.circuitBreaker.timeout", "2s"),
    ];
    let mut rig = busy(Sshd::start(&Options::default()), &settings);
    let jobs = with_own_keys(&rig, 6);
    rig.sshd.stop();
    let first = rig.queue(jobs[0].clone());
    eventually("the breaker opens", || rig.agent.log().contains("circuit breaker of 127.0.0.1:"));
    // The trial hangs until the server is thawed.
    rig.sshd.start_again();
    rig.sshd.freeze();
    eventually("the trial is under way", || rig.agent.log().contains("lets a trial through"));
    let ids: Vec<String> = jobs[1..].iter().map(|job| rig.queue(job.clone())).collect();
    eventually("all are claimed", || ids.iter().all(|id| rig.backend.job(id).is_some_and(|row| row.claimed.is_some())));
    std::thread::sleep(Duration::from_secs(1));
    rig.sshd.thaw();
    for id in std::iter::once(&first).chain(&ids) {
        let row = finished(&rig.backend, id);
        assert_eq!((row.exit_code, row.claims), (Some(0), 1), "{}", rig.said(&row));
    }
    rig.stop();
}

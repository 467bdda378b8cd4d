//! The circuit breaker of a server: when it opens, whom it stops, and how it closes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{eventually, finish, finished, free_port, report, shared, stdout};
use crate::outbox::on_own_clock;
use crate::ssh_faults::{FOUR_SECONDS, TWO_SECONDS, worker_was_held};
use crate::ssh_rig::{HOST, Rig};
use crate::sshd::{Options, Sshd, list};

/// The breaker's figure for the one server of the rig.
const STATE: &str = "cronium_ssh_breaker_state";

#[test]
fn a_breaker_opens_fails_at_once_and_closes_again() {
    let _machine = shared();
    let settings = [
        TWO_SECONDS,
        ("ssh.circuitBreaker.failureThreshold", "3"),
        ("ssh.circuitBreaker.successThreshold", "2"),
        ("ssh.circuitBreaker.timeout", "5s"),
    ];
    let mut rig = Rig::start(&settings);
    // A script's own failures are no failures of the server.
    for _ in 0..4 {
        assert_eq!(rig.bash("exit 1").exit_code, Some(1));
    }
    assert_eq!(stdout(&rig.bash("echo fine")), "fine\n");
    let closed = rig.metric(STATE);
    // A folder that is still to go would bring a connection that asks no breaker.
    eventually("no folder is left", || list(&rig.sshd.temp_dir()).is_empty());

    rig.sshd.stop();
    let waiting = rig.queue(rig.job("BASH", "echo waited"));
    eventually("it opens", || rig.metric(STATE) == 2.0);
    let log = rig.agent.log();
    let line = log.lines().find(|line| line.contains("opens: 3 failures in a row")).expect("why it opens");
    let line: Value = serde_json::from_str(line).expect("JSON");
    let opened = on_own_clock(line["timestamp"].as_str().expect("a time"));
    rig.sshd.start_again();
    let before = rig.sshd.accepted();
    let row = rig.refused(rig.job("BASH", "echo ran"), &["breaker", "open", HOST]);
    assert!(opened.elapsed() < Duration::from_secs(4), "the test was too slow to see anything: {:?}", opened.elapsed());
    assert!(worker_was_held(&row) < Duration::from_secs(1), "{:?}", worker_was_held(&row));
    assert_eq!(rig.sshd.accepted(), before, "the server was asked all the same");
    assert_ne!(rig.metric(STATE), closed);
    assert!(rig.agent.get("/health").1.contains("breaker"), "{}", rig.agent.get("/health").1);

    // A job that had tried before waits for the trial.
    let row = finished(&rig.backend, &waiting);
    assert_eq!((stdout(&row), row.claims), ("waited\n", 1), "half-open: {}", rig.said(&row));
    assert!(opened.elapsed() >= Duration::from_secs(4), "it did not wait: {:?}", opened.elapsed());
    assert_eq!(stdout(&rig.bash("echo two")), "two\n", "half-open, or closed");
    assert_eq!(rig.metric(STATE), closed);
    rig.stop();
}

#[test]
fn a_job_that_waits_for_a_breakers_trial_fails_with_it() {
    let _machine = shared();
    let settings = [
        ("ssh.circuitBreaker.failureThreshold", "2"),
        ("ssh.circuitBreaker.timeout", "3s"),
        ("ssh.circuitBreaker.halfOpenRequests", "1"),
    ];
    let mut rig = Rig::start(&settings);
    rig.sshd.stop();
    let row = rig.refused(rig.job("BASH", "echo ran"), &["tries in", "Connection refused", "circuit breaker", HOST]);
    let held = worker_was_held(&row);
    assert!((Duration::from_secs(3)..Duration::from_secs(10)).contains(&held), "{held:?}");
    // Those who come now hold no worker.
    let row = rig.refused(rig.job("BASH", "echo ran"), &["circuit breaker", "is open"]);
    assert!(worker_was_held(&row) < Duration::from_secs(1), "{:?}", worker_was_held(&row));
    rig.sshd.start_again();
    rig.leave();
}

#[test]
fn a_breaker_that_is_switched_off_or_of_another_server_stops_nothing() {
    let _machine = shared();
    let one = ("ssh.circuitBreaker.failureThreshold", "1");
    let mut rig = Rig::start(&[("ssh.circuitBreaker.enabled", "false"), one, FOUR_SECONDS]);
    rig.sshd.stop();
    for _ in 0..2 {
        rig.refused(rig.job("BASH", "echo ran"), &["refused"]);
    }
    rig.sshd.start_again();
    assert_eq!(stdout(&rig.bash("echo fine")), "fine\n");
    rig.stop();
    let rig = Rig::start(&[one, FOUR_SECONDS]);
    let mut elsewhere = rig.job("BASH", "echo ran");
    elsewhere["execution"]["target"]["serverDetails"]["port"] = json!(free_port());
    rig.refused(elsewhere, &["refused"]);
    assert_eq!(stdout(&rig.bash("echo fine")), "fine\n");
    rig.stop();
}

#[test]
fn keys_that_are_not_let_in_open_no_breaker_for_those_that_are() {
    let _machine = shared();
    let sshd = Sshd::start(&Options { forgiving: true, ..Options::default() });
    let rig = Rig::with(sshd, &[("ssh.circuitBreaker.failureThreshold", "2")]);
    let stranger = crate::sshd::make_key(&rig.sshd.path(""), "stranger", &["-t", "ed25519"], "");
    for _ in 0..3 {
        let mut job = rig.job("BASH", "echo ran");
        job["execution"]["target"]["serverDetails"]["privateKey"] = json!(stranger.text);
        let row = finish(&rig.backend, job);
        assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), ""));
    }
    // The host is well: another job's wrong key is no reason to refuse this one.
    assert_eq!(stdout(&rig.bash("echo fine")), "fine\n");
    rig.stop();
}

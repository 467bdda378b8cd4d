//! How long the outbox waits, hangs and keeps.

use super::*;
use crate::os::pulse::Pulses;

#[test]
fn a_stop_is_prompt_and_a_kick_ends_a_pause() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    let takes = Arc::new(AtomicBool::new(false));
    let own = Arc::clone(&takes);
    let server = serve(&backend, move |_, _, _| if own.load(Ordering::SeqCst) { None } else { error(503) });
    let tried = || server.lines().iter().filter(|line| !line.ends_with("/orchestrator/health")).count();
    let long = Backoff { growth: Growth::Fixed, initial: Duration::from_secs(600), max: Duration::from_secs(600) };
    let running = Running::start(scratch.open(), &server, Terms { backoff: long, ..terms() });
    assert!(matches!(running.report(report("a")).expect("room"), Handed::Waiting));
    wait_for("a second try", || {
        running.outbox.kick();
        tried() >= 2
    });
    std::thread::sleep(Duration::from_millis(100));
    assert!(running.outbox.holds(&id("a")));
    takes.store(true, Ordering::SeqCst);
    wait_for("the outbox to be empty", || {
        running.outbox.kick();
        running.outbox.state().waiting == 0
    });
    let begun = Instant::now();
    drop(running);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn one_that_hangs_is_noticed_and_one_whose_backend_is_slow_and_away_is_not() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    let slow = Duration::from_millis(250);
    let server = serve(&backend, move |_, _, _| {
        std::thread::sleep(slow);
        error(503)
    });
    let (pulses, longest) = (Pulses::new(), slow * 2);
    let running = Running::watched(scratch.open(), &server, terms(), pulses.part("outbox", longest));
    let begun = Instant::now();
    while begun.elapsed() < longest * 2 {
        // What stands for its tick, which is longer than this test.
        running.outbox.kick();
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(pulses.healthy(Instant::now()), Ok(()), "nothing to do is no reason");
    }
    running.enter(report("a"), Tried::default()).expect("room");
    let begun = Instant::now();
    while server.lines().len() < 4 {
        assert_eq!(pulses.healthy(Instant::now()), Ok(()), "a slow call is no reason");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", server.lines());
        std::thread::sleep(Duration::from_millis(10));
    }
    // As in a write to a disk that does not come back, which happens under this lock or before it.
    let held = running.outbox.lock();
    std::thread::sleep(longest + slow + slow / 2);
    assert_eq!(pulses.healthy(Instant::now()).expect_err("it hangs").part, "outbox");
    drop(held);
    wait_for("it makes progress again", || pulses.healthy(Instant::now()).is_ok());
    drop(running);
    assert_eq!(pulses.healthy(Instant::now() + longest * 2), Ok(()), "what has ended is not stuck");
}

#[test]
fn a_shorter_retention_holds_for_what_waits_already() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    let server = serve(&backend, |_, _, _| error(503));
    let running = Running::start(scratch.open(), &server, terms());
    running.enter(entry("a", ended(now_ms() - 60_000, "")), Tried::default()).expect("room");
    wait_for("some tries", || server.lines().len() >= 3);
    assert!(running.outbox.holds(&id("a")) && running.outbox.state().retention == Duration::from_secs(3600));
    running.outbox.keep_for(Duration::from_secs(30));
    assert_eq!(running.outbox.state().retention, Duration::from_secs(30));
    wait_for("it to be given up", || running.outbox.state().set_aside == 1);
    let aside = running.outbox.0.records.quarantined().pop().expect("kept");
    assert!(aside.why.contains("not taken for 30s (jobs.reportRetention)"), "{}", aside.why);
}

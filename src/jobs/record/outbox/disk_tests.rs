//! A disk that takes nothing.

use super::*;

#[test]
fn what_the_disk_does_not_take_waits_in_memory_up_to_a_bound() {
    let (scratch, backend) = (Scratch::tmpfs("size=1m"), Backend::shared(&["a", "b"]));
    let down = Arc::new(AtomicBool::new(true));
    let away = Arc::clone(&down);
    let server = serve(&backend, move |_, _, _| if away.load(Ordering::SeqCst) { error(503) } else { None });
    let running = Running::start(scratch.open(), &server, terms());
    running.outbox.0.records.put(&entry("a", started())).expect("put");
    scratch.remount("ro");
    assert!(matches!(running.report(report("a")).expect("room"), Handed::Waiting));
    assert!(matches!(running.report(report("b")).expect("room"), Handed::Waiting));
    let big = entry("big", ended(1, &"x".repeat(limits::OUTBOX_MEMORY / 2)));
    let refused = running.enter(big.clone(), Tried::default()).expect_err("it is in there twice");
    assert_eq!(*refused.entry, big);
    assert!(refused.to_string().contains("too many others wait in memory"), "{refused}");
    down.store(false, Ordering::SeqCst);
    running.outbox.kick();
    wait_for("a and b", || backend.lock().expect("lock").taken.len() == 2);
    running.wait_until_empty();
    assert_eq!(scratch.names("jobs"), ["a.job"], "the disk lets nothing go");
    scratch.remount("rw");
    running.outbox.0.records.probe();
    assert!(scratch.names("jobs").is_empty());
}

#[test]
fn what_is_in_memory_alone_gets_a_last_chance_at_the_end() {
    let (scratch, backend) = (Scratch::tmpfs("size=1m"), Backend::shared(&["c"]));
    let server = serve(&backend, |_, _, _| error(503));
    let long = Backoff { growth: Growth::Fixed, initial: Duration::from_secs(600), max: Duration::from_secs(600) };
    let mut running = Running::start(scratch.open(), &server, Terms { backoff: long, ..terms() });
    scratch.remount("ro");
    let waiting = report("c");
    assert!(matches!(running.report(waiting.clone()).expect("room"), Handed::Waiting));
    scratch.remount("rw");
    assert!(scratch.names("jobs").is_empty());
    running.outbox.stop();
    let end = running.thread.take().map(|thread| thread.join_within(Duration::from_secs(10)));
    assert_eq!(end, Some(threads::Ended::Returned));
    assert_eq!(running.outbox.0.records.read(&id("c")).expect("read"), Some(waiting));
    // Nobody would write down what comes later.
    scratch.remount("ro");
    let late = running.enter(report("late"), Tried::default()).expect_err("too late");
    assert!(late.why.contains("the agent ends"), "{late}");
    scratch.remount("rw");
}

//! What goes before a report: calls and live lines that were under way at the end of the script.

use super::*;
use crate::jobs::record::Stage;

#[test]
fn what_goes_before_a_report_is_waited_for_by_the_outbox_up_to_a_bound() {
    let names: Vec<String> =
        (0..=limits::OUTBOX_EARLIER + limits::OUTBOX_SENDERS).map(|n| format!("j{n:02}")).collect();
    let (scratch, backend) = (Scratch::new(), Backend::shared(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    let server = serve(&backend, none);
    let running = Running::start(scratch.open(), &server, terms());
    let (tell, told) = std::sync::mpsc::channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let hand = |job: &str| {
        let (tell, gate) = (tell.clone(), Arc::clone(&gate));
        let earlier = Box::new(move || {
            let _ = tell.send(std::thread::current().name().map(str::to_owned));
            let _ = gate.lock().expect("lock").recv_timeout(Duration::from_secs(20));
            None
        });
        running.outbox.hand_over(report(job), Tried::default(), Some(earlier), |_| ()).expect("room");
    };
    let (last, first) = names.split_last().expect("some");
    for job in first {
        hand(job);
    }
    wait_for("all threads to wait", || running.outbox.lock().queue.with_earlier() == limits::OUTBOX_EARLIER);
    assert!(server.lines().is_empty(), "nothing goes before it");
    // One more is waited for by the one who hands it over.
    let own = std::thread::current().name().map(str::to_owned);
    let thread = threads::spawn("t-go", move || {
        std::thread::sleep(Duration::from_millis(200));
        drop(go);
    });
    hand(last);
    running.wait_until_empty();
    drop(thread);
    let by: Vec<_> = told.try_iter().collect();
    assert_eq!((by.len(), by.iter().filter(|name| **name == own).count()), (names.len(), 1));
    assert_eq!(backend.lock().expect("lock").taken.len(), names.len());
}

#[test]
fn live_lines_that_did_not_arrive_after_the_report_was_written_are_in_the_record() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    let server = serve(&backend, none);
    let running = Running::start(scratch.open(), &server, terms());
    let mut entry = report("a");
    let Stage::Ended(ended) = &mut entry.stage else { panic!("it has ended") };
    let told = r#""output":"\"liveLinesDropped\":\"9\"","metadata":{"liveLinesDropped":"#;
    ended.report.update = Some(format!("{{{told}\"0\",\"x\":\"y\"}}}}"));
    running.outbox.hand_over(entry, Tried::default(), Some(Box::new(|| Some(12))), |_| ()).expect("room");
    running.wait_until_empty();
    assert_eq!(server.seen()[0].body, format!("{{{told}\"12\",\"x\":\"y\"}}}}"));
}

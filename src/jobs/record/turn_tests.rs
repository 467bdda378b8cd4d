//! One writer a job, of a disk that hangs too; whose page is forgotten; deadlines by clocks that were wrong.

use std::time::Duration;

use super::*;
use crate::os::ahead::Ahead;

#[test]
fn a_write_that_hangs_holds_up_others_of_its_job_within_a_bound() {
    let scratch = Scratch::new();
    let records = scratch.open().records;
    records.put(&entry("a", started())).expect("put");
    let turn = records.turn(&id("a")).expect("free");
    let waited = Ahead::run(|ahead| {
        let (other, (told, tell)) = (records.clone(), std::sync::mpsc::channel());
        let thread = threads::spawn("t-put", move || {
            drop(told.send(other.put(&entry("a", Stage::Intent)).map_err(|error| error.to_string())));
        });
        // Put forward until the writer has given up.
        let said = loop {
            match tell.recv_timeout(Duration::from_millis(20)) {
                Ok(said) => break said,
                Err(_) => ahead.put(Duration::from_secs(1)),
            }
        };
        thread.expect("a thread").join_within(Duration::from_secs(5));
        let words = said.expect_err("it hangs");
        assert!(words.contains("limits::RECORD_TURN") && words.contains("job a"), "{words}");
        ahead.by()
    });
    // The real clock goes too.
    assert!(waited >= limits::RECORD_TURN / 2 && waited <= limits::RECORD_TURN, "{waited:?}");
    assert!(records.trouble().is_some(), "nothing more is claimed");
    drop(turn);
    records.put(&entry("a", Stage::Intent)).expect("put");
    assert_eq!(records.trouble(), None);
}

#[test]
fn only_the_execution_that_ended_is_forgotten() {
    let scratch = Scratch::new();
    let records = scratch.open().records;
    let old = entry("a", ended(1, "out"));
    records.put(&Entry { execution: id("exec-a-2"), ..old.clone() }).expect("put");
    records.forget_execution(&old.job, &old.execution);
    assert!(records.has(&old.job), "a later attempt");
    records.forget_execution(&old.job, &id("exec-a-2"));
    assert!(!records.has(&old.job));
}

#[test]
fn a_deadline_is_never_further_away_than_the_whole_limit() {
    let Stage::Started(one) = started() else { panic!("started") };
    let (limit, now) = (one.timeout_ms, 1_000_000);
    let at = |deadline_ms| Started { deadline_ms, ..one.clone() };
    for (deadline, left, after) in [
        (now + limit, limit, now + limit),
        (now + 1, 1, now + 1),
        (now, 0, now),
        (0, 0, 0),
        (now + limit + 1, limit, now + limit),
        (u64::MAX, limit, now + limit),
    ] {
        assert_eq!(at(deadline).left(now), Duration::from_millis(left), "{deadline}");
        let Place::Servers(mut pages) = servers() else { panic!("servers") };
        pages.truncate(1);
        pages[0].part = Part::Started(at(deadline));
        let mut several = Entry { place: Place::Servers(pages), ..entry("a", Stage::Started(at(deadline))) };
        assert_eq!(several.clamp_deadlines(now), deadline > after, "{deadline}");
        let Place::Servers(pages) = &several.place else { panic!("servers") };
        let Part::Started(part) = &pages[0].part else { panic!("started") };
        let Stage::Started(whole) = &several.stage else { panic!("started") };
        assert_eq!((part.deadline_ms, whole.deadline_ms), (after, after));
        assert!(!several.clamp_deadlines(now), "once");
    }
}

//! Updates of records: before the report, and for as long as the backend has an outage.

use std::sync::atomic::AtomicU32;

use super::*;
use crate::jobs::record::Stage;
use crate::jobs::record::entry::Owed;

#[test]
fn while_the_database_is_away_a_report_waits_for_its_record_however_often_that_is_tried() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    // Longer than the tries that a record has which is refused alone.
    let server = serve(&backend, |_, n, _| if n < 40 { error(500) } else { None });
    let running = Running::start(scratch.open(), &server, terms());
    assert!(matches!(running.report(report("a")).expect("room"), Handed::Waiting));
    running.wait_until_empty();
    let lines = server.lines();
    assert!(lines.iter().filter(|line| line.ends_with("/update")).count() > 10, "{lines:?}");
    let backend = backend.lock().expect("lock");
    assert_eq!((&backend.updated["exec-a"], &backend.taken["a"]), (&1, &1), "{lines:?}");
}

#[test]
fn a_report_that_fails_too_offers_its_record_again() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    // Its database answers questions and writes nothing until the third report, as with a full disk.
    let reports = AtomicU32::new(0);
    let server = serve(&backend, move |seen, _, _| match seen.line.starts_with("GET") {
        true => None,
        false if is_complete(seen) && reports.fetch_add(1, Ordering::SeqCst) < 3 => error(500),
        false if reports.load(Ordering::SeqCst) < 3 => error(500),
        false => None,
    });
    let running = Running::start(scratch.open(), &server, terms());
    running.report(report("a")).expect("room");
    wait_for("the report to be taken", || running.outbox.state().waiting == 0);
    let backend = backend.lock().expect("lock");
    assert_eq!((backend.updated.get("exec-a"), &backend.taken["a"]), (Some(&1), &1), "{:?}", server.lines());
}

#[test]
fn what_is_owed_to_the_records_of_servers_goes_before_the_report_and_one_refused_holds_up_no_other() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    let server = serve(&backend, |seen, n, _| if n < 6 || job_of(seen) == "exec-2" { error(500) } else { None });
    let running = Running::start(scratch.open(), &server, terms());
    let mut entry = report("a");
    let Stage::Ended(ended) = &mut entry.stage else { panic!("it has ended") };
    ended.report.update = None;
    let owed = |n: u32| Owed { execution: id(&format!("exec-{n}")), update: r#"{"output":"x"}"#.into() };
    ended.report.owed = (1..=3).map(owed).collect();
    running.report(entry).expect("room");
    running.wait_until_empty();
    let lines = server.lines();
    let (backend, last) = (backend.lock().expect("lock"), lines.last().expect("a call"));
    let updated: Vec<&str> = backend.updated.keys().map(String::as_str).collect();
    assert_eq!((updated, &backend.taken["a"], last.ends_with("/complete")), (vec!["exec-1", "exec-3"], &1, true));
}

#[test]
fn a_record_that_is_not_taken_holds_its_report_up_for_some_tries_only() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    let server = serve(&backend, |seen, _, _| if seen.line.ends_with("/update") { error(500) } else { None });
    let running = Running::start(scratch.open(), &server, terms());
    assert!(matches!(running.report(report("a")).expect("room"), Handed::Waiting));
    running.wait_until_empty();
    assert_eq!(backend.lock().expect("lock").taken, BTreeMap::from([("a".to_owned(), 1)]));
    let updates = server.lines().iter().filter(|line| line.ends_with("/update")).count();
    assert_eq!(updates, limits::OUTBOX_UPDATE_TRIES as usize, "{:?}", server.lines());
}

#[test]
fn a_job_that_was_cancelled_while_its_report_waited_is_reported_all_the_same() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&[]));
    backend.lock().expect("lock").cancelled = vec!["a".to_owned(), "b".to_owned()];
    let server = serve(&backend, none);
    let records = scratch.open().records;
    let mut cancelled = report("b");
    let Stage::Ended(ended) = &mut cancelled.stage else { panic!("it has ended") };
    ended.report.status = "cancelled".to_owned();
    for entry in [report("a"), cancelled, report("c")] {
        records.put(&entry).expect("put");
    }
    drop(records);
    let running = Running::start(scratch.open(), &server, terms());
    running.wait_until_empty();
    // Of `b` nothing shows whether its own report has done it, and `c` has ended by one.
    assert_eq!(backend.lock().expect("lock").taken, BTreeMap::from([("a".to_owned(), 1)]), "{:?}", server.lines());
}

#[test]
fn a_record_that_was_never_made_is_made_before_it_is_completed() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    let made = AtomicBool::new(false);
    let server = serve(&backend, move |seen, _, _| match &seen.line {
        line if line.ends_with("/create") => {
            made.store(true, Ordering::SeqCst);
            Some(ok("{}"))
        }
        line if line.ends_with("/update") && !made.load(Ordering::SeqCst) => error(404),
        _ => None,
    });
    let running = Running::start(scratch.open(), &server, terms());
    let mut entry = report("a");
    entry.place = servers();
    let Place::Servers(pages) = &mut entry.place else { panic!("servers") };
    pages[2].execution = id("exec-a");
    assert_eq!(running.report(entry).expect("room"), Handed::Taken);
    let ends: Vec<String> =
        server.lines().iter().filter_map(|line| Some(line.rsplit_once('/')?.1.to_owned())).collect();
    assert_eq!(ends, ["update", "create", "update", "complete"]);
    let all = server.seen();
    let created = all.iter().find(|seen| seen.line.ends_with("/create")).expect("a creation");
    let body: serde_json::Value = serde_json::from_str(&created.body).expect("JSON");
    assert_eq!((&body["serverId"], &body["serverName"]), (&3.into(), &"web 3".into()));
}

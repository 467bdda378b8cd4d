//! A worker holds an engine's slot, not a backend's: slow calls and outages of the backend.

use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime};

use cronium_dev_backend::{Action, DevBackend, Fault, JobRow, Settings};

use crate::harness::{Agent, backend_as, deployed, eventually, finished, job, report, shared, stdout};

/// What each call takes that the deployed backend answers late without its socket server.
const CALL: Duration = Duration::from_secs(3);

/// A moment of the report's, `startTime` or `endTime`, on the clock of this process.
fn moment(row: &JobRow, name: &str) -> Instant {
    on_own_clock(report(row)["metrics"][name].as_str().expect("a time"))
}

/// A moment of the last day, as RFC 3339 in UTC, on the clock of this process.
pub fn on_own_clock(text: &str) -> Instant {
    let clock = text.split(['T', 'Z']).nth(1).expect("a time of day");
    let of_day = clock.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().expect("a number"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64() % 86_400.0;
    Instant::now() - Duration::from_secs_f64((now - of_day).rem_euclid(86_400.0))
}

/// When requests with `part` in their target arrived.
fn arrivals(backend: &DevBackend, part: &str) -> Vec<Instant> {
    backend.requests().iter().filter(|request| request.target.contains(part)).map(|request| request.received).collect()
}

#[test]
fn a_worker_waits_for_no_slow_call_after_the_end_of_its_script() {
    let _machine = shared();
    let backend = backend_as(Settings { socket_server: false, ..Settings::default() });
    let slow = Action::Delay { millis: u64::try_from(CALL.as_millis()).expect("short") };
    backend.set_fault(Fault { path: Some("/acknowledge".into()), action: slow, ..Fault::default() });
    let agent = Agent::start(&backend, &[("jobs.maxConcurrent", "1")]);
    agent.wait_ready();
    let ids: Vec<String> = (0..3).map(|_| backend.enqueue(job("BASH", "echo hi")).expect("queued")).collect();
    let rows: Vec<JobRow> = ids.iter().map(|id| finished(&backend, id)).collect();
    let (polls, mut frees) = (arrivals(&backend, "/jobs/queue"), Vec::new());
    for row in &rows {
        assert_eq!((row.terminal_reports(), stdout(row)), (1, "hi\n"));
        let (began, ended) = (moment(row, "startTime"), moment(row, "endTime"));
        let claimed = polls.iter().filter(|at| **at < began).max().expect("its poll");
        assert!(began - *claimed < CALL + CALL / 2, "it starts after one call: {:?}", began - *claimed);
        let free = polls.iter().filter(|at| **at > ended).min().map(|poll| *poll - ended);
        frees.extend(free);
        let completes = arrivals(&backend, &format!("/jobs/{}/complete", row.id));
        let late = completes[0] - ended;
        assert!(completes.len() == 1 && late < CALL * 2 + CALL / 3, "reported two calls after its end: {late:?}");
        let order: Vec<&str> =
            row.reports.iter().map(|report| report.kind).filter(|kind| *kind != "acknowledge").collect();
        assert_eq!((order.first(), order.last()), (Some(&"execution-create"), Some(&"complete")), "{order:?}");
    }
    let _ = writeln!(std::io::stderr(), "the worker is free after {frees:?}");
    // Others use this machine: one of the three shows it.
    assert!(frees.iter().min().is_some_and(|free| *free <= Duration::from_millis(100)), "{frees:?}");
    assert!(frees.iter().all(|free| *free < CALL / 2), "{frees:?}");
    agent.stop();
}

#[test]
fn a_report_arrives_within_two_seconds_of_the_backends_return() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let ids: Vec<String> = (0..3).map(|_| backend.enqueue(job("BASH", "sleep 1")).expect("queued")).collect();
    eventually("the scripts to run", || {
        ids.iter().all(|id| backend.job(id).is_some_and(|row| row.status == "running"))
    });
    backend.refuse(Duration::from_secs(12));
    let back = Instant::now() + Duration::from_secs(12);
    let mut late = Vec::new();
    for id in &ids {
        let row = finished(&backend, id);
        assert_eq!(row.terminal_reports(), 1);
        let arrived = arrivals(&backend, &format!("/jobs/{id}/complete"));
        late.push(arrived.last().expect("a report").saturating_duration_since(back));
    }
    late.sort_unstable();
    let _ = writeln!(std::io::stderr(), "the reports come {late:?} after the return");
    assert!(late[0] < Duration::from_secs(2) && late[2] < Duration::from_secs(5), "{late:?}");
    agent.stop();
}

#[test]
fn an_agent_that_ends_waits_for_the_first_try_of_each_report_and_no_longer_than_its_bound() {
    let _machine = shared();
    let backend = backend_as(Settings { socket_server: false, ..Settings::default() });
    let mut agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let id = backend.enqueue(job("BASH", "sleep 4; echo hi")).expect("queued");
    eventually("the script to run", || backend.job(&id).is_some_and(|row| row.status == "running"));
    agent.signal("TERM");
    assert_eq!(agent.wait(Duration::from_secs(30)).code(), Some(0), "{}", agent.log());
    let row = backend.job(&id).expect("a row");
    assert_eq!((row.terminal_reports(), stdout(&row)), (1, "hi\n"), "reported before its end");
    // A backend that is gone keeps no agent from its end: the next one offers the report.
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let id = backend.enqueue(job("BASH", "sleep 2")).expect("queued");
    eventually("the script to run", || backend.job(&id).is_some_and(|row| row.status == "running"));
    backend.refuse(Duration::from_secs(10));
    let begun = Instant::now();
    agent.stop();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

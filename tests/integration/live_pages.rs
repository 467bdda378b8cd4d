//! What a viewer of the deployed pages sees while a job runs: lines by updates of its execution.

use std::io::Write as _;
use std::time::{Duration, Instant};

use cronium_dev_backend::{Action, Fault, JobRow, Via};
use serde_json::json;

use crate::harness::{Agent, deployed, eventually, finish, finished, job, record, report, shared, stdout};

#[test]
fn lines_reach_the_page_while_the_script_runs() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let script = "for n in 1 2 3 4 5 6 7 8; do echo line $n; sleep 1; done; echo no >&2; exit 3";
    let id = backend.enqueue(job("BASH", script)).expect("queued");
    let mut seen = 0;
    eventually("some lines on the page", || {
        let live = backend.shown(&id).expect("a page").live;
        let newest = live.back().map_or(0, |live| live.output.lines().count());
        assert!(newest >= seen, "the page never goes back");
        seen = newest;
        newest >= 5
    });
    assert!(backend.job(&id).is_some_and(|row| row.terminal_reports() == 0), "while it runs");
    let row = finished(&backend, &id);
    let page = backend.shown(&id).expect("a page");
    assert_eq!((page.status, stdout(&row).lines().count()), ("FAILURE", 8));
    assert!(page.error.contains("no\n") && page.error.contains("exit code 3"), "{page:?}");
    assert!(page.execution_ms.is_some_and(|ms| ms > 7000) && page.setup_ms.is_some(), "{page:?}");
    // At most one in two seconds, and the last comes with the end.
    assert!((3..=6).contains(&page.live.len()), "{} updates", page.live.len());
    // Nobody lacks these lines.
    assert_eq!(agent.metric("cronium_log_lines_dropped_total"), Some(0.0));
    assert_eq!(record(&backend, &row)["executionMetadata"]["liveLinesDropped"], "0");
    let health: serde_json::Value = serde_json::from_str(&agent.get("/health").1).expect("JSON");
    let way = &health["components"]["websocket"];
    assert_eq!(
        (way["status"].as_str(), way["details"]["way"].as_str()),
        (Some("healthy"), Some("updates")),
        "{health}"
    );
    agent.stop();
}

/// The cancels of this test: in the suite few, and more on request.
fn rounds() -> u64 {
    std::env::var("CRONIUM_TEST_CANCEL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// What the agent told of a job, without what it told at its end: `a` for each look at the row, `u` for each update.
fn calls(row: &JobRow) -> String {
    let letter = |kind: &str| match kind {
        "acknowledge" => "a",
        "execution-update" => "u",
        "complete" => "c",
        _ => "",
    };
    row.reports.iter().map(|report| letter(report.kind)).collect()
}

/// An update sets the job to `running`. It must not undo a cancel, nor open a job again that was reported. An update that was
/// under way as the cancel came may: docs/guarantees.md names that moment.
#[test]
fn chatty_jobs_that_are_cancelled_at_any_moment_end_cancelled() {
    let _machine = shared();
    let backend = deployed();
    let settings = [("jobs.stopGrace", "1s"), ("jobs.pollInterval", "100ms"), ("jobs.maxConcurrent", "10")];
    let agent = Agent::start(&backend, &settings);
    agent.wait_ready();
    let mut undone = 0;
    for round in 0..rounds() {
        let chatty = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done";
        let ids: Vec<String> = (0..10).map(|_| backend.enqueue(job("BASH", chatty)).expect("queued")).collect();
        eventually("all run", || ids.iter().all(|id| backend.job(id).is_some_and(|row| row.status == "running")));
        let mut told = Vec::new();
        for (n, id) in (0..).zip(&ids) {
            std::thread::sleep(Duration::from_millis((130 * round + 70 * n) % 450));
            assert!(backend.cancel(id, Via::Row));
            told.push(calls(&backend.job(id).expect("row")).len());
        }
        for (id, told) in ids.iter().zip(told) {
            let until = Instant::now() + Duration::from_secs(9);
            while backend.job(id).is_some_and(|row| row.terminal_reports() == 0) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(50));
            }
            if backend.job(id).is_some_and(|row| row.status == "running") {
                undone += 1;
                // The agent could not know: the first call after the cancel is an update, whose look came before it.
                let after = calls(&backend.job(id).expect("row")).split_off(told);
                assert!(after.starts_with('u'), "job {id}: {after}");
                backend.cancel(id, Via::Row);
            }
            let row = finished(&backend, id);
            assert_eq!((&report(&row)["status"], row.terminal_reports()), (&json!("cancelled"), 1));
        }
        std::thread::sleep(Duration::from_millis(300));
        assert!(ids.iter().all(|id| backend.job(id).is_some_and(|row| row.status == "cancelled")), "opened again");
    }
    let all = rounds() * 10;
    let _ = writeln!(std::io::stderr(), "{undone} of {all} cancels fell into an update");
    assert!(undone <= 1 + all / 20, "{undone} of {all} cancels were undone");
    agent.stop();
}

/// An update that a killed agent had under way, and that the backend sees to late, comes before the next agent's report.
#[test]
fn a_late_update_of_a_killed_agent_opens_no_job_again() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let late = Fault {
        path: Some("/update".into()),
        count: Some(1),
        action: Action::Delay { millis: 7000 },
        ..Fault::default()
    };
    backend.set_fault(late);
    let begun = Instant::now();
    let id = backend.enqueue(job("BASH", "for n in 1 2 3 4 5; do echo $n; sleep 1; done; exit 3")).expect("queued");
    eventually("an update is under way", || backend.faults()[0].seen > 0);
    let sent = Instant::now();
    let agent = agent.again(&backend, &[]);
    let row = finished(&backend, &id);
    assert!(sent.elapsed() > Duration::from_secs(7), "it came before the update, after {:?}", sent.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!((report(&row)["exitCode"].as_i64(), row.terminal_reports()), (Some(3), 1));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(backend.job(&id).expect("row").status, "failed", "nothing came after the report");
    agent.stop();
}

/// The socket server is away: each update takes three seconds more, and no job waits for one.
#[test]
fn a_slow_backend_gets_fewer_updates_and_holds_up_no_script() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    finish(&backend, job("BASH", "true"));
    backend.set_settings(cronium_dev_backend::Settings { socket_server: false, ..backend.settings() });
    let id =
        backend.enqueue(job("BASH", "for n in $(seq 60); do echo $n; sleep 0.1; done; date +%s%N")).expect("queued");
    let row = finished(&backend, &id);
    let updates = row.reports.iter().filter(|report| report.kind == "execution-update").count();
    assert!(updates <= 3, "{updates}");
    let took = row.executions.len();
    assert_eq!((row.exit_code, took), (Some(0), 1));
    let ran = report(&row)["metrics"]["duration"].as_u64().expect("ms");
    assert!((6000..8500).contains(&ran), "{ran} ms");
    agent.stop();
}

//! What a viewer of the deployed pages sees while a job runs: lines by updates of its execution.

use std::time::{Duration, Instant};

use cronium_dev_backend::Via;

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

/// An update sets the job to `running`. It must not undo a cancel, nor open a job again that was reported.
#[test]
fn chatty_jobs_that_are_cancelled_at_any_moment_end_cancelled() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("jobs.stopGrace", "1s"), ("jobs.pollInterval", "100ms")]);
    agent.wait_ready();
    let mut undone = 0;
    for round in 0..4_u64 {
        let chatty = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done";
        let ids: Vec<String> = (0..5).map(|_| backend.enqueue(job("BASH", chatty)).expect("queued")).collect();
        eventually("all run", || ids.iter().all(|id| backend.job(id).is_some_and(|row| row.status == "running")));
        for (n, id) in ids.iter().enumerate() {
            std::thread::sleep(Duration::from_millis(130 * round + 70 * n as u64));
            assert!(backend.cancel(id, Via::Row));
        }
        let until = Instant::now() + Duration::from_secs(30);
        for id in &ids {
            while backend.job(id).is_some_and(|row| row.terminal_reports() == 0) {
                assert!(Instant::now() < until, "job {id} goes on: {:?}", backend.job(id).map(|row| row.status));
                std::thread::sleep(Duration::from_millis(200));
                if until - Instant::now() < Duration::from_secs(15)
                    && backend.job(id).is_some_and(|row| row.status == "running")
                {
                    // The few milliseconds between look and update, which docs/guarantees.md names.
                    undone += 1;
                    backend.cancel(id, Via::Row);
                }
            }
            let row = finished(&backend, id);
            assert_eq!(report(&row)["status"], "cancelled");
            std::thread::sleep(Duration::from_millis(50));
            assert_ne!(backend.job(id).expect("the job").status, "running", "nothing came after its report");
        }
    }
    assert!(undone <= 1, "{undone} of 20 cancels were undone");
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

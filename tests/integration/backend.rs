//! Claiming and reporting against a backend that refuses, delays, cuts, lies, or does what it should.

use std::time::{Duration, Instant};

use cronium_dev_backend::{Action, DevBackend, Fault, Request, Settings, Via};
use serde_json::{Value, json};

use crate::harness::{Agent, deployed, eventually, finish, finished, job, report, shared, stderr, stdout, with_socket};

fn fault(path: &str, count: u64, action: Action) -> Fault {
    Fault { path: Some(path.to_owned()), count: Some(count), action, ..Fault::default() }
}

fn status(status: u16) -> Action {
    Action::Status { status, headers: Default::default(), body: None }
}

fn body(text: impl Into<String>) -> Action {
    Action::Body { body: text.into(), content_type: None }
}

/// The requests whose target holds `part`.
fn requests(backend: &DevBackend, part: &str) -> Vec<Request> {
    backend.requests().into_iter().filter(|request| request.target.contains(part)).collect()
}

fn batch_size(request: &Request) -> usize {
    let (_, rest) = request.target.split_once("batchSize=").expect("batchSize");
    rest.split('&').next().expect("a value").parse().expect("a number")
}

#[test]
fn it_asks_for_as_many_jobs_as_workers_are_free() {
    let _machine = shared();
    let backend = deployed();
    let ids: Vec<_> = (0..6).map(|_| backend.enqueue(job("BASH", "sleep 0.4")).expect("queued")).collect();
    let agent = Agent::start(&backend, &[("jobs.maxConcurrent", "2")]);
    let rows: Vec<_> = ids.iter().map(|id| finished(&backend, id)).collect();
    assert!(rows.iter().all(|row| row.claims == 1));
    // A worker takes the next job before the report of the last one has arrived, but not before its end.
    let time = |row, name: &str| report(row)["metrics"][name].as_str().expect("a time").to_owned();
    let spans: Vec<_> = rows.iter().map(|row| (time(row, "startTime"), time(row, "endTime"))).collect();
    let at_once = |at: &String| spans.iter().filter(|(begin, end)| begin <= at && at < end).count();
    assert_eq!(spans.iter().map(|(begin, _)| at_once(begin)).max(), Some(2), "running jobs at once: {spans:?}");
    let sizes: Vec<usize> = requests(&backend, "/jobs/queue").iter().map(batch_size).collect();
    assert!(sizes.iter().all(|size| (1..=2).contains(size)), "{sizes:?}");
    assert_eq!(sizes[0], 2);
    agent.stop();
}

#[test]
fn an_idle_agent_polls_more_slowly_and_a_claim_resets_it() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("jobs.pollInterval", "100ms"), ("jobs.maxPollInterval", "1s")]);
    eventually("some polls", || requests(&backend, "/jobs/queue").len() >= 9);
    let gaps = |list: &[Request]| -> Vec<Duration> {
        list.windows(2).map(|pair| pair[1].received - pair[0].received).collect()
    };
    let idle = gaps(&requests(&backend, "/jobs/queue"));
    assert!(idle[0] < Duration::from_millis(350), "{idle:?}");
    assert!(*idle.last().expect("gaps") > Duration::from_millis(600), "it did not slow down: {idle:?}");
    assert!(idle.iter().all(|gap| *gap < Duration::from_millis(1500)), "{idle:?}");
    finish(&backend, job("BASH", "true"));
    let claimed = requests(&backend, "/jobs/queue").len();
    eventually("polls after the claim", || requests(&backend, "/jobs/queue").len() >= claimed + 2);
    let after = gaps(&requests(&backend, "/jobs/queue")[claimed - 1..]);
    assert!(after[0] < Duration::from_millis(600), "a claim did not reset the pace: {after:?}");
    agent.stop();
}

#[test]
fn the_backends_wish_for_the_next_poll_is_kept() {
    let _machine = shared();
    let backend = deployed();
    let mut settings = backend.settings();
    settings.next_poll_after_ms = Some(800);
    backend.set_settings(settings);
    let agent = Agent::start(&backend, &[("jobs.pollInterval", "50ms"), ("jobs.maxPollInterval", "2s")]);
    eventually("three polls", || requests(&backend, "/jobs/queue").len() >= 3);
    let list = requests(&backend, "/jobs/queue");
    for pair in list.windows(2) {
        assert!(pair[1].received - pair[0].received > Duration::from_millis(700), "polled too early");
    }
    agent.stop();
}

#[test]
fn a_freed_worker_polls_at_once_after_a_full_batch() {
    let _machine = shared();
    let backend = deployed();
    for _ in 0..3 {
        backend.enqueue(job("BASH", "true")).expect("queued");
    }
    let slow = [("jobs.maxConcurrent", "1"), ("jobs.pollInterval", "20s"), ("jobs.maxPollInterval", "20s")];
    let begun = Instant::now();
    let agent = Agent::start(&backend, &slow);
    assert!(backend.wait_for(Duration::from_secs(15), |b| b.jobs().iter().all(|row| row.terminal_reports() > 0)));
    assert!(begun.elapsed() < Duration::from_secs(15), "it waited for the interval");
    agent.stop();
}

#[test]
fn a_refused_acknowledgement_means_that_the_job_does_not_run() {
    let _machine = shared();
    let backend = with_socket();
    backend.set_fault(fault("/acknowledge", 1, status(403)));
    let agent = Agent::start(&backend, &[]);
    let id = backend.enqueue(job("BASH", "echo ran")).expect("queued");
    eventually("the refusal", || agent.log().contains("not running the job"));
    // Another job goes all the way; by then the first would have run as well.
    finish(&backend, job("BASH", "true"));
    let row = backend.job(&id).expect("the job");
    assert_eq!((row.terminal_reports(), backend.lines(&id).len()), (0, 0), "{row:?}");
    assert!(!agent.log().contains(&format!("PUT /jobs/{id}/status")));
    agent.stop();
}

#[test]
fn an_acknowledgement_that_fails_is_tried_again_and_then_the_job_is_given_back() {
    let _machine = shared();
    let backend = deployed();
    backend.set_fault(fault("/acknowledge", 1, status(500)));
    let agent = Agent::start(&backend, &[("api.retry.initialDelay", "50ms"), ("api.retry.maxDelay", "100ms")]);
    assert_eq!(report(&finish(&backend, job("BASH", "true")))["status"], "completed");
    backend.set_faults(vec![fault("/acknowledge", 3, status(500))]);
    let id = backend.enqueue(job("BASH", "echo ran once")).expect("queued");
    eventually("the release", || {
        backend.job(&id).is_some_and(|row| row.reports.iter().any(|report| report.kind == "release"))
    });
    let row = finished(&backend, &id);
    assert_eq!((row.claims, stdout(&row)), (2, "ran once\n"));
    agent.stop();
}

#[test]
fn the_container_is_made_while_the_backend_acknowledges_and_started_after() {
    let _machine = shared();
    let backend = deployed();
    backend.set_fault(fault("/acknowledge", 1, Action::Delay { millis: 1500 }));
    let agent = Agent::start(&backend, &[]);
    let row = finish(&backend, job("BASH", "true"));
    let log = agent.log();
    let at =
        |what: &str| log.lines().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{what} in\n{log}"));
    let acknowledged = at(&format!("POST /jobs/{}/acknowledge: 200", row.id));
    assert!(at("/containers/create?name=") < acknowledged, "the container was not made meanwhile");
    assert!(at("/start: 204") > acknowledged, "it was started before the job was ours");
    agent.stop();
}

#[test]
fn a_report_is_taken_exactly_once_whatever_becomes_of_its_answer() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("api.retry.initialDelay", "50ms"), ("api.retry.maxDelay", "200ms")]);
    let wait = Action::Status {
        status: 429,
        headers: [("Retry-After".to_owned(), "1".to_owned())].into(),
        body: Some("{\"error\":{\"code\":\"SLOW\",\"message\":\"not so fast\"}}".to_owned()),
    };
    for (name, faults) in [
        ("500 twice", vec![fault("/complete", 2, status(500))]),
        ("taken, answer lost", vec![fault("/complete", 1, Action::CutAfterProcessing)]),
        ("taken, answer cut", vec![fault("/complete", 1, Action::CutMidAnswer)]),
        ("lost before it was taken", vec![fault("/complete", 1, Action::CutAfterRead)]),
        ("told to wait", vec![fault("/complete", 1, wait)]),
    ] {
        backend.set_faults(faults);
        let begun = Instant::now();
        let row = finish(&backend, job("BASH", "echo x"));
        assert_eq!(stdout(&row), "x\n", "{name}");
        eventually(name, || agent.metric("cronium_jobs_active") == Some(0.0));
        assert_eq!(backend.job(&row.id).expect("row").terminal_reports(), 1, "{name}");
        if name == "told to wait" {
            assert!(begun.elapsed() > Duration::from_secs(1), "Retry-After was not kept");
            assert!(agent.log().contains("not so fast"), "the backend's words are not in the log");
        }
    }
    agent.stop();
}

#[test]
fn a_wrong_token_says_what_to_do() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start_at(&backend.url(), "wrong", &[]);
    eventually("advice", || agent.log().contains("401") && agent.log().contains("api.token"));
    eventually("unhealthy", || agent.get("/health").0 == 503);
    assert!(!agent.log().contains("Bearer"));
    agent.stop();
}

#[test]
fn heartbeats_go_on_while_every_worker_is_busy() {
    let _machine = shared();
    let backend = deployed();
    backend.set_fault(fault("/complete", 1, Action::Delay { millis: 1500 }));
    let agent = Agent::start(&backend, &[("jobs.maxConcurrent", "2"), ("jobs.leaseRenewal", "1s")]);
    let ids: Vec<_> = (0..2).map(|_| backend.enqueue(job("BASH", "sleep 3")).expect("queued")).collect();
    ids.iter().for_each(|id| drop(finished(&backend, id)));
    let beats: Vec<Value> = requests(&backend, "/orchestrator/heartbeat").iter().map(Request::json).collect();
    assert!(beats.len() >= 3, "{} heartbeats", beats.len());
    let busy = beats.iter().find(|beat| beat["runningJobs"].as_array().is_some_and(|list| list.len() == 2));
    let busy = busy.unwrap_or_else(|| panic!("no heartbeat with both jobs: {beats:?}"));
    assert_eq!(busy["capacity"], json!({ "maxJobs": 2, "currentJobs": 2, "availableSlots": 0 }));
    assert_eq!(busy["orchestratorId"], json!(agent.id));
    agent.stop();
}

#[test]
fn a_job_handed_out_twice_while_it_runs_is_run_once() {
    let _machine = shared();
    let backend = deployed();
    let mut twice = job("BASH", "sleep 1; echo once");
    let id = backend.enqueue(twice.clone()).expect("queued");
    let agent = Agent::start(&backend, &[]);
    eventually("the first claim", || backend.job(&id).is_some_and(|row| row.acknowledged.is_some()));
    twice["id"] = json!(id);
    backend.set_fault(fault("/jobs/queue", 2, body(json!({ "jobs": [twice], "count": 1 }).to_string())));
    let row = finished(&backend, &id);
    assert_eq!(stdout(&row), "once\n");
    assert_eq!(row.executions.len(), 1);
    agent.stop();
}

#[test]
pub fn a_cancel_ends_the_job_in_each_of_the_three_ways() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[("jobs.leaseRenewal", "1s"), ("jobs.stopGrace", "1s")]);
    for via in [Via::WebSocket, Via::Heartbeat, Via::Row] {
        let id = backend.enqueue(job("BASH", "echo begun; sleep 50; echo never")).expect("queued");
        eventually("the first line", || !backend.lines(&id).is_empty());
        let begun = Instant::now();
        assert!(backend.cancel(&id, via));
        let row = finished(&backend, &id);
        assert_eq!(report(&row)["status"], "cancelled", "{via:?}");
        assert_eq!(stdout(&row), "begun\n", "{via:?}");
        // With a second of grace. The heartbeat is a second away, the next look at the rows at most three and a bit.
        let limit = if via == Via::WebSocket { 2 } else { 6 };
        assert!(begun.elapsed() < Duration::from_secs(limit), "{via:?} took {:?}", begun.elapsed());
    }
    agent.stop();
}

/// What a user's cancel does is change the row. It may come at any moment.
#[test]
fn a_cancel_by_the_row_holds_from_the_first_moment_on() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("jobs.stopGrace", "1s")]);
    agent.wait_ready();
    for pause in [0, 50, 200, 400, 700, 1000] {
        let id =
            backend.enqueue(job("BASH", "trap 'echo told; exit 9' TERM; echo begun; sleep 60 & wait")).expect("queued");
        eventually("the claim", || backend.job(&id).is_some_and(|row| row.claims > 0));
        std::thread::sleep(Duration::from_millis(pause));
        let mut begun = Instant::now();
        assert!(backend.cancel(&id, Via::Row));
        std::thread::sleep(Duration::from_millis(200));
        if backend.job(&id).is_some_and(|row| row.status == "running" && row.terminal_reports() == 0) {
            // It fell between the agent's look and its `running`, which undoes it: docs/guarantees.md names this window.
            begun = Instant::now();
            assert!(backend.cancel(&id, Via::Row));
        }
        let row = finished(&backend, &id);
        assert_eq!(report(&row)["status"], "cancelled", "after {pause} ms: {}", stderr(&row));
        assert!(stderr(&row).contains("cronium-agent: the job was cancelled"), "{}", stderr(&row));
        assert!(begun.elapsed() < Duration::from_secs(6), "after {pause} ms: {:?}", begun.elapsed());
    }
    agent.stop();
}

/// One list every three seconds serves all jobs.
#[test]
fn a_row_that_somebody_else_ended_is_no_cancel_and_rows_are_asked_for_at_a_pace() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let ids: Vec<String> =
        (0..3).map(|_| backend.enqueue(job("BASH", "sleep 11; echo done; exit 4")).expect("queued")).collect();
    eventually("all run", || ids.iter().all(|id| backend.job(id).is_some_and(|row| row.status == "running")));
    let asked = |path: &str| requests(&backend, path).len();
    // The clean-up of jobs that ran for long fails them all.
    backend.set_settings(Settings { clean_up_after_ms: Some(1), ..backend.settings() });
    eventually("the clean-up", || ids.iter().all(|id| backend.job(id).is_some_and(|row| row.status == "failed")));
    backend.set_settings(Settings { clean_up_after_ms: None, ..backend.settings() });
    let (lists, rows) = (asked("/jobs/orphaned"), asked("/acknowledge"));
    std::thread::sleep(Duration::from_secs(7));
    let (lists, rows) = (asked("/jobs/orphaned") - lists, asked("/acknowledge") - rows);
    assert!((1..=3).contains(&lists) && rows <= 3, "{lists} lists and {rows} rows in 7 s");
    for id in &ids {
        let row = finished(&backend, id);
        assert_eq!((row.exit_code, stdout(&row)), (Some(4), "done\n"), "{}", stderr(&row));
    }
    agent.stop();
}

/// The app shows a failed job as TIMEOUT whose stderr holds the word, and nothing at all where stdout and stderr are empty.
#[test]
fn a_silent_failure_says_why_and_is_not_shown_as_a_timeout() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let row = finish(&backend, job("BASH", "exit 3"));
    assert_eq!(report(&row)["output"]["stderr"], "cronium-agent: the script ended with exit code 3\n");
    let mut late = job("BASH", "sleep 30");
    late["execution"]["timeout"] = json!(1);
    let row = finish(&backend, late);
    assert_eq!((row.exit_code, &report(&row)["status"]), (Some(-1), &json!("timeout")));
    agent.stop();
    // Short for a server that never answers, too short for a container on a busy machine.
    let agent = Agent::start(&backend, &[("jobs.setupTimeout", "2s")]);
    let mut unknown = job("BASH", "true");
    unknown["type"] = json!("ssh");
    unknown["execution"]["target"] = json!({"type": "server", "serverId": "1", "serverDetails":
        {"id": "1", "name": "away", "host": "192.0.2.1", "port": 22, "username": "u", "password": "p"}});
    let row = finish(&backend, unknown);
    let said = report(&row)["output"]["stderr"].as_str().expect("text").to_lowercase();
    assert!(!said.is_empty() && !said.contains("timeout") && !said.contains("timed out"), "{said}");
    agent.stop();
}

#[test]
fn hostile_answers_of_the_queue_harm_nothing() {
    let _machine = shared();
    let backend = deployed();
    let mut agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let row = |id: Value| json!({ "jobs": [{ "id": id, "type": "container" }], "count": 1 }).to_string();
    let nested = format!("{{\"jobs\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for (name, action) in [
        ("no JSON", body("<html>")),
        ("jobs is no list", body("{\"jobs\":\"x\"}")),
        ("rows are no jobs", body("{\"jobs\":[1,null,\"x\",[],{}]}")),
        ("a path for an id", body(row(json!("../../etc/passwd")))),
        ("a huge id", body(row(json!("x".repeat(10_000))))),
        ("a number for an id", body(row(json!(7)))),
        ("deep nesting", body(nested)),
        ("50 MB", Action::GiantBody { bytes: 50_000_000 }),
        ("broken JSON", Action::WrongJson),
        ("half a body", Action::TruncatedBody),
        ("cut", Action::CutAfterRead),
    ] {
        let before = requests(&backend, "/jobs/queue").len();
        backend.set_faults(vec![fault("/jobs/queue", 1, action)]);
        eventually(name, || requests(&backend, "/jobs/queue").len() > before + 1);
        assert!(agent.is_alive(), "{name}: {}", agent.log());
    }
    backend.set_faults(Vec::new());
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo still here"))), "still here\n");
    let peak = agent.memory_kb("VmHWM");
    eprintln!("agent RSS at its highest after hostile answers: {peak} kB");
    assert!(peak < 48 * 1024, "{peak} kB");
    agent.stop();
}

#[test]
fn every_request_says_who_asks_and_connections_are_kept() {
    let _machine = shared();
    let backend = deployed();
    for suffix in ["", "/", "/api/internal", "/api/internal/"] {
        let agent = Agent::start_at(&format!("{}{suffix}", backend.url()), backend.token(), &[]);
        finish(&backend, job("BASH", "true"));
        let own: Vec<Request> = backend
            .requests()
            .into_iter()
            .filter(|request| request.header("X-Orchestrator-ID") == Some(&agent.id))
            .collect();
        assert!(own.len() >= 8, "{suffix:?}: {}", own.len());
        for request in &own {
            assert!(request.target.starts_with("/api/internal/"), "{}", request.target);
            assert_eq!(request.header("Authorization"), Some("present"), "{}", request.target);
            if !request.target.ends_with("/socket") {
                assert_eq!(request.header("X-Service-Name"), Some("cronium-agent"), "{}", request.target);
                assert_eq!(request.header("X-Service-Version"), Some(env!("CARGO_PKG_VERSION")));
                assert_eq!(request.header("Accept"), Some("application/json"));
            }
        }
        // A log socket has its own, and so has each try to open one.
        let calls = own.iter().filter(|request| !request.target.ends_with("/socket"));
        let connections: std::collections::BTreeSet<u64> = calls.map(|request| request.connection).collect();
        assert!(connections.len() <= 6, "{} connections for {} requests", connections.len(), own.len());
        agent.stop();
    }
    assert_eq!(backend.problems(), Vec::<String>::new());
}

/// Answers of the largest length that are of no use: what a reader that builds trees would take ten times for.
#[test]
fn the_largest_answers_stay_within_the_memory_of_the_pod() {
    const LARGEST: usize = 32 << 20;
    let _machine = shared();
    let pod = include_str!("../../configs/kubernetes/daemonset.yaml");
    let limit = pod.split_once("limits: {memory: ").and_then(|(_, rest)| rest.split_once("Mi}")).expect("a limit").0;
    let limit_kb = limit.parse::<u64>().expect("MiB") * 1024;
    let filled = |begin: &str, part: &str, end: &str| {
        let count = (LARGEST - begin.len() - end.len()) / part.len();
        body(format!("{begin}{}{end}", part.repeat(count)))
    };
    let script = r#""script":{"type":"sh","content":"true"}"#;
    let target = format!(r#""execution":{{"target":{{"type":"server"}},{script}}},"metadata":{{"servers":["#);
    let backend = deployed();
    let always = |path: &str, action| Fault { path: Some(path.to_owned()), action, ..Fault::default() };
    let list = filled(r#"[{"id":"x","status":["#, "[],", r#"0],"payload":{"execution":[0]}}]"#);
    backend.set_faults(vec![
        fault("/jobs/queue", 1, filled(&format!(r#"{{"jobs":[{{"id":"huge",{target}"#), "0,", "0]}}]}")),
        fault("/jobs/queue", 1, filled(r#"{"metadata":["#, "{},", "0]}")),
        fault("/jobs/queue", 1, filled(r#"{"jobs":["#, r#"{"id":["a"]},"#, "0]}")),
        always("/jobs/orphaned", list),
    ]);
    let agent = Agent::start(&backend, &[("jobs.pollInterval", "100ms"), ("jobs.maxPollInterval", "100ms")]);
    let polls = || requests(&backend, "/jobs/queue").len();
    let looks = || requests(&backend, "/jobs/orphaned").len();
    eventually("the answers were read", || polls() > 4 && looks() > 2);
    let most = agent.memory_kb("VmHWM");
    assert!(most < limit_kb, "{} MiB with answers of {} MiB, the pod has {limit}", most >> 10, LARGEST >> 20);
    assert!(agent.log().contains("servers, at most 200 are taken"));
    // It works as before.
    backend.set_faults(Vec::new());
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo still here"))), "still here\n");
    agent.stop();
}

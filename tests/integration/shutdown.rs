//! Signals: the first drains, the second cancels; what the idle process consists of.

use std::time::{Duration, Instant};

use cronium_dev_backend::{DevBackend, Via};
use serde_json::json;

use crate::harness::{
    Agent, Folder, LONG, PROVING, alone, deployed, eventually, finish, finished, job, report, shared, stdout, unique,
    with_socket,
};
use crate::ssh_rig::server_job;
use crate::sshd::silent_host;

#[test]
fn an_idle_agent_ends_at_once_and_cleanly() {
    let _machine = shared();
    let backend = deployed();
    let mut agent = Agent::start(&backend, &[PROVING]);
    agent.wait_ready();
    let begun = Instant::now();
    agent.signal("TERM");
    assert_eq!(agent.wait(LONG).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(agent.log().contains("stopped"));
    assert!(!agent.log().contains("did not end within"), "a thread was left behind");
}

#[test]
fn the_first_signal_drains() {
    let _machine = shared();
    let backend = with_socket();
    let mut agent = Agent::start(&backend, &[PROVING]);
    let id = backend.enqueue(job("BASH", "echo begun; sleep 2; echo ended")).expect("queued");
    eventually("the first line", || !backend.lines(&id).is_empty());
    agent.signal("TERM");
    eventually("not ready", || agent.get("/ready").0 == 503);
    let (_, reason) = agent.get("/ready");
    assert!(reason.contains("draining"), "{reason}");
    let late = backend.enqueue(job("BASH", "true")).expect("queued");
    let row = finished(&backend, &id);
    assert_eq!((stdout(&row), row.exit_code), ("begun\nended\n", Some(0)));
    assert_eq!(agent.wait(LONG).code(), Some(0));
    assert_eq!(backend.job(&late).expect("row").claims, 0, "a job was claimed while draining");
}

#[test]
fn the_second_signal_cancels_and_the_exit_code_says_so() {
    let _machine = shared();
    let backend = with_socket();
    let mut agent = Agent::start(&backend, &[PROVING, ("jobs.stopGrace", "1s"), ("jobs.onShutdown", "cancel")]);
    let id = backend.enqueue(job("BASH", "echo begun; sleep 60")).expect("queued");
    eventually("the first line", || !backend.lines(&id).is_empty());
    agent.signal("TERM");
    eventually("draining", || agent.get("/ready").0 == 503);
    agent.signal("TERM");
    let row = finished(&backend, &id);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("cancelled"), "begun\n"));
    assert_eq!(agent.wait(LONG).code(), Some(4));
    assert_eq!(agent.containers(), Vec::<String>::new());
}

#[test]
fn the_drain_has_an_end() {
    let _machine = shared();
    let backend = with_socket();
    let mut agent = Agent::start(
        &backend,
        &[PROVING, ("jobs.drainTimeout", "1s"), ("jobs.stopGrace", "1s"), ("jobs.onShutdown", "cancel")],
    );
    let id = backend.enqueue(job("BASH", "echo begun; sleep 60")).expect("queued");
    eventually("the first line", || !backend.lines(&id).is_empty());
    agent.signal("TERM");
    assert_eq!(report(&finished(&backend, &id))["status"], "cancelled");
    assert_eq!(agent.wait(LONG).code(), Some(4));
}

/// A job that has not begun when the agent ends, and what becomes of it: it goes back to the queue at once.
fn given_back(what: &str, mut agent: Agent, backend: &DevBackend, id: &str, signals: u32) {
    let begun = Instant::now();
    agent.signal("TERM");
    for _ in 1..signals {
        eventually("draining", || agent.get("/ready").0 == 503);
        agent.signal("TERM");
    }
    let status = agent.wait(LONG);
    let (took, row) = (begun.elapsed(), backend.job(id).expect("row"));
    assert_eq!((row.status, row.terminal_reports()), ("queued", 0), "{what}: {row:?}\n{}", agent.log());
    assert!(took < Duration::from_secs(10), "{what}: {took:?}");
    assert_eq!(status.code(), Some(4), "{what}");
    assert_eq!(std::fs::read_dir(agent.state().join("jobs")).expect("jobs").count(), 0, "{what}");
    assert_eq!(agent.containers(), Vec::<String>::new(), "{what}");
}

#[test]
fn a_job_that_waits_for_its_image_goes_back_to_the_queue_when_the_agent_ends() {
    let _machine = shared();
    for (on_shutdown, drain, signals) in
        [("leave", "0s", 1), ("cancel", "0s", 1), ("leave", "1m", 2), ("cancel", "1m", 2)]
    {
        let (_registry, port) = silent_host();
        let image = format!("127.0.0.1:{port}/{}:1", unique("image"));
        let backend = deployed();
        let settings = [
            ("container.images.bash", image.as_str()),
            ("jobs.onShutdown", on_shutdown),
            ("jobs.drainTimeout", drain),
            ("jobs.stopGrace", "1s"),
        ];
        let agent = Agent::start(&backend, &settings);
        let id = backend.enqueue(job("BASH", "true")).expect("queued");
        eventually("it is pulled", || agent.log().contains("pulling image"));
        std::thread::sleep(Duration::from_millis(700));
        given_back(&format!("{on_shutdown} {drain}"), agent, &backend, &id, signals);
    }
}

#[test]
fn a_cancel_ends_a_pull_from_a_registry_that_says_nothing() {
    let _machine = shared();
    let (_registry, port) = silent_host();
    let image = format!("127.0.0.1:{port}/{}:1", unique("image"));
    let backend = deployed();
    let agent =
        Agent::start(&backend, &[PROVING, ("container.images.bash", image.as_str()), ("jobs.leaseRenewal", "1s")]);
    let id = backend.enqueue(job("BASH", "true")).expect("queued");
    eventually("it is pulled", || agent.log().contains("pulling image"));
    std::thread::sleep(Duration::from_millis(700));
    let begun = Instant::now();
    assert!(backend.cancel(&id, Via::Heartbeat));
    assert_eq!(report(&finished(&backend, &id))["status"], "cancelled");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    agent.stop();
}

#[test]
fn a_job_that_waits_for_its_server_goes_back_to_the_queue_when_the_agent_ends() {
    let _machine = shared();
    for several in [false, true] {
        for on_shutdown in ["leave", "cancel"] {
            let (_host, port) = silent_host();
            let folder = Folder::new();
            let known = folder.path().join("known_hosts");
            std::fs::write(&known, "").expect("known_hosts");
            let backend = deployed();
            let settings = [
                ("ssh.security.knownHostsFile", known.to_str().expect("text")),
                ("jobs.onShutdown", on_shutdown),
                ("jobs.drainTimeout", "0s"),
            ];
            let agent = Agent::start(&backend, &settings);
            let server = |id: &str| {
                json!({ "id": id, "name": format!("web-{id}"), "host": "127.0.0.1", "port": port,
                        "username": "nobody", "password": "x" })
            };
            let mut row = server_job(&server("1"), "BASH", "true");
            if several {
                row["metadata"]["multiServer"] = json!(true);
                row["metadata"]["serverCount"] = json!(3);
                row["metadata"]["servers"] = json!([server("1"), server("2"), server("3")]);
            }
            let id = backend.enqueue(row).expect("queued");
            eventually("it was acknowledged", || backend.job(&id).expect("row").acknowledged.is_some());
            std::thread::sleep(Duration::from_millis(700));
            let what = format!("{on_shutdown}, several: {several}");
            given_back(&what, agent, &backend, &id, 1);
        }
    }
}

/// Ten jobs at once, and an agent that gets a signal at some moment of their claim, their making and their start.
#[test]
fn whenever_an_agent_leaves_no_job_is_cancelled() {
    let _machine = shared();
    let backend = deployed();
    let settings = [("jobs.drainTimeout", "0s"), ("jobs.maxConcurrent", "10"), ("jobs.pollBatchSize", "10")];
    for round in 0..12_u64 {
        let mut agent = Agent::start(&backend, &settings);
        agent.wait_ready();
        let ids: Vec<String> =
            (0..10).map(|_| backend.enqueue(job("BASH", "sleep 1; exit 4")).expect("queued")).collect();
        std::thread::sleep(Duration::from_millis(round * 45));
        let begun = Instant::now();
        agent.signal("TERM");
        agent.wait(LONG);
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}\n{}", begun.elapsed(), agent.log());
        let agent = agent.again(&backend, &[]);
        for id in &ids {
            let row = finished(&backend, id);
            assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(4)), "{row:?}");
        }
        agent.stop();
    }
}

#[test]
fn a_reload_signal_harms_nothing() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING]);
    agent.wait_ready();
    agent.signal("HUP");
    eventually("a word about it", || agent.log().contains("reload: the configuration was read again"));
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    agent.stop();
}

#[test]
fn the_idle_process_is_small_and_every_thread_has_a_name() {
    let _machine = alone();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING, ("jobs.pollInterval", "1s"), ("jobs.maxPollInterval", "1s")]);
    agent.wait_ready();
    let task = format!("/proc/{}/task", agent.pid());
    let mut names: Vec<String> = std::fs::read_dir(&task)
        .expect("threads")
        .map(|entry| {
            std::fs::read_to_string(entry.expect("entry").path().join("comm")).expect("comm").trim().to_owned()
        })
        .collect();
    names.sort();
    let fds = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("fds").count();
    eprintln!("idle: {} kB RSS, {fds} descriptors, {} threads: {names:?}", agent.memory_kb("VmRSS"), names.len());
    assert!(names.len() <= 20, "{names:?}");
    let known = [
        "cronium-agent",
        "health",
        "heartbeat",
        "log-streamer",
        "monitor",
        "outbox",
        "page-updates",
        "poller",
        "reaper",
        "sampler",
        "checkpoints",
        "row-watch",
        "control",
    ];
    assert!(names.iter().all(|name| known.contains(&name.as_str()) || name.starts_with("worker-")), "{names:?}");
    assert!(fds < 32, "{fds} descriptors");
    // After jobs, threads and descriptors are where they were.
    for _ in 0..3 {
        let mut small = job("BASH", "echo x");
        small["execution"]["timeout"] = json!(10);
        finish(&backend, small);
    }
    eventually("threads back", || std::fs::read_dir(&task).expect("threads").count() == names.len());
    agent.stop();
}

#[test]
fn a_killed_agent_leaves_jobs_that_the_next_one_reports_once() {
    let _machine = shared();
    let backend = with_socket();
    let id = crate::harness::unique("agent-again");
    let settings = [("orchestrator.id", id.as_str()), ("jobs.stopGrace", "1s"), ("jobs.leaseRenewal", "1s")];
    let mut agent = Agent::start(&backend, &settings);
    let ended = backend.enqueue(job("BASH", "echo one; sleep 1; echo two; exit 5")).expect("queued");
    let running = backend.enqueue(job("BASH", "echo begun; sleep 100")).expect("queued");
    eventually("both run", || !backend.lines(&ended).is_empty() && !backend.lines(&running).is_empty());
    agent.signal("KILL");
    agent.wait(LONG);
    let filter = format!("label=cronium.agent.id={id}");
    eventually("one script has ended meanwhile", || {
        crate::harness::docker(&["ps", "-q", "--filter", &filter]).lines().count() == 1
    });

    let again = Agent::start(&backend, &settings);
    let row = finished(&backend, &ended);
    assert_eq!((row.exit_code, stdout(&row)), (Some(5), "one\ntwo\n"));
    // The other goes on, and is cancelled.
    assert!(backend.cancel(&running, Via::Heartbeat));
    let row = finished(&backend, &running);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("cancelled"), "begun\n"));
    // The container of an end goes when its report is taken, not before.
    eventually("nothing is left", || crate::harness::docker(&["ps", "-aq", "--filter", &filter]).is_empty());
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    again.stop();
}

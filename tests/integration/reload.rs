//! SIGHUP: what takes effect, what waits for a restart, what is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cronium_agent::limits;
use cronium_dev_backend::{Action, DevBackend, Fault, JobRow, Request, Settings};
use serde_json::Value;

use crate::harness::{
    Agent, Folder, LONG, binary, docker, eventually, finish, finished, job, report, shared, stdout, unique, with_socket,
};
use crate::ssh_rig::{details, server_job};
use crate::sshd::{Options, Sshd, list};

/// An agent, and the file that it reads.
struct Rig {
    backend: DevBackend,
    folder: Arc<Folder>,
    agent: Agent,
}

impl Rig {
    fn start(yaml: &str) -> Self {
        let (backend, folder) = (with_socket(), Arc::new(Folder::new()));
        std::fs::write(folder.path().join("token"), backend.token()).expect("token");
        write(&folder, &backend.url(), yaml);
        let agent = Agent::start_by_file(Arc::clone(&folder), &file(&folder));
        agent.wait_ready();
        Self { backend, folder, agent }
    }

    /// Writes the file anew, sends SIGHUP, and waits until the log has a line with `words` that was not there before;
    /// gives what was logged since.
    fn reload(&self, yaml: &str, words: &str) -> String {
        self.reload_at(&self.backend.url(), yaml, words)
    }

    fn reload_at(&self, endpoint: &str, yaml: &str, words: &str) -> String {
        let before = self.agent.log().len();
        write(&self.folder, endpoint, yaml);
        self.agent.signal("HUP");
        eventually(words, || self.agent.log()[before..].contains(words));
        self.agent.log()[before..].to_owned()
    }

    /// `cronium-agent ARGUMENTS` about this agent: code, stdout, stderr.
    fn ask(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = binary();
        command.args(arguments).arg("--set").arg(format!("state.dir={}", self.agent.state_dir().display()));
        let output = command.env("HOME", self.folder.path()).current_dir(self.folder.path()).output().expect("it ran");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ask(&["status", "--json"]).1).expect("JSON")
    }

    /// The last reload as `status` has it, and as `/health` has it.
    fn last(&self) -> (Value, Value) {
        let health: Value = serde_json::from_str(&self.agent.get("/health").1).expect("JSON");
        (self.status()["reload"].clone(), health["components"]["reload"].clone())
    }

    /// What the heartbeats so far have told.
    fn beats(&self) -> Vec<Value> {
        self.backend.requests().iter().filter(|r| r.target.contains("/heartbeat")).map(Request::json).collect()
    }

    fn queue(&self, script: &str) -> String {
        self.backend.enqueue(job("BASH", script)).expect("queued")
    }

    fn running(&self) -> f64 {
        self.agent.metric("cronium_jobs_active").expect("a figure")
    }

    /// The kernel's names of its threads.
    fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.agent.pid())).expect("threads");
        let name = |task: PathBuf| std::fs::read_to_string(task.join("comm")).unwrap_or_default().trim().to_owned();
        tasks.map(|task| name(task.expect("a task").path())).collect()
    }

    fn workers(&self) -> usize {
        self.threads().iter().filter(|name| name.starts_with("worker-")).count()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.agent.pid())).expect("descriptors").count()
    }
}

fn file(folder: &Folder) -> PathBuf {
    folder.path().join("agent.yaml")
}

fn write(folder: &Folder, endpoint: &str, yaml: &str) {
    let token = folder.path().join("token");
    let text = format!("api:\n  endpoint: {endpoint}\n  tokenFile: {}\n{yaml}", token.display());
    std::fs::write(file(folder), text).expect("the configuration");
}

fn jobs(lines: &str) -> String {
    format!("jobs:\n  pollInterval: 100ms\n  maxPollInterval: 500ms\n  {lines}\n")
}

#[test]
fn the_level_changes_both_ways_and_no_change_is_said_to_be_none() {
    let _machine = shared();
    let level = |word: &str| format!("{}logging:\n  level: {word}\n", jobs("maxConcurrent: 2"));
    let rig = Rig::start(&level("info"));
    finish(&rig.backend, job("BASH", "true"));
    let debug = |log: &str| log.contains("\"DEBUG\"") || log.contains("\"debug\"");
    assert!(!debug(&rig.agent.log()), "{}", rig.agent.log());
    rig.reload(&level("debug"), "in effect from now on: logging.level info → debug");
    let before = rig.agent.log().len();
    finish(&rig.backend, job("BASH", "true"));
    assert!(debug(&rig.agent.log()[before..]), "{}", &rig.agent.log()[before..]);
    rig.reload(&level("info"), "in effect from now on: logging.level debug → info");
    rig.reload(&level("info"), "the configuration was read again; nothing has changed");
    let before = rig.agent.log().len();
    finish(&rig.backend, job("BASH", "true"));
    assert!(!debug(&rig.agent.log()[before..]));
    let count = |result: &str| rig.agent.metric(&format!("cronium_config_reloads_total{{result=\"{result}\"}}"));
    assert_eq!((count("changed"), count("unchanged"), count("refused")), (Some(2.0), Some(1.0), Some(0.0)));
    rig.agent.stop();
}

/// The seconds at which a script began and ended, as it printed them.
fn span(output: &str) -> (u64, u64) {
    let mut times = output.lines().map(|line| line.parse::<u64>().expect("a time"));
    (times.next().expect("begun"), times.next().expect("ended"))
}

#[test]
fn more_workers_come_at_once_and_fewer_disturb_no_job() {
    let _machine = shared();
    let rig = Rig::start(&jobs("maxConcurrent: 1"));
    // Ready may be said a moment before the worker's thread has its name.
    eventually("one worker", || rig.workers() == 1);
    let timed = |seconds: &str| format!("date +%s; sleep {seconds}; date +%s");
    rig.reload(&jobs("maxConcurrent: 3"), "jobs.maxConcurrent 1 → 3");
    let three: Vec<String> = (0..3).map(|_| rig.queue("echo begun; sleep 6; echo ended")).collect();
    eventually("three run at once", || three.iter().all(|id| !rig.backend.lines(id).is_empty()));
    assert_eq!((rig.running(), rig.workers(), rig.agent.metric("cronium_workers")), (3.0, 3, Some(3.0)));

    rig.reload(&jobs("maxConcurrent: 1"), "jobs.maxConcurrent 3 → 1");
    assert_eq!(rig.running(), 3.0, "a running job was disturbed");
    let later: Vec<String> = (0..3).map(|_| rig.queue(&timed("2"))).collect();
    for id in &three {
        let row = finished(&rig.backend, id);
        assert_eq!((stdout(&row), row.exit_code), ("begun\nended\n", Some(0)));
    }
    let mut spans: Vec<(u64, u64)> = later.iter().map(|id| span(stdout(&finished(&rig.backend, id)))).collect();
    spans.sort_unstable();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "two ran at once: {spans:?}");
    eventually("one worker is left", || rig.workers() == 1);
    assert_eq!(rig.agent.metric("cronium_workers"), Some(1.0));
    // Heartbeats tell the new capacity.
    rig.reload(&jobs("maxConcurrent: 2"), "jobs.maxConcurrent 1 → 2");
    eventually("two workers", || rig.workers() == 2);
    assert_eq!(finish(&rig.backend, job("BASH", "true")).exit_code, Some(0));
    assert!(!rig.agent.log().contains("ended by itself"), "a worker that left was taken for lost");
    rig.agent.stop();
}

#[test]
fn a_new_job_gets_the_new_limit_and_a_running_one_keeps_its_own() {
    let _machine = shared();
    let memory = |size: &str| format!("container:\n  resources:\n    defaults:\n      memory: {size}\n");
    let rig = Rig::start(&format!("{}{}", jobs("maxConcurrent: 2"), memory("128MB")));
    let limits = || -> Vec<u64> {
        let inspect = |id: &String| docker(&["inspect", "-f", "{{.HostConfig.Memory}}", id]).parse().expect("a number");
        let mut all: Vec<u64> = rig.agent.containers().iter().map(inspect).collect();
        all.sort_unstable();
        all
    };
    let script = "echo begun; for i in $(seq 100); do [ -e /tmp/x ] && break; sleep 0.1; done; echo ended";
    let old = rig.queue(script);
    eventually("the first runs", || !rig.backend.lines(&old).is_empty());
    let yaml = format!("{}{}", jobs("maxConcurrent: 2"), memory("256MB"));
    rig.reload(&yaml, "container.resources.defaults.memory 128MB → 256MB");
    let new = rig.queue(script);
    eventually("the second runs", || !rig.backend.lines(&new).is_empty());
    assert_eq!(limits(), [128 << 20, 256 << 20]);
    for id in [old, new] {
        assert_eq!(stdout(&finished(&rig.backend, &id)), "begun\nended\n");
    }
    rig.agent.stop();
}

#[test]
fn what_is_not_valid_changes_nothing_and_is_told_with_its_line() {
    let _machine = shared();
    let rig = Rig::start(&jobs("maxConcurrent: 1"));
    assert_eq!(rig.last(), (Value::Null, Value::Null), "none before the first");
    let path = file(&rig.folder).display().to_string();
    let log = rig.reload("jobs: [\n", "nothing was changed");
    assert!(log.contains(&format!("configuration: {path}:")) && log.contains("1 problem;"), "{log}");
    let log = rig.reload(&jobs("maxConcurrent: 500\n  maxOutputt: 1MB"), "nothing was changed");
    for part in [
        format!("{path}:7:3: jobs.maxConcurrent: found \\\"500\\\"; allowed: a whole number from 1 to 100"),
        format!("{path}:8:"),
        "did you mean jobs.maxOutput?".to_owned(),
        "2 problems;".to_owned(),
    ] {
        assert!(log.contains(&part), "{part} is not in\n{log}");
    }
    assert_eq!(rig.workers(), 1);
    eventually("status tells of both", || rig.last().0["number"] == 2);
    let (status, health) = rig.last();
    assert_eq!(status["result"], "refused");
    let first = format!("{path}:7:3: jobs.maxConcurrent: found");
    let problems = status["problems"].as_array().expect("a list");
    assert!(problems.iter().any(|text| text.as_str().is_some_and(|text| text.starts_with(&first))), "{status}");
    assert_eq!((&health["status"], &health["details"]["at"]), (&"degraded".into(), &status["at"]));
    assert!(health["error"].as_str().is_some_and(|text| text.contains("jobs.maxConcurrent")), "{health}");
    assert_eq!(rig.agent.metric("cronium_config_last_reload_successful"), Some(0.0));
    std::fs::remove_file(file(&rig.folder)).expect("removed");
    let before = rig.agent.log().len();
    rig.agent.signal("HUP");
    eventually("a file that is gone", || rig.agent.log()[before..].contains("nothing was changed"));
    assert_eq!(rig.agent.metric("cronium_config_reloads_total{result=\"refused\"}"), Some(3.0));
    assert_eq!(finish(&rig.backend, job("BASH", "true")).exit_code, Some(0));
    rig.reload(&jobs("maxConcurrent: 2"), "jobs.maxConcurrent 1 → 2");
    eventually("a metric of it", || rig.agent.metric("cronium_config_last_reload_successful") == Some(1.0));
    let taken = || rig.last().1["details"]["result"] == "changed";
    eventually("it is in /health", taken);
    let (status, health) = rig.last();
    assert_eq!((&status["inEffect"][0], &status["number"]), (&"jobs.maxConcurrent 1 → 2".into(), &4.into()));
    assert_eq!((&health["status"], &health["error"]), (&"healthy".into(), &Value::Null));
    rig.agent.stop();
}

#[test]
fn an_operator_asks_for_it_and_is_told_what_came_of_it() {
    let _machine = shared();
    let rig = Rig::start(&jobs("maxConcurrent: 1"));
    let path = file(&rig.folder).display().to_string();
    let reload = |yaml: &str| {
        write(&rig.folder, &rig.backend.url(), yaml);
        rig.ask(&["reload", "--config", &path])
    };
    let (code, out, error) = reload(&jobs("maxConcurrent: 2"));
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with("read again: in effect since then:\n  jobs.maxConcurrent 1 → 2\n"), "{out}");
    eventually("two workers", || rig.workers() == 2);
    let (code, out, _) = reload(&jobs("maxConcurrent: 2"));
    assert!(code == Some(0) && out.ends_with("read again: nothing had changed\n"), "{out}");
    // The command finds the agent although the file is not valid, and the agent's own words come back.
    let (code, out, error) = reload(&jobs("maxConcurrent: 500"));
    assert_eq!((code, out.as_str()), (Some(1), ""), "{error}");
    assert!(
        error.contains("refused") && error.contains(&format!("\n  {path}:7:3: jobs.maxConcurrent: found")),
        "{error}"
    );
    assert_eq!(rig.workers(), 2);
    assert!(rig.agent.log().contains("a reload of the configuration was asked for (user "));
    rig.agent.stop();
    let nobody = Folder::new();
    let set = format!("state.dir={}", nobody.path().display());
    let output = binary().args(["reload", "--set", &set]).current_dir(nobody.path()).output().expect("it ran");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no agent runs at"));
}

#[test]
fn what_needs_a_restart_is_named_and_not_used_and_no_secret_is_shown() {
    let _machine = shared();
    let rig = Rig::start(&jobs("maxConcurrent: 1"));
    let secret = unique("another-token-of-a-length");
    rig.backend.set_settings(Settings { any_token: true, ..rig.backend.settings() });
    std::fs::write(rig.folder.path().join("token"), &secret).expect("token");
    let log = rig.reload_at("http://127.0.0.1:9/x", &jobs("maxConcurrent: 2"), "in effect from now on");
    let line = log.lines().find(|line| line.contains("needs a restart")).expect("a warning");
    let from = format!("api.endpoint {}", rig.backend.url());
    for part in [from.as_str(), "http://127.0.0.1:9/x", "api.wsEndpoint"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    eventually("it is in status", || !rig.last().0.is_null());
    let (status, health) = rig.last();
    let waits = status["needsRestart"].as_array().expect("a list");
    assert!(waits.iter().any(|text| text.as_str().is_some_and(|text| text.contains(&from))), "{status}");
    assert_eq!(health["details"]["needsRestart"], "api.endpoint, api.wsEndpoint");
    assert_eq!(health["status"], "healthy");
    assert!(!status.to_string().contains(&secret) && !status.to_string().contains(rig.backend.token()), "{status}");
    let line = log.lines().find(|line| line.contains("in effect from now on")).expect("a line");
    assert!(line.contains("jobs.maxConcurrent 1 → 2") && line.contains("(another value)"), "{line}");
    assert!(line.contains("api.token ") && !line.contains("api.endpoint"), "{line}");
    // The old backend still hands out jobs.
    assert_eq!(finish(&rig.backend, job("BASH", "true")).exit_code, Some(0));
    // It is said again for as long as it is so.
    let again = rig.reload_at("http://127.0.0.1:9/x", &jobs("maxConcurrent: 2"), "nothing else has changed");
    assert!(again.contains("needs a restart"), "{again}");
    let log = rig.agent.log();
    assert!(!log.contains(&secret) && !log.contains(rig.backend.token()), "a token is in the log");
    rig.agent.stop();
}

#[test]
fn a_hundred_signals_under_load_leave_threads_and_descriptors_as_they_were() {
    let _machine = shared();
    let rig = Rig::start(&jobs("maxConcurrent: 3"));
    let three: Vec<String> = (0..3).map(|_| rig.queue("true")).collect();
    three.iter().for_each(|id| drop(finished(&rig.backend, id)));
    eventually("idle", || rig.running() == 0.0 && rig.agent.containers().is_empty());
    let (threads, descriptors) = (rig.threads().len(), rig.descriptors());
    let ids: Vec<String> = (0..8).map(|i| rig.queue(&format!("echo {i}; sleep 1; echo end"))).collect();
    for round in 0..100 {
        write(&rig.folder, &rig.backend.url(), &jobs(["maxConcurrent: 1", "maxConcurrent: 3"][round % 2]));
        rig.agent.signal("HUP");
        std::thread::sleep(Duration::from_millis(40));
    }
    for (i, id) in ids.iter().enumerate() {
        assert_eq!(stdout(&finished(&rig.backend, id)), format!("{i}\nend\n"));
    }
    let changed = || rig.agent.metric("cronium_config_reloads_total{result=\"changed\"}").unwrap_or_default();
    assert!(changed() >= 50.0, "{}", changed());
    eventually("three workers", || rig.workers() == 3);
    // How many connections to the backend are kept idle depends on what met; a reload that leaks would leave a hundred.
    let most = descriptors + limits::API_IDLE_CONNECTIONS;
    eventually("threads and descriptors are back", || rig.threads().len() <= threads && rig.descriptors() <= most);
    rig.agent.stop();
}

#[test]
fn the_next_heartbeats_have_the_new_capacity_and_the_new_interval() {
    let _machine = shared();
    let rig = Rig::start(&jobs("maxConcurrent: 2\n  leaseRenewal: 10m"));
    eventually("the first", || !rig.beats().is_empty());
    assert_eq!(rig.beats()[0]["capacity"]["maxJobs"], 2);
    rig.reload(&jobs("maxConcurrent: 3\n  leaseRenewal: 10m"), "jobs.maxConcurrent 2 → 3");
    let told = || rig.beats().last().is_some_and(|beat| beat["capacity"]["maxJobs"] == 3);
    eventually("the capacity is sent at once", told);
    let before = rig.beats().len();
    rig.reload(&jobs("maxConcurrent: 3\n  leaseRenewal: 200ms"), "jobs.leaseRenewal 10m → 200ms");
    eventually("the new interval", || rig.beats().len() >= before + 5);
    rig.agent.stop();
}

#[test]
fn a_job_that_runs_ends_by_the_new_limit_on_lost_contact() {
    let _machine = shared();
    let rig = Rig::start(&jobs("leaseRenewal: 300ms\n  stopGrace: 1s"));
    let id = rig.queue("echo begun; sleep 60");
    eventually("it runs", || !rig.backend.lines(&id).is_empty());
    let lines = "leaseRenewal: 300ms\n  stopGrace: 1s\n  stopAfterLost: 1s";
    rig.reload(&jobs(lines), "jobs.stopAfterLost 0s → 1s");
    let action = Action::Status { status: 503, headers: Default::default(), body: None };
    rig.backend.set_fault(Fault { path: Some("/heartbeat".to_owned()), action, ..Fault::default() });
    let row = finished(&rig.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("cancelled"), "begun\n"));
    assert!(report(&row).to_string().contains("jobs.stopAfterLost"), "{}", report(&row));
    rig.backend.set_faults(Vec::new());
    rig.agent.stop();
}

/// When a report is given up is the outbox's own test: each run offers it for an hour at least.
#[test]
fn the_outbox_hears_of_another_retention() {
    let _machine = shared();
    let rig = Rig::start(&jobs("reportRetention: 2h"));
    let kept = || rig.status()["outbox"]["retentionSeconds"].clone();
    assert_eq!(kept(), 7200);
    rig.reload(&jobs("reportRetention: 30m"), "jobs.reportRetention 2h → 30m");
    eventually("it knows", || kept() == 1800);
    rig.agent.stop();
}

#[test]
fn the_end_of_the_agent_goes_by_the_new_drain() {
    let _machine = shared();
    let mut rig = Rig::start(&jobs("drainTimeout: 10m\n  stopGrace: 1s"));
    let id = rig.queue("echo begun; sleep 60");
    eventually("it runs", || !rig.backend.lines(&id).is_empty());
    let lines = "drainTimeout: 500ms\n  stopGrace: 1s\n  onShutdown: cancel";
    let log = rig.reload(&jobs(lines), "in effect from now on");
    for part in ["jobs.drainTimeout 10m → 500ms", "jobs.onShutdown leave → cancel"] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
    rig.agent.signal("TERM");
    let row = finished(&rig.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("cancelled"), "begun\n"));
    assert_eq!(rig.agent.wait(LONG).code(), Some(4));
}

#[test]
fn jobs_on_servers_get_the_new_settings_of_their_execution() {
    let _machine = shared();
    let mut sshd = Sshd::start(&Options::default());
    std::fs::write(sshd.path("known_hosts"), sshd.known_hosts()).expect("known_hosts");
    let (first, second) = (sshd.temp_dir(), sshd.temp_dir().join("another"));
    let known = sshd.path("known_hosts").display().to_string();
    let yaml = |dir: &Path, execution: &str| {
        format!(
            "{}ssh:\n  security:\n    knownHostsFile: {known}\n  connectionPool:\n    connectionTimeout: 1s\n  circuitBreaker:\n    \
             enabled: false\n  execution:\n    tempDir: {}\n    {execution}\n",
            jobs("stopGrace: 1s"),
            dir.display()
        )
    };
    let rig = Rig::start(&yaml(&first, "reconnectTimeout: 10m"));
    let server = details(&sshd, "web-1");
    let run = |script: &str| finish(&rig.backend, server_job(&server, "BASH", script));
    let ask = "echo ${BASH_VERSION:+bash}; pwd; test -t 1 && echo terminal || echo none";
    // The script's own folder is in the job's.
    let above = |place: &str| Path::new(place).ancestors().nth(2).expect("two folders").to_owned();
    let said = |row: &JobRow| stdout(row).lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    let [shell, place, terminal] = &said(&run(ask))[..] else { panic!("three lines") };
    assert_eq!((shell.as_str(), terminal.as_str()), ("bash", "none"));
    assert_eq!(above(place), first);
    // The report does not wait for the removal.
    eventually("the folder is gone", || sshd.job_dirs().is_empty());

    let other = "defaultShell: /bin/dash\n    ptyMode: true\n    cleanupAfter: false\n    reconnectTimeout: 10m";
    rig.reload(&yaml(&second, other), "ssh.execution.cleanupAfter true → false");
    let [shell, place, terminal] = &said(&run(ask))[..] else { panic!("three lines") };
    assert_eq!((shell.as_str(), terminal.as_str()), ("", "terminal"));
    assert_eq!(above(place), second);
    assert_eq!(list(&second), [Path::new(place).parent().expect("the job's folder")], "kept");

    rig.reload(&yaml(&first, "reconnectTimeout: 1s"), "ssh.execution.reconnectTimeout 10m → 1s");
    let id = rig.backend.enqueue(server_job(&server, "BASH", "echo begun; sleep 60")).expect("queued");
    eventually("it runs", || !rig.backend.lines(&id).is_empty());
    sshd.stop();
    let row = finished(&rig.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), "begun\n"));
    assert!(report(&row).to_string().contains(" s (ssh.execution.reconnectTime-out)"), "{}", report(&row));
    sshd.end_user_processes();
    rig.agent.stop();
}

#[test]
fn how_many_containers_wait_changes_with_a_reload() {
    let _machine = shared();
    let rig = Rig::start("container:\n  warm: {bash: 1}\n");
    rig.agent.wait_warm();
    let waiting = || {
        let all = rig.agent.containers_by_name().into_iter();
        all.filter(|(_, name)| name.starts_with("cronium-warm-")).map(|(id, _)| id).collect::<Vec<_>>()
    };
    let first = waiting();
    rig.reload("container:\n  warm: {python: 2}\n", "in effect from now on");
    eventually("two others wait", || waiting().len() == 2 && !waiting().contains(&first[0]));
    rig.reload("", "in effect from now on");
    eventually("none waits", || waiting().is_empty());
    assert_eq!(rig.status()["warm"], Value::Null);
    rig.agent.stop();
}

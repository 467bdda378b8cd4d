//! One job on several servers, and what must never be seen of their keys.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use cronium_dev_backend::{Action, DevBackend, Fault, JobRow, Via};
use serde_json::{Value, json};

use crate::harness::{
    Agent, Folder, eventually, finish, finished, report, shared, stderr, stdout, told_live, with_socket,
};
use crate::ssh_rig::{Rig, details, has_words, said, server_job, walk};
use crate::sshd::{Options, PASSWORD, Sshd};

pub const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

/// Three servers, an agent that knows them, a backend.
pub struct Three {
    pub agent: Agent,
    pub backend: DevBackend,
    pub servers: Vec<Sshd>,
    folder: Folder,
}

impl Three {
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let servers: Vec<Sshd> = NAMES.iter().map(|_| Sshd::start(&Options::default())).collect();
        let folder = Folder::new();
        let known = folder.path().join("known_hosts");
        std::fs::write(&known, servers.iter().map(Sshd::known_hosts).collect::<String>()).expect("write");
        // One path for all: below the folder that every user may write to.
        let place = folder.path().join("jobs");
        std::fs::create_dir(&place).expect("folder");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        std::fs::set_permissions(&place, mode).expect("mode");
        let backend = with_socket();
        let agent = Agent::start(&backend, &settings_in(&folder).each(settings));
        Self { agent, backend, servers, folder }
    }

    /// The next agent on the state folder of this one, which has ended or is killed now.
    pub fn again(self, settings: &[(&str, &str)]) -> Self {
        let token = self.backend.token().to_owned();
        self.again_with(&token, settings)
    }

    /// The same with this token, which the backend takes.
    pub fn again_with(self, token: &str, settings: &[(&str, &str)]) -> Self {
        let Self { agent, backend, servers, folder } = self;
        let agent = agent.again_with(&backend, token, &settings_in(&folder).each(settings));
        Self { agent, backend, servers, folder }
    }

    /// Where jobs have their folders, on each of the servers.
    pub fn place(&self) -> PathBuf {
        self.folder.path().join("jobs")
    }

    pub fn job(&self, script: &str) -> Value {
        let mut all: Vec<Value> = self.servers.iter().zip(NAMES).map(|(sshd, name)| details(sshd, name)).collect();
        for (entry, id) in all.iter_mut().zip(["3", "4", "5"]) {
            entry["id"] = json!(id);
        }
        let mut job = server_job(&all[0], "BASH", script);
        job["metadata"]["multiServer"] = json!(true);
        job["metadata"]["serverCount"] = json!(all.len());
        job["metadata"]["servers"] = json!(all);
        job
    }

    /// The name of the server on which a script of the job runs, by its user.
    pub fn user_of(&self, name: &str) -> &str {
        &self.servers[NAMES.iter().position(|known| *known == name).expect("a name")].user
    }

    pub fn executions(&self, row: &JobRow) -> Vec<Value> {
        self.backend.job_json(&row.id).expect("the job")["executions"].as_array().expect("a list").clone()
    }

    pub fn stop(self) {
        self.agent.stop();
        assert_eq!(self.backend.problems(), Vec::<String>::new());
        for sshd in &self.servers {
            eventually("the jobs' processes are gone", || sshd.user_processes().is_empty());
        }
    }
}

/// The paths in the configuration of such an agent.
struct Paths(String, String);

fn settings_in(folder: &Folder) -> Paths {
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    Paths(path("known_hosts"), path("jobs"))
}

impl Paths {
    fn each<'a>(&'a self, settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut all = vec![
            ("ssh.security.knownHostsFile", self.0.as_str()),
            ("ssh.execution.tempDir", self.1.as_str()),
            ("ssh.connectionPool.connectionTimeout", "2s"),
            ("jobs.stopGrace", "1s"),
        ];
        all.extend_from_slice(settings);
        all
    }
}

#[test]
fn a_job_on_three_servers_runs_on_each_and_is_reported_once() {
    let _machine = shared();
    let three = Three::start(&[]);
    let begun = Instant::now();
    let row = finish(&three.backend, three.job("id -un; echo oops >&2; sleep 2"));
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("completed"), Some(0)), "{}", stderr(&row));
    assert!(begun.elapsed() < Duration::from_millis(5500), "one after the other: {:?}", begun.elapsed());
    let lines = three.backend.lines(&row.id);
    for name in NAMES {
        for (stream, text) in [("stdout", three.user_of(name)), ("stderr", "oops")] {
            let want = format!("[{name}] {text}");
            let count = lines.iter().filter(|line| line.stream == stream && line.text == want).count();
            assert_eq!(count, 1, "{want:?} in {lines:?}");
        }
        assert!(stdout(&row).lines().any(|line| line == format!("[{name}] {}", three.user_of(name))), "{row:?}");
    }
    let sequences: Vec<u64> = lines.iter().map(|line| line.sequence).collect();
    assert_eq!(sequences, (1..=lines.len() as u64).collect::<Vec<_>>());
    // One record for each server, with its number and name.
    let executions = three.executions(&row);
    assert_eq!(executions.len(), 3, "{executions:?}");
    for (name, id) in NAMES.iter().zip([3, 4, 5]) {
        let found = executions.iter().find(|execution| execution["created"]["serverName"] == **name);
        let found = found.unwrap_or_else(|| panic!("no record for {name}: {executions:?}"));
        assert_eq!((&found["created"]["serverId"], &found["row"]["exitCode"]), (&json!(id), &json!(0)));
    }
    eventually("watchers see the end", || told_live(&three.backend)["status"] == "completed");
    three.stop();
}

/// Each call about a record takes 3 s, as at the deployed backend without its socket server.
#[test]
fn scripts_and_worker_wait_for_no_slow_record() {
    let _machine = shared();
    let three = Three::start(&[("jobs.maxConcurrent", "1")]);
    let slow = Action::Delay { millis: 3000 };
    three.backend.set_fault(Fault { path: Some("/executions/".into()), action: slow, ..Fault::default() });
    let script = "date +began=%s.%N; sleep 1; date +ended=%s.%N";
    let ids: Vec<String> = (0..2).map(|_| three.backend.enqueue(three.job(script)).expect("queued")).collect();
    let rows: Vec<JobRow> = ids.iter().map(|id| finished(&three.backend, id)).collect();
    let acknowledged = |row: &JobRow| {
        let path = format!("/jobs/{}/acknowledge", row.id);
        let all = three.backend.requests();
        let at = all.iter().find(|request| request.target.contains(&path)).expect("an acknowledgement").received;
        (SystemTime::now() - at.elapsed()).duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
    };
    let times = |row: &JobRow, word: &str| -> Vec<f64> {
        let of_word = |line: &str| line.split_once(word)?.1.parse().ok();
        stdout(row).lines().filter_map(of_word).collect()
    };
    for row in &rows {
        let began = times(row, "began=");
        assert_eq!(began.len(), NAMES.len(), "{}", stdout(row));
        let late = began.into_iter().fold(0.0, f64::max) - acknowledged(row);
        assert!(late < 2.5, "the last script began {late} s after the acknowledgement");
        let executions = three.executions(row);
        assert_eq!(executions.len(), 3, "{executions:?}");
        for name in NAMES {
            let found = executions.iter().find(|execution| execution["created"]["serverName"] == *name);
            let found = found.unwrap_or_else(|| panic!("no record for {name}: {executions:?}"));
            assert_eq!(found["row"]["exitCode"], json!(0), "{found}");
        }
        assert!(row.terminal_reports() == 1 && row.status == "completed", "{row:?}");
    }
    let ended = times(&rows[0], "ended=").into_iter().fold(0.0, f64::max);
    let free = acknowledged(&rows[1]) - ended;
    assert!(free < 2.5, "the worker took the next job {free} s after the last script");
    three.stop();
}

#[test]
fn one_failed_server_of_three_is_a_partial_success() {
    let _machine = shared();
    let three = Three::start(&[]);
    let script = format!("echo here; [ $(id -un) != {} ] || exit 9", three.user_of("beta"));
    let row = finish(&three.backend, three.job(&script));
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("completed"), Some(101)), "{row:?}");
    has_words(&said(&three.backend, &row), &["alpha", "beta", "gamma", "9"]);
    let codes: Vec<Value> =
        three.executions(&row).iter().map(|execution| execution["row"]["exitCode"].clone()).collect();
    assert_eq!(codes.iter().filter(|code| **code == json!(0)).count(), 2, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == json!(9)).count(), 1, "{codes:?}");
    let row = finish(&three.backend, three.job(&format!("[ $(id -un) = {} ]", three.user_of("beta"))));
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("completed"), Some(102)), "{row:?}");
    three.stop();
}

#[test]
fn when_all_fail_the_job_failed_and_timed_out_only_when_all_did() {
    let _machine = shared();
    let three = Three::start(&[]);
    let row = finish(&three.backend, three.job("exit 4"));
    assert_eq!(report(&row)["status"], "failed", "{row:?}");
    assert!(row.exit_code.is_some_and(|code| code > 0 && code < 126), "{row:?}");
    has_words(&said(&three.backend, &row), &NAMES);
    let mut slow = three.job("echo begun; sleep 60");
    slow["execution"]["timeout"] = json!(2);
    let row = finish(&three.backend, slow);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("timeout"), Some(-1)), "{row:?}");
    let mut mixed = three.job(&format!("echo begun; [ $(id -un) != {} ] || exit 4; sleep 60", three.user_of("beta")));
    mixed["execution"]["timeout"] = json!(2);
    let row = finish(&three.backend, mixed);
    assert_eq!(report(&row)["status"], "failed", "{row:?}");
    assert_ne!(row.exit_code, Some(-1), "{row:?}");
    three.stop();
}

#[test]
fn a_bad_entry_and_a_host_that_is_away_fail_alone() {
    let _machine = shared();
    // A host that is away is tried for as long as this.
    let mut three = Three::start(&[("jobs.setupTimeout", "5s")]);
    let broken: [(&str, Value); 6] = [
        ("port", json!(0)),
        ("port", json!("not a port")),
        ("host", json!("")),
        ("host", json!("no-such-host.invalid")),
        ("username", Value::Null),
        ("privateKey", json!("no key at all")),
    ];
    for (field, value) in broken {
        let mut job = three.job("echo here");
        job["metadata"]["servers"][1][field] = value.clone();
        let row = finish(&three.backend, job);
        assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("completed"), Some(101)), "{field} {value}");
        let here: Vec<&str> = stdout(&row).lines().filter(|line| line.ends_with("here")).collect();
        assert_eq!(here.len(), 2, "{field} {value}: {here:?}");
        has_words(&said(&three.backend, &row), &["beta"]);
    }
    three.servers[2].stop();
    let row = finish(&three.backend, three.job("echo here"));
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("completed"), Some(101)), "{row:?}");
    has_words(&said(&three.backend, &row), &["gamma"]);
    three.servers[2].start_again();
    three.stop();
}

#[test]
fn a_cancel_ends_the_script_on_every_server() {
    let _machine = shared();
    let three = Three::start(&[]);
    let id = three.backend.enqueue(three.job("echo begun; sleep 60")).expect("queued");
    eventually("it runs on all", || three.backend.line_sums(&id).is_some_and(|sums| sums.counts[0] == 3));
    assert!(three.backend.cancel(&id, Via::WebSocket));
    assert_eq!(report(&finished(&three.backend, &id))["status"], "cancelled");
    for sshd in &three.servers {
        let left = sshd.user_processes();
        assert!(left.iter().all(|process| !process.arguments.contains("sleep 60")), "{left:?}");
    }
    three.stop();
}

#[test]
fn a_connection_broken_on_one_server_costs_no_line_of_any() {
    let _machine = shared();
    let three = Three::start(&[]);
    let script = "for i in $(seq 1 150); do echo line $i; sleep 0.02; done";
    let id = three.backend.enqueue(three.job(script)).expect("queued");
    eventually("lines", || three.backend.line_sums(&id).is_some_and(|sums| sums.counts[0] > 60));
    three.servers[0].kill_sessions();
    let row = finished(&three.backend, &id);
    assert_eq!(row.exit_code, Some(0), "{}", said(&three.backend, &row));
    let lines = three.backend.lines(&id);
    for name in NAMES {
        let prefix = format!("[{name}] ");
        let got: Vec<&str> = lines
            .iter()
            .filter(|line| line.stream == "stdout")
            .filter_map(|line| line.text.strip_prefix(&prefix))
            .collect();
        assert_eq!(got, (1..=150).map(|n| format!("line {n}")).collect::<Vec<_>>(), "{name}");
    }
    three.stop();
}

#[test]
fn keys_and_passwords_are_seen_nowhere() {
    let _machine = shared();
    let sshd = Sshd::start(&Options { password: true, ..Options::default() });
    let state = Folder::new();
    let settings = [
        ("ssh.security.allowPasswords", "true"),
        ("state.dir", state.path().to_str().expect("text")),
        ("logging.level", "trace"),
    ];
    let passphrase = "canary-passphrase-9183";
    let locked = sshd.client_key(&["-t", "ed25519"], passphrase);
    let rig = Rig::with(sshd, &settings);
    let mut with_passphrase = rig.job("BASH", "echo one");
    with_passphrase["execution"]["target"]["serverDetails"]["privateKey"] = json!(locked.text);
    with_passphrase["execution"]["target"]["serverDetails"]["passphrase"] = json!(passphrase);
    let mut wrong = with_passphrase.clone();
    wrong["id"] = json!(crate::harness::unique("job"));
    wrong["execution"]["target"]["serverDetails"]["passphrase"] = json!(format!("{passphrase}-wrong"));
    let mut with_password = rig.job("BASH", "echo two");
    with_password["execution"]["target"]["serverDetails"]["privateKey"] = Value::Null;
    with_password["execution"]["target"]["serverDetails"]["password"] = json!(PASSWORD);
    let plain = rig.job("BASH", "echo three; sleep 1");
    assert_eq!(stdout(&finish(&rig.backend, with_passphrase)), "one\n");
    let row = finish(&rig.backend, wrong);
    assert_eq!(report(&row)["status"], "failed");
    assert_eq!(stdout(&finish(&rig.backend, with_password)), "two\n");
    let id = rig.begin(plain);
    let line_of = |text: &str| text.lines().nth(2).expect("a line of the key").to_owned();
    let canaries = [passphrase.to_owned(), PASSWORD.to_owned(), line_of(&locked.text), line_of(&rig.sshd.key.text)];
    let look = || {
        let mut places = vec![
            ("log".to_owned(), rig.agent.log()),
            ("/health".to_owned(), rig.agent.get("/health").1),
            ("/metrics".to_owned(), rig.agent.get("/metrics").1),
            ("server's log".to_owned(), rig.sshd.log()),
            ("verdict".to_owned(), rig.said(&row)),
        ];
        // Nothing on the agent's disk, nothing on the server's.
        for folder in [state.path(), &rig.sshd.path("home")] {
            for path in walk(folder).into_iter().filter(|path| path.is_file()) {
                let text = std::fs::read(&path).unwrap_or_default();
                places.push((path.display().to_string(), String::from_utf8_lossy(&text).into_owned()));
            }
        }
        for (place, text) in places {
            assert!(!canaries.iter().any(|canary| text.contains(canary.as_str())), "a secret in {place}");
        }
    };
    look();
    assert_eq!(stdout(&finished(&rig.backend, &id)), "three\n");
    look();
    rig.stop();
}

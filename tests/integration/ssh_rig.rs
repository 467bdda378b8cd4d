//! What every test of jobs on servers begins with: one server, one backend, one agent that knows the server's key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cronium_dev_backend::{DevBackend, JobRow};
use serde_json::{Value, json};

use crate::harness::{Agent, eventually, finish, job, report, stdout, with_socket};
use crate::sshd::{Options, Sshd};
use crate::sshd_faults::process;

/// The server's name in the jobs.
pub const NAME: &str = "web-1";

// The agent ends first, then its backend, then the server.
pub struct Rig {
    pub agent: Agent,
    pub backend: DevBackend,
    pub sshd: Sshd,
    pub known_hosts: PathBuf,
}

impl Rig {
    /// A server as most are, and an agent with these settings.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::with(Sshd::start(&Options::default()), settings)
    }

    pub fn with(sshd: Sshd, settings: &[(&str, &str)]) -> Self {
        let known = sshd.known_hosts();
        Self::knowing(sshd, &known, settings)
    }

    /// With this text as the file of known hosts.
    pub fn knowing(sshd: Sshd, known: &str, settings: &[(&str, &str)]) -> Self {
        let known_hosts = sshd.path("known_hosts");
        std::fs::write(&known_hosts, known).expect("known_hosts");
        let temp_dir = sshd.temp_dir();
        let mut all = vec![
            ("ssh.security.knownHostsFile", known_hosts.to_str().expect("text")),
            ("ssh.execution.tempDir", temp_dir.to_str().expect("text")),
            ("jobs.stopGrace", "1s"),
        ];
        all.extend_from_slice(settings);
        let backend = with_socket();
        let agent = Agent::start(&backend, &all);
        Self { agent, backend, sshd, known_hosts }
    }

    /// The next agent on the state folder of this one, which has ended or is killed now.
    pub fn again(self) -> Self {
        let token = self.backend.token().to_owned();
        self.again_with(&token)
    }

    /// The same with this token, which the backend takes.
    pub fn again_with(self, token: &str) -> Self {
        self.again_and(token, &[])
    }

    /// The same with these settings too.
    pub fn again_and(self, token: &str, settings: &[(&str, &str)]) -> Self {
        let Self { agent, backend, sshd, known_hosts } = self;
        let temp_dir = sshd.temp_dir();
        let mut all = vec![
            ("ssh.security.knownHostsFile", known_hosts.to_str().expect("text")),
            ("ssh.execution.tempDir", temp_dir.to_str().expect("text")),
        ];
        all.extend_from_slice(settings);
        let agent = agent.again_with(&backend, token, &all);
        Self { agent, backend, sshd, known_hosts }
    }

    /// A job for the server.
    pub fn job(&self, language: &str, script: &str) -> Value {
        server_job(&details(&self.sshd, NAME), language, script)
    }

    /// Runs a script of BASH.
    pub fn bash(&self, script: &str) -> JobRow {
        finish(&self.backend, self.job("BASH", script))
    }

    /// Queues a job and waits until its first line is there.
    pub fn begin(&self, job: Value) -> String {
        let id = self.queue(job);
        eventually("the first line", || {
            assert!(process(self.agent.pid()).is_some(), "the agent has ended");
            let row = self.backend.job(&id).expect("row");
            assert_eq!(row.terminal_reports(), 0, "it ended before its first line: {row:?}");
            self.backend.line_sums(&id).is_some_and(|sums| sums.counts[0] > 0)
        });
        id
    }

    pub fn queue(&self, job: Value) -> String {
        self.backend.enqueue(job).expect("queued")
    }

    /// All words that the person whose job it was gets of how it ended.
    pub fn said(&self, row: &JobRow) -> String {
        said(&self.backend, row)
    }

    /// A job that failed before its script began, with these words; see [`has_words`].
    pub fn refused(&self, job: Value, words: &[&str]) -> JobRow {
        let row = finish(&self.backend, job);
        assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), ""), "{row:?}");
        assert_eq!(row.exit_code, Some(125), "{row:?}");
        has_words(&self.said(&row), words);
        row
    }

    /// The text of one stream's live lines, each with its end.
    pub fn live(&self, id: &str, stream: &str) -> String {
        let lines = self.backend.lines(id);
        lines.iter().filter(|line| line.stream == stream).map(|line| format!("{}\n", line.text)).collect()
    }

    /// The sum over all series of one metric.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.agent.get("/metrics").1;
        let series: Vec<&str> = text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect();
        assert!(!series.is_empty(), "no {name} in\n{text}");
        series.iter().map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number")).sum()
    }

    /// Ends the agent well; nothing of its jobs may be left on the server.
    pub fn stop(self) {
        let Self { agent, backend, sshd, .. } = self;
        agent.stop();
        assert_eq!(backend.problems(), Vec::<String>::new());
        eventually("the jobs' processes are gone", || sshd.user_processes().is_empty());
        assert_eq!(sshd.job_dirs(), Vec::<PathBuf>::new(), "directories of jobs were left behind");
    }

    /// Ends the agent well after a test that leaves something on the server.
    pub fn leave(self) -> Sshd {
        self.agent.stop();
        self.sshd
    }
}

/// The server as the backend describes it.
pub fn details(sshd: &Sshd, name: &str) -> Value {
    json!({ "id": "3", "name": name, "host": sshd.host, "port": sshd.port, "username": sshd.user, "privateKey": sshd.key.text })
}

/// A job in the contract's shape for one server.
pub fn server_job(details: &Value, language: &str, script: &str) -> Value {
    let mut job = job(language, script);
    job["type"] = json!("ssh");
    job["execution"]["target"] = json!({ "type": "server", "serverId": "3", "serverDetails": details });
    job
}

/// All words about how a job ended: of its records, of the report's stderr, and of the lines that are the agent's own.
pub fn said(backend: &DevBackend, row: &JobRow) -> String {
    let mut all = report(row)["output"]["stderr"].as_str().unwrap_or_default().to_owned();
    let json = backend.job_json(&row.id).expect("the job");
    for execution in json["executions"].as_array().expect("a list") {
        for part in [&execution["row"]["executionMetadata"]["verdict"], &execution["row"]["error"]] {
            all += "\n";
            all += part.as_str().unwrap_or_default();
        }
    }
    for line in backend.lines(&row.id).iter().filter(|line| line.stream == "system") {
        all += "\n";
        all += &line.text;
    }
    all
}

/// Asserts that each of `words` is in the text, in any case; of `a|b` one is enough.
pub fn has_words(text: &str, words: &[&str]) {
    let lower = text.to_lowercase();
    for group in words {
        let found = group.split('|').any(|word| lower.contains(&word.to_lowercase()));
        assert!(found, "nothing of {group:?} in: {text}");
    }
}

/// The words by which a verdict may name the rig's server.
pub const HOST: &str = "web-1|127.0.0.1";

/// From the moment when the agent got a job to the receipt of its first line.
pub fn first_line_after(backend: &DevBackend, row: &JobRow) -> Duration {
    let claimed = &row.claimed.as_ref().expect("claimed").wall;
    // The seconds of "2025-10-09T10:00:59.123Z" suffice: no test waits for a minute.
    let seconds: f64 = claimed[claimed.len() - 7..claimed.len() - 1].parse().expect("seconds");
    let received = backend.lines(&row.id).first().expect("a line").received;
    #[allow(clippy::cast_precision_loss)]
    let received = (received / 1000 % 60_000_000) as f64 / 1e6;
    Duration::from_secs_f64((received - seconds).rem_euclid(60.0))
}

/// All files below a folder.
pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for path in crate::sshd::list(folder) {
        if path.is_dir() && !path.is_symlink() {
            all.extend(walk(&path));
        }
        all.push(path);
    }
    all
}

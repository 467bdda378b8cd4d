//! An agent's process, its backend in this process, and what the kernel tells of it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cronium_dev_backend::{DevBackend, JobRow, Options, Settings};
use serde_json::{Value, json};

use crate::engine::Engine;

/// Longest wait for anything that is measured.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks; times come from the backend's own stamps and not from when they are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Of the kernel's clock in `/proc/PID/stat`: fixed for user space.
const TICKS_PER_SECOND: f64 = 100.0;

type Outcome<T> = Result<T, String>;

pub(crate) struct Agent {
    child: Child,
    folder: PathBuf,
    socket: PathBuf,
    pub(crate) id: String,
    pub(crate) port: u16,
    pub(crate) backend: Arc<DevBackend>,
    /// The moment before its process was made.
    pub(crate) spawned: Instant,
}

/// A word that nothing else has.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Agent {
    /// Starts one with a fresh state folder and its own backend; `settings` as for `--set`.
    pub(crate) fn start(program: &Path, socket: &Path, settings: &[(&str, &str)]) -> Outcome<Self> {
        let backend = DevBackend::start(Options { settings: Settings::with_socket(), ..Options::default() })
            .map_err(|error| format!("the backend: {error}"))?;
        Self::start_at(Arc::new(backend), program, socket, settings)
    }

    /// The same, at a backend that others use too.
    pub(crate) fn start_at(
        backend: Arc<DevBackend>,
        program: &Path,
        socket: &Path,
        settings: &[(&str, &str)],
    ) -> Outcome<Self> {
        let (folder, id) = (std::env::temp_dir().join(unique("cronium-bench")), unique("bench"));
        std::fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let port = free_port()?;
        let log = File::create(folder.join("log")).map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            // Nothing of the caller's environment reaches it.
            let text = name.to_string_lossy();
            if text.starts_with("CRONIUM_") || ["DOCKER_HOST", "STATE_DIRECTORY", "NOTIFY_SOCKET"].contains(&&*text) {
                command.env_remove(&name);
            }
        }
        command.arg("run").env("CRONIUM_API_TOKEN", backend.token());
        command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        let (url, number, state) = (backend.url(), port.to_string(), folder.join("state").display().to_string());
        let own = [
            ("api.endpoint", url.as_str()),
            ("orchestrator.id", &id),
            ("state.dir", &state),
            ("monitoring.healthPort", &number),
            ("monitoring.metricsPort", &number),
            // The canaries of the start are not what is measured here.
            ("jobs.requireProof", "off"),
        ];
        for (key, value) in own.iter().chain(settings) {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(|error| error.to_string())?).stderr(log);
        let spawned = Instant::now();
        let child = command.spawn().map_err(|error| {
            let _ = std::fs::remove_dir_all(&folder);
            format!("{}: {error}", program.display())
        })?;
        Ok(Self { child, folder, socket: socket.to_owned(), id, port, backend, spawned })
    }

    /// Waits until it has polled and its live log is connected.
    pub(crate) fn wait_ready(&mut self) -> Outcome<()> {
        self.wait("its first poll and its live log", |agent| {
            agent.first_poll().is_some() && agent.backend.sockets() > 0
        })
    }

    /// From the start of its process to its first request for jobs.
    pub(crate) fn first_poll(&self) -> Option<Duration> {
        let requests = self.backend.requests();
        let poll = requests.iter().find(|request| request.target.contains("/jobs/queue"))?;
        Some(poll.received.saturating_duration_since(self.spawned))
    }

    pub(crate) fn wait(&mut self, what: &str, check: impl Fn(&Self) -> bool) -> Outcome<()> {
        let until = Instant::now() + PATIENCE;
        while !check(self) {
            if Instant::now() > until || self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(format!("the agent: waited for {what}; the end of its log:\n{}", last(&log, 3000)));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Queues these and waits for the reports of all; each must be a success.
    pub(crate) fn finish(&mut self, jobs: Vec<Value>) -> Outcome<Vec<JobRow>> {
        let ids: Vec<String> = jobs.into_iter().map(|job| self.backend.enqueue(job)).collect::<Outcome<_>>()?;
        self.wait("reports", |agent| {
            ids.iter().rev().all(|id| agent.backend.job(id).is_some_and(|row| row.terminal_reports() > 0))
        })?;
        let rows: Vec<JobRow> = ids.iter().filter_map(|id| self.backend.job(id)).collect();
        match rows.iter().find(|row| row.exit_code != Some(0)) {
            Some(row) => Err(format!("job {} ended with {:?}, {:?}", row.id, row.verdict, row.exit_code)),
            None => Ok(rows),
        }
    }

    /// The create request of the containers that this agent makes for jobs with these resources.
    pub(crate) fn container(&mut self, resources: &Value, label: &str) -> Outcome<Value> {
        let id = self.backend.enqueue(job("sleep 2", resources))?;
        let (socket, mine) = (self.socket.clone(), format!("cronium.agent.id={}", self.id));
        // A container that is being made is listed before it can be inspected.
        let seen = || {
            let mut engine = Engine::open(&socket)?;
            let made = engine.labelled(&mine)?;
            engine.like(made.first().ok_or("the agent has no container")?, label)
        };
        self.wait("a container", |_| seen().is_ok())?;
        let request = seen()?;
        self.wait("the end of that job", |agent| agent.backend.job(&id).is_some_and(|row| row.is_terminal()))?;
        Ok(request)
    }

    /// The value of a series of `/metrics`, by its name with labels.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Seconds on a core, of all its threads, those included that have ended.
    pub(crate) fn cpu_seconds(&self) -> Outcome<f64> {
        let stat = self.proc("stat")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN);
        Ok((ticks(11) + ticks(12)) / TICKS_PER_SECOND)
    }

    /// The highest RSS so far, in MB.
    pub(crate) fn peak_mb(&self) -> Outcome<f64> {
        let status = self.proc("status")?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
        let kib = line.split_whitespace().nth(1).and_then(|text| text.parse::<f64>().ok()).ok_or("no number")?;
        Ok(kib * 1024.0 / 1e6)
    }

    /// A file of its folder in `/proc`.
    pub(crate) fn proc(&self, name: &str) -> Outcome<String> {
        let path = format!("/proc/{}/{name}", self.pid());
        std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.pid().to_string()).status();
        let until = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
        if let Ok(mut engine) = Engine::open(&self.socket) {
            for id in engine.labelled(&format!("cronium.agent.id={}", self.id)).unwrap_or_default() {
                let _ = engine.call(&format!("DELETE /containers/{id}?force=1&v=1"), None);
            }
        }
    }
}

/// A Bash job in the contract's shape.
pub(crate) fn job(script: &str, resources: &Value) -> Value {
    json!({
        "id": unique("job"), "type": "container", "priority": 5, "createdAt": "2026-01-05T10:00:00.000Z",
        "scheduledFor": null, "attempts": 0,
        "execution": {
            "target": {"type": "local"},
            "script": {"type": "BASH", "content": script, "workingDirectory": ""},
            "environment": {}, "timeout": 120_000_000_000_u64, "inputData": {}, "variables": {}, "resources": resources,
        },
        "metadata": {"eventId": 1, "userId": "u1", "originalType": "SCRIPT", "executionLogId": 1},
    })
}

/// The same script for a shell that waits on its stdin, as the agent has it: written to the workspace, then run.
pub(crate) fn program(script: &str) -> String {
    format!(
        "{{\ncat >/workspace/script.sh <<'END-OF-SCRIPT'\n{script}\nEND-OF-SCRIPT\nexec bash /workspace/script.sh </dev/null\n}}\n"
    )
}

pub(crate) fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("a free port: {error}"))?;
    Ok(listener.local_addr().map_err(|error| error.to_string())?.port())
}

fn last(text: &str, bytes: usize) -> &str {
    let from = (text.len().saturating_sub(bytes)..=text.len()).find(|at| text.is_char_boundary(*at));
    &text[from.unwrap_or(0)..]
}

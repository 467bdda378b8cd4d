//! The backend as its owner has it. Everything that its threads share is in [`Shared`]; all of them are joined at stop.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::accept;
use crate::fault::Fault;
use crate::lines::{JobLines, Line};
use crate::page::Shown;
use crate::settings::Settings;
use crate::shared::{Shared, lock};
use crate::store::JobRow;
use crate::workflow::Edge;

/// Called for each event as it happens, with locks held: it must not call the backend.
#[derive(Debug)]
pub enum Event<'a> {
    Line { job: &'a str, stream: &'static str, text: &'a str },
    Verdict { job: &'a str, verdict: &'a str, exit_code: Option<i64>, duration_ms: Option<u64> },
}

pub type Watcher = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

#[derive(Clone)]
pub struct Options {
    /// `ip:port`; port 0 takes a free one.
    pub listen: String,
    pub token: String,
    pub jobs: Vec<Value>,
    pub settings: Settings,
    pub faults: Vec<Fault>,
    pub watcher: Option<Watcher>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".to_owned(),
            token: "dev".to_owned(),
            jobs: Vec::new(),
            settings: Settings::default(),
            faults: Vec::new(),
            watcher: None,
        }
    }
}

/// One request to `/api/internal/*` as received (not those to `/dev`).
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// In order; the value of `Authorization` is replaced by `present`.
    pub headers: Vec<(String, String)>,
    pub body: Arc<[u8]>,
    pub received: Instant,
    /// Of the answer that was sent; none when none was.
    pub status: Option<u16>,
    /// The connection's number: the same for requests that shared one.
    pub connection: u64,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// The backend, running until it is stopped or dropped.
pub struct DevBackend {
    pub(crate) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl DevBackend {
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(&options.listen)?;
        let (jobs, address) = (options.jobs.clone(), listener.local_addr()?);
        let shared = Arc::new(Shared::new(options, address));
        for job in jobs {
            shared.enqueue(job).map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
        }
        let (acceptor, cleaner) = (Arc::clone(&shared), Arc::clone(&shared));
        let mut backend = Self { shared, threads: Vec::new() };
        backend.spawn("dev-accept", move || accept::serve(&acceptor, listener))?;
        backend.spawn("dev-clean-up", move || cleaner.clean_up())?;
        Ok(backend)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(work)?);
        Ok(())
    }

    /// `http://ip:port`, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    pub fn token(&self) -> &str {
        &self.shared.token
    }

    /// Queues a job (the shape of the contract) and returns its id.
    pub fn enqueue(&self, payload: Value) -> Result<String, String> {
        self.shared.enqueue(payload)
    }

    /// Queues the jobs of a workflow that no edge leads to; the others start when the edge's end has come.
    pub fn enqueue_workflow(&self, jobs: Vec<Value>, edges: Vec<Edge>) -> Result<(), String> {
        self.shared.enqueue_workflow(jobs, edges)
    }

    /// What a user sees of a job.
    pub fn shown(&self, id: &str) -> Option<Shown> {
        self.job(id).map(|job| job.shown)
    }

    /// A user's variable: always text.
    pub fn variable(&self, user: &str, key: &str) -> Option<String> {
        self.shared.store().variables.get(&(user.to_owned(), key.to_owned())).map(|(text, _)| text.clone())
    }

    pub fn set_variable(&self, user: &str, key: &str, text: &str) {
        self.shared.store().set_variable(user, key, text.to_owned());
    }

    pub fn job(&self, id: &str) -> Option<JobRow> {
        self.shared.store().job(id).cloned()
    }

    pub fn jobs(&self) -> Vec<JobRow> {
        self.shared.store().jobs.clone()
    }

    /// The same as `GET /dev/jobs/{id}`: with reports and executions.
    pub fn job_json(&self, id: &str) -> Option<Value> {
        self.shared.store().full(id)
    }

    /// The same as `GET /dev/state`.
    pub fn state(&self) -> Value {
        crate::dev::state(&self.shared)
    }

    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).list.clone()
    }

    /// The kept lines of a job, in the order of their receipt.
    pub fn lines(&self, job: &str) -> Vec<Line> {
        let lines = lock(&self.shared.lines);
        lines
            .get(job)
            .map(|lines| lines.from(0, usize::MAX).map(|(_, line)| line.clone()).collect())
            .unwrap_or_default()
    }

    /// The lines of a job that were shown and have not ended.
    pub fn partial_lines(&self, job: &str) -> Vec<Line> {
        let lines = lock(&self.shared.lines);
        lines.get(job).map(|lines| lines.partial().cloned().collect()).unwrap_or_default()
    }

    /// Sums over all of a job's lines.
    pub fn line_sums(&self, job: &str) -> Option<JobLines> {
        lock(&self.shared.lines).get(job).cloned()
    }

    /// What was accepted and still is not as the contract says (unknown keys, malformed log frames).
    pub fn problems(&self) -> Vec<String> {
        self.shared.store().problems.clone()
    }

    /// Adds one fault.
    pub fn set_fault(&self, fault: Fault) {
        lock(&self.shared.faults).push(fault);
    }

    /// Replaces all faults.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        *lock(&self.shared.faults) = faults;
    }

    pub fn faults(&self) -> Vec<Fault> {
        lock(&self.shared.faults).clone()
    }

    pub fn settings(&self) -> Settings {
        self.shared.settings()
    }

    pub fn set_settings(&self, settings: Settings) {
        self.shared.set_settings(settings);
    }

    pub fn cancel(&self, id: &str, via: Via) -> bool {
        crate::dev::cancel(&self.shared, id, via)
    }

    /// Puts a job back into the queue whatever became of it, its reports kept; `further` counts it as one more attempt.
    pub fn requeue(&self, id: &str, further: bool) -> bool {
        crate::dev::requeue(&self.shared, id, further)
    }

    /// Cuts all connections and refuses new ones for so long.
    pub fn refuse(&self, length: Duration) {
        self.shared.refuse(length);
        self.shared.cut_all(None);
    }

    pub fn drop_sockets(&self) {
        crate::dev::drop_sockets(&self.shared);
    }

    /// Reads nothing from the log sockets for so long.
    pub fn stall_sockets(&self, length: Duration) {
        *lock(&self.shared.stalled_until) = Some(Instant::now() + length);
    }

    /// Log sockets that are open now.
    pub fn sockets(&self) -> usize {
        lock(&self.shared.sockets).len()
    }

    /// Until `check` holds (true) or the time is over (false). It is looked at again after each change.
    pub fn wait_for(&self, limit: Duration, mut check: impl FnMut(&Self) -> bool) -> bool {
        self.shared.wait_for(limit, || check(self))
    }

    /// Until each job got a terminal report.
    pub fn wait_done(&self, limit: Duration) -> bool {
        self.wait_for(limit, |backend| {
            backend.shared.store().jobs.iter().all(|job| job.is_terminal() && job.terminal_reports() > 0)
        })
    }

    /// Ends all waits (they see what is true then) before the backend is stopped.
    pub fn interrupt(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.bump();
    }

    /// Stops: answers under way are finished (within 2 s), all threads joined.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let threads = std::mem::take(&mut self.threads);
        if threads.is_empty() {
            return;
        }
        self.interrupt();
        self.shared.wake_acceptor();
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Drop for DevBackend {
    fn drop(&mut self) {
        self.end();
    }
}

/// The ways in which an agent learns of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The row's status alone.
    Row,
    /// The row, and each heartbeat's answer.
    Heartbeat,
    /// The row, and a message over the log sockets.
    WebSocket,
}

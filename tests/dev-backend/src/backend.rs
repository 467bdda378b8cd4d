//! The backend as its owner has it. Everything that its threads share is in [`Shared`]; all of them are joined at stop.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::accept;
use crate::fault::Fault;
use crate::lines::{JobLines, Line};
use crate::live::Socket;
use crate::store::{JobRow, Store};

/// Requests remembered, and bytes of their bodies.
const REQUESTS: usize = 100_000;
const REQUEST_BYTES: usize = 256 << 20;

/// How the backend behaves where the contract leaves it open. May change while it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Errors as `{"error":{"code","message"}}` instead of `{"error":"text"}`.
    pub coded_errors: bool,
    /// The queue's answer carries `metadata.nextPollAfter` so far ahead.
    pub next_poll_after_ms: Option<u32>,
    /// The acknowledgement carries a lease of so long.
    pub lease_seconds: Option<u32>,
    /// Answer the subprotocol `cronium.logs.v2` when asked for it; else the deployed dialect (one frame a line).
    pub offer_v2: bool,
    /// Acknowledge batches of v2.
    pub acknowledge_batches: bool,
    /// Send `jobs` over v2 sockets when something is queued.
    pub announce_jobs: bool,
    /// Lines kept per job, at its start and at its end each. All are counted.
    pub keep_lines: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            coded_errors: false,
            next_poll_after_ms: None,
            lease_seconds: None,
            offer_v2: true,
            acknowledge_batches: true,
            announce_jobs: true,
            keep_lines: 5000,
        }
    }
}

/// What a watcher is told while it happens. It is called with locks held: it must not call the backend.
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

#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) list: Vec<Request>,
    pub(crate) total: u64,
    bytes: usize,
}

impl Requests {
    /// Remembers a request; its index, or none when the memory is full.
    pub(crate) fn add(&mut self, mut request: Request) -> Option<usize> {
        self.total += 1;
        if self.list.len() >= REQUESTS {
            return None;
        }
        self.bytes = self.bytes.saturating_add(request.body.len());
        if self.bytes > REQUEST_BYTES {
            request.body = Arc::from([]);
        }
        self.list.push(request);
        Some(self.list.len() - 1)
    }
}

#[derive(Default)]
struct Changes {
    generation: u64,
    waiters: usize,
}

pub(crate) struct Shared {
    pub(crate) token: String,
    pub(crate) start: Instant,
    pub(crate) address: SocketAddr,
    pub(crate) stopping: AtomicBool,
    store: Mutex<Store>,
    pub(crate) lines: Mutex<HashMap<String, JobLines>>,
    pub(crate) requests: Mutex<Requests>,
    pub(crate) faults: Mutex<Vec<Fault>>,
    settings: Mutex<Settings>,
    watcher: Option<Watcher>,
    changes: Mutex<Changes>,
    changed: Condvar,
    pub(crate) connections: Mutex<HashMap<u64, TcpStream>>,
    pub(crate) sockets: Mutex<HashMap<u64, Socket>>,
    pub(crate) socket_hellos: Mutex<Vec<Value>>,
    pub(crate) stalled_until: Mutex<Option<Instant>>,
    pub(crate) refuse_until: Mutex<Option<Instant>>,
    pub(crate) next_connection: AtomicU64,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    pub(crate) fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }

    pub(crate) fn set_settings(&self, settings: Settings) {
        *lock(&self.settings) = settings;
    }

    pub(crate) fn emit(&self, event: &Event<'_>) {
        if let Some(watcher) = &self.watcher {
            watcher(event);
        }
    }

    pub(crate) fn watched(&self) -> bool {
        self.watcher.is_some()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Something changed: whoever waits looks again.
    pub(crate) fn bump(&self) {
        let mut changes = lock(&self.changes);
        changes.generation += 1;
        if changes.waiters > 0 {
            self.changed.notify_all();
        }
    }

    /// Until the check holds (true), or the time is over or the backend stops (false).
    pub(crate) fn wait_for(&self, limit: Duration, check: impl FnMut() -> bool) -> bool {
        self.wait(limit, false, check)
    }

    /// The same; one that goes on while the backend stops is for the stop itself.
    pub(crate) fn wait(&self, limit: Duration, through_stop: bool, mut check: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + limit;
        loop {
            let seen = lock(&self.changes).generation;
            if check() {
                return true;
            }
            if self.is_stopping() && !through_stop {
                return false;
            }
            let mut changes = lock(&self.changes);
            changes.waiters += 1;
            while changes.generation == seen {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    changes.waiters -= 1;
                    return false;
                }
                changes = self.changed.wait_timeout(changes, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            changes.waiters -= 1;
        }
    }

    /// Waits so long, or until the backend stops.
    pub(crate) fn pause(&self, length: Duration) {
        self.wait_for(length, || self.is_stopping());
    }

    pub(crate) fn enqueue(&self, payload: Value) -> Result<String, String> {
        let id = self.store().enqueue(payload, self.start)?;
        self.bump();
        if self.settings().announce_jobs {
            self.send_all(r#"{"type":"jobs","payload":{}}"#);
        }
        Ok(id)
    }

    /// Sends a text to every socket that speaks v2.
    pub(crate) fn send_all(&self, text: &str) {
        let sockets: Vec<Socket> = lock(&self.sockets).values().filter(|socket| socket.v2).cloned().collect();
        for socket in sockets {
            // A socket that does not take it is closed by its own reader.
            let _ = socket.send(text);
        }
    }

    /// Cuts all connections but one.
    pub(crate) fn cut_all(&self, but: Option<u64>) {
        for (id, stream) in lock(&self.connections).iter() {
            if Some(*id) != but {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// New connections are refused for so long.
    pub(crate) fn refuse(&self, length: Duration) {
        *lock(&self.refuse_until) = Some(Instant::now() + length);
        self.wake_acceptor();
    }

    fn wake_acceptor(&self) {
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

/// The backend, running until it is stopped or dropped.
pub struct DevBackend {
    pub(crate) shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl DevBackend {
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(&options.listen)?;
        let shared = Arc::new(Shared {
            token: options.token,
            start: Instant::now(),
            address: listener.local_addr()?,
            stopping: AtomicBool::new(false),
            store: Mutex::default(),
            lines: Mutex::default(),
            requests: Mutex::default(),
            faults: Mutex::new(options.faults),
            settings: Mutex::new(options.settings),
            watcher: options.watcher,
            changes: Mutex::default(),
            changed: Condvar::new(),
            connections: Mutex::default(),
            sockets: Mutex::default(),
            socket_hellos: Mutex::default(),
            stalled_until: Mutex::default(),
            refuse_until: Mutex::default(),
            next_connection: AtomicU64::new(1),
        });
        for job in options.jobs {
            shared.enqueue(job).map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
        }
        let for_thread = Arc::clone(&shared);
        let acceptor = std::thread::Builder::new()
            .name("dev-accept".to_owned())
            .spawn(move || accept::serve(&for_thread, listener))?;
        Ok(Self { shared, acceptor: Some(acceptor) })
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
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.bump();
        self.shared.wake_acceptor();
        let _ = acceptor.join();
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

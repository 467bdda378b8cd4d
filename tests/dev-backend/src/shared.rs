//! What the backend's threads share: the rows, the lines, the requests, and who waits for a change of them.

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::backend::{Event, Options, Request, Watcher};
use crate::fault::Fault;
use crate::lines::JobLines;
use crate::live::Socket;
use crate::settings::Settings;
use crate::store::Store;
use crate::workflow::Edge;

/// Requests remembered, and bytes of their bodies.
const REQUESTS: usize = 100_000;
const REQUEST_BYTES: usize = 256 << 20;
/// Between two looks for rows that have been running for too long.
const CLEAN_UP_PACE: Duration = Duration::from_secs(1);

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
    pub(crate) fn new(options: Options, address: SocketAddr) -> Self {
        Self {
            token: options.token,
            start: Instant::now(),
            address,
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
        }
    }

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

    /// Something changed: waiting threads check again.
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

    pub(crate) fn enqueue_workflow(&self, jobs: Vec<Value>, edges: Vec<Edge>) -> Result<(), String> {
        let now = self.store().workflows.add(jobs, edges)?;
        now.into_iter().try_for_each(|job| self.enqueue(job).map(drop))
    }

    pub(crate) fn enqueue(&self, payload: Value) -> Result<String, String> {
        let id = self.store().enqueue(payload, self.start)?;
        self.bump();
        if self.settings().announce_jobs {
            self.send_all(r#"{"type":"jobs","payload":{}}"#);
        }
        Ok(id)
    }

    /// Fails rows that have been `running` for too long, until the backend stops.
    pub(crate) fn clean_up(&self) {
        while !self.is_stopping() {
            let limit = self.settings().clean_up_after_ms.map(Duration::from_millis);
            if limit.is_some_and(|limit| self.store().clean_up(limit, self.start)) {
                self.bump();
            }
            self.pause(limit.unwrap_or(CLEAN_UP_PACE).div_f64(10.0).min(CLEAN_UP_PACE));
        }
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

    pub(crate) fn wake_acceptor(&self) {
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

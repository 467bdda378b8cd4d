//! The live log: every line of every job to the backend over one WebSocket, while the job runs.
//!
//! It is for people who watch. The result does not depend on it, so the live log slows a job by a stated bound at most. A
//! job that has run for a time T, of whose output B bytes were taken (64 more for each line), has waited for it at most
//! **0.5 s + T/20 + B × 60 ns**, and at the end at most the argument of [`JobStream::finish`]. A link that takes nothing
//! costs a job 0.2 s once; without a connection nothing waits. Lines that do not fit are left out, the newest first, until
//! half of the job's buffer is free again. They are counted in `cronium_log_lines_dropped_total`, reported in a `system`
//! line, and visible as a gap in the sequences.
//!
//! ```text
//! worker: JobStream --lines--> Buffer (a job's, bounded) --in turn--> thread log-streamer: Link --> Socket --> backend
//! ```
//!
//! A line stays in its job's buffer until it is acknowledged (`cronium.logs.v2`), or until the kernel has taken it (the
//! dialect without a subprotocol). After a lost connection the rest is sent again, with the same sequences.
//!
//! A line that does not end is sent early (`cronium.logs.v2` only): with `"partial": true`, and again with the same
//! sequence when it grows or ends. Nothing waits for a partial line, and it is not counted.

#[cfg(test)]
mod bound_tests;
mod buffer;
mod dial;
mod encode;
mod error;
mod job;
mod link;
mod socket;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
mod tls;
mod wait_budget;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

pub use self::buffer::Origin;
pub use self::encode::Dialect;
pub use self::job::JobStream;
pub use self::job::Mark;
pub use self::tls::tls_config;

use self::dial::{Dialer, Target};
use self::error::LinkError;
use self::job::Job;
use crate::config::types::{LiveLog, Tls};
use crate::job::Id;
use crate::limits::LOG_STATUS_QUEUE;
use crate::metrics;
use crate::os::poll::Waker;
use crate::os::pulse::Pulse;
use crate::os::threads::{self, Thread};
use crate::secret::Secret;

/// Settings of the live log.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `api.wsEndpoint`: `ws://` or `wss://`.
    pub url: String,
    pub token: Secret,
    pub orchestrator_id: String,
    /// The agent's version.
    pub version: String,
    pub live: LiveLog,
    pub tls: Tls,
}

/// A request of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// Stop this job, if it runs here.
    Cancel(Id),
    /// Something is queued: poll now.
    JobsQueued,
}

/// The fate of a job's lines. `sent` counts the `system` lines about left-out ones too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Acknowledged, or taken by the kernel if the dialect has no acknowledgements.
    pub sent: u64,
    /// Left out for lack of room.
    pub dropped: u64,
    /// Given up at the end of the wait; some may have arrived.
    pub unsent: u64,
}

/// For `/health`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionState {
    /// `logging.websocket.enabled`.
    pub enabled: bool,
    /// Without user, password and query.
    pub url: String,
    /// `None` while there is no connection.
    pub connected_since: Option<SystemTime>,
    /// Of the present or last connection.
    pub dialect: Option<Dialect>,
    /// Why there is, or was, no connection.
    pub last_error: Option<String>,
    /// Connections after the first.
    pub reconnects: u64,
}

/// A handle to the live log; clones share it.
#[derive(Debug, Clone)]
pub struct LogStreamer(Option<Arc<Shared>>);

/// State that handles and thread share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    waker: Waker,
    registry: Mutex<Registry>,
    state: Mutex<State>,
    connected: AtomicBool,
    stop: AtomicBool,
}

/// Locked before a job's own lock, never after.
#[derive(Debug, Default)]
struct Registry {
    jobs: Vec<Arc<Job>>,
    /// Encoded `status` messages.
    statuses: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct State {
    told: ConnectionState,
    down_since: Instant,
    connections: u64,
}

impl LogStreamer {
    /// Starts the thread `log-streamer`, which connects and reconnects. It calls `on_event`, which must not wait, and touches
    /// `pulse`. Fails on a URL, token or TLS file that cannot be used, and if no thread can be started.
    pub fn start(
        settings: Settings,
        pulse: Pulse,
        on_event: Box<dyn Fn(ServerEvent) + Send>,
    ) -> io::Result<(Self, Thread)> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let target = Target::parse(&settings.url).map_err(wrong)?;
        let fits = |text: &str| text.bytes().all(|b| (b' '..=b'~').contains(&b));
        if !fits(settings.token.expose()) || !fits(&settings.orchestrator_id) {
            let text = "api.token and orchestrator.id go into HTTP headers: only printable ASCII is possible";
            return Err(wrong(text.to_owned()));
        }
        let tls = if target.secure { Some(tls_config(&settings.tls).map_err(io::Error::other)?) } else { None };
        let shared = Arc::new(Shared::new(settings, &target)?);
        let (theirs, dialer) = (Arc::clone(&shared), Dialer::new(target, tls));
        let thread = threads::spawn("log-streamer", move || {
            let _watched = pulse.enter();
            link::run(&theirs, dialer, &on_event);
        })?;
        Ok((Self(Some(shared)), thread))
    }

    /// No live log: lines go nowhere and nothing waits. For `logging.websocket.enabled: false` and `exec`.
    pub fn disabled() -> Self {
        Self(None)
    }

    /// Starts a job's stream; its first line gets sequence 1.
    pub fn open(&self, job: &Id) -> JobStream {
        self.open_after(job, 0)
    }

    /// Resumes the stream of a job whose lines an earlier agent sent up to the number `sequence`.
    pub fn open_after(&self, job: &Id, sequence: u64) -> JobStream {
        JobStream::new(self.0.as_ref().map(|shared| {
            let job = Job::new(job.clone(), shared.settings.live.buffer_size, Instant::now());
            job.lock().buffer.begin_after(sequence);
            let job = Arc::new(job);
            shared.registry().jobs.push(Arc::clone(&job));
            (Arc::clone(shared), job)
        }))
    }

    /// Sends a job's status to its watchers, if the server speaks v2 and is connected.
    pub fn status(&self, job: &Id, status: &str, at: SystemTime, details: Option<&str>) {
        let Some(shared) = self.0.as_ref().filter(|shared| shared.connected()) else { return };
        let message = encode::status(job.as_str(), status, at, details);
        let mut registry = shared.registry();
        if registry.statuses.len() < LOG_STATUS_QUEUE {
            registry.statuses.push_back(message);
        }
        drop(registry);
        shared.waker.wake();
    }

    /// The connection's state.
    pub fn connection(&self) -> ConnectionState {
        self.0.as_ref().map(|shared| shared.state().told.clone()).unwrap_or_default()
    }

    /// Ends the thread: it sends buffered lines within a bound, then closes the connection; under 2 s in all.
    pub fn stop(&self) {
        if let Some(shared) = &self.0 {
            shared.stop.store(true, Ordering::Release);
            shared.waker.wake();
        }
    }
}

impl Shared {
    fn new(settings: Settings, target: &Target) -> io::Result<Self> {
        let told = ConnectionState { enabled: true, url: target.shown.clone(), ..ConnectionState::default() };
        Ok(Self {
            settings,
            waker: Waker::new()?,
            registry: Mutex::default(),
            state: Mutex::new(State { told, down_since: Instant::now(), connections: 0 }),
            connected: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        })
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a WebSocket has ever answered.
    fn was_connected(&self) -> bool {
        self.state().told.dialect.is_some()
    }

    fn connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// When the connection was lost, or the agent started.
    fn down_since(&self) -> Instant {
        self.state().down_since
    }

    /// No job holds a line.
    fn all_empty(&self) -> bool {
        self.registry().jobs.iter().all(|job| job.lock().buffer.is_empty())
    }

    fn forget(&self, job: &Arc<Job>) {
        self.registry().jobs.retain(|other| !Arc::ptr_eq(other, job));
    }

    fn up(&self, dialect: Dialect) {
        let mut state = self.state();
        state.connections += 1;
        state.told.reconnects = state.connections - 1;
        state.told.connected_since = Some(SystemTime::now());
        state.told.dialect = Some(dialect);
        log::info!("live log: connected to {}, dialect {}", state.told.url, dialect.as_str());
        drop(state);
        self.connected.store(true, Ordering::Release);
        metrics::websocket_connected(true);
    }

    fn down(&self, error: &LinkError) {
        metrics::websocket_connected(false);
        let mut state = self.state();
        // In this order: a reader that sees the lost connection must not see the time of the one before.
        state.down_since = Instant::now();
        self.connected.store(false, Ordering::Release);
        state.told.connected_since = None;
        state.told.last_error = Some(error.to_string());
        if matches!(error, LinkError::Stopped) {
            log::info!("live log: disconnected from {}, {error}", state.told.url);
        } else {
            log::warn!("live log: lost the connection to {}: {error}", state.told.url);
        }
        drop(state);
        let mut registry = self.registry();
        registry.statuses.clear();
        for job in &registry.jobs {
            job.rewind(Instant::now());
        }
    }

    /// Notes a failed try to connect. The same reason is logged once.
    fn failed(&self, error: &LinkError) {
        if matches!(error, LinkError::Stopped) {
            return;
        }
        let mut state = self.state();
        let text = error.to_string();
        let level = if state.told.last_error.as_ref() == Some(&text) { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "live log: no connection to {}: {text}; it is tried again", state.told.url);
        state.told.last_error = Some(text);
    }
}

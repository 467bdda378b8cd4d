//! The live log: every line of every job to the backend over one WebSocket, while the job runs.
//!
//! It is for people who watch. The result, which is kept elsewhere, is what counts, so the live log never holds a job up
//! for long: a job that has run for a time T, and B bytes of whose output were taken (64 more for each line), has waited
//! for it at most **0.5 s + T/20 + B × 60 ns**, and at the end at most what [`JobStream::finish`] is given. A link that
//! takes nothing costs a job 0.2 s once; while there is no connection nothing waits. What that leaves no time for is
//! left out, the newest lines first, until half of the job's buffer is free again: counted in
//! `cronium_log_lines_dropped_total`, said in a `system` line, and visible as a gap in the sequences.
//!
//! ```text
//! worker: JobStream --lines--> Buffer (a job's, bounded) --in turn--> thread log-streamer: Link --> Socket --> backend
//! ```
//!
//! A line stays in its job's buffer until it is acknowledged (`cronium.logs.v2`), or until the kernel has taken it
//! (the dialect without subprotocol, which cannot know more). After a lost connection the rest is sent again, with the
//! same sequences.
//!
//! A line that is long in coming is shown before it ends (`cronium.logs.v2` only): with `"partial": true`, and once more,
//! with the same sequence, when there is more of it or it has ended. A partial line is never waited for nor counted.

#[cfg(test)]
mod bound_tests;
mod buffer;
mod dial;
mod encode;
mod error;
mod job;
mod link;
mod patience;
mod socket;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

pub use self::buffer::{Numbers, Origin};
pub use self::encode::Dialect;
pub use self::job::JobStream;
pub use self::job::Mark;
pub use self::tls::{TlsError, tls_config};

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

/// What the live log needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `api.wsEndpoint`: `ws://` or `wss://`.
    pub url: String,
    pub token: Secret,
    pub orchestrator_id: String,
    /// The agent's own version.
    pub version: String,
    pub live: LiveLog,
    pub tls: Tls,
}

/// What the server asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// Stop this job, if it runs here.
    Cancel(Id),
    /// Something is queued: poll now.
    JobsQueued,
}

/// What became of a job's lines. `sent` counts the `system` lines about left-out ones too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Acknowledged, or taken by the kernel where nothing is acknowledged.
    pub sent: u64,
    /// Left out since there was no room.
    pub dropped: u64,
    /// Still held when the wait was over, and given up; some may have arrived.
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
    /// Of the present connection, or the last.
    pub dialect: Option<Dialect>,
    /// Why there is, or was, no connection.
    pub last_error: Option<String>,
    /// Connections after the first.
    pub reconnects: u64,
}

/// The way to the live log; clones share it.
#[derive(Debug, Clone)]
pub struct LogStreamer(Option<Arc<Shared>>);

/// What the handles and the thread share.
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
    /// Starts the thread `log-streamer`, which connects by itself and again. `on_event` is called on that thread and
    /// must not wait; `pulse` is touched by it. Fails on a URL, token or TLS file that cannot be used, and when no thread can be had.
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

    /// Begins a job's stream; its first line gets sequence 1.
    pub fn open(&self, job: &Id) -> JobStream {
        self.open_after(job, 0)
    }

    /// Goes on with the stream of a job of which an earlier agent sent lines up to the number `sequence`.
    pub fn open_after(&self, job: &Id, sequence: u64) -> JobStream {
        JobStream::new(self.0.as_ref().map(|shared| {
            let job = Job::new(job.clone(), shared.settings.live.buffer_size, Instant::now());
            job.lock().buffer.begin_after(sequence);
            let job = Arc::new(job);
            shared.registry().jobs.push(Arc::clone(&job));
            (Arc::clone(shared), job)
        }))
    }

    /// Tells a watcher a job's status where the server knows the v2 dialect; left out while there is no connection.
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

    /// How the connection is.
    pub fn connection(&self) -> ConnectionState {
        self.0.as_ref().map(|shared| shared.state().told.clone()).unwrap_or_default()
    }

    /// Ends the thread: what is buffered is sent, bounded, then the connection is closed; under 2 s in all.
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
        // In this order: who sees that the connection is lost must not see when the one before was.
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

    /// A try to connect failed. The same reason again and again is told once.
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

//! The state that handles and sending thread share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};
use std::{fmt, io};

use super::encode::Dialect;
use super::error::LinkError;
use super::job::Job;
use super::types::{ConnectionState, Settings};
use crate::metrics;
use crate::os::poll::Waker;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) waker: Waker,
    pub(super) registry: Mutex<Registry>,
    pub(super) state: Mutex<State>,
    pub(super) connected: AtomicBool,
    pub(super) stop: AtomicBool,
    pub(super) on_connect: Mutex<Option<OnConnect>>,
}

/// Called when the connection is made; it must not wait.
#[derive(Clone)]
pub(super) struct OnConnect(pub(super) Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for OnConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnConnect")
    }
}

/// Locked before a job's own lock, never after.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) jobs: Vec<Arc<Job>>,
    /// Encoded `status` messages.
    pub(super) statuses: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) told: ConnectionState,
    pub(super) down_since: Instant,
    pub(super) connections: u64,
}

impl Shared {
    /// Not connected yet to `url`, which is without user, password and query.
    pub(super) fn new(settings: Settings, url: &str) -> io::Result<Self> {
        let told = ConnectionState { enabled: true, url: url.to_owned(), ..ConnectionState::default() };
        Ok(Self {
            settings,
            waker: Waker::new()?,
            registry: Mutex::default(),
            state: Mutex::new(State { told, down_since: Instant::now(), connections: 0 }),
            connected: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            on_connect: Mutex::default(),
        })
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a WebSocket has ever answered.
    pub(super) fn was_connected(&self) -> bool {
        self.state().told.dialect.is_some()
    }

    pub(super) fn connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// When the connection was lost, or the agent started.
    pub(super) fn down_since(&self) -> Instant {
        self.state().down_since
    }

    /// No job holds a line.
    pub(super) fn all_empty(&self) -> bool {
        self.registry().jobs.iter().all(|job| job.lock().buffer.is_empty())
    }

    pub(super) fn forget(&self, job: &Arc<Job>) {
        self.registry().jobs.retain(|other| !Arc::ptr_eq(other, job));
    }

    pub(super) fn up(&self, dialect: Dialect) {
        let mut state = self.state();
        state.connections += 1;
        state.told.reconnects = state.connections - 1;
        state.told.connected_since = Some(SystemTime::now());
        state.told.dialect = Some(dialect);
        log::info!("live log: connected to {}, dialect {}", state.told.url, dialect.as_str());
        drop(state);
        self.connected.store(true, Ordering::Release);
        metrics::websocket_connected(true);
        let told = self.on_connect.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(OnConnect(tell)) = told {
            tell();
        }
    }

    pub(super) fn down(&self, error: &LinkError) {
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
    pub(super) fn failed(&self, error: &LinkError) {
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

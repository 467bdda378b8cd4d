//! The handle on the live log, and its start.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Instant, SystemTime};

use super::dial::{Dialer, Target};
use super::job::Job;
use super::shared::{OnConnect, Shared};
use super::stream::JobStream;
use super::tls::tls_config;
use super::types::{ConnectionState, ServerEvent, Settings};
use super::{encode, link};
use crate::job::Id;
use crate::limits::LOG_STATUS_QUEUE;
use crate::os::pulse::Pulse;
use crate::os::threads::{self, Thread};

/// A handle to the live log; clones share it.
#[derive(Debug, Clone)]
pub struct LogStreamer(pub(super) Option<Arc<Shared>>);

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
        if !fits(settings.token.now().expose()) || !fits(&settings.orchestrator_id) {
            let text = "api.token and orchestrator.id go into HTTP headers: only printable ASCII is possible";
            return Err(wrong(text.to_owned()));
        }
        let tls = if target.secure { Some(tls_config(&settings.tls).map_err(io::Error::other)?) } else { None };
        let proxy = settings.proxy.clone();
        let shared = Arc::new(Shared::new(settings, &target.shown)?);
        let (theirs, dialer) = (Arc::clone(&shared), Dialer::new(target, tls, proxy));
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

    /// Calls `tell`, which must not wait, each time that the connection is made.
    pub fn on_connect(&self, tell: impl Fn() + Send + Sync + 'static) {
        if let Some(shared) = &self.0 {
            *shared.on_connect.lock().unwrap_or_else(PoisonError::into_inner) = Some(OnConnect(Arc::new(tell)));
        }
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

//! The state of one script on one server, from its start to its end. [`follow`](super::follow) sees it through.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::executors::control::{Signal, Target};
use crate::executors::ssh::connection::Session;
use crate::executors::ssh::error::Error;
use crate::executors::ssh::folder::Folder;
use crate::executors::ssh::helper_calls::HelperCalls;
use crate::executors::ssh::place::Place;
use crate::executors::ssh::preamble::Word;
use crate::executors::ssh::shared::Shared;
use crate::executors::{Control, Task};
use crate::job::{Output, Server};
use crate::limits;
use crate::os::pulse;
use crate::os::random;
use crate::policy::backoff::{Backoff, Growth};
use crate::policy::stop::Reason;
use crate::verdict::{Span, Verdict};

/// The progress of a start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// The script waits until the server's shell is ready for it.
    Waits(Vec<u8>),
    /// It was sent; this session shows whether it begins.
    Sent,
    /// Another session finds out whether it began.
    Asked,
    /// It was seen to run, by this agent or by an earlier one.
    Seen,
}

/// The state of a script that was sent.
pub(super) struct Run<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) server: &'a Server,
    pub(super) control: &'a Arc<Control>,
    pub(super) task: &'a Task,
    pub(super) place: Place,
    pub(super) timeout: (Duration, &'static str),
    pub(super) until: Instant,
    pub(super) begun: (SystemTime, Instant),
    pub(super) wishes: Receiver<Signal>,
    pub(super) wisher: Sender<Signal>,
    /// The strongest signal for the script, and the last one sent.
    pub(super) wanted: Option<Signal>,
    pub(super) sent: Option<Signal>,
    /// Bytes of stdout and stderr that were handed on.
    pub(super) taken: [u64; 2],
    pub(super) stderr_tail: Vec<u8>,
    pub(super) start: Start,
    /// A session that is silent for this time is asked whether it missed the end.
    pub(super) look: Duration,
    /// Sessions in a row that ended without a proof and without output, and since when.
    pub(super) cuts: (u32, Instant),
    /// Since when each session ended without a word of our program.
    pub(super) mute_since: Option<Instant>,
    /// The server had its time to end the script: until this moment it is asked once more how the script ended.
    pub(super) last_look: Option<Instant>,
    /// When the script was seen to run.
    pub(super) started: Option<(SystemTime, Instant)>,
    pub(super) setup: Option<Span>,
    pub(super) starts: u32,
    pub(super) reconnects: u32,
    /// The connection broke, and the next one resumes.
    pub(super) broke: bool,
    /// An earlier agent started it.
    pub(super) adopted: bool,
    /// Why that agent ended it, and with what.
    pub(super) ended_by: Option<(Reason, Signal)>,
    /// When it was over and its end was asked for.
    pub(super) over: Option<(SystemTime, Instant)>,
    /// The session that waits for the word about the folder.
    pub(super) waiting: Option<Session>,
    pub(super) host_key: String,
    /// The calls of its helpers, while it runs.
    pub(super) calls: Option<HelperCalls>,
}

/// Why a run has no end from the server.
pub(super) enum Stop {
    Because(Unknown),
    /// The agent ends; the script goes on.
    Detached,
    /// An adopted script had not begun.
    NeverRan,
}

impl From<Unknown> for Stop {
    fn from(verdict: Unknown) -> Self {
        Self::Because(verdict)
    }
}

pub(super) type Unknown = Box<Verdict>;

/// How one session ended.
pub(super) enum Heard {
    /// The remote program proved that the script is over.
    Over,
    /// The program said why there is nothing to follow.
    Word(Word),
    /// It ended without that proof while following the script, which may go on.
    Cut,
    /// It ended without a word of our program.
    Mute(Option<i32>),
    /// The login's files keep one of the two streams from arriving.
    Streams(&'static str),
    Broken(Error),
    /// The job must end, and its script was not sent yet.
    Unwanted,
    /// The script cannot be ended: the server does not do it, or is out of reach.
    GivenUp,
    /// Nothing was heard of the script in time.
    Late,
    /// The agent ends.
    Detached,
}

/// The reaper's target: the worker, which passes the signal on over its session.
pub(super) struct Wished(pub(super) Sender<Signal>);

/// The channel of a job's signals to its worker.
pub(super) fn wishes() -> (Sender<Signal>, Receiver<Signal>) {
    bounded(limits::SSH_WISHES)
}

impl Target for Wished {
    fn signal(&self, signal: Signal) -> Result<(), String> {
        // A full queue needs no further signal.
        match self.0.try_send(signal) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err("the job's worker is gone".to_owned()),
        }
    }
}

impl<'a> Run<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        server: &'a Server,
        control: &'a Arc<Control>,
        task: &'a Task,
        place: Place,
        timeout: (Duration, &'static str),
        until: Instant,
    ) -> Self {
        let (wisher, wishes) = wishes();
        Self {
            shared,
            server,
            control,
            task,
            place,
            timeout,
            until,
            begun: (SystemTime::now(), Instant::now()),
            wishes,
            wisher,
            wanted: None,
            sent: None,
            taken: [0, 0],
            stderr_tail: Vec::new(),
            start: Start::Seen,
            look: limits::SSH_LOOK,
            cuts: (0, Instant::now()),
            mute_since: None,
            last_look: None,
            started: None,
            setup: None,
            starts: 1,
            reconnects: 0,
            broke: false,
            adopted: false,
            ended_by: None,
            over: None,
            waiting: None,
            host_key: String::new(),
            calls: None,
        }
    }

    /// The script was seen to run: from here on its time counts, and a signal can reach it.
    pub(super) fn starts_now(&mut self, left: Duration) {
        self.setup = Some(Span { started: self.begun.0, length: self.begun.1.elapsed() });
        self.started = Some((SystemTime::now(), Instant::now()));
        self.start = Start::Seen;
        let (after, limit) = self.timeout;
        self.control.set_deadline(Instant::now() + left, Reason::Timeout { limit, after });
        self.control.set_target(Arc::new(Wished(self.wisher.clone())));
    }

    /// A connection broke: reported once each time, in the job's log.
    pub(super) fn lost(&mut self, error: &Error, output: &mut dyn Output) {
        self.broke = true;
        output.system(&format!("{error}; the script goes on there; connecting again"));
        output.settle();
    }

    /// Whether no session had a word for longer than a server may be away. A first one never is that.
    pub(super) fn is_mute_too_long(&mut self) -> bool {
        let is_over = self.mute_since.is_some_and(|since| since.elapsed() > self.shared.settings.reconnect_timeout);
        self.mute_since.get_or_insert_with(Instant::now);
        is_over
    }

    /// Waits before the next session if each ends at once.
    pub(super) fn pause(&mut self) {
        let backoff =
            Backoff { growth: Growth::Exponential, initial: limits::SSH_BACKOFF_FIRST, max: limits::SSH_BACKOFF_MOST };
        if self.cuts.0 == 0 {
            self.cuts.1 = Instant::now();
        }
        self.cuts.0 += 1;
        if self.cuts.0 > 1 {
            pulse::touch();
            std::thread::sleep(backoff.delay(self.cuts.0, 0.5 + random::unit() / 2.0));
        }
    }

    pub(super) fn folder(&mut self) -> Folder {
        let (shared, server) = (Arc::clone(self.shared), self.server.clone());
        // Each claimed start has a separate folder, so that a late one finds it taken.
        let mut names = vec![self.place.name.clone()];
        names.extend(self.names().filter(|name| self.starts > 1 && *name != self.place.name));
        let (place, session) = (self.place.clone(), self.waiting.take());
        Folder { shared, server, place, names, session, asked: false }
    }

    /// The names of all folders that starts of this job may have.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        let first = self.task.execution.to_string();
        (1..=limits::SSH_STARTS).map(move |n| if n == 1 { first.clone() } else { format!("{first}.{n}") })
    }
}

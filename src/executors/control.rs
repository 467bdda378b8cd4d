//! The handle by which a running job is ended from another thread.
//!
//! The worker of a job does nothing but read its output to the end. A deadline, a cancel or a full disk is noted here,
//! the [`crate::executors::Reaper`] ends the container for it, and the worker then finds the reason here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::executors::reaper::Bell;
use crate::policy::stop::{Action, Pace, Plan, Reason};

/// The two signals of an ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Term,
    Kill,
}

impl Signal {
    /// The engine's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Kill => "SIGKILL",
        }
    }
}

/// What the reaper signals: a container, later a remote process group.
pub trait Target: Send + Sync {
    /// Sends the signal; that there is nothing any more to receive it is no error.
    fn signal(&self, signal: Signal) -> Result<(), String>;
}

/// A signal that is to be sent now, and to whom.
pub(in crate::executors) type Due = (Signal, Arc<dyn Target>);

struct Inner {
    plan: Plan,
    target: Option<Arc<dyn Target>>,
    /// The last signal sent, for the verdict.
    sent: Option<Signal>,
    ended: bool,
}

/// Ends one job; shared by the worker, the reaper and whoever may cancel.
pub struct Control {
    inner: Mutex<Inner>,
    bell: Bell,
    left: AtomicBool,
}

impl Control {
    pub(in crate::executors) fn new(pace: Pace, bell: Bell) -> Self {
        let inner = Inner { plan: Plan::new(pace), target: None, sent: None, ended: false };
        Self { inner: Mutex::new(inner), bell, left: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the job's end. The first reason is the one that counts.
    pub fn request(&self, reason: Reason) {
        self.lock().plan.request(reason);
        self.bell.ring();
    }

    /// The script has begun: from `at` on, `reason` ends it.
    pub fn set_deadline(&self, at: Instant, reason: Reason) {
        self.lock().plan.set_deadline(at, reason);
        self.bell.ring();
    }

    /// There is something to signal from now on.
    pub fn set_target(&self, target: Arc<dyn Target>) {
        self.lock().target = Some(target);
        self.bell.ring();
    }

    /// Why the job was told to end, if it was.
    pub fn reason(&self) -> Option<Reason> {
        self.lock().plan.reason().cloned()
    }

    /// The last signal that was sent for that reason.
    pub fn sent(&self) -> Option<Signal> {
        self.lock().sent
    }

    /// Whether the agent has stopped waiting for the end.
    pub fn is_given_up(&self) -> bool {
        self.lock().plan.is_given_up()
    }

    /// The agent ends: the script is to go on, and nothing of it is to be touched any more.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Release);
        self.end();
    }

    /// Whether the script is left to the next agent.
    pub fn is_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// The job is over: nothing is to be signalled any more.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        inner.target = None;
        drop(inner);
        self.bell.ring();
    }

    pub(in crate::executors) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// One step of the plan: the signal to send and to whom, or the moment of the next step. While there is nothing to
    /// signal yet, the plan stands still.
    pub(in crate::executors) fn step(&self, now: Instant) -> (Option<Due>, Option<Instant>) {
        let mut inner = self.lock();
        if inner.ended {
            return (None, None);
        }
        let Some(target) = inner.target.clone() else { return (None, None) };
        let signal = match inner.plan.step(now) {
            Action::Wait(next) => return (None, next),
            Action::GiveUp => return (None, None),
            Action::Term => Signal::Term,
            Action::Kill => Signal::Kill,
        };
        inner.sent = Some(signal);
        // The next step is asked for at once after the signal went out.
        (Some((signal, target)), Some(now))
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("reason", &self.reason()).finish_non_exhaustive()
    }
}

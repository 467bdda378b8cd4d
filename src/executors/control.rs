//! The handle by which a running job is ended from another thread.
//!
//! The worker of a job does nothing but read its output to the end. A deadline, a cancel or a full disk is noted here,
//! the [`crate::executors::Reaper`] ends the container for it, and the worker then finds the reason here.
//!
//! A job has its handle from the claim on. So a cancel, or the agent's own end, finds every job, also one that has not
//! begun: [`Control::begin`] is the one place where a job passes from "goes back to the queue" to "runs".

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crate::os::bell::Bell;
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
pub(super) type Due = (Signal, Arc<dyn Target>);

struct Inner {
    plan: Plan,
    /// Of the reaper, once it watches.
    bell: Option<Bell>,
    target: Option<Arc<dyn Target>>,
    /// The last signal sent, for the verdict.
    sent: Option<Signal>,
    /// The script may run: from here on it is ended, or goes on without this agent.
    begun: bool,
    detached: bool,
    ended: bool,
    /// The handles of a job on several servers, one a server.
    parts: Vec<Weak<Control>>,
}

/// Ends one job; shared by the worker, the reaper, and the registry through which a job is cancelled.
pub struct Control {
    inner: Mutex<Inner>,
    /// The job's handle, where this is the one of a single server.
    whole: Option<Weak<Control>>,
}

impl Control {
    /// The handle of a job that was claimed. Nobody watches it yet: see [`crate::executors::Reaper::watch`].
    pub fn new() -> Arc<Self> {
        Self::of(None)
    }

    fn of(whole: Option<Weak<Control>>) -> Arc<Self> {
        let inner = Inner {
            plan: Plan::new(Pace::default()),
            bell: None,
            target: None,
            sent: None,
            begun: false,
            detached: false,
            ended: false,
            parts: Vec::new(),
        };
        Arc::new(Self { inner: Mutex::new(inner), whole })
    }

    /// The handle for one server of the job: what is asked of the job is asked of each.
    pub fn part(self: &Arc<Self>) -> Arc<Self> {
        let part = Self::of(Some(Arc::downgrade(self)));
        let mut inner = self.lock();
        inner.parts.retain(|part| part.strong_count() > 0);
        inner.parts.push(Arc::downgrade(&part));
        let (reason, detached) = (inner.plan.reason().cloned(), inner.detached);
        drop(inner);
        if let Some(reason) = reason {
            part.request(reason);
        }
        if detached {
            part.detach();
        }
        part
    }

    pub(super) fn watched_by(&self, bell: Bell, pace: Pace) {
        let mut inner = self.lock();
        inner.plan.set_pace(pace);
        inner.bell = Some(bell);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, then wakes the reaper; the parts, for the same to be done to them.
    fn change(&self, act: impl FnOnce(&mut Inner)) -> Vec<Arc<Self>> {
        let mut inner = self.lock();
        act(&mut inner);
        let parts = inner.parts.iter().filter_map(Weak::upgrade).collect();
        let bell = inner.bell.clone();
        drop(inner);
        if let Some(bell) = bell {
            bell.ring();
        }
        parts
    }

    /// The script is started now, or was by an earlier agent. False where the agent ends: then it must not be started.
    #[must_use]
    pub fn begin(&self) -> bool {
        if let Some(whole) = self.whole.as_ref().and_then(Weak::upgrade)
            && !whole.begin()
        {
            return false;
        }
        let mut inner = self.lock();
        inner.begun |= !inner.detached;
        !inner.detached
    }

    /// Asks for the job's end. The first reason is the one that counts.
    pub fn request(&self, reason: Reason) {
        let parts = self.change(|inner| inner.plan.request(reason.clone()));
        parts.iter().for_each(|part| part.request(reason.clone()));
    }

    /// The script has begun: from `at` on, `reason` ends it.
    pub fn set_deadline(&self, at: Instant, reason: Reason) {
        self.change(|inner| inner.plan.set_deadline(at, reason));
    }

    /// There is something to signal from now on.
    pub fn set_target(&self, target: Arc<dyn Target>) {
        self.change(|inner| inner.target = Some(target));
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

    /// The agent ends. A script that runs is to go on, and nothing of it is to be touched any more; one that has not begun
    /// is not started.
    pub fn detach(&self) {
        let parts = self.change(Inner::detach);
        parts.iter().for_each(|part| part.detach());
    }

    /// The agent ends and leaves nothing that runs: what has begun is ended for `who`, the rest is not started.
    pub fn stop(&self, who: &'static str) {
        let mut begun = false;
        let parts = self.change(|inner| {
            begun = inner.begun;
            if begun {
                inner.plan.request(Reason::Cancelled(who));
            } else {
                inner.detach();
            }
        });
        for part in parts {
            if begun {
                part.request(Reason::Cancelled(who));
            } else {
                part.detach();
            }
        }
    }

    /// Whether the agent ends: the script is left to the next one, or is not started.
    pub fn is_detached(&self) -> bool {
        self.lock().detached
    }

    /// Whether somebody still waits for what is being prepared.
    pub fn is_wanted(&self) -> bool {
        let inner = self.lock();
        !inner.detached && inner.plan.reason().is_none()
    }

    /// Whether it goes back to the queue: the agent ends before it has begun, and nobody wanted its end before.
    pub fn is_given_back(&self) -> bool {
        let inner = self.lock();
        inner.detached && !inner.begun && inner.plan.reason().is_none()
    }

    /// The job is over: nothing is to be signalled any more.
    pub fn end(&self) {
        self.change(Inner::end);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// One step of the plan: the signal to send and to whom, or the moment of the next step. While there is nothing to
    /// signal yet, the plan stands still.
    pub(super) fn step(&self, now: Instant) -> (Option<Due>, Option<Instant>) {
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

impl Inner {
    fn detach(&mut self) {
        self.detached = true;
        self.end();
    }

    fn end(&mut self) {
        self.ended = true;
        self.target = None;
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("reason", &self.reason()).finish_non_exhaustive()
    }
}

//! Which jobs this agent has in hand, and how to cancel one.
//!
//! A job is in the registry from the moment it is claimed until its worker drops the [`Token`], on whatever path, a
//! panic included. The same id cannot be entered twice, so that a job which the backend hands out again while it runs
//! is not run again. A cancel that comes before the job can be stopped is kept and carried out as soon as it can.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::job::Id;

/// Stops one job; is told who wants that.
pub type Cancel = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Leaves one job's script to the next agent.
pub type Leave = Arc<dyn Fn() + Send + Sync>;

/// The registry, shared by clones.
#[derive(Clone, Default)]
pub struct Running(Arc<Shared>);

#[derive(Default)]
struct Shared {
    jobs: Mutex<BTreeMap<Id, Entry>>,
    changed: Condvar,
}

#[derive(Default)]
struct Entry {
    cancel: Option<Cancel>,
    leave: Option<Leave>,
    /// Who cancelled it before it could be stopped.
    pending: Option<&'static str>,
}

/// One job's place in the registry; dropping it takes the job out.
#[must_use = "dropping the token takes the job out of the registry"]
pub struct Token {
    running: Running,
    id: Id,
}

impl Running {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a job; `None` when it is in already.
    pub fn claim(&self, id: &Id) -> Option<Token> {
        let mut jobs = self.lock();
        if jobs.contains_key(id) {
            return None;
        }
        jobs.insert(id.clone(), Entry::default());
        Some(Token { running: self.clone(), id: id.clone() })
    }

    /// The ids of all jobs in hand, in order.
    pub fn ids(&self) -> Vec<Id> {
        self.lock().keys().cloned().collect()
    }

    /// How many jobs are in hand.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no job is in hand.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Says how a job is stopped. A cancel that came before is carried out now, on this thread.
    pub fn set_cancel(&self, id: &Id, cancel: Cancel) {
        let pending = match self.lock().get_mut(id) {
            Some(entry) => {
                entry.cancel = Some(Arc::clone(&cancel));
                entry.pending.take()
            }
            None => return,
        };
        // Outside the lock: the hook may look into the registry itself.
        if let Some(who) = pending {
            cancel(who);
        }
    }

    /// Cancels a job on behalf of `who`; false when it is not in hand.
    pub fn cancel(&self, id: &Id, who: &'static str) -> bool {
        let cancel = match self.lock().get_mut(id) {
            None => return false,
            Some(entry) => {
                if entry.cancel.is_none() {
                    // The first one to ask is the one who is named.
                    entry.pending.get_or_insert(who);
                }
                entry.cancel.clone()
            }
        };
        if let Some(cancel) = cancel {
            cancel(who);
        }
        true
    }

    /// Says how a job is left to the next agent.
    pub fn set_leave(&self, id: &Id, leave: Leave) {
        if let Some(entry) = self.lock().get_mut(id) {
            entry.leave = Some(leave);
        }
    }

    /// Leaves every job in hand that can be left; the others are cancelled on behalf of `who`.
    pub fn leave_all(&self, who: &'static str) {
        for id in self.ids() {
            let leave = self.lock().get(&id).and_then(|entry| entry.leave.clone());
            match leave {
                Some(leave) => leave(),
                None => drop(self.cancel(&id, who)),
            }
        }
    }

    /// Cancels every job in hand.
    pub fn cancel_all(&self, who: &'static str) {
        for id in self.ids() {
            self.cancel(&id, who);
        }
    }

    /// Waits at most `wait` until no job is in hand; whether that came about.
    pub fn wait_until_empty(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let mut jobs = self.lock();
        while !jobs.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            jobs = self.0.changed.wait_timeout(jobs, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Entry>> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Token {
    /// The job's id.
    pub fn id(&self) -> &Id {
        &self.id
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.running.lock().remove(&self.id);
        self.running.0.changed.notify_all();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Running").field(&self.ids()).finish()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Token").field(&self.id).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn id(text: &str) -> Id {
        Id::parse(text).expect("an id")
    }

    /// A hook that writes down who called it.
    fn hook() -> (Cancel, Arc<Mutex<Vec<&'static str>>>) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&calls);
        (Arc::new(move |who| kept.lock().expect("lock").push(who)), calls)
    }

    #[test]
    fn a_job_is_in_once_until_its_token_is_gone() {
        let running = Running::new();
        let token = running.claim(&id("a")).expect("free");
        assert!(running.claim(&id("a")).is_none());
        let other = running.claim(&id("b")).expect("free");
        assert_eq!((running.len(), running.ids()), (2, vec![id("a"), id("b")]));
        drop(token);
        assert_eq!(running.ids(), [id("b")]);
        let again = running.claim(&id("a")).expect("free again");
        assert!(!running.wait_until_empty(Duration::from_millis(1)));
        drop((again, other));
        assert!(running.is_empty() && running.wait_until_empty(Duration::ZERO));
    }

    #[test]
    fn a_panicking_worker_leaves_nothing_behind() {
        let running = Running::new();
        let token = running.claim(&id("a")).expect("free");
        let result = catch_unwind(AssertUnwindSafe(move || {
            let _token = token;
            panic!("as planned");
        }));
        assert!(result.is_err() && running.is_empty());
    }

    #[test]
    fn a_cancel_reaches_the_job_whenever_it_comes() {
        let running = Running::new();
        let (cancel, calls) = hook();
        assert!(!running.cancel(&id("a"), "nobody"));
        running.set_cancel(&id("a"), Arc::clone(&cancel));
        let token = running.claim(&id("a")).expect("free");
        assert!(running.cancel(&id("a"), "early"));
        assert!(running.cancel(&id("a"), "second"));
        assert!(calls.lock().expect("lock").is_empty());
        running.set_cancel(&id("a"), cancel);
        assert_eq!(*calls.lock().expect("lock"), ["early"]);
        running.cancel_all("late");
        assert_eq!(*calls.lock().expect("lock"), ["early", "late"]);
        drop(token);
        assert!(!running.cancel(&id("a"), "too late"));
        assert_eq!(calls.lock().expect("lock").len(), 2);
    }

    #[test]
    fn a_waiter_wakes_when_the_last_job_ends() {
        let running = Running::new();
        let token = running.claim(&id("a")).expect("free");
        let thread = crate::os::threads::spawn("t-drop", move || drop(token)).expect("a thread");
        assert!(running.wait_until_empty(Duration::from_secs(20)));
        thread.join_within(Duration::from_secs(5));
    }
}

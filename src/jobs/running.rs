//! Which jobs this agent has in hand, and how to cancel one.
//!
//! A job is in the registry from the moment it is claimed until its worker drops the [`Token`], on whatever path, a
//! panic included. The same id cannot be entered twice, so that a job which the backend hands out again while it runs
//! is not run again. A cancel that comes before the job can be stopped is kept and carried out as soon as it can.
//! The worker notes how far a job has come, for the operator's `status`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::job::{Id, Kind};
use crate::os::clock;

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

struct Entry {
    cancel: Option<Cancel>,
    leave: Option<Leave>,
    /// Who cancelled it before it could be stopped.
    pending: Option<&'static str>,
    /// Who cancelled it first.
    cancelled_by: Option<&'static str>,
    claimed: Instant,
    step: Step,
    step_since: Instant,
    kind: Option<Kind>,
    execution: Option<Id>,
    place: Option<String>,
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Claimed,
    Preparing,
    Running,
    /// Its script has ended: a cancel comes too late.
    Reporting,
}

impl Step {
    /// The word that `status` has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Reporting => "reporting",
        }
    }
}

/// One fact about a job in hand. A later one takes the place of an earlier one of its sort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    Step(Step),
    Kind(Kind),
    Execution(Id),
    /// The name of its container, or its servers as [`crate::job::Server::shown`] has them.
    Place(String),
}

/// One job in hand as it is now. What nobody has noted yet is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InHand {
    pub id: Id,
    pub execution: Option<Id>,
    pub kind: Option<Kind>,
    pub step: Step,
    /// Since the claim.
    pub age: Duration,
    /// Since this step began.
    pub in_step: Duration,
    pub place: Option<String>,
    /// Who cancelled it; it may not have ended yet.
    pub cancelled_by: Option<&'static str>,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            cancel: None,
            leave: None,
            pending: None,
            cancelled_by: None,
            claimed: now,
            step: Step::Claimed,
            step_since: now,
            kind: None,
            execution: None,
            place: None,
        }
    }

    fn note(&mut self, note: Note, now: Instant) {
        match note {
            Note::Step(step) if step != self.step => (self.step, self.step_since) = (step, now),
            Note::Step(_) => {}
            Note::Kind(kind) => self.kind = Some(kind),
            Note::Execution(execution) => self.execution = Some(execution),
            Note::Place(place) => self.place = Some(place),
        }
    }

    fn shown(&self, id: &Id, now: Instant) -> InHand {
        InHand {
            id: id.clone(),
            execution: self.execution.clone(),
            kind: self.kind,
            step: self.step,
            age: now.saturating_duration_since(self.claimed),
            in_step: now.saturating_duration_since(self.step_since),
            place: self.place.clone(),
            cancelled_by: self.cancelled_by,
        }
    }
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
        jobs.insert(id.clone(), Entry::new(clock::now()));
        Some(Token { running: self.clone(), id: id.clone() })
    }

    /// The ids of all jobs in hand, in order.
    pub fn ids(&self) -> Vec<Id> {
        self.lock().keys().cloned().collect()
    }

    /// Notes something about a job; nothing happens when it is not in hand.
    pub fn note(&self, id: &Id, note: Note) {
        if let Some(entry) = self.lock().get_mut(id) {
            entry.note(note, clock::now());
        }
    }

    /// All jobs in hand as they are now, in the order of their ids.
    pub fn list(&self) -> Vec<InHand> {
        let now = clock::now();
        self.lock().iter().map(|(id, entry)| entry.shown(id, now)).collect()
    }

    /// One job as it is now; `None` when it is not in hand.
    pub fn get(&self, id: &Id) -> Option<InHand> {
        self.lock().get(id).map(|entry| entry.shown(id, clock::now()))
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
                entry.cancelled_by.get_or_insert(who);
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
        let until = clock::now() + wait;
        let mut jobs = self.lock();
        while !jobs.is_empty() {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return false;
            }
            jobs = clock::wait(&self.0.jobs, &self.0.changed, jobs, left);
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

    /// The job has come to this step.
    pub fn step(&self, step: Step) {
        self.note(Note::Step(step));
    }

    /// Notes something about the job.
    pub fn note(&self, note: Note) {
        self.running.note(&self.id, note);
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
    fn what_is_noted_is_shown_and_steps_have_their_own_age() {
        let running = Running::new();
        running.note(&id("a"), Note::Step(Step::Running));
        let token = running.claim(&id("a")).expect("free");
        let fresh = running.get(&id("a")).expect("in hand");
        assert_eq!((fresh.step, fresh.kind, fresh.place, fresh.cancelled_by), (Step::Claimed, None, None, None));
        std::thread::sleep(Duration::from_millis(30));
        token.step(Step::Preparing);
        token.note(Note::Kind(Kind::Ssh));
        running.note(&id("a"), Note::Execution(id("exec-a")));
        running.note(&id("a"), Note::Place("web-1".to_owned()));
        std::thread::sleep(Duration::from_millis(5));
        // The same step again does not begin anew.
        token.step(Step::Preparing);
        assert!(running.cancel(&id("a"), "first") && running.cancel(&id("a"), "second"));
        let all = running.list();
        let [seen] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((seen.step, seen.kind), (Step::Preparing, Some(Kind::Ssh)));
        assert_eq!((seen.execution.as_ref(), seen.place.as_deref()), (Some(&id("exec-a")), Some("web-1")));
        assert_eq!(seen.cancelled_by, Some("first"));
        assert!(seen.in_step >= Duration::from_millis(5) && seen.age >= seen.in_step + Duration::from_millis(30));
        drop(token);
        assert!(running.get(&id("a")).is_none() && running.list().is_empty());
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

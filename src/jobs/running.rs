//! The registry of running jobs, and how to cancel one.
//!
//! A job is in the registry from its claim until its worker drops the [`Token`], on any path, a panic included. The same id
//! cannot be entered twice, so a running job that the backend hands out again is not run again. Each job has its
//! [`Control`] from the claim on, so that a cancel and the agent's end always reach it. The worker notes the job's progress
//! for the operator's `status`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::executors::Control;
use crate::job::{Id, Kind};
use crate::jobs::history::{Ending, History, shown_name};
use crate::os::clock;
use crate::policy::stop::Reason;
use crate::redact::Redactor;
use crate::secret::Secret;
use crate::verdict::Verdict;

/// The registry, shared by clones.
#[derive(Clone, Default)]
pub struct Running(Arc<Shared>);

#[derive(Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    changed: Condvar,
    history: History,
}

#[derive(Default)]
struct Jobs {
    entries: BTreeMap<Id, Entry>,
    /// The agent ends: what is claimed from here on does not begin.
    ending: bool,
}

struct Entry {
    control: Arc<Control>,
    redactor: Redactor,
    claimed: Instant,
    step: Step,
    step_since: Instant,
    kind: Option<Kind>,
    execution: Option<Id>,
    event: Option<String>,
    place: Option<String>,
    warm: bool,
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

/// One fact about a running job. A later one replaces an earlier one of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    Step(Step),
    Kind(Kind),
    Execution(Id),
    /// The name of its event, as the backend told it.
    Event(String),
    /// The name of its container, or its servers as [`crate::job::Server::shown`] has them.
    Place(String),
    /// Its container was started before the job was known.
    Warm,
}

/// The present state of one running job. A fact that was not noted yet is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InHand {
    pub id: Id,
    pub execution: Option<Id>,
    pub event: Option<String>,
    pub kind: Option<Kind>,
    pub step: Step,
    /// Since the claim.
    pub age: Duration,
    /// Since this step began.
    pub in_step: Duration,
    pub place: Option<String>,
    /// Its container was started before the job was known.
    pub warm: bool,
    /// Who cancelled it; it may not have ended yet.
    pub cancelled_by: Option<&'static str>,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            control: Control::new(),
            redactor: Redactor::default(),
            claimed: now,
            step: Step::Claimed,
            step_since: now,
            kind: None,
            execution: None,
            event: None,
            place: None,
            warm: false,
        }
    }

    fn note(&mut self, note: Note, now: Instant) {
        match note {
            Note::Step(step) if step != self.step => (self.step, self.step_since) = (step, now),
            Note::Step(_) => {}
            Note::Kind(kind) => self.kind = Some(kind),
            Note::Execution(execution) => self.execution = Some(execution),
            Note::Event(event) => self.event = Some(event),
            Note::Place(place) => self.place = Some(place),
            Note::Warm => self.warm = true,
        }
    }

    fn shown(&self, id: &Id, now: Instant) -> InHand {
        InHand {
            id: id.clone(),
            execution: self.execution.clone(),
            event: self.event.clone(),
            kind: self.kind,
            step: self.step,
            age: now.saturating_duration_since(self.claimed),
            in_step: now.saturating_duration_since(self.step_since),
            place: self.place.clone(),
            warm: self.warm,
            cancelled_by: match self.control.reason() {
                Some(Reason::Cancelled(who)) => Some(who),
                _ => None,
            },
        }
    }
}

/// One job's place in the registry; dropping it takes the job out.
#[must_use = "dropping the token takes the job out of the registry"]
pub struct Token {
    running: Running,
    id: Id,
    control: Arc<Control>,
    redactor: Redactor,
}

impl Running {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a job; `None` when it is in already.
    pub fn claim(&self, id: &Id) -> Option<Token> {
        let mut jobs = self.lock();
        if jobs.entries.contains_key(id) {
            return None;
        }
        let entry = Entry::new(clock::now());
        let (control, redactor) = (Arc::clone(&entry.control), entry.redactor.clone());
        if jobs.ending {
            control.detach();
        }
        jobs.entries.insert(id.clone(), entry);
        self.0.changed.notify_all();
        Some(Token { running: self.clone(), id: id.clone(), control, redactor })
    }

    /// The ids of all running jobs, in order.
    pub fn ids(&self) -> Vec<Id> {
        self.lock().entries.keys().cloned().collect()
    }

    /// Notes a fact about a job; does nothing if the job does not run.
    pub fn note(&self, id: &Id, note: Note) {
        if let Some(entry) = self.lock().entries.get_mut(id) {
            entry.note(note, clock::now());
        }
    }

    /// The present state of all running jobs, in the order of their ids.
    pub fn list(&self) -> Vec<InHand> {
        let now = clock::now();
        self.lock().entries.iter().map(|(id, entry)| entry.shown(id, now)).collect()
    }

    /// The present state of one job; `None` if it does not run.
    pub fn get(&self, id: &Id) -> Option<InHand> {
        self.lock().entries.get(id).map(|entry| entry.shown(id, clock::now()))
    }

    /// The last endings and samples.
    pub fn history(&self) -> &History {
        &self.0.history
    }

    /// Tells the redactors of all running jobs one more secret.
    pub fn know(&self, secret: &Secret) {
        for entry in self.lock().entries.values() {
            entry.redactor.add([secret]);
        }
    }

    /// The number of running jobs.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether no job runs.
    pub fn is_empty(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// Cancels a job on behalf of `who`; false if it does not run.
    pub fn cancel(&self, id: &Id, who: &'static str) -> bool {
        let Some(control) = self.lock().entries.get(id).map(|entry| Arc::clone(&entry.control)) else { return false };
        control.request(Reason::Cancelled(who));
        true
    }

    /// The agent ends: every script goes on without it, and no other begins.
    pub fn detach_all(&self) {
        self.end_all().iter().for_each(|control| control.detach());
    }

    /// The agent ends, and every script with it, on behalf of `who`; no other begins.
    pub fn stop_all(&self, who: &'static str) {
        self.end_all().iter().for_each(|control| control.stop(who));
    }

    fn end_all(&self) -> Vec<Arc<Control>> {
        let mut jobs = self.lock();
        jobs.ending = true;
        jobs.entries.values().map(|entry| Arc::clone(&entry.control)).collect()
    }

    /// Whether the agent ends: nothing that is claimed from here on begins.
    pub fn is_ending(&self) -> bool {
        self.lock().ending
    }

    /// Wakes who waits for a job: there will be none.
    pub fn wake(&self) {
        // Under the lock, between whose taking and the wait they look whether to end.
        let _jobs = self.lock();
        self.0.changed.notify_all();
    }

    /// Waits at most `wait` until a job is in the registry, or for [`Running::wake`].
    pub fn wait_for_one(&self, wait: Duration) {
        let jobs = self.lock();
        if jobs.entries.is_empty() {
            drop(clock::wait(&self.0.jobs, &self.0.changed, jobs, wait));
        }
    }

    /// Waits at most `wait` until no job runs; returns whether that is so.
    pub fn wait_until_empty(&self, wait: Duration) -> bool {
        let until = clock::now() + wait;
        let mut jobs = self.lock();
        while !jobs.entries.is_empty() {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return false;
            }
            jobs = clock::wait(&self.0.jobs, &self.0.changed, jobs, left);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Token {
    /// The job's id.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// By which the job is ended or left.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// By which the job's secrets stay here.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// The job has come to this step.
    pub fn step(&self, step: Step) {
        self.note(Note::Step(step));
    }

    /// The job has ended: it is among the last endings from here on.
    pub fn ended(&self, kind: Kind, verdict: &Verdict, took: Duration) {
        let event = self.running.lock().entries.get(&self.id).and_then(|entry| entry.event.as_deref().map(shown_name));
        self.running.history().ended(Ending {
            id: self.id.clone(),
            event,
            kind,
            status: verdict.status().as_str(),
            reason: verdict.reason(),
            exit_code: verdict.exit_code,
            took,
            at: clock::now(),
        });
    }

    /// Notes something about the job.
    pub fn note(&self, note: Note) {
        self.running.note(&self.id, note);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.control.end();
        self.running.lock().entries.remove(&self.id);
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
        assert!(!running.cancel(&id("a"), "nobody"));
        let token = running.claim(&id("a")).expect("free");
        assert!(running.cancel(&id("a"), "early") && running.cancel(&id("a"), "second"));
        assert_eq!(token.control().reason(), Some(Reason::Cancelled("early")));
        assert!(!token.control().is_wanted() && !token.control().is_given_back());
        drop(token);
        assert!(!running.cancel(&id("a"), "too late"));
    }

    /// One that was claimed, one that runs, one that was cancelled before, one that is claimed while the agent ends.
    fn at_the_end(end: impl FnOnce(&Running)) -> Vec<(bool, bool, Option<Reason>)> {
        let running = Running::new();
        let claim = |name| running.claim(&id(name)).expect("free");
        let mut tokens = vec![claim("claimed"), claim("runs"), claim("cancelled")];
        assert!(tokens[1].control().begin());
        running.cancel(&id("cancelled"), "user");
        end(&running);
        tokens.push(claim("late"));
        assert!(tokens.iter().all(|token| !token.control().is_wanted()));
        let seen = tokens.iter().map(|token| token.control());
        seen.map(|control| (control.begin(), control.is_given_back(), control.reason())).collect()
    }

    #[test]
    fn at_the_agents_end_what_has_not_begun_is_given_back_and_never_cancelled() {
        let (back, user) = ((false, true, None), (false, false, Some(Reason::Cancelled("user"))));
        let left = at_the_end(Running::detach_all);
        assert_eq!(left, [back.clone(), (false, false, None), user.clone(), back.clone()]);
        let stopped = at_the_end(|running| running.stop_all("the shutdown"));
        assert_eq!(stopped, [back.clone(), (true, false, Some(Reason::Cancelled("the shutdown"))), user, back]);
    }

    #[test]
    fn what_is_asked_of_a_job_is_asked_of_each_of_its_servers() {
        let running = Running::new();
        let token = running.claim(&id("a")).expect("free");
        let (one, two) = (token.control().part(), token.control().part());
        assert!(one.begin());
        running.stop_all("the shutdown");
        let three = token.control().part();
        for part in [&one, &two, &three] {
            assert_eq!((part.reason(), part.is_detached()), (Some(Reason::Cancelled("the shutdown")), false));
        }
        let other = Running::new();
        let token = other.claim(&id("b")).expect("free");
        let part = token.control().part();
        other.stop_all("the shutdown");
        assert!(!part.begin() && !token.control().part().begin(), "none has begun, and none does");
        assert!(token.control().is_given_back());
    }

    #[test]
    fn what_is_noted_is_shown_and_steps_have_their_own_age() {
        let running = Running::new();
        running.note(&id("a"), Note::Step(Step::Running));
        let token = running.claim(&id("a")).expect("free");
        let fresh = running.get(&id("a")).expect("it runs");
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

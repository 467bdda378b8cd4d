//! Delivers the reports that the backend did not take at the first try, for as long as it takes.
//!
//! A report waits on disk, in the records; memory knows only when to try it next. What the disk does not take is kept in
//! memory, up to a bound. A report leaves in one of three ways: the backend took it, the backend finally refused it, or
//! it waited longer than `jobs.reportRetention`; in the last two cases it moves to quarantine, where a person finds it. In all
//! three its job is remembered as finished before its entry goes.
//!
//! Whether a report of an earlier run was sent is not known, so the backend is asked first.

mod offer;
mod queue;

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::offer::Tried;
use self::offer::{List, is_refused, least_pause, offer};
use self::queue::{Item, Next, Queue};
use crate::api::report::Delivery;
use crate::api::{Client, Error, Problem};
use crate::job::Id;
use crate::jobs::record::{Done, Ended, Entry, RecordStore, State as RecordState, Waiting, now_ms};
use crate::limits;
use crate::metrics;
use crate::os::clock;
use crate::os::pulse::{self, Pulse};
use crate::os::random;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::policy::backoff::{Backoff, Growth};

/// How long and how often a report is offered.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// `jobs.reportRetention`, by the wall clock.
    pub retention: Duration,
    /// Each run offers a report for at least so long, by the monotonic clock.
    pub least_offer: Duration,
    pub backoff: Backoff,
    /// `limits::EARLIER_CALLS`.
    pub settle: Duration,
}

impl Terms {
    /// The usual ones.
    pub fn new(retention: Duration) -> Self {
        let (initial, max) = (limits::OUTBOX_FIRST, limits::OUTBOX_MOST);
        let backoff = Backoff { growth: Growth::Exponential, initial, max };
        let (least_offer, settle) = (limits::OUTBOX_LEAST_OFFER, limits::EARLIER_CALLS);
        Self { retention, least_offer, backoff, settle }
    }
}

/// The outbox, shared by clones.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    records: RecordStore,
    client: Client,
    terms: Terms,
    /// `jobs.reportRetention` as it is now.
    retention: Mutex<Duration>,
    known: Mutex<Known>,
    changed: Condvar,
    stop: Stop,
}

#[derive(Debug, Default)]
struct Known {
    queue: Queue,
    set_aside: u64,
    last_error: Option<String>,
    ending: bool,
}

/// The outbox in figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Reports that wait.
    pub waiting: usize,
    /// How long the oldest of them has waited, by the wall clock.
    pub oldest: Option<Duration>,
    /// Reports that this run gave up.
    pub set_aside: u64,
    /// The last failure, until a report was taken.
    pub last_error: Option<String>,
    /// `jobs.reportRetention`, as it is in effect.
    pub retention: Duration,
}

/// What became of a report that was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handed {
    Delivered(Delivery),
    /// The outbox goes on trying; why the first try failed.
    Waiting(String),
    /// The backend finally refused it, with this message.
    SetAside(String),
}

/// Neither disk nor memory takes a report: the caller keeps it.
#[derive(Debug)]
pub struct Refused {
    pub entry: Box<Entry>,
    pub why: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the outbox cannot keep the report of job {}: {}", self.entry.job, self.why)
    }
}

impl std::error::Error for Refused {}

impl Outbox {
    /// Starts the thread `outbox`, with the reports of an earlier run. It touches `pulse` before each report, each call and
    /// each wait for the next.
    pub fn start(
        records: RecordStore,
        client: &Client,
        ended: Vec<Waiting>,
        terms: Terms,
        pulse: Pulse,
    ) -> io::Result<(Self, Thread)> {
        let stop = Stop::new();
        let client = client.with_stop(stop.clone());
        let (known, changed) = (Mutex::default(), Condvar::new());
        let retention = Mutex::new(terms.retention);
        let outbox = Self(Arc::new(Shared { records, client, terms, retention, known, changed, stop }));
        outbox.take_over(ended);
        let own = outbox.clone();
        let thread = threads::spawn("outbox", move || {
            let _watched = pulse.enter();
            own.run();
        })?;
        Ok((outbox, thread))
    }

    /// Another `jobs.reportRetention`, also for the reports that wait already.
    pub fn keep_for(&self, retention: Duration) {
        *self.0.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention;
    }

    fn retention(&self) -> Duration {
        *self.0.retention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the reports of an earlier run, but for those that it had seen taken.
    fn take_over(&self, ended: Vec<Waiting>) {
        let now = clock::now();
        let tried = Tried::unknown().after(now + self.0.terms.settle);
        let mut known = self.lock();
        for Waiting { job, attempts, since_ms } in ended {
            if self.0.records.done().lookup(&job).is_some_and(|done| done.attempts >= attempts) {
                self.0.records.forget(&job);
            } else {
                // The earlier run may have been killed with the report on its way. What a clock that
                // was ahead wrote waits from now on, and not until that clock's time.
                known.queue.insert(job, Item::new(since_ms.min(now_ms()), tried, None, now));
            }
        }
        if known.queue.len() > 0 {
            log::info!("{} reports of an earlier run wait for the backend", known.queue.len());
        }
        self.show(&known);
    }

    #[cfg(test)]
    pub fn report(&self, entry: Entry) -> Result<Handed, Refused> {
        self.report_after(entry, Tried::default(), |_| ())
    }

    /// Sees to the report of a job that ended: writes it to the records, tries once on this thread, and keeps it for
    /// further tries if need be. `entry` is at the stage `Ended`. `safe` is called before the first try, with whether the
    /// report is on disk. `tried` is what is known of earlier tries: after one whose fate is unknown, the backend is
    /// asked, and not on this thread. An entry of a job of which a folder may be left on a server stays until [`Outbox::cleared`].
    pub fn report_after(&self, entry: Entry, tried: Tried, safe: impl FnOnce(bool)) -> Result<Handed, Refused> {
        let not_ended = |entry| Err(refused(entry, "its job has not ended".to_owned()));
        if entry.ended().is_none() {
            return not_ended(entry);
        }
        let written = self.0.records.put(&entry);
        if let Err(error) = &written {
            log::warn!("the report of job {} is kept in memory alone: {error}", entry.job);
        }
        safe(written.is_ok());
        let Some(Ended { report, .. }) = entry.ended() else { return not_ended(entry) };
        if tried != Tried::default() {
            let why = "the backend may still be at a call of an earlier agent, or has the report".to_owned();
            return self.enter(entry, tried, None).map(|()| Handed::Waiting(why));
        }
        let mut tried = tried;
        let ids = (&entry.job, &entry.execution);
        match offer(&self.0.client, ids, report, &mut tried, &mut List::default()) {
            Ok(delivery) => {
                self.taken(&entry);
                Ok(Handed::Delivered(delivery))
            }
            Err(error) if is_refused(&tried, &error) => {
                self.give_up(&entry, &error.to_string());
                Ok(Handed::SetAside(error.to_string()))
            }
            Err(error) => {
                log::warn!("the result of job {} is not delivered yet, the outbox goes on: {error}", entry.job);
                self.enter(entry, tried, Some(&error))?;
                Ok(Handed::Waiting(error.to_string()))
            }
        }
    }

    /// Nothing of this execution is left on a server, or what could be tried was tried: its entry need not outlive its report.
    pub fn cleared(&self, job: &Id, execution: &Id) {
        // Where its report waits, its entry goes with that.
        if !self.lock().queue.set_cleared(job) {
            self.0.records.forget_execution(job, execution);
        }
    }

    /// Keeps a report; `last` is the failure of the try before.
    fn enter(&self, entry: Entry, tried: Tried, last: Option<&Error>) -> Result<(), Refused> {
        let Some(since_ms) = entry.ended().map(|ended| ended.since_ms) else {
            return Err(refused(entry, "its job has not ended".to_owned()));
        };
        let written = self.0.records.put(&entry);
        let mut known = self.lock();
        if let Err(error) = &written
            && known.ending
        {
            return Err(refused(entry, format!("the agent ends, and {error}")));
        }
        if !known.queue.has_room(&entry, written.is_err()) {
            let why = written.map_or_else(
                |e| format!("too many others wait in memory, and {e}"),
                |()| format!("{} others wait; the next start finds it on disk", known.queue.len()),
            );
            return Err(refused(entry, why));
        }
        let (job, remains) = (entry.job.clone(), entry.has_remains());
        let held = written.is_err().then(|| Arc::new(entry));
        let mut item = Item::new(since_ms.min(now_ms()), tried, held, clock::now());
        item.remains = remains;
        known.queue.insert(job.clone(), item);
        if let Some(error) = last {
            self.failed(&mut known, &job, tried, error);
        }
        self.show(&known);
        self.0.changed.notify_all();
        Ok(())
    }

    /// Whether the report of this job waits here: then it must not be run, nor its entry written over.
    pub fn holds(&self, job: &Id) -> bool {
        self.lock().queue.contains(job)
    }

    /// The jobs whose report waits here.
    pub fn ids(&self) -> Vec<Id> {
        self.lock().queue.ids()
    }

    /// The figures as they are now.
    pub fn state(&self) -> State {
        let known = self.lock();
        State {
            waiting: known.queue.len(),
            oldest: known.queue.oldest_ms().map(age),
            set_aside: known.set_aside,
            last_error: known.last_error.clone(),
            retention: self.retention(),
        }
    }

    /// Tries everything at once, but for what the backend asked to wait.
    #[cfg(test)]
    pub fn kick(&self) {
        self.lock().queue.kick(clock::now());
        self.0.changed.notify_all();
    }

    /// Asks the thread to end; what waits stays on disk for the next run. A call to the backend is not cut short.
    pub fn stop(&self) {
        self.lock().ending = true;
        self.0.stop.set();
        self.0.changed.notify_all();
    }

    /// The backend has this report: remembers its job, then lets its entry go, unless a folder may be left.
    fn taken(&self, entry: &Entry) {
        self.remember(entry);
        if !entry.has_remains() {
            self.0.records.forget(&entry.job);
        }
    }

    /// The same of one that waited.
    fn taken_late(&self, entry: &Entry) {
        self.remember(entry);
        let job = &entry.job;
        let mut known = self.lock();
        known.queue.answered();
        known.last_error = None;
        if known.queue.get(job).is_some_and(|item| item.remains) {
            // From here on it is up to `cleared`.
            return self.leave(known, job);
        }
        drop(known);
        // While it is known here, nobody writes another entry of this job.
        self.0.records.forget(job);
        self.leave(self.lock(), job);
    }

    fn run(&self) {
        let mut list = List::default();
        while let Some((job, tried, held)) = self.next() {
            self.work(&job, tried, held, &mut list);
        }
        self.save_held();
    }

    /// Waits for the next report that is due; `None` when the outbox ends.
    fn next(&self) -> Option<(Id, Tried, Option<Arc<Entry>>)> {
        let mut known = self.lock();
        while !known.ending {
            pulse::touch();
            let wait = match known.queue.next(clock::now()) {
                Next::Try(job) => {
                    let item = known.queue.get(&job)?;
                    let (tried, held) = (item.tried, item.held.clone());
                    return Some((job, tried, held));
                }
                Next::Wait(wait) => wait,
            };
            known = clock::wait(&self.0.known, &self.0.changed, known, wait);
        }
        None
    }

    /// One try with one report.
    fn work(&self, job: &Id, mut tried: Tried, held: Option<Arc<Entry>>, list: &mut List) {
        let Some(entry) = self.entry(job, held) else { return };
        let Some(Ended { report, .. }) = entry.ended() else { return };
        let since_ms = self.lock().queue.get(job).map_or_else(now_ms, |item| item.since_ms);
        match offer(&self.0.client, (job, &entry.execution), report, &mut tried, list) {
            Ok(delivery) => {
                log::info!("job {job} reported as {} ({delivery:?}), {:.0?} late", report.status, age(since_ms));
                self.taken_late(&entry);
            }
            Err(error) if is_refused(&tried, &error) => {
                self.give_up(&entry, &error.to_string());
                let mut known = self.lock();
                known.queue.answered();
                self.leave(known, job);
            }
            Err(error) => {
                let seen = self.failed(&mut self.lock(), job, tried, &error);
                let limit = self.retention();
                if age(since_ms) > limit && seen > self.0.terms.least_offer {
                    self.give_up(&entry, &format!("not taken for {limit:?} (jobs.reportRetention); at last: {error}"));
                    self.leave(self.lock(), job);
                }
            }
        }
    }

    /// The entry of a report that is due. `None` when it cannot be read now, or any more.
    fn entry(&self, job: &Id, held: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        if let Some(entry) = held {
            if self.0.records.put(&entry).is_ok() {
                self.lock().queue.let_go(job);
            }
            return Some(entry);
        }
        let why = match self.0.records.read(job) {
            Ok(Some(entry)) if entry.ended().is_some() => return Some(Arc::new(entry)),
            Ok(Some(_)) => "its entry is that of a job which runs".to_owned(),
            Ok(None) => "its entry is not on disk any more, or is in quarantine".to_owned(),
            Err(error) => {
                let mut known = self.lock();
                log::warn!("job {job}: {error}");
                known.last_error = Some(error.to_string());
                known.queue.failed(job, clock::now(), &self.0.terms.backoff, Duration::ZERO, random::unit());
                return None;
            }
        };
        log::error!("the report of job {job} is lost: {why}");
        metrics::REPORTS_SET_ASIDE.add(1);
        let mut known = self.lock();
        known.set_aside += 1;
        known.last_error = Some(format!("the report of job {job} is lost: {why}"));
        self.leave(known, job);
        None
    }

    /// Notes a failure; how long this run has known of the report.
    fn failed(&self, known: &mut Known, job: &Id, tried: Tried, error: &Error) -> Duration {
        let now = clock::now();
        known.last_error = Some(error.to_string());
        known.queue.set_tried(job, tried);
        let Some(item) = known.queue.get(job) else { return Duration::ZERO };
        let seen = now.saturating_duration_since(item.known_at);
        match error.problem {
            Problem::Stopped => {}
            Problem::Unknown => known.queue.look_again(job, now),
            _ => {
                let (least, unit) = (least_pause(&tried, error), random::unit());
                let (failures, away) = known.queue.failed(job, now, &self.0.terms.backoff, least, unit);
                if away {
                    log::warn!("{} reports wait for the backend: {error}", known.queue.len());
                } else if failures.is_power_of_two() {
                    log::warn!("the result of job {job} is not delivered after {failures} tries: {error}");
                }
            }
        }
        seen
    }

    /// A report that will not be taken: moves it to where a person finds it.
    fn give_up(&self, entry: &Entry, why: &str) {
        let job = &entry.job;
        self.remember(entry);
        let records = &self.0.records;
        // What is on disk may be an earlier stage, when the disk did not take the report.
        let kept =
            records.put(entry).is_ok() && records.quarantine(job, why) || records.write_to_quarantine(entry, why);
        if kept {
            log::error!("the report of job {job} moves to state.dir/aside: {why}");
        } else if let Some(Ended { report, .. }) = entry.ended() {
            let (status, code, words) = (&report.status, report.exit_code, &report.message);
            log::error!("the report of job {job} is lost ({why}); it was: {status}, exit code {code}, {words}");
        }
        records.forget(job);
        metrics::REPORTS_SET_ASIDE.add(1);
        let mut known = self.lock();
        known.set_aside += 1;
        known.last_error = Some(why.to_owned());
    }

    /// Ended → Delivered.
    fn remember(&self, entry: &Entry) {
        let Some(Ended { report, .. }) =
            entry.ended().filter(|_| entry.stage.state().may_become(RecordState::Delivered))
        else {
            return;
        };
        self.0.records.done().remember(Done {
            job: entry.job.clone(),
            attempts: entry.attempts,
            status: report.status.clone(),
            exit_code: report.exit_code,
            message: report.message.clone(),
            at_ms: now_ms(),
        });
    }

    fn leave(&self, mut known: MutexGuard<'_, Known>, job: &Id) {
        known.queue.remove(job);
        self.show(&known);
    }

    /// At the end: what is in memory alone gets a last chance.
    fn save_held(&self) {
        let held = self.lock().queue.held();
        for entry in held {
            pulse::touch();
            let Some(Ended { report, .. }) = entry.ended() else { continue };
            if let Err(error) = self.0.records.put(&entry) {
                let (job, status, code) = (&entry.job, &report.status, report.exit_code);
                log::error!("the report of job {job} ({status}, exit code {code}) is lost with the agent: {error}");
            }
        }
    }

    fn show(&self, known: &Known) {
        metrics::outbox(known.queue.len(), known.queue.oldest_ms().map(|ms| ms / 1000));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(entry: Entry, why: String) -> Refused {
    Refused { entry: Box::new(entry), why }
}

/// How long ago that was, by the wall clock.
fn age(since_ms: u64) -> Duration {
    Duration::from_millis(now_ms().saturating_sub(since_ms))
}

#[cfg(test)]
mod tests;

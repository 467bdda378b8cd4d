//! Delivers the reports of ended jobs, for as long as it takes. No worker waits for it.
//!
//! A report waits on disk, in the records; memory knows only when to try it next, and keeps small ones until their first
//! try. What the disk does not take is kept in memory, up to a bound. A report leaves in one of three ways: the backend took
//! it, the backend finally refused it, or it waited longer than `jobs.reportRetention`; in the last two cases it moves to
//! quarantine, where a person finds it. In all three its job is remembered as finished before its entry goes.
//!
//! The thread `outbox` offers one report at a time. While it is at one, `outbox-more` threads take the others
//! ([`send`]). Whether a report of an earlier run was sent is not known, so the backend is asked first.

mod offer;
mod queue;
mod send;
mod terms;

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::offer::List;
pub use self::offer::Tried;
use self::queue::{Item, Queue};
pub use self::terms::{Earlier, Terms};
use crate::api::Client;
use crate::job::Id;
use crate::jobs::record::{Entry, RecordStore, Waiting, now_ms};
use crate::limits;
use crate::metrics;
use crate::os::clock;
use crate::os::pulse::Pulse;
use crate::os::random;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};

/// The outbox, shared by clones.
#[derive(Clone)]
pub struct Outbox(Arc<Shared>);

struct Shared {
    records: RecordStore,
    client: Client,
    /// Asks whether the backend is back.
    asking: Client,
    terms: Terms,
    /// `jobs.reportRetention` as it is now.
    retention: Mutex<Duration>,
    known: Mutex<Known>,
    /// As it was asked for last.
    list: List,
    changed: Condvar,
    stop: Stop,
}

#[derive(Default)]
struct Known {
    queue: Queue,
    /// Threads that wait for a report to be due.
    idle: usize,
    /// The threads `outbox-more`.
    more: Vec<Thread>,
    set_aside: u64,
    last_error: Option<String>,
    ending: bool,
}

/// The outbox in figures.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
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
        let asking = client.asking(stop.clone());
        // Whether a report is taken says nothing of the backend as a whole.
        let client = client.with_stop(stop.clone()).unheard();
        let (known, list, changed) = (Mutex::default(), List::default(), Condvar::new());
        let retention = Mutex::new(terms.retention);
        let outbox = Self(Arc::new(Shared { records, client, asking, terms, retention, known, list, changed, stop }));
        outbox.take_over(ended);
        let returned = Arc::downgrade(&outbox.0);
        outbox
            .0
            .asking
            .on_return(Box::new(move || returned.upgrade().into_iter().for_each(|shared| Self(shared).returned())));
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
        for Waiting { job, attempts, since_ms, bytes } in ended {
            if self.0.records.done().lookup(&job).is_some_and(|done| done.attempts >= attempts) {
                self.0.records.forget(&job);
            } else {
                // The earlier run may have been killed with the report on its way. What a clock that
                // was ahead wrote waits from now on, and not until that clock's time.
                let mut item = Item::new(since_ms.min(now_ms()), tried, None, now);
                item.bytes = bytes;
                known.queue.insert(job, item);
            }
        }
        if known.queue.len() > 0 {
            let first = now + self.0.terms.settle + self.0.terms.spread.mul_f64(random::unit());
            known.queue.begin_slowly(first, &self.0.terms);
            log::info!("{} reports of an earlier run wait for the backend", known.queue.len());
        }
        self.show(&known);
    }

    /// Takes over the report of a job that ended: writes it to the records, and offers it on another thread for as long as
    /// it takes. `entry` is at the stage `Ended`. `safe` is called in between, with whether the report is on disk. `tried` is
    /// what is known of earlier tries: after one whose fate is unknown, the backend is asked. `earlier` goes before it.
    /// An entry of a job of which a folder may be left on a server stays until [`Outbox::cleared`].
    pub fn hand_over(
        &self,
        mut entry: Entry,
        tried: Tried,
        earlier: Option<Earlier>,
        safe: impl FnOnce(bool),
    ) -> Result<(), Refused> {
        let Some(since_ms) = entry.ended().map(|ended| ended.since_ms) else {
            return Err(refused(entry, "its job has not ended".to_owned()));
        };
        let written = self.0.records.put(&entry);
        if let Err(error) = &written {
            log::warn!("the report of job {} is kept in memory alone: {error}", entry.job);
        }
        safe(written.is_ok());
        let earlier = earlier.and_then(|earlier| self.one_more(earlier, &mut entry));
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
        let (job, remains, size) = (entry.job.clone(), entry.has_remains(), entry.report_size());
        let held = (written.is_err() || known.queue.may_keep(size)).then(|| Arc::new(entry));
        let mut item = Item::new(since_ms.min(now_ms()), tried, held, clock::now());
        (item.bytes, item.earlier) = (size, earlier);
        (item.on_disk, item.is_new, item.remains) = (written.is_ok(), true, remains);
        known.queue.insert(job, item);
        self.show(&known);
        self.call_more(&mut known);
        drop(known);
        self.0.changed.notify_all();
        Ok(())
    }

    /// What goes before one more report, unless too much goes before others: then it is waited for here.
    fn one_more(&self, earlier: Earlier, entry: &mut Entry) -> Option<Earlier> {
        if self.lock().queue.with_earlier() < limits::OUTBOX_EARLIER {
            return Some(earlier);
        }
        if let Some(lines) = earlier() {
            entry.set_live_lines_dropped(lines);
        }
        None
    }

    /// The backend answers again after it did not.
    fn returned(&self) {
        let mut known = self.lock();
        if known.queue.returned(clock::now(), &self.0.terms, random::unit()) {
            log::info!("the backend is back: {} reports wait for it", known.queue.len());
        }
        self.call_more(&mut known);
        drop(known);
        self.0.changed.notify_all();
    }

    /// Nothing of this execution is left on a server, or what could be tried was tried: its entry need not outlive its report.
    pub fn cleared(&self, job: &Id, execution: &Id) {
        // Where its report waits, its entry goes with that.
        if !self.lock().queue.set_cleared(job) {
            self.0.records.forget_execution(job, execution);
        }
    }

    /// Waits at most `wait` until each report of a job that ended in this run was tried once; whether that is so.
    pub fn wait_for_first_tries(&self, wait: Duration) -> bool {
        let until = clock::now() + wait;
        let mut known = self.lock();
        while known.queue.has_new() {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return false;
            }
            known = clock::wait(&self.0.known, &self.0.changed, known, left);
        }
        true
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

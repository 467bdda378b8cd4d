//! Which report is tried next, and when. Pure: the present moment is an argument.
//!
//! Each report has its own pause, so that one that always fails delays no other. Several failures in a row, of any reports,
//! mean that the backend is away: then all wait, but for the first try of a new one. When the backend is back, all are due
//! at once, and a [`Ramp`] paces them. Among the due reports, the one with the fewest failures goes first, then the oldest.
//! Each step takes logarithmic time; there may be [`limits::OUTBOX_REPORTS`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::offer::Tried;
use super::terms::{Earlier, Terms};
use crate::job::Id;
use crate::jobs::record::Entry;
use crate::limits;
use crate::policy::ramp::Ramp;

/// A report that waits.
pub(super) struct Item {
    /// Wall clock, milliseconds since 1970; not later than when this run came to know of it.
    pub(super) since_ms: u64,
    /// When this run of the agent came to know of it.
    pub(super) known_at: Instant,
    pub(super) tried: Tried,
    /// The entry, when the disk did not take it, or until its first try.
    pub(super) held: Option<Arc<Entry>>,
    /// Of the report, wherever it is.
    pub(super) bytes: usize,
    /// Whether the disk has the entry.
    pub(super) on_disk: bool,
    /// What goes before it.
    pub(super) earlier: Option<Earlier>,
    /// A folder of the job may still be on a server: its entry stays when the report is taken.
    pub(super) remains: bool,
    /// Of a job that ended in this run, and not tried yet.
    pub(super) is_new: bool,
    failures: u32,
    due: Instant,
    /// A thread is at it: it is in no order.
    busy: bool,
    /// Not even a kick makes it due before this moment: the backend asked for it, or is not done with the last try.
    not_before: Instant,
}

impl Item {
    pub(super) fn new(since_ms: u64, tried: Tried, held: Option<Arc<Entry>>, now: Instant) -> Self {
        let not_before = tried.settled().map_or(now, |at| at.max(now));
        Self {
            since_ms,
            known_at: now,
            tried,
            on_disk: held.is_none(),
            bytes: held.as_ref().map_or(0, |entry| entry.report_size()),
            held,
            earlier: None,
            remains: false,
            is_new: false,
            failures: 0,
            due: not_before,
            busy: false,
            not_before,
        }
    }

    fn size(&self) -> usize {
        self.held.as_ref().and_then(|entry| entry.ended()).map_or(0, |ended| ended.report.size())
    }
}

/// A report that a thread is at.
pub(super) struct Begun {
    pub(super) tried: Tried,
    pub(super) held: Option<Arc<Entry>>,
    pub(super) on_disk: bool,
    pub(super) earlier: Option<Earlier>,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// With this report, which is busy from now on.
    Try(Id),
    /// Ask whether the backend is back.
    Ask,
    Wait(Duration),
}

/// All reports that wait.
#[derive(Default)]
pub(super) struct Queue {
    items: BTreeMap<Id, Item>,
    /// Those whose time has not come, by when it comes.
    later: BTreeSet<(Instant, Id)>,
    /// Those whose time has come, in the order in which they are tried.
    ready: BTreeSet<(u32, u64, Id)>,
    /// New ones whose time has come, oldest first. They are in one of the other two as well.
    new: BTreeSet<(u64, Id)>,
    /// All of them by how long they wait.
    by_age: BTreeSet<(u64, Id)>,
    memory: usize,
    /// How many are busy.
    busy: usize,
    /// Bytes of the busy ones.
    on_the_way: usize,
    /// Failures in a row.
    away: u32,
    pause: Option<Instant>,
    ramp: Option<Ramp>,
    /// When to ask whether the backend is back.
    ask: Option<Instant>,
}

impl Queue {
    /// Whether `entry` may be kept in memory, or be known at all.
    pub(super) fn has_room(&self, entry: &Entry, in_memory: bool) -> bool {
        let size = entry.ended().map_or(0, |ended| ended.report.size());
        let fits = !in_memory || self.memory + size <= limits::OUTBOX_MEMORY;
        fits && (self.items.len() < limits::OUTBOX_REPORTS || self.items.contains_key(&entry.job))
    }

    /// Whether a report of this size, which is on disk, may stay in memory until its first try.
    pub(super) fn may_keep(&self, size: usize) -> bool {
        self.memory + size <= limits::OUTBOX_NEW
    }

    /// How many have something that goes before them.
    pub(super) fn with_earlier(&self) -> usize {
        self.items.values().filter(|item| item.earlier.is_some()).count()
    }

    /// Whether there are reports that no thread is at.
    pub(super) fn has_others(&self) -> bool {
        self.items.len() > self.busy
    }

    /// Whether the first try of a report of a job that ended in this run is not over.
    pub(super) fn has_new(&self) -> bool {
        self.items.values().any(|item| item.is_new)
    }

    /// Enters a report in place of what was known of its job.
    pub(super) fn insert(&mut self, job: Id, item: Item) {
        self.remove(&job);
        if item.is_new && item.due <= item.known_at {
            self.new.insert((item.since_ms, job.clone()));
        }
        self.memory += item.size();
        self.by_age.insert((item.since_ms, job.clone()));
        self.later.insert((item.due, job.clone()));
        self.items.insert(job, item);
    }

    pub(super) fn remove(&mut self, job: &Id) -> Option<Item> {
        let item = self.items.remove(job)?;
        self.by_age.remove(&(item.since_ms, job.clone()));
        self.take_out(job, &item);
        self.memory -= item.size();
        Some(item)
    }

    /// Out of the order in which reports are tried.
    fn take_out(&mut self, job: &Id, item: &Item) {
        self.new.remove(&(item.since_ms, job.clone()));
        if item.busy {
            self.busy -= 1;
            self.on_the_way -= item.bytes;
        } else if !self.later.remove(&(item.due, job.clone())) {
            self.ready.remove(&(item.failures, item.since_ms, job.clone()));
        }
    }

    /// Changes when and in which order a report is tried.
    fn put_off(&mut self, job: &Id, change: impl FnOnce(&mut Item)) -> Option<u32> {
        let mut item = self.items.remove(job)?;
        self.take_out(job, &item);
        item.busy = false;
        change(&mut item);
        let failures = item.failures;
        self.later.insert((item.due, job.clone()));
        self.items.insert(job.clone(), item);
        Some(failures)
    }

    pub(super) fn get(&self, job: &Id) -> Option<&Item> {
        self.items.get(job)
    }

    /// What was learned of a report by a try.
    pub(super) fn set_tried(&mut self, job: &Id, tried: Tried) {
        if let Some(item) = self.items.get_mut(job) {
            item.tried = tried;
        }
    }

    /// The folders of the job are gone from its servers; false when its report does not wait here.
    pub(super) fn set_cleared(&mut self, job: &Id) -> bool {
        let item = self.items.get_mut(job);
        item.map(|item| item.remains = false).is_some()
    }

    /// What a thread needs for its try with this report.
    pub(super) fn begin(&mut self, job: &Id) -> Option<Begun> {
        let item = self.items.get_mut(job)?;
        let earlier = item.earlier.take();
        // What the disk has is the thread's alone: it may change it without a copy of the whole output.
        let held = if item.on_disk {
            self.memory -= item.size();
            item.held.take()
        } else {
            item.held.clone()
        };
        Some(Begun { tried: item.tried, held, on_disk: item.on_disk, earlier })
    }

    /// The disk has the report now.
    pub(super) fn let_go(&mut self, job: &Id) {
        if let Some(item) = self.items.get_mut(job) {
            self.memory -= item.size();
            (item.held, item.on_disk) = (None, true);
        }
    }

    /// All that are in memory alone.
    pub(super) fn held(&self) -> Vec<Arc<Entry>> {
        self.items.values().filter(|item| !item.on_disk).filter_map(|item| item.held.clone()).collect()
    }

    /// All jobs whose report waits.
    pub(super) fn ids(&self) -> Vec<Id> {
        self.items.keys().cloned().collect()
    }

    pub(super) fn contains(&self, job: &Id) -> bool {
        self.items.contains_key(job)
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Since when the oldest waits.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        self.by_age.first().map(|(since_ms, _)| *since_ms)
    }

    /// Whether a thread may take this one beside those that are busy.
    fn fits(&self, job: &Id) -> bool {
        let bytes = self.items.get(job).map_or(0, |item| item.bytes);
        self.busy == 0 || self.busy < limits::OUTBOX_SENDERS && self.on_the_way + bytes <= limits::OUTBOX_ON_THE_WAY
    }

    /// What to do now. At most [`limits::OUTBOX_SENDERS`] reports are busy at once, and one while the backend is away. One that
    /// is too large beside the busy ones waits for them, and the others for it.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if self.ask.is_some_and(|at| at <= now) {
            // Until `asked` has heard the answer, nobody asks a second time.
            self.ask = Some(now + limits::OUTBOX_MOST);
            return Next::Ask;
        }
        let until = match self.next_report(now) {
            Ok(job) => return Next::Try(job),
            Err(until) => until,
        };
        let until = self.ask.map_or(until, |at| at.min(until));
        Next::Wait(until.saturating_duration_since(now).min(limits::OUTBOX_TICK))
    }

    /// The report that is due, or when to look again.
    fn next_report(&mut self, now: Instant) -> Result<Id, Instant> {
        let never = now + limits::OUTBOX_TICK;
        if let Some(until) = self.pause.filter(|until| *until > now) {
            // Its first try may show that the pause is another report's fault.
            let new = self.new.first().filter(|(_, job)| self.fits(job));
            return new.map(|(_, job)| job.clone()).map(|job| self.start(job)).ok_or(until);
        }
        while let Some((due, _)) = self.later.first()
            && *due <= now
            && let Some((_, job)) = self.later.pop_first()
        {
            if let Some(item) = self.items.get(&job) {
                self.ready.insert((item.failures, item.since_ms, job));
            }
        }
        if self.ready.is_empty() {
            if self.busy == 0 {
                self.ramp = None;
            }
            return Err(self.later.first().map_or(never, |(due, _)| *due));
        }
        let (_, _, job) = self.ready.first().cloned().ok_or(never)?;
        if !self.fits(&job) || self.busy > 0 && self.away >= limits::OUTBOX_AWAY {
            return Err(never);
        }
        if let Some(ramp) = &mut self.ramp {
            if ramp.due() > now {
                return Err(ramp.due());
            }
            ramp.sent(now);
        }
        Ok(self.start(job))
    }

    /// A thread is at this one from now on.
    fn start(&mut self, job: Id) -> Id {
        if let Some(mut item) = self.items.remove(&job) {
            self.take_out(&job, &item);
            item.busy = true;
            self.busy += 1;
            self.on_the_way += item.bytes;
            self.items.insert(job.clone(), item);
        }
        job
    }

    /// A try failed: `least` is the shortest pause that makes sense, `unit` a random number in `0.0..1.0`. How often it
    /// failed, and whether the backend counts as away from now on.
    pub(super) fn failed(&mut self, job: &Id, now: Instant, terms: &Terms, least: Duration, unit: f64) -> (u32, bool) {
        let backoff = &terms.backoff;
        let failures = self.put_off(job, |item| {
            item.is_new = false;
            item.failures = item.failures.saturating_add(1);
            item.not_before = now + least;
            item.due = now + backoff.delay(item.failures, unit).max(least);
        });
        let Some(failures) = failures else { return (0, false) };
        self.forget_entry(job);
        // Those that were on their way together count once.
        if self.pause.is_some_and(|until| until > now) {
            return (failures, false);
        }
        self.away = self.away.saturating_add(1);
        if self.away >= limits::OUTBOX_AWAY {
            self.pause = Some(now + backoff.delay(self.away - limits::OUTBOX_AWAY + 1, unit));
        }
        (failures, self.away == limits::OUTBOX_AWAY)
    }

    /// After its first try a report is read from the disk again.
    fn forget_entry(&mut self, job: &Id) {
        if self.items.get(job).is_some_and(|item| item.on_disk) {
            self.let_go(job);
        }
    }

    /// The backend may be gone: ask at once, since its return is heard only of a call that has failed.
    pub(super) fn ask_now(&mut self, now: Instant) {
        if !self.items.is_empty() {
            self.ask.get_or_insert(now);
        }
    }

    /// The answer to the question: while the backend is gone, it is asked again.
    pub(super) fn asked(&mut self, is_gone: bool, now: Instant, terms: &Terms, unit: f64) {
        if is_gone && !self.items.is_empty() {
            self.ask = Some(now + terms.ask.mul_f64(0.8 + 0.4 * unit));
        } else if self.ask.is_some_and(|at| at > now) {
            self.ask = None;
        }
    }

    /// The backend answered but did not say what became of this one: look again soon.
    pub(super) fn look_again(&mut self, job: &Id, now: Instant, terms: &Terms, unit: f64) {
        self.answered(now, terms, unit);
        self.put_off(job, |item| {
            item.is_new = false;
            item.not_before = now + limits::OUTBOX_RELOOK;
            item.due = item.not_before;
        });
        self.forget_entry(job);
    }

    /// The backend has answered a report.
    pub(super) fn answered(&mut self, now: Instant, terms: &Terms, unit: f64) {
        if self.away >= limits::OUTBOX_AWAY {
            self.returned(now, terms, unit);
        }
        self.away = 0;
        if let Some(ramp) = &mut self.ramp {
            ramp.taken();
        }
    }

    /// The backend is back: everything is due as soon as may be, oldest first, slowly at first. Whether anything waited.
    pub(super) fn returned(&mut self, now: Instant, terms: &Terms, unit: f64) -> bool {
        (self.away, self.pause, self.ask) = (0, None, None);
        let waited: Vec<Id> =
            self.items.iter().filter(|(_, item)| item.failures > 0 && !item.busy).map(|(job, _)| job.clone()).collect();
        for job in &waited {
            self.put_off(job, |item| {
                item.failures = 0;
                item.due = item.not_before.max(now);
            });
        }
        if !waited.is_empty() {
            self.begin_slowly(now + terms.spread.mul_f64(unit), terms);
        }
        !waited.is_empty()
    }

    /// Reports go out slowly at first, from this moment on.
    pub(super) fn begin_slowly(&mut self, first: Instant, terms: &Terms) {
        self.ramp.get_or_insert(Ramp::new(first, terms.step, limits::OUTBOX_STEP_LEAST));
    }

    /// Everything is due as soon as may be.
    #[cfg(test)]
    pub(super) fn kick(&mut self, now: Instant) {
        (self.away, self.pause, self.ramp) = (0, None, None);
        self.ready.clear();
        self.later.clear();
        for (job, item) in self.items.iter_mut().filter(|(_, item)| !item.busy) {
            item.due = item.not_before.max(now);
            self.later.insert((item.due, job.clone()));
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;

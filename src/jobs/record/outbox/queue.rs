//! Which report is tried next, and when. Pure: the present moment is an argument.
//!
//! Each report has its own pause, so that one that always fails delays no other. Several failures in a row, of any reports,
//! mean that the backend is away: then all wait. Among the due reports, the one with the fewest failures goes first, then
//! the oldest. Each step takes logarithmic time; there may be [`limits::OUTBOX_REPORTS`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::offer::Tried;
use crate::job::Id;
use crate::jobs::record::Entry;
use crate::limits;
use crate::policy::backoff::Backoff;

/// A report that waits.
#[derive(Debug)]
pub(super) struct Item {
    /// Wall clock, milliseconds since 1970; not later than when this run came to know of it.
    pub(super) since_ms: u64,
    /// When this run of the agent came to know of it.
    pub(super) known_at: Instant,
    pub(super) tried: Tried,
    /// The entry, when the disk did not take it.
    pub(super) held: Option<Arc<Entry>>,
    /// A folder of the job may still be on a server: its entry stays when the report is taken.
    pub(super) remains: bool,
    failures: u32,
    due: Instant,
    /// Not even a kick makes it due before this moment: the backend asked for it, or is not done with the last try.
    not_before: Instant,
}

impl Item {
    pub(super) fn new(since_ms: u64, tried: Tried, held: Option<Arc<Entry>>, now: Instant) -> Self {
        let not_before = tried.settled().map_or(now, |at| at.max(now));
        Self { since_ms, known_at: now, tried, held, remains: false, failures: 0, due: not_before, not_before }
    }

    fn size(&self) -> usize {
        self.held.as_ref().and_then(|entry| entry.ended()).map_or(0, |ended| ended.report.size())
    }
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Try(Id),
    Wait(Duration),
}

/// All reports that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: BTreeMap<Id, Item>,
    /// Those whose time has not come, by when it comes.
    later: BTreeSet<(Instant, Id)>,
    /// Those whose time has come, in the order in which they are tried.
    ready: BTreeSet<(u32, u64, Id)>,
    /// All of them by how long they wait.
    by_age: BTreeSet<(u64, Id)>,
    memory: usize,
    /// Failures in a row.
    away: u32,
    pause: Option<Instant>,
}

impl Queue {
    /// Whether `entry` may be kept in memory, or be known at all.
    pub(super) fn has_room(&self, entry: &Entry, in_memory: bool) -> bool {
        let size = entry.ended().map_or(0, |ended| ended.report.size());
        let fits = !in_memory || self.memory + size <= limits::OUTBOX_MEMORY;
        fits && (self.items.len() < limits::OUTBOX_REPORTS || self.items.contains_key(&entry.job))
    }

    /// Enters a report in place of what was known of its job.
    pub(super) fn insert(&mut self, job: Id, item: Item) {
        self.remove(&job);
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
        if !self.later.remove(&(item.due, job.clone())) {
            self.ready.remove(&(item.failures, item.since_ms, job.clone()));
        }
    }

    /// Changes when and in which order a report is tried.
    fn put_off(&mut self, job: &Id, change: impl FnOnce(&mut Item)) -> Option<u32> {
        let mut item = self.items.remove(job)?;
        self.take_out(job, &item);
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

    /// The disk has the report now.
    pub(super) fn let_go(&mut self, job: &Id) {
        if let Some(item) = self.items.get_mut(job) {
            self.memory -= item.size();
            item.held = None;
        }
    }

    /// All that are in memory alone.
    pub(super) fn held(&self) -> Vec<Arc<Entry>> {
        self.items.values().filter_map(|item| item.held.clone()).collect()
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

    pub(super) fn next(&mut self, now: Instant) -> Next {
        let wait = |until: Instant| Next::Wait(until.saturating_duration_since(now).min(limits::OUTBOX_TICK));
        if let Some(until) = self.pause.filter(|until| *until > now) {
            return wait(until);
        }
        while let Some((due, _)) = self.later.first()
            && *due <= now
            && let Some((_, job)) = self.later.pop_first()
        {
            if let Some(item) = self.items.get(&job) {
                self.ready.insert((item.failures, item.since_ms, job));
            }
        }
        match self.ready.first() {
            Some((_, _, job)) => Next::Try(job.clone()),
            None => wait(self.later.first().map_or(now + limits::OUTBOX_TICK, |(due, _)| *due)),
        }
    }

    /// A try failed: `least` is the shortest pause that makes sense, `unit` a random number in `0.0..1.0`. How often it
    /// failed, and whether the backend counts as away from now on.
    pub(super) fn failed(
        &mut self,
        job: &Id,
        now: Instant,
        backoff: &Backoff,
        least: Duration,
        unit: f64,
    ) -> (u32, bool) {
        let failures = self.put_off(job, |item| {
            item.failures = item.failures.saturating_add(1);
            item.not_before = now + least;
            item.due = now + backoff.delay(item.failures, unit).max(least);
        });
        let Some(failures) = failures else { return (0, false) };
        self.away = self.away.saturating_add(1);
        if self.away >= limits::OUTBOX_AWAY {
            self.pause = Some(now + backoff.delay(self.away - limits::OUTBOX_AWAY + 1, unit));
        }
        (failures, self.away == limits::OUTBOX_AWAY)
    }

    /// The backend answered but did not say what became of this one: look again soon.
    pub(super) fn look_again(&mut self, job: &Id, now: Instant) {
        self.answered();
        self.put_off(job, |item| {
            item.not_before = now + limits::OUTBOX_RELOOK;
            item.due = item.not_before;
        });
    }

    /// The backend is there.
    pub(super) fn answered(&mut self) {
        (self.away, self.pause) = (0, None);
    }

    /// Everything is due as soon as may be.
    #[cfg(test)]
    pub(super) fn kick(&mut self, now: Instant) {
        self.answered();
        self.ready.clear();
        self.later.clear();
        for (job, item) in &mut self.items {
            item.due = item.not_before.max(now);
            self.later.insert((item.due, job.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::jobs::record::outbox::Terms;
    use crate::jobs::record::store_tests::{ended, entry, id};

    fn queue(now: Instant, jobs: &[(&str, u64)]) -> Queue {
        let mut queue = Queue::default();
        for (job, since) in jobs {
            queue.insert(id(job), Item::new(*since, Tried::default(), None, now));
        }
        queue
    }

    #[test]
    fn the_oldest_goes_first_and_one_that_fails_blocks_none() {
        let now = Instant::now();
        let backoff = Terms::new(Duration::from_secs(60)).backoff;
        let mut queue = queue(now, &[("a", 3), ("b", 1), ("c", 2)]);
        assert_eq!(queue.oldest_ms(), Some(1));
        assert_eq!(queue.next(now), Next::Try(id("b")));
        assert_eq!(queue.failed(&id("b"), now, &backoff, Duration::ZERO, 0.0), (1, false));
        // Due at once again, but behind those that did not fail.
        assert_eq!(queue.next(now), Next::Try(id("c")));
        queue.remove(&id("c"));
        queue.answered();
        assert_eq!(queue.next(now), Next::Try(id("a")));
        queue.remove(&id("a"));
        assert_eq!(queue.next(now), Next::Try(id("b")));
        queue.failed(&id("b"), now, &backoff, Duration::ZERO, 1.0);
        assert_eq!(queue.next(now), Next::Wait(Duration::from_secs(2)));
        assert_eq!(queue.next(now + Duration::from_secs(2)), Next::Try(id("b")));
        queue.remove(&id("b"));
        assert_eq!(queue.next(now), Next::Wait(limits::OUTBOX_TICK));
    }

    /// Against a look at all of them, which is what the order means.
    #[test]
    fn the_order_is_that_of_a_look_at_all_of_them() {
        let start = Instant::now();
        let backoff = Terms::new(Duration::from_secs(60)).backoff;
        let (mut queue, mut now, mut random) = (Queue::default(), start, 1_u64);
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for step in 0..20_000 {
            let job = id(&format!("job-{}", draw(40)));
            match draw(8) {
                0 | 1 => queue.insert(job, Item::new(draw(20), Tried::default(), None, now)),
                2 => drop(queue.remove(&job)),
                3 | 4 => drop(queue.failed(&job, now, &backoff, Duration::from_millis(draw(900)), 0.5)),
                5 => queue.look_again(&job, now),
                6 if draw(10) == 0 => queue.kick(now),
                _ => now += Duration::from_millis(draw(1500)),
            }
            queue.answered();
            let all = || queue.items.iter();
            let due = all().filter(|(_, item)| item.due <= now);
            let first = due.min_by_key(|(job, item)| (item.failures, item.since_ms, *job)).map(|(job, _)| job.clone());
            let next = all().map(|(_, item)| item.due).min().unwrap_or(now + limits::OUTBOX_TICK);
            let wait = next.saturating_duration_since(now).min(limits::OUTBOX_TICK);
            let (oldest, count) = (all().map(|(_, item)| item.since_ms).min(), queue.items.len());
            assert_eq!(queue.next(now), first.map_or(Next::Wait(wait), Next::Try), "step {step}");
            assert_eq!((queue.oldest_ms(), queue.later.len() + queue.ready.len()), (oldest, count), "step {step}");
        }
    }

    #[test]
    fn a_step_with_as_many_reports_as_may_wait_costs_no_look_at_all_of_them() {
        let now = Instant::now();
        let backoff = Terms::new(Duration::from_secs(60)).backoff;
        let mut queue = Queue::default();
        for n in 0..limits::OUTBOX_REPORTS {
            queue.insert(id(&format!("job-{n}")), Item::new(n as u64, Tried::default(), None, now));
        }
        let begun = Instant::now();
        for _ in 0..limits::OUTBOX_REPORTS {
            let Next::Try(job) = queue.next(now) else { panic!("none is due") };
            let _ = (queue.oldest_ms(), queue.failed(&job, now, &backoff, Duration::ZERO, 1.0));
            queue.answered();
        }
        let took = begun.elapsed();
        let _ = writeln!(std::io::stderr(), "{} steps: {took:?}", limits::OUTBOX_REPORTS);
        // A look at all of them at each step takes minutes.
        assert!(took < Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        let now = Instant::now();
        let backoff = Terms::new(Duration::from_secs(60)).backoff;
        let mut queue = queue(now, &[("a", 1)]);
        for want in [1, 2, 4, 8, 16, 32, 60, 60] {
            queue.failed(&id("a"), now, &backoff, Duration::ZERO, 1.0);
            queue.answered();
            assert_eq!(queue.items[&id("a")].due, now + Duration::from_secs(want));
        }
    }

    #[test]
    fn failures_in_a_row_pause_all_until_a_kick_or_an_answer() {
        let now = Instant::now();
        let backoff = Terms::new(Duration::from_secs(60)).backoff;
        let mut queue = queue(now, &[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
        let least = Duration::from_secs(5);
        for (job, away) in [("a", false), ("b", false), ("c", true)] {
            assert_eq!(queue.failed(&id(job), now, &backoff, least, 0.5), (1, away));
        }
        assert_eq!(queue.next(now), Next::Wait(Duration::from_millis(500)), "d waits too");
        queue.kick(now);
        assert_eq!(queue.next(now), Next::Try(id("d")));
        queue.remove(&id("d"));
        // Retry-After applies to woken entries too.
        assert_eq!(queue.next(now), Next::Wait(least));
        assert_eq!(queue.next(now + least), Next::Try(id("a")));
        queue.look_again(&id("a"), now + least);
        assert_eq!(queue.next(now + least), Next::Try(id("b")));
    }

    #[test]
    fn a_bounded_number_of_reports_is_known() {
        let (now, mut queue) = (Instant::now(), Queue::default());
        let one = |n: usize| entry(&format!("job-{n}"), ended(1, ""));
        for n in 0..limits::OUTBOX_REPORTS {
            queue.insert(id(&format!("job-{n}")), Item::new(1, Tried::default(), None, now));
        }
        let more = one(limits::OUTBOX_REPORTS);
        assert!(!queue.has_room(&more, false) && !queue.has_room(&more, true));
        assert!(queue.has_room(&one(7), false), "the same again takes no room");
        queue.remove(&id("job-0"));
        assert!(queue.has_room(&more, false));
    }
}

//! How many workers are free: counted where a job is handed out and where it is reported.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::limits;
use crate::os::clock;
use crate::os::stop::Stop;

/// Counts the workers that are free, and wakes the poller. Shared by clones.
#[derive(Debug, Clone)]
pub struct Slots(Arc<(Mutex<Bell>, Condvar)>);

#[derive(Debug)]
struct Bell {
    /// May be more than `total` for a while, when that was lowered.
    busy: usize,
    total: usize,
    kicked: bool,
}

impl Bell {
    fn free(&self) -> usize {
        self.total.saturating_sub(self.busy)
    }
}

/// One worker that is not free, until dropped.
#[derive(Debug)]
#[must_use = "dropping it makes the worker count as free"]
pub struct Busy(Slots);

impl Slots {
    /// `workers` free workers.
    pub fn new(workers: usize) -> Self {
        Self(Arc::new((Mutex::new(Bell { busy: 0, total: workers, kicked: false }), Condvar::new())))
    }

    /// Takes one of the free workers; `None` when there is none.
    pub fn busy(&self) -> Option<Busy> {
        let mut bell = self.lock();
        if bell.free() == 0 {
            return None;
        }
        bell.busy += 1;
        Some(Busy(self.clone()))
    }

    /// How many workers are free.
    pub fn free(&self) -> usize {
        self.lock().free()
    }

    /// How many workers there are.
    pub fn total(&self) -> usize {
        self.lock().total
    }

    /// Sets the number of workers. Busy ones finish their jobs.
    pub fn resize(&self, workers: usize) {
        self.lock().total = workers;
        self.0.1.notify_all();
    }

    /// Says that jobs are waiting at the backend: the poller asks at once if a worker is free.
    pub fn kick(&self) {
        self.lock().kicked = true;
        self.0.1.notify_all();
    }

    /// Wakes the waiting poller, whose `stop` was set.
    pub fn wake(&self) {
        // Under the lock, between whose taking and the wait `stop` is looked at.
        let _bell = self.lock();
        self.0.1.notify_all();
    }

    /// Waits until a worker is free and `due` has come, or there was a kick, or `stop` is set and [`Slots::wake`] called; returns
    /// whether there was a kick. May return early, so the caller must check again.
    pub(super) fn wait(&self, due: Instant, stop: &Stop) -> bool {
        let mut bell = self.lock();
        let now = clock::now();
        let ready = bell.free() > 0 && (bell.kicked || due <= now);
        if !ready && !stop.is_set() {
            let due = if bell.free() > 0 { due.saturating_duration_since(now) } else { limits::RELOAD_LOOK };
            let wait = due.min(limits::RELOAD_LOOK);
            bell = clock::wait(&self.0.0, &self.0.1, bell, wait);
        }
        // A kick is kept for the moment when a worker is free.
        bell.free() > 0 && std::mem::take(&mut bell.kicked)
    }

    fn lock(&self) -> MutexGuard<'_, Bell> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.0.1.notify_all();
    }
}

/// A worker's place in the pool.
#[derive(Debug)]
pub struct WorkerSlot {
    pub(in crate::jobs) roster: Arc<Roster>,
    /// Set when it leaves because it is one too many.
    pub(in crate::jobs) left: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
pub(in crate::jobs) struct Roster {
    pub(in crate::jobs) wanted: AtomicUsize,
    /// Workers that were started and have not left.
    pub(in crate::jobs) present: Mutex<usize>,
}

impl WorkerSlot {
    /// Whether this worker is one too many; it counts as gone from then on.
    pub fn leave_if_over(&self) -> bool {
        let mut present = self.roster.present.lock().unwrap_or_else(PoisonError::into_inner);
        if *present <= self.roster.wanted.load(Ordering::SeqCst) {
            return false;
        }
        *present -= 1;
        self.left.store(true, Ordering::SeqCst);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::os::threads;

    #[test]
    fn who_waits_is_woken_to_stop() {
        let (slots, stop) = (Slots::new(1), Stop::new());
        let (own, seen) = (slots.clone(), stop.clone());
        let begun = Instant::now();
        let waiter = threads::spawn("t-slots", move || {
            while !seen.is_set() {
                own.wait(begun + Duration::from_secs(60), &seen);
            }
        })
        .expect("spawn");
        std::thread::sleep(Duration::from_millis(50));
        stop.set();
        slots.wake();
        waiter.join_within(limits::RELOAD_LOOK);
        assert!(begun.elapsed() < limits::RELOAD_LOOK / 2, "{:?}", begun.elapsed());
    }

    #[test]
    fn slots_that_were_taken_away_are_not_handed_out_again() {
        let slots = Slots::new(3);
        let busy = [slots.busy(), slots.busy(), slots.busy()].map(|slot| slot.expect("free"));
        slots.resize(1);
        assert_eq!((slots.free(), slots.total()), (0, 1));
        let [a, b, c] = busy;
        drop((a, b));
        assert_eq!(slots.free(), 0);
        drop(c);
        assert_eq!(slots.free(), 1);
        slots.resize(2);
        assert_eq!(slots.free(), 2);
    }

    fn slot(roster: &Arc<Roster>) -> WorkerSlot {
        WorkerSlot { roster: Arc::clone(roster), left: Arc::default() }
    }

    #[test]
    fn as_many_leave_as_are_too_many() {
        let roster = Arc::new(Roster { wanted: AtomicUsize::new(3), present: Mutex::new(3) });
        let slots: Vec<WorkerSlot> = (0..3).map(|_| slot(&roster)).collect();
        assert!(slots.iter().all(|slot| !slot.leave_if_over()));
        roster.wanted.store(1, Ordering::SeqCst);
        assert_eq!(slots.iter().map(WorkerSlot::leave_if_over).collect::<Vec<_>>(), [true, true, false]);
        assert!(slots[0].left.load(Ordering::SeqCst) && !slots[2].left.load(Ordering::SeqCst));
        assert_eq!(*roster.present.lock().expect("lock"), 1);
    }
}

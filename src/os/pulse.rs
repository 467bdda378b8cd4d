//! Liveness counters that threads bump for the watchdog: one atomic each, which cannot block.
//!
//! A thread that works for a watched part [enters](Pulse::enter) the part's pulse. From then on each place where a wait begins
//! again calls [`touch`]: a tick of the loop that follows a script, a read from the engine's socket, a call to the backend,
//! a slice of a sleep. None of them needs to know the part.
//!
//! `policy::watchdog` decides what the touches mean; this module only carries them.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::policy::watchdog::{Handle, Stuck, Watchdog};

/// Stands for a part that is not watched at present.
const RESTING: u64 = u64::MAX;

thread_local! {
    static OWN: RefCell<Option<Pulse>> = const { RefCell::new(None) };
}

/// Notes progress of the part that this thread works for. Does nothing if that part is not watched.
pub fn touch() {
    OWN.with_borrow(|own| own.iter().for_each(Pulse::touch));
}

/// Held by one part of the agent. Clones touch the same atomic; the watch ends with the last clone.
#[derive(Debug, Clone)]
pub struct Pulse {
    start: Instant,
    /// Microseconds from `start` to the last touch, or [`RESTING`].
    last: Arc<AtomicU64>,
}

impl Pulse {
    /// For tests and for commands without a watchdog: nothing watches it.
    pub fn unwatched() -> Self {
        Self { start: Instant::now(), last: Arc::new(AtomicU64::new(RESTING)) }
    }

    /// Notes progress. Costs a clock reading and a store.
    pub fn touch(&self) {
        let passed = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(RESTING - 1);
        self.last.store(passed, Ordering::Relaxed);
    }

    /// The part waits for an event that need not come, or has ended in order: it is not watched until its next touch.
    pub fn rest(&self) {
        self.last.store(RESTING, Ordering::Relaxed);
    }

    fn last(&self) -> Option<Instant> {
        match self.last.load(Ordering::Relaxed) {
            RESTING => None,
            micros => Some(self.start + Duration::from_micros(micros)),
        }
    }

    /// This thread works for the part until the guard is dropped; then the part rests. The thread's previous part rests
    /// meanwhile.
    pub fn enter(self) -> Entered {
        self.touch();
        let before = OWN.replace(Some(self));
        before.iter().for_each(Self::rest);
        Entered { before }
    }
}

/// See [`Pulse::enter`].
#[must_use = "the part is watched only until this is dropped"]
#[derive(Debug)]
pub struct Entered {
    before: Option<Pulse>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.before.iter().for_each(Pulse::touch);
        if let Some(own) = OWN.replace(self.before.take()) {
            own.rest();
        }
    }
}

/// All pulses; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Pulses(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    watchdog: Watchdog,
    all: Vec<(Handle, Pulse)>,
}

impl Pulses {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pulse for the part `name`, to be touched at least once in `longest`, starting now.
    pub fn part(&self, name: &'static str, longest: Duration) -> Pulse {
        let pulse = Pulse::unwatched();
        pulse.touch();
        let mut book = self.book();
        let handle = book.watchdog.add(name, longest, pulse.start);
        book.all.push((handle, pulse.clone()));
        pulse
    }

    /// Whether every part made progress within its time.
    pub fn healthy(&self, now: Instant) -> Result<(), Stuck> {
        let mut book = self.book();
        let Book { watchdog, all } = &mut *book;
        all.retain(|(handle, pulse)| {
            let held = Arc::strong_count(&pulse.last) > 1;
            if held {
                watchdog.note(*handle, pulse.last());
            } else {
                watchdog.remove(*handle);
            }
            held
        });
        watchdog.healthy(now)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_stops_is_noticed_and_one_that_goes_on_is_not() {
        let pulses = Pulses::new();
        let (lively, stuck) =
            (pulses.part("lively", Duration::from_secs(20)), pulses.part("stuck", Duration::from_secs(10)));
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pulses.healthy(start), Ok(()));
        assert_eq!(pulses.healthy(later(11)).expect_err("late").part, "stuck");
        stuck.rest();
        assert_eq!(pulses.healthy(later(11)), Ok(()));
        assert_eq!(pulses.healthy(later(21)).expect_err("late").part, "lively");
        let own = lively.clone();
        let t = crate::os::threads::spawn("t-pulse", move || {
            std::thread::sleep(Duration::from_millis(30));
            own.touch();
        })
        .expect("spawn");
        t.join_within(Duration::from_secs(5));
        // Touched 30 ms after the start, so at the start's 20 s it is not late, and 20 s after the touch it is.
        assert_eq!(pulses.healthy(start + Duration::from_millis(20_020)), Ok(()));
        assert_eq!(pulses.healthy(later(40)).expect_err("late").part, "lively");
        stuck.touch();
        assert_eq!(pulses.healthy(later(19)).expect_err("late").part, "stuck", "watched again");
    }

    #[test]
    fn a_thread_touches_the_pulse_that_it_entered_and_leaves_it_at_rest() {
        let pulses = Pulses::new();
        let pulse = pulses.part("worker", Duration::from_secs(10));
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let (go, went) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel::<()>());
        let (entered, steps, done) = (pulse.clone(), go.1, went.0);
        let t = crate::os::threads::spawn("t-enter", move || {
            let _own = entered.enter();
            while steps.recv().is_ok() {
                touch();
                done.send(()).expect("heard");
            }
        })
        .expect("spawn");
        std::thread::sleep(Duration::from_millis(30));
        // Not this thread's: no touch.
        touch();
        assert_eq!(pulses.healthy(later(10) + Duration::from_millis(20)).expect_err("late").part, "worker");
        go.0.send(()).expect("sent");
        went.1.recv().expect("touched");
        assert_eq!(pulses.healthy(later(10) + Duration::from_millis(20)), Ok(()));
        drop(go.0);
        t.join_within(Duration::from_secs(5));
        assert_eq!(pulses.healthy(later(1_000)), Ok(()), "it rests");
        pulse.touch();
        assert_eq!(pulses.healthy(later(1_000)).expect_err("late").part, "worker");
        drop(pulse);
        assert_eq!(pulses.healthy(later(1_000)), Ok(()), "nobody holds it");
        assert!(pulses.book().all.is_empty());
    }
}

//! How a thread shows that it gets on: one atomic that it touches in its loop, and nothing else that could block it.
//!
//! What the touches mean is decided in `policy::watchdog`; here they are only carried from the threads to whoever asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::policy::watchdog::{Handle, Stuck, Watchdog};

/// Stands for a part that is not watched at present.
const RESTING: u64 = u64::MAX;

/// Held by one part of the agent. Clones touch the same atomic.
#[derive(Debug, Clone)]
pub struct Pulse {
    start: Instant,
    /// Microseconds from `start` to the last touch, or [`RESTING`].
    last: Arc<AtomicU64>,
}

impl Pulse {
    /// For tests and for commands without a watchdog: touched by whoever likes, watched by nobody.
    pub fn unwatched() -> Self {
        Self { start: Instant::now(), last: Arc::new(AtomicU64::new(RESTING)) }
    }

    /// The part got on. Costs a reading of the clock and a store.
    pub fn touch(&self) {
        let passed = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(RESTING - 1);
        self.last.store(passed, Ordering::Relaxed);
    }

    /// The part waits for what need not come, or has ended in order: it is not watched until its next touch.
    pub fn rest(&self) {
        self.last.store(RESTING, Ordering::Relaxed);
    }

    fn last(&self) -> Option<Instant> {
        match self.last.load(Ordering::Relaxed) {
            RESTING => None,
            micros => Some(self.start + Duration::from_micros(micros)),
        }
    }
}

/// All pulses, held by the one who answers the watchdog.
#[derive(Debug, Default)]
pub struct Pulses {
    watchdog: Watchdog,
    all: Vec<(Handle, Pulse)>,
}

impl Pulses {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pulse for the part `name`, which touches it at least once in `longest`; the first time counts from now.
    pub fn part(&mut self, name: &'static str, longest: Duration) -> Pulse {
        let pulse = Pulse::unwatched();
        pulse.touch();
        self.all.push((self.watchdog.add(name, longest, pulse.start), pulse.clone()));
        pulse
    }

    /// Whether every part got on within its time.
    pub fn healthy(&mut self, now: Instant) -> Result<(), Stuck> {
        for (handle, pulse) in &self.all {
            self.watchdog.note(*handle, pulse.last());
        }
        self.watchdog.healthy(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_stops_is_noticed_and_one_that_goes_on_is_not() {
        let mut pulses = Pulses::new();
        let (lively, stuck) =
            (pulses.part("lively", Duration::from_secs(20)), pulses.part("stuck", Duration::from_secs(10)));
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pulses.healthy(start), Ok(()));
        assert_eq!(pulses.healthy(later(11)).expect_err("late").part, "stuck");
        stuck.rest();
        assert_eq!(pulses.healthy(later(11)), Ok(()));
        assert_eq!(pulses.healthy(later(21)).expect_err("late").part, "lively");
        let t = crate::os::threads::spawn("t-pulse", move || {
            std::thread::sleep(Duration::from_millis(30));
            lively.touch();
        })
        .expect("spawn");
        t.join_within(Duration::from_secs(5));
        // Touched 30 ms after the start, so at the start's 20 s it is not late, and 20 s after the touch it is.
        assert_eq!(pulses.healthy(start + Duration::from_millis(20_020)), Ok(()));
        assert_eq!(pulses.healthy(later(40)).expect_err("late").part, "lively");
        stuck.touch();
        assert_eq!(pulses.healthy(later(19)).expect_err("late").part, "stuck", "watched again");
    }
}

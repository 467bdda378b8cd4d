//! The flag that ends a loop: set once, seen by all threads, and able to wake a sleeping one.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::limits::PULSE_SLICE;
use crate::os::{clock, pulse};

/// A request to stop, shared by clones.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Not yet stopped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks all threads to stop and wakes the waiting ones.
    pub fn set(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Whether [`Stop::set`] was called.
    pub fn is_set(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `wait` or until stopped; true when stopped. A sleep touches the pulse, however long it is.
    pub fn wait(&self, wait: Duration) -> bool {
        let until = clock::now() + wait;
        let mut set = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*set {
            pulse::touch();
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return false;
            }
            set = clock::wait(&self.0.0, &self.0.1, set, left.min(PULSE_SLICE));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_sleeper_wakes_at_once() {
        let stop = Stop::new();
        let other = stop.clone();
        let begun = Instant::now();
        let t = crate::os::threads::spawn("t-stop", move || other.set()).expect("spawn");
        assert!(stop.wait(Duration::from_secs(30)));
        assert!(begun.elapsed() < Duration::from_secs(10));
        t.join_within(Duration::from_secs(5));
        assert!(!Stop::new().wait(Duration::from_millis(1)));
    }

    #[test]
    fn a_long_sleep_shows_that_it_gets_on() {
        let (stop, pulses) = (Stop::new(), crate::os::pulse::Pulses::new());
        let pulse = pulses.part("sleeper", PULSE_SLICE + PULSE_SLICE / 20);
        let own = stop.clone();
        let t = crate::os::threads::spawn("t-sleep", move || {
            let _watched = pulse.enter();
            own.wait(PULSE_SLICE * 6);
        })
        .expect("spawn");
        std::thread::sleep(PULSE_SLICE + PULSE_SLICE / 10);
        assert_eq!(pulses.healthy(Instant::now()), Ok(()));
        stop.set();
        t.join_within(Duration::from_secs(5));
    }
}

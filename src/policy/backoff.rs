//! How long to wait before the next try: the delay grows with the attempts and is drawn at random below that bound.
//!
//! The jitter is full (from zero to the bound), so that agents that lost the backend at the same moment do not all come
//! back at the same moment.

use std::time::Duration;

/// How the bound grows with the attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// Doubles each time.
    Exponential,
    /// Grows by the first delay each time.
    Linear,
    /// Stays as it is.
    Fixed,
}

/// A rule for delays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub growth: Growth,
    /// The bound after the first failure.
    pub initial: Duration,
    /// No delay is longer.
    pub max: Duration,
}

impl Backoff {
    /// The longest delay after `failures` failures in a row (1 is the first).
    pub fn bound(&self, failures: u32) -> Duration {
        let steps = failures.max(1) - 1;
        let grown = match self.growth {
            Growth::Exponential => self.initial.checked_mul(2_u32.checked_pow(steps).unwrap_or(u32::MAX)),
            Growth::Linear => self.initial.checked_mul(steps.saturating_add(1)),
            Growth::Fixed => Some(self.initial),
        };
        grown.unwrap_or(self.max).min(self.max)
    }

    /// The delay after `failures` failures in a row; `unit` is a random number in `0.0..1.0`.
    pub fn delay(&self, failures: u32, unit: f64) -> Duration {
        self.bound(failures).mul_f64(unit.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow_by_their_kind_and_stop_at_the_maximum() {
        let (s, max) = (Duration::from_secs, Duration::from_secs(30));
        for (growth, want) in [
            (Growth::Exponential, [1, 2, 4, 8, 16, 30, 30]),
            (Growth::Linear, [1, 2, 3, 4, 5, 6, 7]),
            (Growth::Fixed, [1; 7]),
        ] {
            let backoff = Backoff { growth, initial: s(1), max };
            for (failures, want) in (1..).zip(want) {
                assert_eq!(backoff.bound(failures), s(want), "{growth:?} {failures}");
            }
            assert_eq!(backoff.bound(0), s(1), "no failure counts as the first");
            assert!(backoff.bound(u32::MAX) <= max, "{growth:?}");
        }
    }

    #[test]
    fn jitter_is_full() {
        let backoff =
            Backoff { growth: Growth::Exponential, initial: Duration::from_secs(2), max: Duration::from_secs(9) };
        for (failures, unit, millis) in
            [(1, 0.0, 0), (1, 0.5, 1000), (1, 1.0, 2000), (2, 0.25, 1000), (9, 1.0, 9000), (1, 7.0, 2000)]
        {
            assert_eq!(backoff.delay(failures, unit), Duration::from_millis(millis), "{failures} {unit}");
        }
    }
}

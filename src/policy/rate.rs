//! The token bucket that keeps the agent from flooding its backend.
//!
//! A caller takes its token at once and gets the time to wait for it. The bucket may go into debt, so callers are served in
//! the order in which they asked, and none can be overtaken forever.

use std::time::{Duration, Instant};

use crate::limits::RATE_BURST_SECONDS;

/// A bucket that fills with time.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: f64,
    burst: f64,
    /// Below zero when tokens were given out ahead of time.
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket for `per_second` requests a second (above zero), which holds
    /// `limits::RATE_BURST_SECONDS` worth, at least one.
    pub fn new(per_second: f64, now: Instant) -> Self {
        let per_second = if per_second.is_finite() { per_second.max(0.001) } else { 1e6 };
        let burst = (per_second * RATE_BURST_SECONDS).max(1.0);
        Self { per_second, burst, tokens: burst, at: now }
    }

    /// Takes one token and says how long to wait before using it.
    pub fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst) - 1.0;
        self.at = self.at.max(now);
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.per_second) }
    }
}

/// Lets a number of calls through within each stretch of time, and refuses the rest.
#[derive(Debug, Clone)]
pub struct Window {
    most: u32,
    length: Duration,
    /// Since when it counts, and how many there were.
    counted: Option<(Instant, u32)>,
}

impl Window {
    /// `most` calls within `length`.
    pub fn new(most: u32, length: Duration) -> Self {
        Self { most, length, counted: None }
    }

    /// Whether one more call goes through.
    pub fn take(&mut self, now: Instant) -> bool {
        let (since, count) = match self.counted {
            Some((since, count)) if now.saturating_duration_since(since) < self.length => (since, count),
            _ => (now, 0),
        };
        self.counted = Some((since, count.saturating_add(1)));
        count < self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_everyone_waits_in_turn() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut bucket = Bucket::new(2.0, start);
        for _ in 2..10 {
            assert_eq!(bucket.take(start), Duration::ZERO);
        }
        for (millis, want) in [(0, 0), (0, 0), (0, 500), (0, 1000), (500, 1000), (2_000, 0), (2_000, 500)] {
            let got = bucket.take(at(millis));
            assert!(got.abs_diff(Duration::from_millis(want)) < Duration::from_millis(1), "{millis}: {got:?}");
        }
        // However long it was quiet, no more is saved up than that.
        let saved = (0..100).take_while(|_| bucket.take(at(3_600_000)).is_zero()).count();
        assert_eq!(saved, 10);
    }

    #[test]
    fn a_slow_rate_still_lets_the_first_one_through() {
        let start = Instant::now();
        let mut bucket = Bucket::new(0.1, start);
        assert_eq!(bucket.take(start), Duration::ZERO);
        assert_eq!(bucket.take(start).as_secs(), 10);
        // A clock that is asked out of order gives nothing away.
        assert_eq!(bucket.take(start).as_secs(), 20);
    }

    #[test]
    fn a_window_lets_a_number_through_and_opens_again() {
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let mut window = Window::new(3, minute);
        let taken = |window: &mut Window, at| [0; 5].map(|_| window.take(at));
        assert_eq!(taken(&mut window, start), [true, true, true, false, false]);
        assert_eq!(taken(&mut window, start + minute - Duration::from_millis(1)), [false; 5]);
        assert_eq!(taken(&mut window, start + minute), [true, true, true, false, false]);
    }
}

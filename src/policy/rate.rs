//! The token bucket that keeps the agent from flooding its backend.
//!
//! A caller takes its token at once and gets the time to wait for it. The bucket may go into debt, so callers are served in
//! the order in which they asked, and none can be overtaken forever.
//!
//! The configured rate is for a backend that says nothing. One that wants fewer calls halves it, and an empty bucket holds
//! no burst; the rate doubles again in each [`RATE_RECOVERY`] without such an answer. So the default may be high: many
//! agents at one backend slow down together, as soon as it says so.

use std::time::{Duration, Instant};

use crate::limits::{RATE_BURST_SECONDS, RATE_LEAST_SHARE, RATE_RECOVERY, RATE_SLOWER_AGAIN};

/// A bucket that fills with time.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// As configured.
    most: f64,
    /// As the backend bears it now.
    per_second: f64,
    burst: f64,
    /// Below zero when tokens were given out ahead of time.
    tokens: f64,
    at: Instant,
    slowed: Option<Instant>,
}

impl Bucket {
    /// A full bucket for `per_second` requests a second (above zero), which holds
    /// `limits::RATE_BURST_SECONDS` worth, at least one.
    pub fn new(per_second: f64, now: Instant) -> Self {
        let per_second = if per_second.is_finite() { per_second.max(0.001) } else { 1e6 };
        let burst = (per_second * RATE_BURST_SECONDS).max(1.0);
        Self { most: per_second, per_second, burst, tokens: burst, at: now, slowed: None }
    }

    /// Takes one token and says how long to wait before using it.
    pub fn take(&mut self, now: Instant) -> Duration {
        self.fill(now);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.per_second) }
    }

    /// The backend wants fewer calls: half the rate from now on. The answers to calls that were on their way together count
    /// once. Whether it is slower now.
    pub fn slow_down(&mut self, now: Instant) -> bool {
        self.fill(now);
        if self.slowed.is_some_and(|at| now.saturating_duration_since(at) < RATE_SLOWER_AGAIN) {
            return false;
        }
        self.slowed = Some(now);
        self.per_second = (self.per_second / 2.0).max(self.most * RATE_LEAST_SHARE);
        self.tokens = self.tokens.min(0.0);
        true
    }

    /// Calls a second, as the backend bears them now.
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.per_second = (self.per_second * 2_f64.powf(passed / RATE_RECOVERY.as_secs_f64())).min(self.most);
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
    fn a_backend_that_wants_fewer_calls_halves_the_rate_which_comes_back_with_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100.0, start);
        assert!(bucket.slow_down(start) && !bucket.slow_down(start), "calls under way together count once");
        assert_eq!(bucket.take(start), Duration::from_millis(20), "half the rate, and no burst");
        let mut now = start;
        for _ in 0..20 {
            now += RATE_SLOWER_AGAIN;
            bucket.slow_down(now);
        }
        let least = 100.0 * RATE_LEAST_SHARE;
        assert!((least..least * 1.2).contains(&bucket.per_second()), "{}", bucket.per_second());
        for (recoveries, want) in [(1, 2.0), (2, 8.0), (20, 100.0)] {
            now += RATE_RECOVERY * recoveries;
            bucket.take(now);
            let (got, want) = (bucket.per_second(), (least * want).min(100.0));
            assert!((want..=want * 1.2).contains(&got), "{got}, not {want}");
        }
        // What its configuration makes slow stays as it is.
        assert!(Bucket::new(0.1, start).slow_down(start));
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

//! The three kinds of cell that everything is counted in. Relaxed atomics: each figure is right by itself, and no
//! figure orders another.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub(super) const fn new(value: i64) -> Self {
        Self(AtomicI64::new(value))
    }

    /// Without a value until it is set: the page leaves it out.
    pub(super) const fn unknown() -> Self {
        Self::new(i64::MIN)
    }

    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// A value that `i64` cannot hold is shown as its largest one.
    pub fn set(&self, n: impl TryInto<i64>) {
        self.0.store(n.try_into().unwrap_or(i64::MAX), Relaxed);
    }

    pub(super) fn swap(&self, n: i64) -> i64 {
        self.0.swap(n, Relaxed)
    }

    /// The value, once it is known.
    pub(super) fn known(&self) -> Option<i64> {
        Some(self.0.load(Relaxed)).filter(|n| *n != i64::MIN)
    }

    /// The value, for other pages than `/metrics`.
    pub fn now(&self) -> u64 {
        self.get()
    }

    /// The value; zero while it is unknown, and for a value below zero, which is a defect elsewhere.
    pub(super) fn get(&self) -> u64 {
        u64::try_from(self.0.load(Relaxed)).unwrap_or(0)
    }
}

const BUCKETS: usize = 15;
/// Buckets of a job and of a phase: 50 ms, about the least that a container takes, to an hour, the default timeout.
static JOB_BOUNDS: [f64; BUCKETS] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// Buckets of a call to the backend or to Docker: 1 ms to 30 s, the default of `api.timeout`.
static CALL_BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Durations in fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    /// In seconds, growing.
    bounds: &'static [f64],
    counts: [Counter; BUCKETS],
    over: Counter,
    nanos: Counter,
}

/// What a histogram holds: bounds with the count of each bucket alone, the count above them, the sum in seconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Observed {
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) over: u64,
    pub(super) sum: f64,
}

impl Histogram {
    pub(super) const fn of_jobs() -> Self {
        Self::new(&JOB_BOUNDS)
    }

    pub(super) const fn of_calls() -> Self {
        Self::new(&CALL_BOUNDS)
    }

    const fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: [const { Counter::new() }; BUCKETS], over: Counter::new(), nanos: Counter::new() }
    }

    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let slot = self.bounds.iter().position(|&bound| seconds <= bound);
        slot.map_or(&self.over, |i| &self.counts[i]).add(1);
        self.nanos.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn read(&self) -> Observed {
        Observed {
            buckets: self.bounds.iter().copied().zip(self.counts.iter().map(Counter::get)).collect(),
            over: self.over.get(),
            sum: Duration::from_nanos(self.nanos.get()).as_secs_f64(),
        }
    }
}

impl Observed {
    /// How many durations were observed.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, n)| n).sum::<u64>() + self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_fall_into_the_bucket_whose_bound_they_reach() {
        static BOUNDS: [f64; 2] = [0.05, 1.0];
        let h = Histogram::new(&BOUNDS);
        for ms in [0, 50, 51, 1000, 1001, 90_000] {
            h.observe(Duration::from_millis(ms));
        }
        assert_eq!(h.read(), Observed { buckets: vec![(0.05, 2), (1.0, 2)], over: 2, sum: 92.102 });
        assert_eq!(h.read().count(), 6);
    }

    #[test]
    fn a_gauge_knows_when_it_is_unknown() {
        let g = Gauge::unknown();
        assert_eq!((g.known(), g.get()), (None, 0));
        g.set(7);
        g.add(-2);
        assert_eq!((g.known(), g.get(), g.swap(1)), (Some(5), 5, 5));
        g.add(-9);
        assert_eq!((g.get(), g.known()), (0, Some(-8)));
        g.set(u64::MAX);
        assert_eq!(g.known(), Some(i64::MAX));
        g.set(true);
        assert_eq!(g.known(), Some(1));
    }
}

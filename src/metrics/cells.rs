//! The three kinds of cell that everything is counted in. Relaxed atomics: each figure is right by itself, and no
//! figure orders another.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that comes and goes.
#[derive(Debug)]
pub(super) struct Gauge(AtomicI64);

impl Gauge {
    /// What a gauge holds until it is first set, where "unknown" is not 0.
    pub(super) const UNKNOWN: i64 = i64::MIN;

    pub(super) const fn new(value: i64) -> Self {
        Self(AtomicI64::new(value))
    }

    pub(super) fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(super) fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    pub(super) fn swap(&self, n: i64) -> i64 {
        self.0.swap(n, Relaxed)
    }

    /// The value; below zero (a defect elsewhere) reads as zero.
    pub(super) fn get(&self) -> u64 {
        u64::try_from(self.0.load(Relaxed)).unwrap_or(0)
    }

    /// The value, which may be below zero, once it is known.
    pub(super) fn signed(&self) -> Option<i64> {
        Some(self.0.load(Relaxed)).filter(|n| *n != Self::UNKNOWN)
    }

    /// The value, once it is known.
    pub(super) fn known(&self) -> Option<u64> {
        u64::try_from(self.0.load(Relaxed)).ok()
    }
}

/// Durations in fixed buckets.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    counts: [Counter; N],
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

impl<const N: usize> Histogram<N> {
    /// `bounds` in seconds, growing.
    pub(super) const fn new(bounds: &'static [f64; N]) -> Self {
        Self { bounds, counts: [const { Counter::new() }; N], over: Counter::new(), nanos: Counter::new() }
    }

    pub(super) fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let slot = self.bounds.iter().position(|&bound| seconds <= bound);
        slot.map_or(&self.over, |i| &self.counts[i]).add(1);
        self.nanos.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many were observed.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().map(Counter::get).sum::<u64>() + self.over.get()
    }

    pub(super) fn read(&self) -> Observed {
        Observed {
            buckets: self.bounds.iter().copied().zip(self.counts.iter().map(Counter::get)).collect(),
            over: self.over.get(),
            sum: Duration::from_nanos(self.nanos.get()).as_secs_f64(),
        }
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
        assert_eq!(h.count(), 6);
    }

    #[test]
    fn a_gauge_knows_when_it_is_unknown() {
        let g = Gauge::new(Gauge::UNKNOWN);
        assert_eq!((g.known(), g.get(), g.signed()), (None, 0, None));
        g.set(7);
        g.add(-2);
        assert_eq!((g.known(), g.get(), g.swap(1)), (Some(5), 5, 5));
        g.add(-9);
        assert_eq!((g.get(), g.signed()), (0, Some(-8)));
    }
}

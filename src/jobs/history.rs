//! The last endings of jobs and the last samples of load, for the page on the health port: two short rings.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::job::{Id, Kind};
use crate::limits;
use crate::os::clock;

/// How a job ended, in closed words: a verdict's sentence may quote a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub id: Id,
    pub event: Option<String>,
    pub kind: Kind,
    /// The contract's word, such as `failed`.
    pub status: &'static str,
    /// As in `cronium_jobs_failed_total{reason}`.
    pub reason: &'static str,
    pub exit_code: i32,
    /// From hand-out to verdict.
    pub took: Duration,
    pub at: Instant,
}

/// One look at the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub jobs: usize,
    /// Of the backend's last answer; `None` where it did not answer lately.
    pub latency: Option<Duration>,
}

/// The rings.
#[derive(Debug, Default)]
pub struct History(Mutex<Rings>);

#[derive(Debug, Default)]
struct Rings {
    endings: VecDeque<Ending>,
    samples: VecDeque<Sample>,
}

impl History {
    /// A job has ended.
    pub fn ended(&self, ending: Ending) {
        push(&mut self.lock().endings, ending, limits::PAGE_ENDINGS);
    }

    /// The monitor has looked.
    pub fn sample(&self, sample: Sample) {
        push(&mut self.lock().samples, sample, limits::PAGE_SAMPLES);
    }

    /// Newest first.
    pub fn endings(&self) -> Vec<Ending> {
        self.lock().endings.iter().rev().cloned().collect()
    }

    /// Oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.lock().samples.iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Rings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push<T>(ring: &mut VecDeque<T>, value: T, most: usize) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(value);
}

/// An event's name as the page shows it: its beginning.
pub fn shown_name(name: &str) -> String {
    name.chars().take(limits::PAGE_NAME).collect()
}

impl Ending {
    /// How long ago.
    pub fn age(&self) -> Duration {
        clock::since(self.at)
    }
}

#[cfg(test)]
pub(in crate::jobs) mod tests {
    use super::*;

    pub(in crate::jobs) fn ending(n: usize, event: &str) -> Ending {
        Ending {
            id: Id::parse(&format!("job-{n}")).expect("an id"),
            event: Some(shown_name(event)),
            kind: Kind::Container,
            status: "failed",
            reason: "script",
            exit_code: 3,
            took: Duration::from_millis(1500),
            at: clock::now(),
        }
    }

    #[test]
    fn the_last_are_kept_and_no_more() {
        let history = History::default();
        for n in 0..1000 {
            history.ended(ending(n, "backup"));
            history.sample(Sample { jobs: n, latency: None });
        }
        let endings = history.endings();
        assert_eq!((endings.len(), endings[0].id.as_str()), (limits::PAGE_ENDINGS, "job-999"));
        let samples = history.samples();
        assert_eq!((samples.len(), samples.last().map(|sample| sample.jobs)), (limits::PAGE_SAMPLES, Some(999)));
        assert_eq!(shown_name(&"ü".repeat(10_000)).chars().count(), limits::PAGE_NAME);
    }
}

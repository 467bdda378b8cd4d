//! Waits for the running jobs after the signal to stop.

use std::time::{Duration, Instant};

use crate::jobs::running::Running;
use crate::limits;

/// How the wait for the jobs ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    All,
    /// A further signal came.
    Signal,
    Late,
}

/// Waits until all jobs have ended, `wait` is over, or `signalled` says that a further signal has come. That is asked
/// again and again.
pub(super) fn wait_for_jobs(running: &Running, wait: Duration, mut signalled: impl FnMut() -> bool) -> Drained {
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if running.wait_until_empty(left.min(limits::DRAIN_TICK)) {
            return Drained::All;
        }
        if left.is_zero() {
            return Drained::Late;
        }
        if signalled() {
            return Drained::Signal;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Id;
    use crate::os::threads;

    /// No wait of a test is longer.
    const BOUND: Duration = Duration::from_secs(5);

    #[test]
    fn jobs_that_do_not_end_are_waited_for_within_the_bound() {
        let running = Running::new();
        let _token = running.claim(&Id::parse("job_1").expect("id")).expect("free");
        for wait in [Duration::ZERO, Duration::from_millis(50), limits::DRAIN_TICK + Duration::from_millis(50)] {
            let begun = Instant::now();
            let drained = wait_for_jobs(&running, wait, || begun.elapsed() > BOUND);
            assert_eq!(drained, Drained::Late);
            assert!((wait..wait + BOUND / 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        }
    }

    #[test]
    fn the_end_of_the_last_job_or_a_signal_ends_the_wait() {
        let running = Running::new();
        assert_eq!(wait_for_jobs(&running, BOUND, || false), Drained::All);
        let token = running.claim(&Id::parse("job_1").expect("id")).expect("free");
        let mut asked = 0;
        let third = || {
            asked += 1;
            asked == 3
        };
        assert_eq!(wait_for_jobs(&running, BOUND, third), Drained::Signal);
        let job = threads::spawn("t-job", move || drop(token)).expect("a thread");
        assert_eq!(wait_for_jobs(&running, BOUND, || false), Drained::All);
        job.join_within(BOUND);
    }
}

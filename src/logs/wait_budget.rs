//! How long a job may wait for the live log: a budget, so that a slow link costs a job at most a stated bound.
//!
//! Pure: the present moment is an argument. A job that has run for a time T, of whose output the link has taken B bytes
//! (each line plus [`LOG_LINE_OVERHEAD`](crate::limits::LOG_LINE_OVERHEAD)), has waited at most
//! [`LOG_WAIT_CAP`] + T / [`LOG_WAIT_SHARE`] + B × [`LOG_WAIT_NANOS_A_BYTE`] ns. The last part distinguishes a prompt link
//! in a burst, where a short wait saves lines, from a slow link, where lines are left out instead.

use std::time::{Duration, Instant};

use crate::limits::{LOG_STALL, LOG_WAIT_CAP, LOG_WAIT_NANOS_A_BYTE, LOG_WAIT_SHARE};

/// The waiting time that one job has left.
#[derive(Debug)]
pub(super) struct WaitBudget {
    left: Duration,
    counted_to: Instant,
}

impl WaitBudget {
    /// A new job's budget.
    pub(super) fn new(now: Instant) -> Self {
        Self { left: LOG_WAIT_CAP, counted_to: now }
    }

    /// The link took `bytes` of this job.
    pub(super) fn taken(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = Duration::from_nanos(u64::from(bytes) * u64::from(LOG_WAIT_NANOS_A_BYTE));
        self.left = (self.left + earned).min(LOG_WAIT_CAP);
    }

    /// The job waited this long.
    pub(super) fn spend(&mut self, waited: Duration) {
        self.left = self.left.saturating_sub(waited);
    }

    /// How long it may wait now, given when the link last took bytes: zero if the budget is spent or the link stands
    /// still.
    pub(super) fn allowance(&mut self, now: Instant, last_progress: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.counted_to);
        self.counted_to = now;
        self.left = (self.left + elapsed / LOG_WAIT_SHARE).min(LOG_WAIT_CAP);
        self.left.min(LOG_STALL.saturating_sub(now.saturating_duration_since(last_progress)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_link_that_stands_still_is_waited_for_no_longer_than_a_stall() {
        let begun = Instant::now();
        let mut budget = WaitBudget::new(begun);
        assert_eq!(budget.allowance(begun, begun), LOG_STALL);
        assert_eq!(budget.allowance(begun + LOG_STALL - MS, begun), MS);
        assert_eq!(budget.allowance(begun + LOG_STALL, begun), Duration::ZERO);
        assert_eq!(budget.allowance(begun + LOG_STALL * 50, begun), Duration::ZERO);
    }

    #[test]
    fn a_trickling_link_costs_the_bound_and_no_more() {
        // It takes one line of 80 bytes every 10 ms; the job waits whenever it may, over a minute.
        let begun = Instant::now();
        let mut budget = WaitBudget::new(begun);
        let mut waited = Duration::ZERO;
        let mut now = begun;
        let mut bytes = 0u32;
        while now < begun + MS * 60_000 {
            let may = budget.allowance(now, now).min(10 * MS);
            budget.spend(may);
            waited += may;
            now += 10 * MS;
            budget.taken(144);
            bytes += 144;
        }
        let bound = LOG_WAIT_CAP
            + (now - begun) / LOG_WAIT_SHARE
            + Duration::from_nanos(u64::from(bytes) * u64::from(LOG_WAIT_NANOS_A_BYTE));
        assert!(waited <= bound, "{waited:?} > {bound:?}");
        assert!(waited > bound - 50 * MS, "the budget is meant to be usable: {waited:?} of {bound:?}");
    }

    #[test]
    fn a_prompt_link_is_always_waited_for() {
        // A source without end against a link of 125,000 lines of 80 bytes a second: 50 lines every 400 us.
        let begun = Instant::now();
        let mut budget = WaitBudget::new(begun);
        let mut now = begun;
        for _ in 0..20_000 {
            let step = Duration::from_micros(400);
            assert!(budget.allowance(now, now) >= step);
            budget.spend(step);
            now += step;
            budget.taken(50 * 144);
        }
    }

    #[test]
    fn idle_time_saves_up_to_the_cap_only() {
        let begun = Instant::now();
        let mut budget = WaitBudget::new(begun);
        budget.spend(LOG_WAIT_CAP);
        assert_eq!(budget.allowance(begun, begun), Duration::ZERO);
        let later = begun + 1000 * MS;
        assert_eq!(budget.allowance(later, later), 1000 * MS / LOG_WAIT_SHARE);
        let much_later = begun + Duration::from_secs(86_400);
        budget.taken(usize::MAX);
        assert_eq!(budget.allowance(much_later, much_later), LOG_STALL);
        budget.spend(LOG_WAIT_CAP);
        assert_eq!(budget.allowance(much_later, much_later), Duration::ZERO);
        // Bytes that the link takes do not raise the budget beyond the cap.
        budget.taken(usize::MAX);
        budget.spend(LOG_WAIT_CAP);
        assert_eq!(budget.allowance(much_later, much_later), Duration::ZERO);
    }
}

//! How reports are offered, and what goes before one.

use std::time::Duration;

use crate::limits;
use crate::policy::backoff::{Backoff, Growth};

/// Waits until nothing that goes before a report is under way; how many live lines did not arrive, where only that shows it.
pub type Earlier = Box<dyn FnOnce() -> Option<u64> + Send>;

/// How long and how often a report is offered.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// `jobs.reportRetention`, by the wall clock.
    pub retention: Duration,
    /// Each run offers a report for at least so long, by the monotonic clock.
    pub least_offer: Duration,
    pub backoff: Backoff,
    /// `limits::EARLIER_CALLS`.
    pub settle: Duration,
    /// `limits::OUTBOX_ASK`.
    pub ask: Duration,
    /// `limits::OUTBOX_SPREAD`.
    pub spread: Duration,
    /// `limits::OUTBOX_STEP`.
    pub step: Duration,
}

impl Terms {
    /// The usual ones.
    pub fn new(retention: Duration) -> Self {
        let (initial, max) = (limits::OUTBOX_FIRST, limits::OUTBOX_MOST);
        let backoff = Backoff { growth: Growth::Exponential, initial, max };
        let (least_offer, settle) = (limits::OUTBOX_LEAST_OFFER, limits::EARLIER_CALLS);
        let (ask, spread, step) = (limits::OUTBOX_ASK, limits::OUTBOX_SPREAD, limits::OUTBOX_STEP);
        Self { retention, least_offer, backoff, settle, ask, spread, step }
    }
}

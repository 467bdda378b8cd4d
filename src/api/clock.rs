//! The difference of this host's clock to the backend's, by the `Date` of its answers.
//!
//! Deadlines do not depend on it, but times in reports do. A large difference causes a warning.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::wire::time::parse_http_date;
use crate::{limits, metrics};

/// Until the first answer with a date.
const UNKNOWN: i64 = i64::MIN;

/// The last measured skew, shared by all clones of a client.
#[derive(Debug)]
pub(super) struct Clock {
    /// Milliseconds by which ours is ahead.
    ahead: AtomicI64,
    is_off: AtomicBool,
    /// When the last call succeeded, and how long it took.
    good: Mutex<Option<(Instant, Duration)>>,
}

/// The last measured difference to the backend's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSkew {
    /// Milliseconds by which ours is ahead; negative if it is behind.
    pub ahead: i64,
    /// A warning above `limits::CLOCK_SKEW` was logged, and no all-clear since.
    pub is_off: bool,
}

impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.ahead.unsigned_abs() / 100;
        let side = if self.ahead < 0 { "behind" } else { "ahead of" };
        write!(f, "{}.{} s {side} the backend's", tenths / 10, tenths % 10)
    }
}

/// The measurement of one answer: milliseconds by which our clock is ahead, and its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    ahead: i64,
    doubt: i64,
}

impl Clock {
    pub(super) const fn new() -> Self {
        Self { ahead: AtomicI64::new(UNKNOWN), is_off: AtomicBool::new(false), good: Mutex::new(None) }
    }

    /// Notes an answer: its `Date`, the start of the request by our clock, and the time until its head.
    pub(super) fn note(&self, date: Option<&str>, begun: SystemTime, took: Duration) {
        let Some(seen) = date.and_then(parse_http_date).and_then(|date| compare(date, begun, took)) else { return };
        self.ahead.store(seen.ahead, Ordering::Relaxed);
        metrics::CLOCK_SKEW.set(seen.ahead);
        let distance = seen.ahead.saturating_abs();
        let limit = millis(limits::CLOCK_SKEW);
        // Between the two bounds nothing is logged.
        if distance - seen.doubt > limit && !self.is_off.swap(true, Ordering::Relaxed) {
            log::warn!(
                "this host's clock is {}; times in reports will be wrong by as much: is its time synchronised \
                 (timedatectl)?",
                ClockSkew { ahead: seen.ahead, is_off: true }
            );
        } else if distance + seen.doubt <= limit && self.is_off.swap(false, Ordering::Relaxed) {
            log::info!("this host's clock agrees with the backend's again (within {} s)", limits::CLOCK_SKEW.as_secs());
        }
    }

    /// Notes a call that succeeded.
    pub(super) fn succeeded(&self, at: Instant, took: Duration) {
        *self.good.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, took));
    }

    /// The last of them.
    pub(super) fn last_success(&self) -> Option<(Instant, Duration)> {
        *self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last measurement; `None` before the first answer with a date.
    pub(super) fn skew(&self) -> Option<ClockSkew> {
        let ahead = self.ahead.load(Ordering::Relaxed);
        (ahead != UNKNOWN).then(|| ClockSkew { ahead, is_off: self.is_off.load(Ordering::Relaxed) })
    }
}

/// Assumes that the answer was written half-way. A date has no fraction: half a second is its mean error.
fn compare(date: SystemTime, begun: SystemTime, took: Duration) -> Option<Seen> {
    if took > limits::CLOCK_ROUND_TRIP {
        return None;
    }
    let (ours, theirs) = (begun.checked_add(took / 2)?, date.checked_add(limits::HTTP_DATE_DOUBT)?);
    let ahead = match ours.duration_since(theirs) {
        Ok(ahead) => millis(ahead),
        Err(behind) => -millis(behind.duration()),
    };
    Some(Seen { ahead, doubt: millis(took / 2 + limits::HTTP_DATE_DOUBT) })
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::time::parse_rfc3339;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn at(text: &str) -> SystemTime {
        parse_rfc3339(text).expect("a moment")
    }

    #[test]
    fn half_the_round_trip_and_half_the_second_count() {
        let date = parse_http_date(DATE).expect("a date");
        for (begun, took, ahead, doubt) in [
            ("1994-11-06T08:49:37.5Z", 0, 0, 500),
            ("1994-11-06T08:49:36.5Z", 2_000, 0, 1_500),
            ("1994-11-06T08:50:37.5Z", 0, 60_000, 500),
            ("1994-11-06T08:49:07.5Z", 1_000, -29_500, 1_000),
            ("1970-01-01T00:00:00Z", 0, -784_111_777_500, 500),
        ] {
            let seen = compare(date, at(begun), Duration::from_millis(took));
            assert_eq!(seen, Some(Seen { ahead, doubt }), "{begun}");
        }
        // A slow answer is too uncertain.
        assert_eq!(compare(date, date, limits::CLOCK_ROUND_TRIP + Duration::from_millis(1)), None);
    }

    #[test]
    fn too_much_is_told_and_well_again_too() {
        let clock = Clock::new();
        let off = |begun: &str, took: u64| {
            clock.note(Some(DATE), at(begun), Duration::from_millis(took));
            clock.skew().map(|skew| skew.is_off)
        };
        clock.note(None, SystemTime::now(), Duration::ZERO);
        clock.note(Some("soon"), SystemTime::now(), Duration::ZERO);
        assert_eq!(clock.skew(), None);
        assert_eq!(off("1994-11-06T08:50:07Z", 0), Some(false));
        // 30.5 s, known to half a second, may be 30.
        assert_eq!(off("1994-11-06T08:50:08Z", 0), Some(false));
        assert_eq!(off("1994-11-06T08:50:08.1Z", 0), Some(true));
        assert_eq!(off("1994-11-06T08:50:08Z", 0), Some(true));
        assert_eq!(off("1994-11-06T08:50:07.1Z", 0), Some(true));
        assert_eq!(off("1994-11-06T08:50:07Z", 0), Some(false));
        assert_eq!(off("1994-11-06T08:48:00Z", 0), Some(true));
        assert_eq!(clock.skew(), Some(ClockSkew { ahead: -97_500, is_off: true }));
    }

    #[test]
    fn the_side_is_told() {
        let words = |ahead| ClockSkew { ahead, is_off: false }.to_string();
        assert_eq!(words(31_250), "31.2 s ahead of the backend's");
        assert_eq!(words(-900), "0.9 s behind the backend's");
    }
}

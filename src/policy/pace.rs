//! How many logins to one server may run at once: learned from its refusals, since it does not say.
//!
//! sshd turns connections away while too many others have not logged in yet (`MaxStartups`), before its greeting. Each burst
//! of such refusals halves the number; it grows again by one after a run of successful logins, up to a fixed maximum. It
//! never falls below one: then the caller's pauses between tries are the pace.

use std::time::Instant;

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Logins at once to an unknown server, and the maximum.
    pub most: usize,
    /// Successful logins in a row after which one more is tried.
    pub grow_after: usize,
}

/// How a login ended, as far as the pace goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server let us in.
    Passed,
    /// It closed the connection before its greeting.
    TurnedAway,
    /// Any other end, which says nothing about the number.
    Other,
}

/// The state of one server.
#[derive(Debug)]
pub struct Pace {
    settings: Settings,
    limit: usize,
    under_way: usize,
    /// Successes since the limit last changed or a login was turned away.
    good: usize,
    halved: Option<Instant>,
    passed: Option<Instant>,
}

impl Pace {
    /// The state of an unknown server.
    pub fn new(settings: Settings) -> Self {
        Self { settings, limit: settings.most.max(1), under_way: 0, good: 0, halved: None, passed: None }
    }

    /// Counts one more login in, if there may be one now. Each is to be ended with [`Self::end`].
    pub fn begin(&mut self) -> bool {
        let free = self.under_way < self.limit;
        self.under_way += usize::from(free);
        free
    }

    /// The login that began at `began` has ended.
    pub fn end(&mut self, began: Instant, end: End, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        match end {
            End::Passed => {
                self.passed = Some(now);
                self.good += 1;
                if self.good >= self.settings.grow_after && self.limit < self.settings.most {
                    (self.limit, self.good) = (self.limit + 1, 0);
                }
            }
            // Logins that began before the limit fell say nothing about the new one: a burst halves it once.
            End::TurnedAway if self.halved.is_none_or(|halved| began > halved) => {
                (self.limit, self.good, self.halved) = ((self.limit / 2).max(1), 0, Some(now));
            }
            End::TurnedAway => self.good = 0,
            End::Other => {}
        }
    }

    /// Logins that may be under way at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether the server accepted a login at or after `moment`.
    pub fn passed_since(&self, moment: Instant) -> bool {
        self.passed.is_some_and(|passed| passed >= moment)
    }

    /// Whether nothing is under way, and nothing was learned that a new one would not know.
    pub fn is_forgettable(&self) -> bool {
        self.under_way == 0 && self.limit == self.settings.most.max(1)
    }

    /// Whether a login is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SETTINGS: Settings = Settings { most: 8, grow_after: 3 };

    /// Logins that begin together at second `at` and end a second later as `ends` says; how many were let begin.
    fn burst(pace: &mut Pace, start: Instant, at: u64, ends: &[End]) -> usize {
        let (began, now) = (start + Duration::from_secs(at), start + Duration::from_secs(at + 1));
        let begun = ends.iter().filter(|_| pace.begin()).count();
        for end in ends.iter().take(begun) {
            pace.end(began, *end, now);
        }
        assert!(pace.is_idle());
        begun
    }

    #[test]
    fn a_burst_that_is_turned_away_halves_it_once_and_it_never_falls_below_one() {
        let (mut pace, start) = (Pace::new(SETTINGS), Instant::now());
        assert!(pace.is_forgettable());
        for (round, want) in [(0, 4), (1, 2), (2, 1), (3, 1)] {
            let before = pace.limit();
            assert_eq!(burst(&mut pace, start, round * 10, &[End::TurnedAway; 20]), before);
            assert_eq!(pace.limit(), want, "round {round}");
        }
        assert!(!pace.is_forgettable());
    }

    #[test]
    fn late_words_of_an_earlier_burst_do_not_halve_it_again() {
        let (mut pace, start) = (Pace::new(SETTINGS), Instant::now());
        let second = |n| start + Duration::from_secs(n);
        assert!((0..8).all(|_| pace.begin()) && !pace.begin());
        pace.end(second(0), End::TurnedAway, second(2));
        pace.end(second(1), End::TurnedAway, second(9));
        assert_eq!(pace.limit(), 4);
        pace.end(second(3), End::TurnedAway, second(9));
        assert_eq!(pace.limit(), 2);
    }

    #[test]
    fn it_grows_by_one_after_a_run_of_successes_up_to_the_most() {
        let (mut pace, start) = (Pace::new(SETTINGS), Instant::now());
        burst(&mut pace, start, 0, &[End::TurnedAway; 8]);
        for (round, end, want) in [
            (1, End::Passed, 4),
            (2, End::Passed, 4),
            (3, End::Other, 4),
            (4, End::Passed, 5),
            (5, End::Passed, 5),
            (6, End::Passed, 5),
            (7, End::TurnedAway, 2),
        ] {
            burst(&mut pace, start, round * 10, &[end]);
            assert_eq!(pace.limit(), want, "round {round}");
        }
        for round in 8..100 {
            burst(&mut pace, start, round * 10, &[End::Passed]);
        }
        assert_eq!(pace.limit(), SETTINGS.most);
        assert!(pace.is_forgettable());
    }

    #[test]
    fn it_knows_when_the_server_last_let_somebody_in() {
        let (mut pace, start) = (Pace::new(SETTINGS), Instant::now());
        assert!(!pace.passed_since(start));
        burst(&mut pace, start, 5, &[End::Passed, End::TurnedAway]);
        assert!(pace.passed_since(start + Duration::from_secs(6)));
        assert!(!pace.passed_since(start + Duration::from_secs(7)));
    }
}

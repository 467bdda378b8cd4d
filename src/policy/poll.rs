//! When to ask the backend for jobs again.
//!
//! An agent with nothing to do slows down step by step, a claim brings it back to full speed, a full batch means that
//! there is probably more, and errors make it back off. Everything is bounded by the two configured intervals, so that
//! no answer of a backend can silence the agent or make it hammer.
//!
//! Many agents share a backend. An event that all of them see at one moment, such as a power cut, a hang or a restart of the
//! backend, puts their polls in step. So the pauses after one are drawn from a wide range until the polls are spread.

use std::time::{Duration, Instant};

/// By how much an idle agent slows down at each empty answer.
const IDLE_FACTOR: f64 = 1.5;
/// Each delay is moved by up to this share of itself, earlier or later, so that agents do not march in step.
const JITTER: f64 = 0.05;
/// The same in a time in which agents may march in step.
const WIDE_JITTER: f64 = 0.5;
/// A backend that wants fewer polls gets one in at most this many times `maxPollInterval`.
const FEWER_FACTOR: u32 = 4;

/// The result of a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The backend answered.
    Jobs {
        /// The number of jobs asked for.
        asked: usize,
        /// The number of usable jobs that came.
        got: usize,
        /// The backend's `nextPollAfter`, from now.
        next_after: Option<Duration>,
    },
    /// No answer that could be used.
    Failed {
        /// The backend's `Retry-After`, already capped.
        retry_after: Option<Duration>,
        /// Whether it says that it gets too many calls (429).
        too_many: bool,
    },
    /// There was no poll, since the agent may not claim at present.
    Skipped,
}

/// The pace of one poller.
#[derive(Debug, Clone)]
pub struct Pace {
    interval: Duration,
    max_interval: Duration,
    idle: Duration,
    failures: u32,
    due: Instant,
    /// Other agents may poll at the same moments.
    in_step: bool,
    /// The last answer came late.
    late: bool,
}

impl Pace {
    /// A pace between `interval` and `max_interval` whose first poll is due at once.
    pub fn new(interval: Duration, max_interval: Duration, now: Instant) -> Self {
        let max_interval = max_interval.max(interval);
        Self { interval, max_interval, idle: interval, failures: 0, due: now, in_step: true, late: false }
    }

    /// Other bounds from now on. A poll that is due sooner than the new bounds would have it stays due.
    pub fn adjust(&mut self, interval: Duration, max_interval: Duration, now: Instant) {
        self.interval = interval;
        self.max_interval = max_interval.max(interval);
        self.idle = self.idle.clamp(self.interval, self.max_interval);
        if self.failures == 0 {
            self.due = self.due.min(now + self.idle);
        }
    }

    /// When the next poll is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Takes the result of a poll; `unit` is a random number in `0.0..1.0`.
    pub fn record(&mut self, answer: Answer, now: Instant, unit: f64) {
        // A backend that hung answers all that waited at one moment. One that is always slow must not be asked more often.
        let late = now.saturating_duration_since(self.due) > self.interval.mul_f64(WIDE_JITTER);
        let was_late = std::mem::replace(&mut self.late, late);
        self.in_step |= late && !was_late;
        let delay = match answer {
            Answer::Failed { retry_after, too_many } => {
                self.failures = self.failures.saturating_add(1);
                let steps = 2_u32.saturating_pow(self.failures.min(16));
                let factor = if too_many && retry_after.is_none() { FEWER_FACTOR } else { 1 };
                let most = self.max_interval.saturating_mul(factor);
                let own = self.interval.saturating_mul(steps).min(most);
                // The pause itself spreads the agents, over all of the idle one if it is as long.
                self.in_step = own < self.max_interval;
                // The same date may be told to all.
                let told = retry_after.map(|wait| wait + own.mul_f64(unit));
                jittered(own, WIDE_JITTER, unit).max(told.unwrap_or_default())
            }
            Answer::Skipped => jittered(self.interval, JITTER, unit),
            Answer::Jobs { asked, got, next_after } => {
                self.failures = 0;
                let own = self.after_jobs(asked, got, unit);
                match next_after {
                    Some(wait) if !wait.is_zero() => {
                        let most = self.max_interval.saturating_mul(FEWER_FACTOR);
                        wait.clamp(self.interval, most) + self.interval.mul_f64(unit)
                    }
                    _ => own,
                }
            }
        };
        self.due = now + delay;
    }

    /// Jobs are said to wait: the next poll is due now, unless the backend is in trouble.
    pub fn hint(&mut self, now: Instant) {
        if self.failures == 0 {
            self.idle = self.interval;
            self.due = self.due.min(now);
            self.in_step = true;
        }
    }

    fn after_jobs(&mut self, asked: usize, got: usize, unit: f64) -> Duration {
        if got > 0 {
            self.idle = self.interval;
            return if got >= asked { Duration::ZERO } else { jittered(self.interval, JITTER, unit) };
        }
        let at_rest = self.idle == self.max_interval;
        let delay = match (self.in_step, at_rest) {
            (false, _) => jittered(self.idle, JITTER, unit),
            (true, false) => jittered(self.idle, WIDE_JITTER, unit),
            // Any moment of the pause: from now on the polls of many agents are spread evenly, and none is later than usual.
            (true, true) => self.idle.mul_f64(unit.clamp(0.0, 1.0)),
        };
        self.in_step &= !at_rest;
        self.idle = self.idle.mul_f64(IDLE_FACTOR).min(self.max_interval);
        delay
    }
}

/// `delay`, moved by up to this `share` of itself, earlier or later.
fn jittered(delay: Duration, share: f64, unit: f64) -> Duration {
    delay.mul_f64(1.0 - share + 2.0 * share * unit.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bounds_bring_an_idle_poller_forward_and_never_put_a_due_poll_off() {
        let start = Instant::now();
        let empty = Answer::Jobs { asked: 1, got: 0, next_after: None };
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(60 * second, 600 * second, start);
        pace.record(empty, start, 0.5);
        assert_eq!(pace.due(), start + 60 * second);
        pace.adjust(second, 5 * second, start);
        assert_eq!(pace.due(), start + 5 * second);
        pace.adjust(600 * second, 600 * second, start);
        assert_eq!(pace.due(), start + 5 * second);
        pace.record(empty, start + 5 * second, 1.0);
        assert_eq!(pace.due(), start + 605 * second);
        // A backend in trouble is not asked sooner.
        pace.record(Answer::Failed { retry_after: Some(300 * second), too_many: false }, start, 0.5);
        let due = pace.due();
        pace.adjust(second, second, start);
        assert_eq!(pace.due(), due);
    }

    const MIDDLE: f64 = 0.5;

    fn jobs(asked: usize, got: usize) -> Answer {
        Answer::Jobs { asked, got, next_after: None }
    }

    fn told(got: usize, next_after: Duration) -> Answer {
        Answer::Jobs { asked: 5, got, next_after: Some(next_after) }
    }

    #[test]
    fn delays_follow_the_answers() {
        let (s, ms) = (Duration::from_secs, Duration::from_millis);
        let failed = |retry_after| Answer::Failed { retry_after, too_many: false };
        let refused = Answer::Failed { retry_after: None, too_many: true };
        for (name, answers) in [
            (
                "idle slows down to the maximum",
                vec![
                    (jobs(5, 0), ms(1000)),
                    (jobs(5, 0), ms(1500)),
                    (jobs(5, 0), ms(2250)),
                    (jobs(5, 0), ms(3375)),
                    // Spread over the whole pause, once.
                    (jobs(5, 0), ms(2000)),
                    (jobs(5, 0), ms(4000)),
                    (jobs(5, 0), ms(4000)),
                ],
            ),
            (
                "a claim resets it",
                vec![(jobs(5, 0), ms(1000)), (jobs(5, 0), ms(1500)), (jobs(5, 1), ms(1000)), (jobs(5, 0), ms(1000))],
            ),
            ("a full batch means more", vec![(jobs(5, 5), ms(0)), (jobs(1, 1), ms(0)), (jobs(2, 3), ms(0))]),
            (
                "errors back off and end with an answer",
                vec![
                    (failed(None), s(2)),
                    (failed(None), s(4)),
                    (failed(None), s(4)),
                    (jobs(5, 0), s(1)),
                    (failed(None), s(2)),
                ],
            ),
            // And up to one pause later.
            ("retry-after is a floor", vec![(failed(Some(s(60))), s(61)), (failed(Some(s(1))), s(4))]),
            (
                "too many calls slow it down further",
                vec![(refused, s(2)), (refused, s(4)), (refused, s(8)), (refused, s(16)), (refused, s(16))],
            ),
            (
                "nextPollAfter within bounds",
                vec![
                    (told(0, s(3)), ms(3500)),
                    (told(5, s(3)), ms(3500)),
                    (told(0, ms(1)), ms(1500)),
                    (told(0, s(86_400)), ms(16_500)),
                    (told(5, Duration::ZERO), s(0)),
                ],
            ),
            ("a skipped poll looks again soon", vec![(Answer::Skipped, s(1)), (Answer::Skipped, s(1))]),
        ] {
            let mut now = Instant::now();
            let mut pace = Pace::new(s(1), s(4), now);
            assert_eq!(pace.due(), now);
            for (answer, want) in answers {
                pace.record(answer, now, MIDDLE);
                let got = pace.due() - now;
                assert!(got.abs_diff(want) < ms(1), "{name}: {answer:?} gave {got:?}, not {want:?}");
                now += want;
            }
        }
    }

    #[test]
    fn jitter_moves_a_delay_by_a_twentieth_either_way_and_by_half_where_agents_may_be_in_step() {
        let s = Duration::from_secs;
        let failed = Answer::Failed { retry_after: None, too_many: false };
        let delay = |pace: &mut Pace, answer, now, unit| {
            pace.record(answer, now, unit);
            pace.due().saturating_duration_since(now).as_secs_f64()
        };
        for (unit, wide, narrow) in [(0.0, 0.5, 0.95), (0.5, 1.0, 1.0), (1.0, 1.5, 1.05)] {
            let mut now = Instant::now();
            let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-3, "{unit}: {got}, not {want}");
            let mut pace = Pace::new(s(8), s(8), now);
            // After the start: once, since this is the longest pause.
            near(delay(&mut pace, jobs(1, 0), now, unit), 8.0 * unit);
            now = pace.due();
            near(delay(&mut pace, jobs(1, 0), now, unit), 8.0 * narrow);
            // A late answer and a hint come to many agents at one moment, and so does a failure, whose pause is wide itself.
            for event in 0..3 {
                now = pace.due();
                match event {
                    0 => now += s(5),
                    1 => pace.hint(now),
                    _ => near(delay(&mut pace, failed, now, unit), 8.0 * wide),
                }
                now = now.max(pace.due());
                near(delay(&mut pace, jobs(1, 0), now, unit), if event < 2 { 8.0 * unit } else { 8.0 * narrow });
                now = pace.due();
                near(delay(&mut pace, jobs(1, 0), now, unit), 8.0 * narrow);
            }
            // A backend that is always slow is asked as seldom as another, but for the first time.
            for want in [unit, narrow, narrow] {
                now = pace.due() + s(5);
                near(delay(&mut pace, jobs(1, 0), now, unit), 8.0 * want);
            }
            // On the way to the longest pause it stays wide, also after a failure whose pause was shorter.
            let mut pace = Pace::new(s(8), s(20), now);
            near(delay(&mut pace, jobs(1, 0), now, unit), 8.0 * wide);
            now = pace.due();
            near(delay(&mut pace, failed, now, unit), 16.0 * wide);
            now = pace.due();
            near(delay(&mut pace, jobs(1, 0), now, unit), 12.0 * wide);
        }
    }

    #[test]
    fn a_hint_is_followed_at_once_except_in_trouble() {
        let now = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(1), Duration::from_secs(9), now);
        pace.record(jobs(1, 0), now, MIDDLE);
        pace.hint(now);
        assert_eq!(pace.due(), now);
        let failed = Answer::Failed { retry_after: Some(Duration::from_secs(5)), too_many: false };
        pace.record(failed, now, MIDDLE);
        pace.hint(now);
        assert_eq!(pace.due(), now + Duration::from_secs(6));
    }

    #[test]
    fn absurd_intervals_do_not_overflow() {
        let now = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(86_400), Duration::from_secs(1), now);
        for _ in 0..40 {
            pace.record(Answer::Failed { retry_after: None, too_many: true }, now, 1.0);
        }
        assert!(pace.due() - now <= Duration::from_secs(6 * 86_400));
    }
}

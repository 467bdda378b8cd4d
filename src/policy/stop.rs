//! When to end a container, and how hard: the steps from a reason to stop to TERM, to KILL, to giving up.
//!
//! A job ends in one way: its container ends. A deadline, a cancel and a full disk are reasons to stop the container; the
//! first reason is kept for the verdict.

use std::time::{Duration, Instant};

/// Why a container was stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A time limit: its configured name and length.
    Timeout { limit: &'static str, after: Duration },
    /// The job was cancelled, by this party.
    Cancelled(&'static str),
    /// The writable layer holds more than this many bytes.
    Disk(u64),
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing before this moment; `None`: nothing until a reason comes.
    Wait(Option<Instant>),
    Term,
    Kill,
    /// KILL was sent and the container is still there: stop waiting for it.
    GiveUp,
}

/// The times between the steps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// From TERM to KILL.
    pub grace: Duration,
    /// From one KILL to the next.
    pub again: Duration,
    /// From the first KILL to giving up.
    pub patience: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Running,
    Termed(Instant),
    Killed { first: Instant, last: Instant },
    GivenUp,
}

/// The plan of one container.
#[derive(Debug)]
pub struct Plan {
    pace: Pace,
    deadline: Option<(Instant, Reason)>,
    reason: Option<Reason>,
    step: Step,
}

impl Plan {
    /// A container without a deadline yet.
    pub fn new(pace: Pace) -> Self {
        Self { pace, deadline: None, reason: None, step: Step::Running }
    }

    /// The times between the steps from now on.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// The script has begun: from `at` on, `reason` ends it.
    pub fn set_deadline(&mut self, at: Instant, reason: Reason) {
        self.deadline = Some((at, reason));
    }

    /// Asks to stop. The first reason is kept.
    pub fn request(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }

    /// The reason to stop, if there is one.
    pub fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }

    /// Whether waiting for its end was given up.
    pub fn is_given_up(&self) -> bool {
        self.step == Step::GivenUp
    }

    /// What to do at `now`. The caller does it at once: the next step counts from `now`.
    pub fn step(&mut self, now: Instant) -> Action {
        if self.reason.is_none() {
            match &self.deadline {
                Some((at, reason)) if *at <= now => self.reason = Some(reason.clone()),
                Some((at, _)) => return Action::Wait(Some(*at)),
                None => return Action::Wait(None),
            }
        }
        match self.step {
            Step::Running => {
                self.step = Step::Termed(now);
                Action::Term
            }
            Step::Termed(at) if now < at + self.pace.grace => Action::Wait(Some(at + self.pace.grace)),
            Step::Termed(_) => {
                self.step = Step::Killed { first: now, last: now };
                Action::Kill
            }
            Step::Killed { first, .. } if now >= first + self.pace.patience => {
                self.step = Step::GivenUp;
                Action::GiveUp
            }
            Step::Killed { first, last } if now >= last + self.pace.again => {
                self.step = Step::Killed { first, last: now };
                Action::Kill
            }
            Step::Killed { first, last } => {
                Action::Wait(Some((last + self.pace.again).min(first + self.pace.patience)))
            }
            Step::GivenUp => Action::Wait(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace =
        Pace { grace: Duration::from_secs(5), again: Duration::from_secs(4), patience: Duration::from_secs(10) };
    const LATE: Reason = Reason::Timeout { limit: "timeout", after: Duration::from_secs(60) };

    /// Steps through `(second, wanted)`; a wait is written as the second it ends in.
    fn check(plan: &mut Plan, start: Instant, table: &[(u64, Action)]) {
        for (second, want) in table {
            assert_eq!(plan.step(start + Duration::from_secs(*second)), *want, "at second {second}");
        }
    }

    #[test]
    fn a_deadline_ends_in_term_kill_kill_and_giving_up() {
        let start = Instant::now();
        let at = |second| Some(start + Duration::from_secs(second));
        let mut plan = Plan::new(PACE);
        check(&mut plan, start, &[(0, Action::Wait(None))]);
        plan.set_deadline(start + Duration::from_secs(60), LATE);
        check(
            &mut plan,
            start,
            &[
                (59, Action::Wait(at(60))),
                (60, Action::Term),
                (61, Action::Wait(at(65))),
                (65, Action::Kill),
                (66, Action::Wait(at(69))),
                (69, Action::Kill),
                (70, Action::Wait(at(73))),
                (75, Action::GiveUp),
                (76, Action::Wait(None)),
            ],
        );
        assert!(plan.is_given_up());
        assert_eq!(plan.reason(), Some(&LATE));
    }

    #[test]
    fn the_first_reason_is_kept() {
        let start = Instant::now();
        let mut plan = Plan::new(PACE);
        plan.set_deadline(start + Duration::from_secs(1), LATE);
        plan.request(Reason::Cancelled("user"));
        plan.request(Reason::Disk(1));
        check(&mut plan, start, &[(0, Action::Term), (2, Action::Wait(Some(start + Duration::from_secs(5))))]);
        assert_eq!(plan.reason(), Some(&Reason::Cancelled("user")));
    }
}

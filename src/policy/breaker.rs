//! A circuit breaker: a server that cannot be reached costs a few attempts, then none until it had time to recover.
//!
//! Closed, it lets every attempt through and counts connection failures in a row: moments, not attempts. Attempts that
//! overlapped, or failed within [`Settings::moment`] of each other, failed for the same reason and count once: one hiccup
//! that meets forty jobs is one failure. At the threshold it opens and refuses until its timeout is over. Then it is
//! half-open: a few trials run at once, enough successes close it, one failure opens it again. The caller decides what is
//! a failure of the infrastructure; a script's exit code is not.
//!
//! An attempt that was let through holds a [`Pass`] and reports with it. Two things can go wrong, and neither may disturb
//! the count:
//!
//! - **A pass of an earlier era.** Each change of state begins an era. A result counts only in the era of its pass: an
//!   attempt that began before the breaker opened shows how the server was then. Otherwise the last of ten attempts that
//!   began together and time out one after the other would fail another job's trial.
//! - **A pass that never comes back,** because its job was cancelled while it connected, or its thread panicked. A trial's
//!   slot lives in its pass: dropping the pass frees it. Slots are counted over all eras, so that trials which hang
//!   longer than the timeout do not add up beyond the limit, era by era.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The operator's settings. A zero in a count acts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Switched off, it lets every attempt through and stays closed.
    pub enabled: bool,
    /// Moments of failure in a row that open it.
    pub failure_threshold: u32,
    /// Failures within this time of a counted one are the same moment's.
    pub moment: Duration,
    /// Successful trials that close it.
    pub success_threshold: u32,
    /// How long it stays open.
    pub timeout: Duration,
    /// Trials that may be under way at once while half-open.
    pub half_open_requests: u32,
}

/// A breaker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        })
    }
}

/// A change of state, for the log and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub from: State,
    pub to: State,
    /// Failures counted up to it, including the one that caused it.
    pub failures: u32,
}

/// Leave for one attempt. Dropping it counts as neither success nor failure: the attempt came to no result.
#[derive(Debug)]
#[must_use = "an attempt's result is given back with its pass"]
pub struct Pass {
    era: u64,
    at: Instant,
    began: Option<Transition>,
    /// Held for its count alone; a pass of a closed breaker has none.
    _slot: Option<Arc<()>>,
}

impl Pass {
    /// The change that this attempt made: the first trial makes an open breaker half-open.
    pub fn transition(&self) -> Option<Transition> {
        self.began
    }

    /// Whether this attempt is a trial of a half-open breaker.
    pub fn is_trial(&self) -> bool {
        self._slot.is_some()
    }
}

/// No attempt now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// [`State::Open`], or [`State::HalfOpen`] with all trials under way.
    pub state: State,
    /// When to come again. While open, the time of the first trial. While all trials are under way, one timeout from now: a
    /// success frees a place sooner, and a failure opens the breaker again for its timeout.
    pub retry_at: Instant,
    /// Failures counted since the server was last reached.
    pub failures: u32,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { successes: u32 },
}

/// The breaker of one server.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    phase: Phase,
    /// Grows by one with each change of state.
    era: u64,
    /// Moments in a row; trials that failed go on counting, closing starts over.
    failures: u32,
    /// When the last of them was counted.
    counted: Option<Instant>,
    /// Each trial under way holds a clone.
    slots: Arc<()>,
}

impl Breaker {
    /// Closed.
    pub fn new(settings: Settings) -> Self {
        Self { settings, phase: Phase::Closed, era: 0, failures: 0, counted: None, slots: Arc::new(()) }
    }

    /// The refusal that [`Self::admit`] would return at `now` because the breaker is open; changes nothing.
    pub fn look(&self, now: Instant) -> Option<Refused> {
        match self.phase {
            Phase::Open { until } if now < until => Some(self.refuse(State::Open, until)),
            _ => None,
        }
    }

    /// Asks to make one attempt at `now`.
    pub fn admit(&mut self, now: Instant) -> Result<Pass, Refused> {
        if let Some(refused) = self.look(now) {
            return Err(refused);
        }
        let mut began = None;
        if matches!(self.phase, Phase::Open { .. }) {
            // A place is free here: the attempt that opened the breaker gave up its place, and no other was let in since.
            began = Some(self.turn(Phase::HalfOpen { successes: 0 }));
        }
        let trial = matches!(self.phase, Phase::HalfOpen { .. });
        if trial && !self.has_slot() {
            return Err(self.refuse(State::HalfOpen, now + self.settings.timeout));
        }
        Ok(Pass { era: self.era, at: now, began, _slot: trial.then(|| Arc::clone(&self.slots)) })
    }

    /// Takes an attempt's result. Returns the change of state that it made, if any; `None` for a pass of an earlier era.
    pub fn record(&mut self, pass: Pass, success: bool, now: Instant) -> Option<Transition> {
        if !self.settings.enabled || pass.era != self.era {
            return None;
        }
        if !success && !self.is_same_moment(pass.at, now) {
            self.failures = self.failures.saturating_add(1);
            self.counted = Some(now);
        }
        match &mut self.phase {
            Phase::Closed if success => (self.failures, self.counted) = (0, None),
            Phase::Closed if self.failures < self.settings.failure_threshold.max(1) => {}
            Phase::HalfOpen { successes } if success => {
                *successes = successes.saturating_add(1);
                if *successes >= self.settings.success_threshold.max(1) {
                    let change = self.turn(Phase::Closed);
                    (self.failures, self.counted) = (0, None);
                    return Some(change);
                }
            }
            Phase::Closed | Phase::HalfOpen { .. } => {
                return Some(self.turn(Phase::Open { until: now + self.settings.timeout }));
            }
            // No pass is from an era in which the breaker is open.
            Phase::Open { .. } => {}
        }
        None
    }

    /// The state at `now`: open turns half-open by time alone, though [`Self::admit`] makes the transition.
    pub fn state(&self, now: Instant) -> State {
        match self.phase {
            Phase::Open { until } if now >= until => State::HalfOpen,
            phase => named(phase),
        }
    }

    /// Failures counted since the server was last reached.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Trials under way, those of earlier eras included.
    pub fn trials(&self) -> usize {
        Arc::strong_count(&self.slots) - 1
    }

    /// Whether an attempt that began at `began` and failed at `now` failed with the one that was counted last. What is
    /// counted so does not move that moment: attempts that follow each other closely cannot make it last.
    fn is_same_moment(&self, began: Instant, now: Instant) -> bool {
        self.counted.is_some_and(|counted| began < counted || now < counted + self.settings.moment)
    }

    fn has_slot(&self) -> bool {
        self.trials() < usize::try_from(self.settings.half_open_requests.max(1)).unwrap_or(usize::MAX)
    }

    fn refuse(&self, state: State, retry_at: Instant) -> Refused {
        Refused { state, retry_at, failures: self.failures }
    }

    fn turn(&mut self, phase: Phase) -> Transition {
        let change = Transition { from: named(self.phase), to: named(phase), failures: self.failures };
        self.phase = phase;
        self.era += 1;
        change
    }
}

fn named(phase: Phase) -> State {
    match phase {
        Phase::Closed => State::Closed,
        Phase::Open { .. } => State::Open,
        Phase::HalfOpen { .. } => State::HalfOpen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const SETTINGS: Settings = Settings {
        enabled: true,
        failure_threshold: 3,
        moment: Duration::ZERO,
        success_threshold: 2,
        timeout: Duration::from_secs(10),
        half_open_requests: 2,
    };

    /// Plays a script of words against a breaker. The passes are named by a letter:
    /// `a?` admit, let through · `a!40` admit, refused until second 40 · `a+` success · `a-` failure · `a.` abandon ·
    /// `a~` drop · `@7` the clock stands at second 7 · `closed`, `open`, `half` where it must stand now.
    /// A word after which a transition is due ends in `>state`; all others must cause none.
    fn play(settings: Settings, name: &str, script: &str) -> Breaker {
        let (mut breaker, start) = (Breaker::new(settings), Instant::now());
        let (mut now, mut passes) = (start, BTreeMap::new());
        let at = |text: &str| start + Duration::from_secs(text.parse().expect("a second"));
        for word in script.split_whitespace() {
            let place = format!("{name}: {word}");
            let (word, due) = word.split_once('>').map_or((word, None), |(word, due)| (word, Some(due)));
            if ["closed", "open", "half"].contains(&word) {
                assert_eq!(short(breaker.state(now)), word, "{place}");
                continue;
            }
            let (pass, rest) = word.split_at(1);
            let change = match rest.split_at(usize::from(pass != "@")) {
                ("", second) => {
                    now = at(second);
                    None
                }
                ("?", _) => {
                    let given = breaker.admit(now).unwrap_or_else(|refused| panic!("{place}: {refused:?}"));
                    let change = given.transition();
                    passes.insert(pass, given);
                    change
                }
                ("!", second) => {
                    let refused = breaker.admit(now).map(|_| ()).expect_err(&place);
                    assert_eq!(refused.retry_at, at(second), "{place}");
                    assert_eq!((refused.state, refused.failures), (breaker.state(now), breaker.failures()), "{place}");
                    None
                }
                ("+", _) => breaker.record(passes.remove(pass).expect("a pass"), true, now),
                ("-", _) => breaker.record(passes.remove(pass).expect("a pass"), false, now),
                (".", _) => {
                    drop(passes.remove(pass).expect("a pass"));
                    None
                }
                ("~", _) => {
                    drop(passes.remove(pass).expect("a pass"));
                    None
                }
                _ => panic!("{place}: not a word"),
            };
            assert_eq!(change.map(|change| short(change.to)), due, "{place}");
            if let Some(change) = change {
                assert_ne!(change.from, change.to, "{place}");
            }
        }
        drop(passes);
        assert_eq!(breaker.trials(), 0, "{name}: a trial is lost");
        breaker
    }

    fn short(state: State) -> &'static str {
        match state {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half",
        }
    }

    const OPENED: &str = "@0 a? a- a? a- a? a->open";

    #[test]
    fn every_transition() {
        for (name, script) in [
            ("new", "closed a? b? c? d? closed"),
            ("failures in a row open it", "a? a- closed a? a- closed a? a->open open a!10"),
            ("a success starts the count over", "a? a- a? a- a? a+ a? a- a? a- closed a? a->open"),
            ("attempts that overlapped fail once", "a? b? c? @1 a- b- c- closed d? d- closed d? d->open"),
            ("also the one that took longest", "@0 a? b? @1 a- @9 b- closed c? c- closed c? c->open"),
            ("and not those that began after it", "@0 a? @1 a- b? c? @3 b- closed c- d? @4 d->open"),
            ("a success between them starts over", "@0 a? b? @1 a- b- c? c+ @2 d? d- e? e- closed f? f->open"),
            ("open to its very end", "OPENED @9 open a!10 a!10 @10 half a?>half"),
            ("half-open by time alone", "OPENED @500 half half a?>half half"),
            ("enough successes close it", "OPENED @10 a?>half a+ half a? a+>closed closed"),
            ("closed starts from nothing", "OPENED @10 a?>half a+ a? a+>closed a? a- a? a- closed a? a->open a!20"),
            ("one failure opens it again", "OPENED @10 a?>half @12 a->open open b!22 @21 b!22 @22 b?>half"),
            ("successes do not outlive a failure", "OPENED @10 a?>half a+ a? a->open @20 a?>half a+ half a? a+>closed"),
        ] {
            play(SETTINGS, name, &script.replace("OPENED", OPENED));
        }
    }

    #[test]
    fn a_burst_is_one_moment_and_moments_do_not_grow_together() {
        let settings = Settings { moment: Duration::from_secs(2), ..SETTINGS };
        for (name, script) in [
            ("a burst one after the other", "@0 a? a- b? b- c? c- @1 d? d- closed"),
            ("three moments", "@0 a? a- @1 b? b- @2 c? c- @3 d? d- closed @4 e? e->open"),
            ("a steady stream opens it all the same", "@0 a? a- @1 a? a- @2 a? a- @3 a? a- @4 a? a->open"),
            (
                "a trial that fails opens it within the same moment",
                "@0 a? a- @2 a? a- @4 a? a->open @14 a?>half a->open",
            ),
        ] {
            play(settings, name, script);
        }
    }

    #[test]
    fn concurrent_trials() {
        for (name, script) in [
            ("no more than allowed", "OPENED @10 a?>half b? c!20 @13 c!23"),
            ("a result frees its place", "OPENED @10 a?>half b? a+ c? d!20 b+>closed c+ closed"),
            ("the last one to succeed finds it closed", "OPENED @10 a?>half b? a+ b+>closed"),
            ("a late failure after closing", "OPENED @10 a?>half b? a+ c? c+>closed b- closed x? x- x? x- closed"),
            ("the second failure changes nothing", "OPENED @10 a?>half b? @11 a->open @15 b- open c!21"),
            ("a success after the failure", "OPENED @10 a?>half b? a->open b+ open c!20"),
            ("given back", "OPENED @10 a?>half b? a. c? d!20 b. c. half e? f? e+ f+>closed"),
            ("dropped", "OPENED @10 a?>half b? a~ b~ c? d? e!20 half"),
            ("given back alone decides nothing", "OPENED @10 a?>half a. half @99 half a? a->open"),
        ] {
            play(SETTINGS, name, &script.replace("OPENED", OPENED));
        }
    }

    #[test]
    fn passes_of_an_earlier_era_do_not_disturb() {
        for (name, script) in [
            ("closed, failure when open", "x? OPENED @5 x- open a!10"),
            ("closed, success when open", "x? OPENED x+ open a!10"),
            ("closed, failure when half-open", "x? OPENED @10 a?>half x- half a+ a? a+>closed"),
            ("closed, success when half-open", "x? OPENED @10 a?>half x+ half a+ half b? b+>closed"),
            (
                "closed, failure when closed again",
                "x? y? OPENED @10 a?>half a+ a? a+>closed x- y- b? b- closed b? b- closed",
            ),
            ("closed, success when closed again", "x? OPENED @10 a?>half a+ a? a+>closed b? b- b? b- x+ b? b->open"),
            ("closed, given back when half-open", "x? OPENED @10 a?>half b? x. c!20"),
            (
                "half-open, failure in the next trials",
                "OPENED @10 a?>half x? a->open @20 b?>half x- half b+ b? b+>closed",
            ),
            (
                "half-open, success in the next trials",
                "OPENED @10 a?>half x? a->open @20 b?>half x+ b+ half b? b+>closed",
            ),
            // Trials that hang longer than the timeout keep their places.
            ("trials of two eras add up", "OPENED @10 a?>half x? a->open @20 b?>half c!30 x- c? half"),
            (
                "and are never all held by others",
                "OPENED @10 x?>half a? a->open @20 a?>half a->open @30 a?>half a->open x.",
            ),
        ] {
            play(SETTINGS, name, &script.replace("OPENED", OPENED));
        }
    }

    #[test]
    fn odd_settings() {
        let zero = Settings { failure_threshold: 0, success_threshold: 0, half_open_requests: 0, ..SETTINGS };
        play(zero, "zeroes act as ones", "closed a? a->open @10 a?>half b!20 a+>closed");
        let many = Settings { success_threshold: 4, half_open_requests: 1, ..SETTINGS };
        play(
            many,
            "more successes than places",
            &format!("{OPENED} @10 a?>half b!20 a+ a? a+ a? a+ half a? a+>closed"),
        );
        let off = Settings { enabled: false, ..SETTINGS };
        play(off, "switched off", "a? a- a? a- a? a- a? a- closed a? b? c? d?");
    }

    #[test]
    fn failures_are_told() {
        let mut breaker = play(SETTINGS, "opened twice", &format!("{OPENED} @10 a?>half a->open"));
        assert_eq!(breaker.failures(), 4);
        let later = Instant::now() + Duration::from_secs(1000);
        for left in [1, 0] {
            let pass = breaker.admit(later).expect("a trial");
            assert!(pass.is_trial());
            let change = breaker.record(pass, true, later);
            let want = Transition { from: State::HalfOpen, to: State::Closed, failures: 4 };
            assert_eq!(change, (left == 0).then_some(want));
        }
        assert_eq!(breaker.failures(), 0);
        assert!(!breaker.admit(later).expect("closed").is_trial());
    }
}

//! When a proof is due, and what the last one is worth. The present moment is an argument.

use std::fmt;
use std::time::{Duration, Instant};

use crate::limits;

/// What a proof stands on: where any of it has changed, the proof says nothing any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ground {
    /// Counts the starts of the engine that were seen.
    pub engine_start: u64,
    pub engine_version: String,
    /// The id of the jobs' network.
    pub bridge: Option<String>,
    /// Counts the reloads that changed how containers are made.
    pub settings: u64,
}

/// The last proof that came to an end.
#[derive(Debug, Clone)]
pub struct Last {
    pub at: Instant,
    pub ground: Ground,
    /// Each wall that it did not find standing, with what to do. Empty: all hold.
    pub failed: Vec<String>,
    /// None of them was seen open: what was tried came to nothing.
    pub is_unproven: bool,
}

/// When canaries may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Not now.
    Later,
    /// When no job runs.
    Idle,
    /// When a worker is free, so that no job waits for one.
    Free,
}

/// Why the last proof is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Worthless {
    None,
    /// What has changed since.
    Void(&'static str),
    Failed(Vec<String>),
    Old {
        age: Duration,
        most: Duration,
    },
}

impl Ground {
    /// What is different in `other`, which is later.
    fn change(&self, other: &Self) -> Option<&'static str> {
        if self.engine_version != other.engine_version {
            Some("the engine has another version")
        } else if self.engine_start != other.engine_start {
            Some("the engine was restarted")
        } else if self.bridge != other.bridge {
            Some("the network of the jobs was made anew")
        } else if self.settings != other.settings {
            Some("the configuration of containers has changed")
        } else {
            None
        }
    }
}

/// When the next proof may be made, `tried` being the start of the last attempt and its ground.
pub fn moment(
    now: Instant,
    max_age: Duration,
    last: Option<&Last>,
    tried: Option<&(Instant, Ground)>,
    on: &Ground,
) -> Moment {
    let since = |at: Instant| now.saturating_duration_since(at);
    let last = last.filter(|last| last.ground == *on);
    let is_open = last.is_some_and(|last| !last.failed.is_empty() && !last.is_unproven);
    let pause = if is_open { limits::PROOF_OPEN } else { limits::PROOF_AGAIN };
    let came_to_nothing = |at: Instant| last.is_none_or(|last| !last.failed.is_empty() || last.at < at);
    if tried.is_some_and(|(at, ground)| ground == on && came_to_nothing(*at) && since(*at) < pause) {
        return Moment::Later;
    }
    let Some(last) = last.filter(|last| last.failed.is_empty()) else { return Moment::Free };
    let age = since(last.at);
    // A proof takes a while, and the next look comes some seconds later.
    let in_time = max_age.saturating_sub(limits::PROOF_CANARIES).max(max_age / 2);
    let (wanted, urgent) = (limits::PROOF_EVERY.min(max_age / 25 * 24).min(in_time), (max_age / 50 * 49).min(in_time));
    match age {
        age if age >= urgent => Moment::Free,
        age if age >= wanted => Moment::Idle,
        _ => Moment::Later,
    }
}

/// Whether the last proof stands for the jobs that are claimed now.
pub fn worth(now: Instant, max_age: Duration, last: Option<&Last>, on: &Ground) -> Result<(), Worthless> {
    let last = last.ok_or(Worthless::None)?;
    if let Some(change) = last.ground.change(on) {
        return Err(Worthless::Void(change));
    }
    if !last.failed.is_empty() {
        return Err(Worthless::Failed(last.failed.clone()));
    }
    match now.saturating_duration_since(last.at) {
        age if age >= max_age => Err(Worthless::Old { age, most: max_age }),
        _ => Ok(()),
    }
}

impl fmt::Display for Worthless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("there is no proof yet that the walls around jobs hold"),
            Self::Void(change) => write!(f, "{change} since the last proof of the walls around jobs"),
            Self::Failed(walls) => {
                let all = "; `cronium-agent doctor --strict` shows all";
                let more = if walls.len() > 1 { format!(", and {} more", walls.len() - 1) } else { String::new() };
                let first = walls.first().map_or("", String::as_str);
                write!(f, "not all walls around jobs were found standing: {first}{more}{all}")
            }
            Self::Old { age, most } => {
                write!(
                    f,
                    "the last proof of the walls around jobs is {} s old, jobs.proofMaxAge is {most:?}",
                    age.as_secs()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MOST: Duration = Duration::from_secs(25 * 3600);

    fn last(at: Instant, failed: &[&str]) -> Last {
        let failed = failed.iter().map(|text| (*text).to_owned()).collect();
        Last { at, ground: Ground::default(), failed, is_unproven: false }
    }

    #[test]
    fn a_proof_is_made_once_a_day_at_an_idle_moment_and_in_time_at_any_moment_with_a_free_worker() {
        let at = Instant::now();
        let proof = last(at, &[]);
        let tried = Some((at, Ground::default()));
        for (hours, max_age, moment) in [
            (1, MOST, Moment::Later),
            (23, MOST, Moment::Later),
            (24, MOST, Moment::Idle),
            (25, MOST, Moment::Free),
            (24, MOST * 10, Moment::Idle),
            (25, MOST * 10, Moment::Idle),
            (9, HOUR * 10, Moment::Later),
            (1, HOUR * 2, Moment::Later),
            (10, HOUR * 10, Moment::Free),
        ] {
            let found = super::moment(at + HOUR * hours, max_age, Some(&proof), tried.as_ref(), &Ground::default());
            assert_eq!(found, moment, "{hours} of {max_age:?}");
        }
        let near = at + HOUR * 24 + HOUR / 2;
        assert_eq!(super::moment(near, MOST, Some(&proof), tried.as_ref(), &Ground::default()), Moment::Free);
    }

    #[test]
    fn each_change_of_the_ground_makes_a_proof_void_and_the_next_one_due() {
        let at = Instant::now();
        let proof = last(at, &[]);
        let tried = Some((at, Ground::default()));
        assert_eq!(moment(at, MOST, None, None, &Ground::default()), Moment::Free, "the first");
        assert_eq!(worth(at, MOST, None, &Ground::default()), Err(Worthless::None));
        assert_eq!(worth(at, MOST, Some(&proof), &Ground::default()), Ok(()));
        for (ground, words) in [
            (Ground { engine_start: 1, ..Ground::default() }, "restarted"),
            (Ground { engine_version: "2".to_owned(), engine_start: 1, ..Ground::default() }, "another version"),
            (Ground { bridge: Some("id".to_owned()), ..Ground::default() }, "made anew"),
            (Ground { settings: 1, ..Ground::default() }, "configuration of containers"),
        ] {
            assert_eq!(moment(at, MOST, Some(&proof), tried.as_ref(), &ground), Moment::Free);
            let why = worth(at, MOST, Some(&proof), &ground).expect_err("void").to_string();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn an_attempt_that_came_to_nothing_is_repeated_and_not_at_once() {
        let at = Instant::now();
        let tried = Some((at, Ground::default()));
        let open = last(at, &["proof-kernel: open"]);
        let unproven = Last { is_unproven: true, ..open.clone() };
        for (proof, pause) in
            [(None, limits::PROOF_AGAIN), (Some(open), limits::PROOF_OPEN), (Some(unproven), limits::PROOF_AGAIN)]
        {
            let moment = |now| super::moment(now, MOST, proof.as_ref(), tried.as_ref(), &Ground::default());
            assert_eq!(moment(at + pause / 2), Moment::Later);
            assert_eq!(moment(at + pause), Moment::Free);
        }
        // Nor where one that held grows old soon: the attempt came after it.
        let short = Duration::from_secs(30);
        let (held, later) = (last(at, &[]), Some((at + short, Ground::default())));
        let moment = |tried: &Option<(Instant, Ground)>| {
            super::moment(at + short + limits::PROOF_AGAIN / 2, short, Some(&held), tried.as_ref(), &Ground::default())
        };
        assert_eq!((moment(&later), moment(&tried)), (Moment::Later, Moment::Free));
    }

    #[test]
    fn what_a_proof_is_worth_is_said_in_words() {
        let at = Instant::now();
        let open = last(at, &["proof-kernel: open; set x", "proof-end: open"]);
        let why = worth(at, MOST, Some(&open), &Ground::default()).expect_err("open").to_string();
        assert!(why.contains("found standing: proof-kernel: open; set x, and 1 more; `cronium-agent doctor"), "{why}");
        let why = worth(at + MOST, MOST, Some(&last(at, &[])), &Ground::default()).expect_err("old").to_string();
        assert!(why.contains("is 90000 s old, jobs.proofMaxAge is 90000s"), "{why}");
        assert!(worth(at + MOST - HOUR, MOST, Some(&last(at, &[])), &Ground::default()).is_ok());
    }
}

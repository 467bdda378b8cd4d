//! Decides whether the agent is alive: a process that still answers its watchdog while one of its threads hangs is worse
//! than a dead one, which would be started afresh.
//!
//! Each watched part states how long it may be silent, and is noted each time it makes progress. The thread that pings the
//! service manager asks here first. The present moment is an argument.

use std::fmt;
use std::time::{Duration, Instant};

/// The state of each watched part.
#[derive(Debug, Clone, Default)]
pub struct Watchdog {
    parts: Vec<Part>,
    added: u64,
}

#[derive(Debug, Clone)]
struct Part {
    handle: Handle,
    name: &'static str,
    longest: Duration,
    /// `None` while the part rests.
    last: Option<Instant>,
}

/// A part of the [`Watchdog`], as it was given when the part was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle(u64);

/// The part whose silence is furthest beyond its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck {
    pub part: &'static str,
    /// When it last made progress.
    pub since: Instant,
    /// How long that was ago.
    pub silence: Duration,
    /// How long it may be.
    pub longest: Duration,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, silence, longest, .. } = self;
        write!(f, "{part} has not got on for {} s; at most {} s are normal", silence.as_secs(), longest.as_secs())
    }
}

impl std::error::Error for Stuck {}

impl Watchdog {
    /// Watches a further part, which may be silent for `longest`, counted from `now` at first.
    pub fn add(&mut self, name: &'static str, longest: Duration, now: Instant) -> Handle {
        self.added += 1;
        let handle = Handle(self.added);
        self.parts.push(Part { handle, name, longest, last: Some(now) });
        handle
    }

    /// Forgets a part that has ended.
    pub fn remove(&mut self, part: Handle) {
        self.parts.retain(|other| other.handle != part);
    }

    /// Notes that `part` made progress at `at`, or with `None` that it rests: it waits for nothing that could fail to come, or
    /// has ended as it should, and is not watched until its next progress.
    pub fn note(&mut self, part: Handle, at: Option<Instant>) {
        if let Some(part) = self.parts.iter_mut().find(|other| other.handle == part) {
            part.last = at;
        }
    }

    /// Whether every watched part made progress within its time.
    pub fn healthy(&self, now: Instant) -> Result<(), Stuck> {
        let late = self.parts.iter().filter_map(|part| {
            let since = part.last?;
            let silence = now.saturating_duration_since(since);
            (silence > part.longest).then_some(Stuck { part: part.name, since, silence, longest: part.longest })
        });
        late.max_by_key(|stuck| stuck.silence - stuck.longest).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_is_latest_is_named() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut dog = Watchdog::default();
        assert_eq!(dog.healthy(at(1_000_000)), Ok(()), "nothing is watched");
        let poller = dog.add("poller", Duration::from_secs(10), start);
        let heartbeat = dog.add("heartbeat", Duration::from_secs(60), start);
        let part = |dog: &Watchdog, now| dog.healthy(at(now)).map_err(|stuck| stuck.part);
        assert_eq!(part(&dog, 10), Ok(()), "the limit itself is allowed");
        assert_eq!(part(&dog, 11), Err("poller"));
        dog.note(poller, Some(at(50)));
        assert_eq!(part(&dog, 60), Ok(()));
        assert_eq!(part(&dog, 61), Err("heartbeat"), "one second late against one not yet late");
        assert_eq!(part(&dog, 63), Err("heartbeat"));
        dog.note(poller, Some(at(40)));
        assert_eq!(part(&dog, 63), Err("poller"), "13 s late against 3 s late");
        dog.note(heartbeat, Some(at(63)));
        dog.note(poller, Some(at(63)));
        assert_eq!(part(&dog, 70), Ok(()), "both got on");
    }

    #[test]
    fn what_has_ended_is_not_watched_and_the_others_still_are() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut dog = Watchdog::default();
        let [first, second, third] =
            ["first", "second", "third"].map(|name| dog.add(name, Duration::from_secs(5), start));
        dog.remove(second);
        dog.note(third, Some(at(3)));
        assert_eq!(dog.healthy(at(6)).map_err(|stuck| stuck.part), Err("first"));
        dog.note(first, Some(at(6)));
        dog.note(second, Some(start));
        assert_eq!(dog.healthy(at(6)), Ok(()));
        dog.add("fourth", Duration::from_secs(1), start);
        assert_eq!(dog.healthy(at(8)).map_err(|stuck| stuck.part), Err("fourth"));
        assert_eq!(dog.parts.len(), 3);
    }

    #[test]
    fn what_rests_is_not_watched_until_it_gets_on() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut dog = Watchdog::default();
        let part = dog.add("live log", Duration::from_secs(5), start);
        dog.note(part, None);
        assert_eq!(dog.healthy(at(1_000)), Ok(()));
        dog.note(part, Some(at(1_000)));
        let stuck = dog.healthy(at(1_006)).expect_err("late");
        let want = Stuck {
            part: "live log",
            since: at(1_000),
            silence: Duration::from_secs(6),
            longest: Duration::from_secs(5),
        };
        assert_eq!(stuck, want);
        assert_eq!(stuck.to_string(), "live log has not got on for 6 s; at most 5 s are normal");
        // A note from the future, from a thread that ran ahead of the caller, is no silence.
        dog.note(part, Some(at(2_000)));
        assert_eq!(dog.healthy(at(1_999)), Ok(()));
    }
}

//! Claims whose answer was lost.
//!
//! Asking for jobs claims them. Where the answer is lost, they stay claimed for an agent that has never heard of them. The
//! backend lists them as this agent's. So after a start, after a poll whose answer was lost, and after a release that
//! failed, that list is looked at. What stays in it as claimed, for longer than a poll may last, goes back to the queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::job::Id;
use crate::limits;
use crate::os::clock;

/// What is suspected and seen. Shared by clones: by those who suspect, and the reconciler, who looks.
#[derive(Debug, Clone)]
pub struct Claims(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Looked for until then.
    until: Instant,
    /// No look before.
    next: Instant,
    /// `api.timeout`: a poll may last so long.
    poll: Duration,
    /// Claims that nobody knows of, and since when.
    seen: BTreeMap<Id, Instant>,
}

impl Claims {
    /// Suspects at once: an earlier run may have asked. `poll` is `api.timeout`.
    pub fn new(poll: Duration) -> Self {
        let now = clock::now();
        let claims = Self(Arc::new(Mutex::new(State { until: now, next: now, poll, seen: BTreeMap::new() })));
        claims.suspect();
        claims
    }

    /// A poll may have claimed jobs without anybody hearing of it, or may still.
    pub fn suspect(&self) {
        let mut state = self.lock();
        state.until = clock::now() + 2 * state.poll + 2 * limits::CLAIMS_LOOK;
    }

    /// Whether there is a reason to look at the list now.
    pub fn is_due(&self) -> bool {
        let (state, now) = (self.lock(), clock::now());
        now >= state.next && (now < state.until || !state.seen.is_empty())
    }

    /// Takes in the `unknown` claims of one list; those of them that are old enough.
    pub(super) fn settled(&self, unknown: BTreeSet<Id>) -> BTreeSet<Id> {
        self.settled_at(unknown, clock::now())
    }

    fn settled_at(&self, unknown: BTreeSet<Id>, now: Instant) -> BTreeSet<Id> {
        let mut state = self.lock();
        state.next = now + limits::CLAIMS_LOOK;
        state.seen.retain(|id, _| unknown.contains(id));
        for id in unknown {
            state.seen.entry(id).or_insert(now);
        }
        let long = state.poll + limits::CLAIMS_LOOK / 2;
        let old = state.seen.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= long);
        old.map(|(id, _)| id.clone()).collect()
    }

    /// As if so much time had passed.
    #[cfg(test)]
    pub(super) fn pass(&self, time: Duration) {
        let mut state = self.lock();
        state.next -= time;
        state.seen.values_mut().for_each(|since| *since -= time);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_suspicion_nobody_asks_and_a_lost_answer_is_one() {
        let claims = Claims::new(Duration::from_secs(5));
        assert!(claims.is_due(), "at the start");
        let (now, later) = (clock::now(), clock::now() + Duration::from_secs(3600));
        (claims.lock().until, claims.lock().next) = (now, now);
        assert!(!claims.is_due());
        claims.suspect();
        assert!(claims.is_due() && claims.lock().until > now && claims.lock().until < later);
        // Not again at once, but for as long as there is one that nobody knows of.
        assert!(claims.settled(BTreeSet::from([Id::parse("lost").expect("id")])).is_empty());
        assert!(!claims.is_due());
        (claims.lock().until, claims.lock().next) = (now, now);
        assert!(claims.is_due());
    }

    #[test]
    fn a_claim_whose_answer_comes_late_is_let_be() {
        let claims = Claims::new(Duration::from_secs(5));
        let (now, lost) = (clock::now(), BTreeSet::from([Id::parse("lost").expect("id")]));
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(claims.settled_at(lost.clone(), now).is_empty());
        assert!(claims.settled_at(lost.clone(), at(5)).is_empty());
        // It was known here for a while: the time begins anew.
        assert!(claims.settled_at(BTreeSet::new(), at(6)).is_empty());
        assert!(claims.settled_at(lost.clone(), at(30)).is_empty());
        assert_eq!(claims.settled_at(lost.clone(), at(60)), lost);
    }
}

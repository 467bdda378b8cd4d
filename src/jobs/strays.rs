//! Claims that nobody here knows of, given back.
//!
//! Asking for jobs claims them: where the answer is lost, or the agent that asked was killed before it came, they stay
//! claimed for an agent that has never heard of them. The backend lists them as this agent's. So after a start, and
//! after a poll whose answer was lost, that list is looked at: what stays in it as claimed, longer than a poll may last,
//! and is neither in hand nor waits as a report, goes back to the queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::{Client, Error};
use crate::job::Id;
use crate::limits;
use crate::os::clock;

/// What is suspected and seen, shared by clones: by the poller, who suspects, and the monitor, who looks.
#[derive(Debug, Clone)]
pub struct Strays(Arc<Mutex<State>>);

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

impl Strays {
    /// Suspects at once: an earlier run may have asked. `poll` is `api.timeout`.
    pub fn new(poll: Duration) -> Self {
        let now = clock::now();
        let strays = Self(Arc::new(Mutex::new(State { until: now, next: now, poll, seen: BTreeMap::new() })));
        strays.suspect();
        strays
    }

    /// A poll may have claimed jobs without anybody hearing of it, or may still.
    pub fn suspect(&self) {
        let mut state = self.lock();
        state.until = clock::now() + 2 * state.poll + 2 * limits::STRAY_LOOK;
    }

    /// A look at the backend's list, if one is due. `known` gives the jobs that are in hand or whose report waits. How
    /// many were given back.
    pub fn look(&self, client: &Client, known: &dyn Fn() -> BTreeSet<Id>) -> Result<usize, Error> {
        let now = clock::now();
        {
            let mut state = self.lock();
            if now < state.next || (now >= state.until && state.seen.is_empty()) {
                return Ok(0);
            }
            state.next = now + limits::STRAY_LOOK;
        }
        // A job may be taken in hand, or leave the hand, while the list is on its way.
        let before = known();
        let orphans = client.orphaned()?;
        let after = known();
        let claimed = orphans.rows.into_iter().filter(|row| row.status == "claimed").map(|row| row.id);
        let strays: BTreeSet<Id> = claimed.filter(|id| !before.contains(id) && !after.contains(id)).collect();
        let due = self.note(&strays, now);
        let given_back = due.iter().filter(|id| give_back(client, id)).count();
        Ok(given_back)
    }

    /// Takes in what one look showed; the jobs that have been strays for long enough.
    fn note(&self, strays: &BTreeSet<Id>, now: Instant) -> Vec<Id> {
        let mut state = self.lock();
        state.seen.retain(|id, _| strays.contains(id));
        for id in strays {
            state.seen.entry(id.clone()).or_insert(now);
        }
        let long = state.poll + limits::STRAY_LOOK / 2;
        state
            .seen
            .iter()
            .filter(|(_, since)| now.saturating_duration_since(**since) >= long)
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give_back(client: &Client, id: &Id) -> bool {
    // Once: it may be handed out to this agent again at once, and must not be taken from it by a second try.
    match client.release_once(id, "the agent never got the answer with this job") {
        Ok(()) => {
            log::warn!("job {id} was claimed for this agent, which never got the answer; it was given back");
            true
        }
        Err(error) => {
            log::warn!("job {id} was claimed for this agent, which never got the answer; trying again: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{Server, ok};

    const ROWS: &str = r#"[{"id":"lost","status":"claimed"},{"id":"known","status":"claimed"},
                           {"id":"runs","status":"running"}]"#;

    #[test]
    fn a_claim_that_nobody_knows_of_goes_back_when_no_poll_can_bring_it_any_more() {
        let server = Server::start(|seen, _| ok(if seen.line.starts_with("GET") { ROWS } else { "{}" }));
        let client = server.client();
        let known = || BTreeSet::from([Id::parse("known").expect("id")]);
        let strays = Strays::new(Duration::ZERO);
        let released = || server.lines().into_iter().filter(|line| line.contains("/release")).collect::<Vec<_>>();
        assert_eq!(strays.look(&client, &known).expect("an answer"), 0);
        // Not looked for again at once.
        assert_eq!(strays.look(&client, &known).expect("an answer"), 0);
        assert_eq!(server.lines().len(), 1);
        // As if the time had passed.
        let back = |state: &mut State| {
            state.next = clock::now();
            state.seen.values_mut().for_each(|since| *since -= limits::STRAY_LOOK);
        };
        back(&mut strays.lock());
        assert_eq!(strays.look(&client, &known).expect("an answer"), 1);
        assert_eq!(released(), ["POST /api/internal/jobs/lost/release"]);
    }

    #[test]
    fn without_a_suspicion_nobody_asks_and_a_lost_answer_is_one() {
        let server = Server::start(|_, _| ok("[]"));
        let (client, known) = (server.client(), BTreeSet::new);
        let strays = Strays::new(Duration::from_secs(5));
        let (now, later) = (clock::now(), clock::now() + Duration::from_secs(3600));
        (strays.lock().until, strays.lock().next) = (now, now);
        assert_eq!(strays.look(&client, &known).expect("nothing"), 0);
        assert!(server.lines().is_empty());
        strays.suspect();
        assert!(strays.lock().until > now && strays.lock().until < later);
        strays.look(&client, &known).expect("an answer");
        assert_eq!(server.lines().len(), 1);
    }

    #[test]
    fn a_claim_whose_answer_comes_late_is_let_be() {
        let strays = Strays::new(Duration::from_secs(5));
        let (now, lost) = (clock::now(), BTreeSet::from([Id::parse("lost").expect("id")]));
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(strays.note(&lost, now).is_empty());
        assert!(strays.note(&lost, at(5)).is_empty());
        // It came in hand for a while: the time begins anew.
        assert!(strays.note(&BTreeSet::new(), at(6)).is_empty());
        assert!(strays.note(&lost, at(30)).is_empty());
        assert_eq!(strays.note(&lost, at(60)).len(), 1);
    }
}

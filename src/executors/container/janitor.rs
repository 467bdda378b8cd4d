//! Finds containers that are ours and nobody's, and removes them: whatever went wrong before, nothing of it stays.
//!
//! Ours is what carries this agent's label. Nobody's is what belongs to no job of the agent's and is older than a grace.
//! Every container of the agent's is made after its job was entered among them, so that a look at the engine first and at
//! the jobs after it cannot take a new job's container for a left one. A container has the age that the engine's clock
//! tells, or the time since it was first seen here, where that is longer: a clock that was ahead keeps none for years.
//!
//! Besides, what an `exec` has left that was killed: its containers name the process whose they are, and only where this
//! host can tell for certain that the process is gone is its container nobody's. No job and no agent comes back to it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::docker::containers::{Row, State, short};
use crate::docker::{self, Error};
use crate::executors::container::labels::{self, Told};
use crate::executors::container::spec::execution_of;
#[cfg(test)]
use crate::job::Id;
use crate::os::clock;
use crate::os::owner::{Owner, Seen};
use crate::{limits, metrics};

/// Says whether the container is that of a job of the agent's. Asked after the engine has answered.
pub type InUse<'a> = &'a dyn Fn(&Found) -> bool;

/// Looks for containers of one agent.
#[derive(Debug)]
pub struct Janitor {
    docker: docker::Client,
    /// `None` for one that looks only for what an `exec` has left.
    agent: Option<String>,
    grace: Duration,
    /// The containers, by id or name, that are nobody's business here.
    spared: Spared,
    /// When each container that is there was first seen.
    seen: Mutex<BTreeMap<String, Instant>>,
}

/// Whether a container, by its id or name, is one that a job has taken which has no label of it, or waits for one.
struct Spared(Box<dyn Fn(&str) -> bool + Send + Sync>);

impl std::fmt::Debug for Spared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spared")
    }
}

/// A container of this agent's.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub id: String,
    /// Without the slash that the engine writes before it.
    pub name: String,
    /// What its labels tell. Each container of a job has the ids of job and execution.
    pub told: Told,
    /// The engine's word, such as `running` or `exited`.
    pub state: String,
    /// Since its creation by both clocks, or since it was first seen, whichever is longer.
    pub age: Duration,
    /// When it was made: seconds since 1970 by the engine's clock.
    pub created: i64,
    /// A killed `exec` has left it.
    pub of_exec: bool,
    /// It was started before its job was known. That may be unknown still.
    pub warm: bool,
}

impl Found {
    /// For the log: what is removed, and why.
    pub fn shown(&self) -> String {
        let job = match &self.told.job {
            Some(job) if self.of_exec => format!("{job}, which was killed"),
            Some(job) => format!("job {job}"),
            None if self.warm => "no job yet".to_owned(),
            None => "no job".to_owned(),
        };
        format!("container {} of {job}, left behind ({})", short(&self.id), self.state)
    }
}

/// Whose a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its job is one of the agent's.
    InUse,
    /// Younger than the grace.
    Young,
    /// To be removed.
    Nobodys,
}

impl Janitor {
    /// A janitor for `agent`'s containers that are older than `grace`.
    pub fn new(docker: docker::Client, agent: &str, grace: Duration) -> Self {
        Self {
            docker,
            agent: Some(agent.to_owned()),
            grace,
            spared: Spared(Box::new(|_| false)),
            seen: Mutex::default(),
        }
    }

    /// The same, which does not see what is `held` here, by id or name.
    pub fn sparing(self, held: Box<dyn Fn(&str) -> bool + Send + Sync>) -> Self {
        Self { spared: Spared(held), ..self }
    }

    /// One that looks only for what an `exec` has left.
    pub fn of_exec(docker: docker::Client) -> Self {
        Self { agent: None, ..Self::new(docker, "", Duration::ZERO) }
    }

    /// All containers of this agent's; then those that a killed `exec` has left.
    pub fn list(&self) -> Result<Vec<Found>, Error> {
        let now = SystemTime::now();
        let mut all = Vec::new();
        if let Some(agent) = &self.agent {
            let rows = self.docker.list(&labels::of_agent(agent))?;
            let found = rows.into_iter().filter_map(|row| ours(row, agent, now));
            // Looked at after the engine has answered, as the jobs are.
            let found = found.filter(|found| !(self.spared.0)(&found.id) && !(self.spared.0)(&found.name)).collect();
            all.extend(self.with_time_seen(found, clock::now()));
        }
        if let Some(here) = Owner::this_process() {
            let rows = self.docker.list(&labels::of_agent(labels::EXEC))?;
            all.extend(rows.into_iter().filter_map(|row| left_by_exec(row, &here, now)));
        }
        Ok(all)
    }

    /// The same, with what is to become of each.
    pub fn look(&self, in_use: InUse<'_>) -> Result<Vec<(Found, Fate)>, Error> {
        let fate = |found: Found| {
            let fate = if found.of_exec { Fate::Nobodys } else { fate(&found, self.grace, in_use) };
            (found, fate)
        };
        Ok(self.list()?.into_iter().map(fate).collect())
    }

    /// The state of one container.
    pub fn inspect(&self, id: &str) -> Result<State, Error> {
        self.docker.inspect(id, false).map(|found| found.state)
    }

    fn with_time_seen(&self, mut all: Vec<Found>, now: Instant) -> Vec<Found> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *seen);
        for found in &mut all {
            let first = before.get(&found.id).copied().unwrap_or(now);
            found.age = found.age.max(now.saturating_duration_since(first));
            seen.insert(found.id.clone(), first);
        }
        all
    }

    /// The containers that are to be removed.
    pub fn find(&self, in_use: InUse<'_>) -> Result<Vec<Found>, Error> {
        let all = self.look(in_use)?;
        Ok(all.into_iter().filter(|(_, fate)| *fate == Fate::Nobodys).map(|(found, _)| found).collect())
    }

    /// Removes a container, running or not. That it is gone already is no error.
    pub fn remove(&self, found: &Found) -> Result<(), Error> {
        self.docker.remove(&found.id)?;
        metrics::JANITOR_REMOVED.add(1);
        Ok(())
    }

    /// Finds and removes, at most [`limits::JANITOR_ROUND`] containers, and says so in the log.
    pub fn round(&self, in_use: InUse<'_>) {
        let found = match self.find(in_use) {
            Ok(found) => found,
            Err(error) => return log::warn!("cannot look for containers that were left behind: {error}"),
        };
        for found in found.iter().take(limits::JANITOR_ROUND) {
            match self.remove(found) {
                Ok(()) => log::warn!("removed {}", found.shown()),
                Err(error) => {
                    log::error!("cannot remove {}: {error}", found.shown());
                    // An engine that does not answer would make each of the others wait for it.
                    if error.status().is_none() {
                        return;
                    }
                }
            }
        }
    }
}

/// The row as a container of `agent`'s. The labels are looked at again: engines differ in how they combine filters.
fn ours(row: Row, agent: &str, now: SystemTime) -> Option<Found> {
    let label = |name: &str| row.labels.get(name).map(String::as_str);
    // An agent may have been given the name that stands on the containers of `exec`.
    let others = label(labels::AGENT) != Some(agent) || row.labels.contains_key(labels::OWNER);
    if label(labels::MANAGED) != Some("true") || others {
        return None;
    }
    Some(found(row, now))
}

/// The row as a container of an `exec` that certainly does not run any more.
fn left_by_exec(row: Row, here: &Owner, now: SystemTime) -> Option<Found> {
    let label = |name: &str| row.labels.get(name).map(String::as_str);
    let owner: Owner = label(labels::OWNER)?.parse().ok()?;
    let of_exec = label(labels::MANAGED) == Some("true") && label(labels::AGENT) == Some(labels::EXEC);
    (of_exec && owner.seen_by(here) == Seen::Gone).then(|| Found { of_exec, ..found(row, now) })
}

fn found(row: Row, now: SystemTime) -> Found {
    let name = row.names.first().map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default();
    let warm = row.labels.get(labels::WARM).is_some_and(|word| word == "true");
    let mut told = Told::read(&row.labels);
    // Its labels are older than its job, which it is named after.
    if let Some((job, execution)) = execution_of(&name).filter(|_| warm) {
        (told.job, told.execution) = (Some(job), Some(execution));
    }
    // Without a time it is as if it were made now.
    let created = u64::try_from(row.created).ok().filter(|at| *at > 0);
    let created = created.and_then(|at| UNIX_EPOCH.checked_add(Duration::from_secs(at)));
    let age = created.and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
    Found { id: row.id, name, told, state: row.state, age, created: row.created, of_exec: false, warm }
}

fn fate(found: &Found, grace: Duration, in_use: InUse<'_>) -> Fate {
    let is_a_jobs = found.warm || found.told.job.is_some() && found.told.execution.is_some();
    if is_a_jobs && in_use(found) {
        Fate::InUse
    } else if found.age < grace {
        Fate::Young
    } else {
        Fate::Nobodys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::testing::{Act, Engine, done};
    use crate::os::ahead::Ahead;

    fn row(labels: &[(&str, &str)], created: i64) -> Row {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Row {
            id: "abc".into(),
            names: vec!["/cronium-x".into()],
            state: "exited".into(),
            image: String::new(),
            created,
            labels,
        }
    }

    const OURS: [(&str, &str); 4] = [
        ("cronium.managed", "true"),
        ("cronium.agent.id", "a1"),
        ("cronium.job.id", "j"),
        ("cronium.execution.id", "exec-j-1"),
    ];

    #[test]
    fn only_what_carries_both_labels_is_ours() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let found = ours(row(&OURS, 900), "a1", now).expect("ours");
        assert_eq!((found.name.as_str(), found.state.as_str()), ("cronium-x", "exited"));
        assert_eq!(found.told.job.as_ref().map(Id::as_str), Some("j"));
        assert_eq!(found.age, Duration::from_secs(100));
        for (labels, agent) in [
            (&OURS[..], "a2"),
            (&OURS[..], "a"),
            (&OURS[..1], "a1"),
            (&OURS[1..], "a1"),
            (&[("cronium.managed", "false"), ("cronium.agent.id", "a1")][..], "a1"),
            (&[][..], "a1"),
            (&[][..], ""),
        ] {
            assert_eq!(ours(row(labels, 900), agent, now), None, "{labels:?} {agent}");
        }
        // The engine's clock is ahead, or it tells no time: young.
        for created in [2_000, 0, -5] {
            assert_eq!(ours(row(&OURS, created), "a1", now).expect("ours").age, Duration::ZERO);
        }
    }

    #[test]
    fn of_an_exec_only_what_its_process_certainly_has_left() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let here = Owner::this_process().expect("/proc tells");
        let own = here.to_string();
        let (rest, started) = own.rsplit_once('/').expect("parts");
        let started: u64 = started.parse().expect("a number");
        // The number of this process, when another had it.
        let gone = format!("{rest}/{}", started - 1);
        let elsewhere = format!("another-boot{}", &gone[gone.find('/').expect("parts")..]);
        let labels = |agent, owner| [OURS[0], ("cronium.agent.id", agent), OURS[2], OURS[3], ("cronium.owner", owner)];
        let left = |labels: &[(&str, &str)]| left_by_exec(row(labels, 900), &here, now);
        let found = left(&labels("exec", &gone)).expect("nobody's");
        assert!(found.of_exec && found.told.job.is_some() && found.age == Duration::from_secs(100), "{found:?}");
        for (agent, owner) in [("exec", own.as_str()), ("exec", &elsewhere), ("exec", "?"), ("exec", ""), ("a1", &gone)]
        {
            assert_eq!(left(&labels(agent, owner)), None, "{agent} {owner}");
        }
        let unmanaged = &labels("exec", &gone)[1..];
        let unlabelled = &labels("exec", &gone)[..4];
        assert_eq!((left(unmanaged), left(unlabelled)), (None, None));
        // An agent of that name takes them for its own as little as any other, and keeps what is its own.
        assert_eq!(ours(row(&labels("exec", &own), 900), "exec", now), None);
        assert!(ours(row(unlabelled, 900), "exec", now).is_some());
    }

    #[test]
    fn a_job_in_hand_and_a_young_container_are_left_alone() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let found = |labels: &[(&str, &str)], age: i64| ours(row(labels, 1_000 - age), "a1", now).expect("ours");
        let grace = Duration::from_secs(120);
        let (nobody, this): (InUse<'_>, InUse<'_>) =
            (&|_| false, &|found| found.told.job.as_ref().is_some_and(|job| job.as_str() == "j"));
        for (found, in_use, expected) in [
            (found(&OURS, 500), nobody, Fate::Nobodys),
            (found(&OURS, 120), nobody, Fate::Nobodys),
            (found(&OURS, 119), nobody, Fate::Young),
            (found(&OURS, 500), this, Fate::InUse),
            (found(&OURS, 1), this, Fate::InUse),
            // Without an id it is no job's.
            (found(&OURS[..2], 500), this, Fate::Nobodys),
        ] {
            assert_eq!(fate(&found, grace, in_use), expected, "{found:?}");
        }
    }

    #[test]
    fn a_container_from_the_future_is_as_old_as_the_time_for_which_it_was_seen() {
        let labels: BTreeMap<_, _> = OURS.into_iter().collect();
        let far = 32_503_680_000_i64;
        let rows = serde_json::json!([{ "Id": "left", "Created": far, "Labels": labels }]).to_string();
        Ahead::run(|ahead| {
            let engine = Engine::start(move |call| match call.starts_with("GET /containers/json") {
                true => Act::Answer(200, rows.clone()),
                false => done(),
            });
            let janitor = Janitor::new(engine.client(), "a1", limits::JANITOR_GRACE);
            for (pass, removed) in [(Duration::ZERO, 0), (limits::JANITOR_GRACE / 2, 0), (limits::JANITOR_GRACE / 2, 1)]
            {
                ahead.put(pass);
                janitor.round(&|_| false);
                assert_eq!(engine.count("DELETE /containers/left"), removed, "after {:?}", ahead.by());
            }
        });
    }

    #[test]
    fn a_round_removes_a_bounded_number_and_leaves_the_rest_to_the_next() {
        let labels: std::collections::BTreeMap<_, _> = OURS.into_iter().collect();
        let rows: Vec<_> = (0..limits::JANITOR_ROUND + 5)
            .map(|n| serde_json::json!({ "Id": format!("left{n}"), "Created": 1, "Labels": labels }))
            .collect();
        let list = serde_json::Value::from(rows).to_string();
        let engine = Engine::start(move |call| match call.starts_with("GET /containers/json") {
            true => Act::Answer(200, list.clone()),
            false => done(),
        });
        let janitor = Janitor::new(engine.client(), "a1", limits::JANITOR_GRACE);
        janitor.round(&|_| false);
        assert_eq!(engine.count("DELETE /containers/left"), limits::JANITOR_ROUND);
    }
}

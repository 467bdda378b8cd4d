//! What an earlier run of this agent left behind that has no record: containers that still carry its id,
//! and jobs that the backend still counts as its own. Its records were lost, or could not be written.
//!
//! Done once, before the first claim. A container says on its labels what is needed to go on with its job: a page is
//! written from them, and the job is adopted as if it had never been lost, since no second judge could know more. Of a
//! job without a container nothing is known: one that had started is reported as failed with an unknown end, one that
//! had not goes back to the queue. Nothing is run a second time, and no container is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use crate::api;
use crate::docker;
use crate::docker::containers::{Row, State};
use crate::executors::Remains;
use crate::executors::container::labels::{self, Told};
use crate::executors::container::spec::container_name;
use crate::job::{Id, Kind};
use crate::jobs::conclude::{deliver, unrun};
use crate::jobs::output::Collected;
use crate::jobs::record;
use crate::jobs::record::outbox::{Outbox, Tried};
use crate::jobs::record::{Container, Delivered, Done, Ended, Entry, Place, Stage, Started, now_ms};
use crate::jobs::report;
use crate::logs::Flushed;
use crate::verdict::{Phase, Verdict};
use crate::wire::time::parse_rfc3339;

/// What recovery works with.
pub struct Recovery<'a> {
    pub engine: &'a dyn Engine,
    pub client: &'a api::Client,
    pub agent: &'a str,
    /// `jobs.maxTimeout`: no label gives a job more time.
    pub max_timeout: Duration,
    pub outbox: &'a Outbox,
    /// How a job ended that was reported within the last day.
    pub done: &'a dyn Fn(&Id) -> Option<Done>,
    /// The jobs that are in hand, or whose report waits, since before the backend is asked: a job that ends between its
    /// answer and a later look would be reported a second time.
    pub known: &'a BTreeSet<Id>,
    /// Those of them whose report waits: nothing of them is needed any more.
    pub reported: &'a BTreeSet<Id>,
}

/// A container of an earlier run.
#[derive(Debug)]
pub struct Found {
    /// The engine's id of it.
    pub id: String,
    /// The name by which it is found again.
    pub name: String,
    pub state: State,
    /// When it was made: seconds since 1970 by the engine's clock.
    pub created: i64,
    pub told: Told,
}

/// A job whose page is lost.
#[derive(Debug)]
pub struct Lost {
    /// As its container tells it.
    pub page: Entry,
    /// Its report may have been sent: its container had ended, or the backend did not say that it still waits.
    pub doubted: bool,
}

/// What recovery asks of the engine.
pub trait Engine {
    /// All containers that carry this agent's id. `most` is the longest time limit that is believed.
    fn left_by(&self, agent: &str, most: Duration) -> Result<Vec<Found>, String>;
    fn remove(&self, id: &str) -> Result<(), String>;
}

impl Engine for docker::Client {
    fn left_by(&self, agent: &str, most: Duration) -> Result<Vec<Found>, String> {
        let rows = self.list(&labels::of_agent(agent)).map_err(|error| error.to_string())?;
        // An agent may have been given the name that stands on the containers of `exec`.
        let own = rows.into_iter().filter(|row| !row.labels.contains_key(labels::OWNER));
        let mut all = Vec::new();
        for row in own {
            match self.inspect(&row.id, false) {
                Ok(found) => all.push(of_row(row, found.state, most)),
                // It went away meanwhile.
                Err(error) if error.status() == Some(404) => {}
                // One that cannot be looked at may run: nothing is said of its job before.
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(all)
    }

    fn remove(&self, id: &str) -> Result<(), String> {
        docker::Client::remove(self, id).map_err(|error| error.to_string())
    }
}

fn of_row(row: Row, state: State, most: Duration) -> Found {
    let told = Told::read(&row.labels, most);
    let name = told.execution.as_ref().map(container_name);
    // A name that is not the one we gave is not believed: it becomes part of a path.
    let name = name.filter(|name| row.names.iter().any(|there| there.trim_start_matches('/') == name));
    Found { name: name.unwrap_or_else(|| row.id.clone()), id: row.id, state, created: row.created, told }
}

impl Recovery<'_> {
    /// Cleans up; the jobs to go on with. An error means that engine or backend did not answer: to
    /// be tried again before anything is claimed.
    pub fn run(&self) -> Result<Vec<Lost>, String> {
        let mut left = self.engine.left_by(self.agent, self.max_timeout)?;
        let orphans = self.client.orphaned().map_err(|error| error.to_string())?;
        let unknown = orphans.rows.into_iter().filter(|row| !self.known.contains(&row.id));
        let mut waiting: BTreeMap<Id, String> = unknown.map(|row| (row.id, row.status)).collect();
        // Of several attempts at one job, the last is the one that counts.
        left.sort_by_key(|found| std::cmp::Reverse(found.created));
        let mut lost: Vec<Lost> = Vec::new();
        for found in left {
            let Some(job) = found.told.job.clone() else {
                self.remove(&found);
                continue;
            };
            if self.known.contains(&job) {
                // The agent was killed after it had written the report, and before it had removed the container.
                if self.reported.contains(&job) && !found.state.running {
                    self.remove(&found);
                }
                continue;
            }
            let taken = lost.iter().any(|other| other.page.job == job);
            let awaited = waiting.remove(&job).is_some();
            // A list that is cut says nothing of those that are not on it.
            let may_be = !orphans.whole && (self.done)(&job).is_none_or(|done| done.attempts < found.told.attempts);
            if !taken && (awaited || may_be) {
                let doubted = !awaited || !found.state.running;
                lost.push(Lost { page: page(&job, &found, self.max_timeout), doubted });
            } else {
                self.remove(&found);
            }
        }
        for (job, status) in waiting {
            if status == "running" {
                let words = "the agent was restarted while the job ran, and nothing of it is left in the engine or in the \
                             agent's records: its end is unknown";
                self.report(&job, Verdict::infrastructure(Phase::Execution, words));
            } else {
                self.give_back(&job);
            }
        }
        Ok(lost)
    }

    fn remove(&self, found: &Found) {
        let shown = docker::containers::short(&found.id);
        match self.engine.remove(&found.id) {
            Ok(()) => log::warn!("removed container {shown} of an earlier run (it was {})", found.state.status),
            Err(error) => log::error!("container {shown} of an earlier run is left behind: {error}"),
        }
    }

    fn give_back(&self, job: &Id) {
        match self.client.release(job, "the agent was restarted before the job had started") {
            Ok(()) => log::warn!("job {job} of an earlier run had not started; it was given back"),
            Err(error) => log::error!("job {job} of an earlier run could not be given back: {error}"),
        }
    }

    /// As every report: on disk first, then to the backend for as long as it takes.
    fn report(&self, job: &Id, verdict: Verdict) {
        log::warn!("job {job} of an earlier run: {verdict}");
        let report = report::write(false, &unrun(verdict), (Collected::default(), Flushed::default()));
        let page = record::blank(job, job, Kind::Container, 0, None, Place::Nowhere);
        let stage = Stage::Ended(Ended { report, since_ms: now_ms() });
        deliver(self.outbox, Entry { stage, ..page }, Tried::default(), Remains::nothing()).remove(self.outbox);
    }
}

/// The page of a job as its container tells it. A container of an agent before 0.2 tells no time limit: its job may run for
/// as long as any may.
fn page(job: &Id, found: &Found, max_timeout: Duration) -> Entry {
    let told = &found.told;
    let execution = told.execution.as_ref().unwrap_or(job);
    let limits = told.limits;
    let place = Place::Container(Container {
        name: found.name.clone(),
        image: String::new(),
        memory: limits.map_or(0, |set| set.memory),
        pids: limits.map_or(0, |set| set.pids),
        disk: limits.map_or(0, |set| set.disk),
        cpu: limits.map_or(0.0, |set| set.cpu),
    });
    let mut page = record::blank(job, execution, Kind::Container, told.attempts, told.language, place);
    if found.state.status == "created" {
        return page;
    }
    let (after, name) = told.timeout.clone().unwrap_or_else(|| (max_timeout, "jobs.maxTimeout".to_owned()));
    let timeout_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    let began = parse_rfc3339(&found.state.started_at).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let started_ms = began.and_then(|at| u64::try_from(at.as_millis()).ok()).unwrap_or_else(now_ms);
    page.stage = Stage::Started(Started {
        id: Some(found.id.clone()),
        started_ms,
        deadline_ms: started_ms.saturating_add(timeout_ms),
        timeout_name: name,
        timeout_ms,
        boot_id: record::boot_id(),
        delivered: Delivered::default(),
    });
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(3600);

    fn found(status: &str, labels: &[(&str, &str)], started_at: &str) -> Found {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (id, names, state) = ("abc".to_owned(), vec!["/cronium-exec-j-1".to_owned()], status.to_owned());
        let row = Row { id, labels, names, state, created: 7 };
        let state = State {
            running: status == "running",
            status: status.to_owned(),
            pid: 0,
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            started_at: started_at.to_owned(),
            finished_at: String::new(),
        };
        of_row(row, state, MOST)
    }

    fn page_of(found: &Found) -> Entry {
        page(found.told.job.as_ref().expect("a job"), found, MOST)
    }

    fn started(found: &Found) -> Started {
        match page_of(found).stage {
            Stage::Started(started) => started,
            other => panic!("{other:?}"),
        }
    }

    const IDS: [(&str, &str); 2] = [("cronium.job.id", "j"), ("cronium.execution.id", "exec-j-1")];
    const LIMIT: [(&str, &str); 2] = [("cronium.timeout.ms", "5000"), ("cronium.timeout.name", "jobs.defaultTimeout")];

    #[test]
    fn a_page_is_made_of_what_the_container_tells() {
        let all = [&IDS[..], &LIMIT[..], &[("cronium.job.attempts", "3")]].concat();
        let found = found("running", &all, "1970-01-01T00:01:40Z");
        let page = page_of(&found);
        assert_eq!((page.execution.as_str(), page.attempts), ("exec-j-1", 3));
        assert!(matches!(&page.place, Place::Container(page) if page.name == "cronium-exec-j-1"));
        let started = started(&found);
        assert_eq!((started.started_ms, started.deadline_ms, started.timeout_ms), (100_000, 105_000, 5_000));
        assert_eq!(started.timeout_name, "jobs.defaultTimeout");
        assert_eq!((started.left(101_000), started.left(0)), (Duration::from_secs(4), Duration::from_secs(5)));
    }

    #[test]
    fn one_that_was_not_started_is_given_back_and_one_of_an_earlier_version_may_run_as_long_as_any() {
        assert_eq!(page_of(&found("created", &IDS, "0001-01-01T00:00:00Z")).stage, Stage::Intent);
        for began in ["1970-01-01T00:01:40Z", "", "NaN", "-5"] {
            let started = started(&found("exited", &IDS, began));
            assert_eq!((started.timeout_ms, started.timeout_name.as_str()), (3_600_000, "jobs.maxTimeout"), "{began}");
            assert!(started.left(now_ms()) <= MOST);
        }
    }

    #[test]
    fn a_name_that_is_not_ours_is_no_path() {
        let mut labels = IDS;
        labels[1].1 = "exec-other-1";
        assert_eq!(found("running", &labels, "").name, "abc");
        labels[1].1 = "../../networks";
        let found = found("running", &labels, "");
        assert_eq!((found.name.as_str(), page_of(&found).execution.as_str()), ("abc", "j"));
    }
}

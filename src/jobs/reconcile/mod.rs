//! The one reconciler: compares what the backend lists as this agent's, what the engine holds, what the records say and
//! what runs here, and acts on each difference. [`table`] decides.
//!
//! A round is level-triggered: it needs no memory of what went wrong. The first one comes before the first claim, since
//! an earlier run may have left anything behind. Then there is one a minute, one when the engine is back, and some after
//! an answer of the backend was lost. Between the two looks of a round nothing waits, so that a job which begins or
//! ends meanwhile is known in one of them.

pub mod claims;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

pub use self::table::{Action, Row, Seen, decide};
use self::table::{Container as Held, Record};
use crate::api::{Orphans, RowStatus};
use crate::docker::containers::State;
use crate::executors::CleanupGuard;
use crate::executors::container::janitor::{Found, Janitor};
use crate::executors::container::spec::container_name;
use crate::job::{Id, Kind, ScriptResult};
use crate::jobs::adopt::{Adopter, Known};
use crate::jobs::channel::Collected;
use crate::jobs::conclude::{deliver, unrun};
use crate::jobs::context::JobContext;
use crate::jobs::record::outbox::Tried;
use crate::jobs::record::{self, Container, Ended, Entry, Place, Stage, Started, now_ms};
use crate::jobs::report;
use crate::jobs::resume::ResumePoint;
use crate::limits;
use crate::logs::Flushed;
use crate::verdict::{Phase, Verdict};
use crate::wire::time::parse_rfc3339;

/// What a round asks of the engine.
pub trait Engine: Send + Sync {
    /// All containers of this agent's, and those that a killed `exec` has left.
    fn containers(&self) -> Result<Vec<Found>, String>;
    /// A container's state; `None` when it is gone.
    fn state(&self, id: &str) -> Result<Option<State>, String>;
    /// Removes a container, running or not.
    fn remove(&self, found: &Found) -> Result<(), RemoveError>;
}

/// Why a container was not removed.
#[derive(Debug)]
pub struct RemoveError {
    pub engine_is_silent: bool,
    pub why: String,
}

impl Engine for Janitor {
    fn containers(&self) -> Result<Vec<Found>, String> {
        self.list().map_err(|error| error.to_string())
    }

    fn state(&self, id: &str) -> Result<Option<State>, String> {
        match self.inspect(id) {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn remove(&self, found: &Found) -> Result<(), RemoveError> {
        Janitor::remove(self, found)
            .map_err(|error| RemoveError { engine_is_silent: error.status().is_none(), why: error.to_string() })
    }
}

/// Compares and acts.
pub struct Reconciler {
    context: Arc<JobContext>,
    adopter: Adopter,
    engine: Box<dyn Engine>,
    /// Records of an earlier run whose job no thread has adopted yet.
    waiting: Mutex<BTreeMap<Id, Entry>>,
}

/// One round: what each side says.
struct Round<'a> {
    own: &'a Reconciler,
    at_start: bool,
    /// Of each job, the newest first.
    containers: BTreeMap<Id, Vec<Found>>,
    /// Those of no job, and of a killed `exec`.
    nobodys: Vec<Found>,
    list: Option<Orphans>,
    here: BTreeSet<Id>,
    reported: BTreeSet<Id>,
    removed: usize,
}

impl Reconciler {
    /// `open`: the records of an earlier run whose jobs had not ended.
    pub fn new(context: &Arc<JobContext>, adopter: Adopter, engine: Box<dyn Engine>, open: Vec<Entry>) -> Self {
        let waiting = Mutex::new(open.into_iter().map(|entry| (entry.job.clone(), entry)).collect());
        Self { context: Arc::clone(context), adopter, engine, waiting }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Id, Entry>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adopts the jobs that have a record. This needs neither engine nor backend.
    pub fn adopt_recorded(&self) {
        self.waiting().retain(|_, entry| !self.adopter.adopt(entry.clone(), Known::ByRecord));
    }

    /// Whether a round is due before the next minute: a claim may have been lost.
    pub fn is_due(&self) -> bool {
        self.context.claims.is_due()
    }

    /// One round. `at_start`: nothing was claimed yet. An error means that engine or backend did not answer.
    pub fn round(&self, at_start: bool) -> Result<(), String> {
        let (here, reported) = self.known();
        let (mut containers, mut nobodys) = (BTreeMap::<Id, Vec<Found>>::new(), Vec::new());
        for found in self.engine.containers()? {
            match found.told.job.clone().filter(|_| !found.of_exec) {
                Some(job) => containers.entry(job).or_default().push(found),
                None => nobodys.push(found),
            }
        }
        // Of several attempts at one job, the last is the one that counts.
        containers.values_mut().for_each(|all| all.sort_by_key(|found| std::cmp::Reverse(found.created)));
        let unexplained = containers.keys().any(|job| !here.contains(job) && !reported.contains(job));
        let list = match at_start || unexplained || self.is_due() {
            true => Some(self.context.client.orphaned().map_err(|error| error.to_string())?),
            false => None,
        };
        Round { own: self, at_start, containers, nobodys, list, here, reported, removed: 0 }.act()
    }

    /// The jobs that run here, and those whose report waits. In this order: a job enters the outbox before it leaves the
    /// registry.
    fn known(&self) -> (BTreeSet<Id>, BTreeSet<Id>) {
        let here = self.context.running.ids().into_iter().collect();
        (here, self.context.outbox.ids().into_iter().collect())
    }
}

impl Round<'_> {
    fn act(mut self) -> Result<(), String> {
        let listed = self.list.iter().flat_map(|list| &list.rows).map(|row| row.id.clone());
        let jobs: BTreeSet<Id> =
            self.containers.keys().cloned().chain(listed).chain(self.own.waiting().keys().cloned()).collect();
        // Before the second look at the registry: a job that is claimed now has its record later than its place there.
        let kept: BTreeSet<Id> = jobs.iter().filter(|job| self.own.context.records.has(job)).cloned().collect();
        let (here, reported) = self.own.known();
        self.here.extend(here);
        self.reported.extend(reported);
        let settled = self.settled_claims();
        for job in &jobs {
            let seen = Seen {
                at_start: self.at_start,
                here: self.here.contains(job),
                record: self.record(job, kept.contains(job)),
                container: self.container(job),
                row: self.row(job, &settled),
            };
            self.carry_out(job, decide(seen))?;
        }
        for found in std::mem::take(&mut self.nobodys) {
            if found.of_exec || self.is_old(&found) {
                self.remove(&found)?;
            }
        }
        Ok(())
    }

    /// The claims that nobody here knows of, for long enough.
    fn settled_claims(&self) -> BTreeSet<Id> {
        let Some(list) = &self.list else { return BTreeSet::new() };
        let claimed = list.rows.iter().filter(|row| row.status == "claimed").map(|row| &row.id);
        let unknown = claimed.filter(|id| !self.here.contains(id) && !self.reported.contains(id));
        self.own.context.claims.settled(unknown.cloned().collect())
    }

    fn record(&self, job: &Id, kept: bool) -> Record {
        if self.own.waiting().contains_key(job) {
            return Record::Waiting;
        }
        if self.reported.contains(job) {
            return Record::Reported;
        }
        // At the start, a record that is neither can not be read: the container says more.
        if kept && !self.at_start {
            return Record::Kept;
        }
        let attempts = self.newest(job).map_or(0, |found| found.told.attempts);
        match self.own.context.records.done().lookup(job) {
            Some(done) if done.attempts >= attempts => Record::Delivered,
            _ => Record::None,
        }
    }

    fn newest(&self, job: &Id) -> Option<&Found> {
        self.containers.get(job).and_then(|all| all.first())
    }

    /// A container that is not old may be in the hands of the worker that made it. Before the first claim there is none.
    ///
    /// One that was never started is nobody's as soon as its job does not run here: a worker removes it before its job
    /// leaves the registry. It may be that of an agent whose kill came before the engine had made it. One of no job is a
    /// canary, whose thread starts it.
    fn is_old(&self, found: &Found) -> bool {
        let is_unstarted = found.state == "created" && found.told.job.is_some();
        self.at_start || is_unstarted || found.age >= limits::JANITOR_GRACE
    }

    fn container(&self, job: &Id) -> Held {
        match self.newest(job) {
            None => Held::None,
            Some(found) if !self.is_old(found) => Held::Young,
            Some(found) => match found.state.as_str() {
                "created" => Held::Created,
                "running" | "paused" | "restarting" => Held::Running,
                _ => Held::Ended,
            },
        }
    }

    fn row(&self, job: &Id, settled: &BTreeSet<Id>) -> Row {
        let Some(list) = &self.list else { return Row::NotAsked };
        match list.rows.iter().find(|row| row.id == *job) {
            Some(row) if row.status == "running" => Row::Running,
            Some(_) if self.at_start || settled.contains(job) => Row::Claimed,
            Some(_) => Row::Fresh,
            None if self.containers.contains_key(job) && !self.here.contains(job) && self.is_cancelled(job) => {
                Row::Cancelled
            }
            None if list.whole => Row::Absent,
            None => Row::Cut,
        }
    }

    /// Of a job whose container is here and that the list does not show.
    fn is_cancelled(&self, job: &Id) -> bool {
        matches!(self.own.context.client.row_status(job), Ok(RowStatus::Cancelled))
    }

    fn carry_out(&mut self, job: &Id, action: Action) -> Result<(), String> {
        match action {
            // What runs here is cancelled by the row watch, which asks more often.
            Action::Leave | Action::Cancel => Ok(()),
            Action::Adopt => {
                self.own
                    .waiting()
                    .retain(|id, entry| id != job || !self.own.adopter.adopt(entry.clone(), Known::ByRecord));
                Ok(())
            }
            Action::AdoptByLabels { doubted } => self.adopt_by_labels(job, doubted),
            Action::RemoveContainer => self.remove_all(job, 0),
            Action::Release => {
                self.release(job);
                Ok(())
            }
            Action::ReportUnknown => {
                self.report_unknown(job);
                Ok(())
            }
        }
    }

    fn adopt_by_labels(&mut self, job: &Id, doubted: bool) -> Result<(), String> {
        if let Some(found) = self.newest(job)
            && let Some(state) = self.own.engine.state(&found.id)?
        {
            let entry = entry_of(job, found, &state, self.own.context.config.now().jobs.max_timeout);
            self.own.adopter.adopt(entry, Known::ByLabels { doubted });
        }
        // Those of earlier attempts.
        self.remove_all(job, 1)
    }

    /// Removes the containers of a job, but for the newest `keep`.
    fn remove_all(&mut self, job: &Id, keep: usize) -> Result<(), String> {
        for found in self.containers.remove(job).unwrap_or_default().iter().skip(keep) {
            if self.is_old(found) {
                self.remove(found)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, found: &Found) -> Result<(), String> {
        if !self.at_start && self.removed >= limits::JANITOR_ROUND {
            return Ok(());
        }
        self.removed += 1;
        let what = found.shown();
        match self.own.engine.remove(found) {
            Ok(()) => log::warn!("removed {what}"),
            // Each of the others would wait for an engine that does not answer.
            Err(RemoveError { engine_is_silent: true, why }) => return Err(why),
            Err(error) => log::error!("cannot remove {what}: {}; trying again in the next round", error.why),
        }
        Ok(())
    }

    fn release(&self, job: &Id) {
        let client = &self.own.context.client;
        let released = match self.at_start {
            true => client.release(job, "the agent was restarted before the job had started"),
            // Once: it may be handed out to this agent again at once, and a second try must not take it away.
            false => client.release_once(job, "the agent never got the answer with this job"),
        };
        match released {
            Ok(()) => {
                log::warn!("job {job} was claimed for this agent, and nobody here knows of it; it was given back")
            }
            Err(error) => log::error!("job {job}, of which nobody here knows, could not be given back: {error}"),
        }
    }

    /// As every report: on disk first, then to the backend for as long as it takes.
    fn report_unknown(&self, job: &Id) {
        let words = "the agent was restarted while the job ran, and nothing of it is left in the engine or in the agent's \
                     records: its end is unknown";
        let verdict = Verdict::infrastructure(Phase::Execution, words);
        log::warn!("job {job} of an earlier run: {verdict}");
        let (output, receipt) = ((Collected::default(), Flushed::default()), self.own.context.receipts.draft_of(job));
        let report = report::write(false, &unrun(verdict), output, &ScriptResult::default(), receipt);
        let entry = record::blank(job, job, Kind::Container, 0, None, Place::Nowhere);
        let stage = Stage::Ended(Ended { report, since_ms: now_ms() });
        let outbox = &self.own.context.outbox;
        deliver(outbox, Entry { stage, ..entry }, (Tried::default(), None), CleanupGuard::none()).remove(outbox);
    }
}

/// The record of a job as its container tells it. A container of an agent before 0.2 tells no time limit: its job may run
/// for as long as any may.
fn entry_of(job: &Id, found: &Found, state: &State, max_timeout: Duration) -> Entry {
    let told = &found.told;
    let execution = told.execution.as_ref().unwrap_or(job);
    // A name that is not the one we gave is not believed: it becomes part of a path.
    let own = told.execution.as_ref().map(container_name).filter(|name| *name == found.name);
    let limits = told.limits;
    let place = Place::Container(Container {
        name: own.unwrap_or_else(|| found.id.clone()),
        image: String::new(),
        memory: limits.map_or(0, |set| set.memory),
        pids: limits.map_or(0, |set| set.pids),
        disk: limits.map_or(0, |set| set.disk),
        cpu: limits.map_or(0.0, |set| set.cpu),
        warm: found.warm.then(|| found.id.clone()),
    });
    let mut entry = record::blank(job, execution, Kind::Container, told.attempts, told.language, place);
    if state.status == "created" {
        return entry;
    }
    let told_limit = told.timeout.clone().map(|(after, name)| (after.min(max_timeout), name));
    let (after, name) = told_limit.unwrap_or_else(|| (max_timeout, "jobs.maxTimeout".to_owned()));
    let timeout_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    let began = parse_rfc3339(&state.started_at).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let mut started_ms = began.and_then(|at| u64::try_from(at.as_millis()).ok()).unwrap_or_else(now_ms);
    if found.warm {
        // It was started for nobody. Its job began soon after the claim, whose time is in the execution's id.
        let claimed = execution.as_str().rsplit_once('-').and_then(|(_, ms)| ms.parse().ok());
        started_ms = started_ms.max(claimed.unwrap_or(0));
    }
    entry.stage = Stage::Started(Started {
        id: Some(found.id.clone()),
        started_ms,
        deadline_ms: started_ms.saturating_add(timeout_ms),
        timeout_name: name,
        timeout_ms,
        boot_id: record::boot_id(),
        resume: ResumePoint::default(),
    });
    entry
}

#[cfg(test)]
mod tests;

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

pub use self::table::{Action, Seen, decide};
use self::table::{Container as Held, Record, Row};
use crate::api::Orphans;
use crate::docker::containers::State;
use crate::executors::Remains;
use crate::executors::container::janitor::{Found, Janitor};
use crate::executors::container::spec::container_name;
use crate::job::{Id, Kind};
use crate::jobs::adopt::{Adopter, Known};
use crate::jobs::conclude::{deliver, unrun};
use crate::jobs::context::JobContext;
use crate::jobs::output::Collected;
use crate::jobs::record::outbox::Tried;
use crate::jobs::record::{self, Container, Delivered, Ended, Entry, Place, Stage, Started, now_ms};
use crate::jobs::report;
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
    fn is_old(&self, found: &Found) -> bool {
        self.at_start || found.age >= limits::JANITOR_GRACE
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
            None if list.whole => Row::Absent,
            None => Row::Cut,
        }
    }

    fn carry_out(&mut self, job: &Id, action: Action) -> Result<(), String> {
        match action {
            // A cancel by the row is the heartbeat's, whose lists come at an even pace.
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
        let report = report::write(false, &unrun(verdict), (Collected::default(), Flushed::default()));
        let entry = record::blank(job, job, Kind::Container, 0, None, Place::Nowhere);
        let stage = Stage::Ended(Ended { report, since_ms: now_ms() });
        let outbox = &self.own.context.outbox;
        deliver(outbox, Entry { stage, ..entry }, Tried::default(), Remains::nothing()).remove(outbox);
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
    });
    let mut entry = record::blank(job, execution, Kind::Container, told.attempts, told.language, place);
    if state.status == "created" {
        return entry;
    }
    let told_limit = told.timeout.clone().map(|(after, name)| (after.min(max_timeout), name));
    let (after, name) = told_limit.unwrap_or_else(|| (max_timeout, "jobs.maxTimeout".to_owned()));
    let timeout_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    let began = parse_rfc3339(&state.started_at).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let started_ms = began.and_then(|at| u64::try_from(at.as_millis()).ok()).unwrap_or_else(now_ms);
    entry.stage = Stage::Started(Started {
        id: Some(found.id.clone()),
        started_ms,
        deadline_ms: started_ms.saturating_add(timeout_ms),
        timeout_name: name,
        timeout_ms,
        boot_id: record::boot_id(),
        delivered: Delivered::default(),
    });
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{Server, ok};
    use crate::executors::container::labels::Told;
    use crate::jobs::context::testing::Parts;

    const MOST: Duration = Duration::from_secs(3600);

    fn found(status: &str, labels: &[(&str, &str)], started_at: &str) -> (Found, State) {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let told = Told::read(&labels);
        let found = Found {
            id: "abc".to_owned(),
            name: "cronium-exec-j-1".to_owned(),
            told,
            state: status.to_owned(),
            age: Duration::ZERO,
            created: 7,
            of_exec: false,
        };
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
        (found, state)
    }

    fn page_of((found, state): &(Found, State)) -> Entry {
        entry_of(found.told.job.as_ref().expect("a job"), found, state, MOST)
    }

    fn started(found: &(Found, State)) -> Started {
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
    fn no_label_gives_a_job_more_time_than_any_may_have() {
        let forged = [("cronium.timeout.ms", "18446744073709551615"), LIMIT[1]];
        let started = started(&found("running", &[&IDS[..], &forged].concat(), "1970-01-01T00:01:40Z"));
        assert_eq!((started.timeout_ms, started.deadline_ms), (3_600_000, 3_700_000), "no decades");
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
        let name = |found: &(Found, State)| match page_of(found).place {
            Place::Container(container) => container.name,
            other => panic!("{other:?}"),
        };
        assert_eq!(name(&found("running", &labels, "")), "abc");
        labels[1].1 = "../../networks";
        let found = found("running", &labels, "");
        assert_eq!((name(&found).as_str(), page_of(&found).execution.as_str()), ("abc", "j"));
    }

    /// Containers as an engine has them; what was removed of them.
    #[derive(Debug, Clone, Default)]
    struct Fake(Arc<Mutex<(Vec<Found>, Vec<String>)>>);

    impl Engine for Fake {
        fn containers(&self) -> Result<Vec<Found>, String> {
            Ok(self.0.lock().expect("lock").0.clone())
        }

        fn state(&self, _: &str) -> Result<Option<State>, String> {
            Ok(None)
        }

        fn remove(&self, found: &Found) -> Result<(), RemoveError> {
            self.0.lock().expect("lock").1.push(found.id.clone());
            Ok(())
        }
    }

    /// Runs rounds with the containers of these jobs, each as old, against a backend that lists `rows`; what was removed.
    fn rounds(
        containers: &[(&str, Duration)],
        rows: &'static str,
        act: impl FnOnce(&Reconciler, &JobContext),
    ) -> (Vec<String>, Vec<String>) {
        let (dir, stop) = (crate::os::scratch::Scratch::new(), crate::os::stop::Stop::new());
        let server = Server::start(move |seen, _| ok(if seen.line.starts_with("GET") { rows } else { "{}" }));
        let parts = Parts::new(&dir, server.client(), &stop);
        let slots = crate::jobs::poller::Slots::new(1);
        let engine = Fake::default();
        engine.0.lock().expect("lock").0 = containers
            .iter()
            .map(|(job, age)| {
                let labels = [("cronium.job.id", *job), ("cronium.execution.id", "exec-1")];
                let (found, _) = found("exited", &labels, "");
                Found { id: (*job).to_owned(), age: *age, ..found }
            })
            .collect();
        let adopter = Adopter::new(&parts.context, &slots);
        let reconciler = Reconciler::new(&parts.context, adopter, Box::new(engine.clone()), Vec::new());
        act(&reconciler, &parts.context);
        drop(reconciler);
        stop.set();
        parts.end();
        let posts = server.lines().into_iter().filter(|line| line.starts_with("POST")).collect();
        let removed = engine.0.lock().expect("lock").1.clone();
        (removed, posts)
    }

    const OLD: Duration = limits::JANITOR_GRACE;

    #[test]
    fn only_what_no_job_needs_is_removed() {
        use crate::jobs::record::store_tests::{ended, entry, id};
        let young = OLD - Duration::from_secs(1);
        let all = [("nobodys", OLD), ("young", young), ("runs", OLD), ("waits", OLD), ("reported", OLD)];
        let (removed, _) = rounds(&all, "[]", |reconciler, context| {
            let token = context.running.claim(&id("runs")).expect("free");
            // A record that only the next start can use.
            context.records.put(&entry("waits", Stage::Intent)).expect("put");
            context.outbox.report_after(entry("reported", ended(1, "")), Tried::lost(), |_| ()).expect("kept");
            reconciler.round(false).expect("a round");
            drop(token);
        });
        assert_eq!(removed, ["nobodys", "reported"]);
        let (removed, _) = rounds(&[("runs", OLD)], "[]", |reconciler, _| reconciler.round(false).expect("a round"));
        assert_eq!(removed, ["runs"], "it does not run any more");
        let (removed, _) = rounds(&[("young", young)], "[]", |reconciler, _| reconciler.round(true).expect("a round"));
        assert_eq!(removed, ["young"], "before the first claim nobody has one in hand");
    }

    #[test]
    fn a_round_removes_a_bounded_number_and_leaves_the_rest_to_the_next() {
        let names: Vec<String> = (0..limits::JANITOR_ROUND + 5).map(|n| format!("left-{n:02}")).collect();
        let all: Vec<(&str, Duration)> = names.iter().map(|name| (name.as_str(), OLD)).collect();
        let (removed, _) = rounds(&all, "[]", |reconciler, _| reconciler.round(false).expect("a round"));
        assert_eq!(removed.len(), limits::JANITOR_ROUND);
    }

    #[test]
    fn a_claim_that_nobody_knows_of_goes_back_when_no_poll_can_bring_it_any_more() {
        const ROWS: &str = r#"[{"id":"lost","status":"claimed"},{"id":"known","status":"claimed"},
                               {"id":"runs","status":"running"}]"#;
        let (_, posts) = rounds(&[], ROWS, |reconciler, context| {
            let token = context.running.claim(&Id::parse("known").expect("id")).expect("free");
            reconciler.round(false).expect("a round");
            assert!(!reconciler.is_due(), "not again at once");
            context.claims.pass(limits::CLAIMS_LOOK);
            reconciler.round(false).expect("a round");
            drop(token);
        });
        assert_eq!(posts, ["POST /api/internal/jobs/lost/release"]);
    }

    #[test]
    fn at_the_start_a_claim_goes_back_at_once_and_a_script_that_ran_is_reported_as_unknown() {
        const ROWS: &str = r#"[{"id":"claimed","status":"claimed"},{"id":"ran","status":"running"}]"#;
        let (_, posts) = rounds(&[], ROWS, |reconciler, _| reconciler.round(true).expect("a round"));
        assert_eq!(posts, ["POST /api/internal/jobs/claimed/release", "POST /api/internal/jobs/ran/complete"]);
    }
}

//! The answer to `status`: what the agent says of itself to its operator, from the parts that know.
//!
//! Nothing in it may be a secret. Fields that a reader does not know are left out, and missing ones have defaults, so
//! that a new command line can ask an agent that has not been restarted since the upgrade.

use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::executors::container::warm::PoolState;
use crate::executors::ssh::breakers::Tripped;
use crate::health::{HealthState, shortened};
use crate::jobs::poller::Slots;
use crate::jobs::record::outbox::{self, Outbox};
use crate::jobs::record::{Quarantined, RecordStore};
use crate::jobs::running::{InHand, Running};
use crate::limits;
use crate::logs::ConnectionState;
use crate::os::clock;
use crate::wire::time::rfc3339;

/// The whole answer.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// True.
    pub ok: bool,
    pub agent: Agent,
    /// Whether it claims jobs.
    pub ready: bool,
    /// Why not.
    pub why_not: Option<String>,
    /// What is asked of jobs before they run: signatures, a list of scripts.
    pub asked_of_jobs: String,
    pub pool: Pool,
    /// `None` where `container.warm` wants none.
    pub warm: Option<Warm>,
    /// In the order of their ids.
    pub jobs: Vec<Job>,
    pub outbox: Reports,
    /// The servers whose circuit breakers are not closed.
    pub breakers: Vec<Breaker>,
    pub live_log: LiveLog,
    pub proofs: Proofs,
    pub images: Images,
    /// `None` before the first.
    pub reload: Option<Reload>,
}

/// The last proof that the walls around jobs hold.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Proofs {
    /// `off`, `warn` or `require`; empty from an agent that makes none yet.
    pub required: String,
    /// Wall clock, RFC 3339; `None` before the first.
    pub at: Option<String>,
    pub age_seconds: Option<u64>,
    /// Each wall that did not stand, with what to do.
    pub failed: Vec<String>,
    /// Why the proof does not count, though it found no such wall.
    pub why_not: Option<String>,
}

/// The images of containers, beside the jobs.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Images {
    /// `container.images.prePull`.
    pub pre_pull: bool,
    /// Images that are still to be pulled ahead of jobs.
    pub to_pull: usize,
    pub pulling: Option<String>,
    /// Why images could not be pulled ahead.
    pub trouble: Option<String>,
    /// Images of which it is known that this agent pulled them.
    pub pulled: usize,
    /// Of the engine's file system; `None` where it cannot be seen.
    pub used_percent: Option<u8>,
    /// `container.images.prune.high`; `None` for `off`.
    pub prune_from_percent: Option<u8>,
    /// Images that were removed since the start.
    pub removed: u64,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Agent {
    pub id: String,
    pub version: String,
    pub pid: u32,
    /// Wall clock, RFC 3339.
    pub since: String,
    pub uptime_seconds: u64,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Pool {
    pub workers: usize,
    pub busy: usize,
}

/// The containers that wait for jobs.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Warm {
    pub waiting: usize,
    pub wanted: usize,
    /// Why fewer wait than are wanted, if it is not that they are being made.
    pub why_fewer: Option<String>,
}

/// A running job.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Job {
    pub id: String,
    pub execution: Option<String>,
    /// `container` or `ssh`.
    pub kind: Option<String>,
    /// `claimed`, `preparing`, `running` or `reporting`.
    pub phase: String,
    /// Since the claim.
    pub age_seconds: u64,
    /// Since the phase began.
    pub phase_seconds: u64,
    /// The name of the container or the server.
    pub place: Option<String>,
    /// Its container was started before the job was known.
    pub warm: bool,
    /// Who has cancelled it.
    pub cancelled_by: Option<String>,
}

/// The outbox: reports that the backend has not taken yet, or will not.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Reports {
    pub waiting: usize,
    /// How long the oldest has waited.
    pub oldest_seconds: Option<u64>,
    /// Given up by this run.
    pub set_aside: u64,
    pub last_error: Option<String>,
    /// `jobs.reportRetention`: for how long a report is offered.
    pub retention_seconds: u64,
    /// All quarantined reports, of every run, oldest first.
    pub asides: Vec<SetAside>,
}

/// A quarantined report.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SetAside {
    pub job: Option<String>,
    pub file: String,
    /// Wall clock, RFC 3339.
    pub at: String,
    pub bytes: u64,
    pub why: String,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Breaker {
    /// `host:port`
    pub server: String,
    /// `open` or `half-open`.
    pub state: String,
    /// In a row.
    pub failures: u32,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LiveLog {
    /// `logging.websocket.enabled`.
    pub enabled: bool,
    pub connected: bool,
    /// Lines go by updates of the job's execution, as to the pages of a backend without a WebSocket.
    pub by_updates: bool,
    /// Why it is not connected.
    pub last_error: Option<String>,
}

/// The last time that the configuration was read again.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Reload {
    /// How many there have been since the start, this one included.
    pub number: u64,
    /// Requests of `cronium-agent reload` since the start that this one and those before it have answered.
    pub answers: u64,
    /// Wall clock, RFC 3339.
    pub at: String,
    /// `changed`, `unchanged` or `refused`.
    pub result: String,
    /// What took effect: key, old and new value.
    pub in_effect: Vec<String>,
    /// What does not before a restart, in the same words.
    pub needs_restart: Vec<String>,
    /// Why it was refused.
    pub problems: Vec<String>,
}

/// Something that is asked anew for each `status`.
pub type Now<T> = Box<dyn Fn() -> T + Send + Sync>;

/// The parts that are asked.
pub struct Sources {
    pub id: String,
    pub version: String,
    pub started: (SystemTime, Instant),
    pub health: Arc<HealthState>,
    pub running: Running,
    pub slots: Slots,
    /// See [`Status::asked_of_jobs`].
    pub asked_of_jobs: Now<String>,
    /// The containers that wait for jobs; `None` where none is wanted.
    pub warm: Now<Option<PoolState>>,
    /// Circuit breakers that are not closed.
    pub tripped: Now<Vec<Tripped>>,
    pub live_log: Now<ConnectionState>,
    /// Whether lines go by updates now.
    pub pages: Now<bool>,
    pub proofs: Now<Proofs>,
    pub images: Now<Images>,
    pub reload: Now<Option<Reload>>,
    /// Asks for a reload; the number of the request, see [`Reload::answers`].
    pub ask_reload: Now<u64>,
    /// The figures of the reports that wait, without a look at a disk.
    pub outbox: Now<outbox::State>,
    /// See [`reports_now`].
    pub reports: Now<Reports>,
}

/// The usual source of [`Sources::reports`].
pub fn reports_now(outbox: Outbox, records: RecordStore) -> Now<Reports> {
    Box::new(move || Reports::new(outbox.state(), records.quarantined()))
}

impl Sources {
    /// The state of the agent as it is now.
    pub fn status(&self) -> Status {
        let why_not = self.health.why_not_ready();
        let live = (self.live_log)();
        let connected = live.connected_since.is_some();
        let workers = self.slots.total();
        Status {
            ok: true,
            agent: Agent {
                id: self.id.clone(),
                version: self.version.clone(),
                pid: process::id(),
                since: rfc3339(self.started.0, 0),
                uptime_seconds: clock::since(self.started.1).as_secs(),
            },
            ready: why_not.is_none(),
            why_not,
            asked_of_jobs: (self.asked_of_jobs)(),
            pool: Pool { workers, busy: workers.saturating_sub(self.slots.free()) },
            warm: (self.warm)().map(|warm| Warm {
                waiting: warm.waiting,
                wanted: warm.wanted,
                why_fewer: warm.trouble.map(shortened),
            }),
            jobs: self.running.list().into_iter().map(Job::from).collect(),
            outbox: (self.reports)(),
            breakers: self.breakers(),
            live_log: LiveLog {
                enabled: live.enabled,
                connected,
                by_updates: (self.pages)(),
                last_error: live.last_error.filter(|_| !connected).map(shortened),
            },
            proofs: (self.proofs)(),
            images: (self.images)(),
            reload: (self.reload)().map(Reload::bounded),
        }
    }

    fn breakers(&self) -> Vec<Breaker> {
        let shown = (self.tripped)().into_iter().take(limits::SSH_BREAKERS_SHOWN);
        shown.map(Breaker::from).collect()
    }
}

impl From<Tripped> for Breaker {
    fn from(tripped: Tripped) -> Self {
        Self { server: shortened(tripped.server), state: tripped.state.to_string(), failures: tripped.failures }
    }
}

impl From<InHand> for Job {
    fn from(job: InHand) -> Self {
        Self {
            id: job.id.to_string(),
            execution: job.execution.map(|id| id.to_string()),
            kind: job.kind.map(|kind| kind.as_str().to_owned()),
            phase: job.step.as_str().to_owned(),
            age_seconds: job.age.as_secs(),
            phase_seconds: job.in_step.as_secs(),
            place: job.place.map(shortened),
            warm: job.warm,
            cancelled_by: job.cancelled_by.map(str::to_owned),
        }
    }
}

impl Reload {
    fn bounded(mut self) -> Self {
        for list in [&mut self.in_effect, &mut self.needs_restart, &mut self.problems] {
            list.truncate(limits::CONFIG_PROBLEMS_MAX);
            list.iter_mut().for_each(|text| *text = shortened(std::mem::take(text)));
        }
        self
    }
}

impl Reports {
    fn new(state: outbox::State, asides: Vec<Quarantined>) -> Self {
        let told = |aside: Quarantined| SetAside {
            job: aside.job.map(|id| id.to_string()),
            file: aside.name,
            // Beyond what a clock can say, the file's name is not the agent's.
            at: UNIX_EPOCH.checked_add(Duration::from_millis(aside.at_ms)).map(|at| rfc3339(at, 0)).unwrap_or_default(),
            bytes: aside.bytes,
            why: shortened(aside.why),
        };
        // The folder may hold more than the agent put there.
        let skip = asides.len().saturating_sub(limits::QUARANTINE_FILES);
        Self {
            waiting: state.waiting,
            oldest_seconds: state.oldest.map(|age| age.as_secs()),
            set_aside: state.set_aside,
            last_error: state.last_error.map(shortened),
            retention_seconds: state.retention.as_secs(),
            asides: asides.into_iter().skip(skip).map(told).collect(),
        }
    }
}

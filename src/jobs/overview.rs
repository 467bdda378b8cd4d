//! What the page on the health port shows, as JSON, from the parts that `status` asks.
//!
//! Everybody who reaches the port may read it. So it holds ids, names of events and closed words: no output, no variable, no
//! sentence of a verdict, which may quote a script, and no error of a backend. It asks nothing that waits for a disk or a
//! network: probes are answered by the same thread.

use serde::Serialize;

use crate::health::shortened;
use crate::jobs::history::{Ending, shown_name};
use crate::jobs::running::{InHand, Step};
use crate::jobs::status::{Breaker, Sources, Warm};
use crate::limits;
use crate::metrics::{SSH_BUSY, SSH_CONNECTIONS};
use crate::os::clock;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Overview<'a> {
    agent: Agent<'a>,
    ready: bool,
    why_not: Option<String>,
    pool: Pool,
    warm: Option<Warm>,
    all_jobs: usize,
    jobs: Vec<Job>,
    ended: Vec<Ended>,
    reports: Reports,
    servers: Servers,
    /// `healthy`, or how well the backend is otherwise; `None` before it was asked.
    backend: Option<&'static str>,
    proofs: Proofs,
    history: Lines,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Agent<'a> {
    id: &'a str,
    version: &'a str,
    uptime_seconds: u64,
}

#[derive(Serialize)]
struct Pool {
    workers: usize,
    busy: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Job {
    id: String,
    event: Option<String>,
    kind: Option<&'static str>,
    phase: &'static str,
    phase_seconds: u64,
    age_seconds: u64,
    cancelled: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    id: String,
    event: Option<String>,
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    exit_code: i32,
    /// With a fraction.
    seconds: f64,
    ago_seconds: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reports {
    waiting: usize,
    oldest_seconds: Option<u64>,
    set_aside: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Servers {
    connections: u64,
    busy: u64,
    all_breakers: usize,
    breakers: Vec<Breaker>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Proofs {
    required: String,
    age_seconds: Option<u64>,
    failed: usize,
}

/// Samples, oldest first.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lines {
    every_seconds: u64,
    jobs: Vec<usize>,
    latency_ms: Vec<Option<u128>>,
}

/// The whole, as it is now.
pub fn json(sources: &Sources) -> String {
    serde_json::to_string(&overview(sources)).unwrap_or_else(|_| "{}".to_owned())
}

fn overview(sources: &Sources) -> Overview<'_> {
    let why_not = sources.health.why_not_ready().map(shortened);
    let workers = sources.slots.total();
    let (running, proofs) = (sources.running.list(), (sources.proofs)());
    let history = sources.running.history();
    let mut tripped = (sources.tripped)();
    let (all_breakers, samples, reports) = (tripped.len(), history.samples(), (sources.outbox)());
    tripped.truncate(limits::PAGE_BREAKERS);
    Overview {
        agent: Agent {
            id: &sources.id,
            version: &sources.version,
            uptime_seconds: clock::since(sources.started.1).as_secs(),
        },
        ready: why_not.is_none(),
        why_not,
        pool: Pool { workers, busy: workers.saturating_sub(sources.slots.free()) },
        warm: (sources.warm)().map(|warm| Warm { waiting: warm.waiting, wanted: warm.wanted, why_fewer: None }),
        all_jobs: running.len(),
        jobs: running.into_iter().take(limits::PAGE_JOBS).map(Job::from).collect(),
        ended: history.endings().into_iter().map(Ended::from).collect(),
        reports: Reports {
            waiting: reports.waiting,
            oldest_seconds: reports.oldest.map(|age| age.as_secs()),
            set_aside: reports.set_aside,
        },
        servers: Servers {
            connections: SSH_CONNECTIONS.now(),
            busy: SSH_BUSY.now(),
            all_breakers,
            breakers: tripped.into_iter().map(Breaker::from).map(short).collect(),
        },
        backend: sources.health.status_of("api"),
        proofs: Proofs { required: proofs.required, age_seconds: proofs.age_seconds, failed: proofs.failed.len() },
        history: Lines {
            every_seconds: limits::ENGINE_LOOK.as_secs(),
            jobs: samples.iter().map(|sample| sample.jobs).collect(),
            latency_ms: samples.iter().map(|sample| sample.latency.map(|latency| latency.as_millis())).collect(),
        },
    }
}

fn short(breaker: Breaker) -> Breaker {
    Breaker { server: shown_name(&breaker.server), ..breaker }
}

impl From<InHand> for Job {
    fn from(job: InHand) -> Self {
        Self {
            id: job.id.to_string(),
            event: job.event.as_deref().map(shown_name),
            kind: job.kind.map(|kind| kind.as_str()),
            phase: Step::as_str(job.step),
            phase_seconds: job.in_step.as_secs(),
            age_seconds: job.age.as_secs(),
            cancelled: job.cancelled_by.is_some(),
        }
    }
}

impl From<Ending> for Ended {
    fn from(ending: Ending) -> Self {
        Self {
            ago_seconds: ending.age().as_secs(),
            id: ending.id.to_string(),
            event: ending.event,
            kind: ending.kind.as_str(),
            status: ending.status,
            reason: ending.reason,
            exit_code: ending.exit_code,
            seconds: ending.took.as_secs_f64(),
        }
    }
}

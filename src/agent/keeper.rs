//! Keeps the proof of the walls around jobs young: has the canaries run at the start, after each change of what a proof
//! stands on, and once a day; says what the last one found.
//!
//! The monitor looks here each time it has looked at the engine. The canaries have a thread of their own, which lives as long
//! as they do. They begin only while a worker is free, and end when none is any more, so that no job waits for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use crate::config::Live;
use crate::config::changes::changes;
use crate::config::types::{Config, RequireProof};
use crate::docker;
use crate::executors::Reaper;
use crate::executors::container::ContainerExecutor;
use crate::executors::container::usage::Sampler;
use crate::health::{Component, DetailValue, HealthState, Reason, shortened};
use crate::jobs::poller::Slots;
use crate::jobs::status;
use crate::metrics::WarmEnd;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::proofs::due::{self, Ground, Last, Moment, Worthless};
use crate::proofs::finding::{Check, Grade};
use crate::proofs::{By, Prover};
use crate::signing::receipt::Facts;
use crate::wire::time::rfc3339;
use crate::{limits, metrics};

/// What the canaries of an agent are made with.
#[derive(Debug)]
pub struct Means {
    pub config: Live,
    pub docker: docker::Client,
    pub agent: String,
    /// Those that wait for jobs go where a wall was not found standing.
    pub containers: ContainerExecutor,
    pub slots: Slots,
    pub reaper: Reaper,
    pub sampler: Sampler,
    pub health: Arc<HealthState>,
}

/// Shared by clones.
#[derive(Debug, Clone)]
pub struct Keeper(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    means: Means,
    /// Ends the canaries.
    stop: Stop,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    ground: Ground,
    /// Whose changes `ground` counts.
    config: Arc<Config>,
    last: Option<Last>,
    /// When the last proof came to an end, for people.
    at: Option<SystemTime>,
    /// The start of the last attempt.
    tried: Option<(Instant, Ground)>,
    flight: Option<Thread>,
}

impl Keeper {
    /// Where a proof is required, nothing is claimed from here on before there is one.
    pub fn new(means: Means) -> Self {
        let config = means.config.now();
        let known = Known { ground: Ground::default(), config, last: None, at: None, tried: None, flight: None };
        let keeper = Self(Arc::new(Shared { means, stop: Stop::new(), known: Mutex::new(known) }));
        keeper.0.admit(&keeper.0.known());
        keeper
    }

    /// Takes over what a proof stands on, and decides whether jobs may be claimed. To be called before the engine counts as
    /// healthy.
    pub fn look(&self, engine_start: u64, engine_version: &str) {
        let mut known = self.0.known();
        let now = self.0.means.config.now();
        if !Arc::ptr_eq(&known.config, &now) {
            let changed = changes(&known.config, &now).taken;
            known.ground.settings += u64::from(changed.iter().any(|change| change.key.starts_with("container.")));
            known.config = now;
        }
        known.ground.engine_start = engine_start;
        known.ground.engine_version = engine_version.to_owned();
        known.ground.bridge = self.0.means.docker.bridge();
        self.0.say(&known);
    }

    /// Lets the canaries fly if they are due. `is_first`: the agent has just started, and its first poll comes first.
    pub fn begin(&self, is_first: bool) {
        let mut known = self.0.known();
        let mode = known.config.jobs.require_proof;
        if mode == RequireProof::Off || (is_first && mode == RequireProof::Warn) || self.0.stop.is_set() {
            return;
        }
        if known.flight.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let (slots, max_age) = (&self.0.means.slots, known.config.jobs.proof_max_age);
        let now = Instant::now();
        let moment = due::moment(now, max_age, known.last.as_ref(), known.tried.as_ref(), &known.ground);
        let may_begin = match moment {
            Moment::Later => false,
            Moment::Idle => slots.free() == slots.total(),
            Moment::Free => slots.free() > 0,
        };
        if !may_begin {
            return;
        }
        known.tried = Some((now, known.ground.clone()));
        let (shared, ground) = (Arc::clone(&self.0), known.ground.clone());
        match threads::spawn("proofs", move || shared.fly(ground)) {
            Ok(thread) => known.flight = Some(thread),
            Err(error) => log::error!("the walls around jobs cannot be proven: cannot start a thread: {error}"),
        }
    }

    /// Ends the canaries.
    pub fn stop(&self) {
        self.0.stop.set();
    }

    /// Waits for the end of the canaries, within a bound.
    pub fn join(&self) {
        let flight = self.0.known().flight.take();
        if let Some(thread) = flight {
            thread.join_within(limits::THREAD_JOIN_WAIT);
        }
    }

    /// What the last proof is worth for a job that begins now, for its receipt.
    pub fn facts(&self) -> Facts {
        let known = self.0.known();
        let Some(last) = &known.last else { return Facts::from([("proof".to_owned(), "none".to_owned())]) };
        let (word, why) = match known.worth() {
            Ok(()) => ("held", String::new()),
            Err(why @ Worthless::Failed(_)) => ("failed", why.to_string()),
            Err(why) => ("void", why.to_string()),
        };
        let at = known.at.map_or(String::new(), |at| rfc3339(at, 0));
        let age = last.at.elapsed().as_secs().to_string();
        let facts = [("proof", word.to_owned()), ("proofWhy", why), ("proofAt", at), ("proofAgeSeconds", age)];
        facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What `status` shows.
    pub fn shown(&self) -> status::Proofs {
        let known = self.0.known();
        let (why, failed) = match known.worth() {
            Ok(()) => (None, Vec::new()),
            Err(Worthless::Failed(walls)) => (None, walls.into_iter().map(shortened).collect()),
            Err(why) => (Some(why.to_string()), Vec::new()),
        };
        status::Proofs {
            required: known.config.jobs.require_proof.word().to_owned(),
            at: known.at.map(|at| rfc3339(at, 0)),
            age_seconds: known.last.as_ref().map(|last| last.at.elapsed().as_secs()),
            why_not: why,
            failed,
        }
    }
}

impl Known {
    fn worth(&self) -> Result<(), Worthless> {
        due::worth(Instant::now(), self.config.jobs.proof_max_age, self.last.as_ref(), &self.ground)
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One flight of the canaries, on its thread.
    fn fly(&self, ground: Ground) {
        let means = &self.means;
        let config = means.config.now();
        let halt = || match () {
            () if self.stop.is_set() => Some("the agent, which ends"),
            () if means.slots.free() == 0 => Some("the jobs, which need all workers"),
            () => None,
        };
        let prover = Prover {
            docker: &means.docker,
            config: &config,
            by: By::Agent(means.agent.clone()),
            reaper: means.reaper.clone(),
            sampler: means.sampler.clone(),
            jobs: Some(means.containers.clone()),
            halt: &halt,
        };
        let begun = Instant::now();
        let proof = prover.prove();
        if let Some(who) = proof.halted {
            log::info!("the canaries were ended by {who}; the proof is made later");
            return;
        }
        let failed = failures(&proof.checks);
        let count = proofs(&proof.checks).count();
        log::info!(
            "proof of the walls around jobs: {} of {count} hold, in {:.1} s, {:.1} s of one core",
            count.saturating_sub(failed.len()),
            begun.elapsed().as_secs_f64(),
            proof.used
        );
        if !failed.is_empty() {
            // They were made behind the same walls.
            means.containers.discard_warm(WarmEnd::Proof);
        }
        let is_unproven = !failed.is_empty() && failed.iter().all(|wall| wall.contains(": not proven: "));
        let mut known = self.known();
        if is_unproven && known.worth().is_ok() {
            log::warn!("the walls around jobs could not be proven anew; the last proof counts: {}", failed[0]);
            return;
        }
        if known.last.as_ref().is_none_or(|last| last.failed != failed) {
            tell(&failed, known.config.jobs.require_proof, is_unproven);
        }
        known.last = Some(Last { at: Instant::now(), ground, failed, is_unproven });
        known.at = Some(SystemTime::now());
        self.say(&known);
    }

    /// Closes or opens the door for claims.
    fn admit(&self, known: &Known) {
        match known.worth() {
            Err(why) if known.config.jobs.require_proof == RequireProof::Require => {
                self.means.health.not_ready(Reason::Proof, format!("{why} (jobs.requireProof: require)"));
            }
            _ => self.means.health.clear(Reason::Proof),
        }
    }

    /// Writes what is known to the health state and to the metrics.
    fn say(&self, known: &Known) {
        self.admit(known);
        let mode = known.config.jobs.require_proof;
        let worth = known.worth();
        let component = match &worth {
            Err(why @ (Worthless::Failed(_) | Worthless::Old { .. })) if mode != RequireProof::Off => {
                Component::degraded(why.to_string())
            }
            _ => Component::healthy(),
        };
        let text = |text: &str| DetailValue::Text(text.to_owned());
        let result = match &worth {
            _ if mode == RequireProof::Off => "none is made",
            Ok(()) => "all hold",
            Err(Worthless::Failed(_)) => "failed",
            Err(Worthless::Old { .. }) => "old",
            Err(Worthless::Void(_)) => "void",
            Err(Worthless::None) => "none yet",
        };
        let mut component = component.with("required", text(mode.word())).with("result", text(result));
        if let Some(last) = &known.last {
            component = component.with("ageSeconds", DetailValue::Number(last.at.elapsed().as_secs()));
        }
        self.means.health.set("proofs", component);
        if mode != RequireProof::Off {
            let held = known.last.as_ref().filter(|last| last.failed.is_empty()).and(known.at);
            metrics::proofs(known.last.as_ref().map(|last| last.failed.len()), held);
        }
    }
}

fn proofs(checks: &[Check]) -> impl Iterator<Item = &Check> {
    checks.iter().filter(|check| check.name.starts_with("proof-"))
}

/// Each wall that was not found standing, with what to do. One that the configuration opens is among them.
fn failures(checks: &[Check]) -> Vec<String> {
    let strict = proofs(checks).map(|check| (check.name, check.finding.clone().strictly()));
    let failed = strict.filter(|(_, finding)| finding.grade == Grade::Fail);
    failed.map(|(name, finding)| format!("{name}: {}; {}", finding.measured, finding.hint)).collect()
}

/// Writes each to the log; of those that came to nothing, which have one cause, the first.
fn tell(failed: &[String], mode: RequireProof, is_unproven: bool) {
    let level = if mode == RequireProof::Require { log::Level::Error } else { log::Level::Warn };
    if is_unproven {
        let first = failed.first().map_or("", String::as_str);
        return log::log!(level, "the walls around jobs could not be proven, {} of them: {first}", failed.len());
    }
    for wall in failed {
        log::log!(level, "a wall around jobs was not found standing: {wall}");
    }
}

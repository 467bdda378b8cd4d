//! Runs the canaries: containers that try what a job must not be able to do.
//!
//! A canary is a job in everything but its labels: the executor of jobs makes, feeds, follows and removes it by the same
//! code, so a proof holds for jobs. Several run side by side. Each ends within a limit, or at a halt. Its container has no
//! label of a job, so that one which a kill left behind is removed by age, and nobody adopts it.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Instant;

use super::By;
use super::facts::{NotRun, Ran};
use crate::config::types::{Config, PullPolicy};
use crate::docker;
use crate::executors::container::ContainerExecutor;
use crate::executors::container::usage::Sampler;
use crate::executors::{Control, End, Executor as _, Reaper, Task};
use crate::job::{Id, Job, Kind, Language, Output, Resources, Script, Stream};
use crate::limits;
use crate::os::threads;
use crate::policy::stop::{Pace, Reason};
use crate::secret::Secret;
use crate::verdict::Cause;

/// The agent id of the doctor's canaries. A running agent leaves them alone.
pub(super) const DOCTOR: &str = "doctor";

/// The end of a canary that has shown enough.
pub(super) const SEEN: &str = "the proofs, which have seen enough";

impl By {
    /// The agent's id in the labels of the canaries.
    pub(super) fn label(&self) -> &str {
        match self {
            Self::Doctor => DOCTOR,
            Self::Agent(id) => id,
        }
    }
}

/// One script to try.
pub(super) struct Canary {
    pub(super) name: &'static str,
    pub(super) language: Language,
    script: &'static str,
    environment: Vec<(&'static str, String)>,
    pub(super) resources: Resources,
}

impl Canary {
    /// One in Bash, with its share of a core.
    pub(super) fn new(name: &'static str, script: &'static str) -> Self {
        let share = limits::PROOF_SHARES.iter().find(|(canary, _)| *canary == name).map(|(_, share)| *share);
        let resources = Resources { cpu: share, ..Resources::default() };
        Self { name, language: Language::Bash, script, environment: Vec::new(), resources }
    }

    /// The same in Python.
    pub(super) fn python(name: &'static str, script: &'static str) -> Self {
        Self { language: Language::Python, ..Self::new(name, script) }
    }

    pub(super) fn set(mut self, name: &'static str, value: impl ToString) -> Self {
        self.environment.push((name, value.to_string()));
        self
    }
}

/// Keeps the output up to a cap, and sends the first line as soon as it is complete.
struct Heard {
    out: Vec<u8>,
    err: Vec<u8>,
    first: Option<SyncSender<String>>,
}

impl Output for Heard {
    fn bytes(&mut self, stream: Stream, data: &[u8]) {
        let kept = if stream == Stream::Stdout { &mut self.out } else { &mut self.err };
        let room = limits::PROOF_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if let Some(end) = self.out.iter().position(|byte| *byte == b'\n')
            && let Some(first) = self.first.take()
        {
            let _ = first.try_send(String::from_utf8_lossy(&self.out[..end]).into_owned());
        }
    }

    fn system(&mut self, _text: &str) {}

    fn settle(&mut self) {}
}

/// What all canaries share.
pub(super) struct Cage<'a> {
    pub(super) executor: ContainerExecutor,
    pub(super) reaper: Reaper,
    /// The word in the names of this run.
    pub(super) word: String,
    /// When all of them must have ended.
    pub(super) until: Instant,
    pub(super) halt: &'a dyn Fn() -> Option<&'static str>,
    /// Controls of all canaries so far, and who ended them.
    pub(super) launched: RefCell<(Vec<Arc<Control>>, Option<&'static str>)>,
}

/// A canary that runs, on a thread.
pub(super) struct Flying {
    pub(super) control: Arc<Control>,
    ended: Receiver<Result<Ran, NotRun>>,
}

impl Cage<'_> {
    /// Starts a canary; the first line that it prints goes to `first`.
    pub(super) fn launch(&self, canary: Canary, first: Option<SyncSender<String>>) -> Flying {
        let pace = Pace { grace: limits::PROOF_GRACE, again: limits::KILL_AGAIN, patience: limits::KILL_PATIENCE };
        let control = self.reaper.control(pace);
        let (sender, ended) = sync_channel(1);
        self.launched.borrow_mut().0.push(Arc::clone(&control));
        if let Some(who) = self.halted() {
            control.request(Reason::Cancelled(who));
        }
        let (executor, own, task) = (self.executor.clone(), Arc::clone(&control), task(canary, &self.word));
        let failed = sender.clone();
        let started = threads::spawn("proof-canary", move || {
            let _ = sender.send(fly(&executor, &own, &task, first));
        });
        if let Err(error) = started {
            let _ = failed.try_send(Err(format!("cannot start a thread: {error}")));
        }
        Flying { control, ended }
    }

    /// Waits for the end of a canary.
    pub(super) fn land(&self, flying: Flying) -> Result<Ran, NotRun> {
        let late = || format!("not over within {:?} (limits::PROOF_CANARIES)", limits::PROOF_CANARIES);
        self.hear(&flying.ended).ok_or_else(late)?
    }

    /// Waits for a word of a canary; `None` where none comes.
    pub(super) fn hear<T>(&self, from: &Receiver<T>) -> Option<T> {
        loop {
            self.halted();
            let left = self.until.saturating_duration_since(Instant::now());
            match from.recv_timeout(left.min(limits::PROOF_TICK)) {
                Ok(word) => return Some(word),
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                Err(_) => return None,
            }
        }
    }

    /// Who ended all canaries before their time; asks, and ends them.
    pub(super) fn halted(&self) -> Option<&'static str> {
        let mut launched = self.launched.borrow_mut();
        if launched.1.is_none()
            && let Some(who) = (self.halt)()
        {
            launched.1 = Some(who);
            launched.0.iter().for_each(|control| control.request(Reason::Cancelled(who)));
        }
        launched.1
    }
}

/// The way that every job goes.
fn fly(
    executor: &ContainerExecutor,
    control: &Arc<Control>,
    task: &Task,
    first: Option<SyncSender<String>>,
) -> Result<Ran, NotRun> {
    let mut heard = Heard { out: Vec::new(), err: Vec::new(), first };
    let ready = executor.prepare(task, control, &mut heard).map_err(|outcome| outcome.verdict.message)?;
    let limits = ready.reattach_info().limits.ok_or("the executor tells no limits")?;
    let End::Outcome(outcome, _) = ready.run(task, &mut heard) else { return Err("it was left to itself".to_owned()) };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (cause, message) = (outcome.verdict.cause, outcome.verdict.message);
    if matches!(cause, Cause::Infrastructure | Cause::Refused) || matches!(cause, Cause::Cancelled(who) if who != SEEN)
    {
        return Err(message);
    }
    let used = outcome.usage.cpu_seconds;
    Ok(Ran { out: text(heard.out), err: text(heard.err), cause, message, limits, used })
}

/// The id of a canary; its container's name holds it.
pub(super) fn name(word: &str, canary: &str) -> String {
    format!("proof-{word}-{canary}")
}

fn task(canary: Canary, word: &str) -> Task {
    let id = |text: String| Id::parse(&text).unwrap_or_else(|_| unreachable!("made of letters and hex"));
    let name = name(word, canary.name);
    let secret = |(name, value): (&'static str, String)| (name.to_owned(), Secret::new(value));
    let job = Job {
        id: id(name.clone()),
        kind: Kind::Container,
        servers: Vec::new(),
        priority: 0,
        attempts: 0,
        script: Script {
            language: canary.language,
            content: canary.script.to_owned(),
            working_directory: String::new(),
        },
        http: None,
        environment: canary.environment.into_iter().map(secret).collect(),
        timeout: Some(limits::PROOF_CANARY),
        resources: canary.resources,
        event: Default::default(),
        input: Default::default(),
        original_type: None,
        signature: None,
    };
    Task { job: Arc::new(job), server: None, execution: id(format!("{name}-1")), helpers: None }
}

/// The configuration of jobs, with waits that a person can bear and without pulls, or with those that a first job would make.
fn settings(config: &Config, by: &By) -> Config {
    let mut config = config.clone();
    config.jobs.max_timeout = config.jobs.max_timeout.max(limits::PROOF_CANARY);
    match by {
        By::Doctor => {
            config.container.pull_policy = PullPolicy::Never;
            config.jobs.setup_timeout = config.jobs.setup_timeout.min(limits::PROOF_SETUP);
            config.jobs.cleanup_timeout = config.jobs.cleanup_timeout.min(limits::PROOF_SETUP);
        }
        By::Agent(_) if config.container.pull_policy == PullPolicy::Always => {
            config.container.pull_policy = PullPolicy::IfNotPresent;
        }
        By::Agent(_) => {}
    }
    config
}

/// The executor of jobs with [`settings`]. Where the doctor's own limit applies, errors name that one.
pub(super) fn executor(docker: docker::Client, config: &Config, by: &By, sampler: Sampler) -> ContainerExecutor {
    let executor = ContainerExecutor::of_canaries(docker, &settings(config, by), by.label(), sampler);
    if *by != By::Doctor || config.jobs.setup_timeout <= limits::PROOF_SETUP {
        return executor;
    }
    executor.with_setup_called("limits::PROOF_SETUP; a job has jobs.setupTimeout")
}

#[cfg(test)]
#[path = "canaries_tests.rs"]
mod tests;

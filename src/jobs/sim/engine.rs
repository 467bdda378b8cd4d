//! The simulated engine behind the executor's seam: containers with a script's life written down beforehand, which
//! outlive the agent, and calls that fail.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::docker::containers::State;
use crate::executors::container::janitor::Found;
use crate::executors::container::labels::Told;
use crate::executors::container::spec::container_name;
use crate::executors::control::{Signal, Target};
use crate::executors::ending::stopped;
use crate::executors::{AdoptError, CleanupGuard, Control, End, Executor, Prepared, ReattachInfo, Task};
use crate::job::{Id, Output, Stream};
use crate::jobs::conclude::unrun;
use crate::jobs::reconcile::{Engine as Containers, RemoveError};
use crate::limits;
use crate::os::clock;
use crate::os::sim::Sim;
use crate::policy::stop::Reason;
use crate::verdict::{Cause, Outcome, Phase, Verdict};
use crate::wire::time::rfc3339;

/// The time limit of every job.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// What a script does when it is let.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) lines: u64,
    /// From one line to the next.
    pub(super) pace: Duration,
    pub(super) exit_code: i32,
    /// Whether it ends on TERM, or only on KILL.
    pub(super) yields: bool,
}

impl Script {
    pub(super) fn length(&self) -> Duration {
        self.pace * u32::try_from(self.lines + 1).unwrap_or(u32::MAX)
    }

    /// The first `count` lines as they are printed.
    pub(super) fn text(job: &str, count: u64) -> String {
        (1..=count).map(|number| format!("{job} line {number}\n")).collect()
    }
}

#[derive(Debug, Clone)]
struct Container {
    job: String,
    execution: Id,
    script: Script,
    made: Duration,
    started: Option<Duration>,
    /// When a signal ended it, and its exit code then.
    signalled: Option<(Duration, i32)>,
}

impl Container {
    /// When it ends, and with which exit code.
    fn end(&self) -> Option<(Duration, i32)> {
        let by_itself = (self.started? + self.script.length(), self.script.exit_code);
        match self.signalled {
            Some(signalled) if signalled.0 < by_itself.0 => Some(signalled),
            _ => Some(by_itself),
        }
    }

    fn lines_at(&self, now: Duration) -> u64 {
        let (Some(started), Some((end, _))) = (self.started, self.end()) else { return 0 };
        let ran = now.min(end).saturating_sub(started);
        u64::try_from(ran.as_nanos() / self.script.pace.as_nanos()).unwrap_or(0).min(self.script.lines)
    }
}

#[derive(Debug, Default)]
struct Inner {
    scripts: BTreeMap<String, Script>,
    containers: BTreeMap<String, Container>,
    /// How often each job's script was started.
    starts: BTreeMap<String, u32>,
    /// Thousandths of calls that fail.
    failing: u64,
    away: Vec<(Duration, Duration)>,
    faults: u64,
}

/// The engine; clones are the same one.
#[derive(Clone)]
pub(super) struct Engine {
    sim: Sim,
    inner: Arc<Mutex<Inner>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engine")
    }
}

impl Engine {
    pub(super) fn new(sim: &Sim, failing: u64, away: Vec<(Duration, Duration)>) -> Self {
        let inner = Inner { failing, away, ..Inner::default() };
        Self { sim: sim.clone(), inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn plan(&self, job: &str, script: Script) {
        self.lock().scripts.insert(job.to_owned(), script);
    }

    pub(super) fn calm(&self) {
        let mut inner = self.lock();
        (inner.failing, inner.away) = (0, Vec::new());
    }

    pub(super) fn faults(&self) -> u64 {
        self.lock().faults
    }

    pub(super) fn starts(&self, job: &str) -> u32 {
        self.lock().starts.get(job).copied().unwrap_or(0)
    }

    /// The containers that are there.
    pub(super) fn names(&self) -> Vec<String> {
        self.lock().containers.keys().cloned().collect()
    }

    /// A call: takes a moment, and fails now and then, before the deed or after it.
    fn call<T>(&self, what: &'static str, deed: impl FnOnce(&mut Inner) -> T) -> Result<T, String> {
        let sim = &self.sim;
        sim.step(what);
        sim.sleep(Duration::from_millis(1 + sim.below(30)));
        let (failing, away) = {
            let inner = self.lock();
            let now = sim.elapsed();
            (inner.failing, inner.away.iter().any(|(from, to)| (*from..*to).contains(&now)))
        };
        if sim.is_killed() {
            return Err("killed".to_owned());
        }
        if away || sim.chance(failing) {
            self.lock().faults += 1;
            sim.trace(format!("engine: {what} fails"));
            return Err(format!("{what}: the engine does not answer"));
        }
        let done = deed(&mut self.lock());
        sim.trace(format!("engine: {what}"));
        sim.step(what);
        Ok(done)
    }

    /// By this host's wall clock, as an engine tells it.
    fn told_time(&self, at: Duration) -> String {
        rfc3339(self.sim.wall() - (self.sim.elapsed().saturating_sub(at)), 9)
    }

    /// Tried until it is done, as long as there is an agent.
    fn remove_for_sure(&self, name: &str) {
        while !self.sim.is_killed() {
            if self.call("remove", |inner| inner.containers.remove(name)).is_ok() {
                return;
            }
            self.sim.sleep(limits::REMOVE_DELAY);
        }
    }
}

/// A container that is made, or found again.
struct Ready {
    engine: Engine,
    name: String,
    control: Arc<Control>,
    info: ReattachInfo,
    /// What is left of the time limit, where it was found again.
    adopted: Option<Duration>,
    kept: bool,
}

impl Drop for Ready {
    fn drop(&mut self) {
        if !self.kept {
            self.engine.remove_for_sure(&self.name);
        }
    }
}

struct Signalled(Engine, String);

impl Target for Signalled {
    fn signal(&self, signal: Signal) -> Result<(), String> {
        let now = self.0.sim.elapsed();
        self.0.call("kill", |inner| {
            let Some(container) = inner.containers.get_mut(&self.1) else { return };
            let ends = match signal {
                Signal::Term if container.script.yields => Some((now + Duration::from_millis(200), 143)),
                Signal::Term => None,
                Signal::Kill => Some((now, 137)),
            };
            if let Some(ends) = ends {
                container.signalled.get_or_insert(ends);
            }
        })
    }
}

fn infrastructure(phase: Phase, why: String) -> Box<Outcome> {
    Box::new(unrun(Verdict::infrastructure(phase, why)))
}

impl Prepared for Ready {
    fn reattach_info(&self) -> ReattachInfo {
        self.info.clone()
    }

    fn run(mut self: Box<Self>, _task: &Task, output: &mut dyn Output) -> End {
        if self.adopted.is_none() {
            if let Some(reason) = self.control.reason() {
                self.control.end();
                return End::Outcome(Box::new(unrun(stopped(&reason, None))), CleanupGuard::of(self));
            }
            if !self.control.begin() {
                return End::NeverRan(CleanupGuard::of(self));
            }
            let now = self.engine.sim.elapsed();
            let started = self.engine.call("start", |inner| {
                let Some(container) = inner.containers.get_mut(&self.name) else { return };
                container.started = Some(now);
                *inner.starts.entry(container.job.clone()).or_default() += 1;
            });
            if let Err(why) = started {
                self.control.end();
                return End::Outcome(infrastructure(Phase::Setup, why), CleanupGuard::of(self));
            }
        }
        let (after, limit) = self.info.timeout;
        let timeout = Reason::Timeout { limit, after };
        let found_ended = self.ended_for();
        if found_ended.is_none() {
            let left = self.adopted.unwrap_or(after);
            self.control.set_deadline(clock::now() + left, timeout.clone());
            self.control.set_target(Arc::new(Signalled(self.engine.clone(), self.name.clone())));
        }
        let Some(exit_code) = self.follow(output) else {
            self.kept = true;
            return End::Detached;
        };
        self.control.end();
        let verdict = match (self.control.reason().filter(|_| self.control.sent().is_some()), found_ended) {
            (Some(reason), _) => stopped(&reason, self.control.sent()),
            (None, Some(ran)) if ran >= after && exit_code == 143 => stopped(&timeout, Some(Signal::Term)),
            (None, Some(ran)) if ran >= after && exit_code == 137 => stopped(&timeout, Some(Signal::Kill)),
            _ => Verdict {
                phase: Phase::Execution,
                cause: if exit_code == 0 { Cause::Success } else { Cause::Exit },
                exit_code,
                message: format!("the script ended with exit code {exit_code}"),
            },
        };
        End::Outcome(Box::new(unrun(verdict)), CleanupGuard::of(self))
    }
}

impl Ready {
    /// How long it ran, where it has ended already.
    fn ended_for(&self) -> Option<Duration> {
        let inner = self.engine.lock();
        let container = inner.containers.get(&self.name)?;
        let (end, _) = container.end().filter(|(end, _)| *end <= self.engine.sim.elapsed())?;
        Some(end.saturating_sub(container.started?))
    }

    /// Reads to the end; `None` when it is left to the next agent.
    fn follow(&self, output: &mut dyn Output) -> Option<i32> {
        let sim = &self.engine.sim;
        let mut read = 0;
        loop {
            if self.control.is_detached() || sim.is_killed() {
                return None;
            }
            let container = self.engine.lock().containers.get(&self.name).cloned()?;
            let now = sim.elapsed();
            let lines = container.lines_at(now);
            if lines > read {
                let text = Script::text(&container.job, lines);
                let known = Script::text(&container.job, read).len();
                output.bytes(Stream::Stdout, &text.as_bytes()[known..]);
                output.settle();
                read = lines;
            }
            match container.end() {
                Some((end, exit_code)) if end <= now => return Some(exit_code),
                _ => sim.pause(container.script.pace.min(limits::FOLLOW_TICK)),
            }
        }
    }
}

impl Executor for Engine {
    fn adopt(
        &self,
        _task: &Task,
        info: &ReattachInfo,
        left: Duration,
        control: &Arc<Control>,
    ) -> Result<Box<dyn Prepared>, AdoptError> {
        let found = self.call("inspect", |inner| inner.containers.get(&info.place).cloned());
        let container = found.map_err(AdoptError::Unreachable)?;
        let container = container.ok_or_else(|| AdoptError::Gone("its container is gone".to_owned()))?;
        let (name, engine, control) = (info.place.clone(), self.clone(), Arc::clone(control));
        let ready = Ready { engine, name, control, info: info.clone(), adopted: Some(left), kept: false };
        if container.started.is_none() {
            return Err(AdoptError::NotStarted(CleanupGuard::of(ready)));
        }
        Ok(Box::new(ready))
    }

    fn prepare(
        &self,
        task: &Task,
        control: &Arc<Control>,
        _output: &mut dyn Output,
    ) -> Result<Box<dyn Prepared>, Box<Outcome>> {
        let name = container_name(&task.execution);
        let job = task.job.id.to_string();
        let now = self.sim.elapsed();
        let made = self.call("create", |inner| {
            let script = inner.scripts[&job].clone();
            let (execution, made) = (task.execution.clone(), now);
            let container = Container { job, execution, script, made, started: None, signalled: None };
            inner.containers.insert(name.clone(), container);
        });
        made.map_err(|why| infrastructure(Phase::Setup, why))?;
        let info = ReattachInfo {
            place: name.clone(),
            image: "image".to_owned(),
            limits: None,
            timeout: (LIMIT, "jobs.defaultTimeout"),
            warm: None,
        };
        Ok(Box::new(Ready {
            engine: self.clone(),
            name,
            control: Arc::clone(control),
            info,
            adopted: None,
            kept: false,
        }))
    }
}

impl Engine {
    fn state_of(&self, container: &Container) -> State {
        let ended = container.end().filter(|(end, _)| *end <= self.sim.elapsed());
        let status = match (container.started, ended) {
            (None, _) => "created",
            (_, None) => "running",
            _ => "exited",
        };
        State {
            running: status == "running",
            status: status.to_owned(),
            pid: 0,
            exit_code: ended.map_or(0, |(_, code)| i64::from(code)),
            oom_killed: false,
            error: String::new(),
            started_at: container.started.map(|at| self.told_time(at)).unwrap_or_default(),
            finished_at: String::new(),
        }
    }
}

impl Containers for Engine {
    fn containers(&self) -> Result<Vec<Found>, String> {
        let all = self.call("list", |inner| inner.containers.clone())?;
        let found = |(name, container): (String, Container)| Found {
            id: name.clone(),
            name,
            state: self.state_of(&container).status,
            age: self.sim.elapsed().saturating_sub(container.made),
            created: i64::try_from(container.made.as_secs()).unwrap_or(0),
            told: Told {
                job: Id::parse(&container.job).ok(),
                execution: Some(container.execution),
                timeout: Some((LIMIT, "jobs.defaultTimeout".to_owned())),
                ..Told::default()
            },
            of_exec: false,
            warm: false,
        };
        Ok(all.into_iter().map(found).collect())
    }

    fn state(&self, id: &str) -> Result<Option<State>, String> {
        Ok(self.call("inspect", |inner| inner.containers.get(id).cloned())?.map(|container| self.state_of(&container)))
    }

    fn remove(&self, found: &Found) -> Result<(), RemoveError> {
        let removed = self.call("remove", |inner| inner.containers.remove(&found.id));
        removed.map(drop).map_err(|why| RemoveError { engine_is_silent: false, why })
    }
}

//! Runs the canaries: containers that try what a job must not be able to do.
//!
//! A canary is a job in everything: the executor of jobs makes, feeds, follows and removes it by the same code, so a proof
//! holds for jobs. Several run side by side. Each ends within a limit, or at a signal. At the end the engine is asked
//! whether one is left.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::backend;
use super::facts::{Found, Listener, NotRun, Ran};
use super::proofs;
use super::report::{Check, Finding, named};
use crate::cli::exec::no_thread;
use crate::config::types::{Config, DockerEndpoint, PullPolicy};
use crate::docker;
use crate::executors::container::ContainerExecutor;
use crate::executors::container::janitor::Janitor;
use crate::executors::container::labels;
use crate::executors::container::usage::Sampler;
use crate::executors::{Control, End, Executor as _, Reaper, Task};
use crate::job::{Id, Job, Kind, Language, Output, Resources, Script, Stream};
use crate::limits;
use crate::os::clock::Deadline;
use crate::os::pulse::Pulse;
use crate::os::signals::Signals;
use crate::os::threads;
use crate::os::{net, random};
use crate::policy::stop::{Pace, Reason};
use crate::secret::Secret;
use crate::verdict::Cause;

/// The agent id of canaries. No agent has it, so a running agent leaves them alone.
const AGENT: &str = "doctor";

/// Where clouds serve a machine's credentials.
const CLOUD: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// One script to try.
struct Canary {
    name: &'static str,
    language: Language,
    script: &'static str,
    environment: Vec<(&'static str, String)>,
    resources: Resources,
}

impl Canary {
    fn new(name: &'static str, script: &'static str) -> Self {
        let resources = Resources::default();
        Self { name, language: Language::Bash, script, environment: Vec::new(), resources }
    }

    fn set(mut self, name: &'static str, value: impl ToString) -> Self {
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
        let room = limits::DOCTOR_OUTPUT.saturating_sub(kept.len());
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
struct Cage {
    executor: ContainerExecutor,
    reaper: Reaper,
    /// Controls of all canaries so far, and whether a signal came: then no further one is started.
    controls: Arc<Mutex<(Vec<Arc<Control>>, bool)>>,
    /// The word in the ids of this run.
    word: String,
    /// When all of them must have ended.
    until: Instant,
}

/// A canary that runs, on its own thread.
struct Flying {
    control: Arc<Control>,
    ended: Receiver<Result<Ran, NotRun>>,
    /// The same moment for all.
    until: Instant,
}

impl Flying {
    fn land(self) -> Result<Ran, NotRun> {
        let late = |_| format!("not over within {:?} (limits::DOCTOR_CANARIES)", limits::DOCTOR_CANARIES);
        self.ended.recv_timeout(self.until.saturating_duration_since(Instant::now())).map_err(late)?
    }
}

impl Cage {
    fn launch(&self, canary: Canary, first: Option<SyncSender<String>>) -> Flying {
        let pace = Pace { grace: limits::DOCTOR_GRACE, again: limits::KILL_AGAIN, patience: limits::KILL_PATIENCE };
        let control = self.reaper.control(pace);
        let (sender, ended) = sync_channel(1);
        let mut controls = self.controls.lock().unwrap_or_else(PoisonError::into_inner);
        controls.0.push(Arc::clone(&control));
        if controls.1 {
            control.request(Reason::Cancelled(SIGNAL));
        }
        drop(controls);
        let (executor, own, task) = (self.executor.clone(), Arc::clone(&control), task(canary, &self.word));
        let failed = sender.clone();
        let started = threads::spawn("doctor-canary", move || {
            let _ = sender.send(fly(&executor, &own, &task, first));
        });
        if let Err(error) = started {
            let _ = failed.try_send(Err(no_thread(error)));
        }
        Flying { control, ended, until: self.until }
    }
}

const SIGNAL: &str = "a signal to this command";

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
    if matches!(cause, Cause::Infrastructure | Cause::Refused)
        || matches!(cause, Cause::Cancelled(who) if who == SIGNAL)
    {
        return Err(message);
    }
    Ok(Ran { out: text(heard.out), err: text(heard.err), cause, message, limits })
}

fn task(canary: Canary, word: &str) -> Task {
    let id = |text: String| Id::parse(&text).unwrap_or_else(|_| unreachable!("made of letters and hex"));
    let name = format!("{AGENT}-{word}-{}", canary.name);
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
        timeout: Some(limits::DOCTOR_CANARY),
        resources: canary.resources,
        event: Default::default(),
        input: Default::default(),
        original_type: None,
        signature: None,
    };
    Task { job: Arc::new(job), server: None, execution: id(format!("{name}-1")), helpers: None }
}

/// The configuration of jobs, without pulls and with waits that a person can bear.
fn settings(config: &Config) -> Config {
    let mut config = config.clone();
    config.container.pull_policy = PullPolicy::Never;
    config.jobs.setup_timeout = config.jobs.setup_timeout.min(limits::DOCTOR_SETUP);
    config.jobs.cleanup_timeout = config.jobs.cleanup_timeout.min(limits::DOCTOR_SETUP);
    config.jobs.max_timeout = config.jobs.max_timeout.max(limits::DOCTOR_CANARY);
    config
}

/// The executor of jobs with [`settings`]. Where the doctor's own limit applies, errors name that one.
fn executor(docker: docker::Client, config: &Config, sampler: Sampler) -> ContainerExecutor {
    let executor = ContainerExecutor::new(docker, &settings(config), AGENT, sampler);
    if config.jobs.setup_timeout <= limits::DOCTOR_SETUP {
        return executor;
    }
    executor.with_setup_called("limits::DOCTOR_SETUP; a job has jobs.setupTimeout")
}

/// Runs all canaries and judges what they found. Every proof has a line, whatever happens.
pub(super) fn checks(docker: &docker::Client, config: &Config, signals: &Signals) -> Vec<Check> {
    match prove(docker, config, signals) {
        Ok(checks) => checks,
        Err(why) => not_proven(&why),
    }
}

/// The lines of proofs for which no canary ran.
pub(super) fn not_proven(why: &str) -> Vec<Check> {
    let mut findings = vec![proofs::not_proven(&format!("see {}", proofs::NAMES[0])); proofs::NAMES.len()];
    findings[0] = proofs::not_proven(why);
    let mut checks = named(&proofs::NAMES, findings);
    checks.push(Finding::ok("no container was made").of(proofs::CLEANUP));
    checks
}

fn prove(docker: &docker::Client, config: &Config, signals: &Signals) -> Result<Vec<Check>, NotRun> {
    sweep(docker);
    let (reaper, reaper_thread) = Reaper::start(Pulse::unwatched()).map_err(no_thread)?;
    let (sampler, sampler_thread) = Sampler::start(docker.clone()).map_err(no_thread)?;
    let executor = executor(docker.clone(), config, sampler.clone());
    let controls = Arc::<Mutex<(Vec<Arc<Control>>, bool)>>::default();
    let on_signal = Arc::clone(&controls);
    let watch = signals.on_termination(move || {
        let mut controls = on_signal.lock().unwrap_or_else(PoisonError::into_inner);
        controls.1 = true;
        controls.0.iter().for_each(|control| control.request(Reason::Cancelled(SIGNAL)));
    });
    let watch = watch.map_err(no_thread)?;
    // Makes the network before several canaries ask for it at once.
    let warm = executor.warm_up().map_err(|error| error.to_string());
    let until = Instant::now() + limits::DOCTOR_CANARIES;
    let cage = Cage { executor, reaper, controls, word: random::hex(6), until };
    let found = warm.map(|()| fly_all(&cage, docker, config));
    cage.executor.sweep();
    drop(watch);
    cage.reaper.stop();
    sampler.stop();
    for thread in [reaper_thread, sampler_thread] {
        thread.join_within(limits::THREAD_JOIN_WAIT);
    }
    let mut checks = proofs::judge(&found?, &config.container);
    checks.push(left_behind(docker, &cage.word).of(proofs::CLEANUP));
    Ok(checks)
}

fn fly_all(cage: &Cage, docker: &docker::Client, config: &Config) -> Found {
    let (first, line) = sync_channel(1);
    let wait = limits::DOCTOR_CANARY.as_secs();
    let listen = Canary { language: Language::Python, ..Canary::new("listen", include_str!("listen.py")) };
    let listener = cage.launch(listen.set("WAIT", wait), Some(first));
    let resources = Resources { memory: Some(limits::DOCTOR_MEMORY), ..Resources::default() };
    let memory = Canary { resources, ..Canary::new("memory", include_str!("memory.sh")) };
    let memory = memory.set("FITS", limits::DOCTOR_MEMORY_FITS).set("MORE", limits::DOCTOR_MEMORY_MORE);
    let memory = cage.launch(memory, None);
    let resources = Resources { pids: Some(limits::DOCTOR_PIDS), ..Resources::default() };
    let pids = Canary { resources, ..Canary::new("processes", include_str!("pids.sh")) };
    let pids = cage.launch(pids.set("MORE", limits::DOCTOR_PIDS_MORE), None);
    let resources = Resources { cpu: Some(limits::DOCTOR_CPU), ..Resources::default() };
    let cpu = cage.launch(Canary { resources, ..Canary::new("cores", include_str!("cpu.sh")) }, None);
    let cloud = knock(CLOUD.into(), 80);
    let outside = Some(config).filter(|config| config.container.network.internal);
    let outside = outside.and_then(|config| backend::outside(&config.api)).filter(|at| knock(at.ip(), at.port()));
    let locks = cage.launch(locks(config, outside), None);

    let calls = Canary { language: Language::Python, ..Canary::new("calls", include_str!("calls.py")) };
    let calls = cage.launch(calls, None);
    // The kernel completes a connect to it: nobody needs to take it.
    let here = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).ok();

    // While the others run: one that tries to reach the listener.
    let heard = line.recv_timeout(limits::DOCTOR_CANARY + limits::DOCTOR_SETUP).ok();
    let listening = heard.as_deref().and_then(Listener::read);
    let (reached, host) = match &listening {
        Some(listener) => {
            let reach = Canary::new("reach", include_str!("reach.sh"));
            let peer = listener.address.map_or_else(|| "127.0.0.1".to_owned(), |address| address.to_string());
            let reach = reach.set("PEER", peer).set("PORT", listener.port);
            let port = here.as_ref().and_then(|here| here.local_addr().ok()).map_or(0, |at| at.port());
            let port = if docker.is_local() && port > 0 { port.to_string() } else { String::new() };
            let flying = cage.launch(reach.set("HOST_PORT", port), None);
            let host = listener.address.filter(|_| docker.is_local()).map(|ip| knock(ip, listener.port));
            (Some(flying.land()), host)
        }
        None => (None, None),
    };
    listener.control.request(Reason::Cancelled("the doctor, who has seen enough"));
    let listener = listener.land();
    let listening = listening.ok_or_else(|| match &listener {
        Ok(ran) => format!("the canary that listens said nothing usable: {} {} {}", ran.out, ran.err, ran.message),
        Err(why) => why.clone(),
    });
    Found {
        locks: locks.land(),
        memory: memory.land(),
        pids: pids.land(),
        cpu: cpu.land(),
        calls: calls.land(),
        listening,
        listener,
        reached: reached.unwrap_or_else(|| Err("there was nobody to reach".to_owned())),
        host_reaches: host,
        host_reaches_cloud: cloud,
    }
}

/// The canary that tries all locks one after the other.
fn locks(config: &Config, outside: Option<SocketAddr>) -> Canary {
    let (socket, host, port) = match &config.container.docker.endpoint {
        DockerEndpoint::Unix(path) => (path.display().to_string(), String::new(), String::new()),
        DockerEndpoint::Tcp(host, port) => (String::new(), host.clone(), port.to_string()),
    };
    let canary = Canary::new("locks", include_str!("locks.sh"));
    let canary = canary.set("ENGINE", socket).set("HOST", host).set("PORT", port);
    let text = |part: fn(SocketAddr) -> String| outside.map_or_else(String::new, part);
    let canary = canary.set("OUTSIDE", text(|at| at.ip().to_string()));
    let canary = canary.set("OUTSIDE_PORT", text(|at| at.port().to_string()));
    if !config.container.security.readonly_rootfs {
        // There is no tmpfs: the agent would end the canary for its disk, and the other findings would be lost.
        return canary.set("FITS", "").set("MORE", "");
    }
    let resources = Resources { disk: Some(limits::DOCTOR_DISK), ..Resources::default() };
    let canary = Canary { resources, ..canary };
    canary.set("FITS", limits::DOCTOR_DISK_FITS).set("MORE", limits::DOCTOR_DISK_MORE)
}

/// Whether this host reaches the canary that listens.
fn knock(address: IpAddr, port: u16) -> bool {
    let deadline = Deadline::after(limits::DOCTOR_REACH, "limits::DOCTOR_REACH");
    net::connect(&[SocketAddr::new(address, port)], deadline).is_ok()
}

/// Removes what a killed doctor left.
fn sweep(docker: &docker::Client) {
    let janitor = Janitor::new(docker.clone(), AGENT, limits::JANITOR_GRACE);
    for found in janitor.find(&|_, _| false).unwrap_or_default() {
        if found.told.job.as_ref().is_some_and(|job| job.as_str().starts_with("doctor-")) {
            let _ = janitor.remove(&found);
        }
    }
}

/// Asks the engine whether a canary of this run is left.
fn left_behind(docker: &docker::Client, word: &str) -> Finding {
    let rows = match docker.list(&labels::of_agent(AGENT)) {
        Ok(rows) => rows,
        Err(error) => return Finding::unknown(error.to_string()),
    };
    let ours = format!("{AGENT}-{word}-");
    let left: Vec<String> = rows
        .into_iter()
        .filter(|row| row.labels.get(labels::JOB).is_some_and(|job| job.starts_with(&ours)))
        .map(|row| docker::containers::short(&row.id).to_owned())
        .collect();
    if left.is_empty() {
        return Finding::ok("every container made here is removed");
    }
    Finding::fail(format!("left in the engine: {}", left.join(", ")), format!("docker rm -f {}", left.join(" ")))
}

#[cfg(test)]
#[path = "canaries_tests.rs"]
mod tests;

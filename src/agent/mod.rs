//! The composition root: builds the parts, starts their threads, waits for signals, and ends everything in order.
//!
//! Order of the end: the poller first (no more claims), then the jobs (drained, then left to the next start or
//! cancelled), then the workers, the heartbeat, the monitor, the live log, the outbox, the reaper and the sampler, the
//! control socket and the health server last, so that an operator can see the drain until it is over.

mod drain;
pub mod identity;
mod live;
pub mod monitor;
pub mod reload;
pub mod service;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::bounded;

use crate::api;
use crate::cli::exit;
use crate::config::Live;
use crate::config::types::{Config, OnShutdown};
use crate::docker;
use crate::executors::Reaper;
use crate::executors::container::ContainerExecutor;
use crate::executors::container::janitor::Janitor;
use crate::executors::container::usage::Sampler;
use crate::executors::ssh::SshExecutor;
use crate::health::{self, Component, HealthState, Reason};
use crate::jobs::adopt::Adopter;
use crate::jobs::context::JobContext;
use crate::jobs::control;
use crate::jobs::heartbeat::{Heartbeat, OnResult};
use crate::jobs::page_updates::PageUpdates;
use crate::jobs::poller::{Poller, Slots};
use crate::jobs::reconcile::Reconciler;
use crate::jobs::reconcile::claims::Claims;
use crate::jobs::record::outbox::{Outbox, Terms};
use crate::jobs::record::{Checkpoints, Entry, Opened, RecordStore};
use crate::jobs::row_watch::RowWatch;
use crate::jobs::running::Running;
use crate::jobs::status;
use crate::jobs::worker_pool::WorkerPool;
use crate::limits;
use crate::logs::{Dialect, LogStreamer};
use crate::os::pulse::{Pulse, Pulses};
use crate::os::signals::{Signal, Signals};
use crate::os::stop::Stop;
use crate::os::threads::Thread;

use drain::Drained;
use monitor::Monitor;
use reload::Reloads;
use service::{Service, status_line};

/// A part that could not be built or started, in words for the operator.
type Failure = String;

/// Everything that runs.
struct Agent {
    service: Service,
    health: Arc<HealthState>,
    probes: Option<health::Server>,
    /// None where its socket could not be made.
    control: Option<health::Server>,
    running: Running,
    live: Live,
    reloads: Reloads,
    containers: ContainerExecutor,
    outbox: Outbox,
    checkpoints: Checkpoints,
    /// Of jobs of an earlier run.
    adopter: Adopter,
    /// Ends the poller.
    no_more_claims: Stop,
    slots: Slots,
    /// The longest that a poll under way can last: what it claims must be given back, not forgotten.
    poll_wait: Duration,
    /// Ends everything else that waits.
    all: Stop,
    streamer: LogStreamer,
    pages: PageUpdates,
    reaper: Reaper,
    sampler: Sampler,
    servers: SshExecutor,
    poller: Thread,
    pool: WorkerPool,
    /// In the order in which they are joined.
    others: Vec<Thread>,
}

/// Runs until a signal ends it; gives the program's exit code.
pub fn run(config: Config, signals: &Signals, again: &reload::Source<'_>) -> u8 {
    match Agent::start(config) {
        Ok(agent) => agent.serve(signals, again),
        Err(failure) => {
            log::error!("{failure}");
            exit::FAILED
        }
    }
}

/// The parts that the threads share, before most of those are started.
struct Parts {
    health: Arc<HealthState>,
    probes: Option<health::Server>,
    /// Ends everything that waits, but the poller.
    all: Stop,
    client: api::Client,
    docker: docker::Client,
    containers: ContainerExecutor,
    servers: SshExecutor,
    reaper: Reaper,
    sampler: Sampler,
    pages: PageUpdates,
    running: Running,
    slots: Slots,
    streamer: LogStreamer,
    records: RecordStore,
    outbox: Outbox,
    checkpoints: Checkpoints,
    claims: Claims,
    pulses: Pulses,
    reloads: Reloads,
    /// The jobs that an earlier run began.
    open: Vec<Entry>,
    /// In the order in which they are joined.
    threads: Vec<Thread>,
}

/// The longest that a call to the backend can last, with some room.
fn longest_call(config: &Config) -> Duration {
    config.api.timeout + limits::THREAD_JOIN_WAIT
}

fn no_thread(error: std::io::Error) -> Failure {
    format!("cannot start a thread: {error}")
}

impl Parts {
    /// Opens the records first: where another agent works, nothing else is touched.
    fn make(config: &Config) -> Result<(Self, String), Failure> {
        let version = crate::cli::version::VERSION;
        identity::prepare_state(&config.state.dir)?;
        let Opened { records, open, ended } =
            RecordStore::open(&config.state.dir).map_err(|error| error.to_string())?;
        let id = identity::resolve(&config.orchestrator.id, &config.state.dir)?;
        log::info!("cronium-agent {version}, agent {id}, backend {}", config.api.endpoint);

        let health = Arc::new(HealthState::new());
        let probes = health::start(&config.monitoring, &health).map_err(|error| error.to_string())?;
        let all = Stop::new();
        let client =
            api::Client::new(&config.api, &config.tls, &id, version, all.clone()).map_err(|error| error.to_string())?;
        let docker = docker::Client::new(&config.container.docker);
        let pulses = Pulses::new();
        let reaping = pulses.part("reaper", limits::DOCKER_QUICK + limits::PULSE_ROOM);
        let (reaper, reaper_thread) = Reaper::start(reaping).map_err(no_thread)?;
        let (sampler, sampler_thread) = Sampler::start(docker.clone()).map_err(no_thread)?;
        let containers = ContainerExecutor::new(docker.clone(), config, &id, sampler.clone());
        let servers = SshExecutor::new(config);
        let shown = Arc::clone(&health);
        servers.watch(Box::new(move |tripped| monitor::show_servers(&shown, tripped)));

        let (running, slots) = (Running::new(), Slots::new(config.jobs.max_concurrent));
        let (streamer, streamer_thread) = live::log(config, &id, &running, &slots, &pulses)?;
        let terms = Terms::new(config.jobs.report_retention);
        let offering = pulses.part("outbox", longest_call(config) + limits::PULSE_ROOM);
        let (outbox, outbox_thread) =
            Outbox::start(records.clone(), &client, ended, terms, offering).map_err(no_thread)?;
        let (checkpoints, checkpoints_thread) = Checkpoints::start().map_err(no_thread)?;
        let paging = pulses.part("page-updates", longest_call(config) * 2 + limits::PULSE_ROOM);
        let (pages, pages_thread) =
            PageUpdates::start(live::way(config), streamer.clone(), longest_call(config), &client, paging)
                .map_err(no_thread)?;
        let mut threads = Vec::from_iter(streamer_thread);
        threads.extend(pages_thread);
        threads.extend([outbox_thread, checkpoints_thread, reaper_thread, sampler_thread]);
        let parts = Self {
            health,
            probes,
            all,
            client,
            docker,
            containers,
            servers,
            reaper,
            sampler,
            pages,
            running,
            slots,
            streamer,
            records,
            outbox,
            checkpoints,
            claims: Claims::new(config.api.timeout),
            pulses,
            reloads: Reloads::default(),
            open,
            threads,
        };
        Ok((parts, id))
    }

    /// What `status` shows.
    fn sources(&self, id: &str) -> status::Sources {
        let (servers, streamer, pages) = (self.servers.clone(), self.streamer.clone(), self.pages.clone());
        status::Sources {
            id: id.to_owned(),
            version: crate::cli::version::VERSION.to_owned(),
            started: (SystemTime::now(), Instant::now()),
            health: Arc::clone(&self.health),
            running: self.running.clone(),
            slots: self.slots.clone(),
            tripped: Box::new(move || servers.tripped()),
            live_log: Box::new(move || streamer.connection()),
            pages: Box::new(move || pages.is_used()),
            reload: self.reloads.now(),
            ask_reload: self.reloads.ask(),
            reports: status::reports_now(self.outbox.clone(), self.records.clone()),
        }
    }

    fn monitor(&mut self, context: &Arc<JobContext>, id: &str, adopter: Adopter) -> Monitor {
        let engine = Janitor::new(self.docker.clone(), id, limits::JANITOR_GRACE);
        let open = std::mem::take(&mut self.open);
        let reconciler = Reconciler::new(context, adopter, Box::new(engine), open);
        // What an earlier run began goes on before anything else is claimed or removed.
        reconciler.adopt_recorded();
        let executors = (self.containers.clone(), self.servers.clone());
        Monitor::new(context, reconciler, self.docker.clone(), executors, Arc::clone(&self.health))
    }

    fn context(&self, config: &Live) -> Arc<JobContext> {
        Arc::new(JobContext {
            config: config.clone(),
            client: self.client.clone(),
            containers: Box::new(self.containers.clone()),
            servers: Box::new(self.servers.clone()),
            reaper: self.reaper.clone(),
            streamer: self.streamer.clone(),
            pages: self.pages.clone(),
            running: self.running.clone(),
            records: self.records.clone(),
            outbox: self.outbox.clone(),
            checkpoints: self.checkpoints.clone(),
            claims: self.claims.clone(),
            stop: self.all.clone(),
            pulses: self.pulses.clone(),
        })
    }

    fn heartbeat(&self, config: &Live, pulse: Pulse) -> Heartbeat {
        Heartbeat {
            pulse,
            client: self.client.clone(),
            running: self.running.clone(),
            config: config.clone(),
            on_result: told_to(&self.health),
            stop: self.all.clone(),
        }
    }
}

impl Agent {
    fn start(config: Config) -> Result<Self, Failure> {
        let (mut parts, id) = Parts::make(&config)?;
        let control = open_control(&config.state.dir, parts.sources(&id))?;
        let poll_wait = longest_call(&config);
        let live = Live::new(config);
        let context = parts.context(&live);
        let adopter = Adopter::new(&context, &parts.slots);
        let mut monitor = parts.monitor(&context, &id, adopter.clone());
        // Before the first poll, so that nothing is claimed which cannot run.
        monitor.look_first();
        let looking = parts.pulses.part("monitor", poll_wait.max(limits::DOCKER_WORK) + limits::PULSE_ROOM);
        let monitor = monitor.spawn(&parts.all, looking).map_err(no_thread)?;

        let pulse = parts.pulses.part("heartbeat", poll_wait + limits::PULSE_ROOM);
        let heartbeat = parts.heartbeat(&live, pulse).spawn().map_err(no_thread)?;
        let row_watch = RowWatch {
            client: parts.client.clone(),
            running: parts.running.clone(),
            stop: parts.all.clone(),
            pulse: parts.pulses.part("row-watch", poll_wait + limits::ROW_IDLE + limits::PULSE_ROOM),
        };
        let row_watch = row_watch.spawn().map_err(no_thread)?;
        let (hand, taken) = bounded(0);
        let (no_more_claims, admission) = (Stop::new(), Arc::clone(&parts.health));
        let mut poller = Poller::new(
            &live,
            parts.client.clone(),
            parts.slots.clone(),
            parts.running.clone(),
            hand,
            Box::new(move || admission.why_not_ready().map_or(Ok(()), Err)),
            no_more_claims.clone(),
        );
        poller.lost = parts.claims.clone();
        let streamer = parts.streamer.clone();
        // The dialect of plain lines has no way to announce jobs.
        poller.is_pushed = Box::new(move || {
            let state = streamer.connection();
            state.connected_since.is_some() && state.dialect == Some(Dialect::V2)
        });
        poller.pulse = parts.pulses.part("poller", poll_wait + limits::PULSE_ROOM);
        let pool = WorkerPool::start(context, &parts.slots, taken).map_err(no_thread)?;
        let poller = poller.spawn().map_err(no_thread)?;
        let mut others = vec![heartbeat, row_watch, monitor];
        others.append(&mut parts.threads);
        Ok(Self {
            service: Service::new(parts.pulses),
            health: parts.health,
            probes: parts.probes,
            control,
            running: parts.running,
            live,
            reloads: parts.reloads,
            containers: parts.containers,
            outbox: parts.outbox,
            checkpoints: parts.checkpoints,
            adopter,
            no_more_claims,
            slots: parts.slots,
            poll_wait,
            all: parts.all,
            streamer: parts.streamer,
            pages: parts.pages,
            reaper: parts.reaper,
            sampler: parts.sampler,
            servers: parts.servers,
            poller,
            pool,
            others,
        })
    }

    /// Waits for a signal, or for a part that ended by itself, which none does.
    fn serve(mut self, signals: &Signals, again: &reload::Source<'_>) -> u8 {
        loop {
            let (health, running) = (&self.health, &self.running);
            self.service.tick(|| status_line(health, running));
            match signals.wait(self.service.pause()) {
                Some(Signal::Terminate) => return self.end(signals, exit::OK),
                Some(Signal::Reload) => self.reload(again),
                None if self.reloads.is_wanted() => self.reload(again),
                None => {}
            }
            let lost = self.pool.look(limits::THREAD_JOIN_WAIT);
            let ended = lost.or_else(|| {
                let mut threads = self.others.iter().chain([&self.poller]);
                threads.find(|thread| thread.is_finished()).map(|thread| thread.name().to_owned())
            });
            if let Some(name) = ended {
                log::error!("thread {name} ended by itself; the agent ends too, to be started afresh");
                return self.end(signals, exit::FAILED);
            }
        }
    }

    /// Reads the configuration again; tells the parts that keep something of it for themselves.
    fn reload(&mut self, again: &reload::Source<'_>) {
        self.service.reloading();
        let asked = self.reloads.asked();
        let (containers, servers, outbox) = (&self.containers, &self.servers, &self.outbox);
        let pool = &mut self.pool;
        let outcome = reload::again(again, &self.live, |config| {
            containers.reload(config);
            servers.reload(config);
            outbox.keep_for(config.jobs.report_retention);
            if let Err(error) = pool.resize(config.jobs.max_concurrent) {
                log::error!("jobs.maxConcurrent: cannot start a thread: {error}; there are fewer workers than that");
            }
        });
        self.reloads.note(&outcome, asked, &self.health);
    }

    /// Drains; then leaves or cancels what still runs; then ends every thread in order.
    fn end(mut self, signals: &Signals, mut code: u8) -> u8 {
        let config = self.live.now();
        let drain = config.jobs.drain_timeout;
        self.service.stopping("draining");
        self.health.not_ready(Reason::Draining, "the agent is draining: it was told to stop");
        self.no_more_claims.set();
        self.slots.wake();
        log::info!("stopping: {} jobs run; waiting for them at most {drain:?} (jobs.drainTimeout)", self.running.len());
        if self.wait_for_jobs(signals, drain) != Drained::All {
            code = exit::NOT_DRAINED;
            let count = self.running.len();
            match config.jobs.on_shutdown {
                OnShutdown::Leave => {
                    log::warn!("leaving {count} jobs that still run to the next start (jobs.onShutdown: leave)");
                    self.running.detach_all();
                }
                OnShutdown::Cancel => {
                    log::warn!("cancelling {count} jobs that still run (jobs.onShutdown: cancel)");
                    self.running.stop_all("the agent's shutdown");
                }
            }
            match self.wait_for_jobs(signals, limits::CANCEL_WAIT) {
                Drained::All => {}
                Drained::Signal => {
                    log::error!("ending now with {} running jobs; the next start finds them", self.running.len());
                    return exit::FORCED;
                }
                Drained::Late => {
                    log::error!("ending with {} running jobs; the next start finds them", self.running.len())
                }
            }
        }
        // The poller owns the workers' channel: when it ends, they do.
        self.poller.join_within(self.poll_wait);
        self.all.set();
        self.running.wake();
        self.pool.join(limits::THREAD_JOIN_WAIT);
        self.adopter.join(limits::THREAD_JOIN_WAIT);
        self.servers.stop();
        self.outbox.stop();
        self.checkpoints.stop();
        self.streamer.stop();
        self.pages.stop();
        self.reaper.stop();
        self.sampler.stop();
        for thread in self.others {
            thread.join_within(limits::THREAD_JOIN_WAIT);
        }
        if let Some(control) = self.control {
            control.stop(limits::THREAD_JOIN_WAIT);
        }
        if let Some(probes) = self.probes {
            probes.stop(limits::THREAD_JOIN_WAIT);
        }
        log::info!("stopped");
        code
    }

    /// Waits until all jobs have ended, `wait` is over, or a further signal comes.
    fn wait_for_jobs(&mut self, signals: &Signals, wait: Duration) -> Drained {
        let (health, running, service) = (&self.health, &self.running, &mut self.service);
        let drained = drain::wait_for_jobs(running, wait, || {
            service.tick(|| status_line(health, running));
            signals.wait(Duration::ZERO) == Some(Signal::Terminate)
        });
        if drained == Drained::Signal {
            log::warn!("a further signal: not waiting any longer");
        }
        drained
    }
}

/// The control socket. An agent does its work without one, but not beside another agent.
fn open_control(dir: &Path, sources: status::Sources) -> Result<Option<health::Server>, Failure> {
    match health::start_control(dir, control::pages(sources)) {
        Ok(server) => Ok(Some(server)),
        Err(error @ health::Error::InUse(_)) => Err(error.to_string()),
        Err(error) => {
            log::warn!("{error}; going on without `cronium-agent status`, `cancel` and `reload`");
            Ok(None)
        }
    }
}

/// The heartbeat's outcome goes to the health state.
fn told_to(health: &Arc<HealthState>) -> OnResult {
    let health = Arc::clone(health);
    Box::new(move |result| match result {
        Ok(latency) => monitor::backend_answered(&health, latency),
        Err(error) => health.set("api", Component::unhealthy(error.to_string())),
    })
}

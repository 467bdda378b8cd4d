//! The thread that looks around: is the engine there, is there disk, does the backend answer. What it sees goes to the
//! health state, and decides whether the agent may claim jobs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::agent::images::ImageKeeper;
use crate::agent::keeper::Keeper;
use crate::api;
use crate::docker;
use crate::docker::life::Life;
use crate::executors::container::ContainerExecutor;
use crate::executors::ending::bytes;
use crate::executors::ssh::SshExecutor;
use crate::executors::ssh::breakers::Tripped;
use crate::health::{Component, DetailValue, HealthState, Reason, Status};
use crate::jobs::context::JobContext;
use crate::jobs::history::Sample;
use crate::jobs::reconcile::Reconciler;
use crate::limits;
use crate::metrics::{self, Place};
use crate::os::disk::{self, Free};
use crate::os::pulse::Pulse;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};

/// What is looked at.
pub struct Monitor {
    context: Arc<JobContext>,
    reconciler: Reconciler,
    docker: docker::Client,
    containers: ContainerExecutor,
    servers: SshExecutor,
    client: api::Client,
    health: Arc<HealthState>,
    proofs: Keeper,
    images: ImageKeeper,
    /// The engine that answered at the last look; `None` where it cannot be watched.
    life: Option<Life>,
    /// How many starts of the engine were seen.
    engine_start: u64,
    /// When the reconciler looks next, at the latest.
    next_round: Instant,
    /// The engine's data folder, once it is known.
    docker_root: Option<PathBuf>,
    engine_was_up: Option<bool>,
    /// Whether the jobs' network was there when the engine was last found up, and why not.
    network: Option<Result<(), String>>,
    /// The reconciler's first round is done.
    reconciled: bool,
    /// Why that has not worked yet, as it was logged.
    told: Option<String>,
}

impl Monitor {
    /// A monitor that writes to `health`.
    pub fn new(
        context: &Arc<JobContext>,
        reconciler: Reconciler,
        docker: docker::Client,
        (containers, servers): (ContainerExecutor, SshExecutor),
        health: Arc<HealthState>,
        (proofs, images): (Keeper, ImageKeeper),
    ) -> Self {
        Self {
            context: Arc::clone(context),
            reconciler,
            docker,
            containers,
            servers,
            client: context.client.separate(),
            health,
            proofs,
            images,
            life: None,
            engine_start: 0,
            next_round: Instant::now(),
            docker_root: None,
            engine_was_up: None,
            network: None,
            reconciled: false,
            told: None,
        }
    }

    /// Starts the thread `monitor`, which touches its pulse at each look, each call and each slice of its sleep.
    pub fn spawn(mut self, stop: &Stop, pulse: Pulse) -> std::io::Result<Thread> {
        let stop = stop.clone();
        threads::spawn("monitor", move || {
            let _watched = pulse.enter();
            self.run(&stop);
        })
    }

    /// Looks now and then until told to stop, after [`Monitor::look_first`].
    fn run(&mut self, stop: &Stop) {
        let mut next_backend = Instant::now();
        let mut is_first = true;
        loop {
            self.look_at_live_log();
            self.look_at_clock();
            self.look_at_servers();
            self.sample();
            self.sweep();
            self.reconcile();
            if self.network == Some(Ok(())) && self.reconciled && self.engine_was_up == Some(true) {
                self.proofs.begin(is_first);
                self.images.look(self.docker_root.as_deref());
            }
            is_first = false;
            if Instant::now() >= next_backend {
                self.look_at_backend();
                next_backend = Instant::now() + limits::BACKEND_LOOK;
            }
            if stop.wait(limits::ENGINE_LOOK) {
                self.sweep();
                return;
            }
            self.look_first();
        }
    }

    /// A look at what decides whether jobs may be claimed; to be called before the first poll too.
    pub fn look_first(&mut self) {
        self.look_at_engine();
        self.look_at_disk();
        self.look_at_records();
        self.reconcile();
    }

    /// Not while the engine is away: each removal would wait for it.
    fn sweep(&self) {
        if self.engine_was_up == Some(true) {
            self.containers.sweep();
        }
    }

    /// The first round comes before the first claim, and is tried until it works. After it there is one a minute, and one
    /// when there is a reason.
    fn reconcile(&mut self) {
        if self.engine_was_up != Some(true) {
            return;
        }
        if !self.reconciled {
            return self.reconcile_first();
        }
        if Instant::now() < self.next_round && !self.reconciler.is_due() {
            return;
        }
        self.next_round = Instant::now() + limits::JANITOR_EVERY;
        if let Err(why) = self.reconciler.round(false) {
            log::warn!("cannot compare what runs with engine and backend, trying again within a minute: {why}");
        }
    }

    fn reconcile_first(&mut self) {
        match self.reconciler.round(true) {
            Ok(()) => {
                self.reconciled = true;
                self.next_round = Instant::now() + limits::JANITOR_EVERY;
                self.health.clear(Reason::Starting);
            }
            Err(why) => {
                // Told once: the reason is in /ready for as long as it holds.
                if self.told.as_ref() != Some(&why) {
                    log::warn!("cannot see to what an earlier run left behind: {why}; claiming nothing before");
                    self.told = Some(why.clone());
                }
                let text = format!("what an earlier run left behind could not be seen to: {why}");
                self.health.not_ready(Reason::Starting, text);
            }
        }
    }

    fn look_at_engine(&mut self) {
        let restarted = self.life.as_mut().is_some_and(Life::is_over);
        let first = self.engine_was_up != Some(true) || restarted;
        match self.docker.ping().and_then(|()| self.docker.info()) {
            Ok(info) => {
                if first {
                    let word = if restarted { "was restarted and " } else { "" };
                    let (version, place) = (&info.version, self.docker.endpoint());
                    log::info!("the container engine {word}answers: version {version} at {place}");
                    self.engine_start += 1;
                    self.life =
                        self.docker.life().map_err(|error| log::debug!("restarts may not be seen: {error}")).ok();
                }
                if self.docker.is_local() && !info.root.is_empty() {
                    self.docker_root = Some(PathBuf::from(&info.root));
                }
                let component = Component::healthy()
                    .with("version", DetailValue::Text(info.version.clone()))
                    .with("containers", DetailValue::Number(info.running));
                self.engine_was_up = Some(true);
                if first {
                    self.network = None;
                    self.next_round = Instant::now();
                }
                self.look_at_network(component, &info.version);
            }
            Err(error) => {
                if self.engine_was_up != Some(false) {
                    log::error!("{error}; claiming nothing until it answers");
                }
                self.health.set("docker", Component::unhealthy(error.to_string()));
                self.health.not_ready(Reason::Engine, error.to_string());
                self.engine_was_up = Some(false);
            }
        }
    }

    /// Makes the jobs' network, until that works. Jobs that still run are looked after meanwhile: the network may be
    /// refused because of them.
    fn look_at_network(&mut self, engine: Component, version: &str) {
        if self.network != Some(Ok(())) {
            let network = self.containers.warm_up().map_err(|error| error.to_string());
            if let Err(why) = &network
                && self.network.as_ref() != Some(&network)
            {
                log::error!("{why}; claiming nothing before");
            }
            self.network = Some(network);
        }
        match &self.network {
            Some(Err(why)) => {
                self.health.set("docker", Component::unhealthy(why.clone()));
                self.health.not_ready(Reason::Engine, why.clone());
            }
            _ => {
                self.health.set("docker", engine);
                // Before the engine counts as well: a proof of the engine before it says nothing.
                self.proofs.look(self.engine_start, version);
                self.health.clear(Reason::Engine);
            }
        }
    }

    fn look_at_disk(&self) {
        let config = self.context.config.now();
        let mut component = Component::healthy();
        let mut short = None;
        let places =
            [("state", Place::State, Some(&config.state.dir)), ("docker", Place::Docker, self.docker_root.as_ref())];
        for (name, place, path) in places {
            let Some((path, free)) = path.and_then(|path| disk::free(path).ok().map(|free| (path, free))) else {
                continue;
            };
            metrics::disk_free(place, free.bytes, free.inodes);
            component = component.with(name, DetailValue::Text(format!("{} free", bytes(free.bytes))));
            short = shortage(path, free, config.state.min_free_disk).or(short);
        }
        match short {
            Some(why) => {
                component.status = Status::Degraded;
                component.error = Some(why.clone());
                self.health.not_ready(Reason::Disk, why);
            }
            None => self.health.clear(Reason::Disk),
        }
        self.health.set("disk", component);
    }

    /// Asks the backend whether it is up, unless another call has just shown it: many agents share one backend.
    fn look_at_backend(&self) {
        let fresh = self.client.last_success().filter(|(at, _)| at.elapsed() < limits::BACKEND_LOOK);
        if let Some((_, latency)) = fresh {
            return backend_answered(&self.health, latency);
        }
        match self.client.health() {
            Ok(latency) => backend_answered(&self.health, latency),
            Err(error) => self.health.set("api", Component::unhealthy(error.to_string())),
        }
    }

    /// For the lines of the page on the health port.
    fn sample(&self) {
        let answered = self.client.last_success().filter(|(at, _)| at.elapsed() < limits::BACKEND_LOOK * 2);
        let (running, latency) = (&self.context.running, answered.map(|(_, latency)| latency));
        running.history().sample(Sample { jobs: running.len(), latency });
    }

    /// By what the last answer of the backend told; before the first there is nothing to say.
    fn look_at_clock(&self) {
        let Some(skew) = self.client.clock_skew() else { return };
        let component = match skew.is_off {
            true => Component::degraded(format!("this host's clock is {skew}")),
            false => Component::healthy(),
        };
        self.health.set("clock", component.with("skew", DetailValue::Text(skew.to_string())));
    }

    /// Records that cannot be written end the claims: a job would be lost with this process.
    fn look_at_records(&self) {
        let (records, outbox) = (&self.context.records, &self.context.outbox);
        if records.trouble().is_some() {
            records.probe();
        }
        match records.trouble() {
            Some(why) => {
                self.health.not_ready(Reason::Journal, format!("the records in state.dir cannot be written: {why}"))
            }
            None => self.health.clear(Reason::Journal),
        }
        let state = outbox.state();
        let mut component = match state.oldest {
            Some(oldest) if oldest >= limits::OUTBOX_OLD => {
                let last = state.last_error.unwrap_or_default();
                Component::degraded(format!("a result has waited for {} s: {last}", oldest.as_secs()))
            }
            _ => Component::healthy(),
        };
        component = component.with("waiting", DetailValue::Number(state.waiting as u64));
        self.health.set("outbox", component.with("setAside", DetailValue::Number(state.set_aside)));
    }

    fn look_at_servers(&self) {
        show_servers(&self.health, &self.servers.tripped());
    }

    fn look_at_live_log(&self) {
        let state = self.context.streamer.connection();
        let by_updates = self.context.pages.is_used();
        let component = if !state.enabled || by_updates || state.connected_since.is_some() {
            Component::healthy()
        } else {
            Component::degraded(state.last_error.unwrap_or_else(|| "not connected yet".to_owned()))
        };
        let component = match state.dialect.filter(|_| state.enabled) {
            Some(dialect) => component.with("dialect", DetailValue::Text(dialect.as_str().to_owned())),
            None => component,
        };
        let way = match (by_updates, state.enabled) {
            (true, _) => "updates",
            (false, true) => "websocket",
            (false, false) => "off",
        };
        let component = component.with("way", DetailValue::Text(way.to_owned()));
        self.health.set("websocket", component.with("enabled", DetailValue::Text(state.enabled.to_string())));
    }
}

/// Why no job should be claimed with so little left where `path` is.
fn shortage(path: &Path, free: Free, min_bytes: u64) -> Option<String> {
    let path = path.display();
    if free.bytes < min_bytes {
        let (free, least) = (bytes(free.bytes), bytes(min_bytes));
        return Some(format!("{path} has {free} free, state.minFreeDisk is {least}"));
    }
    // A file system that makes inodes as it needs them never runs out of them.
    let inodes = free.inodes.filter(|inodes| *inodes < limits::MIN_FREE_INODES)?;
    Some(format!("{path} has room for {inodes} files, limits::MIN_FREE_INODES is {}", limits::MIN_FREE_INODES))
}

/// Writes a good answer of the backend to the health state; the heartbeat's count as well.
pub fn backend_answered(health: &HealthState, latency: Duration) {
    let latency = format!("{}ms", latency.as_millis());
    health.set("api", Component::healthy().with("latency", DetailValue::Text(latency)));
}

/// Writes the circuit breakers to the health state. Servers are no reason to claim nothing: their breakers fail the jobs that
/// want them.
pub fn show_servers(health: &HealthState, tripped: &[Tripped]) {
    if tripped.is_empty() {
        return health.set("ssh", Component::healthy());
    }
    let shown: Vec<String> = tripped
        .iter()
        .take(limits::SSH_TRIPPED_SHOWN)
        .map(|t| format!("{} is {} after {} failures", t.server, t.state, t.failures))
        .collect();
    let text = format!("{} circuit breakers are not closed: {}", tripped.len(), shown.join(", "));
    let count = DetailValue::Number(tripped.len() as u64);
    health.set("ssh", Component::degraded(text).with("breakers", count));
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::agent::images;
    use crate::agent::keeper::Means;
    use crate::config;
    use crate::executors::container::janitor::Janitor;
    use crate::jobs::adopt::Adopter;
    use crate::jobs::context::testing::Parts;
    use crate::jobs::poller::Slots;
    use crate::os::pulse::Pulses;
    use crate::policy::breaker::State;

    #[test]
    fn many_circuit_breakers_are_counted_and_a_few_are_named() {
        let health = HealthState::new();
        let tripped: Vec<Tripped> = (0..limits::SSH_TRIPPED_SHOWN + 2)
            .map(|n| Tripped { server: format!("host-{n}:22"), state: State::Open, failures: 3 })
            .collect();
        show_servers(&health, &tripped);
        let (_, text) = health.report(SystemTime::UNIX_EPOCH);
        assert!(text.contains("7 circuit breakers are not closed"), "{text}");
        assert_eq!(text.matches("host-").count(), limits::SSH_TRIPPED_SHOWN, "{text}");
    }

    #[test]
    fn bytes_and_inodes_can_both_run_short() {
        let short =
            |bytes, inodes| shortage(Path::new("/x"), Free { bytes, inodes, used_percent: 0 }, 500).unwrap_or_default();
        assert_eq!(short(500, Some(limits::MIN_FREE_INODES)), "");
        assert!(short(499, Some(9_999)).contains("state.minFreeDisk"));
        assert_eq!(short(500, Some(999)), "/x has room for 999 files, limits::MIN_FREE_INODES is 1000");
        assert!(short(500, Some(0)).contains("room for 0 files"));
        // It does not count them.
        assert_eq!(short(500, None), "");
    }

    #[test]
    fn one_that_hangs_is_noticed_and_one_without_engine_and_backend_is_not() {
        let dir = crate::os::scratch::Scratch::new();
        let (health, stop, pulses) = (Arc::new(HealthState::new()), Stop::new(), Pulses::new());
        let config = config::defaults();
        let config = crate::config::types::Api { endpoint: "http://127.0.0.1:9".to_owned(), ..config.api };
        let client = api::Client::new(&config, &config::defaults().tls, "a", "1", stop.clone()).expect("a client");
        let parts = Parts::new(&dir, client, &stop);
        let (context, slots) = (&parts.context, Slots::new(1));
        let engine = Janitor::new(parts.docker.clone(), "a", limits::JANITOR_GRACE);
        let reconciler = Reconciler::new(context, Adopter::new(context, &slots), Box::new(engine), Vec::new());
        let executors = (parts.containers.clone(), parts.servers.clone());
        let proofs = Keeper::new(Means {
            config: context.config.clone(),
            docker: parts.docker.clone(),
            agent: "a".to_owned(),
            containers: parts.containers.clone(),
            slots: slots.clone(),
            reaper: context.reaper.clone(),
            sampler: parts.sampler.clone(),
            health: Arc::clone(&health),
        });
        let images = ImageKeeper::new(images::Means {
            config: context.config.clone(),
            docker: parts.docker.clone(),
            containers: parts.containers.clone(),
            records: context.records.clone(),
            health: Arc::clone(&health),
        });
        let beside = (proofs, images);
        let monitor = Monitor::new(context, reconciler, parts.docker.clone(), executors, Arc::clone(&health), beside);
        let longest = Duration::from_millis(500);
        let held = health.hold();
        let thread = monitor.spawn(&stop, pulses.part("monitor", longest)).expect("a thread");
        std::thread::sleep(longest + longest / 5);
        assert_eq!(pulses.healthy(Instant::now()).expect_err("it hangs").part, "monitor");
        drop(held);
        // Until it sleeps between two looks, of which each slice is a touch.
        let until = Instant::now() + Duration::from_secs(20);
        while pulses.healthy(Instant::now()).is_err() {
            assert!(Instant::now() < until, "it is still stuck");
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.set();
        assert_eq!(thread.join_within(Duration::from_secs(10)), threads::Ended::Returned);
        parts.end();
        assert_eq!(pulses.healthy(Instant::now() + longest * 2), Ok(()), "what has ended is not stuck");
    }
}

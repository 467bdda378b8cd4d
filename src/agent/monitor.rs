//! The thread that looks around: is the engine there, is there disk, does the backend answer. What it sees goes to the
//! health state, and decides whether the agent may claim jobs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api;
use crate::config::Live;
use crate::docker;
use crate::executors::container::ContainerExecutor;
use crate::executors::container::janitor::Janitor;
use crate::executors::container::resources::bytes;
use crate::executors::ssh::SshExecutor;
use crate::executors::ssh::breakers::Tripped;
use crate::health::{Component, DetailValue, HealthState, Reason, Status};
use crate::job::Id;
use crate::jobs::record::RecordStore;
use crate::jobs::record::outbox::Outbox;
use crate::jobs::recover::{Lost, Recovery};
use crate::jobs::running::Running;
use crate::jobs::strays::Strays;
use crate::limits;
use crate::logs::LogStreamer;
use crate::metrics::{self, Place};
use crate::os::disk::{self, Free};
use crate::os::pulse::Pulse;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};

/// The jobs in hand, what is written of them, and the reports that wait.
pub struct Books {
    pub running: Running,
    pub records: RecordStore,
    pub outbox: Outbox,
    /// Claims whose answer was lost.
    pub strays: Strays,
    /// Goes on with jobs whose page is lost.
    pub adopt: Box<dyn Fn(Vec<Lost>) + Send>,
}

impl Books {
    /// The jobs that are in hand, or whose report waits. In this order: a job goes from the one to the other, and into the
    /// outbox before it leaves the registry.
    fn known(&self) -> BTreeSet<Id> {
        let in_hand = self.running.ids();
        in_hand.into_iter().chain(self.outbox.ids()).collect()
    }

    /// Whether somebody still needs the containers of this job: it is in hand, or its page waits for the next start. In
    /// this order: a page is there until the job has been reported.
    fn needs(&self, job: &Id) -> bool {
        let written = self.records.has(job);
        self.running.get(job).is_some() || (written && !self.outbox.holds(job))
    }
}

/// What is looked at.
pub struct Monitor {
    docker: docker::Client,
    containers: ContainerExecutor,
    servers: SshExecutor,
    janitor: Janitor,
    /// When the janitor looks next.
    next_round: Instant,
    client: api::Client,
    streamer: LogStreamer,
    health: Arc<HealthState>,
    config: Live,
    state_dir: PathBuf,
    /// The engine's data folder, once it is known.
    docker_root: Option<PathBuf>,
    engine_was_up: Option<bool>,
    agent: String,
    books: Books,
    /// What an earlier run left behind was seen to.
    recovered: bool,
    /// Why that has not worked yet, as it was logged.
    told: Option<String>,
}

impl Monitor {
    /// A monitor that writes to `health`.
    pub fn new(
        config: &Live,
        agent: &str,
        docker: docker::Client,
        (containers, servers): (ContainerExecutor, SshExecutor),
        (client, streamer): (api::Client, LogStreamer),
        health: Arc<HealthState>,
        books: Books,
    ) -> Self {
        let state_dir = config.now().state.dir.clone();
        let janitor = Janitor::new(docker.clone(), agent, limits::JANITOR_GRACE);
        Self {
            docker,
            containers,
            servers,
            janitor,
            next_round: Instant::now(),
            client,
            streamer,
            health,
            config: config.clone(),
            state_dir,
            docker_root: None,
            engine_was_up: None,
            agent: agent.to_owned(),
            books,
            recovered: false,
            told: None,
        }
    }

    /// Starts the thread `monitor`, which gets on with each look, each call and each slice of its sleep.
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
        loop {
            self.look_at_live_log();
            self.look_at_clock();
            self.look_at_servers();
            self.look_for_strays();
            self.sweep();
            self.clear_up();
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
        self.look_at_books();
        self.recover();
    }

    /// Not while the engine is away: each removal would wait for it.
    fn sweep(&self) {
        if self.engine_was_up == Some(true) {
            self.containers.sweep();
        }
    }

    /// Removes what is ours and nobody's. Not before recovery, which may still report what is in such a container.
    fn clear_up(&mut self) {
        if !self.recovered || self.engine_was_up != Some(true) || Instant::now() < self.next_round {
            return;
        }
        self.next_round = Instant::now() + limits::JANITOR_EVERY;
        self.janitor.round(&|job, _| self.books.needs(job));
    }

    /// Not before recovery, which gives back what an earlier run had claimed.
    fn look_for_strays(&self) {
        if self.recovered
            && let Err(error) = self.books.strays.look(&self.client, &|| self.books.known())
        {
            log::debug!("{error}");
        }
    }

    /// Sees to what an earlier run left behind, until that has worked once; nothing is claimed before.
    fn recover(&mut self) {
        if self.recovered || self.engine_was_up != Some(true) {
            return;
        }
        let (docker, client) = (&self.docker, &self.client);
        let Books { running, outbox, records, .. } = &self.books;
        // In this order: a job goes from the one to the other, and into the outbox before it leaves the registry.
        let in_hand = running.ids();
        let reported: BTreeSet<Id> = outbox.ids().into_iter().collect();
        let known: BTreeSet<Id> = in_hand.into_iter().chain(reported.iter().cloned()).collect();
        let (agent, max_timeout) = (self.agent.as_str(), self.config.now().jobs.max_timeout);
        let done = |job: &Id| records.done().lookup(job);
        let (engine, done, known, reported) = (docker, &done, &known, &reported);
        match (Recovery { engine, client, agent, max_timeout, outbox, done, known, reported }).run() {
            Ok(lost) => {
                (self.books.adopt)(lost);
                self.recovered = true;
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
        let first = self.engine_was_up != Some(true);
        let seen = self.docker.ping().and_then(|()| self.docker.info()).and_then(|info| {
            if first {
                self.containers.warm_up()?;
            }
            Ok(info)
        });
        match seen {
            Ok(info) => {
                if first {
                    log::info!("the container engine answers: version {} at {}", info.version, self.docker.endpoint());
                }
                if self.docker.is_local() && !info.root.is_empty() {
                    self.docker_root = Some(PathBuf::from(&info.root));
                }
                let component = Component::healthy()
                    .with("version", DetailValue::Text(info.version))
                    .with("containers", DetailValue::Number(info.running));
                self.health.set("docker", component);
                self.health.clear(Reason::Engine);
                self.engine_was_up = Some(true);
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

    fn look_at_disk(&self) {
        let mut component = Component::healthy();
        let mut short = None;
        let places =
            [("state", Place::State, Some(&self.state_dir)), ("docker", Place::Docker, self.docker_root.as_ref())];
        for (name, place, path) in places {
            let Some((path, free)) = path.and_then(|path| disk::free(path).ok().map(|free| (path, free))) else {
                continue;
            };
            metrics::disk_free(place, free.bytes, free.inodes);
            component = component.with(name, DetailValue::Text(format!("{} free", bytes(free.bytes))));
            short = shortage(path, free, self.config.now().state.min_free_disk).or(short);
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

    fn look_at_backend(&self) {
        match self.client.health() {
            Ok(latency) => backend_answered(&self.health, latency),
            Err(error) => self.health.set("api", Component::unhealthy(error.to_string())),
        }
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
    fn look_at_books(&self) {
        let Books { records, outbox, .. } = &self.books;
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
        let state = self.streamer.connection();
        let component = if !state.enabled || state.connected_since.is_some() {
            Component::healthy()
        } else {
            Component::degraded(state.last_error.unwrap_or_else(|| "not connected yet".to_owned()))
        };
        let component = match state.dialect.filter(|_| state.enabled) {
            Some(dialect) => component.with("dialect", DetailValue::Text(dialect.as_str().to_owned())),
            None => component,
        };
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
    use crate::config;
    use crate::config::types::DockerEndpoint;
    use crate::executors::container::usage::Sampler;
    use crate::jobs::record::Opened;
    use crate::jobs::record::outbox::Terms;
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
        let short = |bytes, inodes| shortage(Path::new("/x"), Free { bytes, inodes }, 500).unwrap_or_default();
        assert_eq!(short(500, Some(limits::MIN_FREE_INODES)), "");
        assert!(short(499, Some(9_999)).contains("state.minFreeDisk"));
        assert_eq!(short(500, Some(999)), "/x has room for 999 files, limits::MIN_FREE_INODES is 1000");
        assert!(short(500, Some(0)).contains("room for 0 files"));
        // It does not count them.
        assert_eq!(short(500, None), "");
    }
    /// One of an agent whose engine and backend are away, with its folder and what ends its helpers.
    fn monitor(dir: &Path, health: &Arc<HealthState>, stop: &Stop) -> (Monitor, [Thread; 2], impl FnOnce()) {
        let mut config = config::defaults();
        config.api.endpoint = "http://127.0.0.1:9".to_owned();
        config.container.docker.endpoint = DockerEndpoint::Unix(dir.join("no.sock"));
        let client = api::Client::new(&config.api, &config.tls, "a", "1", stop.clone()).expect("a client");
        let docker = docker::Client::new(&config.container.docker);
        let (sampler, sampling) = Sampler::start(docker.clone()).expect("a thread");
        let containers = ContainerExecutor::new(docker.clone(), &config, "a", sampler.clone());
        let Opened { records, .. } = RecordStore::open(dir).expect("records");
        let terms = Terms::new(Duration::from_secs(60));
        let (outbox, offering) =
            Outbox::start(records.clone(), &client, Vec::new(), terms, Pulse::unwatched()).expect("a thread");
        let running = Running::new();
        let strays = Strays::new(config.api.timeout);
        let adopt = Box::new(|_| {});
        let books = Books { running, records, outbox: outbox.clone(), strays, adopt };
        let servers = SshExecutor::new(&config);
        let (live, streamer) = (Live::new(config), LogStreamer::disabled());
        let executors = (containers, servers);
        let monitor = Monitor::new(&live, "a", docker, executors, (client, streamer), Arc::clone(health), books);
        let end = move || {
            outbox.stop();
            sampler.stop();
        };
        (monitor, [sampling, offering], end)
    }

    #[test]
    fn the_containers_of_a_job_are_needed_while_it_is_in_hand_or_waits_for_the_next_start() {
        use crate::jobs::record::store_tests::{ended, entry, id};
        let scratch = crate::os::scratch::Scratch::new();
        let dir = scratch.to_path_buf();
        let (health, stop) = (Arc::new(HealthState::new()), Stop::new());
        let (monitor, helpers, end) = monitor(&dir, &health, &stop);
        let books = &monitor.books;
        assert!(!books.needs(&id("nobodys")));
        let token = books.running.claim(&id("runs")).expect("free");
        assert!(books.needs(&id("runs")));
        drop(token);
        assert!(!books.needs(&id("runs")));
        // As one whose thread could not be started.
        books.records.put(&entry("waits", crate::jobs::record::Stage::Intent)).expect("put");
        assert!(books.needs(&id("waits")));
        // On disk, and offered to a backend that is away: its container was to be removed before.
        books.outbox.report(entry("ended", ended(1, ""))).expect("kept");
        assert!(books.records.has(&id("ended")) && !books.needs(&id("ended")));
        stop.set();
        end();
        for thread in helpers {
            assert_eq!(thread.join_within(Duration::from_secs(10)), threads::Ended::Returned);
        }
        drop(monitor);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn one_that_hangs_is_noticed_and_one_without_engine_and_backend_is_not() {
        let dir = crate::os::scratch::Scratch::new();
        let (health, stop, pulses) = (Arc::new(HealthState::new()), Stop::new(), Pulses::new());
        let (monitor, helpers, end) = monitor(&dir, &health, &stop);
        let longest = Duration::from_millis(500);
        let held = health.hold();
        let thread = monitor.spawn(&stop, pulses.part("monitor", longest)).expect("a thread");
        std::thread::sleep(longest + longest / 5);
        assert_eq!(pulses.healthy(Instant::now()).expect_err("it hangs").part, "monitor");
        drop(held);
        // Until it sleeps between two looks, of which each slice is a touch.
        let until = Instant::now() + Duration::from_secs(20);
        while pulses.healthy(Instant::now()).is_err() {
            assert!(Instant::now() < until, "it does not get on again");
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.set();
        end();
        for thread in helpers.into_iter().chain([thread]) {
            assert_eq!(thread.join_within(Duration::from_secs(10)), threads::Ended::Returned);
        }
        assert_eq!(pulses.healthy(Instant::now() + longest * 2), Ok(()), "what has ended is not stuck");
    }
}

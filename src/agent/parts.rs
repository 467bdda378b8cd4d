//! What the agent is made of, and what its threads share.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use crate::agent::images::{self, ImageKeeper};
use crate::agent::keeper::{Keeper, Means};
use crate::agent::monitor::{self, Monitor};
use crate::agent::reload::Reloads;
use crate::agent::{identity, live};
use crate::api;
use crate::cli::version::VERSION;
use crate::config::Live;
use crate::config::token::OnNew;
use crate::config::types::Config;
use crate::docker;
use crate::executors::Reaper;
use crate::executors::container::ContainerExecutor;
use crate::executors::container::janitor::Janitor;
use crate::executors::container::usage::Sampler;
use crate::executors::http::HttpExecutor;
use crate::executors::ssh::SshExecutor;
use crate::health::{self, Component, HealthState};
use crate::jobs::admission;
use crate::jobs::adopt::Adopter;
use crate::jobs::context::JobContext;
use crate::jobs::heartbeat::{Heartbeat, OnResult};
use crate::jobs::helpers::Helpers;
use crate::jobs::page_updates::PageUpdates;
use crate::jobs::poller::{Claimed, Poller, Slots};
use crate::jobs::receipt_key;
use crate::jobs::receipts::{Receipts, Signer};
use crate::jobs::reconcile::Reconciler;
use crate::jobs::reconcile::claims::Claims;
use crate::jobs::record::outbox::{Outbox, Terms};
use crate::jobs::record::{Checkpoints, Entry, Logins, Opened, Place, RecordStore};
use crate::jobs::removals::Removals;
use crate::jobs::row_watch::RowWatch;
use crate::jobs::running::Running;
use crate::jobs::secrets::Secrets;
use crate::jobs::status;
use crate::limits;
use crate::logs::{Dialect, LogStreamer};
use crate::os::proc;
use crate::os::pulse::Pulses;
use crate::os::stop::Stop;
use crate::os::threads::Thread;
use crate::redact::Redactor;
use crate::signing::receipt::key_id;
use crate::signing::sign::SigningKey;
use crate::telemetry;

/// A part that could not be built or started, in words for the operator.
pub(super) type Failure = String;

/// The parts that the threads share, before most of those are started.
pub(super) struct Parts {
    pub(super) health: Arc<HealthState>,
    pub(super) probes: Option<health::Server>,
    /// What the page on the health port shows.
    pub(super) shown: health::Shown,
    /// Ends everything that waits, but the poller.
    pub(super) all: Stop,
    pub(super) client: api::Client,
    pub(super) docker: docker::Client,
    pub(super) containers: ContainerExecutor,
    pub(super) servers: SshExecutor,
    pub(super) reaper: Reaper,
    pub(super) sampler: Sampler,
    pub(super) pages: PageUpdates,
    pub(super) running: Running,
    pub(super) slots: Slots,
    pub(super) streamer: LogStreamer,
    pub(super) records: RecordStore,
    pub(super) outbox: Outbox,
    pub(super) removals: Removals,
    pub(super) checkpoints: Checkpoints,
    pub(super) claims: Claims,
    pub(super) helpers: Helpers,
    pub(super) logins: Logins,
    pub(super) secrets: Secrets,
    /// `None` without receipts.
    pub(super) own_key: Option<SigningKey>,
    pub(super) pulses: Pulses,
    /// The longest that a call to the backend can last: what a poll under way claims must be given back, not forgotten.
    pub(super) longest_call: Duration,
    pub(super) reloads: Reloads,
    /// The jobs that an earlier run began.
    pub(super) open: Vec<Entry>,
    /// In the order in which they are joined.
    pub(super) threads: Vec<Thread>,
}

/// The longest that a call to the backend can last, with some room.
fn longest_call(config: &Config) -> Duration {
    config.api.timeout + limits::THREAD_JOIN_WAIT
}

pub(super) fn no_thread(error: std::io::Error) -> Failure {
    format!("cannot start a thread: {error}")
}

impl Parts {
    /// Opens the records first: where another agent works, nothing else is touched.
    pub(super) fn make(config: &Config) -> Result<(Self, String), Failure> {
        let logins = Logins::new(&config.api.token);
        let secrets = Secrets::new(config, &logins);
        let own = Redactor::default();
        secrets.know_own(&own);
        telemetry::protect(own.clone());
        identity::prepare_state(&config.state.dir)?;
        let Opened { records, open, ended } =
            RecordStore::open(&config.state.dir).map_err(|error| error.to_string())?;
        let id = identity::resolve(&config.orchestrator.id, &config.state.dir)?;
        let own_key = config.receipts.then(|| receipt_key::make_or_read(&config.state.dir)).transpose()?;
        log::info!("cronium-agent {VERSION}, agent {id}, backend {}", config.api.endpoint);

        let health = Arc::new(HealthState::new());
        let shown = health::Shown::default();
        let probes = health::start(&config.monitoring, &health, &shown).map_err(|error| error.to_string())?;
        let all = Stop::new();
        let client =
            api::Client::new(&config.api, &config.tls, &id, VERSION, all.clone()).map_err(|error| error.to_string())?;
        let docker = docker::Client::new(&config.container.docker);
        let pulses = Pulses::new();
        let reaping = pulses.part("reaper", limits::DOCKER_QUICK + limits::PULSE_ROOM);
        let (reaper, reaper_thread) = Reaper::start(reaping).map_err(no_thread)?;
        let (sampler, sampler_thread) = Sampler::start(docker.clone()).map_err(no_thread)?;
        let containers = ContainerExecutor::new(docker.clone(), config, &id, sampler.clone());
        let servers = SshExecutor::new(config);
        let known = Arc::clone(&health);
        servers.watch(Box::new(move |tripped| monitor::show_servers(&known, tripped)));

        let (running, slots) = (Running::new(), Slots::new(config.jobs.max_concurrent));
        client.token().on_new(known_to(&secrets, &logins, &running, own));
        let (streamer, streamer_thread) = live::log(config, (&id, client.token()), &running, &slots, &pulses)?;
        let told = client.clone();
        streamer.on_connect(move || told.is_back());
        let terms = Terms::new(config.jobs.report_retention);
        let offering = pulses.part("outbox", longest_call(config) + limits::PULSE_ROOM);
        let (outbox, outbox_thread) =
            Outbox::start(records.clone(), &client, ended, terms, offering).map_err(no_thread)?;
        let (checkpoints, checkpoints_thread) = Checkpoints::start().map_err(no_thread)?;
        let paging = pulses.part("page-updates", longest_call(config) * 2 + limits::PULSE_ROOM);
        let (pages, pages_thread) =
            PageUpdates::start(live::way(config), streamer.clone(), longest_call(config), &client, paging)
                .map_err(no_thread)?;
        let has_helpers = open.iter().filter(|entry| entry.helpers.is_some());
        let in_use: Vec<_> = has_helpers.map(|entry| entry.execution.clone()).collect();
        let helpers = Helpers::start(config, &in_use, docker.is_local());
        let mut threads = Vec::from_iter(streamer_thread.into_iter().chain(pages_thread));
        threads.extend([outbox_thread, checkpoints_thread, reaper_thread, sampler_thread]);
        let parts = Self {
            health,
            probes,
            shown,
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
            removals: Removals::default(),
            checkpoints,
            claims: Claims::new(config.api.timeout),
            helpers,
            logins,
            secrets,
            own_key,
            pulses,
            longest_call: longest_call(config),
            reloads: Reloads::default(),
            open,
            threads,
        };
        Ok((parts, id))
    }

    /// What keeps the proof of the walls around jobs young.
    pub(super) fn proofs(&self, config: &Live, id: &str) -> Keeper {
        Keeper::new(Means {
            config: config.clone(),
            docker: self.docker.clone(),
            agent: id.to_owned(),
            containers: self.containers.clone(),
            slots: self.slots.clone(),
            reaper: self.reaper.clone(),
            sampler: self.sampler.clone(),
            health: Arc::clone(&self.health),
        })
    }

    /// What sees to images beside the jobs.
    pub(super) fn images(&self, config: &Live) -> ImageKeeper {
        ImageKeeper::new(images::Means {
            config: config.clone(),
            docker: self.docker.clone(),
            containers: self.containers.clone(),
            records: self.records.clone(),
            health: Arc::clone(&self.health),
        })
    }

    /// What `status` shows.
    pub(super) fn sources(
        &self,
        id: &str,
        config: &Live,
        (proofs, images): (&Keeper, &ImageKeeper),
    ) -> status::Sources {
        let trust = config.clone();
        let (servers, streamer, pages) = (self.servers.clone(), self.streamer.clone(), self.pages.clone());
        let containers = self.containers.clone();
        let (proofs, images) = (proofs.clone(), images.clone());
        let outbox = self.outbox.clone();
        status::Sources {
            images: Box::new(move || images.shown()),
            warm: Box::new(move || containers.warm()),
            id: id.to_owned(),
            version: VERSION.to_owned(),
            started: (SystemTime::now(), Instant::now()),
            health: Arc::clone(&self.health),
            running: self.running.clone(),
            slots: self.slots.clone(),
            asked_of_jobs: Box::new(move || admission::shown(&trust.now().trust)),
            tripped: Box::new(move || servers.tripped()),
            live_log: Box::new(move || streamer.connection()),
            pages: Box::new(move || pages.is_used()),
            proofs: Box::new(move || proofs.shown()),
            reload: self.reloads.now(),
            ask_reload: self.reloads.ask(),
            outbox: Box::new(move || outbox.state()),
            reports: status::reports_now(self.outbox.clone(), self.records.clone()),
        }
    }

    pub(super) fn monitor(
        &mut self,
        context: &Arc<JobContext>,
        id: &str,
        adopter: Adopter,
        (proofs, images): (&Keeper, &ImageKeeper),
    ) -> Monitor {
        let held = self.containers.holds();
        let engine = Janitor::new(self.docker.clone(), id, limits::JANITOR_GRACE).sparing(held);
        let open = std::mem::take(&mut self.open);
        // Before the first look at the engine: no label says whose these are.
        let warm = |entry: &Entry| match &entry.place {
            Place::Container(page) => page.warm.clone(),
            Place::Servers(_) | Place::Nowhere => None,
        };
        open.iter().filter_map(warm).for_each(|id| self.containers.expect(&id));
        let reconciler = Reconciler::new(context, adopter, Box::new(engine), open);
        // What an earlier run began goes on before anything else is claimed or removed.
        reconciler.adopt_recorded();
        let executors = (self.containers.clone(), self.servers.clone());
        let health = Arc::clone(&self.health);
        Monitor::new(context, reconciler, self.docker.clone(), executors, health, (proofs.clone(), images.clone()))
    }

    /// What signs receipts.
    fn receipts(&mut self, id: &str, proofs: &Keeper) -> Receipts {
        let proofs = proofs.clone();
        let signer = |key: SigningKey| {
            log::info!("reports carry receipts (security.receipts), signed by {}", key_id(id, key.public()));
            let (agent, host, proof) = (id.to_owned(), proc::host_name(), Box::new(move || proofs.facts()));
            Signer { key, agent, host, proof }
        };
        Receipts::new(self.own_key.take().map(signer))
    }

    pub(super) fn context(&mut self, config: &Live, (id, proofs): (&str, &Keeper)) -> Arc<JobContext> {
        let receipts = self.receipts(id, proofs);
        Arc::new(JobContext {
            receipts,
            config: config.clone(),
            client: self.client.clone(),
            containers: Box::new(self.containers.clone()),
            servers: Box::new(self.servers.clone()),
            requests: Box::new(HttpExecutor::new(config)),
            reaper: self.reaper.clone(),
            streamer: self.streamer.clone(),
            pages: self.pages.clone(),
            running: self.running.clone(),
            records: self.records.clone(),
            outbox: self.outbox.clone(),
            removals: self.removals.clone(),
            checkpoints: self.checkpoints.clone(),
            claims: self.claims.clone(),
            secrets: self.secrets.clone(),
            logins: self.logins.clone(),
            helpers: self.helpers.clone(),
            stop: self.all.clone(),
            pulses: self.pulses.clone(),
        })
    }

    /// Starts the threads that watch jobs, backend and engine.
    pub(super) fn watch(&mut self, config: &Live, monitor: Monitor) -> std::io::Result<()> {
        let heartbeat = Heartbeat {
            pulse: self.pulses.part("heartbeat", self.longest_call + limits::PULSE_ROOM),
            client: self.client.clone(),
            running: self.running.clone(),
            config: config.clone(),
            on_result: told_to(&self.health),
            stop: self.all.clone(),
        };
        let row_watch = RowWatch {
            client: self.client.clone(),
            running: self.running.clone(),
            stop: self.all.clone(),
            pulse: self.pulses.part("row-watch", self.longest_call + limits::ROW_IDLE + limits::PULSE_ROOM),
        };
        let looking = self.longest_call.max(limits::DOCKER_WORK) + limits::PULSE_ROOM;
        let looking = self.pulses.part("monitor", looking);
        let first = [heartbeat.spawn()?, row_watch.spawn()?, monitor.spawn(&self.all, looking)?];
        self.threads.splice(..0, first);
        Ok(())
    }

    /// The poller, which gives what it claims to a worker by `hand`.
    pub(super) fn poller(&self, config: &Live, hand: Sender<Claimed>, no_more_claims: &Stop) -> Poller {
        let admission = Arc::clone(&self.health);
        let mut poller = Poller::new(
            config,
            self.client.clone(),
            self.slots.clone(),
            self.running.clone(),
            hand,
            Box::new(move || admission.why_not_ready().map_or(Ok(()), Err)),
            no_more_claims.clone(),
        );
        poller.lost = self.claims.clone();
        let streamer = self.streamer.clone();
        // The dialect of plain lines has no way to announce jobs.
        poller.is_pushed = Box::new(move || {
            let state = streamer.connection();
            state.connected_since.is_some() && state.dialect == Some(Dialect::V2)
        });
        poller.pulse = self.pulses.part("poller", self.longest_call + limits::PULSE_ROOM);
        poller
    }
}

/// What learns each further token before it is used.
fn known_to(secrets: &Secrets, logins: &Logins, running: &Running, own: Redactor) -> OnNew {
    let (secrets, logins, running) = (secrets.clone(), logins.clone(), running.clone());
    Box::new(move |token| {
        own.add([token]);
        secrets.add_own(token);
        running.know(token);
        logins.seal_with(token);
    })
}

/// The heartbeat's outcome goes to the health state.
fn told_to(health: &Arc<HealthState>) -> OnResult {
    let health = Arc::clone(health);
    Box::new(move |result| match result {
        Ok(latency) => monitor::backend_answered(&health, latency),
        Err(error) => health.set("api", Component::unhealthy(error.to_string())),
    })
}

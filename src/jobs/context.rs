//! What every job needs of the agent: built once, shared by all threads that run jobs.

use std::sync::Arc;
use std::time::Duration;

use crate::api;
use crate::config::Live;
use crate::config::types::Config;
use crate::executors::{Control, Executor, Reaper, Task};
use crate::job::{Id, Job, Kind};
use crate::jobs::ending::{Left, Unreported};
use crate::jobs::helpers::{Helpers, Session};
use crate::jobs::output::JobOutput;
use crate::jobs::page_updates::PageUpdates;
use crate::jobs::receipts::Receipts;
use crate::jobs::reconcile::claims::Claims;
use crate::jobs::record::RecordStore;
use crate::jobs::record::outbox::Outbox;
use crate::jobs::record::{Checkpoints, JobRecord, Logins};
use crate::jobs::removals::Removals;
use crate::jobs::running::{Running, Token};
use crate::jobs::secrets::Secrets;

use crate::limits;
use crate::logs::LogStreamer;
use crate::os::clock;
use crate::os::pulse::{Entered, Pulses};
use crate::os::stop::Stop;
use crate::policy::stop::Pace;
use crate::redact::Redactor;

/// What every job needs.
pub struct JobContext {
    pub config: Live,
    pub client: api::Client,
    pub containers: Box<dyn Executor>,
    /// Runs jobs on servers.
    pub servers: Box<dyn Executor>,
    /// Makes HTTP requests.
    pub requests: Box<dyn Executor>,
    pub reaper: Reaper,
    pub streamer: LogStreamer,
    pub pages: PageUpdates,
    pub running: Running,
    pub records: RecordStore,
    pub outbox: Outbox,
    pub removals: Removals,
    pub checkpoints: Checkpoints,
    /// Told of each release that failed.
    pub claims: Claims,
    /// Seals the logins of servers for the records.
    pub logins: Logins,
    /// Which values of a job are secrets.
    pub secrets: Secrets,
    pub receipts: Receipts,
    pub helpers: Helpers,
    /// Ends waits for a backend that does not answer.
    pub stop: Stop,
    pub pulses: Pulses,
}

impl JobContext {
    /// The executor for jobs of this kind.
    pub fn executor(&self, kind: Kind) -> &dyn Executor {
        match kind {
            Kind::Container => &*self.containers,
            Kind::Ssh => &*self.servers,
            Kind::Http => &*self.requests,
        }
    }

    /// The watchdog watches this thread as `name` until the guard is dropped.
    pub fn watched(&self, name: &'static str) -> Entered {
        self.pulses.part(name, longest_silence(&self.config.now())).enter()
    }

    /// The job's control. From now on the reaper acts on it.
    pub(in crate::jobs) fn control(&self, token: &Token) -> Arc<Control> {
        let control = Arc::clone(token.control());
        self.reaper.watch(&control, pace(&self.config.now()));
        control
    }

    /// The output of a job that starts now. From here on its secrets are known.
    pub(in crate::jobs) fn output(&self, job: &Job, token: &Token) -> JobOutput {
        let (config, redactor) = (self.config.now(), token.redactor());
        let told = self.secrets.know(redactor, job, &config.redact);
        let mut output = JobOutput::new(config.jobs.max_output, self.streamer.open(&job.id), redactor);
        told.into_iter().for_each(|text| output.announce(text));
        output
    }

    /// The helpers of a task's script, where its record says that it uses them.
    pub(in crate::jobs) fn helpers_of(
        &self,
        task: &Task,
        record: &Arc<JobRecord>,
        redactor: &Redactor,
    ) -> Option<Session> {
        let shared = (&self.secrets, redactor);
        record.has_helpers().then(|| self.helpers.open(&self.client, &self.config.now(), task, record, shared))
    }

    /// Sends the job's status to its live viewers. This is only for show: the report counts.
    pub fn show(&self, job: &Id, status: &str, details: Option<&str>) {
        self.streamer.status(job, status, clock::wall(), details);
    }

    /// The last step of every job: it leaves the registry, and nothing of it stays behind. What is left of it is removed
    /// while its worker goes on.
    ///
    /// The token goes first. From then on the backend may hand the job out again, to this agent too, and the agent must
    /// take it.
    pub(in crate::jobs) fn finish(&self, token: Token, execution: &Id, left: Result<Left, Unreported>) {
        let job = token.id().clone();
        drop(token);
        match left {
            Ok(left) if left.is_nothing() => {}
            Ok(left) => {
                let outbox = self.outbox.clone();
                self.removals.begin(&job, execution, move || left.remove(&outbox));
            }
            Err(Unreported::GiveBack(why)) => {
                log::warn!("giving the job back to the queue: {why}");
                // The record goes last: after a kill before this line, the next agent gives the job back by it.
                if self.release(&job, why) {
                    self.records.remove_execution(&job, execution);
                }
            }
            Err(Unreported::Forget) => self.records.remove_execution(&job, execution),
            Err(Unreported::LeftToNext) => {}
        }
    }

    /// Gives the job back; whether its record is of no use any more.
    ///
    /// A second try could take the job from this agent, which may have claimed it again after the first. So there is only
    /// one, and the search for lost claims goes on. An agent that ends claims nothing more, so it tries again; where that
    /// fails too, the next one does it by the record.
    fn release(&self, job: &Id, why: &str) -> bool {
        let ending = self.running.is_ending();
        let released = if ending { self.client.release(job, why) } else { self.client.release_once(job, why) };
        let Err(error) = released else { return true };
        let next = if ending { "next start" } else { "search for lost claims" };
        log::error!("the job could not be given back, the {next} tries again: {error}");
        self.claims.suspect();
        !ending || matches!(error.status(), Some(400..=499))
    }
}

/// How hard jobs are ended.
pub(in crate::jobs) fn pace(config: &Config) -> Pace {
    Pace { grace: config.jobs.stop_grace, again: limits::KILL_AGAIN, patience: limits::KILL_PATIENCE }
}

/// The longest time between two touches of the pulse by a thread that runs a job: one call, or one wait for the
/// acknowledgement.
fn longest_silence(config: &Config) -> Duration {
    let call = config.api.timeout.max(config.ssh.connection_timeout * 2);
    limits::ACKNOWLEDGE_WAIT.max(call) + limits::PULSE_ROOM
}

#[cfg(test)]
pub(crate) mod testing {
    //! A context on a folder, without an engine: what runs jobs is there and runs none.

    use std::path::Path;

    use super::*;
    use crate::config;
    use crate::config::types::DockerEndpoint;
    use crate::docker;
    use crate::executors::container::ContainerExecutor;
    use crate::executors::container::usage::Sampler;
    use crate::executors::http::HttpExecutor;
    use crate::executors::ssh::SshExecutor;
    use crate::jobs::record::Opened;
    use crate::jobs::record::outbox::Terms;
    use crate::os::pulse::Pulse;
    use crate::os::threads::{self, Thread};
    use crate::secret::Secret;

    pub(crate) struct Parts {
        pub(crate) context: Arc<JobContext>,
        pub(crate) containers: ContainerExecutor,
        pub(crate) servers: SshExecutor,
        pub(crate) docker: docker::Client,
        pub(crate) sampler: Sampler,
        threads: Vec<Thread>,
    }

    impl Parts {
        pub(crate) fn new(dir: &Path, client: api::Client, stop: &Stop) -> Self {
            let mut config = config::defaults();
            config.state.dir = dir.to_owned();
            config.container.docker.endpoint = DockerEndpoint::Unix(dir.join("no.sock"));
            let docker = docker::Client::new(&config.container.docker);
            let (sampler, sampling) = Sampler::start(docker.clone()).expect("a thread");
            let containers = ContainerExecutor::new(docker.clone(), &config, "a", sampler.clone());
            let servers = SshExecutor::new(&config);
            let Opened { records, .. } = RecordStore::open(dir).expect("records");
            let terms = Terms::new(Duration::from_secs(60));
            let (outbox, offering) =
                Outbox::start(records.clone(), &client, Vec::new(), terms, Pulse::unwatched()).expect("a thread");
            let (reaper, reaping) = Reaper::start(Pulse::unwatched()).expect("a thread");
            let helpers = Helpers::of_this_process(&config, false);
            let config = Live::new(config);
            let logins = Logins::new(&Secret::new("token"));
            let secrets = Secrets::new(&config.now(), &logins);
            let context = Arc::new(JobContext {
                client,
                containers: Box::new(containers.clone()),
                servers: Box::new(servers.clone()),
                requests: Box::new(HttpExecutor::new(&config)),
                config,
                reaper,
                streamer: LogStreamer::disabled(),
                pages: PageUpdates::off(),
                running: Running::new(),
                records,
                outbox,
                removals: Removals::default(),
                checkpoints: Checkpoints::default(),
                claims: Claims::new(Duration::ZERO),
                secrets,
                receipts: Receipts::default(),
                logins,
                helpers,
                stop: stop.clone(),
                pulses: Pulses::new(),
            });
            Self { context, containers, servers, docker, sampler, threads: vec![sampling, offering, reaping] }
        }

        pub(crate) fn end(self) {
            self.context.outbox.stop();
            self.context.reaper.stop();
            self.sampler.stop();
            for thread in self.threads {
                assert_eq!(thread.join_within(Duration::from_secs(10)), threads::Ended::Returned);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_with_the_longest_wait_of_all_has_room_beyond_it() {
        let (second, mut config) = (Duration::from_secs(1), crate::config::defaults());
        let bounds = |config: &Config, longest: Duration| {
            let pulses = Pulses::new();
            let pulse = pulses.part("worker", longest_silence(config));
            pulse.touch();
            let late = clock::now() + longest + limits::PULSE_ROOM;
            (pulses.healthy(late - second).is_ok(), pulses.healthy(late + second).is_ok())
        };
        assert_eq!(bounds(&config, limits::ACKNOWLEDGE_WAIT), (true, false));
        config.api.timeout = limits::ACKNOWLEDGE_WAIT * 2;
        assert_eq!(bounds(&config, limits::ACKNOWLEDGE_WAIT * 2), (true, false));
    }
}

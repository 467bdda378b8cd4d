//! Runs a script in a hardened container.
//!
//! From top to bottom, the life of one: [`ContainerExecutor::prepare`] writes the program that carries the script,
//! sees to network and image, creates the container and attaches to it; `run` (in `run.rs`) starts it, feeds the
//! program, reads to the end of the stream, collects the evidence and removes the container. A [`Container`] that is
//! dropped anywhere on this way, by an error or a panic, is removed.

pub mod adopted;
pub mod janitor;
pub mod judge;
pub mod labels;
pub mod marker;
pub mod program;
pub mod pulls;
pub mod rejoin;
pub mod resources;
pub mod run;
pub mod spec;
pub mod unconfirmed;
pub mod usage;

use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use crate::config::types::{Config, Container as Settings, Jobs, NetworkMode, PullPolicy, ResourceSet};
use crate::docker::networks::Bridge;
use crate::docker::{self, Deadline, Error};
use crate::executors::container::adopted::Adopted;
use crate::executors::container::labels::Labels;
use crate::executors::container::program::{Program, WORKSPACE};
use crate::executors::container::pulls::Pulls;
use crate::executors::container::run::{Base, Container, Ready};
use crate::executors::container::spec::{Spec, container_name};
use crate::executors::container::unconfirmed::UnconfirmedContainers;
use crate::executors::container::usage::Sampler;
use crate::executors::ending::{ended_early, setup_verdict};
use crate::executors::{AdoptError, Control, Executor, Prepared, ReattachInfo, Task, shell};
use crate::job::{Language, Output};
use crate::os::owner::Owner;
use crate::os::random;
use crate::verdict::{Outcome, Verdict};

/// Runs container jobs.
#[derive(Debug, Clone)]
pub struct ContainerExecutor {
    /// Replaced as a whole by a reload; each job keeps the one that it began with.
    shared: Arc<RwLock<Arc<Shared>>>,
}

#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) docker: docker::Client,
    settings: Settings,
    agent: String,
    owner: Option<Owner>,
    pub(super) jobs: Jobs,
    /// What the limit of image, container and start is called.
    setup: &'static str,
    pulls: Pulls,
    unconfirmed: UnconfirmedContainers,
    pub(super) sampler: Sampler,
    /// The device that holds the engine's data, looked for once, when a rate is limited.
    device: OnceLock<Result<String, String>>,
}

impl ContainerExecutor {
    /// An executor on `docker` for the agent of this id.
    pub fn new(docker: docker::Client, config: &Config, agent: &str, sampler: Sampler) -> Self {
        let shared = Shared {
            pulls: Pulls::new(docker.clone(), config.container.registry_auth_file.clone()),
            unconfirmed: UnconfirmedContainers::new(docker.clone()),
            docker,
            settings: config.container.clone(),
            agent: agent.to_owned(),
            owner: None,
            jobs: config.jobs.clone(),
            setup: "jobs.setupTimeout",
            sampler,
            device: OnceLock::new(),
        };
        Self { shared: Arc::new(RwLock::new(Arc::new(shared))) }
    }

    /// The executor of `exec`, to whose containers no agent comes back: they are this process's.
    pub fn of_this_process(docker: docker::Client, config: &Config, sampler: Sampler) -> Self {
        let this = Self::new(docker, config, labels::EXEC, sampler);
        let mut shared = this.shared.write().unwrap_or_else(PoisonError::into_inner);
        *shared = Arc::new(Shared { owner: Owner::this_process(), ..Shared::clone(&shared) });
        drop(shared);
        this
    }

    /// The same, where `jobs.setup_timeout` was shortened by a limit of this name.
    pub fn with_setup_called(self, setup: &'static str) -> Self {
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        *shared = Arc::new(Shared { setup, ..Shared::clone(&shared) });
        drop(shared);
        self
    }

    /// Jobs that are prepared from now on get these images, limits, walls, network and timeouts; the engine stays.
    pub fn reload(&self, config: &Config) {
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        *shared = Arc::new(Shared {
            settings: config.container.clone(),
            jobs: config.jobs.clone(),
            ..Shared::clone(&shared)
        });
    }

    fn now(&self) -> Arc<Shared> {
        Arc::clone(&self.shared.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the network of the jobs now, so that the first job need not.
    pub fn warm_up(&self) -> Result<(), Error> {
        self.now().network().map(drop)
    }

    /// Removes containers whose creation was never confirmed; to be called now and then.
    pub fn sweep(&self) {
        self.now().unconfirmed.sweep();
    }
}

impl Executor for ContainerExecutor {
    fn adopt(
        &self,
        _task: &Task,
        info: &ReattachInfo,
        left: Duration,
        control: &Arc<Control>,
    ) -> Result<Box<dyn Prepared>, AdoptError> {
        Ok(Box::new(Adopted::find(&self.now(), info, left, control)?))
    }

    fn prepare(
        &self,
        task: &Task,
        control: &Arc<Control>,
        output: &mut dyn Output,
    ) -> Result<Box<dyn Prepared>, Box<Outcome>> {
        let begun = (SystemTime::now(), Instant::now());
        let early = |verdict: Verdict| ended_early(verdict, begun);
        let variables = task.variables();
        let program = Program::new(&task.job.script, &variables, WORKSPACE, &random::hex(16))
            .map_err(|error| early(Verdict::refused(format!("the job cannot be run: {error}"))))?;
        let shared = self.now();
        let deadline = Deadline::after(shared.jobs.setup_timeout, shared.setup);
        match shared.make(task, control, program, deadline, begun, output) {
            Ok(ready) => Ok(Box::new(ready)),
            Err(error) => Err(early(setup_verdict(&error, control))),
        }
    }
}

impl Shared {
    fn make(
        self: &Arc<Self>,
        task: &Task,
        control: &Arc<Control>,
        program: Program,
        deadline: Deadline,
        begun: (SystemTime, Instant),
        output: &mut dyn Output,
    ) -> Result<Ready, Error> {
        let limits = &self.settings.limits;
        let (resources, notes) = resources::effective(&task.job.resources, &self.settings.defaults, limits);
        notes.iter().chain(&shell::notes(&task.job.script)).for_each(|note| output.system(note));
        let timeout = task.timeout(&self.jobs, output);
        let image = self.image(task.job.script.language).to_owned();
        let network = self.network()?;
        let device = self.device(&resources)?;
        let spec = Spec {
            image: &image,
            labels: Labels {
                job: &task.job.id,
                execution: &task.execution,
                agent: &self.agent,
                owner: self.owner.as_ref(),
                attempts: task.job.attempts,
                language: task.job.script.language,
                timeout,
                resources: &resources,
                nonce: program.nonce(),
            },
            resources: &resources,
            security: &self.settings.security,
            network: &network,
            dns: &self.settings.network.dns,
            device: device.as_deref(),
            podman: self.docker.is_podman()?,
        };
        let body = spec.body().to_string();
        let name = container_name(&task.execution);
        let container = self.create(&image, &name, body.as_bytes(), control, deadline, output)?;
        let attached = self.docker.attach(container.id(), deadline)?;
        output.settle();
        let nonce = program.nonce().to_owned();
        let base = Base {
            shared: Arc::clone(self),
            container,
            control: Arc::clone(control),
            resources,
            layer_limited: !self.settings.security.readonly_rootfs,
            timeout,
            begun,
            name,
            image,
            network,
            nonce,
            hint: shell::hint(&task.job.script),
            ended_by: None,
        };
        Ok(Ready { attached, base, program, deadline })
    }

    /// Creates the container, with a pull before it where the policy says so or the image is not there.
    fn create(
        self: &Arc<Self>,
        image: &str,
        name: &str,
        body: &[u8],
        control: &Control,
        deadline: Deadline,
        output: &mut dyn Output,
    ) -> Result<Container, Error> {
        if self.settings.pull_policy == PullPolicy::Always {
            self.pulls.ensure(image, control, deadline, output)?;
        }
        let create = || match self.docker.create(name, body, deadline) {
            Ok(id) => Ok(Container::new(self.docker.clone(), id)),
            Err(error) => {
                self.unconfirmed.note(name, &error);
                Err(error)
            }
        };
        match create() {
            Err(error) if error.is_missing_image() && self.settings.pull_policy == PullPolicy::IfNotPresent => {
                self.pulls.ensure(image, control, deadline, output)?;
                create()
            }
            Err(error) if error.is_missing_image() && self.settings.pull_policy == PullPolicy::Never => {
                Err(Error::Pull {
                    image: image.to_owned(),
                    message: "the engine does not have it and container.images.pullPolicy is never; \
                          load it on this host, or set ifNotPresent"
                        .to_owned(),
                })
            }
            result => result,
        }
    }

    fn image(&self, language: Language) -> &str {
        match language {
            Language::Bash => &self.settings.images.bash,
            Language::Python => &self.settings.images.python,
            Language::Node => &self.settings.images.nodejs,
        }
    }

    /// The network's name for the create request; the shared bridge is made where it is missing.
    fn network(&self) -> Result<String, Error> {
        let network = &self.settings.network;
        match &network.mode {
            NetworkMode::Isolated => {
                let bridge = Bridge { icc: network.enable_icc, internal: network.internal };
                self.docker.ensure_bridge(bridge)?;
                Ok(bridge.name().to_owned())
            }
            NetworkMode::None => Ok("none".to_owned()),
            NetworkMode::Bridge => Ok("bridge".to_owned()),
            NetworkMode::Named(name) => Ok(name.clone()),
        }
    }

    /// The device on which rates are limited; none when there is no rate to limit.
    fn device(&self, set: &ResourceSet) -> Result<Option<String>, Error> {
        if [set.read_bps, set.write_bps, set.read_iops, set.write_iops].iter().all(Option::is_none) {
            return Ok(None);
        }
        let found = self.device.get_or_init(|| {
            if !self.docker.is_local() {
                return Err("the engine is on another host".to_owned());
            }
            let root = self.docker.info().map_err(|error| error.to_string())?.root;
            crate::os::device::below(Path::new(&root))
        });
        match found {
            Ok(device) => Ok(Some(device.clone())),
            // A limit that cannot be kept is not left out silently.
            Err(what) => Err(Error::Protocol {
                doing: "find the device for container.resources.*.readBps, writeBps, readIops, writeIops".to_owned(),
                what: what.clone(),
            }),
        }
    }
}

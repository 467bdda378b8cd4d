//! The face of containers to a worker: prepares a job's container, or adopts one.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use crate::config::images::{digest_hint, has_digest};
use crate::config::types::Config;
use crate::docker::{self, Deadline, Error};
use crate::executors::container::adopt;
use crate::executors::container::helper_mount::{HelperMount, Mounts};
use crate::executors::container::images::Images;
use crate::executors::container::labels::{self, JobLabels, Labels};
use crate::executors::container::program::{Program, WORKSPACE};
use crate::executors::container::pulls::Pulls;
use crate::executors::container::resources;
use crate::executors::container::run::{Ready, Run, Setup};
use crate::executors::container::shared::Shared;
use crate::executors::container::spec::{Spec, container_name};
use crate::executors::container::unconfirmed::UnconfirmedContainers;
use crate::executors::container::usage::{Before, Sampler};
use crate::executors::container::warm::{self, Folders, Pool, PoolState, Taken};
use crate::executors::ending::{ended_early, setup_verdict};
use crate::executors::helpers::Calls;
use crate::executors::{AdoptError, Control, Executor, Prepared, ReattachInfo, Task, WarmInfo, shell};
use crate::job::{Output, Stream};
use crate::limits;
use crate::metrics::{WarmEnd, WarmUse};
use crate::os::owner::Owner;
use crate::os::random;
use crate::verdict::{Outcome, Verdict};

/// Runs container jobs.
#[derive(Debug, Clone)]
pub struct ContainerExecutor {
    shared: Arc<RwLock<Arc<Shared>>>,
    warm: Pool,
}

impl ContainerExecutor {
    /// An executor on `docker` for the agent of this id.
    pub fn new(docker: docker::Client, config: &Config, agent: &str, sampler: Sampler) -> Self {
        let images = Images::default();
        let shared = Shared {
            pulls: Pulls::new(docker.clone(), config.container.registry_auth_file.clone(), images.clone()),
            images,
            unconfirmed: UnconfirmedContainers::new(docker.clone()),
            docker,
            settings: config.container.clone(),
            agent: agent.to_owned(),
            owner: None,
            are_canaries: false,
            jobs: config.jobs.clone(),
            setup: "jobs.setupTimeout",
            sampler,
            mounts: Mounts::default(),
            device: OnceLock::new(),
        };
        Self { shared: Arc::new(RwLock::new(Arc::new(shared))), warm: Pool::default() }
    }

    /// The executor of `exec`, to whose containers no agent comes back: they are this process's.
    pub fn of_this_process(docker: docker::Client, config: &Config, sampler: Sampler) -> Self {
        let this = Self::new(docker, config, labels::EXEC, sampler);
        this.change(|shared| Shared { owner: Owner::this_process(), ..shared });
        this
    }

    /// The executor of canaries: their containers carry no id of a job.
    pub fn of_canaries(docker: docker::Client, config: &Config, agent: &str, sampler: Sampler) -> Self {
        let this = Self::new(docker, config, agent, sampler);
        this.change(|shared| Shared { are_canaries: true, ..shared });
        this
    }

    /// The same with the pulls of another executor: what one of them pulls, the other knows.
    pub fn with_pulls_of(self, other: &Self) -> Self {
        let other = other.now();
        self.change(|shared| Shared { pulls: other.pulls.clone(), images: other.images.clone(), ..shared });
        self
    }

    /// What is known of images.
    pub fn images(&self) -> Images {
        self.now().images.clone()
    }

    /// Whether a job waits for the engine.
    pub fn is_busy(&self) -> bool {
        self.warm.must_wait()
    }

    /// Pulls an image ahead of any job, while it is `wanted` and no job pulls another.
    pub fn pull_ahead(&self, image: &str, wanted: &dyn Fn() -> bool) -> Result<(), Error> {
        let pulls = self.now().pulls.clone();
        let deadline = Deadline::after(limits::PRE_PULL, "limits::PRE_PULL");
        pulls.ensure(image, &|| wanted() && !pulls.are_of_others(image), deadline, &mut Silent)
    }

    /// The same, where `jobs.setup_timeout` was shortened by a limit of this name.
    pub fn with_setup_called(self, setup: &'static str) -> Self {
        self.change(|shared| Shared { setup, ..shared });
        self
    }

    /// Jobs that are prepared from now on get these images, limits, walls, network and timeouts; the engine stays.
    pub fn reload(&self, config: &Config) {
        self.change(|shared| Shared { settings: config.container.clone(), jobs: config.jobs.clone(), ..shared });
        if self.warm.is_kept() {
            warm::keep(&self.warm, &self.now());
        }
    }

    /// From now on containers wait for jobs, as `container.warm` says. `folders` makes those for their sockets.
    pub fn keep_warm(&self, folders: Folders) {
        self.warm.set_folders(folders);
        warm::keep(&self.warm, &self.now());
    }

    /// Throws away the containers that wait for jobs. Others are made in their place.
    pub fn discard_warm(&self, why: WarmEnd) {
        self.warm.discard(why);
    }

    /// Makes no more of them, and removes those that wait, beside the caller.
    pub fn stop_warm(&self) {
        self.warm.stop();
    }

    /// Waits for the end of that, for so long at most.
    pub fn join_warm(&self, wait: Duration) {
        self.warm.join(wait);
    }

    /// How many wait; `None` where none is wanted.
    pub fn warm(&self) -> Option<PoolState> {
        self.warm.shown()
    }

    /// The containers that somebody here sees to, by id or name. The janitor leaves them alone.
    pub fn holds(&self) -> Box<dyn Fn(&str) -> bool + Send + Sync> {
        let pool = self.warm.clone();
        Box::new(move |container| pool.holds(container))
    }

    /// Somebody here will see to this container, which a job of an earlier agent took.
    pub fn expect(&self, container: &str) {
        self.warm.expect(container);
    }

    fn change(&self, change: impl FnOnce(Shared) -> Shared) {
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        *shared = Arc::new(change(Shared::clone(&shared)));
    }

    fn now(&self) -> Arc<Shared> {
        Arc::clone(&self.shared.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the network of the jobs now, so that the first job need not. An engine that would leave out the filter of system
    /// calls is an error.
    pub fn warm_up(&self) -> Result<(), Error> {
        let shared = self.now();
        shared.has_filter()?;
        shared.network()
    }

    /// Removes containers whose creation was never confirmed; to be called now and then.
    pub fn sweep(&self) {
        self.now().unconfirmed.sweep();
    }
}

/// Nobody reads of a pull that no job waits for.
struct Silent;

impl Output for Silent {
    fn bytes(&mut self, _: Stream, _: &[u8]) {}
    fn system(&mut self, _: &str) {}
    fn settle(&mut self) {}
}

impl Executor for ContainerExecutor {
    fn adopt(
        &self,
        _task: &Task,
        info: &ReattachInfo,
        left: Duration,
        control: &Arc<Control>,
    ) -> Result<Box<dyn Prepared>, AdoptError> {
        Ok(Box::new(adopt::find((&self.now(), &self.warm), info, left, control)?))
    }

    fn prepare(
        &self,
        task: &Task,
        control: &Arc<Control>,
        output: &mut dyn Output,
    ) -> Result<Box<dyn Prepared>, Box<Outcome>> {
        let begun = (SystemTime::now(), Instant::now());
        let early = |verdict: Verdict| ended_early(verdict, begun);
        let shared = self.now();
        let image = shared.settings.images.of(task.job.script.language);
        if shared.settings.images.require_digest && !has_digest(image) {
            let why = format!("the image {image} has no digest, while container.images.requireDigest is true");
            return Err(early(Verdict::refused(format!("{why}; {}", digest_hint(image)))));
        }
        let mount = shared.mounts.of(task, &shared.docker);
        let program = program_of(task, &mount, &random::hex(16))
            .map_err(|error| early(Verdict::refused(format!("the job cannot be run: {error}"))))?;
        let deadline = Deadline::after(shared.jobs.setup_timeout, shared.setup);
        match make((&shared, &self.warm), task, control, (program, mount), deadline, begun, output) {
            Ok(ready) => Ok(Box::new(ready)),
            Err(error) => Err(early(setup_verdict(&error, control))),
        }
    }
}

/// The program of a task whose script finds the agent at `mount`.
fn program_of(task: &Task, mount: &HelperMount<'_>, nonce: &str) -> Result<Program, shell::ProgramError> {
    let unreachable = mount.as_ref().and_then(|mount| mount.as_ref().err());
    let helpers = task.helper_files(unreachable.map_or(Calls::Socket, |why| Calls::None(why)));
    let variables = task.variables(mount.as_ref().is_some_and(Result::is_ok));
    Program::new(&task.job.script, &variables, helpers.as_ref(), WORKSPACE, nonce)
}

/// Makes the container and attaches to it, or takes one that waits.
fn make(
    (shared, pool): (&Arc<Shared>, &Pool),
    task: &Task,
    control: &Arc<Control>,
    (mut program, mount): (Program, HelperMount<'_>),
    deadline: Deadline,
    begun: (SystemTime, Instant),
    output: &mut dyn Output,
) -> Result<Ready, Error> {
    let busy = Some(pool.busy());
    let most = &shared.settings.limits;
    let (resources, notes) = resources::effective(&task.job.resources, &shared.settings.defaults, most);
    notes.iter().chain(&shell::notes(&task.job.script)).for_each(|note| output.system(note));
    let timeout = task.timeout(&shared.jobs, output);
    let image = shared.settings.images.of(task.job.script.language).to_owned();
    let nonce = program.nonce().to_owned();
    let network = shared.network_name();
    let device = shared.device(&resources)?;
    let podman = shared.docker.is_podman()?;
    let seccomp = shared.seccomp(podman)?;
    let dns = shared.dns();
    let (job, execution, attempts) = (&task.job.id, &task.execution, task.job.attempts);
    let mut spec = Spec {
        image: &image,
        labels: Labels {
            job: Some(JobLabels { job, execution, attempts, timeout }),
            agent: &shared.agent,
            owner: shared.owner.as_ref(),
            is_canary: shared.are_canaries,
            language: task.job.script.language,
            resources: &resources,
            nonce: &nonce,
        },
        resources: &resources,
        security: &shared.settings.security,
        network: &network,
        dns: &dns,
        device: device.as_deref(),
        seccomp: seccomp.as_deref(),
        podman,
        helpers: mount.and_then(Result::ok),
    };
    let name = container_name(&task.execution);
    let hint = shell::hint(&task.job.script);
    let info = ReattachInfo { place: name.clone(), image: image.clone(), limits: Some(resources), timeout, warm: None };
    let setup =
        |before, way| Setup { begun, network: network.clone(), hint: hint.clone(), ended_by: None, before, way };
    // A canary tries what is made for it.
    let taken = if shared.are_canaries { None } else { pool.take(shared, (&spec, &name), deadline) };
    let way = match taken {
        Some(Ok(Taken { attached, container, nonce, before })) => {
            // It was written before, with another word.
            program = program_of(task, &shared.mounts.of(task, &shared.docker), &nonce).unwrap_or(program);
            output.settle();
            let warm = Some(WarmInfo { id: container.id().to_owned(), since: begun.0 });
            let (info, setup) = (ReattachInfo { warm, ..info }, setup(before, Some(WarmUse::Warm)));
            let run = Run::new(shared, container, control, info, &nonce, setup);
            return Ok(Ready { attached, run, program, deadline, busy });
        }
        way => way.and_then(Result::err),
    };
    shared.network()?;
    let mut create = |spec: &Spec<'_>| {
        let body = spec.body().to_string();
        shared.create(&image, &name, body.as_bytes(), control, deadline, output)
    };
    let container = match create(&spec) {
        // The engine does not see the agent's folder. The script runs all the same: only a call of a helper fails.
        Err(error) if shared.mounts.are_unseen(spec.helpers, &error) => {
            spec.helpers = None;
            program = program_of(task, &shared.mounts.of(task, &shared.docker), &nonce).unwrap_or(program);
            create(&spec)?
        }
        result => result?,
    };
    let attached = shared.docker.attach(container.id(), deadline)?;
    output.settle();
    let run = Run::new(shared, container, control, info, &nonce, setup(Before::default(), way));
    Ok(Ready { attached, run, program, deadline, busy })
}

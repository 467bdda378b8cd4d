//! Makes one container that waits: created, attached and started as a cold one, with the limits of a job that asks for
//! nothing.

use std::path::Path;

use super::fit::Shape;
use super::pool::{Pool, SocketFolder, Waiting};
use crate::docker::{Deadline, Error};
use crate::executors::container::guard::Container;
use crate::executors::container::labels::Labels;
use crate::executors::container::resources;
use crate::executors::container::shared::Shared;
use crate::executors::container::spec::Spec;
use crate::executors::container::usage::Before;
use crate::job::{Language, Resources};
use crate::limits;
use crate::os::{clock, random};

/// How the names of containers begin that wait.
const NAME: &str = "cronium-warm-";

/// Makes one. `None`: the pool was stopped, or a job came that needs the engine, before it was started.
pub(super) fn make(pool: &Pool, shared: &Shared, language: Language) -> Result<Option<Waiting>, Error> {
    let socket = if shared.mounts.are_possible(&shared.docker) { pool.folder() } else { None };
    let path = socket.as_ref().map(|folder| folder.0.clone());
    match make_with(pool, shared, language, socket) {
        // The engine does not see the folder: scripts that use helpers are cold.
        Err(error) if shared.mounts.are_unseen(path.as_deref(), &error) => make_with(pool, shared, language, None),
        result => result,
    }
}

/// The create request of a container that waits, as the configuration has it now.
pub(super) fn shape(shared: &Shared, language: Language) -> Result<Shape, Error> {
    with_spec(shared, (language, "", None), Shape::of)
}

fn with_spec<T>(
    shared: &Shared,
    (language, nonce, helpers): (Language, &str, Option<&Path>),
    act: impl FnOnce(&Spec<'_>) -> T,
) -> Result<T, Error> {
    let settings = &shared.settings;
    let (resources, _) = resources::effective(&Resources::default(), &settings.defaults, &settings.limits);
    let network = shared.network_name();
    let device = shared.device(&resources)?;
    let podman = shared.docker.is_podman()?;
    let seccomp = shared.seccomp(podman)?;
    let dns = shared.dns();
    let (agent, owner) = (&shared.agent, shared.owner.as_ref());
    Ok(act(&Spec {
        image: shared.settings.images.of(language),
        labels: Labels { job: None, is_canary: false, agent, owner, language, resources: &resources, nonce },
        resources: &resources,
        security: &settings.security,
        network: &network,
        dns: &dns,
        device: device.as_deref(),
        seccomp: seccomp.as_deref(),
        podman,
        helpers,
    }))
}

fn make_with(
    pool: &Pool,
    shared: &Shared,
    language: Language,
    socket: Option<SocketFolder>,
) -> Result<Option<Waiting>, Error> {
    let docker = &shared.docker;
    let deadline = Deadline::after(limits::DOCKER_WORK, "limits::DOCKER_WORK");
    let nonce = random::hex(16);
    let folder = socket.as_ref().map(|folder| folder.0.as_path());
    let (body, shape) =
        with_spec(shared, (language, &nonce, folder), |spec| (spec.body().to_string(), Shape::of(spec)))?;
    shared.network()?;
    let name = format!("{NAME}{}", random::hex(8));
    // Held by its name first: the janitor may see it before this thread has its id.
    let by_name = pool.hold(&name);
    let taken = shared.images.take(shared.settings.images.of(language), deadline, &|| !pool.is_stopped())?;
    let id =
        docker.create(&name, body.as_bytes(), deadline).inspect_err(|error| shared.unconfirmed.note(&name, error))?;
    let container = Container::new(docker.clone(), id.clone()).with(pool.hold(&id));
    drop((by_name, taken));
    let attached = docker.attach(&id, deadline)?;
    if pool.must_wait() {
        return Ok(None);
    }
    docker.start(&id, deadline)?;
    let found = docker.inspect(&id, false)?;
    let before = Before::of(docker, &id, found.state.pid);
    let (image, since) = (found.image, clock::now());
    Ok(Some(Waiting { attached, socket, container, nonce, language, shape, image, before, since }))
}

//! The client: the engine's address, the API version, and calls about the engine as a whole.

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::types::{Docker, DockerEndpoint};
use crate::docker::call::{self, Answer, Opened, Request};
use crate::docker::conn::{Conn, Deadline, Place};
use crate::docker::error::Error;
use crate::limits;
use crate::metrics::DockerOperation;
use crate::os::local;
use crate::wire::scan::{FieldsError, Json};

/// The oldest API with everything that the agent uses (1.41: Docker 20.10, Podman 4).
pub const OLDEST: &str = "1.41";
/// The newest API that this code was checked against; it is used with newer engines too.
pub const NEWEST: &str = "1.51";

/// A handle to the engine; clones share the negotiated version.
#[derive(Debug, Clone)]
pub struct Client {
    place: Arc<Place>,
    /// As configured; `None` negotiates.
    fixed: Option<String>,
    /// The last ping's answer.
    told: Arc<Mutex<Option<Told>>>,
    /// The id of the jobs' network when it was last looked at.
    bridge: Arc<Mutex<Option<String>>>,
}

/// The answer of `GET /_ping`.
#[derive(Debug, Clone)]
struct Told {
    /// The API version that both sides speak.
    version: String,
    /// The engine's newest.
    engine: String,
    podman: bool,
}

/// The versions of an engine: of its API, and of what it consists of.
#[derive(Debug, Clone)]
pub struct EngineVersion {
    /// The newest, such as `1.41`.
    pub api: String,
    /// The oldest.
    pub oldest_api: String,
    /// Names and versions of the programs that it consists of, as it tells them.
    pub parts: Vec<(String, String)>,
}

impl EngineVersion {
    /// The version of the first part whose name holds this word.
    pub fn part(&self, word: &str) -> Option<&str> {
        self.parts.iter().find(|(name, _)| name.contains(word)).map(|(_, version)| version.as_str())
    }
}

/// The parts of an engine, up to a number of them.
fn parts(list: Json<'_>) -> Vec<(String, String)> {
    let items = list.items().into_iter().flatten().map_while(Result::ok).take(limits::ENGINE_LIST);
    items.map(|part| (words(part.field("Name")), words(part.field("Version")))).collect()
}

/// The used part of `GET /info`. A flag that the engine does not send is `None`.
#[derive(Debug, Clone, Default)]
pub struct EngineInfo {
    /// The engine's version; empty if it does not say.
    pub id: String,
    /// Where the engine keeps its data, on its own host.
    pub root: String,
    /// Running containers of all owners.
    pub running: u64,
    pub version: String,
    /// The storage driver, such as `overlay2`.
    pub storage: String,
    /// The log driver of containers that name none.
    pub logging: String,
    /// `cgroupfs` or `systemd`; `none` where the engine sets no limits.
    pub cgroup_driver: String,
    /// `1` or `2`; Podman does not say.
    pub cgroup_version: Option<String>,
    /// Such as `name=seccomp,profile=default`, `name=apparmor`, `name=rootless`, `name=userns`.
    pub security: Option<Vec<String>>,
    /// Whether the kernel limits memory, swap, cores and processes of a container.
    pub memory_limit: Option<bool>,
    pub swap_limit: Option<bool>,
    pub cpu_limit: Option<bool>,
    pub pids_limit: Option<bool>,
    pub kernel: String,
    pub system: String,
}

impl EngineInfo {
    fn read(answer: Json<'_>) -> Result<Self, FieldsError> {
        let [root, running, version, storage, logging, system, kernel] = answer.fields([
            "DockerRootDir",
            "ContainersRunning",
            "ServerVersion",
            "Driver",
            "LoggingDriver",
            "OperatingSystem",
            "KernelVersion",
        ])?;
        let [id, driver, cgroup_version, security] =
            answer.fields(["ID", "CgroupDriver", "CgroupVersion", "SecurityOptions"])?;
        let [memory, swap, cpu, pids] = answer.fields(["MemoryLimit", "SwapLimit", "CpuCfsQuota", "PidsLimit"])?;
        let truth = |value: Option<Json<'_>>| value.filter(|value| value.sort() == "a boolean").map(Json::is_true);
        Ok(Self {
            id: words(id),
            root: words(root),
            running: running.and_then(Json::count).unwrap_or(0),
            version: words(version),
            storage: words(storage),
            logging: words(logging),
            cgroup_driver: words(driver),
            cgroup_version: cgroup_version.map(|value| words(Some(value))),
            security: security.map(list),
            memory_limit: truth(memory),
            swap_limit: truth(swap),
            cpu_limit: truth(cpu),
            pids_limit: truth(pids),
            kernel: words(kernel),
            system: words(system),
        })
    }
}

impl Client {
    /// A client for the configured engine. Nothing is sent yet.
    pub fn new(docker: &Docker) -> Self {
        Self {
            place: Arc::new(Place::new(docker)),
            fixed: docker.version.clone(),
            told: Arc::default(),
            bridge: Arc::default(),
        }
    }

    /// The id of the jobs' network when it was last looked at, by this handle or a clone; another id is another network.
    pub fn bridge(&self) -> Option<String> {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::docker) fn note_bridge(&self, id: String) {
        *self.bridge.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    /// The endpoint as the configuration writes it.
    pub fn endpoint(&self) -> String {
        self.place.name()
    }

    /// Whether the engine is on this host, so that its paths and process ids are valid here.
    pub fn is_local(&self) -> bool {
        matches!(self.place.endpoint, DockerEndpoint::Unix(_))
    }

    /// Asks whether the engine answers, and reads its newest API version again: it may have been updated.
    pub fn ping(&self) -> Result<(), Error> {
        let request = Request {
            operation: DockerOperation::Ping,
            doing: "ping the engine".to_owned(),
            method: "GET",
            target: "/_ping".to_owned(),
            headers: &[],
            body: None,
            cap: limits::DOCKER_ANSWER,
        };
        let deadline = Deadline::after(limits::DOCKER_QUICK, "limits::DOCKER_QUICK");
        let answer = call::exchange(&self.place, &request, deadline)?;
        let engine = answer.head.headers.get("api-version").unwrap_or(OLDEST).to_owned();
        if number(&engine) < number(OLDEST) {
            return Err(Error::Version { engine, ours: OLDEST });
        }
        let version = if number(&engine) > number(NEWEST) { NEWEST.to_owned() } else { engine.clone() };
        let podman = answer.head.headers.get("libpod-api-version").is_some();
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(Told { version, engine, podman });
        Ok(())
    }

    /// The API version in use, such as `1.41`; negotiates on the first call.
    pub fn api_version(&self) -> Result<String, Error> {
        if let Some(fixed) = &self.fixed {
            return Ok(fixed.clone());
        }
        Ok(self.told()?.version)
    }

    /// The newest API version that the engine speaks, whatever version is in use.
    pub fn engine_api(&self) -> Result<String, Error> {
        Ok(self.told()?.engine)
    }

    /// The process behind the engine's socket; `None` where it is on another host, or out of this process's sight.
    pub fn engine_pid(&self) -> Option<u32> {
        let deadline = Deadline::after(limits::DOCKER_QUICK, "limits::DOCKER_QUICK");
        match Conn::open(&self.place, deadline).ok()? {
            Conn::Unix(stream) => local::peer_pid(&stream).ok().filter(|pid| *pid != 0),
            Conn::Tcp(_) | Conn::Tls(_) => None,
        }
    }

    /// Whether the engine is Podman, which needs other options in a few places; asks on the first call.
    pub fn is_podman(&self) -> Result<bool, Error> {
        Ok(self.told()?.podman)
    }

    /// The last ping's answer; makes the first ping.
    fn told(&self) -> Result<Told, Error> {
        let known = || self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(told) = known() {
            return Ok(told);
        }
        self.ping()?;
        Ok(known().unwrap_or_else(|| Told { version: OLDEST.to_owned(), engine: OLDEST.to_owned(), podman: false }))
    }

    /// The engine's description of itself.
    pub fn info(&self) -> Result<EngineInfo, Error> {
        let doing = "ask the engine about itself";
        parse(doing, &self.get(DockerOperation::Info, doing, "/info")?.body, EngineInfo::read)
    }

    /// The versions of the engine.
    pub fn version(&self) -> Result<EngineVersion, Error> {
        let doing = "ask the engine for its version";
        let answer = self.get(DockerOperation::Info, doing, "/version")?;
        parse(doing, &answer.body, |json| {
            let [api, oldest, all] = json.fields(["ApiVersion", "MinAPIVersion", "Components"])?;
            Ok(EngineVersion { api: words(api), oldest_api: words(oldest), parts: all.map(parts).unwrap_or_default() })
        })
    }

    /// A call without a body whose answer is read whole, under [`limits::DOCKER_QUICK`].
    pub(in crate::docker) fn get(&self, operation: DockerOperation, doing: &str, path: &str) -> Result<Answer, Error> {
        self.send(operation, doing, "GET", path, None, quick())
    }

    /// A call whose answer is read whole.
    pub(in crate::docker) fn send(
        &self,
        operation: DockerOperation,
        doing: &str,
        method: &'static str,
        path: &str,
        body: Option<&[u8]>,
        deadline: Deadline,
    ) -> Result<Answer, Error> {
        let request = Request {
            operation,
            doing: doing.to_owned(),
            method,
            target: format!("/v{}{path}", self.api_version()?),
            headers: &[],
            body,
            cap: limits::DOCKER_ANSWER,
        };
        call::exchange(&self.place, &request, deadline)
    }

    /// A call that reads only the head here: attach, pull.
    pub(in crate::docker) fn open(&self, request: Request<'_>, deadline: Deadline) -> Result<Opened, Error> {
        self.open_while(request, deadline, &mut || true)
    }

    /// The same while `wanted` returns true.
    pub(in crate::docker) fn open_while(
        &self,
        mut request: Request<'_>,
        deadline: Deadline,
        wanted: &mut dyn FnMut() -> bool,
    ) -> Result<Opened, Error> {
        request.target = format!("/v{}{}", self.api_version()?, request.target);
        let opened = call::open_while(&self.place, &request, deadline, wanted)?;
        if opened.head.status >= 400 {
            // Returns the error with the engine's message.
            call::read_whole(&request, opened, deadline)?;
            let what = "an error status without an error".to_owned();
            return Err(Error::Protocol { doing: request.doing, what });
        }
        Ok(opened)
    }
}

/// The limit of a call that the engine answers from memory.
pub(in crate::docker) fn quick() -> Deadline {
    Deadline::after(limits::DOCKER_QUICK, "limits::DOCKER_QUICK")
}

/// The limit of a call that makes the engine work.
pub(in crate::docker) fn work() -> Deadline {
    Deadline::after(limits::DOCKER_WORK, "limits::DOCKER_WORK")
}

/// Reads an answer's JSON with `read`, which takes only what it needs.
pub(in crate::docker) fn parse<'a, T>(
    doing: &str,
    body: &'a [u8],
    read: impl FnOnce(Json<'a>) -> Result<T, FieldsError>,
) -> Result<T, Error> {
    let broken = |what| Error::Protocol { doing: doing.to_owned(), what };
    let answer = Json::strict(body).map_err(|why| broken(why.to_string()))?;
    read(answer).map_err(|error| {
        broken(match error {
            FieldsError::NotAnObject => format!("found {} where an object must be", answer.sort()),
            FieldsError::Twice(name) => format!("{name} is given twice"),
            FieldsError::Missing(name) => format!("{name} is missing or no value that can be used"),
            FieldsError::TooMuch(limit) => format!("there is more in it than {limit} allows"),
            FieldsError::Broken(why) => why.to_string(),
        })
    })
}

/// The engine's text, cut; empty if it is not a string.
pub(in crate::docker) fn words(value: Option<Json<'_>>) -> String {
    value.and_then(|value| value.beginning(limits::ENGINE_TEXT)).unwrap_or_default()
}

/// The strings of a list, each cut, up to a number of them.
pub(in crate::docker) fn list(value: Json<'_>) -> Vec<String> {
    let items = value.items().into_iter().flatten().map_while(Result::ok).take(limits::ENGINE_LIST);
    items.filter_map(|item| item.beginning(limits::ENGINE_TEXT)).collect()
}

/// `1.41` as (1, 41), for comparison; anything else as (0, 0).
pub fn number(version: &str) -> (u32, u32) {
    let mut parts = version.splitn(2, '.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Percent-encodes a query value or path segment.
pub(in crate::docker) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(number("1.9") < number("1.41"));
        assert!(number("1.51") > number("1.44"));
        assert_eq!(number("latest"), (0, 0));
        assert_eq!(number("1.x"), (1, 0));
    }

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(encode("a/b:c?d=ü &"), "a%2Fb%3Ac%3Fd%3D%C3%BC%20%26");
    }
}

//! The client: where the engine is, which version of its API is spoken, and what is asked of the engine as a whole.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use crate::config::types::{Docker, DockerEndpoint};
use crate::docker::call::{self, Answer, Opened, Request};
use crate::docker::conn::{Deadline, endpoint_name};
use crate::docker::error::Error;
use crate::limits;
use crate::metrics::DockerOperation;

/// The oldest API that has all that is used here (1.41: Docker 20.10, Podman 4).
pub const OLDEST: &str = "1.41";
/// The newest API that was read when this was written; a newer engine is spoken to in this one.
pub const NEWEST: &str = "1.51";

/// A handle to the engine; clones share the negotiated version.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Arc<DockerEndpoint>,
    /// As configured; `None` negotiates.
    fixed: Option<String>,
    /// What the last ping told.
    told: Arc<Mutex<Option<Told>>>,
}

/// What `GET /_ping` tells.
#[derive(Debug, Clone)]
struct Told {
    /// The API version that both sides speak.
    version: String,
    podman: bool,
}

/// What `GET /version` says of the engine.
#[derive(Debug, Clone, Deserialize)]
pub struct EngineVersion {
    /// Of the engine, such as `20.10.24`.
    #[serde(rename = "Version", default)]
    pub version: String,
    /// The newest API that it speaks, such as `1.41`.
    #[serde(rename = "ApiVersion", default)]
    pub api: String,
    /// The oldest one.
    #[serde(rename = "MinAPIVersion", default)]
    pub oldest_api: String,
}

/// What `GET /info` says that is used here. A flag that the engine does not tell is `None`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct EngineInfo {
    /// Where the engine keeps its data, on its own host.
    #[serde(rename = "DockerRootDir", default)]
    pub root: String,
    /// Containers that run, of whoever's.
    #[serde(rename = "ContainersRunning", default)]
    pub running: u64,
    #[serde(rename = "ServerVersion", default)]
    pub version: String,
    /// The storage driver, such as `overlay2`.
    #[serde(rename = "Driver", default)]
    pub storage: String,
    /// The log driver of containers that name none.
    #[serde(rename = "LoggingDriver", default)]
    pub logging: String,
    /// `cgroupfs` or `systemd`; `none` where the engine sets no limits.
    #[serde(rename = "CgroupDriver", default)]
    pub cgroup_driver: String,
    /// `1` or `2`; Podman does not tell.
    #[serde(rename = "CgroupVersion", default)]
    pub cgroup_version: Option<String>,
    /// Such as `name=seccomp,profile=default`, `name=apparmor`, `name=rootless`, `name=userns`.
    #[serde(rename = "SecurityOptions", default)]
    pub security: Option<Vec<String>>,
    /// Whether the kernel limits memory, swap, cores and processes of a container.
    #[serde(rename = "MemoryLimit", default)]
    pub memory_limit: Option<bool>,
    #[serde(rename = "SwapLimit", default)]
    pub swap_limit: Option<bool>,
    #[serde(rename = "CpuCfsQuota", default)]
    pub cpu_limit: Option<bool>,
    #[serde(rename = "PidsLimit", default)]
    pub pids_limit: Option<bool>,
    #[serde(rename = "KernelVersion", default)]
    pub kernel: String,
    #[serde(rename = "OperatingSystem", default)]
    pub system: String,
}

impl Client {
    /// A client for the configured engine. Nothing is sent yet.
    pub fn new(docker: &Docker) -> Self {
        Self { endpoint: Arc::new(docker.endpoint.clone()), fixed: docker.version.clone(), told: Arc::default() }
    }

    /// The endpoint as the configuration writes it.
    pub fn endpoint(&self) -> String {
        endpoint_name(&self.endpoint)
    }

    /// Whether the engine is on this very host, so that its paths and process ids mean something here.
    pub fn is_local(&self) -> bool {
        matches!(*self.endpoint, DockerEndpoint::Unix(_))
    }

    /// Asks whether the engine is there, and learns its newest API version again: it may have been updated.
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
        let answer = call::exchange(&self.endpoint, &request, deadline)?;
        let engine = answer.head.headers.get("api-version").unwrap_or(OLDEST).to_owned();
        if number(&engine) < number(OLDEST) {
            return Err(Error::Version { engine, ours: OLDEST });
        }
        let version = if number(&engine) > number(NEWEST) { NEWEST.to_owned() } else { engine };
        let podman = answer.head.headers.get("libpod-api-version").is_some();
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(Told { version, podman });
        Ok(())
    }

    /// The API version in use, such as `1.41`; negotiates on the first call.
    pub fn api_version(&self) -> Result<String, Error> {
        if let Some(fixed) = &self.fixed {
            return Ok(fixed.clone());
        }
        Ok(self.told()?.version)
    }

    /// Whether the engine is Podman, which takes other options in a few places; asks on the first call.
    pub fn is_podman(&self) -> Result<bool, Error> {
        Ok(self.told()?.podman)
    }

    /// What the last ping told, or the first one tells.
    fn told(&self) -> Result<Told, Error> {
        let known = || self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(told) = known() {
            return Ok(told);
        }
        self.ping()?;
        Ok(known().unwrap_or_else(|| Told { version: OLDEST.to_owned(), podman: false }))
    }

    /// What the engine says of itself.
    pub fn info(&self) -> Result<EngineInfo, Error> {
        let answer = self.get(DockerOperation::Info, "ask the engine about itself", "/info")?;
        parse("ask the engine about itself", &answer.body)
    }

    /// Which engine it is, and which versions of the API it speaks.
    pub fn version(&self) -> Result<EngineVersion, Error> {
        let doing = "ask the engine for its version";
        parse(doing, &self.get(DockerOperation::Info, doing, "/version")?.body)
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
        call::exchange(&self.endpoint, &request, deadline)
    }

    /// A call of which only the head is read here: attach, pull.
    pub(in crate::docker) fn open(&self, mut request: Request<'_>, deadline: Deadline) -> Result<Opened, Error> {
        request.target = format!("/v{}{}", self.api_version()?, request.target);
        let opened = call::open(&self.endpoint, &request, deadline)?;
        if opened.head.status >= 400 {
            // Gives the error with the engine's words.
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

/// Reads an answer's JSON.
pub(in crate::docker) fn parse<'a, T: Deserialize<'a>>(doing: &str, body: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Protocol { doing: doing.to_owned(), what: error.to_string() })
}

/// `1.41` as (1, 41), to be compared; anything else as (0, 0).
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

//! The life of one container, call by call. `executors::container` decides what goes into it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, SystemTime};

use crate::docker::call::{self, Request};
use crate::docker::client::{Client, encode, list, parse, quick, words, work};
use crate::docker::conn::{Conn, Deadline, is_timeout};
use crate::docker::error::Error;
use crate::limits;
use crate::metrics::DockerOperation;
use crate::os::poll::{self, Watch};
use crate::wire::scan::{FieldsError, Json};
use crate::wire::time::parse_rfc3339;

/// Prefix of the agent's label names. A container also has the labels of its image.
const LABELS: &str = "cronium.";

/// A container's state from `inspect`.
#[derive(Debug, Clone)]
pub struct State {
    pub running: bool,
    pub status: String,
    /// Process id on the engine's host; 0 if the container does not run.
    pub pid: i64,
    pub exit_code: i64,
    pub oom_killed: bool,
    /// The engine's error when it could not start or end the container.
    pub error: String,
    /// RFC 3339, by the engine's clock; the year 1 if it has not happened.
    pub started_at: String,
    /// See `started_at`.
    pub finished_at: String,
}

impl State {
    /// `running` has no default: a job's end follows from it, so it is never guessed.
    fn read(state: Json<'_>) -> Result<Self, FieldsError> {
        let [running, status, pid, exit_code] = state.fields(["Running", "Status", "Pid", "ExitCode"])?;
        let [oom_killed, error, started_at, finished_at] =
            state.fields(["OOMKilled", "Error", "StartedAt", "FinishedAt"])?;
        let running = running.filter(|value| value.sort() == "a boolean").ok_or(FieldsError::Missing("Running"))?;
        Ok(Self {
            running: running.is_true(),
            status: words(status),
            pid: pid.and_then(Json::whole).unwrap_or(0),
            exit_code: exit_code.and_then(Json::whole).ok_or(FieldsError::Missing("ExitCode"))?,
            oom_killed: oom_killed.is_some_and(Json::is_true),
            error: words(error),
            started_at: words(started_at),
            finished_at: words(finished_at),
        })
    }

    /// How long it ran, by the engine's clock, or how long after `since`, where that is later than its start; `None` while
    /// it runs and if the engine does not say.
    pub fn ran_for(&self, since: Option<SystemTime>) -> Option<Duration> {
        if self.running {
            return None;
        }
        let started = parse_rfc3339(&self.started_at)?;
        let began = since.map_or(started, |since| since.max(started));
        parse_rfc3339(&self.finished_at)?.duration_since(began).ok()
    }
}

/// The used parts of `inspect`.
#[derive(Debug, Clone)]
pub struct Inspect {
    pub id: String,
    /// The id of the image that it was made from.
    pub image: String,
    /// The labels of the container.
    pub labels: BTreeMap<String, String>,
    pub state: State,
    /// Bytes in the writable layer, if asked for.
    pub layer: Option<i64>,
}

impl Inspect {
    fn read(found: Json<'_>) -> Result<Self, FieldsError> {
        let [id, image, config, state, layer] = found.fields(["Id", "Image", "Config", "State", "SizeRw"])?;
        let [all] = config.map_or(Ok([None]), |config| config.fields(["Labels"]))?;
        let state = State::read(state.ok_or(FieldsError::Missing("State"))?)?;
        let layer = layer.and_then(Json::whole);
        Ok(Self { id: words(id), image: words(image), labels: labels(all)?, state, layer })
    }
}

/// The agent's labels among all.
fn labels(all: Option<Json<'_>>) -> Result<BTreeMap<String, String>, FieldsError> {
    let mut own = BTreeMap::new();
    for member in all.and_then(Json::members).into_iter().flatten() {
        let (name, value) = member.map_err(FieldsError::Broken)?;
        let name = name.beginning(limits::ENGINE_TEXT).filter(|name| name.starts_with(LABELS));
        if let Some(name) = name
            && own.len() < limits::ENGINE_LIST
        {
            own.insert(name, words(Some(value)));
        }
    }
    Ok(own)
}

/// A row of the list of containers.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: String,
    /// The agent's labels.
    pub labels: BTreeMap<String, String>,
    /// Each begins with a slash.
    pub names: Vec<String>,
    /// Such as `running` or `exited`.
    pub state: String,
    /// The id of its image.
    pub image: String,
    /// Creation time, in seconds since 1970 by the engine's clock; 0 if the engine does not say.
    pub created: i64,
}

impl Row {
    fn read(row: Json<'_>) -> Result<Self, FieldsError> {
        let [id, all, names, state, created] = row.fields(["Id", "Labels", "Names", "State", "Created"])?;
        let [image] = row.fields(["ImageID"])?;
        Ok(Self {
            id: id.and_then(|id| id.text(limits::ENGINE_TEXT).ok()).ok_or(FieldsError::Missing("Id"))?,
            labels: labels(all)?,
            names: names.map(list).unwrap_or_default(),
            state: words(state),
            image: words(image),
            created: created.and_then(Json::whole).unwrap_or(0),
        })
    }

    /// All rows, or an error: a container that is not in the list counts as gone.
    fn all(rows: Json<'_>) -> Result<Vec<Self>, FieldsError> {
        let items = rows.items().ok_or(FieldsError::Missing("the list"))?;
        if items.clone().count() > limits::ENGINE_ROWS {
            return Err(FieldsError::TooMuch("limits::ENGINE_ROWS"));
        }
        let (mut all, mut held) = (Vec::with_capacity(items.clone().count()), 0);
        for row in items {
            let row = Self::read(row.map_err(FieldsError::Broken)?)?;
            held += row.held();
            if held > limits::ENGINE_ROWS_HELD {
                return Err(FieldsError::TooMuch("limits::ENGINE_ROWS_HELD"));
            }
            all.push(row);
        }
        Ok(all)
    }

    /// Its approximate memory, in bytes.
    fn held(&self) -> usize {
        // The overhead of a map entry and its two strings.
        const LABEL: usize = 112;
        let labels: usize = self.labels.iter().map(|(name, value)| LABEL + name.len() + value.len()).sum();
        let node = if self.labels.is_empty() { 0 } else { 512 };
        let names: usize = self.names.iter().map(|name| 56 + name.len()).sum();
        size_of::<Self>() + node + labels + names + self.id.len() + self.state.len() + self.image.len()
    }
}

/// The three streams of a container, attached before its start so that no byte is missed.
#[derive(Debug)]
pub struct Attached {
    conn: Conn,
    /// Frames that arrived with the answer's head.
    rest: Vec<u8>,
    doing: String,
}

/// Takes bytes as they arrive. An empty piece comes at each tick without bytes, so that it can give up with an error.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Error>;

impl Client {
    /// Creates a container called `name` from a create body; returns its id.
    pub fn create(&self, name: &str, body: &[u8], deadline: Deadline) -> Result<String, Error> {
        let doing = format!("create container {name}");
        let path = format!("/containers/create?name={}", encode(name));
        let deadline = work().or(deadline);
        let answer = self.send(DockerOperation::Create, &doing, "POST", &path, Some(body), deadline)?;
        let [id, warnings] = parse(&doing, &answer.body, |created| created.fields(["Id", "Warnings"]))?;
        let id = words(id);
        check_id(&doing, &id)?;
        // Warnings of any form: the container exists, and its id counts.
        for warning in warnings.map(list).unwrap_or_default() {
            log::warn!("the engine warns about container {name}: {warning}");
        }
        Ok(id)
    }

    /// Attaches to all three streams.
    pub fn attach(&self, id: &str, deadline: Deadline) -> Result<Attached, Error> {
        let doing = format!("attach to container {}", short(id));
        let request = Request {
            operation: DockerOperation::Attach,
            doing: doing.clone(),
            method: "POST",
            target: format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1"),
            headers: &["Connection: Upgrade".to_owned(), "Upgrade: tcp".to_owned()],
            body: None,
            cap: limits::DOCKER_ANSWER,
        };
        let begun = std::time::Instant::now();
        let opened = self.open(request, quick().or(deadline))?;
        crate::metrics::docker_request(DockerOperation::Attach, begun.elapsed());
        if !matches!(opened.head.status, 101 | 200) {
            let what = format!("status {} instead of 101", opened.head.status);
            return Err(Error::Protocol { doing, what });
        }
        Ok(Attached { conn: opened.conn, rest: opened.rest, doing })
    }

    /// Starts a created container.
    pub fn start(&self, id: &str, deadline: Deadline) -> Result<(), Error> {
        let doing = format!("start container {}", short(id));
        let path = format!("/containers/{id}/start");
        self.send(DockerOperation::Start, &doing, "POST", &path, None, work().or(deadline)).map(drop)
    }

    /// Waits until the container has ended, until `deadline` at most; returns its exit code.
    pub fn wait(&self, id: &str, deadline: Deadline) -> Result<i64, Error> {
        let doing = format!("wait for container {}", short(id));
        let path = format!("/containers/{id}/wait");
        let answer = self.send(DockerOperation::Wait, &doing, "POST", &path, None, deadline)?;
        let [code, error] = parse(&doing, &answer.body, |waited| waited.fields(["StatusCode", "Error"]))?;
        if let Some(error) = error {
            // The exit code beside an error means nothing.
            let message = words(error.field("Message").or(Some(error)));
            return Err(Error::Protocol { doing, what: format!("the engine gave no exit code: {message}") });
        }
        code.and_then(Json::whole)
            .ok_or_else(|| Error::Protocol { doing, what: "there is no exit code in it".to_owned() })
    }

    /// The container's state; with `size`, the bytes of its writable layer too (the engine counts files for it).
    pub fn inspect(&self, id: &str, size: bool) -> Result<Inspect, Error> {
        let doing = format!("inspect container {}", short(id));
        let path = format!("/containers/{id}/json{}", if size { "?size=1" } else { "" });
        let answer = self.get(DockerOperation::Inspect, &doing, &path)?;
        let found = parse(&doing, &answer.body, Inspect::read)?;
        check_id(&doing, &found.id)?;
        Ok(found)
    }

    /// Gives a container, running or not, another name.
    pub fn rename(&self, id: &str, name: &str) -> Result<(), Error> {
        let doing = format!("rename container {} to {name}", short(id));
        let path = format!("/containers/{id}/rename?name={}", encode(name));
        self.send(DockerOperation::Rename, &doing, "POST", &path, None, quick()).map(drop)
    }

    /// Gives a running container other limits: a body with those that change.
    pub fn update(&self, id: &str, limits: &[u8], deadline: Deadline) -> Result<(), Error> {
        let doing = format!("change the limits of container {}", short(id));
        let path = format!("/containers/{id}/update");
        self.send(DockerOperation::Update, &doing, "POST", &path, Some(limits), quick().or(deadline)).map(drop)
    }

    /// Sends a signal to the container's first process. A container that has ended is no error.
    pub fn kill(&self, id: &str, signal: &str) -> Result<(), Error> {
        let doing = format!("send {signal} to container {}", short(id));
        let path = format!("/containers/{id}/kill?signal={signal}");
        match self.send(DockerOperation::Kill, &doing, "POST", &path, None, quick()) {
            Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Removes the container and its anonymous volumes, running or not. A container that is gone is no error.
    pub fn remove(&self, id: &str) -> Result<(), Error> {
        let doing = format!("remove container {}", short(id));
        let path = format!("/containers/{id}?force=1&v=1");
        match self.send(DockerOperation::Remove, &doing, "DELETE", &path, None, work()) {
            Err(error) if error.status() == Some(404) => Ok(()),
            // Another removal is under way: that is as good.
            Err(Error::Refused { status: 409, ref message, .. }) if message.contains("already in progress") => Ok(()),
            result => result.map(drop),
        }
    }

    /// One sample of a container's resource use, as the engine's JSON.
    pub fn stats(&self, id: &str) -> Result<Vec<u8>, Error> {
        let doing = format!("read the statistics of container {}", short(id));
        let path = format!("/containers/{id}/stats?stream=false&one-shot=true");
        self.get(DockerOperation::Stats, &doing, &path).map(|answer| answer.body)
    }

    /// The engine's copy of a container's output, as the frames of an attached stream; with `follow`, then on to the end of
    /// the container.
    pub fn logs(&self, id: &str, follow: bool, deadline: Deadline, sink: Sink<'_>) -> Result<(), Error> {
        let doing = format!("read the kept output of container {}", short(id));
        let request = Request {
            operation: DockerOperation::Inspect,
            doing: doing.clone(),
            method: "GET",
            target: format!("/containers/{id}/logs?follow={}&stdout=1&stderr=1", u8::from(follow)),
            headers: &[],
            body: None,
            cap: limits::DOCKER_ANSWER,
        };
        // The head comes at once, also while the container is silent.
        let opened = self.open(request, work().or(deadline))?;
        call::stream_body(opened, &doing, deadline, sink).map(drop)
    }

    /// All containers, running or not, that carry every one of `labels` (`key=value` or `key`).
    pub fn list(&self, labels: &[String]) -> Result<Vec<Row>, Error> {
        let filters = serde_json::json!({ "label": labels }).to_string();
        let path = format!("/containers/json?all=1&filters={}", encode(&filters));
        let answer = self.get(DockerOperation::List, "list containers", &path)?;
        let rows = parse("list containers", &answer.body, Row::all)?;
        rows.iter().try_for_each(|row| check_id("list containers", &row.id))?;
        Ok(rows)
    }
}

/// Checks an id, which becomes part of a path.
fn check_id(doing: &str, id: &str) -> Result<(), Error> {
    if !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(Error::Protocol { doing: doing.to_owned(), what: "a container's id is no id".to_owned() })
}

impl Attached {
    /// Writes all of `bytes` to the container's stdin.
    pub fn write(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), Error> {
        call::write_within(&mut self.conn, bytes, &self.doing, deadline)
    }

    /// Whether the stream is still open, without a wait. What has come on it is kept for [`Attached::follow`]; a container
    /// that has sent more than `most` bytes counts as ended.
    pub fn is_open(&mut self, most: usize) -> bool {
        let mut piece = [0; 1024];
        if self.conn.set_read_timeout(limits::SOCKET_WAIT_LEAST).is_err() {
            return false;
        }
        while self.rest.len() <= most {
            let mut watch = [Watch::new(self.conn.as_fd(), false)];
            match poll::wait(&mut watch, Duration::ZERO) {
                Ok(()) if !watch[0].readable() => return true,
                Ok(()) => {}
                Err(_) => return false,
            }
            match self.conn.read(&mut piece) {
                // In TLS a record may hold nothing of the container's.
                Err(error) if is_timeout(&error) => return true,
                Ok(0) | Err(_) => return false,
                Ok(n) => self.rest.extend_from_slice(&piece[..n]),
            }
        }
        false
    }

    /// Ends the container's stdin.
    pub fn finish_writing(&mut self) -> Result<(), Error> {
        self.conn.finish_writing().map_err(|source| Error::Io { doing: self.doing.clone(), source })
    }

    /// Reads to the end of the stream.
    pub fn follow(&mut self, sink: Sink<'_>) -> Result<(), Error> {
        let broke = |source| Error::Io { doing: self.doing.clone(), source };
        sink(&std::mem::take(&mut self.rest))?;
        self.conn.set_read_timeout(limits::FOLLOW_TICK).map_err(broke)?;
        let mut buffer = vec![0; limits::DOCKER_READ];
        loop {
            let read = match self.conn.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if is_timeout(&error) || error.kind() == std::io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(broke(error)),
            };
            sink(&buffer[..read])?;
        }
    }
}

/// The first twelve characters of an id, as the engine's own tools show it.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

//! The calls of the contract, one method each.

use std::time::{Duration, Instant};

use serde::Serialize;
use ureq::http::{HeaderMap, HeaderValue, Method};

use super::answer::{self, HeartbeatAnswer, Orphans, Queue, RowStatus};
use super::body::{Pairs, encode, time};
use super::clock::ClockSkew;
use super::contact::OnReturn;
use super::error::{Error, Problem};
use super::transport::{Call, Transport};
use crate::config::token::Token;
use crate::config::types::{Api, HostTable, Tls};
use crate::job::{Claim, Id};
use crate::limits;
use crate::metrics::Endpoint;
use crate::os::clock;
use crate::os::stop::Stop;

/// The agent's capacity and running jobs, for a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    pub max_jobs: usize,
    pub current_jobs: usize,
    pub available_slots: usize,
}

/// The backend client. Clones share connections and rate limit.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) transport: Transport,
    orchestrator_id: String,
}

impl Client {
    /// A client for the backend of `api`. `stop` ends waits between retries; it is not the signal to drain, since draining jobs
    /// still report.
    pub fn new(api: &Api, tls: &Tls, orchestrator_id: &str, version: &str, stop: Stop) -> Result<Self, Error> {
        let headers = headers(api, orchestrator_id, version)?;
        let transport = Transport::new(api, tls, headers, stop)?;
        Ok(Self { transport, orchestrator_id: orchestrator_id.to_owned() })
    }

    /// A client whose calls `script` answers, without a network, for the simulation of the core.
    #[cfg(test)]
    pub(crate) fn scripted(stop: Stop, by: std::sync::Arc<dyn super::testing::Scripted>) -> Self {
        let api = super::testing::api("http://127.0.0.1:1/api/internal");
        let mut client = Self::new(&api, &Tls::default(), "agent-1", "1.2.3", stop).expect("a client");
        client.transport.script(by);
        client
    }

    /// The same client with separate connections, so that load on the others does not delay it. The rate limit stays shared.
    #[must_use]
    pub fn separate(&self) -> Self {
        Self { transport: self.transport.separate(), ..self.clone() }
    }

    /// The same client; its waits end with another flag.
    #[must_use]
    pub fn with_stop(&self, stop: Stop) -> Self {
        Self { transport: self.transport.with_stop(stop), ..self.clone() }
    }

    /// The same client, whose calls are no sign that the backend is away or back.
    #[must_use]
    pub fn unheard(&self) -> Self {
        Self { transport: self.transport.unheard(), ..self.clone() }
    }

    /// A client for questions whether the backend is back: it waits briefly for a connection.
    #[must_use]
    pub fn asking(&self, stop: Stop) -> Self {
        Self { transport: self.transport.asking().with_stop(stop), ..self.clone() }
    }

    /// Calls `heard` each time that a call succeeds which failed before as if the backend were away, or that it is heard of
    /// in another way. One listener is kept for all clones.
    pub fn on_return(&self, heard: OnReturn) {
        self.transport.contact().on_return(heard);
    }

    /// The backend was heard of in another way than by a call.
    pub fn is_back(&self) {
        self.transport.contact().returned();
    }

    /// Claims up to `batch` jobs of these types, by the backend's names. Tried once: each request claims. Jobs of a lost answer stay claimed until they are given
    /// back, and another request at once would claim more. `hosts` fills in what the entry of a server lacks.
    pub fn queue(&self, batch: usize, types: &[&str], hosts: &HostTable) -> Result<Queue, Error> {
        let call = Call {
            query: format!("?batchSize={batch}&jobTypes={}", types.join(",")),
            limit: limits::QUEUE_ANSWER_MAX,
            needs_body: true,
            retry: false,
            ..get(Endpoint::Queue, "/jobs/queue")
        };
        let body = self.transport.call(&call)?;
        answer::queue(&body, hosts).map_err(|why| self.bad_answer(&call, why))
    }

    /// Says that this agent has the job, and asks how its row is. An error with status 403 means that another agent has
    /// it: then it must not run.
    pub fn acknowledge(&self, job: &Id) -> Result<RowStatus, Error> {
        self.ask_row(job, true).map(|body| answer::acknowledged(&body))
    }

    /// Asks how the row of a job is that this agent has. Tried once: those who ask have a pace of their own.
    pub fn row_status(&self, job: &Id) -> Result<RowStatus, Error> {
        self.ask_row(job, false).map(|body| answer::acknowledged(&body))
    }

    /// The job as its row has it, of which the deployed backend's lacks the logins of servers. `None`: the row lacks more,
    /// or this agent does not have the job. Tried once.
    pub fn stored(&self, job: &Id, hosts: &HostTable) -> Result<Option<Claim>, Error> {
        match self.ask_row(job, false) {
            Ok(body) => Ok(answer::stored(&body, job, hosts)),
            Err(error) if matches!(error.status(), Some(403 | 404)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ask_row(&self, job: &Id, retry: bool) -> Result<Vec<u8>, Error> {
        let body = serde_json::json!({
            "orchestratorId": self.orchestrator_id.as_str(),
            "timestamp": time(clock::wall()),
        });
        let json = encode(&body, 0);
        let call = Call {
            // The whole row, its script included.
            limit: limits::QUEUE_ANSWER_MAX,
            needs_body: false,
            retry,
            urgent: true,
            ..post(Endpoint::Acknowledge, format!("/jobs/{job}/acknowledge"), &json)
        };
        self.transport.call(&call)
    }

    /// Reports that the job runs now; `message` is a detail for people.
    pub fn status_running(&self, job: &Id, message: Option<&str>) -> Result<(), Error> {
        let details = message.map_or_else(|| serde_json::json!({}), |text| serde_json::json!({ "message": text }));
        let body = serde_json::json!({"status": "running", "timestamp": time(clock::wall()), "details": details});
        self.put(Endpoint::Status, format!("/jobs/{job}/status"), &encode(&body, 0))
    }

    /// Sends the one terminal report of a job, once. [`super::report::send`] is the way to call this: sent again
    /// after an ambiguous failure, it could run the job's follow-up actions twice.
    /// `json` is what [`super::CompleteBody::to_json`] made, perhaps in an earlier run of the agent.
    pub fn complete(&self, job: &Id, json: &str) -> Result<(), Error> {
        let path = format!("/jobs/{job}/complete");
        let call = Call { retry: false, urgent: true, ..post(Endpoint::Complete, path, json.as_bytes()) };
        self.transport.call(&call).map(drop)
    }

    /// Gives a job back to the queue; `message` says why. The caller must make sure that this agent does not claim the job
    /// meanwhile: a second try, after a lost answer, would take it away again.
    pub fn release(&self, job: &Id, message: &str) -> Result<(), Error> {
        self.put_back(job, message, true)
    }

    /// The same, tried once, for a job that this agent may claim again at once.
    pub fn release_once(&self, job: &Id, message: &str) -> Result<(), Error> {
        self.put_back(job, message, false)
    }

    fn put_back(&self, job: &Id, message: &str, retry: bool) -> Result<(), Error> {
        let json = encode(&serde_json::json!({ "message": message }), 0);
        let call = Call { urgent: true, retry, ..post(Endpoint::Release, format!("/jobs/{job}/release"), &json) };
        self.transport.call(&call).map(drop)
    }

    /// The jobs that the backend counts as this agent's. Tried once: callers have their own pace.
    pub fn orphaned(&self) -> Result<Orphans, Error> {
        let call = Call {
            query: format!("?orchestratorId={}", percent_encoded(&self.orchestrator_id)),
            // A hundred whole rows, scripts included.
            limit: limits::QUEUE_ANSWER_MAX,
            needs_body: true,
            retry: false,
            urgent: true,
            ..get(Endpoint::Orphaned, "/jobs/orphaned")
        };
        let body = self.transport.call(&call)?;
        answer::orphans(&body).map_err(|why| self.bad_answer(&call, why))
    }

    /// Creates the execution record of one attempt.
    /// `server` is the server's id at the backend, and its name.
    pub fn execution_create(
        &self,
        execution: &Id,
        job: &Id,
        server: Option<(Option<&str>, &str)>,
        metadata: &[(&str, String)],
    ) -> Result<(), Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            job_id: &'a str,
            // The contract has a number here; of another id only the name is sent.
            #[serde(skip_serializing_if = "Option::is_none")]
            server_id: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            server_name: Option<&'a str>,
            metadata: Pairs<'a>,
        }
        let body = Body {
            job_id: job.as_str(),
            server_id: server.and_then(|(id, _)| id?.parse().ok()),
            server_name: server.map(|(_, name)| name),
            metadata: Pairs(metadata),
        };
        self.post(Endpoint::ExecutionCreate, format!("/executions/{execution}/create"), &body)
    }

    /// Updates the execution record of one attempt. `json` is what [`super::ExecutionUpdate::to_json`] made, perhaps in an
    /// earlier run of the agent. Tried once.
    pub fn execution_update_json(&self, execution: &Id, json: &str) -> Result<(), Error> {
        let path = format!("/executions/{execution}/update");
        let put = Call { method: Method::PUT, ..post(Endpoint::ExecutionUpdate, path, json.as_bytes()) };
        // The report follows and must not wait for the limit twice.
        self.transport.call(&Call { urgent: true, retry: false, ..put }).map(drop)
    }

    /// The same for the last update of a record. Where the backend has none, since its creation failed, it is created first.
    pub fn execution_complete(
        &self,
        (job, execution): (&Id, &Id),
        server: Option<(Option<&str>, &str)>,
        json: &str,
    ) -> Result<(), Error> {
        match self.execution_update_json(execution, json) {
            Err(error) if error.status() == Some(404) => {
                self.execution_create(execution, job, server, &[])?;
                self.execution_update_json(execution, json)
            }
            result => result,
        }
    }

    /// Asks whether the backend is up; returns the time of the answer. Tried once.
    pub fn health(&self) -> Result<Duration, Error> {
        let begun = clock::now();
        self.transport.call(&Call { retry: false, urgent: true, ..get(Endpoint::Health, "/orchestrator/health") })?;
        Ok(clock::since(begun))
    }

    /// Sends a heartbeat. Tried once: the next heartbeat is the retry.
    pub fn heartbeat(&self, running: &[Id], capacity: Capacity) -> Result<HeartbeatAnswer, Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            orchestrator_id: &'a str,
            timestamp: String,
            running_jobs: Vec<&'a str>,
            capacity: Capacity,
        }
        let json = encode(
            &Body {
                orchestrator_id: &self.orchestrator_id,
                timestamp: time(clock::wall()),
                running_jobs: running.iter().map(Id::as_str).collect(),
                capacity,
            },
            0,
        );
        let path = "/orchestrator/heartbeat".to_owned();
        let call = Call { retry: false, urgent: true, needs_body: true, ..post(Endpoint::Heartbeat, path, &json) };
        let body = self.transport.call(&call)?;
        answer::heartbeat(&body).map_err(|why| self.bad_answer(&call, why))
    }

    /// The backend's token, shared by all clones.
    pub fn token(&self) -> &Token {
        self.transport.token()
    }

    /// When a call of this agent's last succeeded, and how long it took.
    pub fn last_success(&self) -> Option<(Instant, Duration)> {
        self.transport.last_success()
    }

    /// The difference of our clock to the backend's, by the last answer with a date.
    pub fn clock_skew(&self) -> Option<ClockSkew> {
        self.transport.clock_skew()
    }

    pub(super) fn error_of(&self, call: String, problem: Problem) -> Error {
        Error { call: call.into(), host: self.transport.host().into(), attempts: 1, problem }
    }

    fn post(&self, endpoint: Endpoint, path: String, body: &impl Serialize) -> Result<(), Error> {
        self.transport.call(&post(endpoint, path, &encode(body, 0))).map(drop)
    }

    fn put(&self, endpoint: Endpoint, path: String, json: &[u8]) -> Result<(), Error> {
        self.transport.call(&Call { method: Method::PUT, ..post(endpoint, path, json) }).map(drop)
    }

    fn bad_answer(&self, call: &Call<'_>, why: String) -> Error {
        self.transport.error(call, 1, Problem::BadAnswer { why })
    }
}

pub(super) fn get(endpoint: Endpoint, path: &str) -> Call<'static> {
    Call {
        endpoint,
        method: Method::GET,
        path: path.to_owned(),
        query: String::new(),
        body: None,
        limit: limits::ANSWER_MAX,
        needs_body: false,
        retry: true,
        urgent: false,
    }
}

pub(super) fn post(endpoint: Endpoint, path: String, json: &[u8]) -> Call<'_> {
    Call { method: Method::POST, path, body: Some(json), ..get(endpoint, "") }
}

/// The headers of every request, but for the token.
fn headers(api: &Api, orchestrator_id: &str, version: &str) -> Result<HeaderMap, Error> {
    let value = |key: &'static str, text: &str| {
        HeaderValue::from_str(text).map_err(|_| Error {
            call: Box::from(""),
            host: Box::from(""),
            attempts: 0,
            problem: Problem::Setup { key, why: "it holds a character that no HTTP header may hold".into() },
        })
    };
    // It may be replaced, so that each request has its own.
    value("api.token", api.token.expose())?;
    let mut headers = HeaderMap::new();
    headers.insert("x-orchestrator-id", value("orchestrator.id", orchestrator_id)?);
    headers.insert("x-service-name", HeaderValue::from_static("cronium-agent"));
    headers.insert("x-service-version", value("version", version)?);
    headers.insert("user-agent", value("version", &format!("cronium-agent/{version}"))?);
    headers.insert("accept", HeaderValue::from_static("application/json"));
    Ok(headers)
}

/// `text` for a query: what is not unreserved (RFC 3986, 2.3) as `%XX`.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

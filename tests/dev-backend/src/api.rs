//! `/api/internal/*`: who may call, which call it is, and how it is answered. The calls themselves are in `jobs`,
//! `executions` and `about_agent`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::check;
use crate::http::{Answer, Head, decode};
use crate::shared::Shared;
use crate::store::{JobRow, Store};
use crate::{about_agent, executions, jobs};

pub(crate) const BASE: &str = "/api/internal/";

/// One request under way.
pub(crate) struct Call<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) head: &'a Head,
    /// Bytes of its body.
    size: usize,
}

/// Why a call was refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: u16,
    text: String,
    /// The database's words, in some answers of 500.
    details: Option<String>,
}

pub(crate) type Outcome = Result<Value, Refusal>;

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self { status: 400, text, details: None }
    }
}

impl Refusal {
    pub(crate) fn new(status: u16, text: &str) -> Self {
        Self { status, text: text.to_owned(), details: None }
    }

    /// What becomes of everything that the deployed backend does not foresee.
    pub(crate) fn internal(details: Option<&str>) -> Self {
        Self { status: 500, text: "Internal server error".to_owned(), details: details.map(str::to_owned) }
    }
}

pub(crate) fn refuse<T>(status: u16, text: &str) -> Result<T, Refusal> {
    Err(Refusal::new(status, text))
}

/// An error in the plain shape, unless the settings want the other.
pub(crate) fn error(shared: &Shared, status: u16, text: &str) -> Answer {
    shaped(shared.settings().coded_errors, &Refusal::new(status, text))
}

fn shaped(coded: bool, refusal: &Refusal) -> Answer {
    let Refusal { status, text, details } = refusal;
    let mut body =
        if coded { json!({"error": {"code": format!("E{status}"), "message": text}}) } else { json!({"error": text}) };
    if let (Some(details), false) = (details, coded) {
        body["details"] = json!(details);
    }
    Answer::json(*status, &body)
}

/// The answer of a path that does not exist: a page, since the app answers it and not its API.
pub(crate) fn no_such_page() -> Answer {
    let body = b"<!DOCTYPE html><html><body><h1>404</h1>This page could not be found.</body></html>".to_vec();
    Answer { status: 404, content_type: "text/html; charset=utf-8".to_owned(), headers: Vec::new(), body }
}

/// A slash at the end leads to the same path without it, before anybody looks at the token.
pub(crate) fn redirect(head: &Head) -> Option<Answer> {
    let path = head.path.strip_suffix('/')?;
    let query = head.target.split_once('?').map_or_else(String::new, |(_, query)| format!("?{query}"));
    let headers = vec![("Location".to_owned(), format!("{path}{query}"))];
    Some(Answer { status: 308, content_type: "text/plain".to_owned(), headers, body: Vec::new() })
}

pub(crate) fn authorized(shared: &Shared, head: &Head) -> bool {
    let token = head.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let settings = shared.settings();
    let right = if settings.token.is_empty() { &shared.token } else { &settings.token };
    token == Some(right.as_str()) || token.is_some() && settings.any_token
}

pub(crate) fn handle(shared: &Shared, head: &Head, body: &[u8]) -> Answer {
    if let Some(answer) = redirect(head) {
        return answer;
    }
    let rest = head.path.strip_prefix(BASE).unwrap_or_default();
    // A key of a variable may hold a slash: it is decoded after the path was split.
    let segments: Vec<String> = rest.split('/').map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let coded = shared.settings().coded_errors || matches!(segments[0], "orchestrator" | "audit");
    if !authorized(shared, head) {
        return shaped(coded, &Refusal::new(401, "Unauthorized"));
    }
    let call = Call { shared, head, size: body.len() };
    let result = route(&call, &segments, || parse(body));
    shared.bump();
    match result {
        Some(Ok(value)) => Answer::json(200, &value),
        Some(Err(refusal)) => shaped(coded, &refusal),
        None => no_such_page(),
    }
}

fn parse(body: &[u8]) -> Outcome {
    let value = serde_json::from_slice::<Value>(body).map_err(|_| Refusal::internal(None))?;
    match check::holds_nul(&value) {
        true => {
            Err(Refusal::internal(Some("unsupported Unicode escape sequence: \\u0000 cannot be converted to text")))
        }
        false => Ok(value),
    }
}

fn route(call: &Call<'_>, segments: &[&str], body: impl FnOnce() -> Outcome) -> Option<Outcome> {
    Some(match (call.head.method.as_str(), segments) {
        ("GET", ["jobs", "queue"]) => jobs::queue(call),
        ("GET", ["jobs", "orphaned"]) => jobs::orphaned(call),
        ("POST", ["jobs", id, "acknowledge"]) => body().and_then(|body| jobs::acknowledge(call, id, body)),
        ("PUT", ["jobs", id, "status"]) => body().and_then(|body| jobs::status(call, id, body)),
        ("POST", ["jobs", id, "complete"]) => body().and_then(|body| jobs::complete(call, id, body)),
        ("POST", ["jobs", id, "fail"]) => body().and_then(|body| jobs::fail(call, id, body)),
        ("POST", ["jobs", id, "release"]) => body().and_then(|body| jobs::release(call, id, body)),
        ("POST", ["executions", id, "create"]) => body().and_then(|body| executions::create(call, id, body)),
        ("PUT", ["executions", id, "update"]) => body().and_then(|body| executions::update(call, id, body)),
        ("GET", ["executions", id, "context"]) => executions::context(call, id),
        ("POST", ["executions", id, "output"]) => body().and_then(|body| executions::output(call, id, body)),
        ("POST", ["executions", id, "condition"]) => body().and_then(|body| executions::condition(id, &body)),
        ("GET", ["variables", user, key]) => executions::variable(call, user, key),
        ("PUT", ["variables", user, key]) => body().and_then(|body| executions::set_variable(call, user, key, &body)),
        ("GET", ["orchestrator", "health"]) => Ok(about_agent::backend_health()),
        ("POST", ["orchestrator", "health"]) => body().and_then(|body| about_agent::health(call, body)),
        ("POST", ["orchestrator", "heartbeat"]) => body().and_then(|body| about_agent::heartbeat(call, body)),
        ("POST", ["orchestrator", "metrics"]) => body().and_then(|body| about_agent::metrics(call, body)),
        ("POST", ["audit"]) => body().and_then(|body| about_agent::audit(call, body)),
        _ => return None,
    })
}

impl Call<'_> {
    /// The agent's id in the head.
    pub(crate) fn agent(&self) -> Result<&str, Refusal> {
        match self.head.header("x-orchestrator-id") {
            Some(id) if check::is_id(id) => Ok(id),
            _ => refuse(400, "X-Orchestrator-ID header is required"),
        }
    }

    /// Tells the socket server, which the deployed backend does before it answers; whether an open page learned of it.
    /// No lock may be held: it can take seconds.
    pub(crate) fn broadcast(&self) -> bool {
        let settings = self.shared.settings();
        let heard = settings.socket_server && self.size <= settings.broadcast_limit;
        if !heard {
            // Who waits for the change need not wait for the answer.
            self.shared.bump();
            self.shared.pause(Duration::from_millis(settings.broadcast_delay_ms));
        }
        heard
    }
}

/// The job, or the 400 or 404 that an id without one gets.
pub(crate) fn known<'a>(store: &'a mut Store, id: &str) -> Result<&'a mut JobRow, Refusal> {
    if !check::is_id(id) {
        return refuse(400, "a job's id has 1 to 100 characters");
    }
    store.job_mut(id).ok_or_else(|| Refusal::new(404, "Job not found"))
}

//! `/api/internal/*`: the contract, call by call.

use std::time::Duration;

use serde_json::{Value, json};

use crate::backend::{Event, Shared};
use crate::check::{self, Fields};
use crate::http::{Answer, Head, decode};
use crate::store::{Execution, JobRow, Report, Stamp, Store};
use crate::time;

/// Status and text of a refusal.
struct Refusal(u16, String);

type Outcome = Result<Value, Refusal>;

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self(400, text)
    }
}

fn refuse<T>(status: u16, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(status, text.into()))
}

pub(crate) const BASE: &str = "/api/internal/";

/// An error in the shape that the settings ask for.
pub(crate) fn error(shared: &Shared, status: u16, text: &str) -> Answer {
    let coded = shared.settings().coded_errors;
    let body =
        if coded { json!({"error": {"code": format!("E{status}"), "message": text}}) } else { json!({"error": text}) };
    Answer::json(status, &body)
}

pub(crate) fn authorized(shared: &Shared, head: &Head) -> bool {
    head.header("authorization").and_then(|value| value.strip_prefix("Bearer ")) == Some(shared.token.as_str())
}

pub(crate) fn handle(shared: &Shared, head: &Head, body: &[u8]) -> Answer {
    if !authorized(shared, head) {
        return error(shared, 401, "Unauthorized");
    }
    let result = parse_body(head, body).and_then(|body| route(shared, head, body));
    shared.bump();
    match result {
        Ok(value) => Answer::json(200, &value),
        Err(Refusal(status, text)) => error(shared, status, &text),
    }
}

fn parse_body(head: &Head, body: &[u8]) -> Outcome {
    if head.method == "GET" || body.is_empty() {
        return Ok(Value::Null);
    }
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return refuse(400, "Invalid JSON") };
    if check::holds_nul(&value) {
        return refuse(500, "unsupported Unicode escape sequence: \\u0000 cannot be converted to text");
    }
    Ok(value)
}

fn route(shared: &Shared, head: &Head, body: Value) -> Outcome {
    let rest = head.path.strip_prefix(BASE).unwrap_or_default();
    let segments: Vec<String> = rest.split('/').map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (head.method.as_str(), segments.as_slice()) {
        ("GET", ["jobs", "queue"]) => queue(shared, head),
        ("GET", ["jobs", "orphaned"]) => orphaned(shared, head),
        ("POST", ["jobs", id, "acknowledge"]) => acknowledge(shared, head, id, body),
        ("PUT", ["jobs", id, "status"]) => status(shared, id, body),
        ("POST", ["jobs", id, "complete"]) => complete(shared, id, body),
        ("POST", ["jobs", id, "fail"]) => fail(shared, id, body),
        ("POST", ["jobs", id, "release"]) => release(shared, head, id, body),
        ("POST", ["executions", id, "create"]) => execution_create(shared, id, body),
        ("PUT", ["executions", id, "update"]) => execution_update(shared, id, body),
        ("GET", ["executions", id, "context"]) => execution_context(shared, id),
        ("POST", ["executions", id, "output"]) => execution_value(shared, id, "output", body),
        ("POST", ["executions", id, "condition"]) => execution_value(shared, id, "condition", body),
        ("GET", ["variables", user, key]) => variable(shared, user, key),
        ("PUT", ["variables", user, key]) => set_variable(shared, user, key, body),
        ("GET", ["orchestrator", "health"]) => Ok(json!({"status": "healthy", "timestamp": time::now()})),
        ("POST", ["orchestrator", "health"]) => health(shared, body),
        ("POST", ["orchestrator", "heartbeat"]) => heartbeat(shared, body),
        ("POST", ["orchestrator", "metrics"]) => {
            Fields::of(&body, "metrics")?;
            shared.store().told("metrics", body);
            Ok(json!({"success": true}))
        }
        ("POST", ["audit"]) => audit(shared, body),
        _ => refuse(404, "Not found"),
    }
}

fn agent(head: &Head) -> Result<&str, Refusal> {
    match head.header("x-orchestrator-id") {
        Some(id) if check::is_id(id) => Ok(id),
        _ => refuse(400, "X-Orchestrator-ID header is required"),
    }
}

fn queue(shared: &Shared, head: &Head) -> Outcome {
    let agent = agent(head)?;
    let limit = match head.query("batchSize").map(str::parse::<usize>) {
        None => 10,
        Some(Ok(limit)) if (1..=100).contains(&limit) => limit,
        Some(_) => return refuse(400, "batchSize must be 1 to 100"),
    };
    let types: Option<Vec<&str>> = head.query("jobTypes").map(|types| types.split(',').collect());
    let mut store = shared.store();
    let jobs = store.claim(agent, limit, types.as_deref(), shared.start);
    let mut answer = json!({"jobs": jobs, "count": jobs.len()});
    if let Some(millis) = shared.settings().next_poll_after_ms {
        let at = time::unix_nanos() / 1_000_000 + i128::from(millis);
        answer["metadata"] = json!({"queueSize": store.queued(), "nextPollAfter": time::format_millis(at)});
    }
    Ok(answer)
}

fn orphaned(shared: &Shared, head: &Head) -> Outcome {
    let Some(agent) = head.query("orchestratorId").filter(|id| check::is_id(id)) else {
        return refuse(400, "orchestratorId is required");
    };
    let store = shared.store();
    let open = |job: &&JobRow| matches!(job.status, "claimed" | "running") && job.claimed_by.as_deref() == Some(agent);
    Ok(Value::Array(store.jobs.iter().filter(open).take(100).map(JobRow::row).collect()))
}

/// The job, or the 400 or 404 that an id without one gets.
fn known<'a>(store: &'a mut Store, id: &str) -> Result<&'a mut JobRow, Refusal> {
    if !check::is_id(id) {
        return refuse(400, "a job's id has 1 to 100 characters");
    }
    store.job_mut(id).ok_or_else(|| Refusal(404, "Job not found".to_owned()))
}

fn note(job: &mut JobRow, shared: &Shared, kind: &'static str, body: Value, terminal: bool) {
    if job.reports.len() < 10_000 {
        job.reports.push(Report { kind, body, terminal, at: Stamp::now(shared.start) });
    }
}

fn acknowledge(shared: &Shared, head: &Head, id: &str, body: Value) -> Outcome {
    let mut fields = Fields::of(&body, "acknowledge")?;
    fields.id("orchestratorId", true).time("timestamp", true).time("estimatedStartTime", false).done()?;
    let caller = body["orchestratorId"].as_str().or(head.header("x-orchestrator-id")).unwrap_or_default().to_owned();
    let mut store = shared.store();
    let job = known(&mut store, id)?;
    if job.claimed_by.as_deref() != Some(caller.as_str()) {
        return refuse(403, "Job is claimed by another orchestrator");
    }
    job.acknowledged = Some(Stamp::now(shared.start));
    note(job, shared, "acknowledge", body, false);
    let mut answer = json!({"success": true, "job": job.row()});
    if let Some(seconds) = shared.settings().lease_seconds {
        let at = time::unix_nanos() / 1_000_000 + i128::from(seconds) * 1000;
        answer["lease"] = json!({"expiresAt": time::format_millis(at), "renewalToken": format!("lease-{id}")});
    }
    Ok(answer)
}

fn status(shared: &Shared, id: &str, body: Value) -> Outcome {
    let mut fields = Fields::of(&body, "status")?;
    fields.word("status", true, &["running", "completed", "failed"]).time("timestamp", true).object("details", false);
    fields.done()?;
    if !body["details"].is_null() {
        let mut details = Fields::of(&body["details"], "status.details")?;
        details.text("message", false).integer("exitCode", false).text("error", false).done()?;
    }
    let mut store = shared.store();
    let job = known(&mut store, id)?;
    let word = body["status"].as_str().unwrap_or_default().to_owned();
    if word == "running" {
        if !job.is_terminal() {
            job.status = "running";
        }
        job.started.get_or_insert_with(|| Stamp::now(shared.start));
        note(job, shared, "status", body, false);
    } else {
        let exit = body["details"]["exitCode"].as_i64();
        finish(shared, job, &word, exit, None);
        note(job, shared, "status", body, true);
    }
    Ok(json!({"success": true, "job": job.row()}))
}

/// The row after a terminal report. A row that a user cancelled stays so.
fn finish(shared: &Shared, job: &mut JobRow, verdict: &str, exit_code: Option<i64>, duration_ms: Option<u64>) {
    if job.status != "cancelled" {
        job.status = match verdict {
            "completed" => "completed",
            "cancelled" => "cancelled",
            _ => "failed",
        };
    }
    job.verdict = Some(verdict.to_owned());
    job.exit_code = exit_code.or(job.exit_code);
    let finished = Stamp::now(shared.start);
    let ran = job.started.as_ref().map(|started| finished.since_start.saturating_sub(started.since_start));
    let ran = ran.map(|ran: Duration| u64::try_from(ran.as_millis()).unwrap_or(u64::MAX));
    job.duration_ms = duration_ms.or(job.duration_ms).or(ran);
    job.finished = Some(finished);
    shared.emit(&Event::Verdict { job: &job.id, verdict, exit_code, duration_ms: job.duration_ms });
}

fn complete(shared: &Shared, id: &str, body: Value) -> Outcome {
    let unknown = check::complete(&body)?;
    let mut store = shared.store();
    let job = known(&mut store, id)?;
    let verdict = body["status"].as_str().unwrap_or_default().to_owned();
    let duration = body["metrics"]["duration"].as_u64();
    finish(shared, job, &verdict, body["exitCode"].as_i64(), duration);
    note(job, shared, "complete", body, true);
    let answer = json!({"success": true, "job": job.row()});
    store.cancel_by_heartbeat.remove(id);
    unknown.into_iter().for_each(|text| store.problem(text));
    Ok(answer)
}

fn fail(shared: &Shared, id: &str, body: Value) -> Outcome {
    let mut fields = Fields::of(&body, "fail")?;
    fields.text("error", true).integer("exitCode", false).time("timestamp", true).done()?;
    let mut store = shared.store();
    let job = known(&mut store, id)?;
    finish(shared, job, "failed", body["exitCode"].as_i64(), None);
    note(job, shared, "fail", body, true);
    let answer = json!({"success": true, "job": job.row()});
    store.cancel_by_heartbeat.remove(id);
    Ok(answer)
}

fn release(shared: &Shared, head: &Head, id: &str, body: Value) -> Outcome {
    if !body.is_null() {
        Fields::of(&body, "release")?.text("message", false).done()?;
    }
    let caller = agent(head)?.to_owned();
    let mut store = shared.store();
    let job = known(&mut store, id)?;
    if job.claimed_by.as_deref() != Some(caller.as_str()) {
        return refuse(403, "Job is claimed by another orchestrator");
    }
    note(job, shared, "release", body, false);
    if !job.is_terminal() {
        job.status = "queued";
        job.claimed_by = None;
    }
    Ok(json!({"success": true, "job": job.row()}))
}

fn execution_create(shared: &Shared, id: &str, body: Value) -> Outcome {
    if !check::is_id(id) {
        return refuse(400, "an execution's id has 1 to 100 characters");
    }
    let mut fields = Fields::of(&body, "create")?;
    fields.id("jobId", true).integer("serverId", false).text("serverName", false).object("metadata", false).done()?;
    let unknown = fields.unknown(&["jobId", "serverId", "serverName", "metadata"]);
    let mut store = shared.store();
    let job_id = body["jobId"].as_str().unwrap_or_default().to_owned();
    let job = known(&mut store, &job_id)?;
    if !job.executions.iter().any(|known| known == id) {
        job.executions.push(id.to_owned());
    }
    note(job, shared, "execution-create", json!({"executionId": id, "body": body}), false);
    unknown.into_iter().for_each(|text| store.problem(text));
    let again = store.executions.contains_key(id);
    if again {
        store.problem(format!("execution {id} was created twice"));
    }
    store.executions.entry(id.to_owned()).or_insert_with(|| Execution {
        id: id.to_owned(),
        job_id: job_id.clone(),
        created: body,
        updates: Vec::new(),
        row: serde_json::Map::new(),
        output: None,
        condition: None,
    });
    Ok(json!({"success": true, "execution": {"id": id, "jobId": job_id, "status": "pending"}}))
}

fn execution<'a>(store: &'a mut Store, id: &str) -> Result<&'a mut Execution, Refusal> {
    store.executions.get_mut(id).ok_or_else(|| Refusal(404, "Execution not found".to_owned()))
}

fn execution_update(shared: &Shared, id: &str, body: Value) -> Outcome {
    let unknown = check::execution_update(&body)?;
    let mut store = shared.store();
    let execution = execution(&mut store, id)?;
    if let Some(object) = body.as_object() {
        execution.row.extend(object.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    if execution.updates.len() < 10_000 {
        execution.updates.push(body.clone());
    }
    let job_id = execution.job_id.clone();
    let word = body["status"].as_str().unwrap_or_default();
    let terminal = !body["completedAt"].is_null() || matches!(word, "completed" | "failed" | "timeout" | "cancelled");
    let job = known(&mut store, &job_id)?;
    if terminal {
        let verdict = if word.is_empty() || word == "running" { "completed" } else { word };
        finish(shared, job, verdict, body["exitCode"].as_i64(), None);
    }
    note(job, shared, "execution-update", json!({"executionId": id, "body": body}), terminal);
    unknown.into_iter().for_each(|text| store.problem(text));
    Ok(json!({"success": true, "execution": {"id": id, "jobId": job_id}}))
}

fn execution_context(shared: &Shared, id: &str) -> Outcome {
    let mut store = shared.store();
    let job_id = execution(&mut store, id)?.job_id.clone();
    let job = known(&mut store, &job_id)?;
    let metadata = &job.payload["metadata"];
    Ok(json!({"executionId": id, "event": {"id": metadata["eventId"], "name": "dev event"},
              "user": {"id": metadata["userId"]}, "job": job.row()}))
}

fn execution_value(shared: &Shared, id: &str, kind: &'static str, body: Value) -> Outcome {
    let mut fields = Fields::of(&body, kind)?;
    match kind {
        "output" => fields.present("output").time("timestamp", true).done()?,
        _ => fields.boolean("condition", true).done()?,
    }
    let mut store = shared.store();
    let execution = execution(&mut store, id)?;
    let value = body[kind].clone();
    if kind == "output" {
        execution.output = Some(value);
    } else {
        execution.condition = Some(value);
    }
    let job_id = execution.job_id.clone();
    let job = known(&mut store, &job_id)?;
    note(job, shared, kind, json!({"executionId": id, "body": body}), false);
    Ok(json!({"success": true}))
}

fn variable(shared: &Shared, user: &str, key: &str) -> Outcome {
    match shared.store().variables.get(&(user.to_owned(), key.to_owned())) {
        Some(value) => Ok(value.clone()),
        None => refuse(404, "Variable not found"),
    }
}

fn set_variable(shared: &Shared, user: &str, key: &str, body: Value) -> Outcome {
    Fields::of(&body, "variable")?.present("value").done()?;
    let row = json!({"key": key, "value": body["value"], "updatedAt": time::now()});
    shared.store().variables.insert((user.to_owned(), key.to_owned()), row.clone());
    Ok(row)
}

fn health(shared: &Shared, body: Value) -> Outcome {
    let mut fields = Fields::of(&body, "health")?;
    fields.id("orchestratorId", true).text("status", true).time("timestamp", true).object("metrics", false);
    fields.array("errors", false).done()?;
    shared.store().told("health", body);
    Ok(json!({"success": true}))
}

fn heartbeat(shared: &Shared, body: Value) -> Outcome {
    let mut fields = Fields::of(&body, "heartbeat")?;
    fields
        .id("orchestratorId", true)
        .time("timestamp", true)
        .array("runningJobs", true)
        .object("capacity", true)
        .done()?;
    let ids = body["runningJobs"].as_array();
    if ids.is_some_and(|ids| !ids.iter().all(Value::is_string)) {
        return refuse(400, "heartbeat.runningJobs must hold ids");
    }
    let mut capacity = Fields::of(&body["capacity"], "heartbeat.capacity")?;
    capacity.integer("maxJobs", true).integer("currentJobs", true).integer("availableSlots", true).done()?;
    let mut store = shared.store();
    store.told("heartbeat", body);
    let mut answer = json!({"success": true, "timestamp": time::now()});
    if !store.cancel_by_heartbeat.is_empty() {
        answer["cancelJobs"] = json!(store.cancel_by_heartbeat);
    }
    Ok(answer)
}

fn audit(shared: &Shared, body: Value) -> Outcome {
    Fields::of(&body, "audit")?.id("executionId", true).text("action", true).present("details").done()?;
    shared.store().audited(body);
    Ok(json!({"success": true}))
}

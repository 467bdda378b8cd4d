//! The calls about jobs, and what a status does to a job's row, its page and its follow-ups.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Call, Outcome, Refusal, known, refuse};
use crate::backend::Event;
use crate::check::{self, Fields};
use crate::shared::Shared;
use crate::store::{JobRow, Report, Stamp, Store};
use crate::time;

const TYPES: [&str; 3] = ["SCRIPT", "HTTP_REQUEST", "TOOL_ACTION"];
const ORPHANED: usize = 100;

pub(crate) fn queue(call: &Call<'_>) -> Outcome {
    let agent = call.agent()?;
    let limit = match call.head.query("batchSize").map(str::parse::<usize>) {
        None => 10,
        Some(Ok(limit)) if (1..=100).contains(&limit) => limit,
        Some(_) => return refuse(400, "batchSize must be 1 to 100"),
    };
    let types: Option<Vec<&str>> = call.head.query("jobTypes").map(|types| types.split(',').collect());
    // The column is an enum: the database refuses to look for a word that is none of it.
    if types.iter().flatten().any(|name| !TYPES.contains(name)) {
        return Err(Refusal::internal(None));
    }
    let settings = call.shared.settings();
    let race = Duration::from_millis(settings.claim_race_ms.into());
    let jobs = call.shared.store().claim((agent, limit), types.as_deref(), (call.shared.start, race));
    if !race.is_zero() && !jobs.is_empty() {
        // A change would end a wait for changes.
        std::thread::sleep(race);
    }
    let mut answer = json!({"jobs": jobs, "count": jobs.len()});
    if let Some(millis) = settings.next_poll_after_ms {
        let at = time::unix_nanos() / 1_000_000 + i128::from(millis);
        let queued = call.shared.store().queued();
        answer["metadata"] = json!({"queueSize": queued, "nextPollAfter": time::format_millis(at)});
    }
    Ok(answer)
}

pub(crate) fn orphaned(call: &Call<'_>) -> Outcome {
    let Some(agent) = call.head.query("orchestratorId").filter(|id| check::is_id(id)) else {
        return refuse(400, "orchestratorId is required");
    };
    let store = call.shared.store();
    let open = |job: &&JobRow| matches!(job.status, "claimed" | "running") && job.claimed_by.as_deref() == Some(agent);
    Ok(Value::Array(store.jobs.iter().filter(open).take(ORPHANED).map(JobRow::listed).collect()))
}

pub(crate) fn note(job: &mut JobRow, shared: &Shared, kind: &'static str, body: Value, terminal: bool) {
    if terminal || job.reports.len() < 10_000 {
        job.reports.push(Report { kind, body, terminal, at: Stamp::now(shared.start) });
    }
}

/// Shows the row to the agent that claimed it. The row stays as it is.
pub(crate) fn acknowledge(call: &Call<'_>, id: &str, body: Value) -> Outcome {
    let mut fields = Fields::of(&body, "acknowledge")?;
    fields.id("orchestratorId", true).time("timestamp", true).time("estimatedStartTime", false).done()?;
    let mut store = call.shared.store();
    let job = known(&mut store, id)?;
    if job.claimed_by.as_deref() != body["orchestratorId"].as_str() {
        return refuse(403, "Job is claimed by another orchestrator");
    }
    job.acknowledged.get_or_insert_with(|| Stamp::now(call.shared.start));
    note(job, call.shared, "acknowledge", body, false);
    let mut answer = answer(&mut store, id)?;
    if let Some(seconds) = call.shared.settings().lease_seconds {
        let at = time::unix_nanos() / 1_000_000 + i128::from(seconds) * 1000;
        answer["lease"] = json!({"expiresAt": time::format_millis(at), "renewalToken": format!("lease-{id}")});
    }
    Ok(answer)
}

/// A status for a row, and what else the call says.
#[derive(Debug, Default)]
pub(crate) struct Change<'a> {
    /// The row's next status.
    pub(crate) status: &'static str,
    /// The end as the agent words it.
    pub(crate) verdict: &'a str,
    /// `startedAt` becomes now.
    pub(crate) started: bool,
    /// `completedAt` becomes now.
    pub(crate) completed: bool,
    pub(crate) exit_code: Option<i64>,
    pub(crate) duration_ms: Option<u64>,
    /// Replaces the row's result as a whole.
    pub(crate) result: Option<Value>,
}

/// Sets a row's status, whatever it was, as the deployed backend does; an end also starts what follows on the job.
/// The page's texts are set before.
pub(crate) fn set_status(shared: &Shared, store: &mut Store, id: &str, change: Change<'_>) {
    let Some(job) = store.job_mut(id) else { return };
    job.status = change.status;
    job.shown.set_status(change.status, change.exit_code);
    let now = Stamp::now(shared.start);
    if change.started {
        job.started = Some(now.clone());
    }
    if change.completed {
        job.finished = Some(now.clone());
    }
    job.result = change.result.unwrap_or_else(|| job.result.take());
    if !matches!(change.status, "completed" | "failed" | "cancelled") {
        return;
    }
    let ran = job.started.as_ref().map(|started| now.since_start.saturating_sub(started.since_start));
    let ran = ran.map(|ran: Duration| u64::try_from(ran.as_millis()).unwrap_or(u64::MAX));
    job.verdict = Some(change.verdict.to_owned());
    job.exit_code = change.exit_code.or(job.exit_code);
    job.duration_ms = change.duration_ms.or(job.duration_ms).or(ran);
    let (verdict, exit_code, duration_ms) = (change.verdict, change.exit_code, job.duration_ms);
    shared.emit(&Event::Verdict { job: &job.id, verdict, exit_code, duration_ms });
    let result = job.result.clone();
    for payload in store.workflows.follow(id, change.status, &result) {
        if let Err(text) = store.enqueue(payload, shared.start) {
            store.problem(text);
        }
    }
    store.cancel_by_heartbeat.remove(id);
}

pub(crate) fn status(call: &Call<'_>, id: &str, body: Value) -> Outcome {
    let mut fields = Fields::of(&body, "status")?;
    fields.word("status", true, &["running", "completed", "failed"]).time("timestamp", true).object("details", false);
    fields.done()?;
    let details = &body["details"];
    if !details.is_null() {
        let mut fields = Fields::of(details, "status.details")?;
        fields.text("message", false).integer("exitCode", false).text("error", false).done()?;
    }
    let exit_code = details["exitCode"].as_i64();
    let change = match body["status"].as_str() {
        Some("running") => Change { status: "running", started: true, ..Change::default() },
        Some("completed") => end("completed", exit_code.or(Some(0))),
        _ => end("failed", exit_code.or(Some(1))),
    };
    let answer = {
        let mut store = call.shared.store();
        let job = known(&mut store, id)?;
        if change.status == "failed" {
            let error = details["error"].as_str().or(details["message"].as_str()).unwrap_or("Unknown error");
            error.clone_into(&mut job.shown.error);
        }
        note(job, call.shared, "status", body, change.status != "running");
        set_status(call.shared, &mut store, id, change);
        answer(&mut store, id)?
    };
    call.broadcast();
    Ok(answer)
}

/// An end without details.
fn end(status: &'static str, exit_code: Option<i64>) -> Change<'static> {
    let result = Some(json!({"exitCode": exit_code}));
    Change { status, verdict: status, completed: true, exit_code, result, ..Change::default() }
}

fn answer(store: &mut Store, id: &str) -> Outcome {
    Ok(json!({"success": true, "job": known(store, id)?.row()}))
}

pub(crate) fn complete(call: &Call<'_>, id: &str, body: Value) -> Outcome {
    let unknown = check::complete(&body)?;
    let verdict = body["status"].as_str().unwrap_or_default().to_owned();
    let exit_code = body["exitCode"].as_i64();
    let mut result = json!({"exitCode": exit_code, "metrics": body["metrics"]});
    for key in ["scriptOutput", "condition"] {
        if let Some(value) = body.get(key) {
            result[key] = value.clone();
        }
    }
    let change = Change {
        status: match verdict.as_str() {
            "completed" => "completed",
            "cancelled" => "cancelled",
            _ => "failed",
        },
        verdict: &verdict,
        completed: true,
        exit_code,
        duration_ms: body["metrics"]["duration"].as_u64(),
        result: Some(result),
        ..Change::default()
    };
    let answer = {
        let mut store = call.shared.store();
        let job = known(&mut store, id)?;
        let text = |name: &str| body["output"][name].as_str().unwrap_or_default();
        job.shown.report(&verdict, exit_code, text("stdout"), text("stderr"));
        note(job, call.shared, "complete", body, true);
        unknown.into_iter().for_each(|text| store.problem(text));
        set_status(call.shared, &mut store, id, change);
        answer(&mut store, id)?
    };
    call.broadcast();
    Ok(answer)
}

pub(crate) fn fail(call: &Call<'_>, id: &str, body: Value) -> Outcome {
    let mut fields = Fields::of(&body, "fail")?;
    fields.text("error", true).integer("exitCode", false).time("timestamp", true).done()?;
    let answer = {
        let mut store = call.shared.store();
        let job = known(&mut store, id)?;
        let exit_code = body["exitCode"].as_i64();
        body["error"].as_str().unwrap_or_default().clone_into(&mut job.shown.error);
        note(job, call.shared, "fail", body, true);
        set_status(call.shared, &mut store, id, end("failed", exit_code.or(Some(1))));
        answer(&mut store, id)?
    };
    call.broadcast();
    Ok(answer)
}

pub(crate) fn release(call: &Call<'_>, id: &str, body: Value) -> Outcome {
    Fields::of(&body, "release")?.text("message", false).done()?;
    let caller = call.agent()?;
    let mut store = call.shared.store();
    let job = known(&mut store, id)?;
    if job.claimed_by.as_deref() != Some(caller) {
        return refuse(403, "Job is claimed by another orchestrator");
    }
    job.last_error = body["message"].as_str().map(str::to_owned).or(job.last_error.take());
    note(job, call.shared, "release", body, false);
    (job.status, job.claimed_by) = ("queued", None);
    job.shown.set_status("queued", None);
    answer(&mut store, id)
}

//! The calls about executions, and the variables of users: what a script's helpers reach through the agent.

use serde_json::{Map, Value, json};

use crate::api::{Call, Outcome, Refusal, known, refuse};
use crate::check::{self, Fields};
use crate::jobs::{Change, note, set_status};
use crate::store::{Execution, Stamp, Store};

const STATUSES: [&str; 6] = ["queued", "claimed", "running", "completed", "failed", "cancelled"];

pub(crate) fn create(call: &Call<'_>, id: &str, body: Value) -> Outcome {
    if !check::is_id(id) {
        return refuse(400, "an execution's id has 1 to 100 characters");
    }
    let mut fields = Fields::of(&body, "create")?;
    fields.id("jobId", true).integer("serverId", false).text("serverName", false).object("metadata", false).done()?;
    let unknown = fields.unknown(&["jobId", "serverId", "serverName", "metadata"]);
    let job_id = body["jobId"].as_str().unwrap_or_default().to_owned();
    {
        let mut store = call.shared.store();
        unknown.into_iter().for_each(|text| store.problem(text));
        let again = store.executions.contains_key(id);
        let job = known(&mut store, &job_id)?;
        note(job, call.shared, "execution-create", json!({"executionId": id, "body": body}), false);
        if !again {
            job.executions.push(id.to_owned());
            let row = Map::from_iter([("status".to_owned(), json!("queued"))]);
            let (id, job_id) = (id.to_owned(), job_id.clone());
            let execution = Execution { id: id.clone(), job_id, created: body, updates: Vec::new(), row, output: None };
            store.executions.insert(id, execution);
        } else {
            return Err(Refusal::internal(Some("duplicate key value violates the primary key of executions")));
        }
    }
    call.broadcast();
    Ok(json!({"success": true, "execution": {"id": id, "jobId": job_id, "status": "queued"}}))
}

fn execution<'a>(store: &'a mut Store, id: &str) -> Result<&'a mut Execution, Refusal> {
    store.executions.get_mut(id).ok_or_else(|| Refusal::new(404, "Execution not found"))
}

/// Stores an update of an execution. With `completedAt` or an end as its status, the job then gets the status that the
/// execution has now: seconds later when the socket server is away, over whatever the job became meanwhile.
pub(crate) fn update(call: &Call<'_>, id: &str, body: Value) -> Outcome {
    let unknown = check::execution_update(&body)?;
    let word = body.get("status").map(|word| STATUSES.iter().find(|known| word == **known));
    if word == Some(None) {
        return Err(Refusal::internal(Some("invalid input value for the status of an execution")));
    }
    let passes_on = !body["completedAt"].is_null() || matches!(body["status"].as_str(), Some("completed" | "failed"));
    let (job_id, row) = {
        let mut store = call.shared.store();
        unknown.into_iter().for_each(|text| store.problem(text));
        let execution = execution(&mut store, id)?;
        if let Some(object) = body.as_object() {
            execution.row.extend(object.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        if execution.updates.len() < 10_000 {
            execution.updates.push(body.clone());
        }
        let (job_id, row) = (execution.job_id.clone(), execution.row.clone());
        let terminal = passes_on && matches!(row["status"].as_str(), Some("completed" | "failed" | "cancelled"));
        let job = known(&mut store, &job_id)?;
        note(job, call.shared, "execution-update", json!({"executionId": id, "body": body}), terminal);
        (job_id, row)
    };
    let heard = call.broadcast();
    if passes_on {
        pass_on(call, &job_id, &row, heard);
    }
    Ok(json!({"success": true, "execution": {"id": id, "jobId": job_id, "status": row["status"]}}))
}

fn pass_on(call: &Call<'_>, job_id: &str, row: &Map<String, Value>, heard: bool) {
    let value = |key: &str| row.get(key).unwrap_or(&Value::Null);
    let status = STATUSES.into_iter().find(|known| value("status") == *known).unwrap_or("queued");
    let exit_code = value("exitCode").as_i64();
    let mut store = call.shared.store();
    let Some(job) = store.job_mut(job_id) else { return };
    if let Some(output) = value("output").as_str().filter(|output| !output.is_empty()) {
        output.clone_into(&mut job.shown.output);
    }
    job.shown.execution_ms = value("executionDuration").as_u64().or(job.shown.execution_ms);
    job.shown.setup_ms = value("setupDuration").as_u64().or(job.shown.setup_ms);
    if heard {
        job.shown.tell(Stamp::now(call.shared.start));
    }
    let change = Change {
        status,
        verdict: status,
        completed: !value("completedAt").is_null(),
        exit_code,
        result: exit_code.map(|code| json!({"exitCode": code})),
        ..Change::default()
    };
    set_status(call.shared, &mut store, job_id, change);
}

pub(crate) fn context(call: &Call<'_>, id: &str) -> Outcome {
    let mut store = call.shared.store();
    let job_id = execution(&mut store, id)?.job_id.clone();
    let job = known(&mut store, &job_id)?;
    let (told, work) = (&job.payload["metadata"], &job.payload["execution"]);
    let mut metadata = told.clone();
    for (key, from) in
        [("input", "inputData"), ("script", "script"), ("environment", "environment"), ("timeout", "timeout")]
    {
        metadata[key] = work[from].clone();
    }
    let run_location = if work["target"]["type"] == "server" { "REMOTE" } else { "LOCAL" };
    Ok(
        json!({"executionId": id, "jobId": job_id, "eventId": told["eventId"], "userId": told["userId"], "metadata": metadata,
              "event": {"id": told["eventId"], "name": told["eventName"], "type": work["script"]["type"],
                        "content": work["script"]["content"], "runLocation": run_location,
                        "serverId": work["target"]["serverId"]},
              "user": {"id": told["userId"], "email": "user@example.com", "name": "A user"}}),
    )
}

/// Stores a script's output, until the job's report replaces it.
pub(crate) fn output(call: &Call<'_>, id: &str, body: Value) -> Outcome {
    Fields::of(&body, "output")?.present("output").time("timestamp", true).done()?;
    let mut store = call.shared.store();
    let execution = execution(&mut store, id)?;
    let (value, job_id) = (body["output"].clone(), execution.job_id.clone());
    execution.output = Some(value.clone());
    let job = known(&mut store, &job_id)?;
    if !job.result.is_object() {
        job.result = json!({});
    }
    job.result["output"] = value;
    note(job, call.shared, "output", json!({"executionId": id, "body": body}), false);
    Ok(json!({"success": true}))
}

/// The deployed backend looks for a row that nobody ever wrote.
pub(crate) fn condition(id: &str, body: &Value) -> Outcome {
    Fields::of(body, "condition")?.boolean("condition", true).done()?;
    refuse(404, &format!("Execution {id} not found"))
}

pub(crate) fn variable(call: &Call<'_>, user: &str, key: &str) -> Outcome {
    match call.shared.store().variables.get(&(user.to_owned(), key.to_owned())) {
        Some((text, at)) => Ok(json!({"key": key, "value": text, "updatedAt": at})),
        None => refuse(404, "Variable not found"),
    }
}

/// The column is text: what is none becomes what the database's driver makes of it.
pub(crate) fn set_variable(call: &Call<'_>, user: &str, key: &str, body: &Value) -> Outcome {
    let text = match &body["value"] {
        Value::String(text) => text.clone(),
        // A list of the database's own, which nobody can read back.
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(Value::to_string).collect();
            format!("{{{}}}", values.join(","))
        }
        Value::Null => return Err(Refusal::internal(None)),
        other => other.to_string(),
    };
    call.shared.store().set_variable(user, key, text);
    Ok(json!({"success": true}))
}

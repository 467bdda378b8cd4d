//! What the agent tells of itself. The deployed backend logs it and drops it; here it is kept for tests to look at.

use serde_json::{Value, json};

use crate::api::{Call, Outcome, refuse};
use crate::check::Fields;
use crate::time;

pub(crate) fn backend_health() -> Value {
    json!({"status": "healthy", "timestamp": time::now(), "database": "connected"})
}

pub(crate) fn metrics(call: &Call<'_>, body: Value) -> Outcome {
    Fields::of(&body, "metrics")?;
    call.shared.store().told("metrics", body);
    Ok(json!({"success": true}))
}

pub(crate) fn health(call: &Call<'_>, body: Value) -> Outcome {
    let mut fields = Fields::of(&body, "health")?;
    fields.id("orchestratorId", true).text("status", true).time("timestamp", true).object("metrics", false);
    fields.array("errors", false).done()?;
    call.shared.store().told("health", body);
    Ok(json!({"success": true}))
}

pub(crate) fn heartbeat(call: &Call<'_>, body: Value) -> Outcome {
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
    let mut store = call.shared.store();
    store.told("heartbeat", body);
    let mut answer = json!({"success": true, "timestamp": time::now()});
    if !store.cancel_by_heartbeat.is_empty() {
        answer["cancelJobs"] = json!(store.cancel_by_heartbeat);
    }
    Ok(answer)
}

pub(crate) fn audit(call: &Call<'_>, body: Value) -> Outcome {
    Fields::of(&body, "audit")?.id("executionId", true).text("action", true).present("details").done()?;
    call.shared.store().audited(body);
    Ok(json!({"success": true}))
}

//! `/dev/*`: what a test or a person asks of the backend itself, from another process; and the page at `/`. No token: it
//! listens on the loopback address.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::backend::Via;
use crate::fault::Fault;
use crate::http::{Answer, Head, decode};
use crate::settings::Settings;
use crate::shared::{Shared, lock};
use crate::store::Stamp;
use crate::workflow::Edge;

const PAGE: &str = include_str!("page.html");
const LINES_A_PAGE: usize = 2000;

type Outcome = Result<Value, (u16, String)>;

pub(crate) fn handle(shared: &Arc<Shared>, head: &Head, body: &[u8], connection: u64) -> Answer {
    if head.method == "GET" && head.path == "/" {
        let content_type = "text/html; charset=utf-8".to_owned();
        return Answer { status: 200, content_type, headers: Vec::new(), body: PAGE.as_bytes().to_vec() };
    }
    match route(shared, head, body, connection) {
        Ok(value) => Answer::json(200, &value),
        Err((status, text)) => Answer::json(status, &json!({"error": text})),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, (u16, String)> {
    serde_json::from_slice(body).map_err(|error| (400, format!("body: {error}")))
}

fn number<T: std::str::FromStr>(head: &Head, name: &str, default: T) -> Result<T, (u16, String)> {
    match head.query(name) {
        Some(text) => text.parse().map_err(|_| (400, format!("{name} must be a number"))),
        None => Ok(default),
    }
}

fn seconds(head: &Head, default: f64) -> Result<Duration, (u16, String)> {
    let seconds: f64 = number(head, "seconds", default)?;
    Duration::try_from_secs_f64(seconds.min(3600.0)).map_err(|_| (400, "seconds must be 0 or more".to_owned()))
}

fn route(shared: &Arc<Shared>, head: &Head, body: &[u8], connection: u64) -> Outcome {
    let path = head.path.strip_prefix("/dev/").ok_or((404, "not found; the page is at /".to_owned()))?;
    let segments: Vec<String> = path.split('/').map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (head.method.as_str(), segments.as_slice()) {
        ("POST", ["jobs"]) => enqueue(shared, body),
        ("POST", ["workflows"]) => {
            let Workflow { jobs, edges } = read(body)?;
            shared.enqueue_workflow(jobs, edges).map_err(|text| (400, text))?;
            Ok(json!({"success": true}))
        }
        ("GET", ["jobs"]) => Ok(jobs(shared)),
        ("GET", ["jobs", id]) => shared.store().full(id).ok_or((404, format!("no job {id}"))),
        ("GET", ["jobs", id, "lines"]) => lines(shared, head, id),
        ("GET", ["lines-summary"]) => Ok(lines_summary(shared)),
        ("GET", ["latency", id]) => {
            lock(&shared.lines).get(*id).map(|lines| lines.latency()).ok_or((404, format!("no lines of job {id}")))
        }
        ("GET", ["requests"]) => requests(shared, head),
        ("GET", ["faults"]) => Ok(json!(*lock(&shared.faults))),
        ("PUT", ["faults"]) => {
            let faults: Vec<Fault> = read(body)?;
            *lock(&shared.faults) = faults;
            Ok(json!({"success": true}))
        }
        ("GET", ["settings"]) => Ok(json!(shared.settings())),
        ("PUT", ["settings"]) => {
            shared.set_settings(read::<Settings>(body)?);
            Ok(json!({"success": true}))
        }
        ("POST", ["cancel", id]) => {
            let via = via(head.query("via").unwrap_or("row"))?;
            if cancel(shared, id, via) { Ok(json!({"success": true})) } else { Err((404, format!("no job {id}"))) }
        }
        ("POST", ["claim", id]) => claim(shared, id, head.query("by").unwrap_or("another-agent")),
        ("POST", ["ws", "drop"]) => Ok(json!({"dropped": drop_sockets(shared)})),
        ("POST", ["ws", "stall"]) => {
            *lock(&shared.stalled_until) = Some(Instant::now() + seconds(head, 5.0)?);
            Ok(json!({"success": true}))
        }
        ("POST", ["refuse"]) => {
            shared.refuse(seconds(head, 5.0)?);
            shared.cut_all(Some(connection));
            Ok(json!({"success": true}))
        }
        ("GET", ["wait-done"]) => wait_done(shared, seconds(head, 30.0)?),
        ("GET", ["state"]) => Ok(state(shared)),
        _ => Err((404, "not found".to_owned())),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Workflow {
    jobs: Vec<Value>,
    edges: Vec<Edge>,
}

fn enqueue(shared: &Shared, body: &[u8]) -> Outcome {
    let payloads = match read(body)? {
        Value::Array(payloads) => payloads,
        one => vec![one],
    };
    let mut ids = Vec::new();
    for payload in payloads {
        ids.push(shared.enqueue(payload).map_err(|text| (400, text))?);
    }
    Ok(json!({"ids": ids}))
}

fn jobs(shared: &Shared) -> Value {
    let mut jobs: Vec<Value> = shared.store().jobs.iter().map(|job| job.brief()).collect();
    let lines = lock(&shared.lines);
    for job in &mut jobs {
        let count = job["id"].as_str().and_then(|id| lines.get(id)).map_or(0, |lines| lines.count);
        job["lines"] = json!(count);
    }
    json!({"jobs": jobs})
}

fn lines(shared: &Shared, head: &Head, id: &str) -> Outcome {
    let (from, limit) = (number(head, "from", 0)?, number(head, "limit", LINES_A_PAGE)?.min(LINES_A_PAGE));
    let page = lock(&shared.lines).get(id).map(|lines| lines.page(from, limit));
    Ok(page.unwrap_or_else(|| json!({"count": 0, "next": 0, "lines": [], "partial": []})))
}

fn lines_summary(shared: &Shared) -> Value {
    let lines = lock(&shared.lines);
    let map: serde_json::Map<String, Value> = lines.iter().map(|(id, lines)| (id.clone(), lines.summary())).collect();
    Value::Object(map)
}

fn requests(shared: &Shared, head: &Head) -> Outcome {
    let from: usize = number(head, "from", 0)?;
    let wanted = head.query("path").unwrap_or_default();
    let all = lock(&shared.requests);
    let list: Vec<Value> = all
        .list
        .iter()
        .enumerate()
        .skip(from)
        .filter(|(_, request)| request.target.contains(wanted))
        .map(|(index, request)| {
            let headers: Vec<Value> = request.headers.iter().map(|(name, value)| json!([name, value])).collect();
            let ms = u64::try_from(request.received.saturating_duration_since(shared.start).as_millis()).unwrap_or(u64::MAX);
            json!({"index": index, "method": request.method, "target": request.target, "headers": headers,
                   "body": body_json(&request.body), "ms": ms, "status": request.status, "connection": request.connection})
        })
        .collect();
    Ok(json!({"total": all.total, "requests": list}))
}

fn body_json(body: &[u8]) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))
}

fn via(word: &str) -> Result<Via, (u16, String)> {
    match word {
        "row" => Ok(Via::Row),
        "heartbeat" => Ok(Via::Heartbeat),
        "ws" => Ok(Via::WebSocket),
        _ => Err((400, "via must be row, heartbeat or ws".to_owned())),
    }
}

/// Puts a job back into the queue whatever became of it, its reports kept; `further` counts it as one more attempt.
pub(crate) fn requeue(shared: &Shared, id: &str, further: bool) -> bool {
    {
        let mut store = shared.store();
        let Some(job) = store.job_mut(id) else { return false };
        job.status = "queued";
        job.claimed_by = None;
        job.finished = None;
        if further {
            let attempts = job.payload["attempts"].as_u64().unwrap_or(0) + 1;
            job.payload["attempts"] = json!(attempts);
        }
    }
    shared.bump();
    true
}

/// What a user's cancel does: the row's status and `completedAt`, and what else the way says. The page stays as it is. False
/// when there is no such job.
pub(crate) fn cancel(shared: &Shared, id: &str, via: Via) -> bool {
    {
        let mut store = shared.store();
        let Some(job) = store.job_mut(id) else { return false };
        if !job.is_terminal() {
            job.status = "cancelled";
            job.finished = Some(Stamp::now(shared.start));
        }
        if via == Via::Heartbeat {
            store.cancel_by_heartbeat.insert(id.to_owned());
        }
    }
    if via == Via::WebSocket {
        shared.send_all(&json!({"type": "cancel", "payload": {"jobId": id}}).to_string());
    }
    shared.bump();
    true
}

fn claim(shared: &Shared, id: &str, by: &str) -> Outcome {
    let mut store = shared.store();
    let job = store.job_mut(id).ok_or((404, format!("no job {id}")))?;
    job.claimed_by = Some(by.to_owned());
    if !job.is_terminal() {
        job.status = "claimed";
    }
    Ok(json!({"success": true}))
}

pub(crate) fn drop_sockets(shared: &Shared) -> usize {
    let sockets: Vec<_> = lock(&shared.sockets).values().cloned().collect();
    sockets.iter().for_each(crate::live::Socket::cut);
    sockets.len()
}

/// Holds the answer until every job got its terminal report, or the time is over.
fn wait_done(shared: &Shared, limit: Duration) -> Outcome {
    let done = || shared.store().jobs.iter().all(|job| job.is_terminal() && job.terminal_reports() > 0);
    shared.wait_for(limit, || done() || shared.is_stopping());
    Ok(json!({"done": done()}))
}

pub(crate) fn state(shared: &Shared) -> Value {
    let sockets = {
        let sockets = lock(&shared.sockets);
        json!({"open": sockets.len(), "v2": sockets.values().filter(|socket| socket.v2).count()})
    };
    let hellos = lock(&shared.socket_hellos).clone();
    let (connections, total) = (lock(&shared.connections).len(), lock(&shared.requests).total);
    let store = shared.store();
    let mut statuses = serde_json::Map::new();
    for job in &store.jobs {
        let count = statuses.get(job.status).and_then(Value::as_u64).unwrap_or(0);
        statuses.insert(job.status.to_owned(), json!(count + 1));
    }
    let agent: serde_json::Map<String, Value> = store
        .agent
        .iter()
        .map(|(kind, told)| ((*kind).to_owned(), json!({"count": told.count, "last": told.last})))
        .collect();
    json!({"jobs": statuses, "agent": agent, "audit": store.audit, "problems": store.problems, "requests": total,
           "connections": connections, "sockets": sockets, "hellos": hellos,
           "uptimeMs": u64::try_from(shared.start.elapsed().as_millis()).unwrap_or(u64::MAX)})
}

//! The simulated backend: the rows of the contract in memory, and a network that loses what it is given to lose.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::Problem;
use crate::api::testing::{NoAnswer, Scripted};
use crate::os::sim::Sim;

/// The client's limit for one call.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One terminal report, as it was taken.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) status: String,
    pub(super) exit_code: i64,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Null without one.
    pub(super) receipt: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Queued,
    Claimed,
    Running,
    Ended,
    Cancelled,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) status: Status,
    /// A user cancelled it, whatever it became after that.
    pub(super) was_cancelled: bool,
    pub(super) reports: Vec<Report>,
    pub(super) releases: u32,
    /// Updates of its execution that came after its report: they open the job again.
    pub(super) late_updates: u32,
}

impl Row {
    /// As the deployed backend: an update with an end passes the execution's status on to the job, over whatever that became
    /// meanwhile.
    fn reopen(&mut self, update: &Value) {
        if !update["completedAt"].is_null() && self.status != Status::Queued {
            self.late_updates += u32::from(!self.reports.is_empty());
            self.status = Status::Running;
        }
    }

    fn word(&self) -> &'static str {
        match self.status {
            Status::Queued => "queued",
            Status::Claimed => "claimed",
            Status::Running => "running",
            Status::Ended => "completed",
            Status::Cancelled => "cancelled",
        }
    }
}

impl Inner {
    /// `exec-<job>-<ms>`.
    fn job_of(&self, execution: &str) -> Option<String> {
        let job = execution.strip_prefix("exec-")?.rsplit_once('-')?.0;
        self.rows.contains_key(job).then(|| job.to_owned())
    }
}

/// What goes wrong on the way, in thousandths of all calls.
#[derive(Debug, Clone, Default)]
pub(super) struct Weather {
    pub(super) refused: u64,
    pub(super) cut_before: u64,
    pub(super) cut_after: u64,
    pub(super) error_before: u64,
    pub(super) error_after: u64,
    pub(super) late: u64,
    /// Nothing is reached in these spans.
    pub(super) away: Vec<(Duration, Duration)>,
}

#[derive(Debug, Default)]
struct Inner {
    rows: BTreeMap<String, Row>,
    weather: Weather,
    cancels: Vec<String>,
    faults: u64,
    /// Requests whose sender was killed, which arrive all the same, and when.
    orphans: Vec<(Duration, String, String, Value)>,
}

/// A request on its way: of a killed agent's, some arrive later than the next agent starts.
struct OnItsWay<'a> {
    backend: &'a Backend,
    request: Option<(String, String, Value)>,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        let sim = &self.backend.sim;
        if let Some((method, target, body)) = self.request.take()
            && sim.is_killed()
            && sim.chance(300)
        {
            // What is on its way longer than `limits::REPORT_SETTLE` is beyond the promise.
            let due = sim.elapsed() + Duration::from_millis(sim.below(900));
            self.backend.lock().orphans.push((due, method, target, body));
        }
    }
}

/// The backend; clones are the same one.
#[derive(Clone)]
pub(super) struct Backend {
    sim: Sim,
    inner: Arc<Mutex<Inner>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl Backend {
    pub(super) fn new(sim: &Sim, weather: Weather) -> Self {
        Self { sim: sim.clone(), inner: Arc::new(Mutex::new(Inner { weather, ..Inner::default() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enqueue(&self, job: &str) {
        let row =
            Row { status: Status::Queued, was_cancelled: false, reports: Vec::new(), releases: 0, late_updates: 0 };
        self.lock().rows.insert(job.to_owned(), row);
    }

    /// A user cancels; whether the row could still be cancelled. Told by the row alone, or by the heartbeat too.
    pub(super) fn cancel(&self, job: &str, told: bool) -> bool {
        let mut inner = self.lock();
        let Some(row) = inner.rows.get_mut(job) else { return false };
        let open = !matches!(row.status, Status::Ended | Status::Cancelled);
        if open {
            (row.status, row.was_cancelled) = (Status::Cancelled, true);
            if told {
                inner.cancels.push(job.to_owned());
            }
        }
        open
    }

    /// From now on nothing is lost.
    pub(super) fn calm(&self) {
        self.lock().weather = Weather::default();
    }

    pub(super) fn faults(&self) -> u64 {
        self.lock().faults
    }

    pub(super) fn look<T>(&self, job: &str, at: impl FnOnce(&Row) -> T) -> Option<T> {
        self.lock().rows.get(job).map(at)
    }

    /// Jobs that nobody has answered for.
    pub(super) fn unsettled(&self) -> Vec<String> {
        let inner = self.lock();
        let open = inner.rows.iter().filter(|(_, row)| !matches!(row.status, Status::Ended | Status::Cancelled));
        open.map(|(job, row)| format!("{job}: {row:?}")).collect()
    }

    /// What a killed agent had sent and has arrived by now.
    fn arrive(&self) {
        let now = self.sim.elapsed();
        let due: Vec<_> = self.lock().orphans.extract_if(.., |(due, ..)| *due <= now).collect();
        for (_, method, target, body) in due {
            let (status, _) = self.process(&method, &target, &body);
            self.sim.trace(format!("arrives from the dead: {method} {target}: {status}"));
        }
    }

    /// The contract.
    fn process(&self, method: &str, target: &str, body: &Value) -> (u16, Value) {
        let mut inner = self.lock();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match (method, parts.as_slice()) {
            ("GET", ["jobs", "queue"]) => {
                let most: usize = query.split('=').nth(1).and_then(|n| n.parse().ok()).unwrap_or(10);
                let queued = inner.rows.iter_mut().filter(|(_, row)| row.status == Status::Queued).take(most);
                let jobs: Vec<Value> = queued
                    .map(|(job, row)| {
                        row.status = Status::Claimed;
                        payload(job)
                    })
                    .collect();
                (200, json!({ "jobs": jobs }))
            }
            ("GET", ["jobs", "orphaned"]) => {
                let held = inner.rows.iter().filter_map(|(job, row)| match row.status {
                    Status::Claimed => Some(json!({"id": job, "status": "claimed"})),
                    Status::Running => Some(json!({"id": job, "status": "running"})),
                    _ => None,
                });
                (200, Value::Array(held.collect()))
            }
            ("POST", ["orchestrator", "heartbeat"]) => (200, json!({ "cancelJobs": inner.cancels })),
            ("PUT", ["executions", execution, "update"]) => {
                if let Some(row) = inner.job_of(execution).and_then(|job| inner.rows.get_mut(&job)) {
                    row.reopen(body);
                }
                (200, json!({"success": true}))
            }
            ("POST" | "PUT", ["executions", ..]) => (200, json!({"success": true})),
            ("POST" | "PUT", ["jobs", job, what]) => match inner.rows.get_mut(*job) {
                Some(row) => {
                    let status = about(row, what, body);
                    let row = json!({"id": job, "status": row.word(), "payload": payload(job)});
                    (status, json!({"success": true, "job": row}))
                }
                None => (404, json!({"error": "no such job"})),
            },
            _ => (404, json!({"error": format!("{method} {path}")})),
        }
    }
}

/// A job as the queue and its row tell it.
fn payload(job: &str) -> Value {
    json!({"id": job, "attempts": 0, "execution": {"script": {"type": "BASH", "content": "echo"}}})
}

/// A call about one job; the status of the answer.
fn about(row: &mut Row, what: &str, body: &Value) -> u16 {
    match (what, row.status) {
        ("acknowledge", Status::Queued) => return 403,
        ("acknowledge", _) => {}
        ("status", Status::Claimed) => row.status = Status::Running,
        ("status", _) => {}
        ("complete", _) => {
            let text = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            row.reports.push(Report {
                status: text("/status"),
                exit_code: body["exitCode"].as_i64().unwrap_or(i64::MIN),
                stdout: text("/output/stdout"),
                stderr: text("/output/stderr"),
                receipt: body["receipt"].clone(),
            });
            // As the deployed backend: a report replaces what a user's cancel made of the row.
            row.status = if text("/status") == "cancelled" { Status::Cancelled } else { Status::Ended };
        }
        ("release", Status::Claimed | Status::Running) => {
            row.releases += 1;
            row.status = Status::Queued;
        }
        ("release", Status::Queued) => return 403,
        ("release", _) => row.releases += 1,
        _ => return 404,
    }
    200
}

impl Scripted for Backend {
    fn exchange(&self, method: &str, target: &str, body: Option<&[u8]>) -> (Option<u16>, Result<Vec<u8>, Problem>) {
        let sim = &self.sim;
        let lost = |how: NoAnswer, what: &str| {
            self.lock().faults += 1;
            sim.trace(format!("{method} {target}: {what}"));
            (None, Err(how.problem()))
        };
        sim.step("request");
        self.arrive();
        let weather = self.lock().weather.clone();
        let now = sim.elapsed();
        let body: Value = body.and_then(|body| serde_json::from_slice(body).ok()).unwrap_or(Value::Null);
        let request = Some((method.to_owned(), target.to_owned(), body.clone()));
        let mut on_its_way = OnItsWay { backend: self, request };
        sim.sleep(Duration::from_millis(sim.below(40)));
        if sim.is_killed() {
            return lost(NoAnswer::Refused, "killed");
        }
        if sim.chance(weather.refused) || weather.away.iter().any(|(from, to)| (*from..*to).contains(&now)) {
            return lost(NoAnswer::Refused, "refused");
        }
        if sim.chance(weather.cut_before) {
            return lost(NoAnswer::Cut, "cut before");
        }
        on_its_way.request = None;
        let (mut status, answer) = match sim.chance(weather.error_before) {
            true => (500, json!({"error": "overloaded"})),
            false => self.process(method, target, &body),
        };
        if sim.chance(weather.error_after) {
            status = 500;
        }
        sim.trace(format!("{method} {target}: {status}"));
        // Killed between the deed and the answer.
        sim.step("answer");
        if sim.is_killed() {
            return lost(NoAnswer::Cut, "killed");
        }
        if sim.chance(weather.late) {
            sim.sleep(TIMEOUT);
            return lost(NoAnswer::Late(TIMEOUT), "answered too late");
        }
        if sim.chance(weather.cut_after) {
            return lost(NoAnswer::Cut, "cut after");
        }
        sim.sleep(Duration::from_millis(sim.below(40)));
        if (200..300).contains(&status) {
            return (Some(status), Ok(answer.to_string().into_bytes()));
        }
        self.lock().faults += u64::from(status >= 500);
        let problem = Problem::Http { status, message: answer.to_string(), details: None, retry_after: None };
        (Some(status), Err(problem))
    }
}

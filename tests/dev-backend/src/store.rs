//! The rows that the real backend keeps in PostgreSQL, in memory: jobs, executions, variables, and what the agent told of itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::page::Shown;
use crate::time;
use crate::workflow::Workflows;

/// When something happened: since the backend's start, and by the wall clock.
#[derive(Debug, Clone)]
pub struct Stamp {
    pub since_start: Duration,
    pub wall: String,
    /// The same, nanoseconds since 1970.
    pub unix_nanos: i128,
}

impl Stamp {
    pub(crate) fn now(start: Instant) -> Self {
        Self { since_start: start.elapsed(), wall: time::now(), unix_nanos: time::unix_nanos() }
    }

    fn json(stamp: Option<&Self>) -> Value {
        stamp.map_or(
            Value::Null,
            |stamp| json!({"ms": u64::try_from(stamp.since_start.as_millis()).unwrap_or(u64::MAX), "at": stamp.wall}),
        )
    }
}

/// Something that the agent told about a job.
#[derive(Debug, Clone)]
pub struct Report {
    /// `acknowledge`, `status`, `complete`, `fail`, `release`, `execution-create`, `execution-update`, `output`, `condition`.
    pub kind: &'static str,
    pub body: Value,
    /// Makes the real backend run the job's follow-up actions.
    pub terminal: bool,
    pub at: Stamp,
}

#[derive(Debug, Clone)]
pub struct Execution {
    pub id: String,
    pub job_id: String,
    pub created: Value,
    pub updates: Vec<Value>,
    /// The updates laid over each other, as the row would look.
    pub row: Map<String, Value>,
    pub output: Option<Value>,
}

/// A job's row.
#[derive(Debug, Clone)]
pub struct JobRow {
    pub id: String,
    /// As given, and as the queue hands it out.
    pub payload: Value,
    /// `queued claimed running completed failed cancelled`.
    pub status: &'static str,
    pub claimed_by: Option<String>,
    /// The verdict as the agent worded it (`timeout` too).
    pub verdict: Option<String>,
    pub exit_code: Option<i64>,
    pub duration_ms: Option<u64>,
    pub queued: Stamp,
    pub claimed: Option<Stamp>,
    pub acknowledged: Option<Stamp>,
    pub started: Option<Stamp>,
    /// `completedAt`. Also an update of an execution sets it, while the job still runs.
    pub finished: Option<Stamp>,
    /// Of the last release; it stays, whatever comes later.
    pub last_error: Option<String>,
    /// What the last report left of exit code, metrics, output and condition. Each replaces the one before as a whole.
    pub result: Value,
    /// What a user sees.
    pub shown: Shown,
    pub reports: Vec<Report>,
    pub executions: Vec<String>,
    /// Times that the queue handed it out.
    pub claims: u32,
}

impl JobRow {
    pub fn terminal_reports(&self) -> usize {
        self.reports.iter().filter(|report| report.terminal).count()
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self.status, "completed" | "failed" | "cancelled")
    }

    /// `BASH`, `PYTHON`, `NODEJS`, or what else the payload says.
    pub fn language(&self) -> &str {
        let execution = &self.payload["execution"];
        execution["script"]["type"]
            .as_str()
            .or_else(|| self.payload["metadata"]["originalType"].as_str())
            .unwrap_or("-")
    }

    /// The database's name for the type: `SCRIPT`, `HTTP_REQUEST` or `TOOL_ACTION`.
    pub(crate) fn original_type(&self) -> &str {
        let http = self.payload["execution"]["http"].is_object();
        self.payload["metadata"]["originalType"].as_str().unwrap_or(if http { "HTTP_REQUEST" } else { "SCRIPT" })
    }

    /// What an agent may rely on of a row in the orphaned list.
    pub(crate) fn listed(&self) -> Value {
        json!({"id": self.id, "status": self.status, "startedAt": self.started.as_ref().map(|stamp| &stamp.wall)})
    }

    /// The whole row, which calls about the job answer as `job`. It has no login: the queue looks that up as it hands the job
    /// out.
    pub(crate) fn row(&self) -> Value {
        let at = |stamp: &Option<Stamp>| stamp.as_ref().map(|stamp| stamp.wall.clone());
        let mut metadata = self.payload["metadata"].clone();
        if let Some(object) = metadata.as_object_mut() {
            object.remove("servers");
        }
        json!({"id": self.id, "eventId": metadata["eventId"], "userId": metadata["userId"], "type": self.original_type(),
               "status": self.status, "priority": "normal", "payload": self.stored(), "metadata": metadata, "attempts": 0,
               "orchestratorId": self.claimed_by, "lastError": self.last_error, "result": self.result,
               "scheduledFor": self.payload["scheduledFor"], "createdAt": self.payload["createdAt"],
               "startedAt": at(&self.started), "completedAt": at(&self.finished), "updatedAt": time::now()})
    }

    /// The payload as the database has it: servers are looked up when the queue hands the job out.
    fn stored(&self) -> Value {
        let (work, metadata) = (&self.payload["execution"], &self.payload["metadata"]);
        json!({"script": work["script"], "environment": work["environment"], "input": work["inputData"],
               "target": {"serverId": work["target"]["serverId"]}, "executionLogId": metadata["logId"]})
    }

    /// As the queue hands it out. The deployed backend has the headers of an HTTP request as a list of pairs.
    fn handed_out(&self) -> Value {
        let mut payload = self.payload.clone();
        if let Some(headers) = payload.pointer_mut("/execution/http/headers")
            && let Some(object) = headers.as_object()
        {
            *headers = object.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        }
        payload
    }

    pub(crate) fn brief(&self) -> Value {
        json!({"id": self.id, "status": self.status, "language": self.language(), "verdict": self.verdict,
               "exitCode": self.exit_code, "durationMs": self.duration_ms, "claimedBy": self.claimed_by,
               "terminalReports": self.terminal_reports(), "claims": self.claims, "queued": Stamp::json(Some(&self.queued)),
               "claimed": Stamp::json(self.claimed.as_ref()), "acknowledged": Stamp::json(self.acknowledged.as_ref()),
               "started": Stamp::json(self.started.as_ref()), "finished": Stamp::json(self.finished.as_ref()),
               "lastError": self.last_error, "shown": {"status": self.shown.status, "output": self.shown.output,
               "error": self.shown.error}})
    }
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) jobs: Vec<JobRow>,
    index: HashMap<String, usize>,
    pub(crate) executions: BTreeMap<String, Execution>,
    /// By user and key: the text, and the time of its last change.
    pub(crate) variables: BTreeMap<(String, String), (String, String)>,
    pub(crate) workflows: Workflows,
    pub(crate) cancel_by_heartbeat: BTreeSet<String>,
    pub(crate) agent: BTreeMap<&'static str, AgentTold>,
    pub(crate) audit: Vec<Value>,
    /// What was accepted and still is not as the contract says.
    pub(crate) problems: Vec<String>,
}

/// One kind of message about the agent itself: how many, and the last.
#[derive(Debug, Default)]
pub(crate) struct AgentTold {
    pub(crate) count: u64,
    pub(crate) last: Value,
}

/// Enough for the longest soak test, and a bound.
const KEPT: usize = 100_000;

impl Store {
    pub(crate) fn enqueue(&mut self, payload: Value, start: Instant) -> Result<String, String> {
        let id = payload["id"].as_str().ok_or("a job needs an id (a string)")?.to_owned();
        if self.index.contains_key(&id) {
            return Err(format!("job {id} is there already"));
        }
        if self.jobs.len() >= KEPT {
            return Err("the backend is full".to_owned());
        }
        self.index.insert(id.clone(), self.jobs.len());
        self.jobs.push(JobRow {
            id: id.clone(),
            payload,
            status: "queued",
            claimed_by: None,
            verdict: None,
            exit_code: None,
            duration_ms: None,
            queued: Stamp::now(start),
            claimed: None,
            acknowledged: None,
            started: None,
            finished: None,
            last_error: None,
            result: Value::Null,
            shown: Shown::default(),
            reports: Vec::new(),
            executions: Vec::new(),
            claims: 0,
        });
        Ok(id)
    }

    pub(crate) fn job(&self, id: &str) -> Option<&JobRow> {
        self.index.get(id).and_then(|at| self.jobs.get(*at))
    }

    pub(crate) fn job_mut(&mut self, id: &str) -> Option<&mut JobRow> {
        self.index.get(id).and_then(|at| self.jobs.get_mut(*at))
    }

    pub(crate) fn problem(&mut self, text: String) {
        if self.problems.len() < 1000 {
            self.problems.push(text);
        }
    }

    pub(crate) fn audited(&mut self, body: Value) {
        if self.audit.len() < KEPT {
            self.audit.push(body);
        }
    }

    pub(crate) fn told(&mut self, kind: &'static str, body: Value) {
        let entry = self.agent.entry(kind).or_default();
        entry.count += 1;
        entry.last = body;
    }

    pub(crate) fn queued(&self) -> usize {
        self.jobs.iter().filter(|job| job.status == "queued").count()
    }

    /// Claims up to `limit` queued jobs that are due, of these types (the database's names). A claim of another agent that
    /// is younger than `race` is not seen.
    pub(crate) fn claim(
        &mut self,
        (agent, limit): (&str, usize),
        types: Option<&[&str]>,
        (start, race): (Instant, Duration),
    ) -> Vec<Value> {
        let now = time::unix_nanos();
        let since = start.elapsed().saturating_sub(race);
        let unseen = |job: &JobRow| {
            job.status == "claimed"
                && job.claimed_by.as_deref() != Some(agent)
                && job.claimed.as_ref().is_some_and(|at| at.since_start > since)
        };
        let mut claimed = Vec::new();
        for job in &mut self.jobs {
            if claimed.len() == limit {
                break;
            }
            let due = job.payload["scheduledFor"].as_str().and_then(time::parse).is_none_or(|at| at <= now);
            let wanted = types.is_none_or(|types| types.contains(&job.original_type()));
            if job.status != "queued" && !unseen(job) || !due || !wanted {
                continue;
            }
            job.status = "claimed";
            job.claimed_by = Some(agent.to_owned());
            job.claimed = Some(Stamp::now(start));
            job.claims += 1;
            claimed.push(job.handed_out());
        }
        claimed
    }

    pub(crate) fn set_variable(&mut self, user: &str, key: &str, text: String) {
        self.variables.insert((user.to_owned(), key.to_owned()), (text, time::now()));
    }

    /// Fails the rows that have been `running` for so long and have no `completedAt`; whether there were any. The pages and
    /// the agent learn nothing of it.
    pub(crate) fn clean_up(&mut self, limit: Duration, start: Instant) -> bool {
        let since =
            |job: &JobRow| job.started.as_ref().map(|started| start.elapsed().saturating_sub(started.since_start));
        let stuck = |job: &&mut JobRow| {
            job.status == "running" && job.finished.is_none() && since(job).is_some_and(|t| t >= limit)
        };
        let mut any = false;
        for job in self.jobs.iter_mut().filter(stuck) {
            (job.status, job.finished, any) = ("failed", Some(Stamp::now(start)), true);
        }
        any
    }

    /// Everything known of one job.
    pub(crate) fn full(&self, id: &str) -> Option<Value> {
        let job = self.job(id)?;
        let mut out = job.brief();
        let reports: Vec<Value> = job
            .reports
            .iter()
            .map(|report| {
                json!({"kind": report.kind, "terminal": report.terminal, "body": report.body, "time": Stamp::json(Some(&report.at))})
            })
            .collect();
        let executions: Vec<Value> = self
            .executions
            .values()
            .filter(|execution| execution.job_id == id)
            .map(|execution| {
                json!({"id": execution.id, "created": execution.created, "updates": execution.updates, "row": execution.row,
                       "output": execution.output})
            })
            .collect();
        out["reports"] = Value::Array(reports);
        out["executions"] = Value::Array(executions);
        out["payload"] = job.payload.clone();
        out["result"] = job.result.clone();
        Some(out)
    }
}

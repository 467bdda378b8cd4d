//! What the agent counts: plain atomics, no registry, no lock; every label has a closed set of values.
//!
//! Whoever does a thing calls one function here; `/metrics` shows the sum ([`render`]). A series with few label values
//! is there from the start with 0, so that `rate()` sees the first event; of `cronium_api_requests_total` only those that
//! occurred are, since most combinations never do.

mod cells;
mod labels;
mod render;

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::cells::{Counter, Gauge, Histogram};
use self::labels::{
    CODES, ENDPOINTS, KINDS, METHODS, OPERATIONS, PHASES, PLACES, POLLS, PULLS, REASONS, RELOADS, STREAMS, WRITES,
    code_slot, method_slot, reason_slot, slot,
};
pub use self::render::render;
use crate::job::{Kind, Stream};
use crate::limits;
use crate::verdict::{Cause, Phase, Verdict};

/// An HTTP method, upper case.
pub type Method = &'static str;

/// The backend calls that are told apart in `cronium_api_requests_total{endpoint}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Queue,
    Acknowledge,
    Status,
    Complete,
    Release,
    Orphaned,
    ExecutionCreate,
    ExecutionUpdate,
    Health,
    Heartbeat,
}

/// How a backend call ended: an HTTP status, or no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Status(u16),
    Timeout,
    Error,
}

/// The Docker calls that are told apart in `cronium_docker_request_duration_seconds{operation}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DockerOperation {
    Ping,
    Info,
    Create,
    Attach,
    Start,
    Wait,
    Inspect,
    Stats,
    Kill,
    Remove,
    Pull,
    Network,
    List,
}

/// How one poll of the queue ended: the label of `cronium_polls_total{result}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollResult {
    /// At least one job came.
    Jobs,
    Empty,
    Error,
    /// The agent did not ask: no worker free, or not ready.
    Skipped,
}

/// How the pull of an image ended: the label of `cronium_image_pulls_total{result}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullResult {
    Success,
    Failure,
}

/// How a write to the journal ended: the label of `cronium_journal_writes_total{result}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteResult {
    Success,
    Failure,
}

/// What came of reading the configuration again: the label of `cronium_config_reloads_total{result}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadResult {
    /// Something took effect.
    Changed,
    Unchanged,
    /// It was not valid.
    Refused,
}

impl ReloadResult {
    /// The word in the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        }
    }
}

/// Which file system: the label of `cronium_disk_free_bytes{path}` and `cronium_disk_free_inodes{path}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The one that holds Docker's data.
    Docker,
    /// The one that holds `state.dir`.
    State,
}

/// Buckets of a job and of a phase: 50 ms, about the least that a container takes, to an hour, the default timeout.
static JOB_BOUNDS: [f64; 15] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// Buckets of a call to the backend or to Docker: 1 ms to 30 s, the default of `api.timeout`.
static CALL_BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Every cell. One static, so that a reader sees at once all that is kept.
struct Cells {
    received: [Counter; KINDS.len()],
    completed: [Counter; KINDS.len()],
    failed: [[Counter; REASONS.len()]; KINDS.len()],
    duration: [Histogram<15>; KINDS.len()],
    phase: [Histogram<15>; PHASES.len()],
    active: Gauge,
    workers: Gauge,
    polls: [Counter; POLLS.len()],
    reloads: [Counter; RELOADS.len()],
    /// 1 until a reload is refused, and again from the next that is taken.
    reload_ok: Gauge,
    api: [[[Counter; CODES.len()]; METHODS.len()]; ENDPOINTS.len()],
    api_duration: Histogram<14>,
    api_success: Gauge,
    /// In milliseconds.
    clock: Gauge,
    docker: [Histogram<14>; OPERATIONS.len()],
    pulls: [Counter; PULLS.len()],
    lines: [Counter; STREAMS.len()],
    dropped: Counter,
    websocket: Gauge,
    websocket_ups: Counter,
    ready: Gauge,
    ssh_total: Gauge,
    ssh_busy: Gauge,
    ssh_connect: Histogram<14>,
    ssh_handshake: Histogram<14>,
    ssh_reconnects: Counter,
    ssh_resumed: Counter,
    disk: [Gauge; PLACES.len()],
    inodes: [Gauge; PLACES.len()],
    journal: [Counter; WRITES.len()],
    outbox: Gauge,
    outbox_oldest: Gauge,
    set_aside: Counter,
    janitor: Counter,
}

static CELLS: Cells = Cells::new();
/// The only label whose values are not known beforehand, hence a lock; written when a breaker changes.
static BREAKERS: Mutex<Vec<(String, u8)>> = Mutex::new(Vec::new());
static BUILD: OnceLock<(String, String)> = OnceLock::new();

impl Cells {
    const fn new() -> Self {
        Self {
            received: [const { Counter::new() }; KINDS.len()],
            completed: [const { Counter::new() }; KINDS.len()],
            failed: [const { [const { Counter::new() }; REASONS.len()] }; KINDS.len()],
            duration: [const { Histogram::new(&JOB_BOUNDS) }; KINDS.len()],
            phase: [const { Histogram::new(&JOB_BOUNDS) }; PHASES.len()],
            active: Gauge::new(0),
            workers: Gauge::new(0),
            polls: [const { Counter::new() }; POLLS.len()],
            reloads: [const { Counter::new() }; RELOADS.len()],
            reload_ok: Gauge::new(1),
            api: [const { [const { [const { Counter::new() }; CODES.len()] }; METHODS.len()] }; ENDPOINTS.len()],
            api_duration: Histogram::new(&CALL_BOUNDS),
            api_success: Gauge::new(Gauge::UNKNOWN),
            clock: Gauge::new(Gauge::UNKNOWN),
            docker: [const { Histogram::new(&CALL_BOUNDS) }; OPERATIONS.len()],
            pulls: [const { Counter::new() }; PULLS.len()],
            lines: [const { Counter::new() }; STREAMS.len()],
            dropped: Counter::new(),
            websocket: Gauge::new(0),
            websocket_ups: Counter::new(),
            ready: Gauge::new(0),
            ssh_total: Gauge::new(0),
            ssh_busy: Gauge::new(0),
            ssh_connect: Histogram::new(&CALL_BOUNDS),
            ssh_handshake: Histogram::new(&CALL_BOUNDS),
            ssh_reconnects: Counter::new(),
            ssh_resumed: Counter::new(),
            disk: [const { Gauge::new(Gauge::UNKNOWN) }; PLACES.len()],
            inodes: [const { Gauge::new(Gauge::UNKNOWN) }; PLACES.len()],
            journal: [const { Counter::new() }; WRITES.len()],
            outbox: Gauge::new(0),
            outbox_oldest: Gauge::new(0),
            set_aside: Counter::new(),
            janitor: Counter::new(),
        }
    }
}

/// A job was claimed.
pub fn job_received(kind: Kind) {
    CELLS.received[slot(&KINDS, &kind)].add(1);
}

/// A job began (+1) or ended (−1) to occupy a worker. Feeds `cronium_jobs_active` and `cronium_workers_busy`, which are
/// one figure for as long as a worker has one job.
pub fn jobs_active(change: i64) {
    CELLS.active.add(change);
}

/// A job ended; `took` is from hand-out to verdict.
pub fn job_finished(kind: Kind, verdict: &Verdict, took: Duration) {
    let kind = slot(&KINDS, &kind);
    CELLS.duration[kind].observe(took);
    match verdict.cause {
        Cause::Success => CELLS.completed[kind].add(1),
        _ => CELLS.failed[kind][reason_slot(verdict.reason())].add(1),
    }
}

/// One phase of a job is over.
pub fn job_phase(phase: Phase, took: Duration) {
    CELLS.phase[slot(&PHASES, &phase)].observe(took);
}

/// A backend call is over.
pub fn api_request(endpoint: Endpoint, method: Method, code: Code, took: Duration) {
    CELLS.api[endpoint as usize][method_slot(method)][code_slot(code)].add(1);
    CELLS.api_duration.observe(took);
    if matches!(code, Code::Status(200..=299)) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        CELLS.api_success.set(i64::try_from(now).unwrap_or(0));
    }
}

/// By how many milliseconds this host's clock is ahead of the backend's. Until the first call it is not shown.
pub fn clock_skew(ahead: i64) {
    CELLS.clock.set(ahead);
}

/// A Docker call is over.
pub fn docker_request(operation: DockerOperation, took: Duration) {
    CELLS.docker[operation as usize].observe(took);
}

/// Lines were read from a job.
pub fn log_lines(stream: Stream, count: u64) {
    CELLS.lines[slot(&STREAMS, &stream)].add(count);
}

/// Lines were left out of the live stream.
pub fn log_lines_dropped(count: u64) {
    CELLS.dropped.add(count);
}

/// The live log's connection came up or went down. Each coming up but the first counts as a reconnect.
pub fn websocket_connected(up: bool) {
    if CELLS.websocket.swap(i64::from(up)) == 0 && up {
        CELLS.websocket_ups.add(1);
    }
}

/// The queue was asked, or not.
pub fn poll(result: PollResult) {
    CELLS.polls[slot(&POLLS, &result)].add(1);
}

/// The configuration was read again.
pub fn config_reload(result: ReloadResult) {
    CELLS.reloads[slot(&RELOADS, &result)].add(1);
    CELLS.reload_ok.set(i64::from(result != ReloadResult::Refused));
}

/// How many workers there are.
pub fn workers(count: usize) {
    CELLS.workers.set(i64::try_from(count).unwrap_or(i64::MAX));
}

/// The pull of an image is over.
pub fn image_pull(result: PullResult) {
    CELLS.pulls[slot(&PULLS, &result)].add(1);
}

/// An SSH connection was made (+1) or is gone (−1).
pub fn ssh_connection(change: i64) {
    CELLS.ssh_total.add(change);
}

/// When the backend last answered a call with success, to the second.
pub fn last_contact() -> Option<SystemTime> {
    CELLS.api_success.known().map(|at| UNIX_EPOCH + Duration::from_secs(at))
}

/// An SSH connection got its first session (+1) or lost its last (−1).
pub fn ssh_busy(change: i64) {
    CELLS.ssh_busy.add(change);
}

/// A server's name was resolved and its port answered.
pub fn ssh_connected(took: Duration) {
    CELLS.ssh_connect.observe(took);
}

/// Keys were exchanged and the server let us in.
pub fn ssh_handshake(took: Duration) {
    CELLS.ssh_handshake.observe(took);
}

/// A job came back to its server; the output goes on after so many bytes.
pub fn ssh_reconnected(at: u64) {
    CELLS.ssh_reconnects.add(1);
    CELLS.ssh_resumed.add(at);
}

/// Where a server's circuit breaker stands: 0 closed, 1 half-open, 2 open. The first `limits::SSH_BREAKERS_SHOWN` servers
/// are told apart; of all others the worst is shown as `other`.
pub fn ssh_breaker(server: &str, state: u8) {
    let mut table = BREAKERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = table.iter_mut().find(|(name, _)| name == server) {
        known.1 = state;
    } else {
        table.push((server.to_owned(), state));
    }
    // Closed ones beyond what is shown are forgotten, so that the table is bounded by the breakers there are.
    let mut at = 0;
    table.retain(|(_, state)| {
        at += 1;
        at <= limits::SSH_BREAKERS_SHOWN || *state > 0
    });
}

/// A server's circuit breaker is no longer kept, so it is no longer shown.
pub fn ssh_breaker_forgotten(server: &str) {
    BREAKERS.lock().unwrap_or_else(PoisonError::into_inner).retain(|(name, _)| name != server);
}

/// How many breakers of servers whose names begin like this are in the table.
#[cfg(test)]
pub(crate) fn ssh_breakers_like(begin: &str) -> usize {
    let table = BREAKERS.lock().unwrap_or_else(PoisonError::into_inner);
    table.iter().filter(|(name, _)| name.starts_with(begin)).count()
}

/// Whether the agent claims jobs. `health::Board` calls this.
pub fn agent_ready(ready: bool) {
    CELLS.ready.set(i64::from(ready));
}

/// A container that was left behind was removed.
pub fn janitor_removed() {
    CELLS.janitor.add(1);
}

/// How many bytes a file system has left. Until the first call it is not shown.
pub fn disk_free(place: Place, bytes: u64) {
    CELLS.disk[slot(&PLACES, &place)].set(i64::try_from(bytes).unwrap_or(i64::MAX));
}

/// How many files can still be made on a file system. Until the first call it is not shown, and never for a file system
/// that does not count them.
pub fn disk_free_inodes(place: Place, inodes: u64) {
    CELLS.inodes[slot(&PLACES, &place)].set(i64::try_from(inodes).unwrap_or(i64::MAX));
}

/// A job's entry was written to the journal, or not.
pub fn journal_write(result: WriteResult) {
    CELLS.journal[slot(&WRITES, &result)].add(1);
}

/// How many reports wait for the backend, and since when the oldest does, in seconds since 1970.
pub fn outbox(waiting: usize, oldest_since: Option<u64>) {
    CELLS.outbox.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    CELLS.outbox_oldest.set(oldest_since.and_then(|at| i64::try_from(at).ok()).unwrap_or(0));
}

/// A report was given up: the backend refused it for good, or did not take it for too long.
pub fn report_set_aside() {
    CELLS.set_aside.add(1);
}

/// Says what `cronium_build_info` shows; the first call counts. Without one it is this package's version and `unknown`.
pub fn build_info(version: &str, commit: &str) {
    let _ = BUILD.set((version.to_owned(), commit.to_owned()));
}

/// Figures for tests and for the agent's own summary at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub received: u64,
    pub completed: u64,
    pub failed: u64,
    pub active: u64,
    pub api_requests: u64,
    pub lines: u64,
    pub lines_dropped: u64,
}

/// The sums over all labels.
pub fn totals() -> Totals {
    let sum = |counters: &[Counter]| counters.iter().map(Counter::get).sum();
    Totals {
        received: sum(&CELLS.received),
        completed: sum(&CELLS.completed),
        failed: CELLS.failed.iter().map(|kind| sum(kind)).sum::<u64>(),
        active: CELLS.active.get(),
        api_requests: CELLS.api_duration.count(),
        lines: sum(&CELLS.lines),
        lines_dropped: CELLS.dropped.get(),
    }
}

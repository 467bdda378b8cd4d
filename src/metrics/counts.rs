//! Every cell that is counted in, and the functions that add to those with labels.
//!
//! An array holds one cell for each combination of its labels' values, those of the last label side by side.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cells::{Counter, Gauge, Histogram};
use super::labels::{
    CODE, Code, DockerOperation, ENDPOINT, Endpoint, KIND, LANGUAGE, METHOD, OPERATION, OUTCOME, PHASE, PLACE, POLL,
    Place, PollResult, REASON, RELOAD, ReloadResult, STREAM, WARM_END, WARM_USE, WarmEnd, WarmUse,
};
use crate::job::{Kind, Language, Stream};
use crate::limits;
use crate::verdict::{Cause, Phase, Verdict};

/// Jobs that occupy a worker now.
pub static JOBS_ACTIVE: Gauge = Gauge::new(0);
/// How many workers there are.
pub static WORKERS: Gauge = Gauge::new(0);
/// 1 while the agent claims jobs.
pub static AGENT_READY: Gauge = Gauge::new(0);
/// Lines that were left out of the live stream.
pub static LOG_LINES_DROPPED: Counter = Counter::new();
/// By how many milliseconds this host's clock is ahead of the backend's.
pub static CLOCK_SKEW: Gauge = Gauge::unknown();
/// Walls that the last proof did not find standing.
pub(super) static PROOFS_FAILED: Gauge = Gauge::unknown();
/// When the last proof found all of them standing, or the first look at the proofs, in seconds since 1970.
pub(super) static PROOF_HELD: Gauge = Gauge::unknown();
/// SSH connections, and those of them that have sessions.
pub static SSH_CONNECTIONS: Gauge = Gauge::new(0);
pub static SSH_BUSY: Gauge = Gauge::new(0);
/// Until a server's name was resolved and its port answered.
pub static SSH_CONNECT: Histogram = Histogram::of_calls();
/// Until keys were exchanged and the server accepted the login.
pub static SSH_HANDSHAKE: Histogram = Histogram::of_calls();
/// Times a job came back to its server, and the bytes of output that were not sent again then.
pub static SSH_RESUMED: Counter = Counter::new();
pub static SSH_RESUMED_BYTES: Counter = Counter::new();
/// Containers that were left behind and were removed.
pub static JANITOR_REMOVED: Counter = Counter::new();
/// Reports that were given up: refused, or not taken for too long.
pub static REPORTS_SET_ASIDE: Counter = Counter::new();
/// Jobs without a valid signature and not on the list: refused, or run under `warn`.
pub static JOBS_UNSIGNED: Counter = Counter::new();

pub(super) static RECEIVED: [Counter; KIND.1.len()] = [const { Counter::new() }; _];
pub(super) static COMPLETED: [Counter; KIND.1.len()] = [const { Counter::new() }; _];
pub(super) static FAILED: [Counter; KIND.1.len() * REASON.1.len()] = [const { Counter::new() }; _];
pub(super) static DURATION: [Histogram; KIND.1.len()] = [const { Histogram::of_jobs() }; _];
pub(super) static PHASES: [Histogram; PHASE.1.len()] = [const { Histogram::of_jobs() }; _];
pub(super) static LINES: [Counter; STREAM.1.len()] = [const { Counter::new() }; _];
pub(super) static API: [Counter; ENDPOINT.1.len() * METHOD.1.len() * CODE.1.len()] = [const { Counter::new() }; _];
pub(super) static API_DURATION: Histogram = Histogram::of_calls();
/// In seconds since 1970.
pub(super) static API_SUCCESS: Gauge = Gauge::unknown();
pub(super) static DOCKER: [Histogram; OPERATION.1.len()] = [const { Histogram::of_calls() }; _];
pub(super) static PULLS: [Counter; OUTCOME.1.len()] = [const { Counter::new() }; _];
pub(super) static REMOVALS: [Counter; OUTCOME.1.len()] = [const { Counter::new() }; _];
pub(super) static POLLS: [Counter; POLL.1.len()] = [const { Counter::new() }; _];
pub(super) static RELOADS: [Counter; RELOAD.1.len()] = [const { Counter::new() }; _];
pub(super) static RELOAD_OK: Gauge = Gauge::new(1);
pub(super) static WEBSOCKET: Gauge = Gauge::new(0);
/// Times the connection came up, the first time included.
pub(super) static WEBSOCKET_UPS: Counter = Counter::new();
pub(super) static DISK: [Gauge; PLACE.1.len()] = [const { Gauge::unknown() }; _];
pub(super) static INODES: [Gauge; PLACE.1.len()] = [const { Gauge::unknown() }; _];
pub(super) static JOURNAL: [Counter; OUTCOME.1.len()] = [const { Counter::new() }; _];
pub(super) static OUTBOX: Gauge = Gauge::new(0);
/// In seconds since 1970; 0 when none waits.
pub(super) static OUTBOX_OLDEST: Gauge = Gauge::new(0);
/// The only label whose values are not known beforehand, hence a lock; written when a breaker changes.
pub(super) static BREAKERS: Mutex<Vec<(String, u8)>> = Mutex::new(Vec::new());

/// Containers that wait for jobs, by language; unknown until the pool is used.
pub(super) static WARM: [Gauge; LANGUAGE.1.len()] = [const { Gauge::unknown() }; _];
pub(super) static WARM_JOBS: [Counter; WARM_USE.1.len()] = [const { Counter::new() }; _];
pub(super) static WARM_DISCARDED: [Counter; WARM_END.1.len()] = [const { Counter::new() }; _];

/// `count` containers wait for scripts of this language.
pub fn warm_waiting(language: Language, count: usize) {
    WARM[language as usize].set(i64::try_from(count).unwrap_or(i64::MAX));
}

/// A job of a language with warm containers came to its container.
pub fn warm_job(way: WarmUse) {
    WARM_JOBS[way as usize].add(1);
}

/// A container that waited was thrown away.
pub fn warm_discarded(why: WarmEnd) {
    WARM_DISCARDED[why as usize].add(1);
}

/// A job was claimed.
pub fn job_received(kind: Kind) {
    RECEIVED[kind as usize].add(1);
}

/// A job ended; `took` is from hand-out to verdict.
pub fn job_finished(kind: Kind, verdict: &Verdict, took: Duration) {
    let kind = kind as usize;
    DURATION[kind].observe(took);
    match verdict.cause {
        Cause::Success => COMPLETED[kind].add(1),
        _ => FAILED[kind * REASON.1.len() + REASON.slot(verdict.reason())].add(1),
    }
}

/// One phase of a job is over.
pub fn job_phase(phase: Phase, took: Duration) {
    PHASES[phase as usize].observe(took);
}

/// Lines were read from a job.
pub fn log_lines(stream: Stream, count: u64) {
    LINES[stream as usize].add(count);
}

/// A backend call is over.
pub fn api_request(endpoint: Endpoint, method: &str, code: Code, took: Duration) {
    let slot = (endpoint as usize * METHOD.1.len() + METHOD.slot(method)) * CODE.1.len() + code.slot();
    API[slot].add(1);
    API_DURATION.observe(took);
    if matches!(code, Code::Status(200..=299)) {
        API_SUCCESS.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    }
}

/// When the backend last answered a call with success, to the second.
pub fn last_contact() -> Option<SystemTime> {
    API_SUCCESS.known().map(|_| UNIX_EPOCH + Duration::from_secs(API_SUCCESS.get()))
}

/// A Docker call is over.
pub fn docker_request(operation: DockerOperation, took: Duration) {
    DOCKER[operation as usize].observe(took);
}

/// The pull of an image succeeded or failed.
pub fn image_pull(success: bool) {
    PULLS[usize::from(!success)].add(1);
}

/// An image that nobody uses was removed, or could not be.
pub fn image_removal(success: bool) {
    REMOVALS[usize::from(!success)].add(1);
}

/// The queue was asked, or not.
pub fn poll(result: PollResult) {
    POLLS[result as usize].add(1);
}

/// The configuration was read again.
pub fn config_reload(result: ReloadResult) {
    RELOADS[result as usize].add(1);
    RELOAD_OK.set(result != ReloadResult::Refused);
}

/// The live log's connection came up or went down.
pub fn websocket_connected(up: bool) {
    if WEBSOCKET.swap(i64::from(up)) == 0 && up {
        WEBSOCKET_UPS.add(1);
    }
}

/// How much a file system has left: bytes, and the number of files that can still be made where it counts them.
pub fn disk_free(place: Place, bytes: u64, inodes: Option<u64>) {
    DISK[place as usize].set(bytes);
    if let Some(inodes) = inodes {
        INODES[place as usize].set(inodes);
    }
}

/// A job's entry was written to the journal, or could not be.
pub fn journal_write(success: bool) {
    JOURNAL[usize::from(!success)].add(1);
}

/// How many reports wait for the backend, and since when the oldest does, in seconds since 1970.
pub fn outbox(waiting: usize, oldest_since: Option<u64>) {
    OUTBOX.set(waiting);
    OUTBOX_OLDEST.set(oldest_since.unwrap_or(0));
}

/// How many walls the last proof did not find standing, and when one found all of them standing.
pub fn proofs(failed: Option<usize>, held: Option<SystemTime>) {
    if let Some(failed) = failed {
        PROOFS_FAILED.set(failed);
    }
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match held {
        Some(at) => PROOF_HELD.set(seconds(at)),
        None if PROOF_HELD.known().is_none() => PROOF_HELD.set(seconds(SystemTime::now())),
        None => {}
    }
}

/// The state of a server's circuit breaker: 0 closed, 1 half-open, 2 open. The page shows the first
/// `limits::SSH_BREAKERS_SHOWN` servers by name, and the worst of all others as `other`.
pub fn ssh_breaker(server: &str, state: u8) {
    let mut table = BREAKERS.lock().unwrap_or_else(PoisonError::into_inner);
    match table.iter_mut().find(|(name, _)| name == server) {
        Some(known) => known.1 = state,
        None => table.push((server.to_owned(), state)),
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

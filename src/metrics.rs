//! What the agent counts: plain atomics, no registry, no lock; every label has a closed set of values.

use std::time::Duration;

use crate::job::{Kind, Stream};
use crate::verdict::{Phase, Verdict};

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

/// A job was claimed.
pub fn job_received(_kind: Kind) {}
/// A job began (+1) or ended (−1) to occupy a worker.
pub fn jobs_active(_change: i64) {}
/// A job ended; `took` is from hand-out to verdict.
pub fn job_finished(_kind: Kind, _verdict: &Verdict, _took: Duration) {}
/// One phase of a job is over.
pub fn job_phase(_phase: Phase, _took: Duration) {}
/// A backend call is over.
pub fn api_request(_endpoint: Endpoint, _method: &'static str, _code: Code, _took: Duration) {}
/// A Docker call is over.
pub fn docker_request(_operation: DockerOperation, _took: Duration) {}
/// Lines were read from a job.
pub fn log_lines(_stream: Stream, _count: u64) {}
/// Lines were left out of the live stream.
pub fn log_lines_dropped(_count: u64) {}
/// The live log's connection came up or went down.
pub fn websocket_connected(_up: bool) {}

//! How a job ended: the one place that gives an ending its words, status, exit code and metric label.

use std::fmt;
use std::time::{Duration, SystemTime};

/// The part of a job's life in which it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Image, container and start: bounded by `jobs.setupTimeout`.
    Setup,
    /// The script itself: bounded by the job's own timeout.
    Execution,
    /// From the script's end to the rest of its output and the evidence. The removal comes after that, when the report is on
    /// disk.
    Cleanup,
}

impl Phase {
    /// The word used in results and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Execution => "execution",
            Self::Cleanup => "cleanup",
        }
    }
}

/// The contract's `status` of a finished job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Completed,
    Failed,
    Timeout,
    Cancelled,
}

impl Status {
    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The script ended by itself with exit code 0.
    Success,
    /// The script ended by itself with another exit code.
    Exit,
    /// A signal that the agent did not send ended it; the number.
    Signal(i32),
    /// The kernel killed it for its memory; the limit in bytes.
    Memory(u64),
    /// The writable layer outgrew the disk limit; the limit in bytes.
    Disk(u64),
    /// A time limit ended it: the limit's configured name and length.
    Timeout { limit: &'static str, after: Duration },
    /// It was cancelled, by this party.
    Cancelled(&'static str),
    /// It succeeded on some of its servers; the number of those on which it failed.
    Partial(u32),
    /// It could not be run as asked: an unknown language, a NUL byte, no script.
    Refused,
    /// Docker, the network, the backend or the host failed.
    Infrastructure,
}

/// The exit code of a job whose script did not run, or whose end is unknown, as `docker run` uses it.
pub const NOT_RUN: i32 = 125;

/// How a job ended, with the evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub phase: Phase,
    pub cause: Cause,
    /// The script's exit code. For an ending without one: −1 for a timeout alone, since the backend shows it as TIMEOUT; 100 + n
    /// if n of several servers failed; [`NOT_RUN`] if the script could not run; 128 + the signal if the agent ended it.
    pub exit_code: i32,
    /// One sentence for the job's owner: what happened, where, the evidence, what to do.
    pub message: String,
}

impl Verdict {
    /// The status for the backend.
    pub fn status(&self) -> Status {
        match self.cause {
            Cause::Success | Cause::Partial(_) => Status::Completed,
            Cause::Timeout { .. } => Status::Timeout,
            Cause::Cancelled(_) => Status::Cancelled,
            _ => Status::Failed,
        }
    }

    /// The word for this ending in `cronium_jobs_failed_total{reason}` and in the execution's metadata.
    pub fn reason(&self) -> &'static str {
        match self.cause {
            Cause::Success => "success",
            Cause::Exit => "script",
            Cause::Signal(_) => "signal",
            Cause::Memory(_) => "memory",
            Cause::Disk(_) => "disk",
            Cause::Timeout { .. } => "timeout",
            Cause::Cancelled(_) => "cancelled",
            Cause::Partial(_) => "partial",
            Cause::Refused => "refused",
            Cause::Infrastructure => "infrastructure",
        }
    }

    /// A verdict on a job that could not be run as it was asked.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { phase: Phase::Setup, cause: Cause::Refused, exit_code: NOT_RUN, message: message.into() }
    }

    /// A verdict that blames the infrastructure.
    pub fn infrastructure(phase: Phase, message: impl Into<String>) -> Self {
        Self { phase, cause: Cause::Infrastructure, exit_code: NOT_RUN, message: message.into() }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.status().as_str(), self.reason(), self.message)
    }
}

/// What a job used. Sampled while it ran, so the last part of a second may be missing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Processor time in seconds.
    pub cpu_seconds: f64,
    /// Highest share seen between two samples, in percent of one core.
    pub peak_cpu_percent: f64,
    /// Bytes.
    pub peak_memory: u64,
    /// Bytes received.
    pub network_rx: u64,
    /// Bytes sent.
    pub network_tx: u64,
    /// Bytes read from block devices.
    pub disk_read: u64,
    /// Bytes written to block devices.
    pub disk_write: u64,
}

/// When one phase ran: wall clock for display, the length from the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub started: SystemTime,
    pub length: Duration,
}

impl Span {
    /// Wall-clock end, for display.
    pub fn ended(&self) -> SystemTime {
        self.started + self.length
    }
}

/// When each phase ran; a phase that was never reached is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    pub setup: Option<Span>,
    pub execution: Option<Span>,
    pub cleanup: Option<Span>,
}

impl Timings {
    /// First start to last end; zero when nothing ran.
    pub fn total(&self) -> Duration {
        [self.setup, self.execution, self.cleanup].iter().flatten().map(|s| s.length).sum()
    }
}

/// An executor's result of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub timings: Timings,
    pub usage: Usage,
    /// Named facts for `executionMetadata`: container id, image, engine version and the like. No secrets.
    pub evidence: Vec<(&'static str, String)>,
    /// JSON for the next script of a workflow, of a job without a script that could give it.
    pub script_output: Option<String>,
}

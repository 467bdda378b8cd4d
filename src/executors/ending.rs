//! The words for endings that all executors share: a job that was told to end, a signal, a length of time.

use std::time::Duration;

use crate::executors::container::resources::bytes;
use crate::executors::control::Signal;
use crate::policy::stop::Reason;
use crate::verdict::{Cause, Phase, Verdict};

/// The contract's exit code of a timeout.
const TIMED_OUT: i32 = -1;

/// The verdict on a job that the agent told to end, before or after its start.
pub fn stopped(reason: &Reason, sent: Option<Signal>) -> Verdict {
    let how = match sent {
        None => "before it had started".to_owned(),
        Some(signal) => format!("ended by {}", signal.as_str()),
    };
    let ended = match sent {
        Some(Signal::Kill) => 137,
        _ => 143,
    };
    let (cause, exit_code, message) = match reason {
        Reason::Timeout { limit, after } => (
            Cause::Timeout { limit, after: *after },
            TIMED_OUT,
            format!("the script ran longer than its limit of {} ({limit}); {how}", seconds(*after)),
        ),
        Reason::Cancelled(who) => (Cause::Cancelled(who), ended, format!("the job was cancelled by {who}; {how}")),
        Reason::Disk(limit) => (
            Cause::Disk(*limit),
            ended,
            format!("the script wrote more than its disk limit of {} to the root file system; {how}", bytes(*limit)),
        ),
    };
    let phase = if sent.is_some() { Phase::Execution } else { Phase::Setup };
    Verdict { phase, cause, exit_code, message }
}

/// A length of time as a person writes it.
pub fn seconds(length: Duration) -> String {
    if length.subsec_nanos() == 0 { format!("{} s", length.as_secs()) } else { format!("{length:?}") }
}

/// The name of a signal's number.
pub fn signal_name(number: i64) -> String {
    match number {
        1 => "SIGHUP".to_owned(),
        2 => "SIGINT".to_owned(),
        6 => "SIGABRT".to_owned(),
        7 => "SIGBUS".to_owned(),
        8 => "SIGFPE".to_owned(),
        9 => "SIGKILL".to_owned(),
        11 => "SIGSEGV".to_owned(),
        13 => "SIGPIPE".to_owned(),
        15 => "SIGTERM".to_owned(),
        31 => "SIGSYS".to_owned(),
        number => format!("signal {number}"),
    }
}

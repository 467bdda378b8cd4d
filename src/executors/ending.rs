//! The words for endings that all executors share: a job that was told to end, a signal, a length of time, an amount of memory.

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime};

use crate::executors::control::{Control, Signal};
use crate::policy::stop::Reason;
use crate::verdict::{Cause, Outcome, Phase, Span, Timings, Usage, Verdict};

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

/// Whether a script whose limit passed had ended before, by itself: an engine or a server that was out of reach then told
/// too late, and what was sent meanwhile did not end it. `ran_less` is asked whether it ran for less than a time, by the
/// clock where it ran. That clock may have been set: alone it is not believed of an end as TERM or KILL makes it.
pub(super) fn ended_in_time(
    reason: &Reason,
    exit_code: i64,
    was_away: bool,
    ran_less: impl FnOnce(Duration) -> bool,
) -> bool {
    let Reason::Timeout { after, .. } = reason else { return false };
    let as_told = matches!(exit_code, 137 | 143) && !was_away;
    !as_told && ran_less(*after)
}

/// The outcome of a job that came to its end before it was started.
pub(super) fn ended_early(verdict: Verdict, begun: (SystemTime, Instant)) -> Box<Outcome> {
    let setup = Some(Span { started: begun.0, length: begun.1.elapsed() });
    let timings = Timings { setup, ..Timings::default() };
    Box::new(Outcome { verdict, timings, usage: Usage::default(), evidence: Vec::new(), script_output: None })
}

/// The verdict on it: why it was told to end, or what went wrong.
pub(super) fn setup_verdict(error: &dyn Display, control: &Control) -> Verdict {
    match control.reason() {
        Some(reason) => stopped(&reason, None),
        None => Verdict::infrastructure(Phase::Setup, format!("the script was not started: {error}")),
    }
}

/// A length of time as a person writes it.
pub fn seconds(length: Duration) -> String {
    if length.subsec_nanos() == 0 { format!("{} s", length.as_secs()) } else { format!("{length:?}") }
}

/// Bytes in the unit that a person would write them in.
pub fn bytes(n: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if n >= unit {
            #[allow(clippy::cast_precision_loss)]
            let value = n as f64 / unit as f64;
            return if n.is_multiple_of(unit) { format!("{} {name}", n / unit) } else { format!("{value:.1} {name}") };
        }
    }
    format!("{n} bytes")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_ended_before_its_limit_was_not_ended_for_it() {
        let limit = Duration::from_secs(5);
        let timeout = Reason::Timeout { limit: "the job's timeout", after: limit };
        for (exit_code, ran, was_away, in_time) in [
            (3, 2, false, true),
            (3, 2, true, true),
            (0, 5, true, false),
            (3, 6, false, false),
            (143, 2, true, true),
            (143, 2, false, false),
            (137, 9, true, false),
        ] {
            let found = ended_in_time(&timeout, exit_code, was_away, |than| Duration::from_secs(ran) < than);
            assert_eq!(found, in_time, "exit code {exit_code} after {ran} s, away: {was_away}");
        }
        assert!(!ended_in_time(&Reason::Cancelled("user"), 3, true, |_| true), "only a limit passes by itself");
    }
}

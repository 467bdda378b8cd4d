//! From the evidence to the verdict: pure, so that every ending can be tested without a container.

use crate::executors::complaint::SETUP_FAILED;
use crate::executors::control::Signal;
use crate::executors::ending::bytes;
use crate::executors::ending::{signal_name, stopped};
use crate::executors::shell;
use crate::policy::stop::Reason;
use crate::verdict::{Cause, Phase, Verdict};

/// What is known when a container has ended.
#[derive(Debug, Default)]
pub struct Evidence {
    pub exit_code: i64,
    /// The script was seen to start: the exit code is its own, unless there is a complaint.
    pub started: bool,
    /// Why the engine was out of reach, or its stream broke, if that was so.
    pub away: Option<String>,
    /// Why the agent told it to end, and the last signal that it sent for that.
    pub reason: Option<Reason>,
    pub sent: Option<Signal>,
    /// `State.OOMKilled`.
    pub oom_killed: bool,
    /// The control group's own count, where it could be read.
    pub oom_kills: Option<u64>,
    /// The host's count of memory kills rose while the script ran: the engine's own word may come too late.
    pub host_killed: bool,
    pub pids_refused: Option<u64>,
    pub memory_limit: u64,
    pub pids_limit: u64,
    pub disk_limit: u64,
    /// The program's own words, when it could not start the script.
    pub complaint: Option<String>,
    /// The end of stderr.
    pub stderr: Vec<u8>,
    /// What the script's text may have led it into, as the end of a sentence.
    pub hint: String,
    /// The engine's own error.
    pub engine_error: String,
    pub image: String,
}

/// 128 + SIGKILL, the shell's way to write the end by the kernel.
const KILLED: i64 = 137;
/// The same with SIGTERM.
const TERMED: i64 = 143;

/// Says how the script ended.
pub fn judge(evidence: &Evidence) -> Verdict {
    let code = i32::try_from(evidence.exit_code).unwrap_or(i32::MAX);
    let verdict = |cause, exit_code, message| Verdict { phase: Phase::Execution, cause, exit_code, message };
    if let Some(reason) = &evidence.reason {
        let mut verdict = stopped(reason, evidence.sent);
        // A fork bomb, for one, seldom ends by itself: without this its owner would read of the time alone.
        verdict.message.push_str(&hints(evidence));
        return verdict;
    }
    if !evidence.started {
        return never_started(evidence);
    }
    if evidence.exit_code == SETUP_FAILED
        && let Some(complaint) = &evidence.complaint
    {
        return could_not_start(evidence, complaint);
    }
    if evidence.exit_code == 0 {
        let message = format!("the script ended with exit code 0{}", hints(evidence));
        return verdict(Cause::Success, 0, message);
    }
    let killed_for_memory = evidence.oom_killed || evidence.oom_kills.is_some_and(|n| n > 0) || evidence.host_killed;
    if killed_for_memory && evidence.exit_code == KILLED {
        let message = format!(
            "the kernel killed the script at its memory limit of {} (exit code 137, OOMKilled={}{}); \
             files in /workspace and /tmp count as memory; raise the job's memory limit or use less",
            bytes(evidence.memory_limit),
            evidence.oom_killed,
            match evidence.oom_kills.filter(|&n| n > 0) {
                Some(n) => format!(", {n} processes killed"),
                None if evidence.oom_killed => String::new(),
                // Another job's kill in the same moment would look the same: the reader shall know.
                None => ", by the host's count of memory kills alone".to_owned(),
            },
        );
        return verdict(Cause::Memory(evidence.memory_limit), 137, message);
    }
    if !evidence.engine_error.is_empty() {
        let message = format!("the engine ended the container with its own error: {}", evidence.engine_error);
        return Verdict { exit_code: code, ..Verdict::infrastructure(Phase::Execution, message) };
    }
    if let Some(away) = evidence.away.as_ref().filter(|_| matches!(evidence.exit_code, KILLED | TERMED)) {
        let message = format!(
            "the script was ended (exit code {code}), not by the agent, while the engine was away, which ends its containers when it \
             stops, unless live-restore is set: {away}"
        );
        return Verdict { exit_code: code, ..Verdict::infrastructure(Phase::Execution, message) };
    }
    let hints = hints(evidence);
    match evidence.exit_code - 128 {
        number @ 1..=64 => {
            let name = signal_name(number);
            let message = format!(
                "the script ended with exit code {code}, as a process does that {name} ended; \
                 the agent did not send it{hints}"
            );
            verdict(Cause::Signal(i32::try_from(number).unwrap_or(0)), code, message)
        }
        _ => verdict(Cause::Exit, code, format!("the script ended with exit code {code}{hints}")),
    }
}

fn could_not_start(evidence: &Evidence, complaint: &str) -> Verdict {
    let message = format!("the script could not be started in image {}: {complaint}", evidence.image);
    Verdict::infrastructure(Phase::Setup, message)
}

/// The verdict on a container that ended without the word that the script starts: its exit code is not the script's.
fn never_started(evidence: &Evidence) -> Verdict {
    if let Some(complaint) = &evidence.complaint {
        return could_not_start(evidence, complaint);
    }
    let code = evidence.exit_code;
    let out_of_memory = evidence.oom_killed || evidence.oom_kills.is_some_and(|n| n > 0) || evidence.host_killed;
    if out_of_memory && code == KILLED {
        let message = format!(
            "the kernel ended the container at its memory limit of {} before the script started (exit code 137); \
             raise the job's memory limit",
            bytes(evidence.memory_limit)
        );
        return Verdict { phase: Phase::Setup, cause: Cause::Memory(evidence.memory_limit), exit_code: 137, message };
    }
    let said = match last_line(&evidence.stderr) {
        line if line.is_empty() => String::new(),
        line => format!(", saying {line:?}"),
    };
    let message = match &evidence.away {
        Some(error) => format!(
            "the connection to the container broke before the script was seen to start, so that it is not known whether \
             it ran (the container ended with exit code {code}): {error}"
        ),
        None if !evidence.engine_error.is_empty() => {
            format!("the engine could not run the container: {}", evidence.engine_error)
        }
        None => format!(
            "the container of image {} ended with exit code {code} before the script started{said}; does it have a \
             /bin/sh?",
            evidence.image
        ),
    };
    Verdict::infrastructure(Phase::Setup, message)
}

/// What the exit code alone does not say.
fn hints(evidence: &Evidence) -> String {
    let mut text = String::new();
    if evidence.oom_killed || evidence.oom_kills.is_some_and(|n| n > 0) {
        text.push_str("; the kernel killed a process of it at the memory limit of ");
        text.push_str(&bytes(evidence.memory_limit));
    }
    if let Some(n) = evidence.pids_refused.filter(|&n| n > 0) {
        text.push_str(&format!("; it met its limit of {} processes {n} times", evidence.pids_limit));
    }
    if evidence.exit_code == 0 {
        return text;
    }
    let stderr = String::from_utf8_lossy(&evidence.stderr);
    // The kernel's own count may have been read a moment too early.
    if tells_of_refused_fork(&stderr) && evidence.pids_refused.unwrap_or(0) == 0 {
        text.push_str(&format!(
            "; its last words speak of a refused fork: it has a limit of {} processes",
            evidence.pids_limit
        ));
    }
    if tells_of_noexec(&stderr) {
        text.push_str("; nothing in /tmp can be executed: put programs into $TMPDIR or /workspace");
    }
    if tells_of_refused_call(&stderr) {
        text.push_str(
            "; its last words speak of a system call that jobs may not make, see container.security.seccompProfile",
        );
    }
    text.push_str(&evidence.hint);
    if shell::tells_of_full_device(&evidence.stderr) {
        text.push_str("; its last words speak of a full device: the disk limit is ");
        text.push_str(&bytes(evidence.disk_limit));
        text.push_str(", of which /tmp has a quarter");
    }
    text
}

/// The C library's words for EACCES, in a line about a file in `/tmp`.
fn tells_of_noexec(stderr: &str) -> bool {
    stderr.lines().any(|line| line.contains("/tmp/") && (line.contains("ermission denied") || line.contains("EACCES")))
}

/// The C library's words for EAGAIN where they are about a process or thread.
fn tells_of_refused_fork(stderr: &str) -> bool {
    let words = ["fork", "spawn", "thread", "clone", "BlockingIOError"];
    (stderr.contains("Resource temporarily unavailable") || stderr.contains("EAGAIN"))
        && words.iter().any(|word| stderr.contains(word))
}

/// The C library's words for EPERM beside a call that the filter refuses and programs name: those of debuggers, tracers,
/// sandboxes and of io_uring.
fn tells_of_refused_call(stderr: &str) -> bool {
    let calls = [
        "ptrace",
        "PTRACE",
        "unshare",
        "namespace",
        "io_uring",
        "perf_event",
        "userfaultfd",
        "keyctl",
        "personality",
        "randomization",
    ];
    let is_refused = |line: &str| line.contains("peration not permitted") || line.contains("EPERM");
    stderr.lines().any(|line| is_refused(line) && calls.iter().any(|call| line.contains(call)))
}

/// The last line that is not empty: of a shell that never started the script, its own.
fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::verdict::Status;

    fn evidence(exit_code: i64) -> Evidence {
        Evidence {
            exit_code,
            started: true,
            memory_limit: 64 << 20,
            pids_limit: 100,
            disk_limit: 1 << 30,
            ..Evidence::default()
        }
    }

    #[test]
    fn every_ending_has_its_verdict() {
        let timeout = Reason::Timeout { limit: "the job's timeout", after: Duration::from_secs(2) };
        let table = [
            (
                Evidence {
                    reason: Some(timeout.clone()),
                    sent: Some(Signal::Kill),
                    pids_refused: Some(9),
                    ..evidence(137)
                },
                Status::Timeout,
                "timeout",
                -1,
                "SIGKILL; it met its limit of 100 processes 9 times",
            ),
            (evidence(0), Status::Completed, "success", 0, "exit code 0"),
            (evidence(3), Status::Failed, "script", 3, "exit code 3"),
            (evidence(139), Status::Failed, "signal", 139, "SIGSEGV"),
            (evidence(255), Status::Failed, "script", 255, "255"),
            (Evidence { oom_killed: true, ..evidence(137) }, Status::Failed, "memory", 137, "64 MiB"),
            (Evidence { oom_kills: Some(2), ..evidence(137) }, Status::Failed, "memory", 137, "2 processes"),
            (Evidence { oom_killed: true, ..evidence(1) }, Status::Failed, "script", 1, "at the memory limit"),
            (Evidence { host_killed: true, ..evidence(137) }, Status::Failed, "memory", 137, "by the host's count"),
            (evidence(137), Status::Failed, "signal", 137, "the agent did not send it"),
            (
                Evidence { reason: Some(timeout.clone()), sent: Some(Signal::Term), ..evidence(0) },
                Status::Timeout,
                "timeout",
                -1,
                "limit of 2 s (the job's timeout); ended by SIGTERM",
            ),
            (
                Evidence {
                    reason: Some(Reason::Cancelled("a user")),
                    sent: Some(Signal::Kill),
                    oom_killed: true,
                    ..evidence(137)
                },
                Status::Cancelled,
                "cancelled",
                137,
                "cancelled by a user; ended by SIGKILL",
            ),
            (
                Evidence { reason: Some(Reason::Disk(1 << 20)), sent: Some(Signal::Term), ..evidence(143) },
                Status::Failed,
                "disk",
                143,
                "disk limit of 1 MiB",
            ),
            (
                Evidence { complaint: Some("no python".into()), image: "x:1".into(), ..evidence(125) },
                Status::Failed,
                "infrastructure",
                125,
                "image x:1: no python",
            ),
            (evidence(125), Status::Failed, "script", 125, "exit code 125"),
            (
                Evidence { started: false, complaint: Some("no python".into()), image: "x:1".into(), ..evidence(125) },
                Status::Failed,
                "infrastructure",
                125,
                "image x:1: no python",
            ),
            (
                Evidence { started: false, oom_killed: true, ..evidence(137) },
                Status::Failed,
                "memory",
                137,
                "64 MiB before the script started",
            ),
            (
                Evidence { started: false, stderr: b"x\nsh: no\n \n".to_vec(), ..evidence(2) },
                Status::Failed,
                "infrastructure",
                125,
                "before the script started, saying \"sh: no\"; does it have",
            ),
            (Evidence { hint: "; CR".into(), ..evidence(2) }, Status::Failed, "script", 2, "exit code 2; CR"),
            (Evidence { hint: "; CR".into(), ..evidence(0) }, Status::Completed, "success", 0, "exit code 0"),
            (
                Evidence { stderr: b"sh: /tmp/a: Permission denied".to_vec(), ..evidence(126) },
                Status::Failed,
                "script",
                126,
                "put programs into $TMPDIR",
            ),
            (
                Evidence { stderr: b"strace: ptrace(PTRACE_TRACEME): Operation not permitted".to_vec(), ..evidence(1) },
                Status::Failed,
                "script",
                1,
                "see container.security.seccompProfile",
            ),
            (
                Evidence { away: Some("gone".into()), ..evidence(143) },
                Status::Failed,
                "infrastructure",
                143,
                "while the engine was away",
            ),
            // What it did by itself counts, whatever the engine did.
            (Evidence { away: Some("gone".into()), ..evidence(3) }, Status::Failed, "script", 3, "exit code 3"),
            (
                Evidence { started: false, ..evidence(0) },
                Status::Failed,
                "infrastructure",
                125,
                "before the script started",
            ),
            (
                Evidence { started: false, away: Some("cut".into()), ..evidence(0) },
                Status::Failed,
                "infrastructure",
                125,
                "not known whether",
            ),
            (Evidence { pids_refused: Some(4), ..evidence(1) }, Status::Failed, "script", 1, "100 processes 4 times"),
            (
                Evidence { stderr: b"fork: Resource temporarily unavailable".to_vec(), ..evidence(1) },
                Status::Failed,
                "script",
                1,
                "a limit of 100 processes",
            ),
            (
                Evidence { stderr: b"a: No space left on device\n".to_vec(), ..evidence(1) },
                Status::Failed,
                "script",
                1,
                "disk limit is 1 GiB",
            ),
            (Evidence { engine_error: "boom".into(), ..evidence(128) }, Status::Failed, "infrastructure", 128, "boom"),
        ];
        for (evidence, status, reason, code, words) in table {
            let verdict = judge(&evidence);
            assert_eq!((verdict.status(), verdict.reason(), verdict.exit_code), (status, reason, code), "{evidence:?}");
            assert!(verdict.message.contains(words), "{verdict}");
        }
    }
}

//! The one report of a job: the execution's record with all details first, then `complete`, and nothing after it.

use std::time::SystemTime;

use crate::api::{CompleteBody, ExecutionUpdate};
use crate::job::ScriptResult;
use crate::jobs::channel::Collected;
use crate::jobs::receipts::Draft;
use crate::jobs::record::{LIVE_LINES_DROPPED, Report};
use crate::logs::Flushed;
use crate::os::clock;
use crate::verdict::{Cause, Outcome, Status, Verdict};

/// The report of a job as it will be sent. A job on several servers has no `execution` record: each server's is completed
/// with [`part_update`].
pub fn write(
    has_record: bool,
    outcome: &Outcome,
    output: (Collected, Flushed),
    result: &ScriptResult,
    receipt: Option<Draft>,
) -> Report {
    let (mut output, flushed) = output;
    let verdict = &outcome.verdict;
    explain(&mut output.stderr, verdict);
    let receipt = receipt.and_then(|draft| draft.sign(outcome, (&output.stdout, &output.stderr)));
    let update = has_record.then(|| update(outcome, (&output, &flushed), Some(&output.stdout), receipt.as_deref()));
    let (started, ended) = times(outcome);
    let complete = CompleteBody {
        status: verdict.status(),
        exit_code: verdict.exit_code,
        stdout: &output.stdout,
        stderr: &output.stderr,
        started,
        ended,
        duration: outcome.timings.execution.map_or(std::time::Duration::ZERO, |span| span.length),
        usage: outcome.usage,
        // It was JSON when it was given.
        script_output: outcome
            .script_output
            .as_deref()
            .or(result.output.as_deref())
            .and_then(|json| serde_json::from_str(json).ok()),
        condition: result.condition,
        receipt: receipt.as_deref().and_then(|json| serde_json::from_str(json).ok()),
    };
    Report {
        status: verdict.status().as_str().to_owned(),
        exit_code: verdict.exit_code,
        message: verdict.message.clone(),
        update,
        owed: Vec::new(),
        complete: complete.to_json(),
    }
}

fn update(
    outcome: &Outcome,
    (output, flushed): (&Collected, &Flushed),
    stdout: Option<&str>,
    receipt: Option<&str>,
) -> String {
    let verdict = &outcome.verdict;
    let (started, ended) = times(outcome);
    let update = ExecutionUpdate {
        started: Some(started),
        completed: Some(ended),
        exit_code: Some(verdict.exit_code),
        output: stdout,
        error: (verdict.cause != Cause::Success).then_some(verdict.message.as_str()),
        timings: outcome.timings,
        metadata: &metadata(outcome, output, flushed, receipt),
    };
    update.to_json()
}

/// The update that completes the record of one server's part: everything but a terminal status, which would count as a
/// report.
pub fn part_update(outcome: &Outcome, output: &Collected, with_output: bool, receipt: Option<&str>) -> String {
    update(outcome, (output, &Flushed::default()), with_output.then_some(output.stdout.as_str()), receipt)
}

/// When the script began and ended, or the try to start it.
fn times(outcome: &Outcome) -> (SystemTime, SystemTime) {
    let span = outcome.timings.execution.or(outcome.timings.setup);
    let now = clock::wall();
    (span.map_or(now, |span| span.started), span.map_or(now, |span| span.ended()))
}

/// The backend's pages show neither exit code nor reason. So the stderr of each job that did not succeed ends with the
/// verdict, in a line with a prefix that distinguishes it from the script's.
fn explain(stderr: &mut String, verdict: &Verdict) {
    if verdict.cause == Cause::Success {
        return;
    }
    if !stderr.is_empty() && !stderr.ends_with('\n') {
        stderr.push('\n');
    }
    stderr.push_str(OURS);
    stderr.push_str(&own_words(verdict.status(), &verdict.message));
    stderr.push('\n');
}

/// How each line of the agent's own begins in a script's stderr.
pub const OURS: &str = "cronium-agent: ";

/// Words of the agent's own for the stderr of a job that ended with this status.
///
/// The app shows a failed job as TIMEOUT whose stderr holds "timeout" or "timed out" anywhere, also in the name of a key.
/// So in a job that did not time out they are written another way.
pub fn own_words(status: Status, text: &str) -> String {
    if status == Status::Timeout {
        return text.to_owned();
    }
    let lower = text.to_ascii_lowercase();
    let (mut out, mut at) = (String::with_capacity(text.len() + 8), 0);
    // `jobs.setupTimeout` becomes `jobs.setupTime-out`, `timed out` becomes `timed-out`.
    while let Some((found, head, length)) =
        WORDS.iter().filter_map(|(word, head)| Some((lower[at..].find(word)?, *head, word.len()))).min()
    {
        out.push_str(&text[at..at + found + head]);
        out.push('-');
        at += found + length - "out".len();
    }
    out.push_str(&text[at..]);
    out
}

/// What the app takes for a timeout, each with the length of its first part.
const WORDS: [(&str, usize); 2] = [("timeout", 4), ("timed out", 5)];

fn metadata<'a>(
    outcome: &Outcome,
    output: &Collected,
    flushed: &Flushed,
    receipt: Option<&str>,
) -> Vec<(&'a str, String)> {
    let (verdict, usage) = (&outcome.verdict, &outcome.usage);
    let mut all = vec![
        ("phase", verdict.phase.as_str().to_owned()),
        ("reason", verdict.reason().to_owned()),
        ("verdict", verdict.message.clone()),
        ("cpuSeconds", format!("{:.3}", usage.cpu_seconds)),
        ("peakCpuPercent", format!("{:.1}", usage.peak_cpu_percent)),
        ("peakMemoryBytes", usage.peak_memory.to_string()),
        ("networkRxBytes", usage.network_rx.to_string()),
        ("networkTxBytes", usage.network_tx.to_string()),
        ("diskReadBytes", usage.disk_read.to_string()),
        ("diskWriteBytes", usage.disk_write.to_string()),
        ("stdoutBytes", output.stdout_bytes.to_string()),
        ("stderrBytes", output.stderr_bytes.to_string()),
        ("lines", output.lines.to_string()),
        (LIVE_LINES_DROPPED, (flushed.dropped + flushed.unsent).to_string()),
        ("agentVersion", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    all.extend(outcome.evidence.iter().map(|(name, value)| (*name, value.clone())));
    all.extend(receipt.map(|receipt| ("receipt", receipt.to_owned())));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Phase;

    fn verdict(cause: Cause, message: &str) -> Verdict {
        Verdict { phase: Phase::Execution, cause, exit_code: 1, message: message.into() }
    }

    #[test]
    fn the_stderr_of_each_job_that_did_not_succeed_ends_with_the_reason() {
        for (cause, before, after) in [
            (Cause::Exit, "boom", "boom\ncronium-agent: because\n"),
            (Cause::Success, "", ""),
            (Cause::Success, "a warning", "a warning"),
            (Cause::Partial(1), "boom\n", "boom\ncronium-agent: because\n"),
            (Cause::Memory(1), "boom", "boom\ncronium-agent: because\n"),
            (Cause::Cancelled("user"), "", "cronium-agent: because\n"),
            (Cause::Infrastructure, "", "cronium-agent: because\n"),
        ] {
            let mut stderr = before.to_owned();
            explain(&mut stderr, &verdict(cause, "because"));
            assert_eq!(stderr, after);
        }
    }

    #[test]
    fn only_a_job_that_timed_out_is_shown_as_one() {
        for (text, want) in [
            ("within 60 s (jobs.setupTimeout)", "within 60 s (jobs.setupTime-out)"),
            ("it timed out", "it timed-out"),
            ("TIMEOUT, Timed Out: timeouttimeout", "TIME-OUT, Timed-Out: time-outtime-out"),
            ("image über/timeout:1 is not there", "image über/time-out:1 is not there"),
            ("nothing of that", "nothing of that"),
            ("", ""),
        ] {
            let own = own_words(Status::Failed, text);
            assert_eq!(own, want);
            assert!(WORDS.iter().all(|(word, _)| !own.to_lowercase().contains(word)), "{own}");
            assert_eq!(own_words(Status::Timeout, text), text);
        }
        let late = Cause::Timeout { limit: "jobs.maxTimeout", after: std::time::Duration::from_secs(1) };
        let mut stderr = String::new();
        explain(&mut stderr, &verdict(late, "longer than its limit (jobs.maxTimeout)"));
        assert!(stderr.contains("jobs.maxTimeout"));
    }
}

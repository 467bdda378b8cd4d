//! The one report of a job: the execution's record with all details first, then `complete`, and nothing after it.

use std::time::SystemTime;

use crate::api::{self, CompleteBody, ExecutionUpdate};
use crate::job::Id;
use crate::jobs::output::Collected;
use crate::jobs::record::Report;
use crate::logs::Flushed;
use crate::os::clock;
use crate::verdict::{Cause, Outcome};

/// The report of a job as it will be sent. A job on several servers has no `execution` of its own: each server's record
/// was completed with [`record`].
pub fn write(has_record: bool, outcome: &Outcome, output: (Collected, Flushed)) -> Report {
    let (mut output, flushed) = output;
    let verdict = &outcome.verdict;
    explain(&mut output.stderr, outcome);
    let update = has_record.then(|| update(outcome, &output, &metadata(outcome, &output, &flushed)));
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
    };
    Report {
        status: verdict.status().as_str().to_owned(),
        exit_code: verdict.exit_code,
        message: verdict.message.clone(),
        update,
        complete: complete.to_json(),
    }
}

fn update(outcome: &Outcome, output: &Collected, metadata: &[(&str, String)]) -> String {
    let verdict = &outcome.verdict;
    let update = ExecutionUpdate {
        running: false,
        started: Some(times(outcome).0),
        exit_code: Some(verdict.exit_code),
        output: Some(&output.stdout),
        error: (verdict.cause != Cause::Success).then_some(verdict.message.as_str()),
        timings: outcome.timings,
        metadata,
    };
    update.to_json()
}

/// Completes the record of one server's part: everything but a terminal status, which would count as a report.
pub fn record(client: &api::Client, execution: &Id, outcome: &Outcome, output: &Collected, flushed: &Flushed) {
    let json = update(outcome, output, &metadata(outcome, output, flushed));
    if let Err(error) = client.execution_update_json(execution, &json) {
        log::warn!("the execution's record could not be completed: {error}");
    }
}

/// When the script began and ended, or the try to start it.
fn times(outcome: &Outcome) -> (SystemTime, SystemTime) {
    let span = outcome.timings.execution.or(outcome.timings.setup);
    let now = clock::wall();
    (span.map_or(now, |span| span.started), span.map_or(now, |span| span.ended()))
}

/// The report has no field for the reason. Where the script itself does not tell it, its stderr ends with it.
fn explain(stderr: &mut String, outcome: &Outcome) {
    if matches!(outcome.verdict.cause, Cause::Success | Cause::Exit) {
        return;
    }
    if !stderr.is_empty() && !stderr.ends_with('\n') {
        stderr.push('\n');
    }
    stderr.push_str("cronium-agent: ");
    stderr.push_str(&outcome.verdict.message);
    stderr.push('\n');
}

fn metadata<'a>(outcome: &Outcome, output: &Collected, flushed: &Flushed) -> Vec<(&'a str, String)> {
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
        ("liveLinesDropped", (flushed.dropped + flushed.unsent).to_string()),
        ("agentVersion", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    all.extend(outcome.evidence.iter().map(|(name, value)| (*name, value.clone())));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Phase, Timings, Usage, Verdict};

    fn outcome(cause: Cause) -> Outcome {
        let verdict = Verdict { phase: Phase::Execution, cause, exit_code: 1, message: "because".into() };
        Outcome { verdict, timings: Timings::default(), usage: Usage::default(), evidence: Vec::new() }
    }

    #[test]
    fn the_reason_is_in_stderr_where_the_script_does_not_tell_it() {
        for (cause, before, after) in [
            (Cause::Exit, "boom", "boom"),
            (Cause::Success, "", ""),
            (Cause::Memory(1), "boom", "boom\ncronium-agent: because\n"),
            (Cause::Infrastructure, "", "cronium-agent: because\n"),
        ] {
            let mut stderr = before.to_owned();
            explain(&mut stderr, &outcome(cause));
            assert_eq!(stderr, after);
        }
    }
}

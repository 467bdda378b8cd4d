//! The end of a job's life: from how its run ended to its one report, or to the reason why there is none.

use crate::executors::{CleanupGuard, End};
use crate::job::{Output as _, ScriptResult};
use crate::jobs::ack_task::AckTask;
use crate::jobs::context::JobContext;
use crate::jobs::earlier;
use crate::jobs::ending::{Left, Life, Reported, Unreported};
use crate::jobs::output::JobOutput;
use crate::jobs::record::Entry;
use crate::jobs::record::JobRecord;
use crate::jobs::record::outbox::{Earlier, Outbox, Tried};
use crate::jobs::report;
use crate::limits;
use crate::metrics;
use crate::redact::Redactor;
use crate::verdict::{Outcome, Phase, Timings, Usage, Verdict};

/// From a run's end to its report.
pub(in crate::jobs) fn conclude(
    context: &JobContext,
    record: &JobRecord,
    end: End,
    mut output: JobOutput,
    ack: Option<AckTask>,
) -> Life {
    let redactor = output.redactor().clone();
    let (outcome, cleanup) = match end {
        End::Outcome(outcome, cleanup) => (without_secrets(*outcome, &redactor), cleanup),
        End::Detached => {
            log::warn!("the script goes on without this agent; the next one finds it");
            if let Some(page) = output.shut_page() {
                page.wait();
            }
            output.settle();
            output.flush(limits::LIVE_FLUSH);
            record.note_last();
            return Err(Unreported::LeftToNext);
        }
        End::NeverRan(cleanup) => {
            // First: after a kill from here on, the next agent must not take it for a script whose end is unknown.
            record.never_ran();
            drop(cleanup);
            output.flush(limits::LIVE_FLUSH);
            return Err(Unreported::GiveBack("the script was not started"));
        }
    };
    output.finish();
    output.system(&outcome.verdict.to_string());
    let (collected, flushed, earlier) = earlier::end(output, ack);
    context.show(&record.job(), outcome.verdict.status().as_str(), Some(&outcome.verdict.message));
    count_phases(&outcome.timings);
    let (result, receipt) = (result_of(record, &redactor), context.receipts.draft(record));
    let report = report::write(true, &outcome, (collected, flushed), &result, receipt);
    let entry = record.end(report, cleanup.is_some());
    let left = deliver(&context.outbox, entry, (record.tried(), earlier), cleanup);
    Ok(Reported { verdict: outcome.verdict, left })
}

/// An outcome as it may leave the agent.
pub fn without_secrets(mut outcome: Outcome, redactor: &Redactor) -> Outcome {
    outcome.verdict.message = redactor.text(&outcome.verdict.message).into_owned();
    for (_, value) in &mut outcome.evidence {
        *value = redactor.text(value).into_owned();
    }
    outcome.script_output = outcome.script_output.map(|json| redactor.json(&json));
    outcome
}

/// The script's result, in which a value may stand that turned out to be a secret later.
pub(in crate::jobs) fn result_of(record: &JobRecord, redactor: &Redactor) -> ScriptResult {
    let result = record.result();
    ScriptResult { output: result.output.map(|json| redactor.json(&json)), ..result }
}

/// Hands a job's last record to the outbox: on disk first. The outbox offers it to the backend, for as long as it takes.
///
/// The cleanup is requested as soon as it is on disk. The caller carries it out: the report does not wait for it. A disk
/// that does not take the record is the exception: the next agent would find the container, not know of the report, and
/// send another.
pub(in crate::jobs) fn deliver(
    outbox: &Outbox,
    entry: Entry,
    (tried, earlier): (Tried, Option<Earlier>),
    mut cleanup: CleanupGuard,
) -> Left {
    let record = entry.has_remains().then(|| (entry.job.clone(), entry.execution.clone()));
    let handed = outbox.hand_over(entry, tried, earlier, |on_disk| {
        if on_disk {
            cleanup.request();
        } else {
            drop(std::mem::take(&mut cleanup));
        }
    });
    // Where the outbox could not keep it, the record is the only copy.
    let record = record.filter(|_| handed.is_ok());
    if let Err(refused) = handed {
        log::error!("the result is lost: {refused}");
    }
    Left { cleanup, record }
}

/// The outcome of a job in which the agent itself broke.
pub(in crate::jobs) fn broken(panic: String) -> Outcome {
    let message = format!("the agent itself failed while it ran the job, please report this: {panic}");
    unrun(Verdict::infrastructure(Phase::Execution, message))
}

/// The end of a job without anything left of it.
pub(in crate::jobs) fn ended(outcome: Outcome) -> End {
    End::Outcome(Box::new(outcome), CleanupGuard::none())
}

/// The outcome of a job that did not run.
pub(in crate::jobs) fn unrun(verdict: Verdict) -> Outcome {
    Outcome { verdict, timings: Timings::default(), usage: Usage::default(), evidence: Vec::new(), script_output: None }
}

/// Counts the time of each phase.
pub(in crate::jobs) fn count_phases(timings: &Timings) {
    let phases =
        [(Phase::Setup, timings.setup), (Phase::Execution, timings.execution), (Phase::Cleanup, timings.cleanup)];
    for (phase, span) in phases {
        if let Some(span) = span {
            metrics::job_phase(phase, span.length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_outcome_that_blames_the_agent() {
        let outcome = crate::os::threads::guarded(|| -> Outcome { panic!("as planned") }).unwrap_or_else(broken);
        assert_eq!(outcome.verdict.reason(), "infrastructure");
        assert!(outcome.verdict.message.contains("as planned"));
    }
}

//! From how it went on each server to the one verdict on the job; pure.

use std::time::Duration;

use crate::limits;
use crate::verdict::{Cause, NOT_RUN, Outcome, Phase, Verdict};

/// How it went on one server.
pub(super) struct Part {
    pub(super) at: usize,
    pub(super) name: String,
    pub(super) outcome: Outcome,
}

/// The verdict on all of them.
pub(super) fn sum(parts: &[Part], cancelled: Option<&'static str>) -> Verdict {
    let (count, failed) =
        (parts.len(), parts.iter().filter(|part| part.outcome.verdict.cause != Cause::Success).count());
    let message = summary(parts, failed);
    let verdicts = || parts.iter().map(|part| &part.outcome.verdict);
    let verdict = |cause, exit_code, message| Verdict { phase: Phase::Execution, cause, exit_code, message };
    let was_cancelled = verdicts().any(|verdict| matches!(verdict.cause, Cause::Cancelled(_)));
    if let Some(who) = cancelled.filter(|_| was_cancelled) {
        return verdict(Cause::Cancelled(who), 143, message);
    }
    if failed == 0 {
        return verdict(Cause::Success, 0, message);
    }
    if failed < count {
        let failed = u32::try_from(failed).unwrap_or(u32::MAX);
        return verdict(Cause::Partial(failed), 100_i32.saturating_add_unsigned(failed), message);
    }
    let timeout = verdicts().map(|verdict| match verdict.cause {
        Cause::Timeout { limit, after } => Some((limit, after)),
        _ => None,
    });
    if let Some(all) = timeout.collect::<Option<Vec<(&'static str, Duration)>>>() {
        let (limit, after) = all.first().copied().unwrap_or_default();
        return verdict(Cause::Timeout { limit, after }, -1, message);
    }
    // One word for all where they agree; where they do not, the scripts failed in some way.
    let first = verdicts().next();
    let same =
        |get: fn(&Verdict) -> String| first.is_some_and(|first| verdicts().all(|other| get(other) == get(first)));
    let cause = match first {
        Some(first) if same(|verdict| verdict.reason().to_owned()) => first.cause.clone(),
        _ => Cause::Exit,
    };
    let exit_code = match first {
        Some(first) if same(|verdict| verdict.exit_code.to_string()) => first.exit_code,
        Some(_) => 1,
        None => NOT_RUN,
    };
    verdict(cause, exit_code, message)
}

/// `2 of 3 servers failed. web-1: the script ended with …; web-2: …`, cut where it gets long.
fn summary(parts: &[Part], failed: usize) -> String {
    let count = parts.len();
    let mut text = match failed {
        0 => format!("all {count} servers succeeded."),
        _ => format!("{failed} of {count} servers failed."),
    };
    // Failures first: they are what the reader looks for.
    let (bad, good): (Vec<&Part>, Vec<&Part>) =
        parts.iter().partition(|part| part.outcome.verdict.cause != Cause::Success);
    let mut left = count;
    for part in bad.into_iter().chain(good) {
        let said: String = part.outcome.verdict.message.chars().take(limits::SSH_SUMMARY_PART).collect();
        let line = format!(" {}: {said};", part.name);
        if text.len() + line.len() > limits::SSH_SUMMARY {
            break;
        }
        text.push_str(&line);
        left -= 1;
    }
    match left {
        0 => text.trim_end_matches(';').to_owned(),
        left => format!("{text} and {left} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::conclude::unrun;
    use crate::verdict::Status;

    fn part(at: usize, cause: Cause, exit_code: i32) -> Part {
        let verdict = Verdict { phase: Phase::Execution, cause, exit_code, message: format!("because {exit_code}") };
        Part { at, name: format!("web-{at}"), outcome: unrun(verdict) }
    }

    #[test]
    fn one_verdict_of_many() {
        let ok = || part(1, Cause::Success, 0);
        let late = || part(2, Cause::Timeout { limit: "the job's timeout", after: Duration::from_secs(1) }, -1);
        let bad = |code| part(3, Cause::Exit, code);
        let gone = || part(4, Cause::Infrastructure, 125);
        let stopped = || part(5, Cause::Cancelled("user"), 143);
        let table = [
            (vec![ok(), ok()], None, Status::Completed, 0, "success"),
            (vec![ok(), bad(3), late()], None, Status::Completed, 102, "partial"),
            (vec![late(), late()], None, Status::Timeout, -1, "timeout"),
            (vec![late(), bad(3)], None, Status::Failed, 1, "script"),
            (vec![bad(3), bad(3)], None, Status::Failed, 3, "script"),
            (vec![bad(3), bad(4)], None, Status::Failed, 1, "script"),
            (vec![gone(), gone()], None, Status::Failed, 125, "infrastructure"),
            (vec![ok(), stopped()], Some("user"), Status::Cancelled, 143, "cancelled"),
            // The cancel came when all had ended.
            (vec![ok(), ok()], Some("user"), Status::Completed, 0, "success"),
        ];
        for (parts, cancelled, status, code, reason) in table {
            let verdict = sum(&parts, cancelled);
            assert_eq!((verdict.status(), verdict.exit_code, verdict.reason()), (status, code, reason), "{verdict}");
        }
    }

    #[test]
    fn the_summary_names_each_server_and_is_bounded() {
        let verdict = sum(&[part(1, Cause::Success, 0), part(2, Cause::Exit, 7)], None);
        assert_eq!(verdict.message, "1 of 2 servers failed. web-2: because 7; web-1: because 0");
        let many: Vec<Part> = (0..200).map(|at| part(at, Cause::Exit, i32::MAX)).collect();
        let message = sum(&many, None).message;
        assert!(message.len() <= limits::SSH_SUMMARY + 20 && message.contains("more"), "{message}");
    }
}

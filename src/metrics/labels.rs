//! The closed lists of label values. A value is found by its place in a list, so a label can never hold what a backend
//! or a script made up.

use super::{Code, DockerOperation, Endpoint, Method, Place, PollResult, PullResult, ReloadResult, WriteResult};
use crate::job::{Kind, Stream};
use crate::verdict::Phase;

pub(super) const KINDS: [Kind; 2] = [Kind::Container, Kind::Ssh];
pub(super) const PHASES: [Phase; 3] = [Phase::Setup, Phase::Execution, Phase::Cleanup];
pub(super) const STREAMS: [Stream; 3] = [Stream::Stdout, Stream::Stderr, Stream::System];
pub(super) const POLLS: [PollResult; 4] = [PollResult::Jobs, PollResult::Empty, PollResult::Error, PollResult::Skipped];
pub(super) const PULLS: [PullResult; 2] = [PullResult::Success, PullResult::Failure];
pub(super) const WRITES: [WriteResult; 2] = [WriteResult::Success, WriteResult::Failure];
pub(super) const RELOADS: [ReloadResult; 3] = [ReloadResult::Changed, ReloadResult::Unchanged, ReloadResult::Refused];
pub(super) const PLACES: [Place; 2] = [Place::Docker, Place::State];

/// The words of `Verdict::reason` other than `success`; the last takes a word that is not listed.
pub(super) const REASONS: [&str; 10] =
    ["script", "signal", "memory", "disk", "timeout", "cancelled", "partial", "refused", "infrastructure", "other"];

/// The place of `reason` in [`REASONS`].
pub(super) fn reason_slot(reason: &str) -> usize {
    REASONS.iter().position(|&r| r == reason).unwrap_or(REASONS.len() - 1)
}

/// The place of `value` in `list`, which holds every value there is.
pub(super) fn slot<T: PartialEq>(list: &[T], value: &T) -> usize {
    list.iter().position(|v| v == value).unwrap_or(0)
}

pub(super) const ENDPOINTS: [(Endpoint, &str); 10] = [
    (Endpoint::Queue, "queue"),
    (Endpoint::Acknowledge, "acknowledge"),
    (Endpoint::Status, "status"),
    (Endpoint::Complete, "complete"),
    (Endpoint::Release, "release"),
    (Endpoint::Orphaned, "orphaned"),
    (Endpoint::ExecutionCreate, "execution_create"),
    (Endpoint::ExecutionUpdate, "execution_update"),
    (Endpoint::Health, "health"),
    (Endpoint::Heartbeat, "heartbeat"),
];

pub(super) const OPERATIONS: [(DockerOperation, &str); 13] = [
    (DockerOperation::Ping, "ping"),
    (DockerOperation::Info, "info"),
    (DockerOperation::Create, "create"),
    (DockerOperation::Attach, "attach"),
    (DockerOperation::Start, "start"),
    (DockerOperation::Wait, "wait"),
    (DockerOperation::Inspect, "inspect"),
    (DockerOperation::Stats, "stats"),
    (DockerOperation::Kill, "kill"),
    (DockerOperation::Remove, "remove"),
    (DockerOperation::Pull, "pull"),
    (DockerOperation::Network, "network"),
    (DockerOperation::List, "list"),
];

/// HTTP methods; the last takes all others.
pub(super) const METHODS: [Method; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "other"];

/// The place of `method` in [`METHODS`].
pub(super) fn method_slot(method: &str) -> usize {
    METHODS.iter().position(|m| m.eq_ignore_ascii_case(method)).unwrap_or(METHODS.len() - 1)
}

/// The statuses that are told apart, then the classes that take the rest, then the endings without a status.
pub(super) const CODES: [&str; 20] = [
    "200", "201", "204", "400", "401", "403", "404", "409", "429", "500", "502", "503", "504", "1xx", "2xx", "3xx",
    "4xx", "5xx", "timeout", "error",
];

/// The place of `code` in [`CODES`]; a status outside 100–599 is an error.
pub(super) fn code_slot(code: Code) -> usize {
    let find = |word: &str| CODES.iter().position(|&c| c == word);
    let found = match code {
        Code::Timeout => find("timeout"),
        Code::Error => None,
        Code::Status(status) => find(&status.to_string()).or_else(|| find(&format!("{}xx", status / 100))),
    };
    found.unwrap_or(CODES.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Cause, Verdict};
    use std::time::Duration;

    #[test]
    fn every_cause_has_a_slot_of_its_own() {
        use Cause::*;
        let next = |cause: &Cause| match cause {
            // Exhaustive, so that a new cause does not compile until it is listed here.
            Success => Some(Exit),
            Exit => Some(Signal(9)),
            Signal(_) => Some(Memory(1)),
            Memory(_) => Some(Disk(1)),
            Disk(_) => Some(Timeout { limit: "timeout", after: Duration::ZERO }),
            Timeout { .. } => Some(Cancelled("user")),
            Cancelled(_) => Some(Partial(1)),
            Partial(_) => Some(Refused),
            Refused => Some(Infrastructure),
            Infrastructure => None,
        };
        let mut cause = Success;
        let mut seen = Vec::new();
        while let Some(failed) = next(&cause) {
            cause = failed.clone();
            let verdict = Verdict { phase: Phase::Execution, cause: failed, exit_code: 1, message: String::new() };
            let slot = reason_slot(verdict.reason());
            assert_ne!(REASONS[slot], "other", "{verdict:?}");
            assert!(!seen.contains(&slot), "{verdict:?}");
            seen.push(slot);
        }
        assert_eq!(seen.len(), REASONS.len() - 1);
        assert_eq!(REASONS[reason_slot("made up")], "other");
    }

    #[test]
    fn codes_and_methods_are_bounded() {
        for (code, want) in [
            (Code::Status(200), "200"),
            (Code::Status(206), "2xx"),
            (Code::Status(302), "3xx"),
            (Code::Status(418), "4xx"),
            (Code::Status(599), "5xx"),
            (Code::Status(100), "1xx"),
            (Code::Status(0), "error"),
            (Code::Status(20), "error"),
            (Code::Status(700), "error"),
            (Code::Status(u16::MAX), "error"),
            (Code::Timeout, "timeout"),
            (Code::Error, "error"),
        ] {
            assert_eq!(CODES[code_slot(code)], want, "{code:?}");
        }
        assert_eq!(METHODS[method_slot("post")], "POST");
        assert_eq!(METHODS[method_slot("BREW")], "other");
    }

    #[test]
    fn every_list_is_in_the_order_of_its_enum() {
        for (i, (endpoint, _)) in ENDPOINTS.iter().enumerate() {
            assert_eq!(*endpoint as usize, i);
        }
        for (i, (operation, _)) in OPERATIONS.iter().enumerate() {
            assert_eq!(*operation as usize, i);
        }
        assert_eq!(Endpoint::Heartbeat as usize + 1, ENDPOINTS.len());
        assert_eq!(DockerOperation::List as usize + 1, OPERATIONS.len());
    }
}

//! The closed lists of label values. A cell is found by the place of its values in these lists, so no backend and no
//! script can make up a value.

/// A label: its name, and every value that it can have.
pub(super) struct Label(pub(super) &'static str, pub(super) &'static [&'static str]);

/// An enum whose values are a label's values, with the label beside it.
macro_rules! label {
    ($(#[$about:meta])* $name:ident as $label:ident = $key:literal {
        $($(#[$doc:meta])* $value:ident = $word:literal),* $(,)?
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $value),* }

        pub(super) const $label: Label = Label($key, &[$($word),*]);

        impl $name {
            /// The word in the label. Not every label's is asked for alone.
            #[allow(dead_code)]
            pub fn as_str(self) -> &'static str {
                $label.1[self as usize]
            }
        }
    };
}

label! {
    /// The backend calls of `cronium_api_requests_total{endpoint}`.
    Endpoint as ENDPOINT = "endpoint" {
        Queue = "queue", Acknowledge = "acknowledge", Status = "status", Complete = "complete", Release = "release",
        Orphaned = "orphaned", ExecutionCreate = "execution_create", ExecutionUpdate = "execution_update",
        ExecutionContext = "execution_context", Variables = "variables",
        Health = "health", Heartbeat = "heartbeat",
    }
}

label! {
    /// The Docker calls of `cronium_docker_request_duration_seconds{operation}`.
    DockerOperation as OPERATION = "operation" {
        Ping = "ping", Info = "info", Create = "create", Attach = "attach", Start = "start", Wait = "wait",
        Inspect = "inspect", Stats = "stats", Kill = "kill", Remove = "remove", Pull = "pull", Network = "network",
        List = "list", Rename = "rename", Update = "update",
    }
}

label! {
    /// How one poll of the queue ended: the label of `cronium_polls_total{result}`.
    PollResult as POLL = "result" {
        /// At least one job came.
        Jobs = "jobs",
        Empty = "empty",
        Error = "error",
        /// The agent did not ask: no worker free, or not ready.
        Skipped = "skipped",
    }
}

label! {
    /// The result of a reload of the configuration: the label of `cronium_config_reloads_total{result}`.
    ReloadResult as RELOAD = "result" {
        /// Something took effect.
        Changed = "changed",
        Unchanged = "unchanged",
        /// It was not valid.
        Refused = "refused",
    }
}

label! {
    /// Which file system: the label of `cronium_disk_free_bytes{path}` and `cronium_disk_free_inodes{path}`.
    Place as PLACE = "path" {
        /// The one that holds Docker's data.
        Docker = "docker",
        /// The one that holds `state.dir`.
        State = "state",
    }
}

label! {
    /// How a job came to its container while some wait for its language: the label of `cronium_warm_jobs_total{result}`.
    WarmUse as WARM_USE = "result" {
        /// It took one that waited. Otherwise it was cold:
        Warm = "warm",
        Empty = "cold_none_waits",
        /// Its limits are others, and cannot be changed while a container runs.
        Limits = "cold_other_limits",
        /// The image's name has another image by now.
        Image = "cold_other_image",
        Update = "cold_update_refused",
        /// What waited had ended.
        Ended = "cold_had_ended",
        /// The helpers' socket could not be brought into it.
        Socket = "cold_no_socket",
    }
}

label! {
    /// Why a container that waited was thrown away: the label of `cronium_warm_discarded_total{reason}`.
    WarmEnd as WARM_END = "reason" {
        /// `container.warm.maxIdle`.
        Age = "age",
        Ended = "ended",
        Image = "image",
        Memory = "memory",
        /// A canary failed.
        Proof = "proof",
        Reload = "reload",
        /// A job could not use it.
        Unfit = "unfit",
    }
}

pub(super) const LANGUAGE: Label = Label("language", &["bash", "python", "nodejs"]);

/// The words of [`Kind`](crate::job::Kind), of [`Phase`](crate::verdict::Phase) and of [`Stream`](crate::job::Stream),
/// each in the order of its enum.
pub(super) const KIND: Label = Label("type", &["container", "ssh", "http"]);
pub(super) const PHASE: Label = Label("phase", &["setup", "execution", "cleanup"]);
pub(super) const STREAM: Label = Label("stream", &["stdout", "stderr", "system"]);
/// Whether something succeeded.
pub(super) const OUTCOME: Label = Label("result", &["success", "failure"]);

/// The words of `Verdict::reason` other than `success`; the last takes a word that is not listed.
pub(super) const REASON: Label = Label(
    "reason",
    &["script", "signal", "memory", "disk", "timeout", "cancelled", "partial", "refused", "infrastructure", "other"],
);

/// HTTP methods; the last takes all others.
pub(super) const METHOD: Label = Label("method", &["GET", "POST", "PUT", "PATCH", "DELETE", "other"]);

/// Some statuses, then the classes for the rest, then the endings without a status.
pub(super) const CODE: Label = Label(
    "code",
    &[
        "200", "201", "204", "400", "401", "403", "404", "409", "429", "500", "502", "503", "504", "1xx", "2xx", "3xx",
        "4xx", "5xx", "timeout", "error",
    ],
);

/// How a backend call ended: an HTTP status, or no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Status(u16),
    Timeout,
    Error,
}

impl Label {
    /// The place of `word` in the list; of a word that is not in it, the last.
    pub(super) fn slot(&self, word: &str) -> usize {
        self.find(word).unwrap_or(self.1.len() - 1)
    }

    fn find(&self, word: &str) -> Option<usize> {
        self.1.iter().position(|known| known.eq_ignore_ascii_case(word))
    }
}

impl Code {
    /// Its place in [`CODE`]; a status outside 100–599 is an error.
    pub(super) fn slot(self) -> usize {
        match self {
            Self::Timeout => CODE.slot("timeout"),
            Self::Error => CODE.slot("error"),
            Self::Status(status) => {
                CODE.find(&status.to_string()).unwrap_or_else(|| CODE.slot(&format!("{}xx", status / 100)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Kind, Stream};
    use crate::verdict::{Cause, Phase, Verdict};
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
            let slot = REASON.slot(verdict.reason());
            assert_ne!(REASON.1[slot], "other", "{verdict:?}");
            assert!(!seen.contains(&slot), "{verdict:?}");
            seen.push(slot);
        }
        assert_eq!(seen.len(), REASON.1.len() - 1);
        assert_eq!(REASON.1[REASON.slot("made up")], "other");
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
            assert_eq!(CODE.1[code.slot()], want, "{code:?}");
        }
        assert_eq!(METHOD.1[METHOD.slot("post")], "POST");
        assert_eq!(METHOD.1[METHOD.slot("BREW")], "other");
    }

    #[test]
    fn every_list_is_in_the_order_of_its_enum() {
        let kinds = Kind::ALL.map(|kind| (kind as usize, kind.as_str()));
        let phases = [Phase::Setup, Phase::Execution, Phase::Cleanup].map(|phase| (phase as usize, phase.as_str()));
        let streams = [Stream::Stdout, Stream::Stderr, Stream::System].map(|s| (s as usize, s.as_str()));
        let words = |label: Label| label.1.iter().copied().enumerate().collect::<Vec<_>>();
        assert_eq!(words(KIND), kinds);
        assert_eq!(words(PHASE), phases);
        assert_eq!(words(STREAM), streams);
        assert_eq!(Endpoint::Heartbeat.as_str(), "heartbeat");
    }
}

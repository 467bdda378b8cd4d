//! Faults on request: which requests they hit and what then happens. A test says what goes wrong, and when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One fault. All conditions given must hold; the fault lets `skip` such requests pass and then hits `count` of them
/// (none: all that follow).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    /// Part of the path with its query, for example `/complete`.
    pub path: Option<String>,
    /// The method, for example `POST`.
    pub method: Option<String>,
    /// A job's id, found in the path or the body.
    pub job: Option<String>,
    pub skip: u64,
    pub count: Option<u64>,
    pub action: Action,
    /// How many requests met the conditions so far (kept by the backend).
    pub seen: u64,
}

/// What a fault does to the request that it hits.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Nothing (a fault that only counts).
    #[default]
    Count,
    /// This answer; the request is not processed.
    Status {
        status: u16,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        #[serde(default)]
        body: Option<String>,
    },
    /// Wait, then go on (other faults that match apply too).
    Delay { millis: u64 },
    /// Cut once the head was read, before the body.
    CutBeforeRead,
    /// Cut once the whole request was read, before it is processed.
    CutAfterRead,
    /// Process, send the first half of the answer, cut.
    CutMidAnswer,
    /// Process, then cut without a byte of the answer.
    CutAfterProcessing,
    /// Process, answer whole headers with half the body they promise, cut.
    TruncatedBody,
    /// Process, answer 200 with text that is no JSON.
    WrongJson,
    /// Answer 200 with valid JSON of this many bytes; not processed.
    GiantBody { bytes: usize },
    /// Answer 200 with exactly this body; not processed.
    Body {
        body: String,
        #[serde(default)]
        content_type: Option<String>,
    },
    /// Process, then never answer (until the backend stops or the client goes).
    Hang,
    /// Cut this connection and all others, and refuse new ones for so long.
    Refuse { seconds: f64 },
}

/// Faults that hit one request: the time to wait, and what to do (at most one thing).
#[derive(Debug, Default)]
pub(crate) struct Hit {
    pub(crate) delay_millis: u64,
    pub(crate) action: Option<Action>,
}

/// The faults that hit before the body is read (`early`), or those that hit after. Counts them.
pub(crate) fn hit(faults: &mut [Fault], early: bool, method: &str, target: &str, body: &[u8]) -> Hit {
    let mut found = Hit::default();
    for fault in faults.iter_mut() {
        if matches!(fault.action, Action::CutBeforeRead) != early || !applies(fault, method, target, body) {
            continue;
        }
        let number = fault.seen;
        fault.seen += 1;
        if number < fault.skip || fault.count.is_some_and(|count| number >= fault.skip.saturating_add(count)) {
            continue;
        }
        match &fault.action {
            Action::Delay { millis } => found.delay_millis += millis,
            Action::Count => {}
            action if found.action.is_none() => found.action = Some(action.clone()),
            _ => {}
        }
    }
    found
}

fn applies(fault: &Fault, method: &str, target: &str, body: &[u8]) -> bool {
    let contains = |job: &str| {
        target.contains(job) || (!job.is_empty() && body.windows(job.len()).any(|part| part == job.as_bytes()))
    };
    fault.path.as_deref().is_none_or(|path| target.contains(path))
        && fault.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
        && fault.job.as_deref().is_none_or(contains)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_the_requests_it_names_and_no_other() {
        let fault = Fault {
            path: Some("/complete".into()),
            skip: 1,
            count: Some(2),
            action: Action::CutAfterRead,
            ..Fault::default()
        };
        let mut faults = vec![fault];
        let hits: Vec<bool> =
            ["/jobs/a/complete", "/jobs/a/fail", "/jobs/b/complete", "/jobs/c/complete", "/d/complete"]
                .iter()
                .map(|target| hit(&mut faults, false, "POST", target, b"").action.is_some())
                .collect();
        assert_eq!(hits, [false, false, true, true, false]);
    }

    #[test]
    fn a_job_is_found_in_path_or_body_and_delays_add_up() {
        let delay = |millis| Fault { job: Some("j1".into()), action: Action::Delay { millis }, ..Fault::default() };
        let mut faults = vec![delay(5), delay(7), Fault { action: Action::Hang, ..delay(0) }];
        let found = hit(&mut faults, false, "POST", "/executions/e/create", br#"{"jobId":"j1"}"#);
        assert_eq!(found.delay_millis, 12);
        assert!(matches!(found.action, Some(Action::Hang)));
        assert_eq!(hit(&mut faults, false, "POST", "/executions/e/create", b"{}").delay_millis, 0);
    }

    #[test]
    fn faults_are_read_from_json_and_unknown_keys_are_refused() {
        let fault: Fault = serde_json::from_str(
            r#"{"path":"/queue","count":1,"action":{"kind":"status","status":429,"headers":{"Retry-After":"1"}}}"#,
        )
        .expect("a fault");
        assert!(matches!(fault.action, Action::Status { status: 429, .. }));
        assert!(serde_json::from_str::<Fault>(r#"{"paths":"/queue","action":{"kind":"hang"}}"#).is_err());
    }
}

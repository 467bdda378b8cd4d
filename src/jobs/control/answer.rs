//! From a request's line to the answer's: the only place that acts on what a client says.

use serde::Serialize;

use super::status::Sources;
use super::{Cancelled, Failed, ReloadAsked, Request};
use crate::job::Id;
use crate::jobs::running::Step;

/// Who a job that an operator cancelled is cancelled by, in its verdict.
const OPERATOR: &str = "the operator";

/// Answers requests.
pub struct Desk {
    sources: Sources,
}

impl Desk {
    /// A desk that knows what `sources` know.
    pub fn new(sources: Sources) -> Self {
        Self { sources }
    }

    /// One line of JSON for one line of JSON, its end included. `uid` is for the log.
    pub(super) fn answer(&self, uid: u32, request: &[u8]) -> Vec<u8> {
        match serde_json::from_slice(request) {
            Ok(Request::Status) => line(&self.sources.status()),
            Ok(Request::Cancel { job }) => self.cancel(uid, &job),
            Ok(Request::Reload) => {
                log::info!("a reload of the configuration was asked for (user {uid})");
                line(&ReloadAsked { ok: true, request: (self.sources.ask_reload)() })
            }
            Err(error) => failure(&format!("no request that this agent understands: {error}")),
        }
    }

    fn cancel(&self, uid: u32, job: &str) -> Vec<u8> {
        let id = match Id::parse(job) {
            Ok(id) => id,
            Err(error) => return failure(&format!("{job:?} is no job's id: {error}")),
        };
        let running = &self.sources.running;
        let step = running.get(&id).map(|seen| seen.step);
        match step.filter(|_| running.cancel(&id, OPERATOR)) {
            None => failure(&format!("job {id} does not run here; `cronium-agent status` lists those that do")),
            Some(step) => {
                log::info!("job {id} is cancelled by the operator (user {uid}); it was {}", step.as_str());
                line(&Cancelled { ok: true, job: id.to_string(), phase: step.as_str().to_owned() })
            }
        }
    }
}

impl Cancelled {
    /// Whether the job's script had ended before.
    pub fn is_late(&self) -> bool {
        self.phase == Step::Reporting.as_str()
    }
}

/// The answer that says why not.
pub(super) fn failure(why: &str) -> Vec<u8> {
    line(&Failed { ok: false, error: why.to_owned() })
}

fn line(answer: &impl Serialize) -> Vec<u8> {
    // Plain structures of texts and numbers: there is nothing in them that could fail.
    let mut bytes =
        serde_json::to_vec(answer).unwrap_or_else(|_| br#"{"ok":false,"error":"the answer is no JSON"}"#.to_vec());
    bytes.push(b'\n');
    bytes
}

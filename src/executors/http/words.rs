//! The words for endings of requests. "Not sent" and an answer need proof; what is neither is called unknown.

use crate::executors::Control;
use crate::executors::ending::seconds;
use crate::executors::http::dial::{Line, Unreached};
use crate::executors::http::trust;
use crate::policy::stop::Reason;
use crate::verdict::{Cause, NOT_RUN, Phase, Verdict};

/// The contract's exit code of a timeout.
const TIMED_OUT: i32 = -1;
/// As of a script that TERM ended.
const CANCELLED: i32 = 143;
/// Of an answer with status 400 or more.
const ANSWERED_BADLY: i32 = 1;

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failure {
    /// A request, or a part of one, may have left.
    pub(super) sent: bool,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// The job is to end; its control knows why.
    Stopped,
    /// It may not be sent there.
    Refused(String),
    Broken(String),
}

impl Failure {
    /// A redirect that is not followed.
    pub(super) fn redirect(why: String) -> Self {
        Self { sent: true, why: Why::Refused(why) }
    }

    /// An error of the request that `line` carried. `answered` is what came before it: the answers that redirected it.
    pub(super) fn new(error: ureq::Error, line: &Line, answered: &str) -> Self {
        let why = match told(error) {
            Why::Refused(why) => Why::Refused(format!("{answered}{why}")),
            Why::Broken(why) => Why::Broken(format!("{answered}{why}")),
            Why::Stopped => Why::Stopped,
        };
        Self { sent: line.was_sent() || !answered.is_empty(), why }
    }

    /// Whether the agent ends and nothing has left: then the job may go back.
    pub(super) fn is_given_back(&self, control: &Control) -> bool {
        matches!(self.why, Why::Stopped) && !self.sent && control.reason().is_none()
    }

    pub(super) fn verdict(self, control: &Control) -> Verdict {
        let left = match self.sent {
            true => "the request had been sent: whether the server acted on it is unknown",
            false => "the request had not been sent",
        };
        let (cause, exit_code, message) = match (self.why, control.reason()) {
            (Why::Stopped, Some(Reason::Timeout { limit, after })) => {
                let message = format!("the request took longer than its limit of {} ({limit}); {left}", seconds(after));
                (Cause::Timeout { limit, after }, TIMED_OUT, message)
            }
            (Why::Stopped, Some(Reason::Cancelled(who))) => {
                (Cause::Cancelled(who), CANCELLED, format!("the job was cancelled by {who}; {left}"))
            }
            (Why::Stopped, _) => (Cause::Infrastructure, NOT_RUN, format!("the agent was stopped; {left}")),
            (Why::Refused(why), _) if self.sent => {
                (Cause::Refused, NOT_RUN, format!("a redirect was not followed: {why}"))
            }
            (Why::Refused(why), _) => (Cause::Refused, NOT_RUN, format!("the request was not sent: {why}")),
            (Why::Broken(why), _) if self.sent => {
                let message = format!(
                    "the request was sent, and no whole answer came: {why}; whether the server acted on it is unknown"
                );
                (Cause::Infrastructure, NOT_RUN, message)
            }
            (Why::Broken(why), _) => (Cause::Infrastructure, NOT_RUN, format!("the request was not sent: {why}")),
        };
        Verdict { phase: Phase::Execution, cause, exit_code, message }
    }
}

fn told(error: ureq::Error) -> Why {
    let tls = |error: &rustls::Error| Why::Broken(format!("no TLS connection: {error}{}", trust::advice(error)));
    match error {
        ureq::Error::Rustls(error) => tls(&error),
        ureq::Error::Io(error) => {
            if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return tls(inner);
            }
            match error.downcast::<Unreached>() {
                Ok(Unreached::Unwanted) => Why::Stopped,
                Ok(Unreached::Refused(why)) => Why::Refused(why),
                Ok(Unreached::Failed(error)) => Why::Broken(format!("no connection: {error}")),
                Err(error) => Why::Broken(format!("the connection broke: {error}")),
            }
        }
        // Its text would repeat the address.
        ureq::Error::BadUri(_) => Why::Broken("its URL cannot be used".to_owned()),
        other => Why::Broken(format!("the answer is no valid HTTP/1.1: {other}")),
    }
}

/// The verdict on an answer.
pub(super) fn answered(status: u16, text: &str) -> Verdict {
    let is_good = status < 400;
    let (cause, exit_code) = if is_good { (Cause::Success, 0) } else { (Cause::Exit, ANSWERED_BADLY) };
    let message = format!("the server answered {status} {text}").trim_end().to_owned();
    Verdict { phase: Phase::Execution, cause, exit_code, message }
}

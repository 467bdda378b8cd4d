//! Errors of a call to the backend: which call, on which host, why, and what to do.

use std::fmt;
use std::time::Duration;

use crate::os::way;

/// A failed call. Its text never holds the token, a body or a query.
#[derive(Debug)]
pub struct Error {
    /// Method and path, such as `POST /jobs/a/complete`; empty when the client itself could not be built.
    pub call: Box<str>,
    /// Host and port of the backend.
    pub host: Box<str>,
    /// How often it was tried.
    pub attempts: u32,
    pub problem: Problem,
}

/// Why a call failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// A time limit passed: what was waited for, and how long.
    Timeout { which: Wait, limit: Duration },
    /// The backend's name was not resolved, no address of it answered, or its proxy made no tunnel.
    Unreached(Box<way::Error>),
    /// There was no connection for another reason.
    Connect(Box<ureq::Error>),
    /// TLS failed: a certificate was not accepted, or the handshake failed.
    Tls { why: String, advice: &'static str, permanent: bool },
    /// The connection broke after it was made.
    Cut(Box<ureq::Error>),
    /// The answer is not HTTP/1.1.
    Protocol(Box<ureq::Error>),
    /// An answer with another status than 2xx.
    Http { status: u16, message: String, details: Option<String>, retry_after: Option<Duration> },
    /// An answer with 2xx whose body does not follow the contract.
    BadAnswer { why: String },
    /// The answer is longer than the limit, in bytes.
    TooLarge { limit: usize },
    /// The client cannot be built from this configuration.
    Setup { key: &'static str, why: String },
    /// A report was sent and its answer lost, and nothing shows whether it was taken.
    Unknown,
    /// The agent was stopped before the request was sent.
    Stopped,
}

/// What a call was waiting for when its time ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Resolve,
    Connect,
    Send,
    Answer,
    Body,
    Call,
}

impl Wait {
    /// Its name in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolving the name",
            Self::Connect => "connecting",
            Self::Send => "sending the request",
            Self::Answer => "waiting for the answer",
            Self::Body => "reading the answer's body",
            Self::Call => "the whole call",
        }
    }
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match &self.problem {
            Problem::Timeout { .. }
            | Problem::Unreached(_)
            | Problem::Connect(_)
            | Problem::Cut(_)
            | Problem::Protocol(_) => true,
            Problem::Tls { permanent, .. } => !permanent,
            Problem::Http { status, .. } => matches!(status, 408 | 429 | 500..),
            Problem::BadAnswer { .. }
            | Problem::TooLarge { .. }
            | Problem::Setup { .. }
            | Problem::Unknown
            | Problem::Stopped => false,
        }
    }

    /// Whether the backend may have processed the failed call.
    pub fn is_ambiguous(&self) -> bool {
        match &self.problem {
            Problem::Timeout { which, .. } => !matches!(which, Wait::Resolve | Wait::Connect),
            Problem::Http { status, .. } => *status >= 500,
            Problem::Cut(_)
            | Problem::Protocol(_)
            | Problem::BadAnswer { .. }
            | Problem::TooLarge { .. }
            | Problem::Unknown => true,
            Problem::Unreached(_)
            | Problem::Connect(_)
            | Problem::Tls { .. }
            | Problem::Setup { .. }
            | Problem::Stopped => false,
        }
    }

    /// Whether the backend will refuse the same call every time. A wrong token (401) may be replaced, and 408, 425 and 429
    /// pass; any other 4xx is an answer to the call itself.
    pub fn is_refusal(&self) -> bool {
        matches!(self.status(), Some(status @ 400..=499) if !matches!(status, 401 | 407 | 408 | 425 | 429))
    }

    /// Whether the backend, or what it needs, may be away: another call may fail in the same way.
    pub fn is_outage(&self) -> bool {
        match &self.problem {
            Problem::Http { status, .. } => matches!(status, 401 | 407 | 408 | 500..),
            Problem::Setup { .. } | Problem::Unknown | Problem::Stopped | Problem::TooLarge { .. } => false,
            _ => true,
        }
    }

    /// The HTTP status, if there was one.
    pub fn status(&self) -> Option<u16> {
        match &self.problem {
            Problem::Http { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The backend's `Retry-After`, capped.
    pub fn retry_after(&self) -> Option<Duration> {
        match &self.problem {
            Problem::Http { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.call.is_empty() {
            return write!(f, "cannot set up the backend client: {}", self.problem);
        }
        write!(f, "{} on {} failed: {}", self.call, self.host, self.problem)?;
        if self.attempts > 1 {
            write!(f, " (tried {} times)", self.attempts)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout { which: Wait::Call, limit } => {
                write!(f, "the whole call took longer than {limit:?} (api.timeout)")
            }
            Self::Timeout { which, limit } => {
                write!(f, "{} took longer than {limit:?} (see api.timeout)", which.as_str())
            }
            Self::Unreached(why) => write!(f, "no connection: {why}; {}", why.advice("api.endpoint")),
            Self::Connect(why) => write!(f, "no connection: {why}; check api.endpoint and that the backend runs"),
            Self::Tls { why, advice, .. } => write!(f, "no TLS connection: {why}{advice}"),
            Self::Cut(why) => write!(f, "the connection broke before the answer was complete: {why}"),
            Self::Protocol(why) => {
                write!(f, "the answer is no valid HTTP/1.1: {why}; check that api.endpoint is the backend")
            }
            Self::Http { status, message, details, .. } => {
                write!(f, "the backend answered {status}")?;
                if !message.is_empty() {
                    write!(f, ": {message}")?;
                }
                if let Some(details) = details {
                    write!(f, " ({details})")?;
                }
                f.write_str(advice(*status))
            }
            Self::BadAnswer { why } => write!(f, "the answer is not what the contract says: {why}"),
            Self::TooLarge { limit } => write!(f, "the answer is longer than {limit} bytes and was not read"),
            Self::Setup { key, why } => write!(f, "{key}: {why}"),
            Self::Unknown => f.write_str(
                "its answer was lost, and the backend's list of jobs is too long to show whether it was taken",
            ),
            Self::Stopped => f.write_str("the agent is stopping"),
        }
    }
}

/// What to do about a status.
fn advice(status: u16) -> &'static str {
    match status {
        300..=399 => "; redirects are not followed, set api.endpoint to the final address",
        401 => "; check api.token",
        403 => "; the job belongs to another agent, or the token may not do this",
        404 => "; the backend does not know it (anymore), or api.endpoint has a wrong path",
        429 => "; the backend wants fewer requests, see api.rateLimit",
        _ => "",
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Unreached(e) => Some(e.as_ref()),
            Problem::Connect(e) | Problem::Cut(e) | Problem::Protocol(e) => Some(e.as_ref()),
            _ => None,
        }
    }
}

/// Sorts an error of the HTTP library. `limit_of` gives the length of each limit.
pub(super) fn sort(error: ureq::Error, limit_of: impl Fn(Wait) -> Duration) -> Problem {
    use ureq::Error as E;
    match error {
        E::Timeout(kind) => {
            let which = wait_of(kind);
            Problem::Timeout { which, limit: limit_of(which) }
        }
        E::HostNotFound | E::ConnectionFailed | E::BadUri(_) => Problem::Connect(Box::new(error)),
        E::Rustls(e) => tls(&e),
        E::Tls(why) => Problem::Tls { why: why.to_owned(), advice: "", permanent: true },
        E::Io(e) => {
            if let Some(inner) = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return tls(inner);
            }
            match e.downcast::<way::Error>() {
                Ok(unreached) => Problem::Unreached(Box::new(unreached)),
                Err(e) => Problem::Cut(Box::new(E::Io(e))),
            }
        }
        other => Problem::Protocol(Box::new(other)),
    }
}

fn wait_of(kind: ureq::Timeout) -> Wait {
    match kind {
        ureq::Timeout::Resolve => Wait::Resolve,
        ureq::Timeout::Connect => Wait::Connect,
        ureq::Timeout::SendRequest | ureq::Timeout::SendBody | ureq::Timeout::PerWrite => Wait::Send,
        ureq::Timeout::RecvResponse => Wait::Answer,
        ureq::Timeout::RecvBody => Wait::Body,
        _ => Wait::Call,
    }
}

fn tls(error: &rustls::Error) -> Problem {
    use rustls::{AlertDescription as Alert, CertificateError as C, Error as E};
    let advice = match error {
        E::InvalidCertificate(C::UnknownIssuer) => {
            "; the certificate's issuer is unknown: name its CA in security.tls.caFile"
        }
        E::InvalidCertificate(
            C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. },
        ) => "; check the certificate and this host's clock",
        E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "; the certificate is for another name than api.endpoint has"
        }
        E::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::HandshakeFailure
            | Alert::AccessDenied,
        ) => "; the backend did not accept our certificate: check security.tls.certFile and keyFile",
        E::InvalidMessage(_) => "; the backend may speak plain http on this port",
        _ => "",
    };
    Problem::Tls { why: error.to_string(), advice, permanent: matches!(error, E::InvalidCertificate(_)) }
}

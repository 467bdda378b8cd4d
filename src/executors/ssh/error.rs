//! What goes wrong between the agent and a server.

use std::fmt;
use std::time::Duration;

use crate::executors::ending::seconds;

/// A part of the way to a server, each with a time limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Resolve,
    Connect,
    Handshake,
    Authenticate,
    Open,
    /// Reading from and writing to a connection that was made.
    Talk,
}

impl Step {
    /// What was being done, for a message.
    pub fn doing(self) -> &'static str {
        match self {
            Self::Resolve => "resolve the name of",
            Self::Connect => "connect to",
            Self::Handshake => "do the SSH handshake with",
            Self::Authenticate => "log in to",
            Self::Open => "open a session on",
            Self::Talk => "talk to",
        }
    }
}

/// Why there is no session on a server, or not any more. The server is named in each.
#[derive(Debug, Clone)]
pub enum Error {
    /// The step took longer than its limit, `ssh.connectionPool.connectionTimeout` or the one that is named.
    Timeout { server: String, step: Step, limit: &'static str, after: Duration },
    /// The network or the other side broke it off.
    Broken { server: String, step: Step, what: String },
    /// No cipher, key exchange or host key in common.
    NothingInCommon { server: String, what: String },
    /// The host key was refused.
    HostKey { server: String, what: String },
    /// The server did not let us in, or there was nothing to log in with.
    Login { server: String, user: String, what: String },
    /// The key's text cannot be used.
    Key { server: String, what: String },
    /// The server takes no more sessions on this connection.
    Full { server: String },
    /// The circuit breaker is open.
    BreakerOpen { server: String, failures: u32, retry_in: Duration },
    /// All connections are taken and none came free in time.
    Busy { server: String, after: Duration },
    /// The job was told to end meanwhile.
    Stopped { server: String },
    /// The agent has no thread or descriptor for it.
    Local { server: String, what: String },
}

impl Error {
    /// Whether it says that server or network are out of order: what the circuit breaker counts.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Broken { .. })
    }

    /// Whether the same may go well a moment later.
    pub fn is_passing(&self) -> bool {
        !matches!(self, Self::NothingInCommon { .. } | Self::HostKey { .. } | Self::Login { .. } | Self::Key { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout { server, step, limit, after } => write!(
                f,
                "cannot {} {server}: no answer within {} ({limit}); is the host up, and the port open to this agent?",
                step.doing(),
                seconds(*after)
            ),
            Self::Broken { server, step: Step::Resolve, what } => {
                write!(f, "cannot resolve the name of {server}: {what}; check the server's host")
            }
            Self::Broken { server, step, what } => write!(f, "cannot {} {server}: {what}", step.doing()),
            Self::NothingInCommon { server, what } => {
                write!(f, "no algorithm in common with {server}: {what}")
            }
            Self::HostKey { server, what } => write!(f, "the host key of {server} is not trusted: {what}"),
            Self::Login { server, user, what } => write!(f, "cannot log in to {server} as {user}: {what}"),
            Self::Key { server, what } => write!(f, "the private key for {server} cannot be used: {what}"),
            Self::Full { server } => {
                write!(f, "{server} takes no more sessions on this connection; raise MaxSessions in its sshd_config")
            }
            Self::BreakerOpen { server, failures, retry_in } => write!(
                f,
                "the circuit breaker of {server} is open after {failures} failed connections in a row; the next trial is \
                 in {} (ssh.circuitBreaker.timeout)",
                seconds(Duration::from_secs(retry_in.as_secs() + u64::from(retry_in.subsec_nanos() > 0)))
            ),
            Self::Busy { server, after } => write!(
                f,
                "all connections to {server} were taken for {} (ssh.connectionPool.maxPerServer)",
                seconds(*after)
            ),
            Self::Stopped { server } => write!(f, "the job was told to end before it reached {server}"),
            Self::Local { server, what } => write!(f, "this agent cannot reach out to {server}: {what}"),
        }
    }
}

impl std::error::Error for Error {}

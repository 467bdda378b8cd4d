//! Errors between the agent and a server.

use std::fmt;
use std::time::Duration;

use crate::executors::ending::seconds;

/// A step on the way to a server, each with its own time limit.
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

/// Why there is no session on a server, or no longer. Each names the server.
#[derive(Debug, Clone)]
pub enum Error {
    /// The step took longer than its limit: `ssh.connectionPool.connectionTimeout` or the named one.
    Timeout { server: String, step: Step, limit: &'static str, after: Duration },
    /// No address of the server answered in time.
    Silent { server: String, what: String },
    /// The network or the other side broke it off.
    Broken { server: String, step: Step, what: String },
    /// The server closed the connection before its greeting, perhaps with a line of text: too many connections that have
    /// not logged in yet, a client that is penalised, or no SSH server.
    TurnedAway { server: String, said: String },
    /// The server closed the connection in the middle of a step.
    Cut { server: String, step: Step, what: String },
    /// No algorithm of some class in common.
    NothingInCommon { server: String, what: String },
    /// The host key was refused.
    HostKey { server: String, what: String },
    /// The login was refused, or there was no credential.
    Login { server: String, user: String, what: String },
    /// The key's text cannot be used.
    Key { server: String, what: String },
    /// The certificate's text cannot be used.
    Certificate { server: String, what: String },
    /// The server takes no more sessions on this connection.
    Full { server: String },
    /// The circuit breaker is open.
    BreakerOpen { server: String, failures: u32, retry_in: Duration },
    /// All connections are in use and none came free in time.
    Busy { server: String, after: Duration },
    /// Other logins used all turns that the server allows at once, and none came free in time.
    NoTurn { server: String, at_once: usize, after: Duration },
    /// Several tries failed, and the reason why there is no further one.
    GaveUp { server: String, tries: u32, turned_away: u32, after: Duration, why: String, last: Box<Error> },
    /// The job was stopped meanwhile.
    Stopped { server: String },
    /// The agent ran out of threads or descriptors.
    Local { server: String, what: String },
    /// The jump host on the way failed; nothing is known of the server behind it.
    Jump { jump: String, error: Box<Self> },
    /// The jump host is fine, and opened no way to the server.
    NoWay { server: String, why: NoWay },
    /// The job or `ssh.hosts` names a jump host that `ssh.jumps` does not have.
    NoJump { server: String, name: String },
}

/// Why a jump host opens no way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoWay {
    /// It could not connect; in the words of the library, which does not hand on the jump host's.
    Unreached(String),
    /// It does not forward, or not there.
    Prohibited(String),
    /// It did not say within this time whether it could connect, and answered otherwise: the server is silent.
    Silent(Duration),
}

impl Error {
    /// An error of the jump host.
    pub fn of_jump(self, jump: &str) -> Self {
        Self::Jump { jump: jump.to_owned(), error: Box::new(self) }
    }

    /// Whether the circuit breaker counts it: server or network are out of order.
    pub fn is_outage(&self) -> bool {
        let silent = matches!(self, Self::Timeout { .. } | Self::Silent { .. });
        let unreached = matches!(self, Self::NoWay { why: NoWay::Unreached(_) | NoWay::Silent(_), .. });
        silent || unreached || matches!(self, Self::Broken { .. } | Self::TurnedAway { .. } | Self::Cut { .. })
    }

    /// Whether the same may succeed a moment later, for a job whose script runs already.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NothingInCommon { .. } | Self::HostKey { .. } | Self::Login { .. } => false,
            Self::Key { .. } | Self::Certificate { .. } => false,
            Self::NoJump { .. } | Self::NoWay { why: NoWay::Prohibited(_), .. } => false,
            Self::GaveUp { last, .. } => last.is_passing(),
            Self::Jump { error, .. } => error.is_passing(),
            _ => true,
        }
    }

    /// Whether a job that has not begun tries again. A server that does not answer is tried again only if it accepted others
    /// meanwhile (`others_pass`): then it is slow. Otherwise it is away, and each further try would hold a worker as long as the
    /// first.
    pub fn is_worth_a_try(&self, others_pass: bool) -> bool {
        match self {
            Self::TurnedAway { .. } | Self::Cut { .. } | Self::Broken { step: Step::Connect, .. } => true,
            // What glibc and musl call EAI_AGAIN; std hands on the words alone.
            Self::Broken { step: Step::Resolve, what, .. } => {
                what.contains("Temporary failure in name resolution") || what.contains("Try again")
            }
            Self::NoWay { why: NoWay::Unreached(_), .. } => true,
            Self::Timeout { .. } | Self::Silent { .. } | Self::NoWay { why: NoWay::Silent(_), .. } => others_pass,
            Self::Jump { error, .. } => error.is_worth_a_try(others_pass),
            _ => false,
        }
    }
}

/// Reasons for a connection that is closed before the greeting.
const LOOK_AT: &str = "see MaxStartups and, from OpenSSH 9.8 on, PerSourcePenalties in its sshd_config";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout { server, step, limit, after } => write!(
                f,
                "cannot {} {server}: no answer within {} ({limit}); is the host up, and the port open to this agent?",
                step.doing(),
                seconds(*after)
            ),
            Self::Silent { server, what } => {
                write!(f, "cannot connect to {server}: {what}; is the host up, and the port open to this agent?")
            }
            Self::Broken { server, step: Step::Resolve, what } => {
                write!(f, "cannot resolve the name of {server}: {what}; check the server's host")
            }
            Self::Broken { server, step, what } => write!(f, "cannot {} {server}: {what}", step.doing()),
            Self::TurnedAway { server, said } => {
                write!(f, "{server} closed the connection before its SSH greeting")?;
                if !said.is_empty() {
                    write!(f, ", saying {said:?}")?;
                }
                write!(f, "; is it an SSH server, and does it take more logins at once? {LOOK_AT}")
            }
            Self::Cut { server, step, what } => {
                write!(f, "cannot {} {server}: it closed the connection ({what})", step.doing())
            }
            Self::NothingInCommon { server, what } => write!(f, "no algorithm in common with {server}: {what}"),
            Self::HostKey { server, what } => write!(f, "the host key of {server} is not trusted: {what}"),
            Self::Login { server, user, what } => write!(f, "cannot log in to {server} as {user}: {what}"),
            Self::Key { server, what } => write!(f, "the private key for {server} cannot be used: {what}"),
            Self::Certificate { server, what } => write!(f, "the certificate for {server} cannot be used: {what}"),
            Self::Full { server } => {
                write!(f, "{server} takes no more sessions on this connection; raise MaxSessions in its sshd_config")
            }
            Self::BreakerOpen { server, failures, retry_in } => write!(
                f,
                "the circuit breaker of {server} is open after {failures} failures in a row; the next trial is in {} \
                 (ssh.circuitBreaker.timeout)",
                whole(*retry_in)
            ),
            Self::Busy { server, after } => write!(
                f,
                "all connections to {server} were taken for {} (ssh.connectionPool.maxPerServer)",
                seconds(*after)
            ),
            Self::NoTurn { server, at_once, after } => write!(
                f,
                "no turn to log in to {server} came for {}: it takes {at_once} logins at once; raise MaxStartups in its \
                 sshd_config",
                seconds(*after)
            ),
            Self::GaveUp { server, tries, turned_away, after, why, last } => {
                write!(f, "cannot reach {server}: {tries} {} in {}, the last: {last}", plural(*tries), whole(*after))?;
                if *turned_away > 0 && !matches!(**last, Self::TurnedAway { .. }) {
                    write!(f, "; {turned_away} of them were closed before the SSH greeting: {LOOK_AT}")?;
                }
                write!(f, "; {why}")
            }
            Self::Stopped { server } => write!(f, "the job was told to end before it reached {server}"),
            Self::Local { server, what } => write!(f, "this agent cannot reach out to {server}: {what}"),
            Self::Jump { jump, error } => write!(f, "jump host {jump}: {error}"),
            Self::NoWay { server, why } => write!(f, "cannot connect to {server}: {why}"),
            Self::NoJump { server, name } => {
                write!(f, "cannot connect to {server}: ssh.jumps has no {name:?}; add it to the agent's configuration")
            }
        }
    }
}

impl fmt::Display for NoWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreached(words) => write!(
                f,
                "the jump host could not ({words}); there, does its name have an address, is it up, and is its port open to \
                 the jump host? The jump host's log says more"
            ),
            Self::Prohibited(words) => write!(
                f,
                "the jump host does not forward there ({words}); see AllowTcpForwarding, PermitOpen and DisableForwarding in \
                 its sshd_config, and the options of the key in its authorized_keys"
            ),
            Self::Silent(after) => write!(
                f,
                "the jump host had no answer from it within {} (ssh.connectionPool.connectionTimeout); is it up, and its port \
                 open to the jump host?",
                seconds(*after)
            ),
        }
    }
}

impl std::error::Error for Error {}

/// Whole seconds, rounded up.
fn whole(length: Duration) -> String {
    seconds(Duration::from_secs(length.as_secs() + u64::from(length.subsec_nanos() > 0)))
}

fn plural(tries: u32) -> &'static str {
    if tries == 1 { "try" } else { "tries" }
}

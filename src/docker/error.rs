//! Errors between agent and engine, with what to do.

use std::fmt;
use std::time::Duration;

use crate::os::net;

/// A failed call to the engine.
#[derive(Debug)]
pub enum Error {
    /// The socket could not be opened.
    Connect { endpoint: String, source: Box<net::Error> },
    /// TLS to the engine cannot be set up or agreed on; why, and what to do.
    Tls { endpoint: String, why: String },
    /// A named limit passed before the engine had answered.
    Timeout { doing: String, limit: &'static str, after: Duration },
    /// The connection broke.
    Io { doing: String, source: std::io::Error },
    /// The engine sent something that is not HTTP, or not the promised answer.
    Protocol { doing: String, what: String },
    /// The engine refused, with its message.
    Refused { doing: String, status: u16, message: String },
    /// The engine cannot do it, or has it in a wrong form; what is wrong, and what to do.
    Unfit { doing: String, what: String },
    /// The answer is larger than its cap, in bytes.
    TooLarge { doing: String, cap: usize },
    /// There is no API version that both sides speak.
    Version { engine: String, ours: &'static str },
    /// A pull failed after it had begun, with the engine's message.
    Pull { image: String, message: String },
    /// The credentials for a registry could not be read.
    Credentials { path: String, what: String },
    /// The job was stopped during the call.
    Stopped { doing: String },
}

impl Error {
    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the engine could not be reached.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Tls { .. })
    }

    /// Whether the engine said that the image is missing.
    pub fn is_missing_image(&self) -> bool {
        matches!(self, Self::Refused { status: 404, message, .. }
            if message.to_ascii_lowercase().contains("no such image"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { endpoint, source } => {
                write!(f, "cannot reach the container engine at {endpoint}: {source}; ")?;
                f.write_str(match source.kind() {
                    std::io::ErrorKind::PermissionDenied => "run the agent as a member of the docker group",
                    std::io::ErrorKind::NotFound => {
                        "is it installed and running, and is container.docker.endpoint right?"
                    }
                    std::io::ErrorKind::TimedOut => {
                        "it may hang: look at it (systemctl status docker), and start it again if it does not recover"
                    }
                    _ => "check that the engine runs (systemctl status docker) and container.docker.endpoint",
                })
            }
            Self::Tls { endpoint, why } => {
                write!(f, "cannot reach the container engine at {endpoint}: no TLS connection: {why}")
            }
            Self::Timeout { doing, limit, after } => {
                write!(f, "{doing}: the engine did not answer within {after:?} ({limit})")
            }
            Self::Io { doing, source } => write!(f, "{doing}: the connection to the engine broke: {source}"),
            Self::Protocol { doing, what } => write!(f, "{doing}: the engine's answer makes no sense: {what}"),
            Self::Unfit { doing, what } => write!(f, "{doing}: {what}"),
            Self::Refused { doing, status, message } => write!(f, "{doing}: the engine refused ({status}): {message}"),
            Self::TooLarge { doing, cap } => write!(f, "{doing}: the engine's answer is larger than {cap} bytes"),
            Self::Version { engine, ours } => write!(
                f,
                "the engine speaks API {engine} at most and this agent needs {ours} or newer; update the engine"
            ),
            Self::Pull { image, message } => write!(f, "cannot pull image {image}: {message}"),
            Self::Credentials { path, what } => write!(f, "container.registryAuthFile {path}: {what}"),
            Self::Stopped { doing } => write!(f, "{doing}: given up, since the job was told to stop"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect { source, .. } => Some(source.as_ref()),
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

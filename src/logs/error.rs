//! Why the live log is not connected, for the agent's log and `/health`.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::limits::{LOG_SILENCE, LOG_WRITE_STALL};
use crate::os::way;

/// What ended or prevented a connection.
#[derive(Debug)]
pub(super) enum LinkError {
    /// No address within `limits::LOG_CONNECT`, or no answer from one.
    Unreachable { authority: String, source: Box<way::Error> },
    /// TLS and the upgrade took longer than this.
    HandshakeTimeout(Duration),
    /// The server answered the upgrade with this status.
    Refused(u16),
    /// The server's answer is not an upgrade to WebSocket; the reason.
    Handshake(String),
    /// The socket failed.
    Io(io::Error),
    /// The server broke the WebSocket protocol.
    Protocol(tungstenite::Error),
    /// The server closed the connection; code and reason, if given.
    Closed(Option<String>),
    /// No frame arrived, not even an answer to a ping.
    Silent,
    /// The server took or acknowledged nothing.
    Stalled,
    /// The server sent pings faster than it took the answers.
    Flooded,
    /// The agent is stopping.
    Stopped,
}

impl LinkError {
    /// Whether another try with the same token must fail too.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(401 | 403))
    }

    /// Whether the backend has no live log, as the deployed one: it may get one, but not soon.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused(404 | 426) | Self::Handshake(_))
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { authority, source } => {
                write!(f, "cannot reach {authority}: {source}; {}", source.advice("api.wsEndpoint"))
            }
            Self::HandshakeTimeout(wait) => write!(f, "the server did not finish the handshake within {wait:?}"),
            Self::Refused(status @ (401 | 403)) => {
                write!(f, "the backend refused the token with status {status}: check api.token or api.tokenFile")
            }
            Self::Refused(status @ 404) => {
                write!(f, "the backend has no live log there (status {status}): check api.wsEndpoint")
            }
            Self::Refused(status) => write!(f, "the backend answered the handshake with status {status}"),
            Self::Handshake(why) => write!(f, "the server's answer is no WebSocket handshake: {why}"),
            Self::Io(source) => write!(f, "the connection failed: {source}"),
            Self::Protocol(source) => write!(f, "the server broke the WebSocket protocol: {source}"),
            Self::Closed(None) => f.write_str("the server closed the connection"),
            Self::Closed(Some(reason)) => write!(f, "the server closed the connection: {reason}"),
            Self::Silent => write!(f, "nothing was heard from the server for {} s", LOG_SILENCE.as_secs()),
            Self::Stalled => {
                write!(f, "the server took or acknowledged nothing for {} s", LOG_WRITE_STALL.as_secs())
            }
            Self::Flooded => f.write_str("the server sent pings and took none of the answers"),
            Self::Stopped => f.write_str("the agent is stopping"),
        }
    }
}

impl std::error::Error for LinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } => Some(source.as_ref()),
            Self::Io(source) => Some(source),
            Self::Protocol(source) => Some(source),
            _ => None,
        }
    }
}

impl From<io::Error> for LinkError {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}

impl From<tungstenite::Error> for LinkError {
    fn from(source: tungstenite::Error) -> Self {
        match source {
            tungstenite::Error::Io(source) => Self::Io(source),
            tungstenite::Error::ConnectionClosed
            | tungstenite::Error::AlreadyClosed
            | tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake
                | tungstenite::error::ProtocolError::HandshakeIncomplete,
            ) => Self::Closed(None),
            source => Self::Protocol(source),
        }
    }
}

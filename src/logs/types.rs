//! What the live log is started with, and what it tells.

use std::time::SystemTime;

use super::encode::Dialect;
use crate::config::token::Token;
use crate::config::types::{LiveLog, Tls};
use crate::job::Id;
use crate::wire::proxy::Proxy;

/// Settings of the live log.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `api.wsEndpoint`: `ws://` or `wss://`.
    pub url: String,
    /// The proxy on the way there.
    pub proxy: Option<Proxy>,
    pub token: Token,
    pub orchestrator_id: String,
    /// The agent's version.
    pub version: String,
    pub live: LiveLog,
    pub tls: Tls,
}

/// A request of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// Stop this job, if it runs here.
    Cancel(Id),
    /// Something is queued: poll now.
    JobsQueued,
}

/// The fate of a job's lines. `sent` counts the `system` lines about left-out ones too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Acknowledged, or taken by the kernel if the dialect has no acknowledgements.
    pub sent: u64,
    /// Left out for lack of room.
    pub dropped: u64,
    /// Given up at the end of the wait; some may have arrived.
    pub unsent: u64,
}

/// For `/health`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionState {
    /// `logging.websocket.enabled`.
    pub enabled: bool,
    /// Without user, password and query.
    pub url: String,
    /// `None` while there is no connection.
    pub connected_since: Option<SystemTime>,
    /// Of the present or last connection.
    pub dialect: Option<Dialect>,
    /// Why there is, or was, no connection.
    pub last_error: Option<String>,
    /// Connections after the first.
    pub reconnects: u64,
}

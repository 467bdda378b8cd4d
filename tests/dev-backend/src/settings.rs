//! How the backend behaves. The default is the deployed backend, as it was seen; each other value is a kinder way that a test
//! asks for, or something that another backend may do.

use serde::{Deserialize, Serialize};

/// May change while the backend runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The answer to the handshake of a log socket. The deployed backend has none.
    pub log_socket: LogSocket,
    /// The token that is taken in the place of the first one, as after a rotation. Empty: the first one.
    pub token: String,
    /// Any token is taken, as after a change of the token.
    pub any_token: bool,
    /// The backend's own socket server answers. When it does not, `create`, `status`, `update`, `complete` and `fail`
    /// take `broadcast_delay_ms` longer.
    pub socket_server: bool,
    /// The same for a body over this many bytes, which the socket server refuses.
    pub broadcast_limit: usize,
    /// Three tries, 1 s and 2 s apart. The pages learn nothing of such a call while they are open.
    pub broadcast_delay_ms: u64,
    /// Rows that are `running` for so long without a `completedAt` become `failed`. None: never.
    pub clean_up_after_ms: Option<u64>,
    /// All errors as `{"error":{"code","message"}}`. Deployed: some calls have this shape, others `{"error":"text"}`.
    pub coded_errors: bool,
    /// Another backend: the queue's answer carries `metadata.nextPollAfter`, this far ahead.
    pub next_poll_after_ms: Option<u32>,
    /// Another backend: the acknowledgement carries a lease of this length.
    pub lease_seconds: Option<u32>,
    /// Another backend: a claim is answered, and seen by other agents, only after this long. So two agents can get one row;
    /// the last one has it.
    pub claim_race_ms: u32,
    /// Acknowledge batches of v2.
    pub acknowledge_batches: bool,
    /// Send `jobs` over v2 sockets when something is queued.
    pub announce_jobs: bool,
    /// Lines kept per job, at its start and at its end each. All are counted.
    pub keep_lines: usize,
}

/// What a handshake of the log socket gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSocket {
    /// 404, as for every path that the deployed backend does not know.
    Refused,
    /// A socket that takes one line a frame, whatever subprotocol was offered.
    Lines,
    /// `cronium.logs.v2` where it is offered, else as `Lines`.
    V2,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            log_socket: LogSocket::Refused,
            token: String::new(),
            any_token: false,
            socket_server: true,
            broadcast_limit: 100 << 10,
            broadcast_delay_ms: 3000,
            clean_up_after_ms: Some(15 * 60 * 1000),
            coded_errors: false,
            next_poll_after_ms: None,
            lease_seconds: None,
            claim_race_ms: 0,
            acknowledge_batches: true,
            announce_jobs: true,
            keep_lines: 5000,
        }
    }
}

impl Settings {
    /// The deployed backend with a log socket beside it: for tests that look at each line as it arrives.
    pub fn with_socket() -> Self {
        Self { log_socket: LogSocket::V2, ..Self::default() }
    }
}

//! The command line's side of the socket.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::{Failed, Request, SOCKET, too_long};
use crate::limits;
use crate::os::clock::Deadline;
use crate::os::local::PATH_MAX;
use crate::os::net;
use crate::wire::scan::Json;

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug)]
pub enum AskError {
    /// The kernel takes no path as long as this.
    TooLong(PathBuf),
    /// Nobody listens there.
    NoAgent { path: PathBuf, source: Box<net::Error> },
    /// This user may not.
    Denied(PathBuf),
    /// Connected, and then nothing more within the limit.
    Silent { path: PathBuf, wait: Duration },
    /// The agent hung up, or sent what cannot be understood.
    Broken { path: PathBuf, why: String },
    /// The agent's own word on why not.
    Refused(String),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(path) => f.write_str(&too_long(path)),
            Self::NoAgent { path, source } => write!(
                f,
                "no agent runs at {}: {source}; start it (`systemctl start cronium-agent` or `cronium-agent run`), or \
                 name its state.dir with --config FILE or --set state.dir=DIR",
                path.display()
            ),
            Self::Denied(path) => {
                write!(f, "this user may not ask at {}: only root and the agent's user may", path.display())
            }
            Self::Silent { path, wait } => write!(
                f,
                "the agent at {} did not answer within {wait:?} (limits::CONTROL_WAIT); its log may say why",
                path.display()
            ),
            Self::Broken { path, why } => write!(f, "the agent at {} gave no usable answer: {why}", path.display()),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for AskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoAgent { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

/// Asks the agent whose `state.dir` is `dir`. The answer comes as it was sent, without its line's end, and as what it
/// says; an answer that says why not is [`AskError::Refused`].
pub fn ask<T: DeserializeOwned>(dir: &Path, request: &Request) -> Result<(String, T), AskError> {
    let path = dir.join(SOCKET);
    if path.as_os_str().len() > PATH_MAX {
        return Err(AskError::TooLong(path));
    }
    let wait = limits::CONTROL_WAIT;
    let deadline = Deadline::after(wait, "limits::CONTROL_WAIT");
    let stream = net::unix(&path, deadline).map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => AskError::Denied(path.clone()),
        ErrorKind::TimedOut => AskError::Silent { path: path.clone(), wait },
        _ => AskError::NoAgent { path: path.clone(), source: Box::new(source) },
    })?;
    let broken = |why: String| AskError::Broken { path: path.clone(), why };
    let text = exchange(stream, request, Instant::now() + wait).map_err(|error| match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => AskError::Silent { path: path.clone(), wait },
        _ => broken(error.to_string()),
    })?;
    let not_json = |error: serde_json::Error| broken(format!("it is not the JSON that was expected: {error}"));
    // A failure has its `ok` false; without the word it is no answer of an agent's.
    let head = Json::strict(text.as_bytes()).map_err(|why| broken(why.to_string()))?;
    match head.field("ok").map(Json::bytes) {
        Some(b"true") => {
            let answer = serde_json::from_str(&text).map_err(not_json)?;
            Ok((text, answer))
        }
        Some(b"false") => {
            serde_json::from_str(&text).map_err(not_json).and_then(|f: Failed| Err(AskError::Refused(f.error)))
        }
        _ => Err(broken("it does not say whether it is ok".to_owned())),
    }
}

/// Sends the request and reads one line until `until`.
fn exchange(mut stream: UnixStream, request: &Request, until: Instant) -> io::Result<String> {
    let left = || {
        let left = until.saturating_duration_since(Instant::now());
        // Zero would mean for ever.
        if left.is_zero() { Err(io::Error::from(ErrorKind::TimedOut)) } else { Ok(Some(left)) }
    };
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.set_write_timeout(left()?)?;
    match stream.write_all(&line) {
        // Turned away before it was read: the answer says why.
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
        written => written?,
    }
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        stream.set_read_timeout(left()?)?;
        let n = match stream.read(&mut piece) {
            Ok(0) => return Err(io::Error::other("the agent hung up")),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        answer.extend_from_slice(&piece[..n]);
        if let Some(end) = piece[..n].iter().position(|&b| b == b'\n') {
            answer.truncate(answer.len() - n + end);
            return String::from_utf8(answer).map_err(io::Error::other);
        }
        if answer.len() > limits::CONTROL_ANSWER {
            return Err(io::Error::other(format!("it has more than {} bytes", limits::CONTROL_ANSWER)));
        }
    }
}

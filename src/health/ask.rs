//! The command line's side of the socket.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::error::too_long;
use super::socket::SOCKET;
use crate::limits;
use crate::os::clock::Deadline;
use crate::os::local::PATH_MAX;
use crate::os::net;
use crate::wire::http1::{self, BodyLength};

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

/// Asks the agent whose `state.dir` is `dir` for `page`, such as `GET /status`. The answer comes as it was sent, without
/// its line's end, and as what it says; an answer that says why not is [`AskError::Refused`].
pub fn ask<T: DeserializeOwned>(dir: &Path, page: &str) -> Result<(String, T), AskError> {
    let path = dir.join(SOCKET);
    if path.as_os_str().len() > PATH_MAX {
        return Err(AskError::TooLong(path));
    }
    let silent = || AskError::Silent { path: path.clone(), wait: limits::CONTROL_WAIT };
    let broken = |why: String| AskError::Broken { path: path.clone(), why };
    let deadline = || Deadline::after(limits::CONTROL_WAIT, "limits::CONTROL_WAIT");
    let stream = net::unix(&path, deadline()).map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => AskError::Denied(path.clone()),
        ErrorKind::TimedOut => silent(),
        _ => AskError::NoAgent { path: path.clone(), source: Box::new(source) },
    })?;
    let bytes = exchange(stream, page, deadline()).map_err(|error| match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => silent(),
        _ => broken(error.to_string()),
    })?;
    let (status, text) = reply(&bytes).map_err(broken)?;
    if status != 200 {
        return Err(AskError::Refused(text));
    }
    let answer = serde_json::from_str(&text);
    let answer = answer.map_err(|error| broken(format!("it is not the JSON that was expected: {error}")))?;
    Ok((text, answer))
}

/// Sends the request and reads to the end of the connection.
fn exchange(mut stream: UnixStream, page: &str, deadline: Deadline) -> io::Result<Vec<u8>> {
    let left = || deadline.left().ok_or_else(|| io::Error::from(ErrorKind::TimedOut));
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(format!("{page} HTTP/1.1\r\nHost: cronium-agent\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 16 * 1024]);
    loop {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if bytes.len() > limits::CONTROL_ANSWER {
            return Err(io::Error::other(format!("it has more than {} bytes", limits::CONTROL_ANSWER)));
        }
    }
}

/// The status and the text of a whole answer; or why it is none.
pub(super) fn reply(bytes: &[u8]) -> Result<(u16, String), String> {
    if bytes.is_empty() {
        return Err("the agent hung up".to_owned());
    }
    if !bytes.starts_with(b"HTTP/") {
        return Err("it is no HTTP: the agent that runs is of another version than this command; restart it \
                    (`systemctl restart cronium-agent`), or ask it with its own version of the command"
            .to_owned());
    }
    let cut_off = || "the agent hung up in the middle".to_owned();
    let (head, used) = http1::parse_response(bytes).map_err(|error| error.to_string())?.ok_or_else(cut_off)?;
    let length = http1::response_body(&head, false).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&bytes[used..]).map_err(|error| error.to_string())?;
    let is_whole = length == BodyLength::Fixed(text.len() as u64);
    is_whole.then(|| (head.status, text.trim_end().to_owned())).ok_or_else(cut_off)
}

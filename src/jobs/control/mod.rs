//! How an operator asks the running agent what it does and ends a job: a Unix socket in `state.dir`.
//!
//! One line of JSON in, one out. [`start`] opens the socket and gives it a thread; `door` owns the clients and trusts
//! nobody, [`Desk`] answers, [`ask`] is the command line's side. Only the agent's own user and root are let in: by the
//! folder's mode, by the socket's, and by the kernel's word on who connected.

mod answer;
mod ask;
mod door;
pub mod status;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::answer::Desk;
pub use self::ask::{AskError, ask};
use crate::limits;
use crate::os::clock::Deadline;
use crate::os::local::{self, PATH_MAX};
use crate::os::net;
use crate::os::threads::{self, Ended, Thread};

/// The socket's name in `state.dir`.
pub const SOCKET: &str = "control.sock";
/// The same while it is being made; not longer than [`SOCKET`].
const UNFINISHED: &str = "control.new";

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// Answered by a [`status::Status`].
    Status,
    /// Ends a job; answered by a [`Cancelled`].
    Cancel { job: String },
    /// Reads the configuration again; answered at once by a [`ReloadAsked`].
    Reload,
}

/// A reload is on its way: it is over when [`status::Reload::answers`] has come to `request`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReloadAsked {
    /// True.
    pub ok: bool,
    pub request: u64,
}

/// A job that was told to end. It ends on its own time: `status` shows when it has.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Cancelled {
    /// True.
    pub ok: bool,
    pub job: String,
    /// How far it had come, as in [`status::Job::phase`].
    pub phase: String,
}

/// A request that was not carried out.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failed {
    /// False.
    pub ok: bool,
    pub error: String,
}

/// Why the socket could not be opened.
#[derive(Debug)]
pub enum ControlError {
    /// The kernel takes no path as long as this.
    TooLong(PathBuf),
    /// Another agent answers there, or hangs.
    InUse(PathBuf),
    /// Something else has the socket's name.
    NoSocket(PathBuf),
    /// What was tried, on which path, and why it failed.
    Io { tried: &'static str, path: PathBuf, source: io::Error },
    /// The kernel gave no thread or no socket pair.
    Start(io::Error),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(path) => f.write_str(&too_long(path)),
            Self::InUse(path) => write!(
                f,
                "another agent has {}: end it (`cronium-agent status` names it), or give this one a state.dir of its own",
                path.display()
            ),
            Self::NoSocket(path) => {
                write!(f, "{} is no socket: move it away, the agent makes its own there", path.display())
            }
            Self::Io { tried, path, source } => {
                write!(f, "cannot {tried} the control socket {}: {source}", path.display())
            }
            Self::Start(source) => write!(f, "cannot start the control thread: {source}"),
        }
    }
}

impl std::error::Error for ControlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } | Self::Start(source) => Some(source),
            Self::TooLong(_) | Self::InUse(_) | Self::NoSocket(_) => None,
        }
    }
}

/// What is said of a path that does not fit, by the agent and by who asks it.
fn too_long(path: &Path) -> String {
    let bytes = path.as_os_str().len();
    format!(
        "the control socket's path {} has {bytes} bytes, the kernel takes {PATH_MAX}: use a shorter state.dir",
        path.display()
    )
}

/// The running server. Dropping it ends the thread; [`Server::stop`] also waits for it.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    thread: Thread,
    stop: UnixStream,
}

impl Server {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the server within `wait` and takes the socket away. Clients that are still served are cut off.
    pub fn stop(self, wait: Duration) -> Ended {
        drop(self.stop);
        self.thread.join_within(wait)
    }
}

/// Opens `dir/control.sock` and starts the thread `control`. A socket that a dead agent left is replaced.
pub fn start(dir: &Path, desk: Desk) -> Result<Server, ControlError> {
    let path = dir.join(SOCKET);
    let listener = listen(dir, &path)?;
    let (stop, stopped) = UnixStream::pair().map_err(ControlError::Start)?;
    let own = local::own_uid().map_err(ControlError::Start)?;
    let (door, file) = (door::Door { listener, stop: stopped, own }, path.clone());
    let made = fs::symlink_metadata(&path).map(|data| (data.dev(), data.ino()));
    let thread = threads::spawn("control", move || {
        door.serve(&|uid, request| desk.answer(uid, request));
        // What another agent has put there meanwhile is left alone.
        let now = fs::symlink_metadata(&file).map(|data| (data.dev(), data.ino()));
        if matches!((made, now), (Ok(made), Ok(now)) if made == now) {
            let _ = fs::remove_file(&file);
        }
    })
    .map_err(ControlError::Start)?;
    Ok(Server { path, thread, stop })
}

fn listen(dir: &Path, path: &Path) -> Result<UnixListener, ControlError> {
    if path.as_os_str().len() > PATH_MAX {
        return Err(ControlError::TooLong(path.to_owned()));
    }
    let failed = |tried| move |source| ControlError::Io { tried, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at")(error)),
        Ok(data) if !data.file_type().is_socket() => return Err(ControlError::NoSocket(path.to_owned())),
        Ok(_) => match net::unix(path, Deadline::after(limits::CONTROL_WAIT, "limits::CONTROL_WAIT"))
            .map_err(|error| error.kind())
        {
            Ok(_) | Err(io::ErrorKind::TimedOut) => return Err(ControlError::InUse(path.to_owned())),
            Err(_) => log::debug!("{} is of an agent that is gone; replacing it", path.display()),
        },
    }
    // Made beside and renamed: with its mode from the first moment, and never half there.
    let beside = dir.join(UNFINISHED);
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside).map_err(failed("make"))?;
    let ready = fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))
        .and_then(|()| listener.set_nonblocking(true))
        .and_then(|()| fs::rename(&beside, path));
    if let Err(error) = ready {
        let _ = fs::remove_file(&beside);
        return Err(failed("set up")(error));
    }
    Ok(listener)
}

#[cfg(test)]
mod tests;

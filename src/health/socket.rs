//! The Unix socket in `state.dir`: private from its first moment, never another agent's, gone with its own.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::error::Error;
use crate::limits;
use crate::os::clock::Deadline;
use crate::os::{local, net};

/// The socket's name in `state.dir`.
pub const SOCKET: &str = "control.sock";
/// The same while it is being made; not longer than [`SOCKET`].
pub(super) const UNFINISHED: &str = "control.new";

/// The socket. Dropping it removes its file, but not what another agent has put in the file's place.
pub(super) struct PrivateSocket {
    pub(super) listener: UnixListener,
    /// The agent's own user, who is let in beside root.
    pub(super) own: u32,
    path: PathBuf,
    made: Option<(u64, u64)>,
}

impl PrivateSocket {
    pub(super) fn lets_in(&self, uid: u32) -> bool {
        uid == self.own || uid == 0
    }
}

impl Drop for PrivateSocket {
    fn drop(&mut self) {
        if self.made.is_some() && identity(&self.path) == self.made {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|data| (data.dev(), data.ino()))
}

/// Listens at `dir/control.sock`. A socket that a dead agent left is replaced.
pub(super) fn listen(dir: &Path) -> Result<PrivateSocket, Error> {
    let path = &dir.join(SOCKET);
    if path.as_os_str().len() > local::PATH_MAX {
        return Err(Error::TooLong(path.clone()));
    }
    let failed = |tried| move |source| Error::Socket { tried, path: path.clone(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at")(error)),
        Ok(data) if !data.file_type().is_socket() => return Err(Error::NoSocket(path.clone())),
        Ok(_) => match net::unix(path, Deadline::after(limits::CONTROL_WAIT, "limits::CONTROL_WAIT")) {
            Err(error) if !error.is_late() => log::debug!("{}: {error}; its agent is gone", path.display()),
            _ => return Err(Error::InUse(path.clone())),
        },
    }
    let own = local::own_uid().map_err(failed("know the user of"))?;
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
    Ok(PrivateSocket { listener, own, path: path.clone(), made: identity(path) })
}

//! Why a server of the agent's does not start, with what to do.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::os::local::PATH_MAX;

/// Why a server did not start.
#[derive(Debug)]
pub enum Error {
    /// An address cannot be listened on; `key` is the key of the configuration that names the port.
    Listen { key: &'static str, address: SocketAddr, source: io::Error },
    /// The kernel takes no path as long as this.
    TooLong(PathBuf),
    /// Another agent answers there, or hangs.
    InUse(PathBuf),
    /// Something else has the socket's name.
    NoSocket(PathBuf),
    /// What was tried, on which path, and why it failed.
    Socket { tried: &'static str, path: PathBuf, source: io::Error },
    /// The kernel gave no thread or no socket pair.
    Start(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { key, address, source } => {
                write!(f, "cannot listen on {address} ({key}): {source}; ")?;
                match source.kind() {
                    io::ErrorKind::AddrInUse => {
                        write!(f, "another program has this port (`ss -ltnp` names it): end it, or set {key}")
                    }
                    io::ErrorKind::AddrNotAvailable => {
                        f.write_str("this machine has no such address: set monitoring.bindAddress to one that it has")
                    }
                    io::ErrorKind::PermissionDenied => {
                        write!(f, "a port below 1024 needs CAP_NET_BIND_SERVICE: set {key} to a higher one")
                    }
                    _ => write!(f, "set {key} or monitoring.bindAddress, or monitoring.enabled: false"),
                }
            }
            Self::TooLong(path) => f.write_str(&too_long(path)),
            Self::InUse(path) => write!(
                f,
                "another agent has {}: end it (`cronium-agent status` names it), or give this one another state.dir",
                path.display()
            ),
            Self::NoSocket(path) => {
                write!(f, "{} is no socket: move it away, the agent makes its own there", path.display())
            }
            Self::Socket { tried, path, source } => {
                write!(f, "cannot {tried} the control socket {}: {source}", path.display())
            }
            Self::Start(source) => write!(f, "cannot start a server: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. } | Self::Socket { source, .. } | Self::Start(source) => Some(source),
            Self::TooLong(_) | Self::InUse(_) | Self::NoSocket(_) => None,
        }
    }
}

/// What is said of a path that does not fit, by the agent and by who asks it.
pub(super) fn too_long(path: &Path) -> String {
    let bytes = path.as_os_str().len();
    format!(
        "the control socket's path {} has {bytes} bytes, the kernel takes {PATH_MAX}: use a shorter state.dir",
        path.display()
    )
}

//! Requests with a body whose answers may take long, each job's at a Unix socket that comes and goes with the job.
//!
//! The server's thread reads a request whole and hands it to the listener's [`Calls`]. Its [`Answerer`] takes the answer, from
//! any thread. A client holds one of its listener's `limits::HELPER_CONNECTIONS` places until it has
//! its answer; more clients wait in the kernel's queue.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::error::Error;
use super::listener::{Calls, Inbox, Listener, News, Site, Socket};
use super::server::Server;
use crate::os::local;
use crate::os::threads::Ended;

/// A server whose listeners come and go.
#[derive(Debug)]
pub struct CallServer {
    server: Server,
    next: AtomicU64,
}

/// A listener. Dropping it ends it and removes its socket.
#[derive(Debug)]
pub struct CallListener {
    inbox: Inbox,
    id: u64,
    path: PathBuf,
}

impl CallServer {
    /// Starts the thread `name`, without a listener.
    pub fn start(name: &'static str) -> Result<Self, Error> {
        Ok(Self { server: Server::start(name, Vec::new())?, next: AtomicU64::new(1) })
    }

    /// Listens at `path`, in a folder that only those can reach who may call. A socket that stands there is replaced.
    pub fn listen(&self, path: &Path, calls: Arc<dyn Calls>) -> Result<CallListener, Error> {
        if path.as_os_str().len() > local::PATH_MAX {
            return Err(Error::TooLong(path.to_owned()));
        }
        let failed = |tried| move |source| Error::Socket { tried, path: path.to_owned(), source };
        let _ = fs::remove_file(path);
        let listener = UnixListener::bind(path).map_err(failed("make"))?;
        // The script's user is another than the agent's: the folder keeps everybody else away.
        let ready =
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).and_then(|()| listener.set_nonblocking(true));
        ready.map_err(failed("set up"))?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let inbox = self.server.inbox().clone();
        inbox.tell(News::Listen(id, Listener { socket: Socket::Open(listener), site: Site::Calls(calls) }));
        Ok(CallListener { inbox, id, path: path.to_owned() })
    }

    /// Ends the server within `wait`.
    pub fn stop(self, wait: Duration) -> Ended {
        self.server.stop(wait)
    }
}

impl Drop for CallListener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        self.inbox.tell(News::Close(self.id));
    }
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;

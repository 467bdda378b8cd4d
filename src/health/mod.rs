//! The agent's HTTP server: for a supervisor, a load balancer and a Prometheus over TCP, for the operator over a Unix
//! socket in `state.dir`.
//!
//! [`HealthState`] is what the agent's threads write and the probes read. [`start`] serves it and the metrics over TCP:
//! `healthPort` serves all four paths, `metricsPort` only `/metrics`; where both are the same port, one listener serves
//! all. [`start_control`] serves the pages that it is given over the Unix socket, and nothing else can: only the agent's
//! own user and root are let in, by the folder's mode, by the socket's, and by the kernel's word on who connected.
//! [`ask`](ask::ask) is the command line's side of it.

pub mod ask;
mod http;
mod server;
mod socket;
mod state;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::http::reply;
pub use self::http::{Asked, Page, Reply, json, refusal};
use self::server::{Listener, Socket};
pub use self::socket::SOCKET;
pub use self::state::{Component, DetailValue, HealthState, Reason, Status, shortened};
use crate::config::types::Monitoring;
use crate::metrics;
use crate::os::threads::{self, Ended, Thread};
use crate::wire::prometheus;

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
            Self::TooLong(path) => f.write_str(&socket::too_long(path)),
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

/// A running server. Dropping it ends the thread; [`Server::stop`] also waits for it.
#[derive(Debug)]
pub struct Server {
    thread: Thread,
    stop: UnixStream,
}

impl Server {
    fn start(name: &'static str, listeners: Vec<Listener>) -> Result<Self, Error> {
        let (stop, stopped) = UnixStream::pair().map_err(Error::Start)?;
        let thread = threads::spawn(name, move || server::serve(name, &listeners, &stopped)).map_err(Error::Start)?;
        Ok(Self { thread, stop })
    }

    /// Ends the server within `wait` and removes its Unix socket. Clients that are still served are cut off.
    pub fn stop(self, wait: Duration) -> Ended {
        drop(self.stop);
        self.thread.join_within(wait)
    }
}

/// Listens over TCP as `config` says, with the thread `health`; `None` when `monitoring.enabled` is false.
pub fn start(config: &Monitoring, state: &Arc<HealthState>) -> Result<Option<Server>, Error> {
    if config.enabled { Server::start("health", probes(config, state)?).map(Some) } else { Ok(None) }
}

/// Serves `pages` at `dir/control.sock`, with the thread `control`. A socket that a dead agent left is replaced.
pub fn start_control(dir: &Path, pages: Vec<Page>) -> Result<Server, Error> {
    let socket = Socket::Unix(socket::listen(dir)?);
    Server::start("control", vec![Listener { socket, pages }])
}

/// The listeners of probes and scrapes: no other page is ever on TCP.
fn probes(config: &Monitoring, state: &Arc<HealthState>) -> Result<Vec<Listener>, Error> {
    let listen = |port, key| {
        let address = SocketAddr::new(config.bind_address, port);
        let listener = TcpListener::bind(address).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        listener.map(Socket::Tcp).map_err(|source| Error::Listen { key, address, source })
    };
    let (health, ready) = (Arc::clone(state), Arc::clone(state));
    let metrics = || Page::get("/metrics", |_| reply(200, prometheus::CONTENT_TYPE, metrics::render()));
    let pages = vec![
        Page::get("/health", move |_| {
            let (status, text) = health.health(SystemTime::now());
            json(if status == Status::Unhealthy { 503 } else { 200 }, text)
        }),
        Page::get("/ready", move |_| match ready.why_not_ready() {
            None => json(200, r#"{"status":"ready"}"#.to_owned()),
            Some(why) => json(503, serde_json::json!({"status": "not ready", "reason": why}).to_string()),
        }),
        Page::get("/live", |_| json(200, r#"{"status":"alive"}"#.to_owned())),
        metrics(),
    ];
    let mut listeners = vec![Listener { socket: listen(config.health_port, "monitoring.healthPort")?, pages }];
    if config.metrics_port != config.health_port {
        let socket = listen(config.metrics_port, "monitoring.metricsPort")?;
        listeners.push(Listener { socket, pages: vec![metrics()] });
    }
    Ok(listeners)
}

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod tests;

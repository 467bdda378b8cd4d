//! `/health`, `/ready`, `/live` and `/metrics`: what a supervisor, a load balancer and a Prometheus ask.
//!
//! Three parts: the [`Board`] that the agent's threads write to, `answer` that turns a request into bytes, and `door`
//! that owns the sockets and trusts nobody. `healthPort` serves all four paths, `metricsPort` only `/metrics`; where both
//! are the same port, one listener serves all.

mod answer;
mod board;
mod door;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use self::answer::Role;
pub use self::board::{Board, Component, DetailValue, Reason, Status};
use crate::config::types::Monitoring;
use crate::os::threads::{self, Ended, Thread};

/// Why the health server did not start.
#[derive(Debug)]
pub enum Error {
    /// An address cannot be listened on; `key` is the key of the configuration that names the port.
    Listen { key: &'static str, address: SocketAddr, source: io::Error },
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
            Self::Start(source) => write!(f, "cannot start the health server: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. } | Self::Start(source) => Some(source),
        }
    }
}

/// The running server. Dropping it ends the thread; [`Server::stop`] also waits for it.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    thread: Thread,
    stop: UnixStream,
}

impl Server {
    /// Where it listens: `healthPort` first, then `metricsPort` where it is another.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Ends the server within `wait`. Clients that are still served are cut off.
    pub fn stop(self, wait: Duration) -> Ended {
        drop(self.stop);
        self.thread.join_within(wait)
    }
}

/// Listens as `config` says and starts the thread `health`; `None` when `monitoring.enabled` is false.
pub fn start(config: &Monitoring, board: Arc<Board>) -> Result<Option<Server>, Error> {
    if !config.enabled {
        return Ok(None);
    }
    let mut listeners = vec![(listen(config.bind_address, config.health_port, "monitoring.healthPort")?, Role::All)];
    if config.metrics_port != config.health_port {
        let listener = listen(config.bind_address, config.metrics_port, "monitoring.metricsPort")?;
        listeners.push((listener, Role::MetricsOnly));
    }
    let addresses = listeners.iter().map(|(l, _)| l.local_addr()).collect::<Result<_, _>>().map_err(Error::Start)?;
    let (stop, stopped) = UnixStream::pair().map_err(Error::Start)?;
    let door = door::Door { listeners, stop: stopped, board };
    let thread = threads::spawn("health", move || door.serve()).map_err(Error::Start)?;
    Ok(Some(Server { addresses, thread, stop }))
}

fn listen(address: IpAddr, port: u16, key: &'static str) -> Result<TcpListener, Error> {
    let address = SocketAddr::new(address, port);
    let failed = |source| Error::Listen { key, address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests;

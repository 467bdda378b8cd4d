//! The backend's connections, under ureq: names, connects and the way through a proxy are the agent's own, as everywhere
//! (`os::names`, `os::net`, `os::way`); HTTP and TLS stay ureq's.
//!
//! ureq lets its parts be replaced, but does not promise them to a later minor version (docs/decisions/ureq-parts.md).

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, RustlsConnector, Transport, time,
};
use ureq::{Agent, Error, Timeout};

use crate::limits;
use crate::os::clock::{self, Deadline};
use crate::os::{names, net, poll, pulse, way};
use crate::wire::proxy::Proxy;

/// An agent whose connections are made here, through `proxy` if there is one. The limits' names are for errors.
pub(super) fn agent(config: Config, limits: Limits, proxy: Option<Arc<Proxy>>) -> Agent {
    let line = Line { limits, proxy };
    let connector = ().chain(Tcp(line.clone())).chain(RustlsConnector::default());
    Agent::with_parts(config, connector, Names(line))
}

/// How connections are made.
#[derive(Debug, Clone)]
struct Line {
    limits: Limits,
    proxy: Option<Arc<Proxy>>,
}

/// The limits of name and connection, each with its length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) resolve: (Duration, &'static str),
    pub(super) connect: (Duration, &'static str),
}

/// The deadline of `timeout`, asked for at `from`, and its name.
fn deadline(timeout: &NextTimeout, from: Instant, limits: Limits) -> Deadline {
    let left = if timeout.after.is_not_happening() { limits.connect.0 } else { *timeout.after };
    let (length, limit) = match timeout.reason {
        Timeout::Resolve => limits.resolve,
        Timeout::Connect => limits.connect,
        _ => (left, "api.timeout"),
    };
    // The limit may be shorter than what ureq was told.
    Deadline { at: from + left.min(length), limit, length }
}

/// Carried through ureq inside one of its errors; `error::sort` unpacks it.
fn carried(error: way::Error) -> Error {
    Error::Io(io::Error::new(error.kind(), error))
}

/// Host and port of an address.
fn host_and_port(uri: &Uri) -> Result<(&str, u16), Error> {
    let host = uri.host().ok_or(Error::HostNotFound)?.trim_matches(['[', ']']);
    let standard = match uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    Ok((host, uri.port_u16().unwrap_or(standard)))
}

impl Line {
    /// The error of a connect towards `target`, which goes to the proxy first.
    fn unreached(&self, target: (&str, u16), error: net::Error) -> Error {
        carried(match &self.proxy {
            Some(proxy) => way::failed(proxy, target, way::Why::Unreached(error)),
            None => way::Error::Direct(error),
        })
    }
}

/// Looks names up: the backend's, or the proxy's in its place.
#[derive(Debug)]
struct Names(Line);

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let line = &self.0;
        let target = host_and_port(uri)?;
        let (host, port) = line.proxy.as_ref().map_or(target, |proxy| (&proxy.host, proxy.port));
        let deadline = deadline(&timeout, clock::now(), line.limits);
        let found = names::OWN.find(host, port, deadline).map_err(|error| line.unreached(target, error))?;
        let mut addresses = self.empty();
        for address in found.into_iter().take(limits::CONNECT_ADDRESSES) {
            addresses.push(address);
        }
        Ok(addresses)
    }
}

/// Opens sockets.
#[derive(Debug)]
struct Tcp(Line);

impl Connector for Tcp {
    type Out = Socket;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Socket>, Error> {
        let line = &self.0;
        let target = host_and_port(details.uri)?;
        let from = match details.now {
            time::Instant::Exact(at) => at,
            _ => clock::now(),
        };
        let deadline = deadline(&details.timeout, from, line.limits);
        let reached = net::connect(&details.addrs, deadline);
        let mut socket = reached.map_err(|error| line.unreached(target, error))?;
        if let Some(proxy) = &line.proxy {
            socket = way::tunnel(socket, proxy, target, deadline).map_err(carried)?;
        }
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Socket { socket, buffers, connected_by: deadline.at }))
    }
}

/// A connection as ureq uses it: every read and write has a limit.
struct Socket {
    socket: TcpStream,
    buffers: LazyBuffers,
    /// The deadline for TLS, which counts to the connect.
    connected_by: Instant,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.socket).finish()
    }
}

impl Socket {
    /// The deadline of the present exchange.
    fn until(&self, timeout: &NextTimeout) -> Option<Instant> {
        if timeout.after.is_not_happening() {
            return None;
        }
        let until = clock::now() + *timeout.after;
        Some(if timeout.reason == Timeout::Connect { until.min(self.connected_by) } else { until })
    }
}

/// The time left until then, as a socket timeout.
fn left(until: Option<Instant>, reason: Timeout) -> Result<Option<Duration>, Error> {
    pulse::touch();
    let Some(until) = until else { return Ok(None) };
    match until.saturating_duration_since(clock::now()) {
        Duration::ZERO => Err(Error::Timeout(reason)),
        left => Ok(Some(left.max(limits::SOCKET_WAIT_LEAST))),
    }
}

/// Whether a bounded read or write must be repeated; the clock says whether there is time.
fn again(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let until = self.until(&timeout);
        let mut rest = &self.buffers.output()[..amount];
        while !rest.is_empty() {
            self.socket.set_write_timeout(left(until, timeout.reason)?)?;
            match self.socket.write(rest) {
                Ok(0) => return Err(Error::Io(ErrorKind::WriteZero.into())),
                Ok(n) => rest = &rest[n..],
                Err(error) if again(&error) => {}
                Err(error) => return Err(Error::Io(error)),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let until = self.until(&timeout);
        loop {
            self.socket.set_read_timeout(left(until, timeout.reason)?)?;
            match self.socket.read(self.buffers.input_append_buf()) {
                Ok(n) => {
                    self.buffers.input_appended(n);
                    return Ok(n > 0);
                }
                Err(error) if again(&error) => {}
                Err(error) => return Err(Error::Io(error)),
            }
        }
    }

    /// Whether an idle connection is usable: bytes to read would be its end, or unsolicited.
    fn is_open(&mut self) -> bool {
        let mut watch = [poll::Watch::new(self.socket.as_fd(), false)];
        poll::wait(&mut watch, Duration::ZERO).is_ok() && !watch[0].readable()
    }
}

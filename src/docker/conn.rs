//! One connection to the engine: a Unix or TCP socket on which every read and write is bounded.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::config::types::DockerEndpoint;
use crate::docker::error::Error;
use crate::limits;
use crate::os::{clock, pulse};

/// When a call must be over, and the name of the limit that says so.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    pub at: Instant,
    pub limit: &'static str,
    /// The limit's whole length, for messages.
    pub length: Duration,
}

impl Deadline {
    /// `length` from now, called `limit` in errors.
    pub fn after(length: Duration, limit: &'static str) -> Self {
        Self { at: clock::now() + length, limit, length }
    }

    /// The earlier of the two.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    /// What is left; `None` when it has passed.
    pub fn left(&self) -> Option<Duration> {
        let left = self.at.saturating_duration_since(clock::now());
        (!left.is_zero()).then_some(left)
    }
}

/// An open socket.
#[derive(Debug)]
pub enum Conn {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Conn {
    /// Opens the socket. A Unix socket answers at once; TCP is bounded by `limits::DOCKER_CONNECT`.
    pub fn open(endpoint: &DockerEndpoint) -> Result<Self, Error> {
        Self::open_within(endpoint, limits::DOCKER_CONNECT)
    }

    /// The same, with `limit` for each address.
    pub(in crate::docker) fn open_within(endpoint: &DockerEndpoint, limit: Duration) -> Result<Self, Error> {
        pulse::touch();
        let opened = match endpoint {
            DockerEndpoint::Unix(path) => UnixStream::connect(path).map(Conn::Unix),
            DockerEndpoint::Tcp(host, port) => connect_tcp(host, *port, limit).map(Conn::Tcp),
        };
        opened.map_err(|source| Error::Connect { endpoint: endpoint_name(endpoint), source })
    }

    /// Bounds the next reads.
    pub fn set_read_timeout(&self, wait: Duration) -> io::Result<()> {
        let wait = Some(wait.max(limits::SOCKET_WAIT_LEAST));
        match self {
            Self::Unix(s) => s.set_read_timeout(wait),
            Self::Tcp(s) => s.set_read_timeout(wait),
        }
    }

    /// Bounds the next writes.
    pub fn set_write_timeout(&self, wait: Duration) -> io::Result<()> {
        let wait = Some(wait.max(limits::SOCKET_WAIT_LEAST));
        match self {
            Self::Unix(s) => s.set_write_timeout(wait),
            Self::Tcp(s) => s.set_write_timeout(wait),
        }
    }

    /// Tells the engine that nothing more will be written; reading goes on.
    pub fn finish_writing(&self) -> io::Result<()> {
        match self {
            Self::Unix(s) => s.shutdown(Shutdown::Write),
            Self::Tcp(s) => s.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Conn {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        pulse::touch();
        match self {
            Self::Unix(s) => s.read(buf),
            Self::Tcp(s) => s.read(buf),
        }
    }
}

impl Write for Conn {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        pulse::touch();
        match self {
            Self::Unix(s) => s.write(buf),
            Self::Tcp(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The endpoint as the configuration writes it.
pub fn endpoint_name(endpoint: &DockerEndpoint) -> String {
    match endpoint {
        DockerEndpoint::Unix(path) => format!("unix://{}", path.display()),
        DockerEndpoint::Tcp(host, port) => format!("tcp://{host}:{port}"),
    }
}

/// Whether an error of a bounded read or write is only "not yet".
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn connect_tcp(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

//! One connection to the engine: a Unix or TCP socket on which every read and write is bounded.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::config::types::DockerEndpoint;
use crate::docker::error::Error;
use crate::limits;
pub use crate::os::clock::Deadline;
use crate::os::{names, net, pulse};

/// An open socket.
#[derive(Debug)]
pub enum Conn {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Conn {
    /// Opens the socket before `deadline`, and within [`limits::DOCKER_CONNECT`].
    pub fn open(endpoint: &DockerEndpoint, deadline: Deadline) -> Result<Self, Error> {
        pulse::touch();
        let deadline = Deadline::after(limits::DOCKER_CONNECT, "limits::DOCKER_CONNECT").or(deadline);
        let opened = match endpoint {
            DockerEndpoint::Unix(path) => net::unix(path, deadline).map(Conn::Unix),
            DockerEndpoint::Tcp(host, port) => names::OWN.connect(host, *port, deadline).map(Conn::Tcp),
        };
        opened.map_err(|source| Error::Connect { endpoint: endpoint_name(endpoint), source: Box::new(source) })
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

    /// Ends the writing side; reading goes on.
    pub fn finish_writing(&self) -> io::Result<()> {
        match self {
            Self::Unix(s) => s.shutdown(Shutdown::Write),
            Self::Tcp(s) => s.shutdown(Shutdown::Write),
        }
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(s) => s.as_fd(),
            Self::Tcp(s) => s.as_fd(),
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

/// Whether an error of a bounded read or write means "not yet".
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

//! One connection to the engine: a Unix or TCP socket, or TLS on one, on which every read and write is bounded.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::config::types::{Docker, DockerEndpoint};
use crate::docker::error::Error;
use crate::docker::tls::{self, TlsStream};
use crate::limits;
pub use crate::os::clock::Deadline;
use crate::os::{names, net, pulse};

/// Where the engine is, and how it is spoken to.
#[derive(Debug)]
pub struct Place {
    pub endpoint: DockerEndpoint,
    /// None: without TLS. An error: its files cannot be used.
    tls: Option<Result<Arc<ClientConfig>, tls::Problem>>,
}

impl Place {
    /// Reads the files of `container.docker.certPath`, if TLS is wanted. What is wrong with them is the error of each call.
    pub fn new(docker: &Docker) -> Self {
        let wanted = docker.tls_verify && matches!(docker.endpoint, DockerEndpoint::Tcp(..));
        let files = docker.cert_path.clone().unwrap_or_default();
        Self { endpoint: docker.endpoint.clone(), tls: wanted.then(|| tls::config(&files)) }
    }

    /// As the configuration writes it.
    pub fn name(&self) -> String {
        endpoint_name(&self.endpoint)
    }

    fn no_tls(&self, problem: &dyn std::fmt::Display) -> Error {
        Error::Tls { endpoint: self.name(), why: problem.to_string() }
    }
}

/// An open socket.
#[derive(Debug)]
pub enum Conn {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(TlsStream),
}

impl Conn {
    /// Opens the socket before `deadline`, and within [`limits::DOCKER_CONNECT`].
    pub fn open(place: &Place, deadline: Deadline) -> Result<Self, Error> {
        pulse::touch();
        let config = match &place.tls {
            None => None,
            Some(Ok(config)) => Some(Arc::clone(config)),
            Some(Err(problem)) => return Err(place.no_tls(problem)),
        };
        let deadline = Deadline::after(limits::DOCKER_CONNECT, "limits::DOCKER_CONNECT").or(deadline);
        let unreached = |source| Error::Connect { endpoint: place.name(), source: Box::new(source) };
        let (host, port) = match &place.endpoint {
            DockerEndpoint::Unix(path) => return net::unix(path, deadline).map(Conn::Unix).map_err(unreached),
            DockerEndpoint::Tcp(host, port) => (host, *port),
        };
        let tcp = names::OWN.connect(host, port, deadline).map_err(unreached)?;
        match config {
            None => Ok(Conn::Tcp(tcp)),
            Some(config) => {
                TlsStream::open(tcp, config, host, deadline).map(Conn::Tls).map_err(|problem| place.no_tls(&problem))
            }
        }
    }

    /// Bounds the next reads.
    pub fn set_read_timeout(&self, wait: Duration) -> io::Result<()> {
        let wait = Some(wait.max(limits::SOCKET_WAIT_LEAST));
        match self {
            Self::Unix(s) => s.set_read_timeout(wait),
            Self::Tcp(s) | Self::Tls(TlsStream { tcp: s, .. }) => s.set_read_timeout(wait),
        }
    }

    /// Bounds the next writes.
    pub fn set_write_timeout(&self, wait: Duration) -> io::Result<()> {
        let wait = Some(wait.max(limits::SOCKET_WAIT_LEAST));
        match self {
            Self::Unix(s) => s.set_write_timeout(wait),
            Self::Tcp(s) | Self::Tls(TlsStream { tcp: s, .. }) => s.set_write_timeout(wait),
        }
    }

    /// Ends the writing side; reading goes on.
    pub fn finish_writing(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(s) => s.shutdown(Shutdown::Write),
            Self::Tcp(s) => s.shutdown(Shutdown::Write),
            Self::Tls(s) => s.finish_writing(),
        }
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(s) => s.as_fd(),
            Self::Tcp(s) | Self::Tls(TlsStream { tcp: s, .. }) => s.as_fd(),
        }
    }
}

impl Read for Conn {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        pulse::touch();
        match self {
            Self::Unix(s) => s.read(buf),
            Self::Tcp(s) => s.read(buf),
            Self::Tls(s) => s.read(buf),
        }
    }
}

impl Write for Conn {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        pulse::touch();
        match self {
            Self::Unix(s) => s.write(buf),
            Self::Tcp(s) => s.write(buf),
            Self::Tls(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn endpoint_name(endpoint: &DockerEndpoint) -> String {
    match endpoint {
        DockerEndpoint::Unix(path) => format!("unix://{}", path.display()),
        DockerEndpoint::Tcp(host, port) => format!("tcp://{host}:{port}"),
    }
}

/// Whether an error of a bounded read or write means "not yet".
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

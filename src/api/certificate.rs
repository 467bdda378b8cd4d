//! The backend's certificates, for `doctor`: a separate handshake that sends no request, and the received chain.
//!
//! It trusts as every call does: its TLS configuration is the live log's, made from the same keys. For a chain that is not
//! accepted there is only the library's error; the chain itself cannot be read without trusting it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::os::clock::{self, Deadline};
use crate::os::{net, way};
use crate::wire::proxy::Proxy;
use crate::wire::x509::{self, Certificate};

/// The result of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Such as `TLSv1_3`.
    pub protocol: String,
    /// In the backend's order, its own first; unreadable ones are left out.
    pub certificates: Vec<Certificate>,
    /// The number of certificates that it sent.
    pub sent: usize,
}

/// Why there is no chain.
#[derive(Debug)]
pub enum Error {
    /// The host is not a name that a certificate can have.
    Name(String),
    /// No TCP connection.
    Connect(way::Error),
    /// The handshake took too long.
    Timeout(Duration),
    /// The handshake failed, with the library's message.
    Handshake(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(why) => write!(f, "the host of api.endpoint is no name for TLS: {why}"),
            Self::Connect(error) => write!(f, "no connection: {error}; {}", error.advice("api.endpoint")),
            Self::Timeout(limit) => write!(f, "no handshake within {limit:?} (limits::DOCTOR_TLS)"),
            Self::Handshake(why) => write!(f, "no TLS connection: {why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            _ => None,
        }
    }
}

/// Where the backend is for a handshake.
#[derive(Debug, Clone, Copy)]
pub enum At<'a> {
    /// At the first of these addresses that answers.
    Addresses(&'a [SocketAddr]),
    /// At this port behind a proxy.
    Behind(&'a Proxy, u16),
}

/// Makes the handshake with `host`, within `limit`, which is [`limits::DOCTOR_TLS`].
pub fn look(config: Arc<ClientConfig>, host: &str, at: At<'_>, limit: Duration) -> Result<Chain, Error> {
    let deadline = Deadline::after(limit, "limits::DOCTOR_TLS");
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Error::Name(error.to_string()))?;
    let mut tls = ClientConnection::new(config, name).map_err(|error| Error::Handshake(error.to_string()))?;
    let tcp = match at {
        At::Addresses(addresses) => net::connect(addresses, deadline).map_err(way::Error::Direct),
        At::Behind(proxy, port) => way::connect(Some(proxy), (host, port), deadline),
    };
    let tcp = tcp.map_err(Error::Connect)?;
    while tls.is_handshaking() {
        step(&mut tls, &tcp, (deadline.at, limit))?;
    }
    let sent = tls.peer_certificates().unwrap_or_default();
    Ok(Chain {
        protocol: tls.protocol_version().map_or_else(|| "TLS".to_owned(), |version| format!("{version:?}")),
        certificates: sent.iter().filter_map(|der| x509::parse(der)).collect(),
        sent: sent.len(),
    })
}

/// One step of the handshake, within the limit.
fn step(tls: &mut ClientConnection, tcp: &TcpStream, (until, limit): (Instant, Duration)) -> Result<(), Error> {
    let left = until.saturating_duration_since(clock::now());
    if left.is_zero() {
        return Err(Error::Timeout(limit));
    }
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(limit),
        _ => Error::Handshake(error.to_string()),
    };
    tcp.set_read_timeout(Some(left)).and_then(|()| tcp.set_write_timeout(Some(left))).map_err(failed)?;
    let (mut from, mut to): (&TcpStream, &TcpStream) = (tcp, tcp);
    if tls.wants_write() {
        tls.write_tls(&mut to as &mut dyn Write).map_err(failed)?;
        return Ok(());
    }
    if tls.read_tls(&mut from as &mut dyn Read).map_err(failed)? == 0 {
        return Err(Error::Handshake(
            "the other side closed the connection; does it speak TLS on this port?".to_owned(),
        ));
    }
    match tls.process_new_packets() {
        Ok(_) => Ok(()),
        Err(error) => {
            // Sends the alert, so that the other side's log has the reason.
            let _ = tls.write_tls(&mut to as &mut dyn Write);
            Err(Error::Handshake(error.to_string()))
        }
    }
}

//! TLS to an engine on another host: `ca.pem`, `cert.pem` and `key.pem` of `container.docker.certPath`, as for the docker
//! command.
//!
//! The session lies over a blocking socket whose reads and writes are bounded, as on other sockets. A hijacked stream is
//! half-closed by `close_notify`, which the engine takes for the end of stdin. An end of the connection without one is an
//! error and no end: somebody on the way may have cut it.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::limits;
use crate::os::clock::Deadline;
use crate::os::pulse;

/// Why there is no TLS to the engine.
#[derive(Debug)]
pub enum Problem {
    /// A file could not be read, or holds no such PEM section.
    File { path: PathBuf, source: pem::Error },
    /// A file holds no certificate.
    Empty(PathBuf),
    /// `cert.pem` and `key.pem` do not make a client certificate, or only one is there.
    Client(PathBuf, Option<rustls::Error>),
    /// The library takes neither the authority nor the host's name.
    Library(String),
    /// The engine closed the connection in the handshake.
    Closed,
    /// The handshake took too long.
    Late(Deadline),
    /// The connection broke, or the other side is not the engine.
    Handshake(io::Error),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, source } => {
                write!(f, "cannot read PEM from {}: {source}; see container.docker.certPath", path.display())
            }
            Self::Empty(path) => write!(f, "{} holds no certificate in PEM form", path.display()),
            Self::Client(dir, Some(source)) => {
                let dir = dir.display();
                write!(
                    f,
                    "cert.pem and key.pem in {dir} do not make a client certificate: {source}; do they belong together?"
                )
            }
            Self::Client(dir, None) => {
                write!(f, "cert.pem and key.pem go together, and only one of them is in {}", dir.display())
            }
            Self::Library(why) => write!(f, "TLS cannot be set up: {why}"),
            Self::Closed => {
                f.write_str("the other side closed the connection; does the engine speak TLS on this port?")
            }
            Self::Late(Deadline { length, limit, .. }) => write!(f, "no handshake within {length:?} ({limit})"),
            Self::Handshake(source) => source.fmt(f),
        }
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Client(_, Some(source)) => Some(source),
            Self::Handshake(source) => Some(source),
            _ => None,
        }
    }
}

/// The client side of TLS with the files in `dir`. Only the authorities of `ca.pem` may vouch for the engine. Without
/// `cert.pem` and `key.pem` there is no client certificate.
pub fn config(dir: &Path) -> Result<Arc<ClientConfig>, Problem> {
    let file = |name: &str| dir.join(name);
    let mut roots = RootCertStore::empty();
    for authority in certificates(file("ca.pem"))? {
        roots.add(authority).map_err(|error| Problem::Library(format!("{}: {error}", file("ca.pem").display())))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Problem::Library(error.to_string()))?
        .with_root_certificates(roots);
    let config = match (file("cert.pem").exists(), file("key.pem").exists()) {
        (true, true) => {
            let chain = certificates(file("cert.pem"))?;
            let key = PrivateKeyDer::from_pem_file(file("key.pem"));
            let key = key.map_err(|source| Problem::File { path: file("key.pem"), source })?;
            builder.with_client_auth_cert(chain, key).map_err(|e| Problem::Client(dir.to_owned(), Some(e)))?
        }
        (false, false) => builder.with_no_client_auth(),
        _ => return Err(Problem::Client(dir.to_owned(), None)),
    };
    Ok(Arc::new(config))
}

fn certificates(path: PathBuf) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if found.is_empty() => Err(Problem::Empty(path)),
        Ok(found) => Ok(found),
        Err(source) => Err(Problem::File { path, source }),
    }
}

/// A connection inside TLS.
pub struct TlsStream {
    pub(super) tcp: TcpStream,
    session: Box<ClientConnection>,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsStream").field(&self.tcp).finish()
    }
}

impl TlsStream {
    /// Makes the handshake over `tcp` with `host`, before the deadline.
    pub fn open(tcp: TcpStream, config: Arc<ClientConfig>, host: &str, deadline: Deadline) -> Result<Self, Problem> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| Problem::Library(error.to_string()))?;
        let session = ClientConnection::new(config, name).map_err(|error| Problem::Library(error.to_string()))?;
        let mut stream = Self { tcp, session: Box::new(session) };
        while stream.session.is_handshaking() || stream.session.wants_write() {
            pulse::touch();
            let left = deadline.left().ok_or(Problem::Late(deadline))?.max(limits::SOCKET_WAIT_LEAST);
            let bounded = stream.tcp.set_read_timeout(Some(left)).and(stream.tcp.set_write_timeout(Some(left)));
            bounded.map_err(Problem::Handshake)?;
            let step = match stream.session.wants_write() {
                true => stream.session.write_tls(&mut stream.tcp),
                false => stream.receive(),
            };
            match step {
                Ok(0) => return Err(Problem::Closed),
                Ok(_) => {}
                Err(error) if is_later(&error) => {}
                Err(error) => return Err(Problem::Handshake(error)),
            }
        }
        Ok(stream)
    }

    /// One read of the socket: the count of its bytes.
    fn receive(&mut self) -> io::Result<usize> {
        let count = self.session.read_tls(&mut self.tcp)?;
        if let Err(error) = self.session.process_new_packets() {
            // Sends the alert, so that the engine's log has the reason.
            let _ = self.session.write_tls(&mut self.tcp);
            return Err(io::Error::new(ErrorKind::InvalidData, Broken(error)));
        }
        Ok(count)
    }

    /// Sends what the session has made.
    fn push(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.tcp) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the writing side; reading goes on.
    pub fn finish_writing(&mut self) -> io::Result<()> {
        self.session.send_close_notify();
        self.push()
    }
}

/// Whether a bounded read or write must be repeated.
fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl Read for TlsStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    let what = "it ended without the end of TLS (close_notify): it was cut";
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, what));
                }
                done => return done,
            }
            if let Err(error) = self.push()
                && !is_later(&error)
            {
                return Err(error);
            }
            self.receive()?;
        }
    }
}

impl Write for TlsStream {
    /// Takes bytes only when all before have left, so that an error of a bounded write means that none was taken.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.push()?;
        let taken = self.session.writer().write(buf)?;
        match self.push() {
            Err(error) if !is_later(&error) => Err(error),
            // What is left goes before the next bytes, in either direction.
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()
    }
}

/// An error of TLS, with what to do.
#[derive(Debug)]
struct Broken(rustls::Error);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use rustls::{AlertDescription as Alert, CertificateError as C, Error as E};
        let advice = match &self.0 {
            E::InvalidCertificate(C::UnknownIssuer) => {
                "another authority than that of ca.pem in container.docker.certPath signed the engine's certificate"
            }
            E::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
                "renew the engine's certificate, or check this host's clock"
            }
            E::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
                "check this host's clock and the engine's certificate"
            }
            E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
                "the engine's certificate is for another name than container.docker.endpoint has: use one of its names, or \
                 make one with this name (subjectAltName)"
            }
            E::InvalidCertificate(_) => "look at the engine's certificate (openssl s_client)",
            E::AlertReceived(
                Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnknownCA
                | Alert::CertificateUnknown
                | Alert::CertificateExpired
                | Alert::HandshakeFailure
                | Alert::AccessDenied,
            ) => "the engine did not accept our certificate: check cert.pem and key.pem in container.docker.certPath",
            E::InvalidMessage(_) => "the engine may speak plain HTTP on this port",
            _ => return self.0.fmt(f),
        };
        write!(f, "{}; {advice}", self.0)
    }
}

impl std::error::Error for Broken {}

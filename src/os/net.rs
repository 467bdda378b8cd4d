//! Every connection of the agent starts here: to engine, backend, live log, servers, and its control socket.
//!
//! A connect has one deadline, from the name to the first address that answers. Addresses are tried in turn, each a moment
//! after the last (RFC 8305), and all that have not failed are awaited together: an address that swallows packets costs
//! that moment. A connect to a Unix socket whose listener accepts nothing ends at the deadline too; the kernel would wait
//! forever. A tidy test forbids connects elsewhere.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::clock::{self, Deadline};
use super::poll::{self, Watch};
use crate::limits;

/// Why there is no connection. The text says what was tried and which limit passed; the caller adds what to do.
#[derive(Debug)]
pub enum Error {
    /// The resolver gave no address.
    Name { host: String, source: io::Error },
    /// The resolver did not answer in time.
    NameLate { host: String, deadline: Deadline },
    /// The resolver was not asked: that many lookups (a number and its name) wait for it already.
    NameBusy { host: String, most: (usize, &'static str), deadline: Deadline },
    /// All addresses failed.
    Tcp(Vec<(SocketAddr, io::Error)>),
    /// Some had not answered at the deadline; the others had failed.
    TcpLate { silent: Vec<SocketAddr>, failed: Vec<(SocketAddr, io::Error)>, deadline: Deadline },
    /// The Unix socket cannot be connected to.
    Unix(io::Error),
    /// Its listener accepted no connection.
    UnixLate(Deadline),
    /// Nobody waits for the connection any more.
    Unwanted,
}

impl Error {
    /// Whether a time limit passed.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::NameLate { .. } | Self::NameBusy { .. } | Self::TcpLate { .. } | Self::UnixLate(_))
    }

    /// The error of the last address.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Name { source, .. } | Self::Unix(source) => source.kind(),
            Self::Tcp(failed) => failed.last().map_or(io::ErrorKind::NotFound, |(_, error)| error.kind()),
            _ => io::ErrorKind::TimedOut,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { host, source } => write!(f, "{host} has no address: {source}"),
            Self::NameLate { host, deadline: Deadline { length, limit, .. } } => {
                write!(f, "the resolver did not answer for {host} within {length:?} ({limit}); see /etc/resolv.conf")
            }
            Self::NameBusy { host, most: (most, name), deadline: Deadline { length, limit, .. } } => write!(
                f,
                "{most} lookups ({name}) wait for the resolver, and {host} had no turn within {length:?} ({limit}); see \
                 /etc/resolv.conf"
            ),
            Self::Tcp(failed) if failed.is_empty() => f.write_str("there is no address to connect to"),
            Self::Tcp(failed) => f.write_str(&told(failed)),
            Self::TcpLate { silent, failed, deadline: Deadline { length, limit, .. } } => {
                let silent: Vec<String> = silent.iter().map(SocketAddr::to_string).collect();
                let silent = if silent.is_empty() { "any address".to_owned() } else { silent.join(" and ") };
                write!(f, "no answer from {silent} within {length:?} ({limit})")?;
                if failed.is_empty() { Ok(()) } else { write!(f, "; {}", told(failed)) }
            }
            Self::Unix(source) => source.fmt(f),
            Self::Unwanted => f.write_str("it is not wanted any more"),
            Self::UnixLate(Deadline { length, limit, .. }) => {
                write!(f, "its queue was full and no connection was taken within {length:?} ({limit})")
            }
        }
    }
}

fn told(failed: &[(SocketAddr, io::Error)]) -> String {
    failed.iter().map(|(address, error)| format!("{address}: {error}")).collect::<Vec<_>>().join("; ")
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Name { source, .. } | Self::Unix(source) => Some(source),
            Self::Tcp(failed) | Self::TcpLate { failed, .. } => failed.last().map(|(_, error)| error as _),
            _ => None,
        }
    }
}

/// Connects to the first of `addresses` that answers. The socket sends each write at once.
pub fn connect(addresses: &[SocketAddr], deadline: Deadline) -> Result<TcpStream, Error> {
    connect_while(addresses, deadline, &|| true)
}

/// The same for as long as it is wanted, which is asked each [`limits::STOP_CHECK`].
pub fn connect_while(
    addresses: &[SocketAddr],
    deadline: Deadline,
    wanted: &dyn Fn() -> bool,
) -> Result<TcpStream, Error> {
    let mut next = addresses.iter().copied().take(limits::CONNECT_ADDRESSES).peekable();
    let mut next_at = clock::now();
    let mut open: Vec<(SocketAddr, TcpStream)> = Vec::new();
    let mut failed = Vec::new();
    loop {
        if !wanted() {
            return Err(Error::Unwanted);
        }
        let Some(left) = deadline.left() else {
            let silent = open.into_iter().map(|(address, _)| address).chain(next).collect();
            return Err(Error::TcpLate { silent, failed, deadline });
        };
        let pause = next_at.saturating_duration_since(clock::now());
        if (pause.is_zero() || open.is_empty())
            && let Some(address) = next.next()
        {
            match begin(address) {
                Ok(tcp) => open.push((address, tcp)),
                Err(error) => failed.push((address, error)),
            }
            next_at = clock::now() + limits::CONNECT_STAGGER;
            continue;
        }
        if open.is_empty() {
            return Err(Error::Tcp(failed));
        }
        let wait = if next.peek().is_some() { left.min(pause) } else { left };
        let mut watches: Vec<Watch<'_>> = open.iter().map(|(_, tcp)| Watch::new(tcp.as_fd(), true)).collect();
        let waited = poll::wait(&mut watches, wait.min(limits::STOP_CHECK));
        let ready: Vec<usize> = (0..open.len()).filter(|&at| watches[at].writable()).collect();
        if let Err(error) = waited {
            failed.push((open[0].0, error));
            return Err(Error::Tcp(failed));
        }
        // From the back, so that the places before it stay.
        for at in ready.into_iter().rev() {
            let (address, tcp) = open.remove(at);
            match finish(&tcp) {
                Ok(()) => return Ok(tcp),
                Err(error) => failed.push((address, error)),
            }
            next_at = clock::now();
        }
    }
}

/// Whether the address is this host's own: only such a one can be bound.
pub fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Starts to connect, without waiting.
fn begin(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = socket(family, libc::SOCK_NONBLOCK)?;
    let begun = match address {
        SocketAddr::V4(address) => {
            let raw = libc::sockaddr_in {
                sin_family: family_of(family),
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            call_connect(&socket, &raw, size_of_val(&raw))
        }
        SocketAddr::V6(address) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: family_of(family),
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            call_connect(&socket, &raw, size_of_val(&raw))
        }
    };
    match begun {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// The result of a connect whose socket is ready.
fn finish(tcp: &TcpStream) -> io::Result<()> {
    if let Some(error) = tcp.take_error()? {
        return Err(error);
    }
    tcp.set_nodelay(true)?;
    tcp.set_nonblocking(false)
}

/// Connects to the Unix socket at `path`.
pub fn unix(path: &Path, deadline: Deadline) -> Result<UnixStream, Error> {
    let address = unix_address(path).map_err(Error::Unix)?;
    let socket: UnixStream = socket(libc::AF_UNIX, 0).map_err(Error::Unix)?.into();
    loop {
        // The kernel keeps to this time also while it waits for room in the listener's queue.
        let left = deadline.left().ok_or(Error::UnixLate(deadline))?.max(limits::SOCKET_WAIT_LEAST);
        socket.set_write_timeout(Some(left)).map_err(Error::Unix)?;
        match call_connect(&socket, &address, size_of_val(&address)) {
            Ok(()) => break,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(Error::Unix(error)),
        }
    }
    socket.set_write_timeout(None).map_err(Error::Unix)?;
    Ok(socket)
}

fn unix_address(path: &Path) -> io::Result<libc::sockaddr_un> {
    let mut address = libc::sockaddr_un { sun_family: family_of(libc::AF_UNIX), sun_path: [0; 108] };
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= address.sun_path.len() {
        let what = format!("the kernel takes a socket's path of 1 to {} bytes, none of them 0", super::local::PATH_MAX);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(address)
}

fn family_of(family: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).unwrap_or_default()
}

fn socket(family: libc::c_int, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes three numbers.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is open and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One `connect(2)`. `address` is one of libc's `sockaddr_…`, of `length` bytes.
fn call_connect<A>(socket: &impl AsRawFd, address: &A, length: usize) -> io::Result<()> {
    let length = libc::socklen_t::try_from(length.min(size_of::<A>())).unwrap_or_default();
    // SAFETY: pointer and length describe `address`, which outlives the call and is only read; the kernel checks what is
    // in it. The descriptor is open for as long as `socket` is borrowed.
    let result = unsafe { libc::connect(socket.as_raw_fd(), std::ptr::from_ref(address).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[path = "net_tests.rs"]
pub(crate) mod tests;

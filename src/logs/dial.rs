//! From an address to a WebSocket: resolve, connect, TLS, upgrade. Each step is bounded, and a shutdown ends all at once.
//!
//! The upgrade is written here and not by tungstenite's client, which refuses a server without a subprotocol, such as
//! today's backend, and logs the request with its token at trace level.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tungstenite::handshake::client::{Response, generate_key};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::Uri;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use super::encode::{Dialect, SUBPROTOCOL};
use super::error::LinkError;
use super::shared::Shared;
use super::socket::Socket;
use crate::limits::{self, LOG_CONNECT, LOG_FRAME_BYTES, LOG_HANDSHAKE, LOG_HANDSHAKE_BYTES, LOG_SERVER_MESSAGE_BYTES};
use crate::os::clock::Deadline;
use crate::os::{net, poll, pulse, threads, way};
use crate::wire::proxy::Proxy;

/// The live log's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub secure: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// As in the `Host` header.
    pub authority: String,
    pub path: String,
    /// For people: without user, password and query.
    pub shown: String,
}

impl Target {
    /// Reads a `ws://` or `wss://` URL; the error is a sentence.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|e| format!("api.wsEndpoint is no URL: {e}"))?;
        let secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err("api.wsEndpoint must start with ws:// or wss://".to_owned()),
        };
        let bare = uri.host().filter(|h| !h.is_empty()).ok_or("api.wsEndpoint names no host")?;
        let port = uri.port_u16();
        // The parser treats an invalid port as no port.
        let behind_host = uri.authority().and_then(|all| all.as_str().rsplit(bare).next());
        if port.is_none() && behind_host.is_some_and(|rest| !rest.is_empty()) {
            return Err("api.wsEndpoint has a port that is no number from 1 to 65535".to_owned());
        }
        let authority = port.map_or_else(|| bare.to_owned(), |port| format!("{bare}:{port}"));
        let scheme = if secure { "wss" } else { "ws" };
        Ok(Self {
            secure,
            host: bare.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: port.unwrap_or(if secure { 443 } else { 80 }),
            shown: format!("{scheme}://{authority}{}", uri.path()),
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
            authority,
        })
    }
}

/// Makes connections.
#[derive(Debug)]
pub(super) struct Dialer {
    target: Target,
    tls: Option<Arc<ClientConfig>>,
    proxy: Option<Arc<Proxy>>,
    /// Resolving and connecting, and then TLS and the upgrade.
    pub connect_wait: Duration,
    pub handshake_wait: Duration,
}

impl Dialer {
    /// `tls` must be given for a secure target.
    pub(super) fn new(target: Target, tls: Option<Arc<ClientConfig>>, proxy: Option<Proxy>) -> Self {
        Self { target, tls, proxy: proxy.map(Arc::new), connect_wait: LOG_CONNECT, handshake_wait: LOG_HANDSHAKE }
    }

    /// One try, bounded by `LOG_CONNECT` and `LOG_HANDSHAKE`.
    pub(super) fn connect(&self, shared: &Shared) -> Result<(WebSocket<Socket>, Dialect), LinkError> {
        let tcp = self.reach(shared)?;
        tcp.set_nonblocking(true)?;
        let tls = match &self.tls {
            Some(config) => {
                let name = ServerName::try_from(self.target.host.clone())
                    .map_err(|e| LinkError::Handshake(format!("{:?} is no name for TLS: {e}", self.target.host)))?;
                let made = ClientConnection::new(Arc::clone(config), name);
                Some(made.map_err(|e| LinkError::Handshake(e.to_string()))?)
            }
            None => None,
        };
        self.upgrade(Socket::new(tcp, tls), shared)
    }

    /// Resolves and connects on a thread, so that a shutdown does not wait for it. The thread ends by its deadline.
    fn reach(&self, shared: &Shared) -> Result<TcpStream, LinkError> {
        let target = &self.target;
        let unreachable =
            |error| LinkError::Unreachable { authority: target.authority.clone(), source: Box::new(error) };
        let deadline = Deadline::after(self.connect_wait, "limits::LOG_CONNECT");
        let (sender, receiver) = sync_channel(1);
        let (host, port, waker) = (target.host.clone(), target.port, shared.waker.clone());
        let proxy = self.proxy.clone();
        threads::spawn("log-connect", move || {
            // After a stop there is no receiver.
            let _ = sender.send(way::connect(proxy.as_deref(), (&host, port), deadline));
            waker.wake();
        })?;
        loop {
            shared.waker.take();
            if let Ok(reached) = receiver.try_recv() {
                return reached.map_err(unreachable);
            }
            if shared.stopping() {
                return Err(LinkError::Stopped);
            }
            let Some(left) = deadline.left() else {
                // The thread's deadline has passed too, and it knows the silent address.
                let word = receiver.recv_timeout(limits::STOP_CHECK);
                return word
                    .unwrap_or_else(|_| {
                        let host = self.proxy.as_ref().map_or(&target.host, |proxy| &proxy.host).clone();
                        Err(way::Error::Direct(net::Error::NameLate { host, deadline }))
                    })
                    .map_err(unreachable);
            };
            poll::wait(&mut [shared.waker.watch()], left)?;
        }
    }

    /// TLS, which the socket does by itself, and the upgrade (RFC 6455, section 4.1).
    fn upgrade(&self, mut socket: Socket, shared: &Shared) -> Result<(WebSocket<Socket>, Dialect), LinkError> {
        let until = Instant::now() + self.handshake_wait;
        let key = generate_key();
        let settings = &shared.settings;
        let token = settings.token.now();
        write!(
            socket,
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\nAuthorization: Bearer {}\r\n\
             X-Orchestrator-ID: {}\r\nX-Service-Name: cronium-agent\r\nX-Service-Version: {}\r\n\r\n",
            self.target.path,
            self.target.authority,
            token.expose(),
            settings.orchestrator_id,
            settings.version,
        )?;
        let mut head = Vec::new();
        let mut chunk = [0; 2048];
        loop {
            pulse::touch();
            if shared.stopping() {
                return Err(LinkError::Stopped);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LinkError::HandshakeTimeout(self.handshake_wait));
            }
            socket.push()?;
            match socket.read(&mut chunk) {
                Ok(0) => return Err(LinkError::Closed(Some("in the middle of the handshake".to_owned()))),
                Ok(n) => head.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    poll::wait(&mut [socket.watch(), shared.waker.watch()], left)?;
                    shared.waker.take();
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            }
            if let Some((length, answer)) =
                Response::try_parse(&head).map_err(|e| LinkError::Handshake(e.to_string()))?
            {
                let dialect = judge(&answer, &key)?;
                return Ok((websocket(socket, head.split_off(length)), dialect));
            }
            if head.len() > LOG_HANDSHAKE_BYTES {
                return Err(LinkError::Handshake(format!("its head is over {LOG_HANDSHAKE_BYTES} bytes")));
            }
        }
    }
}

/// The WebSocket on a socket; `read` arrived behind the upgrade.
pub(super) fn websocket(socket: Socket, read: Vec<u8>) -> WebSocket<Socket> {
    let config = WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .write_buffer_size(0)
        .max_frame_size(Some(LOG_FRAME_BYTES))
        .max_message_size(Some(LOG_SERVER_MESSAGE_BYTES));
    WebSocket::from_partially_read(socket, read, Role::Client, Some(config))
}

/// Checks that the answer is an upgrade for our key; returns the dialect.
fn judge(answer: &Response, key: &str) -> Result<Dialect, LinkError> {
    if answer.status().as_u16() != 101 {
        return Err(LinkError::Refused(answer.status().as_u16()));
    }
    let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let has = |name: &str, token: &str| {
        header(name).is_some_and(|v| v.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    if !has("upgrade", "websocket") || !has("connection", "upgrade") {
        return Err(LinkError::Handshake("no Upgrade: websocket in it".to_owned()));
    }
    if header("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(LinkError::Handshake("its Sec-WebSocket-Accept does not belong to our key".to_owned()));
    }
    match header("sec-websocket-protocol") {
        None | Some("") => Ok(Dialect::Lines),
        Some(SUBPROTOCOL) => Ok(Dialect::V2),
        Some(other) => Err(LinkError::Handshake(format!("it answers the subprotocol {other:?}, which we do not know"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let t = Target::parse("wss://me:hunter2@example.org/api/internal/socket?key=hunter2").expect("a URL");
        assert_eq!((t.secure, t.host.as_str(), t.port), (true, "example.org", 443));
        assert_eq!((t.authority.as_str(), t.shown.as_str()), ("example.org", "wss://example.org/api/internal/socket"));
        assert_eq!(t.path, "/api/internal/socket?key=hunter2");
        let t = Target::parse("ws://[::1]:5001").expect("a URL");
        assert_eq!((t.host.as_str(), t.port, t.authority.as_str(), t.path.as_str()), ("::1", 5001, "[::1]:5001", "/"));
        for bad in ["http://a/", "ws://", "", "ws:///x", "a b", "ws://a:99999/"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers() {
        let accept = derive_accept_key(b"k");
        let good =
            format!("Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n");
        let judged = |head: String| {
            let (_, answer) = Response::try_parse(head.as_bytes()).expect("sound").expect("whole");
            judge(&answer, "k").map_err(|e| e.to_string())
        };
        assert_eq!(judged(format!("HTTP/1.1 101 x\r\n{good}\r\n")), Ok(Dialect::Lines));
        let v2 = format!("HTTP/1.1 101 x\r\n{good}Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n");
        assert_eq!(judged(v2), Ok(Dialect::V2));
        for (head, want) in [
            ("HTTP/1.1 401 x\r\n\r\n".to_owned(), "check api.token"),
            ("HTTP/1.1 404 x\r\n\r\n".to_owned(), "check api.wsEndpoint"),
            ("HTTP/1.1 502 x\r\n\r\n".to_owned(), "status 502"),
            ("HTTP/1.1 101 x\r\n\r\n".to_owned(), "no Upgrade"),
            (format!("HTTP/1.1 101 x\r\n{}\r\n", good.replace(&accept, "x")), "does not belong"),
            (format!("HTTP/1.1 101 x\r\n{good}Sec-WebSocket-Protocol: other\r\n\r\n"), "\"other\""),
        ] {
            let said = judged(head).expect_err(want);
            assert!(said.contains(want), "{said}");
        }
    }
}

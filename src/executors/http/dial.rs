//! The connections of requests, under ureq: each address is checked right before it is connected to, no proxy of the
//! environment is used, and every wait ends soon after the job's end was asked for.
//!
//! ureq lets its parts be replaced, but does not promise them to a later minor version (docs/decisions/ureq-parts.md).

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, RustlsConnector, Transport,
};
use ureq::{Agent, Error};

use crate::executors::Control;
use crate::executors::http::addresses::Rules;
use crate::executors::http::request::standard_port;
use crate::limits;
use crate::os::clock::Deadline;
use crate::os::{names, net, pulse};

/// What the connection of one request is made by, and what becomes known of it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) rules: Rules,
    pub(super) control: Arc<Control>,
    /// A part of the request may have left.
    sent: AtomicBool,
    /// The address that was connected to.
    reached: Mutex<Option<SocketAddr>>,
}

/// Why there is no connection; carried through ureq inside one of its errors.
#[derive(Debug)]
pub(super) enum Unreached {
    /// No address may be connected to: a sentence that says why.
    Refused(String),
    Failed(net::Error),
    /// The job is to end.
    Unwanted,
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Failed(error) => error.fmt(f),
            Self::Unwanted => f.write_str("the job is to end"),
        }
    }
}

impl std::error::Error for Unreached {}

impl From<Unreached> for Error {
    fn from(why: Unreached) -> Self {
        Self::Io(io::Error::other(why))
    }
}

impl From<net::Error> for Unreached {
    fn from(error: net::Error) -> Self {
        if matches!(error, net::Error::Unwanted) { Self::Unwanted } else { Self::Failed(error) }
    }
}

impl Line {
    pub(super) fn new(rules: &Rules, control: &Arc<Control>) -> Arc<Self> {
        let (rules, control) = (rules.clone(), Arc::clone(control));
        Arc::new(Self { rules, control, sent: AtomicBool::new(false), reached: Mutex::default() })
    }

    /// Whether a part of the request may have left.
    pub(super) fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// The address that was connected to.
    pub(super) fn reached(&self) -> Option<SocketAddr> {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent for this request alone: no connection of it is used a second time.
    pub(super) fn agent(self: &Arc<Self>, tls: TlsConfig) -> Agent {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Each redirect is a request with its own checks.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            .input_buffer_size(limits::REQUEST_BUFFER)
            .output_buffer_size(limits::REQUEST_BUFFER)
            .max_response_header_size(limits::REQUEST_ANSWER_HEAD)
            .user_agent(concat!("cronium-agent/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        let connector =
            ().chain(Tcp(Arc::clone(self))).chain(RustlsConnector::default()).chain(Noting(Arc::clone(self)));
        Agent::with_parts(config, connector, Names(Arc::clone(self)))
    }

    fn deadline() -> Deadline {
        Deadline::after(limits::REQUEST_CONNECT, "limits::REQUEST_CONNECT")
    }

    /// Called before each wait.
    fn go_on(&self) -> Result<(), Error> {
        pulse::touch();
        if self.control.is_wanted() { Ok(()) } else { Err(Unreached::Unwanted.into()) }
    }
}

/// Looks names up.
#[derive(Debug)]
struct Names(Arc<Line>);

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(standard_port(uri.scheme_str().unwrap_or_default()));
        self.0.rules.may_look_up(host).map_err(Unreached::Refused)?;
        let wanted = || self.0.control.is_wanted();
        let found = names::SERVERS.find_while(host, port, Line::deadline(), &wanted).map_err(Unreached::from)?;
        let mut addresses = self.empty();
        for address in found.into_iter().take(limits::CONNECT_ADDRESSES) {
            addresses.push(address);
        }
        Ok(addresses)
    }
}

/// Opens sockets, to the addresses that the rules allow.
#[derive(Debug)]
struct Tcp(Arc<Line>);

impl Connector for Tcp {
    type Out = Socket;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Socket>, Error> {
        let line = &self.0;
        let host = details.uri.host().unwrap_or_default();
        let (mut allowed, mut refused) = (Vec::new(), None);
        for address in &details.addrs {
            match line.rules.check(host, *address, net::is_own) {
                Ok(()) => allowed.push(*address),
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        if let Some(why) = refused.filter(|_| allowed.is_empty()) {
            return Err(Unreached::Refused(why).into());
        }
        let wanted = || line.control.is_wanted();
        let socket = net::connect_while(&allowed, Line::deadline(), &wanted).map_err(Unreached::from)?;
        *line.reached.lock().unwrap_or_else(PoisonError::into_inner) = socket.peer_addr().ok();
        socket.set_read_timeout(Some(limits::STOP_CHECK))?;
        socket.set_write_timeout(Some(limits::STOP_CHECK))?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Socket { socket, buffers, line: Arc::clone(line) }))
    }
}

/// A connection as ureq uses it. A read or write waits for as long as the job may run.
#[derive(Debug)]
struct Socket {
    socket: TcpStream,
    buffers: LazyBuffers,
    line: Arc<Line>,
}

/// Whether a bounded read or write must be repeated.
fn again(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        let mut rest = &self.buffers.output()[..amount];
        while !rest.is_empty() {
            self.line.go_on()?;
            match self.socket.write(rest) {
                Ok(0) => return Err(Error::Io(ErrorKind::WriteZero.into())),
                Ok(n) => rest = &rest[n..],
                Err(error) if again(&error) => {}
                Err(error) => return Err(Error::Io(error)),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        loop {
            self.line.go_on()?;
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

    /// No connection is used twice.
    fn is_open(&mut self) -> bool {
        false
    }
}

/// Notes that the request begins to leave: what goes through here is HTTP, with TLS below.
#[derive(Debug)]
struct Noting(Arc<Line>);

#[derive(Debug)]
struct Noted<In> {
    inner: In,
    line: Arc<Line>,
}

impl<In: Transport> Connector<In> for Noting {
    type Out = Noted<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Noted<In>>, Error> {
        Ok(chained.map(|inner| Noted { inner, line: Arc::clone(&self.0) }))
    }
}

impl<In: Transport> Transport for Noted<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.line.go_on()?;
        self.line.sent.store(true, Ordering::Relaxed);
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

//! From an address to an authenticated SSH session: resolve, connect, handshake, host key check, login. Each step is bounded
//! by `ssh.connectionPool.connectionTimeout` (resolve and connect together), and its error names it.
//!
//! Runs on the thread that keeps the session afterwards.

use std::io::Read as _;
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ssh2::{HostKeyType, KeyboardInteractivePrompt, Prompt};

use crate::config::types::{HostRow, Ssh as Settings};
use crate::executors::ssh::algorithms::{self, Algorithms};
use crate::executors::ssh::certificate::{Certificate, CertificateError};
use crate::executors::ssh::connection::{is_timeout, millis};
use crate::executors::ssh::error::{Error, Step};
use crate::executors::ssh::hosts::Hosts;
use crate::executors::ssh::keys::{self, KeyInfo};
use crate::job::Server;
use crate::metrics;
use crate::os::clock::{self, Deadline};
use crate::os::{names, net};
use crate::secret::Secret;
use crate::wire::kexinit::{self, Greeting, Offer};

/// The data for a connection to one server.
pub struct Dial<'a> {
    pub server: &'a Server,
    pub settings: &'a Settings,
    /// What `ssh.hosts` has for the server.
    pub row: Option<&'a HostRow>,
    pub hosts: &'a Hosts,
    /// The present step, for the thread that waits.
    pub progress: &'a Mutex<Progress>,
    /// The way through a jump host, in place of a connection from this host.
    pub way: Option<&'a Way<'a>>,
}

/// Gives a socket that leads to the server until this moment, in which all of the jump host's steps take place.
pub type Way<'a> = dyn Fn(Instant) -> Result<TcpStream, Error> + 'a;

/// The progress of a dial.
#[derive(Debug)]
pub struct Progress {
    pub step: Step,
    pub since: Instant,
    /// The waiting thread shuts it down when a step outlasts its limit: a server that never stops sending keeps libssh2 from
    /// checking its clock.
    pub socket: Option<TcpStream>,
}

impl Progress {
    /// The first step.
    pub fn new() -> Self {
        Self { step: Step::Resolve, since: Instant::now(), socket: None }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// An authenticated session.
pub struct Reached {
    pub session: ssh2::Session,
    pub socket: TcpStream,
    /// `ssh-ed25519 SHA256:…`
    pub host_key: String,
}

impl Dial<'_> {
    /// All steps.
    pub fn reach(&self) -> Result<Reached, Error> {
        // Without a readable login no connection is made.
        let key = self.server.private_key.as_ref().map(|key| self.readable(key)).transpose()?;
        let certificate =
            self.server.certificate.as_ref().map(|text| self.certificate(text, key.as_ref())).transpose()?;
        let begun = Instant::now();
        let socket = self.connect()?;
        metrics::SSH_CONNECT.observe(begun.elapsed());
        let begun = Instant::now();
        let (session, socket, host_key) = self.shake(socket)?;
        self.login(&session, &socket, key, certificate)?;
        metrics::SSH_HANDSHAKE.observe(begun.elapsed());
        Ok(Reached { session, socket, host_key })
    }

    /// Fetches the host key alone: its type as in known_hosts, and the key.
    pub fn host_key(&self) -> Result<(String, Vec<u8>), Error> {
        let socket = self.connect()?;
        let session = self.agree(&socket, algorithms::host_keys_first(&[]), true)?;
        self.key_of(&session)
    }

    fn wait(&self) -> Duration {
        self.settings.connection_timeout
    }

    fn begin(&self, step: Step) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        (progress.step, progress.since) = (step, Instant::now());
    }

    fn shown(&self) -> String {
        self.server.shown()
    }

    fn broken(&self, step: Step, what: impl ToString) -> Error {
        Error::Broken { server: self.shown(), step, what: what.to_string() }
    }

    fn timeout(&self, step: Step) -> Error {
        let limit = "ssh.connectionPool.connectionTimeout";
        Error::Timeout { server: self.shown(), step, limit, after: self.wait() }
    }

    /// Name and connection, in one limit for both. Through a jump host: the way there, and the connection that it makes.
    fn connect(&self) -> Result<TcpStream, Error> {
        let tcp = match self.way {
            None => self.directly()?,
            Some(way) => {
                self.begin(Step::Connect);
                way(Instant::now() + self.wait())?
            }
        };
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).socket = tcp.try_clone().ok();
        Ok(tcp)
    }

    fn directly(&self) -> Result<TcpStream, Error> {
        self.begin(Step::Resolve);
        let deadline = Deadline::after(self.wait(), "ssh.connectionPool.connectionTimeout");
        let found = names::SERVERS.find(&self.server.host, self.server.port, deadline);
        let addresses = found.map_err(|error| match error {
            // Not the server's fault.
            net::Error::NameBusy { .. } => Error::Local { server: self.shown(), what: error.to_string() },
            _ => self.broken(Step::Resolve, error),
        })?;
        self.begin(Step::Connect);
        net::connect(&addresses, deadline).map_err(|error| match error.is_late() {
            true => Error::Silent { server: self.shown(), what: error.to_string() },
            false => self.broken(Step::Connect, error),
        })
    }

    /// Handshake and host key check. One fitting key of several known ones is enough: if the first key shown does not fit, the
    /// server is asked for the others.
    fn shake(&self, socket: TcpStream) -> Result<(ssh2::Session, TcpStream, String), Error> {
        let mut known = self.hosts.types_for(self.server).map_err(|what| self.refused(what))?;
        let (mut socket, mut host_keys) = (socket, algorithms::host_keys_first(&known));
        let mut refusal: Option<Error> = None;
        loop {
            let session = match self.agree(&socket, host_keys, refusal.is_none()) {
                Ok(session) => session,
                // Keep the first error: a key that the server does not show at the second try is not the reason.
                Err(error) => return Err(refusal.unwrap_or(error)),
            };
            let (kind, key) = self.key_of(&session)?;
            let refused = match self.hosts.check(self.server, &kind, &key) {
                Ok(fingerprint) => return Ok((session, socket, format!("{kind} {fingerprint}"))),
                Err(refused) => refused,
            };
            known.retain(|other| *other != kind);
            host_keys = algorithms::host_keys_of(&known);
            let ask_again = refused.another_may_fit && !host_keys.is_empty();
            let first = refusal.get_or_insert_with(|| self.refused(refused.what)).clone();
            if !ask_again {
                return Err(first);
            }
            socket = self.connect()?;
        }
    }

    fn refused(&self, what: String) -> Error {
        Error::HostKey { server: self.shown(), what }
    }

    /// A session after the key exchange; the server shows its host key by one of these algorithms. Finding out why there is
    /// nothing in common takes another connection, so it is done for the error alone.
    fn agree(&self, socket: &TcpStream, host_keys: Vec<String>, tell: bool) -> Result<ssh2::Session, Error> {
        self.begin(Step::Handshake);
        let local = |error: &dyn std::fmt::Display| Error::Local { server: self.shown(), what: error.to_string() };
        let mut session = ssh2::Session::new().map_err(|error| local(&error))?;
        session.set_timeout(millis(self.wait()));
        let ours = Algorithms::new(self.settings, self.row, host_keys);
        let nothing = |what| Error::NothingInCommon { server: self.shown(), what };
        ours.prefer(&session).map_err(nothing)?;
        session.set_tcp_stream(socket.try_clone().map_err(|error| local(&error))?);
        let error = match session.handshake() {
            Ok(()) => return Ok(session),
            Err(error) if is_timeout(&error) => return Err(self.timeout(Step::Handshake)),
            Err(error) => error,
        };
        // KEX_FAILURE, KEY_EXCHANGE_FAILURE, METHOD_NONE, METHOD_NOT_SUPPORTED.
        let explain = tell && matches!(error.code(), ssh2::ErrorCode::Session(-5 | -8 | -17 | -33));
        if explain && let Some(what) = self.offer().and_then(|offer| ours.compare(&offer)) {
            return Err(nothing(what));
        }
        Err(self.failed(Step::Handshake, &session, socket, &error))
    }

    /// The meaning of an error of libssh2 that is neither a timeout nor an answer of the server.
    fn failed(&self, step: Step, session: &ssh2::Session, socket: &TcpStream, error: &ssh2::Error) -> Error {
        if !is_cut(error, socket) {
            return self.broken(step, error.message());
        }
        let greeting = session.banner_bytes().unwrap_or_default();
        if step == Step::Handshake && !greeting.starts_with(b"SSH-") {
            return Error::TurnedAway { server: self.shown(), said: kexinit::words(greeting) };
        }
        Error::Cut { server: self.shown(), step, what: error.message().to_owned() }
    }

    fn key_of(&self, session: &ssh2::Session) -> Result<(String, Vec<u8>), Error> {
        let (key, kind) = session.host_key().ok_or_else(|| self.broken(Step::Handshake, "it showed no host key"))?;
        let name = match kind {
            HostKeyType::Rsa => "ssh-rsa",
            HostKeyType::Dss => "ssh-dss",
            HostKeyType::Ecdsa256 => "ecdsa-sha2-nistp256",
            HostKeyType::Ecdsa384 => "ecdsa-sha2-nistp384",
            HostKeyType::Ecdsa521 => "ecdsa-sha2-nistp521",
            HostKeyType::Ed25519 => "ssh-ed25519",
            HostKeyType::Unknown => return Err(self.broken(Step::Handshake, "its host key is of an unknown type")),
        };
        Ok((name.to_owned(), key.to_vec()))
    }

    /// Reads the server's offer over a second connection, since libssh2 does not return it; `None` if that fails too.
    fn offer(&self) -> Option<Offer> {
        let mut socket = self.connect().ok()?;
        self.begin(Step::Handshake);
        let deadline = Deadline::after(self.wait(), "ssh.connectionPool.connectionTimeout");
        std::io::Write::write_all(&mut socket, b"SSH-2.0-cronium-agent\r\n").ok()?;
        let (mut greeting, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            socket.set_read_timeout(Some(deadline.left()?)).ok()?;
            let n = socket.read(&mut piece).ok().filter(|&n| n > 0)?;
            greeting.extend_from_slice(&piece[..n]);
            match kexinit::read(&greeting) {
                Greeting::Partial => {}
                Greeting::Offer(offer) => return Some(offer),
                Greeting::Nonsense => return None,
            }
        }
    }

    /// The key's text in libssh2's form.
    fn readable(&self, key: &Secret) -> Result<(Secret, KeyInfo), Error> {
        let unusable = |what: String| Error::Key { server: self.shown(), what };
        let text = keys::normalize(key).map_err(|error| unusable(error.to_string()))?;
        let info = keys::describe(&text).map_err(|error| unusable(error.to_string()))?;
        if info.encrypted && self.server.passphrase.is_none() {
            return Err(unusable(format!("it is an encrypted {} key and the job brings no passphrase", info.kind)));
        }
        Ok((text, info))
    }

    /// The certificate, if it can be one of the key.
    fn certificate(&self, text: &str, key: Option<&(Secret, KeyInfo)>) -> Result<Certificate, Error> {
        let read = Certificate::read(text).and_then(|certificate| {
            let (key, _) = key.ok_or(CertificateError::NoKey)?;
            match keys::public_of(key) {
                Some(public) if !certificate.is_for(&public) => Err(CertificateError::AnotherKey),
                _ => Ok(certificate),
            }
        });
        read.map_err(|error| Error::Certificate { server: self.shown(), what: error.to_string() })
    }

    /// As ssh does: the certificate, then the key alone, then the password.
    fn login(
        &self,
        session: &ssh2::Session,
        socket: &TcpStream,
        key: Option<(Secret, KeyInfo)>,
        certificate: Option<Certificate>,
    ) -> Result<(), Error> {
        self.begin(Step::Authenticate);
        let server = self.server;
        let mut tried = Vec::new();
        if let Some((key, info)) = &key {
            if let Some(certificate) = &certificate {
                match self.with_key(session, socket, (key, info), Some(certificate.line()))? {
                    None => return Ok(()),
                    Some(_) => {
                        let reason = certificate.likely_reason(&server.user, clock::wall());
                        tried.push(format!("the certificate was refused: {reason}"));
                    }
                }
            }
            match self.with_key(session, socket, (key, info), None)? {
                None => {
                    if let [refused] = &tried[..] {
                        log::warn!("{}: {refused}; the private key without it was accepted", self.shown());
                    }
                    return Ok(());
                }
                Some(why) if certificate.is_some() => tried.push(format!("so was the private key without it ({why})")),
                Some(why) => tried.push(format!("the private key was refused ({why})")),
            }
        }
        match (&server.password, self.settings.allow_passwords) {
            (Some(password), true) => match self.with_password(session, socket, password)? {
                None => return Ok(()),
                Some(why) => tried.push(format!("the password was refused ({why})")),
            },
            (Some(_), false) => {
                tried.push("a password is there, but ssh.security.allowPasswords is false".to_owned());
            }
            (None, _) if server.private_key.is_none() => tried.push("the job brings no private key".to_owned()),
            _ => {}
        }
        if let Ok(methods) = session.auth_methods(&server.user) {
            tried.push(format!("the server accepts {methods}"));
        }
        Err(Error::Login { server: self.shown(), user: server.user.clone(), what: tried.join("; ") })
    }

    /// Logs in with the key, and the certificate's text if there is one: `None` on success, else the reason.
    fn with_key(
        &self,
        session: &ssh2::Session,
        socket: &TcpStream,
        (text, info): (&Secret, &KeyInfo),
        certificate: Option<&str>,
    ) -> Result<Option<String>, Error> {
        let unusable = |what: String| Error::Key { server: self.shown(), what };
        let passphrase = self.server.passphrase.as_ref().map(Secret::expose);
        let error = match session.userauth_pubkey_memory(&self.server.user, certificate, text.expose(), passphrase) {
            Ok(()) => return Ok(None),
            Err(error) if is_timeout(&error) => return Err(self.timeout(Step::Authenticate)),
            Err(error) => error,
        };
        let words = error.message();
        match error.code() {
            // FILE, KEYFILE_AUTH_FAILED: libssh2 could not read the key.
            ssh2::ErrorCode::Session(-16 | -48) => {
                let hint = if info.encrypted { "; is the passphrase right?" } else { "" };
                Err(unusable(format!("libssh2 cannot read this {} key in {} form{hint}", info.kind, info.format)))
            }
            // No answer came: the server went away.
            ssh2::ErrorCode::Session(-19) if words.starts_with("Waiting for") => {
                Err(Error::Cut { server: self.shown(), step: Step::Authenticate, what: words.to_owned() })
            }
            ssh2::ErrorCode::Session(-18 | -19) => Ok(Some(words.to_owned())),
            // METHOD_NONE.
            ssh2::ErrorCode::Session(-17) => {
                Err(Error::NothingInCommon { server: self.shown(), what: algorithms::no_signature() })
            }
            _ if is_cut(&error, socket) => Err(self.failed(Step::Authenticate, session, socket, &error)),
            _ if info.encrypted && words.contains("key") => Err(unusable(format!("{words}; is the passphrase right?"))),
            _ if !session.authenticated() && words.to_ascii_lowercase().contains("key") => {
                Err(unusable(format!("{words} ({} key in {} form)", info.kind, info.format)))
            }
            _ => Err(self.broken(Step::Authenticate, words)),
        }
    }

    fn with_password(
        &self,
        session: &ssh2::Session,
        socket: &TcpStream,
        password: &Secret,
    ) -> Result<Option<String>, Error> {
        let user = &self.server.user;
        let cut = |error: &ssh2::Error| self.failed(Step::Authenticate, session, socket, error);
        let methods = match session.auth_methods(user) {
            Err(error) if is_timeout(&error) => return Err(self.timeout(Step::Authenticate)),
            Err(error) if is_cut(&error, socket) => return Err(cut(&error)),
            Err(_) if session.authenticated() => return Ok(None),
            methods => methods.unwrap_or_default().to_owned(),
        };
        let mut why = "the server takes no passwords".to_owned();
        for method in ["password", "keyboard-interactive"] {
            if !methods.split(',').any(|offered| offered == method) {
                continue;
            }
            let tried = match method {
                "password" => session.userauth_password(user, password.expose()),
                _ => session.userauth_keyboard_interactive(user, &mut Answer(password)),
            };
            match tried {
                Ok(()) => return Ok(None),
                Err(error) if is_timeout(&error) => return Err(self.timeout(Step::Authenticate)),
                Err(error) if is_cut(&error, socket) => return Err(cut(&error)),
                Err(error) => why = error.message().to_owned(),
            }
        }
        Ok(Some(why))
    }
}

/// Whether the other side closed the connection, by the error (SOCKET_SEND, SOCKET_DISCONNECT, SOCKET_RECV of libssh2, which
/// also has other errors for it) or by the socket. Nothing is read from the session after this.
fn is_cut(error: &ssh2::Error, socket: &TcpStream) -> bool {
    let gone = || {
        let _ = socket.set_nonblocking(true);
        match socket.peek(&mut [0; 1]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    };
    matches!(error.code(), ssh2::ErrorCode::Session(-7 | -13 | -43)) || gone()
}

/// Answers each hidden prompt with the password, and every other with nothing.
struct Answer<'a>(&'a Secret);

impl KeyboardInteractivePrompt for Answer<'_> {
    fn prompt(&mut self, _user: &str, _instructions: &str, prompts: &[Prompt<'_>]) -> Vec<String> {
        prompts.iter().map(|prompt| if prompt.echo { String::new() } else { self.0.expose().to_owned() }).collect()
    }
}

/// The linked libraries, for `version`: by the versions of the crates that bring their sources, or the host's.
pub fn library() -> String {
    format!("libssh2-sys {}, {}", env!("CRONIUM_BUILD_LIBSSH2"), env!("CRONIUM_BUILD_OPENSSL"))
}

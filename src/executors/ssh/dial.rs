//! From an address to an authenticated SSH session: resolve, connect, shake hands, check the host key, log in. Each
//! step is bounded by `ssh.connectionPool.connectionTimeout`, resolve and connect together, and named in its error.
//!
//! Runs on the thread that keeps the session afterwards.

use std::io::Read as _;
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ssh2::{HostKeyType, KeyboardInteractivePrompt, MethodType, Prompt};

use crate::config::types::Ssh as Settings;
use crate::executors::ssh::connection::{is_timeout, millis};
use crate::executors::ssh::error::{Error, Step};
use crate::executors::ssh::hosts::Hosts;
use crate::executors::ssh::keys::{self, KeyInfo};
use crate::job::Server;
use crate::limits;
use crate::metrics;
use crate::os::clock::Deadline;
use crate::os::{names, net};
use crate::secret::Secret;
use crate::wire::kexinit::{Decoder, Offer};

/// The way to one server.
pub struct Dial<'a> {
    pub server: &'a Server,
    pub settings: &'a Settings,
    pub hosts: &'a Hosts,
    /// What is being done right now, for whoever waits.
    pub progress: &'a Mutex<Progress>,
}

/// How far a dial has come.
#[derive(Debug)]
pub struct Progress {
    pub step: Step,
    pub since: Instant,
    /// Shut down by whoever waits, when a step outlasts its limit: a server that never stops sending keeps libssh2 from
    /// looking at its clock.
    pub socket: Option<TcpStream>,
}

impl Progress {
    /// At the beginning.
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
    /// Goes the whole way.
    pub fn reach(&self) -> Result<Reached, Error> {
        // A key that cannot be read is no reason to call.
        let key = self.server.private_key.as_ref().map(|key| self.readable(key)).transpose()?;
        let begun = Instant::now();
        let socket = self.connect()?;
        metrics::ssh_connected(begun.elapsed());
        let begun = Instant::now();
        let (session, host_key) = self.shake(&socket)?;
        self.login(&session, key)?;
        metrics::ssh_handshake(begun.elapsed());
        Ok(Reached { session, socket, host_key })
    }

    /// The host key alone: its type as in known_hosts, and the key.
    pub fn host_key(&self) -> Result<(String, Vec<u8>), Error> {
        let socket = self.connect()?;
        let session = self.agree(&socket, &[])?;
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

    /// Name and connection, in one limit for both.
    fn connect(&self) -> Result<TcpStream, Error> {
        self.begin(Step::Resolve);
        let deadline = Deadline::after(self.wait(), "ssh.connectionPool.connectionTimeout");
        let found = names::SERVERS.find(&self.server.host, self.server.port, deadline);
        let addresses = found.map_err(|error| match error {
            // The server had no part in it.
            net::Error::NameBusy { .. } => Error::Local { server: self.shown(), what: error.to_string() },
            _ => self.broken(Step::Resolve, error),
        })?;
        self.begin(Step::Connect);
        let tcp = net::connect(&addresses, deadline).map_err(|error| {
            let hint = if error.is_late() { "; is the host up, and the port open to this agent?" } else { "" };
            self.broken(Step::Connect, format!("{error}{hint}"))
        })?;
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).socket = tcp.try_clone().ok();
        Ok(tcp)
    }

    /// Handshake and host key.
    fn shake(&self, socket: &TcpStream) -> Result<(ssh2::Session, String), Error> {
        let known = self.hosts.types_for(self.server).map_err(|what| self.refused(what))?;
        let session = self.agree(socket, &known)?;
        let (kind, key) = self.key_of(&session)?;
        let fingerprint = self.hosts.check(self.server, &kind, &key).map_err(|what| self.refused(what))?;
        Ok((session, format!("{kind} {fingerprint}")))
    }

    fn refused(&self, what: String) -> Error {
        Error::HostKey { server: self.shown(), what }
    }

    /// A session with keys exchanged; host keys of the types in `known` are asked for first.
    fn agree(&self, socket: &TcpStream, known: &[String]) -> Result<ssh2::Session, Error> {
        self.begin(Step::Handshake);
        let local = |error: &dyn std::fmt::Display| Error::Local { server: self.shown(), what: error.to_string() };
        let mut session = ssh2::Session::new().map_err(|error| local(&error))?;
        session.set_timeout(millis(self.wait()));
        self.prefer(&session, known)?;
        session.set_tcp_stream(socket.try_clone().map_err(|error| local(&error))?);
        match session.handshake() {
            Ok(()) => Ok(session),
            Err(error) if is_timeout(&error) => Err(self.timeout(Step::Handshake)),
            // KEX_FAILURE, METHOD_NONE, METHOD_NOT_SUPPORTED, and what libssh2 says when the server gave up.
            Err(error) if matches!(error.code(), ssh2::ErrorCode::Session(-5 | -8 | -17 | -33)) => {
                let what = match self.offer() {
                    Ok(offer) => self.compare(&offer),
                    Err(_) => None,
                };
                match what {
                    Some(what) => Err(Error::NothingInCommon { server: self.shown(), what }),
                    None => Err(self.broken(Step::Handshake, error.message())),
                }
            }
            Err(error) => Err(self.broken(Step::Handshake, error.message())),
        }
    }

    /// Tells libssh2 what is allowed, and which host keys are wanted first.
    fn prefer(&self, session: &ssh2::Session, known: &[String]) -> Result<(), Error> {
        let settings = self.settings;
        let mut wishes = Vec::new();
        if !settings.allowed_ciphers.is_empty() {
            wishes.push((MethodType::CryptCs, settings.allowed_ciphers.join(",")));
            wishes.push((MethodType::CryptSc, settings.allowed_ciphers.join(",")));
        }
        if !settings.allowed_key_exchanges.is_empty() {
            wishes.push((MethodType::Kex, settings.allowed_key_exchanges.join(",")));
        }
        if !known.is_empty() {
            let supported = session.supported_algs(MethodType::HostKey).unwrap_or_default();
            wishes.push((MethodType::HostKey, host_key_order(known, &supported).join(",")));
        }
        for (kind, list) in wishes {
            session.method_pref(kind, &list).map_err(|error| Error::NothingInCommon {
                server: self.shown(),
                what: format!("this agent supports none of {list}: {}", error.message()),
            })?;
        }
        Ok(())
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

    /// What the server offers, asked of a second connection: libssh2 does not tell.
    fn offer(&self) -> Result<Offer, Error> {
        let mut socket = self.connect()?;
        self.begin(Step::Handshake);
        let until = Instant::now() + self.wait();
        let broken = |error: std::io::Error| self.broken(Step::Handshake, error);
        std::io::Write::write_all(&mut socket, b"SSH-2.0-cronium-agent\r\n").map_err(broken)?;
        let mut decoder = Decoder::new();
        let mut buffer = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(limits::SOCKET_WAIT_LEAST);
            socket.set_read_timeout(Some(left)).map_err(broken)?;
            let n = socket.read(&mut buffer).map_err(broken)?;
            if n == 0 {
                return Err(self.broken(Step::Handshake, "it closed the connection"));
            }
            if let Some(offer) = decoder.feed(&buffer[..n]).map_err(|error| self.broken(Step::Handshake, error))? {
                return Ok(offer.clone());
            }
        }
    }

    /// The first sort of algorithm in which nothing is in common.
    fn compare(&self, offer: &Offer) -> Option<String> {
        let settings = self.settings;
        let session = ssh2::Session::new().ok()?;
        let own = |kind, allowed: &[String]| -> Vec<String> {
            let supported = session.supported_algs(kind).unwrap_or_default();
            let all = supported.iter().map(|name| (*name).to_owned());
            all.filter(|name| allowed.is_empty() || allowed.contains(name)).collect()
        };
        let sorts = [
            (
                "key exchange",
                "ssh.security.allowedKeyExchanges",
                own(MethodType::Kex, &settings.allowed_key_exchanges),
                &offer.kex,
            ),
            ("host key", "known_hosts", own(MethodType::HostKey, &[]), &offer.host_keys),
            (
                "cipher",
                "ssh.security.allowedCiphers",
                own(MethodType::CryptCs, &settings.allowed_ciphers),
                &offer.ciphers_client_to_server,
            ),
            (
                "cipher",
                "ssh.security.allowedCiphers",
                own(MethodType::CryptSc, &settings.allowed_ciphers),
                &offer.ciphers_server_to_client,
            ),
        ];
        sorts.iter().find(|(.., ours, theirs)| !theirs.iter().any(|name| ours.contains(name))).map(
            |(sort, key, ours, theirs)| {
                format!("{sort}: the server offers {}, this agent has {} ({key})", theirs.join(","), ours.join(","))
            },
        )
    }

    /// The key's text as libssh2 takes it.
    fn readable(&self, key: &Secret) -> Result<(Secret, KeyInfo), Error> {
        let unusable = |what: String| Error::Key { server: self.shown(), what };
        let text = keys::normalize(key).map_err(|error| unusable(error.to_string()))?;
        let info = keys::describe(&text).map_err(|error| unusable(error.to_string()))?;
        if info.encrypted && self.server.passphrase.is_none() {
            return Err(unusable(format!("it is an encrypted {} key and the job brings no passphrase", info.kind)));
        }
        Ok((text, info))
    }

    fn login(&self, session: &ssh2::Session, key: Option<(Secret, KeyInfo)>) -> Result<(), Error> {
        self.begin(Step::Authenticate);
        let server = self.server;
        let mut tried = Vec::new();
        if let Some((key, info)) = &key {
            match self.with_key(session, key, info)? {
                None => return Ok(()),
                Some(why) => tried.push(format!("the private key was refused ({why})")),
            }
        }
        match (&server.password, self.settings.allow_passwords) {
            (Some(password), true) => match self.with_password(session, password)? {
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

    /// `None` when it let us in, otherwise why not.
    fn with_key(&self, session: &ssh2::Session, text: &Secret, info: &KeyInfo) -> Result<Option<String>, Error> {
        let unusable = |what: String| Error::Key { server: self.shown(), what };
        let passphrase = self.server.passphrase.as_ref().map(Secret::expose);
        match session.userauth_pubkey_memory(&self.server.user, None, text.expose(), passphrase) {
            Ok(()) => Ok(None),
            Err(error) if is_timeout(&error) => Err(self.timeout(Step::Authenticate)),
            Err(error) => match error.code() {
                // FILE, KEYFILE_AUTH_FAILED: libssh2 could not read the key.
                ssh2::ErrorCode::Session(-16 | -48) => {
                    let hint = if info.encrypted { "; is the passphrase right?" } else { "" };
                    Err(unusable(format!("libssh2 cannot read this {} key in {} form{hint}", info.kind, info.format)))
                }
                ssh2::ErrorCode::Session(-18 | -19) => Ok(Some(error.message().to_owned())),
                _ if info.encrypted && error.message().contains("key") => {
                    Err(unusable(format!("{}; is the passphrase right?", error.message())))
                }
                _ if !session.authenticated() && error.message().to_ascii_lowercase().contains("key") => {
                    Err(unusable(format!("{} ({} key in {} form)", error.message(), info.kind, info.format)))
                }
                _ => Err(self.broken(Step::Authenticate, error.message())),
            },
        }
    }

    fn with_password(&self, session: &ssh2::Session, password: &Secret) -> Result<Option<String>, Error> {
        let user = &self.server.user;
        let methods = session.auth_methods(user).unwrap_or_default().to_owned();
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
                Err(error) => why = error.message().to_owned(),
            }
        }
        Ok(Some(why))
    }
}

/// Answers each hidden prompt with the password, and every other with nothing.
struct Answer<'a>(&'a Secret);

impl KeyboardInteractivePrompt for Answer<'_> {
    fn prompt(&mut self, _user: &str, _instructions: &str, prompts: &[Prompt<'_>]) -> Vec<String> {
        prompts.iter().map(|prompt| if prompt.echo { String::new() } else { self.0.expose().to_owned() }).collect()
    }
}

/// The algorithms that sign with keys of the known types first, then all others.
fn host_key_order(known: &[String], supported: &[&'static str]) -> Vec<String> {
    let signs = |kind: &str, algorithm: &str| match kind {
        "ssh-rsa" => matches!(algorithm, "rsa-sha2-512" | "rsa-sha2-256" | "ssh-rsa"),
        kind => algorithm == kind,
    };
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for kind in known {
        first.extend(supported.iter().filter(|name| signs(kind, name)).map(|name| (*name).to_owned()));
    }
    rest.extend(supported.iter().map(|name| (*name).to_owned()).filter(|name| !first.contains(name)));
    first.extend(rest);
    first
}

/// The linked libraries, for `version`, by the versions of the crates that bring their sources.
pub fn library() -> String {
    format!("libssh2-sys {}, openssl-src {}", env!("CRONIUM_BUILD_LIBSSH2"), env!("CRONIUM_BUILD_OPENSSL"))
}

/// What the linked libssh2 can do: ciphers and key exchanges, for `validate`.
pub fn supported() -> (Vec<&'static str>, Vec<&'static str>) {
    let Ok(session) = ssh2::Session::new() else { return (Vec::new(), Vec::new()) };
    let list = |kind| session.supported_algs(kind).unwrap_or_default();
    (list(MethodType::CryptCs), list(MethodType::Kex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_asked_for_first_and_the_rest_is_still_asked_for() {
        let supported = ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"];
        let order = |known: &[&str]| {
            host_key_order(&known.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>(), &supported).join(" ")
        };
        let rest = "ssh-ed25519 rsa-sha2-512 rsa-sha2-256 ssh-rsa";
        assert_eq!(order(&["ecdsa-sha2-nistp256"]), format!("ecdsa-sha2-nistp256 {rest}"));
        assert_eq!(order(&["ssh-rsa"]), "rsa-sha2-512 rsa-sha2-256 ssh-rsa ssh-ed25519 ecdsa-sha2-nistp256");
        assert_eq!(order(&["unknown"]), supported.join(" "));
    }
}

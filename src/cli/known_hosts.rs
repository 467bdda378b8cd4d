//! `known-hosts add`: shows the key of a server, and writes it down after a yes.

use std::io::{BufRead as _, Write as _};

use crate::cli::{UsageError, exec_server, exit, print};
use crate::config::types::Config;
use crate::executors::ssh::SshExecutor;
use crate::executors::ssh::known_hosts::{self, Check, KnownHosts};
use crate::job::Server;

/// What was typed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Request {
    pub host: String,
    /// Where it is not typed, `ssh.hosts` gives it, else it is 22.
    pub port: Option<u16>,
    /// `--yes`: without a question, for scripts.
    pub yes: bool,
}

impl Request {
    /// Reads the words after the command.
    pub(in crate::cli) fn new(verb: &str, address: &str, yes: bool) -> Result<Self, UsageError> {
        match (verb, address) {
            ("add", "") | ("", _) => {
                Err(UsageError("usage: cronium-agent known-hosts add HOST[:PORT] [--yes]".to_owned()))
            }
            ("add", address) => exec_server::address_of(address).map(|(host, port)| Self { host, port, yes }),
            (other, _) => Err(UsageError(format!("known-hosts knows add, not {other:?}"))),
        }
    }
}

/// Fetches, shows, asks, writes; gives the program's exit code.
pub fn run(config: &Config, request: &Request) -> u8 {
    add(config, request).unwrap_or_else(|error| print::say(error, exit::FAILED))
}

#[allow(clippy::print_stderr)]
fn add(config: &Config, request: &Request) -> Result<u8, String> {
    let host = request.host.clone();
    let port = request.port.or_else(|| config.ssh.hosts.of(&host)?.port).unwrap_or(22);
    let server = Server {
        id: None,
        name: host.clone(),
        host: host.clone(),
        port,
        user: String::new(),
        private_key: None,
        certificate: None,
        passphrase: None,
        password: None,
        jump: None,
    };
    let (kind, key) = SshExecutor::new(config).host_key(&server).map_err(|error| error.to_string())?;
    let file = &config.ssh.known_hosts_file;
    let shown = file.display();
    eprintln!("{} shows this key: {kind} {}", server.shown(), known_hosts::fingerprint(&key));
    let known = KnownHosts::load(file, &host, port).map_err(|error| format!("cannot read {shown}: {error}"))?;
    match known.check(&host, port, &kind, &key) {
        Check::Known { line } => {
            eprintln!("it is known already: line {line} of {shown}");
            return Ok(exit::OK);
        }
        Check::Revoked { line } => return Err(format!("it is marked @revoked in line {line} of {shown}: not added")),
        Check::Mismatch { line, known_type, known_fingerprint, .. } => {
            return Err(format!(
                "line {line} of {shown} knows another key of it: {known_type} {known_fingerprint}; not added. If the host \
                 was set up anew, remove that line first"
            ));
        }
        Check::Unknown | Check::OtherTypes(_) => {}
    }
    if let Some(at) = known.authority_for(&host, port) {
        eprintln!(
            "line {at} of {shown} trusts a certificate authority for it; this agent does not use it, and needs this plain key"
        );
    }
    if !request.yes && !confirmed() {
        eprintln!("not added");
        return Ok(exit::FAILED);
    }
    let line = known_hosts::line(&host, port, &kind, &key);
    known_hosts::append(file, &line).map_err(|error| format!("cannot write {shown}: {error}"))?;
    eprintln!("added to {shown}: {line}");
    Ok(exit::OK)
}

/// Compare the fingerprint with what the host's administrator says, then answer.
#[allow(clippy::print_stderr)]
fn confirmed() -> bool {
    eprint!("Is that what its administrator says (ssh-keygen -lf /etc/ssh/ssh_host_*.pub there)? Add it? [yes/no] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "yes" | "y")
}

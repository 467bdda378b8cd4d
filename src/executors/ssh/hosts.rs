//! Which host keys are trusted: the operator's `ssh.security.knownHostsFile`.
//!
//! The file is read anew for each connection, so that a key which the operator adds counts at once.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::config::types::Ssh as Settings;
use crate::executors::ssh::known_hosts::{self, Check, KnownHosts};
use crate::job::Server;

/// The known hosts of an agent.
#[derive(Debug)]
pub struct Hosts {
    file: PathBuf,
    strict: bool,
    /// Two jobs must not both meet a new host first.
    recording: Mutex<()>,
}

impl Hosts {
    /// As `ssh.security` has it.
    pub fn new(settings: &Settings) -> Self {
        Self {
            file: settings.known_hosts_file.clone(),
            strict: settings.strict_host_key_checking,
            recording: Mutex::new(()),
        }
    }

    fn read(&self) -> Result<KnownHosts, String> {
        KnownHosts::load(&self.file).map_err(|error| format!("cannot read {}: {error}", self.file.display()))
    }

    /// The key types that are known of a server, in the file's order.
    pub fn types_for(&self, server: &Server) -> Result<Vec<String>, String> {
        Ok(self.read()?.types_for(&server.host, server.port))
    }

    /// Whether the key is the server's; its fingerprint if so, and why not otherwise.
    pub fn check(&self, server: &Server, kind: &str, key: &[u8]) -> Result<String, String> {
        let _one_at_a_time = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let (host, port, file) = (&server.host, server.port, self.file.display());
        let (fingerprint, line) = (known_hosts::fingerprint(key), known_hosts::line(host, port, kind, key));
        match self.read()?.check(host, port, kind, key) {
            Check::Known { .. } => Ok(fingerprint),
            Check::Revoked { line } => {
                Err(format!("{fingerprint} is marked @revoked in line {line} of {file}: do not connect to this host"))
            }
            Check::Mismatch { line, known_type, known_fingerprint, offered_fingerprint } => Err(format!(
                "it shows {offered_fingerprint} ({kind}), but line {line} of {file} knows {known_fingerprint} \
                 ({known_type}); somebody may be in between, or the host was set up anew: ask its administrator, then \
                 replace that line"
            )),
            Check::OtherTypes(known) => Err(format!(
                "it shows a {kind} key {fingerprint}, of which {file} knows nothing, while it knows {}; if it is right, add \
                 this line: {line}",
                known.iter().map(|(at, kind)| format!("{kind} in line {at}")).collect::<Vec<_>>().join(", ")
            )),
            Check::Unknown if self.strict => Err(format!(
                "it shows {fingerprint} ({kind}), which {file} does not know; if it is right, add this line: {line} (or \
                 run: cronium-agent known-hosts add {})",
                known_hosts::host_name(host, port)
            )),
            Check::Unknown => {
                known_hosts::append(&self.file, &line)
                    .map_err(|error| format!("its first key {fingerprint} cannot be recorded in {file}: {error}"))?;
                log::warn!("first contact with {}: recorded {kind} {fingerprint} in {file}", server.shown());
                Ok(fingerprint)
            }
        }
    }
}

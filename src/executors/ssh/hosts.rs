//! Which host keys are trusted: the operator's `ssh.security.knownHostsFile`.
//!
//! The file is read for each connection, so that a key that the operator adds counts at once.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::config::types::Ssh as Settings;
use crate::executors::ssh::known_hosts::{self, Check, KnownHosts};
use crate::job::Server;
use crate::limits;

/// A host key that is not trusted.
#[derive(Debug)]
pub struct Refused {
    pub what: String,
    /// The file knows another key of this type; a key of another type may still fit.
    pub another_may_fit: bool,
}

impl From<String> for Refused {
    fn from(what: String) -> Self {
        Self { what, another_may_fit: false }
    }
}

/// The known hosts of an agent.
#[derive(Debug)]
pub struct Hosts {
    file: PathBuf,
    strict: bool,
    /// Two jobs must not both record a new host.
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

    fn read(&self, server: &Server) -> Result<KnownHosts, String> {
        KnownHosts::load(&self.file, &server.host, server.port)
            .map_err(|error| format!("cannot read {}: {error}", self.file.display()))
    }

    /// The key types that are known of a server, in the file's order.
    pub fn types_for(&self, server: &Server) -> Result<Vec<String>, String> {
        Ok(self.read(server)?.types_for(&server.host, server.port))
    }

    /// Checks that the key is the server's; returns its fingerprint, or why it is not.
    pub fn check(&self, server: &Server, kind: &str, key: &[u8]) -> Result<String, Refused> {
        let _one_at_a_time = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let (host, port, file) = (&server.host, server.port, self.file.display());
        let (fingerprint, line) = (known_hosts::fingerprint(key), known_hosts::line(host, port, kind, key));
        let all = self.read(server)?;
        Err(match all.check(host, port, kind, key) {
            Check::Known { .. } => return Ok(fingerprint),
            Check::Revoked { line } => {
                format!("{fingerprint} is marked @revoked in line {line} of {file}: do not connect to this host").into()
            }
            Check::Mismatch { line, known_type, known_fingerprint, offered_fingerprint } => Refused {
                what: format!(
                    "it shows {offered_fingerprint} ({kind}), but line {line} of {file} knows {known_fingerprint} \
                     ({known_type}); somebody may be in between, or the host was set up anew: ask its administrator, then \
                     replace that line"
                ),
                another_may_fit: true,
            },
            Check::OtherTypes(known) => format!(
                "it shows a {kind} key {fingerprint}, of which {file} knows nothing, while it knows {}; if it is right, add \
                 this line: {line}",
                some_of(&known)
            )
            .into(),
            Check::Unknown if self.strict => {
                let authority = all.authority_for(host, port).map(|at| {
                    format!(
                        "; line {at} trusts a certificate authority for it, which this agent does not use, since it takes \
                         plain keys alone"
                    )
                });
                format!(
                    "it shows {fingerprint} ({kind}), which {file} does not know{}; if it is right, add this line: {line} (or \
                     run: cronium-agent known-hosts add {})",
                    authority.unwrap_or_default(),
                    known_hosts::host_name(host, port)
                )
                .into()
            }
            Check::Unknown => {
                known_hosts::append(&self.file, &line)
                    .map_err(|error| format!("its first key {fingerprint} cannot be recorded in {file}: {error}"))?;
                log::warn!("first contact with {}: recorded {kind} {fingerprint} in {file}", server.shown());
                if let Some(at) = all.authority_for(host, port) {
                    log::warn!("line {at} of {file} trusts a certificate authority for it, which this agent does not ask");
                }
                return Ok(fingerprint);
            }
        })
    }
}

/// The first of these keys, and the number of others.
fn some_of(known: &[(usize, String)]) -> String {
    let shown = known.iter().take(limits::HOST_KEYS_SHOWN).map(|(at, kind)| format!("{kind} in line {at}"));
    let rest = known.len().checked_sub(limits::HOST_KEYS_SHOWN).filter(|&rest| rest > 0);
    shown.chain(rest.map(|rest| format!("{rest} more"))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_many_keys_is_told_by_the_first_ones() {
        let keys = |count: usize| (1..=count).map(|n| (n, "ssh-rsa".to_owned())).collect::<Vec<_>>();
        assert_eq!(some_of(&keys(2)), "ssh-rsa in line 1, ssh-rsa in line 2");
        assert!(some_of(&keys(limits::HOST_KEYS_SHOWN)).ends_with(&format!("line {}", limits::HOST_KEYS_SHOWN)));
        let many = some_of(&keys(limits::KNOWN_HOSTS_OF_ONE));
        assert!(many.ends_with(&format!(", {} more", limits::KNOWN_HOSTS_OF_ONE - limits::HOST_KEYS_SHOWN)), "{many}");
        assert!(many.len() < 50 * limits::HOST_KEYS_SHOWN, "{many}");
    }
}

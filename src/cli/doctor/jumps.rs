//! The jump hosts of the configuration: whether their keys can be used and their host keys are known. Nothing is connected to.

use crate::config::types::Ssh;
use crate::executors::ssh::keys;
use crate::executors::ssh::known_hosts::{self, KnownHosts};
use crate::job::Server;
use crate::proofs::finding::Finding;

/// All of `ssh.jumps`, in one line.
pub(super) fn check(ssh: &Ssh) -> Finding {
    let all: Vec<&Server> = ssh.jumps.iter().map(|jump| &jump.server).collect();
    if all.is_empty() {
        return Finding::ok("none (ssh.jumps)");
    }
    let unusable: Vec<String> =
        all.iter().filter_map(|jump| Some(format!("{}: {}", jump.name, key_of(jump)?))).collect();
    if !unusable.is_empty() {
        return Finding::fail(
            unusable.join("; "),
            "give it a key that can be used (ssh.jumps, keyFile and passphraseFile)",
        );
    }
    let is_known = |jump: &&&Server| {
        let known = KnownHosts::load(&ssh.known_hosts_file, &jump.host, jump.port);
        known.is_ok_and(|known| !known.types_for(&jump.host, jump.port).is_empty())
    };
    let names = |list: &[&Server]| list.iter().map(|jump| jump.shown()).collect::<Vec<_>>().join(", ");
    let unknown: Vec<&Server> = all.iter().filter(|jump| !is_known(jump)).copied().collect();
    match unknown.first() {
        Some(first) if ssh.strict_host_key_checking => Finding::warn(
            format!("no host key is known of {}", names(&unknown)),
            format!("cronium-agent known-hosts add {}", known_hosts::host_name(&first.host, first.port)),
        ),
        _ => Finding::ok(names(&all)),
    }
}

/// What is wrong with the key.
fn key_of(jump: &Server) -> Option<String> {
    let key = jump.private_key.as_ref()?;
    match keys::normalize(key).and_then(|key| keys::describe(&key)) {
        Err(error) => Some(error.to_string()),
        Ok(info) if info.encrypted && jump.passphrase.is_none() => {
            Some("the private key is encrypted, and there is no passphraseFile".to_owned())
        }
        Ok(_) => None,
    }
}

//! The server of `exec --server`, its login, and the jump host on the way.

use crate::cli::UsageError;
use crate::cli::exec::Request;
use crate::config::types::Config;
use crate::job::{Jump, Server, is_host, is_user};
use crate::secret::Secret;

/// `user@host` or `user@host:port`, of a jump host.
pub(super) fn login_of(value: &str) -> Result<(String, String, u16), UsageError> {
    let (user, address) = value
        .rsplit_once('@')
        .filter(|(user, _)| is_user(user))
        .ok_or_else(|| UsageError(format!("--jump takes a name, user@host or user@host:port, not {value:?}")))?;
    let (host, port) = address_of(address)?;
    Ok((user.to_owned(), host, port.unwrap_or(22)))
}

/// `host`, `host:port`, `[address]:port` or an IPv6 address.
pub(in crate::cli) fn address_of(text: &str) -> Result<(String, Option<u16>), UsageError> {
    let wrong = || UsageError(format!("{text:?} is not host or host:port"));
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
        None => match text.split_once(':') {
            // A second colon: an IPv6 address without brackets.
            Some((host, rest)) if !rest.contains(':') => (host, Some(rest)),
            _ => (text, None),
        },
    };
    let port = port.map(|port| port.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(wrong)).transpose()?;
    if is_host(host) { Ok((host.to_owned(), port)) } else { Err(wrong()) }
}

/// Where the script is to run, unless that is a container.
pub(super) fn server_of(config: &Config, request: &Request) -> Result<Option<Server>, String> {
    let Some((user, host, port)) = request.server.clone() else { return Ok(None) };
    let row = config.ssh.hosts.of(&host);
    let user = user.or_else(|| row?.user.clone());
    let user =
        user.ok_or_else(|| format!("--server {host} names no user, and ssh.hosts has none for it; give USER@{host}"))?;
    let identity = request.identity.as_deref().unwrap_or_default();
    let key = std::fs::read_to_string(identity).map_err(|error| format!("cannot read {identity}: {error}"))?;
    let secret = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty()).map(Secret::new);
    let (key, passphrase) = (Secret::new(key), secret(PASSPHRASE));
    let certificate = certificate_of(identity, request.certificate.as_deref())?;
    let of = |(user, host, port): (String, String, u16), jump| Server {
        id: None,
        name: host.clone(),
        host,
        port,
        user,
        private_key: Some(key.clone()),
        certificate: certificate.clone(),
        passphrase: passphrase.clone(),
        password: None,
        jump,
    };
    let jump = match request.jump.as_deref() {
        Some(text) if text.contains('@') => {
            let login = login_of(text).map_err(|UsageError(why)| why)?;
            Some(Jump::Host(Box::new(of(login, None))))
        }
        named => named.map(|name| Jump::Named(name.to_owned())),
    };
    let port = port.or_else(|| row?.port).unwrap_or(22);
    Ok(Some(of((user, host, port), jump)))
}

/// The certificate that was named, or the one beside the key, as ssh looks for it.
fn certificate_of(identity: &str, named: Option<&str>) -> Result<Option<String>, String> {
    let beside = format!("{identity}-cert.pub");
    match (std::fs::read_to_string(named.unwrap_or(&beside)), named) {
        (Ok(text), _) => Ok(Some(text)),
        (Err(error), None) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        (Err(error), _) => Err(format!("cannot read {}: {error}", named.unwrap_or(&beside))),
    }
}

/// The variable with the passphrase of an encrypted identity. Everybody on this host can read an argument.
const PASSPHRASE: &str = "CRONIUM_EXEC_PASSPHRASE";

//! Checks and conversions of single values that are more than a number or a word.
//!
//! Each takes the text as it was given. Its error says what is wrong with it, and follows the key's form in the message; an
//! empty error means that the text has another form.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::types::{DockerEndpoint, FromFile, NetworkMode, Seccomp};
use super::url;
use crate::policy::suggest::nearest;
use crate::wire::hosts::Pattern;

/// As `capabilities(7)` lists them, without `CAP_`.
const CAPABILITIES: &str = "ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN \
     DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE \
     MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN \
     SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG \
     WAKE_ALARM";

/// Docker's plain port, which `tcp://HOST` means.
const DOCKER_PORT: u16 = 2375;

/// `text` when it is `good`.
fn only(text: &str, good: bool) -> Result<String, String> {
    if good { Ok(text.to_owned()) } else { Err(String::new()) }
}

/// Any text: for fields that are checked elsewhere.
pub(super) fn any(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// One line for a name.
pub(super) fn line(text: &str) -> Result<String, String> {
    only(text, text.chars().count() <= 200 && !text.chars().any(char::is_control))
}

/// The id travels in an HTTP header, a label and a container's name.
pub(super) fn id(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    only(text, plain && text.len() <= 100)
}

/// A base without a final slash; an empty path is the deployed backend's own.
pub(super) fn endpoint(text: &str) -> Result<String, String> {
    let url = url::parse(text, &["http", "https"])?;
    let path = match url.path.trim_end_matches('/') {
        "" => "/api/internal",
        path => path,
    };
    Ok(format!("{}://{}{path}", url.scheme, url.authority))
}

pub(super) fn ws_endpoint(text: &str) -> Result<String, String> {
    url::parse(text, &["ws", "wss"]).map(|_| text.to_owned())
}

pub(super) fn image(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/:@-".contains(&b));
    only(text, plain && text.len() <= 500 && text.starts_with(|c: char| c.is_ascii_alphanumeric()))
}

pub(super) fn capability(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if CAPABILITIES.split(' ').any(|known| known == name) {
        return Ok(name.to_owned());
    }
    Err(nearest(name, CAPABILITIES.split(' ')).map_or(String::new(), |near| format!("did you mean {near}?")))
}

/// A type of jobs, by the backend's name.
pub(super) fn job_type(text: &str) -> Result<String, String> {
    let known = ["SCRIPT", "HTTP_REQUEST", "TOOL_ACTION"];
    let upper = text.to_ascii_uppercase();
    if known.contains(&upper.as_str()) {
        return Ok(upper);
    }
    Err(nearest(&upper, known).map_or(String::new(), |near| format!("did you mean {near}?")))
}

/// A pattern of hosts.
pub(super) fn host(text: &str) -> Result<String, String> {
    Pattern::parse(text).map(|_| text.to_owned())
}

/// A pattern of names of variables.
pub(super) fn name_pattern(text: &str) -> Result<String, String> {
    only(text, text.chars().all(|c| c.is_ascii_graphic() && c != '=') && !text.is_empty() && text.len() <= 100)
}

pub(super) fn name_server(text: &str) -> Result<String, String> {
    text.parse::<IpAddr>().map(|ip| ip.to_string()).map_err(|_| String::new())
}

/// The names of ciphers and key exchanges, as in an SSH handshake.
pub(super) fn algorithm(text: &str) -> Result<String, String> {
    only(text, text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@+".contains(&b)))
}

/// A path on the server. The executor quotes it for the shell there.
pub(super) fn remote_path(text: &str) -> Result<String, String> {
    only(text, text.starts_with('/') && line(text).is_ok())
}

/// Digits alone: the standard parser would take `+5`.
pub(super) fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

pub(super) fn opt_path(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

/// The file itself is read by `checks`.
pub(super) fn from_file<T: Default>(text: &str) -> Result<FromFile<T>, String> {
    Ok(FromFile { path: opt_path(text)?, content: T::default() })
}

pub(super) fn show_from_file<T>(file: &FromFile<T>) -> String {
    file.path.as_deref().map_or(String::new(), shown)
}

pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| String::new())
}

/// One of the key's words.
pub(super) fn level(text: &str) -> Result<log::LevelFilter, String> {
    text.parse().map_err(|_| String::new())
}

pub(super) fn docker_endpoint(text: &str) -> Result<DockerEndpoint, String> {
    if let Some(path) = text.strip_prefix("unix://") {
        if !path.starts_with('/') || path.contains('\0') {
            return Err("the path of the socket must begin with `/`".to_owned());
        }
        return Ok(DockerEndpoint::Unix(PathBuf::from(path)));
    }
    let hint = if text.starts_with("ssh://") { "; forward the socket with `ssh -L` and give its path" } else { "" };
    let url = url::parse(text, &["unix", "tcp"]).map_err(|why| why + hint)?;
    if !matches!(url.path, "" | "/") {
        return Err("it has a path".to_owned());
    }
    Ok(DockerEndpoint::Tcp(url.host.to_owned(), url.port.unwrap_or(DOCKER_PORT)))
}

pub(super) fn show_docker_endpoint(endpoint: &DockerEndpoint) -> String {
    match endpoint {
        DockerEndpoint::Unix(path) => format!("unix://{}", path.display()),
        DockerEndpoint::Tcp(host, port) if host.contains(':') => format!("tcp://[{host}]:{port}"),
        DockerEndpoint::Tcp(host, port) => format!("tcp://{host}:{port}"),
    }
}

/// `None` for `auto`.
pub(super) fn docker_version(text: &str) -> Result<Option<String>, String> {
    let good = text.split_once('.').is_some_and(|(major, minor)| {
        whole(major).is_some_and(|major| (1..100).contains(&major))
            && (2..=3).contains(&minor.len())
            && whole(minor).is_some()
    });
    if good || text == "auto" { Ok(good.then(|| text.to_owned())) } else { Err(String::new()) }
}

/// User and group. The kernel keeps the highest number for "no one".
pub(super) fn user(text: &str) -> Result<(u32, u32), String> {
    let id = |text: &str| whole(text).and_then(|id| u32::try_from(id).ok()).filter(|id| *id < u32::MAX);
    text.split_once(':').and_then(|(user, group)| Some((id(user)?, id(group)?))).ok_or_else(String::new)
}

/// The file of a profile is read by `checks`.
pub(super) fn seccomp(text: &str) -> Result<Seccomp, String> {
    match text {
        // The second is the older name of what the agent does by default.
        "builtin" | "default" => Ok(Seccomp::Builtin),
        "engine" => Ok(Seccomp::Engine),
        "unconfined" => Err("to run jobs without a filter is not offered".to_owned()),
        path if path.contains('\0') => Err(String::new()),
        path => Ok(Seccomp::Profile { path: PathBuf::from(path), json: String::new() }),
    }
}

pub(super) fn show_seccomp(seccomp: &Seccomp) -> String {
    match seccomp {
        Seccomp::Builtin => "builtin".to_owned(),
        Seccomp::Engine => "engine".to_owned(),
        Seccomp::Profile { path, .. } => shown(path),
    }
}

pub(super) fn network_mode(text: &str) -> Result<NetworkMode, String> {
    let name = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    match text {
        "isolated" => Ok(NetworkMode::Isolated),
        "none" => Ok(NetworkMode::None),
        "bridge" => Ok(NetworkMode::Bridge),
        "host" | "default" => Err("jobs never share the host's own network".to_owned()),
        _ if name && text.len() <= 100 => Ok(NetworkMode::Named(text.to_owned())),
        _ => Err(String::new()),
    }
}

pub(super) fn show_network_mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Isolated => "isolated".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Bridge => "bridge".to_owned(),
        NetworkMode::Named(name) => name.clone(),
    }
}

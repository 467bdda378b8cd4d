//! Reads an OpenSSH user certificate (PROTOCOL.certkeys) that comes with a private key.
//!
//! The server judges it: its authority, its time and its users. It is read here for two reasons. What no server can take is
//! refused by name before a connection is made. And sshd answers every refusal with the same words, so the likely reason is
//! looked for here, after the server has refused.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::executors::ssh::keys::{string, with_length};
use crate::executors::ssh::known_hosts::fingerprint;
use crate::limits::{HOST_KEYS_SHOWN, PRIVATE_KEY_MAX};
use crate::wire::time::rfc3339;

/// How the names of certificates end.
const SUFFIX: &str = "-cert-v01@openssh.com";
/// Their plain keys, with the number of the key's own parts behind the nonce.
const KINDS: &[(&str, usize)] = &[
    ("ssh-ed25519", 1),
    ("ecdsa-sha2-nistp256", 2),
    ("ecdsa-sha2-nistp384", 2),
    ("ecdsa-sha2-nistp521", 2),
    ("ssh-rsa", 2),
];
const USER: u32 = 1;
const HOST: u32 = 2;
/// Characters of a name that a message shows.
const NAME: usize = 64;

/// Why a text is not a usable certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateError {
    TooLong,
    PrivateKey,
    PublicKey,
    X509,
    /// The name of a file.
    Path,
    /// One of a key that no agent can use, or of a kind that is not known.
    Kind,
    Damaged,
    Host,
    AnotherKey,
    NoKey,
    Unknown,
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => return write!(f, "it has more than {PRIVATE_KEY_MAX} bytes, which no certificate has"),
            Self::PrivateKey => "it is a private key; the certificate is in the file that ends in -cert.pub",
            Self::PublicKey => {
                "it is a public key that no authority has signed; `ssh-keygen -s AUTHORITY` makes a certificate"
            }
            Self::X509 => "it is an X.509 certificate, and SSH has certificates in another format",
            Self::Path => "it is the name of a file; what the file contains is needed",
            Self::Kind => "it is of a kind that cannot be used here; RSA, ECDSA (256, 384, 521) and Ed25519 are",
            Self::Damaged => "it is damaged; copy the whole file again",
            Self::Host => "it is the certificate of a host; sign the user's key without -h",
            Self::AnotherKey => "it belongs to another key than the private key that came with it",
            Self::NoKey => "it came without the private key that it belongs to",
            Self::Unknown => "it is not in OpenSSH's format, such as: ssh-ed25519-cert-v01@openssh.com AAAA…",
        })
    }
}

impl std::error::Error for CertificateError {}

/// A user's certificate. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Type and base64, as libssh2 reads it.
    line: String,
    /// The public key that it is for, in the protocol's encoding.
    key: Vec<u8>,
    users: Vec<String>,
    /// Seconds since 1970.
    from: u64,
    until: u64,
    /// The names of critical options, and what they hold.
    options: Vec<(String, String)>,
    authority: String,
}

impl Certificate {
    /// Reads the text of a `-cert.pub` file.
    pub fn read(text: &str) -> Result<Self, CertificateError> {
        if text.len() > PRIVATE_KEY_MAX {
            return Err(CertificateError::TooLong);
        }
        let mut words = text.trim_start_matches('\u{feff}').split_ascii_whitespace();
        let (Some(kind), Some(body)) = (words.next(), words.next()) else { return Err(of_another_form(text)) };
        let Some(plain) = kind.strip_suffix(SUFFIX) else { return Err(of_another_form(text)) };
        let Some((plain, parts)) = KINDS.iter().find(|(name, _)| *name == plain) else {
            return Err(CertificateError::Kind);
        };
        let blob = STANDARD.decode(body).map_err(|_| CertificateError::Damaged)?;
        let (certificate, kind_of) = parse(&blob, kind, plain, *parts).ok_or(CertificateError::Damaged)?;
        match kind_of {
            USER => Ok(Self { line: format!("{kind} {body}"), ..certificate }),
            HOST => Err(CertificateError::Host),
            _ => Err(CertificateError::Damaged),
        }
    }

    /// The text for libssh2.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Whether it is for this public key, in the protocol's encoding.
    pub fn is_for(&self, key: &[u8]) -> bool {
        self.key == key
    }

    /// Why a server may have refused it, for this user and time.
    pub fn likely_reason(&self, user: &str, now: SystemTime) -> String {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second >= self.until {
            return format!("it expired at {}", shown_time(self.until));
        }
        if second < self.from {
            return format!("it is valid from {} on", shown_time(self.from));
        }
        if self.users.is_empty() {
            return "it names no user (ssh-keygen -n), and sshd refuses such a one".to_owned();
        }
        if !self.users.iter().any(|name| name == user) {
            let rest = self.users.len().saturating_sub(HOST_KEYS_SHOWN);
            let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            let names: Vec<String> = self.users.iter().take(HOST_KEYS_SHOWN).map(|name| shown_name(name)).collect();
            return format!("it is for {}{more}, not for {}", names.join(", "), shown_name(user));
        }
        let about = |(name, value): &(String, String)| match name.as_str() {
            "force-command" => None,
            "source-address" => Some(format!("it is valid from the addresses {} alone", shown_name(value))),
            _ => Some(format!("the server may not know its critical option {}", shown_name(name))),
        };
        self.options.iter().find_map(about).unwrap_or_else(|| {
            format!("does the server trust its authority {} (TrustedUserCAKeys in sshd_config)?", self.authority)
        })
    }
}

/// What a text is that is no certificate of SSH.
fn of_another_form(text: &str) -> CertificateError {
    let text = text.trim();
    let first = text.split_ascii_whitespace().next().unwrap_or_default();
    let is_path = text.lines().count() == 1 && ["/", "~", "./", "../"].iter().any(|start| text.starts_with(start));
    match () {
        () if text.contains("PRIVATE KEY") => CertificateError::PrivateKey,
        () if text.contains("BEGIN CERTIFICATE") => CertificateError::X509,
        () if is_path => CertificateError::Path,
        () if first.contains("-cert-v") => CertificateError::Damaged,
        () if ["ssh-", "ecdsa-sha2-", "sk-"].iter().any(|start| first.starts_with(start)) => {
            CertificateError::PublicKey
        }
        () => CertificateError::Unknown,
    }
}

/// All parts, and whose certificate it is; nothing when it is cut short or is not what its line says.
fn parse(blob: &[u8], kind: &str, plain: &str, parts: usize) -> Option<(Certificate, u32)> {
    let mut rest = blob;
    if string(&mut rest)? != kind.as_bytes() {
        return None;
    }
    string(&mut rest)?;
    let mut key = with_length(plain.as_bytes());
    for _ in 0..parts {
        key.extend(with_length(string(&mut rest)?));
    }
    let _serial = number(&mut rest)?;
    let (kind_of, after) = rest.split_first_chunk::<4>()?;
    rest = after;
    string(&mut rest)?;
    let users = names(string(&mut rest)?)?;
    let (from, until) = (number(&mut rest)?, number(&mut rest)?);
    let options = options(string(&mut rest)?)?;
    // Extensions, and a part that is reserved.
    let (_, _) = (string(&mut rest)?, string(&mut rest)?);
    let authority = fingerprint(string(&mut rest)?);
    string(&mut rest).filter(|signature| !signature.is_empty() && rest.is_empty())?;
    let line = String::new();
    Some((Certificate { line, key, users, from, until, options, authority }, u32::from_be_bytes(*kind_of)))
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(u64::from_be_bytes(*bytes))
}

fn names(mut rest: &[u8]) -> Option<Vec<String>> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        all.push(String::from_utf8_lossy(string(&mut rest)?).into_owned());
    }
    Some(all)
}

/// Pairs of a name and a string, which holds a string where the option has a value.
fn options(mut rest: &[u8]) -> Option<Vec<(String, String)>> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (name, mut value) = (string(&mut rest)?, string(&mut rest)?);
        let value = if value.is_empty() { value } else { string(&mut value)? };
        all.push((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned()));
    }
    Some(all)
}

/// What is after the year 9999 is written as its end.
fn shown_time(seconds: u64) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_secs(seconds.min(1 << 38)), 0)
}

fn shown_name(name: &str) -> String {
    name.chars().take(NAME).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;

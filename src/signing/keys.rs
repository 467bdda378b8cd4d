//! The file of trusted keys: one key a line, `NAME ed25519 BASE64 [not-before=TIME] [not-after=TIME] [revoked]`.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::limits;
use crate::wire::time::parse_rfc3339;

/// Bytes of an Ed25519 public key (RFC 8032).
pub const PUBLIC_KEY: usize = 32;

/// A key that may sign jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// What a signature calls it.
    pub name: String,
    pub key: [u8; PUBLIC_KEY],
    pub not_before: Option<SystemTime>,
    pub not_after: Option<SystemTime>,
    pub is_revoked: bool,
    /// Where it stands, from 1.
    pub line: usize,
}

/// All keys of a file, in its order. The error names the line.
pub fn parse(text: &str) -> Result<Vec<TrustedKey>, String> {
    let mut keys: Vec<TrustedKey> = Vec::new();
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let key = one(line, at + 1).map_err(|why| format!("line {}: {why}", at + 1))?;
        if let Some(first) = keys.iter().find(|known| known.name == key.name) {
            return Err(format!("line {}: the name {} stands in line {} already", key.line, key.name, first.line));
        }
        if keys.len() == limits::SIGNING_KEYS_MAX {
            return Err(format!("line {}: more than {} keys", key.line, limits::SIGNING_KEYS_MAX));
        }
        keys.push(key);
    }
    if keys.is_empty() { Err("it holds no key".to_owned()) } else { Ok(keys) }
}

fn one(line: &str, at: usize) -> Result<TrustedKey, String> {
    let mut words = line.split_ascii_whitespace();
    let name = words.next().unwrap_or_default().to_owned();
    check_name(&name)?;
    match words.next() {
        Some("ed25519") => {}
        Some(other) => return Err(format!("the algorithm is {}; ed25519 alone is known", shown(other))),
        None => return Err("the algorithm and the key are missing".to_owned()),
    }
    let mut key = TrustedKey {
        name,
        key: public_key(words.next().ok_or("the key is missing")?)?,
        not_before: None,
        not_after: None,
        is_revoked: false,
        line: at,
    };
    for word in words {
        let slot = match word.split_once('=') {
            Some(("not-before", text)) => (&mut key.not_before, text),
            Some(("not-after", text)) => (&mut key.not_after, text),
            None if word == "revoked" && !key.is_revoked => {
                key.is_revoked = true;
                continue;
            }
            _ => return Err(format!("{} is not known: not-before=TIME, not-after=TIME or revoked", shown(word))),
        };
        let (field, text) = slot;
        if field.replace(time(text)?).is_some() {
            return Err(format!("{} is given twice", shown(word)));
        }
    }
    match (key.not_before, key.not_after) {
        (Some(before), Some(after)) if before >= after => Err("not-after is not later than not-before".to_owned()),
        _ => Ok(key),
    }
}

/// Whether a name can stand in a file of keys and in a signature.
pub fn check_name(name: &str) -> Result<(), String> {
    let sound = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-@:".contains(&b));
    if name.is_empty() || name.len() > limits::SIGNING_NAME_MAX || !sound {
        let most = limits::SIGNING_NAME_MAX;
        return Err(format!("{} is no name of a key: 1 to {most} letters, digits and _ . - @ :", shown(name)));
    }
    Ok(())
}

fn public_key(text: &str) -> Result<[u8; PUBLIC_KEY], String> {
    let bytes = STANDARD.decode(text).map_err(|_| "the key is not base64".to_owned())?;
    let found = bytes.len();
    bytes.try_into().map_err(|_| format!("the key has {found} bytes; an Ed25519 public key has {PUBLIC_KEY}"))
}

/// A date (its first moment in UTC), or RFC 3339.
fn time(text: &str) -> Result<SystemTime, String> {
    let whole = if text.len() == "2026-01-31".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    parse_rfc3339(&whole)
        .ok_or_else(|| format!("{} is no time such as 2026-12-31 or 2026-12-31T12:00:00Z", shown(text)))
}

/// A word from outside, cut and quoted.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

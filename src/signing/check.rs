//! Whether a job may run: its signature, or its script on the list.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};

use super::canonical;
use super::keys::{TrustedKey, shown};
use crate::job::{Job, Signature};
use crate::limits;
use crate::wire::time::parse_rfc3339;

/// Bytes of an Ed25519 signature (RFC 8032).
pub const SIGNATURE: usize = 64;

/// What makes a signature trusted.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    pub keys: &'a [TrustedKey],
    /// How old a signature may be; zero: any age.
    pub max_age: Duration,
    pub now: SystemTime,
}

/// The name of the key that signed `job`; the error says why its signature does not count.
pub fn verify<'a>(job: &Job, terms: &Terms<'a>) -> Result<&'a str, String> {
    let signature = match &job.signature {
        None => return Err("it has no signature".to_owned()),
        Some(Err(why)) => return Err(why.clone()),
        Some(Ok(signature)) => signature,
    };
    let named = terms.keys.iter().find(|key| key.name == signature.key_id);
    let key = named.ok_or_else(|| format!("its key {} is not in the file of keys", shown(&signature.key_id)))?;
    let covered = canonical::bytes(job, signature).map_err(|why| format!("no signature can cover it: {why}"))?;
    UnparsedPublicKey::new(&ED25519, key.key)
        .verify(&covered, &value(signature)?)
        .map_err(|_| format!("its signature by the key {} does not fit: something of the job was changed", key.name))?;
    // Times are looked at last: what nobody signed needs no explanation by its dates.
    in_time(signature, key, terms)?;
    Ok(&key.name)
}

fn value(signature: &Signature) -> Result<Vec<u8>, String> {
    let value = STANDARD.decode(&signature.value).map_err(|_| "its signature is not base64".to_owned())?;
    if value.len() != SIGNATURE {
        return Err(format!("its signature has {} bytes, an Ed25519 signature has {SIGNATURE}", value.len()));
    }
    Ok(value)
}

fn in_time(signature: &Signature, key: &TrustedKey, terms: &Terms<'_>) -> Result<(), String> {
    let (name, now) = (&key.name, terms.now);
    if key.is_revoked {
        return Err(format!("its key {name} is revoked"));
    }
    let signed = parse_rfc3339(&signature.signed_at).ok_or("its signedAt is no time in RFC 3339")?;
    let expires = match signature.expires_at.as_deref() {
        Some(text) => Some(parse_rfc3339(text).ok_or("its expiresAt is no time in RFC 3339")?),
        None => None,
    };
    if signed > now + limits::SIGNATURE_SKEW {
        return Err(format!("it was signed at {}, which is in the future of this host's clock", signature.signed_at));
    }
    if key.not_before.is_some_and(|from| signed < from || now < from) {
        return Err(format!("its key {name} is not valid yet"));
    }
    if key.not_after.is_some_and(|until| signed >= until || now >= until) {
        return Err(format!("its key {name} is not valid any more"));
    }
    if expires.is_some_and(|expires| now >= expires) {
        return Err(format!("its signature expired at {}", signature.expires_at.as_deref().unwrap_or_default()));
    }
    let age = now.duration_since(signed).unwrap_or_default();
    if !terms.max_age.is_zero() && age > terms.max_age {
        return Err(format!(
            "it was signed at {}, which is longer ago than security.signatures.maxAge",
            signature.signed_at
        ));
    }
    Ok(())
}

//! A receipt: what ran, how, and how it ended, signed by the agent that says so. Its bytes, version 1.
//!
//! A receipt is a list of named facts. What is not known has no fact. docs/receipts.md is the specification and names each
//! fact; `receipt_tests.rs` holds its vectors.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::json;

use super::canonical::Encoder;
use super::check::SIGNATURE;
use super::keys::{TrustedKey, check_name, shown};
use super::sha256;
use super::sign::SigningKey;
use crate::limits;
use crate::wire::scan::{FieldsError, Json};
use crate::wire::time::parse_rfc3339;

/// The first text: another version, or another use of a key, makes other bytes.
const DOMAIN: &str = "cronium.receipt.1";
const VERSION: u64 = 1;

/// Facts by their names.
pub type Facts = BTreeMap<String, String>;

/// A receipt as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The name of the agent's key, see [`key_id`].
    pub key_id: String,
    pub facts: Facts,
    /// The signature in base64.
    pub value: String,
}

/// The name of an agent's key: `AGENT@` and the first 16 digits of the SHA-256 of its public half.
pub fn key_id(agent: &str, public: &[u8]) -> String {
    format!("{agent}@{}", &sha256(public)[..16])
}

/// The bytes that are signed. An agent's facts are bounded, so this does not fail for them.
pub fn bytes(key_id: &str, facts: &Facts) -> Result<Vec<u8>, String> {
    let mut out = Encoder::default();
    out.text(DOMAIN)?;
    out.text(key_id)?;
    out.count(facts.len())?;
    // The map's order is that of the names' bytes.
    for (name, value) in facts {
        out.text(name)?;
        out.text(value)?;
    }
    Ok(out.0)
}

impl Receipt {
    /// Signs `facts`, each cut to what a reader takes.
    pub fn sign(key: &SigningKey, key_id: &str, mut facts: Facts) -> Result<Self, String> {
        facts.retain(|_, value| !value.is_empty());
        facts.values_mut().for_each(cut);
        let value = key.of_bytes(&bytes(key_id, &facts)?);
        Ok(Self { key_id: key_id.to_owned(), facts, value })
    }

    /// Its JSON.
    pub fn to_json(&self) -> String {
        json!({"version": VERSION, "keyId": self.key_id, "facts": self.facts, "value": self.value}).to_string()
    }

    /// Reads what [`Receipt::to_json`] wrote, whatever a store did to its order and spaces, and nothing else.
    pub fn read(json: Json<'_>) -> Result<Self, String> {
        let names = ["version", "keyId", "facts", "value"];
        let [version, key_id, facts, value] = json.fields(names).map_err(|error| match error {
            FieldsError::Twice(name) => format!("{name} is given twice"),
            _ => format!("a receipt must be an object, found {}", json.sort()),
        })?;
        if version.and_then(Json::count) != Some(VERSION) {
            return Err(format!("its version is not known; {VERSION} is"));
        }
        for member in json.members().into_iter().flatten() {
            let (name, _) = member.map_err(|why| why.to_string())?;
            if !names.iter().any(|known| name.is(known)) {
                return Err(format!("its member {} is not known", shown(&name.beginning(40).unwrap_or_default())));
            }
        }
        let text = |raw: Option<Json<'_>>, name: &str, most: usize| {
            let raw = raw.ok_or_else(|| format!("{name} is missing"))?;
            raw.text(most).map_err(|_| format!("{name} must be text of at most {most} bytes"))
        };
        let key_id = text(key_id, "keyId", limits::SIGNING_NAME_MAX)?;
        check_name(&key_id)?;
        let facts = facts.ok_or("facts is missing")?;
        let mut all = Facts::new();
        for member in facts.members().ok_or_else(|| format!("facts must be an object, found {}", facts.sort()))? {
            let (name, value) = member.map_err(|why| why.to_string())?;
            let name = text(Some(name), "the name of a fact", limits::RECEIPT_NAME_MAX)?;
            let value = text(Some(value), &format!("the fact {}", shown(&name)), limits::RECEIPT_TEXT_MAX)?;
            if all.len() == limits::RECEIPT_FACTS_MAX {
                return Err(format!("it has more than {} facts", limits::RECEIPT_FACTS_MAX));
            }
            if all.insert(name.clone(), value).is_some() {
                return Err(format!("the fact {} is given twice", shown(&name)));
            }
        }
        Ok(Self { key_id, facts: all, value: text(value, "value", limits::SIGNATURE_TEXT_MAX)? })
    }

    /// The error says why the signature does not count.
    pub fn verify(&self, keys: &[TrustedKey]) -> Result<(), String> {
        let named = keys.iter().find(|key| key.name == self.key_id);
        let key = named.ok_or_else(|| format!("its key {} is not among the trusted ones", shown(&self.key_id)))?;
        let value = STANDARD.decode(&self.value).map_err(|_| "its signature is not base64".to_owned())?;
        if value.len() != SIGNATURE {
            return Err(format!("its signature has {} bytes, an Ed25519 signature has {SIGNATURE}", value.len()));
        }
        UnparsedPublicKey::new(&ED25519, key.key).verify(&bytes(&self.key_id, &self.facts)?, &value).map_err(|_| {
            "its signature does not fit: something of it was changed, or another key made it".to_owned()
        })?;
        // A key of one agent says nothing for another.
        let agent = self.key_id.rsplit_once('@').map(|(agent, _)| agent);
        if agent.is_none() || agent != self.facts.get("agent").map(String::as_str) {
            return Err(format!("it is not by the agent that its key {} is of", shown(&self.key_id)));
        }
        if key.is_revoked {
            return Err(format!("its key {} is revoked", key.name));
        }
        let made = self.facts.get("reportedAt").and_then(|text| parse_rfc3339(text));
        let made = made.ok_or("its fact reportedAt is no time in RFC 3339")?;
        if key.not_before.is_some_and(|from| made < from) || key.not_after.is_some_and(|until| made >= until) {
            return Err(format!("its key {} was not valid when it was made", key.name));
        }
        Ok(())
    }
}

/// The text of an output as a report carries it: PostgreSQL takes no NUL, so U+FFFD stands in its place.
pub fn as_sent(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// To the longest text that a reader takes, at the border of a character.
fn cut(text: &mut String) {
    let most = limits::RECEIPT_TEXT_MAX;
    if text.len() > most {
        let end = (0..=most - 3).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
#[path = "receipt_tests.rs"]
mod tests;

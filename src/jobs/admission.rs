//! Whether a claimed job may run here: `security.signatures` and `security.allowedScripts`.
//!
//! The backend decides which jobs an agent gets. These two keys bound what it can make the agent run, even where somebody
//! else has taken it over. The check is the first step of a job: before it nothing of the job reaches the engine, a server
//! or the network.

use std::time::SystemTime;

use crate::config::types::{SignatureMode, Trust};
use crate::job::Job;
use crate::metrics;
use crate::signing::check::{Terms, verify};
use crate::signing::keys::TrustedKey;

/// Why a job may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Nothing is asked for.
    Unasked,
    /// The name of the key that signed it.
    Signed(String),
    /// The name of its script on the list.
    Listed(String),
    /// `security.signatures.mode` is `warn`, and it has no valid signature.
    Unproven,
}

/// What is asked of jobs here, for people: the mode, the keys, the list.
pub fn shown(trust: &Trust) -> String {
    let names = |keys: &[TrustedKey]| {
        let shown = |key: &TrustedKey| format!("{}{}", key.name, if key.is_revoked { " (revoked)" } else { "" });
        keys.iter().map(shown).collect::<Vec<_>>().join(", ")
    };
    let (keys, count) = (names(&trust.keys.content), trust.scripts.content.len());
    match (trust.signatures, trust.scripts.path.is_some()) {
        (SignatureMode::Off, false) => "nothing: this host runs whatever the backend hands out".to_owned(),
        (SignatureMode::Off, true) => format!("one of {count} allowed scripts"),
        (SignatureMode::Warn, false) => format!("nothing, but jobs not signed by {keys} are warned of"),
        (SignatureMode::Require, false) => format!("a signature by {keys}"),
        (_, true) => format!("a signature by {keys}, or one of {count} allowed scripts"),
    }
}

/// Why the job may run; the error is the verdict's sentence.
pub fn admit(trust: &Trust, job: &Job, now: SystemTime) -> Result<Proof, String> {
    let has_list = trust.scripts.path.is_some();
    let unsigned = match trust.signatures {
        SignatureMode::Off if !has_list => return Ok(Proof::Unasked),
        SignatureMode::Off => None,
        SignatureMode::Warn | SignatureMode::Require => {
            let terms = Terms { keys: &trust.keys.content, max_age: trust.max_age, now };
            match verify(job, &terms) {
                Ok(key) => {
                    log::info!("signed by the key {key}");
                    return Ok(Proof::Signed(key.to_owned()));
                }
                Err(why) => Some(why),
            }
        }
    };
    let unlisted = match has_list.then(|| trust.scripts.content.allow(job)) {
        Some(Ok(name)) => {
            log::info!("its script is {name} of security.allowedScripts");
            return Ok(Proof::Listed(name.to_owned()));
        }
        Some(Err(why)) => Some(why),
        None => None,
    };
    if trust.signatures == SignatureMode::Warn && unlisted.is_none() {
        metrics::JOBS_UNSIGNED.add(1);
        log::warn!("the job runs without a valid signature: {}", unsigned.unwrap_or_default());
        return Ok(Proof::Unproven);
    }
    metrics::JOBS_UNSIGNED.add(1);
    let by = |key: &str, why: Option<String>| why.map(|why| format!("{key}: {why}"));
    let reasons = [by("security.signatures", unsigned), by("security.allowedScripts", unlisted)];
    let reasons: Vec<String> = reasons.into_iter().flatten().collect();
    Err(format!("this host runs no job that is not proven to be meant for it; {}", reasons.join("; ")))
}

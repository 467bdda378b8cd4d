//! Each report of the simulation carries a receipt, which must be the report's own, whatever was killed before it was sent.

use serde_json::Value;

use super::backend::Report;
use crate::jobs::receipts::{Receipts, Signer};
use crate::secret::Secret;
use crate::signing::keys;
use crate::signing::receipt::{Facts, Receipt, key_id};
use crate::signing::sha256;
use crate::signing::sign::SigningKey;
use crate::wire::scan::Json;

const AGENT: &str = "a";
/// The private key of RFC 8032, section 7.1, test 1.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";

fn key() -> SigningKey {
    SigningKey::of_pem(&Secret::new(PEM)).expect("a key")
}

/// Those of each agent, all with one key, as on one host.
pub(super) fn receipts() -> Receipts {
    let proof = Box::new(Facts::new);
    Receipts::new(Some(Signer { key: key(), agent: AGENT.to_owned(), host: None, proof }))
}

/// What is wrong with the receipt of this job's report.
pub(super) fn fault(job: &str, report: &Report) -> Result<(), String> {
    let text = match &report.receipt {
        Value::Null => return Err(format!("{job}: its report has no receipt")),
        receipt => receipt.to_string(),
    };
    let json = Json::strict(text.as_bytes()).map_err(|error| error.to_string())?;
    let receipt = Receipt::read(json)?;
    let trusted = keys::parse(&key().line(&key_id(AGENT, key().public())))?;
    receipt.verify(&trusted).map_err(|why| format!("{job}: {why}"))?;
    for (name, want) in [
        ("job", job),
        ("status", &report.status),
        ("exitCode", &report.exit_code.to_string()),
        ("stdoutSha256", &sha256(report.stdout.as_bytes())),
        ("stderrSha256", &sha256(report.stderr.as_bytes())),
    ] {
        let found = receipt.facts.get(name).map(String::as_str);
        if found != Some(want) {
            return Err(format!("{job}: the receipt's {name} is {found:?}, the report has {want:?}"));
        }
    }
    Ok(())
}

//! Makes keys and signatures, for the command line.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::{canonical, keys};
use crate::job::{Job, Signature};
use crate::secret::Secret;
use crate::wire::time::rfc3339;

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// A private key.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A new key and its PEM text (PKCS#8).
    pub fn make() -> Result<(Self, Secret), String> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let made = made.map_err(|_| "the kernel gave no random bytes".to_owned())?;
        let body = STANDARD.encode(made.as_ref());
        let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        let pem = Secret::new(format!("{BEGIN}\n{}\n{END}\n", lines.join("\n")));
        Ok((Self::of_pem(&pem)?, pem))
    }

    /// Reads what [`SigningKey::make`] wrote, or `openssl genpkey -algorithm ed25519`.
    pub fn of_pem(pem: &Secret) -> Result<Self, String> {
        let body = pem.expose().split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
        let (body, _) = body.ok_or_else(|| format!("it holds no {BEGIN}"))?;
        let body: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| "its text is not base64".to_owned())?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der);
        pair.map(Self).map_err(|error| format!("it is no Ed25519 private key: {error}"))
    }

    /// Reads a file that is such a text and nothing else. The error names the line, and quotes nothing.
    pub fn of_pem_file(pem: &Secret) -> Result<Self, String> {
        let mut lines = pem.expose().trim_end().lines().map(str::trim_end).enumerate();
        if lines.next().is_none_or(|(_, line)| line != BEGIN) {
            return Err(format!("line 1: it is not {BEGIN}"));
        }
        let (mut last, mut has_end) = (1, false);
        for (at, line) in lines {
            last = at + 1;
            has_end = line == END;
            let is_base64 = line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
            if !has_end && !is_base64 {
                return Err(format!("line {last}: it is not base64"));
            }
        }
        if !has_end {
            return Err(format!("line {last}: {END} does not follow"));
        }
        Self::of_pem(pem)
    }

    /// The public half.
    pub fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// The line for a file of keys.
    pub fn line(&self, name: &str) -> String {
        format!("{name} ed25519 {}", STANDARD.encode(self.public()))
    }

    /// Signs `job` as the key `name`.
    pub fn sign(
        &self,
        job: &Job,
        name: &str,
        (now, expires): (SystemTime, Option<SystemTime>),
    ) -> Result<Signature, String> {
        keys::check_name(name)?;
        let mut signature = Signature {
            key_id: name.to_owned(),
            signed_at: rfc3339(now, 0),
            expires_at: expires.map(|at| rfc3339(at, 0)),
            value: String::new(),
        };
        signature.value = self.of_bytes(&canonical::bytes(job, &signature)?);
        Ok(signature)
    }

    /// The signature of `bytes`, as base64.
    pub fn of_bytes(&self, bytes: &[u8]) -> String {
        STANDARD.encode(self.0.sign(bytes))
    }
}

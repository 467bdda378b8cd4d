//! Signed jobs: what a backend that was taken over cannot make an agent run.
//!
//! A signature (Ed25519) covers the [`canonical`] bytes of a job. They are made from the job as this agent has read it, so
//! that nothing else of the row decides what runs. [`keys`] reads the trusted keys, [`scripts`] the list of allowed
//! scripts, [`check`] decides, [`sign`] makes keys and signatures. docs/signing.md has the format to the byte. [`receipt`] is the other
//! direction: what an agent says of a job's end, docs/receipts.md.

pub mod canonical;
pub mod check;
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
pub mod keys;
pub mod receipt;
pub mod scripts;
pub mod sign;

use std::fmt::Write as _;

use ring::digest;

/// A SHA-256 sum in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

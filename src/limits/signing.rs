//! Limits of signed jobs and of receipts.

use std::time::Duration;

/// Keys of a file of trusted keys: more than any team has pipelines.
pub const SIGNING_KEYS_MAX: usize = 100;
/// Bytes of a key's name: an agent's id of 100, `@`, and 16 digits.
pub const SIGNING_NAME_MAX: usize = 120;
/// Bytes of one text of a signature: its value has 88, a time 35, a name 120.
pub const SIGNATURE_TEXT_MAX: usize = 200;
/// How far the clock of a signer may be ahead of this host's.
pub const SIGNATURE_SKEW: Duration = Duration::from_secs(300);
/// Scripts of a list of allowed ones: what a configured file has room for.
pub const ALLOWED_SCRIPTS_MAX: usize = 10_000;
/// Facts of a receipt: 40, and 4 for each of [`RECEIPT_SERVERS`].
pub const RECEIPT_FACTS_MAX: usize = 1000;
/// Bytes of a fact's name.
pub const RECEIPT_NAME_MAX: usize = 64;
/// Bytes of a fact. A longer one is cut.
pub const RECEIPT_TEXT_MAX: usize = 8192;
/// Servers whose ends the receipt of a job on several servers names. Each has a receipt itself.
pub const RECEIPT_SERVERS: usize = 200;
/// Bytes of the file with an agent's key; it has 119.
pub const RECEIPT_KEY_FILE: u64 = 4096;

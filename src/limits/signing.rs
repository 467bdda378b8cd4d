//! Limits of signed jobs.

use std::time::Duration;

/// Keys of a file of trusted keys: more than any team has pipelines.
pub const SIGNING_KEYS_MAX: usize = 100;
/// Bytes of a key's name.
pub const SIGNING_NAME_MAX: usize = 100;
/// Bytes of one text of a signature: its value has 88, a time 35, a name 100.
pub const SIGNATURE_TEXT_MAX: usize = 200;
/// How far the clock of a signer may be ahead of this host's.
pub const SIGNATURE_SKEW: Duration = Duration::from_secs(300);
/// Scripts of a list of allowed ones: what a configured file has room for.
pub const ALLOWED_SCRIPTS_MAX: usize = 10_000;

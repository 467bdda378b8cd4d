//! Bounds of the search for secrets.

use std::time::Duration;

/// Bytes of the shortest value that is redacted: shorter ones stand in any text. An unfinished secret tells something from
/// as many bytes on.
pub const REDACT_SHORTEST: usize = 6;
/// Bytes of an unfinished secret that go on at a pause: the last letters of a prompt often begin like some spelling.
pub const REDACT_SHOWN: usize = 2;
/// Secrets of one job.
pub const REDACT_VALUES: usize = 1000;
/// Bytes of all spellings of a job's secrets: 20 secrets have 20 kB. The search takes 16 bytes for each in memory.
pub const REDACT_BYTES: usize = 512 * 1024;
/// Longest needle. A longer one is searched for in pieces.
pub const REDACT_NEEDLE: usize = 32 * 1024;
/// Names of variables in a sentence of a job's log about what is not redacted.
pub const REDACT_NAMES_SHOWN: usize = 20;
/// Silence after which an unfinished secret counts as one.
pub const REDACT_HOLD: Duration = Duration::from_millis(200);

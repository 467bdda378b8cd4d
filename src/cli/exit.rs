//! Exit codes of the program, and an error of its command line.

/// All went well.
pub const OK: u8 = 0;
/// The command failed.
pub const FAILED: u8 = 1;
/// Bad usage or a configuration with problems.
pub const USAGE: u8 = 2;
/// The container engine could not be reached.
pub const ENGINE: u8 = 3;
/// The drain ended with jobs that still ran: they were left to the next start, or cancelled.
pub const NOT_DRAINED: u8 = 4;
/// A third signal: ended at once, while jobs ran.
pub const FORCED: u8 = 5;
/// `exec`: the script ran longer than its limit. `timeout(1)` has the same code.
pub const EXEC_TIMEOUT: u8 = 124;
/// `exec`: the infrastructure failed or the script could not be run.
pub const EXEC_FAILED: u8 = 125;

/// Why the command line makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

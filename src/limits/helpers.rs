//! The helpers of scripts: how much one script may ask, and how long for.

use std::time::Duration;

/// Connections of one job's script that are served at once. More of them wait in the kernel's queue.
pub const HELPER_CONNECTIONS: usize = 8;
/// Calls of one script within a minute, as the sidecar of older versions counted them.
pub const HELPER_CALLS_A_MINUTE: u32 = 1000;
/// The minute of it.
pub const HELPER_MINUTE: Duration = Duration::from_secs(60);
/// Threads for the calls of all scripts that wait for the backend or the disk. More calls wait in line.
pub const HELPER_THREADS: usize = 32;
/// Bytes of a body beside the output or the value in it.
pub const HELPER_BODY_ROOM: usize = 1024;
/// Bodies up to this size are read at once: all places of a hundred jobs together hold 13 MB.
pub const HELPER_BODY_SMALL: usize = 16 * 1024;
/// Bytes of larger bodies, of all jobs together. Twice the largest that can be allowed.
pub const HELPER_BODIES: usize = 32 * 1024 * 1024;
/// How long a client may take to send its body, or wait for room for it.
pub const HELPER_BODY: Duration = Duration::from_secs(30);
/// How long an answer may take: longer than the backend's tries with the usual times.
pub const HELPER_ANSWER: Duration = Duration::from_secs(600);

//! The numbers of `doctor`: how long a person waits, and how much a canary wants. Used as the others, by `limits::NAME`.

use std::time::Duration;

/// `doctor`: one call to the backend, where `api.timeout` is not shorter: a person waits for the answer.
pub const DOCTOR_CALL: Duration = Duration::from_secs(5);
/// The backend's name to addresses. The C library's resolver may try for longer; then it is left to itself.
pub const DOCTOR_DNS: Duration = Duration::from_secs(5);
/// From the first packet to the end of the TLS handshake.
pub const DOCTOR_TLS: Duration = Duration::from_secs(5);
/// All questions to the backend together, and all to this host: more than their parts, so that a part is named.
pub const DOCTOR_GROUP: Duration = Duration::from_secs(30);
/// A certificate that ends sooner is warned of: time to have a new one made, and none of a healthy renewal's last days.
pub const DOCTOR_EXPIRY: Duration = Duration::from_secs(14 * 86_400);
/// From the making of a canary's container to its start, five at once: the first ones after a boot, on a slow disk, take
/// more than fifteen seconds.
pub const DOCTOR_SETUP: Duration = Duration::from_secs(30);
/// How long a canary may run. The longest needs two seconds where nobody else works.
pub const DOCTOR_CANARY: Duration = Duration::from_secs(15);
/// From TERM to KILL of a canary: none of them has anything to finish.
pub const DOCTOR_GRACE: Duration = Duration::from_millis(200);
/// All canaries, from the first one's making to the last one's removal.
pub const DOCTOR_CANARIES: Duration = Duration::from_secs(60);
/// One try to connect, from this host to the canary that listens.
pub const DOCTOR_REACH: Duration = Duration::from_secs(1);
/// Memory of the canary that wants more than it may have, in bytes.
pub const DOCTOR_MEMORY: u64 = 64 << 20;
/// Bytes that it holds within its limit, and
pub const DOCTOR_MEMORY_FITS: u64 = 4 << 20;
/// those that it wants beyond it: few enough that a host without a limit survives them.
pub const DOCTOR_MEMORY_MORE: u64 = 256 << 20;
/// Processes of the canary that wants more, and
pub const DOCTOR_PIDS: u64 = 32;
/// how many it tries to start.
pub const DOCTOR_PIDS_MORE: u64 = 96;
/// Cores of the canary that is busy twice over.
pub const DOCTOR_CPU: f64 = 0.2;
/// Disk of the canary that writes too much, in bytes.
pub const DOCTOR_DISK: u64 = 16 << 20;
/// Bytes that it writes within its limit, and
pub const DOCTOR_DISK_FITS: u64 = 2 << 20;
/// those that it wants to write.
pub const DOCTOR_DISK_MORE: u64 = 24 << 20;
/// Bytes that are kept of each stream of a canary.
pub const DOCTOR_OUTPUT: usize = 64 * 1024;
/// Characters of what a check says it measured: words of engines and backends are in it.
pub const DOCTOR_TEXT: usize = 600;

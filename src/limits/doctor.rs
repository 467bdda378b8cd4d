//! The numbers of `doctor`: how long a person waits, and how much a canary wants. Used as the others, by `limits::NAME`.

use std::time::Duration;

/// `doctor`: one call to the backend, unless `api.timeout` is shorter: a person waits for the answer.
pub const DOCTOR_CALL: Duration = Duration::from_secs(5);
/// The backend's name to addresses. The C library's resolver may try for longer; then it is left behind.
pub const DOCTOR_DNS: Duration = Duration::from_secs(5);
/// From the first packet to the end of the TLS handshake.
pub const DOCTOR_TLS: Duration = Duration::from_secs(5);
/// All questions to the backend together, and all to this host: more than their parts, so that a part is named.
pub const DOCTOR_GROUP: Duration = Duration::from_secs(30);
/// A certificate that ends sooner causes a warning: time to renew it, and longer than the last days of a healthy renewal.
pub const DOCTOR_EXPIRY: Duration = Duration::from_secs(14 * 86_400);
/// From the making of a canary's container to its start, five at once: the first ones after a boot, on a slow disk, take
/// more than fifteen seconds.
pub const DOCTOR_SETUP: Duration = Duration::from_secs(30);
/// How long a canary may run. The longest needs two seconds on an idle host.
pub const DOCTOR_CANARY: Duration = Duration::from_secs(15);
/// From TERM to KILL of a canary: none of them has anything to finish.
pub const DOCTOR_GRACE: Duration = Duration::from_millis(200);
/// All canaries, from the first one's making to the last one's removal.
pub const DOCTOR_CANARIES: Duration = Duration::from_secs(60);
/// One try to connect, from this host to the canary that listens.
pub const DOCTOR_REACH: Duration = Duration::from_secs(1);
/// Memory limit of the canary that wants more, in bytes.
pub const DOCTOR_MEMORY: u64 = 64 << 20;
/// Bytes that it holds within its limit, and
pub const DOCTOR_MEMORY_FITS: u64 = 4 << 20;
/// those that it wants beyond it: few enough that a host without a limit survives them.
pub const DOCTOR_MEMORY_MORE: u64 = 256 << 20;
/// Processes of the canary that wants more, and
pub const DOCTOR_PIDS: u64 = 32;
/// how many it tries to start.
pub const DOCTOR_PIDS_MORE: u64 = 96;
/// Core limit of the canary with two busy processes.
pub const DOCTOR_CPU: f64 = 0.2;
/// Disk limit of the canary that writes too much, in bytes.
pub const DOCTOR_DISK: u64 = 16 << 20;
/// Bytes that it writes within its limit, and
pub const DOCTOR_DISK_FITS: u64 = 2 << 20;
/// those that it wants to write.
pub const DOCTOR_DISK_MORE: u64 = 24 << 20;
/// Bytes that are kept of each stream of a canary.
pub const DOCTOR_OUTPUT: usize = 64 * 1024;
/// Characters of a check's measurement: it holds text of engines and backends.
pub const DOCTOR_TEXT: usize = 600;

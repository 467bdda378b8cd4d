//! The numbers of the proofs: how much a canary wants, and how long it is waited for. Used as the others, by `limits::NAME`.

use std::time::Duration;

/// From the making of a canary's container to its start, five at once: the first ones after a boot, on a slow disk, take
/// more than fifteen seconds.
pub const PROOF_SETUP: Duration = Duration::from_secs(30);
/// How long a canary may run. The longest needs three seconds on an idle host.
pub const PROOF_CANARY: Duration = Duration::from_secs(15);
/// From TERM to KILL of a canary: none of them has anything to finish.
pub const PROOF_GRACE: Duration = Duration::from_millis(200);
/// All canaries, from the first one's making to the last one's removal; an agent that has to pull images has
/// `jobs.setupTimeout`.
pub const PROOF_CANARIES: Duration = Duration::from_secs(60);
/// Between two looks whether the canaries are to end before their time.
pub const PROOF_TICK: Duration = Duration::from_millis(100);
/// The share of a core that each canary gets. All of them together get one core, so that a proof takes at most
/// [`PROOF_CANARY`] of one core in its containers.
pub const PROOF_SHARES: [(&str, f64); 9] = [
    ("locks", 0.15),
    ("cores", PROOF_CPU),
    ("calls", 0.1),
    ("memory", 0.05),
    ("processes", 0.05),
    ("listen", 0.15),
    ("reach", 0.1),
    ("end", 0.05),
    ("names", 0.15),
];
/// One try to connect, from this host to a canary, and one question to a name server.
pub const PROOF_REACH: Duration = Duration::from_secs(1);
/// Memory limit of the canary that wants more, in bytes.
pub const PROOF_MEMORY: u64 = 64 << 20;
/// Bytes that it holds within its limit, and
pub const PROOF_MEMORY_FITS: u64 = 4 << 20;
/// those that it wants beyond it: few enough that a host without a limit survives them.
pub const PROOF_MEMORY_MORE: u64 = 256 << 20;
/// Processes of the canary that wants more, and
pub const PROOF_PIDS: u64 = 32;
/// how many it tries to start.
pub const PROOF_PIDS_MORE: u64 = 96;
/// Core limit of the canary with two busy processes.
pub const PROOF_CPU: f64 = 0.2;
/// Disk limit of the canary that writes too much, in bytes.
pub const PROOF_DISK: u64 = 16 << 20;
/// Bytes that it writes within its limit, and
pub const PROOF_DISK_FITS: u64 = 2 << 20;
/// those that it wants to write.
pub const PROOF_DISK_MORE: u64 = 24 << 20;
/// Bytes that are kept of each stream of a canary.
pub const PROOF_OUTPUT: usize = 64 * 1024;
/// Characters of a check's measurement: it holds text of engines and backends.
pub const PROOF_TEXT: usize = 600;
/// Between two proofs by a running agent, unless `jobs.proofMaxAge` is less.
pub const PROOF_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Until a running agent tries again after a proof that was ended early or came to nothing, and
pub const PROOF_AGAIN: Duration = Duration::from_secs(60);
/// after one that found a wall open: somebody has to close it.
pub const PROOF_OPEN: Duration = Duration::from_secs(600);
/// Bytes that are read at once from a stream of the engine on which nothing comes.
pub const LIFE_READ: usize = 512;
/// Bytes of `/etc/resolv.conf` that are read, and
pub const RESOLVER_FILE: u64 = 64 * 1024;
/// name servers of it that are used: as many as the C library does.
pub const RESOLVERS: usize = 3;
/// Bytes of a name server's answer that are read: more than UDP brings without an extension.
pub const RESOLVER_ANSWER: usize = 1232;

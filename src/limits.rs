//! Every number that bounds a wait, a buffer or a count, in one place.
//!
//! A limit that an operator may set is in `config`; here are those that he may not, each with its reason. A wait that
//! is bounded by one of these names it in the error that it causes.

use std::time::Duration;

// ---- docker -----------------------------------------------------------------------------------------------------------

/// Opening a TCP connection to the engine, each address.
pub const DOCKER_CONNECT: Duration = Duration::from_secs(5);
/// A call that the engine answers from memory (ping, inspect, kill, networks), on a host that is merely busy.
pub const DOCKER_QUICK: Duration = Duration::from_secs(15);
/// A call that makes the engine work (create, start, remove): a slow disk under load needs seconds.
pub const DOCKER_WORK: Duration = Duration::from_secs(60);
/// Bytes asked of the engine's socket in one read: the largest that the kernel hands over at once by default.
pub const DOCKER_READ: usize = 64 * 1024;
/// The largest answer read whole (an `inspect` is about 10 kB).
pub const DOCKER_ANSWER: usize = 4 * 1024 * 1024;
/// Characters of the engine's own words that are kept in an error.
pub const ENGINE_MESSAGE: usize = 500;
/// Layers of one pull that are told apart in its progress.
pub const PULL_LAYERS: usize = 512;
/// Longest line of a pull's progress that is read.
pub const PULL_LINE: usize = 64 * 1024;
/// A pull that has said nothing for so long has hung.
pub const PULL_SILENCE: Duration = Duration::from_secs(120);
/// Attempts at a pull before the job is failed.
pub const PULL_ATTEMPTS: u32 = 3;
/// Wait before the second attempt at a pull; twice that before the third.
pub const PULL_DELAY: Duration = Duration::from_secs(1);
/// Between two progress lines of one pull in a job's log.
pub const PULL_PROGRESS: Duration = Duration::from_secs(5);
/// A script that prints nothing for so long makes the worker ask whether its container still runs.
pub const SILENCE_CHECK: Duration = Duration::from_secs(30);
/// How often a worker that reads a silent stream looks up, to see whether stopping was given up.
pub const FOLLOW_TICK: Duration = Duration::from_millis(500);
/// One long-poll of the wait for a container's end; then the worker looks whether waiting was given up.
pub const WAIT_SLICE: Duration = Duration::from_secs(5);
/// Bytes of the end of stderr that are searched for the reason of a failure.
pub const STDERR_TAIL: usize = 4096;
/// From KILL to the moment when the agent stops waiting for the engine to end a container.
pub const KILL_PATIENCE: Duration = Duration::from_secs(20);
/// Between two KILLs of the same container.
pub const KILL_AGAIN: Duration = Duration::from_secs(5);
/// First look at a job's use of resources; each further wait is twice as long, up to `SAMPLE_LONGEST`.
pub const SAMPLE_FIRST: Duration = Duration::from_millis(250);
/// Longest wait between two looks.
pub const SAMPLE_LONGEST: Duration = Duration::from_secs(2);
/// `/dev/shm` of a job, in bytes; it counts as the job's memory.
pub const SHM_SIZE: u64 = 64 * 1024 * 1024;
/// Files and folders on a job's tmpfs: an inode costs kernel memory that no size limit counts.
pub const TMPFS_INODES: u64 = 200_000;
/// The engine's copy of a job's output, in MiB a file and number of files: read only by an agent that was restarted.
pub const COPY_FILE_MIB: u64 = 16;
/// See [`COPY_FILE_MIB`].
pub const COPY_FILES: u64 = 2;
/// Largest script that is taken, in bytes.
pub const SCRIPT_MAX: usize = 16 * 1024 * 1024;
/// Largest environment of a job, all names and values, in bytes (the kernel's own cap on one string is 128 KiB).
pub const ENVIRONMENT_MAX: usize = 1024 * 1024;
/// Largest value of one environment variable, with its name, in bytes (the kernel's MAX_ARG_STRLEN less one).
pub const VARIABLE_MAX: usize = 128 * 1024 - 1;
/// Attempts to remove a container before it is left to the janitor.
pub const REMOVE_ATTEMPTS: u32 = 3;
/// Wait between two of them.
pub const REMOVE_DELAY: Duration = Duration::from_millis(500);

// ---- lines and frames -------------------------------------------------------------------------------------------------

/// Longest line of a script, in bytes: what is longer is cut in the live log, with a marker that counts the rest.
pub const LINE_MAX: usize = 64 * 1024;

/// Longest payload that one frame of Docker's attach stream may announce. The engine writes at most some 32 KiB a frame;
/// a length beyond this means that the socket speaks something else.
pub const FRAME_PAYLOAD_MAX: u32 = 16 * 1024 * 1024;

/// Longest head of an HTTP/1.1 message, blank line included. Docker's heads are below 1 KiB.
pub const HTTP_HEAD_MAX: usize = 32 * 1024;

/// Most header fields in one head.
pub const HTTP_HEADERS_MAX: usize = 100;

/// Longest line that states a chunk's size, extensions included. Docker sends no extensions.
pub const CHUNK_LINE_MAX: usize = 1024;

/// Most bytes of trailer fields after the last chunk; they are skipped, so a sender must not keep us skipping.
pub const CHUNK_TRAILERS_MAX: usize = 16 * 1024;

// ---- api --------------------------------------------------------------------------------------------------------------

// ---- live log ---------------------------------------------------------------------------------------------------------

// ---- health -----------------------------------------------------------------------------------------------------------

// ---- telemetry --------------------------------------------------------------------------------------------------------

// ---- config -----------------------------------------------------------------------------------------------------------

// ---- jobs and threads -------------------------------------------------------------------------------------------------

/// The reaper looks at its jobs at least so often, even when nothing wakes it.
pub const REAPER_SLEEP: Duration = Duration::from_secs(5);
/// How long shutdown waits for one thread to end before it says which one did not, and goes on.
pub const THREAD_JOIN_WAIT: Duration = Duration::from_secs(10);

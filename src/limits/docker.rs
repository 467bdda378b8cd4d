//! The engine: its calls, its answers, pulls and the life of a container.

use std::time::Duration;

/// The shortest timeout that is set on a socket: the kernel takes zero for none at all.
pub const SOCKET_WAIT_LEAST: Duration = Duration::from_millis(1);
/// Opening a connection to the engine: the name, all its addresses, or a socket whose queue is full.
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
/// Bytes of one text in an engine's answer that are kept: an id, a name, words.
pub const ENGINE_TEXT: usize = 4096;
/// Texts of one list in an engine's answer that are kept: names, warnings, options. Labels of one container too.
pub const ENGINE_LIST: usize = 64;
/// Containers of one list: three times what [`DOCKER_ANSWER`] has room for as the engine describes them.
pub const ENGINE_ROWS: usize = 10_000;
/// Bytes that the rows of such a list may take in memory: with the answer itself, twice [`DOCKER_ANSWER`].
pub const ENGINE_ROWS_HELD: usize = DOCKER_ANSWER - 64 * 1024;
/// Layers of one pull that its progress counts separately.
pub const PULL_LAYERS: usize = 512;
/// Longest line of a pull's progress that is read.
pub const PULL_LINE: usize = 64 * 1024;
/// A pull that has sent nothing for this long has hung.
pub const PULL_SILENCE: Duration = Duration::from_secs(120);
/// Attempts at a pull before the job is failed.
pub const PULL_ATTEMPTS: u32 = 3;
/// Wait before the second attempt at a pull; twice that before the third.
pub const PULL_DELAY: Duration = Duration::from_secs(1);
/// Between two progress lines of one pull in a job's log.
pub const PULL_PROGRESS: Duration = Duration::from_secs(5);
/// A script that prints nothing for this long makes the worker ask whether its container still runs.
pub const SILENCE_CHECK: Duration = Duration::from_secs(30);
/// How often a worker that reads a silent stream checks whether stopping was given up.
pub const FOLLOW_TICK: Duration = Duration::from_millis(200);
/// One long-poll of the wait for a container's end; then the worker looks whether waiting was given up.
pub const WAIT_SLICE: Duration = Duration::from_secs(5);
/// Bytes of the end of stderr that are searched for the reason of a failure.
pub const STDERR_TAIL: usize = 4096;
/// From KILL to the moment when the agent stops waiting for the engine to end a container.
pub const KILL_PATIENCE: Duration = Duration::from_secs(20);
/// Between two KILLs of the same container.
pub const KILL_AGAIN: Duration = Duration::from_secs(5);
/// First look at a job's use of resources; each further wait is twice as long, up to `SAMPLE_LONGEST`.
pub const SAMPLE_FIRST: Duration = Duration::from_millis(25);
/// Longest wait between two looks at the kernel's counters: what a job used in its last quarter of a second may be missing.
pub const SAMPLE_LONGEST: Duration = Duration::from_millis(250);
/// Between two questions to the engine for values that the kernel's files lack (use on a remote host, size of a layer).
pub const SAMPLE_ENGINE: Duration = Duration::from_secs(1);
/// `/dev/shm` of a job, in bytes; it counts as the job's memory.
pub const SHM_SIZE: u64 = 64 * 1024 * 1024;
/// Files and folders on a job's tmpfs: an inode costs kernel memory that no size limit counts.
pub const TMPFS_INODES: u64 = 200_000;
/// The engine's copy of a job's output, in MiB a file and number of files: read only by an agent that was restarted.
pub const COPY_FILE_MIB: u64 = 16;
/// See [`COPY_FILE_MIB`].
pub const COPY_FILES: u64 = 2;
/// Bytes that a container's shell may say on stderr before it begins the program: a warning a locale variable, of 90 bytes.
pub const MARKER_BEFORE: usize = 4096;
/// Bytes of output in a copy that has lost its beginning, from which on the script is known to have begun. A copy turns
/// over after [`COPY_FILE_MIB`] of JSON, which are 229,000 bytes at least; a shell without its program says a few words.
pub const COPY_TURNED_OVER: u64 = 64 * 1024;
/// Largest script that is taken, in bytes.
pub const SCRIPT_MAX: usize = 16 * 1024 * 1024;
/// Bytes of a script that is too large are counted up to here, for the message of `exec`: a pipe may never end.
pub const SCRIPT_COUNTED: u64 = 1024 * 1024 * 1024;
/// Largest environment of a job, all names and values, in bytes (the kernel's own cap on one string is 128 KiB).
pub const ENVIRONMENT_MAX: usize = 1024 * 1024;
/// Largest value of one environment variable, with its name, in bytes (the kernel's MAX_ARG_STRLEN less one).
pub const VARIABLE_MAX: usize = 128 * 1024 - 1;
/// Attempts to remove a container, or a folder on a server, before it is left: a container to the janitor.
pub const REMOVE_ATTEMPTS: u32 = 3;
/// Wait between two of them.
pub const REMOVE_DELAY: Duration = Duration::from_millis(500);
/// How long the shared network is waited for that another agent makes: a busy engine needs a second.
pub const NETWORK_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks for it.
pub const NETWORK_DELAY: Duration = Duration::from_millis(100);
/// Bytes of the kernel's list of network interfaces: some 8000 of them.
pub const INTERFACES: u64 = 1 << 20;
/// How long a container may still appear whose creation was given up: twice what its call was given.
pub const UNCONFIRMED_TIME: Duration = Duration::from_secs(120);
/// Names of such containers that are kept: more than all workers fail to create in that time by `DOCKER_WORK`.
pub const UNCONFIRMED_NAMES: usize = 256;
/// Age from which a container of no running job is removed. Another thread may be about to remove it too: the second one
/// finds it gone.
pub const JANITOR_GRACE: Duration = Duration::from_secs(120);
/// Between two looks for such containers.
pub const JANITOR_EVERY: Duration = Duration::from_secs(60);
/// Containers that are removed after one look; the rest waits for the next.
pub const JANITOR_ROUND: usize = 20;
/// Digests of one image that are looked at: one for each registry that has it.
pub const IMAGE_DIGESTS: usize = 100;

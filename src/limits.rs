//! Every number that bounds a wait, a buffer or a count, in one place.
//!
//! Limits that an operator may set are in `config`; the others are here, each with its reason. A wait that passes one of
//! them names it in its error.

mod api;
mod docker;
mod doctor;
mod helpers;
mod http;
mod images;
mod live;
mod net;
mod outbox;
mod page;
mod proofs;
mod redact;
mod signing;
mod ssh;
mod warm;

use std::time::Duration;

pub use api::*;
pub use docker::*;
pub use doctor::*;
pub use helpers::*;
pub use http::*;
pub use images::*;
pub use live::*;
pub use net::*;
pub use outbox::*;
pub use page::*;
pub use proofs::*;
pub use redact::*;
pub use signing::*;
pub use ssh::*;
pub use warm::*;

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
/// Bytes that are read of an SSH server's greeting, its offer included. OpenSSH sends 2 KiB.
pub const KEX_BYTES_MAX: usize = 64 * 1024;
/// Longest packet that is believed before the key exchange (RFC 4253 section 6.1).
pub const KEX_PACKET_MAX: usize = 35_000;
/// Bytes of an SSH server's own words that are shown when it closes the connection.
pub const KEX_WORDS_MAX: usize = 200;

/// Bytes of a known_hosts file. A line has some 100 to 600; the largest sites distribute files of a few MB.
pub const KNOWN_HOSTS_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of one of its lines: an RSA key of 16,384 bits for a thousand names has 100 kB. A longer one makes the file
/// unreadable: it may revoke a key.
pub const KNOWN_HOSTS_LINE_MAX: u64 = 256 * 1024;
/// Lines of it that may be of one host. A host has a few keys; with more the file is unreadable.
pub const KNOWN_HOSTS_OF_ONE: usize = 1000;
/// Lines that cannot be read, of which `doctor` tells.
pub const KNOWN_HOSTS_SKIPPED_SHOWN: usize = 5;
/// Keys of other types that are named where a host shows a key of an unknown type: one for each type that is in use.
pub const HOST_KEYS_SHOWN: usize = 8;

/// Bytes of a private key's text, and of a certificate's. RSA with 16,384 bits has 13 kB, base64 around it makes 17 of them.
pub const PRIVATE_KEY_MAX: usize = 64 * 1024;

// ---- health -----------------------------------------------------------------------------------------------------------

/// Clients that a server of the agent's holds at once: the one for probes, and the one at the control socket. One more, and the oldest is closed: a probe that asks at once is
/// always served, and a thousand that say nothing cost 32 sockets.
pub const HEALTH_CONNECTIONS: usize = 32;
/// Bytes of a request's head. A probe or a command sends 200, a browser 1,000.
pub const HEALTH_HEAD: usize = 8 * 1024;
/// How long a client may take to send its head, and then again to take its answer.
pub const HEALTH_DEADLINE: Duration = Duration::from_secs(5);
/// How long, after the answer, what a client still sends is read and thrown away, so that the kernel's reset does not
/// overtake the answer.
pub const HEALTH_LINGER: Duration = Duration::from_millis(500);
/// Bytes that are read and thrown away at most after the answer.
pub const HEALTH_DISCARD: usize = 256 * 1024;
/// How long a server serves nobody when the kernel refuses it another descriptor.
pub const HEALTH_ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often the log says that clients are refused.
pub const HEALTH_COMPLAINT: Duration = Duration::from_secs(60);
/// Components of the health state. There are ten; more would be a defect, not a growing list.
pub const HEALTH_COMPONENTS: usize = 16;
/// Bytes of an error, a reason or a server's name, in the health state or in an answer: a sentence.
pub const HEALTH_TEXT: usize = 1024;

// ---- control socket ---------------------------------------------------------------------------------------------------

/// Longest wait for a connection to the control socket, and then again for the answer.
pub const CONTROL_WAIT: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read: 100 jobs, 100 quarantined reports with their reasons, and the 100 problems of a reload,
/// each byte six in JSON, stay below two million.
pub const CONTROL_ANSWER: usize = 4 << 20;

// ---- telemetry --------------------------------------------------------------------------------------------------------

/// Bytes of one message in the agent's own log; the rest is cut and counted.
pub const LOG_MESSAGE: usize = 8 * 1024;
/// How long a log file that cannot be opened is left alone before the next try.
pub const LOG_REOPEN_WAIT: Duration = Duration::from_secs(30);
/// Rotated log files that are kept at most, whatever is configured: each rotation renames every one of them.
pub const LOG_BACKUPS: usize = 1000;
/// How often rotated log files are looked through for those that are too old.
pub const LOG_PURGE_EVERY: Duration = Duration::from_secs(3600);

// ---- config -----------------------------------------------------------------------------------------------------------

/// Bytes of the configuration file, and of each file that it names. A complete one has 10 KB; more is a mistake.
pub const CONFIG_FILE_MAX: usize = 1024 * 1024;

/// Bytes of all keys and values after YAML aliases were resolved, which may repeat a text many times.
pub const CONFIG_TREE_MAX: usize = 4 * 1024 * 1024;

/// Brackets that may be open at once in the configuration file, those in texts included. A complete one has two.
pub const CONFIG_DEPTH_MAX: usize = 100;

/// Bytes of one value after `${VAR}` was expanded: the most that one environment variable holds.
pub const CONFIG_VALUE_MAX: usize = 128 * 1024;

/// Entries of one list.
pub const CONFIG_LIST_MAX: usize = 256;

/// Problems that are listed; the rest is counted. A file of another program would fill the screen.
pub const CONFIG_PROBLEMS_MAX: usize = 100;

// ---- jobs and threads -------------------------------------------------------------------------------------------------

/// Between two looks at the engine, the disk and the live log's connection.
pub const ENGINE_LOOK: Duration = Duration::from_secs(5);
/// Files that a file system must have room for, or nothing is claimed: an image's layer has a few thousand.
pub const MIN_FREE_INODES: u64 = 1000;
/// Distance of this host's clock from the backend's that causes a warning.
pub const CLOCK_SKEW: Duration = Duration::from_secs(30);
/// A date without a fraction of its second is half a second too early in the mean, and wrong by as much at most.
pub const HTTP_DATE_DOUBT: Duration = Duration::from_millis(500);
/// An answer that took longer tells too little of the backend's clock.
pub const CLOCK_ROUND_TRIP: Duration = Duration::from_secs(10);
/// A thread with a long wait looks at least this often whether SIGHUP has put another configuration in effect.
pub const RELOAD_LOOK: Duration = Duration::from_secs(10);
/// Between two looks for jobs that are to be ended while contact with the backend is lost.
pub const LOST_LOOK: Duration = Duration::from_millis(500);
/// Between two questions to the backend whether it is up, beside the heartbeats.
pub const BACKEND_LOOK: Duration = Duration::from_secs(15);
/// From the second signal, or the drain's end, to the moment when the agent ends with jobs unreported.
pub const CANCEL_WAIT: Duration = Duration::from_secs(30);
/// Between two looks for a further signal while jobs are drained.
pub const DRAIN_TICK: Duration = Duration::from_millis(200);
/// An idle worker looks up so often, to see whether there are more workers than are wanted.
pub const WORKER_TICK: Duration = Duration::from_secs(5);
/// Longest wait for the answer to an acknowledgement, all attempts of it: beyond `api.timeout` times three.
pub const ACKNOWLEDGE_WAIT: Duration = Duration::from_secs(150);
/// Longest wait for the call of a job that is under way at its end, before its report is sent without it.
pub const ACK_TASK_WAIT: Duration = Duration::from_secs(120);
/// Longest wait for the live log to take a job's last lines before its report is sent.
pub const LIVE_FLUSH: Duration = Duration::from_secs(2);
/// How long a worker waits for that itself. Lines mostly arrive within it, and what did not arrive is known for the record.
pub const LIVE_FLUSH_SHORT: Duration = Duration::from_millis(30);
/// One wait for a signal; after it, a thread that waits looks whether it is still wanted.
pub const SIGNAL_TICK: Duration = Duration::from_millis(200);
/// The reaper looks at its jobs at least so often, even when nothing wakes it.
pub const REAPER_SLEEP: Duration = Duration::from_secs(5);
/// The poller, with a job that no worker takes, looks at the stop flag so often.
pub const STOP_CHECK: Duration = Duration::from_millis(200);

/// How long shutdown waits for one thread before it names it in the log and goes on. Longer than a connection to a backend
/// that accepts and is silent (`API_CONNECT_WAIT`) can hold a thread.
pub const THREAD_JOIN_WAIT: Duration = Duration::from_secs(15);

// ---- service manager --------------------------------------------------------------------------------------------------

/// Between two looks of the main thread at its threads and at whether the status line has changed.
pub const NOTIFY_EVERY: Duration = Duration::from_secs(1);
/// How much longer than its longest wait a watched part may be silent: a host that is out of memory or disk is slow.
pub const PULSE_ROOM: Duration = Duration::from_secs(120);
/// A thread that sleeps for longer touches its pulse at least this often.
pub const PULSE_SLICE: Duration = Duration::from_secs(10);
/// How long the live log's thread may be silent: its steps are bounded by [`LOG_CONNECT`], [`LOG_HANDSHAKE`] and
/// [`PULSE_SLICE`], and it waits for no disk.
pub const PULSE_LIVE_LOG: Duration = Duration::from_secs(30);
/// Bytes of the status line that systemd shows: it takes messages of 4 KiB and drops longer ones whole.
pub const NOTIFY_STATUS: usize = 1024;
/// Pings within the watchdog's time: systemd advises two; with three, one may be late without harm.
pub const WATCHDOG_PINGS: u32 = 3;
// ---- records and outbox -----------------------------------------------------------------------------------------------

/// Resume points of a job that are kept until their lines have arrived.
pub const RESUME_POINTS: usize = 256;
/// How often a job's place in its output is written down: lines sent since then may be sent twice after a crash.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// A result that has waited for this long makes the agent's health degraded.
pub const OUTBOX_OLD: Duration = Duration::from_secs(60);
/// Between two looks for an engine, or a backend, that an adopted job needs.
pub const ADOPT_AGAIN: Duration = Duration::from_secs(2);
/// From one look for claims that nobody knows of to the next.
pub const CLAIMS_LOOK: Duration = Duration::from_secs(10);
/// Largest file of a record: `jobs.maxOutput` at its most (64 MB) three times, stdout being in two bodies.
pub const RECORD_FILE_MAX: usize = 256 << 20;
/// Longest wait for another write of the same job's entry. A disk under load takes seconds for a large report.
pub const RECORD_TURN: Duration = Duration::from_secs(60);
/// Bytes that a probe of the disk writes: more than one block, so that a full file system refuses it.
pub const RECORD_PROBE: usize = 16 * 1024;
/// How often a held lock is tried again, since another process may only ask who holds it, and
pub const LOCK_LOOKS: u32 = 5;
/// the pause between two tries.
pub const LOCK_LOOK: Duration = Duration::from_millis(20);
/// Links on the way to `state.dir`: as many as the kernel follows.
pub const PATH_LINKS: u32 = 40;
/// Bytes of the file that holds the agent's id, which has 100 at most.
pub const AGENT_ID_FILE: u64 = 4096;
/// Files in quarantine; the oldest gives way.
pub const QUARANTINE_FILES: usize = 100;
/// Bytes of them, all together: as much as the largest record.
pub const QUARANTINE_BYTES: u64 = RECORD_FILE_MAX as u64;
/// Bytes of the reason that is kept with a file in quarantine.
pub const QUARANTINE_REASON: usize = 1024;
/// Finished jobs that are remembered. When it is reached, the oldest tenth gives way.
pub const DONE_JOBS: usize = 50_000;
/// How long a finished job is remembered.
pub const DONE_KEPT: Duration = Duration::from_secs(86_400);
/// Bytes of a finished job's message that are kept.
pub const DONE_MESSAGE: usize = 500;
/// Longest line of the file of finished jobs: id, message (each byte may be six in JSON) and the rest.
pub const DONE_LINE: usize = 4096;
/// Dead lines of that file before it is rewritten.
pub const DONE_SLACK: usize = 5_000;
/// Finished jobs that are remembered in memory alone while the disk takes nothing.
pub const DONE_UNWRITTEN: usize = 1_000;

//! Every number that bounds a wait, a buffer or a count, in one place.
//!
//! Limits that an operator may set are in `config`; the others are here, each with its reason. A wait that passes one of
//! them names it in its error.

mod doctor;
mod helpers;
mod http;
mod live;
mod net;
mod outbox;
mod proofs;
mod redact;
mod signing;
mod warm;

use std::time::Duration;

pub use doctor::*;
pub use helpers::*;
pub use http::*;
pub use live::*;
pub use net::*;
pub use outbox::*;
pub use proofs::*;
pub use redact::*;
pub use signing::*;
pub use warm::*;
// ---- docker -----------------------------------------------------------------------------------------------------------

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

// ---- ssh --------------------------------------------------------------------------------------------------------------

/// Servers of one job.
pub const SSH_SERVERS_MAX: usize = 200;
/// Servers of one job that are worked on at once, whatever `maxPerServer` allows: a job is one of many on this agent.
pub const SSH_SERVERS_AT_ONCE: usize = 16;
/// Line numbers of a job on several servers that the next agent leaves out at least: those that its agent may have given
/// between its last note and a kill. Where it gives more, twice the most that it gave between two notes.
pub const SSH_NUMBERS_AHEAD: u64 = 1000;
/// Characters of one server's ending in the summary of a job on several, and
pub const SSH_SUMMARY_PART: usize = 200;
/// bytes of that summary.
pub const SSH_SUMMARY: usize = 4000;
/// Bytes of updates of its servers' records that one job keeps while the backend does not take them. Beyond it an update is
/// kept without its output, which is in the job's report as well.
pub const SSH_RECORDS_OWED: usize = 32 << 20;
/// Jobs that share one connection. A server's `MaxSessions` is 10 by default.
pub const SSH_SESSIONS: usize = 8;
/// Bytes that one session may have in flight: memory that a job costs while the live log slows it.
pub const SSH_WINDOW: u32 = 512 * 1024;
/// Largest packet that the server may send.
pub const SSH_PACKET: u32 = 32 * 1024;
/// Bytes read from a session at once.
pub const SSH_READ: usize = 32 * 1024;
/// Pieces of output that wait for the worker before its session is read no further.
pub const SSH_QUEUE: usize = 16;
/// Requests of jobs that wait for a connection's thread; each of its jobs has one or two at a time.
pub const SSH_COMMANDS: usize = 256;
/// Signals that wait for a job's worker: TERM, and KILL until somebody takes it.
pub const SSH_WISHES: usize = 8;
/// Connections to servers, all together. Beyond it idle ones make room, and jobs wait for the others.
pub const SSH_CONNECTIONS: usize = 256;
/// Pieces read from one session before the others get their turn.
pub const SSH_TURN: usize = 8;
/// Bytes of a program that are sent before the other sessions get their turn.
pub const SSH_WRITE: usize = 32 * 1024;
/// A connection's thread checks its jobs at least this often.
pub const SSH_TICK: Duration = Duration::from_secs(1);
/// How long a session whose job is gone may take to end by itself.
pub const SSH_CLOSE: Duration = Duration::from_secs(5);
/// Logins to one server that may be under way at once. sshd turns some away from the tenth on that has not logged in yet
/// (`MaxStartups 10:30:100`), those of other clients included.
pub const SSH_DIALS: usize = 4;
/// Successful logins after which one more at once is tried, where the server had taken fewer.
pub const SSH_DIALS_GROW: usize = 8;
/// Servers whose number of concurrent logins is remembered.
pub const SSH_PACES: usize = 1000;
/// Failed connections to one server within this time count as one for its circuit breaker: longer than the first pauses
/// between the tries of jobs that failed together.
pub const SSH_MOMENT: Duration = Duration::from_secs(1);
/// First and longest pause between two tries to come back to a server, and to reach it first.
pub const SSH_BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// See [`SSH_BACKOFF_FIRST`].
pub const SSH_BACKOFF_MOST: Duration = Duration::from_secs(10);
/// Bytes of greetings that a server's shell may print before our program speaks.
pub const SSH_NOISE: usize = 64 * 1024;
/// How long a server may be silent while it hands over what is left of a job's output.
pub const SSH_COLLECT_SILENCE: Duration = Duration::from_secs(60);
/// How long the server kills the rest of a stopped job and checks again, in tenths of a second.
pub const SSH_LEFTOVERS: u32 = 30;
/// Characters of what a program on a server says when it could not start the script.
pub const SSH_WHY: usize = 1000;
/// How long a follower on a server waits for a late start before it claims that the script has not begun, in tenths of a
/// second, and
pub const SSH_CLAIM: u32 = 50;
/// for the process id of a script that has begun.
pub const SSH_PID: u32 = 150;
/// One stream of a session has spoken: the other one speaks within this time, or it does not arrive.
pub const SSH_BOTH_STREAMS: Duration = Duration::from_secs(5);
/// A program on a server has ended, and another process holds its session open: the time for its last words to arrive.
pub const SSH_SETTLE: Duration = Duration::from_millis(300);
/// A session that is silent for this time has its program look whether it missed the script's end.
pub const SSH_LOOK: Duration = Duration::from_secs(15);
/// After a limit has passed and its server did not end the script, its own record of the end is asked for once more: the
/// longest that this may take.
pub const SSH_LAST_LOOK: Duration = Duration::from_secs(10);
/// How long it may take to find out whether a script was started, when nothing was heard of that in time.
pub const SSH_FIND_OUT: Duration = Duration::from_secs(40);
/// Servers that the metrics name, each with its circuit breaker.
pub const SSH_BREAKERS_SHOWN: usize = 200;
/// Servers that `/health` names whose breakers are not closed.
pub const SSH_TRIPPED_SHOWN: usize = 5;
/// Servers whose circuit breakers are kept; the one unused for longest makes room.
pub const SSH_BREAKERS: usize = 1000;
/// Starts of one job whose answer was lost before one is given up.
pub const SSH_STARTS: u32 = 3;
/// A job that waits for a free session looks so often.
pub const SSH_SEAT_LOOK: Duration = Duration::from_millis(20);
/// A job that waits for a connection looks so often whether it is still wanted.
pub const SSH_DIAL_LOOK: Duration = Duration::from_millis(100);
/// A step on the way to a server that outlasts its limit by so much is broken off from outside.
pub const SSH_OVERDUE: Duration = Duration::from_secs(1);
/// How long shutdown waits for one connection's thread.
pub const SSH_JOIN: Duration = Duration::from_secs(2);

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

/// Bytes of a private key's text. RSA with 16,384 bits has 13 kB, base64 around it makes 17 of them.
pub const PRIVATE_KEY_MAX: usize = 64 * 1024;

// ---- api --------------------------------------------------------------------------------------------------------------

/// Longest answer to a queue request that is read, and longest list of orphaned jobs: 100 with a script of 300 KB each.
pub const QUEUE_ANSWER_MAX: usize = 32 << 20;

/// Longest answer to any other request, and longest words of an error: a few hundred bytes are usual.
pub const ANSWER_MAX: usize = 1 << 20;

/// Rows of one queue answer that are looked at; the agent never asks for more than its 100 workers.
pub const QUEUE_ROWS_MAX: usize = 1000;

/// Bytes that the jobs of one queue answer may take in memory, together: with the answer itself, not more than twice
/// [`QUEUE_ANSWER_MAX`]. Rows beyond it are left out, and go back to the queue as claims that nobody knows of.
pub const QUEUE_HELD_MAX: usize = 30 << 20;

/// Bytes that script, variables and servers of one job may take; a script has [`SCRIPT_MAX`] at most.
pub const QUEUE_ROW_MAX: usize = 24 << 20;

/// Bytes kept of each name of a job's event, for its script. What is longer is cut.
pub const EVENT_TEXT_MAX: usize = 1000;

/// Bytes of a job's working directory: the kernel's longest path.
pub const JOB_FOLDER_MAX: usize = 4096;

/// The smallest share of a core that a job gets: the engine takes one that rounds to nothing for no limit at all.
pub const CPU_LEAST: f64 = 0.01;

/// Unusable rows of one queue answer that are described one by one; the rest is counted.
pub const UNUSABLE_ROWS_SHOWN: usize = 10;

/// Characters of a backend's error text that are kept.
pub const ERROR_TEXT_MAX: usize = 300;

/// Rows after which the backend cuts its list of orphaned jobs; a list this long proves nothing about a missing job.
pub const ORPHANED_LIST_MAX: usize = 100;

/// Longest time to resolve the backend's name, and to connect to it, TLS included; `api.timeout` may be shorter.
pub const API_CONNECT_WAIT: Duration = Duration::from_secs(10);

/// An idle connection to the backend is not used again after this time: Node.js closes its own after 5 seconds, and a
/// request that meets the close would fail for nothing.
pub const API_IDLE_MAX: Duration = Duration::from_secs(4);

/// Idle connections to the backend that are kept.
pub const API_IDLE_CONNECTIONS: usize = 8;

/// Bytes of each of a connection's two buffers, touched when made: with ureq's own 128 KiB, three idle ones cost 0.8 MB.
pub const API_BUFFER: usize = 32 * 1024;
/// The longest head of an answer of the backend's, in bytes.
pub const API_HEAD: usize = 16 * 1024;

/// Longest `Retry-After` that is honoured; a longer one would look like a hang to the operator.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Seconds' worth of requests that may go out at once after a quiet time: a job needs five calls, most of them at its
/// start and end, and a handful of jobs must not queue for the limit.
pub const RATE_BURST_SECONDS: f64 = 5.0;
/// Time in which a rate that the backend made slower doubles again.
pub const RATE_RECOVERY: Duration = Duration::from_secs(10);
/// Between two halvings of the rate: the calls that were on their way at the first one are answered within it.
pub const RATE_SLOWER_AGAIN: Duration = Duration::from_secs(1);
/// The least rate, as a share of the configured one: a backend that always says "too many" still hears of each job's end.
pub const RATE_LEAST_SHARE: f64 = 0.02;
/// A heartbeat or a report waits at most this long for the rate limit.
pub const RATE_PRIORITY_WAIT: Duration = Duration::from_millis(250);

/// After a report without an answer, the backend gets this long to finish with it before it is asked what became of it.
pub const REPORT_SETTLE: Duration = Duration::from_secs(1);

/// A job's own timeout beyond this is a mistake of units, not a wish.
pub const JOB_TIMEOUT_ABSURD: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Environment variables of one job.
pub const JOB_ENVIRONMENT_MAX: usize = 4096;

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
/// Components of the health state. There are nine; more would be a defect, not a growing list.
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

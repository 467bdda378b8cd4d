//! The backend's HTTP contract: calls, answers and rows.

use std::time::Duration;

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

/// The token's file is read again at most this often while the backend refuses the token: a refused token must not make each
/// call read a file, and a rotated one must not wait for long.
pub const TOKEN_REREAD: Duration = Duration::from_secs(5);
/// Tokens that are remembered after a rotation, to open what was sealed with them and to take them out of output: a job lasts
/// for days, and a token is rotated a few times in that.
pub const TOKENS_KEPT: usize = 8;

//! The numbers of the live log. Used as the others, by `limits::NAME`.

use std::time::Duration;

/// Bytes of unacknowledged lines that one job may hold, each line counted with [`LOG_LINE_OVERHEAD`]. Ten chatty jobs
/// stay near 5 MB.
pub const LOG_JOB_BYTES: usize = 512 * 1024;
/// The cost of a line beside its text: its entry in the buffer, and roughly the JSON around it.
pub const LOG_LINE_OVERHEAD: usize = 64;
/// Lines and bytes that a job gathers before it hands them over, so that one lock serves many lines.
pub const LOG_LOCAL_LINES: usize = 64;
/// See [`LOG_LOCAL_LINES`].
pub const LOG_LOCAL_BYTES: usize = 16 * 1024;
/// Text in one message; a longer line travels alone. Escaping can make six bytes of one.
pub const LOG_MESSAGE_BYTES: usize = 64 * 1024;
/// Encoded bytes waiting for the socket beyond which nothing more is encoded.
pub const LOG_OUT_HIGH: usize = 128 * 1024;
/// `status` messages that wait to be sent; more are left out, they are only for display.
pub const LOG_STATUS_QUEUE: usize = 256;

/// An unfinished line is shown live after this time: with [`FOLLOW_TICK`](super::FOLLOW_TICK), at most a second after its
/// last byte.
pub const LOG_PARTIAL_AFTER: Duration = Duration::from_millis(500);
/// Bytes at the end of an unfinished line that are shown: each time all of them are sent again.
pub const LOG_PARTIAL_BYTES: usize = 4 * 1024;
/// Most waiting time that a job may have saved up; it starts with this much.
pub const LOG_WAIT_CAP: Duration = Duration::from_millis(500);
/// A job earns one part in this many of its running time for waiting.
pub const LOG_WAIT_SHARE: u32 = 20;
/// Nanoseconds of waiting that each byte taken by the receiver (with [`LOG_LINE_OVERHEAD`]) earns: a link of 16 MB/s, about
/// 115,000 lines of 80 bytes a second, is prompt and loses nothing; a slower one loses lines and does not slow the job.
pub const LOG_WAIT_NANOS_A_BYTE: u32 = 60;
/// A job does not wait for a link that took nothing for this long. Chosen, not measured: several times the tens of
/// milliseconds for which a busy machine may leave a willing receiver without a processor, and little beside a job.
pub const LOG_STALL: Duration = Duration::from_millis(200);
/// The end of a job waits this long for a link that takes nothing (or is away), then leaves the rest out.
pub const LOG_FINISH_STALL: Duration = Duration::from_secs(1);

/// Finding and reaching the backend's live log.
pub const LOG_CONNECT: Duration = Duration::from_secs(10);
/// TLS and the upgrade to WebSocket.
pub const LOG_HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest answer to the upgrade, head only.
pub const LOG_HANDSHAKE_BYTES: usize = 16 * 1024;
/// Bytes are waiting and the socket takes none, or a batch stays unacknowledged: the connection is given up.
pub const LOG_WRITE_STALL: Duration = Duration::from_secs(30);
/// A ping is sent this often, so that a path that died is noticed.
pub const LOG_PING: Duration = Duration::from_secs(20);
/// No frame for this long, answers to three pings missing: the connection is given up.
pub const LOG_SILENCE: Duration = Duration::from_secs(60);
/// First and longest pause before another try, before jitter.
pub const LOG_BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// See [`LOG_BACKOFF_FIRST`].
pub const LOG_BACKOFF_MOST: Duration = Duration::from_secs(30);
/// Longest pause where the backend has no live log: 200 agents then ask for one about once a second together.
pub const LOG_BACKOFF_ABSENT: Duration = Duration::from_secs(300);
/// Pause after a refused token, which a second try will not change.
pub const LOG_BACKOFF_REFUSED: Duration = Duration::from_secs(60);
/// A connection that lived this long starts the pauses over.
pub const LOG_STEADY: Duration = Duration::from_secs(10);
/// Shutdown waits this long for buffered lines, and
pub const LOG_STOP_FLUSH: Duration = Duration::from_secs(1);
/// this long for the other side to answer the close frame.
pub const LOG_STOP_CLOSE: Duration = Duration::from_millis(500);
/// Largest frame and message that the server may send: it sends acknowledgements and ids.
pub const LOG_FRAME_BYTES: usize = 64 * 1024;
/// See [`LOG_FRAME_BYTES`].
pub const LOG_SERVER_MESSAGE_BYTES: usize = 1024 * 1024;
/// Messages of the server's that are read before lines and shutdown get their turn again: a flood holds neither up.
pub const LOG_READ_TURN: usize = 256;
/// Answers to pings are queued behind any backlog; a server that pings and reads nothing is given up here. Larger than
/// lines can make it: [`LOG_OUT_HIGH`] and one message, each of whose bytes may be six in JSON.
pub const LOG_OUT_MOST: usize = 1024 * 1024;

/// Longest pause of an idle agent's polls where the backend announces jobs over the WebSocket, and
pub const POLL_PUSHED: Duration = Duration::from_secs(15);
/// where it cannot: "Run now" starts a script within 2.5 s, and 200 idle agents make at most 100 requests a second, with all
/// that an idle agent asks.
pub const POLL_UNPUSHED: Duration = Duration::from_millis(2200);
/// Bytes of a job's output that an update of its page carries, head and tail.
pub const PAGE_OUTPUT: usize = 90_000;
/// Bytes of the body of such an update. Over 100 kB each one takes the deployed backend 3 s longer.
pub const PAGE_BODY: usize = 96_000;
/// Between two updates of a page, at least. A slow backend gets them less often: they take at most a tenth of the time.
pub const PAGE_EVERY: Duration = Duration::from_secs(2);
/// From a script's start to the first update of its page.
pub const PAGE_FIRST: Duration = Duration::from_millis(500);
/// How often the thread looks for pages that are due.
pub const PAGE_TICK: Duration = Duration::from_millis(500);
/// Between two looks at the rows of the jobs that run, at least: a cancel is to end a script within 5 s.
pub const ROW_LOOK: Duration = Duration::from_secs(3);
/// Rows that are asked for one by one after one list, when that does not show them.
pub const ROW_ASKS: usize = 20;
/// Until a row is asked for again that is neither this agent's nor cancelled.
pub const ROW_LOOK_AGAIN: Duration = Duration::from_secs(30);
/// One wait for a job whose row is to be watched; after it, the thread looks whether it is still wanted.
pub const ROW_IDLE: Duration = Duration::from_secs(5);

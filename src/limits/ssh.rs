//! Servers: connections, host keys, programs and output over SSH.

use std::time::Duration;

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
/// Connections to servers that share one connection to a jump host. sshd does not count them among `MaxSessions`.
pub const SSH_FORWARDS: usize = 64;
/// Bytes of one direction of such a connection that the agent holds, beside the kernel's buffers and libssh2's window of 2 MiB.
pub const SSH_FORWARD_PIECE: usize = 32 * 1024;
/// Before a server behind a jump host counts as silent, the jump host itself shows a sign of life within a step's limit less this.
pub const SSH_JUMP_FIRST: Duration = Duration::from_secs(3);
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

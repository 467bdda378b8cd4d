//! The numbers of the outbox. Used as the others, by `limits::NAME`.

use std::time::Duration;

/// Bytes of reports that are kept in memory because the disk does not take them; beyond it a report is refused, and its
/// worker keeps it.
pub const OUTBOX_MEMORY: usize = 64 << 20;
/// Reports that the outbox knows of. At the highest rate that the agent was measured at, an hour without a backend.
pub const OUTBOX_REPORTS: usize = 50_000;
/// How long the backend may still be at a call of an agent that was killed, such as an update of a page. Before that, the
/// next agent sends no report of a job that it found: such an update would open the job again.
pub const EARLIER_CALLS: Duration = Duration::from_secs(10);
/// Longest pause before the first further attempt to deliver a report, drawn at random below it; it doubles each time.
pub const OUTBOX_FIRST: Duration = Duration::from_secs(1);
/// Longest pause between two attempts.
pub const OUTBOX_MOST: Duration = Duration::from_secs(60);
/// Failures in a row, whatever the report, after which the backend counts as away and all reports wait.
pub const OUTBOX_AWAY: u32 = 3;
/// How long the backend's list of this agent's jobs is used for many reports, and how soon a report is looked for again
/// that a full list did not show.
pub const OUTBOX_RELOOK: Duration = Duration::from_secs(2);
/// Times that the backend does not take the update of an execution's record although it answers another call that needs its
/// database: then the update holds up the report no longer.
pub const OUTBOX_UPDATE_TRIES: u32 = 5;
/// How long each run of the agent offers a report at least, however old the wall clock makes it: a host without a battery
/// starts in 1970.
pub const OUTBOX_LEAST_OFFER: Duration = Duration::from_secs(3600);
/// How often the outbox checks for reports that have become too old.
pub const OUTBOX_TICK: Duration = Duration::from_secs(30);
/// Threads that offer reports at once. With ten workers and a backend that takes 3 s for each call, a job ends every 0.35 s,
/// and its report takes two calls.
pub const OUTBOX_SENDERS: usize = 16;
/// Bytes of reports on their way at once, unless one alone has more. One has the output of a job twice.
pub const OUTBOX_ON_THE_WAY: usize = 16 << 20;
/// Bytes of reports that are on disk and stay in memory until their first try. One with the most output that the default
/// `jobs.maxOutput` keeps fits: to read it back takes more processor time than its job's million lines.
pub const OUTBOX_NEW: usize = 12 << 20;
/// Jobs that have ended, and of which calls or live lines are still on their way. The worker of one more waits itself.
pub const OUTBOX_EARLIER: usize = 32;
/// From one question whether the backend is back to the next, within a fifth: asked only while reports wait and it is away.
/// Two hundred such agents ask two hundred times a second, mostly for a connection that nobody accepts.
pub const OUTBOX_ASK: Duration = Duration::from_secs(1);
/// Longest wait for a connection of such a question: one that is lost must not hide the return.
pub const OUTBOX_ASK_CONNECT: Duration = Duration::from_secs(2);
/// Reports begin to go out within this time after the return of the backend, not all agents at one moment.
pub const OUTBOX_SPREAD: Duration = Duration::from_millis(300);
/// From the first report after an outage to the second one; each success makes the next step a seventh shorter.
pub const OUTBOX_STEP: Duration = Duration::from_secs(1);
/// The shortest of these steps: a thousand reports within half a minute.
pub const OUTBOX_STEP_LEAST: Duration = Duration::from_millis(10);
/// How long an agent that ends waits for the first try of each report.
pub const OUTBOX_LAST: Duration = Duration::from_secs(15);
/// Threads that remove what ended scripts leave behind. More at once are no faster: the engine does one after the other.
pub const REMOVAL_THREADS: usize = 4;
/// Removals that wait for such a thread. The worker of one more removes it itself.
pub const REMOVALS_WAITING: usize = 32;

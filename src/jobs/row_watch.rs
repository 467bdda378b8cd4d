//! Learns of cancels from the backend's rows.
//!
//! A user's cancel changes the job's row and nothing else: nobody tells the agent. So while jobs run here, the list of
//! this agent's rows is asked for every few seconds, one call for all jobs. A job that is in it is not cancelled. Of one
//! that is not, its own row is asked for: `cancelled` ends it. A row that somebody else failed, or that is gone, is no
//! cancel: the script goes on, and its true end is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::api::{Client, RowStatus};
use crate::job::Id;
use crate::jobs::reconcile::{Action, Row, Seen, decide};
use crate::jobs::running::{Running, Step};
use crate::limits;
use crate::os::pulse::Pulse;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::os::{clock, random};

/// Who cancelled, when the job's row says so.
pub const BY_ROW: &str = "backend (row)";

/// Everything it works with.
pub struct RowWatch {
    pub client: Client,
    pub running: Running,
    pub stop: Stop,
    /// Touched in each round.
    pub pulse: Pulse,
}

impl RowWatch {
    /// Starts the thread `row-watch`.
    pub fn spawn(self) -> std::io::Result<Thread> {
        threads::spawn("row-watch", move || {
            let _watched = self.pulse.clone().enter();
            self.run();
        })
    }

    /// Looks until stopped.
    fn run(mut self) {
        self.client = self.client.separate();
        // Jobs whose row was asked for and says neither that it is theirs nor that it is cancelled, and when to ask again.
        let mut answered = BTreeMap::new();
        while !self.stop.is_set() {
            self.pulse.touch();
            let jobs = self.jobs();
            if self.running.is_empty() {
                answered.clear();
                self.running.wait_for_one(limits::ROW_IDLE);
                continue;
            }
            let begun = clock::now();
            if !jobs.is_empty() {
                self.look(&jobs, &mut answered);
            }
            // A slow backend, or a long list on a thin line, is asked less often.
            let pause = limits::ROW_LOOK.max(clock::since(begun) * 2);
            if self.stop.wait(pause.mul_f64(1.0 + random::unit() / 10.0)) {
                return;
            }
        }
    }

    /// The jobs that a cancel can still end.
    fn jobs(&self) -> BTreeSet<Id> {
        let open = self.running.list().into_iter();
        open.filter(|job| job.step != Step::Reporting && job.cancelled_by.is_none()).map(|job| job.id).collect()
    }

    fn look(&self, jobs: &BTreeSet<Id>, answered: &mut BTreeMap<Id, Instant>) {
        let list = match self.client.orphaned() {
            Ok(list) => list,
            Err(error) => return log::debug!("the list of this agent's jobs did not come: {error}"),
        };
        let listed: BTreeSet<&Id> = list.rows.iter().map(|row| &row.id).collect();
        let now = clock::now();
        answered.retain(|id, again| jobs.contains(id) && *again > now);
        let missing = jobs.iter().filter(|id| !listed.contains(id) && !answered.contains_key(*id));
        let missing: Vec<&Id> = missing.take(limits::ROW_ASKS).collect();
        for id in missing {
            let row = match self.client.row_status(id) {
                Ok(RowStatus::Cancelled) => Row::Cancelled,
                // The list was cut, or the job is younger than the list.
                Ok(RowStatus::Claimed | RowStatus::Running | RowStatus::Untold) => continue,
                Ok(RowStatus::Ended | RowStatus::Queued) => Row::Absent,
                Err(error) if matches!(error.status(), Some(400..=499)) => Row::Absent,
                Err(error) => return log::debug!("job {id}: its row did not come: {error}"),
            };
            if decide(Seen::running(row)) == Action::Cancel {
                if self.running.cancel(id, BY_ROW) {
                    log::info!("job {id} is cancelled by the {BY_ROW}");
                }
            } else {
                log::warn!("job {id} is not this agent's any more by its row, and nobody cancelled it: it goes on");
                answered.insert(id.clone(), now + limits::ROW_LOOK_AGAIN);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::api::testing::{Server, ok};

    const LONG: Duration = Duration::from_secs(20);

    fn id(text: &str) -> Id {
        Id::parse(text).expect("id")
    }

    /// A watch over the jobs `a` and `b` at a backend that lists `listed` and says `row` of each; what it has asked, when
    /// it was let for so long or has cancelled `a`.
    fn watch(listed: &'static str, row: &'static str, let_it: Duration) -> (Option<&'static str>, Vec<String>) {
        let server = Server::start(move |seen, _| match seen.line.contains("orphaned") {
            true => ok(listed),
            false => ok(row),
        });
        let (running, stop) = (Running::new(), Stop::new());
        let tokens = Mutex::new(vec![running.claim(&id("a")).expect("free"), running.claim(&id("b")).expect("free")]);
        let watch = RowWatch {
            client: server.client(),
            running: running.clone(),
            stop: stop.clone(),
            pulse: Pulse::unwatched(),
        };
        let thread = watch.spawn().expect("a thread");
        let until = Instant::now() + let_it;
        let by = loop {
            let by = running.get(&id("a")).expect("running").cancelled_by;
            if by.is_some() || Instant::now() > until {
                break by;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stop.set();
        assert_eq!(thread.join_within(LONG), threads::Ended::Returned);
        drop(tokens);
        (by, server.lines())
    }

    #[test]
    fn a_cancelled_row_ends_its_job_at_the_first_look() {
        let (by, lines) = watch(r#"[{"id":"b","status":"running"}]"#, r#"{"job":{"status":"cancelled"}}"#, LONG);
        assert_eq!(by, Some(BY_ROW));
        assert_eq!(lines[1..], ["POST /api/internal/jobs/a/acknowledge"]);
        assert_eq!(lines.len(), 2, "one list for all, and one row for the one that is missing: {lines:?}");
    }

    #[test]
    fn a_row_that_somebody_else_ended_or_that_is_listed_is_no_cancel() {
        let short = Duration::from_millis(500);
        for row in [r#"{"job":{"status":"failed"}}"#, r#"{"job":{"status":"running"}}"#, "{}"] {
            let (by, lines) = watch("[]", row, short);
            assert_eq!(by, None, "{row}");
            assert_eq!(lines.len(), 3, "the list, and each row once: {lines:?}");
        }
        let both = r#"[{"id":"a","status":"claimed"},{"id":"b","status":"running"}]"#;
        let (by, lines) = watch(both, r#"{"job":{"status":"cancelled"}}"#, short);
        assert_eq!((by, lines.len()), (None, 1), "{lines:?}");
    }

    #[test]
    fn after_one_list_a_bounded_number_of_rows_is_asked_for() {
        let server = Server::start(|seen, _| ok(if seen.line.contains("orphaned") { "[]" } else { "{}" }));
        let running = Running::new();
        let names = (0..limits::ROW_ASKS + 5).map(|n| id(&format!("job-{n}")));
        let _tokens: Vec<_> = names.map(|id| running.claim(&id).expect("free")).collect();
        let watch = RowWatch { client: server.client(), running, stop: Stop::new(), pulse: Pulse::unwatched() };
        watch.look(&watch.jobs(), &mut BTreeMap::new());
        assert_eq!(server.lines().len(), 1 + limits::ROW_ASKS);
    }

    #[test]
    fn it_ends_soon_while_no_job_runs() {
        let server = Server::start(|_, _| ok("[]"));
        let stop = Stop::new();
        let running = Running::new();
        let watch = RowWatch {
            client: server.client(),
            running: running.clone(),
            stop: stop.clone(),
            pulse: Pulse::unwatched(),
        };
        let thread = watch.spawn().expect("a thread");
        std::thread::sleep(Duration::from_millis(50));
        stop.set();
        running.wake();
        assert_eq!(thread.join_within(limits::ROW_IDLE / 2), threads::Ended::Returned);
        assert!(server.lines().is_empty(), "nobody is asked while no job runs");
    }
}

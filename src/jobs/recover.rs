//! What an earlier run of this agent left behind that the journal does not know: containers that still carry its id,
//! and jobs that the backend still counts as its own. That is a journal that was lost or could not be written.
//!
//! Done once, before the first claim. A job that never started goes back to the queue. One that started is reported:
//! with its exit code and output where its container has ended, and as failed with an unknown end where that cannot be
//! known. Nothing is run a second time, and no container is left. (What the journal knows is in `adopt`.)

use std::collections::{BTreeMap, BTreeSet};

use crate::api;
use crate::docker::containers::State;
use crate::docker::{self, Deadline};
use crate::executors::container::spec;
use crate::job::{Id, Kind, Stream};
use crate::jobs::journal::{Ended, Entry, Place, Stage, now_ms};
use crate::jobs::ledger;
use crate::jobs::outbox::{Outbox, Tried};
use crate::jobs::output::Collected;
use crate::jobs::report;
use crate::jobs::worker::unrun;
use crate::limits;
use crate::logs::Flushed;
use crate::verdict::{Cause, Phase, Verdict};
use crate::wire::capture::Capture;
use crate::wire::frames;

/// What recovery works with.
pub struct Recovery<'a> {
    pub engine: &'a dyn Engine,
    pub client: &'a api::Client,
    pub agent: &'a str,
    /// `jobs.maxOutput`.
    pub max_output: usize,
    pub outbox: &'a Outbox,
    /// The jobs that are in hand, or whose report waits, since before the backend is asked: a job that ends between its
    /// answer and a later look would be reported a second time.
    pub known: &'a BTreeSet<Id>,
    /// Those of them whose report waits: nothing of them is needed any more.
    pub reported: &'a BTreeSet<Id>,
}

/// A container of an earlier run.
#[derive(Debug)]
pub struct Left {
    /// The engine's id of it.
    pub id: String,
    pub state: State,
    pub job: Option<Id>,
    pub execution: Option<Id>,
}

/// What recovery asks of the engine.
pub trait Engine {
    /// All containers that carry this agent's id.
    fn left_by(&self, agent: &str) -> Result<Vec<Left>, String>;
    /// The engine's own copy of a container's output, at most `most` bytes of each stream, head and tail; what cannot be
    /// read is left out.
    fn output(&self, id: &str, most: usize) -> (String, String);
    fn remove(&self, id: &str) -> Result<(), String>;
}

impl Engine for docker::Client {
    fn left_by(&self, agent: &str) -> Result<Vec<Left>, String> {
        let labels = ["cronium.managed=true".to_owned(), format!("cronium.agent.id={agent}")];
        let rows = self.list(&labels).map_err(|error| error.to_string())?;
        // An agent may have been given the name that stands on the containers of `exec`.
        let own = rows.into_iter().filter(|row| !row.labels.contains_key(spec::OWNER));
        let left = own.filter_map(|row| {
            // One that went away meanwhile.
            let state = self.inspect(&row.id, false).ok()?.state;
            let label = |name: &str| row.labels.get(name).and_then(|text| Id::parse(text).ok());
            let (job, execution) = (label("cronium.job.id"), label("cronium.execution.id"));
            Some(Left { id: row.id, state, job, execution })
        });
        Ok(left.collect())
    }

    fn output(&self, id: &str, most: usize) -> (String, String) {
        let mut kept = [Capture::new(most), Capture::new(most)];
        let mut decoder = frames::Decoder::new();
        let deadline = Deadline::after(limits::DOCKER_WORK, "limits::DOCKER_WORK");
        let read = self.logs(id, deadline, &mut |piece| {
            // A frame that makes no sense ends the output; what came before it is kept.
            let _ = decoder.feed(piece, &mut |stream, bytes| kept[usize::from(stream != Stream::Stdout)].push(bytes));
            Ok(())
        });
        if let Err(error) = read {
            log::warn!("{error}");
        }
        let [stdout, stderr] = kept;
        (stdout.into_text(), stderr.into_text())
    }

    fn remove(&self, id: &str) -> Result<(), String> {
        docker::Client::remove(self, id).map_err(|error| error.to_string())
    }
}

impl Recovery<'_> {
    /// Cleans up. An error means that engine or backend did not answer: to be tried again before anything is claimed.
    pub fn run(&self) -> Result<(), String> {
        let left = self.engine.left_by(self.agent)?;
        let orphans = self.client.orphaned().map_err(|error| error.to_string())?;
        let unknown = orphans.rows.into_iter().filter(|row| !self.known.contains(&row.id));
        let mut waiting: BTreeMap<Id, String> = unknown.map(|row| (row.id, row.status)).collect();
        for left in left {
            match &left.job {
                // The agent was killed after it had written the report, and before it had removed the container.
                Some(job) if self.reported.contains(job) && !left.state.running => {
                    self.remove(&left);
                    continue;
                }
                Some(job) if self.known.contains(job) => continue,
                _ => {}
            }
            let awaited = left.job.as_ref().is_some_and(|job| waiting.remove(job).is_some());
            self.settle_container(&left, awaited);
        }
        for (job, status) in waiting {
            if status == "running" {
                let words = "the agent was restarted while the job ran, and nothing of it is left in the engine: its \
                             end is unknown";
                let verdict = Verdict::infrastructure(Phase::Execution, words);
                self.report(&job, None, verdict, Default::default(), || ());
            } else {
                self.give_back(&job);
            }
        }
        Ok(())
    }

    /// Reports what is known of a container's job, if the backend waits for it, and removes the container.
    fn settle_container(&self, left: &Left, awaited: bool) {
        let Some(job) = left.job.as_ref().filter(|_| awaited) else { return self.remove(left) };
        if left.state.status == "created" {
            self.remove(left);
            return self.give_back(job);
        }
        let output = self.engine.output(&left.id, self.max_output);
        let execution = left.execution.as_ref();
        if left.state.running {
            // What it does until it is ended is not in the report.
            self.remove(left);
            return self.report(job, execution, judge(&left.state), output, || ());
        }
        // Until the report is on disk, the container is the only witness of an end.
        self.report(job, execution, judge(&left.state), output, || self.remove(left));
    }

    fn remove(&self, left: &Left) {
        let shown = docker::containers::short(&left.id);
        match self.engine.remove(&left.id) {
            Ok(()) => log::warn!("removed container {shown} of an earlier run (it was {})", left.state.status),
            Err(error) => log::error!("container {shown} of an earlier run is left behind: {error}"),
        }
    }

    fn give_back(&self, job: &Id) {
        match self.client.release(job, "the agent was restarted before the job had started") {
            Ok(()) => log::warn!("job {job} of an earlier run had not started; it was given back"),
            Err(error) => log::error!("job {job} of an earlier run could not be given back: {error}"),
        }
    }

    /// As every report: on disk first, then to the backend for as long as it takes. `safe` is called in between.
    fn report(
        &self,
        job: &Id,
        execution: Option<&Id>,
        verdict: Verdict,
        (stdout, stderr): (String, String),
        safe: impl FnOnce(),
    ) {
        log::warn!("job {job} of an earlier run: {verdict}");
        let collected = Collected { stdout, stderr, ..Collected::default() };
        let report = report::write(execution.is_some(), &unrun(verdict), (collected, Flushed::default()));
        let page = ledger::blank(job, execution.unwrap_or(job), Kind::Container, 0, None, Place::Nowhere);
        let stage = Stage::Ended(Ended { report, since_ms: now_ms() });
        report::deliver(self.outbox, Entry { stage, ..page }, Tried::default(), safe);
    }
}

/// What the state of a container that nobody watched tells of its job.
fn judge(state: &State) -> Verdict {
    if state.running || state.status == "paused" || state.status == "restarting" {
        let words = "the agent was restarted while the script ran; the script was stopped, and what it had done by then \
                     is not known";
        return Verdict::infrastructure(Phase::Execution, words);
    }
    let exit_code = i32::try_from(state.exit_code).unwrap_or(i32::MAX);
    let memory = if state.oom_killed { ", OOMKilled=true" } else { "" };
    let message = format!("the script ended with exit code {exit_code}{memory} while the agent was away");
    let cause = if exit_code == 0 { Cause::Success } else { Cause::Exit };
    Verdict { phase: Phase::Execution, cause, exit_code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(status: &str, running: bool, exit_code: i64) -> State {
        State {
            running,
            status: status.to_owned(),
            pid: 0,
            exit_code,
            oom_killed: false,
            error: String::new(),
            started_at: String::new(),
            finished_at: String::new(),
        }
    }

    #[test]
    fn an_end_is_told_only_where_it_is_known() {
        assert_eq!(judge(&state("exited", false, 0)).reason(), "success");
        assert_eq!(
            (judge(&state("exited", false, 3)).reason(), judge(&state("exited", false, 3)).exit_code),
            ("script", 3)
        );
        let running = judge(&state("running", true, 0));
        assert_eq!(running.reason(), "infrastructure");
        assert!(running.message.contains("not known"));
    }
}

//! A worker: takes one claimed job at a time and sees it through, from the acknowledgement to its one report.
//!
//! [`Worker::run_job`] is the life of a job as one page. The calls to the backend that need not block the container run
//! beside it on a thread of the job's own ([`Errands`]): the container is made while the backend acknowledges, and it
//! is started only once it has.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::api;
use crate::config::Live;
use crate::config::types::Config;
use crate::executors::container::spec::container_name;
use crate::executors::{Control, End, Executor, Prepared, Reaper, Remains, Task};
use crate::job::{Claim, Id, Job, Kind, Output as _, Server};
use crate::jobs::crew::Post;
use crate::jobs::errands::{Acknowledged, Errands, Record};
use crate::jobs::journal::{Done, Journal, Place};
use crate::jobs::ledger::{self, Ledger, Scribe};
use crate::jobs::outbox::Outbox;
use crate::jobs::output::JobOutput;
use crate::jobs::poller::Claimed;
use crate::jobs::report::{self, Left};
use crate::jobs::running::{Note, Running, Step, Token};
use crate::jobs::several;
use crate::limits;
use crate::logs::LogStreamer;
use crate::metrics;
use crate::os::clock;
use crate::os::pulse::{self, Entered, Pulses};
use crate::os::stop::Stop;
use crate::os::threads::panic_text;
use crate::policy::stop::Pace;
use crate::telemetry;
use crate::verdict::{Cause, Outcome, Phase, Timings, Usage, Verdict};

/// What every worker needs; shared by all of them.
pub struct Workshop {
    pub config: Live,
    pub client: api::Client,
    pub containers: Box<dyn Executor>,
    /// Runs jobs on servers.
    pub servers: Box<dyn Executor>,
    pub reaper: Reaper,
    pub streamer: LogStreamer,
    pub running: Running,
    pub journal: Journal,
    pub outbox: Outbox,
    pub scribe: Scribe,
    /// Ends waits for a backend that does not answer.
    pub stop: Stop,
    pub pulses: Pulses,
}

impl Workshop {
    /// This thread, which sees a job or one server of a job through, is watched as `name` until the guard is dropped.
    pub fn watched(&self, name: &'static str) -> Entered {
        self.pulses.part(name, longest_silence(&self.config.now())).enter()
    }

    /// The calls to the backend that a job's worker does not wait for.
    pub(in crate::jobs) fn errands(&self, job: &Id, execution: &Id, record: Option<Record>) -> io::Result<Errands> {
        let setup = self.config.now().jobs.setup_timeout;
        Errands::start(self.client.clone(), job, execution, record, setup, self.stop.clone())
    }

    /// Tells who watches the job live that it runs, or how it ended. Only for show: the report counts.
    pub fn show(&self, job: &Id, status: &str, details: Option<&str>) {
        self.streamer.status(job, status, clock::wall(), details);
    }
}

/// For how long a thread that sees a job through may not touch its pulse. Between two touches lies one call, or one wait
/// for the job's errands.
fn longest_silence(config: &Config) -> Duration {
    let call = config.api.timeout.max(config.ssh.connection_timeout * 2);
    limits::ACKNOWLEDGE_WAIT.max(call) + limits::PULSE_ROOM
}

/// One of the pool's threads.
pub struct Worker {
    shop: Arc<Workshop>,
    post: Post,
}

impl Worker {
    /// A worker of this shop.
    pub fn new(shop: Arc<Workshop>, post: Post) -> Self {
        Self { shop, post }
    }

    /// Takes jobs until the poller has gone, or until there are more workers than are wanted.
    pub fn run(&self, handouts: &Receiver<Claimed>) {
        let _watched = self.shop.watched("worker");
        while !self.post.leave_if_over() {
            pulse::touch();
            match clock::receive(handouts, limits::WORKER_TICK) {
                Ok(claimed) => {
                    let id = claimed.claim.id().clone();
                    // What went wrong in one job stays in that job: its container is removed by its guard.
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take(claimed))) {
                        log::error!("job {id}: the worker panicked outside the job itself: {}", panic_text(&*panic));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&self, claimed: Claimed) {
        // The token is given back when the job is reported, the slot when nothing of it is left; whatever happened.
        let Claimed { claim, token, slot: _slot, at } = claimed;
        let execution = execution_id(claim.id());
        let _context = telemetry::context(claim.id(), &execution);
        let kind = match &claim {
            Claim::Run(job) => job.kind,
            Claim::Refuse { kind, .. } => *kind,
        };
        if self.shop.outbox.holds(claim.id()) {
            log::warn!("the job was handed out again while its report waits; it is not run again");
            return;
        }
        token.note(Note::Kind(kind));
        token.note(Note::Execution(execution.clone()));
        metrics::jobs_active(1);
        let reported = match claim {
            Claim::Run(job) => match self.shop.journal.done().lookup(&job.id) {
                Some(done) if done.attempts >= job.attempts => self.repeat(&job, &execution, &done),
                _ => self.run_job(*job, execution, &token),
            },
            Claim::Refuse { id, reason, kind } => self.refuse(&id, &execution, kind, reason),
        };
        metrics::jobs_active(-1);
        let Some(Reported { verdict, left }) = reported else { return };
        metrics::job_finished(kind, &verdict, clock::since(at));
        // The backend has the report, and may hand the job out once more: it is not in hand any longer.
        drop(token);
        left.clear(&self.shop.outbox);
    }

    /// The whole life of a job. `None` when it turned out not to be ours to run or to report.
    fn run_job(&self, job: Job, execution: Id, token: &Token) -> Option<Reported> {
        let shop = &self.shop;
        log::info!("claimed: {} script, attempt {}", job.script.language.as_str(), job.attempts.saturating_add(1));
        let (executor, server) = match (job.kind, job.servers.as_slice()) {
            (Kind::Container, _) => (&shop.containers, None),
            (Kind::Ssh, [Ok(server)]) => (&shop.servers, Some(server.clone())),
            (Kind::Ssh, _) => return several::run(shop, job, &execution, token),
        };
        let task = Task { job: Arc::new(job), server, execution };
        let (id, execution) = (&task.job.id, &task.execution);
        let control = watched(shop, token);
        if control.is_given_back() {
            return stopping(shop, id);
        }
        let mut output = JobOutput::new(shop.config.now().jobs.max_output, shop.streamer.open(id));
        let record = Record::new(execution, task.server.as_ref());
        let errands = match shop.errands(id, execution, Some(record)) {
            Ok(errands) => errands,
            Err(error) => {
                log::error!("cannot start a thread for the job: {error}; giving it back");
                report::give_back(&shop.client, id, "the agent is out of threads");
                return None;
            }
        };
        // On disk before anything of it exists: after a crash it is found, or known not to have begun.
        let ledger = match Ledger::intend(&shop.journal, &task, container_name, output.progress()) {
            Ok(ledger) => Arc::new(ledger),
            Err(error) => {
                log::error!("not running the job, which nobody would find after a crash: {error}; giving it back");
                let ours = errands.acknowledged() == Acknowledged::Ours;
                control.end();
                errands.finish();
                if ours {
                    report::give_back(&shop.client, id, "the agent's journal cannot be written");
                }
                return None;
            }
        };

        token.step(Step::Preparing);
        let prepared = guarded(|| executor.prepare(&task, &control, &mut output));
        match errands.acknowledged() {
            Acknowledged::Ours => {}
            Acknowledged::NotOurs(why) => {
                log::warn!("not running the job: {why}");
                control.end();
                drop(prepared);
                errands.finish();
                ledger.forget();
                return None;
            }
            Acknowledged::Unknown(why) => {
                log::error!("not running the job: {why}; giving it back");
                control.end();
                drop(prepared);
                errands.finish();
                report::give_back(&shop.client, id, "the acknowledgement failed");
                ledger.forget();
                return None;
            }
        }
        let end = match prepared {
            Ok(Ok(ready)) => begin(shop, ready, &task, (&ledger, &errands, token), &mut output),
            Ok(Err(_)) if control.is_given_back() => End::NeverRan(Remains::nothing()),
            Ok(Err(outcome)) => End::Outcome(outcome, Remains::nothing()),
            Err(panic) => End::Outcome(Box::new(broken(panic)), Remains::nothing()),
        };
        control.end();
        token.step(Step::Reporting);
        conclude(shop, &ledger, end, output, Some(errands))
    }

    /// Reports a job that cannot be run as it was sent.
    fn refuse(&self, id: &Id, execution: &Id, kind: Kind, reason: String) -> Option<Reported> {
        log::warn!("refused: {reason}");
        let record = Some(Record::new(execution, None));
        let errands = self.shop.errands(id, execution, record);
        match errands.map(|errands| (errands.acknowledged(), errands.finish()).0) {
            Ok(Acknowledged::Ours) => {}
            Ok(Acknowledged::NotOurs(why) | Acknowledged::Unknown(why)) => {
                log::warn!("not reporting the refused job: {why}");
                return None;
            }
            Err(error) => {
                log::error!("cannot start a thread for the job: {error}");
                return None;
            }
        }
        let output = JobOutput::new(0, self.shop.streamer.open(id));
        let entry = ledger::blank(id, execution, kind, 0, None, Place::Nowhere);
        let page = Ledger::found(&self.shop.journal, entry, output.progress());
        let end = End::Outcome(Box::new(unrun(Verdict::refused(reason))), Remains::nothing());
        conclude(&self.shop, &page, end, output, None)
    }

    /// Tells the backend once more how a job ended that it hands out again: it is not run a second time.
    fn repeat(&self, job: &Job, execution: &Id, done: &Done) -> Option<Reported> {
        let shop = &self.shop;
        log::warn!("the job was finished before as {}; it is reported so again and not run", done.status);
        let errands = shop.errands(&job.id, execution, None);
        let ours = errands.map(|errands| (errands.acknowledged(), errands.finish()).0);
        if !matches!(ours, Ok(Acknowledged::Ours)) {
            log::warn!("not reporting the job again: {ours:?}");
            return None;
        }
        let message = format!("this agent had finished the job before, and did not run it again: {}", done.message);
        let cause = match done.status.as_str() {
            "completed" if done.exit_code == 0 => Cause::Success,
            "completed" => Cause::Partial(u32::try_from(done.exit_code - 100).unwrap_or(0)),
            "timeout" => Cause::Timeout { limit: "the job's timeout", after: Duration::ZERO },
            "cancelled" => Cause::Cancelled("backend (before)"),
            _ => Cause::Exit,
        };
        let verdict = Verdict { phase: Phase::Execution, cause, exit_code: done.exit_code, message };
        let output = JobOutput::new(0, shop.streamer.open(&job.id));
        let entry = ledger::blank(&job.id, execution, job.kind, job.attempts, None, Place::Nowhere);
        let page = Ledger::found(&shop.journal, entry, output.progress());
        conclude(shop, &page, End::Outcome(Box::new(unrun(verdict)), Remains::nothing()), output, None)
    }
}

/// Starts what is ready and follows it to its end, once its page says so.
fn begin(
    shop: &Workshop,
    ready: Box<dyn Prepared>,
    task: &Task,
    (ledger, errands, token): (&Arc<Ledger>, &Errands, &Token),
    output: &mut JobOutput,
) -> End {
    let facts = ready.facts();
    token.note(Note::Place(task.server.as_ref().map_or_else(|| facts.place.clone(), Server::shown)));
    if let Err(error) = ledger.start(&facts) {
        log::error!("not starting the job, since its page says that it was not: {error}");
        return End::NeverRan(Remains::of(ready));
    }
    errands.started();
    token.step(Step::Running);
    shop.show(&task.job.id, "running", None);
    shop.scribe.keep(ledger);
    guarded(|| ready.run(task, output))
        .unwrap_or_else(|panic| End::Outcome(Box::new(broken(panic)), Remains::nothing()))
}

/// A job that was reported.
pub(in crate::jobs) struct Reported {
    pub(in crate::jobs) verdict: Verdict,
    pub(in crate::jobs) left: Left,
}

/// The job's handle for ending it, at which the reaper looks from now on.
pub(in crate::jobs) fn watched(shop: &Workshop, token: &Token) -> Arc<Control> {
    let control = Arc::clone(token.control());
    shop.reaper.watch(&control, pace(&shop.config.now()));
    control
}

/// How hard jobs are ended.
pub(in crate::jobs) fn pace(config: &Config) -> Pace {
    Pace { grace: config.jobs.stop_grace, again: limits::KILL_AGAIN, patience: limits::KILL_PATIENCE }
}

/// Gives back a job of which nothing was done, since the agent ends.
pub(in crate::jobs) fn stopping(shop: &Workshop, job: &Id) -> Option<Reported> {
    log::warn!("the agent ends before the job has begun; giving it back");
    report::give_back(&shop.client, job, "the agent is stopping");
    None
}

/// From a run's end to its report; `None` where the script goes on without this agent.
pub(in crate::jobs) fn conclude(
    shop: &Workshop,
    ledger: &Ledger,
    end: End,
    mut output: JobOutput,
    errands: Option<Errands>,
) -> Option<Reported> {
    let outcome = match end {
        End::Outcome(outcome, remains) => Some((outcome, remains)),
        End::Left => None,
        End::NeverRan(remains) => {
            log::warn!("the script was not started; giving the job back");
            // Should the agent be killed from here on, the next one must not take it for a script whose end is unknown.
            ledger.back();
            drop(remains);
            output.flush(limits::LIVE_FLUSH);
            if let Some(errands) = errands {
                errands.finish();
            }
            report::give_back(&shop.client, &ledger.job(), "the script was not started");
            ledger.forget();
            return None;
        }
    };
    let Some((outcome, remains)) = outcome else {
        log::warn!("the script goes on without this agent; the next one finds it");
        output.settle();
        output.flush(limits::LIVE_FLUSH);
        ledger.note_last();
        if let Some(errands) = errands {
            errands.finish();
        }
        return None;
    };
    output.finish();
    output.system(&outcome.verdict.to_string());
    let collected = output.flush(limits::LIVE_FLUSH);
    if let Some(errands) = errands {
        errands.finish();
    }
    shop.show(&ledger.job(), outcome.verdict.status().as_str(), Some(&outcome.verdict.message));
    count_phases(&outcome.timings);
    let report = report::write(true, &outcome, collected);
    let page = ledger.end(report, remains.is_something());
    let left = report::deliver(&shop.outbox, page, ledger.tried(), remains);
    Some(Reported { verdict: outcome.verdict, left })
}

/// Calls `act`; a panic in it becomes its text.
pub(in crate::jobs) fn guarded<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|panic| panic_text(&*panic))
}

/// The outcome of a job in which the agent itself broke.
pub(in crate::jobs) fn broken(panic: String) -> Outcome {
    let message = format!("the agent itself failed while it ran the job, please report this: {panic}");
    unrun(Verdict::infrastructure(Phase::Execution, message))
}

/// The outcome of a job that did not run.
pub(in crate::jobs) fn unrun(verdict: Verdict) -> Outcome {
    Outcome { verdict, timings: Timings::default(), usage: Usage::default(), evidence: Vec::new() }
}

/// Counts the time of each phase.
pub(in crate::jobs) fn count_phases(timings: &Timings) {
    let phases =
        [(Phase::Setup, timings.setup), (Phase::Execution, timings.execution), (Phase::Cleanup, timings.cleanup)];
    for (phase, span) in phases {
        if let Some(span) = span {
            metrics::job_phase(phase, span.length);
        }
    }
}

/// `exec-<job id>-<unix ms>`; a long job id is cut, since the contract caps ids at 100 characters.
fn execution_id(job: &Id) -> Id {
    let now = clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    cut_id(job, &format!("-{now}"))
}

fn cut_id(job: &Id, tail: &str) -> Id {
    let room = crate::job::ID_MAX - "exec-".len() - tail.len();
    let head = &job.as_str()[..job.as_str().len().min(room)];
    // An id is ASCII, so that it can be cut anywhere, and every character of it is allowed in the new one.
    Id::parse(&format!("exec-{head}{tail}")).unwrap_or_else(|_| job.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn execution_ids_fit_whatever_the_job_is_called() {
        for length in [1, 50, 80, 100] {
            let job = Id::parse(&"j".repeat(length)).expect("id");
            let execution = execution_id(&job);
            assert!(execution.as_str().len() <= crate::job::ID_MAX);
            assert!(execution.as_str().starts_with("exec-j"));
        }
    }

    #[test]
    fn a_panic_becomes_an_outcome_that_blames_the_agent() {
        let outcome = guarded(|| -> Outcome { panic!("as planned") }).unwrap_or_else(broken);
        assert_eq!(outcome.verdict.reason(), "infrastructure");
        assert!(outcome.verdict.message.contains("as planned"));
    }

    #[test]
    fn a_worker_with_the_longest_wait_of_all_has_room_beyond_it() {
        let (second, mut config) = (Duration::from_secs(1), crate::config::defaults());
        let bounds = |config: &Config, longest: Duration| {
            let pulses = Pulses::new();
            let pulse = pulses.part("worker", longest_silence(config));
            pulse.touch();
            let late = clock::now() + longest + limits::PULSE_ROOM;
            (pulses.healthy(late - second).is_ok(), pulses.healthy(late + second).is_ok())
        };
        assert_eq!(bounds(&config, limits::ACKNOWLEDGE_WAIT), (true, false));
        config.api.timeout = limits::ACKNOWLEDGE_WAIT * 2;
        assert_eq!(bounds(&config, limits::ACKNOWLEDGE_WAIT * 2), (true, false));
    }
}

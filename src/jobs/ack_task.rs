//! The calls to the backend that run beside a job, in their order: acknowledge, create the execution's row, say that
//! the script runs.
//!
//! Each job has one thread for them. No report is sent before its end, so that the backend sees the calls of a job in
//! order. Once the script has ended, the record of the execution is still created, which the report needs; that the
//! script runs is not said any more.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::api::{self, RowStatus};
use crate::executors::Control;
use crate::job::{Id, Server};
use crate::jobs::context::JobContext;
use crate::jobs::ending::Unreported;
use crate::jobs::row_watch::BY_ROW;
use crate::jobs::running::Token;
use crate::limits;
use crate::os::clock;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::policy::stop::Reason;
use crate::redact::Redactor;
use crate::telemetry;

/// What the backend said to the acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Acknowledged {
    /// It may run, unless a user has cancelled it meanwhile: its control says so.
    Ours,
    /// Another agent has it, or its row says that it is over. It must not run.
    NotOurs(String),
    /// No answer that says either.
    Unknown(String),
}

/// The row of one execution in the backend.
#[derive(Debug, Clone)]
pub struct ExecutionRow {
    pub execution: Id,
    /// The backend's id and the name of the server.
    pub server: Option<(Option<String>, String)>,
}

impl ExecutionRow {
    /// The row of an execution, perhaps on a server.
    pub fn new(execution: &Id, server: Option<&Server>) -> Self {
        Self { execution: execution.clone(), server: server.map(|server| (server.id.clone(), server.name.clone())) }
    }

    /// Creates it. A failure is only logged: the job can do without.
    pub fn create(&self, client: &api::Client, job: &Id) {
        let server = self.server.as_ref().map(|(id, name)| (id.as_deref(), name.as_str()));
        if let Err(error) = client.execution_create(&self.execution, job, server, &[]) {
            log::warn!("the execution's record could not be made: {error}");
        }
    }
}

/// The task that makes these calls. Dropping it waits for the call that is under way, within [`limits::ACK_TASK_WAIT`].
#[derive(Debug)]
pub struct AckTask {
    answer: Receiver<Acknowledged>,
    /// `None` once nothing more is to be said.
    start: Option<Sender<()>>,
    /// Set when nothing more is to be said. No call after the acknowledgement is tried again then.
    over: Stop,
    thread: Option<Thread>,
}

impl AckTask {
    /// Begins with the acknowledgement at once. A job on several servers has a row for each, which are not made here.
    pub(in crate::jobs) fn start(
        context: &JobContext,
        (execution, token): (&Id, &Token),
        row: Option<ExecutionRow>,
    ) -> Result<Self, Unreported> {
        // The script starts within `jobs.setupTimeout`, or not at all.
        let setup = context.config.now().jobs.setup_timeout;
        let control = (Arc::clone(token.control()), token.redactor().clone());
        let ids = (token.id(), execution);
        Self::spawn(context.client.clone(), ids, (row, control), setup).map_err(|error| {
            log::error!("cannot start a thread for the job: {error}");
            Unreported::GiveBack("the agent is out of threads")
        })
    }

    fn spawn(
        client: api::Client,
        (job, execution): (&Id, &Id),
        (row, (control, redactor)): (Option<ExecutionRow>, (Arc<Control>, Redactor)),
        setup: Duration,
    ) -> std::io::Result<Self> {
        let (tell, answer) = bounded(1);
        let (start, started) = bounded(1);
        let (job, execution) = (job.clone(), execution.clone());
        let over = Stop::new();
        let (ended, later) = (over.clone(), client.with_stop(over.clone()));
        let thread = threads::spawn("job-ack", move || {
            let _context = telemetry::context(&job, &execution, &redactor);
            let answer = acknowledge(&client, &job, &control);
            let ours = answer == Acknowledged::Ours;
            let _ = tell.send(answer);
            if !ours {
                return;
            }
            // Made even if the script has ended meanwhile: the report's update needs the record.
            if let Some(row) = row {
                row.create(&later, &job);
            }
            // An error means that the job has not started.
            if clock::receive(&started, setup + limits::ACKNOWLEDGE_WAIT).is_ok() && !ended.is_set() {
                say_running(&later, &job, &control, &ended);
            }
        })?;
        Ok(Self { answer, start: Some(start), over, thread: Some(thread) })
    }

    /// Nothing more is to be said. The thread, if a call is under way: the report goes after its end.
    pub(in crate::jobs) fn end(mut self) -> Option<Thread> {
        self.over.set();
        self.start = None;
        let thread = self.thread.take()?;
        if thread.is_finished() {
            thread.join_within(limits::ACK_TASK_WAIT);
            return None;
        }
        Some(thread)
    }

    /// Waits for the answer to the acknowledgement, within `api.timeout` and `api.retry`. To be asked once.
    pub(in crate::jobs) fn ours(&self) -> Result<(), Unreported> {
        match self.acknowledged() {
            Acknowledged::Ours => Ok(()),
            Acknowledged::NotOurs(why) => {
                log::warn!("not running the job: {why}");
                Err(Unreported::Forget)
            }
            Acknowledged::Unknown(why) => {
                log::error!("not running the job: {why}");
                Err(Unreported::GiveBack("the acknowledgement failed"))
            }
        }
    }

    /// The intent of a job, as it was written. Without one the job must not run: nobody would find it after a crash.
    pub(in crate::jobs) fn unless_failed<T, E: fmt::Display>(&self, intent: Result<T, E>) -> Result<T, Unreported> {
        intent.or_else(|error| {
            log::error!("not running the job, which nobody would find after a crash: {error}");
            // What the backend refused is not ours to give back.
            self.ours()?;
            Err(Unreported::GiveBack("the agent's records cannot be written"))
        })
    }

    fn acknowledged(&self) -> Acknowledged {
        clock::receive(&self.answer, limits::ACKNOWLEDGE_WAIT)
            .unwrap_or_else(|_| Acknowledged::Unknown("the acknowledgement got no answer in time".to_owned()))
    }

    /// The script starts now.
    pub(in crate::jobs) fn started(&self) {
        if let Some(start) = &self.start {
            let _ = start.try_send(());
        }
    }
}

impl Drop for AckTask {
    fn drop(&mut self) {
        self.over.set();
        self.start = None;
        if let Some(thread) = self.thread.take() {
            thread.join_within(limits::ACK_TASK_WAIT);
        }
    }
}

fn acknowledge(client: &api::Client, job: &Id, control: &Control) -> Acknowledged {
    match client.acknowledge(job) {
        Ok(RowStatus::Claimed | RowStatus::Untold) => Acknowledged::Ours,
        // Its report is owed all the same.
        Ok(RowStatus::Cancelled) => {
            control.request(Reason::Cancelled(BY_ROW));
            Acknowledged::Ours
        }
        Ok(other @ (RowStatus::Running | RowStatus::Ended | RowStatus::Queued)) => {
            Acknowledged::NotOurs(format!("the backend acknowledges it, but its row says {other:?}, not claimed"))
        }
        Err(error) if matches!(error.status(), Some(400..=499)) && !error.is_retryable() => {
            Acknowledged::NotOurs(error.to_string())
        }
        Err(error) => Acknowledged::Unknown(error.to_string()),
    }
}

/// Says that the script runs. This would undo a user's cancel, so the row is asked for that right before.
fn say_running(client: &api::Client, job: &Id, control: &Control, ended: &Stop) {
    if matches!(client.row_status(job), Ok(RowStatus::Cancelled)) {
        control.request(Reason::Cancelled(BY_ROW));
    }
    if control.reason().is_some() || ended.is_set() {
        return;
    }
    if let Err(error) = client.status_running(job, Some("the job is running")) {
        log::warn!("the backend could not be told that the job runs: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Problem;
    use crate::api::testing::{NoAnswer, Scripted};
    use crate::os::sim::Sim;

    const SETUP: Duration = Duration::from_secs(60);

    /// A backend that lets each call hang for an hour, but for the first few, which it answers.
    #[derive(Debug)]
    struct Hangs {
        sim: Sim,
        after: std::sync::atomic::AtomicUsize,
    }

    impl Scripted for Hangs {
        fn exchange(&self, _: &str, _: &str, _: Option<&[u8]>) -> (Option<u16>, Result<Vec<u8>, Problem>) {
            use std::sync::atomic::Ordering::SeqCst;
            if self.after.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                return (Some(200), Ok(b"{}".to_vec()));
            }
            let hour = Duration::from_secs(3600);
            self.sim.sleep(hour);
            (None, Err(NoAnswer::Late(hour).problem()))
        }
    }

    /// Runs a job's calls in simulated time, where the backend answers the first `answered` of them.
    fn with_task(answered: usize, act: impl FnOnce(&Sim, AckTask)) {
        Sim::run(1, |sim| {
            let backend = Hangs { sim: sim.clone(), after: answered.into() };
            let client = api::Client::scripted(Stop::new(), Arc::new(backend));
            let (job, execution) = (Id::parse("job-1").expect("id"), Id::parse("exec-1").expect("id"));
            let record = Some(ExecutionRow::new(&execution, None));
            act(
                sim,
                AckTask::spawn(client, (&job, &execution), (record, (Control::new(), Redactor::default())), SETUP)
                    .expect("a thread"),
            );
            sim.kill();
            while sim.alive() > 0 {
                sim.pause(Duration::from_secs(1));
            }
        });
    }

    #[test]
    fn an_acknowledgement_that_hangs_is_waited_for_within_a_bound() {
        with_task(0, |sim, task| {
            assert!(matches!(task.acknowledged(), Acknowledged::Unknown(_)));
            assert_eq!(sim.elapsed(), limits::ACKNOWLEDGE_WAIT);
        });
    }

    #[test]
    fn a_start_that_does_not_come_is_waited_for_within_a_bound() {
        with_task(usize::MAX, |sim, task| {
            assert_eq!(task.acknowledged(), Acknowledged::Ours);
            let begun = sim.elapsed();
            while sim.alive() > 0 {
                sim.pause(Duration::from_secs(1));
                assert!(sim.elapsed() - begun < (SETUP + limits::ACKNOWLEDGE_WAIT) * 2);
            }
            assert!(sim.elapsed() - begun >= SETUP + limits::ACKNOWLEDGE_WAIT);
            drop(task);
        });
    }

    #[test]
    fn once_the_script_has_ended_only_the_call_under_way_is_finished() {
        for answered in [1, 2] {
            with_task(answered, |sim, task| {
                assert_eq!(task.acknowledged(), Acknowledged::Ours);
                task.started();
                // It creates the row, or looks at it, for an hour; then it would say that the script runs.
                sim.pause(Duration::from_secs(1));
                let begun = sim.elapsed();
                assert!(task.end().is_some(), "a call is under way, and nobody waits for it here");
                assert_eq!(sim.elapsed(), begun);
                while sim.alive() > 0 {
                    sim.pause(Duration::from_secs(1));
                }
                let took = sim.elapsed() - begun;
                assert!(took < Duration::from_secs(3700), "not tried again, and nothing after it: {took:?}");
            });
        }
    }

    #[test]
    fn a_script_that_ends_at_once_has_its_record_all_the_same() {
        /// Answers each call after a second and keeps its path.
        #[derive(Debug)]
        struct Slow(Sim, std::sync::Mutex<Vec<String>>);
        impl Scripted for Slow {
            fn exchange(&self, _: &str, path: &str, _: Option<&[u8]>) -> (Option<u16>, Result<Vec<u8>, Problem>) {
                self.1.lock().expect("paths").push(path.to_owned());
                self.0.sleep(Duration::from_secs(1));
                (Some(200), Ok(b"{}".to_vec()))
            }
        }
        Sim::run(1, |sim| {
            let backend = Arc::new(Slow(sim.clone(), std::sync::Mutex::default()));
            let client = api::Client::scripted(Stop::new(), Arc::clone(&backend) as Arc<dyn Scripted>);
            let (job, execution) = (Id::parse("job-1").expect("id"), Id::parse("exec-1").expect("id"));
            let record = Some(ExecutionRow::new(&execution, None));
            let rest = (record, (Control::new(), Redactor::default()));
            let task = AckTask::spawn(client, (&job, &execution), rest, SETUP).expect("a thread");
            task.started();
            // The script has ended before the acknowledgement is answered.
            drop(task.end());
            while sim.alive() > 0 {
                sim.pause(Duration::from_secs(1));
            }
            let paths = backend.1.lock().expect("paths").clone();
            assert_eq!(paths.len(), 2, "acknowledged, created, and nothing more: {paths:?}");
            assert!(paths[1].ends_with("/executions/exec-1/create"), "{paths:?}");
        });
    }

    #[test]
    fn calls_that_hang_do_not_hold_up_the_report_for_ever() {
        with_task(1, |sim, task| {
            assert_eq!(task.acknowledged(), Acknowledged::Ours);
            drop(task);
            assert_eq!(sim.elapsed(), limits::ACK_TASK_WAIT);
        });
    }
}

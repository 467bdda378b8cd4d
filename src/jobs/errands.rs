//! The calls to the backend that a job's worker does not wait for, on a thread of the job's own, in their order:
//! acknowledge, create the execution's record, say that it runs.
//!
//! The thread lives as long as the job and is joined before the job's report is sent, so that the backend sees the calls
//! of a job in order.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::api;
use crate::job::{Id, Server};
use crate::limits;
use crate::os::clock;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::telemetry;

/// What the backend said to the acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acknowledged {
    Ours,
    /// Refused: another agent has it, or it is gone. It must not run.
    NotOurs(String),
    /// No answer that says either.
    Unknown(String),
}

/// The execution's record, which the errands make.
#[derive(Debug, Clone)]
pub struct Record {
    pub execution: Id,
    /// The backend's id and the name of the server.
    pub server: Option<(Option<String>, String)>,
}

impl Record {
    /// The record of an execution, perhaps on a server.
    pub fn new(execution: &Id, server: Option<&Server>) -> Self {
        Self { execution: execution.clone(), server: server.map(|server| (server.id.clone(), server.name.clone())) }
    }

    /// Makes it; a failure is only logged, since the job can do without.
    pub fn create(&self, client: &api::Client, job: &Id) {
        let server = self.server.as_ref().map(|(id, name)| (id.as_deref(), name.as_str()));
        if let Err(error) = client.execution_create(&self.execution, job, server, &[]) {
            log::warn!("the execution's record could not be made: {error}");
        }
    }
}

/// The errands of one job.
#[derive(Debug)]
pub struct Errands {
    acknowledged: Receiver<Acknowledged>,
    start: Sender<()>,
    thread: Thread,
}

impl Errands {
    /// Begins with the acknowledgement at once. A job on several servers has a record for each, which are not made here.
    /// `setup` is `jobs.setupTimeout`: the script starts within it, or not at all.
    pub fn start(
        client: api::Client,
        job: &Id,
        execution: &Id,
        record: Option<Record>,
        setup: Duration,
        stop: Stop,
    ) -> std::io::Result<Self> {
        let (tell, acknowledged) = bounded(1);
        let (start, started) = bounded(1);
        let (job, execution) = (job.clone(), execution.clone());
        let thread = threads::spawn("job-errands", move || {
            let _context = telemetry::context(&job, &execution);
            let answer = acknowledge(&client, &job);
            let ours = answer == Acknowledged::Ours;
            let _ = tell.send(answer);
            if !ours {
                return;
            }
            if let Some(record) = record {
                record.create(&client, &job);
            }
            // An error means that the job has not started.
            if clock::receive(&started, setup + limits::ACKNOWLEDGE_WAIT).is_ok()
                && !stop.is_set()
                && let Err(error) = client.status_running(&job, Some("the script is running"))
            {
                log::warn!("the backend could not be told that the job runs: {error}");
            }
        })?;
        Ok(Self { acknowledged, start, thread })
    }

    /// Waits for the answer to the acknowledgement; bounded by `api.timeout` and `api.retry`.
    pub fn acknowledged(&self) -> Acknowledged {
        clock::receive(&self.acknowledged, limits::ACKNOWLEDGE_WAIT)
            .unwrap_or_else(|_| Acknowledged::Unknown("the acknowledgement got no answer in time".to_owned()))
    }

    /// The script starts now.
    pub fn started(&self) {
        let _ = self.start.try_send(());
    }

    /// Waits until the errands are done.
    pub fn finish(self) {
        drop(self.start);
        self.thread.join_within(limits::ERRANDS_WAIT);
    }
}

fn acknowledge(client: &api::Client, job: &Id) -> Acknowledged {
    match client.acknowledge(job, None) {
        Ok(_) => Acknowledged::Ours,
        Err(error) if matches!(error.status(), Some(400..=499)) && !error.is_retryable() => {
            Acknowledged::NotOurs(error.to_string())
        }
        Err(error) => Acknowledged::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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

    /// What becomes of a job's errands in simulated time, when so many calls are answered.
    fn errands(answered: usize, act: impl FnOnce(&Sim, Errands)) {
        Sim::run(1, |sim| {
            let backend = Hangs { sim: sim.clone(), after: answered.into() };
            let client = api::Client::scripted(Stop::new(), Arc::new(backend));
            let (job, execution) = (Id::parse("job-1").expect("id"), Id::parse("exec-1").expect("id"));
            let record = Some(Record::new(&execution, None));
            act(sim, Errands::start(client, &job, &execution, record, SETUP, Stop::new()).expect("a thread"));
            sim.kill();
            while sim.alive() > 0 {
                sim.pause(Duration::from_secs(1));
            }
        });
    }

    #[test]
    fn an_acknowledgement_that_hangs_is_waited_for_within_a_bound() {
        errands(0, |sim, errands| {
            assert!(matches!(errands.acknowledged(), Acknowledged::Unknown(_)));
            assert_eq!(sim.elapsed(), limits::ACKNOWLEDGE_WAIT);
        });
    }

    #[test]
    fn a_start_that_does_not_come_is_waited_for_within_a_bound() {
        errands(usize::MAX, |sim, errands| {
            assert_eq!(errands.acknowledged(), Acknowledged::Ours);
            let begun = sim.elapsed();
            while sim.alive() > 0 {
                sim.pause(Duration::from_secs(1));
                assert!(sim.elapsed() - begun < (SETUP + limits::ACKNOWLEDGE_WAIT) * 2);
            }
            assert!(sim.elapsed() - begun >= SETUP + limits::ACKNOWLEDGE_WAIT);
            drop(errands);
        });
    }

    #[test]
    fn errands_that_hang_do_not_hold_up_the_report_for_ever() {
        errands(1, |sim, errands| {
            assert_eq!(errands.acknowledged(), Acknowledged::Ours);
            errands.finish();
            assert_eq!(sim.elapsed(), limits::ERRANDS_WAIT);
        });
    }
}

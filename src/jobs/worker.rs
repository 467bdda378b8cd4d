//! One thread of the worker pool: takes a claimed job, sees it through, takes the next.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::job::{Claim, Id};
use crate::jobs::admission::admit;
use crate::jobs::context::JobContext;
use crate::jobs::history::shown_name;
use crate::jobs::poller::Claimed;
use crate::jobs::run;
use crate::jobs::running::Note;
use crate::jobs::slots::WorkerSlot;
use crate::limits;
use crate::metrics;
use crate::os::clock;
use crate::os::pulse;
use crate::os::threads::guarded;
use crate::telemetry;

/// One of the pool's threads.
pub struct Worker {
    context: Arc<JobContext>,
    slot: WorkerSlot,
}

impl Worker {
    /// A worker with this place in the pool.
    pub fn new(context: Arc<JobContext>, slot: WorkerSlot) -> Self {
        Self { context, slot }
    }

    /// Takes jobs until the poller has gone, or until there are more workers than are wanted.
    pub fn run(&self, handouts: &Receiver<Claimed>) {
        let _watched = self.context.watched("worker");
        while !self.slot.leave_if_over() {
            pulse::touch();
            match clock::receive(handouts, limits::WORKER_TICK) {
                Ok(claimed) => {
                    let id = claimed.claim.id().clone();
                    // What went wrong in one job stays in that job: its container is removed by its guard.
                    if let Err(panic) = guarded(|| self.take(claimed)) {
                        log::error!("job {id}: the worker panicked outside the job itself: {panic}");
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&self, claimed: Claimed) {
        let context = &self.context;
        // The slot is held until nothing of the job is left, the token only until it is reported or goes back.
        let Claimed { claim, token, slot: _slot, at } = claimed;
        let execution = execution_id(claim.id());
        context.secrets.know_own(token.redactor());
        let _context = telemetry::context(claim.id(), &execution, token.redactor());
        let kind = claim.kind();
        if context.outbox.holds(claim.id()) {
            log::warn!("the job was handed out again while its report waits; it is not run again");
            return;
        }
        token.note(Note::Kind(kind));
        token.note(Note::Execution(execution.clone()));
        if let Claim::Run(job) = &claim
            && let Some(name) = &job.event.name
        {
            token.note(Note::Event(shown_name(name)));
        }
        metrics::JOBS_ACTIVE.add(1);
        let life = match claim {
            Claim::Run(job) => match context.records.done().lookup(&job.id) {
                Some(done) if done.attempts >= job.attempts => run::repeat(context, &job, (&execution, &token), &done),
                _ => match admit(&context.config.now().trust, &job, clock::wall()) {
                    Ok(_) => run::run(context, *job, execution.clone(), &token),
                    Err(reason) => run::refuse(context, (&execution, &token), (kind, Some(&job)), reason),
                },
            },
            Claim::Refuse { reason, kind, .. } => run::refuse(context, (&execution, &token), (kind, None), reason),
        };
        metrics::JOBS_ACTIVE.add(-1);
        let left = life.map(|reported| reported.counted(kind, at, &token));
        context.finish(token, &execution, left);
    }
}

/// `exec-<job id>-<unix ms>`; a long job id is cut, since the contract caps ids at 100 characters.
fn execution_id(job: &Id) -> Id {
    let now = clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let tail = format!("-{now}");
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
}

//! The workers as a whole: as many threads as `jobs.maxConcurrent` says, also after it was changed.
//!
//! More are started at once. Fewer come about as workers leave: one without a job within `limits::WORKER_TICK`, one with
//! a job after its report. So no running job is touched. That no more jobs are claimed than there are workers wanted is
//! the doing of [`Slots`], which a resize tells first.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::context::JobContext;
use super::poller::{Claimed, Slots};
use super::slots::{Roster, WorkerSlot};
use super::worker::Worker;
use crate::metrics;
use crate::os::threads::{self, Thread};

#[derive(Debug)]
struct Member {
    number: usize,
    left: Arc<AtomicBool>,
    thread: Thread,
}

/// All workers. Held by the thread that resizes.
pub struct WorkerPool {
    context: Arc<JobContext>,
    slots: Slots,
    handouts: Receiver<Claimed>,
    roster: Arc<Roster>,
    members: Vec<Member>,
}

impl WorkerPool {
    /// Starts as many workers as there are `slots`.
    pub fn start(context: Arc<JobContext>, slots: &Slots, handouts: Receiver<Claimed>) -> io::Result<Self> {
        let wanted = slots.total();
        let mut pool = Self { context, slots: slots.clone(), handouts, roster: Arc::default(), members: Vec::new() };
        pool.resize(wanted)?;
        Ok(pool)
    }

    /// Sets the number of workers. If a thread cannot be started, there are fewer, and no more jobs than those.
    pub fn resize(&mut self, wanted: usize) -> io::Result<()> {
        let shrinks = wanted < self.slots.total();
        if shrinks {
            self.slots.resize(wanted);
        }
        let missing = {
            let present = self.roster.present.lock().unwrap_or_else(PoisonError::into_inner);
            self.roster.wanted.store(wanted, Ordering::SeqCst);
            wanted.saturating_sub(*present)
        };
        let started = (0..missing).try_for_each(|_| self.add());
        let there = if started.is_ok() { wanted } else { self.present().min(wanted) };
        self.slots.resize(there);
        metrics::WORKERS.set(there);
        started
    }

    fn present(&self) -> usize {
        *self.roster.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&mut self) -> io::Result<()> {
        let taken = |number: &usize| self.members.iter().any(|member| member.number == *number);
        let number = (1..).find(|number| !taken(number)).unwrap_or_default();
        let left = Arc::new(AtomicBool::new(false));
        let slot = WorkerSlot { roster: Arc::clone(&self.roster), left: Arc::clone(&left) };
        let (worker, handouts) = (Worker::new(Arc::clone(&self.context), slot), self.handouts.clone());
        // Counted before it runs: it may look at once whether it is one too many.
        *self.roster.present.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        match threads::spawn(&format!("worker-{number}"), move || worker.run(&handouts)) {
            Ok(thread) => {
                self.members.push(Member { number, left, thread });
                Ok(())
            }
            Err(error) => {
                *self.roster.present.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
                Err(error)
            }
        }
    }

    /// Joins those that have left. The name of a worker that ended without having been told to, which none does.
    pub fn look(&mut self, wait: Duration) -> Option<String> {
        let (ended, there): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.members).into_iter().partition(|member| member.thread.is_finished());
        self.members = there;
        let mut lost = None;
        for member in ended {
            if !member.left.load(Ordering::SeqCst) {
                lost = Some(member.thread.name().to_owned());
            }
            member.thread.join_within(wait);
        }
        lost
    }

    /// Waits for each of them, at most `wait`. The poller must have ended before.
    pub fn join(self, wait: Duration) {
        for member in self.members {
            member.thread.join_within(wait);
        }
    }
}

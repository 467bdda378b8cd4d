//! One job's side of the live log: the state that worker and sending thread share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::buffer::{Buffer, Numbers, Origin};
use super::wait_budget::WaitBudget;
use crate::job::Id;

/// State of a job that worker and sending thread share.
#[derive(Debug)]
pub(super) struct Job {
    pub id: Id,
    inner: Mutex<Inner>,
    /// Notified when half of the buffer is free, when it is empty, and when the connection is lost.
    pub room: Condvar,
}

/// See [`Job`].
#[derive(Debug)]
pub(super) struct Inner {
    pub buffer: Buffer,
    pub wait_budget: WaitBudget,
    /// When the link last took bytes of this job.
    pub progress: Instant,
    /// The worker waits for room.
    pub waiting: bool,
    /// The worker waits for the buffer to be empty.
    pub finishing: bool,
}

impl Inner {
    /// A thread waits, so lines are not held back to fill a batch.
    pub(super) fn urgent(&self) -> bool {
        self.waiting || self.finishing
    }
}

impl Job {
    pub(super) fn new(id: Id, lines: usize, now: Instant) -> Self {
        let (buffer, wait_budget) = (Buffer::new(lines), WaitBudget::new(now));
        let inner = Inner { buffer, wait_budget, progress: now, waiting: false, finishing: false };
        Self { id, inner: Mutex::new(inner), room: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `lines` oldest lines in flight have arrived.
    pub(super) fn arrived(&self, lines: usize, at: SystemTime, now: Instant) {
        let mut inner = self.lock();
        let freed = inner.buffer.release(lines, at, now);
        inner.wait_budget.taken(freed);
        inner.progress = now;
        // Waking the worker at each acknowledgement would cost more than the work.
        if (inner.waiting && inner.buffer.half_empty()) || (inner.finishing && inner.buffer.is_empty()) {
            inner.waiting = false;
            self.room.notify_all();
        }
    }

    /// The connection is lost.
    pub(super) fn rewind(&self, now: Instant) {
        let mut inner = self.lock();
        inner.buffer.rewind(now);
        inner.waiting = false;
        self.room.notify_all();
    }
}

/// The progress of a job's live log, for its record. Outlives the [`JobStream`].
#[derive(Debug, Clone, Default)]
pub struct Mark(pub(super) Option<Arc<Job>>);

impl Mark {
    /// The numbers of its lines. Without a live log all are 0.
    pub fn numbers(&self) -> Numbers {
        self.0.as_ref().map_or_else(Numbers::default, |job| job.lock().buffer.numbers())
    }

    /// The same, and the sequences kept for the unfinished lines of these two origins; 0 for none.
    pub fn numbers_and_open(&self, origins: [Origin; 2]) -> (Numbers, [u64; 2]) {
        let Some(job) = &self.0 else { return Default::default() };
        let inner = job.lock();
        (inner.buffer.numbers(), origins.map(|origin| inner.buffer.open_at(origin).unwrap_or(0)))
    }

    /// An earlier agent sent a partial line of `origin` with this sequence.
    pub fn keep_open(&self, origin: Origin, sequence: u64) {
        if let Some(job) = &self.0 {
            job.lock().buffer.keep_open(origin, sequence);
        }
    }

    /// Whether there is a live log.
    pub fn is_live(&self) -> bool {
        self.0.is_some()
    }
}

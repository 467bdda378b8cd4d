//! The worker's handle on the live log of its job.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::buffer::Origin;
use super::encode::Dialect;
use super::job::{Inner, Job, Mark};
use super::shared::Shared;
use super::types::Flushed;
use crate::limits::{LOG_FINISH_STALL, LOG_LOCAL_BYTES, LOG_LOCAL_LINES};
use crate::metrics;

/// A worker's handle on the live log of its job. Dropped without [`JobStream::finish`], it gives up the held lines.
#[derive(Debug)]
pub struct JobStream {
    /// `None` when there is no live log.
    live: Option<(Arc<Shared>, Arc<Job>)>,
    text: Vec<u8>,
    lines: Vec<(Origin, SystemTime, usize)>,
}

impl JobStream {
    pub(super) fn new(live: Option<(Arc<Shared>, Arc<Job>)>) -> Self {
        Self { live, text: Vec::new(), lines: Vec::new() }
    }

    /// A handle on the progress.
    pub fn mark(&self) -> Mark {
        Mark(self.live.as_ref().map(|(_, job)| Arc::clone(job)))
    }

    /// Adds one line, without its newline. Lines are gathered here, and handed over with every 64th line, every 16 KiB and by
    /// [`JobStream::settle`]. Only then may this wait, within the bound that the module states.
    pub fn line(&mut self, origin: impl Into<Origin>, line: &[u8], at: SystemTime) {
        if self.live.is_none() {
            return;
        }
        self.text.extend_from_slice(line);
        self.lines.push((origin.into(), at, line.len()));
        if self.lines.len() >= LOG_LOCAL_LINES || self.text.len() >= LOG_LOCAL_BYTES {
            self.settle();
        }
    }

    /// Whether the server can replace a line that was sent before it ended.
    pub fn shows_partial_lines(&self) -> bool {
        let shows = |shared: &Shared| shared.connected() && shared.state().told.dialect == Some(Dialect::V2);
        self.live.as_ref().is_some_and(|(shared, _)| shows(shared))
    }

    /// Sends the start of a line that has not ended; the next line of `origin` replaces it. Never waits; returns whether there
    /// was room.
    pub fn partial(&mut self, origin: Origin, text: &[u8], at: SystemTime) -> bool {
        self.settle();
        let Some((shared, job)) = self.live.as_ref().filter(|_| self.shows_partial_lines()) else { return false };
        let taken = job.lock().buffer.push_partial(origin, text, at, Instant::now());
        if taken {
            shared.waker.wake();
        }
        taken
    }

    /// Hands over the gathered lines, and wakes the sender. Lines get their numbers here, in the order of the calls.
    pub fn settle(&mut self) {
        let Some((shared, job)) = &self.live else { return };
        if self.lines.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut dropped = 0;
        let mut start = 0;
        let mut inner = job.lock();
        // The usual case.
        if inner.buffer.has_room_for(self.lines.len(), self.text.len()) {
            inner.buffer.push_all(&self.text, self.lines.drain(..), now);
        }
        for (origin, at, length) in self.lines.drain(..) {
            let text = &self.text[start..start + length];
            start += length;
            let has_room;
            (inner, has_room) = room_for(job, inner, length, shared);
            if has_room {
                inner.buffer.push(origin, text, at, now);
            } else {
                inner.buffer.leave_out(origin, length);
                dropped += 1;
            }
        }
        drop(inner);
        self.text.clear();
        shared.waker.wake();
        if dropped > 0 && shared.was_connected() {
            metrics::LOG_LINES_DROPPED.add(dropped);
        }
    }

    /// Waits until all lines have arrived, at most `wait`, and less if the link takes nothing. Then it gives up and counts the
    /// rest. Sent, dropped and unsent lines together are the job's lines, plus the `system` lines about left-out ones.
    pub fn finish(mut self, wait: Duration) -> Flushed {
        self.flush(wait);
        self.close()
    }

    /// The same, but goes on with the rest until it is dropped or finished. Whether there is none. No line comes after it.
    pub fn flush(&mut self, wait: Duration) -> bool {
        self.settle();
        let Some((shared, job)) = &self.live else { return true };
        let begun = Instant::now();
        let mut inner = job.lock();
        inner.buffer.tell(SystemTime::now(), begun);
        inner.finishing = true;
        shared.waker.wake();
        while !inner.buffer.is_empty() {
            let now = Instant::now();
            // A link that was just lost may come back in time; one that was away for long is not waited for.
            let alive = if shared.connected() { inner.progress.max(begun) } else { shared.down_since() };
            let stall = LOG_FINISH_STALL.saturating_sub(now.saturating_duration_since(alive));
            let left = wait.saturating_sub(now - begun).min(stall);
            if left.is_zero() {
                break;
            }
            inner = job.room.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.buffer.is_empty()
    }

    /// What [`JobStream::finish`] would say if it gave up now.
    pub fn so_far(&self) -> Flushed {
        let Some((_, job)) = self.live.as_ref().filter(|(shared, _)| shared.was_connected()) else {
            return Flushed::default();
        };
        let inner = job.lock();
        Flushed { sent: inner.buffer.delivered(), dropped: inner.buffer.dropped(), unsent: inner.buffer.whole_lines() }
    }

    fn close(&mut self) -> Flushed {
        let Some((shared, job)) = self.live.take() else { return Flushed::default() };
        shared.forget(&job);
        let mut inner = job.lock();
        let unsent = inner.buffer.discard() + self.lines.len() as u64;
        if !shared.was_connected() {
            // Without a WebSocket at the backend there is no viewer who lacks a line.
            return Flushed::default();
        }
        if unsent > 0 {
            metrics::LOG_LINES_DROPPED.add(unsent);
        }
        Flushed { sent: inner.buffer.delivered(), dropped: inner.buffer.dropped(), unsent }
    }
}

impl Drop for JobStream {
    fn drop(&mut self) {
        self.close();
    }
}

/// Waits for room for a line of `length` bytes, within the job's wait budget; returns whether there is room.
fn room_for<'a>(
    job: &'a Job,
    mut inner: MutexGuard<'a, Inner>,
    length: usize,
    shared: &Shared,
) -> (MutexGuard<'a, Inner>, bool) {
    // The usual case, without a clock reading.
    if inner.buffer.has_room(length) {
        return (inner, true);
    }
    let begun = Instant::now();
    let mut now = begun;
    loop {
        if inner.buffer.has_room(length) {
            return (inner, true);
        }
        if !shared.connected() || !inner.buffer.may_wait(length) {
            return (inner, false);
        }
        let progress = inner.progress.max(begun);
        let may = inner.wait_budget.allowance(now, progress);
        if may.is_zero() {
            return (inner, false);
        }
        inner.waiting = true;
        shared.waker.wake();
        inner = job.room.wait_timeout(inner, may).unwrap_or_else(PoisonError::into_inner).0;
        inner.waiting = false;
        let woken = Instant::now();
        inner.wait_budget.spend(woken - now);
        now = woken;
    }
}

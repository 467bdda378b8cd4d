//! The clock, and every wait of the agent's core.
//!
//! In the agent each is one call of the standard library. In the simulation of the core (`jobs::sim`, built for unit tests
//! alone) time moves only while every thread waits, and a seed decides which thread goes on. So `jobs` and `api` read the
//! clock and wait through this module alone; a tidy test checks that. A test beside real sockets may put the real clock
//! forward (`os::ahead`).

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};

#[cfg(test)]
use crate::os::{ahead, sim};

/// A moment in time, and the name of the limit that it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    pub at: Instant,
    pub limit: &'static str,
    /// The limit's whole length, for messages.
    pub length: Duration,
}

impl Deadline {
    /// `length` from now, called `limit` in errors.
    pub fn after(length: Duration, limit: &'static str) -> Self {
        Self { at: now() + length, limit, length }
    }

    /// The earlier of the two.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    /// What is left; `None` when it has passed.
    pub fn left(&self) -> Option<Duration> {
        let left = self.at.saturating_duration_since(now());
        (!left.is_zero()).then_some(left)
    }
}

/// The monotonic clock.
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(sim) = sim::here() {
        return sim.now();
    }
    #[cfg(test)]
    if let Some(ahead) = ahead::here() {
        return ahead.now();
    }
    Instant::now()
}

/// How long ago `at` was, by the monotonic clock.
pub fn since(at: Instant) -> Duration {
    now().saturating_duration_since(at)
}

/// The wall clock, for display and for times that must outlast the process.
pub fn wall() -> SystemTime {
    #[cfg(test)]
    if let Some(sim) = sim::here() {
        return sim.wall();
    }
    SystemTime::now()
}

/// Waits until `bell` rings or `wait` is over, or returns early: the caller checks again. `guard` is of `mutex`.
pub fn wait<'a, T>(mutex: &'a Mutex<T>, bell: &Condvar, guard: MutexGuard<'a, T>, wait: Duration) -> MutexGuard<'a, T> {
    #[cfg(test)]
    if let Some(sim) = sim::here() {
        drop(guard);
        sim.pause(wait);
        return mutex.lock().unwrap_or_else(PoisonError::into_inner);
    }
    #[cfg(test)]
    let wait = if ahead::here().is_some() { wait.min(ahead::LOOK) } else { wait };
    let _ = mutex;
    bell.wait_timeout(guard, wait).unwrap_or_else(PoisonError::into_inner).0
}

/// Sleeps for `wait`, for events outside the simulation: an engine's socket, a file lock.
pub fn sleep(wait: Duration) {
    #[cfg(test)]
    if let Some(ahead) = ahead::here() {
        return ahead.put(wait);
    }
    std::thread::sleep(wait);
}

/// Receives from a channel; waits at most `wait`.
pub fn receive<T>(from: &Receiver<T>, wait: Duration) -> Result<T, RecvTimeoutError> {
    #[cfg(test)]
    if let Some(sim) = sim::here() {
        return sim.receive(from, wait);
    }
    from.recv_timeout(wait)
}

/// Sends to a channel; waits at most `wait`.
pub fn send<T>(to: &Sender<T>, value: T, wait: Duration) -> Result<(), SendTimeoutError<T>> {
    #[cfg(test)]
    if let Some(sim) = sim::here() {
        return sim.send(to, value, wait);
    }
    to.send_timeout(value, wait)
}

/// Called before a write to disk. Does nothing in the agent; in the simulation, the disk may refuse.
#[inline]
pub fn disk() -> io::Result<()> {
    #[cfg(test)]
    if sim::here().is_some_and(|sim| sim.disk_fails()) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// Marks a step with a lasting effect, where a kill makes a difference. Does nothing in the agent; in the simulation, the
/// agent may be killed here.
#[inline]
pub fn step(what: &'static str) {
    #[cfg(test)]
    if let Some(sim) = sim::here() {
        sim.step(what);
    }
    let _ = what;
}

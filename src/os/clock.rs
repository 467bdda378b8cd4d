//! The time, and every wait of the agent's core, in one place.
//!
//! In the agent these are the standard library's, one call each. In the simulation of the core (`jobs::sim`, which is
//! built for unit tests alone) they are the simulation's: its time moves only while every thread waits, and a seed
//! decides who goes on. So `jobs` and `api` read the clock and wait through here alone, which a tidy test looks for. A
//! test beside real sockets may put the real clock forward (`os::ahead`).

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};

#[cfg(test)]
use crate::os::{ahead, sim};

/// When something must be over, and the name of the limit that says so.
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

/// The wall clock, for display and for what must outlast the process.
pub fn wall() -> SystemTime {
    #[cfg(test)]
    if let Some(sim) = sim::here() {
        return sim.wall();
    }
    SystemTime::now()
}

/// Waits until `bell` rings or `wait` is over, or for no reason: the caller looks again. `guard` is of `mutex`.
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

/// Sleeps for `wait`, where what is waited for is no part of the simulation: an engine's socket, the lock of a file.
pub fn sleep(wait: Duration) {
    #[cfg(test)]
    if let Some(ahead) = ahead::here() {
        return ahead.put(wait);
    }
    std::thread::sleep(wait);
}

/// Takes from a channel; waits at most `wait`.
pub fn receive<T>(from: &Receiver<T>, wait: Duration) -> Result<T, RecvTimeoutError> {
    #[cfg(test)]
    if let Some(sim) = sim::here() {
        return sim.receive(from, wait);
    }
    from.recv_timeout(wait)
}

/// Gives to a channel; waits at most `wait`.
pub fn send<T>(to: &Sender<T>, value: T, wait: Duration) -> Result<(), SendTimeoutError<T>> {
    #[cfg(test)]
    if let Some(sim) = sim::here() {
        return sim.send(to, value, wait);
    }
    to.send_timeout(value, wait)
}

/// Asked before the disk is written to. Nothing in the agent; in the simulation, a disk that takes nothing.
#[inline]
pub fn disk() -> io::Result<()> {
    #[cfg(test)]
    if sim::here().is_some_and(|sim| sim.disk_fails()) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// Marks a step after which something lasts that was not so before: where a kill makes a difference. Nothing in the
/// agent; in the simulation, a place to be killed at.
#[inline]
pub fn step(what: &'static str) {
    #[cfg(test)]
    if let Some(sim) = sim::here() {
        sim.step(what);
    }
    let _ = what;
}

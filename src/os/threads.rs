//! The one way to start a thread.
//!
//! A thread made here has a name, a panic in it is caught and logged, and it can be joined within a bound. A tidy test forbids
//! `thread::spawn` and `thread::Builder` elsewhere.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A running thread. Dropping it does not stop the thread; use [`Thread::join_within`].
#[derive(Debug)]
pub struct Thread {
    name: String,
    handle: JoinHandle<()>,
    ended: Receiver<Ended>,
    #[cfg(test)]
    seat: Option<crate::os::sim::Seat>,
}

/// How a thread ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Returned,
    /// It panicked; the panic's text.
    Panicked(String),
    /// It still ran at the end of the wait, and is left behind.
    StillRunning,
}

/// Starts `body` on a thread called `name` (the kernel shows the first 15 bytes).
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<Thread> {
    let (done, ended) = sync_channel(1);
    let thread_name = name.to_owned();
    #[cfg(test)]
    let ((seat, ticket), ahead) = (crate::os::sim::enroll(name).unzip(), crate::os::ahead::here());
    let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        #[cfg(test)]
        let body = || {
            crate::os::ahead::inherit(ahead);
            crate::os::sim::Ticket::use_up(ticket, body);
        };
        let end = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(()) => Ended::Returned,
            Err(panic) => {
                let text = panic_text(panic.as_ref());
                log::error!("thread {thread_name} panicked: {text}");
                Ended::Panicked(text)
            }
        };
        // Without a receiver nobody waits.
        let _ = done.send(end);
    })?;
    Ok(Thread {
        name: name.to_owned(),
        handle,
        ended,
        #[cfg(test)]
        seat,
    })
}

/// Calls `act`; a panic in it becomes its text.
pub fn guarded<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|panic| panic_text(&*panic))
}

/// The message of a caught panic.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

impl Thread {
    /// The name it was started with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has come to its end.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits at most `wait` for its end.
    pub fn join_within(self, wait: Duration) -> Ended {
        #[cfg(test)]
        if self.seat.as_ref().is_some_and(|seat| !seat.ends_within(wait)) {
            return Ended::StillRunning;
        }
        match self.ended.recv_timeout(wait) {
            Ok(end) => {
                let _ = self.handle.join();
                end
            }
            Err(RecvTimeoutError::Timeout) => {
                log::error!("thread {} did not end within {wait:?}; it is left behind", self.name);
                Ended::StillRunning
            }
            Err(RecvTimeoutError::Disconnected) => Ended::Returned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_and_told() {
        let t = spawn("t-panic", || panic!("as planned")).expect("spawn");
        assert_eq!(t.join_within(Duration::from_secs(5)), Ended::Panicked("as planned".into()));
    }

    #[test]
    fn a_join_is_bounded() {
        let t = spawn("t-slow", || std::thread::sleep(Duration::from_millis(500))).expect("spawn");
        assert_eq!(t.join_within(Duration::from_millis(10)), Ended::StillRunning);
    }
}

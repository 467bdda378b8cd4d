//! A clock that a test puts forward (tests only), beside real sockets and real threads: a limit of a minute is over when the
//! test says so.
//!
//! It is the clock of the thread that asks for it and of the threads that this one starts. A wait of [`crate::os::clock`]
//! checks often enough to see a jump; a sleep there puts the clock forward and ends at once.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A wait for a bell lasts no longer before its thread looks at the clock again.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

thread_local! {
    static HERE: RefCell<Option<Ahead>> = const { RefCell::new(None) };
}

/// How far the clock is ahead, shared by clones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ahead(Arc<AtomicU64>);

/// The calling thread's, if it has one.
pub(crate) fn here() -> Option<Ahead> {
    HERE.with_borrow(Clone::clone)
}

/// Gives the calling thread the clock of the one that started it.
pub(crate) fn inherit(ahead: Option<Ahead>) {
    HERE.set(ahead);
}

/// Takes the clock away again, after a panic too.
struct Back;

impl Drop for Back {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

impl Ahead {
    /// Gives the calling thread such a clock for the time of `act`.
    pub(crate) fn run<T>(act: impl FnOnce(&Self) -> T) -> T {
        let ahead = Self::default();
        HERE.set(Some(ahead.clone()));
        let _back = Back;
        act(&ahead)
    }

    /// Puts it forward.
    pub(crate) fn put(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).expect("some centuries"), Ordering::SeqCst);
    }

    /// By how much it was put forward so far.
    pub(crate) fn by(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::now() + self.by()
    }
}

//! When the backend is back: a call that failed before succeeds.
//!
//! Each endpoint counts for itself. One that always fails, while others succeed, is no outage; and one that needs less than
//! another, such as the question for its health, says nothing of that.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::metrics::Endpoint;

/// Called when the backend is back.
pub type OnReturn = Box<dyn Fn() + Send + Sync>;

/// Which calls failed when they were made last.
#[derive(Default)]
pub(super) struct Contact {
    /// A bit for each endpoint.
    lost: AtomicU64,
    heard: Mutex<Option<OnReturn>>,
}

impl Contact {
    /// Calls `heard` at each return from now on.
    pub(super) fn on_return(&self, heard: OnReturn) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
    }

    /// A call failed in a way in which others may fail too.
    pub(super) fn lost(&self, endpoint: Endpoint) {
        self.lost.fetch_or(bit(endpoint), Ordering::SeqCst);
    }

    /// A call succeeded.
    pub(super) fn succeeded(&self, endpoint: Endpoint) {
        if self.lost.fetch_and(!bit(endpoint), Ordering::SeqCst) & bit(endpoint) != 0 {
            self.returned();
        }
    }

    /// Another sign that it is back.
    pub(super) fn returned(&self) {
        if let Some(heard) = &*self.heard.lock().unwrap_or_else(PoisonError::into_inner) {
            heard();
        }
    }
}

fn bit(endpoint: Endpoint) -> u64 {
    1 << (endpoint as u32)
}

impl fmt::Debug for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contact({:b})", self.lost.load(Ordering::SeqCst))
    }
}

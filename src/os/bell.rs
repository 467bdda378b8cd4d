//! Wakes a thread that sleeps until its next step.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::limits;
use crate::os::clock;

/// Shared by the thread and those who wake it. The reaper and the sampler have one each.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<(Mutex<bool>, Condvar)>);

impl Bell {
    /// Wakes it now, or spares it its next sleep.
    pub fn ring(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Sleeps until rung or until `until`, at most `limits::REAPER_SLEEP`.
    pub fn wait(&self, until: Option<Instant>) {
        let longest = clock::now() + limits::REAPER_SLEEP;
        let until = until.map_or(longest, |until| until.min(longest));
        let mut rung = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*rung {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            rung = clock::wait(&self.0.0, &self.0.1, rung, left);
        }
        *rung = false;
    }
}

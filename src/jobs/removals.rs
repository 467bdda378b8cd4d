//! The removal of what ended scripts leave behind, beside the workers: a container takes the engine as long as its start.
//!
//! Where too many removals wait, the worker of the next one does it itself, and takes no other job meanwhile.

use std::time::Duration;

use crate::job::Id;
use crate::jobs::pool::Pool;
use crate::limits;
use crate::telemetry;

/// The threads `removal`. Clones share them.
#[derive(Clone)]
pub struct Removals(Pool);

impl Default for Removals {
    fn default() -> Self {
        Self(Pool::new("removal", limits::REMOVAL_THREADS))
    }
}

impl Removals {
    /// Has what is left of an execution removed soon.
    pub(in crate::jobs) fn begin(&self, job: &Id, execution: &Id, remove: impl FnOnce() + Send + 'static) {
        let (job, execution) = (job.clone(), execution.clone());
        let work = move || {
            let _context = telemetry::context(&job, &execution, &telemetry::own());
            remove();
        };
        self.0.run_within(Box::new(work), limits::REMOVALS_WAITING);
    }

    /// Waits at most `wait` for those that were begun. The next agent removes what is left then.
    pub fn finish(&self, wait: Duration) {
        self.0.finish(wait);
    }
}

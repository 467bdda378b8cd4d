//! What runs a script: the seam that the worker knows, and what every executor shares.
//!
//! An executor works in two steps. [`Executor::prepare`] does all that may be done before the job is certainly ours
//! (image, container, attached streams), so that it overlaps with the backend's acknowledgement;
//! [`Prepared::run`] starts, feeds the script and follows it to its end. What was prepared and is dropped instead
//! leaves nothing behind.

use std::sync::Arc;

use crate::job::{Id, Job, Output};
use crate::verdict::Outcome;

pub mod container;
pub mod control;
pub mod reaper;
pub mod ssh;

pub use control::Control;
pub use reaper::Reaper;

/// One attempt at one job.
#[derive(Debug)]
pub struct Task {
    pub job: Job,
    /// `exec-<job id>-<unix ms>`, unique.
    pub execution: Id,
}

/// Runs the jobs of one kind.
pub trait Executor: Send + Sync {
    /// Gets everything ready but starts nothing; an ending that needed no start is the error.
    fn prepare(
        &self,
        task: &Task,
        control: &Arc<Control>,
        output: &mut dyn Output,
    ) -> Result<Box<dyn Prepared>, Box<Outcome>>;
}

/// A task that waits for the word to start. Dropping it throws it away; nothing of it ran.
pub trait Prepared: Send {
    /// Starts it and follows it to its end, whatever that is; leaves nothing behind.
    fn run(self: Box<Self>, task: &Task, output: &mut dyn Output) -> Outcome;
}

//! What runs a script: the seam that the worker knows, and what every executor shares.
//!
//! An executor works in two steps. [`Executor::prepare`] does all that may be done before the job is certainly ours
//! (image, container, attached streams), so that it overlaps with the backend's acknowledgement.
//! [`Prepared::run`] starts the script, feeds it and follows it to its end. What was prepared and is dropped instead leaves
//! nothing behind.

mod cleanup;
pub mod complaint;
pub mod container;
pub mod control;
pub mod ending;
mod executor;
pub mod helpers;
pub mod http;
pub mod interpreter;
pub mod names;
pub mod reaper;
pub mod shebang;
pub mod shell;
pub mod ssh;
mod task;

pub use cleanup::{Cleanup, CleanupGuard};
pub use control::Control;
pub use executor::{AdoptError, End, Executor, Prepared, ReattachInfo, WarmInfo};
pub use reaper::Reaper;
pub use task::Task;

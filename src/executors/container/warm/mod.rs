//! Containers that are started before their job is known, so that a script's first line comes in milliseconds.
//!
//! A warm container is made from the same request as a cold one ([`fit`] compares the two), attached and started, and waits
//! with `sh -s` on its stdin. A job that fits takes it from the [`pool`], sends its program, and destroys it as any other.
//! None is used twice. Where none fits, the job is cold: no job waits for a pool. The thread of [`keeper`] fills the pool
//! with what [`make`] makes, looks after it and empties it.
//!
//! Its name and labels are made before the job's id is known. So the job's record names the container by its id, on disk
//! before the program is sent, and the keeper gives it the usual name soon after it was taken.

mod fit;
mod keeper;
mod make;
mod pool;

use std::sync::Arc;

pub(super) use self::pool::{Busy, Pool, Taken};
pub use self::pool::{Folders, PoolState};
use crate::executors::container::shared::Shared;

/// The pool fills itself from now on, by this configuration. The first call that wants any container starts the thread.
pub(super) fn keep(pool: &Pool, shared: &Arc<Shared>) {
    if pool.is_for(shared)
        && let Err(error) = pool.start_with(keeper::start)
    {
        log::error!("no container waits for jobs: cannot start a thread: {error}");
    }
}

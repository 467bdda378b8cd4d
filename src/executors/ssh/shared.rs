//! What all jobs on servers share.

use crate::config::types::{Jobs, Ssh as Settings};
use crate::executors::ssh::breakers::Breakers;
use crate::executors::ssh::pool::Pool;

/// The settings, and the connections. A reload replaces it; each job keeps the one that it began with.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) pool: Pool,
    pub(super) breakers: Breakers,
    pub(super) jobs: Jobs,
}

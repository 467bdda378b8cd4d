//! The configuration in effect, which SIGHUP may replace while the agent works.
//!
//! A job, a poll or a look takes [`Live::now`] at its start and keeps that snapshot to its end: a job never sees two
//! configurations.

use std::sync::{Arc, PoisonError, RwLock};

use super::types::Config;

/// Shared by clones.
#[derive(Debug, Clone)]
pub struct Live(Arc<RwLock<Arc<Config>>>);

impl Live {
    /// In effect from the start.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// What is in effect at this moment.
    pub fn now(&self) -> Arc<Config> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another in effect for everything that begins from now on.
    pub fn replace(&self, config: Config) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Whether `seen` is not in effect any more.
    pub fn has_left(&self, seen: &Arc<Config>) -> bool {
        !Arc::ptr_eq(seen, &self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

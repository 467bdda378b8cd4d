//! A container that is removed, whatever happens.

use std::sync::Arc;

use crate::docker::containers::short;
use crate::docker::{self, Error};
use crate::executors::control::{Signal, Target};
use crate::limits;
use crate::os::clock;

/// A container that is removed when this is dropped, whatever happened.
pub(super) struct Container {
    docker: docker::Client,
    id: String,
    removed: bool,
    /// Dropped after the removal.
    _with: Option<Box<dyn Send>>,
}

impl Container {
    pub(super) fn new(docker: docker::Client, id: String) -> Self {
        Self { docker, id, removed: false, _with: None }
    }

    /// Keeps `thing` until the container is removed.
    pub(super) fn with(mut self, thing: impl Send + 'static) -> Self {
        self._with = Some(Box::new(thing));
        self
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// For the reaper.
    pub(super) fn target(&self) -> Arc<dyn Target> {
        Arc::new(Signalled { docker: self.docker.clone(), id: self.id.clone() })
    }

    /// Gives it up to the next agent.
    pub(super) fn detach(&mut self) {
        self.removed = true;
    }

    /// Removes it; tries again a few times, since an engine under load may refuse once.
    fn remove(&mut self) -> Result<(), Error> {
        self.removed = true;
        let mut attempt = 1;
        loop {
            match self.docker.remove(&self.id) {
                Err(error) if attempt < limits::REMOVE_ATTEMPTS => {
                    log::warn!("{error}; trying again");
                    clock::sleep(limits::REMOVE_DELAY);
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = self.remove()
        {
            log::error!("container {} is left behind: {error}", short(&self.id));
        }
    }
}

/// What the reaper signals.
struct Signalled {
    docker: docker::Client,
    id: String,
}

impl Target for Signalled {
    fn signal(&self, signal: Signal) -> Result<(), String> {
        self.docker.kill(&self.id, signal.as_str()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::testing::{Act, Engine};
    use crate::os::ahead::Ahead;

    #[test]
    fn a_removal_that_is_refused_is_tried_a_few_times_and_no_more() {
        Ahead::run(|ahead| {
            let engine = Engine::start(|_| Act::Answer(500, "{}".to_owned()));
            let error = Container::new(engine.client(), "abc".to_owned()).remove().expect_err("it refuses");
            assert_eq!(error.status(), Some(500));
            assert_eq!(engine.seen(), vec!["DELETE /containers/abc?force=1&v=1"; limits::REMOVE_ATTEMPTS as usize]);
            assert_eq!(ahead.by(), limits::REMOVE_DELAY * (limits::REMOVE_ATTEMPTS - 1));
        });
    }
}

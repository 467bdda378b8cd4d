//! Containers of which it is not known whether they exist: the engine was asked to create them and its answer was lost,
//! made no sense, or did not come in time.
//!
//! The engine finishes what it was asked for all the same, perhaps much later, so that one removal at once is not
//! enough. The name is the agent's own choice and is used once: whatever carries it is removed, for as long as it may
//! still appear. What is left after that is found by its label at the agent's next start.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::docker::{self, Error};
use crate::limits;

/// The names, shared by all jobs.
#[derive(Debug, Clone)]
pub struct Doubtful {
    docker: docker::Client,
    names: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Doubtful {
    /// None yet.
    pub fn new(docker: docker::Client) -> Self {
        Self { docker, names: Arc::default() }
    }

    /// Notes the name if this outcome of its creation leaves it open whether the engine made the container.
    pub fn note(&self, name: &str, error: &Error) {
        if !leaves_it_open(error) {
            return;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= limits::DOUBTFUL_NAMES {
            log::error!("container {name} may be left behind until the agent's next start: {error}");
            return;
        }
        names.push((name.to_owned(), Instant::now()));
    }

    /// Removes what carries one of the names; to be called now and then, and at the end.
    pub fn sweep(&self) {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut over = Vec::new();
        for (name, since) in names {
            // Read before the removal: a name is let go only after a look at the end of its time.
            let is_last = since.elapsed() >= limits::DOUBTFUL_TIME;
            if let Err(error) = self.docker.remove(&name) {
                log::warn!("container {name}, whose creation was not confirmed: {error}");
            }
            if is_last {
                over.push(name);
            }
        }
        self.names.lock().unwrap_or_else(PoisonError::into_inner).retain(|(name, _)| !over.contains(name));
    }
}

/// Whether the engine may have done what was asked although the call failed.
fn leaves_it_open(error: &Error) -> bool {
    match error {
        Error::Timeout { .. } | Error::Io { .. } | Error::Protocol { .. } | Error::TooLarge { .. } => true,
        Error::Refused { status, .. } => *status >= 500,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_leaves_nothing_open_and_a_lost_answer_does() {
        let refused = |status| Error::Refused { doing: "create".into(), status, message: "no".into() };
        let lost = Error::Protocol { doing: "create".into(), what: "ended".into() };
        let absent = Error::Connect { endpoint: "unix:///x".into(), source: std::io::ErrorKind::NotFound.into() };
        for (error, open) in
            [(refused(404), false), (refused(409), false), (refused(500), true), (lost, true), (absent, false)]
        {
            assert_eq!(leaves_it_open(&error), open, "{error}");
        }
    }
}

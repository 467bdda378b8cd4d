//! Containers whose creation was never confirmed: the engine was asked to create them, and its answer was lost, made no
//! sense, or came too late.
//!
//! The engine finishes the request all the same, perhaps much later. So one removal at once is not enough. The agent
//! chooses the name and uses it once: it removes what carries the name, for as long as it may still appear. What is left
//! after that is found by its label.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::docker::{self, Error};
use crate::limits;
use crate::os::clock;

/// The names, shared by all jobs.
#[derive(Debug, Clone)]
pub struct UnconfirmedContainers {
    docker: docker::Client,
    names: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl UnconfirmedContainers {
    /// None yet.
    pub fn new(docker: docker::Client) -> Self {
        Self { docker, names: Arc::default() }
    }

    /// Notes the name if the engine may have made the container in spite of this error.
    pub fn note(&self, name: &str, error: &Error) {
        if !leaves_it_open(error) {
            return;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= limits::UNCONFIRMED_NAMES {
            log::error!("container {name} may be left behind until the agent's next start: {error}");
            return;
        }
        names.push((name.to_owned(), clock::now()));
    }

    /// Removes what carries one of the names; to be called now and then, and at the end.
    pub fn sweep(&self) {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut over = Vec::new();
        for (name, since) in names {
            // Read before the removal: a name is let go only after a look at the end of its time.
            let is_last = clock::since(since) >= limits::UNCONFIRMED_TIME;
            let removed = self.docker.remove(&name);
            if let Err(error) = &removed {
                log::warn!("container {name}, whose creation was not confirmed: {error}");
            }
            if is_last {
                over.push(name);
            }
            // An engine that does not answer would make each of the others wait for it.
            if removed.is_err_and(|error| error.status().is_none()) {
                break;
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
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::docker::testing::{Act, Engine, done};
    use crate::os::ahead::Ahead;

    #[test]
    fn a_refusal_leaves_nothing_open_and_a_lost_answer_does() {
        let refused = |status| Error::Refused { doing: "create".into(), status, message: "no".into() };
        let absent = Error::Connect {
            endpoint: "unix:///x".into(),
            source: Box::new(crate::os::net::Error::Unix(std::io::ErrorKind::NotFound.into())),
        };
        for (error, open) in
            [(refused(404), false), (refused(409), false), (refused(500), true), (lost(), true), (absent, false)]
        {
            assert_eq!(leaves_it_open(&error), open, "{error}");
        }
    }

    fn lost() -> Error {
        Error::Protocol { doing: "create".into(), what: "ended".into() }
    }

    #[test]
    fn a_name_is_looked_for_as_long_as_it_may_appear_and_once_after() {
        Ahead::run(|ahead| {
            let engine = Engine::start(|_| done());
            let unconfirmed = UnconfirmedContainers::new(engine.client());
            unconfirmed.note("cronium-a", &lost());
            for (pass, looks) in [
                (Duration::ZERO, 1),
                (limits::UNCONFIRMED_TIME - Duration::from_secs(5), 2),
                (Duration::from_secs(5), 3),
                (Duration::from_secs(1), 3),
            ] {
                ahead.put(pass);
                unconfirmed.sweep();
                assert_eq!(engine.count("DELETE /containers/cronium-a"), looks, "after {:?}", ahead.by());
            }
        });
    }

    #[test]
    fn an_engine_that_does_not_answer_is_waited_for_once_and_the_rest_comes_later() {
        Ahead::run(|ahead| {
            let (later, hangs) = (ahead.clone(), Arc::new(AtomicBool::new(true)));
            let mended = Arc::clone(&hangs);
            let engine = Engine::start(move |_| {
                if !hangs.load(Ordering::SeqCst) {
                    return done();
                }
                later.put(limits::DOCKER_WORK);
                Act::Stall(Vec::new())
            });
            let unconfirmed = UnconfirmedContainers::new(engine.client());
            ["a", "b"].iter().for_each(|name| unconfirmed.note(name, &lost()));
            unconfirmed.sweep();
            assert_eq!(engine.seen(), ["DELETE /containers/a?force=1&v=1"]);
            mended.store(false, Ordering::SeqCst);
            unconfirmed.sweep();
            assert_eq!((engine.count("DELETE /containers/a"), engine.count("DELETE /containers/b")), (2, 1));
        });
    }

    #[test]
    fn a_bounded_number_of_names_is_kept() {
        let engine = Engine::start(|_| done());
        let unconfirmed = UnconfirmedContainers::new(engine.client());
        for n in 0..limits::UNCONFIRMED_NAMES + 5 {
            unconfirmed.note(&format!("cronium-{n}"), &lost());
        }
        unconfirmed.sweep();
        let (last, beyond) = (limits::UNCONFIRMED_NAMES - 1, limits::UNCONFIRMED_NAMES);
        assert_eq!(engine.seen().len(), limits::UNCONFIRMED_NAMES);
        assert_eq!(engine.count(&format!("DELETE /containers/cronium-{last}?")), 1);
        assert_eq!(engine.count(&format!("DELETE /containers/cronium-{beyond}?")), 0);
    }
}

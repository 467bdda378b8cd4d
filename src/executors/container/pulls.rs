//! Pulls, shared: when several jobs want the same image, one of them pulls and the others follow it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::docker::images::{Progress, is_worth_a_retry};
use crate::docker::{self, Deadline, Error};
use crate::executors::container::images::Images;
use crate::executors::ending::bytes;
use crate::job::Output;
use crate::limits;
use crate::metrics;
use crate::os::{clock, pulse};

/// The pulls under way.
#[derive(Debug, Clone)]
pub struct Pulls {
    docker: docker::Client,
    auth_file: Option<PathBuf>,
    images: Images,
    under_way: Arc<Mutex<HashMap<String, Arc<Flight>>>>,
}

/// One pull, seen by those who wait for it.
#[derive(Debug, Default)]
struct Flight {
    state: Mutex<(Progress, Option<Result<(), String>>)>,
    changed: Condvar,
    /// How many jobs wait for it.
    followers: AtomicUsize,
}

/// Ends the flight on every path, a panic included.
struct Landing<'a> {
    pulls: &'a Pulls,
    image: &'a str,
    flight: Arc<Flight>,
    result: Result<(), String>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.pulls.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(self.image);
        let result = std::mem::replace(&mut self.result, Ok(()));
        self.flight.state.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(result);
        self.flight.changed.notify_all();
    }
}

/// Counts one job among those that wait for a flight.
struct Followed<'a>(&'a Flight);

impl<'a> Followed<'a> {
    fn new(flight: &'a Flight) -> Self {
        flight.followers.fetch_add(1, Ordering::SeqCst);
        Self(flight)
    }
}

impl Drop for Followed<'_> {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Pulls {
    /// Nothing under way yet.
    pub fn new(docker: docker::Client, auth_file: Option<PathBuf>, images: Images) -> Self {
        Self { docker, auth_file, images, under_way: Arc::default() }
    }

    /// Whether jobs pull while nobody waits for the pull of `image`.
    pub(super) fn are_of_others(&self, image: &str) -> bool {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = under_way.get(image).is_some_and(|flight| flight.followers.load(Ordering::SeqCst) > 0);
        !followed && under_way.keys().any(|name| name != image)
    }

    /// Sees to it that `image` was pulled, by a pull of our own or by the one that is under way, while it is `wanted`.
    pub fn ensure(
        &self,
        image: &str,
        wanted: &dyn Fn() -> bool,
        deadline: Deadline,
        output: &mut dyn Output,
    ) -> Result<(), Error> {
        loop {
            let (flight, ours) = {
                let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
                match under_way.get(image) {
                    Some(flight) => (Arc::clone(flight), false),
                    None => {
                        let flight = Arc::new(Flight::default());
                        under_way.insert(image.to_owned(), Arc::clone(&flight));
                        (flight, true)
                    }
                }
            };
            if ours {
                return self.lead(image, &flight, wanted, deadline, output);
            }
            if self.follow(image, &flight, wanted, deadline, output)? {
                return Ok(());
            }
            // The job that pulled had to stop for its own reasons: take its place.
        }
    }

    fn lead(
        &self,
        image: &str,
        flight: &Arc<Flight>,
        wanted: &dyn Fn() -> bool,
        deadline: Deadline,
        output: &mut dyn Output,
    ) -> Result<(), Error> {
        let unfinished = Err(String::new());
        let mut landing = Landing { pulls: self, image, flight: Arc::clone(flight), result: unfinished };
        output.system(&format!("pulling image {image}"));
        output.settle();
        let begun = Instant::now();
        let before = self.docker.image_id(image)?;
        let result = self.attempts(image, flight, wanted, deadline, output);
        metrics::image_pull(result.is_ok());
        match &result {
            Ok(()) => {
                landing.result = Ok(());
                if let Ok(Some(after)) = self.docker.image_id(image) {
                    self.images.note_pull(image, before.as_deref(), &after);
                }
                output.system(&format!("pulled image {image} in {:.1} s", begun.elapsed().as_secs_f64()));
            }
            // The others try themselves when it was only this job that had to stop.
            Err(Error::Stopped { .. } | Error::Timeout { .. }) => {}
            Err(error) => landing.result = Err(error.to_string()),
        }
        result
    }

    fn attempts(
        &self,
        image: &str,
        flight: &Flight,
        wanted: &dyn Fn() -> bool,
        deadline: Deadline,
        output: &mut dyn Output,
    ) -> Result<(), Error> {
        let mut attempt = 1;
        loop {
            let mut told = Teller::new(image);
            let result = self.docker.pull(image, self.auth_file.as_deref(), deadline, &mut |progress| {
                flight.state.lock().unwrap_or_else(PoisonError::into_inner).0 = progress.clone();
                flight.changed.notify_all();
                told.tell(progress, output);
                wanted()
            });
            match result {
                Err(error) if attempt < limits::PULL_ATTEMPTS && is_worth_a_retry(&error) => {
                    let delay = limits::PULL_DELAY * attempt;
                    if deadline.left().is_none_or(|left| left < delay) || !wanted() {
                        return Err(error);
                    }
                    log::warn!("pull of {image}, attempt {attempt} of {}: {error}", limits::PULL_ATTEMPTS);
                    output.system(&format!("{error}; trying again in {} s", delay.as_secs()));
                    output.settle();
                    clock::sleep(delay);
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// Waits for another job's pull; false if that job gave it up for its own reasons.
    fn follow(
        &self,
        image: &str,
        flight: &Flight,
        wanted: &dyn Fn() -> bool,
        deadline: Deadline,
        output: &mut dyn Output,
    ) -> Result<bool, Error> {
        output.system(&format!("waiting for image {image}, which another job is pulling"));
        output.settle();
        let _followed = Followed::new(flight);
        let mut told = Teller::new(image);
        let doing = format!("wait for the pull of image {image}");
        let mut state = flight.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &state.1 {
                Some(Ok(())) => return Ok(true),
                Some(Err(message)) if message.is_empty() => return Ok(false),
                Some(Err(message)) => {
                    return Err(Error::Pull { image: image.to_owned(), message: message.clone() });
                }
                None => {}
            }
            if !wanted() {
                return Err(Error::Stopped { doing });
            }
            let Some(left) = deadline.left() else {
                return Err(Error::Timeout { doing, limit: deadline.limit, after: deadline.length });
            };
            told.tell(&state.0, output);
            pulse::touch();
            let wait = left.min(limits::FOLLOW_TICK);
            state = flight.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Tells a job's log of the progress, not more often than every `limits::PULL_PROGRESS`.
struct Teller<'a> {
    image: &'a str,
    last: Instant,
}

impl<'a> Teller<'a> {
    fn new(image: &'a str) -> Self {
        Self { image, last: Instant::now() }
    }

    fn tell(&mut self, progress: &Progress, output: &mut dyn Output) {
        if self.last.elapsed() < limits::PULL_PROGRESS {
            return;
        }
        self.last = Instant::now();
        let Progress { layers: (done, all), bytes: (have, total) } = progress;
        output.system(&format!(
            "pulling image {}: {done} of {all} layers, {} of {}",
            self.image,
            bytes(*have),
            bytes(*total)
        ));
        output.settle();
    }
}

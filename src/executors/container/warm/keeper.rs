//! The thread `warm`, which fills the pool, looks after what waits, and empties it at the end.
//!
//! It makes one container at a time, and none while a job waits for the engine. After a failure it pauses, longer each
//! time. With little memory on this host it throws away all that wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::fit::{Fit, Shape};
use super::make;
use super::pool::{LANGUAGES, Pool, wanted};
use crate::docker::Error;
use crate::executors::container::shared::Shared;
use crate::executors::ending::bytes;
use crate::job::Language;
use crate::limits;
use crate::metrics::{self, WarmEnd};
use crate::os::memory::{self, Memory};
use crate::os::threads::{self, Thread};
use crate::os::{clock, random};
use crate::policy::backoff::{Backoff, Growth};

/// Pauses after failures.
const PAUSES: Backoff =
    Backoff { growth: Growth::Exponential, initial: limits::WARM_RETRY_FIRST, max: limits::WARM_RETRY_MOST };

pub(super) fn start(pool: Pool) -> std::io::Result<Thread> {
    threads::spawn("warm", move || {
        Keeper { pool, shared: None, failures: 0, not_before: clock::now(), next_look: clock::now() }.run();
    })
}

struct Keeper {
    pool: Pool,
    /// The configuration by which what waits was looked at.
    shared: Option<Arc<Shared>>,
    /// In a row.
    failures: u32,
    /// After a failure.
    not_before: Instant,
    next_look: Instant,
}

impl Keeper {
    fn run(mut self) {
        while !self.pool.is_stopped() {
            self.tidy();
            let made = self.step();
            self.show();
            if !made {
                let due = self.pool.next_due().unwrap_or(self.next_look);
                self.pool.sleep(Some(due.min(self.next_look)));
            }
        }
        self.empty();
    }

    /// Looks after what waits, and makes one more where one is missing; whether it did.
    fn step(&mut self) -> bool {
        let Some(shared) = self.pool.state().shared.clone() else { return false };
        let looked = self.look(&shared).and_then(|missing| match missing {
            Some(language) if !self.pool.must_wait() && clock::now() >= self.not_before => {
                self.fill(&shared, language).map(|()| true)
            }
            _ => Ok(false),
        });
        looked.unwrap_or_else(|error| {
            self.failures = self.failures.saturating_add(1);
            // Between half of the bound and all of it.
            self.not_before = clock::now() + PAUSES.delay(self.failures, 0.5 + random::unit() / 2.0);
            self.say(format!("no container can be made to wait for jobs: {error}"));
            false
        })
    }

    /// Names what was taken, and removes what is of no use any more.
    fn tidy(&self) {
        let (renames, leaving, docker) = {
            let mut state = self.pool.state();
            let docker = state.shared.as_ref().map(|shared| shared.docker.clone());
            let (due, later) = std::mem::take(&mut state.renames)
                .into_iter()
                .partition::<Vec<_>, _>(|(at, ..)| clock::now() >= *at || self.pool.is_stopped());
            state.renames = later;
            (due, std::mem::take(&mut state.leaving), docker)
        };
        // A short job is over by now.
        for (_, id, name) in renames.into_iter().filter(|(_, id, _)| self.pool.holds(id)) {
            // Its job finds the container by its id all the same.
            if let Some(Err(error)) = docker.as_ref().map(|docker| docker.rename(&id, &name))
                && error.status() != Some(404)
            {
                log::warn!("{error}; it keeps the name of a warm container");
            }
        }
        drop(leaving);
    }

    /// Throws away what should not wait any longer; gives a language that misses one.
    fn look(&mut self, shared: &Arc<Shared>) -> Result<Option<Language>, Error> {
        let max_idle = shared.settings.warm.max_idle;
        self.pool.discard_where(WarmEnd::Age, |waiting| clock::since(waiting.since) >= max_idle);
        self.pool.discard_where(WarmEnd::Ended, |waiting| !waiting.is_usable());
        if let Some(why) = shortage(shared) {
            self.pool.discard_where(WarmEnd::Memory, |_| true);
            self.say(why);
            self.next_look = clock::now() + limits::WARM_LOOK;
            return Ok(None);
        }
        if !self.shared.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, shared)) {
            self.discard_changed(shared)?;
            self.shared = Some(Arc::clone(shared));
        }
        if clock::now() >= self.next_look {
            self.next_look = clock::now() + limits::WARM_LOOK;
            self.discard_of_old_images(shared)?;
        }
        let missing = self.missing(shared);
        if missing.is_none() {
            self.pool.state().trouble = None;
        }
        Ok(missing)
    }

    /// After a reload: what the configuration would make otherwise, and what is too many.
    fn discard_changed(&self, shared: &Shared) -> Result<(), Error> {
        let mut shapes: BTreeMap<&str, Shape> = BTreeMap::new();
        let mut left: BTreeMap<&str, usize> = BTreeMap::new();
        for language in LANGUAGES.into_iter().filter(|language| wanted(shared, *language) > 0) {
            shapes.insert(language.as_str(), make::shape(shared, language)?);
            left.insert(language.as_str(), wanted(shared, language));
        }
        self.pool.discard_where(WarmEnd::Reload, |waiting| {
            let word = waiting.language.as_str();
            let fits = shapes.get(word).is_some_and(|shape| waiting.shape.fit(shape) == Fit::Same);
            match left.get_mut(word) {
                Some(left) if fits && *left > 0 => {
                    *left -= 1;
                    false
                }
                _ => true,
            }
        });
        Ok(())
    }

    /// An image that was pulled or built anew.
    fn discard_of_old_images(&self, shared: &Shared) -> Result<(), Error> {
        for language in LANGUAGES {
            if self.waiting(language) > 0 {
                let now = shared.docker.image_id(shared.settings.images.of(language))?;
                self.pool.discard_where(WarmEnd::Image, |waiting| {
                    waiting.language == language && now.as_ref() != Some(&waiting.image)
                });
            }
        }
        Ok(())
    }

    fn missing(&self, shared: &Shared) -> Option<Language> {
        LANGUAGES.into_iter().find(|language| self.waiting(*language) < wanted(shared, *language))
    }

    fn waiting(&self, language: Language) -> usize {
        self.pool.state().waiting.iter().filter(|waiting| waiting.language == language).count()
    }

    fn fill(&mut self, shared: &Arc<Shared>, language: Language) -> Result<(), Error> {
        if let Some(waiting) = make::make(&self.pool, shared, language)? {
            self.failures = 0;
            let mut state = self.pool.state();
            state.trouble = None;
            state.waiting.push(waiting);
        }
        Ok(())
    }

    /// Notes why fewer wait than are wanted, and says it once.
    fn say(&self, why: String) {
        let mut state = self.pool.state();
        if state.trouble.as_ref() != Some(&why) {
            log::warn!("{why}; jobs start without");
        }
        state.trouble = Some(why);
    }

    fn show(&self) {
        for language in LANGUAGES {
            metrics::warm_waiting(language, self.waiting(language));
        }
    }

    /// At the end. What is left after `limits::WARM_EMPTY` ends with its stdin, and the next start removes it.
    fn empty(&self) {
        let begun = clock::now();
        let all = {
            let mut state = self.pool.state();
            let (mut all, leaving) = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.leaving));
            all.extend(leaving);
            all
        };
        // All of them end at once, by the end of their stdin.
        let mut all: Vec<_> = all.into_iter().map(|waiting| (waiting.container, waiting.socket)).collect();
        while clock::since(begun) < limits::WARM_EMPTY
            && let Some(one) = all.pop()
        {
            drop(one);
        }
        if !all.is_empty() {
            log::warn!("{} warm containers are left to the next start: the engine is slow to remove them", all.len());
        }
        all.iter_mut().for_each(|(container, _)| container.detach());
        self.tidy();
        self.show();
    }
}

/// Why there is too little memory on the engine's host. Nothing is known of another host's.
fn shortage(shared: &Shared) -> Option<String> {
    let is_here = shared.docker.is_local();
    is_here.then(|| too_little(memory::read(), shared.settings.warm.min_free_memory)).flatten()
}

fn too_little(now: Memory, least: u64) -> Option<String> {
    if let Some(available) = now.available.filter(|available| *available < least) {
        let (available, least) = (bytes(available), bytes(least));
        return Some(format!(
            "no container waits for jobs: this host has {available} of memory available, container.warm.minFreeMemory is {least}"
        ));
    }
    let stalled = now.stalled_percent.filter(|percent| *percent >= limits::WARM_MEMORY_STALL)?;
    Some(format!(
        "no container waits for jobs: programs on this host waited for memory in {stalled} % of the last 10 s"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_memory_and_programs_that_wait_for_it_both_empty_the_pool() {
        let memory = |available, stalled_percent| Memory { available, stalled_percent };
        assert_eq!(too_little(memory(Some(100), Some(0.0)), 100), None);
        assert_eq!(too_little(memory(None, None), 100), None, "what cannot be read is no reason");
        assert!(too_little(memory(Some(99), None), 100).is_some_and(|why| why.contains("minFreeMemory")));
        assert!(too_little(memory(Some(1 << 40), Some(limits::WARM_MEMORY_STALL)), 100).is_some());
    }
}

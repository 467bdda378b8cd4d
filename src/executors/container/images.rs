//! What is known of images: which of them this agent pulled, when a job last used each, and which a job takes right now.
//!
//! A job takes an image by its name, from before its container is created until it is. While an image is being removed, a
//! job that wants one of that name waits, and then pulls it again; while a job takes one, none of that name is removed.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::docker::{Deadline, Error};
use crate::limits;
use crate::os::{clock, pulse};

/// An image that this agent pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pulled {
    /// The engine's id of it.
    pub id: String,
    /// The name by which it was pulled.
    pub name: String,
    /// When it was last used, or else pulled: wall clock, milliseconds since 1970.
    pub used_ms: u64,
}

/// Shared by clones.
#[derive(Debug, Clone, Default)]
pub struct Images(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By their ids.
    pulled: BTreeMap<String, Pulled>,
    /// How many jobs take an image of each name.
    taken: BTreeMap<String, usize>,
    /// The name of the image that is being removed.
    leaving: Option<String>,
    unsaved: Option<Unsaved>,
    /// By name and id.
    digests: BTreeMap<(String, String), Option<String>>,
}

/// What is not on disk yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsaved {
    /// Times of uses. They may wait.
    Uses,
    /// An image was pulled or removed.
    Images,
}

/// A job takes an image of this name, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken(Images, String);

impl Drop for Taken {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let Some(count) = state.taken.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                state.taken.remove(&self.1);
            }
        }
    }
}

/// An image of this name is being removed, until this is dropped.
#[derive(Debug)]
pub(super) struct Leaving(Images);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.lock().leaving = None;
        self.0.0.changed.notify_all();
    }
}

/// The wall clock, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Images {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier run wrote down. A use in the future, by a clock that was ahead, counts as one now.
    pub fn remember(&self, pulled: Vec<Pulled>) {
        let (mut state, now) = (self.lock(), now_ms());
        for image in pulled {
            state.pulled.insert(image.id.clone(), Pulled { used_ms: image.used_ms.min(now), ..image });
        }
    }

    /// A pull of `name` ended: the engine had the image `before` by that name, and has `after` now. One that was there
    /// before is not this agent's.
    pub(super) fn note_pull(&self, name: &str, before: Option<&str>, after: &str) {
        let mut state = self.lock();
        if before == Some(after) && !state.pulled.contains_key(after) {
            return;
        }
        let image = Pulled { id: after.to_owned(), name: name.to_owned(), used_ms: now_ms() };
        state.pulled.insert(after.to_owned(), image);
        if state.pulled.len() > limits::IMAGES_KEPT
            && let Some(oldest) = state.pulled.values().min_by_key(|image| image.used_ms).map(|image| image.id.clone())
        {
            state.pulled.remove(&oldest);
        }
        state.unsaved = Some(Unsaved::Images);
    }

    /// A job's container had the image of this id until now.
    pub(super) fn note_use(&self, id: &str) {
        let mut state = self.lock();
        if let Some(image) = state.pulled.get_mut(id) {
            image.used_ms = image.used_ms.max(now_ms());
            state.unsaved = state.unsaved.max(Some(Unsaved::Uses));
        }
    }

    /// The image is not in the engine any more.
    pub(super) fn forget(&self, id: &str) {
        let mut state = self.lock();
        if state.pulled.remove(id).is_some() {
            state.unsaved = Some(Unsaved::Images);
        }
    }

    /// Those that this agent pulled, the one used longest ago first.
    pub fn pulled(&self) -> Vec<Pulled> {
        let mut all: Vec<Pulled> = self.lock().pulled.values().cloned().collect();
        all.sort_by(|a, b| (a.used_ms, &a.id).cmp(&(b.used_ms, &b.id)));
        all
    }

    /// Whether something is to be written down.
    pub fn unsaved(&self) -> Option<Unsaved> {
        self.lock().unsaved
    }

    /// It is written down from here on, or, after a failure, is not.
    pub fn set_unsaved(&self, unsaved: Option<Unsaved>) {
        self.lock().unsaved = unsaved;
    }

    /// Takes an image of this name. Waits for the end of its removal while `wanted`, at most to `deadline`.
    pub(super) fn take(&self, name: &str, deadline: Deadline, wanted: &dyn Fn() -> bool) -> Result<Taken, Error> {
        let doing = || format!("wait for the removal of an older image {name}");
        let mut state = self.lock();
        while state.leaving.as_deref() == Some(name) {
            if !wanted() {
                return Err(Error::Stopped { doing: doing() });
            }
            let Some(left) = deadline.left() else {
                return Err(Error::Timeout { doing: doing(), limit: deadline.limit, after: deadline.length });
            };
            pulse::touch();
            state = clock::wait(&self.0.state, &self.0.changed, state, left.min(limits::FOLLOW_TICK));
        }
        *state.taken.entry(name.to_owned()).or_default() += 1;
        Ok(Taken(self.clone(), name.to_owned()))
    }

    /// From here on no job takes an image of this name. `None`: a job does.
    pub(super) fn begin_removal(&self, name: &str) -> Option<Leaving> {
        let mut state = self.lock();
        if state.taken.contains_key(name) || state.leaving.is_some() {
            return None;
        }
        state.leaving = Some(name.to_owned());
        Some(Leaving(self.clone()))
    }

    /// The digest of the image with this id in the repository of `name`. `ask` is called once for each.
    pub(super) fn digest(
        &self,
        name: &str,
        id: &str,
        ask: impl FnOnce() -> Result<Option<String>, Error>,
    ) -> Result<Option<String>, Error> {
        let key = (name.to_owned(), id.to_owned());
        if let Some(known) = self.lock().digests.get(&key) {
            return Ok(known.clone());
        }
        let digest = ask()?;
        let digests = &mut self.lock().digests;
        if digests.len() >= limits::IMAGES_ASKED {
            digests.clear();
        }
        digests.insert(key, digest.clone());
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_millis(50), "a test's")
    }

    fn ids(images: &Images) -> Vec<String> {
        images.pulled().into_iter().map(|image| image.id).collect()
    }

    #[test]
    fn an_image_that_was_there_before_is_not_this_agents() {
        let images = Images::default();
        images.note_pull("a:1", Some("sha256:1"), "sha256:1");
        assert_eq!((ids(&images), images.unsaved()), (vec![], None), "it was up to date");
        images.note_pull("a:1", Some("sha256:1"), "sha256:2");
        images.note_pull("b:1", None, "sha256:3");
        images.note_pull("b:1", Some("sha256:3"), "sha256:3");
        assert_eq!(ids(&images).len(), 2);
        assert_eq!(images.unsaved(), Some(Unsaved::Images));
        images.forget("sha256:2");
        images.forget("sha256:9");
        assert_eq!(ids(&images), ["sha256:3"]);
    }

    #[test]
    fn the_one_used_longest_ago_comes_first_and_a_clock_that_was_ahead_keeps_none() {
        let images = Images::default();
        let one = |id: &str, used_ms| Pulled { id: id.to_owned(), name: "a".into(), used_ms };
        images.remember(vec![one("x", 3), one("y", 1), one("z", u64::MAX)]);
        assert_eq!((ids(&images), images.unsaved()), (vec!["y".into(), "x".into(), "z".into()], None));
        assert!(images.pulled()[2].used_ms <= now_ms());
        images.note_use("y");
        images.note_use("nobody's");
        assert_eq!((ids(&images)[0].as_str(), images.unsaved()), ("x", Some(Unsaved::Uses)));
    }

    #[test]
    fn what_is_known_is_bounded_and_the_newest_are_kept() {
        let images = Images::default();
        let old = |n: usize| Pulled { id: format!("old{n}"), name: "a".into(), used_ms: n as u64 };
        images.remember((0..limits::IMAGES_KEPT).map(old).collect());
        images.note_pull("a", None, "new");
        let known = ids(&images);
        assert_eq!((known.len(), known[0].as_str()), (limits::IMAGES_KEPT, "old1"));
        assert_eq!(known.last().map(String::as_str), Some("new"));
    }

    #[test]
    fn the_engine_is_asked_once_for_the_digest_of_an_image() {
        let images = Images::default();
        let ask = |id: &str, answer| images.digest("a", id, || answer);
        let lost = || Err(Error::Unfit { doing: "look".to_owned(), what: "away".to_owned() });
        assert!(ask("1", lost()).is_err(), "an error is not kept");
        for answer in [Ok(Some("a@sha256:1".to_owned())), lost()] {
            assert_eq!(ask("1", answer).expect("known").as_deref(), Some("a@sha256:1"));
        }
        for n in 0..limits::IMAGES_ASKED * 3 {
            assert_eq!(ask(&format!("other {n}"), Ok(None)).expect("told"), None);
            assert!(images.lock().digests.len() <= limits::IMAGES_ASKED);
        }
    }

    #[test]
    fn no_image_is_taken_while_it_is_removed_and_none_removed_while_it_is_taken() {
        let images = Images::default();
        let taken = images.take("a", soon(), &|| true).expect("free");
        let again = images.take("a", soon(), &|| true).expect("two may");
        assert!(images.begin_removal("a").is_none());
        drop(taken);
        assert!(images.begin_removal("a").is_none());
        drop(again);
        let leaving = images.begin_removal("a").expect("free again");
        assert!(images.begin_removal("b").is_none(), "one at a time");
        assert!(images.take("b", soon(), &|| true).is_ok());
        assert!(matches!(images.take("a", soon(), &|| true), Err(Error::Timeout { limit: "a test's", .. })));
        assert!(matches!(images.take("a", soon(), &|| false), Err(Error::Stopped { .. })));
        let other = images.clone();
        let long = Deadline::after(Duration::from_secs(20), "a test's");
        let waiting = crate::os::threads::spawn("t-take", move || {
            other.take("a", long, &|| true).expect("after the removal");
        });
        drop(leaving);
        let ended = waiting.expect("a thread").join_within(Duration::from_secs(10));
        assert_eq!(ended, crate::os::threads::Ended::Returned);
        assert!(images.lock().taken.is_empty());
    }
}

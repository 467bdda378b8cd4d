//! Keeps secrets out of everything that leaves the agent about a job.
//!
//! A [`Redactor`] knows the secrets of one job, also those that the script names while it runs. A [`Stream`] takes them out
//! of the script's bytes, [`Redactor::text`] out of a text of the agent's, [`Redactor::json`] out of JSON. `needles` has the
//! spellings of a secret, `machine` finds them all in one pass.

#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
mod json;
mod machine;
mod needles;
#[cfg(test)]
mod redact_tests;
mod stream;

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::machine::Machine;
pub use self::needles::Unfit;
pub use self::stream::{MARK, Sink, Stream};
use crate::limits;
use crate::secret::Secret;

/// Knows the secrets of one job. Clones share them.
#[derive(Clone)]
pub struct Redactor(Arc<Shared>);

struct Shared {
    known: Mutex<Known>,
    /// Grows with each change.
    version: AtomicU64,
    blind: AtomicBool,
}

struct Known {
    values: Vec<Secret>,
    machine: Arc<Machine>,
    /// The spellings of all values fit into `limits::REDACT_BYTES`.
    whole: bool,
}

/// Why a value cannot be redacted, if so.
pub fn unfit(value: &Secret) -> Option<Unfit> {
    needles::fit(value.expose()).err()
}

/// Values that are not redacted, by the reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    pub short: usize,
    pub common: usize,
    pub over_count: usize,
    /// Some spellings of long values are left out: `limits::REDACT_BYTES`.
    pub spellings: bool,
}

impl Default for Redactor {
    /// Knows nothing yet.
    fn default() -> Self {
        let known = Known { values: Vec::new(), machine: Arc::new(Machine::new(Vec::new())), whole: true };
        let (known, version, blind) = (Mutex::new(known), AtomicU64::new(0), AtomicBool::new(false));
        Self(Arc::new(Shared { known, version, blind }))
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} values)", self.lock().values.len())
    }
}

impl Redactor {
    /// Nobody knows the job's secrets any more: from here on all that its script prints or hands on is taken out.
    pub fn go_blind(&self) {
        self.0.blind.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds values, from the next byte of each stream on. Those that are known already count as redacted.
    pub fn add<'a>(&self, values: impl IntoIterator<Item = &'a Secret>) -> Left {
        let (mut left, mut known) = (Left::default(), self.lock());
        let before = known.values.len();
        for value in values {
            let fits = needles::fit(value.expose());
            match fits {
                Err(Unfit::Short) => left.short += usize::from(!value.is_empty()),
                Err(_) => left.common += 1,
                Ok(text) if known.values.iter().any(|one| one.expose() == text) => {}
                Ok(_) if known.values.len() >= limits::REDACT_VALUES => left.over_count += 1,
                Ok(text) => known.values.push(Secret::new(text)),
            }
        }
        if known.values.len() > before {
            let texts: Vec<&str> = known.values.iter().map(Secret::expose).collect();
            let (needles, whole) = needles::of(&texts);
            known.machine = Arc::new(Machine::new(needles));
            left.spellings = known.whole && !whole;
            known.whole = whole;
            self.0.version.fetch_add(1, Ordering::Release);
        }
        left
    }

    /// All values that are known, for the record of the job.
    pub fn values(&self) -> Vec<Secret> {
        self.lock().values.clone()
    }

    /// See [`Redactor::go_blind`].
    pub fn is_blind(&self) -> bool {
        self.0.blind.load(Ordering::Relaxed)
    }

    /// A stream without its secrets.
    pub fn stream(&self) -> Stream {
        Stream::new(self.clone())
    }

    /// A text of the agent's without the secrets in it. A blind one takes out those that it knows.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.machine().0.is_empty() {
            return Cow::Borrowed(text);
        }
        let (mut stream, mut out) = (self.stream().of_agent(), Vec::new());
        let sink: Sink<'_> = &mut |bytes, _| out.extend_from_slice(bytes);
        stream.feed(text.as_bytes(), sink);
        stream.finish(sink);
        if out == text.as_bytes() {
            return Cow::Borrowed(text);
        }
        Cow::Owned(String::from_utf8(out).unwrap_or_else(|out| String::from_utf8_lossy(out.as_bytes()).into_owned()))
    }

    /// JSON whose texts and numbers are without the secrets in them. It stays JSON, and what holds none stays as it is.
    pub fn json(&self, json: &str) -> String {
        if self.is_blind() {
            return format!("\"{MARK}\"");
        }
        json::redacted(json, &|text| self.text(text).into_owned())
    }

    /// Bytes that the search takes in memory.
    #[cfg(test)]
    fn size(&self) -> usize {
        self.machine().0.size()
    }

    fn machine(&self) -> (Arc<Machine>, u64) {
        let known = self.lock();
        (Arc::clone(&known.machine), self.version())
    }

    fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }
}

//! The container or the folder on a server that a script leaves behind, removed on drop.

use std::fmt;

/// Removes what is left of a script when it is dropped.
///
/// Until the outcome is on disk, a container or a folder is its only witness. So the guard is dropped after that. The
/// report does not wait for the removal.
#[derive(Default)]
pub struct CleanupGuard(Option<Box<dyn Cleanup>>);

/// A thing that its drop removes.
pub trait Cleanup: Send {
    /// The outcome is on disk: requests the removal, where that needs no wait.
    fn request(&mut self) {}
}

/// A thing whose removal cannot be requested beforehand.
struct Plain<T>(#[allow(dead_code)] T);

impl<T: Send> Cleanup for Plain<T> {}

impl CleanupGuard {
    /// Nothing is left.
    pub fn none() -> Self {
        Self(None)
    }

    /// Drops `thing`, which removes itself.
    pub fn of(thing: impl Send + 'static) -> Self {
        Self(Some(Box::new(Plain(thing))))
    }

    /// The same for a thing whose removal can be requested beforehand.
    pub fn with_request(thing: impl Cleanup + 'static) -> Self {
        Self(Some(Box::new(thing)))
    }

    /// Whether anything is left.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// See [`Cleanup::request`].
    pub fn request(&mut self) {
        if let Some(thing) = &mut self.0 {
            thing.request();
        }
    }
}

impl fmt::Debug for CleanupGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CleanupGuard({})", if self.is_some() { "something" } else { "nothing" })
    }
}

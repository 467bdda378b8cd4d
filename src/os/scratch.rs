//! A test's folder. It is removed with its owner, also when the test panics.
//!
//! All names have one prefix and the process's id, so that `scripts/test.sh` can say which process left what behind.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use super::random;

/// The folder; used as its path.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// One in the machine's folder for such things.
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// One in memory, where the machine has a place for that.
    pub(crate) fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::below(memory) } else { Self::new() }
    }

    fn below(folder: &Path) -> Self {
        // Short, since a path of a socket below it has at most 107 bytes, wherever the tests' folder is.
        let path = folder.join(format!("cronium-test-{}-{}", std::process::id(), random::hex(3)));
        std::fs::create_dir(&path).expect("a folder");
        Self(path)
    }
}

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_gone_also_after_a_panic() {
        for make in [Scratch::new, Scratch::in_memory] {
            let scratch = make();
            std::fs::write(scratch.join("a"), "x").expect("written");
            let path = scratch.to_path_buf();
            let caught = std::panic::catch_unwind(move || {
                let _owned = scratch;
                panic!("as planned");
            });
            assert!(caught.is_err() && !path.exists());
        }
    }
}

//! What goes wrong with the records.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::entry::State;
use crate::job::Id;
use crate::limits;

/// Why the record store could not do what it was asked.
#[derive(Debug)]
pub enum RecordError {
    /// Another agent works with this folder: its process id, `?` if the lock does not tell.
    Locked { dir: PathBuf, pid: String },
    /// What was tried, on what, and what the kernel said.
    Io { what: &'static str, path: PathBuf, error: io::Error },
    /// An entry that cannot be written as JSON; a defect.
    Encode { job: Id, error: serde_json::Error },
    /// Another write of the same entry has not ended within `limits::RECORD_TURN`.
    Busy { job: Id },
    /// A step that the states do not allow; a defect.
    Step { job: Id, from: State, to: State },
    /// An entry beyond `limits::RECORD_FILE_MAX`.
    TooLarge { job: Id, bytes: usize },
}

impl RecordError {
    pub(super) fn io(what: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), error }
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { dir, pid } => write!(
                f,
                "another agent (process {pid}) works with state.dir {}; stop it, or give this one another state.dir and \
                 orchestrator.id",
                dir.display()
            ),
            Self::Io { what, path, error } => {
                write!(f, "cannot {what} {}: {error}", path.display())?;
                f.write_str(match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room in state.dir",
                    io::ErrorKind::ReadOnlyFilesystem => "; state.dir must be on a file system that can be written",
                    io::ErrorKind::PermissionDenied => "; state.dir must belong to the agent's user",
                    _ => "",
                })
            }
            Self::Encode { job, error } => write!(f, "cannot write the record of job {job} as JSON: {error}"),
            Self::Busy { job } => write!(
                f,
                "cannot work on the record of job {job}: another write of it has not ended within {} s \
                 (limits::RECORD_TURN); look at the disk under state.dir",
                limits::RECORD_TURN.as_secs()
            ),
            Self::Step { job, from, to } => {
                write!(f, "the record of job {job} cannot go from {from:?} to {to:?}; please report this")
            }
            Self::TooLarge { job, bytes } => write!(
                f,
                "the record of job {job} has {bytes} bytes, a record may have {}; lower jobs.maxOutput",
                limits::RECORD_FILE_MAX
            ),
        }
    }
}

impl std::error::Error for RecordError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::Encode { error, .. } => Some(error),
            Self::Locked { .. } | Self::Busy { .. } | Self::Step { .. } | Self::TooLarge { .. } => None,
        }
    }
}

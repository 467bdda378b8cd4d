//! Whether a script in a container can reach the agent: the engine must see the agent's folder under the same path.
//!
//! It does where both are on one host, unless the agent is in a container that has the folder for itself. That shows when
//! the engine is asked to mount it, and is remembered.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::docker::{self, Error};
use crate::executors::Task;
use crate::executors::helpers::NOT_LOCAL;

/// The folder to mount, or why there is none; nothing for a script that has no helpers.
pub(super) type HelperMount<'a> = Option<Result<&'a Path, String>>;

/// What is known of the engine. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Mounts(Arc<OnceLock<String>>);

impl Mounts {
    /// Where the script of this task finds the agent.
    pub(super) fn of<'a>(&self, task: &'a Task, docker: &docker::Client) -> HelperMount<'a> {
        let api = task.helpers.as_ref()?;
        Some(match self.0.get() {
            _ if !docker.is_local() => Err(NOT_LOCAL.to_owned()),
            Some(why) => Err(why.clone()),
            None => api.folder().map_err(str::to_owned),
        })
    }

    /// Whether a folder of this host can be mounted, as far as is known.
    pub(super) fn are_possible(&self, docker: &docker::Client) -> bool {
        docker.is_local() && self.0.get().is_none()
    }

    /// Whether the engine refused a container since it does not see this folder.
    pub(super) fn are_unseen(&self, folder: Option<&Path>, error: &Error) -> bool {
        let Some(folder) = folder else { return false };
        let told = error.to_string();
        let unseen = error.status().is_some() && told.contains(&*folder.to_string_lossy());
        if unseen && self.0.set(reason(folder)).is_ok() {
            log::warn!("scripts in containers cannot use their helpers: {}", reason(folder));
        }
        unseen
    }
}

fn reason(folder: &Path) -> String {
    let place = folder.parent().and_then(Path::parent).unwrap_or(folder);
    format!(
        "the container engine does not see the agent's folder {} (state.runtimeDir); where the agent is in a container, mount \
         the host's folder there under the same path",
        place.display()
    )
}

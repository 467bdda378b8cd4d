//! Who this agent is towards the backend: configured, or made once and kept, so that its jobs are found again after a
//! restart.

use std::io;
use std::path::Path;

use crate::job::Id;
use crate::limits;
use crate::os::files::{self, Folder};
use crate::os::private::{self, Refused};
use crate::os::random;

const FILE: &str = "agent-id";

/// The configured id, or for `auto` the one in `state_dir`, made on the first start.
pub fn resolve(configured: &str, state_dir: &Path) -> Result<String, String> {
    if configured != "auto" {
        return Id::parse(configured).map(|id| id.to_string()).map_err(|error| format!("orchestrator.id: {error}"));
    }
    let path = state_dir.join(FILE);
    if let Some(text) = read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))? {
        match Id::parse(text.trim()) {
            Ok(id) => return Ok(id.to_string()),
            Err(error) => log::warn!("{} holds no agent id ({error}); making a new one", path.display()),
        }
    }
    let id = format!("agent-{}", random::hex(8));
    let kept = Folder::existing(state_dir).and_then(|folder| folder.write(FILE, &[format!("{id}\n").as_bytes()]));
    kept.map_err(|error| {
        format!("cannot write {}: {error}; make state.dir writable, or set orchestrator.id", path.display())
    })?;
    log::info!("this agent's id is {id}, kept in {}", path.display());
    Ok(id)
}

/// The id that [`resolve`] gives, without making one: `None` where no agent has run yet.
pub fn known(configured: &str, state_dir: &Path) -> Result<Option<String>, String> {
    if configured != "auto" {
        return resolve(configured, state_dir).map(Some);
    }
    let path = state_dir.join(FILE);
    match read(&path) {
        // What is no id would be replaced at the next start.
        Ok(text) => Ok(text.and_then(|text| Id::parse(text.trim()).ok()).map(|id| id.to_string())),
        Err(error) => Err(format!("cannot read {}: {error}; run this as the agent's user", path.display())),
    }
}

/// Makes the state folder, which nobody else may read, change or replace; an existing one of this user's own is made so.
pub fn prepare_state(dir: &Path) -> Result<(), String> {
    let refused =
        |why: Refused| format!("cannot use state.dir {}: {why}; or set another with state.dir", dir.display());
    if let (_, Some(mode)) = private::prepare(dir).map_err(refused)? {
        log::warn!("state.dir {} had mode {mode:o}; it is 700 now", dir.display());
    }
    Ok(())
}

/// What the file holds; `None` where there is none.
fn read(path: &Path) -> io::Result<Option<String>> {
    match files::read_small(path, limits::AGENT_ID_FILE) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Neither text nor a link is an id; what is there instead is replaced, as other nonsense is.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge) => {
            Ok(Some(String::new()))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_id_is_made_once_and_kept() {
        let place = crate::os::scratch::Scratch::new();
        let dir = place.join("state");
        prepare_state(&dir).expect("prepare");
        assert_eq!(fs::metadata(&dir).expect("dir").permissions().mode() & 0o777, 0o700);
        assert_eq!(known("auto", &dir), Ok(None));
        let first = resolve("auto", &dir).expect("id");
        assert_eq!(known("auto", &dir), Ok(Some(first.clone())));
        assert_eq!(resolve("auto", &dir), Ok(first.clone()));
        fs::write(dir.join(FILE), "../x\n").expect("write");
        assert_eq!(known("auto", &dir), Ok(None));
        let second = resolve("auto", &dir).expect("id");
        assert_ne!(first, second);
        // More than an id can be, in a file that was one.
        fs::write(dir.join(FILE), format!("{second}{}", " ".repeat(5000))).expect("write");
        assert_eq!(known("auto", &dir), Ok(None));
        assert_ne!(resolve("auto", &dir).expect("id"), second);
        assert_eq!(resolve("edge-7", &dir), Ok("edge-7".to_owned()));
        assert!(resolve("a b", &dir).is_err());
        fs::remove_dir_all(&dir).expect("remove");
        assert!(resolve("auto", &dir).expect_err("must fail").contains("orchestrator.id"));
    }
}

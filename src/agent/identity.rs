//! Who this agent is towards the backend: configured, or made once and kept, so that its jobs are found again after a
//! restart.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::job::Id;
use crate::os::random;

const FILE: &str = "agent-id";

/// The configured id, or for `auto` the one in `state_dir`, made on the first start.
pub fn resolve(configured: &str, state_dir: &Path) -> Result<String, String> {
    if configured != "auto" {
        return Id::parse(configured).map(|id| id.to_string()).map_err(|error| format!("orchestrator.id: {error}"));
    }
    let path = state_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => match Id::parse(text.trim()) {
            Ok(id) => return Ok(id.to_string()),
            Err(error) => log::warn!("{} holds no agent id ({error}); making a new one", path.display()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    }
    let id = format!("agent-{}", random::hex(8));
    keep(&path, &id).map_err(|error| {
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
    match fs::read_to_string(&path) {
        // What is no id would be replaced at the next start.
        Ok(text) => Ok(Id::parse(text.trim()).ok().map(|id| id.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}; run this as the agent's user", path.display())),
    }
}

/// Makes the state folder, readable by nobody else; an existing one is made so.
pub fn prepare_state(dir: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| {
        format!("cannot prepare state.dir {}: {error}; choose another with state.dir", dir.display())
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let mode = fs::metadata(dir).map_err(failed)?.permissions().mode() & 0o777;
    if mode != 0o700 {
        log::warn!("state.dir {} had mode {mode:o}; it is 700 now", dir.display());
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// Written beside and renamed, so that a crash leaves the old file or the new one.
fn keep(path: &Path, id: &str) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(format!("{id}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_kept() {
        let dir = std::env::temp_dir().join(format!("cronium-identity-{}", random::hex(6)));
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
        assert_eq!(resolve("edge-7", &dir), Ok("edge-7".to_owned()));
        assert!(resolve("a b", &dir).is_err());
        fs::remove_dir_all(&dir).expect("remove");
        assert!(resolve("auto", &dir).expect_err("must fail").contains("orchestrator.id"));
    }
}

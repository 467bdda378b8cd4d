//! Where the sockets of scripts are on this host, and the token of each.
//!
//! The engine mounts a job's folder into its container, so it must see it under the same path. The place outlives the agent
//! but not the host: `/run`. Nobody but the agent's user gets into it, so that the sockets inside may be open to the user of
//! the container, which can be any user of this host.
//!
//! Token and folder of an execution are made from its id and a key in `state.dir`. So the next agent has them again, and no
//! record holds a secret.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ring::hmac;

use crate::executors::helpers::SOCKET;
use crate::job::Id;
use crate::limits;
use crate::os::files::{self, Folder};
use crate::os::{local, private, random};
use crate::secret::Secret;

/// The key's file in `state.dir`.
const KEY: &str = "helper-key";
/// Bytes of the key.
const KEY_BYTES: usize = 32;

/// Makes tokens and the names of folders.
#[derive(Debug, Clone)]
pub(super) struct Key(hmac::Key);

impl Key {
    /// One that nobody has after this process.
    pub(super) fn random() -> Self {
        Self::of(&random::hex(KEY_BYTES))
    }

    /// The one in `state_dir`, made on the first start.
    pub(super) fn kept(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join(KEY);
        match files::read_small(&path, limits::AGENT_ID_FILE) {
            Ok(text) if text.trim().len() == 2 * KEY_BYTES => return Ok(Self::of(text.trim())),
            Ok(_) => log::warn!("{} holds no key; making a new one", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let text = random::hex(KEY_BYTES);
        Folder::existing(state_dir)?.write(KEY, &[text.as_bytes(), b"\n"])?;
        Ok(Self::of(&text))
    }

    fn of(text: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()))
    }

    fn word(&self, what: &str, of: &str) -> String {
        let tag = hmac::sign(&self.0, format!("{what} {of}").as_bytes());
        tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The token of an execution.
    pub(super) fn token(&self, execution: &Id) -> Secret {
        Secret::new(self.word("token", execution.as_str()))
    }

    /// The name of an execution's folder.
    fn folder(&self, execution: &Id) -> String {
        self.word("folder", execution.as_str())[..NAME].to_owned()
    }

    /// The name of this agent's folder: others may share the place.
    fn agent(&self) -> String {
        self.word("agent", "")[..NAME].to_owned()
    }
}

/// Characters of a folder's name.
const NAME: usize = 16;

/// This agent's folder.
#[derive(Debug)]
pub(super) struct SocketDir(PathBuf);

impl SocketDir {
    /// Makes it in `configured`, or in the first place that can be had.
    pub(super) fn make(configured: Option<&Path>, state_dir: &Path, key: &Key) -> Result<Self, String> {
        let candidates = match configured {
            Some(path) => vec![path.to_owned()],
            None => usual(state_dir),
        };
        let mut why = String::new();
        for candidate in candidates {
            match Self::at(&candidate, key) {
                Ok(place) => return Ok(place),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn at(folder: &Path, key: &Key) -> Result<Self, String> {
        let path = folder.join(key.agent());
        let socket = path.join("x".repeat(NAME)).join(SOCKET);
        if socket.as_os_str().len() > local::PATH_MAX {
            return Err(format!("the path {} is longer than a socket's may be", socket.display()));
        }
        private::prepare(&path).map(|_| Self(path)).map_err(|why| why.to_string())
    }

    /// The folder of an execution, made if need be.
    pub(super) fn folder(&self, execution: &Id, key: &Key) -> io::Result<PathBuf> {
        self.folder_at(self.0.join(key.folder(execution)))
    }

    /// One of no execution yet.
    pub(super) fn spare_folder(&self) -> io::Result<PathBuf> {
        self.folder_at(self.0.join(random::hex(NAME / 2)))
    }

    fn folder_at(&self, path: PathBuf) -> io::Result<PathBuf> {
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // The container's user may look into it; on this host nobody comes so far.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Removes what an earlier agent has left, but for these executions.
    pub(super) fn clear(&self, in_use: &[Id], key: &Key) {
        let kept: Vec<String> = in_use.iter().map(|execution| key.folder(execution)).collect();
        for found in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = found.file_name().to_string_lossy().into_owned();
            if name.len() == NAME && !kept.contains(&name) {
                remove(&found.path());
            }
        }
    }

    /// Removes the place itself where nothing is in it any more.
    pub(super) fn leave(&self) {
        let parent = self.0.parent().unwrap_or(Path::new("/"));
        if fs::remove_dir(&self.0).is_ok() {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Removes a job's folder.
pub(super) fn remove(folder: &Path) {
    let _ = fs::remove_file(folder.join(SOCKET));
    if let Err(error) = fs::remove_dir(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", folder.display());
    }
}

/// Where the place is looked for, in this order.
fn usual(state_dir: &Path) -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let given = variable("RUNTIME_DIRECTORY").map(|all| {
        let all = all.to_string_lossy().into_owned();
        PathBuf::from(all.split(':').next().unwrap_or_default())
    });
    let user = variable("XDG_RUNTIME_DIR").map(|folder| PathBuf::from(folder).join("cronium"));
    let own = Some(PathBuf::from("/run/cronium"));
    [given, own, user, Some(state_dir.join("run"))].into_iter().flatten().filter(|path| path.is_absolute()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::scratch::Scratch;

    fn id(text: &str) -> Id {
        Id::parse(text).expect("id")
    }

    #[test]
    fn the_next_agent_has_the_same_tokens_and_another_one_has_others() {
        let scratch = Scratch::new();
        private::prepare(&scratch.join("state")).expect("a folder");
        let (first, again) = (Key::kept(&scratch.join("state")), Key::kept(&scratch.join("state")));
        let (first, again) = (first.expect("a key"), again.expect("a key"));
        assert_eq!(first.token(&id("a")), again.token(&id("a")));
        assert_eq!(first.folder(&id("a")), again.folder(&id("a")));
        assert_ne!(first.token(&id("a")), first.token(&id("b")));
        assert_ne!(first.token(&id("a")), Key::random().token(&id("a")));
        let mode = fs::metadata(scratch.join("state").join(KEY)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_place_lets_nobody_in_and_what_is_in_use_stays() {
        let scratch = Scratch::new();
        let key = Key::random();
        let place = SocketDir::make(Some(&scratch.join("r")), &scratch, &key).expect("a place");
        let mode = |path: &Path| fs::metadata(path).expect("a folder").permissions().mode() & 0o777;
        let [one, two] = ["a", "b"].map(|name| place.folder(&id(name), &key).expect("a folder"));
        assert_eq!((mode(&scratch.join("r")), mode(&place.0), mode(&one)), (0o700, 0o700, 0o755));
        fs::write(one.join(SOCKET), "").expect("a file");
        fs::write(two.join(SOCKET), "").expect("a file");
        assert_eq!(place.folder(&id("b"), &key).expect("again"), two);
        place.clear(&[id("b")], &key);
        assert!(!one.exists() && two.join(SOCKET).exists());
        place.leave();
        assert!(two.exists(), "something is in it");
        remove(&two);
        place.leave();
        assert!(!scratch.join("r").exists());
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_not_taken() {
        let scratch = Scratch::new();
        let long = scratch.join("x".repeat(80));
        let why = SocketDir::make(Some(&long), &scratch, &Key::random()).expect_err("too long");
        assert!(why.contains("longer than a socket's"), "{why}");
    }
}

//! A folder that no other user can read, change or replace: `state.dir` and its content.
//!
//! A user who may rename in a folder decides what a name there leads to. So every folder on the way must belong to this user
//! or to root, and others must not write to it unless it is sticky, as `/tmp` is. The check goes from the root down: what
//! is safe above cannot be changed from below. Nothing that belongs to another user is changed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use crate::limits;
use crate::os::local;

/// Why a folder is not used.
#[derive(Debug)]
pub enum Refused {
    /// It, or a folder on the way to it, belongs to another user.
    Foreign {
        path: PathBuf,
        owner: u32,
        mode: u32,
    },
    /// Others may rename in it.
    Writable {
        path: PathBuf,
        owner: u32,
        mode: u32,
    },
    /// Others may write this file.
    WritableFile {
        path: PathBuf,
        owner: u32,
        mode: u32,
    },
    /// A link on the way belongs to another user.
    Link {
        path: PathBuf,
        owner: u32,
    },
    /// More than `limits::PATH_LINKS` links on the way.
    Links(PathBuf),
    NoFolder(PathBuf),
    /// What was tried, on what, and the kernel's error.
    Io {
        what: &'static str,
        path: PathBuf,
        error: io::Error,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { path, owner, mode } => write!(
                f,
                "{} belongs to user {owner} (mode {mode:o}), who could change what is in it: run as that user, or `chown` \
                 it to this one",
                path.display()
            ),
            Self::WritableFile { path, owner, mode } => {
                write!(f, "others may write {} (of user {owner}, mode {mode:o}): `chmod go-w` it", path.display())
            }
            Self::Writable { path, owner, mode } => write!(
                f,
                "others may rename in {} (of user {owner}, mode {mode:o}): `chmod go-w` it, or choose a place elsewhere",
                path.display()
            ),
            Self::Link { path, owner } => write!(
                f,
                "{} is a link that user {owner} made and can point elsewhere: name the folder itself",
                path.display()
            ),
            Self::Links(path) => {
                write!(
                    f,
                    "{} leads through more than {} links (limits::PATH_LINKS)",
                    path.display(),
                    limits::PATH_LINKS
                )
            }
            Self::NoFolder(path) => write!(f, "{} is no folder: move it away, or choose another place", path.display()),
            Self::Io { what, path, error } => write!(f, "cannot {what} {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Refused {
    let path = path.to_owned();
    move |error| Refused::Io { what, path, error }
}

/// Makes the folder, and missing ones on the way, with mode 0700, and opens it. An existing folder of this user gets that
/// mode; returns its former mode if it was another.
pub fn prepare(path: &Path) -> Result<(File, Option<u32>), Refused> {
    let (mut real, missing) = walk(path)?;
    for name in missing {
        let made = real.join(name);
        make(&made, &real).map_err(failed("make", &made))?;
        real = made;
    }
    open(&real)
}

/// Opens a folder that is there, as [`prepare`] does: through links of this user's and root's.
pub(in crate::os) fn find(path: &Path) -> Result<(File, Option<u32>), Refused> {
    match walk(path)? {
        (real, missing) if missing.is_empty() => open(&real),
        _ => Err(failed("open", path)(io::ErrorKind::NotFound.into())),
    }
}

/// The reason why [`prepare`] would refuse this folder, as far as it exists; changes nothing.
pub fn look(path: &Path) -> Result<(), Refused> {
    let (real, missing) = walk(path)?;
    if missing.is_empty() { open_as_it_is(&real).map(drop) } else { Ok(()) }
}

/// The reason why somebody else than root and this user could change this file, or put another in its place.
pub fn look_at_file(path: &Path) -> Result<(), Refused> {
    let (real, _) = walk(path)?;
    let data = fs::symlink_metadata(&real).map_err(failed("look at", &real))?;
    let (owner, mode, path) = (data.uid(), data.mode() & 0o7777, real);
    match owner == 0 || owner == own(&path)? {
        false => Err(Refused::Foreign { path, owner, mode }),
        true if mode & 0o022 != 0 => Err(Refused::WritableFile { path, owner, mode }),
        true => Ok(()),
    }
}

/// Makes one folder and syncs `parent`. An existing one is no error: it is checked when opened.
pub(in crate::os) fn make(path: &Path, parent: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => File::open(parent)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a folder of this user, and gives it mode 0700.
pub(in crate::os) fn open(path: &Path) -> Result<(File, Option<u32>), Refused> {
    let (handle, data) = open_as_it_is(path)?;
    let mode = data.mode() & 0o7777;
    if mode & 0o777 == 0o700 || data.uid() != own(path)? {
        return Ok((handle, None));
    }
    handle.set_permissions(Permissions::from_mode(0o700)).map_err(failed("set the mode of", path))?;
    Ok((handle, Some(mode)))
}

/// Opens the folder itself, not a link to it.
fn open_as_it_is(path: &Path) -> Result<(File, Metadata), Refused> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
    let handle = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOTDIR | libc::ELOOP) => Refused::NoFolder(path.to_owned()),
        _ => failed("open", path)(error),
    })?;
    let data = handle.metadata().map_err(failed("look at", path))?;
    let (owner, mode) = (data.uid(), data.mode() & 0o7777);
    match owner == own(path)? {
        true => {}
        // Nothing is changed here. A write shows whether it can be written.
        false if owner == 0 && mode & 0o022 == 0 => {}
        false => return Err(Refused::Foreign { path: path.to_owned(), owner, mode }),
    }
    Ok((handle, data))
}

fn own(path: &Path) -> Result<u32, Refused> {
    local::own_uid().map_err(failed("compare the owner of", path))
}

/// Follows the path from the root. Returns the existing part without links, and the missing part. Does not check the last
/// folder itself.
fn walk(path: &Path) -> Result<(PathBuf, Vec<OsString>), Refused> {
    let whole = std::path::absolute(path).map_err(failed("find", path))?;
    let root = fs::metadata("/").map_err(failed("look at", Path::new("/")))?;
    // The owner of `/` counts as root, also in a user namespace with another number.
    let trusted = [0, own(path)?, root.uid()];
    let (mut real, mut rest, mut links) = (PathBuf::from("/"), names(&whole), 0);
    while let Some(name) = rest.pop_front() {
        look_at(&real, &trusted)?;
        if name == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&name);
        let data = match fs::symlink_metadata(&next) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rest.push_front(name);
                return Ok((real, rest.into()));
            }
            Err(error) => return Err(failed("look at", &next)(error)),
        };
        if !data.is_symlink() {
            real = next;
            continue;
        }
        if !trusted.contains(&data.uid()) {
            return Err(Refused::Link { path: next, owner: data.uid() });
        }
        links += 1;
        if links > limits::PATH_LINKS {
            return Err(Refused::Links(path.to_owned()));
        }
        let target = fs::read_link(&next).map_err(failed("follow", &next))?;
        if target.is_absolute() {
            real = PathBuf::from("/");
        }
        let mut target = names(&target);
        target.append(&mut rest);
        rest = target;
    }
    Ok((real, Vec::new()))
}

fn names(path: &Path) -> VecDeque<OsString> {
    let named = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    named.map(|part| part.as_os_str().to_owned()).collect()
}

/// A folder in which a name is looked up.
fn look_at(path: &Path, trusted: &[u32]) -> Result<(), Refused> {
    let data = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    if !data.is_dir() {
        return Err(Refused::NoFolder(path.to_owned()));
    }
    let (owner, mode, path) = (data.uid(), data.mode() & 0o7777, path.to_owned());
    if !trusted.contains(&owner) {
        return Err(Refused::Foreign { path, owner, mode });
    }
    // Members of root's group are trusted as root is.
    let by_group = mode & 0o020 != 0 && data.gid() != 0;
    if (mode & 0o002 != 0 || by_group) && mode & 0o1000 == 0 {
        return Err(Refused::Writable { path, owner, mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    /// Another user. The tests run as root, as those of the records do.
    const NOBODY: u32 = 65_534;

    struct Scratch(crate::os::scratch::Scratch);

    impl Scratch {
        fn new() -> Self {
            Self(crate::os::scratch::Scratch::new())
        }

        /// A folder of this owner with this mode.
        fn folder(&self, name: &str, owner: u32, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir(&path).expect("a folder");
            chown(&path, Some(owner), Some(owner)).expect("root may");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
            path
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").mode() & 0o7777
    }

    #[test]
    fn a_file_is_safe_where_nobody_else_can_change_or_replace_it() {
        let scratch = Scratch::new();
        let put = |folder: &Path, owner: u32, mode: u32| {
            let path = folder.join(format!("f{owner}-{mode:o}"));
            fs::write(&path, "x").expect("a file");
            chown(&path, Some(owner), Some(owner)).expect("root may");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
            path
        };
        let (ours, open) = (scratch.folder("ours", 0, 0o755), scratch.folder("open", 0, 0o777));
        let (sticky, foreign) = (scratch.folder("sticky", 0, 0o1777), scratch.folder("foreign", NOBODY, 0o755));
        assert!(look_at_file(&put(&ours, 0, 0o644)).is_ok());
        assert!(look_at_file(&put(&sticky, 0, 0o600)).is_ok());
        let link = sticky.join("link");
        symlink(put(&open, 0, 0o600), &link).expect("a link");
        for (path, want) in [
            (put(&ours, NOBODY, 0o644), "belongs to user"),
            (put(&ours, 0, 0o664), "others may write"),
            (put(&ours, 0, 0o646), "others may write"),
            (put(&open, 0, 0o644), "others may rename in"),
            (put(&foreign, 0, 0o644), "belongs to user"),
            (link, "others may rename in"),
        ] {
            let refused = look_at_file(&path).expect_err(want).to_string();
            assert!(refused.contains(want), "{}: {refused}", path.display());
        }
    }

    #[test]
    fn a_folder_is_made_private_with_those_on_the_way() {
        let scratch = Scratch::new();
        let deep = scratch.0.join("a/b/c");
        assert!(look(&deep).is_ok());
        assert!(matches!(prepare(&deep), Ok((_, None))));
        assert_eq!([mode(&deep), mode(&scratch.0.join("a"))], [0o700; 2]);
        let open = scratch.folder("open", 0, 0o755);
        assert!(matches!(prepare(&open), Ok((_, Some(0o755)))) && mode(&open) == 0o700);
        // Links of our own are followed, also relative ones and those of links.
        symlink("open", scratch.0.join("one")).expect("a link");
        symlink(scratch.0.join("one"), scratch.0.join("two")).expect("a link");
        prepare(&scratch.0.join("two/../two/new")).expect("through links");
        assert_eq!(mode(&open.join("new")), 0o700);
    }

    #[test]
    fn nothing_of_anybody_elses_is_used_or_changed() {
        let scratch = Scratch::new();
        let theirs = scratch.folder("theirs", NOBODY, 0o755);
        let words = prepare(&theirs).expect_err("theirs").to_string();
        assert!(words.contains("belongs to user 65534 (mode 755)") && words.contains("chown"), "{words}");
        assert!(matches!(look(&theirs), Err(Refused::Foreign { .. })));
        assert!(matches!(prepare(&theirs.join("state")), Err(Refused::Foreign { path, .. }) if path == theirs));
        assert_eq!((mode(&theirs), theirs.join("state").exists()), (0o755, false));
        for (name, owner, mode) in [("all", 0, 0o777), ("group", 0, 0o755)] {
            let open = scratch.folder(name, owner, mode);
            if name == "group" {
                chown(&open, None, Some(NOBODY)).expect("root may");
                fs::set_permissions(&open, Permissions::from_mode(0o775)).expect("a mode");
            }
            let words = prepare(&open.join("state")).expect_err("others may rename in it").to_string();
            assert!(words.contains("others may rename in") && words.contains("chmod go-w"), "{words}");
            assert!(!open.join("state").exists());
        }
        // As in /tmp: ours in a sticky folder is safe, theirs is not.
        let sticky = scratch.folder("sticky", 0, 0o1777);
        prepare(&sticky.join("ours")).expect("ours");
        scratch.folder("sticky/planted", NOBODY, 0o700);
        assert!(matches!(prepare(&sticky.join("planted")), Err(Refused::Foreign { .. })));
    }

    #[test]
    fn a_link_that_somebody_else_made_leads_nowhere() {
        let scratch = Scratch::new();
        let target = scratch.folder("target", 0, 0o755);
        let sticky = scratch.folder("sticky", 0, 0o1777);
        let link = sticky.join("state");
        symlink(&target, &link).expect("a link");
        std::os::unix::fs::lchown(&link, Some(NOBODY), Some(NOBODY)).expect("root may");
        let words = prepare(&link).expect_err("theirs").to_string();
        assert!(words.contains("a link that user 65534 made"), "{words}");
        assert!(prepare(&link.join("deep")).is_err());
        assert_eq!(mode(&target), 0o755);
        let round = sticky.join("round");
        symlink("round", &round).expect("a link");
        assert!(matches!(prepare(&round), Err(Refused::Links(_))));
        let file = sticky.join("file");
        fs::write(&file, "x").expect("a file");
        assert!(matches!(prepare(&file), Err(Refused::NoFolder(_))));
        assert!(matches!(prepare(&file.join("state")), Err(Refused::NoFolder(_))));
        // The folder itself stays open, also if another is put in its place after the check.
        symlink(&target, sticky.join("late")).expect("a link");
        assert!(matches!(open(&sticky.join("late")), Err(Refused::NoFolder(_))));
    }
}

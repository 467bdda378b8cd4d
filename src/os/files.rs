//! Files that survive a power cut, and the lock that keeps a second process away from a folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits;
use crate::os::clock;
use crate::os::private::{self, Refused};

/// Prefix of files that are still being written. No name given to [`Folder::write`] may begin with it.
pub const UNFINISHED: &str = ".new-";

/// A file in memory and without a name that holds `text`: it is gone when it is closed, and nobody can put another in its
/// place.
pub fn nameless(text: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open("/dev/shm")?;
    file.write_all(text)?;
    Ok(file)
}

/// A folder that no other user may read, held open so that its entries can be synced.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    handle: File,
    counter: AtomicU64,
}

impl Folder {
    /// Makes the folder with mode 0700 unless it exists, and opens it. An existing one of this user gets that mode; one of
    /// another user is refused, and a link. [`private::prepare`] checks the folders on the way.
    pub fn open(path: &Path) -> io::Result<Self> {
        private::make(path, path.parent().unwrap_or(Path::new("/")))?;
        Self::of(path, private::open(path))
    }

    /// One that is there, such as `state.dir`: links of this user's and root's lead to it.
    pub fn existing(path: &Path) -> io::Result<Self> {
        Self::of(path, private::find(path))
    }

    fn of(path: &Path, opened: Result<(File, Option<u32>), Refused>) -> io::Result<Self> {
        let (handle, _) = opened.map_err(|refused| match refused {
            Refused::Io { error, .. } => error,
            refused => io::Error::new(io::ErrorKind::PermissionDenied, refused),
        })?;
        Ok(Self { path: path.to_owned(), handle, counter: AtomicU64::new(0) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file `name` (mode 0600) by `parts`, one after the other. At every moment the file is the old one or the new
    /// one; after `Ok`, it is the new one even if the power fails now.
    pub fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        self.write_with(name, &|file| parts.iter().try_for_each(|part| file.write_all(part)))
    }

    /// The same with what `fill` writes, which goes through a buffer.
    pub fn write_with(&self, name: &str, fill: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        clock::step("write");
        clock::disk()?;
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let beside = self.path.join(format!("{UNFINISHED}{number}"));
        // The rest of an earlier write under this number.
        let _ = fs::remove_file(&beside);
        let written = write_new(&beside, fill).and_then(|()| {
            clock::step("rename");
            fs::rename(&beside, self.path.join(name))
        });
        if let Err(error) = written {
            // `remove_unfinished` removes its rest too.
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        self.sync()
    }

    /// Removes the file `name`; a missing one is no error. It may come back after a power cut until [`Folder::sync`].
    pub fn remove(&self, name: &str) -> io::Result<()> {
        clock::step("remove");
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes added and removed names durable.
    pub fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    /// Removes half-written files of a killed process; returns their number.
    pub fn remove_unfinished(&self) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Creates a file that must not exist, not even as a link.
fn write_new(path: &Path, fill: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut buffer = BufWriter::new(file);
    fill(&mut buffer)?;
    buffer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Opens a file to append to it, not through a link; creates it (0600) if needed.
pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Reads a small file, not through a link; longer than `most`, or no UTF-8, is an error.
pub fn read_small(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read_small_bytes(path, most)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The same of any bytes.
pub fn read_small_bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// Opens a file that others read, such as a log. It may be a link of this user or root; a link of another user would let
/// them choose where the agent writes.
pub fn append_through_own_links(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(mode);
    let direct = options.clone().custom_flags(libc::O_NOFOLLOW).open(path);
    match direct {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            let owner = fs::symlink_metadata(path)?.uid();
            if owner != 0 && owner != crate::os::local::own_uid()? {
                let words = format!("it is a link that user {owner} made: name the file itself");
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
            }
            options.open(path)
        }
        result => result,
    }
}

/// Locks a file for this process until it is dropped or the process ends in any way. The file names the holder.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

/// Why a lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Another process holds it: its id from the file, or `?`.
    Held(String),
    Io(io::Error),
}

impl Lock {
    /// Takes the lock on the file at `path`, which it creates (0600) if needed; does not wait.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        // Held open for reading: a file system without writers can be remounted read-only.
        let file = options.open(path).and_then(|_| File::open(path)).map_err(LockError::Io)?;
        let mut looks = limits::LOCK_LOOKS;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // Perhaps a caller of `holder`, for a moment.
                Err(TryLockError::WouldBlock) if looks > 0 => clock::sleep(limits::LOCK_LOOK),
                Err(TryLockError::WouldBlock) => return Err(LockError::Held(pid_in(file))),
                Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
            }
            looks -= 1;
        }
        // For people only: a failed write (a full disk) is no reason to give up the lock.
        let word = format!("{}\n", std::process::id());
        if let Err(error) = options.truncate(true).open(path).and_then(|mut file| file.write_all(word.as_bytes())) {
            log::warn!("{} does not say who holds it: {error}", path.display());
        }
        Ok(Self(file))
    }

    /// The process that holds the lock on the file at `path`, `?` if the file does not say; `None` if none does. The kernel
    /// answers this only to a try for the lock, so a shared lock is held for a moment.
    pub fn holder(path: &Path) -> io::Result<Option<String>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(pid_in(file))),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// The process that the file names.
fn pid_in(file: File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    let pid = text.trim();
    let sound = read.is_ok() && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    if sound { pid.to_owned() } else { "?".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};

    use super::*;
    use crate::os::ahead::Ahead;
    use crate::os::{scratch::Scratch, threads};

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let path = Scratch::new();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        let folder = Folder::open(&path).expect("open");
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        folder.write("a", &[b"one ", b"two"]).expect("write");
        folder.write("a", &[b"three"]).expect("write");
        assert_eq!((fs::read(path.join("a")).expect("read"), mode(&path.join("a"))), (b"three".to_vec(), 0o600));
        fs::write(path.join(format!("{UNFINISHED}7")), "half").expect("write");
        assert_eq!(folder.remove_unfinished().expect("clean"), 1);
        // A rename that fails leaves nothing behind.
        fs::create_dir_all(path.join("b/c")).expect("a folder");
        assert!(folder.write("b", &[b"x"]).is_err());
        folder.remove("a").expect("remove");
        folder.remove("a").expect("gone already");
        let left: Vec<_> = fs::read_dir(&path).expect("list").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(left, ["b"]);
    }

    #[test]
    fn no_link_is_written_through_but_ones_own() {
        let scratch = Scratch::new();
        let path = scratch.to_path_buf();
        let folder = Folder::open(&path).expect("open");
        let target = path.join("target");
        fs::write(&target, "kept").expect("write");
        let link = |name: &str, owner: u32| {
            symlink(&target, path.join(name)).expect("a link");
            lchown(path.join(name), Some(owner), Some(owner)).expect("root may");
            path.join(name)
        };
        // The temporary file before the rename.
        link(&format!("{UNFINISHED}0"), 0);
        folder.write("a", &[b"new"]).expect("write");
        let log = link("log", 65_534);
        assert!(append_through_own_links(&log, 0o640).expect_err("theirs").to_string().contains("user 65534"));
        assert!(append(&log).is_err() && read_small(&log, 10).is_err());
        assert!(matches!(Lock::take(&link("lock", 0)), Err(LockError::Io(_))));
        assert_eq!(fs::read_to_string(&target).expect("read"), "kept");
        append_through_own_links(&link("own", 0), 0o640).and_then(|mut file| file.write_all(b"!")).expect("ours");
        assert_eq!(read_small(&target, 5).expect("read"), "kept!");
        assert!(read_small(&target, 4).is_err());
        symlink(&path, path.join("round")).expect("a link");
        assert!(Folder::open(&path.join("round")).is_err(), "the folder itself");
    }

    #[test]
    fn a_lock_has_one_holder_who_is_named() {
        let place = Scratch::new();
        let path = place.join("lock");
        let first = Lock::take(&path).expect("free");
        match Lock::take(&path) {
            Err(LockError::Held(pid)) => assert_eq!(pid, std::process::id().to_string()),
            other => panic!("{other:?}"),
        }
        assert_eq!(Lock::holder(&path).expect("look"), Some(std::process::id().to_string()));
        fs::write(&path, "rm -rf /").expect("write");
        assert_eq!(Lock::holder(&path).expect("look").as_deref(), Some("?"));
        assert!(matches!(Lock::take(&path), Err(LockError::Held(pid)) if pid == "?"));
        drop(first);
        assert_eq!(Lock::holder(&path).expect("look"), None);
        // A caller of `holder` keeps no process away.
        let looker = File::open(&path).expect("open");
        looker.try_lock_shared().expect("free");
        let waiting = std::thread::scope(|scope| {
            let taker = scope.spawn(|| Lock::take(&path));
            std::thread::sleep(limits::LOCK_LOOK / 2);
            drop(looker);
            taker.join().expect("no panic")
        });
        drop(waiting.expect("free again"));
        assert_eq!(Lock::holder(Path::new("/no/such/place")).expect("look"), None);
        assert!(matches!(Lock::take(Path::new("/no/such/place")), Err(LockError::Io(_))));
    }

    #[test]
    fn a_lock_that_stays_held_is_tried_a_few_times_and_no_more() {
        let place = Scratch::new();
        let path = place.join("lock");
        drop(Lock::take(&path).expect("free"));
        let looker = File::open(&path).expect("open");
        looker.try_lock_shared().expect("free");
        let (told, waited) = Ahead::run(|ahead| {
            let ((sender, told), own) = (std::sync::mpsc::sync_channel(1), path.clone());
            threads::spawn("t-taker", move || drop(sender.send(Lock::take(&own).map(drop)))).expect("a thread");
            (told.recv_timeout(std::time::Duration::from_secs(5)), ahead.by())
        });
        // The thread that keeps trying gets it now, and ends.
        drop(looker);
        assert!(matches!(told, Ok(Err(LockError::Held(_)))), "{told:?}");
        assert_eq!(waited, limits::LOCK_LOOK * limits::LOCK_LOOKS);
    }
}

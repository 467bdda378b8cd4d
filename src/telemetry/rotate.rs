//! A log file that is renamed when it is full: `agent.log`, `agent.log.1`, `agent.log.2` and so on.
//!
//! It holds only whole lines, also after a full disk. Nothing here ends or stalls the agent: a line that cannot be written
//! to the file goes to stderr, and the error is printed once until the file works again.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use crate::config::types::LogFile;
use crate::limits;
use crate::os::files;

/// The mode of a new log file: for the owner, and for a group that may read.
const MODE: u32 = 0o640;

/// The file and its older parts.
pub(super) struct Rotating {
    config: LogFile,
    /// The file, or the time of the next try to open it.
    file: Result<Open, Instant>,
    purge_at: Instant,
    /// Whether the present error was printed.
    told: bool,
    fallback: Box<dyn Write + Send>,
}

struct Open {
    file: File,
    size: u64,
    /// A device or a pipe is never renamed.
    regular: bool,
}

impl Rotating {
    /// Opens the file for appending. Keeps at most [`limits::LOG_BACKUPS`] older parts.
    pub(super) fn open(config: &LogFile, fallback: Box<dyn Write + Send>) -> io::Result<Self> {
        let config = LogFile { max_backups: config.max_backups.min(limits::LOG_BACKUPS), ..config.clone() };
        let file = Ok(Open::at(&config.path)?);
        let purge_at = Instant::now() + limits::LOG_PURGE_EVERY;
        let rotating = Self { config, file, purge_at, told: false, fallback };
        rotating.purge(SystemTime::now());
        Ok(rotating)
    }

    /// Writes one whole line, which ends in a newline.
    pub(super) fn line(&mut self, line: &[u8], now: Instant) {
        if now >= self.purge_at {
            self.purge_at = now + limits::LOG_PURGE_EVERY;
            self.purge(SystemTime::now());
        }
        if matches!(&self.file, Err(until) if now >= *until) {
            self.reopen(now);
        }
        let added = line.len() as u64;
        let full = |o: &Open| o.regular && o.size > 0 && o.size + added > self.config.max_size;
        if matches!(&self.file, Ok(open) if full(open)) {
            self.rotate(now);
        }
        let written = match &mut self.file {
            Ok(open) => open.append(line),
            Err(_) => {
                let _ = self.fallback.write_all(line);
                return;
            }
        };
        match written {
            Ok(()) => self.told = false,
            Err(error) => {
                self.trouble("write", &error);
                let _ = self.fallback.write_all(line);
            }
        }
    }

    /// Opens the path anew, for when somebody else moved the file.
    pub(super) fn reopen(&mut self, now: Instant) {
        match Open::at(&self.config.path) {
            Ok(open) => {
                self.file = Ok(open);
                self.told = false;
            }
            Err(error) => {
                self.trouble("open", &error);
                self.file = Err(now + limits::LOG_REOPEN_WAIT);
            }
        }
    }

    /// Moves each part one further and begins a new file. A part that cannot be moved is written over by the next try;
    /// when the file itself cannot be moved, it goes on growing rather than be lost.
    fn rotate(&mut self, now: Instant) {
        for i in (1..self.config.max_backups).rev() {
            // Most of the time some of them do not exist.
            let _ = fs::rename(self.backup(i), self.backup(i + 1));
        }
        let moved = if self.config.max_backups == 0 {
            fs::remove_file(&self.config.path)
        } else {
            fs::rename(&self.config.path, self.backup(1))
        };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => self.trouble("rotate", &error),
            _ => {
                self.reopen(now);
                self.purge(SystemTime::now());
            }
        }
    }

    /// Removes the parts that are too old, or too many since the configuration changed.
    fn purge(&self, now: SystemTime) {
        for i in 1.. {
            let backup = self.backup(i);
            let Ok(meta) = fs::symlink_metadata(&backup) else {
                if i > self.config.max_backups { break } else { continue }
            };
            let age = meta.modified().ok().and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
            if meta.is_file() && (i > self.config.max_backups || age > self.config.oldest()) {
                let _ = fs::remove_file(&backup);
            }
        }
    }

    fn backup(&self, number: usize) -> PathBuf {
        let mut name: OsString = self.config.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    /// Says on stderr what went wrong, once until it is over.
    fn trouble(&mut self, what: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.told, true) {
            let path = self.config.path.display();
            let text = format!(
                "cronium-agent: cannot {what} the log file {path}: {error}; until it works, stderr has the log\n"
            );
            let _ = self.fallback.write_all(text.as_bytes());
        }
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let file = files::append_through_own_links(path, MODE)?;
        let meta = file.metadata()?;
        Ok(Self { file, size: meta.len(), regular: meta.is_file() })
    }

    /// Appends all of `line` or, as far as the file system allows, nothing.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        match self.file.write_all(line) {
            Ok(()) => {
                self.size += line.len() as u64;
                Ok(())
            }
            Err(error) => {
                if self.regular {
                    // Half a line would make the next one unreadable.
                    let _ = self.file.set_len(self.size);
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<u8>>>);

    impl Write for Said {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Said {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).expect("utf-8")
        }
    }

    struct Folder(crate::os::scratch::Scratch);

    impl Folder {
        fn new() -> Self {
            Self(crate::os::scratch::Scratch::new())
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("list");
            let mut names: Vec<String> =
                entries.map(|e| e.expect("entry").file_name().into_string().expect("name")).collect();
            names.sort();
            names
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).expect(name)
        }
    }

    fn open(path: &Path, max_size: u64, max_backups: usize, fallback: &Said) -> io::Result<Rotating> {
        let config = LogFile { path: path.to_owned(), max_size, max_backups, max_age: 1 };
        Rotating::open(&config, Box::new(fallback.clone()))
    }

    #[test]
    fn full_files_move_on_and_the_last_one_falls_off() {
        let folder = Folder::new();
        let said = Said::default();
        let path = folder.0.join("a.log");
        let mut log = open(&path, 20, 2, &said).expect("open");
        for i in 0..9 {
            log.line(format!("line {i:03}\n").as_bytes(), Instant::now());
        }
        assert_eq!(folder.names(), ["a.log", "a.log.1", "a.log.2"]);
        assert_eq!(folder.read("a.log"), "line 008\n");
        assert_eq!(folder.read("a.log.1"), "line 006\nline 007\n");
        assert_eq!(folder.read("a.log.2"), "line 004\nline 005\n");
        // A line that is longer than the file may be still gets one, whole.
        log.line(format!("{}\n", "x".repeat(50)).as_bytes(), Instant::now());
        assert_eq!(folder.read("a.log").len(), 51);
        assert_eq!(said.text(), "");
        // Group may read, others not; the umask may take away more.
        assert_eq!(fs::metadata(&path).expect("meta").permissions().mode() & 0o137, 0);
        // What is there is continued after a restart, and counted.
        drop(log);
        let mut log = open(&path, 20, 0, &said).expect("open");
        assert_eq!(folder.names(), ["a.log"], "more parts than are kept now");
        log.line(b"new\n", Instant::now());
        assert_eq!((folder.names(), folder.read("a.log")), (vec!["a.log".to_owned()], "new\n".to_owned()));
    }

    #[test]
    fn parts_are_bounded_whatever_is_configured() {
        let folder = Folder::new();
        let most = limits::LOG_BACKUPS;
        for number in [most, most + 1] {
            fs::write(folder.0.join(format!("a.log.{number}")), "old").expect("write");
        }
        let path = folder.0.join("a.log");
        let mut log = open(&path, 10, most * 5, &Said::default()).expect("open");
        assert_eq!(folder.names(), ["a.log".to_owned(), format!("a.log.{most}")]);
        fs::write(folder.0.join(format!("a.log.{}", most - 1)), "last but one").expect("write");
        log.line(b"first...\n", Instant::now());
        log.line(b"second..\n", Instant::now());
        assert_eq!(folder.names(), ["a.log".to_owned(), "a.log.1".to_owned(), format!("a.log.{most}")]);
        assert_eq!(folder.read(&format!("a.log.{most}")), "last but one");
    }

    #[test]
    fn old_parts_are_removed_also_behind_a_gap() {
        let folder = Folder::new();
        let log = open(&folder.0.join("a.log"), 20, 5, &Said::default()).expect("open");
        for name in ["a.log.1", "a.log.4", "a.log.6", "a.log.x", "b.log.1"] {
            fs::write(folder.0.join(name), "old").expect("write");
        }
        log.purge(SystemTime::now());
        assert_eq!(folder.names(), ["a.log", "a.log.1", "a.log.4", "a.log.x", "b.log.1"]);
        log.purge(SystemTime::now() + Duration::from_secs(86_400 + 60));
        assert_eq!(folder.names(), ["a.log", "a.log.x", "b.log.1"]);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_said_once_and_tried_again() {
        let folder = Folder::new();
        let inner = folder.0.join("inner");
        fs::create_dir(&inner).expect("folder");
        let path = inner.join("a.log");
        let said = Said::default();
        let mut log = open(&path, 10, 1, &said).expect("open");
        let now = Instant::now();
        log.line(b"first...\n", now);
        fs::remove_dir_all(&inner).expect("remove");
        log.line(b"second..\n", now);
        log.line(b"third...\n", now);
        let text = said.text();
        assert!(text.starts_with("cronium-agent: cannot open the log file "), "{text}");
        assert!(text.ends_with("stderr has the log\nsecond..\nthird...\n"), "{text}");
        fs::create_dir(&inner).expect("folder");
        log.line(b"fourth..\n", now + limits::LOG_REOPEN_WAIT);
        assert_eq!(fs::read_to_string(&path).expect("read"), "fourth..\n");
        assert_eq!(said.text(), text);
        assert!(open(Path::new("/no/such/a.log"), 1, 1, &Said::default()).is_err());
    }

    #[test]
    fn a_full_disk_is_said_once_and_a_device_is_never_moved() {
        let said = Said::default();
        let mut log = open(Path::new("/dev/full"), 1, 1, &said).expect("open");
        for _ in 0..2 {
            log.line(b"a line\n", Instant::now());
        }
        let text = said.text();
        assert_eq!(text.matches("cannot write the log file /dev/full").count(), 1, "{text}");
        assert_eq!(text.matches("\na line").count(), 2, "{text}");
        assert!(Path::new("/dev/full").exists());
    }

    #[test]
    fn moved_by_somebody_else() {
        let folder = Folder::new();
        let path = folder.0.join("a.log");
        let mut log = open(&path, 1000, 1, &Said::default()).expect("open");
        log.line(b"one\n", Instant::now());
        fs::rename(&path, folder.0.join("moved")).expect("rename");
        log.line(b"two\n", Instant::now());
        log.reopen(Instant::now());
        log.line(b"three\n", Instant::now());
        assert_eq!((folder.read("moved"), folder.read("a.log")), ("one\ntwo\n".to_owned(), "three\n".to_owned()));
    }
}

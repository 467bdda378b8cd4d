//! The files that survive the agent: one small file a job in `state.dir/jobs`, from before its container is created until
//! the backend has taken its report.
//!
//! A file is replaced as a whole and synced before the agent does what it announces, so a kill or a power cut at any moment
//! leaves the old entry or the new one. A file that cannot be read moves to quarantine (`state.dir/aside`) with a warning
//! and stops nothing. The lock on `state.dir` keeps a second agent away from the first one's jobs.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use super::done::DoneJobs;
use super::entry::{Container, Entry, Place, lock, now_ms};
use super::error::RecordError;
use super::file::{self, Bad, Encoded};
use super::images;
use super::quarantine::{self, Quarantined};
use crate::executors::container::images::Pulled;
use crate::job::Id;
use crate::limits;
use crate::metrics;
use crate::os::clock;
use crate::os::files::{Folder, Lock, LockError};

const LOCK: &str = "lock";
const JOBS: &str = "jobs";
/// The quarantine: files that could not be read, and reports that were given up.
pub const QUARANTINE: &str = "aside";
/// No job's file is called like this, since no id begins with a dot.
const PROBE: &str = ".probe";

/// The records, shared by clones. The lock is held until the last of them is gone.
#[derive(Debug, Clone)]
pub struct RecordStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    jobs: Folder,
    pulled: Folder,
    quarantine: Folder,
    done: DoneJobs,
    /// The jobs whose file is being written or removed: one writer a job, and no writer waits for another job's disk.
    busy: Mutex<BTreeSet<Id>>,
    free: Condvar,
    /// Files whose job is over and that the disk would not let go.
    unremoved: Mutex<BTreeSet<Id>>,
    /// Why the last write failed; `None` when it did not.
    trouble: Mutex<Option<String>>,
    _lock: Lock,
}

/// The records, with what was found on disk.
#[derive(Debug)]
pub struct Opened {
    pub records: RecordStore,
    /// The jobs that had not ended: they are to be found again, given back or reported. Also those that had, where a
    /// folder on a server may be left: their report goes after that, since with it the backend forgets the login.
    pub open: Vec<Entry>,
    /// The jobs whose report waits, oldest first. Their entries stay on disk until they are needed ([`RecordStore::read`]),
    /// since an hour without a backend may leave thousands of them.
    pub ended: Vec<Waiting>,
}

/// A job whose report waits on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub job: Id,
    pub attempts: u32,
    /// Wall clock, milliseconds since 1970.
    pub since_ms: u64,
    /// Of the report.
    pub bytes: usize,
}

impl RecordStore {
    /// Takes the lock on `dir` (`state.dir`, which must be there), makes the folders in it and reads what is in them.
    pub fn open(dir: &Path) -> Result<Opened, RecordError> {
        let lock = Lock::take(&dir.join(LOCK)).map_err(|error| match error {
            LockError::Held(pid) => RecordError::Locked { dir: dir.to_owned(), pid },
            LockError::Io(error) => RecordError::io("lock", &dir.join(LOCK), error),
        })?;
        let folder = |name: &str| {
            let path = dir.join(name);
            let folder = Folder::open(&path).map_err(|error| RecordError::io("open", &path, error))?;
            match folder.remove_unfinished() {
                Ok(0) => {}
                Ok(count) => log::warn!("removed {count} half-written files from {}", path.display()),
                Err(error) => log::warn!("cannot remove half-written files from {}: {error}", path.display()),
            }
            Ok::<_, RecordError>(folder)
        };
        let pulled = folder(images::FOLDER)?;
        let (jobs, quarantine) = (folder(JOBS)?, folder(QUARANTINE)?);
        let done = DoneJobs::open(folder("done")?, now_ms());
        let records = Self(Arc::new(Shared {
            jobs,
            pulled,
            quarantine,
            done,
            busy: Mutex::default(),
            free: Condvar::new(),
            unremoved: Mutex::default(),
            trouble: Mutex::default(),
            _lock: lock,
        }));
        records.load()
    }

    /// Reads every file in the folder of jobs.
    fn load(self) -> Result<Opened, RecordError> {
        let path = self.0.jobs.path();
        let failed = |error| RecordError::io("list", path, error);
        let (mut open, mut ended) = (Vec::new(), Vec::new());
        for found in fs::read_dir(path).map_err(failed)? {
            let found = found.map_err(failed)?.path();
            let name = found.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name == PROBE {
                let _ = self.0.jobs.remove(PROBE);
                continue;
            }
            let entry = match file::job_of(&name) {
                Some(job) => read(&found, &job),
                None => Ok(Err(Bad::Foreign)),
            };
            match entry {
                Ok(Ok(entry)) => match entry.ended().map(|ended| (ended.since_ms, ended.report.size())) {
                    Some((since_ms, bytes)) if !entry.has_remains() => {
                        ended.push(Waiting { job: entry.job, attempts: entry.attempts, since_ms, bytes })
                    }
                    _ => open.push(entry),
                },
                Ok(Err(bad)) => self.move_to_quarantine(&found, &bad.to_string()),
                // A file that the disk cannot give stays where it is: the next start may read it.
                Err(error) => log::error!("cannot read {}, leaving it where it is: {error}", found.display()),
            }
        }
        open.sort_by(|a, b| (a.claimed_ms, &a.job).cmp(&(b.claimed_ms, &b.job)));
        ended.sort_by(|a, b| (a.since_ms, &a.job).cmp(&(b.since_ms, &b.job)));
        Ok(Opened { records: self, open, ended })
    }

    /// Writes a job's entry in place of the one before. After `Ok` it is there even if the power fails now.
    pub fn put(&self, entry: &Entry) -> Result<(), RecordError> {
        let result = self.try_put(entry);
        metrics::journal_write(result.is_ok());
        match &result {
            Ok(()) => *lock(&self.0.trouble) = None,
            // That one entry cannot be written says nothing of the disk.
            Err(RecordError::Encode { .. } | RecordError::TooLarge { .. }) => {}
            Err(error) => *lock(&self.0.trouble) = Some(error.to_string()),
        }
        result
    }

    fn try_put(&self, entry: &Entry) -> Result<(), RecordError> {
        let job = &entry.job;
        let encoded = Encoded::of(entry).map_err(|error| RecordError::Encode { job: job.clone(), error })?;
        if encoded.len() > limits::RECORD_FILE_MAX {
            return Err(RecordError::TooLarge { job: job.clone(), bytes: encoded.len() });
        }
        let _turn = self.turn(job)?;
        lock(&self.0.unremoved).remove(job);
        let written = self.0.jobs.write_with(&file::name(job), &|file| encoded.write_to(file));
        written.map_err(|error| RecordError::io("write", &self.path_of(job), error))
    }

    /// Reads a job's entry; `None` if there is none. A file that is no entry moves to quarantine and counts as none.
    pub fn read(&self, job: &Id) -> Result<Option<Entry>, RecordError> {
        let path = self.path_of(job);
        let _turn = self.turn(job)?;
        match read(&path, job) {
            Ok(Ok(entry)) => Ok(Some(entry)),
            Ok(Err(bad)) => {
                self.move_to_quarantine(&path, &bad.to_string());
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RecordError::io("read", &path, error)),
        }
    }

    /// Whether there is a file of this job's, one that cannot be read included. What cannot be seen counts as there.
    pub fn has(&self, job: &Id) -> bool {
        self.path_of(job).try_exists().unwrap_or(true)
    }

    #[cfg(test)]
    pub fn remove(&self, job: &Id) {
        self.unlink(job, true);
    }

    /// Forgets a job that is among the finished ones: its file may come back after a power cut, and does no harm then.
    pub(in crate::jobs) fn forget(&self, job: &Id) {
        self.unlink(job, false);
    }

    /// Forgets a job that was given back, where the file is still that of `execution`, and not of a later attempt: for
    /// good, even if the power fails now.
    pub(in crate::jobs) fn remove_execution(&self, job: &Id, execution: &Id) {
        self.unlink_execution(job, execution, true);
    }

    /// [`RecordStore::forget`], in the same way.
    pub(in crate::jobs) fn forget_execution(&self, job: &Id, execution: &Id) {
        self.unlink_execution(job, execution, false);
    }

    fn unlink_execution(&self, job: &Id, execution: &Id, lasting: bool) {
        let Ok(_turn) = self.turn(job).inspect_err(|error| log::warn!("{error}; the next start forgets the job"))
        else {
            return;
        };
        if matches!(read(&self.path_of(job), job), Ok(Ok(entry)) if entry.execution == *execution) {
            self.unlink_now(job, lasting);
        }
    }

    fn unlink(&self, job: &Id, lasting: bool) {
        match self.turn(job) {
            Ok(_turn) => self.unlink_now(job, lasting),
            Err(error) => {
                log::warn!("{error}; trying again later");
                lock(&self.0.unremoved).insert(job.clone());
            }
        }
    }

    fn unlink_now(&self, job: &Id, lasting: bool) {
        let removed = self.0.jobs.remove(&file::name(job));
        if let Err(error) = removed.and_then(|()| if lasting { self.0.jobs.sync() } else { Ok(()) }) {
            log::warn!("{}; trying again later", RecordError::io("remove", &self.path_of(job), error));
            lock(&self.0.unremoved).insert(job.clone());
        }
    }

    /// Removes what could not be removed before, unless the job has come again meanwhile.
    fn remove_leftovers(&self) {
        let again = lock(&self.0.unremoved).clone();
        for job in &again {
            let Ok(_turn) = self.turn(job) else { continue };
            if lock(&self.0.unremoved).remove(job) {
                self.unlink_now(job, true);
            }
        }
    }

    /// Moves a job's file to quarantine, for a person to look at; `why` is kept with it. False if there was none, or it could
    /// not be moved.
    pub fn quarantine(&self, job: &Id, why: &str) -> bool {
        let Ok(_turn) = self.turn(job).inspect_err(|error| log::error!("{error}")) else { return false };
        let path = self.path_of(job);
        path.symlink_metadata().is_ok() && self.try_to_quarantine(&path, why)
    }

    /// The same with an entry that is in memory alone.
    pub fn write_to_quarantine(&self, entry: &Entry, why: &str) -> bool {
        let Ok(encoded) = Encoded::of(entry) else { return false };
        match quarantine::write(&self.0.quarantine, &file::name(&entry.job), &encoded, now_ms(), why) {
            Ok(()) => true,
            Err(error) => {
                log::error!("job {}: cannot move its entry to quarantine: {error}", entry.job);
                false
            }
        }
    }

    /// The files in quarantine, oldest first.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        quarantine::list(&self.0.quarantine).unwrap_or_default()
    }

    /// The jobs that ended within the last day.
    pub fn done(&self) -> &DoneJobs {
        &self.0.done
    }

    /// The images that the agent pulled, as an earlier run wrote them down. Of a damaged file, what is sound.
    pub fn pulled_images(&self) -> Vec<Pulled> {
        let path = self.0.pulled.path();
        match images::read_all(path) {
            Ok((images, 0)) => images,
            Ok((images, bad)) => {
                log::warn!("{bad} lines about images in {} are damaged: those images stay", path.display());
                images
            }
            Err(error) => {
                log::warn!("cannot read which images were pulled, in {}: {error}; those images stay", path.display());
                Vec::new()
            }
        }
    }

    /// Writes down the images that the agent pulled.
    pub fn put_pulled_images(&self, images: &[Pulled]) -> io::Result<()> {
        images::write(&self.0.pulled, images)
    }

    /// Why the records in state.dir cannot be written, as the last attempt showed; `None` when it can.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.0.trouble).clone()
    }

    /// Tries the disk: writes and removes a small file, then files that could not be removed before. [`RecordStore::trouble`] has
    /// the result.
    pub fn probe(&self) {
        let jobs = &self.0.jobs;
        let tried = jobs.write(PROBE, &[&[b'.'; limits::RECORD_PROBE]]).and_then(|()| jobs.remove(PROBE));
        *lock(&self.0.trouble) =
            tried.err().map(|error| RecordError::io("write", &jobs.path().join(PROBE), error).to_string());
        if self.trouble().is_none() {
            self.remove_leftovers();
        }
    }

    fn path_of(&self, job: &Id) -> PathBuf {
        self.0.jobs.path().join(file::name(job))
    }

    fn move_to_quarantine(&self, path: &Path, why: &str) {
        if self.try_to_quarantine(path, why) {
            log::warn!("moved {} to {}: {why}", path.display(), self.0.quarantine.path().display());
        }
    }

    fn try_to_quarantine(&self, path: &Path, why: &str) -> bool {
        match quarantine::take_in(&self.0.quarantine, path, now_ms(), why) {
            Ok(()) => true,
            Err(error) => {
                log::error!("cannot move {} to quarantine ({why}), leaving it where it is: {error}", path.display());
                false
            }
        }
    }

    /// Waits until nobody else works on this job's file, for [`limits::RECORD_TURN`]: a disk that hangs holds up its own
    /// writer, and no other for ever.
    fn turn(&self, job: &Id) -> Result<Turn<'_>, RecordError> {
        let until = clock::now() + limits::RECORD_TURN;
        let mut busy = lock(&self.0.busy);
        while busy.contains(job) {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err(RecordError::Busy { job: job.clone() });
            }
            busy = clock::wait(&self.0.busy, &self.0.free, busy, left);
        }
        busy.insert(job.clone());
        Ok(Turn { shared: &self.0, job: job.clone() })
    }
}

/// The right to work on one job's file.
struct Turn<'a> {
    shared: &'a Shared,
    job: Id,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.shared.busy).remove(&self.job);
        self.shared.free.notify_all();
    }
}

/// The entry in a file, or why it is none; an error when the disk does not give it.
fn read(path: &Path, job: &Id) -> io::Result<Result<Entry, Bad>> {
    let data = fs::symlink_metadata(path)?;
    if !data.is_file() {
        // Opening a pipe would wait for ever.
        return Ok(Err(Bad::Foreign));
    }
    file::read(job, fs::File::open(path)?, data.len())
}

/// The process that has the records in `dir` (`state.dir`) open, `?` where it is not told; `None` when none has.
pub fn holder(dir: &Path) -> io::Result<Option<String>> {
    Lock::holder(&dir.join(LOCK))
}

/// Whether `dir` has a record of this job, without taking the lock: for commands beside an agent. What cannot
/// be seen counts as there.
pub fn knows(dir: &Path, job: &Id) -> bool {
    dir.join(JOBS).join(file::name(job)).try_exists().unwrap_or(true)
}

/// The ids of the warm containers that jobs have taken, by the records in `dir`, without taking the lock. `None` where one
/// cannot be read: then any may be.
pub fn taken(dir: &Path) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for found in fs::read_dir(dir.join(JOBS)).ok()? {
        let path = found.ok()?.path();
        let Some(job) = path.file_name().and_then(|name| file::job_of(&name.to_string_lossy())) else { continue };
        match read(&path, &job) {
            Ok(entry) => {
                if let Place::Container(Container { warm: Some(id), .. }) = entry.ok()?.place {
                    all.insert(id);
                }
            }
            // Its job has just ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    Some(all)
}

#[cfg(test)]
#[path = "store_tests.rs"]
pub(crate) mod tests;

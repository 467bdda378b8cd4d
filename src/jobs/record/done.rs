//! The jobs that ended within the last day, so that one which is handed out again is answered and not run again.
//!
//! One file that is only appended to, a line a job with its own checksum: a kill in the middle of a line costs that line
//! alone, and its job still has its record then. It is written anew, as a whole, when too much of it is of no use.
//! Memory holds the ids and where each line is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::entry::{lock, now_ms};
use crate::job::Id;
use crate::limits;
use crate::os::clock;
use crate::os::files::{self, Folder};
use crate::wire::crc32;

const FILE: &str = "list";

/// A job that ended, as it was reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    #[serde(with = "super::entry::id")]
    pub job: Id,
    /// How often it had been handed out before the time that ended.
    pub attempts: u32,
    pub status: String,
    pub exit_code: i32,
    /// The first `limits::DONE_MESSAGE` bytes of it.
    pub message: String,
    /// When it was reported: wall clock, milliseconds since 1970.
    pub at_ms: u64,
}

/// The finished jobs.
#[derive(Debug)]
pub struct DoneJobs {
    folder: Folder,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: BTreeMap<Id, Slot>,
    /// Bytes of whole lines; what comes after them is the rest of a failed write.
    length: u64,
    lines: usize,
    unwritten: usize,
}

#[derive(Debug)]
struct Slot {
    at_ms: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Offset and length of its line.
    Disk(u64, usize),
    /// The disk did not take it.
    Memory(Box<Done>),
}

impl DoneJobs {
    /// Reads what is there. What cannot be read is left out, with a warning: nothing is lost by it but the memory of a day.
    pub(super) fn open(folder: Folder, now_ms: u64) -> Self {
        let mut inner = Inner::default();
        match inner.load(&folder, now_ms) {
            Ok(0) => {}
            Ok(bad) => {
                log::warn!("left out {bad} lines of {} that are torn or foreign", path(&folder).display());
                inner.try_rewrite(&folder);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                log::warn!("cannot read {}: {error}", path(&folder).display());
                // It may be readable another time: go on behind it.
                inner.length = path(&folder).metadata().map_or(0, |data| data.len());
            }
        }
        inner.purge(now_ms);
        Self { folder, inner: Mutex::new(inner) }
    }

    /// What is remembered of `job`.
    pub fn lookup(&self, job: &Id) -> Option<Done> {
        self.lookup_at(job, now_ms())
    }

    fn lookup_at(&self, job: &Id, now_ms: u64) -> Option<Done> {
        let inner = lock(&self.inner);
        let slot = inner.slots.get(job).filter(|slot| !is_old(slot.at_ms, now_ms))?;
        match &slot.place {
            Place::Memory(done) => Some((**done).clone()),
            Place::Disk(offset, length) => {
                let mut line = vec![0; *length];
                File::open(path(&self.folder)).ok()?.read_exact_at(&mut line, *offset).ok()?;
                decode(&line).filter(|done| done.job == *job)
            }
        }
    }

    /// Remembers a job in place of what was known of it. Whether it is on disk now; if not, it is kept in memory and
    /// written with the next one.
    pub fn remember(&self, done: Done) -> bool {
        let now = now_ms();
        let written = {
            let mut inner = lock(&self.inner);
            inner.purge(now);
            if inner.unwritten >= limits::DONE_UNWRITTEN && inner.append_unwritten(&self.folder).is_err() {
                log::warn!("job {} is not remembered: {} others wait for the disk", done.job, inner.unwritten);
                return false;
            }
            inner.insert(done);
            if inner.lines > inner.slots.len() + limits::DONE_SLACK {
                inner.try_rewrite(&self.folder);
            }
            inner.append_unwritten(&self.folder)
        };
        // Outside the lock: jobs that end together wait for the disk together.
        match written.and_then(|file| file.sync_data()) {
            Ok(()) => true,
            Err(error) => {
                log::warn!("cannot write {}: {error}", path(&self.folder).display());
                false
            }
        }
    }

    /// How many are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        lock(&self.inner).slots.len()
    }
}

impl Inner {
    /// Reads the file; how many of its lines are no use to anybody.
    fn load(&mut self, folder: &Folder, now_ms: u64) -> io::Result<usize> {
        let mut reader = BufReader::new(File::open(path(folder))?);
        let (mut line, mut bad) = (Vec::new(), 0);
        loop {
            line.clear();
            let read = reader.by_ref().take(limits::DONE_LINE as u64).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            let offset = self.length;
            self.length += read as u64;
            self.lines += 1;
            match decode(&line) {
                Some(done) if !is_old(done.at_ms, now_ms) => {
                    // What a clock that was ahead wrote is remembered from now on, and not for years.
                    self.slots
                        .insert(done.job, Slot { at_ms: done.at_ms.min(now_ms), place: Place::Disk(offset, read) });
                }
                Some(_) => {}
                None => bad += 1,
            }
        }
        Ok(bad)
    }

    fn insert(&mut self, mut done: Done) {
        let end =
            (0..=limits::DONE_MESSAGE.min(done.message.len())).rev().find(|&at| done.message.is_char_boundary(at));
        done.message.truncate(end.unwrap_or(0));
        let slot = Slot { at_ms: done.at_ms, place: Place::Memory(Box::new(done.clone())) };
        let before = self.slots.insert(done.job, slot);
        self.unwritten += usize::from(!matches!(before, Some(Slot { place: Place::Memory(_), .. })));
    }

    /// Forgets those that are too old or too many.
    fn purge(&mut self, now_ms: u64) {
        self.slots.retain(|_, slot| !is_old(slot.at_ms, now_ms));
        if self.slots.len() > limits::DONE_JOBS {
            let mut times: Vec<u64> = self.slots.values().map(|slot| slot.at_ms).collect();
            // A tenth at once, so that the search is not done for every job.
            let (_, cut, _) = times.select_nth_unstable(limits::DONE_JOBS / 10);
            let cut = *cut;
            let mut over = self.slots.len() - limits::DONE_JOBS + limits::DONE_JOBS / 10;
            self.slots.retain(|_, slot| {
                let goes = slot.at_ms <= cut && over > 0;
                over -= usize::from(goes);
                !goes
            });
        }
        self.unwritten = self.slots.values().filter(|slot| matches!(slot.place, Place::Memory(_))).count();
    }

    /// Appends what is in memory alone. The file, for the caller to sync. It is opened each time, so that an idle agent
    /// keeps no file system from being unmounted.
    fn append_unwritten(&mut self, folder: &Folder) -> io::Result<File> {
        clock::step("append");
        clock::disk()?;
        let mut file = files::append(&path(folder))?;
        let found = file.metadata()?.len();
        if found > self.length {
            // The rest of a line that was not written to its end.
            file.set_len(self.length)?;
        }
        self.length = self.length.min(found);
        for slot in self.slots.values_mut() {
            let Place::Memory(done) = &slot.place else { continue };
            let line = encode(done);
            file.write_all(&line)?;
            slot.place = Place::Disk(self.length, line.len());
            self.length += line.len() as u64;
            self.lines += 1;
            self.unwritten -= 1;
        }
        Ok(file)
    }

    fn try_rewrite(&mut self, folder: &Folder) {
        if let Err(error) = self.rewrite(folder) {
            log::warn!("cannot write {} anew: {error}", path(folder).display());
        }
    }

    /// Writes the file anew with the lines that are still of use.
    fn rewrite(&mut self, folder: &Folder) -> io::Result<()> {
        let old = File::open(path(folder))?;
        let (mut text, mut places) = (Vec::new(), Vec::new());
        for (job, slot) in &self.slots {
            if let Place::Disk(offset, length) = slot.place {
                let start = text.len();
                text.resize(start + length, 0);
                old.read_exact_at(&mut text[start..], offset)?;
                places.push((job.clone(), Place::Disk(start as u64, length)));
            }
        }
        folder.write(FILE, &[&text])?;
        (self.length, self.lines) = (text.len() as u64, places.len());
        for (job, place) in places {
            if let Some(slot) = self.slots.get_mut(&job) {
                slot.place = place;
            }
        }
        Ok(())
    }
}

fn path(folder: &Folder) -> PathBuf {
    folder.path().join(FILE)
}

fn is_old(at_ms: u64, now_ms: u64) -> bool {
    u128::from(now_ms.saturating_sub(at_ms)) > limits::DONE_KEPT.as_millis()
}

/// `<CRC-32 of the JSON, 8 hex digits> <JSON>`, a line.
pub(super) fn encode(done: &Done) -> Vec<u8> {
    let write = |done: &Done| serde_json::to_string(done).unwrap_or_default();
    let mut json = write(done);
    if json.len() > limits::DONE_LINE - "01234567 \n".len() {
        json = write(&Done { status: String::new(), message: String::new(), ..done.clone() });
    }
    format!("{:08x} {json}\n", crc32::of(json.as_bytes())).into_bytes()
}

pub(super) fn decode(line: &[u8]) -> Option<Done> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (sum, json) = line.split_once(' ')?;
    let sound = sum.len() == 8 && u32::from_str_radix(sum, 16).ok()? == crc32::of(json.as_bytes());
    if sound { serde_json::from_str(json).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::scratch;
    use std::fs;
    use std::path::PathBuf;

    struct Scratch(scratch::Scratch);

    impl Scratch {
        fn new() -> Self {
            Self(scratch::Scratch::new())
        }

        fn open(&self, now_ms: u64) -> DoneJobs {
            DoneJobs::open(Folder::open(&self.0).expect("a folder"), now_ms)
        }

        fn file(&self) -> PathBuf {
            self.0.join(FILE)
        }
    }

    fn id(n: usize) -> Id {
        Id::parse(&format!("job:{n}")).expect("id")
    }

    fn done(n: usize, at_ms: u64) -> Done {
        let message = format!("it ended, \"so\" \n{n}");
        Done { job: id(n), attempts: 1, status: "failed".into(), exit_code: 3, message, at_ms }
    }

    #[test]
    fn what_ended_is_known_for_a_day_also_after_a_restart() {
        let (scratch, now) = (Scratch::new(), now_ms());
        let jobs = scratch.open(now);
        assert!(jobs.len() == 0 && jobs.lookup(&id(1)).is_none());
        assert!(jobs.remember(done(1, now)));
        let again = Done { attempts: 2, message: "ü".repeat(5000), ..done(1, now + 5) };
        assert!(jobs.remember(done(2, now)) && jobs.remember(again.clone()));
        for jobs in [jobs, scratch.open(now), scratch.open(now)] {
            assert_eq!(jobs.lookup(&id(2)), Some(done(2, now)));
            let found = jobs.lookup(&id(1)).expect("known");
            assert_eq!((found.attempts, found.message.len()), (2, limits::DONE_MESSAGE));
            assert!(again.message.starts_with(&found.message));
            let day = u64::try_from(limits::DONE_KEPT.as_millis()).expect("fits");
            assert!(jobs.lookup_at(&id(2), now + day).is_some());
            assert!(jobs.lookup_at(&id(2), now + day + 1).is_none());
        }
        assert_eq!(scratch.open(now + 2 * 86_400_000).len(), 0);
    }

    #[test]
    fn a_file_torn_at_any_byte_keeps_its_whole_lines_and_takes_new_ones() {
        let (scratch, now) = (Scratch::new(), now_ms());
        let jobs = scratch.open(now);
        (1..=3).for_each(|n| assert!(jobs.remember(done(n, now))));
        drop(jobs);
        let whole = fs::read(scratch.file()).expect("read");
        let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        for cut in 0..=whole.len() {
            fs::write(scratch.file(), &whole[..cut]).expect("write");
            let jobs = scratch.open(now);
            let complete = ends.iter().filter(|&&end| end <= cut).count();
            assert_eq!(jobs.len(), complete, "cut at {cut}");
            assert!(jobs.remember(done(9, now)));
            drop(jobs);
            let jobs = scratch.open(now);
            assert_eq!(jobs.len(), complete + 1, "cut at {cut}");
            assert_eq!(jobs.lookup(&id(9)), Some(done(9, now)));
        }
    }

    #[test]
    fn a_flipped_bit_costs_one_line_and_never_shows_something_else() {
        let (scratch, now) = (Scratch::new(), now_ms());
        let jobs = scratch.open(now);
        (1..=2).for_each(|n| assert!(jobs.remember(done(n, now))));
        drop(jobs);
        let whole = fs::read(scratch.file()).expect("read");
        for bit in (0..whole.len() * 8).step_by(3) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(scratch.file(), &bytes).expect("write");
            let jobs = scratch.open(now);
            let found: Vec<Done> = [1, 2].iter().filter_map(|n| jobs.lookup(&id(*n))).collect();
            // Both lines are lost when the end of the first is.
            assert!(found.len() < 2 || bit % 8 == 5, "bit {bit}");
            assert!(found.iter().all(|d| *d == done(1, now) || *d == done(2, now)), "bit {bit}: {found:?}");
        }
    }

    #[test]
    fn half_a_line_that_a_full_disk_took_spoils_no_other() {
        let (scratch, now) = (Scratch::new(), now_ms());
        let jobs = scratch.open(now);
        assert!(jobs.remember(done(1, now)));
        let mut file = files::append(&scratch.file()).expect("open");
        file.write_all(&encode(&done(2, now))[..20]).expect("write");
        assert!(jobs.remember(done(3, now)));
        for jobs in [jobs, scratch.open(now)] {
            let known: Vec<_> = [1, 2, 3].iter().map(|n| jobs.lookup(&id(*n)).is_some()).collect();
            assert_eq!(known, [true, false, true]);
        }
    }

    #[test]
    fn count_and_file_stay_bounded() {
        let (scratch, now) = (Scratch::new(), now_ms());
        let jobs = scratch.open(now);
        {
            // Written in one go: a sync for each of fifty thousand would take minutes.
            let mut inner = lock(&jobs.inner);
            for n in 0..limits::DONE_JOBS {
                inner.insert(done(n, now - 1_000_000 + n as u64));
                if n % 500 == 0 {
                    inner.append_unwritten(&jobs.folder).expect("append");
                }
            }
            inner.append_unwritten(&jobs.folder).expect("append");
        }
        assert_eq!(jobs.len(), limits::DONE_JOBS);
        assert!(jobs.remember(done(limits::DONE_JOBS, now)));
        assert_eq!(jobs.len(), limits::DONE_JOBS + 1);
        assert!(jobs.remember(done(limits::DONE_JOBS, now)));
        assert_eq!(jobs.len(), limits::DONE_JOBS - limits::DONE_JOBS / 10);
        assert!(jobs.lookup(&id(0)).is_none() && jobs.lookup(&id(limits::DONE_JOBS)).is_some());
        // Lines of no use: those that gave way, and one job ended again and again.
        let lines = lock(&jobs.inner).lines;
        assert_eq!(lines, jobs.len(), "it was written anew");
        let count = jobs.len();
        drop(jobs);
        let jobs = scratch.open(now);
        assert_eq!(jobs.len(), count);
        assert_eq!(jobs.lookup(&id(40_000)), Some(done(40_000, now - 1_000_000 + 40_000)));
    }

    #[test]
    fn without_a_disk_memory_keeps_a_bounded_number() {
        let (scratch, now) = (Scratch::new(), now_ms());
        let jobs = scratch.open(now);
        assert!(jobs.remember(done(1, now)));
        // A folder in its place takes no writes.
        let elsewhere = scratch.0.join("elsewhere");
        fs::rename(scratch.file(), &elsewhere).expect("rename");
        fs::create_dir(scratch.file()).expect("a folder");
        for n in 2..limits::DONE_UNWRITTEN + 10 {
            assert!(!jobs.remember(done(n, now)));
        }
        assert_eq!(jobs.len(), 1 + limits::DONE_UNWRITTEN);
        assert_eq!(jobs.lookup(&id(2)), Some(done(2, now)));
        fs::remove_dir(scratch.file()).expect("remove");
        fs::rename(elsewhere, scratch.file()).expect("rename");
        assert!(jobs.remember(done(5001, now)));
        drop(jobs);
        let jobs = scratch.open(now);
        assert_eq!(jobs.lookup(&id(2)), Some(done(2, now)));
        assert_eq!(jobs.lookup(&id(5001)), Some(done(5001, now)));
    }

    #[test]
    fn a_line_stays_bounded_when_it_is_written_and_when_it_is_read() {
        let (scratch, now) = (Scratch::new(), now_ms());
        let jobs = scratch.open(now);
        // Each byte of the message is six in JSON; an odd backend's status makes the line too long.
        let odd = |n, status: &str| Done { message: "\u{1}".repeat(5000), status: status.to_owned(), ..done(n, now) };
        assert!(jobs.remember(odd(1, "failed")) && jobs.remember(odd(2, &"x".repeat(limits::DONE_LINE))));
        let text = fs::read_to_string(scratch.file()).expect("read");
        assert!(text.split_inclusive('\n').all(|line| line.len() <= limits::DONE_LINE), "{}", text.len());
        for jobs in [jobs, scratch.open(now)] {
            assert_eq!(jobs.lookup(&id(1)).map(|done| done.message.len()), Some(limits::DONE_MESSAGE));
            let cut = jobs.lookup(&id(2)).expect("remembered");
            assert_eq!((cut.status.as_str(), cut.message.as_str(), cut.exit_code), ("", "", 3));
        }
        // A line that nobody of us wrote is passed over in pieces, however long it is, and what comes after it is found.
        let long = Done { status: "x".repeat(limits::DONE_LINE), ..done(3, now) };
        let json = serde_json::to_string(&long).expect("JSON");
        let line = format!("{:08x} {json}\n", crc32::of(json.as_bytes()));
        fs::write(scratch.file(), [line.as_bytes(), &encode(&done(4, now))].concat()).expect("write");
        let jobs = scratch.open(now);
        assert_eq!((jobs.lookup(&id(3)), jobs.lookup(&id(4))), (None, Some(done(4, now))));
    }

    #[test]
    fn any_ending_is_read_as_it_was_written_and_any_line_does_no_harm() {
        let mut random = crate::wire::random::Random::new(17);
        let parts: [&[u8]; 8] = [b"a", b"\"", b"\\", b"\n", b"\0", b"\x7f", "\u{2028}".as_bytes(), "🦀".as_bytes()];
        for n in 0..2000 {
            let message = String::from_utf8(random.text(&parts, 60)).expect("text");
            let whole = [0, u64::from(u32::MAX), 1 << 63, u64::MAX][n % 4];
            let ended = Done { message, attempts: u32::MAX, exit_code: i32::MIN, ..done(n, whole) };
            let mut line = encode(&ended);
            assert_eq!(decode(&line).as_ref(), Some(&ended));
            let at = random.below(line.len());
            line[at] ^= 1 << random.below(8);
            // A digit of the checksum may be in upper case.
            assert!(decode(&line).is_none_or(|found| found == ended), "{}", line.escape_ascii());
        }
    }
}

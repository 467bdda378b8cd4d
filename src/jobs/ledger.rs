//! A job's page in the journal: written before what it announces is done, and kept up to date while the job runs.
//!
//! A [`Ledger`] is one job's; the [`Scribe`] is the thread that now and then writes down how far each job's output has
//! come. A disk that takes nothing stops no job: it runs on, and the agent claims no other.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::executors::{Facts, Task};
use crate::job::{Id, Job, Language};
use crate::jobs::journal::{
    Container, Delivered, Ended, Entry, Journal, JournalError, Part, PartEnd, Place, Report, Server, Stage, Started,
    now_ms,
};
use crate::jobs::outbox::Tried;
use crate::jobs::output::Progress;
use crate::limits;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};

/// One job's page.
#[derive(Debug)]
pub struct Ledger {
    journal: Journal,
    entry: Mutex<Entry>,
    progress: Arc<Progress>,
    /// How far the output of each of several servers has come, by its place in the list.
    parts: Mutex<BTreeMap<usize, Arc<Progress>>>,
    pace: Mutex<PaceOfNumbers>,
    doubted: AtomicBool,
}

/// How many numbers the lines of a job on several servers take from one note to the next.
#[derive(Debug, Default)]
struct PaceOfNumbers {
    noted: u64,
    most: u64,
}

impl Ledger {
    /// Writes that the job is about to be made. After an error it must not be: nobody would find it again.
    pub fn intend(
        journal: &Journal,
        task: &Task,
        container: impl Fn(&Id) -> String,
        progress: Arc<Progress>,
    ) -> Result<Self, JournalError> {
        let place = match &task.server {
            None => Place::Container(Container {
                name: container(&task.execution),
                image: String::new(),
                memory: 0,
                pids: 0,
                disk: 0,
                cpu: 0.0,
            }),
            Some(server) => Place::Servers(vec![page_of(server, String::new(), &task.execution)]),
        };
        let ledger = Self::of(journal, &task.job, &task.execution, place, progress);
        ledger.write()?;
        Ok(ledger)
    }

    /// Writes the page as it is now.
    pub fn write(&self) -> Result<(), JournalError> {
        self.journal.put(&self.lock())
    }

    /// A page that is not on disk yet.
    pub fn of(journal: &Journal, job: &Job, execution: &Id, place: Place, progress: Arc<Progress>) -> Self {
        let language = Some(job.script.language);
        let entry = blank(&job.id, execution, job.kind, job.attempts, language, place);
        Self::found(journal, entry, progress)
    }

    /// The page of a job that an earlier agent began.
    pub fn found(journal: &Journal, entry: Entry, progress: Arc<Progress>) -> Self {
        Self {
            journal: journal.clone(),
            entry: Mutex::new(entry),
            progress,
            parts: Mutex::default(),
            pace: Mutex::default(),
            doubted: AtomicBool::new(false),
        }
    }

    /// An earlier agent may have reported the job without its page saying so.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// What is known of earlier tries to report it.
    pub fn tried(&self) -> Tried {
        if self.doubted.load(Ordering::Relaxed) { Tried::lost() } else { Tried::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Entry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes that the job may be running from now on.
    ///
    /// After an error it must not be started: its page says that it was not, and the next agent would run it again.
    pub fn start(&self, facts: &Facts) -> Result<(), JournalError> {
        let mut entry = self.lock();
        let (after, name) = facts.timeout;
        match &mut entry.place {
            Place::Container(container) => {
                container.image.clone_from(&facts.image);
                if let Some(limits) = facts.limits {
                    (container.memory, container.pids) = (limits.memory, limits.pids);
                    (container.disk, container.cpu) = (limits.disk, limits.cpu);
                }
            }
            Place::Servers(servers) => servers.iter_mut().for_each(|server| server.directory.clone_from(&facts.place)),
            Place::Nowhere => {}
        }
        let mut delivered = self.progress.delivered();
        if is_of_several(&entry) {
            delivered.sequence = self.numbers_from();
        }
        entry.stage = Stage::Started(started_now((after, name), delivered));
        self.journal.put(&entry)
    }

    /// Writes how far the output has come, if that has changed.
    pub fn note(&self) {
        let given = self.progress.given();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.most = pace.most.max(given.saturating_sub(pace.noted));
        pace.noted = given;
        drop(pace);
        self.note_with(|| self.numbers_from());
    }

    /// The same when no more output comes.
    pub fn note_last(&self) {
        self.note_with(|| self.progress.given());
    }

    /// The number after which the next agent goes on with the lines of several servers. Which line had which number is
    /// not known after a kill, since they came side by side: it takes numbers that no line can have had.
    fn numbers_from(&self) -> u64 {
        let most = self.pace.lock().unwrap_or_else(PoisonError::into_inner).most;
        self.progress.given() + limits::SSH_NUMBERS_AHEAD.max(most.saturating_mul(2))
    }

    fn note_with(&self, number: impl Fn() -> u64) {
        let mut entry = self.lock();
        // The servers' own places first: a line between the two looks is sent twice rather than left out.
        let moved = self.note_parts(&mut entry);
        let mut delivered = self.progress.delivered();
        if is_of_several(&entry) {
            delivered.sequence = number();
        }
        let Stage::Started(started) = &mut entry.stage else { return };
        if moved || started.delivered != delivered {
            started.delivered = delivered;
            self.put(&entry);
        }
    }

    fn note_parts(&self, entry: &mut Entry) -> bool {
        let Place::Servers(pages) = &mut entry.place else { return false };
        let mut moved = false;
        for (at, progress) in self.parts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(Part::Started(started)) = pages.get_mut(*at).map(|page| &mut page.part) {
                let delivered = progress.delivered();
                moved |= started.delivered != delivered;
                started.delivered = delivered;
            }
        }
        moved
    }

    /// Writes that the script may be running on the server at this place of the list. After an error it must not be sent
    /// there: the next agent would start it once more.
    pub fn part_starts(&self, at: usize, facts: &Facts, progress: Arc<Progress>) -> Result<(), JournalError> {
        let started = started_now(facts.timeout, progress.delivered());
        self.part_goes_on(at, progress);
        self.part(at, Part::Started(started), Some(&facts.place))
    }

    /// The same server's output goes on from where an earlier agent had it.
    pub fn part_goes_on(&self, at: usize, progress: Arc<Progress>) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(at, progress);
    }

    /// Writes how far the server at this place has come otherwise.
    pub fn part_is(&self, at: usize, part: Part) {
        if let Err(error) = self.part(at, part, None) {
            log::error!("job {} goes on without its page in the journal: {error}", self.job());
        }
    }

    /// Writes that it has ended on the server at this place, where its folder goes next if it `remains`.
    pub fn part_ended(&self, at: usize, end: PartEnd, remains: bool) {
        self.set_remains(|place, page| place == at && remains || page.remains);
        self.part_is(at, Part::Ended(end));
    }

    /// The folder on the server at this place is gone, or was tried to be removed: on disk with whatever is written next.
    pub fn part_is_clear(&self, at: usize) {
        self.set_remains(|place, page| place != at && page.remains);
    }

    fn set_remains(&self, remains: impl Fn(usize, &Server) -> bool) {
        if let Place::Servers(pages) = &mut self.lock().place {
            pages.iter_mut().enumerate().for_each(|(at, page)| page.remains = remains(at, page));
        }
    }

    fn part(&self, at: usize, part: Part, directory: Option<&str>) -> Result<(), JournalError> {
        let mut entry = self.lock();
        // Where it is not: the job is over, and its page is the outbox's now.
        let Stage::Started(started) = &mut entry.stage else { return Ok(()) };
        started.delivered.sequence = self.numbers_from();
        if let Place::Servers(pages) = &mut entry.place
            && let Some(page) = pages.get_mut(at)
        {
            page.part = part;
            if let Some(directory) = directory {
                directory.clone_into(&mut page.directory);
            }
        }
        self.journal.put(&entry)
    }

    /// Whether nothing was sent to any of several servers.
    pub fn nothing_begun(&self) -> bool {
        let entry = self.lock();
        let Place::Servers(pages) = &entry.place else { return false };
        pages.iter().all(|page| matches!(page.part, Part::Waiting { .. }))
    }

    /// The job whose page it is.
    pub fn job(&self) -> Id {
        self.lock().job.clone()
    }

    /// The page with the report on it, of a job of which something `remains` until that is on disk; nothing is written
    /// here any more.
    pub fn end(&self, report: Report, remains: bool) -> Entry {
        self.set_remains(|_, page| page.remains || (remains && page.part == Part::OfJob));
        let mut entry = self.lock();
        // Not `Started` any more, so that the scribe writes nothing over the report, which may be large and is not kept.
        entry.stage = Stage::Intent;
        let stage = Stage::Ended(Ended { report, since_ms: now_ms() });
        Entry { stage, ..entry.clone() }
    }

    /// Writes that it was not started after all.
    pub fn back(&self) {
        let mut entry = self.lock();
        entry.stage = Stage::Intent;
        self.put(&entry);
    }

    /// Takes the page out: the job is not ours, or it went back to the queue.
    pub fn forget(&self) {
        let entry = self.lock();
        self.journal.remove(&entry.job);
    }

    fn put(&self, entry: &Entry) {
        if let Err(error) = self.journal.put(entry) {
            log::error!("job {} goes on without its page in the journal: {error}", entry.job);
        }
    }
}

/// A page of a job that did not get far enough to have one.
pub fn blank(
    job: &Id,
    execution: &Id,
    kind: crate::job::Kind,
    attempts: u32,
    language: Option<Language>,
    place: Place,
) -> Entry {
    Entry {
        job: job.clone(),
        execution: execution.clone(),
        kind,
        attempts,
        language,
        claimed_ms: now_ms(),
        place,
        stage: Stage::Intent,
    }
}

/// What the journal keeps of a server: how to find it again, not how to log in.
pub fn page_of(server: &crate::job::Server, directory: String, execution: &Id) -> Server {
    Server {
        name: server.name.clone(),
        server_id: server.id.clone().unwrap_or_default(),
        host: server.host.clone(),
        port: server.port,
        user: server.user.clone(),
        directory,
        execution: execution.clone(),
        part: Part::OfJob,
        remains: false,
    }
}

fn is_of_several(entry: &Entry) -> bool {
    matches!(&entry.place, Place::Servers(pages) if pages.iter().any(|page| page.part != Part::OfJob))
}

fn started_now((after, name): (Duration, &str), delivered: Delivered) -> Started {
    let (now, after) = (now_ms(), u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    Started {
        id: None,
        started_ms: now,
        deadline_ms: now.saturating_add(after),
        timeout_name: name.to_owned(),
        timeout_ms: after,
        boot_id: boot_id(),
        delivered,
    }
}

/// The kernel's id of this boot.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Writes down how far the output of each job has come. Shared by clones.
#[derive(Debug, Clone, Default)]
pub struct Scribe {
    pages: Arc<Mutex<Vec<Weak<Ledger>>>>,
    stop: Stop,
}

impl Scribe {
    /// Starts the thread `scribe`.
    pub fn start() -> std::io::Result<(Self, Thread)> {
        let scribe = Self::default();
        let own = scribe.clone();
        let thread = threads::spawn("scribe", move || own.run(limits::PROGRESS_EVERY))?;
        Ok((scribe, thread))
    }

    /// Sees to one more page, for as long as somebody else holds it.
    pub fn keep(&self, ledger: &Arc<Ledger>) {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(ledger));
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.stop.set();
    }

    fn run(&self, every: Duration) {
        while !self.stop.wait(every) {
            let pages: Vec<Arc<Ledger>> = {
                let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
                pages.retain(|page| page.strong_count() > 0);
                pages.iter().filter_map(Weak::upgrade).collect()
            };
            pages.iter().for_each(|page| page.note());
        }
    }
}

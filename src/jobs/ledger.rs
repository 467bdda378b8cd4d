//! A job's page in the journal: written before what it announces is done, and kept up to date while the job runs.
//!
//! A [`Ledger`] is one job's; the [`Scribe`] is the thread that now and then writes down how far each job's output has
//! come. A disk that takes nothing stops no job: it runs on, and the agent claims no other.

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::executors::{Facts, Task};
use crate::job::{Id, Job, Language};
use crate::jobs::journal::{
    Container, Ended, Entry, Journal, JournalError, Place, Report, Server, Stage, Started, now_ms,
};
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
        journal.put(&ledger.lock())?;
        Ok(ledger)
    }

    /// A page that is not on disk yet.
    pub fn of(journal: &Journal, job: &Job, execution: &Id, place: Place, progress: Arc<Progress>) -> Self {
        let language = Some(job.script.language);
        let entry = blank(&job.id, execution, job.kind, job.attempts, language, place);
        Self { journal: journal.clone(), entry: Mutex::new(entry), progress }
    }

    /// The page of a job that an earlier agent began.
    pub fn found(journal: &Journal, entry: Entry, progress: Arc<Progress>) -> Self {
        Self { journal: journal.clone(), entry: Mutex::new(entry), progress }
    }

    fn lock(&self) -> MutexGuard<'_, Entry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes that the job may be running from now on.
    pub fn start(&self, facts: &Facts) {
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
        let now = now_ms();
        entry.stage = Stage::Started(Started {
            id: None,
            started_ms: now,
            deadline_ms: now.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            timeout_name: name.to_owned(),
            timeout_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
            boot_id: boot_id(),
            delivered: self.progress.delivered(),
        });
        self.put(&entry);
    }

    /// Writes how far the output has come, if that has changed.
    pub fn note(&self) {
        let mut entry = self.lock();
        let delivered = self.progress.delivered();
        let Stage::Started(started) = &mut entry.stage else { return };
        if started.delivered != delivered {
            started.delivered = delivered;
            self.put(&entry);
        }
    }

    /// The job whose page it is.
    pub fn job(&self) -> Id {
        self.lock().job.clone()
    }

    /// The page with the report on it; nothing is written here any more.
    pub fn end(&self, report: Report) -> Entry {
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

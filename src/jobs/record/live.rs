//! The record of a job that runs: each step is on disk before the agent does what it announces.
//!
//! A [`JobRecord`] is one job's. [`Checkpoints`] is the thread that writes down every few seconds how far each job's
//! output has come. A disk that takes nothing stops no job: the job runs on, and the agent claims no other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{
    Ended, Entry, HelperState, Part, PartEnd, Place, RecordError, RecordStore, Report, Server, Stage, Started, State,
    now_ms,
};
use crate::executors::helpers::are_used_by;
use crate::executors::{ReattachInfo, Task};
use crate::job::{Id, Language, ScriptResult};
use crate::jobs::record::logins::{self, Logins};
use crate::jobs::record::outbox::Tried;
use crate::jobs::resume::{Progress, ResumePoint};
use crate::limits;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::os::{clock, proc};
use crate::signing::receipt::Facts;

/// The record of one job.
#[derive(Debug)]
pub struct JobRecord {
    records: RecordStore,
    live: Mutex<Live>,
    progress: Arc<Progress>,
    /// How far the output of each of several servers has come, by its place in the list.
    parts: Mutex<BTreeMap<usize, Arc<Progress>>>,
    doubted: AtomicBool,
    /// When calls of the agent that began the job have ended.
    settled: Option<Instant>,
}

#[derive(Debug)]
struct Live {
    entry: Entry,
    /// `Ended` once the outbox has the report, which may be large and is not kept here.
    state: State,
}

impl JobRecord {
    /// Claimed → Intent: the job is about to be made. After an error it must not be: nobody would find it again. `secrets`
    /// are sealed.
    pub fn intend(
        records: &RecordStore,
        task: &Task,
        (place, secrets, receipt): (Place, String, Option<Facts>),
        progress: Arc<Progress>,
    ) -> Result<Self, RecordError> {
        let job = &task.job;
        let language = job.http.is_none().then_some(job.script.language);
        let mut entry = blank(&job.id, &task.execution, job.kind, job.attempts, language, place);
        entry.helpers = are_used_by(job).then(|| HelperState { event: job.event.clone(), ..HelperState::default() });
        (entry.secrets, entry.receipt) = (Some(secrets), receipt);
        let record = Self::claimed(records, entry, progress);
        record.advance(&mut record.lock(), State::Intent, Stage::Intent)?;
        Ok(record)
    }

    /// The record of a job that is not on disk yet.
    pub fn claimed(records: &RecordStore, entry: Entry, progress: Arc<Progress>) -> Self {
        Self::of(records, Live { entry, state: State::Claimed }, progress)
    }

    /// The record of a job that an earlier agent began.
    pub fn adopted(records: &RecordStore, entry: Entry, progress: Arc<Progress>) -> Self {
        let state = entry.stage.state();
        let settled = entry.has_updates.then(|| clock::now() + limits::EARLIER_CALLS);
        Self { settled, ..Self::of(records, Live { entry, state }, progress) }
    }

    fn of(records: &RecordStore, live: Live, progress: Arc<Progress>) -> Self {
        let (live, parts) = (Mutex::new(live), Mutex::default());
        Self { records: records.clone(), live, progress, parts, doubted: AtomicBool::new(false), settled: None }
    }

    /// The only way from one state to the next.
    fn advance(&self, live: &mut Live, to: State, stage: Stage) -> Result<(), RecordError> {
        if !live.state.may_become(to) {
            return Err(RecordError::Step { job: live.entry.job.clone(), from: live.state, to });
        }
        live.entry.stage = stage;
        self.records.put(&live.entry)?;
        live.state = to;
        Ok(())
    }

    /// An earlier agent may have reported the job without its record saying so.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// What is known of earlier tries to report it.
    pub fn tried(&self) -> Tried {
        let tried = if self.doubted.load(Ordering::Relaxed) { Tried::lost() } else { Tried::default() };
        self.settled.map_or(tried, |settled| tried.after(settled))
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Intent → Started: the job may be running from now on. `has_updates`: its lines go to its page by updates.
    ///
    /// After an error it must not be started: its record says that it was not, and the next agent would run it again.
    pub fn start(&self, info: &ReattachInfo, has_updates: bool) -> Result<(), RecordError> {
        let mut live = self.lock();
        live.entry.has_updates = has_updates;
        let (after, name) = info.timeout;
        match &mut live.entry.place {
            Place::Container(container) => {
                container.image.clone_from(&info.image);
                container.warm = info.warm.as_ref().map(|warm| warm.id.clone());
                if let Some(limits) = info.limits {
                    (container.memory, container.pids) = (limits.memory, limits.pids);
                    (container.disk, container.cpu) = (limits.disk, limits.cpu);
                }
            }
            Place::Servers(servers) => servers.iter_mut().for_each(|server| server.directory.clone_from(&info.place)),
            Place::Nowhere => {}
        }
        let resume = self.point(&live.entry, Progress::number_ahead);
        self.advance(&mut live, State::Started, Stage::Started(started_now((after, name), resume)))
    }

    /// Writes how far the output has come, if that has changed.
    pub fn note(&self) {
        self.progress.measure();
        self.note_with(Progress::number_ahead);
    }

    /// The same when no more output comes.
    pub fn note_last(&self) {
        self.note_with(Progress::last_number);
    }

    /// Where the next agent goes on. `number` gives the number of the last line where several servers print side by side.
    fn point(&self, entry: &Entry, number: fn(&Progress) -> u64) -> ResumePoint {
        let point = self.progress.point();
        if is_of_several(entry) { ResumePoint { sequence: number(&self.progress), ..point } } else { point }
    }

    fn note_with(&self, number: fn(&Progress) -> u64) {
        let mut live = self.lock();
        if live.state != State::Started {
            return;
        }
        // The servers' own points first: a line between the two looks is sent twice rather than left out.
        let moved = self.note_parts(&mut live.entry);
        let resume = self.point(&live.entry, number);
        let Stage::Started(started) = &mut live.entry.stage else { return };
        if moved || started.resume != resume {
            started.resume = resume;
            self.put(&live.entry);
        }
    }

    fn note_parts(&self, entry: &mut Entry) -> bool {
        let Place::Servers(pages) = &mut entry.place else { return false };
        let mut moved = false;
        for (at, progress) in self.parts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(Part::Started(started)) = pages.get_mut(*at).map(|page| &mut page.part) {
                let resume = progress.point();
                moved |= started.resume != resume;
                started.resume = resume;
            }
        }
        moved
    }

    /// Writes that the script may be running on the server at this place of the list. After an error it must not be sent
    /// there: the next agent would start it once more.
    pub fn part_starts(&self, at: usize, info: &ReattachInfo, progress: Arc<Progress>) -> Result<(), RecordError> {
        let started = started_now(info.timeout, progress.point());
        self.part_goes_on(at, progress);
        self.part(at, Part::Started(started), Some(&info.place))
    }

    /// The same server's output goes on from where an earlier agent had it.
    pub fn part_goes_on(&self, at: usize, progress: Arc<Progress>) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(at, progress);
    }

    /// Writes how far the server at this place has come otherwise; whether that is on disk.
    pub fn part_is(&self, at: usize, part: Part) -> bool {
        let result = self.part(at, part, None);
        // A server that is heard of after the report: the record is the outbox's now.
        if let Err(error) = &result
            && !matches!(error, RecordError::Step { from: State::Ended, .. })
        {
            log::error!("job {} goes on without its page in the records: {error}", self.job());
        }
        result.is_ok()
    }

    /// Writes that it has ended on the server at this place, where its folder goes next if it `remains`; whether that is
    /// on disk.
    pub fn part_ended(&self, at: usize, end: PartEnd, remains: bool) -> bool {
        self.set_remains(|place, page| place == at && remains || page.remains);
        self.part_is(at, Part::Ended(end))
    }

    /// Whether it has not ended there.
    pub fn part_is_open(&self, at: usize) -> bool {
        let live = self.lock();
        let Place::Servers(pages) = &live.entry.place else { return false };
        pages.get(at).is_some_and(|page| matches!(page.part, Part::Waiting { .. } | Part::Started(_)))
    }

    /// Writes that the backend has the record of the server at this place, unless the script is there: then that is known.
    pub fn part_has_record(&self, at: usize) {
        self.change_part(at, |part| match part {
            Part::Waiting { record } => !std::mem::replace(record, true),
            Part::OfJob | Part::Started(_) | Part::Ended(_) => false,
        });
    }

    /// Writes that nothing is owed any more to the record of the server at this place.
    pub fn part_is_taken(&self, at: usize) {
        self.change_part(at, |part| match part {
            Part::Ended(end) => end.owed.take().is_some(),
            Part::OfJob | Part::Waiting { .. } | Part::Started(_) => false,
        });
    }

    /// Changes the page of a server; `change` says whether there is anything to write.
    fn change_part(&self, at: usize, change: impl FnOnce(&mut Part) -> bool) {
        let mut live = self.lock();
        if live.state != State::Started {
            return;
        }
        if let Place::Servers(pages) = &mut live.entry.place
            && pages.get_mut(at).is_some_and(|page| change(&mut page.part))
        {
            self.put(&live.entry);
        }
    }

    /// Bytes of the updates that are owed to the records of the job's servers.
    pub fn owes(&self) -> usize {
        let live = self.lock();
        let Place::Servers(pages) = &live.entry.place else { return 0 };
        pages.iter().map(|page| page.owed().map_or(0, str::len)).sum()
    }

    /// The folder on the server at this place is gone, or was tried to be removed: on disk with whatever is written next.
    pub fn part_is_clear(&self, at: usize) {
        self.set_remains(|place, page| place != at && page.remains);
    }

    fn set_remains(&self, remains: impl Fn(usize, &Server) -> bool) {
        if let Place::Servers(pages) = &mut self.lock().entry.place {
            pages.iter_mut().enumerate().for_each(|(at, page)| page.remains = remains(at, page));
        }
    }

    fn part(&self, at: usize, part: Part, directory: Option<&str>) -> Result<(), RecordError> {
        let mut live = self.lock();
        if live.state != State::Started {
            return Err(RecordError::Step { job: live.entry.job.clone(), from: live.state, to: State::Started });
        }
        if let Stage::Started(started) = &mut live.entry.stage {
            started.resume.sequence = self.progress.number_ahead();
        }
        if let Place::Servers(pages) = &mut live.entry.place
            && let Some(page) = pages.get_mut(at)
        {
            page.part = part;
            if let Some(directory) = directory {
                directory.clone_into(&mut page.directory);
            }
        }
        self.records.put(&live.entry)
    }

    /// Whether nothing was sent to any of several servers.
    pub fn nothing_begun(&self) -> bool {
        let live = self.lock();
        let Place::Servers(pages) = &live.entry.place else { return false };
        pages.iter().all(|page| matches!(page.part, Part::Waiting { .. }))
    }

    /// Whether the script uses helpers.
    pub fn has_helpers(&self) -> bool {
        self.lock().entry.helpers.is_some()
    }

    /// The script's result so far.
    pub fn result(&self) -> ScriptResult {
        self.lock().entry.helpers.as_ref().map(|helpers| helpers.result.clone()).unwrap_or_default()
    }

    /// Changes the result of a script that runs. After `Ok` it is on disk, and so it will be in the job's report.
    pub fn set_result(&self, change: &dyn Fn(&mut ScriptResult)) -> Result<(), RecordError> {
        let mut live = self.lock();
        if live.state != State::Started {
            return Err(RecordError::Step { job: live.entry.job.clone(), from: live.state, to: State::Started });
        }
        let before = live.entry.helpers.clone();
        change(&mut live.entry.helpers.get_or_insert_default().result);
        let written = self.records.put(&live.entry);
        if written.is_err() {
            // The script gets an error, so the report must not hold the change.
            live.entry.helpers = before;
        }
        written
    }

    /// There are more secrets now. After `Ok` they are on disk, sealed.
    pub fn keep_secrets(&self, sealed: String) -> Result<(), RecordError> {
        let mut live = self.lock();
        if live.state != State::Started {
            return Err(RecordError::Step { job: live.entry.job.clone(), from: live.state, to: State::Started });
        }
        live.entry.secrets = Some(sealed);
        self.records.put(&live.entry)
    }

    /// There is more to say in its receipt. It is on disk with whatever is written next.
    pub fn note_facts(&self, facts: Facts) {
        self.lock().entry.receipt.get_or_insert_default().extend(facts);
    }

    /// All that its receipt can say by now.
    pub fn facts(&self) -> Facts {
        let live = self.lock();
        let entry = &live.entry;
        let mut facts = entry.receipt.clone().unwrap_or_default();
        let own = [
            ("job", entry.job.to_string()),
            ("execution", entry.execution.to_string()),
            ("kind", entry.kind.as_str().to_owned()),
            ("language", entry.language.map_or(String::new(), |language| language.as_str().to_owned())),
        ];
        facts.extend(own.map(|(name, value)| (name.to_owned(), value)));
        facts
    }

    /// The job whose page it is.
    pub fn job(&self) -> Id {
        self.lock().entry.job.clone()
    }

    /// → Ended: the record with the report on it, for the outbox, which puts it on disk. `remains`: something of the job
    /// is to be removed after that. Nothing is written here any more.
    pub fn end(&self, mut report: Report, remains: bool) -> Entry {
        self.set_remains(|_, page| page.remains || (remains && page.part == Part::OfJob));
        let mut live = self.lock();
        live.state = State::Ended;
        if let Place::Servers(pages) = &mut live.entry.place {
            let owed = pages.iter_mut().filter_map(Server::take_owed);
            report.owed.extend(owed);
        }
        let stage = Stage::Ended(Ended { report, since_ms: now_ms() });
        // The report has it.
        (live.entry.helpers, live.entry.secrets, live.entry.receipt) = (None, None, None);
        Entry { stage, ..live.entry.clone() }
    }

    /// Started → Intent: it was not started after all.
    pub fn never_ran(&self) {
        let mut live = self.lock();
        if let Err(error) = self.advance(&mut live, State::Intent, Stage::Intent) {
            log::error!("job {}: its record does not say that it never ran: {error}", live.entry.job);
        }
    }

    fn put(&self, entry: &Entry) {
        if let Err(error) = self.records.put(entry) {
            log::error!("job {} goes on without its page in the records: {error}", entry.job);
        }
    }
}

/// The first record of a job.
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
        has_updates: false,
        helpers: None,
        secrets: None,
        receipt: None,
    }
}

/// What a record keeps of a server: how to find it again, and, sealed, how to log in.
pub fn page_of(server: &crate::job::Server, directory: String, execution: &Id, logins: &Logins) -> Server {
    let place = logins::of(execution.as_str(), &server.user, &server.host, server.port);
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
        login: logins.seal(server, &place),
    }
}

fn is_of_several(entry: &Entry) -> bool {
    matches!(&entry.place, Place::Servers(pages) if pages.iter().any(|page| page.part != Part::OfJob))
}

fn started_now((after, name): (Duration, &str), resume: ResumePoint) -> Started {
    let (now, after) = (now_ms(), u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    Started {
        id: None,
        started_ms: now,
        deadline_ms: now.saturating_add(after),
        timeout_name: name.to_owned(),
        timeout_ms: after,
        boot_id: boot_id(),
        resume,
    }
}

/// The kernel's id of this boot.
pub fn boot_id() -> String {
    proc::text("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Writes down how far the output of each job has come. Shared by clones.
#[derive(Debug, Clone, Default)]
pub struct Checkpoints {
    records: Arc<Mutex<Vec<Weak<JobRecord>>>>,
    stop: Stop,
}

impl Checkpoints {
    /// Starts the thread `checkpoints`.
    pub fn start() -> std::io::Result<(Self, Thread)> {
        let checkpoints = Self::default();
        let own = checkpoints.clone();
        let thread = threads::spawn("checkpoints", move || own.run(limits::PROGRESS_EVERY))?;
        Ok((checkpoints, thread))
    }

    /// Sees to one more record, for as long as somebody else holds it.
    pub fn keep(&self, record: &Arc<JobRecord>) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(record));
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.stop.set();
    }

    fn run(&self, every: Duration) {
        while !self.stop.wait(every) {
            let all: Vec<Arc<JobRecord>> = {
                let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
                records.retain(|record| record.strong_count() > 0);
                records.iter().filter_map(Weak::upgrade).collect()
            };
            all.iter().for_each(|record| record.note());
        }
    }
}

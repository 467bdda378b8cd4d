//! Adopts the jobs that an earlier agent began: finds each again, goes on with it, and reports it.
//!
//! The reconciler hands each job here. A job whose record says `Intent` never started and goes back to the queue. A started
//! one is looked for where it runs: a container by its name in the engine, a script on a server by its folder there, for
//! which the backend must still give the login. It keeps its deadline: time without an agent counts. Each has a thread,
//! `job-adopted`, so that no worker waits for a server that is away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::executors::{AdoptError, CleanupGuard, Control, End, Prepared};
use crate::job::{Kind, Server};
use crate::jobs::conclude::{broken, conclude, deliver, ended, unrun};
use crate::jobs::context::JobContext;
use crate::jobs::ending::{Left, Life, Unreported};
use crate::jobs::fanout;
use crate::jobs::helpers::Session;
use crate::jobs::output::JobOutput;
use crate::jobs::poller::{Busy, Slots};
use crate::jobs::reattach::{Waits, asked, login, reattach_info, task_of};
use crate::jobs::receipts::adopted;
use crate::jobs::record::outbox::Tried;
use crate::jobs::record::{Entry, Part, Place, Stage, Started, now_ms};
use crate::jobs::record::{JobRecord, boot_id};
use crate::jobs::running::{Note, Step, Token};
use crate::limits;
use crate::metrics;
use crate::os::clock;
use crate::os::threads::{self, Thread};
use crate::telemetry;
use crate::verdict::{Phase, Verdict};

/// Goes on with jobs of an earlier run. Shared by clones.
#[derive(Clone)]
pub struct Adopter {
    context: Arc<JobContext>,
    slots: Slots,
    threads: Arc<Mutex<Vec<Thread>>>,
}

/// Where a job of an earlier run is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    ByRecord,
    /// Its record is lost. `doubted`: its report may have been sent before.
    ByLabels {
        doubted: bool,
    },
}

impl Adopter {
    /// Nothing is adopted yet.
    pub fn new(context: &Arc<JobContext>, slots: &Slots) -> Self {
        Self { context: Arc::clone(context), slots: slots.clone(), threads: Arc::default() }
    }

    /// Starts a thread that goes on with the job. False where there is none for it now.
    pub fn adopt(&self, entry: Entry, known: Known) -> bool {
        let Some(token) = self.context.running.claim(&entry.job) else { return true };
        // More than there are workers when there are fewer now: then the poller waits until all have ended.
        let slot = self.slots.busy();
        let (job, own) = (entry.job.clone(), Arc::clone(&self.context));
        match threads::spawn("job-adopted", move || one(&own, entry, known, token, slot)) {
            Ok(thread) => {
                self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
                true
            }
            Err(error) => {
                log::error!("job {job} of an earlier run waits for a thread: {error}");
                false
            }
        }
    }

    /// Waits for the threads, for each at most so long.
    pub fn join(&self, wait: Duration) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            thread.join_within(wait);
        }
    }
}

fn one(context: &Arc<JobContext>, mut entry: Entry, known: Known, token: Token, _slot: Option<Busy>) {
    context.secrets.know_own(token.redactor());
    let _context = telemetry::context(&entry.job, &entry.execution, token.redactor());
    let _watched = context.watched("adopted job");
    let begun = clock::now();
    let kind = entry.kind;
    token.note(Note::Kind(kind));
    token.note(Note::Execution(entry.execution.clone()));
    token.note(Note::Place(place_of(&entry)));
    if matches!(&entry.place, Place::Container(page) if page.warm.is_some()) {
        token.note(Note::Warm);
    }
    token.step(Step::Running);
    let clamped = entry.clamp_deadlines(now_ms());
    if clamped {
        log::warn!("by this host's clock the job had longer than its whole time limit, which begins anew now");
    }
    if (clamped || known != Known::ByRecord)
        && let Err(error) = context.records.put(&entry)
    {
        log::error!("the job goes on without its record on disk: {error}");
    }
    let execution = entry.execution.clone();
    let left = match entry.stage.clone() {
        Stage::Started(started) => {
            metrics::JOBS_ACTIVE.add(1);
            let life = go_on(context, entry, started, known, &token);
            metrics::JOBS_ACTIVE.add(-1);
            life.map(|reported| reported.counted(kind, begun, &token))
        }
        Stage::Intent => give_back(context, &entry, &token),
        Stage::Ended(_) => report_again(context, entry, &token),
    };
    context.finish(token, &execution, left);
}

/// A job that never started: its container is removed, then it goes back to the queue.
fn give_back(context: &JobContext, entry: &Entry, token: &Token) -> Result<Left, Unreported> {
    const WHY: Unreported = Unreported::GiveBack("the agent was restarted before the job had started");
    if entry.kind != Kind::Container {
        // A script or a request whose record says `Intent` was never sent anywhere.
        return Err(WHY);
    }
    let control = context.control(token);
    let (task, info) = (task_of(entry, None), reattach_info(entry, None));
    let mut waits = Waits::default();
    loop {
        match context.containers.adopt(&task, &info, Duration::ZERO, &control) {
            // Its record says that it was not started, so somebody else started it. It is removed.
            Ok(there) => drop(there),
            Err(AdoptError::NotStarted(_) | AdoptError::Gone(_)) => {}
            Err(AdoptError::Unreachable(why)) => {
                waits.say(why);
                if control.is_detached() || context.stop.wait(limits::ADOPT_AGAIN) {
                    return Err(Unreported::LeftToNext);
                }
                continue;
            }
        }
        return Err(WHY);
    }
}

/// A job whose report is on disk and whose folders may still be on servers. Its record, with the logins, is gone once the
/// report is taken, and the backend forgets them then too. So they are looked for first.
fn report_again(context: &JobContext, entry: Entry, token: &Token) -> Result<Left, Unreported> {
    token.step(Step::Reporting);
    let control = context.control(token);
    let mut folders = Vec::new();
    if let Place::Servers(pages) = &entry.place {
        let needs = fanout::needs_backend(pages, &context.logins);
        let job = if needs { asked(context, &entry, || control.is_detached())? } else { None };
        let each = pages.iter().enumerate();
        for (server, directory) in
            each.filter_map(|(at, page)| fanout::remains_of(job.as_deref(), at, page, &context.logins))
        {
            log::warn!("an earlier run of this agent had not removed {directory} on {}", server.shown());
            folders.push(context.servers.cleanup(&server, &directory));
        }
    }
    let cleanup = CleanupGuard::of(folders);
    if context.records.done().lookup(&entry.job).is_some_and(|done| done.attempts >= entry.attempts) {
        return Err(Unreported::Forget);
    }
    // It may have been sent before: the outbox asks the backend for that.
    let tried = Tried::unknown().after(clock::now() + limits::EARLIER_CALLS);
    Ok(deliver(&context.outbox, entry, (tried, None), cleanup))
}

/// Goes on with a job that was started.
fn go_on(context: &Arc<JobContext>, entry: Entry, started: Started, known: Known, token: &Token) -> Life {
    if matches!(&entry.place, Place::Servers(pages) if pages.len() != 1 || pages[0].part != Part::OfJob) {
        recall(context, &entry, token)?;
        return fanout::go_on(context, entry, &started, token);
    }
    let lost = if known == Known::ByRecord { "" } else { ", whose record is lost" };
    log::warn!("an earlier run of this agent had started the job{lost}; going on with it");
    let control = context.control(token);
    // It began under an earlier agent. Where this one ends already, it is left as it is.
    let _ = control.begin();
    recall(context, &entry, token)?;
    let live = context.streamer.open_after(&entry.job, started.resume.sequence);
    let kept = context.config.now().jobs.max_output;
    let mut output = JobOutput::resume(kept, live, started.resume, token.redactor());
    if token.redactor().is_blind() {
        output.announce(BLIND);
    }
    let found = find(context, &entry, &started, &control);
    let server = match &found {
        Ok((_, server)) => server.clone(),
        Err(_) => None,
    };
    let mut task = task_of(&entry, server);
    let record = Arc::new(JobRecord::adopted(&context.records, entry, output.progress()));
    context.receipts.note(&record, adopted);
    let helpers = context.helpers_of(&task, &record, token.redactor());
    task.helpers = helpers.as_ref().map(Session::api);
    if known == (Known::ByLabels { doubted: true }) {
        record.doubt();
    }
    let end = match found {
        Ok((prepared, _)) => {
            context.checkpoints.keep(&record);
            output.show_on(context.pages.open(&task.job.id, &task.execution, &control));
            // Without its record, lines are numbered from 1 again: those that were sent before keep their numbers only if
            // no other line comes before them.
            if known == Known::ByRecord {
                output.announce("the agent was restarted; going on with the script");
            }
            let run = threads::guarded(|| prepared.run(&task, &mut output));
            run.unwrap_or_else(|panic| ended(broken(panic)))
        }
        Err(Missing::Unknown(verdict)) => {
            // Its report may have been taken when the disk did not take its record: then nothing more is sent.
            record.doubt();
            ended(unrun(verdict))
        }
        Err(Missing::NeverRan(cleanup)) => End::NeverRan(cleanup),
        Err(Missing::Detached) => End::Detached,
    };
    control.end();
    token.step(Step::Reporting);
    Session::after(helpers, conclude(context, &record, end, output, None))
}

/// Said where a job's secrets cannot be known.
pub(in crate::jobs) const BLIND: &str = "the agent was restarted and does not know this job's secrets any more, since its token is \
                                         another or its record is lost: nothing of the output is shown";

/// The secrets of a job that an earlier agent began: as its record has them, else as the backend tells them. Without either
/// nothing of its output is shown.
fn recall(context: &JobContext, entry: &Entry, token: &Token) -> Result<(), Unreported> {
    let (redactor, sealed) = (token.redactor(), entry.secrets.as_deref().unwrap_or_default());
    if context.secrets.recall(redactor, sealed, &entry.execution) {
        return Ok(());
    }
    match asked(context, entry, || token.control().is_detached())? {
        Some(job) => {
            context.secrets.know(redactor, &job, &context.config.now().redact);
        }
        None => {
            log::warn!("{BLIND}");
            redactor.go_blind();
        }
    }
    Ok(())
}

fn place_of(entry: &Entry) -> String {
    match &entry.place {
        Place::Container(page) => page.name.clone(),
        Place::Servers(pages) => pages.iter().map(|page| page.name.as_str()).collect::<Vec<_>>().join(", "),
        Place::Nowhere => String::new(),
    }
}

type Found = (Box<dyn Prepared>, Option<Server>);

/// Why a job is not gone on with.
enum Missing {
    /// Its end cannot be known.
    Unknown(Verdict),
    NeverRan(CleanupGuard),
    /// This agent ends before it was found.
    Detached,
}

/// Looks for it until there is an answer.
fn find(context: &JobContext, entry: &Entry, started: &Started, control: &Arc<Control>) -> Result<Found, Missing> {
    let unknown = |why: &str| {
        let reboot = if started.boot_id == boot_id() { "" } else { "; this host was restarted since" };
        let meanwhile = match entry.kind {
            Kind::Http => "the request was under way",
            Kind::Container | Kind::Ssh => "the script ran",
        };
        let words = format!("the agent was restarted while {meanwhile}, and {why}{reboot}: its end is unknown");
        Missing::Unknown(Verdict::infrastructure(Phase::Execution, words))
    };
    let info = reattach_info(entry, Some(started));
    let mut waits = Waits::default();
    loop {
        let server = match entry.kind {
            Kind::Container | Kind::Http => Ok(None),
            Kind::Ssh => login(context, entry).map(Some),
        };
        let executor = context.executor(entry.kind);
        let found = server.and_then(|server| {
            let task = task_of(entry, server.clone());
            executor.adopt(&task, &info, started.left(now_ms()), control).map(|prepared| (prepared, server))
        });
        match found {
            Ok(found) => return Ok(found),
            Err(AdoptError::Gone(why)) => return Err(unknown(&why)),
            // Its record says that it was started, and the engine that it was not: the agent was killed in between.
            Err(AdoptError::NotStarted(cleanup)) => return Err(Missing::NeverRan(cleanup)),
            Err(AdoptError::Unreachable(why)) => {
                waits.say(why);
            }
        }
        if control.is_detached() || context.stop.wait(limits::ADOPT_AGAIN) {
            return Err(Missing::Detached);
        }
    }
}

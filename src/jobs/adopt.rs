//! What the journal says of jobs that an earlier agent began: each is found again, gone on with, and reported.
//!
//! A job whose page says `Intent` never started and goes back to the queue. One that was started is looked for where it
//! runs: a container by its name in the engine, a script on a server by its folder there, for which the backend must
//! still tell how to log in. It keeps its deadline: time in which no agent lived counts. Each has a thread of its own,
//! `job-adopted`, so that no worker waits for a server that is away.

use std::sync::Arc;
use std::time::Duration;

use crate::config::types::ResourceSet;
use crate::executors::{Control, End, Facts, Lost, Prepared, Remains, Task};
use crate::job::{Claim, Job, Kind, Language, Resources, Script, Server};
use crate::jobs::journal::{Entry, Part, Place, Stage, Started, now_ms};
use crate::jobs::ledger::{Ledger, boot_id};
use crate::jobs::outbox::Tried;
use crate::jobs::output::JobOutput;
use crate::jobs::poller::{Busy, Slots};
use crate::jobs::report;
use crate::jobs::running::{Note, Step, Token};
use crate::jobs::several;
use crate::jobs::worker::{Workshop, broken, conclude, control_of, guarded, unrun};
use crate::limits;
use crate::metrics;
use crate::os::clock;
use crate::os::threads::{self, Thread};
use crate::telemetry;
use crate::verdict::{Phase, Verdict};

/// Starts a thread for each job of the journal that had not ended.
pub fn all(shop: &Arc<Workshop>, slots: &Slots, entries: Vec<Entry>) -> Vec<Thread> {
    let mut threads = Vec::new();
    for entry in entries {
        let Some(token) = shop.running.claim(&entry.job) else { continue };
        // More than there are workers when there are fewer now: then the poller waits until all have ended.
        let slot = slots.busy();
        let (job, own) = (entry.job.clone(), Arc::clone(shop));
        match threads::spawn("job-adopted", move || one(&own, entry, &token, slot)) {
            Ok(thread) => threads.push(thread),
            Err(error) => log::error!("job {job} of an earlier run waits for the next start: {error}"),
        }
    }
    threads
}

fn one(shop: &Arc<Workshop>, entry: Entry, token: &Token, _slot: Option<Busy>) {
    let _context = telemetry::context(&entry.job, &entry.execution);
    let _watched = shop.watched("adopted job");
    let begun = clock::now();
    let kind = entry.kind;
    token.note(Note::Kind(kind));
    token.note(Note::Execution(entry.execution.clone()));
    token.note(Note::Place(place_of(&entry)));
    token.step(Step::Running);
    metrics::jobs_active(1);
    let verdict = match entry.stage.clone() {
        Stage::Started(started) => go_on(shop, entry, started, token),
        Stage::Intent => {
            give_back(shop, &entry, token);
            None
        }
        Stage::Ended(_) => {
            clear(shop, entry, token);
            None
        }
    };
    metrics::jobs_active(-1);
    if let Some(verdict) = verdict {
        metrics::job_finished(kind, &verdict, clock::since(begun));
    }
}

/// Why a job waits, said once for each reason: it may be for hours, and is looked at each [`limits::ADOPT_AGAIN`].
#[derive(Default)]
struct Waits(String);

impl Waits {
    /// Whether this was news.
    fn say(&mut self, why: String) -> bool {
        let news = self.0 != why;
        if news {
            log::warn!("the job waits: {why}");
            self.0 = why;
        }
        news
    }
}

/// A job that never started: what was made of it is removed, then it goes back to the queue.
fn give_back(shop: &Workshop, entry: &Entry, token: &Token) {
    let control = control_of(shop, token);
    let (task, facts) = (task_of(entry, None), facts_of(entry, None));
    // A script on a server whose page says `Intent` was never sent there.
    let in_engine = entry.kind == Kind::Container;
    let mut waits = Waits::default();
    loop {
        match in_engine.then(|| shop.containers.adopt(&task, &facts, Duration::ZERO, &control)) {
            // The page says that it was not started, and it was: somebody else's doing. It is removed.
            Some(Ok(there)) => drop(there),
            Some(Err(Lost::OutOfReach(why))) => {
                waits.say(why);
                if control.is_left() || shop.stop.wait(limits::ADOPT_AGAIN) {
                    return;
                }
                continue;
            }
            Some(Err(Lost::NeverStarted(_) | Lost::Gone(_))) | None => {}
        }
        break;
    }
    control.end();
    log::warn!("an earlier run of this agent had claimed the job and not started it; giving it back");
    report::give_back(&shop.client, &entry.job, "the agent was restarted before the job had started");
    shop.journal.remove(&entry.job);
}

/// A job whose report is on disk, and of which folders may be left on servers: they go before the report does, since the
/// backend tells no login of a job that was reported.
fn clear(shop: &Workshop, entry: Entry, token: &Token) {
    token.step(Step::Reporting);
    if shop.journal.done().lookup(&entry.job).is_some_and(|done| done.attempts >= entry.attempts) {
        return shop.journal.forget(&entry.job);
    }
    let control = control_of(shop, token);
    let asked = asked(shop, &entry, || control.is_left());
    control.end();
    let Some(job) = asked else { return };
    if let Place::Servers(pages) = &entry.place {
        let each = pages.iter().enumerate();
        for (server, directory) in each.filter_map(|(at, page)| several::remains_of(job.as_deref(), at, page)) {
            log::warn!("an earlier run of this agent had not removed {directory} on {}", server.shown());
            drop(shop.servers.remains(&server, &directory));
        }
    }
    // It may have been sent before: the backend is asked for that.
    report::deliver(&shop.outbox, entry.without_remains(), Tried::lost(), || ());
}

/// What the backend tells of a job that this agent has, logins among it, none of which is in the journal. The outer
/// `None`: the agent ends before it answers.
pub(in crate::jobs) fn asked(shop: &Workshop, entry: &Entry, is_left: impl Fn() -> bool) -> Option<Option<Box<Job>>> {
    let mut waits = Waits::default();
    loop {
        match shop.client.orphan(&entry.job) {
            Ok(Some(Claim::Run(job))) => return Some(Some(job)),
            Ok(_) => return Some(None),
            Err(error) => {
                waits.say(error.to_string());
            }
        }
        if is_left() || shop.stop.wait(limits::ADOPT_AGAIN) {
            return None;
        }
    }
}

/// Goes on with a job that was started.
fn go_on(shop: &Arc<Workshop>, entry: Entry, started: Started, token: &Token) -> Option<Verdict> {
    if matches!(&entry.place, Place::Servers(pages) if pages.len() != 1 || pages[0].part != Part::OfJob) {
        return several::go_on(shop, entry, &started, token);
    }
    log::warn!("an earlier run of this agent had started the job; going on with it");
    let control = control_of(shop, token);
    let live = shop.streamer.open_after(&entry.job, started.delivered.sequence);
    let mut output = JobOutput::resume(shop.config.now().jobs.max_output, live, started.delivered);
    let found = find(shop, &entry, &started, &control);
    let server = match &found {
        Ok((_, server)) => server.clone(),
        Err(_) => None,
    };
    let task = task_of(&entry, server);
    let ledger = Arc::new(Ledger::found(&shop.journal, entry, output.progress()));
    let end = match found {
        Ok((prepared, _)) => {
            shop.scribe.keep(&ledger);
            output.announce("the agent was restarted; going on with the script");
            let run = guarded(|| prepared.run(&task, &mut output));
            run.unwrap_or_else(|panic| End::Outcome(Box::new(broken(panic)), Remains::nothing()))
        }
        Err(Missing::Unknown(verdict)) => {
            // Its report may have been taken when the disk did not take its page: then nothing more is sent.
            ledger.doubt();
            End::Outcome(Box::new(unrun(verdict)), Remains::nothing())
        }
        Err(Missing::NeverRan(remains)) => End::NeverRan(remains),
        Err(Missing::Left) => End::Left,
    };
    control.end();
    token.step(Step::Reporting);
    conclude(shop, &ledger, end, output, None)
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
    NeverRan(Remains),
    /// This agent ends before it was found.
    Left,
}

/// Looks for it until there is an answer.
fn find(shop: &Workshop, entry: &Entry, started: &Started, control: &Arc<Control>) -> Result<Found, Missing> {
    let unknown = |why: &str| {
        let reboot = if started.boot_id == boot_id() { "" } else { "; this host was restarted since" };
        let words = format!("the agent was restarted while the script ran, and {why}{reboot}: its end is unknown");
        Missing::Unknown(Verdict::infrastructure(Phase::Execution, words))
    };
    let facts = facts_of(entry, Some(started));
    let left = Duration::from_millis(started.deadline_ms.saturating_sub(now_ms()));
    let mut waits = Waits::default();
    loop {
        let server = match entry.kind {
            Kind::Container => Ok(None),
            Kind::Ssh => login(shop, entry).map(Some),
        };
        let executor = if entry.kind == Kind::Container { &shop.containers } else { &shop.servers };
        let found = server.and_then(|server| {
            let task = task_of(entry, server.clone());
            executor.adopt(&task, &facts, left, control).map(|prepared| (prepared, server))
        });
        match found {
            Ok(found) => return Ok(found),
            Err(Lost::Gone(why)) => return Err(unknown(&why)),
            // Its page says that it was started, and the engine that it was not: the agent was killed in between.
            Err(Lost::NeverStarted(remains)) => return Err(Missing::NeverRan(remains)),
            Err(Lost::OutOfReach(why)) => {
                waits.say(why);
            }
        }
        if control.is_left() || shop.stop.wait(limits::ADOPT_AGAIN) {
            return Err(Missing::Left);
        }
    }
}

/// How to log in to the job's server: no secret is in the journal, so the backend is asked.
fn login(shop: &Workshop, entry: &Entry) -> Result<Server, Lost> {
    let Place::Servers(pages) = &entry.place else { return Err(Lost::Gone("it has no server".to_owned())) };
    let servers = match shop.client.orphan(&entry.job).map_err(|error| Lost::OutOfReach(error.to_string()))? {
        Some(Claim::Run(job)) => job.servers,
        _ => Vec::new(),
    };
    let same = |server: &Server| {
        pages.iter().any(|page| page.host == server.host && page.port == server.port && page.user == server.user)
    };
    servers
        .into_iter()
        .flatten()
        .find(same)
        .ok_or_else(|| Lost::Gone("the backend does not tell any more how to log in to its server".to_owned()))
}

/// The job as far as its page tells it: enough to go on with, not to start it again.
pub(in crate::jobs) fn task_of(entry: &Entry, server: Option<Server>) -> Task {
    let language = entry.language.unwrap_or(Language::Bash);
    let job = Job {
        id: entry.job.clone(),
        kind: entry.kind,
        priority: 0,
        attempts: entry.attempts,
        script: Script { language, content: String::new(), working_directory: String::new() },
        environment: Vec::new(),
        timeout: None,
        resources: Resources::default(),
        servers: Vec::new(),
        event_id: None,
        original_type: None,
    };
    Task { job: Arc::new(job), server, execution: entry.execution.clone() }
}

fn facts_of(entry: &Entry, started: Option<&Started>) -> Facts {
    let after = Duration::from_millis(started.map_or(0, |started| started.timeout_ms));
    let name = several::limit_name(started.map_or("", |started| started.timeout_name.as_str()));
    let (place, image, limits) = match &entry.place {
        Place::Container(page) => {
            let limits = ResourceSet {
                cpu: page.cpu,
                memory: page.memory,
                disk: page.disk,
                pids: page.pids,
                read_bps: None,
                write_bps: None,
                read_iops: None,
                write_iops: None,
            };
            (page.name.clone(), page.image.clone(), Some(limits))
        }
        Place::Servers(pages) => {
            (pages.first().map(|page| page.directory.clone()).unwrap_or_default(), String::new(), None)
        }
        Place::Nowhere => Default::default(),
    };
    Facts { place, image, limits, timeout: (after, name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_to_wait_is_said_once_until_there_is_another() {
        let mut waits = Waits::default();
        let said = ["away", "away", "refused", "refused", "away"].map(|why| waits.say(why.to_owned()));
        assert_eq!(said, [true, false, true, false, true]);
    }
}

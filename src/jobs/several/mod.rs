//! A job on several servers: the same script on each, side by side, and one report.
//!
//! Each server has a thread, a record and an ending of its own, and one bad server fails itself alone. Lines are
//! prefixed with the server's name and go through the job's one output, so that they have one numbering. The job's page
//! in the journal says of each server how far it has come: the next agent goes on with what runs there, starts what was
//! not begun, and knows how the others ended ([`go_on`]).

mod found;
mod prefixed;
mod sum;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use self::found::{Slot, Way};
pub(in crate::jobs) use self::found::{limit_name, remains_of};
use self::prefixed::Prefixed;
use self::sum::{Part, sum};
use crate::api::ExecutionUpdate;
use crate::config::types::Config;
use crate::executors::{Control, End, Facts, Remains, Task};
use crate::job::{Id, Job, Output as _, Server, Stream};
use crate::jobs::adopt;
use crate::jobs::errands::{Acknowledged, Errands, Record};
use crate::jobs::journal::{Delivered, Entry, Part as PagePart, Place, Started, now_ms};
use crate::jobs::ledger::Ledger;
use crate::jobs::output::JobOutput;
use crate::jobs::report;
use crate::jobs::running::{Note, Step, Token};
use crate::jobs::worker::{Workshop, broken, conclude, count_phases, guarded, unrun};
use crate::limits;
use crate::logs::Flushed;
use crate::os::{clock, pulse, threads};
use crate::policy::stop::{Pace, Reason};
use crate::telemetry;
use crate::verdict::{Cause, Outcome, Phase, Span, Timings, Usage, Verdict};

/// Whether the job is to end, or is left to the next agent, and the servers that are to hear of it.
#[derive(Default)]
struct Ends {
    cancelled: Option<&'static str>,
    left: bool,
    controls: Vec<Arc<Control>>,
}

/// Everything that the threads of one job share.
struct Group {
    shop: Arc<Workshop>,
    /// As it was when the job began here.
    config: Arc<Config>,
    job: Arc<Job>,
    slots: Vec<Slot>,
    output: Mutex<JobOutput>,
    ends: Arc<Mutex<Ends>>,
    ledger: Arc<Ledger>,
    /// The next server that no thread has taken.
    next: AtomicUsize,
}

/// The whole life of such a job. `None` when it turned out not to be ours to run or to report, or is left.
pub fn run(shop: &Arc<Workshop>, job: Job, execution: &Id, token: &Token) -> Option<Verdict> {
    let id = job.id.clone();
    let output = JobOutput::new(shop.config.now().jobs.max_output, shop.streamer.open(&id));
    let errands = match Errands::start(shop.client.clone(), &id, execution, None, shop.stop.clone()) {
        Ok(errands) => errands,
        Err(error) => {
            log::error!("cannot start a thread for the job: {error}; giving it back");
            report::give_back(&shop.client, &id, "the agent is out of threads");
            return None;
        }
    };
    let place = Place::Servers(found::pages(&job, execution));
    let ledger = Arc::new(Ledger::of(&shop.journal, &job, execution, place, output.progress()));
    let written = ledger.write();
    let ends = ends_of(shop, token);
    let acknowledged = errands.acknowledged();
    if let Err(why) = ours(acknowledged, written.map_err(|error| error.to_string())) {
        errands.finish();
        if let Some(why) = why {
            report::give_back(&shop.client, &id, why);
        }
        ledger.forget();
        return None;
    }
    errands.started();
    let timeout = job.timeout.unwrap_or(shop.config.now().jobs.default_timeout);
    let (place, image) = (String::new(), String::new());
    let facts = Facts { place, image, limits: None, timeout: (timeout, "the job's timeout") };
    if let Err(error) = ledger.start(&facts) {
        // Each server's start is written again before it happens, and does not happen when that fails.
        log::error!("{error}");
    }
    let names: Vec<String> = job.servers.iter().flatten().map(Server::shown).collect();
    token.note(Note::Place(names.join(", ")));
    token.step(Step::Running);
    shop.show(&job.id, "running", None);
    let slots = found::fresh(&job, execution);
    let (shop, job, output) = (Arc::clone(shop), Arc::new(job), Mutex::new(output));
    Group { config: shop.config.now(), shop, job, slots, output, ends, ledger, next: AtomicUsize::new(0) }.see_through(
        clock::wall(),
        Some(errands),
        token,
    )
}

/// Whether the job may run; if not, the reason with which it is given back, where it is ours.
fn ours(acknowledged: Acknowledged, written: Result<(), String>) -> Result<(), Option<&'static str>> {
    match (acknowledged, written) {
        (Acknowledged::Ours, Ok(())) => Ok(()),
        (Acknowledged::Ours, Err(error)) => {
            log::error!("not running the job, which nobody would find after a crash: {error}; giving it back");
            Err(Some("the agent's journal cannot be written"))
        }
        (Acknowledged::NotOurs(why), _) => {
            log::warn!("not running the job: {why}");
            Err(None)
        }
        (Acknowledged::Unknown(why), _) => {
            log::error!("not running the job: {why}; giving it back");
            Err(Some("the acknowledgement failed"))
        }
    }
}

/// Goes on with a job that an earlier agent began.
pub(in crate::jobs) fn go_on(shop: &Arc<Workshop>, entry: Entry, started: &Started, token: &Token) -> Option<Verdict> {
    log::warn!("an earlier run of this agent had started the job on its servers; going on with it");
    let ends = ends_of(shop, token);
    let Place::Servers(pages) = entry.place.clone() else { return None };
    let job = if found::needs_backend(&pages) { adopt::asked(shop, &entry, || lock(&ends).left)? } else { None };
    let slots = found::again(&pages, job.as_deref());
    let cancelled = slots.iter().find_map(|slot| match &slot.way {
        Way::Over(outcome, _) => match outcome.verdict.cause {
            Cause::Cancelled(who) => Some(who),
            _ => None,
        },
        _ => None,
    });
    if let Some(who) = cancelled {
        cancel(&ends, who);
    }
    let delivered = Delivered { stdout: 0, stderr: 0, ..started.delivered };
    let live = shop.streamer.open_after(&entry.job, delivered.sequence);
    let mut output = JobOutput::resume(shop.config.now().jobs.max_output, live, delivered);
    output.system(
        "the agent was restarted; lines of its last seconds may come twice, and some line numbers are left out",
    );
    // Without the backend's words there is nothing that would be run of it.
    let job = job.map_or_else(|| adopt::task_of(&entry, None).job, |job| Arc::new(*job));
    let ledger = Arc::new(Ledger::found(&shop.journal, entry, output.progress()));
    let begun = UNIX_EPOCH + Duration::from_millis(started.started_ms);
    let (shop, output) = (Arc::clone(shop), Mutex::new(output));
    Group { config: shop.config.now(), shop, job, slots, output, ends, ledger, next: AtomicUsize::new(0) }
        .see_through(begun, None, token)
}

/// How the job is cancelled or left, known to whoever may do that.
fn ends_of(shop: &Workshop, token: &Token) -> Arc<Mutex<Ends>> {
    let ends = Arc::<Mutex<Ends>>::default();
    let (cancelled, left) = (Arc::clone(&ends), Arc::clone(&ends));
    shop.running.set_leave(token.id(), Arc::new(move || leave(&left)));
    shop.running.set_cancel(token.id(), Arc::new(move |who| cancel(&cancelled, who)));
    ends
}

fn lock(ends: &Mutex<Ends>) -> MutexGuard<'_, Ends> {
    ends.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cancel(ends: &Mutex<Ends>, who: &'static str) {
    let mut ends = lock(ends);
    ends.cancelled.get_or_insert(who);
    ends.controls.iter().for_each(|control| control.request(Reason::Cancelled(who)));
}

fn leave(ends: &Mutex<Ends>) {
    let mut ends = lock(ends);
    ends.left = true;
    ends.controls.iter().for_each(|control| control.leave());
}

impl Group {
    fn output(&self) -> MutexGuard<'_, JobOutput> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All servers, then the one report.
    fn see_through(self, begun: SystemTime, errands: Option<Errands>, token: &Token) -> Option<Verdict> {
        let group = Arc::new(self);
        let (shop, ledger, ends) = (Arc::clone(&group.shop), Arc::clone(&group.ledger), Arc::clone(&group.ends));
        shop.scribe.keep(&ledger);
        let parts = group.on_all_servers();
        token.step(Step::Reporting);
        let is_left = lock(&ends).left && parts.len() < group.slots.len();
        // A thread that was heard of but did not end keeps the output: the report goes without it.
        let output =
            Arc::into_inner(group).map(|group| group.output.into_inner().unwrap_or_else(PoisonError::into_inner));
        if is_left {
            let end = if ledger.nothing_begun() { End::NeverRan(Remains::nothing()) } else { End::Left };
            return output.and_then(|output| conclude(&shop, &ledger, end, output, errands));
        }
        let length = clock::wall().duration_since(begun).unwrap_or_default();
        let outcome = Outcome {
            verdict: sum(&parts, lock(&ends).cancelled),
            timings: Timings { execution: Some(Span { started: begun, length }), ..Timings::default() },
            usage: Usage {
                cpu_seconds: parts.iter().map(|part| part.outcome.usage.cpu_seconds).sum(),
                ..Usage::default()
            },
            evidence: Vec::new(),
        };
        let collected = output.map_or_else(Default::default, |mut output| {
            output.finish();
            output.system(&outcome.verdict.to_string());
            output.flush(limits::LIVE_FLUSH)
        });
        if let Some(errands) = errands {
            errands.finish();
        }
        shop.show(&ledger.job(), outcome.verdict.status().as_str(), Some(&outcome.verdict.message));
        let page = ledger.end(report::write(false, &outcome, collected), false);
        report::deliver(&shop.outbox, page, ledger.tried(), || ());
        Some(outcome.verdict)
    }

    /// The handle for ending the script on one server.
    fn control(&self) -> Arc<Control> {
        let grace = self.config.jobs.stop_grace;
        let pace = Pace { grace, again: limits::KILL_AGAIN, patience: limits::KILL_PATIENCE };
        let control = self.shop.reaper.control(pace);
        let mut ends = lock(&self.ends);
        if let Some(who) = ends.cancelled {
            control.request(Reason::Cancelled(who));
        }
        if ends.left {
            control.leave();
        }
        ends.controls.push(Arc::clone(&control));
        control
    }

    /// Works through all servers, `limits::SSH_SERVERS_AT_ONCE` at once; the endings in the servers' order, without those
    /// that are left to the next agent.
    fn on_all_servers(self: &Arc<Self>) -> Vec<Part> {
        let count = self.slots.len();
        let (tell, told) = bounded(count);
        let threads: Vec<_> = (0..count.min(limits::SSH_SERVERS_AT_ONCE))
            .filter_map(|_| {
                let (group, tell) = (Arc::clone(self), tell.clone());
                let thread = threads::spawn("job-server", move || group.work(&tell));
                thread.inspect_err(|error| log::error!("cannot start a thread for a server: {error}")).ok()
            })
            .collect();
        if threads.is_empty() {
            self.work(&tell);
        }
        drop(tell);
        let mut parts = Vec::new();
        loop {
            // The servers' threads are watched themselves.
            pulse::touch();
            match clock::receive(&told, limits::WORKER_TICK) {
                Ok(part) => parts.push(part),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        for thread in threads {
            thread.join_within(limits::THREAD_JOIN_WAIT);
        }
        parts.sort_by_key(|part| part.at);
        parts
    }

    /// Takes one server after the other.
    fn work(&self, tell: &Sender<Part>) {
        let _watched = self.shop.watched("job on a server");
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = self.slots.get(at) else { return };
            let _context = telemetry::context(&self.job.id, &slot.execution);
            let outcome = guarded(|| match &slot.way {
                Way::Start(server) => self.on(at, slot, server, None),
                Way::GoOn(server, directory, started) => self.on(at, slot, server, Some((directory, started))),
                Way::Without(verdict) => Some(self.without(at, slot, verdict)),
                Way::Over(outcome, recorded) => Some(self.over(at, slot, outcome, *recorded)),
            });
            if let Some(outcome) = outcome.unwrap_or_else(|panic| Some(broken(panic))) {
                let _ = tell.send(Part { at, name: slot.name.clone(), outcome });
            }
        }
    }

    /// The script on one server; `None` when it is left to the next agent.
    fn on(&self, at: usize, slot: &Slot, server: &Server, running: Option<(&str, &Started)>) -> Option<Outcome> {
        let (shop, execution) = (&self.shop, &slot.execution);
        let control = self.control();
        if control.is_left() {
            return None;
        }
        if !slot.record && running.is_none() {
            Record::new(execution, Some(server)).create(&shop.client, &self.job.id);
            self.ledger.part_is(at, PagePart::Waiting { record: true });
        }
        let task = Task { job: Arc::clone(&self.job), server: Some(server.clone()), execution: execution.clone() };
        let delivered = running.map(|(_, started)| started.delivered).unwrap_or_default();
        let mut output = Prefixed::new(&slot.name, self, self.config.jobs.max_output, delivered);
        // A panic is this server's alone, and its control must end all the same.
        let end = guarded(|| match running {
            Some((directory, started)) => self.adopt(at, &task, directory, started, &control, &mut output),
            None => self.start(at, &task, &control, &mut output),
        });
        control.end();
        let end = end.unwrap_or_else(|panic| End::Outcome(Box::new(broken(panic)), Remains::nothing()));
        let (outcome, remains) = match end {
            End::Outcome(outcome, remains) => (*outcome, remains),
            End::Left => {
                output.settle();
                return None;
            }
            End::NeverRan(remains) => {
                self.ledger.part_is(at, PagePart::Waiting { record: true });
                drop(remains);
                if control.is_left() || running.is_none() {
                    return None;
                }
                output.system("it had not begun when the agent was restarted; starting it now");
                let slot = Slot { way: Way::Start(server.clone()), record: true, ..slot.bare() };
                return self.on(at, &slot, server, None);
            }
        };
        count_phases(&outcome.timings);
        let kept = remains.is_something();
        if !kept {
            // On disk before the backend hears of it: nobody else knows how it ended.
            self.ledger.part_ended(at, found::end_of(&outcome, false), false);
        }
        // Its folder on the server goes after its record, which alone has its output, and after its end is on disk.
        let collected = output.finish(&outcome);
        report::record(&shop.client, execution, &outcome, &collected, &Flushed::default());
        self.ledger.part_ended(at, found::end_of(&outcome, true), kept);
        drop(remains);
        self.ledger.part_is_clear(at);
        Some(outcome)
    }

    fn start(&self, at: usize, task: &Task, control: &Arc<Control>, output: &mut Prefixed<'_>) -> End {
        let ready = match self.shop.servers.prepare(task, control, output) {
            Ok(ready) => ready,
            Err(outcome) => return End::Outcome(outcome, Remains::nothing()),
        };
        if let Err(error) = self.ledger.part_starts(at, &ready.facts(), output.progress()) {
            let words = format!("not run: after a crash of the agent it would be run once more, since {error}");
            return End::Outcome(Box::new(unrun(Verdict::infrastructure(Phase::Setup, words))), Remains::nothing());
        }
        ready.run(task, output)
    }

    fn adopt(
        &self,
        at: usize,
        task: &Task,
        directory: &str,
        started: &Started,
        control: &Arc<Control>,
        output: &mut Prefixed<'_>,
    ) -> End {
        self.ledger.part_goes_on(at, output.progress());
        let left = Duration::from_millis(started.deadline_ms.saturating_sub(now_ms()));
        match self.shop.servers.adopt(task, &found::facts(directory, started), left, control) {
            Ok(prepared) => {
                output.system("the agent was restarted; going on with the script");
                prepared.run(task, output)
            }
            Err(lost) => {
                let words = format!("the agent was restarted while the script ran: its end is unknown ({lost:?})");
                End::Outcome(Box::new(unrun(Verdict::infrastructure(Phase::Execution, words))), Remains::nothing())
            }
        }
    }

    /// A server on which nothing can be done: its record and its part of the report say why.
    fn without(&self, at: usize, slot: &Slot, verdict: &Verdict) -> Outcome {
        let shop = &self.shop;
        if !slot.record {
            let record =
                Record { execution: slot.execution.clone(), server: Some((slot.id.clone(), slot.name.clone())) };
            record.create(&shop.client, &self.job.id);
        }
        let outcome = unrun(verdict.clone());
        let collected = Prefixed::new(&slot.name, self, 0, Delivered::default()).finish(&outcome);
        report::record(&shop.client, &slot.execution, &outcome, &collected, &Flushed::default());
        self.ledger.part_ended(at, found::end_of(&outcome, true), false);
        outcome
    }

    /// A server on which it ended under an earlier agent. What was printed there went to its record alone.
    fn over(&self, at: usize, slot: &Slot, outcome: &Outcome, recorded: bool) -> Outcome {
        let verdict = &outcome.verdict;
        if let Some((server, directory)) = &slot.remains {
            drop(self.shop.servers.remains(server, directory));
        }
        self.ledger.part_is_clear(at);
        if !recorded {
            let metadata = [("reason", verdict.reason().to_owned()), ("verdict", verdict.message.clone())];
            let update = ExecutionUpdate {
                exit_code: Some(verdict.exit_code),
                error: (verdict.cause != Cause::Success).then_some(verdict.message.as_str()),
                metadata: &metadata,
                ..ExecutionUpdate::default()
            };
            if let Err(error) = self.shop.client.execution_update(&slot.execution, &update) {
                log::warn!("the execution's record could not be completed: {error}");
            }
            self.ledger.part_ended(at, found::end_of(outcome, true), false);
        }
        let place = if recorded { "is in its own execution record" } else { "may be lost" };
        let words = format!("it had ended before the agent was restarted, and its output {place}");
        let mut output = self.output();
        output.system(&format!("[{}] {words}: {verdict}", slot.name));
        output.again(Stream::Stderr, format!("cronium-agent: [{}] {words}\n", slot.name).as_bytes());
        output.settle();
        outcome.clone()
    }
}

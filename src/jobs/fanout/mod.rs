//! A job on several servers: the same script on each, side by side, and one report.
//!
//! Each server has its own thread, record and ending, and one bad server fails alone. Lines are
//! prefixed with the server's name and go through the job's one output, so that they have one numbering. The job's record
//! says of each server how far it has come: the next agent goes on with what runs there, starts what was
//! not begun, and knows how the others ended ([`go_on`]).

mod calls;
mod found;
mod prefixed;
mod sum;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use self::calls::{Calls, PartCall, Rows};
use self::found::{Slot, Way};
pub(in crate::jobs) use self::found::{needs_backend, remains_of};
use self::prefixed::Prefixed;
use self::sum::{Part, sum};
use crate::api::ExecutionUpdate;
use crate::config::types::Config;
use crate::executors::ending::stopped;
use crate::executors::{CleanupGuard, Control, End, ReattachInfo, Task};
use crate::job::{Id, Job, Output as _, Server, Stream};
use crate::jobs::ack_task::{AckTask, ExecutionRow};
use crate::jobs::channel::Collected;
use crate::jobs::conclude::{broken, conclude, count_phases, deliver, ended, result_of, unrun, without_secrets};
use crate::jobs::context::{JobContext, pace};
use crate::jobs::earlier;
use crate::jobs::ending::{Life, Reported, Unreported};
use crate::jobs::helpers::Session;
use crate::jobs::output::JobOutput;
use crate::jobs::reattach::{asked, task_of};
use crate::jobs::receipts::{self, adopted};
use crate::jobs::record::JobRecord;
use crate::jobs::record::{Entry, Part as PagePart, PartEnd, Place, Started, now_ms};
use crate::jobs::report;
use crate::jobs::resume::ResumePoint;
use crate::jobs::running::{Note, Step, Token};
use crate::limits;
use crate::os::{clock, pulse, threads};
use crate::policy::stop::Reason;
use crate::redact::Redactor;
use crate::telemetry;
use crate::verdict::{Cause, Outcome, Phase, Span, Timings, Usage, Verdict};

/// Everything that the threads of one job share.
struct Group {
    context: Arc<JobContext>,
    /// As it was when the job began here.
    config: Arc<Config>,
    job: Arc<Job>,
    slots: Vec<Slot>,
    output: Mutex<JobOutput>,
    redactor: Redactor,
    /// The job's; each server has a part of it.
    control: Arc<Control>,
    record: Arc<JobRecord>,
}

/// The whole life of such a job.
pub(in crate::jobs) fn run(context: &Arc<JobContext>, job: Job, execution: &Id, token: &Token) -> Life {
    let control = Arc::clone(token.control());
    if control.is_given_back() {
        return Err(Unreported::GiveBack("the agent is stopping"));
    }
    let mut output = context.output(&job, token).of_lines(context.config.now().jobs.max_output);
    let ack = AckTask::start(context, (execution, token), None)?;
    let task = Task { job: Arc::new(job), server: None, execution: execution.clone(), helpers: None };
    let place = Place::Servers(found::pages(&task.job, execution, &context.logins));
    let kept = (place, context.secrets.sealed(token.redactor(), execution), context.receipts.begin(&task.job));
    let intent = JobRecord::intend(&context.records, &task, kept, output.progress());
    let record = Arc::new(ack.unless_failed(intent)?);
    ack.ours()?;
    if let Some(reason) = control.reason() {
        return conclude(context, &record, ended(unrun(stopped(&reason, None))), output, Some(ack));
    }
    let job = task.job;
    let timeout = job.timeout.unwrap_or(context.config.now().jobs.default_timeout);
    let (place, image) = (String::new(), String::new());
    let info = ReattachInfo { place, image, limits: None, timeout: (timeout, "the job's timeout"), warm: None };
    if let Err(error) = record.start(&info, context.pages.is_used()) {
        log::error!("not starting the job, since its record says that it was not: {error}");
        return conclude(context, &record, End::NeverRan(CleanupGuard::none()), output, Some(ack));
    }
    ack.started();
    let names: Vec<String> = job.servers.iter().flatten().map(Server::shown).collect();
    token.note(Note::Place(names.join(", ")));
    token.step(Step::Running);
    context.show(&job.id, "running", None);
    let slots = found::fresh(&job, execution);
    // The row of the first server: the page shows the lines of all.
    output.show_on(slots.first().and_then(|slot| context.pages.open(&job.id, &slot.execution, &control)));
    let (context, output) = (Arc::clone(context), Mutex::new(output));
    let redactor = token.redactor().clone();
    let group = Group { config: context.config.now(), context, job, slots, output, redactor, control, record };
    group.see_through(clock::wall(), Some(ack), token)
}

/// Goes on with a job that an earlier agent began.
pub(in crate::jobs) fn go_on(context: &Arc<JobContext>, entry: Entry, started: &Started, token: &Token) -> Life {
    log::warn!("an earlier run of this agent had started the job on its servers; going on with it");
    let control = Arc::clone(token.control());
    let Place::Servers(pages) = entry.place.clone() else { return Err(Unreported::Forget) };
    let job =
        if needs_backend(&pages, &context.logins) { asked(context, &entry, || control.is_detached())? } else { None };
    let slots = found::again(&pages, job.as_deref(), &context.logins);
    let cancelled = slots.iter().find_map(|slot| match &slot.way {
        Way::Over(outcome, _) => match outcome.verdict.cause {
            Cause::Cancelled(who) => Some(who),
            _ => None,
        },
        _ => None,
    });
    if let Some(who) = cancelled {
        control.request(Reason::Cancelled(who));
    }
    let start = ResumePoint { stdout: 0, stderr: 0, ..started.resume };
    let live = context.streamer.open_after(&entry.job, start.sequence);
    let kept = context.config.now().jobs.max_output;
    let mut output = JobOutput::resume(kept, live, start, token.redactor()).of_lines(kept);
    output.system(
        "the agent was restarted; lines of its last seconds may come twice, and some line numbers are left out",
    );
    // Without the backend's words there is nothing that would be run of it.
    let job = job.map_or_else(|| task_of(&entry, None).job, |job| Arc::new(*job));
    let record = Arc::new(JobRecord::adopted(&context.records, entry, output.progress()));
    context.receipts.note(&record, adopted);
    let begun = UNIX_EPOCH + Duration::from_millis(started.started_ms);
    let (context, output) = (Arc::clone(context), Mutex::new(output));
    let redactor = token.redactor().clone();
    let group = Group { config: context.config.now(), context, job, slots, output, redactor, control, record };
    group.see_through(begun, None, token)
}

/// The threads that remove what is left on the servers; dropping this waits for them.
struct Removing(Vec<threads::Thread>, Duration);

impl Drop for Removing {
    fn drop(&mut self) {
        let until = clock::now() + self.1;
        for thread in self.0.drain(..) {
            pulse::touch();
            thread.join_within(until.saturating_duration_since(clock::now()));
        }
    }
}

impl Group {
    fn output(&self) -> MutexGuard<'_, JobOutput> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All servers, then the one report.
    fn see_through(self, begun: SystemTime, ack: Option<AckTask>, token: &Token) -> Life {
        let group = Arc::new(self);
        let (context, record, control) =
            (Arc::clone(&group.context), Arc::clone(&group.record), Arc::clone(&group.control));
        context.checkpoints.keep(&record);
        // A server may be slow to remove what is left on it: the report does not wait for that.
        let longest = group.config.jobs.cleanup_timeout * 2 + limits::THREAD_JOIN_WAIT;
        let rows = Rows::create(&context, &record, group.rows(), &group.redactor);
        let (parts, calls, threads) = group.on_all_servers();
        let removing = Removing(threads, longest);
        token.step(Step::Reporting);
        let is_detached = control.is_detached() && parts.len() < group.slots.len();
        // A thread that was heard of but did not end keeps the output: the report goes without it.
        let output =
            Arc::into_inner(group).map(|group| group.output.into_inner().unwrap_or_else(PoisonError::into_inner));
        if is_detached {
            drop(removing);
            let end = if record.nothing_begun() { End::NeverRan(CleanupGuard::none()) } else { End::Detached };
            let output = output.ok_or(Unreported::LeftToNext)?;
            return conclude(&context, &record, end, output, ack);
        }
        let length = clock::wall().duration_since(begun).unwrap_or_default();
        let redactor = token.redactor();
        let outcome = Outcome {
            verdict: sum(&parts, cancelled_by(&control)),
            timings: Timings { execution: Some(Span { started: begun, length }), ..Timings::default() },
            usage: Usage {
                cpu_seconds: parts.iter().map(|part| part.outcome.usage.cpu_seconds).sum(),
                ..Usage::default()
            },
            evidence: Vec::new(),
            script_output: None,
        };
        let outcome = without_secrets(outcome, redactor);
        let (collected, flushed, earlier) = match output {
            Some(mut output) => {
                output.finish();
                output.system(&outcome.verdict.to_string());
                earlier::end(output, ack)
            }
            None => {
                drop(ack);
                Default::default()
            }
        };
        let earlier = calls::before_report(earlier, rows, calls);
        context.show(&record.job(), outcome.verdict.status().as_str(), Some(&outcome.verdict.message));
        let ends = || parts.iter().map(|part| (part.name.as_str(), &part.outcome));
        let receipt = context.receipts.draft(&record).map(|draft| receipts::servers(draft, ends()));
        let report = report::write(false, &outcome, (collected, flushed), &result_of(&record, redactor), receipt);
        let page = record.end(report, false);
        let left = deliver(&context.outbox, page, (record.tried(), earlier), CleanupGuard::of(removing));
        Ok(Reported { verdict: outcome.verdict, left })
    }

    /// What is to be created at the backend for the servers whose scripts are still to begin.
    fn rows(&self) -> Vec<(usize, ExecutionRow)> {
        let missing = self.slots.iter().enumerate().filter(|(_, slot)| !slot.record);
        let row = |slot: &Slot| ExecutionRow {
            execution: slot.execution.clone(),
            server: Some((slot.id.clone(), slot.name.clone())),
        };
        missing.map(|(at, slot)| (at, row(slot))).collect()
    }

    /// The handle for ending the script on one server.
    fn control(&self) -> Arc<Control> {
        let control = self.control.part();
        self.context.reaper.watch(&control, pace(&self.config));
        control
    }

    /// Works through all servers, `limits::SSH_SERVERS_AT_ONCE` at once; the endings in the servers' order, without those
    /// that are left to the next agent, the calls about them, and the threads, which may still remove what is left.
    fn on_all_servers(self: &Arc<Self>) -> (Vec<Part>, Calls, Vec<threads::Thread>) {
        let count = self.slots.len();
        let (tell, told) = bounded(count);
        let (mut calls, called) = Calls::of(count);
        let left = Arc::new(AtomicUsize::new(count));
        let servers = Servers { group: Arc::downgrade(self), next: Arc::default(), count, left, called };
        let threads: Vec<_> = (0..count.min(limits::SSH_SERVERS_AT_ONCE))
            .filter_map(|_| {
                let (context, servers, tell) = (Arc::clone(&self.context), servers.clone(), tell.clone());
                let thread = threads::spawn("job-server", move || servers.work(&context, &tell));
                thread.inspect_err(|error| log::error!("cannot start a thread for a server: {error}")).ok()
            })
            .collect();
        if threads.is_empty() {
            servers.work(&self.context, &tell);
        }
        drop(tell);
        let mut parts = Vec::new();
        while parts.len() < count {
            // The servers' threads are watched themselves.
            pulse::touch();
            match clock::receive(&told, limits::WORKER_TICK) {
                Ok((part, is_calling)) => {
                    parts.push(part);
                    calls.begun += usize::from(is_calling);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        parts.sort_by_key(|part| part.at);
        (parts, calls, threads)
    }

    /// The server at this place of the list; `None` when it is left to the next agent.
    fn serve(&self, at: usize, slot: &Slot) -> Option<Ending> {
        let ended = threads::guarded(|| match &slot.way {
            Way::Start(server) => self.on(at, slot, server, None),
            Way::GoOn(server, directory, started) => self.on(at, slot, server, Some((directory, started))),
            Way::Without(verdict) => Some(self.without(at, slot, verdict)),
            Way::Over(outcome, recorded) => Some(self.over(at, slot, outcome, *recorded)),
        });
        ended.unwrap_or_else(|panic| Some(Ending { outcome: broken(panic), cleanup: CleanupGuard::none(), call: None }))
    }

    /// The script on one server; `None` when it is left to the next agent.
    fn on(&self, at: usize, slot: &Slot, server: &Server, running: Option<(&str, &Started)>) -> Option<Ending> {
        let (context, execution) = (&self.context, &slot.execution);
        let control = self.control();
        if control.is_detached() {
            return None;
        }
        let (job, execution_of) = (Arc::clone(&self.job), execution.clone());
        let mut task = Task { job, server: Some(server.clone()), execution: execution_of, helpers: None };
        let helpers = context.helpers_of(&task, &self.record, &self.redactor);
        task.helpers = helpers.as_ref().map(Session::api);
        let start = running.map(|(_, started)| started.resume).unwrap_or_default();
        let mut output = Prefixed::new(&slot.name, &self.output, self.config.jobs.max_output, start);
        // A panic is this server's alone, and its control must end all the same.
        let end = threads::guarded(|| match running {
            Some((directory, started)) => self.adopt(at, &task, directory, started, &control, &mut output),
            None => self.start(at, &task, &control, &mut output),
        });
        control.end();
        let end = end.unwrap_or_else(|panic| ended(broken(panic)));
        let (outcome, mut cleanup) = match end {
            End::Outcome(outcome, cleanup) => (without_secrets(*outcome, &self.redactor), cleanup),
            End::Detached => {
                output.settle();
                return None;
            }
            End::NeverRan(cleanup) => {
                self.record.part_is(at, PagePart::Waiting { record: true });
                drop(cleanup);
                if control.is_detached() || running.is_none() {
                    return None;
                }
                output.system("it had not begun when the agent was restarted; starting it now");
                let slot = Slot { way: Way::Start(server.clone()), record: true, ..slot.bare() };
                return self.on(at, &slot, server, None);
            }
        };
        count_phases(&outcome.timings);
        let collected = output.finish(&outcome);
        let receipt = self.part_receipt(slot, &outcome, &collected);
        let update = |output| report::part_update(&outcome, &collected, output, receipt.as_deref());
        let call = self.part_ended(at, &outcome, update, cleanup.is_some());
        // Its folder on the server goes after its output is on disk.
        if call.is_on_disk {
            cleanup.request();
        }
        Some(Ending { outcome, cleanup, call: Some(call) })
    }

    fn start(&self, at: usize, task: &Task, control: &Arc<Control>, output: &mut Prefixed<'_>) -> End {
        let ready = match self.context.servers.prepare(task, control, output) {
            Ok(ready) => ready,
            Err(_) if control.is_given_back() => return End::NeverRan(CleanupGuard::none()),
            Err(outcome) => return End::Outcome(outcome, CleanupGuard::none()),
        };
        if let Err(error) = self.record.part_starts(at, &ready.reattach_info(), output.progress()) {
            let words = format!("not run: after a crash of the agent it would be run once more, since {error}");
            return ended(unrun(Verdict::infrastructure(Phase::Setup, words)));
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
        self.record.part_goes_on(at, output.progress());
        // By its own thread alone: the agent's end leaves it, as it leaves what it has started itself.
        let _ = control.begin();
        match self.context.servers.adopt(
            task,
            &found::reattach_info(directory, started),
            started.left(now_ms()),
            control,
        ) {
            Ok(prepared) => {
                output.system("the agent was restarted; going on with the script");
                prepared.run(task, output)
            }
            Err(error) => {
                let words = format!("the agent was restarted while the script ran: its end is unknown ({error})");
                ended(unrun(Verdict::infrastructure(Phase::Execution, words)))
            }
        }
    }

    /// A server on which nothing can be done: its record and its part of the report say why.
    fn without(&self, at: usize, slot: &Slot, verdict: &Verdict) -> Ending {
        let outcome = without_secrets(unrun(verdict.clone()), &self.redactor);
        let collected = Prefixed::new(&slot.name, &self.output, 0, ResumePoint::default()).finish(&outcome);
        let receipt = self.part_receipt(slot, &outcome, &collected);
        let update = |output| report::part_update(&outcome, &collected, output, receipt.as_deref());
        let call = Some(self.part_ended(at, &outcome, update, false));
        Ending { outcome, cleanup: CleanupGuard::none(), call }
    }

    /// The receipt of one server's part, for its record.
    fn part_receipt(&self, slot: &Slot, outcome: &Outcome, output: &Collected) -> Option<String> {
        let draft = self.context.receipts.draft(&self.record)?;
        let draft = draft.with("execution", slot.execution.as_str()).with("part", "true").with("server", &slot.name);
        draft.sign(outcome, (&output.stdout, &output.stderr))
    }

    /// Writes that it ended there, with the update of its record; without the output where too much is kept already.
    fn part_ended(&self, at: usize, outcome: &Outcome, update: impl Fn(bool) -> String, remains: bool) -> PartCall {
        let json = update(true);
        let owed = found::kept(self.record.owes(), json.clone(), || update(false));
        // Without its output the record does not stand for the folder on the server.
        let is_whole = owed == json;
        let end = PartEnd { owed: Some(owed), ..found::end_of(outcome) };
        let is_on_disk = self.record.part_ended(at, end, remains) && is_whole;
        let slot = &self.slots[at];
        let (execution, server) = (slot.execution.clone(), (slot.id.clone(), slot.name.clone()));
        PartCall { at, execution, server, json, is_on_disk }
    }

    /// A server on which it ended under an earlier agent. What was printed there went to its record alone.
    fn over(&self, at: usize, slot: &Slot, outcome: &Outcome, recorded: bool) -> Ending {
        let verdict = &outcome.verdict;
        let cleanup = slot.remains.as_ref().map(|(server, directory)| self.context.servers.cleanup(server, directory));
        let mut call = None;
        if !recorded {
            let metadata = [("reason", verdict.reason().to_owned()), ("verdict", verdict.message.clone())];
            let update = ExecutionUpdate {
                exit_code: Some(verdict.exit_code),
                error: (verdict.cause != Cause::Success).then_some(verdict.message.as_str()),
                metadata: &metadata,
                ..ExecutionUpdate::default()
            };
            call = Some(self.part_ended(at, outcome, |_| update.to_json(), cleanup.is_some()));
        }
        let place = if recorded { "is in its own execution record" } else { "may be lost" };
        let words = format!("it had ended before the agent was restarted, and its output {place}");
        let mut output = self.output();
        output.system(&format!("[{}] {words}: {verdict}", slot.name));
        output.keep(Stream::Stderr, format!("cronium-agent: [{}] {words}\n", slot.name).as_bytes());
        output.settle();
        Ending { outcome: outcome.clone(), cleanup: cleanup.unwrap_or_default(), call }
    }
}

/// How it ended on one server, what is to be removed there, and the update of its record.
struct Ending {
    outcome: Outcome,
    cleanup: CleanupGuard,
    call: Option<PartCall>,
}

/// The servers of a job, for the threads that take one after the other.
#[derive(Clone)]
struct Servers {
    /// Held for one server at a time: when all have ended, the job's report takes the output out of it.
    group: Weak<Group>,
    /// The next server that no thread has taken.
    next: Arc<AtomicUsize>,
    count: usize,
    /// How many have not ended, or been left to the next agent.
    left: Arc<AtomicUsize>,
    /// Is sent to after each call about an end.
    called: Sender<()>,
}

impl Servers {
    fn work(&self, context: &JobContext, tell: &Sender<(Part, bool)>) {
        let _watched = context.watched("job on a server");
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            if at >= self.count {
                return;
            }
            let Some(group) = self.group.upgrade() else { return };
            let Some(slot) = group.slots.get(at) else { return };
            let _context = telemetry::context(&group.job.id, &slot.execution, &group.redactor);
            let (ended, name, record) = (group.serve(at, slot), slot.name.clone(), Arc::clone(&group.record));
            drop(group);
            let is_last = self.left.fetch_sub(1, Ordering::Relaxed) == 1;
            let Some(Ending { outcome, mut cleanup, call }) = ended else { continue };
            // That of the last server goes with the report.
            let call = call.filter(|call| !is_last || !call.is_on_disk);
            let _ = tell.send((Part { at, name, outcome }, call.is_some()));
            if let Some(call) = call {
                call.make(&context.client, &record.job(), &record);
                let _ = self.called.send(());
            }
            cleanup.request();
            drop(cleanup);
            record.part_is_clear(at);
        }
    }
}

/// Who cancelled the job.
fn cancelled_by(control: &Control) -> Option<&'static str> {
    match control.reason() {
        Some(Reason::Cancelled(who)) => Some(who),
        _ => None,
    }
}

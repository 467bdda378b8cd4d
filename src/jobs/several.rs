//! A job on several servers: the same script on each, side by side, and one report.
//!
//! Each server has a thread, a record and an ending of its own, and one bad server fails itself alone. Lines are
//! prefixed with the server's name and go through the job's one output, so that they have one numbering.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use crate::config::types::Config;
use crate::executors::{Control, End, Facts, Remains, Task};
use crate::job::{BadServer, Id, Job, Output, Server, Stream};
use crate::jobs::errands::{Acknowledged, Errands, Record};
use crate::jobs::journal::{Place, Server as Page};
use crate::jobs::ledger::{Ledger, page_of};
use crate::jobs::output::{Collected, JobOutput};
use crate::jobs::report;
use crate::jobs::running::{Note, Step, Token};
use crate::jobs::worker::{Workshop, broken, count_phases, guarded, unrun};
use crate::limits;
use crate::logs::Flushed;
use crate::os::clock;
use crate::os::threads;
use crate::policy::stop::{Pace, Reason};
use crate::telemetry;
use crate::verdict::{Cause, NOT_RUN, Outcome, Phase, Span, Timings, Usage, Verdict};
use crate::wire::capture::Capture;
use crate::wire::lines::{Line, Splitter};

/// Who cancelled the job, and the servers that are to hear of it.
type Cancelled = (Option<&'static str>, Vec<Arc<Control>>);

/// Everything that the threads of one job share.
struct Group {
    shop: Arc<Workshop>,
    /// As it was when the job began.
    config: Arc<Config>,
    job: Arc<Job>,
    execution: Id,
    output: Mutex<JobOutput>,
    cancelled: Arc<Mutex<Cancelled>>,
    /// The next server that no thread has taken.
    next: AtomicUsize,
}

/// How it went on one server.
struct Part {
    at: usize,
    name: String,
    outcome: Outcome,
}

/// The whole life of such a job. `None` when it turned out not to be ours to run or to report.
pub fn run(shop: &Arc<Workshop>, job: Job, execution: &Id, token: &Token) -> Option<Verdict> {
    let id = job.id.clone();
    let config = shop.config.now();
    let output = JobOutput::new(config.jobs.max_output, shop.streamer.open(&id));
    let errands = match Errands::start(shop.client.clone(), &id, execution, None, shop.stop.clone()) {
        Ok(errands) => errands,
        Err(error) => {
            log::error!("cannot start a thread for the job: {error}; giving it back");
            report::give_back(&shop.client, &id, "the agent is out of threads");
            return None;
        }
    };
    let place = Place::Servers(pages(&job, execution));
    let ledger = Ledger::of(&shop.journal, &job, execution, place, output.progress());
    let group = Arc::new(Group {
        shop: Arc::clone(shop),
        config,
        job: Arc::new(job),
        execution: execution.clone(),
        output: Mutex::new(output),
        cancelled: Arc::default(),
        next: AtomicUsize::new(0),
    });
    let cancelled = Arc::clone(&group.cancelled);
    shop.running.set_cancel(&id, Arc::new(move |who| cancel(&cancelled, who)));
    match errands.acknowledged() {
        Acknowledged::Ours => {}
        Acknowledged::NotOurs(why) => {
            log::warn!("not running the job: {why}");
            errands.finish();
            return None;
        }
        Acknowledged::Unknown(why) => {
            log::error!("not running the job: {why}; giving it back");
            errands.finish();
            report::give_back(&shop.client, &id, "the acknowledgement failed");
            return None;
        }
    }
    errands.started();
    let timeout = group.job.timeout.unwrap_or(group.config.jobs.default_timeout);
    let (place, image) = (String::new(), String::new());
    ledger.start(&Facts { place, image, limits: None, timeout: (timeout, "the job's timeout") });
    let names: Vec<String> = group.job.servers.iter().flatten().map(Server::shown).collect();
    token.note(Note::Place(names.join(", ")));
    token.step(Step::Running);
    let begun = (clock::wall(), clock::now());
    let parts = group.on_all_servers();
    token.step(Step::Reporting);
    let execution = Span { started: begun.0, length: clock::since(begun.1) };
    let outcome = Outcome {
        verdict: sum(&parts, lock(&group.cancelled).0),
        timings: Timings { execution: Some(execution), ..Timings::default() },
        usage: Usage { cpu_seconds: parts.iter().map(|part| part.outcome.usage.cpu_seconds).sum(), ..Usage::default() },
        evidence: Vec::new(),
    };
    let Some(Group { output, .. }) = Arc::into_inner(group) else {
        // A thread that was heard of but did not end keeps the output: the report goes without it.
        let collected = (Collected::default(), Flushed::default());
        report::deliver(&shop.outbox, ledger.end(report::write(false, &outcome, collected)), Remains::nothing());
        return Some(outcome.verdict);
    };
    let mut output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
    output.finish();
    output.system(&outcome.verdict.to_string());
    let collected = output.flush(limits::LIVE_FLUSH);
    errands.finish();
    report::deliver(&shop.outbox, ledger.end(report::write(false, &outcome, collected)), Remains::nothing());
    Some(outcome.verdict)
}

/// The journal's pages of all servers whose address is known.
fn pages(job: &Job, execution: &Id) -> Vec<Page> {
    let each = job.servers.iter().enumerate();
    each.filter_map(|(at, server)| Some(page_of(server.as_ref().ok()?, String::new(), &numbered(execution, at + 1))))
        .collect()
}

fn lock(cancelled: &Mutex<Cancelled>) -> MutexGuard<'_, Cancelled> {
    cancelled.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cancel(cancelled: &Mutex<Cancelled>, who: &'static str) {
    let mut cancelled = lock(cancelled);
    cancelled.0.get_or_insert(who);
    cancelled.1.iter().for_each(|control| control.request(Reason::Cancelled(who)));
}

impl Group {
    fn output(&self) -> MutexGuard<'_, JobOutput> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handle for ending the script on one server.
    fn control(&self) -> Arc<Control> {
        let grace = self.config.jobs.stop_grace;
        let pace = Pace { grace, again: limits::KILL_AGAIN, patience: limits::KILL_PATIENCE };
        let control = self.shop.reaper.control(pace);
        let mut cancelled = lock(&self.cancelled);
        if let Some(who) = cancelled.0 {
            control.request(Reason::Cancelled(who));
        }
        cancelled.1.push(Arc::clone(&control));
        control
    }

    /// Works through all servers, `limits::SSH_SERVERS_AT_ONCE` at once; the endings in the servers' order.
    fn on_all_servers(self: &Arc<Self>) -> Vec<Part> {
        let count = self.job.servers.len();
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
        let mut parts: Vec<Part> = told.iter().collect();
        for thread in threads {
            thread.join_within(limits::THREAD_JOIN_WAIT);
        }
        parts.sort_by_key(|part| part.at);
        parts
    }

    /// Takes one server after the other.
    fn work(&self, tell: &Sender<Part>) {
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(server) = self.job.servers.get(at) else { return };
            let execution = numbered(&self.execution, at + 1);
            let _context = telemetry::context(&self.job.id, &execution);
            let name = match server {
                Ok(server) => server.name.clone(),
                Err(bad) => bad.name.clone(),
            };
            let outcome = guarded(|| match server {
                Ok(server) => self.on(server, &execution),
                Err(bad) => self.refuse(bad, &execution),
            });
            let _ = tell.send(Part { at, name, outcome: outcome.unwrap_or_else(broken) });
        }
    }

    fn on(&self, server: &Server, execution: &Id) -> Outcome {
        let shop = &self.shop;
        Record::new(execution, Some(server)).create(&shop.client, &self.job.id);
        let task = Task { job: Arc::clone(&self.job), server: Some(server.clone()), execution: execution.clone() };
        let control = self.control();
        let mut output = Prefixed::new(&server.name, self, self.config.jobs.max_output);
        // A panic is this server's alone, and its control must end all the same.
        let outcome = guarded(|| match shop.servers.prepare(&task, &control, &mut output) {
            Ok(ready) => match ready.run(&task, &mut output) {
                End::Outcome(outcome, _) => *outcome,
                // Nobody leaves such a job: it is cancelled instead.
                End::Left | End::NeverRan(_) => {
                    unrun(Verdict::infrastructure(Phase::Execution, "the script was left on its server"))
                }
            },
            Err(outcome) => *outcome,
        })
        .unwrap_or_else(broken);
        control.end();
        count_phases(&outcome.timings);
        let collected = output.finish(&outcome);
        report::record(&shop.client, execution, &outcome, &collected, &Flushed::default());
        outcome
    }

    fn refuse(&self, bad: &BadServer, execution: &Id) -> Outcome {
        let record = Record { execution: execution.clone(), server: Some((bad.id.clone(), bad.name.clone())) };
        record.create(&self.shop.client, &self.job.id);
        let outcome = unrun(Verdict::refused(bad.why.clone()));
        let collected = Prefixed::new(&bad.name, self, 0).finish(&outcome);
        report::record(&self.shop.client, execution, &outcome, &collected, &Flushed::default());
        outcome
    }
}

/// The execution of the server with this number.
fn numbered(execution: &Id, number: usize) -> Id {
    let tail = format!("-{number}");
    let text = execution.as_str();
    // The end of the id is the time that makes it unique: what is cut is in the middle of the job's own.
    let surplus = (text.len() + tail.len()).saturating_sub(crate::job::ID_MAX);
    let middle = "exec-".len();
    let id = format!("{}{}{tail}", &text[..middle], &text[middle + surplus..]);
    Id::parse(&id).unwrap_or_else(|_| execution.clone())
}

/// The output of one server: kept for its record, and passed on line by line under its name.
struct Prefixed<'a> {
    prefix: String,
    group: &'a Group,
    kept: [Capture; 2],
    splitters: [Splitter; 2],
    lines: u64,
}

impl<'a> Prefixed<'a> {
    fn new(name: &str, group: &'a Group, max_output: usize) -> Self {
        let (kept, splitter) = (|| Capture::new(max_output), || Splitter::new(limits::LINE_MAX));
        let prefix = format!("[{name}] ");
        Self { prefix, group, kept: [kept(), kept()], splitters: [splitter(), splitter()], lines: 0 }
    }

    /// The last lines, and what is kept for the record.
    fn finish(mut self, outcome: &Outcome) -> Collected {
        for (stream, at) in [(Stream::Stdout, 0), (Stream::Stderr, 1)] {
            let (prefix, mut text) = (&self.prefix, Vec::new());
            let lines = &mut self.lines;
            self.splitters[at].finish(&mut |line| {
                *lines += 1;
                write(&mut text, prefix, line);
            });
            self.group.output().bytes(stream, &text);
        }
        self.system(&outcome.verdict.to_string());
        self.settle();
        let [stdout, stderr] = self.kept;
        Collected {
            stdout_bytes: stdout.total(),
            stderr_bytes: stderr.total(),
            lines: self.lines,
            stdout: stdout.into_text(),
            stderr: stderr.into_text(),
        }
    }
}

impl Output for Prefixed<'_> {
    fn bytes(&mut self, stream: Stream, data: &[u8]) {
        let at = usize::from(stream != Stream::Stdout);
        self.kept[at].push(data);
        let (prefix, lines, mut text) = (&self.prefix, &mut self.lines, Vec::with_capacity(data.len() * 2));
        self.splitters[at].feed(data, &mut |line| {
            *lines += 1;
            write(&mut text, prefix, line);
        });
        self.group.output().bytes(stream, &text);
    }

    fn system(&mut self, text: &str) {
        self.group.output().system(&format!("{}{text}", self.prefix));
    }

    fn settle(&mut self) {
        self.group.output().settle();
    }
}

fn write(text: &mut Vec<u8>, prefix: &str, line: Line<'_>) {
    text.extend_from_slice(prefix.as_bytes());
    match line {
        Line::Whole(bytes) => text.extend_from_slice(bytes),
        Line::Cut { kept, dropped } => {
            // Room for prefix and mark within the longest line, so that it is not cut twice.
            let mark = format!(" […{dropped} bytes of this line were left out]");
            let room = limits::LINE_MAX.saturating_sub(prefix.len() + mark.len());
            text.extend_from_slice(&kept[..kept.len().min(room)]);
            text.extend_from_slice(mark.as_bytes());
        }
    }
    text.push(b'\n');
}

/// The verdict on all of them.
fn sum(parts: &[Part], cancelled: Option<&'static str>) -> Verdict {
    let (count, failed) =
        (parts.len(), parts.iter().filter(|part| part.outcome.verdict.cause != Cause::Success).count());
    let message = summary(parts, failed);
    let verdicts = || parts.iter().map(|part| &part.outcome.verdict);
    let verdict = |cause, exit_code, message| Verdict { phase: Phase::Execution, cause, exit_code, message };
    let was_cancelled = verdicts().any(|verdict| matches!(verdict.cause, Cause::Cancelled(_)));
    if let Some(who) = cancelled.filter(|_| was_cancelled) {
        return verdict(Cause::Cancelled(who), 143, message);
    }
    if failed == 0 {
        return verdict(Cause::Success, 0, message);
    }
    if failed < count {
        let failed = u32::try_from(failed).unwrap_or(u32::MAX);
        return verdict(Cause::Partial(failed), 100_i32.saturating_add_unsigned(failed), message);
    }
    let timeout = verdicts().map(|verdict| match verdict.cause {
        Cause::Timeout { limit, after } => Some((limit, after)),
        _ => None,
    });
    if let Some(all) = timeout.collect::<Option<Vec<(&'static str, Duration)>>>() {
        let (limit, after) = all.first().copied().unwrap_or_default();
        return verdict(Cause::Timeout { limit, after }, -1, message);
    }
    // One word for all where they agree; where they do not, the scripts failed in some way.
    let first = verdicts().next();
    let same =
        |get: fn(&Verdict) -> String| first.is_some_and(|first| verdicts().all(|other| get(other) == get(first)));
    let cause = match first {
        Some(first) if same(|verdict| verdict.reason().to_owned()) => first.cause.clone(),
        _ => Cause::Exit,
    };
    let exit_code = match first {
        Some(first) if same(|verdict| verdict.exit_code.to_string()) => first.exit_code,
        Some(_) => 1,
        None => NOT_RUN,
    };
    verdict(cause, exit_code, message)
}

/// `2 of 3 servers failed. web-1: the script ended with …; web-2: …`, cut where it gets long.
fn summary(parts: &[Part], failed: usize) -> String {
    let count = parts.len();
    let mut text = match failed {
        0 => format!("all {count} servers succeeded."),
        _ => format!("{failed} of {count} servers failed."),
    };
    // Failures first: they are what the reader looks for.
    let (bad, good): (Vec<&Part>, Vec<&Part>) =
        parts.iter().partition(|part| part.outcome.verdict.cause != Cause::Success);
    let mut left = count;
    for part in bad.into_iter().chain(good) {
        let said: String = part.outcome.verdict.message.chars().take(limits::SSH_SUMMARY_PART).collect();
        let line = format!(" {}: {said};", part.name);
        if text.len() + line.len() > limits::SSH_SUMMARY {
            break;
        }
        text.push_str(&line);
        left -= 1;
    }
    match left {
        0 => text.trim_end_matches(';').to_owned(),
        left => format!("{text} and {left} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Status;

    fn part(at: usize, cause: Cause, exit_code: i32) -> Part {
        let verdict = Verdict { phase: Phase::Execution, cause, exit_code, message: format!("because {exit_code}") };
        Part { at, name: format!("web-{at}"), outcome: unrun(verdict) }
    }

    #[test]
    fn one_verdict_of_many() {
        let ok = || part(1, Cause::Success, 0);
        let late = || part(2, Cause::Timeout { limit: "the job's timeout", after: Duration::from_secs(1) }, -1);
        let bad = |code| part(3, Cause::Exit, code);
        let gone = || part(4, Cause::Infrastructure, 125);
        let stopped = || part(5, Cause::Cancelled("user"), 143);
        let table = [
            (vec![ok(), ok()], None, Status::Completed, 0, "success"),
            (vec![ok(), bad(3), late()], None, Status::Completed, 102, "partial"),
            (vec![late(), late()], None, Status::Timeout, -1, "timeout"),
            (vec![late(), bad(3)], None, Status::Failed, 1, "script"),
            (vec![bad(3), bad(3)], None, Status::Failed, 3, "script"),
            (vec![bad(3), bad(4)], None, Status::Failed, 1, "script"),
            (vec![gone(), gone()], None, Status::Failed, 125, "infrastructure"),
            (vec![ok(), stopped()], Some("user"), Status::Cancelled, 143, "cancelled"),
            // The cancel came when all had ended.
            (vec![ok(), ok()], Some("user"), Status::Completed, 0, "success"),
        ];
        for (parts, cancelled, status, code, reason) in table {
            let verdict = sum(&parts, cancelled);
            assert_eq!((verdict.status(), verdict.exit_code, verdict.reason()), (status, code, reason), "{verdict}");
        }
    }

    #[test]
    fn the_summary_names_each_server_and_is_bounded() {
        let verdict = sum(&[part(1, Cause::Success, 0), part(2, Cause::Exit, 7)], None);
        assert_eq!(verdict.message, "1 of 2 servers failed. web-2: because 7; web-1: because 0");
        let many: Vec<Part> = (0..200).map(|at| part(at, Cause::Exit, i32::MAX)).collect();
        let message = sum(&many, None).message;
        assert!(message.len() <= limits::SSH_SUMMARY + 20 && message.contains("more"), "{message}");
    }

    #[test]
    fn ids_of_executions_differ_and_fit() {
        let long = Id::parse(&format!("exec-{}-1700000000000", "j".repeat(81))).expect("id");
        for execution in [Id::parse("exec-a-1").expect("id"), long] {
            let ids: std::collections::BTreeSet<_> = (1..=200).map(|n| numbered(&execution, n)).collect();
            assert_eq!(ids.len(), 200);
            assert!(ids.iter().all(|id| id.as_str().len() <= crate::job::ID_MAX && id.as_str().starts_with("exec-")));
        }
    }
}

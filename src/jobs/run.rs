//! The life of a job that was claimed, from the acknowledgement to its one report.
//!
//! [`run`] reads from top to bottom. Each early exit is a `?` with an [`Unreported`], which
//! [`JobContext::finish`] handles. The calls to the backend that need not block the script run beside it, on the
//! thread of [`AckTask`]: the container is made while the backend acknowledges, and starts only once it has.

use std::sync::Arc;

use crate::executors::container::spec::container_name;
use crate::executors::ending::stopped;
use crate::executors::{CleanupGuard, End, Prepared, Task};
use crate::job::{Id, Job, Kind, Server};
use crate::jobs::ack_task::{AckTask, ExecutionRow};
use crate::jobs::conclude::{broken, conclude, ended, unrun};
use crate::jobs::context::JobContext;
use crate::jobs::ending::{Life, Unreported};
use crate::jobs::fanout;
use crate::jobs::helpers::Session;
use crate::jobs::output::JobOutput;
use crate::jobs::record::{self, Container, Done, Entry, JobRecord, Logins, Place};
use crate::jobs::running::{Note, Step, Token};
use crate::os::threads;
use crate::signing::receipt::Facts;
use crate::verdict::{Cause, Phase, Verdict};

/// Runs a job and reports it.
pub(in crate::jobs) fn run(context: &Arc<JobContext>, job: Job, execution: Id, token: &Token) -> Life {
    log::info!("claimed: {}, attempt {}", what(&job), job.attempts.saturating_add(1));
    let server = match (job.kind, job.servers.as_slice()) {
        (Kind::Container | Kind::Http, _) => None,
        (Kind::Ssh, [Ok(server)]) => Some(server.clone()),
        (Kind::Ssh, _) => return fanout::run(context, job, &execution, token),
    };
    let mut task = Task { job: Arc::new(job), server, execution, helpers: None };
    let control = context.control(token);
    if control.is_given_back() {
        return Err(Unreported::GiveBack("the agent is stopping"));
    }
    let mut output = context.output(&task.job, token);
    let row = ExecutionRow::new(&task.execution, task.server.as_ref());
    let ack = AckTask::start(context, (&task.execution, token), Some(row))?;
    // On disk before anything of it exists: after a crash it is found, or known not to have begun.
    let kept = (
        place_of(&task, &context.logins),
        context.secrets.sealed(token.redactor(), &task.execution),
        context.receipts.begin(&task.job),
    );
    let intent = JobRecord::intend(&context.records, &task, kept, output.progress());
    let record = Arc::new(ack.unless_failed(intent)?);
    let helpers = context.helpers_of(&task, &record, token.redactor());
    task.helpers = helpers.as_ref().map(Session::api);

    token.step(Step::Preparing);
    let prepared = threads::guarded(|| context.executor(task.job.kind).prepare(&task, &control, &mut output));
    // Dropping what is prepared removes it.
    ack.ours()?;
    let end = match prepared {
        Ok(Ok(ready)) => match control.reason() {
            Some(reason) => End::Outcome(Box::new(unrun(stopped(&reason, None))), CleanupGuard::of(ready)),
            None => start(context, ready, &task, (&record, &ack, token), &mut output),
        },
        Ok(Err(_)) if control.is_given_back() => End::NeverRan(CleanupGuard::none()),
        Ok(Err(outcome)) => End::Outcome(outcome, CleanupGuard::none()),
        Err(panic) => ended(broken(panic)),
    };
    control.end();
    token.step(Step::Reporting);
    Session::after(helpers, conclude(context, &record, end, output, Some(ack)))
}

/// What is to be done, for the log.
fn what(job: &Job) -> String {
    match &job.http {
        Some(_) => "HTTP request".to_owned(),
        None => format!("{} script", job.script.language.as_str()),
    }
}

/// Where the task runs, before it is there.
fn place_of(task: &Task, logins: &Logins) -> Place {
    match &task.server {
        Some(server) => Place::Servers(vec![record::page_of(server, String::new(), &task.execution, logins)]),
        None if task.job.kind == Kind::Http => Place::Nowhere,
        None => Place::Container(Container { name: container_name(&task.execution), ..Container::default() }),
    }
}

/// Starts what is ready, once its record says so, and follows it to its end.
fn start(
    context: &JobContext,
    ready: Box<dyn Prepared>,
    task: &Task,
    (record, ack, token): (&Arc<JobRecord>, &AckTask, &Token),
    output: &mut JobOutput,
) -> End {
    let info = ready.reattach_info();
    token.note(Note::Place(task.server.as_ref().map_or_else(|| info.place.clone(), Server::shown)));
    if info.warm.is_some() {
        token.note(Note::Warm);
    }
    context.receipts.note(record, || ready.walls());
    if let Err(error) = record.start(&info, context.pages.is_used()) {
        log::error!("not starting the job, since its record says that it was not: {error}");
        return End::NeverRan(CleanupGuard::of(ready));
    }
    ack.started();
    token.step(Step::Running);
    context.show(&task.job.id, "running", None);
    output.show_on(context.pages.open(&task.job.id, &task.execution, token.control()));
    context.checkpoints.keep(record);
    threads::guarded(|| ready.run(task, output)).unwrap_or_else(|panic| ended(broken(panic)))
}

/// Reports a job that cannot be run as it was sent.
pub(in crate::jobs) fn refuse(
    context: &Arc<JobContext>,
    (execution, token): (&Id, &Token),
    (kind, job): (Kind, Option<&Job>),
    reason: String,
) -> Life {
    log::warn!("refused: {reason}");
    let ack = AckTask::start(context, (execution, token), Some(ExecutionRow::new(execution, None)))?;
    ack.ours()?;
    let facts = job.and_then(|job| context.receipts.of_job(job));
    report_unrun(context, (execution, token), (kind, 0, facts), Verdict::refused(reason), ack)
}

/// Tells the backend once more how a job ended that it hands out again: it is not run a second time.
pub(in crate::jobs) fn repeat(
    context: &Arc<JobContext>,
    job: &Job,
    (execution, token): (&Id, &Token),
    done: &Done,
) -> Life {
    log::warn!("the job was finished before as {}; it is reported so again and not run", done.status);
    let ack = AckTask::start(context, (execution, token), None)?;
    ack.ours()?;
    let mut facts = context.receipts.of_job(job);
    facts.iter_mut().for_each(|facts| drop(facts.insert("repeated".to_owned(), "true".to_owned())));
    report_unrun(context, (execution, token), (job.kind, job.attempts, facts), as_before(done), ack)
}

/// Reports a job of which nothing runs here.
fn report_unrun(
    context: &JobContext,
    (execution, token): (&Id, &Token),
    (kind, attempts, facts): (Kind, u32, Option<Facts>),
    verdict: Verdict,
    ack: AckTask,
) -> Life {
    let id = token.id();
    // A user's cancel, of which the acknowledgement told, says more.
    let verdict = token.control().reason().map_or(verdict, |reason| stopped(&reason, None));
    let output = JobOutput::new(0, context.streamer.open(id), token.redactor());
    let entry = Entry { receipt: facts, ..record::blank(id, execution, kind, attempts, None, Place::Nowhere) };
    let record = JobRecord::claimed(&context.records, entry, output.progress());
    conclude(context, &record, ended(unrun(verdict)), output, Some(ack))
}

/// The verdict of a job that this agent had finished before.
fn as_before(done: &Done) -> Verdict {
    let message = format!("this agent had finished the job before, and did not run it again: {}", done.message);
    let cause = match done.status.as_str() {
        "completed" if done.exit_code == 0 => Cause::Success,
        "completed" => Cause::Partial(u32::try_from(done.exit_code - 100).unwrap_or(0)),
        "timeout" => Cause::Timeout { limit: "the job's timeout", after: std::time::Duration::ZERO },
        "cancelled" => Cause::Cancelled("backend (before)"),
        _ => Cause::Exit,
    };
    Verdict { phase: Phase::Execution, cause, exit_code: done.exit_code, message }
}

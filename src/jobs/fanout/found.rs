//! What the record says of a job on several servers, and what that leaves to do on each of them; no I/O.

use std::time::Duration;

use crate::executors::ReattachInfo;
use crate::job::{BadServer, Id, Job, Server};
use crate::jobs::conclude::unrun;
use crate::jobs::reattach::limit_name;
use crate::jobs::record::Logins;
use crate::jobs::record::page_of;
use crate::jobs::record::{Part, PartEnd, Server as Page, Started};
use crate::limits;
use crate::verdict::{Cause, Outcome, Phase, Usage, Verdict};

/// One server of the job, and what is to be done there.
pub(super) struct Slot {
    pub(super) name: String,
    /// The backend's id of the server.
    pub(super) id: Option<String>,
    pub(super) execution: Id,
    pub(super) way: Way,
    /// Whether its record was made.
    pub(super) record: bool,
    /// The server with the folder of a script that ended under an earlier agent, which may not have removed it.
    pub(super) remains: Option<(Server, String)>,
}

impl Slot {
    /// The same with nothing to do.
    pub(super) fn bare(&self) -> Self {
        let way = Way::Without(not_run());
        Self {
            name: self.name.clone(),
            id: self.id.clone(),
            execution: self.execution.clone(),
            way,
            record: self.record,
            remains: None,
        }
    }
}

/// What is to be done on one server.
pub(super) enum Way {
    Start(Server),
    /// An earlier agent started it: its folder there.
    GoOn(Server, String, Started),
    /// Nothing can be done: why, as its ending.
    Without(Verdict),
    /// It ended under an earlier agent; whether its record was completed.
    Over(Box<Outcome>, bool),
}

/// Who cancelled a part that ended under an earlier agent.
const BEFORE: &str = "somebody, before the agent was restarted";

/// A claimed job's servers, none begun.
pub(super) fn fresh(job: &Job, execution: &Id) -> Vec<Slot> {
    let each = job.servers.iter().enumerate();
    each.map(|(at, server)| {
        let (name, id, way) = match server {
            Ok(server) => (server.name.clone(), server.id.clone(), Way::Start(server.clone())),
            Err(bad) => (bad.name.clone(), bad.id.clone(), Way::Without(Verdict::refused(bad.why.clone()))),
        };
        Slot { name, id, execution: numbered(execution, at + 1), way, record: false, remains: None }
    })
    .collect()
}

/// The record's pages of all servers of a claimed job.
pub(super) fn pages(job: &Job, execution: &Id, logins: &Logins) -> Vec<Page> {
    let each = job.servers.iter().enumerate();
    each.map(|(at, server)| {
        let execution = numbered(execution, at + 1);
        let page = match server {
            Ok(server) => page_of(server, String::new(), &execution, logins),
            Err(BadServer { id, name, .. }) => Page {
                name: name.clone(),
                server_id: id.clone().unwrap_or_default(),
                host: String::new(),
                port: 0,
                user: String::new(),
                directory: String::new(),
                execution,
                part: Part::OfJob,
                remains: false,
                login: String::new(),
            },
        };
        Page { part: Part::Waiting { record: false }, ..page }
    })
    .collect()
}

/// The servers of a job that an earlier agent began. `job` is what the backend tells of it, with the script and, at some
/// backends, the logins.
pub(super) fn again(pages: &[Page], job: Option<&Job>, logins: &Logins) -> Vec<Slot> {
    let each = pages.iter().enumerate();
    each.map(|(at, page)| {
        let kept = logins.open(page).map(Ok);
        let known = job.and_then(|job| server_of(job, at, page));
        // What waits needs the script too, which the backend alone has.
        let known = known.or(kept.as_ref().filter(|_| job.is_some() || matches!(page.part, Part::Started(_))));
        let (way, record) = match (&page.part, known) {
            (Part::Ended(end), _) => (Way::Over(Box::new(outcome_of(end)), end.recorded), true),
            (Part::Waiting { record }, Some(Ok(server))) => (Way::Start(server.clone()), *record),
            (Part::Waiting { record }, Some(Err(bad))) => (Way::Without(Verdict::refused(bad.why.clone())), *record),
            (Part::Waiting { record }, None) => (Way::Without(not_run()), *record),
            (Part::Started(started), Some(Ok(server))) => {
                (Way::GoOn(server.clone(), page.directory.clone(), started.clone()), true)
            }
            (Part::Started(_), _) => {
                (Way::Without(unknown("the backend does not tell any more how to log in to its server")), true)
            }
            // An earlier version's page, which did not keep the servers apart.
            (Part::OfJob, _) => (Way::Without(unknown("its page does not say how far it had come there")), true),
        };
        let id = Some(page.server_id.clone()).filter(|id| !id.is_empty());
        let remains = remains_of(job, at, page, logins);
        Slot { name: page.name.clone(), id, execution: page.execution.clone(), way, record, remains }
    })
    .collect()
}

/// Whether there is anything for which the backend must tell script or login.
pub(in crate::jobs) fn needs_backend(pages: &[Page], logins: &Logins) -> bool {
    let needs_login = |page: &Page| page.remains || matches!(page.part, Part::Started(_));
    let waits = |page: &Page| matches!(page.part, Part::Waiting { .. });
    pages.iter().any(|page| waits(page) || needs_login(page) && logins.open(page).is_none())
}

/// The folder that may still be on this page's server, with the login of the record or of the backend; `None` without one.
pub(in crate::jobs) fn remains_of(
    job: Option<&Job>,
    at: usize,
    page: &Page,
    logins: &Logins,
) -> Option<(Server, String)> {
    if !page.remains {
        return None;
    }
    let told = || job.and_then(|job| server_of(job, at, page)).and_then(|server| server.as_ref().ok()).cloned();
    let server = logins.open(page).or_else(told);
    if server.is_none() {
        log::warn!(
            "{} may be left behind on {}: the backend does not tell any more how to log in there",
            page.directory,
            page.name
        );
    }
    server.map(|server| (server, page.directory.clone()))
}

/// The server of this page in the backend's list: at its old place, or wherever it is now.
fn server_of<'a>(job: &'a Job, at: usize, page: &Page) -> Option<&'a Result<Server, BadServer>> {
    let same = |server: &&Result<Server, BadServer>| match server {
        Ok(server) => page.host == server.host && page.port == server.port && page.user == server.user,
        Err(bad) => page.host.is_empty() && page.name == bad.name,
    };
    job.servers.get(at).filter(same).or_else(|| job.servers.iter().find(same))
}

fn unknown(why: &str) -> Verdict {
    let words = format!("the agent was restarted while the script ran, and {why}: its end is unknown");
    Verdict::infrastructure(Phase::Execution, words)
}

fn not_run() -> Verdict {
    let words = "not run: the agent was restarted before the script had begun there, and the backend does not tell any \
                 more what to run";
    Verdict::infrastructure(Phase::Setup, words)
}

/// What an executor needs to find the script again.
pub(super) fn reattach_info(directory: &str, started: &Started) -> ReattachInfo {
    let timeout = (Duration::from_millis(started.timeout_ms), limit_name(&started.timeout_name));
    ReattachInfo { place: directory.to_owned(), image: String::new(), limits: None, timeout, warm: None }
}

/// What a record keeps of an ending, but for what is owed to the backend.
pub(super) fn end_of(outcome: &Outcome) -> PartEnd {
    let verdict = &outcome.verdict;
    let (timeout_name, timeout_ms) = match verdict.cause {
        Cause::Timeout { limit, after } => (limit.to_owned(), u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        _ => Default::default(),
    };
    PartEnd {
        reason: verdict.reason().to_owned(),
        exit_code: verdict.exit_code,
        message: verdict.message.chars().take(limits::SSH_SUMMARY_PART).collect(),
        timeout_name,
        timeout_ms,
        cpu_seconds: outcome.usage.cpu_seconds,
        recorded: true,
        owed: None,
    }
}

/// The update of a server's record that is kept until the backend takes it: the whole one, or one without the output.
/// `owes`: the bytes that are kept of the job already.
pub(super) fn kept(owes: usize, whole: String, bare: impl FnOnce() -> String) -> String {
    if owes + whole.len() > limits::SSH_RECORDS_OWED { bare() } else { whole }
}

/// The ending that the record kept.
pub(super) fn outcome_of(end: &PartEnd) -> Outcome {
    let cause = match end.reason.as_str() {
        "success" => Cause::Success,
        "script" => Cause::Exit,
        "signal" => Cause::Signal(end.exit_code - 128),
        "timeout" => {
            Cause::Timeout { limit: limit_name(&end.timeout_name), after: Duration::from_millis(end.timeout_ms) }
        }
        "cancelled" => Cause::Cancelled(BEFORE),
        "refused" => Cause::Refused,
        _ => Cause::Infrastructure,
    };
    let message = end.message.clone();
    let verdict = Verdict { phase: Phase::Execution, cause, exit_code: end.exit_code, message };
    Outcome { usage: Usage { cpu_seconds: end.cpu_seconds, ..Usage::default() }, ..unrun(verdict) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Kind, Language, Resources, Script};
    use crate::jobs::resume::ResumePoint;
    use crate::secret::Secret;

    fn server(name: &str, host: &str) -> Server {
        let (id, user) = (Some("3".to_owned()), "deploy".to_owned());
        let (name, host) = (name.to_owned(), host.to_owned());
        Server {
            id,
            name,
            host,
            port: 22,
            user,
            private_key: None,
            certificate: None,
            passphrase: None,
            password: None,
            jump: None,
        }
    }

    fn job(servers: Vec<Result<Server, BadServer>>) -> Job {
        Job {
            id: Id::parse("a").expect("id"),
            kind: Kind::Ssh,
            priority: 0,
            attempts: 0,
            script: Script { language: Language::Bash, content: "true".into(), working_directory: String::new() },
            http: None,
            environment: Vec::new(),
            timeout: None,
            resources: Resources::default(),
            servers,
            event: Default::default(),
            input: Default::default(),
            original_type: None,
            signature: None,
        }
    }

    fn started() -> Started {
        Started {
            id: None,
            started_ms: 1,
            deadline_ms: 2,
            timeout_name: "jobs.maxTimeout".into(),
            timeout_ms: 3,
            boot_id: String::new(),
            resume: ResumePoint::default(),
        }
    }

    /// One word for what is to be done, and the verdict's words where nothing can be.
    fn word(slot: &Slot) -> String {
        match &slot.way {
            Way::Start(server) => format!("start on {}", server.host),
            Way::GoOn(server, directory, _) => format!("go on at {}{directory}", server.host),
            Way::Without(verdict) => verdict.message.clone(),
            Way::Over(outcome, recorded) => format!("over {} {recorded}", outcome.verdict.exit_code),
        }
    }

    #[test]
    fn each_servers_page_says_what_is_left_to_do() {
        let bad = || BadServer { id: None, name: "bad".into(), why: "port: 0".into() };
        let before = job(vec![Ok(server("a", "h1")), Ok(server("b", "h2")), Ok(server("c", "h3")), Err(bad())]);
        let execution = Id::parse("exec-a-1").expect("id");
        let logins = |token: &str| Logins::new(&Secret::new(token));
        let mut pages = pages(&before, &execution, &logins("token"));
        // As after another token, so that only the backend knows how to log in.
        let others = logins("another");
        let words = |pages: &[Page], job: Option<&Job>| again(pages, job, &others).iter().map(word).collect::<Vec<_>>();
        assert_eq!(words(&pages, Some(&before)), ["start on h1", "start on h2", "start on h3", "port: 0"]);
        pages[0].part = Part::Started(started());
        pages[0].directory = "/tmp/x".to_owned();
        let verdict = Verdict { phase: Phase::Execution, cause: Cause::Exit, exit_code: 7, message: "seven".into() };
        pages[1].part = Part::Ended(end_of(&unrun(verdict)));
        assert_eq!(words(&pages, Some(&before)), ["go on at h1/tmp/x", "over 7 true", "start on h3", "port: 0"]);
        // The list has another order now, and one is gone.
        let after = job(vec![Ok(server("c", "h3")), Ok(server("b", "h2")), Err(bad())]);
        let moved = words(&pages, Some(&after));
        assert!(moved[0].contains("log in") && moved[0].contains("its end is unknown"), "{moved:?}");
        assert_eq!(moved[1..], ["over 7 true", "start on h3", "port: 0"]);
        let alone = words(&pages, None);
        assert!(alone[0].contains("its end is unknown") && alone[2].starts_with("not run: "), "{alone:?}");
        assert!(alone[3].starts_with("not run: "), "{alone:?}");
        pages[0].part = Part::OfJob;
        assert!(words(&pages, Some(&before))[0].contains("its end is unknown"));
        assert!(needs_backend(&pages, &others) && !needs_backend(&pages[..2], &others));
        // A folder that may be left is looked for at the server's new place in the list.
        pages[1].remains = true;
        pages[1].directory = "/tmp/y".to_owned();
        assert!(needs_backend(&pages[..2], &others) && !needs_backend(&pages[..2], &logins("token")));
        let left = |job| again(&pages, job, &others).into_iter().map(|slot| slot.remains).collect::<Vec<_>>();
        assert!(left(Some(&after)).iter().map(Option::is_some).eq([false, true, false, false]));
        assert_eq!(left(Some(&after))[1].as_ref().map(|(server, at)| (&*server.host, &**at)), Some(("h2", "/tmp/y")));
        assert!(left(None).iter().all(Option::is_none));
        // The records have the logins: no backend is needed for what was started and for what is left.
        pages[0].part = Part::Started(started());
        let own = again(&pages, None, &logins("token"));
        assert_eq!(word(&own[0]), "go on at h1/tmp/x");
        assert!(own[1].remains.is_some() && word(&own[2]).starts_with("not run: "));
    }

    #[test]
    fn an_ending_comes_back_as_it_was() {
        let after = Duration::from_secs(3);
        for (cause, exit_code) in [
            (Cause::Success, 0),
            (Cause::Exit, 7),
            (Cause::Signal(9), 137),
            (Cause::Timeout { limit: "jobs.defaultTimeout", after }, -1),
            (Cause::Cancelled(BEFORE), 143),
            (Cause::Refused, 125),
            (Cause::Infrastructure, 125),
        ] {
            let verdict = Verdict { phase: Phase::Execution, cause, exit_code, message: "as it was".into() };
            let usage = Usage { cpu_seconds: 1.5, ..Usage::default() };
            let outcome = Outcome { usage, ..unrun(verdict.clone()) };
            let back = outcome_of(&end_of(&outcome));
            assert_eq!((back.verdict, back.usage), (verdict, usage));
        }
        let long = unrun(Verdict::refused("é".repeat(5000)));
        assert_eq!(end_of(&long).message.chars().count(), limits::SSH_SUMMARY_PART);
    }

    #[test]
    fn beyond_a_bound_a_record_is_kept_without_its_output() {
        let most = limits::SSH_RECORDS_OWED - "whole".len();
        let kept = |owes| kept(owes, "whole".to_owned(), || "bare".to_owned());
        assert_eq!((kept(0), kept(most), kept(most + 1)), ("whole".into(), "whole".into(), "bare".into()));
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

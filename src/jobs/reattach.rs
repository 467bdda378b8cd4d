//! What an agent needs to go on with a job of an earlier one: the job as its record tells it, and what the backend adds.
//!
//! No script and no variable is in a record. The backend is asked for them, for as long as it takes. A server's login is
//! there, sealed.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::types::{ResourceSet, Trust};
use crate::executors::{AdoptError, ReattachInfo, Task, WarmInfo};
use crate::job::{Claim, Job, Language, Resources, Script, Server};
use crate::jobs::admission::admit;
use crate::jobs::context::JobContext;
use crate::jobs::ending::Unreported;
use crate::jobs::record::{Entry, Place, Started};
use crate::limits;
use crate::os::clock;

/// Why a job waits, said once for each reason: it may be for hours, and is looked at each [`limits::ADOPT_AGAIN`].
#[derive(Default)]
pub(in crate::jobs) struct Waits(String);

impl Waits {
    /// Whether this was news.
    pub(in crate::jobs) fn say(&mut self, why: String) -> bool {
        let news = self.0 != why;
        if news {
            log::warn!("the job waits: {why}");
            self.0 = why;
        }
        news
    }
}

/// The job as the backend's row has it; the deployed one has no logins there. `None`: the row does not have it, or has one
/// that may not run here. Servers that had not begun would run its script, so it is admitted as one that was just claimed.
pub(in crate::jobs) fn asked(
    context: &JobContext,
    entry: &Entry,
    is_detached: impl Fn() -> bool,
) -> Result<Option<Box<Job>>, Unreported> {
    let mut waits = Waits::default();
    loop {
        match context.client.stored(&entry.job, &context.config.now().ssh.hosts) {
            Ok(claim) => return Ok(claim.and_then(|claim| admitted(&context.config.now().trust, claim, clock::wall()))),
            Err(error) => {
                waits.say(error.to_string());
            }
        }
        if is_detached() || context.stop.wait(limits::ADOPT_AGAIN) {
            return Err(Unreported::LeftToNext);
        }
    }
}

fn admitted(trust: &Trust, claim: Claim, now: SystemTime) -> Option<Box<Job>> {
    let Claim::Run(job) = claim else { return None };
    match admit(trust, &job, now) {
        Ok(_) => Some(job),
        Err(why) => {
            log::error!("the job's row is not used: {why}");
            None
        }
    }
}

/// How to log in to the job's server: as its record has it, else as the backend tells it.
pub(in crate::jobs) fn login(context: &JobContext, entry: &Entry) -> Result<Server, AdoptError> {
    let Place::Servers(pages) = &entry.place else { return Err(AdoptError::Gone("it has no server".to_owned())) };
    if let Some(server) = pages.first().and_then(|page| context.logins.open(page)) {
        return Ok(server);
    }
    let stored = context
        .client
        .stored(&entry.job, &context.config.now().ssh.hosts)
        .map_err(|error| AdoptError::Unreachable(error.to_string()))?;
    let servers = match stored {
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
        .ok_or_else(|| AdoptError::Gone("the backend does not tell any more how to log in to its server".to_owned()))
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
        http: None,
        environment: Vec::new(),
        timeout: None,
        resources: Resources::default(),
        servers: Vec::new(),
        event: entry.helpers.clone().unwrap_or_default().event,
        input: Default::default(),
        original_type: None,
        signature: None,
    };
    Task { job: Arc::new(job), server, execution: entry.execution.clone(), helpers: None }
}

pub(in crate::jobs) fn reattach_info(entry: &Entry, started: Option<&Started>) -> ReattachInfo {
    let after = Duration::from_millis(started.map_or(0, |started| started.timeout_ms));
    let name = limit_name(started.map_or("", |started| started.timeout_name.as_str()));
    let (place, image, limits) = match &entry.place {
        // Without limits: a container of an agent that did not write them on it.
        Place::Container(page) if page.memory == 0 => (page.name.clone(), page.image.clone(), None),
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
    let since = Duration::from_millis(started.map_or(0, |started| started.started_ms));
    let warm = match &entry.place {
        Place::Container(page) => page.warm.clone(),
        Place::Servers(_) | Place::Nowhere => None,
    };
    let warm = warm.map(|id| WarmInfo { id, since: UNIX_EPOCH + since });
    ReattachInfo { place, image, limits, timeout: (after, name), warm }
}

/// The name of a time limit that stands in a page.
pub(in crate::jobs) fn limit_name(text: &str) -> &'static str {
    match text {
        "jobs.defaultTimeout" => "jobs.defaultTimeout",
        "jobs.maxTimeout" => "jobs.maxTimeout",
        _ => "the job's timeout",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::types::SignatureMode;

    /// A backend that was taken over must not put another script under a job that an earlier agent began.
    #[test]
    fn a_row_that_may_not_run_here_is_not_used_after_a_restart_either() {
        let row = br#"{"execution":{"script":{"type":"BASH","content":"echo evil"}}}"#;
        let claim = || crate::api::job_of(crate::job::Id::parse("a").expect("id"), row, &Default::default());
        assert!(admitted(&Trust::default(), claim(), UNIX_EPOCH).is_some());
        let trust = Trust { signatures: SignatureMode::Require, ..Trust::default() };
        assert!(admitted(&trust, claim(), UNIX_EPOCH).is_none());
    }

    #[test]
    fn a_reason_to_wait_is_said_once_until_there_is_another() {
        let mut waits = Waits::default();
        let said = ["away", "away", "refused", "refused", "away"].map(|why| waits.say(why.to_owned()));
        assert_eq!(said, [true, false, true, false, true]);
    }
}

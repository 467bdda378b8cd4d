//! One attempt at one job, as an executor gets it.

use std::sync::Arc;
use std::time::Duration;

use crate::config::types::Jobs;
use crate::executors::ending::seconds;
use crate::executors::helpers::{self, Calls, HelperApi, HelperFiles};
use crate::job::{Id, Job, Output, Server};
use crate::secret::Secret;

/// One attempt at one job.
#[derive(Debug)]
pub struct Task {
    pub job: Arc<Job>,
    /// Where it runs, unless that is a container.
    pub server: Option<Server>,
    /// `exec-<job id>-<unix ms>`, unique.
    pub execution: Id,
    /// What the script's helpers reach, where it has any.
    pub helpers: Option<Arc<dyn HelperApi>>,
}

impl Task {
    /// The agent's own variables, then the job's: a job's own value never hides what the agent says. `has_socket`: the
    /// script finds the agent's socket beside it.
    pub(super) fn variables(&self, has_socket: bool) -> Vec<(String, Secret)> {
        let text = |name: &str, value: &str| (name.to_owned(), Secret::new(value));
        let mut own = vec![
            text("CRONIUM_JOB_ID", self.job.id.as_str()),
            text("CRONIUM_JOB_TYPE", self.job.kind.as_str()),
            text("CRONIUM_EXECUTION_ID", self.execution.as_str()),
            text("CRONIUM_EXECUTION_MODE", self.job.kind.as_str()),
        ];
        if let Some(api) = self.helpers.as_ref().filter(|_| has_socket) {
            own.extend(helpers::variables(api));
        }
        let is_own = |name: &str| own.iter().any(|(key, _)| key == name);
        let mut all: Vec<_> = self.job.environment.iter().filter(|(name, _)| !is_own(name)).cloned().collect();
        all.append(&mut own);
        all
    }

    /// What travels with its script; `None` when that has no helpers.
    pub(super) fn helper_files<'a>(&'a self, calls: Calls<'a>) -> Option<HelperFiles<'a>> {
        let files = || HelperFiles::of(&self.job, self.execution.as_str(), self.server.as_ref(), calls);
        self.helpers.as_ref().map(|_| files())
    }

    /// The job's time limit within `jobs.maxTimeout`, with its name in the verdict.
    pub(super) fn timeout(&self, jobs: &Jobs, output: &mut dyn Output) -> (Duration, &'static str) {
        let most = jobs.max_timeout;
        let (wish, name) = match self.job.timeout {
            Some(own) => (own, "the job's timeout"),
            None => (jobs.default_timeout, "jobs.defaultTimeout"),
        };
        if wish > most {
            let (wish, limit) = (seconds(wish), seconds(most));
            output.system(&format!("timeout: the job asks for {wish}, the limit is {limit}"));
            return (most, "jobs.maxTimeout");
        }
        (wish, name)
    }
}

//! One attempt at one job, as an executor gets it.

use std::sync::Arc;
use std::time::Duration;

use crate::config::types::Jobs;
use crate::executors::ending::seconds;
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
}

impl Task {
    /// The agent's own variables, then the job's: a job's own value never hides what the agent says.
    pub(super) fn variables(&self) -> Vec<(String, Secret)> {
        let own = [
            ("CRONIUM_JOB_ID", self.job.id.as_str()),
            ("CRONIUM_JOB_TYPE", self.job.kind.as_str()),
            ("CRONIUM_EXECUTION_ID", self.execution.as_str()),
            ("CRONIUM_EXECUTION_MODE", self.job.kind.as_str()),
        ];
        let is_own = |name: &str| own.iter().any(|(key, _)| *key == name);
        let theirs = self.job.environment.iter().filter(|(name, _)| !is_own(name)).cloned();
        theirs.chain(own.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value)))).collect()
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

//! `cancel`: ends a job of the agent that runs on this host.

use crate::cli::{UsageError, exit, print};
use crate::config::types::Config;
use crate::health::ask::ask;
use crate::job::Id;
use crate::jobs::control::Cancelled;

/// The job that was typed.
pub(in crate::cli) fn job(text: &str) -> Result<Id, UsageError> {
    if text.is_empty() {
        return Err(UsageError("usage: cronium-agent cancel JOB".to_owned()));
    }
    Id::parse(text).map_err(|error| UsageError(format!("{text:?} is no job's id: {error}")))
}

/// Asks; gives the program's exit code.
pub fn run(config: &Config, job: &Id) -> u8 {
    match ask::<Cancelled>(&config.state.dir, &format!("POST /jobs/{job}/cancel")) {
        Ok((_, cancelled)) if cancelled.is_late() => {
            print::say(format!("job {job} has ended already, its report is under way"), exit::OK)
        }
        Ok((_, cancelled)) => {
            print::say(format!("job {job} was told to end; it was {}", cancelled.phase.escape_debug()), exit::OK)
        }
        Err(error) => print::say(error, exit::FAILED),
    }
}

//! `cancel`: ends a job of the agent that runs on this host.

use std::ffi::OsStr;

use crate::cli::{UsageError, exit};
use crate::config::types::Config;
use crate::health::ask::ask;
use crate::job::Id;
use crate::jobs::control::Cancelled;

/// The job that was typed.
pub(in crate::cli) fn job(word: &OsStr) -> Result<Id, UsageError> {
    let text = word.to_string_lossy();
    Id::parse(&text).map_err(|error| UsageError(format!("{text:?} is no job's id: {error}")))
}

/// Asks; gives the program's exit code.
#[allow(clippy::print_stderr)]
pub fn run(config: &Config, job: &Id) -> u8 {
    match ask::<Cancelled>(&config.state.dir, &format!("POST /jobs/{job}/cancel")) {
        Ok((_, cancelled)) if cancelled.is_late() => {
            eprintln!("cronium-agent: job {job} has ended already, its report is under way");
            exit::OK
        }
        Ok((_, cancelled)) => {
            eprintln!("cronium-agent: job {job} was told to end; it was {}", cancelled.phase.escape_debug());
            exit::OK
        }
        Err(error) => {
            eprintln!("cronium-agent: {error}");
            exit::FAILED
        }
    }
}

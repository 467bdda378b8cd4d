//! `gc`: lists and removes containers of this agent that were left in the engine.
//!
//! Without a running agent no job runs, but the next start goes on with a job that has a record: its container stays.
//! Beside a running agent this only looks: when the disk is full, only the agent knows which jobs it runs, and its own
//! janitor removes what is left behind. Containers of a killed `exec` are listed and removed in the same way.

use std::cell::LazyCell;
use std::fmt::Write as _;
use std::time::Duration;

use crate::cli::{UsageError, exit, gc_images, print};
use crate::config::types::Config;
use crate::config::value;
use crate::docker::containers::short;
use crate::docker::{self, Error};
use crate::executors::container::janitor::{Fate, Found, Janitor};
use crate::jobs::record;
use crate::limits;

/// What was typed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Request {
    /// `--dry-run`: removes nothing.
    pub dry_run: bool,
    /// `--grace`: younger containers stay; [`limits::JANITOR_GRACE`] without it.
    pub grace: Option<Duration>,
    /// `--images`: images, and no containers.
    pub images: bool,
}

impl Request {
    /// Takes the value of `--grace`.
    pub(in crate::cli) fn take_grace(&mut self, text: &str) -> Result<(), UsageError> {
        let grace = value::parse_duration(text);
        let grace = grace.ok_or_else(|| UsageError(format!("--grace {text:?} is not a time such as 0s or 10m")))?;
        self.grace = Some(grace);
        Ok(())
    }
}

/// One line of the table: container, job, state, age, what is done.
type Line = [String; 5];

/// What may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Remove,
    DryRun,
    /// Beside an agent.
    Look,
}

/// Looks, removes, prints a table; gives the program's exit code. `agent` is this agent's id: `None` where none has run yet.
pub fn run(config: &Config, agent: Result<Option<String>, String>, request: &Request) -> u8 {
    if request.images {
        return gc_images::run(config, request);
    }
    match collect(config, agent, request) {
        Ok((text, exit::OK)) => print::out(&text),
        Ok((text, code)) => {
            print::out(&text);
            code
        }
        Err((error, code)) => print::say(error, code),
    }
}

fn collect(
    config: &Config,
    agent: Result<Option<String>, String>,
    request: &Request,
) -> Result<(String, u8), (String, u8)> {
    let failed = |error: String| (error, exit::FAILED);
    let dir = &config.state.dir;
    let agent = agent.map_err(failed)?;
    let holder = record::holder(dir).map_err(|error| {
        failed(format!("cannot see whether an agent runs with state.dir {}: {error}; removing nothing", dir.display()))
    })?;
    let mode = match (&holder, request.dry_run) {
        (Some(_), _) => Mode::Look,
        (None, true) => Mode::DryRun,
        (None, false) => Mode::Remove,
    };
    let docker = docker::Client::new(&config.container.docker);
    let grace = request.grace.unwrap_or(limits::JANITOR_GRACE);
    let janitor = match &agent {
        Some(agent) => Janitor::new(docker, agent, grace),
        None => Janitor::of_exec(docker),
    };
    // Of a container that a job took, only the record tells it.
    let taken = LazyCell::new(|| record::taken(dir));
    let in_use = |found: &Found| match &found.told.job {
        Some(job) => record::knows(dir, job),
        None => taken.as_ref().is_none_or(|taken| taken.contains(&found.id)),
    };
    let found = janitor.look(&in_use).map_err(unreachable)?;
    if found.is_empty() {
        let text = match agent {
            Some(agent) => format!("no container of agent {agent} is in the engine\n"),
            None => format!("no agent has run with state.dir {}: nothing can be its\n", dir.display()),
        };
        return Ok((text, exit::OK));
    }
    let mut code = exit::OK;
    let mut lines = Vec::new();
    for (found, fate) in &found {
        let (word, is_well) = act(&janitor, found, *fate, mode, grace);
        lines.push(line(found, word));
        if !is_well {
            code = exit::FAILED;
        }
    }
    let mut text = table(lines);
    if let (Some(pid), Some(agent)) = (holder, agent) {
        let _ = writeln!(
            text,
            "agent {agent} runs (process {pid}): nothing was removed; what no job of it needs it removes by itself, from an age of {} on",
            value::show_duration(limits::JANITOR_GRACE)
        );
    }
    Ok((text, code))
}

/// Keeps or removes a container; returns the word for the table, and whether it went well.
fn act(janitor: &Janitor, found: &Found, fate: Fate, mode: Mode, grace: Duration) -> (String, bool) {
    let word = match (fate, mode) {
        (Fate::Young | Fate::Nobodys, Mode::Look) if found.warm && found.told.job.is_none() => {
            "kept: it waits for a job of the running agent".to_owned()
        }
        (Fate::InUse, Mode::Look) => "kept: its job runs".to_owned(),
        (Fate::InUse, _) => "kept: the agent's next start sees to its job".to_owned(),
        (Fate::Young, _) => format!("kept: younger than {}", value::show_duration(grace)),
        (Fate::Nobodys, Mode::Look) => "left to the running agent".to_owned(),
        (Fate::Nobodys, Mode::DryRun) => "would be removed".to_owned(),
        (Fate::Nobodys, Mode::Remove) => match janitor.remove(found) {
            Ok(()) => "removed".to_owned(),
            Err(error) => return (format!("not removed: {error}"), false),
        },
    };
    (word, true)
}

pub(in crate::cli) fn unreachable(error: Error) -> (String, u8) {
    let code = if error.is_unreachable() { exit::ENGINE } else { exit::FAILED };
    (error.to_string(), code)
}

fn line(found: &Found, word: String) -> Line {
    let job = found.told.job.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    [short(&found.id).to_owned(), job, found.state.clone(), age(found.age), word]
}

/// Two units at most: `45s`, `3m12s`, `5h07m`, `3d04h`.
pub(in crate::cli) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// The lines below a head.
fn table(lines: Vec<Line>) -> String {
    let head: Line = ["CONTAINER", "JOB", "STATE", "AGE", "ACTION"].map(str::to_owned);
    let rows: Vec<Line> = std::iter::once(head).chain(lines).collect();
    print::columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (3_599, "59m59s"),
            (3_660, "1h01m"),
            (86_399, "23h59m"),
            (97_200, "1d03h"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn columns_stand_below_each_other() {
        let line = |words: [&str; 5]| words.map(str::to_owned);
        let text =
            table(vec![line(["abc", "a-long-job", "exited", "3m12s", "removed"]), line(["d", "-", "x", "1s", "kept"])]);
        let expected = "CONTAINER  JOB         STATE   AGE    ACTION\n\
                        abc        a-long-job  exited  3m12s  removed\n\
                        d          -           x       1s     kept\n";
        assert_eq!(text, expected);
    }
}

//! `gc --images`: lists the images that this agent pulled, and removes those that nobody uses.
//!
//! The marks of `container.images.prune` do not count here: the operator who asks wants the room now. Beside a running agent this only
//! looks, since the agent alone knows which image a job is about to take.

use std::fmt::Write as _;
use std::time::Duration;

use crate::cli::gc::{Request, age, unreachable};
use crate::cli::{exit, print};
use crate::config::types::Config;
use crate::config::value;
use crate::docker;
use crate::executors::container::images::{Images, now_ms};
use crate::executors::container::prune::{self, Fate, Seen};
use crate::executors::ending::bytes;
use crate::jobs::record;

/// Looks, removes, prints a table; gives the program's exit code.
pub fn run(config: &Config, request: &Request) -> u8 {
    match collect(config, request) {
        Ok((text, exit::OK)) => print::out(&text),
        Ok((text, code)) => {
            print::out(&text);
            code
        }
        Err((error, code)) => print::say(error, code),
    }
}

fn collect(config: &Config, request: &Request) -> Result<(String, u8), (String, u8)> {
    let dir = &config.state.dir;
    let failed = |what: &str, error: std::io::Error| {
        (format!("{what} {}: {error}; removing nothing", dir.display()), exit::FAILED)
    };
    let holder =
        record::holder(dir).map_err(|error| failed("cannot see whether an agent runs with state.dir", error))?;
    let (pulled, bad) = record::pulled_images(dir)
        .map_err(|error| failed("cannot read which images the agent pulled, in state.dir", error))?;
    let docker = docker::Client::new(&config.container.docker);
    let settings = &config.container.images;
    let keep = request.grace.unwrap_or(settings.prune.keep);
    let seen = prune::look(&docker, pulled, &settings.all(), (keep, now_ms())).map_err(unreachable)?;
    let (may_remove, mut code) = (holder.is_none() && !request.dry_run, exit::OK);
    let head = ["IMAGE", "NAME", "UNUSED", "SIZE", "ACTION"].map(str::to_owned);
    let mut rows = vec![head];
    for one in seen.iter().filter(|one| one.fate != Fate::Gone) {
        let word = match &one.fate {
            Fate::Free if holder.is_some() => "left to the running agent".to_owned(),
            Fate::Free if !may_remove => "would be removed".to_owned(),
            Fate::Free => match prune::remove(&docker, &Images::default(), &one.image) {
                Ok(Fate::Kept(why)) => format!("kept: {why}"),
                Ok(_) => "removed".to_owned(),
                Err(error) => {
                    code = exit::FAILED;
                    format!("not removed: {error}")
                }
            },
            Fate::Kept(why) => format!("kept: {why}"),
            Fate::Gone => continue,
        };
        rows.push(row(one, word));
    }
    let mut text = match rows.len() {
        1 => "the engine has no image of which it is known that this agent pulled it\n".to_owned(),
        _ => print::columns(&rows),
    };
    if bad > 0 {
        let _ = writeln!(text, "{bad} lines about images in {} are damaged: those images stay", dir.display());
    }
    if let Some(pid) = holder {
        let marks = settings.prune.high.0.zip(settings.prune.low.0).map_or_else(
            || "it removes none (container.images.prune.high: off)".to_owned(),
            |(high, low)| {
                format!("it removes them itself once {high} % of the engine's disk are used, down to {low} %")
            },
        );
        let _ = writeln!(text, "the agent runs (process {pid}): nothing was removed; {marks}");
    } else if may_remove {
        let _ = writeln!(text, "an image that was used within {} stays", value::show_duration(keep));
    }
    Ok((text, code))
}

fn row(one: &Seen, word: String) -> [String; 5] {
    let id = one.image.id.strip_prefix("sha256:").unwrap_or(&one.image.id);
    let unused = Duration::from_millis(now_ms().saturating_sub(one.image.used_ms));
    [id.get(..12).unwrap_or(id).to_owned(), one.image.name.clone(), age(unused), bytes(one.size), word]
}

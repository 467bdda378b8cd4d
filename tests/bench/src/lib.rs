//! What the agent costs, measured from outside: `bench` puts it beside raw calls to the engine, in alternating pairs of
//! the same run; `footprint` looks at an agent that has nothing to do. They share no code with the agent, so that their HTTP
//! cannot be slow, or wrong, in the same way. `fleet` runs the agent's own polls hundreds of times, and looks at what the
//! backend gets.

mod agent;
mod away;
mod engine;
pub mod fleet;
pub mod footprint;
mod helpers;
mod jobs;
mod lines;
mod parts;
mod server;
pub mod table;

use std::path::PathBuf;
use std::time::Duration;

pub use table::Table;

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Size {
    /// Pairs of single jobs.
    pub serial: usize,
    /// Numbers of workers, each measured by itself.
    pub workers: Vec<usize>,
    /// Pairs of rounds with several workers.
    pub rounds: usize,
    /// Jobs in a round.
    pub jobs: usize,
    /// Pairs of jobs that print much, and
    pub floods: usize,
    /// the lines of each.
    pub lines: usize,
    /// Pairs of jobs that print a line every 20 ms, and
    pub ticks: usize,
    /// the lines of each.
    pub tick_lines: usize,
    /// Jobs in the row with the default rate limit, which takes seconds to be felt; 0 leaves the row out.
    pub limited: usize,
    /// How long the backend is away, once each. None: it is not slow either, which takes as long.
    pub outages: Vec<Duration>,
}

impl Size {
    /// For BENCHMARKS.md: about eight minutes. A round has four jobs a worker and more, since those that begin
    /// together, on an engine at rest, take another time than those that follow.
    pub fn full() -> Self {
        Self {
            serial: 30,
            workers: vec![5, 10],
            rounds: 9,
            jobs: 40,
            floods: 9,
            lines: 500_000,
            ticks: 3,
            tick_lines: 200,
            limited: 40,
            outages: vec![Duration::from_secs(20), Duration::from_secs(45)],
        }
    }

    /// For a look while something is changed: under a minute.
    pub fn quick() -> Self {
        Self {
            serial: 7,
            rounds: 2,
            jobs: 10,
            floods: 2,
            lines: 200_000,
            ticks: 1,
            tick_lines: 100,
            limited: 0,
            outages: vec![Duration::from_secs(10)],
            ..Self::full()
        }
    }

    /// For a test that the harness still works: a few seconds.
    pub fn least() -> Self {
        Self {
            serial: 2,
            workers: vec![2],
            rounds: 1,
            jobs: 4,
            floods: 1,
            lines: 50_000,
            ticks: 1,
            tick_lines: 20,
            limited: 0,
            outages: Vec::new(),
        }
    }
}

/// What is measured, on what.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The agent's program.
    pub agent: PathBuf,
    /// The engine's socket.
    pub socket: PathBuf,
    pub size: Size,
    /// One part of it, for work on its path.
    pub only: Option<Only>,
}

/// A part that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    /// Lines, twice as often.
    Lines,
    /// What the floor is made of.
    Parts,
    /// Scripts on a server.
    Server,
    /// A slow backend, and one that was away.
    Away,
}

/// Measures all of it; `progress` hears a sentence before each part.
pub fn run(setup: &Setup, progress: &mut dyn FnMut(&str)) -> Result<Table, String> {
    let mut table = Table::default();
    match setup.only {
        Some(Only::Lines) => {
            let mut setup = setup.clone();
            setup.size.floods *= 2;
            lines::flood(&setup, &mut table)?;
            lines::secrets(&setup, &mut table)?;
        }
        Some(Only::Parts) => parts::measure(setup, &mut table)?,
        Some(Only::Server) => server::warm(setup, &mut table)?,
        Some(Only::Away) => slow_and_away(setup, progress, &mut table)?,
        None => all(setup, progress, &mut table)?,
    }
    Ok(table)
}

fn slow_and_away(setup: &Setup, progress: &mut dyn FnMut(&str), table: &mut Table) -> Result<(), String> {
    if setup.size.outages.is_empty() {
        return Ok(());
    }
    progress("jobs while each call of the backend takes 3 s");
    away::slow(setup, table)?;
    for &length in &setup.size.outages {
        progress(&format!("reports after the backend was away for {} s", length.as_secs()));
        away::outage(setup, length, table)?;
    }
    Ok(())
}

fn all(setup: &Setup, progress: &mut dyn FnMut(&str), table: &mut Table) -> Result<(), String> {
    progress(&format!("{} single jobs, each beside one of the floor's", setup.size.serial));
    jobs::serial(setup, table)?;
    progress(&format!(
        "{} containers with the agent's profile of system calls, and with the engine's",
        setup.size.serial
    ));
    jobs::filter(setup, table)?;
    progress(&format!("{} first lines without and with a warm container", setup.size.serial));
    jobs::first_line(setup, table)?;
    for &workers in &setup.size.workers {
        progress(&format!("{workers} workers: {} rounds of {} jobs", setup.size.rounds, setup.size.jobs));
        jobs::parallel(setup, workers, table)?;
    }
    if setup.size.limited > 0 {
        progress(&format!("{} jobs with the default api.rateLimit", setup.size.limited));
        jobs::limited(setup, table)?;
    }
    progress(&format!("{} jobs of {} lines", setup.size.floods, setup.size.lines));
    lines::flood(setup, table)?;
    progress(&format!("{} such jobs, half of them with secrets", 2 * setup.size.floods));
    lines::secrets(setup, table)?;
    progress(&format!("{} jobs that print a line every 20 ms", setup.size.ticks));
    lines::ticks(setup, table)?;
    progress(&format!("{} scripts that call a helper", setup.size.rounds));
    helpers::variables(setup, table)?;
    progress(&format!("{} scripts on a server of the loopback", setup.size.serial));
    server::warm(setup, table)?;
    slow_and_away(setup, progress, table)
}

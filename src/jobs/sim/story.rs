//! What a seed is about: scripts, weather, and how each agent's life ends.

use std::time::Duration;

use super::backend::Weather;
use super::engine::Script;
use crate::os::sim::Sim;

/// What a seed is about.
pub(super) struct Story {
    pub(super) jobs: Vec<(String, Script)>,
    /// Lives of agents before the last one, and what ends each.
    pub(super) lives: Vec<Ending>,
    pub(super) cancels: Vec<(String, Duration, bool)>,
    pub(super) weather: Weather,
    pub(super) engine_failing: u64,
    pub(super) engine_away: Vec<(Duration, Duration)>,
    /// Thousandths of writes that the disk does not take.
    pub(super) disk_failing: u64,
    /// The agent that comes after this life finds an empty `state.dir`.
    pub(super) records_lost_after: Option<usize>,
    /// It finds pages that are gone or torn, each as likely as not.
    pub(super) pages_lost_after: Option<usize>,
}

impl Story {
    pub(super) fn cancels_at_end(&self) -> bool {
        self.lives.iter().any(|life| matches!(life, Ending::Stopped(_, AtEnd::Cancel(_))))
    }

    /// Whether something that was written down was lost.
    pub(super) fn has_losses(&self) -> bool {
        let lives = self.lives.len();
        [self.records_lost_after, self.pages_lost_after].into_iter().flatten().any(|life| life < lives)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    /// Killed at the step of this number.
    Killed(u64),
    /// Stopped after this time.
    Stopped(Duration, AtEnd),
}

/// The fate of the jobs of an agent that is stopped, perhaps after a time in which they may end.
#[derive(Debug, Clone, Copy)]
pub(super) enum AtEnd {
    Drain,
    Leave(Duration),
    Cancel(Duration),
}

/// Who cancels then.
pub(super) const SHUTDOWN: &str = "the agent's shutdown";

fn span(sim: &Sim, latest: u64, longest: u64) -> (Duration, Duration) {
    let from = Duration::from_secs(sim.below(latest));
    (from, from + Duration::from_secs(1 + sim.below(longest)))
}

pub(super) fn story(sim: &Sim) -> Story {
    let count = 1 + sim.below(4);
    let jobs: Vec<_> = (1..=count)
        .map(|number| {
            let script = Script {
                lines: sim.below(30),
                pace: Duration::from_millis(20 + sim.below(if sim.chance(200) { 4000 } else { 400 })),
                exit_code: if sim.chance(300) { 3 } else { 0 },
                yields: sim.chance(700),
            };
            (format!("job-{number}"), script)
        })
        .collect();
    let lives = (0..sim.below(4))
        .map(|_| match sim.chance(700) {
            true => Ending::Killed(1 + sim.below(if sim.chance(500) { 60 } else { 300 })),
            false => {
                // Some at the moment of the first claims.
                let after = Duration::from_millis(sim.below(if sim.chance(400) { 300 } else { 20_000 }));
                let drain = Duration::from_millis(if sim.chance(500) { 0 } else { sim.below(1500) });
                let at_end = [AtEnd::Drain, AtEnd::Leave(drain), AtEnd::Cancel(drain)];
                Ending::Stopped(after, at_end[usize::try_from(sim.below(3)).unwrap_or(0)])
            }
        })
        .collect();
    let cancels = jobs
        .iter()
        .filter(|_| sim.chance(150))
        .map(|(job, _)| (job.clone(), Duration::from_millis(sim.below(30_000)), sim.chance(500)))
        .collect();
    let rate = [0, 10, 40, 120][usize::try_from(sim.below(4)).unwrap_or(0)];
    let away = (0..sim.below(3)).map(|_| span(sim, 40, 60)).collect();
    let weather = Weather {
        refused: rate,
        cut_before: rate / 2,
        cut_after: rate,
        error_before: rate / 2,
        error_after: rate / 2,
        late: rate / 4,
        away,
    };
    let engine_failing = if sim.chance(300) { 50 } else { 0 };
    let engine_away = if sim.chance(200) { vec![span(sim, 30, 20)] } else { Vec::new() };
    let records_lost_after = sim.chance(60).then_some(0);
    let disk_failing = if sim.chance(100) { 200 } else { 0 };
    let pages_lost_after = sim.chance(120).then_some(0);
    Story {
        jobs,
        lives,
        cancels,
        weather,
        engine_failing,
        engine_away,
        disk_failing,
        records_lost_after,
        pages_lost_after,
    }
}

//! What is found about a fleet, from what its backend saw.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cronium_dev_backend::{JobRow, Request};

use crate::table::{Table, Target};

/// Requests over a stretch of time.
#[derive(Debug, Clone, Default)]
pub struct Herd {
    /// Requests a second, over all of it.
    pub mean: f64,
    /// Requests in its busiest second,
    pub second: usize,
    /// and in its busiest 100 ms.
    pub tenth: usize,
}

/// Jobs of one phase.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    pub jobs: usize,
    /// Milliseconds from the queue to the answer that handed a job out, median
    pub handed: f64,
    /// and 99th of a hundred.
    pub handed_late: f64,
    /// Milliseconds from the queue to the status `running`, median
    pub started: f64,
    /// and 99th of a hundred.
    pub started_late: f64,
    /// The same median for the jobs of real agents; not a number if they had none.
    pub real_started: f64,
    /// Claims that another agent had when they were acknowledged.
    pub lost: usize,
    /// Agents that ran a job.
    pub busy_agents: usize,
    /// Jobs of the agent that ran most.
    pub most: usize,
}

/// The time after the backend's return.
#[derive(Debug, Clone, Default)]
pub struct Return {
    /// Requests in the ten seconds that follow.
    pub herd: Herd,
    /// From the return until the last agent's poll was answered; `None` if some did not come back.
    pub all_back: Option<Duration>,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub agents: usize,
    /// The start of all of them at one moment.
    pub start: Herd,
    pub rest: Herd,
    /// Polls and heartbeats a second of one agent at rest, simulated and real.
    pub each: f64,
    pub each_real: f64,
    /// MB of one agent, simulated (with the backend's threads for it) and real.
    pub memory: f64,
    pub memory_real: f64,
    pub steady: Queue,
    pub burst: Queue,
    pub restart: Return,
    /// After a backend that hung, and lost all polls at one moment.
    pub crash: Return,
    /// Requests a second while each poll is answered with 429,
    pub crowded: Herd,
    /// and with 429 and `Retry-After`.
    pub told: Herd,
    pub after_told: Return,
    /// Jobs that were reported more or less often than once.
    pub wrong: usize,
}

impl Herd {
    /// Of requests that came at these moments, within `from` and `to`.
    pub(crate) fn of(moments: &[Instant], from: Instant, to: Instant) -> Self {
        let mut at: Vec<f64> = moments
            .iter()
            .filter(|at| (from..to).contains(*at))
            .map(|at| at.duration_since(from).as_secs_f64())
            .collect();
        at.sort_by(f64::total_cmp);
        let mean = at.len() as f64 / to.duration_since(from).as_secs_f64();
        Self { mean, second: busiest(&at, 1.0), tenth: busiest(&at, 0.1) }
    }
}

/// The most of these moments, in order, that any stretch of `width` holds.
fn busiest(moments: &[f64], width: f64) -> usize {
    let mut first = 0;
    let held = moments.iter().enumerate().map(|(last, at)| {
        while moments[first] + width <= *at {
            first += 1;
        }
        last - first + 1
    });
    held.max().unwrap_or(0)
}

/// The value below which `share` of these are. Not a number when there are none.
pub(crate) fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let reached = values.iter().enumerate().find(|(at, _)| (at + 1) as f64 >= share * values.len() as f64);
    reached.map_or(f64::NAN, |(_, value)| *value)
}

impl Queue {
    /// Of these rows; `is_real` says of an agent's id whether it is a process.
    pub(crate) fn of(rows: &[JobRow], lost: usize, is_real: impl Fn(&str) -> bool) -> Self {
        let since = |row: &JobRow, at: Option<Duration>| {
            at.map(|at| at.saturating_sub(row.queued.since_start).as_secs_f64() * 1000.0)
        };
        let handed: Vec<f64> =
            rows.iter().filter_map(|row| since(row, row.claimed.as_ref().map(|at| at.since_start))).collect();
        let started = |row: &JobRow| since(row, row.started.as_ref().map(|at| at.since_start));
        let real = |row: &&JobRow| row.claimed_by.as_deref().is_some_and(&is_real);
        let mut of_agent: BTreeMap<&str, usize> = BTreeMap::new();
        for agent in rows.iter().filter_map(|row| row.claimed_by.as_deref()) {
            *of_agent.entry(agent).or_default() += 1;
        }
        let all: Vec<f64> = rows.iter().filter_map(started).collect();
        Self {
            jobs: rows.len(),
            handed: quantile(handed.clone(), 0.5),
            handed_late: quantile(handed, 0.99),
            started: quantile(all.clone(), 0.5),
            started_late: quantile(all, 0.99),
            real_started: quantile(rows.iter().filter(real).filter_map(started).collect(), 0.5),
            lost,
            busy_agents: of_agent.len(),
            most: of_agent.values().copied().max().unwrap_or(0),
        }
    }
}

impl Return {
    /// Of these requests, by `agents` agents, after the return at `back`.
    pub(crate) fn of(requests: &[Request], agents: usize, back: Instant, length: Duration) -> Self {
        let mut first: BTreeMap<&str, Instant> = BTreeMap::new();
        let answered = |request: &&Request| {
            request.received >= back && request.status == Some(200) && request.target.contains("/jobs/queue")
        };
        for request in requests.iter().filter(answered) {
            if let Some(agent) = request.header("x-orchestrator-id") {
                first.entry(agent).or_insert(request.received);
            }
        }
        let last = first.values().max().map(|at| at.duration_since(back));
        let moments: Vec<Instant> = requests.iter().map(|request| request.received).collect();
        Self { herd: Herd::of(&moments, back, back + length), all_back: last.filter(|_| first.len() >= agents) }
    }
}

impl Figures {
    /// As a table. The floor of a rate is the mean at rest.
    pub fn table(&self) -> Table {
        let mut table = Table::default();
        let agents = self.agents;
        let rest = self.rest.mean;
        let beside = |table: &mut Table, name: &str, herd: &Herd| {
            let unit = "requests/s";
            table.pairs(&format!("{name}: busiest second"), unit, &[(herd.second as f64, rest)], None);
            table.pairs(&format!("{name}: busiest 100 ms"), unit, &[(herd.tenth as f64 * 10.0, rest)], None);
        };
        table.alone(&format!("{agents} agents at rest"), "requests/s", rest);
        beside(&mut table, "at rest", &self.rest);
        table.alone("polls and heartbeats of one agent", "requests/s", self.each);
        if self.each_real.is_finite() {
            let pair = [(self.each_real, self.each)];
            table.pairs("the same of a real agent, beside", "requests/s", &pair, Some(Target::AtMost(1.1)));
        }
        beside(&mut table, "all started at one moment", &self.start);
        for (name, queue) in [("jobs at a steady rate", &self.steady), ("a burst", &self.burst)] {
            let name = format!("{name}, {} jobs", queue.jobs);
            table.alone(&format!("{name}: queue to hand-out, median"), "ms", queue.handed);
            table.alone(&format!("{name}: queue to hand-out, 99th of 100"), "ms", queue.handed_late);
            table.alone(&format!("{name}: queue to running, median"), "ms", queue.started);
            table.alone(&format!("{name}: queue to running, 99th of 100"), "ms", queue.started_late);
            if queue.real_started.is_finite() {
                table.alone(&format!("{name}: the same of real agents, median"), "ms", queue.real_started);
            }
            table.alone(&format!("{name}: claims lost to another agent"), "claims", queue.lost as f64);
            table.alone(&format!("{name}: agents that ran one"), "agents", queue.busy_agents as f64);
            table.alone(&format!("{name}: most on one agent"), "jobs", queue.most as f64);
        }
        for (name, back) in [
            ("after a restart", &self.restart),
            ("after a hang and a restart", &self.crash),
            ("after 429 with Retry-After", &self.after_told),
        ] {
            beside(&mut table, name, &back.herd);
            let seconds = back.all_back.map_or(f64::NAN, |back| back.as_secs_f64());
            table.alone(&format!("{name}: until each agent's poll was answered"), "s", seconds);
        }
        for (name, herd) in [("each poll gets 429", &self.crowded), ("each poll gets 429 and Retry-After", &self.told)]
        {
            table.pairs(name, "requests/s", &[(herd.mean, rest)], None);
        }
        table.alone("jobs that were not reported once", "jobs", self.wrong as f64);
        table.alone("memory of a simulated agent, with the backend's threads for it", "MB", self.memory);
        if self.memory_real.is_finite() {
            table.alone("memory of a real agent (PSS)", "MB", self.memory_real);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_stretch_is_found_wherever_it_begins() {
        assert_eq!(busiest(&[], 1.0), 0);
        assert_eq!(busiest(&[0.0, 0.9, 1.0, 1.1, 1.89, 3.0], 1.0), 4);
        assert_eq!(busiest(&[0.0, 0.05, 0.1, 0.12], 0.1), 3);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(hundred.clone(), 0.99).to_string(), "99");
        assert_eq!(quantile(hundred, 0.5).to_string(), "50");
        assert_eq!(quantile(vec![7.0], 0.99).to_string(), "7");
        assert!(quantile(Vec::new(), 0.5).is_nan());
    }

    #[test]
    fn a_herd_is_counted_within_its_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let herd = Herd::of(&[at(0), at(100), at(150), at(2100), at(9000)], at(50), at(2050));
        assert_eq!((herd.second, herd.tenth), (2, 2));
        assert!((herd.mean - 1.0).abs() < 1e-9);
    }
}

//! Many agents at one backend: what it is asked, how long jobs wait, and what comes after it was away.
//!
//! Most of them are simulated, by the agent's own polls and heartbeats (see `simulated`). A few are processes, which show
//! that the others behave as they do. All figures are taken from what the backend saw.

mod figures;
mod simulated;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cronium_agent::parts::fleet::Stop;
use cronium_dev_backend::{Action, DevBackend, Fault, JobRow, Options, Settings};
use serde_json::json;

pub use figures::{Figures, Herd, Queue, Return};
use simulated::{Simulated, Terms};

use crate::agent::{Agent, job};

/// Longest wait for what is measured.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at the backend's rows.
const LOOK: Duration = Duration::from_millis(50);
/// From the last report to the next part.
const SETTLED: Duration = Duration::from_secs(1);
/// Within this time after its start each agent has polled.
const STARTED: Duration = Duration::from_secs(3);
/// Milliseconds until other agents see a claim: in this backend two of them can get one row.
const RACE_MS: u32 = 2;

type Outcome<T> = Result<T, String>;

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Size {
    /// Simulated agents.
    pub agents: usize,
    /// Processes beside them.
    pub real: usize,
    /// Until idle agents have their longest pause.
    pub settle: Duration,
    /// How long they are looked at at rest, and while they get 429.
    pub rest: Duration,
    /// Jobs a second at a steady rate, and
    pub rate: f64,
    /// for how long.
    pub steady: Duration,
    /// How long each simulated job takes.
    pub job: Duration,
    /// Jobs that come at once.
    pub burst: usize,
    /// How long the backend hangs before it is away.
    pub hang: Duration,
    /// How long it is away.
    pub away: Duration,
    /// How long the requests after its return count.
    pub after: Duration,
    /// What it says when it is asked too often, in seconds.
    pub retry_after: u32,
    /// `jobs.pollBatchSize`, if not the default.
    pub batch: Option<usize>,
}

impl Size {
    /// For BENCHMARKS.md: about four minutes.
    pub fn full(agents: usize) -> Self {
        Self {
            agents,
            real: 5,
            settle: Duration::from_secs(10),
            rest: Duration::from_secs(30),
            rate: 20.0,
            steady: Duration::from_secs(30),
            job: Duration::from_millis(300),
            burst: agents,
            hang: Duration::from_secs(5),
            away: Duration::from_secs(30),
            after: Duration::from_secs(10),
            retry_after: 5,
            batch: None,
        }
    }

    /// For a test of the bounds: less than a minute.
    pub fn least() -> Self {
        Self {
            real: 0,
            settle: Duration::from_secs(4),
            rest: Duration::from_secs(4),
            steady: Duration::from_secs(3),
            hang: Duration::from_secs(3),
            away: Duration::from_secs(3),
            after: Duration::from_secs(4),
            retry_after: 3,
            ..Self::full(50)
        }
    }
}

/// What is measured, on what. Program and socket are of the real agents only.
#[derive(Debug, Clone)]
pub struct Setup {
    pub agent: PathBuf,
    pub socket: PathBuf,
    pub size: Size,
}

struct Fleet {
    size: Size,
    backend: Arc<DevBackend>,
    real: Vec<Agent>,
    simulated: Vec<Simulated>,
    terms: Terms,
}

/// Measures all of it; `progress` hears a sentence before each part.
pub fn measure(setup: &Setup, progress: &mut dyn FnMut(&str)) -> Outcome<Figures> {
    let size = &setup.size;
    let settings = Settings { claim_race_ms: RACE_MS, ..Settings::default() };
    let backend = DevBackend::start(Options { settings, ..Options::default() });
    let backend = Arc::new(backend.map_err(|error| format!("the backend: {error}"))?);
    let terms = Terms { batch: size.batch, job: size.job, stop: Stop::new(), lost: Arc::new(AtomicUsize::new(0)) };
    let mut fleet = Fleet { size: size.clone(), backend, real: Vec::new(), simulated: Vec::new(), terms };
    let mut figures = Figures { agents: size.agents, ..Figures::default() };
    progress(&format!("{} processes and {} simulated agents start", size.real, size.agents));
    fleet.start(setup, &mut figures)?;
    progress("all of them at rest");
    fleet.rest(&mut figures)?;
    progress(&format!("{} jobs a second", size.rate));
    figures.steady = fleet.steady()?;
    progress(&format!("{} jobs at once", size.burst));
    figures.burst = fleet.burst()?;
    progress(&format!("the backend is away for {:?}", size.away));
    figures.restart = fleet.away();
    progress(&format!("it hangs for {:?}, then it is away", size.hang));
    figures.crash = fleet.crash();
    progress("each poll gets 429");
    fleet.crowded(&mut figures);
    let rows = fleet.backend.jobs();
    figures.wrong = rows.iter().filter(|row| row.terminal_reports() != 1).count();
    Ok(figures)
}

impl Fleet {
    fn all(&self) -> usize {
        self.simulated.len() + self.real.len()
    }

    fn start(&mut self, setup: &Setup, figures: &mut Figures) -> Outcome<()> {
        for _ in 0..self.size.real {
            let real = Agent::start_at(Arc::clone(&self.backend), &setup.agent, &setup.socket, &[])?;
            self.real.push(real);
        }
        if let Some(last) = self.real.last_mut() {
            last.wait("its first poll", |agent| agent.first_poll().is_some())?;
            std::thread::sleep(self.size.settle);
        }
        let (before, begun) = (resident()?, Instant::now());
        for number in 0..self.size.agents {
            self.simulated.push(Simulated::start(&format!("fleet-{number}"), &self.backend, &self.terms)?);
        }
        std::thread::sleep(STARTED.saturating_sub(begun.elapsed()));
        figures.memory = (resident()? - before) / self.size.agents as f64;
        figures.start = Herd::of(&self.moments(), begun, begun + STARTED);
        Ok(())
    }

    fn rest(&self, figures: &mut Figures) -> Outcome<()> {
        std::thread::sleep(self.size.settle);
        figures.rest = self.look(self.size.rest);
        let from = Instant::now() - self.size.rest;
        let (mut simulated, mut real) = (0, 0);
        for request in self.backend.requests() {
            let counts = request.target.contains("/jobs/queue") || request.target.contains("/heartbeat");
            if request.received < from || !counts {
                continue;
            }
            match request.header("x-orchestrator-id").is_some_and(|id| self.is_real(id)) {
                true => real += 1,
                false => simulated += 1,
            }
        }
        let each = |requests: i32, agents: usize| f64::from(requests) / agents as f64 / self.size.rest.as_secs_f64();
        (figures.each, figures.each_real) = (each(simulated, self.size.agents), each(real, self.real.len()));
        let memory: Vec<f64> = self.real.iter().map(pss).collect::<Outcome<_>>()?;
        figures.memory_real = figures::quantile(memory, 0.5);
        Ok(())
    }

    fn steady(&self) -> Outcome<Queue> {
        let (begun, mut ids) = (Instant::now(), Vec::new());
        while begun.elapsed() < self.size.steady {
            ids.push(self.enqueue()?);
            let next = begun + Duration::from_secs_f64(ids.len() as f64 / self.size.rate);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        self.finished(&ids)
    }

    fn burst(&self) -> Outcome<Queue> {
        let ids: Vec<String> = (0..self.size.burst).map(|_| self.enqueue()).collect::<Outcome<_>>()?;
        self.finished(&ids)
    }

    fn enqueue(&self) -> Outcome<String> {
        self.backend.enqueue(job("true", &json!({})))
    }

    /// Waits for the reports of all of these.
    fn finished(&self, ids: &[String]) -> Outcome<Queue> {
        let until = Instant::now() + PATIENCE;
        let has_ended = |id: &String| self.backend.job(id).is_some_and(|row| row.terminal_reports() > 0);
        for id in ids {
            while !has_ended(id) {
                if Instant::now() > until {
                    return Err(format!("job {id} got no report within {PATIENCE:?}"));
                }
                std::thread::sleep(LOOK);
            }
        }
        // The answers to the last reports arrive before anything is cut.
        std::thread::sleep(SETTLED);
        let rows: Vec<JobRow> = ids.iter().filter_map(|id| self.backend.job(id)).collect();
        let lost = self.terms.lost.swap(0, Ordering::Relaxed);
        Ok(Queue::of(&rows, lost, |id| self.is_real(id)))
    }

    /// A restart: connections are cut, and refused for a while.
    fn away(&self) -> Return {
        self.backend.refuse(self.size.away);
        let back = Instant::now() + self.size.away;
        std::thread::sleep(self.size.away + self.size.after);
        Return::of(&self.backend.requests(), self.all(), back, self.size.after)
    }

    /// It answers nothing until each agent waits for an answer; then it restarts, and all of them lose it at one moment.
    fn crash(&self) -> Return {
        self.backend.set_faults(vec![Fault { action: Action::Hang, ..Fault::default() }]);
        std::thread::sleep(self.size.hang);
        self.backend.set_faults(Vec::new());
        self.away()
    }

    /// It is asked too often, and says so; first without, then with the time after which to ask again.
    fn crowded(&self, figures: &mut Figures) {
        let refused = |headers: &[(&str, String)]| {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            let action = Action::Status { status: 429, headers, body: None };
            self.backend.set_faults(vec![Fault { path: Some("/jobs/queue".to_owned()), action, ..Fault::default() }]);
        };
        refused(&[]);
        std::thread::sleep(self.size.settle);
        figures.crowded = self.look(self.size.rest);
        refused(&[("Retry-After", self.size.retry_after.to_string())]);
        std::thread::sleep(self.size.settle + Duration::from_secs(self.size.retry_after.into()));
        figures.told = self.look(self.size.rest);
        self.backend.set_faults(Vec::new());
        let back = Instant::now();
        std::thread::sleep(self.size.after + Duration::from_secs(self.size.retry_after.into()));
        figures.after_told = Return::of(&self.backend.requests(), self.all(), back, self.size.after);
    }

    /// The requests of the time that begins now.
    fn look(&self, length: Duration) -> Herd {
        let from = Instant::now();
        std::thread::sleep(length);
        Herd::of(&self.moments(), from, from + length)
    }

    fn moments(&self) -> Vec<Instant> {
        self.backend.requests().iter().map(|request| request.received).collect()
    }

    fn is_real(&self, id: &str) -> bool {
        self.real.iter().any(|agent| agent.id == id)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.terms.stop.set();
        std::mem::take(&mut self.simulated).into_iter().for_each(Simulated::end);
    }
}

/// This process in MB.
fn resident() -> Outcome<f64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").map_err(|error| format!("smaps_rollup: {error}"))?;
    megabytes(&text, "Rss:")
}

/// A real agent's share of memory in MB.
fn pss(agent: &Agent) -> Outcome<f64> {
    megabytes(&agent.proc("smaps_rollup")?, "Pss:")
}

fn megabytes(text: &str, row: &str) -> Outcome<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(row)).ok_or("no such row in smaps_rollup")?;
    let kib = line.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()).ok_or("no number")?;
    Ok(kib * 1024.0 / 1e6)
}

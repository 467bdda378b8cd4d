//! A job from hand-out to verdict beside its floor, one at a time and several at once.

use std::time::{Duration, Instant};

use cronium_dev_backend::JobRow;
use serde_json::{Value, json};

use crate::Setup;
use crate::agent::{Agent, job, program};
use crate::engine::{Attached, Engine};
use crate::table::{Row, Table, Target, median};

/// As short as a script can be: what is measured is what is around it.
const SCRIPT: &str = "echo done";
/// The label of the floor's containers.
pub(crate) const LABEL: &str = "cronium.bench";
/// The engine is what is measured; one row has the default.
pub(crate) const NO_RATE_LIMIT: (&str, &str) = ("api.rateLimit.enabled", "false");

const LONGER: Target = Target::AtMost(1.10);
const FEWER: Target = Target::AtLeast(0.95);
const FILTERED: Target = Target::AtMost(1.02);

type Outcome<T> = Result<T, String>;

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// From the backend's answer with the job to its receipt of the report.
fn handled(row: &JobRow) -> Option<(Duration, Duration)> {
    let report = row.reports.iter().find(|report| report.terminal)?;
    Some((row.claimed.as_ref()?.since_start, report.at.since_start))
}

fn times(rows: &[JobRow]) -> Outcome<Vec<(Duration, Duration)>> {
    rows.iter().map(|row| handled(row).ok_or(format!("job {} has no times", row.id))).collect()
}

/// An agent with this number of workers, warm, and the create request of its containers.
fn start(setup: &Setup, workers: usize, more: &[(&str, &str)]) -> Outcome<(Agent, Value)> {
    let number = workers.to_string();
    let mut settings = vec![("jobs.maxConcurrent", number.as_str())];
    settings.extend_from_slice(more);
    let mut agent = Agent::start(&setup.agent, &setup.socket, &settings)?;
    agent.wait_ready()?;
    let request = agent.container(&Value::Null, LABEL)?;
    agent.finish(vec![job(SCRIPT, &json!({}))])?;
    Ok((agent, request))
}

fn floor(engine: &mut Engine, request: &Value) -> Outcome<Duration> {
    engine.run(request, &program(SCRIPT), Attached::drain)
}

/// One worker, one job after the other.
pub(crate) fn serial(setup: &Setup, table: &mut Table) -> Outcome<()> {
    let (mut agent, request) = start(setup, 1, &[NO_RATE_LIMIT])?;
    let mut engine = Engine::open(&setup.socket)?;
    floor(&mut engine, &request)?;
    let (mut pairs, mut waits, mut cpu) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..setup.size.serial {
        let before = agent.cpu_seconds()?;
        let rows = agent.finish(vec![job(SCRIPT, &json!({}))])?;
        let (claimed, reported) = times(&rows)?[0];
        waits.push(ms(claimed.saturating_sub(rows[0].queued.since_start)));
        // What the agent does after the report is its job's too, but must not run into the floor's time.
        std::thread::sleep(Duration::from_millis(50));
        cpu += agent.cpu_seconds()? - before;
        pairs.push((ms(reported - claimed), ms(floor(&mut engine, &request)?)));
    }
    table.pairs("one job, hand-out to verdict, 1 worker", "ms", &pairs, Some(LONGER));
    table.alone("its wait for the poll before that", "ms", median(waits));
    let rates: Vec<(f64, f64)> = pairs.iter().map(|pair| (1000.0 / pair.0, 1000.0 / pair.1)).collect();
    table.pairs("jobs in a row, 1 worker", "jobs/s", &rates, Some(FEWER));
    #[allow(clippy::cast_precision_loss)]
    table.alone("CPU of the agent, a job", "ms", cpu * 1000.0 / setup.size.serial as f64);
    table.alone("highest RSS of that agent", "MB", agent.peak_mb()?);
    Ok(())
}

/// From the backend's answer with the job to its receipt of the first line, without and with a container that waits.
pub(crate) fn first_line(setup: &Setup, table: &mut Table) -> Outcome<()> {
    let (mut cold, request) = start(setup, 1, &[NO_RATE_LIMIT])?;
    let mut warm = Agent::start(&setup.agent, &setup.socket, &[NO_RATE_LIMIT, ("container.warm.bash", "1")])?;
    warm.wait_ready()?;
    let mut engine = Engine::open(&setup.socket)?;
    let (mut colds, mut warms) = (Vec::new(), Vec::new());
    for _ in 0..setup.size.serial {
        let floor = engine.first_frames(&request, &program(SCRIPT))?;
        colds.push((to_first_line(&mut cold)?, ms(floor.0)));
        warm.wait("a warm container", |agent| agent.metric("cronium_warm_containers{language=\"bash\"}") == Some(1.0))?;
        // The engine is done with the work before.
        std::thread::sleep(Duration::from_millis(300));
        warms.push((to_first_line(&mut warm)?, ms(floor.1)));
    }
    table.pairs("hand-out to first line", "ms", &colds, None);
    table.pairs("hand-out to first line, warm", "ms", &warms, None);
    warms.sort_by(|a, b| a.0.total_cmp(&b.0));
    table.alone("the same, the slowest", "ms", warms.last().map_or(f64::NAN, |pair| pair.0));
    Ok(())
}

fn to_first_line(agent: &mut Agent) -> Outcome<f64> {
    let rows = agent.finish(vec![job(SCRIPT, &json!({}))])?;
    let row = rows.first().ok_or("no job")?;
    let claimed = row.claimed.as_ref().ok_or("the job was not claimed")?.unix_nanos;
    let line = agent.backend.lines(&row.id).into_iter().find(|line| line.stream == "stdout");
    let line = line.ok_or("the job has no line")?;
    #[allow(clippy::cast_precision_loss)]
    Ok((line.received - claimed) as f64 / 1e6)
}

/// The agent's filter of system calls; the floor is the same container with the engine's own.
pub(crate) fn filter(setup: &Setup, table: &mut Table) -> Outcome<()> {
    let (_agent, filtered) = start(setup, 1, &[NO_RATE_LIMIT])?;
    let mut plain = filtered.clone();
    let options = plain["HostConfig"]["SecurityOpt"].as_array_mut().ok_or("the container has no SecurityOpt")?;
    let count = options.len();
    options.retain(|option| !option.as_str().is_some_and(|text| text.starts_with("seccomp=")));
    if options.len() + 1 != count {
        return Err("the agent's container has no profile of system calls".to_owned());
    }
    let mut engine = Engine::open(&setup.socket)?;
    engine.create_and_start(&plain)?;
    let mut pairs = Vec::new();
    for round in 0..setup.size.serial {
        // Each is the first in every other pair.
        let first = ms(engine.create_and_start(if round % 2 == 0 { &filtered } else { &plain })?);
        let second = ms(engine.create_and_start(if round % 2 == 0 { &plain } else { &filtered })?);
        pairs.push(if round % 2 == 0 { (first, second) } else { (second, first) });
    }
    table.pairs("create and start, the agent's profile beside the engine's", "ms", &pairs, Some(FILTERED));
    Ok(())
}

/// A number of workers, rounds of jobs that are queued at once.
pub(crate) fn parallel(setup: &Setup, workers: usize, table: &mut Table) -> Outcome<()> {
    let (mut agent, request) = start(setup, workers, &[NO_RATE_LIMIT])?;
    let (mut each, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..setup.size.rounds {
        let (one, rate) = agent_round(&mut agent, setup.size.jobs)?;
        let (floor_one, floor_rate) = floor_round(setup, workers, &request)?;
        each.push((one, floor_one));
        rates.push((rate, floor_rate));
    }
    table.pairs(&format!("one job, hand-out to verdict, {workers} workers"), "ms", &each, Some(LONGER));
    table.pairs(&format!("jobs, {workers} workers"), "jobs/s", &rates, Some(FEWER));
    table.alone(&format!("highest RSS of that agent, {workers} workers"), "MB", agent.peak_mb()?);
    Ok(())
}

/// Median time of one job in ms, and jobs a second from the first hand-out to the last verdict.
fn agent_round(agent: &mut Agent, count: usize) -> Outcome<(f64, f64)> {
    let rows = agent.finish((0..count).map(|_| job(SCRIPT, &json!({}))).collect())?;
    let times = times(&rows)?;
    let first = times.iter().map(|time| time.0).min().unwrap_or_default();
    let last = times.iter().map(|time| time.1).max().unwrap_or_default();
    let one = median(times.iter().map(|(from, to)| ms(to.saturating_sub(*from))));
    Ok((one, rate(count, last.saturating_sub(first))))
}

#[allow(clippy::cast_precision_loss)]
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// The same of the floor, with a thread for each worker.
fn floor_round(setup: &Setup, workers: usize, request: &Value) -> Outcome<(f64, f64)> {
    let left = std::sync::atomic::AtomicUsize::new(setup.size.jobs);
    let take = || {
        left.fetch_update(std::sync::atomic::Ordering::Relaxed, std::sync::atomic::Ordering::Relaxed, |n| {
            n.checked_sub(1)
        })
    };
    let begun = Instant::now();
    let lists: Vec<Outcome<Vec<f64>>> = std::thread::scope(|scope| {
        let work = || {
            let mut engine = Engine::open(&setup.socket)?;
            let mut out = Vec::new();
            while take().is_ok() {
                out.push(ms(floor(&mut engine, request)?));
            }
            Ok(out)
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Err("a thread of the floor panicked".into())))
            .collect()
    });
    let rate = rate(setup.size.jobs, begun.elapsed());
    let all = lists.into_iter().collect::<Outcome<Vec<_>>>()?.concat();
    Ok((median(all), rate))
}

/// What the default rate limit makes of it.
pub(crate) fn limited(setup: &Setup, table: &mut Table) -> Outcome<()> {
    let (mut agent, _) = start(setup, 5, &[])?;
    let (_, rate) = agent_round(&mut agent, setup.size.limited)?;
    let name = format!("{} jobs, 5 workers, with default api.rateLimit", setup.size.limited);
    table.rows.push(Row { name, unit: "jobs/s", agent: rate, floor: None, ratio: None, target: None });
    Ok(())
}

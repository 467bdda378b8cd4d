//! Jobs while the backend is slow, and their reports after it was away.
//!
//! Nothing runs beside these, so there is no floor to measure: a slow call's floor is its own length.

use std::time::{Duration, Instant, SystemTime};

use cronium_dev_backend::{DevBackend, JobRow, Settings};
use serde_json::json;

use crate::Setup;
use crate::agent::{Agent, job};
use crate::table::{Table, Target, median};

type Outcome<T> = Result<T, String>;

/// What each call takes that the deployed backend answers late without its socket server.
const CALL_MS: u32 = 3000;
/// Jobs that wait for the backend's return.
const WAITING: usize = 5;

/// Each call of a job takes a while: the deployed backend without its socket server does that.
pub(crate) fn slow(setup: &Setup, table: &mut Table) -> Outcome<()> {
    let mut agent = Agent::start(&setup.agent, &setup.socket, &[("jobs.maxConcurrent", "1")])?;
    agent.wait_ready()?;
    agent.backend.set_settings(Settings {
        socket_server: false,
        broadcast_delay_ms: CALL_MS.into(),
        ..Settings::default()
    });
    let rows = agent.finish((0..setup.size.rounds.max(2)).map(|_| job("echo done", &json!({}))).collect())?;
    let (mut free, mut reports) = (Vec::new(), Vec::new());
    for row in &rows {
        let ended = ended(row)?;
        let after = |at: Instant| ms(at.saturating_duration_since(ended));
        // The poll for the next job shows that the worker waits for one.
        free.extend(arrivals(&agent.backend, "/jobs/queue").into_iter().filter(|at| *at > ended).min().map(after));
        reports.extend(arrivals(&agent.backend, &format!("/jobs/{}/complete", row.id)).into_iter().map(after));
    }
    table.alone("each call takes 3 s: worker free after the script's end", "ms", median(free));
    let calls: Vec<(f64, f64)> = reports.into_iter().map(|late| (late, 2.0 * f64::from(CALL_MS))).collect();
    table.pairs("each call takes 3 s: report after the end, beside 2 calls", "ms", &calls, Some(Target::AtMost(1.1)));
    Ok(())
}

/// Jobs end while the backend refuses every connection.
pub(crate) fn outage(setup: &Setup, length: Duration, table: &mut Table) -> Outcome<()> {
    let mut agent = Agent::start(&setup.agent, &setup.socket, &[])?;
    agent.wait_ready()?;
    let ids: Vec<String> =
        (0..WAITING).map(|_| agent.backend.enqueue(job("sleep 2", &json!({})))).collect::<Outcome<_>>()?;
    agent.wait("the scripts to run", |agent| {
        ids.iter().all(|id| agent.backend.job(id).is_some_and(|row| row.status == "running"))
    })?;
    agent.backend.refuse(length);
    let back = Instant::now() + length;
    agent.wait("reports after the outage", |agent| {
        ids.iter().all(|id| agent.backend.job(id).is_some_and(|row| row.terminal_reports() > 0))
    })?;
    let late = |id: &String| {
        let all = arrivals(&agent.backend, &format!("/jobs/{id}/complete"));
        all.last().map(|at| ms(at.saturating_duration_since(back)))
    };
    let mut late: Vec<f64> = ids.iter().filter_map(late).collect();
    late.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (late.first(), late.last()) else { return Err("no report arrived".to_owned()) };
    let name =
        |which: &str| format!("backend away for {} s: {which} of {WAITING} reports after its return", length.as_secs());
    table.alone(&name("first"), "ms", *first);
    table.alone(&name("last"), "ms", *last);
    Ok(())
}

/// The script's end, as the report has it, on the clock of this process.
fn ended(row: &JobRow) -> Outcome<Instant> {
    let report = row.reports.iter().find(|report| report.terminal).ok_or("no report")?;
    let text = report.body["metrics"]["endTime"].as_str().ok_or("a report without its end")?;
    let clock = text.split(['T', 'Z']).nth(1).ok_or("no time of day")?;
    let part = |text: &str| text.parse::<f64>().map_err(|error| format!("{clock}: {error}"));
    let of_day = clock.split(':').try_fold(0.0, |sum, text| Ok::<f64, String>(sum * 60.0 + part(text)?))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())?;
    let since = (now.as_secs_f64() % 86_400.0 - of_day).rem_euclid(86_400.0);
    Instant::now().checked_sub(Duration::from_secs_f64(since)).ok_or_else(|| "a clock that began today".to_owned())
}

/// When the agent's requests to this path arrived.
fn arrivals(backend: &DevBackend, path: &str) -> Vec<Instant> {
    let requests = backend.requests();
    requests.iter().filter(|request| request.target.contains(path)).map(|request| request.received).collect()
}

fn ms(length: Duration) -> f64 {
    length.as_secs_f64() * 1000.0
}

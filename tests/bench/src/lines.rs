//! Lines on their way: how many a second get from the engine to the backend, and how long one takes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::Setup;
use crate::agent::{Agent, job, program};
use crate::engine::{Attached, Engine};
use crate::jobs::{LABEL, NO_RATE_LIMIT};
use crate::table::{Table, Target, median};

/// Bytes of a line with its end.
const LINE: usize = 80;

type Outcome<T> = Result<T, String>;

/// More than the default's half core: the script must not be what is slow.
fn resources() -> Value {
    json!({"cpuLimit": 2.0})
}

#[allow(clippy::cast_precision_loss)]
fn float(count: usize) -> f64 {
    count as f64
}

fn start(setup: &Setup) -> Outcome<(Agent, Value)> {
    let more = [("jobs.maxConcurrent", "1"), NO_RATE_LIMIT, ("container.resources.limits.cpu", "2.0")];
    let mut agent = Agent::start(&setup.agent, &setup.socket, &more)?;
    agent.wait_ready()?;
    let request = agent.container(&resources(), LABEL)?;
    Ok((agent, request))
}

/// Jobs that print as fast as they can.
pub(crate) fn flood(setup: &Setup, table: &mut Table) -> Outcome<()> {
    let lines = setup.size.lines;
    let script = format!("yes \"$(printf %0{}d 7)\" | head -n {lines}", LINE - 1);
    let (mut agent, request) = start(setup)?;
    let mut engine = Engine::open(&setup.socket)?;
    let (mut rates, mut arrived, mut cpu) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..setup.size.floods {
        let before = agent.cpu_seconds()?;
        let (rate, share) = agent_flood(&mut agent, job(&script, &resources()), lines)?;
        std::thread::sleep(Duration::from_millis(50));
        cpu += agent.cpu_seconds()? - before;
        arrived.push(share);
        rates.push((rate, floor_flood(&mut engine, &request, &script, lines)?));
    }
    let name = format!("lines of {LINE} bytes, attach to WebSocket");
    table.pairs(&name, "lines/s", &rates, Some(Target::AtLeast(0.9)));
    let bytes: Vec<_> = rates.iter().map(|(a, f)| (a * float(LINE) / 1e6, f * float(LINE) / 1e6)).collect();
    table.pairs(&name, "MB/s", &bytes, Some(Target::AtLeast(0.9)));
    table.alone("of them arrived live", "%", 100.0 * median(arrived));
    table.alone("CPU of the agent, a million lines", "s", cpu * 1e6 / float(lines * setup.size.floods));
    table.alone("highest RSS of that agent", "MB", agent.peak_mb()?);
    Ok(())
}

/// The same jobs with twenty secrets to take out of what they print, beside jobs with none.
pub(crate) fn secrets(setup: &Setup, table: &mut Table) -> Outcome<()> {
    let lines = setup.size.lines;
    let script = format!("yes \"$(printf %0{}d 7)\" | head -n {lines}", LINE - 1);
    let (mut agent, _) = start(setup)?;
    let (mut rates, mut cpu) = (Vec::new(), [0.0; 2]);
    for _ in 0..setup.size.floods {
        let mut pair = [0.0; 2];
        for (at, count) in [20, 0].into_iter().enumerate() {
            let secret = |n: usize| (format!("TOKEN_{n}"), json!(format!("Zm9vYmFy{n:02}c2VjcmV0dmFsdWU{n:02}+/x")));
            let mut row = job(&script, &resources());
            row["execution"]["environment"] = Value::Object((0..count).map(secret).collect());
            let before = agent.cpu_seconds()?;
            pair[at] = agent_flood(&mut agent, row, lines)?.0;
            std::thread::sleep(Duration::from_millis(50));
            cpu[at] += agent.cpu_seconds()? - before;
        }
        rates.push((pair[0], pair[1]));
    }
    table.pairs("lines with 20 secrets, beside none", "lines/s", &rates, Some(Target::AtLeast(0.97)));
    let million = |cpu: f64| cpu * 1e6 / float(lines * setup.size.floods);
    table.pairs(
        "CPU of the agent, a million lines with 20 secrets, beside none",
        "s",
        &[(million(cpu[0]), million(cpu[1]))],
        None,
    );
    Ok(())
}

/// Lines a second that arrived, from the first to the last; and the share of the printed lines that did.
fn agent_flood(agent: &mut Agent, row: Value, lines: usize) -> Outcome<(f64, f64)> {
    let rows = agent.finish(vec![row])?;
    let got = agent.backend.line_sums(&rows[0].id).ok_or("no lines arrived")?;
    let kept = agent.backend.lines(&rows[0].id);
    let mut printed = kept.iter().filter(|line| line.stream == "stdout").map(|line| line.received);
    let first = printed.next().ok_or("no lines arrived")?;
    let nanos = printed.next_back().ok_or("one line arrived")? - first;
    let count = usize::try_from(got.counts[0]).map_err(|error| error.to_string())?;
    let seconds = Duration::from_nanos(u64::try_from(nanos).map_err(|error| error.to_string())?).as_secs_f64();
    Ok((float(count) / seconds, float(count) / float(lines)))
}

/// Lines a second over attach, from the first frame to the last.
fn floor_flood(engine: &mut Engine, request: &Value, script: &str, lines: usize) -> Outcome<f64> {
    let (mut bytes, mut seconds) = (0, 0.0);
    engine.run(request, &program(script), |attached: &mut Attached| {
        let (mut frame, mut first) = (Vec::new(), None);
        while attached.frame(&mut frame)? {
            let first = first.get_or_insert_with(Instant::now);
            bytes += frame.len();
            seconds = first.elapsed().as_secs_f64();
        }
        Ok(())
    })?;
    if bytes != lines * LINE {
        return Err(format!("the floor read {bytes} bytes of {}", lines * LINE));
    }
    Ok(float(lines) / seconds)
}

/// Jobs that print the time, and how old it is when it arrives.
pub(crate) fn ticks(setup: &Setup, table: &mut Table) -> Outcome<()> {
    let count = setup.size.tick_lines;
    // Microseconds of Bash, and three digits more.
    let script = format!("for i in $(seq {count}); do echo \"T${{EPOCHREALTIME/./}}000\"; sleep 0.02; done");
    let (mut agent, request) = start(setup)?;
    let mut engine = Engine::open(&setup.socket)?;
    let (mut middle, mut late) = (Vec::new(), Vec::new());
    for _ in 0..setup.size.ticks {
        let rows = agent.finish(vec![job(&script, &resources())])?;
        let got = agent.backend.line_sums(&rows[0].id).ok_or("no lines arrived")?.latency();
        let at = |key: &str| got[key].as_f64().unwrap_or(f64::NAN) / 1000.0;
        let mut ages = floor_ticks(&mut engine, &request, &script)?;
        ages.sort_by(f64::total_cmp);
        let p99 = *ages.get((ages.len().max(1) - 1) * 99 / 100).ok_or("the floor read no lines")?;
        middle.push((at("p50"), median(ages.iter().copied())));
        late.push((at("p99"), p99));
    }
    table.pairs("print to receipt, median", "ms", &middle, None);
    table.pairs("print to receipt, 99th of 100", "ms", &late, None);
    Ok(())
}

/// Ages in ms at which lines come over attach.
fn floor_ticks(engine: &mut Engine, request: &Value, script: &str) -> Outcome<Vec<f64>> {
    let mut ages = Vec::new();
    engine.run(request, &program(script), |attached: &mut Attached| {
        let mut frame = Vec::new();
        while attached.frame(&mut frame)? {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            for line in String::from_utf8_lossy(&frame).lines() {
                let nanos = line.strip_prefix('T').and_then(|text| text.parse::<u64>().ok());
                let printed = Duration::from_nanos(nanos.ok_or(format!("the floor read '{line}'"))?);
                ages.push(now.saturating_sub(printed).as_secs_f64() * 1000.0);
            }
        }
        Ok(())
    })?;
    Ok(ages)
}

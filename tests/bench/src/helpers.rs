//! What a call of a script's helpers costs: `getVariable` in a container, beside the same request made to the backend
//! directly over a connection that is kept.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::{Value, json};

use crate::Setup;
use crate::agent::{Agent, job};
use crate::jobs::NO_RATE_LIMIT;
use crate::table::{Table, median};

type Outcome<T> = Result<T, String>;

/// Calls that are measured in one round: far below those that a script may make in a minute.
const CALLS: usize = 100;
/// Prints the median of its calls in milliseconds; the first one loads what the library needs.
const SCRIPT: &str = "
import time
cronium.getVariable('k')
times = []
for n in range(CALLS):
    begun = time.perf_counter()
    cronium.getVariable('k')
    times.append((time.perf_counter() - begun) * 1000)
print(sorted(times)[len(times) // 2])
";

/// Rounds of both, one after the other.
pub(crate) fn variables(setup: &Setup, table: &mut Table) -> Outcome<()> {
    let mut agent = Agent::start(&setup.agent, &setup.socket, &[NO_RATE_LIMIT])?;
    agent.wait_ready()?;
    agent.backend.set_variable("u1", "k", "value");
    let mut pairs = Vec::new();
    for _ in 0..setup.size.rounds {
        let mut call = job(&SCRIPT.replace("CALLS", &CALLS.to_string()), &json!({ "cpuLimit": 2 }));
        call["execution"]["script"]["type"] = json!("PYTHON");
        let rows = agent.finish(vec![call])?;
        let said = rows.iter().flat_map(|row| &row.reports).find(|report| report.terminal);
        let said = said.and_then(|report| report.body["output"]["stdout"].as_str()).unwrap_or_default();
        let taken: f64 = said.trim().parse().map_err(|_| format!("the script said {said:?}"))?;
        pairs.push((taken, direct(&agent)?));
    }
    table.pairs("getVariable in a script, median", "ms", &pairs, None);
    let above = median(pairs.iter().map(|(taken, own)| taken - own));
    table.alone("of that above the backend's own time (target: 2 at most)", "ms", above);
    Ok(())
}

/// The median of the same calls without an agent, in milliseconds.
fn direct(agent: &Agent) -> Outcome<f64> {
    let told = |error: std::io::Error| format!("a call to the backend: {error}");
    let mut stream = BufReader::new(TcpStream::connect(agent.backend.address()).map_err(told)?);
    stream.get_ref().set_nodelay(true).map_err(told)?;
    let request = format!(
        "GET /api/internal/variables/u1/k HTTP/1.1\r\nHost: backend\r\nAuthorization: Bearer {}\r\nX-Orchestrator-ID: bench\r\n\r\n",
        agent.backend.token()
    );
    let mut times = Vec::new();
    for _ in 0..=CALLS {
        let begun = Instant::now();
        stream.get_mut().write_all(request.as_bytes()).map_err(told)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).map_err(told)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().unwrap_or(0);
                }
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).map_err(told)?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        let answer: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        if answer["value"] != "value" {
            return Err(format!("the backend said {answer}"));
        }
    }
    Ok(median(times.into_iter().skip(1)))
}

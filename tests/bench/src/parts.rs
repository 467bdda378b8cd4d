//! What the floor is made of: the calls of one job, and what each choice in the create request costs.
//!
//! Each choice is left out of the agent's own request, and that container takes turns with the whole one. So a ratio below
//! one is what the choice costs, on this host. Some choices are walls: this is a price list, not advice to leave them out.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Setup;
use crate::agent::{Agent, program};
use crate::engine::Engine;
use crate::jobs::{LABEL, NO_RATE_LIMIT};
use crate::table::{Table, median};

type Outcome<T> = Result<T, String>;

/// Changes the request; false where the choice is not in it.
type Change = fn(&mut Value) -> bool;

const CHOICES: [(&str, Change); 9] = [
    ("without a network (container.network.mode: none)", |request| {
        if let Some(fields) = request.as_object_mut() {
            fields.remove("NetworkingConfig");
        }
        set(request, "NetworkMode", json!("none"))
    }),
    ("without the init process", |request| set(request, "Init", json!(false))),
    ("without the engine's log (no adoption after a restart)", |request| {
        set(request, "LogConfig", json!({"Type": "none", "Config": {}}))
    }),
    ("with the engine's profile of system calls", |request| security(request, "seccomp=")),
    ("without no-new-privileges", |request| security(request, "no-new-privileges")),
    ("without tmpfs", |request| set(request, "Tmpfs", json!({}))),
    ("with a writable root", |request| set(request, "ReadonlyRootfs", json!(false))),
    ("without limits of memory, CPU and processes", |request| {
        let limits = ["Memory", "MemorySwap", "NanoCpus", "CpuQuota", "CpuPeriod", "PidsLimit"];
        limits.map(|name| set(request, name, json!(0))).contains(&true)
    }),
    ("without bind mounts (no helpers)", |request| {
        let binds = set(request, "Binds", Value::Null);
        set(request, "Mounts", json!([])) || binds
    }),
];

/// Sets a field of `HostConfig`; false where it had that value or none.
fn set(request: &mut Value, name: &str, value: Value) -> bool {
    let Some(host) = request["HostConfig"].as_object_mut() else { return false };
    let old = host.insert(name.to_owned(), value.clone()).unwrap_or(Value::Null);
    old != value && !old.is_null()
}

fn security(request: &mut Value, option: &str) -> bool {
    let Some(options) = request["HostConfig"]["SecurityOpt"].as_array_mut() else { return false };
    let count = options.len();
    options.retain(|text| !text.as_str().is_some_and(|text| text.starts_with(option)));
    options.len() < count
}

/// Prints the calls of a job, and the choices.
pub(crate) fn measure(setup: &Setup, table: &mut Table) -> Outcome<()> {
    let mut agent = Agent::start(&setup.agent, &setup.socket, &[NO_RATE_LIMIT])?;
    agent.wait_ready()?;
    let whole = agent.container(&Value::Null, LABEL)?;
    let mut engine = Engine::open(&setup.socket)?;
    let program = program("echo done");
    engine.steps(&whole, &program)?;
    let mut steps: Vec<[Duration; 5]> = Vec::new();
    for _ in 0..setup.size.serial {
        steps.push(engine.steps(&whole, &program)?);
    }
    let names = ["create", "attach and start", "script to the end of its output", "wait for the end", "remove"];
    for (at, name) in names.iter().enumerate() {
        table.alone(&format!("one job by raw calls: {name}"), "ms", median(steps.iter().map(|each| ms(each[at]))));
    }
    table.alone("one job by raw calls: all", "ms", median(steps.iter().map(|each| each.iter().copied().map(ms).sum())));
    for (name, change) in CHOICES {
        let mut other = whole.clone();
        if !change(&mut other) {
            continue;
        }
        let mut pairs = Vec::new();
        for round in 0..setup.size.serial {
            // Each is the first in every other pair.
            let mut all = |request| Ok::<_, String>(engine.steps(request, &program)?.into_iter().map(ms).sum::<f64>());
            let (first, second) = if round % 2 == 0 { (&other, &whole) } else { (&whole, &other) };
            let (first, second) = (all(first)?, all(second)?);
            pairs.push(if round % 2 == 0 { (first, second) } else { (second, first) });
        }
        table.pairs(&format!("one job by raw calls, {name}"), "ms", &pairs, None);
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

//! `doctor`: is this host fit for jobs, and do the locks of a job hold here?
//!
//! Three parts run side by side: the host (`host`), the way to the backend (`backend`), and the engine (`engine`). When the
//! engine answers, [`crate::proofs`] tries what a job must not be able to do. Every report has a line for every check; a check
//! that could not be made is a failure that says why.

mod backend;
mod engine;
mod host;
mod jumps;
mod report;
mod versions;

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::cli::exec::no_thread;
use crate::cli::{exit, print};
use crate::config::types::Config;
use crate::config::{Loaded, Problems};
use crate::docker;
use crate::executors::Reaper;
use crate::executors::container::usage::Sampler;
use crate::limits;
use crate::os::pulse::Pulse;
use crate::os::signals::Signals;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::proofs::finding::{Check, Finding, named};
use crate::proofs::{self, By, Prover};

use report::Report;

/// What was typed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// `--json`: for programs.
    pub json: bool,
    /// `--fix-hints`: what to do about warnings too.
    pub fix_hints: bool,
    /// `--strict`: what is open by the configuration or by a version is a failure.
    pub strict: bool,
}

/// Checks, prints, gives the program's exit code. `agent` is this agent's id: `None` where none has run yet.
pub fn run(
    loaded: Result<Loaded, Problems>,
    agent: Result<Option<String>, String>,
    request: Request,
    signals: &Signals,
) -> u8 {
    let begun = Instant::now();
    let (checks, code) = match loaded {
        Ok(loaded) => (look(&loaded, agent, signals), None),
        Err(problems) => {
            (problems.0.iter().map(|found| problem(found).of(host::CONFIGURATION)).collect(), Some(exit::USAGE))
        }
    };
    let strictly = |check: Check| Check { finding: check.finding.strictly(), ..check };
    let checks = if request.strict { checks.into_iter().map(strictly).collect() } else { checks };
    let report = Report { checks, took: begun.elapsed() };
    let text = if request.json { report.json() } else { report.text(request.fix_hints) };
    match (print::out(&text), code.unwrap_or_else(|| report.code())) {
        (shown, exit::OK) => shown,
        (_, code) => code,
    }
}

/// One problem of the configuration. Without a valid one nothing else can be checked.
fn problem(problem: &crate::config::Problem) -> Finding {
    Finding::fail(problem.to_string(), "correct this key; see cronium-agent validate")
}

/// Checks that are made on their own thread.
struct Beside {
    names: &'static [&'static str],
    made: Result<(Receiver<Vec<Finding>>, Thread), String>,
}

impl Beside {
    fn start(
        thread: &str,
        names: &'static [&'static str],
        make: impl FnOnce() -> Vec<Finding> + Send + 'static,
    ) -> Self {
        let (sender, receiver) = sync_channel(1);
        let started = threads::spawn(thread, move || drop(sender.send(make())));
        Self {
            names,
            made: started.map(|thread| (receiver, thread)).map_err(|error| format!("cannot start a thread: {error}")),
        }
    }

    /// The checks, or for each a line that says why there is none.
    fn finish(self) -> Vec<Check> {
        self.finish_within(limits::DOCTOR_GROUP)
    }

    fn finish_within(self, limit: Duration) -> Vec<Check> {
        let late = |_| format!("not over within {limit:?} (limits::DOCTOR_GROUP)");
        let heard = self.made.and_then(|(made, thread)| {
            let checks = made.recv_timeout(limit).map_err(late)?;
            thread.join_within(limits::THREAD_JOIN_WAIT);
            Ok(checks)
        });
        match heard {
            Ok(findings) => named(self.names, findings),
            Err(why) => named(self.names, vec![Finding::unknown(&why); self.names.len()]),
        }
    }
}

fn look(loaded: &Loaded, agent: Result<Option<String>, String>, signals: &Signals) -> Vec<Check> {
    let config = &loaded.config;
    let mut checks = vec![host::configuration(loaded).of(host::CONFIGURATION)];
    // Where no agent has run yet, the backend is asked under this command's name.
    let agent = agent.ok().flatten().unwrap_or_else(|| "doctor".to_owned());
    let (on_this, given) = (config.clone(), host::known_hosts_given(loaded));
    let on_host = Beside::start("doctor-host", &host::NAMES, move || host::checks(&on_this, given));
    let (api, tls) = (config.api.clone(), config.tls.clone());
    let at_backend = Beside::start("doctor-backend", &backend::NAMES, move || backend::checks(&api, &tls, &agent));

    let docker = docker::Client::new(&config.container.docker);
    let (of_engine, answers) = engine::checks(&docker, config);
    let proofs = match answers {
        Ok(()) => prove(&docker, config, signals).unwrap_or_else(|error| proofs::not_proven(&no_thread(error))),
        Err(why) => proofs::not_proven(&why),
    };
    checks.extend(on_host.finish());
    checks.extend(at_backend.finish());
    checks.extend(of_engine);
    checks.extend(proofs);
    checks
}

/// The canaries, which a signal to this command ends.
fn prove(docker: &docker::Client, config: &Config, signals: &Signals) -> std::io::Result<Vec<Check>> {
    let (reaper, reaper_thread) = Reaper::start(Pulse::unwatched())?;
    let (sampler, sampler_thread) = Sampler::start(docker.clone())?;
    let signal = Stop::new();
    let on_signal = signal.clone();
    let watch = signals.on_termination(move || on_signal.set())?;
    let halt = || signal.is_set().then_some("a signal to this command");
    let prover = Prover { docker, config, by: By::Doctor, reaper, sampler, jobs: None, halt: &halt };
    let proof = prover.prove();
    drop(watch);
    prover.reaper.stop();
    prover.sampler.stop();
    for thread in [reaper_thread, sampler_thread] {
        thread.join_within(limits::THREAD_JOIN_WAIT);
    }
    Ok(proof.checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_that_do_not_come_to_an_end_have_their_lines_all_the_same() {
        let (over, ended) = std::sync::mpsc::channel::<()>();
        let beside = Beside::start("t-beside", &["one", "two"], move || {
            let _ = ended.recv_timeout(Duration::from_secs(3));
            vec![Finding::ok("fine"), Finding::ok("fine")]
        });
        let checks = beside.finish_within(Duration::from_millis(50));
        assert_eq!(checks.iter().map(|check| check.name).collect::<Vec<_>>(), ["one", "two"]);
        assert!(
            checks.iter().all(|check| check.finding.measured.contains("within 50ms (limits::DOCTOR_GROUP)")),
            "{checks:?}"
        );
        drop(over);
    }
}

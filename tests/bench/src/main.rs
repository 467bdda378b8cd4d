//! `cronium-bench`: what `scripts/bench.sh` and `scripts/footprint.sh` run.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cronium_bench::{Only, Setup, Size, fleet, footprint};
use lexopt::Arg::{Long, Short, Value};
use lexopt::ValueExt as _;

const HELP: &str = "cronium-bench: measures an agent from outside

  cronium-bench bench [--quick | --least] [--lines | --parts | --server | --away] --agent FILE [--socket FILE]
      jobs and lines beside raw calls to the engine: one table; with --lines only those,
      with --parts only what the raw calls are made of, with --server only scripts on a server,
      with --away only a slow backend and reports after it was away
  cronium-bench footprint [--check] [--seconds N] --agent FILE [--threads FILE] [--socket FILE]
      --check fails when a target is missed; memory, threads, CPU, descriptors and start of an agent with nothing to do
  cronium-bench fleet [--agents N] [--real N] [--batch N] --agent FILE [--socket FILE]
      N simulated agents (500) and a few processes (5) at one backend; --batch sets jobs.pollBatchSize of the simulated ones
";

struct Arguments {
    command: String,
    setup: Setup,
    threads: PathBuf,
    seconds: u64,
    check: bool,
    fleet: fleet::Size,
}

fn arguments() -> Result<Arguments, lexopt::Error> {
    let mut command = String::new();
    let mut setup =
        Setup { agent: PathBuf::new(), socket: "/var/run/docker.sock".into(), size: Size::full(), only: None };
    let (mut threads, mut seconds, mut check) = (PathBuf::from("docs/threads.md"), 30, false);
    let mut fleet = fleet::Size::full(500);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(word) if command.is_empty() => command = word.string()?,
            Long("agent") => setup.agent = parser.value()?.into(),
            Long("socket") => setup.socket = parser.value()?.into(),
            Long("threads") => threads = parser.value()?.into(),
            Long("seconds") => seconds = parser.value()?.parse()?,
            Long("check") => check = true,
            Long("agents") => {
                fleet =
                    fleet::Size { real: fleet.real, batch: fleet.batch, ..fleet::Size::full(parser.value()?.parse()?) }
            }
            Long("real") => fleet.real = parser.value()?.parse()?,
            Long("batch") => fleet.batch = Some(parser.value()?.parse()?),
            Long("lines") => setup.only = Some(Only::Lines),
            Long("parts") => setup.only = Some(Only::Parts),
            Long("server") => setup.only = Some(Only::Server),
            Long("away") => setup.only = Some(Only::Away),
            Long("quick") => setup.size = Size::quick(),
            Long("least") => setup.size = Size::least(),
            Long("help") | Short('h') => command = "help".to_owned(),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Arguments { command, setup, threads, seconds, check, fleet })
}

fn act(arguments: &Arguments) -> Result<bool, String> {
    match arguments.command.as_str() {
        "bench" => {
            let table = cronium_bench::run(&arguments.setup, &mut |text| eprintln!("  {text}"))?;
            print!("{}", table.render());
            Ok(true)
        }
        "footprint" => {
            let Setup { agent, socket, .. } = arguments.setup.clone();
            let length = Duration::from_secs(arguments.seconds);
            let threads = arguments.threads.clone();
            let seen = footprint::measure(&footprint::Setup { agent, socket, threads, length })?;
            print!("{}", seen.text);
            Ok(!arguments.check || seen.missed.is_empty())
        }
        "fleet" => {
            let Setup { agent, socket, .. } = arguments.setup.clone();
            let setup = fleet::Setup { agent, socket, size: arguments.fleet.clone() };
            let seen = fleet::measure(&setup, &mut |text| eprintln!("  {text}"))?;
            print!("{}", seen.table().render());
            Ok(seen.wrong == 0)
        }
        "help" => {
            print!("{HELP}");
            Ok(true)
        }
        _ => Err(format!("no such command\n{HELP}")),
    }
}

fn main() -> ExitCode {
    match arguments().map_err(|error| format!("{error}\n{HELP}")).and_then(|arguments| act(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cronium-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

//! The top of the program: reads the command line and does what it says.

use std::process::ExitCode;

use crate::agent::{self, reload};
use crate::cli::{self, Command, Common, exit};
use crate::config::{self, Loaded, Problems, Sources, process_env};
use crate::os::signals::Signals;
use crate::telemetry;

/// Runs the command that the process was started with; gives its exit code.
pub fn main() -> ExitCode {
    // Before any thread exists: threads inherit what is blocked.
    let signals = Signals::block();
    let code = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Run(common)) => run(common, &signals),
        Ok(Command::Validate { common, explain }) => validate(common, explain),
        Ok(Command::Exec(common, request)) => exec(common, request, &signals),
        Ok(Command::KnownHosts(common, request)) => match load(common, false) {
            Some(loaded) => cli::known_hosts::run(&loaded.config, &request),
            None => exit::USAGE,
        },
        Ok(Command::Gc(common, request)) => match load(common, false) {
            Some(Loaded { config, .. }) => {
                let id = agent::identity::known(&config.orchestrator.id, &config.state.dir);
                cli::gc::run(&config, id, &request)
            }
            None => exit::USAGE,
        },
        Ok(Command::Doctor(common, request)) => doctor(common, request, &signals),
        Ok(Command::Status { common, json }) => match load(common, false) {
            Some(loaded) => cli::status::run(&loaded.config, json),
            None => exit::USAGE,
        },
        Ok(Command::Reload(common)) => reload(common),
        Ok(Command::Cancel(common, job)) => match load(common, false) {
            Some(loaded) => cli::cancel::run(&loaded.config, &job),
            None => exit::USAGE,
        },
        Ok(Command::Version) => show(&cli::version::text()),
        Ok(Command::Help(command)) => show(cli::help::text(command)),
        Err(error) => {
            complain(&error.0);
            exit::USAGE
        }
    };
    ExitCode::from(code)
}

fn run(common: Common, signals: &Signals) -> u8 {
    let Some(loaded) = load(common.clone(), true) else { return exit::USAGE };
    // Held to the end: it is the process's log.
    let log = match telemetry::init(&loaded.config.logging, None) {
        Ok(guard) => guard,
        Err(error) => {
            complain(&error.to_string());
            return exit::FAILED;
        }
    };
    for warning in &loaded.warnings {
        log::warn!("configuration: {warning}");
    }
    match &loaded.file {
        Some(file) => log::info!("configuration: {}", file.display()),
        None => log::info!("configuration: no file, only environment and defaults"),
    }
    let read = || config::load(&sources(common.clone(), true));
    let again = reload::Source { load: &read, reopen_log: &|| log.reopen() };
    agent::run(loaded.config, signals, &again)
}

fn validate(common: Common, explain: bool) -> u8 {
    let options = cli::validate::Options { config: common.config, overrides: common.overrides, explain };
    let outcome = cli::validate::validate(&options, &process_env);
    let shown = show(&outcome.stdout);
    print_stderr(&outcome.stderr);
    if outcome.code == exit::OK { shown } else { outcome.code }
}

fn exec(common: Common, request: cli::exec::Request, signals: &Signals) -> u8 {
    let Some(loaded) = load(common, false) else { return exit::USAGE };
    cli::exec::run(loaded.config, request, signals)
}

fn doctor(common: Common, request: cli::doctor::Request, signals: &Signals) -> u8 {
    let loaded = try_load(common, true);
    let id = match &loaded {
        Ok(Loaded { config, .. }) => agent::identity::known(&config.orchestrator.id, &config.state.dir),
        Err(_) => Ok(None),
    };
    cli::doctor::run(loaded, id, request, signals)
}

/// The agent is found by what is configured; by a configuration that is not valid, which the agent is to look at as well,
/// only as far as the command line and the environment say where it is.
fn reload(common: Common) -> u8 {
    let found = try_load(common.clone(), false).or_else(|problems| {
        let aside = Sources { path: None, search: Vec::new(), ..sources(common, false) };
        config::load(&aside).map_err(|_| problems)
    });
    match found {
        Ok(loaded) => cli::reload::run(&loaded.config.state.dir),
        Err(problems) => {
            print_stderr(&format!("{problems}\n"));
            exit::USAGE
        }
    }
}

/// Loads the configuration, or prints every problem of it.
fn load(common: Common, need_backend: bool) -> Option<Loaded> {
    try_load(common, need_backend).map_err(|problems| print_stderr(&format!("{problems}\n"))).ok()
}

fn try_load(common: Common, need_backend: bool) -> Result<Loaded, Problems> {
    config::load(&sources(common, need_backend))
}

/// Where a configuration comes from, at the start and at each reload.
fn sources(common: Common, need_backend: bool) -> Sources<'static> {
    Sources { path: common.config, overrides: common.overrides, need_backend, ..Sources::new(&process_env) }
}

fn show(text: &str) -> u8 {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // A reader that has gone away (`| head`) is no failure.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write standard output: {error}"));
            exit::FAILED
        }
        _ => exit::OK,
    }
}

fn complain(text: &str) {
    print_stderr(&format!("cronium-agent: {text}\n"));
}

fn print_stderr(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

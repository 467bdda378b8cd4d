//! The top of the program: reads the command line and does what it says.

use std::process::ExitCode;

use crate::agent::{self, reload};
use crate::cli::{self, Command, Common, exit, print};
use crate::config::types::Config;
use crate::config::{self, Loaded, Problems, Sources, process_env};
use crate::jobs;
use crate::os::proc;
use crate::os::signals::Signals;
use crate::signing::keys::TrustedKey;
use crate::telemetry;

/// Runs the command that the process was started with; gives its exit code.
pub fn main() -> ExitCode {
    proc::leave_no_core();
    // Before any thread exists: threads inherit what is blocked.
    let signals = Signals::block();
    let code = match cli::parse(std::env::args_os().skip(1)) {
        Ok((command, common)) => command_with(command, common, &signals),
        Err(error) => print::say(error.0, exit::USAGE),
    };
    ExitCode::from(code)
}

fn command_with(command: Command, common: Common, signals: &Signals) -> u8 {
    match command {
        Command::Run => run(common, signals),
        Command::Validate { explain, migrate } => validate(common, explain, migrate),
        Command::Exec(request) => with_config(common, |config| cli::exec::run(config, *request, signals)),
        Command::KnownHosts(request) => with_config(common, |config| cli::known_hosts::run(&config, &request)),
        Command::Gc(request) => with_config(common, |config| {
            let id = agent::identity::known(&config.orchestrator.id, &config.state.dir);
            cli::gc::run(&config, id, &request)
        }),
        Command::Doctor(request) => doctor(common, request, signals),
        Command::Status { json } => with_config(common, |config| cli::status::run(&config, json)),
        Command::Reload => reload(common),
        Command::Cancel(job) => with_config(common, |config| cli::cancel::run(&config, &job)),
        Command::Sign(request) => cli::sign::run(&request),
        Command::Identity => with_config(common, |config| {
            let id = agent::identity::known(&config.orchestrator.id, &config.state.dir);
            let key = jobs::receipt_key::known(&config.state.dir);
            cli::receipt::identity(id.and_then(|id| Ok((id, key?))))
        }),
        Command::VerifyReceipt(request) => cli::receipt::verify(&request, || own_keys(common)),
        Command::Version => print::out(&cli::version::text()),
        Command::Help(command) => print::out(&cli::help::text(command)),
    }
}

/// What counts where no file of trusted keys is named: the key of this host's agent.
fn own_keys(common: Common) -> Result<Vec<TrustedKey>, String> {
    let config = load(common, false).map_err(|problems| problems.to_string())?.config;
    let id = agent::identity::known(&config.orchestrator.id, &config.state.dir)?;
    match (id, jobs::receipt_key::known(&config.state.dir)?) {
        (Some(id), Some(key)) => cli::receipt::own_keys(&id, &key),
        _ => Err(cli::receipt::no_own_key(&config.state.dir)),
    }
}

fn run(common: Common, signals: &Signals) -> u8 {
    let loaded = match load(common.clone(), true) {
        Ok(loaded) => loaded,
        Err(problems) => return refused(&problems),
    };
    // Held to the end: it is the process's log.
    let log = match telemetry::init(&loaded.config.logging, None) {
        Ok(guard) => guard,
        Err(error) => return print::say(error, exit::FAILED),
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

fn validate(common: Common, explain: bool, migrate: Option<std::path::PathBuf>) -> u8 {
    let options = cli::validate::Options { config: common.config, overrides: common.overrides, explain, migrate };
    let outcome = cli::validate::validate(&options, &process_env);
    let shown = print::out(&outcome.stdout);
    print::err(&outcome.stderr);
    if outcome.code == exit::OK { shown } else { outcome.code }
}

fn doctor(common: Common, request: cli::doctor::Request, signals: &Signals) -> u8 {
    let loaded = load(common, true);
    let id = match &loaded {
        Ok(Loaded { config, .. }) => agent::identity::known(&config.orchestrator.id, &config.state.dir),
        Err(_) => Ok(None),
    };
    cli::doctor::run(loaded, id, request, signals)
}

/// The agent is found by what is configured; by a configuration that is not valid, which the agent is to look at as well,
/// only as far as the command line and the environment say where it is.
fn reload(common: Common) -> u8 {
    let found = load(common.clone(), false).or_else(|problems| {
        let fileless = Sources { path: None, search: Vec::new(), ..sources(common, false) };
        config::load(&fileless).map_err(|_| problems)
    });
    match found {
        Ok(loaded) => cli::reload::run(&loaded.config.state.dir),
        Err(problems) => refused(&problems),
    }
}

/// Runs a command that needs no backend with the configuration.
fn with_config(common: Common, command: impl FnOnce(Config) -> u8) -> u8 {
    match load(common, false) {
        Ok(loaded) => command(loaded.config),
        Err(problems) => refused(&problems),
    }
}

fn load(common: Common, need_backend: bool) -> Result<Loaded, Problems> {
    config::load(&sources(common, need_backend))
}

fn refused(problems: &Problems) -> u8 {
    print::err(&format!("{problems}\n"));
    exit::USAGE
}

/// Where a configuration comes from, at the start and at each reload.
fn sources(common: Common, need_backend: bool) -> Sources<'static> {
    Sources { path: common.config, overrides: common.overrides, need_backend, ..Sources::new(&process_env) }
}

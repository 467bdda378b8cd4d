//! `exec`: one script, the same executors, no backend. The way to try a script, or the agent, by hand.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::cli::{UsageError, exit};
use crate::config::types::{Config, Network, NetworkMode};
use crate::config::value;
use crate::docker;
use crate::executors::container::ContainerExecutor;
use crate::executors::container::janitor::Janitor;
use crate::executors::container::usage::Sampler;
use crate::executors::ssh::SshExecutor;
use crate::executors::{End, Executor, Reaper, Task};
use crate::job::{Id, Job, Kind, Language, Output, Resources, Script, Server, Stream};
use crate::limits;
use crate::os::pulse::Pulse;
use crate::os::signals::Signals;
use crate::policy::stop::{Pace, Reason};
use crate::secret::Secret;
use crate::verdict::{Cause, Outcome, Verdict};

/// What `exec` was asked to run.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Request {
    pub language: Option<Language>,
    pub environment: Vec<(String, Secret)>,
    pub timeout: Option<Duration>,
    pub memory: Option<u64>,
    pub cpu: Option<f64>,
    pub network: Option<String>,
    /// `user@host[:port]`: run there, not in a container.
    pub server: Option<(String, String, u16)>,
    /// A file with the private key for it.
    pub identity: Option<String>,
    /// A path, or `-` for standard input.
    pub file: String,
}

impl Request {
    /// The flags of `exec` that take a value.
    pub(in crate::cli) const FLAGS: [&str; 8] =
        ["lang", "env", "timeout", "memory", "cpu", "network", "server", "identity"];

    /// Takes the value of one of [`Request::FLAGS`].
    pub(in crate::cli) fn take(&mut self, flag: &str, value: String) -> Result<(), UsageError> {
        match flag {
            "lang" => {
                let language = Language::parse(&value);
                self.language =
                    Some(language.ok_or_else(|| {
                        UsageError(format!("--lang {value:?} is not known; bash, python and node are"))
                    })?);
            }
            "env" => {
                let pair = value
                    .split_once('=')
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .or_else(|| std::env::var(&value).ok().map(|found| (value.clone(), found)))
                    .filter(|(name, _)| !name.is_empty());
                let (name, value) = pair.ok_or_else(|| {
                    UsageError("-e takes NAME=VALUE, or the NAME of a variable that is set here".to_owned())
                })?;
                self.environment.push((name, Secret::new(value)));
            }
            "timeout" => {
                self.timeout =
                    Some(read("--timeout", &value, value::parse_duration, "a time such as 500ms, 30s or 5m")?);
            }
            "memory" => {
                self.memory = Some(read("--memory", &value, value::parse_size, "a size such as 256MB or 1GiB")?);
            }
            "cpu" => {
                let cores = |text: &str| text.parse::<f64>().ok().filter(|n| *n > 0.0 && n.is_finite());
                self.cpu = Some(read("--cpu", &value, cores, "a number of cores such as 0.5")?);
            }
            "server" => {
                let (user, address) = value
                    .rsplit_once('@')
                    .filter(|(user, _)| !user.is_empty())
                    .ok_or_else(|| UsageError(format!("--server takes user@host or user@host:port, not {value:?}")))?;
                let (host, port) = address_of(address)?;
                self.server = Some((user.to_owned(), host, port));
            }
            "identity" => self.identity = Some(value),
            _ => self.network = Some(value),
        }
        Ok(())
    }

    /// Checks that there is something to run.
    pub(in crate::cli) fn complete(self) -> Result<Self, UsageError> {
        if self.file.is_empty() {
            return Err(UsageError("exec needs a FILE, or - for a script on standard input".to_owned()));
        }
        if self.server.is_some() && self.identity.is_none() {
            return Err(UsageError("exec --server needs --identity FILE, the private key to log in with".to_owned()));
        }
        if self.server.is_some() && (self.memory.is_some() || self.cpu.is_some() || self.network.is_some()) {
            return Err(UsageError("--memory, --cpu and --network are for containers, not for --server".to_owned()));
        }
        Ok(self)
    }
}

/// `host`, `host:port`, `[address]:port` or an IPv6 address.
pub(in crate::cli) fn address_of(text: &str) -> Result<(String, u16), UsageError> {
    let wrong = || UsageError(format!("{text:?} is not host or host:port"));
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
        None => match text.split_once(':') {
            // A second colon: an IPv6 address without brackets.
            Some((host, rest)) if !rest.contains(':') => (host, Some(rest)),
            _ => (text, None),
        },
    };
    let port = port.map_or(Ok(22), |port| port.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(wrong))?;
    if host.is_empty() || host.starts_with('-') { Err(wrong()) } else { Ok((host.to_owned(), port)) }
}

fn read<T>(flag: &str, text: &str, parse: fn(&str) -> Option<T>, allowed: &str) -> Result<T, UsageError> {
    parse(text).ok_or_else(|| UsageError(format!("{flag} {text:?} is not {allowed}")))
}

/// Lines to stdout and stderr as they come, byte for byte; the agent's own words to stderr.
struct Terminal;

impl Output for Terminal {
    #[allow(clippy::print_stderr)]
    fn bytes(&mut self, stream: Stream, data: &[u8]) {
        // A reader that has gone away does not end the script: its verdict is still wanted.
        let _ = match stream {
            Stream::Stdout => std::io::stdout().lock().write_all(data),
            Stream::Stderr | Stream::System => std::io::stderr().lock().write_all(data),
        };
    }

    #[allow(clippy::print_stderr)]
    fn system(&mut self, text: &str) {
        eprintln!("cronium-agent: {text}");
    }

    fn settle(&mut self) {
        let _ = std::io::stdout().lock().flush();
    }
}

/// Runs the script; gives the program's exit code.
#[allow(clippy::print_stderr)]
pub fn run(mut config: Config, request: Request, signals: &Signals) -> u8 {
    let (content, language) = match load(&request) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("cronium-agent: {error}");
            return exit::USAGE;
        }
    };
    config.jobs.max_timeout = config.jobs.max_timeout.max(request.timeout.unwrap_or_default());
    if request.server.is_some() {
        return ended(on_server(&config, request, content, language, signals));
    }
    if let Some(name) = &request.network {
        config.container.network = network(name, &config.container.network);
    }
    let docker = docker::Client::new(&config.container.docker);
    if let Err(error) = docker.ping() {
        eprintln!("cronium-agent: {error}");
        return exit::ENGINE;
    }
    // What was asked for by hand is meant: it may exceed the limits that are set for the backend's jobs.
    let limits = &mut config.container.limits;
    limits.memory = limits.memory.max(request.memory.unwrap_or(0));
    limits.cpu = limits.cpu.max(request.cpu.unwrap_or(0.0));
    ended(in_container(&config, request, content, language, docker, signals))
}

/// Shows the verdict; gives the program's exit code.
#[allow(clippy::print_stderr)]
fn ended(result: Result<Outcome, String>) -> u8 {
    match result {
        Ok(outcome) => {
            eprintln!("cronium-agent: {}", outcome.verdict);
            exit_code(&outcome.verdict)
        }
        Err(error) => {
            eprintln!("cronium-agent: {error}");
            exit::EXEC_FAILED
        }
    }
}

fn in_container(
    config: &Config,
    request: Request,
    content: String,
    language: Language,
    docker: docker::Client,
    signals: &Signals,
) -> Result<Outcome, String> {
    let (sampler, sampler_thread) = Sampler::start(docker.clone()).map_err(no_thread)?;
    // What an earlier one has left that was killed; whoever asks for this script does not wait for more than a look.
    Janitor::of_exec(docker.clone()).round(&|_, _| false);
    let executor = ContainerExecutor::of_this_process(docker, config, sampler.clone());
    let task = task(request, content, language, None);
    let outcome = carry_out(config, &executor, &task, signals)?;
    executor.sweep();
    sampler.stop();
    sampler_thread.join_within(limits::THREAD_JOIN_WAIT);
    Ok(outcome)
}

fn on_server(
    config: &Config,
    request: Request,
    content: String,
    language: Language,
    signals: &Signals,
) -> Result<Outcome, String> {
    let (Some((user, host, port)), Some(identity)) = (request.server.clone(), request.identity.clone()) else {
        return Err("--server and --identity belong together".to_owned());
    };
    let key = std::fs::read_to_string(&identity).map_err(|error| format!("cannot read {identity}: {error}"))?;
    let secret = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty()).map(Secret::new);
    let server = Server {
        id: None,
        name: host.clone(),
        host,
        port,
        user,
        private_key: Some(Secret::new(key)),
        passphrase: secret(PASSPHRASE),
        password: None,
    };
    let executor = SshExecutor::new(config);
    let task = task(request, content, language, Some(server));
    let outcome = carry_out(config, &executor, &task, signals);
    executor.stop();
    outcome
}

/// The variable with the passphrase of an encrypted identity: an argument could be read by everybody.
const PASSPHRASE: &str = "CRONIUM_EXEC_PASSPHRASE";

pub(in crate::cli) fn no_thread(error: std::io::Error) -> String {
    format!("cannot start a thread: {error}")
}

/// The way that every job goes, with a signal to this command as the cancel.
fn carry_out(config: &Config, executor: &dyn Executor, task: &Task, signals: &Signals) -> Result<Outcome, String> {
    let (reaper, reaper_thread) = Reaper::start(Pulse::unwatched()).map_err(no_thread)?;
    let pace = Pace { grace: config.jobs.stop_grace, again: limits::KILL_AGAIN, patience: limits::KILL_PATIENCE };
    let control = reaper.control(pace);
    let on_signal = std::sync::Arc::clone(&control);
    let _watch = signals
        .on_termination(move || on_signal.request(Reason::Cancelled("a signal to this command")))
        .map_err(no_thread)?;
    let outcome = match executor.prepare(task, &control, &mut Terminal) {
        Ok(ready) => match ready.run(task, &mut Terminal) {
            End::Outcome(outcome, _) => *outcome,
            End::Left | End::NeverRan(_) => {
                return Err("the script was left to itself, which nobody asked for".to_owned());
            }
        },
        Err(outcome) => *outcome,
    };
    reaper.stop();
    reaper_thread.join_within(limits::THREAD_JOIN_WAIT);
    Ok(outcome)
}

fn task(request: Request, content: String, language: Language, server: Option<Server>) -> Task {
    let id = |text: String| Id::parse(&text).unwrap_or_else(|_| unreachable!("made of hex"));
    let word = crate::os::random::hex(6);
    let job = Job {
        id: id(format!("exec-{word}")),
        kind: if server.is_some() { Kind::Ssh } else { Kind::Container },
        servers: Vec::new(),
        priority: 0,
        attempts: 0,
        script: Script { language, content, working_directory: String::new() },
        environment: request.environment,
        timeout: request.timeout,
        resources: Resources { cpu: request.cpu, memory: request.memory, disk: None, pids: None },
        event_id: None,
        original_type: None,
    };
    Task { job: std::sync::Arc::new(job), server, execution: id(format!("exec-{word}-1")) }
}

fn network(name: &str, configured: &Network) -> Network {
    let mode = match name {
        "isolated" => NetworkMode::Isolated,
        "none" => NetworkMode::None,
        "bridge" => NetworkMode::Bridge,
        name => NetworkMode::Named(name.to_owned()),
    };
    Network { mode, ..configured.clone() }
}

/// The script's text, and its language: as given, by the file's ending, or by its first line.
fn load(request: &Request) -> Result<(String, Language), String> {
    let shown = if request.file == "-" { "standard input" } else { &request.file };
    let mut bytes = Vec::new();
    let cap = limits::SCRIPT_MAX as u64 + 1;
    let result = if request.file == "-" {
        std::io::stdin().lock().take(cap).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(&request.file).and_then(|file| file.take(cap).read_to_end(&mut bytes))
    };
    result.map_err(|error| format!("cannot read {shown}: {error}"))?;
    let content = String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8 text"))?;
    let language = request
        .language
        .or_else(|| by_ending(&request.file))
        .or_else(|| by_first_line(&content))
        .ok_or_else(|| format!("cannot tell the language of {shown}: give --lang bash, python or node"))?;
    Ok((content, language))
}

fn by_ending(file: &str) -> Option<Language> {
    match Path::new(file).extension()?.to_str()? {
        "sh" | "bash" => Some(Language::Bash),
        "py" => Some(Language::Python),
        "js" | "cjs" | "mjs" => Some(Language::Node),
        _ => None,
    }
}

fn by_first_line(content: &str) -> Option<Language> {
    let line = content.lines().next()?.strip_prefix("#!")?;
    let program = line.split_whitespace().find(|word| !word.ends_with("/env") && !word.starts_with('-'))?;
    let name = program.rsplit('/').next()?;
    match name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.') {
        "bash" | "sh" | "dash" | "ash" => Some(Language::Bash),
        "python" => Some(Language::Python),
        "node" | "nodejs" => Some(Language::Node),
        _ => None,
    }
}

/// The script's own exit code, or the one that stands for how it ended.
fn exit_code(verdict: &Verdict) -> u8 {
    match verdict.cause {
        Cause::Timeout { .. } => exit::EXEC_TIMEOUT,
        Cause::Memory(_) => 137,
        Cause::Infrastructure | Cause::Refused => exit::EXEC_FAILED,
        _ => u8::try_from(verdict.exit_code & 0xff).unwrap_or(exit::FAILED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Phase;

    #[test]
    fn languages_by_ending_and_first_line() {
        assert_eq!(by_ending("a/b.py"), Some(Language::Python));
        assert_eq!(by_ending("a.b/c"), None);
        for (line, want) in [
            ("#!/bin/sh", Some(Language::Bash)),
            ("#!/usr/bin/env python3.11", Some(Language::Python)),
            ("#!/usr/bin/env -S node --x", Some(Language::Node)),
            ("#!/usr/bin/perl", None),
            ("echo", None),
            ("", None),
        ] {
            assert_eq!(by_first_line(line), want, "{line}");
        }
    }

    #[test]
    fn addresses_of_servers() {
        for (text, want) in [
            ("h", Some(("h", 22))),
            ("h:2200", Some(("h", 2200))),
            ("[::1]:2200", Some(("::1", 2200))),
            ("[::1]", Some(("::1", 22))),
            ("fe80::1", Some(("fe80::1", 22))),
            ("h:0", None),
            ("h:x", None),
            (":22", None),
            ("-oX", None),
            ("[::1]x", None),
        ] {
            let read = address_of(text).ok();
            assert_eq!(read.as_ref().map(|(host, port)| (host.as_str(), *port)), want, "{text}");
        }
    }

    #[test]
    fn exit_codes_of_verdicts() {
        let code = |cause, exit_code| exit_code_of(cause, exit_code);
        assert_eq!(code(Cause::Success, 0), 0);
        assert_eq!(code(Cause::Exit, 3), 3);
        assert_eq!(code(Cause::Signal(9), 137), 137);
        assert_eq!(code(Cause::Memory(1), 137), 137);
        assert_eq!(code(Cause::Timeout { limit: "x", after: Duration::ZERO }, -1), 124);
        assert_eq!(code(Cause::Infrastructure, 125), 125);
    }

    fn exit_code_of(cause: Cause, exit_code: i32) -> u8 {
        super::exit_code(&Verdict { phase: Phase::Execution, cause, exit_code, message: String::new() })
    }
}

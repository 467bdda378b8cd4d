//! `exec`: one script, the same executors, no backend. The way to try a script, or the agent, by hand.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::exec_server::{address_of, login_of, server_of};
use crate::cli::script::{self, Terminal};
use crate::cli::{UsageError, exit, print, script_helpers};
use crate::config;
use crate::config::types::{Config, Images, NetworkMode};
use crate::docker;
use crate::executors::container::ContainerExecutor;
use crate::executors::container::janitor::Janitor;
use crate::executors::container::usage::Sampler;
use crate::executors::helpers::are_used_by;
use crate::executors::ssh::SshExecutor;
use crate::executors::{End, Executor, Reaper, Task};
use crate::job::{Event, Id, Input, Job, Kind, Language, Output, Resources, Script, Server, is_user};
use crate::jobs::conclude::without_secrets;
use crate::jobs::helpers::{Helpers, Session};
use crate::jobs::secrets;
use crate::limits;
use crate::os::pulse::Pulse;
use crate::os::signals::Signals;
use crate::policy::stop::{Pace, Reason};
use crate::redact::Redactor;
use crate::secret::Secret;
use crate::verdict::{Cause, Outcome, Phase, Verdict};
use crate::wire::scan::Json;

/// What `exec` was asked to run.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Request {
    pub language: Option<Language>,
    pub environment: Vec<(String, Secret)>,
    pub timeout: Option<Duration>,
    pub memory: Option<u64>,
    pub cpu: Option<f64>,
    pub network: Option<NetworkMode>,
    /// The image to run in, in place of the configured one of the script's language.
    pub image: Option<String>,
    /// `[user@]host[:port]`: run there, not in a container.
    pub server: Option<(Option<String>, String, Option<u16>)>,
    /// A file with the private key for it.
    pub identity: Option<String>,
    /// A file with the key's certificate; none: the one beside the key, if there is one.
    pub certificate: Option<String>,
    /// The jump host on the way: a name in `ssh.jumps`, or `user@host[:port]` with the same key.
    pub jump: Option<String>,
    /// What the helper `input` gives.
    pub input: Input,
    /// A file with the variables of the helpers.
    pub variables: Option<PathBuf>,
    /// Prints one line of JSON, and the script's lines to stderr.
    pub json: bool,
    /// A path, or `-` for standard input.
    pub file: String,
}

impl Request {
    /// Takes the value of one of the command's own flags.
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
                let variable = variable(&value)?;
                self.environment.retain(|(name, _)| *name != variable.0);
                self.environment.push(variable);
                if self.environment.len() > limits::JOB_ENVIRONMENT_MAX {
                    return Err(UsageError(format!("-e: at most {} variables", limits::JOB_ENVIRONMENT_MAX)));
                }
            }
            "timeout" => {
                let config = checked("--timeout", &value, "a time such as 30s or 5m", "jobs.defaultTimeout")?;
                self.timeout = Some(config.jobs.default_timeout);
            }
            "memory" => {
                let key = "container.resources.defaults.memory";
                self.memory =
                    Some(checked("--memory", &value, "a size such as 256MB or 1GiB", key)?.container.defaults.memory);
            }
            "cpu" => {
                let key = "container.resources.defaults.cpu";
                self.cpu = Some(checked("--cpu", &value, "a number of cores such as 0.5", key)?.container.defaults.cpu);
            }
            "image" => {
                checked("--image", &value, "the name of an image", "container.images.bash")?;
                self.image = Some(value);
            }
            "server" => {
                let (user, address) =
                    value.rsplit_once('@').map_or((None, value.as_str()), |(user, address)| (Some(user), address));
                if user.is_some_and(|user| !is_user(user)) {
                    return Err(UsageError(format!("--server takes user@host or user@host:port, not {value:?}")));
                }
                let (host, port) = address_of(address)?;
                self.server = Some((user.map(str::to_owned), host, port));
            }
            "jump" if value.is_empty() => return Err(UsageError("--jump needs the name of a jump host".to_owned())),
            "jump" => {
                if value.contains('@') {
                    login_of(&value)?;
                }
                self.jump = Some(value);
            }
            "input" => {
                let json =
                    Json::strict(value.as_bytes()).map_err(|why| UsageError(format!("--input is not JSON: {why}")))?;
                self.input = Input::new(String::from_utf8_lossy(json.bytes()));
            }
            "variables" => self.variables = Some(value.into()),
            "json" => self.json = true,
            "identity" if value.is_empty() => return Err(UsageError("--identity needs the path of a file".to_owned())),
            "identity" => self.identity = Some(value),
            "certificate" if value.is_empty() => {
                return Err(UsageError("--certificate needs the path of a file".to_owned()));
            }
            "certificate" => self.certificate = Some(value),
            _ => {
                let config = checked("--network", &value, "a network for a job", "container.network.mode")?;
                self.network = Some(config.container.network.mode);
            }
        }
        Ok(())
    }

    /// Checks that there is something to run.
    pub(in crate::cli) fn complete(self) -> Result<Self, UsageError> {
        if self.file.is_empty() {
            return Err(UsageError("exec needs a FILE, or - for a script on standard input".to_owned()));
        }
        if self.identity.is_some() && self.server.is_none() {
            return Err(UsageError("--identity is the key for --server user@host, which is not given".to_owned()));
        }
        if self.certificate.is_some() && self.identity.is_none() {
            return Err(UsageError("--certificate belongs to a key: give --identity FILE too".to_owned()));
        }
        if self.jump.is_some() && self.server.is_none() {
            return Err(UsageError("--jump is the way to --server user@host, which is not given".to_owned()));
        }
        if self.server.is_some() && self.identity.is_none() {
            return Err(UsageError("exec --server needs --identity FILE, the private key to log in with".to_owned()));
        }
        let of_a_container =
            self.memory.is_some() || self.cpu.is_some() || self.network.is_some() || self.image.is_some();
        if self.server.is_some() && of_a_container {
            let words = "--image, --memory, --cpu and --network are for containers, not for --server";
            return Err(UsageError(words.to_owned()));
        }
        Ok(self)
    }
}

/// Reads the value of a flag with the checks of the configuration's `key`.
fn checked(flag: &str, text: &str, what: &str, key: &str) -> Result<Config, UsageError> {
    let mut config = config::defaults();
    let wrong = |allowed: &str| UsageError(format!("{flag} {text:?} is not {what}; allowed: {allowed}"));
    if text.is_empty() {
        return Err(wrong("something"));
    }
    config::set(&mut config, key, text).map_err(|allowed| wrong(&allowed))?;
    Ok(config)
}

/// `NAME=VALUE`, or the `NAME` of a variable of this process.
fn variable(text: &str) -> Result<(String, Secret), UsageError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None if text.is_empty() => (text, String::new()),
        None => match std::env::var(text) {
            Ok(value) => (text, value),
            Err(std::env::VarError::NotPresent) => {
                return Err(UsageError(format!(
                    "-e {text}: the variable {text} is not set here; set it, or give {text}=VALUE"
                )));
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(UsageError(format!("-e {text}: the value of the variable {text} is not UTF-8 text")));
            }
        },
    };
    if name.is_empty() {
        return Err(UsageError("-e takes NAME=VALUE, or the NAME of a variable that is set here".to_owned()));
    }
    Ok((name.to_owned(), Secret::new(value)))
}

/// Runs the script; gives the program's exit code.
pub fn run(mut config: Config, request: Request, signals: &Signals) -> u8 {
    let (content, language) = match script::load(&request.file, request.language) {
        Ok(loaded) => loaded,
        Err(error) => return print::say(error, exit::USAGE),
    };
    config.jobs.max_timeout = config.jobs.max_timeout.max(request.timeout.unwrap_or_default());
    if let Some(mode) = &request.network {
        config.container.network.mode = mode.clone();
    }
    if let Some(image) = request.image.clone() {
        let images = &mut config.container.images;
        (images.bash, images.python, images.nodejs) = (image.clone(), image.clone(), image);
    }
    let docker = docker::Client::new(&config.container.docker);
    if request.server.is_none()
        && let Err(error) = docker.ping()
    {
        return print::say(error, exit::ENGINE);
    }
    // The limits of the configuration are for the backend's jobs. A person may ask for more.
    let limits = &mut config.container.limits;
    limits.memory = limits.memory.max(request.memory.unwrap_or(0));
    limits.cpu = limits.cpu.max(request.cpu.unwrap_or(0.0));
    let json = request.json;
    match script_helpers::Offline::load(request.variables.as_deref()) {
        Ok(offline) => {
            ended(carry_out(&config, request, (content, language), docker, signals, &offline), json, &offline)
        }
        Err(error) => print::say(error, exit::USAGE),
    }
}

/// The outcome, and the stream that did not take all of the output, if one did not.
type Ended = (Outcome, Option<(&'static str, std::io::Error)>);

/// Shows the verdict; gives the program's exit code.
fn ended(result: Result<Ended, String>, json: bool, offline: &script_helpers::Offline) -> u8 {
    match result {
        Ok((outcome, lost)) => {
            let mut code = exit_code(&outcome.verdict);
            let mut told = writeln!(std::io::stderr(), "cronium-agent: {}", outcome.verdict).is_ok();
            if let Some((stream, error)) = &lost {
                let words = "some of the script's output is lost: cannot write";
                told = writeln!(std::io::stderr(), "cronium-agent: {words} {stream}: {error}").is_ok() && told;
            }
            if json {
                told = writeln!(std::io::stdout(), "{}", offline.shown(&outcome.verdict)).is_ok() && told;
            }
            if code == exit::OK && (lost.is_some() || !told) {
                code = exit::FAILED;
            }
            code
        }
        Err(error) => print::say(error, exit::EXEC_FAILED),
    }
}

/// Runs it in a container or on its server.
fn carry_out(
    config: &Config,
    request: Request,
    script: (String, Language),
    docker: docker::Client,
    signals: &Signals,
    offline: &script_helpers::Offline,
) -> Result<Ended, String> {
    let (is_local, json) = (docker.is_local(), request.json);
    let server = server_of(config, &request)?;
    let mut task = task(request, script, server);
    let uses = are_used_by(&task.job).then(|| Helpers::of_this_process(config, is_local || task.server.is_some()));
    let redactor = Redactor::default();
    let left = secrets::know(&redactor, &task.job, task.server.as_ref(), &config.redact);
    let setup = |helpers| offline.setup(&task, config, helpers, &redactor);
    let session = uses.as_ref().map(|helpers| helpers.open_with(setup(helpers), task.job.kind));
    task.helpers = session.as_ref().map(Session::api);
    let mut terminal = Terminal::new(json, &redactor);
    left.iter().for_each(|text| terminal.system(text));
    let ended = match task.server {
        Some(_) => {
            let executor = SshExecutor::new(config);
            let ended = run_to_end(config, &executor, &task, signals, &mut terminal);
            executor.stop();
            ended
        }
        None => in_container(config, &task, docker, signals, &mut terminal),
    };
    drop(session);
    if let Some(helpers) = uses {
        helpers.stop(limits::THREAD_JOIN_WAIT);
    }
    Ok((without_secrets(ended?, &redactor), terminal.finish()))
}

fn in_container(
    config: &Config,
    task: &Task,
    docker: docker::Client,
    signals: &Signals,
    terminal: &mut Terminal,
) -> Result<Outcome, String> {
    let (sampler, sampler_thread) = Sampler::start(docker.clone()).map_err(no_thread)?;
    // Removes what an earlier `exec` left that was killed. One look: the person waits.
    Janitor::of_exec(docker.clone()).round(&|_| false);
    let executor = ContainerExecutor::of_this_process(docker, config, sampler.clone());
    let outcome = run_to_end(config, &executor, task, signals, terminal)?;
    if let Some(hint) = image_hint(&outcome.verdict, &config.container.images, task.job.script.language) {
        terminal.system(&hint);
    }
    executor.sweep();
    sampler.stop();
    sampler_thread.join_within(limits::THREAD_JOIN_WAIT);
    Ok(outcome)
}

/// What to do about an image that cannot be had, or cannot run the script.
fn image_hint(verdict: &Verdict, images: &Images, language: Language) -> Option<String> {
    let about_it = verdict.message.contains(images.of(language)) || verdict.message.contains("/bin/sh");
    let example = match language {
        Language::Bash => "debian:stable-slim",
        Language::Python => "python:3-slim",
        Language::Node => "node:lts-slim",
    };
    (verdict.phase == Phase::Setup && verdict.cause == Cause::Infrastructure && about_it).then(|| {
        format!(
            "any image with /bin/sh and {} will do: give one with --image, such as --image {example}; \
             scripts/build-images.sh makes the default ones",
            language.as_str()
        )
    })
}

pub(in crate::cli) fn no_thread(error: std::io::Error) -> String {
    format!("cannot start a thread: {error}")
}

/// Runs it as every job runs. A signal to this command cancels it.
fn run_to_end(
    config: &Config,
    executor: &dyn Executor,
    task: &Task,
    signals: &Signals,
    terminal: &mut Terminal,
) -> Result<Outcome, String> {
    let (reaper, reaper_thread) = Reaper::start(Pulse::unwatched()).map_err(no_thread)?;
    let pace = Pace { grace: config.jobs.stop_grace, again: limits::KILL_AGAIN, patience: limits::KILL_PATIENCE };
    let control = reaper.control(pace);
    let on_signal = std::sync::Arc::clone(&control);
    let _watch = signals
        .on_termination(move || on_signal.request(Reason::Cancelled("a signal to this command")))
        .map_err(no_thread)?;
    let outcome = match executor.prepare(task, &control, terminal) {
        Ok(ready) => match ready.run(task, terminal) {
            End::Outcome(outcome, _) => *outcome,
            End::Detached | End::NeverRan(_) => {
                return Err("the script was left to itself, which nobody asked for".to_owned());
            }
        },
        Err(outcome) => *outcome,
    };
    reaper.stop();
    reaper_thread.join_within(limits::THREAD_JOIN_WAIT);
    Ok(outcome)
}

fn task(request: Request, (content, language): (String, Language), server: Option<Server>) -> Task {
    let id = |text: String| Id::parse(&text).unwrap_or_else(|_| unreachable!("made of hex"));
    let word = crate::os::random::hex(6);
    let job = Job {
        id: id(format!("exec-{word}")),
        kind: if server.is_some() { Kind::Ssh } else { Kind::Container },
        servers: Vec::new(),
        priority: 0,
        attempts: 0,
        script: Script { language, content, working_directory: String::new() },
        http: None,
        environment: request.environment,
        timeout: request.timeout,
        resources: Resources { cpu: request.cpu, memory: request.memory, disk: None, pids: None },
        event: Event { name: Some("exec".to_owned()), triggered_by: Some("manual".to_owned()), ..Event::default() },
        input: request.input,
        original_type: None,
        signature: None,
    };
    Task { job: std::sync::Arc::new(job), server, execution: id(format!("exec-{word}-1")), helpers: None }
}

/// The script's exit code, or the code for the way it ended.
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

    #[test]
    fn addresses_of_servers() {
        for (text, want) in [
            ("h", Some(("h", None))),
            ("h:2200", Some(("h", Some(2200)))),
            ("[::1]:2200", Some(("::1", Some(2200)))),
            ("[::1]", Some(("::1", None))),
            ("fe80::1", Some(("fe80::1", None))),
            ("h:0", None),
            ("h:x", None),
            (":22", None),
            ("-oX", None),
            ("[::1]x", None),
            ("h*", None),
            ("a,b", None),
            ("a b", None),
        ] {
            let read = address_of(text).ok();
            assert_eq!(read.as_ref().map(|(host, port)| (host.as_str(), *port)), want, "{text}");
        }
    }

    #[test]
    fn an_image_that_does_not_do_gets_a_hint_and_nothing_else_does() {
        let images = config::defaults().container.images;
        let hint = |verdict: &Verdict| image_hint(verdict, &images, Language::Python);
        let setup = |message: &str| Verdict::infrastructure(Phase::Setup, message.to_owned());
        for about in ["cannot pull image cronium/runner:python-alpine: denied", "exec: \"/bin/sh\": no such file"] {
            assert!(hint(&setup(about)).is_some_and(|hint| hint.contains("--image python:3-slim;")), "{about}");
        }
        assert_eq!(hint(&setup("the engine refused (500): no space left on device")), None);
        let script = Verdict::infrastructure(Phase::Execution, "cronium/runner:python-alpine".to_owned());
        assert_eq!(hint(&script), None, "of a script that ran");
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

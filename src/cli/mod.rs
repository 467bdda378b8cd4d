//! The command line: what was typed becomes a [`Command`], or an error that names the nearest right word.

pub mod cancel;
pub mod doctor;
pub mod exec;
pub mod gc;
pub mod help;
pub mod known_hosts;
pub mod reload;
pub mod script;
pub mod status;
pub mod validate;
pub mod version;

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::job::Id;
use crate::policy::suggest;

/// Exit codes of the program; `--help` lists them.
pub mod exit {
    /// All went well.
    pub const OK: u8 = 0;
    /// The command failed.
    pub const FAILED: u8 = 1;
    /// Bad usage or a configuration with problems.
    pub const USAGE: u8 = 2;
    /// The container engine could not be reached.
    pub const ENGINE: u8 = 3;
    /// The drain ended with jobs that still ran: they were left to the next start, or cancelled.
    pub const NOT_DRAINED: u8 = 4;
    /// A third signal: ended at once, with jobs in hand.
    pub const FORCED: u8 = 5;
    /// `exec`: the script ran longer than its limit, as `timeout(1)` says it.
    pub const EXEC_TIMEOUT: u8 = 124;
    /// `exec`: the infrastructure failed or the script could not be run.
    pub const EXEC_FAILED: u8 = 125;
}

/// Flags that every command takes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Common {
    /// `--config`, `-c`.
    pub config: Option<PathBuf>,
    /// `--log-level` and `--set`, as keys and values.
    pub overrides: Vec<(String, String)>,
}

/// What was asked for.
#[derive(Debug, PartialEq)]
pub enum Command {
    Run(Common),
    Validate {
        common: Common,
        explain: bool,
    },
    Version,
    Exec(Common, exec::Request),
    KnownHosts(Common, known_hosts::Request),
    Gc(Common, gc::Request),
    Doctor(Common, doctor::Request),
    Status {
        common: Common,
        json: bool,
    },
    /// Has the running agent read its configuration again.
    Reload(Common),
    /// Ends the job with this id.
    Cancel(Common, Id),
    Help(&'static str),
}

/// Why the command line makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

const COMMANDS: &[&str] =
    &["run", "validate", "version", "exec", "known-hosts", "gc", "doctor", "status", "reload", "cancel"];
const FLAGS: &[&str] = &[
    "--config",
    "--log-level",
    "--set",
    "--help",
    "--version",
    "--explain",
    "--lang",
    "--env",
    "--timeout",
    "--memory",
    "--cpu",
    "--network",
    "--server",
    "--identity",
    "--yes",
    "--dry-run",
    "--grace",
    "--json",
    "--fix-hints",
];

/// Reads the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut common = Common::default();
    let mut command: Option<String> = None;
    let (mut explain, mut json) = (false, false);
    let mut job = None;
    let mut request = exec::Request::default();
    let mut hosts = known_hosts::Request::default();
    let mut gc = gc::Request::default();
    let mut doctor = doctor::Request::default();
    let name = |command: &Option<String>| -> &'static str {
        COMMANDS.iter().find(|c| Some(**c) == command.as_deref()).copied().unwrap_or("")
    };
    while let Some(argument) = parser.next().map_err(usage)? {
        let in_exec = command.as_deref() == Some("exec");
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help(name(&command))),
            Short('V') | Long("version") => return Ok(Command::Version),
            Short('c') | Long("config") => common.config = Some(parser.value().map_err(usage)?.into()),
            Long("log-level") => {
                let level = parser.value().and_then(|v| v.string()).map_err(usage)?;
                common.overrides.push(("logging.level".to_owned(), level));
            }
            Long("set") => {
                let text = parser.value().and_then(|v| v.string()).map_err(usage)?;
                let (key, value) =
                    text.split_once('=').ok_or_else(|| UsageError(format!("--set takes KEY=VALUE, not {text:?}")))?;
                common.overrides.push((key.to_owned(), value.to_owned()));
            }
            Long("explain") if command.as_deref() == Some("validate") => explain = true,
            Long("json") if command.as_deref() == Some("status") => json = true,
            Long("json") if command.as_deref() == Some("doctor") => doctor.json = true,
            Long("fix-hints") if command.as_deref() == Some("doctor") => doctor.fix_hints = true,
            Value(word) if command.as_deref() == Some("cancel") && job.is_none() => job = Some(cancel::job(&word)?),
            Long("yes") | Short('y') if command.as_deref() == Some("known-hosts") => hosts.yes = true,
            Value(word) if command.as_deref() == Some("known-hosts") => hosts.word(word.string().map_err(usage)?)?,
            Long("dry-run") if command.as_deref() == Some("gc") => gc.dry_run = true,
            Long("grace") if command.as_deref() == Some("gc") => {
                gc.take_grace(&parser.value().and_then(|v| v.string()).map_err(usage)?)?;
            }
            Short('e') if in_exec => {
                let value = parser.value().and_then(|v| v.string()).map_err(usage)?;
                request.take("env", value)?;
            }
            Long(flag) if in_exec && exec::Request::FLAGS.contains(&flag) => {
                let flag = flag.to_owned();
                let value = parser.value().and_then(|v| v.string()).map_err(usage)?;
                request.take(&flag, value)?;
            }
            Value(file) if in_exec && request.file.is_empty() => request.file = file.to_string_lossy().into_owned(),
            Value(word) if command.is_none() => {
                let word = word.string().map_err(usage)?;
                if !COMMANDS.contains(&word.as_str()) {
                    return Err(UsageError(unknown("command", &word, COMMANDS)));
                }
                command = Some(word);
            }
            Value(word) => return Err(UsageError(format!("unexpected argument {:?}", word.to_string_lossy()))),
            Long(flag) => return Err(UsageError(unknown("flag", &format!("--{flag}"), FLAGS))),
            Short(flag) => return Err(UsageError(format!("unknown flag -{flag}"))),
        }
    }
    match command.as_deref() {
        None | Some("run") => Ok(Command::Run(common)),
        Some("validate") => Ok(Command::Validate { common, explain }),
        Some("exec") => request.complete().map(|request| Command::Exec(common, request)),
        Some("known-hosts") => hosts.complete().map(|request| Command::KnownHosts(common, request)),
        Some("gc") => Ok(Command::Gc(common, gc)),
        Some("doctor") => Ok(Command::Doctor(common, doctor)),
        Some("status") => Ok(Command::Status { common, json }),
        Some("reload") => Ok(Command::Reload(common)),
        Some("cancel") => match job {
            Some(job) => Ok(Command::Cancel(common, job)),
            None => Err(UsageError("usage: cronium-agent cancel JOB".to_owned())),
        },
        _ => Ok(Command::Version),
    }
}

fn usage(error: lexopt::Error) -> UsageError {
    UsageError(error.to_string())
}

fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    match suggest::nearest(word, known.iter().copied()) {
        Some(near) => format!("unknown {what} {word:?}; did you mean {near:?}?"),
        None => format!("unknown {what} {word:?}; see cronium-agent --help"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.0)
    }

    #[test]
    fn commands_and_flags() {
        assert_eq!(check(""), Ok(Command::Run(Common::default())));
        let common = Common { config: Some("/x".into()), overrides: vec![("logging.level".into(), "debug".into())] };
        assert_eq!(check("--config /x run --log-level debug"), Ok(Command::Run(common.clone())));
        assert_eq!(check("run -c /x --log-level=debug"), Ok(Command::Run(common)));
        assert_eq!(check("validate --explain"), Ok(Command::Validate { common: Common::default(), explain: true }));
        assert_eq!(check("reload"), Ok(Command::Reload(Common::default())));
        assert_eq!(check("status --json"), Ok(Command::Status { common: Common::default(), json: true }));
        let job = Id::parse("job_1").expect("id");
        assert_eq!(check("cancel job_1"), Ok(Command::Cancel(Common::default(), job)));
        assert_eq!(check("--version"), Ok(Command::Version));
        assert_eq!(check("exec --help"), Ok(Command::Help("exec")));
        let request = gc::Request { dry_run: true, grace: Some(std::time::Duration::from_secs(90)) };
        assert_eq!(check("gc --grace 90s --dry-run"), Ok(Command::Gc(Common::default(), request)));
        let request = doctor::Request { json: true, fix_hints: true };
        assert_eq!(check("doctor --json --fix-hints"), Ok(Command::Doctor(Common::default(), request)));
        assert_eq!(check("-h"), Ok(Command::Help("")));
    }

    #[test]
    fn the_nearest_word_is_named() {
        for (line, word) in [
            ("validat", "validate"),
            ("exce x.sh", "exec"),
            ("run --confg x", "--config"),
            ("exec --lagn bash x", "--lang"),
            ("--log-levl debug", "--log-level"),
            ("gc --dry-rum", "--dry-run"),
            ("statsu", "status"),
            ("relaod", "reload"),
            ("status --jsno", "--json"),
            ("docter", "doctor"),
            ("doctor --fix-hint", "--fix-hints"),
        ] {
            let error = check(line).expect_err("must fail");
            assert!(error.contains(&format!("did you mean {word:?}?")), "{error}");
        }
        assert!(check("run x").expect_err("must fail").contains("unexpected argument"));
        assert!(check("exec").expect_err("must fail").contains("FILE"));
        assert!(check("run --explain").is_err() && check("run --dry-run").is_err());
        assert!(check("gc --grace soon").expect_err("must fail").contains("--grace"));
        assert!(check("gc now").expect_err("must fail").contains("unexpected argument"));
        assert!(check("run --explain").is_err());
        assert!(check("cancel").expect_err("must fail").contains("cancel JOB"));
        assert!(check("cancel a/b").expect_err("must fail").contains("'/'"));
        assert!(check("cancel a b").is_err() && check("status x").is_err() && check("run --json").is_err());
    }
}

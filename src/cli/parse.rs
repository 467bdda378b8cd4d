//! The command line: what was typed becomes a [`Command`], or an error that names the nearest right word.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg;

use super::exit::UsageError;
use super::flags::{COMMANDS, CommandRow, FLAGS, Flag};
use super::{cancel, doctor, exec, gc, known_hosts, receipt, sign};
use crate::job::Id;
use crate::policy::suggest;

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
    Run,
    Validate {
        explain: bool,
        /// The older orchestrator's file to migrate.
        migrate: Option<PathBuf>,
    },
    Version,
    Exec(Box<exec::Request>),
    KnownHosts(known_hosts::Request),
    Gc(gc::Request),
    Doctor(doctor::Request),
    Status {
        json: bool,
    },
    /// Has the running agent read its configuration again.
    Reload,
    /// Ends the job with this id.
    Cancel(Id),
    Sign(sign::Request),
    /// Prints the public half of the agent's own key.
    Identity,
    VerifyReceipt(receipt::Request),
    Help(&'static str),
}

/// The flags and words that were typed, in their order.
#[derive(Default)]
struct Typed {
    flags: Vec<(&'static str, OsString)>,
    words: Vec<OsString>,
}

/// Reads the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Command, Common), UsageError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut command: Option<&CommandRow> = None;
    let mut typed = Typed::default();
    while let Some(argument) = parser.next().map_err(usage)? {
        let flag = match (argument, command) {
            (Arg::Value(word), None) => {
                command = Some(named(&word)?);
                continue;
            }
            (Arg::Value(word), Some(row)) if typed.words.len() < row.operands.len() => {
                typed.words.push(word);
                continue;
            }
            (Arg::Value(word), _) => {
                return Err(UsageError(format!("unexpected argument {:?}", word.to_string_lossy())));
            }
            (Arg::Long(name), _) => known(FLAGS.iter().find(|flag| flag.long == name), &format!("--{name}"))?,
            (Arg::Short(name), _) => known(FLAGS.iter().find(|flag| flag.short == Some(name)), &format!("-{name}"))?,
        };
        let name = command.map_or("", |row| row.name);
        match flag.long {
            "help" => return Ok((Command::Help(name), Common::default())),
            "version" => return Ok((Command::Version, Common::default())),
            long if !flag.is_of(name) => {
                let of = flag.of.join(" and ");
                return Err(UsageError(format!("--{long} is a flag of the command {of}, and is given after it")));
            }
            _ => {}
        }
        let value = if flag.value.is_some() { parser.value().map_err(usage)? } else { OsString::new() };
        typed.flags.push((flag.long, value));
    }
    let common = typed.common()?;
    typed.command(command.map_or("run", |row| row.name)).map(|command| (command, common))
}

impl Typed {
    fn has(&self, long: &str) -> bool {
        self.flags.iter().any(|(flag, _)| *flag == long)
    }

    fn word(&self, at: usize) -> String {
        self.words.get(at).map_or(String::new(), |word| word.to_string_lossy().into_owned())
    }

    fn common(&self) -> Result<Common, UsageError> {
        let mut common = Common::default();
        for (flag, value) in &self.flags {
            match *flag {
                "config" => common.config = Some(value.into()),
                "log-level" => common.overrides.push(("logging.level".to_owned(), text(flag, value)?)),
                "set" => {
                    let text = text(flag, value)?;
                    let wrong = || UsageError(format!("--set takes KEY=VALUE, not {text:?}"));
                    let (key, value) = text.split_once('=').ok_or_else(wrong)?;
                    common.overrides.push((key.to_owned(), value.to_owned()));
                }
                _ => {}
            }
        }
        Ok(common)
    }

    fn command(self, name: &str) -> Result<Command, UsageError> {
        Ok(match name {
            "run" => Command::Run,
            "validate" => {
                let file = self.flags.iter().rev().find(|(flag, _)| *flag == "migrate");
                let migrate = file.map(|(_, path)| PathBuf::from(path));
                Command::Validate { explain: self.has("explain"), migrate }
            }
            "exec" => {
                let mut request = exec::Request { file: self.word(0), ..exec::Request::default() };
                for (flag, value) in self.flags.iter().filter(|(flag, _)| is_of(flag, "exec")) {
                    request.take(flag, text(flag, value)?)?;
                }
                Command::Exec(Box::new(request.complete()?))
            }
            "known-hosts" => {
                Command::KnownHosts(known_hosts::Request::new(&self.word(0), &self.word(1), self.has("yes"))?)
            }
            "gc" => {
                let (dry_run, images) = (self.has("dry-run"), self.has("images"));
                let mut request = gc::Request { dry_run, grace: None, images };
                for (flag, value) in self.flags.iter().filter(|(flag, _)| *flag == "grace") {
                    request.take_grace(&text(flag, value)?)?;
                }
                Command::Gc(request)
            }
            "sign" => {
                let last = |long: &str| self.flags.iter().rev().find(|(flag, _)| *flag == long).map(|(_, value)| value);
                let flags = sign::Flags {
                    key: last("key").map(PathBuf::from),
                    keys: last("keys").map(PathBuf::from),
                    name: last("name").map(|name| text("name", name)).transpose()?,
                    expires: last("expires").map(|time| text("expires", time)).transpose()?,
                };
                Command::Sign(sign::Request::new(&self.word(0), &self.word(1), flags)?)
            }
            "identity" => Command::Identity,
            "verify-receipt" => {
                let last = |long: &str| self.flags.iter().rev().find(|(flag, _)| *flag == long).map(|(_, value)| value);
                let named = |long: &str| last(long).map(|value| text(long, value)).transpose();
                let request = receipt::Request {
                    file: self.word(0),
                    keys: last("keys").map(PathBuf::from),
                    job: named("job")?,
                    stdout: named("stdout")?,
                    stderr: named("stderr")?,
                };
                Command::VerifyReceipt(request.complete()?)
            }
            "doctor" => {
                let [json, fix_hints, strict] = ["json", "fix-hints", "strict"].map(|flag| self.has(flag));
                Command::Doctor(doctor::Request { json, fix_hints, strict })
            }
            "status" => Command::Status { json: self.has("json") },
            "reload" => Command::Reload,
            "cancel" => Command::Cancel(cancel::job(&self.word(0))?),
            _ => Command::Version,
        })
    }
}

/// Whether this flag is one of the command's own.
fn is_of(long: &str, command: &str) -> bool {
    FLAGS.iter().any(|flag| flag.long == long && flag.of.contains(&command))
}

fn text(flag: &str, value: &OsString) -> Result<String, UsageError> {
    let text = value.to_str().map(str::to_owned);
    text.ok_or_else(|| UsageError(format!("--{flag} takes UTF-8 text, not {:?}", value.to_string_lossy())))
}

fn usage(error: lexopt::Error) -> UsageError {
    UsageError(error.to_string())
}

fn named(word: &OsString) -> Result<&'static CommandRow, UsageError> {
    let word = word.to_string_lossy();
    let found = COMMANDS.iter().find(|row| row.name == word);
    found.ok_or_else(|| unknown("command", &word, COMMANDS.iter().map(|row| row.name.to_owned())))
}

fn known(flag: Option<&'static Flag>, typed: &str) -> Result<&'static Flag, UsageError> {
    flag.ok_or_else(|| unknown("flag", typed, FLAGS.iter().map(|flag| format!("--{}", flag.long))))
}

fn unknown(what: &str, word: &str, known: impl Iterator<Item = String>) -> UsageError {
    let known: Vec<String> = known.collect();
    UsageError(match suggest::nearest(word, known.iter().map(String::as_str)) {
        Some(near) => format!("unknown {what} {word:?}; did you mean {near:?}?"),
        None => format!("unknown {what} {word:?}; see cronium-agent --help"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<(Command, Common), String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.0)
    }

    fn command(line: &str) -> Command {
        check(line).unwrap_or_else(|error| panic!("{line}: {error}")).0
    }

    #[test]
    fn commands_and_flags() {
        assert_eq!(check(""), Ok((Command::Run, Common::default())));
        let common = Common { config: Some("/x".into()), overrides: vec![("logging.level".into(), "debug".into())] };
        assert_eq!(check("--config /x run --log-level debug"), Ok((Command::Run, common.clone())));
        assert_eq!(check("run -c /x --log-level=debug"), Ok((Command::Run, common.clone())));
        assert_eq!(check("-c /y -c /x --log-level=debug"), Ok((Command::Run, common)));
        assert_eq!(command("validate --explain"), Command::Validate { explain: true, migrate: None });
        let migrate = Some(PathBuf::from("old.yaml"));
        assert_eq!(command("validate --migrate old.yaml"), Command::Validate { explain: false, migrate });
        assert_eq!(command("reload"), Command::Reload);
        assert_eq!(command("status --json"), Command::Status { json: true });
        assert_eq!(command("cancel job_1"), Command::Cancel(Id::parse("job_1").expect("id")));
        assert_eq!((command("--version"), command("version")), (Command::Version, Command::Version));
        assert_eq!((command("exec --help"), command("-h")), (Command::Help("exec"), Command::Help("")));
        let request = gc::Request { dry_run: true, grace: Some(std::time::Duration::from_secs(90)), images: false };
        assert_eq!(command("gc --grace 90s --dry-run"), Command::Gc(request));
        let request = gc::Request { images: true, ..gc::Request::default() };
        assert_eq!(command("gc --images"), Command::Gc(request));
        let request = doctor::Request { json: true, fix_hints: true, strict: false };
        assert_eq!(command("doctor --json --fix-hints"), Command::Doctor(request));
        assert_eq!(command("identity"), Command::Identity);
        let request = receipt::Request { file: "-".into(), keys: Some("k".into()), ..receipt::Request::default() };
        assert_eq!(command("verify-receipt - --keys k"), Command::VerifyReceipt(request));
        let request = doctor::Request { strict: true, ..doctor::Request::default() };
        assert_eq!(command("doctor --strict"), Command::Doctor(request));
        let Command::Exec(request) = command("exec -e A=1 --env B=2 -e A=3 -") else { panic!("exec") };
        let names: Vec<&str> = request.environment.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((request.file.as_str(), names), ("-", vec!["B", "A"]));
        assert!(matches!(command("known-hosts add h:22 -y"), Command::KnownHosts(request) if request.yes));
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
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (line, part) in [
            ("run x", "unexpected argument"),
            ("exec", "FILE"),
            ("exec a b", "unexpected argument"),
            ("run --explain", "of the command validate"),
            ("--explain", "of the command validate"),
            ("run --json", "of the command status and doctor"),
            ("run -e A=1", "of the command exec"),
            ("run --config", "--config"),
            ("run --set x", "KEY=VALUE"),
            ("run -x", "unknown flag"),
            ("validate --explain=1", "--explain"),
            ("gc --grace soon", "--grace"),
            ("gc now", "unexpected argument"),
            ("cancel", "cancel JOB"),
            ("cancel a/b", "'/'"),
            ("cancel a b", "unexpected argument"),
            ("status x", "unexpected argument"),
            ("verify-receipt", "verify-receipt FILE"),
            ("verify-receipt - --job -", "alone"),
            ("known-hosts", "known-hosts add HOST"),
            ("known-hosts remove h", "not \"remove\""),
            ("known-hosts add h i", "unexpected argument"),
        ] {
            let error = check(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}

//! `cronium-dev-backend`: the backend's contract on a local port, with jobs from a file.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod signal;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use cronium_dev_backend::{DevBackend, Event, JobRow, LogSocket, Options, Watcher};
use lexopt::Arg::{Long, Short};
use lexopt::ValueExt as _;
use serde_json::Value;

const HELP: &str = "cronium-dev-backend: the Cronium backend's internal API in memory

  --listen ADDRESS:PORT   where to listen (127.0.0.1:5001; port 0 takes a free one)
  --token TEXT            the token that agents must send (dev)
  --jobs FILE             queue the jobs of this JSON file (one job or an array)
  --exit-when-done        end when all jobs of the file have their terminal report; prints a table
  --log-jobs              print each line as it arrives, and verdicts (the default)
  --quiet                 print neither
  --log-socket lines|v2   have a log socket, in one of its dialects (the deployed backend has none)
";

#[derive(Default)]
struct Arguments {
    options: Options,
    exit_when_done: bool,
    quiet: bool,
    help: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut out = Arguments::default();
    out.options.listen = "127.0.0.1:5001".to_owned();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match argument {
            Long("listen") => out.options.listen = value(&mut parser)?,
            Long("token") => out.options.token = value(&mut parser)?,
            Long("jobs") => out.options.jobs = read_jobs(&value(&mut parser)?)?,
            Long("exit-when-done") => out.exit_when_done = true,
            Long("log-jobs") => out.quiet = false,
            Long("quiet") => out.quiet = true,
            Long("log-socket") => out.options.settings.log_socket = log_socket(&value(&mut parser)?)?,
            Long("help") | Short('h') => out.help = true,
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(out)
}

fn value(parser: &mut lexopt::Parser) -> Result<String, String> {
    let value: Result<String, lexopt::Error> = parser.value().and_then(OsString::string);
    value.map_err(|error| error.to_string())
}

fn log_socket(word: &str) -> Result<LogSocket, String> {
    match word {
        "lines" => Ok(LogSocket::Lines),
        "v2" => Ok(LogSocket::V2),
        _ => Err(format!("--log-socket is lines or v2, not {word}")),
    }
}

fn read_jobs(path: &str) -> Result<Vec<Value>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read the jobs in {path}: {error}"))?;
    match serde_json::from_str(&text).map_err(|error| format!("{path} is no JSON: {error}"))? {
        Value::Array(jobs) => Ok(jobs),
        one => Ok(vec![one]),
    }
}

fn say(event: &Event<'_>) {
    let mut out = std::io::stdout().lock();
    // The reader of this may be gone; the backend goes on.
    let _ = match event {
        Event::Line { job, stream, text } => writeln!(out, "{job} {stream:6} | {text}"),
        Event::Verdict { job, verdict, exit_code, duration_ms } => {
            writeln!(out, "{job} verdict: {verdict}, exit code {}, {}", number(*exit_code), duration(*duration_ms))
        }
    };
    let _ = out.flush();
}

fn number(value: Option<i64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn duration(millis: Option<u64>) -> String {
    millis.map_or_else(|| "-".to_owned(), |millis| format!("{}.{:03} s", millis / 1000, millis % 1000))
}

fn table(jobs: &[JobRow]) {
    let width = jobs.iter().map(|job| job.id.len()).max().unwrap_or(2).max(2);
    println!("\n{:width$}  {:8}  {:10}  {:>9}  {:>10}", "id", "language", "status", "exit code", "duration");
    for job in jobs {
        let status = job.verdict.as_deref().unwrap_or(job.status);
        let (exit, ran) = (number(job.exit_code), duration(job.duration_ms));
        println!("{:width$}  {:8}  {status:10}  {exit:>9}  {ran:>10}", job.id, job.language());
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    let Arguments { mut options, exit_when_done, quiet, .. } = arguments;
    let signals = signal::Signals::block();
    if !quiet {
        let watcher: Watcher = Arc::new(say);
        options.watcher = Some(watcher);
    }
    let listen = options.listen.clone();
    let backend = DevBackend::start(options).map_err(|error| format!("cannot start on {listen}: {error}"))?;
    println!("listening on {}", backend.url());
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    let backend = Arc::new(backend);
    let waiter = exit_when_done.then(|| {
        let backend = Arc::clone(&backend);
        std::thread::Builder::new().name("dev-done".to_owned()).spawn(move || {
            // Ends with the process when a signal comes first.
            if backend.wait_done(Duration::from_secs(365 * 86_400)) {
                table(&backend.jobs());
                signal::Signals::raise();
            }
        })
    });
    let waiter = waiter.transpose().map_err(|error| format!("cannot start a thread: {error}"))?;
    signals.wait();
    backend.interrupt();
    if let Some(waiter) = waiter {
        let _ = waiter.join();
    }
    if let Some(backend) = Arc::into_inner(backend) {
        backend.stop();
    }
    Ok(())
}

fn main() -> ExitCode {
    match arguments() {
        Ok(arguments) if arguments.help => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(arguments) => match run(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(text) => fail(&text),
        },
        Err(text) => fail(&text),
    }
}

fn fail(text: &str) -> ExitCode {
    eprintln!("cronium-dev-backend: {text}");
    ExitCode::FAILURE
}

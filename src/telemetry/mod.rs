//! The agent's own log: JSON lines or text, to stdout or to a file that rotates.
//!
//! Code anywhere logs through the `log` macros; a line carries the job and the execution that its thread works for
//! ([`context`]). Other crates log from `warn` upwards only: their debug output shows requests with their headers, and so
//! the token. Messages are bounded, and on one line in the text format.
//!
//! A line is written before the call returns, by the thread that logs it: the last words of a crash are in the log, and
//! there is no queue to size or to lose. The price: a reader of stdout that stops reading stops the threads that log,
//! as with any program; a file does not stall. Text for systemd's journal begins with its level, not with the time, which
//! the journal adds.

mod context;
mod json;
mod message;
mod rotate;
mod sink;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{ConfigBuilder, ThreadLogMode, WriteLogger};

pub use self::context::{Context, context, current};
use self::rotate::Rotating;
use self::sink::{Lead, Lines, Place, Sink};
use crate::config::types::{LogFormat, LogOutput, Logging};
use crate::os::threads::panic_text;
use crate::redact::Redactor;

/// Why the log could not be set up.
#[derive(Debug)]
pub enum Error {
    /// The log file cannot be opened.
    Open { path: PathBuf, source: io::Error },
    /// The log was set up before in this process.
    Again,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, source } => write!(
                f,
                "cannot open the log file {} (logging.file.path): {source}; its folder must exist and be writable for \
                 this user, or set logging.output: stdout",
                path.display()
            ),
            Self::Again => f.write_str("the log is set up already"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { source, .. } => Some(source),
            Self::Again => None,
        }
    }
}

/// The agent's own secrets.
static OWN: OnceLock<Redactor> = OnceLock::new();

/// From here on no line holds one of these secrets. Once a process.
pub fn protect(own: Redactor) {
    let _ = OWN.set(own);
}

/// Takes the agent's own secrets out: for what is done after a job has ended.
pub fn own() -> Redactor {
    OWN.get().cloned().unwrap_or_default()
}

/// `message` without the secrets of this thread's job, which know the agent's own too.
fn clean(message: String) -> String {
    let of_job = current();
    let redactor = of_job.as_ref().map(Context::redactor).or_else(|| OWN.get());
    redactor.map_or_else(|| message.clone(), |redactor| redactor.text(&message).into_owned())
}

/// The log of the process, for as long as the process lives.
pub struct Guard(Sink);

impl Guard {
    /// Opens the log file anew (SIGHUP, after another program moved it). Does nothing for stdout.
    pub fn reopen(&self) {
        self.0.reopen();
    }
}

/// Sets up the log as `config` says, and the panic hook. `level` wins over the configured one. Once a process.
pub fn init(config: &Logging, level: Option<LevelFilter>) -> Result<Guard, Error> {
    let (lead, place) = match config.output {
        LogOutput::Stdout => (Lead::of_stdout(), Place::Stdout),
        LogOutput::File => {
            let opened = Rotating::open(&config.file, Box::new(io::stderr()));
            let path = || config.file.path.clone();
            (Lead::Time, Place::File(opened.map_err(|source| Error::Open { path: path(), source })?))
        }
    };
    let sink = Sink::new(place);
    log::set_boxed_logger(Box::new(Front::new(config.format, sink.clone(), lead))).map_err(|_| Error::Again)?;
    set_level(level.unwrap_or(config.level));
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let text = panic_text(panic.payload());
        log::error!("panic in thread {} at {place}: {text}", thread.name().unwrap_or("unnamed"));
    }));
    Ok(Guard(sink))
}

/// Changes the level from now on.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// What every record passes before it is written: as JSON here, as text by simplelog.
struct Front {
    sink: Sink,
    text: Option<Box<WriteLogger<Lines>>>,
}

impl Front {
    fn new(format: LogFormat, sink: Sink, lead: Lead) -> Self {
        // The time is put in by `Lines`: simplelog's own format for it needs the `time` crate by name.
        let config = ConfigBuilder::new()
            .set_time_level(LevelFilter::Off)
            .set_thread_level(LevelFilter::Error)
            .set_thread_mode(ThreadLogMode::Names)
            .set_target_level(LevelFilter::Error)
            .set_location_level(LevelFilter::Off)
            .build();
        let text = || WriteLogger::new(LevelFilter::Trace, config, Lines::new(sink.clone(), lead));
        let text = (format == LogFormat::Text).then(text);
        Self { text, sink }
    }
}

impl Log for Front {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // The level of the process is checked by the macros, before this is asked.
        metadata.level() <= Level::Warn || message::is_own(metadata.target())
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Formatted before any lock is taken: a value whose formatting logs, or panics, does no harm.
        let message = message::bounded(*record.args(), clean);
        let (level, target) = (record.level(), message::trimmed(record.target()));
        let Some(text) = &self.text else { return self.sink.line(&json::line(level, target, &message)) };
        let mut message = message::one_line(&message);
        if let Some(context) = current() {
            message = format!("{message} job={} execution={}", context.job(), context.execution());
        }
        text.log(&Record::builder().level(level).target(target).args(format_args!("{message}")).build());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests;

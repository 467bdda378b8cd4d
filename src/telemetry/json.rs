//! One JSON object a line, for machines that collect logs.

use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};
use serde::Serialize;
use simplelog::{Config, SharedLogger};

use super::context::current;
use super::sink::Sink;
use crate::wire::time::rfc3339;

/// Writes each record as `{"timestamp","level","target","message","job"?,"execution"?,"thread"}`.
pub(super) struct JsonLogger(pub(super) Sink);

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'a str,
    target: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution: Option<&'a str>,
    thread: &'a str,
}

impl Log for JsonLogger {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let context = current();
        let thread = std::thread::current();
        let line = Line {
            timestamp: rfc3339(SystemTime::now(), 3),
            level: &record.level().as_str().to_ascii_lowercase(),
            target: record.target(),
            message: record.args().to_string(),
            job: context.as_ref().map(|c| c.job()),
            execution: context.as_ref().map(|c| c.execution()),
            thread: thread.name().unwrap_or("unnamed"),
        };
        // A structure of texts has a JSON form.
        if let Ok(mut bytes) = serde_json::to_vec(&line) {
            bytes.push(b'\n');
            self.0.line(&bytes);
        }
    }

    fn flush(&self) {}
}

impl SharedLogger for JsonLogger {
    fn level(&self) -> LevelFilter {
        LevelFilter::Trace
    }

    fn config(&self) -> Option<&Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

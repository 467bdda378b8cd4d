//! One JSON object a line, for machines that collect logs.

use std::time::SystemTime;

use log::Level;
use serde::Serialize;

use super::context::current;
use crate::wire::time::rfc3339;

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'a str,
    target: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution: Option<&'a str>,
    thread: &'a str,
}

/// A record of this thread as `{"timestamp","level","target","message","job"?,"execution"?,"thread"}` and a newline.
pub(super) fn line(level: Level, target: &str, message: &str) -> Vec<u8> {
    let context = current();
    let thread = std::thread::current();
    let line = Line {
        timestamp: rfc3339(SystemTime::now(), 3),
        level: &level.as_str().to_ascii_lowercase(),
        target,
        message,
        job: context.as_ref().map(|c| c.job()),
        execution: context.as_ref().map(|c| c.execution()),
        thread: thread.name().unwrap_or("unnamed"),
    };
    // A structure of texts has a JSON form.
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

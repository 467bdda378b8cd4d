//! The bodies that the agent sends, written once into one buffer.
//!
//! Every body passes [`encode`], which replaces NUL characters: PostgreSQL refuses them in text, and one in a script's
//! output would make the backend refuse the whole report.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::os::clock;
use crate::verdict::{Span, Status, Timings, Usage};
use crate::wire::amount;
use crate::wire::time::rfc3339;

/// The one terminal report of a job.
#[derive(Debug, Clone)]
pub struct CompleteBody<'a> {
    pub status: Status,
    /// −1 for a timeout.
    pub exit_code: i32,
    pub stdout: &'a str,
    pub stderr: &'a str,
    pub started: SystemTime,
    pub ended: SystemTime,
    pub duration: Duration,
    pub usage: Usage,
    /// What the script gave as its output, as JSON.
    pub script_output: Option<&'a RawValue>,
    pub condition: Option<bool>,
    /// The signed receipt, as JSON.
    pub receipt: Option<&'a RawValue>,
}

/// An update of an execution's row. Its status is always `running`: the backend passes the row's status on to the job, and
/// would take a terminal one for a second report, and none for the one before it, which puts the job back into the queue.
#[derive(Debug, Clone, Default)]
pub struct ExecutionUpdate<'a> {
    pub started: Option<SystemTime>,
    /// When the script ended, or until when the output goes. It sets the times that the pages show, and spares the job
    /// the backend's clean-up of jobs that ran for long.
    pub completed: Option<SystemTime>,
    pub exit_code: Option<i32>,
    pub output: Option<&'a str>,
    pub error: Option<&'a str>,
    pub timings: Timings,
    /// Named facts for `executionMetadata`. No secrets.
    pub metadata: &'a [(&'a str, String)],
}

impl CompleteBody<'_> {
    /// The body as it is sent. Later [`super::Client::complete`] takes it.
    pub fn to_json(&self) -> String {
        // Each line end of the output takes two bytes in JSON.
        let text = self.stdout.len() + self.stderr.len() + self.script_output.map_or(0, |output| output.get().len());
        text_of(encode(self, text + text / 32))
    }
}

impl ExecutionUpdate<'_> {
    /// The body as it is sent. Later [`super::Client::execution_update_json`] takes it.
    pub fn to_json(&self) -> String {
        let text = self.output.map_or(0, str::len) + self.error.map_or(0, str::len);
        text_of(encode(self, text + text / 32))
    }
}

/// JSON is UTF-8.
fn text_of(json: Vec<u8>) -> String {
    String::from_utf8(json).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Writes `body` as JSON, with U+FFFD in place of every NUL. `hint` is its approximate number of text bytes.
pub(super) fn encode(body: &impl Serialize, hint: usize) -> Vec<u8> {
    let mut json = Vec::with_capacity(hint + 512);
    // Writing to memory does not fail, and all keys here are strings.
    if let Err(e) = serde_json::to_writer(&mut json, body) {
        log::error!("a request body could not be written as JSON: {e}");
    }
    replace_nul(&mut json);
    json
}

/// Replaces each escape `\u0000` in JSON by `\ufffd`, which has the same length. An escaped backslash before `u0000` is text
/// and stays.
fn replace_nul(json: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = json[at..].iter().position(|&b| b == b'\\') {
        at += found;
        if json.get(at + 1..at + 6) == Some(b"u0000") {
            json[at + 2..at + 6].copy_from_slice(b"fffd");
        }
        // Any character after a backslash belongs to it.
        at = (at + 2).min(json.len());
    }
}

/// Whole milliseconds.
fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// A time in the contract's form, to the millisecond.
pub(super) fn time(at: SystemTime) -> String {
    rfc3339(at, 3)
}

/// Named values as a JSON object, in the order given.
pub(super) struct Pairs<'a>(pub(super) &'a [(&'a str, String)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Serialize for CompleteBody<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Output<'a> {
            stdout: &'a str,
            stderr: &'a str,
        }
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("status", self.status.as_str())?;
        map.serialize_entry("exitCode", &self.exit_code)?;
        map.serialize_entry("output", &Output { stdout: self.stdout, stderr: self.stderr })?;
        map.serialize_entry("metrics", &Metrics(self))?;
        if let Some(output) = self.script_output {
            map.serialize_entry("scriptOutput", output)?;
        }
        if let Some(condition) = self.condition {
            map.serialize_entry("condition", &condition)?;
        }
        if let Some(receipt) = self.receipt {
            map.serialize_entry("receipt", receipt)?;
        }
        map.serialize_entry("timestamp", &time(clock::wall()))?;
        map.end()
    }
}

struct Metrics<'a>(&'a CompleteBody<'a>);

impl Serialize for Metrics<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct ResourceUsage {
            peak_cpu: f64,
            peak_memory: u64,
            network_rx: u64,
            network_tx: u64,
            disk_read: u64,
            disk_write: u64,
        }
        let (body, usage) = (self.0, &self.0.usage);
        let peak_cpu = amount::sound(usage.peak_cpu_percent);
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("startTime", &time(body.started))?;
        map.serialize_entry("endTime", &time(body.ended))?;
        map.serialize_entry("duration", &millis(body.duration))?;
        map.serialize_entry(
            "resourceUsage",
            &ResourceUsage {
                peak_cpu,
                peak_memory: usage.peak_memory,
                network_rx: usage.network_rx,
                network_tx: usage.network_tx,
                disk_read: usage.disk_read,
                disk_write: usage.disk_write,
            },
        )?;
        map.end()
    }
}

impl Serialize for ExecutionUpdate<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("status", "running")?;
        if let Some(at) = self.started {
            map.serialize_entry("startedAt", &time(at))?;
        }
        if let Some(at) = self.completed {
            map.serialize_entry("completedAt", &time(at))?;
        }
        if let Some(code) = self.exit_code {
            map.serialize_entry("exitCode", &code)?;
        }
        if let Some(output) = self.output {
            map.serialize_entry("output", output)?;
        }
        if let Some(error) = self.error {
            map.serialize_entry("error", error)?;
        }
        let phases = [
            (self.timings.setup, ["setupStartedAt", "setupCompletedAt", "setupDuration"]),
            (self.timings.execution, ["executionStartedAt", "executionCompletedAt", "executionDuration"]),
            (self.timings.cleanup, ["cleanupStartedAt", "cleanupCompletedAt", "cleanupDuration"]),
        ];
        for (span, names) in phases {
            if let Some(span) = span {
                serialize_span(&mut map, &span, names)?;
            }
        }
        if !self.timings.total().is_zero() {
            map.serialize_entry("totalDuration", &millis(self.timings.total()))?;
        }
        if !self.metadata.is_empty() {
            map.serialize_entry("executionMetadata", &Pairs(self.metadata))?;
        }
        map.end()
    }
}

fn serialize_span<M: SerializeMap>(map: &mut M, span: &Span, names: [&str; 3]) -> Result<(), M::Error> {
    map.serialize_entry(names[0], &time(span.started))?;
    map.serialize_entry(names[1], &time(span.ended()))?;
    map.serialize_entry(names[2], &millis(span.length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::time::UNIX_EPOCH;

    #[test]
    fn nul_becomes_a_replacement_character_and_nothing_else_changes() {
        for (text, want) in [
            ("", ""),
            ("plain", "plain"),
            ("\0", "\u{fffd}"),
            ("a\0\0b\0", "a\u{fffd}\u{fffd}b\u{fffd}"),
            (r"\u0000", r"\u0000"),
            (r"\\u0000", r"\\u0000"),
            ("\\\0", "\\\u{fffd}"),
            ("\u{1}\u{b}0000", "\u{1}\u{b}0000"),
            ("\"\0\"", "\"\u{fffd}\""),
            ("\\", "\\"),
            ("\u{10}0000", "\u{10}0000"),
        ] {
            let back: Value = serde_json::from_slice(&encode(&json!({ "a": text, text: 1 }), 0)).expect("JSON");
            assert_eq!(back, json!({ "a": want, want: 1 }), "{text:?}");
        }
        for cut in [&b"\\"[..], b"\\u", b"\\u000", b"ab\\u00"] {
            let mut bytes = cut.to_vec();
            replace_nul(&mut bytes);
            assert_eq!(bytes, cut);
        }
    }

    #[test]
    fn a_complete_body_has_the_shape_of_the_contract() {
        let at = UNIX_EPOCH + Duration::from_secs(1_705_314_600);
        let body = CompleteBody {
            status: Status::Timeout,
            exit_code: -1,
            stdout: "a\0b",
            stderr: "",
            started: at,
            ended: at + Duration::from_millis(1500),
            duration: Duration::from_millis(1500),
            usage: Usage { peak_cpu_percent: f64::NAN, peak_memory: 7, ..Usage::default() },
            script_output: Some(serde_json::from_str(r#"{"a": [1.50, null]}"#).expect("JSON")),
            condition: Some(false),
            receipt: None,
        };
        assert!(body.to_json().contains(r#""scriptOutput":{"a": [1.50, null]},"condition":false"#));
        let body = CompleteBody { script_output: None, condition: None, ..body };
        let mut got: Value = serde_json::from_slice(&encode(&body, 3)).expect("JSON");
        let timestamp = got.as_object_mut().and_then(|o| o.remove("timestamp"));
        assert!(timestamp.is_some_and(|t| t.as_str().and_then(crate::wire::time::parse_rfc3339).is_some()));
        assert_eq!(
            got,
            json!({"status":"timeout","exitCode":-1,"output":{"stdout":"a\u{fffd}b","stderr":""},
                "metrics":{"startTime":"2024-01-15T10:30:00.000Z","endTime":"2024-01-15T10:30:01.500Z","duration":1500,
                    "resourceUsage":{"peakCpu":0.0,"peakMemory":7,"networkRx":0,"networkTx":0,"diskRead":0,"diskWrite":0}}})
        );
    }

    #[test]
    fn an_execution_update_is_never_terminal() {
        let span = Span { started: UNIX_EPOCH, length: Duration::from_millis(250) };
        let update = ExecutionUpdate {
            started: Some(UNIX_EPOCH),
            completed: Some(UNIX_EPOCH),
            exit_code: Some(3),
            output: Some("o"),
            error: Some("e"),
            timings: Timings { setup: Some(span), execution: Some(span), cleanup: None },
            metadata: &[("image", "cronium/runner".to_owned())],
        };
        let got: Value = serde_json::from_slice(&encode(&update, 0)).expect("JSON");
        let (from, to) = ("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.250Z");
        assert_eq!(
            got,
            json!({"status":"running","startedAt":from,"completedAt":from,"exitCode":3,"output":"o","error":"e",
                "setupStartedAt":from,"setupCompletedAt":to,"setupDuration":250,
                "executionStartedAt":from,"executionCompletedAt":to,"executionDuration":250,
                "totalDuration":500,"executionMetadata":{"image":"cronium/runner"}})
        );
        assert_eq!(encode(&ExecutionUpdate::default(), 0), br#"{"status":"running"}"#);
    }
}

//! Lines in the backend's two dialects, written into a reused buffer without a value tree.

use std::time::SystemTime;

use super::buffer::Line;
use crate::job::Stream;
use crate::wire::{json, time};

/// The subprotocol of [`Dialect::V2`].
pub(super) const SUBPROTOCOL: &str = "cronium.logs.v2";

/// What the server answered to the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// No subprotocol: a text frame a line, nothing is acknowledged.
    Lines,
    /// `cronium.logs.v2`: numbered batches, acknowledged.
    V2,
}

impl Dialect {
    /// For logs and `/health`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::V2 => SUBPROTOCOL,
        }
    }
}

/// The part of a line before its text, kept from one line to the next: lines that were read together have the same, and
/// many small writes cost more than their bytes.
#[derive(Debug, Default)]
pub(super) struct Head {
    of: Option<(SystemTime, Stream)>,
    text: Vec<u8>,
}

impl Head {
    fn of(&mut self, line: &Line<'_>) -> &[u8] {
        let of = Some((line.at, line.stream));
        if self.of != of {
            self.of = of;
            self.text.clear();
            for part in [
                "\"timestamp\":\"",
                &time::rfc3339(line.at, 9),
                "\",\"stream\":\"",
                line.stream.as_str(),
                "\",\"line\":",
            ] {
                self.text.extend_from_slice(part.as_bytes());
            }
        }
        &self.text
    }
}

/// The fields of a line in both dialects.
fn fields(out: &mut Vec<u8>, head: &mut Head, line: &Line<'_>) {
    out.extend_from_slice(head.of(line));
    json::string(out, line.text);
    out.extend_from_slice(b",\"sequence\":");
    json::number(out, line.sequence);
    out.extend_from_slice(if line.partial { b",\"partial\":true}" } else { b"}" });
}

/// One message of the dialect without a subprotocol.
pub(super) fn line(out: &mut Vec<u8>, head: &mut Head, job: &str, line: &Line<'_>) {
    out.extend_from_slice(b"{\"jobId\":");
    json::string(out, job.as_bytes());
    out.push(b',');
    fields(out, head, line);
}

/// The v2 `logs` message.
pub(super) fn batch<'a>(
    out: &mut Vec<u8>,
    head: &mut Head,
    job: &str,
    number: u64,
    lines: impl Iterator<Item = Line<'a>>,
) {
    out.extend_from_slice(b"{\"type\":\"logs\",\"payload\":{\"batch\":");
    json::number(out, number);
    out.extend_from_slice(b",\"jobId\":");
    json::string(out, job.as_bytes());
    out.extend_from_slice(b",\"entries\":[");
    for (n, line) in lines.enumerate() {
        out.extend_from_slice(if n == 0 { b"{" } else { b",{" });
        fields(out, head, &line);
    }
    out.extend_from_slice(b"]}}");
}

/// The v2 `hello`, first on every connection.
pub(super) fn hello(orchestrator: &str, version: &str) -> Vec<u8> {
    let mut out = b"{\"type\":\"hello\",\"payload\":{\"orchestratorId\":".to_vec();
    json::string(&mut out, orchestrator.as_bytes());
    out.extend_from_slice(b",\"version\":");
    json::string(&mut out, version.as_bytes());
    out.extend_from_slice(b"}}");
    out
}

/// The v2 `status`.
pub(super) fn status(job: &str, status: &str, at: SystemTime, details: Option<&str>) -> Vec<u8> {
    let mut out = b"{\"type\":\"status\",\"payload\":{\"jobId\":".to_vec();
    json::string(&mut out, job.as_bytes());
    out.extend_from_slice(b",\"status\":");
    json::string(&mut out, status.as_bytes());
    out.extend_from_slice(b",\"timestamp\":\"");
    out.extend_from_slice(time::rfc3339(at, 9).as_bytes());
    out.push(b'"');
    if let Some(details) = details {
        out.extend_from_slice(b",\"details\":");
        json::string(&mut out, details.as_bytes());
    }
    out.extend_from_slice(b"}}");
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::{Value, json};

    use super::*;

    fn read(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).expect("valid JSON")
    }

    #[test]
    fn both_dialects_say_what_the_contract_says() {
        let at = UNIX_EPOCH + Duration::new(1_705_314_600, 7);
        let first = Line { sequence: 1, at, stream: Stream::Stdout, text: b"a \"b\"", partial: false };
        let at_second = at + Duration::from_secs(61);
        let second = Line { sequence: 2, at: at_second, stream: Stream::System, text: b"\xff", partial: false };
        let (mut out, mut head) = (Vec::new(), Head::default());
        line(&mut out, &mut head, "j", &first);
        let entry = json!({"timestamp": "2024-01-15T10:30:00.000000007Z", "stream": "stdout", "line": "a \"b\"", "sequence": 1});
        let mut want = entry.clone();
        want["jobId"] = json!("j");
        assert_eq!(read(&out), want);
        out.clear();
        // The same time of another stream, and another time of the same.
        let third = Line { sequence: 3, stream: Stream::Stderr, text: b"", ..second };
        let fourth = Line { sequence: 4, at, partial: true, ..third };
        batch(&mut out, &mut head, "j", 9, [first, second, third, fourth].into_iter());
        let other = json!({"timestamp": "2024-01-15T10:31:01.000000007Z", "stream": "system", "line": "\u{FFFD}", "sequence": 2});
        let mut third = other.clone();
        (third["stream"], third["line"], third["sequence"]) = (json!("stderr"), json!(""), json!(3));
        let mut fourth = third.clone();
        (fourth["timestamp"], fourth["sequence"]) = (entry["timestamp"].clone(), json!(4));
        fourth["partial"] = json!(true);
        let entries = [entry, other, third, fourth];
        let want = json!({"type": "logs", "payload": {"batch": 9, "jobId": "j", "entries": entries}});
        assert_eq!(read(&out), want);
    }

    #[test]
    fn hello_and_status() {
        let want = json!({"type": "hello", "payload": {"orchestratorId": "a\"1", "version": "0.1"}});
        assert_eq!(read(&hello("a\"1", "0.1")), want);
        let mut want = json!({"type": "status", "payload":
            {"jobId": "j", "status": "running", "timestamp": "1970-01-01T00:00:00.000000000Z"}});
        assert_eq!(read(&status("j", "running", UNIX_EPOCH, None)), want);
        want["payload"]["details"] = json!("d");
        assert_eq!(read(&status("j", "running", UNIX_EPOCH, Some("d"))), want);
    }
}

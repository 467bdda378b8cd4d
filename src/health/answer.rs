//! From the head of a request to the bytes of its answer: the paths, the methods, the statuses.

use std::io::Cursor;
use std::time::SystemTime;

use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use super::board::{Board, Status};
use crate::metrics;
use crate::wire::prometheus;

const JSON: &str = "application/json";

/// Which paths a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// `healthPort`, or the one port for both.
    All,
    /// `metricsPort` where it is another: it can be opened to a scraper without opening the rest.
    MetricsOnly,
}

impl Role {
    fn paths(self) -> &'static [&'static str] {
        match self {
            Self::All => &["/health", "/ready", "/live", "/metrics"],
            Self::MetricsOnly => &["/metrics"],
        }
    }
}

/// Why no proper head was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It was not complete in time.
    Slow,
    /// It is longer than is read.
    TooLong,
}

type Answer = Response<Cursor<Vec<u8>>>;

/// The answer to `head`, a whole request head with its empty line.
pub(super) fn answer(head: &[u8], role: Role, board: &Board, now: SystemTime) -> Vec<u8> {
    let Some((method, target, minor)) = request_line(head) else {
        return bytes(error(400, "this is no HTTP/1.0 or HTTP/1.1 request"), 1, false);
    };
    let head_only = method == "HEAD";
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let known = role.paths().contains(&path);
    let response = match path {
        _ if !known => error(404, &format!("there is no such path here; there is {}", role.paths().join(", "))),
        _ if method != "GET" && !head_only => with(error(405, "GET and HEAD are allowed"), &[("Allow", "GET, HEAD")]),
        "/health" => health(board, now),
        "/ready" => ready(board),
        "/live" => reply(200, JSON, r#"{"status":"alive"}"#.to_owned()),
        _ => reply(200, prometheus::CONTENT_TYPE, metrics::render()),
    };
    bytes(response, minor, head_only)
}

/// The answer to a client that sent no proper head.
pub(super) fn refusal(fault: Fault) -> Vec<u8> {
    let response = match fault {
        Fault::Slow => error(408, "the request was not complete in time"),
        Fault::TooLong => error(431, "the head of the request is too long"),
    };
    bytes(response, 1, false)
}

/// Method, target and minor version of the first line of `head`.
fn request_line(head: &[u8]) -> Option<(&str, &str, u8)> {
    let line = head.split(|&b| b == b'\n').next()?;
    let line = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).ok()?;
    let mut parts = line.split(' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    let minor = match version {
        "HTTP/1.1" => 1,
        "HTTP/1.0" => 0,
        _ => return None,
    };
    let token = !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (token && !target.is_empty() && parts.next().is_none()).then_some((method, target, minor))
}

fn health(board: &Board, now: SystemTime) -> Answer {
    let (status, json) = board.health(now);
    reply(if status == Status::Unhealthy { 503 } else { 200 }, JSON, json)
}

fn ready(board: &Board) -> Answer {
    match board.why_not_ready() {
        None => reply(200, JSON, r#"{"status":"ready"}"#.to_owned()),
        Some(why) => reply(503, JSON, serde_json::json!({"status": "not ready", "reason": why}).to_string()),
    }
}

fn error(code: u16, text: &str) -> Answer {
    reply(code, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn reply(code: u16, content_type: &str, body: String) -> Answer {
    let body = body.into_bytes();
    let length = body.len();
    // Always with a Content-Length: never chunked, whatever the size.
    let plain = Response::new(StatusCode(code), Vec::new(), Cursor::new(body), Some(length), None)
        .with_chunked_threshold(usize::MAX);
    with(
        plain,
        &[
            ("Content-Type", content_type),
            ("Server", "cronium-agent"),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ],
    )
}

/// `response` with `headers`, which are constants in ASCII; one that is not would be left out.
fn with(mut response: Answer, headers: &[(&str, &str)]) -> Answer {
    for header in headers.iter().filter_map(|(name, value)| Header::from_bytes(*name, *value).ok()) {
        response.add_header(header);
    }
    response
}

/// The answer as it goes over the socket. tiny_http leaves `Connection` to its own server, so it is put in here: each
/// connection carries one answer.
fn bytes(response: Answer, minor: u8, head_only: bool) -> Vec<u8> {
    let mut plain = Vec::new();
    // Writing into a `Vec` does not fail.
    let _ = response.raw_print(&mut plain, HTTPVersion(1, minor), &[], head_only, None);
    let after_status = plain.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1);
    plain.splice(after_status..after_status, *b"Connection: close\r\n");
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str, role: Role, board: &Board) -> (u16, String) {
        let head = format!("{line}\r\nHost: x\r\n\r\n");
        let text = String::from_utf8(answer(head.as_bytes(), role, board, SystemTime::UNIX_EPOCH)).expect("utf-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("head");
        assert_eq!(head.lines().filter(|l| *l == "Connection: close").count(), 1, "{head}");
        let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).expect("length");
        if !line.starts_with("HEAD") {
            assert_eq!(length.parse(), Ok(body.len()), "{head}");
        }
        (text[9..12].parse().expect("status"), body.to_owned())
    }

    #[test]
    fn paths_methods_and_statuses() {
        let board = Board::new();
        for (line, role, status, body) in [
            ("GET /live HTTP/1.1", Role::All, 200, r#"{"status":"alive"}"#),
            ("GET /live?x=1 HTTP/1.0", Role::All, 200, "alive"),
            ("GET /health HTTP/1.1", Role::All, 200, r#"{"status":"degraded","timestamp":"1970-"#),
            ("GET /ready HTTP/1.1", Role::All, 503, r#""reason":"the agent is still starting""#),
            ("GET /metrics HTTP/1.1", Role::All, 200, "# HELP cronium_"),
            ("GET /metrics HTTP/1.1", Role::MetricsOnly, 200, "# HELP cronium_"),
            ("GET /health HTTP/1.1", Role::MetricsOnly, 404, "there is /metrics\n"),
            ("GET / HTTP/1.1", Role::All, 404, "/health, /ready, /live, /metrics\n"),
            ("GET /live/ HTTP/1.1", Role::All, 404, ""),
            ("GET /../../etc/passwd HTTP/1.1", Role::All, 404, ""),
            ("POST /live HTTP/1.1", Role::All, 405, "GET and HEAD"),
            ("DELETE /metrics HTTP/1.1", Role::MetricsOnly, 405, ""),
            ("GET /live HTTP/2.0", Role::All, 400, ""),
            ("GET  /live HTTP/1.1", Role::All, 400, ""),
            ("GET /live", Role::All, 400, ""),
            ("GET /live HTTP/1.1 x", Role::All, 400, ""),
            ("\u{1b}[2J /live HTTP/1.1", Role::All, 400, ""),
            ("", Role::All, 400, ""),
        ] {
            let (got, text) = ask(line, role, &board);
            assert_eq!(got, status, "{line}: {text}");
            assert!(text.contains(body), "{line}: {text}");
        }
        board.clear(super::super::Reason::Starting);
        assert_eq!(ask("GET /ready HTTP/1.1", Role::All, &board), (200, r#"{"status":"ready"}"#.to_owned()));
        board.set("docker", super::super::Component::unhealthy("gone"));
        assert_eq!(ask("GET /health HTTP/1.1", Role::All, &board).0, 503);
        assert_eq!(ask("HEAD /health HTTP/1.1", Role::All, &board), (503, String::new()));
    }

    #[test]
    fn bytes_that_are_no_text() {
        let text = answer(b"GET /\xff\xfe HTTP/1.1\r\n\r\n", Role::All, &Board::new(), SystemTime::UNIX_EPOCH);
        assert!(text.starts_with(b"HTTP/1.1 400 "));
        assert!(refusal(Fault::Slow).starts_with(b"HTTP/1.1 408 "));
        assert!(refusal(Fault::TooLong).starts_with(b"HTTP/1.1 431 "));
    }
}

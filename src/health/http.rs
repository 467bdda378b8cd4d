//! Bytes to requests, requests to pages, replies to bytes. No I/O.

use std::io::Cursor;

use tiny_http::{HTTPVersion, Header, Method, Response, StatusCode};

use crate::limits;

/// An answer, which tiny_http turns into bytes.
pub type Reply = Response<Cursor<Vec<u8>>>;

/// One page of a listener: a method, a path, and what answers it.
pub struct Page {
    method: Method,
    path: &'static str,
    answer: Box<dyn Fn(&Asked<'_>) -> Reply + Send>,
}

/// Who asks for a page, and for which.
#[derive(Debug)]
pub struct Asked<'a> {
    /// What stands in the path for the page's `*`.
    pub part: &'a str,
    /// The user at the other end of a Unix socket.
    pub(super) uid: Option<u32>,
}

impl Asked<'_> {
    /// Who asks, for the log.
    pub fn who(&self) -> String {
        self.uid.map_or_else(|| "somebody".to_owned(), |uid| format!("user {uid}"))
    }
}

impl Page {
    /// A page to read; HEAD gets its head. One `*` in `path` stands for any part without a slash.
    pub fn get(path: &'static str, answer: impl Fn(&Asked<'_>) -> Reply + Send + 'static) -> Self {
        Self { method: Method::Get, path, answer: Box::new(answer) }
    }

    /// A page that acts. A body that comes with the request is not read.
    pub fn post(path: &'static str, answer: impl Fn(&Asked<'_>) -> Reply + Send + 'static) -> Self {
        Self { method: Method::Post, path, answer: Box::new(answer) }
    }

    /// The part for the `*`, where `path` is this page's.
    fn part<'a>(&self, path: &'a str) -> Option<&'a str> {
        let (before, after) = self.path.split_once('*').unwrap_or((self.path, ""));
        let part = path.strip_prefix(before)?.strip_suffix(after)?;
        (part.is_empty() != self.path.contains('*') && !part.contains('/')).then_some(part)
    }

    #[cfg(test)]
    pub(super) fn answer(&self, asked: &Asked<'_>) -> Reply {
        (self.answer)(asked)
    }

    fn allows(&self, method: &Method) -> bool {
        *method == self.method || (*method == Method::Head && self.method == Method::Get)
    }
}

/// The first line of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// As it was sent, and
    pub(super) target: &'a str,
    /// without query and fragment.
    pub(super) path: &'a str,
    version: HTTPVersion,
}

/// Reads the head at the start of `bytes`; `None` when more of it is to come. A refusal does not wait for the rest.
pub(super) fn parse(bytes: &[u8]) -> Option<Result<Request<'_>, Reply>> {
    let head = &bytes[..bytes.len().min(limits::HEALTH_HEAD)];
    let line = head.iter().position(|&byte| byte == b'\n').map(|end| &head[..end]);
    let request = line.map(|line| request_line(line.strip_suffix(b"\r").unwrap_or(line)));
    // An empty line ends the head; lines may end in CRLF or LF.
    let is_whole = head.windows(2).any(|end| end == b"\n\n") || head.windows(3).any(|end| end == b"\n\r\n");
    match request {
        Some(None) => Some(Err(refusal(400, "this is no HTTP/1.0 or HTTP/1.1 request"))),
        Some(Some(request)) if is_whole => Some(Ok(request)),
        _ => (bytes.len() > head.len()).then(|| Err(refusal(431, "the head of the request is too long"))),
    }
}

fn request_line(line: &[u8]) -> Option<Request<'_>> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let version = match version {
        "HTTP/1.1" => HTTPVersion(1, 1),
        "HTTP/1.0" => HTTPVersion(1, 0),
        _ => return None,
    };
    let is_token = !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let path = target.split(['?', '#']).next().filter(|_| is_token && !target.is_empty() && words.next().is_none())?;
    Some(Request { method: method.parse().ok()?, target, path, version })
}

/// The one value of a header field in a whole head; an error where it is given twice.
pub(super) fn field<'a>(head: &'a [u8], name: &str) -> Result<Option<&'a str>, Reply> {
    let text = std::str::from_utf8(&head[..end_of_head(head)]).map_err(|_| refusal(400, "the head is not UTF-8"))?;
    let fields = text.lines().skip(1).filter_map(|line| line.split_once(':'));
    let mut values = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(refusal(400, &format!("{name} is given twice"))),
        (value, None) => Ok(value),
    }
}

/// Where the body of a request begins that has a whole head.
fn end_of_head(bytes: &[u8]) -> usize {
    let end = |mark: &[u8]| bytes.windows(mark.len()).position(|part| part == mark).map(|at| at + mark.len());
    [end(b"\n\n"), end(b"\n\r\n")].into_iter().flatten().min().unwrap_or(bytes.len())
}

/// Of the body behind a whole head: where it begins, its length, which is `most` at most, and whether the client waits for
/// a word before it sends it.
pub(super) fn body_length(head: &[u8], (most, name): (usize, &str)) -> Result<(usize, usize, bool), Reply> {
    if field(head, "transfer-encoding")?.is_some() {
        return Err(refusal(411, "send the body with a Content-Length"));
    }
    let length = field(head, "content-length")?.unwrap_or("0");
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    match length.parse::<usize>() {
        Ok(length) if is_number && length <= most => {
            let at = end_of_head(head);
            let wants_word = field(head, "expect")?.is_some_and(|word| word.eq_ignore_ascii_case("100-continue"));
            Ok((at, length, wants_word && head.len() < at + length))
        }
        _ if is_number => Err(refusal(413, &format!("the body has {length} bytes, at most {most} are taken ({name})"))),
        _ => Err(refusal(400, "Content-Length is no number")),
    }
}

/// The reply of the page that `request` names.
pub(super) fn answer(pages: &[Page], request: &Request<'_>, uid: Option<u32>) -> Reply {
    let Some((page, part)) = pages.iter().find_map(|page| Some((page, page.part(request.path)?))) else {
        let paths: Vec<&str> = pages.iter().map(|page| page.path).collect();
        return refusal(404, &format!("there is no such path here; there is {}", paths.join(", ")));
    };
    if !page.allows(&request.method) {
        let (text, allow) = match page.method {
            Method::Post => ("POST is allowed", "POST"),
            _ => ("GET and HEAD are allowed", "GET, HEAD"),
        };
        return with(refusal(405, text), &[("Allow", allow)]);
    }
    (page.answer)(&Asked { part, uid })
}

/// A reply in JSON.
pub fn json(code: u16, body: String) -> Reply {
    reply(code, "application/json", body)
}

/// A reply that is this text.
pub fn text(code: u16, body: String) -> Reply {
    reply(code, "text/plain; charset=utf-8", body)
}

/// A reply that says in one line of text why there is no other.
pub fn refusal(code: u16, why: &str) -> Reply {
    text(code, format!("{why}\n"))
}

pub(super) fn reply(code: u16, content_type: &str, body: String) -> Reply {
    // Always with a Content-Length: never chunked, whatever the size.
    let plain = Response::from_string(body).with_status_code(StatusCode(code)).with_chunked_threshold(usize::MAX);
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

/// `reply` with `headers`, which are constants in ASCII; one that is not would be left out.
pub(super) fn with(mut reply: Reply, headers: &[(&str, &str)]) -> Reply {
    for header in headers.iter().filter_map(|(name, value)| Header::from_bytes(*name, *value).ok()) {
        reply.add_header(header);
    }
    reply
}

/// The reply as it goes over the socket, to the client's `request` if it sent one. tiny_http leaves `Connection` to its
/// own server, so it is put in here: each connection carries one reply.
pub(super) fn bytes(reply: Reply, request: Option<&Request<'_>>) -> Vec<u8> {
    let version = request.map_or(HTTPVersion(1, 1), |request| request.version.clone());
    let head_only = request.is_some_and(|request| request.method == Method::Head);
    let mut bytes = Vec::new();
    // Writing into a `Vec` does not fail.
    let _ = reply.raw_print(&mut bytes, version, &[], head_only, None);
    let after_status = bytes.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    bytes.splice(after_status..after_status, *b"Connection: close\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::listener::Site;
    use super::super::start::probes;
    use super::super::{Component, HealthState, Reason};
    use super::*;
    use crate::config::types::Monitoring;

    /// The pages of both ports, all and `/metrics` alone.
    fn both(state: &Arc<HealthState>, page: bool) -> [Vec<Page>; 2] {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let bind_address = std::net::IpAddr::from([127, 0, 0, 1]);
        let config = Monitoring { enabled: true, bind_address, health_port: 0, metrics_port: free, page };
        let [all, metrics] =
            probes(&config, state, &Default::default()).expect("listeners").try_into().ok().expect("two");
        [all, metrics].map(|listener| match listener.site {
            Site::Pages(pages) => pages,
            Site::Calls(_) => panic!("calls over TCP"),
        })
    }

    fn ask(line: &str, pages: &[Page]) -> (u16, String) {
        let head = format!("{line}\r\nHost: x\r\n\r\n");
        let bytes = match parse(head.as_bytes()).expect("whole") {
            Ok(request) => bytes(answer(pages, &request, None), Some(&request)),
            Err(refusal) => bytes(refusal, None),
        };
        let text = String::from_utf8(bytes).expect("utf-8");
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
        let state = Arc::new(HealthState::new());
        let [all, metrics] = &both(&state, true);
        for (line, pages, status, body) in [
            ("GET /live HTTP/1.1", all, 200, r#"{"status":"alive"}"#),
            ("GET /live?x=1 HTTP/1.0", all, 200, "alive"),
            ("GET /live#x HTTP/1.0", all, 200, "alive"),
            ("GET /health HTTP/1.1", all, 200, r#"{"status":"degraded","timestamp":"20"#),
            ("GET /ready HTTP/1.1", all, 503, r#""reason":"the agent is still starting""#),
            ("GET /metrics HTTP/1.1", all, 200, "# HELP cronium_"),
            ("GET /metrics HTTP/1.1", metrics, 200, "# HELP cronium_"),
            ("GET /health HTTP/1.1", metrics, 404, "there is /metrics\n"),
            ("GET / HTTP/1.1", all, 200, "<!doctype html>"),
            ("GET /status.json HTTP/1.1", all, 503, "still starting"),
            ("POST / HTTP/1.1", all, 405, "GET and HEAD"),
            ("GET / HTTP/1.1", metrics, 404, "there is /metrics\n"),
            ("GET /x HTTP/1.1", all, 404, "/health, /ready, /live, /metrics, /, /status.json\n"),
            ("GET /live/ HTTP/1.1", all, 404, ""),
            ("GET /../../etc/passwd HTTP/1.1", all, 404, ""),
            ("POST /live HTTP/1.1", all, 405, "GET and HEAD"),
            ("get /live HTTP/1.1", all, 405, "GET and HEAD"),
            ("DELETE /metrics HTTP/1.1", metrics, 405, ""),
            ("GET /live HTTP/2.0", all, 400, ""),
            ("GET  /live HTTP/1.1", all, 400, ""),
            ("GET /live", all, 400, ""),
            ("GET /live HTTP/1.1 x", all, 400, ""),
            ("\u{1b}[2J /live HTTP/1.1", all, 400, ""),
            ("", all, 400, ""),
        ] {
            let (got, text) = ask(line, pages);
            assert_eq!(got, status, "{line}: {text}");
            assert!(text.contains(body), "{line}: {text}");
        }
        let [without, _] = both(&state, false);
        for path in ["/", "/status.json"] {
            assert_eq!(ask(&format!("GET {path} HTTP/1.1"), &without).0, 404, "monitoring.page: false");
        }
        state.clear(Reason::Starting);
        assert_eq!(ask("GET /ready HTTP/1.1", all), (200, r#"{"status":"ready"}"#.to_owned()));
        state.set("docker", Component::unhealthy("gone"));
        assert_eq!(ask("GET /health HTTP/1.1", all).0, 503);
        assert_eq!(ask("HEAD /health HTTP/1.1", all), (503, String::new()));
    }

    #[test]
    fn a_star_stands_for_one_part_of_the_path() {
        let echo = |asked: &Asked<'_>| json(200, format!("{} by {}", asked.part, asked.who()));
        let pages = [Page::post("/jobs/*/cancel", echo)];
        assert_eq!(ask("POST /jobs/a-1/cancel HTTP/1.1", &pages), (200, "a-1 by somebody".to_owned()));
        for path in ["/jobs//cancel", "/jobs/cancel", "/jobs/a/b/cancel", "/jobs/a", "/jobs/a/cancel/", "/jobs/*"] {
            assert_eq!(ask(&format!("POST {path} HTTP/1.1"), &pages).0, 404, "{path}");
        }
        for method in ["GET", "HEAD", "PUT"] {
            assert_eq!(ask(&format!("{method} /jobs/a/cancel HTTP/1.1"), &pages).0, 405, "{method}");
        }
    }

    #[test]
    fn a_head_at_every_split() {
        for text in ["GET /x HTTP/1.1\r\nA: b\r\n\r\nrest", "GET /x HTTP/1.0\n\nrest", "GET /x HTTP/1.1\r\n\nrest"] {
            let whole = text.len() - 4;
            for end in 0..=text.len() {
                match parse(&text.as_bytes()[..end]) {
                    None => assert!(end < whole, "{text:?} {end}"),
                    Some(Ok(request)) => assert!(end >= whole && request.path == "/x", "{text:?} {end}"),
                    Some(Err(_)) => panic!("{text:?} {end}"),
                }
            }
        }
        assert!(parse(b"GET / HTTP/1.1\r\nA: \r\r\r\n").is_none(), "no empty line");
        let status =
            |bytes: &[u8]| parse(bytes).map(|parsed| parsed.map_or_else(|refusal| refusal.status_code().0, |_| 200));
        assert_eq!(status(b"GET /\xff\xfe HTTP/1.1\r\n"), Some(400), "it does not wait for the rest");
        let long = |count: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(count));
        let most = limits::HEALTH_HEAD - long(0).len();
        assert_eq!(status(long(most).as_bytes()), Some(200));
        assert_eq!(status(long(most + 1).as_bytes()), Some(431));
        assert_eq!(status(&vec![b'x'; limits::HEALTH_HEAD]), None);
        assert_eq!(status(&vec![b'x'; limits::HEALTH_HEAD + 1]), Some(431));
    }
}

//! Heads of HTTP/1.1 answers (RFC 9112), as far as Docker's socket and the agent's own need them.
//!
//! The Docker connection becomes a raw byte stream after the head of an attach answer. No HTTP client library offers that on
//! a Unix socket without an async runtime. The parser is strict: lines end in CRLF, no folded lines, no space before a
//! colon, no two lengths that disagree. So no head can be understood in two ways.

use std::fmt;

use crate::limits::{HTTP_HEAD_MAX, HTTP_HEADERS_MAX};

/// Status line and header fields of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// 100 to 599.
    pub status: u16,
    /// May be empty; for people only.
    pub reason: String,
    /// The fields in the order in which they came.
    pub headers: Headers,
}

/// Header fields. `Debug` shows names alone, since a value may be a credential.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of the first field called `name`, in whatever case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All fields, name and value, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// Why the bytes are no head. `line` counts from 1, the start line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Longer than [`HTTP_HEAD_MAX`].
    TooLong,
    /// More than [`HTTP_HEADERS_MAX`] fields.
    TooManyHeaders,
    /// A line ends in a line feed without a carriage return.
    BareLineFeed { line: usize },
    /// The first line is no HTTP/1.x status line.
    StatusLine,
    /// A field has no colon, or its name is empty or has a character that names cannot have (a space before the colon).
    HeaderName { line: usize },
    /// A field's value has a control character.
    HeaderValue { line: usize },
    /// A field is continued on a second line, which RFC 9112 has withdrawn.
    Folded { line: usize },
    /// `Content-Length` is no decimal number of 64 bits.
    ContentLength,
    /// Two lengths that disagree, or a length beside `Transfer-Encoding`.
    ConflictingLengths,
    /// A transfer coding other than `chunked`, or one in an answer of HTTP/1.0.
    TransferEncoding,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("http head: ")?;
        match self {
            Self::TooLong => write!(f, "no end within {HTTP_HEAD_MAX} bytes"),
            Self::TooManyHeaders => write!(f, "more than {HTTP_HEADERS_MAX} header fields"),
            Self::BareLineFeed { line } => write!(f, "line {line} ends in LF, must be CRLF"),
            Self::StatusLine => f.write_str("the first line is no HTTP/1.x status line; does the socket speak HTTP?"),
            Self::HeaderName { line } => write!(f, "line {line} has no valid field name before a colon"),
            Self::HeaderValue { line } => write!(f, "line {line} has a control character in its value"),
            Self::Folded { line } => write!(f, "line {line} continues the field before it, which is not allowed"),
            Self::ContentLength => f.write_str("Content-Length is no decimal number"),
            Self::ConflictingLengths => f.write_str("the body's length is stated in two ways that disagree"),
            Self::TransferEncoding => f.write_str("Transfer-Encoding is something other than chunked over HTTP/1.1"),
        }
    }
}

impl std::error::Error for HeadError {}

/// Reads the head at the start of `bytes`: it and its length, or `None` when its end is not there yet.
///
/// Call it again with the same bytes and more. An error is reported as soon as its line is complete.
pub fn parse_response(bytes: &[u8]) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    let mut lines = Lines::new(bytes);
    let Some(first) = lines.next()? else { return Ok(None) };
    let (minor, status, reason) = status_line(first).ok_or(HeadError::StatusLine)?;
    let reason = text(reason);
    let Some(headers) = fields(&mut lines)? else { return Ok(None) };
    if minor == 0 && headers.get("transfer-encoding").is_some() {
        return Err(HeadError::TransferEncoding);
    }
    Ok(Some((ResponseHead { status, reason, headers }, lines.used)))
}

/// Complete lines from the start of a head, without their CRLF.
struct Lines<'a> {
    bytes: &'a [u8],
    used: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, used: 0, line: 0 }
    }

    fn next(&mut self) -> Result<Option<&'a [u8]>, HeadError> {
        // Beyond the cap nothing is looked at, so the verdict does not depend on how the bytes arrived.
        let within = &self.bytes[..self.bytes.len().min(HTTP_HEAD_MAX)];
        let rest = &within[self.used..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            return if within.len() == HTTP_HEAD_MAX { Err(HeadError::TooLong) } else { Ok(None) };
        };
        self.line += 1;
        self.used += end + 1;
        rest[..end].strip_suffix(b"\r").map(Some).ok_or(HeadError::BareLineFeed { line: self.line })
    }
}

fn fields(lines: &mut Lines<'_>) -> Result<Option<Headers>, HeadError> {
    let mut headers = Vec::new();
    while let Some(field) = lines.next()? {
        let line = lines.line;
        if field.is_empty() {
            return Ok(Some(Headers(headers)));
        }
        if matches!(field[0], b' ' | b'\t') {
            return Err(HeadError::Folded { line });
        }
        if headers.len() == HTTP_HEADERS_MAX {
            return Err(HeadError::TooManyHeaders);
        }
        let colon = field.iter().position(|&byte| byte == b':').ok_or(HeadError::HeaderName { line })?;
        let (name, value) = (&field[..colon], &field[colon + 1..]);
        if !is_token(name) {
            return Err(HeadError::HeaderName { line });
        }
        if !is_text(value) {
            return Err(HeadError::HeaderValue { line });
        }
        headers.push((text(name), text(value.trim_ascii())));
    }
    Ok(None)
}

/// Minor version, status, reason.
fn status_line(line: &[u8]) -> Option<(u8, u16, &[u8])> {
    let (minor, rest) = version(line)?;
    let [b' ', a, b, c, rest @ ..] = rest else { return None };
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    let status = digit(a)? * 100 + digit(b)? * 10 + digit(c)?;
    // The space before an empty reason is often forgotten.
    let reason = if rest.is_empty() { rest } else { rest.strip_prefix(b" ")? };
    ((100..600).contains(&status) && is_text(reason)).then_some((minor, status, reason))
}

fn version(line: &[u8]) -> Option<(u8, &[u8])> {
    match line.strip_prefix(b"HTTP/1.")? {
        [minor @ (b'0' | b'1'), rest @ ..] => Some((minor - b'0', rest)),
        _ => None,
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// RFC 9110 section 5.5: visible characters, space, tab, and whatever is beyond ASCII.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How the end of an answer's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none. After 101 the connection is another protocol's.
    Empty,
    /// This many bytes.
    Fixed(u64),
    /// See [`super::chunked`].
    Chunked,
    /// All until the connection ends; it cannot be used again.
    UntilClose,
}

/// The rules of RFC 9112 section 6.3, without its exceptions for old senders.
pub fn response_body(head: &ResponseHead, method_was_head: bool) -> Result<BodyLength, HeadError> {
    if method_was_head || matches!(head.status, 100..200 | 204 | 304) {
        return Ok(BodyLength::Empty);
    }
    let mut codings = head.headers.all("transfer-encoding");
    if let Some(coding) = codings.next() {
        if head.headers.get("content-length").is_some() {
            return Err(HeadError::ConflictingLengths);
        }
        let alone = codings.next().is_none() && coding.eq_ignore_ascii_case("chunked");
        return if alone { Ok(BodyLength::Chunked) } else { Err(HeadError::TransferEncoding) };
    }
    let mut length = None;
    for value in head.headers.all("content-length").flat_map(|value| value.split(',')) {
        let stated = decimal(value.trim_ascii()).ok_or(HeadError::ContentLength)?;
        if length.is_some_and(|other| other != stated) {
            return Err(HeadError::ConflictingLengths);
        }
        length = Some(stated);
    }
    Ok(length.map_or(BodyLength::UntilClose, BodyLength::Fixed))
}

/// `str::parse` would take `+5`.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `parse` says `expected` of `input` with something behind it, and does so at every split: `None`, possibly the same
    /// error, before; never anything else.
    fn check<T: PartialEq + fmt::Debug>(
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, HeadError>,
        input: &[u8],
        expected: Result<T, HeadError>,
    ) {
        let expected = expected.map(|head| Some((head, input.len())));
        for at in 0..input.len() {
            let early = parse(&input[..at]);
            assert!(early == Ok(None) || expected.is_err() && early == expected, "first {at} bytes: {early:?}");
        }
        for behind in [&b""[..], b"x", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n"] {
            assert_eq!(parse(&[input, behind].concat()), expected, "with {behind:?} behind it");
        }
    }

    fn headers(fields: &[(&str, &str)]) -> Headers {
        Headers(fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    fn response(status: u16, reason: &str, fields: &[(&str, &str)]) -> ResponseHead {
        ResponseHead { status, reason: reason.to_owned(), headers: headers(fields) }
    }

    #[test]
    fn answers() {
        for (input, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", response(200, "OK", &[])),
            ("HTTP/1.1 204\r\n\r\n", response(204, "", &[])),
            ("HTTP/1.0 404 \r\n\r\n", response(404, "", &[])),
            (
                "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection:Upgrade\r\n\r\n",
                response(
                    101,
                    "UPGRADED",
                    &[("Content-Type", "application/vnd.docker.raw-stream"), ("Connection", "Upgrade")],
                ),
            ),
            (
                "HTTP/1.1 500 Ünwell\r\nA: \t b: c \t\r\nEmpty:\r\na:2\r\n\r\n",
                response(500, "Ünwell", &[("A", "b: c"), ("Empty", ""), ("a", "2")]),
            ),
        ] {
            check(parse_response, input.as_bytes(), Ok(expected));
        }
        check(parse_response, b"HTTP/1.1 200 \xff\r\n\r\n", Ok(response(200, "\u{fffd}", &[])));
    }

    #[test]
    fn what_is_no_answer() {
        for bad in ["", "HTTP/1.1 20 OK", "HTTP/1.1 2000", "HTTP/1.1 +20 OK", "HTTP/1.1 099 x", "HTTP/1.1 600 x"] {
            check(parse_response, format!("{bad}\r\n").as_bytes(), Err(HeadError::StatusLine));
        }
        for bad in ["HTTP/2.0 200 OK", "http/1.1 200 OK", "HTTP/1.1  200 OK", "HTTP/1.1 200 O\x07K", "GET / HTTP/1.1"] {
            check(parse_response, format!("{bad}\r\n").as_bytes(), Err(HeadError::StatusLine));
        }
        for (fields, error) in [
            ("A: 1\n", HeadError::BareLineFeed { line: 2 }),
            ("A: 1\r\n\n", HeadError::BareLineFeed { line: 3 }),
            ("no colon\r\n", HeadError::HeaderName { line: 2 }),
            ("A : 1\r\n", HeadError::HeaderName { line: 2 }),
            (": 1\r\n", HeadError::HeaderName { line: 2 }),
            ("A: 1\r\nÄ: 2\r\n", HeadError::HeaderName { line: 3 }),
            ("A: 1\r\n 2\r\n", HeadError::Folded { line: 3 }),
            ("A: 1\0\r\n", HeadError::HeaderValue { line: 2 }),
            ("A: 1\r2\r\n", HeadError::HeaderValue { line: 2 }),
        ] {
            check(parse_response, format!("HTTP/1.1 200 OK\r\n{fields}").as_bytes(), Err(error));
        }
        let old = b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(parse_response, old, Err(HeadError::TransferEncoding));
    }

    #[cfg_attr(miri, ignore = "megabytes take Miri hours")]
    #[test]
    fn caps_hold() {
        let start = "HTTP/1.1 200 OK\r\n";
        let fill = |total: usize| format!("{start}A: {}\r\n\r\n", "x".repeat(total - start.len() - 7));
        assert!(matches!(parse_response(fill(HTTP_HEAD_MAX).as_bytes()), Ok(Some((_, HTTP_HEAD_MAX)))));
        let long = fill(HTTP_HEAD_MAX + 1);
        assert_eq!(parse_response(long.as_bytes()), Err(HeadError::TooLong));
        assert_eq!(parse_response(&long.as_bytes()[..HTTP_HEAD_MAX]), Err(HeadError::TooLong));
        assert_eq!(parse_response(&long.as_bytes()[..HTTP_HEAD_MAX - 1]), Ok(None));

        let many = |count: usize| format!("{start}{}\r\n", "a: b\r\n".repeat(count));
        let full = parse_response(many(HTTP_HEADERS_MAX).as_bytes()).expect("all fit").expect("complete").0;
        assert_eq!(full.headers.iter().count(), HTTP_HEADERS_MAX);
        check(parse_response, many(HTTP_HEADERS_MAX + 1).as_bytes(), Err(HeadError::TooManyHeaders));
    }

    #[test]
    fn bodies() {
        use BodyLength::{Chunked, Empty, Fixed, UntilClose};
        let (te, cl) = ("Transfer-Encoding", "content-LENGTH");
        for (status, method_was_head, fields, expected) in [
            (200, false, &[][..], Ok(UntilClose)),
            (200, false, &[(cl, "0")], Ok(Fixed(0))),
            (200, false, &[(cl, "18446744073709551615")], Ok(Fixed(u64::MAX))),
            (200, false, &[(cl, "5"), (cl, "5")], Ok(Fixed(5))),
            (200, false, &[(cl, "5, 05")], Ok(Fixed(5))),
            (200, false, &[(te, "Chunked")], Ok(Chunked)),
            (200, true, &[(cl, "5")], Ok(Empty)),
            (101, false, &[], Ok(Empty)),
            (204, false, &[(cl, "5")], Ok(Empty)),
            (304, false, &[(te, "chunked")], Ok(Empty)),
            (200, false, &[(cl, "18446744073709551616")], Err(HeadError::ContentLength)),
            (200, false, &[(cl, "+5")], Err(HeadError::ContentLength)),
            (200, false, &[(cl, "-5")], Err(HeadError::ContentLength)),
            (200, false, &[(cl, "")], Err(HeadError::ContentLength)),
            (200, false, &[(cl, "5,")], Err(HeadError::ContentLength)),
            (200, false, &[(cl, "5"), (cl, "6")], Err(HeadError::ConflictingLengths)),
            (200, false, &[(cl, "5, 6")], Err(HeadError::ConflictingLengths)),
            (200, false, &[(te, "chunked"), (cl, "5")], Err(HeadError::ConflictingLengths)),
            (200, false, &[(te, "gzip, chunked")], Err(HeadError::TransferEncoding)),
            (200, false, &[(te, "chunked"), (te, "chunked")], Err(HeadError::TransferEncoding)),
        ] {
            let head = response(status, "", fields);
            assert_eq!(response_body(&head, method_was_head), expected, "{status} {fields:?}");
        }
    }

    #[test]
    fn names_in_any_case_and_no_values_in_debug() {
        let headers = headers(&[("X-Registry-Auth", "hunter2"), ("x-registry-auth", "second")]);
        assert_eq!(headers.get("x-rEGISTRY-auth"), Some("hunter2"));
        assert_eq!(headers.get("X-Registry"), None);
        assert_eq!(format!("{headers:?}"), r#"["X-Registry-Auth", "x-registry-auth"]"#);
    }
}

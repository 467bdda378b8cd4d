//! A server's answer: its body read up to a cap, and what of it goes to the next script of a workflow.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde::Serialize;
use serde_json::value::RawValue;
use ureq::http::Response;
use ureq::http::header::HeaderMap;

use crate::job::{Output, Stream};
use crate::limits;
use crate::wire::json::sound_text;
use crate::wire::scan::Json;

/// A body as far as it was kept.
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    /// There was more.
    pub(super) is_cut: bool,
}

/// Reads the body, passes it on as it comes, and keeps at most `most` bytes. After a cut the rest is not
/// waited for: it may have no end.
pub(super) fn read(
    response: &mut Response<ureq::Body>,
    most: usize,
    output: &mut dyn Output,
) -> (Kept, Result<(), ureq::Error>) {
    let announced = response.body().content_length();
    let mut reader = response.body_mut().as_reader();
    let (mut kept, mut buffer) = (Kept { bytes: Vec::new(), is_cut: false }, vec![0; limits::REQUEST_BUFFER]);
    while !kept.is_cut {
        let piece = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => &buffer[..n],
            Err(error) => return (kept, Err(error.into())),
        };
        let room = most - kept.bytes.len();
        kept.is_cut = piece.len() > room;
        let piece = &piece[..piece.len().min(room)];
        kept.bytes.extend_from_slice(piece);
        output.bytes(Stream::Stdout, piece);
        output.settle();
    }
    if kept.is_cut {
        output.bytes(Stream::Stderr, format!("cronium-agent: {}\n", told(most, announced)).as_bytes());
    }
    (kept, Ok(()))
}

/// The sentence about a body that was cut.
fn told(most: usize, announced: Option<u64>) -> String {
    match announced {
        Some(all) => format!("the first {most} of the body's {all} bytes were kept (http.maxResponse)"),
        None => format!(
            "the first {most} bytes of the body were kept (http.maxResponse); how many more there were is not known"
        ),
    }
}

/// `scriptOutput` of a request's job, as JSON. The body is what it says if it is JSON and whole, else text.
pub(super) fn script_output(status: u16, status_text: &str, headers: &HeaderMap, body: &Kept) -> String {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Content<'a> {
        Json(&'a RawValue),
        Text(&'a str),
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ScriptOutput<'a> {
        status: u16,
        status_text: &'a str,
        headers: BTreeMap<&'a str, String>,
        body: Content<'a>,
    }
    let text = String::from_utf8_lossy(&body.bytes);
    let json = if body.is_cut { None } else { json(headers, &text) };
    let output = ScriptOutput {
        status,
        status_text,
        headers: all(headers),
        body: json.map_or(Content::Text(&text), Content::Json),
    };
    // Names are text, so this does not fail.
    sound_text(serde_json::to_string(&output).unwrap_or_default())
}

/// The headers, each with all of its values.
fn all(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let value = |name| {
        let each = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        each.collect::<Vec<_>>().join(", ")
    };
    headers.keys().map(|name| (name.as_str(), value(name))).collect()
}

/// The body as JSON: by its type, or an object or array of a server that names another one. What is nested too deep for the
/// backend stays text.
fn json<'a>(headers: &HeaderMap, text: &'a str) -> Option<&'a RawValue> {
    let kind = headers.get("content-type").map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    let named = kind.is_some_and(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().ends_with("json")));
    if !named && !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    Json::strict(text.as_bytes()).ok()?;
    serde_json::from_str(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use ureq::http::header::{HeaderName, HeaderValue};

    fn output(headers: &[(&str, &str)], body: &[u8], is_cut: bool) -> Value {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let kept = Kept { bytes: body.to_vec(), is_cut };
        serde_json::from_str(&script_output(200, "OK", &map, &kept)).expect("JSON")
    }

    #[test]
    fn the_next_script_gets_status_headers_and_body() {
        let headers =
            [("Content-Type", "application/json; charset=utf-8"), ("Set-Cookie", "a=1"), ("set-cookie", "b=2")];
        let want = json!({"status": 200, "statusText": "OK", "body": {"a": [1.5, "ä"]},
            "headers": {"content-type": "application/json; charset=utf-8", "set-cookie": "a=1, b=2"}});
        assert_eq!(output(&headers, "{\"a\": [1.5, \"ä\"]}\n".as_bytes(), false), want);
    }

    #[test]
    fn a_body_is_what_it_says_if_it_is_json_and_whole() {
        let json_type = [("content-type", "application/problem+json")];
        let text_type = [("content-type", "text/plain")];
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        for (headers, body, is_cut, want) in [
            (&json_type[..], "7", false, json!(7)),
            (&json_type, "\"x\"", false, json!("x")),
            (&json_type, "{", false, json!("{")),
            (&json_type, "", false, json!("")),
            (&json_type, "[1]", true, json!("[1]")),
            (&json_type, "{} {}", false, json!("{} {}")),
            (&text_type, "7", false, json!("7")),
            (&text_type, " {\"a\":1}", false, json!({"a": 1})),
            (&[], "[1]", false, json!([1])),
            (&[], "hello", false, json!("hello")),
            (&[], &deep, false, json!(deep)),
        ] {
            assert_eq!(output(headers, body.as_bytes(), is_cut)["body"], want, "{body}");
        }
    }

    #[test]
    fn what_no_database_takes_is_replaced() {
        assert_eq!(output(&[], b"a\0b\xffc", false)["body"], "a\u{fffd}b\u{fffd}c");
        let json = [("content-type", "application/json")];
        assert_eq!(output(&json, br#"{"a":"\u0000\ud800"}"#, false)["body"], json!({"a": "\u{fffd}\u{fffd}"}));
    }

    #[test]
    fn a_cut_is_told_with_a_count() {
        assert_eq!(told(5, Some(9)), "the first 5 of the body's 9 bytes were kept (http.maxResponse)");
        assert!(told(5, None).contains("the first 5 bytes of the body were kept"), "{}", told(5, None));
    }
}

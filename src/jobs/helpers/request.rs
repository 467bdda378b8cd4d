//! The form of a helper's request and of its answer, the same over HTTP and in a job's folder on a server. Pure.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET input` | the script's input |
//! | `POST output` `{"data":X}` | |
//! | `GET` `PUT variables/KEY` `{"value":X}` | `{"key","value"}`; 404 where there is none |
//! | `GET` `POST condition` `{"condition":bool}` | `{"condition":bool}` |
//! | `POST redact` `{"value":X}` | `{"redacted":bool,"why"}`; with `?raw` why it is not, or nothing |
//! | `GET context`, `GET event`, `GET event/FIELD` | what `event` gives, or one field of it |
//!
//! An answer is `{"success":true,"data":X}`, an error `{"error","message"}`. With `?raw`, for Bash, a body is the text
//! itself and so is the answer: JSON where it is JSON, and an error's message.

use serde_json::json;
use serde_json::value::RawValue;

use crate::secret::Secret;
use crate::wire::json::sound_text;
use crate::wire::scan::Json;

/// What a helper asks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) action: Action,
    /// The body was, and the answer is to be, plain text.
    pub(super) raw: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    Input,
    /// JSON.
    Output(String),
    GetVariable(String),
    /// Key and value.
    SetVariable(String, String),
    /// This value is a secret.
    Redact(Secret),
    GetCondition,
    SetCondition(bool),
    Event,
    /// One field of it.
    EventField(String),
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) raw: bool,
}

/// Why there is no answer: the status, and a sentence.
pub(super) type Refusal = (u16, String);

impl Answer {
    /// `json` is JSON: the data of an answer.
    pub(super) fn of(result: Result<String, Refusal>, raw: bool) -> Self {
        let (status, body) = match (result, raw) {
            (Ok(json), false) => (200, format!("{{\"success\":true,\"data\":{json}}}")),
            (Ok(json), true) => (200, plain(&json)),
            (Err((status, why)), true) => (status, why),
            (Err((status, why)), false) => (status, json!({ "error": word(status), "message": why }).to_string()),
        };
        Self { status, body, raw }
    }

    /// The form in a job's folder on a server.
    pub(super) fn message(&self) -> Vec<u8> {
        format!("{}\n{}", self.status, self.body).into_bytes()
    }
}

/// The word for a status, as the sidecar of older versions had it.
fn word(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Payload Too Large",
        429 => "Too Many Requests",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        _ => "Internal Server Error",
    }
}

/// JSON as Bash gets it: text without its quotes, nothing for null.
fn plain(json: &str) -> String {
    match Json::outline(json.as_bytes()) {
        Ok(null) if null.is_null() => String::new(),
        Ok(value) => value.text(usize::MAX).unwrap_or_else(|_| json.to_owned()),
        Err(_) => json.to_owned(),
    }
}

/// `METHOD TARGET\n` and the body.
pub(super) fn parse_message(message: &[u8]) -> Result<Request, (Refusal, bool)> {
    let end = message.iter().position(|&byte| byte == b'\n').unwrap_or(message.len());
    let line = String::from_utf8_lossy(&message[..end]);
    let (method, target) = line.split_once(' ').unwrap_or((&line, ""));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let raw = query == "raw";
    let parts: Vec<String> = path.split('/').map(decoded).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let body = message.get(end + 1..).unwrap_or_default();
    action(method, &parts, body, raw).map(|action| Request { action, raw }).map_err(|refusal| (refusal, raw))
}

/// What is asked by `method` of a path below the execution.
pub(super) fn action(method: &str, path: &[&str], body: &[u8], raw: bool) -> Result<Action, Refusal> {
    match (method, path) {
        ("GET", ["input"]) => Ok(Action::Input),
        ("POST" | "PUT", ["output"]) => Ok(Action::Output(data(body, raw)?)),
        (_, ["variables", ""] | ["variables"]) => Err((400, "the variable has no name".to_owned())),
        ("GET", ["variables", key]) => Ok(Action::GetVariable((*key).to_owned())),
        ("PUT" | "POST", ["variables", key]) => Ok(Action::SetVariable((*key).to_owned(), value(body, raw)?)),
        ("POST" | "PUT", ["redact"]) => Ok(Action::Redact(Secret::new(value(body, raw)?))),
        ("GET", ["condition"]) => Ok(Action::GetCondition),
        ("POST" | "PUT", ["condition"]) => Ok(Action::SetCondition(condition(body, raw)?)),
        ("GET", ["context" | "event"]) => Ok(Action::Event),
        ("GET", ["event", field]) => Ok(Action::EventField((*field).to_owned())),
        (_, ["input" | "output" | "redact" | "condition" | "context" | "event"] | ["variables", _]) => {
            Err((405, format!("{method} is not for this path")))
        }
        _ => Err((404, "there is no such path: input, output, variables/KEY, redact, condition, context".to_owned())),
    }
}

/// The output as JSON. Of text, what is JSON is JSON, the rest a text.
fn data(body: &[u8], raw: bool) -> Result<String, Refusal> {
    if raw {
        let text = utf8(body)?;
        let is_json = !text.trim().is_empty() && Json::strict(text.as_bytes()).is_ok();
        return Ok(sound_text(if is_json { text.trim().to_owned() } else { json!(text).to_string() }));
    }
    Ok(sound_text(utf8(member(body, "data")?.bytes())?.to_owned()))
}

/// A variable's value as the text that is stored: a text itself, the JSON of everything else.
fn value(body: &[u8], raw: bool) -> Result<String, Refusal> {
    if raw {
        return utf8(body).map(str::to_owned);
    }
    let json = sound_text(utf8(member(body, "value")?.bytes())?.to_owned());
    let text = Json::outline(json.as_bytes()).ok().and_then(|value| value.text(usize::MAX).ok());
    Ok(text.unwrap_or(json))
}

fn condition(body: &[u8], raw: bool) -> Result<bool, Refusal> {
    let word = if raw { utf8(body)?.trim().to_owned() } else { utf8(member(body, "condition")?.bytes())?.to_owned() };
    match word.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        "1" | "yes" | "on" if raw => Ok(true),
        "0" | "no" | "off" if raw => Ok(false),
        _ if raw => Err((400, format!("{word:?} is no condition: true, 1, yes, on or false, 0, no, off"))),
        _ => Err((400, "a condition is true or false".to_owned())),
    }
}

/// A member of an object that must be there. Null counts.
fn member<'a>(body: &'a [u8], name: &'static str) -> Result<Json<'a>, Refusal> {
    let json = Json::strict(body).map_err(|why| (400, format!("the body is not JSON that can be used: {why}")))?;
    let mut found = None;
    for (key, value) in json.members().into_iter().flatten().flatten() {
        if key.is(name) {
            found = Some(value);
        }
    }
    found.ok_or_else(|| (400, format!("the body is not an object with {name:?}")))
}

fn utf8(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).map_err(|_| (400, "the text is not UTF-8".to_owned()))
}

/// `%XX` as the bytes that they stand for.
pub(super) fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%') {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a variable's text is for a script, as JSON: an object or an array itself, everything else a text.
pub(super) fn meaning(text: &str) -> String {
    let trimmed = text.trim_start();
    let may_be = trimmed.starts_with(['{', '[']);
    match serde_json::from_str::<&RawValue>(text) {
        Ok(json) if may_be => json.get().to_owned(),
        _ => json!(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &str) -> Result<Action, u16> {
        parse_message(message.as_bytes()).map(|request| request.action).map_err(|((status, _), _)| status)
    }

    #[test]
    fn requests_and_refusals() {
        let text = |text: &str| text.to_owned();
        for (message, want) in [
            ("GET input", Ok(Action::Input)),
            ("GET context\n", Ok(Action::Event)),
            ("GET event/name", Ok(Action::EventField(text("name")))),
            ("POST output\n{\"data\":[1, 2]}", Ok(Action::Output(text("[1, 2]")))),
            ("POST output\n{\"data\":null}", Ok(Action::Output(text("null")))),
            ("POST output\n{\"data\":\"\\ud83d\\u0000\"}", Ok(Action::Output(text("\"\\ufffd\\ufffd\"")))),
            ("POST output\n{\"dat\":1}", Err(400)),
            ("POST output\n{\"data\":NaN}", Err(400)),
            ("POST output\n[]", Err(400)),
            ("DELETE output\n{}", Err(405)),
            ("POST output?raw\n {\"a\":1}\n", Ok(Action::Output(text("{\"a\":1}")))),
            ("POST output?raw\n007", Ok(Action::Output(text("\"007\"")))),
            ("POST output?raw\n7", Ok(Action::Output(text("7")))),
            ("POST output?raw\n", Ok(Action::Output(text("\"\"")))),
            ("POST output?raw\na \"b\"\n", Ok(Action::Output(text("\"a \\\"b\\\"\\n\"")))),
            ("GET variables/a%2Fb%20%C3%BC", Ok(Action::GetVariable(text("a/b ü")))),
            ("GET variables/100%", Ok(Action::GetVariable(text("100%")))),
            ("GET variables/", Err(400)),
            ("GET variables/a/b", Err(404)),
            ("PUT variables/k\n{\"value\":\"x\"}", Ok(Action::SetVariable(text("k"), text("x")))),
            ("PUT variables/k\n{\"value\":1.50}", Ok(Action::SetVariable(text("k"), text("1.50")))),
            ("PUT variables/k\n{\"value\":[1]}", Ok(Action::SetVariable(text("k"), text("[1]")))),
            ("PUT variables/k\n{\"value\":null}", Ok(Action::SetVariable(text("k"), text("null")))),
            ("PUT variables/k?raw\n x\n", Ok(Action::SetVariable(text("k"), text(" x\n")))),
            ("POST redact\n{\"value\":\"s3\\u0063ret\"}", Ok(Action::Redact(Secret::new("s3cret")))),
            ("POST redact?raw\ns3cret", Ok(Action::Redact(Secret::new("s3cret")))),
            ("GET redact", Err(405)),
            ("POST condition\n{\"condition\":true}", Ok(Action::SetCondition(true))),
            ("POST condition\n{\"condition\":1}", Err(400)),
            ("POST condition?raw\nYes", Ok(Action::SetCondition(true))),
            ("POST condition?raw\noff\n", Ok(Action::SetCondition(false))),
            ("POST condition?raw\nmaybe", Err(400)),
            ("GET condition", Ok(Action::GetCondition)),
            ("POST tool-actions/execute\n{}", Err(404)),
            ("", Err(404)),
        ] {
            assert_eq!(read(message), want, "{message:?}");
        }
        assert_eq!(
            parse_message(b"PUT variables/k?raw\n\xff").map_err(|((status, _), raw)| (status, raw)),
            Err((400, true))
        );
    }

    #[test]
    fn answers_in_both_forms() {
        let answer = |result: Result<&str, (u16, &str)>, raw| {
            let result = result.map(str::to_owned).map_err(|(status, why)| (status, why.to_owned()));
            String::from_utf8(Answer::of(result, raw).message()).expect("text")
        };
        assert_eq!(answer(Ok("{\"a\":1}"), false), "200\n{\"success\":true,\"data\":{\"a\":1}}");
        assert_eq!(answer(Ok("{\"a\":1}"), true), "200\n{\"a\":1}");
        assert_eq!(answer(Ok("\"a\\nb\""), true), "200\na\nb");
        assert_eq!(answer(Ok("null"), true), "200\n");
        let why = "404\n{\"error\":\"Not Found\",\"message\":\"no \\\"x\\\"\"}";
        assert_eq!(answer(Err((404, "no \"x\"")), false), why);
        assert_eq!(answer(Err((404, "no \"x\"")), true), "404\nno \"x\"");
    }

    #[test]
    fn of_a_variables_text_objects_and_arrays_come_back_as_such() {
        for (text, want) in [
            ("{\"a\": 1}", "{\"a\": 1}"),
            (" [1]", "[1]"),
            ("[1", "\"[1\""),
            ("7", "\"7\""),
            ("true", "\"true\""),
            ("\"x\"", "\"\\\"x\\\"\""),
            ("", "\"\""),
        ] {
            assert_eq!(meaning(text), want);
        }
    }
}

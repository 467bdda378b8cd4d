//! What the backend answers, read with distrust: a wrong part costs that part alone, and nothing grows without a cap.

use std::fmt;
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::job::{Claim, Id};
use crate::limits;
use crate::secret::Secret;
use crate::wire::time::parse_rfc3339;

/// The queue's answer.
#[derive(Debug, Default, PartialEq)]
pub struct Queue {
    /// Every row that has a usable id, in the backend's order.
    pub claims: Vec<Claim>,
    /// The other rows, described without their content; after a few, a count of the rest.
    pub unusable: Vec<String>,
    /// `metadata.nextPollAfter`.
    pub next_poll_after: Option<SystemTime>,
}

/// A row that the backend counts as this agent's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanRow {
    pub id: Id,
    /// `claimed` or `running`.
    pub status: String,
}

/// The list of rows that the backend counts as this agent's.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// The rows with a usable id.
    pub rows: Vec<OrphanRow>,
    /// False when the list is as long as the backend makes it: then a missing row proves nothing.
    pub whole: bool,
}

/// What a heartbeat brought back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// Jobs that the backend wants ended.
    pub cancel_jobs: Vec<Id>,
}

/// The items of an array up to a cap, and how many came after it.
struct Capped<'a> {
    items: Vec<&'a RawValue>,
    left_out: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Capped<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Capped<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut all = Capped { items: Vec::new(), left_out: 0 };
                while all.items.len() < limits::QUEUE_ROWS_MAX {
                    match seq.next_element()? {
                        Some(item) => all.items.push(item),
                        None => return Ok(all),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    all.left_out += 1;
                }
                Ok(all)
            }
        }
        from.deserialize_seq(Items)
    }
}

/// Reads `{"jobs":[…],"metadata"?:{"nextPollAfter"?}}`.
pub(super) fn queue(body: &[u8]) -> Result<Queue, String> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        jobs: Option<&'a RawValue>,
        #[serde(borrow)]
        metadata: Option<&'a RawValue>,
    }
    let answer: Answer<'_> = parse(body)?;
    let mut queue = Queue::default();
    // Some servers write an empty list as null; `count` tells nothing that the list does not.
    if let Some(jobs) = answer.jobs {
        let rows: Capped<'_> = serde_json::from_str(jobs.get()).map_err(|_| "\"jobs\" is no array".to_owned())?;
        for (index, row) in rows.items.iter().enumerate() {
            match super::job_row::read(row) {
                Ok(claim) => queue.claims.push(claim),
                Err(why) if queue.unusable.len() < limits::UNUSABLE_ROWS_SHOWN => {
                    queue.unusable.push(format!("row {index}: {why}"));
                }
                Err(_) if queue.unusable.len() == limits::UNUSABLE_ROWS_SHOWN => {
                    queue.unusable.push("more rows without a usable id".to_owned());
                }
                Err(_) => {}
            }
        }
        if rows.left_out > 0 {
            let most = limits::QUEUE_ROWS_MAX;
            queue.unusable.push(format!("{} rows beyond the {most} that are read of one answer", rows.left_out));
        }
    }
    queue.next_poll_after = answer.metadata.and_then(next_poll_after);
    Ok(queue)
}

fn next_poll_after(metadata: &RawValue) -> Option<SystemTime> {
    let metadata: Value = serde_json::from_str(metadata.get()).ok()?;
    parse_rfc3339(metadata.get("nextPollAfter")?.as_str()?)
}

/// Reads the array of rows that are this agent's.
pub(super) fn orphans(body: &[u8]) -> Result<Orphans, String> {
    #[derive(Deserialize)]
    struct Row {
        id: Value,
        #[serde(default)]
        status: Value,
    }
    let rows: Capped<'_> = parse(body)?;
    let whole = rows.items.len() < limits::ORPHANED_LIST_MAX;
    let usable = rows.items.iter().filter_map(|row| {
        let row: Row = serde_json::from_str(row.get()).ok()?;
        let id = Id::parse(row.id.as_str()?).ok()?;
        Some(OrphanRow { id, status: row.status.as_str().unwrap_or_default().to_owned() })
    });
    let usable: Vec<_> = usable.collect();
    // A row that cannot be read may be any job's, so the list no longer proves that one is missing.
    let whole = whole && usable.len() == rows.items.len();
    Ok(Orphans { rows: usable, whole })
}

/// One job of the same list as it was handed out, where its row still tells that; nothing may depend on it. Read by
/// itself: the list is asked for often, and the payloads of a hundred rows are large.
pub(super) fn orphan(body: &[u8], job: &Id) -> Option<Claim> {
    #[derive(Deserialize)]
    struct Row<'a> {
        id: Value,
        #[serde(borrow)]
        payload: Option<&'a RawValue>,
    }
    let rows: Capped<'_> = parse(body).ok()?;
    let row = rows.items.iter().find_map(|row| {
        let row: Row<'_> = serde_json::from_str(row.get()).ok()?;
        (row.id.as_str() == Some(job.as_str())).then_some(row)
    })?;
    let mut payload: Value = serde_json::from_str(row.payload?.get()).ok()?;
    // The payload is the row of the queue, or that without its id.
    let members = payload.as_object_mut().filter(|members| members.contains_key("execution"))?;
    members.insert("id".to_owned(), Value::String(job.to_string()));
    let raw = serde_json::value::to_raw_value(&payload).ok()?;
    super::job_row::read(&raw).ok()
}

/// Reads a heartbeat's answer; an empty one asks for nothing.
pub(super) fn heartbeat(body: &[u8]) -> Result<HeartbeatAnswer, String> {
    if body.is_empty() {
        return Ok(HeartbeatAnswer::default());
    }
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow, rename = "cancelJobs")]
        cancel_jobs: Option<&'a RawValue>,
    }
    let answer: Answer<'_> = parse(body)?;
    let Some(list) = answer.cancel_jobs else { return Ok(HeartbeatAnswer::default()) };
    let Ok(list) = serde_json::from_str::<Capped<'_>>(list.get()) else {
        log::warn!("the heartbeat's answer has a \"cancelJobs\" that is no array; it is ignored");
        return Ok(HeartbeatAnswer::default());
    };
    let ids = list.items.iter().filter_map(|id| Id::parse(&serde_json::from_str::<String>(id.get()).ok()?).ok());
    Ok(HeartbeatAnswer { cancel_jobs: ids.collect() })
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    // The library's text names a place and a type, and could quote a value: only the place is passed on.
    serde_json::from_slice(body).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => format!("unexpected JSON at line {} column {}", e.line(), e.column()),
        serde_json::error::Category::Eof => format!("the JSON ends too early, after {} bytes", body.len()),
        _ => format!("no JSON at line {} column {}", e.line(), e.column()),
    })
}

/// The message and details of an error answer, in either of the contract's two shapes, or the start of any other text.
pub(super) fn error_text(body: &[u8], token: &Secret) -> (String, Option<String>) {
    let clean = |text: &str| tidy(text, token);
    let Ok(Value::Object(answer)) = serde_json::from_slice::<Value>(body) else {
        return (clean(&String::from_utf8_lossy(&body[..body.len().min(4 * limits::ERROR_TEXT_MAX)])), None);
    };
    let details = answer.get("details").and_then(Value::as_str).map(clean);
    let message = match answer.get("error") {
        Some(Value::String(text)) => clean(text),
        Some(Value::Object(error)) => {
            let part = |name| error.get(name).and_then(Value::as_str).map(clean);
            match (part("message"), part("code")) {
                (Some(message), Some(code)) => format!("{message} [{code}]"),
                (Some(text), None) | (None, Some(text)) => text,
                (None, None) => String::new(),
            }
        }
        _ => answer.get("message").and_then(Value::as_str).map(clean).unwrap_or_default(),
    };
    (message, details)
}

/// One line of at most [`limits::ERROR_TEXT_MAX`] characters, without the token should the backend quote it.
fn tidy(text: &str, token: &Secret) -> String {
    let text = if token.is_empty() { text.to_owned() } else { text.replace(token.expose(), "***") };
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(limits::ERROR_TEXT_MAX).collect();
    line.truncate(line.trim_end().len());
    line.trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(claims: &[Claim]) -> Vec<&str> {
        claims.iter().map(|c| c.id().as_str()).collect()
    }

    #[test]
    fn a_bad_row_costs_that_row_alone() {
        let deep = "[".repeat(5000) + &"]".repeat(5000);
        let body = format!(
            r#"{{"jobs":[{{"id":"a"}},7,null,{{"id":"../x"}},{{"id":"b","execution":{deep}}},{{}},{{"id":"c"}}],"count":"x"}}"#
        );
        let queue = queue(body.as_bytes()).expect("an answer");
        assert_eq!(ids(&queue.claims), ["a", "b", "c"]);
        assert_eq!(queue.unusable.len(), 4, "{:?}", queue.unusable);
        assert!(queue.unusable[0].starts_with("row 1: "), "{:?}", queue.unusable);
    }

    #[test]
    fn the_frame_of_the_queue() {
        for (body, want) in [
            (r#"{"jobs":[],"count":0}"#, Ok(None)),
            (r#"{"jobs":null}"#, Ok(None)),
            (r"{}", Ok(None)),
            (r#"{"jobs":[],"metadata":{"nextPollAfter":"1970-01-01T00:00:00Z"}}"#, Ok(Some(SystemTime::UNIX_EPOCH))),
            (r#"{"jobs":[],"metadata":{"nextPollAfter":7}}"#, Ok(None)),
            (r#"{"jobs":[],"metadata":[]}"#, Ok(None)),
            (r#"{"jobs":{}}"#, Err("\"jobs\" is no array")),
            (r#"{"jobs":"secret-text"}"#, Err("\"jobs\" is no array")),
            (r#"{"jobs":[{"id":"a""#, Err("the JSON ends too early, after 18 bytes")),
            ("<html>", Err("no JSON at line 1 column 1")),
            ("", Err("the JSON ends too early, after 0 bytes")),
            ("\"secret-text\"", Err("unexpected JSON at line 1 column 13")),
        ] {
            assert_eq!(queue(body.as_bytes()).map(|q| q.next_poll_after), want.map_err(str::to_owned), "{body}");
        }
    }

    #[test]
    fn a_flood_of_rows_is_counted_and_not_kept() {
        let body = format!(r#"{{"jobs":[{}{{"id":"z"}}]}}"#, r#"{"id":""},"#.repeat(5000));
        let queue = queue(body.as_bytes()).expect("an answer");
        assert_eq!((queue.claims.len(), queue.unusable.len()), (0, limits::UNUSABLE_ROWS_SHOWN + 2));
        assert_eq!(
            queue.unusable.last().map(String::as_str),
            Some("4001 rows beyond the 1000 that are read of one answer")
        );
    }

    #[test]
    fn orphans_and_what_they_prove() {
        let rows = |n: usize| format!("[{}]", vec![r#"{"id":"a","status":"running","payload":{}}"#; n].join(","));
        for (body, want) in [
            ("[]".to_owned(), Some((0, true))),
            (rows(99), Some((99, true))),
            (rows(100), Some((100, false))),
            (r#"[{"id":"a"},{"id":5},3]"#.to_owned(), Some((1, false))),
            (r#"{"error":"x"}"#.to_owned(), None),
        ] {
            let got = orphans(body.as_bytes()).ok().map(|o| (o.rows.len(), o.whole));
            assert_eq!(got, want, "{body:.60}");
        }
    }

    #[test]
    fn one_orphan_tells_its_job_where_its_row_does() {
        let job = |id: &str| orphan(BODY.as_bytes(), &Id::parse(id).expect("id"));
        const BODY: &str = r#"[{"id":"a","payload":{}},{"id":"b"},7,{"id":"c","payload":{"execution":{
            "script":{"type":"sh","content":"x"}}}},{"id":"d","payload":{"id":"other","execution":{}}}]"#;
        assert!(job("a").is_none() && job("b").is_none() && job("x").is_none());
        assert!(matches!(job("c"), Some(Claim::Run(job)) if job.id.as_str() == "c"));
        assert!(matches!(job("d"), Some(Claim::Refuse { id, .. }) if id.as_str() == "d"));
    }

    #[test]
    fn cancels_of_a_heartbeat() {
        for (body, want) in [
            ("", Some(vec![])),
            (r#"{"success":true}"#, Some(vec![])),
            (r#"{"cancelJobs":null}"#, Some(vec![])),
            (r#"{"cancelJobs":["a",7,"../b","c"]}"#, Some(vec!["a", "c"])),
            (r#"{"cancelJobs":"a"}"#, Some(vec![])),
            ("<html>", None),
            ("[]x", None),
        ] {
            let got = heartbeat(body.as_bytes()).ok();
            let got = got.map(|a| a.cancel_jobs.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(got, want.map(|w| w.into_iter().map(str::to_owned).collect()), "{body}");
        }
    }

    #[test]
    fn both_error_shapes_and_none() {
        let token = Secret::new("tok3n");
        for (body, message, details) in [
            (r#"{"error":"no such job"}"#, "no such job", None),
            (r#"{"error":"bad","details":"field x"}"#, "bad", Some("field x")),
            (r#"{"error":{"code":"E1","message":"two\nlines"}}"#, "two lines [E1]", None),
            (r#"{"error":{"code":"E1"}}"#, "E1", None),
            (r#"{"error":5}"#, "", None),
            (r#"{"message":"other shape"}"#, "other shape", None),
            (r#"{"error":"token tok3n is unknown"}"#, "token *** is unknown", None),
            ("  <h1>Bad\tGateway</h1>\r\n", "<h1>Bad Gateway</h1>", None),
            ("", "", None),
        ] {
            assert_eq!(error_text(body.as_bytes(), &token), (message.to_owned(), details.map(str::to_owned)), "{body}");
        }
        let long = "ä".repeat(9000);
        assert_eq!(error_text(long.as_bytes(), &token).0.chars().count(), limits::ERROR_TEXT_MAX);
    }
}

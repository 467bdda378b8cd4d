//! The backend's answers, read with distrust: a wrong part costs that part alone, and nothing grows without a cap.

use std::time::SystemTime;

use super::job_row;
use super::json::object;
use crate::config::types::HostTable;
use crate::job::{Claim, Id};
use crate::limits;
use crate::secret::Secret;
use crate::wire::scan::{Items, Json};
use crate::wire::time::parse_rfc3339;

/// The queue's answer.
#[derive(Debug, Default, PartialEq)]
pub struct Queue {
    /// The rows with a usable id, in the backend's order.
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

/// What the backend's row says of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowStatus {
    Claimed,
    Running,
    /// A user cancelled it.
    Cancelled,
    /// `completed` or `failed`.
    Ended,
    /// It waits for an agent.
    Queued,
    /// The answer does not say it, as that of some backends.
    Untold,
}

/// The list of jobs that the backend counts as this agent's.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// The rows with a usable id.
    pub rows: Vec<OrphanRow>,
    /// False if the list has the backend's maximum length: then a missing row proves nothing.
    pub whole: bool,
}

/// A heartbeat's answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// Jobs to cancel.
    pub cancel_jobs: Vec<Id>,
}

/// Reads `{"jobs":[…],"metadata"?:{"nextPollAfter"?}}`.
pub(super) fn queue(body: &[u8], hosts: &HostTable) -> Result<Queue, String> {
    let frame = Json::outline(body).map_err(|why| why.to_string())?;
    let [jobs, metadata] = object(frame, "the answer", ["jobs", "metadata"])?;
    let mut queue = Queue::default();
    // Some servers write an empty list as null; `count` adds nothing to the list.
    if let Some(jobs) = jobs {
        rows(jobs.items().ok_or("\"jobs\" is no array")?, &mut queue, hosts);
    }
    let next = metadata.and_then(|metadata| metadata.field("nextPollAfter"));
    queue.next_poll_after = next.and_then(|next| parse_rfc3339(&next.text(TIME).ok()?));
    Ok(queue)
}

/// Bytes of a time as text.
const TIME: usize = 64;

/// Reads the rows as far as their bounds can be found. A bad one costs itself alone.
fn rows(items: Items<'_>, queue: &mut Queue, hosts: &HostTable) {
    let mut held = 0;
    let (mut beyond, mut too_much) = (0, 0);
    for (index, row) in items.enumerate() {
        let claim = match row {
            Ok(_) if index >= limits::QUEUE_ROWS_MAX => {
                beyond += 1;
                continue;
            }
            Ok(row) => job_row::read(row, hosts),
            Err(why) => Err(format!("{why} of the list, so that no row from here on can be read")),
        };
        match claim {
            Ok(claim) => {
                let size = job_row::held(&claim);
                if held + size > limits::QUEUE_HELD_MAX {
                    too_much += 1;
                } else {
                    held += size;
                    queue.claims.push(claim);
                }
            }
            Err(why) if queue.unusable.len() < limits::UNUSABLE_ROWS_SHOWN => {
                queue.unusable.push(format!("row {index}: {why}"));
            }
            Err(_) if queue.unusable.len() == limits::UNUSABLE_ROWS_SHOWN => {
                queue.unusable.push("more rows without a usable id".to_owned());
            }
            Err(_) => {}
        }
    }
    if beyond > 0 {
        let most = limits::QUEUE_ROWS_MAX;
        queue.unusable.push(format!("{beyond} rows beyond the {most} that are read of one answer"));
    }
    if too_much > 0 {
        let most = limits::QUEUE_HELD_MAX;
        queue.unusable.push(format!("{too_much} rows beyond the {most} bytes that the jobs of one answer may take"));
    }
}

/// The first rows of a list, up to the cap, and whether these are all.
fn list(body: &[u8]) -> Result<(Vec<Json<'_>>, bool), String> {
    let frame = Json::outline(body).map_err(|why| why.to_string())?;
    let items = frame.items().ok_or_else(|| format!("found {} where an array must be", frame.sort()))?;
    let mut all = Vec::new();
    for item in items {
        match item {
            Ok(item) if all.len() < limits::QUEUE_ROWS_MAX => all.push(item),
            // The bounds of the rest cannot be found, or it is too much.
            Ok(_) | Err(_) => return Ok((all, false)),
        }
    }
    Ok((all, true))
}

/// Reads the array of rows that are this agent's.
pub(super) fn orphans(body: &[u8]) -> Result<Orphans, String> {
    let (rows, all) = list(body)?;
    let whole = all && rows.len() < limits::ORPHANED_LIST_MAX;
    let usable: Vec<_> = rows.iter().filter_map(|row| orphan_row(*row)).collect();
    // An unreadable row may be any job's, so the list no longer proves that one is missing.
    let whole = whole && usable.len() == rows.len();
    Ok(Orphans { rows: usable, whole })
}

/// The status in the row with which an acknowledgement is answered. An answer that cannot be read says nothing.
pub(super) fn acknowledged(body: &[u8]) -> RowStatus {
    let status = Json::outline(body).ok().and_then(|answer| {
        let [job] = answer.fields(["job"]).ok()?;
        let [status] = job?.fields(["status"]).ok()?;
        status?.beginning(crate::job::ID_MAX)
    });
    match status.as_deref() {
        Some("claimed") => RowStatus::Claimed,
        Some("running") => RowStatus::Running,
        Some("cancelled") => RowStatus::Cancelled,
        Some("completed" | "failed") => RowStatus::Ended,
        Some("queued") => RowStatus::Queued,
        _ => RowStatus::Untold,
    }
}

fn orphan_row(row: Json<'_>) -> Option<OrphanRow> {
    let [id, status] = row.fields(["id", "status"]).ok()?;
    let id = Id::parse(&id?.text(crate::job::ID_MAX).ok()?).ok()?;
    Some(OrphanRow { id, status: status.and_then(|status| status.beginning(crate::job::ID_MAX)).unwrap_or_default() })
}

/// The job in the row with which an acknowledgement is answered, as far as the row has it; nothing may depend on it. Also
/// the row of a job that was cancelled.
pub(super) fn stored(body: &[u8], job: &Id, hosts: &HostTable) -> Option<Claim> {
    let row = Json::outline(body).ok()?.field("job")?;
    let [id, payload] = row.fields(["id", "payload"]).ok()?;
    // The deployed backend keeps what is to be executed there; another may keep the whole row of the queue.
    let payload = payload.filter(|_| id.is_some_and(|id| id.is(job.as_str())))?;
    if payload.field("execution").is_some() {
        return Some(job_row::read_as(job.clone(), payload, hosts));
    }
    payload.field("script").is_some().then(|| job_row::read_stored(job.clone(), row, hosts))
}

/// Reads a heartbeat's answer; an empty one asks for nothing.
pub(super) fn heartbeat(body: &[u8]) -> Result<HeartbeatAnswer, String> {
    if body.is_empty() {
        return Ok(HeartbeatAnswer::default());
    }
    let answer = Json::strict(body).map_err(|why| why.to_string())?;
    let [list] = object(answer, "the answer", ["cancelJobs"])?;
    let Some(list) = list else { return Ok(HeartbeatAnswer::default()) };
    let Some(items) = list.items() else {
        log::warn!("the heartbeat's answer has a \"cancelJobs\" that is no array; it is ignored");
        return Ok(HeartbeatAnswer::default());
    };
    let ids = items.map_while(Result::ok).take(limits::QUEUE_ROWS_MAX);
    let ids = ids.filter_map(|id| Id::parse(&id.text(crate::job::ID_MAX).ok()?).ok());
    Ok(HeartbeatAnswer { cancel_jobs: ids.collect() })
}

/// The message and details of an error answer, in either of the contract's two shapes, or the start of any other text.
pub(super) fn error_text(body: &[u8], token: &Secret) -> (String, Option<String>) {
    let clean = |text: &str| tidy(text, token);
    let part = |of: Json<'_>, name| of.field(name).and_then(|value| value.beginning(WORDS)).map(|text| clean(&text));
    let Some(answer) = Json::outline(body).ok().filter(|answer| answer.sort() == "an object") else {
        return (clean(&String::from_utf8_lossy(&body[..body.len().min(WORDS)])), None);
    };
    let message = match answer.field("error") {
        Some(error) if error.sort() == "an object" => match (part(error, "message"), part(error, "code")) {
            (Some(message), Some(code)) => format!("{message} [{code}]"),
            (message, code) => message.or(code).unwrap_or_default(),
        },
        Some(error) => error.beginning(WORDS).map(|text| clean(&text)).unwrap_or_default(),
        None => part(answer, "message").unwrap_or_default(),
    };
    (message, part(answer, "details"))
}

/// Bytes of an error's text that are read: a token in it becomes shorter.
const WORDS: usize = 16 * limits::ERROR_TEXT_MAX;

/// One line of at most [`limits::ERROR_TEXT_MAX`] characters, without the token if the backend quotes it.
fn tidy(text: &str, token: &Secret) -> String {
    let cut = text.len() >= WORDS - 4;
    let mut text = if token.is_empty() { text.to_owned() } else { text.replace(token.expose(), "***") };
    if cut {
        // If the end fell inside the token, its beginning is removed too.
        let whole = token.expose();
        let mut begun = whole.char_indices().map(|(at, _)| &whole[..at]);
        let begun = begun.rfind(|begun| text.ends_with(begun)).map_or(0, str::len);
        text.truncate(text.len() - begun);
    }
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
        let queue = queue(body.as_bytes(), &HostTable::default()).expect("an answer");
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
            ("<html>", Err("no JSON at byte 0")),
            ("", Err("the JSON ends too early, after 0 bytes")),
            ("\"secret-text\"", Err("the answer must be an object, found text")),
            (r#"{"jobs":[]} x"#, Err("no JSON at byte 12")),
            (r#"{"jobs":[],"jobs":[]}"#, Err("jobs is given twice in the answer")),
        ] {
            assert_eq!(
                queue(body.as_bytes(), &HostTable::default()).map(|q| q.next_poll_after),
                want.map_err(str::to_owned),
                "{body}"
            );
        }
    }

    #[test]
    fn a_flood_of_rows_is_counted_and_not_kept() {
        let body = format!(r#"{{"jobs":[{}{{"id":"z"}}]}}"#, r#"{"id":""},"#.repeat(5000));
        let queue = queue(body.as_bytes(), &HostTable::default()).expect("an answer");
        assert_eq!((queue.claims.len(), queue.unusable.len()), (0, limits::UNUSABLE_ROWS_SHOWN + 2));
        assert_eq!(
            queue.unusable.last().map(String::as_str),
            Some("4001 rows beyond the 1000 that are read of one answer")
        );
    }

    #[test]
    fn the_row_of_an_acknowledgement_says_how_the_job_is() {
        for (body, want) in [
            (
                r#"{"success":true,"job":{"id":"a","status":"claimed","payload":{"status":"cancelled"}}}"#,
                RowStatus::Claimed,
            ),
            (r#"{"job":{"status":"running"}}"#, RowStatus::Running),
            (r#"{"job":{"status":"cancelled"}}"#, RowStatus::Cancelled),
            (r#"{"job":{"status":"failed"}}"#, RowStatus::Ended),
            (r#"{"job":{"status":"completed"}}"#, RowStatus::Ended),
            (r#"{"job":{"status":"queued"}}"#, RowStatus::Queued),
            (r#"{"job":{"status":7}}"#, RowStatus::Untold),
            (r#"{"job":null}"#, RowStatus::Untold),
            (r#"{"success":true}"#, RowStatus::Untold),
            ("", RowStatus::Untold),
            ("<html>", RowStatus::Untold),
        ] {
            assert_eq!(acknowledged(body.as_bytes()), want, "{body}");
        }
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
    fn the_row_of_an_acknowledgement_tells_its_job_where_it_has_it() {
        let read = |row: &str| {
            stored(
                format!(r#"{{"success":true,"job":{row}}}"#).as_bytes(),
                &Id::parse("a").expect("id"),
                &HostTable::default(),
            )
        };
        let server = r#""serverDetails":{"host":"a","port":22,"username":"b","password":"c"}"#;
        let as_stored = |target: &str| {
            read(&format!(
                r#"{{"id":"a","type":"SCRIPT","status":"cancelled","priority":"normal","attempts":2,
                "metadata":{{"eventId":12}},"payload":{{"script":{{"type":"BASH","content":"x"}},"target":{target}}}}}"#
            ))
        };
        for nothing in
            [r#"{"id":"a","payload":{}}"#, r#"{"id":"a"}"#, "7", "null", "{}", r#"{"payload":{"execution":{}}}"#]
        {
            assert!(read(nothing).is_none(), "{nothing}");
        }
        assert!(read(r#"{"id":"b","payload":{"execution":{"script":{"type":"sh","content":"x"}}}}"#).is_none());
        let handed_out = read(r#"{"id":"a","payload":{"execution":{"script":{"type":"sh","content":"x"}}}}"#);
        assert!(matches!(handed_out, Some(Claim::Run(job)) if job.id.as_str() == "a"));
        assert!(matches!(read(r#"{"id":"a","payload":{"id":"b","execution":{}}}"#), Some(Claim::Refuse { .. })));
        let Some(Claim::Run(job)) = as_stored(&format!(r#"{{"type":"server","serverId":3,{server}}}"#)) else {
            panic!("no job")
        };
        assert_eq!((job.kind, job.servers.len(), job.attempts), (crate::job::Kind::Ssh, 1, 2));
        assert_eq!(job.event.id.as_deref(), Some("12"));
        // The number of the server alone: no login can be had.
        assert!(matches!(as_stored(r#"{"serverId":3}"#), Some(Claim::Run(job)) if job.servers.is_empty()));
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
        // Wherever the end of what is read falls in the token, and however much shorter the text becomes.
        let many = "t0k3n-".repeat(40);
        for spaces in 0..many.len() {
            let body = " ".repeat(spaces) + &many.repeat(40);
            let json = serde_json::json!({ "error": body }).to_string();
            for text in [body.as_bytes(), json.as_bytes()] {
                let (message, _) = error_text(text, &Secret::new(many.clone()));
                assert!(!message.contains("t0k3n"), "{message}");
            }
        }
        let long = "ä".repeat(9000);
        assert_eq!(error_text(long.as_bytes(), &token).0.chars().count(), limits::ERROR_TEXT_MAX);
    }
}

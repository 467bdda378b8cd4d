//! The cost of the largest answers; and any bytes can be read without harm.

use super::answer::{error_text, heartbeat, orphans, queue, stored};
use crate::config::types::HostTable;
use crate::job::{Claim, Id};
use crate::limits::{ANSWER_MAX, QUEUE_ANSWER_MAX, QUEUE_HELD_MAX, QUEUE_ROW_MAX};
use crate::os::heap_tests::peak;
use crate::secret::Secret;
use crate::wire::random::Random;

/// `begin`, as many of `part` as there is room for, `end`: together not more than `most` bytes.
fn filled(most: usize, begin: &str, part: &str, end: &str) -> Vec<u8> {
    let count = (most - begin.len() - end.len() - 1) / part.len();
    format!("{begin}{}1{end}", part.repeat(count)).into_bytes()
}

/// Reads an answer whose own bytes count too.
fn costs<T>(name: &str, cap: usize, body: &[u8], read: impl FnOnce(&[u8]) -> T) -> T {
    assert!(body.len() <= cap, "{name}: {} bytes", body.len());
    let (given, most) = peak(|| read(body));
    let all = body.len() + most;
    assert!(all <= 2 * cap, "{name}: {} MiB and {} MiB more", body.len() >> 20, most >> 20);
    given
}

#[test]
fn no_answer_costs_more_than_twice_its_limit() {
    const SSH: &str = r#""execution":{"script":{"type":"sh","content":""},"target":{"type":"server","#;
    let row = |rest: &str| format!(r#"{{"jobs":[{{"id":"a",{rest}"#);
    let list = |name: &str, begin: &str, part: &str, end: &str| {
        costs(name, QUEUE_ANSWER_MAX, &filled(QUEUE_ANSWER_MAX, begin, part, end), |body| {
            queue(body, &HostTable::default())
        })
    };
    let script = r#""execution":{"script":{"type":"sh","content":""#;
    let _ =
        list("servers", &row(&format!(r#"{SSH}"x":0}}}},"metadata":{{"multiServer":true,"servers":["#)), "0,", "]}}]}");
    let _ = list("metadata", r#"{"metadata":["#, "0,", "]}");
    let _ = list("metadata of a row", &row(r#""metadata":["#), "{},", "]}]}");
    let _ = list("depth", &row(r#""metadata":"#), "[", "}]}");
    let _ = list("an id", r#"{"jobs":[{"id":["#, "0,", "]}]}");
    let _ = list("ids", r#"{"jobs":[{"x":["#, r#"1],"id":"a"},{"id":["#, "]}]}");
    let _ = list("rows", r#"{"jobs":["#, "{},", "]}");
    let _ = list("refusals", r#"{"jobs":["#, r#"{"id":"a"},"#, "]}");
    let got = list("one script", &row(script), r"\n", r#""}}}]}"#).expect("an answer").claims;
    assert!(matches!(got.as_slice(), [Claim::Run(_)]), "a script of 16 MB comes through");
    let got = list("a larger script", &row(script), "x", r#""}}}]}"#).expect("an answer").claims;
    assert!(matches!(got.as_slice(), [Claim::Refuse { reason, .. }] if reason.contains(&QUEUE_ROW_MAX.to_string())));
    let _ = list(
        "the name of a variable",
        &row(r#""execution":{"script":{"type":"sh","content":""},"environment":{""#),
        r"\t",
        r#"":1}}}]}"#,
    );
    let variables: String = (0..4096).map(|n| format!(r#""{n:x}":1,"#)).collect();
    let many = format!(r#"{{"id":"a","execution":{{"environment":{{{variables}"x":1}},"#);
    let many = many.replace(",\"x\":1", "") + r#""script":{"type":"sh","content":""}}},"#;
    let got = list("variables", r#"{"jobs":["#, &many, "]}").expect("an answer");
    assert!(got.claims.len() > 10 && got.unusable.iter().any(|why| why.contains(&QUEUE_HELD_MAX.to_string())));
    let servers = r#"{"host":"a","username":"b"},"#.repeat(199);
    let many = format!(r#"{{"id":"a",{SSH}"x":0}}}},"metadata":{{"servers":[{servers}0]}}}},"#);
    assert!(!list("good servers", r#"{"jobs":["#, &many, "]}").expect("an answer").claims.is_empty());
}

#[test]
fn no_list_of_this_agents_jobs_costs_more_than_twice_its_limit() {
    for (begin, part, end) in [
        (r#"[{"id":["#, "0,", "]}]"),
        (r#"[{"id":"a","payload":["#, "0,", "]}]"),
        (r#"[{"id":"a","payload":{"execution":["#, "{},", "]}}]"),
        (r#"[{"id":"a","payload":{"execution":{"environment":{"a":["#, "0,", "]}}}}]"),
        (r#"[{"id":"a","status":["#, "0,", "]}]"),
        (r#"[{"id":"a","status":""#, r"\n", "\"}]"),
        (r#"["#, "[],", "]"),
        (r#"["#, r#"{"id":"b","status":"running"},"#, "]"),
    ] {
        let body = filled(QUEUE_ANSWER_MAX, begin, part, end);
        let read = costs(begin, QUEUE_ANSWER_MAX, &body, orphans).expect("a list");
        assert!(!read.whole || read.rows.len() == 1, "{begin}");
    }
}

#[test]
fn no_row_of_an_acknowledgement_costs_more_than_twice_its_limit() {
    let id = Id::parse("a").expect("id");
    for (begin, part, end) in [
        (r#"{"job":{"id":["#, "0,", "]}}"),
        (r#"{"job":{"id":"a","payload":["#, "0,", "]}}"),
        (r#"{"job":{"id":"a","payload":{"execution":["#, "{},", "]}}}"),
        (r#"{"job":{"id":"a","payload":{"script":{},"environment":{"a":["#, "0,", "]}}}}"),
        (r#"{"job":["#, "[],", "]}"),
    ] {
        let body = filled(QUEUE_ANSWER_MAX, begin, part, end);
        costs(begin, QUEUE_ANSWER_MAX, &body, |body| stored(body, &id, &HostTable::default()));
    }
}

#[test]
fn no_other_answer_costs_more_than_twice_its_limit() {
    let token = Secret::new("tok3n");
    for (begin, part, end) in [
        ("[", "0,", "]"),
        (r#"{"cancelJobs":["#, "0,", "]}"),
        (r#"{"cancelJobs":["#, r#""a","#, "]}"),
        (r#"{"cancelJobs":"#, "[", "}"),
        (r#"{"error":["#, "0,", "]}"),
        (r#"{"error":{"message":["#, "{},", "]}}"),
        (r#"{"error":""#, r"\n", "\"}"),
        (r#"{"error":"","details":""#, r"\u00e4", "\"}"),
    ] {
        let body = filled(ANSWER_MAX, begin, part, end);
        let _ = costs(begin, ANSWER_MAX, &body, heartbeat);
        costs(begin, ANSWER_MAX, &body, |body| error_text(body, &token));
    }
}

/// A bad row among three: its content, and whether its id can be used.
#[test]
fn whatever_a_row_is_the_others_are_claimed() {
    let deep = r#"{"id":"b","execution":"#.to_owned() + &"[".repeat(100_000) + &"]".repeat(100_000) + "}";
    for (row, usable) in [
        (br#"{"id":"b","id":"b"}"#.to_vec(), false),
        (br#"{"id":"b","execution":{"script":{"type":"sh","content":"x"},"script":0}}"#.to_vec(), true),
        (b"{\"id\":\"b\",\"execution\":{\"script\":{\"content\":\"\xff\"}}}".to_vec(), true),
        (b"{\"id\":\"b\xff\"}".to_vec(), false),
        (b"{\"id\":\"b\",\xff}".to_vec(), false),
        (b"\"\xff\"".to_vec(), false),
        (br#"{"id":"b","attempts":4294967295,"execution":7}"#.to_vec(), true),
        (br#"{"id":"b","attempts":1e999}"#.to_vec(), true),
        (br#"{"id":"b","execution":{"script":{"type":"sh","content":"\ud83e"}}}"#.to_vec(), true),
        (br#"{"id":"b","x":tru}"#.to_vec(), true),
        (br#"{"id":"b","x":[1,,2]}"#.to_vec(), true),
        (br#"{"id":"b","x":NaN}"#.to_vec(), true),
        (deep.into_bytes(), true),
    ] {
        let body = [br#"{"jobs":[{"id":"a"},"#, row.as_slice(), br#",{"id":"c"}],"count":3}"#].concat();
        let got = queue(&body, &HostTable::default()).unwrap_or_else(|why| panic!("{}: {why}", row.escape_ascii()));
        let ids: Vec<_> = got.claims.iter().map(|claim| claim.id().as_str()).collect();
        let want: &[&str] = if usable { &["a", "b", "c"] } else { &["a", "c"] };
        assert_eq!(
            (ids.as_slice(), got.unusable.len()),
            (want, usize::from(!usable)),
            "{:.80}",
            row.escape_ascii().to_string()
        );
        let list =
            [br#"[{"id":"a","status":"running"},"#, row.as_slice(), br#",{"id":"c","status":"claimed"}]"#].concat();
        let got = orphans(&list).unwrap_or_else(|why| panic!("{}: {why}", row.escape_ascii()));
        let ids: Vec<_> = got.rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!((ids.as_slice(), got.whole), (want, usable), "{:.80}", row.escape_ascii().to_string());
    }
    // If the list breaks off, the rows before count.
    let got = queue(br#"{"jobs":[{"id":"a"} {"id":"b"}]}"#, &HostTable::default()).expect("an answer");
    assert_eq!((got.claims.len(), got.unusable.len()), (1, 1));
}

#[test]
fn any_bytes_are_read_without_harm() {
    let mut random = Random::new(11);
    let token = Secret::new("tok3n");
    let id = Id::parse("a").expect("id");
    let alphabet: Vec<&[u8]> = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\"id\":\"a\"",
        "\"jobs\":[",
        "{\"id\":\"b\",",
        "\"execution\":{",
        "\"type\":\"ssh\"",
        "\"script\":{\"type\":\"sh\",\"content\":\"x\"}",
        "\"target\":{\"type\":\"server\"",
        "\"metadata\":{",
        "\"servers\":[",
        "\"environment\":{\"A\":",
        "\"timeout\":",
        "\"resources\":{\"cpuLimit\":",
        "1e999",
        "-1",
        "\"\\ud800\"",
        "null",
        " ",
        "\u{fffd}",
        "\"nextPollAfter\":\"2024-02-30T00:00:00Z\"",
        "\"error\":",
        "\"message\":\"tok3n\"",
        "\"cancelJobs\":[",
        "\"payload\":{",
    ]
    .map(str::as_bytes)
    .to_vec();
    for _ in 0..4000 {
        let mut body = random.text(&alphabet, 24);
        if random.below(3) == 0 && !body.is_empty() {
            let at = random.below(body.len());
            body[at] = u8::try_from(random.below(256)).expect("a byte");
        }
        let _ = (
            queue(&body, &HostTable::default()),
            orphans(&body),
            stored(&body, &id, &HostTable::default()),
            heartbeat(&body),
        );
        let (message, details) = error_text(&body, &token);
        assert!(!message.contains("tok3n") && !details.unwrap_or_default().contains("tok3n"));
    }
}

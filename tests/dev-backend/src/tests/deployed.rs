//! What the deployed backend was seen to do, where one would expect something kinder: each point is the default here.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Client, LIMIT, NOW, backend, complete, job, started};
use crate::{DevBackend, Edge, On, Settings, Via};

fn running() -> Value {
    json!({"status": "running", "timestamp": NOW})
}

/// A backend of these settings whose job `j1` was claimed, is running, and has the execution `e1`.
fn begun(settings: Settings) -> (DevBackend, Client) {
    let backend = backend(settings);
    let mut client = Client::of(&backend);
    client.claim();
    for (method, path, body) in
        [("PUT", "jobs/j1/status", running()), ("POST", "executions/e1/create", json!({"jobId": "j1"}))]
    {
        assert_eq!(client.call(method, path, &body).status, 200);
    }
    (backend, client)
}

fn update(client: &mut Client, body: &Value) {
    assert_eq!(client.call("PUT", "executions/e1/update", body).status, 200, "{body}");
}

fn status(backend: &DevBackend) -> &'static str {
    backend.job("j1").expect("j1").status
}

#[test]
fn an_acknowledgement_shows_the_row_and_leaves_it() {
    let (backend, mut client) = begun(Settings::default());
    let acknowledge = json!({"orchestratorId": "a1", "timestamp": NOW});
    for wanted in ["running", "cancelled", "failed"] {
        match wanted {
            "cancelled" => assert!(backend.cancel("j1", Via::Row)),
            "failed" => {
                assert_eq!(client.call("POST", "jobs/j1/fail", &json!({"error": "x", "timestamp": NOW})).status, 200)
            }
            _ => {}
        }
        let row = client.call("POST", "jobs/j1/acknowledge", &acknowledge).json()["job"].clone();
        assert_eq!(
            (&row["status"], &row["orchestratorId"], &row["type"]),
            (&json!(wanted), &json!("a1"), &json!("SCRIPT"))
        );
        assert_eq!(row["completedAt"].is_null(), wanted == "running");
        assert_eq!(status(&backend), wanted);
    }
}

#[test]
fn a_cancelled_row_becomes_what_the_next_call_says() {
    for (method, path, body, wanted) in [
        ("PUT", "jobs/j1/status", running(), "running"),
        ("PUT", "executions/e1/update", json!({"status": "running", "completedAt": NOW}), "running"),
        ("PUT", "executions/e1/update", json!({"status": "running", "output": "x"}), "cancelled"),
        ("POST", "jobs/j1/complete", complete(), "completed"),
    ] {
        let (backend, mut client) = begun(Settings::default());
        backend.cancel("j1", Via::Row);
        let shown = backend.shown("j1").expect("j1");
        assert_eq!(shown.status, "RUNNING", "a cancel is not on the page");
        assert_eq!(client.call(method, path, &body).status, 200);
        assert_eq!(status(&backend), wanted, "{path} {body}");
    }
}

#[test]
fn the_clean_up_fails_what_runs_for_long_and_spares_what_has_a_completed_at() {
    let settings = || Settings { clean_up_after_ms: Some(200), ..Settings::default() };
    let (backend, mut client) = begun(settings());
    assert!(backend.wait_for(LIMIT, |b| status(b) == "failed"));
    assert_eq!(backend.job("j1").expect("j1").terminal_reports(), 0);
    assert_eq!(backend.job("j2").expect("j2").status, "claimed", "it looks at what runs");
    client.call("POST", "jobs/j1/complete", &complete());
    assert_eq!(status(&backend), "completed");
    let (backend, mut client) = begun(settings());
    update(&mut client, &json!({"status": "running", "completedAt": NOW}));
    assert!(!backend.wait_for(Duration::from_millis(600), |b| status(b) != "running"));
}

#[test]
fn an_update_that_completes_passes_the_executions_status_on() {
    let (backend, mut client) = begun(Settings::default());
    // Without a status it is the execution's own, which nobody has set yet.
    update(&mut client, &json!({"completedAt": NOW}));
    assert_eq!((status(&backend), client.claim()), ("queued", vec!["j1".to_owned()]));
    update(&mut client, &json!({"status": "running"}));
    assert_eq!(status(&backend), "claimed", "without completedAt it is passed on to nobody");
    update(&mut client, &json!({"completedAt": NOW}));
    assert_eq!((status(&backend), backend.job("j1").expect("j1").terminal_reports()), ("running", 0));
    update(&mut client, &json!({"status": "failed", "exitCode": -1}));
    let row = backend.job("j1").expect("j1");
    assert_eq!((row.status, row.terminal_reports(), row.shown.status), ("failed", 1, "TIMEOUT"));
    assert_eq!(client.call("PUT", "executions/e1/update", &json!({"status": "timeout"})).status, 500);
}

#[test]
fn a_running_update_with_completed_at_is_what_the_page_shows_live() {
    let (backend, mut client) = begun(Settings::default());
    update(&mut client, &json!({"status": "running", "output": "unseen"}));
    for output in ["one\n", "one\ntwo\n"] {
        update(
            &mut client,
            &json!({"status": "running", "completedAt": NOW, "output": output, "executionDuration": 7, "setupDuration": 3}),
        );
    }
    let row = backend.job("j1").expect("j1");
    assert_eq!((row.status, row.terminal_reports(), row.finished.is_some()), ("running", 0, true));
    let live: Vec<&str> = row.shown.live.iter().map(|live| live.output.as_str()).collect();
    assert_eq!((live, row.shown.status), (vec!["one\n", "one\ntwo\n"], "RUNNING"));
    assert_eq!(
        (row.shown.output.as_str(), row.shown.execution_ms, row.shown.setup_ms),
        ("one\ntwo\n", Some(7), Some(3))
    );
    // The report replaces it, and its exit code alone is shown nowhere.
    let mut report = complete();
    report["status"] = json!("failed");
    report["exitCode"] = json!(7);
    report["output"] = json!({"stdout": "", "stderr": ""});
    client.call("POST", "jobs/j1/complete", &report);
    let shown = backend.shown("j1").expect("j1");
    assert_eq!((shown.status, shown.output.as_str(), shown.error.as_str()), ("FAILURE", "", ""));
}

#[test]
fn the_report_replaces_what_was_stored_before() {
    let (backend, mut client) = begun(Settings::default());
    let output = json!({"output": {"a": 1}, "timestamp": NOW});
    assert_eq!(client.call("POST", "executions/e1/output", &output).status, 200);
    assert_eq!(client.call("POST", "executions/e1/condition", &json!({"condition": true})).status, 404);
    assert_eq!(backend.job("j1").expect("j1").result, json!({"output": {"a": 1}}));
    let mut report = complete();
    report["condition"] = json!(true);
    client.call("POST", "jobs/j1/complete", &report);
    let result = backend.job("j1").expect("j1").result;
    assert_eq!((&result["output"], &result["condition"], &result["exitCode"]), (&Value::Null, &json!(true), &json!(0)));
}

#[test]
fn what_is_wrong_is_a_500_or_another_page() {
    let (_backend, mut client) = begun(Settings::default());
    for (method, path, body, status, text) in [
        ("POST", "audit", "{nonsense", 500, r#"{"error":{"code":"E500","message":"Internal server error"}}"#),
        ("POST", "jobs/j1/release", "", 500, r#"{"error":"Internal server error"}"#),
        ("POST", "executions/e1/create", r#"{"jobId":"j1"}"#, 500, r#""details":"duplicate key"#),
        ("POST", "orchestrator/heartbeat", r#"{"orchestratorId":"a1"}"#, 400, r#""message":"heartbeat.timestamp is"#),
        ("GET", "nothing", "", 404, "<html>"),
        ("GET", "jobs/queue?jobTypes=container", "", 500, r#"{"error":"Internal server error"}"#),
    ] {
        let got = client.send(method, &format!("/api/internal/{path}"), body).expect("an answer");
        let said = String::from_utf8_lossy(&got.body).into_owned();
        assert!(got.status == status && said.contains(text), "{path}: {} {said}", got.status);
    }
    let got = client.send("GET", "/api/internal/jobs/queue/?batchSize=1", "").expect("an answer");
    assert_eq!(got.status, 308);
    assert!(got.headers.contains("Location: /api/internal/jobs/queue?batchSize=1\r\n"), "{}", got.headers);
    let upgrade = b"GET /api/internal/socket HTTP/1.1\r\nAuthorization: Bearer dev\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    assert_eq!(client.raw(upgrade).expect("an answer").status, 404);
}

#[test]
fn without_its_socket_server_it_answers_later_and_the_page_is_told_nothing() {
    let away = |settings: Settings| Settings { broadcast_delay_ms: 300, ..settings };
    for (settings, output, slow) in [
        (away(Settings::default()), "short".to_owned(), false),
        (away(Settings::default()), "x".repeat(110_000), true),
        (away(Settings { socket_server: false, ..Settings::default() }), "short".to_owned(), true),
    ] {
        let (backend, mut client) = begun(settings);
        let before = Instant::now();
        update(&mut client, &json!({"status": "running", "completedAt": NOW, "output": output}));
        assert_eq!(before.elapsed() >= Duration::from_millis(300), slow, "{} bytes", output.len());
        let shown = backend.shown("j1").expect("j1");
        assert_eq!((shown.live.is_empty(), shown.output == output), (slow, true));
    }
}

#[test]
fn a_cancel_while_an_update_waits_for_the_socket_server_is_overwritten() {
    let (backend, mut client) =
        begun(Settings { socket_server: false, broadcast_delay_ms: 1000, ..Settings::default() });
    let asked = std::thread::spawn(move || update(&mut client, &json!({"status": "running", "completedAt": NOW})));
    let stored =
        |b: &DevBackend| b.job_json("j1").is_some_and(|job| !job["executions"][0]["row"]["completedAt"].is_null());
    assert!(backend.wait_for(LIMIT, stored));
    backend.cancel("j1", Via::Row);
    asked.join().expect("updated");
    assert_eq!(status(&backend), "running");
}

#[test]
fn a_variable_is_text_whatever_was_sent() {
    let backend = started();
    let mut client = Client::of(&backend);
    for (value, status, wanted) in [
        (json!("a"), 200, "a"),
        (json!(7.5), 200, "7.5"),
        (json!(true), 200, "true"),
        (json!({"a": [1]}), 200, r#"{"a":[1]}"#),
        (json!([1, "b"]), 200, r#"{1,"b"}"#),
        (Value::Null, 500, r#"{1,"b"}"#),
    ] {
        assert_eq!(client.call("PUT", "variables/u1/a%20b%2Fc", &json!({"value": value})).status, status, "{value}");
        assert_eq!(client.get("/api/internal/variables/u1/a%20b%2Fc")["value"], wanted, "{value}");
    }
    assert_eq!(backend.variable("u1", "a b/c").as_deref(), Some(r#"{1,"b"}"#));
    assert_eq!(client.call("GET", "variables/u1/a%20b/c", &Value::Null).status, 404);
}

#[test]
fn the_queue_has_the_types_of_the_database_and_headers_as_a_list() {
    let backend = started();
    let mut http = job("h1");
    http["execution"]["script"].take();
    http["execution"]["http"] = json!({"method": "GET", "url": "http://x", "headers": {"A": "b"}});
    http["metadata"]["originalType"] = json!("HTTP_REQUEST");
    backend.enqueue(http).expect("queued");
    let mut client = Client::of(&backend);
    let mut ask = |types: &str| client.call("GET", &format!("jobs/queue?jobTypes={types}"), &Value::Null).json();
    assert_eq!(ask("TOOL_ACTION")["count"], 0);
    let answer = ask("HTTP_REQUEST,TOOL_ACTION");
    assert_eq!((&answer["count"], &answer["jobs"][0]["id"]), (&json!(1), &json!("h1")));
    assert_eq!(answer["jobs"][0]["execution"]["http"]["headers"], json!([{"key": "A", "value": "b"}]));
    assert_eq!(ask("SCRIPT")["count"], 2);
}

#[test]
fn orphaned_rows_are_at_most_a_hundred_and_those_that_are_open() {
    let backend = started();
    let mut client = Client::of(&backend);
    (0..120).for_each(|n| drop(backend.enqueue(job(&format!("k{n}"))).expect("queued")));
    for _ in 0..2 {
        client.call("GET", "jobs/queue?batchSize=100", &Value::Null);
    }
    backend.cancel("j1", Via::Row);
    client.call("PUT", "jobs/j2/status", &running());
    let rows = client.get("/api/internal/jobs/orphaned?orchestratorId=a1");
    let rows = rows.as_array().expect("an array");
    assert_eq!((rows.len(), &rows[0]["id"], &rows[0]["status"]), (100, &json!("j2"), &json!("running")));
    assert_eq!(client.get("/api/internal/jobs/orphaned?orchestratorId=a2"), json!([]));
}

#[test]
fn a_context_is_there_once_the_execution_is() {
    let backend = started();
    let mut client = Client::of(&backend);
    assert_eq!(client.call("GET", "executions/e1/context", &Value::Null).status, 404);
    client.call("POST", "executions/e1/create", &json!({"jobId": "j1"}));
    let context = client.get("/api/internal/executions/e1/context");
    assert_eq!(
        (&context["jobId"], &context["userId"], &context["event"]["id"]),
        (&json!("j1"), &json!("u1"), &json!(12))
    );
    assert_eq!(
        (&context["metadata"]["script"]["content"], &context["event"]["runLocation"]),
        (&json!("echo hi"), &json!("LOCAL"))
    );
}

#[test]
fn a_workflow_starts_its_second_job_with_the_firsts_output() {
    let backend = started();
    let edges = [("a", "b", On::Success), ("a", "c", On::Condition)];
    let edges = edges.map(|(from, to, on)| Edge { from: from.to_owned(), to: to.to_owned(), on });
    let jobs = json!({"jobs": [job("a"), job("b"), job("c")], "edges": edges});
    let mut client = Client::of(&backend);
    assert_eq!(client.send("POST", "/dev/workflows", &jobs.to_string()).expect("an answer").status, 200);
    assert_eq!(client.claim(), ["j1", "j2", "a"]);
    let mut report = complete();
    report["scriptOutput"] = json!({"rows": 3});
    client.call("POST", "jobs/a/complete", &report);
    let next = client.call("GET", "jobs/queue", &Value::Null).json();
    assert_eq!((&next["count"], &next["jobs"][0]["id"]), (&json!(1), &json!("b")));
    assert_eq!(next["jobs"][0]["execution"]["inputData"], json!({"rows": 3}));
    report["condition"] = json!(true);
    client.call("POST", "jobs/a/complete", &report);
    assert_eq!(client.claim(), ["b-2", "c"], "each report runs what follows");
}

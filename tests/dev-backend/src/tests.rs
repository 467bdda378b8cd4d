//! The contract and the faults over real sockets. The HTTP client is a few lines on a raw stream, so that cut and truncated
//! answers show as what they are.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Action, DevBackend, Fault, Options, Settings, Via};

mod deployed;
mod live;

const LIMIT: Duration = Duration::from_secs(10);
const NOW: &str = "2025-10-09T10:00:00.000Z";

fn job(id: &str) -> Value {
    json!({"id": id, "type": "container", "priority": 5, "createdAt": NOW, "scheduledFor": NOW, "attempts": 0,
           "execution": {"target": {"type": "local"}, "script": {"type": "BASH", "content": "echo hi", "workingDirectory": ""},
                         "timeout": 3_600_000_000_000_u64},
           "metadata": {"eventId": 12, "userId": "u1"}})
}

fn backend(settings: Settings) -> DevBackend {
    let jobs = vec![job("j1"), job("j2")];
    DevBackend::start(Options { jobs, settings, ..Options::default() }).expect("a backend")
}

fn started() -> DevBackend {
    backend(Settings::default())
}

/// A connection that is used again and again.
struct Client {
    reader: BufReader<TcpStream>,
    agent: &'static str,
    token: String,
}

#[derive(Debug)]
struct Got {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

impl Client {
    fn of(backend: &DevBackend) -> Self {
        let stream = TcpStream::connect(backend.address()).expect("connect");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        Self { reader: BufReader::new(stream), agent: "a1", token: backend.token().to_owned() }
    }

    fn send(&mut self, method: &str, path: &str, body: &str) -> std::io::Result<Got> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nX-Orchestrator-ID: {}\r\nContent-Length: {}\r\n\r\n",
            self.token,
            self.agent,
            body.len()
        );
        self.raw(format!("{head}{body}").as_bytes())
    }

    fn raw(&mut self, bytes: &[u8]) -> std::io::Result<Got> {
        self.reader.get_mut().write_all(bytes)?;
        let mut headers = String::new();
        while !headers.ends_with("\r\n\r\n") {
            if self.reader.read_line(&mut headers)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let lower = headers.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or("0");
        let mut body = vec![0; length.parse().expect("a length")];
        self.reader.read_exact(&mut body)?;
        let status = headers.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        Ok(Got { status, headers, body })
    }

    fn call(&mut self, method: &str, path: &str, body: &Value) -> Got {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("/api/internal/{path}"), &body).expect("an answer")
    }

    fn get(&mut self, path: &str) -> Value {
        let got = self.send("GET", path, "").expect("an answer");
        assert_eq!(got.status, 200, "{path}");
        got.json()
    }

    fn claim(&mut self) -> Vec<String> {
        let answer = self.call("GET", "jobs/queue?batchSize=5", &Value::Null).json();
        let jobs = answer["jobs"].as_array().expect("jobs");
        jobs.iter().map(|job| job["id"].as_str().expect("an id").to_owned()).collect()
    }
}

fn complete() -> Value {
    json!({"status": "completed", "exitCode": 0, "output": {"stdout": "hi\n", "stderr": ""},
           "metrics": {"startTime": NOW, "endTime": NOW, "duration": 12}, "timestamp": NOW})
}

#[test]
fn one_job_goes_through_its_life() {
    let backend = started();
    let mut client = Client::of(&backend);
    let queue = client.call("GET", "jobs/queue?batchSize=1", &Value::Null).json();
    assert_eq!((&queue["count"], &queue["jobs"][0]), (&json!(1), &job("j1")));
    let acknowledge = json!({"orchestratorId": "a1", "timestamp": NOW});
    assert_eq!(client.call("POST", "jobs/j1/acknowledge", &acknowledge).json()["job"]["status"], "claimed");
    let running = json!({"status": "running", "timestamp": NOW});
    assert_eq!(client.call("PUT", "jobs/j1/status", &running).status, 200);
    assert_eq!(client.get("/api/internal/jobs/orphaned?orchestratorId=a1")[0]["status"], "running");
    let create = json!({"jobId": "j1", "metadata": {}});
    assert_eq!(client.call("POST", "executions/exec-j1-1/create", &create).status, 200);
    let update = json!({"exitCode": 0, "output": "hi\n", "executionDuration": 10, "startedAt": NOW});
    assert_eq!(client.call("PUT", "executions/exec-j1-1/update", &update).status, 200);
    assert_eq!(client.get("/api/internal/executions/exec-j1-1/context")["event"]["id"], 12);
    assert!(!backend.job("j1").expect("j1").is_terminal());
    assert_eq!(client.call("POST", "jobs/j1/complete", &complete()).json()["success"], true);
    let full = client.get("/dev/jobs/j1");
    assert_eq!(
        (&full["status"], &full["terminalReports"], &full["exitCode"]),
        (&json!("completed"), &json!(1), &json!(0))
    );
    let kinds: Vec<&Value> =
        full["reports"].as_array().expect("reports").iter().map(|report| &report["kind"]).collect();
    assert_eq!(kinds, ["acknowledge", "status", "execution-create", "execution-update", "complete"]);
    assert_eq!(full["executions"][0]["row"]["output"], "hi\n");
    assert_eq!(client.get("/api/internal/jobs/orphaned?orchestratorId=a1"), json!([]));
    assert_eq!(backend.problems(), Vec::<String>::new());
    let requests = backend.requests();
    assert!(requests.iter().all(|request| request.connection == requests[0].connection && request.status == Some(200)));
    assert_eq!(requests[0].header("authorization"), Some("present"));
}

#[test]
fn wrong_requests_are_refused_as_the_contract_says() {
    let backend = started();
    let mut client = Client::of(&backend);
    assert_eq!(client.claim(), ["j1", "j2"]);
    let long = "x".repeat(101);
    let mut nul = complete();
    nul["output"]["stdout"] = json!("a\u{0}b");
    let acknowledge = json!({"orchestratorId": "a1", "timestamp": NOW});
    for (method, path, body, status, text) in [
        ("POST", "jobs/nope/complete", complete(), 404, "Job not found"),
        ("POST", &format!("jobs/{long}/complete"), complete(), 400, "100 characters"),
        ("POST", "jobs/j1/complete", nul, 500, "Internal"),
        ("POST", "jobs/j1/complete", json!({"status": "completed"}), 400, "complete.exitCode is missing"),
        ("PUT", "jobs/j1/status", json!({"status": "timeout", "timestamp": NOW}), 400, "status.status"),
        ("POST", "jobs/j1/fail", json!({"timestamp": NOW}), 400, "fail.error is missing"),
        ("POST", "jobs/j1/acknowledge", json!({"orchestratorId": "a2", "timestamp": NOW}), 403, "another"),
        ("POST", "jobs/j1/acknowledge", json!({"orchestratorId": "a1", "timestamp": "now"}), 400, "RFC 3339"),
        ("POST", "executions/e/create", json!({"jobId": "nope"}), 404, "Job not found"),
        ("PUT", "jobs/j1/status", json!(7), 400, "status must be an object"),
        ("PUT", "executions/e/update", json!({"exitCode": 1}), 404, "Execution not found"),
        ("GET", "jobs/orphaned", Value::Null, 400, "orchestratorId"),
        ("GET", "jobs/queue?batchSize=x", Value::Null, 400, "batchSize"),
        ("GET", "variables/u1/none", Value::Null, 404, "Variable"),
    ] {
        let got = client.call(method, path, &body);
        let error = got.json()["error"].as_str().expect("an error").to_owned();
        assert!(got.status == status && error.contains(text), "{path}: {} {error}", got.status);
    }
    assert_eq!(backend.job("j1").expect("j1").terminal_reports(), 0);
    backend.set_settings(Settings { coded_errors: true, ..Settings::default() });
    assert!(client.call("GET", "variables/u1/none", &Value::Null).json()["error"]["message"].is_string());
    let no_id = b"GET /api/internal/jobs/queue HTTP/1.1\r\nAuthorization: Bearer dev\r\n\r\n";
    assert_eq!(client.raw(no_id).expect("an answer").status, 400);
    assert_eq!(client.call("POST", "jobs/j1/acknowledge", &acknowledge).status, 200);
    client.token = "wrong".to_owned();
    assert_eq!(client.call("GET", "jobs/queue", &Value::Null).status, 401);
}

#[test]
fn every_kind_of_terminal_report_counts() {
    for (body, terminal) in [
        (json!({"status": "failed", "completedAt": NOW}), true),
        (json!({"status": "cancelled", "completedAt": NOW}), true),
        (json!({"status": "failed"}), true),
        (json!({"status": "completed"}), true),
        (json!({"status": "cancelled"}), false),
        (json!({"completedAt": NOW}), false),
        (json!({"status": "running", "completedAt": NOW}), false),
        (json!({"status": "running", "exitCode": 3, "executionCompletedAt": NOW}), false),
    ] {
        let backend = started();
        let mut client = Client::of(&backend);
        client.claim();
        client.call("POST", "executions/e1/create", &json!({"jobId": "j1"}));
        assert_eq!(client.call("PUT", "executions/e1/update", &body).status, 200);
        assert_eq!(backend.job("j1").expect("j1").terminal_reports(), usize::from(terminal), "{body}");
        client.call("POST", "jobs/j1/complete", &complete());
        client.call("POST", "jobs/j2/fail", &json!({"error": "x", "timestamp": NOW}));
        client.call("PUT", "jobs/j2/status", &json!({"status": "failed", "timestamp": NOW}));
        assert_eq!(backend.job("j1").expect("j1").terminal_reports(), 1 + usize::from(terminal));
        assert_eq!(backend.job("j2").expect("j2").terminal_reports(), 2);
        assert!(backend.wait_done(LIMIT));
    }
}

#[test]
fn options_add_leases_poll_times_and_cancellations() {
    let settings = Settings { next_poll_after_ms: Some(500), lease_seconds: Some(30), ..Settings::default() };
    let backend = backend(settings);
    let mut client = Client::of(&backend);
    let queue = client.call("GET", "jobs/queue?batchSize=1&jobTypes=TOOL_ACTION,SCRIPT", &Value::Null).json();
    assert_eq!(queue["metadata"]["queueSize"], 1);
    assert!(queue["metadata"]["nextPollAfter"].as_str().is_some_and(|at| crate::time::parse(at).is_some()));
    assert_eq!(client.call("GET", "jobs/queue?jobTypes=HTTP_REQUEST", &Value::Null).json()["count"], 0);
    let acknowledge = json!({"orchestratorId": "a1", "timestamp": NOW});
    assert!(client.call("POST", "jobs/j1/acknowledge", &acknowledge).json()["lease"]["renewalToken"].is_string());
    assert!(backend.cancel("j1", Via::Heartbeat));
    let beat = json!({"orchestratorId": "a1", "timestamp": NOW, "runningJobs": ["j1"],
                      "capacity": {"maxJobs": 5, "currentJobs": 1, "availableSlots": 4}});
    assert_eq!(client.call("POST", "orchestrator/heartbeat", &beat).json()["cancelJobs"], json!(["j1"]));
    assert_eq!(client.get("/api/internal/jobs/orphaned?orchestratorId=a1"), json!([]));
    let mut cancelled = complete();
    cancelled["status"] = json!("cancelled");
    client.call("POST", "jobs/j1/complete", &cancelled);
    assert!(client.call("POST", "orchestrator/heartbeat", &beat).json().get("cancelJobs").is_none());
    assert_eq!(backend.job("j1").expect("j1").status, "cancelled");
    assert!(!backend.cancel("nope", Via::Row));
}

#[test]
fn a_released_job_is_queued_again_and_what_the_agent_tells_is_kept() {
    let backend = started();
    let mut client = Client::of(&backend);
    client.claim();
    assert_eq!(
        client.call("POST", "jobs/j2/release", &json!({"message": "stopping"})).json()["job"]["status"],
        "queued"
    );
    assert_eq!(client.claim(), ["j2"]);
    assert_eq!(backend.job("j2").expect("j2").last_error.as_deref(), Some("stopping"));
    let health = json!({"orchestratorId": "a1", "status": "healthy", "timestamp": NOW, "metrics": {}, "errors": []});
    assert_eq!(client.call("POST", "orchestrator/health", &health).status, 200);
    assert_eq!(client.call("POST", "orchestrator/metrics", &json!({"jobs": 1})).status, 200);
    let audit = json!({"executionId": "e", "action": "start", "details": {}});
    assert_eq!(client.call("POST", "audit", &audit).status, 200);
    let state = client.get("/dev/state");
    assert_eq!((&state["agent"]["health"]["count"], &state["audit"][0]["action"]), (&json!(1), &json!("start")));
}

#[test]
fn chunked_bodies_and_early_continue_are_understood() {
    let backend = started();
    let mut client = Client::of(&backend);
    client.claim();
    let body = complete().to_string();
    let (first, second) = body.split_at(20);
    let text = format!(
        "POST /api/internal/jobs/j1/complete HTTP/1.1\r\nAuthorization: Bearer dev\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x};x=y\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    assert_eq!(client.raw(text.as_bytes()).expect("an answer").status, 200);
    let expect = b"POST /api/internal/audit HTTP/1.1\r\nAuthorization: Bearer dev\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(client.raw(expect).expect("an answer").status, 100);
    let huge = b"POST /api/internal/audit HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n";
    assert!(Client::of(&backend).raw(huge).is_err());
}

/// One fault on `complete`, the first call's outcome, and whether the report was processed.
fn with_fault(action: Action) -> (std::io::Result<Got>, bool, DevBackend) {
    let backend = started();
    let mut client = Client::of(&backend);
    client.claim();
    backend.set_fault(Fault { path: Some("j1/complete".into()), count: Some(1), action, ..Fault::default() });
    let got = client.send("POST", "/api/internal/jobs/j1/complete", &complete().to_string());
    let processed = backend.job("j1").expect("j1").terminal_reports() == 1;
    (got, processed, backend)
}

#[test]
fn faults_that_cut_do_so_before_or_after_the_report_counts() {
    for (action, counts) in [
        (Action::CutBeforeRead, false),
        (Action::CutAfterRead, false),
        (Action::CutMidAnswer, true),
        (Action::CutAfterProcessing, true),
        (Action::TruncatedBody, true),
    ] {
        let name = format!("{action:?}");
        let (got, processed, backend) = with_fault(action);
        assert!(got.is_err(), "{name}");
        assert_eq!(processed, counts, "{name}");
        let again = Client::of(&backend).call("POST", "jobs/j1/complete", &complete());
        assert_eq!(again.status, 200, "{name}: once only");
    }
}

#[test]
fn faults_that_answer_do_so() {
    let headers = [("Retry-After".to_owned(), "7".to_owned())].into();
    let (got, processed, _backend) = with_fault(Action::Status { status: 429, headers, body: None });
    let got = got.expect("an answer");
    assert!(got.status == 429 && got.headers.contains("Retry-After: 7") && !processed);
    let (got, processed, _backend) = with_fault(Action::Body { body: "[]".into(), content_type: None });
    assert!(got.expect("an answer").body == b"[]" && !processed);
    let (got, processed, _backend) = with_fault(Action::WrongJson);
    assert!(serde_json::from_slice::<Value>(&got.expect("an answer").body).is_err() && processed);
    let (got, _, _backend) = with_fault(Action::GiantBody { bytes: 50_000_000 });
    let got = got.expect("an answer");
    assert_eq!((got.body.len(), got.json()["count"].as_u64()), (50_000_000, Some(0)));
    let before = Instant::now();
    let (got, processed, _backend) = with_fault(Action::Delay { millis: 150 });
    assert!(got.expect("an answer").status == 200 && processed && before.elapsed() >= Duration::from_millis(150));
}

#[test]
fn a_hanging_answer_ends_with_the_backend() {
    let backend = started();
    let mut client = Client::of(&backend);
    backend.set_fault(Fault { path: Some("/queue".into()), action: Action::Hang, ..Fault::default() });
    let asked = std::thread::spawn(move || client.send("GET", "/api/internal/jobs/queue", ""));
    assert!(backend.wait_for(LIMIT, |backend| backend.job("j1").is_some_and(|job| job.status == "claimed")));
    assert!(!asked.is_finished());
    backend.stop();
    assert!(asked.join().expect("joined").is_err());
}

#[test]
fn a_refusing_backend_closes_its_port_for_a_while() {
    let (got, processed, backend) = with_fault(Action::Refuse { seconds: 0.3 });
    assert!(got.is_err() && !processed);
    let refused = TcpStream::connect(backend.address()).and_then(|mut stream| stream.read(&mut [0; 1]));
    assert!(!matches!(refused, Ok(1..)));
    let end = Instant::now() + LIMIT;
    let mut seen_refused = false;
    let stream = loop {
        match TcpStream::connect(backend.address()) {
            Ok(stream) if seen_refused => break Some(stream),
            Ok(_) => {}
            Err(error) => seen_refused |= error.kind() == ErrorKind::ConnectionRefused,
        }
        if Instant::now() > end {
            break None;
        }
    };
    assert!(seen_refused && stream.is_some());
    assert_eq!(Client::of(&backend).claim().len(), 0, "both are claimed already");
}

#[test]
fn another_process_can_do_all_of_it_over_http() {
    let backend = started();
    let mut client = Client::of(&backend);
    let page = client.send("GET", "/", "").expect("an answer");
    assert!(page.headers.contains("text/html") && String::from_utf8_lossy(&page.body).contains("<title>Cronium"));
    let ids = client.send("POST", "/dev/jobs", &json!([job("k1"), job("k2")]).to_string()).expect("an answer").json();
    assert_eq!(ids, json!({"ids": ["k1", "k2"]}));
    assert_eq!(client.send("POST", "/dev/jobs", &job("k1").to_string()).expect("an answer").status, 400);
    let faults = json!([{"path": "/queue", "count": 1, "action": {"kind": "status", "status": 500}}]);
    assert_eq!(client.send("PUT", "/dev/faults", &faults.to_string()).expect("an answer").status, 200);
    assert_eq!(client.send("PUT", "/dev/faults", r#"[{"acton":1}]"#).expect("an answer").status, 400);
    assert_eq!(client.call("GET", "jobs/queue", &Value::Null).status, 500);
    assert_eq!(client.get("/dev/faults")[0]["seen"], 1);
    assert_eq!(client.claim().len(), 4);
    assert_eq!(client.send("POST", "/dev/claim/k1?by=a2", "").expect("an answer").status, 200);
    let acknowledge = json!({"orchestratorId": "a1", "timestamp": NOW});
    assert_eq!(client.call("POST", "jobs/k1/acknowledge", &acknowledge).status, 403);
    let requests = client.get("/dev/requests?path=/queue");
    assert_eq!(requests["requests"].as_array().map(Vec::len), Some(2));
    assert_eq!(requests["requests"][0]["status"], 500);
    assert_eq!(client.send("PUT", "/dev/settings", r#"{"logSocket":"lines"}"#).expect("an answer").status, 200);
    assert_eq!(backend.settings().log_socket, crate::LogSocket::Lines);
    assert_eq!(client.get("/dev/wait-done?seconds=0.05")["done"], false);
    assert_eq!(client.send("POST", "/dev/refuse?seconds=0.1", "").expect("an answer").status, 200);
}

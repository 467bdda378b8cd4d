//! The client against real sockets.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;
use std::time::{Duration, Instant};

use super::*;
use crate::api::CompleteBody;
use crate::api::ExecutionUpdate;
use crate::api::error::Wait;
use crate::api::report::{self, Delivery, Fate, judge, least_pause, settle};
use crate::api::testing::{Act, Server, api, ok};
use crate::config::types::{Api, HostTable, RateLimit};
use crate::secret::Secret;
use crate::verdict::{Status, Usage};

fn id(text: &str) -> Id {
    Id::parse(text).expect("an id")
}

fn client_of(api: &Api) -> Client {
    Client::new(api, &Tls::default(), "agent 1", "1.2.3", Stop::new()).expect("a client")
}

fn report() -> CompleteBody<'static> {
    let now = SystemTime::now();
    CompleteBody {
        status: Status::Completed,
        exit_code: 0,
        stdout: "out\0put",
        stderr: "",
        started: now,
        ended: now,
        duration: Duration::ZERO,
        usage: Usage::default(),
        script_output: None,
        condition: None,
        receipt: None,
    }
}

/// Tries until the report is taken, finally refused, or `patience` is over; returns the last failure.
fn deliver(client: &Client, patience: Duration) -> Result<Delivery, Error> {
    let (job, json, begun) = (id("j1"), report().to_json(), Instant::now());
    let (mut fate, mut failures) = (Fate::NotTaken, 0);
    loop {
        let mut ask = || client.orphaned().map(|orphans| judge(&orphans, &job));
        let tried = match settle(client, &job, &mut fate, &mut ask) {
            Ok(true) => return Ok(Delivery::Seen),
            Ok(false) => report::send(client, &job, &json, &mut fate),
            Err(error) => Err(error),
        };
        let error = match tried {
            Ok(delivery) => return Ok(delivery),
            Err(error) => error,
        };
        failures += 1;
        let delay = client.transport.delay(failures, &error).max(least_pause(fate, &error));
        if begun.elapsed() + delay > patience || !(fate == Fate::Unknown || error.is_retryable()) {
            return Err(error);
        }
        std::thread::sleep(delay);
    }
}

fn send(client: &Client) -> Result<Delivery, Error> {
    deliver(client, Duration::from_secs(20))
}

const TAKEN: &str = r#"{"success":true}"#;

#[test]
fn every_call_has_its_path_its_headers_and_one_connection() {
    let server = Server::start(|seen, _| match seen.line.as_str() {
        "GET /api/internal/jobs/queue?batchSize=3&jobTypes=SCRIPT" => ok(r#"{"jobs":[{"id":"a"}],"count":1}"#),
        "GET /api/internal/jobs/orphaned?orchestratorId=agent%201" => ok(r#"[{"id":"a","status":"claimed"}]"#),
        "POST /api/internal/orchestrator/heartbeat" => ok(r#"{"cancelJobs":["a"]}"#),
        _ => ok(TAKEN),
    });
    let client = server.client();
    let (job, execution) = (id("j1"), id("exec-j1-5"));
    assert_eq!(client.queue(3, &["SCRIPT"], &HostTable::default()).expect("queue").claims.len(), 1);
    client.acknowledge(&job).expect("acknowledge");
    client.execution_create(&execution, &job, Some((Some("3"), "web-1")), &[("k", "v".to_owned())]).expect("create");
    client.status_running(&job, Some("a\0b")).expect("status");
    client.execution_update_json(&execution, &ExecutionUpdate::default().to_json()).expect("update");
    client.complete(&job, &report().to_json()).expect("complete");
    client.release(&job, "too many").expect("release");
    assert_eq!(client.orphaned().expect("orphaned").rows[0].id, id("a"));
    client.health().expect("health");
    let capacity = Capacity { max_jobs: 5, current_jobs: 1, available_slots: 4 };
    assert_eq!(client.heartbeat(std::slice::from_ref(&job), capacity).expect("heartbeat").cancel_jobs, [id("a")]);
    let lines = [
        "GET /api/internal/jobs/queue?batchSize=3&jobTypes=SCRIPT",
        "POST /api/internal/jobs/j1/acknowledge",
        "POST /api/internal/executions/exec-j1-5/create",
        "PUT /api/internal/jobs/j1/status",
        "PUT /api/internal/executions/exec-j1-5/update",
        "POST /api/internal/jobs/j1/complete",
        "POST /api/internal/jobs/j1/release",
        "GET /api/internal/jobs/orphaned?orchestratorId=agent%201",
        "GET /api/internal/orchestrator/health",
        "POST /api/internal/orchestrator/heartbeat",
    ];
    assert_eq!(server.lines(), lines);
    for seen in server.seen() {
        assert_eq!(seen.connection, 0, "{} is on a new connection", seen.line);
        for (name, value) in [
            ("authorization", "Bearer tok3n"),
            ("x-orchestrator-id", "agent 1"),
            ("x-service-name", "cronium-agent"),
            ("x-service-version", "1.2.3"),
            ("accept", "application/json"),
        ] {
            assert!(seen.headers.iter().any(|(n, v)| n == name && v == value), "{name} on {}", seen.line);
        }
        assert!(!seen.body.contains("u0000"), "{}", seen.body);
    }
    let body = |i: usize| -> serde_json::Value { serde_json::from_str(&server.seen()[i].body).expect("JSON") };
    assert_eq!(body(1)["orchestratorId"], "agent 1");
    assert!(body(1)["timestamp"].is_string() && body(1)["estimatedStartTime"].is_null());
    assert_eq!((&body(2)["jobId"], &body(2)["metadata"]["k"]), (&"j1".into(), &"v".into()));
    assert_eq!((&body(3)["status"], &body(3)["details"]["message"]), (&"running".into(), &"a\u{fffd}b".into()));
    assert_eq!(body(5)["output"]["stdout"], "out\u{fffd}put");
    assert_eq!((&body(9)["runningJobs"][0], &body(9)["capacity"]["availableSlots"]), (&"j1".into(), &4.into()));
}

#[test]
fn a_separate_client_has_connections_of_its_own() {
    let server = Server::start(|_, _| ok("{}"));
    let client = server.client();
    let other = client.separate();
    for client in [&client, &other, &client, &other] {
        client.health().expect("health");
    }
    let connections: Vec<_> = server.seen().iter().map(|s| s.connection).collect();
    assert_eq!(connections, [0, 1, 0, 1]);
}

#[test]
fn the_date_of_any_answer_tells_the_clock_and_a_caches_does_not() {
    let server = Server::start(|_, n| match n {
        0 => ok("{}"),
        1 => Act::Answer(200, "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nage: 7\r\n", "{}".to_owned()),
        // An error has a date too.
        _ => Act::Answer(404, "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "{}".to_owned()),
    });
    let client = server.client();
    for _ in 0..2 {
        client.health().expect("health");
        assert_eq!(client.clock_skew(), None);
    }
    client.separate().release(&id("j1"), "x").expect_err("404");
    let skew = client.clock_skew().expect("known");
    assert!(skew.is_off && skew.ahead > 800_000_000_000, "{skew:?}");
}

#[test]
fn errors_say_what_where_why_and_what_to_do() {
    for (status, headers, body, tries, parts) in [
        (401, "", r#"{"error":"Unauthorized tok3n"}"#, 1, vec!["401: Unauthorized ***", "check api.token"]),
        (
            403,
            "",
            r#"{"error":{"code":"CLAIMED","message":"not yours"}}"#,
            1,
            vec!["403: not yours [CLAIMED]", "another agent"],
        ),
        (400, "", r#"{"error":"bad","details":"no field x"}"#, 1, vec!["400: bad (no field x)"]),
        (404, "", "<h1>nope</h1>", 1, vec!["404: <h1>nope</h1>"]),
        (302, "location: http://evil.example/\r\n", "", 1, vec!["302", "redirects are not followed"]),
        (500, "", "", 3, vec!["answered 500", "tried 3 times"]),
        (429, "retry-after: 0\r\n", "{}", 3, vec!["429", "api.rateLimit"]),
    ] {
        let server = Server::start(move |_, _| Act::Answer(status, headers, body.to_owned()));
        let error = server.client().acknowledge(&id("j1")).expect_err("an error");
        let text = error.to_string();
        assert_eq!((error.status(), server.lines().len()), (Some(status), tries), "{text}");
        let host = server.address.to_string();
        for part in parts.into_iter().chain(["POST /jobs/j1/acknowledge on ", host.as_str()]) {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        assert!(!text.contains("tok3n"), "{text}");
    }
}

#[test]
fn a_retry_succeeds_and_retry_after_is_waited_for() {
    let server = Server::start(|_, number| match number {
        0 => Act::Answer(503, "retry-after: 1\r\n", String::new()),
        1 => Act::Cut,
        _ => ok(TAKEN),
    });
    let begun = Instant::now();
    server.client().acknowledge(&id("j1")).expect("the third try");
    assert!((1..4).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(server.lines().len(), 3);
}

#[test]
fn stop_ends_the_wait_between_tries() {
    let server = Server::start(|_, _| Act::Answer(503, "retry-after: 60\r\n", String::new()));
    let stop = Stop::new();
    let client = server.client().with_stop(stop.clone());
    let begun = Instant::now();
    let thread = crate::os::threads::spawn("t-call", move || {
        client.acknowledge(&id("j1")).expect_err("an error");
    });
    while server.lines().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.set();
    let ended = thread.expect("a thread").join_within(Duration::from_secs(10));
    assert_eq!(ended, crate::os::threads::Ended::Returned);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(server.lines().len(), 1);
}

#[test]
fn the_queue_is_asked_once() {
    let server = Server::start(|_, _| Act::Answer(500, "", String::new()));
    server.client().queue(1, &["SCRIPT"], &HostTable::default()).expect_err("an error");
    assert_eq!(server.lines().len(), 1);
}

#[test]
fn each_time_limit_has_its_name() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"jobs\"".to_vec();
    for (bytes, want) in
        [(Vec::new(), Wait::Answer), (b"HTTP/1.1 200 OK\r\nx: ".to_vec(), Wait::Answer), (head, Wait::Body)]
    {
        let server = Server::start(move |_, _| Act::Stall(bytes.clone()));
        let client = client_of(&Api { timeout: Duration::from_millis(300), ..server.api() });
        let error = client.queue(1, &["SCRIPT"], &HostTable::default()).expect_err("a timeout");
        assert!(matches!(error.problem, Problem::Timeout { which, .. } if which == want), "{error:?}");
        assert!(error.to_string().contains(want.as_str()) && error.to_string().contains("api.timeout"), "{error}");
        assert!(error.is_ambiguous() && error.is_retryable());
    }
}

#[test]
fn a_send_that_is_not_read_times_out_by_name() {
    // Accepted by the kernel alone; nothing reads, so the socket's buffers fill.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = client_of(&Api { timeout: Duration::from_millis(500), ..api(&format!("http://{address}")) });
    let text = "x".repeat(16 << 20);
    let update = ExecutionUpdate { output: Some(&text), ..Default::default() };
    let call = post(Endpoint::ExecutionUpdate, "/x".to_owned(), &[]);
    let json = encode(&update, text.len());
    let error = client.transport.call(&Call { body: Some(&json), retry: false, ..call }).expect_err("a timeout");
    assert!(matches!(error.problem, Problem::Timeout { which: Wait::Send, .. }), "{error:?}");
}

#[test]
fn a_connect_that_is_not_answered_times_out_by_name() {
    // A full backlog makes the kernel drop further connection requests.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut full = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        full.push(stream);
        assert!(full.len() < 10_000, "the backlog never fills");
    }
    let client = client_of(&Api { timeout: Duration::from_millis(600), ..api(&format!("http://{address}")) });
    let error = client.queue(1, &["SCRIPT"], &HostTable::default()).expect_err("a timeout");
    assert!(matches!(&error.problem, Problem::Unreached(why) if why.is_late()), "{error:?}");
    let said = error.to_string();
    assert!(said.contains(&format!("no answer from {address} within 300ms (half of api.timeout)")), "{said}");
    assert!(!error.is_ambiguous() && error.is_retryable());
}

#[test]
fn nobody_listening_is_no_ambiguity() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    for endpoint in [format!("http://{address}"), "http://no-such-host.invalid:1".to_owned()] {
        let error = client_of(&api(&endpoint)).queue(1, &["SCRIPT"], &HostTable::default()).expect_err("an error");
        assert!(matches!(error.problem, Problem::Unreached(_)), "{error:?}");
        assert!(!error.is_ambiguous() && error.to_string().contains("api.endpoint"), "{error}");
    }
}

#[test]
fn answers_that_lie_are_errors_and_never_panics() {
    for (bytes, kind) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"jobs\":[", "cut"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"job\r\n", "cut"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n[", "bad"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", "bad"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n", "large"),
        (b"", "cut"),
    ] {
        let server = Server::start(move |_, _| Act::Raw(bytes.to_vec()));
        let error = server.client().queue(1, &["SCRIPT"], &HostTable::default()).expect_err("an error");
        let got = match error.problem {
            Problem::Protocol(_) => "protocol",
            Problem::Cut(_) => "cut",
            Problem::BadAnswer { .. } => "bad",
            Problem::TooLarge { .. } => "large",
            _ => "other",
        };
        assert_eq!(got, kind, "{}: {error:?}", String::from_utf8_lossy(bytes));
    }
    let long = [&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'a'; 1 << 20], b"\r\n\r\n"].concat();
    let server = Server::start(move |_, _| Act::Raw(long.clone()));
    assert!(matches!(
        server.client().queue(1, &["SCRIPT"], &HostTable::default()).expect_err("an error").problem,
        Problem::Protocol(_)
    ));
}

#[test]
fn a_flood_is_cut_off_at_the_limit() {
    let server = Server::start(|_, _| Act::Flood(50 << 20));
    let error = server.client().queue(1, &["SCRIPT"], &HostTable::default()).expect_err("an error");
    assert!(matches!(error.problem, Problem::TooLarge { limit } if limit == limits::QUEUE_ANSWER_MAX), "{error:?}");
    let capacity = Capacity { max_jobs: 1, current_jobs: 0, available_slots: 1 };
    let error = server.client().heartbeat(&[], capacity).expect_err("an error");
    assert!(matches!(error.problem, Problem::TooLarge { limit } if limit == limits::ANSWER_MAX), "{error:?}");
    // If the body does not matter, the status is the answer, with a body of any length.
    server.client().acknowledge(&id("j1")).expect("2xx");
}

#[test]
fn a_lost_answer_after_processing_makes_one_complete() {
    let server = Server::start(|seen, _| if seen.line.starts_with("POST") { Act::Cut } else { ok("[]") });
    assert_eq!(send(&server.client()).expect("delivered"), Delivery::Seen);
    let lines = ["POST /api/internal/jobs/j1/complete", "GET /api/internal/jobs/orphaned?orchestratorId=agent%201"];
    assert_eq!(server.lines(), lines);
}

#[test]
fn a_report_that_was_lost_before_processing_is_sent_again() {
    let posts = AtomicUsize::new(0);
    let server = Server::start(move |seen, _| match seen.line.starts_with("POST") {
        true if posts.fetch_add(1, Ordering::SeqCst) == 0 => Act::Answer(502, "", String::new()),
        true => ok(TAKEN),
        false => ok(r#"[{"id":"j1","status":"running"}]"#),
    });
    assert_eq!(send(&server.client()).expect("delivered"), Delivery::Accepted);
    assert_eq!(server.lines().len(), 3);
}

#[test]
fn a_list_that_proves_nothing_never_sends_again() {
    let rows = vec![r#"{"id":"x","status":"running"}"#; 100].join(",");
    let server =
        Server::start(move |seen, _| if seen.line.starts_with("POST") { Act::Cut } else { ok(&format!("[{rows}]")) });
    let patience = Duration::from_millis(2500);
    let error = deliver(&server.client(), patience).expect_err("unknown");
    assert!(matches!(error.problem, Problem::Unknown), "{error:?}");
    let posts = server.lines().iter().filter(|l| l.starts_with("POST")).count();
    assert_eq!(posts, 1);
    assert!(server.lines().len() > 2);
}

#[test]
fn a_report_is_not_offered_twice_when_it_is_refused_and_is_when_it_is_throttled() {
    let server = Server::start(|_, _| Act::Answer(403, "", String::new()));
    assert_eq!(send(&server.client()).expect_err("refused").status(), Some(403));
    assert_eq!(server.lines().len(), 1);
    let server = Server::start(|_, n| if n < 5 { Act::Answer(429, "", String::new()) } else { ok(TAKEN) });
    assert_eq!(send(&server.client()).expect("delivered"), Delivery::Accepted);
    assert_eq!(server.lines().len(), 6, "no question is needed after 429");
}

#[test]
fn urgent_calls_pass_an_exhausted_rate_limit() {
    let server = Server::start(|_, _| ok("{}"));
    let client = client_of(&Api { rate_limit: RateLimit { enabled: true, requests_per_second: 0.05 }, ..server.api() });
    client.health().expect("the first one is free");
    let begun = Instant::now();
    client.heartbeat(&[], Capacity { max_jobs: 1, current_jobs: 0, available_slots: 1 }).expect("heartbeat");
    client.acknowledge(&id("j1")).expect("acknowledge");
    client.complete(&id("j1"), &report().to_json()).expect("complete");
    let took = begun.elapsed();
    assert!(took >= limits::RATE_PRIORITY_WAIT && took < Duration::from_secs(5), "{took:?}");
    // An ordinary call would wait for minutes; a stop ends that.
    let stop = Stop::new();
    stop.set();
    let error = client.with_stop(stop).queue(1, &["SCRIPT"], &HostTable::default()).expect_err("stopped");
    assert!(matches!(error.problem, Problem::Stopped));
}

#[test]
fn a_client_that_cannot_be_built_says_which_key() {
    let good = api("http://127.0.0.1:1");
    for (api, id, key) in [
        (Api { token: Secret::new("a\nb"), ..good.clone() }, "a", "api.token"),
        (good.clone(), "a\r\nx: y", "orchestrator.id"),
        (Api { endpoint: "nonsense path".into(), ..good.clone() }, "a", "api.endpoint"),
    ] {
        let error = Client::new(&api, &Tls::default(), id, "1", Stop::new()).expect_err("an error");
        assert!(error.to_string().contains(key), "{error}");
    }
    for (ca_file, part) in [("/nonexistent/ca.pem", "cannot read"), ("/dev/null", "holds no certificate")] {
        let tls = Tls { enabled: true, ca_file: Some(ca_file.into()), ..Tls::default() };
        let error = Client::new(&good, &tls, "a", "1", Stop::new()).expect_err("an error").to_string();
        assert!(error.contains("security.tls.caFile") && error.contains(part), "{error}");
    }
}

/// Runs `openssl` in `dir`.
fn openssl(dir: &std::path::Path, line: &str) {
    let done = std::process::Command::new("openssl").args(line.split(' ')).current_dir(dir).output().expect("openssl");
    assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A TLS server that wants a client certificate of our CA; it answers `{}` to each request.
fn tls_server(dir: &std::path::Path) -> (std::net::SocketAddr, crate::os::threads::Thread, Stop) {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = |name: &str| CertificateDer::from_pem_file(dir.join(name)).expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate("ca.pem")).expect("a root");
    let verifier = rustls::server::WebPkiClientVerifier::builder(roots.into()).build().expect("a verifier");
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).expect("a key");
    let config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate("server.pem")], key)
        .expect("a server");
    let (config, stop) = (std::sync::Arc::new(config), Stop::new());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let flag = stop.clone();
    let thread = crate::os::threads::spawn("t-tls", move || {
        for stream in listener.incoming() {
            if flag.is_set() {
                break;
            }
            let stream = stream.expect("a connection");
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            let session = rustls::ServerConnection::new(std::sync::Arc::clone(&config)).expect("a session");
            let mut tls = rustls::StreamOwned::new(session, stream);
            let mut head = [0; 2000];
            if std::io::Read::read(&mut tls, &mut head).is_ok_and(|n| n > 0) {
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        }
    });
    (address, thread.expect("a thread"), stop)
}

#[test]
fn tls_with_a_custom_ca_and_a_client_certificate() {
    let dir = crate::os::scratch::Scratch::new();
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(&dir, &format!("{new} -x509 -keyout ca.key -out ca.pem -subj /CN=test-ca"));
    std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").expect("a file");
    for name in ["server", "client"] {
        openssl(&dir, &format!("{new} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(
            &dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {name}.pem"
            ),
        );
    }
    let (address, thread, stop) = tls_server(&dir);
    let file = |name: &str| Some(dir.join(name));
    let full =
        Tls { enabled: true, ca_file: file("ca.pem"), cert_file: file("client.pem"), key_file: file("client.key") };
    let try_with = |tls: &Tls, host: &str| {
        let api = api(&format!("https://{host}:{}", address.port()));
        Client::new(&api, tls, "a", "1", Stop::new()).expect("a client").health()
    };
    try_with(&full, "127.0.0.1").expect("both sides trust each other");
    for (name, tls, host, part) in [
        ("bundled roots", Tls { ca_file: None, ..full.clone() }, "127.0.0.1", "security.tls.caFile"),
        ("tls settings off", Tls { enabled: false, ..full.clone() }, "127.0.0.1", "security.tls.caFile"),
        ("another name", full.clone(), "localhost", "another name"),
        (
            "no client certificate",
            Tls { cert_file: None, key_file: None, ..full.clone() },
            "127.0.0.1",
            "security.tls.certFile",
        ),
    ] {
        let error = try_with(&tls, host).expect_err(name);
        assert!(matches!(error.problem, Problem::Tls { .. }), "{name}: {error:?}");
        assert!(error.to_string().contains(part), "{name}: {error}");
    }
    let half = Tls { key_file: None, ..full };
    let error = Client::new(&api("https://127.0.0.1:1"), &half, "a", "1", Stop::new()).expect_err("half").to_string();
    assert!(error.contains("security.tls.keyFile"), "{error}");
    stop.set();
    drop(std::net::TcpStream::connect(address));
    thread.join_within(Duration::from_secs(10));
}

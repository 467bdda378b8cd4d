//! Jobs that are HTTP requests: real servers on an address of the engine's bridge, which is private and listed.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cronium_dev_backend::{DevBackend, Edge, On, Via};
use serde_json::{Value, json};

use crate::dial::Names;
use crate::doctor::openssl;
use crate::engine::tcp_engine;
use crate::harness::{
    Agent, Folder, LONG, deployed, docker, eventually, finish, finished, job, record, report, shared, stderr, stdout,
    with_socket,
};
use crate::ssh_rig::has_words;
use crate::sshd_faults::Network;

const ON: (&str, &str) = ("http.enabled", "true");

/// What a server does with a connection after it has read the request.
enum Does {
    Answers(Vec<u8>),
    /// Sends this, then nothing more, and keeps the connection open.
    Stalls(Vec<u8>),
    /// Sends this again and again for as long as it is taken.
    Floods(Vec<u8>),
    Closes,
}

/// A server. Each connection has a thread, which ends with it.
struct Site {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

/// The address that the engine's bridge has on this host.
fn bridge() -> String {
    docker(&["network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"])
}

impl Site {
    fn start(does: impl Fn(&str) -> Does + Send + Sync + 'static) -> Self {
        Self::start_on(&bridge(), does)
    }

    fn start_on(ip: &str, does: impl Fn(&str) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("a listener");
        let address = listener.local_addr().expect("an address").to_string();
        let (seen, does) = (Arc::new(Mutex::new(Vec::new())), Arc::new(does));
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (all, does) = (Arc::clone(&all), Arc::clone(&does));
                std::thread::spawn(move || serve(stream, &all, &*does));
            }
        });
        Self { address, seen }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn port(&self) -> &str {
        self.address.rsplit_once(':').expect("a port").1
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("a lock").clone()
    }
}

fn serve(mut stream: TcpStream, all: &Mutex<Vec<String>>, does: &dyn Fn(&str) -> Does) {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    let whole = |request: &[u8]| {
        let text = String::from_utf8_lossy(request).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        (body.len() >= length.unwrap_or(0)).then_some(text)
    };
    let text = loop {
        if let Some(text) = whole(&request) {
            break text;
        }
        match stream.read(&mut piece) {
            // TLS, which this server does not speak.
            Ok(n) if n > 0 && piece[0] == 0x16 && request.is_empty() => {
                return drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
            }
            Ok(n) if n > 0 => request.extend_from_slice(&piece[..n]),
            _ => return,
        }
    };
    all.lock().expect("a lock").push(text.clone());
    match does(&text) {
        Does::Answers(bytes) => drop(stream.write_all(&bytes)),
        Does::Stalls(bytes) => {
            let _ = stream.write_all(&bytes);
            let _ = stream.read(&mut piece);
        }
        Does::Floods(bytes) => while stream.write_all(&bytes).is_ok() {},
        Does::Closes => {}
    }
}

/// An answer with its length.
fn answer(status: &str, headers: &[&str], body: &str) -> Does {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    Does::Answers(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes())
}

/// A job of type HTTP_REQUEST, as the deployed backend stores it.
fn request(http: Value) -> Value {
    let mut job = job("BASH", "");
    job["execution"].as_object_mut().expect("an object").remove("script");
    job["execution"]["http"] = http;
    job["metadata"]["originalType"] = json!("HTTP_REQUEST");
    job
}

fn get(url: &str) -> Value {
    request(json!({"method": "GET", "url": url, "headers": []}))
}

/// An agent that makes requests, also to the servers of these tests.
fn start(backend: &DevBackend, settings: &[(&str, &str)]) -> Agent {
    let allow = format!("*,{}", bridge());
    let mut all = vec![ON, ("http.allow", allow.as_str())];
    all.extend_from_slice(settings);
    Agent::start(backend, &all)
}

/// Whether the backend knows that it runs. A cancel right before that is undone by the agent's word for it.
fn is_running(backend: &DevBackend, id: &str) -> bool {
    backend.job(id).is_some_and(|row| row.status == "running")
}

#[test]
fn a_request_is_made_once_and_its_answer_is_output_and_script_output() {
    let _machine = shared();
    let site = Site::start(|request| match request.split(' ').nth(1) {
        Some("/json?key=hunter2") => answer(
            "200 OK",
            &["Content-Type: application/json", "X-Two: a", "X-Two: b"],
            "{\"items\": [1, \"\\u0000\"], \"ok\": true}\n",
        ),
        Some("/bytes") => Does::Answers(b"HTTP/1.1 203 Odd\r\n\r\na\0b\xffc".to_vec()),
        Some("/post") => answer("201 Created", &[], "made"),
        _ => answer("404 Not Found", &["Content-Type: text/plain"], "no such thing"),
    });
    let backend = with_socket();
    let agent = start(&backend, &[]);
    let row = finish(
        &backend,
        request(json!({"method": "GET", "url": site.url("/json?key=hunter2"),
            "headers": [{"key": "X-Token", "value": "hunter2"}, {"key": "Host", "value": "other"}]})),
    );
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("completed"), Some(0)), "{row:?}");
    assert_eq!(stdout(&row), "{\"items\": [1, \"\\u0000\"], \"ok\": true}\n");
    assert_eq!(stderr(&row), "");
    let output = &report(&row)["scriptOutput"];
    assert_eq!((&output["status"], &output["statusText"]), (&json!(200), &json!("OK")));
    assert_eq!(output["body"], json!({"items": [1, "\u{fffd}"], "ok": true}));
    assert_eq!(
        (&output["headers"]["content-type"], &output["headers"]["x-two"]),
        (&json!("application/json"), &json!("a, b"))
    );
    // What is shown and logged names the server, and nothing that may be a secret.
    let lines: Vec<String> = backend.lines(&row.id).iter().map(|line| line.text.clone()).collect();
    assert!(lines.contains(&format!("sending GET to http://{}", site.address)), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("left out: host")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("\"items\"")), "{lines:?}");
    assert!(!lines.join("\n").contains("hunter2") && !agent.log().contains("hunter2"), "{}", agent.log());
    let seen = site.seen();
    assert_eq!(seen.len(), 1);
    has_words(
        &seen[0].to_lowercase(),
        &["get /json?key=hunter2 http/1.1\r\n", "x-token: hunter2\r\n", "user-agent: cronium-agent/"],
    );
    assert!(seen[0].to_lowercase().contains(&format!("host: {}\r\n", site.address)), "{}", seen[0]);

    let row = finish(
        &backend,
        request(json!({"method": "post", "url": site.url("/post"), "body": "{\"a\":1}",
        "headers": {"Content-Type": "application/json", "Content-Length": "9999"}})),
    );
    assert_eq!((row.exit_code, stdout(&row), &report(&row)["scriptOutput"]["body"]), (Some(0), "made", &json!("made")));
    let post = &site.seen()[1];
    has_words(
        &post.to_lowercase(),
        &["post /post http/1.1\r\n", "content-type: application/json\r\n", "content-length: 7\r\n"],
    );
    assert!(post.ends_with("\r\n\r\n{\"a\":1}"), "{post}");

    let row = finish(&backend, get(&site.url("/missing")));
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(1)), "{row:?}");
    assert_eq!((stdout(&row), stderr(&row)), ("no such thing", "cronium-agent: the server answered 404 Not Found\n"));
    assert_eq!(report(&row)["scriptOutput"]["status"], 404);
    let facts = record(&backend, &row)["executionMetadata"].clone();
    assert_eq!((&facts["httpStatus"], &facts["httpAddress"]), (&json!("404"), &json!(site.address)));

    let row = finish(&backend, get(&site.url("/bytes")));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "a\u{fffd}b\u{fffd}c"));
    assert_eq!(report(&row)["scriptOutput"]["body"], "a\u{fffd}b\u{fffd}c");
    let completed = || agent.metric("cronium_jobs_completed_total{type=\"http\"}");
    eventually("they are counted", || completed() == Some(3.0));
    assert_eq!(backend.problems(), Vec::<String>::new());
    agent.stop();
}

#[test]
fn an_agent_asks_for_the_types_that_it_can_do_and_refuses_the_others_with_a_reason() {
    let _machine = shared();
    let site = Site::start(|_| answer("200 OK", &[], "never"));
    let backend = deployed();
    let tool = || {
        let mut job = request(Value::Null);
        job["metadata"]["originalType"] = json!("TOOL_ACTION");
        job
    };
    let left: Vec<String> = [get(&site.url("/")), tool()].map(|job| backend.enqueue(job).expect("queued")).to_vec();
    let agent = Agent::start(&backend, &[]);
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    let polls = |backend: &DevBackend| -> Vec<String> {
        let polls = backend.requests().into_iter().filter(|request| request.target.contains("/jobs/queue?"));
        polls.map(|request| request.target.split_once("&jobTypes=").expect("types").1.to_owned()).collect()
    };
    assert!(polls(&backend).iter().all(|types| types == "SCRIPT"), "{:?}", polls(&backend));
    assert!(left.iter().all(|id| backend.job(id).expect("a row").status == "queued"));
    agent.stop();

    // One that takes what it cannot do says why it does not do it.
    let agent = Agent::start(&backend, &[("jobs.types", "SCRIPT,HTTP_REQUEST,TOOL_ACTION")]);
    let rows = [finished(&backend, &left[0]), finished(&backend, &left[1])];
    for (row, words) in rows.iter().zip([["switched off", "http.enabled"], ["TOOL_ACTION", "credentials of its tool"]])
    {
        assert_eq!((report(row)["status"].as_str(), row.exit_code), (Some("failed"), Some(125)));
        has_words(stderr(row), &words);
        assert_eq!(report(row)["scriptOutput"], Value::Null);
    }
    assert!(polls(&backend).last().is_some_and(|types| types == "SCRIPT,HTTP_REQUEST,TOOL_ACTION"));
    assert!(site.seen().is_empty());
    agent.stop();

    let agent = start(&backend, &[]);
    assert_eq!(finish(&backend, get(&site.url("/"))).exit_code, Some(0));
    assert!(polls(&backend).last().is_some_and(|types| types == "SCRIPT,HTTP_REQUEST"));
    agent.stop();
}

#[test]
fn no_request_reaches_what_is_closed_by_whatever_name() {
    let _machine = shared();
    let ip = bridge();
    let site = Site::start_on("0.0.0.0", |_| answer("200 OK", &[], "here"));
    let names = Names::new(
        &format!(
            "127.0.0.1 loop.test\n169.254.169.254 meta.test\n{ip} inside.test\n127.0.0.1 two.test\n{ip} two.test\n"
        ),
        "nameserver 127.0.0.1\n",
    );
    let backend = deployed();
    let private = ["is in a private range", "http.allow"];
    let closed = ["the request was not sent", "which no request may reach"];
    let port = site.port().to_owned();
    for (allow, host, words) in [
        ("*", ip.as_str(), Some(private)),
        ("*", "inside.test", Some(private)),
        ("*,inside.test", ip.as_str(), Some(private)),
        ("inside.test", "inside.test", None),
        ("*.test", "INSIDE.test", None),
        (ip.as_str(), "inside.test", None),
        // Of two addresses the one that is open is used.
        ("*.test", "two.test", None),
        ("*,0.0.0.0/0,*.test,localhost", "localhost", Some(closed)),
        ("*,0.0.0.0/0,*.test", "loop.test", Some(closed)),
        ("*,0.0.0.0/0,*.test", "meta.test", Some(closed)),
        ("*,0.0.0.0/0,*.test", "127.0.0.1", Some(closed)),
        ("*,::/0", "[::ffff:127.0.0.1]", Some(closed)),
    ] {
        let agent = names.agent(&backend.url(), backend.token(), &[ON, ("http.allow", allow)]);
        let before = site.seen().len();
        let row = finish(&backend, get(&format!("http://{host}:{port}/")));
        match words {
            Some(words) => {
                has_words(stderr(&row), &words);
                assert_eq!((row.exit_code, site.seen().len()), (Some(125), before), "{allow} {host}");
            }
            None => assert_eq!((row.exit_code, site.seen().len()), (Some(0), before + 1), "{allow} {host}: {row:?}"),
        }
        agent.stop();
    }
    // The agent's own pages.
    let agent = start(&backend, &[("monitoring.bindAddress", "0.0.0.0")]);
    let row = finish(&backend, get(&format!("http://{ip}:{}/metrics", agent.health_port)));
    has_words(stderr(&row), &["this agent's own", "which no request may reach"]);
    agent.stop();
    // The engine, by another address than the one that the agent uses.
    let engine = tcp_engine();
    let agent = start(&backend, &[("container.docker.endpoint", &format!("tcp://127.0.0.1:{engine}"))]);
    let row = finish(&backend, get(&format!("http://{ip}:{engine}/containers/json")));
    has_words(stderr(&row), &["container engine's (container.docker.endpoint)", "which no request may reach"]);
    agent.stop();
}

#[test]
fn redirects_are_followed_where_the_operator_says_so_and_each_is_checked() {
    let _machine = shared();
    let elsewhere = Site::start(|_| answer("200 OK", &[], "elsewhere"));
    let away = elsewhere.url("/");
    let site = Site::start(move |request| match request.split(' ').nth(1) {
        Some("/here") => answer("302 Found", &["Location: /there?x"], "moved"),
        Some("/there?x") => answer("200 OK", &[], "there"),
        Some("/loop") => answer("307 Temporary Redirect", &["Location: /loop"], ""),
        Some("/away") => answer("302 Found", &[&format!("Location: {away}")], ""),
        Some("/loopback") => answer("302 Found", &["Location: http://localhost:1/hunter2"], ""),
        _ => answer("308 Permanent Redirect", &["Location: ftp://hunter2/"], ""),
    });
    let backend = deployed();
    let agent = start(&backend, &[]);
    let row = finish(&backend, get(&site.url("/here")));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "moved"));
    let output = &report(&row)["scriptOutput"];
    assert_eq!((&output["status"], &output["headers"]["location"]), (&json!(302), &json!("/there?x")));
    agent.stop();

    let agent = start(&backend, &[("http.maxRedirects", "3")]);
    let row = finish(&backend, get(&site.url("/here")));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "there"));
    assert_eq!(record(&backend, &row)["executionMetadata"]["httpRedirects"], "1");
    let with_key =
        json!({"method": "GET", "url": site.url("/away"), "headers": {"Authorization": "hunter2", "X-Key": "hunter2"}});
    assert_eq!(stdout(&finish(&backend, request(with_key))), "elsewhere");
    assert!(site.seen().last().is_some_and(|seen| seen.contains("hunter2")));
    assert!(!elsewhere.seen()[0].contains("hunter2"), "{:?}", elsewhere.seen());
    for (path, words) in [
        ("/loop", ["a redirect was not followed", "more than 3 of them (http.maxRedirects)"]),
        ("/loopback", ["answered 302, and", "this host's loopback, which no request may reach"]),
        ("/odd", ["a redirect was not followed", "http:// or https://"]),
    ] {
        let row = finish(&backend, get(&site.url(path)));
        assert_eq!(row.exit_code, Some(125), "{path}");
        has_words(stderr(&row), &words);
        assert!(!stderr(&row).contains("hunter2"), "{}", stderr(&row));
    }
    assert_eq!(site.seen().iter().filter(|seen| seen.starts_with("GET /loop ")).count(), 4);
    agent.stop();
}

#[test]
fn a_request_ends_at_its_limit_and_for_a_cancel_and_says_that_it_had_been_sent() {
    let _machine = shared();
    let site = Site::start(|request| match request.split(' ').nth(1) {
        Some("/drips") => Does::Stalls(b"HTTP/1.1 200 OK\r\n\r\nhalf".to_vec()),
        _ => Does::Stalls(Vec::new()),
    });
    let backend = deployed();
    let agent = start(&backend, &[]);
    for (path, kept) in [("/silent", ""), ("/drips", "half")] {
        let mut slow = get(&site.url(path));
        slow["execution"]["timeout"] = json!(1);
        let row = finish(&backend, slow);
        assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("timeout"), Some(-1)), "{row:?}");
        assert_eq!(stdout(&row), kept);
        has_words(
            stderr(&row),
            &["longer than its limit of 1 s (the job's timeout)", "whether the server acted on it is unknown"],
        );
        let took = Duration::from_millis(row.duration_ms.expect("a duration"));
        assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&took), "{took:?}");
    }
    let id = backend.enqueue(get(&site.url("/silent"))).expect("queued");
    eventually("the request is there", || site.seen().len() == 3 && is_running(&backend, &id));
    let cancelled = Instant::now();
    assert!(backend.cancel(&id, Via::Row));
    let row = finished(&backend, &id);
    assert!(cancelled.elapsed() < Duration::from_secs(5), "{:?}", cancelled.elapsed());
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("cancelled"), Some(143)), "{row:?}");
    has_words(stderr(&row), &["the job was cancelled by", "whether the server acted on it is unknown"]);
    assert_eq!(site.seen().len(), 3);
    assert_eq!(backend.problems(), Vec::<String>::new());
    agent.stop();
}

#[test]
fn a_request_of_a_killed_agent_is_called_unknown_and_never_sent_again() {
    let _machine = shared();
    let site = Site::start(|_| Does::Stalls(Vec::new()));
    let backend = deployed();
    let agent = start(&backend, &[]);
    let id = backend.enqueue(get(&site.url("/?key=hunter2"))).expect("queued");
    eventually("the request is there", || site.seen().len() == 1);
    let records = agent.state().join("jobs");
    let held: Vec<u8> = std::fs::read_dir(records)
        .expect("records")
        .flat_map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a record"))
        .collect();
    let held = String::from_utf8_lossy(&held);
    assert!(held.contains("Started") && !held.contains("hunter2"), "{held}");
    let allow = format!("*,{}", bridge());
    let agent = agent.again(&backend, &[ON, ("http.allow", &allow)]);
    let row = finished(&backend, &id);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(125)), "{row:?}");
    has_words(stderr(&row), &["the agent was restarted while the request was under way", "its end is unknown"]);
    // It is alive, and asks for more.
    let other = Site::start(|_| answer("200 OK", &[], "fine"));
    assert_eq!(stdout(&finish(&backend, get(&other.url("/")))), "fine");
    assert_eq!((site.seen().len(), backend.job(&id).expect("the job").claims), (1, 1));
    agent.stop();
}

#[test]
fn an_agent_that_ends_waits_for_a_request_and_then_says_what_is_known() {
    let _machine = shared();
    let site = Site::start(|request| match request.split(' ').nth(1) {
        Some("/slow") => {
            std::thread::sleep(Duration::from_secs(2));
            answer("200 OK", &[], "in time")
        }
        _ => Does::Stalls(Vec::new()),
    });
    let backend = deployed();
    for (path, drain, code, words) in
        [("/slow", "30s", 0, None), ("/silent", "1s", 4, Some(["the agent was stopped", "is unknown"]))]
    {
        let mut agent = start(&backend, &[("jobs.drainTimeout", drain)]);
        let before = site.seen().len();
        let id = backend.enqueue(get(&site.url(path))).expect("queued");
        eventually("the request is there", || site.seen().len() > before);
        agent.signal("TERM");
        assert_eq!(agent.wait(LONG).code(), Some(code), "{}", agent.log());
        let row = finished(&backend, &id);
        match words {
            None => assert_eq!((row.exit_code, stdout(&row)), (Some(0), "in time")),
            Some(words) => {
                assert_eq!(row.exit_code, Some(125));
                has_words(stderr(&row), &words);
            }
        }
        assert_eq!(site.seen().len(), before + 1);
    }
}

#[test]
fn of_a_long_answer_the_beginning_is_kept_with_a_count() {
    let _machine = shared();
    let site = Site::start(|request| match request.split(' ').nth(1) {
        Some("/announced") => {
            answer("200 OK", &["Content-Type: application/json"], &format!("[{}1]", "1,".repeat(2048)))
        }
        Some("/exact") => answer("200 OK", &[], &"x".repeat(2048)),
        Some("/head") => Does::Floods(b"X-Endless: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n".to_vec()),
        _ => Does::Floods(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
    });
    let backend = deployed();
    let agent = start(&backend, &[("http.maxResponse", "2KB")]);
    let row = finish(&backend, get(&site.url("/announced")));
    assert_eq!((row.exit_code, stdout(&row).len()), (Some(0), 2048));
    assert_eq!(stderr(&row), "cronium-agent: the first 2048 of the body's 4099 bytes were kept (http.maxResponse)\n");
    assert!(report(&row)["scriptOutput"]["body"].as_str().is_some_and(|body| body.len() == 2048));
    let row = finish(&backend, get(&site.url("/exact")));
    assert_eq!((row.exit_code, stdout(&row).len(), stderr(&row)), (Some(0), 2048, ""));
    let before = agent.memory_kb("VmHWM");
    let row = finish(&backend, get(&site.url("/endless")));
    assert_eq!((row.exit_code, stdout(&row).len()), (Some(0), 2048));
    has_words(stderr(&row), &["the first 2048 bytes of the body were kept", "is not known"]);
    let row = finish(&backend, get(&site.url("/head")));
    assert_eq!(row.exit_code, Some(125), "{row:?}");
    has_words(stderr(&row), &["the request was sent, and no whole answer came"]);
    assert!(agent.memory_kb("VmHWM") < before + 20_000);
    agent.stop();
}

#[test]
fn a_connection_that_is_not_made_or_breaks_is_told_as_what_it_is() {
    let _machine = shared();
    let site = Site::start(|request| match request.split(' ').nth(1) {
        Some("/half") => Does::Answers(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec()),
        Some("/nonsense") => Does::Answers(b"SSH-2.0-x\r\n\r\n".to_vec()),
        _ => Does::Closes,
    });
    let closed = TcpListener::bind((bridge(), 0)).and_then(|listener| listener.local_addr()).expect("an address");
    let backend = deployed();
    let agent = start(&backend, &[]);
    let unsent = "the request was not sent";
    let unknown = "whether the server acted on it is unknown";
    for (url, words) in [
        (format!("http://{closed}/"), [unsent, "Connection refused"]),
        ("http://nowhere.invalid/".to_owned(), [unsent, "nowhere.invalid has no address"]),
        (site.url("/closes"), [unknown, "no whole answer came"]),
        (site.url("/half"), [unknown, "no whole answer came"]),
        (site.url("/nonsense"), [unknown, "no valid HTTP/1.1"]),
        (format!("https://{}/", site.address), [unsent, "no TLS connection"]),
    ] {
        let row = finish(&backend, get(&url));
        assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(125)), "{url}: {row:?}");
        has_words(stderr(&row), &words);
    }
    agent.stop();
}

/// Ended with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_certificate_needs_an_authority_that_the_operator_trusts() {
    let _machine = shared();
    let (folder, ip) = (Folder::new(), bridge());
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&folder, &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 400 -subj /CN=requests-authority"));
    openssl(&folder, &format!("req {key} -keyout own.key -out own.csr -subj /CN=site"));
    std::fs::write(folder.path().join("names"), format!("subjectAltName=IP:{ip}\n")).expect("write");
    openssl(&folder, "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -days 90 -extfile names -out own.pem");
    let port = TcpListener::bind((ip.as_str(), 0)).and_then(|listener| listener.local_addr()).expect("a port").port();
    let accept = format!("{ip}:{port}");
    let mut server = Command::new("openssl");
    server.args(["s_server", "-www", "-cert", "own.pem", "-key", "own.key", "-accept", &accept]);
    server.current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Ended(server.spawn().expect("openssl s_server"));
    eventually("the server listens", || TcpStream::connect(&accept).is_ok());
    let ca = folder.path().join("ca.pem").display().to_string();
    let backend = deployed();

    let agent = start(&backend, &[]);
    let row = finish(&backend, get(&format!("https://{accept}/")));
    assert_eq!(row.exit_code, Some(125), "{row:?}");
    has_words(
        stderr(&row),
        &["the request was not sent", "no TLS connection", "nobody whom this host trusts", "http.caFile"],
    );
    agent.stop();

    let agent = start(&backend, &[("http.caFile", &ca)]);
    let row = finish(&backend, get(&format!("https://{accept}/")));
    assert_eq!(row.exit_code, Some(0), "{row:?}");
    assert!(stdout(&row).contains("s_server"), "{}", stdout(&row));
    agent.stop();
}

#[test]
fn a_proxy_of_the_environment_is_not_used_for_requests() {
    let _machine = shared();
    let proxy = Site::start(|_| answer("200 OK", &[], "by the proxy"));
    let site = Site::start(|_| answer("200 OK", &[], "direct"));
    let backend = deployed();
    let through = proxy.url("");
    let all = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"].map(|name| format!("{name}={through}"));
    let before: Vec<&str> = ["env"].into_iter().chain(all.iter().map(String::as_str)).collect();
    let allow = format!("*,{}", bridge());
    let agent = Agent::start_behind(&before, &backend.url(), backend.token(), &[ON, ("http.allow", &allow)]);
    let row = finish(&backend, get(&site.url("/")));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "direct"), "{row:?}");
    assert_eq!((site.seen().len(), proxy.seen().len()), (1, 0));
    agent.stop();
}

#[test]
fn what_does_not_answer_costs_a_request_its_limit_and_a_cancel_ends_each_wait() {
    let _machine = shared();
    let network = Network::new();
    let dead = network.dead_address();
    let names = Names::new("", &format!("nameserver {dead}\noptions timeout:30 attempts:5\n"));
    let backend = deployed();
    let allow = format!("*,{dead}");
    let settings = [ON, ("http.allow", allow.as_str()), ("jobs.drainTimeout", "0s")];
    let mut agent = names.agent(&backend.url(), backend.token(), &settings);
    let sending = |agent: &Agent, count: usize| agent.log().matches("sending GET to").count() >= count;
    for (count, url) in ["http://nobody.test/".to_owned(), format!("http://[{dead}]/")].iter().enumerate() {
        let id = backend.enqueue(get(url)).expect("queued");
        eventually("it is under way", || sending(&agent, count + 1) && is_running(&backend, &id));
        let cancelled = Instant::now();
        assert!(backend.cancel(&id, Via::Row));
        let row = finished(&backend, &id);
        assert!(cancelled.elapsed() < Duration::from_secs(5), "{url}: {:?}", cancelled.elapsed());
        assert_eq!(report(&row)["status"], "cancelled", "{url}: {row:?}");
        has_words(stderr(&row), &["the job was cancelled by", "the request had not been sent"]);
    }
    for (url, words) in [
        (
            "http://nobody.test/".to_owned(),
            ["the resolver did not answer for nobody.test", "10s (limits::REQUEST_CONNECT)"],
        ),
        (
            format!("http://[{dead}]/"),
            ["the request was not sent: no connection: no answer from", "10s (limits::REQUEST_CONNECT)"],
        ),
    ] {
        let row = finish(&backend, get(&url));
        assert_eq!(row.exit_code, Some(125), "{url}: {row:?}");
        has_words(stderr(&row), &words);
    }
    // Nothing has left: the job is another agent's.
    let id = backend.enqueue(get(&format!("http://[{dead}]/"))).expect("queued");
    eventually("it is under way", || sending(&agent, 5));
    agent.signal("TERM");
    assert_eq!(agent.wait(LONG).code(), Some(4), "{}", agent.log());
    let row = backend.job(&id).expect("the job");
    assert_eq!((row.status, row.terminal_reports()), ("queued", 0), "{row:?}");
}

#[test]
fn in_a_workflow_the_answer_is_the_next_scripts_input() {
    let _machine = shared();
    let site = Site::start(|_| answer("200 OK", &["Content-Type: application/json"], "{\"items\": [1, 2, 3]}"));
    let backend = deployed();
    let agent = start(&backend, &[]);
    let next = "answer = cronium.input()\nprint(answer['status'], answer['headers']['content-type'], sum(answer['body']['items']))";
    let jobs = vec![get(&site.url("/")), job("PYTHON", next)];
    let ids: Vec<String> = jobs.iter().map(|job| job["id"].as_str().expect("an id").to_owned()).collect();
    let edges = vec![Edge { from: ids[0].clone(), to: ids[1].clone(), on: On::Success }];
    backend.enqueue_workflow(jobs, edges).expect("a workflow");
    assert!(backend.wait_for(LONG, |b| b.job(&ids[1]).is_some()), "the job that follows");
    assert_eq!(stdout(&finished(&backend, &ids[1])), "200 application/json 6\n");
    agent.stop();
}

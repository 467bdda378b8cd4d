//! The page on the health port, in a real browser: what it shows, what hostile names cannot do, and what it says when the
//! agent is gone.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cronium_dev_backend::Via;
use serde_json::{Value, json};

use crate::harness::{Agent, Folder, eventually, finish, get, job, shared, with_socket};

/// What Chromium has made of the page after some seconds of virtual time.
fn dom(port: u16) -> String {
    let folder = Folder::new();
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .arg(format!("--user-data-dir={}", folder.path().display()))
        .args(["--virtual-time-budget=9000", "--dump-dom", &format!("http://127.0.0.1:{port}/")])
        .output()
        .expect("chromium: apt-get install chromium");
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && dom.contains("</html>"), "{}", String::from_utf8_lossy(&output.stderr));
    dom
}

/// The whole answer, its head included.
fn raw(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the health port");
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    answer
}

/// The part of the document that is not its style and script.
fn body(dom: &str) -> String {
    let (before, rest) = dom.split_once("<style").expect("a style");
    let after = rest.split_once("</style>").expect("its end").1;
    let (body, rest) = after.split_once("<script").expect("a script");
    format!("{before}{body}{}", rest.split_once("</script>").expect("its end").1)
}

fn named(mut job: Value, name: &str) -> Value {
    job["metadata"]["eventName"] = json!(name);
    job
}

const HOSTILE: [&str; 7] = [
    "<img src=x onerror=\"document.title='broken'\">",
    "</td></table><script>document.title='broken'</script>",
    "\"><svg onload=document.title='broken'>",
    "&lt;b&gt;entities&amp;",
    "<!-- <iframe srcdoc=x>",
    "{{constructor.constructor('x')()}}",
    "\u{202e}backwards \u{1}\u{7f} ]]>",
];

#[test]
fn hostile_names_are_text_in_the_browser_and_nothing_of_a_script_is_shown() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[("redact.environment", "off"), ("jobs.maxConcurrent", "8")]);
    agent.wait_ready();
    let mut talks = named(job("BASH", "echo OUTWORD; echo ERRWORD >&2; exit 3"), "talks");
    talks["execution"]["environment"] = json!({ "NAME": "ENVWORD" });
    finish(&backend, talks);
    for name in HOSTILE {
        finish(&backend, named(job("BASH", "exit 3"), name));
    }
    finish(&backend, named(job("BASH", "true"), &"x".repeat(5000)));
    let id = backend.enqueue(named(job("BASH", "sleep 60"), HOSTILE[0])).expect("queued");
    eventually("it runs", || get(agent.health_port, "/status.json").1.contains("\"phase\":\"running\""));

    let data = get(agent.health_port, "/status.json").1;
    for word in ["OUTWORD", "ERRWORD", "ENVWORD", backend.token()] {
        assert!(!data.contains(word), "{word}: {data}");
    }
    let dom = dom(agent.health_port);
    let body = body(&dom);
    for element in ["<img", "<iframe", "<script", "<svg onload", "<b>"] {
        assert!(!body.contains(element), "{element} came of a name:\n{body}");
    }
    assert!(!body.contains("<title>broken"), "{body}");
    assert!(body.contains("&lt;img src=x onerror="), "{body}");
    assert!(body.contains("&amp;lt;b&amp;gt;entities&amp;amp;"), "{body}");
    assert!(body.contains(&id) && body.contains("running for"), "{body}");
    assert_eq!(body.matches("failed, exit code 3").count(), HOSTILE.len() + 1, "{body}");
    assert!(body.contains("Ready: it claims jobs") && body.contains(&format!("<title>{}</title>", agent.id)), "{body}");
    backend.cancel(&id, Via::Row);
    eventually("it ends", || get(agent.health_port, "/status.json").1.contains("\"status\":\"cancelled\""));
    agent.stop();
}

#[test]
fn the_page_is_read_only_self_contained_and_made_for_everybody() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let page = raw(agent.health_port, "GET /");
    let (head, html) = page.split_once("\r\n\r\n").expect("a head");
    assert!(html.len() <= cronium_agent::limits::PAGE_SIZE, "{}", html.len());
    let policy = head.lines().find_map(|line| line.strip_prefix("Content-Security-Policy: ")).expect("a policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(head.contains("Cache-Control: no-store") && head.contains("X-Content-Type-Options: nosniff"), "{head}");
    for path in ["/", "/status.json"] {
        let alone = raw(agent.health_port, &format!("HEAD {path}"));
        assert!(alone.starts_with("HTTP/1.1 200 ") && alone.ends_with("\r\n\r\n"), "{alone}");
        for method in ["POST", "PUT", "DELETE"] {
            assert!(
                raw(agent.health_port, &format!("{method} {path}")).starts_with("HTTP/1.1 405 "),
                "{method} {path}"
            );
        }
    }
    eventually("two samples", || get(agent.health_port, "/status.json").1.matches("\"jobs\":[0,0").count() == 1);
    let body = body(&dom(agent.health_port));
    assert!(body.contains("<html lang=\"en\">") && body.contains("<main"), "{body}");
    assert_eq!(body.matches("<table>").count(), body.matches("<caption>").count(), "each table has a caption");
    assert!(body.matches("scope=\"col\"").count() >= 10 && body.contains("role=\"status\""), "{body}");
    let lines = ["Running jobs over the last 1 min: now 0, at most 0", "Latency of the backend over the last"];
    assert!(lines.iter().all(|line| body.contains(line)), "{body}");
    assert!(body.contains("No job runs.") && body.contains("No job has ended since the start."), "{body}");
    assert!(!body.contains("does not answer"), "{body}");
    agent.stop();
}

#[test]
fn an_agent_that_does_not_answer_any_more_is_said_so() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let (from, asked) = (agent.health_port, Arc::new(AtomicUsize::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let counted = Arc::clone(&asked);
    // Passes on the page and the first answers; then it closes each connection.
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { return };
            let mut request = [0; 4096];
            let length = client.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let line = request.split(" HTTP/").next().unwrap_or_default().to_owned();
            if line == "GET /status.json" && counted.fetch_add(1, Ordering::SeqCst) >= 2 {
                continue;
            }
            let _ = client.write_all(raw(from, &line).as_bytes());
        }
    });
    let body = body(&dom(port));
    assert!(asked.load(Ordering::SeqCst) > 2, "it asks again and again");
    assert!(body.contains("The agent does not answer since ") && body.contains("What is shown is older."), "{body}");
    assert!(body.contains("<main class=\"old\">") && body.contains(&agent.id), "{body}");
    agent.stop();
}

//! Secrets of a job that its script prints in every way, and every place that they could reach.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use cronium_dev_backend::DevBackend;
use serde_json::{Value, json};

use crate::harness::{
    Agent, LONG, binary, deployed, docker, eventually, finish, finished, job, report, shared, stdout, with_socket,
};
use crate::ssh_rig::Rig;

/// Letters and digits that each spelling of the first secret has in itself, and so what is searched for: as they are, in
/// base64 at its three alignments, in hex.
const TRACES: &[&str] = &[
    "hunter2Sl33p",
    "aHVudGVyMlNsMzNw",
    "1bnRlcjJTbDMzc",
    "odW50ZXIyU2wzM3",
    "68756e74657232536c333370",
    "68756E74657232536C333370",
    // Each line of the second, and what the third has beside the first.
    "firstL1neOfKey",
    "secondL1neOfKey",
    "Zmlyc3RMMW5lT2ZLZX",
    "andMore77",
    // What is known only while the script runs.
    "named-At-Runtime",
    "from-A-Variable",
];

/// Prints the secrets of its environment in the ways in which programs do, between two words that must stay.
const PRINTS: &str = r#"
import base64, json, os, shlex, sys, time
from urllib.parse import quote, quote_plus
one, key, more = os.environ["DEPLOY_TOKEN"], os.environ["SSH_KEY"], os.environ["OTHER_PASSWORD"]
cronium.redact("named-At-Runtime")
found = cronium.getVariable("API_TOKEN")
def say():
    print("visible-begin")
    for text in [one, key, more, found, "named-At-Runtime"]:
        for before in ["", "u", "us", "user:"]:
            for encode in [base64.b64encode, base64.urlsafe_b64encode]:
                print(encode((before + text).encode()).decode())
        print(base64.encodebytes(text.encode()).decode())
        print(quote(text), quote(text, safe=""), quote_plus(text), quote(text).lower(), text.encode().hex(), text.encode().hex().upper())
        print(json.dumps({text: [text]}), json.dumps(text, ensure_ascii=False), shlex.quote(text), repr(text))
        print(text.replace("\n", "\r\n"), text + text, "a" * 70000 + text, sep="\n")
        print("::error file=x::" + text, file=sys.stderr)
        for line in text.splitlines():
            print("  >", line)
    sys.stdout.flush()
    for at in range(1, len(one)):
        sys.stdout.write(one[:at]); sys.stdout.flush()
        if at % 4 == 0: time.sleep(0.3)
        sys.stdout.write(one[at:] + "\n"); sys.stdout.flush()
    print("visible-end", flush=True)
say()
cronium.output({"token": one, one: [key, {"b64": base64.b64encode(("user:" + one).encode()).decode()}], "plain": 7})
"#;

/// In the middle of what it prints, the agent may be killed.
const TWICE: &str = "\ntime.sleep(6)\nsay()\nsys.exit(3)\n";

/// Half of a secret is the very last of it.
const HALF: &str = "\nsys.stdout.write(one[:12])\n";

fn planted(mut job: Value) -> Value {
    job["execution"]["environment"] = json!({
        "DEPLOY_TOKEN": "p'\"$w/ hunter2Sl33p ü&+",
        "SSH_KEY": "-----BEGIN X-----\nfirstL1neOfKey\nsecondL1neOfKey\n-----END X-----\n",
        "OTHER_PASSWORD": "p'\"$w/ hunter2Sl33p ü&+andMore77",
        "SHORT_KEY": "abc",
        "CITY": "visible-city",
    });
    job
}

/// Everything that came to the backend, and everything that the agent keeps or says.
pub struct Sinks(Vec<(String, String)>);

impl Sinks {
    pub fn of(backend: &DevBackend, agent: &Agent, id: &str) -> Self {
        let mut all = vec![("the agent's log".to_owned(), agent.log())];
        for request in backend.requests() {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            all.push((format!("{} {}", request.method, request.target), format!("{}\n{body}", request.target)));
        }
        // All that the backend's database would hold, but for what it was given itself: the jobs.
        if let Some(mut row) = backend.job_json(id) {
            row["payload"].take();
            row["row"]["payload"].take();
            all.push(("the backend's row and executions".to_owned(), row.to_string()));
        }
        let lines = backend.lines(id).into_iter().chain(backend.partial_lines(id));
        all.push(("live lines".to_owned(), lines.map(|line| format!("{}\n", line.text)).collect()));
        let state = agent.state_dir();
        let status =
            binary().args(["status", "--json", "--set"]).arg(format!("state.dir={}", state.display())).output();
        all.push(("status".to_owned(), String::from_utf8_lossy(&status.expect("status").stdout).into_owned()));
        for path in ["/health", "/metrics"] {
            all.push((path.to_owned(), agent.get(path).1));
        }
        files(&state, &mut all);
        Self(all)
    }

    /// The traces of secrets in them, each with its place.
    fn traces(&self) -> Vec<String> {
        let found = |text: &str| TRACES.iter().filter(|trace| text.contains(**trace)).copied().collect::<Vec<_>>();
        self.0
            .iter()
            .filter(|(_, text)| !found(text).is_empty())
            .map(|(place, text)| format!("{place}: {:?}", found(text)))
            .collect()
    }

    pub fn holds(&self, word: &str) -> bool {
        self.0.iter().any(|(_, text)| text.contains(word))
    }
}

fn files(folder: &Path, all: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => files(&path, all),
            false => {
                let text = std::fs::read(&path).unwrap_or_default();
                all.push((path.display().to_string(), String::from_utf8_lossy(&text).into_owned()));
            }
        }
    }
}

fn with_variable(backend: &DevBackend) {
    backend.set_variable("u1", "API_TOKEN", "from-A-Variable");
}

/// All that was said to be visible is there, the result is clean, and so is every place.
fn clean(backend: &DevBackend, agent: &Agent, row: &cronium_dev_backend::JobRow, rounds: usize) {
    let sinks = Sinks::of(backend, agent, &row.id);
    assert_eq!(sinks.traces(), Vec::<String>::new());
    let said = stdout(row);
    assert_eq!(said.matches("visible-begin\n").count(), rounds, "{}", &said[..said.len().min(2000)]);
    assert_eq!(said.matches("visible-end\n").count(), rounds);
    assert!(said.contains("[redacted]"), "{}", &said[..said.len().min(2000)]);
    let output = &report(row)["scriptOutput"];
    assert_eq!((&output["token"], &output["plain"]), (&json!("[redacted]"), &json!(7)), "{output}");
    assert!(sinks.holds("not redacted: SHORT_KEY (its value has fewer than 6 bytes)"));
}

#[test]
fn no_spelling_of_a_secret_leaves_a_container() {
    let _machine = shared();
    for backend in [deployed(), with_socket()] {
        with_variable(&backend);
        let agent = Agent::start(&backend, &[("jobs.maxOutput", "8MB")]);
        let row = finish(&backend, planted(job("PYTHON", &format!("{PRINTS}{HALF}"))));
        assert_eq!(row.exit_code, Some(0), "{}", crate::harness::stderr(&row));
        clean(&backend, &agent, &row, 1);
        assert!(stdout(&row).ends_with("visible-end\n[redacted]"), "half a secret at the very end");
        agent.stop();
    }
}

#[test]
fn a_test_that_searches_for_secrets_finds_them_where_they_are_not_taken_out() {
    let _machine = shared();
    let backend = with_socket();
    with_variable(&backend);
    let agent = Agent::start(
        &backend,
        &[("redact.environment", "off"), ("redact.variables", "NONE_OF_THEM"), ("jobs.maxOutput", "8MB")],
    );
    let script = PRINTS.replace("cronium.redact(\"named-At-Runtime\")", "");
    let row = finish(&backend, planted(job("PYTHON", &script)));
    let live: String = backend.lines(&row.id).iter().map(|line| format!("{}\n", line.text)).collect();
    for trace in TRACES {
        assert!(stdout(&row).contains(trace) && live.contains(trace), "{trace}");
    }
    agent.stop();
}

#[test]
fn a_killed_agent_and_the_next_one_let_no_secret_out() {
    let _machine = shared();
    let backend = with_socket();
    with_variable(&backend);
    let agent = Agent::start(&backend, &[("jobs.maxOutput", "8MB")]);
    let id = backend.enqueue(planted(job("PYTHON", &format!("{PRINTS}{TWICE}")))).expect("queued");
    eventually("the first round", || backend.lines(&id).iter().any(|line| line.text.contains("visible-end")));
    let record = Sinks::of(&backend, &agent, &id);
    assert_eq!(record.traces(), Vec::<String>::new(), "while it runs");
    let agent = agent.again(&backend, &[("jobs.maxOutput", "8MB")]);
    let row = finished(&backend, &id);
    assert_eq!(row.exit_code, Some(3));
    clean(&backend, &agent, &row, 2);
    agent.stop();
}

#[test]
fn after_another_token_nothing_of_the_output_is_shown_unless_the_backend_tells_the_job() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let script = "echo $DEPLOY_TOKEN; echo visible-word; sleep 5; echo $DEPLOY_TOKEN; echo visible-end";
    let id = backend.enqueue(planted(job("BASH", script))).expect("queued");
    eventually("the first line", || !backend.lines(&id).is_empty());
    let agent = agent.again_with(&backend, "another-token", &[]);
    let row = finished(&backend, &id);
    assert_eq!(Sinks::of(&backend, &agent, &id).traces(), Vec::<String>::new());
    // The dev backend tells the job's variables with its row.
    assert!(stdout(&row).contains("[redacted]\nvisible-end"), "{}", stdout(&row));
    agent.stop();
}

#[test]
fn no_spelling_of_a_secret_leaves_a_server_also_through_a_kill() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    with_variable(&rig.backend);
    let id = rig.queue(planted(rig.job("PYTHON", &format!("{PRINTS}{TWICE}"))));
    let seen = |rig: &Rig| rig.backend.lines(&id).iter().any(|line| line.text.contains("visible-end"));
    eventually("the first round", || seen(&rig));
    let rig = rig.again();
    let row = finished(&rig.backend, &id);
    assert_eq!(row.exit_code, Some(3), "{}", crate::harness::stderr(&row));
    clean(&rig.backend, &rig.agent, &row, 2);
    // The login's own key, which the script cannot know, in no sink either.
    let key = rig.sshd.key.text.lines().nth(1).expect("a line of the key").to_owned();
    assert!(!Sinks::of(&rig.backend, &rig.agent, &id).holds(&key));
    rig.stop();
}

#[test]
fn an_answer_that_echoes_a_requests_secrets_comes_without_them() {
    let _machine = shared();
    let ip = docker(&["network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]);
    let listener = TcpListener::bind((ip.as_str(), 0)).expect("a listener");
    let address = listener.local_addr().expect("an address");
    let site = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a request");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let mut head = vec![0; 8192];
        let read = stream.read(&mut head).expect("a head");
        let head = String::from_utf8_lossy(&head[..read]).into_owned();
        let body = json!({ "seen": head, "visible": "visible-body" }).to_string();
        let echo = "X-Echo: Bearer hunter2Sl33p-bearer\r\nContent-Type: application/json\r\n";
        let answer =
            format!("HTTP/1.1 200 OK\r\n{echo}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).expect("an answer");
    });
    let backend = with_socket();
    let allow = format!("{ip}/32");
    let agent = Agent::start(&backend, &[("http.enabled", "true"), ("http.allow", &allow)]);
    let mut asks = job("BASH", "");
    asks["execution"].as_object_mut().expect("an object").remove("script");
    asks["execution"]["http"] = json!({
        "method": "GET",
        "url": format!("http://{address}/p?api_key=hunter2Sl33p-query"),
        "headers": { "Authorization": "Bearer hunter2Sl33p-bearer", "Accept": "visible/accept" },
    });
    asks["metadata"]["originalType"] = json!("HTTP_REQUEST");
    let row = finish(&backend, asks);
    site.join().expect("the site");
    assert_eq!(row.exit_code, Some(0), "{}", crate::harness::stderr(&row));
    let sinks = Sinks::of(&backend, &agent, &row.id);
    assert_eq!(sinks.traces(), Vec::<String>::new());
    let output = report(&row)["scriptOutput"].to_string();
    assert!(output.contains("visible-body") && output.contains("visible/accept"), "{output}");
    assert_eq!(report(&row)["scriptOutput"]["headers"]["x-echo"], json!("[redacted]"), "{output}");
    agent.stop();
}

#[test]
fn helpers_redact_in_each_language_and_exec_does_too() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    for (language, script) in [
        (
            "BASH",
            "cronium_redact named-At-Runtime; printf %s named-At-Runtime2 | cronium.redact; cronium_redact abc; echo 'a named-At-Runtime b named-At-Runtime2'",
        ),
        ("PYTHON", "print(cronium.redact('named-At-Runtime'), cronium.redact('abc'))\nprint('a named-At-Runtime b')"),
        (
            "NODEJS",
            "console.log(cronium.redact('named-At-Runtime'), cronium.redact('abc')); console.log('a named-At-Runtime b')",
        ),
    ] {
        let row = finish(&backend, job(language, script));
        assert_eq!(row.exit_code, Some(0), "{language}: {}", crate::harness::stderr(&row));
        assert!(stdout(&row).contains("a [redacted] b"), "{language}: {}", stdout(&row));
        assert_eq!(Sinks::of(&backend, &agent, &row.id).traces(), Vec::<String>::new(), "{language}");
        if language == "BASH" {
            assert!(crate::harness::stderr(&row).contains("not redacted: it has fewer than 6 bytes"));
        }
    }
    agent.stop();
    let folder = crate::harness::Folder::new();
    let script = folder.path().join("a.sh");
    std::fs::write(&script, "echo \"a $MY_TOKEN b $(printf %s \"$MY_TOKEN\" | base64)\"; cronium_output \"$MY_TOKEN\"")
        .expect("a script");
    let run = |extra: &[&str]| {
        let mut command = binary();
        command.args(["exec", "--json", "-e", "MY_TOKEN=hunter2Sl33p"]).args(extra).arg(&script);
        let output = command.output().expect("exec");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = run(&[]);
    assert!(said.contains("a [redacted] b [redacted]\n") && said.contains("\"output\":\"[redacted]\""), "{said}");
    let said = run(&["--set", "redact.environment=off"]);
    assert!(said.contains("a hunter2Sl33p b aHVudGVyMlNsMzNw\n"), "{said}");
}

#[test]
fn a_secret_that_is_printed_in_halves_with_a_pause_is_shown_by_neither_half_and_a_line_beside_it_is() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let mut halves =
        job("BASH", "echo before; printf 'x hunter2S'; sleep 3; echo 'l33p y'; printf hun; sleep 2; echo gry");
    halves["execution"]["environment"] = json!({ "A_TOKEN": "hunter2Sl33p" });
    let id = backend.enqueue(halves).expect("queued");
    let shown = |text: &str| backend.partial_lines(&id).iter().any(|line| line.text == text);
    // While the script sleeps, the first half is decided.
    let soon = backend.wait_for(LONG, |backend| {
        backend.partial_lines(&id).iter().any(|line| line.text == "x [redacted]")
            || backend.job(&id).is_some_and(|row| row.terminal_reports() > 0)
    });
    assert!(soon && shown("x [redacted]"), "{:?}", backend.partial_lines(&id));
    let row = finished(&backend, &id);
    assert_eq!(stdout(&row), "before\nx [redacted] y\nhungry\n");
    assert!(!Sinks::of(&backend, &agent, &id).holds("hunter2S"));
    agent.stop();
}

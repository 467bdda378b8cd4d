//! The operator's socket: what `status` and `cancel` do to an agent that runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{
    Agent, Folder, LONG, binary, deployed, eventually, finish, finished, job, report, shared, stdout, with_socket,
};

/// `cronium-agent ARGUMENTS` for the agent with this `state.dir`.
fn run(state_dir: &Path, arguments: &[&str]) -> Output {
    let folder = Folder::new();
    let mut command = binary();
    command.current_dir(folder.path()).env("HOME", folder.path()).args(arguments);
    command.arg("--set").arg(format!("state.dir={}", state_dir.display())).output().expect("the binary")
}

/// The same, which must end so; what it printed: stdout, stderr.
fn check(state_dir: &Path, arguments: &[&str], code: i32) -> (String, String) {
    let output = run(state_dir, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{error}");
    (out, error)
}

pub fn status(agent: &Agent) -> Value {
    let (out, _) = check(&agent.state_dir(), &["status", "--json"], 0);
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(&out).expect("JSON")
}

/// The row of a job in the answer to `status`.
pub fn row<'a>(status: &'a Value, id: &str) -> Option<&'a Value> {
    status["jobs"].as_array().expect("jobs").iter().find(|job| job["id"] == id)
}

#[test]
fn the_operator_sees_a_running_job_and_ends_it() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[("jobs.stopGrace", "1s"), ("jobs.maxConcurrent", "3")]);
    let socket = agent.state_dir().join("control.sock");
    agent.wait_ready();
    let kind = std::fs::symlink_metadata(&socket).expect("the socket");
    assert!(kind.file_type().is_socket());
    assert_eq!(kind.permissions().mode() & 0o777, 0o600);
    let (idle, _) = check(&agent.state_dir(), &["status"], 0);
    assert!(idle.contains("ready     yes\nworkers   0 of 3 busy\n") && idle.ends_with("no job runs\n"), "{idle}");

    let id = backend.enqueue(job("BASH", "echo begun; sleep 60; echo never")).expect("queued");
    let other = backend.enqueue(job("BASH", "echo other; sleep 3; echo ended")).expect("queued");
    eventually("both run", || !backend.lines(&id).is_empty() && !backend.lines(&other).is_empty());
    eventually("an age of a second", || {
        row(&status(&agent), &id).is_some_and(|row| row["ageSeconds"].as_u64() >= Some(1))
    });
    let now = status(&agent);
    assert_eq!((&now["ok"], &now["ready"], &now["whyNot"]), (&true.into(), &true.into(), &Value::Null));
    assert_eq!((&now["agent"]["id"], &now["agent"]["pid"]), (&agent.id.as_str().into(), &agent.pid().into()));
    assert_eq!((&now["pool"]["workers"], &now["pool"]["busy"]), (&3.into(), &2.into()));
    assert_eq!((&now["liveLog"]["connected"], &now["breakers"]), (&true.into(), &Value::Array(Vec::new())));
    let seen = row(&now, &id).expect("the job");
    assert_eq!((&seen["kind"], &seen["cancelledBy"]), (&"container".into(), &Value::Null));
    let (table, _) = check(&agent.state_dir(), &["status"], 0);
    assert!(table.contains("workers   2 of 3 busy\n"), "{table}");
    let line = table.lines().find(|line| line.starts_with(&id)).expect("a line of the job");
    assert!(line.split_whitespace().any(|word| word.ends_with('s') && word.len() < 4), "no age in {line}");

    let begun = Instant::now();
    let (_, told) = check(&agent.state_dir(), &["cancel", &id], 0);
    assert!(told.contains(&format!("job {id} was told to end")), "{told}");
    let ended = finished(&backend, &id);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!((report(&ended)["status"].as_str(), stdout(&ended)), (Some("cancelled"), "begun\n"));
    assert!(report(&ended).to_string().contains("the operator"), "{}", report(&ended));
    assert!(agent.log().contains(&format!("job {id} is cancelled by the operator (user ")));
    // The other was left alone.
    let ended = finished(&backend, &other);
    assert_eq!((ended.exit_code, stdout(&ended)), (Some(0), "other\nended\n"));
    eventually("no running job", || status(&agent)["jobs"] == Value::Array(Vec::new()));
    assert_eq!(backend.job(&id).expect("row").terminal_reports(), 1);

    for unknown in [id.as_str(), "job_of_nobody"] {
        let (_, error) = check(&agent.state_dir(), &["cancel", unknown], 1);
        assert!(error.contains(&format!("job {unknown} does not run here")), "{error}");
    }
    agent.stop();
    assert!(!socket.exists(), "the socket was left behind");
}

#[test]
fn no_page_of_the_control_socket_is_on_tcp() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let id = backend.enqueue(job("BASH", "echo begun; sleep 2; echo ended")).expect("queued");
    eventually("it runs", || !backend.lines(&id).is_empty());
    let socket = agent.state_dir().join("control.sock");
    let ask = |tcp: bool, method: &str, path: &str| {
        let mut text = String::new();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        let mut talk = |stream: &mut dyn ReadWrite| {
            stream.write_all(request.as_bytes()).expect("write");
            stream.read_to_string(&mut text).expect("read");
        };
        match tcp {
            true => talk(&mut TcpStream::connect(("127.0.0.1", agent.health_port)).expect("connect")),
            false => talk(&mut UnixStream::connect(&socket).expect("connect")),
        }
        text[9..12].parse::<u16>().expect("a status")
    };
    // Over TCP first: had one of them an effect, the job would not end by itself.
    for (method, path) in [("GET", "/status"), ("POST", "/reload"), ("POST", &format!("/jobs/{id}/cancel"))] {
        for method in [method, "GET", "POST", "HEAD", "PUT"] {
            assert_eq!(ask(true, method, path), 404, "{method} {path} over TCP");
        }
    }
    for path in ["/health", "/ready", "/live", "/metrics"] {
        assert_eq!((ask(true, "GET", path), ask(false, "GET", path)), (200, 404), "{path}");
    }
    let ended = finished(&backend, &id);
    assert_eq!((ended.exit_code, stdout(&ended)), (Some(0), "begun\nended\n"));

    let id = backend.enqueue(job("BASH", "echo begun; sleep 60")).expect("queued");
    eventually("it runs", || !backend.lines(&id).is_empty());
    assert_eq!((ask(false, "GET", "/status"), ask(false, "POST", "/reload")), (200, 200));
    assert_eq!(ask(false, "GET", &format!("/jobs/{id}/cancel")), 405);
    assert_eq!(ask(false, "POST", &format!("/jobs/{id}/cancel")), 200);
    assert_eq!(report(&finished(&backend, &id))["status"], "cancelled");
    eventually("the reload", || status(&agent)["reload"]["result"] == "unchanged");
    agent.stop();
}

/// Either kind of stream.
trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

#[test]
fn without_an_agent_the_socket_that_was_tried_is_named() {
    let folder = Folder::new();
    let socket = folder.path().join("control.sock");
    for arguments in [&["status"][..], &["status", "--json"], &["cancel", "job_x"]] {
        let (out, error) = check(folder.path(), arguments, 1);
        assert_eq!(out, "");
        assert!(error.contains(&format!("no agent runs at {}", socket.display())), "{error}");
        assert!(error.contains("systemctl start cronium-agent"), "{error}");
    }
    let (_, error) = check(&folder.path().join("x".repeat(100)), &["status"], 1);
    assert!(error.contains("the kernel takes 107"), "{error}");
}

#[test]
fn an_agent_takes_the_place_of_a_dead_one_and_not_of_a_living_one() {
    let _machine = shared();
    let backend = deployed();
    let mut dead = Agent::start(&backend, &[]);
    dead.wait_ready();
    let state = dead.state_dir();
    dead.signal("KILL");
    dead.wait(LONG);
    check(&state, &["status"], 1);
    assert!(state.join("control.sock").exists(), "a killed agent takes nothing away");
    let setting = [("state.dir", state.to_str().expect("text"))];
    let next = Agent::start(&backend, &setting);
    next.wait_ready();
    // A client that connects and is silent keeps nobody out.
    let silent: Vec<_> = (0..20).map(|_| UnixStream::connect(state.join("control.sock")).expect("connect")).collect();
    let (out, _) = check(&state, &["status", "--json"], 0);
    assert!(out.contains(&format!("\"pid\":{}", next.pid())), "{out}");
    drop(silent);

    let mut second = Agent::start(&backend, &setting);
    assert_eq!(second.wait(LONG).code(), Some(1));
    assert!(second.log().contains(&next.pid().to_string()), "the first one is not named: {}", second.log());
    let (out, _) = check(&state, &["status", "--json"], 0);
    assert!(out.contains(&format!("\"pid\":{}", next.pid())), "{out}");
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    next.stop();
}

/// Needs root, to be somebody else for a moment.
#[test]
fn another_user_is_turned_away_even_where_the_modes_would_let_him_in() {
    let _machine = shared();
    let (backend, folder) = (deployed(), Folder::new());
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    // The build's own folder may be closed to others.
    let copy = folder.path().join("cronium-agent");
    std::fs::copy(binary().get_program(), &copy).expect("a copy");
    let state = agent.state_dir();
    let ask = || {
        let mut command = std::process::Command::new(&copy);
        command.arg("status").arg("--set").arg(format!("state.dir={}", state.display()));
        let output = command.env_clear().current_dir("/").uid(65534).gid(65534).output().expect("run it as root");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), output.stdout.len())
    };
    let (code, error, printed) = ask();
    assert_eq!((code, printed), (Some(1), 0), "{error}");
    assert!(error.contains("only root and the agent's user may"), "{error}");
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o755)).expect("mode");
    std::fs::set_permissions(state.join("control.sock"), PermissionsExt::from_mode(0o666)).expect("mode");
    let (code, error, printed) = ask();
    assert_eq!((code, printed), (Some(1), 0), "{error}");
    assert!(error.contains("user 65534 may not ask"), "{error}");
    check(&state, &["status"], 0);
    agent.stop();
}

#[test]
fn an_agent_whose_socket_cannot_be_made_still_runs_jobs() {
    let _machine = shared();
    let backend = deployed();
    let folder = Folder::new();
    let state = folder.path().join("d".repeat(110));
    let agent = Agent::start(&backend, &[("state.dir", state.to_str().expect("text"))]);
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    assert!(agent.log().contains("the kernel takes 107"), "{}", agent.log());
    agent.stop();
}

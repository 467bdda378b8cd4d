//! Connects that are never answered: an engine whose queue is full, an IPv6 address that swallows packets beside an IPv4
//! address that lives, a name server that says nothing.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::engine::tcp_engine;
use crate::harness::{
    Agent, Folder, LONG, binary, binary_behind, deployed, engine_socket, eventually, finish, finished, job, record,
    shared, stderr, stdout, with_socket,
};
use crate::ssh_rig::{details, has_words, said, server_job};
use crate::sshd::Sshd;
use crate::sshd_faults::Network;

/// How long anything may take that waits for one connect: every limit of a connect is 10 s at most.
const CONNECT: Duration = Duration::from_secs(10);

/// A program that listens on a Unix socket, takes nobody, and has filled its own queue.
const FROZEN: &str = "
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(1)
queued = []
try:
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        client.connect(sys.argv[1])
        queued.append(client)
except BlockingIOError:
    print('full', flush=True)
time.sleep(600)
";

/// An engine that is there and takes no connection; ended with its owner.
struct Frozen {
    child: Child,
    path: PathBuf,
}

impl Frozen {
    fn start(folder: &Path) -> Self {
        let path = folder.join("frozen.sock");
        let mut command = Command::new("python3");
        command.args(["-c", FROZEN]).arg(&path).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3: apt-get install python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
        assert_eq!(line, "full\n");
        Self { child, path }
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.path.display())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host with its own names and name server, for the programs started in it.
pub struct Names {
    folder: Folder,
}

impl Names {
    /// `hosts` and `resolver` are what stands in /etc/hosts and /etc/resolv.conf.
    pub fn new(hosts: &str, resolver: &str) -> Self {
        let folder = Folder::new();
        std::fs::write(folder.path().join("hosts"), format!("127.0.0.1 localhost\n{hosts}")).expect("hosts");
        std::fs::write(folder.path().join("resolv.conf"), resolver).expect("resolv.conf");
        Self { folder }
    }

    /// A command line that ends in executing what comes after it, with these files in the place of the machine's.
    pub fn before(&self) -> Vec<String> {
        let folder = self.folder.path().display();
        let mounts = format!(
            "mount --bind {folder}/hosts /etc/hosts && mount --bind {folder}/resolv.conf /etc/resolv.conf && exec \"$@\""
        );
        ["unshare", "--mount", "sh", "-c", &mounts, "sh"].map(str::to_owned).to_vec()
    }

    fn binary(&self) -> Command {
        let before = self.before();
        binary_behind(&before.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn agent(&self, url: &str, token: &str, settings: &[(&str, &str)]) -> Agent {
        let before = self.before();
        Agent::start_behind(&before.iter().map(String::as_str).collect::<Vec<_>>(), url, token, settings)
    }
}

/// Runs a command to its end, which comes within `limit`; else it is killed, and that is a failure.
fn ends_within(limit: Duration, command: &mut Command) -> Output {
    let begun = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
    let pid = child.id();
    let waiter = std::thread::spawn(move || child.wait_with_output().expect("its output"));
    while !waiter.is_finished() {
        if begun.elapsed() > limit {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            panic!("{command:?} did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    waiter.join().expect("its output")
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn an_engine_that_takes_no_connection_hangs_no_command() {
    let _machine = shared();
    let folder = Folder::new();
    let frozen = Frozen::start(folder.path());
    let script = folder.path().join("a.sh");
    std::fs::write(&script, "echo never").expect("write");
    let set = format!("container.docker.endpoint={}", frozen.endpoint());
    let state = format!("state.dir={}", folder.path().join("state").display());
    let command = |arguments: &[&str]| {
        let mut command = binary();
        command.args(arguments).args(["--set", &set, "--set", &state, "--set", "api.endpoint=http://127.0.0.1:9"]);
        command.env("CRONIUM_API_TOKEN", "x").env("HOME", folder.path()).current_dir(folder.path());
        command
    };
    let words = ["frozen.sock", "its queue was full", "5s (limits::DOCKER_CONNECT)", "systemctl status docker"];
    let output = ends_within(CONNECT, &mut command(&["gc"]));
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    has_words(&text(&output), &words);
    // A few calls to the engine each.
    let output = ends_within(CONNECT * 3, command(&["exec"]).arg(&script));
    assert!(!output.status.success(), "{}", text(&output));
    has_words(&text(&output), &words);
    let output = ends_within(CONNECT * 6, &mut command(&["doctor"]));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    has_words(&text(&output), &words);
}

#[test]
fn an_agent_whose_engine_takes_no_connection_says_so_and_ends_when_it_is_told_to() {
    let _machine = shared();
    let (backend, folder) = (deployed(), Folder::new());
    let frozen = Frozen::start(folder.path());
    let socket = folder.path().join("engine.sock");
    std::os::unix::fs::symlink(&frozen.path, &socket).expect("link");
    let endpoint = format!("unix://{}", socket.display());
    let id = backend.enqueue(job("BASH", "echo thawed")).expect("queued");
    let mut agent = Agent::start(&backend, &[("container.docker.endpoint", &endpoint)]);
    eventually("the reason", || {
        let up = std::net::TcpStream::connect(("127.0.0.1", agent.health_port)).is_ok();
        up && agent.get("/ready").1.contains("its queue was full")
    });
    let (status, ready) = agent.get("/ready");
    assert!(status == 503 && ready.contains("limits::DOCKER_CONNECT"), "{status} {ready}");
    std::thread::sleep(CONNECT);
    assert!(agent.is_alive(), "{}", agent.log());
    assert_eq!(backend.job(&id).expect("row").claims, 0);
    // It recovers by itself.
    relink(&socket, &engine_socket());
    assert_eq!(stdout(&finished(&backend, &id)), "thawed\n");
    // The report does not wait for the removal, which needs the engine.
    eventually("its container is gone", || agent.containers().is_empty());
    relink(&socket, &frozen.path);
    eventually("the reason again", || agent.get("/ready").1.contains("its queue was full"));
    let begun = Instant::now();
    agent.signal("TERM");
    let status = agent.wait(LONG);
    assert_eq!(status.code(), Some(0), "{}", agent.log());
    assert!(begun.elapsed() < CONNECT * 2, "it took {:?}", begun.elapsed());
    assert!(!agent.log().contains("left behind"), "{}", agent.log());
}

/// Has a link lead elsewhere, in one step.
fn relink(link: &Path, to: &Path) {
    let beside = link.with_extension("new");
    std::os::unix::fs::symlink(to, &beside).expect("link");
    std::fs::rename(&beside, link).expect("rename");
}

#[test]
fn a_job_whose_engine_freezes_is_ended_by_its_timeout_when_the_engine_is_back() {
    let _machine = shared();
    let (backend, folder) = (with_socket(), Folder::new());
    let frozen = Frozen::start(folder.path());
    let socket = folder.path().join("engine.sock");
    std::os::unix::fs::symlink(engine_socket(), &socket).expect("link");
    let endpoint = format!("unix://{}", socket.display());
    let agent = Agent::start(&backend, &[("container.docker.endpoint", &endpoint), ("jobs.stopGrace", "1s")]);
    let mut long = job("BASH", "echo begun; sleep 300");
    long["execution"]["timeout"] = json!(4_000_000_000_u64);
    let id = backend.enqueue(long).expect("queued");
    eventually("the first line", || backend.line_sums(&id).is_some_and(|sums| sums.counts[0] > 0));
    // The calls that stop the job meet the full queue.
    relink(&socket, &frozen.path);
    std::thread::sleep(Duration::from_secs(9));
    relink(&socket, &engine_socket());
    let begun = Instant::now();
    let row = finished(&backend, &id);
    assert!(begun.elapsed() < CONNECT * 2, "it took {:?}", begun.elapsed());
    assert_eq!(stdout(&row), "begun\n");
    assert!(record(&backend, &row).to_string().contains("timeout"), "{}", stderr(&row));
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo next"))), "next\n");
    agent.stop();
}

#[test]
fn an_ipv6_address_that_swallows_packets_costs_a_moment() {
    let _machine = shared();
    let (backend, sshd) = (with_socket(), Sshd::start_in_netns());
    let dead = sshd.network.as_ref().expect("a network").dead_address();
    let names = Names::new(
        &format!(
            "{dead} backend.test\n127.0.0.1 backend.test\n{dead} engine.test\n127.0.0.1 engine.test\n\
             {dead} server.test\n{} server.test\n",
            sshd.host
        ),
        "",
    );
    let known = sshd.path("known_hosts");
    let line = format!("[server.test]:{} {}\n", sshd.port, sshd.public_host_key("ed25519"));
    std::fs::write(&known, line).expect("known_hosts");
    let url = backend.url().replace("127.0.0.1", "backend.test");
    assert!(url.contains("backend.test"), "{url}");
    let engine = format!("tcp://engine.test:{}", tcp_engine());
    let temp_dir = sshd.temp_dir();
    let settings = [
        ("container.docker.endpoint", engine.as_str()),
        ("ssh.security.knownHostsFile", known.to_str().expect("text")),
        ("ssh.execution.tempDir", temp_dir.to_str().expect("text")),
    ];
    let begun = Instant::now();
    let agent = names.agent(&url, backend.token(), &settings);
    agent.wait_ready();
    eventually("the live log is connected", || agent.metric("cronium_websocket_connected") == Some(1.0));
    assert!(begun.elapsed() < CONNECT, "it took {:?} to come up: {}", begun.elapsed(), agent.log());

    let row = finish(&backend, job("BASH", "echo in a container"));
    assert_eq!(stdout(&row), "in a container\n");
    let begun = Instant::now();
    let mut details = details(&sshd, "server");
    details["host"] = json!("server.test");
    let row = finish(&backend, server_job(&details, "BASH", "echo on a server"));
    assert_eq!(stdout(&row), "on a server\n", "{}", said(&backend, &row));
    assert!(begun.elapsed() < CONNECT, "it took {:?}", begun.elapsed());
    agent.stop();
}

#[test]
fn a_name_server_that_does_not_answer_costs_each_connect_its_limit() {
    let _machine = shared();
    let network = Network::new();
    let dead = network.dead_address();
    let names = Names::new("", &format!("nameserver {dead}\noptions timeout:30 attempts:5\n"));
    let folder = Folder::new();
    let state = format!("state.dir={}", folder.path().join("state").display());
    let command = |arguments: &[&str]| {
        let mut command = names.binary();
        command.args(arguments).args(["--set", &state]).env("CRONIUM_API_TOKEN", "x");
        command.env("HOME", folder.path()).current_dir(folder.path());
        command
    };
    let late = "the resolver did not answer for nobody.test within";
    let gc =
        ["gc", "--set", "container.docker.endpoint=tcp://nobody.test:2375", "--set", "api.endpoint=http://[::1]:9"];
    let output = ends_within(CONNECT, &mut command(&gc));
    has_words(&text(&output), &[&format!("{late} 5s (limits::DOCKER_CONNECT)"), "/etc/resolv.conf"]);
    let doctor =
        ["doctor", "--set", "container.docker.endpoint=unix:///nowhere", "--set", "api.endpoint=http://nobody.test:9"];
    let output = ends_within(CONNECT * 4, &mut command(&doctor));
    has_words(&text(&output), &[&format!("{late} 5s (limits::DOCTOR_DNS)")]);

    // An agent whose backend has that name: calls and the live log.
    let settings = [("api.timeout", "4s"), ("container.network.mode", "none")];
    let mut agent = names.agent("http://nobody.test:9", "x", &settings);
    for words in ["1s (a quarter of api.timeout)", "10s (limits::LOG_CONNECT)"] {
        eventually(words, || agent.log().contains(&format!("{late} {words}")));
    }
    // Lookups that hang do not add up.
    std::thread::sleep(CONNECT);
    let lookups = std::fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("threads").flatten();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let lookups = lookups.map(name).filter(|name| name.trim() == "resolve").count();
    assert!((1..=16).contains(&lookups), "{lookups} lookups");
    let begun = Instant::now();
    agent.signal("TERM");
    agent.wait(LONG);
    assert!(begun.elapsed() < CONNECT * 2, "it took {:?}", begun.elapsed());

    // A server by that name.
    let backend = deployed();
    let agent = names.agent(&backend.url(), backend.token(), &[("ssh.connectionPool.connectionTimeout", "2s")]);
    let server = json!({ "id": "3", "name": "s", "host": "nobody.test", "port": 22, "username": "u", "password": "p" });
    let row = finish(&backend, server_job(&server, "BASH", "true"));
    has_words(&said(&backend, &row), &[&format!("{late} 2s (ssh.connectionPool.connectionTimeout)")]);
    agent.stop();
}

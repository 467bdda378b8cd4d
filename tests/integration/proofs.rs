//! Proofs of the walls around jobs: with real packets, and by the agent while it runs.

use std::time::{Duration, Instant};

use crate::doctor::json;
use crate::engine_proxy::{Break, Proxy};
use crate::engine_restart::Engine;
use crate::harness::{
    Agent, Folder, LONG, PROVING, alone, binary, deployed, docker, eventually, finish, finished, job, stderr, stdout,
    with_socket,
};

const BASH: &str = "cronium/runner:bash-alpine";
const PYTHON: &str = "cronium/runner:python-alpine";

/// Answers each question that no such name exists, and writes it down.
const NAME_SERVER: &str = r#"
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.77", 53))
open(sys.argv[1], "w").close()
while True:
    asked, peer = server.recvfrom(2048)
    with open(sys.argv[1], "ab") as file:
        file.write(asked[12:] + b"\n")
    server.sendto(asked[:2] + b"\x81\x83" + asked[4:6] + bytes(6) + asked[12:], peer)
"#;

#[test]
fn a_job_on_an_internal_network_gets_no_name_resolved() {
    let _machine = alone();
    let folder = Folder::new();
    let place = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(place("server.py"), NAME_SERVER).expect("write");
    std::fs::write(place("resolv.conf"), "nameserver 127.0.0.77\n").expect("write");
    let (server, conf, asked) = (place("server.py"), place("resolv.conf"), place("asked"));
    // The engine's host has its name server on its loopback, as with systemd-resolved.
    let before = format!(
        "ip link set lo up; mount --bind {conf} /etc/resolv.conf\n\
         setpriv --pdeathsig KILL python3 {server} {asked} &\n\
         while [ ! -e {asked} ]; do sleep 0.1; done"
    );
    let engine = Engine::start_after(false, &before, &[BASH, PYTHON]);
    let questions = || String::from_utf8_lossy(&std::fs::read(&asked).expect("read")).into_owned();

    // A container without the wall: the engine asks for it, from outside its network.
    engine.docker(&["network", "create", "--internal", "open"]);
    let resolve = "import socket\ntry: socket.getaddrinfo('control.invalid', 80)\nexcept OSError: pass";
    engine.docker(&["run", "--rm", "--network", "open", "--entrypoint", "python3", PYTHON, "-c", resolve]);
    eventually("the host's name server is asked", || questions().contains("control"));

    let (backend, host) = (deployed(), engine.host());
    let internal = [("container.docker.endpoint", host.as_str()), ("container.network.internal", "true")];
    let report = json(&backend, &internal);
    let check = report.check("proof-dns");
    assert_ne!(check["result"], "fail", "{check:#}");
    assert!(check["measured"].as_str().is_some_and(|text| text.contains("no name server answers a job")), "{check:#}");
    assert!(!questions().contains("proof-"), "{:?}", questions());
}

const REQUIRED: (&str, &str) = ("jobs.requireProof", "require");
const ENGINES: (&str, &str) = ("container.security.seccompProfile", "engine");

/// What `/health` says of the proofs.
fn health(agent: &Agent) -> serde_json::Value {
    let all: serde_json::Value = serde_json::from_str(&agent.get("/health").1).expect("JSON");
    all["components"]["proofs"].clone()
}

fn proven(agent: &Agent) -> usize {
    agent.log().matches("proof of the walls around jobs: ").count()
}

/// What `status` prints.
fn status(agent: &Agent) -> String {
    let mut command = binary();
    command.args(["status", "--set", "api.endpoint=http://127.0.0.1:1", "--set"]);
    let output = command.arg(format!("state.dir={}", agent.state().display())).output().expect("status");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn by_default_the_walls_are_proven_soon_after_the_start() {
    let _machine = alone();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING]);
    agent.wait_ready();
    // The first claim does not wait for it.
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    eventually("a proof", || health(&agent)["details"]["result"] == "all hold");
    assert_eq!((health(&agent)["status"].as_str(), agent.get("/health").0), (Some("healthy"), 200));
    assert_eq!(agent.metric("cronium_proof_walls_failed"), Some(0.0));
    assert!(agent.metric("cronium_proof_age_seconds").is_some_and(|age| age < 60.0));
    assert!(status(&agent).contains("proofs    all walls around jobs held "), "{}", status(&agent));
    let log = agent.log();
    let line = log.lines().find(|line| line.contains("proof of the walls around jobs: 13 of 13 hold")).expect("a line");
    let used = line.split(" s of one core").next().and_then(|text| text.rsplit(' ').next()).expect("a figure");
    let used: f64 = used.parse().expect("seconds");
    eprintln!("{line}");
    assert!(used > 0.1 && used < 15.0, "{line}");
    assert_eq!(agent.containers(), Vec::<String>::new());
    agent.stop();
}

#[test]
fn a_wall_that_the_configuration_opens_is_told_and_keeps_the_agent_from_claiming() {
    let _machine = alone();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING, ENGINES]);
    agent.wait_ready();
    eventually("open walls", || agent.metric("cronium_proof_walls_failed").is_some_and(|count| count >= 2.0));
    assert!(agent.log().contains("a wall around jobs was not found standing: proof-kernel: "));
    assert_eq!(health(&agent)["status"], "degraded", "{}", health(&agent));
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));

    let agent = agent.again(&backend, &[REQUIRED, ENGINES]);
    agent.wait_port();
    let words = "proof-kernel: a script can make ";
    eventually("the wall by its name", || agent.get("/ready").1.contains(words));
    let waiting = backend.enqueue(job("BASH", "echo now")).expect("queued");
    let (code, why) = agent.get("/ready");
    assert_eq!(code, 503);
    for text in [why.as_str(), &health(&agent).to_string(), &status(&agent), &agent.log()] {
        assert!(text.contains(words) && text.contains("seccompProfile: builtin"), "{text}");
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(backend.job(&waiting).expect("row").claims, 0);

    // With the wall closed it claims.
    let agent = agent.again(&backend, &[REQUIRED]);
    assert_eq!(stdout(&finished(&backend, &waiting)), "now\n");
    assert_eq!((agent.get("/ready").0, proven(&agent)), (200, 3));
    agent.stop();
}

#[test]
fn an_engine_that_was_restarted_is_proven_anew() {
    let _machine = alone();
    let backend = deployed();
    let mut engine = Engine::start_after(false, "", &[BASH, PYTHON]);
    let host = engine.host();
    let settings = [("container.docker.endpoint", host.as_str()), ("container.network.mode", "none"), REQUIRED];
    let agent = Agent::start(&backend, &settings);
    agent.wait_ready();
    assert_eq!(proven(&agent), 1, "{}", agent.log());
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    engine.down("TERM");
    engine.up();
    let waiting = backend.enqueue(job("BASH", "echo again")).expect("queued");
    eventually("a further proof", || proven(&agent) == 2);
    assert_eq!(stdout(&finished(&backend, &waiting)), "again\n");
    let log = agent.log();
    assert!(log.contains("the engine was restarted since the last proof of the walls around jobs"), "{log}");
    agent.stop();
}

#[test]
fn a_proof_that_is_too_old_ends_the_claims() {
    let _machine = alone();
    let (backend, proxy) = (deployed(), Proxy::start());
    let endpoint = proxy.endpoint();
    let settings = [
        ("container.docker.endpoint", endpoint.as_str()),
        REQUIRED,
        ("jobs.proofMaxAge", "30s"),
        ("jobs.setupTimeout", "5s"),
    ];
    let agent = Agent::start(&backend, &settings);
    agent.wait_ready();
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    // Those that prove it anew do not come to their start.
    proxy.break_calls("POST", "/containers/create", u32::MAX, Break::Answer(b"HTTP/1.1 500 X\r\n\r\n".to_vec()));
    let begun = Instant::now();
    eventually("no claims", || agent.get("/ready").1.contains("s old, jobs.proofMaxAge is 30s"));
    assert!(begun.elapsed() > Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(agent.log().contains("could not be proven anew; the last proof counts"), "{}", agent.log());
    assert_eq!(health(&agent)["details"]["result"], "old");
    let waiting = backend.enqueue(job("BASH", "echo now")).expect("queued");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(backend.job(&waiting).expect("row").claims, 0);
    agent.stop();
}

#[test]
fn no_canary_flies_while_a_job_waits_for_a_worker() {
    let _machine = alone();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[PROVING, ("jobs.maxConcurrent", "1")]);
    agent.wait_ready();
    let long = backend.enqueue(job("BASH", "echo begun; sleep 9")).expect("queued");
    eventually("it runs", || !backend.lines(&long).is_empty());
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        assert!(agent.containers().len() <= 1, "a canary beside a job that has the only worker");
        std::thread::sleep(Duration::from_millis(100));
    }
    finished(&backend, &long);
    // Its own container may outlive its report for a moment. A job that comes while they fly has the host for itself.
    let canary = |(_, name): &(String, String)| name.starts_with("cronium-proof-");
    eventually("canaries fly", || agent.containers_by_name().iter().any(canary));
    let row = finish(&backend, job("BASH", "sleep 2; echo $?"));
    assert_eq!((stdout(&row), row.exit_code), ("0\n", Some(0)), "{}", stderr(&row));
    assert!(agent.log().contains("the canaries were ended by the jobs"), "{}", agent.log());
    assert_eq!(proven(&agent), 0);
    agent.stop();
}

#[test]
fn switched_off_none_is_made() {
    let _machine = alone();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("jobs.requireProof", "off")]);
    agent.wait_ready();
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        assert_eq!(agent.containers(), Vec::<String>::new());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(health(&agent)["details"]["result"], "none is made");
    assert_eq!((agent.metric("cronium_proof_age_seconds"), proven(&agent)), (None, 0));
    assert!(status(&agent).contains("proofs    none is made (jobs.requireProof: off)"), "{}", status(&agent));
    agent.stop();
}

#[test]
fn a_canary_that_a_kill_left_is_removed_by_the_next_agent() {
    let _machine = alone();
    let backend = deployed();
    let mut agent = Agent::start(&backend, &[PROVING]);
    eventually("canaries fly", || agent.containers().len() >= 3);
    agent.signal("KILL");
    agent.wait(LONG);
    // The list, since one that the kill left half made is in it and is not known by its id.
    let own = format!("label=cronium.agent.id={}", agent.id);
    let left = docker(&["ps", "-a", "--filter", &own, "--format", "{{.Names}} {{.Labels}}"]);
    assert!(left.contains("proof-") && !left.contains("cronium.job.id"), "{left}");
    let agent = agent.again(&backend, &[("jobs.requireProof", "off")]);
    agent.wait_ready();
    eventually("they are gone", || agent.containers().is_empty());
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    agent.stop();
}

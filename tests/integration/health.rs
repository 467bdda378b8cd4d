//! What a supervisor, an operator and a Prometheus see; and what a hostile client cannot do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Agent, Folder, LONG, alone, binary, deployed, eventually, finish, job, shared, with_socket};
use crate::scraper::Prometheus;

#[test]
fn health_has_its_shape_and_turns_with_the_backend() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[("jobs.leaseRenewal", "1s"), ("api.timeout", "2s")]);
    agent.wait_ready();
    eventually("all components", || agent.get("/health").1.contains("\"websocket\":{\"status\":\"healthy\""));
    let (code, body) = agent.get("/health");
    let health: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((code, &health["status"]), (200, &json!("healthy")), "{body}");
    assert!(health["timestamp"].as_str().is_some_and(|at| at.ends_with('Z') && at.len() == 20), "{body}");
    let docker = &health["components"]["docker"];
    assert_eq!(docker["status"], "healthy");
    assert!(docker["details"]["version"].is_string() && docker["details"]["containers"].is_u64(), "{body}");
    let latency = health["components"]["api"]["details"]["latency"].as_str().expect("latency");
    assert!(latency.strip_suffix("ms").is_some_and(|n| n.parse::<u32>().is_ok()), "{latency}");
    assert_eq!(health["components"]["disk"]["status"], "healthy");
    assert_eq!(agent.get("/live").0, 200);

    backend.refuse(Duration::from_secs(8));
    eventually("unhealthy", || agent.get("/health").0 == 503);
    let health: Value = serde_json::from_str(&agent.get("/health").1).expect("JSON");
    assert_eq!((&health["status"], &health["components"]["api"]["status"]), (&json!("unhealthy"), &json!("unhealthy")));
    assert_eq!(agent.get("/live").0, 200);
    eventually("healthy again", || agent.get("/health").0 == 200);
    agent.stop();
}

#[test]
fn a_full_disk_means_no_claims_and_says_so() {
    let _machine = shared();
    let backend = deployed();
    let id = backend.enqueue(job("BASH", "true")).expect("queued");
    let agent = Agent::start(&backend, &[("state.minFreeDisk", "900000GB")]);
    eventually("the reason", || {
        TcpStream::connect(("127.0.0.1", agent.health_port)).is_ok() && agent.get("/ready").1.contains("minFreeDisk")
    });
    assert_eq!(agent.get("/ready").0, 503);
    eventually("skipped polls", || agent.metric("cronium_polls_total{result=\"skipped\"}") >= Some(3.0));
    assert_eq!(backend.job(&id).expect("row").claims, 0);
    assert_eq!(agent.metric("cronium_agent_ready"), Some(0.0));
    agent.stop();
}

/// A file system with room for few files, unmounted with its owner.
struct FewFiles(Folder);

impl FewFiles {
    fn new() -> Self {
        let folder = Folder::new();
        let options = ["-t", "tmpfs", "-o", "size=1g,nr_inodes=900", "tmpfs"];
        let done = Command::new("mount").args(options).arg(folder.path()).output().expect("mount");
        assert!(done.status.success(), "this test mounts and has to run as root: {done:?}");
        Self(folder)
    }
}

impl Drop for FewFiles {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_disk_without_inodes_means_no_claims_and_says_so() {
    let _machine = shared();
    let (backend, disk) = (deployed(), FewFiles::new());
    let id = backend.enqueue(job("BASH", "true")).expect("queued");
    let state = disk.0.path().join("state");
    let agent = Agent::start(&backend, &[("state.dir", state.to_str().expect("text"))]);
    eventually("the reason", || {
        TcpStream::connect(("127.0.0.1", agent.health_port)).is_ok()
            && agent.get("/ready").1.contains("MIN_FREE_INODES")
    });
    assert_eq!(agent.get("/ready").0, 503);
    eventually("skipped polls", || agent.metric("cronium_polls_total{result=\"skipped\"}") >= Some(3.0));
    assert_eq!(backend.job(&id).expect("row").claims, 0);
    let inodes = agent.metric("cronium_disk_free_inodes{path=\"state\"}").expect("known");
    assert!((800.0..900.0).contains(&inodes), "{inodes}");
    agent.stop();
}

#[test]
fn a_taken_port_is_told_with_what_to_do() {
    let _machine = shared();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("address").port();
    let folder = Folder::new();
    let output = binary()
        .args(["run", "--set", "api.endpoint=http://127.0.0.1:1", "--set", &format!("monitoring.healthPort={port}")])
        .args(["--set", &format!("state.dir={}", folder.path().display())])
        .env("CRONIUM_API_TOKEN", "x")
        .output()
        .expect("the agent");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&port.to_string()) && said.contains("monitoring.healthPort"), "{said}");
}

#[test]
fn every_metric_is_there_and_promtool_and_prometheus_take_them() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    finish(&backend, job("BASH", "echo x; echo y >&2"));
    finish(&backend, job("PYTHON", "exit(1)"));
    // A worker counts its job, and the outbox counts the call when its answer is there: neither waits for the other.
    for counted in [
        "cronium_job_duration_seconds_count{type=\"container\"}",
        "cronium_api_requests_total{endpoint=\"complete\",method=\"POST\",code=\"200\"}",
    ] {
        eventually("both counted", || agent.metric(counted) == Some(2.0));
    }
    let text = agent.get("/metrics").1;
    for series in [
        "cronium_jobs_completed_total{type=\"container\"} 1",
        "cronium_jobs_failed_total{type=\"container\",reason=\"script\"} 1",
        "cronium_job_duration_seconds_bucket{type=\"container\",le=\"0.05\"}",
        "cronium_job_duration_seconds_count{type=\"container\"} 2",
        "cronium_jobs_active ",
        "cronium_job_phase_seconds_count{phase=\"setup\"} 2",
        "cronium_api_requests_total{endpoint=\"complete\",method=\"POST\",code=\"200\"} 2",
        "cronium_api_request_duration_seconds_",
        "cronium_log_lines_total{stream=\"stdout\"} 1",
        "cronium_log_lines_total{stream=\"stderr\"} 1",
        "cronium_log_lines_dropped_total 0",
        "cronium_docker_request_duration_seconds_count{operation=\"create\"} 2",
        "cronium_build_info{version=\"",
        "process_resident_memory_bytes ",
        "process_cpu_seconds_total ",
        "process_open_fds ",
        "process_threads ",
    ] {
        assert!(text.contains(series), "{series} is not in\n{text}");
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: apt-get install prometheus");
    promtool.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("write");
    let said = promtool.wait_with_output().expect("promtool");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    scraped_by_prometheus(&agent);
    agent.stop();
}

fn scraped_by_prometheus(agent: &Agent) {
    let prometheus = Prometheus::scraping(agent);
    eventually("prometheus has scraped the agent", || {
        prometheus.query("up == 1").is_some_and(|found| !found.is_empty())
            && prometheus
                .query("cronium_jobs_completed_total")
                .is_some_and(|found| found.iter().any(|series| series["metric"]["type"] == "container"))
    });
}

#[test]
fn hostile_clients_harm_nothing() {
    let _machine = alone();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    agent.wait_ready();
    let before = agent.memory_kb("VmRSS");
    let connect = || TcpStream::connect(("127.0.0.1", agent.health_port)).expect("connect");
    let mut half = connect();
    half.write_all(b"GET /health HT").expect("half a request");
    let _idle: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
    assert_eq!(agent.get("/live").0, 200, "others are not served");

    let mut huge = connect();
    huge.set_write_timeout(Some(LONG)).expect("timeout");
    let _ = huge.write_all(b"GET / HTTP/1.1\r\n");
    let filler = vec![b'x'; 64 * 1024];
    for _ in 0..160 {
        // Refused somewhere on the way: that is the point.
        if huge.write_all(&filler).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = huge.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = huge.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    let growth = agent.memory_kb("VmRSS").saturating_sub(before);
    eprintln!("agent RSS grew by {growth} kB under hostile clients");
    assert!(growth < 2048, "{growth} kB");
    assert_eq!(agent.get("/health").0, 200);
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    agent.stop();
}

//! An engine that lies, stalls, is reached over TCP, or is not there: that job failed with a clear reason, the agent
//! alive, nothing left.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Barrier;

use cronium_agent::parts::{Bridge, Client, Docker, DockerEndpoint};
use cronium_dev_backend::DevBackend;

use crate::engine_proxy::{Break, Proxy};
use crate::harness::{
    Agent, Folder, binary, deployed, docker, engine_socket, eventually, finish, job, report, shared, stderr, stdout,
    with_socket,
};

fn start(backend: &DevBackend, proxy: &Proxy, more: &[(&str, &str)]) -> Agent {
    let endpoint = proxy.endpoint();
    let mut settings = vec![("container.docker.endpoint", endpoint.as_str())];
    settings.extend_from_slice(more);
    let agent = Agent::start(backend, &settings);
    agent.wait_ready();
    agent
}

fn answer(text: &str) -> Break {
    Break::Answer(text.as_bytes().to_vec())
}

#[test]
fn a_lying_engine_fails_that_job_alone_and_says_how() {
    let _machine = shared();
    let (backend, proxy) = (deployed(), Proxy::start());
    let agent = start(&backend, &proxy, &[("jobs.setupTimeout", "3s")]);
    let server_error = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 20\r\n\r\n{\"message\":\"no way\"}";
    let table = [
        ("500 to create", "POST", "/containers/create", answer(server_error), "no way"),
        ("500 to start", "POST", "/start", answer(server_error), "no way"),
        ("no HTTP", "POST", "/containers/create", answer("SSH-2.0-OpenSSH_9.2\r\n\r\n"), "makes no sense"),
        ("cut", "POST", "/containers/create", Break::Cut, "create container"),
        (
            "no JSON",
            "POST",
            "/containers/create",
            answer("HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nhi"),
            "makes no sense",
        ),
        (
            "a false length",
            "POST",
            "/containers/create",
            answer("HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{}"),
            "middle of the body",
        ),
        (
            "half a chunk",
            "POST",
            "/containers/create",
            answer("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"),
            "middle of the body",
        ),
        (
            "a bad chunk",
            "POST",
            "/containers/create",
            answer("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\n{"),
            "makes no sense",
        ),
        (
            "an id that is none",
            "POST",
            "/containers/create",
            answer("HTTP/1.1 201 Created\r\nContent-Length: 16\r\n\r\n{\"Id\":\"../../x\"}"),
            "is no id",
        ),
        ("silence at create", "POST", "/containers/create", Break::Silence, "jobs.setupTime-out"),
        ("silence at start", "POST", "/start", Break::Silence, "jobs.setupTime-out"),
        ("attach refused", "POST", "/attach", answer(server_error), "no way"),
    ];
    for (name, method, path, action, words) in table {
        proxy.break_calls(method, path, 1, action);
        let row = finish(&backend, job("BASH", "echo ran"));
        assert_eq!(report(&row)["status"], "failed", "{name}");
        assert_eq!((row.exit_code, stdout(&row)), (Some(125), ""), "{name}");
        assert!(stderr(&row).contains(words), "{name}: {}", stderr(&row));
        proxy.mend();
    }
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo fine"))), "fine\n");
    agent.stop();
}

#[test]
fn a_broken_stream_costs_neither_lines_nor_the_verdict() {
    let _machine = shared();
    let (backend, proxy) = (with_socket(), Proxy::start());
    let agent = start(&backend, &proxy, &[]);
    for (name, action) in [
        ("an unknown stream", Break::HeadThen(vec![9, 0, 0, 0, 0, 0, 0, 1, b'x'])),
        ("a huge frame", Break::HeadThen(vec![1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])),
        ("half a frame", Break::HeadThen(vec![1, 0, 0, 0, 0, 0, 0, 9, b'x'])),
    ] {
        proxy.break_calls("POST", "/attach", 1, action);
        let row = finish(&backend, job("BASH", "echo one; exit 7"));
        let lines = backend.lines(&row.id);
        // The program was lost with the connection. The shell then ends with 0, which must not pass for a success.
        assert_eq!(report(&row)["status"], "failed", "{name}");
        assert!(stderr(&row).contains("not known whether"), "{name}: {}", stderr(&row));
        assert!(
            lines.iter().any(|line| line.stream == "system" && line.text.contains("stream broke")),
            "{name}: {lines:?}"
        );
        proxy.mend();
    }
    // Cut in the middle of a job: the engine's copy has the rest, and the exit code is the script's own.
    proxy.break_calls("POST", "/attach", 1, Break::CutAfter(400));
    let row = finish(&backend, job("BASH", "for i in $(seq 30); do echo line $i; sleep 0.03; done; exit 7"));
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(7)), "{}", stderr(&row));
    let all: Vec<String> = (1..=30).map(|n| format!("line {n}")).collect();
    assert_eq!(stdout(&row).lines().collect::<Vec<_>>(), all);
    let lines = backend.lines(&row.id);
    let live: Vec<&str> = lines.iter().filter(|l| l.stream == "stdout").map(|line| line.text.as_str()).collect();
    assert_eq!(live, all, "each live line once");
    // If the copy cannot be read either, the job's log says so.
    proxy.break_calls("POST", "/attach", 1, Break::CutAfter(400));
    proxy.break_calls("GET", "/logs", 9, answer("HTTP/1.1 501 No\r\nContent-Length: 0\r\n\r\n"));
    let row = finish(&backend, job("BASH", "for i in $(seq 30); do echo line $i; sleep 0.03; done; exit 7"));
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(7)), "{}", stderr(&row));
    assert!(stdout(&row).starts_with("line 1\n") && !stdout(&row).contains("line 30"), "{}", stdout(&row));
    let lines = backend.lines(&row.id);
    let told = lines.iter().any(|line| line.stream == "system" && line.text.contains("lines may be missing"));
    assert!(told, "{lines:?}");
    agent.stop();
}

#[test]
fn a_container_that_the_engine_does_not_end_is_given_up_in_time() {
    let _machine = shared();
    let (backend, proxy) = (deployed(), Proxy::start());
    let agent = start(&backend, &proxy, &[("jobs.stopGrace", "1s")]);
    proxy.break_calls("POST", "/kill", 99, answer("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"));
    let mut endless = job("BASH", "echo begun; sleep 300");
    endless["execution"]["timeout"] = serde_json::json!(1);
    let row = finish(&backend, endless);
    assert_eq!(report(&row)["status"], "failed");
    assert!(stderr(&row).contains("the engine did not end the container within 20 s"), "{}", stderr(&row));
    assert_eq!(stdout(&row), "begun\n");
    agent.stop();
}

#[test]
fn a_removal_that_fails_is_tried_again() {
    let _machine = shared();
    let (backend, proxy) = (deployed(), Proxy::start());
    let agent = start(&backend, &proxy, &[]);
    proxy.break_calls("DELETE", "/containers/", 2, answer("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    agent.stop();
}

#[test]
fn a_container_whose_creation_was_not_heard_of_is_removed() {
    let _machine = shared();
    let (backend, proxy) = (deployed(), Proxy::start());
    let agent = start(&backend, &proxy, &[("jobs.setupTimeout", "2s")]);
    // The engine did create it; only the answer with its id was lost, or came too late.
    let table = [
        ("an answer cut in its head", Break::CutAfter(20), "create container"),
        ("an answer that came too late", Break::Delay(4000), "jobs.setupTime-out"),
    ];
    for (n, (name, action, words)) in table.into_iter().enumerate() {
        proxy.break_calls("POST", "/containers/create", 1, action);
        let row = finish(&backend, job("BASH", "echo ran"));
        assert_eq!((row.exit_code, stdout(&row)), (Some(125), ""), "{name}");
        assert!(stderr(&row).contains(words), "{name}: {}", stderr(&row));
        proxy.mend();
        // By the engine's own record: that nothing is there proves nothing before it was made.
        eventually("it is made and removed", || {
            let label = format!("label=cronium.agent.id={}", agent.id);
            let events = ["events", "--since", "60s", "--until", "0s", "--filter", "event=destroy", "--filter", &label];
            docker(&events).lines().count() > n
        });
        assert_eq!(agent.containers(), Vec::<String>::new(), "{name}");
    }
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo fine"))), "fine\n");
    agent.stop();
}

#[test]
fn an_engine_that_fails_at_the_end_of_a_job_is_told_apart_from_the_script() {
    let _machine = shared();
    let (backend, proxy) = (deployed(), Proxy::start());
    let agent = start(&backend, &proxy, &[]);
    let server_error = "HTTP/1.1 500 No\r\nContent-Length: 20\r\n\r\n{\"message\":\"no way\"}";
    // The wait is asked again: the exit code is the script's.
    for action in [answer(server_error), Break::Cut, answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")] {
        proxy.break_calls("POST", "/wait", 1, action);
        let row = finish(&backend, job("BASH", "echo ran; exit 7"));
        assert_eq!((row.exit_code, stdout(&row)), (Some(7), "ran\n"), "{}", stderr(&row));
        proxy.mend();
    }
    // Without the evidence there is no verdict on the script, but the report has its exit code and output.
    proxy.break_calls("GET", "/json", 9, answer(server_error));
    let row = finish(&backend, job("BASH", "echo ran; exit 7"));
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), "ran\n"));
    assert!(stderr(&row).contains("exit code 7") && stderr(&row).contains("no way"), "{}", stderr(&row));
    proxy.mend();
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo fine"))), "fine\n");
    agent.stop();
}

#[test]
fn without_an_engine_nothing_is_claimed_until_it_comes() {
    let _machine = shared();
    let (backend, folder) = (deployed(), Folder::new());
    let socket = folder.path().join("late.sock");
    let endpoint = format!("unix://{}", socket.display());
    let id = backend.enqueue(job("BASH", "echo late")).expect("queued");
    let agent = Agent::start(&backend, &[("container.docker.endpoint", &endpoint)]);
    eventually("the reason", || {
        TcpStream::connect(("127.0.0.1", agent.health_port)).is_ok() && agent.get("/ready").1.contains("late.sock")
    });
    assert_eq!((agent.get("/ready").0, agent.get("/health").0), (503, 503));
    assert_eq!(backend.job(&id).expect("row").claims, 0);
    std::os::unix::fs::symlink(engine_socket(), &socket).expect("link");
    assert_eq!(stdout(&crate::harness::finished(&backend, &id)), "late\n");
    agent.stop();
}

#[test]
fn api_versions_are_negotiated() {
    let _machine = shared();
    let (backend, proxy) = (deployed(), Proxy::start());
    proxy.break_calls("", "", u32::MAX, Break::Version("1.99"));
    let agent = start(&backend, &proxy, &[]);
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo newest"))), "newest\n");
    assert!(agent.log().contains("/v1.51/containers/create"), "a newer engine is not spoken to in our newest version");
    agent.stop();
    proxy.mend();
    proxy.break_calls("GET", "/_ping", u32::MAX, Break::Version("1.30"));
    let agent = Agent::start(&backend, &[("container.docker.endpoint", &proxy.endpoint())]);
    eventually("the reason", || agent.log().contains("speaks API 1.30 at most"));
    agent.stop();
}

/// Passes a TCP port on to the engine's socket until the test ends.
pub fn tcp_engine() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a client");
            let engine = UnixStream::connect(engine_socket()).expect("the engine");
            let (mut up_from, mut up_to) = (client.try_clone().expect("clone"), engine.try_clone().expect("clone"));
            std::thread::spawn(move || {
                pump(&mut up_from, &mut up_to);
                let _ = up_to.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                pump(&mut &engine, &mut &client);
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    port
}

fn pump(from: &mut impl Read, to: &mut impl Write) {
    let _ = std::io::copy(from, to);
}

#[test]
fn tcp_endpoints_and_docker_host_are_honoured() {
    let _machine = shared();
    let backend = deployed();
    let endpoint = format!("tcp://127.0.0.1:{}", tcp_engine());
    let agent = Agent::start(&backend, &[("container.docker.endpoint", &endpoint)]);
    let row = finish(&backend, job("BASH", "echo over tcp; sleep 1.2"));
    assert_eq!(stdout(&row), "over tcp\n");
    // On another host the kernel's counters are not to be had: the engine is asked.
    let memory = report(&row)["metrics"]["resourceUsage"]["peakMemory"].as_u64().expect("bytes");
    assert!(memory > 100_000, "{memory}");
    agent.stop();

    let folder = Folder::new();
    let script = folder.path().join("a.sh");
    std::fs::write(&script, "echo by DOCKER_HOST").expect("write");
    let output = binary().arg("exec").arg(&script).env("DOCKER_HOST", &endpoint).output().expect("exec");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "by DOCKER_HOST\n");
}

/// The engine's own look for a name that is taken comes before the network is made, so that two can pass it.
#[test]
fn many_that_make_the_shared_network_at_the_same_moment_make_one() {
    let _machine = shared();
    let bridge = Bridge { icc: true, internal: true };
    let all = || docker(&["network", "ls", "-q", "--filter", &format!("name=^{}$", bridge.name())]);
    let remove_all = || all().lines().for_each(|id| drop(docker(&["network", "rm", id])));
    for round in 0..6 {
        remove_all();
        // Every other time there is one already of other settings, and each wants to make it anew.
        if round % 2 == 1 {
            docker(&["network", "create", "--internal", "--label", "cronium.managed=true", bridge.name()]);
        }
        let barrier = Barrier::new(16);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let endpoint = DockerEndpoint::Unix(engine_socket());
                    let client = Client::new(&Docker { endpoint, ..Docker::default() });
                    client.ping().expect("an engine");
                    barrier.wait();
                    client.ensure_bridge(bridge).expect("the network is there");
                    client.ensure_bridge(bridge).expect("and fits");
                });
            }
        });
        assert_eq!(all().lines().count(), 1);
        let form = "{{index .Options \"com.docker.network.bridge.name\"}}";
        assert_eq!(docker(&["network", "inspect", "-f", form, bridge.name()]), "cronium3");
    }
    remove_all();
}

//! Proofs of the walls around jobs: with real packets, and by the agent while it runs.

use crate::doctor::json;
use crate::engine_restart::Engine;
use crate::harness::{Folder, alone, deployed, eventually};

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
    let engine = Engine::start_after(false, &before, &["cronium/runner:bash-alpine", PYTHON]);
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

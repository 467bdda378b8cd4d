//! The jobs' bridge where there is one already: of other settings, of the operator, of another engine.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::harness::{Agent, docker, eventually, finish, finished, job, shared, stdout, unique, with_socket};

/// Of the network and of its interface.
const NAME: &str = "cronium1";
const INTERNAL: (&str, &str) = ("container.network.internal", "true");

/// The network that the tests of this file use by turns, and what they put beside it; gone with its owner.
struct Turn {
    guest: String,
    _turn: MutexGuard<'static, ()>,
}

impl Turn {
    fn begin() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = Self { guest: unique("bridge"), _turn: turn };
        turn.clear();
        turn
    }

    /// A network of the agent's name, with these options, and a container that runs on it.
    fn occupy(&self, options: &[&str]) {
        docker(&[&["network", "create", "--internal"], options, &[NAME]].concat());
        let name = self.guest.as_str();
        docker(&[
            "run",
            "-d",
            "--rm",
            "--label",
            "cronium.managed=true",
            "--label",
            "cronium.agent.id=nobody",
            "--name",
            name,
            "--network",
            NAME,
            "cronium/runner:bash-alpine",
            "sleep",
            "100",
        ]);
    }

    fn clear(&self) {
        for command in [["docker", "rm", "-f", &self.guest], ["docker", "network", "rm", NAME]] {
            let _ = Command::new(command[0]).args(&command[1..]).output();
        }
        let _ = Command::new("ip").args(["link", "delete", NAME]).output();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.clear();
    }
}

fn not_ready(agent: &Agent, words: &str) {
    agent.wait_port();
    eventually(words, || {
        let (code, text) = agent.get("/ready");
        code == 503 && text.contains(words)
    });
}

#[test]
fn a_bridge_of_other_settings_is_made_anew_once_its_jobs_have_ended() {
    let _machine = shared();
    let turn = Turn::begin();
    let backend = with_socket();
    // Without the bridge, so that it runs while the bridge is refused.
    let agent = Agent::start(&backend, &[("container.network.mode", "none")]);
    let running = backend.enqueue(job("BASH", "echo begun; sleep 3; echo ended")).expect("queued");
    eventually("it runs", || !backend.lines(&running).is_empty());
    turn.occupy(&["--label", "cronium.managed=true"]);
    let agent = agent.again(&backend, &[INTERNAL]);
    not_ready(&agent, "bridge.name is not set, not cronium1");
    not_ready(&agent, "and containers still run on it");
    let next = backend.enqueue(job("BASH", "echo next")).expect("queued");
    // The job of the agent before is looked after, and none is claimed.
    assert_eq!(stdout(&finished(&backend, &running)), "begun\nended\n");
    assert_eq!(backend.job(&next).expect("there").claims, 0);
    docker(&["rm", "-f", &turn.guest]);
    assert_eq!(stdout(&finished(&backend, &next)), "next\n");
    agent.wait_ready();
    let form = "{{index .Options \"com.docker.network.bridge.name\"}}";
    assert_eq!(docker(&["network", "inspect", "-f", form, NAME]), NAME);
    agent.stop();
}

#[test]
fn a_bridge_that_no_agent_made_is_refused_and_left_alone() {
    let _machine = shared();
    let turn = Turn::begin();
    turn.occupy(&[]);
    docker(&["rm", "-f", &turn.guest]);
    let id = docker(&["network", "inspect", "-f", "{{.Id}}", NAME]);
    let backend = with_socket();
    let agent = Agent::start(&backend, &[INTERNAL]);
    not_ready(&agent, "remove it (docker network rm cronium1)");
    assert_eq!(docker(&["network", "inspect", "-f", "{{.Id}}", NAME]), id);
    docker(&["network", "rm", NAME]);
    agent.wait_ready();
    agent.stop();
}

/// Docker would change the address of an interface that is there already, and with it cut off another engine's jobs.
#[test]
fn an_interface_that_another_engine_made_is_not_taken_over() {
    let _machine = shared();
    let _turn = Turn::begin();
    let ip = |arguments: &str| {
        let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip, from iproute2");
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    ip(&format!("link add {NAME} type bridge"));
    ip(&format!("addr add 198.18.77.1/24 dev {NAME}"));
    let backend = with_socket();
    let agent = Agent::start(&backend, &[INTERNAL]);
    not_ready(&agent, "a second engine on this host");
    assert!(ip(&format!("addr show {NAME}")).contains("198.18.77.1/24"));
    ip(&format!("link delete {NAME}"));
    agent.wait_ready();
    agent.stop();
}

/// From Docker 28 on, the engine can leave the bridge without an address of the host. Before, jobs reach the host's services.
#[test]
fn the_host_is_out_of_reach_on_an_internal_bridge_where_the_engine_can_do_that() {
    let _machine = shared();
    let _turn = Turn::begin();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[INTERNAL]);
    agent.wait_ready();
    let version = docker(&["version", "--format", "{{.Server.APIVersion}}"]);
    let isolates = version.split_once('.').is_some_and(|(_, minor)| minor.parse::<u32>().expect("a number") >= 48);
    let subnet = docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", NAME]);
    let first = format!("{}.1", subnet.rsplit_once('.').expect("an address").0);
    let host = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = host.local_addr().expect("an address").port();
    let script = format!("timeout 3 bash -c ': </dev/tcp/{first}/{port}' 2>/dev/null && echo reached || echo closed");
    let wanted = if isolates { "closed\n" } else { "reached\n" };
    assert_eq!(stdout(&finish(&backend, job("BASH", &script))), wanted, "{first}, API {version}");
    let shown = Command::new("ip").args(["-o", "address", "show", NAME]).output().expect("ip, from iproute2");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(shown.contains(&format!("inet {first}/")), !isolates, "{shown}");
    agent.stop();
}

//! The stack for Docker Swarm as it is shipped, on two engines of the tests' own: deployed, updated while jobs run, with
//! a new token, and with a node that is cut off and comes back.
//!
//! Each engine has a network, a host's name, a `/run` and a state folder to itself, so that both can have the paths that the
//! stack names. One cable joins the two, and one leads from each to this host, where the backend listens.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use cronium_dev_backend::{DevBackend, JobRow, Options, Settings};
use serde_json::{Value, json};

use crate::compose;
use crate::engine_restart::Engine;
use crate::harness::{Folder, docker, eventually, finished, job, report, require_engine, shared, stdout, unique};
use crate::sshd_faults::{Network, ip};

const RUNNER: &str = "cronium/runner:bash-alpine";
const TOKENS: [&str; 2] = ["first-T0ken-of-the-swarm", "rotated-T0ken-of-the-swarm"];
/// The nodes' addresses on the cable between them, and its name in both.
const CABLE: (&str, [&str; 2]) = ("swarm0", ["10.212.0.1", "10.212.0.2"]);
/// Uses its helpers, then waits for a file, so that it ends when the test wants it to.
const SCRIPT: &str = "cronium_setVariable place beside && cronium_getVariable place; echo; n=0; until [ -e /tmp/go ]; do n=$((n+1)); \
                      echo \"line $n\"; sleep 0.2; done; echo over; exit 7";

/// An engine as a host has one.
struct Node {
    name: String,
    engine: Engine,
    network: Network,
}

impl Node {
    /// `place` is where each node sees its state folder.
    fn start(name: &str, place: &Path, images: &[&str]) -> Self {
        let (folder, network) = (Folder::new(), Network::new());
        let [run, state] = ["run", "state"].map(|name| folder.path().join(name));
        for own in [&run, &state] {
            std::fs::create_dir(own).expect("folder");
        }
        give_away(&state, 0o700);
        let inside = format!(
            "hostname {name}; mount --bind {} /run; mount --bind {} {}; exec \"$@\"",
            run.display(),
            state.display(),
            place.display()
        );
        let before = format!(
            "set -- \"$@\" --host unix:///run/docker.sock; exec nsenter --net=/run/netns/{} unshare --uts sh -c '{inside}' sh \"$@\"",
            network.name
        );
        let engine = Engine::start_in(folder, false, &before, images);
        Self { name: name.to_owned(), engine, network }
    }

    fn docker(&self, arguments: &[&str]) -> String {
        run(&mut self.engine.command(arguments))
    }

    /// The container of the agent's task that runs now.
    fn agent(&self) -> Option<String> {
        let filter = "label=com.docker.swarm.service.name=cronium_agent";
        let found = self.docker(&["ps", "-q", "--no-trunc", "--filter", filter]);
        (!found.is_empty() && !found.contains('\n')).then_some(found)
    }

    fn inspect(&self, container: &str) -> Value {
        serde_json::from_str::<Value>(&self.docker(&["inspect", container])).expect("JSON")[0].clone()
    }

    fn is_healthy(&self) -> bool {
        self.agent().is_some_and(|agent| self.inspect(&agent)["State"]["Health"]["Status"] == "healthy")
    }

    /// The running container of a job.
    fn job(&self, id: &str) -> Option<String> {
        let found = self.docker(&["ps", "-q", "--no-trunc", "--filter", &format!("name=cronium-exec-{id}-")]);
        (!found.is_empty()).then_some(found)
    }

    /// Lets a job end.
    fn release(&self, id: &str) {
        self.docker(&["exec", &self.job(id).expect("its container"), "touch", "/tmp/go"]);
    }

    /// The group of its socket, as `stat -c %g` tells it there.
    fn group(&self) -> String {
        let socket = std::fs::metadata(self.engine.path("run/docker.sock")).expect("the socket");
        socket.gid().to_string()
    }

    fn cable(&self, state: &str) {
        ip(&format!("-n {} link set {} {state}", self.network.name, CABLE.0)).expect("the cable");
    }

    /// A way to the backend's address, which is at the end of the other node's cable.
    fn route(&self, to: &str) {
        let via = &self.network.host;
        if to != via {
            ip(&format!("-n {} route replace {to} via {via}", self.network.name)).expect("a route");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // With the swarm go its tasks, which would be started again otherwise.
        self.engine.try_docker(&["swarm", "leave", "--force"]);
    }
}

/// Makes something the agent's.
fn give_away(path: &Path, mode: u32) {
    chown(path, Some(65532), Some(65532)).expect("run the tests as root: the state belongs to the agent's user");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("docker");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Two nodes, the stack's files and the backend.
struct Swarm {
    nodes: [Node; 2],
    backend: DevBackend,
    image: String,
    files: Folder,
    place: Folder,
}

impl Swarm {
    fn new() -> Self {
        let (files, place) = (Folder::new(), Folder::new());
        let image = format!("cronium/agent:{}", unique("swarm"));
        let images = [format!("{image}-1"), format!("{image}-2")];
        compose::lay_out(files.path());
        let (dockerfile, context) = (files.path().join("configs/Dockerfile"), files.path().display().to_string());
        docker(&["build", "-q", "-f", dockerfile.to_str().expect("text"), "-t", &images[0], &context]);
        docker(&["tag", &images[0], &images[1]]);
        let loaded = [RUNNER, &images[0], &images[1]];
        let nodes = ["node-a", "node-b"].map(|name| Node::start(name, place.path(), &loaded));
        docker(&["rmi", &images[0], &images[1]]);
        let options = Options {
            listen: "0.0.0.0:0".to_owned(),
            token: TOKENS[0].to_owned(),
            settings: Settings::default(),
            ..Options::default()
        };
        let backend = DevBackend::start(options).expect("the dev backend starts");
        let swarm = Self { nodes, backend, image, files, place };
        swarm.join();
        swarm.write_files();
        swarm
    }

    /// Joins the two by a cable and makes one swarm of them.
    fn join(&self) {
        let [a, b] = &self.nodes;
        let (cable, addresses) = CABLE;
        let [first, second] = [&a.network.name, &b.network.name];
        ip(&format!("-n {first} link add {cable} type veth peer name {cable} netns {second}")).expect("a cable");
        for (node, address) in self.nodes.iter().zip(addresses) {
            ip(&format!("-n {} addr add {address}/30 dev {cable}", node.network.name)).expect("an address");
            ip(&format!("-n {} link set lo up", node.network.name)).expect("the loopback");
            node.cable("up");
            node.route(&a.network.host);
        }
        // A beat a second in place of one in five, so that a lost node is noticed sooner.
        a.docker(&["swarm", "init", "--advertise-addr", addresses[0], "--dispatcher-heartbeat", "1s"]);
        let token = a.docker(&["swarm", "join-token", "-q", "worker"]);
        b.docker(&[
            "swarm",
            "join",
            "--token",
            &token,
            "--advertise-addr",
            addresses[1],
            &format!("{}:2377", addresses[0]),
        ]);
        for node in &self.nodes {
            a.docker(&["node", "update", "--label-add", "cronium.agent=true", &node.name]);
        }
    }

    /// The shipped files. The stack asks for the agents' health more often, for a shorter test. The configuration has the test's
    /// address and network, and one job at a time, so that each node gets one.
    fn write_files(&self) {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/swarm");
        let stack = std::fs::read_to_string(shipped.join("stack.yaml")).expect("the stack");
        let quick = stack.replace("interval: 10s", "interval: 3s");
        assert_ne!(quick, stack);
        std::fs::write(self.files.path().join("stack.yaml"), quick).expect("write");
        let text = std::fs::read_to_string(shipped.join("cronium-orchestrator.yaml")).expect("the configuration");
        let endpoint = format!("http://{}:{}", self.nodes[0].network.host, self.backend.address().port());
        let with = text
            .replace("https://cronium.example:5001", &endpoint)
            .replace("jobs:\n", "jobs:\n  maxConcurrent: 1\n  pollInterval: 200ms\n  requireProof: \"off\"\n");
        let network = "container:\n  network: {mode: none}\n";
        assert!(with.contains(&endpoint) && with.contains("maxConcurrent"));
        std::fs::write(self.files.path().join("cronium-orchestrator.yaml"), with + network).expect("write");
    }

    /// Deploys this version of the image and of the token, as the head of the stack says.
    fn deploy(&self, version: usize) {
        let secret = self.files.path().join("token");
        std::fs::write(&secret, TOKENS[version - 1]).expect("write");
        let [name, path] = [format!("cronium-api-token-{version}"), secret.display().to_string()];
        self.nodes[0].docker(&["secret", "create", &name, &path]);
        let stack = self.files.path().join("stack.yaml").display().to_string();
        // Not asked: the registry, which this network does not have.
        let mut command =
            self.nodes[0].engine.command(&["stack", "deploy", "--resolve-image", "never", "-c", &stack, "cronium"]);
        command
            .env("DOCKER_GID", self.nodes[0].group())
            .env("CRONIUM_AGENT_IMAGE", format!("{}-{version}", self.image))
            .env("CRONIUM_STATE_DIR", self.place.path())
            .env("CRONIUM_TOKEN_VERSION", version.to_string());
        run(&mut command);
    }

    /// Two jobs, one on each node: the ids in the order of the nodes.
    fn one_job_each(&self) -> [String; 2] {
        let ids = [(); 2].map(|()| {
            let mut each = job("BASH", SCRIPT);
            each["execution"]["timeout"] = json!(600_000_000_000_u64);
            self.backend.enqueue(each).expect("queued")
        });
        eventually("both jobs run, one on each node", || {
            ids.iter().all(|id| self.nodes.iter().any(|node| node.job(id).is_some()))
        });
        let [first, second] = ids;
        if self.nodes[0].job(&first).is_some() { [first, second] } else { [second, first] }
    }

    /// A job that was let end: every line, its exit code, and one report.
    fn whole(&self, id: &str) -> JobRow {
        let row = finished(&self.backend, id);
        let lines: Vec<&str> = stdout(&row).lines().collect();
        let count = lines.len() - 2;
        let expected = (1..=count).map(|n| format!("line {n}"));
        let expected: Vec<String> = [vec!["beside".to_owned()], expected.collect(), vec!["over".to_owned()]].concat();
        assert_eq!((lines, row.exit_code, row.claims), (expected.iter().map(String::as_str).collect(), Some(7), 1));
        row
    }

    /// The nodes whose task should run, with its state.
    fn tasks(&self) -> Vec<String> {
        let format = "{{.Node}} {{.CurrentState}}";
        let list = ["service", "ps", "--filter", "desired-state=running", "--format", format, "cronium_agent"];
        let found = self.nodes[0].docker(&list);
        let mut all: Vec<String> =
            found.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        all.sort();
        all
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for node in &self.nodes {
            let log = "docker --host $0 ps -a; for id in $(docker --host $0 ps -aq); do docker --host $0 logs --tail 20 $id; done 2>&1";
            let said = Command::new("sh").args(["-c", log, &node.engine.host()]).output();
            let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            let daemon = std::fs::read_to_string(node.engine.path("log")).unwrap_or_default();
            eprintln!("---- {} ----\n{said}\n{}", node.name, crate::harness::tail(&daemon, 40));
        }
        let list = ["service", "ps", "--no-trunc", "cronium_agent"];
        eprintln!("{}", self.nodes[0].engine.try_docker(&list).1);
    }
}

/// What the engine says of the task's container: every lock of the stack has reached it.
fn is_locked(node: &Node) {
    let all = node.inspect(&node.agent().expect("an agent"));
    let host = &all["HostConfig"];
    for (what, found, wanted) in [
        ("user", &all["Config"]["User"], json!(format!("65532:{}", node.group()))),
        ("root", &host["ReadonlyRootfs"], json!(true)),
        ("capabilities", &host["CapDrop"], json!(["ALL"])),
        ("privileged", &host["Privileged"], json!(false)),
        ("network", &host["NetworkMode"], json!("host")),
        ("memory", &host["Memory"], json!(256 << 20)),
        ("cores", &host["NanoCpus"], json!(1_000_000_000)),
        ("grace", &all["Config"]["StopTimeout"], Value::Null),
    ] {
        assert_eq!(*found, wanted, "{what}");
    }
    let text = all.to_string();
    assert!(TOKENS.iter().all(|token| !text.contains(token)), "the token shows in docker inspect");
    assert!(text.contains(&format!("CRONIUM_ORCHESTRATOR_NAME={}", node.name)), "{text}");
}

#[test]
fn a_stack_on_two_nodes_outlives_an_update_a_new_token_and_the_loss_of_a_node() {
    let _machine = shared();
    require_engine();
    let swarm = Swarm::new();
    let [a, b] = &swarm.nodes;
    swarm.deploy(1);
    let [on_a, on_b] = swarm.one_job_each();
    eventually("both agents are healthy", || a.is_healthy() && b.is_healthy());
    is_locked(a);

    // Another image and another token, while both jobs run. Swarm takes one node after the other.
    swarm.backend.set_settings(Settings { any_token: true, ..swarm.backend.settings() });
    let old = [a, b].map(|node| node.agent().expect("an agent"));
    let jobs = [a.job(&on_a), b.job(&on_b)];
    swarm.deploy(2);
    let new = |node: &Node, old: &str| node.is_healthy() && node.agent().is_some_and(|agent| agent != old);
    eventually("both nodes have another task", || new(a, &old[0]) && new(b, &old[1]));
    let state = ["service", "inspect", "--format", "{{.UpdateStatus.State}}", "cronium_agent"];
    assert!(["updating", "completed"].contains(&a.docker(&state).as_str()), "{}", a.docker(&state));
    for (node, old) in [a, b].into_iter().zip(&old) {
        assert_eq!(node.inspect(old)["State"]["ExitCode"], 4, "it left its job, and was not killed");
    }
    assert_eq!([a.job(&on_a), b.job(&on_b)], jobs, "the scripts go on in the same containers");
    let rotated = Settings { any_token: false, token: TOKENS[1].to_owned(), ..swarm.backend.settings() };
    swarm.backend.set_settings(rotated);
    a.release(&on_a);
    swarm.whole(&on_a);

    // A node that nobody reaches any more: the other goes on, and nothing is moved.
    b.cable("down");
    b.network.cut();
    let is_down = || a.docker(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]).contains("node-b Down");
    eventually("the manager misses node-b", is_down);
    eventually("node-a alone has a task", || swarm.tasks() == ["node-a Running"]);
    let mut alone = job("BASH", "echo alone");
    alone["execution"]["timeout"] = json!(60_000_000_000_u64);
    let row = finished(&swarm.backend, &swarm.backend.enqueue(alone).expect("queued"));
    assert_eq!((stdout(&row), row.exit_code), ("alone\n", Some(0)));
    b.release(&on_b);
    eventually("the script on node-b ends", || b.job(&on_b).is_none());
    let row = swarm.backend.job(&on_b).expect("the row");
    assert_eq!(
        (row.terminal_reports(), row.claims, row.status),
        (0, 1, "running"),
        "nobody knows, and nobody runs it again"
    );
    b.network.restore();
    b.cable("up");
    b.route(&a.network.host);
    let row = swarm.whole(&on_b);
    assert_eq!(report(&row)["status"], "failed");

    // It has a task again, and both take jobs.
    eventually("node-b has a task again", || swarm.tasks() == ["node-a Running", "node-b Running"]);
    let [on_a, on_b] = swarm.one_job_each();
    a.release(&on_a);
    b.release(&on_b);
    let owners = [on_a, on_b].map(|id| swarm.whole(&id).claimed_by);
    assert_ne!(owners[0], owners[1]);

    a.docker(&["stack", "rm", "cronium"]);
    eventually("nothing is left", || [a, b].into_iter().all(|node| node.docker(&["ps", "-aq"]).is_empty()));
    assert_eq!(swarm.backend.problems(), Vec::<String>::new());
}

//! Ways out of a container, tried in real jobs; docs/escapes.md has a row for each.
//!
//! A refusal shows a wall only where the same attempt gets through without it. So the battery runs once more in a container
//! without walls, and what is refused there too is called unproven: a kernel's missing module is no wall.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cronium_dev_backend::{DevBackend, Via};
use serde_json::{Value, json};

use crate::engine_proxy::{Break, Proxy};
use crate::harness::{
    Agent, alone, deployed, docker, eventually, finish, finished, job, record, report, require_engine, shared, stderr,
    stdout, unique, with_socket,
};
use crate::limits::running;

const BATTERY: &str = include_str!("../escapes/battery.py");
const NEIGHBOURS: &str = include_str!("../escapes/neighbours.py");

/// What refuses an attempt, by the first part of its name.
const REFUSALS: &[(&str, &[&str])] = &[
    ("write", &["EACCES", "EPERM", "EROFS", "absent"]),
    ("read", &["EACCES", "EPERM", "masked", "absent"]),
    ("device", &["ENOENT"]),
    ("node", &["EPERM"]),
    ("root", &["EPERM", "EACCES"]),
    ("net", &["EPERM", "EACCES"]),
    ("tty", &["EPERM"]),
    ("have", &["none"]),
];

/// The kernel has no such thing: this shows nothing.
const ABSENT: &[&str] = &["ENOENT", "ENOTTY", "EOPNOTSUPP", "ENOPROTOOPT", "EAFNOSUPPORT", "ENODEV", "ENXIO"];

fn is_refused(name: &str, answer: &str) -> bool {
    let kind = name.split(':').next().unwrap_or_default();
    REFUSALS.iter().any(|(known, answers)| *known == kind && answers.contains(&answer))
}

/// The battery's lines; it must have come to its end.
fn lines(said: &str, errors: &str) -> BTreeMap<String, String> {
    assert!(said.ends_with("end of-battery\n"), "{said}{errors}");
    let split = |line: &str| line.split_once(' ').map(|(name, answer)| (name.to_owned(), answer.to_owned()));
    let mut all: BTreeMap<_, _> = said.lines().filter_map(split).collect();
    all.remove("end");
    all
}

fn in_a_job(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
    let backend = deployed();
    let agent = Agent::start(&backend, settings);
    let row = finish(&backend, job("PYTHON", BATTERY));
    let all = lines(stdout(&row), stderr(&row));
    agent.stop();
    all
}

/// What root has on a host that does not withhold anything; CAP_SYS_RESOURCE, which some do, only lets more through.
const RIGHTS: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_ADMIN NET_RAW \
    SYS_MODULE SYS_RAWIO SYS_PTRACE SYS_ADMIN SYS_NICE SYS_TTY_CONFIG MKNOD LEASE SETFCAP SYSLOG AUDIT_CONTROL";

/// Root with every right, among the host's processes, with its folders, devices and one of its descriptors.
fn without_walls() -> BTreeMap<String, String> {
    require_engine();
    let mut command = Command::new("docker");
    command
        .args(["run", "--rm", "-i", "--user=0:0", "--pid=host", "--network=none"])
        .args(["seccomp", "apparmor", "systempaths"].map(|wall| format!("--security-opt={wall}=unconfined")))
        .args(RIGHTS.split_whitespace().map(|right| format!("--cap-add={right}")))
        .args([
            "--volume=/dev:/dev",
            "--volume=/sys:/sys",
            "--volume=/usr/share:/host:ro",
            "--env=PLACE=/opt",
            "--entrypoint=sh",
        ])
        .args(["cronium/runner:python-alpine", "-c", "mkdir -p /opt; exec 9</usr; exec python3 -"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the docker command");
    child.stdin.take().expect("a pipe").write_all(BATTERY.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("its end");
    lines(&String::from_utf8_lossy(&output.stdout), &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_gets_through_without_walls_is_refused_in_a_job() {
    let _machine = shared();
    let (job, free) = (in_a_job(&[]), without_walls());
    assert_eq!(job.keys().collect::<Vec<_>>(), free.keys().collect::<Vec<_>>(), "the same attempts");
    let is_absent = |name: &String| {
        ABSENT.contains(&job[name].as_str()) && (ABSENT.contains(&free[name].as_str()) || is_refused(name, &free[name]))
    };
    let open: Vec<_> = job.iter().filter(|(name, answer)| !is_refused(name, answer) && !is_absent(name)).collect();
    assert_eq!(open, Vec::<(&String, &String)>::new());
    let gets_through = |name: &String| !is_refused(name, &free[name]) && !ABSENT.contains(&free[name].as_str());
    let (proven, unproven): (Vec<&String>, Vec<&String>) =
        job.keys().partition(|name| is_refused(name, &job[*name]) && gets_through(name));
    eprintln!("not shown on this host, since it has no such thing: {unproven:?}");
    for name in MUST {
        let found = (job.get(*name), free.get(*name));
        assert!(proven.iter().any(|proven| proven == name), "{name}: in a job and without walls {found:?}");
    }
    for name in FILTERED {
        assert_eq!(job[*name], "EPERM", "{name}: also where the kernel has no such thing");
    }
    assert!(proven.len() >= 80, "{} of {}", proven.len(), job.len());
}

/// What every kernel that runs jobs has, so that its refusal can be shown everywhere.
const MUST: &[&str] = &[
    "write:/proc/sys/kernel/core_pattern",
    "write:/etc/hosts",
    "write:/etc/ld.so.preload",
    "write:/cronium-battery",
    "read:/proc/kmsg",
    "device:kmsg",
    "node:memory",
    "node:disk",
    "have:devices",
    "have:mounts",
    "have:own-descriptors",
    "have:another-root",
    "have:host-processes",
    "have:rights-by-setuid",
    "have:locks-that-are-off",
    "root:setuid",
    "root:chown",
    "root:file-capability",
    "root:add-entropy",
    "have:handler-of-crashes",
    "net:new-address",
    "net:new-route",
    "net:new-queue",
    "net:option-mark",
    "tty:discipline-hdlc",
    "tty:typing-for-others",
];

/// What the agent's filter refuses, and an engine's does not.
const FILTERED: &[&str] = &[
    "net:option-kernel-tls",
    "net:option-other-protocol",
    "net:urgent-byte-of-a-local-socket",
    "tty:discipline-slip",
    "tty:discipline-hdlc",
    "tty:discipline-gsm",
    "tty:typing-for-others",
    "tty:selection",
];

#[test]
fn what_the_agents_filter_refuses_the_engines_own_lets_through() {
    let _machine = shared();
    let job = in_a_job(&[("container.security.seccompProfile", "engine")]);
    // A terminal's selection and input have walls of the kernel's as well.
    let others = FILTERED.iter().filter(|name| !["tty:selection", "tty:typing-for-others"].contains(name));
    let refused = others.filter(|name| job[**name] == "EPERM");
    assert_eq!(refused.collect::<Vec<_>>(), Vec::<&&str>::new(), "{job:?}");
    assert!(job["have:handler-of-crashes"].starts_with("open"), "{job:?}");
}

#[test]
fn root_in_a_container_gets_no_further() {
    let _machine = shared();
    let job = in_a_job(&[("container.security.user", "0:0")]);
    // It owns these; what it may not is to become another one.
    assert!(job["write:/proc/sys/kernel/core_pattern"] == "EROFS" && job["write:/etc/passwd"] == "EROFS", "{job:?}");
    // As the owner it reads what is not masked, and has a lease on its own file.
    let is_owners = |name: &str, answer: &str| {
        let is_masked =
            ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kallsyms", "/proc/iomem", "/proc/ioports"];
        let is_read =
            name.strip_prefix("read:").is_some_and(|path| !is_masked.contains(&path) && path != "/sys/firmware");
        is_read || name == "root:lease-of-a-program" || (name, answer) == ("have:rights-by-setuid", "EPERM")
    };
    let is_absent = |answer: &str| ABSENT.contains(&answer);
    let open =
        job.iter().filter(|(name, answer)| !is_refused(name, answer) && !is_absent(answer) && !is_owners(name, answer));
    assert_eq!(open.collect::<Vec<_>>(), Vec::<(&String, &String)>::new());
}

/// Queues one of the two, which have the same script.
fn neighbour(backend: &DevBackend, role: &str, peer: &str, name: &str) -> String {
    let mut row = job("PYTHON", NEIGHBOURS);
    row["execution"]["environment"] = json!({ "ROLE": role, "PEER": peer, "NAME": name });
    backend.enqueue(row).expect("queued")
}

/// What the one that holds says of itself and of packets, and what the other sees of it.
fn two_jobs(settings: &[(&str, &str)]) -> (String, String) {
    let backend = with_socket();
    let agent = Agent::start(&backend, settings);
    let holder = neighbour(&backend, "hold", "", "");
    let mut address = String::new();
    eventually("it tells its address", || {
        let told =
            backend.lines(&holder).into_iter().find_map(|line| Some(line.text.strip_prefix("address ")?.to_owned()));
        address = told.unwrap_or_default();
        !address.is_empty()
    });
    let (peer, name) = address.split_once(' ').expect("an address and a name");
    let looker = finished(&backend, &neighbour(&backend, "look", peer, name));
    backend.cancel(&holder, Via::WebSocket);
    let holder = finished(&backend, &holder);
    agent.stop();
    (stdout(&holder).to_owned(), format!("{}{}", stdout(&looker), stderr(&looker)))
}

/// Removes a network with its owner.
struct Network(&'static str);

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["network", "rm", self.0]).output();
    }
}

#[test]
fn jobs_share_no_memory_queue_socket_lock_or_packet() {
    let _machine = alone();
    let (held, seen) = two_jobs(&[]);
    let count = |text: &str, start: &str, end: &str| {
        text.lines().filter(|line| line.starts_with(start) && line.ends_with(end)).count()
    };
    // What is there is seen from the inside.
    assert_eq!((count(&held, "look ", " seen"), count(&held, "look ", " no")), (11, 0), "{held}");
    assert_eq!((count(&seen, "look ", " seen"), count(&seen, "look ", " no")), (0, 11), "{seen}");
    assert_eq!((count(&held, "came ", ""), count(&seen, "send tcp no", "")), (0, 1), "{held}{seen}");

    // Where traffic is allowed packets come, or their absence would show nothing.
    let _network = Network("cronium2");
    let (held, seen) = two_jobs(&[("container.network.enableICC", "true")]);
    for way in ["tcp", "unicast", "of-the-network", "255.255.255.255", "224.0.0.251"] {
        assert_eq!(count(&held, &format!("came {way}"), ""), 1, "{way}: {held}{seen}");
    }
    assert_eq!(count(&seen, "look ", " seen"), 0, "{seen}");
}

#[test]
fn a_socket_of_the_hosts_that_is_a_name_alone_is_out_of_reach() {
    let _machine = shared();
    let name = unique("cronium-host");
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("bind");
    UnixStream::connect_addr(&address).expect("this host reaches it");
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let script = format!(
        "import socket\nprint(socket.socket(socket.AF_UNIX).connect_ex('\\0{name}'))\nprint('{name}' in open('/proc/net/unix').read())\n"
    );
    let row = finish(&backend, job("PYTHON", &script));
    assert_eq!(stdout(&row), "111\nFalse\n", "{}", stderr(&row));
    agent.stop();
}

#[test]
fn the_engine_is_asked_for_nothing_of_the_host() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let (id, found) = running(&backend, &agent, job("BASH", "sleep 1"));
    let host = &found["HostConfig"];
    for key in [
        "Devices",
        "DeviceRequests",
        "DeviceCgroupRules",
        "Binds",
        "VolumesFrom",
        "Links",
        "ExtraHosts",
        "GroupAdd",
        "PortBindings",
        "Sysctls",
        "Mounts",
        "CapAdd",
        "Capabilities",
    ] {
        let empty =
            |value: &Value| value.as_array().map(Vec::len).or(value.as_object().map(serde_json::Map::len)) == Some(0);
        assert!(host[key].is_null() || empty(&host[key]), "{key}: {}", host[key]);
    }
    for (key, wanted) in
        [("PidMode", ""), ("UTSMode", ""), ("UsernsMode", ""), ("IpcMode", "private"), ("CgroupnsMode", "private")]
    {
        assert_eq!(host[key], wanted, "{key}");
    }
    assert_eq!(
        (&host["PublishAllPorts"], &host["OomScoreAdj"], &found["Config"]["WorkingDir"]),
        (&json!(false), &json!(0), &json!("/workspace"))
    );
    let has = |key: &str, path: &str| host[key].as_array().is_some_and(|all| all.iter().any(|known| known == path));
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"] {
        assert!(has("MaskedPaths", path), "{path}: {}", host["MaskedPaths"]);
    }
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
        assert!(has("ReadonlyPaths", path), "{path}: {}", host["ReadonlyPaths"]);
    }
    finished(&backend, &id);
    agent.stop();
}

#[test]
fn an_engine_without_seccomp_runs_no_job_unless_its_own_profile_is_wanted() {
    let _machine = shared();
    let (backend, proxy) = (with_socket(), Proxy::start());
    let told = docker(&["info", "-f", "{{json .}}"]);
    assert!(told.contains("name=seccomp"), "{told}");
    let body = told.replace("name=seccomp", "name=nothing");
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    proxy.break_calls("GET", "/info", u32::MAX, Break::Answer(answer.into_bytes()));
    let endpoint = proxy.endpoint();
    let agent = Agent::start(&backend, &[("container.docker.endpoint", &endpoint)]);
    agent.wait_port();
    eventually("it says why", || agent.get("/ready").1.contains("this engine has no seccomp"));
    let id = backend.enqueue(job("BASH", "echo ran")).expect("queued");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(backend.job(&id).expect("there").claims, 0);
    let settings = [("container.docker.endpoint", endpoint.as_str()), ("container.security.seccompProfile", "engine")];
    let agent = agent.again(&backend, &settings);
    assert_eq!(stdout(&finished(&backend, &id)), "ran\n");
    agent.stop();
}

/// A machine beyond this host, in a network namespace; gone with its owner.
struct Outside {
    name: String,
    listener: Child,
}

impl Outside {
    const ADDRESS: &str = "203.0.113.77";

    fn start() -> Self {
        let name = unique("escapes");
        let ip = |arguments: &str| {
            let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip, from iproute2");
            assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        };
        ip(&format!("netns add {name}"));
        let listen = "import socket\ns = socket.create_server((\"0.0.0.0\", 80))\nwhile True: s.accept()[0].close()";
        let listener = Command::new("ip").args(["netns", "exec", &name, "python3", "-c", listen]).spawn().expect("ip");
        let this = Self { name, listener };
        ip(&format!("link add escapes0 type veth peer name eth0 netns {}", this.name));
        ip("addr add 203.0.113.1/24 dev escapes0");
        ip("link set escapes0 up");
        for step in ["addr add 203.0.113.77/24 dev eth0", "link set eth0 up", "route add default via 203.0.113.1"] {
            ip(&format!("-n {} {step}", this.name));
        }
        let at = (Self::ADDRESS, 80);
        eventually("this host reaches the outside", || TcpStream::connect(at).is_ok());
        this
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.listener.kill();
        let _ = self.listener.wait();
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
        // The namespace may live on for a moment; the cable must not.
        let _ = Command::new("ip").args(["link", "delete", "escapes0"]).output();
    }
}

/// The gateway is this host, which is another matter: see docs/escapes.md.
#[test]
fn from_an_internal_network_nothing_outside_is_reached() {
    let _machine = alone();
    let _network = Network("cronium1");
    let _outside = Outside::start();
    let script = format!(
        "import socket\ns = socket.socket()\ns.settimeout(3)\nprint(s.connect_ex(('{}', 80)))\n\
         six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\nprint(six.connect_ex(('2001:db8::1', 53)) != 0)\n",
        Outside::ADDRESS
    );
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let open = finish(&backend, job("PYTHON", &script));
    assert_eq!(stdout(&open), "0\nTrue\n", "the control: it is reached without. {}", stderr(&open));
    let agent = agent.again(&backend, &[("container.network.internal", "true")]);
    let closed = finish(&backend, job("PYTHON", &script));
    assert!(
        ["11\nTrue\n", "101\nTrue\n", "113\nTrue\n"].contains(&stdout(&closed)),
        "{} {}",
        stdout(&closed),
        stderr(&closed)
    );
    agent.stop();
}

/// Attacks on an engine by copies, builds and commands in a running container need that somebody uses these.
#[test]
fn the_agent_copies_builds_and_executes_nothing_in_containers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/docker");
    let files = std::fs::read_dir(folder).expect("src/docker").map(|entry| entry.expect("an entry").path());
    let code: String = files.map(|path| std::fs::read_to_string(path).expect("text")).collect();
    assert!(code.contains("/containers/{id}/attach"), "this looks at the calls to the engine");
    for call in ["/archive", "/copy", "/exec", "/build", "/commit", "/plugins", "/session", "/swarm", "/volumes"] {
        assert!(!code.contains(call), "{call}");
    }
}

#[test]
fn memory_that_is_no_heap_and_no_file_counts() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("container.resources.defaults.memory", "64MB")]);
    for (what, take) in [
        ("memfd", "f = os.memfd_create('x')\nfor _ in range(200): os.write(f, bytes(1 << 20))"),
        (
            "shared memory",
            "l = ctypes.CDLL(None)\nl.shmat.restype = ctypes.c_void_p\n\
             for _ in range(200): ctypes.memset(l.shmat(l.shmget(0, 1 << 20, 0o1600), None, 0), 1, 1 << 20)",
        ),
        (
            "buffers of sockets",
            "kept = []\nfor _ in range(3000):\n    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n    \
             one.setblocking(False)\n    kept += [one, other]\n    try:\n        while True: one.send(bytes(60000))\n    \
             except BlockingIOError: pass",
        ),
    ] {
        let row = finish(
            &backend,
            job("PYTHON", &format!("import ctypes, os, socket\nprint('begun')\n{take}\nprint('never')\n")),
        );
        let reason = record(&backend, &row)["executionMetadata"]["reason"].clone();
        assert_eq!((stdout(&row), &reason), ("begun\n", &json!("memory")), "{what}: {}", stderr(&row));
    }
    agent.stop();
}

#[test]
fn descriptors_and_terminals_end_before_they_end_for_the_host() {
    let _machine = alone();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[("container.resources.defaults.memory", "128MB")]);
    let script = "import os, time\nkept = []\ntry:\n    while True: kept.append(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))\n\
        except OSError as error: print('terminals', len(kept), error.errno, flush=True)\ntime.sleep(30)\n";
    let holder = backend.enqueue(job("PYTHON", script)).expect("queued");
    eventually("it has what it can get", || {
        !backend.lines(&holder).is_empty() || !backend.job(&holder).expect("it").reports.is_empty()
    });
    let opened =
        Command::new("python3").args(["-c", "import os; os.openpty(); print(os.getpid())"]).output().expect("python3");
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    backend.cancel(&holder, Via::WebSocket);
    let row = finished(&backend, &holder);
    assert!(stdout(&row).is_empty() || stdout(&row).ends_with(" 28\n"), "{}", stdout(&row));

    let script = "import os\nkept = 0\ntry:\n    while True: os.open('/dev/null', os.O_RDONLY); kept += 1\n\
        except OSError as error: print(kept, error.errno)\n";
    let row = finish(&backend, job("PYTHON", script));
    let reason = record(&backend, &row)["executionMetadata"]["reason"].clone();
    assert!(reason == "memory" || stdout(&row).ends_with(" 24\n"), "{reason} {}", stdout(&row));
    agent.stop();
}

/// Its own process 1 belongs to the job's user: where Yama does not forbid that, a script may write into its memory.
#[test]
fn a_script_that_breaks_its_own_init_ends_at_its_limit() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("jobs.stopGrace", "1s")]);
    let mut hostile = job("PYTHON", include_str!("../escapes/init.py"));
    hostile["execution"]["timeout"] = json!(3);
    let row = finish(&backend, hostile);
    let (said, status) = (stdout(&row), report(&row)["status"].clone());
    assert!(
        said == "broken\n" && status == "timeout" || said.is_empty() && status == "failed",
        "{said}{}",
        stderr(&row)
    );
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo fine"))), "fine\n");
    assert!(docker(&["info", "-f", "{{.ID}}"]).len() > 8);
    agent.stop();
}

//! What a script must not be able to do: asked from the inside by a script, and from the outside by inspect.

use std::time::{Duration, Instant};

use cronium_dev_backend::DevBackend;
use serde_json::{Value, json};

use crate::harness::{
    Agent, Folder, deployed, docker, eventually, finish, finished, job, on_podman, shared, stderr, stdout, unique,
    with_socket,
};

/// Queues a job and waits for its first line; the container's id and the job's.
fn started(backend: &DevBackend, agent: &Agent, job: Value) -> (String, String) {
    let id = backend.enqueue(job).expect("queued");
    eventually("the first line", || !backend.lines(&id).is_empty());
    let mut container = None;
    eventually("the container has the job's name", || {
        container = agent.container_of(&id);
        container.is_some()
    });
    (container.expect("a container"), id)
}

fn inspect(container: &str) -> Value {
    let all: Value = serde_json::from_str(&docker(&["inspect", container])).expect("JSON");
    all[0].clone()
}

#[test]
pub fn from_the_inside_every_lock_holds() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let script = r#"
id -u; id -g
grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb):' /proc/self/status | awk '{print $2}' | sort -u
grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | awk '{print $2}' | tr '\n' ' '; echo
for d in / /etc /usr/bin /root /var /var/tmp /run /home; do touch $d/x 2>/dev/null && echo "could write $d"; done
touch /workspace/x /tmp/x && echo writable
grep -E ' (/workspace|/tmp) ' /proc/mounts | awk '{print $2, $3, $4}' | sed -E 's/,(size|nr_inodes|uid|gid|mode|inode64)[^,]*//g'
cp /bin/true /tmp/t && /tmp/t 2>/dev/null && echo "could run from /tmp"
ls /var/run/docker.sock /run/docker.sock 2>/dev/null
find / -xdev -perm /6000 -type f 2>/dev/null
mount -t tmpfs none /mnt 2>/dev/null && echo mounted
unshare -r true 2>/dev/null && echo "user namespace"
ls /dev | grep -E '^(sd|vd|nvme|mem|kmem)'
cat /proc/1/comm
"#;
    let row = finish(&backend, job("BASH", script));
    let said = stdout(&row);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(&lines[..5], ["1000", "1000", "0000000000000000", "1 2 ", "writable"], "{said}{}", stderr(&row));
    let tmpfs: Vec<&&str> = lines.iter().filter(|line| line.contains(" tmpfs ")).collect();
    assert_eq!(tmpfs.len(), 2, "{said}");
    assert!(tmpfs.iter().all(|mount| mount.contains("nosuid") && mount.contains("nodev")), "{said}");
    assert!(tmpfs.iter().any(|mount| mount.starts_with("/tmp ") && mount.contains("noexec")), "{said}");
    // Nothing else was said: no write, no setuid file, no socket, no device, no mount; and the first process is an init.
    let init = if on_podman() { "podman-init" } else { "docker-init" };
    assert_eq!(lines[5 + 2..], [init], "{said}");
    agent.stop();
}

#[test]
pub fn from_the_outside_the_configuration_is_locked_and_holds_no_secret() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[("logging.level", "trace")]);
    let (secret, word) = (unique("topsecret"), unique("scriptword"));
    let mut long = job("BASH", &format!("echo begun; : {word}; sleep 30"));
    long["execution"]["environment"] = json!({ "PASSWORD": secret, "ODD-NAME": secret });
    let (container, id) = started(&backend, &agent, long);
    let all = inspect(&container);
    let host = &all["HostConfig"];
    // What it refuses is tried in `system_calls`.
    let profile = host["SecurityOpt"][1].as_str().filter(|text| text.starts_with("seccomp={"));
    for (what, found, wanted) in [
        ("user", &all["Config"]["User"], json!("1000:1000")),
        ("read-only root", &host["ReadonlyRootfs"], json!(true)),
        ("capabilities", &host["CapDrop"], json!(["ALL"])),
        ("added capabilities", &host["CapAdd"], Value::Null),
        ("privileged", &host["Privileged"], json!(false)),
        ("privileges", &host["SecurityOpt"], json!(["no-new-privileges", profile])),
        ("init", &host["Init"], json!(true)),
        ("network", &host["NetworkMode"], json!("cronium0")),
        ("binds", &host["Binds"], Value::Null),
        ("log driver", &host["LogConfig"]["Type"], json!("json-file")),
        ("agent label", &all["Config"]["Labels"]["cronium.agent.id"], json!(agent.id)),
        ("managed label", &all["Config"]["Labels"]["cronium.managed"], json!("true")),
    ] {
        assert_eq!(*found, wanted, "{what}");
    }
    assert_eq!(host["Memory"], host["MemorySwap"]);
    let labels = &all["Config"]["Labels"];
    if labels["cronium.warm"] == "true" {
        // It was made before the job was known, with room for a socket.
        assert_eq!((&labels["cronium.job.id"], &all["Mounts"][1]), (&Value::Null, &Value::Null));
        assert_eq!(
            (&all["Mounts"][0]["Destination"], &all["Mounts"][0]["RW"]),
            (&json!("/run/cronium"), &json!(false))
        );
    } else {
        assert_eq!((&labels["cronium.job.id"], &all["Mounts"]), (&json!(id), &json!([])));
        let execution = labels["cronium.execution.id"].as_str().expect("label");
        assert_eq!(all["Name"], json!(format!("/cronium-{execution}")));
    }

    let folder =
        std::path::PathBuf::from(docker(&["info", "-f", "{{.DockerRootDir}}"])).join("containers").join(&container);
    for file in ["config.v2.json", "hostconfig.json"] {
        let kept = std::fs::read_to_string(folder.join(file)).expect("the engine's file");
        assert!(!kept.contains(&secret) && !kept.contains(&word), "{file} holds the job");
    }
    let places = [
        ("inspect", all.to_string()),
        ("the agent's log", agent.log()),
        ("/metrics", agent.get("/metrics").1),
        ("/health", agent.get("/health").1),
        ("arguments", arguments_of_all_processes()),
    ];
    for (place, text) in &places {
        assert!(!text.contains(&secret), "the secret is in {place}");
        assert!(!text.contains(&word) || *place == "arguments", "the script is in {place}");
        assert!(!text.contains("Bearer "), "the token is in {place}");
    }
    backend.cancel(&id, cronium_dev_backend::Via::WebSocket);
    finished(&backend, &id);
    assert!(!agent.log().contains(&secret));
    agent.stop();
}

/// What `ps` shows to everybody.
fn arguments_of_all_processes() -> String {
    let entries = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
        .collect::<Vec<_>>()
        .join("\n")
}

/// A job that listens, and one that tries to connect to it: what the second says.
fn can_they_talk(settings: &[(&str, &str)]) -> String {
    let backend = with_socket();
    let agent = Agent::start(&backend, settings);
    let listen = "import socket\ns = socket.create_server(('0.0.0.0', 7777))\nprint('ready', flush=True)\ns.settimeout(20)\ntry:\n    s.accept()\nexcept TimeoutError:\n    pass\n";
    let (container, listener) = started(&backend, &agent, job("PYTHON", listen));
    let networks = inspect(&container)["NetworkSettings"]["Networks"].clone();
    let address = networks.as_object().expect("networks").values().next().expect("one")["IPAddress"].clone();
    let address = address.as_str().expect("an address");
    let connect = format!(
        "import socket\ntry:\n    socket.create_connection(('{address}', 7777), 3)\n    print('connected')\nexcept OSError as e:\n    print('no:', type(e).__name__)\n"
    );
    let said = stdout(&finish(&backend, job("PYTHON", &connect))).to_owned();
    backend.cancel(&listener, cronium_dev_backend::Via::WebSocket);
    finished(&backend, &listener);
    agent.stop();
    said
}

/// The network that only this test uses; gone with its owner.
struct SharedNetwork;

impl Drop for SharedNetwork {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["network", "rm", "cronium2"]).output();
    }
}

#[test]
pub fn jobs_cannot_reach_each_other() {
    let _machine = shared();
    assert_eq!(can_they_talk(&[]), "no: TimeoutError\n");
    // The same where traffic is allowed, or the test would show nothing.
    let _network = SharedNetwork;
    assert_eq!(can_they_talk(&[("container.network.enableICC", "true")]), "connected\n");
}

#[test]
pub fn without_a_network_there_is_only_the_loopback() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("container.network.mode", "none")]);
    let row = finish(&backend, job("BASH", "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"));
    assert_eq!(stdout(&row), "lo\n");
    agent.stop();
}

#[test]
pub fn a_seccomp_profile_from_a_file_binds() {
    let _machine = shared();
    let folder = Folder::new();
    let profile = folder.path().join("profile.json");
    let text = json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }] });
    std::fs::write(&profile, text.to_string()).expect("write");
    let backend = deployed();
    let agent = Agent::start(&backend, &[("container.security.seccompProfile", profile.to_str().expect("text"))]);
    let row = finish(&backend, job("BASH", "mkdir /workspace/x || echo refused; touch /workspace/y && echo allowed"));
    assert_eq!(stdout(&row), "refused\nallowed\n", "{}", stderr(&row));
    assert!(stderr(&row).contains("Operation not permitted"));
    agent.stop();
}

#[test]
pub fn zombies_are_reaped_and_term_reaches_the_scripts_children() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[("jobs.stopGrace", "5s")]);
    let orphans =
        "for i in $(seq 5); do (sleep 0.1 &) ; done; sleep 0.6; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
    assert_eq!(stdout(&finish(&backend, job("BASH", orphans))), "0\n");
    // The shell waits for its child; both hear TERM, so that the trap runs long before KILL. Podman's init passes it to
    // the shell alone.
    let trapped = "trap 'echo cleaned up; exit 9' TERM; echo begun; sleep 60";
    let (_, id) = started(&backend, &agent, job("BASH", trapped));
    let begun = Instant::now();
    backend.cancel(&id, cronium_dev_backend::Via::WebSocket);
    let row = finished(&backend, &id);
    if on_podman() {
        assert_eq!(stdout(&row), "begun\n");
        assert!(begun.elapsed() < Duration::from_secs(15), "KILL came late: {:?}", begun.elapsed());
    } else {
        assert_eq!(stdout(&row), "begun\ncleaned up\n");
        assert!(begun.elapsed() < Duration::from_secs(4), "KILL was needed: {:?}", begun.elapsed());
    }
    agent.stop();
}

#[test]
pub fn nothing_of_a_job_is_left_in_the_engine() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    for script in ["exit 0", "exit 1", "kill -9 $$", "echo $RANDOM > /workspace/file"] {
        // Others make volumes and networks on the same engine: only those of this job's container count.
        let (container, id) = started(&backend, &agent, job("BASH", &format!("echo begun; sleep 1; {script}")));
        let container = inspect(&container);
        let mounts = container["Mounts"].as_array().expect("a list").iter();
        let volumes: Vec<&str> = mounts.filter_map(|mount| mount["Name"].as_str()).collect();
        let networks = container["NetworkSettings"]["Networks"].as_object().expect("networks");
        let own = if on_podman() { "none" } else { "cronium0" };
        assert!(networks.keys().all(|name| name == own), "a network of a job: {networks:?}");
        finished(&backend, &id);
        let left = docker(&["volume", "ls", "-q"]);
        assert!(!left.lines().any(|name| volumes.contains(&name)), "a volume of {script:?} in {left}");
        eventually("no container", || agent.containers().is_empty());
    }
    agent.stop();
}

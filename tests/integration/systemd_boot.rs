//! A host with systemd as its first process, in a container of our own: the agent installed by the shipped script and
//! run by the shipped unit, against the real engine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cronium_dev_backend::{DevBackend, JobRow};
use serde_json::{Value, json};

use crate::harness::{
    Folder, backend_on_every_address, binary, docker, eventually, finish, finished, job, require_engine, shared,
    stdout, tail, unique,
};

const IMAGE: &str = "cronium/test:systemd";
const UNIT: &str = "cronium-agent.service";
const SOCKET: &str = "/var/run/docker.sock";

/// What the engine's way of mounting lacks: control groups that can be written, and mounts that units see which systemd
/// makes later (credentials).
const FIRST: &str = "for at in $(grep -o ' /sys/fs/cgroup[^ ]*' /proc/mounts); do mount -o remount,bind,rw $at; done; \
                     mount --make-rshared /; exec /sbin/init";

/// What a test changes of the unit: waits that would make it long.
const DROP_IN: &str = "[Service]\nWatchdogSec=6\nRestartSec=200ms\n";

/// The list of the files of an installation.
pub const LIST: &str = "configs/package/files";

/// Its rows: mode, source, target; without the program, whose source is no file of the tree.
pub fn listed() -> impl Iterator<Item = [&'static str; 3]> {
    let rows = include_str!("../../configs/package/files").lines().filter(|line| line.starts_with('0'));
    let rows = rows.map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        <[&str; 3]>::try_from(words).unwrap_or_else(|words| panic!("not mode, source and target: {words:?}"))
    });
    rows.filter(|[_, source, _]| *source != "PROGRAM")
}

/// A machine that is gone with its owner; where the test was killed, in ten minutes.
pub struct Machine {
    name: String,
    agent: String,
    folder: Folder,
    pub backend: DevBackend,
}

impl Machine {
    /// A booted one.
    pub fn boot() -> Self {
        require_engine();
        let found = Command::new("docker").args(["image", "inspect", IMAGE]).output().expect("docker");
        assert!(found.status.success(), "no image {IMAGE}: run scripts/boot-image.sh");
        let backend = backend_on_every_address();
        let machine = Self { name: unique("boot"), agent: unique("agent"), folder: Folder::new(), backend };
        machine.pack();
        let label = format!("cronium.agent.id={}", machine.name);
        // A separate network, not the engine's default one, which an engine need not have.
        docker(&["network", "create", "--label", "cronium.managed=true", &machine.name]);
        let source = format!("{}:/source:ro", machine.folder.path().display());
        let socket = format!("{SOCKET}:{SOCKET}");
        // Not --privileged: a machine whose own rights are limited could not give that.
        let mut arguments = vec!["run", "-d", "--rm", "--name", &machine.name, "--hostname", "edge"];
        arguments.extend(["--label", "cronium.managed=true", "--label", &label, "--stop-signal", "SIGRTMIN+3"]);
        arguments.extend(["--cap-add", "SYS_ADMIN", "--cap-add", "DAC_READ_SEARCH", "--cgroupns", "private"]);
        arguments.extend(["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]);
        arguments.extend(["--tmpfs", "/run:exec", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"]);
        arguments.extend(["--network", &machine.name, "-v", &source, "-v", &socket]);
        arguments.extend([IMAGE, "sh", "-c", FIRST]);
        docker(&arguments);
        eventually("systemd has booted", || {
            let state = machine.run(&["systemctl", "is-system-running"]);
            ["running", "degraded"].contains(&text(&state.stdout).trim())
        });
        machine.sh("systemd-run --quiet --on-active=600 systemctl poweroff");
        machine
    }

    /// What is carried to the machine: the sources' part that a release has, the program, its sum, the token.
    fn pack(&self) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for file in ["scripts/install.sh", LIST].into_iter().chain(listed().map(|[_, source, _]| source)) {
            let target = self.path(file);
            std::fs::create_dir_all(target.parent().expect("a folder")).expect("folder");
            std::fs::copy(root.join(file), target).expect(file);
        }
        std::fs::copy(binary().get_program(), self.path("cronium-agent")).expect("the program");
        let sum = Command::new("sha256sum").arg(self.path("cronium-agent")).output().expect("sha256sum");
        std::fs::write(self.path("cronium-agent.sha256"), sum.stdout).expect("write");
        std::fs::write(self.path("token"), self.backend.token()).expect("write");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn run(&self, command: &[&str]) -> Output {
        let arguments = [&["exec", "-i", &self.name], command].concat();
        Command::new("docker").args(arguments).output().expect("docker exec")
    }

    /// A shell's script on the machine, which must succeed; what it said.
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(&["sh", "-c", script]);
        let said = text(&output.stdout);
        assert!(output.status.success(), "{script}: {}: {said}{}", output.status, text(&output.stderr));
        said.trim_end().to_owned()
    }

    /// One property of the unit.
    pub fn show(&self, property: &str) -> String {
        self.sh(&format!("systemctl show --value -p {property} {UNIT}"))
    }

    pub fn journal(&self, more: &str) -> String {
        self.sh(&format!("journalctl --no-pager -u {UNIT} {more}"))
    }

    /// Installs the agent as an operator does, and starts it.
    fn install(&self) {
        self.place();
        self.sh(&format!("systemctl enable --now {UNIT}"));
        self.is_up();
    }

    /// Installs the agent, and does not start it.
    fn place(&self) {
        self.has_engine();
        self.sh("/source/scripts/install.sh --binary /source/cronium-agent --token-file /source/token");
        let config = json!({
            "api": { "endpoint": self.endpoint() },
            "orchestrator": { "id": self.agent },
            "logging": { "format": "text" },
            "jobs": { "pollInterval": "100ms", "maxPollInterval": "500ms", "leaseRenewal": "2s" },
        });
        // JSON is YAML.
        self.sh(&format!("echo '{config}' >/etc/cronium/cronium-orchestrator.yaml"));
        self.sh(&format!(
            "mkdir -p /etc/systemd/system/{UNIT}.d && printf '{DROP_IN}' >/etc/systemd/system/{UNIT}.d/test.conf"
        ));
        self.sh("systemctl daemon-reload");
    }

    /// What a host with Docker has: the group of the engine's socket.
    pub fn has_engine(&self) {
        use std::os::unix::fs::MetadataExt as _;
        let group = std::fs::metadata(SOCKET).expect("the engine's socket").gid();
        self.sh(&format!("groupadd -o -g {group} docker"));
    }

    /// The backend's address, as the machine sees it.
    pub fn endpoint(&self) -> String {
        let gateway = docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &self.name]);
        format!("http://{gateway}:{}", self.backend.address().port())
    }

    /// The command of a page, as it stands there, without its comment.
    fn as_written(&self, page: &str, begins: &str) -> String {
        let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).expect("a page");
        let line = page.lines().find(|line| line.starts_with(begins)).unwrap_or_else(|| panic!("no {begins}"));
        let command = line.split(" #").next().expect("a part").trim_end();
        self.sh(&format!("{command} || echo \"exit code $?\""))
    }

    pub fn is_up(&self) {
        assert_eq!((self.show("ActiveState"), self.show("SubState")), ("active".to_owned(), "running".to_owned()));
    }

    /// The machine's first process, as this host numbers it.
    pub fn first_pid(&self) -> String {
        docker(&["inspect", "-f", "{{.State.Pid}}", &self.name])
    }

    pub fn main_pid(&self) -> u32 {
        self.show("MainPID").parse().expect("a process")
    }

    /// Waits until the agent that was `before` has a successor that is ready.
    pub fn comes_back(&self, before: u32) {
        eventually("another agent", || {
            let pid = self.main_pid();
            pid != 0 && pid != before && self.show("ActiveState") == "active"
        });
    }

    /// Queues a script that runs for some seconds, and waits for its first line.
    pub fn begin(&self, seconds: u32) -> String {
        let script = format!("echo \"run $(cat /proc/sys/kernel/random/uuid)\"; sleep {seconds}; echo ended; exit 7");
        let id = self.backend.enqueue(job("BASH", &script)).expect("queued");
        eventually("it runs", || !self.backend.lines(&id).is_empty());
        id
    }

    /// The script ran once, to its end, and was reported once.
    pub fn ran_once(&self, id: &str) -> JobRow {
        let row = finished(&self.backend, id);
        assert_eq!((row.exit_code, row.claims), (Some(7), 1), "{row:?}");
        let lines = self.backend.lines(id);
        let runs: std::collections::BTreeSet<_> =
            lines.iter().map(|line| &line.text).filter(|t| t.starts_with("run ")).collect();
        assert_eq!(runs.len(), 1, "the script ran more than once: {runs:?}");
        assert!(stdout(&row).starts_with("run ") && stdout(&row).ends_with("\nended\n"), "{}", stdout(&row));
        row
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.run(&["journalctl", "--no-pager", "-n", "60"]);
            eprintln!("---- journal of {} ----\n{}", self.name, tail(&text(&output.stdout), 60));
        }
        let _ = Command::new("docker").args(["rm", "-f", &self.name]).output();
        let _ = Command::new("docker").args(["network", "rm", &self.name]).output();
        let filter = format!("label=cronium.agent.id={}", self.agent);
        for id in docker(&["ps", "-aq", "--filter", &filter]).lines() {
            docker(&["rm", "-f", id]);
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Install, start, work, reload, kill, watchdog, stop, journal, uninstall: one machine's life, since a boot takes time.
#[test]
fn the_agent_lives_under_systemd() {
    let _machine = shared();
    let machine = Machine::boot();
    is_looked_at(&machine);
    started(&machine);
    reloads(&machine);
    is_killed(&machine);
    hangs(&machine);
    stops(&machine);
    wrote_a_sane_journal(&machine);
    is_removed(&machine);
}

/// The pages' commands for looking at a host, before the first start and as the service's user.
fn is_looked_at(machine: &Machine) {
    machine.place();
    let as_root = machine.as_written("README.md", "cronium-agent doctor ");
    machine.sh(&format!("systemctl enable --now {UNIT}"));
    machine.is_up();
    let as_the_service = machine.as_written("docs/operations.md", "systemd-run ");
    let user = format!("written by uid {};", machine.sh("id -u cronium"));
    for (said, words) in [(&as_root, "which uid 0 can write"), (&as_the_service, user.as_str())] {
        assert!(said.contains(words) && said.contains("ok    token ") && said.contains(" 0 fail in "), "{said}");
        assert!(!said.contains("exit code"), "{said}");
    }
}

/// Ready, with a status, as the user that the unit names, with the token as a credential.
fn started(machine: &Machine) {
    eventually("a status", || machine.show("StatusText").starts_with("claiming; 0 jobs running; last contact 20"));
    assert!(machine.sh(&format!("systemctl status --no-pager {UNIT}")).contains("Status: \"claiming;"));
    let pid = machine.main_pid();
    assert_eq!(machine.sh(&format!("stat -c %U:%G /proc/{pid}")), "cronium:cronium");
    assert_eq!(machine.sh("stat -c '%U %a' /etc/cronium/api-token /var/lib/cronium"), "root 600\ncronium 700");
    let token = machine.backend.token();
    for file in ["environ", "cmdline"] {
        assert!(!machine.sh(&format!("tr '\\0' '\\n' </proc/{pid}/{file}")).contains(token), "{file}");
    }
    let row = finish(&machine.backend, job("BASH", "echo from the edge; id -u"));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "from the edge\n1000\n"));
}

fn reloads(machine: &Machine) {
    let pid = machine.main_pid();
    machine.sh(&format!("systemctl reload {UNIT}"));
    eventually("the reload is over", || machine.show("ActiveState") == "active");
    assert_eq!(machine.main_pid(), pid, "it is the same agent");
    // A bad one is reported to the caller, and harms nothing.
    let file = "/etc/cronium/cronium-orchestrator.yaml";
    machine.sh(&format!("cp {file} /root/good.yaml && echo 'jobs: [' >>{file}"));
    let said = machine.sh(&format!("systemctl reload {UNIT} && echo done || echo refused"));
    assert!(said.ends_with("refused"), "{said}");
    let journal = machine.journal("-n 50");
    assert!(journal.contains("refused, since it is not valid"), "{journal}");
    machine.sh(&format!("cat /root/good.yaml >{file} && systemctl reload {UNIT}"));
    eventually("the reload is over", || machine.show("ActiveState") == "active");
    assert_eq!(machine.main_pid(), pid, "it is the same agent");
    let row = finish(&machine.backend, job("BASH", "echo after the reload"));
    assert_eq!(stdout(&row), "after the reload\n");
}

/// kill -9: it comes back by itself, and the job goes on.
fn is_killed(machine: &Machine) {
    let id = machine.begin(4);
    let pid = machine.main_pid();
    machine.sh(&format!("systemctl kill --kill-who=main --signal=KILL {UNIT}"));
    machine.comes_back(pid);
    assert_eq!(machine.show("NRestarts"), "1");
    machine.ran_once(&id);
}

/// SIGSTOP, of which the agent learns nothing: the watchdog ends it, and the job goes on.
fn hangs(machine: &Machine) {
    let id = machine.begin(10);
    let pid = machine.main_pid();
    let begun = Instant::now();
    machine.sh(&format!("kill -STOP {pid}"));
    machine.comes_back(pid);
    assert!(begun.elapsed() > Duration::from_secs(3), "not by the watchdog: {:?}", begun.elapsed());
    assert_eq!(machine.show("NRestarts"), "2");
    assert!(machine.journal("").contains("Watchdog timeout"));
    machine.ran_once(&id);
}

/// A stop waits for the job that runs.
fn stops(machine: &Machine) {
    let id = machine.begin(3);
    let status = machine.show("StatusText");
    assert!(status.contains("1 job running"), "{status}");
    machine.sh(&format!("systemctl stop {UNIT}"));
    let row = machine.backend.job(&id).expect("the job");
    assert_eq!(row.terminal_reports(), 1, "reported before the agent ended: {row:?}");
    machine.ran_once(&id);
    assert_eq!((machine.show("ActiveState"), machine.show("Result")), ("inactive".to_owned(), "success".to_owned()));
}

/// Lines with their level, each with one time, which is the journal's, and nothing that a terminal would act on.
fn wrote_a_sane_journal(machine: &Machine) {
    let lines = machine.journal("-o json --output-fields=MESSAGE,PRIORITY,_CMDLINE");
    let own: Vec<(String, String)> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        // Not what `reload` prints for a person.
        .filter(|line| line["_CMDLINE"].as_str().is_some_and(|line| line.contains("cronium-agent run ")))
        .map(|line| {
            // The journal gives what is no printable text as numbers.
            let message = line["MESSAGE"].as_str().unwrap_or_else(|| panic!("no text: {line}"));
            (line["PRIORITY"].as_str().expect("a level").to_owned(), message.to_owned())
        })
        .collect();
    let has = |priority: &str, words: &str| own.iter().any(|(p, m)| p == priority && m.contains(words));
    assert!(has("6", "claimed: bash script") && has("6", "stopped") && has("4", "going on with it"), "{own:#?}");
    for (priority, message) in &own {
        let wanted = match priority.as_str() {
            "3" => "[ERROR] ",
            "4" => "[WARN] ",
            _ => "[INFO] ",
        };
        assert!(message.starts_with(wanted), "its time or its level stands twice, or is wrong: {priority} {message}");
        assert!(!message.contains('\u{1b}') && !message.contains(machine.backend.token()), "{message}");
    }
}

fn is_removed(machine: &Machine) {
    machine.sh("/source/scripts/install.sh --uninstall --purge");
    let left = machine.sh(
        "ls -d /etc/cronium /var/lib/cronium /usr/local/bin/cronium-agent 2>/dev/null; getent passwd cronium; true",
    );
    assert_eq!(left, "");
    assert_eq!(machine.show("LoadState"), "not-found");
}

/// One thread of the agent that hangs, and nothing else of it: the pings stop, and systemd starts it afresh.
#[test]
fn one_thread_that_hangs_gets_the_agent_restarted() {
    let _machine = shared();
    let machine = Machine::boot();
    machine.install();
    let pid = machine.main_pid();
    let outside = outside_pid(&machine);
    let thread = thread_called(outside, "log-streamer");
    // Only a debugger stops one thread of many: this one holds it until it is killed with the agent.
    let script = "import ctypes, sys, time\n\
                  c = ctypes.CDLL(None, use_errno=True)\n\
                  tid = int(sys.argv[1])\n\
                  assert c.ptrace(0x4206, tid, None, None) == 0, ctypes.get_errno()\n\
                  assert c.ptrace(0x4207, tid, None, None) == 0, ctypes.get_errno()\n\
                  time.sleep(120)\n";
    let mut holder = Command::new("python3").args(["-c", script, &thread.to_string()]).spawn().expect("python3");
    eventually("the thread is held", || {
        let status = std::fs::read_to_string(format!("/proc/{outside}/task/{thread}/status")).unwrap_or_default();
        status.contains("State:\tt")
    });
    // The rest of it works meanwhile.
    let row = finish(&machine.backend, job("BASH", "echo without a live log"));
    assert_eq!(stdout(&row), "without a live log\n");
    assert_eq!(machine.main_pid(), pid, "not restarted yet");
    eventually("the watchdog's word", || machine.journal("").contains("Watchdog timeout"));
    let _ = holder.kill();
    let _ = holder.wait();
    machine.comes_back(pid);
    assert!(machine.journal("").contains("live log has not got on for"), "{}", machine.journal(""));
}

/// The agent's process as this host sees it: the one whose first process is the machine's.
fn outside_pid(machine: &Machine) -> u32 {
    let init = machine.first_pid();
    let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = space(&init).expect("its namespace");
    let all = std::fs::read_dir("/proc").expect("/proc");
    let names = all.filter_map(|entry| entry.expect("an entry").file_name().into_string().ok());
    let found: Vec<u32> = names
        .filter(|name| name.parse::<u32>().is_ok() && space(name).as_ref() == Some(&own))
        .filter(|name| {
            std::fs::read_to_string(format!("/proc/{name}/comm")).is_ok_and(|comm| comm == "cronium-agent\n")
        })
        .map(|name| name.parse().expect("a number"))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

fn thread_called(pid: u32, name: &str) -> u32 {
    let all = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    all.map(|entry| entry.expect("an entry"))
        .find(|entry| std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name))
        .and_then(|entry| entry.file_name().to_str()?.parse().ok())
        .unwrap_or_else(|| panic!("no thread {name}"))
}

//! An engine that is stopped, killed, frozen or cut off while jobs run: an engine of the tests' own, since the machine's
//! is everybody's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cronium_dev_backend::{DevBackend, JobRow};

use crate::harness::{Agent, Folder, eventually, finish, finished, job, report, shared, stderr, stdout, with_socket};

const IMAGE: &str = "cronium/runner:bash-alpine";
/// Numbered lines, one each 50 ms, and a rare exit code.
const COUNT: &str = "for n in $(seq 1 120); do echo \"line $n\"; sleep 0.05; done; exit 7";

/// A Docker engine with its own folders, socket and containerd; dropping it ends it and undoes its mounts.
pub struct Engine {
    folder: Folder,
    live_restore: bool,
    /// What a shell does before it, in its spaces of network and mounts.
    before: String,
    daemon: Option<Child>,
}

impl Engine {
    fn start(live_restore: bool) -> Self {
        Self::start_after(live_restore, "", &[IMAGE])
    }

    /// One with these images; see [`Engine::before`].
    pub fn start_after(live_restore: bool, before: &str, images: &[&str]) -> Self {
        Self::start_in(Folder::new(), live_restore, before, images)
    }

    /// The same with its data in `data` of this folder.
    pub fn start_in(folder: Folder, live_restore: bool, before: &str, images: &[&str]) -> Self {
        let mut engine = Self { folder, live_restore, before: before.to_owned(), daemon: None };
        engine.up();
        let image = engine.path("image.tar");
        let saved = Command::new("docker").args(["save", "-o"]).arg(&image).args(images).status().expect("docker");
        assert!(saved.success(), "the machine's engine lacks one of {images:?}: run scripts/build-images.sh");
        engine.docker(&["load", "-i", image.to_str().expect("a path")]);
        std::fs::remove_file(image).expect("remove");
        engine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// Starts the daemon and waits until it answers.
    pub fn up(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("a log");
        // In a separate network: an engine without a bridge removes the bridge that it finds, which is the machine's.
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", &format!("{}\nexec \"$@\"", self.before), "sh", "dockerd"]);
        // Its containerd writes its stacks there when it is slow to start.
        command.env("TMPDIR", self.folder.path());
        for (name, folder) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(name).arg(self.path(folder));
        }
        command.arg("--host").arg(self.host()).args([
            "--bridge",
            "none",
            "--iptables=false",
            "--shutdown-timeout",
            "2",
        ]);
        if self.live_restore {
            command.arg("--live-restore");
        }
        let errors = log.try_clone().expect("a handle");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().expect("dockerd");
        self.daemon = Some(child);
        let until = Instant::now() + Duration::from_secs(60);
        while !self.try_docker(&["version"]).0 {
            let log = || std::fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(Instant::now() < until, "dockerd does not answer: {}", crate::harness::tail(&log(), 20));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Docker's command line for this engine.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host()]).args(arguments);
        command
    }

    pub fn try_docker(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command(arguments).output().expect("docker");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    pub fn docker(&self, arguments: &[&str]) -> String {
        let (good, text) = self.try_docker(arguments);
        assert!(good, "docker {arguments:?}");
        text
    }

    fn signal(&self, name: &str) {
        let pid = self.daemon.as_ref().expect("a daemon").id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill").success());
    }

    /// Ends the daemon with a signal and waits for its end.
    pub fn down(&mut self, signal: &str) {
        self.signal(signal);
        let mut daemon = self.daemon.take().expect("a daemon");
        daemon.wait().expect("its end");
        if signal == "KILL" {
            // Its containerd, which it cannot end then, would hold the next one up; the scripts' shims are not its own.
            end_pid(&self.path("exec/containerd/containerd.pid"));
        }
    }

    /// An agent of this engine's, with a network that the engine has.
    pub fn agent(&self, backend: &DevBackend, more: &[(&str, &str)]) -> Agent {
        let host = self.host();
        let mut settings = vec![("container.docker.endpoint", host.as_str()), ("container.network.mode", "none")];
        settings.extend_from_slice(more);
        let agent = Agent::start(backend, &settings);
        agent.wait_ready();
        agent
    }
}

fn end_pid(file: &Path) {
    let Ok(pid) = std::fs::read_to_string(file) else { return };
    let pid = pid.trim().to_owned();
    let _ = Command::new("kill").args(["-s", "KILL", &pid]).status();
    eventually("it has ended", || !Path::new("/proc").join(&pid).exists());
    let _ = std::fs::remove_file(file);
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.daemon.is_none() {
            self.up();
        }
        let left = self.try_docker(&["ps", "-aq"]).1;
        for container in left.lines() {
            self.try_docker(&["rm", "-f", container]);
        }
        self.down("TERM");
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let own = self.folder.path().display().to_string();
        for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|at| at.starts_with(&own)) {
            let _ = Command::new("umount").args(["-l", mount]).status();
        }
    }
}

fn whole(backend: &DevBackend, row: &JobRow) {
    let expected: String = (1..=120).map(|n| format!("line {n}\n")).collect();
    assert_eq!((stdout(row), row.exit_code), (expected.as_str(), Some(7)), "{}", stderr(row));
    assert_eq!(row.terminal_reports(), 1);
    let lines = backend.lines(&row.id);
    let live: Vec<&str> = lines.iter().filter(|l| l.stream == "stdout").map(|line| line.text.as_str()).collect();
    let expected: Vec<String> = (1..=120).map(|n| format!("line {n}")).collect();
    assert_eq!(live, expected, "live lines, in order, each once");
    let numbers: BTreeSet<_> = lines.iter().map(|line| line.sequence).collect();
    assert_eq!(numbers.len(), lines.len(), "a number twice");
}

fn begun(backend: &DevBackend, id: &str, lines: usize) {
    eventually("some lines", || backend.lines(id).len() > lines);
}

fn nothing_left(engine: &Engine) {
    eventually("no container is left", || engine.docker(&["ps", "-aq"]).is_empty());
}

#[test]
fn a_script_outlives_a_restart_of_its_engine_and_no_line_is_lost_or_twice() {
    let _machine = shared();
    let backend = with_socket();
    let mut engine = Engine::start(true);
    let agent = engine.agent(&backend, &[]);
    for signal in ["TERM", "KILL"] {
        let id = backend.enqueue(job("BASH", COUNT)).expect("queued");
        begun(&backend, &id, 20);
        engine.down(signal);
        std::thread::sleep(Duration::from_secs(1));
        engine.up();
        whole(&backend, &finished(&backend, &id));
        nothing_left(&engine);
    }
    assert!(agent.log().contains("going on with the engine's copy of the output"));
    agent.stop();
}

#[test]
fn an_engine_that_ends_its_containers_is_told_from_a_script_that_fails() {
    let _machine = shared();
    let backend = with_socket();
    let mut engine = Engine::start(false);
    let agent = engine.agent(&backend, &[]);
    // Under load: several run, others wait.
    let ids: Vec<String> = (0..8).map(|_| backend.enqueue(job("BASH", COUNT)).expect("queued")).collect();
    begun(&backend, &ids[0], 10);
    engine.down("TERM");
    eventually("claims pause", || agent.get("/ready").0 == 503);
    assert!(agent.get("/health").1.contains("engine") || agent.get("/health").1.contains("docker"));
    engine.up();
    let rows: Vec<JobRow> = ids.iter().map(|id| finished(&backend, id)).collect();
    let (hit, spared): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.exit_code != Some(7));
    assert!(!hit.is_empty() && !spared.is_empty(), "{} of {} were hit", hit.len(), rows.len());
    for row in hit {
        assert_eq!((report(row)["status"].as_str(), row.terminal_reports()), (Some("failed"), 1));
        // The second is said of a script that the engine had not been seen to start.
        let said =
            ["while the engine was away", "the connection to the container broke before the script was seen to start"];
        assert!(said.iter().any(|words| stderr(row).contains(words)), "{}", stderr(row));
        assert!(stdout(row).is_empty() || stdout(row).starts_with("line 1\n"), "{}", stdout(row));
    }
    spared.iter().for_each(|row| whole(&backend, row));
    nothing_left(&engine);
    agent.stop();
}

#[test]
fn a_socket_that_is_gone_for_a_while_and_an_engine_that_is_frozen_lose_nothing() {
    let _machine = shared();
    let backend = with_socket();
    let engine = Engine::start(false);
    let agent = engine.agent(&backend, &[]);
    // The long form is a minute; the short one is longer than all that is waited for in silence.
    let away = std::env::var("CRONIUM_TEST_AWAY").ok().and_then(|text| text.parse().ok()).unwrap_or(7_u64);
    let id = backend.enqueue(job("BASH", COUNT)).expect("queued");
    // One that ends by itself while the socket is gone, and whose limit passes shortly before it is back.
    let mut limited = job("BASH", "echo begun; sleep 2.5; exit 3");
    limited["execution"]["timeout"] = serde_json::json!(away - 2);
    let in_time = backend.enqueue(limited).expect("queued");
    begun(&backend, &in_time, 0);
    begun(&backend, &id, 10);
    let (socket, hidden) = (engine.path("docker.sock"), engine.path("hidden.sock"));
    std::fs::rename(&socket, &hidden).expect("rename");
    eventually("claims pause", || agent.get("/ready").0 == 503);
    std::thread::sleep(Duration::from_secs(away));
    let waiting = backend.enqueue(job("BASH", "echo waited")).expect("queued");
    assert_eq!(backend.job(&waiting).expect("row").claims, 0);
    std::fs::rename(&hidden, &socket).expect("rename");
    whole(&backend, &finished(&backend, &id));
    let row = finished(&backend, &in_time);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(3)), "{}", stderr(&row));
    assert_eq!(stdout(&finished(&backend, &waiting)), "waited\n");

    let id = backend.enqueue(job("BASH", COUNT)).expect("queued");
    begun(&backend, &id, 10);
    engine.signal("STOP");
    std::thread::sleep(Duration::from_secs(away));
    engine.signal("CONT");
    whole(&backend, &finished(&backend, &id));
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    nothing_left(&engine);
    agent.stop();
}

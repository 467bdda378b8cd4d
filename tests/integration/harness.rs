//! The base of every test: a dev backend, an agent process with its own state folder, jobs, and a look at the
//! engine that does not go through the agent's code.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use cronium_dev_backend::{DevBackend, JobRow, Options, Settings};
use serde_json::{Value, json};

/// Longest wait for anything that a healthy machine does in a second or two.
pub const LONG: Duration = Duration::from_secs(60);

/// Tests that measure time or memory run alone; all others share the machine.
static MACHINE: RwLock<()> = RwLock::new(());

/// Held by every ordinary test.
pub fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Held by a test that measures.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A word that no other test of this run has.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    match std::env::var(OWN_PIDS) {
        // Process ids begin anew there, so that the outer one stands for it.
        Ok(outer) => format!("{prefix}-{outer}-{}", next + 1_000_000),
        Err(_) => format!("{prefix}-{}-{next}", std::process::id()),
    }
}

/// Set where a test runs once more in its own space of process ids: to the id of the one that started it.
const OWN_PIDS: &str = "CRONIUM_TEST_OWN_PIDS";

/// Runs the test of this name once more, in a space of process ids that nobody else sees into; whether this is that run.
/// For what an agent or an `exec` of somebody else on this host would otherwise take for its own to clean up.
pub fn in_own_pids(name: &str) -> bool {
    if std::env::var_os(OWN_PIDS).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc", "--kill-child=KILL"])
        .arg(std::env::current_exe().expect("a path"));
    command.args(["--exact", name, "--nocapture"]).env(OWN_PIDS, std::process::id().to_string());
    let output = command.output().expect("unshare, from util-linux");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "in its own space of process ids:\n{said}");
    false
}

thread_local! {
    /// Where agents of this thread have warm containers: how many for each language, and how many jobs have taken one.
    static WARM: Cell<Option<(Warm, u32)>> = const { Cell::new(None) };
}

/// Keys and values of `container.warm`.
pub type Warm = &'static [(&'static str, &'static str)];

/// Runs a test of cold containers once more, with agents whose containers are warm. At least one job must take one.
pub fn in_warm(warm: Warm, test: impl FnOnce()) {
    WARM.set(Some((warm, 0)));
    test();
    let taken = WARM.take();
    assert!(taken.is_some_and(|(_, taken)| taken > 0), "no job took a warm container");
}

/// A folder that is removed with its owner.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        Self::inside(&std::env::temp_dir())
    }

    pub fn inside(parent: &Path) -> Self {
        let path = parent.join(unique("cronium-test"));
        std::fs::create_dir(&path).expect("a temporary folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A process that was ended may write for a moment yet.
        let gone = |_: &u32| std::fs::remove_dir_all(&self.0).is_ok() || !self.0.exists();
        let tried = (0..100).find(|round| {
            gone(round) || {
                std::thread::sleep(Duration::from_millis(20));
                false
            }
        });
        if tried.is_none() {
            eprintln!("left behind: {}", self.0.display());
        }
    }
}

/// The dev backend as the deployed one was seen to be.
pub fn deployed() -> DevBackend {
    backend_as(Settings::default())
}

/// The same with a log socket beside it, for tests that look at lines as they arrive.
pub fn with_socket() -> DevBackend {
    backend_as(Settings::with_socket())
}

pub fn backend_as(settings: Settings) -> DevBackend {
    DevBackend::start(Options { settings, ..Options::default() }).expect("the dev backend starts")
}

/// [`with_socket`], where containers reach it too, by the address of the engine's bridge.
pub fn backend_on_every_address() -> DevBackend {
    let options = Options { listen: "0.0.0.0:0".to_owned(), settings: Settings::with_socket(), ..Options::default() };
    DevBackend::start(options).expect("the dev backend starts")
}

/// A job in the contract's shape; change what matters with [`Value`] indexing.
pub fn job(language: &str, script: &str) -> Value {
    json!({
        "id": unique("job"),
        "type": "container",
        "priority": 5,
        "createdAt": "2025-10-09T10:00:00.000Z",
        "scheduledFor": null,
        "attempts": 0,
        "execution": {
            "target": { "type": "local" },
            "script": { "type": language, "content": script, "workingDirectory": "" },
            "environment": {},
            "timeout": 60_000_000_000_u64,
            "inputData": {},
            "variables": {},
        },
        "metadata": { "eventId": 12, "userId": "u1", "originalType": "SCRIPT", "executionLogId": 7 },
    })
}

/// The engine's socket: by `DOCKER_HOST`, as for the docker command and the agent, else Docker's usual one.
pub fn engine_socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").into()
}

/// Whether that engine is Podman, on which a job has a network only if its operator made one.
pub fn on_podman() -> bool {
    static KNOWN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *KNOWN.get_or_init(|| docker(&["version", "--format", "{{json .Server.Components}}"]).contains("Podman Engine"))
}

/// The binary under test: cargo's, or the one in `CRONIUM_TEST_AGENT`, such as a static one from `dist/`.
pub fn binary() -> Command {
    binary_behind(&[])
}

/// The same, started by a program that ends in executing its last arguments.
pub fn binary_behind(before: &[&str]) -> Command {
    let program = std::env::var_os("CRONIUM_TEST_AGENT");
    let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_cronium-agent").into());
    let mut command = match before {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    // Of the tester's own settings only the engine's address reaches it.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CRONIUM_") || name == "STATE_DIRECTORY" {
            command.env_remove(name);
        }
    }
    command
}

/// The default of the key that other tests switch off, see `start_by`.
pub const PROVING: (&str, &str) = ("jobs.requireProof", "warn");

/// A running agent. Dropping it kills it and removes what it left in the engine.
pub struct Agent {
    child: Child,
    pub id: String,
    pub health_port: u16,
    folder: Arc<Folder>,
    /// Its containers are the next one's.
    handed_on: bool,
}

impl Agent {
    /// Starts one against `backend`; `settings` are keys and values as for `--set`.
    pub fn start(backend: &DevBackend, settings: &[(&str, &str)]) -> Self {
        Self::start_at(&backend.url(), backend.token(), settings)
    }

    pub fn start_at(url: &str, token: &str, settings: &[(&str, &str)]) -> Self {
        Self::start_in(Arc::new(Folder::new()), &unique("agent"), url, token, settings)
    }

    /// The next agent on the state folder of this one, which has ended or is killed now.
    pub fn again(self, backend: &DevBackend, settings: &[(&str, &str)]) -> Self {
        self.again_with(backend, backend.token(), settings)
    }

    /// The same with this token, which the backend takes from now on.
    pub fn again_with(mut self, backend: &DevBackend, token: &str, settings: &[(&str, &str)]) -> Self {
        backend.set_settings(Settings { any_token: token != backend.token(), ..backend.settings() });
        if self.is_alive() {
            self.signal("KILL");
            self.wait(LONG);
        }
        self.handed_on = true;
        let (folder, id) = (Arc::clone(&self.folder), self.id.clone());
        drop(self);
        Self::start_in(folder, &id, &backend.url(), token, settings)
    }

    /// Its state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn start_in(folder: Arc<Folder>, id: &str, url: &str, token: &str, settings: &[(&str, &str)]) -> Self {
        Self::start_by(binary(), folder, id, url, token, settings)
    }

    /// Starts one by another command line; see [`binary_behind`].
    pub fn start_behind(before: &[&str], url: &str, token: &str, settings: &[(&str, &str)]) -> Self {
        Self::start_by(binary_behind(before), Arc::new(Folder::new()), &unique("agent"), url, token, settings)
    }

    fn start_by(
        mut command: Command,
        folder: Arc<Folder>,
        id: &str,
        url: &str,
        token: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        require_engine();
        let mut pairs = vec![
            ("api.endpoint", url),
            ("jobs.pollInterval", "100ms"),
            ("jobs.maxPollInterval", "500ms"),
            ("logging.level", "debug"),
            // A proof costs two cores some seconds and runs beside the test from the sixth second on. With it, figures of time
            // would be those of a busy machine. Tests of jobs, restarts and shutdowns, and those in proofs.rs, leave the default.
            ("jobs.requireProof", "off"),
        ];
        if on_podman() {
            pairs.push(("container.network.mode", "none"));
        }
        let warm = WARM.get().map(|(warm, _)| warm);
        pairs.extend(warm.unwrap_or_default());
        // A test's own settings come last: the last of a key wins.
        pairs.extend_from_slice(settings);
        // The token goes by the environment: arguments are public.
        command.arg("run").env("CRONIUM_API_TOKEN", token);
        let agent = Self::launch(folder, id, command, &pairs);
        if warm.is_some() {
            agent.wait_ready();
            agent.wait_warm();
        }
        agent
    }

    /// Waits until as many containers wait as the configuration wants.
    pub fn wait_warm(&self) {
        let status = || -> Value {
            let mut command = binary();
            command.args(["status", "--json"]).arg("--set").arg(format!("state.dir={}", self.state().display()));
            let output = command.output().expect("status");
            serde_json::from_slice(&output.stdout).unwrap_or_default()
        };
        eventually("containers wait for jobs", || {
            let warm = &status()["warm"];
            warm.is_object() && warm["waiting"] == warm["wanted"]
        });
    }

    /// How many jobs have taken a warm container.
    pub fn taken(&self) -> u32 {
        let (_, page) = self.get("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix("cronium_warm_jobs_total{result=\"warm\"} "));
        line.map_or(0, |count| count.trim().parse().expect("a number"))
    }

    fn count_taken(&self) {
        if let Some((warm, taken)) = WARM.get()
            && TcpStream::connect(("127.0.0.1", self.health_port)).is_ok()
        {
            WARM.set(Some((warm, taken + self.taken())));
        }
    }

    /// Starts one whose configuration is this file, but for its id, its folder and its ports.
    pub fn start_by_file(folder: Arc<Folder>, file: &Path) -> Self {
        require_engine();
        let mut command = binary();
        command.arg("run").arg("--config").arg(file);
        Self::launch(folder, &unique("agent"), command, &[])
    }

    fn launch(folder: Arc<Folder>, id: &str, mut command: Command, settings: &[(&str, &str)]) -> Self {
        let id = id.to_owned();
        let health_port = free_port();
        let port = health_port.to_string();
        let [state, sockets] = ["state", "run"].map(|name| folder.path().join(name));
        let mut pairs = vec![
            ("orchestrator.id", id.as_str()),
            ("state.dir", state.to_str().expect("text")),
            ("state.runtimeDir", sockets.to_str().expect("text")),
            ("monitoring.healthPort", &port),
            ("monitoring.metricsPort", &port),
        ];
        pairs.extend_from_slice(settings);
        let log = File::options().create(true).append(true).open(folder.path().join("log")).expect("log file");
        for (key, value) in &pairs {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("clone")).stderr(log);
        let child = command.spawn().expect("the agent starts");
        Self { child, id, health_port, folder, handed_on: false }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its `state.dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        self.count_taken();
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().expect("kill");
        assert!(status.success(), "kill -{name}");
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < until, "the agent did not end within {limit:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// TERM, its end, exit code 0, and nothing of it left in the engine.
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = self.wait(LONG);
        assert_eq!(status.code(), Some(0), "{}", self.log());
        assert_eq!(self.containers(), Vec::<String>::new(), "containers were left behind");
    }

    /// Ids of all containers, running or not, that carry this agent's label, but for those that wait for its jobs.
    pub fn containers(&self) -> Vec<String> {
        let runs = Path::new(&format!("/proc/{}/cwd", self.pid())).exists();
        let all = self.containers_by_name();
        all.into_iter().filter(|(_, name)| !runs || !name.starts_with("cronium-warm-")).map(|(id, _)| id).collect()
    }

    /// The container of a job, running or not. Its name tells the job, also where its labels are older.
    pub fn container_of(&self, job: &str) -> Option<String> {
        let named = |name: &str| name.starts_with(&format!("cronium-exec-{}-", job.replace(':', "-")));
        self.containers_by_name().into_iter().find(|(_, name)| named(name)).map(|(id, _)| id)
    }

    /// Ids and names of all of them.
    pub fn containers_by_name(&self) -> Vec<(String, String)> {
        let filter = format!("label=cronium.agent.id={}", self.id);
        let all = docker(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}}", "--filter", &filter]);
        let pair = |line: &str| line.split_once(' ').map(|(id, name)| (id.to_owned(), name.to_owned()));
        all.lines().filter_map(pair).collect()
    }

    /// A figure of `/proc/<pid>/status` in kB, such as `VmHWM` (the highest RSS so far) or `VmRSS`.
    pub fn memory_kb(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status");
        let line = text.lines().find(|line| line.starts_with(&format!("{field}:"))).expect("field");
        line.split_whitespace().nth(1).expect("number").parse().expect("number")
    }

    /// The highest memory so far without the pages of the program and its libraries: a development build has some 10 MB of
    /// those, a release 6.
    pub fn own_peak_kb(&self) -> u64 {
        self.memory_kb("VmHWM").saturating_sub(self.memory_kb("RssFile"))
    }

    /// `GET path` on the health port: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.health_port, path)
    }

    /// Waits until `/ready` says 200.
    pub fn wait_ready(&self) {
        self.wait_port();
        eventually("the agent is ready", || self.get("/ready").0 == 200);
    }

    /// Waits until the health port answers.
    pub fn wait_port(&self) {
        eventually("the health port", || TcpStream::connect(("127.0.0.1", self.health_port)).is_ok());
    }

    /// The value of one series of `/metrics`, by its name with labels as written there.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics");
        let line = body.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.is_alive() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- log of agent {} ----\n{}", self.id, tail(&self.log(), 60));
        }
        if self.handed_on {
            return;
        }
        for id in self.containers() {
            // The engine may be at it already.
            let _ = Command::new("docker").args(["rm", "-f", &id]).output();
        }
    }
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Waits until `check` holds; panics with `what` after [`LONG`].
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !check() {
        assert!(Instant::now() < until, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Queues a job and waits for its report; the row as the backend has it then.
pub fn finish(backend: &DevBackend, job: Value) -> JobRow {
    let id = backend.enqueue(job).expect("a job that the backend takes");
    finished(backend, &id)
}

/// Waits for the report of a job that is queued already. There must be exactly one.
pub fn finished(backend: &DevBackend, id: &str) -> JobRow {
    let done = backend.wait_for(LONG, |b| b.job(id).is_some_and(|row| row.terminal_reports() > 0));
    let row = backend.job(id).expect("the job");
    assert!(done, "job {id} was not reported: {row:?}");
    assert_eq!(row.terminal_reports(), 1, "job {id}: {row:?}");
    row
}

/// The body of a job's one terminal report.
pub fn report(row: &JobRow) -> &Value {
    &row.reports.iter().find(|report| report.terminal).expect("a terminal report").body
}

/// A field of the report's output.
pub fn stdout(row: &JobRow) -> &str {
    report(row)["output"]["stdout"].as_str().expect("stdout")
}

/// What the script printed there, and the verdict of each ending but the script's own exit code, which stands in the report.
pub fn stderr(row: &JobRow) -> &str {
    let all = report(row)["output"]["stderr"].as_str().expect("stderr");
    let own = all.trim_end_matches('\n').rfind('\n').map_or(0, |end| end + 1);
    let code = all[own..].trim_end().strip_prefix("cronium-agent: the script ended with exit code ");
    if code.is_some_and(|code| code.parse::<i32>().is_ok()) { &all[..own] } else { all }
}

/// The execution's record as the backend has it: `executionMetadata`, timings, error.
pub fn record(backend: &DevBackend, row: &JobRow) -> Value {
    let job = backend.job_json(&row.id).expect("the job");
    job["executions"][0]["row"].clone()
}

/// Runs Docker's own command line; its standard output. A failure is a panic with its words.
pub fn docker(arguments: &[&str]) -> String {
    let output =
        Command::new("docker").args(arguments).output().expect("the docker command; apt-get install docker.io");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Whether this container runs. One that is being made, or was removed a moment ago, may be listed and not be known.
pub fn is_running(container: &str) -> bool {
    let output = Command::new("docker").args(["inspect", "--format", "{{.State.Running}}", container]).output();
    String::from_utf8_lossy(&output.expect("the docker command").stdout).trim() == "true"
}

/// Containers of the `exec` with this process id, running or not. Somebody else may use the same engine: what others run is
/// nothing that a test may count.
pub fn containers_of_exec(pid: u32) -> Vec<String> {
    let format = "{{.ID}} {{.Label \"cronium.owner\"}}";
    let all = docker(&["ps", "-a", "--no-trunc", "--filter", "label=cronium.agent.id=exec", "--format", format]);
    let owner = format!("/{pid}/");
    let own = all.lines().filter(|line| line.contains(&owner));
    own.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Fails with advice when there is no engine, or none of our images.
pub fn require_engine() {
    static CHECKED: std::sync::OnceLock<Result<(), String>> = std::sync::OnceLock::new();
    let checked = CHECKED.get_or_init(|| {
        let output = Command::new("docker")
            .args(["images", "-q", "cronium/runner"])
            .output()
            .map_err(|error| format!("no docker command ({error}): apt-get install docker.io"))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("no container engine: {error}start one (dockerd &) or run scripts/test.sh"));
        }
        let images = String::from_utf8_lossy(&output.stdout).lines().count();
        if images >= 3 { Ok(()) } else { Err("no runner images: run scripts/build-images.sh".to_owned()) }
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
}

/// A TCP port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// A plain HTTP GET: status and body.
pub fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(LONG)).expect("timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    (head.split(' ').nth(1).expect("status").parse().expect("number"), body.to_owned())
}

/// The last that who watches was told live of a job's state: `jobId`, `status`, `details`.
pub fn told_live(backend: &DevBackend) -> serde_json::Value {
    let state: serde_json::Value = serde_json::from_str(&get(backend.address().port(), "/dev/state").1).expect("JSON");
    state["agent"]["socket-status"]["last"].clone()
}

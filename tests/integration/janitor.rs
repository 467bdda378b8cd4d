//! What is left behind in the engine: found, told and removed, by the agent itself and by `gc`; and what must stay.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::engine_proxy::{Break, Proxy};
use crate::harness::{
    Agent, Folder, binary, containers_of_exec, deployed, docker, eventually, in_own_pids, job, require_engine, shared,
    unique, with_socket,
};

const IMAGE: &str = "cronium/runner:bash-alpine";

/// A container that is removed with its owner.
struct Container(String);

impl Container {
    /// Makes one with these labels, and starts it if `command` is not empty.
    fn new(labels: &[(&str, &str)], command: &[&str]) -> Self {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("--label={name}={value}")).collect();
        let mut arguments = vec![if command.is_empty() { "create" } else { "run" }, "--network=none"];
        if !command.is_empty() {
            arguments.push("--detach");
        }
        arguments.extend(labels.iter().map(String::as_str));
        arguments.push(IMAGE);
        arguments.extend(if command.is_empty() { &["true"] } else { command });
        Self(docker(&arguments).trim().to_owned())
    }

    /// One as the agent makes it.
    fn of(agent: &str, job: &str, command: &[&str]) -> Self {
        let execution = format!("exec-{job}-1");
        let labels = [
            ("cronium.managed", "true"),
            ("cronium.agent.id", agent),
            ("cronium.job.id", job),
            ("cronium.execution.id", &execution),
        ];
        Self::new(&labels, command)
    }

    fn short(&self) -> &str {
        &self.0[..12]
    }

    fn is_there(&self) -> bool {
        docker(&["ps", "-aq", "--no-trunc"]).lines().any(|id| id == self.0)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.0.is_empty() {
            return;
        }
        let _ = std::process::Command::new("docker").args(["rm", "-fv", &self.0]).output();
    }
}

/// An `exec` whose script runs, and its container.
struct Exec(Child, Container);

impl Exec {
    fn begin() -> Self {
        let folder = Folder::new();
        let script = folder.path().join("a.sh");
        std::fs::write(&script, "echo begun; sleep 300").expect("a script");
        let mut command = binary();
        command.arg("exec").arg(&script).current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("exec");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut first).expect("a line");
        assert_eq!(first, "begun\n");
        let own = containers_of_exec(child.id()).pop().expect("a container that names its process");
        Self(child, Container(own))
    }

    /// As nobody can answer it; its container, whose script goes on.
    fn kill(mut self) -> Container {
        self.0.kill().expect("killed");
        self.0.wait().expect("its end");
        assert!(self.1.is_there());
        Container(std::mem::take(&mut self.1.0))
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn gc(agent: &str, state: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = binary();
    command.arg("gc").args(more).arg("--set").arg(format!("orchestrator.id={agent}"));
    command.arg("--set").arg(format!("state.dir={}", state.display()));
    let Output { status, stdout, stderr } = command.output().expect("gc");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

/// The line of the table about a container.
fn line<'a>(table: &'a str, container: &Container) -> &'a str {
    table.lines().find(|line| line.starts_with(container.short())).unwrap_or("")
}

#[test]
fn gc_removes_what_is_ours_and_nobodys_and_nothing_else() {
    let _machine = shared();
    require_engine();
    let (folder, agent, other) = (Folder::new(), unique("gc"), unique("gc-other"));
    let state = folder.path();
    let ended = Container::of(&agent, "job-ended", &[]);
    let runs = Container::of(&agent, "job-runs", &["sleep", "300"]);
    let kept = Container::of(&agent, "job-kept", &["sleep", "300"]);
    // The journal has an entry of it: the next start goes on with it.
    std::fs::create_dir(state.join("jobs")).expect("a folder");
    std::fs::write(state.join("jobs/job-kept.job"), "an entry").expect("an entry");
    let foreign = Container::of(&other, "job-foreign", &[]);
    let plain = Container::new(&[("cronium.agent.id", &agent)], &[]);
    let bystanders = [&foreign, &plain];

    let (code, table, complaint) = gc(&agent, state, &["--dry-run", "--grace", "0s"]);
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{table}");
    assert!(line(&table, &ended).contains("job-ended") && line(&table, &ended).contains("created"), "{table}");
    assert!(line(&table, &ended).ends_with("would be removed"), "{table}");
    assert!(line(&table, &runs).contains("running") && line(&table, &runs).ends_with("would be removed"), "{table}");
    assert!(line(&table, &kept).ends_with("kept: the agent's next start sees to its job"), "{table}");
    assert!(bystanders.iter().all(|container| line(&table, container).is_empty()), "{table}");
    assert_eq!(table.lines().count(), 4, "{table}");

    let (code, table, _) = gc(&agent, state, &[]);
    assert_eq!(code, Some(0));
    assert!(line(&table, &ended).ends_with("kept: younger than 2m"), "{table}");
    assert!([&ended, &runs, &kept, &foreign, &plain].iter().all(|container| container.is_there()), "{table}");

    let (code, table, complaint) = gc(&agent, state, &["--grace", "0s"]);
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{table}");
    assert!(line(&table, &ended).ends_with("  removed") && line(&table, &runs).ends_with("  removed"), "{table}");
    assert!(!ended.is_there() && !runs.is_there(), "{table}");
    assert!([&kept, &foreign, &plain].iter().all(|container| container.is_there()), "{table}");
    assert!(!state.join("lock").exists() && !state.join("agent-id").exists(), "it leaves nothing in state.dir");

    std::fs::remove_file(state.join("jobs/job-kept.job")).expect("remove");
    let (_, table, _) = gc(&agent, state, &["--grace", "0s"]);
    assert!(!kept.is_there(), "{table}");
    let (code, text, _) = gc(&agent, state, &["--grace", "0s"]);
    assert!(code == Some(0) && text.contains("no container of agent"), "{text}");
}

/// The agents and the `exec`s of other tests, and of anybody else on this host, would remove what is left here: so they do
/// not see its processes, and cannot know that one is gone.
#[test]
fn what_a_killed_exec_has_left_goes_and_a_living_ones_stays() {
    let _machine = shared();
    if !in_own_pids("janitor::what_a_killed_exec_has_left_goes_and_a_living_ones_stays") {
        return;
    }
    require_engine();
    let (folder, agent, backend) = (Folder::new(), unique("gc"), deployed());
    let living = Exec::begin();
    // One from before there was an owner, and one of another host.
    let nameless = Container::of("exec", "exec-old", &[]);
    let labels =
        [("cronium.managed", "true"), ("cronium.agent.id", "exec"), ("cronium.owner", "b/pid:[1]/time:[1]/1/1")];
    let foreign = Container::new(&labels, &[]);
    let stay = || [&living.1, &nameless, &foreign].iter().all(|container| container.is_there());

    let left = Exec::begin().kill();
    let (code, table, complaint) = gc(&agent, folder.path(), &["--dry-run"]);
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{table}");
    assert!(line(&table, &left).ends_with("would be removed") && line(&table, &left).contains("exec-"), "{table}");
    assert_eq!(table.lines().count(), 2, "{table}");
    let run = binary().args(["exec", "--lang", "bash", "-"]).stdin(Stdio::null()).output().expect("exec");
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(!left.is_there() && stay(), "the next exec");

    let left = Exec::begin().kill();
    let (code, table, _) = gc("auto", &folder.path().join("never"), &[]);
    assert!(code == Some(0) && line(&table, &left).ends_with("  removed"), "{table}");
    assert!(!left.is_there() && stay(), "gc");

    let left = Exec::begin().kill();
    let agent = Agent::start(&backend, &[]);
    eventually("the agent has removed it", || !left.is_there());
    eventually("it says so", || agent.log().contains("which was killed, left behind (running)"));
    assert!(stay(), "the agent");
    agent.stop();
}

#[test]
fn gc_beside_an_agent_only_looks() {
    let _machine = shared();
    require_engine();
    let (folder, agent) = (Folder::new(), unique("gc"));
    let orphan = Container::of(&agent, "job-orphan", &[]);
    // As an agent holds it.
    let path = folder.path().join("lock");
    std::fs::write(&path, format!("{}\n", std::process::id())).expect("written");
    let lock = std::fs::File::open(&path).expect("the file");
    lock.try_lock().expect("free");
    let (code, table, _) = gc(&agent, folder.path(), &["--grace", "0s"]);
    assert_eq!(code, Some(0));
    assert!(line(&table, &orphan).ends_with("left to the running agent") && orphan.is_there(), "{table}");
    assert!(table.contains(&format!("(process {})", std::process::id())), "{table}");
    drop(lock);
    let (code, table, _) = gc(&agent, folder.path(), &["--grace", "0s"]);
    assert!(code == Some(0) && !orphan.is_there(), "{table}");
}

#[test]
fn gc_says_what_it_lacks() {
    let _machine = shared();
    require_engine();
    let folder = Folder::new();
    let (code, text, _) = gc("auto", &folder.path().join("never"), &[]);
    assert!(code == Some(0) && text.contains("no agent has run with state.dir"), "{text}");
    let (code, _, complaint) =
        gc("gone", folder.path(), &["--set", "container.docker.endpoint=unix:///nowhere/docker.sock"]);
    assert!(code == Some(3) && complaint.contains("/nowhere/docker.sock"), "{complaint}");
}

/// The engine tells no false age, so that the list comes from a proxy. It takes a minute: the janitor looks once in it.
#[test]
fn a_running_agent_removes_what_was_left_behind_and_not_its_jobs() {
    let _machine = shared();
    let (backend, proxy) = (with_socket(), Proxy::start());
    let endpoint = proxy.endpoint();
    let agent = Agent::start(&backend, &[("container.docker.endpoint", endpoint.as_str())]);
    agent.wait_ready();
    let mut long = job("BASH", "echo begun; sleep 300");
    long["execution"]["timeout"] = json!(300);
    let id = backend.enqueue(long).expect("queued");
    eventually("the first line", || !backend.lines(&id).is_empty());
    let in_hand = agent.containers().pop().expect("a container");
    let (old, young) = (Container::of(&agent.id, "job-old", &[]), Container::of(&agent.id, "job-young", &[]));
    let foreign = Container::of(&unique("other"), "job-foreign", &[]);
    // One whose job is in the journal and in no thread's hands: the next start goes on with it.
    let waits = Container::of(&agent.id, "job-waits", &[]);
    std::fs::write(agent.state().join("jobs/job-waits.job"), "a page").expect("a page");
    let label = |container: &str, name: &str| {
        docker(&["inspect", "--format", &format!("{{{{index .Config.Labels \"{name}\"}}}}"), container])
            .trim()
            .to_owned()
    };
    let names = ["cronium.managed", "cronium.agent.id", "cronium.job.id", "cronium.execution.id"];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    let rows: Vec<_> = [(&in_hand, 1), (&foreign.0, 1), (&waits.0, 1), (&young.0, now), (&old.0, 1)]
        .into_iter()
        .map(|(container, created)| {
            let labels: serde_json::Map<_, _> =
                names.iter().map(|name| ((*name).to_owned(), json!(label(container, name)))).collect();
            json!({ "Id": container, "Names": ["/x"], "State": "exited", "Created": created, "Labels": labels })
        })
        .collect();
    let body = serde_json::to_string(&rows).expect("JSON");
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    proxy.break_calls("GET", "/containers/json", u32::MAX, Break::Answer(answer.into_bytes()));
    let until = Instant::now() + Duration::from_secs(90);
    while old.is_there() {
        assert!(Instant::now() < until, "nothing was removed:\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    eventually("the metric", || agent.metric("cronium_janitor_removed_total") == Some(1.0));
    assert!(agent.log().contains("of job job-old, left behind"), "{}", agent.log());
    assert!(young.is_there() && foreign.is_there() && waits.is_there());
    assert!(agent.containers().contains(&in_hand) && backend.job(&id).expect("row").exit_code.is_none());
}

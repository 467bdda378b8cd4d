//! Receipts of real jobs: what they say, that each change is found, and that a restart changes nothing of it.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use cronium_dev_backend::{Action, DevBackend, Fault, JobRow};
use serde_json::{Value, json};

use crate::harness::{
    Agent, Folder, binary, deployed, docker, eventually, finish, finished, job, record, report, shared, stderr, stdout,
    unique, with_socket,
};
use crate::ssh_multi::{NAMES, Three};
use crate::ssh_rig::Rig;

const ON: (&str, &str) = ("security.receipts", "true");

/// The files of somebody who checks receipts, far from agent and backend.
struct Auditor(Folder);

impl Auditor {
    /// Knows the key of this agent.
    fn of(agent: &Agent) -> Self {
        let auditor = Self(Folder::new());
        // The key is made at the start.
        agent.wait_ready();
        let said = about(agent, &["identity"]);
        assert!(said.status.success(), "{said:?}");
        fs::write(auditor.path("keys"), &said.stdout).expect("keys");
        auditor
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn put(&self, name: &str, content: &Value) -> String {
        fs::write(self.path(name), content.to_string()).expect("a file");
        self.path(name)
    }

    /// Exit code and words of `verify-receipt` on this report or record.
    fn verify(&self, carries: &Value, more: &[&str]) -> (Option<i32>, String) {
        let file = self.put("file.json", carries);
        let output = binary().args(["verify-receipt", &file, "--keys", &self.path("keys")]).args(more).output();
        words(output.expect("the program"))
    }

    /// It is good; its facts.
    fn good(&self, carries: &Value, more: &[&str]) -> Value {
        let (code, said) = self.verify(carries, more);
        assert!(code == Some(0) && !said.contains("BAD") && said.contains("no fact was changed"), "{said}");
        facts(carries)
    }
}

fn words(output: Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// A command about this agent, on its host.
fn about(agent: &Agent, arguments: &[&str]) -> Output {
    let [id, state] = [agent.id.clone(), agent.state_dir().display().to_string()];
    let mut command = binary();
    command.args(arguments).args(["--set", &format!("orchestrator.id={id}"), "--set", &format!("state.dir={state}")]);
    command.output().expect("the program")
}

/// The facts of the receipt in a report, or in a record's metadata, where it is text.
fn facts(carries: &Value) -> Value {
    let receipt =
        [&carries["receipt"], &carries["executionMetadata"]["receipt"]].into_iter().find(|one| !one.is_null());
    match receipt.unwrap_or_else(|| panic!("no receipt in {carries}")) {
        Value::String(text) => serde_json::from_str::<Value>(text).expect("JSON")["facts"].clone(),
        receipt => receipt["facts"].clone(),
    }
}

fn has(facts: &Value, all: &[(&str, &str)]) {
    for (name, want) in all {
        assert_eq!(facts[*name].as_str(), Some(*want), "{name} in {facts:#}");
    }
}

fn has_not(facts: &Value, names: &[&str]) {
    for name in names {
        assert!(facts[*name].is_null(), "{name} in {facts:#}");
    }
}

fn inspected(image: &str, format: &str) -> String {
    docker(&["image", "inspect", image, "--format", format]).trim().to_owned()
}

#[test]
pub fn a_real_jobs_receipt_is_checked_offline_and_each_change_is_found() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[ON]);
    let auditor = Auditor::of(&agent);
    let mut asked = job("BASH", "echo out; printf 'a\\0b'; echo err >&2; echo \"$MY_TOKEN\"; exit 3");
    asked["execution"]["environment"] = json!({"MY_TOKEN": "hunter2Sl33p"});
    let row = finish(&backend, asked.clone());
    let (sent, job_file) = (report(&row).clone(), auditor.put("job.json", &asked));
    let facts = auditor.good(&sent, &["--job", &job_file]);
    let image = facts["image"].as_str().expect("an image").to_owned();
    has(
        &facts,
        &[
            ("agent", &agent.id),
            ("host", fs::read_to_string("/proc/sys/kernel/hostname").expect("a name").trim()),
            ("job", &row.id),
            ("kind", "container"),
            ("language", "bash"),
            ("imageId", &inspected(&image, "{{.Id}}")),
            ("status", "failed"),
            ("phase", "execution"),
            ("reason", "script"),
            ("exitCode", "3"),
            ("user", "1000:1000"),
            ("readOnlyRootfs", "true"),
            ("noNewPrivileges", "true"),
            ("dropCapabilities", "ALL"),
            ("timeout", "60 s"),
        ],
    );
    for name in ["execution", "claimedAt", "startedAt", "endedAt", "reportedAt", "memoryLimit", "pidsLimit", "proof"] {
        assert!(facts[name].as_str().is_some_and(|text| !text.is_empty()), "{name} in {facts:#}");
    }
    assert_eq!(facts["seccompSha256"].as_str().map(str::len), Some(64), "{facts:#}");
    has_not(&facts, &["adopted", "repeated", "part", "server", "httpStatus"]);
    assert!(!sent["receipt"].to_string().contains("hunter2"), "{facts:#}");
    // The execution's record carries it too, for a backend that drops it from the report.
    let kept = record(&backend, &row);
    assert_eq!(auditor.good(&kept, &[]), facts);
    assert!(auditor.verify(&kept, &[]).1.contains("stdout is the one of stdoutSha256"), "{kept}");

    // Whatever is changed is found, and said.
    let changed = |pointer: &str, value: Value| {
        let mut sent = sent.clone();
        *sent.pointer_mut(pointer).expect(pointer) = value;
        sent
    };
    for (carries, wanted) in [
        (changed("/output/stdout", json!("out\n")), "stdout: stdoutSha256 is"),
        (changed("/output/stderr", json!("")), "stderr: stderrSha256 is"),
        (changed("/exitCode", json!(0)), "exitCode: exitCode is 3, found 0"),
        (changed("/status", json!("completed")), "status: status is failed, found completed"),
        (changed("/receipt/facts/exitCode", json!("0")), "the signature does not count"),
        (changed("/receipt/facts/agent", json!("another")), "the signature does not count"),
        (changed("/receipt/keyId", json!("another@0123456789abcdef")), "is not among the trusted ones"),
    ] {
        let (code, said) = auditor.verify(&carries, &[]);
        assert!(code == Some(1) && said.contains("BAD") && said.contains(wanted), "{wanted}: {said}");
    }
    let mut other = asked;
    other["execution"]["script"]["content"] = json!("echo other");
    let (code, said) = auditor.verify(&sent, &["--job", &auditor.put("job.json", &other)]);
    assert!(code == Some(1) && said.contains("the job: jobSha256 is"), "{said}");
    // A receipt alone: what was not checked is said.
    let (code, said) = auditor.verify(&sent["receipt"], &[]);
    assert!(code == Some(0) && said.matches("not checked  ").count() == 3, "{said}");
    fs::write(auditor.path("out"), sent["output"]["stdout"].as_str().expect("text")).expect("a file");
    let (code, said) = auditor.verify(&sent["receipt"], &["--stdout", &auditor.path("out")]);
    assert!(code == Some(0) && said.contains("ok           stdout is"), "{said}");
    // On its host no file of keys is needed.
    let file = auditor.put("file.json", &sent);
    assert_eq!(words(about(&agent, &["verify-receipt", &file])).0, Some(0));
    agent.stop();
}

#[test]
pub fn a_job_that_outlives_its_agent_has_the_receipt_of_both() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[ON]);
    let auditor = Auditor::of(&agent);
    let asked = job("BASH", "echo one; sleep 4; echo two");
    let id = backend.enqueue(asked.clone()).expect("queued");
    eventually("the first line", || !backend.lines(&id).is_empty());
    let agent = agent.again(&backend, &[ON]);
    let row = finished(&backend, &id);
    assert_eq!((stdout(&row), row.terminal_reports()), ("one\ntwo\n", 1));
    let facts = auditor.good(report(&row), &["--job", &auditor.put("job.json", &asked)]);
    has(&facts, &[("adopted", "true"), ("exitCode", "0"), ("readOnlyRootfs", "true"), ("kind", "container")]);
    for name in ["seccompSha256", "imageId", "jobSha256", "claimedAt", "proof", "memoryLimit"] {
        assert!(facts[name].is_string(), "{name} in {facts:#}");
    }
    // One that an agent without receipts began: what nobody wrote down is not there.
    let agent = agent.again(&backend, &[]);
    let id = backend.enqueue(job("BASH", "echo one; sleep 4; echo two")).expect("queued");
    eventually("the first line", || !backend.lines(&id).is_empty());
    let agent = agent.again(&backend, &[ON]);
    let row = finished(&backend, &id);
    let facts = auditor.good(report(&row), &[]);
    has(&facts, &[("adopted", "true"), ("exitCode", "0"), ("job", &id)]);
    has_not(&facts, &["jobSha256", "seccompSha256", "readOnlyRootfs", "claimedAt", "proof"]);
    agent.stop();
    assert_eq!(backend.problems(), Vec::<String>::new());
}

#[test]
fn a_report_that_the_next_agent_sends_keeps_its_receipt() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[ON]);
    let auditor = Auditor::of(&agent);
    let action = Action::Status { status: 503, headers: Default::default(), body: None };
    backend.set_fault(Fault { path: Some("/complete".into()), action, ..Fault::default() });
    let id = backend.enqueue(job("BASH", "echo done")).expect("queued");
    let file = agent.state_dir().join("jobs").join(format!("{id}.job"));
    eventually("the report is on disk", || fs::read_to_string(&file).is_ok_and(|text| text.contains("\"Ended\"")));
    let before = fs::read_to_string(&file).expect("a record");
    backend.set_faults(Vec::new());
    // Receipts are off by now; the report is what was written.
    let agent = agent.again(&backend, &[]);
    let row = finished(&backend, &id);
    let facts = auditor.good(report(&row), &[]);
    assert!(before.contains(facts["stdoutSha256"].as_str().expect("a sum")), "{facts:#}");
    agent.stop();
}

#[test]
fn servers_have_receipts_also_through_a_kill() {
    let _machine = shared();
    let rig = Rig::start(&[ON]);
    let auditor = Auditor::of(&rig.agent);
    let asked = rig.job("BASH", "echo here; exit 7");
    let row = finish(&rig.backend, asked.clone());
    let facts = auditor.good(report(&row), &["--job", &auditor.put("job.json", &asked)]);
    has(&facts, &[("kind", "ssh"), ("exitCode", "7"), ("server", "web-1"), ("serverUser", &rig.sshd.user)]);
    assert!(facts["hostKey"].as_str().is_some_and(|key| key.contains("SHA256")), "{facts:#}");
    has_not(&facts, &["image", "imageId", "seccompSha256", "proof", "memoryLimit"]);
    assert!(!report(&row)["receipt"].to_string().contains("PRIVATE KEY"));
    rig.stop();

    let three = Three::start(&[ON]);
    let auditor = Auditor::of(&three.agent);
    let beta = three.user_of("beta").to_owned();
    let asked = three.job(&format!("echo one; sleep 4; echo two; [ $(id -un) != {beta} ] || exit 7"));
    let id = three.backend.enqueue(asked.clone()).expect("queued");
    eventually("a line of each", || {
        let lines = three.backend.lines(&id);
        NAMES.iter().all(|name| lines.iter().any(|line| line.text == format!("[{name}] one")))
    });
    let three = three.again(&[ON]);
    let row = finished(&three.backend, &id);
    let facts = auditor.good(report(&row), &["--job", &auditor.put("job.json", &asked)]);
    has(&facts, &[("servers", "3"), ("server.2.name", "beta"), ("server.2.exitCode", "7"), ("adopted", "true")]);
    let parts = three.executions(&row);
    assert_eq!(parts.len(), 3);
    for part in parts {
        let facts = auditor.good(&part["row"], &[]);
        has(&facts, &[("part", "true"), ("job", &id), ("execution", part["id"].as_str().expect("an id"))]);
        assert!(facts["serverAddress"].is_string() && facts["jobSha256"].is_string(), "{facts:#}");
        let mut other = part["row"].clone();
        other["output"] = json!("one\nthree\n");
        assert_eq!(auditor.verify(&other, &[]).0, Some(1));
    }
    three.stop();
}

#[test]
fn what_did_not_run_has_a_receipt_that_says_so() {
    let _machine = shared();
    let (backend, folder) = (deployed(), Folder::new());
    fs::write(folder.path().join("list"), format!("{}  a.sh\n", "0".repeat(64))).expect("a list");
    let list = folder.path().join("list").display().to_string();
    let agent = Agent::start(&backend, &[ON, ("security.allowedScripts", &list), ("http.enabled", "true")]);
    let auditor = Auditor::of(&agent);
    let asked = job("BASH", "echo ran");
    let row = finish(&backend, asked.clone());
    let facts = auditor.good(report(&row), &["--job", &auditor.put("job.json", &asked)]);
    has(&facts, &[("phase", "setup"), ("reason", "refused"), ("exitCode", "125"), ("stdoutLength", "0")]);
    has_not(&facts, &["imageId", "seccompSha256", "startedAt", "proof", "image"]);
    // One that could not even be read.
    let mut unread = job("COBOL", "x");
    unread["execution"]["environment"] = json!({});
    let row = finish(&backend, unread);
    let facts = auditor.good(report(&row), &[]);
    has(&facts, &[("reason", "refused"), ("job", &row.id)]);
    has_not(&facts, &["jobSha256", "language"]);
    agent.stop();

    let agent = Agent::start(&backend, &[ON, ("http.enabled", "true"), ("http.allow", "127.0.0.0/8")]);
    let auditor = Auditor::of(&agent);
    let request = json!({"id": unique("job"), "type": "container", "execution":
        {"http": {"method": "GET", "url": "http://127.0.0.1:1/?token=hunter2Sl33p"}},
        "metadata": {"eventId": 1, "originalType": "HTTP_REQUEST"}});
    let row = finish(&backend, request.clone());
    let facts = auditor.good(report(&row), &["--job", &auditor.put("job.json", &request)]);
    has(&facts, &[("kind", "http"), ("status", "failed")]);
    has_not(&facts, &["httpStatus", "imageId", "language"]);
    assert!(!report(&row)["receipt"].to_string().contains("hunter2"), "{}", stderr(&row));
    agent.stop();
}

/// An agent that must not start with this key; what it says.
fn refused(state: &Path) -> String {
    let state = format!("state.dir={}", state.display());
    let mut command = binary();
    command.arg("run").env("CRONIUM_API_TOKEN", "t");
    for pair in ["api.endpoint=http://127.0.0.1:9", "monitoring.enabled=false", "security.receipts=true", &state] {
        command.args(["--set", pair]);
    }
    let (code, said) = words(command.output().expect("the agent"));
    assert_eq!(code, Some(1), "{said}");
    said
}

#[test]
fn a_broken_key_stops_the_start_and_is_kept() {
    let _machine = shared();
    let state = Folder::new();
    let key = state.path().join("receipt-key");
    for (text, wanted) in
        [("", "line 1: it is not -----BEGIN"), ("-----BEGIN PRIVATE KEY-----\n*\n", "line 2: it is not base64")]
    {
        fs::write(&key, text).expect("a file");
        let said = refused(state.path());
        assert!(said.contains(wanted) && said.contains("receipt-key") && said.contains("never replaced"), "{said}");
        assert_eq!(fs::read_to_string(&key).expect("kept"), text);
    }
    let state = format!("state.dir={}", state.path().display());
    let mut command = binary();
    command.arg("doctor").env("CRONIUM_API_TOKEN", "t");
    for pair in ["api.endpoint=http://127.0.0.1:9", "security.receipts=true", &state] {
        command.args(["--set", pair]);
    }
    let (_, said) = words(command.output().expect("doctor"));
    assert!(said.lines().any(|line| line.contains("fail") && line.contains("receipt-key")), "{said}");
}

fn by_file(folder: &Folder, backend: &DevBackend, receipts: &str) {
    let text = format!(
        "api:\n  endpoint: {}\n  tokenFile: {}\nsecurity:\n  receipts: {receipts}\n",
        backend.url(),
        folder.path().join("token").display()
    );
    fs::write(folder.path().join("agent.yaml"), text).expect("a file");
}

fn without(row: &JobRow, backend: &DevBackend) {
    assert!(report(row)["receipt"].is_null(), "{}", report(row));
    let metadata = &record(backend, row)["executionMetadata"];
    assert!(metadata["receipt"].is_null() && metadata["imageId"].is_string(), "{metadata}");
}

#[test]
fn receipts_are_off_until_they_are_asked_for_and_a_reload_says_that_they_need_a_restart() {
    let _machine = shared();
    let (backend, folder) = (deployed(), Arc::new(Folder::new()));
    fs::write(folder.path().join("token"), backend.token()).expect("token");
    by_file(&folder, &backend, "false");
    let agent = Agent::start_by_file(Arc::clone(&folder), &folder.path().join("agent.yaml"));
    without(&finish(&backend, job("BASH", "echo ran")), &backend);
    by_file(&folder, &backend, "true");
    agent.signal("HUP");
    eventually("the reload", || agent.log().contains("security.receipts false → true"));
    without(&finish(&backend, job("BASH", "echo ran")), &backend);
    assert!(!agent.state_dir().join("receipt-key").exists());
    let (code, said) = words(about(&agent, &["identity"]));
    assert!(code == Some(1) && said.contains("no key yet: set security.receipts: true"), "{said}");
    agent.stop();
}

//! Signed jobs: what a backend without the key can make an agent run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use cronium_dev_backend::{Action, Fault};
use serde_json::{Value, json};

use crate::harness::{
    Agent, Folder, binary, deployed, eventually, finish, finished, job, report, shared, stderr, stdout, unique,
};
use crate::ssh_multi::Three;
use crate::ssh_multi_restart::{eighteen, let_end, sixteen_begin, starts};

/// A key pair and the file that trusts it.
struct Keys {
    folder: Folder,
}

impl Keys {
    fn new(rest: &str) -> Self {
        let keys = Self { folder: Folder::new() };
        let made = keys.sign(&["keygen", "ci", "--key", &keys.path("ci.pem")]);
        assert!(made.status.success(), "{made:?}");
        keys.trust(&format!("{} {rest}\n", String::from_utf8_lossy(&made.stdout).trim()));
        keys
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn trust(&self, text: &str) {
        fs::write(self.path("keys"), text).expect("the file of keys");
    }

    fn sign(&self, arguments: &[&str]) -> Output {
        binary().arg("sign").args(arguments).output().expect("the program")
    }

    /// The job as `sign job` prints it.
    fn signed(&self, job: &Value, more: &[&str]) -> Value {
        let file = self.path("job.json");
        fs::write(&file, job.to_string()).expect("the job");
        let key = self.path("ci.pem");
        let made = self.sign(&[&["job", &file, "--key", &key, "--name", "ci"], more].concat());
        assert!(made.status.success(), "{made:?}");
        let mut row: Value = serde_json::from_slice(&made.stdout).expect("JSON");
        // In `execution`, where a backend without the field keeps it.
        row["execution"]["signature"] = row["signature"].take();
        row.as_object_mut().expect("a row").remove("signature");
        row
    }

    fn settings(&self, mode: &'static str) -> [(&'static str, String); 2] {
        [("security.signatures.mode", mode.to_owned()), ("security.signatures.keys", self.path("keys"))]
    }
}

fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

#[test]
fn without_a_valid_signature_nothing_of_a_job_reaches_the_engine() {
    let _machine = shared();
    let (backend, keys) = (deployed(), Keys::new(""));
    let agent = Agent::start(&backend, &borrowed(&keys.settings("require")));
    let plain = job("BASH", "echo ran");
    let signed = keys.signed(&plain, &[]);
    let row = finish(&backend, signed.clone());
    assert_eq!((stdout(&row), row.exit_code), ("ran\n", Some(0)));

    let changed = |pointer: &str, value: Value| {
        let mut row = signed.clone();
        *row.pointer_mut(pointer).expect(pointer) = value;
        row
    };
    let mut unknown = signed.clone();
    unknown["execution"]["script"]["interpreter"] = json!("/bin/evil");
    let mut more = signed.clone();
    more["execution"]["environment"]["BASH_ENV"] = json!("/tmp/x");
    for (mut row, words) in [
        (plain.clone(), "it has no signature"),
        (changed("/execution/script/content", json!("echo evil")), "something of the job was changed"),
        (more, "something of the job was changed"),
        (unknown, "execution.script.interpreter is not known"),
        (changed("/execution/signature/value", json!("AAAA")), "3 bytes"),
        (changed("/execution/signature/keyId", json!("ops")), "not in the file of keys"),
    ] {
        row["id"] = json!(unique("job"));
        let row = finish(&backend, row);
        let said = stderr(&row);
        assert!(said.contains(words) && said.contains("security.signatures"), "{words}: {said}");
        assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(125)), "{words}");
        assert_eq!(stdout(&row), "", "{words}");
    }
    assert_eq!(agent.metric("cronium_jobs_unsigned_total"), Some(6.0));
    assert_eq!(agent.metric("cronium_docker_request_duration_seconds_count{operation=\"create\"}"), Some(1.0));
    let status = binary().args(["status", "--set"]).arg(format!("state.dir={}", agent.state_dir().display())).output();
    let status = String::from_utf8_lossy(&status.expect("status").stdout).into_owned();
    assert!(status.contains("jobs need a signature by ci"), "{status}");
    agent.stop();
}

#[test]
fn a_warning_lets_a_job_run_and_says_why_its_signature_does_not_count() {
    let _machine = shared();
    let (backend, keys) = (deployed(), Keys::new(""));
    let agent = Agent::start(&backend, &borrowed(&keys.settings("warn")));
    let row = finish(&backend, job("BASH", "echo ran"));
    assert_eq!((stdout(&row), row.exit_code), ("ran\n", Some(0)));
    assert_eq!(agent.metric("cronium_jobs_unsigned_total"), Some(1.0));
    assert!(agent.log().contains("runs without a valid signature: it has no signature"), "{}", agent.log());
    agent.stop();
}

#[test]
fn a_reload_revokes_a_key_and_a_broken_file_changes_nothing() {
    let _machine = shared();
    let (backend, keys) = (deployed(), Keys::new(""));
    let agent = Agent::start(&backend, &borrowed(&keys.settings("require")));
    let good = fs::read_to_string(keys.path("keys")).expect("keys");
    let signed = keys.signed(&job("BASH", "echo ran"), &["--expires", "1h"]);
    keys.trust("ci rsa nothing\n");
    agent.signal("HUP");
    eventually("the reload is refused", || agent.log().contains("line 1: the algorithm is"));
    assert_eq!(finish(&backend, signed.clone()).exit_code, Some(0));
    let mut signed = signed;
    signed["id"] = json!(unique("job"));
    keys.trust(&format!("{} revoked\n", good.trim()));
    agent.signal("HUP");
    // The refusal names the key too.
    let taken = |line: &str| line.contains("in effect from now on") && line.contains("security.signatures.keys");
    eventually("the reload is taken", || agent.log().lines().any(taken));
    let row = finish(&backend, signed);
    assert!(stderr(&row).contains("its key ci is revoked"), "{}", stderr(&row));
    agent.stop();
}

#[test]
fn a_list_of_scripts_lets_those_run_and_no_other() {
    let _machine = shared();
    let (backend, folder) = (deployed(), Folder::new());
    fs::write(folder.path().join("hello.sh"), "echo hello $NAME").expect("a script");
    fs::write(folder.path().join("notes.txt"), "no script").expect("a file");
    let made = binary().args(["sign", "scripts"]).arg(folder.path()).output().expect("the program");
    let list = folder.path().join("list");
    fs::write(&list, &made.stdout).expect("the list");
    assert_eq!(made.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "{made:?}");
    let agent = Agent::start(&backend, &[("security.allowedScripts", list.to_str().expect("UTF-8"))]);
    let with = |script: &str, name: &str| {
        let mut row = job("BASH", script);
        row["execution"]["environment"] = json!({name: "you"});
        finish(&backend, row)
    };
    assert_eq!(stdout(&with("echo hello $NAME", "NAME")), "hello you\n");
    let row = with("echo hello $NAME ", "NAME");
    assert!(stderr(&row).contains("security.allowedScripts: the list has no bash script"), "{}", stderr(&row));
    let row = with("echo hello $NAME", "LD_PRELOAD");
    assert!(stderr(&row).contains("LD_PRELOAD can make other code run"), "{}", stderr(&row));
    agent.stop();
}

#[test]
fn a_server_and_a_request_are_covered_as_a_container_is() {
    let _machine = shared();
    let (backend, keys) = (deployed(), Keys::new(""));
    let mut settings = keys.settings("require").to_vec();
    settings.push(("http.enabled", "true".to_owned()));
    let agent = Agent::start(&backend, &borrowed(&settings));
    let server = json!({"id": unique("job"), "type": "ssh", "execution": {"target": {"type": "server", "serverDetails":
        {"id": "1", "name": "n", "host": "127.0.0.1", "port": 1, "username": "u", "privateKey": "x"}},
        "script": {"type": "BASH", "content": "echo ran"}}, "metadata": {"eventId": "1"}});
    let request = json!({"id": unique("job"), "type": "container", "execution": {"http": {"method": "GET", "url": "http://127.0.0.1:1/"}},
        "metadata": {"eventId": 1, "originalType": "HTTP_REQUEST"}});
    for row in [server, request] {
        let id = backend.enqueue(row.clone()).expect("queued");
        assert!(stderr(&finished(&backend, &id)).contains("it has no signature"));
        // Signed, it comes as far as its server or its address.
        let mut again = keys.signed(&row, &[]);
        again["id"] = json!(unique("job"));
        let id = backend.enqueue(again).expect("queued");
        let row = finished(&backend, &id);
        assert!(!stderr(&row).contains("signature"), "{}", stderr(&row));
    }
    agent.stop();
}

/// Servers that had not begun would run the script of the row that is read again. So it is admitted as one just claimed.
#[test]
fn after_a_restart_servers_that_had_not_begun_run_the_signed_script_or_none() {
    let _machine = shared();
    for (is_taken_over, script) in [(false, None), (true, Some("echo evil >>\"$HOME/evil\""))] {
        let keys = Keys::new("");
        let settings = keys.settings("require");
        let three = Three::start(&borrowed(&settings));
        let signed = keys.signed(&eighteen(&three), &[]);
        let id = three.backend.enqueue(signed.clone()).expect("queued");
        sixteen_begin(&three);
        // A backend that keeps the row as the queue handed it out, or with another script.
        let mut kept = signed;
        script.into_iter().for_each(|script| kept["execution"]["script"]["content"] = json!(script));
        let body = json!({"success": true, "job": {"id": id, "status": "running", "payload": kept}}).to_string();
        let action = Action::Status { status: 200, headers: Default::default(), body: Some(body) };
        three.backend.set_fault(Fault { path: Some("/acknowledge".into()), action, ..Fault::default() });
        let three = three.again(&borrowed(&settings));
        let_end(&three);
        let row = finished(&three.backend, &id);
        let begun = starts(&three).iter().flatten().count();
        let is_evil = three.servers.iter().any(|sshd| sshd.path("home").join("evil").exists());
        let (code, wanted) = if is_taken_over { (102, 16) } else { (0, 18) };
        assert_eq!((row.exit_code, begun, is_evil), (Some(code), wanted, false), "{}", stderr(&row));
        assert_eq!(row.terminal_reports(), 1);
        let refused = "the job's row is not used: this host runs no job that is not proven";
        assert_eq!(three.agent.log().contains(refused), is_taken_over, "{}", three.agent.log());
        if is_taken_over {
            assert!(three.agent.log().contains("something of the job was changed"), "{}", three.agent.log());
            assert!(stderr(&row).contains("not run: "), "{}", stderr(&row));
        }
        three.stop();
    }
}

#[test]
fn the_command_makes_checks_and_refuses() {
    let keys = Keys::new("not-after=2999-01-01");
    let file = keys.path("signed.json");
    let row = keys.signed(&job("BASH", "true"), &["--expires", "24h"]);
    fs::write(&file, row.to_string()).expect("the job");
    let verify = |file: &str| keys.sign(&["verify", file, "--keys", &keys.path("keys")]);
    let said = verify(&file);
    assert_eq!((said.status.code(), String::from_utf8_lossy(&said.stdout).as_ref()), (Some(0), "signed by ci\n"));
    fs::write(&file, row.to_string().replace("\"true\"", "\"false\"")).expect("the job");
    let said = verify(&file);
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stderr).contains("does not fit"), "{said:?}");

    let mode = |path: &str| {
        fs::metadata(path).map(|data| std::os::unix::fs::PermissionsExt::mode(&data.permissions()) & 0o777)
    };
    assert_eq!(mode(&keys.path("ci.pem")).expect("the key"), 0o600);
    let missing = PathBuf::from("/none/of/this");
    for (arguments, code, words) in [
        (vec!["keygen", "ci", "--key", &keys.path("ci.pem")], 1, "exists already; it was not changed"),
        (vec!["keygen", "a b", "--key", "x"], 2, "no name of a key"),
        (vec!["keygen", "ci"], 2, "usage: cronium-agent sign keygen"),
        (vec!["job", &file, "--key", &keys.path("keys"), "--name", "ci"], 1, "holds no -----BEGIN PRIVATE KEY-----"),
        (
            vec!["job", &file, "--key", &keys.path("ci.pem"), "--name", "ci", "--expires", "soon"],
            2,
            "--expires takes a time",
        ),
        (
            vec!["job", &missing.display().to_string(), "--key", &keys.path("ci.pem"), "--name", "ci"],
            1,
            "cannot read /none/of/this",
        ),
        (vec!["scripts", &missing.display().to_string()], 1, "cannot read /none/of/this"),
        (vec!["frobnicate", "x"], 2, "usage: cronium-agent sign"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(|word| &**word).collect();
        let said = keys.sign(&arguments);
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.code() == Some(code) && text.contains(words), "{arguments:?}: {text}");
    }
    assert!(!Path::new("x").exists());
}

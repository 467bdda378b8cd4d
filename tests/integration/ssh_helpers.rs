//! What a script on a server may ask of the agent: the same as in a container, by files in the job's folder.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{binary, eventually, finish, finished, report, shared, stderr, stdout};
use crate::helpers::DEFAULT_SCRIPTS;
use crate::ssh_multi::{NAMES, Three};
use crate::ssh_rig::Rig;
use crate::sshd::Sshd;

fn with_input(rig: &Rig, language: &str, script: &str, input: Value) -> Value {
    let mut job = rig.job(language, script);
    job["execution"]["inputData"] = input;
    job["metadata"]["eventName"] = json!("nightly");
    job
}

#[test]
fn scripts_like_the_apps_own_run_unchanged_on_a_server() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    for (at, (language, script)) in DEFAULT_SCRIPTS.iter().enumerate() {
        let row = finish(&rig.backend, with_input(&rig, language, script, json!({"n": [1, "ü"]})));
        assert_eq!(row.exit_code, Some(0), "{language}: {}{}", stdout(&row), stderr(&row));
        let want = json!({"success": true, "received": {"n": [1, "ü"]}, "host": "localhost", "event": "nightly"});
        assert_eq!((&report(&row)["scriptOutput"], &report(&row)["condition"]), (&want, &json!(true)), "{language}");
        assert_eq!(rig.backend.variable("u1", "COUNT"), Some((at + 1).to_string()), "{language}");
    }
    rig.stop();
}

/// The names of the contract's table for servers, and what is different there.
const ON_SERVERS: [(&str, &str); 3] = [
    (
        "PYTHON",
        r#"
import cronium as imported, os
assert imported is cronium
event = cronium.event()
assert (event["runLocation"], event["server"]["name"]) == ("REMOTE", "web-1"), event
for value, want in [("a/b\n", "a/b\n"), ({"a": ["ü"]}, {"a": ["ü"]}), ("x" * 900000, "x" * 900000)]:
    cronium.setVariable("py/k", value)
    assert cronium.getVariable("py/k") == want
assert cronium.getVariable("none") is None
assert "CRONIUM_EXECUTION_TOKEN" not in os.environ
try:
    cronium.output("x" * 2000000)
    raise SystemExit("no error")
except cronium.CroniumError as error:
    print(error)
cronium.output([1])
"#,
    ),
    (
        "NODEJS",
        r#"
const assert = require("assert");
assert.strictEqual(require("cronium"), global.cronium);
assert.deepStrictEqual([cronium.event().runLocation, cronium.event().server.name], ["REMOTE", "web-1"]);
for (const value of ["a/b\n", { a: ["ü"] }, "x".repeat(900000)]) {
  cronium.setVariable("js/k", value);
  assert.deepStrictEqual(cronium.getVariable("js/k"), value);
}
assert.strictEqual(cronium.getVariable("none"), null);
assert.throws(() => cronium.output("x".repeat(2000000)), /jobs.maxScriptOutput/);
cronium.output([1]);
console.log("jobs.maxScriptOutput");
"#,
    ),
    (
        "BASH",
        r#"
same() { [ "$1" = "$2" ] || { echo "line ${BASH_LINENO[0]}: '$1' is not '$2'"; exit 9; }; }
same "$(cronium.input)" '{}'
case $(cronium.event) in *'"runLocation":"REMOTE"'*) ;; *) cronium.event; exit 8 ;; esac
for value in x $'a\nb' '{"a": [1]}' "it's" CRONIUM_x "$(head -c 100000 /dev/zero | tr '\0' x)"; do
  cronium.setVariable sh/k "$value" || exit 7
  same "$(cronium.getVariable sh/k)" "$value"
done
cronium_setVariable sh.n $'a\n\n'
same "$(cronium_getVariable sh.n; echo x)" $'a\n\nx'
printf 'from stdin' | cronium.setVariable sh.in
same "$(cronium.getVariable sh.in)" 'from stdin'
same "$(cronium.getVariable none)" ''
cronium_getVariable '' 2>/dev/null && exit 6
head -c 2000000 /dev/zero | tr '\0' x | cronium_output 2>&1 && exit 5
for n in 1 2 3 4 5 6 7 8 9 10 11 12; do cronium_setVariable "p$n" "$n" & done; wait
echo '[1]' | cronium.output
"#,
    ),
];

#[test]
fn every_name_works_on_a_server_and_a_call_leaves_nothing() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    for (language, script) in ON_SERVERS {
        let row = finish(&rig.backend, rig.job(language, script));
        assert_eq!(row.exit_code, Some(0), "{language}: {}{}", stdout(&row), stderr(&row));
        assert_eq!(report(&row)["scriptOutput"], json!([1]), "{language}");
        assert!(stdout(&row).contains("jobs.maxScriptOutput"), "{language}: {}", stdout(&row));
    }
    assert_eq!(rig.backend.variable("u1", "p12").as_deref(), Some("12"));
    let row = rig.bash("ls -A ..");
    assert!(!stdout(&row).contains(".cron"), "a script without helpers: {}", stdout(&row));
    rig.stop();
}

#[test]
fn a_call_waits_for_a_connection_that_broke_and_goes_on() {
    let _machine = shared();
    let rig = Rig::start(&[("ssh.execution.reconnectTimeout", "30s")]);
    let python = "import time\nprint('begun', flush=True)\nfor n in range(60):\n    cronium.setVariable('n', n)\n    assert cronium.getVariable('n') == str(n)\n    time.sleep(0.05)\ncronium.output({'n': n})\n";
    let bash = "echo begun; for n in $(seq 60); do cronium_setVariable b $n || exit 3; [ \"$(cronium_getVariable b)\" = $n ] || exit 4; done; cronium_output $n";
    let ids = [("PYTHON", python), ("BASH", bash)].map(|(language, script)| rig.begin(rig.job(language, script)));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(700));
        assert!(rig.sshd.kill_sessions() >= 1, "there was no connection to kill");
    }
    let rows = ids.map(|id| finished(&rig.backend, &id));
    for row in &rows {
        assert_eq!(row.exit_code, Some(0), "{}{}", stdout(row), rig.said(row));
    }
    assert_eq!(report(&rows[0])["scriptOutput"], json!({"n": 59}));
    assert_eq!(report(&rows[1])["scriptOutput"], json!(60));
    rig.stop();
}

#[test]
fn after_a_kill_the_next_agent_answers_on_a_server_too() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let script = "import time\ncronium.output({'part': 1})\ncronium.setCondition(True)\ncronium.setVariable('at', 'py')\ntime.sleep(3)\nprint(cronium.getVariable('late'), cronium.input()['a'], cronium.getCondition(), cronium.event()['server']['name'])";
    let id = rig.queue(with_input(&rig, "PYTHON", script, json!({"a": 1})));
    eventually("it has set what it sets", || rig.backend.variable("u1", "at").is_some());
    rig.backend.set_variable("u1", "late", "late");
    rig.agent.signal("KILL");
    // The script calls while no agent is there.
    std::thread::sleep(Duration::from_secs(4));
    let rig = rig.again();
    let row = finished(&rig.backend, &id);
    assert_eq!(stdout(&row), "late 1 True web-1\n", "{}", rig.said(&row));
    assert_eq!((&report(&row)["scriptOutput"], &report(&row)["condition"]), (&json!({"part": 1}), &json!(true)));
    rig.stop();
}

#[test]
fn a_call_waits_for_a_cable_that_was_pulled() {
    let _machine = shared();
    let rig = Rig::with(
        Sshd::start_in_netns(),
        &[("ssh.connectionPool.connectionTimeout", "2s"), ("ssh.connectionPool.healthCheckInterval", "1s")],
    );
    let script = "echo begun; for n in $(seq 40); do cronium_setVariable n $n || exit 3; [ \"$(cronium_getVariable n)\" = $n ] || exit 4; sleep 0.1; done";
    let id = rig.begin(rig.job("BASH", script));
    eventually("it calls", || rig.backend.variable("u1", "n").is_some());
    let network = rig.sshd.network.as_ref().expect("a network");
    network.cut();
    std::thread::sleep(Duration::from_secs(8));
    let before = rig.backend.variable("u1", "n");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rig.backend.variable("u1", "n"), before, "a call came through a cable that was pulled");
    network.restore();
    let row = finished(&rig.backend, &id);
    assert_eq!(row.exit_code, Some(0), "{}", rig.said(&row));
    assert_eq!(rig.backend.variable("u1", "n").as_deref(), Some("40"));
    rig.stop();
}

#[test]
fn on_several_servers_each_script_has_its_own_calls() {
    let _machine = shared();
    let three = Three::start(&[]);
    let script = "echo begun; cronium_setVariable \"at-$(id -un)\" \"$(cronium_event_field executionId)\"; cronium_setCondition true; sleep 3; cronium_output \"$(cronium_event_field server)\"";
    let id = three.backend.enqueue(three.job(script)).expect("queued");
    let set = |three: &Three| {
        let users = three.servers.iter().map(|sshd| format!("at-{}", sshd.user));
        users.filter_map(|key| three.backend.variable("u1", &key)).collect::<std::collections::BTreeSet<_>>()
    };
    eventually("each has set its variable", || set(&three).len() == 3);
    let three = three.again(&[]);
    let row = finished(&three.backend, &id);
    assert_eq!(row.exit_code, Some(0), "{}", stderr(&row));
    assert_eq!(set(&three), row.executions.iter().cloned().collect(), "each is its own execution");
    let output = &report(&row)["scriptOutput"];
    assert!(NAMES.iter().any(|name| output["name"] == *name), "{output}");
    assert_eq!(report(&row)["condition"], json!(true));
    three.stop();
}

#[test]
fn exec_tries_a_script_with_helpers_on_a_server() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let [script, key, variables] = ["count.py", "key", "variables.json"].map(|name| rig.sshd.path(name));
    std::fs::write(&script, DEFAULT_SCRIPTS[0].1).expect("a script");
    std::fs::write(&key, &rig.sshd.key.text).expect("a key");
    let (known, temp_dir) = (rig.known_hosts.display(), rig.sshd.temp_dir());
    let mut command = binary();
    command.args(["exec", "--json", "--input", "[1]", "--variables"]).arg(&variables);
    command
        .args(["--server", &format!("{}@{}:{}", rig.sshd.user, rig.sshd.host, rig.sshd.port), "--identity"])
        .arg(&key);
    command.args(["--set", &format!("ssh.security.knownHostsFile={known}")]);
    command.args(["--set", &format!("ssh.execution.tempDir={}", temp_dir.display())]).arg(&script);
    let output = command.output().expect("the agent's exec");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert_eq!((&found["output"]["received"], &found["condition"]), (&json!([1]), &json!(true)), "{output:?}");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&variables).expect("a file")).expect("JSON");
    assert_eq!(kept, json!({"COUNT": "1"}));
    rig.stop();
}

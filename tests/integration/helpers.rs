//! What a script may ask of the agent: input, output, variables, condition and event, in Python, Node.js and Bash.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use cronium_dev_backend::{Action, DevBackend, Edge, Fault, JobRow, On};
use serde_json::{Value, json};

use crate::engine::tcp_engine;
use crate::harness::{
    Agent, Folder, LONG, binary, deployed, docker, eventually, finish, finished, job, report, shared, stderr, stdout,
};
use crate::podman::Podman;

/// A job whose script has this input.
fn with_input(language: &str, script: &str, input: Value) -> Value {
    let mut job = job(language, script);
    job["execution"]["inputData"] = input;
    job["metadata"]["eventName"] = json!("nightly");
    job
}

/// Runs one script that must succeed.
fn run(backend: &DevBackend, language: &str, script: &str, input: Value) -> JobRow {
    let row = finish(backend, with_input(language, script, input));
    assert_eq!(row.exit_code, Some(0), "{language}:\n{}\n{}", stdout(&row), stderr(&row));
    row
}

/// As the app's default scripts are: without an import, and with what its documentation teaches.
pub const DEFAULT_SCRIPTS: [(&str, &str); 3] = [
    (
        "PYTHON",
        r#"#!/usr/bin/env python3
# Counts what comes in
import os
from datetime import datetime

data = cronium.input()
print(f"Input received: {data}")
host = cronium.getVariable("REDIS_HOST") or "localhost"
count = int(cronium.getVariable("COUNT") or "0") + 1
cronium.setVariable("COUNT", count)

def main():
    result = {"success": True, "received": data, "host": host, "event": cronium.event()["name"]}
    cronium.output(result)
    return result

if __name__ == "__main__":
    main()
    cronium.setCondition(count > 0)
    print("done", cronium.getCondition())
"#,
    ),
    (
        "NODEJS",
        r#"/**
 * Counts what comes in
 */
const data = cronium.input();
console.log('Input received:', data);
async function main() {
  const host = (await cronium.getVariable('REDIS_HOST')) || 'localhost';
  const count = parseInt(cronium.getVariable('COUNT') || '0') + 1;
  cronium.setVariable('COUNT', count);
  const result = { success: true, received: data, host, event: cronium.event().name };
  await cronium.output(result);
  cronium.setCondition(count > 0);
  return result;
}
main().then(() => console.log('done', cronium.getCondition()));
"#,
    ),
    (
        "BASH",
        r#"#!/bin/bash
# Counts what comes in
set -euo pipefail
data=$(cronium_input)
echo "Input received: $data"
host=$(cronium_getVariable "REDIS_HOST")
if [[ -z "$host" ]]; then
    host="localhost"
fi
count=$(cronium_getVariable "COUNT")
count=${count:-0}
cronium_setVariable "COUNT" "$((count + 1))"
result=$(cat << EOF
{
  "success": true,
  "received": $data,
  "host": "$host",
  "event": "$(cronium_event | jq -r .name)"
}
EOF
)
cronium_output "$result"
cronium_setCondition true
echo "done $(cronium_getCondition)"
"#,
    ),
];

#[test]
pub fn scripts_like_the_apps_own_run_unchanged() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    for (at, (language, script)) in DEFAULT_SCRIPTS.iter().enumerate() {
        let row = run(&backend, language, script, json!({"n": [1, "ü"]}));
        let want = json!({"success": true, "received": {"n": [1, "ü"]}, "host": "localhost", "event": "nightly"});
        assert_eq!((&report(&row)["scriptOutput"], &report(&row)["condition"]), (&want, &json!(true)), "{language}");
        assert_eq!(backend.variable("u1", "COUNT"), Some((at + 1).to_string()), "{language}");
        let said = stdout(&row);
        assert!(said.starts_with("Input received: ") && said.to_lowercase().ends_with("done true\n"), "{said}");
    }
    // Nothing asks the backend but the variables.
    let asked = |path: &str| backend.requests().iter().filter(|request| request.target.contains(path)).count();
    assert_eq!((asked("/variables/u1/COUNT"), asked("/context"), asked("/output")), (6, 0, 0));
    assert_eq!(backend.problems(), Vec::<String>::new());
    agent.stop();
}

/// One script a language that calls each name of the contract's table, and fails where one does not do as it says.
const EVERY_NAME: [(&str, &str); 3] = [
    (
        "PYTHON",
        r#"
import cronium as imported
assert imported is cronium
assert cronium.input() == {"a": [1]}
event = cronium.event()
assert (event["id"], event["name"], event["type"], event["runLocation"], event["server"]) == (12, "nightly", "PYTHON", "LOCAL", None), event
assert event["userId"] == "u1" and event["executionId"] and event["jobId"]
assert cronium.getVariable("py none") is None and cronium.get_variable("py none", 7) == 7
for value, want in [("x", "x"), ("", ""), ("007", "007"), (7, "7"), (1.5, "1.5"), (True, "true"), (None, "null"), ({"a": [1]}, {"a": [1]}), ([1, "ü"], [1, "ü"]), ("[1, 2]", [1, 2])]:
    cronium.setVariable("py/a b?ü", value)
    assert cronium.getVariable("py/a b?ü") == want, (value, cronium.getVariable("py/a b?ü"))
cronium.set_variable("py", "x")
assert cronium.variable_exists("py") and not cronium.variable_exists("py none")
assert (cronium.increment_variable("py n"), cronium.increment_variable("py n", 5)) == (1, 6)
cronium.append_variable("py", "y", ",")
assert cronium.get_variable("py") == "x,y"
assert cronium.getCondition() is False
cronium.set_condition(True)
assert cronium.get_condition() is True
cronium.setCondition(False)
for call in [lambda: cronium.send_email(to="a@b"), lambda: cronium.send_slack_message(), lambda: cronium.execute_tool_action("t", "a", {}), lambda: cronium.output({1, 2}), lambda: cronium.getVariable("")]:
    try:
        call()
        raise SystemExit("no error")
    except cronium.CroniumError as error:
        print(error)
cronium.output("first")
cronium.output(None)
"#,
    ),
    (
        "NODEJS",
        r#"
const assert = require("assert");
assert.strictEqual(require("cronium"), cronium);
assert.strictEqual(global.cronium, cronium);
assert.deepStrictEqual(cronium.input(), { a: [1] });
const event = cronium.event();
assert.deepStrictEqual([event.id, event.name, event.type, event.runLocation, event.server], [12, "nightly", "NODEJS", "LOCAL", null]);
assert.ok(event.userId === "u1" && event.executionId && event.jobId);
assert.strictEqual(cronium.getVariable("js none"), null);
for (const [value, want] of [["x", "x"], ["", ""], ["007", "007"], [7, "7"], [1.5, "1.5"], [true, "true"], [null, "null"], [undefined, "null"], [{ a: [1] }, { a: [1] }], [[1, "ü"], [1, "ü"]], ["[1, 2]", [1, 2]]]) {
  cronium.setVariable("js/a b?ü", value);
  assert.deepStrictEqual(cronium.getVariable("js/a b?ü"), want);
}
cronium.setVariable("js", "x");
assert.ok(cronium.variableExists("js") && !cronium.variableExists("js none"));
assert.deepStrictEqual([cronium.incrementVariable("js n"), cronium.incrementVariable("js n", 5)], [1, 6]);
cronium.appendVariable("js", "y", ",");
assert.strictEqual(cronium.getVariable("js"), "x,y");
assert.strictEqual(cronium.getCondition(), false);
cronium.setCondition(true);
assert.strictEqual(cronium.getCondition(), true);
cronium.setCondition(false);
const loop = {};
loop.loop = loop;
for (const call of [() => cronium.sendEmail({}), () => cronium.sendSlackMessage({}), () => cronium.executeToolAction("t", "a", {}), () => cronium.output(loop), () => cronium.getVariable("")]) {
  try {
    call();
  } catch (error) {
    assert.strictEqual(error.name, "CroniumError");
    console.log(error.message);
    continue;
  }
  throw new Error("no error");
}
(async () => {
  assert.strictEqual(await cronium.getVariable("js"), "x,y");
  await cronium.output("first");
  cronium.output(null);
})();
"#,
    ),
    (
        "BASH",
        r#"
fail() { echo "line ${BASH_LINENO[0]}: $*"; exit 9; }
same() { [ "$1" = "$2" ] || { echo "line ${BASH_LINENO[0]}: '$1' is not '$2'"; exit 9; }; }
source cronium.sh || fail source
same "$(cronium_input)" '{"a":[1]}'
same "$(cronium_event | jq -c '[.id, .name, .type, .runLocation, .userId, .server]')" '[12,"nightly","BASH","LOCAL","u1",null]'
same "$(cronium_event_field name)" nightly
same "$(cronium_event_field server)" ""
same "$(cronium_getVariable 'sh none')" ""
for value in x "" 007 7 true '{"a": [1]}' '[1, 2]' $'a\nb' "it's \"q\" \\"; do
  cronium_setVariable 'sh/a b?ü' "$value" || fail set
  same "$(cronium_getVariable 'sh/a b?ü')" "$value"
done
printf 'from stdin' | cronium.setVariable sh.in || fail stdin
same "$(cronium.getVariable sh.in)" 'from stdin'
cronium_set_variable sh x
cronium_variable_exists sh || fail exists
! cronium_variable_exists 'sh none' || fail exists
same "$(cronium_increment_variable 'sh n') $(cronium_increment_variable 'sh n' 5)" '1 6'
cronium_append_variable sh y ,
same "$(cronium_get_variable sh)" x,y
same "$(cronium_getCondition)" false
for word in true 1 yes on; do cronium_setCondition "$word"; same "$(cronium_get_condition)" true; done
for word in false 0 no off; do cronium_set_condition "$word"; same "$(cronium_getCondition)" false; done
cronium_setCondition perhaps 2>&1 && fail condition
cronium_send_email 2>&1 && fail mail
cronium_send_slack_message 2>&1 && fail slack
cronium_execute_tool_action 2>&1 && fail tool
cronium_getVariable '' 2>&1 && fail name
bash -c 'cronium_output 007' || fail inner
echo '{"from": "stdin"}' | cronium.output || fail stdin
cronium_output null
"#,
    ),
];

#[test]
pub fn every_name_of_the_contract_does_what_it_says() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    for (language, script) in EVERY_NAME {
        let row = run(&backend, language, script, json!({"a": [1]}));
        let report = report(&row);
        assert_eq!((&report["scriptOutput"], &report["condition"]), (&Value::Null, &json!(false)), "{language}");
        assert!(report.as_object().is_some_and(|all| all.contains_key("scriptOutput")), "{language}: null is a value");
        assert_eq!(stdout(&row).matches("not to be had from a script").count(), 3, "{}", stdout(&row));
        assert_eq!(stdout(&row).lines().count(), 5, "{}", stdout(&row));
    }
    let puts: Vec<String> = backend
        .requests()
        .iter()
        .filter(|r| r.method == "PUT" && r.target.contains("/variables/"))
        .map(|request| request.target.clone())
        .collect();
    assert!(puts.iter().any(|path| path.ends_with("/variables/u1/py%2Fa%20b%3F%C3%BC")), "{puts:?}");
    assert_eq!(backend.problems(), Vec::<String>::new());
    agent.stop();
}

#[test]
fn in_bash_json_is_json_and_everything_else_a_text() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    for (argument, want) in [
        ("007", json!("007")),
        ("7", json!(7)),
        ("true", json!(true)),
        ("'{\"a\": 1}'", json!({"a": 1})),
        ("'it is'", json!("it is")),
        ("'\"quoted\"'", json!("quoted")),
        ("''", json!("")),
    ] {
        let row = run(&backend, "BASH", &format!("cronium_output {argument}"), json!({}));
        assert_eq!(report(&row)["scriptOutput"], want, "{argument}");
    }
    agent.stop();
}

#[test]
fn in_a_workflow_the_output_is_the_next_ones_input_and_a_condition_opens_its_edge() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let first = with_input(
        "PYTHON",
        "cronium.output({'rows': [1, 2], 'of': cronium.input()['day']})\ncronium.setCondition(True)",
        json!({"day": "Monday"}),
    );
    let next = job("NODEJS", "cronium.output(cronium.input().rows.length)");
    let on_condition = job("BASH", "echo \"of $(cronium_input | jq -r .of)\"; cronium_event_field triggeredBy");
    let never = job("BASH", "true");
    let id = |job: &Value| job["id"].as_str().expect("an id").to_owned();
    let ids = [&first, &next, &on_condition, &never].map(id);
    let edge = |to: usize, on| Edge { from: ids[0].clone(), to: ids[to].clone(), on };
    let edges = vec![edge(1, On::Success), edge(2, On::Condition), edge(3, On::Failure)];
    backend.enqueue_workflow(vec![first, next, on_condition, never], edges).expect("a workflow");
    assert!(backend.wait_for(LONG, |b| ids[1..3].iter().all(|id| b.job(id).is_some())), "the jobs that follow");
    let rows = [&ids[1], &ids[2]].map(|id| finished(&backend, id));
    assert_eq!(report(&rows[0])["scriptOutput"], json!(2));
    assert_eq!(stdout(&rows[1]), "of Monday\nworkflow");
    assert!(backend.job(&ids[3]).is_none(), "the edge for a failure");
    agent.stop();
}

#[test]
pub fn several_processes_of_one_script_call_at_once() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let bash = "for n in $(seq 20); do { cronium_setVariable \"b$n\" \"$n\" && [ \"$(cronium_getVariable \"b$n\")\" = \"$n\" ] || echo \"not $n\"; } & done; wait; echo all";
    let python = r#"
import subprocess, sys, threading
def call(name):
    for n in range(3):
        cronium.setVariable(name, n)
        assert cronium.getVariable(name) == str(n)
threads = [threading.Thread(target=call, args=("t%d" % n,)) for n in range(10)]
[thread.start() for thread in threads]
inner = [subprocess.Popen([sys.executable, "-c", "cronium.setVariable('p%d', 'x')" % n]) for n in range(5)]
[thread.join() for thread in threads]
assert [one.wait() for one in inner] == [0] * 5
print("all")
"#;
    for (language, script) in [("BASH", bash), ("PYTHON", python)] {
        assert_eq!(stdout(&run(&backend, language, script, json!({}))), "all\n", "{language}");
    }
    assert_eq!(backend.variable("u1", "b20").as_deref(), Some("20"));
    assert_eq!(backend.variable("u1", "p4").as_deref(), Some("x"));
    agent.stop();
}

#[test]
fn an_output_that_is_too_large_is_an_error_where_it_is_given() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("jobs.maxScriptOutput", "10KB")]);
    for (language, script) in [
        (
            "PYTHON",
            "cronium.output('before')\ntry:\n    cronium.output('x' * 3000000)\nexcept cronium.CroniumError as error:\n    print(error)",
        ),
        (
            "NODEJS",
            "cronium.output('before');\ntry { cronium.output('x'.repeat(3000000)) } catch (error) { console.log(error.message) }",
        ),
        (
            "BASH",
            "cronium_output before\nhead -c 3000000 /dev/zero | tr '\\0' x | cronium_output 2>&1 || echo \"code $?\"",
        ),
        (
            "BASH",
            "cronium_output before\ncronium_output \"$(head -c 11000 /dev/zero | tr '\\0' x)\" 2>&1 || echo \"code $?\"",
        ),
    ] {
        let row = run(&backend, language, script, json!({}));
        assert!(stdout(&row).contains("jobs.maxScriptOutput"), "{language}: {}", stdout(&row));
        assert!(language != "BASH" || stdout(&row).ends_with("code 1\n"), "{}", stdout(&row));
        assert_eq!(report(&row)["scriptOutput"], json!("before"), "{language}");
    }
    agent.stop();
}

/// The calls of a script that speaks HTTP itself, as the sidecar of older versions wanted it.
const SIDECAR: &str = r#"
api() { curl -s --unix-socket "$CRONIUM_RUNTIME_SOCKET" -H "Authorization: Bearer $CRONIUM_EXECUTION_TOKEN" "$@"; echo; }
own=$CRONIUM_RUNTIME_API/executions/$CRONIUM_EXECUTION_ID
api "$own/input"
api -X POST -H 'Content-Type: application/json' -d '{"data":{"x":[1]}}' "$own/output"
api -X PUT -d '{"value":{"k":1}}' "$own/variables/a%2Fb"
api "$own/variables/a%2Fb"
api "$own/variables/none"
api -X POST -d '{"condition":true}' "$own/condition"
api "$own/context" | jq -r .data.name
api "$CRONIUM_RUNTIME_API/executions/exec-other-1/input" -w '%{http_code}'
CRONIUM_EXECUTION_TOKEN=$OTHER api "$own/input" -w '%{http_code}'
curl -s -w '%{http_code}' --unix-socket "$CRONIUM_RUNTIME_SOCKET" "$own/input"
echo
ls -A /run/cronium
touch /run/cronium/x 2>/dev/null && echo written
for n in $(seq 1001); do printf 'url = "%s/context"\noutput = /dev/null\n' "$own"; done >calls
curl -s -K calls --unix-socket "$CRONIUM_RUNTIME_SOCKET" -H "Authorization: Bearer $CRONIUM_EXECUTION_TOKEN"
api "$own/input" -w '%{http_code}'
"#;

#[test]
pub fn the_sidecars_http_is_spoken_and_reaches_the_own_execution_alone() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let other = run(&backend, "BASH", "echo \"$CRONIUM_EXECUTION_TOKEN\"", json!({}));
    let mut job = with_input("BASH", SIDECAR, json!({"a": 1}));
    job["execution"]["environment"]["OTHER"] = json!(stdout(&other).trim());
    let row = finish(&backend, job);
    let said: Vec<&str> = stdout(&row).lines().collect();
    let ok = r#"{"success":true,"data":null}"#;
    let want =
        [r#"{"success":true,"data":{"a":1}}"#, ok, ok, r#"{"success":true,"data":{"key":"a/b","value":{"k":1}}}"#];
    assert_eq!(said[..4], want, "{said:#?}\n{}", stderr(&row));
    assert!(said[4].starts_with(r#"{"error":"Not Found","message":"#), "{}", said[4]);
    assert_eq!(said[5..7], [ok, "nightly"]);
    let refused = |line: &str, error: &str, status: &str| {
        line.contains(&format!("\"error\":\"{error}\"")) && line.ends_with(status)
    };
    assert!(refused(said[7], "Forbidden", "403") && refused(said[8], "Forbidden", "403"), "{said:#?}");
    assert!(refused(said[9], "Unauthorized", "401"), "{said:#?}");
    // Its own socket is all that is there.
    assert_eq!(said[10], "api.sock");
    assert!(refused(said[11], "Too Many Requests", "429") && said.len() == 12, "{said:#?}");
    assert_eq!((&report(&row)["scriptOutput"], &report(&row)["condition"]), (&json!({"x": [1]}), &json!(true)));
    agent.stop();
}

#[test]
fn without_a_network_all_of_it_works_and_what_does_not_ask_has_no_socket() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("container.network.mode", "none")]);
    for (language, script) in DEFAULT_SCRIPTS {
        run(&backend, language, script, json!({}));
    }
    let row =
        run(&backend, "BASH", "env | grep -c -E 'RUNTIME|TOKEN'; ls -d /run/cro* .cro* 2>/dev/null; true", json!({}));
    assert_eq!(stdout(&row), "0\n");
    agent.stop();
}

#[test]
fn a_backend_that_is_away_is_asked_again_and_one_that_stays_away_is_named() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("api.retry.initialDelay", "100ms"), ("api.retry.maxAttempts", "3")]);
    backend.set_variable("u1", "k", "kept");
    let fault = |count| Fault {
        path: Some("/variables/".to_owned()),
        count,
        action: Action::Status { status: 503, headers: Default::default(), body: None },
        ..Fault::default()
    };
    backend.set_fault(fault(Some(2)));
    assert_eq!(stdout(&run(&backend, "BASH", "cronium_getVariable k", json!({}))), "kept");
    backend.set_fault(fault(None));
    for (language, script) in [
        ("PYTHON", "try:\n    cronium.getVariable('k')\nexcept cronium.CroniumError as error:\n    print(error)"),
        ("NODEJS", "try { cronium.getVariable('k') } catch (error) { console.log(error.message) }"),
        ("BASH", "cronium_setVariable k v 2>&1 || echo \"code $?\""),
    ] {
        let row = run(&backend, language, script, json!({}));
        let said = stdout(&row);
        assert!(said.contains("503") && said.contains("/variables/u1/k"), "{language}: {said}");
        assert!(!said.contains(backend.token()), "{said}");
    }
    agent.stop();
}

#[test]
pub fn after_a_kill_the_next_agent_answers_and_keeps_what_was_set() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let python = "import time\ncronium.output({'part': 1})\ncronium.setCondition(True)\ncronium.setVariable('at', 'py')\ntime.sleep(3)\nprint(cronium.getVariable('late'), cronium.input()['a'], cronium.getCondition())";
    let bash = "cronium_output null\ncronium_setVariable at2 sh\nsleep 3\necho \"$(cronium_getVariable late) $(curl -s --unix-socket \"$CRONIUM_RUNTIME_SOCKET\" -H \"Authorization: Bearer $CRONIUM_EXECUTION_TOKEN\" \"$CRONIUM_RUNTIME_API/executions/$CRONIUM_EXECUTION_ID/input\")\"\necho \"$(cronium_event_field name)\"";
    let ids = [("PYTHON", python), ("BASH", bash)]
        .map(|(language, script)| backend.enqueue(with_input(language, script, json!({"a": 1}))).expect("queued"));
    eventually("both have set what they set", || {
        backend.variable("u1", "at").is_some() && backend.variable("u1", "at2").is_some()
    });
    backend.set_variable("u1", "late", "late");
    agent.signal("KILL");
    // The scripts call while no agent is there.
    std::thread::sleep(Duration::from_secs(4));
    let agent = agent.again(&backend, &[]);
    let rows = ids.map(|id| finished(&backend, &id));
    assert_eq!(stdout(&rows[0]), "late 1 True\n", "{}", stderr(&rows[0]));
    assert_eq!(stdout(&rows[1]), "late {\"success\":true,\"data\":{\"a\":1}}\nnightly\n", "{}", stderr(&rows[1]));
    let results = rows.each_ref().map(|row| (&report(row)["scriptOutput"], &report(row)["condition"]));
    assert_eq!(results, [(&json!({"part": 1}), &json!(true)), (&Value::Null, &Value::Null)]);
    assert!(report(&rows[1]).as_object().is_some_and(|all| all.contains_key("scriptOutput")), "null is a value");
    agent.stop();
}

#[test]
fn with_an_engine_behind_tcp_a_call_says_so_at_once() {
    let _machine = shared();
    let backend = deployed();
    let endpoint = format!("tcp://127.0.0.1:{}", tcp_engine());
    let agent = Agent::start(&backend, &[("container.docker.endpoint", &endpoint)]);
    let row = run(
        &backend,
        "PYTHON",
        "print(cronium.input(), cronium.event()['name'])\ntry:\n    cronium.getVariable('k')\nexcept cronium.CroniumError as error:\n    print(error)",
        json!({}),
    );
    let said = stdout(&row);
    assert!(said.starts_with("{} nightly\n") && said.contains("the container engine is behind tcp://"), "{said}");
    let row = finish(&backend, job("BASH", "cronium_output x"));
    assert!(row.exit_code == Some(1) && stderr(&row).contains("behind tcp://"), "{}", stderr(&row));
    assert!(agent.log().contains("scripts in containers cannot use their helpers"), "{}", agent.log());
    agent.stop();
}

fn exec(arguments: &[&str], script: &Path) -> Output {
    binary().arg("exec").args(arguments).arg(script).output().expect("the agent's exec")
}

#[test]
fn exec_tries_a_script_without_a_backend() {
    let _machine = shared();
    let folder = Folder::new();
    let [script, variables] = ["count.py", "variables.json"].map(|name| folder.path().join(name));
    std::fs::write(&script, DEFAULT_SCRIPTS[0].1).expect("a script");
    std::fs::write(&variables, r#"{"COUNT": 41, "REDIS_HOST": "db"}"#).expect("variables");
    let shown = variables.to_str().expect("text");
    let begun = Instant::now();
    let output = exec(&["--input", r#"{"a": 1}"#, "--variables", shown, "--json"], &script);
    assert!(output.status.success() && begun.elapsed() < LONG, "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!(
        (&found["output"], &found["condition"], &found["status"], &found["exitCode"]),
        (
            &json!({"success": true, "received": {"a": 1}, "host": "db", "event": "exec"}),
            &json!(true),
            &json!("completed"),
            &json!(0)
        )
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("Input received: {'a': 1}"), "{output:?}");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&variables).expect("a file")).expect("JSON");
    assert_eq!(kept, json!({"COUNT": "42", "REDIS_HOST": "db"}));

    let output = exec(&["--input", "{"], &script);
    assert!(
        output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("--input is not JSON"),
        "{output:?}"
    );
    std::fs::write(&variables, "[]").expect("variables");
    let output = exec(&["--variables", shown], &script);
    assert!(
        output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("not a JSON object"),
        "{output:?}"
    );
}

#[test]
pub fn nothing_of_a_jobs_helpers_is_left_and_the_engine_knows_no_token() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let id = backend
        .enqueue(job("BASH", "cronium_setVariable at x; echo \"$CRONIUM_EXECUTION_TOKEN\" | rev; sleep 2"))
        .expect("queued");
    eventually("it runs", || backend.variable("u1", "at").is_some());
    eventually("its container has its name", || agent.container_of(&id).is_some());
    let inspected = docker(&["inspect", &agent.container_of(&id).expect("a container")]);
    let row = finished(&backend, &id);
    // As it is, it would be redacted.
    let token: String = stdout(&row).trim().chars().rev().collect();
    assert!(token.len() == 64 && !inspected.contains(&token) && !agent.log().contains(&token), "{token}");
    let mount = serde_json::from_str::<Value>(&inspected).expect("JSON")[0]["Mounts"][0].clone();
    assert_eq!((&mount["Destination"], &mount["RW"]), (&json!("/run/cronium"), &json!(false)));
    let folder = mount["Source"].as_str().expect("a path").to_owned();
    eventually("its folder is removed", || !Path::new(&folder).exists());
    let state = agent.state();
    agent.stop();
    assert!(!state.with_file_name("run").exists(), "the folder of all sockets");
}

#[test]
pub fn where_the_engine_does_not_see_the_agents_folder_scripts_run_and_a_call_says_why() {
    let _machine = shared();
    let backend = deployed();
    let folder = Folder::new();
    let shown = folder.path().to_str().expect("text");
    let mount = format!("mount -t tmpfs none '{shown}' && exec \"$@\"");
    let before = ["unshare", "--mount", "sh", "-c", mount.as_str(), "sh"];
    let agent = Agent::start_behind(&before, &backend.url(), backend.token(), &[("state.runtimeDir", shown)]);
    for _ in 0..2 {
        let row = finish(&backend, job("BASH", "cronium_input; cronium_getVariable k 2>&1 || echo \"code $?\""));
        let said = stdout(&row);
        assert!(said.starts_with("{}\n") && said.ends_with("code 1\n"), "{said}{}", stderr(&row));
        assert!(said.contains("does not see the agent's folder") && said.contains("state.runtimeDir"), "{said}");
    }
    assert_eq!(agent.log().matches("scripts in containers cannot use their helpers").count(), 1, "{}", agent.log());
    agent.stop();
}

#[test]
fn on_podman_scripts_have_their_helpers_too() {
    let _machine = shared();
    let podman = Podman::start(&["cronium/runner:bash-alpine"]);
    let folder = Folder::new();
    let [script, sockets] = ["script.sh", "run"].map(|name| folder.path().join(name));
    std::fs::write(&script, DEFAULT_SCRIPTS[2].1).expect("a script");
    let settings = [
        format!("container.docker.endpoint={}", podman.endpoint()),
        "container.network.mode=none".to_owned(),
        format!("state.runtimeDir={}", sockets.display()),
    ];
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    let arguments: Vec<&str> = settings.chain(["--json"]).collect();
    let output = exec(&arguments, &script);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert_eq!((&found["output"]["success"], &found["condition"]), (&json!(true), &json!(true)), "{output:?}");
}

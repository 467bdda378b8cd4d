//! Ways in which other runners of scripts have let secrets out. Each is tried here, and stays shut.

use cronium_dev_backend::{Action, Fault, JobRow};
use serde_json::{Value, json};

use crate::harness::{
    Agent, Folder, LONG, deployed, eventually, finish, job, record, report, shared, stderr, stdout, with_socket,
};
use crate::redaction::Sinks;

const SECRET: &str = "hunter2Sl33p";
/// What none of the tests may find anywhere: the secret, and what base64 and hex make of it at any place.
const TRACES: &[&str] = &[
    SECRET,
    "aHVudGVyMlNsMzNw",
    "1bnRlcjJTbDMzc",
    "odW50ZXIyU2wzM3",
    "68756e74657232536c333370",
    "68756E74657232536C333370",
];

fn holding(language: &str, script: &str, environment: Value) -> Value {
    let mut job = job(language, script);
    job["execution"]["environment"] = environment;
    job
}

/// Runs it with a live log; no sink has a trace, and each of `visible` is in the result or in its words.
fn shut(job: Value, visible: &[&str]) -> (JobRow, Value) {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let row = finish(&backend, job);
    let sinks = Sinks::of(&backend, &agent, &row.id);
    let found: Vec<&&str> = TRACES.iter().filter(|trace| sinks.holds(trace)).collect();
    assert_eq!(found, Vec::<&&str>::new(), "{}", report(&row));
    for word in visible {
        assert!(sinks.holds(word), "{word} is nowhere: {}", report(&row));
    }
    let execution = record(&backend, &row);
    agent.stop();
    (row, execution)
}

#[test]
fn secrets_in_annotations_of_a_log_are_hidden() {
    let script = "echo \"::error file=a.sh,line=1::cannot log in with $A_TOKEN\"; echo \"::add-mask::$A_TOKEN\"; \
                  echo \"##vso[task.logissue type=error]$A_TOKEN\" >&2; echo \"##[command]curl -H 'X: $A_TOKEN'\"; \
                  echo \"section_start:0:a[collapsed=true]\\r\\e[0K$A_TOKEN\"; set -x; : \"$A_TOKEN\"";
    let (row, _) = shut(holding("BASH", script, json!({"A_TOKEN": SECRET})), &["cannot log in with [redacted]"]);
    assert!(stdout(&row).contains("::add-mask::[redacted]") && stderr(&row).contains("[redacted]"), "{row:?}");
}

#[test]
fn secrets_in_error_texts_are_hidden() {
    let script =
        "import os\nraise RuntimeError('no login for ' + os.environ['A_TOKEN'] + repr(os.environ['A_TOKEN'].encode()))";
    let (row, execution) = shut(holding("PYTHON", script, json!({"A_TOKEN": SECRET})), &["no login for [redacted]"]);
    assert_eq!(row.exit_code, Some(1));
    assert!(execution["error"].is_string(), "{execution}");
    // In the agent's own words: the verdict quotes why the script could not be started.
    let mut nowhere = holding("BASH", "true", json!({"A_TOKEN": SECRET}));
    nowhere["execution"]["script"]["workingDirectory"] = json!(format!("../{SECRET}"));
    let (row, execution) = shut(nowhere, &["../[redacted]"]);
    assert_eq!(report(&row)["status"], "failed");
    assert!(execution["error"].as_str().is_some_and(|error| error.contains("[redacted]")), "{execution}");
    // In a line of the job's log.
    let other = holding("BASH", &format!("#!/usr/bin/{SECRET}\necho ran"), json!({"A_TOKEN": SECRET}));
    shut(other, &["#! line names \\\"[redacted]\\\"", "ran"]);
}

/// The record's own artifacts: metadata, result, the file on disk while the job runs, and the report in quarantine.
#[test]
fn secrets_in_artifacts_of_the_record_are_hidden() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let script =
        "cronium_output \"{\\\"$A_TOKEN\\\": [\\\"user:$A_TOKEN\\\"]}\"; echo \"$A_TOKEN\"; sleep 3; echo over";
    let action = Action::Status { status: 400, headers: Default::default(), body: None };
    backend.set_fault(Fault { path: Some("/complete".into()), action, ..Fault::default() });
    let id = backend.enqueue(holding("BASH", script, json!({"A_TOKEN": SECRET}))).expect("queued");
    eventually("the first line", || !backend.lines(&id).is_empty());
    let clean = |when: &str| {
        let sinks = Sinks::of(&backend, &agent, &id);
        let found: Vec<&&str> = TRACES.iter().filter(|trace| sinks.holds(trace)).collect();
        assert_eq!(found, Vec::<&&str>::new(), "{when}");
        sinks
    };
    assert!(clean("while it runs").holds("\"Started\""), "its record is among what was searched");
    let quarantine = agent.state_dir().join("aside");
    eventually("the refused report is in quarantine", || {
        std::fs::read_dir(&quarantine).is_ok_and(|all| all.count() > 0)
    });
    clean("in quarantine");
    let texts =
        std::fs::read_dir(&quarantine).expect("a folder").flatten().map(|file| std::fs::read_to_string(file.path()));
    assert!(texts.flatten().any(|text| text.contains("over\\n")), "the report is among what was searched");
    agent.stop();
}

/// A value that a script names as a secret after it has made it its result.
#[test]
fn a_result_that_turns_out_to_be_a_secret_is_hidden() {
    let script =
        "v=late-; v=${v}N4m3d; cronium_output \"{\\\"login\\\": \\\"$v\\\"}\"; cronium_redact \"$v\"; echo \"$v\"";
    let (row, _) = shut(holding("BASH", script, json!({})), &["[redacted]"]);
    assert_eq!((report(&row)["scriptOutput"].clone(), stdout(&row)), (json!({"login": "[redacted]"}), "[redacted]\n"));
}

#[test]
fn a_key_that_is_printed_line_by_line_is_hidden_line_by_line() {
    let key = format!("-----BEGIN KEY-----\nfirst{SECRET}\nsecond{SECRET}\n-----END KEY-----\n");
    let script = "printf %s \"$DEPLOY_KEY\" | while read -r line; do echo \"  | $line\"; sleep 0.3; done; \
                  printf %s \"$DEPLOY_KEY\" | tac; printf %s \"$DEPLOY_KEY\" | sed 's/$/\\r/'; printf %s \"$DEPLOY_KEY\" | base64";
    let (row, _) = shut(holding("BASH", script, json!({"DEPLOY_KEY": key})), &["  | [redacted]"]);
    assert!(stdout(&row).matches("  | [redacted]\n").count() >= 2, "{}", stdout(&row));
}

#[test]
fn base64_of_a_value_behind_a_prefix_is_hidden() {
    let script = "for user in '' u us user: a-longer-user:; do printf '%s%s' \"$user\" \"$A_TOKEN\" | base64 -w0; echo; \
                  printf '%s%s:x' \"$user\" \"$A_TOKEN\" | base64 -w0 | tr '+/' '-_'; echo; done; \
                  echo \"Authorization: Basic $(printf 'me:%s' \"$A_TOKEN\" | base64)\"";
    let (row, _) = shut(holding("BASH", script, json!({"A_TOKEN": SECRET})), &["Authorization: Basic "]);
    assert_eq!(stdout(&row).matches("[redacted]").count(), 11, "{}", stdout(&row));
}

#[test]
fn a_secret_within_another_leaves_nothing_of_either() {
    let environment = json!({
        "A_TOKEN": SECRET,
        "B_TOKEN": format!("before-{SECRET}-after"),
        "C_TOKEN": format!("{SECRET}-after-all"),
    });
    let script = "echo \"$B_TOKEN,$C_TOKEN,$A_TOKEN\"; echo \"$B_TOKEN-all\"";
    let (row, _) = shut(holding("BASH", script, environment), &[]);
    assert_eq!(stdout(&row), "[redacted],[redacted],[redacted]\n[redacted]\n");
}

#[test]
fn a_secret_split_over_writes_with_a_pause_is_hidden() {
    let script = "import os, sys, time\nsecret = os.environ['A_TOKEN']\nfor at in range(1, len(secret)):\n    \
                  for part in (secret[:at], secret[at:] + '\\n'):\n        sys.stdout.write(part); sys.stdout.flush(); \
                  time.sleep(0.25)\nfor c in secret + '\\n':\n    sys.stderr.write(c); sys.stderr.flush(); time.sleep(0.02)\n";
    let (row, _) = shut(holding("PYTHON", script, json!({"A_TOKEN": SECRET})), &[]);
    let said = stdout(&row);
    assert!(said.lines().all(|line| line.len() <= "hu[redacted]".len() && line.ends_with("[redacted]")), "{said}");
    assert!(!stderr(&row).contains("Sl33p"), "{}", stderr(&row));
}

#[test]
fn an_agent_that_crashes_leaves_none_of_its_memory() {
    let _machine = shared();
    let (backend, folder) = (deployed(), Folder::new());
    let place = folder.path().display().to_string();
    // As under a service manager that allows core files of any size.
    let before = ["env", "--chdir", &place, "prlimit", "--core=unlimited:unlimited"];
    let mut agent = Agent::start_behind(&before, &backend.url(), backend.token(), &[]);
    agent.wait_ready();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.pid())).expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["1", "1"], "{line}");
    agent.signal("ABRT");
    agent.wait(LONG);
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").flatten().map(|entry| entry.path()).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

//! How a script is started on a server: its variables, its `#!` line, interpreters that cannot be started.

use std::os::unix::fs::PermissionsExt as _;

use cronium_dev_backend::JobRow;
use serde_json::{Value, json};

use crate::harness::{Folder, finish, record, report, shared, stderr, stdout};
use crate::ssh_rig::Rig;

fn with(rig: &Rig, language: &str, script: &str, variables: Value) -> JobRow {
    let mut job = rig.job(language, script);
    job["execution"]["environment"] = variables;
    let row = finish(&rig.backend, job);
    let live: String = rig.backend.lines(&row.id).into_iter().map(|line| format!("{}\n", line.text)).collect();
    for text in [stdout(&row), stderr(&row), &live, &verdict(rig, &row)] {
        assert!(!text.contains("cronium setup ") && !text.contains("cronium ready"), "{text}");
    }
    row
}

fn verdict(rig: &Rig, row: &JobRow) -> String {
    record(&rig.backend, row)["executionMetadata"]["verdict"].as_str().expect("verdict").to_owned()
}

#[test]
fn variables_that_shells_keep_arrive_on_a_server_or_the_job_is_refused_by_name() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let names =
        ["OPTIND", "RANDOM", "UID", "GROUPS", "IFS", "PATH", "LC_ALL", "PWD", "_", "SHELLOPTS", "my.key", "i", "l"];
    for value in ["abc", "", "-1", "*", "a\nb"] {
        let all: serde_json::Map<_, _> = names.iter().map(|name| ((*name).to_owned(), json!(value))).collect();
        let list = names.join(" ");
        let python = format!("import os, json\nprint(json.dumps([os.environ.get(n) for n in '{list}'.split()]))");
        let node = format!("console.log(JSON.stringify('{list}'.split(' ').map(n => process.env[n] ?? null)))");
        for (language, script) in [("PYTHON", python), ("NODEJS", node)] {
            let row = with(&rig, language, &script, all.clone().into());
            let seen: Vec<Option<String>> = serde_json::from_str(stdout(&row)).unwrap_or_else(|_| panic!("{row:?}"));
            assert_eq!(seen, vec![Some(value.to_owned()); names.len()], "{language}");
        }
        let own = json!({ "UID": value, "GROUPS": value, "my.key": value, "A": value });
        let script = "for n in UID GROUPS my.key A; do printenv -0 \"$n\"; done | tr '\\0' '|'; [ \"$UID\" = \"$A\" ]";
        let row = with(&rig, "BASH", script, own);
        assert_eq!(
            (stdout(&row), row.exit_code),
            (format!("{value}|").repeat(4).as_str(), Some(0)),
            "{}",
            stderr(&row)
        );
    }
    for name in ["OPTIND", "RANDOM", "IFS", "SHLVL"] {
        let row = with(&rig, "BASH", "echo ran", json!({ name: "1" }));
        assert_eq!((stdout(&row), row.exit_code, report(&row)["status"].as_str()), ("", Some(125), Some("failed")));
        assert!(verdict(&rig, &row).contains(&format!("Bash sets {name} itself")), "{}", verdict(&rig, &row));
    }
    rig.stop();
}

#[test]
fn the_first_line_counts_on_a_server() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    for (language, script, want, code) in [
        ("BASH", "#!/bin/bash -e\nfalse\necho on", "", 1),
        ("BASH", "#!/bin/bash -euo pipefail\r\ntrue\n", "", 0),
        ("BASH", "\u{feff}#!/usr/bin/env bash\nfalse\necho on", "on\n", 0),
        ("PYTHON", "#!/usr/bin/env -S python3 -Werror\nimport warnings\nwarnings.warn('x')\nprint('on')", "", 1),
        ("PYTHON", "\u{feff}print(1)", "1\n", 0),
        ("NODEJS", "#!/usr/bin/node --stack-trace-limit=1\nconsole.log(Error.stackTraceLimit)", "1\n", 0),
        ("NODEJS", "import os from 'os'\nconsole.log(typeof os, await 1)", "object 1\n", 0),
    ] {
        for variables in [json!({}), json!({ "my.key": "x" })] {
            let row = with(&rig, language, script, variables);
            assert_eq!((stdout(&row), row.exit_code), (want, Some(code)), "{script} {}", stderr(&row));
        }
    }
    let row = with(&rig, "BASH", "#!/usr/bin/perl -w\nuse strict;\n", json!({}));
    let told = rig.backend.lines(&row.id).into_iter().any(|line| {
        line.stream == "system"
            && line.text.contains("#! line names \"perl\", but the job's type is bash: bash runs it")
    });
    assert!(told && verdict(&rig, &row).contains("; its #! line names \"perl\""), "{}", verdict(&rig, &row));
    let row = with(&rig, "BASH", "if true; then\r\n  echo on\r\nfi\r\n", json!({}));
    assert!(verdict(&rig, &row).contains("CR LF"), "{}", verdict(&rig, &row));
    rig.stop();
}

#[test]
fn an_interpreter_that_cannot_be_started_on_a_server_is_no_exit_code_of_the_script() {
    let _machine = shared();
    let folder = Folder::new();
    let shell = folder.path().join("bash");
    for (content, words) in
        [("#!/nowhere/at/all\n", "cannot start"), ("", "is no program"), ("exit 0\n", "is no program")]
    {
        std::fs::write(&shell, content).expect("write");
        std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let rig = Rig::start(&[("ssh.execution.defaultShell", shell.to_str().expect("text"))]);
        for variables in [json!({}), json!({ "my.key": "x" })] {
            let row = with(&rig, "BASH", "echo ran", variables);
            assert_eq!((stdout(&row), row.exit_code), ("", Some(125)), "{content:?} {row:?}");
            let verdict = verdict(&rig, &row);
            assert!(verdict.contains(words) && verdict.contains(shell.to_str().expect("text")), "{verdict}");
            let record = record(&rig.backend, &row);
            assert_eq!(record["executionMetadata"]["reason"], "infrastructure", "{verdict}");
        }
        rig.stop();
    }
}

//! How a script is started: its variables, its `#!` line, and images that are in the way.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use cronium_dev_backend::{DevBackend, JobRow, Stamp};
use serde_json::{Value, json};

use crate::harness::{
    Agent, LONG, deployed, docker, finish, finished, is_running, job, record, report, shared, stderr, stdout, unique,
    with_socket,
};

/// An image that is made from a runner's by these lines; it goes with this.
struct Image(String);

impl Image {
    fn of(base: &str, lines: &str) -> Self {
        let name = format!("cronium/test:{}", unique("start"));
        let mut build = Command::new("docker")
            .args(["build", "-q", "--force-rm", "-t", &name, "-"])
            .env("DOCKER_BUILDKIT", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker build");
        // Two tests that build the same at once would have one image, and each would remove it.
        let text = format!("FROM cronium/runner:{base}\nLABEL test={name}\nUSER 0:0\n{lines}\nUSER 1000:1000\n");
        build.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("write");
        let output = build.wait_with_output().expect("its end");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(name)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

fn with(language: &str, script: &str, variables: Value) -> Value {
    let mut job = job(language, script);
    job["execution"]["environment"] = variables;
    job
}

fn verdict(backend: &DevBackend, row: &JobRow) -> String {
    record(backend, row)["executionMetadata"]["verdict"].as_str().expect("verdict").to_owned()
}

fn system_lines(backend: &DevBackend, row: &JobRow) -> String {
    let lines = backend.lines(&row.id).into_iter().filter(|line| line.stream == "system");
    lines.map(|line| format!("{}\n", line.text)).collect()
}

/// Whatever a person may see of the job is free of the words between agent and program.
fn is_clean(backend: &DevBackend, row: &JobRow) {
    let live: String = backend.lines(&row.id).into_iter().map(|line| format!("{}\n", line.text)).collect();
    let all = [stdout(row), stderr(row), &live, &record(backend, row).to_string(), &report(row).to_string()];
    for text in all {
        assert!(!text.contains("cronium setup ") && !text.contains("cronium ready"), "{text}");
    }
}

#[test]
pub fn variables_that_shells_keep_arrive_or_the_job_is_refused_by_name() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let names = ["OPTIND", "RANDOM", "UID", "GROUPS", "IFS", "PATH", "LC_ALL", "PWD", "_", "SHELLOPTS", "my.key"];
    for value in ["abc", "", "-1", "*", "a\nb"] {
        let variables: Value =
            names.iter().map(|name| ((*name).to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into();
        let list = names.join(" ");
        let python = format!("import os, json\nprint(json.dumps([os.environ.get(n) for n in '{list}'.split()]))");
        let node = format!("console.log(JSON.stringify('{list}'.split(' ').map(n => process.env[n] ?? null)))");
        for (language, script) in [("PYTHON", python), ("NODEJS", node)] {
            let row = finish(&backend, with(language, &script, variables.clone()));
            let seen: Vec<Option<String>> = serde_json::from_str(stdout(&row)).unwrap_or_else(|_| panic!("{row:?}"));
            assert_eq!(seen, vec![Some(value.to_owned()); names.len()], "{language}");
        }
        let own = json!({ "UID": value, "GROUPS": value, "FUNCNAME": value, "my.key": value, "A": value });
        let script =
            "for n in UID GROUPS FUNCNAME my.key A; do printenv -0 \"$n\"; done | tr '\\0' '|'; [ \"$UID\" = \"$A\" ]";
        let row = finish(&backend, with("BASH", script, own));
        assert_eq!(
            (stdout(&row), row.exit_code),
            (format!("{value}|").repeat(5).as_str(), Some(0)),
            "{}",
            stderr(&row)
        );
    }
    for name in ["OPTIND", "RANDOM", "IFS", "PWD", "SHLVL", "_", "SHELLOPTS", "BASHPID"] {
        let row = finish(&backend, with("BASH", "echo ran", json!({ name: "1", "A": "b" })));
        assert_eq!((stdout(&row), row.exit_code, report(&row)["status"].as_str()), ("", Some(125), Some("failed")));
        let verdict = verdict(&backend, &row);
        assert!(verdict.contains(&format!("Bash sets {name} itself")), "{verdict}");
    }
    agent.stop();
}

#[test]
pub fn variables_and_functions_of_an_image_change_nothing() {
    let _machine = shared();
    let backend = with_socket();
    let hostile = "ENV CDPATH=/tmp:/usr ENV=/env BASH_ENV=/env IFS=o POSIXLY_CORRECT=1 GREP_OPTIONS=-v GLOBIGNORE=* i=theirs \
                   SHELLOPTS=xtrace:verbose:noglob BASHOPTS=nocasematch PS4=traced \
                   BASH_FUNC_cat%%=\"() { echo fooled; }\" BASH_FUNC_cd%%=\"() { echo fooled; }\"\n\
                   RUN printf 'echo fooled; cd /\\n' >/env";
    for shell in ["", "RUN ln -sf bash /bin/sh\n"] {
        let image = Image::of("bash-alpine", &format!("{shell}{hostile}"));
        let agent = Agent::start(&backend, &[("container.images.bash", &image.0)]);
        for variables in [json!({ "SECRET": "hunter2" }), json!({ "SECRET": "hunter2", "my.key": "x" })] {
            let script = "mkdir local; cd local && pwd; type cat; printf '%s ' \"$i\" a/o*; echo; echo b | grep b";
            let row = finish(&backend, with("BASH", script, variables));
            assert_eq!(stdout(&row), "/workspace/local\ncat is /usr/bin/cat\ntheirs a/o* \nb\n", "{}", stderr(&row));
            assert_eq!(stderr(&row).lines().filter(|line| !line.contains("completed")).count(), 0, "{}", stderr(&row));
            is_clean(&backend, &row);
        }
        let row = finish(&backend, with("BASH", "mkdir local; cd local && pwd", json!({ "CDPATH": "/usr" })));
        assert_eq!(stdout(&row), "/usr/local\n/usr/local\n", "a job's own value is meant");
        agent.stop();
    }
}

/// Bash warns of a locale that the image does not have, before it reads the program.
#[test]
pub fn a_shell_that_warns_before_the_program_hides_no_start() {
    let _machine = shared();
    let image = Image::of("bash-alpine", "RUN ln -sf bash /bin/sh\nENV LC_ALL=xx_XX.UTF-8");
    let backend = with_socket();
    let mut agent = Agent::start(&backend, &[("container.images.bash", &image.0)]);
    for lost in [None, Some(false), Some(true)] {
        let id = backend.enqueue(job("BASH", "echo begun; echo err >&2; sleep 4; echo end; exit 3")).expect("queued");
        if let Some(lost) = lost {
            crate::harness::eventually("the first line", || !backend.lines(&id).is_empty());
            // Where the record is lost, the name tells the job of a container that is older.
            crate::harness::eventually("the container has its name", || agent.container_of(&id).is_some());
            agent.signal("KILL");
            agent.wait(LONG);
            if lost {
                std::fs::remove_file(agent.state().join("jobs").join(format!("{id}.job"))).expect("a page");
            }
            agent = agent.again(&backend, &[("container.images.bash", &image.0)]);
        }
        let row = finished(&backend, &id);
        let said = stderr(&row);
        assert_eq!((stdout(&row), row.exit_code, row.claims), ("begun\nend\n", Some(3), 1), "{lost:?}: {said}");
        assert!(said.contains("setlocale: LC_ALL: cannot change locale (xx_XX.UTF-8)"), "{lost:?}: {said}");
        assert!(said.ends_with("err\n"), "{lost:?}: {said}");
        is_clean(&backend, &row);
    }
    agent.stop();
}

#[test]
pub fn an_interpreter_that_cannot_be_started_is_no_exit_code_of_the_script() {
    let _machine = shared();
    let backend = with_socket();
    for (lines, words) in [
        (
            "RUN printf '#!/nowhere/at/all\\n' >/usr/local/bin/python3; chmod 755 /usr/local/bin/python3",
            "cannot start /usr/local/bin/python3",
        ),
        ("RUN : >/usr/local/bin/python3; chmod 755 /usr/local/bin/python3", "/usr/local/bin/python3 is no program"),
        ("RUN rm -f /usr/bin/python3*", "no python3 or python on its PATH (/usr/local/sbin:"),
    ] {
        let image = Image::of("python-alpine", lines);
        let agent = Agent::start(&backend, &[("container.images.python", &image.0)]);
        for variables in [json!({}), json!({ "my.key": "x" })] {
            let row = finish(&backend, with("PYTHON", "print('ran')", variables));
            assert_eq!((stdout(&row), row.exit_code), ("", Some(125)), "{row:?}");
            let reason = &record(&backend, &row)["executionMetadata"]["reason"];
            assert_eq!(reason, "infrastructure", "{lines}");
            let verdict = verdict(&backend, &row);
            assert!(verdict.contains(words), "{verdict}");
            is_clean(&backend, &row);
        }
        agent.stop();
    }
}

#[test]
pub fn the_first_line_counts_and_a_foreign_one_is_told() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    for (language, script, want, code) in [
        ("BASH", "#!/bin/bash -e\nfalse\necho on", "", 1),
        ("BASH", "#!/bin/bash -euo pipefail\nfalse | true\necho on", "", 1),
        ("BASH", "\u{feff}#!/usr/bin/env bash\nfalse\necho on", "on\n", 0),
        ("PYTHON", "#!/usr/bin/env -S python3 -Werror\nimport warnings\nwarnings.warn('x')\nprint('on')", "", 1),
        ("PYTHON", "\u{feff}print(1)", "1\n", 0),
        ("NODEJS", "#!/usr/bin/node --stack-trace-limit=1\nconsole.log(Error.stackTraceLimit)", "1\n", 0),
        ("NODEJS", "import os from 'os'\nconsole.log(typeof os, await 1)", "object 1\n", 0),
        ("NODEJS", "const os = require('os')\nconsole.log(typeof os)", "object\n", 0),
    ] {
        let row = finish(&backend, job(language, script));
        assert_eq!((stdout(&row), row.exit_code), (want, Some(code)), "{script} {}", stderr(&row));
        is_clean(&backend, &row);
    }
    let row = finish(&backend, job("BASH", "#!/usr/bin/perl -w\nuse strict;\n"));
    assert!(system_lines(&backend, &row).contains("#! line names \"perl\", but the job's type is bash"));
    assert!(verdict(&backend, &row).contains("; its #! line names \"perl\""), "{}", verdict(&backend, &row));
    agent.stop();
}

#[test]
pub fn who_would_be_lost_gets_a_hint() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let row = finish(&backend, job("BASH", "if true; then\r\n  echo on\r\nfi\r\n"));
    assert!(row.exit_code != Some(0) && verdict(&backend, &row).contains("CR LF"), "{}", verdict(&backend, &row));
    let program = "cp /bin/true \"$d\"/x && \"$d\"/x";
    let row = finish(&backend, job("BASH", &format!("d=/tmp; {program}")));
    assert_eq!(row.exit_code, Some(126), "{}", stderr(&row));
    assert!(verdict(&backend, &row).contains("nothing in /tmp can be executed: put programs into $TMPDIR"));
    let python =
        "import os, subprocess as s\nopen('/tmp/x', 'w').close()\nos.chmod('/tmp/x', 0o755)\ns.run(['/tmp/x'])";
    let row = finish(&backend, job("PYTHON", python));
    assert!(verdict(&backend, &row).contains("nothing in /tmp can be executed"), "{}", verdict(&backend, &row));
    let row = finish(&backend, job("BASH", &format!("d=$TMPDIR; {program} && echo fine; ls; mktemp -u")));
    assert!(stdout(&row).starts_with("fine\nscript.sh\n/workspace/.tmp/tmp."), "{} {}", stdout(&row), stderr(&row));
    agent.stop();
}

#[test]
pub fn local_time_is_that_of_tz() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    for (language, script, want) in [
        ("BASH", "date -d @0 +%H%Z; date -d @1720000000 +%Z", "01CET\nCEST\n"),
        (
            "PYTHON",
            "import time, zoneinfo, datetime as d\nprint(time.strftime('%H%Z', time.localtime(0)))\n\
             print(d.datetime.fromtimestamp(1720000000, zoneinfo.ZoneInfo('Europe/Berlin')).tzname())",
            "01CET\nCEST\n",
        ),
        (
            "NODEJS",
            "console.log(new Date(0).getHours(), Intl.DateTimeFormat().resolvedOptions().timeZone, \
             new Date(1720000000000).getTimezoneOffset())",
            "1 Europe/Berlin -120\n",
        ),
    ] {
        let row = finish(&backend, with(language, script, json!({ "TZ": "Europe/Berlin" })));
        assert_eq!(stdout(&row), want, "{}", stderr(&row));
    }
    agent.stop();
}

#[test]
fn a_container_that_is_killed_at_any_moment_shows_no_mark() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[]);
    let large = format!("{}sleep 60", "# padding padding padding\n".repeat(200_000));
    for n in 0..12 {
        let id = backend.enqueue(with("BASH", &large, json!({ "my.key": "x" }))).expect("queued");
        let mut container = String::new();
        crate::harness::eventually("its container runs", || {
            container = agent.container_of(&id).unwrap_or_default();
            !container.is_empty() && is_running(&container)
        });
        std::thread::sleep(std::time::Duration::from_millis(n * 15));
        docker(&["kill", "-s", if n % 2 == 0 { "KILL" } else { "TERM" }, &container]);
        let row = crate::harness::finished(&backend, &id);
        assert_ne!(row.exit_code, Some(0));
        is_clean(&backend, &row);
    }
    agent.stop();
}

/// The deployed backend cannot push: a job waits for the agent's next poll.
#[test]
fn an_idle_agent_starts_a_job_within_two_and_a_half_seconds() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("jobs.pollInterval", "1s"), ("jobs.maxPollInterval", "0s")]);
    agent.wait_ready();
    let mut took = Vec::new();
    for n in 0..8_u64 {
        // Long enough to be idle again, and at another moment between two polls each time.
        std::thread::sleep(Duration::from_millis(5000 + n * 290));
        let row = finish(&backend, job("BASH", "true"));
        let since = |stamp: &Option<Stamp>| stamp.as_ref().expect("a moment").since_start - row.queued.since_start;
        took.push((since(&row.claimed), since(&row.started)));
    }
    let claimed = took.iter().map(|(claimed, _)| *claimed).max().expect("some");
    assert!(claimed < Duration::from_millis(2400), "claimed and started after {took:?}");
    // One may be held up by the other tests on this machine.
    let started = took.iter().filter(|(_, started)| *started < Duration::from_millis(2500)).count();
    assert!(started >= took.len() - 1, "claimed and started after {took:?}");
    agent.stop();
}

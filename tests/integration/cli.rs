//! The command line as a person uses it: exec, validate, version, help, and the answers to typing errors.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Folder, binary, containers_of_exec, eventually, require_engine, shared, unique};

/// Runs the binary to its end in an empty folder.
pub fn run(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Output {
    run_with(arguments, environment, Stdio::piped(), input)
}

/// The same with this standard output.
fn run_with(arguments: &[&str], environment: &[(&str, &str)], stdout: Stdio, input: &str) -> Output {
    let folder = Folder::new();
    let mut command = binary();
    command.args(arguments).envs(environment.iter().copied()).current_dir(folder.path()).env("HOME", folder.path());
    command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary");
    let pid = child.id();
    let _ = child.stdin.take().expect("stdin").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("its output");
    if arguments.first() == Some(&"exec") && output.status.code() != Some(2) {
        nothing_is_left_of(pid);
    }
    output
}

/// No container of the `exec` that had this number is in the engine. Other people's may be.
fn nothing_is_left_of(pid: u32) {
    eventually("nothing is left", || containers_of_exec(pid).is_empty());
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn check(output: &Output, code: i32, stdout: &str, last_of_stderr: &str) {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(text(&output.stdout), stdout);
    let last = errors.lines().last().unwrap_or_default();
    assert!(last.contains(last_of_stderr), "{last:?} does not contain {last_of_stderr:?}");
}

fn file(folder: &Folder, name: &str, content: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("write");
    path
}

#[test]
fn exec_runs_a_script_in_each_language_however_it_is_named() {
    let _machine = shared();
    require_engine();
    let folder = Folder::new();
    let at = |name: &str, content: &str| file(&folder, name, content).display().to_string();
    let verdict = "cronium-agent: completed (success)";
    check(&run(&["exec", &at("a.sh", "echo hi; echo e >&2")], &[], ""), 0, "hi\n", verdict);
    check(&run(&["exec", &at("a.py", "print(1+1)")], &[], ""), 0, "2\n", verdict);
    check(&run(&["exec", &at("a.js", "console.log(3)")], &[], ""), 0, "3\n", verdict);
    check(&run(&["exec", &at("plain", "#!/usr/bin/env python3\nprint(4)")], &[], ""), 0, "4\n", verdict);
    check(&run(&["exec", "--lang", "node", "-"], &[], "console.log(5)"), 0, "5\n", verdict);
    let variables = run(&["exec", "--lang", "bash", "-e", "A=x y", "-e", "B", "-"], &[("B", "z")], "echo \"$A|$B\"");
    check(&variables, 0, "x y|z\n", verdict);
    let network = run(&["exec", "--lang", "bash", "--network", "none", "-"], &[], "tail -n +3 /proc/net/dev | wc -l");
    check(&network, 0, "1\n", verdict);
}

#[test]
fn exec_ends_with_the_code_that_says_why() {
    let _machine = shared();
    require_engine();
    let bash = |more: &[&str], environment: &[(&str, &str)], script: &str| {
        let mut arguments = vec!["exec", "--lang", "bash"];
        arguments.extend_from_slice(more);
        arguments.push("-");
        run(&arguments, environment, script)
    };
    check(&bash(&[], &[], "exit 3"), 3, "", "failed (script): the script ended with exit code 3");
    check(&bash(&["--timeout", "1s"], &[], "echo a; sleep 20"), 124, "a\n", "timeout (timeout)");
    let greedy = run(&["exec", "--lang", "python", "--memory", "64MB", "-"], &[], "x = 'x' * 500_000_000");
    check(&greedy, 137, "", "memory limit of 64 MiB");
    let missing =
        [("CRONIUM_CONTAINER_IMAGES_BASH", "cronium/no-such:1"), ("CRONIUM_CONTAINER_IMAGES_PULL_POLICY", "never")];
    check(&bash(&[], &missing, "true"), 125, "", "cronium/no-such:1");
    check(&bash(&[], &[], "echo \0"), 125, "", "NUL byte");
    check(&bash(&[], &[("DOCKER_HOST", "unix:///nonexistent/docker.sock")], "true"), 3, "", "/nonexistent/docker.sock");
    check(&run(&["exec", "/no/such/file.sh"], &[], ""), 2, "", "cannot read /no/such/file.sh");
    check(&run(&["exec", "-"], &[], "echo"), 2, "", "--lang");
    check(&run(&["exec", "--timeout", "soon", "x.sh"], &[], ""), 2, "", "\"soon\" is not a time");
}

#[test]
fn exec_shows_lines_as_they_come_and_a_signal_stops_the_container() {
    let _machine = shared();
    require_engine();
    let word = unique("sleeper");
    let folder = Folder::new();
    let script = file(&folder, "a.sh", &format!("echo {word}; sleep 100"));
    for signal in ["TERM", "INT", "HUP"] {
        let mut child = binary()
            .args(["exec", script.to_str().expect("text")])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut first).expect("a line");
        assert_eq!(first.trim(), word, "the first line comes while the script runs");
        let begun = Instant::now();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().expect("kill").success());
        let number = child.id();
        let output = child.wait_with_output().expect("its end");
        nothing_is_left_of(number);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(text(&output.stderr).contains("cancelled by a signal"), "{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(143));
    }
}

#[test]
fn exec_lives_on_after_a_hang_up_that_nohup_has_it_ignore() {
    let _machine = shared();
    require_engine();
    let word = unique("sleeper");
    let agent = binary();
    let mut child = Command::new("nohup")
        .arg(agent.get_program())
        .args(["exec", "--lang", "bash", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nohup");
    let script = format!("echo {word}; sleep 2; echo over");
    child.stdin.take().expect("stdin").write_all(script.as_bytes()).expect("write");
    let mut out = BufReader::new(child.stdout.take().expect("stdout"));
    let mut first = String::new();
    out.read_line(&mut first).expect("a line");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill").success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest");
    assert_eq!((rest.as_str(), child.wait().expect("its end").code()), ("over\n", Some(0)));
}

#[test]
fn exec_refuses_what_the_configuration_refuses_and_says_what_is_meant() {
    let long = "x".repeat(101);
    for (flags, words) in [
        (&["--network", "host"][..], "jobs never share the host's own network"),
        (&["--network", "default"], "jobs never share"),
        (&["--network", "container:abc"], "isolated, none, bridge, or the name of a network"),
        (&["--network", "a b"], "or the name of a network"),
        (&["--network", &long], "or the name of a network"),
        (&["--network", ""], "--network \"\""),
        (&["--timeout", "0"], "--timeout \"0\" is not a time"),
        (&["--timeout", "0s"], "from 1s"),
        (&["--timeout", "999999h"], "to 720h"),
        (&["--memory", "1"], "from 6MB"),
        (&["--memory", "0"], "--memory \"0\" is not a size"),
        (&["--memory", "99999TB"], "to 64TB"),
        (&["--cpu", "0"], "--cpu \"0\" is not a number of cores"),
        (&["--cpu", "-1"], "from 0.01"),
        (&["--cpu", "inf"], "to 1024"),
        (&["--cpu", "nan"], "to 1024"),
        (&["--identity", "/key"], "--identity is the key for --server"),
        (&["--server", "u@h"], "needs --identity"),
        (&["--server", "u@h", "--identity", ""], "--identity needs the path of a file"),
        (&["--server", "u@h", "--certificate", "/c"], "--certificate belongs to a key"),
        (&["--server", "u@h", "--identity", "/k", "--certificate", ""], "--certificate needs the path of a file"),
        (&["--server", "u@h*", "--identity", "/k"], "is not host or host:port"),
        (&["--server", "@h", "--identity", "/k"], "takes user@host"),
        (&["--server", "u@h", "--identity", "/k", "--memory", "64MB"], "are for containers"),
        (&["--server", "u@h", "--identity", "/k", "--image", "x:1"], "--image, --memory, --cpu and --network are for"),
        (&["--image", "a b"], "--image \"a b\" is not the name of an image"),
        (&["--image", ""], "--image \"\" is not the name of an image"),
        (&["-e", "NO_SUCH_VARIABLE_HERE"], "the variable NO_SUCH_VARIABLE_HERE is not set here"),
        (&["-e", "=x"], "-e takes NAME=VALUE"),
        (&["-e", ""], "-e takes NAME=VALUE"),
        (&["--lang", "perl"], "\"perl\" is not known"),
        (&["--set", "container.security.user=root"], "container.security.user"),
        (&["--set", "container.images.bash=a b"], "container.images.bash"),
    ] {
        let arguments: Vec<&str> = ["exec"].iter().chain(flags).chain(&["x.sh"]).copied().collect();
        let output = run(&arguments, &[], "");
        let errors = text(&output.stderr);
        assert_eq!((output.status.code(), errors.contains(words)), (Some(2), true), "{flags:?}: {errors}");
    }
}

#[test]
fn exec_says_that_output_is_lost() {
    let _machine = shared();
    require_engine();
    let arguments = ["exec", "--lang", "bash", "-"];
    for (script, code) in [("echo a", 1), ("echo a; exit 3", 3), ("true", 0)] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        let output = run_with(&arguments, &[], full.into(), script);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        let told = errors.contains("output is lost: cannot write standard output: No space left on device");
        assert_eq!(told, script != "true", "{errors}");
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = run_with(&arguments, &[], writer.into(), "echo a; echo b >&2; exit 0");
    let errors = text(&output.stderr);
    assert_eq!((output.status.code(), errors.contains("output is lost")), (Some(1), true), "{errors}");
    assert!(errors.contains("b\n") && errors.contains("completed (success)"), "{errors}");
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    for arguments in [&["version"][..], &["--help"], &["validate", "--set", "api.endpoint=http://localhost:1"]] {
        let output = run_with(arguments, &[("CRONIUM_API_TOKEN", "x")], full().into(), "");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).contains("cannot write standard output"), "{}", text(&output.stderr));
    }
}

#[test]
fn exec_tells_the_size_of_a_script_that_is_too_large() {
    let folder = Folder::new();
    let max = 16 * 1024 * 1024;
    let large = "#".repeat(max + 12_345);
    let path = file(&folder, "a.sh", &large);
    let words = format!("has {} bytes, at most {max} are taken", max + 12_345);
    let output = run(&["exec", path.to_str().expect("text")], &[], "");
    assert_eq!(
        (output.status.code(), text(&output.stderr).contains(&words)),
        (Some(2), true),
        "{}",
        text(&output.stderr)
    );
    let output = run(&["exec", "--lang", "bash", "-"], &[], &large);
    let words = format!("standard input {words}");
    assert_eq!(
        (output.status.code(), text(&output.stderr).contains(&words)),
        (Some(2), true),
        "{}",
        text(&output.stderr)
    );
    // What never ends is not counted to its end.
    let zero = std::fs::File::open("/dev/zero").expect("/dev/zero");
    let output = binary().args(["exec", "--lang", "bash", "-"]).stdin(zero).output().expect("the binary");
    assert!(text(&output.stderr).contains("has 1 GiB or more"), "{}", text(&output.stderr));
}

#[test]
fn exec_says_which_scripts_are_not_run() {
    let folder = Folder::new();
    for (name, content, words) in [
        (
            "a.pl",
            "print 1",
            "is a script for perl by its ending, and perl is not run: bash, python and node scripts are run",
        ),
        ("plain", "#!/usr/bin/perl -w\nprint 1", "is a script for perl by its #! line, and perl is not run"),
        ("b", "#!/usr/bin/env ruby\nputs 1", "ruby is not run"),
        ("c.php", "<?php", "php is not run"),
        ("d.ts", "let a: number", "typescript is not run"),
        ("e.txt", "hello", "give --lang"),
    ] {
        let output = run(&["exec", file(&folder, name, content).to_str().expect("text")], &[], "");
        let errors = text(&output.stderr);
        assert_eq!((output.status.code(), errors.contains(words)), (Some(2), true), "{errors}");
    }
}

#[test]
fn exec_runs_modules_and_honours_the_first_line() {
    let _machine = shared();
    require_engine();
    let folder = Folder::new();
    let at = |name: &str, content: &str| file(&folder, name, content).display().to_string();
    let verdict = "cronium-agent: completed (success)";
    check(
        &run(&["exec", &at("a.mjs", "console.log(this, typeof require)")], &[], ""),
        0,
        "undefined undefined\n",
        verdict,
    );
    check(
        &run(&["exec", &at("b.mjs", "import os from 'os'\nconsole.log(await typeof os)")], &[], ""),
        0,
        "object\n",
        verdict,
    );
    check(&run(&["exec", &at("c.cjs", "console.log(typeof require)")], &[], ""), 0, "function\n", verdict);
    check(&run(&["exec", &at("d", "\u{feff}#!/usr/bin/env python3\nprint(1)")], &[], ""), 0, "1\n", verdict);
    check(&run(&["exec", &at("e.sh", "#!/bin/bash -e\nfalse\necho on")], &[], ""), 1, "", "exit code 1");
    let foreign = run(&["exec", &at("f.sh", "#!/usr/bin/perl\nuse strict;")], &[], "");
    assert!(text(&foreign.stderr).contains("#! line names \"perl\", but the job's type is bash: bash runs it"));
    let twice = run(&["exec", "--lang", "bash", "-e", "A=1", "-e", "A=2", "-"], &[], "echo $A");
    check(&twice, 0, "2\n", verdict);
    check(&run(&["exec", "--lang", "bash", "-e", "RANDOM=1", "-"], &[], "echo"), 125, "", "Bash sets RANDOM itself");
}

const BROKEN: &str = "\
api:
  endpont: http://localhost:5001
  token: hunter2
  timeout: soon
jobs:
  maxConcurrent: 1000
  pollInterval: 1s
container:
  resources:
    defaults:
      cpu: lots
logging:
  format: xml
";

#[test]
fn validate_tells_every_problem_at_once() {
    let folder = Folder::new();
    let path = file(&folder, "broken.yaml", BROKEN);
    let path = path.to_str().expect("text");
    for command in ["validate", "run"] {
        let output = run(&[command, "--config", path], &[], "");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for wanted in [
            ("api.endpont", 2, "api.endpoint"),
            ("api.timeout", 4, "soon"),
            ("jobs.maxConcurrent", 6, "1000"),
            ("container.resources.defaults.cpu", 11, "lots"),
            ("logging.format", 13, "json"),
        ] {
            let (key, line, word) = wanted;
            let told = said
                .lines()
                .any(|row| row.contains(key) && row.contains(&format!("broken.yaml:{line}")) && row.contains(word));
            assert!(told, "{wanted:?} is not in\n{said}");
        }
        assert!(!said.contains("hunter2") && output.stdout.is_empty(), "{said}");
    }
}

#[test]
fn a_file_of_the_older_orchestrator_is_accepted_whole_and_made_small() {
    let folder = Folder::new();
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/older-orchestrator.yaml");
    let token = [("INTERNAL_API_KEY", "hunter2")];
    let whole = run(&["validate", "-c", old], &token, "");
    let said = text(&whole.stderr);
    assert_eq!(whole.status.code(), Some(0), "{said}");
    assert!(
        said.lines().all(|line| line.starts_with("warning: ") || line.starts_with("configuration is valid")),
        "{said}"
    );
    let small = run(&["validate", "--migrate", old], &token, "");
    let said = text(&small.stderr);
    assert_eq!(small.status.code(), Some(0), "{said}");
    for words in
        ["Host keys: ", "Passwords of servers: ", "The engine's socket: ", "Health: /health", "docs/migration.md"]
    {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    assert!(!format!("{said}{}", text(&small.stdout)).contains("hunter2"), "a secret is shown");
    let new = file(&folder, "new.yaml", &text(&small.stdout));
    let new = new.to_str().expect("text");
    let shown = |path: &str| {
        let output = run(&["validate", "-c", path], &token, "");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(shown(new), shown(old));
    let nothing = run(&["validate", "--migrate", "/nowhere.yaml"], &[], "");
    assert_eq!((nothing.status.code(), text(&nothing.stdout).as_str()), (Some(2), ""));
}

#[test]
fn validate_shows_what_is_in_effect_and_where_it_came_from() {
    let folder = Folder::new();
    let path = file(
        &folder,
        "good.yaml",
        "api:\n  endpoint: http://localhost:5001\n  token: ${TOKEN}\njobs:\n  maxConcurrent: 7\n  pollBatchSize: 3\n",
    );
    let path = path.to_str().expect("text");
    let environment =
        [("TOKEN", "hunter2"), ("CRONIUM_JOBS_MAX_CONCURRENT", "8"), ("CRONIUM_JOBS_DRAIN_TIMEOUT", "9s")];
    let arguments = ["validate", "-c", path, "--explain", "--log-level", "debug"];
    let output = run(&arguments, &environment, "");
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let line_of = |key: &str| shown.lines().find(|line| line.trim_start().starts_with(key)).expect(key).to_owned();
    assert!(line_of("token:").contains("***") && !shown.contains("hunter2"), "{shown}");
    assert!(
        line_of("maxConcurrent:").contains("8") && line_of("maxConcurrent:").contains("CRONIUM_JOBS_MAX_CONCURRENT")
    );
    assert!(line_of("pollBatchSize:").contains("3") && line_of("pollBatchSize:").contains("good.yaml:6"), "{shown}");
    assert!(line_of("level:").contains("debug"), "{shown}");
    assert!(line_of("pollInterval:").contains("default"), "{shown}");
    assert!(text(&output.stderr).contains("configuration is valid"));

    // What is shown is itself a configuration: with the token given, it is valid and shows the same.
    let again = file(&folder, "again.yaml", &shown.replace("'***'", "x").replace("\"***\"", "x").replace("***", "x"));
    let output = run(&["validate", "-c", again.to_str().expect("text")], &[], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let plain = run(&["validate", "-c", path, "--log-level", "debug"], &environment, "");
    assert_eq!(text(&output.stdout), text(&plain.stdout));
}

#[test]
fn systemds_credential_is_the_token() {
    let folder = Folder::new();
    file(&folder, "api-token", "from-systemd\n");
    let environment = [
        ("CREDENTIALS_DIRECTORY", folder.path().to_str().expect("text")),
        ("CRONIUM_API_ENDPOINT", "http://localhost:1"),
    ];
    let output = run(&["validate", "--explain"], &environment, "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!text(&output.stdout).contains("from-systemd"));
    let output = run(&["validate"], &[("CRONIUM_API_ENDPOINT", "http://localhost:1")], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("api.token"), "{}", text(&output.stderr));
}

/// Needs root, to be somebody else for a moment.
#[test]
fn a_token_that_this_user_may_not_read_is_told_from_one_that_was_not_given() {
    let folder = Folder::new();
    // The build's own folder may be closed to others.
    let copy = folder.path().join("cronium-agent");
    std::fs::copy(binary().get_program(), &copy).expect("a copy");
    let token = file(&folder, "api-token", "from-systemd\n");
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("mode");
    let told = |variable: &str, value: &Path, token: &Path| {
        let mut command = Command::new(&copy);
        command.arg("validate").env_clear().env(variable, value).env("CRONIUM_API_ENDPOINT", "http://localhost:1");
        let output = command.current_dir("/").uid(65534).gid(65534).output().expect("run it as root");
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(&format!("cannot read {}: permission denied", token.display())), "{errors}");
        assert!(!errors.contains("not given"), "{errors}");
        errors
    };
    mode(folder.path(), 0o755);
    mode(&token, 0o600);
    assert!(told("CREDENTIALS_DIRECTORY", folder.path(), &token).contains("its owner or mode"));
    assert!(told("CRONIUM_API_TOKEN_FILE", &token, &token).contains("the agent's user"));
    // Not even that it is there can be seen.
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).expect("a folder");
    mode(&closed, 0o700);
    let token = closed.join("api-token");
    std::fs::write(&token, "from-systemd\n").expect("write");
    assert!(told("CREDENTIALS_DIRECTORY", &closed, &token).contains("a folder above it"));
}

#[test]
fn version_and_help_and_slips_of_the_finger() {
    let version = text(&run(&["version"], &[], "").stdout);
    assert_eq!(version, text(&run(&["--version"], &[], "").stdout));
    for line in ["cronium-agent 0.", "commit: ", "built: 20", "target: ", "tls: rustls 0.", "ssh: "] {
        assert!(version.lines().any(|shown| shown.starts_with(line)), "{line} in\n{version}");
    }
    for command in ["run", "validate", "exec", "status", "reload", "cancel"] {
        let help = text(&run(&[command, "--help"], &[], "").stdout);
        assert!(help.contains("Usage: cronium-agent") && help.contains("Exit codes:"), "{help}");
    }
    for (arguments, near) in
        [(&["validat"][..], "validate"), (&["run", "--confg", "x"], "--config"), (&["exce"], "exec")]
    {
        let output = run(arguments, &[], "");
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(&format!("did you mean {near:?}")), "{}", text(&output.stderr));
    }
}

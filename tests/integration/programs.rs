//! Real programs under the agent's filter of system calls, in an image that scripts/programs.sh makes. Part of
//! `scripts/test.sh --full`: the image takes minutes to make.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cronium_dev_backend::DevBackend;

use crate::harness::{Agent, deployed, finish, finished, job, report, shared, stderr, stdout};

const IMAGE: &str = "cronium/test:programs";
/// Of one program, on a busy machine.
const LONGEST: Duration = Duration::from_secs(120);

/// The files of tests/programs as language, name and script, in the order of the alphabet.
fn programs() -> Vec<(&'static str, String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let paths = fs::read_dir(folder).expect("tests/programs").map(|entry| entry.expect("an entry").path());
    let mut all: Vec<_> = paths
        .filter_map(|path| {
            let language = match path.extension()?.to_str()? {
                "sh" => "BASH",
                "py" => "PYTHON",
                "js" => "NODEJS",
                _ => return None,
            };
            let name = path.file_stem()?.to_str()?.to_owned();
            Some((language, name, fs::read_to_string(&path).expect("a script")))
        })
        .collect();
    all.sort();
    all
}

/// An agent whose jobs run in the image; `profile` is `container.security.seccompProfile`.
fn agent(backend: &DevBackend, profile: &str) -> Agent {
    let image = Command::new("docker").args(["image", "inspect", IMAGE]).output().expect("the docker command");
    assert!(image.status.success(), "there is no {IMAGE}: run scripts/programs.sh, or scripts/test.sh --only programs");
    let keys = ["bash", "python", "nodejs"].map(|language| format!("container.images.{language}"));
    let mut settings: Vec<_> = keys.iter().map(|key| (key.as_str(), IMAGE)).collect();
    settings.extend([("container.security.seccompProfile", profile), ("jobs.maxConcurrent", "2")]);
    Agent::start(backend, &settings)
}

/// Runs each program as a job: a line `NAME ok` for each that worked, and what the others said.
fn run(profile: &str) -> Vec<String> {
    let backend = deployed();
    let agent = agent(&backend, profile);
    let queued: Vec<(String, String)> = programs()
        .into_iter()
        .map(|(language, name, script)| {
            let mut row = job(language, &script);
            row["execution"]["timeout"] = u64::try_from(LONGEST.as_nanos()).expect("a number").into();
            (name, backend.enqueue(row).expect("a job that the backend takes"))
        })
        .collect();
    let lines = queued.iter().map(|(name, id)| {
        backend.wait_for(LONGEST, |b| b.job(id).is_some_and(|row| row.terminal_reports() > 0));
        let row = finished(&backend, id);
        if report(&row)["exitCode"] == 0 && stdout(&row).ends_with("end\n") {
            format!("{name} ok")
        } else {
            format!("{name} FAILED: {}{}", stdout(&row), stderr(&row))
        }
    });
    let lines: Vec<String> = lines.collect();
    agent.stop();
    lines
}

#[test]
fn real_programs_run_under_the_agents_filter_as_under_the_engines() {
    let _machine = shared();
    let wanted: Vec<String> = programs().into_iter().map(|(_, name, _)| format!("{name} ok")).collect();
    assert!(wanted.len() > 15, "{wanted:?}");
    let ours = run("builtin");
    eprintln!("{}", ours.join("\n"));
    assert_eq!(run("engine"), wanted, "a failure here is none of the filter's");
    assert_eq!(ours, wanted);
}

#[test]
fn debuggers_and_tracers_are_refused_and_the_verdict_names_the_key() {
    let _machine = shared();
    let backend = deployed();
    let agent = agent(&backend, "builtin");
    for script in [
        "strace -f true",
        "sleep 20 & strace -p $!",
        "gdb -batch -ex run -ex 'info registers' true",
        "sleep 20 & gdb -batch -p $! -ex 'info registers'",
    ] {
        let row = finish(&backend, job("BASH", script));
        assert_eq!(report(&row)["status"], "failed", "{script}: {}{}", stdout(&row), stderr(&row));
        assert!(stderr(&row).contains("see container.security.seccompProfile"), "{script}: {}", stderr(&row));
    }
    agent.stop();
}

//! The Debian package: the same bytes from the same sources, no fault for lintian, and its life on a host that systemd
//! booted: installed, configured, upgraded in the middle of a job, removed, purged.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Folder, binary, eventually, finish, job, shared, stdout};
use crate::systemd_boot::{Machine, listed, text};

/// The program, as small as a release's.
fn stripped(folder: &Path) -> PathBuf {
    let program = folder.join("program");
    let status = Command::new("strip").arg("-o").arg(&program).arg(binary().get_program()).status();
    assert!(status.expect("strip, from binutils").success());
    program
}

/// Runs the script, by way of a shell that has another umask; the package.
fn package(program: &Path, out: &Path, version: &str, umask: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package.sh");
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask $1; shift; exec \"$@\"", "sh", umask]).arg(script);
    shell.arg("--binary").arg(program).arg("--out").arg(out).args(["--version", version]);
    let output = shell.output().expect("a shell");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout).lines().last().expect("a name").into()
}

/// The RPM package of a Debian one.
fn rpm_of(package: &Path, out: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rpm.sh");
    said(Command::new(script).arg(package).arg("--out").arg(out)).lines().last().expect("a name").into()
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    text(&[output.stdout, output.stderr].concat())
}

#[test]
fn the_same_sources_give_the_same_package_and_lintian_finds_no_error() {
    let folder = Folder::new();
    let program = stripped(folder.path());
    let made = ["022", "077"].map(|umask| package(&program, &folder.path().join(umask), "9.9.9", umask));
    let [first, second] = made.each_ref().map(|path| std::fs::read(path).expect("the package"));
    assert!(first == second, "two packages of the same sources differ");

    let made_rpm = ["a", "b"].map(|name| rpm_of(&made[0], &folder.path().join(name)));
    let [first, second] = made_rpm.each_ref().map(|path| std::fs::read(path).expect("the RPM package"));
    assert!(first == second, "two RPM packages of the same one differ");
    let contents = said(Command::new("rpm").arg("-qpl").arg(&made_rpm[0]));
    let missing = |target: &&str| !contents.contains(&target.replace("vendor-completions", "site-functions"));
    assert_eq!(listed().map(|[_, _, target]| target).find(missing), None, "{contents}");

    let contents = said(Command::new("dpkg-deb").arg("-c").arg(&made[0]));
    let has = |target: &str| contents.lines().any(|line| line.contains(&format!(" .{target}")));
    let missing: Vec<_> = listed().map(|[_, _, target]| target).filter(|target| !has(target)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "{contents}");
    for also in ["/usr/bin/cronium-agent", "changelog.gz", "copyright", "cronium-agent.cdx.json"] {
        assert!(contents.contains(also), "no {also}: {contents}");
    }

    let document = |name: &str| {
        let script = r#"dpkg-deb --fsys-tarfile "$1" | tar -xO "./usr/share/doc/cronium-agent/$2""#;
        said(Command::new("sh").args(["-c", script, "sh"]).arg(&made[0]).arg(name))
    };
    let copyright = document("copyright");
    let bill: serde_json::Value = serde_json::from_str(&document("cronium-agent.cdx.json")).expect("JSON");
    let inside: Vec<_> =
        bill["components"].as_array().expect("parts").iter().filter(|c| c["scope"] == "required").collect();
    assert!(inside.len() > 50, "{bill}");
    for part in inside {
        let word = |key: &str| part[key].as_str().expect("a word").replace('_', "-");
        let files = format!("\nFiles: {}-{}/*\nCopyright: ", word("name"), word("version"));
        assert!(copyright.contains(&files), "the copyright file lacks {part}");
    }
    let named = copyright.lines().filter_map(|line| line.strip_prefix("License: "));
    for licence in
        named.flat_map(|words| words.split(" or ").flat_map(|w| w.split(" and ")).flat_map(|w| w.split(" with ")))
    {
        assert!(copyright.contains(&format!("\nLicense: {licence}\n ")), "the copyright file has no text of {licence}");
    }

    let errors = |path: &Path| {
        let mut lintian = Command::new("lintian");
        // It leaves files there.
        lintian.env("TMPDIR", folder.path()).args(["--allow-root", "--no-tag-display-limit"]);
        let said = said(lintian.arg(path));
        said.lines().filter(|line| line.starts_with("E:")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(errors(&made[0]), Vec::<String>::new());
    let bad = folder.path().join("bad");
    std::fs::create_dir_all(bad.join("DEBIAN")).expect("a folder");
    let control =
        "Package: bad\nVersion: 1\nArchitecture: all\nMaintainer: Bad <bad@cronium.example>\nDescription: bad\n bad\n";
    std::fs::write(bad.join("DEBIAN/control"), control).expect("write");
    let bad = said(Command::new("dpkg-deb").arg("-b").arg(&bad).arg(folder.path().join("bad_1_all.deb")));
    assert!(
        errors(&folder.path().join("bad_1_all.deb")).iter().any(|line| line.contains("no-copyright-file")),
        "{bad}"
    );
}

/// The commands of docs/operations.md's transcript, each with the lines that the page shows below it.
fn transcript() -> Vec<(String, Vec<String>)> {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).expect("a page");
    let section = page.split("\n### Debian and its relatives\n").nth(1).expect("the section");
    let block = section.split("```console\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a transcript");
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("# "), found.last_mut()) {
            (Some(command), _) => found.push((command.to_owned(), Vec::new())),
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => panic!("the transcript begins with {line:?}"),
        }
    }
    found
}

/// Whether a line of the page, in which `…` stands for any text, is one of those that were printed.
fn is_printed(line: &str, printed: &str) -> bool {
    let parts: Vec<&str> = line.split('…').map(str::trim_end).collect();
    printed.lines().any(|found| parts.iter().try_fold(found, |rest, part| Some(rest.split_once(part)?.1)).is_some())
}

const ADDRESS: &str = "https://cronium.example:5001";

/// What a host has of the agent, but the engine's group and the folder of this test.
const LEFT: &str = "find / -xdev -path /proc -prune -o -path /source -prune -o -name '*cronium*' -print; \
                    find /run -name '*cronium*'; getent passwd cronium; getent group cronium; true";

#[test]
fn a_job_runs_within_two_minutes_by_the_pages_commands_and_outlives_an_upgrade() {
    let _machine = shared();
    let machine = Machine::boot();
    machine.has_engine();
    let program = stripped(&machine.path(""));
    package(&program, &machine.path(""), "9.9.8", "022");
    let before = machine.sh(LEFT);

    let begun = Instant::now();
    for (command, lines) in transcript() {
        // The message names the example's address, and the file gets the backend's.
        let command = if command.starts_with("sed ") { command.replace(ADDRESS, &machine.endpoint()) } else { command };
        eventually(&format!("{command}\nprints\n{}", lines.join("\n")), || {
            let output = machine.run(&["sh", "-c", &format!("cd /source && {command} 2>&1")]);
            let printed = text(&output.stdout);
            let missing = lines.iter().find(|line| !is_printed(line, &printed));
            // A second look at a state may differ, a second installation would not be the page's.
            let is_look = command.starts_with("cronium-agent status");
            assert!(
                is_look || (missing.is_none() && output.status.success()),
                "{command}: no {missing:?} in\n{printed}"
            );
            missing.is_none()
        });
    }
    let row = finish(&machine.backend, job("BASH", "echo from the package"));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "from the package\n"));
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    assert_eq!(machine.show("UnitFileState"), "enabled");

    is_upgraded(&machine, &program);

    machine.sh("DEBIAN_FRONTEND=noninteractive apt remove -y cronium-agent 2>&1");
    assert_eq!((machine.show("LoadState"), machine.sh("ls /etc/cronium")), ("not-found".to_owned(), KEPT.to_owned()));
    machine.sh("DEBIAN_FRONTEND=noninteractive apt purge -y cronium-agent 2>&1");
    assert_eq!(machine.sh(LEFT), before);
}

/// rpm works on the machine's files from outside, since that is no system of rpm's; the machine runs the package's scripts.
#[test]
fn an_rpm_package_starts_the_service_and_stops_it() {
    let _machine = shared();
    let machine = Machine::boot();
    machine.has_engine();
    let deb = package(&stripped(&machine.path("")), &machine.path(""), "9.9.9", "022");
    let package = rpm_of(&deb, &machine.path(""));
    let root = format!("/proc/{}/root", machine.first_pid());
    let rpm = |arguments: &[&str]| {
        let output = Command::new("rpm").args(["--root", &root]).args(arguments).output().expect("rpm");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let script = |tag: &str, number: &str| {
        let script = said(Command::new("rpm").args(["-qp", "--qf", &format!("%{{{tag}}}")]).arg(&package));
        let output = machine.run(&["sh", "-c", &script, "sh", number]);
        assert!(output.status.success(), "{tag}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    rpm(&["--nodeps", "--noscripts", "-i", package.to_str().expect("text")]);
    let said = script("POSTIN", "1");
    assert!(said.contains("cannot run yet") && said.contains("api.endpoint: required"), "{said}");
    let endpoint = machine.endpoint();
    machine.sh(&format!(
        "cat /source/token >/etc/cronium/api-token; systemctl restart cronium-agent || true; \
         sed -i 's|^  endpoint:.*|  endpoint: {endpoint}|' /etc/cronium/cronium-orchestrator.yaml; systemctl restart cronium-agent"
    ));
    let row = finish(&machine.backend, job("BASH", "echo from rpm"));
    assert_eq!(
        (row.exit_code, stdout(&row), machine.show("UnitFileState")),
        (Some(0), "from rpm\n", "enabled".to_owned())
    );
    // An upgrade runs the new scripts, then the old ones.
    let pid = machine.main_pid();
    script("POSTIN", "2");
    machine.comes_back(pid);
    script("PREUN", "1");
    machine.is_up();
    script("PREUN", "0");
    rpm(&["--nodeps", "--noscripts", "-e", "cronium-agent"]);
    script("POSTUN", "0");
    assert_eq!(
        (machine.show("LoadState"), machine.sh("test -s /etc/cronium/api-token; echo $?")),
        ("not-found".to_owned(), "0".to_owned())
    );
}

const KEPT: &str = "api-token\ncronium-orchestrator.yaml";

/// The job goes on under the new agent and is reported once; what the operator wrote stays.
fn is_upgraded(machine: &Machine, program: &Path) {
    let settings =
        "\\njobs:\\n  drainTimeout: 1s\\n  pollInterval: 100ms\\n  maxPollInterval: 500ms\\n  leaseRenewal: 2s\\n";
    machine
        .sh(&format!("printf '{settings}' >>/etc/cronium/cronium-orchestrator.yaml; systemctl reload cronium-agent"));
    let written = machine.sh("cat /etc/cronium/cronium-orchestrator.yaml");
    package(program, &machine.path(""), "9.9.9", "022");
    let id = machine.begin(10);
    let pid = machine.main_pid();
    machine.sh("apt install -y /source/cronium-agent_9.9.9_*.deb 2>&1");
    machine.comes_back(pid);
    assert_eq!(machine.backend.job(&id).map(|row| row.terminal_reports()), Some(0), "it has ended before the upgrade");
    machine.ran_once(&id);
    assert_eq!(machine.sh("dpkg-query -W -f '${Version}' cronium-agent"), "9.9.9");
    assert_eq!(machine.sh("cat /etc/cronium/cronium-orchestrator.yaml"), written);
    assert_eq!(machine.sh("stat -c '%U:%G %a' /etc/cronium/cronium-orchestrator.yaml"), "root:cronium 640");
}

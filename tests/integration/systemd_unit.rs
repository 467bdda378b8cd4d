//! The unit that is shipped: systemd takes it, it exposes little, and its numbers fit the agent's own.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Folder, binary, deployed, shared};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/systemd/cronium-agent.service");
const INSTALLED: &str = "/usr/local/bin/cronium-agent";

/// The most that `systemd-analyze security` may find, in tenths.
const EXPOSURE: u32 = 20;

fn unit() -> String {
    std::fs::read_to_string(UNIT).expect("the unit")
}

/// Every value of a setting, in order.
fn values<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

/// `systemd-analyze` about `text` as a unit file: whether it was content, and what it said.
fn analyze(arguments: &[&str], text: &str) -> (bool, String) {
    analyze_as("cronium-agent.service", arguments, text)
}

fn analyze_as(name: &str, arguments: &[&str], text: &str) -> (bool, String) {
    let folder = Folder::new();
    let file = folder.path().join(name);
    std::fs::write(&file, text).expect("write");
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(&file)
        .env("SYSTEMD_PAGER", "")
        .output()
        .expect("systemd-analyze: apt-get install systemd");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The unit with a program that exists here in place of the installed one.
fn here(unit: &str) -> String {
    assert!(unit.contains(INSTALLED));
    unit.replace(INSTALLED, env!("CARGO_BIN_EXE_cronium-agent"))
}

#[test]
fn systemd_finds_no_fault_in_the_unit() {
    let (good, said) = analyze(&["verify", "--man=no"], &here(&unit()));
    // Settings that it does not know are complained of, but are no failure.
    let about_it = said.lines().filter(|line| line.contains("cronium-agent")).collect::<Vec<_>>();
    assert!(good && about_it.is_empty(), "{said}");
    let (_, said) = analyze(&["verify", "--man=no"], &here(&unit()).replace("KillMode=", "KilMode="));
    assert!(said.contains("KilMode"), "the check is blind: {said}");
}

#[test]
fn systemd_finds_no_fault_in_the_firewalls_unit() {
    let text = include_str!("../../configs/systemd/cronium-firewall.service");
    let verify = |text: &str| analyze_as("cronium-firewall.service", &["verify", "--man=no"], text);
    let (good, said) = verify(text);
    assert!(good && !said.contains("cronium-firewall"), "{said}");
    let (_, said) = verify(&text.replace("RemainAfterExit=", "RemainsAfterExit="));
    assert!(said.contains("RemainsAfterExit"), "the check is blind: {said}");
}

#[test]
fn the_unit_exposes_little() {
    let threshold = format!("--threshold={EXPOSURE}");
    let look = |text: &str| analyze(&["security", "--offline=true", "--no-pager", &threshold], text);
    let (good, said) = look(&unit());
    let overall = said.lines().find(|line| line.contains("Overall exposure level")).expect("a verdict");
    let figure = overall.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a figure");
    assert!(good && figure.parse::<f64>().expect("a number") * 10.0 <= f64::from(EXPOSURE), "{said}");
    let (good, said) = look(&unit().replace("SystemCallFilter=", "#").replace("CapabilityBoundingSet=", "#"));
    assert!(!good, "the check is blind: {said}");
}

#[test]
fn the_unit_fits_the_agent() {
    let unit = unit();
    for (name, wanted) in [
        ("Type", vec!["notify"]),
        ("NotifyAccess", vec!["main"]),
        ("User", vec!["cronium"]),
        ("SupplementaryGroups", vec!["docker"]),
        ("LoadCredential", vec!["api-token:/etc/cronium/api-token"]),
        ("StateDirectory", vec!["cronium"]),
        ("StateDirectoryMode", vec!["0700"]),
        ("Restart", vec!["on-failure"]),
        ("KillMode", vec!["mixed"]),
        ("ExecReload", vec!["/usr/local/bin/cronium-agent reload --config /etc/cronium/cronium-orchestrator.yaml"]),
        ("ExecStart", vec!["/usr/local/bin/cronium-agent run --config /etc/cronium/cronium-orchestrator.yaml"]),
        // The engine may be restarted without the agent.
        ("Requires", vec![]),
        ("BindsTo", vec![]),
        ("PartOf", vec![]),
    ] {
        assert_eq!(values(&unit, name), wanted, "{name}");
    }
    // The drain, the cancelling after it, and one thread after the other that does not end.
    let drain = std::time::Duration::from_secs(60 * 5);
    let defaults = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/cronium-orchestrator.yaml");
    assert!(std::fs::read_to_string(defaults).expect("the defaults").contains("  drainTimeout: 5m "));
    let worst = drain + cronium_agent::limits::CANCEL_WAIT + 3 * cronium_agent::limits::THREAD_JOIN_WAIT;
    let minutes = values(&unit, "TimeoutStopSec")[0].strip_suffix("min").expect("minutes").parse::<u64>();
    assert!(minutes.expect("a number") * 60 > worst.as_secs(), "{worst:?}");
    let watchdog = values(&unit, "WatchdogSec")[0].parse::<u64>().expect("seconds");
    assert!(watchdog >= 30, "a call to the backend may take api.timeout: {watchdog}");
}

/// What the agent says on the socket of a service manager, from its start to its end.
#[test]
fn the_agent_tells_that_it_is_ready_gets_on_and_stops() {
    let _machine = shared();
    let (backend, folder) = (deployed(), Folder::new());
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    let mut command = binary();
    command
        .arg("run")
        .env("CRONIUM_API_TOKEN", backend.token())
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "3000000");
    let state = folder.path().join("state").display().to_string();
    for (key, value) in
        [("api.endpoint", backend.url()), ("state.dir", state), ("monitoring.enabled", "false".to_owned())]
    {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the agent starts");
    // Reads messages until one holds the word.
    let hear = |word: &str| {
        let mut buffer = [0; 4096];
        for _ in 0..100 {
            let n = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {word}: {error}"));
            if String::from_utf8_lossy(&buffer[..n]).contains(word) {
                return;
            }
        }
        panic!("no {word} in a hundred messages");
    };
    hear("READY=1");
    hear("STATUS=claiming; 0 jobs running");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().expect("kill").success());
    hear("RELOADING=1\nMONOTONIC_USEC=");
    hear("READY=1");
    hear("STATUS=claiming; 0 jobs running");
    assert!(Command::new("kill").arg(child.id().to_string()).status().expect("kill").success());
    hear("STOPPING=1");
    assert_eq!(child.wait().expect("an end").code(), Some(0));
}

//! `scripts/install.sh` below another root: what it places, what it refuses, what it keeps, what it removes.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Folder, binary};
use crate::systemd_boot::listed;

/// A root, and a program with its checksum beside it.
struct Host {
    folder: Folder,
}

impl Host {
    fn new() -> Self {
        let host = Self { folder: Folder::new() };
        std::fs::create_dir(host.root()).expect("root");
        host.build("first build");
        host
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("cronium-agent-0-x86_64")
    }

    /// What `build-static.sh` leaves: a program and a line of `sha256sum`.
    fn build(&self, text: &str) {
        std::fs::write(self.program(), text).expect("write");
        let output = Command::new("sha256sum").arg(self.program()).output().expect("sha256sum");
        std::fs::write(format!("{}.sha256", self.program().display()), output.stdout).expect("write");
    }

    /// Runs the script; whether it was content, and what it said.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install.sh");
        let output =
            Command::new(script).arg("--root").arg(self.root()).args(arguments).output().expect("the script runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    fn install(&self, more: &[&str]) -> String {
        let program = self.program();
        let (good, said) = self.run(&[&["--binary", program.to_str().expect("text")], more].concat());
        assert!(good, "{said}");
        said
    }

    /// Every file below the root with its mode, inode and text.
    fn files(&self) -> BTreeMap<String, (u32, u64, String)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.root()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(self.root()).expect("below").display().to_string();
                let about = path.metadata().expect("metadata");
                let text = std::fs::read_to_string(&path).expect("text");
                found.insert(name, (about.permissions().mode() & 0o7777, about.ino(), text));
            }
        }
        found
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.root().join(name)).expect(name)
    }
}

const PROGRAM: &str = "usr/local/bin/cronium-agent";
const UNIT: &str = "etc/systemd/system/cronium-agent.service";
const CONFIG: &str = "etc/cronium/cronium-orchestrator.yaml";
const TOKEN: &str = "etc/cronium/api-token";
const MANUAL: &str = "usr/local/share/man/man8/cronium-agent.8";

#[test]
fn it_installs_again_without_harm_and_upgrades_and_uninstalls() {
    let host = Host::new();
    let said = host.install(&[]);
    assert!(said.contains("checksum") && said.contains("write the backend's token"), "{said}");
    let first = host.files();
    let modes: Vec<_> = first.iter().map(|(name, (mode, ..))| (name.as_str(), *mode)).collect();
    for wanted in [(TOKEN, 0o600), (CONFIG, 0o640), (UNIT, 0o644), (PROGRAM, 0o755), (MANUAL, 0o644)] {
        assert!(modes.contains(&wanted), "{wanted:?}: {modes:?}");
    }
    assert_eq!(modes.len(), listed().count() + 2, "the list's files, program and token: {modes:?}");
    let folder = std::fs::metadata(host.root().join("etc/cronium")).expect("folder").permissions().mode() & 0o7777;
    assert_eq!(folder, 0o750);
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/systemd/cronium-agent.service");
    assert_eq!(host.read(UNIT), std::fs::read_to_string(shipped).expect("the unit"));
    let valid = binary()
        .args(["validate", "--config"])
        .arg(host.root().join(CONFIG))
        .env("CRONIUM_API_TOKEN", "x")
        .env("CRONIUM_API_ENDPOINT", "http://localhost:5001")
        .output()
        .expect("validate");
    assert!(valid.status.success(), "{}", String::from_utf8_lossy(&valid.stderr));

    let said = host.install(&[]);
    assert!(said.contains("up to date"), "{said}");
    assert_eq!(host.files(), first, "the second run changed something");

    std::fs::write(host.root().join(CONFIG), "api: {endpoint: http://mine}\n").expect("write");
    std::fs::write(host.root().join(TOKEN), "my token\n").expect("write");
    let loose = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(host.root().join(TOKEN), loose).expect("chmod");
    host.build("second build");
    host.install(&[]);
    let upgraded = host.files();
    assert_eq!(upgraded[PROGRAM].2, "second build");
    assert_ne!(upgraded[PROGRAM].1, first[PROGRAM].1, "a running program must not be overwritten in place");
    assert_eq!(upgraded[CONFIG].2, "api: {endpoint: http://mine}\n");
    assert_eq!((upgraded[TOKEN].0, upgraded[TOKEN].2.as_str()), (0o600, "my token\n"));

    std::fs::create_dir_all(host.root().join("var/lib/cronium")).expect("state");
    std::fs::write(host.root().join("var/lib/cronium/agent-id"), "agent-1").expect("state");
    for _ in 0..2 {
        let (good, said) = host.run(&["--uninstall"]);
        assert!(good && said.contains("kept"), "{said}");
        assert_eq!(host.files().into_keys().collect::<Vec<_>>(), [TOKEN, CONFIG, "var/lib/cronium/agent-id"]);
    }
    let (good, said) = host.run(&["--uninstall", "--purge"]);
    assert!(good && host.files().is_empty(), "{said}: {:?}", host.files());
}

#[test]
fn a_token_is_placed_once_and_never_shown() {
    let host = Host::new();
    let token = host.folder.path().join("token");
    std::fs::write(&token, "first-token\n").expect("write");
    let token = token.to_str().expect("text").to_owned();
    let said = host.install(&["--token-file", &token]);
    assert_eq!((host.files()[TOKEN].0, host.read(TOKEN).as_str()), (0o600, "first-token\n"));
    std::fs::write(&token, "second-token\n").expect("write");
    let again = host.install(&["--token-file", &token]);
    assert_eq!(host.read(TOKEN), "first-token\n");
    let all = said + &again;
    assert!(again.contains("is kept") && !all.contains("first-token") && !all.contains("second-token"), "{all}");
}

#[test]
fn another_prefix_reaches_the_unit() {
    let host = Host::new();
    host.install(&["--prefix", "/opt/cronium/"]);
    assert!(host.files().contains_key("opt/cronium/bin/cronium-agent"));
    for setting in ["ExecStart", "ExecReload"] {
        assert!(host.read(UNIT).contains(&format!("\n{setting}=/opt/cronium/bin/cronium-agent ")), "{setting}");
    }
}

#[test]
fn the_firewall_comes_when_asked_for_and_keeps_its_mode_and_list() {
    const RULES: &str = "etc/cronium/cronium-jobs.nft";
    const ALLOW: &str = "etc/cronium/cronium-jobs-allow.nft";
    const GUARD: &str = "etc/systemd/system/cronium-agent.service.d/firewall.conf";
    const AFTER_FLUSH: &str = "etc/systemd/system/nftables.service.d/cronium-firewall.conf";
    let host = Host::new();
    host.install(&[]);
    assert!(![RULES, ALLOW, GUARD].iter().any(|name| host.files().contains_key(*name)), "it is off");
    let servers = "search x\nnameserver 127.0.0.53\nnameserver 10.9.8.7\nnameserver fd12::53\nnameserver ; evil\n";
    std::fs::write(host.root().join("etc/resolv.conf"), servers).expect("write");
    let said = host.install(&["--firewall=strict"]);
    assert!(said.contains("systemctl enable cronium-firewall "), "{said}");
    assert!(host.read(RULES).contains("\ndefine mode = strict\n"));
    let allow = host.read(ALLOW);
    let rules: Vec<_> = allow.lines().map(str::trim).filter(|line| line.starts_with("ip")).collect();
    let port = "meta l4proto { tcp, udp } th dport 53 accept";
    assert_eq!(rules, [format!("ip daddr 10.9.8.7 {port}"), format!("ip6 daddr fd12::53 {port}")]);
    assert!(host.read(AFTER_FLUSH).contains("ExecStartPost=-nft -f /etc/cronium/cronium-jobs.nft"));
    assert!(host.read(GUARD).contains("ExecStartPre=+nft list chain inet cronium_jobs "));
    let taken = Command::new("unshare").args(["--net", "nft", "-c", "-f"]).arg(host.root().join(ALLOW)).output();
    let taken = taken.expect("unshare and nft");
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));

    // An upgrade changes neither mode nor list.
    std::fs::write(host.root().join(ALLOW), "# mine\n").expect("write");
    host.install(&[]);
    assert!(host.read(RULES).contains("\ndefine mode = strict\n"));
    host.install(&["--firewall", "metadata"]);
    assert!(host.read(RULES).contains("\ndefine mode = metadata\n"));
    assert_eq!(host.read(ALLOW), "# mine\n");
    host.install(&["--firewall=off"]);
    let left = host.files();
    assert!(left.contains_key(ALLOW) && ![RULES, GUARD, AFTER_FLUSH].iter().any(|name| left.contains_key(*name)));
    host.install(&["--firewall=strict"]);
    let (good, said) = host.run(&["--uninstall"]);
    assert!(good && !host.files().keys().any(|name| [RULES, GUARD, AFTER_FLUSH].contains(&name.as_str())), "{said}");
}

#[test]
fn nothing_is_installed_that_is_not_what_was_built() {
    let host = Host::new();
    let program = host.program().to_str().expect("text").to_owned();
    let sum = format!("{program}.sha256");
    let right = std::fs::read_to_string(&sum).expect("sum");
    let wrong = right.replace(|c: char| c.is_ascii_digit(), "f");
    for (text, arguments, why) in [
        (Some(wrong.as_str()), vec!["--binary", &program], "is not what was built"),
        (Some("not a sum"), vec!["--binary", &program], "holds no SHA-256 sum"),
        (Some(""), vec!["--binary", &program], "holds no SHA-256 sum"),
        (None, vec!["--binary", &program], "no checksum"),
        (Some(&right), vec!["--binary", "/no/such/file"], "no such file"),
        (Some(&right), vec!["--binary", &program, "--prefix", "relative"], "absolute"),
        (Some(&right), vec!["--binary", &program, "--prefix", "/a b"], "letters"),
        (Some(&right), vec!["--binary", &program, "--token-file", "/no/such"], "--token-file"),
        (Some(&right), vec!["--binary", &program, "--firewall=open"], "strict, metadata or off"),
        (Some(&right), vec!["--binary", &program, "--firewall="], "needs a value"),
        (Some(&right), vec!["--binary"], "needs a value"),
        (Some(&right), vec!["--binary", &program, "--purge"], "--uninstall"),
        (Some(&right), vec!["--frobnicate"], "unknown argument"),
        (Some(&right), vec![], "--binary is needed"),
    ] {
        match text {
            Some(text) => std::fs::write(&sum, text).expect("write"),
            None => std::fs::remove_file(&sum).expect("remove"),
        }
        let (good, said) = host.run(&arguments);
        assert!(!good && said.contains(why), "{arguments:?} {text:?}: {said}");
        assert!(host.files().is_empty(), "{arguments:?}: {:?}", host.files());
    }
}

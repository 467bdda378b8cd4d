//! Who a server is and who may come in: host keys, client keys, passwords, ciphers.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{binary, finish, report, shared, stdout};
use crate::ssh_rig::{HOST, Rig, has_words, walk};
use crate::sshd::{ALL_KEYS, Key, Options, PASSWORD, Sshd, output};

/// A key of no server of ours.
const FOREIGN: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

fn all_keys() -> Sshd {
    Sshd::start(&Options { host_keys: ALL_KEYS, ..Options::default() })
}

fn runs(rig: &Rig) {
    let row = rig.bash("echo fine");
    assert_eq!(stdout(&row), "fine\n", "{}", rig.said(&row));
}

#[test]
fn an_unknown_host_is_refused_with_the_line_to_add() {
    let _machine = shared();
    let rig = Rig::knowing(Sshd::with_config(&[]), "# nobody yet\n", &[]);
    let line = rig.sshd.known_hosts_line("ed25519");
    let file = rig.known_hosts.display().to_string();
    let words = [line.as_str(), &rig.sshd.fingerprint("ed25519"), &file, HOST];
    rig.refused(rig.job("BASH", "echo ran"), &words);
    fs::remove_file(&rig.known_hosts).expect("remove");
    rig.refused(rig.job("BASH", "echo ran"), &words);
    assert!(!rig.known_hosts.exists(), "strict checking records nothing");
    assert_eq!(rig.sshd.logins(), 0, "the key was offered to a host that nobody knows");
    // Added as told, it is known without a restart.
    fs::write(&rig.known_hosts, format!("{line}\n")).expect("write");
    runs(&rig);
    rig.stop();
}

#[test]
fn a_changed_host_key_is_refused_with_both_fingerprints_and_the_line() {
    let _machine = shared();
    let sshd = Sshd::with_config(&[]);
    let known = format!("# comment\n\nother.example {FOREIGN}\n{}", sshd.known_hosts());
    let mut rig = Rig::knowing(sshd, &known, &[]);
    runs(&rig);
    let old = rig.sshd.fingerprint("ed25519");
    rig.sshd.stop();
    rig.sshd.change_host_keys();
    rig.sshd.start_again();
    let new = rig.sshd.fingerprint("ed25519");
    let logins = rig.sshd.logins();
    let file = rig.known_hosts.display().to_string();
    rig.refused(rig.job("BASH", "echo ran"), &[&old, &new, "line 4|known_hosts:4", &file, HOST]);
    assert_eq!(rig.sshd.logins(), logins);
    rig.stop();
}

#[test]
fn a_revoked_key_is_refused_even_where_it_is_also_known() {
    let _machine = shared();
    let sshd = Sshd::with_config(&[]);
    let good = sshd.known_hosts();
    let rig =
        Rig::knowing(sshd, &format!("{good}@revoked * {}\n", good.split_once(' ').expect("a line").1.trim()), &[]);
    rig.refused(rig.job("BASH", "echo ran"), &["revoked", &rig.sshd.fingerprint("ed25519"), HOST]);
    rig.stop();
    // Also without strict checking.
    let sshd = Sshd::with_config(&[]);
    let line = format!("@revoked {}\n", sshd.known_hosts_line("ed25519"));
    let rig = Rig::knowing(sshd, &line, &[("ssh.security.strictHostKeyChecking", "false")]);
    rig.refused(rig.job("BASH", "echo ran"), &["revoked"]);
    assert_eq!(fs::read_to_string(&rig.known_hosts).expect("read"), line);
    rig.stop();
}

#[test]
fn known_hosts_are_read_as_openssh_writes_them() {
    let _machine = shared();
    let rig = Rig::knowing(Sshd::with_config(&[]), "", &[]);
    let (name, key) = (rig.sshd.known_name(), rig.sshd.public_host_key("ed25519"));
    let hashed = rig.sshd.path("hashed");
    fs::write(&hashed, format!("{name} {key}\n")).expect("write");
    output(Command::new("ssh-keygen").args(["-H", "-f"]).arg(&hashed));
    let hashed = fs::read_to_string(&hashed).expect("read");
    assert!(hashed.starts_with("|1|"), "{hashed}");
    for (what, text) in [
        ("hashed", hashed),
        ("one of several names", format!("other.example,{name},10.0.0.1 {key} a comment\n")),
        ("a pattern", format!("[127.0.0.*]:{} {key}\n", rig.sshd.port)),
        ("the second of two keys", format!("{name} {FOREIGN}\n{name} {key}\n")),
        ("no last line feed", format!("{name} {key}")),
        ("lines that make no sense", format!("nonsense\n{name} ssh-ed25519 !!!\n@what {name} x y\n{name} {key}\n")),
        ("an authority of another host", format!("@cert-authority *.example {FOREIGN}\n{name} {key}\n")),
        ("line ends of Windows", format!("# x\r\n{name} {key}\r\n")),
        ("a mark before the first line", format!("\u{feff}{name} {key}\n")),
    ] {
        fs::write(&rig.known_hosts, text).expect("write");
        let row = rig.bash("echo fine");
        assert_eq!(stdout(&row), "fine\n", "{what}: {}", rig.said(&row));
        // The next job must make a new connection.
        rig.sshd.kill_sessions();
    }
    for (what, text) in [
        ("the name without the port", format!("127.0.0.1 {key}\n")),
        ("another port", format!("[127.0.0.1]:{} {key}\n", rig.sshd.port - 1)),
        ("taken out by a pattern", format!("!{name},* {key}\n")),
    ] {
        fs::write(&rig.known_hosts, text).expect("write");
        let row = finish(&rig.backend, rig.job("BASH", "echo ran"));
        assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), ""), "{what}");
        has_words(&rig.said(&row), &[&rig.sshd.known_hosts_line("ed25519")]);
    }
    rig.stop();
}

#[test]
fn a_host_of_which_one_kind_of_key_is_known_is_asked_for_that_kind() {
    let _machine = shared();
    let rig = Rig::knowing(all_keys(), "", &[]);
    for kind in ALL_KEYS {
        fs::write(&rig.known_hosts, rig.sshd.known_hosts_line(kind)).expect("write");
        let row = rig.bash("echo fine");
        assert_eq!(stdout(&row), "fine\n", "{kind}: {}", rig.said(&row));
        rig.sshd.kill_sessions();
    }
    rig.stop();
}

#[test]
fn without_strict_checking_the_first_key_is_recorded_and_a_later_change_refused() {
    let _machine = shared();
    let mut rig = Rig::knowing(Sshd::with_config(&[]), "", &[("ssh.security.strictHostKeyChecking", "false")]);
    fs::remove_file(&rig.known_hosts).expect("remove");
    runs(&rig);
    let recorded = fs::read_to_string(&rig.known_hosts).expect("the first key is recorded");
    assert_eq!(recorded, rig.sshd.known_hosts());
    assert_eq!(fs::metadata(&rig.known_hosts).expect("metadata").permissions().mode() & 0o022, 0);
    runs(&rig);
    let old = rig.sshd.fingerprint("ed25519");
    rig.sshd.stop();
    rig.sshd.change_host_keys();
    rig.sshd.start_again();
    rig.refused(rig.job("BASH", "echo ran"), &[&old, &rig.sshd.fingerprint("ed25519"), "line 1|known_hosts:1"]);
    assert_eq!(fs::read_to_string(&rig.known_hosts).expect("read"), recorded);
    rig.stop();
}

#[test]
fn a_name_and_an_address_of_version_six_are_hosts_too() {
    let _machine = shared();
    // A name with two addresses, of which only one answers.
    let rig = Rig::start(&[]);
    let name = format!("[localhost]:{} {}\n", rig.sshd.port, rig.sshd.public_host_key("ed25519"));
    fs::write(&rig.known_hosts, name).expect("write");
    let mut job = rig.job("BASH", "echo fine");
    job["execution"]["target"]["serverDetails"]["host"] = json!("localhost");
    assert_eq!(stdout(&finish(&rig.backend, job)), "fine\n");
    rig.stop();
    runs_and_stops(Rig::with(Sshd::start(&Options { address: "::1", ..Options::default() }), &[]));
}

fn runs_and_stops(rig: Rig) {
    runs(&rig);
    rig.stop();
}

/// A job for the rig's server with this credential.
fn with_key(rig: &Rig, key: &str, passphrase: Option<&str>) -> Value {
    let mut job = rig.job("BASH", "echo in");
    job["execution"]["target"]["serverDetails"]["privateKey"] = json!(key);
    job["execution"]["target"]["serverDetails"]["passphrase"] = json!(passphrase);
    job
}

fn base64(text: &str) -> String {
    let mut child =
        Command::new("base64").arg("-w0").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("base64");
    child.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("write");
    String::from_utf8(child.wait_with_output().expect("base64").stdout).expect("text")
}

/// Each kind of key that people have, by the arguments of `ssh-keygen` that make it.
const KINDS: &[&[&str]] = &[
    &["-t", "ed25519"],
    &["-t", "rsa", "-b", "2048"],
    &["-t", "rsa", "-b", "2048", "-m", "PEM"],
    &["-t", "rsa", "-b", "2048", "-m", "PKCS8"],
    &["-t", "ecdsa", "-b", "256"],
    &["-t", "ecdsa", "-b", "256", "-m", "PEM"],
    &["-t", "ecdsa", "-b", "384", "-m", "PKCS8"],
    &["-t", "ecdsa", "-b", "521"],
];

#[test]
fn every_kind_of_key_opens_a_server() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    for kind in KINDS {
        let key = rig.sshd.client_key(kind, "");
        let row = finish(&rig.backend, with_key(&rig, &key.text, None));
        assert_eq!(stdout(&row), "in\n", "{kind:?}: {}", rig.said(&row));
    }
    assert_eq!(rig.sshd.logins(), KINDS.len(), "one connection served several credentials");
    // However it came through forms and databases.
    let text = &rig.sshd.key.text;
    for (what, text) in [
        ("base64", base64(text)),
        ("line ends of Windows", text.replace('\n', "\r\n")),
        ("blank space around it", format!("\n  {}  \n\n", text.trim())),
        ("no last line feed", text.trim().to_owned()),
    ] {
        let row = finish(&rig.backend, with_key(&rig, &text, None));
        assert_eq!(stdout(&row), "in\n", "{what}: {}", rig.said(&row));
    }
    rig.stop();
}

#[test]
fn a_locked_key_needs_its_passphrase() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    for kind in KINDS {
        let key = rig.sshd.client_key(kind, "pass 'phrase\" ü");
        let row = finish(&rig.backend, with_key(&rig, &key.text, Some("pass 'phrase\" ü")));
        assert_eq!(stdout(&row), "in\n", "{kind:?}: {}", rig.said(&row));
        for wrong in [None, Some(""), Some("another")] {
            rig.refused(with_key(&rig, &key.text, wrong), &["passphrase"]);
        }
    }
    rig.stop();
}

#[test]
fn a_key_that_cannot_be_read_is_told_what_it_is_and_what_would_do() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let dsa = rig.sshd.path("dsa");
    output(Command::new("openssl").args(["dsaparam", "-genkey", "-noout", "-out"]).arg(&dsa).arg("1024"));
    // As ssh-keygen wrote them while it still made them.
    let dsa = output(Command::new("openssl").args(["pkey", "-traditional", "-in"]).arg(&dsa));
    assert!(dsa.starts_with("-----BEGIN DSA PRIVATE KEY-----"), "{dsa}");
    let putty = "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: x\nPublic-Lines: 2\nAAAA\nAAAA\n";
    let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let cut = rig.sshd.key.text[..120].to_owned();
    for (key, words) in [
        (dsa.as_str(), &["DSA", "Ed25519"][..]),
        (putty, &["PuTTY", "OpenSSH"]),
        (rig.sshd.key.public.as_str(), &["public key", "private"]),
        (certificate, &["certificate|not a private key", "OpenSSH"]),
        ("hunter2", &["not a private key|no private key|not in any known format", "OpenSSH"]),
        (cut.as_str(), &["key"]),
    ] {
        let row = rig.refused(with_key(&rig, key, None), words);
        let middle = key.lines().nth(1).unwrap_or("hunter2");
        assert!(!rig.said(&row).contains(middle), "the verdict shows the key: {}", rig.said(&row));
    }
    assert_eq!(rig.sshd.accepted(), 0, "a key that cannot be read is no reason to call");
    let mut none = rig.job("BASH", "echo in");
    none["execution"]["target"]["serverDetails"]["privateKey"] = Value::Null;
    rig.refused(none, &["key"]);
    rig.stop();
}

#[test]
fn a_key_that_is_not_let_in_is_told_with_the_user() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let Key { text, .. } = crate::sshd::make_key(&rig.sshd.path(""), "stranger", &["-t", "ed25519"], "");
    let user = rig.sshd.user.clone();
    rig.refused(with_key(&rig, &text, None), &[&user, "refused|denied|not accept|rejected", HOST]);
    rig.stop();
}

#[test]
fn keys_are_never_written_to_a_disk() {
    let _machine = shared();
    let state = crate::harness::Folder::new();
    let rig = Rig::start(&[("state.dir", state.path().to_str().expect("text"))]);
    let id = rig.begin(rig.job("BASH", "echo in; sleep 1"));
    let line = rig.sshd.key.text.lines().nth(2).expect("a line").to_owned();
    let holds = |path: &Path| fs::read(path).is_ok_and(|text| String::from_utf8_lossy(&text).contains(&line));
    for folder in [state.path(), &rig.sshd.path("home")] {
        let bad: Vec<_> = walk(folder).into_iter().filter(|path| path.is_file() && holds(path)).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
    assert_eq!(stdout(&crate::harness::finished(&rig.backend, &id)), "in\n");
    rig.stop();
}

/// A job that has a password and no key.
fn with_password(rig: &Rig, password: &str) -> Value {
    let mut job = rig.job("BASH", "echo in");
    job["execution"]["target"]["serverDetails"]["privateKey"] = Value::Null;
    job["execution"]["target"]["serverDetails"]["password"] = json!(password);
    job
}

fn password_server(config: &[&str]) -> Sshd {
    Sshd::start(&Options { password: true, config, ..Options::default() })
}

#[test]
fn passwords_are_refused_by_default_and_never_sent() {
    let _machine = shared();
    let rig = Rig::with(password_server(&[]), &[]);
    rig.refused(with_password(&rig, PASSWORD), &["ssh.security.allowPasswords"]);
    assert_eq!(rig.sshd.logins(), 0);
    assert!(!rig.sshd.log().contains("Failed password"), "{}", rig.sshd.log());
    // With a key beside it, the key is used.
    let mut both = with_password(&rig, PASSWORD);
    both["execution"]["target"]["serverDetails"]["privateKey"] = json!(rig.sshd.key.text);
    assert_eq!(stdout(&finish(&rig.backend, both)), "in\n");
    rig.stop();
}

#[test]
fn passwords_and_questions_are_answered_where_they_are_allowed() {
    let _machine = shared();
    let allow = [("ssh.security.allowPasswords", "true")];
    for (config, method) in [
        (&["KbdInteractiveAuthentication no"][..], "Accepted password"),
        (&["PasswordAuthentication no"], "Accepted keyboard-interactive"),
    ] {
        let rig = Rig::with(password_server(config), &allow);
        let row = finish(&rig.backend, with_password(&rig, PASSWORD));
        assert_eq!(stdout(&row), "in\n", "{}", rig.said(&row));
        assert!(rig.sshd.log().contains(method), "{}", rig.sshd.log());
        let row = rig.refused(with_password(&rig, "canary-wrong-551"), &["password", HOST]);
        assert!(!rig.said(&row).contains("canary-wrong"), "{}", rig.said(&row));
        rig.stop();
    }
}

#[test]
fn ciphers_outside_the_allowed_ones_are_not_spoken_and_the_servers_are_told() {
    let _machine = shared();
    let allow = [("ssh.security.allowedCiphers", "aes128-ctr")];
    let rig = Rig::with(Sshd::with_config(&["Ciphers aes256-ctr,aes192-ctr"]), &allow);
    rig.refused(rig.job("BASH", "echo ran"), &["aes256-ctr", "aes192-ctr", "allowedCiphers", HOST]);
    rig.stop();
    // Of many, the allowed one is taken.
    let rig = Rig::with(Sshd::with_config(&["LogLevel DEBUG1"]), &allow);
    runs(&rig);
    let log = rig.sshd.log();
    let spoken: Vec<&str> = log.lines().filter(|line| line.contains("cipher:") && line.contains("kex:")).collect();
    assert!(!spoken.is_empty() && spoken.iter().all(|line| line.contains("cipher: aes128-ctr")), "{spoken:?}");
    rig.stop();
}

#[test]
fn key_exchanges_outside_the_allowed_ones_are_not_spoken_and_the_servers_are_told() {
    let _machine = shared();
    let allow = [("ssh.security.allowedKeyExchanges", "ecdh-sha2-nistp256")];
    let rig = Rig::with(Sshd::with_config(&["KexAlgorithms curve25519-sha256,ecdh-sha2-nistp521"]), &allow);
    let words = ["curve25519-sha256", "ecdh-sha2-nistp521", "allowedKeyExchanges", HOST];
    rig.refused(rig.job("BASH", "echo ran"), &words);
    rig.stop();
    let rig = Rig::with(Sshd::with_config(&["LogLevel DEBUG1"]), &allow);
    runs(&rig);
    assert!(rig.sshd.log().contains("kex: algorithm: ecdh-sha2-nistp256"), "{}", rig.sshd.log());
    rig.stop();
}

#[test]
fn a_server_that_speaks_nothing_that_we_do_is_told_with_what_it_offers() {
    let _machine = shared();
    let rig = Rig::with(Sshd::with_config(&["KexAlgorithms sntrup761x25519-sha512@openssh.com"]), &[]);
    rig.refused(rig.job("BASH", "echo ran"), &["sntrup761x25519-sha512@openssh.com", HOST]);
    rig.stop();
}

#[test]
fn validate_compares_the_lists_with_what_the_library_has() {
    let _machine = shared();
    let validate = |key: &str, value: &str| {
        let mut command = binary();
        command.args(["validate", "--set", "api.endpoint=http://127.0.0.1:1", "--set"]).arg(format!("{key}={value}"));
        command.env("CRONIUM_API_TOKEN", "x").output().expect("validate")
    };
    for (key, good, bad) in [
        ("ssh.security.allowedCiphers", "aes256-ctr", "rot13-ctr"),
        ("ssh.security.allowedKeyExchanges", "curve25519-sha256", "whisper-sha256"),
    ] {
        let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
        let output = validate(key, &format!("{good},{bad}"));
        assert!(said(&output).contains(key) && said(&output).contains(bad), "{}", said(&output));
        // One that is there is a configuration that works; none is not.
        assert_eq!(validate(key, bad).status.code(), Some(2));
        assert_eq!(validate(key, good).status.code(), Some(0));
    }
}

#[test]
fn known_hosts_add_shows_a_fingerprint_and_adds_after_a_yes() {
    let _machine = shared();
    let sshd = all_keys();
    let known = sshd.path("known_hosts.added");
    let add = |flags: &[&str], answer: &str| {
        let mut command = binary();
        command.args(["known-hosts", "add", &format!("{}:{}", sshd.host, sshd.port)]).args(flags);
        command.arg("--set").arg(format!("ssh.security.knownHostsFile={}", known.display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary");
        let _ = child.stdin.take().expect("stdin").write_all(answer.as_bytes());
        let output = child.wait_with_output().expect("its output");
        let text = [output.stdout.clone(), output.stderr.clone()].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let shown = |text: &str| ALL_KEYS.iter().any(|kind| text.contains(&sshd.fingerprint(kind)));
    for answer in ["no\n", ""] {
        let (code, text) = add(&[], answer);
        assert!(shown(&text), "{text}");
        assert_ne!(code, Some(0), "{text}");
        assert!(!fs::read_to_string(&known).unwrap_or_default().contains("ssh-"), "added without a yes");
    }
    let (code, text) = add(&[], "yes\n");
    assert!(code == Some(0) && shown(&text), "{text}");
    let first = fs::read_to_string(&known).expect("added");
    assert!(first.lines().all(|line| sshd.known_hosts().contains(line)) && !first.is_empty(), "{first}");
    // A second time adds nothing, and says so by success.
    let (code, text) = add(&["--yes"], "");
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(fs::read_to_string(&known).expect("read"), first);
    fs::remove_file(&known).expect("remove");
    assert_eq!(add(&["--yes"], "").0, Some(0));
    let added = fs::read_to_string(&known).expect("read");
    let rig = Rig::knowing(sshd, &added, &[]);
    runs(&rig);
    rig.stop();
}

#[test]
fn known_hosts_add_refuses_a_changed_key_and_a_host_that_is_away() {
    let _machine = shared();
    let mut sshd = Sshd::with_config(&[]);
    let known = sshd.path("known_hosts.added");
    let old = sshd.known_hosts();
    fs::write(&known, &old).expect("write");
    let add = |sshd: &Sshd| {
        let mut command = binary();
        command.args(["known-hosts", "add", &format!("{}:{}", sshd.host, sshd.port), "--yes", "--set"]);
        command.arg(format!("ssh.security.knownHostsFile={}", known.display())).stdin(Stdio::null());
        let output = command.output().expect("the binary");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let before = sshd.fingerprint("ed25519");
    sshd.stop();
    let (code, text) = add(&sshd);
    assert_eq!(code, Some(1), "{text}");
    has_words(&text, &["127.0.0.1", "refused"]);
    sshd.change_host_keys();
    sshd.start_again();
    let (code, text) = add(&sshd);
    assert_eq!(code, Some(1), "{text}");
    has_words(&text, &[&before, &sshd.fingerprint("ed25519"), "line 1|known_hosts.added:1"]);
    assert_eq!(fs::read_to_string(&known).expect("read"), old);
}

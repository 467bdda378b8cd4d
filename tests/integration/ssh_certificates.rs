//! User certificates: each kind logs in where sshd trusts their authority, and each that is refused has its words.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Folder, LONG, binary, finish, finished, shared, stdout, unique};
use crate::ssh_rig::{HOST, Rig, has_words};
use crate::sshd::{Key, Options, Sshd, make_key, output};

/// A server that trusts an authority, whose key is in the folder. No test's key is let in by itself.
fn trusting(folder: &Folder, more: &[&str]) -> (Key, Sshd) {
    let authority = make_key(folder.path(), "authority", &["-t", "ed25519"], "");
    let trust = format!("TrustedUserCAKeys {}.pub", authority.path.display());
    let config: Vec<&str> = [trust.as_str()].into_iter().chain(more.iter().copied()).collect();
    (authority, Sshd::start(&Options { config: &config, forgiving: true, ..Options::default() }))
}

/// The certificate that `ssh-keygen -s` makes of the key with these flags.
fn sign(authority: &Key, key: &Key, flags: &[&str]) -> String {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-s"]).arg(&authority.path).args(["-I", "test"]).args(flags);
    output(command.arg(format!("{}.pub", key.path.display())));
    std::fs::read_to_string(format!("{}-cert.pub", key.path.display())).expect("a certificate")
}

fn key_in(folder: &Folder, kind: &[&str]) -> Key {
    make_key(folder.path(), &unique("key"), kind, "")
}

/// A job with this login.
fn with_login(rig: &Rig, key: &str, certificate: &str) -> Value {
    let mut job = rig.job("BASH", "echo in");
    job["execution"]["target"]["serverDetails"]["privateKey"] = json!(key);
    job["execution"]["target"]["serverDetails"]["certificate"] = json!(certificate);
    job
}

#[test]
fn a_certificate_of_every_kind_of_key_opens_a_server_that_trusts_its_authority() {
    let _machine = shared();
    let folder = Folder::new();
    let (authority, sshd) = trusting(&folder, &[]);
    let rig = Rig::with(sshd, &[]);
    for (kind, accepted) in [
        (&["-t", "ed25519"][..], "ED25519-CERT"),
        (&["-t", "rsa", "-b", "2048"], "RSA-CERT"),
        (&["-t", "rsa", "-b", "2048", "-m", "PEM"], "RSA-CERT"),
        (&["-t", "rsa", "-b", "2048", "-m", "PKCS8"], "RSA-CERT"),
        (&["-t", "ecdsa", "-b", "256"], "ECDSA-CERT"),
        (&["-t", "ecdsa", "-b", "384", "-m", "PEM"], "ECDSA-CERT"),
        (&["-t", "ecdsa", "-b", "521", "-m", "PKCS8"], "ECDSA-CERT"),
        (&["-t", "ecdsa", "-b", "521"], "ECDSA-CERT"),
    ] {
        let key = key_in(&folder, kind);
        let certificate = sign(&authority, &key, &["-n", &rig.sshd.user]);
        let before = rig.sshd.log().len();
        let row = finish(&rig.backend, with_login(&rig, &key.text, &certificate));
        assert_eq!(stdout(&row), "in\n", "{kind:?}: {}", rig.said(&row));
        assert!(rig.sshd.log()[before..].contains(accepted), "{kind:?}: {}", &rig.sshd.log()[before..]);
        // The key alone opens nothing.
        rig.refused(with_login(&rig, &key.text, ""), &["the private key was refused", HOST]);
    }
    rig.stop();
}

#[test]
fn a_certificate_that_the_server_refuses_is_told_with_the_likely_reason() {
    let _machine = shared();
    let folder = Folder::new();
    let (authority, sshd) = trusting(&folder, &[]);
    let other = make_key(folder.path(), "other-authority", &["-t", "ed25519"], "");
    let rig = Rig::with(sshd, &[("ssh.circuitBreaker.enabled", "false")]);
    let user = rig.sshd.user.clone();
    let key = key_in(&folder, &["-t", "ed25519"]);
    let refused = "cannot log in to|the certificate was refused";
    for (by, flags, words) in [
        (&authority, &["-n", &user, "-V", "20200101:20200102"][..], "it expired at 2020-01-0"),
        (&authority, &["-n", &user, "-V", "+1d:+2d"], "it is valid from 20"),
        (&authority, &["-n", "deploy,root"], &format!("it is for deploy, root, not for {user}")),
        (&authority, &[], "it names no user"),
        (&authority, &["-n", &user, "-O", "source-address=192.0.2.0/24"], "from the addresses 192.0.2.0/24 alone"),
        (&other, &["-n", &user], "does the server trust its authority SHA256:"),
    ] {
        let certificate = sign(by, &key, flags);
        let row = rig.refused(with_login(&rig, &key.text, &certificate), &[refused, words, HOST]);
        assert!(rig.said(&row).contains("the certificate was refused: "), "{}", rig.said(&row));
    }
    rig.stop();
}

#[test]
fn what_can_be_no_certificate_of_the_key_is_refused_before_a_connection() {
    let _machine = shared();
    let folder = Folder::new();
    let (authority, sshd) = trusting(&folder, &[]);
    let rig = Rig::with(sshd, &[]);
    let user = rig.sshd.user.clone();
    let of = |kind: &[&str]| key_in(&folder, kind);
    let (key, another) = (of(&["-t", "ed25519"]), of(&["-t", "ed25519"]));
    let others: Vec<Key> = ["PEM", "PKCS8"]
        .iter()
        .flat_map(|form| [["-t", "rsa", "-b", "2048", "-m", *form], ["-t", "ecdsa", "-b", "384", "-m", *form]])
        .map(|kind| of(&kind))
        .collect();
    let certificate = sign(&authority, &another, &["-n", &user]);
    let of_a_host = sign(&authority, &key, &["-h", "-n", &user]);
    for (key, certificate, words) in [
        (&key, certificate.as_str(), "it belongs to another key"),
        (&others[0], &certificate, "it belongs to another key"),
        (&others[1], &certificate, "it belongs to another key"),
        (&others[2], &certificate, "it belongs to another key"),
        (&others[3], &certificate, "it belongs to another key"),
        (&key, &of_a_host, "it is the certificate of a host"),
        (&key, &key.public, "it is a public key that no authority has signed"),
        (&key, &key.text, "it is a private key"),
        (&key, &certificate[..200], "it is damaged"),
        (&key, "hunter2", "it is not in OpenSSH's format"),
    ] {
        let words = ["the certificate for", "cannot be used", words, HOST];
        let row = rig.refused(with_login(&rig, &key.text, certificate), &words);
        assert!(!rig.said(&row).contains("hunter2"), "{}", rig.said(&row));
    }
    let mut alone = with_login(&rig, "", &certificate);
    alone["execution"]["target"]["serverDetails"]["privateKey"] = Value::Null;
    rig.refused(alone, &["it came without the private key"]);
    assert_eq!(rig.sshd.accepted(), 0);
    rig.stop();
}

#[test]
fn a_key_that_is_let_in_by_itself_still_is_when_its_certificate_is_refused() {
    let _machine = shared();
    let folder = Folder::new();
    let (authority, sshd) = trusting(&folder, &[]);
    let rig = Rig::with(sshd, &[]);
    let key = rig.sshd.client_key(&["-t", "ecdsa", "-b", "256"], "");
    let expired = sign(&authority, &key, &["-n", &rig.sshd.user, "-V", "20200101:20200102"]);
    let row = finish(&rig.backend, with_login(&rig, &key.text, &expired));
    assert_eq!(stdout(&row), "in\n", "{}", rig.said(&row));
    let words = ["the certificate was refused: it expired at", "the private key without it was accepted"];
    has_words(&rig.agent.log(), &words);
    rig.stop();
}

#[test]
fn the_next_agent_has_the_certificate_of_a_script_that_runs() {
    let _machine = shared();
    let folder = Folder::new();
    let (authority, sshd) = trusting(&folder, &[]);
    let mut rig = Rig::with(sshd, &[]);
    let key = key_in(&folder, &["-t", "ed25519"]);
    let certificate = sign(&authority, &key, &["-n", &rig.sshd.user]);
    let mut job = with_login(&rig, &key.text, &certificate);
    job["execution"]["script"]["content"] = json!("echo begun; sleep 3; echo done");
    let id = rig.begin(job);
    rig.agent.signal("KILL");
    rig.agent.wait(LONG);
    let rig = rig.again();
    let row = finished(&rig.backend, &id);
    assert_eq!(stdout(&row), "begun\ndone\n", "{}", rig.said(&row));
    assert!(rig.sshd.log().matches("ED25519-CERT").count() > 1, "{}", rig.sshd.log());
    rig.stop();
}

#[test]
fn exec_takes_a_certificate_and_finds_the_one_beside_the_key() {
    let _machine = shared();
    let folder = Folder::new();
    let (authority, sshd) = trusting(&folder, &[]);
    let known = sshd.path("known_hosts");
    std::fs::write(&known, sshd.known_hosts()).expect("write");
    let script = sshd.path("a.sh");
    std::fs::write(&script, "echo in").expect("write");
    let run = |identity: &Path, more: &[&str]| {
        let mut command = binary();
        command.args(["exec", "--server", &format!("{}@{}:{}", sshd.user, sshd.host, sshd.port), "--identity"]);
        command.arg(identity).args(more).arg(&script);
        command.arg("--set").arg(format!("ssh.security.knownHostsFile={}", known.display()));
        command.arg("--set").arg(format!("ssh.execution.tempDir={}", sshd.temp_dir().display()));
        let output = command.stdin(Stdio::null()).output().expect("exec");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let key = key_in(&folder, &["-t", "ed25519"]);
    let (code, said) = run(&key.path, &[]);
    assert_eq!(code, Some(125), "{said}");
    has_words(&said, &["the private key was refused"]);
    sign(&authority, &key, &["-n", &sshd.user]);
    let (code, said) = run(&key.path, &[]);
    assert_eq!((code, said.starts_with("in\n")), (Some(0), true), "{said}");
    let (beside, elsewhere) = (format!("{}-cert.pub", key.path.display()), folder.path().join("elsewhere"));
    std::fs::rename(beside, &elsewhere).expect("rename");
    let elsewhere = elsewhere.display().to_string();
    let (code, said) = run(&key.path, &["--certificate", &elsewhere]);
    assert_eq!((code, said.starts_with("in\n")), (Some(0), true), "{said}");
    let (code, said) = run(&key.path, &["--certificate", "/no/such/file"]);
    assert_eq!(code, Some(125), "{said}");
    has_words(&said, &["cannot read /no/such/file"]);
}

//! What is spoken with a server: plain host keys and no certificates, and a list of ours for every class of algorithms.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::harness::{binary, finish, shared, stdout};
use crate::ssh_rig::{HOST, Rig, has_words};
use crate::sshd::{ALL_KEYS, Options, Sshd};

/// A key of no server of ours, for each kind.
const FOREIGN: [&str; 2] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=",
];

fn runs(rig: &Rig, what: &str) {
    let row = rig.bash("echo fine");
    assert_eq!(stdout(&row), "fine\n", "{what}: {}", rig.said(&row));
    // The next job must make a new connection.
    rig.sshd.kill_sessions();
}

/// `known-hosts add --yes` into this file; its exit code and words.
fn add(sshd: &Sshd, known: &std::path::Path) -> (Option<i32>, String) {
    let mut command = binary();
    command.args(["known-hosts", "add", &format!("{}:{}", sshd.host, sshd.port), "--yes", "--set"]);
    command.arg(format!("ssh.security.knownHostsFile={}", known.display())).stdin(Stdio::null());
    let output = command.output().expect("the binary");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_server_with_a_host_certificate_is_known_by_its_plain_key() {
    let _machine = shared();
    let rig = Rig::with(Sshd::start(&Options { certificates: true, ..Options::default() }), &[]);
    runs(&rig, "the plain key is known");
    let line = rig.sshd.known_hosts_line("ed25519");
    let words = [line.as_str(), &rig.sshd.fingerprint("ed25519"), HOST];
    // OpenSSH's own client is content with the authority: it is a certificate that the server offers.
    let authority = rig.sshd.authority_line();
    fs::write(&rig.known_hosts, format!("{authority}\n")).expect("write");
    let mut ssh = rig.sshd.ssh(&["echo", "certified"]);
    fs::copy(&rig.known_hosts, rig.sshd.path("known_hosts.client")).expect("copy");
    assert_eq!(crate::sshd::output(&mut ssh), "certified");
    rig.refused(rig.job("BASH", "echo ran"), &words);
    rig.refused(rig.job("BASH", "echo ran"), &["line 1 trusts a certificate authority", "does not use"]);
    fs::write(&rig.known_hosts, "").expect("write");
    rig.refused(rig.job("BASH", "echo ran"), &words);
    let (code, text) = add(&rig.sshd, &rig.known_hosts);
    assert_eq!((code, fs::read_to_string(&rig.known_hosts).expect("read")), (Some(0), format!("{line}\n")), "{text}");
    runs(&rig, "added by the command");
    // The command says what the authority's line is worth, and adds the plain key to it.
    fs::write(&rig.known_hosts, format!("{authority}\n")).expect("write");
    let (code, text) = add(&rig.sshd, &rig.known_hosts);
    let file = fs::read_to_string(&rig.known_hosts).expect("read");
    assert_eq!((code, file), (Some(0), format!("{authority}\n{line}\n")), "{text}");
    has_words(&text, &["line 1 of", "trusts a certificate authority for it", "needs this plain key"]);
    rig.sshd.kill_sessions();
    runs(&rig, "added beside the authority");
    rig.stop();
}

#[test]
fn a_server_that_offers_certificates_alone_is_refused_with_the_line_to_add() {
    let _machine = shared();
    let config = &["HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com"];
    let rig = Rig::with(Sshd::start(&Options { certificates: true, config, ..Options::default() }), &[]);
    let words = [
        "offers certificates alone (ssh-ed25519-cert-v01@openssh.com)",
        "HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com,ssh-ed25519",
        HOST,
    ];
    rig.refused(rig.job("BASH", "echo ran"), &words);
    let (code, text) = add(&rig.sshd, &rig.known_hosts);
    assert_eq!(code, Some(1), "{text}");
    has_words(&text, &words[..2]);
    rig.stop();
}

#[test]
fn nothing_outside_of_our_lists_is_spoken_and_the_class_is_named() {
    let _machine = shared();
    for (config, words) in [
        (
            &["KexAlgorithms diffie-hellman-group14-sha1"][..],
            &[
                "key exchange: the server offers diffie-hellman-group14-sha1",
                "curve25519-sha256",
                "allowedKeyExchanges",
            ][..],
        ),
        (
            &["KexAlgorithms diffie-hellman-group-exchange-sha1"],
            &["key exchange: the server offers diffie-hellman-group-exchange-sha1"],
        ),
        (&["HostKeyAlgorithms ssh-rsa"], &["host key: the server offers ssh-rsa", "rsa-sha2-512"]),
        (
            &["Ciphers aes256-cbc,3des-cbc"],
            &["cipher (client to server): the server offers aes256-cbc,3des-cbc", "aes256-ctr", "allowedCiphers"],
        ),
        (
            &["Ciphers aes256-ctr", "MACs hmac-sha1,hmac-md5"],
            &["MAC (client to server): the server offers hmac-sha1,hmac-md5", "hmac-sha2-256-etm@openssh.com"],
        ),
    ] {
        let rig = Rig::with(Sshd::start(&Options { host_keys: &["rsa"], config, ..Options::default() }), &[]);
        rig.refused(rig.job("BASH", "echo ran"), &["none is in both", HOST]);
        rig.refused(rig.job("BASH", "echo ran"), words);
        assert_eq!(rig.sshd.logins(), 0);
        rig.stop();
    }
}

#[test]
fn what_the_operator_lists_is_spoken_also_where_we_would_not() {
    let _machine = shared();
    let rig = Rig::with(Sshd::with_config(&["Ciphers aes256-cbc"]), &[("ssh.security.allowedCiphers", "aes256-cbc")]);
    runs(&rig, "a cipher that is not in our list");
    rig.stop();
}

#[test]
fn an_rsa_key_never_signs_with_sha1() {
    let _machine = shared();
    let rig = Rig::with(Sshd::with_config(&["PubkeyAcceptedAlgorithms ssh-rsa"]), &[]);
    let key = rig.sshd.client_key(&["-t", "rsa", "-b", "2048"], "");
    let mut job = rig.job("BASH", "echo ran");
    job["execution"]["target"]["serverDetails"]["privateKey"] = json!(key.text);
    rig.refused(job, &["cannot log in", "the private key was refused", HOST]);
    assert_eq!(rig.sshd.logins(), 0, "{}", rig.sshd.log());
    rig.stop();
}

#[test]
fn of_several_known_keys_one_that_fits_is_enough_in_any_order() {
    let _machine = shared();
    let rig = Rig::with(Sshd::start(&Options { host_keys: ALL_KEYS, ..Options::default() }), &[]);
    let name = rig.sshd.known_name();
    let right = |kind: &str| rig.sshd.known_hosts_line(kind);
    let wrong = |at: usize| format!("{name} {}", FOREIGN[at]);
    for (what, lines) in [
        ("a wrong one of another type first", [wrong(0), right("rsa")].to_vec()),
        ("and last", [right("rsa"), wrong(0)].to_vec()),
        ("two wrong ones first", [wrong(0), wrong(1), right("rsa")].to_vec()),
        ("between two wrong ones", [wrong(1), right("ed25519"), wrong(0)].to_vec()),
        ("of the same type", [wrong(0), right("ed25519"), wrong(1)].to_vec()),
    ] {
        fs::write(&rig.known_hosts, lines.join("\n")).expect("write");
        runs(&rig, what);
    }
    let logins = rig.sshd.logins();
    fs::write(&rig.known_hosts, [wrong(0), wrong(1)].join("\n")).expect("write");
    rig.refused(rig.job("BASH", "echo ran"), &[&rig.sshd.fingerprint("ed25519"), "line 1 of", HOST]);
    assert_eq!(rig.sshd.logins(), logins, "it logged in to a host of which no key fits");
    rig.stop();
}

/// A packet of the protocol before keys are exchanged.
fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 8 + 4 - (5 + payload.len() + 4) % 8;
    let length = u32::try_from(1 + payload.len() + padding).expect("short").to_be_bytes();
    [&length[..], &[u8::try_from(padding).expect("short")], payload, &vec![0; padding]].concat()
}

/// A greeting and a first packet that offers this.
fn greeting(kex: &str, compression: &str) -> Vec<u8> {
    let mut payload = [&[20][..], &[7; 16]].concat();
    let (cipher, mac) = ("aes256-ctr", "hmac-sha2-256");
    for list in [kex, "ssh-ed25519", cipher, cipher, mac, mac, compression, compression, "", ""] {
        payload.extend(u32::try_from(list.len()).expect("short").to_be_bytes());
        payload.extend(list.as_bytes());
    }
    payload.extend([0; 5]);
    [b"SSH-2.0-odd\r\n", &packet(&payload)[..]].concat()
}

/// A server that says this to each client, then answers whatever comes with `answer`; what it got, and its port.
fn odd_server(greeting: Vec<u8>, answer: Vec<u8>) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("address").port();
    let got = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&got);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (greeting, answer, all) = (greeting.clone(), answer.clone(), Arc::clone(&all));
            std::thread::spawn(move || {
                let _ = stream.write_all(&greeting);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
                talk(&mut stream, &answer, &all);
            });
        }
    });
    (port, got)
}

fn talk(stream: &mut TcpStream, answer: &[u8], all: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        all.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..n]);
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}

#[test]
fn a_server_that_only_compresses_is_refused() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let (port, _got) = odd_server(greeting("curve25519-sha256", "zlib,zlib@openssh.com"), Vec::new());
    let mut job = rig.job("BASH", "echo ran");
    job["execution"]["target"]["serverDetails"]["port"] = json!(port);
    rig.refused(
        job,
        &["compression (client to server): the server offers zlib,zlib@openssh.com; this agent allows none"],
    );
    rig.stop();
}

/// The mark by which a client says that it takes extensions is no key exchange: a server that offers it as one must not
/// get a login without keys.
#[test]
fn a_server_that_offers_a_mark_as_its_key_exchange_learns_nothing() {
    let _machine = shared();
    let rig =
        Rig::start(&[("ssh.security.strictHostKeyChecking", "false"), ("ssh.connectionPool.connectionTimeout", "2s")]);
    let accept = packet(b"\x06\0\0\0\x0cssh-userauth");
    for mark in ["ext-info-c", "kex-strict-c-v00@openssh.com"] {
        let (port, got) = odd_server(greeting(mark, "none"), accept.clone());
        let mut job = rig.job("BASH", "echo ran");
        job["execution"]["target"]["serverDetails"]["port"] = json!(port);
        let row = finish(&rig.backend, job);
        assert_eq!((row.exit_code, stdout(&row)), (Some(125), ""), "{}", rig.said(&row));
        let got = got.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&got);
        assert!(!text.contains(&rig.sshd.user) && !text.contains("publickey"), "{mark}: {text}");
    }
    rig.stop();
}

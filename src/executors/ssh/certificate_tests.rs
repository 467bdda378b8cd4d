//! Certificates, good and odd, and the words for what may be wrong with them.

use super::*;
use crate::executors::ssh::keys::with_length;
use crate::wire::random::{Random, rounds};

const ED25519: &str = "ssh-ed25519-cert-v01@openssh.com";
const KEY: &[u8] = &[7; 32];

/// The parts of a certificate that a test may want otherwise.
#[derive(Clone)]
struct Parts<'a> {
    line_kind: &'a str,
    kind: &'a str,
    kind_of: u32,
    users: &'a [&'a str],
    time: (u64, u64),
    options: &'a [(&'a str, Option<&'a str>)],
    tail: &'a [u8],
}

const GOOD: Parts<'_> = Parts {
    line_kind: ED25519,
    kind: ED25519,
    kind_of: USER,
    users: &["deploy", "root"],
    time: (1000, 2000),
    options: &[],
    tail: b"",
};

impl Parts<'_> {
    fn blob(&self) -> Vec<u8> {
        let list = |items: Vec<Vec<u8>>| with_length(&items.concat());
        let option = |(name, value): &(&str, Option<&str>)| {
            let value = value.map_or(Vec::new(), |value| with_length(value.as_bytes()));
            [with_length(name.as_bytes()), with_length(&value)].concat()
        };
        [
            with_length(self.kind.as_bytes()),
            with_length(b"nonce"),
            with_length(KEY),
            7u64.to_be_bytes().to_vec(),
            self.kind_of.to_be_bytes().to_vec(),
            with_length(b"an id"),
            list(self.users.iter().map(|user| with_length(user.as_bytes())).collect()),
            self.time.0.to_be_bytes().to_vec(),
            self.time.1.to_be_bytes().to_vec(),
            list(self.options.iter().map(option).collect()),
            list(vec![with_length(b"permit-pty"), with_length(b"")]),
            with_length(b""),
            with_length(b"authority"),
            with_length(b"signature"),
            self.tail.to_vec(),
        ]
        .concat()
    }

    fn text(&self) -> String {
        format!("{} {} a comment\n", self.line_kind, STANDARD.encode(self.blob()))
    }

    fn reason(&self, user: &str, second: u64) -> String {
        let certificate = Certificate::read(&self.text()).expect("sound");
        certificate.likely_reason(user, UNIX_EPOCH + Duration::from_secs(second))
    }
}

#[test]
fn a_users_certificate_is_read_and_says_which_key_it_is_for() {
    for text in [GOOD.text(), format!("\u{feff}  {}", GOOD.text().replace('\n', "\r\n"))] {
        let certificate = Certificate::read(&text).expect("sound");
        assert_eq!(certificate.line(), format!("{ED25519} {}", STANDARD.encode(GOOD.blob())));
        let key = [with_length(b"ssh-ed25519"), with_length(KEY)].concat();
        assert!(certificate.is_for(&key) && !certificate.is_for(&key[1..]));
        assert_eq!(certificate.users, ["deploy", "root"]);
    }
}

#[test]
fn what_is_no_users_certificate_is_named() {
    use CertificateError::*;
    let of = |parts: Parts<'_>| parts.text();
    let cut = STANDARD.encode(&GOOD.blob()[..90]);
    for (text, want) in [
        (of(Parts { kind_of: HOST, ..GOOD }), Host),
        (of(Parts { kind_of: 3, ..GOOD }), Damaged),
        (of(Parts { kind: "ssh-rsa-cert-v01@openssh.com", ..GOOD }), Damaged),
        (of(Parts { tail: b"x", ..GOOD }), Damaged),
        (of(Parts { line_kind: "ecdsa-sha2-nistp256-cert-v01@openssh.com", ..GOOD }), Damaged),
        (of(Parts { line_kind: "sk-ssh-ed25519-cert-v01@openssh.com", ..GOOD }), Kind),
        (of(Parts { line_kind: "ssh-dss-cert-v01@openssh.com", ..GOOD }), Kind),
        (of(Parts { line_kind: "ssh-ed25519", ..GOOD }), PublicKey),
        (format!("{ED25519} {cut}"), Damaged),
        (format!("{ED25519} !!!!"), Damaged),
        (ED25519.to_owned(), Damaged),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n".to_owned(), PrivateKey),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n".to_owned(), X509),
        ("/etc/ssh/id-cert.pub".to_owned(), Path),
        ("hunter2".to_owned(), Unknown),
        ("  ".to_owned(), Unknown),
        ("A".repeat(PRIVATE_KEY_MAX + 1), TooLong),
    ] {
        let error = Certificate::read(&text).expect_err(&text);
        assert_eq!(error, want, "{text:.80}");
        assert!(!error.to_string().contains("hunter2") && !error.to_string().is_empty());
    }
}

#[test]
fn the_likely_reason_of_a_refusal_is_named() {
    let hostile = Parts { users: &["a\x1b[2J"], ..GOOD };
    let many: Vec<String> = (0..HOST_KEYS_SHOWN + 3).map(|n| format!("u{n}{}", "x".repeat(200))).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (reason, want) in [
        (GOOD.reason("deploy", 999), "it is valid from 1970-01-01T00:16:40Z on"),
        (GOOD.reason("deploy", 2000), "it expired at 1970-01-01T00:33:20Z"),
        (GOOD.reason("web", 1500), "it is for deploy, root, not for web"),
        (
            Parts { users: &[], ..GOOD }.reason("web", 1500),
            "it names no user (ssh-keygen -n), and sshd refuses such a one",
        ),
        (hostile.reason("web", 1500), "it is for a?[2J, not for web"),
        (
            Parts { options: &[("force-command", Some("x")), ("source-address", Some("10.0.0.0/8"))], ..GOOD }
                .reason("root", 1500),
            "it is valid from the addresses 10.0.0.0/8 alone",
        ),
        (
            Parts { options: &[("verify-required", None)], ..GOOD }.reason("root", 1500),
            "the server may not know its critical option verify-required",
        ),
        (
            Parts { time: (0, u64::MAX), options: &[("force-command", Some("x"))], ..GOOD }.reason("root", 1 << 36),
            &format!(
                "does the server trust its authority {} (TrustedUserCAKeys in sshd_config)?",
                fingerprint(b"authority")
            ),
        ),
        (Parts { time: (u64::MAX, u64::MAX), ..GOOD }.reason("root", 0), "it is valid from 9999-12-31T23:59:59Z on"),
    ] {
        assert_eq!(reason, want);
    }
    let said = Parts { users: &many, ..GOOD }.reason("web", 1500);
    assert!(said.contains(" and 3 more, not for web") && said.len() < (NAME + 4) * (HOST_KEYS_SHOWN + 1), "{said}");
}

#[test]
fn no_bytes_break_the_reader() {
    let (mut random, good) = (Random::new(71), GOOD.blob());
    for _ in 0..rounds(2000) {
        let mut blob = good.clone();
        let at = random.below(blob.len());
        match random.below(3) {
            0 => blob.truncate(at),
            1 => blob[at] ^= 1 << random.below(8),
            _ => drop(blob.splice(at..at, [0xff; 4])),
        }
        if let Ok(certificate) = Certificate::read(&format!("{ED25519} {}", STANDARD.encode(&blob))) {
            let said = certificate.likely_reason("root", UNIX_EPOCH);
            assert!(!said.contains(char::is_control), "{said:?}");
        }
    }
}

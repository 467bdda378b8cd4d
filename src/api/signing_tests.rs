//! The format of docs/signing.md to the byte, and what makes a signature count.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::api;
use crate::config::types::HostTable;
use crate::job::{Claim, Id, Job, Signature};
use crate::limits;
use crate::secret::Secret;
use crate::signing::check::{Terms, verify};
use crate::signing::keys::{self, TrustedKey};
use crate::signing::scripts::Scripts;
use crate::signing::sign::SigningKey;
use crate::signing::{canonical, hex, sha256};

/// The private key of RFC 8032, section 7.1, test 1.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
/// 2026-11-30T12:00:00Z.
const NOW: u64 = 1_796_040_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn key() -> SigningKey {
    SigningKey::of_pem(&Secret::new(PEM)).expect("a key")
}

fn trusted(rest: &str) -> Vec<TrustedKey> {
    keys::parse(&format!("{} {rest}", key().line("ci"))).expect("keys")
}

fn read(row: &Value) -> Job {
    read_with(row, &HostTable::default())
}

fn read_with(row: &Value, hosts: &HostTable) -> Job {
    match api::job_of(Id::parse("job_1").expect("id"), row.to_string().as_bytes(), hosts) {
        Claim::Run(job) => *job,
        Claim::Refuse { reason, .. } => panic!("{reason}: {row}"),
    }
}

fn container() -> Value {
    json!({"type": "container", "execution": {"target": {"type": "local"},
        "script": {"type": "BASH", "content": "echo häi\n", "workingDirectory": "sub"},
        "environment": {"B": "2", "A": 1}, "timeout": 3_600_000_000_000u64,
        "resources": {"cpuLimit": 0.5, "memoryLimit": 1000, "pidsLimit": 7}, "inputData": {"x": 1}},
        "metadata": {"eventId": 12, "eventName": "backup", "userId": "u1"}})
}

fn servers() -> Value {
    let server = |id: u32, host: &str| json!({"id": id, "name": "n", "host": host, "port": 2222, "username": "u", "privateKey": "PEM"});
    json!({"type": "ssh", "execution": {"target": {"type": "server"}, "script": {"type": "PYTHON", "content": "x"}},
        "metadata": {"eventId": "9", "multiServer": true, "servers": [server(1, "a.example"), server(2, "::1")]}})
}

fn request() -> Value {
    json!({"type": "container", "execution": {"http": {"method": "post", "url": "https://a.example/x",
        "headers": [{"key": "B", "value": "2"}, {"key": "A", "value": "1"}, {"key": "B", "value": "0"}], "body": "{}"}},
        "metadata": {"eventId": 3, "originalType": "HTTP_REQUEST"}})
}

/// The row with a signature by `ci`.
fn signed(mut row: Value) -> Value {
    let made = key().sign(&read(&row), "ci", (now(), Some(now() + Duration::from_secs(3600)))).expect("signed");
    row["signature"] =
        json!({"keyId": made.key_id, "signedAt": made.signed_at, "expiresAt": made.expires_at, "value": made.value});
    row
}

fn check(row: &Value, keys: &[TrustedKey], (max_age, now): (Duration, SystemTime)) -> Result<String, String> {
    verify(&read(row), &Terms { keys, max_age, now }).map(str::to_owned)
}

fn plainly(row: &Value) -> Result<String, String> {
    check(row, &trusted(""), (Duration::ZERO, now()))
}

/// A text and a list's number as docs/signing.md says them.
fn text(text: &str) -> Vec<u8> {
    let mut all = u32::try_from(text.len()).expect("short").to_be_bytes().to_vec();
    all.extend_from_slice(text.as_bytes());
    all
}

fn count(count: u32) -> Vec<u8> {
    count.to_be_bytes().to_vec()
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let terms = Signature {
        key_id: "ci".into(),
        signed_at: "2026-11-30T12:00:00Z".into(),
        expires_at: None,
        value: String::new(),
    };
    let head = ["cronium.job.signature.1", "ci", "2026-11-30T12:00:00Z", ""].map(text).concat();
    let want = [
        ["12", "container", "bash", "echo häi\n", "sub"].map(text).concat(),
        count(0),
        count(2),
        ["A", "1", "B", "2", "3600000", "500", "1000", "", "7"].map(text).concat(),
        count(0),
    ];
    assert_eq!(canonical::bytes(&read(&container()), &terms), Ok([head.clone(), want.concat()].concat()));
    let want = [
        ["9", "ssh", "python", "x", ""].map(text).concat(),
        count(2),
        ["1", "a.example", "2222", "u", "2", "::1", "2222", "u"].map(text).concat(),
        count(0),
        ["0", "", "", "", ""].map(text).concat(),
        count(0),
    ];
    assert_eq!(canonical::bytes(&read(&servers()), &terms), Ok([head.clone(), want.concat()].concat()));
    let want = [
        ["3", "http", "", "", ""].map(text).concat(),
        count(0),
        count(0),
        ["0", "", "", "", ""].map(text).concat(),
        count(1),
        ["POST", "https://a.example/x"].map(text).concat(),
        count(3),
        ["A", "1", "B", "2", "B", "0"].map(text).concat(),
        text("{}"),
    ];
    assert_eq!(canonical::bytes(&read(&request()), &terms), Ok([head, want.concat()].concat()));
}

/// The vectors of docs/signing.md: who writes a signer in another language compares with them.
#[test]
fn the_documented_vectors_hold() {
    let page = include_str!("../../docs/signing.md");
    for row in [container(), servers(), request()] {
        let row = signed(row);
        let job = read(&row);
        let Some(Ok(signature)) = &job.signature else { panic!("{row}") };
        let sum = sha256(&canonical::bytes(&job, signature).expect("bytes"));
        for vector in [&sum, &signature.value] {
            assert!(page.contains(vector.as_str()), "docs/signing.md lacks {vector} of {row}");
        }
    }
    assert!(page.contains(&hex(key().public())), "the public key {}", hex(key().public()));
}

#[test]
fn what_the_table_of_hosts_fills_in_must_be_what_was_signed() {
    let terms = Terms { keys: &trusted(""), max_age: Duration::ZERO, now: now() };
    let hosts = |port: u16| {
        let mut config = crate::config::defaults();
        let table = format!("[{{host: \"*\", user: u, port: {port}}}]");
        crate::config::set(&mut config, "ssh.hosts", &table).expect("a table");
        config.ssh.hosts
    };
    let mut row = servers();
    row["metadata"]["servers"][0].as_object_mut().expect("an entry").remove("port");
    let row = signed(row);
    assert_eq!(verify(&read(&row), &terms), Ok("ci"));
    assert_eq!(verify(&read_with(&row, &hosts(22)), &terms), Ok("ci"));
    assert!(verify(&read_with(&row, &hosts(2200)), &terms).is_err(), "port 22 was signed");
    let mut row = signed(servers());
    row["metadata"]["servers"][0].as_object_mut().expect("an entry").remove("username");
    assert_eq!(verify(&read_with(&row, &hosts(22)), &terms), Ok("ci"), "the user that was signed");
}

#[test]
fn a_signed_job_of_each_kind_counts() {
    for row in [container(), servers(), request()] {
        assert_eq!(plainly(&signed(row.clone())), Ok("ci".into()), "{row}");
        // What the backend may add or change: names of servers, logins, the input, other facts.
        let mut other = signed(row);
        other["priority"] = 7.into();
        other["attempts"] = 2.into();
        other["metadata"]["logId"] = 7.into();
        other["execution"]["inputData"] = json!({"y": 2});
        if let Some(server) = other.pointer_mut("/metadata/servers/0") {
            server["name"] = "another".into();
            server["privateKey"] = "another".into();
            server["certificate"] = "another".into();
        }
        assert_eq!(plainly(&other), Ok("ci".into()), "{other}");
    }
}

#[test]
fn whatever_decides_what_runs_is_covered() {
    let changes: [(Value, &str, Value); 23] = [
        (container(), "/execution/script/content", json!("echo häi\n\n")),
        (container(), "/execution/script/content", json!("echo h\u{e4}i")),
        (container(), "/execution/script/type", json!("PYTHON")),
        (container(), "/execution/script/workingDirectory", json!("")),
        (container(), "/execution/environment/A", json!(2)),
        (container(), "/execution/environment", json!({"A": 1})),
        (container(), "/execution/environment", json!({"A": 1, "B": "2", "C": ""})),
        (container(), "/execution/environment", json!({"A": "1B", "B": "2"})),
        (container(), "/execution/timeout", json!(3600.001)),
        (container(), "/execution/resources/cpuLimit", json!(0.501)),
        (container(), "/execution/resources/memoryLimit", json!(1001)),
        (container(), "/execution/resources", json!({"cpuLimit": 0.5, "diskLimit": 1000, "pidsLimit": 7})),
        (container(), "/execution/resources/pidsLimit", json!(8)),
        (container(), "/metadata/eventId", json!(13)),
        (container(), "/execution/target", json!({"type": "server", "serverDetails": {"host": "h", "username": "u"}})),
        (servers(), "/metadata/servers/0/host", json!("b.example")),
        (servers(), "/metadata/servers/0/port", json!(22)),
        (servers(), "/metadata/servers/0/username", json!("root")),
        (servers(), "/metadata/servers/1/id", json!(3)),
        (request(), "/execution/http/url", json!("https://b.example/x")),
        (request(), "/execution/http/method", json!("PUT")),
        (request(), "/execution/http/body", json!("[]")),
        (request(), "/execution/http/headers/0/value", json!("3")),
    ];
    for (row, pointer, value) in changes {
        let mut row = signed(row);
        *row.pointer_mut(pointer).expect(pointer) = value;
        let error = plainly(&row).expect_err(pointer);
        assert!(error.contains("does not fit"), "{pointer}: {error}");
    }
    let mut row = signed(servers());
    row["metadata"]["servers"].as_array_mut().expect("servers").remove(1);
    assert!(plainly(&row).expect_err("one less").contains("does not fit"));
    row["execution"]["script"]["interpreter"] = json!("perl");
    assert!(plainly(&row).expect_err("unknown").contains("script.interpreter"));
}

#[test]
fn times_bound_a_signature_and_its_key() {
    let row = signed(container());
    let later = |seconds| now() + Duration::from_secs(seconds);
    let (hour, day) = (Duration::from_secs(3600), 24 * 3600);
    assert_eq!(
        check(&row, &trusted("not-before=2026-11-30 not-after=2027-01-01"), (hour, later(3599))),
        Ok("ci".into())
    );
    for (rest, max_age, at, want) in [
        ("", Duration::ZERO, later(3600), "its signature expired at 2026-11-30T13:00:00Z"),
        ("", Duration::from_secs(60), later(61), "longer ago than security.signatures.maxAge"),
        ("", hour, now() - Duration::from_secs(301), "in the future of this host's clock"),
        ("revoked", hour, later(1), "its key ci is revoked"),
        ("not-before=2026-12-01", hour, later(1), "not valid yet"),
        ("not-after=2026-11-30T12:00:30Z", hour, later(60), "not valid any more"),
        ("not-after=2026-11-30T12:00:00Z", Duration::ZERO, now() - Duration::from_secs(1), "not valid any more"),
        ("not-before=2026-12-01", Duration::ZERO, later(day), "not valid yet"),
    ] {
        let error = check(&row, &trusted(rest), (max_age, at)).expect_err(want);
        assert!(error.contains(want), "{rest}: {error}");
    }
    // A clock that is a little behind the signer's is no reason.
    assert!(check(&row, &trusted(""), (hour, now() - Duration::from_secs(299))).is_ok());
}

#[test]
fn a_signature_that_is_none_is_named() {
    assert_eq!(plainly(&container()), Err("it has no signature".into()));
    for (member, value, want) in [
        ("keyId", json!("ops"), "\"ops\" is not in the file of keys"),
        ("value", json!("AAAA"), "3 bytes"),
        ("value", json!("!"), "not base64"),
        ("signedAt", json!("2026-11-30T12:00:01Z"), "does not fit"),
        ("expiresAt", json!("2036-11-30T13:00:00Z"), "does not fit"),
        ("expiresAt", Value::Null, "does not fit"),
        ("version", json!(2), "version"),
    ] {
        let mut row = signed(container());
        row["signature"][member] = value;
        let error = plainly(&row).expect_err(want);
        assert!(error.contains(want), "{member}: {error}");
    }
    let mut odd = container();
    odd["execution"]["timeout"] = json!(1.0001);
    let error = key().sign(&read(&odd), "ci", (now(), None)).expect_err("no whole millisecond");
    assert!(error.contains("milliseconds"), "{error}");
    odd = servers();
    odd["metadata"]["servers"][0]["host"] = json!("a b");
    assert!(key().sign(&read(&odd), "ci", (now(), None)).is_err(), "a server that cannot be used");
}

#[test]
fn a_file_of_keys_is_read_or_refused_by_its_line() {
    let good = key().line("a-1");
    let text =
        format!("\u{feff}# keys\n\n{good} # of the pipeline\n{} revoked not-after=2027-01-01\n", key().line("b"));
    let read = keys::parse(&text).expect("two keys");
    let seen: Vec<_> = read.iter().map(|key| (key.name.as_str(), key.line, key.is_revoked)).collect();
    assert_eq!(seen, [("a-1", 3, false), ("b", 4, true)]);
    let mut dotted = key().line("x");
    dotted.truncate(dotted.len() - 5);
    for (text, want) in [
        (String::new(), "it holds no key"),
        ("# nothing\n".into(), "it holds no key"),
        (format!("{good}\n{good}\n"), "line 2: the name a-1 stands in line 1"),
        ("a\n".into(), "line 1: the algorithm and the key are missing"),
        ("a rsa AAAA\n".into(), "line 1: the algorithm is \"rsa\""),
        ("a ed25519\n".into(), "line 1: the key is missing"),
        ("a ed25519 AAAA\n".into(), "line 1: the key has 3 bytes"),
        ("a ed25519 !!\n".into(), "line 1: the key is not base64"),
        (format!("{dotted}\n"), "line 1: the key"),
        (format!("a/b {}\n", &good[4..]), "line 1: \"a/b\" is no name"),
        (format!("\n{good} not-after=soon\n"), "line 2: \"soon\" is no time"),
        (format!("{good} not-after=2027-02-30\n"), "is no time"),
        (format!("{good} not-after=2027-01-01 not-after=2028-01-01\n"), "given twice"),
        (format!("{good} not-before=2027-01-01 not-after=2027-01-01\n"), "not later"),
        (format!("{good} trusted\n"), "line 1: \"trusted\" is not known"),
        (format!("{good} revoked revoked\n"), "is not known"),
    ] {
        let error = keys::parse(&text).expect_err(want);
        assert!(error.contains(want), "{text}: {error}");
    }
}

#[test]
fn a_script_of_the_list_runs_in_its_language_and_without_what_loads_code() {
    let sum = sha256("echo häi\n".as_bytes());
    let list = |line: &str| Scripts::parse(&format!("# ours\n{line}\n"));
    let bash = list(&format!("{sum}  hello.sh")).expect("a list");
    let row = container();
    assert_eq!(bash.allow(&read(&row)), Ok("hello.sh"));
    assert_eq!(list(&format!("{} *hello.sh", sum.to_uppercase())).expect("a list").allow(&read(&row)), Ok("hello.sh"));
    let python = list(&format!("{sum}  hello.py")).expect("a list");
    assert!(python.allow(&read(&row)).expect_err("another language").contains("no bash script with the sum"));
    let mut changed = row.clone();
    changed["execution"]["script"]["content"] = json!("echo hi\n");
    assert!(bash.allow(&read(&changed)).is_err());
    assert!(bash.allow(&read(&request())).expect_err("a request").contains("HTTP request"));
    for name in ["BASH_ENV", "LD_PRELOAD", "PATH", "PYTHONPATH", "NODE_OPTIONS", "BASH_FUNC_echo%%", "IFS"] {
        let mut row = row.clone();
        row["execution"]["environment"][name] = json!("/tmp/x");
        let error = bash.allow(&read(&row)).expect_err(name);
        assert!(error.contains(name), "{error}");
    }
    for (line, want) in [
        ("", "it holds no script"),
        ("abc  x.sh", "line 2: \"abc\" is no SHA-256 sum"),
        (&sum, "line 2: a line is"),
        (&format!("{sum}  "), "the name is missing"),
        (&format!("{sum}  x.pl"), "must end in"),
        (&format!("{sum}  noending"), "must end in"),
    ] {
        let error = list(line).expect_err(want);
        assert!(error.contains(want), "{line}: {error}");
    }
}

#[test]
fn both_files_have_a_bound() {
    let public = key().line("x").split_off(2);
    let lines = |count: usize| (0..count).map(|at| format!("k{at} {public}\n")).collect::<String>();
    assert_eq!(keys::parse(&lines(limits::SIGNING_KEYS_MAX)).map(|keys| keys.len()), Ok(limits::SIGNING_KEYS_MAX));
    let error = keys::parse(&lines(limits::SIGNING_KEYS_MAX + 1)).expect_err("one more");
    assert!(error.contains("more than 100 keys"), "{error}");
    let lines = |count: usize| (0..count).map(|at| format!("{at:064x}  a.sh\n")).collect::<String>();
    let most = limits::ALLOWED_SCRIPTS_MAX;
    assert_eq!(Scripts::parse(&lines(most)).map(|scripts| scripts.len()), Ok(most));
    assert!(Scripts::parse(&lines(most + 1)).expect_err("one more").contains("more than 10000 scripts"));
}

#[test]
fn keys_of_this_program_and_of_openssl_sign_alike() {
    let (made, pem) = SigningKey::make().expect("a key");
    let again = SigningKey::of_pem(&pem).expect("the same key");
    assert_eq!(made.public(), again.public());
    assert_eq!(hex(key().public()), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    for (text, want) in [
        ("", "holds no -----BEGIN"),
        ("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----", "not base64"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "no Ed25519 private key"),
    ] {
        let error = SigningKey::of_pem(&Secret::new(text)).err().expect(want);
        assert!(error.contains(want), "{error}");
    }
}

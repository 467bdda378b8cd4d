//! The reader of `known_hosts` against tables, and against the real `ssh-keygen`.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::os::heap_tests::peak;

impl KnownHosts {
    /// All that a text says, of any host.
    fn parse(text: &str) -> Self {
        let file = crate::os::scratch::Scratch::new();
        let path = file.join("known");
        std::fs::write(&path, text).expect("written");
        Self::read(&path, &|_| true).expect("a file")
    }
}

/// A key in the protocol's encoding: its type and some bytes.
fn blob(key_type: &str, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(key_type.len()).expect("short").to_be_bytes();
    [&length, key_type.as_bytes(), body].concat()
}

const ED: &str = "ssh-ed25519";
const RSA: &str = "ssh-rsa";
const EC: &str = "ecdsa-sha2-nistp256";
const CERT: &str = "ssh-ed25519-cert-v01@openssh.com";

/// `{ed1}` and the like become a type and its key, as they stand in a line.
fn fill(text: &str) -> String {
    let mut text = text.to_owned();
    for (short, key_type) in [("ed", ED), ("rsa", RSA), ("ec", EC)] {
        for number in *b"123" {
            let key = format!("{key_type} {}", STANDARD.encode(blob(key_type, &[number])));
            text = text.replace(&format!("{{{short}{}}}", char::from(number)), &key);
        }
    }
    text
}

fn check(text: &str, host: &str, port: u16, key_type: &str, number: u8) -> Check {
    KnownHosts::parse(&fill(text)).check(host, port, key_type, &blob(key_type, &[number]))
}

fn hashed(name: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"twenty bytes of salt");
    let hash = STANDARD.encode(hmac::sign(&key, name.as_bytes()));
    format!("|1|{}|{hash}", STANDARD.encode(b"twenty bytes of salt"))
}

#[test]
fn which_names_mean_a_host() {
    for (names, host, port, known) in [
        ("web", "web", 22, true),
        ("web", "WEB", 22, true),
        ("WEB.Example", "web.example", 22, true),
        ("web", "web", 2222, false),
        ("web", "web2", 22, false),
        ("web2", "web", 22, false),
        ("[web]:2222", "web", 2222, true),
        ("[WEB]:2222", "Web", 2222, true),
        ("[web]:2222", "web", 22, false),
        ("[web]:22", "web", 22, false),
        ("[web]:2222", "web", 22222, false),
        ("a,web,b", "web", 22, true),
        ("a,b", "web", 22, false),
        (",,web,", "web", 22, true),
        ("::1", "::1", 22, true),
        ("[::1]:2222", "::1", 2222, true),
        ("[FE80::1]:2222", "fe80::1", 2222, true),
        ("2001:DB8:0:0::1", "2001:db8::1", 22, true),
        ("2001:db8::1", "2001:0db8:0000::0001", 22, true),
        ("[2001:db8:0::1]:2222", "2001:DB8::1", 2222, true),
        ("2001:db8::1", "2001:db8::2", 22, false),
        ("*,!2001:db8:0::1", "2001:db8::1", 22, false),
        ("fe80::1%eth0", "fe80::1%eth0", 22, true),
        (&hashed("2001:db8:0::1"), "2001:db8:0::1", 22, true),
        (&hashed("2001:db8::1"), "2001:db8:0::1", 22, true),
        ("*", "anything", 22, true),
        ("*", "anything", 2222, true),
        ("*.example", "a.b.example", 22, true),
        ("*.example", "example", 22, false),
        ("*.example", "a.example.org", 22, false),
        ("w?b", "web", 22, true),
        ("w?b", "wb", 22, false),
        ("w?b", "weeb", 22, false),
        ("web?", "web", 22, false),
        ("w*b*", "web", 22, true),
        ("*a*b*c*", "xxaxxbxxbxxc", 22, true),
        ("*a*b*c", "xxaxxbxxcx", 22, false),
        ("*,!web", "web", 22, false),
        ("!web,*", "web", 22, false),
        ("!web,*", "web2", 22, true),
        ("!WEB,*", "web", 22, false),
        ("!w*,web", "web", 22, false),
        ("!web", "other", 22, false),
        ("[web]:*", "web", 2200, true),
        ("[web]:*", "web", 22, false),
        ("w[e]b", "web", 22, false),
        (&hashed("web"), "web", 22, true),
        (&hashed("web"), "WEB", 22, true),
        (&hashed("web"), "web", 2222, false),
        (&hashed("[web]:2222"), "web", 2222, true),
        (&hashed("web"), "web2", 22, false),
    ] {
        let want = if known { Check::Known { line: 1 } } else { Check::Unknown };
        assert_eq!(check(&format!("{names} {{ed1}} a comment"), host, port, ED, b'1'), want, "{names} {host} {port}");
    }
}

#[test]
fn many_stars_are_cheap() {
    let pattern = "*a".repeat(200);
    assert!(!glob(&format!("{pattern}b"), &"a".repeat(20_000)));
    assert!(glob(&pattern, &"a".repeat(20_000)));
}

#[test]
fn what_a_file_says_of_a_key() {
    let prints = |key_type: &str, known, offered| Check::Mismatch {
        line: 1,
        known_type: key_type.to_owned(),
        known_fingerprint: fingerprint(&blob(key_type, &[known])),
        offered_fingerprint: fingerprint(&blob(key_type, &[offered])),
    };
    let others = |all: &[(usize, &str)]| {
        Check::OtherTypes(all.iter().map(|&(line, key_type)| (line, key_type.to_owned())).collect())
    };
    for (text, key_type, number, want) in [
        ("", ED, b'1', Check::Unknown),
        ("other {ed1}", ED, b'1', Check::Unknown),
        ("web {ed1}", ED, b'1', Check::Known { line: 1 }),
        ("# one\n\n  \t\nweb {ed1}", ED, b'1', Check::Known { line: 4 }),
        ("web {ed1}\r\nweb {rsa1}\r\n", RSA, b'1', Check::Known { line: 2 }),
        ("\tweb \t {ed1}", ED, b'1', Check::Known { line: 1 }),
        ("web {ed1}", ED, b'2', prints(ED, b'1', b'2')),
        ("web {ed1}\nweb {ed2}", ED, b'2', Check::Known { line: 2 }),
        ("web {ed1}\nweb {ed2}", ED, b'3', prints(ED, b'1', b'3')),
        ("web {ed1}\nweb {ed1}", ED, b'1', Check::Known { line: 1 }),
        ("web {rsa1}\n* {ec2}\nx {ed1}", ED, b'1', others(&[(1, RSA), (2, EC)])),
        ("web {rsa1}\nweb {ed1}", ED, b'1', Check::Known { line: 2 }),
        ("web {ed1}\n@revoked * {ed1}", ED, b'1', Check::Revoked { line: 2 }),
        ("@revoked web {ed1}\nweb {ed1}", ED, b'1', Check::Revoked { line: 1 }),
        ("@revoked web {ed1}", ED, b'2', Check::Unknown),
        ("@revoked other {ed1}\nweb {ed1}", ED, b'1', Check::Known { line: 2 }),
        ("@revoked *,!web {ed1}\nweb {ed1}", ED, b'1', Check::Known { line: 2 }),
        ("@cert-authority * {ed1}", ED, b'1', Check::Unknown),
        ("junk\nweb ssh-ed25519\nweb {ed1}", ED, b'1', Check::Known { line: 3 }),
        ("\u{feff}web {ed1}", ED, b'1', Check::Known { line: 1 }),
        ("\u{feff}# a comment\r\nweb {ed1}\r\n", ED, b'1', Check::Known { line: 2 }),
        ("web {ed1} \t \r\nweb {rsa1}\t", RSA, b'1', Check::Known { line: 2 }),
        ("web {ed2}\nweb {rsa1}\nweb {ed1}", ED, b'1', Check::Known { line: 3 }),
    ] {
        assert_eq!(check(text, "web", 22, key_type, number), want, "{text:?} {key_type} {number}");
    }
}

#[test]
fn types_are_in_the_order_of_the_file() {
    let text = "web {ec1}\n@revoked web {rsa3}\n[web]:2222 {rsa1}\n*eb {ed1}\nweb {ec2}\n@cert-authority * {rsa1}\n";
    let all = KnownHosts::parse(&fill(text));
    assert_eq!(all.types_for("web", 22), [EC, ED]);
    assert_eq!(all.types_for("web", 2222), [RSA]);
    assert_eq!(all.types_for("other", 22), [""; 0]);
    assert_eq!((all.counts().keys, all.skipped()), (5, &[][..]));
    assert_eq!((all.authority_for("web", 22), all.authority_for("web", 2222)), (Some(6), Some(6)));
    let some = KnownHosts::parse(&fill("@cert-authority *.example,!bad.example {ed1}"));
    assert_eq!((some.authority_for("a.example", 22), some.authority_for("bad.example", 22)), (Some(1), None));
}

#[test]
fn lines_that_cannot_be_read_are_skipped_and_told() {
    for (line, part) in [
        ("web", "no key"),
        ("web ssh-ed25519", "no key after its type"),
        ("web ssh-ed25519 AAAA*", "not base64"),
        ("web ssh-ed25519 AAAA", "another type"),
        (&fill("web {ed1}").replace(" ssh-ed25519 ", " ssh-rsa "), "another type"),
        ("web 1024 35 1234567890", "protocol 1"),
        (&format!("web {} AAAA", "t".repeat(65)), "64 characters"),
        ("@trusted web {ed1}", "marker"),
        ("@cert-authority", "after its marker"),
        (&format!("web {CERT} {}", STANDARD.encode(blob(CERT, b"x"))), "certificate"),
        ("@revoked", "after its marker"),
        ("|2|AAAA|AAAA {ed1}", "form |1|"),
        ("|1|AAAA {ed1}", "form |1|"),
        ("|1|*|AAAA {ed1}", "not base64"),
        ("|1|AAAA|AAAA {ed1}", "wrong length"),
    ] {
        let all = KnownHosts::parse(&fill(&format!("# x\n{line}\nweb {{rsa1}}")));
        assert_eq!(all.skipped().iter().map(|skipped| skipped.line).collect::<Vec<_>>(), [2], "{line}");
        assert!(all.skipped()[0].why.contains(part), "{line}: {}", all.skipped()[0].why);
        assert_eq!(all.types_for("web", 22), [RSA], "{line}");
    }
}

/// A folder that goes away with the test.
struct Folder(PathBuf, #[allow(dead_code)] crate::os::scratch::Scratch);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = crate::os::scratch::Scratch::new();
        let path = folder.join(name);
        std::fs::create_dir(&path).expect("a folder");
        Self(path, folder)
    }

    fn keygen(&self, arguments: &[&str]) -> String {
        let output = Command::new("ssh-keygen").args(arguments).current_dir(&self.0).output();
        let output = output.expect("ssh-keygen, from openssh-client");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).expect("a file")
    }
}

#[test]
fn lines_are_what_ssh_keygen_finds_hashes_and_prints() {
    let folder = Folder::new("known-hosts");
    let file = folder.0.join("known");
    let hosts = [("web.example", 22), ("WEB.example", 2222), ("::1", 22), ("::1", 2222), ("10.0.0.7", 65535)];
    let mut keys = Vec::new();
    for (key_type, bits) in [("ed25519", "256"), ("rsa", "2048"), ("ecdsa", "384")] {
        folder.keygen(&["-q", "-t", key_type, "-b", bits, "-N", "", "-f", key_type]);
        let public = folder.read(&format!("{key_type}.pub"));
        let mut words = public.split(' ');
        let name = words.next().expect("a type").to_owned();
        let blob = STANDARD.decode(words.next().expect("a key").trim()).expect("base64");
        let printed = folder.keygen(&["-lf", &format!("{key_type}.pub")]);
        assert_eq!(printed.split(' ').nth(1), Some(fingerprint(&blob).as_str()));
        keys.push((name, blob));
    }
    for (host, port) in hosts {
        for (key_type, blob) in &keys {
            append(&file, &line(host, port, key_type, blob)).expect("appended");
        }
    }
    let agrees = || {
        for (number, (host, port)) in hosts.into_iter().enumerate() {
            let found = folder.keygen(&["-f", "known", "-F", &host_name(host, port)]);
            let all = KnownHosts::load(&file, host, port).expect("a file");
            let counts = Counts { keys: hosts.len() * keys.len(), ..Counts::default() };
            assert_eq!((all.counts(), all.entries.len()), (counts, keys.len()), "of this host alone");
            let types: Vec<&String> = keys.iter().map(|(key_type, _)| key_type).collect();
            assert_eq!(all.types_for(host, port).iter().collect::<Vec<_>>(), types);
            for (at, (key_type, blob)) in keys.iter().enumerate() {
                let line = number * keys.len() + at + 1;
                assert!(found.contains(&format!("found: line {line}")), "{found}");
                assert_eq!(all.check(host, port, key_type, blob), Check::Known { line });
            }
            let all = KnownHosts::load(&file, host, 4).expect("a file");
            assert_eq!(all.check(host, 4, ED, &keys[0].1), Check::Unknown, "at another port");
        }
    };
    agrees();
    folder.keygen(&["-q", "-H", "-f", "known"]);
    let text = folder.read("known");
    assert!(text.lines().all(|line| line.starts_with("|1|")), "not hashed: {text}");
    agrees();
}

/// Files as they come, and hosts that are looked up in them: ours finds the lines that `ssh-keygen -F` finds.
#[test]
fn ssh_keygen_finds_the_same_lines() {
    let folder = Folder::new("same");
    for kind in ["ed25519", "ecdsa"] {
        folder.keygen(&["-q", "-t", kind, "-N", "", "-f", kind]);
    }
    let key = |kind: &str| folder.read(&format!("{kind}.pub")).split(' ').take(2).collect::<Vec<_>>().join(" ");
    let (ed, ec) = (key("ed25519"), key("ecdsa"));
    let blob = STANDARD.decode(ed.split(' ').nth(1).expect("a key")).expect("base64");
    std::fs::write(folder.0.join("hashed"), format!("web {ed}\n[web]:2222 {ed}\n")).expect("written");
    folder.keygen(&["-q", "-H", "-f", "hashed"]);
    let hashed = folder.read("hashed");
    for (what, text) in [
        ("line ends of Windows", format!("other {ed}\r\nweb {ed}\r\n")),
        ("blanks at the end", format!("web {ed}  \t\n")),
        ("blanks at the start", format!(" \tweb {ed}\n")),
        ("a comment after the key", format!("web {ed} root@web # the old one\n")),
        ("hashed and plain", format!("{hashed}web {ed}\n[web]:2222,other {ed}\n")),
        ("port 22 in brackets", format!("[web]:22 {ed}\n")),
        ("large letters", format!("WEB {ed}\n[Web]:2222 {ed}\n")),
        ("twice the same", format!("web {ed}\nweb {ed}\n")),
        ("no last line feed", format!("other {ed}\nweb {ed}")),
        ("an address of version six", format!("::1 {ed}\n[::1]:2222 {ed}\n2001:db8::1 {ed}\n")),
        ("a pattern and its exception", format!("*,!other {ed}\n")),
        ("several kinds", format!("web {ec}\nweb {ed}\n")),
        ("lines that make no sense", format!("#web {ed}\nweb\n\nweb {ed}\n")),
    ] {
        std::fs::write(folder.0.join("known"), &text).expect("written");
        for (host, port) in
            [("web", 22), ("WEB", 22), ("web", 2222), ("other", 22), ("::1", 22), ("::1", 2222), ("2001:db8::1", 22)]
        {
            // It ends with 1 where it finds nothing.
            let mut command = Command::new("ssh-keygen");
            command.args(["-f", "known", "-F", &host_name(host, port)]).current_dir(&folder.0);
            let found = String::from_utf8(command.output().expect("ssh-keygen").stdout).expect("text");
            let theirs = found.lines().filter(|line| line.starts_with("# Host ")).count();
            let all = KnownHosts::parse(&text);
            assert_eq!(all.of(host, port).count(), theirs, "{what}: {host} {port}: {found}");
            let known = matches!(all.check(host, port, ED, &blob), Check::Known { .. });
            assert_eq!(known, found.contains(&ed), "{what}: {host} {port}: {found}");
        }
    }
}

#[test]
fn appending() {
    let folder = Folder::new("append");
    let path = folder.0.join("a/b/known");
    let read = || folder.read("a/b/known");
    append(&path, "one").expect("folders are made");
    assert_eq!(read(), "one\n");
    let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o7133, 0, "{mode:o}: readable for all, writable for the owner alone");
    std::fs::write(&path, "one\ntwo").expect("written");
    append(&path, "three").expect("appended");
    assert_eq!(read(), "one\ntwo\nthree\n");
    append(&path, "two").expect("it is there already");
    append(&path, "thre").expect("a part of another line is another line");
    assert_eq!(read(), "one\ntwo\nthree\nthre\n");
    // Line ends of Windows, a mark before the first line, blanks: the same line all the same.
    std::fs::write(&path, "\u{feff}one\r\ntwo \r\nthree").expect("written");
    for line in ["one", "two", "three"] {
        append(&path, line).expect("it is there already");
    }
    assert_eq!(read(), "\u{feff}one\r\ntwo \r\nthree");
    append(&path, "four").expect("appended");
    assert_eq!(read(), "\u{feff}one\r\ntwo \r\nthree\nfour\n");
    for bad in ["", "a\nb", "a\n", "a\r", "a\0b"] {
        let error = append(&path, bad).expect_err("not one line");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad:?}");
    }
    let missing = KnownHosts::count(&folder.0.join("none")).expect("missing is empty");
    assert_eq!(missing.counts(), Counts::default());
    assert!(KnownHosts::count(&folder.0).is_err(), "a folder is no file");
}

#[test]
fn a_file_without_end_is_refused() {
    let folder = Folder::new("long");
    let path = folder.0.join("known");
    let line = |length: u64| "#".repeat(usize::try_from(length - 1).expect("short")) + "\n";
    let whole = line(1024).repeat(usize::try_from(KNOWN_HOSTS_MAX / 1024).expect("short"));
    for (text, read) in [
        (whole.clone(), true),
        (whole + "#", false),
        (line(KNOWN_HOSTS_LINE_MAX), true),
        (line(KNOWN_HOSTS_LINE_MAX + 1), false),
    ] {
        std::fs::write(&path, &text).expect("written");
        let loaded = KnownHosts::load(&path, "web", 22).map(|all| all.counts());
        assert_eq!(
            loaded.map_err(|error| error.kind()),
            if read { Ok(Counts::default()) } else { Err(io::ErrorKind::FileTooLarge) }
        );
        assert_eq!(append(&path, "one").is_ok(), read && text.len() as u64 <= KNOWN_HOSTS_MAX);
    }
}

/// Lines that are read, of other hosts, and lines that cannot be read: each as short as it can be.
#[test]
fn a_large_file_costs_little_memory() {
    const LARGE: usize = 4 << 20;
    let folder = Folder::new("memory");
    let path = folder.0.join("known");
    for line in [fill("a {ed1}\n"), "@cert-authority a\n".to_owned(), "x\n".to_owned(), fill("\u{feff}b {rsa1}\r\n")] {
        std::fs::write(&path, line.repeat(LARGE / line.len())).expect("written");
        for load in [|path: &Path| KnownHosts::load(path, "web", 22), KnownHosts::count] {
            let (all, most) = peak(|| load(&path).expect("a file"));
            assert!(most < 1 << 20, "{most} bytes for many of {line}");
            assert!(all.skipped().len() <= KNOWN_HOSTS_SKIPPED_SHOWN && all.entries.is_empty());
        }
        let (_, most) = peak(|| append(&path, "one").is_ok());
        assert!(most < 1 << 20, "{most} bytes to append to many of {line}");
    }
}

#[test]
fn a_host_of_too_many_lines_is_refused() {
    let folder = Folder::new("many");
    let path = folder.0.join("known");
    let text = fill("web {ed1}\n").repeat(KNOWN_HOSTS_OF_ONE) + &fill("other {ed1}\n");
    std::fs::write(&path, &text).expect("written");
    assert_eq!(KnownHosts::load(&path, "web", 22).expect("a file").entries.len(), KNOWN_HOSTS_OF_ONE);
    std::fs::write(&path, text + &fill("*eb {ed2}\n")).expect("written");
    let error = KnownHosts::load(&path, "web", 22).expect_err("too many");
    assert!(error.to_string().contains("limits::KNOWN_HOSTS_OF_ONE"), "{error}");
    assert_eq!(KnownHosts::load(&path, "other", 22).expect("of no matter here").entries.len(), 1);
}

#[test]
fn bytes_that_are_no_text_cost_one_line() {
    let folder = Folder::new("bytes");
    let path = folder.0.join("known");
    std::fs::write(&path, [b"\xff\xfe x y\n", fill("web {ed1}").as_bytes()].concat()).expect("written");
    let all = KnownHosts::load(&path, "web", 22).expect("a file");
    assert_eq!((all.types_for("web", 22), all.skipped()[0].line), (vec![ED.to_owned()], 1));
}

#[test]
fn many_append_at_once_and_nothing_is_torn_or_doubled() {
    const THREADS: usize = 8;
    const ROUNDS: usize = 40;
    let folder = Folder::new("many");
    let path = folder.0.join("known");
    let start = std::sync::Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (path, start) = (&path, &start);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    start.wait();
                    append(path, &format!("same-{round}-{}", "x".repeat(500))).expect("appended");
                    append(path, &format!("own-{thread}-{round}-{}", "x".repeat(500))).expect("appended");
                }
            });
        }
    });
    let text = folder.read("known");
    assert_eq!(text.lines().count(), ROUNDS * (THREADS + 1), "each line once");
    assert!(text.lines().all(|line| line.ends_with(&"x".repeat(500))));
}

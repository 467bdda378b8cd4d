//! Keys as `ssh-keygen` and `openssl` make them, and as forms, variables and YAML mangle them.

use std::process::Command;

use super::*;

/// A folder that goes away with the test, and the tools that work in it.
struct Folder(crate::os::scratch::Scratch);

impl Folder {
    fn new() -> Self {
        Self(crate::os::scratch::Scratch::new())
    }

    fn run(&self, command: &str) -> Vec<u8> {
        let mut words = command.split(' ').map(|word| if word == "''" { "" } else { word });
        let output = Command::new(words.next().expect("a program")).args(words).current_dir(&self.0).output();
        let output = output.expect("ssh-keygen and openssl");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).expect("a file")
    }

    /// The public key that `ssh-keygen` finds in this private one.
    fn public(&self, text: &str, passphrase: &str) -> Vec<u8> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join("check");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("private");
        let passphrase = if passphrase.is_empty() { "''" } else { passphrase };
        let public = self.run(&format!("ssh-keygen -y -P {passphrase} -f check"));
        let mut words = public.split(|&byte| byte == b' ');
        [words.next().expect("a type"), words.next().expect("a key").trim_ascii()].concat()
    }
}

fn normal(text: &str) -> Result<String, KeyError> {
    let described = describe(&Secret::new(text));
    let normal = normalize(&Secret::new(text)).map(|key| key.expose().to_owned());
    assert_eq!(described.err(), normal.clone().err(), "describe and normalize differ");
    normal
}

/// What happens to a text on its way.
fn mangled(text: &str) -> Vec<(&'static str, String)> {
    let packed = STANDARD.encode(text);
    let lines: Vec<&str> = packed.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).expect("text")).collect();
    vec![
        ("as it is", text.to_owned()),
        ("CRLF", text.replace('\n', "\r\n")),
        ("CR", text.replace('\n', "\r")),
        ("no newline at the end", text.trim_end().to_owned()),
        ("blanks around", format!("\n\n  {text}\t\n ")),
        ("indented", text.replace('\n', "\n    ")),
        ("blanks at the line ends", text.replace('\n', " \t\n")),
        ("byte order mark", format!("\u{feff}{text}")),
        ("\\n written out", text.replace('\n', "\\n")),
        ("\\r\\n written out", text.replace('\n', "\\r\\n")),
        ("quoted", format!("\"{}\"", text.replace('\n', "\\n"))),
        (
            "words around",
            format!("Bag Attributes\n    x: y\n{text}\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ),
        ("base64", packed.clone()),
        ("base64 without padding", packed.trim_end_matches('=').to_owned()),
        ("base64 in lines", lines.join("\n")),
        ("base64 in CRLF lines", lines.join("\r\n") + "\r\n"),
        ("base64 of CRLF", STANDARD.encode(text.replace('\n', "\r\n"))),
    ]
}

#[test]
fn every_supported_key_in_every_shape() {
    let folder = Folder::new();
    let mut seen = Vec::new();
    for (number, (kind, options)) in [
        ("RSA", "rsa -b 2048"),
        ("ECDSA", "ecdsa -b 256"),
        ("ECDSA", "ecdsa -b 384"),
        ("ECDSA", "ecdsa -b 521"),
        ("Ed25519", "ed25519"),
    ]
    .into_iter()
    .enumerate()
    {
        for (format, option) in [("OpenSSH", ""), ("PEM", " -m PEM"), ("PKCS#8", " -m PKCS8")] {
            for passphrase in ["", "open-sesame"] {
                let (encrypted, file) = (!passphrase.is_empty(), format!("{number}{format}{}", passphrase.len()));
                if kind == "Ed25519" && format != "OpenSSH" {
                    // ssh-keygen always writes these as OpenSSH: openssl makes them below.
                    continue;
                }
                let words = if encrypted { passphrase } else { "''" };
                folder.run(&format!("ssh-keygen -q -t {options}{option} -N {words} -f {file}"));
                let text = folder.read(&file);
                let hidden = encrypted && format == "PKCS#8";
                let want = KeyInfo { kind: if hidden { "unknown" } else { kind }, format, encrypted };
                let clean = normal(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
                assert_eq!(folder.public(&clean, passphrase), folder.public(&text, passphrase), "{file}");
                for (how, shape) in mangled(&text) {
                    assert_eq!(describe(&Secret::new(shape.as_str())), Ok(want), "{file}, {how}");
                    assert_eq!(normal(&shape).as_ref(), Ok(&clean), "{file}, {how}");
                }
                seen.push(clean);
            }
        }
    }
    assert_eq!(seen.len(), 4 * 6 + 2);
    for clean in seen {
        assert!(clean.ends_with("-----\n") && !clean.contains('\r') && clean.lines().all(|line| line.len() <= 64));
        assert_eq!(normal(&clean), Ok(clean.clone()), "clean text stays as it is");
    }
}

#[test]
fn keys_of_openssl() {
    let folder = Folder::new();
    for (command, kind, format, encrypted) in [
        ("openssl genpkey -algorithm ed25519", "Ed25519", "PKCS#8", false),
        ("openssl genpkey -algorithm ed25519 -aes256 -pass pass:sesame", "unknown", "PKCS#8", true),
        ("openssl genrsa -traditional 2048", "RSA", "PEM", false),
        ("openssl genrsa -traditional -aes128 -passout pass:sesame 2048", "RSA", "PEM", true),
        // With a block of parameters before the key.
        ("openssl ecparam -name prime256v1 -genkey", "ECDSA", "PEM", false),
        ("openssl genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-521", "ECDSA", "PKCS#8", false),
    ] {
        let text = String::from_utf8(folder.run(command)).expect("text");
        assert_eq!(describe(&Secret::new(text.as_str())), Ok(KeyInfo { kind, format, encrypted }), "{command}");
        let clean = normal(&text).expect(command);
        let passphrase = if encrypted { "sesame" } else { "" };
        std::fs::write(folder.0.join("clean"), &clean).expect("written");
        let public = folder.run(&format!("openssl pkey -in clean -passin pass:{passphrase} -pubout"));
        std::fs::write(folder.0.join("raw"), &text).expect("written");
        assert_eq!(public, folder.run(&format!("openssl pkey -in raw -passin pass:{passphrase} -pubout")), "{command}");
    }
}

/// A private key in OpenSSH's format, with nothing in it but what can be seen from outside.
fn hollow(key_type: &str, count: u32, private: &[u8]) -> String {
    let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat();
    let parts = [string(b"none"), string(b"none"), string(b""), count.to_be_bytes().to_vec()].concat();
    let bytes = [MAGIC, &parts, &string(&string(key_type.as_bytes())), &string(private)].concat();
    format!("-----BEGIN {OPENSSH}-----\n{}\n-----END {OPENSSH}-----\n", STANDARD.encode(bytes))
}

#[test]
fn what_is_not_supported_is_named() {
    let folder = Folder::new();
    folder.run("ssh-keygen -q -t dsa -N '' -f dsa");
    folder.run("ssh-keygen -q -t dsa -m PEM -N '' -f dsa.pem");
    folder.run("ssh-keygen -q -t dsa -m PKCS8 -N '' -f dsa.p8");
    folder.run("ssh-keygen -q -t ed25519 -N '' -f ed");
    folder.run("ssh-keygen -q -s ed -I id ed.pub");
    folder.run("ssh-keygen -q -t rsa -b 2048 -m PEM -N '' -f rsa");
    let made = |command: &str| String::from_utf8(folder.run(command)).expect("text");
    let key = folder.read("ed");
    let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let rsa: String = folder.read("rsa").lines().filter(|line| !line.starts_with('-')).collect();
    for (name, text, error) in [
        ("nothing", String::new(), KeyError::Empty),
        ("blanks", " \r\n\\n\t".to_owned(), KeyError::Empty),
        ("a flood", "A".repeat(PRIVATE_KEY_MAX + 1), KeyError::TooLong),
        ("DSA", folder.read("dsa"), KeyError::Dsa),
        ("DSA as PEM", folder.read("dsa.pem"), KeyError::Dsa),
        ("DSA as PKCS#8", folder.read("dsa.p8"), KeyError::Dsa),
        ("PuTTY", "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n".to_owned(), KeyError::Putty),
        ("public", folder.read("ed.pub"), KeyError::PublicKey),
        ("public with options", format!("from=\"10.0.0.1\" {}", folder.read("ed.pub")), KeyError::PublicKey),
        ("public FIDO", "sk-ssh-ed25519@openssh.com AAAAGnNr x".to_owned(), KeyError::PublicKey),
        ("public, RFC 4716", made("ssh-keygen -e -f ed.pub"), KeyError::PublicKey),
        ("public, PKCS#8", made("ssh-keygen -e -m PKCS8 -f rsa.pub"), KeyError::PublicKey),
        ("public, PEM", made("ssh-keygen -e -m PEM -f rsa.pub"), KeyError::PublicKey),
        ("SSH certificate", folder.read("ed-cert.pub"), KeyError::Certificate),
        ("X.509", made("openssl req -x509 -key rsa -subj /CN=x"), KeyError::X509),
        ("X.509 request", made("openssl req -new -key rsa -subj /CN=x"), KeyError::X509),
        ("FIDO", hollow("sk-ssh-ed25519@openssh.com", 1, b"x"), KeyError::Fido),
        ("FIDO ECDSA", hollow("sk-ecdsa-sha2-nistp256@openssh.com", 1, b"x"), KeyError::Fido),
        ("XMSS", hollow("ssh-xmss@openssh.com", 1, b"x"), KeyError::Kind),
        ("SSH1", "SSH PRIVATE KEY FILE FORMAT 1.1\n\0\0".to_owned(), KeyError::Ssh1),
        ("SSH1 in base64", STANDARD.encode(b"SSH PRIVATE KEY FILE FORMAT 1.1\n\0\xff\xfe"), KeyError::Ssh1),
        ("ssh.com", "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nAA\n".to_owned(), KeyError::SshCom),
        ("Ed448", made("openssl genpkey -algorithm ed448"), KeyError::Kind),
        ("another curve", made("openssl genpkey -algorithm ec -pkeyopt ec_paramgen_curve:secp256k1"), KeyError::Curve),
        ("another curve as PEM", made("openssl ecparam -name secp256k1 -genkey"), KeyError::Curve),
        ("another PEM key", "-----BEGIN ANY PRIVATE KEY-----".to_owned(), KeyError::Kind),
        ("OpenSSH without its lines", body.clone(), KeyError::NoFrame),
        ("PEM without its lines", rsa, KeyError::NoFrame),
        ("a path", "/root/.ssh/id_ed25519".to_owned(), KeyError::Path),
        ("a path at home", "~/.ssh/id_rsa\n".to_owned(), KeyError::Path),
        ("words", "hunter2 is my password".to_owned(), KeyError::Unknown),
        ("a word in base64", STANDARD.encode("hunter2"), KeyError::Unknown),
        ("wrapped twice", STANDARD.encode(STANDARD.encode(&key)), KeyError::Unknown),
    ] {
        assert_eq!(normal(&text), Err(error), "{name}");
        let shallow = [KeyError::Empty, KeyError::TooLong, KeyError::NoFrame, KeyError::Path, KeyError::Unknown];
        if !shallow.contains(&error) && !name.contains("base64") {
            assert_eq!(normal(&STANDARD.encode(&text)), Err(error), "{name}, in base64");
        }
        let told = error.to_string();
        assert!(
            told.starts_with("the private key ") && !told.contains("hunter2") && !told.contains(&body[..20]),
            "{told}"
        );
    }
}

#[test]
fn what_is_damaged() {
    let folder = Folder::new();
    folder.run("ssh-keygen -q -t ed25519 -N '' -f ed");
    folder.run("ssh-keygen -q -t ecdsa -m PEM -N secret -f ec");
    folder.run("ssh-keygen -q -t ecdsa -m PEM -N '' -f plain");
    folder.run("ssh-keygen -q -t ecdsa -m PKCS8 -N '' -f p8");
    let key = folder.read("ed");
    for (name, text, part) in [
        ("no END", key.replace("-----END", "-----ENDE"), "END line"),
        ("cut in the middle", key[..key.len() / 2].to_owned(), "END line"),
        ("nothing inside", format!("-----BEGIN {OPENSSH}-----\n-----END {OPENSSH}-----"), "nothing is between"),
        ("headers on one line", folder.read("ec").replace('\n', " "), "line breaks"),
        ("stars", key.replace("b3BlbnNz", "********"), "not base64"),
        ("redacted", format!("-----BEGIN {OPENSSH}-----\nAAAA\n-----END {OPENSSH}-----"), "ends too early"),
        ("two keys", hollow("ssh-ed25519", 2, b"x"), "one key"),
        ("no private half", hollow("ssh-ed25519", 1, b""), "ends too early"),
    ] {
        let Err(KeyError::Damaged(what)) = normal(&text) else { panic!("{name}: {:?}", normal(&text)) };
        assert!(what.contains(part), "{name}: {what}");
    }
    // A line that is lost, in each format that can be seen into.
    for file in ["ed", "plain", "p8"] {
        let text = folder.read(file);
        let lines: Vec<&str> = text.lines().collect();
        let short = [&lines[..1], &lines[2..]].concat().join("\n");
        assert!(matches!(normal(&short), Err(KeyError::Damaged(_))), "{file}");
        let short = [&lines[..lines.len() - 2], &lines[lines.len() - 1..]].concat().join("\n");
        assert!(matches!(normal(&short), Err(KeyError::Damaged(_))), "{file}");
    }
}

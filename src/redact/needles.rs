//! The spellings in which a secret may be printed.
//!
//! | spelling | how |
//! | --- | --- |
//! | as it is | without space around it; with `\n` and with `\r\n` |
//! | each line | of a value with several, but for lines such as `-----BEGIN …` |
//! | base64 | at its three alignments, in both alphabets; the lines of 76 and 64 characters of `base64` and `openssl` |
//! | percent | as RFC 3986, JavaScript, Python and forms have it, in both cases |
//! | JSON | as it is, with `\uXXXX`, with `\/` |
//! | shell | in single and double quotes, with backslashes, in `$'…'` |
//! | hex | in both cases |

use std::collections::HashSet;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::limits;

/// Why a value is not redacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It has fewer than `limits::REDACT_SHORTEST` bytes.
    Short,
    /// It is a word that texts are full of.
    Common,
}

/// Words that may be the value of a variable with a secret's name and are none.
const COMMON: &[&str] = &[
    "access",
    "active",
    "always",
    "bearer",
    "changeme",
    "client",
    "cluster",
    "cronium",
    "database",
    "debian",
    "default",
    "develop",
    "development",
    "disable",
    "disabled",
    "docker",
    "enable",
    "enabled",
    "example",
    "export",
    "github",
    "gitlab",
    "google",
    "inherit",
    "instance",
    "internal",
    "invalid",
    "latest",
    "localhost",
    "master",
    "memory",
    "mongodb",
    "nobody",
    "normal",
    "number",
    "optional",
    "password",
    "postgres",
    "primary",
    "private",
    "production",
    "public",
    "readonly",
    "remote",
    "replica",
    "required",
    "script",
    "secret",
    "secrets",
    "server",
    "service",
    "session",
    "staging",
    "standard",
    "status",
    "string",
    "system",
    "testing",
    "ubuntu",
    "undefined",
    "unknown",
    "unlimited",
    "username",
    "verify",
    "version",
];

/// The value without space around it, if it can be redacted.
pub(super) fn fit(value: &str) -> Result<&str, Unfit> {
    let value = value.trim();
    if value.len() < limits::REDACT_SHORTEST {
        return Err(Unfit::Short);
    }
    if COMMON.contains(&value.to_ascii_lowercase().as_str()) { Err(Unfit::Common) } else { Ok(value) }
}

/// The needles of all values, within `limits::REDACT_BYTES`; whether that was enough. The plain spellings go first.
pub(super) fn of(values: &[&str]) -> (Vec<Vec<u8>>, bool) {
    let mut all = Needles { seen: HashSet::new(), bytes: 0, whole: true };
    values.iter().for_each(|value| plain(value, &mut |needle| all.add(needle)));
    values.iter().for_each(|value| encoded(value, &mut |needle| all.add(needle)));
    (all.seen.into_iter().collect(), all.whole)
}

struct Needles {
    seen: HashSet<Vec<u8>>,
    bytes: usize,
    whole: bool,
}

impl Needles {
    /// A long needle is taken in pieces, which lie side by side where it is printed.
    fn add(&mut self, needle: &[u8]) {
        let mut rest = needle;
        while rest.len() > limits::REDACT_NEEDLE {
            // Not so that what is left is too short to be known.
            let (piece, after) = rest.split_at(limits::REDACT_NEEDLE - limits::REDACT_SHORTEST);
            self.add_piece(piece);
            rest = after;
        }
        self.add_piece(rest);
    }

    fn add_piece(&mut self, piece: &[u8]) {
        if piece.len() < limits::REDACT_SHORTEST || self.seen.contains(piece) {
            return;
        }
        if self.bytes + piece.len() > limits::REDACT_BYTES {
            self.whole = false;
            return;
        }
        self.bytes += piece.len();
        self.seen.insert(piece.to_vec());
    }
}

/// A value as it is, and each of its lines.
fn plain(value: &str, add: &mut dyn FnMut(&[u8])) {
    add(value.as_bytes());
    if !value.contains('\n') {
        return;
    }
    let lines: Vec<&str> = value.lines().collect();
    add(lines.join("\n").as_bytes());
    add(lines.join("\r\n").as_bytes());
    for line in lines {
        // The frame of a key is no secret, and other keys have the same.
        if let Ok(line) = fit(line)
            && !line.starts_with("-----")
        {
            add(line.as_bytes());
            texts(line, add);
        }
    }
}

fn encoded(value: &str, add: &mut dyn FnMut(&[u8])) {
    texts(value, add);
    let bytes = value.as_bytes();
    base64(bytes, add);
    for hex in [hex(bytes, false), hex(bytes, true)] {
        add(hex.as_bytes());
    }
    for keep in [&b"-_.~"[..], b"-_.~/", b"-_.!~*'()", b"-_.!~*'();/?:@&=+$,#"] {
        add(percent(bytes, keep, false, true).as_bytes());
        add(percent(bytes, keep, false, false).as_bytes());
    }
    for keep in [&b"-_.~"[..], b"-_.*"] {
        add(percent(bytes, keep, true, true).as_bytes());
        add(percent(bytes, keep, true, false).as_bytes());
    }
}

/// The escapes of JSON and of shells.
fn texts(value: &str, add: &mut dyn FnMut(&[u8])) {
    let json = serde_json::to_string(value).unwrap_or_default();
    let json = json.get(1..json.len() - 1).unwrap_or_default();
    add(json.as_bytes());
    add(json.replace('/', "\\/").as_bytes());
    let ascii = ascii(json);
    add(ascii.as_bytes());
    add(ascii.replace('/', "\\/").as_bytes());
    add(value.replace('\'', r"'\''").as_bytes());
    add(value.replace('\'', r#"'"'"'"#).as_bytes());
    add(escaped(value, |c| matches!(c, '"' | '\\' | '$' | '`')).as_bytes());
    let free = |c: char| c.is_alphanumeric() || !c.is_ascii() || "%+-./:=@_,^".contains(c);
    add(escaped(value, |c| !free(c)).as_bytes());
    add(escaped(value, |c| !free(c) || matches!(c, ',' | '^')).as_bytes());
    add(json.replace("\\\"", "\"").replace('\'', "\\'").as_bytes());
}

/// JSON's text with `\uXXXX` for what is not ASCII.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing into a `String` does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

fn escaped(value: &str, special: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if special(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn hex(bytes: &[u8], upper: bool) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = if upper { write!(out, "{byte:02X}") } else { write!(out, "{byte:02x}") };
    }
    out
}

fn percent(bytes: &[u8], keep: &[u8], plus: bool, upper: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b' ' if plus => out.push('+'),
            _ if byte.is_ascii_alphanumeric() || keep.contains(&byte) => out.push(char::from(byte)),
            _ => {
                let _ = if upper { write!(out, "%{byte:02X}") } else { write!(out, "%{byte:02x}") };
            }
        }
    }
    out
}

/// What base64 makes of the bytes wherever they lie in what is encoded: the characters that depend on them alone.
fn base64(bytes: &[u8], add: &mut dyn FnMut(&[u8])) {
    for engine in [&STANDARD, &URL_SAFE] {
        for before in 0..3 {
            let text = engine.encode([&[0; 2][..before], bytes].concat());
            let whole = &text[(before * 8).div_ceil(6)..(before + bytes.len()) * 8 / 6];
            add(whole.as_bytes());
            if before == 0 {
                for width in [76, 64] {
                    whole.as_bytes().chunks(width).for_each(&mut *add);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(value: &str) -> Vec<String> {
        let (needles, whole) = of(&[value]);
        assert!(whole);
        needles.into_iter().map(|needle| String::from_utf8(needle).expect("text")).collect()
    }

    #[test]
    fn the_spellings_of_a_value() {
        let spellings = all("p@ss 'w\"ö/$x");
        for want in [
            "p@ss 'w\"ö/$x",
            "p%40ss%20%27w%22%C3%B6%2F%24x",
            "p%40ss%20%27w%22%c3%b6%2f%24x",
            "p%40ss%20'w%22%C3%B6%2F%24x",
            "p%40ss+%27w%22%C3%B6%2F%24x",
            "p@ss%20'w%22%C3%B6/$x",
            "p@ss 'w\\\"ö/$x",
            "p@ss 'w\\\"ö\\/$x",
            "p@ss 'w\\\"\\u00f6/$x",
            "p@ss '\\''w\"ö/$x",
            "p@ss '\"'\"'w\"ö/$x",
            "p@ss 'w\\\"ö/\\$x",
            "p@ss\\ \\'w\\\"ö/\\$x",
            "p@ss \\'w\"ö/$x",
            "70407373202777 22c3b62f2478".replace(' ', "").as_str(),
            "70407373202777 22C3B62F2478".replace(' ', "").as_str(),
        ] {
            assert!(spellings.iter().any(|spelling| spelling == want), "{want} is not among {spellings:#?}");
        }
    }

    #[test]
    fn base64_is_known_whatever_stands_before_and_after() {
        let value = "s3cr3t~value>?";
        for engine in [&STANDARD, &URL_SAFE] {
            for before in ["", "u", "us", "user:", "someone:"] {
                for after in ["", "\n", "@host"] {
                    let text = engine.encode(format!("{before}{value}{after}"));
                    assert!(all(value).iter().any(|needle| text.contains(needle)), "{before} {after}");
                }
            }
        }
        let long = "0123456789".repeat(20);
        for width in [76, 64] {
            let text = STANDARD.encode(format!("{long}\n"));
            for line in text.as_bytes().chunks(width) {
                let line = String::from_utf8(line.to_vec()).expect("text");
                assert!(all(&long).iter().any(|needle| line.contains(needle)), "{line}");
            }
        }
    }

    #[test]
    fn each_line_is_known_but_for_the_frame_of_a_key() {
        let key = "-----BEGIN KEY-----\nb3BlbnNzaC1r\nabc\n  indented-line\n-----END KEY-----\n";
        let spellings = all(fit(key).expect("a value"));
        for want in ["b3BlbnNzaC1r", "indented-line"] {
            assert!(spellings.iter().any(|spelling| spelling == want), "{want}");
        }
        for free in ["abc", "-----BEGIN KEY-----", "-----END KEY-----"] {
            assert!(!spellings.iter().any(|spelling| spelling == free), "{free}");
        }
        assert!(spellings.iter().any(|spelling| spelling.contains("-----\r\nb3Blbn")));
    }

    #[test]
    fn what_is_short_or_common_is_unfit() {
        for (value, want) in [
            (" abc12\n", Err(Unfit::Short)),
            ("", Err(Unfit::Short)),
            ("Production", Err(Unfit::Common)),
            (" s3cret\n", Ok("s3cret")),
        ] {
            assert_eq!(fit(value), want, "{value:?}");
        }
        assert!(COMMON.is_sorted() && COMMON.iter().all(|word| word.len() >= limits::REDACT_SHORTEST));
    }

    #[test]
    fn long_needles_come_in_pieces_and_all_of_them_have_a_bound() {
        let long: String = (0..20_000).map(|n| format!("{n:x}.")).collect();
        let (needles, whole) = of(&[&long]);
        assert!(needles.iter().all(|needle| needle.len() <= limits::REDACT_NEEDLE));
        assert!(!whole && needles.iter().map(Vec::len).sum::<usize>() <= limits::REDACT_BYTES);
        let at = limits::REDACT_NEEDLE - limits::REDACT_SHORTEST;
        assert!(needles.iter().any(|needle| long.as_bytes()[at..].starts_with(needle)), "the second piece");
    }
}

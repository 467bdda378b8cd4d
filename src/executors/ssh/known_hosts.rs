//! Which key a server must have: OpenSSH's `known_hosts` (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
//!
//! Ours and not libssh2's reader, since an operator must be told the line that a key differs from, and since that one
//! knows neither patterns, nor `@revoked`, nor several keys of one host. Names are compared as OpenSSH does: without regard
//! to case, a port other than 22 as `[host]:port`, `*` and `?` in a pattern, `!` before a name that is excluded. Unlike
//! OpenSSH's client, a host at another port is not also looked up by its plain name, and an IPv6 address is found by any of
//! its spellings.
//!
//! A line that cannot be read is skipped and reported; it never makes the file unreadable. Certificates are not
//! supported: `@cert-authority` lines are kept, so that it can be said why a host is unknown.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::Ipv6Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::{digest, hmac};

use crate::limits::{KNOWN_HOSTS_LINE_MAX, KNOWN_HOSTS_MAX, KNOWN_HOSTS_OF_ONE, KNOWN_HOSTS_SKIPPED_SHOWN};

const SSH_PORT: u16 = 22;
/// Characters of a type's name (RFC 4251, section 6).
const TYPE_MAX: usize = 64;

/// What the file says about one key that a server showed. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The host has this very key.
    Known { line: usize },
    /// No line speaks of this host.
    Unknown,
    /// Lines speak of this host, by keys of other types alone. Strict checking refuses it; that these types were not
    /// offered may mean that somebody else answers.
    OtherTypes(Vec<(usize, String)>),
    /// The key must not be trusted, whatever other lines say.
    Revoked { line: usize },
    /// The host is known by another key of this type: the first such line, and both keys as [`fingerprint`] gives them.
    Mismatch { line: usize, known_type: String, known_fingerprint: String, offered_fingerprint: String },
}

/// A line that was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    pub line: usize,
    pub why: &'static str,
}

#[derive(Debug)]
enum Names {
    /// HMAC-SHA1 of the name under a salt.
    Hashed { salt: Vec<u8>, hash: Vec<u8> },
    /// Patterns in lower case; whether each is excluded.
    Patterns(Vec<(bool, String)>),
}

#[derive(Debug)]
struct Entry {
    line: usize,
    revoked: bool,
    names: Names,
    key_type: String,
    blob: Vec<u8>,
}

/// What a file says of one host, and how many lines it has for all.
#[derive(Debug, Default)]
pub struct KnownHosts {
    entries: Vec<Entry>,
    /// Lines of certificate authorities, which are not supported, and the names that they are for.
    authorities: Vec<(usize, Names)>,
    /// The first [`KNOWN_HOSTS_SKIPPED_SHOWN`] lines that were left out.
    skipped: Vec<Skipped>,
    counts: Counts,
}

/// Lines of a file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Keys that were read, revoked ones included.
    pub keys: usize,
    /// `@cert-authority` lines, which are not supported.
    pub authorities: usize,
    /// Lines that were left out.
    pub skipped: usize,
}

impl KnownHosts {
    /// Reads what a file says of this host; one that is missing is empty. Bytes that are not UTF-8 cost their own line at
    /// most. Of other hosts nothing is kept, so that a large file costs little memory.
    pub fn load(path: &Path, host: &str, port: u16) -> io::Result<Self> {
        let spellings = spellings(host, port);
        Self::read(path, &|names| spellings.iter().any(|name| names.hold(name)))
    }

    /// Counts a file's lines; nothing is kept of any host.
    pub fn count(path: &Path) -> io::Result<Self> {
        Self::read(path, &|_| false)
    }

    fn read(path: &Path, wanted: &dyn Fn(&Names) -> bool) -> io::Result<Self> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other?,
        };
        let mut all = Self::default();
        each_line(&file, &mut |line, bytes| {
            all.take(line, &String::from_utf8_lossy(bytes), wanted);
            if all.entries.len() + all.authorities.len() <= KNOWN_HOSTS_OF_ONE {
                return Ok(());
            }
            let what =
                format!("more than {KNOWN_HOSTS_OF_ONE} of its lines are of this host (limits::KNOWN_HOSTS_OF_ONE)");
            Err(io::Error::new(io::ErrorKind::FileTooLarge, what))
        })?;
        Ok(all)
    }

    fn take(&mut self, line: usize, text: &str, wanted: &dyn Fn(&Names) -> bool) {
        let text = text.trim_matches([' ', '\t', '\r']);
        if text.is_empty() || text.starts_with('#') {
            return;
        }
        match entry(line, text) {
            Ok(Line::Key(entry)) => {
                self.counts.keys += 1;
                if wanted(&entry.names) {
                    self.entries.push(entry);
                }
            }
            Ok(Line::Authority(names)) => {
                self.counts.authorities += 1;
                if wanted(&names) {
                    self.authorities.push((line, names));
                }
            }
            Err(why) => {
                self.counts.skipped += 1;
                if self.skipped.len() < KNOWN_HOSTS_SKIPPED_SHOWN {
                    self.skipped.push(Skipped { line, why });
                }
            }
        }
    }

    /// What the file says of the key `key_blob` (in the protocol's encoding) of type `key_type` (as in that encoding:
    /// `ssh-rsa`, not the name of a signature), shown by `host`.
    pub fn check(&self, host: &str, port: u16, key_type: &str, key_blob: &[u8]) -> Check {
        let entries: Vec<&Entry> = self.of(host, port).collect();
        let find = |revoked| entries.iter().find(|entry| entry.revoked == revoked && entry.blob == key_blob);
        if let Some(entry) = find(true) {
            return Check::Revoked { line: entry.line };
        }
        if let Some(entry) = find(false) {
            return Check::Known { line: entry.line };
        }
        let known = || entries.iter().filter(|entry| !entry.revoked);
        if let Some(entry) = known().find(|entry| entry.key_type == key_type) {
            return Check::Mismatch {
                line: entry.line,
                known_type: entry.key_type.clone(),
                known_fingerprint: fingerprint(&entry.blob),
                offered_fingerprint: fingerprint(key_blob),
            };
        }
        let others: Vec<_> = known().map(|entry| (entry.line, entry.key_type.clone())).collect();
        if others.is_empty() { Check::Unknown } else { Check::OtherTypes(others) }
    }

    /// The types of the keys that this host is known by, in the file's order, each once: what to ask the host for first.
    pub fn types_for(&self, host: &str, port: u16) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let known = self.of(host, port).filter(|entry| !entry.revoked);
        known.filter(|entry| seen.insert(&entry.key_type)).map(|entry| entry.key_type.clone()).collect()
    }

    /// The first [`KNOWN_HOSTS_SKIPPED_SHOWN`] lines that were left out.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// How many lines the file has.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The first `@cert-authority` line for this host, which is not supported.
    pub fn authority_for(&self, host: &str, port: u16) -> Option<usize> {
        let spellings = spellings(host, port);
        let means = |names: &Names| spellings.iter().any(|name| names.hold(name));
        self.authorities.iter().find(|(_, names)| means(names)).map(|(line, _)| *line)
    }

    fn of(&self, host: &str, port: u16) -> impl Iterator<Item = &Entry> {
        let spellings = spellings(host, port);
        self.entries.iter().filter(move |entry| spellings.iter().any(|name| entry.names.hold(name)))
    }
}

impl Names {
    /// Whether they mean `name`, which is in lower case.
    fn hold(&self, name: &str) -> bool {
        match self {
            Self::Hashed { salt, hash } => {
                let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
                hmac::verify(&key, name.as_bytes(), hash).is_ok()
            }
            Self::Patterns(all) => {
                let matching = |excluded| all.iter().any(|(not, pattern)| *not == excluded && glob(pattern, name));
                matching(false) && !matching(true)
            }
        }
    }
}

enum Line {
    Key(Entry),
    Authority(Names),
}

/// One line that is neither empty nor a comment.
fn entry(line: usize, text: &str) -> Result<Line, &'static str> {
    let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty());
    let mut next = |why| words.next().ok_or(why);
    let mut first = next("it is empty")?;
    let (mut revoked, mut authority) = (false, false);
    if first.starts_with('@') {
        match first {
            "@revoked" => revoked = true,
            "@cert-authority" => authority = true,
            _ => return Err("its marker is neither @revoked nor @cert-authority"),
        }
        first = next("it ends after its marker")?;
    }
    if authority {
        return names(first).map(Line::Authority);
    }
    let (key_type, key) = (next("it has no key")?, next("it has no key after its type")?);
    if key_type.len() > TYPE_MAX {
        return Err("its type has more than 64 characters");
    }
    if key_type.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("it holds a key of SSH protocol 1");
    }
    let blob = STANDARD.decode(key).map_err(|_| "its key is not base64")?;
    if type_of(&blob) != Some(key_type) {
        return Err("its key is of another type than it says");
    }
    if key_type.contains("-cert-v") {
        return Err("it holds a certificate, where the host's plain key belongs");
    }
    Ok(Line::Key(Entry { line, revoked, names: names(first)?, key_type: key_type.to_owned(), blob }))
}

fn names(text: &str) -> Result<Names, &'static str> {
    if let Some(hashed) = text.strip_prefix('|') {
        let parts = hashed.strip_prefix("1|").and_then(|parts| parts.split_once('|'));
        let (salt, hash) = parts.ok_or("its hashed name is not of the form |1|salt|hash")?;
        let bytes = |text| STANDARD.decode(text).map_err(|_| "its hashed name is not base64");
        let (salt, hash) = (bytes(salt)?, bytes(hash)?);
        let whole = !salt.is_empty() && hash.len() == digest::SHA1_OUTPUT_LEN;
        return if whole { Ok(Names::Hashed { salt, hash }) } else { Err("its hashed name has a wrong length") };
    }
    let pattern = |text: &str| {
        let excluded = text.strip_prefix('!');
        let name = excluded.unwrap_or(text).to_ascii_lowercase();
        (excluded.is_some(), canonical(&name).unwrap_or(name))
    };
    Ok(Names::Patterns(text.split(',').map(pattern).filter(|(_, text)| !text.is_empty()).collect()))
}

/// The type that a key in the protocol's encoding names.
fn type_of(blob: &[u8]) -> Option<&str> {
    let (length, rest) = blob.split_first_chunk::<4>()?;
    let name = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    std::str::from_utf8(name).ok()
}

/// Whether `pattern` with `*` and `?` is all of `text`. Goes back to the last star alone, so that many of them cost no
/// more than the product of both lengths.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                star = Some((p, t));
                p += 1;
            }
            (Some(&byte), _) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            (_, Some((at, from))) => {
                star = Some((at, from + 1));
                (p, t) = (at + 1, from + 1);
            }
            _ => return false,
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// A key as people compare it: `SHA256:` and unpadded base64, as `ssh-keygen -l` shows it.
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest::digest(&digest::SHA256, blob)))
}

/// A host as the file names it: in lower case, with a port other than 22 as `[host]:port`.
pub fn host_name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == SSH_PORT { host } else { format!("[{host}]:{port}") }
}

/// The names to look a host up by: as it is given, and an IPv6 address also in its one canonical form.
fn spellings(host: &str, port: u16) -> Vec<String> {
    let given = host_name(host, port);
    let canonical = canonical(&given).filter(|name| *name != given);
    std::iter::once(given).chain(canonical).collect()
}

/// The canonical form (RFC 5952) of a name in lower case that is an IPv6 address, with or without a port.
fn canonical(name: &str) -> Option<String> {
    let address = |text: &str| text.parse::<Ipv6Addr>().ok();
    match name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, port)) => address(inside).map(|address| format!("[{address}]{port}")),
        None => address(name).map(|address| address.to_string()),
    }
}

/// The line that makes this key known, without its end.
pub fn line(host: &str, port: u16, key_type: &str, blob: &[u8]) -> String {
    format!("{} {key_type} {}", host_name(host, port), STANDARD.encode(blob))
}

/// Adds a line to the file, which is created when it is missing, folders included, and is on the disk when this returns.
/// A line that the file has already is not added again. Others who add at the same time wait for each other.
pub fn append(path: &Path, line: &str) -> io::Result<()> {
    if line.is_empty() || line.contains(['\n', '\r', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a known_hosts entry must be one line"));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o644).open(path)?;
    // The lock ends when the file is closed.
    file.lock()?;
    let mut known = false;
    let ended = each_line(&file, &mut |_, other| {
        known |= other.trim_ascii() == line.as_bytes();
        Ok(())
    })?;
    if known {
        return Ok(());
    }
    let start = if ended { "" } else { "\n" };
    file.seek(SeekFrom::End(0))?;
    file.write_all(format!("{start}{line}\n").as_bytes())?;
    file.sync_all()
}

/// Hands each line on with its number, without its end, and without the mark that editors of other systems put before
/// the first. Whether the last line has an end.
fn each_line(file: &File, take: &mut dyn FnMut(usize, &[u8]) -> io::Result<()>) -> io::Result<bool> {
    let too_much = |what: String| io::Error::new(io::ErrorKind::FileTooLarge, what);
    let mut reader = BufReader::new(file);
    let (mut line, mut whole) = (Vec::new(), 0);
    for number in 1.. {
        line.clear();
        let read = reader.by_ref().take(KNOWN_HOSTS_LINE_MAX + 1).read_until(b'\n', &mut line)? as u64;
        whole += read;
        if whole > KNOWN_HOSTS_MAX {
            return Err(too_much(format!("the file has more than {KNOWN_HOSTS_MAX} bytes (limits::KNOWN_HOSTS_MAX)")));
        }
        if read > KNOWN_HOSTS_LINE_MAX {
            let most = format!("{KNOWN_HOSTS_LINE_MAX} bytes (limits::KNOWN_HOSTS_LINE_MAX)");
            return Err(too_much(format!("line {number} has more than {most}")));
        }
        let ended = line.last() == Some(&b'\n');
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if read > 0 {
            take(number, text.strip_prefix("\u{feff}".as_bytes()).filter(|_| number == 1).unwrap_or(text))?;
        }
        if !ended {
            return Ok(read == 0);
        }
    }
    Ok(true)
}

#[cfg(test)]
#[path = "known_hosts_tests.rs"]
mod tests;

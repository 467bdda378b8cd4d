//! `sign`: makes keys, signs jobs, checks signatures and lists scripts. docs/signing.md says how to use it.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::api;
use crate::cli::{UsageError, exit, print};
use crate::config::types::HostTable;
use crate::config::value::parse_duration;
use crate::job::{Claim, Id, Job, Language};
use crate::limits;
use crate::secret::Secret;
use crate::signing::check::{Terms, verify};
use crate::signing::sign::SigningKey;
use crate::signing::{keys, sha256};

const USAGE: &str = "usage: cronium-agent sign keygen NAME --key FILE | sign job FILE --key FILE --name NAME [--expires TIME] | \
                     sign verify FILE --keys FILE | sign scripts FILE-OR-FOLDER";

/// What was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Makes the private key `key`, and prints the line for the file of keys.
    Keygen { name: String, key: PathBuf },
    /// Prints the job of `file` with a signature.
    Job { file: String, key: PathBuf, name: String, expires: Option<Duration> },
    /// Says who signed the job of `file`.
    Verify { file: String, keys: PathBuf },
    /// Prints the lines for a list of allowed scripts.
    Scripts { path: PathBuf },
}

/// The flags of this command, as typed.
#[derive(Debug, Default)]
pub(in crate::cli) struct Flags {
    pub(in crate::cli) key: Option<PathBuf>,
    pub(in crate::cli) keys: Option<PathBuf>,
    pub(in crate::cli) name: Option<String>,
    pub(in crate::cli) expires: Option<String>,
}

impl Request {
    /// Reads the words after the command.
    pub(in crate::cli) fn new(verb: &str, word: &str, flags: Flags) -> Result<Self, UsageError> {
        let file = word.to_owned();
        match (verb, word, flags) {
            ("keygen", name, Flags { key: Some(key), keys: None, name: None, expires: None }) => {
                keys::check_name(name).map_err(UsageError)?;
                Ok(Self::Keygen { name: file, key })
            }
            ("job", word, Flags { key: Some(key), keys: None, name: Some(name), expires }) if !word.is_empty() => {
                keys::check_name(&name).map_err(UsageError)?;
                let expires = expires.map(|text| {
                    let wrong = || UsageError(format!("--expires takes a time such as 24h, not {text:?}"));
                    parse_duration(&text).filter(|time| !time.is_zero()).ok_or_else(wrong)
                });
                Ok(Self::Job { file, key, name, expires: expires.transpose()? })
            }
            ("verify", word, Flags { key: None, keys: Some(keys), name: None, expires: None }) if !word.is_empty() => {
                Ok(Self::Verify { file, keys })
            }
            ("scripts", word, Flags { key: None, keys: None, name: None, expires: None }) if !word.is_empty() => {
                Ok(Self::Scripts { path: word.into() })
            }
            _ => Err(UsageError(USAGE.to_owned())),
        }
    }
}

/// Does it; gives the program's exit code.
pub fn run(request: &Request) -> u8 {
    let done = match request {
        Request::Keygen { name, key } => keygen(name, key),
        Request::Job { file, key, name, expires } => sign(file, key, name, *expires),
        Request::Verify { file, keys } => check(file, keys),
        Request::Scripts { path } => scripts(path),
    };
    match done {
        Ok(text) => print::out(&text),
        Err(why) => print::say(why, exit::FAILED),
    }
}

fn keygen(name: &str, path: &Path) -> Result<String, String> {
    let (key, pem) = SigningKey::make()?;
    let mut options = OpenOptions::new();
    let written = options.write(true).create_new(true).mode(0o600).open(path);
    written.and_then(|mut file| file.write_all(pem.expose().as_bytes()).and_then(|()| file.sync_all())).map_err(
        |error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => format!("{} exists already; it was not changed", path.display()),
            _ => format!("cannot write {}: {error}", path.display()),
        },
    )?;
    print::err(&format!(
        "wrote the private key {}; keep it where jobs are signed. The line for security.signatures.keys:\n",
        path.display()
    ));
    Ok(key.line(name) + "\n")
}

fn sign(file: &str, key: &Path, name: &str, expires: Option<Duration>) -> Result<String, String> {
    let pem = Secret::new(read(&key.display().to_string(), limits::QUEUE_ROW_MAX)?);
    let key = SigningKey::of_pem(&pem).map_err(|why| format!("cannot sign with {}: {why}", key.display()))?;
    let text = read(file, limits::QUEUE_ROW_MAX)?;
    let mut row: Value = serde_json::from_str(&text).map_err(|error| format!("{file} is not JSON: {error}"))?;
    let Some(members) = row.as_object_mut() else { return Err(format!("{file} is no JSON object")) };
    // A signature that it has already is replaced.
    members.remove("signature");
    if let Some(Value::Object(execution)) = members.get_mut("execution") {
        execution.remove("signature");
    }
    let job = job_of(&row.to_string(), file)?;
    let now = SystemTime::now();
    let signature = key.sign(&job, name, (now, expires.map(|length| now + length)));
    let signature = signature.map_err(|why| format!("the job of {file} cannot be signed: {why}"))?;
    let mut shown = json!({"version": 1, "algorithm": "ed25519", "keyId": signature.key_id,
                           "signedAt": signature.signed_at, "value": signature.value});
    if let Some(expires) = signature.expires_at {
        shown["expiresAt"] = expires.into();
    }
    row["signature"] = shown;
    // As an agent reads it: what cannot count there is not given out.
    if let Some(Err(why)) = job_of(&row.to_string(), file)?.signature {
        return Err(format!("the job of {file} cannot be signed: {why}"));
    }
    Ok(format!("{row:#}\n"))
}

fn check(file: &str, path: &Path) -> Result<String, String> {
    let trusted = keys::parse(&read(&path.display().to_string(), limits::QUEUE_ROW_MAX)?);
    let trusted = trusted.map_err(|why| format!("{}: {why}", path.display()))?;
    let terms = Terms { keys: &trusted, max_age: Duration::ZERO, now: SystemTime::now() };
    let name = verify(&job_of(&read(file, limits::QUEUE_ROW_MAX)?, file)?, &terms)
        .map_err(|why| format!("{file} is not proven: {why}"))?;
    Ok(format!("signed by {name}\n"))
}

/// A job without an id is taken too: the backend gives it one. Users must stand in it, and a port other than 22: what an
/// agent's `ssh.hosts` fills in counts as signed only if it is the same.
pub(in crate::cli) fn job_of(text: &str, file: &str) -> Result<Job, String> {
    let id = Id::parse("unnamed").map_err(|error| error.to_string())?;
    match api::job_of(id, text.as_bytes(), &HostTable::default()) {
        Claim::Run(job) => Ok(*job),
        Claim::Refuse { reason, .. } => Err(format!("no agent could run the job of {file}: {reason}")),
    }
}

fn scripts(path: &Path) -> Result<String, String> {
    let cannot = |error| format!("cannot read {}: {error}", path.display());
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = path.read_dir().map_err(cannot)?;
        let entries: Result<Vec<_>, _> = entries.take(limits::ALLOWED_SCRIPTS_MAX).collect();
        files = entries.map_err(cannot)?.into_iter().map(|entry| entry.path()).collect();
        files.retain(|file| file.is_file() && Language::of_file(&file.to_string_lossy()).is_some());
        files.sort();
    }
    if files.is_empty() {
        return Err(format!("{} holds no file that ends in .sh, .bash, .py, .js, .mjs or .cjs", path.display()));
    }
    let line = |file: &PathBuf| {
        let text = read(&file.display().to_string(), limits::QUEUE_ROW_MAX)?;
        Ok(format!("{}  {}\n", sha256(text.as_bytes()), file.file_name().unwrap_or_default().to_string_lossy()))
    };
    files.iter().map(line).collect()
}

/// A text file of at most `max` bytes; `-` is standard input.
pub(in crate::cli) fn read(file: &str, max: usize) -> Result<String, String> {
    let most = u64::try_from(max).unwrap_or(u64::MAX);
    let mut text = String::new();
    let read = match file {
        "-" => std::io::stdin().lock().take(most + 1).read_to_string(&mut text),
        path => std::fs::File::open(path).and_then(|open| open.take(most + 1).read_to_string(&mut text)),
    };
    match read {
        Err(error) => Err(format!("cannot read {file}: {error}")),
        Ok(length) if length > max => Err(format!("{file} is larger than {most} bytes")),
        Ok(_) => Ok(text),
    }
}

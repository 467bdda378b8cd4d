//! `identity` and `verify-receipt`: the agent's public key, and the check of a receipt without agent and backend.
//! docs/receipts.md says how to use them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::cli::sign::{job_of, read};
use crate::cli::{UsageError, exit, print};
use crate::limits;
use crate::signing::keys::{self, TrustedKey};
use crate::signing::receipt::{Receipt, as_sent, key_id};
use crate::signing::sign::SigningKey;
use crate::signing::{canonical, sha256};
use crate::wire::scan::Json;

/// What was typed after `verify-receipt`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// A receipt, or the report or the execution's record with one in it; `-` is standard input.
    pub file: String,
    /// The trusted keys; without it the key of this host's agent.
    pub keys: Option<PathBuf>,
    /// The job's row, as the backend hands it out.
    pub job: Option<String>,
    pub stdout: Option<String>,
    pub stderr: Option<String>,
}

impl Request {
    /// Whether it can be done.
    pub(in crate::cli) fn complete(self) -> Result<Self, UsageError> {
        let files = [Some(&self.file), self.job.as_ref(), self.stdout.as_ref(), self.stderr.as_ref()];
        if self.file.is_empty() {
            return Err(UsageError("usage: cronium-agent verify-receipt FILE [--keys FILE] [--job FILE]".to_owned()));
        }
        match files.into_iter().flatten().filter(|file| *file == "-").count() {
            0 | 1 => Ok(self),
            _ => Err(UsageError("standard input (-) can be one of the files alone".to_owned())),
        }
    }
}

/// The line of an agent's key for a file of trusted keys.
pub fn line(agent: &str, key: &SigningKey) -> String {
    key.line(&key_id(agent, key.public()))
}

/// `identity`: prints that line.
pub fn identity(known: Result<(Option<String>, Option<SigningKey>), String>) -> u8 {
    match known {
        Ok((Some(agent), Some(key))) => print::out(&format!("{}\n", line(&agent, &key))),
        Ok(_) => print::say(
            "this agent has no key yet: set security.receipts: true and start it; it makes the key in state.dir",
            exit::FAILED,
        ),
        Err(why) => print::say(why, exit::FAILED),
    }
}

/// What one check came to.
enum Mark {
    Ok,
    Bad,
    Unchecked,
}

/// All checks of a receipt, in words.
struct Checks(Vec<(Mark, String)>);

impl Checks {
    fn add(&mut self, mark: Mark, text: impl Into<String>) {
        self.0.push((mark, text.into()));
    }

    /// Compares a fact with what was found; a fact that is not there says nothing.
    fn same(&mut self, receipt: &Receipt, fact: &str, what: &str, found: &str) {
        match receipt.facts.get(fact) {
            Some(signed) if signed == found => self.add(Mark::Ok, format!("{what} is the one of {fact}")),
            Some(signed) => self.add(Mark::Bad, format!("{what}: {fact} is {}, found {}", plain(signed), plain(found))),
            None => self.add(Mark::Unchecked, format!("{what}: the receipt has no {fact}")),
        }
    }

    fn is_good(&self) -> bool {
        !self.0.iter().any(|(mark, _)| matches!(mark, Mark::Bad))
    }
}

/// `verify-receipt`: says what was checked and what was not; gives the program's exit code. `own` is the key of this host's
/// agent, which is asked for only where no file of keys is given.
pub fn verify(request: &Request, own: impl FnOnce() -> Result<Vec<TrustedKey>, String>) -> u8 {
    match checked(request, own) {
        Ok((text, is_good)) => {
            let code = print::out(&text);
            if is_good { code } else { exit::FAILED }
        }
        Err(why) => print::say(why, exit::FAILED),
    }
}

fn checked(request: &Request, own: impl FnOnce() -> Result<Vec<TrustedKey>, String>) -> Result<(String, bool), String> {
    let file = &request.file;
    let text = read(file, limits::RECORD_FILE_MAX)?;
    let json = Json::strict(text.trim().as_bytes()).map_err(|error| format!("{file} is not JSON: {error}"))?;
    let receipt = find(json).map_err(|why| format!("{file}: {why}"))?;
    let trusted = match &request.keys {
        Some(path) => {
            let text = read(&path.display().to_string(), limits::RECORD_FILE_MAX)?;
            keys::parse(&text).map_err(|why| format!("{}: {why}", path.display()))?
        }
        None => own()?,
    };
    let mut checks = Checks(Vec::new());
    match receipt.verify(&trusted) {
        Ok(()) => checks.add(Mark::Ok, format!("signed by {}, and no fact was changed since", receipt.key_id)),
        Err(why) => checks.add(Mark::Bad, format!("the signature does not count: {why}")),
    }
    outputs(&mut checks, &receipt, json, request)?;
    job(&mut checks, &receipt, request.job.as_deref())?;
    Ok((shown(&checks, &receipt), checks.is_good()))
}

/// The receipt in `json`: itself, or what the report or the execution's record carries.
fn find(json: Json<'_>) -> Result<Receipt, String> {
    if json.field("keyId").is_some() {
        return Receipt::read(json);
    }
    let inner = ["executionMetadata", "metadata"].into_iter().filter_map(|name| json.field(name));
    let found = std::iter::once(json).chain(inner).find_map(|place| place.field("receipt"));
    let found = found.ok_or("it holds no receipt, neither itself nor as its member `receipt`")?;
    // In a record's metadata it is text.
    match found.text(limits::RECORD_FILE_MAX) {
        Ok(text) => Receipt::read(Json::strict(text.as_bytes()).map_err(|error| error.to_string())?),
        Err(_) => Receipt::read(found),
    }
}

/// The output: that of the files which were named, else that beside the receipt.
fn outputs(checks: &mut Checks, receipt: &Receipt, json: Json<'_>, request: &Request) -> Result<(), String> {
    let output = json.field("output");
    // A report has both; an execution's record has stdout as text.
    let beside = |name| {
        let one = output.filter(|_| name == "stdout").filter(|output| output.members().is_none());
        let text = one.or_else(|| output.and_then(|output| output.field(name)));
        text.and_then(|text| text.text(limits::RECORD_FILE_MAX).ok())
    };
    for (name, file) in [("stdout", &request.stdout), ("stderr", &request.stderr)] {
        let text = match file {
            Some(file) => Some(read(file, limits::RECORD_FILE_MAX)?),
            None => beside(name),
        };
        match text {
            Some(text) => {
                checks.same(receipt, &format!("{name}Sha256"), name, &sha256(as_sent(&text).as_bytes()));
            }
            None => checks.add(Mark::Unchecked, format!("{name}: give it with --{name} FILE")),
        }
    }
    if let Some(code) = json.field("exitCode").and_then(Json::whole) {
        checks.same(receipt, "exitCode", "exitCode", &code.to_string());
    }
    if let Some(status) = json.field("status").filter(|_| output.is_some_and(|output| output.members().is_some())) {
        checks.same(receipt, "status", "status", &status.beginning(40).unwrap_or_default());
    }
    Ok(())
}

/// The job's row.
fn job(checks: &mut Checks, receipt: &Receipt, file: Option<&str>) -> Result<(), String> {
    let Some(file) = file else {
        checks.add(Mark::Unchecked, "the job: give its row with --job FILE");
        return Ok(());
    };
    let text = read(file, limits::RECORD_FILE_MAX)?;
    match canonical::sum(&job_of(&text, file)?) {
        Some(sum) => checks.same(receipt, "jobSha256", "the job", &sum),
        None => checks.add(Mark::Unchecked, "the job: its row has no canonical bytes, see docs/signing.md"),
    }
    let id = Json::strict(text.trim().as_bytes()).ok().and_then(|row| row.field("id"));
    if let Some(id) = id.and_then(|id| id.beginning(200)) {
        checks.same(receipt, "job", "the job's id", &id);
    }
    Ok(())
}

fn shown(checks: &Checks, receipt: &Receipt) -> String {
    let mut text = String::new();
    for (mark, words) in &checks.0 {
        let mark = match mark {
            Mark::Ok => "ok         ",
            Mark::Bad => "BAD        ",
            Mark::Unchecked => "not checked",
        };
        let _ = writeln!(text, "{mark}  {words}");
    }
    let is_good = checks.is_good();
    text.push_str(if is_good { "what it says:\n" } else { "do not rely on what it says:\n" });
    let width = receipt.facts.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in &receipt.facts {
        let _ = writeln!(text, "  {:width$}  {}", plain(name), plain(value));
    }
    text
}

/// A text from outside on one line, for a terminal.
fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// The trusted keys of this host's own agent.
pub fn own_keys(agent: &str, key: &SigningKey) -> Result<Vec<TrustedKey>, String> {
    keys::parse(&line(agent, key))
}

/// Says where the key of a receipt is looked for when there is none on this host.
pub fn no_own_key(state_dir: &Path) -> String {
    format!("no agent of this host has a key in {}: name the file of trusted keys with --keys", state_dir.display())
}

//! A job, read and checked.
//!
//! The backend's JSON is untrusted: `api` turns it into these types or says why it cannot. From here on an id is known
//! to be safe in a file name, a label and a URL, a language is one of three, and environment values are secrets.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// Longest id the backend stores, in bytes (`backend-api`: "at most 100 characters").
pub const ID_MAX: usize = 100;

/// An id made of `[A-Za-z0-9_.:-]`, 1 to [`ID_MAX`] bytes, that does not start with a dot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

/// Why a text is not an [`Id`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdError {
    Empty,
    TooLong(usize),
    /// The first character that is not allowed.
    Character(char),
    LeadingDot,
}

impl Id {
    /// Checks `text` and wraps it.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > ID_MAX {
            return Err(IdError::TooLong(text.len()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-');
        if let Some(c) = text.chars().find(|&c| !allowed(c)) {
            return Err(IdError::Character(c));
        }
        if text.starts_with('.') {
            return Err(IdError::LeadingDot);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the id is empty"),
            Self::TooLong(n) => write!(f, "the id has {n} bytes, at most {ID_MAX} are allowed"),
            Self::Character(c) => {
                write!(f, "the id holds {c:?}; letters, digits and _ . : - are allowed")
            }
            Self::LeadingDot => f.write_str("the id starts with a dot"),
        }
    }
}

impl std::error::Error for IdError {}

/// Where a job runs. Also a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Container,
    Ssh,
    /// An HTTP request, in the agent's own process. The backend calls it `container` too.
    Http,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Container, Self::Ssh, Self::Http];

    /// The backend's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Ssh => "ssh",
            Self::Http => "http",
        }
    }
}

/// The language of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    Bash,
    Python,
    Node,
}

impl Language {
    /// Reads the backend's `script.type` (any casing; `SHELL`, `SH`, `NODE`, `NODE_JS` too) or `--lang`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_uppercase().as_str() {
            "BASH" | "SHELL" | "SH" => Some(Self::Bash),
            "PYTHON" | "PYTHON3" | "PY" => Some(Self::Python),
            "NODEJS" | "NODE" | "NODE_JS" | "JAVASCRIPT" | "JS" => Some(Self::Node),
            _ => None,
        }
    }

    /// By the ending of a file's name.
    pub fn of_file(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "sh" | "bash" => Some(Self::Bash),
            "py" => Some(Self::Python),
            "js" | "cjs" | "mjs" => Some(Self::Node),
            _ => None,
        }
    }

    /// The name used in labels and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Python => "python",
            Self::Node => "nodejs",
        }
    }
}

/// What a job may use; `None` is the configured default. Values above the configured limits are capped to them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Resources {
    /// Cores, fractions allowed.
    pub cpu: Option<f64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes.
    pub disk: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A script and the folder it wants to start in.
#[derive(Clone, PartialEq, Eq)]
pub struct Script {
    pub language: Language,
    /// The source text, as the backend sent it.
    pub content: String,
    /// Relative to the workspace; empty is the workspace itself.
    pub working_directory: String,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { language, content, working_directory } = self;
        write!(f, "Script({language:?}, {} bytes, in {working_directory:?})", content.len())
    }
}

/// A server that a job runs on, and its login.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// The backend's id of it.
    pub id: Option<String>,
    /// The name that its owner gave it, else the host.
    pub name: String,
    /// A name or an address.
    pub host: String,
    pub port: u16,
    pub user: String,
    /// PEM or OpenSSH text, perhaps wrapped in base64.
    pub private_key: Option<Secret>,
    /// The text of a certificate for that key, as `ssh-keygen -s` writes it. It is no secret.
    pub certificate: Option<String>,
    /// Opens an encrypted key.
    pub passphrase: Option<Secret>,
    pub password: Option<Secret>,
    /// The jump host on the way to it.
    pub jump: Option<Jump>,
}

/// A jump host: a server that forwards connections to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jump {
    /// One of `ssh.jumps`, by its name.
    Named(String),
    /// With its login.
    Host(Box<Server>),
}

impl Server {
    /// Name and address, for messages: `web-1 (10.0.0.7:22)`, or `web-1 (10.0.0.7:22) through jump host bastion`.
    pub fn shown(&self) -> String {
        let address = self.address();
        let shown = if self.name == self.host { address } else { format!("{} ({address})", self.name) };
        match &self.jump {
            None => shown,
            Some(Jump::Named(name)) => format!("{shown} through jump host {name}"),
            Some(Jump::Host(jump)) => format!("{shown} through jump host {}", jump.name),
        }
    }

    /// The jump host, once its login is known.
    pub fn through(&self) -> Option<&Self> {
        match &self.jump {
            Some(Jump::Host(jump)) => Some(jump),
            Some(Jump::Named(_)) | None => None,
        }
    }

    /// The address, with that of the jump host on the way: one address may be another host behind another jump host.
    pub fn route(&self) -> String {
        match self.through() {
            Some(jump) => format!("{} through {}", self.address(), jump.address()),
            None => self.address(),
        }
    }

    /// `host:port`, IPv6 in brackets.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Whether `text` can be a name or an address of a host: safe for a resolver, a log and known_hosts.
pub fn is_host(text: &str) -> bool {
    let sound = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:%".contains(&b));
    !text.is_empty() && text.len() <= 255 && sound && !text.starts_with('-')
}

/// Whether `text` can be the name of a user on a server.
pub fn is_user(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && !text.chars().any(char::is_control)
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({} as {})", self.shown(), self.user)
    }
}

/// A server entry that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadServer {
    pub id: Option<String>,
    /// Its name, or its place in the list.
    pub name: String,
    /// What is wrong, with its path.
    pub why: String,
}

/// The event that a job belongs to, as far as the backend tells it. None of it is a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `metadata.eventId`, a number or a string there.
    pub id: Option<String>,
    pub name: Option<String>,
    /// Whose event it is, and whose variables its script uses: `metadata.userId`.
    pub user: Option<String>,
    /// `manual`, `schedule` or `workflow`.
    pub triggered_by: Option<String>,
}

/// What a script is given to work on: `execution.inputData` as JSON, `{}` where there is none. Another script made it, so
/// it may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Input(String);

impl Input {
    /// `json` must be JSON.
    pub fn new(json: impl Into<String>) -> Self {
        Self(json.into())
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

impl Default for Input {
    fn default() -> Self {
        Self("{}".to_owned())
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({} bytes)", self.0.len())
    }
}

/// What a script hands on: to the next one in its workflow, and to the actions that depend on a condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptResult {
    /// `scriptOutput` as JSON.
    #[serde(default)]
    pub output: Option<String>,
    #[serde(default)]
    pub condition: Option<bool>,
}

/// An HTTP request, as the backend sent it. All of it may hold secrets: a URL has keys in its query and even in its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Any casing.
    pub method: String,
    pub url: Secret,
    /// In the backend's order; names may come twice.
    pub headers: Vec<(String, Secret)>,
    pub body: Option<Secret>,
}

/// What a row carries to prove who made its job. Not a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The name of the key in `security.signatures.keys`.
    pub key_id: String,
    /// RFC 3339, as it was sent.
    pub signed_at: String,
    pub expires_at: Option<String>,
    /// Base64.
    pub value: String,
}

/// A job that can be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: Id,
    pub kind: Kind,
    /// Higher first under `jobs.queueStrategy: priority`.
    pub priority: i64,
    /// How often the backend has handed this job out before.
    pub attempts: u32,
    /// Empty for a job of kind `Http`.
    pub script: Script,
    /// Of a job of kind `Http` alone.
    pub http: Option<Request>,
    /// In the backend's order. Names are as sent: non-empty, without `=` or NUL.
    pub environment: Vec<(String, Secret)>,
    /// The job's own limit; `None` is `jobs.defaultTimeout`.
    pub timeout: Option<Duration>,
    pub resources: Resources,
    /// Where a job of kind `ssh` runs: one server, or several at once. Empty for a container job.
    pub servers: Vec<Result<Server, BadServer>>,
    pub event: Event,
    pub input: Input,
    /// `metadata.originalType`, for messages.
    pub original_type: Option<String>,
    /// As it came; `Err` says why it cannot count. `signing` decides whether it is trusted.
    pub signature: Option<Result<Signature, String>>,
}

/// One row of the queue's answer that has a usable id.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    Run(Box<Job>),
    /// A job that this agent must report as failed without running it: `reason` says why in a sentence.
    Refuse {
        id: Id,
        kind: Kind,
        reason: String,
    },
}

impl Claim {
    /// The id of the job.
    pub fn id(&self) -> &Id {
        match self {
            Self::Run(job) => &job.id,
            Self::Refuse { id, .. } => id,
        }
    }

    /// The kind of the job.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Run(job) => job.kind,
            Self::Refuse { kind, .. } => *kind,
        }
    }
}

/// Which of a script's two outputs a line came from, or the agent itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
    /// The agent's sentences about the job.
    System,
}

impl Stream {
    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

/// Takes a job's output, in the order of arrival. The caller of the executor implements it.
pub trait Output {
    /// Bytes of stdout or stderr, as they arrive: any length, cut anywhere.
    fn bytes(&mut self, stream: Stream, data: &[u8]);
    /// A sentence of the agent about this job.
    fn system(&mut self, text: &str);
    /// The following bytes are a copy whose beginning is lost: a remembered place in it is not valid.
    fn lost_beginning(&mut self) {}
    /// No more bytes are available now: those given so far should be sent. Called again after each `limits::FOLLOW_TICK` of
    /// silence.
    fn settle(&mut self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_in_file_names_labels_and_urls() {
        for good in ["job_x7Gk2LmQ9aZb", "exec-a-1", "a", &"x".repeat(ID_MAX), "a.b:c"] {
            assert_eq!(Id::parse(good).map(|id| id.to_string()), Ok(good.to_owned()));
        }
        assert_eq!(Id::parse(""), Err(IdError::Empty));
        assert_eq!(Id::parse(&"x".repeat(10_000)), Err(IdError::TooLong(10_000)));
        assert_eq!(Id::parse("../etc"), Err(IdError::Character('/')));
        assert_eq!(Id::parse("a\0b"), Err(IdError::Character('\0')));
        assert_eq!(Id::parse("a b"), Err(IdError::Character(' ')));
        assert_eq!(Id::parse(".."), Err(IdError::LeadingDot));
        assert_eq!(Id::parse("jöb"), Err(IdError::Character('ö')));
    }

    #[test]
    fn languages_in_any_casing() {
        for (text, want) in [
            ("BASH", Some(Language::Bash)),
            ("Shell", Some(Language::Bash)),
            ("sh", Some(Language::Bash)),
            ("python", Some(Language::Python)),
            ("NODEJS", Some(Language::Node)),
            ("Node_JS", Some(Language::Node)),
            ("node", Some(Language::Node)),
            ("RUBY", None),
            ("", None),
        ] {
            assert_eq!(Language::parse(text), want, "{text}");
        }
    }

    #[test]
    fn a_scripts_text_stays_out_of_debug_output() {
        let script =
            Script { language: Language::Bash, content: "curl -u me:hunter2".into(), working_directory: String::new() };
        assert_eq!(format!("{script:?}"), r#"Script(Bash, 18 bytes, in "")"#);
    }
}

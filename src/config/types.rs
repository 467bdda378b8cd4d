//! The configuration after it was read, checked and resolved: only valid values exist here.
//!
//! The rest of the program sees these types and nothing of YAML, environment or flags. Field names follow the keys of
//! the file; `src/config/keys.rs` ties each key to its field. `Default` of a section is empty: the keys fill it
//! ([`super::defaults`]).

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use super::images::{Images, Share};
pub use super::jumps::JumpTable;
pub use super::proxy::{ProxyKey, Way};
pub use super::ssh::{HostRow, HostTable, Ssh};
pub use super::trust::{FromFile, Trust};
use crate::secret::Secret;

/// An enum whose values are the words of a key; the first is its `Default`.
macro_rules! words {
    ($(#[$about:meta])* $name:ident {
        $(#[$first_doc:meta])* $first:ident = $first_word:literal,
        $($(#[$doc:meta])* $value:ident = $word:literal),* $(,)?
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub enum $name {
            #[default]
            $(#[$first_doc])* $first,
            $($(#[$doc])* $value),*
        }

        impl $name {
            pub(super) const WORDS: &'static [&'static str] = &[$first_word, $($word),*];
            const VALUES: &'static [Self] = &[Self::$first, $(Self::$value),*];

            pub(super) fn of_word(word: &str) -> Option<Self> {
                Some(Self::VALUES[Self::WORDS.iter().position(|known| *known == word)?])
            }

            /// The word in the configuration.
            #[allow(dead_code)]
            pub fn word(self) -> &'static str {
                Self::WORDS[self as usize]
            }
        }
    };
}

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub orchestrator: Orchestrator,
    pub api: Api,
    pub jobs: Jobs,
    pub container: Container,
    pub ssh: Ssh,
    pub http: Http,
    pub redact: Redact,
    pub logging: Logging,
    pub monitoring: Monitoring,
    pub tls: Tls,
    pub trust: Trust,
    /// `security.receipts`: whether reports carry signed receipts.
    pub receipts: bool,
    pub state: State,
}

impl Config {
    /// The types of jobs that this agent asks for, by the backend's names.
    pub fn job_types(&self) -> Vec<&str> {
        if !self.jobs.types.is_empty() {
            return self.jobs.types.iter().map(String::as_str).collect();
        }
        let mut types = vec!["SCRIPT"];
        types.extend(self.http.enabled.then_some("HTTP_REQUEST"));
        types
    }
}

/// `orchestrator`: who this agent is.
#[derive(Debug, Clone, Default)]
pub struct Orchestrator {
    /// As configured; `auto` is resolved against `state.dir` by `agent`.
    pub id: String,
    pub name: String,
    pub environment: String,
    pub region: String,
    pub tags: Vec<String>,
}

/// `api`: the backend. `token_file` is `api.tokenFile`, or systemd's credential.
#[derive(Debug, Clone, Default)]
pub struct Api {
    /// Scheme, authority and path without a final slash; `/api/internal` was added where the path was empty.
    pub endpoint: String,
    pub token: Secret,
    pub token_file: Option<PathBuf>,
    /// `ws://` or `wss://`; derived from `endpoint` where not given.
    pub ws_endpoint: String,
    pub proxy: ProxyKey,
    /// To `endpoint` and to `ws_endpoint`, by `proxy` and the environment.
    pub way: Way,
    pub ws_way: Way,
    pub timeout: Duration,
    pub retry: Retry,
    pub rate_limit: RateLimit,
}

/// `api.rateLimit`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RateLimit {
    pub enabled: bool,
    pub requests_per_second: f64,
}

impl RateLimit {
    /// Requests per second; `None` when they are not limited.
    pub fn rate(self) -> Option<f64> {
        self.enabled.then_some(self.requests_per_second)
    }
}

/// `api.retry`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Retry {
    pub max_attempts: u32,
    pub initial_delay: Duration,
    pub max_delay: Duration,
    pub backoff: BackoffKind,
}

words! {
    /// `api.retry.backoffType`.
    BackoffKind { Exponential = "exponential", Linear = "linear", Fixed = "fixed" }
}

/// `jobs`.
#[derive(Debug, Clone, Default)]
pub struct Jobs {
    /// Empty: those that this agent can do, see [`Config::job_types`].
    pub types: Vec<String>,
    pub poll_interval: Duration,
    /// Zero: the agent chooses, see `limits::POLL_PUSHED`.
    pub max_poll_interval: Duration,
    pub poll_batch_size: usize,
    pub max_concurrent: usize,
    pub default_timeout: Duration,
    pub max_timeout: Duration,
    pub setup_timeout: Duration,
    pub cleanup_timeout: Duration,
    pub stop_grace: Duration,
    pub drain_timeout: Duration,
    pub queue_strategy: QueueStrategy,
    /// Whether jobs that still run at the end of the drain go on or are cancelled.
    pub on_shutdown: OnShutdown,
    /// How long a report is offered to a backend that does not take it.
    pub report_retention: Duration,
    pub lease_renewal: Duration,
    /// Zero: never.
    pub stop_after_lost: Duration,
    /// Bytes, of each of stdout and stderr.
    pub max_output: usize,
    /// Bytes of what a script gives as its output, as JSON, and of a variable's value.
    pub max_script_output: usize,
    pub require_proof: RequireProof,
    /// With `require`, jobs are claimed while the last proof is younger.
    pub proof_max_age: Duration,
}

words! {
    /// `jobs.requireProof`: whether jobs are claimed without a proof that the walls around them hold.
    RequireProof {
        /// No proof is made.
        Off = "off",
        /// Proofs are made, and the log tells of a wall that does not stand.
        Warn = "warn",
        Require = "require",
    }
}

words! {
    /// `jobs.onShutdown`.
    OnShutdown {
        /// They go on, and the next agent finds them.
        Leave = "leave",
        Cancel = "cancel",
    }
}

words! {
    /// `jobs.queueStrategy`: the order in which a batch is given to the workers.
    QueueStrategy { Priority = "priority", Fifo = "fifo" }
}

/// `container`.
#[derive(Debug, Clone, Default)]
pub struct Container {
    pub docker: Docker,
    pub images: Images,
    pub pull_policy: PullPolicy,
    pub registry_auth_file: Option<PathBuf>,
    pub defaults: ResourceSet,
    pub limits: ResourceSet,
    pub security: Security,
    pub network: Network,
    pub warm: Warm,
}

/// `container.warm`: containers that are started ahead of their jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Warm {
    /// How many wait for a Bash script, a Python script, a Node.js script.
    pub bash: usize,
    pub python: usize,
    pub nodejs: usize,
    /// One that has waited this long is replaced.
    pub max_idle: Duration,
    /// Bytes; with less memory available on this host, none waits.
    pub min_free_memory: u64,
}

/// `container.docker`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Docker {
    pub endpoint: DockerEndpoint,
    /// An API version such as `1.43`; `None` is `auto`.
    pub version: Option<String>,
    /// TLS to an engine behind `tcp://`, with the files of `cert_path`.
    pub tls_verify: bool,
    pub cert_path: Option<PathBuf>,
}

/// Where the engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerEndpoint {
    /// The path of `unix://`.
    Unix(PathBuf),
    /// Host and port of `tcp://`.
    Tcp(String, u16),
}

impl Default for DockerEndpoint {
    fn default() -> Self {
        Self::Unix(PathBuf::new())
    }
}

words! {
    /// `container.images.pullPolicy`.
    PullPolicy { IfNotPresent = "ifNotPresent", Always = "always", Never = "never" }
}

/// `container.resources.defaults` and `.limits`. The four block-device rates are unlimited when `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ResourceSet {
    /// Cores.
    pub cpu: f64,
    /// Bytes.
    pub memory: u64,
    /// Bytes.
    pub disk: u64,
    pub pids: u64,
    /// Bytes per second.
    pub read_bps: Option<u64>,
    /// Bytes per second.
    pub write_bps: Option<u64>,
    /// Operations per second.
    pub read_iops: Option<u64>,
    /// Operations per second.
    pub write_iops: Option<u64>,
}

/// `container.security`.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// `uid:gid`, both numbers.
    pub user: (u32, u32),
    pub no_new_privileges: bool,
    pub drop_capabilities: Vec<String>,
    pub readonly_rootfs: bool,
    pub seccomp: Seccomp,
}

/// `container.security.seccompProfile`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The agent's own profile.
    #[default]
    Builtin,
    /// The engine's own profile, whatever it is.
    Engine,
    /// The JSON text of a profile's file, read and checked when the configuration was loaded.
    Profile { path: PathBuf, json: String },
}

/// `container.network`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    pub mode: NetworkMode,
    pub enable_icc: bool,
    pub internal: bool,
    pub dns: Vec<String>,
}

/// `container.network.mode`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// One bridge for all jobs, without traffic between them.
    #[default]
    Isolated,
    None,
    /// The engine's default bridge.
    Bridge,
    /// A network that the operator made.
    Named(String),
}

/// `http`: the requests of jobs of type HTTP_REQUEST.
#[derive(Debug, Clone, Default)]
pub struct Http {
    pub enabled: bool,
    /// Entries that [`crate::wire::hosts::Pattern`] takes.
    pub allow: Vec<String>,
    /// Bytes of an answer's body that are kept.
    pub max_response: usize,
    pub max_redirects: u32,
    pub ca_file: Option<PathBuf>,
}

/// `redact`: which values of a job are secrets.
#[derive(Debug, Clone, Default)]
pub struct Redact {
    pub environment: RedactEnvironment,
    /// Patterns with `*`.
    pub names: Vec<String>,
    /// The same for variables of the helpers.
    pub variables: Vec<String>,
}

words! {
    /// `redact.environment`: which variables of a job's environment hold secrets.
    RedactEnvironment { Names = "names", All = "all", Off = "off" }
}

/// `logging`.
#[derive(Debug, Clone)]
pub struct Logging {
    pub level: log::LevelFilter,
    pub format: LogFormat,
    pub output: LogOutput,
    pub file: LogFile,
    pub live: LiveWay,
    pub websocket: LiveLog,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: log::LevelFilter::Off,
            format: LogFormat::default(),
            output: LogOutput::default(),
            file: LogFile::default(),
            live: LiveWay::default(),
            websocket: LiveLog::default(),
        }
    }
}

words! {
    /// `logging.format`.
    LogFormat { Json = "json", Text = "text" }
}

words! {
    /// `logging.output`.
    LogOutput { Stdout = "stdout", File = "file" }
}

words! {
    /// `logging.live`: how the lines of jobs reach their viewers.
    LiveWay { Auto = "auto", Websocket = "websocket", Updates = "updates", Off = "off" }
}

/// `logging.file`, used when `logging.output` is `file`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFile {
    pub path: PathBuf,
    /// Bytes after which the file is rotated.
    pub max_size: u64,
    /// Rotated files that are kept.
    pub max_backups: usize,
    /// Days after which rotated files are removed.
    pub max_age: u64,
}

impl LogFile {
    /// The age above which rotated files are removed.
    pub fn oldest(&self) -> Duration {
        Duration::from_secs(self.max_age.saturating_mul(24 * 3600))
    }
}

/// `logging.websocket`: the live log towards the backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveLog {
    pub enabled: bool,
    /// Lines a job.
    pub buffer_size: usize,
    pub flush_interval: Duration,
    /// Lines a message.
    pub batch_size: usize,
}

/// `monitoring`.
#[derive(Debug, Clone)]
pub struct Monitoring {
    pub enabled: bool,
    pub bind_address: IpAddr,
    pub health_port: u16,
    pub metrics_port: u16,
    /// The page for people.
    pub page: bool,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self { enabled: false, bind_address: [0, 0, 0, 0].into(), health_port: 0, metrics_port: 0, page: false }
    }
}

/// `security.tls`: trust and client certificate towards the backend. Paths were checked to be readable PEM.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// With `false`, `https` and `wss` use the bundled roots and no client certificate.
    pub enabled: bool,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

words! {
    /// `security.signatures.mode`.
    SignatureMode {
        Off = "off",
        /// A job without a valid signature runs, and the agent's log says why it has none.
        Warn = "warn",
        /// A job without a valid signature is refused.
        Require = "require",
    }
}

/// `state`.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub dir: PathBuf,
    /// Where the sockets of running scripts are; `None`: the first place that can be had.
    pub runtime_dir: Option<PathBuf>,
    /// Bytes; below this the agent claims nothing.
    pub min_free_disk: u64,
}

//! The one table of keys.
//!
//! The names of the environment, the checks, a reload, `validate`'s output, docs/configuration.md and the tests are all
//! made from this table, so that a key cannot be known in one place and unknown in another.

use std::time::Duration;

use super::field::Effect::{Reload, Restart};
use super::field::Kind::{Bool, Int, Later, List, Number, Path, Secret, Size, Table, Text, Time, Words};
use super::field::{Access, Given, Key, Kind};
use super::parse;
use super::proxy;
use super::types::{
    BackoffKind, Config, HostTable, JumpTable, LiveWay, LogFormat, LogOutput, OnShutdown, PullPolicy, QueueStrategy,
    RedactEnvironment, RequireProof, SignatureMode,
};

const MS: Duration = Duration::from_millis(1);
const TENTH: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const HALF_MINUTE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
/// Ten of them.
const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const KB: u64 = 1 << 10;
const MB: u64 = 1 << 20;
const TB: u64 = 1 << 40;

const CORES: Kind = Number { min: 0.01, max: 1024.0 };
/// Docker refuses less memory than 6 MB.
const MEMORY: Kind = Size { min: 6 * MB, max: 64 * TB };
const DISK: Kind = Size { min: MB, max: 64 * TB };
const PIDS: Kind = Int { min: 1, max: 4_194_304 };
const BYTE_RATE: Kind = Size { min: KB, max: 1 << 50 };
const RATE: Kind = Int { min: 1, max: 1 << 50 };
const COUNT: Kind = Int { min: 1, max: 1000 };
const WARM: Kind = Int { min: 0, max: 100 };
const PORT: Kind = Int { min: 1, max: 65535 };

const LINE: Kind = Text { form: "one line of at most 200 characters", check: parse::line };
const IMAGE: Kind = Text { form: "the name of an image, such as registry.example/name:tag", check: parse::image };
const REMOTE_PATH: Kind =
    Text { form: "a path that begins with `/`, of at most 200 characters", check: parse::remote_path };
const ALGORITHMS: Kind = List { form: "names of algorithms such as aes256-ctr", check: parse::algorithm };
const HOSTS: Kind = Table {
    form: "rows such as `{host: \"*.example.com\", user: deploy, port: 2222, algorithms: {ciphers: [aes256-ctr]}}`, in brackets where it is one line",
    check: HostTable::check,
};
const JUMPS: Kind = Table {
    form: "a section with a name for each, such as `{bastion: {host: bastion.example, port: 22, user: cronium, keyFile: /etc/cronium/bastion.key}}`",
    check: JumpTable::check,
};
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

const fn time(min: Duration, max: Duration) -> Kind {
    Time { min, max }
}

/// A value that its field checks.
const fn form(form: &'static str) -> Kind {
    Text { form, check: parse::any }
}

/// The access to a field by its path in [`Config`].
macro_rules! field {
    (none) => { None };
    ($($at:ident).+) => {
        Some(Access {
            get: |config| &config.$($at).+,
            get_mut: |config| &mut config.$($at).+,
            copy: |to, from| to.$($at).+.clone_from(&from.$($at).+),
            same: |a, b| a.$($at).+ == b.$($at).+,
        })
    };
}

macro_rules! option {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

/// A row: when a change takes effect, path, default, kind and field; then alias and condition, if any; the meaning.
macro_rules! keys {
    ($($effect:ident $path:literal = $default:literal, $kind:expr => $($at:ident).+
        $(, env $alias:literal)? $(, when $key:literal is $value:literal)?, $help:literal;)*) => {
        &[$(Key {
            path: $path,
            default: $default,
            kind: $kind,
            field: field!($($at).+),
            alias: option!($($alias)?),
            effect: $effect,
            when: option!($(($key, $value))?),
            help: $help,
        }),*]
    };
}

static KEYS: &[Key] = keys! {
    Restart "orchestrator.id" = "auto", Text { form: "`auto`, or 1 to 100 letters, digits, `-`, `_` and `.`", check: parse::id } => orchestrator.id,
        "Who this agent is, for the backend and in the names of containers. `auto`: made once and kept in `state.dir`.";
    Restart "orchestrator.name" = "", LINE => orchestrator.name,
        "A name for people.";
    Restart "orchestrator.environment" = "", LINE => orchestrator.environment,
        "Such as `production`.";
    Restart "orchestrator.region" = "", LINE => orchestrator.region,
        "Such as `eu-1`.";
    Restart "orchestrator.tags" = "", List { form: "lines of at most 200 characters", check: parse::line } => orchestrator.tags,
        "Words about this agent.";

    Restart "api.endpoint" = "", Text { form: "an address such as https://cronium.example:5001", check: parse::endpoint } => api.endpoint, env "CRONIUM_API_URL",
        "The backend. Required. `/api/internal` is added where the address has no path.";
    Reload "api.token" = "", Secret => api.token, env "CRONIUM_SERVICE_TOKEN",
        "The service token. Better in `api.tokenFile` or in the environment. One of the two is required.";
    Reload "api.tokenFile" = "", Path => none,
        "The file that holds the token; give it mode 0600. It is read again at a reload, and when the backend refuses the token. Without it systemd's credential `api-token` is used, where there is one.";
    Restart "api.wsEndpoint" = "", Text { form: "an address such as wss://cronium.example:5001/api/internal/socket", check: parse::ws_endpoint } => api.ws_endpoint, env "CRONIUM_WS_URL",
        "Where live lines go. Derived from `api.endpoint` when not set.";
    Restart "api.proxy" = "", Text { form: "`none`, or an address such as http://USER:PASSWORD@proxy.example:3128, user and password percent-encoded", check: proxy::check } => api.proxy,
        "The HTTP proxy on the way to the backend, live lines included. When not set: `HTTPS_PROXY` or `HTTP_PROXY` by the address, else `ALL_PROXY`, but for loopback and what `NO_PROXY` names; lower case ranks above upper. `none`: no proxy.";
    Restart "api.timeout" = "30s", time(TENTH, Duration::from_secs(600)) => api.timeout,
        "The longest that one call takes.";
    Restart "api.retry.maxAttempts" = "3", Int { min: 1, max: 20 } => api.retry.max_attempts,
        "Attempts of one call.";
    Restart "api.retry.initialDelay" = "1s", time(MS, HOUR) => api.retry.initial_delay,
        "Pause before the second attempt.";
    Restart "api.retry.maxDelay" = "30s", time(MS, HOUR) => api.retry.max_delay,
        "Longest pause between attempts.";
    Restart "api.retry.backoffType" = "exponential", Words(BackoffKind::WORDS) => api.retry.backoff,
        "How pauses grow.";
    Restart "api.rateLimit.enabled" = "true", Bool => api.rate_limit.enabled,
        "Limits how often the agent calls the backend.";
    Restart "api.rateLimit.requestsPerSecond" = "100", Number { min: 0.1, max: 10_000.0 } => api.rate_limit.requests_per_second, when "api.rateLimit.enabled" is "true",
        "Calls a second, on average. Each 429 of the backend halves it for a while.";

    Reload "jobs.types" = "", List { form: "types of jobs: SCRIPT, HTTP_REQUEST, TOOL_ACTION", check: parse::job_type } => jobs.types,
        "Types that this agent asks the backend for; others are left to other agents. When empty: SCRIPT, and HTTP_REQUEST with `http.enabled`.";
    Reload "jobs.pollInterval" = "1s", time(Duration::from_millis(10), HOUR) => jobs.poll_interval,
        "Pause between two polls of the queue while jobs come.";
    Reload "jobs.maxPollInterval" = "0s", time(Duration::ZERO, HOUR) => jobs.max_poll_interval,
        "Longest pause; an idle agent slows down to this. `0s`: 15 s where the backend can push jobs over the WebSocket, else 2.2 s.";
    Reload "jobs.pollBatchSize" = "10", Int { min: 1, max: 100 } => jobs.poll_batch_size,
        "Most jobs that one poll asks for.";
    Reload "jobs.maxConcurrent" = "5", Int { min: 1, max: 100 } => jobs.max_concurrent,
        "Jobs that run at a time.";
    Reload "jobs.defaultTimeout" = "1h", time(SECOND, MONTH) => jobs.default_timeout,
        "For a job that names none.";
    Reload "jobs.maxTimeout" = "24h", time(SECOND, MONTH) => jobs.max_timeout, env "CRONIUM_MAX_EXECUTION_TIMEOUT",
        "The most for any job.";
    Reload "jobs.setupTimeout" = "5m", time(SECOND, HOUR) => jobs.setup_timeout, env "CRONIUM_SETUP_TIMEOUT",
        "For what comes before the script: pull, create, connect, log in.";
    Reload "jobs.cleanupTimeout" = "1m", time(SECOND, HOUR) => jobs.cleanup_timeout, env "CRONIUM_CLEANUP_TIMEOUT",
        "For what comes after the script: the rest of its output, its exit code.";
    Reload "jobs.stopGrace" = "5s", time(Duration::ZERO, HOUR) => jobs.stop_grace,
        "Between TERM and KILL.";
    Reload "jobs.drainTimeout" = "5m", time(Duration::ZERO, MONTH) => jobs.drain_timeout,
        "How long a stop of the agent waits for running jobs.";
    Reload "jobs.queueStrategy" = "priority", Words(QueueStrategy::WORDS) => jobs.queue_strategy,
        "Order in which the jobs of one poll are given to workers.";
    Reload "jobs.onShutdown" = "leave", Words(OnShutdown::WORDS) => jobs.on_shutdown,
        "Jobs that still run after the drain: `leave` lets them go on, and the next start finds them; `cancel` ends and reports them.";
    Reload "jobs.reportRetention" = "168h", time(SECOND, MONTH) => jobs.report_retention,
        "How long a result is offered to a backend that does not take it.";
    Reload "jobs.leaseRenewal" = "30s", time(TENTH, HOUR) => jobs.lease_renewal,
        "Pause between two heartbeats.";
    Reload "jobs.stopAfterLost" = "0s", time(Duration::ZERO, MONTH) => jobs.stop_after_lost,
        "Ends running jobs after this long without an accepted heartbeat, for a backend that gives lost jobs to other agents. `0s`: never; else at least twice `jobs.leaseRenewal`.";
    Reload "jobs.maxOutput" = "4MB", Size { min: KB, max: 64 * MB } => jobs.max_output,
        "Kept of each of stdout and stderr: the head and the tail.";
    Reload "jobs.maxScriptOutput" = "1MB", Size { min: KB, max: 16 * MB } => jobs.max_script_output,
        "Largest output that a script may hand on with its helpers, as JSON, and largest value of a variable.";
    Reload "jobs.requireProof" = "warn", Words(RequireProof::WORDS) => jobs.require_proof,
        "What the agent does about the walls around jobs: `warn` proves them with test containers and tells what does not hold, `require` claims nothing without a proof, `off` makes none.";
    Reload "jobs.proofMaxAge" = "25h", time(HALF_MINUTE, MONTH) => jobs.proof_max_age,
        "With `jobs.requireProof: require`, the age from which a proof does not count any more. A proof is made anew once a day, and earlier where this is less.";

    Restart "container.docker.endpoint" = "unix:///var/run/docker.sock", form("unix:///PATH or tcp://HOST:PORT") => container.docker.endpoint, env "DOCKER_HOST",
        "Where the container engine listens.";
    Restart "container.docker.version" = "auto", form("`auto`, or a version in quotes such as \"1.43\"") => container.docker.version,
        "Version of the engine's API.";
    Restart "container.docker.tlsVerify" = "false", Bool => container.docker.tls_verify, env "DOCKER_TLS_VERIFY",
        "`true`: TLS to an engine behind `tcp://`, whose certificate is checked. In `DOCKER_TLS_VERIFY` any text means `true`, as for the docker command.";
    Restart "container.docker.certPath" = "", Path => container.docker.cert_path, env "DOCKER_CERT_PATH",
        "The folder of `ca.pem`, the engine's authority, and of `cert.pem` and `key.pem`, this agent's certificate. Needed with `container.docker.tlsVerify`.";
    Reload "container.images.bash" = "cronium/runner:bash-alpine", IMAGE => container.images.bash,
        "What Bash scripts run in.";
    Reload "container.images.python" = "cronium/runner:python-alpine", IMAGE => container.images.python,
        "What Python scripts run in.";
    Reload "container.images.nodejs" = "cronium/runner:node-alpine", IMAGE => container.images.nodejs,
        "What Node.js scripts run in.";
    Reload "container.images.pullPolicy" = "ifNotPresent", Words(PullPolicy::WORDS) => container.pull_policy, env "CRONIUM_CONTAINER_PULL_POLICY",
        "When an image is pulled. `container.pullPolicy` is another name of this key.";
    Reload "container.images.requireDigest" = "false", Bool => container.images.require_digest,
        "`true` refuses every image that is named without `@sha256:`.";
    Reload "container.images.prePull" = "false", Bool => container.images.pre_pull,
        "`true` pulls missing images at the start and after a reload, before a job needs them. With `pullPolicy: always`, all of them.";
    Reload "container.images.prune.high" = "85%", form("a percentage such as 85%, or off") => container.images.prune.high,
        "With more of the engine's file system used, images are removed that this agent pulled and nobody uses. `off`: never.";
    Reload "container.images.prune.low" = "75%", form("a percentage such as 75%") => container.images.prune.low,
        "They are removed until less than this is used.";
    Reload "container.images.prune.keep" = "24h", time(Duration::ZERO, MONTH) => container.images.prune.keep,
        "An image that a job used within this time stays.";
    Restart "container.registryAuthFile" = "", Path => container.registry_auth_file,
        "A Docker `config.json` with logins of registries.";
    Reload "container.resources.defaults.cpu" = "0.5", CORES => container.defaults.cpu,
        "Cores, for a job that asks for nothing.";
    Reload "container.resources.defaults.memory" = "512MB", MEMORY => container.defaults.memory,
        "Memory; a job gets no swap.";
    Reload "container.resources.defaults.disk" = "1GB", DISK => container.defaults.disk,
        "Room in `/workspace` and `/tmp`.";
    Reload "container.resources.defaults.pids" = "100", PIDS => container.defaults.pids,
        "Processes and threads at a time.";
    Reload "container.resources.defaults.readBps" = "", BYTE_RATE => container.defaults.read_bps,
        "Bytes a second from block devices; no limit when not set.";
    Reload "container.resources.defaults.writeBps" = "", BYTE_RATE => container.defaults.write_bps,
        "Bytes a second to block devices; no limit when not set.";
    Reload "container.resources.defaults.readIops" = "", RATE => container.defaults.read_iops,
        "Reads a second; no limit when not set.";
    Reload "container.resources.defaults.writeIops" = "", RATE => container.defaults.write_iops,
        "Writes a second; no limit when not set.";
    Reload "container.resources.limits.cpu" = "2", CORES => container.limits.cpu,
        "Most cores that a job gets, whatever it asks for.";
    Reload "container.resources.limits.memory" = "2GB", MEMORY => container.limits.memory,
        "Most memory that a job gets.";
    Reload "container.resources.limits.disk" = "10GB", DISK => container.limits.disk,
        "Most room that a job gets.";
    Reload "container.resources.limits.pids" = "1000", PIDS => container.limits.pids,
        "Most processes and threads.";
    Reload "container.resources.limits.readBps" = "", BYTE_RATE => container.limits.read_bps,
        "Most bytes a second from block devices.";
    Reload "container.resources.limits.writeBps" = "", BYTE_RATE => container.limits.write_bps,
        "Most bytes a second to block devices.";
    Reload "container.resources.limits.readIops" = "", RATE => container.limits.read_iops,
        "Most reads a second.";
    Reload "container.resources.limits.writeIops" = "", RATE => container.limits.write_iops,
        "Most writes a second.";
    Reload "container.security.user" = "1000:1000", form("two numbers UID:GID, such as 1000:1000") => container.security.user,
        "The user of scripts.";
    Reload "container.security.noNewPrivileges" = "true", Bool => container.security.no_new_privileges,
        "No program of a job gets more rights than it began with.";
    Reload "container.security.dropCapabilities" = "ALL", List { form: "names of capabilities such as NET_RAW, or ALL", check: parse::capability } => container.security.drop_capabilities,
        "Capabilities that jobs do not have.";
    Reload "container.security.readOnlyRootfs" = "true", Bool => container.security.readonly_rootfs,
        "Scripts write below `/workspace` and `/tmp` alone.";
    Reload "container.security.seccompProfile" = "builtin", form("`builtin`, `engine`, or the path of a profile") => container.security.seccomp,
        "Filter of system calls. `builtin` is the agent's own, `engine` the engine's.";
    Reload "container.network.mode" = "isolated", form("isolated, none, bridge, or the name of a network") => container.network.mode,
        "`isolated`: a bridge of the agent's, without traffic between jobs. `bridge`: the engine's default one.";
    Reload "container.network.enableICC" = "false", Bool => container.network.enable_icc,
        "`true` lets jobs of the isolated network reach each other.";
    Reload "container.network.internal" = "false", Bool => container.network.internal, env "CRONIUM_CONTAINER_RUNTIME_ISOLATE_NETWORK",
        "`true`: the isolated network leads nowhere but, before Docker 28, to this host. `container.runtime.isolateNetwork` is another name of this key.";
    Reload "container.network.dns" = "", List { form: "IP addresses of name servers", check: parse::name_server } => container.network.dns,
        "Name servers of jobs; the engine's when empty.";

    Reload "container.warm.bash" = "0", WARM => container.warm.bash,
        "Containers that wait, started, for a Bash script: its first line comes in milliseconds. Each is used once, and costs about 13 MB.";
    Reload "container.warm.python" = "0", WARM => container.warm.python,
        "The same for Python scripts. The interpreter itself is not started ahead.";
    Reload "container.warm.nodejs" = "0", WARM => container.warm.nodejs,
        "The same for Node.js scripts.";
    Reload "container.warm.maxIdle" = "1h", time(SECOND, DAY) => container.warm.max_idle,
        "A container that has waited this long is replaced.";
    Reload "container.warm.minFreeMemory" = "256MB", Size { min: 0, max: 64 * TB } => container.warm.min_free_memory,
        "With less memory available on this host, no container waits, and jobs start as without any.";

    Restart "ssh.connectionPool.maxPerServer" = "5", Int { min: 1, max: 100 } => ssh.max_per_server,
        "Connections for each host, port, user and credential, each for up to 8 jobs.";
    Restart "ssh.connectionPool.idleTimeout" = "5m", time(SECOND, HOUR) => ssh.idle_timeout,
        "An unused connection is closed after this.";
    Restart "ssh.connectionPool.healthCheckInterval" = "30s", time(SECOND, HOUR) => ssh.health_check_interval,
        "Pause between two checks that a server still answers.";
    Restart "ssh.connectionPool.connectionTimeout" = "10s", time(TENTH, Duration::from_secs(300)) => ssh.connection_timeout,
        "For each step: resolve, connect, handshake, log in, open a session.";
    Reload "ssh.execution.defaultShell" = "/bin/bash", REMOTE_PATH => ssh.default_shell,
        "Runs Bash scripts on the server.";
    Reload "ssh.execution.tempDir" = "/tmp/cronium-{uid}", REMOTE_PATH => ssh.temp_dir,
        "On the server: where jobs have their folders. `{uid}` is the login's number there. It needs room for what jobs print.";
    Reload "ssh.execution.cleanupAfter" = "true", Bool => ssh.cleanup_after,
        "`false` leaves the folders of jobs there.";
    Reload "ssh.execution.ptyMode" = "false", Bool => ssh.pty_mode,
        "`true` gives scripts a terminal; the server needs `script` of util-linux.";
    Reload "ssh.execution.reconnectTimeout" = "5m", time(SECOND, DAY) => ssh.reconnect_timeout,
        "How long a server may be out of reach while a job runs there. The script goes on meanwhile; after this its end counts as unknown.";
    Restart "ssh.circuitBreaker.enabled" = "true", Bool => ssh.breaker_enabled,
        "One breaker for each host and port.";
    Restart "ssh.circuitBreaker.failureThreshold" = "5", COUNT => ssh.failure_threshold,
        "Failures in a row that open it: jobs then fail at once.";
    Restart "ssh.circuitBreaker.successThreshold" = "2", COUNT => ssh.success_threshold,
        "Connections that close it again.";
    Restart "ssh.circuitBreaker.timeout" = "60s", time(SECOND, HOUR) => ssh.breaker_timeout,
        "How long it stays open before a trial.";
    Restart "ssh.circuitBreaker.halfOpenRequests" = "3", COUNT => ssh.half_open_requests,
        "Trials at a time.";
    Restart "ssh.security.strictHostKeyChecking" = "true", Bool => ssh.strict_host_key_checking,
        "`false` records the first key of an unknown server in `ssh.security.knownHostsFile`. A changed key is refused all the same.";
    Restart "ssh.security.knownHostsFile" = "/etc/cronium/known_hosts", Path => ssh.known_hosts_file,
        "Trusted keys, in OpenSSH's format. `cronium-agent known-hosts add HOST[:PORT]` adds to it.";
    Restart "ssh.security.allowedCiphers" = "", ALGORITHMS => ssh.allowed_ciphers,
        "These alone, such as `[aes256-ctr]`; the agent's own list when empty.";
    Restart "ssh.security.allowedKeyExchanges" = "", ALGORITHMS => ssh.allowed_key_exchanges,
        "These alone, such as `[curve25519-sha256]`; the agent's own list when empty.";
    Restart "ssh.security.allowPasswords" = "false", Bool => ssh.allow_passwords,
        "`true` also uses passwords that come with a job.";
    Reload "ssh.hosts" = "", HOSTS => ssh.hosts,
        "Settings of some hosts; the first row whose `host` fits counts. `user` and `port` fill in what a job lacks, `algorithms` (`keyExchanges`, `ciphers`) replace the lists of `ssh.security`, `jump` names a jump host of `ssh.jumps`.";
    Reload "ssh.jumps" = "", JUMPS => ssh.jumps,
        "Jump hosts by name, which a row of `ssh.hosts` or a job names with `jump`. Each has `host`, `user`, `keyFile`, and perhaps `port` (22) and `passphraseFile`.";

    Reload "http.enabled" = "false", Bool => http.enabled,
        "`true` lets the backend make this agent send HTTP requests, for jobs of type HTTP_REQUEST. They come from this host's place in your network.";
    Reload "http.allow" = "*", List { form: "hosts: `*`, names such as www.example.com or *.example.com, addresses, or ranges such as 10.1.0.0/16", check: parse::host } => http.allow, when "http.enabled" is "true",
        "Where requests may go. `*`: all public addresses. A name opens its host, a range its addresses, private ones too. Loopback, link-local, metadata services, the engine and the agent stay closed.";
    Reload "http.maxResponse" = "5MB", Size { min: KB, max: 16 * MB } => http.max_response, when "http.enabled" is "true",
        "Kept of an answer's body; the rest is not read.";
    Reload "http.maxRedirects" = "0", Int { min: 0, max: 20 } => http.max_redirects, when "http.enabled" is "true",
        "Redirects that are followed. `0`: none, and the redirect is the answer.";
    Reload "http.caFile" = "", Path => http.ca_file, when "http.enabled" is "true",
        "Trusted certificates for `https`, PEM; the system's when not set, or the bundled ones where it has none.";

    Reload "redact.environment" = "names", Words(RedactEnvironment::WORDS) => redact.environment,
        "Which variables of a job hold secrets, which the agent takes out of all that leaves it: those that `redact.names` names, all, or none.";
    Reload "redact.names" = "*TOKEN*, *SECRET*, *PASSWORD*, *PASSWD*, *PASSPHRASE*, *CREDENTIAL*, *PRIVATE*, *KEY*, *_AUTH, *_DSN, *DATABASE_URL*, *CONNECTION_STRING*", List { form: "names of variables, where `*` stands for any text, such as `*TOKEN*`", check: parse::name_pattern } => redact.names,
        "Names of variables, and of an HTTP request's headers, whose values are secrets. Case does not count.";
    Reload "redact.variables" = "*TOKEN*, *SECRET*, *PASSWORD*, *PASSWD*, *PASSPHRASE*, *CREDENTIAL*, *PRIVATE*, *KEY*", List { form: "names of variables, where `*` stands for any text, such as `*TOKEN*`", check: parse::name_pattern } => redact.variables,
        "Names of the helpers' variables whose values are secrets once a script reads them.";

    Reload "logging.level" = "info", Words(LEVELS) => logging.level,
        "Least level of the agent's own log.";
    Restart "logging.format" = "json", Words(LogFormat::WORDS) => logging.format,
        "One line an entry, either way.";
    Restart "logging.output" = "stdout", Words(LogOutput::WORDS) => logging.output,
        "Where the log goes.";
    Restart "logging.file.path" = "/var/log/cronium/cronium-agent.log", Path => logging.file.path, when "logging.output" is "file",
        "The log's file.";
    Restart "logging.file.maxSize" = "100MB", Size { min: 64 * KB, max: TB } => logging.file.max_size, when "logging.output" is "file",
        "Size after which the file is rotated.";
    Restart "logging.file.maxBackups" = "10", Int { min: 0, max: 1000 } => logging.file.max_backups, when "logging.output" is "file",
        "Rotated files that are kept.";
    Restart "logging.file.maxAge" = "30", Int { min: 1, max: 3650 } => logging.file.max_age, when "logging.output" is "file",
        "Days that rotated files are kept.";
    Restart "logging.live" = "auto", Words(LiveWay::WORDS) => logging.live,
        "How viewers get lines while a script runs: over the WebSocket, by updates of its execution, or not. `auto`: the WebSocket if one answers, else updates.";
    Restart "logging.websocket.enabled" = "true", Bool => logging.websocket.enabled,
        "Sends the lines of jobs to the backend while they run.";
    Restart "logging.websocket.bufferSize" = "1000", Int { min: 1, max: 100_000 } => logging.websocket.buffer_size,
        "Lines of a job that wait at most.";
    Restart "logging.websocket.flushInterval" = "100ms", time(MS, Duration::from_secs(10)) => logging.websocket.flush_interval,
        "How long lines are collected for one message.";
    Restart "logging.websocket.batchSize" = "50", Int { min: 1, max: 10_000 } => logging.websocket.batch_size,
        "Most lines of one message.";

    Restart "monitoring.enabled" = "true", Bool => monitoring.enabled,
        "Serves `/health`, `/ready`, `/live` and `/metrics`.";
    Restart "monitoring.bindAddress" = "127.0.0.1", form("an IP address such as 127.0.0.1 or 0.0.0.0") => monitoring.bind_address,
        "Where the ports are opened.";
    Restart "monitoring.healthPort" = "8080", PORT => monitoring.health_port,
        "All paths.";
    Restart "monitoring.metricsPort" = "9090", PORT => monitoring.metrics_port,
        "`/metrics` alone; may be the same port.";
    Restart "monitoring.page" = "true", Bool => monitoring.page,
        "A page for people at `/` of the health port: jobs by id and event, how they ended, how the agent is.";

    Restart "security.tls.enabled" = "false", Bool => tls.enabled,
        "`true`: towards the backend, trust `security.tls.caFile` and show a certificate.";
    Restart "security.tls.caFile" = "", Path => tls.ca_file,
        "Trusted certificates, PEM; the bundled ones when not set.";
    Restart "security.tls.certFile" = "", Path => tls.cert_file,
        "The agent's own certificate, PEM.";
    Restart "security.tls.keyFile" = "", Path => tls.key_file,
        "The certificate's private key, PEM; give it mode 0600.";

    Reload "security.signatures.mode" = "off", Words(SignatureMode::WORDS) => trust.signatures,
        "`require`: a job without a valid signature of a trusted key is refused. `warn`: it runs, and the log says why it has none. See docs/signing.md.";
    Reload "security.signatures.keys" = "", Path => trust.keys,
        "The file of trusted keys, one a line: `NAME ed25519 KEY`. `cronium-agent sign keygen` makes one. Read again at a reload.";
    Reload "security.signatures.maxAge" = "0s", time(Duration::ZERO, YEARS) => trust.max_age,
        "How old a signature may be. `0s`: any age, until it expires.";
    Reload "security.allowedScripts" = "", Path => trust.scripts,
        "A list of SHA-256 sums, as `sha256sum` prints them. No other script runs here, but one with a valid signature where `security.signatures.keys` is set.";
    Restart "security.receipts" = "false", Bool => receipts,
        "`true`: each report carries a receipt, signed with a key that the agent makes in `state.dir`: what ran, how, how it ended. See docs/receipts.md.";

    Restart "state.dir" = "/var/lib/cronium", Path => state.dir,
        "Jobs, results and the agent's id, mode 0700. `$STATE_DIRECTORY`, which systemd sets, ranks above the environment and the file.";
    Restart "state.runtimeDir" = "", Path => state.runtime_dir,
        "Folder for the sockets of running scripts; the engine must see it under the same path. When not set: `$RUNTIME_DIRECTORY`, which systemd sets, else `/run/cronium`, `$XDG_RUNTIME_DIR/cronium`, or `run` in `state.dir`, the first that can be made.";
    Reload "state.minFreeDisk" = "500MB", Size { min: 0, max: 1 << 60 } => state.min_free_disk,
        "With less free, or with room for fewer than 1000 files, the agent claims nothing.";
};

/// A key of the older orchestrator.
const fn older(path: &'static str, kind: Kind) -> Key {
    Key { path, default: "", kind, field: None, alias: None, effect: Restart, when: None, help: "" }
}

/// Keys of the older orchestrator. They are accepted with a warning, so that its files keep working.
static OLDER: &[Key] = &[
    older("container.volumes.basePath", Kind::Ignored),
    older("container.volumes.tempPath", Kind::Ignored),
    older("container.volumes.retention", Kind::Ignored),
    older("container.runtime.*", Kind::Ignored),
    // The engine's own profile holds for every job.
    older(
        "container.security.apparmorProfile",
        Later(|text| !matches!(text, "docker-default" | "unconfined" | "false")),
    ),
    older("ssh.connectionPool.minPerServer", Kind::Ignored),
    older("ssh.execution.isolationMode", Kind::Ignored),
    older("ssh.execution.payloadStorageDir", Kind::Ignored),
    older("ssh.execution.cleanupPayloads", Kind::Ignored),
    older("ssh.execution.payloadRetentionPeriod", Kind::Ignored),
    older("ssh.execution.payloadCleanupInterval", Kind::Ignored),
    older("ssh.security.hostKeyPolicy", Kind::Ignored),
    older("ssh.security.payloadSigningKeyFile", Kind::Ignored),
    older("ssh.security.allowedMACs", Kind::Ignored),
    older("ssh.security.allowLegacyAlgorithms", Kind::Ignored),
    older("logging.file.enabled", Kind::Ignored),
    older("logging.websocket.compression", Kind::Ignored),
    older("monitoring.tracing.*", Kind::Ignored),
    older("monitoring.profiling.*", Kind::Ignored),
    older("security.authentication.*", Kind::Ignored),
    older("security.encryption.*", Kind::Ignored),
    older("features.containerPooling", Later(|_| false)),
    older("features.*", Kind::Ignored),
];

/// A configuration in which no key is set yet.
pub(super) fn empty() -> Config {
    Config {
        orchestrator: Default::default(),
        api: Default::default(),
        jobs: Default::default(),
        container: Default::default(),
        ssh: Default::default(),
        http: Default::default(),
        redact: Default::default(),
        logging: Default::default(),
        monitoring: Default::default(),
        tls: Default::default(),
        trust: Default::default(),
        receipts: false,
        state: Default::default(),
    }
}

/// Every default, without endpoint and token: for `exec`, and for tests of other modules.
pub fn defaults() -> Config {
    let mut config = empty();
    for key in KEYS {
        // A test holds that every default is allowed.
        let _ = key.put(&mut config, &Given::Text(key.default.to_owned()));
    }
    config
}

/// All keys, in the order in which they are shown.
pub fn keys() -> impl Iterator<Item = &'static Key> + Clone {
    KEYS.iter().chain(OLDER)
}

/// The key at `path`, exactly.
pub fn key(path: &str) -> Option<&'static Key> {
    keys().find(|key| key.path == path)
}

/// Gives one key a value, with the checks of a configuration; the error is what is allowed.
pub fn set(config: &mut Config, path: &str, text: &str) -> Result<(), String> {
    let key = key(path).ok_or_else(|| format!("there is no key {path}"))?;
    key.put(config, &Given::Text(text.to_owned()))
}

//! The keys of `ssh`, `logging`, `monitoring`, `security`, `state` and `features`.

use std::path::PathBuf;
use std::time::Duration;

use super::keys_agent::{
    HOUR, KB, MS, SECOND, custom, custom_number, duration, ignored, int, later, line, list, opt_path, path, size, text,
    truth, word,
};
use super::schema::{IntAt, Key, Shown, whole};
use super::types::{Config, LogFormat, LogOutput};
use super::value::{parse_size, show_size};

const DAY: u64 = 24 * 3600;
const DAY_LONG: Duration = Duration::from_secs(DAY);
const TB: u64 = 1 << 40;

/// The names of ciphers and key exchanges, as in an SSH handshake.
fn algorithm(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@+".contains(&b));
    if plain && text.len() <= 64 {
        Ok(text.to_owned())
    } else {
        Err("names of algorithms such as aes256-ctr".to_owned())
    }
}

/// A path on the server. It meets a shell there, which is the executor's care; here it must be a path.
fn remote_path(text: &str) -> Result<(), String> {
    line(text)?;
    if text.starts_with('/') { Ok(()) } else { Err("a path that begins with `/`".to_owned()) }
}

fn bind_address(config: &mut Config, text: &str) -> Result<(), String> {
    config.monitoring.bind_address = text.parse().map_err(|_| "an IP address such as 127.0.0.1 or 0.0.0.0")?;
    Ok(())
}

/// Stands before the keys of `file`, which only fill what this made.
fn output(config: &mut Config, index: usize) {
    config.logging.output = match index {
        0 => LogOutput::Stdout,
        _ => LogOutput::File { path: PathBuf::new(), max_size: 0, max_backups: 0, max_age: Duration::ZERO },
    };
}

fn file_path(config: &mut Config, text: &str) -> Result<(), String> {
    if text.contains('\0') {
        return Err("a path".to_owned());
    }
    if let LogOutput::File { path, .. } = &mut config.logging.output {
        *path = PathBuf::from(text);
    }
    Ok(())
}

fn file_size(config: &mut Config, text: &str) -> Result<(), String> {
    let size = parse_size(text).filter(|size| (64 * KB..=TB).contains(size)).ok_or("a size from 64KB to 1TB")?;
    if let LogOutput::File { max_size, .. } = &mut config.logging.output {
        *max_size = size;
    }
    Ok(())
}

fn file_backups(config: &mut Config, text: &str) -> Result<(), String> {
    let count = whole(text).filter(|count| *count <= 1000).and_then(|count| usize::try_from(count).ok());
    let count = count.ok_or("a whole number from 0 to 1000")?;
    if let LogOutput::File { max_backups, .. } = &mut config.logging.output {
        *max_backups = count;
    }
    Ok(())
}

fn file_age(config: &mut Config, text: &str) -> Result<(), String> {
    let days = whole(text).filter(|days| (1..=3650).contains(days)).ok_or("a whole number of days from 1 to 3650")?;
    if let LogOutput::File { max_age, .. } = &mut config.logging.output {
        *max_age = Duration::from_secs(days * DAY);
    }
    Ok(())
}

/// What `read` finds in the file's settings, when the output is a file.
fn of_file(config: &Config, read: impl Fn(&PathBuf, u64, usize, Duration) -> Shown) -> Shown {
    match &config.logging.output {
        LogOutput::Stdout => Shown::Unset,
        LogOutput::File { path, max_size, max_backups, max_age } => read(path, *max_size, *max_backups, *max_age),
    }
}

const LEVELS: [log::LevelFilter; 6] = [
    log::LevelFilter::Info,
    log::LevelFilter::Off,
    log::LevelFilter::Error,
    log::LevelFilter::Warn,
    log::LevelFilter::Debug,
    log::LevelFilter::Trace,
];

pub(super) static KEYS: &[Key] = &[
    int("ssh.connectionPool.maxPerServer", "5", 1, 100, IntAt::Usize(|c| &mut c.ssh.max_per_server)),
    ignored("ssh.connectionPool.minPerServer"),
    duration("ssh.connectionPool.idleTimeout", "5m", SECOND, HOUR, |c| &mut c.ssh.idle_timeout),
    duration("ssh.connectionPool.healthCheckInterval", "30s", SECOND, HOUR, |c| &mut c.ssh.health_check_interval),
    duration(
        "ssh.connectionPool.connectionTimeout",
        "10s",
        Duration::from_millis(100),
        Duration::from_secs(300),
        |c| &mut c.ssh.connection_timeout,
    ),
    text("ssh.execution.defaultShell", "/bin/bash", remote_path, |c| &mut c.ssh.default_shell),
    text("ssh.execution.tempDir", "/tmp/cronium-{uid}", remote_path, |c| &mut c.ssh.temp_dir),
    truth("ssh.execution.cleanupAfter", "true", |c| &mut c.ssh.cleanup_after),
    truth("ssh.execution.ptyMode", "false", |c| &mut c.ssh.pty_mode),
    duration("ssh.execution.reconnectTimeout", "5m", SECOND, DAY_LONG, |c| &mut c.ssh.reconnect_timeout),
    truth("ssh.circuitBreaker.enabled", "true", |c| &mut c.ssh.breaker_enabled),
    int("ssh.circuitBreaker.failureThreshold", "5", 1, 1000, IntAt::U32(|c| &mut c.ssh.failure_threshold)),
    int("ssh.circuitBreaker.successThreshold", "2", 1, 1000, IntAt::U32(|c| &mut c.ssh.success_threshold)),
    duration("ssh.circuitBreaker.timeout", "60s", SECOND, HOUR, |c| &mut c.ssh.breaker_timeout),
    int("ssh.circuitBreaker.halfOpenRequests", "3", 1, 1000, IntAt::U32(|c| &mut c.ssh.half_open_requests)),
    truth("ssh.security.strictHostKeyChecking", "true", |c| &mut c.ssh.strict_host_key_checking),
    path("ssh.security.knownHostsFile", "/etc/cronium/known_hosts", |c| &mut c.ssh.known_hosts_file),
    list("ssh.security.allowedCiphers", "", algorithm, |c| &mut c.ssh.allowed_ciphers),
    list("ssh.security.allowedKeyExchanges", "", algorithm, |c| &mut c.ssh.allowed_key_exchanges),
    truth("ssh.security.allowPasswords", "false", |c| &mut c.ssh.allow_passwords),
    word(
        "logging.level",
        &["info", "off", "error", "warn", "debug", "trace"],
        |c, i| c.logging.level = LEVELS[i],
        |c| LEVELS.iter().position(|level| *level == c.logging.level).unwrap_or(0),
    ),
    word(
        "logging.format",
        &["json", "text"],
        |c, i| c.logging.format = [LogFormat::Json, LogFormat::Text][i],
        |c| usize::from(c.logging.format == LogFormat::Text),
    ),
    word("logging.output", &["stdout", "file"], output, |c| usize::from(c.logging.output != LogOutput::Stdout)),
    custom("logging.file.path", "/var/log/cronium/cronium-agent.log", file_path, |c| {
        of_file(c, |path, _, _, _| Shown::Text(path.display().to_string()))
    }),
    custom_number("logging.file.maxSize", "100MB", file_size, |c| {
        of_file(c, |_, size, _, _| Shown::Plain(show_size(size)))
    }),
    custom_number("logging.file.maxBackups", "10", file_backups, |c| {
        of_file(c, |_, _, count, _| Shown::Plain(count.to_string()))
    }),
    custom_number("logging.file.maxAge", "30", file_age, |c| {
        of_file(c, |_, _, _, age| Shown::Plain((age.as_secs() / DAY).to_string()))
    }),
    truth("logging.websocket.enabled", "true", |c| &mut c.logging.websocket.enabled),
    int("logging.websocket.bufferSize", "1000", 1, 100_000, IntAt::Usize(|c| &mut c.logging.websocket.buffer_size)),
    duration("logging.websocket.flushInterval", "100ms", MS, Duration::from_secs(10), |c| {
        &mut c.logging.websocket.flush_interval
    }),
    int("logging.websocket.batchSize", "50", 1, 10_000, IntAt::Usize(|c| &mut c.logging.websocket.batch_size)),
    ignored("logging.websocket.compression"),
    truth("monitoring.enabled", "true", |c| &mut c.monitoring.enabled),
    custom("monitoring.bindAddress", "127.0.0.1", bind_address, |c| Shown::Text(c.monitoring.bind_address.to_string())),
    int("monitoring.healthPort", "8080", 1, 65535, IntAt::U16(|c| &mut c.monitoring.health_port)),
    int("monitoring.metricsPort", "9090", 1, 65535, IntAt::U16(|c| &mut c.monitoring.metrics_port)),
    ignored("monitoring.tracing.*"),
    ignored("monitoring.profiling.*"),
    truth("security.tls.enabled", "false", |c| &mut c.tls.enabled),
    opt_path("security.tls.caFile", |c| &mut c.tls.ca_file),
    opt_path("security.tls.certFile", |c| &mut c.tls.cert_file),
    opt_path("security.tls.keyFile", |c| &mut c.tls.key_file),
    ignored("security.authentication.*"),
    ignored("security.encryption.*"),
    path("state.dir", "/var/lib/cronium", |c| &mut c.state.dir),
    size("state.minFreeDisk", "500MB", 0, 1 << 60, IntAt::U64(|c| &mut c.state.min_free_disk)),
    later("features.containerPooling", |_| false),
    ignored("features.*"),
];

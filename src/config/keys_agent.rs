//! The keys of `orchestrator`, `api` and `jobs`, and the shapes that the tables are written with.

use std::path::PathBuf;
use std::time::Duration;

use super::schema::{At, Field, IntAt, Key, Shown, Unquoted, float, text_or_unset};
use super::types::{BackoffKind, Config, OnShutdown, QueueStrategy};
use super::url;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
pub(super) const KB: u64 = 1 << 10;
pub(super) const MB: u64 = 1 << 20;

const fn new(path: &'static str, default: &'static str, field: Field) -> Key {
    Key { path, default, aliases: &[], field }
}

pub(super) const fn text(
    path: &'static str,
    default: &'static str,
    check: fn(&str) -> Result<(), String>,
    at: At<String>,
) -> Key {
    new(path, default, Field::Text { at, check })
}

pub(super) const fn path(path: &'static str, default: &'static str, at: At<PathBuf>) -> Key {
    new(path, default, Field::Path { at })
}

pub(super) const fn opt_path(path: &'static str, at: At<Option<PathBuf>>) -> Key {
    new(path, "", Field::OptPath { at })
}

pub(super) const fn truth(path: &'static str, default: &'static str, at: At<bool>) -> Key {
    new(path, default, Field::Bool { at })
}

pub(super) const fn duration(
    path: &'static str,
    default: &'static str,
    min: Duration,
    max: Duration,
    at: At<Duration>,
) -> Key {
    new(path, default, Field::Duration { at, min, max })
}

pub(super) const fn size(path: &'static str, default: &'static str, min: u64, max: u64, at: IntAt) -> Key {
    new(path, default, Field::Size { at, min, max })
}

pub(super) const fn int(path: &'static str, default: &'static str, min: u64, max: u64, at: IntAt) -> Key {
    new(path, default, Field::Int { at, min, max })
}

pub(super) const fn number(path: &'static str, default: &'static str, min: f64, max: f64, at: At<f64>) -> Key {
    new(path, default, Field::Float { at, min, max })
}

pub(super) const fn list(
    path: &'static str,
    default: &'static str,
    check: fn(&str) -> Result<String, String>,
    at: At<Vec<String>>,
) -> Key {
    new(path, default, Field::List { at, check })
}

pub(super) const fn word(
    path: &'static str,
    words: &'static [&'static str],
    put: fn(&mut Config, usize),
    get: fn(&Config) -> usize,
) -> Key {
    new(path, words[0], Field::Word { words, put, get })
}

pub(super) const fn custom(
    path: &'static str,
    default: &'static str,
    put: fn(&mut Config, &str) -> Result<(), String>,
    get: fn(&Config) -> Shown,
) -> Key {
    new(path, default, Field::Custom { unquoted: Unquoted::Nothing, put, get })
}

/// As [`custom`], and the file may give the value as a number.
pub(super) const fn custom_number(
    path: &'static str,
    default: &'static str,
    put: fn(&mut Config, &str) -> Result<(), String>,
    get: fn(&Config) -> Shown,
) -> Key {
    new(path, default, Field::Custom { unquoted: Unquoted::Number, put, get })
}

pub(super) const fn aside(path: &'static str, default: &'static str, truth: bool) -> Key {
    new(path, default, Field::Aside { truth })
}

pub(super) const fn ignored(path: &'static str) -> Key {
    new(path, "", Field::Ignored)
}

pub(super) const fn later(path: &'static str, refuse: fn(&str) -> bool) -> Key {
    new(path, "", Field::Later { refuse })
}

/// Text for names: one line of at most 200 characters.
pub(super) fn line(text: &str) -> Result<(), String> {
    if text.chars().count() <= 200 && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err("one line of at most 200 characters".to_owned())
}

/// The id travels in an HTTP header, a label and a container's name.
fn id(text: &str) -> Result<(), String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if plain && (1..=100).contains(&text.len()) {
        return Ok(());
    }
    Err("`auto`, or 1 to 100 letters, digits, `-`, `_` and `.`".to_owned())
}

fn tag(text: &str) -> Result<String, String> {
    line(text).map(|()| text.to_owned())
}

/// A base without a final slash; an empty path is the deployed backend's own.
fn endpoint(config: &mut Config, text: &str) -> Result<(), String> {
    config.api.endpoint = String::new();
    if text.is_empty() {
        return Ok(());
    }
    let url = url::parse(text, &["http", "https"])
        .map_err(|why| format!("an address such as https://cronium.example:5001; {why}"))?;
    let path = match url.path.trim_end_matches('/') {
        "" => "/api/internal",
        path => path,
    };
    config.api.endpoint = format!("{}://{}{path}", url.scheme, url.authority);
    Ok(())
}

fn ws_endpoint(config: &mut Config, text: &str) -> Result<(), String> {
    if !text.is_empty() {
        url::parse(text, &["ws", "wss"])
            .map_err(|why| format!("an address such as wss://cronium.example:5001/api/internal/socket; {why}"))?;
    }
    config.api.ws_endpoint = text.to_owned();
    Ok(())
}

/// Also the effect of `enabled`, which stands before the rate: without a rate there is nothing to set.
fn rate_enabled(config: &mut Config, text: &str) -> Result<(), String> {
    config.api.rate_limit = match text {
        "true" => Some(config.api.rate_limit.unwrap_or_default()),
        "false" => None,
        _ => return Err("true or false".to_owned()),
    };
    Ok(())
}

fn rate(config: &mut Config, text: &str) -> Result<(), String> {
    let rate = float(text, 0.1, 10_000.0).ok_or("a number from 0.1 to 10000")?;
    if config.api.rate_limit.is_some() {
        config.api.rate_limit = Some(rate);
    }
    Ok(())
}

pub(super) static KEYS: &[Key] = &[
    text("orchestrator.id", "auto", id, |c| &mut c.orchestrator.id),
    text("orchestrator.name", "", line, |c| &mut c.orchestrator.name),
    text("orchestrator.environment", "", line, |c| &mut c.orchestrator.environment),
    text("orchestrator.region", "", line, |c| &mut c.orchestrator.region),
    list("orchestrator.tags", "", tag, |c| &mut c.orchestrator.tags),
    custom("api.endpoint", "", endpoint, |c| text_or_unset(c.api.endpoint.clone())).alias(&["CRONIUM_API_URL"]),
    new("api.token", "", Field::Secret { at: |c| &mut c.api.token }).alias(&["CRONIUM_SERVICE_TOKEN"]),
    aside("api.tokenFile", "", false),
    custom("api.wsEndpoint", "", ws_endpoint, |c| text_or_unset(c.api.ws_endpoint.clone())).alias(&["CRONIUM_WS_URL"]),
    duration("api.timeout", "30s", Duration::from_millis(100), Duration::from_secs(600), |c| &mut c.api.timeout),
    int("api.retry.maxAttempts", "3", 1, 20, IntAt::U32(|c| &mut c.api.retry.max_attempts)),
    duration("api.retry.initialDelay", "1s", MS, HOUR, |c| &mut c.api.retry.initial_delay),
    duration("api.retry.maxDelay", "30s", MS, HOUR, |c| &mut c.api.retry.max_delay),
    word(
        "api.retry.backoffType",
        &["exponential", "linear", "fixed"],
        |c, i| c.api.retry.backoff = [BackoffKind::Exponential, BackoffKind::Linear, BackoffKind::Fixed][i],
        |c| match c.api.retry.backoff {
            BackoffKind::Exponential => 0,
            BackoffKind::Linear => 1,
            BackoffKind::Fixed => 2,
        },
    ),
    new(
        "api.rateLimit.enabled",
        "true",
        Field::Custom {
            unquoted: Unquoted::Truth,
            put: rate_enabled,
            get: |c| Shown::Plain(c.api.rate_limit.is_some().to_string()),
        },
    ),
    custom_number("api.rateLimit.requestsPerSecond", "10", rate, |c| {
        c.api.rate_limit.map_or(Shown::Unset, |rate| Shown::Plain(rate.to_string()))
    }),
    duration("jobs.pollInterval", "1s", Duration::from_millis(10), HOUR, |c| &mut c.jobs.poll_interval),
    duration("jobs.maxPollInterval", "15s", Duration::from_millis(10), HOUR, |c| &mut c.jobs.max_poll_interval),
    int("jobs.pollBatchSize", "10", 1, 100, IntAt::Usize(|c| &mut c.jobs.poll_batch_size)),
    int("jobs.maxConcurrent", "5", 1, 100, IntAt::Usize(|c| &mut c.jobs.max_concurrent)),
    duration("jobs.defaultTimeout", "1h", SECOND, MONTH, |c| &mut c.jobs.default_timeout),
    duration("jobs.maxTimeout", "24h", SECOND, MONTH, |c| &mut c.jobs.max_timeout)
        .alias(&["CRONIUM_MAX_EXECUTION_TIMEOUT"]),
    duration("jobs.setupTimeout", "5m", SECOND, HOUR, |c| &mut c.jobs.setup_timeout).alias(&["CRONIUM_SETUP_TIMEOUT"]),
    duration("jobs.cleanupTimeout", "1m", SECOND, HOUR, |c| &mut c.jobs.cleanup_timeout)
        .alias(&["CRONIUM_CLEANUP_TIMEOUT"]),
    duration("jobs.stopGrace", "5s", Duration::ZERO, HOUR, |c| &mut c.jobs.stop_grace),
    duration("jobs.drainTimeout", "5m", Duration::ZERO, MONTH, |c| &mut c.jobs.drain_timeout),
    word(
        "jobs.queueStrategy",
        &["priority", "fifo"],
        |c, i| c.jobs.queue_strategy = [QueueStrategy::Priority, QueueStrategy::Fifo][i],
        |c| usize::from(c.jobs.queue_strategy == QueueStrategy::Fifo),
    ),
    word(
        "jobs.onShutdown",
        &["leave", "cancel"],
        |c, i| c.jobs.on_shutdown = [OnShutdown::Leave, OnShutdown::Cancel][i],
        |c| usize::from(c.jobs.on_shutdown == OnShutdown::Cancel),
    ),
    duration("jobs.reportRetention", "168h", SECOND, MONTH, |c| &mut c.jobs.report_retention),
    duration("jobs.leaseRenewal", "30s", Duration::from_millis(100), HOUR, |c| &mut c.jobs.lease_renewal),
    duration("jobs.stopAfterLost", "0s", Duration::ZERO, MONTH, |c| &mut c.jobs.stop_after_lost),
    size("jobs.maxOutput", "4MB", KB, 64 * MB, IntAt::Usize(|c| &mut c.jobs.max_output)),
];

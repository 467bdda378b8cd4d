//! What a configuration that was read again may change in a running agent, key by key, and what needs a restart.

use super::schema::{Field, Key, Shown, keys};
use super::show::scalar;
use super::types::{Config, Container, Logging, Seccomp, Ssh, State};

/// Keys that take effect at SIGHUP, for what begins after it. A final `*` stands for all keys below.
const RELOADED: &[&str] = &[
    "jobs.*",
    "container.images.*",
    "container.resources.*",
    "container.security.*",
    "container.network.*",
    "ssh.execution.*",
    "logging.level",
    "state.minFreeDisk",
];

/// The others, which a test holds against the schema: they are looked at when the agent starts and not again: what they shape is made once, or is the agent's identity.
#[cfg(test)]
const RESTARTED: &[&str] = &[
    "orchestrator.*",
    "api.*",
    "container.docker.*",
    "container.registryAuthFile",
    "ssh.connectionPool.*",
    "ssh.circuitBreaker.*",
    "ssh.security.*",
    "logging.format",
    "logging.output",
    "logging.file.*",
    "logging.websocket.*",
    "monitoring.*",
    "security.tls.*",
    "state.dir",
];

/// One key whose value differs, for people. Never a secret's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: &'static str,
    pub old: String,
    pub new: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} → {}", self.key, self.old, self.new)
    }
}

/// What differs between the configuration in effect and one that was read again.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Takes effect.
    pub taken: Vec<Change>,
    /// Does not before a restart.
    pub waiting: Vec<Change>,
}

/// Compares key by key.
pub fn changes(running: &Config, fresh: &Config) -> Changes {
    let (mut old, mut new) = (running.clone(), fresh.clone());
    let mut changes = Changes::default();
    for key in keys().filter(|key| key.has_meaning()) {
        if let Some(change) = change(key, &mut old, &mut new) {
            let list = if is_reloaded(key.path) { &mut changes.taken } else { &mut changes.waiting };
            list.push(change);
        }
    }
    changes
}

/// `running` with what `fresh` changes in it without a restart.
pub fn merged(running: &Config, fresh: &Config) -> Config {
    let (old, new) = (running.clone(), fresh.clone());
    Config {
        jobs: new.jobs,
        container: Container {
            docker: old.container.docker,
            registry_auth_file: old.container.registry_auth_file,
            ..new.container
        },
        ssh: Ssh {
            default_shell: new.ssh.default_shell,
            temp_dir: new.ssh.temp_dir,
            cleanup_after: new.ssh.cleanup_after,
            pty_mode: new.ssh.pty_mode,
            reconnect_timeout: new.ssh.reconnect_timeout,
            ..old.ssh
        },
        logging: Logging { level: new.logging.level, ..old.logging },
        state: State { min_free_disk: new.state.min_free_disk, ..old.state },
        orchestrator: old.orchestrator,
        api: old.api,
        monitoring: old.monitoring,
        tls: old.tls,
    }
}

/// Whether the key takes effect at SIGHUP.
fn is_reloaded(path: &str) -> bool {
    RELOADED.iter().any(|pattern| covers(pattern, path))
}

fn covers(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(section) => path.starts_with(section),
        None => path == pattern,
    }
}

fn change(key: &Key, old: &mut Config, new: &mut Config) -> Option<Change> {
    let (before, after) = (key.shown(old), key.shown(new));
    // Shown alike, whatever they are: a secret, and the words of a profile's file.
    let hidden = match key.field {
        Field::Secret { at } => (at(old) != at(new)).then_some("(another value)"),
        _ if key.path == "container.security.seccompProfile" => {
            let json = |config: &Config| match &config.container.security.seccomp {
                Seccomp::Profile { json, .. } => Some(json.clone()),
                Seccomp::Default => None,
            };
            (json(old) != json(new)).then_some("(another content)")
        }
        _ => None,
    };
    if before == after && hidden.is_none() {
        return None;
    }
    let words = |value: &Shown| if *value == Shown::Unset { "(not set)".to_owned() } else { scalar(value) };
    let new = if before == after { hidden.unwrap_or_default().to_owned() } else { words(&after) };
    Some(Change { key: key.path, old: words(&before), new })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Sources, load, show::effective};

    /// A configuration with these keys, the token through the environment.
    fn config(pairs: &[(&str, &str)], token: &str) -> Config {
        let env = |name: &str| (name == "CRONIUM_API_TOKEN").then(|| token.to_owned());
        let mut overrides = vec![("api.endpoint".to_owned(), "http://127.0.0.1:5001".to_owned())];
        overrides.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let sources = Sources { search: Vec::new(), overrides, ..Sources::new(&env) };
        load(&sources).map_err(|problems| format!("{pairs:?}: {problems}")).expect("valid").config
    }

    #[test]
    fn every_key_is_in_one_of_the_two_groups_and_no_pattern_is_idle() {
        for key in keys().filter(|key| key.has_meaning()) {
            let groups = [RELOADED, RESTARTED].map(|group| group.iter().filter(|p| covers(p, key.path)).count());
            assert_eq!(groups.iter().sum::<usize>(), 1, "{}: {groups:?}", key.path);
        }
        for pattern in RELOADED.iter().chain(RESTARTED) {
            assert!(keys().any(|key| covers(pattern, key.path)), "{pattern} is no key");
        }
    }

    /// For each key another value than its default.
    fn others() -> Vec<(&'static str, String)> {
        let special = BTreeMap::from([
            ("orchestrator.id", "edge-9"),
            ("api.endpoint", "http://127.0.0.1:5002"),
            ("api.wsEndpoint", "ws://127.0.0.1:5003/x"),
            ("api.rateLimit.enabled", "false"),
            ("api.rateLimit.requestsPerSecond", "99"),
            ("jobs.stopAfterLost", "90s"),
            ("container.docker.endpoint", "unix:///run/other.sock"),
            ("container.docker.version", "1.44"),
            ("container.images.bash", "other/bash:1"),
            ("container.images.python", "other/python:1"),
            ("container.images.nodejs", "other/node:1"),
            ("container.resources.limits.cpu", "3"),
            ("container.security.user", "1001:1001"),
            ("container.security.dropCapabilities", "NET_RAW"),
            ("container.network.mode", "none"),
            ("container.network.dns", "9.9.9.9"),
            ("ssh.execution.defaultShell", "/bin/sh"),
            ("ssh.execution.tempDir", "/var/tmp/x"),
            ("ssh.security.allowedCiphers", "aes256-ctr"),
            ("ssh.security.allowedKeyExchanges", "curve25519-sha256"),
            ("monitoring.bindAddress", "127.0.0.2"),
        ]);
        // Without a file that exists, or another key beside them, these have no other value.
        let left_out = ["api.token", "container.registryAuthFile", "container.security.seccompProfile"];
        let left_out = |path: &str| {
            left_out.contains(&path) || path.starts_with("logging.file.") || path.starts_with("security.tls.")
        };
        keys()
            .filter(|key| key.has_meaning() && !matches!(key.field, Field::Aside { .. }) && !left_out(key.path))
            .map(|key| (key.path, special.get(key.path).map_or_else(|| other(key), |text| (*text).to_owned())))
            .collect()
    }

    fn other(key: &Key) -> String {
        match key.field {
            Field::Bool { .. } => if key.default == "true" { "false" } else { "true" }.to_owned(),
            Field::Duration { .. } => "9s".to_owned(),
            Field::Size { .. } => match key.path {
                "jobs.maxOutput" => "1MB",
                path if path.contains("defaults.") => "300MB",
                path if path.contains(".limits.") => "3GB",
                _ => "768MB",
            }
            .to_owned(),
            Field::Int { .. } => "12".to_owned(),
            Field::Float { .. } => "0.25".to_owned(),
            Field::Word { words, .. } => words[1].to_owned(),
            Field::Path { .. } => "/var/other".to_owned(),
            _ => "other".to_owned(),
        }
    }

    /// The table and [`merged`] say the same, for every key that can be given another value here.
    #[test]
    fn what_the_table_says_is_what_is_merged() {
        let running = config(&[], "t");
        let mut seen = 0;
        for (path, value) in others() {
            // In pairs that have an order, both go.
            let fresh = match path {
                "jobs.pollInterval" => config(&[(path, &value), ("jobs.maxPollInterval", "20s")], "t"),
                "container.resources.limits.pids" => config(&[(path, "2000")], "t"),
                _ => config(&[(path, &value)], "t"),
            };
            let found = changes(&running, &fresh);
            let all: Vec<&Change> = found.taken.iter().chain(&found.waiting).collect();
            assert!(all.iter().any(|change| change.key == path), "{path}: {value} is no other value: {all:?}");
            let merged = merged(&running, &fresh);
            assert_eq!(changes(&merged, &fresh).taken, [], "{path} should have taken effect");
            assert_eq!(changes(&running, &merged).waiting, [], "{path} should have waited for a restart");
            let (is, was, shall) = (shown(&merged, path), shown(&running, path), shown(&fresh, path));
            assert_eq!(is, if is_reloaded(path) { shall } else { was }, "{path}");
            seen += 1;
        }
        assert!(seen > 80, "{seen}");
    }

    fn shown(config: &Config, path: &str) -> Shown {
        effective(config).into_iter().find(|(key, _)| *key == path).expect("a key").1
    }

    #[test]
    fn a_secret_is_compared_and_not_shown_and_nothing_is_nothing() {
        let running = config(&[], "hunter2");
        assert_eq!(changes(&running, &config(&[], "hunter2")), Changes::default());
        let found = changes(&running, &config(&[("jobs.maxConcurrent", "3")], "correct-horse"));
        assert_eq!(found.taken[0].to_string(), "jobs.maxConcurrent 5 → 3");
        assert_eq!(found.waiting[0].to_string(), "api.token \"***\" → (another value)");
        assert_eq!((found.taken.len(), found.waiting.len()), (1, 1));
        let none = "container.resources.limits.readBps";
        let found = changes(&running, &config(&[(none, "1MB")], "hunter2"));
        assert_eq!(found.taken[0].to_string(), format!("{none} (not set) → 1MB"));
    }
}

//! Compares a configuration that was read again with the one in effect: what a reload changes, and what needs a restart.

use super::field::{Effect, Key, Value};
use super::keys::keys;
use super::show::{in_effect, scalar};
use super::types::Config;

/// One key whose value differs, for people. It never holds a secret.
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

/// The differences between the configuration in effect and one that was read again.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Takes effect.
    pub taken: Vec<Change>,
    /// Does not before a restart.
    pub waiting: Vec<Change>,
}

/// Compares key by key.
pub fn changes(running: &Config, fresh: &Config) -> Changes {
    let mut changes = Changes::default();
    for key in keys() {
        if let Some(change) = change(key, running, fresh) {
            let list = if key.effect == Effect::Reload { &mut changes.taken } else { &mut changes.waiting };
            list.push(change);
        }
    }
    changes
}

/// `running` with what `fresh` changes in it without a restart.
pub fn merged(running: &Config, fresh: &Config) -> Config {
    let mut merged = running.clone();
    for field in keys().filter(|key| key.effect == Effect::Reload).filter_map(|key| key.field) {
        (field.copy)(&mut merged, fresh);
    }
    // It has no key: it is where the token came from.
    merged.api.token_file.clone_from(&fresh.api.token_file);
    merged
}

fn change(key: &Key, old: &Config, new: &Config) -> Option<Change> {
    let words = |value: &Value| if *value == Value::Unset { "(not set)".to_owned() } else { scalar(key, value) };
    let (before, after) = (in_effect(key, old), in_effect(key, new));
    let new_words = match before == after {
        false => words(&after),
        // Both without effect, or equal.
        true if before == Value::Unset || key.field.is_none_or(|field| (field.same)(old, new)) => return None,
        // Shown alike, whatever they are: a secret, and the content of a profile's file.
        true if before == Value::Secret => "(another value)".to_owned(),
        true => "(another content)".to_owned(),
    };
    Some(Change { key: key.path, old: words(&before), new: new_words })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::field::Kind;
    use crate::config::keys;
    use crate::config::{Sources, load};

    /// A configuration with these keys, the token through the environment.
    fn config(pairs: &[(&str, &str)], token: &str) -> Config {
        let env = |name: &str| (name == "CRONIUM_API_TOKEN").then(|| token.to_owned());
        let mut overrides = vec![("api.endpoint".to_owned(), "http://127.0.0.1:5001".to_owned())];
        overrides.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let sources = Sources { search: Vec::new(), overrides, ..Sources::new(&env) };
        load(&sources).map_err(|problems| format!("{pairs:?}: {problems}")).expect("valid").config
    }

    /// For each key another value than its default.
    fn others() -> Vec<(&'static str, String)> {
        let special = BTreeMap::from([
            ("orchestrator.id", "edge-9"),
            ("api.endpoint", "http://127.0.0.1:5002"),
            ("api.wsEndpoint", "ws://127.0.0.1:5003/x"),
            ("api.proxy", "http://proxy.example:3128"),
            ("api.rateLimit.enabled", "false"),
            ("api.rateLimit.requestsPerSecond", "99"),
            ("jobs.stopAfterLost", "90s"),
            ("jobs.proofMaxAge", "90s"),
            ("jobs.types", "TOOL_ACTION"),
            ("container.docker.endpoint", "unix:///run/other.sock"),
            ("container.docker.version", "1.44"),
            ("container.images.bash", "other/bash:1"),
            ("container.images.python", "other/python:1"),
            ("container.images.nodejs", "other/node:1"),
            ("container.images.prune.high", "90%"),
            ("container.images.prune.low", "70%"),
            ("container.resources.limits.cpu", "3"),
            ("container.security.user", "1001:1001"),
            ("container.security.dropCapabilities", "NET_RAW"),
            ("container.network.mode", "none"),
            ("container.network.dns", "9.9.9.9"),
            ("ssh.execution.defaultShell", "/bin/sh"),
            ("ssh.execution.tempDir", "/var/tmp/x"),
            ("ssh.security.allowedCiphers", "aes256-ctr"),
            ("ssh.security.allowedKeyExchanges", "curve25519-sha256"),
            ("ssh.hosts", "[{host: a, port: 7}]"),
            ("monitoring.bindAddress", "127.0.0.2"),
        ]);
        // Without a file that exists, or another key beside them, these have no other value.
        let left_out = [
            "api.token",
            "container.registryAuthFile",
            "container.images.requireDigest",
            "container.docker.certPath",
            "container.security.seccompProfile",
            "security.signatures.mode",
            "security.signatures.keys",
            "security.allowedScripts",
            "ssh.jumps",
        ];
        let left_out = |path: &str| {
            let used = !path.starts_with("http.") || path == "http.enabled";
            left_out.contains(&path) || !used || path.starts_with("logging.file.") || path.starts_with("security.tls.")
        };
        keys()
            .filter(|key| key.field.is_some() && !left_out(key.path))
            .map(|key| (key.path, special.get(key.path).map_or_else(|| other(key), |text| (*text).to_owned())))
            .collect()
    }

    fn other(key: &Key) -> String {
        match key.kind {
            Kind::Bool => if key.default == "true" { "false" } else { "true" }.to_owned(),
            Kind::Time { .. } => "9s".to_owned(),
            Kind::Size { .. } => match key.path {
                "jobs.maxOutput" | "jobs.maxScriptOutput" => "2MB",
                path if path.contains("defaults.") => "300MB",
                path if path.contains(".limits.") => "3GB",
                _ => "768MB",
            }
            .to_owned(),
            Kind::Int { .. } => "12".to_owned(),
            Kind::Number { .. } => "0.25".to_owned(),
            Kind::Words(words) => words.iter().find(|word| **word != key.default).expect("another word").to_string(),
            Kind::Path => "/var/other".to_owned(),
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
            let key = keys::key(path).expect("a key");
            let (is, was, shall) = (key.get(&merged), key.get(&running), key.get(&fresh));
            assert_eq!(is, if key.effect == Effect::Reload { shall } else { was }, "{path}");
            seen += 1;
        }
        assert!(seen > 80, "{seen}");
    }

    #[test]
    fn a_secret_is_compared_and_not_shown_and_nothing_is_nothing() {
        let running = config(&[], "hunter2");
        assert_eq!(changes(&running, &config(&[], "hunter2")), Changes::default());
        let found = changes(&running, &config(&[("jobs.maxConcurrent", "3")], "correct-horse"));
        assert_eq!(found.taken[0].to_string(), "api.token \"***\" → (another value)");
        assert_eq!(found.taken[1].to_string(), "jobs.maxConcurrent 5 → 3");
        assert_eq!((found.taken.len(), found.waiting.len()), (2, 0));
        let none = "container.resources.limits.readBps";
        let found = changes(&running, &config(&[(none, "1MB")], "hunter2"));
        assert_eq!(found.taken[0].to_string(), format!("{none} (not set) → 1MB"));
    }
}

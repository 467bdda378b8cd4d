//! From a file of the older orchestrator to the smallest one of this agent that means the same, and what changes with it.
//!
//! The file has what differs from the defaults. References such as `${VAR}` stay references. A secret that stands in the
//! old file is not repeated: the new one names a file for it, and a note says what to put there.

use std::path::{Path, PathBuf};

use super::draft::Sources;
use super::field::{Key, Value};
use super::keys::{defaults, key, keys};
use super::load::{Loaded, load};
use super::problem::{Origin, Problem, Problems};
use super::show::{in_effect, in_quotes, open_sections, quoted, scalar};
use super::types::NetworkMode;

/// Where the migrated file expects the token.
pub const TOKEN_FILE: &str = "/etc/cronium/api-token";

/// What a migration makes.
#[derive(Debug)]
pub struct Migrated {
    /// The new file.
    pub yaml: String,
    /// Keys of the old file that have no effect here, with their place; one a line.
    pub dropped: Vec<String>,
    /// What is different from now on, and what to do about it; one each.
    pub changes: Vec<String>,
}

/// Reads the old file and writes the new one. Overrides of the environment do not count, its variables in references do.
pub fn migrate(file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Migrated, Problems> {
    let path: Option<PathBuf> = Some(file.to_owned());
    let loaded = load(&Sources { path, need_backend: false, file_alone: true, ..Sources::new(env) })?;
    let mut yaml = "# Made by `cronium-agent validate --migrate`. All keys: docs/configuration.md.\n".to_owned();
    let (mut open, mut unset) = (Vec::new(), Vec::new());
    let before = defaults();
    for key in keys().filter(|key| key.has_meaning()) {
        match line_of(key, &loaded, &in_effect(key, &before)) {
            Line::Of(name, value) => {
                let (indent, own) = open_sections(&mut yaml, &mut open, key);
                yaml.push_str(&format!("{indent}{}: {value}\n", name.unwrap_or(own)));
            }
            Line::Unset(written) => unset.push(format!("{} ({written})", key.path)),
            Line::None => {}
        }
    }
    // What is below a free section is no key, and has no meaning.
    let has_meaning = |problem: &&Problem| key(&problem.key).is_some_and(Key::has_meaning);
    let (warnings, dropped): (Vec<_>, Vec<_>) = loaded.warnings.iter().partition(has_meaning);
    let mut changes = changes(&loaded, &unset);
    changes.extend(warnings.iter().map(ToString::to_string));
    Ok(Migrated { yaml, dropped: dropped.iter().map(ToString::to_string).collect(), changes })
}

/// What a key becomes.
enum Line {
    /// A line: another name than the key's, and the value as YAML.
    Of(Option<&'static str>, String),
    /// Nothing: it stands in the file as this reference, whose variable is not set here.
    Unset(String),
    None,
}

fn line_of(key: &Key, loaded: &Loaded, default: &Value) -> Line {
    let from_file = matches!(loaded.origins.get(key.path), Some(Origin::File { .. } | Origin::DefaultBecause(_)));
    let written = loaded.written.get(key.path).filter(|_| from_file);
    let reference = written.filter(|text| text.contains('$'));
    if key.is_secret() {
        return match (written, reference.and_then(|text| variable(text))) {
            (None, _) => Line::None,
            (_, Some(name)) => Line::Of(None, in_quotes(&format!("${{{name}}}"))),
            (Some(_), None) => Line::Of(Some("tokenFile"), TOKEN_FILE.to_owned()),
        };
    }
    if key.field.is_none() {
        // Paths that only checks look at.
        let written = written.filter(|text| !text.is_empty() && key.path == "api.tokenFile");
        let as_yaml = |text: &String| if text.contains('$') { in_quotes(text) } else { quoted(text) };
        return written.map_or(Line::None, |text| Line::Of(None, as_yaml(text)));
    }
    let value = in_effect(key, &loaded.config);
    if !from_file || value == Value::Unset {
        return Line::None;
    }
    match reference {
        Some(text) if value == *default => Line::Unset(text.clone()),
        Some(text) => Line::Of(None, in_quotes(text)),
        None if value == *default || is_derived(key, &loaded.config.api.endpoint, &value) => Line::None,
        None => Line::Of(None, scalar(key, &value)),
    }
}

/// The name in a text that is one reference, without its default: that may be a secret.
fn variable(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("${")?.strip_suffix('}')?;
    let name = inner.split_once(":-").map_or(inner, |(name, _)| name);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (!name.is_empty() && name.bytes().all(plain)).then_some(name)
}

/// Whether the address of the live log is the one that follows from the backend's.
fn is_derived(key: &Key, endpoint: &str, value: &Value) -> bool {
    let derived = format!("{}/socket", endpoint.replacen("http", "ws", 1));
    key.path == "api.wsEndpoint" && *value == Value::Text(derived)
}

/// What becomes of the token.
fn of_the_token(loaded: &Loaded) -> String {
    match loaded.written.get("api.token").map(|text| variable(text)) {
        Some(Some(name)) => {
            format!("The token: comes from ${name}, as before. It can move to a file of mode 0600: api.tokenFile.")
        }
        Some(None) => format!(
            "The token: it stands in the old file, and is not repeated. Write it to {TOKEN_FILE}, mode 0600, owner the agent's user."
        ),
        None => {
            "The token: the old file has none. Give it by CRONIUM_API_TOKEN, as before, or by api.tokenFile.".to_owned()
        }
    }
}

/// What an owner of an installation has to know, as far as it concerns this file.
fn changes(loaded: &Loaded, unset: &[String]) -> Vec<String> {
    let config = &loaded.config;
    let given = |key: &str| matches!(loaded.origins.get(key), Some(Origin::File { .. }));
    let mut all = vec![of_the_token(loaded)];
    let strict =
        "Host keys: an unknown server is refused. Add each one: `cronium-agent known-hosts add HOST[:PORT]` writes to";
    all.push(format!("{strict} {}.", config.ssh.known_hosts_file.display()));
    if !config.ssh.allow_passwords {
        all.push(
            "Passwords of servers: not used. Give servers a key in the app, or set ssh.security.allowPasswords: true."
                .to_owned(),
        );
    }
    all.push(
        "Live lines: the deployed backend has no WebSocket for agents; its pages get lines by updates (logging.live: auto)."
            .to_owned(),
    );
    all.push(format!(
        "Health: /health, /ready, /live and /metrics answer on {} alone. For probes from elsewhere set monitoring.bindAddress. \
         The JSON of /health has other names: see docs/operations.md.",
        config.monitoring.bind_address
    ));
    all.push(
        "The engine's socket: the agent's user needs the right to use it. No sidecar, no runtime API, no Valkey."
            .to_owned(),
    );
    if !config.http.enabled {
        all.push(
            "Events of type HTTP request: they wait in the queue until http.enabled is true; http.allow says where they may go."
                .to_owned(),
        );
    }
    let network = &config.container.network;
    if !given("container.network.internal") && network.mode != NetworkMode::None {
        all.push(
            "The network of scripts: they have a way out. The older orchestrator gave none unless isolateNetwork was false. \
             Set container.network.internal: true for none."
                .to_owned(),
        );
    }
    if !given("container.network.dns") {
        all.push("Name servers of scripts: the engine's. They were 8.8.8.8 and 8.8.4.4.".to_owned());
    }
    if given("container.docker.version") && config.container.docker.version.is_some() {
        all.push(
            "container.docker.version: newer engines refuse old versions. Without the line the agent asks the engine."
                .to_owned(),
        );
    }
    if given("ssh.execution.tempDir") && !config.ssh.temp_dir.contains("{uid}") {
        all.push(format!(
            "ssh.execution.tempDir: {} must belong to the login on each server. Without the line each login has its own folder.",
            config.ssh.temp_dir
        ));
    }
    if matches!(loaded.written.get("orchestrator.id").map(String::as_str), None | Some("auto")) {
        all.push("The agent's id: made once and kept in state.dir. Jobs that the old one has claimed stay its own: let them end first.".to_owned());
    }
    if !unset.is_empty() {
        let list = unset.join(", ");
        all.push(format!("Variables that are not set here, so that the default is left: {list}. Add the lines if your service sets them."));
    }
    all
}

#[cfg(test)]
#[path = "migrate_tests.rs"]
mod tests;

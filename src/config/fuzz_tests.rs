//! What holds for the configuration, whatever a file or a variable says. See [`crate::fuzzing`].

use std::path::PathBuf;

use serde_yaml::Value as Theirs;

use super::field::Value;
use super::show::{effective, to_yaml};
use super::types::{Config, Seccomp};
use super::value::{parse_duration, parse_size, show_duration, show_size};
use super::yaml::{self, Node};
use super::{Loaded, Problems, Sources, load, migrate, url};
use crate::limits;
use crate::os::scratch::Scratch;
use crate::policy::expand::expand;

/// A file of this name with this content; the same place each time.
fn file(name: &str, content: &[u8]) -> PathBuf {
    thread_local! {
        static FOLDER: Scratch = Scratch::in_memory();
    }
    let path = FOLDER.with(|folder| folder.join(name));
    std::fs::write(&path, content).expect("written");
    path
}

fn variable(name: &str) -> Option<String> {
    (name.len() % 2 == 1).then(|| format!("7{}", &name[1..]))
}

fn loaded(content: &[u8]) -> Result<Loaded, Problems> {
    let path = Some(file("config.yaml", content));
    load(&Sources { path, search: Vec::new(), need_backend: false, file_alone: true, ..Sources::new(&variable) })
}

/// What is in effect, secrets apart.
fn values(config: &Config) -> Vec<(&'static str, Value)> {
    effective(config).into_iter().map(|(key, value)| (key.path, value)).filter(|(key, _)| *key != "api.token").collect()
}

pub fn configuration_file(data: &[u8]) {
    match loaded(data) {
        Err(problems) => assert!(!problems.to_string().is_empty()),
        Ok(found) => {
            // What is shown reads back to the same values, whatever they hold.
            for explain in [false, true] {
                let shown = to_yaml(&found, explain);
                let again = loaded(shown.as_bytes()).unwrap_or_else(|problems| panic!("{shown}\n{problems}"));
                assert_eq!(values(&again.config), values(&found.config), "{shown}");
            }
        }
    }
}

pub fn migrated_file(data: &[u8]) {
    let make = |content: &[u8]| migrate::migrate(&file("old.yaml", content), &variable);
    let Ok(small) = make(data) else { return };
    let before = loaded(data).expect("it was loaded for the migration");
    let again = loaded(small.yaml.as_bytes()).unwrap_or_else(|problems| panic!("{}\n{problems}", small.yaml));
    assert_eq!(values(&again.config), values(&before.config), "{}", small.yaml);
    assert_eq!(make(small.yaml.as_bytes()).expect("valid").yaml, small.yaml, "a second time changes it");
}

/// Whether two readers see the same; numbers are compared by their sort.
fn same(ours: &Node, theirs: &Theirs) -> bool {
    match (ours, theirs) {
        (Node::Null, Theirs::Null) | (Node::Number(_), Theirs::Number(_)) => true,
        (Node::Bool(ours), Theirs::Bool(theirs)) => ours == theirs,
        (Node::Text(ours), Theirs::String(theirs)) => ours == theirs,
        (Node::List(ours), Theirs::Sequence(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
        }
        (Node::Map(ours), Theirs::Mapping(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, (_, theirs))| same(&ours.value, theirs))
        }
        _ => false,
    }
}

pub fn yaml_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // What YAML counts as the end of a line.
    let is_end = |c: &char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let lines = text.chars().filter(is_end).count() + 1;
    match yaml::parse(&text) {
        Ok(ours) => {
            // The other reader takes no repeated key.
            if let Ok(theirs) = serde_yaml::from_str::<Theirs>(text.strip_prefix('\u{feff}').unwrap_or(&text)) {
                assert!(same(&ours, &theirs), "{ours:?} is {theirs:?}");
            }
            let mut rest = vec![&ours];
            while let Some(node) = rest.pop() {
                match node {
                    Node::List(items) => rest.extend(items),
                    Node::Map(entries) => {
                        assert!(entries.iter().all(|entry| entry.place.is_none_or(|(line, _)| line <= lines)));
                        rest.extend(entries.iter().map(|entry| &entry.value));
                    }
                    Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) => {}
                }
            }
        }
        Err(error) => assert!(!error.text.is_empty() && error.place.is_none_or(|(line, _)| line <= lines + 1)),
    }
}

pub fn configuration_values(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(time) = parse_duration(&text) {
        assert_eq!(parse_duration(&show_duration(time)), Some(time), "{}", show_duration(time));
    }
    if let Some(size) = parse_size(&text) {
        assert_eq!(parse_size(&show_size(size)), Some(size), "{}", show_size(size));
    }
    match url::parse(&text, &["http", "https"]) {
        Ok(found) => assert!(text.contains(found.host)),
        Err(why) => assert!(!why.is_empty()),
    }
}

pub fn variable_references(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // What a variable holds is final.
    let held = |name: &str| Some(format!("${{{name}}}$$"));
    match expand(&text, held) {
        Ok(out) => {
            assert!(out.len() <= limits::CONFIG_VALUE_MAX);
            assert!(text.contains('$') || out == text);
        }
        Err(error) => assert!(text.contains('$') || text.len() > limits::CONFIG_VALUE_MAX, "{error}"),
    }
    let plain = text.replace('$', "$$");
    if plain.len() <= limits::CONFIG_VALUE_MAX {
        assert_eq!(expand(&plain, held).as_deref(), Ok(&*text));
    }
    let one = format!("a${{NAME}}b${{NAME:-{}}}c", text.replace(['{', '}', '$'], ""));
    if one.len() <= limits::CONFIG_VALUE_MAX {
        assert_eq!(expand(&one, held).as_deref(), Ok("a${NAME}$$b${NAME}$$c"));
    }
}

pub fn seccomp_file(data: &[u8]) {
    let path = file("profile.json", data).display().to_string();
    let config = format!("container:\n  security:\n    seccompProfile: {path}\n");
    match loaded(config.as_bytes()) {
        Ok(found) => {
            let Seccomp::Profile { json, .. } = found.config.container.security.seccomp else { panic!("no profile") };
            assert_eq!(json.as_bytes(), data);
            let default = |profile: serde_json::Value| profile["defaultAction"].as_str().map(str::to_owned);
            // A number beyond f64 is JSON, and no value of this reader.
            let default = serde_json::from_str(&json).map_or(Some("SCMP_ACT_".to_owned()), default);
            assert!(default.is_some_and(|action| action.starts_with("SCMP_ACT_")));
        }
        // The message names the file, and quotes nothing of it.
        Err(problems) => assert!(problems.to_string().contains(&path)),
    }
}

//! The effective configuration as text, taken from the fields that the program uses and not from what was given.

use std::fmt::Write as _;

use super::load::Loaded;
use super::problem::Origin;
use super::schema::{Shown, keys};
use super::types::Config;

/// Every key that has a meaning and a field, with its value, in the order of the schema.
pub fn effective(config: &Config) -> Vec<(&'static str, Shown)> {
    let mut config = config.clone();
    keys().filter(|key| key.has_meaning()).map(|key| (key.path, key.shown(&mut config))).collect()
}

/// YAML of the effective configuration, secrets as `***`. It reads back to the same values, secrets apart. With
/// `explain`, each line says where its value came from.
pub fn to_yaml(loaded: &Loaded, explain: bool) -> String {
    let mut out = String::new();
    let mut open: Vec<&str> = Vec::new();
    for (path, value) in effective(&loaded.config) {
        let names: Vec<&str> = path.split('.').collect();
        let (name, sections) = names.split_last().unwrap_or((&"", &[]));
        let same = open.iter().zip(sections).take_while(|(a, b)| a == b).count();
        for (depth, section) in sections.iter().enumerate().skip(same) {
            let _ = writeln!(out, "{}{section}:", "  ".repeat(depth));
        }
        open = sections.to_vec();
        let indent = "  ".repeat(sections.len());
        let line = match &value {
            Shown::Unset => format!("{indent}# {name}:"),
            value => format!("{indent}{name}: {}", scalar(value)),
        };
        // A section of which nothing is set still reads as empty, which is allowed.
        match loaded.origins.get(path).filter(|_| explain) {
            Some(Origin::Default) if value == Shown::Unset => drop(writeln!(out, "{line}  # not set")),
            Some(origin) => drop(writeln!(out, "{line}  # {}", one_line(&origin.to_string()))),
            None => drop(writeln!(out, "{line}")),
        }
    }
    out
}

pub(super) fn scalar(value: &Shown) -> String {
    match value {
        Shown::Unset => String::new(),
        Shown::Plain(text) => text.clone(),
        Shown::Text(text) => quoted(text),
        Shown::List(items) => format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ")),
        Shown::Secret => "\"***\"".to_owned(),
    }
}

/// Plain where YAML and the expansion read it back as the same text, else in double quotes.
fn quoted(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-:@".contains(&b))
        && !text.ends_with(':')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { serde_json::Value::from(text.replace('$', "$$")).to_string() }
}

/// A comment must not end before its line does.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

//! The configuration in effect as text, from the fields that the program uses.

use std::fmt::Write as _;

use super::field::{Key, Kind, Value};
use super::keys::{self, keys};
use super::load::Loaded;
use super::problem::Origin;
use super::types::Config;

/// The key's value in `config`; unset while another key keeps it without effect.
pub(super) fn in_effect(key: &Key, config: &Config) -> Value {
    match key.when.and_then(|(path, value)| Some((keys::key(path)?, value))) {
        Some((other, value)) if other.words(&other.get(config)) != value => Value::Unset,
        _ => key.get(config),
    }
}

/// Every key that has a meaning, with its value, in the order of the table.
pub fn effective(config: &Config) -> Vec<(&'static Key, Value)> {
    keys().filter(|key| key.has_meaning()).map(|key| (key, in_effect(key, config))).collect()
}

/// YAML of the effective configuration, secrets as `***`. It reads back to the same values, secrets apart. With
/// `explain`, each line says where its value came from.
pub fn to_yaml(loaded: &Loaded, explain: bool) -> String {
    let mut out = String::new();
    let mut open: Vec<&str> = Vec::new();
    for (key, value) in effective(&loaded.config) {
        let (indent, name) = open_sections(&mut out, &mut open, key);
        let line = match &value {
            Value::Unset => format!("{indent}# {name}:"),
            value => format!("{indent}{name}: {}", scalar(key, value)),
        };
        // A section without a set key reads back as empty, which is allowed.
        match loaded.origins.get(key.path).filter(|_| explain) {
            Some(Origin::Default) if value == Value::Unset => drop(writeln!(out, "{line}  # not set")),
            Some(origin) => drop(writeln!(out, "{line}  # {}", one_line(&origin.to_string()))),
            None => drop(writeln!(out, "{line}")),
        }
    }
    out
}

/// Opens the sections of `key` that are not `open` yet: the indent of its line, and its own name.
pub(super) fn open_sections(out: &mut String, open: &mut Vec<&'static str>, key: &Key) -> (String, &'static str) {
    let names: Vec<&str> = key.path.split('.').collect();
    let (name, sections) = names.split_last().unwrap_or((&"", &[]));
    let same = open.iter().zip(sections).take_while(|(a, b)| a == b).count();
    for (depth, section) in sections.iter().enumerate().skip(same) {
        let _ = writeln!(out, "{}{section}:", "  ".repeat(depth));
    }
    *open = sections.to_vec();
    ("  ".repeat(sections.len()), name)
}

/// A value as YAML.
pub(super) fn scalar(key: &Key, value: &Value) -> String {
    match value {
        // It is YAML already.
        Value::Text(text) if matches!(key.kind, Kind::Table { .. }) => text.replace('$', "$$"),
        Value::Text(text) => quoted(text),
        Value::List(items) => format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ")),
        Value::Secret => "\"***\"".to_owned(),
        other => key.words(other),
    }
}

/// Plain where YAML and the expansion read it back as the same text, else in double quotes.
pub(super) fn quoted(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { in_quotes(&text.replace('$', "$$")) }
}

/// The same within brackets, and before any expansion.
pub(super) fn in_flow(text: &str) -> String {
    if is_plain(text) && !text.contains(':') { text.to_owned() } else { in_quotes(text) }
}

fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-:@".contains(&b))
        && !text.ends_with(':')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

/// As a text in double quotes. YAML takes fewer characters than JSON unescaped, and reads some as the end of a line. So
/// all are escaped but ASCII, and letters and digits of other scripts.
pub(super) fn in_quotes(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        let number = u32::from(c);
        let written = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            ' '..='~' => write!(out, "{c}"),
            _ if c.is_alphanumeric() => write!(out, "{c}"),
            _ if number < 0x100 => write!(out, "\\x{number:02x}"),
            _ if number < 0x10000 => write!(out, "\\u{number:04x}"),
            _ => write!(out, "\\U{number:08x}"),
        };
        // Writing to a text does not fail.
        let _ = written;
    }
    out + "\""
}

/// A comment must not end before its line does.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml::{Entry, Node, parse};
    use crate::policy::expand::expand;

    /// What `text` is after it was shown, read and expanded.
    fn again(text: &str) -> String {
        let shown = format!("a: {}\n", quoted(text));
        let Ok(Node::Map(entries)) = parse(&shown) else { panic!("{shown:?}") };
        let [Entry { value: Node::Text(read), .. }] = entries.as_slice() else { panic!("{shown:?}") };
        expand(read, |_| None).unwrap_or_else(|error| panic!("{shown:?}: {error}"))
    }

    #[test]
    fn every_character_reads_back() {
        // In the middle, at the start and at the end; many at once, since there are a million.
        for first in (0..=0x10_FFFF_u32).step_by(512) {
            let text: String = (first..first + 512).filter_map(char::from_u32).collect();
            assert_eq!(again(&text), text, "from {first:#x}");
        }
        for c in (0..0x3000).filter_map(char::from_u32) {
            let text = format!("{c}x{c}");
            assert_eq!(again(&text), text, "{c:?}");
        }
    }

    #[test]
    fn random_texts_read_back() {
        let mut random = crate::wire::random::Random::new(9);
        let parts = [
            "a", "true", "no", "1", ".5", "$", "${", "}", "$$", "'", "\"", "\\", " ", "\t", "\n", "\r", "\u{7f}",
            "\u{85}", "\u{2028}", "\u{feff}", "\u{1b}", ": ", "#", " #", "- ", "*", "&", "!", "|", ">", "%", "@", "`",
            "~", "null", "ü", "🦀", "\u{e000}", "0x1",
        ]
        .map(str::as_bytes);
        for _ in 0..3000 {
            let text = String::from_utf8(random.text(&parts, 6)).expect("text");
            assert_eq!(again(&text), text);
        }
    }
}

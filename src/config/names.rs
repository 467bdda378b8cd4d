//! The names of keys and sections, and the known name nearest to an unknown one.

use super::field::Key;
use super::keys::keys;
use crate::policy::suggest::nearest;

/// The `section.*` that `path` is directly below.
pub(super) fn free_section(path: &str) -> Option<&'static Key> {
    let section = path.rsplit_once('.')?.0;
    keys().find(|key| key.path.strip_suffix(".*") == Some(section))
}

pub(super) fn is_section(path: &str) -> bool {
    keys().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The names directly below `section` (`""` is the top), each once.
pub(super) fn children(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for key in keys() {
        let rest = if section.is_empty() {
            Some(key.path)
        } else {
            key.path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.'))
        };
        let name = rest.and_then(|rest| rest.split('.').next());
        if let Some(name) = name.filter(|name| !names.contains(name) && *name != "*") {
            names.push(name);
        }
    }
    names
}

/// The message about an unknown key: the nearest name in its section, else the same name elsewhere, else all names.
pub(super) fn unknown(path: &str) -> String {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let siblings = children(section);
    let join = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    let near = nearest(name, siblings.iter().copied()).map(join);
    let elsewhere =
        || keys().map(|key| key.path).find(|known| known.rsplit('.').next() == Some(name)).map(str::to_owned);
    let anywhere = || nearest(path, keys().map(|key| key.path)).map(str::to_owned);
    match near.or_else(elsewhere).or_else(anywhere) {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None if siblings.is_empty() => "unknown key".to_owned(),
        None => format!("unknown key; allowed here: {}", siblings.join(", ")),
    }
}

/// An unknown name for a message. Text that does not look like a name may be a misplaced value, even a secret.
pub(super) fn shown_name(path: &str) -> String {
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    match path.rsplit_once('.') {
        _ if plain && path.len() <= 200 => path.to_owned(),
        Some((above, _)) if !above.is_empty() => format!("{}.(a name that no key has)", shown_name(above)),
        _ => "(a name that no key has)".to_owned(),
    }
}

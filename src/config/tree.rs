//! Turns the file's tree into what was given for each key. It checks names; `load` checks values.

use std::collections::BTreeMap;
use std::path::Path;

use super::draft::Draft;
use super::field::{Given, Key, Kind};
use super::keys::key;
use super::names;
use super::problem::{Origin, Problem};
use super::show::in_quotes;
use super::yaml::{Entry, Node, Place};
use crate::limits::CONFIG_PROBLEMS_MAX;
use crate::policy::expand::expand;

/// Keys that have a second path.
const PATH_ALIASES: [(&str, &str); 3] = [
    ("container.pullPolicy", "container.images.pullPolicy"),
    // The older orchestrator's.
    ("container.images.node", "container.images.nodejs"),
    ("container.runtime.isolateNetwork", "container.network.internal"),
];

/// Words of the older orchestrator: the key, its word, and the nearest one that this agent has.
const WORD_ALIASES: [(&str, &str, &str); 5] = [
    ("jobs.queueStrategy", "lifo", "priority"),
    ("logging.level", "warning", "warn"),
    ("logging.level", "fatal", "error"),
    ("logging.level", "panic", "error"),
    ("logging.output", "stderr", "stdout"),
];

/// The word that is used in place of one of the older orchestrator's.
pub(super) fn own_word(key: &str, word: &str) -> Option<&'static str> {
    WORD_ALIASES.iter().find(|(path, theirs, _)| *path == key && *theirs == word).map(|(.., ours)| *ours)
}

/// The warning about a key of the older orchestrator.
pub(super) const IGNORED: &str = "accepted, and without meaning in this agent; remove it";

/// What the file gives, by key.
pub(super) type FromFile = BTreeMap<&'static str, (Given, Origin)>;

/// Walks through the file's tree; problems go to the draft.
pub(super) struct Walk<'d, 'a> {
    pub(super) path: &'d Path,
    pub(super) draft: &'d mut Draft<'a>,
    pub(super) given: FromFile,
}

impl Walk<'_, '_> {
    /// Reads the whole tree.
    pub(super) fn run(mut self, root: &Node) -> FromFile {
        match root {
            Node::Null => {}
            Node::Map(entries) => self.section("", entries),
            other => {
                let text = format!("found {} where the whole file should be sections such as `api:`", other.name());
                self.draft.problem("", self.at(Some((1, 1))), text);
            }
        }
        self.given
    }

    fn at(&self, place: Option<Place>) -> Origin {
        Origin::File { path: self.path.to_owned(), place }
    }

    fn section(&mut self, above: &str, entries: &[Entry]) {
        let mut seen = std::collections::BTreeSet::new();
        for Entry { name, place, value } in entries {
            let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
            if seen.insert(name) {
                self.entry(&path, name, *place, value);
            } else {
                let text = "this key was given before, in the same section; keep one";
                let (path, at) = (names::shown_name(&path), self.at(*place));
                self.draft.problem(&path, at, text);
            }
        }
    }

    fn entry(&mut self, path: &str, name: &str, place: Option<Place>, node: &Node) {
        let origin = self.at(place);
        // No name of a key holds a dot.
        let dotted = name.contains('.');
        let real = PATH_ALIASES.iter().find(|(alias, _)| *alias == path).map_or(path, |(_, real)| real);
        if let Some(key) = key(real).filter(|_| !dotted) {
            self.value(key, node, origin);
        } else if let Some(free) = names::free_section(path).filter(|_| !dotted) {
            if node != &Node::Null {
                let key = free.path.replace('*', name);
                self.draft.warnings.push(Problem { key, origin: Some(origin), text: IGNORED.to_owned() });
            }
        } else if names::is_section(path) && !dotted {
            match node {
                Node::Map(entries) => self.section(path, entries),
                Node::Null => {}
                other => {
                    let keys = names::children(path).join(", ");
                    let text = format!("found {}; allowed: a section with the keys {keys}", other.name());
                    self.draft.problem(path, origin, text);
                }
            }
        } else {
            // The search for the nearest name costs most, and no more problems than these are listed.
            let first = self.draft.problems.len() < CONFIG_PROBLEMS_MAX;
            let text = if first { names::unknown(path) } else { "unknown key".to_owned() };
            self.draft.problem(&names::shown_name(path), origin, text);
        }
    }

    fn value(&mut self, key: &'static Key, node: &Node, origin: Origin) {
        let given = match (node, &key.kind) {
            (Node::Null, _) => return,
            (_, Kind::Ignored) => Ok(Given::Text("given".to_owned())),
            (Node::List(items), Kind::List { .. }) => {
                items.iter().map(|item| self.text(key, item)).collect::<Result<_, _>>().map(Given::List)
            }
            (Node::List(_) | Node::Map(_), Kind::Table { .. }) => self.flow(node).map(Given::Text),
            (node, _) => self.text(key, node).map(Given::Text),
        };
        match given {
            Err(text) => self.draft.problem(key.path, origin, text),
            Ok(_) if self.given.contains_key(key.path) => {
                let text = "given twice, under both of its names; keep one";
                self.draft.problem(key.path, origin, text);
            }
            Ok(given) => {
                if let Node::Text(text) = node {
                    self.draft.written.insert(key.path, text.clone());
                }
                self.given.insert(key.path, (given, origin));
            }
        }
    }

    /// A list as YAML in brackets, its texts expanded.
    fn flow(&self, node: &Node) -> Result<String, String> {
        let joined = |parts: Result<Vec<String>, String>| parts.map(|parts| parts.join(", "));
        Ok(match node {
            Node::Null => "null".to_owned(),
            Node::Bool(truth) => truth.to_string(),
            Node::Number(digits) => digits.clone(),
            Node::Text(text) => in_quotes(&expand(text, self.draft.sources.env).map_err(|error| error.to_string())?),
            Node::List(items) => format!("[{}]", joined(items.iter().map(|item| self.flow(item)).collect())?),
            Node::Map(entries) => {
                let member = |entry: &Entry| Ok(format!("{}: {}", in_quotes(&entry.name), self.flow(&entry.value)?));
                format!("{{{}}}", joined(entries.iter().map(member).collect())?)
            }
        })
    }

    /// The text of a scalar, expanded, when the key takes one of this type.
    fn text(&self, key: &Key, node: &Node) -> Result<String, String> {
        match node {
            Node::Text(text) => expand(text, self.draft.sources.env).map_err(|error| error.to_string()),
            Node::Number(digits) if key.kind.takes_number() => Ok(digits.clone()),
            Node::Bool(truth) if key.kind.takes_bool() => Ok(truth.to_string()),
            other => {
                let quotes = matches!(other, Node::Number(_) | Node::Bool(_));
                let quotes = quotes && !key.kind.takes_number() && !key.kind.takes_bool();
                let hint = if quotes { "; put it in quotes" } else { "" };
                Err(format!("found {}; allowed: {}{hint}", other.name(), key.kind.allowed()))
            }
        }
    }
}

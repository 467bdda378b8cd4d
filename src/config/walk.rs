//! From the file's tree to what was given for each key: names are checked here, values later.

use std::collections::BTreeMap;
use std::path::Path;

use super::locate::Spots;
use super::problem::{Origin, Problem, ProblemKind, Warning, quote};
use super::schema::{Field, Given, Key, key, keys};
use super::yaml::Node;
use crate::limits::CONFIG_PROBLEMS_MAX;
use crate::policy::expand::expand;
use crate::policy::suggest::nearest;

/// Keys that have a second path.
pub(super) const PATH_ALIASES: [(&str, &str); 1] = [("container.pullPolicy", "container.images.pullPolicy")];

/// What the file gave.
#[derive(Default)]
pub(super) struct FromFile {
    pub(super) given: BTreeMap<&'static str, (Given, Origin)>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
}

/// The file while it is walked.
pub(super) struct Walk<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
}

impl Walk<'_> {
    /// Reads the whole tree.
    pub(super) fn run(&self, root: &Node) -> FromFile {
        let mut out = FromFile::default();
        let spots = Spots::scan(self.text);
        match root {
            Node::Null => {}
            Node::Map(entries) => self.section("", entries, &spots, &mut out),
            other => out.problems.push(Problem {
                kind: ProblemKind::WrongType,
                key: String::new(),
                origin: Some(Origin::File { path: self.path.to_owned(), place: Some((1, 1)) }),
                text: format!("found {} where the whole file should be sections such as `api:`", other.name()),
            }),
        }
        out
    }

    fn section(&self, above: &str, entries: &[(String, Node)], spots: &Spots, out: &mut FromFile) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, node) in entries {
            let count = seen.entry(name).and_modify(|count| *count += 1).or_insert(0);
            let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
            let origin = Origin::File { path: self.path.to_owned(), place: spots.find(&path, *count) };
            if *count > 0 {
                let text = "this key was given before, in the same section; keep one".to_owned();
                let problem =
                    Problem { kind: ProblemKind::DuplicateKey, key: shown_name(&path), origin: Some(origin), text };
                out.problems.push(problem);
                continue;
            }
            self.entry(&path, name, node, origin, spots, out);
        }
    }

    fn entry(&self, path: &str, name: &str, node: &Node, origin: Origin, spots: &Spots, out: &mut FromFile) {
        let dotted = name.contains('.');
        let real = PATH_ALIASES.iter().find(|(alias, _)| *alias == path).map_or(path, |(_, real)| real);
        if let Some(key) = key(real).filter(|_| !dotted) {
            return self.value(key, node, origin, out);
        }
        if let Some(free) = free_section(path).filter(|_| !dotted) {
            if node != &Node::Null {
                out.warnings.push(Warning {
                    key: free.path.replace('*', name),
                    origin: Some(origin),
                    text: IGNORED.to_owned(),
                });
            }
            return;
        }
        if is_section(path) && !dotted {
            match node {
                Node::Map(entries) => self.section(path, entries, spots, out),
                Node::Null => {}
                other => out.problems.push(Problem {
                    kind: ProblemKind::WrongType,
                    key: path.to_owned(),
                    origin: Some(origin),
                    text: format!(
                        "found {}; allowed: a section with the keys {}",
                        other.name(),
                        children(path).join(", ")
                    ),
                }),
            }
            return;
        }
        out.problems.push(Problem {
            kind: ProblemKind::UnknownKey,
            key: shown_name(path),
            origin: Some(origin),
            // To look for what was meant costs more than all else, and only so many problems are listed.
            text: if out.problems.len() < CONFIG_PROBLEMS_MAX { unknown(path) } else { "unknown key".to_owned() },
        });
    }

    fn value(&self, key: &'static Key, node: &Node, origin: Origin, out: &mut FromFile) {
        let refuse =
            |kind, text: String| Problem { kind, key: key.path.to_owned(), origin: Some(origin.clone()), text };
        let wrong = |found: &Node| {
            let hint =
                if matches!(found, Node::Int(_) | Node::Float(_) | Node::Bool(_)) { "; put it in quotes" } else { "" };
            refuse(ProblemKind::WrongType, format!("found {}; allowed: {}{hint}", found.name(), key.field.allowed()))
        };
        let given = match (node, &key.field) {
            (Node::Null, _) => return,
            (_, Field::Ignored) => Ok(Given::Text("given".to_owned())),
            (Node::List(items), Field::List { .. }) => self.items(items, &wrong, &refuse).map(Given::List),
            (node, _) => self.scalar(node, &key.field, &wrong, &refuse).map(Given::Text),
        };
        match given {
            Err(problem) => out.problems.push(problem),
            Ok(_) if out.given.contains_key(key.path) => {
                out.problems.push(refuse(
                    ProblemKind::DuplicateKey,
                    "given twice, under both of its names; keep one".to_owned(),
                ));
            }
            Ok(given) => {
                out.given.insert(key.path, (given, origin));
            }
        }
    }

    fn items(
        &self,
        items: &[Node],
        wrong: &dyn Fn(&Node) -> Problem,
        refuse: &dyn Fn(ProblemKind, String) -> Problem,
    ) -> Result<Vec<String>, Problem> {
        items
            .iter()
            .map(|item| match item {
                Node::Text(text) => self.expand(text, refuse),
                other => Err(wrong(other)),
            })
            .collect()
    }

    fn scalar(
        &self,
        node: &Node,
        field: &Field,
        wrong: &dyn Fn(&Node) -> Problem,
        refuse: &dyn Fn(ProblemKind, String) -> Problem,
    ) -> Result<String, Problem> {
        // A key that is not offered yet takes whatever the older program took.
        let any = matches!(field, Field::Later { .. });
        match node {
            Node::Text(text) => self.expand(text, refuse),
            Node::Int(digits) if field.takes_number() || any => Ok(digits.clone()),
            Node::Float(value) if field.takes_number() || any => Ok(value.to_string()),
            Node::Bool(value) if field.takes_bool() || any => Ok(value.to_string()),
            other => Err(wrong(other)),
        }
    }

    fn expand(&self, text: &str, refuse: &dyn Fn(ProblemKind, String) -> Problem) -> Result<String, Problem> {
        expand(text, self.env).map_err(|error| refuse(ProblemKind::NotAllowed, error.to_string()))
    }
}

/// Said of a key that the older orchestrator had.
pub(super) const IGNORED: &str = "accepted, and without meaning in this agent; remove it";

/// The `section.*` that `path` is directly below.
fn free_section(path: &str) -> Option<&'static Key> {
    let section = path.rsplit_once('.')?.0;
    keys().find(|key| key.path.strip_suffix(".*") == Some(section))
}

fn is_section(path: &str) -> bool {
    keys().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The names directly below `section` (`""` is the top), each once.
fn children(section: &str) -> Vec<&'static str> {
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

/// What to say of an unknown key: the nearest in its section, else one of that name elsewhere, else what there is.
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

/// An unknown name for a message. What does not look like a name may be a value that slipped, even a secret.
fn shown_name(path: &str) -> String {
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    match path.rsplit_once('.') {
        _ if plain && path.len() <= 200 => path.to_owned(),
        Some((above, _)) if !above.is_empty() => format!("{}.(a name that no key has)", shown_name(above)),
        _ => "(a name that no key has)".to_owned(),
    }
}

/// What was found, for a message about `key`.
pub(super) fn found(key: &Key, given: &Given) -> String {
    match given {
        _ if key.is_secret() => "a value that is not shown".to_owned(),
        Given::Text(text) if text.contains('@') => "a value that is not shown, since it may hold a password".to_owned(),
        Given::Text(text) => quote(text),
        Given::List(items) => quote(&items.join(", ")),
    }
}

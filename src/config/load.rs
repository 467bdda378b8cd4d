//! From everything that was given to a checked configuration.
//!
//! Rank: command line, environment, its older names, file, default. An empty value is the default. `$STATE_DIRECTORY`,
//! which systemd makes, ranks above all but the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::blank::blank;
use super::checks;
use super::files;
use super::problem::{Origin, Problem, ProblemKind, Problems, Warning};
use super::schema::{Field, Given, Key, key, keys};
use super::types::Config;
use super::walk::{self, FromFile, Walk};
use super::yaml;

/// Where a configuration may come from.
pub struct Sources<'a> {
    /// `--config`: must exist.
    pub path: Option<PathBuf>,
    /// Without `path`, the first of these that exists is read; none is fine.
    pub search: Vec<PathBuf>,
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Key and value from the command line; the last of a key wins.
    pub overrides: Vec<(String, String)>,
    /// Whether endpoint and token are required. `exec` needs neither.
    pub need_backend: bool,
}

impl<'a> Sources<'a> {
    /// The usual places, with `env` as the environment.
    pub fn new(env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        const NAME: &str = "cronium-orchestrator.yaml";
        let mut search = vec![PathBuf::from(".").join(NAME), Path::new("/etc/cronium").join(NAME)];
        search.extend(
            env("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".cronium").join(NAME)),
        );
        Self { path: None, search, env, overrides: Vec::new(), need_backend: true }
    }
}

/// The process's environment, for [`Sources::new`]. Bytes that are no UTF-8 become U+FFFD, which the checks refuse.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// A configuration and what there is to say about it.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Warning>,
    /// By key; every key that has a meaning is in it.
    pub origins: BTreeMap<&'static str, Origin>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// A load under way; `checks` works on it too.
pub(super) struct Draft<'a> {
    pub(super) sources: &'a Sources<'a>,
    pub(super) config: Config,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
    pub(super) origins: BTreeMap<&'static str, Origin>,
    /// Text of the keys that have no field of their own.
    pub(super) asides: BTreeMap<&'static str, String>,
    /// Keys whose value was refused: what depends on them is not checked.
    pub(super) refused: BTreeSet<&'static str>,
}

/// Reads, resolves and checks. The error holds every problem.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Problems> {
    let mut draft = Draft {
        sources,
        config: blank(),
        problems: Vec::new(),
        warnings: Vec::new(),
        origins: BTreeMap::new(),
        asides: BTreeMap::new(),
        refused: BTreeSet::new(),
    };
    let (file, world_readable, mut from_file) = read_file(sources);
    draft.problems.append(&mut from_file.problems);
    draft.warnings.append(&mut from_file.warnings);
    // A file that is no YAML gave nothing: to go on would list keys as missing that stand in it.
    if draft.problems.iter().any(|problem| problem.key.is_empty()) {
        return Err(Problems(draft.problems));
    }
    draft.refused.extend(draft.problems.iter().filter_map(|problem| key(&problem.key)).map(|key| key.path));
    draft.unknown_overrides();
    for key in keys() {
        draft.apply(key, &from_file.given);
    }
    checks::run(&mut draft, world_readable);
    if draft.problems.is_empty() {
        Ok(Loaded { config: draft.config, warnings: draft.warnings, origins: draft.origins, file })
    } else {
        Err(Problems(draft.problems))
    }
}

/// The file's path, whether everyone may read it, and what it gave.
fn read_file(sources: &Sources<'_>) -> (Option<PathBuf>, bool, FromFile) {
    let mut out = FromFile::default();
    let candidates = sources.path.as_ref().map_or(&sources.search[..], std::slice::from_ref);
    for path in candidates {
        let small = match if sources.path.is_some() { files::read(path).map(Some) } else { files::read_if_there(path) }
        {
            Ok(Some(small)) => small,
            Ok(None) => continue,
            Err(text) => {
                out.problems.push(whole_file(path, None, ProblemKind::Unreadable, text));
                return (Some(path.clone()), false, out);
            }
        };
        let parsed = decode(&small.bytes).and_then(|text| yaml::parse(text).map(|root| (text, root)));
        out = match parsed {
            Ok((text, root)) => Walk { path, text, env: sources.env }.run(&root),
            Err(error) => {
                out.problems.push(whole_file(path, error.place, ProblemKind::Syntax, error.text));
                out
            }
        };
        return (Some(path.clone()), small.world_readable, out);
    }
    (None, false, out)
}

fn decode(bytes: &[u8]) -> Result<&str, yaml::SyntaxError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + good.iter().rev().take_while(|byte| **byte != b'\n').count();
        yaml::SyntaxError { place: Some((line, column)), text: "not UTF-8 text; save the file as UTF-8".to_owned() }
    })
}

fn whole_file(path: &Path, place: Option<(usize, usize)>, kind: ProblemKind, text: String) -> Problem {
    Problem { kind, key: String::new(), origin: Some(Origin::File { path: path.to_owned(), place }), text }
}

impl Draft<'_> {
    /// Records a problem at where `key` was given.
    pub(super) fn refuse(&mut self, key: &'static str, kind: ProblemKind, text: impl Into<String>) {
        self.refused.insert(key);
        let origin = self.origins.get(key).cloned();
        self.problems.push(Problem { kind, key: key.to_owned(), origin, text: text.into() });
    }

    /// Records a warning at where `key` was given.
    pub(super) fn warn(&mut self, key: &'static str, text: impl Into<String>) {
        let origin = self.origins.get(key).cloned();
        self.warnings.push(Warning { key: key.to_owned(), origin, text: text.into() });
    }

    /// Whether the key's value came from its default.
    pub(super) fn is_default(&self, key: &str) -> bool {
        matches!(self.origins.get(key), None | Some(Origin::Default | Origin::DefaultBecause(_)))
    }

    fn unknown_overrides(&mut self) {
        for (path, _) in &self.sources.overrides {
            if key(path).is_none_or(|key| key.path.contains('*')) {
                let text = walk::unknown(path);
                let kind = ProblemKind::UnknownKey;
                self.problems.push(Problem { kind, key: path.clone(), origin: Some(Origin::Flag), text });
            }
        }
    }

    /// Gives `key` its default and then what ranks highest.
    fn apply(&mut self, key: &'static Key, file: &BTreeMap<&'static str, (Given, Origin)>) {
        self.origins.insert(key.path, Origin::Default);
        let default = Given::Text(key.default.to_owned());
        if let Err(allowed) = key.field.put(&mut self.config, &default) {
            self.refuse(key.path, ProblemKind::NotAllowed, format!("its default is not allowed: {allowed}"));
        }
        let Some((given, origin)) = self.winner(key, file) else { return };
        if matches!(&given, Given::Text(text) if text.is_empty()) {
            if !matches!(origin, Origin::Default) {
                self.origins.insert(key.path, Origin::DefaultBecause(format!("{origin} is empty")));
            }
            return;
        }
        self.origins.insert(key.path, origin);
        match (&key.field, &given) {
            (Field::Ignored, _) => self.warn(key.path, walk::IGNORED),
            (Field::Later { refuse }, Given::Text(text)) if refuse(text) => {
                let text = "not available in this version, and to ignore it would weaken security; remove it";
                self.refuse(key.path, ProblemKind::NotAvailable, text);
            }
            (Field::Later { .. }, _) => self.warn(key.path, "not available in this version; it has no effect"),
            (Field::Aside { .. }, Given::Text(text)) => {
                self.asides.insert(key.path, text.clone());
            }
            (field, given) => {
                if let Err(allowed) = field.put(&mut self.config, given) {
                    let text = format!("found {}; allowed: {allowed}", walk::found(key, given));
                    self.refuse(key.path, ProblemKind::NotAllowed, text);
                }
            }
        }
    }

    /// What was given with the highest rank.
    fn winner(&self, key: &'static Key, file: &BTreeMap<&'static str, (Given, Origin)>) -> Option<(Given, Origin)> {
        let text = |text: String, origin| Some((Given::Text(text), origin));
        if let Some((_, value)) = self.sources.overrides.iter().rev().find(|(path, _)| path == key.path) {
            return text(value.clone(), Origin::Flag);
        }
        if key.path.contains('*') {
            return None;
        }
        if key.path == "state.dir"
            && let Some(value) = (self.sources.env)("STATE_DIRECTORY").filter(|value| !value.is_empty())
        {
            // Systemd separates several with colons.
            let first = value.split(':').next().unwrap_or_default();
            return text(first.to_owned(), Origin::Env("STATE_DIRECTORY".to_owned()));
        }
        let names = std::iter::once(key.env_name()).chain(key.aliases.iter().map(|name| (*name).to_owned()));
        let mut from_env = names.filter_map(|name| (self.sources.env)(&name).map(|value| (value, name)));
        if let Some((value, name)) = from_env.next() {
            return text(value, Origin::Env(name));
        }
        file.get(key.path).cloned()
    }
}

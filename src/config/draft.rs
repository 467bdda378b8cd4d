//! A load under way: where values may come from, what was found so far, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::keys::{empty, key};
use super::problem::{Origin, Problem};
use super::types::Config;

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
    /// The file alone counts; the environment only fills its references.
    pub file_alone: bool,
}

impl<'a> Sources<'a> {
    /// The usual places, with `env` as the environment.
    pub fn new(env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        const NAME: &str = "cronium-orchestrator.yaml";
        let mut search = vec![PathBuf::from(".").join(NAME), Path::new("/etc/cronium").join(NAME)];
        search.extend(
            env("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".cronium").join(NAME)),
        );
        Self { path: None, search, env, overrides: Vec::new(), need_backend: true, file_alone: false }
    }
}

/// The process's environment, for [`Sources::new`]. Bytes that are no UTF-8 become U+FFFD, which the checks refuse.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// The configuration as far as it is made, with its problems.
pub(super) struct Draft<'a> {
    pub(super) sources: &'a Sources<'a>,
    pub(super) config: Config,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) origins: BTreeMap<&'static str, Origin>,
    /// Texts as they stand in the file, with their references.
    pub(super) written: BTreeMap<&'static str, String>,
    /// Text of the keys that have no field.
    pub(super) fieldless: BTreeMap<&'static str, String>,
    /// Keys whose value was refused: what depends on them is not checked.
    pub(super) refused: BTreeSet<&'static str>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(sources: &'a Sources<'a>) -> Self {
        Self {
            sources,
            config: empty(),
            problems: Vec::new(),
            warnings: Vec::new(),
            origins: BTreeMap::new(),
            written: BTreeMap::new(),
            fieldless: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }

    /// Records a problem of a name or a section, or of the whole file (`path` is empty then).
    pub(super) fn problem(&mut self, path: &str, origin: Origin, text: impl Into<String>) {
        self.refused.extend(key(path).map(|key| key.path));
        self.problems.push(Problem { key: path.to_owned(), origin: Some(origin), text: text.into() });
    }

    /// Records a problem where `key` was given.
    pub(super) fn refuse(&mut self, key: &'static str, text: impl Into<String>) {
        self.refused.insert(key);
        let origin = self.origins.get(key).cloned();
        self.problems.push(Problem { key: key.to_owned(), origin, text: text.into() });
    }

    /// Records a warning where `key` was given.
    pub(super) fn warn(&mut self, key: &'static str, text: impl Into<String>) {
        let origin = self.origins.get(key).cloned();
        self.warnings.push(Problem { key: key.to_owned(), origin, text: text.into() });
    }

    /// Whether none of these keys was refused.
    pub(super) fn good(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| !self.refused.contains(key))
    }

    /// Whether the key's value came from its default.
    pub(super) fn is_default(&self, key: &str) -> bool {
        matches!(self.origins.get(key), None | Some(Origin::Default | Origin::DefaultBecause(_)))
    }

    /// The value in effect, for messages.
    pub(super) fn shown(&self, path: &str) -> String {
        let text = key(path).map_or(String::new(), |key| key.words(&key.get(&self.config)));
        if text.is_empty() { "nothing".to_owned() } else { text }
    }
}

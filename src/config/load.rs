//! From everything that was given to a checked configuration.
//!
//! Rank: command line, environment, its older names, file, default. An empty value is the default. `$STATE_DIRECTORY`,
//! which systemd makes, ranks above all but the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::checks;
use super::draft::{Draft, Sources};
use super::field::{Given, Key, Kind};
use super::files;
use super::keys::{key, keys};
use super::names;
use super::problem::{Origin, ProblemKind, Problems, Warning, quote};
use super::tree::{FromFile, IGNORED, Walk};
use super::types::Config;
use super::yaml::{self, SyntaxError};

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

/// Reads, resolves and checks. The error holds every problem.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Problems> {
    let mut draft = Draft::new(sources);
    let (file, world_readable, given) = draft.read_file();
    // A file that is no YAML gave nothing: to go on would list keys as missing that stand in it.
    if draft.problems.iter().any(|problem| problem.key.is_empty()) {
        return Err(Problems(draft.problems));
    }
    for (path, _) in &sources.overrides {
        if key(path).is_none_or(|key| key.path.contains('*')) {
            draft.problem(path, ProblemKind::UnknownKey, Origin::Flag, names::unknown(path));
        }
    }
    for key in keys() {
        draft.apply(key, &given);
    }
    checks::run(&mut draft, world_readable);
    if draft.problems.is_empty() {
        Ok(Loaded { config: draft.config, warnings: draft.warnings, origins: draft.origins, file })
    } else {
        Err(Problems(draft.problems))
    }
}

fn decode(bytes: &[u8]) -> Result<&str, SyntaxError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + good.iter().rev().take_while(|byte| **byte != b'\n').count();
        SyntaxError { place: Some((line, column)), text: "not UTF-8 text; save the file as UTF-8".to_owned() }
    })
}

impl Draft<'_> {
    /// The file's path, whether everyone may read it, and what it gives.
    fn read_file(&mut self) -> (Option<PathBuf>, bool, FromFile) {
        let candidates = self.sources.path.as_ref().map_or(&self.sources.search[..], std::slice::from_ref);
        for path in candidates {
            let found =
                if self.sources.path.is_some() { files::read(path).map(Some) } else { files::read_if_there(path) };
            let small = match found {
                Ok(Some(small)) => small,
                Ok(None) => continue,
                Err(text) => {
                    self.whole_file(path, None, ProblemKind::Unreadable, text);
                    return (Some(path.clone()), false, FromFile::new());
                }
            };
            let given = match decode(&small.bytes).and_then(yaml::parse) {
                Ok(root) => Walk { path, draft: self, given: FromFile::new() }.run(&root),
                Err(error) => {
                    self.whole_file(path, error.place, ProblemKind::Syntax, error.text);
                    FromFile::new()
                }
            };
            return (Some(path.clone()), small.world_readable, given);
        }
        (None, false, FromFile::new())
    }

    fn whole_file(&mut self, path: &Path, place: Option<(usize, usize)>, kind: ProblemKind, text: String) {
        self.problem("", kind, Origin::File { path: path.to_owned(), place }, text);
    }

    /// Gives `key` its default and then what ranks highest.
    fn apply(&mut self, key: &'static Key, file: &FromFile) {
        self.origins.insert(key.path, Origin::Default);
        if let Err(allowed) = key.put(&mut self.config, &Given::Text(key.default.to_owned())) {
            self.refuse(key.path, ProblemKind::NotAllowed, format!("its default is not allowed: {allowed}"));
        }
        let Some((given, origin)) = self.winner(key, file) else { return };
        let text = if let Given::Text(text) = &given { Some(text.as_str()) } else { None };
        if text == Some("") {
            self.origins.insert(key.path, Origin::DefaultBecause(format!("{origin} is empty")));
            return;
        }
        self.origins.insert(key.path, origin);
        match (key.kind, text) {
            (Kind::Ignored, _) => self.warn(key.path, IGNORED),
            (Kind::Later(refuse), Some(text)) if refuse(text) => {
                let text = "not available in this version, and to ignore it would weaken security; remove it";
                self.refuse(key.path, ProblemKind::NotAvailable, text);
            }
            (Kind::Later(_), _) => self.warn(key.path, "not available in this version; it has no effect"),
            (_, text) => match key.put(&mut self.config, &given) {
                Ok(()) if key.field.is_none() => {
                    self.fieldless.insert(key.path, text.unwrap_or_default().to_owned());
                }
                Ok(()) => {}
                Err(allowed) => {
                    let text = format!("found {}; allowed: {allowed}", found(key, &given));
                    self.refuse(key.path, ProblemKind::NotAllowed, text);
                }
            },
        }
    }

    /// What was given with the highest rank.
    fn winner(&self, key: &'static Key, file: &FromFile) -> Option<(Given, Origin)> {
        let text = |text: &str, origin| Some((Given::Text(text.to_owned()), origin));
        if let Some((_, value)) = self.sources.overrides.iter().rev().find(|(path, _)| path == key.path) {
            return text(value, Origin::Flag);
        }
        if key.path.contains('*') {
            return None;
        }
        let env = self.sources.env;
        if key.path == "state.dir"
            && let Some(value) = env("STATE_DIRECTORY").filter(|value| !value.is_empty())
        {
            // Systemd separates several with colons.
            let first = value.split(':').next().unwrap_or_default();
            return text(first, Origin::Env("STATE_DIRECTORY".to_owned()));
        }
        for name in [Some(key.env_name()), key.alias.map(str::to_owned)].into_iter().flatten() {
            if let Some(value) = env(&name) {
                return text(&value, Origin::Env(name));
            }
        }
        file.get(key.path).cloned()
    }
}

/// What was found, for a message about `key`.
fn found(key: &Key, given: &Given) -> String {
    match given {
        _ if key.is_secret() => "a value that is not shown".to_owned(),
        Given::Text(text) if text.contains('@') => "a value that is not shown, since it may hold a password".to_owned(),
        Given::Text(text) => quote(text),
        Given::List(items) => quote(&items.join(", ")),
    }
}

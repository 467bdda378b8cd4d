//! Loads the configuration: gathers what was given for each key, puts it into its field, checks the whole.
//!
//! Rank: command line, environment, its older names, file, default. An empty value is the default. `$STATE_DIRECTORY`,
//! which systemd makes, ranks above all but the command line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::checks;
use super::draft::{Draft, Sources};
use super::field::{Given, Key, Kind};
use super::files;
use super::keys::{key, keys};
use super::names;
use super::problem::{Origin, Problem, Problems, quote};
use super::tree::{FromFile, IGNORED, Walk, own_word};
use super::types::Config;
use super::yaml::{self, SyntaxError};

/// A configuration, and what to know about it.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Problem>,
    /// By key; every key that has a meaning is in it.
    pub origins: BTreeMap<&'static str, Origin>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// By key: texts as they stand in the file, with their references. A secret may be among them.
    pub(super) written: BTreeMap<&'static str, String>,
}

/// Reads, resolves and checks. The error holds every problem.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Problems> {
    let mut draft = Draft::new(sources);
    let (file, world_readable, given) = match draft.read_file() {
        Some((file, world_readable, given)) => (Some(file), world_readable, given),
        None => (None, false, FromFile::new()),
    };
    // A file that is no YAML gave nothing. Further checks would call keys missing that stand in it.
    if draft.problems.iter().any(|problem| problem.key.is_empty()) {
        return Err(Problems(draft.problems));
    }
    for (path, _) in &sources.overrides {
        if key(path).is_none_or(|key| key.path.contains('*')) {
            draft.problem(path, Origin::Flag, names::unknown(path));
        }
    }
    for key in keys() {
        draft.apply(key, &given);
    }
    checks::run(&mut draft, world_readable);
    if draft.problems.is_empty() {
        let Draft { config, warnings, origins, written, .. } = draft;
        Ok(Loaded { config, warnings, origins, file, written })
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
    /// The path of the file, whether everyone may read it, and what it gives.
    fn read_file(&mut self) -> Option<(PathBuf, bool, FromFile)> {
        let named = self.sources.path.as_ref();
        for path in named.map_or(&self.sources.search[..], std::slice::from_ref) {
            let read = if named.is_some() { files::read(path).map(Some) } else { files::read_if_there(path) };
            let small = match read {
                Ok(None) => continue,
                Ok(Some(small)) => Ok(small),
                Err(text) => Err(SyntaxError { place: None, text }),
            };
            let tree = small.and_then(|small| Ok((yaml::parse(decode(&small.bytes)?)?, small.world_readable)));
            return Some(match tree {
                Ok((root, world_readable)) => {
                    (path.clone(), world_readable, Walk { path, draft: self, given: FromFile::new() }.run(&root))
                }
                Err(SyntaxError { place, text }) => {
                    self.problem("", Origin::File { path: path.clone(), place }, text);
                    (path.clone(), false, FromFile::new())
                }
            });
        }
        None
    }

    /// Gives `key` its default and then what ranks highest.
    fn apply(&mut self, key: &'static Key, file: &FromFile) {
        self.origins.insert(key.path, Origin::Default);
        if let Err(allowed) = key.put(&mut self.config, &Given::Text(key.default.to_owned())) {
            self.refuse(key.path, format!("its default is not allowed: {allowed}"));
        }
        let Some((mut given, origin)) = self.winner(key, file) else { return };
        let text = if let Given::Text(text) = &given { Some(text.as_str()) } else { None };
        if text == Some("") {
            self.origins.insert(key.path, Origin::DefaultBecause(format!("{origin} is empty")));
            return;
        }
        let own = text.and_then(|text| own_word(key.path, text)).map(str::to_owned);
        self.origins.insert(key.path, origin);
        if let Some(own) = own {
            self.warn(key.path, format!("{} is not available in this version; {own} is used", found(key, &given)));
            given = Given::Text(own);
        }
        let text = if let Given::Text(text) = &given { Some(text.as_str()) } else { None };
        match (key.kind, text) {
            (Kind::Ignored, _) => self.warn(key.path, IGNORED),
            (Kind::Later(refuse), Some(text)) if refuse(text) => {
                let text = "not available in this version, and to ignore it would weaken security; remove it";
                self.refuse(key.path, text);
            }
            (Kind::Later(_), _) => self.warn(key.path, "not available in this version; it has no effect"),
            (_, text) => match key.put(&mut self.config, &given) {
                Ok(()) if key.field.is_none() => {
                    self.fieldless.insert(key.path, text.unwrap_or_default().to_owned());
                }
                Ok(()) => {}
                Err(allowed) => {
                    let text = format!("found {}; allowed: {allowed}", found(key, &given));
                    self.refuse(key.path, text);
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
        if self.sources.file_alone {
            return file.get(key.path).cloned();
        }
        if key.path == "state.dir"
            && let Some(value) = env("STATE_DIRECTORY").filter(|value| !value.is_empty())
        {
            // Systemd separates several with colons.
            let first = value.split(':').next().unwrap_or_default();
            return text(first, Origin::Env("STATE_DIRECTORY".to_owned()));
        }
        for name in [Some(key.env_name()), key.alias.map(str::to_owned)].into_iter().flatten() {
            if let Some(value) = env(&name) {
                let is_flag = name == "DOCKER_TLS_VERIFY" && !value.is_empty();
                return text(if is_flag { "true" } else { &value }, Origin::Env(name));
            }
        }
        file.get(key.path).cloned()
    }
}

/// What was found, for a message about `key`.
fn found(key: &Key, given: &Given) -> String {
    match given {
        _ if key.is_secret() => "a value that is not shown".to_owned(),
        _ if matches!(key.kind, Kind::Table { .. }) => "rows that cannot be used".to_owned(),
        Given::Text(text) if text.contains('@') => "a value that is not shown, since it may hold a password".to_owned(),
        Given::Text(text) => quote(text),
        Given::List(items) => quote(&items.join(", ")),
    }
}

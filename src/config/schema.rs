//! The one table of keys: each path with its kind, its default and the field that it fills.
//!
//! The names of the environment, the checks, `validate`'s output and the tests are all made from this table, so that a
//! key cannot be known in one place and unknown in another. A field is named by one function that both writes and reads
//! it.

use std::path::PathBuf;
use std::time::Duration;

use super::types::Config;
use super::value::{parse_duration, parse_size, show_duration, show_size};
use crate::limits::CONFIG_LIST_MAX;
use crate::secret::Secret;

/// One key.
#[derive(Clone, Copy)]
pub struct Key {
    /// Names from the top, joined by `.`; a final `*` stands for any names.
    pub path: &'static str,
    /// As it would stand in the file; empty for none.
    pub default: &'static str,
    /// Names in the environment that rank below the derived one.
    pub aliases: &'static [&'static str],
    /// Where the value goes.
    pub field: Field,
}

/// Access to a field of the configuration.
pub type At<T> = fn(&mut Config) -> &mut T;

/// A whole number of some width.
#[derive(Clone, Copy)]
pub enum IntAt {
    U16(At<u16>),
    U32(At<u32>),
    U64(At<u64>),
    Usize(At<usize>),
    /// `None` while not given.
    OptU64(At<Option<u64>>),
}

/// What a custom value may be in the file without quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unquoted {
    Nothing,
    Number,
    Truth,
}

/// The kind of a key, with its bounds and its field.
#[derive(Clone, Copy)]
pub enum Field {
    Text {
        at: At<String>,
        check: fn(&str) -> Result<(), String>,
    },
    Path {
        at: At<PathBuf>,
    },
    OptPath {
        at: At<Option<PathBuf>>,
    },
    Bool {
        at: At<bool>,
    },
    Duration {
        at: At<Duration>,
        min: Duration,
        max: Duration,
    },
    Size {
        at: IntAt,
        min: u64,
        max: u64,
    },
    Int {
        at: IntAt,
        min: u64,
        max: u64,
    },
    Float {
        at: At<f64>,
        min: f64,
        max: f64,
    },
    /// `check` returns an entry in its final form.
    List {
        at: At<Vec<String>>,
        check: fn(&str) -> Result<String, String>,
    },
    /// One of `words`; the functions speak of its index.
    Word {
        words: &'static [&'static str],
        put: fn(&mut Config, usize),
        get: fn(&Config) -> usize,
    },
    /// Anything else; the error is what is allowed. `unquoted`: what the file may give without quotes.
    Custom {
        unquoted: Unquoted,
        put: fn(&mut Config, &str) -> Result<(), String>,
        get: fn(&Config) -> Shown,
    },
    Secret {
        at: At<Secret>,
    },
    /// Checked by `checks`, which reads the text as it was given.
    Aside {
        truth: bool,
    },
    /// Of the older orchestrator, without meaning here.
    Ignored,
    /// Not in this version. A value that `refuse` says yes to is an error: to ignore it would weaken security.
    Later {
        refuse: fn(&str) -> bool,
    },
}

/// A value of the configuration, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Not set, or without effect.
    Unset,
    /// A number, a truth value, a duration or a size: needs no quotes.
    Plain(String),
    Text(String),
    List(Vec<String>),
    /// Set, and withheld.
    Secret,
}

/// A value as it was given.
#[derive(Clone)]
pub(super) enum Given {
    Text(String),
    List(Vec<String>),
}

impl Key {
    /// The name in the environment: `jobs.maxConcurrent` is `CRONIUM_JOBS_MAX_CONCURRENT`.
    pub fn env_name(&self) -> String {
        env_name(self.path)
    }

    /// Whether the value has a meaning in this version.
    pub fn has_meaning(&self) -> bool {
        !matches!(self.field, Field::Ignored | Field::Later { .. })
    }

    /// Whether the value must be withheld.
    pub fn is_secret(&self) -> bool {
        matches!(self.field, Field::Secret { .. }) || self.path.ends_with("jwtSecret")
    }

    /// Another name in the environment.
    pub(super) const fn alias(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// The value in `config`, read through the same function that writes it.
    pub fn shown(&self, config: &mut Config) -> Shown {
        self.field.shown(config)
    }
}

impl Field {
    /// Whether a number without quotes is a value of this kind. Elsewhere YAML would change it: `1.40` becomes `1.4`.
    pub(super) fn takes_number(&self) -> bool {
        match self {
            Self::Duration { .. } | Self::Size { .. } | Self::Int { .. } | Self::Float { .. } => true,
            Self::Custom { unquoted, .. } => *unquoted == Unquoted::Number,
            _ => false,
        }
    }

    /// Whether `true` and `false` without quotes are values of this kind.
    pub(super) fn takes_bool(&self) -> bool {
        matches!(self, Self::Bool { .. } | Self::Aside { truth: true } | Self::Custom { unquoted: Unquoted::Truth, .. })
    }

    /// What is allowed, for messages.
    pub(super) fn allowed(&self) -> String {
        match self {
            Self::Bool { .. } | Self::Aside { truth: true } => "true or false".to_owned(),
            Self::Duration { min, max, .. } => {
                format!(
                    "a duration such as 500ms, 30s or 1h30m, from {} to {}",
                    show_duration(*min),
                    show_duration(*max)
                )
            }
            Self::Size { min, max, .. } => {
                format!("a size such as 512MB or 1GiB, from {} to {}", show_size(*min), show_size(*max))
            }
            Self::Int { min, max, .. } => format!("a whole number from {min} to {max}"),
            Self::Float { min, max, .. } => format!("a number from {min} to {max}"),
            Self::Word { words, .. } => words.join(", "),
            Self::List { .. } => "a list".to_owned(),
            Self::Path { .. } | Self::OptPath { .. } | Self::Aside { .. } => "a path".to_owned(),
            Self::Custom { unquoted: Unquoted::Number, .. } => "a number".to_owned(),
            Self::Custom { unquoted: Unquoted::Truth, .. } => "true or false".to_owned(),
            _ => "text".to_owned(),
        }
    }

    /// Writes a given value; the error is what is allowed.
    pub(super) fn put(&self, config: &mut Config, given: &Given) -> Result<(), String> {
        if let (Self::List { at, check }, given) = (self, given) {
            *at(config) = entries(given, *check)?;
            return Ok(());
        }
        let Given::Text(text) = given else { return Err(self.allowed()) };
        self.put_text(config, text).ok_or_else(|| self.allowed())?
    }

    /// `None` when the text is not of the kind, an inner error when a check refused it.
    fn put_text(&self, config: &mut Config, text: &str) -> Option<Result<(), String>> {
        match self {
            Self::Text { at, check } => {
                if let Err(reason) = check(text) {
                    return Some(Err(reason));
                }
                *at(config) = text.to_owned();
            }
            Self::Path { at } => *at(config) = path(text)?,
            Self::OptPath { at } => *at(config) = if text.is_empty() { None } else { Some(path(text)?) },
            Self::Bool { at } => *at(config) = text.parse().ok()?,
            Self::Duration { at, min, max } => {
                *at(config) = parse_duration(text).filter(|value| (*min..=*max).contains(value))?;
            }
            Self::Size { at, min, max } => {
                let value = if text.is_empty() { None } else { Some(parse_size(text)?) };
                at.put(config, value, *min, *max)?;
            }
            Self::Int { at, min, max } => {
                let value = if text.is_empty() { None } else { Some(whole(text)?) };
                at.put(config, value, *min, *max)?;
            }
            Self::Float { at, min, max } => *at(config) = float(text, *min, *max)?,
            Self::Word { words, put, .. } => put(config, words.iter().position(|word| *word == text)?),
            Self::Custom { put, .. } => return Some(put(config, text)),
            Self::Secret { at } => *at(config) = Secret::new(text),
            Self::List { .. } | Self::Aside { .. } | Self::Ignored | Self::Later { .. } => {}
        }
        Some(Ok(()))
    }

    fn shown(&self, config: &mut Config) -> Shown {
        match self {
            Self::Text { at, .. } => text_or_unset(at(config).clone()),
            Self::Path { at } => text_or_unset(at(config).display().to_string()),
            Self::OptPath { at } => {
                at(config).as_ref().map_or(Shown::Unset, |path| Shown::Text(path.display().to_string()))
            }
            Self::Bool { at } => Shown::Plain(at(config).to_string()),
            Self::Duration { at, .. } => Shown::Plain(show_duration(*at(config))),
            Self::Size { at, .. } => at.get(config).map_or(Shown::Unset, |value| Shown::Plain(show_size(value))),
            Self::Int { at, .. } => at.get(config).map_or(Shown::Unset, |value| Shown::Plain(value.to_string())),
            Self::Float { at, .. } => Shown::Plain(at(config).to_string()),
            Self::List { at, .. } => Shown::List(at(config).clone()),
            Self::Word { words, get, .. } => Shown::Text(words[get(config)].to_owned()),
            Self::Custom { get, .. } => get(config),
            Self::Secret { at } if at(config).is_empty() => Shown::Unset,
            Self::Secret { .. } => Shown::Secret,
            Self::Aside { .. } | Self::Ignored | Self::Later { .. } => Shown::Unset,
        }
    }
}

impl IntAt {
    fn put(&self, config: &mut Config, value: Option<u64>, min: u64, max: u64) -> Option<()> {
        if value.is_some_and(|value| !(min..=max).contains(&value)) {
            return None;
        }
        match self {
            Self::U16(at) => *at(config) = u16::try_from(value?).ok()?,
            Self::U32(at) => *at(config) = u32::try_from(value?).ok()?,
            Self::U64(at) => *at(config) = value?,
            Self::Usize(at) => *at(config) = usize::try_from(value?).ok()?,
            Self::OptU64(at) => *at(config) = value,
        }
        Some(())
    }

    fn get(&self, config: &mut Config) -> Option<u64> {
        match self {
            Self::U16(at) => Some(u64::from(*at(config))),
            Self::U32(at) => Some(u64::from(*at(config))),
            Self::U64(at) => Some(*at(config)),
            Self::Usize(at) => u64::try_from(*at(config)).ok(),
            Self::OptU64(at) => *at(config),
        }
    }
}

/// Digits alone: the standard parser would take `+5`.
pub(super) fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A finite number within bounds.
pub(super) fn float(text: &str, min: f64, max: f64) -> Option<f64> {
    text.parse::<f64>().ok().filter(|value| (min..=max).contains(value))
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
}

pub(super) fn text_or_unset(text: String) -> Shown {
    if text.is_empty() { Shown::Unset } else { Shown::Text(text) }
}

/// The entries of a list, or of text with commas.
fn entries(given: &Given, check: fn(&str) -> Result<String, String>) -> Result<Vec<String>, String> {
    let given: Vec<&str> = match given {
        Given::List(items) => items.iter().map(String::as_str).collect(),
        Given::Text(text) => text.split(',').collect(),
    };
    if given.len() > CONFIG_LIST_MAX {
        return Err(format!("at most {CONFIG_LIST_MAX} entries"));
    }
    given.into_iter().map(str::trim).filter(|entry| !entry.is_empty()).map(check).collect()
}

/// `CRONIUM_` and the path, camelCase split, upper case. A run of capitals is one word.
pub fn env_name(path: &str) -> String {
    let mut name = String::from("CRONIUM");
    for segment in path.split('.') {
        name.push('_');
        let chars: Vec<char> = segment.chars().collect();
        for (index, c) in chars.iter().enumerate() {
            let after_lower = index > 0 && !chars[index - 1].is_ascii_uppercase();
            let before_lower = index > 0 && chars.get(index + 1).is_some_and(char::is_ascii_lowercase);
            if c.is_ascii_uppercase() && (after_lower || before_lower) {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
    }
    name
}

/// All keys, in the order in which they are shown.
pub fn keys() -> impl Iterator<Item = &'static Key> + Clone {
    super::keys_agent::KEYS.iter().chain(super::keys_container::KEYS).chain(super::keys_rest::KEYS)
}

/// Gives one key a value, with the checks of a configuration; the error is what is allowed.
pub fn set(config: &mut Config, path: &str, text: &str) -> Result<(), String> {
    let key = key(path).ok_or_else(|| format!("there is no key {path}"))?;
    key.field.put(config, &Given::Text(text.to_owned()))
}

/// The key at `path`, exactly.
pub fn key(path: &str) -> Option<&'static Key> {
    keys().find(|key| key.path == path)
}

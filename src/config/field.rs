//! A key and its kind: how a text becomes a value, and how a value gets into its field and out of it again.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::parse;
use super::proxy;
use super::types::{
    BackoffKind, Config, DockerEndpoint, FromFile, HostTable, JumpTable, LiveWay, LogFormat, LogOutput, NetworkMode,
    OnShutdown, ProxyKey, PullPolicy, QueueStrategy, RedactEnvironment, RequireProof, Seccomp, Share, SignatureMode,
};
use super::value::{parse_duration, parse_size, show_duration, show_size};
use crate::limits::CONFIG_LIST_MAX;
use crate::secret::Secret;
use crate::signing::keys::TrustedKey;
use crate::signing::scripts::Scripts;

/// One key.
#[derive(Clone, Copy)]
pub struct Key {
    /// Names from the top, joined by `.`; a final `*` stands for any names.
    pub path: &'static str,
    /// As it would stand in the file; empty for none.
    pub default: &'static str,
    pub kind: Kind,
    /// Where the value goes; `None` for a key that only `checks` looks at, or nobody.
    pub(super) field: Option<Access>,
    /// A further name in the environment, below the derived one in rank.
    pub alias: Option<&'static str>,
    pub effect: Effect,
    /// The key and the value of it without which this one is not used.
    pub when: Option<(&'static str, &'static str)>,
    /// The meaning, for the reference.
    #[allow(dead_code)] // docs/configuration.md has it, which a test generates.
    pub help: &'static str,
}

/// When a new value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At a reload, for what begins after it.
    Reload,
    /// When the agent starts: the value shapes what is made once, or is the agent's identity.
    Restart,
}

/// The field of a key.
#[derive(Clone, Copy)]
pub(super) struct Access {
    pub(super) get: fn(&Config) -> &dyn Field,
    pub(super) get_mut: fn(&mut Config) -> &mut dyn Field,
    /// Sets it as it is in the other configuration.
    pub(super) copy: fn(&mut Config, &Config),
    pub(super) same: fn(&Config, &Config) -> bool,
}

/// Returns a text in its final form, or what is wrong with it. An empty error means another form.
pub type Check = fn(&str) -> Result<String, String>;

/// What a key takes, with its bounds. `form` is for messages and the reference.
#[derive(Clone, Copy)]
pub enum Kind {
    Text {
        form: &'static str,
        check: Check,
    },
    Path,
    Bool,
    Time {
        min: Duration,
        max: Duration,
    },
    Size {
        min: u64,
        max: u64,
    },
    Int {
        min: u64,
        max: u64,
    },
    Number {
        min: f64,
        max: f64,
    },
    Words(&'static [&'static str]),
    List {
        form: &'static str,
        check: Check,
    },
    /// Rows of several values, as a list in the file and as YAML in brackets elsewhere.
    Table {
        form: &'static str,
        check: Check,
    },
    Secret,
    /// Of the older orchestrator, without meaning here.
    Ignored,
    /// Not in this version. A value for which the function returns true is an error: ignoring it would weaken security.
    Later(fn(&str) -> bool),
}

/// A value as it was given.
#[derive(Clone)]
pub(super) enum Given {
    Text(String),
    List(Vec<String>),
}

/// A value of a key's kind and within its bounds.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub enum Value {
    /// Not set, or without effect.
    Unset,
    Bool(bool),
    /// A whole number, or bytes.
    Whole(u64),
    Number(f64),
    Time(Duration),
    Text(String),
    List(Vec<String>),
    /// Set, and not shown.
    Secret,
}

impl Key {
    /// The name in the environment: `CRONIUM_` and the path, camelCase split, upper case. A run of capitals is one word.
    pub fn env_name(&self) -> String {
        let mut name = String::from("CRONIUM");
        for segment in self.path.split('.') {
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

    /// Whether the value has a meaning in this version.
    pub fn has_meaning(&self) -> bool {
        !matches!(self.kind, Kind::Ignored | Kind::Later(_))
    }

    /// Whether the value must not be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret) || self.path.ends_with("jwtSecret")
    }

    /// Reads a value and puts it into its field; the error is what is allowed.
    pub(super) fn put(&self, config: &mut Config, given: &Given) -> Result<(), String> {
        let value = self.kind.parse(given)?;
        match self.field {
            Some(field) => (field.get_mut)(config).put(value).map_err(|why| self.kind.refusal(&why)),
            None => Ok(()),
        }
    }

    /// The value in `config`.
    pub(super) fn get(&self, config: &Config) -> Value {
        self.field.map_or(Value::Unset, |field| (field.get)(config).get())
    }

    /// A value of this key as text that [`Key::put`] takes: lists with commas, empty when not set.
    pub fn words(&self, value: &Value) -> String {
        match value {
            Value::Unset => String::new(),
            Value::Bool(truth) => truth.to_string(),
            Value::Whole(bytes) if matches!(self.kind, Kind::Size { .. }) => show_size(*bytes),
            Value::Whole(number) => number.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Time(time) => show_duration(*time),
            Value::Text(text) => text.clone(),
            Value::List(items) => items.join(", "),
            Value::Secret => "***".to_owned(),
        }
    }
}

impl Kind {
    /// Whether a number without quotes is a value of this kind. Elsewhere YAML would change it: `1.40` becomes `1.4`.
    pub(super) fn takes_number(&self) -> bool {
        matches!(self, Self::Time { .. } | Self::Size { .. } | Self::Int { .. } | Self::Number { .. } | Self::Later(_))
    }

    /// Whether `true` and `false` without quotes are values of this kind.
    pub(super) fn takes_bool(&self) -> bool {
        matches!(self, Self::Bool | Self::Later(_))
    }

    /// What is allowed, for messages and for the reference.
    pub fn allowed(&self) -> String {
        match self {
            Self::Text { form, .. } | Self::Table { form, .. } => (*form).to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Time { min, max } => {
                let (min, max) = (show_duration(*min), show_duration(*max));
                format!("a duration such as 500ms, 30s or 1h30m, from {min} to {max}")
            }
            Self::Size { min, max } => {
                format!("a size such as 512MB or 1GiB, from {} to {}", show_size(*min), show_size(*max))
            }
            Self::Int { min, max } => format!("a whole number from {min} to {max}"),
            Self::Number { min, max } => format!("a number from {min} to {max}"),
            Self::Words(words) => words.join(", "),
            Self::List { form, .. } => format!("a list of {form}"),
            Self::Secret | Self::Ignored | Self::Later(_) => "text".to_owned(),
        }
    }

    /// What is allowed, and what is wrong with a value.
    fn refusal(&self, why: &str) -> String {
        if why.is_empty() { self.allowed() } else { format!("{}; {why}", self.allowed()) }
    }

    /// The value that was given; the error is what is allowed. An empty text is no value.
    fn parse(&self, given: &Given) -> Result<Value, String> {
        let text = match (self, given) {
            (Self::List { check, .. }, _) => return entries(given, *check).map_err(|why| self.refusal(&why)),
            (_, Given::List(_)) => return Err(self.allowed()),
            (_, Given::Text(text)) if text.is_empty() => return Ok(Value::Unset),
            (_, Given::Text(text)) => text,
        };
        let value = match self {
            Self::Text { check, .. } | Self::Table { check, .. } => {
                return check(text).map(Value::Text).map_err(|why| self.refusal(&why));
            }
            Self::Path => (!text.contains('\0')).then(|| Value::Text(text.clone())),
            Self::Bool => text.parse().ok().map(Value::Bool),
            Self::Time { min, max } => parse_duration(text).filter(|time| (min..=max).contains(&time)).map(Value::Time),
            Self::Size { min, max } => parse_size(text).filter(|size| (min..=max).contains(&size)).map(Value::Whole),
            Self::Int { min, max } => parse::whole(text).filter(|n| (min..=max).contains(&n)).map(Value::Whole),
            Self::Number { min, max } => {
                text.parse::<f64>().ok().filter(|n| (min..=max).contains(&n)).map(Value::Number)
            }
            Self::Words(words) => words.contains(&text.as_str()).then(|| Value::Text(text.clone())),
            Self::Secret => Some(Value::Text(text.clone())),
            Self::List { .. } | Self::Ignored | Self::Later(_) => Some(Value::Unset),
        };
        value.ok_or_else(|| self.allowed())
    }
}

/// The entries of a list, or of text with commas.
fn entries(given: &Given, check: Check) -> Result<Value, String> {
    let given: Vec<&str> = match given {
        Given::List(items) => items.iter().map(String::as_str).collect(),
        Given::Text(text) => text.split(',').collect(),
    };
    if given.len() > CONFIG_LIST_MAX {
        return Err(format!("at most {CONFIG_LIST_MAX} entries"));
    }
    let entries = given.into_iter().map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(check).collect::<Result<_, _>>().map(Value::List)
}

/// A type of the configuration's fields.
pub(super) trait Field {
    /// Takes a value of the key's kind. The error, which may be empty, is what is wrong with it.
    fn put(&mut self, value: Value) -> Result<(), String>;
    fn get(&self) -> Value;
}

impl Value {
    /// As text, empty when not set.
    fn text(self) -> Result<String, String> {
        match self {
            Self::Unset => Ok(String::new()),
            Self::Text(text) => Ok(text),
            _ => Err(String::new()),
        }
    }

    /// As a whole number, when set.
    fn whole(self) -> Result<Option<u64>, String> {
        match self {
            Self::Unset => Ok(None),
            Self::Whole(number) => Ok(Some(number)),
            _ => Err(String::new()),
        }
    }

    fn of_text(text: String) -> Self {
        if text.is_empty() { Self::Unset } else { Self::Text(text) }
    }
}

/// Each type with its conversions from and to a value. No row of the table gives a field a value of another kind; such a
/// value is an error without a text.
macro_rules! fields {
    ($($field:ty: |$value:ident| $put:expr, |$this:ident| $get:expr;)*) => {
        $(impl Field for $field {
            fn put(&mut self, $value: Value) -> Result<(), String> {
                *self = $put;
                Ok(())
            }

            fn get(&self) -> Value {
                let $this = self;
                $get
            }
        })*
    };
}

macro_rules! whole_fields {
    ($($field:ty)*) => {
        fields! { $($field:
            |value| value.whole()?.and_then(|number| number.try_into().ok()).ok_or_else(String::new)?,
            |number| u64::try_from(*number).map_or(Value::Unset, Value::Whole);
        )* }
    };
}

macro_rules! word_fields {
    ($($field:ty)*) => {
        fields! { $($field:
            |value| Self::of_word(&value.text()?).ok_or_else(String::new)?,
            |this| Value::Text(this.word().to_owned());
        )* }
    };
}

/// Fields with one function that reads a text, and one that shows it.
macro_rules! text_fields {
    ($($field:ty: $parse:expr, $show:expr;)*) => {
        fields! { $($field: |value| $parse(&value.text()?)?, |this| Value::of_text($show(this));)* }
    };
}

fields! {
    bool: |value| if let Value::Bool(truth) = value { truth } else { return Err(String::new()) }, |b| Value::Bool(*b);
    f64: |value| if let Value::Number(n) = value { n } else { return Err(String::new()) }, |n| Value::Number(*n);
    Duration: |value| if let Value::Time(time) = value { time } else { return Err(String::new()) }, |t| Value::Time(*t);
    Option<u64>: |value| value.whole()?, |number| number.map_or(Value::Unset, Value::Whole);
    Vec<String>: |value| match value {
        Value::List(items) => items,
        Value::Unset => Vec::new(),
        _ => return Err(String::new()),
    }, |items| Value::List(items.clone());
    Secret: |value| Secret::new(value.text()?), |token| if token.is_empty() { Value::Unset } else { Value::Secret };
}
whole_fields! { u16 u32 u64 usize }
word_fields! {
    BackoffKind LiveWay LogFormat LogOutput OnShutdown PullPolicy QueueStrategy RedactEnvironment RequireProof SignatureMode
}
text_fields! {
    String: parse::any, String::clone;
    PathBuf: parse::path, |path: &PathBuf| path.display().to_string();
    Option<PathBuf>: parse::opt_path, |path: &Option<PathBuf>| path.as_deref().map_or(String::new(), parse::shown);
    Option<String>: parse::docker_version, |version: &Option<String>| version.clone().unwrap_or("auto".to_owned());
    (u32, u32): parse::user, |(user, group): &(u32, u32)| format!("{user}:{group}");
    IpAddr: parse::address, IpAddr::to_string;
    log::LevelFilter: parse::level, |level: &log::LevelFilter| level.as_str().to_ascii_lowercase();
    ProxyKey: proxy::parse, proxy::show;
    DockerEndpoint: parse::docker_endpoint, parse::show_docker_endpoint;
    NetworkMode: parse::network_mode, parse::show_network_mode;
    Share: Share::parse, Share::shown;
    HostTable: HostTable::parse, HostTable::shown;
    JumpTable: JumpTable::parse, JumpTable::shown;
    Seccomp: parse::seccomp, parse::show_seccomp;
    FromFile<Vec<TrustedKey>>: parse::from_file, parse::show_from_file;
    FromFile<Scripts>: parse::from_file, parse::show_from_file;
}

//! What is wrong with a configuration, and where each value came from.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from; `--explain` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The table's default.
    Default,
    /// The default, because the given value is empty or another key bounds it; the reason.
    DefaultBecause(String),
    /// Line and column, where they are known.
    File { path: PathBuf, place: Option<(usize, usize)> },
    /// The name of the variable.
    Env(String),
    /// The command line.
    Flag,
    /// Systemd's credential, by the path of its file.
    Credential(PathBuf),
    /// `api.tokenFile`, by its path, and where that path came from.
    TokenFile(PathBuf, Box<Origin>),
    /// Made from the value of another key.
    Derived(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::DefaultBecause(why) => write!(f, "default ({why})"),
            Self::File { path, place: None } => write!(f, "{}", path.display()),
            Self::File { path, place: Some((line, _)) } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("command line"),
            Self::Credential(path) => write!(f, "credential {}", path.display()),
            Self::TokenFile(path, origin) => write!(f, "api.tokenFile {}, given by {origin}", path.display()),
            Self::Derived(key) => write!(f, "derived from {key}"),
        }
    }
}

/// Something wrong with a configuration, or a warning. Its text never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path of the key; empty when the whole file is meant.
    pub key: String,
    /// Where the offending value was given.
    pub origin: Option<Origin>,
    /// What was found, what is allowed, what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, self.origin.as_ref())?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

/// `FILE:LINE:COLUMN: `, `environment NAME: ` and so on; nothing for a default.
fn write_place(f: &mut fmt::Formatter<'_>, origin: Option<&Origin>) -> fmt::Result {
    match origin {
        None | Some(Origin::Default | Origin::DefaultBecause(_) | Origin::Derived(_)) => Ok(()),
        Some(Origin::File { path, place: Some((line, column)) }) => write!(f, "{}:{line}:{column}: ", path.display()),
        Some(other) => write!(f, "{other}: "),
    }
}

/// Every problem of one attempt to load.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().take(crate::limits::CONFIG_PROBLEMS_MAX).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        match self.0.len().checked_sub(crate::limits::CONFIG_PROBLEMS_MAX) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// Text for a message: quoted, control characters escaped, cut where it is long.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    format!("{:?}… ({} bytes)", text.chars().take(SHOWN).collect::<String>(), text.len())
}

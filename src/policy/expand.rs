//! `${VAR}` in a value of the configuration file.
//!
//! Expansion works on one value after the YAML was read, and its result is final: it is neither expanded again nor read
//! as YAML, so what a variable holds can never add a key or change a type. The lookup is an argument.

use std::fmt;

use crate::limits::CONFIG_VALUE_MAX;

/// Why a value could not be expanded. No variant holds text of the value: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpandError {
    /// `${` without a `}`; the byte offset of the `$`.
    Unterminated(usize),
    /// What stands between the braces is no name of a variable; the byte offset of the `$`.
    BadName(usize),
    /// `${A:-${B}}`; the byte offset of the outer `$`.
    Nested(usize),
    /// The result would be longer than [`CONFIG_VALUE_MAX`].
    TooLong,
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unterminated(at) => {
                write!(f, "`${{` at byte {at} of the value has no `}}`; write `$$` where a plain `$` is meant")
            }
            Self::BadName(at) => {
                write!(f, "`${{…}}` at byte {at} of the value names no variable; allowed are letters, digits and `_`")
            }
            Self::Nested(at) => {
                write!(f, "`${{…}}` at byte {at} of the value holds another `${{`, which is not offered")
            }
            Self::TooLong => write!(f, "the expanded value is longer than {CONFIG_VALUE_MAX} bytes"),
        }
    }
}

impl std::error::Error for ExpandError {}

/// Replaces `${VAR}` (empty when unset), `${VAR:-default}` (the default when unset or empty) and `$$` (a plain `$`).
/// Any other `$` stays as it is.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let at = text.len() - rest.len() + dollar;
        let after = &rest[dollar + 1..];
        rest = if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            tail
        } else if let Some(inner) = after.strip_prefix('{') {
            let end = inner.find('}').ok_or(ExpandError::Unterminated(at))?;
            out.push_str(&reference(&inner[..end], at, &lookup)?);
            &inner[end + 1..]
        } else {
            out.push('$');
            after
        };
        if out.len() > CONFIG_VALUE_MAX {
            return Err(ExpandError::TooLong);
        }
    }
    out.push_str(rest);
    if out.len() > CONFIG_VALUE_MAX { Err(ExpandError::TooLong) } else { Ok(out) }
}

/// The value of what stands between the braces.
fn reference(inner: &str, at: usize, lookup: impl Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, default),
        None => (inner, ""),
    };
    if inner.contains("${") {
        return Err(ExpandError::Nested(at));
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(ExpandError::BadName(at));
    }
    Ok(lookup(name).filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{ExpandError, expand};
    use crate::limits::CONFIG_VALUE_MAX;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${A} $$ x: y # z".to_owned()),
            "LONG" => Some("x".repeat(CONFIG_VALUE_MAX / 2 + 1)),
            _ => None,
        }
    }

    #[test]
    fn references_become_their_values() {
        let table = [
            ("", ""),
            ("plain", "plain"),
            ("${A}", "one"),
            ("<${A}${A}>", "<oneone>"),
            ("${UNSET}", ""),
            ("${UNSET:-two}", "two"),
            ("${EMPTY:-two}", "two"),
            ("${A:-two}", "one"),
            ("${UNSET:-}", ""),
            ("${UNSET:-a:-b}", "a:-b"),
            ("$$", "$"),
            ("$${A}", "${A}"),
            ("$$$${A}$", "$${A}$"),
            ("$A", "$A"),
            ("cost: 5$", "cost: 5$"),
            ("ä${A}ö", "äoneö"),
            ("${TRICK}", "${A} $$ x: y # z"),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text, lookup).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let table = [
            ("${A", ExpandError::Unterminated(0)),
            ("ab${", ExpandError::Unterminated(2)),
            ("$$${A", ExpandError::Unterminated(2)),
            ("${}", ExpandError::BadName(0)),
            ("${1A}", ExpandError::BadName(0)),
            ("${A-b}", ExpandError::BadName(0)),
            ("${ A }", ExpandError::BadName(0)),
            ("${A:-${B}}", ExpandError::Nested(0)),
            ("${LONG}${LONG}", ExpandError::TooLong),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text, lookup), Err(expected), "{text}");
        }
    }
}

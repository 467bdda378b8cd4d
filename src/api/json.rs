//! Reads JSON values one by one, and names a wrong one by its path, never by its value: that may be a secret.

use crate::wire::scan::{FieldsError, Json, TextError};

/// A value that may be missing or null.
pub(super) type Raw<'a> = Option<Json<'a>>;

/// An object's members of these names.
pub(super) fn object<'a, const N: usize>(
    raw: Json<'a>,
    path: &str,
    names: [&'static str; N],
) -> Result<[Raw<'a>; N], String> {
    raw.fields(names).map_err(|error| match error {
        FieldsError::NotAnObject => format!("{path} must be an object, found {}", raw.sort()),
        FieldsError::Twice(name) => format!("{name} is given twice in {path}"),
        FieldsError::Missing(name) => format!("{path}.{name} is missing"),
        FieldsError::TooMuch(limit) => format!("{path} is more than {limit} allows"),
        FieldsError::Broken(why) => format!("{path} cannot be read: {why}"),
    })
}

/// A text of at most `most` bytes.
pub(super) fn text(raw: Json<'_>, path: &str, most: usize) -> Result<String, String> {
    raw.text(most).map_err(|error| match error {
        TextError::NotText => format!("{path} must be text, found {}", raw.sort()),
        TextError::TooLong(length) => format!("{path} has {length} bytes, at most {most} are taken"),
        TextError::NoUnicode => format!("{path} holds what is no Unicode character (half of a UTF-16 pair?)"),
    })
}

/// A finite number.
pub(super) fn number(raw: Json<'_>, path: &str) -> Result<f64, String> {
    raw.number().ok_or_else(|| match raw.sort() {
        "a number" => format!("{path} is too large"),
        other => format!("{path} must be a number, found {other}"),
    })
}

/// A number without its fraction.
pub(super) fn integer(raw: Json<'_>, path: &str) -> Result<i64, String> {
    raw.whole().ok_or_else(|| number(raw, path).err().unwrap_or_else(|| format!("{path} is too large")))
}

/// A short word from outside, quoted, for messages.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

/// The same without quotes, as the end of a path.
pub(super) fn plain(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

//! Reads JSON values one by one, and names a wrong one by its path, never by its value: that may be a secret.

use serde::Deserialize;
use serde_json::value::RawValue;

/// A value that may be missing or null.
pub(super) type Raw<'a> = Option<&'a RawValue>;

/// An object's members into `T`.
pub(super) fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue, path: &str) -> Result<T, String> {
    // A derived type would also be read from an array, field by field; nobody means that.
    if !raw.get().starts_with('{') {
        return Err(format!("{path} must be an object, found {}", sort_of(raw)));
    }
    serde_json::from_str(raw.get()).map_err(|_| format!("{path} is no object that can be read (a key given twice?)"))
}

/// A text.
pub(super) fn text(raw: &RawValue, path: &str) -> Result<String, String> {
    serde_json::from_str(raw.get()).map_err(|_| format!("{path} must be text, found {}", sort_of(raw)))
}

/// A finite number.
pub(super) fn number(raw: &RawValue, path: &str) -> Result<f64, String> {
    let value: Option<f64> = serde_json::from_str(raw.get()).ok();
    value.filter(|v| v.is_finite()).ok_or_else(|| match sort_of(raw) {
        "a number" => format!("{path} is too large"),
        other => format!("{path} must be a number, found {other}"),
    })
}

/// A number without its fraction.
pub(super) fn integer(raw: &RawValue, path: &str) -> Result<i64, String> {
    if let Ok(exact) = serde_json::from_str(raw.get()) {
        return Ok(exact);
    }
    // Saturates, which keeps the order.
    #[allow(clippy::cast_possible_truncation)]
    number(raw, path).map(|value| value as i64)
}

/// The sort of a JSON value, for messages.
pub(super) fn sort_of(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        Some(b'"') => "text",
        Some(b'[') => "an array",
        Some(b'{') => "an object",
        _ => "a number",
    }
}

/// A short word from outside, quoted, for messages.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

/// The same without quotes, as the end of a path.
pub(super) fn plain(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

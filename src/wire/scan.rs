//! Reads JSON from outside without building a tree.
//!
//! A tree of values costs up to thirty bytes for each byte of text: `[0,0,…]` of 32 MiB takes half a gigabyte. Here a value
//! is a slice of its text. Only requested values are decoded, once, up to a bound that the caller names.
//!
//! Two steps: [`Json::outline`] finds the end of a value by brackets and quotes alone, so that a bad row of a list costs that
//! row. [`Json::check`] reads a value strictly; call it before a decision depends on the value.

use serde::de::IgnoredAny;

/// Deepest nesting of a value that passes [`Json::check`]. The contract's deepest has five levels.
pub const DEPTH: usize = 64;

/// One JSON value, as its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<'a>(&'a [u8]);

/// Why bytes are not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The text ends too early, after this number of bytes.
    Short(usize),
    /// The byte at this offset does not fit.
    Byte(usize),
    /// It is nested deeper than [`DEPTH`].
    Deep,
    /// The text is not valid UTF-8.
    Encoding,
}

/// Why an object's fields cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldsError {
    NotAnObject,
    /// This field is given twice, so neither counts.
    Twice(&'static str),
    /// This field is required, and is missing or has a wrong type.
    Missing(&'static str),
    /// The value is larger than this limit allows.
    TooMuch(&'static str),
    Broken(Broken),
}

/// Why a value is not a usable text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextError {
    NotText,
    /// It has this number of bytes, too many.
    TooLong(usize),
    /// It holds one half of a pair of UTF-16 alone, or bytes that are no UTF-8.
    NoUnicode,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short(length) => write!(f, "the JSON ends too early, after {length} bytes"),
            Self::Byte(at) => write!(f, "no JSON at byte {at}"),
            Self::Deep => write!(f, "the JSON is nested deeper than {DEPTH} levels"),
            Self::Encoding => f.write_str("the JSON holds bytes that are no UTF-8"),
        }
    }
}

impl<'a> Json<'a> {
    /// The one value of `bytes`, found by its brackets and quotes. Nothing inside is looked at.
    pub fn outline(bytes: &'a [u8]) -> Result<Self, Broken> {
        let start = skip_space(bytes, 0);
        let (end, _) = end_of(bytes, start)?;
        let rest = skip_space(bytes, end);
        if rest < bytes.len() { Err(Broken::Byte(rest)) } else { Ok(Self(&bytes[start..end])) }
    }

    /// The one value of `bytes`, read strictly.
    pub fn strict(bytes: &'a [u8]) -> Result<Self, Broken> {
        let json = Self::outline(bytes)?;
        json.check().map(|()| json)
    }

    /// Whether the value is JSON through and through, and not nested too deep.
    pub fn check(self) -> Result<(), Broken> {
        if end_of(self.0, 0)?.1 > DEPTH {
            return Err(Broken::Deep);
        }
        std::str::from_utf8(self.0).map_err(|_| Broken::Encoding)?;
        // Its memory grows with the depth alone, which is bounded here.
        serde_json::from_slice::<IgnoredAny>(self.0).map(drop).map_err(|error| {
            // A column counts bytes within its line.
            let before: usize = self.0.split_inclusive(|&b| b == b'\n').take(error.line() - 1).map(<[u8]>::len).sum();
            Broken::Byte(before + error.column().saturating_sub(1))
        })
    }

    /// The type of the value, for messages.
    pub fn sort(self) -> &'static str {
        match self.0.first() {
            Some(b'n') => "null",
            Some(b't' | b'f') => "a boolean",
            Some(b'"') => "text",
            Some(b'[') => "an array",
            Some(b'{') => "an object",
            _ => "a number",
        }
    }

    /// The value as it stands.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    pub fn is_null(self) -> bool {
        self.0 == b"null"
    }

    pub fn is_true(self) -> bool {
        self.0 == b"true"
    }

    /// An array's items, one by one; `None` for any other value.
    pub fn items(self) -> Option<Items<'a>> {
        (self.0.first() == Some(&b'[')).then_some(Items(Parts { bytes: self.0, at: 1, first: true, over: false }))
    }

    /// An object's members, one by one; `None` for any other value.
    pub fn members(self) -> Option<Members<'a>> {
        (self.0.first() == Some(&b'{')).then_some(Members(Parts { bytes: self.0, at: 1, first: true, over: false }))
    }

    /// The members of these names. One that is missing or null is `None`, one that is given twice an error.
    pub fn fields<const N: usize>(self, names: [&'static str; N]) -> Result<[Option<Self>; N], FieldsError> {
        let mut found: [Option<Self>; N] = [None; N];
        for member in self.members().ok_or(FieldsError::NotAnObject)? {
            let (key, value) = member.map_err(FieldsError::Broken)?;
            if let Some(at) = names.iter().position(|name| key.is(name))
                && found[at].replace(value).is_some()
            {
                return Err(FieldsError::Twice(names[at]));
            }
        }
        Ok(found.map(|value| value.filter(|value| !value.is_null())))
    }

    /// The member of this name, where the value is an object that has it once and not as null.
    pub fn field(self, name: &'static str) -> Option<Self> {
        self.fields([name]).ok()?[0]
    }

    /// A text of at most `most` bytes, decoded into a buffer of exactly its length.
    pub fn text(self, most: usize) -> Result<String, TextError> {
        let mut length = 0;
        self.decode(&mut |part| match part {
            Some(part) => {
                length += part.len();
                Ok(())
            }
            None => Err(TextError::NoUnicode),
        })?;
        if length > most {
            return Err(TextError::TooLong(length));
        }
        let mut text = String::with_capacity(length);
        self.decode(&mut |part| {
            text.push_str(part.unwrap_or_default());
            Ok(())
        })?;
        Ok(text)
    }

    /// The beginning of a text, at most `most` bytes and whole characters, for people: U+FFFD for what is no Unicode.
    /// `None` for any other value.
    pub fn beginning(self, most: usize) -> Option<String> {
        let mut text = String::new();
        let mut full = false;
        self.decode(&mut |part| {
            let part = part.unwrap_or("\u{fffd}");
            let room = if full { 0 } else { most - text.len() };
            let end = (0..=room.min(part.len())).rev().find(|&at| part.is_char_boundary(at)).unwrap_or(0);
            full |= end < part.len();
            text.push_str(&part[..end]);
            Ok(())
        })
        .ok()?;
        Some(text)
    }

    /// Whether it is this text.
    pub fn is(self, text: &str) -> bool {
        let inner = self.0.get(1..self.0.len().saturating_sub(1)).unwrap_or_default();
        if !inner.contains(&b'\\') {
            return self.0.first() == Some(&b'"') && inner == text.as_bytes();
        }
        self.text(text.len()).is_ok_and(|own| own == text)
    }

    /// A finite number.
    pub fn number(self) -> Option<f64> {
        matches!(self.0.first(), Some(b'-' | b'0'..=b'9'))
            .then(|| serde_json::from_slice(self.0).ok().filter(|value: &f64| value.is_finite()))?
    }

    /// A whole number, as exact as `i64` can hold it; one with a fraction or beyond saturates.
    pub fn whole(self) -> Option<i64> {
        // Saturates, which keeps the order.
        #[allow(clippy::cast_possible_truncation)]
        serde_json::from_slice(self.0).ok().or_else(|| self.number().map(|value| value as i64))
    }

    /// A whole number that is not negative; anything else is `None`.
    pub fn count(self) -> Option<u64> {
        serde_json::from_slice(self.0).ok()
    }

    /// Hands on the text's pieces; `None` in place of what is no Unicode.
    fn decode(self, put: &mut dyn FnMut(Option<&str>) -> Result<(), TextError>) -> Result<(), TextError> {
        let inner = self.0.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).ok_or(TextError::NotText)?;
        let mut rest = inner;
        while !rest.is_empty() {
            let plain = rest.iter().position(|&byte| byte == b'\\').unwrap_or(rest.len());
            for chunk in rest[..plain].utf8_chunks() {
                put(Some(chunk.valid()))?;
                if !chunk.invalid().is_empty() {
                    put(None)?;
                }
            }
            rest = &rest[plain..];
            if let Some(escape) = rest.get(1) {
                let (found, length) = unescape(*escape, rest);
                match found {
                    Some(found) => put(Some(found.encode_utf8(&mut [0; 4])))?,
                    None => put(None)?,
                }
                rest = rest.get(length..).unwrap_or_default();
            } else {
                rest = &[];
            }
        }
        Ok(())
    }
}

/// The character of the escape that `text` begins with, and its length; `None` for half of a pair.
fn unescape(kind: u8, text: &[u8]) -> (Option<char>, usize) {
    let unit = |at: usize| {
        let digits = std::str::from_utf8(text.get(at..at + 4)?).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let plain = match kind {
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => {
            let Some(first) = unit(2) else { return (None, 2) };
            if !(0xD800..0xDC00).contains(&first) {
                return (char::from_u32(first), 6);
            }
            let second = (text.get(6..8) == Some(b"\\u")).then(|| unit(8)).flatten();
            return match second.filter(|low| (0xDC00..0xE000).contains(low)) {
                Some(low) => (char::from_u32(0x10000 + ((first - 0xD800) << 10) + (low - 0xDC00)), 12),
                None => (None, 6),
            };
        }
        other if other.is_ascii() => char::from(other),
        _ => return (None, 1),
    };
    (Some(plain), 2)
}

/// See [`Json::items`]. After an error there are no more.
#[derive(Debug, Clone)]
pub struct Items<'a>(Parts<'a>);

/// See [`Json::members`]. A name is a text. After an error there are no more.
#[derive(Debug, Clone)]
pub struct Members<'a>(Parts<'a>);

impl<'a> Iterator for Items<'a> {
    type Item = Result<Json<'a>, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        let part = self.0.begin(b']').and_then(|more| if more { self.0.value().map(Some) } else { Ok(None) });
        self.0.over |= part.is_err();
        part.transpose()
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<(Json<'a>, Json<'a>), Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        let part = self.0.begin(b'}').and_then(|more| if more { self.0.member().map(Some) } else { Ok(None) });
        self.0.over |= part.is_err();
        part.transpose()
    }
}

/// An array or object while its parts are read.
#[derive(Debug, Clone)]
struct Parts<'a> {
    bytes: &'a [u8],
    at: usize,
    first: bool,
    over: bool,
}

impl<'a> Parts<'a> {
    /// Goes to the next part; false when there is none.
    fn begin(&mut self, close: u8) -> Result<bool, Broken> {
        if self.over {
            return Ok(false);
        }
        let at = skip_space(self.bytes, self.at);
        match self.bytes.get(at) {
            Some(&byte) if byte == close => self.over = true,
            Some(b',') if !self.first => self.at = skip_space(self.bytes, at + 1),
            Some(_) if self.first => self.at = at,
            Some(_) => return Err(Broken::Byte(at)),
            None => return Err(Broken::Short(self.bytes.len())),
        }
        self.first = false;
        Ok(!self.over)
    }

    fn value(&mut self) -> Result<Json<'a>, Broken> {
        let start = self.at;
        (self.at, _) = end_of(self.bytes, start)?;
        Ok(Json(&self.bytes[start..self.at]))
    }

    fn member(&mut self) -> Result<(Json<'a>, Json<'a>), Broken> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(Broken::Byte(self.at));
        }
        let key = self.value()?;
        let colon = skip_space(self.bytes, self.at);
        if self.bytes.get(colon) != Some(&b':') {
            return Err(Broken::Byte(colon));
        }
        self.at = skip_space(self.bytes, colon + 1);
        Ok((key, self.value()?))
    }
}

fn skip_space(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).unwrap_or(rest.len())
}

/// Where the value ends that begins at `start`, and how deep it is nested. Brackets are counted and not compared.
fn end_of(bytes: &[u8], start: usize) -> Result<(usize, usize), Broken> {
    let (mut at, mut depth, mut deepest) = (start, 0usize, 0);
    loop {
        match bytes.get(at) {
            None => return Err(Broken::Short(bytes.len())),
            Some(b'"') => at = end_of_text(bytes, at)?,
            Some(b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
                at += 1;
            }
            Some(b'}' | b']') => {
                depth = depth.checked_sub(1).ok_or(Broken::Byte(at))?;
                at += 1;
            }
            Some(b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z') if depth == 0 => {
                let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
                at += bytes[at..].iter().position(|byte| !word(byte)).unwrap_or(bytes.len() - at);
            }
            Some(_) if depth == 0 => return Err(Broken::Byte(at)),
            Some(_) => at += 1,
        }
        if depth == 0 {
            return Ok((at, deepest));
        }
    }
}

fn end_of_text(bytes: &[u8], start: usize) -> Result<usize, Broken> {
    let mut at = start + 1;
    loop {
        let rest = bytes.get(at..).ok_or(Broken::Short(bytes.len()))?;
        at += rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).ok_or(Broken::Short(bytes.len()))?;
        if bytes[at] == b'"' {
            return Ok(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;

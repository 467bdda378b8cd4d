//! The file's YAML as a tree with a place for each key, which keeps repeated keys and stops growing at a limit.
//!
//! serde_yaml's own value type has no places, ends at the first repeated key and lets aliases multiply a file a
//! hundredfold. Errors carry a line and never any text of the file.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::limits::{CONFIG_DEPTH_MAX, CONFIG_TREE_MAX};

/// A value of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    /// Its digits.
    Number(String),
    Text(String),
    List(Vec<Node>),
    /// In the file's order, repeated keys included.
    Map(Vec<Entry>),
}

/// Line and column, from 1.
pub(super) type Place = (usize, usize);

/// A key of a section, with its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// A key that is no text is kept as its text.
    pub(super) name: String,
    /// Of the key.
    pub(super) place: Option<Place>,
    pub(super) value: Node,
}

impl Node {
    /// What it is, for a message.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a section",
        }
    }
}

/// Why the text is not one YAML document.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) place: Option<Place>,
    pub(super) text: String,
}

/// Reads the one document of `text`; an empty text is [`Node::Null`].
pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(place) = too_deep(text) {
        let text = format!("nested deeper than {CONFIG_DEPTH_MAX} levels (limits::CONFIG_DEPTH_MAX)");
        return Err(SyntaxError { place: Some(place), text });
    }
    let mut found = None;
    for document in serde_yaml::Deserializer::from_str(text) {
        if found.is_some() {
            return Err(SyntaxError {
                place: second_document(text).map(|line| (line, 1)),
                text: "a second YAML document begins here; the file must hold one".to_owned(),
            });
        }
        let budget = Cell::new(CONFIG_TREE_MAX);
        found = Some(Grow { budget: &budget, key: None }.deserialize(document).map_err(|error| explain(text, &error))?);
    }
    Ok(found.unwrap_or(Node::Null))
}

/// Line and column from which on the nesting may be too deep. The reader's time grows with the square of how many brackets
/// are open, so they are counted before it begins: all of them, also those in texts, which no sound file has as many of.
fn too_deep(text: &str) -> Option<(usize, usize)> {
    let mut open = 0usize;
    for (index, line) in text.lines().enumerate() {
        for (column, byte) in line.bytes().enumerate() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            if open > CONFIG_DEPTH_MAX {
                return Some((index + 1, column + 1));
            }
        }
    }
    None
}

/// The line of the `---` that follows content.
fn second_document(text: &str) -> Option<usize> {
    let mut content = false;
    for (index, line) in text.lines().enumerate() {
        let marker = line == "---" || line.starts_with("--- ");
        if marker && content {
            return Some(index + 1);
        }
        content |= marker || !(line.trim().is_empty() || line.starts_with(['#', '%']));
    }
    None
}

fn explain(text: &str, error: &serde_yaml::Error) -> SyntaxError {
    let place = error.location().map(|location| (location.line(), location.column()));
    let mut message = error.to_string();
    if let Some((line, column)) = place {
        message = message.replacen(&format!(" at line {line} column {column}"), "", 1);
    }
    let tab = place
        .and_then(|(line, _)| text.lines().nth(line - 1))
        .is_some_and(|line| line.trim_start_matches(' ').starts_with('\t'));
    let hint = if tab { "; the line begins with a tab: indent with spaces" } else { "" };
    SyntaxError { place, text: format!("not valid YAML: {message}{hint}") }
}

/// Builds a node as long as the budget of bytes lasts.
#[derive(Clone, Copy)]
struct Grow<'a> {
    budget: &'a Cell<usize>,
    /// Where the node of a key is left: serde_yaml tells places in errors alone, so a key ends in one.
    key: Option<&'a Cell<Option<Node>>>,
}

impl Grow<'_> {
    /// What a node costs beside its text.
    const NODE: usize = 64;

    fn spend<E: serde::de::Error>(&self, bytes: usize) -> Result<(), E> {
        let left = self.budget.get().checked_sub(bytes + Self::NODE);
        self.budget.set(
            left.ok_or_else(|| E::custom(format!("more than {CONFIG_TREE_MAX} bytes after aliases were resolved")))?,
        );
        Ok(())
    }

    fn scalar<E: serde::de::Error>(self, node: Node) -> Result<Node, E> {
        let Some(key) = self.key else { return Ok(node) };
        key.set(Some(node));
        Err(E::custom(""))
    }
}

macro_rules! numbers {
    ($($visit:ident $number:ty),*) => {
        $(fn $visit<E: serde::de::Error>(self, value: $number) -> Result<Node, E> {
            self.scalar(Node::Number(value.to_string()))
        })*
    };
}

impl<'de> DeserializeSeed<'de> for Grow<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.spend(0)?;
        deserializer.deserialize_any(self)
    }
}

/// A key and its place.
struct Key<'a>(Grow<'a>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = (Node, Option<Place>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let left = Cell::new(None);
        match (Grow { key: Some(&left), ..self.0 }).deserialize(deserializer) {
            Ok(node) => Ok((node, None)),
            Err(error) => left.take().map(|node| (node, place_in(&error.to_string()))).ok_or(error),
        }
    }
}

/// The place at the end of serde_yaml's message, which has none at the very beginning of a text.
fn place_in(message: &str) -> Option<Place> {
    let Some((_, place)) = message.rsplit_once(" at line ") else { return Some((1, 1)) };
    let (line, column) = place.split_once(" column ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

impl<'de> Visitor<'de> for Grow<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a YAML tag")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.scalar(Node::Null)
    }

    /// An empty document.
    fn visit_none<E: serde::de::Error>(self) -> Result<Node, E> {
        self.scalar(Node::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Node, E> {
        self.scalar(Node::Bool(value))
    }

    numbers! { visit_i64 i64, visit_u64 u64, visit_i128 i128, visit_u128 u128, visit_f64 f64 }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Node, E> {
        self.spend(value.len())?;
        self.scalar(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Grow { key: None, ..self })? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, place)) = access.next_key_seed(Key(self))? {
            let name = match key {
                Node::Text(text) | Node::Number(text) => text,
                Node::Bool(value) => value.to_string(),
                Node::Null => "null".to_owned(),
                Node::List(_) | Node::Map(_) => "(a list or section used as a key)".to_owned(),
            };
            entries.push(Entry { name, place, value: access.next_value_seed(Grow { key: None, ..self })? });
        }
        Ok(Node::Map(entries))
    }
}

/// Whether `text` is one JSON object.
pub(super) fn is_json_object(text: &str) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let parsed = serde::de::IgnoredAny::deserialize(&mut reader).and_then(|_| reader.end());
    match parsed {
        Err(error) => Err(format!("it is not JSON (line {}, column {})", error.line(), error.column())),
        Ok(()) if text.trim_start().starts_with('{') => Ok(()),
        Ok(()) => Err("its JSON is not an object".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Node, Place, is_json_object, parse};
    use crate::wire::random::rounds;

    #[test]
    fn documents_become_trees() {
        let a = |line, value| Entry { name: "a".to_owned(), place: Some((line, 1)), value };
        assert_eq!(parse("").expect("empty"), Node::Null);
        assert_eq!(parse("# only a comment\n").expect("comment"), Node::Null);
        assert_eq!(parse("---\na: 1\n").expect("marker"), Node::Map(vec![a(2, Node::Number("1".into()))]));
        let twice = parse("\u{feff}a: x\na: [0.5, true, ~]").expect("repeated keys are kept");
        let list = Node::List(vec![Node::Number("0.5".into()), Node::Bool(true), Node::Null]);
        assert_eq!(twice, Node::Map(vec![a(1, Node::Text("x".into())), a(2, list)]));
    }

    /// The places of all keys, by path.
    fn places(node: &Node, above: &str, out: &mut Vec<(String, Option<Place>)>) {
        let Node::Map(entries) = node else { return };
        for entry in entries {
            let path = format!("{above}{}", entry.name);
            out.push((path.clone(), entry.place));
            places(&entry.value, &(path + "."), out);
        }
    }

    #[test]
    fn keys_have_the_place_where_they_stand() {
        let text = "\
# jobs: no
---
jobs:
  # maxConcurrent: 1
  maxConcurrent: 5 # x: y
  'quoted name': 1

  text: |
    maxConcurrent: 7

    more: 1
  folded: \"a
    inner: b\"
  list:
  - a: 1
  - b
  flow: {inner: 1,
    other: [x,
      \"}\"], ü: 2, last: 2}
  url: http://h:1/x
  maxConcurrent: 6
\"api\":
    token: '${A}: b at line 7 column 9'
    retry: &r
        maxAttempts: 3
    again: *r
    ? [a, b]
    : c
    5: ~
last: &x { a: 1 }
'at line 1 column 1': {b: 1}
end:
";
        let mut found = Vec::new();
        places(&parse(text).expect("valid"), "", &mut found);
        let expected = [
            ("jobs", Some((3, 1))),
            ("jobs.maxConcurrent", Some((5, 3))),
            ("jobs.quoted name", Some((6, 3))),
            ("jobs.text", Some((8, 3))),
            ("jobs.folded", Some((12, 3))),
            ("jobs.list", Some((14, 3))),
            ("jobs.flow", Some((17, 3))),
            ("jobs.flow.inner", Some((17, 10))),
            ("jobs.flow.other", Some((18, 5))),
            ("jobs.flow.ü", Some((19, 13))),
            ("jobs.flow.last", Some((19, 19))),
            ("jobs.url", Some((20, 3))),
            ("jobs.maxConcurrent", Some((21, 3))),
            ("api", Some((22, 1))),
            ("api.token", Some((23, 5))),
            ("api.retry", Some((24, 5))),
            ("api.retry.maxAttempts", Some((25, 9))),
            ("api.again", Some((26, 5))),
            // Where the text stands that the alias repeats.
            ("api.again.maxAttempts", Some((25, 9))),
            ("api.(a list or section used as a key)", None),
            ("api.5", Some((29, 5))),
            ("last", Some((30, 1))),
            ("last.a", Some((30, 12))),
            ("at line 1 column 1", Some((31, 1))),
            ("at line 1 column 1.b", Some((31, 24))),
            ("end", Some((32, 1))),
        ];
        assert_eq!(found, expected.map(|(path, place)| (path.to_owned(), place)));
        let mut first = Vec::new();
        places(&parse("a: {b: 1}").expect("valid"), "", &mut first);
        assert_eq!(first, [("a".to_owned(), Some((1, 1))), ("a.b".to_owned(), Some((1, 5)))]);
    }

    #[test]
    fn any_cut_of_a_text_has_places_within_it() {
        let text = "a:\n  b: {c: 1, 'd': [x, {e: 2}]}\n  f: |\n    g: 1\nh: &i {j: 1}\nk: *i\n";
        for end in 0..=text.len() {
            let mut found = Vec::new();
            if let Ok(node) = parse(&text[..end]) {
                places(&node, "", &mut found);
            }
            assert!(found.iter().all(|(_, place)| place.is_some_and(|(line, _)| line <= 6)), "{end}: {found:?}");
        }
    }

    #[test]
    fn errors_have_a_line_and_a_hint_and_no_text_of_the_file() {
        let table = [
            ("a: 1\n\tb: hunter2\n", Some(2), "tab"),
            ("a:\n  b: 1\n c: hunter2\n", Some(3), "not valid YAML"),
            ("a: [hunter2\nb: 1\n", Some(2), "not valid YAML"),
            ("a: 1\n---\nb: hunter2\n", Some(2), "second YAML document"),
            ("a: \"hunter2", Some(1), "not valid YAML"),
            ("a: !!binary hunter2\nb: *none\n", None, "not valid YAML"),
            ("a: x\0y\n", None, "not valid YAML"),
        ];
        for (text, line, part) in table {
            let error = parse(text).expect_err(text);
            assert!(error.text.contains(part) && !error.text.contains("hunter2"), "{text:?}: {}", error.text);
            if line.is_some() {
                assert_eq!(error.place.map(|(line, _)| line), line, "{text:?}: {}", error.text);
            }
        }
    }

    #[cfg_attr(miri, ignore = "megabytes take Miri hours")]
    #[test]
    fn hostile_documents_end_soon() {
        let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for level in 1..12 {
            let previous = format!("*a{},", level - 1).repeat(9);
            laughs.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
        }
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(1_000));
        // For the place of each key serde_yaml writes down all names above it.
        let below: String = (0..15_000).map(|n| format!("  a{n}: 1\n")).collect();
        let names = format!("? {}\n:\n{below}", "x".repeat(600_000));
        let started = std::time::Instant::now();
        for text in [laughs, long, "- ".repeat(100_000)] {
            parse(&text).expect_err("a limit must end this");
        }
        parse(&names).expect("slow, and sound");
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
    }

    #[test]
    fn brackets_are_counted_before_they_are_read() {
        let nested = |levels: usize| format!("a: {}{}", "[".repeat(levels), "]".repeat(levels));
        let most = crate::limits::CONFIG_DEPTH_MAX;
        parse(&nested(most)).expect("as deep as may be");
        let error = parse(&nested(most + 1)).expect_err("one deeper");
        assert!(error.text.contains("limits::CONFIG_DEPTH_MAX"), "{}", error.text);
        assert_eq!(error.place, Some((1, 4 + most)));
        // Each of these took minutes.
        let started = std::time::Instant::now();
        for part in ["[", "{a: ", "[?", "[a,", "\n[", "{\"", "- [", "\"]\",["] {
            parse(&part.repeat(crate::limits::CONFIG_FILE_MAX / part.len())).expect_err(part);
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
    }

    #[test]
    fn any_text_is_read_without_harm() {
        let mut random = crate::wire::random::Random::new(5);
        let alphabet: Vec<&[u8]> = [
            "a",
            ": ",
            "\n",
            "\n  ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "\"",
            "'",
            "|\n ",
            ">\n ",
            "&a ",
            "*a ",
            "!!int ",
            "!x ",
            "#",
            "---\n",
            "? ",
            "%YAML 1.2\n",
            "\\x41",
            "~",
            "0x7",
            "1e999",
            ".inf",
            "-.nan",
            "12345678901234567890123",
            "\u{85}",
            "\u{feff}",
            "\t",
            "ü",
        ]
        .map(str::as_bytes)
        .to_vec();
        for _ in 0..rounds(3000) {
            let text = String::from_utf8(random.text(&alphabet, 30)).expect("text");
            let _ = parse(&text);
        }
    }

    #[test]
    fn json_objects_are_known() {
        for (text, good) in
            [("{}", true), (" {\"a\": [1]}\n", true), ("[]", false), ("{", false), ("{} x", false), ("", false)]
        {
            assert_eq!(is_json_object(text).is_ok(), good, "{text}");
        }
    }
}

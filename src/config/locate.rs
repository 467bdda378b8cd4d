//! Where in the file a key stands.
//!
//! The YAML reader gives values without their lines, and a message without a line makes a person search. This scan over
//! the text knows block style by its indentation; what stands inside `{…}` is reported at the key that the braces belong to.

use std::collections::BTreeMap;

/// Longest name that is a key's, with room for a mistyped one. What is longer cannot be one, and a path is made of it for
/// each key below.
const NAME: usize = 200;

/// Where the keys of a file stand: by path, the names from the top joined by `.`, the line and the column of each.
#[derive(Debug, Default)]
pub(super) struct Spots(BTreeMap<String, Vec<(usize, usize)>>);

impl Spots {
    /// All keys of a block-style text.
    pub(super) fn scan(text: &str) -> Self {
        let mut spots = BTreeMap::<String, Vec<_>>::new();
        // Indentation of each open section, and how long its path is.
        let mut open: Vec<(usize, usize)> = Vec::new();
        let mut path = String::new();
        let mut skip = Skip::Nothing;
        for (index, line) in text.lines().enumerate() {
            let body = line.trim_start_matches(' ');
            let indent = line.len() - body.len();
            if skip.swallows(indent, body) {
                continue;
            }
            if body.is_empty() || body.starts_with(['#', '%']) || body.starts_with("- ") || body == "-" {
                continue;
            }
            let body = match body.strip_prefix("---") {
                Some(after) if indent == 0 && after.trim_start().is_empty() => continue,
                _ => body,
            };
            let Some((name, value)) = split_key(body) else { continue };
            while open.last().is_some_and(|(above, _)| *above >= indent) {
                open.pop();
            }
            path.truncate(open.last().map_or(0, |(_, length)| *length));
            // No key is as deep or as long, and no message names it.
            if path.len() + name.len() < NAME {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
                spots.entry(path.clone()).or_default().push((index + 1, indent + 1));
            }
            open.push((indent, path.len()));
            skip = Skip::after(value, indent);
        }
        Self(spots)
    }

    /// Whether a key stands at `path`.
    #[cfg(test)]
    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// The line and column of the `nth` (from 0) key at `path`, else of the nearest key around it.
    pub(super) fn find(&self, path: &str, nth: usize) -> Option<(usize, usize)> {
        let mut path = path;
        let mut nth = nth;
        loop {
            // A second time that the scan did not see is inside braces: the first is the best that is known.
            let here = self.0.get(path).and_then(|here| here.get(nth).or_else(|| here.first()));
            if here.is_some() {
                return here.copied();
            }
            path = path.rsplit_once('.')?.0;
            nth = 0;
        }
    }
}

/// `name: value` or `name:`; the name without quotes.
fn split_key(body: &str) -> Option<(&str, &str)> {
    let (name, rest) = match body.chars().next()? {
        quote @ ('"' | '\'') => {
            let end = body[1..].find(quote)? + 1;
            (&body[1..end], body[end + 1..].trim_start().strip_prefix(':')?)
        }
        _ => {
            let colon = body
                .match_indices(':')
                .find(|(at, _)| matches!(body.as_bytes().get(at + 1), None | Some(b' ' | b'\t')))?
                .0;
            (body[..colon].trim_end(), &body[colon + 1..])
        }
    };
    (rest.is_empty() || rest.starts_with([' ', '\t'])).then(|| (name, rest.trim()))
}

/// What of the following lines is no key.
enum Skip {
    Nothing,
    /// A `|` or `>` text: everything that is indented deeper.
    Deeper(usize),
    /// A quoted text or a bracket that is still open.
    Until(Open),
}

impl Skip {
    fn after(value: &str, indent: usize) -> Self {
        if value.starts_with(['|', '>']) {
            return Self::Deeper(indent);
        }
        // `&anchor` may stand before the value.
        let value = match value.strip_prefix('&') {
            Some(anchored) => anchored.split_once(' ').map_or("", |(_, after)| after.trim_start()),
            None => value,
        };
        let mut open = Open { quote: None, depth: 0 };
        if value.starts_with(['"', '\'', '{', '[']) && !open.feed(value) { Self::Until(open) } else { Self::Nothing }
    }

    fn swallows(&mut self, indent: usize, body: &str) -> bool {
        let swallow = match self {
            Self::Nothing => false,
            Self::Deeper(above) => body.is_empty() || indent > *above,
            Self::Until(open) => {
                if open.feed(body) {
                    *self = Self::Nothing;
                }
                return true;
            }
        };
        if !swallow {
            *self = Self::Nothing;
        }
        swallow
    }
}

/// Quotes and brackets that were opened and not closed.
struct Open {
    quote: Option<char>,
    depth: usize,
}

impl Open {
    /// Takes the next piece; true when nothing is open any more.
    fn feed(&mut self, text: &str) -> bool {
        let mut before = ' ';
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (self.quote, c) {
                (Some('"'), '\\') => {
                    chars.next();
                }
                (Some(quote), c) if c == quote => self.quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') if matches!(before, ' ' | '[' | '{' | ',' | ':') => self.quote = Some(c),
                (None, '#') if before == ' ' => break,
                (None, '[' | '{') => self.depth += 1,
                (None, ']' | '}') => self.depth = self.depth.saturating_sub(1),
                (None, _) => {}
            }
            before = c;
        }
        self.quote.is_none() && self.depth == 0
    }
}

#[cfg(test)]
mod tests {
    use super::Spots;

    const TEXT: &str = "\
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
      \"}\"], last: 2}
  url: http://h:1/x
  maxConcurrent: 6
\"api\":
    token: '${A}: b'
    retry: &r
        maxAttempts: 3
  odd
last: &x { a: 1 }
end:
";

    #[test]
    fn keys_are_found_where_they_stand() {
        let spots = Spots::scan(TEXT);
        let table = [
            ("jobs", 0, Some((3, 1))),
            ("jobs.maxConcurrent", 0, Some((5, 3))),
            ("jobs.maxConcurrent", 1, Some((21, 3))),
            ("jobs.quoted name", 0, Some((6, 3))),
            ("jobs.text", 0, Some((8, 3))),
            ("jobs.more", 0, Some((3, 1))),
            ("jobs.folded", 0, Some((12, 3))),
            ("jobs.folded.inner", 0, Some((12, 3))),
            ("jobs.list", 0, Some((14, 3))),
            ("jobs.flow.other", 0, Some((17, 3))),
            ("jobs.flow", 1, Some((17, 3))),
            ("jobs.url", 0, Some((20, 3))),
            ("api", 0, Some((22, 1))),
            ("api.token", 0, Some((23, 5))),
            ("api.retry.maxAttempts", 0, Some((25, 9))),
            ("last.a", 0, Some((27, 1))),
            ("end", 0, Some((28, 1))),
            ("nowhere", 0, None),
            ("nowhere.x.y", 0, None),
        ];
        for (path, nth, expected) in table {
            assert_eq!(spots.find(path, nth), expected, "{path} {nth}");
        }
    }

    #[test]
    fn any_cut_of_a_text_is_scanned_without_harm() {
        let all = |text: &str| Spots::scan(text).0.into_values().flatten().collect::<Vec<_>>();
        for end in 0..=TEXT.len() {
            assert!(all(&TEXT[..end]).iter().all(|(line, _)| *line <= 28));
        }
        let deep = "a:\n".repeat(1000) + &"\"'[{".repeat(1000);
        assert_eq!(all(&deep).len(), 1000);
    }

    #[test]
    fn the_memory_for_places_does_not_grow_with_the_square_of_the_text() {
        let long = |half: usize| format!("{}:\n{}", "x".repeat(half), " a:\n".repeat(half / 4));
        let stairs = |steps: usize| (0..steps).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>();
        for (small, large) in [(long(20_000), long(80_000)), (stairs(400), stairs(800))] {
            let cost = |text: &str| Spots::scan(text).0.iter().map(|(path, at)| path.len() + at.len()).sum::<usize>();
            // The text is four times as long.
            let (a, b) = (cost(&small), cost(&large));
            assert!(b < 8 * a.max(1000), "{} to {} bytes: {a} to {b}", small.len(), large.len());
        }
    }
}

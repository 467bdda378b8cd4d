//! Where in the file a key stands.
//!
//! The YAML reader gives values without their lines, and a message without a line makes a person search. This scan over
//! the text knows block style by its indentation; what stands inside `{…}` is reported at the key that the braces belong to.

/// A key of the file, or the nearest enclosing one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    /// The names from the top, joined by `.`.
    pub(super) path: String,
    /// From 1.
    pub(super) line: usize,
    /// Of the key's first character, from 1.
    pub(super) column: usize,
}

/// All keys of a block-style text, in its order.
pub(super) fn scan(text: &str) -> Vec<Spot> {
    let mut spots = Vec::new();
    let mut open: Vec<(usize, String)> = Vec::new();
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
        let mut path: Vec<&str> = open.iter().map(|(_, name)| name.as_str()).collect();
        path.push(name);
        spots.push(Spot { path: path.join("."), line: index + 1, column: indent + 1 });
        open.push((indent, name.to_owned()));
        skip = Skip::after(value, indent);
    }
    spots
}

/// The line and column of the `nth` (from 0) key at `path`, else of the nearest key around it.
pub(super) fn find(spots: &[Spot], path: &str, nth: usize) -> Option<(usize, usize)> {
    let mut path = path;
    let mut nth = nth;
    loop {
        let mut here = spots.iter().filter(|spot| spot.path == path);
        // A second time that the scan did not see is inside braces: the first is the best that is known.
        if let Some(spot) = here.clone().nth(nth).or_else(|| here.next()) {
            return Some((spot.line, spot.column));
        }
        path = path.rsplit_once('.')?.0;
        nth = 0;
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
    use super::{find, scan};

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
        let spots = scan(TEXT);
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
            assert_eq!(find(&spots, path, nth), expected, "{path} {nth}");
        }
    }

    #[test]
    fn any_cut_of_a_text_is_scanned_without_harm() {
        for end in 0..=TEXT.len() {
            assert!(scan(&TEXT[..end]).iter().all(|spot| spot.line <= 28));
        }
        let deep = "a:\n".repeat(1000) + &"\"'[{".repeat(1000);
        assert_eq!(scan(&deep).len(), 1000);
    }
}

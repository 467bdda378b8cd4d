//! A Rust source file as the checks see it: comments and texts blanked, tests cut off, line numbers kept.

use std::path::{Path, PathBuf};

/// The folder with Cargo.toml.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// One file below `src/`.
pub struct Source {
    /// Relative to `src/`, as `wire/http1.rs`.
    pub path: String,
    pub raw: String,
    /// `raw` with comments and the insides of texts as spaces.
    pub code: String,
    /// `code` without what only tests compile.
    pub product: String,
}

impl Source {
    pub fn new(path: &str, raw: &str) -> Self {
        let code = blank(raw);
        let product = if is_test_file(path) { String::new() } else { without_tests(&code) };
        Self { path: path.to_owned(), raw: raw.to_owned(), code, product }
    }

    /// The first part of the path: `wire` for both `wire.rs` and `wire/http1.rs`.
    pub fn module(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }
}

/// Every file below `src/`, in order.
pub fn sources() -> Vec<Source> {
    let source = root().join("src");
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(&source).expect("below src").display().to_string();
        Source::new(&name, &std::fs::read_to_string(path).expect("a source file"))
    };
    let all: Vec<Source> =
        files(&source).iter().filter(|path| path.extension().is_some_and(|e| e == "rs")).map(read).collect();
    assert!(all.len() > 50, "only {} files found below {}", all.len(), source.display());
    all
}

/// Every file below a folder, in order.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Files that are declared under `#[cfg(test)]` in this project, by their names.
fn is_test_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let simulation = name == "sim.rs" || name == "ahead.rs" || path.contains("/sim/");
    simulation || name == "tests.rs" || name == "testing.rs" || name == "test_server.rs" || name.ends_with("_tests.rs")
}

/// Spaces in place of comments and of what stands in texts and characters; newlines stay.
fn blank(raw: &str) -> String {
    let all: Vec<char> = raw.chars().collect();
    let mut out = String::with_capacity(raw.len());
    let mut at = 0;
    while at < all.len() {
        let end = skip(&all, at);
        if end == at {
            out.push(all[at]);
            at += 1;
        } else {
            out.extend(all[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// The end of the comment, text or character that starts at `at`; `at` itself when none does.
fn skip(all: &[char], at: usize) -> usize {
    let find = |from: usize, what: &[char]| {
        (from..all.len()).find(|&i| all[i..].starts_with(what)).map_or(all.len(), |i| i + what.len())
    };
    let word_before = at > 0 && (all[at - 1].is_alphanumeric() || all[at - 1] == '_');
    match all[at] {
        '/' if all.get(at + 1) == Some(&'/') => find(at, &['\n']) - 1,
        '/' if all.get(at + 1) == Some(&'*') => find(at, &['*', '/']),
        'r' if !word_before || all[at - 1] == 'b' => {
            let hashes = all[at + 1..].iter().take_while(|&&c| c == '#').count();
            if all.get(at + 1 + hashes) != Some(&'"') {
                return at;
            }
            let mut close = vec!['"'];
            close.resize(hashes + 1, '#');
            find(at + 2 + hashes, &close)
        }
        quote @ ('"' | '\'') => {
            // A lifetime has no closing quote after its first character.
            if quote == '\'' && all.get(at + 1) != Some(&'\\') && all.get(at + 2) != Some(&'\'') {
                return at;
            }
            let mut i = at + 1;
            while i < all.len() && all[i] != quote {
                i += if all[i] == '\\' { 2 } else { 1 };
            }
            (i + 1).min(all.len())
        }
        _ => at,
    }
}

/// The code without each item under `#[cfg(test)]`; newlines stay.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let (mut out, mut rest) = (String::new(), code);
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let end = at + MARK.len() + item(&rest[at + MARK.len()..]);
        out.extend(rest[at..end].chars().filter(|&c| c == '\n'));
        rest = &rest[end..];
    }
    out + rest
}

/// The length of an item: to its closing brace, or to the `;` or `,` that ends it.
pub fn item(code: &str) -> usize {
    let mut depth = 0_i32;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            ';' | ',' if depth == 0 => return at + 1,
            _ => {}
        }
        if c == '}' && depth == 0 {
            return at + 1;
        }
        if depth < 0 {
            return at;
        }
    }
    code.len()
}

/// Where `word` stands as a whole word: byte offsets.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = word.starts_with(part) && code[..at].ends_with(part);
        let after = word.ends_with(part) && code[at + word.len()..].starts_with(part);
        !before && !after
    })
}

/// The number of the line at a byte offset, from one.
pub fn line(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

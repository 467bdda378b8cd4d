//! Plain words in pages, configurations, scripts, comments and messages.

use std::path::PathBuf;

use super::pages::{pages, prose};
use super::*;

/// Words that make a sentence longer or older than it need be. Each has a plain one: a name, a verb, "they".
const DROPPED: &[&str] = &[
    "whoever",
    "in hand",
    "is told",
    "are told",
    "tell apart",
    "tells apart",
    "told apart",
    "gets on",
    "so many",
    "what came of",
    "of its own",
    "mend",
    "mended",
    "that is why",
    "for good",
    "aside",
    "stray",
    "strays",
    "doubtful",
    "he",
    "him",
    "his",
];

/// Lines with a word of [`DROPPED`].
fn old_words(text: &str) -> Vec<String> {
    let low = text.to_lowercase();
    let found = DROPPED.iter().flat_map(|word| words(&low, word).map(move |at| (at, word)));
    found.map(|(at, word)| format!("{}: {word}", line(&low, at))).collect()
}

/// A page without what it quotes: blocks of code, and names between backticks.
fn own_words(page: &str) -> String {
    let quoteless = |line: &str| line.split('`').step_by(2).collect::<Vec<_>>().join("`") + "\n";
    prose(page).lines().map(quoteless).collect()
}

/// Files whose comments and texts may have old words.
const EXEMPT: &[&str] = &["tests/integration/tidy/plain.rs"];

/// Comments and texts of a Rust file, without names between backticks; the code as blanks.
fn told_in(source: &Source) -> String {
    let letters = source.raw.chars().zip(source.code.chars()).map(|(raw, code)| match (raw, code) {
        ('\n', _) => '\n',
        (raw, ' ') => raw,
        _ => ' ',
    });
    // The folder's name, which is older than the list.
    let all = letters.collect::<String>().replace("\"aside\"", "").replace("state.dir/aside", "");
    all.lines().map(|line| line.split('`').step_by(2).collect::<Vec<_>>().join("`") + "\n").collect()
}

#[test]
fn comments_and_messages_use_plain_words() {
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        (name, std::fs::read_to_string(path).expect("text"))
    };
    let all = ["src", "tests"].iter().flat_map(|folder| files(&root().join(folder)));
    let rust = all.filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let mut faults = Vec::new();
    for (path, raw) in rust.map(|path| read(&path)).filter(|(path, _)| !EXEMPT.iter().any(|n| path.starts_with(n))) {
        let told = told_in(&Source::new(&path, &raw));
        faults.extend(old_words(&told).into_iter().map(|fault| format!("{path}:{fault}")));
    }
    assert_eq!(faults, Vec::<String>::new());
    let bad = Source::new("a.rs", "/// Whoever.\nfn aside() { f(\"he said\") } // `strays`\n");
    assert_eq!(old_words(&told_in(&bad)), ["1: whoever", "2: he"]);
}

#[test]
fn plain_words_are_used() {
    let mut texts: Vec<(String, String)> = pages().into_iter().map(|(path, page)| (path, own_words(&page))).collect();
    for path in ["configs", "scripts", "runtime-images", ".ci"].iter().flat_map(|folder| files(&root().join(folder))) {
        if let Ok(text) = std::fs::read_to_string(&path) {
            texts.push((path.strip_prefix(root()).expect("below the root").display().to_string(), text));
        }
    }
    assert!(texts.len() > 50, "only {} texts", texts.len());
    let faults = texts.iter().flat_map(|(path, text)| old_words(text).into_iter().map(move |f| format!("{path}:{f}")));
    assert_eq!(faults.collect::<Vec<_>>(), Vec::<String>::new());
    let bad = "Whoever asks is told\nwhat came of it. He mends it in\n`hand` aside";
    assert_eq!(old_words(&own_words(bad)).len(), 5);
}

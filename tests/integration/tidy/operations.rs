//! What the pages quote of the program: messages, metrics, configuration keys.

use super::pages::{pages, prose};
use super::*;

/// The messages that a page quotes: the first cells of the tables below a heading.
fn quoted(page: &str, heading: &str) -> Vec<String> {
    let section = page.split(&format!("\n{heading}\n")).nth(1).and_then(|rest| rest.split("\n#").next());
    let cells = section.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    cells.flat_map(|(cell, _)| cell.split("`, `").map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Whether three words of a message that stand together there also stand together in the code; less for a short one.
/// Names, numbers and what others say (`…`) differ each time.
fn is_said(message: &str, code: &str) -> bool {
    let plain = |word: &&str| {
        let word = word.trim_end_matches([',', ';', ':']);
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic() || c == '\'' || c == '-')
    };
    let all: Vec<&str> = message.split_whitespace().collect();
    let runs: Vec<&[&str]> = all.split(|word| !plain(word)).filter(|run| !run.is_empty()).collect();
    let least = runs.iter().map(|run| run.len()).max().unwrap_or(0).min(3);
    runs.iter().flat_map(|run| run.windows(least.max(1))).any(|part| code.contains(&part.join(" ")))
}

#[test]
fn the_operators_page_quotes_what_the_program_says() {
    let page = text("docs/operations.md");
    let below = files(&root().join("src"));
    let raw: String = below.iter().map(|path| std::fs::read_to_string(path).expect("text")).collect();
    // A text of several lines, as it is said.
    let lines: Vec<&str> = raw.split("\\\n").map(str::trim_start).collect();
    let code = lines.concat().replace("\\\"", "\"");
    let messages = [quoted(&page, "### When the end is unknown"), quoted(&page, "## Troubleshooting")].concat();
    assert!(messages.len() > 30, "only {} messages found", messages.len());
    let unsaid: Vec<&String> = messages.iter().filter(|message| !is_said(message, &code)).collect();
    assert_eq!(unsaid, Vec::<&String>::new(), "docs/operations.md quotes messages that the program does not have");
    assert!(!is_said("the moon was … in the way: …", &code));
    let metrics = words(&page, "cronium_").map(|at| &page[at..]);
    let name = |text: &str| text.chars().take_while(|&c| c.is_ascii_lowercase() || c == '_').collect::<String>();
    let unknown: Vec<String> = metrics.map(name).filter(|name| !code.contains(name.as_str())).collect();
    assert_eq!(unknown, Vec::<String>::new(), "docs/operations.md names metrics that the program does not have");
    assert!(!code.contains("cronium_no_such_total"));
}

#[test]
fn keys_that_pages_name_exist() {
    let reference = text("docs/configuration.md");
    let sections =
        ["orchestrator", "api", "jobs", "container", "ssh", "http", "logging", "monitoring", "security", "state"];
    let is_key = |word: &&str| {
        let (first, rest) = word.split_once('.').unwrap_or_default();
        sections.contains(&first)
            && !rest.is_empty()
            && rest.chars().all(|c| c.is_ascii_alphabetic() || c == '.' || c == '*')
    };
    let mut missing = Vec::new();
    for (path, page) in pages().into_iter().filter(|(path, _)| path != "docs/configuration.md") {
        let text = prose(&page);
        for word in text.split('`').skip(1).step_by(2).filter(is_key) {
            let key = word.trim_end_matches(".*");
            let there = ["`", "."].iter().any(|end| reference.contains(&format!("`{key}{end}")));
            if !there && !["jobs.rs", "state.dir"].contains(&key) {
                missing.push(format!("{path}: {word}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new(), "docs/configuration.md has no such keys");
}

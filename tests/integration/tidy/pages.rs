//! What the pages claim: tests that exist, `unsafe` blocks that are there, limits that are hit.

use std::path::{Path, PathBuf};

use super::*;

/// What a page says that is not so: a row of its table of `unsafe` without a block, a block without a row, a test that
/// does not exist.
fn untrue(page: &str, all: &[Source], tests: &[(String, String)]) -> Vec<String> {
    let mut faults = Vec::new();
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>();
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `src/")).map(cells).collect();
    for source in all {
        let path = format!("src/{}", source.path);
        let blocks = words(&source.product, "unsafe").count();
        let told: Vec<_> = rows.iter().filter(|row| row[1] == path).collect();
        if told.len() != blocks {
            faults.push(format!("{path} has {blocks} unsafe blocks, the table {} rows", told.len()));
        }
        let missing = told.iter().filter(|row| !source.product.contains(row[2].as_str()));
        faults.extend(missing.map(|row| format!("{path} does not call {}", row[2])));
    }
    let known = |row: &&Vec<String>| all.iter().any(|source| format!("src/{}", source.path) == row[1]);
    faults.extend(rows.iter().filter(|row| !known(row)).map(|row| format!("there is no {}", row[1])));
    faults.extend(unproven(page, tests));
    faults
}

/// Tests that a page names and that do not exist, and limits of which the same is true. A test stands in a file of
/// tests/integration, named by its module, or in one of src, named by its path. Other names with `::` are no claim.
fn unproven(page: &str, tests: &[(String, String)]) -> Vec<String> {
    let mut faults = Vec::new();
    for (home, name) in page.split('`').skip(1).step_by(2).filter_map(|word| word.rsplit_once("::")) {
        // Tests have names of several words.
        if !name.contains('_') {
            continue;
        }
        if home == "limits" && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_') {
            let told = |(path, text): &(String, String)| {
                path.starts_with("src/limits") && text.contains(&format!("pub const {name}:"))
            };
            if !tests.iter().any(told) {
                faults.push(format!("there is no limit {name}"));
            }
            continue;
        }
        let is_path = home.starts_with("src/");
        let file = if is_path { home.to_owned() } else { format!("tests/integration/{}.rs", home.replace("::", "/")) };
        let Some((_, text)) = tests.iter().find(|(path, _)| *path == file) else {
            if is_path || name.len() > 20 {
                faults.push(format!("there is no {file}"));
            }
            continue;
        };
        // One that another module runs too is `pub`.
        let forms = ["fn", "pub fn", "    fn"].map(|words| format!("#[test]\n{words} {name}()"));
        if !forms.iter().any(|form| text.contains(form)) {
            faults.push(format!("{file} has no test {name}"));
        }
    }
    faults
}

/// The files in which tests stand: path and text.
fn tests() -> Vec<(String, String)> {
    let below = |folder: &str| {
        let read = |path: &std::path::PathBuf| {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            (name, std::fs::read_to_string(path).expect("a source file"))
        };
        files(&root().join(folder)).iter().map(read).collect::<Vec<_>>()
    };
    [below("src"), below("tests/integration")].concat()
}

/// What the page of limits gets wrong: a number without a row, a row without a number or of no known kind, a cap or a
/// wait without a test.
fn unhit(page: &str, limits: &str) -> Vec<String> {
    let numbers: Vec<&str> = limits
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(':').map(|(name, _)| name))
        .collect();
    let rows: Vec<(&str, &str, &str)> = page
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            let (kind, tests) = rest.split_once(" | ")?;
            Some((name, kind, tests))
        })
        .collect();
    let mut faults = Vec::new();
    let missing = numbers.iter().filter(|number| !rows.iter().any(|(name, ..)| name == *number));
    faults.extend(missing.map(|number| format!("docs/guarantees.md has no row for {number}")));
    let stale = rows.iter().filter(|(name, ..)| !numbers.contains(name));
    faults.extend(stale.map(|(name, ..)| format!("limits.rs has no {name}")));
    let odd = rows.iter().filter(|(_, kind, _)| !["cap", "wait", "pace", "value"].contains(kind));
    faults.extend(odd.map(|(name, kind, _)| format!("{name} is called '{kind}'")));
    let bare = rows.iter().filter(|(_, kind, tests)| ["cap", "wait"].contains(kind) && !tests.contains("::"));
    faults.extend(bare.map(|(name, kind, _)| format!("the {kind} {name} is hit by no test")));
    faults
}

#[test]
fn every_limit_has_a_row_with_its_test() {
    let all = sources().into_iter().map(|source| source.path);
    let limits: String =
        all.filter(|path| path.starts_with("limits")).map(|path| text(&format!("src/{path}"))).collect();
    let page = text("docs/guarantees.md");
    assert_eq!(unhit(&page, &limits), Vec::<String>::new());
    assert_eq!(untrue(&page, &[], &tests()), Vec::<String>::new());
    let bad = "| `A` | cap | `limits::no_such_test` |\n| `GONE` | wait | none named |\n| `A` | size | - |\n";
    assert_eq!(unhit(bad, "pub const A: u8 = 1;\npub const B: u8 = 2;\n").len(), 4);
    assert_eq!(untrue(bad, &[], &tests()).len(), 1);
}

#[test]
fn the_security_page_is_true() {
    let (page, all) = (text("SECURITY.md"), sources());
    let tests = tests();
    let faults = untrue(&page, &all, &tests);
    assert!(faults.is_empty(), "SECURITY.md:\n{}", faults.join("\n"));
    assert!(page.matches("| `src/os/").count() >= 10 && page.matches("`limits::").count() >= 5, "the page says little");
    let row = page.lines().find(|line| line.contains("`libc::getrandom`")).expect("a row");
    for (from, to) in [
        (row, ""),
        ("libc::getrandom", "libc::nothing"),
        ("`src/os/random.rs`", "`src/os/elsewhere.rs`"),
        ("`security::jobs_cannot_reach_each_other`", "`security::jobs_are_kind`"),
        ("`src/secret.rs::debug_shows_stars_alone`", "`src/job.rs::debug_shows_stars_alone`"),
    ] {
        assert!(page.contains(from) && !untrue(&page.replace(from, to), &all, &tests).is_empty(), "blind to {to:?}");
    }
}

/// Rows of a page's tables of endings that name no test.
fn untested(page: &str) -> Vec<&str> {
    let tables = page.split_once("\n## The table\n").map_or("", |(_, rest)| rest);
    let rows = tables.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 3);
    rows.filter(|line| !line.starts_with("| what happens") && !line.starts_with("| ---") && !line.contains("::"))
        .collect()
}

#[test]
fn every_ending_has_its_test() {
    let page = text("docs/endings.md");
    assert_eq!(untested(&page), Vec::<&str>::new());
    assert!(page.matches("| `ssh_endings::").count() >= 10, "the page says little");
    assert_eq!(untested(&page.replace("`ssh_endings::a_silent_session", "`a_silent_session")).len(), 1);
}

/// What the page of ways out gets wrong: a row without a test that does not say "not protected", a line of `doctor` that
/// no proof has.
fn unguarded(page: &str, all: &[Source]) -> Vec<String> {
    let is_row =
        |line: &&str| line.starts_with("| ") && line.matches(" | ").count() == 3 && !line.starts_with("| way |");
    let mut faults = Vec::new();
    for row in page.lines().filter(is_row).filter(|row| !row.starts_with("| ---")) {
        let cells: Vec<&str> = row.trim_matches(['|', ' ']).split(" | ").collect();
        if !cells[3].contains("::") && !cells[1].starts_with("not protected") {
            faults.push(format!("no test, and no reason: {}", cells[0]));
        }
        let proofs = cells[2].split('`').filter(|word| word.starts_with("proof-"));
        let is_known = |proof: &&str| all.iter().any(|source| source.raw.contains(&format!("\"{proof}\"")));
        faults.extend(proofs.filter(|proof| !is_known(proof)).map(|proof| format!("doctor has no {proof}")));
    }
    faults
}

/// Holes of engines, runtimes and kernels that the page must have.
const HOLES: &[&str] = &[
    "2024-21626",
    "2024-23651",
    "2024-23652",
    "2024-23653",
    "2024-41110",
    "2026-34040",
    "2024-29018",
    "2025-54410",
    "2025-31133",
    "2025-52565",
    "2025-52881",
    "2026-41579",
    "2026-42306",
    "2026-41568",
    "2024-0132",
    "2025-23266",
    "2026-31431",
    "2026-43284",
    "2026-43500",
    "2026-46300",
];

#[test]
fn every_way_out_has_its_test() {
    let (page, all) = (text("docs/escapes.md"), sources());
    assert_eq!(unguarded(&page, &all), Vec::<String>::new());
    let missing = HOLES.iter().filter(|hole| !page.contains(&format!("CVE-{hole}")));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new());
    assert!(page.matches("`escapes::").count() >= 30, "the page says little");
    let bad = "| way | wall | line | test |\n| a | b | – | – |\n| c | not protected: d | `proof-nothing` | – |\n";
    assert_eq!(unguarded(bad, &all).len(), 2);
}

/// Every page for people, by its path.
pub fn pages() -> Vec<(String, String)> {
    let top = std::fs::read_dir(root()).expect("the root can be listed").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = top.chain(files(&root().join("docs"))).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.push(root().join("tests/dev-backend/README.md"));
    let name = |path: &Path| path.strip_prefix(root()).expect("below the root").display().to_string();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).expect("a page"))).collect()
}

/// The page without its blocks of code, whose lines become empty.
pub fn prose(page: &str) -> String {
    let mut inside = false;
    let line = |line: &str| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        if inside || fence { "\n".to_owned() } else { line.to_owned() + "\n" }
    };
    page.lines().map(line).collect()
}

/// The names by which links reach the headings of a page.
fn anchors(page: &str) -> Vec<String> {
    let letters = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    let prose = prose(page);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| line.trim_start_matches('#').trim().chars().filter_map(letters).collect()).collect()
}

/// Links of a page to files that are not there, or to headings that they do not have.
fn broken(path: &str, page: &str) -> Vec<String> {
    let text = prose(page);
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let mut faults = Vec::new();
    for target in targets.filter(|target| !target.contains("://")) {
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let folder = root().join(path).parent().expect("a folder").to_owned();
        let other = if file.is_empty() { Ok(page.to_owned()) } else { std::fs::read_to_string(folder.join(file)) };
        if !file.is_empty() && !folder.join(file).exists() {
            faults.push(format!("{path}: there is no {target}"));
        } else if !anchor.is_empty() && !anchors(&other.unwrap_or_default()).iter().any(|a| a == anchor) {
            faults.push(format!("{path}: {target} has no such heading"));
        }
    }
    faults
}

#[test]
fn links_lead_somewhere() {
    let all = pages();
    assert!(all.len() >= 10, "only {} pages", all.len());
    let faults: Vec<String> = all.iter().flat_map(|(path, page)| broken(path, page)).collect();
    assert_eq!(faults, Vec::<String>::new());
    for bad in ["[a](gone.md)", "[a](#gone)", "[a](SECURITY.md#gone)", "# A-b\n[a](#a_b)"] {
        assert_eq!(broken("README.md", bad).len(), 1, "blind to {bad}");
    }
    let good = "# Two `words`\n[a](#two-words) [b](docs/) [c](https://a.example)\n```\n[d](gone)\n```\n";
    assert_eq!(broken("README.md", good), Vec::<String>::new());
}

#[test]
fn every_test_and_limit_that_a_page_names_exists() {
    let tests = tests();
    for (path, page) in pages() {
        assert_eq!(unproven(&page, &tests), Vec::<String>::new(), "{path}");
    }
    let bad = "`limits::NO_SUCH` `tidy::no_such_test` `tidy::pages::nor_this` `src/gone.rs::a_b` `gone::a_test_that_is_not_there`";
    assert_eq!(unproven(bad, &tests).len(), 5);
    assert_eq!(unproven("`os::threads::spawn` `Control::begin` `limits::LINE_MAX`", &tests), Vec::<String>::new());
    let index = text("docs/decisions/README.md");
    let folder = files(&root().join("docs/decisions"));
    let names = folder.iter().filter_map(|path| path.file_name()?.to_str()).filter(|name| *name != "README.md");
    let missing: Vec<&str> = names.filter(|name| !index.contains(&format!("({name})"))).collect();
    assert_eq!(missing, Vec::<&str>::new(), "docs/decisions/README.md does not list these");
}

/// The newest section of the changelog is about this program. Packages take their version from it.
#[test]
fn the_changelog_begins_with_the_programs_version() {
    let changelog = text("CHANGELOG.md");
    let newest = changelog.lines().find_map(|line| line.strip_prefix("## [")).expect("a section");
    assert_eq!(newest.split(']').next(), Some(env!("CARGO_PKG_VERSION")));
}

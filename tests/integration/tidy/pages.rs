//! What the pages claim: tests that exist, `unsafe` blocks that are there, limits that are hit.

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
    // A file of tests/integration by its module, or one of src by its path. What is in libc is a call.
    let named = page.split('`').skip(1).step_by(2).filter_map(|word| word.rsplit_once("::"));
    for (home, name) in named.filter(|(home, _)| *home != "libc") {
        let file = if home.starts_with("src/") { home.to_owned() } else { format!("tests/integration/{home}.rs") };
        let text = tests.iter().find(|(path, _)| *path == file).map(|(_, text)| text.as_str()).unwrap_or_default();
        if !text.contains(&format!("#[test]\nfn {name}()")) && !text.contains(&format!("#[test]\n    fn {name}()")) {
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

/// Folders below `src` without a row in ARCHITECTURE.md's table, and rows whose folder is not there.
fn unmapped(page: &str, folders: &[String]) -> Vec<String> {
    let section = page.split("\n## Folders\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
    let row = |line: &str| Some(line.strip_prefix("| `")?.split_once("/`")?.0.to_owned());
    let rows: Vec<String> = section.lines().filter_map(row).collect();
    let missing = folders.iter().filter(|folder| !rows.contains(folder));
    let stale = rows.iter().filter(|row| !root().join(row).is_dir());
    missing
        .map(|folder| format!("{folder}/ has no row"))
        .chain(stale.map(|row| format!("there is no {row}/")))
        .collect()
}

#[test]
fn each_folder_has_a_row_in_the_architecture() {
    let mut folders = vec!["src".to_owned()];
    for source in sources() {
        let parts: Vec<&str> = source.path.split('/').collect();
        folders.extend((1..parts.len()).map(|depth| format!("src/{}", parts[..depth].join("/"))));
    }
    folders.sort();
    folders.dedup();
    let page = text("ARCHITECTURE.md");
    assert_eq!(unmapped(&page, &folders), Vec::<String>::new());
    assert_eq!(unmapped("\n## Folders\n| `src/` | x |\n| `src/gone/` | y |\n", &folders[..2]).len(), 2);
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

//! What ARCHITECTURE.md names: folders, threads, functions, the size of the trusted core.

use super::*;

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
fn pages_are_short_and_the_readmes_command_is_what_ci_runs() {
    let page = text("README.md");
    assert!(page.lines().count() <= 150, "README.md has {} lines", page.lines().count());
    let map = text("ARCHITECTURE.md");
    assert!(map.lines().count() <= 250, "ARCHITECTURE.md has {} lines", map.lines().count());
    assert!(page.contains("\nscripts/test.sh ") && text(".ci/run").contains("scripts/test.sh\"\n"));
}

/// The names that the product gives to threads, as the table of docs/threads.md has them.
fn thread_names(source: &Source) -> Vec<String> {
    if source.product.trim().is_empty() || source.path.starts_with("cli/") {
        return Vec::new();
    }
    // By lines: they are the same in both, and bytes are not.
    let raw: Vec<&str> = source.raw.lines().collect();
    let at = words(&source.product, "threads::spawn").map(|at| line(&source.product, at) - 1);
    let calls = at.map(|at| raw[at..(at + 3).min(raw.len())].join("\n"));
    let text = |call: String| {
        let call = call.split_once("threads::spawn(")?.1.trim_start();
        let call = call.strip_prefix("&format!(").unwrap_or(call);
        Some(call.strip_prefix('"')?.split_once('"')?.0.replace("{number}", "N"))
    };
    calls.filter_map(text).collect()
}

#[test]
fn every_thread_has_a_row_in_the_table() {
    let page = text("docs/threads.md");
    let table = page.split("\n## Names\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let names: Vec<String> = sources().iter().flat_map(thread_names).collect();
    assert!(names.len() > 12 && names.contains(&"worker-N".to_owned()), "{names:?}");
    let missing: Vec<&String> = names.iter().filter(|name| !table.contains(&format!("| `{name}` |"))).collect();
    assert_eq!(missing, Vec::<&String>::new(), "threads without a row in docs/threads.md");
    let new = Source::new(
        "api/a.rs",
        "fn a() { threads::spawn(\"new\", b) }\n#[cfg(test)]\nmod t { fn c() { threads::spawn(\"t-c\", b) } }",
    );
    assert_eq!(thread_names(&new), ["new"]);
}

#[test]
fn the_walk_names_functions_that_exist() {
    let page = text("ARCHITECTURE.md");
    let walk =
        page.split("\n## A newcomer's walk\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a walk");
    let all = sources();
    let hops: Vec<(&str, &str)> =
        walk.split('`').skip(1).step_by(2).filter_map(|word| word.split_once(".rs::")).collect();
    assert!(hops.len() >= 30, "{hops:?}");
    let is_there = |(file, name): &(&str, &str)| {
        let source = all.iter().find(|source| source.path == format!("{file}.rs"));
        source.is_some_and(|source| words(&source.product, &format!("fn {name}")).next().is_some())
    };
    let missing: Vec<_> = hops.iter().filter(|hop| !is_there(hop)).collect();
    assert_eq!(missing, Vec::<&(&str, &str)>::new(), "the walk in ARCHITECTURE.md names functions that are not there");
    assert!(!is_there(&("jobs/poller", "no_such")) && walk.lines().filter(|line| line.starts_with("| ")).count() == 10);
}

/// Lines of code of the folders that ARCHITECTURE.md calls the trusted core: without tests, comments and blank lines.
fn core_lines() -> usize {
    let core = ["jobs", "executors", "docker", "api", "os"];
    let inside = sources().into_iter().filter(|source| core.contains(&source.module()));
    inside.map(|source| source.product.lines().filter(|line| !line.trim().is_empty()).count()).sum()
}

#[test]
fn the_size_of_the_trusted_core_is_told() {
    let page = text("ARCHITECTURE.md");
    let told = page.split("**trusted core**, ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a number");
    let told: usize = told.replace(',', "").parse().expect("a number");
    let found = core_lines();
    assert!(told.abs_diff(found) * 20 < found, "ARCHITECTURE.md says {told} lines, the core has {found}");
}

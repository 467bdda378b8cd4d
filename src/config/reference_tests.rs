//! docs/configuration.md is what the table of keys says. `CRONIUM_WRITE_DOCS=1 cargo test --lib reference` writes it.

use std::fmt::Write as _;
use std::path::Path;

use super::field::{Effect, Key, Kind};
use super::keys::keys;

const HEAD: &str = "\
# Configuration

Every key of `cronium-agent`, for operators. The tests make this page from the table in `src/config/keys.rs`: change it there, then run
`CRONIUM_WRITE_DOCS=1 cargo test --lib reference`.

- The first of these that gives a key wins: a flag (`--set jobs.maxConcurrent=10`), the environment (the name below the key), the file,
  the default. An empty value is the default.
- In the file a key is a path of sections: `jobs.maxConcurrent` is `maxConcurrent` below `jobs`. Values may hold `${VAR}` and
  `${VAR:-default}`; `$$` is a plain `$`.
- In the environment and in flags, the entries of a list are separated by commas.
- **new**: when a changed value takes effect. *reload*: at `cronium-agent reload` or SIGHUP, for jobs that begin after it. *restart*: when
  the agent starts again.
- `cronium-agent validate --explain` prints what is in effect and where each value comes from.
";

/// The page.
fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut section = "";
    for key in keys().filter(|key| key.has_meaning()) {
        let first = key.path.split('.').next().unwrap_or_default();
        if first != section {
            section = first;
            let _ = write!(
                page,
                "\n## {section}\n\n| key | takes | default | new | meaning |\n| --- | --- | --- | --- | --- |\n"
            );
        }
        row(&mut page, key);
    }
    page.push_str("\n## Of the older orchestrator\n\nAccepted, with a warning that says so, and without effect:\n\n");
    for key in keys().filter(|key| !key.has_meaning()) {
        let refused = if let Kind::Later(refuse) = key.kind { refuse("true") } else { false };
        let but = if refused { "; `true` is an error" } else { "" };
        let _ = writeln!(page, "- `{}`{but}", key.path);
    }
    page
}

fn row(page: &mut String, key: &Key) {
    let names: Vec<String> = [Some(key.env_name()), key.alias.map(str::to_owned)].into_iter().flatten().collect();
    let default = match key.default {
        "" => String::new(),
        default => format!("`{default}`"),
    };
    let new = match key.effect {
        Effect::Reload => "reload",
        Effect::Restart => "restart",
    };
    let when = key.when.map_or(String::new(), |(path, value)| format!(" Used when `{path}` is `{value}`."));
    let _ = writeln!(
        page,
        "| `{}`<br>`{}` | {} | {default} | {new} | {}{when} |",
        key.path,
        names.join("`<br>`"),
        key.kind.allowed(),
        key.help
    );
}

#[test]
fn the_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = page();
    if std::env::var_os("CRONIUM_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("write the page");
    }
    let found = std::fs::read_to_string(&path).expect("docs/configuration.md");
    let stale = found.lines().zip(page.lines()).find(|(found, made)| found != made);
    assert!(
        found == page,
        "docs/configuration.md is stale at {stale:?}: CRONIUM_WRITE_DOCS=1 cargo test --lib reference"
    );
}

#[test]
fn every_key_says_what_it_means() {
    for key in keys().filter(|key| key.has_meaning()) {
        let sentence = key.help.ends_with('.') && key.help.len() > 9 && !key.help.contains(['|', '\n']);
        assert!(sentence, "{}: {:?}", key.path, key.help);
    }
}

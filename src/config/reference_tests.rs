//! docs/configuration.md and cronium-orchestrator.yaml(5) are what the table of keys says.
//! `CRONIUM_WRITE_DOCS=1 cargo test --lib reference` writes them.

use std::fmt::Write as _;
use std::path::Path;

use super::field::{Effect, Key, Kind};
use super::keys::keys;

const HEAD: &str = "\
# Configuration

Every key of `cronium-agent`, for operators. The tests make this page from the table in `src/config/keys.rs`: change it there, then run
`CRONIUM_WRITE_DOCS=1 cargo test --lib reference`.

";

/// What holds for every key, for the page and the manual.
const RULES: &[&str] = &[
    "The first of these that gives a key wins: a flag (`--set jobs.maxConcurrent=10`), the environment (the name below the key), the file,\n  \
     the default. An empty value is the default.",
    "In the file a key is a path of sections: `jobs.maxConcurrent` is `maxConcurrent` below `jobs`. Values may hold `${VAR}` and\n  \
     `${VAR:-default}`; `$$` is a plain `$`.",
    "In the environment and in flags, the entries of a list are separated by commas.",
    "**new**: when a changed value takes effect. *reload*: at `cronium-agent reload` or SIGHUP, for jobs that begin after it. *restart*: when\n  \
     the agent starts again.",
    "`cronium-agent validate --explain` prints what is in effect and where each value comes from.",
];

/// The page.
fn page() -> String {
    let mut page = HEAD.to_owned();
    for rule in RULES {
        let _ = writeln!(page, "- {rule}");
    }
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
    let default = match key.default {
        "" => String::new(),
        default => format!("`{default}`"),
    };
    let _ = writeln!(
        page,
        "| `{}`<br>`{}` | {} | {default} | {} | {}{} |",
        key.path,
        names(key).join("`<br>`"),
        key.kind.allowed(),
        new(key),
        key.help,
        when(key)
    );
}

/// Names in the environment.
fn names(key: &Key) -> Vec<String> {
    [Some(key.env_name()), key.alias.map(str::to_owned)].into_iter().flatten().collect()
}

fn new(key: &Key) -> &'static str {
    match key.effect {
        Effect::Reload => "reload",
        Effect::Restart => "restart",
    }
}

fn when(key: &Key) -> String {
    key.when.map_or(String::new(), |(path, value)| format!(" Used when `{path}` is `{value}`."))
}

/// The manual's day, which a release sets anew.
const DATE: &str = "November 30, 2026";

/// A page of the manual, in mdoc(7), up to its first section of words.
pub(crate) fn manual(name: &str, section: u8, about: &str) -> String {
    format!(
        ".\\\" Made from the program's tables: CRONIUM_WRITE_DOCS=1 cargo test --lib reference\n.Dd {DATE}\n\
         .Dt {} {section}\n.Os\n.Sh NAME\n.Nm {name}\n.Nd {about}\n",
        name.to_uppercase()
    )
}

/// A text as lines of mdoc(7): a sentence begins a line, what stands in backticks is bold.
pub(crate) fn lines(out: &mut String, text: &str) {
    let text =
        text.replace('\\', "\\e").replace("**", "").replace("*reload*", "reload").replace("*restart*", "restart");
    let mut column = 0;
    let mut is_bold = false;
    for word in text.split_whitespace() {
        let mut shown = String::new();
        for c in word.chars() {
            match c {
                '`' => {
                    shown.push_str(if is_bold { "\\fR" } else { "\\fB" });
                    is_bold = !is_bold;
                }
                '-' => shown.push_str("\\-"),
                c => shown.push(c),
            }
        }
        if column > 0 && column + 1 + shown.len() > 78 {
            out.push('\n');
            column = 0;
        }
        if column > 0 {
            out.push(' ');
        } else if shown.starts_with(['.', '\'']) {
            out.push_str("\\&");
        }
        out.push_str(&shown);
        column += 1 + shown.len();
        if word.ends_with(['.', '?']) {
            out.push('\n');
            column = 0;
        }
    }
    if column > 0 {
        out.push('\n');
    }
}

/// cronium-orchestrator.yaml(5).
fn manual_of_keys() -> String {
    let mut page = manual("cronium-orchestrator.yaml", 5, "configuration of cronium-agent");
    page.push_str(".Sh DESCRIPTION\n");
    lines(&mut page, "The file is YAML. `cronium-agent validate` checks it and names each problem with its line.");
    page.push_str(".Bl -bullet\n");
    for rule in RULES {
        page.push_str(".It\n");
        lines(&mut page, rule);
    }
    page.push_str(".El\n.Sh KEYS\n");
    let mut section = "";
    for key in keys().filter(|key| key.has_meaning()) {
        let first = key.path.split('.').next().unwrap_or_default();
        if first != section {
            page.push_str(if section.is_empty() { "" } else { ".El\n" });
            section = first;
            let _ = write!(page, ".Ss {section}\n.Bl -tag -width Ds\n");
        }
        let _ = writeln!(page, ".It Cm {}", key.path);
        lines(&mut page, &format!("{}{}", key.help, when(key)));
        page.push_str(".Pp\n");
        let default = if key.default.is_empty() { "none".to_owned() } else { format!("`{}`", key.default) };
        lines(&mut page, &format!("Takes {}; default: {default}; new at {}.", key.kind.allowed(), new(key)));
        let _ = writeln!(page, ".br\n.Ev {}", names(key).join("\n.Ev "));
    }
    page.push_str(".El\n.Sh FILES\n.Bl -tag -width Ds\n.It Pa /etc/cronium/cronium-orchestrator.yaml\n");
    lines(&mut page, "where the service has it");
    page.push_str(".It Pa /etc/cronium/api-token\n");
    lines(&mut page, "the backend's token, one line, mode 0600, which systemd hands to the service");
    page.push_str(".El\n.Sh EXAMPLES\n.Bd -literal\n");
    page.push_str("api:\n  endpoint: https://cronium.example:5001\n  tokenFile: /etc/cronium/api-token\n");
    page.push_str(".Ed\n.Sh SEE ALSO\n.Xr cronium-agent 8\n");
    page
}

/// The texts of the tables are what the file holds. With CRONIUM_WRITE_DOCS the file is written first.
pub(crate) fn holds(path: &str, made: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("CRONIUM_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(&file, made).expect("write");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let stale = found.lines().zip(made.lines()).find(|(found, made)| found != made);
    assert!(found == made, "{path} is stale at {stale:?}: CRONIUM_WRITE_DOCS=1 cargo test --lib reference");
}

#[test]
fn the_pages_are_what_the_table_says() {
    holds("docs/configuration.md", &page());
    holds("docs/man/cronium-orchestrator.yaml.5", &manual_of_keys());
}

#[test]
fn every_key_says_what_it_means() {
    for key in keys().filter(|key| key.has_meaning()) {
        let sentence = key.help.ends_with('.') && key.help.len() > 9 && !key.help.contains(['|', '\n']);
        assert!(sentence, "{}: {:?}", key.path, key.help);
    }
}

//! The manual, the completions and the rendered pages, in the programs that read them or as they would.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Folder;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn output(command: &mut Command, package: &str) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("apt-get install {package}: {error}"));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn mandoc_finds_no_fault_in_the_manual() {
    // The pages refer to each other, and are not installed here.
    let lint = |page: &Path| {
        let said = output(Command::new("mandoc").args(["-T", "lint"]).arg(page), "mandoc");
        said.lines().filter(|line| !line.contains("referenced manual not found: Xr cronium-")).collect::<String>()
    };
    for (page, words) in [
        ("docs/man/cronium-agent.8", vec!["cronium-agent doctor", "--fix-hints", "CRONIUM_JOBS_MAX_CONCURRENT", "124"]),
        ("docs/man/cronium-firewall.8", vec!["cronium-firewall", "--root"]),
        ("docs/man/cronium-orchestrator.yaml.5", vec!["jobs.maxConcurrent", "CRONIUM_SERVICE_TOKEN", "a path"]),
    ] {
        assert_eq!(lint(&file(page)), "", "{page}");
        let shown = output(Command::new("mandoc").args(["-T", "utf8", "-O", "width=200"]).arg(file(page)), "mandoc");
        // Bold is a letter over itself.
        let letters: Vec<char> = shown.chars().collect();
        let is_shown = |at: usize| letters[at] != '\u{8}' && letters.get(at + 1) != Some(&'\u{8}');
        let plain: String = (0..letters.len()).filter(|at| is_shown(*at)).map(|at| letters[at]).collect();
        for word in words {
            let word = word.strip_prefix("cronium-agent ").unwrap_or(word);
            assert!(plain.contains(word), "{page} does not show {word}");
        }
    }
    // What the script says of its modes and files, the page says too.
    let script = std::fs::read_to_string(file("scripts/firewall.sh")).expect("the script");
    let page = std::fs::read_to_string(file("docs/man/cronium-firewall.8")).expect("the page");
    let modes = script.lines().find_map(|line| line.split_once(") MODE=$1 ;;")).expect("the modes").0;
    for mode in modes.split('|').map(str::trim) {
        assert!(page.contains(&format!("\n.It Cm {mode}\n")), "the page has no mode {mode}");
    }
    let placed = |line: &str| {
        let (name, path) = line.split_once("=$")?;
        let path = path
            .strip_prefix("SETTINGS")
            .map(|rest| format!("/etc/cronium{rest}"))
            .or(path.strip_prefix("ROOT").map(str::to_owned));
        path.filter(|path| name.chars().all(|c| c.is_ascii_uppercase() || c == '_') && path != "/etc/cronium")
    };
    let files: Vec<String> = script.lines().filter_map(placed).collect();
    assert!(files.len() >= 4, "{files:?}");
    for path in files {
        assert!(page.contains(&format!("\n.It Pa {path}\n")), "the page has no file {path}");
    }
    let folder = Folder::new();
    let bad = folder.path().join("bad.8");
    std::fs::write(&bad, ".Dd November 30, 2026\n.Dt BAD 8\n.Os\n.Sh NAME\n.Nm bad\n.Xx\n").expect("write");
    assert!(!lint(&bad).is_empty(), "the check is blind");
}

/// What is typed before TAB, a word that is offered, one that is not.
const TYPED: &[(&str, &str, &str)] = &[
    ("cronium-agent ", "doctor", "--json"),
    ("cronium-agent va", "validate", "version"),
    ("cronium-agent doctor --", "--fix-hints", "--grace"),
    ("cronium-agent gc --", "--dry-run", "--json"),
    ("cronium-agent --log-level ", "debug", "doctor"),
    ("cronium-agent exec --lang ", "python", "doctor"),
    ("cronium-agent --config /x exec --", "--image", "--grace"),
    ("cronium-agent run --set jobs.maxC", "jobs.maxConcurrent=", "jobs.maxOutput="),
    ("cronium-agent sign ", "keygen", "doctor"),
    ("cronium-agent validate --migrate /etc/hostn", "/etc/hostname", "/etc/hosts"),
];

/// Whether `word` is among the words that a shell offered. A shell may show a description behind it, or part of a path.
fn is_offered(said: &str, word: &str) -> bool {
    let last = word.rsplit('/').next().unwrap_or(word);
    let is_word = |found: &str| found == word || found == last;
    said.split([' ', '\t', '\n', '\r', '\u{7}']).any(is_word)
}

fn all_are_offered(shell: &str, ask: impl Fn(&str) -> String) {
    for (typed, offered, not) in TYPED {
        let said = ask(typed);
        assert!(is_offered(&said, offered), "{shell} does not offer {offered} after {typed:?}: {said:?}");
        assert!(!is_offered(&said, not), "{shell} offers {not} after {typed:?}: {said:?}");
    }
}

#[test]
fn bash_completes_what_is_typed() {
    let script = r#"source "$1"
        read -ra COMP_WORDS <<<"$2"
        [[ $2 != *' ' ]] || COMP_WORDS+=('')
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        compopt() { :; }
        _cronium_agent
        printf '%s\n' "${COMPREPLY[@]}""#;
    let ask = |typed: &str| {
        let mut bash = Command::new("bash");
        output(
            bash.args(["--norc", "-c", script, "bash"]).arg(file("configs/completions/cronium-agent.bash")).arg(typed),
            "bash",
        )
    };
    all_are_offered("bash", ask);
    // Bash makes three words of it.
    assert!(is_offered(&ask("cronium-agent --log-level = de"), "debug"));
    assert!(is_offered(&ask("cronium-agent --config = /x gc --"), "--dry-run"));
}

#[test]
fn fish_completes_what_is_typed() {
    let script = "source $argv[1]; complete -C $argv[2]";
    all_are_offered("fish", |typed| {
        let mut fish = Command::new("fish");
        output(
            fish.args(["--no-config", "-c", script]).arg(file("configs/completions/cronium-agent.fish")).arg(typed),
            "fish",
        )
    });
}

/// In a terminal, which is what a completion of zsh needs.
#[test]
fn zsh_completes_what_is_typed() {
    let script = r#"zmodload zsh/zpty
        zpty terminal zsh -f -i
        zpty -w terminal "PS1='> ' TERM=dumb COLUMNS=300 LINES=500 fpath=(${(q)1:h} \$fpath)"
        zpty -w terminal "autoload -Uz compinit && compinit -D -u; zstyle ':completion:*' list-grouped no"
        zpty -w terminal "unsetopt list_ambiguous auto_menu; setopt list_packed; stty columns 300 rows 500; echo re''ady"
        zpty -r -m terminal said '*ready*'
        zpty -n -w terminal "$2"$'\t'
        said='' part=''
        repeat 40; do
            while zpty -r -t terminal part; do said+=$part; done
            [[ $said != *$3* ]] || break
            sleep 0.05
        done
        print -r -- ${said#*"$2"}
        zpty -d terminal"#;
    for (typed, offered, not) in TYPED {
        let mut zsh = Command::new("zsh");
        zsh.args(["-f", "-c", script, "zsh"]).arg(file("configs/completions/_cronium-agent")).args([typed, offered]);
        let said = output(&mut zsh, "zsh");
        // What it adds to the word that was begun.
        let begun = typed.rsplit(' ').next().unwrap_or_default();
        let rest = offered.strip_prefix(begun).unwrap_or(offered);
        let has = is_offered(&said, offered) || said.trim_start().starts_with(rest);
        assert!(has, "zsh does not offer {offered} after {typed:?}: {said:?}");
        assert!(!is_offered(&said, not), "zsh offers {not} after {typed:?}: {said:?}");
    }
}

/// Links of a rendered page: to files that are there, and names that they have.
fn broken(page: &Path, body: &str) -> Vec<String> {
    let links = ["href=\"", "src=\""].into_iter().flat_map(|word| body.split(word).skip(1));
    let links = links.filter_map(|rest| rest.split('"').next()).filter(|link| !link.contains("://"));
    let is_broken = |link: &&str| {
        let (path, name) = link.split_once('#').unwrap_or((link, ""));
        let other = if path.is_empty() { page.to_owned() } else { page.parent().expect("a folder").join(path) };
        let read = std::fs::read_to_string(&other).unwrap_or_default();
        !other.is_file() || (!name.is_empty() && !read.contains(&format!(" id=\"{name}\"")))
    };
    links.filter(is_broken).map(|link| format!("{}: {link}", page.display())).collect()
}

#[test]
fn rendered_pages_stand_alone_and_their_links_lead_somewhere() {
    let folder = Folder::new();
    let out = folder.path().join("docs");
    output(Command::new(file("scripts/docs.sh")).arg("--out").arg(&out), "bash");
    let found = output(Command::new("find").arg(&out).args(["-name", "*.html"]), "findutils");
    let pages: Vec<PathBuf> = found.lines().map(PathBuf::from).collect();
    assert!(pages.len() > 20, "{found}");
    let mut links = 0;
    for page in &pages {
        let body = std::fs::read_to_string(page).expect("a page");
        assert_eq!(broken(page, &body), Vec::<String>::new());
        let foreign = ["<script", "<link", "@import", "src=\"http"].iter().find(|word| body.contains(**word));
        assert_eq!(foreign, None, "{} needs something from elsewhere", page.display());
        assert!(body.contains("<title>") && body.contains("prefers-color-scheme: dark"), "{}", page.display());
        links += body.matches("href=\"").count();
    }
    assert!(links > 300, "only {links} links");
    for name in ["index.html", "docs/operations.html", "docs/configuration.html", "SECURITY.html"] {
        assert!(out.join(name).is_file(), "no {name}");
    }
    assert_eq!(broken(&out.join("index.html"), "<a href=\"gone.html\"><a href=\"#gone\">").len(), 2);
}

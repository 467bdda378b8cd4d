//! cronium-agent(8) and the completions of shells are what the tables of commands, flags and keys say.
//! `CRONIUM_WRITE_DOCS=1 cargo test --lib reference` writes them.

use std::fmt::Write as _;

use super::flags::{ABOUT, COMMANDS, CommandRow, ENVIRONMENT, EXITS, FLAGS, Flag};
use crate::config::field::{Key, Kind};
use crate::config::keys;
use crate::config::reference_tests::{holds, lines, manual};

const MADE: &str = "Made from the program's tables: CRONIUM_WRITE_DOCS=1 cargo test --lib reference";

#[test]
fn manual_and_completions_are_what_the_tables_say() {
    holds("docs/man/cronium-agent.8", &manual_of_commands());
    holds("configs/completions/cronium-agent.bash", &bash());
    holds("configs/completions/_cronium-agent", &zsh());
    holds("configs/completions/cronium-agent.fish", &fish());
}

fn of(row: &'static CommandRow) -> impl Iterator<Item = &'static Flag> + Clone {
    FLAGS.iter().filter(|flag| flag.of.contains(&row.name))
}

fn common() -> impl Iterator<Item = &'static Flag> + Clone {
    FLAGS.iter().filter(|flag| flag.of.is_empty())
}

// --- The manual ---

fn manual_of_commands() -> String {
    let mut page = manual("cronium-agent", 8, "run jobs of a Cronium backend in containers and on servers");
    page.push_str(".Sh SYNOPSIS\n.Nm\n.Op Ar COMMAND\n.Op Ar FLAGS\n.Sh DESCRIPTION\n");
    lines(&mut page, ABOUT);
    page.push_str(".Pp\nWithout a command it is\n.Cm run .\n.Pp\nEvery command takes these flags:\n");
    flags(&mut page, common());
    page.push_str(".Sh COMMANDS\n");
    for row in COMMANDS {
        // A bracket at the end would be taken for a delimiter.
        let _ = writeln!(page, ".Ss {}\\&", [&[row.name], row.operands].concat().join(" "));
        for (number, paragraph) in row.about.iter().enumerate() {
            page.push_str(if number == 0 { "" } else { ".Pp\n" });
            lines(&mut page, paragraph);
        }
        if of(row).next().is_some() {
            flags(&mut page, of(row));
        }
        if !row.exits.is_empty() {
            page.push_str(".Pp\nExit codes:\n");
            exits(&mut page, row.exits);
        }
    }
    page.push_str(".Sh ENVIRONMENT\n");
    lines(&mut page, ENVIRONMENT);
    page.push_str(".Xr cronium-orchestrator.yaml 5\nnames them all.\n.Sh FILES\n.Bl -tag -width Ds\n");
    for (path, what) in FILES {
        let _ = writeln!(page, ".It Pa {path}");
        lines(&mut page, what);
    }
    page.push_str(".El\n.Sh EXIT STATUS\n");
    exits(&mut page, EXITS);
    page.push_str(".Sh SEE ALSO\n.Xr cronium-orchestrator.yaml 5 ,\n.Xr cronium-firewall 8\n");
    page
}

const FILES: &[(&str, &str)] = &[
    ("/etc/cronium/cronium-orchestrator.yaml", "the configuration"),
    ("/etc/cronium/api-token", "the backend's token, mode 0600, which systemd hands to the service"),
    ("/etc/cronium/known_hosts", "trusted keys of servers"),
    ("/var/lib/cronium", "`state.dir`: the agent's id, running jobs, reports that wait, the control socket"),
    ("/run/cronium", "`state.runtimeDir`: the sockets of running scripts"),
];

fn flags(page: &mut String, rows: impl Iterator<Item = &'static Flag>) {
    page.push_str(".Bl -tag -width Ds\n");
    for flag in rows {
        let short = flag.short.map_or(String::new(), |short| format!("Fl {short} , "));
        let value = flag.value.map_or(String::new(), |value| format!(" Ar {value}"));
        let _ = writeln!(page, ".It {short}Fl \\-{}{value}", flag.long.replace('-', "\\-"));
        lines(page, flag.help);
    }
    page.push_str(".El\n");
}

fn exits(page: &mut String, exits: &[(&str, &str)]) {
    page.push_str(".Bl -tag -width Ds -compact\n");
    for (code, meaning) in exits {
        let _ = writeln!(page, ".It {}", if code.is_empty() { "any" } else { code });
        lines(page, meaning);
    }
    page.push_str(".El\n");
}

// --- Completions ---

/// What a shell offers for a value or an operand.
enum Offer {
    Files,
    /// Words that stand for themselves.
    Words(Vec<String>),
    /// Words after which the value follows.
    Keys(Vec<String>),
    Nothing,
}

fn offer(value: &str) -> Offer {
    let taken = |key: &Key| if let Kind::Words(words) = key.kind { words.to_vec() } else { Vec::new() };
    match value {
        value if value.starts_with("FILE") => Offer::Files,
        "KEY=VALUE" => {
            let known = keys::keys().filter(|key| key.has_meaning() && !key.is_secret());
            Offer::Keys(known.map(|key| format!("{}=", key.path)).collect())
        }
        "LEVEL" => {
            let words = keys::key("logging.level").map(taken).expect("a key");
            Offer::Words(words.into_iter().map(str::to_owned).collect())
        }
        value if value.starts_with(|c: char| c.is_ascii_lowercase()) => {
            Offer::Words(value.split('|').map(str::to_owned).collect())
        }
        _ => Offer::Nothing,
    }
}

/// `-c|--config`.
fn spelled(flag: &Flag, between: &str) -> String {
    let short = flag.short.map(|short| format!("-{short}{between}")).unwrap_or_default();
    format!("{short}--{}", flag.long)
}

fn all_spelled(rows: impl Iterator<Item = &'static Flag>, between: &str) -> String {
    rows.map(|flag| spelled(flag, between)).collect::<Vec<_>>().join(between)
}

fn bash() -> String {
    let row = |indent: usize, pattern: &str, value: &str| {
        let offered = match offer(value) {
            Offer::Files => "compopt -o filenames; words=FILES".to_owned(),
            Offer::Words(words) => format!("words='{}'", words.join(" ")),
            Offer::Keys(words) => format!("compopt -o nospace; words='{}'", words.join(" ")),
            Offer::Nothing => return String::new(),
        };
        format!("{:indent$}{pattern}) {offered} ;;\n", "")
    };
    let with_value = || FLAGS.iter().filter(|flag| flag.value.is_some());
    let values: String =
        with_value().map(|flag| row(16, &spelled(flag, " | "), flag.value.unwrap_or_default())).collect();
    let with_flags = COMMANDS.iter().filter(|row| of(row).next().is_some());
    let flags: String =
        with_flags.map(|row| format!("{:24}{}) words+=' {}' ;;\n", "", row.name, all_spelled(of(row), " "))).collect();
    let operands = |of: &CommandRow| -> String {
        of.operands.iter().enumerate().map(|(at, word)| row(24, &format!("{}.{at}", of.name), word)).collect()
    };
    let operands: String = COMMANDS.iter().map(operands).collect();
    let commands: Vec<&str> = COMMANDS.iter().map(|row| row.name).collect();
    BASH.replace("@MADE@", MADE)
        .replace("@WITH_VALUE@", &all_spelled(with_value(), " | "))
        .replace("@VALUES@", &values)
        .replace("@COMMON@", &all_spelled(common(), " "))
        .replace("@FLAGS@", &flags)
        .replace("@COMMANDS@", &commands.join(" "))
        .replace("@OPERANDS@", &operands)
}

const BASH: &str = r#"# shellcheck shell=bash
# @MADE@

_cronium_agent() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command='' words='' typed=0 at
    # Bash makes three words of --flag=value.
    [ "$word" != = ] || word=''
    [ "$before" != = ] || before=${COMP_WORDS[COMP_CWORD - 2]}
    for ((at = 1; at < COMP_CWORD; at++)); do
        case ${COMP_WORDS[at]} in
            @WITH_VALUE@)
                ((at += 1))
                [ "${COMP_WORDS[at]}" != = ] || ((at += 1))
                ;;
            -?*) ;;
            *) if [ -z "$command" ]; then command=${COMP_WORDS[at]}; else ((typed += 1)); fi ;;
        esac
    done
    case $before in
        @WITH_VALUE@)
            case $before in
@VALUES@            esac
            ;;
        *)
            case $word in
                -*)
                    words='@COMMON@'
                    case $command in
@FLAGS@                    esac
                    ;;
                *)
                    case $command.$typed in
                        .0) words='@COMMANDS@' ;;
@OPERANDS@                    esac
                    ;;
            esac
            ;;
    esac
    if [ "$words" = FILES ]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
    fi
}
complete -F _cronium_agent cronium-agent
"#;

/// A text within single quotes in which zsh's `:`, `[` and `]` mean nothing.
fn zsh_text(text: &str) -> String {
    let plain = text.replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
    plain.replace('\'', "'\\''")
}

fn zsh() -> String {
    let offered = |value: &str| match offer(value) {
        Offer::Files => "_files".to_owned(),
        Offer::Words(words) => format!("({})", words.join(" ")),
        Offer::Keys(words) => {
            format!("(({}))", words.iter().map(|word| format!("{word}\\:")).collect::<Vec<_>>().join(" "))
        }
        Offer::Nothing => " ".to_owned(),
    };
    let flag = |flag: &Flag| {
        let value = flag.value.map_or(String::new(), |value| format!(":{}:{}", zsh_text(value), offered(value)));
        let names = match flag.short {
            Some(short) => format!("{{-{short},--{}}}", flag.long),
            None => format!("--{}", flag.long),
        };
        format!("        '*'{names}'[{}]{value}' \\\n", zsh_text(flag.help))
    };
    let mut out =
        format!("#compdef cronium-agent\n# {MADE}\n\nlocal context state state_descr line\ntypeset -A opt_args\n");
    let shared: String = common().map(flag).collect();
    let _ = write!(out, "local -a common=( \\\n{shared})\n\n");
    out.push_str("_arguments -C $common '1: :->command' '*:: :->rest'\ncase $state in\n    command)\n        local -a commands=(\n");
    for row in COMMANDS {
        let _ = writeln!(out, "            '{}:{}'", row.name, zsh_text(row.summary));
    }
    out.push_str("        )\n        _describe command commands\n        ;;\n    rest)\n        case $words[1] in\n");
    for row in COMMANDS {
        let own: String = of(row).map(flag).collect();
        let word = |word: &&str| format!("        ':{}:{}' \\\n", zsh_text(word), offered(word));
        let operands: String = row.operands.iter().map(word).collect();
        let _ = writeln!(out, "            {})\n        _arguments $common \\\n{own}{operands}        ;;", row.name);
    }
    out.push_str("        esac\n        ;;\nesac\n");
    out
}

fn fish() -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let offered = |value: &str| match offer(value) {
        Offer::Files => "-F".to_owned(),
        Offer::Words(words) | Offer::Keys(words) => format!("-f -a {}", quoted(&words.join(" "))),
        Offer::Nothing => "-f".to_owned(),
    };
    let mut out = format!("# {MADE}\n\ncomplete -c cronium-agent -f\n");
    let mut flag = |condition: &str, flag: &Flag| {
        let short = flag.short.map_or(String::new(), |short| format!(" -s {short}"));
        let value = flag.value.map_or(String::new(), |value| format!(" -r {}", offered(value)));
        let _ = writeln!(
            out,
            "complete -c cronium-agent{condition}{short} -l {}{value} -d {}",
            flag.long,
            quoted(flag.help)
        );
    };
    common().for_each(|row| flag("", row));
    for row in COMMANDS {
        let condition = format!(" -n '__fish_seen_subcommand_from {}'", row.name);
        of(row).for_each(|row| flag(&condition, row));
    }
    for row in COMMANDS {
        let _ = writeln!(
            out,
            "complete -c cronium-agent -n __fish_use_subcommand -a {} -d {}",
            row.name,
            quoted(row.summary)
        );
        for word in row.operands {
            let _ = writeln!(
                out,
                "complete -c cronium-agent -n '__fish_seen_subcommand_from {}' {}",
                row.name,
                offered(word)
            );
        }
    }
    out
}

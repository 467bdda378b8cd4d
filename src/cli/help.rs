//! The texts of `--help`, made from the tables of commands and flags.

use std::fmt::Write as _;

use super::flags::{ABOUT, COMMANDS, CommandRow, ENVIRONMENT, EXITS, FLAGS, Flag};

/// Columns of a line.
const WIDTH: usize = 100;

/// The help of a command; of the program for an empty name.
pub fn text(command: &str) -> String {
    match COMMANDS.iter().find(|row| row.name == command) {
        Some(row) => of_command(row),
        None => of_program(),
    }
}

fn of_program() -> String {
    let mut out = wrapped(ABOUT, 0) + "\nUsage: cronium-agent [COMMAND] [FLAGS]\n\nCommands:\n";
    list(&mut out, COMMANDS.iter().map(|row| (row.name.to_owned(), row.summary)));
    out.push_str("\nFlags:\n");
    list(&mut out, FLAGS.iter().filter(|flag| flag.of.is_empty()).map(|flag| (shown(flag), flag.help)));
    let _ = write!(out, "\n{}", wrapped(ENVIRONMENT, 0));
    exits(&mut out, EXITS);
    out
}

fn of_command(row: &CommandRow) -> String {
    let operands: String = row.operands.iter().map(|word| format!(" {word}")).collect();
    let mut out = format!("Usage: cronium-agent {} [FLAGS]{operands}\n", row.name);
    for paragraph in row.about {
        let _ = write!(out, "\n{}", wrapped(paragraph, 0));
    }
    let own = || FLAGS.iter().filter(|flag| flag.of.contains(&row.name));
    if own().next().is_some() {
        out.push_str("\nFlags:\n");
        list(&mut out, own().map(|flag| (shown(flag), flag.help)));
    }
    let common = FLAGS.iter().filter(|flag| flag.of.is_empty()).map(|flag| format!("--{}", flag.long));
    let _ = write!(out, "\n{}", wrapped(&format!("Of every command: {}.", common.collect::<Vec<_>>().join(", ")), 0));
    exits(&mut out, row.exits);
    out
}

fn exits(out: &mut String, exits: &[(&str, &'static str)]) {
    if !exits.is_empty() {
        out.push_str("\nExit codes:\n");
        list(out, exits.iter().map(|(code, meaning)| ((*code).to_owned(), *meaning)));
    }
}

/// `-c, --config FILE`.
fn shown(flag: &Flag) -> String {
    let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
    let value = flag.value.map_or(String::new(), |value| format!(" {value}"));
    format!("{short}--{}{value}", flag.long)
}

/// Two columns; the left one as wide as its widest entry.
fn list(out: &mut String, rows: impl Iterator<Item = (String, &'static str)> + Clone) {
    let width = rows.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, text) in rows {
        let _ = write!(out, "  {name:width$}  {}", wrapped(text, width + 4));
    }
}

/// Lines of at most [`WIDTH`]; all but the first are indented.
fn wrapped(text: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut column = indent;
    for word in text.split(' ') {
        if column > indent && column + 1 + word.len() > WIDTH {
            let _ = write!(out, "\n{:indent$}", "");
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_text_of_lines_that_fit() {
        for name in COMMANDS.iter().map(|row| row.name).chain([""]) {
            let text = text(name);
            assert!(
                text.contains("Usage: cronium-agent") && text.ends_with('\n') && !text.contains("\n\n\n"),
                "{text}"
            );
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH && !line.ends_with(' ')), "{text}");
        }
        let exec = text("exec");
        assert!(exec.starts_with("Usage: cronium-agent exec [FLAGS] FILE\n"), "{exec}");
        assert!(exec.contains("\n  -e, --env K=V                  a variable of the script; "), "{exec}");
        assert!(text("").contains("\n  -V, --version          same as the command version\n"), "{}", text(""));
    }

    #[test]
    fn every_flag_is_of_commands_that_exist() {
        for flag in FLAGS {
            assert!(flag.of.iter().all(|name| COMMANDS.iter().any(|row| row.name == *name)), "{}", flag.long);
            assert_eq!(FLAGS.iter().filter(|other| other.long == flag.long).count(), 1, "{}", flag.long);
            assert!(flag.short.is_none() || FLAGS.iter().filter(|f| f.short == flag.short).count() == 1);
        }
    }
}

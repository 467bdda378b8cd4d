//! The `#!` line of a script: which program it names, and with which flags. Pure.
//!
//! The kernel hands everything behind the program over as one word; `env -S` splits it again. People write flags in both
//! ways, so both are split here: `#!/bin/bash -euo pipefail` means what its author meant.

use crate::job::Language;

/// What a `#!` line asks for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Shebang {
    /// The program's name, without its folder.
    pub program: String,
    /// Its arguments before the script's file.
    pub flags: Vec<String>,
    /// What `env` is to set.
    pub variables: Vec<(String, String)>,
    /// What else is asked of `env`, and not done.
    pub ignored: Vec<String>,
}

impl Shebang {
    /// Reads the first line; `None` where it is no `#!` line or names nothing.
    pub fn of(content: &str) -> Option<Self> {
        let line = content.strip_prefix("#!")?.lines().next()?.trim();
        let mut words = words(line).into_iter();
        let mut shebang = Self { program: base(&words.next()?), ..Self::default() };
        if shebang.program == "env" {
            shebang.program.clear();
            shebang.through_env(&mut words);
        }
        if shebang.program == "busybox" {
            shebang.program = words.next().unwrap_or_default();
        }
        shebang.flags = words.collect();
        (!shebang.program.is_empty()).then_some(shebang)
    }

    /// The words of `env` up to the program.
    fn through_env(&mut self, rest: &mut std::vec::IntoIter<String>) {
        while let Some(word) = rest.next() {
            let split = word
                .strip_prefix("--split-string=")
                .or_else(|| word.strip_prefix("-S"))
                .or_else(|| word.strip_prefix("-vS"));
            match split {
                Some("") => {}
                // `-Spython3 -u`: the rest of the line was split already.
                Some(program) => return self.program = base(program),
                None if word == "--" || word == "-v" || word == "--split-string" => {}
                None if matches!(word.as_str(), "-u" | "-C" | "--unset" | "--chdir") => {
                    self.ignored.push(format!("{word} {}", rest.next().unwrap_or_default()));
                }
                None if word.starts_with('-') => self.ignored.push(word),
                None => match word.split_once('=') {
                    Some((name, value)) if !name.is_empty() => {
                        self.variables.push((name.to_owned(), value.to_owned()));
                    }
                    _ => return self.program = base(&word),
                },
            }
        }
    }

    /// The language that the program runs, if it is one of ours.
    pub fn language(&self) -> Option<Language> {
        match self.program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.') {
            "bash" | "sh" | "dash" | "ash" => Some(Language::Bash),
            "python" => Some(Language::Python),
            "node" | "nodejs" => Some(Language::Node),
            _ => None,
        }
    }

    /// A version of the interpreter that is not the usual one, such as `python3.11`.
    pub fn version(&self) -> Option<&str> {
        let usual = ["bash", "sh", "dash", "ash", "python", "python3", "node", "nodejs"];
        let plain = self.program.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
        (plain && !usual.contains(&self.program.as_str()) && self.language().is_some()).then_some(&self.program)
    }
}

fn base(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Splits at blanks, but not within quotes, as `env -S` does.
fn words(line: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', Some('"') | None) => word.get_or_insert_default().extend(chars.next()),
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => all.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    all.extend(word);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_flags() {
        for (line, program, flags) in [
            ("#!/bin/bash -e", "bash", &["-e"][..]),
            ("#!/bin/bash -euo pipefail\r\necho", "bash", &["-euo", "pipefail"]),
            ("#! /bin/sh -\n", "sh", &["-"]),
            ("#!/usr/bin/env bash", "bash", &[]),
            ("#!/usr/bin/env bash -x", "bash", &["-x"]),
            ("#!/usr/bin/env -S python3 -Werror -u", "python3", &["-Werror", "-u"]),
            ("#!/usr/bin/env -Spython3 -Werror", "python3", &["-Werror"]),
            ("#!/usr/bin/env --split-string=node --enable-source-maps", "node", &["--enable-source-maps"]),
            ("#!/usr/bin/env -S python3 -c 'print(\"a b\")' \\\"", "python3", &["-c", "print(\"a b\")", "\""]),
            ("#!/usr/bin/node --enable-source-maps", "node", &["--enable-source-maps"]),
            ("#!/bin/busybox sh -e", "sh", &["-e"]),
        ] {
            let read = Shebang::of(line).expect(line);
            assert_eq!(
                (read.program.as_str(), read.flags.iter().map(String::as_str).collect()),
                (program, flags.to_vec()),
                "{line}"
            );
        }
        for line in ["", "#!", "#!\nbash", "# !/bin/bash", " #!/bin/bash", "#!/usr/bin/env", "#!/usr/bin/env -i"] {
            assert_eq!(Shebang::of(line), None, "{line:?}");
        }
    }

    #[test]
    fn what_env_is_asked_for() {
        let read = Shebang::of("#!/usr/bin/env -S -i -u HOME A=1 B='x y' python3 -u").expect("a line");
        assert_eq!(read.variables, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x y".to_owned())]);
        assert_eq!(read.ignored, ["-i", "-u HOME"]);
        assert_eq!((read.program.as_str(), read.flags), ("python3", vec!["-u".to_owned()]));
    }

    #[test]
    fn languages_and_versions() {
        for (line, language, version) in [
            ("#!/bin/sh", Some(Language::Bash), None),
            ("#!/usr/bin/env python3.11", Some(Language::Python), Some("python3.11")),
            ("#!/usr/bin/python2", Some(Language::Python), Some("python2")),
            ("#!/usr/bin/python3", Some(Language::Python), None),
            ("#!/usr/bin/env -S node --x", Some(Language::Node), None),
            ("#!/usr/bin/perl", None, None),
            ("#!/bin/zsh", None, None),
        ] {
            let read = Shebang::of(line).expect(line);
            assert_eq!((read.language(), read.version()), (language, version), "{line}");
        }
    }
}

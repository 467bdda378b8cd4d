//! The script that `exec` was given: its text, its size, its language.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;
use std::time::Instant;

use crate::executors::ending::bytes;
use crate::executors::shebang::Shebang;
use crate::job::{Language, Stream};
use crate::limits;
use crate::redact::{self, Redactor};

/// What can be run, for messages.
const RUN: &str = "bash, python and node scripts are run";

/// The text and the language of the script in `file`, or on standard input for `-`. The language comes from `language`,
/// else from the file's ending, else from the first line.
pub fn load(file: &str, language: Option<Language>) -> Result<(String, Language), String> {
    let shown = if file == "-" { "standard input" } else { file };
    let unreadable = |error: std::io::Error| format!("cannot read {shown}: {error}");
    let content = if file == "-" {
        read(std::io::stdin().lock(), shown)?
    } else {
        let file = File::open(file).map_err(unreadable)?;
        let size = file.metadata().ok().filter(std::fs::Metadata::is_file).map_or(0, |data| data.len());
        if size > limits::SCRIPT_MAX as u64 {
            return Err(too_large(shown, &format!("{size} bytes")));
        }
        read(file, shown)?
    };
    let content = String::from_utf8(content).map_err(|_| format!("{shown} is not UTF-8 text"))?;
    let mut content = content.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(content);
    let language = match language.or_else(|| Language::of_file(file)) {
        Some(language) => language,
        None => by_first_line(&content, shown)?,
    };
    if language == Language::Node && file.ends_with(".mjs") {
        // Makes it a module for Node.js.
        content.push_str("\nexport {};\n");
    }
    Ok((content, language))
}

fn read(mut from: impl Read, shown: &str) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("cannot read {shown}: {error}");
    let mut content = Vec::new();
    from.by_ref().take(limits::SCRIPT_MAX as u64 + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() <= limits::SCRIPT_MAX {
        return Ok(content);
    }
    let had = content.len() as u64;
    let rest = std::io::copy(&mut from.take(limits::SCRIPT_COUNTED - had), &mut std::io::sink()).map_err(unreadable)?;
    let size = had + rest;
    let size = if size < limits::SCRIPT_COUNTED { format!("{size} bytes") } else { format!("{} or more", bytes(size)) };
    Err(too_large(shown, &size))
}

fn too_large(shown: &str, size: &str) -> String {
    format!("{shown} has {size}, at most {} are taken", limits::SCRIPT_MAX)
}

/// The language that the `#!` line names; the error says what is there instead.
fn by_first_line(content: &str, shown: &str) -> Result<Language, String> {
    if let Some(shebang) = Shebang::of(content) {
        return shebang.language().ok_or_else(|| {
            let name = &shebang.program;
            format!("{shown} is a script for {name} by its #! line, and {name} is not run: {RUN}")
        });
    }
    let ending = Path::new(shown).extension().and_then(|ending| ending.to_str());
    let other = match ending.unwrap_or_default() {
        "pl" | "pm" => "perl",
        "rb" => "ruby",
        "php" => "php",
        "ts" | "mts" | "cts" => "typescript",
        "lua" => "lua",
        "ps1" => "powershell",
        "zsh" => "zsh",
        "fish" => "fish",
        _ => return Err(format!("cannot tell the language of {shown}: give --lang bash, python or node")),
    };
    Err(format!("{shown} is a script for {other} by its ending, and {other} is not run: {RUN}"))
}

/// The terminal as a job's output: bytes go to stdout and stderr as they come, without the secrets in them, the agent's own
/// words to stderr. It keeps the first error.
#[derive(Debug)]
pub struct Terminal {
    redactor: Redactor,
    /// stdout and stderr, each with the moment from which on bytes of it wait.
    streams: [(redact::Stream, Option<Instant>); 2],
    screen: Screen,
}

/// Where it goes.
#[derive(Debug)]
struct Screen {
    /// Standard output is for something else: the script's goes to stderr.
    to_stderr: bool,
    lost: Option<(&'static str, std::io::Error)>,
}

impl Terminal {
    /// Where `to_stderr`, both streams go to stderr.
    pub fn new(to_stderr: bool, redactor: &Redactor) -> Self {
        let streams = [(redactor.stream(), None), (redactor.stream(), None)];
        Self { redactor: redactor.clone(), streams, screen: Screen { to_stderr, lost: None } }
    }

    /// Flushes; returns the first stream that did not take all of it, and why.
    pub fn finish(mut self) -> Option<(&'static str, std::io::Error)> {
        for (stream, (waits, _)) in [Stream::Stdout, Stream::Stderr].into_iter().zip(&mut self.streams) {
            waits.finish(&mut |bytes, _| self.screen.print(stream, bytes));
        }
        self.screen.flush();
        self.screen.lost
    }
}

impl Screen {
    fn flush(&mut self) {
        let result = std::io::stdout().lock().flush();
        self.note("standard output", result);
    }

    /// A reader that has gone away does not end the script, which still gets a verdict.
    fn note(&mut self, stream: &'static str, result: std::io::Result<()>) {
        if let Err(error) = result {
            self.lost.get_or_insert((stream, error));
        }
    }

    fn print(&mut self, stream: Stream, data: &[u8]) {
        match stream {
            Stream::Stdout if !self.to_stderr => {
                let result = std::io::stdout().lock().write_all(data);
                self.note("standard output", result);
            }
            _ => {
                let result = std::io::stderr().lock().write_all(data);
                self.note("standard error", result);
            }
        }
    }
}

impl crate::job::Output for Terminal {
    fn bytes(&mut self, stream: Stream, data: &[u8]) {
        let (own, heard) = &mut self.streams[usize::from(stream != Stream::Stdout)];
        own.feed(data, &mut |bytes, _| self.screen.print(stream, bytes));
        *heard = own.is_waiting().then(Instant::now);
    }

    fn system(&mut self, text: &str) {
        let result = writeln!(std::io::stderr().lock(), "cronium-agent: {}", self.redactor.text(text));
        self.screen.note("standard error", result);
    }

    fn settle(&mut self) {
        for (stream, (own, heard)) in [Stream::Stdout, Stream::Stderr].into_iter().zip(&mut self.streams) {
            if heard.is_some_and(|heard| heard.elapsed() >= limits::REDACT_HOLD) {
                own.pause(&mut |bytes, _| self.screen.print(stream, bytes));
                *heard = None;
            }
        }
        self.screen.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_by_ending_and_first_line() {
        assert_eq!(Language::of_file("a/b.py"), Some(Language::Python));
        assert_eq!(Language::of_file("a.b/c"), None);
        for (line, want) in [
            ("#!/bin/sh", Ok(Language::Bash)),
            ("#!/usr/bin/env python3.11", Ok(Language::Python)),
            ("#!/usr/bin/env -S node --x", Ok(Language::Node)),
            ("#!/usr/bin/perl -w", Err("perl is not run: bash, python and node scripts are run")),
            ("#!/usr/bin/env ruby", Err("ruby is not run")),
            ("echo", Err("--lang")),
            ("", Err("--lang")),
        ] {
            let found = by_first_line(line, "x");
            match want {
                Ok(language) => assert_eq!(found, Ok(language), "{line}"),
                Err(words) => assert!(found.as_ref().is_err_and(|error| error.contains(words)), "{line}: {found:?}"),
            }
        }
        assert!(by_first_line("", "a.php").is_err_and(|error| error.contains("php is not run")));
    }
}

//! A message before it is written: bounded, on one line, from a known place.

use std::fmt::{self, Write};

use crate::limits;

/// The name that the targets of this program's own modules begin with.
const OWN: &str = "cronium_agent";

/// Whether `target` is one of this program's modules.
pub(super) fn is_own(target: &str) -> bool {
    target.strip_prefix(OWN).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `target` without the name of this program.
pub(super) fn trimmed(target: &str) -> &str {
    target.strip_prefix(OWN).and_then(|rest| rest.strip_prefix("::")).unwrap_or(target)
}

/// Formats `args`, but keeps no more than `limits::LOG_MESSAGE` bytes, which `clean` takes secrets out of; a marker counts
/// the rest.
pub(super) fn bounded(args: fmt::Arguments, clean: impl Fn(String) -> String) -> String {
    let mut capped = Capped { text: String::new(), cut: 0 };
    if capped.write_fmt(args).is_err() {
        capped.text.push_str("[a value could not be formatted]");
    }
    capped.text = clean(capped.text);
    if capped.cut > 0 {
        // Writing into a `String` does not fail.
        let _ = write!(capped.text, "… [{} bytes left out]", capped.cut);
    }
    capped.text
}

struct Capped {
    text: String,
    cut: usize,
}

impl Write for Capped {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let room = if self.cut > 0 { 0 } else { limits::LOG_MESSAGE - self.text.len() };
        let keep = (0..=room.min(piece.len())).rev().find(|&at| piece.is_char_boundary(at)).unwrap_or(0);
        self.text.push_str(&piece[..keep]);
        self.cut += piece.len() - keep;
        Ok(())
    }
}

/// `text` on one line: characters that could begin a line, move the cursor or turn the direction of writing are escaped.
/// So a name that a script chose cannot forge a line of the log.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                line.extend(c.escape_unicode());
            }
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (target, own, short) in [
            ("cronium_agent::jobs::poller", true, "jobs::poller"),
            ("cronium_agent", true, "cronium_agent"),
            ("cronium_agents::x", false, "cronium_agents::x"),
            ("ureq::unversioned", false, "ureq::unversioned"),
            ("", false, ""),
        ] {
            assert_eq!((is_own(target), trimmed(target)), (own, short), "{target}");
        }
    }

    #[test]
    fn a_long_message_is_cut_at_a_character_and_counted() {
        let same = |text| text;
        assert_eq!(bounded(format_args!("{} {}", 1, "ü"), same), "1 ü");
        let full = "x".repeat(limits::LOG_MESSAGE);
        assert_eq!(bounded(format_args!("{full}"), same), full);
        let text = bounded(format_args!("a{}{}", "ü".repeat(limits::LOG_MESSAGE), "end"), same);
        let kept = limits::LOG_MESSAGE - 1;
        assert!(
            text.ends_with(&format!("ü… [{} bytes left out]", 2 * limits::LOG_MESSAGE + 4 - kept)),
            "{}",
            &text[kept..]
        );
        assert!(text.len() < limits::LOG_MESSAGE + 64);
    }

    #[test]
    fn nothing_begins_a_line_of_its_own() {
        let evil = "job\n2026-01-01T00:00:00.000Z [ERROR] forged\r\u{1b}[2K\u{85}\u{2028}\u{202e}\0\tü\\";
        let line = one_line(evil);
        assert_eq!(line, r"job\n2026-01-01T00:00:00.000Z [ERROR] forged\r\u{1b}[2K\u{85}\u{2028}\u{202e}\u{0}\tü\");
    }
}

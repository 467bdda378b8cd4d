//! What a program of ours says of itself on a script's stderr, and how it is kept from the script's output.
//!
//! A program that cannot become the script's interpreter prints one line, `cronium setup NONCE: why`, and ends with
//! [`SETUP_FAILED`]. The verdict tells the reason; the line itself is nobody's business.

use crate::limits;

/// The exit code with which a program says that the script could not be started.
pub const SETUP_FAILED: i64 = 125;

const WORD: &[u8] = b"cronium setup ";
/// The word, 32 characters of nonce, and some room.
const WORD_MAX: usize = 96;

/// What the program itself said when it could not start the script, found at the end of its stderr. Where it ends with a
/// colon, the line before it, which is the shell's own, says why.
pub fn complaint(nonce: &str, stderr_tail: &[u8]) -> Option<String> {
    find(stderr_tail, |line| line.strip_prefix(&format!("cronium setup {nonce}: ")))
}

fn find(stderr_tail: &[u8], why: impl Fn(&str) -> Option<&str>) -> Option<String> {
    let tail = String::from_utf8_lossy(stderr_tail);
    let lines: Vec<&str> = tail.lines().collect();
    let at = lines.iter().rposition(|line| why(line).is_some())?;
    let text = why(lines[at])?;
    match text.strip_suffix(':') {
        Some(text) if at > 0 => Some(format!("{text}: {}", lines[at - 1])),
        Some(text) => Some(text.to_owned()),
        None => Some(text.to_owned()),
    }
}

/// Keeps the last `limits::STDERR_TAIL` bytes.
pub(super) fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[bytes.len().saturating_sub(limits::STDERR_TAIL)..];
    let surplus = (tail.len() + bytes.len()).saturating_sub(limits::STDERR_TAIL);
    tail.drain(..surplus.min(tail.len()));
    tail.extend_from_slice(bytes);
}

/// A script's stderr on its way to the output: its end is kept, our own line is taken out.
#[derive(Debug, Default)]
pub(super) struct Stderr {
    tail: Vec<u8>,
    /// The beginning of a line that may become ours.
    held: Vec<u8>,
    line: Line,
}

/// What is known of the line that is being read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// All of it is held, or nothing has come.
    #[default]
    Open,
    Theirs,
    Ours,
}

impl Stderr {
    /// Hands `bytes` on but for our line. Without a `nonce`, any will do.
    pub(super) fn take(&mut self, bytes: &[u8], nonce: &str, sink: &mut dyn FnMut(&[u8])) {
        keep_tail(&mut self.tail, bytes);
        // What may go on in one piece.
        let mut from = 0;
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes[at..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| at + n + 1);
            let line = &bytes[at..end];
            if self.line == Line::Open {
                let before = self.held.len();
                self.held.extend_from_slice(&line[..line.len().min(WORD_MAX)]);
                self.line = kind(&self.held, nonce);
                if self.line == Line::Theirs && before > 0 {
                    // Only what came with earlier bytes: the rest is still in `bytes`.
                    sink(&self.held[..before]);
                }
                if self.line != Line::Open {
                    self.held.clear();
                }
            }
            if self.line != Line::Theirs {
                if from < at {
                    sink(&bytes[from..at]);
                }
                from = end;
            }
            if line.ends_with(b"\n") {
                self.line = Line::Open;
                self.held.clear();
            }
            at = end;
        }
        if from < bytes.len() {
            sink(&bytes[from..]);
        }
    }

    /// Hands on what was held back: nothing more comes. What has part of the nonce was ours and was cut off.
    pub(super) fn finish(&mut self, sink: &mut dyn FnMut(&[u8])) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() && held.len() <= WORD.len() {
            sink(&held);
        }
        self.line = Line::Theirs;
    }

    /// The last of it, our line too.
    pub(super) fn tail(&self) -> &[u8] {
        &self.tail
    }
}

/// Whose the line is of which `start` is the beginning.
fn kind(start: &[u8], nonce: &str) -> Line {
    let common = start.len().min(WORD.len());
    if start[..common] != WORD[..common] {
        return Line::Theirs;
    }
    let rest = &start[common..];
    let digits = rest.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let nonce_fits = nonce.is_empty() || nonce.as_bytes().starts_with(&rest[..digits]);
    let whole = digits > 0 && (nonce.is_empty() || digits == nonce.len());
    match &rest[digits..] {
        _ if !nonce_fits || digits > WORD_MAX / 2 => Line::Theirs,
        [] => Line::Open,
        [b':'] if whole => Line::Open,
        [b':', b' ', ..] if whole => Line::Ours,
        _ => Line::Theirs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_kept_and_bounded() {
        let mut tail = Vec::new();
        for n in 0..2000u32 {
            keep_tail(&mut tail, format!("line {n}\n").as_bytes());
            assert!(tail.len() <= limits::STDERR_TAIL);
        }
        assert!(tail.ends_with(b"line 1999\n"));
        keep_tail(&mut tail, &vec![b'x'; limits::STDERR_TAIL * 3]);
        assert_eq!(tail, vec![b'x'; limits::STDERR_TAIL]);
    }

    #[test]
    fn our_line_is_taken_out_at_every_split_and_nothing_else() {
        let whole = "cronium setup 00ff: why it is so\n";
        for (input, nonce, want) in [
            (whole, "00ff", ""),
            (whole, "", ""),
            ("cronium setup 00ff: cut off", "00ff", ""),
            (whole, "00fe", whole),
            ("a\ncronium setup 00ff: why\n", "00ff", "a\n"),
            ("a\ncronium setup 00ff: why\nb\n\nc", "00ff", "a\nb\n\nc"),
            ("x cronium setup 00ff: why\n", "00ff", "x cronium setup 00ff: why\n"),
            ("cronium setup 00ffa: why\n", "00ff", "cronium setup 00ffa: why\n"),
            ("cronium setup 00: why\n", "00ff", "cronium setup 00: why\n"),
            ("cronium setup : why\n", "", "cronium setup : why\n"),
            ("cronium set\ncronium", "00ff", "cronium set\ncronium"),
            ("cronium setup 00ff", "00ff", ""),
            ("cronium setup ", "00ff", "cronium setup "),
            ("\n\ncr", "", "\n\ncr"),
        ] {
            for split in 0..=input.len() {
                let (mut stderr, mut out) = (Stderr::default(), Vec::new());
                for part in [&input[..split], &input[split..]] {
                    stderr.take(part.as_bytes(), nonce, &mut |bytes| out.extend_from_slice(bytes));
                }
                stderr.finish(&mut |bytes| out.extend_from_slice(bytes));
                assert_eq!(String::from_utf8_lossy(&out), want, "{input:?} split at {split}");
                assert_eq!(stderr.tail(), input.as_bytes());
            }
        }
    }

    #[test]
    fn a_complaint_that_ends_with_a_colon_takes_the_line_before_it() {
        let tail = b"sh: 9: exec: /x: Argument list too long\ncronium setup 00ff: cannot start /x:\n";
        let want = "cannot start /x: sh: 9: exec: /x: Argument list too long";
        assert_eq!(complaint("00ff", tail).as_deref(), Some(want));
        assert_eq!(complaint("00ff", b"cronium setup 00ff: cannot start /x:\n").as_deref(), Some("cannot start /x"));
        assert_eq!(complaint("00fe", tail), None);
    }
}

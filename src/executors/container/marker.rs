//! The program's first word on stderr: proof that all of it had arrived and that the script is about to start.
//!
//! A shell whose stdin ends early exits with 0, as a script does that went well. Only the word tells the two apart. It
//! holds the program's random nonce, and it is taken out of the stream before anybody sees it. Live and in the engine's
//! copy, it is looked for here.

use std::borrow::Cow;

const WORD: &str = "cronium ready ";
/// Longest nonce that is looked for; ours have 32 digits.
const NONCE_MAX: usize = 64;

/// Looks for the word at the very start of stderr.
#[derive(Debug)]
pub struct Marker {
    /// `None` where the container does not tell it: one of an agent before 0.2.
    nonce: Option<String>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// What has come looks like the word so far.
    Waiting(Vec<u8>),
    /// With this nonce.
    Seen(String),
    Missed,
}

impl Marker {
    /// The line that the program of this nonce prints first.
    pub fn line(nonce: &str) -> String {
        format!("{WORD}{nonce}")
    }

    /// Nothing seen yet. Without a nonce, any will do.
    pub fn new(nonce: Option<&str>) -> Self {
        Self { nonce: nonce.map(str::to_owned), state: State::Waiting(Vec::new()) }
    }

    /// Whether the program has begun.
    pub fn is_seen(&self) -> bool {
        matches!(self.state, State::Seen(_))
    }

    /// Whether stderr began with something else.
    pub fn is_missed(&self) -> bool {
        matches!(self.state, State::Missed)
    }

    /// The nonce of the word that was seen.
    pub fn nonce(&self) -> Option<&str> {
        match &self.state {
            State::Seen(nonce) => Some(nonce),
            _ => None,
        }
    }

    /// Takes the word out of `bytes`; gives what is left, with what was held back where it was not the word.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let State::Waiting(line) = &mut self.state else { return Cow::Borrowed(bytes) };
        line.extend_from_slice(bytes);
        let line = std::mem::take(line);
        let end = line.iter().position(|&b| b == b'\n');
        let text = &line[..end.unwrap_or(line.len())];
        if !self.may_be(text, end.is_some()) {
            self.state = State::Missed;
            return Cow::Owned(line);
        }
        let Some(end) = end else {
            self.state = State::Waiting(line);
            return Cow::Borrowed(&[]);
        };
        self.state = State::Seen(String::from_utf8_lossy(&line[WORD.len()..end]).into_owned());
        Cow::Owned(line[end + 1..].to_vec())
    }

    /// The word does not come any more; what was held back.
    pub fn give_up(&mut self) -> Vec<u8> {
        match std::mem::replace(&mut self.state, State::Missed) {
            State::Waiting(held) => held,
            _ => Vec::new(),
        }
    }

    /// Whether this is the word, or its beginning where it is not `whole`.
    fn may_be(&self, text: &[u8], whole: bool) -> bool {
        let Some(nonce) = &self.nonce else {
            let common = text.len().min(WORD.len());
            let digits = text.get(WORD.len()..).unwrap_or_default();
            return text[..common] == WORD.as_bytes()[..common]
                && digits.len() <= NONCE_MAX
                && digits.iter().all(u8::is_ascii_hexdigit)
                && (!whole || !digits.is_empty());
        };
        let word = Self::line(nonce);
        if whole { text == word.as_bytes() } else { word.as_bytes().starts_with(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` whole and at every split; looks at what came through and whether the word was seen.
    fn check(nonce: Option<&str>, input: &[u8], through: &[u8], seen: bool) {
        for split in 0..=input.len() {
            let mut marker = Marker::new(nonce);
            let mut out = Vec::new();
            for part in [&input[..split], &input[split..]] {
                out.extend_from_slice(&marker.take(part));
            }
            assert_eq!((out.as_slice(), marker.is_seen()), (through, seen), "{nonce:?}, split at {split}");
            assert_eq!(marker.nonce(), seen.then_some("00ff"));
        }
    }

    #[test]
    fn the_word_is_taken_out_and_nothing_else() {
        for nonce in [Some("00ff"), None] {
            check(nonce, b"cronium ready 00ff\n", b"", true);
            check(nonce, b"cronium ready 00ff\nerror\n", b"error\n", true);
            check(nonce, b"cronium ready\n", b"cronium ready\n", false);
            check(nonce, b"cronium ready \n", b"cronium ready \n", false);
            check(nonce, b"cronium ready yes\n", b"cronium ready yes\n", false);
            check(nonce, b"sh: syntax error\ncronium ready 00ff\n", b"sh: syntax error\ncronium ready 00ff\n", false);
            check(nonce, b"", b"", false);
        }
        check(Some("00ff"), b"cronium ready 0000\nerror\n", b"cronium ready 0000\nerror\n", false);
        let long = format!("cronium ready {}", "0".repeat(NONCE_MAX + 1));
        check(None, long.as_bytes(), long.as_bytes(), false);
    }

    #[test]
    fn what_was_held_back_comes_when_the_word_does_not() {
        let mut marker = Marker::new(None);
        assert!(marker.take(b"cronium rea").is_empty() && !marker.is_missed());
        assert_eq!((marker.give_up().as_slice(), marker.is_missed()), (&b"cronium rea"[..], true));
        assert_eq!((&*marker.take(b"more"), marker.give_up().len()), (&b"more"[..], 0));
    }
}

//! The program's first word on stderr: proof that all of it had arrived and that the script is about to start.
//!
//! A shell whose stdin ends early exits with 0, as a script does that went well. Only the word tells the two apart. It
//! holds the program's random nonce, and it is taken out of the stream before anybody sees it. Live and in the engine's
//! copy, it is looked for here.
//!
//! The image's shell may speak before it reads the program: Bash warns of a locale that is not there. So the word is
//! looked for behind up to [`limits::MARKER_BEFORE`] bytes, by the nonce that nobody else knows.

use std::borrow::Cow;

use crate::limits;

const WORD: &str = "cronium ready ";
/// Longest nonce that is looked for; ours have 32 digits.
const NONCE_MAX: usize = 64;

/// Looks for the word at the start of stderr; where no nonce is known, at the very start alone.
#[derive(Debug)]
pub struct Marker {
    /// Empty where the container does not tell it: one of an agent before 0.2.
    nonce: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// What has come; the word may be in it or follow it.
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

    /// Nothing seen yet. Where `nonce` is empty, any will do at the very start.
    pub fn new(nonce: &str) -> Self {
        Self { nonce: nonce.to_owned(), state: State::Waiting(Vec::new()) }
    }

    /// Whether the word is not where it should be.
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

    /// Takes the word out of `bytes`; gives what is left. Until the word has come or is missed, all is held back.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let State::Waiting(held) = &mut self.state else { return Cow::Borrowed(bytes) };
        let known = held.len();
        held.extend_from_slice(bytes);
        let held = std::mem::take(held);
        let (state, left) =
            if self.nonce.is_empty() { at_the_very_start(held) } else { find(&self.nonce, known, held) };
        self.state = state;
        Cow::Owned(left)
    }

    /// What is held back.
    pub fn held(&self) -> &[u8] {
        match &self.state {
            State::Waiting(held) => held,
            _ => &[],
        }
    }

    /// The word does not come any more; what was held back.
    pub fn give_up(&mut self) -> Vec<u8> {
        let State::Waiting(held) = &mut self.state else { return Vec::new() };
        let held = std::mem::take(held);
        self.state = State::Missed;
        held
    }
}

/// Looks for the word with this nonce in `held`, of which the first `known` bytes do not have all of it.
fn find(nonce: &str, known: usize, mut held: Vec<u8>) -> (State, Vec<u8>) {
    let word = format!("{}\n", Marker::line(nonce)).into_bytes();
    // What lies behind the room for the shell's words is the script's, however the bytes arrived.
    let room = limits::MARKER_BEFORE + word.len();
    let from = known.saturating_sub(word.len());
    if let Some(at) = held[from..held.len().min(room)].windows(word.len()).position(|part| part == word) {
        held.drain(from + at..from + at + word.len());
        return (State::Seen(nonce.to_owned()), held);
    }
    if held.len() >= room {
        return (State::Missed, held);
    }
    (State::Waiting(held), Vec::new())
}

/// Looks for the word with any nonce as the first line of `held`.
fn at_the_very_start(mut held: Vec<u8>) -> (State, Vec<u8>) {
    let end = held.iter().position(|&b| b == b'\n');
    let line = &held[..end.unwrap_or(held.len())];
    let common = line.len().min(WORD.len());
    let digits = line.get(WORD.len()..).unwrap_or_default();
    let may_be = line[..common] == WORD.as_bytes()[..common]
        && digits.len() <= NONCE_MAX
        && digits.iter().all(u8::is_ascii_hexdigit)
        && (end.is_none() || !digits.is_empty());
    let Some(end) = end.filter(|_| may_be) else {
        return if may_be { (State::Waiting(held), Vec::new()) } else { (State::Missed, held) };
    };
    let nonce = String::from_utf8_lossy(digits).into_owned();
    held.drain(..=end);
    (State::Seen(nonce), held)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` whole and at every split; looks at what came through, at the latest at the end, and whether the
    /// word was seen.
    fn check(nonce: &str, input: &[u8], through: &[u8], seen: bool) {
        for split in 0..=input.len() {
            let mut marker = Marker::new(nonce);
            let mut out = Vec::new();
            for part in [&input[..split], &input[split..]] {
                out.extend_from_slice(&marker.take(part));
            }
            assert_eq!(marker.nonce(), seen.then_some("00ff"));
            out.extend_from_slice(&marker.give_up());
            assert_eq!((out.as_slice(), marker.nonce().is_some()), (through, seen), "{nonce:?}, split at {split}");
        }
    }

    #[test]
    fn the_word_is_taken_out_and_nothing_else() {
        for nonce in ["00ff", ""] {
            check(nonce, b"cronium ready 00ff\n", b"", true);
            check(nonce, b"cronium ready 00ff\nerror\n", b"error\n", true);
            check(nonce, b"cronium ready 00ff\ncronium ready 00ff\n", b"cronium ready 00ff\n", true);
            check(nonce, b"cronium ready\n", b"cronium ready\n", false);
            check(nonce, b"cronium ready \n", b"cronium ready \n", false);
            check(nonce, b"cronium ready yes\n", b"cronium ready yes\n", false);
            check(nonce, b"", b"", false);
        }
        check("00ff", b"cronium ready 0000\nerror\n", b"cronium ready 0000\nerror\n", false);
        let long = format!("cronium ready {}", "0".repeat(NONCE_MAX + 1));
        check("", long.as_bytes(), long.as_bytes(), false);
    }

    #[test]
    fn what_the_shell_says_before_the_word_is_handed_on() {
        for before in
            ["sh: no such locale\n", "prompt $ ", "cronium ready 00f\n", "cronium ready 00ff cronium rea", "\u{fffd}"]
        {
            let input = format!("{before}cronium ready 00ff\nerror\n");
            check("00ff", input.as_bytes(), format!("{before}error\n").as_bytes(), true);
        }
        // Anybody could have written a word whose nonce is not known.
        let input = b"sh: no such locale\ncronium ready 00ff\n";
        check("", input, input, false);
    }

    #[cfg_attr(miri, ignore = "megabytes take Miri hours")]
    #[test]
    fn where_the_bytes_are_cut_does_not_decide_whether_the_word_is_seen() {
        let word = Marker::line("00ff") + "\n";
        for (before, seen) in [(limits::MARKER_BEFORE, true), (limits::MARKER_BEFORE + 1, false)] {
            let all = [&vec![b'x'; before], word.as_bytes()].concat();
            for piece in [1, 1000, all.len() - 1, all.len()] {
                let mut marker = Marker::new("00ff");
                all.chunks(piece).for_each(|part| drop(marker.take(part)));
                assert_eq!((marker.nonce().is_some(), marker.is_missed()), (seen, !seen), "{before} in {piece}");
            }
        }
    }

    #[cfg_attr(miri, ignore = "megabytes take Miri hours")]
    #[test]
    fn the_word_is_looked_for_so_far_and_no_further() {
        let word = Marker::line("00ff") + "\n";
        for (before, seen) in [(limits::MARKER_BEFORE, true), (limits::MARKER_BEFORE + word.len() + 1, false)] {
            let before = vec![b'x'; before];
            for piece in [1, 1000, before.len()] {
                let (mut marker, mut out) = (Marker::new("00ff"), Vec::new());
                for part in before.chunks(piece) {
                    out.extend_from_slice(&marker.take(part));
                }
                assert_eq!((marker.is_missed(), out == before), (!seen, !seen));
                out.extend_from_slice(&marker.take(word.as_bytes()));
                assert_eq!((marker.nonce().is_some(), out == before), (seen, seen));
            }
        }
    }

    #[test]
    fn what_was_held_back_comes_when_the_word_does_not() {
        for nonce in ["00ff", ""] {
            let mut marker = Marker::new(nonce);
            assert!(marker.take(b"cronium rea").is_empty() && !marker.is_missed());
            assert_eq!((marker.give_up().as_slice(), marker.is_missed()), (&b"cronium rea"[..], true));
            assert_eq!((&*marker.take(b"more"), marker.give_up().len()), (&b"more"[..], 0));
        }
    }
}

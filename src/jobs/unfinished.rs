//! When a line that its script has not ended is shown live, and what of it.
//!
//! A prompt, a row of dots or a progress bar may stay without a newline for hours. What there is of such a line is shown
//! once it has been new for a while, and again when there is more of it. A chatty stream never comes to that: each read
//! ends the line that the one before had begun. Looked at with every read and every tick of the worker, without a thread.

use std::time::Instant;

use crate::limits;
use crate::os::clock;
use crate::wire::lines::Splitter;

/// The unfinished line of one stream.
#[derive(Debug, Default)]
pub(in crate::jobs) struct Unfinished {
    /// When the first byte came that was not shown.
    since: Option<Instant>,
    /// As much of this line was shown as is held of it: nothing new can be.
    full: bool,
}

impl Unfinished {
    /// Bytes came. `ended`: a line ended in them.
    pub(in crate::jobs) fn fed(&mut self, splitter: &Splitter, ended: bool) {
        if ended {
            *self = Self::default();
        }
        if splitter.is_between_lines() {
            self.since = None;
        } else if self.since.is_none() && !(self.full && splitter.is_cut()) {
            self.since = Some(clock::now());
        }
    }

    /// What is to be shown, if it is time, as it is given to `show`. What that does not take is offered again later.
    pub(in crate::jobs) fn show(&mut self, splitter: &Splitter, show: impl FnOnce(Vec<u8>) -> bool) {
        if self.since.is_none_or(|since| clock::since(since) < limits::LOG_PARTIAL_AFTER) {
            return;
        }
        let shown = splitter.shown();
        if shown.is_empty() {
            self.since = None;
        } else if show(cut(shown)) {
            self.since = None;
            self.full = splitter.is_cut();
        } else {
            self.since = Some(clock::now());
        }
    }
}

/// The end of what is shown: that is where it changes.
fn cut(shown: &[u8]) -> Vec<u8> {
    let mut from = shown.len().saturating_sub(limits::LOG_PARTIAL_BYTES);
    if from == 0 {
        return shown.to_vec();
    }
    // Not inside a character, of which at most three bytes may be left.
    from += shown[from..].iter().take(3).take_while(|&&byte| matches!(byte, 0x80..=0xBF)).count();
    let mut text = format!("[…{from} bytes] ").into_bytes();
    text.extend_from_slice(&shown[from..]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_unfinished_line_the_end_is_shown() {
        assert_eq!(cut(b"50 %"), b"50 %");
        let exact = "x".repeat(limits::LOG_PARTIAL_BYTES);
        assert_eq!(cut(exact.as_bytes()), exact.as_bytes());
        let text = cut(format!("abc{exact}").as_bytes());
        assert_eq!(text, format!("[…3 bytes] {exact}").as_bytes());
        for extra in 1..=4 {
            let text = format!("{}{}", "€".repeat(limits::LOG_PARTIAL_BYTES), "y".repeat(extra));
            let shown = String::from_utf8(cut(text.as_bytes())).expect("whole characters");
            assert!(shown.len() <= limits::LOG_PARTIAL_BYTES + 20 && shown.ends_with(&"y".repeat(extra)), "{extra}");
        }
    }
}

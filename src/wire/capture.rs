//! What a job's result keeps of one stream: its head and its tail.
//!
//! A script may print without end, and its first and last lines matter most. So the first half of the room is for the start,
//! the rest is a ring with the latest bytes, and a line between the two counts exactly what was left out. Memory is
//! allocated as bytes arrive: most jobs print little.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::lines;

/// Collects one stream.
#[derive(Debug, Clone)]
pub struct Capture {
    head: Vec<u8>,
    head_max: usize,
    tail: VecDeque<u8>,
    tail_max: usize,
    total: u64,
    /// Newlines among the bytes that left the tail.
    lines_gone: u64,
    /// The byte that left the tail last: it shows whether the tail starts with a line.
    before_tail: Option<u8>,
}

impl Capture {
    /// Keeps `max` bytes, of which none are reserved now.
    pub fn new(max: usize) -> Self {
        Self {
            head: Vec::new(),
            head_max: max / 2,
            tail: VecDeque::new(),
            tail_max: max - max / 2,
            total: 0,
            lines_gone: 0,
            before_tail: None,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (first, rest) = bytes.split_at(bytes.len().min(self.head_max - self.head.len()));
        let additional = growth(self.head.len(), first.len(), self.head.capacity(), self.head_max);
        self.head.reserve_exact(additional);
        self.head.extend_from_slice(first);
        let (gone, latest) = rest.split_at(rest.len().saturating_sub(self.tail_max));
        self.make_room(latest.len());
        self.forget(gone);
        let additional = growth(self.tail.len(), latest.len(), self.tail.capacity(), self.tail_max);
        self.tail.reserve_exact(additional);
        self.tail.extend(latest);
    }

    /// Bytes that were pushed.
    #[cfg(any(test, fuzzing))]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether more was pushed than is kept.
    pub fn is_cut(&self) -> bool {
        self.before_tail.is_some()
    }

    /// Lets the oldest bytes of the tail go until `coming` more fit.
    fn make_room(&mut self, coming: usize) {
        let excess = (self.tail.len() + coming).saturating_sub(self.tail_max);
        if excess == 0 {
            return;
        }
        let (a, b) = self.tail.as_slices();
        let (from_a, from_b) = (&a[..excess.min(a.len())], &b[..excess.saturating_sub(a.len())]);
        self.lines_gone += lines::newlines(from_a) + lines::newlines(from_b);
        self.before_tail = from_b.last().or(from_a.last()).copied();
        self.tail.drain(..excess);
    }

    fn forget(&mut self, gone: &[u8]) {
        self.lines_gone += lines::newlines(gone);
        self.before_tail = gone.last().copied().or(self.before_tail);
    }

    /// The text. Bytes that are no UTF-8 and NUL become U+FFFD, which takes three bytes, so binary output can grow to three
    /// times the room.
    ///
    /// If something was left out, head and tail are cut at line ends where that costs at most half of them; else at a `\r`, so
    /// that no state of a progress bar is torn; else between characters. A line between them counts the missing bytes and line
    /// ends.
    pub fn into_text(mut self) -> String {
        let (mut missing, mut lines_missing) = (0, 0);
        let mut from = 0;
        if self.is_cut() {
            missing = self.total - (self.head.len() + self.tail.len()) as u64;
            lines_missing = self.lines_gone;
            let head_end = end_of_head(&self.head);
            let tail = &*self.tail.make_contiguous();
            from = start_of_tail(tail, self.before_tail);
            // Bytes cut off here count too.
            missing += (self.head.len() - head_end + from) as u64;
            lines_missing += lines::newlines(&self.head[head_end..]) + lines::newlines(&tail[..from]);
            self.head.truncate(head_end);
        }
        let marker = if missing > 0 { marker(&self.head, missing, lines_missing) } else { String::new() };
        let (a, b) = self.tail.as_slices();
        let (a, b) = (&a[from.min(a.len())..], &b[from.saturating_sub(a.len())..]);
        self.head.reserve_exact(marker.len() + a.len() + b.len());
        for part in [marker.as_bytes(), a, b] {
            self.head.extend_from_slice(part);
        }
        drop(self.tail);
        let text =
            String::from_utf8(self.head).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
    }
}

/// How much to reserve for `coming` more bytes: at least twice the old room, as `Vec` does it, but not beyond `max`.
fn growth(length: usize, coming: usize, capacity: usize, max: usize) -> usize {
    let needed = length + coming;
    if needed <= capacity { 0 } else { needed.max(capacity * 2).min(max) - length }
}

fn end_of_head(head: &[u8]) -> usize {
    match head.iter().rposition(|&byte| byte == b'\n') {
        Some(at) if at + 1 >= head.len() / 2 => return at + 1,
        _ => {}
    }
    match head.iter().rposition(|&byte| byte == b'\r') {
        Some(at) if at >= head.len() / 2 => at,
        _ => lines::whole_characters(head),
    }
}

fn start_of_tail(tail: &[u8], before: Option<u8>) -> usize {
    if before == Some(b'\n') {
        return 0;
    }
    match lines::newline(tail) {
        Some(at) if at < tail.len() / 2 => return at + 1,
        _ if before == Some(b'\r') => return 0,
        _ => {}
    }
    match tail.iter().position(|&byte| byte == b'\r') {
        Some(at) if at < tail.len() / 2 => at + 1,
        // The rest of a character whose start is gone: at most three bytes.
        _ => tail.iter().take(3).take_while(|&&byte| matches!(byte, 0x80..=0xBF)).count(),
    }
}

fn marker(head: &[u8], bytes: u64, lines: u64) -> String {
    let mut text = String::new();
    if head.last().is_some_and(|&byte| byte != b'\n') {
        text.push('\n');
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "[... {bytes} bytes, {lines} lines left out ...]");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::random::rounds;

    fn capture(max: usize, pieces: &[&[u8]]) -> String {
        let mut capture = Capture::new(max);
        for piece in pieces {
            capture.push(piece);
            assert!(capture.head.capacity() <= max / 2 && capture.tail.capacity() <= max - max / 2, "beyond the cap");
        }
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        assert_eq!((capture.total(), capture.is_cut()), (total as u64, total > max));
        capture.into_text()
    }

    /// Whole, byte by byte, and at every split.
    fn check(max: usize, input: &[u8], expected: &str) {
        for at in 0..=input.len() {
            let text = capture(max, &[&input[..at], &input[at..]]);
            assert_eq!(text, expected, "split at {at} of {:?}, max {max}", input.escape_ascii());
        }
        assert_eq!(capture(max, &input.chunks(1).collect::<Vec<_>>()), expected, "byte by byte");
    }

    #[test]
    fn what_fits_is_exact() {
        for text in ["", "x", "one\ntwo\r\n", "äöü€😀", "\n\n\n"] {
            check(text.len(), text.as_bytes(), text);
            check(text.len() + 1, text.as_bytes(), text);
            check(1000, text.as_bytes(), text);
        }
        check(100, b"a\0b\xffc\xe2\x82", "a\u{fffd}b\u{fffd}c\u{fffd}");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        for (max, input, expected) in [
            (0, "a\nb", "[... 3 bytes, 1 lines left out ...]\n"),
            (1, "abc", "[... 2 bytes, 0 lines left out ...]\nc"),
            // Between lines on both sides.
            (8, "aa\nbb\ncc\ndd\n", "aa\n[... 6 bytes, 2 lines left out ...]\ndd\n"),
            (12, "aa\nbb\ncc\ndd\nee\n", "aa\nbb\n[... 3 bytes, 1 lines left out ...]\ndd\nee\n"),
            // One long line: between characters.
            (8, "0123456789", "0123\n[... 2 bytes, 0 lines left out ...]\n6789"),
            (8, "012ä456ä89", "012\n[... 5 bytes, 0 lines left out ...]\nä89"),
            (8, "01€3456789😀", "01\n[... 10 bytes, 0 lines left out ...]\n😀"),
            (10, "01😀3456789€89", "01\n[... 11 bytes, 0 lines left out ...]\n€89"),
            (8, "😀56789😀9", "😀\n[... 9 bytes, 0 lines left out ...]\n9"),
            // Between two states of a bar.
            (20, "\r 10%\r 20%\r 30%\r 40%\r 50%\r 60%", "\r 10%\n[... 16 bytes, 0 lines left out ...]\n 50%\r 60%"),
            (12, " 10%\r 20%\r 30%\r", " 10%\n[... 6 bytes, 0 lines left out ...]\n 30%\r"),
            // A line's end would cost more than half of a side.
            (16, "a\n34567890123456789\n", "a\n345678\n[... 4 bytes, 0 lines left out ...]\n3456789\n"),
        ] {
            check(max, input.as_bytes(), expected);
        }
        check(4, b"a\0\x80\x80\x80\x80\x80\0b", "a\u{fffd}\n[... 5 bytes, 0 lines left out ...]\n\u{fffd}b");
    }

    #[test]
    fn random_input_matches_a_naive_model() {
        let mut seed = 0xD1B5_4A32_D192_ED03_u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed >> 33).expect("31 bits") % below
        };
        for round in 0..rounds(3000) {
            let alphabet: [&[u8]; 9] =
                [b"\n", b"\r\n", b"x", "ä".as_bytes(), "😀".as_bytes(), b"\r", b"\0", b"\xff", b"a longer line\n"];
            let known = if round % 2 == 0 { 6 } else { 9 };
            let input: Vec<u8> = (0..random(40)).flat_map(|_| alphabet[random(known)]).copied().collect();
            let max = random(input.len() + 5);
            let (mut pieces, mut rest) = (Vec::new(), &input[..]);
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(1 + random(rest.len().min(9)));
                pieces.push(piece);
                rest = after;
            }
            assert_eq!(capture(max, &pieces), model(max, &input), "round {round}, max {max}");
        }
    }

    /// With all of the input at hand.
    fn model(max: usize, input: &[u8]) -> String {
        let clean = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
        if input.len() <= max {
            return clean(input);
        }
        let (room, tail_at) = (max / 2, input.len() - (max - max / 2));
        let line_starts = || (1..=input.len()).filter(|&at| input[at - 1] == b'\n');
        let returns = || (1..=input.len()).filter(|&at| input[at - 1] == b'\r');
        let is_boundary = |at: usize| at == input.len() || !(0x80..0xC0).contains(&input[at]);
        let unfinished = |at: usize| {
            std::str::from_utf8(&input[at..room]).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
        };
        let head_end = line_starts()
            .rfind(|&at| at <= room && at >= room / 2)
            .or_else(|| (room / 2..room).rfind(|&at| input[at] == b'\r'))
            .or_else(|| (room.saturating_sub(3)..room).find(|&at| input[at] >= 0xC0 && unfinished(at)))
            .unwrap_or(room);
        let tail_from = line_starts()
            .find(|&at| at >= tail_at && (at == tail_at || at - tail_at <= (input.len() - tail_at) / 2))
            .or_else(|| returns().find(|&at| at >= tail_at && at - tail_at <= (input.len() - tail_at) / 2))
            .or_else(|| (tail_at..input.len().min(tail_at + 3)).find(|&at| is_boundary(at)))
            .unwrap_or(input.len().min(tail_at + 3));
        let left_out = &input[head_end..tail_from];
        let newlines = left_out.iter().filter(|&&byte| byte == b'\n').count();
        let head = clean(&input[..head_end]);
        let between = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
        let tail = clean(&input[tail_from..]);
        format!("{head}{between}[... {} bytes, {newlines} lines left out ...]\n{tail}", left_out.len())
    }

    #[test]
    fn little_output_takes_little_room() {
        let mut capture = Capture::new(4 << 20);
        capture.push(b"0123456789");
        assert!(capture.head.capacity() + capture.tail.capacity() < 100);
    }
}

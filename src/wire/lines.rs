//! A stream of bytes to lines, in pieces of any size.
//!
//! Every byte that a job prints passes here. A line that lies inside the input is handed on as a slice of it; only the
//! unfinished end of a piece is copied, and never more than the longest line that is kept. The search goes eight bytes at
//! a time, since the standard library's is private.

/// A line without its end (`\n` or `\r\n`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It was too long.
    Cut {
        /// The start, not cut inside a UTF-8 character.
        kept: &'a [u8],
        /// How many bytes of the line followed.
        dropped: u64,
    },
    /// It was too long, and `\r` restarted it repeatedly, as in a progress bar.
    Last {
        /// What a terminal shows at the end: the last text between two `\r`, not cut inside a UTF-8 character.
        kept: &'a [u8],
        /// How many other bytes the line had.
        dropped: u64,
    },
}

/// Splits at `\n`, strips one `\r` before it. A `\r` elsewhere stays, unless the line is too long: then only the text after
/// the last `\r` matters. An empty line is a line.
#[derive(Debug)]
pub struct Splitter {
    max_line: usize,
    /// At most `max_line` bytes of the unfinished line: its start, or that of the text after a `\r`.
    held: Vec<u8>,
    /// Bytes of the unfinished line before those.
    before: u64,
    /// Bytes of the unfinished line after those, which did not fit.
    dropped: u64,
    /// The last byte that did not fit is `\r`.
    returned: bool,
    /// The unfinished line ends in a `\r` that is not in `held`: it may turn out to belong to the line's end.
    carriage_return: bool,
}

impl Splitter {
    /// A splitter that keeps `max_line` bytes of a line.
    pub fn new(max_line: usize) -> Self {
        Self { max_line, held: Vec::new(), before: 0, dropped: 0, returned: false, carriage_return: false }
    }

    /// Hands the lines that end in `bytes` to `sink` and keeps the start of the last.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(Line<'_>)) {
        while let Some(end) = newline(bytes) {
            let line = &bytes[..end];
            bytes = &bytes[end + 1..];
            if self.is_between_lines() {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                sink(if line.len() <= self.max_line { Line::Whole(line) } else { cut(line, self.max_line, 0, 0) });
            } else {
                self.hold(line);
                // It belonged to the line's end.
                self.carriage_return = false;
                self.emit(sink);
            }
        }
        self.hold(bytes);
    }

    /// To be called at the end of the stream: hands on a last line that has no `\n`. The splitter can then start anew.
    pub fn finish(&mut self, sink: &mut dyn FnMut(Line<'_>)) {
        if !self.is_between_lines() {
            self.release_carriage_return();
            self.emit(sink);
        }
    }

    /// Whether the unfinished line is longer than what is kept of one.
    pub fn is_too_long(&self) -> bool {
        self.before > 0 || self.dropped > 0
    }

    /// Whether [`Splitter::shown`] lacks the end of what a terminal shows.
    pub fn is_cut(&self) -> bool {
        self.dropped > 0
    }

    /// Whether no line is unfinished.
    pub fn is_between_lines(&self) -> bool {
        self.held.is_empty() && self.before == 0 && self.dropped == 0 && !self.carriage_return
    }

    /// What a terminal shows of the unfinished line: its text after the last `\r`, as far as that is held.
    pub fn shown(&self) -> &[u8] {
        let (_, shown) = last_text(&self.held);
        &shown[..whole_characters(shown)]
    }

    /// Adds a piece, without `\n`, to the unfinished line.
    fn hold(&mut self, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        self.release_carriage_return();
        let ended = piece.strip_suffix(b"\r");
        self.append(ended.unwrap_or(piece));
        self.carriage_return = ended.is_some();
    }

    fn release_carriage_return(&mut self) {
        if std::mem::take(&mut self.carriage_return) {
            self.append(b"\r");
        }
    }

    fn append(&mut self, mut piece: &[u8]) {
        if self.held.len() + piece.len() > self.max_line {
            piece = self.write_over(piece);
        }
        let fits = piece.len().min(self.max_line - self.held.len());
        let needed = self.held.len() + fits;
        if needed > self.held.capacity() {
            // `Vec` would double its capacity beyond the cap.
            let capacity = needed.max(self.held.capacity() * 2).min(self.max_line);
            self.held.reserve_exact(capacity - self.held.len());
        }
        self.held.extend_from_slice(&piece[..fits]);
        self.dropped += (piece.len() - fits) as u64;
    }

    /// Gives up what a terminal no longer shows, so that the rest of `piece`, which is returned, may fit.
    fn write_over<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let returned = if self.dropped > 0 { self.returned } else { self.held.last() == Some(&b'\r') };
        self.returned = piece.last() == Some(&b'\r');
        let (at, shown) = last_text(piece);
        if !shown.is_empty() && (at > 0 || returned) {
            self.before += self.held.len() as u64 + self.dropped + at as u64;
            self.held.clear();
            self.dropped = 0;
            return &piece[at..];
        }
        // Once something did not fit, what is held is one text already.
        if self.dropped == 0 {
            let (at, _) = last_text(&self.held);
            self.held.drain(..at);
            self.before += at as u64;
        }
        piece
    }

    fn emit(&mut self, sink: &mut dyn FnMut(Line<'_>)) {
        let all = self.before == 0 && self.dropped == 0;
        sink(if all { Line::Whole(&self.held) } else { cut(&self.held, self.max_line, self.before, self.dropped) });
        self.held.clear();
        (self.before, self.dropped) = (0, 0);
    }
}

/// A line that is too long: `held`, with `before` more bytes before it and `after` more behind it.
fn cut(held: &[u8], max_line: usize, before: u64, after: u64) -> Line<'_> {
    let (at, shown) = last_text(held);
    // A line of nothing but `\r` shows nothing: its start is as good as its end.
    let text = if shown.is_empty() { held } else { shown };
    let mut kept = &text[..text.len().min(max_line)];
    // Whether a `\r` behind the text is held or did not fit depends on the pieces, and must not matter.
    if at + kept.len() < held.len() || after > 0 {
        kept = &kept[..whole_characters(kept)];
    }
    let dropped = before + held.len() as u64 + after - kept.len() as u64;
    if before + at as u64 > 0 { Line::Last { kept, dropped } } else { Line::Cut { kept, dropped } }
}

/// The last text between two `\r` that is not empty, and where it starts.
fn last_text(bytes: &[u8]) -> (usize, &[u8]) {
    let end = bytes.iter().rposition(|&byte| byte != b'\r').map_or(0, |last| last + 1);
    let start = bytes[..end].iter().rposition(|&byte| byte == b'\r').map_or(0, |at| at + 1);
    (start, &bytes[start..end])
}

/// The length of `bytes` without the start of a UTF-8 character at its end, if there is one.
pub(super) fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let start = bytes.len() - back;
        match bytes[start] {
            0x80..=0xBF => {}
            0xC0.. => {
                let unfinished = std::str::from_utf8(&bytes[start..]).is_err_and(|e| e.error_len().is_none());
                return if unfinished { start } else { bytes.len() };
            }
            _ => break,
        }
    }
    bytes.len()
}

const WORD: usize = size_of::<u64>();
const LOW_BITS: u64 = u64::MAX / 255 * 0x7F;

/// The top bit of each byte of `word` that is `\n`, and no other bit.
fn newline_bits(word: [u8; WORD]) -> u64 {
    let zero_where_newline = u64::from_le_bytes(word) ^ (u64::MAX / 255 * b'\n' as u64);
    // Adding 0x7F sets a byte's top bit unless its low bits are all zero, and never carries into the next byte.
    !(((zero_where_newline & LOW_BITS) + LOW_BITS) | zero_where_newline | LOW_BITS)
}

/// Where the first `\n` is.
pub(super) fn newline(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<WORD>();
    for (index, word) in words.iter().enumerate() {
        let bits = newline_bits(*word);
        if bits != 0 {
            return Some(index * WORD + (bits.trailing_zeros() / 8) as usize);
        }
    }
    rest.iter().position(|&byte| byte == b'\n').map(|at| words.len() * WORD + at)
}

/// How many `\n` there are.
pub(super) fn newlines(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<WORD>();
    let in_words: u64 = words.iter().map(|word| u64::from(newline_bits(*word).count_ones())).sum();
    in_words + rest.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::random::rounds;

    /// What is kept of a line, and how much is not.
    type Lines = Vec<(Vec<u8>, u64)>;

    fn split(max_line: usize, pieces: &[&[u8]]) -> Lines {
        let (mut splitter, mut lines) = (Splitter::new(max_line), Lines::new());
        let mut sink = |line: Line<'_>| match line {
            Line::Whole(line) => lines.push((line.to_vec(), 0)),
            Line::Cut { kept, dropped } | Line::Last { kept, dropped } => {
                assert!(dropped > 0, "a cut that dropped nothing");
                lines.push((kept.to_vec(), dropped));
            }
        };
        for piece in pieces {
            splitter.feed(piece, &mut sink);
            assert!(splitter.held.capacity() <= max_line, "more is held than the cap");
        }
        splitter.finish(&mut sink);
        splitter.finish(&mut |_| panic!("a second end"));
        lines
    }

    /// Whole, byte by byte, and at every split.
    fn check(max_line: usize, input: &[u8], expected: &Lines) {
        for at in 0..=input.len() {
            let lines = split(max_line, &[&input[..at], b"", &input[at..]]);
            assert_eq!(&lines, expected, "split at {at} of {:?}, max {max_line}", input.escape_ascii());
        }
        assert_eq!(&split(max_line, &input.chunks(1).collect::<Vec<_>>()), expected, "byte by byte");
    }

    #[test]
    fn lines_and_ends() {
        for (input, expected) in [
            ("", &[][..]),
            ("\n", &[""]),
            ("\r\n\n\r\n", &["", "", ""]),
            ("one\ntwo\r\nthree", &["one", "two", "three"]),
            ("a\r\r\nb\rc\n", &["a\r", "b\rc"]),
            ("end\r", &["end\r"]),
            ("\r", &["\r"]),
            ("\r\r", &["\r\r"]),
            ("123456789 123456789 \n\nx\n", &["123456789 123456789 ", "", "x"]),
        ] {
            check(64, input.as_bytes(), &expected.iter().map(|line| (line.as_bytes().to_vec(), 0)).collect());
        }
    }

    #[test]
    fn long_lines() {
        for (max_line, input, expected) in [
            (4, &b"1234\r\n12345\n1234"[..], &[("1234", 0), ("1234", 1), ("1234", 0)][..]),
            (4, b"1234\r", &[("1234", 1)]),
            (4, b"123\r56\n", &[("56", 4)]),
            (4, b"1234567890\r\nab\n", &[("1234", 6), ("ab", 0)]),
            (0, b"\r\n\nabc\r\nx", &[("", 0), ("", 0), ("", 3), ("", 1)]),
            // "ä" has two bytes, "€" three, "😀" four.
            (4, "123ä\n12ä\n".as_bytes(), &[("123", 2), ("12ä", 0)]),
            (4, "1€€\n12€\n€€\n".as_bytes(), &[("1€", 3), ("12", 3), ("€", 3)]),
            (4, "😀1\n1😀\n".as_bytes(), &[("😀", 1), ("1", 4)]),
        ] {
            check(
                max_line,
                input,
                &expected.iter().map(|(kept, dropped)| (kept.as_bytes().to_vec(), *dropped)).collect(),
            );
        }
        // What looks like the start of a character at the end of what is kept is left out, whatever follows it.
        check(4, b"123\xda\r\r\n123\xda5\n", &vec![(b"123".to_vec(), 2), (b"123".to_vec(), 2)]);
        check(4, b"\x80\x80\x80\x80\x80\n\xff\xff\xff\xff\xff", &vec![(vec![0x80; 4], 1), (vec![0xff; 4], 1)]);
    }

    #[test]
    fn of_a_long_line_that_is_written_over_the_last_state_is_kept() {
        for (input, expected) in [
            // Both ways to draw a bar: the `\r` first, or last.
            ("\r 10%\r 20%\r 30%", (" 30%", 11)),
            (" 10%\r 20%\r 30%\r", (" 30%", 11)),
            (" 10%\r 20%\r 30%\r\r\r\n", (" 30%", 12)),
            ("\r 10%\r 20%\r\n", (" 20%", 6)),
            // What fits is as it was.
            ("\r1%\r2%\n", ("\r1%\r2%", 0)),
            // The last state may be too long itself, and the one before it.
            ("\r1%\rdone, at last", ("done, at", 9)),
            ("a state that is too long\r99%\n", ("99%", 25)),
            ("\r1%\r\r\r\r\r\r\r\r", ("1%", 9)),
            ("\r\r\r\r\r\r\r\r\r\r", ("\r\r\r\r\r\r\r\r", 2)),
            ("12345678\r", ("12345678", 1)),
        ] {
            check(8, input.as_bytes(), &vec![(expected.0.as_bytes().to_vec(), expected.1)]);
        }
        let kinds = |input: &[u8]| {
            let (mut splitter, mut last) = (Splitter::new(8), Vec::new());
            let mut sink = |line: Line<'_>| last.push(matches!(line, Line::Last { .. }));
            splitter.feed(input, &mut sink);
            splitter.finish(&mut sink);
            last
        };
        assert_eq!(kinds(b"123456789\r\r\n\r1%\r2%\r3%\n12345678\r\n"), [false, true, false]);
    }

    #[cfg_attr(miri, ignore = "megabytes take Miri hours")]
    #[test]
    fn a_bar_that_is_drawn_for_hours_takes_no_more_room_than_a_line() {
        let mut splitter = Splitter::new(64);
        for n in 0..100_000 {
            splitter.feed(format!("\r{n:>10} of 100000").as_bytes(), &mut |_| panic!("no line has ended"));
            assert!(splitter.held.capacity() <= 64);
            assert_eq!(splitter.shown(), format!("{n:>10} of 100000").as_bytes());
        }
        let mut ended = 0;
        splitter.feed(b"\n", &mut |line| {
            ended += 1;
            assert_eq!(line, Line::Last { kept: b"     99999 of 100000", dropped: 2_100_000 - 20 });
        });
        assert!(ended == 1 && splitter.is_between_lines());
    }

    #[test]
    fn what_is_shown_of_an_unfinished_line_is_what_a_terminal_shows() {
        for (input, shown) in [
            ("", ""),
            ("one\n", ""),
            ("one\ntwo", "two"),
            ("...\r", "..."),
            ("10%\r20%\r\r", "20%"),
            ("\r", ""),
            ("a text that does not fit", "a text t"),
            ("12345678\rab", "ab"),
        ] {
            for at in 0..=input.len() {
                let mut splitter = Splitter::new(8);
                for part in [&input[..at], &input[at..]] {
                    splitter.feed(part.as_bytes(), &mut |_| {});
                }
                assert_eq!(splitter.shown(), shown.as_bytes(), "{input:?}, split at {at}");
            }
        }
        let mut splitter = Splitter::new(8);
        splitter.feed("10 €".as_bytes().strip_suffix(b"\xac").expect("a piece"), &mut |_| {});
        assert_eq!(splitter.shown(), b"10 ", "no half character");
    }

    #[test]
    fn random_input_matches_a_naive_model() {
        let mut seed = 0x2545_F491_4F6C_DD1D_u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed >> 33).expect("31 bits") % below
        };
        for round in 0..rounds(2000) {
            let alphabet = ["\n", "\r\n", "\r", "x", "yz", "ä", "€", "😀", "long enough for a word"];
            let input: Vec<u8> = (0..random(40)).flat_map(|_| alphabet[random(9)].bytes()).collect();
            let max_line = random(20);
            let (mut pieces, mut rest) = (Vec::new(), &input[..]);
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(1 + random(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            assert_eq!(split(max_line, &pieces), model(max_line, &input), "round {round}");
            assert_eq!(newlines(&input), input.iter().filter(|&&byte| byte == b'\n').count() as u64);
        }
    }

    /// The input is valid UTF-8, so that a cut falls on a character boundary of the whole line.
    fn model(max_line: usize, input: &[u8]) -> Lines {
        let text = std::str::from_utf8(input).expect("valid UTF-8");
        let mut parts: Vec<&str> = text.split('\n').collect();
        let last = parts.pop().unwrap_or_default();
        let mut lines: Vec<&str> = parts.into_iter().map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
        lines.extend((!last.is_empty()).then_some(last));
        let keep = |line: &str| {
            let last = || line.split('\r').rfind(|text| !text.is_empty()).unwrap_or(line);
            let text = if line.len() > max_line { last() } else { line };
            let kept = (0..=max_line.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            (text.as_bytes()[..kept].to_vec(), (line.len() - kept) as u64)
        };
        lines.into_iter().map(keep).collect()
    }

    #[test]
    fn every_byte_value_at_every_place_of_a_word() {
        for byte in 0..=255_u8 {
            for at in 0..24 {
                let mut bytes = [b'\n' ^ 0x80; 24];
                bytes[at] = byte;
                assert_eq!(newline(&bytes), (byte == b'\n').then_some(at), "{byte} at {at}");
                assert_eq!(newlines(&bytes), u64::from(byte == b'\n'), "{byte} at {at}");
            }
        }
    }
}

//! The one reader of a container's output: bytes of the engine come in, and each byte of the script goes out once.
//!
//! The engine gives the output as frames, in two ways: live, on the stream of an attached container, and as its own copy,
//! which starts with the first byte again. The reader takes the words of the agent's program out of stderr, and counts what
//! it hands on. After [`Reader::rewind`] to the copy it passes over as much.
//!
//! The copy is capped and turns over. Where its beginning is gone, so is the start marker, which comes first of all. Then
//! nobody knows where in the output the copy begins: all of it is handed on, and the output learns of the gap.

use std::borrow::Cow;

use crate::executors::complaint::{Stderr, complaint};
use crate::executors::container::marker::Marker;
use crate::job::{Output, Stream};
use crate::limits;
use crate::wire::frames::{self, FrameError};

/// See the module's text.
pub(super) struct Reader {
    /// The program's random word; empty where it is not known.
    nonce: String,
    frames: frames::Decoder,
    marker: Marker,
    stderr: Stderr,
    is_copy: bool,
    /// The beginning of the copy is gone.
    is_cut: bool,
    has_started: bool,
    /// Bytes of stdout and stderr, without the marker: those of this source,
    read: [u64; 2],
    /// and those that were handed on.
    handed_on: [u64; 2],
}

impl Reader {
    /// Reads the live stream. Without a `nonce`, the start marker is looked for at the very start alone.
    pub(super) fn new(nonce: &str) -> Self {
        Self {
            nonce: nonce.to_owned(),
            frames: frames::Decoder::new(),
            marker: Marker::new(nonce),
            stderr: Stderr::default(),
            is_copy: false,
            is_cut: false,
            has_started: false,
            read: [0; 2],
            handed_on: [0; 2],
        }
    }

    /// From here on, the engine's copy comes, from its first byte.
    pub(super) fn rewind(&mut self) {
        (self.frames, self.marker) = (frames::Decoder::new(), Marker::new(&self.nonce));
        (self.is_copy, self.is_cut, self.read) = (true, false, [0; 2]);
    }

    /// Whether the engine's copy is read.
    pub(super) fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// Whether so little came of the copy that it cannot have turned over.
    pub(super) fn is_whole_copy(&self) -> bool {
        self.is_copy && !self.is_cut && self.read.iter().sum::<u64>() < limits::COPY_TURNED_OVER
    }

    /// Takes bytes of the source and hands on the script's.
    pub(super) fn feed(&mut self, bytes: &[u8], output: &mut dyn Output) -> Result<(), FrameError> {
        let mut frames = std::mem::take(&mut self.frames);
        let fed = frames.feed(bytes, &mut |stream, bytes| self.take(stream, bytes, output));
        self.frames = frames;
        fed
    }

    fn take(&mut self, stream: Stream, bytes: &[u8], output: &mut dyn Output) {
        let (bytes, stdout) = match stream {
            Stream::Stderr => (self.marker.take(bytes), self.read[0]),
            _ => (Cow::Borrowed(bytes), self.read[0] + bytes.len() as u64),
        };
        if let Some(nonce) = self.marker.nonce() {
            self.has_started = true;
            if self.nonce.is_empty() {
                self.nonce = nonce.to_owned();
            }
        } else if self.is_copy && !self.is_cut {
            // The marker comes before stdout or nearly so: the engine copies both side by side.
            if self.marker.is_missed() || stdout > limits::DOCKER_READ as u64 {
                self.cut(output);
            }
        }
        self.hand_on(stream, &bytes, output);
        // A copy turns over when a lot was printed, which only a script does; a few words of a shell that never had the
        // whole program are no start.
        self.has_started |= self.is_cut && self.read.iter().sum::<u64>() >= limits::COPY_TURNED_OVER;
    }

    /// The copy has no beginning: what comes counts as new, from its own first byte.
    fn cut(&mut self, output: &mut dyn Output) {
        self.is_cut = true;
        self.handed_on = [self.read[0], 0];
        output.lost_beginning();
        let held = self.marker.give_up();
        self.hand_on(Stream::Stderr, &held, output);
    }

    fn hand_on(&mut self, stream: Stream, bytes: &[u8], output: &mut dyn Output) {
        let of = usize::from(stream == Stream::Stderr);
        let over = self.handed_on[of].saturating_sub(self.read[of]);
        self.read[of] += bytes.len() as u64;
        self.handed_on[of] = self.handed_on[of].max(self.read[of]);
        let bytes = &bytes[usize::try_from(over).unwrap_or(usize::MAX).min(bytes.len())..];
        match stream {
            Stream::Stderr => self.stderr.take(bytes, &self.nonce, &mut |bytes| output.bytes(stream, bytes)),
            _ => output.bytes(stream, bytes),
        }
    }

    /// The source has ended: an error where that is inside a frame.
    pub(super) fn end_of_source(&self) -> Result<(), FrameError> {
        self.frames.finish()
    }

    /// No source has more: hands on what was held back.
    pub(super) fn finish(&mut self, output: &mut dyn Output) {
        let held = self.marker.give_up();
        let sink: &mut dyn FnMut(&[u8]) = &mut |bytes| output.bytes(Stream::Stderr, bytes);
        self.stderr.take(&held, &self.nonce, sink);
        self.stderr.finish(sink);
        output.settle();
    }

    /// Whether the script has begun.
    pub(super) fn has_started(&self) -> bool {
        self.has_started
    }

    /// Why the program could not start the script, in its own words.
    pub(super) fn complaint(&self) -> Option<String> {
        complaint(&self.nonce, &[self.stderr.tail(), self.marker.held()].concat())
    }

    /// The end of stderr.
    pub(super) fn stderr_tail(&self) -> &[u8] {
        self.stderr.tail()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept {
        bytes: Vec<u8>,
        of_each: [Vec<u8>; 2],
        lost: bool,
    }

    impl Output for Kept {
        fn bytes(&mut self, stream: Stream, data: &[u8]) {
            self.bytes.extend_from_slice(data);
            self.of_each[usize::from(stream == Stream::Stderr)].extend_from_slice(data);
        }
        fn system(&mut self, _text: &str) {}
        fn lost_beginning(&mut self) {
            self.lost = true;
        }
        fn settle(&mut self) {}
    }

    /// At the first byte of a copy, of which so much was handed on before.
    fn copy(nonce: &str, handed_on: [u64; 2]) -> (Reader, Kept) {
        let mut reader = Reader { handed_on, ..Reader::new(nonce) };
        reader.rewind();
        (reader, Kept::default())
    }

    #[test]
    fn the_first_word_is_taken_out_at_every_split_and_missed_where_it_is_not() {
        for (input, through, nonce, lost) in [
            (&b"cronium ready 00ff\nabc"[..], &b"abc"[..], Some("00ff"), false),
            (b"cronium ready 00ff\n", b"", Some("00ff"), false),
            (b"abc\n", b"abc\n", None, true),
            (b"cronium rea\n", b"cronium rea\n", None, true),
            (b"cronium ready", b"", None, false),
        ] {
            for split in 0..=input.len() {
                let (mut reader, mut kept) = copy("", [0; 2]);
                for part in [&input[..split], &input[split..]] {
                    reader.take(Stream::Stderr, part, &mut kept);
                }
                assert_eq!((kept.bytes.as_slice(), kept.lost), (through, lost), "split at {split}");
                assert_eq!(
                    (reader.marker.nonce(), &*reader.nonce),
                    (nonce, nonce.unwrap_or_default()),
                    "split at {split}"
                );
                assert_eq!(reader.has_started(), nonce.is_some(), "a few words are no start");
            }
        }
    }

    #[test]
    fn what_the_shell_said_before_the_first_word_is_passed_over_like_all_that_had_come() {
        let whole = b"sh: no such locale\ncronium ready 00ff\nerror\n";
        for (had, through) in [(0, "sh: no such locale\nerror\n"), (19, "error\n"), (21, "ror\n")] {
            for split in 0..=whole.len() {
                let (mut reader, mut kept) = copy("00ff", [0, had]);
                for part in [&whole[..split], &whole[split..]] {
                    reader.take(Stream::Stderr, part, &mut kept);
                }
                assert_eq!(
                    (kept.bytes.as_slice(), kept.lost),
                    (through.as_bytes(), false),
                    "had {had}, split at {split}"
                );
                assert!(reader.has_started() && reader.handed_on[1] == 25);
            }
        }
    }

    #[test]
    fn what_had_come_is_passed_over_at_every_split_and_streams_do_not_mix() {
        let text = b"one\ntwo\nthree\n";
        for had in 0..=text.len() {
            for split in 0..=text.len() {
                let (mut reader, mut kept) = copy("00ff", [had as u64, 3]);
                reader.take(Stream::Stderr, b"cronium ready 00ff\n", &mut kept);
                reader.take(Stream::Stdout, &text[..split], &mut kept);
                reader.take(Stream::Stdout, &text[split..], &mut kept);
                reader.take(Stream::Stderr, b"abcde", &mut kept);
                assert_eq!(kept.of_each, [&text[had..], b"de"], "had {had}, split at {split}");
            }
        }
    }

    #[test]
    fn a_live_stream_that_breaks_anywhere_and_the_copy_give_each_byte_once() {
        let (stdout, stderr) = (b"one\ntwo\n", b"locale\ncronium ready 00ff\nerror\n");
        let frame = |stream: u8, bytes: &[u8]| {
            [&[stream, 0, 0, 0, 0, 0, 0, u8::try_from(bytes.len()).expect("short")], bytes].concat()
        };
        let pieces = [frame(2, &stderr[..9]), frame(2, &stderr[9..]), frame(1, &stdout[..5]), frame(1, &stdout[5..])];
        let whole = pieces.concat();
        for broken_at in 0..=whole.len() {
            let (mut reader, mut kept) = (Reader::new("00ff"), Kept::default());
            reader.feed(&whole[..broken_at], &mut kept).expect("frames");
            let at_a_frames_end = (0..=4).any(|n| pieces[..n].concat().len() == broken_at);
            assert_eq!(reader.end_of_source().is_ok(), at_a_frames_end, "broken at {broken_at}");
            // Twice: what the copy gave is not given again either.
            for _ in 0..2 {
                reader.rewind();
                reader.feed(&whole, &mut kept).expect("frames");
            }
            reader.finish(&mut kept);
            assert_eq!(kept.of_each, [&stdout[..], b"locale\nerror\n"], "broken at {broken_at}");
            assert!(reader.has_started() && !kept.lost);
        }
    }

    #[test]
    fn a_lost_beginning_passes_nothing_over_and_its_bytes_are_counted_anew() {
        let (mut reader, mut kept) = copy("", [9, 9]);
        reader.take(Stream::Stderr, b"in the middle\n", &mut kept);
        reader.take(Stream::Stdout, b"and on\n", &mut kept);
        assert_eq!((kept.bytes.as_slice(), kept.lost), (&b"in the middle\nand on\n"[..], true));
        assert_eq!(reader.handed_on, [7, 14]);
    }

    #[test]
    fn a_copy_that_turned_over_shows_that_the_script_ran() {
        let (mut reader, mut kept) = copy("", [0; 2]);
        reader.take(Stream::Stderr, b"cronium r", &mut kept);
        let piece = vec![b'x'; limits::DOCKER_READ];
        while !reader.has_started() {
            assert!(reader.read[0] < 2 * limits::COPY_TURNED_OVER);
            reader.take(Stream::Stdout, &piece, &mut kept);
        }
        assert!(reader.is_cut && kept.lost);
        assert_eq!(reader.handed_on[1], 9, "what was held back for the word is not lost");
        assert_eq!(kept.bytes.len() as u64, reader.handed_on[0] + reader.handed_on[1]);
    }

    #[test]
    fn a_live_stream_without_the_word_is_no_start_and_hands_all_on() {
        let (mut reader, mut kept) = (Reader::new("00ff"), Kept::default());
        reader.take(Stream::Stderr, b"cronium setup 00ff: no python\nx", &mut kept);
        reader.take(Stream::Stdout, &vec![b'x'; 2 * limits::DOCKER_READ], &mut kept);
        assert_eq!(reader.complaint().as_deref(), Some("no python"), "also while it is held back");
        reader.finish(&mut kept);
        assert_eq!(kept.of_each[1], b"x", "the agent's own line is taken out");
        assert_eq!((reader.has_started(), kept.lost, reader.complaint().as_deref()), (false, false, Some("no python")));
    }
}

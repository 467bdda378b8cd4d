//! One job's lines on their way: those not yet sent, and those sent but not yet acknowledged.
//!
//! Text lies in one block, entries in one ring, so that a steady stream allocates nothing. Both are bounded, by lines
//! (`logging.websocket.bufferSize`) and by bytes. Pure: no lock, no clock.

use std::collections::VecDeque;
use std::time::{Instant, SystemTime};

use crate::job::Stream;
use crate::limits::{LOG_JOB_BYTES, LOG_LINE_OVERHEAD};

/// A line as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub sequence: u64,
    pub at: SystemTime,
    pub stream: Stream,
    pub text: &'a [u8],
}

#[derive(Debug)]
struct Entry {
    sequence: u64,
    at: SystemTime,
    /// Counted from the job's first byte, so that it stays true when the block is moved up.
    offset: u64,
    length: usize,
    stream: Stream,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Buffer {
    /// The first `dead` bytes are released ones that have not been moved away yet.
    text: Vec<u8>,
    dead: usize,
    /// Offset of `text[0]`.
    base: u64,
    /// The first `sent` are in flight.
    entries: VecDeque<Entry>,
    sent: usize,
    most_lines: usize,
    last_sequence: u64,
    /// Lines were left out, and are until half of the buffer is free again.
    leaving_out: bool,
    /// Left out and not yet said in a `system` line.
    untold: u64,
    dropped: u64,
    delivered: u64,
    /// When the oldest unsent line came in.
    waiting_since: Option<Instant>,
}

impl Buffer {
    /// An empty buffer of at most `most_lines` lines.
    pub(super) fn new(most_lines: usize) -> Self {
        Self {
            text: Vec::new(),
            dead: 0,
            base: 0,
            entries: VecDeque::new(),
            sent: 0,
            most_lines: most_lines.max(1),
            last_sequence: 0,
            leaving_out: false,
            untold: 0,
            dropped: 0,
            delivered: 0,
            waiting_since: None,
        }
    }

    /// The next line gets the number after `sequence`.
    pub(super) fn begin_after(&mut self, sequence: u64) {
        self.last_sequence = sequence;
    }

    /// The last number that was given, and the one up to which every line has arrived or was left out.
    pub(super) fn numbers(&self) -> (u64, u64) {
        let arrived = self.entries.front().map_or(self.last_sequence, |entry| entry.sequence - 1);
        (self.last_sequence, arrived)
    }

    /// Bytes held, each line with its overhead.
    fn weight(&self) -> usize {
        self.text.len() - self.dead + self.entries.len() * LOG_LINE_OVERHEAD
    }

    /// Whether a line of `length` bytes can be taken now.
    pub(super) fn has_room(&self, length: usize) -> bool {
        self.has_room_for(1, length)
    }

    /// Whether so many lines of `bytes` together can be taken now.
    pub(super) fn has_room_for(&self, lines: usize, bytes: usize) -> bool {
        !self.leaving_out
            && self.entries.len() + lines <= self.most_lines
            && self.weight() + bytes + lines * LOG_LINE_OVERHEAD <= LOG_JOB_BYTES
    }

    /// Whether waiting for room for a line of `length` bytes can help at all.
    pub(super) fn may_wait(&self, length: usize) -> bool {
        !self.leaving_out && length + LOG_LINE_OVERHEAD <= LOG_JOB_BYTES
    }

    /// Whether half of the buffer is free: the moment to fill it again.
    pub(super) fn half_empty(&self) -> bool {
        self.entries.len() <= self.most_lines / 2 && self.weight() <= LOG_JOB_BYTES / 2
    }

    /// Takes a line and gives it the next sequence.
    pub(super) fn push(&mut self, stream: Stream, text: &[u8], at: SystemTime, now: Instant) {
        self.push_all(text, std::iter::once((stream, at, text.len())), now);
    }

    /// Takes lines, each with its length, whose texts follow each other in `text`.
    pub(super) fn push_all(
        &mut self,
        text: &[u8],
        lines: impl Iterator<Item = (Stream, SystemTime, usize)>,
        now: Instant,
    ) {
        if self.dead > 0 && self.dead >= self.text.len() - self.dead {
            self.text.drain(..self.dead);
            self.base += self.dead as u64;
            self.dead = 0;
        }
        let mut offset = self.base + self.text.len() as u64;
        self.text.extend_from_slice(text);
        for (stream, at, length) in lines {
            self.last_sequence += 1;
            self.entries.push_back(Entry { sequence: self.last_sequence, at, offset, length, stream });
            offset += length as u64;
        }
        self.waiting_since.get_or_insert(now);
    }

    /// Leaves a line of `length` bytes out: its sequence is used up. The following lines are left out as well until half
    /// of the buffer is free, unless this one could never have fitted.
    pub(super) fn leave_out(&mut self, length: usize) {
        self.leaving_out |= length + LOG_LINE_OVERHEAD <= LOG_JOB_BYTES;
        self.last_sequence += 1;
        self.untold += 1;
        self.dropped += 1;
    }

    /// Adds the `system` line that says what was left out, if there is something to say. Beyond the bounds by one line
    /// at most, since it comes when half of the buffer is free or the job has ended.
    pub(super) fn tell(&mut self, at: SystemTime, now: Instant) {
        if self.untold > 0 {
            let (n, are) = (self.untold, if self.untold == 1 { "line was" } else { "lines were" });
            let they = if n == 1 { "it is" } else { "they are" };
            let text = format!(
                "{n} {are} left out of the live stream, since the connection was too slow; {they} in the result"
            );
            self.untold = 0;
            self.push(Stream::System, text.as_bytes(), at, now);
        }
    }

    /// Lines not yet sent.
    pub(super) fn unsent(&self) -> usize {
        self.entries.len() - self.sent
    }

    /// Lines sent and not yet acknowledged.
    pub(super) fn in_flight(&self) -> usize {
        self.sent
    }

    /// Nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When the oldest unsent line came in.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// How many unsent lines make the next message: at most `lines`, and no more than `bytes` of text unless a single
    /// line is longer.
    pub(super) fn batch(&self, lines: usize, bytes: usize) -> usize {
        let mut total = 0;
        let fits = |entry: &&Entry| {
            total += entry.length;
            total <= bytes
        };
        let n = self.entries.range(self.sent..).take(lines).take_while(fits).count();
        n.max(usize::from(self.unsent() > 0 && lines > 0))
    }

    /// The next `n` unsent lines.
    pub(super) fn next(&self, n: usize) -> impl Iterator<Item = Line<'_>> {
        self.entries.range(self.sent..).take(n).map(|entry| {
            let start = usize::try_from(entry.offset - self.base).unwrap_or(0);
            let text = &self.text[start..start + entry.length];
            Line { sequence: entry.sequence, at: entry.at, stream: entry.stream, text }
        })
    }

    /// The next `n` unsent lines are in flight now.
    pub(super) fn mark_sent(&mut self, n: usize, now: Instant) {
        self.sent += n;
        self.waiting_since = (self.unsent() > 0).then_some(now);
    }

    /// The `n` oldest lines have arrived; answers their weight in bytes.
    pub(super) fn release(&mut self, n: usize, at: SystemTime, now: Instant) -> usize {
        let before = self.weight();
        let n = n.min(self.sent);
        for entry in self.entries.drain(..n) {
            self.dead += entry.length;
        }
        self.sent -= n;
        self.delivered += n as u64;
        let freed = before - self.weight();
        if self.leaving_out && self.half_empty() {
            self.leaving_out = false;
            self.tell(at, now);
        }
        freed
    }

    /// The connection is gone: what was in flight is unsent again, with the same sequences.
    pub(super) fn rewind(&mut self, now: Instant) {
        self.sent = 0;
        self.waiting_since = (!self.entries.is_empty()).then_some(now);
    }

    /// Gives up what is held; answers how many lines that were.
    pub(super) fn discard(&mut self) -> u64 {
        let n = self.entries.len() as u64;
        self.base += self.text.len() as u64;
        self.text = Vec::new();
        self.entries = VecDeque::new();
        (self.dead, self.sent, self.waiting_since) = (0, 0, None);
        n
    }

    /// Lines left out so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Lines that arrived.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn texts(buffer: &Buffer, n: usize) -> Vec<(u64, String)> {
        buffer.next(n).map(|l| (l.sequence, String::from_utf8_lossy(l.text).into_owned())).collect()
    }

    #[test]
    fn a_long_stream_keeps_order_numbers_and_a_small_block() {
        let now = Instant::now();
        let mut buffer = Buffer::new(100);
        let mut seen = 0;
        for n in 1..=50_000u64 {
            assert!(buffer.has_room(20));
            buffer.push(Stream::Stdout, format!("line {n}").as_bytes(), UNIX_EPOCH, now);
            if n % 7 == 0 {
                let k = buffer.batch(50, 1000);
                for (sequence, text) in texts(&buffer, k) {
                    seen += 1;
                    assert_eq!((sequence, text), (seen, format!("line {seen}")));
                }
                buffer.mark_sent(k, now);
                buffer.release(k, UNIX_EPOCH, now);
            }
        }
        assert!(buffer.text.capacity() < 16 * 1024, "{}", buffer.text.capacity());
        assert_eq!(buffer.delivered() + buffer.unsent() as u64, 50_000);
    }

    #[test]
    fn both_bounds_hold() {
        let now = Instant::now();
        let mut buffer = Buffer::new(3);
        for _ in 0..3 {
            assert!(buffer.has_room(1));
            buffer.push(Stream::Stderr, b"x", UNIX_EPOCH, now);
        }
        assert!(!buffer.has_room(1));
        let mut buffer = Buffer::new(1_000_000);
        while buffer.has_room(1000) {
            buffer.push(Stream::Stderr, &[b'x'; 1000], UNIX_EPOCH, now);
        }
        assert!(buffer.weight() <= LOG_JOB_BYTES && buffer.weight() > LOG_JOB_BYTES - 1100);
        assert!(!Buffer::new(3).has_room(LOG_JOB_BYTES));
        assert!(!Buffer::new(3).may_wait(LOG_JOB_BYTES));
    }

    #[test]
    fn lines_that_come_together_are_taken_as_one_after_the_other() {
        let now = Instant::now();
        let (mut together, mut each) = (Buffer::new(5), Buffer::new(5));
        let pieces: [&[(Stream, &str)]; 2] =
            [&[(Stream::Stdout, "one"), (Stream::Stderr, ""), (Stream::Stdout, "three")], &[(Stream::System, "four")]];
        for lines in pieces {
            let text: String = lines.iter().map(|(_, text)| *text).collect();
            let ends = lines.iter().map(|(stream, text)| (*stream, UNIX_EPOCH, text.len()));
            together.push_all(text.as_bytes(), ends, now);
            for (stream, text) in lines {
                each.push(*stream, text.as_bytes(), UNIX_EPOCH, now);
            }
            assert!(together.next(9).eq(each.next(9)) && together.unsent() == each.unsent());
            for buffer in [&mut together, &mut each] {
                buffer.mark_sent(2, now);
                buffer.release(2, UNIX_EPOCH, now);
            }
        }
        assert!(together.is_empty() && each.is_empty());
        for buffer in [&mut together, &mut each] {
            buffer.push(Stream::Stdout, b"five", UNIX_EPOCH, now);
            assert_eq!(texts(buffer, 9), [(5, "five".to_owned())]);
        }
        assert!(together.has_room_for(4, 8) && !together.has_room_for(5, 8), "five lines are the most");
        let rest = LOG_JOB_BYTES - 4 - 2 * LOG_LINE_OVERHEAD;
        assert!(together.has_room_for(1, rest) && !together.has_room_for(1, rest + 1));
    }

    #[test]
    fn left_out_lines_keep_their_numbers_and_are_told_once_half_is_free() {
        let now = Instant::now();
        let mut buffer = Buffer::new(4);
        for n in 1..=4 {
            buffer.push(Stream::Stdout, format!("{n}").as_bytes(), UNIX_EPOCH, now);
        }
        for _ in 5..=9 {
            buffer.leave_out(1);
        }
        buffer.mark_sent(4, now);
        buffer.release(1, UNIX_EPOCH, now);
        assert!(!buffer.has_room(1), "three of four are still held");
        assert_eq!(buffer.unsent(), 0);
        buffer.release(1, UNIX_EPOCH, now);
        let told = texts(&buffer, 9);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].0, 10);
        assert!(told[0].1.starts_with("5 lines were left out of the live stream"), "{}", told[0].1);
        assert!(buffer.has_room(1));
        assert_eq!((buffer.dropped(), buffer.delivered()), (5, 2));
    }

    #[test]
    fn a_lost_connection_sends_the_same_lines_again() {
        let now = Instant::now();
        let mut buffer = Buffer::new(10);
        for n in 1..=6 {
            buffer.push(Stream::Stdout, format!("{n}").as_bytes(), UNIX_EPOCH, now);
        }
        buffer.mark_sent(5, now);
        buffer.release(2, UNIX_EPOCH, now);
        assert_eq!((buffer.in_flight(), buffer.unsent()), (3, 1));
        buffer.rewind(now);
        let again: Vec<u64> = buffer.next(9).map(|l| l.sequence).collect();
        assert_eq!(again, [3, 4, 5, 6]);
        assert_eq!(buffer.release(9, UNIX_EPOCH, now), 0, "nothing is in flight, so nothing can have arrived");
        assert_eq!(buffer.discard(), 4);
        assert!(buffer.is_empty() && buffer.waiting_since().is_none());
    }

    #[test]
    fn a_batch_is_bounded_by_lines_and_bytes_but_never_empty() {
        let now = Instant::now();
        let mut buffer = Buffer::new(10);
        assert_eq!(buffer.batch(5, 100), 0);
        buffer.push(Stream::Stdout, &[b'x'; 500], UNIX_EPOCH, now);
        assert_eq!(buffer.batch(5, 100), 1);
        for _ in 0..4 {
            buffer.push(Stream::Stdout, &[b'x'; 40], UNIX_EPOCH, now);
        }
        buffer.mark_sent(1, now);
        assert_eq!(buffer.batch(5, 100), 2);
        assert_eq!(buffer.batch(1, 100), 1);
        assert_eq!(buffer.batch(9, 1000), 4);
    }
}

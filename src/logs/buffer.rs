//! One job's lines in transit: those not yet sent, and those sent but not yet acknowledged.
//!
//! One block holds the text, one ring the entries, so that a steady stream allocates nothing. Both are bounded, by lines
//! (`logging.websocket.bufferSize`) and by bytes. Pure: no lock, no clock.

use std::collections::VecDeque;
use std::time::{Instant, SystemTime};

use crate::job::Stream;
use crate::limits::{LOG_JOB_BYTES, LOG_LINE_OVERHEAD};

/// Where a line comes from. Each origin has at most one unfinished line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// 0 is the job, others are its servers.
    pub part: u32,
    pub stream: Stream,
}

impl From<Stream> for Origin {
    fn from(stream: Stream) -> Self {
        Self { part: 0, stream }
    }
}

/// A line as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub sequence: u64,
    pub at: SystemTime,
    pub stream: Stream,
    pub text: &'a [u8],
    /// The line has not ended: it comes again with the same sequence.
    pub partial: bool,
}

/// The progress of a job's lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The last sequence given out.
    pub sequence: u64,
    /// Lines taken, left-out ones too, partial ones not.
    pub taken: u64,
    /// How many of those, from the first on, have arrived or were left out.
    pub arrived: u64,
}

#[derive(Debug)]
struct Entry {
    sequence: u64,
    /// Lines taken before it.
    order: u64,
    at: SystemTime,
    /// Counted from the job's first byte, so that it stays true when the block is moved.
    offset: u64,
    length: usize,
    origin: Origin,
    partial: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Buffer {
    /// The first `dead` bytes are released, and not moved away yet.
    text: Vec<u8>,
    dead: usize,
    /// Offset of `text[0]`.
    base: u64,
    /// The first `sent` are in flight.
    entries: VecDeque<Entry>,
    sent: usize,
    most_lines: usize,
    last_sequence: u64,
    /// Lines taken, left-out ones too.
    taken: u64,
    /// The sequences of partial lines that were sent: the whole line gets the same.
    open: Vec<(Origin, u64)>,
    /// Lines are left out until half of the buffer is free again.
    leaving_out: bool,
    /// Left-out lines that no `system` line has reported yet.
    untold: u64,
    dropped: u64,
    delivered: u64,
    /// When the oldest unsent line arrived.
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
            taken: 0,
            open: Vec::new(),
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

    /// The progress of the lines.
    pub(super) fn numbers(&self) -> Numbers {
        let arrived = self.entries.front().map_or(self.taken, |entry| entry.order);
        Numbers { sequence: self.last_sequence, taken: self.taken, arrived }
    }

    /// The sequence kept for the unfinished line of `origin`.
    pub(super) fn open_at(&self, origin: Origin) -> Option<u64> {
        self.open.iter().find(|(of, _)| *of == origin).map(|(_, sequence)| *sequence)
    }

    /// An earlier agent has sent a partial line of `origin` with this sequence.
    pub(super) fn keep_open(&mut self, origin: Origin, sequence: u64) {
        self.open.push((origin, sequence));
    }

    /// The sequence for a line that has ended.
    fn sequence_of(&mut self, origin: Origin) -> u64 {
        // The usual case: there is none.
        if let Some(at) = self.open.iter().position(|(of, _)| *of == origin) {
            return self.open.swap_remove(at).1;
        }
        self.last_sequence += 1;
        self.last_sequence
    }

    /// Bytes held, each line with its overhead.
    fn weight(&self) -> usize {
        self.text.len() - self.dead + self.entries.len() * LOG_LINE_OVERHEAD
    }

    /// Whether a line of `length` bytes can be taken now.
    pub(super) fn has_room(&self, length: usize) -> bool {
        self.has_room_for(1, length)
    }

    /// Whether this number of lines, of `bytes` in total, can be taken now.
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
    pub(super) fn push(&mut self, origin: impl Into<Origin>, text: &[u8], at: SystemTime, now: Instant) {
        self.push_all(text, std::iter::once((origin.into(), at, text.len())), now);
    }

    /// Takes the start of a line that has not ended, and keeps a sequence for it. Returns false while the previous part of
    /// that line has not arrived, so that there is at most one, and if there is no room.
    pub(super) fn push_partial(&mut self, origin: Origin, text: &[u8], at: SystemTime, now: Instant) -> bool {
        let waits = self.entries.iter().any(|entry| entry.partial && entry.origin == origin);
        if waits || !self.has_room(text.len()) {
            return false;
        }
        let sequence = self.sequence_of(origin);
        self.open.push((origin, sequence));
        let offset = self.append(text);
        let (length, order) = (text.len(), self.taken);
        self.entries.push_back(Entry { sequence, order, at, offset, length, origin, partial: true });
        self.waiting_since.get_or_insert(now);
        true
    }

    /// Appends text; returns its offset.
    fn append(&mut self, text: &[u8]) -> u64 {
        if self.dead > 0 && self.dead >= self.text.len() - self.dead {
            self.text.drain(..self.dead);
            self.base += self.dead as u64;
            self.dead = 0;
        }
        let offset = self.base + self.text.len() as u64;
        self.text.extend_from_slice(text);
        offset
    }

    /// Takes lines, each with its length; their texts follow each other in `text`.
    pub(super) fn push_all(
        &mut self,
        text: &[u8],
        lines: impl Iterator<Item = (Origin, SystemTime, usize)>,
        now: Instant,
    ) {
        let mut offset = self.append(text);
        for (origin, at, length) in lines {
            let (sequence, order) = (self.sequence_of(origin), self.taken);
            self.entries.push_back(Entry { sequence, order, at, offset, length, origin, partial: false });
            self.taken += 1;
            offset += length as u64;
        }
        self.waiting_since.get_or_insert(now);
    }

    /// Leaves a line of `length` bytes out; its sequence is used up. The following lines are left out too until half of the
    /// buffer is free, unless this line could never have fitted.
    pub(super) fn leave_out(&mut self, origin: Origin, length: usize) {
        self.leaving_out |= length + LOG_LINE_OVERHEAD <= LOG_JOB_BYTES;
        self.sequence_of(origin);
        self.taken += 1;
        self.untold += 1;
        self.dropped += 1;
    }

    /// Adds the `system` line about left-out lines, if there are any. It exceeds the bounds by one line at most, since it comes
    /// when half of the buffer is free or the job has ended.
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

    /// Whether the buffer holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When the oldest unsent line arrived.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// How many unsent lines go into the next message: at most `lines`, and at most `bytes` of text unless a single line is
    /// longer.
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
            let (sequence, at, stream, partial) = (entry.sequence, entry.at, entry.origin.stream, entry.partial);
            Line { sequence, at, stream, text, partial }
        })
    }

    /// Marks the next `n` unsent lines as in flight.
    pub(super) fn mark_sent(&mut self, n: usize, now: Instant) {
        self.sent += n;
        self.waiting_since = (self.unsent() > 0).then_some(now);
    }

    /// Releases the `n` oldest lines, which have arrived; returns their weight in bytes.
    pub(super) fn release(&mut self, n: usize, at: SystemTime, now: Instant) -> usize {
        let before = self.weight();
        let n = n.min(self.sent);
        for entry in self.entries.drain(..n) {
            self.dead += entry.length;
            self.delivered += u64::from(!entry.partial);
        }
        self.sent -= n;
        let freed = before - self.weight();
        if self.leaving_out && self.half_empty() {
            self.leaving_out = false;
            self.tell(at, now);
        }
        freed
    }

    /// After a lost connection: lines in flight become unsent again, with the same sequences.
    pub(super) fn rewind(&mut self, now: Instant) {
        self.sent = 0;
        self.waiting_since = (!self.entries.is_empty()).then_some(now);
    }

    /// Gives up all held lines; returns their number.
    pub(super) fn discard(&mut self) -> u64 {
        let n = self.whole_lines();
        self.base += self.text.len() as u64;
        self.text = Vec::new();
        self.entries = VecDeque::new();
        (self.dead, self.sent, self.waiting_since) = (0, 0, None);
        n
    }

    /// Lines that have not arrived, without those that have not ended.
    pub(super) fn whole_lines(&self) -> u64 {
        self.entries.iter().filter(|entry| !entry.partial).count() as u64
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
#[path = "buffer_tests.rs"]
mod tests;

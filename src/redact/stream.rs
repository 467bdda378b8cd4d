//! Takes secrets out of one stream of bytes, however it is cut into pieces.
//!
//! Each longest run of bytes that needles cover becomes one [`MARK`]; every other byte goes on as it is. What may still
//! become a needle waits: the end of the stream so far that is the beginning of one. How the stream is cut changes nothing.
//! A pause does: [`Stream::pause`].

use std::collections::VecDeque;
use std::sync::Arc;

use super::Redactor;
use super::machine::{Machine, ROOT, State};
use crate::limits;

/// What stands for a secret.
pub const MARK: &str = "[redacted]";

/// Takes what goes on: bytes, and how many bytes of the stream they stand for.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8], usize);

/// See the module's text.
#[derive(Debug)]
pub struct Stream {
    redactor: Redactor,
    /// It carries words of the agent's, which a blind redactor lets through.
    is_agents: bool,
    machine: Arc<Machine>,
    version: u64,
    state: State,
    /// The bytes that wait, which are the last ones taken.
    held: Vec<u8>,
    /// Bytes taken, and bytes that went on.
    taken: u64,
    out: u64,
    /// Where needles are, from `out` on, in order and apart.
    spans: VecDeque<(u64, u64)>,
    /// Where the last mark ends.
    marked: Option<u64>,
    /// How many bytes from here on may be the rest of a needle whose beginning is lost.
    veiled: usize,
}

impl Stream {
    pub(super) fn new(redactor: Redactor) -> Self {
        let (machine, version) = redactor.machine();
        Self {
            redactor,
            is_agents: false,
            machine,
            version,
            state: ROOT,
            held: Vec::new(),
            taken: 0,
            out: 0,
            spans: VecDeque::new(),
            marked: None,
            veiled: 0,
        }
    }

    /// The same for words of the agent's.
    pub(super) fn of_agent(self) -> Self {
        Self { is_agents: true, ..self }
    }

    /// Takes bytes, and gives on what is decided.
    pub fn feed(&mut self, data: &[u8], sink: Sink<'_>) {
        if self.redactor.is_blind() && !self.is_agents {
            return self.withhold(data, sink);
        }
        self.renew();
        if self.machine.is_empty() {
            self.taken += data.len() as u64;
            self.out = self.taken;
            return sink(data, data.len());
        }
        self.veil(data);
        self.search(data);
        let before = self.taken;
        self.taken += data.len() as u64;
        let open = self.machine.depth(self.state);
        let decided = self.taken - open as u64;
        self.give(decided, before, data, sink);
        if open <= data.len() {
            self.held.clear();
            self.held.extend_from_slice(&data[data.len() - open..]);
        } else {
            self.held.drain(..self.held.len() + data.len() - open);
            self.held.extend_from_slice(data);
        }
    }

    /// The stream is silent. A beginning of a needle that is long enough to tell something counts as one, one or two letters
    /// go on, and what lies between waits.
    pub fn pause(&mut self, sink: Sink<'_>) {
        if self.held.len() >= limits::REDACT_SHORTEST {
            self.cover(self.taken - self.held.len() as u64, self.taken);
        } else if self.held.len() > limits::REDACT_SHOWN {
            return;
        }
        self.give(self.taken, self.taken, &[], sink);
    }

    /// No more bytes come. As at a pause, but nothing waits any more.
    pub fn finish(&mut self, sink: Sink<'_>) {
        self.pause(sink);
        self.give(self.taken, self.taken, &[], sink);
        self.held.clear();
        self.state = ROOT;
    }

    /// The next bytes do not follow those before: they may begin within a needle. So their first line does not go on.
    pub fn lose_place(&mut self, sink: Sink<'_>) {
        self.finish(sink);
        self.veiled = self.machine.longest();
    }

    /// Whether bytes wait.
    pub fn is_waiting(&self) -> bool {
        self.out < self.taken
    }

    /// Nobody knows the needles: only the ends of lines go on.
    fn withhold(&mut self, data: &[u8], sink: Sink<'_>) {
        for line in data.split_inclusive(|&byte| byte == b'\n') {
            let hidden = line.strip_suffix(b"\n").unwrap_or(line).len();
            if hidden > 0 {
                let mark = if self.marked == Some(self.out) { "" } else { MARK };
                sink(mark.as_bytes(), hidden);
                self.out += hidden as u64;
                self.marked = Some(self.out);
            }
            if line.ends_with(b"\n") {
                sink(b"\n", 1);
                self.out += 1;
            }
        }
        self.taken = self.out;
    }

    /// Takes over needles that were added. What waits is looked at once more.
    fn renew(&mut self) {
        if self.redactor.version() == self.version {
            return;
        }
        (self.machine, self.version) = self.redactor.machine();
        let held = std::mem::take(&mut self.held);
        self.state = ROOT;
        self.taken -= held.len() as u64;
        self.search(&held);
        self.taken += held.len() as u64;
        // Also what now waits no longer: it goes on with the next bytes.
        self.held = held;
    }

    fn veil(&mut self, data: &[u8]) {
        if self.veiled == 0 || data.is_empty() {
            return;
        }
        let most = self.veiled.min(data.len());
        let end = data[..most].iter().position(|&byte| byte == b'\n');
        self.veiled = if end.is_some() { 0 } else { self.veiled - most };
        self.cover(self.taken, self.taken + end.unwrap_or(most) as u64);
    }

    /// Notes where needles end in `data`, which follows what was taken.
    fn search(&mut self, data: &[u8]) {
        let machine = Arc::clone(&self.machine);
        let (base, window, mut at) = (self.taken, machine.window(), 0);
        while at < data.len() {
            let begun = if self.state == ROOT {
                at = machine.skip(data, at);
                Some(at)
            } else {
                None
            };
            while at < data.len() {
                self.state = machine.step(self.state, data[at]);
                at += 1;
                let found = machine.found(self.state);
                if found > 0 {
                    self.cover(base + at as u64 - found as u64, base + at as u64);
                }
                let open = machine.depth(self.state);
                // A short beginning that is not the one looked at: the table decides about it faster.
                if open < window
                    && at >= open
                    && at - open + window <= data.len()
                    && begun.is_none_or(|begun| at - open > begun)
                {
                    at -= open;
                    self.state = ROOT;
                    break;
                }
            }
        }
    }

    /// A needle covers these bytes.
    fn cover(&mut self, start: u64, mut end: u64) {
        let mut start = start.max(self.out);
        while let Some(&(from, to)) = self.spans.back()
            && to >= start
        {
            (start, end) = (start.min(from), end.max(to));
            self.spans.pop_back();
        }
        if start < end {
            self.spans.push_back((start, end));
        }
    }

    /// Gives on all bytes up to `to`. `data` begins at `base`, and what is held ends there.
    fn give(&mut self, to: u64, base: u64, data: &[u8], sink: Sink<'_>) {
        while self.out < to {
            let next = self.spans.front().copied();
            match next {
                Some((start, end)) if start <= self.out => {
                    let until = end.min(to);
                    let mark = if self.marked == Some(self.out) { "" } else { MARK };
                    sink(mark.as_bytes(), length(self.out, until));
                    (self.out, self.marked) = (until, Some(until));
                    if until == end {
                        self.spans.pop_front();
                    }
                }
                _ => {
                    let until = next.map_or(to, |(start, _)| start.min(to));
                    let held_from = base - self.held.len() as u64;
                    if self.out < base {
                        let part = &self.held[length(held_from, self.out)..length(held_from, until.min(base))];
                        sink(part, part.len());
                    }
                    if until > base {
                        let part = &data[length(base, self.out.max(base))..length(base, until)];
                        sink(part, part.len());
                    }
                    self.out = until;
                }
            }
        }
    }
}

fn length(from: u64, to: u64) -> usize {
    usize::try_from(to - from).unwrap_or(usize::MAX)
}

//! What came over the log sockets, counted and checked line by line and kept only in part: a test of a million lines asks
//! for sums, not for the lines.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use crate::time;

/// Ranges of missing numbers that are remembered; past this, late lines count as duplicates.
const MISSING_RANGES: usize = 10_000;
const LATENCY_SAMPLES: usize = 1 << 20;
/// Lines of a job that have not ended, of which the last state is kept.
const PARTIAL_LINES: usize = 10_000;

/// One line as received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    pub sequence: u64,
    /// `stdout`, `stderr` or `system`.
    pub stream: &'static str,
    pub text: String,
    /// Wall clock at receipt, nanoseconds since 1970.
    pub received: i128,
}

/// One job's lines: the first and the last of them, and sums over all.
#[derive(Debug, Clone)]
pub struct JobLines {
    /// Kept at the start and at the end, each.
    keep: usize,
    pub count: u64,
    pub bytes: u64,
    pub first: u64,
    pub last: u64,
    pub duplicates: u64,
    /// Came later than a line with a higher number, but did come.
    pub out_of_order: u64,
    /// Times that a line came before it had ended. It is none of the lines counted here until it has.
    pub partials: u64,
    /// Lines that came in the place of partial ones.
    pub replaced: u64,
    /// See [`checksum`], over each line: stdout, stderr, system.
    pub checksums: [u64; 3],
    pub counts: [u64; 3],
    missing: BTreeMap<u64, u64>,
    /// Lines that have not ended, by their numbers.
    partial: BTreeMap<u64, Line>,
    head: Vec<Line>,
    tail: VecDeque<Line>,
    latencies: Vec<u32>,
}

pub(crate) const STREAMS: [&str; 3] = ["stdout", "stderr", "system"];

/// FNV-1a's numbers, with eight bytes a step, since each line is summed where lines a second are measured. One more line,
/// without its end, after those of `sum`; the order of lines counts, and where each of them ends.
pub fn checksum(sum: u64, line: &[u8]) -> u64 {
    let step = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
    let (words, rest) = line.as_chunks::<8>();
    let sum = words.iter().fold(sum, |sum, word| step(sum, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    step(step(sum, u64::from_le_bytes(last)), line.len() as u64)
}

/// The checksum of no lines.
pub const fn checksum_start() -> u64 {
    0xcbf2_9ce4_8422_2325
}

impl JobLines {
    pub(crate) fn new(keep: usize) -> Self {
        Self {
            keep,
            count: 0,
            bytes: 0,
            first: 0,
            last: 0,
            duplicates: 0,
            out_of_order: 0,
            partials: 0,
            replaced: 0,
            checksums: [checksum_start(); 3],
            counts: [0; 3],
            missing: BTreeMap::new(),
            partial: BTreeMap::new(),
            head: Vec::new(),
            tail: VecDeque::new(),
            latencies: Vec::new(),
        }
    }

    /// Takes one line; false when it was had before.
    pub(crate) fn add(&mut self, stream: usize, text: &str, sequence: u64, received: i128) -> bool {
        // Nearly always there are no partial lines.
        if !self.partial.is_empty() && self.partial.remove(&sequence).is_some() {
            self.replaced += 1;
        } else if !self.number(sequence) {
            return false;
        }
        self.count += 1;
        self.bytes += text.len() as u64;
        self.counts[stream] += 1;
        self.checksums[stream] = checksum(self.checksums[stream], text.as_bytes());
        self.sample(text, received);
        self.store(stream, text, sequence, received);
        true
    }

    /// Takes a line that has not ended, in the place of what was known of it; false when its whole was had before.
    pub(crate) fn add_partial(&mut self, stream: usize, text: &str, sequence: u64, received: i128) -> bool {
        let known = self.partial.contains_key(&sequence);
        if !known && (self.partial.len() >= PARTIAL_LINES || !self.number(sequence)) {
            return false;
        }
        self.partials += 1;
        self.partial.insert(sequence, Line { sequence, stream: STREAMS[stream], text: text.to_owned(), received });
        true
    }

    /// The lines that have not ended, as they were last shown.
    pub fn partial(&self) -> impl Iterator<Item = &Line> {
        self.partial.values()
    }

    /// Takes a number; false when it was had before.
    fn number(&mut self, sequence: u64) -> bool {
        if self.count == 0 && self.partial.is_empty() {
            self.first = sequence;
        }
        if sequence == self.last + 1 {
            self.last = sequence;
        } else if !self.place(sequence) {
            self.duplicates += 1;
            return false;
        }
        true
    }

    /// A number that is not the next one: ahead (a gap opens), late (a gap closes), or had before.
    fn place(&mut self, sequence: u64) -> bool {
        if sequence > self.last {
            if self.missing.len() < MISSING_RANGES {
                self.missing.insert(self.last + 1, sequence - 1);
            }
            self.last = sequence;
            return true;
        }
        let Some((&from, &to)) = self.missing.range(..=sequence).next_back() else { return false };
        if sequence > to {
            return false;
        }
        self.missing.remove(&from);
        if from < sequence {
            self.missing.insert(from, sequence - 1);
        }
        if sequence < to {
            self.missing.insert(sequence + 1, to);
        }
        self.out_of_order += 1;
        true
    }

    fn sample(&mut self, text: &str, received: i128) {
        let Some(rest) = text.strip_prefix('T') else { return };
        let number = rest.split(' ').next().unwrap_or_default();
        if number.len() < 16 || self.latencies.len() >= LATENCY_SAMPLES {
            return;
        }
        if let Ok(sent) = number.parse::<i128>() {
            self.latencies.push(u32::try_from(((received - sent) / 1000).max(0)).unwrap_or(u32::MAX));
        }
    }

    fn store(&mut self, stream: usize, text: &str, sequence: u64, received: i128) {
        let stream = STREAMS[stream];
        if self.head.len() < self.keep {
            self.head.push(Line { sequence, stream, text: text.to_owned(), received });
            return;
        }
        // The oldest of the tail gives its allocation to the newest.
        let mut line =
            if self.tail.len() < self.keep { Line::default() } else { self.tail.pop_front().unwrap_or_default() };
        line.text.clear();
        line.text.push_str(text);
        (line.sequence, line.stream, line.received) = (sequence, stream, received);
        if self.keep > 0 {
            self.tail.push_back(line);
        }
    }

    /// Numbers that never came, below the highest that did.
    pub fn gaps(&self) -> u64 {
        self.missing.iter().map(|(from, to)| to - from + 1).sum()
    }

    /// Kept lines from index `from` on (0 is the first received), each with its index; at most `limit`.
    pub fn from(&self, from: u64, limit: usize) -> impl Iterator<Item = (u64, &Line)> {
        let tail_start = self.count - self.tail.len() as u64;
        let head = self.head.iter().enumerate().map(|(at, line)| (at as u64, line));
        let tail = self.tail.iter().enumerate().map(move |(at, line)| (tail_start + at as u64, line));
        head.chain(tail).skip_while(move |(at, _)| *at < from).take(limit)
    }

    pub(crate) fn page(&self, from: u64, limit: usize) -> Value {
        let lines: Vec<Value> = self
            .from(from, limit)
            .map(|(at, line)| {
                json!({"index": at, "sequence": line.sequence, "stream": line.stream, "line": line.text,
                       "received": time::format_millis(line.received / 1_000_000)})
            })
            .collect();
        let next = lines.last().and_then(|line| line["index"].as_u64()).map_or(from.min(self.count), |at| at + 1);
        let partial: Vec<Value> = self
            .partial()
            .map(|line| json!({"sequence": line.sequence, "stream": line.stream, "line": line.text}))
            .collect();
        json!({"count": self.count, "next": next, "lines": lines, "partial": partial})
    }

    pub fn summary(&self) -> Value {
        let per_stream: serde_json::Map<String, Value> = (0..3)
            .map(|at| {
                let sums = json!({"count": self.counts[at], "checksum": format!("{:016x}", self.checksums[at])});
                (STREAMS[at].to_owned(), sums)
            })
            .collect();
        json!({"count": self.count, "bytes": self.bytes, "first": self.first, "last": self.last, "gaps": self.gaps(),
               "duplicates": self.duplicates, "outOfOrder": self.out_of_order,
               "partials": self.partials, "replaced": self.replaced, "streams": per_stream,
               "stored": self.head.len() + self.tail.len()})
    }

    /// Of lines `T<unix nanoseconds>…`: receipt minus the number, in microseconds.
    pub fn latency(&self) -> Value {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            if sorted.is_empty() { 0 } else { sorted[((sorted.len() - 1) * percent + 50) / 100] }
        };
        json!({"samples": sorted.len(), "unit": "us", "min": at(0), "p50": at(50), "p90": at(90), "p99": at(99), "max": at(100)})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(keep: usize, sequences: &[u64]) -> JobLines {
        let mut lines = JobLines::new(keep);
        for sequence in sequences {
            lines.add(0, &format!("line {sequence}"), *sequence, 0);
        }
        lines
    }

    #[test]
    fn gaps_duplicates_and_late_lines_are_told_apart() {
        for (sequences, count, gaps, duplicates, late) in [
            (&[1, 2, 3][..], 3, 0, 0, 0),
            (&[1, 2, 2, 3, 1][..], 3, 0, 2, 0),
            (&[1, 5][..], 2, 3, 0, 0),
            (&[1, 5, 3][..], 3, 2, 0, 1),
            (&[1, 5, 3, 3, 2, 4][..], 5, 0, 1, 3),
            (&[2, 1][..], 2, 0, 0, 1),
            (&[0, 1][..], 1, 0, 1, 0),
        ] {
            let lines = fed(10, sequences);
            let got = (lines.count, lines.gaps(), lines.duplicates, lines.out_of_order);
            assert_eq!(got, (count, gaps, duplicates, late), "{sequences:?}");
        }
    }

    #[test]
    fn a_partial_line_is_replaced_and_counts_once_it_has_ended() {
        let mut lines = JobLines::new(10);
        let shown =
            |lines: &JobLines| lines.partial().map(|line| (line.sequence, line.text.clone())).collect::<Vec<_>>();
        assert!(lines.add_partial(0, "1", 1, 0));
        assert_eq!((lines.count, lines.first, lines.last, lines.gaps()), (0, 1, 1, 0));
        assert!(lines.add(1, "error", 2, 0) && lines.add_partial(0, "1..", 1, 0));
        assert_eq!(shown(&lines), [(1, "1..".to_owned())]);
        assert!(lines.add(0, "1..2", 1, 0) && lines.add(0, "next", 3, 0));
        assert!(shown(&lines).is_empty());
        assert_eq!((lines.count, lines.first, lines.last, lines.partials, lines.replaced), (3, 1, 3, 2, 1));
        assert_eq!((lines.gaps(), lines.duplicates, lines.out_of_order), (0, 0, 0));
        let sum = ["1..2", "next"].iter().fold(checksum_start(), |sum, line| checksum(sum, line.as_bytes()));
        assert_eq!(lines.checksums[0], sum, "what was shown before is in no sum");
        // After a lost connection both may come once more: a whole line stays.
        assert!(!lines.add_partial(0, "1..", 1, 0) && !lines.add(0, "1..2", 1, 0));
        assert_eq!((lines.count, lines.duplicates, shown(&lines).len()), (3, 2, 0));
        // One ahead of the others opens a gap, as any line does.
        assert!(lines.add_partial(0, "5", 5, 0));
        assert_eq!((lines.gaps(), lines.summary()["gaps"].as_u64()), (1, Some(1)));
    }

    #[test]
    fn the_first_and_the_last_lines_are_kept() {
        let lines = fed(2, &[1, 2, 3, 4, 5, 6]);
        let kept: Vec<(u64, u64)> = lines.from(0, 100).map(|(at, line)| (at, line.sequence)).collect();
        assert_eq!(kept, [(0, 1), (1, 2), (4, 5), (5, 6)]);
        assert_eq!(lines.from(3, 100).count(), 2);
        assert_eq!(lines.page(0, 100)["next"], 6);
        assert_eq!(fed(0, &[1, 2, 3]).from(0, 9).count(), 0);
    }

    #[test]
    fn the_checksum_tells_bytes_order_and_ends_apart() {
        let of = |texts: &[&str]| {
            let mut lines = JobLines::new(0);
            for (sequence, text) in (1..).zip(texts) {
                lines.add(0, text, sequence, 0);
            }
            assert_eq!(lines.checksums[1], checksum_start());
            lines.checksums[0]
        };
        let all: [&[&str]; 11] = [
            &[],
            &[""],
            &["", ""],
            &["foobar"],
            &["foobas"],
            &["foobar\0"],
            &["foobar, foobar"],
            &["foobar, ", "foobar"],
            &["foobar", ", foobar"],
            &["foobar, foobar and more"],
            &["foobar and foobar, more"],
        ];
        let sums: std::collections::BTreeSet<u64> = all.iter().map(|texts| of(texts)).collect();
        assert_eq!(sums.len(), all.len(), "two of them have one sum");
        assert_eq!(
            of(&["foobar", "x"]),
            ["foobar", "x"].iter().fold(checksum_start(), |sum, line| checksum(sum, line.as_bytes()))
        );
    }

    #[test]
    fn latency_comes_from_the_number_in_the_line() {
        let mut lines = JobLines::new(0);
        lines.add(0, "T1760004000000000000 tick", 1, 1_760_004_000_002_000_000);
        lines.add(0, "Total", 2, 1_760_004_000_002_000_000);
        assert_eq!(lines.latency()["samples"], 1);
        assert_eq!(lines.latency()["p50"], 2000);
    }
}

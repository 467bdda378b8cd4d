//! The output of one server of several: kept for its record, and passed on line by line under its name.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::job::{Output, Stream};
use crate::jobs::output::{Collected, JobOutput, Progress};
use crate::jobs::record::Delivered;
use crate::jobs::unfinished::Unfinished;
use crate::limits;
use crate::verdict::Outcome;
use crate::wire::capture::Capture;
use crate::wire::lines::{Line, Splitter};

/// One stream of it.
struct Channel {
    stream: Stream,
    kept: Capture,
    splitter: Splitter,
    /// Bytes that an earlier agent had sent on as lines: they are kept, and not sent again.
    skip: u64,
    /// Bytes up to the end of the last whole line.
    passed: u64,
    unfinished: Unfinished,
}

pub(super) struct Prefixed<'a> {
    prefix: String,
    output: &'a Mutex<JobOutput>,
    channels: [Channel; 2],
    lines: u64,
    progress: Arc<Progress>,
}

fn lock(output: &Mutex<JobOutput>) -> MutexGuard<'_, JobOutput> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Prefixed<'a> {
    /// `delivered` is how far an earlier agent came with it; all of it will come once more, from the beginning.
    pub(super) fn new(name: &str, output: &'a Mutex<JobOutput>, max_output: usize, delivered: Delivered) -> Self {
        let prefix = format!("[{name}] ");
        // With prefix and mark it is no longer than the longest line, so that it is not cut twice.
        let room = limits::LINE_MAX.saturating_sub(prefix.len() + MARK_MAX);
        let channel = |stream, skip| Channel {
            stream,
            kept: Capture::new(max_output),
            splitter: Splitter::new(room),
            skip,
            passed: skip,
            unfinished: Unfinished::default(),
        };
        let channels = [channel(Stream::Stdout, delivered.stdout), channel(Stream::Stderr, delivered.stderr)];
        let progress = lock(output).part(delivered);
        Self { prefix, output, channels, lines: 0, progress }
    }

    /// How far it has come, for the records.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The last lines, and what is kept for the record.
    pub(super) fn finish(mut self, outcome: &Outcome) -> Collected {
        let (prefix, lines) = (&self.prefix, &mut self.lines);
        for channel in &mut self.channels {
            let mut text = Vec::new();
            channel.splitter.finish(&mut |line| {
                *lines += 1;
                write(&mut text, prefix, line);
            });
            channel.unfinished = Unfinished::default();
            lock(self.output).lines_of(&self.progress, channel.stream, &text);
        }
        self.system(&outcome.verdict.to_string());
        self.settle();
        let [stdout, stderr] = self.channels;
        Collected {
            stdout_bytes: stdout.kept.total(),
            stderr_bytes: stderr.kept.total(),
            lines: self.lines,
            stdout: stdout.kept.into_text(),
            stderr: stderr.kept.into_text(),
        }
    }
}

impl Output for Prefixed<'_> {
    fn bytes(&mut self, stream: Stream, data: &[u8]) {
        let channel = &mut self.channels[usize::from(stream != Stream::Stdout)];
        channel.kept.push(data);
        let before = self.lines;
        let (prefix, lines) = (&self.prefix, &mut self.lines);
        let mut split = |channel: &mut Channel, data: &[u8]| {
            let mut text = Vec::with_capacity(data.len() * 2);
            channel.splitter.feed(data, &mut |line| {
                *lines += 1;
                write(&mut text, prefix, line);
            });
            text
        };
        // A place is at the end of a line, so that no line is half on either side.
        let (sent, rest) = data.split_at(usize::try_from(channel.skip).unwrap_or(usize::MAX).min(data.len()));
        if !sent.is_empty() {
            channel.skip -= sent.len() as u64;
            let text = split(channel, sent);
            lock(self.output).again(stream, &text);
        }
        let text = split(channel, rest);
        if let Some(end) = rest.iter().rposition(|&b| b == b'\n') {
            channel.passed = channel.kept.total() - (rest.len() - end - 1) as u64;
        }
        lock(self.output).lines_of(&self.progress, stream, &text);
        if !rest.is_empty() {
            channel.unfinished.fed(&channel.splitter, self.lines > before);
        }
    }

    fn system(&mut self, text: &str) {
        lock(self.output).system(&format!("{}{text}", self.prefix));
    }

    fn settle(&mut self) {
        let mut output = lock(self.output);
        output.settle();
        for channel in &mut self.channels {
            let (prefix, progress) = (self.prefix.as_bytes(), &self.progress);
            let show = |text: Vec<u8>| output.partial_of(progress, channel.stream, &[prefix, &text].concat());
            channel.unfinished.show(&channel.splitter, show);
        }
        // Under the same lock, so that every line before this place has a number that is given by now.
        let [stdout, stderr] = &self.channels;
        self.progress.note_at(stdout.passed, stderr.passed, self.lines);
    }
}

/// Longest mark of a line that was cut.
const MARK_MAX: usize = 80;

fn write(text: &mut Vec<u8>, prefix: &str, line: Line<'_>) {
    text.extend_from_slice(prefix.as_bytes());
    match line {
        Line::Whole(bytes) => text.extend_from_slice(bytes),
        Line::Cut { kept, dropped } => {
            text.extend_from_slice(kept);
            text.extend_from_slice(format!(" […{dropped} bytes of this line were left out]").as_bytes());
        }
        Line::Last { kept, dropped } => {
            text.extend_from_slice(format!("[…{dropped} bytes of this line were left out] ").as_bytes());
            text.extend_from_slice(kept);
        }
    }
    text.push(b'\n');
}

//! The output of one server of several: kept for its record, and passed on line by line under its name.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::job::{Output, Stream};
use crate::jobs::channel::{Channels, Collected, MARK_MAX, Out};
use crate::jobs::output::JobOutput;
use crate::jobs::resume::{Progress, ResumePoint};
use crate::limits;
use crate::verdict::Outcome;

pub(super) struct Prefixed<'a> {
    prefix: String,
    output: &'a Mutex<JobOutput>,
    channels: Channels,
    progress: Arc<Progress>,
}

fn lock(output: &Mutex<JobOutput>) -> MutexGuard<'_, JobOutput> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Prefixed<'a> {
    /// Output of a server that goes on from `start`. All of it comes once more, from its first byte.
    pub(super) fn new(name: &str, output: &'a Mutex<JobOutput>, max_output: usize, start: ResumePoint) -> Self {
        let prefix = format!("[{name}] ");
        // With prefix and mark it is no longer than the longest line, so that it is not cut twice.
        let room = limits::LINE_MAX.saturating_sub(prefix.len() + MARK_MAX);
        let (channels, progress) = {
            let mut output = lock(output);
            (Channels::new(max_output, room, &start, output.redactor()), output.part(start))
        };
        Self { prefix, output, channels, progress }
    }

    /// How far it has come, for the records.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The last lines, and what is kept for the record.
    pub(super) fn finish(mut self, outcome: &Outcome) -> Collected {
        let (prefix, output, progress) = (self.prefix.as_bytes(), self.output, &self.progress);
        self.channels.finish(&mut |stream, out| {
            if let Out::Line(line, _) = out {
                lock(output).lines_of(progress, stream, &[prefix, line, b"\n"].concat());
            }
        });
        self.system(&outcome.verdict.to_string());
        self.settle();
        self.channels.collected()
    }
}

impl Output for Prefixed<'_> {
    fn bytes(&mut self, stream: Stream, data: &[u8]) {
        let (mut sent, mut new) = (Vec::new(), Vec::with_capacity(data.len()));
        self.channels.take(stream, data, &mut |out| {
            let Out::Line(line, was_sent) = out else { return };
            let text = if was_sent { &mut sent } else { &mut new };
            [self.prefix.as_bytes(), line, b"\n"].iter().for_each(|part| text.extend_from_slice(part));
        });
        let mut output = lock(self.output);
        output.keep(stream, &sent);
        output.lines_of(&self.progress, stream, &new);
    }

    fn system(&mut self, text: &str) {
        lock(self.output).system(&format!("{}{text}", self.prefix));
    }

    fn settle(&mut self) {
        let mut output = lock(self.output);
        let (prefix, progress) = (self.prefix.as_bytes(), &self.progress);
        // A mark ends no line.
        self.channels.pause(&mut |_, _| {});
        output.settle();
        self.channels.show(&mut |stream, text| output.partial_of(progress, stream, &[prefix, text].concat()));
        // Under the same lock, so that every line before this point has a number by now.
        self.channels.note(progress);
    }
}

//! What becomes of a job's output: kept for the result, cut into lines, sent on live.
//!
//! Bytes come in as the executor reads them. Each stream's bytes go into a [`Capture`] (head and tail, for the result)
//! and through a [`Splitter`] into lines, which are numbered and handed to the live log. Nothing here grows with what
//! a script prints.

use std::time::SystemTime;

use crate::job::{Output, Stream};
use crate::limits;
use crate::logs::{Flushed, JobStream};
use crate::metrics;
use crate::wire::capture::Capture;
use crate::wire::lines::{Line, Splitter};

/// One stream of a job.
struct Channel {
    stream: Stream,
    capture: Capture,
    splitter: Splitter,
    lines: u64,
}

/// The output of one job.
pub struct JobOutput {
    channels: [Channel; 2],
    live: JobStream,
    system_lines: u64,
}

/// What is left of a job's output when it has ended.
#[derive(Debug, Default)]
pub struct Collected {
    pub stdout: String,
    pub stderr: String,
    /// Bytes that the script printed, kept or not.
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// Lines of stdout and stderr.
    pub lines: u64,
}

impl JobOutput {
    /// `max_output` bytes are kept of each stream (`jobs.maxOutput`).
    pub fn new(max_output: usize, live: JobStream) -> Self {
        let channel = |stream| Channel {
            stream,
            capture: Capture::new(max_output),
            splitter: Splitter::new(limits::LINE_MAX),
            lines: 0,
        };
        Self { channels: [channel(Stream::Stdout), channel(Stream::Stderr)], live, system_lines: 0 }
    }

    /// The script has ended: last lines without a newline are lines too.
    pub fn finish(&mut self) {
        let at = SystemTime::now();
        for channel in &mut self.channels {
            let (live, lines, stream) = (&mut self.live, &mut channel.lines, channel.stream);
            channel.splitter.finish(&mut |line| {
                *lines += 1;
                pass_on(live, stream, line, at);
            });
        }
        self.settle();
    }

    /// Waits at most `wait` until the live log has sent all of it.
    pub fn flush(self, wait: std::time::Duration) -> (Collected, Flushed) {
        let flushed = self.live.finish(wait);
        let [stdout, stderr] = self.channels;
        metrics::log_lines(Stream::Stdout, stdout.lines);
        metrics::log_lines(Stream::Stderr, stderr.lines);
        metrics::log_lines(Stream::System, self.system_lines);
        let collected = Collected {
            stdout_bytes: stdout.capture.total(),
            stderr_bytes: stderr.capture.total(),
            lines: stdout.lines + stderr.lines,
            stdout: stdout.capture.into_text(),
            stderr: stderr.capture.into_text(),
        };
        (collected, flushed)
    }
}

/// One line to the live log; a cut line carries a marker that says how much is missing.
fn pass_on(live: &mut JobStream, stream: Stream, line: Line<'_>, at: SystemTime) {
    match line {
        Line::Whole(bytes) => live.line(stream, bytes, at),
        Line::Cut { kept, dropped } => {
            let mut text = kept.to_vec();
            text.extend_from_slice(format!(" […{dropped} bytes of this line were left out]").as_bytes());
            live.line(stream, &text, at);
        }
    }
}

impl Output for JobOutput {
    fn bytes(&mut self, stream: Stream, data: &[u8]) {
        let channel = match stream {
            Stream::Stdout => &mut self.channels[0],
            Stream::Stderr => &mut self.channels[1],
            // The engine's own words about the stream.
            Stream::System => return self.system(String::from_utf8_lossy(data).trim_end()),
        };
        channel.capture.push(data);
        let at = SystemTime::now();
        let (live, lines) = (&mut self.live, &mut channel.lines);
        channel.splitter.feed(data, &mut |line| {
            *lines += 1;
            pass_on(live, stream, line, at);
        });
    }

    fn system(&mut self, text: &str) {
        self.system_lines += 1;
        log::info!("{text}");
        for line in text.lines() {
            self.live.line(Stream::System, line.as_bytes(), SystemTime::now());
        }
    }

    fn settle(&mut self) {
        self.live.settle();
    }
}

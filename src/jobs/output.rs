//! What becomes of a job's output: kept for the result, cut into lines, sent on live.
//!
//! Bytes come in as the executor reads them. Each stream's bytes go into a [`Capture`] (head and tail, for the result)
//! and through a [`Splitter`] into lines, which are numbered and handed to the live log. Nothing here grows with what
//! a script prints.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::job::{Output, Stream};
use crate::jobs::page_updates::Page;
use crate::jobs::record::Delivered;
use crate::jobs::unfinished::Unfinished;
use crate::limits;
use crate::logs::{Flushed, JobStream, Mark, Origin};
use crate::metrics;
use crate::os::clock;
use crate::wire::capture::Capture;
use crate::wire::lines::{Line, Splitter};

/// One stream of a job.
struct Channel {
    stream: Stream,
    capture: Capture,
    splitter: Splitter,
    lines: u64,
    /// Bytes that an earlier agent had sent on as lines: they are kept for the result, and not sent again.
    skip: u64,
    /// Bytes up to the end of the last whole line.
    passed: u64,
    unfinished: Unfinished,
}

/// The output of one job.
pub struct JobOutput {
    channels: [Channel; 2],
    live: JobStream,
    system_lines: u64,
    progress: Arc<Progress>,
    /// Servers of several whose lines go through this output.
    parts: u32,
    /// Said before whatever comes next.
    announced: Option<&'static str>,
    page: Option<Arc<Page>>,
}

/// How far a job's output has come, for the records: shared by its worker and whoever writes that down.
#[derive(Debug, Default)]
pub struct Progress {
    mark: Mark,
    /// Where its lines come from: 0 is the job, others are its servers.
    part: u32,
    /// Places at line ends, oldest first, each with how many lines were taken before it.
    places: Mutex<VecDeque<(u64, Delivered)>>,
}

impl Progress {
    fn from(mark: Mark, part: u32, delivered: Delivered) -> Self {
        let progress = Self { mark, part, places: Mutex::new(VecDeque::from([(0, delivered)])) };
        for (stream, sequence) in [Stream::Stdout, Stream::Stderr].into_iter().zip(delivered.open) {
            if sequence > 0 {
                progress.mark.keep_open(progress.origin(stream), sequence);
            }
        }
        progress
    }

    /// The latest place up to which all lines have arrived; without a live log, up to which all were read.
    pub fn delivered(&self) -> Delivered {
        let arrived = self.mark.numbers().arrived;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        while places.len() > 1 && (!self.mark.is_live() || places[1].0 <= arrived) {
            places.pop_front();
        }
        places.front().map(|(_, place)| *place).unwrap_or_default()
    }

    /// The last number given to a live line.
    pub fn given(&self) -> u64 {
        self.mark.numbers().sequence
    }

    /// What `stream` of it is to the live log.
    pub fn origin(&self, stream: Stream) -> Origin {
        Origin { part: self.part, stream }
    }

    /// Notes the place after so many bytes and lines.
    pub fn note_at(&self, stdout: u64, stderr: u64, lines: u64) {
        let origins = [self.origin(Stream::Stdout), self.origin(Stream::Stderr)];
        let (numbers, open) = self.mark.numbers_and_open(origins);
        let (sequence, live) = (numbers.sequence, self.mark.is_live());
        self.note((numbers.taken, Delivered { stdout, stderr, lines, sequence, live, open }));
    }

    /// Notes a place. Where there are many, every other is let go: a coarser place only means more lines sent twice.
    fn note(&self, place: (u64, Delivered)) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.back().is_some_and(|last| *last == place) {
            return;
        }
        if places.len() >= limits::PROGRESS_PLACES {
            let mut odd = false;
            places.retain(|_| {
                odd = !odd;
                odd
            });
        }
        places.push_back(place);
    }
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
        Self::resume(max_output, live, Delivered::default())
    }

    /// The output of a job that an earlier agent began; all of it will come once more, from the beginning.
    pub fn resume(max_output: usize, live: JobStream, delivered: Delivered) -> Self {
        let channel = |stream, skip, lines| Channel {
            stream,
            capture: Capture::new(max_output),
            splitter: Splitter::new(limits::LINE_MAX),
            lines,
            skip,
            passed: skip,
            unfinished: Unfinished::default(),
        };
        let channels =
            [channel(Stream::Stdout, delivered.stdout, delivered.lines), channel(Stream::Stderr, delivered.stderr, 0)];
        let progress = Arc::new(Progress::from(live.mark(), 0, delivered));
        Self { channels, live, system_lines: 0, progress, parts: 0, announced: None, page: None }
    }

    /// What the script prints goes to this page too.
    pub(in crate::jobs) fn show_on(&mut self, page: Option<Arc<Page>>) {
        self.page = page;
    }

    /// No update of the page is sent from here on.
    pub(in crate::jobs) fn close_page(&mut self) {
        if let Some(page) = self.page.take() {
            page.close();
        }
    }

    /// How far it has come, for others.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Places for one server of several whose lines go through this output; `delivered` is the first.
    pub fn part(&mut self, delivered: Delivered) -> Arc<Progress> {
        self.parts += 1;
        Arc::new(Progress::from(self.progress.mark.clone(), self.parts, delivered))
    }

    /// Whole lines of such a server.
    pub fn lines_of(&mut self, part: &Progress, stream: Stream, data: &[u8]) {
        self.take(part.origin(stream), data);
    }

    /// What there is of a line of such a server that has not ended. Whether it was taken.
    pub fn partial_of(&mut self, part: &Progress, stream: Stream, text: &[u8]) -> bool {
        self.live.partial(part.origin(stream), text, clock::wall())
    }

    /// A line of the agent's own that is said as soon as anything else comes of the script, and never if nothing does: a
    /// job that turns out not to have begun goes back to the queue, and its next run numbers its lines anew.
    pub fn announce(&mut self, text: &'static str) {
        self.announced = Some(text);
    }

    fn say_announced(&mut self) {
        if let Some(text) = self.announced.take() {
            self.system(text);
        }
    }

    /// Whole lines that an earlier agent had sent on: they are kept for the result, and not sent again.
    pub fn again(&mut self, stream: Stream, data: &[u8]) {
        self.channels[usize::from(stream != Stream::Stdout)].capture.push(data);
    }

    /// The script has ended: last lines without a newline are lines too.
    pub fn finish(&mut self) {
        let at = clock::wall();
        for channel in &mut self.channels {
            let (live, lines, stream) = (&mut self.live, &mut channel.lines, channel.stream);
            channel.splitter.finish(&mut |line| {
                *lines += 1;
                pass_on(live, stream.into(), line, at);
            });
            channel.unfinished = Unfinished::default();
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

/// One line to the live log; a cut line carries a marker that says how much is missing, in its place.
fn pass_on(live: &mut JobStream, origin: Origin, line: Line<'_>, at: SystemTime) {
    match line {
        Line::Whole(bytes) => live.line(origin, bytes, at),
        Line::Cut { kept, dropped } => {
            let mut text = kept.to_vec();
            text.extend_from_slice(format!(" […{dropped} bytes of this line were left out]").as_bytes());
            live.line(origin, &text, at);
        }
        Line::Last { kept, dropped } => {
            let mut text = format!("[…{dropped} bytes of this line were left out] ").into_bytes();
            text.extend_from_slice(kept);
            live.line(origin, &text, at);
        }
    }
}

impl JobOutput {
    /// Bytes of the job's script, or whole lines of one of its servers.
    fn take(&mut self, origin: Origin, data: &[u8]) {
        self.say_announced();
        let channel = match origin.stream {
            Stream::Stdout => &mut self.channels[0],
            Stream::Stderr => &mut self.channels[1],
            // The engine's own words about the stream.
            Stream::System => return self.system(String::from_utf8_lossy(data).trim_end()),
        };
        channel.capture.push(data);
        if let Some(page) = &self.page {
            page.push(data);
        }
        let sent = usize::try_from(channel.skip).unwrap_or(usize::MAX).min(data.len());
        channel.skip -= sent as u64;
        let data = &data[sent..];
        if let Some(end) = data.iter().rposition(|&b| b == b'\n') {
            channel.passed = channel.capture.total() - (data.len() - end - 1) as u64;
        }
        let at = clock::wall();
        let before = channel.lines;
        let (live, lines) = (&mut self.live, &mut channel.lines);
        channel.splitter.feed(data, &mut |line| {
            *lines += 1;
            pass_on(live, origin, line, at);
        });
        if !data.is_empty() {
            channel.unfinished.fed(&channel.splitter, channel.lines > before);
        }
    }
}

impl Output for JobOutput {
    fn bytes(&mut self, stream: Stream, data: &[u8]) {
        self.take(stream.into(), data);
    }

    fn system(&mut self, text: &str) {
        self.say_announced();
        self.system_lines += 1;
        log::info!("{text}");
        for line in text.lines() {
            self.live.line(Stream::System, line.as_bytes(), clock::wall());
        }
    }

    fn lost_beginning(&mut self) {
        for channel in &mut self.channels {
            channel.skip = 0;
        }
        self.system("the kept copy of the output has lost its beginning: lines may be missing, or come twice");
    }

    fn settle(&mut self) {
        self.live.settle();
        for channel in &mut self.channels {
            let (live, origin) = (&mut self.live, channel.stream.into());
            channel.unfinished.show(&channel.splitter, |text| live.partial(origin, &text, clock::wall()));
        }
        let [stdout, stderr] = &self.channels;
        self.progress.note_at(stdout.passed, stderr.passed, stdout.lines + stderr.lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::LogStreamer;

    fn output(delivered: Delivered) -> JobOutput {
        let live = LogStreamer::disabled().open(&crate::job::Id::parse("a").expect("id"));
        JobOutput::resume(1000, live, delivered)
    }

    #[test]
    fn a_place_is_at_the_end_of_a_line_and_going_on_from_it_repeats_nothing() {
        let text = b"one\ntwo\nthr";
        for split in 0..=text.len() {
            let mut first = output(Delivered::default());
            for part in [&text[..split], &text[split..]] {
                first.bytes(Stream::Stdout, part);
                first.settle();
            }
            let place = first.progress().delivered();
            assert_eq!((place.stdout, place.stderr, place.lines), (8, 0, 2), "split at {split}");
            let mut second = output(place);
            second.bytes(Stream::Stdout, &text[..split]);
            second.bytes(Stream::Stdout, &text[split..]);
            second.bytes(Stream::Stdout, b"ee\n");
            second.settle();
            let place = second.progress().delivered();
            assert_eq!((place.stdout, place.lines), (14, 3), "split at {split}");
            let (collected, _) = second.flush(std::time::Duration::ZERO);
            assert_eq!((collected.stdout.as_str(), collected.lines), ("one\ntwo\nthree\n", 3));
        }
    }

    #[test]
    fn what_is_announced_is_said_once_something_came_of_the_script() {
        let mut silent = output(Delivered::default());
        silent.announce("going on");
        silent.settle();
        assert_eq!(silent.system_lines, 0, "a job that never began goes back without a word");
        for speak in [
            (|output: &mut JobOutput| output.bytes(Stream::Stderr, b"")) as fn(&mut JobOutput),
            |output| output.bytes(Stream::Stdout, b"a"),
            |output| output.system("it ended"),
        ] {
            let mut heard = output(Delivered::default());
            heard.announce("going on");
            speak(&mut heard);
            let once = heard.system_lines;
            speak(&mut heard);
            assert!(once >= 1 && heard.system_lines <= once + 1 && heard.announced.is_none());
        }
    }

    #[test]
    fn the_places_are_bounded() {
        let progress = Progress::default();
        for n in 0..10 * limits::PROGRESS_PLACES as u64 {
            progress.note((n, Delivered { stdout: n, sequence: n, ..Delivered::default() }));
            assert!(progress.places.lock().expect("lock").len() <= limits::PROGRESS_PLACES);
        }
        assert_eq!(progress.delivered().stdout, 10 * limits::PROGRESS_PLACES as u64 - 1);
    }
}

//! What becomes of a job's output: freed of secrets, kept for the result, cut into lines, sent on live.
//!
//! Bytes come in as the executor reads them. [`Channels`] takes secrets out of them first of all, keeps head and tail of each stream for the result and cuts the
//! lines, which the live log numbers and sends. Nothing here grows with what a script prints.

use std::sync::Arc;

use crate::job::{Output, Stream};
use crate::jobs::channel::{Channels, Collected, Out};
use crate::jobs::page_updates::Page;
use crate::jobs::resume::{Progress, ResumePoint};
use crate::limits;
use crate::logs::{Flushed, JobStream, Origin};
use crate::metrics;
use crate::os::clock;
use crate::redact::Redactor;

/// The output of one job.
pub struct JobOutput {
    channels: Channels,
    live: JobStream,
    redactor: Redactor,
    system_lines: u64,
    progress: Arc<Progress>,
    /// Servers of several whose lines go through this output.
    parts: u32,
    /// Said before whatever comes next.
    announced: Vec<String>,
    page: Option<Arc<Page>>,
}

impl JobOutput {
    /// `max_output` bytes are kept of each stream (`jobs.maxOutput`), without the secrets that `redactor` knows.
    pub fn new(max_output: usize, live: JobStream, redactor: &Redactor) -> Self {
        Self::resume(max_output, live, ResumePoint::default(), redactor)
    }

    /// The output of a job that an earlier agent began. All of it comes once more, from its first byte.
    pub fn resume(max_output: usize, live: JobStream, start: ResumePoint, redactor: &Redactor) -> Self {
        let channels = Channels::new(max_output, limits::LINE_MAX, &start, redactor);
        let (redactor, progress) = (redactor.clone(), Arc::new(Progress::from(live.mark(), 0, start)));
        Self { channels, live, redactor, system_lines: 0, progress, parts: 0, announced: Vec::new(), page: None }
    }

    /// The same for lines of several servers, which come without secrets.
    pub(in crate::jobs) fn of_lines(self, max_output: usize) -> Self {
        let start = self.progress.point();
        let channels = Channels::new(max_output, limits::LINE_MAX, &start, &Redactor::default());
        Self { channels, ..self }
    }

    /// By which the job's secrets stay here.
    pub(in crate::jobs) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// What the script prints goes to this page too.
    pub(in crate::jobs) fn show_on(&mut self, page: Option<Arc<Page>>) {
        self.page = page;
    }

    /// No update of the page is sent from here on. The page if one is under way.
    pub(in crate::jobs) fn shut_page(&mut self) -> Option<Arc<Page>> {
        self.page.take().filter(|page| page.shut())
    }

    /// How far it has come, for others.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The progress of one server of several whose lines go through this output.
    pub fn part(&mut self, start: ResumePoint) -> Arc<Progress> {
        self.parts += 1;
        Arc::new(self.progress.of_part(self.parts, start))
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
    pub fn announce(&mut self, text: impl Into<String>) {
        self.announced.push(text.into());
    }

    fn say_announced(&mut self) {
        for text in std::mem::take(&mut self.announced) {
            self.system(&text);
        }
    }

    /// Whole lines that an earlier agent sent: they are kept for the result.
    pub fn keep(&mut self, stream: Stream, lines: &[u8]) {
        self.channels.keep(stream, lines);
    }

    /// The script has ended: last lines without a newline are lines too.
    pub fn finish(&mut self) {
        {
            let (channels, mut sink) = self.parts_of();
            channels.finish(&mut |stream, out| sink(stream.into(), out));
        }
        self.settle();
    }

    /// The channels, and where what goes on of them goes.
    fn parts_of(&mut self) -> (&mut Channels, impl FnMut(Origin, Out<'_>)) {
        let (live, page, at) = (&mut self.live, &self.page, clock::wall());
        let sink = move |origin, out: Out<'_>| match (out, page) {
            (Out::Bytes(bytes), Some(page)) if !bytes.is_empty() => page.push(bytes),
            (Out::Line(line, false), _) => live.line(origin, line, at),
            _ => {}
        };
        (&mut self.channels, sink)
    }

    /// Waits at most `wait` until the live log has sent all of it.
    pub fn flush(self, wait: std::time::Duration) -> (Collected, Flushed) {
        let (collected, live) = self.end();
        (collected, live.finish(wait))
    }

    /// The result, and what the live log has yet to send.
    pub(in crate::jobs) fn end(self) -> (Collected, JobStream) {
        let [stdout, stderr] = self.channels.lines();
        metrics::log_lines(Stream::Stdout, stdout);
        metrics::log_lines(Stream::Stderr, stderr);
        metrics::log_lines(Stream::System, self.system_lines);
        (self.channels.collected(), self.live)
    }

    /// Bytes of the job's script, or whole lines of one of its servers.
    fn take(&mut self, origin: Origin, data: &[u8]) {
        if origin.stream == Stream::System {
            // The engine's own words about the stream.
            return self.system(String::from_utf8_lossy(data).trim_end());
        }
        self.say_announced();
        let (channels, mut sink) = self.parts_of();
        channels.take(origin.stream, data, &mut |out| sink(origin, out));
    }
}

impl Output for JobOutput {
    fn bytes(&mut self, stream: Stream, data: &[u8]) {
        self.take(stream.into(), data);
    }

    fn system(&mut self, text: &str) {
        self.say_announced();
        let text = &*self.redactor.text(text);
        self.system_lines += 1;
        log::info!("{text}");
        for line in text.lines() {
            self.live.line(Stream::System, line.as_bytes(), clock::wall());
        }
    }

    fn lost_beginning(&mut self) {
        {
            let (channels, mut sink) = self.parts_of();
            channels.lose_beginning(&mut |stream, out| sink(stream.into(), out));
        }
        self.system("the kept copy of the output has lost its beginning: lines may be missing, or come twice");
    }

    fn settle(&mut self) {
        {
            let (channels, mut sink) = self.parts_of();
            channels.pause(&mut |stream, out| sink(stream.into(), out));
        }
        let live = &mut self.live;
        live.settle();
        self.channels.show(&mut |stream, text| live.partial(stream.into(), text, clock::wall()));
        self.channels.note(&self.progress);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::LogStreamer;

    fn output(start: ResumePoint) -> JobOutput {
        let live = LogStreamer::disabled().open(&crate::job::Id::parse("a").expect("id"));
        JobOutput::resume(1000, live, start, &Redactor::default())
    }

    #[test]
    fn a_place_is_at_the_end_of_a_line_and_going_on_from_it_repeats_nothing() {
        let text = b"one\ntwo\nthr";
        for split in 0..=text.len() {
            let mut first = output(ResumePoint::default());
            for part in [&text[..split], &text[split..]] {
                first.bytes(Stream::Stdout, part);
                first.settle();
            }
            let place = first.progress().point();
            assert_eq!((place.stdout, place.stderr, place.lines), (8, 0, 2), "split at {split}");
            let mut second = output(place);
            second.bytes(Stream::Stdout, &text[..split]);
            second.bytes(Stream::Stdout, &text[split..]);
            second.bytes(Stream::Stdout, b"ee\n");
            second.settle();
            let place = second.progress().point();
            assert_eq!((place.stdout, place.lines), (14, 3), "split at {split}");
            let (collected, _) = second.flush(std::time::Duration::ZERO);
            assert_eq!((collected.stdout.as_str(), collected.lines), ("one\ntwo\nthree\n", 3));
        }
    }

    #[test]
    fn what_is_announced_is_said_once_something_came_of_the_script() {
        let mut silent = output(ResumePoint::default());
        silent.announce("going on");
        silent.settle();
        assert_eq!(silent.system_lines, 0, "a job that never began goes back without a word");
        for speak in [
            (|output: &mut JobOutput| output.bytes(Stream::Stderr, b"")) as fn(&mut JobOutput),
            |output| output.bytes(Stream::Stdout, b"a"),
            |output| output.system("it ended"),
        ] {
            let mut heard = output(ResumePoint::default());
            heard.announce("going on");
            speak(&mut heard);
            let once = heard.system_lines;
            speak(&mut heard);
            assert!(once >= 1 && heard.system_lines <= once + 1 && heard.announced.is_empty());
        }
    }
}

//! One stream of a script: kept for the result, cut into lines, and gone on with from a resume point.

use std::borrow::Cow;
use std::time::Instant;

use crate::job::Stream;
use crate::jobs::resume::{Progress, ResumePoint};
use crate::limits;
use crate::os::clock;
use crate::redact::{self, Redactor};
use crate::wire::capture::Capture;
use crate::wire::lines::{Line, Splitter};

/// Longest mark in a line that was cut.
pub(in crate::jobs) const MARK_MAX: usize = 80;

/// stdout and stderr of a script.
pub(in crate::jobs) struct Channels([Channel; 2]);

/// One of them.
struct Channel {
    stream: Stream,
    /// Takes secrets out before anything else sees the bytes.
    redact: redact::Stream,
    /// When the last bytes came.
    heard: Option<Instant>,
    cut: Cutter,
}

/// What becomes of bytes without secrets in them.
struct Cutter {
    kept: Capture,
    splitter: Splitter,
    /// Bytes that the script printed, and that came here.
    taken: u64,
    /// Bytes to come that an earlier agent sent.
    sent: u64,
    /// Bytes up to the end of the last whole line.
    line_end: u64,
    lines: u64,
    unfinished: Unfinished,
}

/// What goes on of a stream.
pub(in crate::jobs) enum Out<'a> {
    /// All of it, as it comes.
    Bytes(&'a [u8]),
    /// A line, and whether an earlier agent sent it.
    Line(&'a [u8], bool),
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

impl Channels {
    /// Keeps `max_output` bytes of each stream, and cuts lines at `line_max`. All output comes from its first byte; what
    /// lies before `start` was sent. Offsets are those of the script's own bytes, with the secrets of `redactor` in them.
    pub(in crate::jobs) fn new(max_output: usize, line_max: usize, start: &ResumePoint, redactor: &Redactor) -> Self {
        let channel = |stream, sent, lines| Channel {
            stream,
            redact: redactor.stream(),
            heard: None,
            cut: Cutter {
                kept: Capture::new(max_output),
                splitter: Splitter::new(line_max),
                taken: 0,
                sent,
                line_end: sent,
                lines,
                unfinished: Unfinished::default(),
            },
        };
        // The lines before `start` are not separated by stream.
        Self([channel(Stream::Stdout, start.stdout, start.lines), channel(Stream::Stderr, start.stderr, 0)])
    }

    fn of(&mut self, stream: Stream) -> &mut Channel {
        &mut self.0[usize::from(stream != Stream::Stdout)]
    }

    /// Keeps bytes for the result and does nothing else with them.
    pub(in crate::jobs) fn keep(&mut self, stream: Stream, data: &[u8]) {
        let cut = &mut self.of(stream).cut;
        cut.taken += data.len() as u64;
        cut.kept.push(data);
    }

    /// Takes bytes of the script, and hands to `pass` what is decided of them.
    pub(in crate::jobs) fn take(&mut self, stream: Stream, data: &[u8], pass: &mut dyn FnMut(Out<'_>)) {
        let Channel { redact, heard, cut, .. } = self.of(stream);
        redact.feed(data, &mut |bytes, stands_for| cut.take(bytes, stands_for, pass));
        *heard = redact.is_waiting().then(clock::now);
    }

    /// No bytes come now. Once that has lasted, nothing of an unfinished secret waits.
    pub(in crate::jobs) fn pause(&mut self, pass: &mut dyn FnMut(Stream, Out<'_>)) {
        for Channel { stream, redact, heard, cut } in &mut self.0 {
            if heard.is_some_and(|heard| clock::since(heard) >= limits::REDACT_HOLD) {
                redact.pause(&mut |bytes, stands_for| cut.take(bytes, stands_for, &mut |out| pass(*stream, out)));
                *heard = None;
            }
        }
    }

    /// The script has ended: what has no newline is a line too.
    pub(in crate::jobs) fn finish(&mut self, pass: &mut dyn FnMut(Stream, Out<'_>)) {
        for Channel { stream, redact, cut, .. } in &mut self.0 {
            let pass = &mut |out: Out<'_>| pass(*stream, out);
            redact.finish(&mut |bytes, stands_for| cut.take(bytes, stands_for, pass));
            cut.splitter.finish(&mut |line| {
                cut.lines += 1;
                pass(Out::Line(&shown(line), false));
            });
            cut.unfinished = Unfinished::default();
        }
    }

    /// Gives `show` the lines that have not ended and are to be shown. What it does not take is offered again later.
    pub(in crate::jobs) fn show(&mut self, show: &mut dyn FnMut(Stream, &[u8]) -> bool) {
        for Channel { stream, cut, .. } in &mut self.0 {
            cut.unfinished.show(&cut.splitter, |text| show(*stream, &text));
        }
    }

    /// Notes the end of the last whole lines as a place to resume at.
    pub(in crate::jobs) fn note(&self, progress: &Progress) {
        let [stdout, stderr] = &self.0;
        progress.note([stdout.cut.line_end, stderr.cut.line_end], stdout.cut.lines + stderr.cut.lines);
    }

    /// The following bytes are not those that an earlier agent sent, and begin anywhere.
    pub(in crate::jobs) fn lose_beginning(&mut self, pass: &mut dyn FnMut(Stream, Out<'_>)) {
        for Channel { stream, redact, cut, .. } in &mut self.0 {
            redact.lose_place(&mut |bytes, stands_for| cut.take(bytes, stands_for, &mut |out| pass(*stream, out)));
            cut.sent = 0;
        }
    }

    /// Lines of stdout and of stderr.
    pub(in crate::jobs) fn lines(&self) -> [u64; 2] {
        [self.0[0].cut.lines, self.0[1].cut.lines]
    }

    /// What is kept.
    pub(in crate::jobs) fn collected(self) -> Collected {
        let [Channel { cut: stdout, .. }, Channel { cut: stderr, .. }] = self.0;
        Collected {
            stdout_bytes: stdout.taken,
            stderr_bytes: stderr.taken,
            lines: stdout.lines + stderr.lines,
            stdout: stdout.kept.into_text(),
            stderr: stderr.kept.into_text(),
        }
    }
}

impl Cutter {
    /// Takes bytes that stand for as many of the script's: the same ones, or a mark.
    fn take(&mut self, bytes: &[u8], stands_for: usize, pass: &mut dyn FnMut(Out<'_>)) {
        self.kept.push(bytes);
        self.taken += stands_for as u64;
        pass(Out::Bytes(bytes));
        let sent = usize::try_from(self.sent).unwrap_or(usize::MAX).min(stands_for);
        self.sent -= sent as u64;
        // A mark that stands for more than was sent is new.
        let (sent, new) = match bytes.len() == stands_for || sent == stands_for {
            true => bytes.split_at(sent.min(bytes.len())),
            false => (&[][..], bytes),
        };
        // A resume point is at the end of a line, so that no line is half on either side.
        self.splitter.feed(sent, &mut |line| pass(Out::Line(&shown(line), true)));
        if new.is_empty() {
            return;
        }
        let before = self.lines;
        self.splitter.feed(new, &mut |line| {
            self.lines += 1;
            pass(Out::Line(&shown(line), false));
        });
        if let Some(end) = new.iter().rposition(|&b| b == b'\n') {
            self.line_end = self.taken - (new.len() - end - 1) as u64;
        }
        self.unfinished.fed(&self.splitter, self.lines > before);
    }
}

/// The text of a line. One that was cut says where and how much is missing.
fn shown(line: Line<'_>) -> Cow<'_, [u8]> {
    let mark = |dropped| format!("[…{dropped} bytes of this line were left out]").into_bytes();
    match line {
        Line::Whole(bytes) => Cow::Borrowed(bytes),
        Line::Cut { kept, dropped } => Cow::Owned([kept, b" ", mark(dropped).as_slice()].concat()),
        Line::Last { kept, dropped } => Cow::Owned([mark(dropped).as_slice(), b" ", kept].concat()),
    }
}

/// Whether the unfinished line of a stream is to be shown.
///
/// A prompt, a row of dots or a progress bar may stay without a newline for hours. Such a line is shown once it has been
/// new for a while, and again when there is more of it. A chatty stream never comes to that: each read ends the line that
/// the one before had begun. The worker looks with every read and every tick, without a thread.
#[derive(Debug, Default)]
struct Unfinished {
    /// When the first byte came that was not shown.
    since: Option<Instant>,
    /// As much of this line was shown as is held of it: nothing new can be.
    full: bool,
}

impl Unfinished {
    /// Bytes came. `ended`: a line ended in them.
    fn fed(&mut self, splitter: &Splitter, ended: bool) {
        if ended {
            *self = Self::default();
        }
        if splitter.is_between_lines() {
            self.since = None;
        } else if self.since.is_none() && !(self.full && splitter.is_cut()) {
            self.since = Some(clock::now());
        }
    }

    /// What is to be shown, if it is time, as it is given to `show`. What that does not take is offered again later.
    fn show(&mut self, splitter: &Splitter, show: impl FnOnce(Vec<u8>) -> bool) {
        if self.since.is_none_or(|since| clock::since(since) < limits::LOG_PARTIAL_AFTER) {
            return;
        }
        let shown = splitter.shown();
        if shown.is_empty() {
            self.since = None;
        } else if show(cut(shown)) {
            self.since = None;
            self.full = splitter.is_cut();
        } else {
            self.since = Some(clock::now());
        }
    }
}

/// The end of what is shown: that is where it changes.
fn cut(shown: &[u8]) -> Vec<u8> {
    let mut from = shown.len().saturating_sub(limits::LOG_PARTIAL_BYTES);
    if from == 0 {
        return shown.to_vec();
    }
    // Not inside a character, of which at most three bytes may be left.
    from += shown[from..].iter().take(3).take_while(|&&byte| matches!(byte, 0x80..=0xBF)).count();
    let mut text = format!("[…{from} bytes] ").into_bytes();
    text.extend_from_slice(&shown[from..]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_unfinished_line_the_end_is_shown() {
        assert_eq!(cut(b"50 %"), b"50 %");
        let exact = "x".repeat(limits::LOG_PARTIAL_BYTES);
        assert_eq!(cut(exact.as_bytes()), exact.as_bytes());
        let text = cut(format!("abc{exact}").as_bytes());
        assert_eq!(text, format!("[…3 bytes] {exact}").as_bytes());
        for extra in 1..=4 {
            let text = format!("{}{}", "€".repeat(limits::LOG_PARTIAL_BYTES), "y".repeat(extra));
            let shown = String::from_utf8(cut(text.as_bytes())).expect("whole characters");
            assert!(shown.len() <= limits::LOG_PARTIAL_BYTES + 20 && shown.ends_with(&"y".repeat(extra)), "{extra}");
        }
    }
}

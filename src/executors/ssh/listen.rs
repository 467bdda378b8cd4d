//! Reads one session of a run to its end: hands on the script's output, sends signals, and returns what the session's end
//! proves about the script.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::executors::control::Signal;
use crate::executors::shell;
use crate::executors::ssh::connection::{Event, Next, Session};
use crate::executors::ssh::helper_calls::HelperCalls;
use crate::executors::ssh::place;
use crate::executors::ssh::preamble::Preamble;
use crate::executors::ssh::run::{Heard, Run, Start, Wished};
use crate::job::{Output, Stream};
use crate::limits;

impl Run<'_> {
    /// Reads one session to its end.
    pub(super) fn listen(&mut self, session: &Session, nonce: &str, output: &mut dyn Output) -> Heard {
        let mut preamble = Preamble::new(nonce);
        let mut sent_here = None;
        let (mut heard_at, mut looked_at) = (Instant::now(), Instant::now());
        loop {
            if self.control.is_detached() {
                return Heard::Detached;
            }
            if let Some(heard) = self.hand_over(&preamble, session) {
                return heard;
            }
            if preamble.is_over() && self.wanted > sent_here {
                sent_here = self.wanted;
                self.sent = self.sent.max(self.wanted);
                let word = if self.wanted == Some(Signal::Kill) { "KILL\n" } else { "TERM\n" };
                session.send(word.as_bytes().to_vec());
            }
            match session.next(&self.wishes, limits::FOLLOW_TICK) {
                Next::Wish(signal) => {
                    self.wanted = self.wanted.max(Some(signal));
                    if signal == Signal::Kill {
                        // Each KILL is sent: the first may have come before its target existed.
                        sent_here = None;
                    }
                }
                Next::Event(Event::Bytes(stream, bytes)) => {
                    (heard_at, looked_at) = (Instant::now(), Instant::now());
                    let before = self.taken;
                    self.bytes(&mut preamble, stream, &bytes, output);
                    if self.taken != before {
                        self.cuts.0 = 0;
                    }
                    if preamble.is_over() {
                        self.mute_since = None;
                    }
                    if !session.has_more() {
                        output.settle();
                    }
                    if self.started.is_none() && preamble.is_over() {
                        self.starts_now(self.timeout.0);
                    }
                    if let Some(api) = self.task.helpers.as_ref().filter(|_| self.calls.is_none() && preamble.is_over())
                    {
                        self.calls = HelperCalls::start(api, self.shared, self.server, &self.place);
                    }
                }
                Next::Event(Event::End(status)) => return self.ended(&preamble, status, heard_at.elapsed()),
                Next::Event(Event::Broken(error)) => return Heard::Broken(error),
                Next::Quiet if self.control.is_given_up() => return Heard::GivenUp,
                Next::Quiet if self.started.is_none() && Instant::now() >= self.until => return Heard::Late,
                Next::Quiet if preamble.missing().is_some() && heard_at.elapsed() >= limits::SSH_BOTH_STREAMS => {
                    return Heard::Streams(preamble.missing().map_or("a stream", Stream::as_str));
                }
                Next::Quiet if self.started.is_none() && self.control.reason().is_some() => {
                    // Stopped before it was seen to start: from now on a signal can reach it.
                    self.control.set_target(Arc::new(Wished(self.wisher.clone())));
                }
                Next::Quiet if preamble.is_over() && looked_at.elapsed() >= self.look => {
                    looked_at = Instant::now();
                    session.send(b"LOOK\n".to_vec());
                }
                Next::Quiet => output.settle(),
            }
        }
    }

    /// Sends the script when the server's shell is ready; returns why it is not sent otherwise.
    fn hand_over(&mut self, preamble: &Preamble, session: &Session) -> Option<Heard> {
        if preamble.is_crossed() {
            return Some(Heard::Streams("stdout and stderr together"));
        }
        if !preamble.is_ready() {
            return None;
        }
        if let Some(place) = preamble.place() {
            self.place.temp_dir = place.to_owned();
        }
        if matches!(self.start, Start::Waits(_)) {
            if self.control.reason().is_some() {
                return Some(Heard::Unwanted);
            }
            if !self.control.begin() {
                return Some(Heard::Detached);
            }
            if let Start::Waits(program) = std::mem::replace(&mut self.start, Start::Sent) {
                session.send(program);
            }
        }
        None
    }

    /// What a session's end says about the script's end: nothing, unless its program gave the proof.
    pub(super) fn ended(&mut self, preamble: &Preamble, status: Option<i32>, silent: Duration) -> Heard {
        match preamble.word() {
            _ if preamble.is_over() && status == Some(place::PROVEN) => Heard::Over,
            _ if preamble.is_over() => {
                // Some servers close a session that is silent for this long: ask more often on the next one.
                if silent >= limits::SSH_TICK * 2 {
                    self.look = self.look.min(silent / 2);
                }
                Heard::Cut
            }
            Some(word) => Heard::Word(word.clone()),
            None => {
                self.note_noise(preamble);
                Heard::Mute(status)
            }
        }
    }

    /// Hands on the script's output.
    pub(super) fn bytes(&mut self, preamble: &mut Preamble, stream: Stream, bytes: &[u8], output: &mut dyn Output) {
        let (taken, tail) = (&mut self.taken[usize::from(stream != Stream::Stdout)], &mut self.stderr_tail);
        preamble.take(stream, bytes, &mut |bytes| {
            *taken += bytes.len() as u64;
            if stream == Stream::Stderr {
                shell::keep_tail(tail, bytes);
            }
            output.bytes(stream, bytes);
        });
    }

    fn note_noise(&mut self, preamble: &Preamble) {
        let noise = preamble.noise();
        shell::keep_tail(&mut self.stderr_tail, noise.as_bytes());
    }
}

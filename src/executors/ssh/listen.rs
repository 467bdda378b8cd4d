//! Reads one session of a run to its end: hands on the script's output, sends signals, and returns what the session's end
//! proves about the script.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::executors::control::{Signal, Target};
use crate::executors::shell;
use crate::executors::ssh::connection::{Event, Next, Session};
use crate::executors::ssh::error::Error;
use crate::executors::ssh::preamble::{Preamble, Word};
use crate::executors::ssh::remote;
use crate::executors::ssh::run::{Run, Start};
use crate::job::{Output, Stream};
use crate::limits;

/// The reaper's target: the worker, which passes the signal on over its session.
pub(super) struct Wished(pub(super) Sender<Signal>);

/// The channel of a job's signals to its worker.
pub(super) fn wishes() -> (Sender<Signal>, Receiver<Signal>) {
    bounded(limits::SSH_WISHES)
}

impl Target for Wished {
    fn signal(&self, signal: Signal) -> Result<(), String> {
        // A full queue needs no further signal.
        match self.0.try_send(signal) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err("the job's worker is gone".to_owned()),
        }
    }
}

/// How one session ended.
pub(super) enum Heard {
    /// The remote program proved that the script is over.
    Over,
    /// The program said why there is nothing to follow.
    Word(Word),
    /// It ended without that proof while following the script, which may go on.
    Cut,
    /// It ended without a word of our program.
    Mute(Option<i32>),
    /// The login's files keep one of the two streams from arriving.
    Streams(&'static str),
    Broken(Error),
    /// The job must end, and its script was not sent yet.
    Unwanted,
    /// The script cannot be ended: the server does not do it, or is out of reach.
    GivenUp,
    /// Nothing was heard of the script in time.
    Late,
    /// The agent ends.
    Detached,
}

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
                    if !session.has_more() {
                        output.settle();
                    }
                    if self.started.is_none() && preamble.is_over() {
                        self.starts_now(self.timeout.0);
                    }
                }
                Next::Event(Event::End(status)) => {
                    return self.ended(&preamble, status, heard_at.elapsed());
                }
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
            _ if preamble.is_over() && status == Some(remote::PROVEN) => Heard::Over,
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

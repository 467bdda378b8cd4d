//! The end of a run on a server: the rest of the output, and how the script ended. The folder there stays, see `folder`.

use std::time::{Duration, Instant, SystemTime};

use crate::executors::control::Signal;
use crate::executors::ending::seconds;
use crate::executors::ssh::connection::{Event, Next, Session};
use crate::executors::ssh::judge::Ending;
use crate::executors::ssh::preamble::{Preamble, Word};
use crate::executors::ssh::remote;
use crate::executors::ssh::run::Heard;
use crate::executors::ssh::run::{Run, Stop};
use crate::job::Output;
use crate::limits;
use crate::verdict::{Phase, Verdict};

impl Run<'_> {
    /// Reads the rest of the output and how the script ended; `None` if the server says that it still runs. The session then
    /// waits for the word about the folder.
    pub(super) fn collect(&mut self, output: &mut dyn Output) -> Result<Option<Ending>, Stop> {
        let kill = self.wanted.is_some() || self.control.reason().is_some();
        self.over = Some((SystemTime::now(), Instant::now()));
        loop {
            let (session, nonce) = self.back(output, |run, nonce| {
                remote::collect(&run.place, run.task.execution.as_str(), nonce, run.taken, kill)
            })?;
            match self.receive(&session, &nonce, limits::SSH_COLLECT_SILENCE, output) {
                Ok(ending) => {
                    self.waiting = Some(session);
                    if ending.killed {
                        self.sent = Some(Signal::Kill);
                    }
                    return Ok(Some(ending));
                }
                Err(Heard::Word(Word::Running)) => {
                    self.over = None;
                    self.pause();
                    return Ok(None);
                }
                Err(Heard::Word(word)) => return Err(self.verdict_of(word).into()),
                Err(Heard::Broken(error)) => self.lost(&error, output),
                // The program was killed there: ask again, for as long as a server may be away.
                Err(Heard::Mute(status)) => {
                    if self.is_mute_too_long() {
                        return Err(self.mute(status).into());
                    }
                    self.pause();
                }
                Err(_) => {
                    let silence = seconds(limits::SSH_COLLECT_SILENCE);
                    let what = format!(
                        "{} said nothing for {silence} (limits::SSH_COLLECT_SILENCE) when it was asked how the script \
                         ended: its end is unknown",
                        self.server.shown()
                    );
                    return Err(Stop::Because(Box::new(Verdict::infrastructure(Phase::Cleanup, what))));
                }
            }
        }
    }

    /// Reads the rest of the output to its end, or until nothing comes for the time of `silence`.
    pub(super) fn receive(
        &mut self,
        session: &Session,
        nonce: &str,
        silence: Duration,
        output: &mut dyn Output,
    ) -> Result<Ending, Heard> {
        let mut preamble = Preamble::new(nonce);
        let last = self.last_look;
        let soon =
            |silence| last.map_or(Instant::now() + silence, |until: Instant| until.min(Instant::now() + silence));
        let mut until = soon(silence);
        loop {
            match session.next(&self.wishes, limits::FOLLOW_TICK) {
                Next::Event(Event::Bytes(stream, bytes)) => {
                    until = soon(silence);
                    self.bytes(&mut preamble, stream, &bytes, output);
                }
                Next::Event(Event::End(status)) => {
                    return Err(match preamble.word() {
                        Some(Word::Status(_)) | None => Heard::Mute(status),
                        Some(word) => Heard::Word(word.clone()),
                    });
                }
                Next::Event(Event::Broken(error)) => return Err(Heard::Broken(error)),
                Next::Quiet if Instant::now() >= until => return Err(Heard::Late),
                Next::Wish(_) | Next::Quiet => {}
            }
            if preamble.is_over()
                && let Some(Word::Status(text)) = preamble.word()
            {
                let ending = Ending::read(text);
                if self.taken[0] >= ending.sizes[0] && self.taken[1] >= ending.sizes[1] {
                    return Ok(ending);
                }
            }
        }
    }
}

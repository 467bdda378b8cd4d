//! The end of a run on a server: the rest of the output, how the script ended, and the end of its folder there.

use std::time::{Instant, SystemTime};

use crate::executors::ending::seconds;
use crate::executors::ssh::connection::{Event, Next, Session};
use crate::executors::ssh::judge::Ending;
use crate::executors::ssh::preamble::{Preamble, Word};
use crate::executors::ssh::remote;
use crate::executors::ssh::run::{Heard, Run, Stop};
use crate::job::Output;
use crate::limits;
use crate::verdict::{Phase, Verdict};

impl Run<'_> {
    /// What is left of the output, how the script ended, and the end of its folder.
    pub(in crate::executors::ssh) fn collect(&mut self, output: &mut dyn Output) -> Result<Ending, Stop> {
        let kill = self.wanted.is_some();
        loop {
            let (session, nonce) = self.back(output, |run, nonce| {
                remote::collect(&run.place, run.task.execution.as_str(), nonce, run.taken, kill)
            })?;
            match self.receive(&session, &nonce, output) {
                Ok(ending) => {
                    if std::mem::take(&mut self.unswept) {
                        self.sweep(output);
                    }
                    return Ok(ending);
                }
                Err(Heard::Word(word)) => return Err(self.verdict_of(word).into()),
                Err(Heard::Broken(error)) => self.lost(&error, output),
                Err(Heard::Mute(status)) => return Err(self.mute(status).into()),
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

    /// The connection broke when the folder was to go: it is removed over another one. The report waits for that as long
    /// as for any cleaning up, and no longer.
    fn sweep(&mut self, output: &mut dyn Output) {
        self.patience = self.patience.min(self.shared.jobs.cleanup_timeout);
        let folder = [self.place.directory()];
        for _ in 0..limits::REMOVE_ATTEMPTS {
            let Ok((session, nonce)) = self.back(output, |_, _| remote::remove(&folder)) else { break };
            if !matches!(self.listen(&session, &nonce, output), Heard::Broken(_)) {
                return;
            }
        }
        log::warn!("{} is left behind on {}", self.place.directory(), self.server.shown());
    }

    /// Takes the rest of the output until all of it is here, then lets the folder go.
    pub(in crate::executors::ssh) fn receive(
        &mut self,
        session: &Session,
        nonce: &str,
        output: &mut dyn Output,
    ) -> Result<Ending, Heard> {
        let mut preamble = Preamble::new(nonce);
        let mut until = Instant::now() + limits::SSH_COLLECT_SILENCE;
        let mut done: Option<Ending> = None;
        loop {
            match session.next(&self.wishes, limits::FOLLOW_TICK) {
                Next::Event(Event::Bytes(stream, bytes)) => {
                    until = Instant::now() + limits::SSH_COLLECT_SILENCE;
                    self.bytes(&mut preamble, stream, &bytes, output);
                }
                Next::Event(Event::End(status)) => {
                    return match (done, preamble.word()) {
                        (Some(ending), _) => Ok(ending),
                        (None, Some(Word::Status(_)) | None) => Err(Heard::Mute(status)),
                        (None, Some(word)) => Err(Heard::Word(word.clone())),
                    };
                }
                // All is here: what remains on the server is told to the operator, and no reason to wait.
                Next::Event(Event::Broken(error)) => match done {
                    Some(ending) => {
                        log::info!("{error}; its folder is still to be removed");
                        self.unswept = self.shared.settings.cleanup_after;
                        return Ok(ending);
                    }
                    None => return Err(Heard::Broken(error)),
                },
                Next::Wish(_) => {}
                Next::Quiet if Instant::now() >= until => {
                    let Some(ending) = done else { return Err(Heard::Late) };
                    log::warn!("{} is left behind on {}", self.place.directory(), self.server.shown());
                    return Ok(ending);
                }
                Next::Quiet => {}
            }
            if done.is_none()
                && preamble.is_over()
                && let Some(Word::Status(text)) = preamble.word()
            {
                let ending = Ending::read(text);
                if self.taken[0] >= ending.sizes[0] && self.taken[1] >= ending.sizes[1] {
                    let word = if self.shared.settings.cleanup_after { "done\n" } else { "keep\n" };
                    session.send(word.as_bytes().to_vec());
                    until = Instant::now() + self.shared.jobs.cleanup_timeout;
                    done = Some(ending);
                    self.cleaning = Some((SystemTime::now(), Instant::now()));
                }
            }
        }
    }
}

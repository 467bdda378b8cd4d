//! Cleanup of a job's remote folder: until the report is on disk, the folder is the only proof of the script's end.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::never;

use crate::executors::Cleanup;
use crate::executors::ssh::connection::{Event, Next, Session};
use crate::executors::ssh::place::{PROVEN, Place};
use crate::executors::ssh::pool::Wish;
use crate::executors::ssh::remote;
use crate::executors::ssh::shared::Shared;
use crate::job::Server;
use crate::limits;
use crate::os::pulse;
use crate::os::random;
use crate::policy::backoff::{Backoff, Growth};

/// The folder of a script on its server. Dropping this removes it, or leaves it as `ssh.execution.cleanupAfter: false` says;
/// each of the two ways to do so gets `jobs.cleanupTimeout`.
pub(super) struct Folder {
    pub(super) shared: Arc<Shared>,
    pub(super) server: Server,
    pub(super) place: Place,
    /// Its name, and the names of claimed starts.
    pub(super) names: Vec<String>,
    /// The session of the program that has handed over everything and waits for a word; it keeps the folder if the session ends
    /// first. `None` for the folder of an earlier agent.
    pub(super) session: Option<Session>,
    /// That program has the word already.
    pub(super) asked: bool,
}

/// How a program that had to remove a folder ended.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Gone,
    /// The connection broke, or the program ended without removing it.
    Unsure,
    Late,
}

impl Cleanup for Folder {
    /// Sends the word at once; the server does the rest by itself.
    fn request(&mut self) {
        let word: &[u8] = if self.shared.settings.cleanup_after { b"done\n" } else { b"keep\n" };
        if let Some(session) = self.session.as_ref().filter(|_| !self.asked) {
            session.send(word.to_vec());
            self.asked = true;
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.request();
        let session = self.session.take();
        if !self.shared.settings.cleanup_after {
            if let Some(session) = session {
                hear(&session, Instant::now() + self.shared.jobs.cleanup_timeout);
            }
            return;
        }
        let until = Instant::now() + self.shared.jobs.cleanup_timeout;
        let heard = session.map_or(Heard::Unsure, |session| hear(&session, until));
        // That session knows one folder. A slow server is not asked twice.
        let gone = (heard == Heard::Gone && self.names.len() == 1) || (heard != Heard::Late && self.sweep());
        if !gone {
            log::warn!("{} is left behind on {}", self.place.directory(), self.server.shown());
        }
    }
}

impl Folder {
    /// Removes it over another session, if needed over another connection.
    fn sweep(&self) -> bool {
        let until = Instant::now() + self.shared.jobs.cleanup_timeout;
        let wanted = || Instant::now() < until;
        let wish = Wish { server: &self.server, until, wanted: &wanted };
        let backoff =
            Backoff { growth: Growth::Exponential, initial: limits::SSH_BACKOFF_FIRST, max: limits::SSH_BACKOFF_MOST };
        let (mut tries, mut failures) = (0, 0);
        let pause = |count: u32| {
            let pause = backoff.delay(count, 0.5 + random::unit() / 2.0);
            pulse::touch();
            std::thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
        };
        while tries < limits::REMOVE_ATTEMPTS {
            match self.shared.pool.session(&wish) {
                Ok((session, _)) => {
                    session.send(remote::remove(&self.place, &self.names, &random::hex(16)));
                    match hear(&session, until) {
                        Heard::Gone => return true,
                        // A script that was just killed counts as running until its system has seen to its remains.
                        Heard::Unsure => {
                            tries += 1;
                            pause(tries);
                        }
                        Heard::Late => return false,
                    }
                }
                Err(error) if wanted() && error.is_passing() => {
                    failures += 1;
                    pause(failures);
                }
                Err(error) => {
                    log::info!("{error}");
                    return false;
                }
            }
        }
        false
    }
}

/// Waits for the end of the program on this session.
fn hear(session: &Session, until: Instant) -> Heard {
    loop {
        let wait = limits::FOLLOW_TICK.min(until.saturating_duration_since(Instant::now()));
        match session.next(&never(), wait) {
            Next::Event(Event::End(Some(PROVEN))) => return Heard::Gone,
            Next::Event(Event::End(_)) => return Heard::Unsure,
            Next::Event(Event::Broken(error)) => {
                log::info!("{error}; a job's folder is still to be removed");
                return Heard::Unsure;
            }
            Next::Quiet if Instant::now() >= until => return Heard::Late,
            Next::Event(Event::Bytes(..)) | Next::Wish(_) | Next::Quiet => {}
        }
    }
}

//! Sees one script on one server through to its end.
//!
//! [`Run::see_through`] is the whole life. A broken connection is not the end: the script goes on, and `Run::back` comes back
//! to it within `ssh.execution.reconnectTimeout`, at the byte where its output was.

use std::time::Instant;

use crate::executors::ending::seconds;
use crate::executors::helpers::Calls;
use crate::executors::ssh::connection::Session;
use crate::executors::ssh::judge::Ending;
use crate::executors::ssh::place;
use crate::executors::ssh::pool::Wish;
use crate::executors::ssh::preamble::Word;
use crate::executors::ssh::remote;
use crate::executors::ssh::run::{Heard, Run, Start, Stop};
use crate::executors::ssh::words::rounded;
use crate::executors::{CleanupGuard, End};
use crate::job::Output;
use crate::limits;
use crate::metrics;
use crate::os::random;
use crate::policy::backoff::{Backoff, Growth};

impl Run<'_> {
    /// Follows, collects, judges. Without a session, connects to a script that runs already.
    pub(super) fn see_through(
        &mut self,
        session: Option<(Session, String)>,
        warm: bool,
        output: &mut dyn Output,
    ) -> End {
        let ended = self.see_its_end(session, output);
        if self.control.is_detached() {
            return match self.start {
                // It never left this agent.
                Start::Waits(_) => End::NeverRan(CleanupGuard::none()),
                _ => End::Detached,
            };
        }
        self.control.end();
        match ended {
            Ok(ending) => {
                let outcome = self.outcome(self.judge(&ending), Some(&ending), warm);
                End::Outcome(Box::new(outcome), CleanupGuard::with_request(self.folder()))
            }
            // The folder stays for a person to look at.
            Err(Stop::Because(verdict)) => {
                End::Outcome(Box::new(self.outcome(*verdict, None, warm)), CleanupGuard::none())
            }
            Err(Stop::Detached) => End::Detached,
            Err(Stop::NeverRan) => End::NeverRan(CleanupGuard::none()),
        }
    }

    /// The script's end as the server recorded it.
    fn see_its_end(&mut self, session: Option<(Session, String)>, output: &mut dyn Output) -> Result<Ending, Stop> {
        let mut session = session.map_or_else(|| self.follow_again(output), Ok);
        loop {
            let followed = session.and_then(|session| self.follow(session, output));
            self.calls = None;
            let ended = followed.and_then(|()| self.collect(output));
            match ended {
                Ok(Some(ending)) => return Ok(ending),
                // The claim that it is over was wrong.
                Ok(None) => session = self.follow_again(output),
                Err(stop) => return self.look_once_more(stop, output),
            }
        }
    }

    /// Asks once more for the script's own end: a server that was out of reach may be back.
    fn look_once_more(&mut self, stop: Stop, output: &mut dyn Output) -> Result<Ending, Stop> {
        let asks = self.control.is_given_up() && self.started.is_some() && self.last_look.is_none();
        if !asks || !matches!(stop, Stop::Because(_)) {
            return Err(stop);
        }
        self.last_look = Some(Instant::now() + limits::SSH_LAST_LOOK);
        match self.collect(output) {
            Ok(Some(ending)) => Ok(ending),
            _ => Err(stop),
        }
    }

    /// A session that follows the script from the byte where its output was.
    fn follow_again(&mut self, output: &mut dyn Output) -> Result<(Session, String), Stop> {
        self.back(output, |run, nonce| {
            remote::follow(&run.place, run.task.execution.as_str(), nonce, run.taken, run.started.is_none())
        })
    }

    /// Follows the script to its end, over as many connections as it takes.
    fn follow(&mut self, mut session: (Session, String), output: &mut dyn Output) -> Result<(), Stop> {
        loop {
            let heard = self.listen(&session.0, &session.1, output);
            drop(session);
            session = match heard {
                Heard::Over => return Ok(()),
                Heard::Word(Word::Over(status)) => {
                    self.found_over(&status);
                    return Ok(());
                }
                Heard::Detached => return Err(Stop::Detached),
                Heard::GivenUp if self.started.is_some() => {
                    self.last_look = Some(Instant::now() + limits::SSH_LAST_LOOK);
                    return Ok(());
                }
                heard if matches!(self.start, Start::Waits(_)) => self.not_sent(heard, output)?,
                heard if self.started.is_none() => self.sent(heard, output)?,
                heard => self.running(heard, output)?,
            };
        }
    }

    /// Goes on after a session that ended before the script was sent: it cannot have begun.
    fn not_sent(&mut self, heard: Heard, output: &mut dyn Output) -> Result<(Session, String), Stop> {
        let why = match heard {
            Heard::Broken(error) if error.is_passing() && Instant::now() < self.until => {
                output.system(&format!("{error}; the script was not sent yet; connecting again"));
                output.settle();
                return self.back(output, |run, nonce| place::begin(&run.place, nonce));
            }
            Heard::Broken(error) => error.to_string(),
            Heard::Word(Word::Setup(why)) => why,
            Heard::Mute(status) => return Err(self.mute(status).into()),
            Heard::Streams(which) => self.login_files(which),
            Heard::Late => {
                let limit = seconds(self.shared.jobs.setup_timeout);
                format!("the server's shell did not get ready for it within {limit} (jobs.setupTimeout)")
            }
            _ => "the server's shell said something else".to_owned(),
        };
        Err(self.setup_failed(why).into())
    }

    /// Goes on after a session on which the script was sent and not seen to begin, or which asked for that.
    fn sent(&mut self, heard: Heard, output: &mut dyn Output) -> Result<(Session, String), Stop> {
        match heard {
            Heard::Word(Word::Setup(why)) if self.start == Start::Sent => Err(self.setup_failed(why).into()),
            Heard::Word(Word::Unstarted) => self.start_again(output),
            Heard::Broken(error) => {
                self.lost(&error, output);
                self.start = Start::Asked;
                self.follow_again(output)
            }
            // Nothing proves that it did not begin. A claim of its folder proves that, or finds the script.
            _ if self.start == Start::Sent => {
                self.start = Start::Asked;
                self.until = Instant::now() + limits::SSH_FIND_OUT;
                self.follow_again(output)
            }
            heard => Err(self.start_unknown(&heard).into()),
        }
    }

    /// Goes on after a session that followed a running script and did not see its end.
    fn running(&mut self, heard: Heard, output: &mut dyn Output) -> Result<(Session, String), Stop> {
        match heard {
            Heard::Word(Word::Unstarted) if self.adopted => return self.next_name(output),
            Heard::Word(word) => return Err(self.verdict_of(word).into()),
            Heard::Streams(which) => return Err(self.end_unknown(&self.login_files(which)).into()),
            Heard::Broken(error) => self.lost(&error, output),
            // Not counted from the first cut: a silent script may have had cuts for hours.
            Heard::Mute(status) if self.is_mute_too_long() => return Err(self.mute(status).into()),
            // The follower was ended on the server, or the server closed its silent session.
            _ => self.pause(),
        }
        self.follow_again(output)
    }

    /// Opens a new session and sends a program; gives up after `ssh.execution.reconnectTimeout`, or if the job must end and the
    /// server cannot be reached.
    pub(super) fn back(
        &mut self,
        output: &mut dyn Output,
        program: impl Fn(&Self, &str) -> Vec<u8>,
    ) -> Result<(Session, String), Stop> {
        let begun = Instant::now();
        let patience = self.shared.settings.reconnect_timeout;
        let last = self.last_look;
        let until = last.unwrap_or(begun + patience);
        let backoff =
            Backoff { growth: Growth::Exponential, initial: limits::SSH_BACKOFF_FIRST, max: limits::SSH_BACKOFF_MOST };
        let mut failures = 0;
        loop {
            let control = self.control;
            let wanted =
                || !control.is_detached() && (last.is_some() || !control.is_given_up()) && Instant::now() < until;
            let wish = Wish { server: self.server, until, wanted: &wanted };
            let error = match self.shared.pool.session(&wish) {
                Ok((session, _)) => {
                    if self.host_key.is_empty() {
                        self.host_key = session.connection().host_key.clone();
                    }
                    if std::mem::take(&mut self.broke) {
                        self.reconnects += 1;
                        metrics::SSH_RESUMED.add(1);
                        metrics::SSH_RESUMED_BYTES.add(self.taken.iter().sum());
                    }
                    if failures > 0 {
                        output.system(&format!(
                            "connected to {} again after {}",
                            self.server.shown(),
                            rounded(begun.elapsed())
                        ));
                        output.settle();
                    }
                    let nonce = random::hex(16);
                    session.send(program(self, &nonce));
                    return Ok((session, nonce));
                }
                Err(error) => error,
            };
            failures += 1;
            if control.is_detached() {
                return Err(Stop::Detached);
            }
            if !wanted() || !error.is_passing() {
                return Err(self.out_of_reach(begun.elapsed(), &error).into());
            }
            if failures == 1 {
                log::warn!("{error}; trying again for {}", seconds(patience));
            }
            std::thread::sleep(backoff.delay(failures, 0.5 + random::unit() / 2.0));
        }
    }

    /// Starts a script that is proven not to have begun under another name, so that a late first start can never run beside it.
    fn start_again(&mut self, output: &mut dyn Output) -> Result<(Session, String), Stop> {
        self.starts += 1;
        if self.starts > limits::SSH_STARTS {
            return Err(self
                .setup_failed(format!("{} connections broke before the script had begun", limits::SSH_STARTS))
                .into());
        }
        output.system("the script had not begun when the connection broke; starting it now");
        self.place.name = format!("{}.{}", self.task.execution, self.starts);
        self.until = self.until.max(Instant::now() + limits::SSH_FIND_OUT);
        let (session, nonce) = self.back(output, |run, nonce| place::begin(&run.place, nonce))?;
        let (variables, execution) = (self.task.variables(false), self.task.execution.as_str());
        let helpers = self.task.helper_files(Calls::Files);
        // It was written before, so this cannot fail.
        let program =
            remote::start(&self.place, execution, &self.task.job.script, (&variables, helpers.as_ref()), &nonce);
        self.start = Start::Waits(program.unwrap_or_default());
        Ok((session, nonce))
    }

    /// An earlier agent may have started the script under another name, see [`Run::start_again`]: the next one is looked
    /// for, and claimed where it is not there. When all are claimed, it never ran.
    fn next_name(&mut self, output: &mut dyn Output) -> Result<(Session, String), Stop> {
        self.starts += 1;
        if self.starts > limits::SSH_STARTS {
            let names: Vec<String> = self.names().collect();
            let (session, nonce) = self.back(output, |run, nonce| remote::remove(&run.place, &names, nonce))?;
            self.listen(&session, &nonce, output);
            return Err(Stop::NeverRan);
        }
        self.place.name = format!("{}.{}", self.task.execution, self.starts);
        self.back(output, |run, nonce| remote::follow(&run.place, run.task.execution.as_str(), nonce, run.taken, true))
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;

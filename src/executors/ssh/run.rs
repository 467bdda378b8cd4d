//! One script on one server, from its start to its end.
//!
//! [`Ready::run`] is the whole way. A connection that breaks on it is no ending: the script goes on, and [`Run::back`]
//! comes back to it for as long as `ssh.execution.reconnectTimeout`, at the byte where its output was.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::executors::control::{Signal, Target};
use crate::executors::ending::{seconds, setup_verdict};
use crate::executors::ssh::Shared;
use crate::executors::ssh::connection::{Event, Next, Session};
use crate::executors::ssh::error::Error;
use crate::executors::ssh::folder::Folder;
use crate::executors::ssh::pool::Wish;
use crate::executors::ssh::preamble::{Preamble, Word};
use crate::executors::ssh::remote::{self, Place};
use crate::executors::ssh::words::rounded;
use crate::executors::{Control, End, Facts, Prepared, Remains, Task, shell};
use crate::job::{Output, Server, Stream};
use crate::limits;
use crate::metrics;
use crate::os::random;
use crate::policy::backoff::{Backoff, Growth};
use crate::policy::stop::Reason;
use crate::verdict::{Span, Verdict};

/// A session with a waiting shell, and the program for it.
pub(in crate::executors::ssh) struct Ready {
    pub(in crate::executors::ssh) shared: Arc<Shared>,
    pub(in crate::executors::ssh) session: Session,
    /// The connection was there before.
    pub(in crate::executors::ssh) warm: bool,
    pub(in crate::executors::ssh) server: Server,
    pub(in crate::executors::ssh) place: Place,
    pub(in crate::executors::ssh) nonce: String,
    pub(in crate::executors::ssh) program: Vec<u8>,
    pub(in crate::executors::ssh) control: Arc<Control>,
    pub(in crate::executors::ssh) timeout: (Duration, &'static str),
    /// `jobs.setupTimeout`.
    pub(in crate::executors::ssh) until: Instant,
    pub(in crate::executors::ssh) begun: (SystemTime, Instant),
}

/// What the reaper signals: the worker, which passes it on over its own session.
struct Wished(Sender<Signal>);

/// The way of a job's signals to its worker.
fn wishes() -> (Sender<Signal>, Receiver<Signal>) {
    bounded(limits::SSH_WISHES)
}

impl Target for Wished {
    fn signal(&self, signal: Signal) -> Result<(), String> {
        // A queue of wishes that nobody has taken yet needs no further one.
        match self.0.try_send(signal) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err("the job's worker is gone".to_owned()),
        }
    }
}

/// How one session came to its end.
pub(in crate::executors::ssh) enum Heard {
    /// The remote program ended after it had followed the script: the script is over.
    Over,
    /// It said why there is nothing to follow.
    Word(Word),
    /// It ended without a word of its own.
    Mute(Option<i32>),
    Broken(Error),
    /// The server does not end the script, or the agent cannot reach it to do so.
    GivenUp,
    /// `jobs.setupTimeout` is over and nothing was heard.
    Late,
    /// The agent ends.
    Left,
}

/// What is known of a script that was sent off.
pub(in crate::executors::ssh) struct Run<'a> {
    pub(in crate::executors::ssh) shared: &'a Arc<Shared>,
    pub(in crate::executors::ssh) server: &'a Server,
    pub(in crate::executors::ssh) control: &'a Arc<Control>,
    pub(in crate::executors::ssh) task: &'a Task,
    pub(in crate::executors::ssh) place: Place,
    pub(in crate::executors::ssh) timeout: (Duration, &'static str),
    pub(in crate::executors::ssh) until: Instant,
    pub(in crate::executors::ssh) begun: (SystemTime, Instant),
    pub(in crate::executors::ssh) wishes: Receiver<Signal>,
    pub(in crate::executors::ssh) wisher: Sender<Signal>,
    /// The strongest signal that the script is to get, and the last that went out.
    pub(in crate::executors::ssh) wanted: Option<Signal>,
    pub(in crate::executors::ssh) sent: Option<Signal>,
    /// Bytes of stdout and stderr that were handed on.
    pub(in crate::executors::ssh) taken: [u64; 2],
    pub(in crate::executors::ssh) stderr_tail: Vec<u8>,
    /// When the script was seen to run.
    pub(in crate::executors::ssh) started: Option<(SystemTime, Instant)>,
    pub(in crate::executors::ssh) setup: Option<Span>,
    pub(in crate::executors::ssh) starts: u32,
    pub(in crate::executors::ssh) reconnects: u32,
    /// The connection broke, and the next one is a coming back.
    pub(in crate::executors::ssh) broke: bool,
    /// An earlier agent started it.
    pub(in crate::executors::ssh) adopted: bool,
    /// Why that agent ended it, and with what.
    pub(in crate::executors::ssh) ended_by: Option<(Reason, Signal)>,
    /// When it was over and its ending was asked for.
    pub(in crate::executors::ssh) over: Option<(SystemTime, Instant)>,
    /// The session that waits for what is to become of the folder.
    pub(in crate::executors::ssh) waiting: Option<Session>,
    pub(in crate::executors::ssh) host_key: String,
}

impl Prepared for Ready {
    fn facts(&self) -> Facts {
        Facts { place: self.place.directory(), image: String::new(), limits: None, timeout: self.timeout }
    }

    fn run(self: Box<Self>, task: &Task, output: &mut dyn Output) -> End {
        let Self { shared, session, warm, server, place, nonce, program, control, timeout, until, begun } = *self;
        let mut run = Run::new(&shared, &server, &control, task, place, timeout, until);
        run.begun = begun;
        run.host_key = session.connection().host_key.clone();
        if control.is_left() {
            return End::NeverRan(Remains::nothing());
        }
        if control.reason().is_some() {
            let verdict = setup_verdict(&Error::Stopped { server: server.shown() }, &control);
            return End::Outcome(Box::new(run.outcome(verdict, None, warm)), Remains::nothing());
        }
        session.send(program);
        run.see_through(Some((session, nonce)), warm, output)
    }
}

/// A script that an earlier agent started.
pub(in crate::executors::ssh) struct Adopted {
    pub(in crate::executors::ssh) shared: Arc<Shared>,
    pub(in crate::executors::ssh) server: Server,
    pub(in crate::executors::ssh) place: Place,
    pub(in crate::executors::ssh) control: Arc<Control>,
    pub(in crate::executors::ssh) timeout: (Duration, &'static str),
    /// What remains of its time limit.
    pub(in crate::executors::ssh) left: Duration,
}

impl Prepared for Adopted {
    fn facts(&self) -> Facts {
        Facts { place: self.place.directory(), image: String::new(), limits: None, timeout: self.timeout }
    }

    fn run(self: Box<Self>, task: &Task, output: &mut dyn Output) -> End {
        let Self { shared, server, place, control, timeout, left } = *self;
        let until = Instant::now() + shared.jobs.setup_timeout;
        let mut run = Run::new(&shared, &server, &control, task, place, timeout, until);
        run.adopted = true;
        run.starts_now(left);
        run.see_through(None, false, output)
    }
}

/// Why a run did not come to an ending that the server told.
pub(in crate::executors::ssh) enum Stop {
    Because(Unknown),
    /// The agent ends; the script goes on.
    Left,
    /// An adopted script had not begun.
    NeverRan,
}

impl From<Unknown> for Stop {
    fn from(verdict: Unknown) -> Self {
        Self::Because(verdict)
    }
}

pub(in crate::executors::ssh) type Unknown = Box<Verdict>;

impl<'a> Run<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        server: &'a Server,
        control: &'a Arc<Control>,
        task: &'a Task,
        place: Place,
        timeout: (Duration, &'static str),
        until: Instant,
    ) -> Self {
        let (wisher, wishes) = wishes();
        Self {
            shared,
            server,
            control,
            task,
            place,
            timeout,
            until,
            begun: (SystemTime::now(), Instant::now()),
            wishes,
            wisher,
            wanted: None,
            sent: None,
            taken: [0, 0],
            stderr_tail: Vec::new(),
            started: None,
            setup: None,
            starts: 1,
            reconnects: 0,
            broke: false,
            adopted: false,
            ended_by: None,
            over: None,
            waiting: None,
            host_key: String::new(),
        }
    }

    /// Follows, collects, judges. Without a session, one is sought for a script that runs already.
    fn see_through(&mut self, session: Option<(Session, String)>, warm: bool, output: &mut dyn Output) -> End {
        let session = match session {
            Some(session) => Ok(session),
            None => self.follow_again(output),
        };
        let ended = session.and_then(|session| self.follow(session, output)).and_then(|()| self.collect(output));
        if self.control.is_left() {
            return End::Left;
        }
        self.control.end();
        match ended {
            Ok(ending) => {
                let outcome = self.outcome(self.judge(&ending), Some(&ending), warm);
                End::Outcome(Box::new(outcome), Remains::of(self.folder()))
            }
            // What there may be of it stays for a person to look at.
            Err(Stop::Because(verdict)) => {
                End::Outcome(Box::new(self.outcome(*verdict, None, warm)), Remains::nothing())
            }
            Err(Stop::Left) => End::Left,
            Err(Stop::NeverRan) => End::NeverRan(Remains::nothing()),
        }
    }

    fn folder(&mut self) -> Folder {
        let (shared, server) = (Arc::clone(self.shared), self.server.clone());
        Folder { shared, server, directory: self.place.directory(), session: self.waiting.take() }
    }

    /// A session that follows the script from the byte where its output was.
    fn follow_again(&mut self, output: &mut dyn Output) -> Result<(Session, String), Stop> {
        self.back(output, |run, nonce| {
            remote::follow(&run.place, run.task.execution.as_str(), nonce, run.taken, run.started.is_none())
        })
    }

    /// Follows the script to its end, over as many connections as it takes.
    fn follow(&mut self, (mut session, mut nonce): (Session, String), output: &mut dyn Output) -> Result<(), Stop> {
        loop {
            let heard = self.listen(&session, &nonce, output);
            drop(session);
            match heard {
                Heard::Over => return Ok(()),
                Heard::Word(Word::Over(status)) => {
                    self.found_over(&status);
                    return Ok(());
                }
                Heard::Left => return Err(Stop::Left),
                Heard::GivenUp if self.started.is_some() => return Ok(()),
                Heard::GivenUp => {
                    return Err(self.setup_failed("the server did not say whether it started".to_owned()).into());
                }
                Heard::Word(Word::Unstarted) if self.adopted => {
                    (session, nonce) = self.next_name(output)?;
                    continue;
                }
                Heard::Word(Word::Unstarted) if self.started.is_none() => {
                    (session, nonce) = self.start_again(output)?;
                    continue;
                }
                Heard::Word(word) => return Err(self.verdict_of(word).into()),
                Heard::Mute(status) if self.started.is_none() => return Err(self.mute(status).into()),
                Heard::Late => {
                    let what = format!(
                        "no word of the script within {} (jobs.setupTimeout)",
                        seconds(self.shared.jobs.setup_timeout)
                    );
                    return Err(self.setup_failed(what).into());
                }
                // Somebody killed the follower on the server; the script need not be over.
                Heard::Mute(_) => {}
                Heard::Broken(error) => self.lost(&error, output),
            }
            (session, nonce) = self.follow_again(output)?;
        }
    }

    /// Reads one session to its end.
    pub(in crate::executors::ssh) fn listen(
        &mut self,
        session: &Session,
        nonce: &str,
        output: &mut dyn Output,
    ) -> Heard {
        let mut preamble = Preamble::new(nonce);
        let mut sent_here = None;
        loop {
            if self.control.is_left() {
                return Heard::Left;
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
                        // Each KILL goes out: the first may have come before its victim was born.
                        sent_here = None;
                    }
                }
                Next::Event(Event::Bytes(stream, bytes)) => {
                    self.bytes(&mut preamble, stream, &bytes, output);
                    if !session.has_more() {
                        output.settle();
                    }
                    if self.started.is_none() && preamble.is_over() {
                        self.starts_now(self.timeout.0);
                    }
                }
                Next::Event(Event::End(status)) => {
                    return match preamble.word() {
                        _ if preamble.is_over() => Heard::Over,
                        Some(word) => Heard::Word(word.clone()),
                        None => {
                            self.note_noise(&preamble);
                            Heard::Mute(status)
                        }
                    };
                }
                Next::Event(Event::Broken(error)) => return Heard::Broken(error),
                Next::Quiet if self.control.is_given_up() => return Heard::GivenUp,
                Next::Quiet if self.started.is_none() && Instant::now() >= self.until => return Heard::Late,
                Next::Quiet if self.started.is_none() && self.control.reason().is_some() => {
                    // Told to end before it was seen to start: from now on there is somebody to tell.
                    self.control.set_target(Arc::new(Wished(self.wisher.clone())));
                }
                Next::Quiet => output.settle(),
            }
        }
    }

    /// Hands on what is the script's.
    pub(in crate::executors::ssh) fn bytes(
        &mut self,
        preamble: &mut Preamble,
        stream: Stream,
        bytes: &[u8],
        output: &mut dyn Output,
    ) {
        let (taken, tail) = (&mut self.taken[usize::from(stream != Stream::Stdout)], &mut self.stderr_tail);
        preamble.take(stream, bytes, &mut |bytes| {
            *taken += bytes.len() as u64;
            if stream == Stream::Stderr {
                shell::keep_tail(tail, bytes);
            }
            output.bytes(stream, bytes);
        });
    }

    /// The script was seen to run: from here on its time counts, and a cancel finds somebody to tell.
    pub(in crate::executors::ssh) fn starts_now(&mut self, left: Duration) {
        self.setup = Some(Span { started: self.begun.0, length: self.begun.1.elapsed() });
        self.started = Some((SystemTime::now(), Instant::now()));
        let (after, limit) = self.timeout;
        self.control.set_deadline(Instant::now() + left, Reason::Timeout { limit, after });
        self.control.set_target(Arc::new(Wished(self.wisher.clone())));
    }

    fn note_noise(&mut self, preamble: &Preamble) {
        let noise = preamble.noise();
        shell::keep_tail(&mut self.stderr_tail, noise.as_bytes());
    }

    /// A connection broke: said once a time, in the job's own log.
    pub(in crate::executors::ssh) fn lost(&mut self, error: &Error, output: &mut dyn Output) {
        self.broke = true;
        output.system(&format!("{error}; the script goes on there; connecting again"));
        output.settle();
    }

    /// A new session on the server, with a program on its way; gives up after `ssh.execution.reconnectTimeout`, or when
    /// the job is to end and the server cannot be told.
    pub(in crate::executors::ssh) fn back(
        &mut self,
        output: &mut dyn Output,
        program: impl Fn(&Self, &str) -> Vec<u8>,
    ) -> Result<(Session, String), Stop> {
        let begun = Instant::now();
        let patience = self.shared.settings.reconnect_timeout;
        let backoff =
            Backoff { growth: Growth::Exponential, initial: limits::SSH_BACKOFF_FIRST, max: limits::SSH_BACKOFF_MOST };
        let mut failures = 0;
        loop {
            let control = self.control;
            let wanted = || !control.is_left() && !control.is_given_up() && begun.elapsed() < patience;
            let wish = Wish { server: self.server, gated: false, until: begun + patience, wanted: &wanted };
            let error = match self.shared.pool.session(&wish) {
                Ok((session, _)) => {
                    if self.host_key.is_empty() {
                        self.host_key = session.connection().host_key.clone();
                    }
                    if std::mem::take(&mut self.broke) {
                        self.reconnects += 1;
                        metrics::ssh_reconnected(self.taken.iter().sum());
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
            if control.is_left() {
                return Err(Stop::Left);
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

    /// The start's answer was lost and the script is known not to have begun: starts it under another name, so that what
    /// may still be on its way can never run beside it.
    fn start_again(&mut self, output: &mut dyn Output) -> Result<(Session, String), Stop> {
        self.starts += 1;
        if self.starts > limits::SSH_STARTS {
            return Err(self
                .setup_failed(format!("{} connections broke before the script had begun", limits::SSH_STARTS))
                .into());
        }
        output.system("the script had not begun when the connection broke; starting it now");
        let claimed = self.place.directory();
        self.place.name = format!("{}.{}", self.task.execution, self.starts);
        self.back(output, |run, nonce| {
            let (variables, execution) = (run.task.variables(), run.task.execution.as_str());
            // It was written once before, so that it can be written. The claimed folder goes when the new one is there:
            // until then a late start is found out by its name.
            let script = &run.task.job.script;
            remote::start(&run.place, execution, script, &variables, nonce, Some(&claimed)).unwrap_or_default()
        })
    }

    /// An earlier agent may have started the script under another name, see [`Run::start_again`]: the next one is looked
    /// for, and claimed where it is not there. When all are claimed, it never ran.
    fn next_name(&mut self, output: &mut dyn Output) -> Result<(Session, String), Stop> {
        self.starts += 1;
        if self.starts > limits::SSH_STARTS {
            let mut place = self.place.clone();
            let names = (2..=limits::SSH_STARTS).map(|n| format!("{}.{n}", self.task.execution));
            let folders: Vec<String> = std::iter::once(self.task.execution.to_string())
                .chain(names)
                .map(|name| {
                    place.name = name;
                    place.directory()
                })
                .collect();
            let (session, nonce) = self.back(output, |_, _| remote::remove(&folders))?;
            self.listen(&session, &nonce, output);
            return Err(Stop::NeverRan);
        }
        self.place.name = format!("{}.{}", self.task.execution, self.starts);
        self.back(output, |run, nonce| remote::follow(&run.place, run.task.execution.as_str(), nonce, run.taken, true))
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;

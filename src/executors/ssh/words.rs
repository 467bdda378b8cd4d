//! The end of a run on a server in words: the verdict, and the facts for the execution's record.

use std::time::{Duration, Instant};

use crate::executors::ending::{seconds, stopped};
use crate::executors::shell;
use crate::executors::ssh::error::Error;
use crate::executors::ssh::judge::{self, Ending, Evidence, judge};
use crate::executors::ssh::preamble::Word;
use crate::executors::ssh::remote;
use crate::executors::ssh::run::{Heard, Run, Unknown};
use crate::policy::stop::Reason;
use crate::verdict::{Outcome, Phase, Span, Timings, Usage, Verdict};

impl Run<'_> {
    pub(super) fn judge(&self, ending: &Ending) -> Verdict {
        let (reason, sent) = match &self.ended_by {
            Some((reason, signal)) => (Some(reason.clone()), Some(*signal)),
            None => (self.control.reason(), self.sent),
        };
        judge(&Evidence {
            server: self.server.shown(),
            temp_dir: self.place.temp_dir.clone(),
            ending: ending.clone(),
            reason,
            sent,
            no_space: shell::tells_of_full_device(&self.stderr_tail),
            hint: shell::hint(&self.task.job.script),
        })
    }

    /// It was over, with this `status`, before it could be followed: signals of this agent come too late.
    pub(super) fn found_over(&mut self, status: &str) {
        if self.started.is_none() {
            self.starts_now(self.timeout.0);
        }
        let ended_by = judge::ended_late(&Ending::read(status), self.timeout);
        self.ended_by = ended_by.filter(|_| self.adopted && self.sent.is_none());
        self.wanted = self.ended_by.as_ref().map(|(_, signal)| *signal).or(self.sent);
    }

    pub(super) fn verdict_of(&self, word: Word) -> Unknown {
        let (server, directory) = (self.server.shown(), self.place.directory());
        let message = match word {
            Word::Setup(why) => return self.end_unknown(&why),
            Word::Lost => return self.start_unknown(&Heard::Word(Word::Lost)),
            Word::Rebooted => judge::rebooted(&server),
            Word::Vanished | Word::Unstarted | Word::Running | Word::Status(_) | Word::Over(_) => {
                judge::vanished(&server, &directory)
            }
        };
        Box::new(Verdict::infrastructure(Phase::Execution, message))
    }

    pub(super) fn setup_failed(&self, why: String) -> Unknown {
        if let Some(reason) = self.control.reason() {
            return Box::new(stopped(&reason, None));
        }
        let message = format!("the script could not be started on {}: {why}", self.server.shown());
        Box::new(Verdict::infrastructure(Phase::Setup, message))
    }

    /// The message for a script that was sent, where nothing shows whether it began.
    pub(super) fn start_unknown(&self, heard: &Heard) -> Unknown {
        let server = self.server.shown();
        let why = match heard {
            Heard::Word(Word::Setup(why)) => why.clone(),
            Heard::Word(Word::Lost) => format!("{} is there, without a sign of the script", self.place.directory()),
            Heard::Word(Word::Rebooted) => "it was restarted meanwhile".to_owned(),
            Heard::Word(_) => format!("{} is not there any more", self.place.directory()),
            Heard::Streams(which) => self.login_files(which),
            Heard::Mute(_) | Heard::Cut => "its shell ended without a word".to_owned(),
            _ => "it says nothing".to_owned(),
        };
        let message = format!(
            "the script was sent to {server}, and whether it ran there is unknown: {why}; look at {} there",
            self.place.directory()
        );
        Box::new(Verdict::infrastructure(Phase::Execution, message))
    }

    /// The message for a script that ran, whose end cannot be learned.
    pub(super) fn end_unknown(&self, why: &str) -> Unknown {
        let message = format!(
            "the script ran on {}, and how it ended cannot be asked: {why}; its end is unknown, and it may still run",
            self.server.shown()
        );
        Box::new(Verdict::infrastructure(Phase::Execution, message))
    }

    /// The message for a session on which a stream does not arrive.
    pub(super) fn login_files(&self, which: &str) -> String {
        format!(
            "{which} of a session as {} does not arrive as it should: a file that the login reads, such as .bashrc, \
             redirects it. Let that file do so only where the shell is interactive (case $- in *i*)",
            self.server.user
        )
    }

    /// The message for a shell that ended without a word of our program.
    pub(super) fn mute(&self, status: Option<i32>) -> Unknown {
        let status =
            status.map_or_else(|| "without an exit status".to_owned(), |code| format!("with exit code {code}"));
        let noise = String::from_utf8_lossy(&self.stderr_tail);
        let noise = noise.lines().last().unwrap_or_default();
        let said = if noise.is_empty() { String::new() } else { format!(", saying {noise:?}") };
        if self.started.is_some() {
            let message = format!(
                "the program that asked {} how the script ended came to its end there {status}{said}: the script's end is unknown",
                self.server.shown()
            );
            return Box::new(Verdict::infrastructure(Phase::Execution, message));
        }
        self.setup_failed(format!(
            "its shell ended {status}{said}; does the user's login shell run \"{}\"?",
            remote::COMMAND
        ))
    }

    /// The message for a server that could not be reached again in time, or refuses the login now.
    pub(super) fn out_of_reach(&self, after: Duration, error: &Error) -> Unknown {
        let server = self.server.shown();
        let unknown = "its end is unknown, and it may still run";
        let message = match self.control.reason() {
            Some(reason) if self.control.is_given_up() => {
                let wish = match reason {
                    Reason::Timeout { limit, after } => {
                        format!("the script ran longer than its limit of {} ({limit})", seconds(after))
                    }
                    Reason::Cancelled(who) => format!("the job was cancelled by {who}"),
                    Reason::Disk(_) => "the script was to be ended".to_owned(),
                };
                format!(
                    "{wish}, but {server} could not be told: {error}; whether the script has ended there is unknown"
                )
            }
            _ if !error.is_passing() => {
                format!("the connection to {server} broke and this agent is not let in again: {error}; {unknown}")
            }
            _ if self.started.is_none() => format!(
                "the connection to {server} broke while the script was being started, and it could not be reached again \
                 for {} (ssh.execution.reconnectTimeout): whether the script ran is unknown; {error}",
                rounded(after)
            ),
            _ => format!(
                "{server} could not be reached for {} (ssh.execution.reconnectTimeout) while the script ran there: \
                 {unknown}; {error}",
                rounded(after)
            ),
        };
        Box::new(Verdict::infrastructure(Phase::Execution, message))
    }

    pub(super) fn outcome(&self, verdict: Verdict, ending: Option<&Ending>, warm: bool) -> Outcome {
        let over = self.over.map(|(_, at)| at);
        let length = |from: Instant| over.map_or_else(|| from.elapsed(), |at| at.saturating_duration_since(from));
        let execution = self.started.map(|(started, at)| Span { started, length: length(at) });
        // Without the removal of its folder, which comes after the report is on disk.
        let cleanup = self.over.map(|(started, at)| Span { started, length: at.elapsed() });
        let setup = self.setup.unwrap_or(Span { started: self.begun.0, length: self.begun.1.elapsed() });
        let timings = Timings { setup: Some(setup), execution, cleanup };
        let mut evidence = vec![
            ("server", self.server.name.clone()),
            ("serverAddress", self.server.address()),
            ("serverUser", self.server.user.clone()),
            ("hostKey", self.host_key.clone()),
            ("remoteDirectory", self.place.directory()),
            ("connectionReused", warm.to_string()),
            ("reconnects", self.reconnects.to_string()),
            ("timeout", seconds(self.timeout.0)),
        ];
        if let Some(pid) = ending.and_then(|ending| ending.pid) {
            evidence.push(("remotePid", pid.to_string()));
        }
        if let Some(signal) = self.sent {
            evidence.push(("signalSent", signal.as_str().to_owned()));
        }
        let cpu_seconds = ending.map_or(0.0, |ending| ending.cpu_seconds);
        Outcome { verdict, timings, usage: Usage { cpu_seconds, ..Usage::default() }, evidence, script_output: None }
    }
}

/// Whole seconds, for a message.
pub(super) fn rounded(time: Duration) -> String {
    seconds(Duration::from_secs(time.as_secs()))
}

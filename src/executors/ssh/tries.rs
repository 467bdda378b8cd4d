//! Connection tries of a job that has not begun: which errors are tried again, when, and the final message.
//!
//! Nothing of the job is on the server yet, so a try costs only time: passing errors are tried again, with growing pauses,
//! within `jobs.setupTimeout`. The circuit breaker bounds this further. Jobs that come while it is open fail at once. A job
//! that had tried before waits for the next trial, and fails with it: a server that is away holds a few workers for the
//! breaker's timeout, not each for its whole setup time.

use std::time::{Duration, Instant};

use crate::executors::ending::seconds;
use crate::executors::ssh::error::Error;
use crate::job::Server;
use crate::limits;
use crate::policy::backoff::{Backoff, Growth};
use crate::policy::breaker::Refused;

/// How a failed try ended.
#[derive(Debug)]
pub struct Failure {
    pub error: Error,
    /// It was a trial of the circuit breaker.
    pub trial: bool,
    /// The server accepted others meanwhile.
    pub others_pass: bool,
}

/// The tries of one job.
#[derive(Debug)]
pub struct Tries<'a> {
    server: &'a Server,
    begun: Instant,
    until: Instant,
    count: u32,
    turned_away: u32,
    last: Option<Error>,
    /// No try before this.
    again: Instant,
    /// When the breaker, found open after a try, allows the awaited trial.
    trial_at: Option<Instant>,
}

impl<'a> Tries<'a> {
    /// None yet; there may be some until `until`, the end of `jobs.setupTimeout`.
    pub fn new(server: &'a Server, now: Instant, until: Instant) -> Self {
        Self { server, begun: now, until, count: 0, turned_away: 0, last: None, again: now, trial_at: None }
    }

    /// Whether a try is allowed now; `open` is the breaker's refusal, if it is open.
    pub fn may_try(&mut self, open: Option<Refused>, now: Instant) -> Result<bool, Error> {
        let Some(refused) = open else { return Ok(now >= self.again) };
        let waits = self.count > 0 && refused.retry_at < self.until;
        if waits && *self.trial_at.get_or_insert(refused.retry_at) == refused.retry_at {
            return Ok(false);
        }
        let (server, failures) = (self.server.shown(), refused.failures);
        let retry_in = refused.retry_at.saturating_duration_since(now);
        let open = Error::BreakerOpen { server, failures, retry_in };
        Err(match &self.last {
            Some(last) => self.give_up(last, open.to_string(), now),
            None => open,
        })
    }

    /// Notes a failed try; an error if there is no further one. At the first, logs how long it is tried again.
    pub fn failed(&mut self, failure: Failure, now: Instant, unit: f64) -> Result<Option<String>, Error> {
        let Failure { error, trial, others_pass } = failure;
        self.count += 1;
        self.turned_away += u32::from(matches!(error, Error::TurnedAway { .. }));
        let worth_it = error.is_worth_a_try(others_pass);
        if trial || !worth_it {
            let why = if trial { "the circuit breaker let a trial through" } else { "another try would not help" };
            return Err(if self.count == 1 { error } else { self.give_up(&error, why.to_owned(), now) });
        }
        self.last = Some(error.clone());
        let backoff =
            Backoff { growth: Growth::Exponential, initial: limits::SSH_BACKOFF_FIRST, max: limits::SSH_BACKOFF_MOST };
        // The last pauses are shorter, so that the last moment is used.
        let left = self.until.saturating_duration_since(now);
        let pause = backoff.delay(self.count, 0.5 + unit / 2.0).min((left / 2).max(limits::SSH_BACKOFF_FIRST));
        self.again = now + pause;
        if self.again >= self.until {
            return Err(self.out_of_time(&error, now));
        }
        let patience = seconds(Duration::from_secs(left.as_secs()));
        Ok((self.count == 1).then(|| format!("{error}; trying again for up to {patience} (jobs.setupTimeout)")))
    }

    /// The setup time is over; an error if a try had failed.
    pub fn over(&self, now: Instant) -> Option<Error> {
        self.last.as_ref().map(|last| self.out_of_time(last, now))
    }

    fn out_of_time(&self, last: &Error, now: Instant) -> Error {
        let limit = self.until.saturating_duration_since(self.begun);
        self.give_up(last, format!("the limit is {} (jobs.setupTimeout)", seconds(limit)), now)
    }

    fn give_up(&self, last: &Error, why: String, now: Instant) -> Error {
        Error::GaveUp {
            server: self.server.shown(),
            tries: self.count,
            turned_away: self.turned_away,
            after: now.saturating_duration_since(self.begun),
            why,
            last: Box::new(last.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executors::ssh::error::Step;
    use crate::policy::breaker::State;

    fn server() -> Server {
        Server {
            id: None,
            name: "web".to_owned(),
            host: "h".to_owned(),
            port: 22,
            user: "u".to_owned(),
            private_key: None,
            certificate: None,
            passphrase: None,
            password: None,
            jump: None,
        }
    }

    fn broken(step: Step, what: &str) -> Error {
        Error::Broken { server: "web".to_owned(), step, what: what.to_owned() }
    }

    fn refused() -> Failure {
        Failure { error: broken(Step::Connect, "Connection refused"), trial: false, others_pass: false }
    }

    fn open(retry_at: Instant) -> Option<Refused> {
        Some(Refused { state: State::Open, retry_at, failures: 5 })
    }

    #[test]
    fn passing_errors_are_tried_again_up_to_the_end_and_others_are_not() {
        let (server, start) = (server(), Instant::now());
        let said = String::new();
        let timeout = || Error::Timeout {
            server: "web".to_owned(),
            step: Step::Connect,
            limit: "ssh.connectionPool.connectionTimeout",
            after: Duration::from_secs(10),
        };
        for (error, others_pass, again) in [
            (broken(Step::Connect, "Connection refused"), false, true),
            (
                broken(Step::Resolve, "failed to lookup address information: Temporary failure in name resolution"),
                false,
                true,
            ),
            (broken(Step::Resolve, "failed to lookup address information: Name or service not known"), false, false),
            (broken(Step::Handshake, "nonsense"), true, false),
            (Error::TurnedAway { server: "web".to_owned(), said }, false, true),
            (Error::Cut { server: "web".to_owned(), step: Step::Authenticate, what: "x".to_owned() }, false, true),
            (timeout(), true, true),
            (timeout(), false, false),
            (Error::Silent { server: "web".to_owned(), what: "x".to_owned() }, true, true),
            (Error::Silent { server: "web".to_owned(), what: "x".to_owned() }, false, false),
            (Error::HostKey { server: "web".to_owned(), what: "x".to_owned() }, true, false),
            (Error::Login { server: "web".to_owned(), user: "u".to_owned(), what: "x".to_owned() }, true, false),
            (Error::Key { server: "web".to_owned(), what: "x".to_owned() }, true, false),
            (Error::NothingInCommon { server: "web".to_owned(), what: "x".to_owned() }, true, false),
            (Error::Local { server: "web".to_owned(), what: "x".to_owned() }, true, false),
        ] {
            let text = error.to_string();
            let mut tries = Tries::new(&server, start, start + Duration::from_secs(300));
            match tries.failed(Failure { error, trial: false, others_pass }, start, 0.5) {
                Ok(told) => assert!(again && told.expect("the first is announced").starts_with(&text), "{text}"),
                Err(error) => assert!(!again && error.to_string() == text, "{error}, not {text}"),
            }
        }
    }

    #[test]
    fn pauses_grow_and_the_last_tries_are_close_to_the_end() {
        let (server, start) = (server(), Instant::now());
        let until = start + Duration::from_secs(60);
        let (mut tries, mut now, mut pauses) = (Tries::new(&server, start, until), start, Vec::new());
        let error = loop {
            assert!(tries.may_try(None, now).expect("no breaker"));
            match tries.failed(refused(), now, 1.0) {
                Ok(_) => {
                    assert!(!tries.may_try(None, now).expect("no breaker"));
                    pauses.push((tries.again - now).as_millis());
                    now = tries.again;
                }
                Err(error) => break error.to_string(),
            }
        };
        assert_eq!(pauses[..7], [200, 400, 800, 1600, 3200, 6400, 10_000], "{pauses:?}");
        assert!(until - now <= limits::SSH_BACKOFF_FIRST, "it gave up {:?} too early", until - now);
        let tried = pauses.len() + 1;
        assert!(
            error.contains(&format!("{tried} tries in 60 s, the last: cannot connect to web: Connection refused")),
            "{error}"
        );
        assert!(error.ends_with("the limit is 60 s (jobs.setupTimeout)"), "{error}");
    }

    #[test]
    fn whom_the_breaker_stops() {
        let (server, start) = (server(), Instant::now());
        let second = |n| start + Duration::from_secs(n);
        let new = || Tries::new(&server, start, second(300));
        // It comes while the breaker is open.
        let error = new().may_try(open(second(60)), start).expect_err("open").to_string();
        assert!(error.contains("is open after 5 failures in a row; the next trial is in 60 s"), "{error}");
        // It had tried before, and waits for one trial.
        let mut tries = new();
        tries.failed(refused(), start, 0.5).expect("again");
        assert!(!tries.may_try(open(second(60)), second(1)).expect("waits"));
        assert!(!tries.may_try(open(second(60)), second(59)).expect("waits"));
        assert!(tries.may_try(None, second(60)).expect("half-open"));
        let error = tries.may_try(open(second(121)), second(61)).expect_err("open again").to_string();
        for words in ["1 try in 61 s, the last: cannot connect", "the circuit breaker of web (h:22) is open"] {
            assert!(error.contains(words), "{error}");
        }
        // Its own try was the trial.
        let mut tries = new();
        let error = tries.failed(Failure { trial: true, ..refused() }, start, 0.5).expect_err("a trial");
        assert!(matches!(error, Error::Broken { .. }), "{error}");
        // A trial that comes too late is not waited for.
        let mut tries = new();
        tries.failed(refused(), start, 0.5).expect("again");
        tries.may_try(open(second(300)), second(1)).expect_err("too late");
    }

    #[test]
    fn what_closed_connections_is_named_also_when_the_last_try_ended_otherwise() {
        let (server, start) = (server(), Instant::now());
        let mut tries = Tries::new(&server, start, start + Duration::from_secs(1));
        let away = Error::TurnedAway { server: "web".to_owned(), said: "Exceeded MaxStartups".to_owned() };
        tries.failed(Failure { error: away, trial: false, others_pass: false }, start, 0.5).expect("again");
        let error = tries.failed(refused(), start + Duration::from_secs(1), 0.5).expect_err("the end").to_string();
        for words in [
            "2 tries in 1 s",
            "Connection refused",
            "1 of them",
            "MaxStartups",
            "PerSourcePenalties",
            "(jobs.setupTimeout)",
        ] {
            assert!(error.contains(words), "nothing of {words} in {error}");
        }
    }
}

//! Claims jobs for the workers that are free, and no others.
//!
//! Claims go through a channel without a buffer, so that no job waits inside the agent: what cannot be given to a worker
//! is given back to the backend. When to ask is decided by [`crate::policy::poll`]; this module waits, asks and hands over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};

use super::reconcile::claims::Claims;
use super::running::{Note, Running, Token};
pub use super::slots::{Busy, Slots};
use crate::api::{Client, Queue};
use crate::config::Live;
use crate::config::types::{Config, QueueStrategy};
use crate::job::Claim;
use crate::metrics::PollResult;
use crate::os::clock;
use crate::os::{
    pulse::{self, Pulse},
    random,
    stop::Stop,
    threads,
};
use crate::policy::poll::{Answer, Pace};
use crate::{limits, metrics};

/// A claimed job on its way to a worker. The worker keeps all of it until the job is reported: dropping `token` takes
/// the job out of the registry, dropping `slot` makes the worker count as free.
#[derive(Debug)]
pub struct Claimed {
    pub claim: Claim,
    pub token: Token,
    pub slot: Busy,
    /// When it was claimed.
    pub at: Instant,
}

/// Whether jobs may be claimed at present; a reason if not.
pub type Admission = Box<dyn Fn() -> Result<(), String> + Send>;

/// Everything the poller works with.
pub struct Poller {
    pub client: Client,
    pub slots: Slots,
    pub running: Running,
    /// A channel without a buffer.
    pub workers: Sender<Claimed>,
    pub admission: Admission,
    /// Looked at in each round.
    pub config: Live,
    /// Whether the backend announces jobs now.
    pub is_pushed: Box<dyn Fn() -> bool + Send>,
    /// Polls that were left out since `admission` said no.
    pub skipped: Arc<AtomicU64>,
    pub stop: Stop,
    /// Touched in each round.
    pub pulse: Pulse,
    /// Told of each poll whose answer was lost.
    pub lost: Claims,
}

impl Poller {
    /// A poller as `config` has it.
    pub fn new(
        config: &Live,
        client: Client,
        slots: Slots,
        running: Running,
        workers: Sender<Claimed>,
        admission: Admission,
        stop: Stop,
    ) -> Self {
        Self {
            client,
            slots,
            running,
            workers,
            admission,
            config: config.clone(),
            is_pushed: Box::new(|| false),
            skipped: Arc::default(),
            stop,
            pulse: Pulse::unwatched(),
            lost: Claims::new(std::time::Duration::ZERO),
        }
    }

    /// Starts the thread `poller`.
    pub fn spawn(self) -> std::io::Result<threads::Thread> {
        threads::spawn("poller", move || {
            // A drain may last: that nothing is polled then is no sign of being stuck, so the pulse rests at the end.
            let _watched = self.pulse.clone().enter();
            self.run();
        })
    }

    /// Polls until stopped, or until the workers are gone.
    pub fn run(self) {
        let mut config = self.config.now();
        let mut most = self.longest_pause(&config);
        let mut pace = Pace::new(config.jobs.poll_interval, most, clock::now());
        let mut closed = None;
        while !self.stop.is_set() {
            pulse::touch();
            let newer = self.config.has_left(&config);
            config = self.config.now();
            if newer || self.longest_pause(&config) != most {
                most = self.longest_pause(&config);
                pace.adjust(config.jobs.poll_interval, most, clock::now());
            }
            if self.slots.wait(pace.due(), &self.stop) {
                pace.hint(clock::now());
            }
            let free = self.slots.free();
            if free == 0 || pace.due() > clock::now() || self.stop.is_set() {
                continue;
            }
            let answer = match self.admitted(&mut closed) {
                false => Answer::Skipped,
                true => match self.poll(free) {
                    Some(answer) => answer,
                    None => return,
                },
            };
            metrics::poll(match &answer {
                Answer::Skipped => PollResult::Skipped,
                Answer::Failed { .. } => PollResult::Error,
                Answer::Jobs { got: 0, .. } => PollResult::Empty,
                Answer::Jobs { .. } => PollResult::Jobs,
            });
            pace.record(answer, clock::now(), random::unit());
        }
    }

    /// Where the backend announces jobs, a poll is only the second way to hear of one.
    fn longest_pause(&self, config: &Config) -> Duration {
        match config.jobs.max_poll_interval {
            Duration::ZERO if (self.is_pushed)() => limits::POLL_PUSHED,
            Duration::ZERO => limits::POLL_UNPUSHED,
            given => given,
        }
    }

    /// Asks whether a poll is allowed; says so in the log when that changes.
    fn admitted(&self, closed: &mut Option<String>) -> bool {
        match (self.admission)() {
            Ok(()) => {
                if closed.take().is_some() {
                    log::info!("jobs are claimed again");
                }
                true
            }
            Err(reason) => {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                if closed.as_ref() != Some(&reason) {
                    log::warn!("no jobs are claimed: {reason}");
                    *closed = Some(reason);
                }
                false
            }
        }
    }

    /// One poll, by the configuration of this moment: it may have changed during the pause. `None` when the workers are gone.
    fn poll(&self, free: usize) -> Option<Answer> {
        let config = self.config.now();
        let asked = free.min(config.jobs.poll_batch_size.max(1));
        let queue = match self.client.queue(asked, &config.job_types(), &config.ssh.hosts) {
            Ok(queue) => queue,
            Err(error) => {
                log::warn!("no jobs were claimed: {error}");
                if error.is_ambiguous() {
                    self.lost.suspect();
                }
                let too_many = error.status() == Some(429);
                return Some(Answer::Failed { retry_after: error.retry_after(), too_many });
            }
        };
        let next_after = queue.next_poll_after.and_then(|at| at.duration_since(clock::wall()).ok());
        let got = self.hand_out(queue, asked)?;
        Some(Answer::Jobs { asked, got, next_after })
    }

    /// Gives each job of an answer to a worker; how many there were. `None` when the workers are gone.
    fn hand_out(&self, queue: Queue, asked: usize) -> Option<usize> {
        for why in &queue.unusable {
            log::warn!("the backend handed out a job that cannot even be reported: {why}");
        }
        if !queue.unusable.is_empty() {
            // Those of them that the backend lists by their ids can be given back.
            self.lost.suspect();
        }
        let at = clock::now();
        let mut claims = queue.claims;
        if self.config.now().jobs.queue_strategy == QueueStrategy::Priority {
            // A refused job takes no time, so it may go first.
            claims.sort_by_key(|claim| match claim {
                Claim::Run(job) => std::cmp::Reverse(job.priority),
                Claim::Refuse { .. } => std::cmp::Reverse(i64::MAX),
            });
        }
        let mut given = 0;
        let mut gone = false;
        for claim in claims {
            let Some(token) = self.running.claim(claim.id()) else {
                log::warn!("job {} was handed out again while it runs here; it is not run twice", claim.id());
                continue;
            };
            token.note(Note::Kind(claim.kind()));
            if gone || self.stop.is_set() {
                self.release(&claim, "the agent is stopping");
                continue;
            }
            let slot = if given < asked { self.slots.busy() } else { None };
            let Some(slot) = slot else {
                self.release(&claim, "more jobs were handed out than were asked for");
                continue;
            };
            metrics::job_received(claim.kind());
            match self.send(Claimed { claim, token, slot, at }) {
                Sent::Taken => given += 1,
                Sent::Stopped => {}
                Sent::Gone => gone = true,
            }
        }
        (!gone).then_some(given)
    }

    /// Waits until a worker takes the job. A free worker does so at once, so the wait only bounds how late a stop is seen.
    fn send(&self, mut claimed: Claimed) -> Sent {
        loop {
            match clock::send(&self.workers, claimed, limits::STOP_CHECK) {
                Ok(()) => return Sent::Taken,
                Err(SendTimeoutError::Timeout(back)) if !self.stop.is_set() => claimed = back,
                Err(SendTimeoutError::Timeout(back)) => {
                    self.release(&back.claim, "the agent is stopping");
                    return Sent::Stopped;
                }
                Err(SendTimeoutError::Disconnected(back)) => {
                    self.release(&back.claim, "the agent is stopping");
                    return Sent::Gone;
                }
            }
        }
    }

    fn release(&self, claim: &Claim, why: &str) {
        let id = claim.id();
        // Not tried again once stopped, so that the end of this thread stays near.
        match self.client.with_stop(self.stop.clone()).release(id, why) {
            Ok(()) => log::warn!("job {id} was given back to the queue: {why}"),
            Err(error) => log::error!("job {id} could not be given back to the queue ({why}): {error}"),
        }
    }
}

enum Sent {
    Taken,
    Stopped,
    Gone,
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod fleet;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{Act, Server, ok};
    use crate::job::Id;
    use crossbeam_channel::{Receiver, bounded};

    const LONG: Duration = Duration::from_secs(20);

    fn row(id: &str, priority: i64) -> String {
        format!(r#"{{"id":"{id}","priority":{priority},"execution":{{"script":{{"type":"sh","content":""}}}}}}"#)
    }

    fn jobs(rows: &[String]) -> Act {
        ok(&format!(r#"{{"jobs":[{}]}}"#, rows.join(",")))
    }

    struct Rig {
        slots: Slots,
        running: Running,
        stop: Stop,
        skipped: Arc<AtomicU64>,
        claims: Receiver<Claimed>,
        thread: threads::Thread,
    }

    fn start(server: &Server, workers: usize, interval: Duration, admission: Admission) -> Rig {
        let (to, claims) = bounded(0);
        let (slots, running, stop) = (Slots::new(workers), Running::new(), Stop::new());
        let mut config = crate::config::defaults();
        (config.jobs.poll_interval, config.jobs.max_poll_interval) = (interval, interval * 4);
        let poller = Poller {
            client: server.client(),
            slots: slots.clone(),
            running: running.clone(),
            workers: to,
            admission,
            config: Live::new(config),
            is_pushed: Box::new(|| false),
            skipped: Arc::default(),
            stop: stop.clone(),
            pulse: Pulse::unwatched(),
            lost: Claims::new(Duration::ZERO),
        };
        let skipped = Arc::clone(&poller.skipped);
        Rig { slots, running, stop, skipped, claims, thread: poller.spawn().expect("a thread") }
    }

    impl Rig {
        fn next(&self) -> Claimed {
            self.claims.recv_timeout(LONG).expect("a claim")
        }

        fn end(self) {
            self.stop.set();
            assert_eq!(self.thread.join_within(LONG), threads::Ended::Returned);
        }
    }

    fn until(what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < LONG, "{what} did not come about");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn open() -> Admission {
        Box::new(|| Ok(()))
    }

    #[test]
    fn it_asks_for_the_free_workers_and_polls_at_once_when_one_is_free_again() {
        let server = Server::start(|seen, n| match seen.line.split_once("batchSize=") {
            Some((_, rest)) => {
                let (size, _) = rest.split_once('&').expect("types");
                let size: usize = size.parse().expect("a size");
                jobs(&(0..size).map(|i| row(&format!("j{n}-{i}"), i as i64)).collect::<Vec<_>>())
            }
            None => ok("{}"),
        });
        // An interval of a minute: everything below happens at once or the test fails.
        let rig = start(&server, 3, Duration::from_secs(60), open());
        let mut taken = vec![rig.next(), rig.next(), rig.next()];
        let ids: Vec<_> = taken.iter().map(|c| c.claim.id().to_string()).collect();
        assert_eq!(ids, ["j0-2", "j0-1", "j0-0"], "by priority");
        assert_eq!((rig.slots.free(), rig.running.len()), (0, 3));
        drop(taken.pop());
        taken.push(rig.next());
        let lines = ["3", "1"].map(|n| format!("GET /api/internal/jobs/queue?batchSize={n}&jobTypes=SCRIPT"));
        assert_eq!(server.lines(), lines);
        rig.end();
    }

    #[test]
    fn surplus_is_released_and_what_runs_here_is_not_run_twice() {
        let server = Server::start(|seen, n| match (seen.line.starts_with("GET"), n) {
            (true, 0) => jobs(&[row("a", 0), row("a", 0), row("b", 0), row("c", 0), r#"{"id":"../x"}"#.to_owned()]),
            (true, _) => jobs(&[]),
            (false, _) => ok("{}"),
        });
        let rig = start(&server, 2, Duration::from_secs(60), open());
        let (a, b) = (rig.next(), rig.next());
        assert_eq!((a.token.id(), b.token.id()), (&Id::parse("a").expect("id"), &Id::parse("b").expect("id")));
        until("the release", || server.lines().len() > 1);
        assert_eq!(server.lines()[1], "POST /api/internal/jobs/c/release");
        assert!(server.seen()[1].body.contains("more jobs were handed out"));
        rig.end();
        assert!(server.lines().iter().all(|l| !l.contains("/jobs/a/") && !l.contains("/jobs/b/")));
    }

    #[test]
    fn a_claim_that_nobody_takes_is_released_on_stop() {
        let server = Server::start(|seen, _| match seen.line.starts_with("GET") {
            true => jobs(&[row("a", 0), row("b", 0)]),
            false => ok("{}"),
        });
        let rig = start(&server, 2, Duration::from_secs(60), open());
        until("the claim", || rig.running.len() == 1);
        let running = rig.running.clone();
        rig.end();
        let lines = ["POST /api/internal/jobs/a/release", "POST /api/internal/jobs/b/release"];
        assert_eq!(server.lines()[1..], lines);
        assert!(running.is_empty());
    }

    #[test]
    fn it_claims_nothing_while_it_may_not_and_follows_a_kick() {
        let server = Server::start(|_, _| jobs(&[]));
        let closed = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let flag = Arc::clone(&closed);
        let admission: Admission =
            Box::new(move || if flag.load(Ordering::SeqCst) { Err("the engine is down".into()) } else { Ok(()) });
        let rig = start(&server, 1, Duration::from_millis(20), admission);
        until("some skipped polls", || rig.skipped.load(Ordering::Relaxed) > 2);
        assert!(server.lines().is_empty());
        closed.store(false, Ordering::SeqCst);
        until("a poll", || !server.lines().is_empty());
        rig.end();

        let rig = start(&server, 1, Duration::from_secs(60), open());
        let before = server.lines().len();
        until("the first poll", || server.lines().len() > before);
        // Kicks until one falls after the answer was taken in.
        until("a kicked poll", || {
            rig.slots.kick();
            server.lines().len() > before + 1
        });
        rig.end();
    }

    #[test]
    fn a_kick_without_a_free_worker_is_kept() {
        let slots = Slots::new(1);
        let busy = slots.busy().expect("free");
        assert!(slots.busy().is_none());
        slots.kick();
        let (later, stop) = (Instant::now() + LONG, Stop::new());
        assert!(!slots.wait(later, &stop));
        drop(busy);
        assert!(slots.wait(later, &stop));
    }

    #[test]
    fn errors_do_not_end_it() {
        let server = Server::start(|_, n| match n {
            0 => Act::Cut,
            1 => Act::Answer(500, "", String::new()),
            2 => ok("<html>"),
            _ => jobs(&[row("a", 0)]),
        });
        let rig = start(&server, 1, Duration::from_millis(5), open());
        assert_eq!(rig.next().claim.id().as_str(), "a");
        rig.end();
    }

    #[test]
    fn it_ends_when_the_workers_are_gone() {
        let server =
            Server::start(|seen, _| if seen.line.starts_with("GET") { jobs(&[row("a", 0)]) } else { ok("{}") });
        let Rig { claims, thread, running, .. } = start(&server, 1, Duration::from_millis(5), open());
        drop(claims);
        assert_eq!(thread.join_within(LONG), threads::Ended::Returned);
        assert!(running.is_empty());
        assert_eq!(server.lines().last().map(String::as_str), Some("POST /api/internal/jobs/a/release"));
    }

    #[test]
    fn without_a_push_an_idle_agent_looks_every_two_seconds_and_else_as_it_was_told() {
        let server = Server::start(|_, _| jobs(&[]));
        let mut config = crate::config::defaults();
        let longest = |config: &Config, pushed: bool| {
            let (to, _claims) = bounded(0);
            let live = Live::new(config.clone());
            let mut poller =
                Poller::new(&live, server.client(), Slots::new(1), Running::new(), to, open(), Stop::new());
            poller.is_pushed = Box::new(move || pushed);
            poller.longest_pause(config)
        };
        assert_eq!([longest(&config, false), longest(&config, true)], [limits::POLL_UNPUSHED, limits::POLL_PUSHED]);
        config.jobs.max_poll_interval = Duration::from_secs(7);
        assert_eq!([longest(&config, false), longest(&config, true)], [Duration::from_secs(7); 2]);
    }
}

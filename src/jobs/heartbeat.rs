//! Renews the lease of running jobs, and receives cancels.
//!
//! It has its own thread and connections, so that jobs never delay it. A cancel arrives here in one of three ways, as
//! `cancelJobs` in the answer. The others are the row watch's and the live log's.
//!
//! If no heartbeat is accepted for longer than `jobs.stopAfterLost`, the running jobs are ended: for a backend that gives the
//! jobs of a silent agent to another one. A separate thread checks that, since a heartbeat under way may take `api.timeout`
//! to fail.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::running::Running;
use crate::api::{Capacity, Client, Error};
use crate::config::Live;
use crate::config::types::Config;
use crate::job::Id;
use crate::limits;
use crate::os::clock;
use crate::os::{pulse::Pulse, random, stop::Stop, threads};
use crate::policy::backoff::{Backoff, Growth};

/// Who cancelled, when the heartbeat's answer said so.
pub const BY_HEARTBEAT: &str = "backend (heartbeat)";
/// Who cancelled, when no heartbeat was taken for too long.
pub const BY_LOST_CONTACT: &str = "the agent itself (jobs.stopAfterLost)";

/// Called with the result of each heartbeat: its time, or why it failed.
pub type OnResult = Box<dyn Fn(Result<Duration, &Error>) + Send>;

/// Everything the heartbeat works with.
pub struct Heartbeat {
    pub client: Client,
    pub running: Running,
    /// Uses `jobs.maxConcurrent`, `.leaseRenewal` and `.stopAfterLost`. A new configuration is sent to the backend at once.
    pub config: Live,
    pub on_result: OnResult,
    pub stop: Stop,
    /// Touched in each round.
    pub pulse: Pulse,
}

impl Heartbeat {
    /// Starts the thread `heartbeat`.
    pub fn spawn(self) -> std::io::Result<threads::Thread> {
        threads::spawn("heartbeat", move || {
            let _watched = self.pulse.clone().enter();
            self.run();
        })
    }

    /// Beats until stopped, at once for the first time.
    pub fn run(mut self) {
        self.client = self.client.separate();
        let contact = Contact::new(self.running.clone(), self.config.clone());
        let mut watch = contact.watch(&self.stop, None);
        // After a start, a failure or a late answer, many agents may beat at one moment.
        let (mut failures, mut in_step) = (0, true);
        loop {
            self.pulse.touch();
            let sent = clock::now();
            let config = self.config.now();
            let before = failures;
            failures = if self.beat(failures) { 0 } else { failures + 1 };
            if failures == 0 {
                contact.was_at(sent);
            }
            in_step |= before > 0 || clock::since(sent) > config.jobs.lease_renewal / 3;
            let delay = self.delay(failures, std::mem::take(&mut in_step));
            if self.pause(delay, &config) {
                break;
            }
            watch = contact.watch(&self.stop, watch);
        }
        if let Some(watch) = watch {
            watch.join_within(limits::THREAD_JOIN_WAIT);
        }
    }

    /// Waits for so long, or until there is another configuration than `config`; whether to end.
    fn pause(&self, delay: Duration, config: &Arc<Config>) -> bool {
        let until = clock::now() + delay;
        loop {
            self.pulse.touch();
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() || self.config.has_left(config) {
                return self.stop.is_set();
            }
            if self.stop.wait(left.min(limits::RELOAD_LOOK)) {
                return true;
            }
        }
    }

    /// The wait until the next one: the interval within a tenth, or less after failures, so that the lease is not lost. Agents
    /// in step wait for any part of the interval, once.
    fn delay(&self, failures: u32, in_step: bool) -> Duration {
        let interval = self.config.now().jobs.lease_renewal;
        if failures == 0 && in_step {
            return interval.mul_f64(random::unit());
        }
        if failures == 0 {
            return interval.mul_f64(0.9 + 0.2 * random::unit());
        }
        let third = interval / 3;
        let backoff = Backoff { growth: Growth::Exponential, initial: third / 4, max: third };
        // Half of the jitter is kept as a floor: a backend that refuses at once must not be hammered.
        (backoff.bound(failures) / 2) + backoff.delay(failures, random::unit()) / 2
    }

    /// One heartbeat; whether the backend took it.
    fn beat(&self, failures: u32) -> bool {
        let ids = self.running.ids();
        let max_jobs = self.config.now().jobs.max_concurrent;
        let capacity =
            Capacity { max_jobs, current_jobs: ids.len(), available_slots: max_jobs.saturating_sub(ids.len()) };
        let begun = clock::now();
        match self.client.heartbeat(&ids, capacity) {
            Ok(answer) => {
                (self.on_result)(Ok(clock::since(begun)));
                if failures > 0 {
                    log::info!("the backend takes heartbeats again");
                }
                for id in &answer.cancel_jobs {
                    self.cancel(id, BY_HEARTBEAT);
                }
                true
            }
            Err(error) => {
                (self.on_result)(Err(&error));
                log::warn!("the heartbeat was not taken: {error}");
                false
            }
        }
    }

    fn cancel(&self, id: &Id, who: &'static str) {
        if self.running.cancel(id, who) {
            log::info!("job {id} is cancelled by the {who}");
        }
    }
}

/// When the backend last took a heartbeat, and what happens when that is too long ago.
#[derive(Clone)]
struct Contact {
    running: Running,
    /// Of it `jobs.stopAfterLost`.
    config: Live,
    /// When the last one that was taken was sent; at first, when the agent began.
    last: Arc<Mutex<Instant>>,
}

impl Contact {
    fn new(running: Running, config: Live) -> Self {
        Self { running, config, last: Arc::new(Mutex::new(clock::now())) }
    }

    fn was_at(&self, sent: Instant) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = sent;
    }

    fn silence(&self) -> Duration {
        clock::since(*self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `jobs.stopAfterLost`; zero for never.
    fn after(&self) -> Duration {
        self.config.now().jobs.stop_after_lost
    }

    /// Starts the thread `lost-contact` where it is wanted and not there; it ends by itself when it is switched off.
    fn watch(&self, stop: &Stop, there: Option<threads::Thread>) -> Option<threads::Thread> {
        let there = match there {
            Some(ended) if ended.is_finished() => {
                ended.join_within(limits::THREAD_JOIN_WAIT);
                None
            }
            there => there,
        };
        if there.is_some() || self.after().is_zero() {
            return there;
        }
        let (contact, stop) = (self.clone(), stop.clone());
        let thread = threads::spawn("lost-contact", move || contact.look(&stop));
        thread.map_err(|error| log::error!("jobs.stopAfterLost has no effect: cannot start a thread: {error}")).ok()
    }

    fn look(&self, stop: &Stop) {
        // The jobs that were ended in this silence.
        let mut ended = BTreeSet::new();
        loop {
            let after = self.after();
            if after.is_zero() {
                return;
            }
            let left = after.saturating_sub(self.silence());
            if left.is_zero() {
                self.end_jobs(&mut ended);
            } else {
                ended.clear();
            }
            // A job may be claimed in the silence too, where only heartbeats are not taken.
            let wait = if left.is_zero() { limits::LOST_LOOK } else { left.min(limits::RELOAD_LOOK) };
            if stop.wait(wait) {
                return;
            }
        }
    }

    fn end_jobs(&self, ended: &mut BTreeSet<Id>) {
        let silence = self.silence();
        for id in self.running.ids() {
            if ended.insert(id.clone()) && self.running.cancel(&id, BY_LOST_CONTACT) {
                let (silence, after) = (silence.as_secs_f64(), self.after());
                log::error!(
                    "lost contact with the backend for {silence:.1} s (jobs.stopAfterLost is {after:?}): job {id} is ended"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{Act, Seen, Server, ok};
    use crate::os::pulse::Pulses;
    use crossbeam_channel::{Receiver, unbounded};

    const LONG: Duration = Duration::from_secs(20);

    struct Rig {
        running: Running,
        results: Receiver<bool>,
        stop: Stop,
        pulses: Pulses,
        thread: threads::Thread,
    }

    fn start(client: Client, interval: Duration, running: &Running) -> Rig {
        start_with(client, interval, Duration::ZERO, running)
    }

    fn start_with(client: Client, interval: Duration, stop_after_lost: Duration, running: &Running) -> Rig {
        let (tell, results) = unbounded();
        let (stop, pulses) = (Stop::new(), Pulses::new());
        let mut config = crate::config::defaults();
        (config.jobs.lease_renewal, config.jobs.stop_after_lost) = (interval, stop_after_lost);
        let heartbeat = Heartbeat {
            client,
            running: running.clone(),
            config: Live::new(config),
            on_result: Box::new(move |result| {
                let _ = tell.send(result.is_ok());
            }),
            stop: stop.clone(),
            pulse: pulses.part("heartbeat", LONG / 20),
        };
        Rig { running: running.clone(), results, stop, pulses, thread: heartbeat.spawn().expect("a thread") }
    }

    impl Rig {
        fn end(self) {
            self.stop.set();
            assert_eq!(self.thread.join_within(LONG), threads::Ended::Returned);
        }

        /// Who cancels `id` first.
        fn cancelled_by(&self, id: &Id) -> &'static str {
            let until = Instant::now() + LONG;
            loop {
                if let Some(who) = self.running.get(id).expect("it runs").cancelled_by {
                    return who;
                }
                assert!(Instant::now() < until, "no cancel within {LONG:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn is_beat(seen: &Seen) -> bool {
        seen.line.ends_with("/orchestrator/heartbeat")
    }

    #[test]
    fn the_first_comes_at_once_on_its_own_connection_and_a_cancel_reaches_the_job() {
        let server = Server::start(|seen, _| if is_beat(seen) { ok(r#"{"cancelJobs":["x","a"]}"#) } else { ok("[]") });
        let running = Running::new();
        let id = Id::parse("a").expect("id");
        let _token = running.claim(&id).expect("free");
        let client = server.client();
        client.health().expect("health");
        let rig = start(client, Duration::from_secs(600), &running);
        assert_eq!(rig.cancelled_by(&id), BY_HEARTBEAT);
        assert!(rig.results.recv_timeout(LONG).expect("a result"));
        let beat = server.seen().into_iter().find(is_beat).expect("a heartbeat");
        assert_eq!(beat.connection, 1);
        let body: serde_json::Value = serde_json::from_str(&beat.body).expect("JSON");
        assert_eq!(body["runningJobs"], serde_json::json!(["a"]));
        assert_eq!(body["capacity"], serde_json::json!({"maxJobs":5,"currentJobs":1,"availableSlots":4}));
        rig.end();
    }

    #[test]
    fn a_failure_is_followed_by_an_earlier_try_and_told() {
        let server = Server::start(|_, n| if n < 2 { Act::Answer(500, "", String::new()) } else { ok("{}") });
        let begun = Instant::now();
        let rig = start(server.client(), Duration::from_secs(3), &Running::new());
        let results: Vec<_> = (0..3).map(|_| rig.results.recv_timeout(LONG).expect("a result")).collect();
        assert_eq!(results, [false, false, true]);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert!(server.lines().iter().all(|l| !l.contains("orphaned")), "without jobs nobody asks for rows");
        rig.end();
    }

    /// A backend that never answers a heartbeat: neither an error nor an answer comes within the test.
    fn silent() -> Server {
        Server::start(|_, _| Act::Stall(Vec::new()))
    }

    #[test]
    fn lost_contact_ends_the_jobs_while_a_heartbeat_is_under_way() {
        let server = silent();
        let running = Running::new();
        let (a, b) = (Id::parse("a").expect("id"), Id::parse("b").expect("id"));
        let _token = running.claim(&a).expect("free");
        let (begun, after) = (Instant::now(), Duration::from_millis(300));
        let rig = start_with(server.client(), Duration::from_millis(100), after, &running);
        assert_eq!(rig.cancelled_by(&a), BY_LOST_CONTACT);
        let took = begun.elapsed();
        // The heartbeat itself fails only after `api.timeout`, 5 s.
        assert!(took >= after && took < Duration::from_secs(3) && rig.results.is_empty(), "{took:?}");
        // What is claimed in the silence is ended as well.
        let _token = running.claim(&b).expect("free");
        assert_eq!(rig.cancelled_by(&b), BY_LOST_CONTACT);
        drop(server);
        rig.end();
    }

    #[test]
    fn jobs_go_on_while_heartbeats_are_taken_and_without_the_key() {
        let running = Running::new();
        let id = Id::parse("a").expect("id");
        let _token = running.claim(&id).expect("free");
        let taken = Server::start(|seen, _| if is_beat(seen) { ok("{}") } else { ok(r#"[{"id":"a"}]"#) });
        let rig = start_with(taken.client(), Duration::from_millis(50), Duration::from_millis(1500), &running);
        // Three times as long as would be too long.
        std::thread::sleep(Duration::from_millis(4500));
        assert_eq!(running.get(&id).expect("it runs").cancelled_by, None);
        rig.end();
        let refused = Server::start(|_, _| Act::Answer(500, "", String::new()));
        let rig = start(refused.client(), Duration::from_millis(50), &running);
        for _ in 0..5 {
            assert!(!rig.results.recv_timeout(LONG).expect("a result"));
        }
        assert_eq!(running.get(&id).expect("it runs").cancelled_by, None);
        rig.end();
    }

    #[test]
    fn the_watchdog_sees_it_get_on_while_it_beats_and_does_not_miss_it_when_it_has_ended() {
        let server = Server::start(|_, _| ok("{}"));
        let rig = start(server.client(), Duration::from_millis(100), &Running::new());
        let (begun, pulses) = (Instant::now(), rig.pulses.clone());
        while begun.elapsed() < LONG / 8 {
            assert_eq!(pulses.healthy(Instant::now()), Ok(()));
            std::thread::sleep(Duration::from_millis(20));
        }
        rig.end();
        assert_eq!(pulses.healthy(Instant::now() + LONG), Ok(()));
    }
}

//! The circuit breakers of all servers: a host that does not answer costs one job its time, not every job.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crate::job::Server;
use crate::limits;
use crate::metrics;
use crate::policy::breaker::{Breaker, Pass, Refused, Settings, State, Transition};

/// Shared by clones.
#[derive(Clone)]
pub struct Breakers {
    settings: Settings,
    all: Arc<Mutex<BTreeMap<String, Entry>>>,
    /// Called when a breaker changes.
    watcher: Arc<OnceLock<Watcher>>,
}

/// Called with all breakers that are not closed.
pub type Watcher = Box<dyn Fn(&[Tripped]) + Send + Sync>;

impl fmt::Debug for Breakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Breakers").field(&self.tripped()).finish()
    }
}

#[derive(Debug)]
struct Entry {
    breaker: Breaker,
    used: Instant,
}

/// A breaker that is not closed, for `/health` and `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tripped {
    /// `host:port`, and the jump host's on the way.
    pub server: String,
    pub state: State,
    pub failures: u32,
}

impl Breakers {
    /// None yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, all: Arc::default(), watcher: Arc::default() }
    }

    /// Calls `watcher` at each change; the first one set counts.
    pub fn watch(&self, watcher: Watcher) {
        let _ = self.watcher.set(watcher);
    }

    fn tell(&self, server: &str, transition: Option<Transition>) {
        if transition.is_some() {
            tell(server, transition);
            if let Some(watcher) = self.watcher.get() {
                watcher(&self.tripped());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server's breaker is open now; changes nothing.
    pub fn look(&self, server: &Server) -> Option<Refused> {
        self.lock().get(&server.route()).and_then(|entry| entry.breaker.look(Instant::now()))
    }

    /// Asks to connect.
    pub fn admit(&self, server: &Server) -> Result<Pass, Refused> {
        let (address, now) = (server.route(), Instant::now());
        let mut all = self.lock();
        if let Some(gone) = make_room(&mut all, &address, now) {
            metrics::ssh_breaker_forgotten(&gone);
        }
        if !all.contains_key(&address) {
            metrics::ssh_breaker(&address, 0);
        }
        let entry =
            all.entry(address.clone()).or_insert_with(|| Entry { breaker: Breaker::new(self.settings), used: now });
        entry.used = now;
        let result = entry.breaker.admit(now);
        drop(all);
        result.inspect(|pass| self.tell(&address, pass.transition()))
    }

    /// Reports the result: `false` only if server or network are out of order.
    pub fn record(&self, server: &Server, pass: Pass, success: bool) {
        let address = server.route();
        let mut all = self.lock();
        let Some(entry) = all.get_mut(&address) else { return };
        let transition = entry.breaker.record(pass, success, Instant::now());
        drop(all);
        self.tell(&address, transition);
    }

    /// A kept connection served a job: it counts like a new one for a breaker that waits for successes.
    pub fn served(&self, server: &Server) {
        let address = server.route();
        let waits =
            self.lock().get(&address).is_some_and(|entry| entry.breaker.state(Instant::now()) == State::HalfOpen);
        if waits && let Ok(pass) = self.admit(server) {
            self.record(server, pass, true);
        }
    }

    /// All that are not closed.
    pub fn tripped(&self) -> Vec<Tripped> {
        let now = Instant::now();
        let all = self.lock();
        let each = all.iter().map(|(server, entry)| Tripped {
            server: server.clone(),
            state: entry.breaker.state(now),
            failures: entry.breaker.failures(),
        });
        each.filter(|tripped| tripped.state != State::Closed).collect()
    }
}

/// If there are too many, forgets the closed breaker that was unused for longest, or an open one; returns its server.
fn make_room(all: &mut BTreeMap<String, Entry>, wanted: &str, now: Instant) -> Option<String> {
    if all.len() < limits::SSH_BREAKERS || all.contains_key(wanted) {
        return None;
    }
    let closed = all.iter().filter(|(_, entry)| entry.breaker.state(now) == State::Closed);
    let oldest = closed.min_by_key(|(_, entry)| entry.used).or_else(|| all.iter().min_by_key(|(_, entry)| entry.used));
    let oldest = oldest.map(|(server, _)| server.clone())?;
    all.remove(&oldest);
    Some(oldest)
}

/// Writes a change to the log and the metrics.
fn tell(server: &str, transition: Option<Transition>) {
    let Some(Transition { from, to, failures }) = transition else { return };
    match to {
        State::Open => log::error!("the circuit breaker of {server} opens: {failures} failures in a row"),
        State::HalfOpen => log::warn!("the circuit breaker of {server} lets a trial through"),
        State::Closed => log::info!("the circuit breaker of {server} closes again (it was {from})"),
    }
    metrics::ssh_breaker(
        server,
        match to {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        },
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn server(host: &str) -> Server {
        Server {
            id: None,
            name: host.to_owned(),
            host: host.to_owned(),
            port: 22,
            user: "u".to_owned(),
            private_key: None,
            certificate: None,
            passphrase: None,
            password: None,
            jump: None,
        }
    }

    #[test]
    fn each_server_has_its_own_and_the_number_is_bounded() {
        let timeout = Duration::from_secs(60);
        let settings = Settings {
            enabled: true,
            failure_threshold: 2,
            moment: Duration::ZERO,
            success_threshold: 1,
            timeout,
            half_open_requests: 1,
        };
        let breakers = Breakers::new(settings);
        for _ in 0..2 {
            let pass = breakers.admit(&server("a")).expect("closed");
            breakers.record(&server("a"), pass, false);
        }
        let refused = breakers.admit(&server("a")).expect_err("open");
        assert_eq!((refused.failures, breakers.look(&server("a"))), (2, Some(refused)));
        assert_eq!(breakers.look(&server("b")), None);
        assert_eq!(breakers.tripped().len(), 1);
        for n in 0..limits::SSH_BREAKERS + 10 {
            drop(breakers.admit(&server(&format!("h{n}"))).expect("closed"));
        }
        assert_eq!(breakers.lock().len(), limits::SSH_BREAKERS);
        assert!(breakers.admit(&server("a")).is_err(), "the open one was kept");
    }

    #[test]
    fn a_breaker_that_was_forgotten_while_open_leaves_the_metrics_too() {
        let settings = Settings {
            enabled: true,
            failure_threshold: 1,
            moment: Duration::ZERO,
            success_threshold: 1,
            timeout: Duration::from_secs(60),
            half_open_requests: 1,
        };
        let breakers = Breakers::new(settings);
        for n in 0..limits::SSH_BREAKERS + 300 {
            let dead = server(&format!("forgotten-{n}"));
            let pass = breakers.admit(&dead).expect("closed");
            breakers.record(&dead, pass, false);
        }
        assert_eq!(breakers.tripped().len(), limits::SSH_BREAKERS);
        assert_eq!(metrics::ssh_breakers_like("forgotten-"), limits::SSH_BREAKERS);
        // Breakers that are kept still change there.
        let kept = format!("forgotten-{}", limits::SSH_BREAKERS + 299);
        assert_eq!(metrics::ssh_breakers_like(&kept), 1);
        for (server, _) in breakers.lock().iter() {
            metrics::ssh_breaker_forgotten(server);
        }
        assert_eq!(metrics::ssh_breakers_like("forgotten-"), 0);
    }
}

//! Connections that jobs share: one pool for each host, port, user, credential and row of `ssh.hosts`. A reload that changes
//! the row leaves the older connections to the jobs that use them.
//!
//! A job asks for a session. It gets one on a connection that is there and has a seat free, or a new connection is made,
//! at most `maxPerServer` for each, or it waits. A connection that turns out to be dead when a session is asked of it is
//! given up and another is made: it costs the job time and nothing else.
//!
//! Logins to one server are paced, over all credentials (`policy/pace.rs`): sshd turns connections away while too many others
//! have not logged in yet. A job that has not begun tries again what may pass (`tries.rs`).

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::config::types::Ssh as Settings;
use crate::executors::ssh::breakers::Breakers;
use crate::executors::ssh::connection::{Connection, Session};
use crate::executors::ssh::dial::Progress;
use crate::executors::ssh::error::{Error, Step};
use crate::executors::ssh::hosts::Hosts;
use crate::executors::ssh::pool_key::{Key, Keys};
use crate::executors::ssh::remote;
use crate::executors::ssh::tries::{Failure, Tries};
use crate::job::Server;
use crate::limits;
use crate::os::pulse;
use crate::os::random;
use crate::os::threads::{self, Thread};
use crate::policy::breaker::Pass;
use crate::policy::pace::{self, End, Pace};

#[derive(Debug, Default)]
struct Entry {
    connections: Vec<Arc<Connection>>,
    dialing: usize,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Key, Entry>,
    /// By [`Server::route`].
    paces: BTreeMap<String, Pace>,
    threads: Vec<Thread>,
    stopped: bool,
}

/// The pools of all servers; shared by clones.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// As they were at the start; `ssh.hosts` of now is in `keys`.
    settings: Settings,
    hosts: Hosts,
    breakers: Breakers,
    keys: Keys,
    inner: Mutex<Inner>,
}

/// How a session is asked for.
pub struct Wish<'a> {
    pub server: &'a Server,
    /// Until when a seat is waited for.
    pub until: Instant,
    /// Whether the session is still wanted.
    pub wanted: &'a dyn Fn() -> bool,
}

/// What a connection is asked for on a seat.
type OpenOn<'a, T> = &'a dyn Fn(&Arc<Connection>, u64) -> Result<T, Error>;

/// Serves a connection on its own thread, to its end.
type Serve = Box<dyn FnOnce()>;

/// Leave for one login to a server.
struct Ticket {
    key: Key,
    address: String,
    began: Instant,
}

/// Why there is no such leave now.
enum Held {
    /// As many connections as are allowed.
    Connections,
    /// As many logins at once as the server takes.
    Logins(usize),
}

/// Why a login came to nothing.
enum Missed {
    /// The circuit breaker let it not begin.
    Refused,
    Failed {
        error: Error,
        trial: bool,
    },
}

impl Pool {
    /// No connection yet.
    pub fn new(settings: Settings, breakers: Breakers) -> Self {
        let hosts = Hosts::new(&settings);
        let keys = Keys::new(&settings);
        Self(Arc::new(Shared { settings, hosts, breakers, keys, inner: Mutex::default() }))
    }

    /// Connections that are made from now on follow this `ssh.hosts` and `ssh.jumps`.
    pub fn reload(&self, settings: &Settings) {
        self.0.keys.reload(settings);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session with a waiting shell on the server, and whether its connection was there before. For a job whose script
    /// runs there: the circuit breaker is not asked, and an error is the caller's to judge.
    pub fn session(&self, wish: &Wish<'_>) -> Result<(Session, bool), Error> {
        let server = &self.0.keys.on_its_way(wish.server)?;
        self.seek(&self.0.keys.of(server), &Wish { server, ..*wish }, None, &mut |_| {}, &session)
    }

    /// The same for a job that has not begun: passing errors are tried again until `wish.until`, as far as the circuit
    /// breaker lets it. What is tried again is said once.
    pub fn first_session(&self, wish: &Wish<'_>, say: &mut dyn FnMut(&str)) -> Result<(Session, bool), Error> {
        let server = &self.0.keys.on_its_way(wish.server)?;
        let tries = Tries::new(server, Instant::now(), wish.until);
        self.seek(&self.0.keys.of(server), &Wish { server, ..*wish }, Some(tries), say, &session)
    }

    /// What `open` makes of a seat on a connection, and whether the connection was there before.
    fn seek<T>(
        &self,
        key: &Key,
        wish: &Wish<'_>,
        mut tries: Option<Tries<'_>>,
        say: &mut dyn FnMut(&str),
        open: OpenOn<'_, T>,
    ) -> Result<(T, bool), Error> {
        let (server, begun) = (wish.server, Instant::now());
        let (mut fresh, mut turn) = (None, Held::Connections);
        loop {
            if !(wish.wanted)() {
                return Err(Error::Stopped { server: server.shown() });
            }
            if let Some(found) = self.open_on_a_seat(key, server, fresh.as_ref(), open)? {
                return Ok(found);
            }
            let may_try = match &mut tries {
                Some(tries) => tries.may_try(self.0.breakers.look(server), Instant::now())?,
                None => true,
            };
            if may_try {
                if tries.is_some() {
                    self.reach_jump(wish, say)?;
                }
                match self.may_dial(key, server) {
                    Ok(ticket) => match self.try_once(ticket, wish, tries.as_mut(), say)? {
                        Some(connection) => {
                            fresh = Some(connection);
                            continue;
                        }
                        None => turn = Held::Connections,
                    },
                    Err(held) => turn = held,
                }
            }
            let now = Instant::now();
            if now >= wish.until {
                let (server, after) = (server.shown(), begun.elapsed());
                return Err(tries.and_then(|tries| tries.over(now)).unwrap_or(match turn {
                    Held::Connections => Error::Busy { server, after },
                    Held::Logins(at_once) => Error::NoTurn { server, at_once, after },
                }));
            }
            pulse::touch();
            std::thread::sleep(limits::SSH_SEAT_LOOK);
        }
    }

    /// The same on a connection that is there; nothing when none has a seat free. `fresh` is the connection that was
    /// made for this job: an error on it is the job's, one on another costs that connection.
    fn open_on_a_seat<T>(
        &self,
        key: &Key,
        server: &Server,
        fresh: Option<&Arc<Connection>>,
        open: OpenOn<'_, T>,
    ) -> Result<Option<(T, bool)>, Error> {
        while let Some((connection, seat)) = self.seat(key) {
            let is_fresh = fresh.is_some_and(|made| Arc::ptr_eq(made, &connection));
            match open(&connection, seat) {
                Ok(found) => {
                    if !is_fresh {
                        self.0.breakers.served(server);
                    }
                    return Ok(Some((found, !is_fresh)));
                }
                Err(Error::Full { .. }) if !connection.is_closed() => {}
                // Of a server behind it.
                Err(error @ Error::NoWay { .. }) => return Err(error),
                // One to a jump host that lives carries the connections of others.
                Err(error) if is_fresh || key.forwards && !connection.is_closed() => return Err(error),
                Err(error) => {
                    log::info!("a connection that was kept is of no use any more: {error}");
                    connection.abort();
                }
            }
        }
        Ok(None)
    }

    /// One login; nothing where it came to nothing and the job is to wait and look again.
    fn try_once(
        &self,
        ticket: Ticket,
        wish: &Wish<'_>,
        tries: Option<&mut Tries<'_>>,
        say: &mut dyn FnMut(&str),
    ) -> Result<Option<Arc<Connection>>, Error> {
        let (began, address) = (ticket.began, ticket.address.clone());
        match (self.dial(ticket, wish, tries.is_some()), tries) {
            (Ok(connection), _) => Ok(Some(connection)),
            // All trials are under way, and their outcome is this job's too; or it opened since, which the next look finds.
            (Err(Missed::Refused), _) => Ok(None),
            (Err(Missed::Failed { error: error @ Error::Stopped { .. }, .. }), _) => Err(error),
            (Err(Missed::Failed { error, .. }), None) => Err(error),
            (Err(Missed::Failed { error, trial }), Some(tries)) => {
                let others_pass = self.lock().paces.get(&address).is_some_and(|pace| pace.passed_since(began));
                let failure = Failure { error, trial, others_pass };
                if let Some(told) = tries.failed(failure, Instant::now(), random::unit())? {
                    log::warn!("{told}");
                    say(&told);
                }
                Ok(None)
            }
        }
    }

    /// A free seat on a connection that is there.
    fn seat(&self, key: &Key) -> Option<(Arc<Connection>, u64)> {
        let mut inner = self.lock();
        let entry = inner.entries.get_mut(key)?;
        entry.connections.retain(|connection| !connection.is_closed());
        entry.connections.iter().find_map(|connection| Some((Arc::clone(connection), connection.take_seat()?)))
    }

    /// Counts one more connection in the making, if there may be one.
    fn may_dial(&self, key: &Key, server: &Server) -> Result<Ticket, Held> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.entries.retain(|other, entry| {
            entry.connections.retain(|connection| !connection.is_closed());
            other == key || entry.dialing > 0 || !entry.connections.is_empty()
        });
        inner.threads.retain(|thread| !thread.is_finished());
        if !make_room(&inner.entries) || inner.stopped {
            return Err(Held::Connections);
        }
        let entry = inner.entries.entry(key.clone()).or_default();
        if entry.connections.len() + entry.dialing >= self.0.settings.max_per_server {
            return Err(Held::Connections);
        }
        let address = server.route();
        let pace = pace_of(&mut inner.paces, &address);
        if !pace.begin() {
            return Err(Held::Logins(pace.limit()));
        }
        entry.dialing += 1;
        Ok(Ticket { key: key.clone(), address, began: Instant::now() })
    }

    /// Makes a connection on a new thread, which then serves it.
    fn dial(&self, ticket: Ticket, wish: &Wish<'_>, gated: bool) -> Result<Arc<Connection>, Missed> {
        let server = wish.server;
        let pass = match gated.then(|| self.0.breakers.admit(server)).transpose() {
            Ok(pass) => pass,
            Err(_) => {
                self.dialed(&ticket, None, End::Other);
                return Err(Missed::Refused);
            }
        };
        let trial = pass.as_ref().is_some_and(Pass::is_trial);
        self.dialed_by_a_thread(ticket, wish, pass).map_err(|error| Missed::Failed { error, trial })
    }

    fn dialed_by_a_thread(
        &self,
        ticket: Ticket,
        wish: &Wish<'_>,
        pass: Option<Pass>,
    ) -> Result<Arc<Connection>, Error> {
        let (server, began, ticket) = (wish.server, ticket.began, Arc::new(ticket));
        let progress = Arc::new(Mutex::new(Progress::new()));
        let (tell, told) = bounded(1);
        let thread = {
            let (pool, ticket, server, progress) =
                (self.clone(), Arc::clone(&ticket), server.clone(), Arc::clone(&progress));
            threads::spawn(if ticket.key.forwards { "ssh-jump" } else { "ssh-connection" }, move || {
                let made = pool.reach(&ticket.key, &server, &progress, pass);
                let end = match &made {
                    Ok(_) => End::Passed,
                    Err(Error::TurnedAway { .. }) => End::TurnedAway,
                    Err(_) => End::Other,
                };
                pool.dialed(&ticket, made.as_ref().ok().map(|(connection, _)| connection), end);
                // The credential is not kept beyond this.
                drop((server, progress));
                match made {
                    Ok((connection, serve)) => {
                        let _ = tell.send(Ok(connection));
                        serve();
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            })
        };
        match thread {
            Ok(thread) => self.lock().threads.push(thread),
            Err(error) => {
                self.dialed(&ticket, None, End::Other);
                return Err(Error::Local { server: server.shown(), what: error.to_string() });
            }
        }
        self.wait_for_dial(&told, wish, &progress, began)
    }

    /// Waits for what the thread tells, within the limits of a step and of the job.
    fn wait_for_dial(
        &self,
        told: &Receiver<Result<Arc<Connection>, Error>>,
        wish: &Wish<'_>,
        progress: &Mutex<Progress>,
        began: Instant,
    ) -> Result<Arc<Connection>, Error> {
        let server = wish.server;
        loop {
            pulse::touch();
            match told.recv_timeout(limits::SSH_DIAL_LOOK) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => {
                    let what = "the connection's thread broke down".to_owned();
                    return Err(Error::Local { server: server.shown(), what });
                }
                Err(RecvTimeoutError::Timeout) if !(wish.wanted)() => {
                    return Err(Error::Stopped { server: server.shown() });
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= wish.until => {
                    let step = progress.lock().unwrap_or_else(PoisonError::into_inner).step;
                    let (limit, after) = ("jobs.setupTimeout", rounded(began.elapsed()));
                    return Err(Error::Timeout { server: server.shown(), step, limit, after });
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(step) = overdue(progress, self.0.settings.connection_timeout) {
                        let (limit, after) =
                            ("ssh.connectionPool.connectionTimeout", self.0.settings.connection_timeout);
                        return Err(Error::Timeout { server: server.shown(), step, limit, after });
                    }
                }
            }
        }
    }

    /// A connection in the making has come to its end, one way or the other.
    fn dialed(&self, ticket: &Ticket, made: Option<&Arc<Connection>>, end: End) {
        let mut inner = self.lock();
        let stopped = inner.stopped;
        let entry = inner.entries.entry(ticket.key.clone()).or_default();
        entry.dialing = entry.dialing.saturating_sub(1);
        if let Some(connection) = made {
            if stopped {
                connection.abort();
            }
            entry.connections.push(Arc::clone(connection));
        }
        pace_of(&mut inner.paces, &ticket.address).end(ticket.began, end, Instant::now());
    }

    /// Ends every connection and waits for its thread; jobs that still use one lose it.
    pub fn stop(&self) {
        self.stop_within(limits::SSH_JOIN);
    }

    /// The same; `wait` is for each thread.
    fn stop_within(&self, wait: Duration) {
        let (connections, threads) = {
            let mut inner = self.lock();
            inner.stopped = true;
            let entries = std::mem::take(&mut inner.entries);
            let connections: Vec<_> = entries.into_values().flat_map(|entry| entry.connections).collect();
            (connections, std::mem::take(&mut inner.threads))
        };
        for connection in connections {
            if connection.is_idle() { connection.close() } else { connection.abort() }
        }
        for thread in threads {
            thread.join_within(wait);
        }
    }
}

fn session(connection: &Arc<Connection>, seat: u64) -> Result<Session, Error> {
    connection.open(seat, remote::COMMAND)
}

/// What is known of a server's pace. Where too many are known, those of which nothing is left to know make room, then
/// others that nobody logs in to.
fn pace_of<'a>(paces: &'a mut BTreeMap<String, Pace>, address: &str) -> &'a mut Pace {
    if paces.len() >= limits::SSH_PACES && !paces.contains_key(address) {
        paces.retain(|_, pace| !pace.is_forgettable());
        let idle = paces.iter().find(|(_, pace)| pace.is_idle()).map(|(address, _)| address.clone());
        if let Some(idle) = idle.filter(|_| paces.len() >= limits::SSH_PACES) {
            paces.remove(&idle);
        }
    }
    let settings = pace::Settings { most: limits::SSH_DIALS, grow_after: limits::SSH_DIALS_GROW };
    paces.entry(address.to_owned()).or_insert_with(|| Pace::new(settings))
}

/// Whole milliseconds.
fn rounded(length: Duration) -> Duration {
    Duration::from_millis(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}

/// Whether one more connection may be made; asks the idle ones to go when there are too many.
fn make_room(entries: &BTreeMap<Key, Entry>) -> bool {
    let all: usize = entries.values().map(|entry| entry.connections.len() + entry.dialing).sum();
    if all < limits::SSH_CONNECTIONS {
        return true;
    }
    // They are gone from the count at the next look, which comes soon.
    for connection in entries.values().flat_map(|entry| &entry.connections).filter(|connection| connection.is_idle()) {
        connection.close();
    }
    false
}

/// The step that has outlasted its limit by so much that its own clock cannot be counted on. The C library's resolver
/// cannot be interrupted and is left to itself; a socket is shut down, which ends whatever waits for it.
fn overdue(progress: &Mutex<Progress>, limit: Duration) -> Option<Step> {
    let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    let late = match progress.step {
        Step::Resolve => limit,
        // Each keeps its limit by itself, as long as the server leaves it the time to.
        _ => limit + limits::SSH_OVERDUE,
    };
    if progress.since.elapsed() <= late {
        return None;
    }
    if let Some(socket) = &progress.socket {
        let _ = socket.shutdown(Shutdown::Both);
    }
    Some(progress.step)
}

#[path = "way.rs"]
mod way;

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;

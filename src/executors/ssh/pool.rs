//! Connections that jobs share: one pool for each host, port, user and credential.
//!
//! A job asks for a session. It gets one on a connection that is there and has a seat free, or a new connection is made,
//! at most `maxPerServer` for each, or it waits. A connection that turns out to be dead when a session is asked of it is
//! given up and another is made: it costs the job time and nothing else.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use ring::digest::{Context, SHA256};

use crate::config::types::Ssh as Settings;
use crate::executors::ssh::breakers::Breakers;
use crate::executors::ssh::connection::{Connection, Session, Times};
use crate::executors::ssh::dial::{Dial, Progress};
use crate::executors::ssh::driver::Driver;
use crate::executors::ssh::error::{Error, Step};
use crate::executors::ssh::hosts::Hosts;
use crate::executors::ssh::remote;
use crate::job::Server;
use crate::limits;
use crate::os::pulse;
use crate::os::random;
use crate::os::threads::{self, Thread};
use crate::policy::breaker::Pass;
use crate::secret::Secret;

/// Whom a connection is for. The credential is only known by its digest, which is salted anew in each process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    host: String,
    port: u16,
    user: String,
    credential: Vec<u8>,
}

#[derive(Debug, Default)]
struct Entry {
    connections: Vec<Arc<Connection>>,
    dialing: usize,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Key, Entry>,
    threads: Vec<Thread>,
    stopped: bool,
}

/// The pools of all servers; shared by clones.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    hosts: Hosts,
    breakers: Breakers,
    salt: String,
    inner: Mutex<Inner>,
}

/// How a session is asked for.
pub struct Wish<'a> {
    pub server: &'a Server,
    /// Whether the circuit breaker may refuse it. A job that runs already must come back to its server.
    pub gated: bool,
    /// Until when a seat is waited for.
    pub until: Instant,
    /// Whether the session is still wanted.
    pub wanted: &'a dyn Fn() -> bool,
}

impl Pool {
    /// No connection yet.
    pub fn new(settings: Settings, breakers: Breakers) -> Self {
        let hosts = Hosts::new(&settings);
        Self(Arc::new(Shared { settings, hosts, breakers, salt: random::hex(16), inner: Mutex::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, server: &Server) -> Key {
        let mut digest = Context::new(&SHA256);
        for part in [&server.private_key, &server.passphrase, &server.password] {
            let text = part.as_ref().map_or("", Secret::expose);
            digest.update(&(text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        }
        digest.update(self.0.salt.as_bytes());
        let credential = digest.finish().as_ref().to_vec();
        Key { host: server.host.clone(), port: server.port, user: server.user.clone(), credential }
    }

    /// A session with a waiting shell on the server, and whether its connection was there before.
    pub fn session(&self, wish: &Wish<'_>) -> Result<(Session, bool), Error> {
        let (server, begun) = (wish.server, Instant::now());
        let key = self.key(server);
        let mut fresh = None;
        loop {
            if !(wish.wanted)() {
                return Err(Error::Stopped { server: server.shown() });
            }
            if let Some((connection, seat)) = self.seat(&key) {
                let is_fresh = fresh.as_ref().is_some_and(|made| Arc::ptr_eq(made, &connection));
                match connection.open(seat, remote::COMMAND) {
                    Ok(session) => {
                        if !is_fresh {
                            self.0.breakers.served(server);
                        }
                        return Ok((session, !is_fresh));
                    }
                    Err(Error::Full { .. }) if !connection.is_closed() => continue,
                    Err(error) if is_fresh => return Err(error),
                    Err(error) => {
                        log::info!("a connection that was kept is of no use any more: {error}");
                        connection.abort();
                        continue;
                    }
                }
            }
            if self.may_dial(&key) {
                fresh = Some(self.dial(&key, wish)?);
                continue;
            }
            if Instant::now() >= wish.until {
                return Err(Error::Busy { server: server.shown(), after: begun.elapsed() });
            }
            pulse::touch();
            std::thread::sleep(limits::SSH_SEAT_LOOK);
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
    fn may_dial(&self, key: &Key) -> bool {
        let mut inner = self.lock();
        inner.entries.retain(|other, entry| {
            entry.connections.retain(|connection| !connection.is_closed());
            other == key || entry.dialing > 0 || !entry.connections.is_empty()
        });
        inner.threads.retain(|thread| !thread.is_finished());
        let room = make_room(&inner.entries);
        let stopped = inner.stopped || !room;
        let entry = inner.entries.entry(key.clone()).or_default();
        let free = entry.connections.len() + entry.dialing < self.0.settings.max_per_server;
        entry.dialing += usize::from(free && !stopped);
        free && !stopped
    }

    /// Makes a connection on a thread of its own, which then serves it.
    fn dial(&self, key: &Key, wish: &Wish<'_>) -> Result<Arc<Connection>, Error> {
        let server = wish.server;
        let pass = if wish.gated { self.0.breakers.admit(server).map(Some) } else { Ok(None) };
        let pass = pass.inspect_err(|_| self.dialed(key, None))?;
        let progress = Arc::new(Mutex::new(Progress::new()));
        let (tell, told) = bounded(1);
        let thread = {
            let (pool, key, server, progress) = (self.clone(), key.clone(), server.clone(), Arc::clone(&progress));
            threads::spawn("ssh-connection", move || {
                let made = pool.reach(&server, &progress, pass);
                pool.dialed(&key, made.as_ref().ok().map(|(connection, _)| connection));
                // The credential is not kept beyond this.
                drop((server, progress));
                match made {
                    Ok((connection, driver)) => {
                        let _ = tell.send(Ok(connection));
                        driver.run();
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            })
        };
        match thread {
            Ok(thread) => self.lock().threads.push(thread),
            Err(error) => {
                self.dialed(key, None);
                return Err(Error::Local { server: server.shown(), what: error.to_string() });
            }
        }
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
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(step) = overdue(&progress, self.0.settings.connection_timeout) {
                        let (limit, after) =
                            ("ssh.connectionPool.connectionTimeout", self.0.settings.connection_timeout);
                        return Err(Error::Timeout { server: server.shown(), step, limit, after });
                    }
                }
            }
        }
    }

    /// The way to the server, on the connection's own thread; its outcome goes to the breaker.
    fn reach(
        &self,
        server: &Server,
        progress: &Mutex<Progress>,
        pass: Option<Pass>,
    ) -> Result<(Arc<Connection>, Driver), Error> {
        let settings = &self.0.settings;
        let dial = Dial { server, settings, hosts: &self.0.hosts, progress };
        let reached = dial.reach();
        if let Some(pass) = pass {
            let sound = !reached.as_ref().is_err_and(Error::is_outage);
            self.0.breakers.record(server, pass, sound);
        }
        let reached = reached?;
        let times = Times {
            step: settings.connection_timeout,
            check: settings.health_check_interval,
            idle: settings.idle_timeout,
            close: limits::SSH_CLOSE,
        };
        Connection::new(server.shown(), reached.session, reached.socket, reached.host_key, times)
            .map_err(|error| Error::Local { server: server.shown(), what: error.to_string() })
    }

    /// A connection in the making has come to its end, one way or the other.
    fn dialed(&self, key: &Key, made: Option<&Arc<Connection>>) {
        let mut inner = self.lock();
        let stopped = inner.stopped;
        let entry = inner.entries.entry(key.clone()).or_default();
        entry.dialing = entry.dialing.saturating_sub(1);
        if let Some(connection) = made {
            if stopped {
                connection.abort();
            }
            entry.connections.push(Arc::clone(connection));
        }
    }

    /// The host key that a server shows, whether trusted or not: its type and the key.
    pub fn host_key(&self, server: &Server) -> Result<(String, Vec<u8>), Error> {
        let progress = Mutex::new(Progress::new());
        Dial { server, settings: &self.0.settings, hosts: &self.0.hosts, progress: &progress }.host_key()
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

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::executors::ssh::connection::tests::{idle, session};
    use crate::policy::breaker;

    fn pool() -> Pool {
        let config = crate::config::defaults();
        let timeout = Duration::from_secs(1);
        let settings = breaker::Settings {
            enabled: false,
            failure_threshold: 1,
            success_threshold: 1,
            timeout,
            half_open_requests: 1,
        };
        Pool::new(config.ssh, Breakers::new(settings))
    }

    fn key(host: &str) -> Key {
        Key { host: host.to_owned(), port: 22, user: String::new(), credential: Vec::new() }
    }

    #[test]
    fn connections_of_all_servers_are_bounded_and_idle_ones_make_room() {
        let ((unused, _one), (used, _other)) = (idle(), idle());
        let _session = session(&used);
        let with = |dialing| {
            let connections = vec![Arc::clone(&unused), Arc::clone(&used)];
            BTreeMap::from([
                (key("a"), Entry { connections, dialing: 0 }),
                (key("b"), Entry { connections: Vec::new(), dialing }),
            ])
        };
        assert!(make_room(&with(limits::SSH_CONNECTIONS - 3)));
        assert!(!unused.is_closed());
        assert!(!make_room(&with(limits::SSH_CONNECTIONS - 2)));
        assert!(unused.is_closed() && !used.is_closed());
    }

    #[test]
    fn a_step_that_outlasts_its_limit_is_broken_off_from_outside() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let limit = Duration::from_secs(1);
        let late = |step, over: Duration| {
            let socket = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
            let (mut peer, _) = listener.accept().expect("the other end");
            peer.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
            let since = Instant::now().checked_sub(limit + over).expect("a host that is up for some seconds");
            let found = overdue(&Mutex::new(Progress { step, since, socket: socket.try_clone().ok() }), limit);
            assert_eq!(peer.read(&mut [0; 1]).is_ok(), found.is_some(), "the socket is shut down, or it is not");
            found
        };
        // It keeps its limit by itself, a little late on a host that is busy.
        assert_eq!(late(Step::Handshake, limits::SSH_OVERDUE / 2), None);
        assert_eq!(late(Step::Handshake, limits::SSH_OVERDUE + Duration::from_millis(1)), Some(Step::Handshake));
        // The C library's resolver keeps no limit.
        assert_eq!(late(Step::Resolve, Duration::from_millis(1)), Some(Step::Resolve));
    }

    #[test]
    fn the_end_waits_for_a_connections_thread_and_no_longer_than_allowed() {
        let pool = pool();
        let (release, held) = bounded::<()>(0);
        let thread = threads::spawn("ssh-connection", move || {
            let _ = held.recv_timeout(Duration::from_secs(10));
        });
        pool.lock().threads.push(thread.expect("a thread"));
        let begun = Instant::now();
        pool.stop_within(Duration::from_millis(50));
        let took = begun.elapsed();
        assert!((Duration::from_millis(50)..Duration::from_secs(5)).contains(&took), "{took:?}");
        drop(release);
    }
}

//! One connection to a server, and the one thread that uses it.
//!
//! A libssh2 session must not be used by two threads at once, and a blocking call would hold it for as long as it blocks.
//! So a connection's session stays on one thread, `ssh-connection`, from the handshake to the end; jobs talk to it through
//! channels and a waker. The thread reads without blocking and sleeps in `ppoll` on socket and waker together. Opening a
//! session and sending are short calls with the connection's time limit. [`Connection::abort`] interrupts them: it shuts
//! the socket down, and the call ends with an error.
//!
//! Several sessions share a connection. Each has a bounded queue to its job; when that is full, its session is read no
//! further, libssh2's window closes, and the others go on.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};

use crate::executors::control::Signal;
use crate::executors::ssh::error::{Error, Step};
use crate::executors::ssh::forward::Ask;
use crate::job::Stream;
use crate::limits;
use crate::metrics;
use crate::os::poll::Waker;
use crate::os::pulse;

/// An event of a session.
#[derive(Debug)]
pub enum Event {
    /// Bytes of the remote program.
    Bytes(Stream, Vec<u8>),
    /// The remote program has ended; its exit status, if the server sent one.
    End(Option<i32>),
    /// The connection is lost.
    Broken(Error),
}

/// An event that a job's worker waits for.
#[derive(Debug)]
pub enum Next {
    Event(Event),
    /// The script must be signalled.
    Wish(Signal),
    Quiet,
}

/// A job's request to the thread.
pub(super) enum Command {
    Open {
        id: u64,
        command: &'static str,
        events: Sender<Event>,
        opened: Sender<Result<(), Error>>,
        link: Arc<Link>,
    },
    Input {
        id: u64,
        bytes: Vec<u8>,
    },
    Close {
        id: u64,
    },
    /// Of a connection to a jump host, which has no other.
    Forward(Ask),
}

/// State that session and job share beside the queue.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// The queue was full: the thread waits to be woken.
    pub(super) paused: AtomicBool,
}

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// `ssh.connectionPool.connectionTimeout`.
    pub step: Duration,
    /// `ssh.connectionPool.healthCheckInterval`.
    pub check: Duration,
    /// `ssh.connectionPool.idleTimeout`.
    pub idle: Duration,
    /// [`limits::SSH_CLOSE`]
    pub close: Duration,
}

#[derive(Debug)]
pub(super) struct Seats {
    pub(super) taken: usize,
    /// The number of sessions that the server is known to allow.
    most: usize,
    /// A jump host takes long to reach a server, and opens one way at a time: others go over another connection.
    pub(super) held_up: bool,
    pub(super) closed: bool,
    /// Why it broke.
    pub(super) why: Option<Error>,
    next_id: u64,
}

/// A handle to a connection; shared by the pool and its sessions.
#[derive(Debug)]
pub struct Connection {
    pub(super) server: String,
    pub(super) commands: Sender<Command>,
    pub(super) waker: Waker,
    socket: TcpStream,
    seats: Mutex<Seats>,
    step: Duration,
    /// The fingerprint of the host key, for the execution's record.
    pub host_key: String,
}

/// One remote program. Dropping it closes the session.
#[derive(Debug)]
pub struct Session {
    connection: Arc<Connection>,
    id: u64,
    events: Receiver<Event>,
    link: Arc<Link>,
}

impl Connection {
    /// The handle, and what its thread is asked for. `most` sessions, or ways to servers behind it, share it.
    pub(super) fn new(
        server: String,
        socket: TcpStream,
        host_key: String,
        step: Duration,
        most: usize,
    ) -> std::io::Result<(Arc<Self>, Receiver<Command>)> {
        let (send, commands) = bounded(limits::SSH_COMMANDS);
        let connection = Self {
            server,
            commands: send,
            waker: Waker::new()?,
            socket,
            seats: Mutex::new(Seats { taken: 0, most, held_up: false, closed: false, why: None, next_id: 0 }),
            step,
            host_key,
        };
        Ok((Arc::new(connection), commands))
    }

    pub(super) fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a seat for a session, if one is free and the connection lives.
    pub fn take_seat(&self) -> Option<u64> {
        let mut seats = self.seats();
        if seats.closed || seats.held_up || seats.taken >= seats.most {
            return None;
        }
        seats.taken += 1;
        seats.next_id += 1;
        if seats.taken == 1 {
            metrics::SSH_BUSY.add(1);
        }
        Some(seats.next_id)
    }

    pub(super) fn free_seat(&self) {
        let mut seats = self.seats();
        seats.taken -= 1;
        if seats.taken == 0 {
            metrics::SSH_BUSY.add(-1);
        }
    }

    /// Whether it takes no new session.
    pub fn is_closed(&self) -> bool {
        self.seats().closed
    }

    /// Why it broke; nothing while it lives, or where it was closed.
    pub fn why(&self) -> Option<Error> {
        self.seats().why.clone()
    }

    /// Whether no session uses it.
    pub fn is_idle(&self) -> bool {
        self.seats().taken == 0
    }

    /// Refuses new sessions; the thread ends with the last one.
    pub fn close(&self) {
        self.seats().closed = true;
        self.waker.wake();
    }

    /// Breaks it off at once, also during a call of its thread.
    pub fn abort(&self) {
        self.close();
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Opens a session on the seat `id`.
    pub fn open(self: &Arc<Self>, id: u64, command: &'static str) -> Result<Session, Error> {
        let (send, events) = bounded(limits::SSH_QUEUE);
        let (opened, answer) = bounded(1);
        let link = Arc::new(Link::default());
        let session = Session { connection: Arc::clone(self), id, events, link: Arc::clone(&link) };
        let gone =
            || Error::Broken { server: self.server.clone(), step: Step::Open, what: "the connection is gone".into() };
        let command = Command::Open { id, command, events: send, opened, link };
        self.commands.try_send(command).map_err(|_| gone())?;
        self.waker.wake();
        // The thread keeps the limit of each step; twice that covers the step it is in.
        match answer.recv_timeout(self.step * 2 + limits::SSH_TICK) {
            Ok(Ok(())) => Ok(session),
            Ok(Err(error)) => {
                if matches!(error, Error::Full { .. }) {
                    let mut seats = self.seats();
                    seats.most = (seats.taken - 1).max(1);
                    if seats.taken == 1 {
                        // It allows no session at all.
                        seats.closed = true;
                    }
                }
                Err(error)
            }
            Err(RecvTimeoutError::Timeout) => {
                self.close();
                let (step, limit) = (Step::Open, "ssh.connectionPool.connectionTimeout");
                Err(Error::Timeout { server: self.server.clone(), step, limit, after: self.step })
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

impl Session {
    /// The next event or wish, whichever comes first; none within `wait`.
    pub fn next(&self, wishes: &Receiver<Signal>, wait: Duration) -> Next {
        pulse::touch();
        let event = select! {
            recv(self.events) -> event => event,
            recv(wishes) -> wish => return wish.map_or(Next::Quiet, Next::Wish),
            default(wait) => return Next::Quiet,
        };
        if self.link.paused.swap(false, Ordering::AcqRel) {
            self.connection.waker.wake();
        }
        Next::Event(event.unwrap_or_else(|_| {
            let what = "the connection's thread ended".to_owned();
            Event::Broken(Error::Broken { server: self.connection.server.clone(), step: Step::Talk, what })
        }))
    }

    /// Whether an event is waiting.
    pub fn has_more(&self) -> bool {
        !self.events.is_empty()
    }

    /// Sends to the remote program's stdin. An error shows as an event.
    pub fn send(&self, bytes: Vec<u8>) {
        match self.connection.commands.try_send(Command::Input { id: self.id, bytes }) {
            Ok(()) => self.connection.waker.wake(),
            Err(_) => self.connection.abort(),
        }
    }

    /// Its connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Never waits: if the queue is full, the thread is stuck, and its sessions are given up.
        match self.connection.commands.try_send(Command::Close { id: self.id }) {
            Ok(()) => self.connection.waker.wake(),
            Err(_) => self.connection.abort(),
        }
        self.connection.free_seat();
    }
}

/// LIBSSH2_ERROR_TIMEOUT and LIBSSH2_ERROR_EAGAIN.
pub(super) fn is_timeout(error: &ssh2::Error) -> bool {
    matches!(error.code(), ssh2::ErrorCode::Session(-9 | -37))
}

pub(super) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::executors::ssh::driver::Driver;

    /// A connection without a peer and without a running thread; it lives as long as the driver.
    pub(in crate::executors::ssh) fn idle() -> (Arc<Connection>, Driver) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
        let times = Times { step: Duration::ZERO, check: Duration::MAX, idle: Duration::MAX, close: limits::SSH_CLOSE };
        let session = ssh2::Session::new().expect("a session");
        Driver::new("nobody".to_owned(), session, socket, String::new(), times).expect("a connection")
    }

    /// A session on it, and its other end.
    pub(in crate::executors::ssh) fn session(connection: &Arc<Connection>) -> (Session, Sender<Event>) {
        let id = connection.take_seat().expect("a seat");
        let (events, all) = bounded(limits::SSH_QUEUE);
        (Session { connection: Arc::clone(connection), id, events: all, link: Arc::default() }, events)
    }

    #[test]
    fn a_connection_has_so_many_seats_and_no_more() {
        let (connection, _driver) = idle();
        let mut sessions: Vec<_> = (0..limits::SSH_SESSIONS).map(|_| session(&connection)).collect();
        assert_eq!(connection.take_seat(), None);
        sessions.pop();
        assert!(connection.take_seat().is_some() && connection.take_seat().is_none());
        // One to a jump host, whose seats are servers.
        let socket = connection.socket.try_clone().expect("a socket");
        let made = Connection::new(String::new(), socket, String::new(), Duration::ZERO, limits::SSH_FORWARDS);
        let (jump, _commands) = made.expect("a connection");
        assert!((0..limits::SSH_FORWARDS).all(|_| jump.take_seat().is_some()) && jump.take_seat().is_none());
        jump.free_seat();
        jump.seats().held_up = true;
        assert_eq!(jump.take_seat(), None, "it takes long to open the last one");
        (0..limits::SSH_FORWARDS - 1).for_each(|_| jump.free_seat());
    }

    #[test]
    fn a_connection_whose_thread_takes_no_more_requests_is_given_up_and_holds_nobody() {
        let (connection, driver) = idle();
        let (session, _events) = session(&connection);
        for n in 0..limits::SSH_COMMANDS {
            session.send(b"x".to_vec());
            assert!(!connection.is_closed(), "after {n}");
        }
        session.send(b"x".to_vec());
        assert!(connection.is_closed());
        drop(driver);
    }
}

//! The one thread that uses a connection's session; see `connection`.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};

use crate::executors::ssh::connection::{Command, Connection, Event, Link, Times, is_timeout, millis};
use crate::executors::ssh::error::{Error, Step};
use crate::job::Stream;
use crate::limits;
use crate::metrics;
use crate::os::poll::{self, Watch};

/// The thread's side.
pub struct Driver {
    session: ssh2::Session,
    socket: TcpStream,
    connection: Arc<Connection>,
    commands: Receiver<Command>,
    open: Vec<Open>,
    buffer: Box<[u8]>,
    times: Times,
}

/// The thread's state of a session.
struct Open {
    id: u64,
    channel: ssh2::Channel,
    events: Sender<Event>,
    link: Arc<Link>,
    /// A piece that did not fit into the queue.
    held: Option<Event>,
    /// When its program was seen to have ended while another process holds the session open.
    exited: Option<Instant>,
    /// The session has ended; only the held piece is still to be handed over.
    over: bool,
    /// The job has gone: the session is closed at this moment at the latest.
    leaving: Option<Instant>,
}

/// The result of one look at a session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Quiet,
    Moved,
    Ended,
}

impl Driver {
    /// Takes an authenticated session. To be called, and [`Driver::run`] too, on the thread that made it.
    pub fn new(
        server: String,
        session: ssh2::Session,
        socket: TcpStream,
        host_key: String,
        times: Times,
    ) -> std::io::Result<(Arc<Connection>, Self)> {
        let (connection, commands) =
            Connection::new(server, socket.try_clone()?, host_key, times.step, limits::SSH_SESSIONS)?;
        let buffer = vec![0; limits::SSH_READ].into_boxed_slice();
        let of_driver = Arc::clone(&connection);
        Ok((connection, Self { session, socket, connection: of_driver, commands, open: Vec::new(), buffer, times }))
    }

    /// Serves the connection to its end.
    pub fn run(mut self) {
        metrics::SSH_CONNECTIONS.add(1);
        let ended = self.serve();
        self.connection.seats().closed = true;
        metrics::SSH_CONNECTIONS.add(-1);
        if let Err(error) = ended {
            log::debug!("{error}");
            // Each session gets the end, after its remaining output.
            for mut open in std::mem::take(&mut self.open) {
                if let Some(held) = open.held.take() {
                    let _ = open.events.send_timeout(held, limits::SSH_TICK);
                }
                let _ = open.events.send_timeout(Event::Broken(error.clone()), limits::SSH_TICK);
            }
            // A broken connection gets no goodbye: each call would wait for its limit.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        self.session.set_timeout(millis(limits::SSH_TICK));
        let _ = self.session.disconnect(None, "done", None);
    }

    fn serve(&mut self) -> Result<(), Error> {
        self.session.set_keepalive(true, 1);
        self.session.set_timeout(millis(self.times.step));
        let (mut used, mut checked) = (Instant::now(), Instant::now());
        let mut heard = Instant::now();
        loop {
            self.connection.waker.take();
            let mut moved = self.commands()?;
            for at in (0..self.open.len()).rev() {
                match self.look(at)? {
                    Turn::Quiet => {}
                    Turn::Moved => moved = true,
                    Turn::Ended => drop(self.open.swap_remove(at)),
                }
            }
            let now = Instant::now();
            if !self.open.is_empty() {
                used = now;
            }
            if self.is_over(used) {
                return Ok(());
            }
            if moved {
                heard = now;
                continue;
            }
            if now.duration_since(checked) >= self.times.check {
                checked = now;
                self.check()?;
            }
            let listening = self.open.iter().any(|open| open.held.is_none());
            // A keepalive went out at `checked`: it is answered within the limit of a step, or the server is gone.
            if listening && checked > heard && now.duration_since(checked) > self.times.step {
                return Err(self.silence());
            }
            if !listening {
                heard = now;
            }
            if self.sleep(listening)? {
                heard = Instant::now();
            }
        }
    }

    /// Whether the thread must end: no job uses the connection, and none will.
    fn is_over(&self, used: Instant) -> bool {
        if !self.open.is_empty() {
            return false;
        }
        let mut seats = self.connection.seats();
        if seats.taken == 0 && used.elapsed() >= self.times.idle {
            seats.closed = true;
        }
        seats.closed && seats.taken == 0
    }

    /// Handles the jobs' requests.
    fn commands(&mut self) -> Result<bool, Error> {
        let mut moved = false;
        loop {
            match self.commands.try_recv() {
                Ok(Command::Open { id, command, events, opened, link }) => {
                    self.open(id, command, events, &opened, link)?
                }
                Ok(Command::Input { id, bytes }) => self.input(id, &bytes)?,
                Ok(Command::Close { id }) => self.leave(id)?,
                Ok(Command::Forward(ask)) => drop(ask),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(moved),
            }
            moved = true;
        }
    }

    fn open(
        &mut self,
        id: u64,
        command: &str,
        events: Sender<Event>,
        opened: &Sender<Result<(), Error>>,
        link: Arc<Link>,
    ) -> Result<(), Error> {
        self.session.set_blocking(true);
        let made = self.session.channel_open("session", limits::SSH_WINDOW, limits::SSH_PACKET, None);
        let made = made.and_then(|mut channel| channel.exec(command).map(|()| channel));
        match made {
            Ok(channel) => {
                self.open.push(Open {
                    id,
                    channel,
                    events,
                    link,
                    held: None,
                    exited: None,
                    over: false,
                    leaving: None,
                });
                let _ = opened.send(Ok(()));
                Ok(())
            }
            // CHANNEL_FAILURE and CHANNEL_REQUEST_DENIED: the server refused; the connection is sound.
            Err(error) if matches!(error.code(), ssh2::ErrorCode::Session(-21 | -22)) => {
                let _ = opened.send(Err(Error::Full { server: self.connection.server.clone() }));
                Ok(())
            }
            Err(error) => {
                let error = self.broken(Step::Open, &error);
                let _ = opened.send(Err(error.clone()));
                Err(error)
            }
        }
    }

    /// Sends to a session's program piece by piece, so that the others are read meanwhile.
    fn input(&mut self, id: u64, bytes: &[u8]) -> Result<(), Error> {
        for piece in bytes.chunks(limits::SSH_WRITE) {
            let Some(at) = self.open.iter().position(|open| open.id == id) else { return Ok(()) };
            self.session.set_blocking(true);
            match self.open[at].channel.write_all(piece) {
                Ok(()) => {}
                // The program has closed its stdin or ended: its output says why.
                Err(_) if self.open[at].channel.eof() => return Ok(()),
                Err(error) => {
                    let text = error.to_string();
                    if text.contains("closed") || text.contains("EOF") {
                        return Ok(());
                    }
                    return Err(Error::Broken { server: self.connection.server.clone(), step: Step::Talk, what: text });
                }
            }
            for at in (0..self.open.len()).rev() {
                if self.open[at].id != id && self.look(at)? == Turn::Ended {
                    drop(self.open.swap_remove(at));
                }
            }
        }
        Ok(())
    }

    /// The job of a session has gone: the end of its stdin tells its program.
    fn leave(&mut self, id: u64) -> Result<(), Error> {
        let Some(at) = self.open.iter().position(|open| open.id == id) else { return Ok(()) };
        let open = &mut self.open[at];
        open.leaving = Some(Instant::now() + self.times.close);
        open.held = None;
        self.session.set_blocking(true);
        match open.channel.send_eof() {
            Ok(()) => Ok(()),
            Err(error) if is_timeout(&error) => Err(self.broken(Step::Talk, &error)),
            // It was closed already.
            Err(_) => Ok(()),
        }
    }

    /// Reads the available output of one session.
    fn look(&mut self, at: usize) -> Result<Turn, Error> {
        self.session.set_blocking(false);
        let mut turn = Turn::Quiet;
        for _ in 0..limits::SSH_TURN {
            let open = &mut self.open[at];
            if open.is_stuck() {
                return Ok(turn);
            }
            if open.over {
                return Ok(Turn::Ended);
            }
            if open.leaving.is_some_and(|until| until <= Instant::now()) {
                // It does not end by itself: no new session is started beside it.
                self.connection.close();
                return Ok(Turn::Ended);
            }
            let buffer = &mut self.buffer;
            let mut streams = [Stream::Stdout, Stream::Stderr].into_iter();
            let read = streams.try_fold(false, |any, stream| Ok(open.read(stream, buffer)? || any));
            match read {
                Ok(true) => {
                    turn = Turn::Moved;
                    open.exited = None;
                }
                Ok(false) if open.channel.eof() || open.has_exited() => {
                    let status = self.end(at)?;
                    let open = &mut self.open[at];
                    open.over = true;
                    open.hand(Event::End(status));
                    turn = Turn::Moved;
                }
                Ok(false) => return Ok(turn),
                Err(error) => {
                    return Err(Error::Broken {
                        server: self.connection.server.clone(),
                        step: Step::Talk,
                        what: error,
                    });
                }
            }
        }
        Ok(turn)
    }

    /// Closes a session whose program has ended; returns its exit status. libssh2 returns 0 also if none came, so 0 is none.
    fn end(&mut self, at: usize) -> Result<Option<i32>, Error> {
        self.session.set_blocking(true);
        let channel = &mut self.open[at].channel;
        let closed = channel.close().and_then(|()| channel.wait_close());
        let status = channel.exit_status().ok().filter(|&status| status != 0);
        match closed {
            Err(error) if is_timeout(&error) => Err(self.broken(Step::Talk, &error)),
            _ => Ok(status),
        }
    }

    /// Asks the server for a sign of life: a keepalive while sessions are read; without one, a session that is opened and closed
    /// at once, since only then the answer is read.
    fn check(&mut self) -> Result<(), Error> {
        self.session.set_blocking(true);
        let asked = if self.open.is_empty() {
            self.session.channel_session().map(|mut channel| drop(channel.close()))
        } else {
            self.session.keepalive_send().map(drop)
        };
        asked.map_err(|error| self.broken(Step::Talk, &error))
    }

    /// Sleeps until there is work; returns whether the socket was ready.
    fn sleep(&self, listening: bool) -> Result<bool, Error> {
        // Packets that libssh2 has read already, for a session that was served before they came.
        let more =
            |open: &Open| open.held.is_none() && (open.channel.read_window().available > 0 || open.channel.eof());
        if self.open.iter().any(more) {
            return Ok(true);
        }
        let ending = self.open.iter().any(|open| open.exited.is_some());
        let tick = if ending { limits::SSH_SETTLE } else { limits::SSH_TICK };
        let wait = tick.min(self.times.check).min(self.times.idle);
        let mut watches = vec![self.connection.waker.watch()];
        if listening {
            watches.push(Watch::new(self.socket.as_fd(), false));
        }
        poll::wait(&mut watches, wait)
            .map_err(|error| Error::Local { server: self.connection.server.clone(), what: error.to_string() })?;
        Ok(watches.get(1).is_some_and(Watch::readable))
    }

    fn silence(&self) -> Error {
        let (server, step) = (self.connection.server.clone(), Step::Talk);
        Error::Timeout { server, step, limit: "ssh.connectionPool.connectionTimeout", after: self.times.step }
    }

    fn broken(&self, step: Step, error: &ssh2::Error) -> Error {
        let server = self.connection.server.clone();
        if is_timeout(error) {
            let (limit, after) = ("ssh.connectionPool.connectionTimeout", self.times.step);
            return Error::Timeout { server, step, limit, after };
        }
        Error::Broken { server, step, what: error.message().to_owned() }
    }
}

impl Open {
    /// Whether its program ended some time ago, by its exit status or signal, though the session did not: a process started by a
    /// login's file holds the streams open.
    fn has_exited(&mut self) -> bool {
        let said = |channel: &ssh2::Channel| {
            channel.exit_status().is_ok_and(|status| status != 0)
                || channel.exit_signal().is_ok_and(|signal| signal.exit_signal.is_some())
        };
        if self.exited.is_none() && said(&self.channel) {
            self.exited = Some(Instant::now());
        }
        self.exited.is_some_and(|at| at.elapsed() >= limits::SSH_SETTLE)
    }

    /// Tries to hand over the held piece; returns whether it is still held.
    fn is_stuck(&mut self) -> bool {
        let Some(event) = self.held.take() else { return false };
        self.hand(event);
        self.held.is_some()
    }

    fn hand(&mut self, event: Event) {
        if self.leaving.is_some() {
            return;
        }
        // Set before the try, so that a job that empties the queue right after it wakes us.
        self.link.paused.store(true, Ordering::Release);
        match self.events.try_send(event) {
            Ok(()) => self.link.paused.store(false, Ordering::Release),
            Err(TrySendError::Full(event)) => self.held = Some(event),
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// One read of one stream; returns whether there was anything.
    fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Result<bool, String> {
        if self.held.is_some() {
            return Ok(false);
        }
        let number = i32::from(stream == Stream::Stderr);
        match self.channel.stream(number).read(buffer) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.hand(Event::Bytes(stream, buffer[..n].to_vec()));
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}

//! One server's connection through a jump host: a `direct-tcpip` channel, and a pair of sockets whose other end the server's
//! connection reads and writes. Nothing of what passes is readable here: the server's session is encrypted within.
//!
//! In each direction one piece of bytes is held at most. While it is held no more is read, so that the channel's window, or the
//! socket's buffer, makes the sender wait.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use crate::executors::ssh::connection::{Command, Connection};
use crate::executors::ssh::error::{Error, Step};
use crate::job::Server;
use crate::limits;
use crate::os::poll::{self, Watch};

/// A request for a way to a server.
pub(super) struct Ask {
    pub(super) host: String,
    pub(super) port: u16,
    /// The server, for messages.
    pub(super) server: String,
    pub(super) local: UnixStream,
    pub(super) seat: Seat,
    pub(super) answer: Sender<Result<(), Error>>,
    /// Nobody waits for the answer after this.
    pub(super) until: Instant,
}

/// A place on a connection to a jump host; free again when it is dropped.
pub(super) struct Seat(Arc<Connection>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.free_seat();
        self.0.waker.wake();
    }
}

impl Connection {
    /// A way to a server behind this jump host on a seat that was taken, as a socket. An error of the server behind is a
    /// [`Error::NoWay`]; every other is the jump host's.
    pub fn forward(self: &Arc<Self>, to: &Server, until: Instant) -> Result<TcpStream, Error> {
        let seat = Seat(Arc::clone(self));
        let local = |error: io::Error| Error::Local { server: self.server.clone(), what: error.to_string() };
        let gone = || {
            let what = "the connection is gone".to_owned();
            self.why().unwrap_or_else(|| Error::Broken { server: self.server.clone(), step: Step::Open, what })
        };
        let (ours, theirs) = UnixStream::pair().map_err(local)?;
        theirs.set_nonblocking(true).map_err(local)?;
        let (answer, told) = bounded(1);
        let (host, port, server) = (to.host.clone(), to.port, to.shown());
        let ask = Ask { host, port, server, local: theirs, seat, answer, until };
        self.commands.try_send(Command::Forward(ask)).map_err(|_| gone())?;
        self.waker.wake();
        // The thread answers by then, unless a check of the jump host holds it.
        let wait = until.saturating_duration_since(Instant::now()) + limits::SSH_TICK;
        match told.recv_timeout(wait) {
            Ok(Ok(())) => Ok(TcpStream::from(OwnedFd::from(ours))),
            Ok(Err(error)) => Err(error),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Err(gone()),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                let (server, limit) = (self.server.clone(), "ssh.connectionPool.connectionTimeout");
                Err(Error::Timeout { server, step: Step::Open, limit, after: wait })
            }
        }
    }
}

/// The session of a jump host, whose calls do not block.
pub(super) struct Line {
    pub(super) session: ssh2::Session,
    pub(super) socket: TcpStream,
    /// `ssh.connectionPool.connectionTimeout`.
    pub(super) step: Duration,
    /// The rest of a packet did not leave within a step: nothing can be sent after it.
    pub(super) is_stuck: Cell<bool>,
    /// Bytes of a server's connection were sent since this was last looked at.
    pub(super) has_sent: Cell<bool>,
}

impl Line {
    pub(super) fn new(session: ssh2::Session, socket: TcpStream, step: Duration) -> Self {
        Self { session, socket, step, is_stuck: Cell::new(false), has_sent: Cell::new(false) }
    }

    /// Whether the socket takes a packet now. Nothing is asked of libssh2 without: it answers the jump host from within a
    /// read, and would lose the rest of an answer that was sent in part.
    pub(super) fn can_send(&self) -> io::Result<bool> {
        let mut watch = [Watch::to_write(self.socket.as_fd())];
        poll::wait(&mut watch, Duration::ZERO)?;
        Ok(watch[0].writable())
    }

    /// Makes a call, and repeats it while a packet of it is sent in part: libssh2 sends no other before the rest of it has left.
    pub(super) fn whole<T, E>(
        &self,
        would_block: fn(&E) -> bool,
        mut call: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let until = Instant::now() + self.step;
        loop {
            let result = call();
            let in_part = matches!(
                self.session.block_directions(),
                ssh2::BlockDirections::Outbound | ssh2::BlockDirections::Both
            );
            if !in_part || result.as_ref().err().is_none_or(|error| !would_block(error)) {
                return result;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.is_stuck.set(true);
                return result;
            }
            let _ = poll::wait(&mut [Watch::to_write(self.socket.as_fd())], left);
        }
    }
}

/// The result of one look at a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    Quiet,
    /// Bytes went somewhere.
    Moved,
    /// The jump host has sent something.
    Heard,
    Ended,
}

/// Bytes on their way in one direction.
struct Piece {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Piece {
    fn new() -> Self {
        Self { bytes: vec![0; limits::SSH_FORWARD_PIECE].into_boxed_slice(), from: 0, to: 0 }
    }

    fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Reads once into the empty piece.
    fn fill(&mut self, source: &mut dyn Read) -> io::Result<usize> {
        let count = source.read(&mut self.bytes)?;
        (self.from, self.to) = (0, count);
        Ok(count)
    }

    /// Writes as much as is taken; whether that was anything.
    fn drain(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        let before = self.from;
        while !self.is_empty() {
            match write(&self.bytes[self.from..self.to]) {
                Ok(0) => break,
                Ok(count) => self.from += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.from > before)
    }
}

/// One server's connection through the jump host, on the thread of the jump host's session.
pub(super) struct Forward {
    channel: ssh2::Channel,
    local: UnixStream,
    /// From the server.
    down: Piece,
    /// To the server.
    up: Piece,
    /// The server has ended its side.
    over: bool,
    /// The server or its connection has ended: the channel is closed at this moment at the latest.
    leaving: Option<Instant>,
    /// The jump host did not close the channel in time.
    pub(super) stuck: bool,
    _seat: Seat,
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

impl Forward {
    pub(super) fn new(channel: ssh2::Channel, local: UnixStream, seat: Seat) -> Self {
        let (down, up) = (Piece::new(), Piece::new());
        Self { channel, local, down, up, over: false, leaving: None, stuck: false, _seat: seat }
    }

    /// Moves what can be moved, in both directions; an error is the jump host's.
    pub(super) fn turn(&mut self, line: &Line) -> io::Result<Turn> {
        if let Some(until) = self.leaving {
            return Ok(self.leave(line, until));
        }
        let down = self.downwards(line)?;
        let up = self.upwards(line)?;
        Ok(down.max(up))
    }

    fn downwards(&mut self, line: &Line) -> io::Result<Turn> {
        let mut turn = Turn::Quiet;
        if self.down.is_empty() && !self.over {
            let (down, channel) = (&mut self.down, &mut self.channel);
            match line.whole(would_block, || down.fill(channel)) {
                Ok(0) if self.channel.eof() => {
                    self.over = true;
                    turn = Turn::Heard;
                }
                Ok(0) => {}
                Ok(_) => turn = Turn::Heard,
                Err(error) if would_block(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let local = &mut self.local;
        match self.down.drain(|bytes| local.write(bytes)) {
            Ok(true) => turn = turn.max(Turn::Moved),
            Ok(false) => {}
            Err(_) => self.gone(),
        }
        if self.over && self.down.is_empty() {
            // Its connection reads to the end. What it still sends is for nobody.
            self.gone();
        }
        Ok(turn)
    }

    fn upwards(&mut self, line: &Line) -> io::Result<Turn> {
        if self.leaving.is_some() {
            return Ok(Turn::Moved);
        }
        let mut turn = Turn::Quiet;
        if self.up.is_empty() {
            match self.up.fill(&mut self.local) {
                Ok(count) if count > 0 => turn = Turn::Moved,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Ok(_) | Err(_) => {
                    self.gone();
                    return Ok(Turn::Moved);
                }
            }
        }
        let channel = &mut self.channel;
        match self.up.drain(|bytes| line.whole(would_block, || channel.write(bytes))) {
            Ok(true) => {
                line.has_sent.set(true);
                turn = Turn::Moved;
            }
            Ok(false) => {}
            Err(error) => return Err(error),
        }
        if !self.up.is_empty() && self.has_ended()? {
            self.gone();
        }
        Ok(turn)
    }

    /// Whether the server's connection has ended, while there is no room to read what it sent before.
    fn has_ended(&self) -> io::Result<bool> {
        let mut watch = [Watch::to_end(self.local.as_fd())];
        poll::wait(&mut watch, Duration::ZERO)?;
        Ok(watch[0].readable())
    }

    /// The server's connection has ended, or the server: what is still on its way is for nobody.
    fn gone(&mut self) {
        self.leaving = Some(Instant::now() + limits::SSH_CLOSE);
    }

    fn leave(&mut self, line: &Line, until: Instant) -> Turn {
        let mut close = || self.channel.close().map_err(io::Error::from);
        match line.whole(would_block, &mut close) {
            Err(error) if would_block(&error) && Instant::now() < until => Turn::Quiet,
            Err(error) if would_block(&error) => {
                self.stuck = true;
                Turn::Ended
            }
            Ok(()) | Err(_) => Turn::Ended,
        }
    }

    /// Whether the jump host's socket is read for it.
    pub(super) fn listens(&self) -> bool {
        self.down.is_empty() && !self.over || !self.up.is_empty() || self.leaving.is_some()
    }

    /// Whether libssh2 has read something for it already, while it served another.
    pub(super) fn has_more(&self) -> bool {
        let reads = self.leaving.is_none() && self.down.is_empty() && !self.over;
        reads && (self.channel.read_window().available > 0 || self.channel.eof())
    }

    /// What to wait for on its own socket.
    pub(super) fn watch(&self) -> Option<Watch<'_>> {
        let socket: BorrowedFd<'_> = self.local.as_fd();
        let (reads, writes) = (self.up.is_empty(), !self.down.is_empty());
        match (reads, writes) {
            _ if self.leaving.is_some() => None,
            (true, writes) => Some(Watch::new(socket, writes)),
            (false, true) => Some(Watch::to_write(socket)),
            (false, false) => Some(Watch::to_end(socket)),
        }
    }
}

//! The sockets of the health server: one thread, at most `limits::HEALTH_CONNECTIONS` clients, each with a bounded
//! head, a deadline and one answer.
//!
//! tiny_http's own server reads heads without a timeout and without a cap, and starts a thread for each client that
//! waits: a thousand silent clients are a thousand threads. So the reading is done here and tiny_http is left to write
//! the answer. What a hostile client can hold is one of the places below until its deadline or until newer clients need
//! it; memory and threads do not grow.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::answer::{Fault, Role, answer, refusal};
use super::board::Board;
use crate::limits;
use crate::os::ready::{Want, wait};

/// What the thread works with.
pub(super) struct Door {
    pub(super) listeners: Vec<(TcpListener, Role)>,
    /// Its other end is dropped to end the thread.
    pub(super) stop: UnixStream,
    pub(super) board: Arc<Board>,
}

/// One client.
struct Client {
    stream: TcpStream,
    role: Role,
    state: State,
    until: Instant,
}

enum State {
    /// Its head so far.
    Head(Vec<u8>),
    /// The answer, and how much of it is gone.
    Answer(Vec<u8>, usize),
    /// Answered; how many bytes were thrown away since.
    Discard(usize),
}

/// What is to become of a client.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Keep,
    Close,
}

impl Door {
    /// Serves until the other end of `stop` is gone.
    pub(super) fn serve(self) {
        let mut clients: Vec<Client> = Vec::with_capacity(limits::HEALTH_CONNECTIONS);
        let mut paused: Option<Instant> = None;
        let mut refused = Refused::default();
        loop {
            let now = Instant::now();
            paused = paused.filter(|&until| until > now);
            let deadline = clients.iter().map(|c| c.until).chain(paused).min();
            let flags = match self.wait(&clients, paused.is_some(), deadline.map(|d| d.saturating_duration_since(now)))
            {
                Ok(flags) => flags,
                Err(error) => {
                    // Out of kernel memory: all that can be done is to let go and try again.
                    log::warn!("health: poll failed: {error}");
                    clients.clear();
                    std::thread::sleep(limits::HEALTH_ACCEPT_PAUSE);
                    continue;
                }
            };
            if flags[0] {
                return;
            }
            let (for_listeners, for_clients) = flags[1..].split_at(self.listeners.len());
            let mut ready = for_clients.iter();
            clients.retain_mut(|client| {
                let ready = ready.next().copied().unwrap_or(false);
                client.turn(ready, &self.board, Instant::now()) == Next::Keep
            });
            for ((listener, role), _) in self.listeners.iter().zip(for_listeners).filter(|(_, ready)| **ready) {
                if paused.is_some() {
                    break;
                }
                if let Err(error) = accept(listener, *role, &mut clients) {
                    refused.say(&error, Instant::now());
                    // Most likely there is no descriptor left: the oldest client gives its own back.
                    clients.drain(..clients.len().min(1));
                    paused = Some(Instant::now() + limits::HEALTH_ACCEPT_PAUSE);
                }
            }
        }
    }

    fn wait(&self, clients: &[Client], paused: bool, limit: Option<Duration>) -> std::io::Result<Vec<bool>> {
        let mut set = vec![(self.stop.as_fd(), Want::Read)];
        // A listener that must wait is asked about as a socket to write to, which it never is.
        let want = if paused { Want::Write } else { Want::Read };
        set.extend(self.listeners.iter().map(|(listener, _)| (listener.as_fd(), want)));
        set.extend(clients.iter().map(|client| {
            let want = if matches!(client.state, State::Answer(..)) { Want::Write } else { Want::Read };
            (client.stream.as_fd(), want)
        }));
        wait(&set, limit)
    }
}

/// Takes in the clients that wait. When all places are taken the oldest client gives way: it has had the most time.
/// An error is the kernel's refusal of one.
fn accept(listener: &TcpListener, role: Role, clients: &mut Vec<Client>) -> std::io::Result<()> {
    // Bounded, so that a flood of new clients does not keep the thread from those that are in.
    for _ in 0..limits::HEALTH_CONNECTIONS / 2 {
        match listener.accept() {
            Ok((stream, _)) => {
                if stream.set_nonblocking(true).is_err() {
                    continue;
                }
                if clients.len() >= limits::HEALTH_CONNECTIONS {
                    clients.remove(0);
                }
                let until = Instant::now() + limits::HEALTH_DEADLINE;
                clients.push(Client { stream, role, state: State::Head(Vec::new()), until });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Complaints about refused clients, one in a while.
#[derive(Default)]
struct Refused(Option<Instant>);

impl Refused {
    fn say(&mut self, error: &std::io::Error, now: Instant) {
        if self.0.is_none_or(|last| now.saturating_duration_since(last) >= limits::HEALTH_COMPLAINT) {
            self.0 = Some(now);
            log::warn!("health: cannot accept a connection: {error}; health checks and scrapes may fail meanwhile");
        }
    }
}

impl Client {
    /// Does what can be done without waiting.
    fn turn(&mut self, ready: bool, board: &Board, now: Instant) -> Next {
        if now >= self.until {
            return match self.state {
                State::Head(ref head) if !head.is_empty() => self.reply(refusal(Fault::Slow), now),
                _ => Next::Close,
            };
        }
        if !ready {
            return Next::Keep;
        }
        match self.state {
            State::Head(_) => self.read_head(board, now),
            State::Answer(..) => self.write_answer(now),
            State::Discard(_) => self.discard(),
        }
    }

    fn read_head(&mut self, board: &Board, now: Instant) -> Next {
        let State::Head(head) = &mut self.state else { return Next::Close };
        let mut piece = [0; 1024];
        let n = match self.stream.read(&mut piece) {
            Ok(0) => return Next::Close,
            Ok(n) => n,
            Err(error) => return after(&error),
        };
        // The end may lie across two pieces.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&piece[..n]);
        if let Some(end) = head_end(head, from).filter(|&end| end <= limits::HEALTH_HEAD) {
            let bytes = answer(&head[..end], self.role, board, SystemTime::now());
            return self.reply(bytes, now);
        }
        if head.len() > limits::HEALTH_HEAD {
            return self.reply(refusal(Fault::TooLong), now);
        }
        Next::Keep
    }

    fn reply(&mut self, bytes: Vec<u8>, now: Instant) -> Next {
        self.state = State::Answer(bytes, 0);
        self.until = now + limits::HEALTH_DEADLINE;
        self.write_answer(now)
    }

    fn write_answer(&mut self, now: Instant) -> Next {
        let State::Answer(bytes, done) = &mut self.state else { return Next::Close };
        while *done < bytes.len() {
            match self.stream.write(&bytes[*done..]) {
                Ok(0) => return Next::Close,
                Ok(n) => *done += n,
                Err(error) => return after(&error),
            }
        }
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return Next::Close;
        }
        self.state = State::Discard(0);
        self.until = now + limits::HEALTH_LINGER;
        Next::Keep
    }

    fn discard(&mut self) -> Next {
        let State::Discard(total) = &mut self.state else { return Next::Close };
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => Next::Close,
            Ok(n) => {
                *total += n;
                if *total > limits::HEALTH_DISCARD { Next::Close } else { Next::Keep }
            }
            Err(error) => after(&error),
        }
    }
}

/// A socket that has nothing now is kept, a broken one is not.
fn after(error: &std::io::Error) -> Next {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Next::Keep,
        _ => Next::Close,
    }
}

/// Where the head ends: after its empty line, `\r\n` or `\n`. `from` is where to begin to look.
fn head_end(head: &[u8], from: usize) -> Option<usize> {
    (from..head.len()).find_map(|at| match &head[at..] {
        [b'\n', b'\n', ..] => Some(at + 2),
        [b'\n', b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that is given this answer `now`, and its other side.
    fn answered(answer: Vec<u8>, now: Instant) -> (Client, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let peer = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (stream, _) = listener.accept().expect("accept");
        stream.set_nonblocking(true).expect("nonblocking");
        // The time for its head is over, that for the answer begins.
        let mut client = Client { stream, role: Role::All, state: State::Head(Vec::new()), until: now };
        assert_eq!(client.reply(answer, now), Next::Keep);
        (client, peer)
    }

    #[test]
    fn a_client_that_stays_after_its_answer_is_let_go() {
        let (now, board) = (Instant::now(), Board::new());
        let (mut client, _peer) = answered(b"the answer".to_vec(), now);
        let just = now + limits::HEALTH_LINGER - Duration::from_millis(1);
        assert_eq!(client.turn(true, &board, just), Next::Keep);
        assert_eq!(client.turn(false, &board, now + limits::HEALTH_LINGER), Next::Close);
    }

    #[test]
    fn a_client_that_goes_on_sending_after_its_answer_is_let_go() {
        let (now, board) = (Instant::now(), Board::new());
        let (mut client, mut peer) = answered(b"the answer".to_vec(), now);
        let mut sent = 0;
        let ended = loop {
            if sent > 2 * limits::HEALTH_DISCARD {
                break false;
            }
            peer.write_all(&[b'x'; 4096]).expect("sent");
            sent += 4096;
            // It may take a moment to arrive; what has not is read at a later turn.
            if client.turn(true, &board, now) == Next::Close {
                break true;
            }
        };
        assert!(ended && sent > limits::HEALTH_DISCARD, "{sent}");
    }

    #[test]
    fn a_client_that_does_not_take_its_answer_is_let_go() {
        let (now, board) = (Instant::now(), Board::new());
        // More than the kernel's buffers take.
        let (mut client, _peer) = answered(vec![0; 64 * 1024 * 1024], now);
        assert_eq!(client.turn(true, &board, now), Next::Keep);
        assert!(matches!(client.state, State::Answer(_, done) if done > 0));
        assert_eq!(client.turn(true, &board, now + limits::HEALTH_DEADLINE), Next::Close);
    }

    #[test]
    fn the_end_of_a_head_at_every_split() {
        for text in ["GET / HTTP/1.1\r\nA: b\r\n\r\nrest", "GET / HTTP/1.0\n\nrest", "G\r\n\nrest"] {
            let want = text.len() - 4;
            for cut in 1..text.len() {
                let first = head_end(&text.as_bytes()[..cut], 0);
                assert_eq!(first, (cut >= want).then_some(want), "{text:?} {cut}");
                let second = head_end(text.as_bytes(), cut.saturating_sub(3));
                assert!(first.is_some() || second == Some(want), "{text:?} {cut}");
            }
        }
        assert_eq!(head_end(b"GET / HTTP/1.1\r\nA: \r\r\r\n", 0), None);
    }
}

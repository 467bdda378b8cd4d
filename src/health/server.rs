//! The sockets: one thread, at most `limits::HEALTH_CONNECTIONS` clients, each with a bounded head, a deadline and one
//! reply.
//!
//! tiny_http's own server reads heads without a timeout and without a cap, and starts a thread for each client that
//! waits: a thousand silent clients are a thousand threads. So the reading is done here and tiny_http is left to write
//! the reply. What a hostile client can hold is one of the places below until its deadline or until newer clients need
//! it; memory and threads do not grow.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::error::Error;
use super::http::{self, Page, answer, bytes, refusal};
use super::socket::PrivateSocket;
use crate::limits;
use crate::os::local;
use crate::os::poll::{self, Watch};
use crate::os::threads::{self, Ended, Thread};

/// Where clients come in, and the pages that they can reach there.
pub(super) struct Listener {
    pub(super) socket: Socket,
    pub(super) pages: Vec<Page>,
}

pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(PrivateSocket),
}

/// A client's side of either.
pub(super) trait Stream: Read + Write + AsFd {
    fn end_writing(&self) -> std::io::Result<()>;
}

impl Stream for TcpStream {
    fn end_writing(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn end_writing(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// A running server. Dropping it ends the thread; [`Server::stop`] also waits for it.
#[derive(Debug)]
pub struct Server {
    thread: Thread,
    stop: UnixStream,
}

impl Server {
    pub(super) fn start(name: &'static str, listeners: Vec<Listener>) -> Result<Self, Error> {
        let (stop, stopped) = UnixStream::pair().map_err(Error::Start)?;
        let thread = threads::spawn(name, move || serve(name, &listeners, &stopped)).map_err(Error::Start)?;
        Ok(Self { thread, stop })
    }

    /// Ends the server within `wait` and removes its Unix socket. Clients that are still served are cut off.
    pub fn stop(self, wait: Duration) -> Ended {
        drop(self.stop);
        self.thread.join_within(wait)
    }
}

/// One client.
struct Client<'a> {
    stream: Box<dyn Stream>,
    /// Those of its listener.
    pages: &'a [Page],
    /// At the other end of a Unix socket.
    uid: Option<u32>,
    state: State,
    until: Instant,
}

enum State {
    /// Its head so far.
    Head(Vec<u8>),
    /// The reply, and how much of it is gone.
    Reply(Vec<u8>, usize),
    /// Answered; how many bytes were thrown away since.
    Discard(usize),
}

/// What happens to a client after its turn.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Keep,
    Close,
}

/// What the command line before version 0.2 understands. It sent a line of JSON over the Unix socket and read one.
const FOR_OLD_COMMANDS: &[u8] =
    b"{\"ok\":false,\"error\":\"this command is older than the agent that runs: use the agent's own version of it\"}\n";

/// Serves until the other end of `stop` is gone. `name` is for the log.
fn serve(name: &'static str, listeners: &[Listener], stop: &UnixStream) {
    let mut clients: Vec<Client<'_>> = Vec::with_capacity(limits::HEALTH_CONNECTIONS);
    let mut complaints = Complaints { name, last: None };
    loop {
        let ready = match wait(listeners, stop, &clients) {
            Ok(ready) => ready,
            Err(error) => {
                // Out of kernel memory: all that can be done is to let go and try again.
                complaints.say(&format!("poll failed: {error}"));
                clients.clear();
                std::thread::sleep(limits::HEALTH_ACCEPT_PAUSE);
                continue;
            }
        };
        if ready[0] {
            return;
        }
        let (at_listeners, at_clients) = ready[1..].split_at(listeners.len());
        let mut at_clients = at_clients.iter();
        clients.retain_mut(|client| {
            let ready = at_clients.next().copied().unwrap_or(false);
            client.turn(ready, Instant::now()) == Next::Keep
        });
        for (listener, _) in listeners.iter().zip(at_listeners).filter(|(_, ready)| **ready) {
            if let Err(error) = accept(listener, &mut clients, &mut complaints) {
                complaints.say(&format!("cannot accept a connection: {error}; clients are refused meanwhile"));
                // Most likely there is no descriptor left: the oldest client gives its own back.
                clients.drain(..clients.len().min(1));
                std::thread::sleep(limits::HEALTH_ACCEPT_PAUSE);
            }
        }
    }
}

/// Whether `stop`, each listener and each client are ready, in this order. Ends at the earliest deadline of a client.
fn wait(listeners: &[Listener], stop: &UnixStream, clients: &[Client<'_>]) -> std::io::Result<Vec<bool>> {
    let mut watches = vec![Watch::new(stop.as_fd(), false)];
    watches.extend(listeners.iter().map(|listener| match &listener.socket {
        Socket::Tcp(socket) => Watch::new(socket.as_fd(), false),
        Socket::Unix(socket) => Watch::new(socket.listener.as_fd(), false),
    }));
    watches.extend(clients.iter().map(|client| match client.state {
        State::Reply(..) => Watch::to_write(client.stream.as_fd()),
        _ => Watch::new(client.stream.as_fd(), false),
    }));
    let deadline = clients.iter().map(|client| client.until).min();
    let left = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
    poll::wait(&mut watches, left)?;
    Ok(watches.iter().map(|watch| watch.readable() || watch.writable()).collect())
}

/// Takes in the clients that wait at a listener. When all places are taken the oldest client gives way: it has had the
/// most time. An error is the kernel's refusal of one.
fn accept<'a>(
    listener: &'a Listener,
    clients: &mut Vec<Client<'a>>,
    complaints: &mut Complaints,
) -> std::io::Result<()> {
    // Bounded, so that a flood of new clients does not keep the thread from those that are in.
    for _ in 0..limits::HEALTH_CONNECTIONS / 2 {
        let mut client = match listener.socket.accept() {
            Ok((stream, uid)) => Client::new(stream, &listener.pages, uid, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error),
        };
        if let (Socket::Unix(socket), Some(uid)) = (&listener.socket, client.uid)
            && !socket.lets_in(uid)
        {
            complaints.say(&format!("user {uid} was turned away"));
            let why = format!("user {uid} may not ask: only the agent's user, {}, and root may", socket.own);
            client.state = State::Reply(bytes(refusal(403, &why), None), 0);
        }
        if clients.len() >= limits::HEALTH_CONNECTIONS {
            clients.remove(0);
        }
        clients.push(client);
    }
    Ok(())
}

impl Socket {
    fn accept(&self) -> std::io::Result<(Box<dyn Stream>, Option<u32>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Box::new(stream), None))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.listener.accept()?;
                stream.set_nonblocking(true)?;
                let uid = local::peer_uid(&stream)?;
                Ok((Box::new(stream), Some(uid)))
            }
        }
    }
}

/// Lines in the log about clients, one in a while: nobody must be able to fill the log.
struct Complaints {
    name: &'static str,
    last: Option<Instant>,
}

impl Complaints {
    fn say(&mut self, what: &str) {
        let now = Instant::now();
        if self.last.is_none_or(|last| now.saturating_duration_since(last) >= limits::HEALTH_COMPLAINT) {
            self.last = Some(now);
            log::warn!("{}: {what}", self.name);
        }
    }
}

impl<'a> Client<'a> {
    fn new(stream: Box<dyn Stream>, pages: &'a [Page], uid: Option<u32>, now: Instant) -> Self {
        Self { stream, pages, uid, state: State::Head(Vec::new()), until: now + limits::HEALTH_DEADLINE }
    }

    /// Does what can be done without waiting.
    fn turn(&mut self, ready: bool, now: Instant) -> Next {
        if now >= self.until {
            return match &self.state {
                State::Head(head) if !head.is_empty() => {
                    self.reply(bytes(refusal(408, "the request was not complete in time"), None), now)
                }
                _ => Next::Close,
            };
        }
        if !ready {
            return Next::Keep;
        }
        match self.state {
            State::Head(_) => self.read_head(now),
            State::Reply(..) => self.write_reply(now),
            State::Discard(_) => self.discard(),
        }
    }

    fn read_head(&mut self, now: Instant) -> Next {
        let State::Head(head) = &mut self.state else { return Next::Close };
        let mut piece = [0; 1024];
        let n = match self.stream.read(&mut piece) {
            Ok(0) => return Next::Close,
            Ok(n) => n,
            Err(error) => return after(&error),
        };
        head.extend_from_slice(&piece[..n]);
        if self.uid.is_some() && head.starts_with(b"{") {
            return self.reply(FOR_OLD_COMMANDS.to_vec(), now);
        }
        let bytes = match http::parse(head) {
            None => return Next::Keep,
            Some(Ok(request)) => bytes(answer(self.pages, &request, self.uid), Some(&request)),
            Some(Err(refusal)) => bytes(refusal, None),
        };
        self.reply(bytes, now)
    }

    fn reply(&mut self, bytes: Vec<u8>, now: Instant) -> Next {
        self.state = State::Reply(bytes, 0);
        self.until = now + limits::HEALTH_DEADLINE;
        self.write_reply(now)
    }

    fn write_reply(&mut self, now: Instant) -> Next {
        let State::Reply(bytes, done) = &mut self.state else { return Next::Close };
        while *done < bytes.len() {
            match self.stream.write(&bytes[*done..]) {
                Ok(0) => return Next::Close,
                Ok(n) => *done += n,
                Err(error) => return after(&error),
            }
        }
        if self.stream.end_writing().is_err() {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that gets this reply `now`, and its other side.
    fn answered(reply: Vec<u8>, now: Instant) -> (Client<'static>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let peer = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (stream, _) = listener.accept().expect("accept");
        stream.set_nonblocking(true).expect("nonblocking");
        let mut client = Client::new(Box::new(stream), &[], None, now);
        // The time for its head is over, that for the reply begins.
        client.until = now;
        assert_eq!(client.reply(reply, now), Next::Keep);
        (client, peer)
    }

    #[test]
    fn a_client_that_sends_half_a_request_is_told_so_in_time() {
        let (stream, mut peer) = UnixStream::pair().expect("pair");
        stream.set_nonblocking(true).expect("nonblocking");
        let now = Instant::now();
        let mut client = Client::new(Box::new(stream), &[], Some(0), now);
        peer.write_all(b"GET /status HT").expect("half a request");
        let just = now + limits::HEALTH_DEADLINE - Duration::from_millis(1);
        assert_eq!(client.turn(true, just), Next::Keep);
        assert_eq!(client.turn(false, now + limits::HEALTH_DEADLINE), Next::Keep);
        drop(client);
        let mut told = String::new();
        peer.read_to_string(&mut told).expect("text");
        assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("not complete in time"), "{told}");
    }

    #[test]
    fn a_silent_client_is_let_go_in_time() {
        let (stream, _peer) = UnixStream::pair().expect("pair");
        let now = Instant::now();
        let mut client = Client::new(Box::new(stream), &[], Some(0), now);
        assert_eq!(client.turn(false, now + limits::HEALTH_DEADLINE - Duration::from_millis(1)), Next::Keep);
        assert_eq!(client.turn(false, now + limits::HEALTH_DEADLINE), Next::Close);
    }

    #[test]
    fn a_client_that_stays_after_its_answer_is_let_go() {
        let now = Instant::now();
        let (mut client, _peer) = answered(b"the answer".to_vec(), now);
        let just = now + limits::HEALTH_LINGER - Duration::from_millis(1);
        assert_eq!(client.turn(true, just), Next::Keep);
        assert_eq!(client.turn(false, now + limits::HEALTH_LINGER), Next::Close);
    }

    #[test]
    fn a_client_that_goes_on_sending_after_its_answer_is_let_go() {
        let now = Instant::now();
        let (mut client, mut peer) = answered(b"the answer".to_vec(), now);
        let mut sent = 0;
        let ended = loop {
            if sent > 2 * limits::HEALTH_DISCARD {
                break false;
            }
            peer.write_all(&[b'x'; 4096]).expect("sent");
            sent += 4096;
            // It may take a moment to arrive; what has not is read at a later turn.
            if client.turn(true, now) == Next::Close {
                break true;
            }
        };
        assert!(ended && sent > limits::HEALTH_DISCARD, "{sent}");
    }

    #[test]
    fn a_client_that_does_not_take_its_answer_is_let_go() {
        let now = Instant::now();
        // More than the kernel's buffers take.
        let (mut client, _peer) = answered(vec![0; 64 * 1024 * 1024], now);
        assert_eq!(client.turn(true, now), Next::Keep);
        assert!(matches!(client.state, State::Reply(_, done) if done > 0));
        assert_eq!(client.turn(true, now + limits::HEALTH_DEADLINE), Next::Close);
    }
}

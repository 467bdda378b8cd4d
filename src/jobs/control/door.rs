//! The socket's clients: one thread, at most `limits::CONTROL_CLIENTS` of them, each with a bounded request, a deadline
//! and one answer. Like the health server's door, since a client that says nothing must not hold up the others.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use super::answer::failure;
use crate::limits;
use crate::os::local;
use crate::os::ready::{Want, wait};

/// From who asks (a user id) and the request's line to the answer's.
pub(super) type Answer<'a> = &'a dyn Fn(u32, &[u8]) -> Vec<u8>;

/// What the thread works with.
pub(super) struct Door {
    pub(super) listener: UnixListener,
    /// Its other end is dropped to end the thread.
    pub(super) stop: UnixStream,
    /// The one user who is let in beside root.
    pub(super) own: u32,
}

/// One client.
struct Client {
    stream: UnixStream,
    uid: u32,
    state: State,
    until: Instant,
}

enum State {
    /// Its request so far.
    Request(Vec<u8>),
    /// The answer, and how much of it is gone.
    Answer(Vec<u8>, usize),
}

/// What is to become of a client.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Keep,
    Close,
}

impl Door {
    /// Serves until the other end of `stop` is gone.
    pub(super) fn serve(self, answer: Answer<'_>) {
        let mut clients: Vec<Client> = Vec::with_capacity(limits::CONTROL_CLIENTS);
        let mut paused: Option<Instant> = None;
        let mut complaints = Complaints::default();
        loop {
            let now = Instant::now();
            paused = paused.filter(|&until| until > now);
            let deadline = clients.iter().map(|client| client.until).chain(paused).min();
            let limit = deadline.map(|until| until.saturating_duration_since(now));
            let flags = match self.wait(&clients, paused.is_some(), limit) {
                Ok(flags) => flags,
                Err(error) => {
                    complaints.say(&format!("poll failed: {error}"));
                    clients.clear();
                    std::thread::sleep(limits::CONTROL_PAUSE);
                    continue;
                }
            };
            if flags[0] {
                return;
            }
            let mut ready = flags[2..].iter();
            clients.retain_mut(|client| {
                let ready = ready.next().copied().unwrap_or(false);
                client.turn(ready, answer, Instant::now()) == Next::Keep
            });
            if flags[1]
                && paused.is_none()
                && let Err(error) = self.accept(&mut clients, &mut complaints)
            {
                complaints.say(&format!("cannot accept a connection: {error}"));
                // Most likely there is no descriptor left: the oldest client gives its own back.
                clients.drain(..clients.len().min(1));
                paused = Some(Instant::now() + limits::CONTROL_PAUSE);
            }
        }
    }

    fn wait(&self, clients: &[Client], paused: bool, limit: Option<Duration>) -> std::io::Result<Vec<bool>> {
        // A listener that must wait is asked about as a socket to write to, which it never is.
        let listening = if paused { Want::Write } else { Want::Read };
        let mut set = vec![(self.stop.as_fd(), Want::Read), (self.listener.as_fd(), listening)];
        set.extend(clients.iter().map(|client| {
            let want = if matches!(client.state, State::Answer(..)) { Want::Write } else { Want::Read };
            (client.stream.as_fd(), want)
        }));
        wait(&set, limit)
    }

    /// Takes in the clients that wait. When all places are taken the oldest gives way: it has had the most time.
    fn accept(&self, clients: &mut Vec<Client>, complaints: &mut Complaints) -> std::io::Result<()> {
        // Bounded, so that a flood of new clients does not keep the thread from those that are in.
        for _ in 0..limits::CONTROL_CLIENTS / 2 {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let uid = stream.set_nonblocking(true).and_then(|()| local::peer_uid(&stream));
                    let Ok(uid) = uid else { continue };
                    if clients.len() >= limits::CONTROL_CLIENTS {
                        clients.remove(0);
                    }
                    let mut client = Client::new(stream, uid, Instant::now());
                    if !may_ask(uid, self.own) {
                        complaints.say(&format!("user {uid} was turned away"));
                        let why = format!("user {uid} may not ask: only the agent's user, {}, and root may", self.own);
                        client.state = State::Answer(failure(&why), 0);
                    }
                    clients.push(client);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether a user is let in by an agent that runs as `own`.
fn may_ask(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

/// Lines in the log about clients, one in a while: nobody must be able to fill the log.
#[derive(Default)]
struct Complaints(Option<Instant>);

impl Complaints {
    fn say(&mut self, what: &str) {
        let now = Instant::now();
        if self.0.is_none_or(|last| now.saturating_duration_since(last) >= limits::CONTROL_COMPLAINT) {
            self.0 = Some(now);
            log::warn!("control socket: {what}");
        }
    }
}

impl Client {
    fn new(stream: UnixStream, uid: u32, now: Instant) -> Self {
        Self { stream, uid, state: State::Request(Vec::new()), until: now + limits::CONTROL_DEADLINE }
    }

    /// Does what can be done without waiting.
    fn turn(&mut self, ready: bool, answer: Answer<'_>, now: Instant) -> Next {
        match self.state {
            State::Request(_) if now >= self.until => {
                self.reply(failure(&format!("no whole request within {:?}", limits::CONTROL_DEADLINE)), now)
            }
            State::Answer(..) if now >= self.until => Next::Close,
            _ if !ready => Next::Keep,
            State::Request(_) => self.read(answer, now),
            State::Answer(..) => self.write(),
        }
    }

    fn read(&mut self, answer: Answer<'_>, now: Instant) -> Next {
        let State::Request(request) = &mut self.state else { return Next::Close };
        let mut piece = [0; limits::CONTROL_REQUEST];
        let n = match self.stream.read(&mut piece) {
            Ok(n) => n,
            Err(error) => return after(&error),
        };
        if n == 0 && request.is_empty() {
            return Next::Close;
        }
        request.extend_from_slice(&piece[..n]);
        // A client that has ended its side without a line's end has said all that it will.
        let end = request.iter().position(|&b| b == b'\n').or((n == 0).then_some(request.len()));
        match end {
            Some(end) if end <= limits::CONTROL_REQUEST => {
                let bytes = answer(self.uid, &request[..end]);
                self.reply(bytes, now)
            }
            None if request.len() <= limits::CONTROL_REQUEST => Next::Keep,
            _ => {
                let why = format!("the request has more than {} bytes", limits::CONTROL_REQUEST);
                self.reply(failure(&why), now)
            }
        }
    }

    fn reply(&mut self, bytes: Vec<u8>, now: Instant) -> Next {
        self.state = State::Answer(bytes, 0);
        self.until = now + limits::CONTROL_DEADLINE;
        self.write()
    }

    fn write(&mut self) -> Next {
        let State::Answer(bytes, done) = &mut self.state else { return Next::Close };
        while *done < bytes.len() {
            match self.stream.write(&bytes[*done..]) {
                Ok(0) => return Next::Close,
                Ok(n) => *done += n,
                Err(error) => return after(&error),
            }
        }
        // What a Unix socket has taken is the peer's, also when the rest of what he sent is never read.
        Next::Close
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

    #[test]
    fn the_agents_user_and_root_are_let_in_and_nobody_else() {
        assert!(may_ask(990, 990) && may_ask(0, 990) && may_ask(0, 0));
        assert!(!may_ask(1000, 990) && !may_ask(1000, 0) && !may_ask(u32::MAX, 990));
    }

    #[test]
    fn a_client_that_does_not_ask_is_told_so_in_time() {
        let (stream, mut peer) = UnixStream::pair().expect("pair");
        stream.set_nonblocking(true).expect("nonblocking");
        let now = Instant::now();
        let mut client = Client::new(stream, 0, now);
        let unasked: Answer<'_> = &|_, _| panic!("asked");
        peer.write_all(b"{\"command\":").expect("half a request");
        let just = now + limits::CONTROL_DEADLINE - Duration::from_millis(1);
        assert_eq!(client.turn(true, unasked, just), Next::Keep);
        assert_eq!(client.turn(false, unasked, now + limits::CONTROL_DEADLINE), Next::Close);
        drop(client);
        let mut told = String::new();
        peer.read_to_string(&mut told).expect("text");
        assert!(told.contains("no whole request within 2s"), "{told}");
    }

    #[test]
    fn a_client_that_does_not_take_its_answer_is_let_go() {
        let (stream, _peer) = UnixStream::pair().expect("pair");
        stream.set_nonblocking(true).expect("nonblocking");
        let now = Instant::now();
        let mut client = Client::new(stream, 0, now);
        // More than the kernel's buffers take.
        assert_eq!(client.reply(vec![0; 64 << 20], now), Next::Keep);
        assert!(matches!(client.state, State::Answer(_, done) if done > 0));
        let unasked: Answer<'_> = &|_, _| panic!("asked");
        assert_eq!(client.turn(true, unasked, now), Next::Keep);
        assert_eq!(client.turn(true, unasked, now + limits::CONTROL_DEADLINE), Next::Close);
    }
}

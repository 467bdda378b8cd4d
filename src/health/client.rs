//! One client of a server: its head, perhaps a body, one reply. Each step has a deadline, and nothing in it waits.

use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

use super::http::{self, answer, bytes, refusal};
use super::listener::{Answerer, Call, Inbox, Site, Stream};
use crate::limits;
use crate::secret::Secret;

/// One client.
pub(super) struct Client {
    pub(super) id: u64,
    /// Where it came in.
    pub(super) listener: u64,
    stream: Box<dyn Stream>,
    /// At the other end of a Unix socket.
    pub(super) uid: Option<u32>,
    pub(super) state: State,
    pub(super) until: Instant,
}

pub(super) enum State {
    /// Its head so far.
    Head(Vec<u8>),
    /// The request without its body, for which there is no room yet.
    Queued(Call, usize),
    /// The request with its body so far, and the body's length.
    Body(Call, usize),
    /// Somebody works on its answer.
    Waiting,
    /// The reply, and how much of it is sent.
    Reply(Vec<u8>, usize),
    /// Answered; how many bytes were thrown away since.
    Discard(usize),
}

/// What happens to a client after its turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
}

/// What a client needs of its server for one turn.
pub(super) struct Turn<'a> {
    pub(super) site: &'a Site,
    pub(super) inbox: &'a Inbox,
    /// Bytes of bodies for which there is room now.
    pub(super) room: usize,
    pub(super) now: Instant,
}

/// What the command line before version 0.2 understands. It sent a line of JSON over the Unix socket and read one.
const FOR_OLD_COMMANDS: &[u8] =
    b"{\"ok\":false,\"error\":\"this command is older than the agent that runs: use the agent's own version of it\"}\n";

impl Client {
    pub(super) fn new((id, listener): (u64, u64), stream: Box<dyn Stream>, uid: Option<u32>, now: Instant) -> Self {
        Self { id, listener, stream, uid, state: State::Head(Vec::new()), until: now + limits::HEALTH_DEADLINE }
    }

    /// The connection, to be waited for.
    pub(super) fn stream(&self) -> &dyn Stream {
        &*self.stream
    }

    /// Bytes of memory that its body takes or will take.
    pub(super) fn held(&self) -> usize {
        match self.state {
            State::Body(_, length) if length > limits::HELPER_BODY_SMALL => length,
            _ => 0,
        }
    }

    /// Whether it waits for room that is there.
    pub(super) fn fits(&self, room: usize) -> bool {
        matches!(self.state, State::Queued(_, length) if length <= room)
    }

    /// Does what can be done without waiting.
    pub(super) fn turn(&mut self, ready: bool, turn: &Turn<'_>) -> Next {
        let now = turn.now;
        if now >= self.until {
            return match &self.state {
                State::Head(head) if head.is_empty() => Next::Close,
                State::Head(_) | State::Body(..) => self.refuse(408, "the request was not complete in time", now),
                State::Queued(..) => self.refuse(503, "other large requests had no end in time", now),
                _ => Next::Close,
            };
        }
        if matches!(self.state, State::Queued(..)) {
            return self.begin_body(turn);
        }
        if !ready {
            return Next::Keep;
        }
        match self.state {
            State::Head(_) => self.read_head(turn),
            State::Body(..) => self.read_body(turn),
            State::Reply(..) => self.write_reply(now),
            State::Discard(_) => self.discard(),
            State::Queued(..) | State::Waiting => Next::Keep,
        }
    }

    fn read_head(&mut self, turn: &Turn<'_>) -> Next {
        let State::Head(head) = &mut self.state else { return Next::Close };
        let mut piece = [0; 1024];
        let n = match self.stream.read(&mut piece) {
            Ok(0) => return Next::Close,
            Ok(n) => n,
            Err(error) => return after(&error),
        };
        head.extend_from_slice(&piece[..n]);
        if self.uid.is_some() && head.starts_with(b"{") {
            return self.reply(FOR_OLD_COMMANDS.to_vec(), turn.now);
        }
        let head = std::mem::take(head);
        let request = match http::parse(&head) {
            None => {
                self.state = State::Head(head);
                return Next::Keep;
            }
            Some(Ok(request)) => request,
            Some(Err(refusal)) => return self.reply(bytes(refusal, None), turn.now),
        };
        match turn.site {
            Site::Pages(pages) => self.reply(bytes(answer(pages, &request, self.uid), Some(&request)), turn.now),
            Site::Calls(calls) => match http::body_length(&head, calls.body_max()) {
                Ok((at, length, wants_word)) => {
                    let call = Call {
                        method: request.method.to_string(),
                        target: request.target.to_owned(),
                        authorization: http::field(&head, "authorization").ok().flatten().map(Secret::new),
                        body: head[at..].to_vec(),
                    };
                    if wants_word {
                        // A client that asks for it waits a second otherwise.
                        let _ = self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    self.state = State::Queued(call, length);
                    self.until = turn.now + limits::HELPER_BODY;
                    self.begin_body(turn)
                }
                Err(refusal) => self.reply(bytes(refusal, None), turn.now),
            },
        }
    }

    /// Goes on from the head to the body, once there is room for it.
    fn begin_body(&mut self, turn: &Turn<'_>) -> Next {
        let State::Queued(_, length) = self.state else { return Next::Close };
        if length > limits::HELPER_BODY_SMALL && length > turn.room {
            return Next::Keep;
        }
        if let State::Queued(mut call, length) = std::mem::replace(&mut self.state, State::Waiting) {
            call.body.reserve_exact(length.saturating_sub(call.body.len()));
            self.state = State::Body(call, length);
        }
        self.hand_over(turn)
    }

    fn read_body(&mut self, turn: &Turn<'_>) -> Next {
        let State::Body(call, length) = &mut self.state else { return Next::Close };
        let mut piece = [0; 16 * 1024];
        let most = piece.len().min(*length - call.body.len());
        match self.stream.read(&mut piece[..most]) {
            Ok(0) => return Next::Close,
            Ok(n) => call.body.extend_from_slice(&piece[..n]),
            Err(error) => return after(&error),
        }
        self.hand_over(turn)
    }

    /// Hands a request over that is whole.
    fn hand_over(&mut self, turn: &Turn<'_>) -> Next {
        let Site::Calls(calls) = turn.site else { return Next::Close };
        if matches!(&self.state, State::Body(call, length) if call.body.len() < *length) {
            return Next::Keep;
        }
        if let State::Body(mut call, length) = std::mem::replace(&mut self.state, State::Waiting) {
            call.body.truncate(length);
            self.until = turn.now + limits::HELPER_ANSWER;
            calls.take(call, Answerer::new(turn.inbox, self.id));
        }
        Next::Keep
    }

    fn refuse(&mut self, status: u16, why: &str, now: Instant) -> Next {
        self.reply(bytes(refusal(status, why), None), now)
    }

    pub(super) fn reply(&mut self, bytes: Vec<u8>, now: Instant) -> Next {
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
    use std::net::TcpListener;
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    /// A turn at a listener without pages.
    fn turn(client: &mut Client, ready: bool, now: Instant) -> Next {
        let inbox = Inbox::new().expect("an eventfd");
        client.turn(ready, &Turn { site: &Site::Pages(Vec::new()), inbox: &inbox, room: 0, now })
    }

    /// A client that gets this reply `now`, and its other side.
    fn answered(reply: Vec<u8>, now: Instant) -> (Client, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let peer = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (stream, _) = listener.accept().expect("accept");
        stream.set_nonblocking(true).expect("nonblocking");
        let mut client = Client::new((1, 0), Box::new(stream), None, now);
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
        let mut client = Client::new((1, 0), Box::new(stream), Some(0), now);
        peer.write_all(b"GET /status HT").expect("half a request");
        let just = now + limits::HEALTH_DEADLINE - Duration::from_millis(1);
        assert_eq!(turn(&mut client, true, just), Next::Keep);
        assert_eq!(turn(&mut client, false, now + limits::HEALTH_DEADLINE), Next::Keep);
        drop(client);
        let mut told = String::new();
        peer.read_to_string(&mut told).expect("text");
        assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("not complete in time"), "{told}");
    }

    #[test]
    fn a_silent_client_is_let_go_in_time() {
        let (stream, _peer) = UnixStream::pair().expect("pair");
        let now = Instant::now();
        let mut client = Client::new((1, 0), Box::new(stream), Some(0), now);
        let just = now + limits::HEALTH_DEADLINE - Duration::from_millis(1);
        assert_eq!(turn(&mut client, false, just), Next::Keep);
        assert_eq!(turn(&mut client, false, now + limits::HEALTH_DEADLINE), Next::Close);
    }

    #[test]
    fn a_client_that_stays_after_its_answer_is_let_go() {
        let now = Instant::now();
        let (mut client, _peer) = answered(b"the answer".to_vec(), now);
        let just = now + limits::HEALTH_LINGER - Duration::from_millis(1);
        assert_eq!(turn(&mut client, true, just), Next::Keep);
        assert_eq!(turn(&mut client, false, now + limits::HEALTH_LINGER), Next::Close);
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
            if turn(&mut client, true, now) == Next::Close {
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
        assert_eq!(turn(&mut client, true, now), Next::Keep);
        assert!(matches!(client.state, State::Reply(_, done) if done > 0));
        assert_eq!(turn(&mut client, true, now + limits::HEALTH_DEADLINE), Next::Close);
    }
}

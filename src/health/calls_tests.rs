//! Calls over a Unix socket: their bodies, their answers, and what they may take.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::super::{Answerer, Call, text};
use super::*;
use crate::limits;
use crate::os::clock::Deadline;
use crate::os::net;
use crate::os::scratch::Scratch;

/// Largest body of these tests.
const MOST: usize = 1 << 20;

/// Answers with method, target, authorization and length of the body; what asks for `/held` is given to the test.
struct Echo(Mutex<Sender<Answerer>>);

impl Calls for Echo {
    fn body_max(&self) -> (usize, &'static str) {
        (MOST, "the.key")
    }

    fn take(&self, call: Call, answer: Answerer) {
        if call.target == "/held" {
            return self.0.lock().expect("a lock").send(answer).expect("the test");
        }
        let who = call.authorization.map_or("nobody".to_owned(), |given| given.expose().to_owned());
        answer.reply(text(200, format!("{} {} {who} {}", call.method, call.target, call.body.len())));
    }
}

struct Served {
    server: CallServer,
    listener: Option<CallListener>,
    held: Receiver<Answerer>,
    place: Scratch,
}

fn served() -> Served {
    let (send, held) = channel();
    let server = CallServer::start("t-calls").expect("a server");
    let place = Scratch::new();
    let listener = Some(server.listen(&place.join("s"), Arc::new(Echo(Mutex::new(send)))).expect("a socket"));
    Served { server, listener, held, place }
}

impl Served {
    fn connect(&self) -> UnixStream {
        let deadline = Deadline::after(Duration::from_secs(20), "the test's limit");
        let stream = net::unix(&self.place.join("s"), deadline).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        stream
    }

    fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may refuse it before it has read all.
        let _ = stream.write_all(request);
        read(&mut stream)
    }
}

fn read(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).expect("text")
}

fn status(text: &str) -> u16 {
    text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

#[test]
fn a_call_comes_whole_with_its_body_and_its_token() {
    let served = served();
    let told = served.ask(b"GET /a?raw HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n");
    assert!(told.ends_with("\r\n\r\nGET /a?raw Bearer x 0"), "{told}");
    let body = "b".repeat(MOST);
    for head in ["PUT /b HTTP/1.1\r\nContent-Length: 1048576\r\n\r\n", "PUT /b HTTP/1.0\ncontent-length:1048576\n\n"] {
        let told = served.ask(format!("{head}{body}").as_bytes());
        assert!(told.ends_with("PUT /b nobody 1048576"), "{told}");
    }
    // In pieces, and with more behind it than was announced.
    let mut stream = served.connect();
    for piece in ["POST /c HTTP/1.1\r\nContent-", "Length: 4\r\n\r", "\nab", "cdef"] {
        stream.write_all(piece.as_bytes()).expect("sent");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(read(&mut stream).ends_with("POST /c nobody 4"));
    assert_eq!(served.server.stop(Duration::from_secs(5)), Ended::Returned);
}

#[test]
fn a_client_that_waits_for_a_word_before_its_body_gets_it() {
    let served = served();
    let mut stream = served.connect();
    stream.write_all(b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").expect("sent");
    let mut word = [0; 25];
    stream.read_exact(&mut word).expect("a word");
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").expect("sent");
    assert!(read(&mut stream).ends_with("POST /a nobody 3"));
}

#[test]
fn bodies_without_a_length_or_beyond_the_limit_are_refused() {
    let served = served();
    for (head, want, words) in [
        ("Content-Length: 1048577\r\n", 413, "at most 1048576 are taken (the.key)"),
        ("Content-Length: 99999999999999999999999\r\n", 413, "the.key"),
        ("Content-Length: -1\r\n", 400, "no number"),
        ("Content-Length: \r\n", 400, "no number"),
        ("Content-Length: 1\r\nContent-Length: 1\r\n", 400, "twice"),
        ("Transfer-Encoding: chunked\r\n", 411, "Content-Length"),
    ] {
        let told = served.ask(format!("POST /a HTTP/1.1\r\n{head}\r\n").as_bytes());
        assert!(status(&told) == want && told.contains(words), "{head}: {told}");
    }
    let mut large = b"POST /a HTTP/1.1\r\nContent-Length: 8388608\r\n\r\n".to_vec();
    large.resize(8 << 20, b'x');
    assert_eq!(status(&served.ask(&large)), 413, "the answer comes although the body was not read");
}

#[test]
fn answers_may_take_long_and_more_clients_wait_their_turn() {
    let served = served();
    let mut held: Vec<UnixStream> = (0..limits::HELPER_CONNECTIONS).map(|_| served.connect()).collect();
    for stream in &mut held {
        stream.write_all(b"GET /held HTTP/1.1\r\n\r\n").expect("sent");
    }
    let answers: Vec<Answerer> = held.iter().map(|_| served.held.recv_timeout(LIMIT).expect("a call")).collect();
    let mut late = served.connect();
    late.write_all(b"GET /late HTTP/1.1\r\n\r\n").expect("sent");
    late.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    assert!(late.read(&mut [0; 1]).is_err(), "all places are taken");
    late.set_read_timeout(Some(LIMIT)).expect("a limit");
    // From other threads, in any order; the last one is dropped without an answer.
    let mut answers = answers.into_iter().rev().enumerate();
    let first = answers.next();
    for (n, answer) in answers {
        crate::os::threads::spawn("t-answer", move || answer.reply(text(200, n.to_string()))).expect("a thread");
    }
    drop(first);
    let told: Vec<u16> = held.iter_mut().map(|stream| status(&read(stream))).collect();
    assert_eq!(told.iter().filter(|status| **status == 500).count(), 1, "{told:?}");
    assert_eq!(told.iter().filter(|status| **status == 200).count(), told.len() - 1, "{told:?}");
    assert!(read(&mut late).ends_with("GET /late nobody 0"));
}

const LIMIT: Duration = Duration::from_secs(20);

/// The large bodies of all clients together have a limit, and what has no room waits for it.
#[test]
fn large_bodies_wait_for_room_and_small_ones_pass_them() {
    let mut served = served();
    let mut doors = Vec::new();
    let count = limits::HELPER_BODIES / MOST;
    let mut waiting = Vec::new();
    for n in 0..=count / limits::HELPER_CONNECTIONS {
        let (send, _) = channel();
        let path = served.place.join(n.to_string());
        doors.push(served.server.listen(&path, Arc::new(Echo(Mutex::new(send)))).expect("a socket"));
        for _ in 0..limits::HELPER_CONNECTIONS {
            let deadline = Deadline::after(LIMIT, "the test's limit");
            let mut stream = net::unix(&path, deadline).expect("connect");
            let head = format!("PUT /{n} HTTP/1.1\r\nContent-Length: {MOST}\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("sent");
            waiting.push(stream);
        }
    }
    let mut large = waiting.pop().expect("the last");
    let mut rest = large.try_clone().expect("a clone");
    let writer = crate::os::threads::spawn("t-large", move || {
        let _ = rest.write_all(&vec![b'x'; MOST]);
    });
    large.set_read_timeout(Some(Duration::from_millis(300))).expect("a limit");
    assert!(large.read(&mut [0; 1]).is_err(), "there is no room for it");
    assert!(served.ask(b"POST /s HTTP/1.1\r\nContent-Length: 2\r\n\r\nab").ends_with("POST /s nobody 2"));
    // Those before it go.
    waiting.clear();
    large.set_read_timeout(Some(LIMIT)).expect("a limit");
    let told = read(&mut large);
    assert!(told.ends_with(&format!("nobody {MOST}")), "{told:?}");
    writer.expect("a thread").join_within(LIMIT);
    served.listener = None;
}

#[test]
fn a_door_that_is_shut_leaves_no_socket_and_cuts_its_clients_off() {
    let mut served = served();
    let mut stream = served.connect();
    stream.write_all(b"GET /held HTTP/1.1\r\n\r\n").expect("sent");
    let answer = served.held.recv_timeout(LIMIT).expect("a call");
    served.listener = None;
    assert_eq!(read(&mut stream), "");
    // Nobody is there for it any more.
    answer.reply(text(200, String::new()));
    assert!(!served.place.join("s").exists());
    // What a killed agent has left is replaced.
    drop(std::os::unix::net::UnixListener::bind(served.place.join("s")).expect("a socket"));
    let (send, _held) = channel();
    let listener = served.server.listen(&served.place.join("s"), Arc::new(Echo(Mutex::new(send)))).expect("a socket");
    assert!(served.ask(b"GET /x HTTP/1.1\r\n\r\n").ends_with("GET /x nobody 0"));
    drop(listener);
    let long = served.place.join("x".repeat(200));
    let (send, _held) = channel();
    assert!(matches!(served.server.listen(&long, Arc::new(Echo(Mutex::new(send)))), Err(Error::TooLong(_))));
}

#[test]
fn a_body_that_does_not_come_and_an_answer_that_does_not_are_given_up_in_time() {
    use crate::health::client::{Client, Next, Turn};
    use crate::health::listener::{Inbox, Site};
    let (send, held) = channel();
    let site = Site::Calls(Arc::new(Echo(Mutex::new(send))));
    let inbox = Inbox::new().expect("an eventfd");
    let now = Instant::now();
    let client = |request: &[u8]| {
        let (stream, mut peer) = UnixStream::pair().expect("pair");
        stream.set_nonblocking(true).expect("nonblocking");
        peer.write_all(request).expect("sent");
        let mut client = Client::new((1, 1), Box::new(stream), None, now);
        assert_eq!(client.turn(true, &Turn { site: &site, inbox: &inbox, room: 0, now }), Next::Keep);
        (client, peer)
    };
    let turn = |client: &mut Client, room, after| {
        client.turn(false, &Turn { site: &site, inbox: &inbox, room, now: now + after })
    };
    let just = limits::HELPER_BODY - Duration::from_millis(1);
    for (length, room, want) in [("10", 0, 408), ("1000000", 0, 503), ("1000000", MOST, 408)] {
        let (mut client, mut peer) = client(format!("PUT /a HTTP/1.1\r\nContent-Length: {length}\r\n\r\n").as_bytes());
        assert_eq!(turn(&mut client, room, just), Next::Keep);
        assert_eq!(turn(&mut client, room, limits::HELPER_BODY), Next::Keep);
        drop(client);
        assert_eq!(status(&read(&mut peer)), want, "{length}");
    }
    let (mut client, mut peer) = client(b"GET /held HTTP/1.1\r\n\r\n");
    let _answer = held.recv().expect("a call");
    assert_eq!(turn(&mut client, 0, limits::HELPER_ANSWER - Duration::from_millis(1)), Next::Keep);
    assert_eq!(turn(&mut client, 0, limits::HELPER_ANSWER), Next::Close);
    drop(client);
    assert_eq!(read(&mut peer), "");
}

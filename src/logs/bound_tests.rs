//! The live log at its limits, against a server that sends too much, too little, or too slowly.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::dial::{Dialer, Target};
use super::error::LinkError;
use super::shared::Shared;
use super::test_server::{Client, Peer, Server, WAIT, eventually, print, settings};
use super::{LogStreamer, ServerEvent};
use crate::job::{Id, Stream};
use crate::limits::{
    LOG_FRAME_BYTES, LOG_HANDSHAKE_BYTES, LOG_LOCAL_BYTES, LOG_LOCAL_LINES, LOG_MESSAGE_BYTES,
    LOG_SERVER_MESSAGE_BYTES, LOG_STATUS_QUEUE,
};

const SHORT: Duration = Duration::from_millis(200);

fn shared(url: &str) -> Shared {
    Shared::new(settings(url.to_owned()), &Target::parse(url).expect("a URL").shown).expect("a waker")
}

/// A try to connect with short waits; the error and how long it took.
fn failed_try(url: &str, connect: Duration, handshake: Duration) -> (LinkError, Duration) {
    let mut dialer = Dialer::new(Target::parse(url).expect("a URL"), None, None);
    (dialer.connect_wait, dialer.handshake_wait) = (connect, handshake);
    let begun = Instant::now();
    (dialer.connect(&shared(url)).map(drop).expect_err("no connection"), begun.elapsed())
}

#[test]
fn a_server_that_is_not_reached_is_given_up_in_time() {
    // A full backlog makes the kernel drop further connection requests.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut full = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        full.push(stream);
        assert!(full.len() < 10_000, "the backlog never fills");
    }
    let (error, took) = failed_try(&format!("ws://{address}/"), SHORT, WAIT);
    let late = matches!(&error, LinkError::Unreachable { source, .. } if source.is_late());
    let said = error.to_string();
    assert!(said.contains(&address.to_string()) && said.contains("200ms (limits::LOG_CONNECT)"), "{said}");
    assert!(late && (SHORT..WAIT / 2).contains(&took), "{error} after {took:?}");
}

#[test]
fn a_handshake_that_trickles_is_given_up_in_time() {
    let server = Server::new();
    let url = server.url("ws");
    let trickle = std::thread::spawn(move || {
        let mut tcp = server.tcp();
        let begun = Instant::now();
        // Each byte comes well within the time, but never the last one.
        for byte in b"HTTP/1.1 101 Switching Protocols\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
            if begun.elapsed() > WAIT || tcp.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let (error, took) = failed_try(&url, WAIT, SHORT);
    assert!(matches!(error, LinkError::HandshakeTimeout(wait) if wait == SHORT), "{error}");
    assert!((SHORT..WAIT / 2).contains(&took), "{took:?}");
    trickle.join().expect("the server's thread");
}

#[test]
fn an_answer_to_the_upgrade_without_end_is_cut_off() {
    let server = Server::new();
    let client = Client::start(settings(server.url("ws")));
    let mut tcp = server.tcp();
    let begin = b"HTTP/1.1 101 Switching Protocols\r\nX: ";
    tcp.write_all(begin).expect("sent");
    let mut sent = begin.len();
    // Bytes in the kernel's buffers look like bytes that were read, so this ends when the connection is cut.
    while tcp.write_all(&[b'x'; 1024]).is_ok() {
        sent += 1024;
        assert!(sent < LOG_HANDSHAKE_BYTES * 1000, "it reads without end");
    }
    client.fails_with(&format!("its head is over {LOG_HANDSHAKE_BYTES} bytes"));
}

/// A server's frame, unmasked: `first` is its first byte.
fn frame(first: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![first, 127];
    frame.extend_from_slice(&(length as u64).to_be_bytes());
    frame.resize(frame.len() + length, b'x');
    frame
}

const TEXT: u8 = 0x81;
const TEXT_BEGINS: u8 = 0x01;
const GOES_ON: u8 = 0x00;
const ENDS: u8 = 0x80;

/// Sends `frames` to a connected client, and a `jobs` message after them; returns whether the client heard that.
fn heard_after(frames: &[Vec<u8>]) -> bool {
    let server = Server::new();
    let client = Client::start(settings(server.url("ws")));
    let mut tcp = server.tcp();
    let _peer = Peer::upgrade(Box::new(tcp.try_clone().expect("a clone")), true);
    let jobs = br#"{"type":"jobs"}"#;
    let last = [&[TEXT, u8::try_from(jobs.len()).expect("short")][..], jobs].concat();
    // It may hang up in the middle.
    let _ = frames.iter().chain([&last]).try_for_each(|frame| tcp.write_all(frame));
    let mut heard = None;
    eventually("it is heard or ends the connection", || {
        let error = client.log.connection().last_error.unwrap_or_default();
        match client.events.try_recv() {
            Ok(event) => heard = Some(event == ServerEvent::JobsQueued),
            Err(_) if error.contains("broke the WebSocket protocol: Space limit exceeded") => heard = Some(false),
            Err(_) => {}
        }
        heard.is_some()
    });
    heard == Some(true)
}

#[test]
fn a_frame_that_is_too_long_ends_the_connection() {
    assert!(heard_after(&[frame(TEXT, LOG_FRAME_BYTES)]));
    // Its announcement is enough.
    let mut announced = frame(TEXT, LOG_FRAME_BYTES + 1);
    announced.truncate(10);
    assert!(!heard_after(&[announced]));
}

#[test]
fn a_message_of_many_frames_that_is_too_long_ends_the_connection() {
    let message = |frames: usize| {
        let mut all = vec![frame(GOES_ON, LOG_FRAME_BYTES); frames];
        all[0][0] = TEXT_BEGINS;
        all[frames - 1][0] = ENDS;
        all
    };
    let most = LOG_SERVER_MESSAGE_BYTES / LOG_FRAME_BYTES;
    assert!(heard_after(&message(most)));
    assert!(!heard_after(&message(most + 1)));
}

#[test]
fn lines_are_gathered_up_to_a_number_and_a_size() {
    let log = LogStreamer(Some(Arc::new(shared("ws://127.0.0.1:1/"))));
    let open = || log.open(&Id::parse("job_1").expect("an id"));
    let mut job = open();
    let handed_over = |job: &super::JobStream| job.mark().numbers().sequence;
    for _ in 1..LOG_LOCAL_LINES {
        job.line(Stream::Stdout, b"x", SystemTime::now());
    }
    assert_eq!(handed_over(&job), 0);
    job.line(Stream::Stdout, b"x", SystemTime::now());
    assert_eq!(handed_over(&job), LOG_LOCAL_LINES as u64);
    let mut job = open();
    job.line(Stream::Stdout, &[b'x'; LOG_LOCAL_BYTES - 1], SystemTime::now());
    assert_eq!(handed_over(&job), 0);
    job.line(Stream::Stdout, b"x", SystemTime::now());
    assert_eq!(handed_over(&job), 2);
}

#[test]
fn a_message_has_no_more_text_than_it_may() {
    let server = Server::new();
    let mut wanted = settings(server.url("ws"));
    (wanted.live.batch_size, wanted.live.buffer_size) = (10_000, 10_000);
    let client = Client::start(wanted);
    let mut peer = server.v2();
    let mut job = client.open();
    for _ in 0..200 {
        job.line(Stream::Stdout, &[b'x'; 1000], SystemTime::now());
    }
    job.settle();
    let (mut lines, mut longest) = (0, 0);
    while lines < 200 {
        let batch = peer.batch();
        let text: usize = batch.entries.iter().map(|entry| entry["line"].as_str().expect("text").len()).sum();
        assert!(text <= LOG_MESSAGE_BYTES, "{text}");
        (lines, longest) = (lines + batch.entries.len(), longest.max(text));
        peer.ack(batch.number);
    }
    assert!(longest > LOG_MESSAGE_BYTES - 1000, "{longest}");
}

#[test]
fn status_messages_that_wait_are_bounded() {
    let shared = Arc::new(shared("ws://127.0.0.1:1/"));
    shared.connected.store(true, Ordering::Release);
    let log = LogStreamer(Some(Arc::clone(&shared)));
    for _ in 0..LOG_STATUS_QUEUE + 50 {
        log.status(&Id::parse("job_1").expect("an id"), "running", SystemTime::now(), None);
    }
    assert_eq!(shared.registry().statuses.len(), LOG_STATUS_QUEUE);
}

#[test]
fn the_end_of_a_job_waits_no_longer_than_it_is_told_also_for_a_link_that_gets_on() {
    let server = Server::new();
    let client = Client::start(settings(server.url("ws")));
    // Ten lines at a time: the link never stands still, and needs a second for all.
    let slow = server.v2().ack_all(Duration::from_millis(10));
    let mut job = client.open();
    print(&mut job, 1..=1000);
    let begun = Instant::now();
    let flushed = job.finish(SHORT);
    let took = begun.elapsed();
    assert!((SHORT..WAIT / 2).contains(&took), "{took:?}");
    assert!(flushed.sent > 0 && flushed.unsent > 0, "{flushed:?}");
    drop(client);
    slow.join().expect("the server's thread");
}

//! The live log against a real WebSocket server that the test plays.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tungstenite::Message;

use super::test_server::{Authority, Client, Peer, Server, WAIT, eventually, print, settings};
use super::{Dialect, Flushed, LogStreamer, ServerEvent};
use crate::config::types::Tls;
use crate::job::{Id, Stream};
use crate::limits::{LOG_FINISH_STALL, LOG_STALL};
use crate::os::pulse::Pulses;

fn pair() -> (Server, Client) {
    let server = Server::new();
    let client = Client::start(settings(server.url("ws")));
    (server, client)
}

fn connected(client: &Client) {
    eventually("connected", || client.log.connection().connected_since.is_some());
}

#[test]
fn v2_says_hello_first_and_keeps_to_the_batch_size() {
    let (server, client) = pair();
    let mut peer = Peer::upgrade(Box::new(server.tcp()), true);
    let header = |name: &str| peer.headers[name].to_str().expect("text").to_owned();
    assert_eq!((header("authorization"), header("x-orchestrator-id")), ("Bearer hunter2".into(), "agent-1".into()));
    assert_eq!(header("sec-websocket-protocol"), "cronium.logs.v2");
    let mut job = client.open();
    print(&mut job, 1..=35);
    let hello = peer.json();
    assert_eq!((&hello["type"], &hello["payload"]["orchestratorId"]), (&"hello".into(), &"agent-1".into()));
    let mut seen = Vec::new();
    while seen.len() < 35 {
        let batch = peer.batch();
        assert!(batch.sequences.len() <= 10, "{:?}", batch.sequences);
        for entry in &batch.entries {
            assert_eq!(entry["line"], format!("line {}", entry["sequence"]));
        }
        seen.extend(batch.sequences);
        peer.ack(batch.number);
    }
    assert_eq!(seen, (1..=35).collect::<Vec<_>>());
    assert_eq!(client.log.connection().dialect, Some(Dialect::V2));
    assert_eq!(job.finish(WAIT), Flushed { sent: 35, dropped: 0, unsent: 0 });
}

#[test]
fn what_was_not_acknowledged_comes_again_and_nothing_else_does() {
    let (server, client) = pair();
    let mut peer = server.v2();
    connected(&client);
    let mut job = client.open();
    print(&mut job, 1..=30);
    let first: Vec<_> = (0..3).map(|_| peer.batch()).collect();
    assert_eq!(first[2].sequences, (21..=30).collect::<Vec<_>>());
    peer.ack(first[0].number);
    // Pings are answered in order, so the acknowledgement before this one has been read.
    peer.send(Message::Ping(Vec::new().into()));
    assert!(peer.pong());
    drop(peer);
    let mut peer = server.v2();
    let mut again = Vec::new();
    while again.len() < 20 {
        let batch = peer.batch();
        assert!(batch.number > first[2].number, "a batch's number is used once");
        again.extend(batch.sequences);
        peer.ack(batch.number);
    }
    assert_eq!(again, (11..=30).collect::<Vec<_>>());
    assert_eq!(job.finish(WAIT), Flushed { sent: 30, dropped: 0, unsent: 0 });
    assert_eq!(client.log.connection().reconnects, 1);
}

#[test]
fn without_acknowledgements_lines_are_dropped_counted_and_finish_returns() {
    let (server, client) = pair();
    let _peer = server.v2();
    connected(&client);
    let mut job = client.open();
    let begun = Instant::now();
    print(&mut job, 1..=5000);
    assert!(begun.elapsed() < LOG_STALL * 3, "{:?}", begun.elapsed());
    let begun = Instant::now();
    let flushed = job.finish(WAIT);
    assert!(begun.elapsed() < LOG_FINISH_STALL * 2, "{:?}", begun.elapsed());
    // One system line about the dropped ones is held too.
    assert_eq!(flushed, Flushed { sent: 0, dropped: 4000, unsent: 1001 });
}

#[test]
fn a_server_without_the_subprotocol_gets_a_frame_a_line() {
    let (server, client) = pair();
    let mut peer = Peer::upgrade(Box::new(server.tcp()), false);
    let mut job = client.open();
    print(&mut job, 1..=25);
    for n in 1..=25 {
        let line = peer.json();
        assert_eq!((&line["jobId"], &line["sequence"]), (&"job_1".into(), &n.into()), "no hello, no envelope");
        assert_eq!(line["line"], format!("line {n}"));
    }
    assert_eq!(job.finish(WAIT), Flushed { sent: 25, dropped: 0, unsent: 0 });
    assert_eq!(client.log.connection().dialect, Some(Dialect::Lines));
}

#[test]
fn a_server_that_stops_reading_slows_no_job_and_is_told_what_it_missed() {
    let (server, client) = pair();
    let mut peer = server.v2();
    connected(&client);
    let mut job = client.open();
    let begun = Instant::now();
    let line = [b'x'; 1000];
    for _ in 0..20_000 {
        job.line(Stream::Stdout, &line, SystemTime::now());
    }
    job.settle();
    // Nothing is acknowledged: one stall, plus the time to print 20 MB.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let taker = std::thread::spawn(move || peer.take_to(20_001));
    let flushed = job.finish(WAIT);
    let entries = taker.join().expect("all lines");
    assert_eq!((flushed.sent + flushed.dropped, flushed.unsent), (20_001, 0));
    assert!(flushed.dropped > 0 && entries.len() as u64 == flushed.sent, "{flushed:?}");
    let told: Vec<_> = entries.iter().filter(|e| e["stream"] == "system").collect();
    let [told] = told[..] else { panic!("one system line: {told:?}") };
    let said = told["line"].as_str().expect("text");
    assert!(said.starts_with(&format!("{} lines were left out", flushed.dropped)), "{said}");
}

#[test]
fn cancel_and_jobs_are_heard() {
    let (server, client) = pair();
    let mut peer = server.v2();
    peer.say(r#"{"type":"cancel","payload":{"jobId":"job_7"}}"#);
    peer.say(r#"{"type":"jobs"}"#);
    let cancel = ServerEvent::Cancel(Id::parse("job_7").expect("an id"));
    assert_eq!(client.events.recv_timeout(WAIT), Ok(cancel));
    assert_eq!(client.events.recv_timeout(WAIT), Ok(ServerEvent::JobsQueued));
}

/// Writes a frame right behind the answer to the upgrade, so that both arrive at once.
struct Hasty(TcpStream, Vec<u8>);

impl Read for Hasty {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for Hasty {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(&[bytes, &std::mem::take(&mut self.1)].concat())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_comes_together_with_the_upgrade_is_heard_at_once() {
    let (server, client) = pair();
    let frame = [&[0x81, 15][..], br#"{"type":"jobs"}"#].concat();
    let _peer = Peer::upgrade(Box::new(Hasty(server.tcp(), frame)), true);
    assert_eq!(client.events.recv_timeout(WAIT), Ok(ServerEvent::JobsQueued));
}

#[test]
fn hostile_messages_are_ignored_and_the_connection_goes_on() {
    let (server, client) = pair();
    let mut peer = server.v2();
    let mut job = client.open();
    print(&mut job, 1..=1);
    let batch = peer.batch();
    let deep = format!(r#"{{"type":"ack","payload":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    for text in [
        "",
        "{",
        "[]",
        "null",
        &deep,
        r#"{"type":7}"#,
        r#"{"type":"format-disk","payload":{}}"#,
        r#"{"type":"ack"}"#,
        r#"{"type":"ack","payload":{"batch":-1}}"#,
        r#"{"type":"ack","payload":{"batch":18446744073709551615}}"#,
        r#"{"type":"ack","payload":{"batch":0}}"#,
        r#"{"type":"cancel","payload":{"jobId":"../x y"}}"#,
        r#"{"type":"cancel","payload":null}"#,
    ] {
        peer.say(text);
    }
    peer.send(Message::Binary(vec![0xff; 1000].into()));
    peer.say(r#"{"type":"jobs"}"#);
    assert_eq!(client.events.recv_timeout(WAIT), Ok(ServerEvent::JobsQueued), "and no cancel before it");
    peer.ack(batch.number);
    peer.ack(batch.number);
    assert_eq!(job.finish(WAIT), Flushed { sent: 1, dropped: 0, unsent: 0 });
    assert_eq!(client.log.connection().reconnects, 0);
}

#[test]
fn a_flood_of_messages_holds_up_neither_lines_nor_the_end() {
    let (server, mut client) = pair();
    let mut tcp = server.tcp();
    let mut writing = tcp.try_clone().expect("a clone");
    let mut peer = Peer::upgrade(Box::new(tcp.try_clone().expect("a clone")), true);
    connected(&client);
    // Unmasked text frames of two bytes, as a server's are.
    let flood = std::thread::spawn(move || {
        let frames = b"\x81\x02{}".repeat(4096);
        while writing.write_all(&frames).is_ok() {}
    });
    assert_eq!(peer.json()["type"], "hello");
    let mut job = client.open();
    print(&mut job, 1..=1);
    assert_eq!(peer.batch().sequences, [1]);
    drop(job);
    let took = client.stop();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let _ = tcp.read(&mut [0; 16]);
    let _ = tcp.shutdown(std::net::Shutdown::Both);
    flood.join().expect("the flood ends");
}

#[test]
fn a_server_that_pings_and_reads_nothing_is_given_up() {
    let (server, client) = pair();
    let mut tcp = server.tcp();
    let _peer = Peer::upgrade(Box::new(tcp.try_clone().expect("a clone")), true);
    let frame = [b"\x89\x7d".as_slice(), &[b'x'; 125]].concat().repeat(512);
    let begun = Instant::now();
    while tcp.write_all(&frame).is_ok() {
        assert!(begun.elapsed() < WAIT, "it takes pings without end");
    }
    client.fails_with("sent pings and took none");
}

#[test]
fn a_refused_token_is_said_and_not_tried_again_at_once() {
    let (server, mut client) = pair();
    let mut tcp = server.tcp();
    let _ = tcp.read(&mut [0; 4096]);
    tcp.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").expect("sent");
    let said = client.fails_with("401");
    assert!(said.contains("check api.token") && !said.contains("hunter2"), "{said}");
    assert!(server.tcp_within(Duration::from_secs(1)).is_none(), "another try");
    assert!(client.stop() < Duration::from_secs(1));
}

#[test]
fn the_end_is_bounded_with_a_dead_server() {
    // One server accepts and is silent before the upgrade, one never acknowledges.
    let (server, mut client) = pair();
    let _silent = server.tcp();
    assert!(client.stop() < Duration::from_secs(2));
    let (server, mut client) = pair();
    let _peer = server.v2();
    let mut job = client.open();
    print(&mut job, 1..=100);
    let took = client.stop();
    assert!(took < Duration::from_secs(2), "{took:?}");
    // Nobody listens.
    let url = Server::new().url("ws");
    let mut client = Client::start(settings(url));
    client.fails_with("cannot reach");
    assert!(client.stop() < Duration::from_secs(2));
}

#[test]
fn the_end_sends_what_is_buffered() {
    let (server, mut client) = pair();
    let taken = server.v2().ack_all(Duration::ZERO);
    connected(&client);
    let mut job = client.open();
    print(&mut job, 1..=500);
    assert!(client.stop() < Duration::from_secs(2));
    assert_eq!(taken.join().expect("the server's thread"), 500);
}

#[test]
fn switched_off_it_counts_and_waits_for_nothing() {
    let log = LogStreamer::disabled();
    let mut job = log.open(&Id::parse("job_1").expect("an id"));
    let begun = Instant::now();
    print(&mut job, 1..=100_000);
    assert_eq!(job.finish(WAIT), Flushed::default());
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(!log.connection().enabled);
    log.stop();
}

/// The server's side of TLS; with `client_wanted`, for clients of the same authority only.
fn tls_server(authority: &Authority, client_wanted: bool) -> Arc<ServerConfig> {
    let pem = |file: &str| CertificateDer::from_pem_file(authority.path(file)).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = if client_wanted {
        let mut roots = RootCertStore::empty();
        roots.add(pem("ca.pem")).expect("a root");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("built");
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(authority.path("server.key")).expect("a key");
    Arc::new(builder.with_single_cert(vec![pem("server.pem")], key).expect("a server"))
}

fn tls_stream(config: &Arc<ServerConfig>, tcp: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).expect("a connection"), tcp)
}

#[test]
fn wss_trusts_the_configured_authority_and_shows_the_client_certificate() {
    let authority = Authority::new();
    let (server, config) = (Server::new(), tls_server(&authority, true));
    let path = |file: &str| Some(authority.path(file));
    let mut wanted = settings(server.url("wss"));
    wanted.tls =
        Tls { enabled: true, ca_file: path("ca.pem"), cert_file: path("client.pem"), key_file: path("client.key") };
    let client = Client::start(wanted.clone());
    let mut peer = Peer::upgrade(Box::new(tls_stream(&config, server.tcp())), true);
    assert_eq!(peer.json()["type"], "hello");
    let mut job = client.open();
    print(&mut job, 1..=20);
    assert_eq!(peer.take_to(20).len(), 20);
    assert_eq!(job.finish(WAIT), Flushed { sent: 20, dropped: 0, unsent: 0 });
    drop(client);

    (wanted.tls.cert_file, wanted.tls.key_file) = (None, None);
    let client = Client::start(wanted);
    let _ = tls_stream(&config, server.tcp()).read(&mut [0; 16]).expect_err("no client certificate");
    let said = client.fails_with("TLS");
    assert!(said.contains("security.tls.certFile"), "{said}");
}

#[test]
fn wss_refuses_an_unknown_authority_with_advice() {
    let authority = Authority::new();
    let (server, config) = (Server::new(), tls_server(&authority, false));
    let client = Client::start(settings(server.url("wss")));
    let _ = tls_stream(&config, server.tcp()).read(&mut [0; 16]).expect_err("refused");
    let said = client.fails_with("TLS");
    assert!(said.contains("security.tls.caFile"), "{said}");
}

#[test]
fn a_live_log_that_gets_on_touches_its_pulse_and_one_whose_listener_hangs_does_not() {
    let longest = Duration::from_millis(400);
    let pulses = Pulses::new();
    let server = Server::new();
    let (hold, held) = channel::<()>();
    let (tell, events) = channel();
    let told = Box::new(move |event| {
        drop(tell.send(event));
        let _ = held.recv_timeout(WAIT);
    });
    let pulse = pulses.part("live log", longest);
    let client = Client::start_watched(settings(server.url("ws")), pulse, told, events);
    let mut peer = server.v2();
    let mut job = client.open();
    let mut watch = |time: Duration| {
        let until = Instant::now() + time;
        let mut n = 0;
        while Instant::now() < until && pulses.healthy(Instant::now()).is_ok() {
            n += 1;
            print(&mut job, n..=n);
            std::thread::sleep(Duration::from_millis(10));
        }
        pulses.healthy(Instant::now()).map_err(|stuck| stuck.part)
    };
    assert_eq!(watch(longest * 3), Ok(()), "each line wakes it");
    peer.say(r#"{"type":"jobs"}"#);
    assert_eq!(client.events.recv_timeout(WAIT), Ok(ServerEvent::JobsQueued));
    assert_eq!(watch(longest * 5), Err("live log"), "its listener hangs");
    hold.send(()).expect("it listens");
    eventually("it makes progress", || pulses.healthy(Instant::now()).is_ok());
}

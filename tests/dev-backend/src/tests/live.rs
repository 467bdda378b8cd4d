//! Both dialects of the live log, over a real WebSocket.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

use super::{Client, LIMIT, NOW, backend, job};
use crate::{Action, DevBackend, Fault, LogSocket, Settings, checksum, checksum_start};

fn started() -> DevBackend {
    backend(Settings::with_socket())
}

fn connect(backend: &DevBackend, protocol: Option<&'static str>) -> (WebSocket<TcpStream>, Option<String>) {
    let url = format!("ws://{}/api/internal/socket", backend.address());
    let mut request = url.into_client_request().expect("a request");
    request.headers_mut().insert("Authorization", HeaderValue::from_static("Bearer dev"));
    if let Some(protocol) = protocol {
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(protocol));
    }
    let stream = TcpStream::connect(backend.address()).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let (socket, answer) = tungstenite::client(request, stream).expect("a handshake");
    let chosen = answer.headers().get("Sec-WebSocket-Protocol").and_then(|v| v.to_str().ok()).map(str::to_owned);
    (socket, chosen)
}

fn batch(number: u64, from: u64, to: u64) -> Message {
    let entries: Vec<Value> = (from..=to)
        .map(|n| json!({"stream": "stdout", "line": format!("line \"{n}\""), "timestamp": NOW, "sequence": n}))
        .collect();
    Message::text(json!({"type": "logs", "payload": {"batch": number, "jobId": "j1", "entries": entries}}).to_string())
}

fn next(socket: &mut WebSocket<TcpStream>) -> Value {
    let message = socket.read().expect("a message");
    serde_json::from_str(message.to_text().expect("text")).expect("JSON")
}

#[test]
fn the_v2_dialect_acknowledges_batches_and_carries_commands() {
    let backend = started();
    let (mut socket, chosen) = connect(&backend, Some("cronium.logs.v2"));
    assert_eq!(chosen.as_deref(), Some("cronium.logs.v2"));
    socket.send(Message::text(r#"{"type":"hello","payload":{"orchestratorId":"a1","version":"1"}}"#)).expect("sent");
    for (number, from, to) in [(1, 1, 3), (2, 4, 5), (2, 4, 5), (3, 8, 8)] {
        socket.send(batch(number, from, to)).expect("sent");
        assert_eq!(next(&mut socket), json!({"type": "ack", "payload": {"batch": number}}));
    }
    let sums = backend.line_sums("j1").expect("lines");
    assert_eq!((sums.count, sums.last, sums.duplicates, sums.gaps()), (6, 8, 2, 2));
    let wanted =
        [1, 2, 3, 4, 5, 8].iter().fold(checksum_start(), |sum, n| checksum(sum, format!("line \"{n}\"").as_bytes()));
    assert_eq!(sums.checksums[0], wanted);
    let mut client = Client::of(&backend);
    assert_eq!(client.get("/dev/lines-summary")["j1"]["streams"]["stdout"]["checksum"], format!("{wanted:016x}"));
    assert_eq!(client.get("/dev/jobs/j1/lines?from=5")["lines"][0]["line"], "line \"8\"");
    backend.enqueue(job("j3")).expect("queued");
    assert_eq!(next(&mut socket)["type"], "jobs");
    assert_eq!(client.send("POST", "/dev/cancel/j1?via=ws", "").expect("an answer").status, 200);
    assert_eq!(next(&mut socket), json!({"type": "cancel", "payload": {"jobId": "j1"}}));
    assert_eq!(backend.problems(), Vec::<String>::new());
    backend.drop_sockets();
    assert!(socket.read().is_err());
    assert!(backend.wait_for(LIMIT, |backend| backend.sockets() == 0));
}

#[test]
fn the_plain_dialect_takes_a_line_a_frame_and_notes_what_is_wrong() {
    let backend = backend(Settings { log_socket: LogSocket::Lines, ..Settings::default() });
    // Asked for v2, such a backend answers without a subprotocol. (tungstenite's client takes that for an error.)
    let upgrade = b"GET /api/internal/socket HTTP/1.1\r\nAuthorization: Bearer dev\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: cronium.logs.v2\r\n\r\n";
    let got = Client::of(&backend).raw(upgrade).expect("an answer");
    assert!(got.status == 101 && !got.headers.contains("Sec-WebSocket-Protocol"), "{got:?}");
    let (mut socket, chosen) = connect(&backend, None);
    assert_eq!(chosen, None);
    for (stream, sequence) in [("stdout", 1), ("stderr", 2), ("stdeer", 3)] {
        let line = json!({"jobId": "j1", "timestamp": NOW, "stream": stream, "line": "a\tb", "sequence": sequence});
        socket.send(Message::text(line.to_string())).expect("sent");
    }
    socket.send(Message::text("nonsense")).expect("sent");
    assert!(backend.wait_for(LIMIT, |backend| backend.problems().len() == 2));
    let kept: Vec<(u64, &str, String)> =
        backend.lines("j1").into_iter().map(|line| (line.sequence, line.stream, line.text)).collect();
    assert_eq!(kept, [(1, "stdout", "a\tb".to_owned()), (2, "stderr", "a\tb".to_owned())]);
    let problems = backend.problems();
    assert!(problems[0].contains("unknown stream stdeer") && problems[1].contains("no line"), "{problems:?}");
}

#[test]
fn a_stalled_socket_reads_again_later_and_handshakes_can_fail() {
    let backend = started();
    let (mut socket, _) = connect(&backend, Some("cronium.logs.v2"));
    backend.stall_sockets(Duration::from_millis(200));
    let before = Instant::now();
    // The reader may be inside a read already: the first batch gets through then, the second does not.
    socket.send(batch(1, 1, 1)).expect("sent");
    next(&mut socket);
    socket.send(batch(2, 2, 2)).expect("sent");
    next(&mut socket);
    assert!(before.elapsed() >= Duration::from_millis(150));
    let status = Action::Status { status: 503, headers: [].into(), body: None };
    backend.set_fault(Fault { path: Some("/socket".into()), action: status, ..Fault::default() });
    let upgrade = b"GET /api/internal/socket HTTP/1.1\r\nAuthorization: Bearer dev\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    assert_eq!(Client::of(&backend).raw(upgrade).expect("an answer").status, 503);
    backend.set_faults(Vec::new());
    let got = Client::of(&backend).raw(upgrade).expect("an answer");
    assert!(got.status == 101 && got.headers.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{got:?}");
    let mut stranger = Client::of(&backend);
    let text = String::from_utf8_lossy(upgrade).replace("Bearer dev", "Bearer no");
    assert_eq!(stranger.raw(text.as_bytes()).expect("an answer").status, 401);
}

#[test]
fn many_lines_are_counted_and_few_kept() {
    let backend = backend(Settings { keep_lines: 100, ..Settings::with_socket() });
    let (mut socket, _) = connect(&backend, Some("cronium.logs.v2"));
    let (size, batches) = (500_u64, 400_u64);
    let frames: Vec<Message> = (0..batches).map(|n| batch(n + 1, n * size + 1, (n + 1) * size)).collect();
    let before = Instant::now();
    for frame in frames {
        socket.send(frame).expect("sent");
        assert_eq!(next(&mut socket)["type"], "ack");
    }
    let rate = (size * batches) as f64 / before.elapsed().as_secs_f64();
    let sums = backend.line_sums("j1").expect("lines");
    assert_eq!((sums.count, sums.gaps(), sums.duplicates), (size * batches, 0, 0));
    assert_eq!(backend.lines("j1").len(), 200);
    assert!(rate > 20_000.0, "only {rate:.0} lines a second");
}

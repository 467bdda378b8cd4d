//! `/api/internal/socket`: live logs in both dialects. The reader is the hot path: it borrows every field from the frame and
//! takes each lock once a frame.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

use crate::backend::Event;
use crate::check;
use crate::http::Head;
use crate::lines::{JobLines, STREAMS};
use crate::settings::LogSocket;
use crate::shared::{Shared, lock};
use crate::time;

pub(crate) const V2: &str = "cronium.logs.v2";
const JOBS: usize = 100_000;

/// The sending side of an open socket. Any thread may write; a frame is written whole under the lock.
#[derive(Clone)]
pub(crate) struct Socket {
    pub(crate) v2: bool,
    stream: Arc<Mutex<TcpStream>>,
}

impl Socket {
    /// Sends one text frame.
    pub(crate) fn send(&self, text: &str) -> io::Result<()> {
        let mut frame = Vec::new();
        put_frame(&mut frame, text);
        lock(&self.stream).write_all(&frame)
    }

    pub(crate) fn cut(&self) {
        let _ = lock(&self.stream).shutdown(Shutdown::Both);
    }
}

/// Appends one text frame. A server's frames are not masked, so the head is two to ten bytes.
fn put_frame(out: &mut Vec<u8>, text: &str) {
    out.push(0x81);
    match u16::try_from(text.len()) {
        Ok(length) if length < 126 => out.push(length.to_be_bytes()[1]),
        Ok(length) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            out.push(127);
            out.extend_from_slice(&(text.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// What tungstenite reads from and writes its pongs and closes to. It hands over whole frames.
struct Duplex {
    reader: TcpStream,
    writer: Arc<Mutex<TcpStream>>,
    /// Frames that acknowledge what was read: sent together, when there is no more to be taken of one read.
    acks: Vec<u8>,
}

impl Duplex {
    fn acknowledge(&mut self) {
        if !self.acks.is_empty() {
            // A client that is gone shows in the next read.
            let _ = lock(&self.writer).write_all(&self.acks);
            self.acks.clear();
        }
    }
}

impl Read for Duplex {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.acknowledge();
        self.reader.read(into)
    }
}

impl Write for Duplex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.writer).write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn serve(shared: &Arc<Shared>, stream: TcpStream, rest: Vec<u8>, head: &Head, id: u64) {
    if let Some((socket, reader)) = open(shared, stream, head) {
        lock(&shared.sockets).insert(id, socket.clone());
        shared.bump();
        read_all(shared, &socket, reader, rest);
        socket.cut();
    }
}

fn open(shared: &Shared, stream: TcpStream, head: &Head) -> Option<(Socket, TcpStream)> {
    let offered = head.header("sec-websocket-protocol").unwrap_or_default();
    let v2 = shared.settings().log_socket == LogSocket::V2 && offered.split(',').any(|name| name.trim() == V2);
    let key = derive_accept_key(head.header("sec-websocket-key")?.as_bytes());
    let protocol = if v2 { format!("Sec-WebSocket-Protocol: {V2}\r\n") } else { String::new() };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {key}\r\n{protocol}\r\n"
    );
    let reader = stream.try_clone().ok()?;
    let socket = Socket { v2, stream: Arc::new(Mutex::new(stream)) };
    lock(&socket.stream).write_all(answer.as_bytes()).ok()?;
    Some((socket, reader))
}

fn read_all(shared: &Shared, socket: &Socket, reader: TcpStream, rest: Vec<u8>) {
    let duplex = Duplex { reader, writer: Arc::clone(&socket.stream), acks: Vec::new() };
    let config = WebSocketConfig::default().read_buffer_size(256 << 10);
    let mut socket_reader = WebSocket::from_partially_read(duplex, rest, Role::Server, Some(config));
    loop {
        if lock(&shared.stalled_until).is_some() {
            socket_reader.get_mut().acknowledge();
            stall(shared);
        }
        let text = match socket_reader.read() {
            Ok(Message::Text(text)) => text,
            Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                let _ = socket_reader.flush();
                return;
            }
            Ok(_) => continue,
            Err(_) => return,
        };
        let acks = &mut socket_reader.get_mut().acks;
        let result = if socket.v2 { envelope(shared, acks, &text) } else { plain(shared, &text) };
        if let Err(wrong) = result {
            shared.store().problem(format!("log socket: {wrong}"));
        }
        shared.bump();
    }
}

fn stall(shared: &Shared) {
    while let Some(end) = *lock(&shared.stalled_until) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || shared.is_stopping() {
            return;
        }
        shared.pause(left);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlainLine<'a> {
    #[serde(borrow)]
    job_id: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    line: Cow<'a, str>,
    sequence: u64,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    line: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    sequence: u64,
    #[serde(default)]
    partial: bool,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    payload: Payload<'a>,
}

/// The keys of all kinds of messages: one pass over the text, whatever it is.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Payload<'a> {
    batch: Option<u64>,
    #[serde(borrow)]
    job_id: Cow<'a, str>,
    #[serde(borrow)]
    entries: Option<Vec<Entry<'a>>>,
    #[serde(borrow)]
    orchestrator_id: Cow<'a, str>,
    #[serde(borrow)]
    version: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    details: Value,
}

fn plain(shared: &Shared, text: &str) -> Result<(), String> {
    let line: PlainLine<'_> = serde_json::from_str(text).map_err(|error| format!("no line: {error}"))?;
    let (stream, timestamp, sequence) = (line.stream, line.timestamp, line.sequence);
    let entry = Entry { stream, line: line.line, timestamp, sequence, partial: false };
    take(shared, &line.job_id, &[entry])
}

fn envelope(shared: &Shared, acks: &mut Vec<u8>, text: &str) -> Result<(), String> {
    let Envelope { kind, payload } = serde_json::from_str(text).map_err(|error| format!("no envelope: {error}"))?;
    match &*kind {
        "logs" => {
            let batch = payload.batch.ok_or("logs without a batch number")?;
            let entries = payload.entries.ok_or("logs without entries")?;
            let taken = take(shared, &payload.job_id, &entries);
            if shared.settings().acknowledge_batches {
                put_frame(acks, &format!(r#"{{"type":"ack","payload":{{"batch":{batch}}}}}"#));
            }
            taken
        }
        "hello" => {
            let hello = json!({"orchestratorId": payload.orchestrator_id, "version": payload.version});
            let mut hellos = lock(&shared.socket_hellos);
            if hellos.len() < 10_000 {
                hellos.push(hello);
            }
            if check::is_id(&payload.orchestrator_id) { Ok(()) } else { Err("hello without orchestratorId".to_owned()) }
        }
        "status" => {
            let status = json!({"jobId": payload.job_id, "status": payload.status, "timestamp": payload.timestamp,
                                "details": payload.details});
            shared.store().told("socket-status", status);
            let right = check::is_id(&payload.job_id) && time::parse(&payload.timestamp).is_some();
            if right { Ok(()) } else { Err("status without jobId or with a wrong timestamp".to_owned()) }
        }
        other => Err(format!("unknown type {other}")),
    }
}

/// Takes a batch of one job. Lines that are wrong in one field are taken still, and the first is reported.
fn take(shared: &Shared, job: &str, entries: &[Entry<'_>]) -> Result<(), String> {
    if !check::is_id(job) {
        return Err("lines without a job's id".to_owned());
    }
    let received = time::unix_nanos();
    let mut wrong = Ok(());
    let mut all = lock(&shared.lines);
    if !all.contains_key(job) {
        if all.len() >= JOBS {
            return Err("lines of too many jobs".to_owned());
        }
        all.insert(job.to_owned(), JobLines::new(shared.settings().keep_lines));
    }
    let Some(lines) = all.get_mut(job) else { return Ok(()) };
    // Lines that were read together have one time.
    let mut right = "";
    for entry in entries {
        let Some(stream) = STREAMS.iter().position(|name| *name == entry.stream) else {
            wrong = Err(format!("job {job}: unknown stream {}", entry.stream));
            continue;
        };
        if wrong.is_ok() && entry.timestamp != right {
            if time::parse(&entry.timestamp).is_none() {
                wrong = Err(format!("job {job}: line {} has a wrong timestamp", entry.sequence));
            }
            right = &entry.timestamp;
        }
        if entry.partial {
            lines.add_partial(stream, &entry.line, entry.sequence, received);
        } else if lines.add(stream, &entry.line, entry.sequence, received) && shared.watched() {
            shared.emit(&Event::Line { job, stream: STREAMS[stream], text: &entry.line });
        }
    }
    wrong
}

//! A WebSocket server that a test controls, and an agent's live log connected to it. Every wait is bounded.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::http::HeaderMap;
use tungstenite::{Message, WebSocket, accept_hdr};

use super::{JobStream, LogStreamer, ServerEvent, Settings};
use crate::config::token::Token;
use crate::config::types::{Api, LiveLog, Tls};
use crate::job::{Id, Stream};
use crate::os::pulse::Pulse;
use crate::os::scratch::Scratch;
use crate::os::threads::Thread;
use crate::secret::Secret;

/// The longest wait of a test.
pub(super) const WAIT: Duration = Duration::from_secs(5);

/// An agent's live log; stopped and joined when dropped.
pub(super) struct Client {
    pub log: LogStreamer,
    pub events: Receiver<ServerEvent>,
    thread: Option<Thread>,
}

pub(super) fn settings(url: String) -> Settings {
    let flush_interval = Duration::from_millis(20);
    Settings {
        proxy: None,
        url,
        token: Token::new(&Api { token: Secret::new("hunter2"), ..Api::default() }),
        orchestrator_id: "agent-1".to_owned(),
        version: "0.0.1".to_owned(),
        live: LiveLog { enabled: true, buffer_size: 1000, flush_interval, batch_size: 10 },
        tls: Tls::default(),
    }
}

impl Client {
    pub(super) fn start(settings: Settings) -> Self {
        let (sender, events) = channel();
        let told = Box::new(move |event| drop(sender.send(event)));
        Self::start_watched(settings, Pulse::unwatched(), told, events)
    }

    pub(super) fn start_watched(
        settings: Settings,
        pulse: Pulse,
        told: Box<dyn Fn(ServerEvent) + Send>,
        events: Receiver<ServerEvent>,
    ) -> Self {
        let (log, thread) = LogStreamer::start(settings, pulse, told).expect("a live log");
        Self { log, events, thread: Some(thread) }
    }

    pub(super) fn open(&self) -> JobStream {
        self.log.open(&Id::parse("job_1").expect("an id"))
    }

    /// Stops the thread; returns the time that it took.
    pub(super) fn stop(&mut self) -> Duration {
        let begun = Instant::now();
        self.log.stop();
        if let Some(thread) = self.thread.take() {
            thread.join_within(WAIT);
        }
        begun.elapsed()
    }

    /// Waits until the last error contains `part`; returns the error.
    pub(super) fn fails_with(&self, part: &str) -> String {
        let mut said = String::new();
        eventually(part, || {
            said = self.log.connection().last_error.unwrap_or_default();
            said.contains(part)
        });
        said
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < until, "not within {WAIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Prints `numbers` as lines, and hands them over.
pub(super) fn print(job: &mut JobStream, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        job.line(Stream::Stdout, format!("line {n}").as_bytes(), SystemTime::now());
    }
    job.settle();
}

pub(super) trait Bytes: Read + Write + Send {}
impl<T: Read + Write + Send> Bytes for T {}

/// A port that listens.
pub(super) struct Server(TcpListener);

impl Server {
    pub(super) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        Self(listener)
    }

    pub(super) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/socket", self.0.local_addr().expect("an address").port())
    }

    /// The next connection within `wait`.
    pub(super) fn tcp_within(&self, wait: Duration) -> Option<TcpStream> {
        let until = Instant::now() + wait;
        loop {
            if let Ok((tcp, _)) = self.0.accept() {
                tcp.set_nonblocking(false).expect("blocking");
                tcp.set_read_timeout(Some(WAIT)).expect("a timeout");
                tcp.set_write_timeout(Some(WAIT)).expect("a timeout");
                return Some(tcp);
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(super) fn tcp(&self) -> TcpStream {
        self.tcp_within(WAIT).expect("a connection")
    }

    /// Accepts a connection in the v2 dialect and reads its `hello`.
    pub(super) fn v2(&self) -> Peer {
        let mut peer = Peer::upgrade(Box::new(self.tcp()), true);
        assert_eq!(peer.json()["type"], "hello");
        peer
    }
}

/// The server's end of one connection.
pub(super) struct Peer {
    pub headers: HeaderMap,
    socket: WebSocket<Box<dyn Bytes>>,
}

/// A `logs` message.
pub(super) struct Batch {
    pub number: u64,
    pub sequences: Vec<u64>,
    pub entries: Vec<Value>,
}

impl Peer {
    #[allow(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
    pub(super) fn upgrade(bytes: Box<dyn Bytes>, v2: bool) -> Self {
        let mut headers = HeaderMap::new();
        let socket = accept_hdr(bytes, |request: &Request, mut response: Response| {
            headers = request.headers().clone();
            if v2 {
                let name = "cronium.logs.v2".parse().expect("a header");
                response.headers_mut().insert("sec-websocket-protocol", name);
            }
            Ok(response)
        });
        Self { socket: socket.map_err(|e| e.to_string()).expect("an upgrade"), headers }
    }

    /// The next text message.
    pub(super) fn json(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.socket.read().expect("a message") {
                return serde_json::from_str(text.as_str()).expect("JSON");
            }
        }
    }

    pub(super) fn batch(&mut self) -> Batch {
        let message = self.json();
        assert_eq!((&message["type"], &message["payload"]["jobId"]), (&json!("logs"), &json!("job_1")));
        let entries = message["payload"]["entries"].as_array().expect("entries").clone();
        let sequences = entries.iter().map(|e| e["sequence"].as_u64().expect("a sequence")).collect();
        Batch { number: message["payload"]["batch"].as_u64().expect("a number"), sequences, entries }
    }

    pub(super) fn send(&mut self, message: Message) {
        self.socket.send(message).expect("sent");
    }

    pub(super) fn say(&mut self, text: &str) {
        self.send(Message::text(text));
    }

    pub(super) fn ack(&mut self, batch: u64) {
        self.say(&json!({"type": "ack", "payload": {"batch": batch}}).to_string());
    }

    /// Whether a pong comes next.
    pub(super) fn pong(&mut self) -> bool {
        matches!(self.socket.read(), Ok(Message::Pong(_)))
    }

    /// Reads and acknowledges until `last` has come; returns the entries.
    pub(super) fn take_to(&mut self, last: u64) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let batch = self.batch();
            self.ack(batch.number);
            all.extend(batch.entries);
            if batch.sequences.last().is_some_and(|n| *n >= last) {
                return all;
            }
        }
    }

    /// Acknowledges each message after `pause` until the connection ends, on a thread; returns the number of lines.
    pub(super) fn ack_all(mut self, pause: Duration) -> std::thread::JoinHandle<u64> {
        std::thread::spawn(move || {
            let mut lines = 0;
            while let Ok(message) = self.socket.read() {
                let Message::Text(text) = message else { continue };
                let message: Value = serde_json::from_str(text.as_str()).expect("JSON");
                lines += message["payload"]["entries"].as_array().map_or(0, Vec::len) as u64;
                std::thread::sleep(pause);
                let ack = json!({"type": "ack", "payload": {"batch": message["payload"]["batch"]}});
                let _ = self.socket.send(Message::text(ack.to_string()));
            }
            lines
        })
    }
}

/// A folder with a CA, and a server's and a client's certificate signed by it; gone when dropped.
pub(super) struct Authority(Scratch);

impl Authority {
    pub(super) fn new() -> Self {
        let it = Self(Scratch::new());
        it.openssl(&[
            "req",
            "-x509",
            "-nodes",
            "-subj",
            "/CN=test CA",
            "-days",
            "2",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        for who in ["server", "client"] {
            let (key, request, pem, ext) =
                (format!("{who}.key"), format!("{who}.csr"), format!("{who}.pem"), format!("{who}.ext"));
            let text = "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\n";
            std::fs::write(it.path(&ext), text).expect("written");
            it.openssl(&["req", "-new", "-nodes", "-subj", &format!("/CN={who}"), "-keyout", &key, "-out", &request]);
            it.openssl(&[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-days",
                "2",
                "-extfile",
                &ext,
                "-out",
                &pem,
            ]);
        }
        it
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        command.current_dir(&*self.0).args(arguments);
        if arguments[0] == "req" {
            command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        }
        let done = command.output().expect("the openssl command");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }
}

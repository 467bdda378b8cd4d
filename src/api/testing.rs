//! A backend for tests: real sockets and scripted answers.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::config::types::{Api, BackoffKind, RateLimit, Retry, Tls};
use crate::os::{stop::Stop, threads};
use crate::secret::Secret;

/// Answers calls without a network: the status, if there is one, and the body or the problem.
pub(crate) trait Scripted: std::fmt::Debug + Send + Sync {
    fn exchange(
        &self,
        method: &str,
        target: &str,
        body: Option<&[u8]>,
    ) -> (Option<u16>, Result<Vec<u8>, super::Problem>);
}

/// A network fault in place of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NoAnswer {
    Refused,
    Cut,
    /// Nothing came within this time.
    Late(Duration),
}

impl NoAnswer {
    pub(crate) fn problem(self) -> super::Problem {
        match self {
            Self::Refused => super::Problem::Connect(Box::new(ureq::Error::ConnectionFailed)),
            Self::Cut => super::Problem::Cut(Box::new(ureq::Error::Io(std::io::ErrorKind::ConnectionReset.into()))),
            Self::Late(limit) => super::Problem::Timeout { which: super::error::Wait::Answer, limit },
        }
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Counts connections from 0.
    pub(crate) connection: usize,
    /// Method and target.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// What the server does with a request.
pub(crate) enum Act {
    /// Status, further header lines, body.
    Answer(u16, &'static str, String),
    /// Exactly these bytes, then the connection is closed.
    Raw(Vec<u8>),
    /// These bytes, then silence.
    Stall(Vec<u8>),
    /// A head without a length, then that many bytes.
    Flood(usize),
    /// Nothing more: the connection is closed.
    Cut,
}

pub(crate) fn ok(body: &str) -> Act {
    Act::Answer(200, "", body.to_owned())
}

type Script = dyn Fn(&Seen, usize) -> Act + Send + Sync;

/// The server; its threads end with it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Stop,
    thread: Option<threads::Thread>,
}

impl Server {
    /// Starts one; `script` gets each request and the number of those before it.
    pub(crate) fn start(script: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Stop::new());
        let shared = (Arc::clone(&seen), stop.clone(), Arc::new(script) as Arc<Script>);
        let thread = threads::spawn("t-server", move || accept(&listener, &shared)).expect("a thread");
        Self { address, seen, stop, thread: Some(thread) }
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("lock").clone()
    }

    /// Their first lines alone.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|s| s.line).collect()
    }

    /// A configuration that points at it: quick retries, no rate limit.
    pub(crate) fn api(&self) -> Api {
        api(&format!("http://{}/api/internal", self.address))
    }

    pub(crate) fn client(&self) -> super::Client {
        super::Client::new(&self.api(), &Tls::default(), "agent 1", "1.2.3", Stop::new()).expect("a client")
    }
}

pub(crate) fn api(endpoint: &str) -> Api {
    Api {
        endpoint: endpoint.to_owned(),
        token: Secret::new("tok3n"),
        timeout: Duration::from_secs(5),
        retry: Retry {
            max_attempts: 3,
            initial_delay: Duration::from_millis(2),
            max_delay: Duration::from_millis(20),
            backoff: BackoffKind::Exponential,
        },
        rate_limit: RateLimit::default(),
        ..Api::default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.set();
        // Wakes the accept call.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join_within(Duration::from_secs(5));
        }
    }
}

type Shared = (Arc<Mutex<Vec<Seen>>>, Stop, Arc<Script>);

fn accept(listener: &TcpListener, shared: &Shared) {
    let mut open = Vec::new();
    for (connection, stream) in listener.incoming().enumerate() {
        if shared.1.is_set() {
            break;
        }
        let stream = stream.expect("a connection");
        open.push(stream.try_clone().expect("a clone"));
        let shared = (Arc::clone(&shared.0), shared.1.clone(), Arc::clone(&shared.2));
        threads::spawn("t-connection", move || serve(stream, connection, &shared)).expect("a thread");
    }
    for stream in open {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn serve(mut stream: TcpStream, connection: usize, (seen, stop, script): &Shared) {
    let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
    while let Some(request) = read_request(&mut reader, connection) {
        let number = {
            let mut all = seen.lock().expect("lock");
            all.push(request.clone());
            all.len() - 1
        };
        match script(&request, number) {
            Act::Answer(status, headers, body) => {
                let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len());
                if stream.write_all((head + &body).as_bytes()).is_err() {
                    break;
                }
            }
            Act::Raw(bytes) => {
                let _ = stream.write_all(&bytes);
                break;
            }
            Act::Stall(bytes) => {
                let _ = stream.write_all(&bytes);
                stop.wait(Duration::from_secs(30));
                break;
            }
            Act::Flood(size) => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
                let block = vec![b' '; 1 << 20];
                let mut left = size;
                while left > 0 && stream.write_all(&block[..left.min(block.len())]).is_ok() {
                    left -= left.min(block.len());
                }
                break;
            }
            Act::Cut => break,
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn read_request(reader: &mut impl BufRead, connection: usize) -> Option<Seen> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(n, _)| n == "content-length").map_or(0, |(_, v)| v.parse().expect("a length"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    Some(Seen { connection, line, headers, body: String::from_utf8(body).expect("UTF-8") })
}

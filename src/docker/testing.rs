//! An engine for tests: a Unix socket with scripted answers. Its version is 1.41.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::types::{Docker, DockerEndpoint};
use crate::docker::Client;
use crate::os::{ahead, scratch::Scratch, stop::Stop, threads};

/// The connection ends after this time, so that a client that waits in vain fails its test and does not hang.
const MERCY: Duration = Duration::from_secs(3);

/// What the engine does with a call.
pub(crate) enum Act {
    /// Status and body.
    Answer(u16, String),
    /// These bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes, then silence.
    Stall(Vec<u8>),
    /// These bytes, then silence until this is set, then the end of the connection. Input is read and ignored.
    Until(Vec<u8>, Stop),
    /// The first bytes, then the others repeatedly while they are read, up to 64 MiB.
    Flood(Vec<u8>, Vec<u8>),
}

/// The answer of a call that succeeds without a body.
pub(crate) fn done() -> Act {
    Act::Raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())
}

/// The head of an answer that comes in pieces, and after it `text` as one of them.
pub(crate) fn chunked(text: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("{head}{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

type Script = dyn Fn(&str) -> Act + Send + Sync;

/// The engine; dropping it ends its threads.
pub(crate) struct Engine {
    path: PathBuf,
    seen: Arc<Mutex<Vec<String>>>,
    stop: Stop,
    thread: Option<threads::Thread>,
    _folder: Scratch,
}

struct Shared {
    seen: Arc<Mutex<Vec<String>>>,
    stop: Stop,
    script: Box<Script>,
}

impl Engine {
    /// Starts one whose `script` is given each call, such as `POST /containers/create?name=x`, but for `/_ping`.
    pub(crate) fn start(script: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        let folder = Scratch::new();
        let path = folder.join("engine.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let (seen, stop) = (Arc::<Mutex<Vec<String>>>::default(), Stop::new());
        let shared = Shared { seen: Arc::clone(&seen), stop: stop.clone(), script: Box::new(script) };
        let thread = threads::spawn("t-engine", move || accept(&listener, &Arc::new(shared))).expect("a thread");
        Self { path, seen, stop, thread: Some(thread), _folder: folder }
    }

    pub(crate) fn docker(&self) -> Docker {
        Docker {
            endpoint: DockerEndpoint::Unix(self.path.clone()),
            version: Some("1.41".to_owned()),
            ..Docker::default()
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.docker())
    }

    /// How many calls came so far that begin like this.
    pub(crate) fn count(&self, begin: &str) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|call| call.starts_with(begin)).count()
    }

    /// The calls so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.set();
        // Wakes the accept call.
        drop(UnixStream::connect(&self.path));
        if let Some(thread) = self.thread.take() {
            thread.join_within(Duration::from_secs(5));
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    // The engine's own clock is the real one.
    ahead::inherit(None);
    for stream in listener.incoming() {
        if shared.stop.is_set() {
            return;
        }
        let (stream, shared) = (stream.expect("a connection"), Arc::clone(shared));
        threads::spawn("t-engine-call", move || serve(stream, &shared)).expect("a thread");
    }
}

fn serve(mut stream: UnixStream, shared: &Shared) {
    let Some(call) = read_call(&stream) else { return };
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
    let act = match call.as_str() {
        "GET /_ping" => Act::Answer(200, "OK".to_owned()),
        call => (shared.script)(call),
    };
    match act {
        Act::Answer(status, body) => {
            let head = format!("HTTP/1.1 {status} X\r\nApi-Version: 1.41\r\nContent-Length: {}\r\n\r\n", body.len());
            // In two parts, so that a client looks at its time between them.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
        Act::Raw(bytes) => drop(stream.write_all(&bytes)),
        Act::Stall(bytes) => {
            let _ = stream.write_all(&bytes);
            shared.stop.wait(MERCY);
        }
        Act::Until(bytes, end) => {
            let _ = stream.write_all(&bytes);
            let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
            while !end.is_set() && !shared.stop.is_set() {
                let _ = stream.read(&mut [0; 4096]);
            }
        }
        Act::Flood(first, again) => {
            let mut left = 64 << 20;
            let mut fine = stream.write_all(&first).is_ok();
            while fine && left > 0 {
                fine = stream.write_all(&again).is_ok();
                left -= again.len().min(left);
            }
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// A call's method and target without the version; its body is read and left out.
fn read_call(stream: &UnixStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end().split_once(": ") {
            Some(("Content-Length", value)) => length = value.parse().expect("a length"),
            Some(_) => {}
            None => break,
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some(first.trim_end().trim_end_matches(" HTTP/1.1").replacen("/v1.41/", "/", 1))
}

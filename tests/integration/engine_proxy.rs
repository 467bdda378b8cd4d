//! A socket between the agent and the real engine that breaks one chosen call: the real engine cannot be made to lie
//! on demand.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::harness::{Folder, engine_socket};

/// What happens to a call that matches.
#[derive(Clone)]
pub enum Break {
    /// These bytes are the whole answer, then the connection ends.
    Answer(Vec<u8>),
    /// The connection ends without an answer.
    Cut,
    /// No answer, and the connection stays open.
    Silence,
    /// The engine's answer, this many milliseconds later.
    Delay(u64),
    /// The engine's answer, cut after this many bytes.
    CutAfter(usize),
    /// The engine's answering head, then these bytes, then the end.
    HeadThen(Vec<u8>),
    /// In the request's body, words for others of the same length: an engine that ignores the request.
    Swap(&'static [(&'static str, &'static str)]),
    /// `GET /_ping` tells this API version, and calls in it are passed on in 1.41.
    Version(&'static str),
}

/// One rule: calls whose first line has both words are broken, `times` of them.
#[derive(Clone)]
struct Rule {
    method: &'static str,
    path: &'static str,
    times: u32,
    action: Break,
}

/// The proxy; gone with its owner.
pub struct Proxy {
    folder: Folder,
    rules: Arc<Mutex<Vec<Rule>>>,
    /// The first line of each call so far.
    seen: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    pub fn start() -> Self {
        Self::start_to(engine_socket())
    }

    /// One in front of this engine.
    pub fn start_to(engine: PathBuf) -> Self {
        let folder = Folder::new();
        let listener = UnixListener::bind(folder.path().join("docker.sock")).expect("a socket");
        let rules: Arc<Mutex<Vec<Rule>>> = Arc::default();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let own_seen = Arc::clone(&seen);
        let stop = Arc::new(AtomicBool::new(false));
        let (own_rules, own_stop) = (Arc::clone(&rules), Arc::clone(&stop));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if own_stop.load(Ordering::SeqCst) {
                    return;
                }
                let (rules, seen, engine) = (Arc::clone(&own_rules), Arc::clone(&own_seen), engine.clone());
                std::thread::spawn(move || serve(client.expect("a client"), &engine, &rules, &seen));
            }
        });
        Self { folder, rules, seen, stop }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    /// Breaks the next `times` calls with this method whose target holds `path`.
    pub fn break_calls(&self, method: &'static str, path: &'static str, times: u32, action: Break) {
        let rule = Rule { method, path, times, action };
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
    }

    /// How many calls with this method came whose target holds `path`.
    pub fn count(&self, method: &str, path: &str) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|first| first.starts_with(method) && first.contains(path)).count()
    }

    pub fn mend(&self) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(self.path());
    }
}

fn serve(mut client: UnixStream, engine: &Path, rules: &Mutex<Vec<Rule>>, seen: &Mutex<Vec<String>>) {
    let Some(mut request) = read_head(&mut client) else { return };
    let first = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(first.clone());
    match take_rule(&first, rules) {
        None => drop(pass_on(engine, &request, client, usize::MAX)),
        Some(Break::Answer(bytes)) => {
            let _ = client.write_all(&bytes).and_then(|()| client.shutdown(Shutdown::Write));
            // What the client still sends is taken, or the kernel would throw the answer away with it.
            let _ = client.set_read_timeout(Some(std::time::Duration::from_secs(2)));
            let _ = std::io::copy(&mut client, &mut std::io::sink());
        }
        Some(Break::Cut) => {}
        Some(Break::Silence) => drop(std::io::copy(&mut client, &mut std::io::sink())),
        Some(Break::Delay(millis)) => {
            std::thread::sleep(std::time::Duration::from_millis(millis));
            drop(pass_on(engine, &request, client, usize::MAX));
        }
        Some(Break::CutAfter(bytes)) => drop(pass_on(engine, &request, client, bytes)),
        Some(Break::HeadThen(bytes)) => {
            let mut engine = UnixStream::connect(engine).expect("the engine");
            engine.write_all(&request).expect("request");
            if let Some(head) = read_head(&mut engine) {
                let _ = client.write_all(&head).and_then(|()| client.write_all(&bytes));
            }
        }
        Some(Break::Swap(words)) => {
            let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            client.read_exact(&mut body).expect("the body");
            let mut body = String::from_utf8(body).expect("text");
            for (from, to) in words {
                assert_eq!(from.len(), to.len(), "{from}");
                body = body.replace(from, to);
            }
            request.extend_from_slice(body.as_bytes());
            drop(pass_on(engine, &request, client, usize::MAX));
        }
        Some(Break::Version(version)) if first.contains("/_ping") => {
            let head = format!("HTTP/1.1 200 OK\r\nApi-Version: {version}\r\nContent-Length: 2\r\n\r\nOK");
            let _ = client.write_all(head.as_bytes());
        }
        Some(Break::Version(_)) => {
            let text = String::from_utf8_lossy(&request).replacen("/v1.51/", "/v1.41/", 1);
            request = text.into_bytes();
            let _ = pass_on(engine, &request, client, usize::MAX);
        }
    }
}

fn take_rule(first: &str, rules: &Mutex<Vec<Rule>>) -> Option<Break> {
    let mut rules = rules.lock().unwrap_or_else(PoisonError::into_inner);
    let rule =
        rules.iter_mut().find(|rule| rule.times > 0 && first.starts_with(rule.method) && first.contains(rule.path))?;
    rule.times -= 1;
    Some(rule.action.clone())
}

/// Everything to the end of a message's head, byte by byte so that nothing behind it is taken.
fn read_head(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(head)
}

/// Both directions, the engine's for at most `limit` bytes.
fn pass_on(engine: &Path, request: &[u8], client: UnixStream, limit: usize) -> std::io::Result<()> {
    let engine = UnixStream::connect(engine)?;
    (&engine).write_all(request)?;
    let (mut from_client, mut to_engine) = (client.try_clone()?, engine.try_clone()?);
    let upwards = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_engine);
        let _ = to_engine.shutdown(Shutdown::Write);
    });
    let result = std::io::copy(&mut (&engine).take(limit as u64), &mut (&client)).map(drop);
    let _ = client.shutdown(Shutdown::Both);
    let _ = engine.shutdown(Shutdown::Both);
    let _ = upwards.join();
    result
}

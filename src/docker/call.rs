//! One HTTP/1.1 exchange with the engine, by hand: a request in one write, an answer under a deadline and a cap.
//!
//! Each call has its own connection: on a Unix socket that costs 30 µs, and no call can read the rest of another
//! call's answer.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::time::Instant;

use crate::docker::conn::{Conn, Deadline, Place, is_timeout};
use crate::docker::error::Error;
use crate::limits;
use crate::metrics::{self, DockerOperation};
use crate::wire::chunked;
use crate::wire::http1::{self, BodyLength, ResponseHead};
use crate::wire::scan::Json;

/// A request: the operation for the metrics, and the parts of its head and body.
#[derive(Debug)]
pub struct Request<'a> {
    pub operation: DockerOperation,
    /// What is being done, for errors: "start container ab12".
    pub doing: String,
    pub method: &'static str,
    /// Path and query, with the API version in front if there is one.
    pub target: String,
    /// Further header lines, without line ends.
    pub headers: &'a [String],
    /// JSON.
    pub body: Option<&'a [u8]>,
    /// The largest answer to read, in bytes.
    pub cap: usize,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub head: ResponseHead,
    pub body: Vec<u8>,
}

/// An answer whose head was read; the body is still to come.
#[derive(Debug)]
pub struct Opened {
    pub head: ResponseHead,
    pub conn: Conn,
    /// Bytes that came with the head.
    pub rest: Vec<u8>,
}

/// Makes the exchange and counts it in the metrics.
pub fn exchange(place: &Place, request: &Request<'_>, deadline: Deadline) -> Result<Answer, Error> {
    let begun = Instant::now();
    let result = open(place, request, deadline).and_then(|opened| read_whole(request, opened, deadline));
    let took = begun.elapsed();
    metrics::docker_request(request.operation, took);
    match &result {
        Ok(answer) => {
            log::debug!("docker {} {}: {} in {took:?}", request.method, request.target, answer.head.status);
        }
        Err(error) => log::debug!("docker {} {}: {error} after {took:?}", request.method, request.target),
    }
    result
}

/// Sends the request and reads the answer's head.
pub fn open(place: &Place, request: &Request<'_>, deadline: Deadline) -> Result<Opened, Error> {
    open_while(place, request, deadline, &mut || true)
}

/// The same while `wanted` returns true: the engine sends no head of a pull before the registry has answered.
pub fn open_while(
    place: &Place,
    request: &Request<'_>,
    deadline: Deadline,
    wanted: &mut dyn FnMut() -> bool,
) -> Result<Opened, Error> {
    let mut conn = Conn::open(place, deadline)?;
    send(&mut conn, request, deadline)?;
    let mut rest = Vec::new();
    loop {
        match http1::parse_response(&rest) {
            Ok(Some((head, used))) if head.status == 100 => drop(rest.drain(..used).collect::<Vec<_>>()),
            Ok(Some((head, used))) => {
                rest.drain(..used);
                return Ok(Opened { head, conn, rest });
            }
            Ok(None) => match read_tick(&mut conn, &mut rest, &request.doing, deadline)? {
                Some(0) => {
                    let what = "the connection ended before the answer's head did".to_owned();
                    return Err(Error::Protocol { doing: request.doing.clone(), what });
                }
                None if !wanted() => return Err(Error::Stopped { doing: request.doing.clone() }),
                Some(_) | None => {}
            },
            Err(error) => return Err(Error::Protocol { doing: request.doing.clone(), what: error.to_string() }),
        }
    }
}

fn send(conn: &mut Conn, request: &Request<'_>, deadline: Deadline) -> Result<(), Error> {
    let mut head =
        format!("{} {} HTTP/1.1\r\nHost: docker\r\nUser-Agent: cronium-agent\r\n", request.method, request.target);
    for line in request.headers {
        let _ = write!(head, "{line}\r\n");
    }
    if let Some(body) = request.body {
        let _ = write!(head, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    } else if request.method != "GET" {
        head.push_str("Content-Length: 0\r\n");
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(request.body.unwrap_or_default());
    write_within(conn, &bytes, &request.doing, deadline)
}

/// Writes all of `bytes` before the deadline.
pub fn write_within(conn: &mut Conn, mut bytes: &[u8], doing: &str, deadline: Deadline) -> Result<(), Error> {
    while !bytes.is_empty() {
        let left = deadline.left().ok_or_else(|| timeout(doing, deadline))?;
        let broke = |source| Error::Io { doing: doing.to_owned(), source };
        conn.set_write_timeout(left).map_err(broke)?;
        match conn.write(bytes) {
            Ok(0) => return Err(broke(std::io::ErrorKind::WriteZero.into())),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted || is_timeout(&error) => {}
            Err(error) => return Err(broke(error)),
        }
    }
    Ok(())
}

/// Appends the bytes of one read: `Some(0)` at the end of the stream, `None` when nothing came within one tick.
fn read_tick(conn: &mut Conn, into: &mut Vec<u8>, doing: &str, deadline: Deadline) -> Result<Option<usize>, Error> {
    thread_local! {
        /// Zeroed once per thread, not once per read.
        static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let left = deadline.left().ok_or_else(|| timeout(doing, deadline))?;
    let broke = |source| Error::Io { doing: doing.to_owned(), source };
    conn.set_read_timeout(left.min(limits::FOLLOW_TICK)).map_err(broke)?;
    PIECE.with_borrow_mut(|piece| {
        piece.resize(limits::DOCKER_READ, 0);
        match conn.read(piece) {
            Ok(n) => {
                into.extend_from_slice(&piece[..n]);
                Ok(Some(n))
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted || is_timeout(&error) => Ok(None),
            Err(error) => Err(broke(error)),
        }
    })
}

fn timeout(doing: &str, deadline: Deadline) -> Error {
    Error::Timeout { doing: doing.to_owned(), limit: deadline.limit, after: deadline.length }
}

/// Reads the body to its end, and turns a status of 400 or more into an error with the engine's message.
pub fn read_whole(request: &Request<'_>, opened: Opened, deadline: Deadline) -> Result<Answer, Error> {
    let mut body: Vec<u8> = Vec::new();
    let head = stream_body(opened, &request.doing, deadline, &mut |piece| {
        let needed = body.len() + piece.len();
        if needed > request.cap {
            return Err(Error::TooLarge { doing: request.doing.clone(), cap: request.cap });
        }
        if needed > body.capacity() {
            // `Vec` would double its capacity beyond the cap.
            body.reserve_exact(needed.max(body.capacity() * 2).min(request.cap) - body.len());
        }
        body.extend_from_slice(piece);
        Ok(())
    })?;
    if head.status >= 400 {
        let message = engine_message(&body);
        return Err(Error::Refused { doing: request.doing.clone(), status: head.status, message });
    }
    Ok(Answer { head, body })
}

/// Hands the body's bytes to `sink` as they arrive, in any transfer coding. `sink` gets an empty piece at each tick
/// without bytes, so that it can give up.
pub fn stream_body(
    opened: Opened,
    doing: &str,
    deadline: Deadline,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<ResponseHead, Error> {
    let Opened { head, mut conn, mut rest } = opened;
    let broken = |what: String| Error::Protocol { doing: doing.to_owned(), what };
    let length = http1::response_body(&head, false).map_err(|error| broken(error.to_string()))?;
    let mut left = match length {
        BodyLength::Empty => return Ok(head),
        BodyLength::Fixed(n) => n,
        BodyLength::Chunked | BodyLength::UntilClose => u64::MAX,
    };
    let mut chunks = (length == BodyLength::Chunked).then(chunked::Decoder::new);
    let mut decoded = Vec::new();
    loop {
        if let Some(decoder) = &mut chunks {
            decoder.decode(&rest, &mut decoded).map_err(|error| broken(error.to_string()))?;
            sink(&decoded)?;
            decoded.clear();
            if decoder.is_done() {
                return Ok(head);
            }
        } else {
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            sink(&rest[..take])?;
            left -= take as u64;
            if left == 0 {
                return Ok(head);
            }
        }
        rest.clear();
        let read = loop {
            match read_tick(&mut conn, &mut rest, doing, deadline)? {
                Some(n) => break n,
                None => sink(&[])?,
            }
        };
        if read == 0 {
            if length == BodyLength::UntilClose {
                return Ok(head);
            }
            return Err(broken("the connection ended in the middle of the body".to_owned()));
        }
    }
}

/// The `message` of the engine's error body, or the body's beginning.
fn engine_message(body: &[u8]) -> String {
    let message = Json::outline(body).ok().and_then(|answer| answer.field("message"));
    let text = message
        .and_then(|message| message.beginning(limits::ENGINE_TEXT))
        .unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(limits::ENGINE_TEXT)]).into_owned());
    let text = text.trim();
    let end = text.char_indices().nth(limits::ENGINE_MESSAGE).map_or(text.len(), |(i, _)| i);
    text[..end].replace(['\n', '\r'], " ")
}

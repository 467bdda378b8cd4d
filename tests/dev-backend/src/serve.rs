//! One connection: requests in, faults applied, answers out; or a WebSocket from the first upgrade on.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::Request;
use crate::fault::{self, Action, Hit};
use crate::http::{Answer, Head, Incoming};
use crate::settings::LogSocket;
use crate::shared::{Shared, lock};
use crate::{api, dev, live};

pub(crate) fn connection(shared: &Arc<Shared>, stream: TcpStream, id: u64) {
    let mut incoming = Incoming::new(stream);
    // A client that breaks off or sends nonsense loses its connection, nothing else.
    while let Ok(Some(head)) = incoming.read_head() {
        let internal = head.path.starts_with("/api/");
        if internal && head.is_websocket() && head.path.ends_with("/socket") {
            if let Next::Upgrade = upgrade(shared, &mut incoming, &head, id) {
                let (stream, rest) = incoming.into_parts();
                live::serve(shared, stream, rest, &head, id);
                return;
            }
            break;
        }
        let next = if internal {
            api_request(shared, &mut incoming, &head, id)
        } else {
            dev_request(shared, &mut incoming, &head, id)
        };
        if !matches!(next, Ok(Next::Again)) || !head.keep_alive || shared.is_stopping() {
            break;
        }
    }
    let _ = incoming.stream.shutdown(Shutdown::Both);
}

enum Next {
    Again,
    Cut,
    Upgrade,
}

fn dev_request(shared: &Arc<Shared>, incoming: &mut Incoming, head: &Head, id: u64) -> io::Result<Next> {
    let body = incoming.read_body(head)?;
    let answer = dev::handle(shared, head, &body, id);
    incoming.stream.write_all(&answer.encode(head.keep_alive))?;
    Ok(Next::Again)
}

fn record(shared: &Shared, head: &Head, body: &[u8], id: u64) -> Option<usize> {
    let masked = |(name, value): &(String, String)| {
        let secret = name.eq_ignore_ascii_case("authorization");
        (name.clone(), if secret { "present".to_owned() } else { value.clone() })
    };
    let request = Request {
        method: head.method.clone(),
        target: head.target.clone(),
        headers: head.headers.iter().map(masked).collect(),
        body: Arc::from(body),
        received: Instant::now(),
        status: None,
        connection: id,
    };
    let index = lock(&shared.requests).add(request);
    shared.bump();
    index
}

fn answered(shared: &Shared, index: Option<usize>, status: u16) {
    let mut requests = lock(&shared.requests);
    if let Some(request) = index.and_then(|index| requests.list.get_mut(index)) {
        request.status = Some(status);
    }
    drop(requests);
    shared.bump();
}

fn hit(shared: &Shared, early: bool, head: &Head, body: &[u8]) -> Hit {
    let mut faults = lock(&shared.faults);
    if faults.is_empty() { Hit::default() } else { fault::hit(&mut faults, early, &head.method, &head.target, body) }
}

fn api_request(shared: &Arc<Shared>, incoming: &mut Incoming, head: &Head, id: u64) -> io::Result<Next> {
    if hit(shared, true, head, b"").action.is_some() {
        record(shared, head, b"", id);
        return Ok(Next::Cut);
    }
    let body = incoming.read_body(head)?;
    let index = record(shared, head, &body, id);
    let found = hit(shared, false, head, &body);
    if found.delay_millis > 0 {
        shared.pause(Duration::from_millis(found.delay_millis));
    }
    let process = || api::handle(shared, head, &body);
    let answer = match found.action {
        None | Some(Action::Count | Action::Delay { .. }) => process(),
        Some(action) => match misbehave(shared, &incoming.stream, head, action, process)? {
            Some(answer) => answer,
            None => return Ok(Next::Cut),
        },
    };
    answered(shared, index, answer.status);
    incoming.stream.write_all(&answer.encode(head.keep_alive))?;
    Ok(Next::Again)
}

/// Does what the fault says. An answer that is to be sent whole comes back; none when the connection is done for.
fn misbehave(
    shared: &Arc<Shared>,
    mut stream: &TcpStream,
    head: &Head,
    action: Action,
    process: impl Fn() -> Answer,
) -> io::Result<Option<Answer>> {
    let text = |status: u16, content_type: &str, body: Vec<u8>| Answer {
        status,
        content_type: content_type.to_owned(),
        headers: Vec::new(),
        body,
    };
    match action {
        Action::Status { status, headers, body } => {
            let mut answer = match body {
                Some(body) => text(status, "application/json", body.into_bytes()),
                None => api::error(shared, status, "a fault on request"),
            };
            answer.headers.extend(headers);
            return Ok(Some(answer));
        }
        Action::Body { body, content_type } => {
            let content_type = content_type.unwrap_or_else(|| "application/json".to_owned());
            return Ok(Some(text(200, &content_type, body.into_bytes())));
        }
        Action::GiantBody { bytes } => return Ok(Some(text(200, "application/json", giant(bytes)))),
        Action::WrongJson => {
            process();
            return Ok(Some(text(200, "application/json", b"{\"jobs\":[{\"id\":".to_vec())));
        }
        Action::CutMidAnswer => {
            let bytes = process().encode(head.keep_alive);
            stream.write_all(&bytes[..bytes.len().min(40) / 2])?;
        }
        Action::TruncatedBody => {
            let answer = process();
            let bytes = answer.encode(head.keep_alive);
            stream.write_all(&bytes[..bytes.len() - answer.body.len().div_ceil(2)])?;
        }
        Action::CutAfterProcessing => drop(process()),
        Action::Hang => {
            process();
            hang(shared, stream);
        }
        Action::Refuse { seconds } => {
            shared.refuse(Duration::from_secs_f64(seconds.clamp(0.0, 3600.0)));
            shared.cut_all(None);
        }
        Action::CutAfterRead | Action::CutBeforeRead | Action::Count | Action::Delay { .. } => {}
    }
    Ok(None)
}

/// Until the client goes, or the backend stops (which ends this stream's input).
fn hang(shared: &Shared, mut stream: &TcpStream) {
    let mut sink = [0; 256];
    while !shared.is_stopping() && matches!(io::Read::read(&mut stream, &mut sink), Ok(1..)) {}
}

/// Valid JSON of this number of bytes: a queue answer with one long string beside an empty list.
fn giant(bytes: usize) -> Vec<u8> {
    let (before, after) = (br#"{"jobs":[],"count":0,"filler":""#, br#""}"#);
    let mut body = before.to_vec();
    body.resize(bytes.max(before.len() + after.len()) - after.len(), b'x');
    body.extend_from_slice(after);
    body
}

/// What comes before a handshake is answered: the token, and the faults that make sense for it.
fn upgrade(shared: &Arc<Shared>, incoming: &mut Incoming, head: &Head, id: u64) -> Next {
    let index = record(shared, head, b"", id);
    if hit(shared, true, head, b"").action.is_some() {
        return Next::Cut;
    }
    let found = hit(shared, false, head, b"");
    if found.delay_millis > 0 {
        shared.pause(Duration::from_millis(found.delay_millis));
    }
    let answer = match found.action {
        Some(action) => {
            let plain = || api::error(shared, 500, "a fault on request");
            match misbehave(shared, &incoming.stream, head, action, plain) {
                Ok(Some(answer)) => answer,
                _ => return Next::Cut,
            }
        }
        None if shared.settings().log_socket == LogSocket::Refused => api::no_such_page(),
        None if !api::authorized(shared, head) => api::error(shared, 401, "Unauthorized"),
        None => {
            answered(shared, index, 101);
            return Next::Upgrade;
        }
    };
    answered(shared, index, answer.status);
    let _ = incoming.stream.write_all(&answer.encode(false));
    Next::Cut
}

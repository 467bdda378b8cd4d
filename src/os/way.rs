//! Connections to the backend, directly or through an HTTP proxy.
//!
//! Through a proxy the agent asks for a tunnel (`CONNECT`), for `http` as for `https`. The proxy resolves the backend's
//! name; this host's resolver is asked for the proxy's alone. The whole has one deadline, and the answer a cap.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use super::clock::Deadline;
use super::{names, net, pulse};
use crate::limits;
use crate::wire::http1::{self, HeadError};
use crate::wire::proxy::{Proxy, authority};

/// Why there is no connection. The text says what was tried, and for a proxy what to do; see [`Error::advice`].
#[derive(Debug)]
pub enum Error {
    /// No proxy is in use.
    Direct(net::Error),
    Proxy(Box<NoTunnel>),
}

/// A proxy that made no tunnel.
#[derive(Debug)]
pub struct NoTunnel {
    /// As it is shown.
    proxy: String,
    /// Where it was named.
    from: String,
    /// Host and port behind it.
    target: String,
    has_login: bool,
    why: Why,
}

/// Why a proxy makes no tunnel.
#[derive(Debug)]
pub enum Why {
    /// There is no connection to the proxy.
    Unreached(net::Error),
    /// It answered with this status.
    Refused(u16),
    /// It did not answer in time.
    Late(Deadline),
    /// It closed the connection before its answer was complete.
    Closed,
    /// The connection to it broke.
    Broken(io::Error),
    /// Its answer is not HTTP/1.1.
    NoHttp(HeadError),
    /// Bytes follow its answer, before this side has sent anything to the backend.
    Surplus,
}

impl Error {
    /// Whether a time limit passed.
    pub fn is_late(&self) -> bool {
        match self {
            Self::Direct(error) => error.is_late(),
            Self::Proxy(no) => match &no.why {
                Why::Unreached(error) => error.is_late(),
                why => matches!(why, Why::Late(_)),
            },
        }
    }

    pub fn kind(&self) -> ErrorKind {
        let no = match self {
            Self::Direct(error) => return error.kind(),
            Self::Proxy(no) => no,
        };
        match &no.why {
            Why::Unreached(error) => error.kind(),
            Why::Late(_) => ErrorKind::TimedOut,
            Why::Broken(error) => error.kind(),
            _ => ErrorKind::ConnectionRefused,
        }
    }

    /// What to do; `key` holds the backend's address.
    pub fn advice(&self, key: &str) -> String {
        let (from, target, has_login, why) = match self {
            Self::Direct(_) => return format!("check {key} and that the backend runs"),
            Self::Proxy(no) => (&no.from, &no.target, no.has_login, &no.why),
        };
        let without = match from.as_str() {
            "api.proxy" => "set api.proxy to none".to_owned(),
            _ => "name the host in NO_PROXY, or set api.proxy".to_owned(),
        };
        match why {
            Why::Unreached(_) => format!("check {from} and that the proxy runs; to do without it, {without}"),
            // 401 is what some answer to a wrong password.
            Why::Refused(401 | 407) if has_login => format!("check the user and the password in {from}"),
            Why::Refused(401 | 407) => {
                format!("the proxy wants a user and a password: http://USER:PASSWORD@HOST:PORT in {from}")
            }
            Why::Refused(403 | 405) => {
                format!("allow CONNECT to {target} at the proxy; to do without it, {without}")
            }
            Why::Refused(500..) | Why::Late(_) | Why::Closed | Why::Broken(_) => {
                format!("look from the proxy's host whether it reaches {target}, and into its log")
            }
            Why::Refused(_) | Why::NoHttp(_) | Why::Surplus => {
                format!("check that {from} is an HTTP proxy; to do without it, {without}")
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoTunnel { proxy, from, target, why, .. } = match self {
            Self::Direct(error) => return error.fmt(f),
            Self::Proxy(no) => &**no,
        };
        write!(f, "through the proxy {proxy} ({from}): ")?;
        match why {
            Why::Unreached(error) => write!(f, "the proxy is out of reach: {error}"),
            Why::Refused(status @ (401 | 407)) => {
                write!(f, "it answered {status} to CONNECT {target}: it does not know the user")
            }
            Why::Refused(status) => write!(f, "it answered {status} to CONNECT {target}"),
            Why::Late(Deadline { length, limit, .. }) => {
                write!(f, "it gave no answer to CONNECT {target} within {length:?} ({limit})")
            }
            Why::Closed => write!(f, "it closed the connection instead of an answer to CONNECT {target}"),
            Why::Broken(error) => write!(f, "the connection to it broke at CONNECT {target}: {error}"),
            Why::NoHttp(error) => write!(f, "its answer to CONNECT {target} cannot be read: {error}"),
            Why::Surplus => write!(f, "it sent more than an answer to CONNECT {target}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Direct(error) => Some(error),
            Self::Proxy(no) => match &no.why {
                Why::Unreached(error) => Some(error),
                Why::Broken(error) => Some(error),
                Why::NoHttp(error) => Some(error),
                _ => None,
            },
        }
    }
}

/// The error of a proxy on the way to this host and port.
pub fn failed(proxy: &Proxy, (host, port): (&str, u16), why: Why) -> Error {
    Error::Proxy(Box::new(NoTunnel {
        proxy: proxy.to_string(),
        from: proxy.from.clone(),
        target: authority(host, port),
        has_login: proxy.has_login(),
        why,
    }))
}

/// Connects to this host and port, through the proxy if there is one.
pub fn connect(proxy: Option<&Proxy>, (host, port): (&str, u16), deadline: Deadline) -> Result<TcpStream, Error> {
    let Some(proxy) = proxy else { return names::OWN.connect(host, port, deadline).map_err(Error::Direct) };
    let reached = names::OWN.connect(&proxy.host, proxy.port, deadline);
    let tcp = reached.map_err(|error| failed(proxy, (host, port), Why::Unreached(error)))?;
    tunnel(tcp, proxy, (host, port), deadline)
}

/// Asks the proxy at the other end of `tcp` for a tunnel to this host and port.
pub fn tunnel(tcp: TcpStream, proxy: &Proxy, target: (&str, u16), deadline: Deadline) -> Result<TcpStream, Error> {
    let done = ask(&tcp, proxy.request(target.0, target.1).expose().as_bytes(), deadline)
        .and_then(|()| tcp.set_read_timeout(None).and_then(|()| tcp.set_write_timeout(None)).map_err(Why::Broken));
    match done {
        Ok(()) => Ok(tcp),
        Err(why) => Err(failed(proxy, target, why)),
    }
}

/// Sends the request and reads the answer's head, and nothing after it.
fn ask(mut tcp: &TcpStream, request: &[u8], deadline: Deadline) -> Result<(), Why> {
    let left = || deadline.left().map(|left| Some(left.max(limits::SOCKET_WAIT_LEAST))).ok_or(Why::Late(deadline));
    let mut rest = request;
    while !rest.is_empty() {
        tcp.set_write_timeout(left()?).map_err(Why::Broken)?;
        match tcp.write(rest) {
            Ok(0) => return Err(Why::Closed),
            Ok(count) => rest = &rest[count..],
            Err(error) if again(&error) => {}
            Err(error) => return Err(Why::Broken(error)),
        }
    }
    let (mut head, mut chunk) = (Vec::new(), [0; 1024]);
    loop {
        pulse::touch();
        tcp.set_read_timeout(left()?).map_err(Why::Broken)?;
        match tcp.read(&mut chunk) {
            Ok(0) => return Err(Why::Closed),
            Ok(count) => head.extend_from_slice(&chunk[..count]),
            Err(error) if again(&error) => continue,
            Err(error) => return Err(Why::Broken(error)),
        }
        match http1::parse_response(&head).map_err(Why::NoHttp)? {
            None => {}
            Some((answer, _)) if !(200..300).contains(&answer.status) => return Err(Why::Refused(answer.status)),
            Some((_, length)) if length < head.len() => return Err(Why::Surplus),
            Some(_) => return Ok(()),
        }
    }
}

/// Whether a bounded read or write must be repeated; the deadline says whether there is time.
fn again(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::os::threads;

    /// What a proxy with this answer, in these pieces, makes of a request for a tunnel; and the request that it saw.
    fn tried(login: &str, pieces: &'static [&'static str], closes: bool) -> (Result<String, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, seen) = std::sync::mpsc::channel();
        let server = threads::spawn("t-proxy", move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                head.push(byte[0]);
            }
            let _ = sender.send(String::from_utf8_lossy(&head).into_owned());
            for piece in pieces {
                let _ = stream.write_all(piece.as_bytes());
                std::thread::sleep(Duration::from_millis(5));
            }
            if closes {
                let _ = stream.shutdown(Shutdown::Both);
            } else {
                // Until the client has gone.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let _ = stream.read(&mut byte);
            }
        });
        let proxy = Proxy::parse(&format!("http://{login}{address}"), "HTTPS_PROXY").expect("a proxy");
        let deadline = Deadline::after(Duration::from_millis(400), "the test's limit");
        let begun = Instant::now();
        let made = connect(Some(&proxy), ("backend.invalid", 5001), deadline);
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        let said =
            made.map(|_| "a tunnel".to_owned()).map_err(|error| format!("{error}; {}", error.advice("api.endpoint")));
        server.expect("a thread").join_within(Duration::from_secs(10));
        (said, seen.recv().unwrap_or_default())
    }

    #[test]
    fn a_tunnel_is_asked_for_by_name_and_with_the_login() {
        let (made, seen) = tried("me:hunter2@", &["HTTP/1.1 200 OK\r\n", "Via: x\r\n\r\n"], false);
        assert_eq!(made.expect("a tunnel"), "a tunnel");
        assert!(seen.starts_with("CONNECT backend.invalid:5001 HTTP/1.1\r\nHost: backend.invalid:5001\r\n"), "{seen}");
        assert!(seen.contains("Proxy-Authorization: Basic bWU6aHVudGVyMg==\r\n"), "{seen}");
    }

    #[test]
    fn each_bad_answer_says_what_was_tried_and_what_to_do() {
        const LONG: &str =
            "X: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n";
        static MANY: [&str; 200] = [LONG; 200];
        for (login, pieces, closes, words) in [
            ("", &["HTTP/1.1 407 No\r\n\r\n"][..], false, ["407", "wants a user and a password"]),
            (
                "me:hunter2@",
                &["HTTP/1.1 407 No\r\n\r\n"],
                false,
                ["407", "check the user and the password in HTTPS_PROXY"],
            ),
            ("", &["HTTP/1.0 403 Filtered\r\n\r\n"], false, ["403", "allow CONNECT to backend.invalid:5001"]),
            ("", &["HTTP/1.1 502 Bad\r\n\r\n"], false, ["502", "whether it reaches backend.invalid:5001"]),
            ("", &["HTTP/1.1 100 Continue\r\n\r\n"], false, ["100", "is an HTTP proxy"]),
            ("", &["HTTP/1.1 200 OK\r\n\r\nhunted"], false, ["more than an answer", "is an HTTP proxy"]),
            ("", &["SSH-2.0-OpenSSH_9.2\r\n"], false, ["no HTTP/1.x status line", "is an HTTP proxy"]),
            ("", &["HTTP/1.1 20"], true, ["closed the connection", "its log"]),
            ("", &[], true, ["closed the connection", "its log"]),
            ("", &["HTTP/1.1 200 OK\r\n", "X: y\r\n"], false, ["within 400ms (the test's limit)", "its log"]),
            ("", &["HTTP/1.1 200 OK\r\n"], false, ["no answer to CONNECT", "its log"]),
        ] {
            let said = tried(login, pieces, closes).0.expect_err(words[0]);
            for word in
                words.iter().chain(&["through the proxy http://", "(HTTPS_PROXY)", "CONNECT backend.invalid:5001"])
            {
                assert!(said.contains(word), "{word}: {said}");
            }
            assert!(!said.contains("hunter2") && !said.contains("bWU6"), "{said}");
        }
        let head = tried("", &["HTTP/1.1 200 OK\r\n", LONG], true).0.expect_err("cut");
        assert!(head.contains("closed the connection"), "{head}");
        let endless = tried("", &MANY, false).0.expect_err("too much");
        assert!(endless.contains("cannot be read") || endless.contains("within 400ms"), "{endless}");
    }

    #[test]
    fn a_proxy_that_is_not_there_is_named() {
        let proxy = Proxy::parse("http://me:hunter2@127.0.0.1:1", "api.proxy").expect("a proxy");
        let deadline = Deadline::after(Duration::from_secs(5), "the test's limit");
        let error = connect(Some(&proxy), ("backend.invalid", 443), deadline).expect_err("nobody listens");
        let said = format!("{error}; {}", error.advice("api.endpoint"));
        for word in ["http://***@127.0.0.1:1 (api.proxy)", "out of reach", "refused", "set api.proxy to none"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!said.contains("hunter2") && !error.is_late());
    }
}

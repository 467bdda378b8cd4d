//! The Unix socket and the command line's side of it: what is answered, and clients that mean no good.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ask::{AskError, ask};
use super::socket::UNFINISHED;
use super::*;
use crate::limits;
use crate::os::local::PATH_MAX;
use crate::os::net::tests::Frozen;
use crate::os::scratch::Scratch;
use crate::os::threads::{self, Ended};

fn pages() -> Vec<Page> {
    vec![
        Page::get("/status", |asked| json(200, format!(r#"{{"by":"{}"}}"#, asked.who()))),
        Page::post("/jobs/*/cancel", |asked| refusal(404, &format!("no job {}", asked.part))),
    ]
}

fn serve(dir: &Path) -> Server {
    start_control(dir, pages()).expect("start")
}

fn status(dir: &Path) -> Result<(String, Value), AskError> {
    ask(dir, "GET /status")
}

fn end(server: Server) {
    assert_eq!(server.stop(Duration::from_secs(5)), Ended::Returned);
}

/// Everything that the agent says to these bytes, read to the end of the connection.
fn talk(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).expect("connect");
    // A request that is too long is answered before all of it is taken.
    let _ = stream.write_all(bytes);
    read_all(&mut stream)
}

fn read_all(stream: &mut UnixStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8(text).expect("text"),
    }
}

#[test]
fn a_silent_client_keeps_nobody_out() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    let mut silent: Vec<_> = (0..3 * limits::HEALTH_CONNECTIONS)
        .map(|n| {
            let mut stream = UnixStream::connect(scratch.join(SOCKET)).expect("connect");
            // Some say half a request.
            if n % 2 == 0 {
                stream.write_all(b"GET /sta").expect("write");
            }
            stream
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..10 {
        status(&scratch).expect("an answer");
    }
    assert!(begun.elapsed() < limits::HEALTH_DEADLINE, "{:?}", begun.elapsed());
    // The oldest was closed for the others. A later one gets an answer when its time is over, or is closed if it said
    // nothing.
    assert_eq!(read_all(&mut silent[0]), "");
    let mut fresh = UnixStream::connect(scratch.join(SOCKET)).expect("connect");
    let mut half = UnixStream::connect(scratch.join(SOCKET)).expect("connect");
    half.write_all(b"GET /sta").expect("write");
    assert!(read_all(&mut half).starts_with("HTTP/1.1 408 "));
    assert_eq!(read_all(&mut fresh), "");
    end(server);
}

#[test]
fn two_clients_are_served_at_once_in_any_order() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    let mut first = UnixStream::connect(scratch.join(SOCKET)).expect("connect");
    let mut second = UnixStream::connect(scratch.join(SOCKET)).expect("connect");
    first.write_all(b"GET /sta").expect("write");
    second.write_all(b"GET /status HTTP/1.1\r\n\r\n").expect("write");
    assert!(read_all(&mut second).starts_with("HTTP/1.1 200 OK\r\n"));
    first.write_all(b"tus HTTP/1.0\n\n").expect("write");
    let text = read_all(&mut first);
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("}"), "{text}");
    end(server);
}

#[test]
fn garbage_and_floods_are_answered_and_harm_nothing() {
    let scratch = Scratch::new();
    let (server, path) = (serve(&scratch), scratch.join(SOCKET));
    let own = crate::os::local::own_uid().expect("own");
    for (bytes, told) in [
        (&b"\n"[..], "HTTP/1.1 400 "),
        (b"\xff\xfe\0\n", "HTTP/1.1 400 "),
        (b"[1,2]\n", "HTTP/1.1 400 "),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
        (b"GET /live HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
        (b"GET /jobs/a/cancel HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
        (b"POST /status HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
        (b"POST /jobs/a/cancel HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", "HTTP/1.1 404 "),
    ] {
        let text = talk(&path, bytes);
        assert!(text.starts_with(told), "{bytes:?}: {text}");
    }
    for size in [limits::HEALTH_HEAD + 1, 10 << 20] {
        assert!(talk(&path, &vec![b'x'; size]).starts_with("HTTP/1.1 431 "), "{size}");
    }
    assert_eq!(status(&scratch).expect("an answer").1["by"], format!("user {own}"));
    end(server);
}

#[test]
fn only_the_agents_user_and_root_are_let_in() {
    let scratch = Scratch::new();
    let mut socket = socket::listen(&scratch).expect("listen");
    let own = socket.own;
    socket.own = 990;
    assert!(socket.lets_in(990) && socket.lets_in(0) && !socket.lets_in(1000) && !socket.lets_in(u32::MAX));
    socket.own = 0;
    assert!(socket.lets_in(0) && !socket.lets_in(1000));
    socket.own = own;
}

#[test]
fn commands_and_agents_of_two_versions_say_so_at_once() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    let begun = Instant::now();
    // The command of version 0.1 keeps its side open, and reads one line.
    let mut old = UnixStream::connect(scratch.join(SOCKET)).expect("connect");
    old.write_all(b"{\"command\":\"status\"}\n").expect("write");
    let answer: Value = serde_json::from_str(&read_all(&mut old)).expect("JSON");
    assert_eq!(answer["ok"], false);
    assert!(answer["error"].as_str().is_some_and(|why| why.contains("older than the agent")), "{answer}");
    end(server);

    let listener = UnixListener::bind(scratch.join(SOCKET)).expect("bind");
    let thread = threads::spawn("t-old-agent", move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut request = [0; 1024];
        let n = stream.read(&mut request).expect("a request");
        assert!(request[..n].starts_with(b"GET /status HTTP/1.1\r\n"));
        stream.write_all(b"{\"ok\":false,\"error\":\"no request that this agent understands\"}\n").expect("write");
    })
    .expect("a thread");
    let error = status(&scratch).expect_err("an old agent").to_string();
    assert!(error.contains("of another version than this command") && error.contains("restart it"), "{error}");
    thread.join_within(Duration::from_secs(10));
    assert!(begun.elapsed() < limits::HEALTH_DEADLINE, "{:?}", begun.elapsed());
}

#[test]
fn the_socket_is_private_and_a_dead_agents_is_replaced() {
    let scratch = Scratch::new();
    let path = scratch.join(SOCKET);
    // Nobody listens there any more, as after a kill.
    drop(UnixListener::bind(&path).expect("bind"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("mode");
    fs::write(scratch.join(UNFINISHED), "half").expect("write");
    let server = serve(&scratch);
    assert_eq!(fs::symlink_metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    status(&scratch).expect("an answer");
    let second = start_control(&scratch, pages()).expect_err("in use");
    assert!(matches!(&second, Error::InUse(at) if *at == path), "{second}");
    status(&scratch).expect("the first still answers");
    end(server);
    assert_eq!(fs::read_dir(&scratch).expect("list").count(), 0, "something was left behind");
}

#[test]
fn a_socket_that_another_put_in_its_place_is_left_alone() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    fs::remove_file(scratch.join(SOCKET)).expect("remove");
    let other = UnixListener::bind(scratch.join(SOCKET)).expect("bind");
    end(server);
    assert!(scratch.join(SOCKET).exists());
    drop(other);
}

#[test]
fn what_stands_in_the_way_is_told() {
    let scratch = Scratch::new();
    let path = scratch.join(SOCKET);
    match status(&scratch) {
        Err(error @ AskError::NoAgent { .. }) => {
            let text = error.to_string();
            assert!(text.contains(path.to_str().expect("text")) && text.contains("systemctl start"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    fs::write(&path, "mine").expect("write");
    let error = start_control(&scratch, pages()).expect_err("a file");
    assert!(matches!(&error, Error::NoSocket(_)), "{error}");
    assert_eq!(fs::read(&path).expect("read"), b"mine");

    let deep = scratch.join("d".repeat(PATH_MAX));
    fs::create_dir(&deep).expect("a folder");
    let error = start_control(&deep, pages()).expect_err("too long").to_string();
    let bytes = deep.join(SOCKET).as_os_str().len();
    assert!(error.contains(&format!("has {bytes} bytes, the kernel takes 107")), "{error}");
    assert!(matches!(status(&deep), Err(AskError::TooLong(_))));
    assert!(matches!(start_control(Path::new("/no/such"), pages()), Err(Error::Socket { .. })));
    // The longest that fits.
    let tail = PATH_MAX - scratch.as_os_str().len() - SOCKET.len() - 2;
    let fits = scratch.join("e".repeat(tail));
    fs::create_dir(&fits).expect("a folder");
    let server = serve(&fits);
    status(&fits).expect("an answer");
    end(server);
}

#[test]
fn an_agent_that_says_nothing_or_nonsense_is_named() {
    let scratch = Scratch::new();
    let listener = UnixListener::bind(scratch.join(SOCKET)).expect("bind");
    let endless = Arc::new(AtomicUsize::new(0));
    let written = Arc::clone(&endless);
    let said = [
        &b""[..],
        b"{}\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xff",
    ];
    let thread = threads::spawn("t-nonsense", move || {
        for bytes in said {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.write_all(bytes).expect("write");
        }
        // Endless.
        let (mut stream, _) = listener.accept().expect("accept");
        while stream.write_all(&[b' '; 4096]).is_ok() {
            written.fetch_add(4096, Ordering::Relaxed);
        }
        let silent = listener.accept().expect("accept");
        std::thread::sleep(limits::CONTROL_WAIT + Duration::from_secs(1));
        drop(silent);
    })
    .expect("a thread");
    for bytes in said {
        let error = status(&scratch).expect_err("nonsense");
        assert!(matches!(&error, AskError::Broken { .. }), "{bytes:?}: {error:?}");
    }
    let error = status(&scratch).expect_err("endless").to_string();
    assert!(error.contains("more than 4194304 bytes"), "{error}");
    // What was not read is in the kernel's buffers.
    let written = endless.load(Ordering::Relaxed);
    assert!(written < limits::CONTROL_ANSWER + (1 << 20), "{written}");
    let begun = Instant::now();
    let error = status(&scratch).expect_err("silent");
    assert!(matches!(error, AskError::Silent { .. }), "{error:?}");
    assert!(begun.elapsed() < limits::CONTROL_WAIT + Duration::from_millis(900), "{:?}", begun.elapsed());
    thread.join_within(Duration::from_secs(10));
}

#[test]
fn an_agent_that_takes_no_connection_is_silent_and_its_socket_is_in_use() {
    let scratch = Scratch::new();
    let frozen = Frozen::listen_at(scratch.join(SOCKET));
    let begun = Instant::now();
    let error = status(&scratch).expect_err("nobody takes it");
    assert!(matches!(error, AskError::Silent { .. }) && error.to_string().contains("limits::CONTROL_WAIT"), "{error}");
    let error = start_control(&scratch, pages()).err();
    assert!(matches!(error, Some(Error::InUse(_))), "{error:?}");
    assert!(begun.elapsed() < limits::CONTROL_WAIT * 3, "{:?}", begun.elapsed());
    drop(frozen);
}

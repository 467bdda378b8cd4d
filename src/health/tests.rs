//! The server over real sockets, with clients that are slow, rude and many.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::listener::{Listener, Socket};
use super::start::probes;
use super::*;
use crate::config::types::Monitoring;
use crate::os::threads::Ended;
use crate::{limits, os::proc};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn server() -> (Server, SocketAddr) {
    let (server, addresses) =
        served(&Monitoring { enabled: true, bind_address: LOCAL, health_port: 0, metrics_port: 0, page: true });
    (server, addresses[0])
}

/// The server of such a configuration, and where it listens.
fn served(config: &Monitoring) -> (Server, Vec<SocketAddr>) {
    let listeners = probes(config, &Arc::new(HealthState::new()), &Shown::default()).expect("listeners");
    let address = |listener: &Listener| match &listener.socket {
        Socket::Tcp(socket) => socket.local_addr().expect("address"),
        Socket::Unix(_) | Socket::Open(_) => panic!("a Unix socket"),
    };
    let addresses = listeners.iter().map(address).collect();
    (Server::start("health", listeners).expect("start"), addresses)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("timeout");
    stream
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).expect("write");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    text
}

fn alive(address: SocketAddr) {
    let begun = Instant::now();
    let text = ask(address, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with(r#"{"status":"alive"}"#), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

fn end(server: Server) {
    assert_eq!(server.stop(Duration::from_secs(5)), Ended::Returned);
}

/// Runs the test `name` again in a separate process, where no other test's memory and threads are counted; true in
/// that process.
fn alone(name: &str) -> bool {
    const MARK: &str = "CRONIUM_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let run = std::process::Command::new(std::env::current_exe().expect("self"))
        .args(["--exact", &format!("health::tests::{name}"), "--nocapture"])
        .env(MARK, "1")
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&run.stderr));
    false
}

fn resident() -> u64 {
    proc::read().resident_bytes.expect("rss")
}

#[test]
fn half_a_request_delays_nobody_and_is_told_so() {
    let (server, address) = server();
    let mut half = connect(address);
    half.write_all(b"GET /live HT").expect("write");
    alive(address);
    let begun = Instant::now();
    let mut text = String::new();
    half.read_to_string(&mut text).expect("read");
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    assert!(begun.elapsed() < limits::HEALTH_DEADLINE + Duration::from_secs(2));
    // A request in pieces is a request.
    let mut pieces = connect(address);
    for piece in ["GET /li", "ve HTTP/1.1\r", "\nHost: x\r\n\r", "\n"] {
        pieces.write_all(piece.as_bytes()).expect("write");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut text = String::new();
    pieces.read_to_string(&mut text).expect("read");
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    end(server);
}

#[test]
fn ten_megabytes_of_header_cost_nothing() {
    if !alone("ten_megabytes_of_header_cost_nothing") {
        return;
    }
    let (server, address) = server();
    alive(address);
    let line = format!("X-Filler: {}\r\n", "x".repeat(1000)).repeat(64);
    let before = resident();
    for _ in 0..3 {
        let mut stream = connect(address);
        let mut sent = 0;
        stream.write_all(b"GET /live HTTP/1.1\r\n").expect("write");
        // It is cut off on the way.
        while sent < 10 * 1024 * 1024 {
            match stream.write(line.as_bytes()) {
                Ok(n) => sent += n,
                Err(_) => break,
            }
        }
        assert!(sent < 10 * 1024 * 1024, "all of it was taken");
    }
    let grown = resident().saturating_sub(before);
    alive(address);
    assert!(grown < 1024 * 1024, "grew by {grown} bytes");
    // A head a little too long is answered.
    let text = ask(address, &format!("GET /live HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(limits::HEALTH_HEAD)));
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    end(server);
}

#[test]
fn a_thousand_silent_clients_keep_nobody_out() {
    if !alone("a_thousand_silent_clients_keep_nobody_out") {
        return;
    }
    let (server, address) = server();
    alive(address);
    let (threads, before) = (proc::read().threads.expect("threads"), resident());
    let fds = |address: SocketAddr| {
        let text = std::fs::read_to_string("/proc/self/net/tcp").expect("tcp");
        let local = format!("0100007F:{:04X}", address.port());
        // Established, on our side of the connection.
        text.lines().filter(|l| l.split_whitespace().nth(1) == Some(&local) && l.contains(" 01 ")).count()
    };
    for round in 0..5 {
        let idle: Vec<TcpStream> = (0..200).map(|_| connect(address)).collect();
        alive(address);
        assert!(fds(address) <= limits::HEALTH_CONNECTIONS + 1, "round {round}: {}", fds(address));
        drop(idle);
    }
    alive(address);
    assert_eq!(proc::read().threads, Some(threads));
    let grown = resident().saturating_sub(before);
    assert!(grown < 1024 * 1024, "grew by {grown} bytes");
    end(server);
}

#[test]
fn clients_that_do_not_read_their_answer_keep_nobody_out() {
    let (server, address) = server();
    let slow: Vec<TcpStream> = (0..limits::HEALTH_CONNECTIONS)
        .map(|_| {
            let mut stream = connect(address);
            stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("write");
            stream
        })
        .collect();
    alive(address);
    drop(slow);
    end(server);
}

#[test]
fn pipelining_gets_one_answer_and_head_gets_no_body() {
    let (server, address) = server();
    let text = ask(address, &"GET /live HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20));
    assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
    assert!(text.contains("\r\nConnection: close\r\n"));
    let text = ask(address, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\n"), "{text}");
    let text = ask(address, "POST /live HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
    assert!(text.starts_with("HTTP/1.1 405 ") && text.contains("\r\nAllow: GET, HEAD\r\n"), "{text}");
    let text = ask(address, "GET /nope HTTP/1.1\r\n\r\n");
    assert!(text.starts_with("HTTP/1.1 404 ") && text.contains("/health, /ready, /live, /metrics"), "{text}");
    // A client that closes its side first still gets its answer.
    let mut stream = connect(address);
    stream.write_all(b"GET /live HTTP/1.0\r\n\r\n").expect("write");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    assert!(text.starts_with("HTTP/1.0 200 "), "{text}");
    end(server);
}

#[test]
fn two_ports_and_a_port_that_is_taken() {
    let (taken, address) = server();
    let free = std::net::TcpListener::bind((LOCAL, 0)).and_then(|l| l.local_addr()).expect("free port").port();
    let config = Monitoring { enabled: true, bind_address: LOCAL, health_port: 0, metrics_port: free, page: true };
    let (server, addresses) = served(&config);
    let [health, metrics] = addresses.as_slice() else { panic!("two addresses") };
    alive(*health);
    assert!(ask(*health, "GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
    let text = ask(*metrics, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("text/plain; version=0.0.4"), "{text}");
    assert!(ask(*metrics, "GET /live HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    end(server);

    let config = Monitoring { metrics_port: address.port(), ..config };
    let error = start(&config, &Arc::new(HealthState::new()), &Shown::default()).expect_err("taken").to_string();
    let begin = format!("cannot listen on {address} (monitoring.metricsPort): ");
    assert!(error.starts_with(&begin) && error.ends_with("set monitoring.metricsPort"), "{error}");
    end(taken);

    let off = Monitoring { enabled: false, ..config };
    assert!(start(&off, &Arc::new(HealthState::new()), &Shown::default()).expect("off").is_none());
}

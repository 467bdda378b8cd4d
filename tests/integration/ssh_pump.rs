//! The connections through a jump host, without an agent around them: no server holds up another, and what a server sends that
//! nobody takes, or does not take, waits outside of the agent but for a bounded part.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cronium_agent::limits;
use cronium_agent::parts::{Connection, Dial, Hosts, Progress, Pump, Secret, Server, Times, defaults};

use crate::harness::{eventually, shared};
use crate::sshd::{Options, Sshd};

const STEP: Duration = Duration::from_secs(10);

fn server(sshd: &Sshd) -> Server {
    Server {
        id: None,
        name: "bastion".to_owned(),
        host: sshd.host.clone(),
        port: sshd.port,
        user: sshd.user.clone(),
        private_key: Some(Secret::new(sshd.key.text.as_str())),
        certificate: None,
        passphrase: None,
        password: None,
        jump: None,
    }
}

/// A connection to this jump host, with the thread that serves it.
fn connect(sshd: &Sshd, step: Duration, idle: Duration) -> (Arc<Connection>, JoinHandle<()>) {
    let mut settings = defaults().ssh;
    settings.known_hosts_file = sshd.path("known_hosts");
    std::fs::write(&settings.known_hosts_file, sshd.known_hosts()).expect("known_hosts");
    let server = server(sshd);
    let (hosts, progress) = (Hosts::new(&settings), Mutex::new(Progress::new()));
    let (tell, told) = crossbeam_channel::bounded(1);
    // The session stays on the thread that made it.
    let thread = std::thread::spawn(move || {
        let dial =
            Dial { server: &server, settings: &settings, row: None, hosts: &hosts, progress: &progress, way: None };
        let reached = dial.reach().map_err(|error| error.to_string()).expect("a connection");
        let times = Times { step, check: Duration::from_secs(60), idle, close: limits::SSH_CLOSE };
        let made = Pump::new(server.shown(), reached.session, reached.socket, reached.host_key, times);
        let (connection, pump) = made.expect("a connection");
        tell.send(connection).expect("somebody waits");
        pump.run();
    });
    (told.recv().expect("a connection"), thread)
}

/// The connection to this port of the jump host's own host.
fn way_to(connection: &Arc<Connection>, port: u16) -> TcpStream {
    connection.take_seat().expect("a seat");
    let to = Server { host: "127.0.0.1".to_owned(), port, ..nobody() };
    connection.forward(&to, Instant::now() + STEP).map_err(|error| error.to_string()).expect("a way")
}

fn nobody() -> Server {
    let (id, private_key, passphrase, password, jump) = (None, None, None, None, None);
    let (name, host, user) = ("web-1".to_owned(), String::new(), String::new());
    Server { id, name, host, port: 1, user, private_key, certificate: None, passphrase, password, jump }
}

/// A host that does this with its only connection.
fn host(act: impl FnOnce(TcpStream) + Send + 'static) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let thread = std::thread::spawn(move || act(listener.accept().expect("a connection").0));
    (port, thread)
}

/// A host that sends back what it gets.
fn echo(mut peer: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = peer.read(&mut buffer) {
        if count == 0 || peer.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// How long a few bytes take there and back.
fn there_and_back(way: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    way.write_all(b"ping\n").expect("write");
    let mut answer = [0; 5];
    way.set_read_timeout(Some(STEP)).expect("a limit");
    way.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"ping\n");
    begun.elapsed()
}

fn end(connection: &Arc<Connection>, thread: JoinHandle<()>) {
    connection.close();
    eventually("its thread ends", || thread.is_finished());
    assert_eq!(connection.why().map(|error| error.to_string()), None);
    thread.join().expect("no panic");
}

/// Waits until the figure stands still; returns it.
fn stands_still(figure: &AtomicUsize) -> usize {
    let mut last = (0, Instant::now());
    eventually("it stands still", || {
        let now = figure.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        now > 0 && last.1.elapsed() > Duration::from_secs(1)
    });
    last.0
}

#[test]
fn a_server_that_floods_or_takes_nothing_holds_up_no_other_and_a_bounded_part() {
    let _machine = shared();
    let sshd = Sshd::start(&Options::default());
    let (connection, thread) = connect(&sshd, STEP, Duration::from_secs(60));
    let (sent, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // One floods, and nobody reads it.
    let count = Arc::clone(&sent);
    let (flooder, flood) = host(move |mut peer| {
        let piece = vec![b'x'; 64 * 1024];
        while let Ok(count_now) = peer.write(&piece) {
            count.fetch_add(count_now, Ordering::SeqCst);
        }
    });
    let unread = way_to(&connection, flooder);
    // Another one takes nothing.
    let halt = Arc::clone(&stop);
    let (deaf, silent) = host(move |peer| {
        while halt.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(peer);
    });
    let mut untaken = way_to(&connection, deaf);
    untaken.set_nonblocking(true).expect("mode");
    let (piece, mut written) = (vec![b'y'; 64 * 1024], 0);
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_secs(1) {
        match untaken.write(&piece) {
            Ok(count) => (written, last) = (written + count, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => panic!("{error} after {written} bytes"),
        }
    }
    let flooded = stands_still(&sent);
    eprintln!("{flooded} bytes came of a server that nobody reads, {written} went to one that takes nothing");
    // The channel's window of 2 MiB, and the buffers of the kernel on the two or three sockets of the way.
    assert!(flooded < 16 << 20, "{flooded}");
    assert!(written < 16 << 20, "{written}");

    let (port, peer) = host(echo);
    let mut way = way_to(&connection, port);
    let slowest = (0..50).map(|_| there_and_back(&mut way)).max().expect("some");
    assert!(slowest < Duration::from_secs(1), "{slowest:?} beside servers that are stuck");
    drop(way);
    stop.store(1, Ordering::SeqCst);
    drop((unread, untaken));
    for thread in [flood, silent, peer] {
        thread.join().expect("it ends");
    }
    end(&connection, thread);
    assert_eq!(sshd.logins(), 1);
}

#[test]
fn bytes_arrive_in_order_in_both_directions_at_once_and_the_end_after_them() {
    let _machine = shared();
    // New keys are agreed on in the middle of it, several times.
    let sshd = Sshd::with_config(&["RekeyLimit 4M"]);
    let (connection, thread) = connect(&sshd, STEP, Duration::from_secs(60));
    let ways: Vec<_> = (0..3)
        .map(|_| {
            let (port, peer) = host(echo);
            (way_to(&connection, port), peer)
        })
        .collect();
    let begun = Instant::now();
    let (amount, count) = (12 << 20, ways.len());
    let transfers = (1..).zip(ways).map(|(number, (way, peer)): (u8, _)| {
        std::thread::spawn(move || {
            let byte = move |at: usize| u8::try_from(at % 251).expect("a byte") ^ number;
            let mut writer = way.try_clone().expect("clone");
            let sender = std::thread::spawn(move || {
                let bytes: Vec<u8> = (0..amount).map(byte).collect();
                writer.write_all(&bytes).expect("written");
            });
            let mut reader = way;
            let mut bytes = vec![0; amount];
            reader.read_exact(&mut bytes).expect("all of it");
            assert!(bytes.iter().enumerate().all(|(at, got)| *got == byte(at)), "bytes were changed");
            sender.join().expect("the sender");
            // Both ends go.
            reader.shutdown(Shutdown::Both).expect("shutdown");
            drop(reader);
            peer.join().expect("the server saw the end");
        })
    });
    for transfer in transfers.collect::<Vec<_>>() {
        transfer.join().expect("there and back");
    }
    let took = begun.elapsed();
    eprintln!("{count} times {} MiB there and back in {took:.1?}", amount >> 20);
    // A server that ends is seen to have ended, after its last bytes.
    let (port, peer) = host(|mut peer| peer.write_all(&vec![b'z'; 1 << 20]).expect("written"));
    let mut way = way_to(&connection, port);
    let mut all = Vec::new();
    way.read_to_end(&mut all).expect("the end");
    assert_eq!(all.len(), 1 << 20);
    drop(way);
    peer.join().expect("it ends");
    end(&connection, thread);
}

#[test]
fn a_server_that_does_not_answer_is_given_up_and_what_is_open_goes_on() {
    let _machine = shared();
    let sshd = Sshd::start_in_netns();
    let (step, short) = (STEP, Duration::from_secs(3));
    let (connection, thread) = connect(&sshd, step, Duration::from_secs(60));
    // It swallows packets: a network that leads nowhere.
    let network = sshd.network.as_ref().expect("a network");
    let dead = network.inner_dead_address();
    let (port, peer) = host_at(&network.host(), echo);
    connection.take_seat().expect("a seat");
    let to = Server { host: network.host(), port, ..nobody() };
    let mut way = connection.forward(&to, Instant::now() + step).map_err(|error| error.to_string()).expect("a way");
    connection.take_seat().expect("a seat");
    let begun = Instant::now();
    let asked = Arc::clone(&connection);
    let asker = std::thread::spawn(move || {
        let to = Server { host: dead, ..nobody() };
        asked.forward(&to, Instant::now() + short).expect_err("nobody answers").to_string()
    });
    while !asker.is_finished() {
        assert!(there_and_back(&mut way) < Duration::from_secs(1));
        if begun.elapsed() > Duration::from_millis(2500) {
            assert_eq!(connection.take_seat(), None, "others go over another connection meanwhile");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let said = asker.join().expect("an answer");
    assert!(said.contains("had no answer from it") && said.contains("web-1"), "{said}");
    assert!((short..short * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(connection.is_closed());
    assert!(there_and_back(&mut way) < Duration::from_secs(1), "it goes on");
    drop(way);
    peer.join().expect("it ends");
    eventually("the thread ends with its last server", || thread.is_finished());
    thread.join().expect("no panic");
}

/// See [`host`]; at this address.
fn host_at(address: &str, act: impl FnOnce(TcpStream) + Send + 'static) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind((address, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let thread = std::thread::spawn(move || act(listener.accept().expect("a connection").0));
    (port, thread)
}

#[test]
fn a_jump_host_that_hangs_is_given_up_before_the_limit_of_a_step_and_one_that_idles_in_its_time() {
    let _machine = shared();
    let sshd = Sshd::start(&Options::default());
    let (connection, thread) = connect(&sshd, Duration::from_secs(4), Duration::from_secs(60));
    let (port, peer) = host(echo);
    let mut way = way_to(&connection, port);
    there_and_back(&mut way);
    sshd.freeze();
    let begun = Instant::now();
    way.write_all(b"anybody there?").expect("write");
    assert_eq!(way.read(&mut [0; 1]).ok(), Some(0), "the end");
    let took = begun.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&took), "{took:?}");
    let why = connection.why().expect("a reason").to_string();
    assert!(why.contains("bastion") && why.contains("connectionTimeout"), "{why}");
    eventually("its thread ends", || thread.is_finished());
    sshd.thaw();
    peer.join().expect("it ends");

    let (connection, thread) = connect(&sshd, STEP, Duration::from_secs(1));
    let (port, peer) = host(echo);
    there_and_back(&mut way_to(&connection, port));
    peer.join().expect("it ends");
    let begun = Instant::now();
    eventually("an idle connection ends", || thread.is_finished());
    assert!((Duration::from_millis(700)..Duration::from_secs(4)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(connection.is_closed() && connection.why().is_none());
}

//! Connects to listeners that accept nothing, addresses that swallow packets, and those that answer (tests only).

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::os::{scratch::Scratch, threads};

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);

fn within(length: Duration) -> Deadline {
    Deadline::after(length, "the test's limit")
}

/// A Unix socket whose listener accepts nothing, and whose queue is full.
pub(crate) struct Frozen {
    path: PathBuf,
    listener: UnixListener,
    queued: Vec<UnixStream>,
    folder: Option<Scratch>,
}

impl Frozen {
    pub(crate) fn listen() -> Self {
        let folder = Scratch::new();
        let mut frozen = Self::listen_at(folder.join("frozen.sock"));
        frozen.folder = Some(folder);
        frozen
    }

    pub(crate) fn listen_at(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).expect("a socket");
        // SAFETY: takes two numbers; the descriptor is open.
        let shortened = unsafe { libc::listen(listener.as_raw_fd(), 1) };
        assert_eq!(shortened, 0);
        let mut queued = Vec::new();
        while let Ok(stream) = unix(&path, within(Duration::from_millis(20))) {
            queued.push(stream);
            assert!(queued.len() < 10, "the queue never fills");
        }
        assert!(!queued.is_empty());
        Self { path, listener, queued, folder: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn a_listener_that_takes_nobody_is_given_up_in_time() {
    let frozen = Frozen::listen();
    let begun = Instant::now();
    let error = unix(frozen.path(), within(SHORT)).expect_err("its queue is full");
    assert!((SHORT..LONG / 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(error.is_late() && error.kind() == io::ErrorKind::TimedOut, "{error:?}");
    assert!(error.to_string().contains("within 300ms (the test's limit)"), "{error}");
    // No time at all is no time.
    assert!(unix(frozen.path(), within(Duration::ZERO)).expect_err("no time").is_late());
}

#[test]
fn a_listener_that_takes_somebody_after_a_while_is_reached_at_once() {
    let frozen = Frozen::listen();
    let listener = frozen.listener.try_clone().expect("a clone");
    let later = threads::spawn("t-accept", move || {
        std::thread::sleep(SHORT);
        drop(listener.accept().expect("a client"));
    });
    let begun = Instant::now();
    let socket = unix(frozen.path(), within(LONG)).expect("room");
    assert!((SHORT..LONG / 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // Its reads and writes have no limit unless one is set.
    assert_eq!(socket.write_timeout().expect("a socket"), None);
    later.expect("a thread").join_within(LONG);
    assert!(!frozen.queued.is_empty());
}

#[test]
fn paths_that_lead_nowhere_are_told() {
    let folder = Scratch::new();
    for (path, kind) in [
        (folder.join("none"), io::ErrorKind::NotFound),
        (folder.join("x".repeat(120)), io::ErrorKind::InvalidInput),
        (PathBuf::new(), io::ErrorKind::InvalidInput),
        (PathBuf::from("/tmp/a\0b"), io::ErrorKind::InvalidInput),
    ] {
        let error = unix(&path, within(LONG)).expect_err("no socket");
        assert!(error.kind() == kind && !error.is_late(), "{}: {error:?}", path.display());
    }
}

#[test]
fn the_longest_path_is_reached() {
    let folder = Scratch::new();
    let rest = crate::os::local::PATH_MAX - folder.as_os_str().len() - 1;
    let path = folder.join("s".repeat(rest));
    let listener = UnixListener::bind(&path).expect("a socket");
    unix(&path, within(LONG)).expect("reached");
    drop(listener);
}

/// An address of this host that accepts no connection, since its queue is full; and the sockets that fill it.
fn silent() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    // SAFETY: takes two numbers; the descriptor is open.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let mut full = Vec::new();
    while let Ok(stream) = connect(&[address], within(Duration::from_millis(50))) {
        full.push(stream);
        assert!(full.len() < 100, "the queue never fills");
    }
    (address, listener, full)
}

#[test]
fn an_address_that_does_not_answer_costs_a_moment() {
    let (dead, ..) = &silent();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let here = listener.local_addr().expect("an address");
    let begun = Instant::now();
    let tcp = connect(&[*dead, *dead, here], within(LONG)).expect("the third");
    let took = begun.elapsed();
    assert_eq!(tcp.peer_addr().expect("a peer"), here);
    assert!((limits::CONNECT_STAGGER * 2..limits::CONNECT_STAGGER * 8).contains(&took), "{took:?}");
    assert!(tcp.nodelay().expect("a socket"));
    // It blocks again: a read waits for its own timeout.
    tcp.set_read_timeout(Some(SHORT)).expect("a timeout");
    let begun = Instant::now();
    assert!(io::Read::read(&mut &tcp, &mut [0]).is_err() && begun.elapsed() >= SHORT / 2);
}

#[test]
fn an_address_that_refuses_costs_nothing() {
    // No listener is left there.
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let listener = TcpListener::bind("[::1]:0").expect("a port");
    let here = listener.local_addr().expect("an address");
    let begun = Instant::now();
    let tcp = connect(&[closed, closed, closed, here], within(LONG)).expect("the fourth");
    assert_eq!(tcp.peer_addr().expect("a peer"), here);
    assert!(begun.elapsed() < limits::CONNECT_STAGGER, "{:?}", begun.elapsed());
    let error = connect(&[closed, closed], within(LONG)).expect_err("nobody");
    assert!(error.kind() == io::ErrorKind::ConnectionRefused && !error.is_late(), "{error:?}");
    assert_eq!(error.to_string().matches(&closed.to_string()).count(), 2, "{error}");
}

#[test]
fn all_addresses_share_one_deadline_and_are_named() {
    let (dead, ..) = &silent();
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let begun = Instant::now();
    let error = connect(&[closed, *dead, *dead, *dead], within(SHORT)).expect_err("nobody");
    assert!((SHORT..SHORT * 5).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let said = error.to_string();
    assert!(error.is_late() && said.contains("within 300ms (the test's limit)"), "{said}");
    assert!(said.matches(&dead.to_string()).count() == 3 && said.contains(&format!("{closed}: ")), "{said}");
    assert!(connect(&[], within(SHORT)).expect_err("none").to_string().contains("no address"));
    assert!(connect(&[*dead], within(Duration::ZERO)).expect_err("no time").is_late());
}

#[test]
fn of_many_addresses_a_bounded_number_is_tried() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let error = connect(&vec![closed; limits::CONNECT_ADDRESSES + 9], within(LONG)).expect_err("nobody");
    assert!(matches!(&error, Error::Tcp(failed) if failed.len() == limits::CONNECT_ADDRESSES), "{error:?}");
}

#[test]
fn an_address_is_this_hosts_own_or_not() {
    for (address, own) in [("127.0.0.1", true), ("127.9.9.9", true), ("::1", true), ("203.0.113.77", false)] {
        assert_eq!(is_own(address.parse().expect("an address")), own, "{address}");
    }
}

#[test]
fn a_connection_that_nobody_waits_for_any_more_is_given_up() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    // Wanted at the first two looks alone.
    let wanted = || asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2;
    let begun = Instant::now();
    let (address, _listener, _queued) = silent();
    let error = connect_while(&[address], within(LONG), &wanted).expect_err("unwanted");
    assert!(matches!(error, Error::Unwanted) && begun.elapsed() < LONG / 2, "{error:?} after {:?}", begun.elapsed());
}

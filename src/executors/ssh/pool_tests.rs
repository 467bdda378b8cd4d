//! The pool's bounds: connections, logins at once, steps that outlast their limit, the end.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::executors::ssh::connection::tests::{idle, session};
use crate::policy::breaker;

fn pool() -> Pool {
    let config = crate::config::defaults();
    let timeout = Duration::from_secs(1);
    let settings = breaker::Settings {
        enabled: false,
        failure_threshold: 1,
        moment: Duration::ZERO,
        success_threshold: 1,
        timeout,
        half_open_requests: 1,
    };
    Pool::new(config.ssh, Breakers::new(settings))
}

fn key(host: &str) -> Key {
    Key { host: host.to_owned(), port: 22, ..Key::default() }
}

#[test]
fn connections_of_all_servers_are_bounded_and_idle_ones_make_room() {
    let ((unused, _one), (used, _other)) = (idle(), idle());
    let _session = session(&used);
    let with = |dialing| {
        let connections = vec![Arc::clone(&unused), Arc::clone(&used)];
        BTreeMap::from([
            (key("a"), Entry { connections, dialing: 0 }),
            (key("b"), Entry { connections: Vec::new(), dialing }),
        ])
    };
    assert!(make_room(&with(limits::SSH_CONNECTIONS - 3)));
    assert!(!unused.is_closed());
    assert!(!make_room(&with(limits::SSH_CONNECTIONS - 2)));
    assert!(unused.is_closed() && !used.is_closed());
}

#[test]
fn logins_to_one_server_at_once_are_bounded_over_all_credentials() {
    let pool = pool();
    let server = |host: &str, user: &str| Server {
        id: None,
        name: host.to_owned(),
        host: host.to_owned(),
        port: 22,
        user: user.to_owned(),
        private_key: None,
        certificate: None,
        passphrase: None,
        password: None,
        jump: None,
    };
    let ask = |host: &str, n: usize| {
        let server = server(host, &format!("user-{n}"));
        pool.may_dial(&pool.0.keys.of(&server), &server)
    };
    let mut tickets: Vec<Ticket> = (0..limits::SSH_DIALS).map(|n| ask("a", n).ok().expect("a turn")).collect();
    assert!(matches!(ask("a", 99), Err(Held::Logins(limits::SSH_DIALS))));
    assert!(ask("b", 99).is_ok(), "another server waits for none");
    pool.dialed(&tickets.remove(0), None, End::Other);
    tickets.push(ask("a", 99).ok().expect("a turn came free"));
    for ticket in &tickets {
        pool.dialed(ticket, None, End::TurnedAway);
    }
    let after = (0..limits::SSH_DIALS).filter(|n| ask("a", *n).is_ok()).count();
    assert_eq!(after, limits::SSH_DIALS / 2, "one burst was turned away");
}

#[test]
fn what_is_known_of_servers_is_bounded() {
    let (mut paces, now) = (BTreeMap::new(), Instant::now());
    for n in 0..limits::SSH_PACES + 10 {
        let pace = pace_of(&mut paces, &format!("h{n}:22"));
        assert!(pace.begin());
        pace.end(now, End::TurnedAway, now);
    }
    assert_eq!(paces.len(), limits::SSH_PACES);
    let pace = pace_of(&mut paces, "busy:22");
    assert!(pace.begin());
    for n in 0..limits::SSH_PACES {
        pace_of(&mut paces, &format!("i{n}:22"));
    }
    assert!(paces.len() <= limits::SSH_PACES && paces.contains_key("busy:22"));
}

#[test]
fn a_step_that_outlasts_its_limit_is_broken_off_from_outside() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let limit = Duration::from_secs(1);
    let late = |step, over: Duration| {
        let socket = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
        let (mut peer, _) = listener.accept().expect("the other end");
        peer.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let since = Instant::now().checked_sub(limit + over).expect("a host that is up for some seconds");
        let found = overdue(&Mutex::new(Progress { step, since, socket: socket.try_clone().ok() }), limit);
        assert_eq!(peer.read(&mut [0; 1]).is_ok(), found.is_some(), "the socket is shut down, or it is not");
        found
    };
    // It keeps its limit by itself, a little late on a host that is busy.
    assert_eq!(late(Step::Handshake, limits::SSH_OVERDUE / 2), None);
    assert_eq!(late(Step::Handshake, limits::SSH_OVERDUE + Duration::from_millis(1)), Some(Step::Handshake));
    // The C library's resolver keeps no limit.
    assert_eq!(late(Step::Resolve, Duration::from_millis(1)), Some(Step::Resolve));
}

#[test]
fn the_end_waits_for_a_connections_thread_and_no_longer_than_allowed() {
    let pool = pool();
    let (release, held) = bounded::<()>(0);
    let thread = threads::spawn("ssh-connection", move || {
        let _ = held.recv_timeout(Duration::from_secs(10));
    });
    pool.lock().threads.push(thread.expect("a thread"));
    let begun = Instant::now();
    pool.stop_within(Duration::from_millis(50));
    let took = begun.elapsed();
    assert!((Duration::from_millis(50)..Duration::from_secs(5)).contains(&took), "{took:?}");
    drop(release);
}

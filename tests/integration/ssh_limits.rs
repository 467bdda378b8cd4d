//! What bounds one session on a real server, without an agent around it: how much of its output waits, and how long a
//! program that does not end is waited for.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cronium_agent::limits;
use cronium_agent::parts::{
    Connection, Dial, Driver, Event, Hosts, Next, Progress, Secret, Server, Session, Stream, Times, defaults, remote,
};
use crossbeam_channel::never;

use crate::harness::{eventually, shared};
use crate::sshd::{Options, Sshd};

/// A connection to this server, with the thread that serves it.
fn connect(sshd: &Sshd, close: Duration) -> (Arc<Connection>, JoinHandle<()>) {
    let mut settings = defaults().ssh;
    settings.known_hosts_file = sshd.path("known_hosts");
    std::fs::write(&settings.known_hosts_file, sshd.known_hosts()).expect("known_hosts");
    let server = Server {
        id: None,
        name: "web-1".to_owned(),
        host: sshd.host.clone(),
        port: sshd.port,
        user: sshd.user.clone(),
        private_key: Some(Secret::new(sshd.key.text.as_str())),
        certificate: None,
        passphrase: None,
        password: None,
        jump: None,
    };
    let (hosts, progress) = (Hosts::new(&settings), Mutex::new(Progress::new()));
    let (tell, told) = crossbeam_channel::bounded(1);
    // The session stays on the thread that made it.
    let thread = std::thread::spawn(move || {
        let dial =
            Dial { server: &server, settings: &settings, row: None, hosts: &hosts, progress: &progress, way: None };
        let reached = dial.reach().map_err(|error| error.to_string()).expect("a connection");
        let step = Duration::from_secs(10);
        let times = Times { step, check: Duration::from_secs(60), idle: Duration::from_secs(60), close };
        let made = Driver::new(server.shown(), reached.session, reached.socket, reached.host_key, times);
        let (connection, driver) = made.expect("a connection");
        tell.send(connection).expect("somebody waits");
        driver.run();
    });
    (told.recv().expect("a connection"), thread)
}

/// A session that runs this program.
fn run(connection: &Arc<Connection>, program: &str) -> Session {
    let seat = connection.take_seat().expect("a seat");
    let session = connection.open(seat, remote::COMMAND).map_err(|error| error.to_string()).expect("a session");
    session.send(format!("{{\n{program}\n}}\n").into_bytes());
    session
}

#[test]
fn output_that_nobody_takes_waits_on_the_server_but_for_a_bounded_part() {
    let _machine = shared();
    let sshd = Sshd::start(&Options::default());
    let (connection, thread) = connect(&sshd, limits::SSH_CLOSE);
    let progress = sshd.path("home/progress");
    let piece = 32 * 1024;
    let program = format!(
        "i=0; while [ $i -lt 400 ]; do head -c {piece} /dev/zero; i=$((i+1)); echo $i >\"$HOME/progress\"; done; exit 0"
    );
    let session = run(&connection, &program);
    let written = || std::fs::read_to_string(&progress).ok().and_then(|text| text.trim().parse::<usize>().ok());
    // It stands still when nothing was written for a while.
    let mut last = (None, Instant::now());
    eventually("the program stands still", || {
        let now = written();
        if now != last.0 {
            last = (now, Instant::now());
        }
        now.is_some() && last.1.elapsed() > Duration::from_millis(700)
    });
    let stood = written().expect("some pieces") * piece;
    // What the queue holds, one more piece being handled, the window with its refill, and the server's own pipe.
    let window = usize::try_from(limits::SSH_WINDOW).expect("a number");
    let most = (limits::SSH_QUEUE + 1) * limits::SSH_READ + window + limits::SSH_READ + 2 * 64 * 1024;
    assert!(
        (window..=most).contains(&stood),
        "{stood} bytes were taken of a program to which nobody listens, {most} may be"
    );
    // Nothing of it is lost.
    let mut taken = 0;
    loop {
        match session.next(&never(), Duration::from_secs(10)) {
            Next::Event(Event::Bytes(Stream::Stdout, bytes)) => taken += bytes.len(),
            // An exit status of 0 counts as none.
            Next::Event(Event::End(status)) => break assert_eq!(status, None),
            other => panic!("{other:?} after {taken} bytes"),
        }
    }
    assert_eq!(taken, 400 * piece);
    drop(session);
    connection.close();
    thread.join().expect("its thread ends");
}

#[test]
fn a_program_that_does_not_end_with_its_session_costs_the_connection_after_a_time() {
    let _machine = shared();
    let sshd = Sshd::start(&Options::default());
    let close = Duration::from_millis(400);
    let (connection, thread) = connect(&sshd, close);
    let session = run(&connection, "echo ready; exec sleep 300");
    match session.next(&never(), Duration::from_secs(10)) {
        Next::Event(Event::Bytes(Stream::Stdout, bytes)) => assert_eq!(bytes, b"ready\n"),
        other => panic!("{other:?}"),
    }
    let left = Instant::now();
    drop(session);
    // Its thread ends by itself: nobody uses the connection, and nobody will.
    let until = left + Duration::from_secs(8);
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(connection.is_closed() && thread.is_finished(), "its program is still waited for");
    assert!(left.elapsed() >= close, "{:?}", left.elapsed());
    sshd.end_user_processes();
}

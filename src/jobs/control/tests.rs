//! The control socket over real sockets: what is answered, and clients that mean no good.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use super::status::{Reload, Reports, SetAside, Sources, Status};
use super::*;
use crate::executors::ssh::breakers::Tripped;
use crate::health::Board;
use crate::job::{Id, Kind};
use crate::jobs::poller::Slots;
use crate::jobs::running::{Note, Running, Step};
use crate::logs::ConnectionState;
use crate::os::net::tests::Frozen;
use crate::os::scratch::Scratch;
use crate::policy::breaker::State;
use crate::policy::stop::Reason;

fn id(text: &str) -> Id {
    Id::parse(text).expect("an id")
}

fn sources(running: &Running) -> Sources {
    Sources {
        id: "edge-7".to_owned(),
        version: "1.2.3".to_owned(),
        started: (SystemTime::UNIX_EPOCH, Instant::now()),
        board: Arc::new(Board::new()),
        running: running.clone(),
        slots: Slots::new(5),
        tripped: Box::new(Vec::new),
        live_log: Box::new(ConnectionState::default),
        reload: Box::new(|| None),
        ask_reload: Box::new(|| 7),
        reports: None,
    }
}

fn serve(dir: &Path) -> (Server, Running) {
    let running = Running::new();
    let server = start(dir, Desk::new(sources(&running))).expect("start");
    (server, running)
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

fn error_of(answer: &str) -> String {
    let failed: Failed = serde_json::from_str(answer).expect("JSON");
    assert!(!failed.ok && answer.ends_with('\n'), "{answer}");
    failed.error
}

#[test]
fn status_tells_all_that_the_parts_know() {
    let (scratch, running) = (Scratch::new(), Running::new());
    let slots = Slots::new(5);
    let _busy = (slots.busy(), slots.busy());
    let board = Board::new();
    let told = Reports {
        waiting: 2,
        oldest_seconds: Some(90),
        set_aside: 1,
        last_error: Some("503".to_owned()),
        retention_seconds: 604_800,
        asides: vec![SetAside { job: Some("job_c".to_owned()), why: "409".to_owned(), ..SetAside::default() }],
    };
    let reports = told.clone();
    let one = |n| Tripped { server: format!("10.0.0.{n}:22"), state: State::HalfOpen, failures: 5 };
    let tripped = move || (0..limits::SSH_BREAKERS_SHOWN + 1).map(one).collect();
    let live = || ConnectionState { enabled: true, last_error: Some("x".repeat(9999)), ..ConnectionState::default() };
    let reload = || {
        let problems = vec!["x".repeat(9999); limits::CONFIG_PROBLEMS_MAX + 5];
        Some(Reload { number: 3, result: "refused".to_owned(), problems, ..Reload::default() })
    };
    let sources = Sources {
        board: Arc::new(board),
        reload: Box::new(reload),
        slots,
        tripped: Box::new(tripped),
        live_log: Box::new(live),
        reports: Some(Box::new(move || reports.clone())),
        ..sources(&running)
    };
    let server = start(&scratch, Desk::new(sources)).expect("start");
    let token = running.claim(&id("job_a")).expect("free");
    token.note(Note::Kind(Kind::Container));
    token.note(Note::Execution(id("exec-a")));
    token.note(Note::Place("cronium-a".to_owned()));
    token.step(Step::Running);

    let (raw, status) = ask::<Status>(&scratch, &Request::Status).expect("an answer");
    assert_eq!(serde_json::from_str::<Status>(&raw).expect("JSON"), status);
    assert_eq!((status.agent.id.as_str(), status.agent.version.as_str()), ("edge-7", "1.2.3"));
    assert_eq!((status.agent.pid, status.agent.since.as_str()), (std::process::id(), "1970-01-01T00:00:00Z"));
    assert_eq!((status.ready, status.why_not.as_deref()), (false, Some("the agent is still starting")));
    assert_eq!((status.pool.workers, status.pool.busy), (5, 2));
    let [job] = status.jobs.as_slice() else { panic!("{raw}") };
    assert_eq!((job.id.as_str(), job.phase.as_str()), ("job_a", "running"));
    assert_eq!((job.kind.as_deref(), job.place.as_deref()), (Some("container"), Some("cronium-a")));
    assert_eq!((job.execution.as_deref(), job.cancelled_by.as_deref()), (Some("exec-a"), None));
    assert_eq!(status.outbox, Some(told));
    assert_eq!(status.breakers.len(), limits::SSH_BREAKERS_SHOWN);
    let breaker = &status.breakers[5];
    assert_eq!((breaker.server.as_str(), breaker.state.as_str(), breaker.failures), ("10.0.0.5:22", "half-open", 5));
    assert!(status.live_log.enabled && !status.live_log.connected);
    assert!(status.live_log.last_error.is_some_and(|error| error.len() < limits::CONTROL_TEXT + 8));
    let reload = status.reload.expect("a reload");
    assert_eq!(
        (reload.number, reload.result.as_str(), reload.problems.len()),
        (3, "refused", limits::CONFIG_PROBLEMS_MAX)
    );
    assert!(reload.problems.iter().all(|text| text.len() < limits::CONTROL_TEXT + 8));
    end(server);
}

#[test]
fn a_reload_is_asked_for_and_not_waited_for() {
    let scratch = Scratch::new();
    let (server, _) = serve(&scratch);
    let (_, asked) = ask::<ReloadAsked>(&scratch, &Request::Reload).expect("an answer");
    assert_eq!(asked, ReloadAsked { ok: true, request: 7 });
    end(server);
}

#[test]
fn a_cancel_reaches_the_job_and_only_a_job_that_is_in_hand() {
    let scratch = Scratch::new();
    let (server, running) = serve(&scratch);
    let cancel = |job: &str| ask::<Cancelled>(&scratch, &Request::Cancel { job: job.to_owned() });
    match cancel("job_a") {
        Err(AskError::Refused(why)) => assert!(why.contains("job job_a does not run here"), "{why}"),
        other => panic!("{other:?}"),
    }
    let token = running.claim(&id("job_a")).expect("free");
    token.step(Step::Running);
    let (_, cancelled) = cancel("job_a").expect("known");
    assert_eq!((cancelled.job.as_str(), cancelled.phase.as_str(), cancelled.is_late()), ("job_a", "running", false));
    assert_eq!(token.control().reason(), Some(Reason::Cancelled("the operator")));
    token.step(Step::Reporting);
    assert!(cancel("job_a").expect("known").1.is_late());
    let (_, status) = ask::<Status>(&scratch, &Request::Status).expect("an answer");
    assert_eq!(status.jobs[0].cancelled_by.as_deref(), Some("the operator"));
    drop(token);
    assert!(matches!(cancel("job_a"), Err(AskError::Refused(_))));
    assert!(matches!(cancel("../x"), Err(AskError::Refused(why)) if why.contains("no job's id")));
    end(server);
}

#[test]
fn a_silent_client_keeps_nobody_out() {
    let scratch = Scratch::new();
    let (server, _running) = serve(&scratch);
    let mut silent: Vec<_> = (0..3 * limits::CONTROL_CLIENTS)
        .map(|n| {
            let mut stream = UnixStream::connect(server.path()).expect("connect");
            // Some say half a request.
            if n % 2 == 0 {
                stream.write_all(b"{\"comm").expect("write");
            }
            stream
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..10 {
        ask::<Status>(&scratch, &Request::Status).expect("an answer");
    }
    assert!(begun.elapsed() < limits::CONTROL_DEADLINE, "{:?}", begun.elapsed());
    // The oldest was closed for the others; the last is told when its time is over.
    let first = read_all(&mut silent[0]);
    assert_eq!(first, "");
    let mut fresh = UnixStream::connect(server.path()).expect("connect");
    let error = error_of(&read_all(&mut fresh));
    assert!(error.contains("no whole request within 2s"), "{error}");
    end(server);
}

#[test]
fn two_clients_are_served_at_once_in_any_order() {
    let scratch = Scratch::new();
    let (server, _running) = serve(&scratch);
    let mut first = UnixStream::connect(server.path()).expect("connect");
    let mut second = UnixStream::connect(server.path()).expect("connect");
    first.write_all(b"{\"command\":").expect("write");
    second.write_all(b"{\"command\":\"status\"}\n").expect("write");
    assert!(read_all(&mut second).starts_with("{\"ok\":true,"));
    // Its end instead of a line's end will do.
    first.write_all(b"\"status\"}").expect("write");
    first.shutdown(Shutdown::Write).expect("shutdown");
    assert!(read_all(&mut first).starts_with("{\"ok\":true,"));
    end(server);
}

#[test]
fn garbage_and_floods_are_answered_and_harm_nothing() {
    let scratch = Scratch::new();
    let (server, _running) = serve(&scratch);
    for bytes in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\0\n",
        b"[1,2]\n",
        b"{\"command\":\"reboot\"}\n",
        b"{\"command\":\"cancel\"}\n",
        b"{\"command\":\"cancel\",\"job\":7}\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let error = error_of(&talk(server.path(), bytes));
        assert!(error.starts_with("no request that this agent understands: "), "{bytes:?}: {error}");
    }
    // As long as may be is read, and is no JSON.
    let full = [&[b'['; limits::CONTROL_REQUEST][..], b"\n"].concat();
    assert!(error_of(&talk(server.path(), &full)).starts_with("no request that"));
    for size in [limits::CONTROL_REQUEST + 1, 10 << 20] {
        let error = error_of(&talk(server.path(), &vec![b'['; size]));
        assert_eq!(error, "the request has more than 1024 bytes");
    }
    // The longest id of all is no flood.
    let longest = format!("{{\"command\":\"cancel\",\"job\":\"{}\"}}\n", "\\u0061".repeat(crate::job::ID_MAX));
    assert!(error_of(&talk(server.path(), longest.as_bytes())).contains("does not run here"));
    ask::<Status>(&scratch, &Request::Status).expect("an answer");
    end(server);
}

#[test]
fn the_socket_is_private_and_a_dead_agents_is_replaced() {
    let scratch = Scratch::new();
    let path = scratch.join(SOCKET);
    // Nobody listens there any more, as after a kill.
    drop(UnixListener::bind(&path).expect("bind"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("mode");
    fs::write(scratch.join(UNFINISHED), "half").expect("write");
    let (server, _running) = serve(&scratch);
    assert_eq!(fs::symlink_metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    ask::<Status>(&scratch, &Request::Status).expect("an answer");
    let second = start(&scratch, Desk::new(sources(&Running::new()))).expect_err("in use");
    assert!(matches!(&second, ControlError::InUse(at) if *at == path), "{second}");
    ask::<Status>(&scratch, &Request::Status).expect("the first still answers");
    end(server);
    assert_eq!(fs::read_dir(&scratch).expect("list").count(), 0, "something was left behind");
}

#[test]
fn a_socket_that_another_put_in_its_place_is_left_alone() {
    let scratch = Scratch::new();
    let (server, _running) = serve(&scratch);
    fs::remove_file(server.path()).expect("remove");
    let other = UnixListener::bind(server.path()).expect("bind");
    end(server);
    assert!(scratch.join(SOCKET).exists());
    drop(other);
}

#[test]
fn what_stands_in_the_way_is_told() {
    let scratch = Scratch::new();
    let path = scratch.join(SOCKET);
    match ask::<Status>(&scratch, &Request::Status) {
        Err(error @ AskError::NoAgent { .. }) => {
            let text = error.to_string();
            assert!(text.contains(path.to_str().expect("text")) && text.contains("systemctl start"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    fs::write(&path, "mine").expect("write");
    let error = start(&scratch, Desk::new(sources(&Running::new()))).expect_err("a file");
    assert!(matches!(&error, ControlError::NoSocket(_)), "{error}");
    assert_eq!(fs::read(&path).expect("read"), b"mine");

    let deep = scratch.join("d".repeat(PATH_MAX));
    fs::create_dir(&deep).expect("a folder");
    let error = start(&deep, Desk::new(sources(&Running::new()))).expect_err("too long").to_string();
    let bytes = deep.join(SOCKET).as_os_str().len();
    assert!(error.contains(&format!("has {bytes} bytes, the kernel takes 107")), "{error}");
    assert!(matches!(ask::<Status>(&deep, &Request::Status), Err(AskError::TooLong(_))));
    assert!(matches!(start(Path::new("/no/such"), Desk::new(sources(&Running::new()))), Err(ControlError::Io { .. })));
    // The longest that fits.
    let tail = PATH_MAX - scratch.as_os_str().len() - SOCKET.len() - 2;
    let fits = scratch.join("e".repeat(tail));
    fs::create_dir(&fits).expect("a folder");
    let (server, _running) = serve(&fits);
    ask::<Status>(&fits, &Request::Status).expect("an answer");
    end(server);
}

#[test]
fn an_agent_that_says_nothing_or_nonsense_is_named() {
    let scratch = Scratch::new();
    let listener = UnixListener::bind(scratch.join(SOCKET)).expect("bind");
    let endless = Arc::new(AtomicUsize::new(0));
    let written = Arc::clone(&endless);
    let said = [&b""[..], b"{}\n", b"no\n", b"{\"ok\":true,\"jobs\":7}\n", b"\xff\n"];
    let thread = threads::spawn("t-nonsense", move || {
        for bytes in said {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.write_all(bytes).expect("write");
        }
        // Endless, and without a line's end.
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
        let error = ask::<Status>(&scratch, &Request::Status).expect_err("nonsense");
        assert!(matches!(&error, AskError::Broken { .. }), "{bytes:?}: {error:?}");
    }
    let error = ask::<Status>(&scratch, &Request::Status).expect_err("endless").to_string();
    assert!(error.contains("more than 4194304 bytes"), "{error}");
    // What was not read is in the kernel's buffers.
    let written = endless.load(Ordering::Relaxed);
    assert!(written < limits::CONTROL_ANSWER + (1 << 20), "{written}");
    let begun = Instant::now();
    let error = ask::<Status>(&scratch, &Request::Status).expect_err("silent");
    assert!(matches!(error, AskError::Silent { .. }), "{error:?}");
    assert!(begun.elapsed() < limits::CONTROL_WAIT + Duration::from_millis(900), "{:?}", begun.elapsed());
    thread.join_within(Duration::from_secs(10));
}

#[test]
fn an_agent_that_takes_no_connection_is_silent_and_its_socket_is_in_use() {
    let scratch = Scratch::new();
    let frozen = Frozen::listen_at(scratch.join(SOCKET));
    let begun = Instant::now();
    let error = ask::<Status>(&scratch, &Request::Status).expect_err("nobody takes it");
    assert!(matches!(error, AskError::Silent { .. }) && error.to_string().contains("limits::CONTROL_WAIT"), "{error}");
    let error = start(&scratch, Desk::new(sources(&Running::new()))).err();
    assert!(matches!(error, Some(ControlError::InUse(_))), "{error:?}");
    assert!(begun.elapsed() < limits::CONTROL_WAIT * 3, "{:?}", begun.elapsed());
    drop(frozen);
}

//! A run without a server: what it does when nothing, or nobody, answers.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::executors::control::{Signal, Target as _};
use crate::executors::ssh::SshExecutor;
use crate::executors::ssh::connection::Event;
use crate::executors::ssh::connection::tests::{idle, session};
use crate::executors::ssh::place::{self, Place};
use crate::executors::ssh::preamble::Preamble;
use crate::executors::ssh::run::{Wished, wishes};
use crate::executors::{Reaper, Task};
use crate::job::{Id, Job, Kind, Language, Resources, Script, Server, Stream};
use crate::os::pulse::Pulse;
use crate::policy::stop::Pace;
use crate::verdict::Phase;

struct Nowhere;

impl Output for Nowhere {
    fn bytes(&mut self, _stream: Stream, _data: &[u8]) {}
    fn system(&mut self, _text: &str) {}
    fn settle(&mut self) {}
}

/// Calls `act` with a run whose server lets nobody in and is waited for by nobody.
fn with_run(act: impl FnOnce(&mut Run<'_>)) {
    let mut config = crate::config::defaults();
    config.ssh.reconnect_timeout = Duration::ZERO;
    let shared = SshExecutor::new(&config).now();
    let (name, host, user) = ("web-1".to_owned(), "192.0.2.1".to_owned(), "deploy".to_owned());
    let server = Server {
        id: None,
        name,
        host,
        port: 22,
        user,
        private_key: None,
        certificate: None,
        passphrase: None,
        password: None,
        jump: None,
    };
    let id = Id::parse("exec-1").expect("an id");
    let script = Script { language: Language::Bash, content: "true".to_owned(), working_directory: String::new() };
    let job = Job {
        id: id.clone(),
        kind: Kind::Ssh,
        priority: 0,
        attempts: 0,
        script,
        http: None,
        environment: Vec::new(),
        timeout: None,
        resources: Resources::default(),
        servers: Vec::new(),
        event: Default::default(),
        input: Default::default(),
        original_type: None,
        signature: None,
    };
    let task = Task { job: Arc::new(job), server: Some(server.clone()), execution: id, helpers: None };
    let (reaper, reaper_thread) = Reaper::start(Pulse::unwatched()).expect("a thread");
    let second = Duration::from_secs(1);
    let control = reaper.control(Pace { grace: second, again: second, patience: second });
    let place = Place { temp_dir: "/tmp/x".into(), name: "exec-1".into(), shell: "/bin/bash".into(), pty: false };
    let mut run = Run::new(&shared, &server, &control, &task, place, (second, "the job's timeout"), Instant::now());
    act(&mut run);
    control.end();
    reaper.stop();
    reaper_thread.join_within(Duration::from_secs(5));
}

fn said<T>(result: Result<T, Stop>) -> String {
    match result {
        Err(Stop::Because(verdict)) => verdict.message,
        Err(Stop::Detached | Stop::NeverRan) => panic!("it is not left, and nobody knows that it never ran"),
        Ok(_) => panic!("nobody is there"),
    }
}

#[test]
fn signals_that_nobody_takes_are_bounded_and_hold_nobody() {
    let (wisher, wishes) = wishes();
    let wished = Wished(wisher);
    for _ in 0..limits::SSH_WISHES * 2 {
        wished.signal(Signal::Kill).expect("a queue of wishes that is full needs no further one");
    }
    assert_eq!(wishes.len(), limits::SSH_WISHES);
    drop(wishes);
    assert!(wished.signal(Signal::Kill).is_err());
}

#[test]
fn a_start_whose_answer_is_lost_each_time_is_given_up() {
    with_run(|run| {
        for start in 2..=limits::SSH_STARTS {
            let words = said(run.start_again(&mut Nowhere));
            assert!(words.contains("could not be reached again"), "start {start}: {words}");
        }
        let words = said(run.start_again(&mut Nowhere));
        assert!(words.contains("3 connections broke before the script had begun"), "{words}");
    });
}

#[test]
fn a_server_that_goes_silent_before_it_has_told_the_end_is_waited_for_as_long_as_allowed() {
    let silence = Duration::from_millis(300);
    let (connection, _driver) = idle();
    let (session, events) = session(&connection);
    // It says something, and nothing more; where nobody gives it up, its connection ends.
    let server = thread::spawn(move || {
        let _ = events.send(Event::Bytes(Stream::Stderr, b"motd\n".to_vec()));
        thread::sleep(Duration::from_secs(3));
    });
    with_run(|run| {
        let begun = Instant::now();
        let heard = run.receive(&session, "00ff", silence, &mut Nowhere);
        assert!(matches!(heard, Err(Heard::Late)), "it was not given up");
        assert!(begun.elapsed() >= silence, "{:?}", begun.elapsed());
    });
    drop(server);
}

#[test]
fn a_script_that_ran_is_not_told_as_one_that_could_not_be_started() {
    with_run(|run| {
        assert!(run.mute(Some(127)).message.contains("could not be started"));
        run.starts_now(Duration::from_secs(60));
        let verdict = run.mute(None);
        assert_eq!(verdict.phase, Phase::Execution);
        assert!(
            verdict.message.contains("came to its end there without an exit status: the script's end is unknown"),
            "{verdict}"
        );
    });
}

#[test]
fn a_last_look_at_a_server_that_is_away_ends_in_time() {
    with_run(|run| {
        run.starts_now(Duration::from_secs(60));
        run.last_look = Some(Instant::now() + Duration::from_millis(300));
        let begun = Instant::now();
        let words = said(run.collect(&mut Nowhere));
        assert!(words.contains("its end is unknown"), "{words}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    });
}

#[test]
fn whether_a_script_was_started_is_asked_for_a_bounded_time_and_then_called_unknown() {
    let (connection, _driver) = idle();
    let (session, _events) = session(&connection);
    with_run(|run| {
        run.start = Start::Asked;
        run.until = Instant::now() + Duration::from_millis(200);
        let heard = run.listen(&session, "00ff", &mut Nowhere);
        assert!(matches!(heard, Heard::Late), "it was waited for");
        let words = said(run.sent(heard, &mut Nowhere));
        assert!(words.contains("whether it ran there is unknown"), "{words}");
    });
}

#[test]
fn a_script_that_was_not_sent_is_told_as_not_started_whatever_its_session_said() {
    for heard in [Heard::Late, Heard::Mute(None), Heard::Streams("stderr"), Heard::Word(Word::Setup("no".into()))] {
        with_run(|run| {
            run.start = Start::Waits(Vec::new());
            run.until = Instant::now();
            let words = said(run.not_sent(heard, &mut Nowhere));
            assert!(words.contains("could not be started"), "{words}");
        });
    }
}

#[test]
fn the_end_of_a_session_is_the_end_of_a_script_only_with_its_proof() {
    with_run(|run| {
        let mut preamble = Preamble::new("00ff");
        for (stream, number) in [(Stream::Stdout, 1), (Stream::Stderr, 2)] {
            preamble.take(stream, format!("cronium follow 00ff {number}\n").as_bytes(), &mut |_| panic!("nothing yet"));
        }
        for status in [None, Some(1), Some(137), Some(143), Some(place::SAID)] {
            assert!(matches!(run.ended(&preamble, status, Duration::ZERO), Heard::Cut), "{status:?}");
        }
        assert!(matches!(run.ended(&preamble, Some(place::PROVEN), Duration::ZERO), Heard::Over));
        // A server that closes what is silent for 6 s is asked sooner from then on.
        run.ended(&preamble, None, Duration::from_secs(6));
        assert_eq!(run.look, Duration::from_secs(3));
    });
}

#[test]
fn the_first_session_without_a_word_is_no_end_however_long_ago_another_was_cut() {
    with_run(|run| {
        run.cuts = (9, std::time::Instant::now().checked_sub(Duration::from_secs(60)).expect("a moment"));
        assert!(!run.is_mute_too_long());
        thread::sleep(Duration::from_millis(2));
        assert!(run.is_mute_too_long(), "the next one, after ssh.execution.reconnectTimeout");
    });
}

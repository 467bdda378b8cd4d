//! Canaries against an engine that is silent, or that does not end them.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::*;
use crate::config::types::NetworkMode;
use crate::docker::testing::{Act, Engine, done};
use crate::os::ahead::Ahead;
use crate::os::stop::Stop;

/// A cage at `engine` that is over after `all`, with a configuration whose own waits are of an hour; `act` gets it.
fn caged(engine: &Engine, all: Duration, act: impl FnOnce(&Cage)) {
    let mut config = crate::config::defaults();
    config.container.docker = engine.docker();
    config.container.network.mode = NetworkMode::None;
    config.jobs.setup_timeout = Duration::from_secs(3600);
    config.jobs.cleanup_timeout = Duration::from_secs(3600);
    let (reaper, reaper_thread) = Reaper::start(Pulse::unwatched()).expect("a thread");
    let (sampler, sampler_thread) = Sampler::start(engine.client()).expect("a thread");
    let executor = executor(engine.client(), &config, sampler.clone());
    let until = Instant::now() + all;
    let cage = Cage { executor, reaper, controls: Arc::default(), word: "test".to_owned(), until };
    act(&cage);
    cage.reaper.stop();
    sampler.stop();
    for thread in [reaper_thread, sampler_thread] {
        thread.join_within(Duration::from_secs(5));
    }
}

#[test]
fn a_canary_whose_container_is_not_made_is_given_up() {
    Ahead::run(|ahead| {
        let later = ahead.clone();
        let engine = Engine::start(move |call| {
            if call.starts_with("POST /containers/create") {
                later.put(limits::DOCTOR_SETUP);
                return Act::Stall(Vec::new());
            }
            Act::Answer(404, "{}".to_owned())
        });
        caged(&engine, limits::DOCTOR_CANARIES, |cage| {
            let why = cage.launch(Canary::new("x", "true"), None).land().expect_err("no container");
            assert!(why.contains("within 30s (limits::DOCTOR_SETUP; a job has jobs.setupTimeout)"), "{why}");
            let hint = proofs::not_proven(&why).hint;
            assert!(hint.contains("at a quiet time"), "no job fails in this way: {hint}");
        });
    });
}

/// The calls that the engine gets about a container that does not end before KILL, with the clock of that moment.
#[derive(Default)]
struct Told {
    started: Option<Duration>,
    signals: Vec<(String, Duration)>,
}

#[test]
fn a_canary_that_does_not_end_is_ended_soon_and_soon_by_force() {
    Ahead::run(|ahead| {
        let (told, gone) = (Arc::<Mutex<Told>>::default(), Stop::new());
        let (seen, end, clock) = (Arc::clone(&told), gone.clone(), ahead.clone());
        let json = |status: u16, text: &str| Act::Answer(status, text.to_owned());
        let engine = Engine::start(move |call| {
            let mut told = seen.lock().expect("lock");
            let path = call.split_once("/containers/").map_or(call, |(_, path)| path);
            match path.split_once(['?', '/']).map_or(path, |(_, rest)| rest) {
                rest if rest.starts_with("name=") => json(201, r#"{"Id":"abc"}"#),
                rest if rest.starts_with("attach") => {
                    Act::Until(b"HTTP/1.1 101 UPGRADED\r\n\r\n".to_vec(), end.clone())
                }
                "start" => {
                    told.started = Some(clock.by());
                    done()
                }
                rest if rest.starts_with("kill") => {
                    told.signals.push((rest.to_owned(), clock.by()));
                    if rest.ends_with("SIGKILL") {
                        end.set();
                    }
                    done()
                }
                "wait" => json(200, r#"{"StatusCode":137}"#),
                "json" => json(200, r#"{"Id":"abc","State":{"Running":false,"ExitCode":137}}"#),
                _ => json(404, "{}"),
            }
        });
        caged(&engine, limits::DOCTOR_CANARIES, |cage| {
            let flying = cage.launch(Canary::new("x", "true"), None);
            let real = Instant::now() + Duration::from_secs(10);
            let signals = || told.lock().expect("lock").signals.clone();
            // Step by step until TERM, and then not at all: KILL comes by the real time.
            while signals().is_empty() && Instant::now() < real {
                if told.lock().expect("lock").started.is_some() {
                    ahead.put(Duration::from_millis(100));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            while signals().len() < 2 && Instant::now() < real {
                std::thread::sleep(Duration::from_millis(5));
            }
            gone.set();
            let ran = flying.land().expect("it ran");
            assert!(matches!(ran.cause, Cause::Timeout { after: limits::DOCTOR_CANARY, .. }), "{ran:?}");
            let started = told.lock().expect("lock").started.expect("started");
            let signals = signals();
            let words: Vec<_> = signals.iter().map(|(word, _)| word.as_str()).collect();
            assert_eq!(words, ["kill?signal=SIGTERM", "kill?signal=SIGKILL"]);
            let ran_for = signals[0].1 - started;
            assert!(ran_for < limits::DOCTOR_CANARY * 2, "TERM came after {ran_for:?}");
        });
    });
}

#[test]
fn all_canaries_together_are_waited_for_no_longer_than_all_of_them_may_take() {
    let engine = Engine::start(|_| Act::Stall(Vec::new()));
    caged(&engine, Duration::from_millis(100), |cage| {
        let begun = Instant::now();
        let flying: Vec<_> = (0..5).map(|_| cage.launch(Canary::new("x", "true"), None)).collect();
        for flying in flying {
            let why = flying.land().expect_err("it never ends");
            assert!(why.contains("limits::DOCTOR_CANARIES"), "{why}");
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_port_that_takes_no_connection_is_knocked_at_once_and_briefly() {
    // A full backlog makes the kernel drop further connection requests.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut full = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
        full.push(stream);
        assert!(full.len() < 10_000, "the backlog never fills");
    }
    let (over, ended) = std::sync::mpsc::channel::<()>();
    // It refuses in the end, so that who waits for ever does not hang.
    let keeper = threads::spawn("t-keeper", move || {
        let _ = ended.recv_timeout(Duration::from_secs(4));
        drop((listener, full));
    });
    let begun = Instant::now();
    assert!(!knock(address.ip(), address.port()));
    assert!(begun.elapsed() < limits::DOCTOR_REACH * 3, "{:?}", begun.elapsed());
    drop(over);
    keeper.expect("a thread").join_within(Duration::from_secs(5));
}

#[test]
fn of_what_a_canary_prints_a_bounded_part_is_kept() {
    let (first, line) = sync_channel(1);
    let mut heard = Heard { out: Vec::new(), err: Vec::new(), first: Some(first) };
    heard.bytes(Stream::Stdout, b"one\n");
    for _ in 0..100 {
        heard.bytes(Stream::Stdout, &[b'x'; 1000]);
        heard.bytes(Stream::Stderr, &[b'y'; 1000]);
    }
    assert_eq!(line.try_recv().as_deref(), Ok("one"));
    assert_eq!((heard.out.len(), heard.err.len()), (limits::DOCTOR_OUTPUT, limits::DOCTOR_OUTPUT));
    assert!(heard.out.starts_with(b"one\nx") && heard.err.iter().all(|byte| *byte == b'y'));
}

#[test]
fn what_another_doctor_left_is_removed_when_it_is_old_enough() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let row = |id: &str, job: &str, age: Duration| {
        let labels = serde_json::json!({
            labels::MANAGED: "true", labels::AGENT: AGENT, labels::JOB: job, labels::EXECUTION: format!("{job}-1"),
        });
        serde_json::json!({ "Id": id, "Created": now - age.as_secs(), "Labels": labels })
    };
    let (old, young) =
        (limits::JANITOR_GRACE + Duration::from_secs(5), limits::JANITOR_GRACE - Duration::from_secs(20));
    let list = serde_json::Value::from(vec![
        row("old", "doctor-a-locks", old),
        row("young", "doctor-b-locks", young),
        row("other", "somebody", old),
    ]);
    let engine = Engine::start(move |call| match call.starts_with("GET") {
        true => Act::Answer(200, list.to_string()),
        false => done(),
    });
    sweep(&engine.client());
    let removed: Vec<_> = engine.seen().into_iter().filter(|call| call.starts_with("DELETE")).collect();
    assert_eq!(removed, ["DELETE /containers/old?force=1&v=1"]);
}

//! Canaries against an engine that is silent, or that does not end them.

use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::config::types::NetworkMode;
use crate::docker::testing::{Act, Engine, done};
use crate::os::ahead::Ahead;
use crate::os::pulse::Pulse;
use crate::os::stop::Stop;
use crate::proofs::judge;

/// A cage at `engine` that is over after `all`, with a configuration whose own waits are of an hour; `act` gets it.
fn caged(engine: &Engine, all: Duration, act: impl FnOnce(&Cage<'_>)) {
    caged_with(engine, all, &|| None, act);
}

fn caged_with(engine: &Engine, all: Duration, halt: &dyn Fn() -> Option<&'static str>, act: impl FnOnce(&Cage<'_>)) {
    let mut config = crate::config::defaults();
    config.container.docker = engine.docker();
    config.container.network.mode = NetworkMode::None;
    config.jobs.setup_timeout = Duration::from_secs(3600);
    config.jobs.cleanup_timeout = Duration::from_secs(3600);
    let (reaper, reaper_thread) = Reaper::start(Pulse::unwatched()).expect("a thread");
    let (sampler, sampler_thread) = Sampler::start(engine.client()).expect("a thread");
    let executor = executor(engine.client(), &config, &By::Doctor, sampler.clone());
    let until = Instant::now() + all;
    let cage = Cage { executor, reaper, word: "test".to_owned(), until, halt, launched: RefCell::default() };
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
                later.put(limits::PROOF_SETUP);
                return Act::Stall(Vec::new());
            }
            Act::Answer(404, "{}".to_owned())
        });
        caged(&engine, limits::PROOF_CANARIES, |cage| {
            let why = cage.land(cage.launch(Canary::new("x", "true"), None)).expect_err("no container");
            assert!(why.contains("within 30s (limits::PROOF_SETUP; a job has jobs.setupTimeout)"), "{why}");
            let hint = judge::not_proven(&why).hint;
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
        caged(&engine, limits::PROOF_CANARIES, |cage| {
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
            let ran = cage.land(flying).expect("it ran");
            assert!(matches!(ran.cause, Cause::Timeout { after: limits::PROOF_CANARY, .. }), "{ran:?}");
            let started = told.lock().expect("lock").started.expect("started");
            let signals = signals();
            let words: Vec<_> = signals.iter().map(|(word, _)| word.as_str()).collect();
            assert_eq!(words, ["kill?signal=SIGTERM", "kill?signal=SIGKILL"]);
            let ran_for = signals[0].1 - started;
            assert!(ran_for < limits::PROOF_CANARY * 2, "TERM came after {ran_for:?}");
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
            let why = cage.land(flying).expect_err("it never ends");
            assert!(why.contains("limits::PROOF_CANARIES"), "{why}");
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    });
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
    assert_eq!((heard.out.len(), heard.err.len()), (limits::PROOF_OUTPUT, limits::PROOF_OUTPUT));
    assert!(heard.out.starts_with(b"one\nx") && heard.err.iter().all(|byte| *byte == b'y'));
}

#[test]
fn all_canaries_together_get_one_core() {
    let sum: f64 = limits::PROOF_SHARES.iter().map(|(_, share)| share).sum();
    assert!(sum <= 1.0 + 1e-9, "{sum}");
    assert_eq!(Canary::new("cores", "true").resources.cpu, Some(limits::PROOF_CPU));
    let sources = include_str!("flight.rs");
    let named = sources.split("Canary::").skip(1).filter_map(|rest| rest.split('"').nth(1));
    let named: std::collections::BTreeSet<_> = named.collect();
    let shares: std::collections::BTreeSet<_> = limits::PROOF_SHARES.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, shares, "each canary has its share");
}

#[test]
fn a_halt_ends_those_that_run_and_those_that_are_launched_later() {
    let engine = Engine::start(|_| Act::Stall(Vec::new()));
    let halt = std::cell::Cell::new(None);
    let ask = || halt.get();
    caged_with(&engine, Duration::from_secs(60), &ask, |cage| {
        let begun = Instant::now();
        let before = cage.launch(Canary::new("x", "true"), None);
        assert_eq!(cage.halted(), None);
        halt.set(Some("a job"));
        let after = cage.launch(Canary::new("y", "true"), None);
        halt.set(None);
        for flying in [before, after] {
            assert_eq!(flying.control.reason(), Some(Reason::Cancelled("a job")));
            assert!(cage.land(flying).is_err());
        }
        assert_eq!(cage.halted(), Some("a job"), "it stays so");
        assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    });
}

//! What counts as getting on, on a real engine: a script that is silent does not trip the watchdog, a worker that hangs
//! while it runs one does.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use cronium_agent::parts::{
    Client, Config, ContainerExecutor, Control, End, Executor, Id, Job, Kind, Language, Output, Pace, Pulse, Pulses,
    Reaper, Resources, Sampler, Script, Sources, Stream, Stuck, Task, load, threads,
};

use crate::harness::{LONG, require_engine, shared, unique};

/// Several ticks of the loop that follows a script, and a busy engine's start.
const LONGEST: Duration = Duration::from_secs(3);

/// A live log that hangs at the first line for as long as somebody holds the other end.
struct Hanging(Option<Receiver<()>>);

impl Output for Hanging {
    fn bytes(&mut self, _stream: Stream, _data: &[u8]) {
        if let Some(held) = self.0.take() {
            let _ = held.recv_timeout(LONG);
        }
    }
    fn system(&mut self, _text: &str) {}
    fn settle(&mut self) {}
}

fn config() -> Config {
    let nothing = |_: &str| None;
    let sources = Sources { need_backend: false, search: Vec::<PathBuf>::new(), ..Sources::new(&nothing) };
    load(&sources).expect("the defaults").config
}

fn task(script: &str) -> Task {
    let id = Id::parse(&unique("exec")).expect("an id");
    let job = Job {
        id: id.clone(),
        kind: Kind::Container,
        servers: Vec::new(),
        priority: 0,
        attempts: 0,
        script: Script { language: Language::Bash, content: script.to_owned(), working_directory: String::new() },
        http: None,
        environment: Vec::new(),
        timeout: None,
        resources: Resources::default(),
        event: Default::default(),
        input: Default::default(),
        original_type: None,
        signature: None,
    };
    Task { job: Arc::new(job), server: None, execution: id, helpers: None }
}

fn run(executor: &ContainerExecutor, task: &Task, control: &Arc<Control>, mut output: Hanging) -> i64 {
    let ready = executor.prepare(task, control, &mut output).expect("a container");
    match ready.run(task, &mut output) {
        End::Outcome(outcome, _) => i64::from(outcome.verdict.exit_code),
        other => panic!("{other:?}"),
    }
}

/// Runs `script` on a watched thread; the exit code, and what the watchdog found meanwhile.
fn watched(script: &str, hold: Option<Duration>) -> (i64, Option<Stuck>) {
    let (config, pulses) = (config(), Pulses::new());
    let docker = Client::new(&config.container.docker);
    let (sampler, sampler_thread) = Sampler::start(docker.clone()).expect("a thread");
    let (reaper, reaper_thread) = Reaper::start(Pulse::unwatched()).expect("a thread");
    let executor = ContainerExecutor::new(docker, &config, &unique("agent"), sampler.clone());
    let control = reaper.control(Pace { grace: LONGEST, again: LONGEST, patience: LONGEST });
    let (holder, held) = channel();
    let (tell, told) = channel();
    let (task, pulse) = (task(script), pulses.part("worker", LONGEST));
    let output = Hanging(hold.map(|_| held));
    let worker = threads::spawn("worker-1", move || {
        let _watched = pulse.enter();
        tell.send(run(&executor, &task, &control, output)).expect("heard");
    })
    .expect("a thread");
    let (begun, mut stuck) = (Instant::now(), None);
    let code = loop {
        assert!(begun.elapsed() < LONG, "the script did not end");
        if let Err(found) = pulses.healthy(Instant::now()) {
            stuck = Some(found);
        }
        if hold.is_some_and(|hold| begun.elapsed() > hold) {
            let _ = holder.send(());
        }
        if let Ok(code) = told.recv_timeout(Duration::from_millis(20)) {
            break code;
        }
    };
    worker.join_within(LONG);
    sampler.stop();
    reaper.stop();
    for thread in [sampler_thread, reaper_thread] {
        thread.join_within(LONG);
    }
    (code, stuck)
}

#[test]
fn a_worker_with_a_silent_script_gets_on() {
    let _machine = shared();
    require_engine();
    let begun = Instant::now();
    let (code, stuck) = watched("sleep 8; exit 3", None);
    assert!(begun.elapsed() > LONGEST * 2, "{:?}", begun.elapsed());
    assert_eq!((code, stuck), (3, None));
}

#[test]
fn a_worker_that_hangs_in_a_job_is_found_stuck() {
    let _machine = shared();
    require_engine();
    let (code, stuck) = watched("echo one line; exit 3", Some(LONGEST * 3));
    assert_eq!(code, 3, "it went on when it could");
    assert_eq!(stuck.map(|stuck| stuck.part), Some("worker"));
}

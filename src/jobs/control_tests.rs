//! The operator's pages over a real socket.

use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::executors::ssh::breakers::Tripped;
use crate::health::ask::{AskError, ask};
use crate::health::{HealthState, Server, start_control};
use crate::job::Kind;
use crate::jobs::history::Sample;
use crate::jobs::overview;
use crate::jobs::poller::Slots;
use crate::jobs::running::{Note, Running};
use crate::jobs::status::{Reload, Reports, SetAside, Status};
use crate::limits;
use crate::logs::ConnectionState;
use crate::os::scratch::Scratch;
use crate::os::threads::Ended;
use crate::policy::breaker::State;
use crate::policy::stop::Reason;
use crate::verdict::{Cause, Phase, Verdict};

fn id(text: &str) -> Id {
    Id::parse(text).expect("an id")
}

fn sources(running: &Running) -> Sources {
    Sources {
        id: "edge-7".to_owned(),
        version: "1.2.3".to_owned(),
        started: (SystemTime::UNIX_EPOCH, Instant::now()),
        health: Arc::new(HealthState::new()),
        running: running.clone(),
        slots: Slots::new(5),
        asked_of_jobs: Box::new(|| "nothing".to_owned()),
        warm: Box::new(|| None),
        tripped: Box::new(Vec::new),
        pages: Box::new(|| false),
        live_log: Box::new(ConnectionState::default),
        proofs: Box::new(Default::default),
        images: Box::new(Default::default),
        reload: Box::new(|| None),
        ask_reload: Box::new(|| 7),
        outbox: Box::new(Default::default),
        reports: Box::new(Reports::default),
    }
}

fn serve(dir: &std::path::Path) -> (Server, Running) {
    let running = Running::new();
    let server = start_control(dir, pages(Arc::new(sources(&running)))).expect("start");
    (server, running)
}

fn end(server: Server) {
    assert_eq!(server.stop(Duration::from_secs(5)), Ended::Returned);
}

#[test]
fn status_tells_all_that_the_parts_know() {
    let (scratch, running) = (Scratch::new(), Running::new());
    let slots = Slots::new(5);
    let _busy = (slots.busy(), slots.busy());
    let health = HealthState::new();
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
        health: Arc::new(health),
        proofs: Box::new(Default::default),
        reload: Box::new(reload),
        slots,
        tripped: Box::new(tripped),
        live_log: Box::new(live),
        reports: Box::new(move || reports.clone()),
        ..sources(&running)
    };
    let server = start_control(&scratch, pages(Arc::new(sources))).expect("start");
    let token = running.claim(&id("job_a")).expect("free");
    token.note(Note::Kind(Kind::Container));
    token.note(Note::Execution(id("exec-a")));
    token.note(Note::Place("cronium-a".to_owned()));
    token.step(Step::Running);

    let (raw, status) = ask::<Status>(&scratch, "GET /status").expect("an answer");
    assert_eq!(serde_json::from_str::<Status>(&raw).expect("JSON"), status);
    assert_eq!((status.agent.id.as_str(), status.agent.version.as_str()), ("edge-7", "1.2.3"));
    assert_eq!((status.agent.pid, status.agent.since.as_str()), (std::process::id(), "1970-01-01T00:00:00Z"));
    assert_eq!((status.ready, status.why_not.as_deref()), (false, Some("the agent is still starting")));
    assert_eq!((status.pool.workers, status.pool.busy), (5, 2));
    let [job] = status.jobs.as_slice() else { panic!("{raw}") };
    assert_eq!((job.id.as_str(), job.phase.as_str()), ("job_a", "running"));
    assert_eq!((job.kind.as_deref(), job.place.as_deref()), (Some("container"), Some("cronium-a")));
    assert_eq!((job.execution.as_deref(), job.cancelled_by.as_deref()), (Some("exec-a"), None));
    assert_eq!(status.outbox, told);
    assert_eq!(status.breakers.len(), limits::SSH_BREAKERS_SHOWN);
    let breaker = &status.breakers[5];
    assert_eq!((breaker.server.as_str(), breaker.state.as_str(), breaker.failures), ("10.0.0.5:22", "half-open", 5));
    assert!(status.live_log.enabled && !status.live_log.connected);
    assert!(status.live_log.last_error.is_some_and(|error| error.len() < limits::HEALTH_TEXT + 8));
    let reload = status.reload.expect("a reload");
    assert_eq!(
        (reload.number, reload.result.as_str(), reload.problems.len()),
        (3, "refused", limits::CONFIG_PROBLEMS_MAX)
    );
    assert!(reload.problems.iter().all(|text| text.len() < limits::HEALTH_TEXT + 8));
    end(server);
}

#[test]
fn a_reload_is_asked_for_and_not_waited_for() {
    let scratch = Scratch::new();
    let (server, _) = serve(&scratch);
    let (_, asked) = ask::<ReloadAsked>(&scratch, "POST /reload").expect("an answer");
    assert_eq!(asked, ReloadAsked { request: 7 });
    end(server);
}

#[test]
fn a_cancel_reaches_the_job_and_only_one_that_runs_here() {
    let scratch = Scratch::new();
    let (server, running) = serve(&scratch);
    let cancel = |job: &str| ask::<Cancelled>(&scratch, &format!("POST /jobs/{job}/cancel"));
    match cancel("job_a") {
        Err(AskError::Refused(why)) => assert!(why.contains("job job_a does not run here"), "{why}"),
        other => panic!("{other:?}"),
    }
    let token = running.claim(&id("job_a")).expect("free");
    token.step(Step::Running);
    let (_, cancelled) = cancel("job_a").expect("known");
    assert_eq!((cancelled.phase.as_str(), cancelled.is_late()), ("running", false));
    assert_eq!(token.control().reason(), Some(Reason::Cancelled("the operator")));
    token.step(Step::Reporting);
    assert!(cancel("job_a").expect("known").1.is_late());
    let (_, status) = ask::<Status>(&scratch, "GET /status").expect("an answer");
    assert_eq!(status.jobs[0].cancelled_by.as_deref(), Some("the operator"));
    drop(token);
    assert!(matches!(cancel("job_a"), Err(AskError::Refused(_))));
    for bad in ["..", "a%2Fb", "a,b"] {
        assert!(matches!(cancel(bad), Err(AskError::Refused(why)) if why.contains("no job's id")), "{bad}");
    }
    assert!(matches!(cancel("../x"), Err(AskError::Refused(why)) if why.contains("there is no such path here")));
    // The longest id of all is no flood.
    let longest = "a".repeat(crate::job::ID_MAX);
    assert!(matches!(cancel(&longest), Err(AskError::Refused(why)) if why.contains("does not run here")));
    end(server);
}

#[test]
fn what_the_page_shows_is_bounded_and_quotes_nobody() {
    let running = Running::new();
    let odd = "\u{1}<script>\"".repeat(1000);
    let tokens: Vec<_> = (0..limits::PAGE_JOBS + 20)
        .map(|n| {
            let token = running.claim(&id(&format!("{n:0>100}"))).expect("free");
            token.note(Note::Event(odd.clone()));
            token.note(Note::Kind(Kind::Container));
            token
        })
        .collect();
    let verdict = |message: &str| Verdict {
        phase: Phase::Execution,
        cause: Cause::Exit,
        exit_code: i32::MIN,
        message: message.to_owned(),
    };
    for _ in 0..limits::PAGE_ENDINGS * 3 {
        tokens[7].ended(Kind::Container, &verdict("the script said: QUOTED"), Duration::from_secs(u64::MAX));
        running.history().sample(Sample { jobs: usize::MAX, latency: Some(Duration::MAX) });
    }
    let tripped = Tripped { server: odd.clone(), state: State::Open, failures: u32::MAX };
    let health = HealthState::new();
    health.not_ready(crate::health::Reason::Engine, odd.clone());
    let sources = Sources {
        health: Arc::new(health),
        tripped: Box::new(move || vec![tripped.clone(); limits::PAGE_BREAKERS * 3]),
        ..sources(&running)
    };
    let json = overview::json(&sources);
    assert!(json.len() <= limits::PAGE_DATA, "{}", json.len());
    assert!(!json.contains("QUOTED"), "a verdict's sentence may quote a script");
    let shown: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let length = |list: &serde_json::Value| list.as_array().map_or(0, Vec::len);
    assert_eq!((length(&shown["jobs"]), &shown["allJobs"]), (limits::PAGE_JOBS, &(limits::PAGE_JOBS + 20).into()));
    let servers = &shown["servers"];
    assert_eq!((length(&servers["breakers"]), &servers["allBreakers"]), (limits::PAGE_BREAKERS, &150.into()));
    assert_eq!(length(&shown["ended"]), limits::PAGE_ENDINGS);
    assert_eq!(shown["ended"][0]["reason"], "script");
    assert_eq!(length(&shown["history"]["jobs"]), limits::PAGE_SAMPLES);
    let name = shown["jobs"][0]["event"].as_str().expect("a name");
    assert!(odd.starts_with(name) && name.chars().count() == limits::PAGE_NAME);
}

//! Rounds against a scripted backend and made-up containers.

use super::*;
use crate::api::testing::{Server, ok};
use crate::executors::container::labels::Told;
use crate::jobs::context::testing::Parts;

const MOST: Duration = Duration::from_secs(3600);

fn found(status: &str, labels: &[(&str, &str)], started_at: &str) -> (Found, State) {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let told = Told::read(&labels);
    let found = Found {
        id: "abc".to_owned(),
        name: "cronium-exec-j-1".to_owned(),
        told,
        state: status.to_owned(),
        age: Duration::ZERO,
        created: 7,
        of_exec: false,
        warm: false,
    };
    let state = State {
        running: status == "running",
        status: status.to_owned(),
        pid: 0,
        exit_code: 0,
        oom_killed: false,
        error: String::new(),
        started_at: started_at.to_owned(),
        finished_at: String::new(),
    };
    (found, state)
}

fn page_of((found, state): &(Found, State)) -> Entry {
    entry_of(found.told.job.as_ref().expect("a job"), found, state, MOST)
}

fn started(found: &(Found, State)) -> Started {
    match page_of(found).stage {
        Stage::Started(started) => started,
        other => panic!("{other:?}"),
    }
}

const IDS: [(&str, &str); 2] = [("cronium.job.id", "j"), ("cronium.execution.id", "exec-j-1")];
const LIMIT: [(&str, &str); 2] = [("cronium.timeout.ms", "5000"), ("cronium.timeout.name", "jobs.defaultTimeout")];

#[test]
fn a_page_is_made_of_what_the_container_tells() {
    let all = [&IDS[..], &LIMIT[..], &[("cronium.job.attempts", "3")]].concat();
    let found = found("running", &all, "1970-01-01T00:01:40Z");
    let page = page_of(&found);
    assert_eq!((page.execution.as_str(), page.attempts), ("exec-j-1", 3));
    assert!(matches!(&page.place, Place::Container(page) if page.name == "cronium-exec-j-1"));
    let started = started(&found);
    assert_eq!((started.started_ms, started.deadline_ms, started.timeout_ms), (100_000, 105_000, 5_000));
    assert_eq!(started.timeout_name, "jobs.defaultTimeout");
    assert_eq!((started.left(101_000), started.left(0)), (Duration::from_secs(4), Duration::from_secs(5)));
}

#[test]
fn no_label_gives_a_job_more_time_than_any_may_have() {
    let forged = [("cronium.timeout.ms", "18446744073709551615"), LIMIT[1]];
    let started = started(&found("running", &[&IDS[..], &forged].concat(), "1970-01-01T00:01:40Z"));
    assert_eq!((started.timeout_ms, started.deadline_ms), (3_600_000, 3_700_000), "no decades");
}

#[test]
fn one_that_was_not_started_is_given_back_and_one_of_an_earlier_version_may_run_as_long_as_any() {
    assert_eq!(page_of(&found("created", &IDS, "0001-01-01T00:00:00Z")).stage, Stage::Intent);
    for began in ["1970-01-01T00:01:40Z", "", "NaN", "-5"] {
        let started = started(&found("exited", &IDS, began));
        assert_eq!((started.timeout_ms, started.timeout_name.as_str()), (3_600_000, "jobs.maxTimeout"), "{began}");
        assert!(started.left(now_ms()) <= MOST);
    }
}

#[test]
fn a_name_that_is_not_ours_is_no_path() {
    let mut labels = IDS;
    labels[1].1 = "exec-other-1";
    let name = |found: &(Found, State)| match page_of(found).place {
        Place::Container(container) => container.name,
        other => panic!("{other:?}"),
    };
    assert_eq!(name(&found("running", &labels, "")), "abc");
    labels[1].1 = "../../networks";
    let found = found("running", &labels, "");
    assert_eq!((name(&found).as_str(), page_of(&found).execution.as_str()), ("abc", "j"));
}

/// Containers as an engine has them; what was removed of them.
#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<(Vec<Found>, Vec<String>)>>);

impl Engine for Fake {
    fn containers(&self) -> Result<Vec<Found>, String> {
        Ok(self.0.lock().expect("lock").0.clone())
    }

    fn state(&self, _: &str) -> Result<Option<State>, String> {
        Ok(None)
    }

    fn remove(&self, found: &Found) -> Result<(), RemoveError> {
        self.0.lock().expect("lock").1.push(found.id.clone());
        Ok(())
    }
}

/// Runs rounds with the containers of these jobs, each as old, against a backend that lists `rows`; what was removed.
fn rounds(
    containers: &[(&str, Duration)],
    rows: &'static str,
    act: impl FnOnce(&Reconciler, &JobContext),
) -> (Vec<String>, Vec<String>) {
    let (dir, stop) = (crate::os::scratch::Scratch::new(), crate::os::stop::Stop::new());
    let server = Server::start(move |seen, _| ok(if seen.line.starts_with("GET") { rows } else { "{}" }));
    let parts = Parts::new(&dir, server.client(), &stop);
    let slots = crate::jobs::poller::Slots::new(1);
    let engine = Fake::default();
    engine.0.lock().expect("lock").0 = containers
        .iter()
        .map(|(job, age)| {
            let labels = [("cronium.job.id", *job), ("cronium.execution.id", "exec-1")];
            let (found, _) = found("exited", &labels, "");
            Found { id: (*job).to_owned(), age: *age, ..found }
        })
        .collect();
    let adopter = Adopter::new(&parts.context, &slots);
    let reconciler = Reconciler::new(&parts.context, adopter, Box::new(engine.clone()), Vec::new());
    act(&reconciler, &parts.context);
    drop(reconciler);
    stop.set();
    parts.end();
    let posts = server.lines().into_iter().filter(|line| line.starts_with("POST")).collect();
    let removed = engine.0.lock().expect("lock").1.clone();
    (removed, posts)
}

const OLD: Duration = limits::JANITOR_GRACE;

#[test]
fn only_what_no_job_needs_is_removed() {
    use crate::jobs::record::store_tests::{ended, entry, id};
    let young = OLD - Duration::from_secs(1);
    let all = [("nobodys", OLD), ("young", young), ("runs", OLD), ("waits", OLD), ("reported", OLD)];
    let (removed, _) = rounds(&all, "[]", |reconciler, context| {
        let token = context.running.claim(&id("runs")).expect("free");
        // A record that only the next start can use.
        context.records.put(&entry("waits", Stage::Intent)).expect("put");
        context.outbox.hand_over(entry("reported", ended(1, "")), Tried::lost(), None, |_| ()).expect("kept");
        reconciler.round(false).expect("a round");
        drop(token);
    });
    assert_eq!(removed, ["nobodys", "reported"]);
    let (removed, _) = rounds(&[("runs", OLD)], "[]", |reconciler, _| reconciler.round(false).expect("a round"));
    assert_eq!(removed, ["runs"], "it does not run any more");
    let (removed, _) = rounds(&[("young", young)], "[]", |reconciler, _| reconciler.round(true).expect("a round"));
    assert_eq!(removed, ["young"], "before the first claim no job runs");
}

#[test]
fn a_container_that_was_never_started_goes_at_once_unless_its_job_runs_here() {
    let (dir, stop) = (crate::os::scratch::Scratch::new(), crate::os::stop::Stop::new());
    let server = Server::start(|_, _| ok("[]"));
    let parts = Parts::new(&dir, server.client(), &stop);
    let slots = crate::jobs::poller::Slots::new(1);
    let engine = Fake::default();
    let made = |job: &str| {
        let labels = [("cronium.job.id", job), ("cronium.execution.id", "exec-1")];
        let (found, _) = found("created", &labels, "");
        Found { id: job.to_owned(), ..found }
    };
    engine.0.lock().expect("lock").0 = vec![made("runs"), made("nobodys")];
    let adopter = Adopter::new(&parts.context, &slots);
    let reconciler = Reconciler::new(&parts.context, adopter, Box::new(engine.clone()), Vec::new());
    let token = parts.context.running.claim(&Id::parse("runs").expect("id")).expect("free");
    reconciler.round(false).expect("a round");
    assert_eq!(engine.0.lock().expect("lock").1, ["nobodys"]);
    drop((token, reconciler));
    stop.set();
    parts.end();
}

#[test]
fn a_round_removes_a_bounded_number_and_leaves_the_rest_to_the_next() {
    let names: Vec<String> = (0..limits::JANITOR_ROUND + 5).map(|n| format!("left-{n:02}")).collect();
    let all: Vec<(&str, Duration)> = names.iter().map(|name| (name.as_str(), OLD)).collect();
    let (removed, _) = rounds(&all, "[]", |reconciler, _| reconciler.round(false).expect("a round"));
    assert_eq!(removed.len(), limits::JANITOR_ROUND);
}

#[test]
fn a_claim_that_nobody_knows_of_goes_back_when_no_poll_can_bring_it_any_more() {
    const ROWS: &str = r#"[{"id":"lost","status":"claimed"},{"id":"known","status":"claimed"},
                           {"id":"runs","status":"running"}]"#;
    let (_, posts) = rounds(&[], ROWS, |reconciler, context| {
        let token = context.running.claim(&Id::parse("known").expect("id")).expect("free");
        reconciler.round(false).expect("a round");
        assert!(!reconciler.is_due(), "not again at once");
        context.claims.pass(limits::CLAIMS_LOOK);
        reconciler.round(false).expect("a round");
        drop(token);
    });
    assert_eq!(posts, ["POST /api/internal/jobs/lost/release"]);
}

#[test]
fn at_the_start_a_claim_goes_back_at_once_and_a_script_that_ran_is_reported_as_unknown() {
    const ROWS: &str = r#"[{"id":"claimed","status":"claimed"},{"id":"ran","status":"running"}]"#;
    let (_, posts) = rounds(&[], ROWS, |reconciler, context| {
        reconciler.round(true).expect("a round");
        assert!(context.outbox.wait_for_first_tries(Duration::from_secs(10)));
    });
    assert_eq!(posts, ["POST /api/internal/jobs/claimed/release", "POST /api/internal/jobs/ran/complete"]);
}

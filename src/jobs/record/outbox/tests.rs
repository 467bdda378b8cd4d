//! The outbox against a backend on real sockets and records on a real disk.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::api::testing::{Act, Seen, Server, ok};
use crate::jobs::record::store_tests::{Scratch, ended, entry, id, servers, started};
use crate::jobs::record::{Done, Opened, Place};
use crate::os::threads;
use crate::policy::backoff::{Backoff, Growth};

#[path = "disk_tests.rs"]
mod disk;
#[path = "earlier_tests.rs"]
mod earlier;
#[path = "return_tests.rs"]
mod returns;
#[path = "time_tests.rs"]
mod time;
#[path = "update_tests.rs"]
mod updates;

/// A backend that counts what it takes: a job leaves its list when its report is taken. As the deployed one, an update of a
/// record sets its job to `running`, whatever it was.
#[derive(Debug, Default)]
struct Backend {
    taken: BTreeMap<String, u32>,
    updated: BTreeMap<String, u32>,
    /// The jobs on its list.
    listed: Vec<String>,
    /// Those that a user cancelled.
    cancelled: Vec<String>,
}

impl Backend {
    fn shared(jobs: &[&str]) -> Arc<Mutex<Self>> {
        let listed = jobs.iter().map(|job| (*job).to_owned()).collect();
        Arc::new(Mutex::new(Self { listed, ..Self::default() }))
    }

    /// The job or execution of a request, and what it does; `fault` goes first and may take its place.
    fn act(&mut self, seen: &Seen) -> Act {
        if seen.line.starts_with("GET") {
            let rows: Vec<_> =
                self.listed.iter().map(|job| format!(r#"{{"id":"{job}","status":"running"}}"#)).collect();
            return ok(&format!("[{}]", rows.join(",")));
        }
        let name = seen.line.split('/').nth(4).expect("a name").to_owned();
        if seen.line.ends_with("/acknowledge") {
            let status = if self.cancelled.contains(&name) { "cancelled" } else { "completed" };
            return ok(&format!(r#"{{"success":true,"job":{{"status":"{status}"}}}}"#));
        }
        let json: serde_json::Value = serde_json::from_str(&seen.body).expect("JSON");
        if seen.line.ends_with("/complete") {
            assert_eq!(json["status"], "completed");
            self.listed.retain(|job| *job != name);
            *self.taken.entry(name).or_default() += 1;
        } else {
            assert!(json.get("completedAt").is_none() && json.get("output").is_some());
            let job = name.trim_start_matches("exec-").to_owned();
            if !self.listed.contains(&job) {
                self.listed.push(job);
            }
            *self.updated.entry(name).or_default() += 1;
        }
        ok(r#"{"success":true}"#)
    }
}

fn job_of(seen: &Seen) -> &str {
    seen.line.split('/').nth(4).unwrap_or_default()
}

fn is_complete(seen: &Seen) -> bool {
    seen.line.ends_with("/complete")
}

/// Starts a backend; `fault` may answer in its place, before or after it acted.
fn serve(
    backend: &Arc<Mutex<Backend>>,
    fault: impl Fn(&Seen, usize, &mut Backend) -> Option<Act> + Send + Sync + 'static,
) -> Server {
    let backend = Arc::clone(backend);
    Server::start(move |seen, n| {
        let mut backend = backend.lock().expect("lock");
        fault(seen, n, &mut backend).unwrap_or_else(|| backend.act(seen))
    })
}

fn none(_: &Seen, _: usize, _: &mut Backend) -> Option<Act> {
    None
}

fn error(status: u16) -> Option<Act> {
    Some(Act::Answer(status, "", r#"{"error":"as planned"}"#.to_owned()))
}

fn terms() -> Terms {
    let (initial, max) = (Duration::from_millis(10), Duration::from_millis(50));
    let backoff = Backoff { growth: Growth::Exponential, initial, max };
    let (least_offer, settle) = (Duration::ZERO, limits::REPORT_SETTLE);
    let (ask, spread, step) = (limits::OUTBOX_ASK, Duration::ZERO, Duration::from_millis(1));
    Terms { retention: Duration::from_secs(3600), least_offer, backoff, settle, ask, spread, step }
}

/// What became of the first try.
#[derive(Debug, PartialEq)]
enum Handed {
    Taken,
    Waiting,
    SetAside(String),
}

/// An outbox whose thread ends with it.
struct Running {
    outbox: Outbox,
    thread: Option<Thread>,
}

impl Running {
    fn start(opened: Opened, server: &Server, terms: Terms) -> Self {
        Self::watched(opened, server, terms, Pulse::unwatched())
    }

    fn watched(opened: Opened, server: &Server, terms: Terms, pulse: Pulse) -> Self {
        let Opened { records, ended, .. } = opened;
        let (outbox, thread) = Outbox::start(records, &server.client(), ended, terms, pulse).expect("a thread");
        Self { outbox, thread: Some(thread) }
    }

    /// Hands a report over, and waits for its first try.
    fn report(&self, entry: Entry) -> Result<Handed, Refused> {
        let (job, before) = (entry.job.clone(), self.outbox.state().set_aside);
        self.outbox.hand_over(entry, Tried::default(), None, |_| ())?;
        assert!(self.outbox.wait_for_first_tries(Duration::from_secs(20)), "it is not tried");
        let state = self.outbox.state();
        Ok(match self.outbox.holds(&job) {
            true => Handed::Waiting,
            false if state.set_aside > before => Handed::SetAside(state.last_error.unwrap_or_default()),
            false => Handed::Taken,
        })
    }

    fn enter(&self, entry: Entry, tried: Tried) -> Result<(), Refused> {
        self.outbox.hand_over(entry, tried, None, |_| ())
    }

    fn wait_until_empty(&self) {
        wait_for("the outbox to be empty", || self.outbox.state().waiting == 0);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.outbox.stop();
        if let Some(thread) = self.thread.take() {
            assert_eq!(thread.join_within(Duration::from_secs(10)), threads::Ended::Returned);
        }
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn report(job: &str) -> Entry {
    entry(job, ended(now_ms(), "out\n"))
}

#[test]
fn a_report_that_is_taken_at_once_leaves_only_the_memory_of_its_job() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    let server = serve(&backend, none);
    let running = Running::start(scratch.open(), &server, terms());
    assert_eq!(running.report(report("a")).expect("room"), Handed::Taken);
    assert_eq!(server.lines().len(), 2, "the record, then the report: {:?}", server.lines());
    assert!(server.lines()[0].contains("/executions/exec-a/update"));
    assert!(scratch.names("jobs").is_empty());
    let done = running.outbox.0.records.done().lookup(&id("a")).expect("remembered");
    assert_eq!(
        (done.attempts, done.status.as_str(), done.exit_code, done.message.as_str()),
        (1, "completed", 0, "fine")
    );
    let early = entry("early", started());
    assert!(running.report(early.clone()).is_err() && running.enter(early, Tried::default()).is_err());
}

/// A report of a job of which a folder may be left on a server.
fn with_a_folder(job: &str) -> Entry {
    let Place::Servers(mut pages) = servers() else { panic!("servers") };
    pages[0].remains = true;
    Entry { place: Place::Servers(pages), ..report(job) }
}

#[test]
fn the_page_of_a_report_says_that_a_folder_is_left_until_that_is_cleared() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a", "b"]));
    let away = Arc::new(AtomicBool::new(false));
    let server = serve(&backend, {
        let away = Arc::clone(&away);
        move |_, _, _| if away.load(Ordering::SeqCst) { error(503) } else { None }
    });
    let running = Running::start(scratch.open(), &server, terms());
    let records = running.outbox.0.records.clone();
    let on_disk = |job: &str| records.read(&id(job)).expect("read").map(|page| page.has_remains());
    let deliver = |entry: &Entry, safe: &mut dyn FnMut(bool)| {
        running.outbox.hand_over(entry.clone(), Tried::default(), None, safe).expect("kept");
        running.outbox.wait_for_first_tries(Duration::from_secs(20));
        if running.outbox.holds(&entry.job) { Handed::Waiting } else { Handed::Taken }
    };
    // Taken at once: the removal is asked for when the page is on disk and before the report goes.
    let a = with_a_folder("a");
    let mut seen = None;
    assert!(matches!(
        deliver(&a, &mut |written| seen = Some((written, on_disk("a"), server.lines().len()))),
        Handed::Taken
    ));
    assert_eq!((seen, on_disk("a")), (Some((true, Some(true), 0)), Some(true)));
    running.outbox.cleared(&a.job, &id("exec-of-another-attempt"));
    assert_eq!(on_disk("a"), Some(true));
    running.outbox.cleared(&a.job, &a.execution);
    assert_eq!(on_disk("a"), None);
    // Taken later, after or before it was cleared.
    for cleared_first in [true, false] {
        let b = with_a_folder("b");
        away.store(true, Ordering::SeqCst);
        assert!(matches!(deliver(&b, &mut |_| ()), Handed::Waiting));
        let clear = || running.outbox.cleared(&b.job, &b.execution);
        if cleared_first {
            clear();
            assert!(on_disk("b").is_some(), "its report waits");
        }
        away.store(false, Ordering::SeqCst);
        running.outbox.kick();
        wait_for("the report to be taken", || !running.outbox.holds(&b.job));
        if !cleared_first {
            assert_eq!(on_disk("b"), Some(true));
            clear();
        }
        assert_eq!(on_disk("b"), None);
    }
}

#[test]
fn each_fault_ends_in_exactly_one_report() {
    type Fault = fn(&Seen, usize, &mut Backend) -> Option<Act>;
    let faults: [(&str, Fault); 8] = [
        ("500 to everything for a while", |_, n, _| if n < 9 { error(500) } else { None }),
        ("503 to the report, not processed", |seen, n, _| if is_complete(seen) && n < 9 { error(503) } else { None }),
        ("429", |seen, n, _| if is_complete(seen) && n < 4 { error(429) } else { None }),
        ("a wrong token that is replaced", |_, n, _| if n < 5 { error(401) } else { None }),
        ("taken, the answer cut", |seen, _, backend| {
            if is_complete(seen) {
                drop(backend.act(seen));
                return Some(Act::Cut);
            }
            None
        }),
        ("taken, answered 502", |seen, _, backend| {
            if is_complete(seen) {
                drop(backend.act(seen));
                return error(502);
            }
            None
        }),
        ("cut before it was taken, twice", |seen, n, _| if is_complete(seen) && n < 5 { Some(Act::Cut) } else { None }),
        ("no list after a cut", |seen, n, backend| match is_complete(seen) {
            true if n < 3 => {
                drop(backend.act(seen));
                Some(Act::Cut)
            }
            _ if seen.line.starts_with("GET") && n < 6 => error(404),
            _ => None,
        }),
    ];
    for (name, fault) in faults {
        let (scratch, backend) = (Scratch::new(), Backend::shared(&["a", "b"]));
        let server = serve(&backend, fault);
        let running = Running::start(scratch.open(), &server, terms());
        for job in ["a", "b"] {
            running.report(report(job)).expect("room");
        }
        running.wait_until_empty();
        let (taken, jobs) = (backend.lock().expect("lock").taken.clone(), scratch.names("jobs"));
        assert_eq!(taken, BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]), "{name}: {:?}", server.lines());
        assert!(jobs.is_empty(), "{name}: {jobs:?}");
        assert_eq!(
            running.outbox.state(),
            State { waiting: 0, oldest: None, set_aside: 0, last_error: None, retention: terms().retention },
            "{name}"
        );
    }
}

#[test]
fn a_restart_asks_before_it_sends_and_the_report_arrives_once() {
    let scratch = Scratch::new();
    let backend = Backend::shared(&["sent-not", "unsure"]);
    {
        // The agent is killed when `sent` was taken, before it could say so; the others wait.
        let records = scratch.open().records;
        for job in ["sent", "sent-not", "unsure", "seen-taken"] {
            records.put(&report(job)).expect("put");
        }
        records.put(&entry("runs", started())).expect("put");
        let done = Done {
            job: id("seen-taken"),
            attempts: 1,
            status: "completed".into(),
            exit_code: 0,
            message: String::new(),
            at_ms: now_ms(),
        };
        assert!(records.done().remember(done));
    }
    let down = Arc::new(AtomicBool::new(true));
    let away = Arc::clone(&down);
    let server = serve(&backend, move |_, _, _| if away.load(Ordering::SeqCst) { error(500) } else { None });
    for _ in 0..2 {
        // Twice without a backend.
        let opened = scratch.open();
        assert_eq!(opened.open, [entry("runs", started())]);
        let running = Running::start(opened, &server, terms());
        assert!(running.outbox.holds(&id("unsure")) && !running.outbox.holds(&id("runs")));
        assert!(!running.outbox.holds(&id("seen-taken")), "nothing is asked about that one");
        let before = server.lines().len();
        wait_for("some tries", || server.lines().len() > before + 6);
        let state = running.outbox.state();
        assert!(state.waiting == 3 && state.oldest.is_some(), "{state:?}");
        assert!(state.last_error.is_some_and(|why| why.contains("500")));
    }
    down.store(false, Ordering::SeqCst);
    let running = Running::start(scratch.open(), &server, terms());
    running.wait_until_empty();
    let backend = backend.lock().expect("lock");
    assert_eq!(backend.taken, BTreeMap::from([("sent-not".to_owned(), 1), ("unsure".to_owned(), 1)]));
    assert!(!backend.updated.contains_key("exec-sent"), "an update would open the job again");
    assert_eq!(backend.listed, Vec::<String>::new());
    assert_eq!(scratch.names("jobs"), ["runs.job"]);
    for job in ["sent", "sent-not", "unsure", "seen-taken"] {
        assert!(running.outbox.0.records.done().lookup(&id(job)).is_some(), "{job}");
    }
    assert!(!server.lines().iter().any(|line| line.contains("seen-taken")));
}

#[test]
fn a_full_list_is_worked_off_without_a_second_report() {
    let scratch = Scratch::new();
    let names: Vec<String> = (0..130).map(|n| format!("j{n:03}")).collect();
    let backend = Backend::shared(&names.iter().map(String::as_str).collect::<Vec<_>>());
    {
        let records = scratch.open().records;
        for (n, job) in (0..).zip(&names) {
            records.put(&entry(job, ended(now_ms() - 1000 + n, ""))).expect("put");
        }
        records.put(&entry("gone", ended(1, ""))).expect("put");
    }
    let server = serve(&backend, |seen, _, backend| {
        if !seen.line.starts_with("GET") {
            return None;
        }
        let rows: Vec<_> =
            backend.listed.iter().take(100).map(|job| format!(r#"{{"id":"{job}","status":"running"}}"#)).collect();
        Some(ok(&format!("[{}]", rows.join(","))))
    });
    let running = Running::start(scratch.open(), &server, terms());
    running.wait_until_empty();
    let taken = backend.lock().expect("lock").taken.clone();
    assert!(taken.len() == 130 && taken.values().all(|&n| n == 1), "{taken:?}");
    let lines = server.lines();
    let asked = lines.iter().filter(|line| line.starts_with("GET")).count();
    assert!(asked < 10, "one list serves many reports: {asked}");
    let order = lines.iter().filter(|line| line.ends_with("/complete"));
    let order = order.filter_map(|line| line.split('/').nth(4)?.strip_prefix('j')?.parse::<usize>().ok());
    let (old, young): (Vec<_>, Vec<_>) =
        order.enumerate().filter(|(_, job)| !(80..100).contains(job)).partition(|(_, job)| *job < 80);
    assert!(old.iter().max() < young.iter().min(), "the oldest first, but for those that go side by side");
}

#[test]
fn what_is_refused_for_good_is_set_aside_and_blocks_nothing() {
    for status in [400, 403, 404, 409, 413, 422] {
        let (scratch, backend) = (Scratch::new(), Backend::shared(&["first", "bad", "good"]));
        let server = serve(&backend, move |seen, n, _| {
            if n < 2 {
                error(503)
            } else if job_of(seen) == "bad" {
                error(status)
            } else {
                None
            }
        });
        let running = Running::start(scratch.open(), &server, terms());
        running.enter(report("bad"), Tried::default()).expect("room");
        running.enter(report("good"), Tried::lost()).expect("room");
        running.wait_until_empty();
        assert!(
            matches!(running.report(report("bad")).expect("room"), Handed::SetAside(why) if why.contains("as planned"))
        );
        assert_eq!(backend.lock().expect("lock").taken, BTreeMap::from([("good".to_owned(), 1)]), "{status}");
        let records = &running.outbox.0.records;
        let asides: Vec<_> = records.quarantined().into_iter().map(|aside| (aside.job, aside.why)).collect();
        assert_eq!(asides.len(), 2);
        assert!(
            asides.iter().all(|(job, why)| *job == Some(id("bad")) && why.contains(&status.to_string())),
            "{asides:?}"
        );
        assert!(scratch.names("jobs").is_empty() && records.done().lookup(&id("bad")).is_some());
        assert_eq!(running.outbox.state().set_aside, 2);
    }
}

#[test]
fn one_report_that_always_fails_holds_up_no_other() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["stuck", "x1", "x2", "x3"]));
    let server = serve(&backend, |seen, _, _| match job_of(seen) {
        "stuck" => Some(Act::Cut),
        _ => None,
    });
    let patient = Terms { retention: Duration::from_secs(100 * 366 * 86_400), ..terms() };
    let running = Running::start(scratch.open(), &server, patient);
    running.enter(entry("stuck", ended(1, "")), Tried::default()).expect("room");
    for job in ["x1", "x2", "x3"] {
        running.enter(report(job), Tried::default()).expect("room");
    }
    wait_for("the others", || backend.lock().expect("lock").taken.len() == 3);
    wait_for("their answers", || running.outbox.state().waiting == 1);
    assert!(running.outbox.holds(&id("stuck")));
    let oldest = running.outbox.state().oldest.expect("it waits");
    assert!(oldest > Duration::from_secs(50 * 365 * 86_400), "{oldest:?}");
}

#[test]
fn a_report_is_given_up_after_its_retention() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["old", "young"]));
    let server = serve(&backend, |_, _, _| error(503));
    let slow = Terms { least_offer: Duration::from_millis(300), ..terms() };
    let running = Running::start(scratch.open(), &server, slow);
    let begun = Instant::now();
    running.enter(entry("old", ended(now_ms() - 3_700_000, "")), Tried::default()).expect("room");
    running.enter(report("young"), Tried::default()).expect("room");
    wait_for("the old one to be given up", || running.outbox.state().set_aside == 1);
    assert!(begun.elapsed() >= Duration::from_millis(300), "a clock that jumped is not believed at once");
    assert!(running.outbox.holds(&id("young")) && !running.outbox.holds(&id("old")));
    let aside = running.outbox.0.records.quarantined().pop().expect("kept");
    assert_eq!(aside.job, Some(id("old")));
    assert!(aside.why.contains("jobs.reportRetention") && aside.why.contains("503"), "{}", aside.why);
}

/// The list of the backend may still hold a job whose report is on its way: it is asked a second after, not before.
#[test]
fn a_list_from_before_the_last_try_is_not_believed() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a", "b"]));
    // What is sent is taken, and its answer is cut.
    let server = serve(&backend, |seen, n, backend| {
        let complete = is_complete(seen);
        if complete && n < 12 {
            drop(backend.act(seen));
            return Some(Act::Cut);
        }
        None
    });
    {
        let records = scratch.open().records;
        ["a", "b"].iter().for_each(|job| records.put(&report(job)).expect("put"));
    }
    let begun = Instant::now();
    let running = Running::start(scratch.open(), &server, terms());
    running.wait_until_empty();
    assert!(begun.elapsed() >= limits::REPORT_SETTLE);
    let taken = backend.lock().expect("lock").taken.clone();
    assert_eq!(taken, BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]), "{:?}", server.lines());
}

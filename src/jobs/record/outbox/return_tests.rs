//! The return of a backend that was away: for one report, for a thousand, and for two hundred agents at once.

use std::io::Write as _;

use super::super::queue::Next;
use super::*;
use crate::wire::random::Random;

/// A backend that can be away: then it answers nothing.
fn with_outages(backend: &Arc<Mutex<Backend>>) -> (Server, Arc<AtomicBool>) {
    let away = Arc::new(AtomicBool::new(true));
    let (gone, own) = (Arc::clone(&away), Arc::clone(backend));
    let server = Server::start(move |seen, _| match gone.load(Ordering::SeqCst) {
        true => Act::Cut,
        false if seen.line.ends_with("/orchestrator/health") => ok("{}"),
        false => own.lock().expect("lock").act(seen),
    });
    (server, away)
}

/// The terms of an agent, whose backend was away for so long that each pause is the longest.
fn long_away() -> Terms {
    let terms = Terms::new(Duration::from_secs(3600));
    let backoff = Backoff { growth: Growth::Fixed, initial: limits::OUTBOX_MOST, max: limits::OUTBOX_MOST };
    Terms { backoff, ..terms }
}

#[test]
fn one_report_goes_within_two_seconds_of_the_return() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    let (server, away) = with_outages(&backend);
    let running = Running::start(scratch.open(), &server, long_away());
    assert_eq!(running.report(report("a")).expect("room"), Handed::Waiting);
    std::thread::sleep(Duration::from_secs(4));
    let asked = server.lines().iter().filter(|line| line.ends_with("/orchestrator/health")).count();
    assert!((3..=6).contains(&asked), "asked {asked} times in 4 s");
    away.store(false, Ordering::SeqCst);
    let begun = Instant::now();
    running.wait_until_empty();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let lines = server.lines().len();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(server.lines().len(), lines, "where nothing waits, nothing is asked");
}

#[test]
fn any_call_of_the_agent_and_a_live_log_are_signs_of_the_return() {
    for sign in ["a poll", "the live log"] {
        let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
        let (server, away) = with_outages(&backend);
        let client = server.client();
        let terms = Terms { ask: Duration::from_secs(3600), ..long_away() };
        let Opened { records, ended, .. } = scratch.open();
        let (outbox, thread) = Outbox::start(records, &client, ended, terms, Pulse::unwatched()).expect("a thread");
        let running = Running { outbox, thread: Some(thread) };
        assert_eq!(running.report(report("a")).expect("room"), Handed::Waiting);
        client.row_status(&id("b")).expect_err("away");
        away.store(false, Ordering::SeqCst);
        match sign {
            "a poll" => drop(client.separate().row_status(&id("b")).expect("back")),
            _ => client.is_back(),
        }
        let begun = Instant::now();
        running.wait_until_empty();
        assert!(begun.elapsed() < Duration::from_secs(2), "{sign}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_report_that_fails_alone_is_no_outage_and_a_poll_that_succeeds_no_return() {
    let (scratch, backend) = (Scratch::new(), Backend::shared(&["a"]));
    let server = serve(&backend, |seen, _, _| match &seen.line {
        line if line.ends_with("/complete") => error(503),
        line if line.ends_with("/orchestrator/health") => Some(ok("{}")),
        _ => None,
    });
    let client = server.client();
    let running = Running::start(scratch.open(), &server, long_away());
    assert_eq!(running.report(report("a")).expect("room"), Handed::Waiting);
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        client.row_status(&id("b")).expect("an answer");
        std::thread::sleep(Duration::from_millis(100));
    }
    let lines = server.lines();
    let count = |end: &str| lines.iter().filter(|line| line.ends_with(end)).count();
    assert_eq!((count("/complete"), count("/orchestrator/health")), (1, 1), "{lines:?}");
}

#[test]
fn a_thousand_reports_go_within_half_a_minute_of_the_return_oldest_first() {
    let names: Vec<String> = (0..1000).map(|n| format!("j{n:04}")).collect();
    let (scratch, backend) = (Scratch::new(), Backend::shared(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    let (server, away) = with_outages(&backend);
    let running = Running::start(scratch.open(), &server, long_away());
    for (n, job) in (0..).zip(&names) {
        running
            .outbox
            .hand_over(entry(job, ended(now_ms() - 5000 + n, "")), Tried::default(), None, |_| ())
            .expect("room");
    }
    assert!(running.outbox.wait_for_first_tries(Duration::from_secs(60)), "each is tried once");
    away.store(false, Ordering::SeqCst);
    let begun = Instant::now();
    let taken = || backend.lock().expect("lock").taken.len();
    wait_for("the first one", || taken() > 0);
    let first = begun.elapsed();
    assert!(first < Duration::from_secs(2), "{first:?}");
    std::thread::sleep(Duration::from_secs(1));
    assert!(taken() < 10, "slowly at first: {}", taken());
    while taken() < names.len() && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = writeln!(std::io::stderr(), "the first after {first:?}, all after {:?}", begun.elapsed());
    let backend = backend.lock().expect("lock");
    assert!(backend.taken.len() == names.len() && backend.taken.values().all(|n| *n == 1), "{}", backend.taken.len());
}

/// By the rules that each agent keeps: what two hundred agents ask of a backend that comes back, each with five reports.
#[test]
fn two_hundred_agents_with_reports_do_not_stampede() {
    const AGENTS: usize = 200;
    const REPORTS: u64 = 5;
    let terms = Terms::new(Duration::from_secs(3600));
    let (call, mut random) = (Duration::from_millis(20), Random::new(11));
    let mut unit = || random.below(1_000_000) as f64 / 1e6;
    let start = Instant::now();
    let (mut calls, mut first, mut last) = (Vec::<Duration>::new(), Duration::ZERO, Duration::ZERO);
    for _ in 0..AGENTS {
        let mut queue = Queue::default();
        for n in 0..REPORTS {
            let job = id(&format!("job-{n}"));
            queue.insert(job.clone(), Item::new(n, Tried::default(), None, start));
            queue.failed(&job, start, &terms, Duration::ZERO, unit());
        }
        // It asks at any moment of its round, and hears at the first question after the return.
        let heard = terms.ask.mul_f64((0.8 + 0.4 * unit()) * unit());
        calls.push(heard);
        let mut now = start + heard;
        assert!(queue.returned(now, &terms, unit()));
        let mut own = Vec::new();
        while queue.len() > 0 {
            match queue.next(now) {
                Next::Try(job) => {
                    own.push(now - start);
                    calls.extend([now - start, now - start + call]);
                    queue.remove(&job);
                    queue.answered(now, &terms, unit());
                }
                Next::Wait(wait) => now += wait,
                Next::Ask => panic!("it is back"),
            }
        }
        (first, last) = (first.max(own[0]), last.max(*own.last().expect("a report")));
    }
    let busiest = |length: Duration| {
        let within = |at: &Duration| calls.iter().filter(|other| (*at..*at + length).contains(*other)).count();
        calls.iter().map(within).max().expect("some")
    };
    let (second, tenth) = (busiest(Duration::from_secs(1)), busiest(Duration::from_millis(100)));
    let _ = writeln!(
        std::io::stderr(),
        "{second} calls in the busiest second, {tenth} in the busiest tenth; first reports after {first:?}, all after {last:?}"
    );
    // At once, it would be two thousand in a tenth of a second.
    assert!(second <= 800 && tenth <= 110, "{second} in a second, {tenth} in a tenth");
    assert!(first < Duration::from_secs(2) && last < Duration::from_secs(8), "{first:?}, {last:?}");
}

//! Which report is next, by the clock of the test.

use std::io::Write as _;

use super::*;
use crate::jobs::record::store_tests::{ended, entry, id};

fn queue(now: Instant, jobs: &[(&str, u64)]) -> Queue {
    let mut queue = Queue::default();
    for (job, since) in jobs {
        queue.insert(id(job), Item::new(*since, Tried::default(), None, now));
    }
    queue
}

#[test]
fn the_oldest_goes_first_and_one_that_fails_blocks_none() {
    let now = Instant::now();
    let terms = Terms::new(Duration::from_secs(60));
    let mut queue = queue(now, &[("a", 3), ("b", 1), ("c", 2)]);
    assert_eq!(queue.oldest_ms(), Some(1));
    assert_eq!(queue.next(now), Next::Try(id("b")));
    assert_eq!(queue.failed(&id("b"), now, &terms, Duration::ZERO, 0.0), (1, false));
    // Due at once again, but behind those that did not fail.
    assert_eq!(queue.next(now), Next::Try(id("c")));
    queue.remove(&id("c"));
    queue.answered(now, &terms, 0.0);
    assert_eq!(queue.next(now), Next::Try(id("a")));
    queue.remove(&id("a"));
    assert_eq!(queue.next(now), Next::Try(id("b")));
    queue.failed(&id("b"), now, &terms, Duration::ZERO, 1.0);
    assert_eq!(queue.next(now), Next::Wait(Duration::from_secs(2)));
    assert_eq!(queue.next(now + Duration::from_secs(2)), Next::Try(id("b")));
    queue.remove(&id("b"));
    assert_eq!(queue.next(now), Next::Wait(limits::OUTBOX_TICK));
}

/// Against a look at all of them, which is what the order means.
#[test]
fn the_order_is_that_of_a_look_at_all_of_them() {
    let start = Instant::now();
    let terms = Terms::new(Duration::from_secs(60));
    let (mut queue, mut now, mut random) = (Queue::default(), start, 1_u64);
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for step in 0..20_000 {
        let job = id(&format!("job-{}", draw(40)));
        match draw(8) {
            0 | 1 => queue.insert(job, Item::new(draw(20), Tried::default(), None, now)),
            2 => drop(queue.remove(&job)),
            3 | 4 => drop(queue.failed(&job, now, &terms, Duration::from_millis(draw(900)), 0.5)),
            5 => queue.look_again(&job, now, &terms, 0.5),
            6 if draw(10) == 0 => queue.kick(now),
            _ => now += Duration::from_millis(draw(1500)),
        }
        (queue.away, queue.pause, queue.ramp) = (0, None, None);
        let all = || queue.items.iter();
        let due = all().filter(|(_, item)| item.due <= now);
        let first = due.min_by_key(|(job, item)| (item.failures, item.since_ms, *job)).map(|(job, _)| job.clone());
        let next = all().map(|(_, item)| item.due).min().unwrap_or(now + limits::OUTBOX_TICK);
        let wait = next.saturating_duration_since(now).min(limits::OUTBOX_TICK);
        let (oldest, count) = (all().map(|(_, item)| item.since_ms).min(), queue.items.len());
        let due = queue.next(now);
        assert_eq!(due, first.map_or(Next::Wait(wait), Next::Try), "step {step}");
        let busy = usize::from(matches!(due, Next::Try(_)));
        let known = (queue.oldest_ms(), queue.later.len() + queue.ready.len() + busy, queue.busy);
        assert_eq!(known, (oldest, count, busy), "step {step}");
        if let Next::Try(job) = due {
            // As if nobody were at it.
            queue.put_off(&job, |_| ());
        }
    }
}

#[test]
fn a_step_with_as_many_reports_as_may_wait_costs_no_look_at_all_of_them() {
    let now = Instant::now();
    let terms = Terms::new(Duration::from_secs(60));
    let mut queue = Queue::default();
    for n in 0..limits::OUTBOX_REPORTS {
        queue.insert(id(&format!("job-{n}")), Item::new(n as u64, Tried::default(), None, now));
    }
    let begun = Instant::now();
    for _ in 0..limits::OUTBOX_REPORTS {
        let Next::Try(job) = queue.next(now) else { panic!("none is due") };
        let _ = (queue.oldest_ms(), queue.failed(&job, now, &terms, Duration::ZERO, 1.0));
        queue.answered(now, &terms, 1.0);
    }
    let took = begun.elapsed();
    let _ = writeln!(std::io::stderr(), "{} steps: {took:?}", limits::OUTBOX_REPORTS);
    // A look at all of them at each step takes minutes.
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn pauses_grow_to_a_minute() {
    let now = Instant::now();
    let terms = Terms::new(Duration::from_secs(60));
    let mut queue = queue(now, &[("a", 1)]);
    for want in [1, 2, 4, 8, 16, 32, 60, 60] {
        queue.failed(&id("a"), now, &terms, Duration::ZERO, 1.0);
        queue.away = 0;
        assert_eq!(queue.items[&id("a")].due, now + Duration::from_secs(want));
    }
}

#[test]
fn failures_in_a_row_pause_all_until_a_kick_or_an_answer() {
    let now = Instant::now();
    let terms = Terms::new(Duration::from_secs(60));
    let mut queue = queue(now, &[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let least = Duration::from_secs(5);
    for (job, away) in [("a", false), ("b", false), ("c", true)] {
        assert_eq!(queue.failed(&id(job), now, &terms, least, 0.5), (1, away));
    }
    assert_eq!(queue.next(now), Next::Wait(Duration::from_millis(500)), "d waits too");
    assert!(queue.returned(now, &terms, 0.0));
    assert_eq!(queue.next(now), Next::Try(id("d")));
    queue.remove(&id("d"));
    // Retry-After applies to woken entries too.
    assert_eq!(queue.next(now), Next::Wait(least));
    assert_eq!(queue.next(now + least), Next::Try(id("a")));
    queue.look_again(&id("a"), now + least, &terms, 0.0);
    let next = now + least + terms.step;
    assert_eq!(queue.next(next), Next::Try(id("b")), "one after the other");
}

#[test]
fn a_new_report_is_tried_once_whatever_became_of_the_others() {
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let terms = Terms::new(Duration::from_secs(60));
    let mut queue = queue(now, &[("a", 1)]);
    for _ in 0..limits::OUTBOX_AWAY {
        queue.failed(&id("a"), now, &terms, Duration::ZERO, 1.0);
    }
    queue.insert(id("new"), Item { is_new: true, ..Item::new(2, Tried::default(), None, now) });
    assert_eq!((queue.next(now), queue.has_new()), (Next::Try(id("new")), true));
    queue.failed(&id("new"), now, &terms, second * 50, 1.0);
    assert!(matches!(queue.next(now + second / 2), Next::Wait(_)) && !queue.has_new());
    // Failures that come together make no longer pause.
    queue.insert(id("b"), Item::new(3, Tried::default(), None, now));
    assert!(matches!(queue.next(now + second / 2), Next::Wait(_)), "b is not new");
    assert_eq!((queue.next(now + second * 4), queue.away), (Next::Try(id("b")), limits::OUTBOX_AWAY));
    assert!(matches!(queue.next(now + second * 4), Next::Wait(_)), "one at a time while it is away");
}

#[test]
fn a_bounded_number_is_busy_at_once() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for n in 0..limits::OUTBOX_SENDERS as u64 + 1 {
        queue.insert(id(&format!("job-{n}")), Item::new(n, Tried::default(), None, now));
    }
    let busy: Vec<_> = std::iter::from_fn(|| match queue.next(now) {
        Next::Try(job) => Some(job),
        _ => None,
    })
    .collect();
    assert_eq!((busy.len(), queue.has_others()), (limits::OUTBOX_SENDERS, true));
    queue.remove(&busy[3]);
    assert!(matches!(queue.next(now), Next::Try(_)) && !queue.has_others());
}

#[test]
fn a_bounded_part_of_what_is_on_disk_stays_in_memory_until_its_first_try() {
    let (now, terms) = (Instant::now(), Terms::new(Duration::from_secs(60)));
    let mut queue = Queue::default();
    let big = Arc::new(entry("a", ended(1, &"x".repeat(limits::OUTBOX_NEW / 3))));
    assert!(queue.may_keep(big.report_size()));
    let mut item = Item::new(1, Tried::default(), Some(Arc::clone(&big)), now);
    (item.on_disk, item.is_new) = (true, true);
    queue.insert(id("a"), item);
    assert!(!queue.may_keep(big.report_size()) && queue.held().is_empty());
    queue.failed(&id("a"), now, &terms, Duration::ZERO, 1.0);
    assert!(queue.may_keep(big.report_size()) && queue.begin(&id("a")).is_some_and(|begun| begun.held.is_none()));
}

#[test]
fn after_its_return_the_oldest_go_first_and_slowly() {
    let now = Instant::now();
    let terms = Terms::new(Duration::from_secs(60));
    let names: Vec<String> = (0..40).map(|n| format!("job-{n:02}")).collect();
    let mut queue = Queue::default();
    for (n, name) in (0..).zip(&names) {
        queue.insert(id(name), Item::new(n, Tried::default(), None, now));
        queue.failed(&id(name), now, &terms, Duration::ZERO, 1.0);
    }
    queue.insert(id("new"), Item { is_new: true, ..Item::new(99, Tried::default(), None, now) });
    assert!(queue.returned(now, &terms, 1.0), "something waited");
    let (mut at, mut order, mut longest) = (now, Vec::new(), Duration::ZERO);
    while order.len() < 41 {
        match queue.next(at) {
            Next::Wait(wait) => (at, longest) = (at + wait, longest.max(wait)),
            Next::Try(job) => {
                order.push((job.to_string(), at - now));
                queue.remove(&job);
                queue.answered(at, &terms, 1.0);
            }
            Next::Ask => panic!("the backend is back"),
        }
    }
    assert_eq!(order[0].1, terms.spread);
    assert!(longest < terms.step && order.iter().map(|(job, _)| job).is_sorted(), "{order:?}");
    assert!(order[5].1 > terms.step * 3 && order[40].1 < terms.step * 11, "{order:?}");
    assert!(queue.ramp.is_some() && matches!(queue.next(at), Next::Wait(_)) && queue.ramp.is_none());
    assert!(!queue.returned(at, &terms, 1.0), "nothing waits");
}

#[test]
fn it_is_asked_for_at_a_steady_pace_while_it_is_away_and_something_waits() {
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let terms = Terms::new(Duration::from_secs(60));
    let mut queue = Queue::default();
    queue.ask_now(now);
    assert_eq!(queue.next(now), Next::Wait(limits::OUTBOX_TICK), "nothing waits");
    queue.insert(id("a"), Item::new(1, Tried::default(), None, now));
    queue.failed(&id("a"), now, &terms, second * 50, 1.0);
    queue.ask_now(now);
    queue.ask_now(now);
    // At once, for its return is heard only of a call that has failed; and once, until that call has ended.
    assert_eq!((queue.next(now), queue.next(now)), (Next::Ask, Next::Wait(second * 30)));
    queue.ask_now(now);
    assert_eq!(queue.next(now), Next::Wait(second * 30));
    for unit in [0.0, 1.0] {
        queue.asked(true, now, &terms, unit);
        let pause = terms.ask.mul_f64(0.8 + 0.4 * unit);
        assert_eq!(queue.next(now), Next::Wait(pause));
        assert_eq!((queue.next(now + pause), queue.next(now + pause)), (Next::Ask, Next::Wait(second * 30)));
    }
    queue.asked(false, now, &terms, 0.5);
    assert_eq!(queue.ask, None);
    // A report that failed while the answer was under way asks anew.
    queue.ask_now(now);
    queue.asked(false, now, &terms, 0.5);
    assert_eq!(queue.next(now), Next::Ask);
}

#[test]
fn a_bounded_number_of_reports_is_known() {
    let (now, mut queue) = (Instant::now(), Queue::default());
    let one = |n: usize| entry(&format!("job-{n}"), ended(1, ""));
    for n in 0..limits::OUTBOX_REPORTS {
        queue.insert(id(&format!("job-{n}")), Item::new(1, Tried::default(), None, now));
    }
    let more = one(limits::OUTBOX_REPORTS);
    assert!(!queue.has_room(&more, false) && !queue.has_room(&more, true));
    assert!(queue.has_room(&one(7), false), "the same again takes no room");
    queue.remove(&id("job-0"));
    assert!(queue.has_room(&more, false));
}

/// Sixteen reports of eight megabytes would be 128 MB in memory.
#[test]
fn large_reports_do_not_go_side_by_side_beyond_their_bytes() {
    let now = Instant::now();
    let mut queue = Queue::default();
    let half = limits::OUTBOX_ON_THE_WAY / 2;
    for (job, since, bytes) in [("a", 1, half), ("b", 2, half), ("c", 3, 1), ("d", 4, 3 * half), ("e", 5, 1)] {
        queue.insert(id(job), Item { bytes, ..Item::new(since, Tried::default(), None, now) });
    }
    let waits = Next::Wait(limits::OUTBOX_TICK);
    for job in ["a", "b"] {
        assert_eq!(queue.next(now), Next::Try(id(job)));
    }
    assert_eq!(queue.next(now), waits);
    queue.remove(&id("a"));
    assert_eq!(queue.next(now), Next::Try(id("c")));
    // One that is larger than all may be goes alone, and no smaller one overtakes it.
    assert_eq!(queue.next(now), waits);
    queue.remove(&id("b"));
    assert_eq!(queue.next(now), waits);
    queue.look_again(&id("c"), now, &Terms::new(Duration::from_secs(60)), 0.0);
    assert_eq!(queue.next(now), Next::Try(id("d")));
    assert_eq!(queue.next(now), waits);
    queue.remove(&id("d"));
    assert_eq!(queue.next(now), Next::Try(id("e")));
    assert_eq!(queue.on_the_way, 1);
}

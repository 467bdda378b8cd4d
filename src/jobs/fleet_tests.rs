//! Many idle agents at one backend that cannot push, by the paces that they keep: what it is asked, and how long a job waits.

use std::io::Write as _;

use super::*;
use crate::policy::poll::Answer;
use crate::wire::random::Random;

const AGENTS: usize = 200;
/// Seconds that are simulated, and those of the start, when nothing is known yet, that do not count.
const LENGTH: f64 = 1300.0;
const START: f64 = 1000.0;

/// The second in which a moment is.
fn second(at: f64) -> usize {
    usize::try_from(Duration::from_secs_f64(at).as_secs()).expect("small")
}

/// The moments of something whose pauses `next` gives, in seconds.
fn moments(first: f64, mut next: impl FnMut(u32) -> f64) -> Vec<f64> {
    let (mut all, mut at, mut count) = (Vec::new(), first, 0);
    while at < LENGTH {
        all.push(at);
        at += next(count);
        count += 1;
    }
    all
}

/// The polls of an idle agent that starts at 0, in seconds.
fn polls_of(config: &Config, mut unit: impl FnMut() -> f64) -> Vec<f64> {
    let mut now = Instant::now();
    let mut pace = Pace::new(config.jobs.poll_interval, limits::POLL_UNPUSHED, now);
    moments(0.0, |_| {
        pace.record(Answer::Jobs { asked: 5, got: 0, next_after: None }, now, unit());
        let pause = pace.due() - now;
        now = pace.due();
        pause.as_secs_f64()
    })
}

#[test]
fn agents_that_start_at_one_moment_poll_evenly_ten_seconds_later() {
    let config = crate::config::defaults();
    let mut random = Random::new(11);
    let mut tenths = vec![0_u32; 10 * second(LENGTH)];
    for _ in 0..AGENTS {
        for at in polls_of(&config, || random.below(1_000_000) as f64 / 1e6) {
            tenths[second(at * 10.0)] += 1;
        }
    }
    let busiest = tenths[100..].iter().max().expect("some");
    let _ = writeln!(std::io::stderr(), "{} polls in the first 100 ms, {busiest} in the busiest after 10 s", tenths[0]);
    // Nine on average; in step they are up to two hundred.
    assert!(*busiest <= 30, "{busiest}");
}

#[test]
fn two_hundred_idle_agents_make_a_hundred_requests_a_second_and_start_a_job_within_two_and_a_half() {
    let config = crate::config::defaults();
    let renewal = config.jobs.lease_renewal.as_secs_f64();
    let mut random = Random::new(7);
    let mut unit = || random.below(1_000_000) as f64 / 1e6;
    let (mut asked, mut waits) = (vec![0_u32; second(LENGTH)], Vec::new());
    for _ in 0..AGENTS {
        // All begin at once, as after a power cut.
        let polls = polls_of(&config, &mut unit);
        let beats = moments(0.0, |_| renewal * (0.9 + 0.2 * unit()));
        // The live log that is not there. The row watch asks for nothing without a job, and the monitor asks only where no
        // other call has been answered within `limits::BACKEND_LOOK`, which polls are.
        let tries = moments(0.0, |count| {
            let most = limits::LOG_BACKOFF_ABSENT;
            let pause = limits::LOG_BACKOFF_FIRST.saturating_mul(1 << count.min(16)).min(most);
            pause.mul_f64(unit()).as_secs_f64()
        });
        assert!(limits::POLL_UNPUSHED * 2 < limits::BACKEND_LOOK);
        for at in polls.iter().chain(&beats).chain(&tries) {
            asked[second(*at)] += 1;
        }
        // A job is queued at any moment, and waits for the next poll.
        waits.extend((0..50).map(|_| {
            let queued = START + unit() * (LENGTH - START - 10.0);
            polls.iter().find(|poll| **poll >= queued).expect("a poll") - queued
        }));
    }
    let steady = &asked[second(START)..second(LENGTH) - 1];
    let mean = f64::from(steady.iter().sum::<u32>()) / steady.len() as f64;
    let most = steady.iter().max().expect("some");
    waits.sort_by(f64::total_cmp);
    let late = waits[waits.len() * 99 / 100];
    let _ = writeln!(
        std::io::stderr(),
        "{mean:.1} requests a second, {most} in the busiest; a job waits {late:.2} s for its poll at p99"
    );
    assert!(mean <= 100.0 && *most <= 140, "{mean} a second, {most} in the busiest");
    // What is left is for the claim and the start, which take some 0.3 s.
    assert!(late <= 2.25, "{late}");
}

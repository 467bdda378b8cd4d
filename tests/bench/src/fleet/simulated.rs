//! An agent without an engine: the real poller, heartbeat and client of the library, and workers that only wait.
//!
//! So what a backend gets of it at rest, in a burst and after an outage is what an agent sends. It has no live log, no
//! records and no outbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use cronium_agent::parts::fleet::{
    Claimed, Client, CompleteBody, Heartbeat, Live, Poller, RowStatus, Running, Slots, Status, Stop, Usage,
};
use cronium_agent::parts::{Id, Pulse, Secret, defaults, threads};
use cronium_dev_backend::DevBackend;
use crossbeam_channel::Receiver;

/// At the end of a fleet, for each thread.
const JOIN: Duration = Duration::from_secs(20);
/// Between two tries to report a job.
const AGAIN: Duration = Duration::from_millis(500);

type Outcome<T> = Result<T, String>;

/// What all agents of a fleet have in common.
#[derive(Clone)]
pub(crate) struct Terms {
    /// `jobs.pollBatchSize`; the default if none.
    pub(crate) batch: Option<usize>,
    /// How long each job takes.
    pub(crate) job: Duration,
    pub(crate) stop: Stop,
    /// Jobs that another agent had when this one acknowledged them.
    pub(crate) lost: Arc<AtomicUsize>,
}

pub(crate) struct Simulated {
    slots: Slots,
    threads: Vec<threads::Thread>,
}

impl Simulated {
    /// One with a default configuration and this id.
    pub(crate) fn start(id: &str, backend: &DevBackend, terms: &Terms) -> Outcome<Self> {
        let mut config = defaults();
        config.api.endpoint = format!("{}/api/internal", backend.url());
        config.api.token = Secret::new(backend.token());
        config.jobs.poll_batch_size = terms.batch.unwrap_or(config.jobs.poll_batch_size);
        let client = Client::new(&config.api, &config.tls, id, env!("CARGO_PKG_VERSION"), terms.stop.clone())
            .map_err(|error| error.to_string())?;
        let (running, slots) = (Running::new(), Slots::new(config.jobs.max_concurrent));
        let config = Live::new(config);
        let (hand, claims) = crossbeam_channel::bounded(0);
        let (admission, stop) = (Box::new(|| Ok(())), terms.stop.clone());
        let poller =
            Poller::new(&config, client.clone(), slots.clone(), running.clone(), hand, admission, stop.clone());
        let heartbeat = Heartbeat {
            client: client.clone(),
            running,
            config,
            on_result: Box::new(|_| {}),
            stop,
            pulse: Pulse::unwatched(),
        };
        let terms = terms.clone();
        let worker = threads::spawn("fleet-worker", move || work(&claims, &client, &terms));
        let threads = [worker, poller.spawn(), heartbeat.spawn()];
        let threads = threads.into_iter().collect::<Result<_, _>>().map_err(|error| format!("a thread: {error}"))?;
        Ok(Self { slots, threads })
    }

    /// Joins its threads; the stop of the terms is set.
    pub(crate) fn end(self) {
        self.slots.wake();
        for thread in self.threads {
            thread.join_within(JOIN);
        }
    }
}

/// Takes each job at once, as a free worker does, until the poller has ended.
fn work(claims: &Receiver<Claimed>, client: &Client, terms: &Terms) {
    let mut jobs: Vec<threads::Thread> = Vec::new();
    for claimed in claims {
        jobs.retain(|job| !job.is_finished());
        let (client, terms) = (client.clone(), terms.clone());
        jobs.extend(threads::spawn("fleet-job", move || run(&claimed, &client, &terms)));
    }
    for job in jobs {
        job.join_within(JOIN);
    }
}

/// The calls of a job, in the order of an agent's; the script is a pause.
fn run(claimed: &Claimed, client: &Client, terms: &Terms) {
    let id: &Id = claimed.claim.id();
    match client.acknowledge(id) {
        Ok(RowStatus::Claimed) => {}
        Err(error) if error.status() == Some(403) => {
            terms.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        Ok(_) | Err(_) => {
            let _ = client.release(id, "the acknowledgement was not taken");
            return;
        }
    }
    let started = SystemTime::now();
    let _ = client.status_running(id, None);
    terms.stop.wait(terms.job);
    let body = CompleteBody {
        status: Status::Completed,
        exit_code: 0,
        stdout: "",
        stderr: "",
        started,
        ended: SystemTime::now(),
        duration: terms.job,
        usage: Usage::default(),
        script_output: None,
        condition: None,
        receipt: None,
    };
    let report = body.to_json();
    while let Err(error) = client.complete(id, &report) {
        // It may have been taken: only an outbox could find that out.
        if error.is_ambiguous() || terms.stop.wait(AGAIN) {
            return;
        }
    }
}

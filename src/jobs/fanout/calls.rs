//! The calls to the backend about the records of a job's servers. No script and no worker waits for them.
//!
//! One thread of the job, `job-rows`, creates the records beside the scripts. The end on a server is on disk, together with
//! the update of its record, before the backend hears of it; then the server's own thread sends that update. What is not taken
//! when the job ends goes with its report. The report waits for the calls that are under way, since an update that arrives
//! late would open the job again.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::api;
use crate::job::Id;
use crate::jobs::ack_task::ExecutionRow;
use crate::jobs::context::JobContext;
use crate::jobs::record::{JobRecord, outbox};
use crate::limits;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::os::{clock, pulse};
use crate::redact::Redactor;
use crate::telemetry;

/// The thread that creates the records of the servers. Dropping it waits for the call that is under way.
pub(super) struct Rows {
    over: Stop,
    thread: Option<Thread>,
}

impl Rows {
    /// `rows`: the servers' places in the list, and what is to be created for each.
    pub(super) fn create(
        context: &JobContext,
        record: &Arc<JobRecord>,
        rows: Vec<(usize, ExecutionRow)>,
        redactor: &Redactor,
    ) -> Self {
        let over = Stop::new();
        if rows.is_empty() {
            return Self { over, thread: None };
        }
        let (ended, client) = (over.clone(), context.client.with_stop(over.clone()));
        let (record, redactor) = (Arc::clone(record), redactor.clone());
        let thread = threads::spawn("job-rows", move || {
            let job = record.job();
            for (at, row) in rows {
                let _context = telemetry::context(&job, &row.execution, &redactor);
                // The update of a server that has ended creates its record.
                if !ended.is_set() && record.part_is_open(at) {
                    row.create(&client, &job);
                    record.part_has_record(at);
                }
            }
        });
        let thread = thread.inspect_err(|error| {
            log::error!("cannot start a thread for the records of the servers, which come with their ends: {error}");
        });
        Self { over, thread: thread.ok() }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.over.set();
        if let Some(thread) = self.thread.take() {
            pulse::touch();
            thread.join_within(limits::ACK_TASK_WAIT);
        }
    }
}

/// The update of one server's record.
pub(super) struct PartCall {
    pub(super) at: usize,
    pub(super) execution: Id,
    /// The backend's id and the name of the server.
    pub(super) server: (Option<String>, String),
    pub(super) json: String,
    /// Whether the record on disk holds the same, output included.
    pub(super) is_on_disk: bool,
}

impl PartCall {
    /// Offers it to the backend once. What is not taken stays with the job's record, unless it is refused for ever.
    pub(super) fn make(self, client: &api::Client, job: &Id, record: &JobRecord) {
        let server = Some((self.server.0.as_deref(), self.server.1.as_str()));
        match client.execution_complete((job, &self.execution), server, &self.json) {
            Err(error) if !error.is_refusal() => {
                log::warn!("the execution's record is not complete yet: {error}");
                return;
            }
            Err(error) => log::warn!("the execution's record is not complete, and is not tried again: {error}"),
            Ok(()) => {}
        }
        record.part_is_taken(self.at);
    }
}

/// Of the calls that servers' threads make after the ends.
pub(super) struct Calls {
    done: Receiver<()>,
    pub(super) begun: usize,
}

impl Calls {
    /// For `count` servers, and what each thread sends to after a call.
    pub(super) fn of(count: usize) -> (Self, Sender<()>) {
        let (send, done) = bounded(count);
        (Self { done, begun: 0 }, send)
    }

    /// Waits for those that are under way, at most `wait` together.
    fn wait(&self, wait: Duration) {
        let until = clock::now() + wait;
        for _ in 0..self.begun {
            pulse::touch();
            if clock::receive(&self.done, until.saturating_duration_since(clock::now())).is_err() {
                return;
            }
        }
    }
}

/// What goes before the report: what the job's own calls make of it, `earlier`, and the calls about its servers.
pub(super) fn before_report(earlier: Option<outbox::Earlier>, rows: Rows, calls: Calls) -> Option<outbox::Earlier> {
    rows.over.set();
    if rows.thread.is_none() && calls.begun == 0 {
        return earlier;
    }
    Some(Box::new(move || {
        let lines = earlier.and_then(|earlier| earlier());
        calls.wait(limits::ACK_TASK_WAIT);
        drop(rows);
        lines
    }))
}

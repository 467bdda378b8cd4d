//! One try to deliver a report: the execution's record first, then `complete`, which is the one that counts.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::report::{self, Delivery, Fate};
use crate::api::{Client, Error, Orphans, RowStatus};
use crate::job::Id;
use crate::jobs::record::{Entry, Report};
use crate::limits;
use crate::os::{clock, pulse};
use crate::verdict::Status;

/// What the tries so far have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// How many updates of records the backend has taken, or finally refused.
    updates: usize,
    /// Failures of the next one while the backend answered another call.
    failures: u32,
    pub fate: Fate,
    /// Nothing is to be sent before this moment: until then the backend may be at an earlier call. What it tells of the report
    /// before counts for nothing.
    settled: Option<Instant>,
}

impl Default for Tried {
    /// Nothing was sent yet.
    fn default() -> Self {
        Self { updates: 0, failures: 0, fate: Fate::NotTaken, settled: None }
    }
}

impl Tried {
    /// A report of an earlier run, which may have been sent or not.
    pub fn unknown() -> Self {
        Self { fate: Fate::Unknown, ..Self::default() }
    }

    /// A report that was sent just now and whose answer was lost.
    pub fn lost() -> Self {
        Self::unknown().after(clock::now() + limits::REPORT_SETTLE)
    }

    /// The same, and no call before this moment, if it is still to come.
    #[must_use]
    pub fn after(self, moment: Instant) -> Self {
        Self { settled: self.settled.max(Some(moment).filter(|moment| *moment > clock::now())), ..self }
    }

    /// When the backend has finished with what was sent last.
    pub(super) fn settled(&self) -> Option<Instant> {
        self.settled
    }
}

/// The backend's list of this agent's jobs, asked for once for many reports.
#[derive(Debug, Default)]
pub(super) struct List {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    /// When it was asked for, and what came.
    list: Option<(Instant, Arc<Orphans>)>,
    /// A thread asks for it now.
    asking: bool,
}

impl List {
    /// A list that was asked for after `settled`, and that is fresh. What another thread asks for now may be that.
    fn since(&self, client: &Client, settled: Option<Instant>) -> Result<Arc<Orphans>, Error> {
        let now = clock::now();
        let good = |asked: Instant| asked + limits::OUTBOX_RELOOK > now && settled.is_none_or(|at| asked >= at);
        let mut known = self.lock();
        let asked = loop {
            if let Some((_, list)) = known.list.as_ref().filter(|(asked, _)| good(*asked)) {
                return Ok(Arc::clone(list));
            }
            if !std::mem::replace(&mut known.asking, true) {
                break clock::now();
            }
            pulse::touch();
            known = clock::wait(&self.known, &self.changed, known, limits::OUTBOX_RELOOK);
        };
        drop(known);
        let answer = client.orphaned().map(Arc::new);
        let mut known = self.lock();
        known.asking = false;
        if let Ok(list) = &answer {
            known.list = Some((asked, Arc::clone(list)));
        }
        self.changed.notify_all();
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One try. After an error, `tried` says more, and [`report::least_pause`] how long to wait at least.
pub(super) fn offer(
    client: &Client,
    (entry, report): (&Entry, &Report),
    tried: &mut Tried,
    list: &List,
) -> Result<Delivery, Error> {
    let (job, settled) = (&entry.job, tried.settled());
    let mut ask = || match report::judge(&*list.since(client, settled)?, job) {
        None if is_owed(client, job, report)? => Ok(Some(Fate::NotTaken)),
        fate => Ok(fate),
    };
    // Before the updates: one would open a job again that was reported.
    let result = match report::settle(client, job, &mut tried.fate, &mut ask) {
        Ok(true) => Ok(Delivery::Seen),
        Ok(false) => {
            update(client, (entry, report), tried, list)?;
            report::send(client, job, &report.complete, &mut tried.fate)
        }
        Err(error) => Err(error),
    };
    if tried.fate == Fate::Unknown && result.is_err() {
        // Also after a question that failed: it costs a fresh list, no more.
        tried.settled = Some(clock::now() + limits::REPORT_SETTLE);
    }
    result
}

/// Whether a job that left the list still lacks its report: a user has cancelled it. A report of this agent's would have
/// given its row another status, unless it says `cancelled` itself: then nothing distinguishes the two.
fn is_owed(client: &Client, job: &Id, report: &Report) -> Result<bool, Error> {
    if report.status == Status::Cancelled.as_str() {
        return Ok(false);
    }
    match client.row_status(job) {
        Ok(row) => Ok(row == RowStatus::Cancelled),
        Err(error) if error.is_refusal() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Completes the records of the execution, or of its servers. It goes before the report since nothing may come after that.
///
/// An update that fails holds the report up for as long as the backend has an outage: while it does not answer another
/// call that needs its database. One that fails [`limits::OUTBOX_UPDATE_TRIES`] times while it does is refused for
/// ever. Then the report goes all the same; where that fails too, the next try begins with this update again.
fn update(client: &Client, (entry, report): (&Entry, &Report), tried: &mut Tried, list: &List) -> Result<(), Error> {
    let mut all = report.updates(&entry.execution).skip(tried.updates);
    while let Some((execution, json)) = all.next() {
        let begun = clock::now();
        match client.execution_complete((&entry.job, execution), entry.server_of(execution), json) {
            Ok(()) => {}
            Err(error) if error.is_refusal() => log::warn!("the execution's record could not be completed: {error}"),
            Err(error) => {
                // The first failure asks for nothing more.
                if tried.failures == 0 || list.since(client, Some(begun)).is_ok() {
                    tried.failures += 1;
                }
                if tried.failures < limits::OUTBOX_UPDATE_TRIES {
                    return Err(error);
                }
                log::warn!("the report goes without the execution's record, which the backend does not take: {error}");
                // The others are not held up by this one, and are tried once each.
                for (execution, json) in all.by_ref() {
                    let _ = client.execution_update_json(execution, json);
                }
                return Ok(());
            }
        }
        (tried.updates, tried.failures) = (tried.updates + 1, 0);
    }
    Ok(())
}

/// Whether the backend finally refused the report itself.
pub(super) fn is_refused(tried: &Tried, error: &Error) -> bool {
    // While its fate is unknown, the error is that of the question. A refused update is no error.
    tried.fate == Fate::NotTaken && error.is_refusal()
}

/// See [`report::least_pause`].
pub(super) fn least_pause(tried: &Tried, error: &Error) -> Duration {
    report::least_pause(tried.fate, error)
}

//! One try to deliver a report: the execution's record first, then `complete`, which is the one that counts.

use std::time::{Duration, Instant};

use crate::api::report::{self, Delivery, Fate};
use crate::api::{Client, Error, Orphans};
use crate::job::Id;
use crate::jobs::record::Report;
use crate::limits;
use crate::os::clock;

/// What the tries so far have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Whether the execution's record is complete, or was given up.
    pub updated: bool,
    update_failures: u32,
    pub fate: Fate,
    /// When the report was last sent; a list of the backend's from before tells nothing of it.
    sent: Option<Instant>,
}

impl Default for Tried {
    /// Nothing was sent yet.
    fn default() -> Self {
        Self { updated: false, update_failures: 0, fate: Fate::NotTaken, sent: None }
    }
}

impl Tried {
    /// A report of an earlier run, which may have been sent or not.
    pub fn unknown() -> Self {
        Self { fate: Fate::Unknown, ..Self::default() }
    }

    /// A report that was sent just now and whose answer was lost.
    pub fn lost() -> Self {
        Self { sent: Some(clock::now()), ..Self::unknown() }
    }

    /// When the backend has finished with what was sent last.
    pub(super) fn settled(&self) -> Option<Instant> {
        self.sent.filter(|_| self.fate == Fate::Unknown).map(|at| at + limits::REPORT_SETTLE)
    }
}

/// The backend's list of this agent's jobs, asked for once for many reports.
#[derive(Debug, Default)]
pub(super) struct List(Option<(Instant, Orphans)>);

impl List {
    /// A list that was asked for after `settled`, and that is fresh.
    fn since(&mut self, client: &Client, settled: Option<Instant>) -> Result<&Orphans, Error> {
        let now = clock::now();
        let good = |asked: Instant| asked + limits::OUTBOX_RELOOK > now && settled.is_none_or(|at| asked >= at);
        let known = self.0.take().filter(|(asked, _)| good(*asked));
        let (_, orphans) = self.0.insert(match known {
            Some(known) => known,
            None => (now, client.orphaned()?),
        });
        Ok(orphans)
    }
}

/// One try. After an error, `tried` says more, and [`report::least_pause`] how long to wait at least.
pub(super) fn offer(
    client: &Client,
    (job, execution): (&Id, &Id),
    report: &Report,
    tried: &mut Tried,
    list: &mut List,
) -> Result<Delivery, Error> {
    if !tried.updated {
        update(client, execution, report, tried)?;
    }
    let settled = tried.settled();
    let mut ask = || list.since(client, settled).map(|orphans| report::judge(orphans, job));
    let result = report::attempt(client, job, &report.complete, &mut tried.fate, &mut ask);
    if tried.fate == Fate::Unknown && result.is_err() {
        // Also after a question that failed: it costs a fresh list, no more.
        tried.sent = Some(clock::now());
    }
    result
}

/// Completes the execution's record. It goes before the report since nothing may come after that; a backend that does not
/// take it holds the report up for some tries only.
fn update(client: &Client, execution: &Id, report: &Report, tried: &mut Tried) -> Result<(), Error> {
    let Some(json) = &report.update else {
        tried.updated = true;
        return Ok(());
    };
    match client.execution_update_json(execution, json) {
        Ok(()) => {}
        Err(error) => {
            tried.update_failures += 1;
            let answered = error.status().is_some();
            let last = tried.update_failures >= limits::OUTBOX_UPDATE_TRIES;
            // A backend that cannot be reached at all will not take the report either.
            let go_on = error.is_refusal() || (answered && last);
            if !go_on {
                return Err(error);
            }
            log::warn!("the execution's record could not be completed: {error}");
        }
    }
    tried.updated = true;
    Ok(())
}

/// Whether the backend finally refused the report itself.
pub(super) fn is_refused(tried: &Tried, error: &Error) -> bool {
    // While its fate is unknown, the error is that of the question.
    tried.updated && tried.fate == Fate::NotTaken && error.is_refusal()
}

/// See [`report::least_pause`].
pub(super) fn least_pause(tried: &Tried, error: &Error) -> Duration {
    report::least_pause(tried.fate, error)
}

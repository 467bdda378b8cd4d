//! How a job leaves this agent: reported, or not, and why not.

use std::time::Instant;

use crate::executors::CleanupGuard;
use crate::job::{Id, Kind};
use crate::jobs::record::outbox::Outbox;
use crate::jobs::running::Token;
use crate::metrics;
use crate::os::clock;
use crate::verdict::Verdict;

/// How a job's life ends. `JobContext::finish` handles both cases.
pub(in crate::jobs) type Life = Result<Reported, Unreported>;

/// A job whose report is on disk and on its way.
pub(in crate::jobs) struct Reported {
    pub(in crate::jobs) verdict: Verdict,
    pub(in crate::jobs) left: Left,
}

/// Why a job leaves this agent without a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreported {
    /// Nothing of it ran. It goes back to the queue, with this reason for the backend's log.
    GiveBack(&'static str),
    /// The backend refused it, or had its report before. Only its record goes.
    Forget,
    /// The agent ends first. The next one adopts the job by its record.
    LeftToNext,
}

impl Reported {
    /// Counts the job, which began at `begun`, in the metrics and among the last endings.
    pub(in crate::jobs) fn counted(self, kind: Kind, begun: Instant, token: &Token) -> Left {
        let took = clock::since(begun);
        metrics::job_finished(kind, &self.verdict, took);
        token.ended(kind, &self.verdict, took);
        self.left
    }
}

/// What is left of a job whose report was handed over.
#[must_use = "what is left is removed by `remove`"]
pub struct Left {
    pub(in crate::jobs) cleanup: CleanupGuard,
    /// Job and execution of a record that names folders on servers.
    pub(in crate::jobs) record: Option<(Id, Id)>,
}

impl Left {
    /// Whether there is nothing to remove.
    pub(in crate::jobs) fn is_nothing(&self) -> bool {
        !self.cleanup.is_some() && self.record.is_none()
    }

    /// Removes it. This may take a while: the report is on its way, and the job is not in the registry any more.
    pub(in crate::jobs) fn remove(self, outbox: &Outbox) {
        drop(self.cleanup);
        if let Some((job, execution)) = self.record {
            outbox.cleared(&job, &execution);
        }
    }
}

//! What may still be under way at the backend when a script has ended, and goes before its report: a call of the job, an
//! update of its page, its last live lines. No worker waits for it; the outbox does, before the first try.

use std::sync::Arc;

use crate::jobs::ack_task::AckTask;
use crate::jobs::channel::Collected;
use crate::jobs::output::JobOutput;
use crate::jobs::page_updates::Page;
use crate::jobs::record::outbox;
use crate::limits;
use crate::logs::{Flushed, JobStream};
use crate::os::pulse;
use crate::os::threads::Thread;

/// See the module's page.
struct Earlier {
    call: Option<Thread>,
    page: Option<Arc<Page>>,
    live: Option<JobStream>,
}

/// Ends the output of a job whose script has ended: the result, how much of it went live, and what the report has to wait for.
pub(in crate::jobs) fn end(
    mut output: JobOutput,
    ack: Option<AckTask>,
) -> (Collected, Flushed, Option<outbox::Earlier>) {
    let page = output.shut_page();
    let (collected, mut live) = output.end();
    let is_sent = live.flush(limits::LIVE_FLUSH_SHORT);
    let flushed = live.so_far();
    let earlier = Earlier { call: ack.and_then(AckTask::end), page, live: (!is_sent).then_some(live) };
    let waits = earlier.call.is_some() || earlier.page.is_some() || earlier.live.is_some();
    (collected, flushed, waits.then(|| Box::new(move || earlier.wait()) as outbox::Earlier))
}

impl Earlier {
    /// Each wait is bounded. How many live lines did not arrive, where only that shows it.
    fn wait(self) -> Option<u64> {
        let flushed = self.live.map(|live| live.finish(limits::LIVE_FLUSH));
        pulse::touch();
        if let Some(page) = self.page {
            page.wait();
        }
        pulse::touch();
        if let Some(call) = self.call {
            call.join_within(limits::ACK_TASK_WAIT);
        }
        flushed.map(|flushed| flushed.dropped + flushed.unsent)
    }
}

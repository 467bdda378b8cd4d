//! The pages of the operator's socket: the only place that acts on what the operator asks for.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::health::{Asked, Page, Reply, json, refusal};
use crate::job::Id;
use crate::jobs::running::Step;
use crate::jobs::status::Sources;

/// Who a job that an operator cancelled is cancelled by, in its verdict.
const OPERATOR: &str = "the operator";

/// A reload is on its way: it is over when [`Reload::answers`](super::status::Reload::answers) has come to `request`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAsked {
    pub request: u64,
}

/// A job that was asked to end. It takes its own time: `status` shows when it has ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// How far it had come, as in [`Job::phase`](super::status::Job::phase).
    pub phase: String,
}

impl Cancelled {
    /// Whether the job's script had ended before.
    pub fn is_late(&self) -> bool {
        self.phase == Step::Reporting.as_str()
    }
}

/// What can be asked of an agent that `sources` know.
pub fn pages(sources: Arc<Sources>) -> Vec<Page> {
    let (status, cancelling) = (Arc::clone(&sources), Arc::clone(&sources));
    vec![
        Page::get("/status", move |_| answer(&status.status())),
        Page::post("/jobs/*/cancel", move |asked| cancel(&cancelling, asked)),
        Page::post("/reload", move |asked| {
            log::info!("a reload of the configuration was asked for ({})", asked.who());
            answer(&ReloadAsked { request: (sources.ask_reload)() })
        }),
    ]
}

fn cancel(sources: &Sources, asked: &Asked<'_>) -> Reply {
    let id = match Id::parse(asked.part) {
        Ok(id) => id,
        Err(error) => return refusal(400, &format!("{:?} is no job's id: {error}", asked.part)),
    };
    let step = sources.running.get(&id).map(|seen| seen.step);
    match step.filter(|_| sources.running.cancel(&id, OPERATOR)) {
        None => refusal(404, &format!("job {id} does not run here; `cronium-agent status` lists those that do")),
        Some(step) => {
            log::info!("job {id} is cancelled by the operator ({}); it was {}", asked.who(), step.as_str());
            answer(&Cancelled { phase: step.as_str().to_owned() })
        }
    }
}

fn answer(answer: &impl Serialize) -> Reply {
    match serde_json::to_string(answer) {
        Ok(text) => json(200, text),
        Err(error) => refusal(500, &error.to_string()),
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;

//! The seam between a worker and what runs its job.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::types::ResourceSet;
use crate::executors::cleanup::CleanupGuard;
use crate::executors::control::Control;
use crate::executors::task::Task;
use crate::job::{Output, Server};
use crate::signing::receipt::Facts;
use crate::verdict::Outcome;

/// Data needed to reattach to a task.
#[derive(Debug, Clone, PartialEq)]
pub struct ReattachInfo {
    /// The container's name, or the folder on the server.
    pub place: String,
    /// The container's image; empty on a server.
    pub image: String,
    /// The container's limits; `None` on a server.
    pub limits: Option<ResourceSet>,
    /// The time limit, and its name in the verdict.
    pub timeout: (Duration, &'static str),
    /// Where the container was started before its job was known.
    pub warm: Option<WarmInfo>,
}

/// What is special about a container that was started before its job was known.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmInfo {
    /// Its id: it had another name at first.
    pub id: String,
    /// When its job began, by the wall clock. What was before is not the job's. Before the start: now.
    pub since: SystemTime,
}

/// How a run ended for this agent.
#[derive(Debug)]
pub enum End {
    /// The outcome, and the guard of what is still there until the outcome is on disk.
    Outcome(Box<Outcome>, CleanupGuard),
    /// The agent ends and the script goes on, for the next agent to find.
    Detached,
    /// It has not begun: the agent ends before, or what was adopted turns out so. It may be run; what is there of it goes
    /// when that is on disk.
    NeverRan(CleanupGuard),
}

/// Why a script of an earlier agent was not adopted.
#[derive(Debug)]
pub enum AdoptError {
    /// It was never started, so it may be run. What is there of it goes when that is on disk.
    NotStarted(CleanupGuard),
    /// Nothing of it is there: why that is so.
    Gone(String),
    /// The engine or the server does not answer. To be tried again.
    Unreachable(String),
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(_) => f.write_str("it was not started"),
            Self::Gone(why) | Self::Unreachable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for AdoptError {}

/// Runs the jobs of one kind.
pub trait Executor: Send + Sync {
    /// Finds a script again that an earlier agent started, as `info` describe it; `left` of its time limit remains.
    fn adopt(
        &self,
        task: &Task,
        info: &ReattachInfo,
        left: Duration,
        control: &Arc<Control>,
    ) -> Result<Box<dyn Prepared>, AdoptError>;

    /// What an earlier agent left at `place` on a server, of a script whose report is on disk: it goes when this is dropped.
    fn cleanup(&self, _server: &Server, _place: &str) -> CleanupGuard {
        CleanupGuard::none()
    }

    /// Gets everything ready but starts nothing; an ending that needed no start is the error.
    fn prepare(
        &self,
        task: &Task,
        control: &Arc<Control>,
        output: &mut dyn Output,
    ) -> Result<Box<dyn Prepared>, Box<Outcome>>;
}

/// A task that waits for the word to start. Dropping it throws it away; nothing of it ran.
pub trait Prepared: Send {
    /// What the record keeps of it.
    fn reattach_info(&self) -> ReattachInfo;
    /// What the script cannot do there, as facts for a receipt; none where that is not the agent's to say.
    fn walls(&self) -> Facts {
        Facts::new()
    }
    /// Starts it (or goes on with it, where it was adopted) and follows it to its end, whatever that is; leaves nothing
    /// behind but a [`CleanupGuard`], unless the agent ends before ([`Control::detach`]).
    fn run(self: Box<Self>, task: &Task, output: &mut dyn Output) -> End;
}

//! Proofs that the walls around a job hold on this host: canaries are containers made as a job's is, which try what a job
//! must not be able to do.
//!
//! `doctor` and the agent use the same ones. `canaries` runs them by the jobs' own executor, `flight` says which there are,
//! `judge` and `judge_network` turn what they found into a line for each proof.

mod canaries;
pub mod due;
mod facts;
pub mod finding;
mod flight;
mod judge;
mod judge_network;
pub mod outside;
mod resolvers;

use crate::config::types::Config;
use crate::docker;
use crate::executors::Reaper;
use crate::executors::container::ContainerExecutor;
use crate::executors::container::usage::Sampler;
use finding::Check;

pub use flight::not_proven;

/// Who makes the proofs: it decides the labels of the canaries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The command: it pulls nothing, and a person waits for it.
    Doctor,
    /// The agent of this id.
    Agent(String),
}

/// What the proofs are made with.
pub struct Prover<'a> {
    pub docker: &'a docker::Client,
    pub config: &'a Config,
    pub by: By,
    pub reaper: Reaper,
    pub sampler: Sampler,
    /// The executor of jobs, whose pulls those of the canaries are too; `None` where there is none.
    pub jobs: Option<ContainerExecutor>,
    /// Who wants the canaries to end before their time; asked each [`PROOF_TICK`](crate::limits::PROOF_TICK).
    pub halt: &'a dyn Fn() -> Option<&'static str>,
}

/// What the proofs came to.
#[derive(Debug, Clone)]
pub struct Proof {
    /// A line for each proof, whatever happened.
    pub checks: Vec<Check>,
    /// Who ended the canaries before their time: then the lines say nothing of the walls.
    pub halted: Option<&'static str>,
    /// Processor time of all canaries, in seconds.
    pub used: f64,
}

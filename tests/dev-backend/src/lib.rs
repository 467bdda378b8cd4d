//! The Cronium backend's internal API in memory, for the quick start and the tests: jobs to claim, reports to receive, log
//! sockets in both dialects, and every fault that a network or a backend can have, on request. It shares no code with the
//! agent, so that a mistake on one side cannot hide on the other.
//!
//! README.md beside this crate lists the calls under `/dev`. `accept` takes connections, `serve` reads one, `api` is the
//! contract with `jobs`, `executions` and `about_agent`, `settings` how kind it is, `live` the log socket, `store`, `page`
//! and `lines` what was received and shown, `workflow` what follows on a job, `fault` what goes wrong.

mod about_agent;
mod accept;
mod api;
mod backend;
mod check;
mod dev;
mod executions;
mod fault;
mod http;
mod jobs;
mod lines;
mod live;
mod page;
mod serve;
mod settings;
mod shared;
mod store;
mod time;
mod workflow;

#[cfg(test)]
mod tests;

pub use backend::{DevBackend, Event, Options, Request, Via, Watcher};
pub use fault::{Action, Fault};
pub use lines::{JobLines, Line, checksum, checksum_start};
pub use page::{Live, Shown};
pub use settings::{LogSocket, Settings};
pub use store::{Execution, JobRow, Report, Stamp};
pub use workflow::{Edge, On};

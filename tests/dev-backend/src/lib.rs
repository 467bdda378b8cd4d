//! The Cronium backend's internal API in memory, for the quick start and the tests: jobs to claim, reports to receive, log
//! sockets in both dialects, and every fault that a network or a backend can have, on request. It shares no code with the
//! agent, so that a mistake on one side cannot hide on the other.
//!
//! README.md beside this crate lists the calls under `/dev`. `accept` takes connections, `serve` reads one, `api` is the
//! contract, `live` the log socket, `store` and `lines` what was received, `fault` what goes wrong.

mod accept;
mod api;
mod backend;
mod check;
mod dev;
mod fault;
mod http;
mod lines;
mod live;
mod serve;
mod store;
mod time;

#[cfg(test)]
mod tests;

pub use backend::{DevBackend, Event, Options, Request, Settings, Via, Watcher};
pub use fault::{Action, Fault};
pub use lines::{JobLines, Line, checksum, checksum_start};
pub use store::{Execution, JobRow, Report, Stamp};

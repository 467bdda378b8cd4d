//! The agent's HTTP server: for a supervisor, a load balancer and a Prometheus over TCP, for the operator over a Unix
//! socket in `state.dir`.
//!
//! [`HealthState`] is what the agent's threads write and the probes read. [`start`] serves it and the metrics over TCP:
//! `healthPort` serves all paths, the page for people ([`Shown`]) among them; `metricsPort` only `/metrics`; where both are the same port, one listener serves
//! all. [`start_control`] serves the pages that it is given over the Unix socket, and nothing else can: only the agent's
//! own user and root are let in, by the folder's mode, by the socket's, and by the kernel's word on who connected.
//! [`ask`](ask::ask) is the command line's side of it.

pub mod ask;
mod calls;
mod client;
mod error;
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
mod http;
mod listener;
mod page;
mod server;
mod socket;
mod start;
mod state;

pub use self::calls::{CallListener, CallServer};
pub use self::error::Error;
pub use self::http::{Asked, Page, Reply, json, refusal, text};
pub use self::listener::{Answerer, Call, Calls};
pub use self::page::Shown;
pub use self::server::Server;
pub use self::start::{start, start_control};
pub use self::state::{Component, DetailValue, HealthState, Reason, Status, shortened};

#[cfg(test)]
pub use self::socket::SOCKET;

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod tests;

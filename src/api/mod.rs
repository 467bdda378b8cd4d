//! The backend's HTTP contract: one client, one method a call.
//!
//! [`Client`] knows paths and bodies. `transport` sends, limits, measures and retries a call, `answer` and `job_row` distrust
//! the answer, and [`report`] delivers the one terminal report of a job. A failed call that the backend may have processed
//! is "ambiguous". Only [`report`] must handle that: every other call can be sent twice without harm.

mod answer;
mod body;
#[cfg(test)]
mod bounds_tests;
pub mod certificate;
mod client;
mod clock;
mod contact;
mod dial;
mod error;
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
mod http_row;
mod job_row;
mod json;
pub mod report;
mod server_row;
mod signature_row;
#[cfg(test)]
mod signing_tests;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
mod transport;
mod variables;

use crate::config::types::HostTable;
use crate::job::{Claim, Id};
use crate::wire::scan::Json;

/// The job of one row, as a poll would read it.
pub fn job_of(id: Id, row: &[u8], hosts: &HostTable) -> Claim {
    match Json::strict(row) {
        Ok(row) => job_row::read_as(id, row, hosts),
        Err(why) => Claim::Refuse { id, kind: crate::job::Kind::Container, reason: format!("it is no JSON: {why}") },
    }
}

pub use answer::{Orphans, Queue, RowStatus};
pub use body::{CompleteBody, ExecutionUpdate};
pub use client::{Capacity, Client};
pub use error::{Error, Problem};

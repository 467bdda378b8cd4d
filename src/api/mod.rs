//! The backend, as the agent sees it: one client whose methods are the calls of the contract.
//!
//! [`Client`] knows paths and bodies. `transport` knows how a call is sent, limited, measured and tried again, `answer`
//! and `job_row` distrust what comes back, and [`report`] delivers the one terminal report of a job. A call that the
//! backend may have processed although it failed is "ambiguous"; only [`report`] has to care, since every other call
//! can be sent twice without harm.

mod answer;
mod body;
#[cfg(test)]
mod bounds_tests;
pub mod certificate;
mod client;
mod clock;
mod dial;
mod error;
mod job_row;
mod json;
pub mod report;
mod server_row;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
mod transport;

pub use answer::{HeartbeatAnswer, OrphanRow, Orphans, Queue};
pub use body::{CompleteBody, ExecutionUpdate};
pub use client::{Capacity, Client};
pub use clock::ClockSkew;
pub use error::{Error, Problem, Wait};

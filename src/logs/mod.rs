//! The live log: every line of every job to the backend over one WebSocket, while the job runs.
//!
//! It is for people who watch. The result does not depend on it, so the live log slows a job by a stated bound at most. A
//! job that has run for a time T, of whose output B bytes were taken (64 more for each line), has waited for it at most
//! **0.5 s + T/20 + B × 60 ns**, and at the end at most the argument of [`JobStream::finish`]. A link that takes nothing
//! costs a job 0.2 s once; without a connection nothing waits. Lines that do not fit are left out, the newest first, until
//! half of the job's buffer is free again. They are counted in `cronium_log_lines_dropped_total`, reported in a `system`
//! line, and visible as a gap in the sequences.
//!
//! ```text
//! worker: JobStream --lines--> Buffer (a job's, bounded) --in turn--> thread log-streamer: Link --> Socket --> backend
//! ```
//!
//! A line stays in its job's buffer until it is acknowledged (`cronium.logs.v2`), or until the kernel has taken it (the
//! dialect without a subprotocol). After a lost connection the rest is sent again, with the same sequences.
//!
//! A line that does not end is sent early (`cronium.logs.v2` only): with `"partial": true`, and again with the same
//! sequence when it grows or ends. Nothing waits for a partial line, and it is not counted.

#[cfg(test)]
mod bound_tests;
mod buffer;
mod dial;
mod encode;
mod error;
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
mod job;
mod link;
mod shared;
mod socket;
mod stream;
mod streamer;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
mod tls;
mod types;
mod wait_budget;

pub use buffer::Origin;
pub use encode::Dialect;
pub use job::Mark;
pub use stream::JobStream;
pub use streamer::LogStreamer;
pub use tls::tls_config;
pub use types::{ConnectionState, Flushed, ServerEvent, Settings};

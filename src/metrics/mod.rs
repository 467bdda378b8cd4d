//! What the agent counts: plain static atomics, no registry, no lock; every label has a closed set of values.
//!
//! The code that does a thing adds to a cell of [`counts`]; `/metrics` is a loop over one table ([`render`]).

mod cells;
mod counts;
mod labels;
mod table;

pub use counts::*;
pub use labels::{Code, DockerOperation, Endpoint, Place, PollResult, ReloadResult, WarmEnd, WarmUse};
pub use table::render;

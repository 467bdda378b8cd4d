//! The container engine's HTTP API, spoken by hand over its socket.
//!
//! By hand, since every byte that decides where a script runs, and every byte that it prints, passes through here, and an
//! auditor can read all of it. The API is Docker's Engine API; Podman's service answers the same calls.
//!
//! - `conn`: sockets and deadlines. `tls`: the same to another host. `call`: one exchange. `client`: version and housekeeping calls.
//! - `containers`: create, attach, start, wait, inspect, kill, remove. `images`: pulls. `networks`: the shared bridge.

pub mod call;
pub mod client;
#[cfg(test)]
mod client_tests;
pub mod conn;
pub mod containers;
pub mod credentials;
pub mod error;
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
pub mod images;
pub mod life;
pub mod networks;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

pub use client::Client;
pub use conn::Deadline;
pub use error::Error;

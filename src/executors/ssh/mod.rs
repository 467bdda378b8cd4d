//! Runs a script on a server over SSH; the script outlives the connection.
//!
//! From top to bottom: [`executor`] gets a session with a waiting shell from the [`pool`], over a connection that is shared
//! with other jobs. [`follow`] sends the program that starts the script in a new session, has [`listen`] read its output,
//! comes back when the connection breaks, and has [`collect`] fetch what is left at the end, from which [`judge`] finds the
//! verdict. [`helper_calls`] carries what
//! its helpers ask. [`run`] is the state of all that. What happens on the server is in [`remote`], and where in [`place`].

pub mod algorithms;
pub mod breakers;
mod certificate;
pub mod collect;
pub mod connection;
pub mod dial;
pub mod driver;
pub mod error;
mod executor;
pub mod folder;
mod follow;
pub mod forward;
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
mod helper_calls;
pub mod hosts;
pub mod judge;
pub mod keys;
pub mod known_hosts;
pub mod listen;
pub mod place;
pub mod pool;
mod pool_key;
pub mod preamble;
pub mod pump;
pub mod remote;
pub mod run;
mod shared;
pub mod tries;
pub mod words;

pub use executor::SshExecutor;

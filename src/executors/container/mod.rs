//! Runs a script in a hardened container.
//!
//! The life of one, from top to bottom: [`executor`] writes the program that carries the script, sees to network and image,
//! creates the container and attaches to it. [`run`] starts it, feeds the program, has [`follow`] read the output to its end,
//! and collects the evidence, from which [`judge`] finds the verdict. [`adopt`] goes on with the container of an earlier
//! agent. A container that is dropped on this way, by an error or a panic, is removed ([`guard`]). [`warm`] has containers that
//! are started ahead of their jobs.

mod adopt;
mod executor;
mod follow;
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
mod guard;
mod helper_mount;
pub mod images;
pub mod janitor;
pub mod judge;
pub mod labels;
pub mod marker;
pub mod program;
pub mod prune;
pub mod pulls;
mod reader;
pub mod resources;
mod run;
pub mod seccomp;
mod shared;
pub mod spec;
pub mod unconfirmed;
pub mod usage;
pub mod warm;

pub use executor::ContainerExecutor;

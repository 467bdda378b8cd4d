//! Configuration: YAML, environment and flags in, one checked [`types::Config`] out, or every problem at once.
//!
//! `keys` is the one table of keys. `field` turns a text into a value and puts it into a field. `load` goes through the
//! table with the file (`yaml`, `tree`), the environment and the command line. `checks` looks at several keys together.
//! After that only valid values exist.

pub mod changes;
mod checks;
mod draft;
mod engine;
pub mod field;
mod files;
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
pub mod images;
mod jumps;
pub mod keys;
mod live;
mod load;
pub mod migrate;
mod names;
mod parse;
mod problem;
mod proxy;
pub mod show;
mod ssh;
pub mod token;
mod tree;
mod trust;
pub mod types;
pub mod url;
pub mod value;
mod yaml;

#[cfg(test)]
pub(crate) mod reference_tests;
#[cfg(test)]
mod tests;

pub use draft::{Sources, process_env};
pub use keys::{defaults, set};
pub use live::Live;
pub use load::{Loaded, load};
pub use problem::{Origin, Problem, Problems};

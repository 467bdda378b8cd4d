//! Configuration: YAML, environment and flags in, one checked [`types::Config`] out, or every problem at once.
//!
//! Three steps: `load` gathers what was given (`yaml`, `locate`), `schema` and its tables turn each text into its field,
//! `checks` looks at what several keys say together. After that only valid values exist.

mod blank;
pub mod changes;
mod checks;
mod files;
mod keys_agent;
mod keys_container;
mod keys_rest;
mod live;
mod load;
mod locate;
mod problem;
pub mod schema;
pub mod show;
pub mod types;
mod url;
pub mod value;
mod walk;
mod yaml;

#[cfg(test)]
mod tests;

pub use blank::defaults;
pub use live::Live;
pub use load::{Loaded, Sources, load, process_env};
pub use problem::{Origin, Problem, ProblemKind, Problems, Warning};

//! Configuration: YAML, environment and flags in, one checked [`types::Config`] out, or every problem at once.

pub mod types;

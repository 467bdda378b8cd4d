//! The command line, one file a command. `flags` is the table of commands and flags, `parse` reads what was typed by it,
//! `help` shows it.

pub mod cancel;
pub mod doctor;
pub mod exec;
mod exec_server;
pub mod exit;
pub mod flags;
pub mod gc;
mod gc_images;
pub mod help;
pub mod known_hosts;
mod parse;
pub mod print;
pub mod receipt;
pub mod reload;
pub mod script;
mod script_helpers;
pub mod sign;
pub mod status;
pub mod validate;
pub mod version;

#[cfg(test)]
mod reference_tests;

pub use exit::UsageError;
pub use parse::{Command, Common, parse};

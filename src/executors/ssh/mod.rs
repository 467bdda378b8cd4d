//! Runs a script on a server.
pub mod remote;

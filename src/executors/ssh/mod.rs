//! Scripts on remote servers, over SSH.

pub mod keys;
pub mod known_hosts;

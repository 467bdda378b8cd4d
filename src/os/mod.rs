//! The operating system: threads, signals, clocks, randomness, files, sockets.
//!
//! The only module with `unsafe` code, since it is the only one that calls `libc`.

#[cfg(test)]
pub(crate) mod ahead;
pub mod bell;
pub mod cgroup;
pub mod clock;
pub mod device;
pub mod disk;
pub mod files;
#[cfg(test)]
pub(crate) mod heap_tests;
pub mod local;
pub mod memory;
pub mod names;
pub mod net;
pub mod notify;
pub mod owner;
pub mod poll;
pub mod private;
pub mod proc;
pub mod pulse;
pub mod random;
#[cfg(any(test, fuzzing))]
pub(crate) mod scratch;
pub mod signals;
#[cfg(test)]
pub(crate) mod sim;
pub mod stop;
pub mod threads;
pub mod way;

//! What the operating system is asked for: threads, signals, randomness, sockets that can be waited for.
//!
//! The only module with `unsafe` code, since it is the only one that calls `libc`.

#[cfg(test)]
pub(crate) mod ahead;
pub mod cgroup;
pub mod clock;
pub mod device;
pub mod disk;
pub mod files;
#[cfg(test)]
pub(crate) mod heap_tests;
pub mod local;
pub mod names;
pub mod net;
pub mod notify;
pub mod owner;
pub mod poll;
pub mod private;
pub mod proc;
pub mod pulse;
pub mod random;
#[cfg(test)]
pub(crate) mod scratch;
pub mod signals;
#[cfg(test)]
pub(crate) mod sim;
pub mod stop;
pub mod threads;

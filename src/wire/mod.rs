//! Bytes to values and back: no I/O, no clock, no thread. Every decoder here is tested at every split of its input.

pub mod amount;
#[cfg(test)]
mod any_input_tests;
pub mod capture;
pub mod chunked;
pub mod crc32;
pub mod frames;
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
pub mod hosts;
pub mod http1;
pub mod json;
pub mod kexinit;
pub mod lines;
pub mod prometheus;
pub mod proxy;
#[cfg(test)]
#[path = "random_tests.rs"]
pub(crate) mod random;
pub mod scan;
pub mod time;
pub mod x509;

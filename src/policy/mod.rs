//! Decisions without side effects: the present moment is always an argument, so no test ever sleeps.

pub mod backoff;
pub mod breaker;
pub mod expand;
pub mod pace;
pub mod poll;
pub mod ramp;
pub mod rate;
pub mod stop;
pub mod suggest;
pub mod watchdog;

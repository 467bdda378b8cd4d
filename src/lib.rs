//! `cronium-agent`: claims jobs from a backend, runs each script in a hardened container, streams every line and
//! reports exactly one result. ARCHITECTURE.md has the map; modules may use only those of a lower layer.

// Layer 0: values and decisions. No I/O, no clock, no thread.
mod job;
pub mod limits;
mod policy;
mod redact;
mod secret;
mod signing;
mod verdict;
mod wire;

// Layer 1: what everything above stands on.
mod config;
mod metrics;
mod os;
mod telemetry;

// Layer 2: one module per counterpart.
mod api;
mod docker;
mod executors;
mod health;
mod logs;

// Layer 3: the life of a job, and the proofs that its walls hold.
mod jobs;
mod proofs;

// Layer 4: what a person starts.
mod agent;
mod cli;
mod commands;

/// What the fuzzer feeds to each reader of foreign bytes; see docs/fuzzing.md.
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub mod fuzzing;

pub use commands::main;

pub mod parts {
    //! What the integration tests and the benchmark run without an agent around it. Everything else is private, so that the
    //! compiler finds what nothing uses.

    pub use crate::config::types::{Config, Docker, DockerEndpoint};
    pub use crate::config::{Sources, defaults, load};
    pub use crate::docker::Client;
    pub use crate::docker::networks::Bridge;
    pub use crate::executors::container::ContainerExecutor;
    pub use crate::executors::container::usage::Sampler;
    pub use crate::executors::ssh::connection::{Connection, Event, Next, Session, Times};
    pub use crate::executors::ssh::dial::{Dial, Progress};
    pub use crate::executors::ssh::driver::Driver;
    pub use crate::executors::ssh::hosts::Hosts;
    pub use crate::executors::ssh::pump::Pump;
    pub use crate::executors::ssh::{place, remote};
    pub use crate::executors::{Control, End, Executor, Reaper, Task};
    pub use crate::job::{Id, Job, Kind, Language, Output, Resources, Script, Server, Stream};
    pub use crate::os::pulse::{Pulse, Pulses};
    pub use crate::os::threads;
    pub use crate::policy::stop::Pace;
    pub use crate::policy::watchdog::Stuck;
    pub use crate::secret::Secret;

    pub mod fleet {
        //! An agent's own polls, heartbeats and calls, which the benchmark of a fleet runs many times in one process.

        pub use crate::api::{Client, CompleteBody, RowStatus};
        pub use crate::config::Live;
        pub use crate::jobs::heartbeat::Heartbeat;
        pub use crate::jobs::poller::{Claimed, Poller, Slots};
        pub use crate::jobs::running::Running;
        pub use crate::os::stop::Stop;
        pub use crate::verdict::{Status, Usage};
    }
}

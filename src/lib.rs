//! `cronium-agent`: claims jobs from a backend, runs each script in a hardened container, streams every line and
//! reports exactly one result. ARCHITECTURE.md has the map; modules may use only those of a lower layer.

// Layer 0: values and decisions. No I/O, no clock, no thread.
pub mod job;
pub mod limits;
pub mod policy;
pub mod secret;
pub mod verdict;
pub mod wire;

// Layer 1: what everything above stands on.
pub mod config;
pub mod metrics;
pub mod os;
pub mod telemetry;

// Layer 2: one module per counterpart.
pub mod api;
pub mod docker;
pub mod executors;
pub mod health;
pub mod logs;

// Layer 3: the life of a job.
pub mod jobs;

// Layer 4: what a person starts.
pub mod agent;
pub mod cli;

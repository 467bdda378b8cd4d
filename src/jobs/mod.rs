//! The life of a job, from claim to report.

pub mod errands;
pub mod heartbeat;
pub mod output;
pub mod poller;
pub mod report;
pub mod running;
pub mod worker;

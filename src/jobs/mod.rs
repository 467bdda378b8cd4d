//! The life of a job, from claim to report.

pub mod control;
pub mod errands;
pub mod heartbeat;
pub mod journal;
pub mod outbox;
pub mod output;
pub mod poller;
pub mod recover;
pub mod report;
pub mod running;
pub mod several;
pub mod worker;

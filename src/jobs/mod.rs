//! The life of a job, from claim to report.

pub mod adopt;
pub mod control;
pub mod crew;
pub mod errands;
pub mod heartbeat;
pub mod journal;
pub mod ledger;
pub mod outbox;
pub mod output;
pub mod poller;
pub mod recover;
pub mod report;
pub mod running;
pub mod several;
#[cfg(test)]
mod sim;
pub mod slots;
pub mod strays;
mod unfinished;
pub mod worker;

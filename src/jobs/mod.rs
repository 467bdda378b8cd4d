//! The life of a job, from claim to report.

pub mod ack_task;
pub mod admission;
pub mod adopt;
pub mod channel;
pub mod conclude;
pub mod context;
pub mod control;
mod earlier;
pub mod ending;
pub mod fanout;
pub mod heartbeat;
pub mod helpers;
pub mod history;
pub mod output;
pub mod overview;
pub mod page_updates;
pub mod poller;
mod pool;
pub mod reattach;
pub mod receipt_key;
pub mod receipts;
pub mod reconcile;
pub mod record;
pub mod removals;
pub mod report;
pub mod resume;
pub mod row_watch;
mod run;
pub mod running;
pub mod secrets;
#[cfg(test)]
mod sim;
pub mod slots;
pub mod status;
pub mod worker;
pub mod worker_pool;

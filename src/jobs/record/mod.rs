//! The record of a job: its states, and the only code that writes to `state.dir`.
//!
//! ```text
//!            intend            start              end              taken by the backend
//! Claimed ──────────► Intent ─────────► Started ───────► Ended ───────────────────────► Delivered
//!    │                  ▲ │                │ │             ▲
//!    │                  └─┼── never_ran ───┘ └─ checkpoint │
//!    └── end (refused) ───┴────────────────────────────────┘
//! ```
//!
//! | state | on disk | what the next agent does with it |
//! | --- | --- | --- |
//! | Claimed | nothing | gives it back, as a lost claim |
//! | Intent | `jobs/<job>.job` | removes its container, gives it back |
//! | Started | `jobs/<job>.job` | adopts it |
//! | Ended | `jobs/<job>.job` with the report | offers the report |
//! | Delivered | a line in `done/list`, for a day | answers it if it is handed out again |
//!
//! Each state is on disk before the agent does what it announces. [`entry`] is the data, [`store`] the files,
//! [`live`] the record of a job that runs, [`outbox`] the reports that wait.

pub mod done;
pub mod entry;
mod error;
pub mod file;
#[cfg(any(test, fuzzing))]
#[path = "fuzz_tests.rs"]
pub(crate) mod fuzz;
mod images;
pub mod live;
mod logins;
pub mod outbox;
pub mod quarantine;
pub mod store;

pub use self::done::Done;
pub use self::entry::{
    Container, Ended, Entry, HelperState, LIVE_LINES_DROPPED, Part, PartEnd, Place, Report, Server, Stage, Started,
    State, now_ms,
};
pub use self::error::RecordError;
pub use self::images::pulled as pulled_images;
pub use self::live::{Checkpoints, JobRecord, blank, boot_id, page_of};
pub use self::logins::Logins;
pub use self::quarantine::Quarantined;
pub use self::store::{Opened, QUARANTINE, RecordStore, Waiting, holder, knows, taken};

#[cfg(test)]
pub(crate) use self::store::tests as store_tests;

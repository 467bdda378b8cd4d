//! Delivers the one terminal report of a job.
//!
//! Every accepted report runs the job's follow-up actions, so a report whose answer was lost must not simply be sent again.
//! The backend lists the jobs that it counts as this agent's: a job that has left the list was reported, and one that is
//! still in it was not.
//!
//! [`settle`], then [`send`] is one try; the caller sets the pace.

use std::time::Duration;

use super::answer::Orphans;
use super::client::Client;
use super::error::{Error, Problem};
use crate::job::Id;
use crate::limits;

/// How a report was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The backend confirmed it.
    Accepted,
    /// The answer was lost, but the backend no longer waits for the job.
    Seen,
}

/// Whether the report may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was not taken yet: send it.
    NotTaken,
    /// It may have been taken: ask first.
    Unknown,
}

/// What the backend's list says about a report; see [`judge`].
pub type Ask<'a> = dyn FnMut() -> Result<Option<Fate>, Error> + 'a;

/// If `fate` is unknown, asks whether the report was taken, and updates `fate`. After `false` it is known that it was not.
/// After an error, [`least_pause`] says how long the next try must wait.
pub fn settle(client: &Client, job: &Id, fate: &mut Fate, ask: &mut Ask<'_>) -> Result<bool, Error> {
    if *fate == Fate::Unknown {
        match ask()? {
            Some(Fate::NotTaken) => *fate = Fate::NotTaken,
            Some(Fate::Unknown) => return Err(unknown(client, job)),
            None => return Ok(true),
        }
    }
    Ok(false)
}

/// Sends the report `json` once; it updates `fate`. The errors are as those of [`settle`].
pub fn send(client: &Client, job: &Id, json: &str, fate: &mut Fate) -> Result<Delivery, Error> {
    let sent = client.complete(job, json);
    if sent.as_ref().is_err_and(Error::is_ambiguous) {
        *fate = Fate::Unknown;
    }
    sent.map(|()| Delivery::Accepted)
}

/// How soon after the failure `error` another try makes sense.
pub fn least_pause(fate: Fate, error: &Error) -> Duration {
    let settle = if fate == Fate::Unknown { limits::REPORT_SETTLE } else { Duration::ZERO };
    settle.max(error.retry_after().unwrap_or_default())
}

/// What the backend's list says about the report of `job`; `None`: it was taken.
pub fn judge(orphans: &Orphans, job: &Id) -> Option<Fate> {
    let waits = orphans.rows.iter().any(|row| row.id == *job);
    match (waits, orphans.whole) {
        (true, _) => Some(Fate::NotTaken),
        (false, false) => Some(Fate::Unknown),
        (false, true) => None,
    }
}

/// The error of a report whose fate is unknown.
fn unknown(client: &Client, job: &Id) -> Error {
    client.error_of(format!("POST /jobs/{job}/complete"), Problem::Unknown)
}

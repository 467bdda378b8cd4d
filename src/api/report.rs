//! Delivers the one terminal report of a job.
//!
//! Every report that the backend takes runs the job's follow-up actions, so a report whose answer was lost must not
//! simply be sent again. The backend keeps a list of the jobs that it counts as this agent's: a job that has left it
//! was reported, and one that is still in it was not.

use std::time::{Duration, Instant};

use super::body::CompleteBody;
use super::client::{Client, encode_complete};
use super::error::{Error, Problem};
use crate::job::Id;
use crate::limits;
use crate::os::stop::Stop;

/// How a report came to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The backend said that it took it.
    Accepted,
    /// The answer was lost, but the job is no longer among those that the backend waits for.
    Seen,
}

/// Whether the report may be sent, as far as is known.
enum Fate {
    /// It was not taken yet: send it.
    NotTaken,
    /// It may have been taken: ask first.
    Unknown,
}

/// Sends the report until it is taken, refused for good, `stop` is set or `patience` is over; the last failure then.
/// Each failure is logged.
pub fn deliver(
    client: &Client,
    job: &Id,
    body: &CompleteBody<'_>,
    stop: &Stop,
    patience: Duration,
) -> Result<Delivery, Error> {
    let json = encode_complete(body);
    let begun = Instant::now();
    let mut fate = Fate::NotTaken;
    let mut failures = 0;
    loop {
        let error = match step(client, job, &json, &mut fate) {
            Ok(Some(delivery)) => return Ok(delivery),
            // The backend still waits for it: send it now.
            Ok(None) => continue,
            Err(error) => error,
        };
        failures += 1;
        let unknown = matches!(fate, Fate::Unknown);
        let delay = client.delay(failures, &error).max(if unknown { limits::REPORT_SETTLE } else { Duration::ZERO });
        let over = begun.elapsed() + delay > patience;
        if over || !(unknown || error.is_retryable()) {
            log::error!("the result of job {job} was not delivered: {error}");
            return Err(error);
        }
        log::warn!("the result of job {job} is not delivered yet: {error}; trying again in {delay:.1?}");
        if stop.wait(delay) {
            log::error!("the result of job {job} was not delivered before the agent stopped: {error}");
            return Err(error);
        }
    }
}

/// Sends the report, or asks what became of it. `Ok(None)` says that it was not taken and can be sent.
fn step(client: &Client, job: &Id, json: &[u8], fate: &mut Fate) -> Result<Option<Delivery>, Error> {
    match fate {
        Fate::NotTaken => match client.complete_encoded(job, json) {
            Ok(()) => Ok(Some(Delivery::Accepted)),
            Err(error) => {
                if error.is_ambiguous() {
                    *fate = Fate::Unknown;
                }
                Err(error)
            }
        },
        Fate::Unknown => {
            let orphans = client.orphaned()?;
            if orphans.rows.iter().any(|row| row.id == *job) {
                *fate = Fate::NotTaken;
                Ok(None)
            } else if orphans.whole {
                Ok(Some(Delivery::Seen))
            } else {
                Err(client.unknown(job))
            }
        }
    }
}

impl Client {
    /// The error of a report whose fate the backend does not show.
    fn unknown(&self, job: &Id) -> Error {
        self.error_of(format!("POST /jobs/{job}/complete"), Problem::Unknown)
    }
}

//! The data of a job's record: enough to find it again, to judge it and to report it.
//!
//! Nothing here can hold a secret of the job's: there is no field for a script, an environment value, a key or a
//! password, and none may come. A report holds what the script printed, as the backend will get it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::job::{Event, Id, Kind, Language, ScriptResult};
use crate::jobs::resume::ResumePoint;
use crate::os::clock;
use crate::signing::receipt::Facts;
use crate::wire::amount;

/// One job.
/// The name of the number of live lines that did not arrive, in the update of an execution's record.
pub const LIVE_LINES_DROPPED: &str = "liveLinesDropped";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(with = "id")]
    pub job: Id,
    #[serde(with = "id")]
    pub execution: Id,
    #[serde(with = "kind")]
    pub kind: Kind,
    /// How often the backend had handed the job out before this time.
    pub attempts: u32,
    /// `None` for an HTTP request, and for a job that was refused because its language is unknown.
    #[serde(with = "language")]
    pub language: Option<Language>,
    /// When it was claimed: wall clock, milliseconds since 1970.
    pub claimed_ms: u64,
    pub place: Place,
    pub stage: Stage,
    /// Its lines go to its page by updates, and one of them may be under way when the agent is killed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_updates: bool,
    /// Where the script uses helpers. An agent before 0.2 wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helpers: Option<HelperState>,
    /// What must not leave of its output, as [`Logins`](super::Logins) sealed it, until its report is written. An agent before
    /// 0.2 wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<String>,
    /// What its receipt has to say of it that is known only now; `None` without receipts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Facts>,
}

/// The helpers' part of a job's record, until its report has the result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HelperState {
    pub event: Event,
    /// So far.
    pub result: ScriptResult,
}

/// Where a job runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Place {
    /// In no container and on no server: an HTTP request, or a job that was refused.
    Nowhere,
    Container(Container),
    Servers(Vec<Server>),
}

/// A container, with the limits that its verdict names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// The deterministic name, known before it is created.
    pub name: String,
    pub image: String,
    /// Bytes.
    pub memory: u64,
    pub pids: u64,
    /// Bytes.
    pub disk: u64,
    /// Cores.
    #[serde(with = "amount::stored")]
    pub cpu: f64,
    /// The id of a warm container, which had another name before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<String>,
}

/// A server that is reached over SSH.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub name: String,
    /// The backend's number of it.
    pub server_id: String,
    pub host: String,
    pub port: u16,
    pub user: String,
    /// The job's folder on it.
    pub directory: String,
    /// The record of this server's part.
    #[serde(with = "id")]
    pub execution: Id,
    #[serde(default)]
    pub part: Part,
    /// Its end is on this page, and its folder is still there as far as is known.
    #[serde(default)]
    pub remains: bool,
    /// How to log in, as [`Logins`](super::Logins) sealed it; empty in records of older agents.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub login: String,
}

/// How far one of several servers has come. Each is on disk before what it announces is done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// The job's only server: the job's own stage says it.
    #[default]
    OfJob,
    /// Nothing was sent there. Whether its record was made.
    Waiting {
        record: bool,
    },
    /// The script may be running there.
    Started(Started),
    Ended(PartEnd),
}

/// How it ended on one of several servers: what the job's verdict needs of it. Its output is in its record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartEnd {
    /// The verdict's word, and
    pub reason: String,
    pub exit_code: i32,
    /// its sentence, cut to `limits::SSH_SUMMARY_PART` characters.
    pub message: String,
    /// The time limit that ended it, if one did.
    pub timeout_name: String,
    pub timeout_ms: u64,
    #[serde(with = "amount::stored")]
    pub cpu_seconds: f64,
    /// Whether its record was completed, or is to be with `owed`: false in records of older agents alone.
    pub recorded: bool,
    /// JSON: the update of its record, if the backend did not take it yet.
    #[serde(default, with = "optional_json", skip_serializing_if = "Option::is_none")]
    pub owed: Option<String>,
}

/// The states of a job, as the picture in [`super`] has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In memory alone.
    Claimed,
    Intent,
    Started,
    Ended,
    /// Among the finished jobs. The record itself is gone.
    Delivered,
}

impl State {
    /// Whether a record in this state may go to `next`.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Claimed => matches!(next, Self::Intent | Self::Ended),
            // `Intent` again: it turned out that the script was not started.
            Self::Intent => matches!(next, Self::Intent | Self::Started | Self::Ended),
            Self::Started => matches!(next, Self::Started | Self::Intent | Self::Ended),
            Self::Ended => matches!(next, Self::Delivered),
            // Handed out again, as a further attempt.
            Self::Delivered => matches!(next, Self::Intent | Self::Ended),
        }
    }
}

/// What is on disk of a job, with its state. Each is on disk before the agent does what it announces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Stage {
    /// It is about to be created; it has not been started.
    Intent,
    /// It may be running.
    Started(Started),
    /// Its end is known and the backend may not have been told.
    Ended(Ended),
}

/// A job that was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The container's id, once the engine has said it.
    pub id: Option<String>,
    /// Wall clock, milliseconds since 1970.
    pub started_ms: u64,
    /// Wall clock, milliseconds since 1970.
    pub deadline_ms: u64,
    /// The configured name of the limit that the deadline comes from.
    pub timeout_name: String,
    pub timeout_ms: u64,
    /// The boot in which it was started (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Where the next agent goes on with its output.
    #[serde(rename = "delivered")]
    pub resume: ResumePoint,
}

/// A job that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub report: Report,
    /// Since when the report waits: wall clock, milliseconds since 1970.
    pub since_ms: u64,
}

/// What the backend is to be told, as it will be sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The status' word, for the record of finished jobs.
    pub status: String,
    pub exit_code: i32,
    pub message: String,
    /// JSON: the update of the execution's record that goes first. `None` if there is no record.
    #[serde(with = "optional_json")]
    pub update: Option<String>,
    /// The same of the records of single servers, as far as the backend did not take them before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owed: Vec<Owed>,
    /// JSON: the body of `complete`.
    #[serde(with = "json")]
    pub complete: String,
}

/// An update of an execution's record that the backend is still to get.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Owed {
    #[serde(with = "id")]
    pub execution: Id,
    /// JSON.
    #[serde(with = "json")]
    pub update: String,
}

impl Report {
    /// Bytes that it takes in memory, near enough.
    pub fn size(&self) -> usize {
        let owed: usize = self.owed.iter().map(|owed| owed.update.len()).sum();
        self.complete.len() + self.update.as_ref().map_or(0, String::len) + owed + self.message.len()
    }

    /// All updates that go before the report, each with its execution. `own` is the job's.
    pub fn updates<'a>(&'a self, own: &'a Id) -> impl Iterator<Item = (&'a Id, &'a str)> {
        let owed = self.owed.iter().map(|owed| (&owed.execution, owed.update.as_str()));
        self.update.iter().map(move |update| (own, update.as_str())).chain(owed)
    }
}

impl Server {
    /// The update that is owed to its record.
    pub fn owed(&self) -> Option<&str> {
        match &self.part {
            Part::Ended(end) => end.owed.as_deref(),
            Part::OfJob | Part::Waiting { .. } | Part::Started(_) => None,
        }
    }

    /// Takes it out.
    pub fn take_owed(&mut self) -> Option<Owed> {
        let Part::Ended(end) = &mut self.part else { return None };
        Some(Owed { execution: self.execution.clone(), update: end.owed.take()? })
    }
}

impl Started {
    /// What is left of the time limit: none of it or all of it at most, whatever the clock was or is.
    pub fn left(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.deadline_ms.saturating_sub(now_ms).min(self.timeout_ms))
    }

    /// A deadline that lies further away than the whole limit was set by a clock that was wrong, or is read by one: it
    /// begins anew. Whether it was so.
    fn clamp(&mut self, now_ms: u64) -> bool {
        let most = now_ms.saturating_add(self.timeout_ms);
        let is_late = self.deadline_ms > most;
        self.deadline_ms = self.deadline_ms.min(most);
        is_late
    }
}

impl Stage {
    /// The state that this is on disk.
    pub fn state(&self) -> State {
        match self {
            Self::Intent => State::Intent,
            Self::Started(_) => State::Started,
            Self::Ended(_) => State::Ended,
        }
    }
}

impl Entry {
    /// Brings deadlines of the job, and of each of its servers, that are further away than the whole limit back to it. Whether
    /// there were any.
    pub fn clamp_deadlines(&mut self, now_ms: u64) -> bool {
        let mut found = match &mut self.stage {
            Stage::Started(started) => started.clamp(now_ms),
            Stage::Intent | Stage::Ended(_) => false,
        };
        if let Place::Servers(pages) = &mut self.place {
            for page in pages {
                if let Part::Started(started) = &mut page.part {
                    found |= started.clamp(now_ms);
                }
            }
        }
        found
    }

    /// The server of this execution: its id at the backend, and its name. `None` for one on no server.
    pub fn server_of(&self, execution: &Id) -> Option<(Option<&str>, &str)> {
        let Place::Servers(pages) = &self.place else { return None };
        let page = pages.iter().find(|page| page.execution == *execution)?;
        Some((Some(page.server_id.as_str()).filter(|id| !id.is_empty()), page.name.as_str()))
    }

    /// The report and since when it waits; `None` before the end.
    pub fn ended(&self) -> Option<&Ended> {
        match &self.stage {
            Stage::Ended(ended) => Some(ended),
            Stage::Intent | Stage::Started(_) => None,
        }
    }

    /// Bytes of its report.
    pub fn report_size(&self) -> usize {
        self.ended().map_or(0, |ended| ended.report.size())
    }

    /// How many live lines did not arrive, which is known only now.
    pub fn set_live_lines_dropped(&mut self, lines: u64) {
        if let Stage::Ended(Ended { report, .. }) = &mut self.stage
            && let Some(update) = &mut report.update
        {
            let name = format!("\"{LIVE_LINES_DROPPED}\":\"");
            // The script's own words cannot hold it: JSON escapes their quotation marks.
            let Some(from) = update.rfind(&name).map(|at| at + name.len()) else { return };
            if let Some(length) = update[from..].find('"') {
                update.replace_range(from..from + length, &lines.to_string());
            }
        }
    }

    /// Whether the folder of a script that is over may still be on a server.
    pub fn has_remains(&self) -> bool {
        matches!(&self.place, Place::Servers(pages) if pages.iter().any(|page| page.remains))
    }

    /// The same when the folders are gone, or were tried to be removed.
    #[cfg(test)]
    pub fn without_remains(mut self) -> Self {
        if let Place::Servers(pages) = &mut self.place {
            pages.iter_mut().for_each(|page| page.remains = false);
        }
        self
    }
}

/// Wall clock, milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) mod id {
    //! An id is text that is checked when it is read.
    use super::Id;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::jobs::record) fn serialize<S: Serializer>(id: &Id, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(id.as_str())
    }

    pub(in crate::jobs::record) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Id, D::Error> {
        Id::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

mod kind {
    use super::Kind;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(kind: &Kind, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(kind.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Kind, D::Error> {
        let word = String::deserialize(from)?;
        let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == word);
        known.ok_or_else(|| D::Error::custom(format!("unknown kind of job {word:?}")))
    }
}

mod language {
    use super::Language;
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(language: &Option<Language>, to: S) -> Result<S::Ok, S::Error> {
        language.map(Language::as_str).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Language>, D::Error> {
        let Some(word) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let known = Language::parse(&word);
        known.map(Some).ok_or_else(|| D::Error::custom(format!("unknown language {word:?}")))
    }
}

mod json {
    //! JSON within JSON is written as it is: as text it would be escaped a second time and be half as long again.
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer, ser::Error};
    use serde_json::value::RawValue;

    pub(super) fn serialize<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(text).map_err(S::Error::custom)?.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        Ok(String::from(Box::<str>::from(Box::<RawValue>::deserialize(from)?)))
    }
}

mod optional_json {
    use serde::{Deserialize, Deserializer, Serializer};
    use serde_json::value::RawValue;

    pub(super) fn serialize<S: Serializer>(text: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
        match text {
            Some(text) => super::json::serialize(text, to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
        let raw = Option::<Box<RawValue>>::deserialize(from)?;
        Ok(raw.map(|raw| String::from(Box::<str>::from(raw))))
    }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;

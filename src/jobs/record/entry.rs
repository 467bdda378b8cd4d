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
use crate::wire::amount;

/// One job.
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
    /// `None` for a job that was refused because its language is unknown.
    #[serde(with = "language")]
    pub language: Option<Language>,
    /// When it was claimed: wall clock, milliseconds since 1970.
    pub claimed_ms: u64,
    pub place: Place,
    pub stage: Stage,
    /// Where the script uses helpers. An agent before 0.2 wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helpers: Option<HelperState>,
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
    /// It was refused before it had a place.
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
    /// Whether its record was completed.
    pub recorded: bool,
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
    /// JSON: the body of `complete`.
    #[serde(with = "json")]
    pub complete: String,
}

impl Report {
    /// Bytes that it takes in memory, near enough.
    pub fn size(&self) -> usize {
        self.complete.len() + self.update.as_ref().map_or(0, String::len) + self.message.len()
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

    /// The report and since when it waits; `None` before the end.
    pub fn ended(&self) -> Option<&Ended> {
        match &self.stage {
            Stage::Ended(ended) => Some(ended),
            Stage::Intent | Stage::Started(_) => None,
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
        let known = [Kind::Container, Kind::Ssh].into_iter().find(|kind| kind.as_str() == word);
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
mod tests {
    use super::super::{file, store_tests as tests};
    use super::*;

    const FLOATS: [f64; 10] = [
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        -0.0,
        -1.0,
        1e308,
        9_223_372_036_854_775_808.0,
        f64::MIN_POSITIVE,
        0.1 + 0.2,
        60.75,
    ];

    /// Each floating-point number of a page.
    fn floats(page: &mut Entry) -> Vec<&mut f64> {
        match &mut page.place {
            Place::Nowhere => Vec::new(),
            Place::Container(container) => vec![&mut container.cpu],
            Place::Servers(pages) => {
                let ended = pages.iter_mut().map(|page| &mut page.part);
                ended
                    .filter_map(|part| if let Part::Ended(end) = part { Some(&mut end.cpu_seconds) } else { None })
                    .collect()
            }
        }
    }

    /// The page as a file, with `change` made to its JSON, read again.
    fn again(page: &Entry, change: impl Fn(String) -> String) -> Entry {
        let (_, body) = file::encode(page).expect("JSON");
        let body = change(String::from_utf8(body).expect("text"));
        let head = format!("cronium-journal 1 {:08x} {}\n", crate::wire::crc32::of(body.as_bytes()), body.len());
        file::decode(&page.job, format!("{head}{body}").as_bytes()).expect("a page that can be read")
    }

    /// The page holds the report: no number that a server or an engine states may make it unreadable.
    #[test]
    fn a_page_with_any_number_is_read_again() {
        for (n, float) in FLOATS.into_iter().enumerate() {
            let whole = [0, u64::from(u32::MAX), 1 << 63, u64::MAX][n % 4];
            for place in [tests::servers(), tests::entry("a", Stage::Intent).place] {
                let mut page = Entry {
                    place,
                    claimed_ms: whole,
                    attempts: u32::MAX,
                    ..tests::entry("a", tests::ended(whole, "out"))
                };
                for slot in floats(&mut page) {
                    *slot = float;
                }
                let mut back = again(&page, |body| body);
                assert_eq!((back.claimed_ms, back.attempts, &back.stage), (whole, u32::MAX, &page.stage));
                let found = floats(&mut back);
                assert!(!found.is_empty());
                for value in found {
                    assert!(value.is_finite() && *value >= 0.0, "{float}: {value}");
                    let same = (*value - float).abs() <= float.abs() * 1e-15;
                    assert!(same || !(0.0..=amount::MOST).contains(&float), "{float}: {value}");
                }
            }
        }
    }

    #[test]
    fn a_record_goes_forward_and_back_only_where_nothing_ran() {
        use State::{Claimed, Delivered, Ended, Intent, Started};
        let all = [Claimed, Intent, Started, Ended, Delivered];
        let next = |from: State| all.into_iter().filter(|to| from.may_become(*to)).collect::<Vec<_>>();
        assert_eq!(next(Claimed), [Intent, Ended]);
        assert_eq!(next(Intent), [Intent, Started, Ended]);
        assert_eq!(next(Started), [Intent, Started, Ended]);
        assert_eq!(next(Ended), [Delivered]);
        assert_eq!(next(Delivered), [Intent, Ended]);
    }

    #[test]
    fn a_page_costs_no_more_than_twice_its_file() {
        use crate::os::heap_tests::peak;
        let page = tests::entry("a", tests::ended(1, &"\n\u{1}\"x".repeat(1 << 19)));
        let (head, body) = file::encode(&page).expect("JSON");
        let bytes = [head.as_bytes(), &body].concat();
        let (back, most) = peak(|| file::decode(&page.job, &bytes));
        assert_eq!(back.expect("a page").stage, page.stage);
        assert!(most <= bytes.len() + 64 * 1024, "{most} beside {}", bytes.len());
    }

    /// Version 0.1 wrote `null` for what is no number, and could not read it.
    #[test]
    fn a_page_of_the_version_before_is_read_with_its_null() {
        for (place, name) in [(tests::servers(), "cpu_seconds"), (tests::entry("a", Stage::Intent).place, "cpu")] {
            let page = Entry { place, ..tests::entry("a", tests::ended(1, "out")) };
            let mut zero = page.clone();
            floats(&mut zero).into_iter().for_each(|value| *value = 0.0);
            let old = |body: String| {
                let (before, after) = body.split_once(&format!("\"{name}\":")).expect("the number");
                let rest = after.split_once([',', '}']).expect("more").0.len();
                format!("{before}\"{name}\":null{}", &after[rest..])
            };
            assert_eq!(again(&page, old), zero, "{name}");
        }
    }
}

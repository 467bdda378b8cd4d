//! A container's labels: its owner, and the data to adopt it when its record is lost.
//!
//! Labels stand in the engine's stored configuration, so they hold nothing of a script or its variables. Every user of the
//! engine can write them. So they are read back with distrust: nonsense counts as missing, and no label gives a job more
//! time than `jobs.maxTimeout`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config::types::ResourceSet;
use crate::job::{Id, Language};
use crate::os::owner::Owner;

/// The names of the labels: `true` on every container of an agent's, and whose it is.
pub const MANAGED: &str = "cronium.managed";
/// See [`MANAGED`].
pub const AGENT: &str = "cronium.agent.id";
/// See [`MANAGED`].
pub const JOB: &str = "cronium.job.id";
/// See [`MANAGED`].
pub const EXECUTION: &str = "cronium.execution.id";

/// The process whose a container is, on those of `exec` alone: without it nobody has a use for the container.
pub const OWNER: &str = "cronium.owner";
/// What stands for an agent's id on the containers of `exec`.
pub const EXEC: &str = "exec";

/// `true` on a container that was started before its job was known.
pub const WARM: &str = "cronium.warm";

const ATTEMPTS: &str = "cronium.job.attempts";
const LANGUAGE: &str = "cronium.job.language";
const TIMEOUT: &str = "cronium.timeout.ms";
const TIMEOUT_NAME: &str = "cronium.timeout.name";
const NONCE: &str = "cronium.nonce";
const CPU: &str = "cronium.limits.cpu";
const MEMORY: &str = "cronium.limits.memory";
const DISK: &str = "cronium.limits.disk";
const PIDS: &str = "cronium.limits.pids";

/// Longest number and word that is read.
const TEXT_MAX: usize = 64;
/// Most cores that are believed.
const CPU_MAX: f64 = 100_000.0;

/// What is written on a container.
#[derive(Debug)]
pub struct Labels<'a> {
    /// `None` for a warm container, which any job may take.
    pub job: Option<JobLabels<'a>>,
    pub agent: &'a str,
    pub owner: Option<&'a Owner>,
    /// It belongs to no job: its ids are not written.
    pub is_canary: bool,
    pub language: Language,
    pub resources: &'a ResourceSet,
    /// The program's random word, by which its start is known.
    pub nonce: &'a str,
}

/// The part of one job.
#[derive(Debug)]
pub struct JobLabels<'a> {
    pub job: &'a Id,
    pub execution: &'a Id,
    /// How often the backend had handed the job out before.
    pub attempts: u32,
    /// The time limit, and its name in the verdict.
    pub timeout: (Duration, &'a str),
}

impl Labels<'_> {
    /// As the engine's create request has them.
    pub fn json(&self) -> Value {
        let mut all = Map::new();
        let mut put = |name: &str, text: String| drop(all.insert(name.to_owned(), json!(text)));
        put(MANAGED, "true".to_owned());
        match &self.job {
            Some(of) => {
                if !self.is_canary {
                    put(JOB, of.job.to_string());
                    put(EXECUTION, of.execution.to_string());
                }
                put(ATTEMPTS, of.attempts.to_string());
                put(TIMEOUT, of.timeout.0.as_millis().to_string());
                put(TIMEOUT_NAME, of.timeout.1.to_owned());
            }
            None => put(WARM, "true".to_owned()),
        }
        put(AGENT, self.agent.to_owned());
        if let Some(owner) = self.owner {
            put(OWNER, owner.to_string());
        }
        put(LANGUAGE, self.language.as_str().to_owned());
        put(NONCE, self.nonce.to_owned());
        put(CPU, self.resources.cpu.to_string());
        put(MEMORY, self.resources.memory.to_string());
        put(DISK, self.resources.disk.to_string());
        put(PIDS, self.resources.pids.to_string());
        Value::Object(all)
    }
}

/// What a container tells of its job. What is missing was not written, as by an agent before 0.2, or makes no sense.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    pub job: Option<Id>,
    pub execution: Option<Id>,
    pub attempts: u32,
    pub language: Option<Language>,
    /// Not yet within `jobs.maxTimeout`.
    pub timeout: Option<(Duration, String)>,
    pub limits: Option<ResourceSet>,
}

impl Told {
    /// Reads the labels.
    pub fn read(labels: &BTreeMap<String, String>) -> Self {
        let text = |name: &str| labels.get(name).map(String::as_str).filter(|text| text.len() <= TEXT_MAX);
        let number = |name: &str| text(name).filter(|text| is_number(text)).and_then(|text| text.parse::<u64>().ok());
        let id = |name: &str| labels.get(name).and_then(|text| Id::parse(text).ok());
        let timeout = number(TIMEOUT).zip(text(TIMEOUT_NAME));
        Self {
            job: id(JOB),
            execution: id(EXECUTION),
            attempts: number(ATTEMPTS).and_then(|number| u32::try_from(number).ok()).unwrap_or(0),
            language: text(LANGUAGE).and_then(Language::parse),
            timeout: timeout.map(|(ms, name)| (Duration::from_millis(ms), name.to_owned())),
            limits: limits(text(CPU), [number(MEMORY), number(DISK), number(PIDS)]),
        }
    }
}

/// The program's random word.
pub fn nonce(labels: &BTreeMap<String, String>) -> Option<&str> {
    let nonce = labels.get(NONCE)?.as_str();
    let sound = !nonce.is_empty() && nonce.len() <= TEXT_MAX && nonce.bytes().all(|b| b.is_ascii_hexdigit());
    sound.then_some(nonce)
}

fn limits(cpu: Option<&str>, sizes: [Option<u64>; 3]) -> Option<ResourceSet> {
    let cpu: f64 = cpu?.parse().ok()?;
    let [Some(memory), Some(disk), Some(pids)] = sizes else { return None };
    if !(cpu > 0.0 && cpu <= CPU_MAX) {
        return None;
    }
    let rates = (None, None, None, None);
    let (read_bps, write_bps, read_iops, write_iops) = rates;
    Some(ResourceSet { cpu, memory, disk, pids, read_bps, write_bps, read_iops, write_iops })
}

/// `parse` would also take a sign.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// What every container of this agent's carries, as [`crate::docker::Client::list`] takes it.
pub fn of_agent(agent: &str) -> [String; 2] {
    [format!("{MANAGED}=true"), format!("{AGENT}={agent}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(3600);

    fn set() -> ResourceSet {
        limits(Some("0.5"), [Some(512 << 20), Some(1 << 30), Some(100)]).expect("limits")
    }

    fn written() -> BTreeMap<String, String> {
        let id = |text| Id::parse(text).expect("id");
        let (job, execution, resources) = (id("job_1"), id("exec-job_1-5"), set());
        let timeout = (Duration::from_millis(61_500), "jobs.defaultTimeout");
        let labels = Labels {
            job: Some(JobLabels { job: &job, execution: &execution, attempts: 2, timeout }),
            agent: "agent-1",
            owner: None,
            is_canary: false,
            language: Language::Python,
            resources: &resources,
            nonce: "00ff",
        };
        serde_json::from_value(labels.json()).expect("texts")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let all = written();
        let told = Told::read(&all);
        assert_eq!(
            (told.job.as_ref().map(Id::as_str), told.execution.as_ref().map(Id::as_str)),
            (Some("job_1"), Some("exec-job_1-5"))
        );
        assert_eq!((told.attempts, told.language, told.limits), (2, Some(Language::Python), Some(set())));
        assert_eq!(told.timeout, Some((Duration::from_millis(61_500), "jobs.defaultTimeout".to_owned())));
        assert_eq!(nonce(&all), Some("00ff"));
        assert_eq!(all.get(OWNER), None, "an agent comes back to its containers");
    }

    #[test]
    fn nothing_is_needed_and_nothing_is_believed_that_makes_no_sense() {
        assert_eq!(Told::read(&BTreeMap::new()), Told::default());
        assert_eq!(nonce(&BTreeMap::new()), None);
        let whole = Told::read(&written());
        let long = "9".repeat(5000);
        for bad in
            ["", "-1", "+1", "NaN", "inf", "-inf", "1e400", "0x10", "1 ", "\u{0}", "ü", "99999999999999999999", &long]
        {
            for name in [JOB, EXECUTION, ATTEMPTS, LANGUAGE, TIMEOUT, TIMEOUT_NAME, CPU, MEMORY, DISK, PIDS, NONCE] {
                let mut all = written();
                all.insert(name.to_owned(), bad.to_owned());
                let told = Told::read(&all);
                // Nothing else suffers, and no time is gained.
                assert!(told.timeout.as_ref().is_none_or(|(after, _)| *after <= MOST), "{name}={bad:.20}: {told:?}");
                assert!(told.limits.is_none_or(|set| set.cpu.is_finite() && set.cpu > 0.0), "{name}={bad:.20}");
                assert!(name == ATTEMPTS || told.attempts == whole.attempts);
                assert!(name == LANGUAGE || told.language == whole.language);
                assert!(nonce(&all).is_none_or(|nonce| nonce.len() <= TEXT_MAX));
            }
        }
    }
}

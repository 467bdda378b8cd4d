//! The file format of a record, bytes to entry and back: one line that says what the file is, then the entry as JSON.
//!
//! `cronium-journal 1 <CRC-32 of the JSON, 8 hex digits> <its length in bytes>`

use std::fmt;

use super::entry::Entry;
use crate::job::Id;
use crate::limits;
use crate::wire::crc32;

const MAGIC: &str = "cronium-journal";
const VERSION: u32 = 1;
/// Longest first line: two words, a checksum and two numbers.
const HEAD_MAX: usize = 80;
/// The end of a job's file name.
const ENDING: &str = ".job";

/// Why the bytes of a file are no entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bad {
    /// It does not begin like a record file.
    Foreign,
    /// A later version of the agent wrote it.
    Version(u32),
    /// It is longer than `limits::RECORD_FILE_MAX`.
    TooLarge,
    /// Its length is not the one that it states.
    Torn { stated: usize, found: usize },
    /// Its bytes are not those that were written.
    Checksum,
    /// It is whole, but not what this version writes.
    Body(String),
    /// It is the entry of another job than its name says.
    Name(Id),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("it is not a record file"),
            Self::Version(version) => {
                write!(f, "it has version {version} of the format, this agent knows {VERSION}: use a later agent")
            }
            Self::TooLarge => write!(f, "it is longer than {} bytes", limits::RECORD_FILE_MAX),
            Self::Torn { stated, found } => write!(f, "it is torn: {found} bytes of {stated}"),
            Self::Checksum => f.write_str("its checksum is wrong: the disk did not keep what was written"),
            Self::Body(why) => write!(f, "it is no entry: {why}"),
            Self::Name(job) => write!(f, "it is the entry of job {job}"),
        }
    }
}

/// The name of a job's file.
pub(super) fn name(job: &Id) -> String {
    format!("{job}{ENDING}")
}

/// The job that a file name stands for.
pub(super) fn job_of(name: &str) -> Option<Id> {
    Id::parse(name.strip_suffix(ENDING)?).ok()
}

/// The first line and the JSON.
pub(super) fn encode(entry: &Entry) -> serde_json::Result<(String, Vec<u8>)> {
    let body = serde_json::to_vec(entry)?;
    Ok((format!("{MAGIC} {VERSION} {:08x} {}\n", crc32::of(&body), body.len()), body))
}

/// Reads what [`encode`] wrote for `job`, and nothing else.
pub(super) fn decode(job: &Id, bytes: &[u8]) -> Result<Entry, Bad> {
    if bytes.len() > limits::RECORD_FILE_MAX {
        return Err(Bad::TooLarge);
    }
    let end = bytes.iter().take(HEAD_MAX).position(|&b| b == b'\n').ok_or(Bad::Foreign)?;
    let (head, body) = (&bytes[..end], &bytes[end + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| Bad::Foreign)?;
    let mut words = head.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(Bad::Foreign);
    }
    let version: u32 = words.next().and_then(|word| word.parse().ok()).ok_or(Bad::Foreign)?;
    if version != VERSION {
        return Err(if version > VERSION { Bad::Version(version) } else { Bad::Foreign });
    }
    let sum = words.next().and_then(|word| u32::from_str_radix(word, 16).ok()).ok_or(Bad::Foreign)?;
    let stated: usize = words.next().and_then(|word| word.parse().ok()).ok_or(Bad::Foreign)?;
    if words.next().is_some() {
        return Err(Bad::Foreign);
    }
    if body.len() != stated {
        return Err(Bad::Torn { stated, found: body.len() });
    }
    if crc32::of(body) != sum {
        return Err(Bad::Checksum);
    }
    let entry: Entry = serde_json::from_slice(body).map_err(|error| Bad::Body(error.to_string()))?;
    if entry.job == *job { Ok(entry) } else { Err(Bad::Name(entry.job)) }
}

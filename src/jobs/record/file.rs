//! The file format of a record, bytes to entry and back: one line that says what the file is, then the entry as JSON.
//!
//! `cronium-journal 1 <CRC-32 of the JSON, 8 hex digits> <its length in bytes>`

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read, Seek, SeekFrom, Write};

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

/// An entry as it will stand in its file. Its JSON goes through a small buffer twice and is never whole in memory: a report
/// is as large as a job's output.
pub(super) struct Encoded<'a> {
    entry: &'a Entry,
    head: String,
    body: Count,
}

/// What a first pass over the JSON finds.
#[derive(Default)]
struct Count {
    bytes: usize,
    sum: crc32::Sum,
}

impl Write for Count {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.bytes += part.len();
        self.sum.add(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> Encoded<'a> {
    pub(super) fn of(entry: &'a Entry) -> serde_json::Result<Self> {
        let mut body = Count::default();
        serde_json::to_writer(&mut body, entry)?;
        Ok(Self { entry, head: format!("{MAGIC} {VERSION} {:08x} {}\n", body.sum.value(), body.bytes), body })
    }

    /// Bytes of the whole file.
    pub(super) fn len(&self) -> usize {
        self.head.len() + self.body.bytes
    }

    pub(super) fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(self.head.as_bytes())?;
        serde_json::to_writer(to, self.entry).map_err(io::Error::from)
    }
}

/// Reads what [`Encoded`] wrote for `job`, and nothing else, from a file of that many bytes. An error when the disk does not
/// give it. The JSON is read twice: its checksum first.
pub(super) fn read(job: &Id, file: impl Read + Seek, length: u64) -> io::Result<Result<Entry, Bad>> {
    if length > limits::RECORD_FILE_MAX as u64 {
        return Ok(Err(Bad::TooLarge));
    }
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    file.by_ref().take(HEAD_MAX as u64).read_until(b'\n', &mut line)?;
    let head = match head(&line) {
        Ok(head) => head,
        Err(bad) => return Ok(Err(bad)),
    };
    let mut found = Count::default();
    io::copy(&mut file.by_ref().take(limits::RECORD_FILE_MAX as u64), &mut found)?;
    if found.bytes != head.length {
        return Ok(Err(Bad::Torn { stated: head.length, found: found.bytes }));
    }
    if found.sum.value() != head.sum {
        return Ok(Err(Bad::Checksum));
    }
    file.seek(SeekFrom::Start(line.len() as u64))?;
    Ok(match serde_json::from_reader::<_, Entry>(file.take(head.length as u64)) {
        Ok(entry) if entry.job == *job => Ok(entry),
        Ok(entry) => Err(Bad::Name(entry.job)),
        Err(error) if error.is_io() => return Err(error.into()),
        Err(error) => Err(Bad::Body(error.to_string())),
    })
}

/// What the first line states of the JSON after it.
struct Head {
    sum: u32,
    length: usize,
}

fn head(line: &[u8]) -> Result<Head, Bad> {
    let line = line.strip_suffix(b"\n").ok_or(Bad::Foreign)?;
    let mut words = std::str::from_utf8(line).map_err(|_| Bad::Foreign)?.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(Bad::Foreign);
    }
    let version: u32 = words.next().and_then(|word| word.parse().ok()).ok_or(Bad::Foreign)?;
    if version != VERSION {
        return Err(if version > VERSION { Bad::Version(version) } else { Bad::Foreign });
    }
    let sum = words.next().and_then(|word| u32::from_str_radix(word, 16).ok()).ok_or(Bad::Foreign)?;
    let length = words.next().and_then(|word| word.parse().ok()).ok_or(Bad::Foreign)?;
    if words.next().is_some() { Err(Bad::Foreign) } else { Ok(Head { sum, length }) }
}

/// The first line and the JSON.
#[cfg(any(test, fuzzing))]
pub(super) fn encode(entry: &Entry) -> serde_json::Result<(String, Vec<u8>)> {
    let encoded = Encoded::of(entry)?;
    Ok((encoded.head, serde_json::to_vec(entry)?))
}

/// Reads a file's bytes.
#[cfg(any(test, fuzzing))]
pub(super) fn decode(job: &Id, bytes: &[u8]) -> Result<Entry, Bad> {
    read(job, io::Cursor::new(bytes), bytes.len() as u64).expect("memory gives what it has")
}

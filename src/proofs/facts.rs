//! What the canaries found, as the proofs read it.

use std::net::IpAddr;

use crate::config::types::ResourceSet;
use crate::verdict::Cause;

/// What a canary printed and how it ended.
#[derive(Debug, Clone)]
pub(super) struct Ran {
    pub(super) out: String,
    pub(super) err: String,
    pub(super) cause: Cause,
    pub(super) message: String,
    /// The limits that its container got.
    pub(super) limits: ResourceSet,
    /// Processor time, in seconds.
    pub(super) used: f64,
}

/// Why a canary proves nothing.
pub(super) type NotRun = String;

/// What all canaries found.
pub(super) struct Found {
    pub(super) locks: Result<Ran, NotRun>,
    pub(super) memory: Result<Ran, NotRun>,
    pub(super) pids: Result<Ran, NotRun>,
    pub(super) cpu: Result<Ran, NotRun>,
    /// System calls that a job must not be able to make.
    pub(super) calls: Result<Ran, NotRun>,
    /// Attempts to keep its own container from ending.
    pub(super) end: Result<Ran, NotRun>,
    /// Questions to name servers; `None` where the configured network may have them answered.
    pub(super) names: Option<Result<Ran, NotRun>>,
    /// The name server that answers this host, where that was tried.
    pub(super) host_resolver: Option<String>,
    /// The listener's first line.
    pub(super) listening: Result<Listener, NotRun>,
    /// All that it said.
    pub(super) listener: Result<Ran, NotRun>,
    pub(super) reached: Result<Ran, NotRun>,
    /// Whether this host reached the listener, where that was tried.
    pub(super) host_reaches: Option<bool>,
    /// Whether something answers this host at 169.254.169.254.
    pub(super) host_reaches_cloud: bool,
}

impl Found {
    /// Processor time of all canaries, in seconds.
    pub(super) fn used(&self) -> f64 {
        let all =
            [&self.locks, &self.memory, &self.pids, &self.cpu, &self.calls, &self.end, &self.listener, &self.reached];
        all.into_iter().chain(&self.names).flatten().fold(0.0, |sum, ran| sum + ran.used)
    }
}

/// Where a canary listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listener {
    /// None where it has no network.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    /// It reached itself: it does listen.
    pub(super) reaches_itself: bool,
}

impl Listener {
    /// Reads `listening ADDRESS|none PORT itself|nobody…`.
    pub(super) fn read(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        if words.next() != Some("listening") {
            return None;
        }
        let address = match words.next()? {
            "none" => None,
            address => Some(address.parse().ok()?),
        };
        let port = words.next()?.parse().ok()?;
        Some(Self { address, port, reaches_itself: words.next() == Some("itself") })
    }
}

/// A canary's lines: a word, then the rest.
pub(super) struct Facts<'a>(pub(super) &'a Ran);

impl<'a> Facts<'a> {
    /// The facts of a canary that came to its end. Another proves nothing.
    pub(super) fn whole(ran: &'a Result<Ran, NotRun>) -> Result<Self, NotRun> {
        let facts = Self(ran.as_ref().map_err(NotRun::clone)?);
        match facts.one("end") {
            Some(_) => Ok(facts),
            None => Err(format!("it did not come to its end: {} {}", facts.0.message, last_line(&facts.0.err))),
        }
    }

    pub(super) fn all(&self, word: &str) -> impl Iterator<Item = &'a str> {
        let split = |line: &'a str| line.split_once(' ').unwrap_or((line, ""));
        self.0.out.lines().map(split).filter(move |(first, _)| *first == word).map(|(_, rest)| rest.trim())
    }

    pub(super) fn one(&self, word: &str) -> Option<&'a str> {
        self.all(word).next()
    }

    pub(super) fn number(&self, word: &str) -> Option<u64> {
        self.all(word).last()?.split_whitespace().next()?.parse().ok()
    }
}

pub(super) fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

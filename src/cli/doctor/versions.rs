//! Versions with known holes: of the engine, of what it starts containers with, and of the kernel.
//!
//! The table is of [`AS_OF`]. It lists holes by which a container may come out, reach what it must not, or change what others
//! run. A distribution carries a fix back without a new number, so an old number is a warning, and a failure only under
//! `--strict`.

use std::cmp::Ordering;

use crate::docker::client::{EngineInfo, EngineVersion};
use crate::proofs::finding::Finding;

/// Of [`checks`].
pub(super) const NAMES: [&str; 4] = ["engine-version", "containerd-version", "runtime-version", "kernel-version"];

/// Year and month of the table.
const AS_OF: &str = "2026-11";

/// How many holes a line names; it counts the others.
const SHOWN: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Docker,
    Containerd,
    Runc,
    Crun,
    Podman,
    Kernel,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Containerd => "containerd",
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Podman => "Podman",
            Self::Kernel => "kernel",
        }
    }
}

/// A hole, and the releases that closed it.
struct Hole {
    part: Part,
    /// Year and month of its publication.
    date: &'static str,
    cve: &'static str,
    what: &'static str,
    /// The first version with the hole; empty: all before the fix.
    since: &'static str,
    /// The first fixed release of each line (the first two numbers), in ascending order. Later lines than the last have the fix.
    fixed: &'static [&'static str],
}

macro_rules! holes {
    ($($part:ident $date:literal $cve:literal since $since:literal fixed $fixed:expr, $what:literal;)*) => {
        &[$(Hole { part: Part::$part, date: $date, cve: $cve, what: $what, since: $since, fixed: &$fixed }),*]
    };
}

/// By part, date and number.
static HOLES: &[Hole] = holes! {
    Docker "2024-03" "CVE-2024-29018" since "" fixed ["23.0.11", "25.0.5", "26.0.0"],
        "names are resolved for a job on an internal network; the agent closes this";
    Docker "2024-07" "CVE-2024-41110" since "" fixed ["23.0.15", "25.0.6", "26.1.5", "27.1.1"],
        "authorization plugins are passed by";
    Docker "2025-07" "CVE-2025-54388" since "28.2.0" fixed ["28.3.3"],
        "a reload of firewalld opens ports that were published for this host alone";
    Docker "2025-07" "CVE-2025-54410" since "" fixed ["25.0.13", "28.0.0"],
        "a reload of firewalld removes the wall between networks";
    Docker "2026-03" "CVE-2026-34040" since "" fixed ["29.3.1"],
        "authorization plugins are passed by";
    Containerd "2025-03" "CVE-2024-40635" since "" fixed ["1.6.38", "1.7.27", "2.0.4"],
        "a very large user number becomes root";
    Containerd "2025-11" "CVE-2024-25621" since "" fixed ["1.7.29", "2.0.7", "2.1.5", "2.2.0"],
        "users of this host may look into its folders";
    Containerd "2025-11" "CVE-2025-64329" since "" fixed ["1.7.29", "2.0.7", "2.1.5", "2.2.0"],
        "attach calls of Kubernetes use up memory";
    Runc "2024-01" "CVE-2024-21626" since "" fixed ["1.1.12"],
        "a descriptor of the host is left open in the container";
    Runc "2024-09" "CVE-2024-45310" since "" fixed ["1.1.14", "1.2.0"],
        "empty files can be made on the host";
    Runc "2025-11" "CVE-2025-31133" since "" fixed ["1.2.8", "1.3.3", "1.4.0"],
        "masked paths can be exchanged";
    Runc "2025-11" "CVE-2025-52565" since "" fixed ["1.2.8", "1.3.3", "1.4.0"],
        "the mount of the console can be led elsewhere";
    Runc "2025-11" "CVE-2025-52881" since "" fixed ["1.2.8", "1.3.3", "1.4.0"],
        "writes to /proc can be led elsewhere";
    Runc "2026-06" "CVE-2026-41579" since "" fixed ["1.3.6", "1.4.3", "1.5.0"],
        "an image with a link as /dev changes the host";
    Crun "2022-04" "CVE-2022-27650" since "" fixed ["1.4.4"],
        "processes get inheritable capabilities";
    Crun "2025-02" "CVE-2025-24965" since "" fixed ["1.20"],
        "an image escapes through the krun handler";
    Crun "2026-03" "CVE-2026-30892" since "1.19" fixed ["1.27"],
        "exec takes the user 1 for root; the agent does not use it";
    Podman "2024-03" "CVE-2024-1753" since "" fixed ["4.9.4", "5.0.0"],
        "a build mounts the host's root; jobs build nothing";
    Podman "2024-10" "CVE-2024-9676" since "" fixed ["5.2.5"],
        "an image makes it read any file";
    Podman "2025-09" "CVE-2025-9566" since "4.0.0" fixed ["5.6.1"],
        "kube play overwrites files of the host; the agent does not use it";
    Kernel "2022-01" "CVE-2022-0185" since "5.1" fixed ["5.4.173", "5.10.93", "5.15.16", "5.16.2"],
        "a user namespace leads to root";
    Kernel "2022-03" "CVE-2022-0847" since "5.8" fixed ["5.10.102", "5.15.25", "5.16.11"],
        "Dirty Pipe: files that can only be read are changed for all";
    Kernel "2024-01" "CVE-2024-1086" since "3.15" fixed ["5.4.269", "5.10.210", "5.15.149", "6.1.76", "6.6.15", "6.7.3"],
        "nf_tables in a user namespace leads to root";
    Kernel "2026-04" "CVE-2026-31431" since "4.14" fixed
        ["5.10.254", "5.15.204", "6.1.170", "6.6.137", "6.12.85", "6.18.22", "6.19.12", "7.0"],
        "Copy Fail: files that can only be read are changed for all by AF_ALG, which the filter `builtin` refuses";
};

/// The word of an engine's text that is a version.
fn word(text: &str) -> Option<&str> {
    text.split_whitespace()
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
}

/// A version as numbers. A release candidate comes before its release.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    numbers: Vec<u64>,
    is_early: bool,
}

impl Version {
    /// Reads the first number of a text such as `v1.1.5+ds1`, `6.18.44-cloud`, `crun version 1.21` or `1.2.0-rc.3`.
    fn read(text: &str) -> Option<Self> {
        let word = word(text)?;
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        let (numbers, rest) = word.split_at(end);
        let numbers: Option<Vec<u64>> =
            numbers.trim_end_matches('.').split('.').map(|number| number.parse().ok()).collect();
        let rest = rest.trim_start_matches(['-', '~', '.']);
        let is_early = ["rc", "beta", "alpha", "dev"].iter().any(|word| rest.starts_with(word));
        Some(Self { numbers: numbers?, is_early })
    }

    fn number(&self, at: usize) -> u64 {
        self.numbers.get(at).copied().unwrap_or(0)
    }

    fn line(&self) -> (u64, u64) {
        (self.number(0), self.number(1))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let most = self.numbers.len().max(other.numbers.len());
        let numbers = (0..most).map(|at| self.number(at).cmp(&other.number(at)));
        numbers.fold(Ordering::Equal, Ordering::then).then(other.is_early.cmp(&self.is_early))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hole {
    fn fixes(&self) -> impl DoubleEndedIterator<Item = Version> {
        self.fixed.iter().filter_map(|text| Version::read(text))
    }

    fn is_in(&self, version: &Version) -> bool {
        let is_older = Version::read(self.since).is_some_and(|since| *version < since);
        let is_newer = self.fixes().next_back().is_none_or(|last| *version >= last);
        let is_fixed = self.fixes().any(|fix| fix.line() == version.line() && *version >= fix);
        !(is_older || is_newer || is_fixed)
    }
}

/// All checks of this file, in the order of [`NAMES`].
pub(super) fn checks(info: &EngineInfo, version: Option<&EngineVersion>, podman: bool) -> Vec<Finding> {
    let told = |word: &str| version.and_then(|version| version.part(word)).unwrap_or_default();
    let engine = if podman { Part::Podman } else { Part::Docker };
    let (runtime, runtime_version) = match (told("runc"), told("crun")) {
        ("", "") => (Part::Runc, ""),
        ("", crun) => (Part::Crun, crun),
        (runc, _) => (Part::Runc, runc),
    };
    let containerd = match podman {
        true => Finding::ok("none: Podman starts containers without it"),
        false => of(Part::Containerd, told("containerd")),
    };
    vec![of(engine, &info.version), containerd, of(runtime, runtime_version), of(Part::Kernel, &info.kernel)]
}

/// What the table says of this version of a part, as the engine tells it.
fn of(part: Part, told: &str) -> Finding {
    let name = part.as_str();
    let Some(version) = Version::read(told) else {
        let word = if told.is_empty() { "does not tell the version of" } else { "tells no number as the version of" };
        let measured = match part {
            Part::Runc => format!("the engine {word} runc or crun, with which it starts containers"),
            _ => format!("the engine {word} {name}"),
        };
        let hint = format!("compare it yourself with the releases that closed the holes known in {AS_OF}");
        return Finding { is_strict: true, ..Finding::warn(measured, hint) };
    };
    let told = word(told).unwrap_or_default();
    let open: Vec<&Hole> = HOLES.iter().filter(|hole| hole.part == part && hole.is_in(&version)).collect();
    if open.is_empty() {
        return Finding::ok(format!("{name} {told}: no hole known in {AS_OF}"));
    }
    let line =
        |hole: &&Hole| format!("{} ({}, {}; fixed in {})", hole.cve, hole.date, hole.what, hole.fixed.join(", "));
    let shown: Vec<String> = open.iter().rev().take(SHOWN).map(line).collect();
    let more = match open.len() - shown.len() {
        0 => String::new(),
        count => format!(", and {count} older ones"),
    };
    let measured = format!("{name} {told} may have {}{more}", shown.join(", "));
    let least = least(part, &version).map_or_else(String::new, |least| format!(" to {least} or later"));
    let hint = format!(
        "update {name}{least}. A distribution may have carried the fix back without a new number: see its security tracker. The \
         list is of {AS_OF}; --strict makes this a failure"
    );
    Finding { is_strict: true, ..Finding::warn(measured, hint) }
}

/// The nearest later release of a part without any of the holes.
fn least(part: Part, version: &Version) -> Option<&'static str> {
    let of_part = || HOLES.iter().filter(|hole| hole.part == part);
    let all = of_part().flat_map(|hole| hole.fixed).filter_map(|text| Some((Version::read(text)?, *text)));
    let good = all.filter(|(fix, _)| fix > version && of_part().all(|hole| !hole.is_in(fix)));
    good.min_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, text)| text)
}

#[cfg(test)]
#[path = "versions_tests.rs"]
mod tests;

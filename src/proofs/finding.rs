//! What a check found: the words of `doctor` and of the agent's own proofs.

use serde::Serialize;

use crate::limits;

/// How a check ended; the worst of all is the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Ok,
    Warn,
    Fail,
}

impl Grade {
    /// The word in the report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `result` in JSON.
    #[serde(rename = "result")]
    pub grade: Grade,
    /// One line, without control characters.
    pub measured: String,
    /// What to do; empty where nothing is to be done.
    pub hint: String,
    /// A warning that is a failure for `doctor --strict` and for the agent's own proofs: a wall that the configuration opens,
    /// a version with a known hole.
    #[serde(skip)]
    pub is_strict: bool,
}

/// One line of the report: the name of a check, and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    #[serde(flatten)]
    pub finding: Finding,
}

impl Finding {
    pub fn ok(measured: impl AsRef<str>) -> Self {
        Self { grade: Grade::Ok, measured: plain(measured.as_ref()), hint: String::new(), is_strict: false }
    }

    pub fn warn(measured: impl AsRef<str>, hint: impl AsRef<str>) -> Self {
        Self { grade: Grade::Warn, hint: plain(hint.as_ref()), ..Self::ok(measured) }
    }

    pub fn fail(measured: impl AsRef<str>, hint: impl AsRef<str>) -> Self {
        Self { grade: Grade::Fail, ..Self::warn(measured, hint) }
    }

    /// For a door that is open: a warning where the configuration wants it so, else a failure.
    pub fn open(wanted: bool, measured: impl AsRef<str>, hint: impl AsRef<str>) -> Self {
        match wanted {
            true => Self { is_strict: true, ..Self::warn(format!("{}, as configured", measured.as_ref()), hint) },
            false => Self::fail(measured, hint),
        }
    }

    /// The same where no open door is excused.
    pub fn strictly(mut self) -> Self {
        if self.is_strict {
            self.grade = Grade::Fail;
        }
        self
    }

    /// For a check that could not be made: unknown counts as a failure.
    pub fn unknown(why: impl AsRef<str>) -> Self {
        Self::fail(format!("not known: {}", why.as_ref()), "see to the other failures first, then run this again")
    }

    pub fn of(self, name: &'static str) -> Check {
        Check { name, finding: self }
    }
}

/// Findings with their names, in the same order.
pub fn named(names: &[&'static str], findings: Vec<Finding>) -> Vec<Check> {
    debug_assert_eq!(names.len(), findings.len());
    names.iter().zip(findings).map(|(name, finding)| finding.of(name)).collect()
}

/// One line without control characters: it quotes engines, backends and scripts.
fn plain(text: &str) -> String {
    let text = text.trim();
    let mut out = String::with_capacity(text.len());
    for (count, c) in text.chars().enumerate() {
        if count == limits::PROOF_TEXT {
            out.push('…');
            break;
        }
        match c {
            '\n' | '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut() {
        assert_eq!(Finding::ok("a".repeat(5_000)).measured.chars().count(), limits::PROOF_TEXT + 1);
    }
}

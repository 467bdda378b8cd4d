//! What a check says, and how all of them are printed: for a person as lines, for a program as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::cli::exit;
use crate::proofs::finding::{Check, Finding, Grade};

/// All checks, in the order in which they are printed.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) checks: Vec<Check>,
    pub(super) took: Duration,
}

impl Report {
    pub(super) fn verdict(&self) -> Grade {
        self.checks.iter().map(|check| check.finding.grade).max().unwrap_or(Grade::Fail)
    }

    /// The program's exit code: a warning is no failure.
    pub(super) fn code(&self) -> u8 {
        if self.verdict() == Grade::Fail { exit::FAILED } else { exit::OK }
    }

    /// A line a check, with what to do below each failure, and with `hints` below each warning too.
    pub(super) fn text(&self, hints: bool) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let mut out = String::new();
        for Check { name, finding: Finding { grade, measured, hint, .. } } in &self.checks {
            let _ = writeln!(out, "{:4}  {name:width$}  {measured}", grade.as_str());
            if !hint.is_empty() && (hints || *grade == Grade::Fail) {
                let _ = writeln!(out, "{:6}{:width$}  -> {hint}", "", "");
            }
        }
        let count = |grade| self.checks.iter().filter(|check| check.finding.grade == grade).count();
        let (ok, warn, fail) = (count(Grade::Ok), count(Grade::Warn), count(Grade::Fail));
        let more = if warn > 0 && !hints { "; --fix-hints says what to do about a warn" } else { "" };
        let _ = writeln!(out, "{ok} ok, {warn} warn, {fail} fail in {:.1} s{more}", self.took.as_secs_f64());
        out
    }

    /// One line of JSON.
    pub(super) fn json(&self) -> String {
        #[derive(Serialize)]
        struct Whole<'a> {
            verdict: Grade,
            checks: &'a [Check],
            seconds: f64,
        }
        let seconds = (self.took.as_secs_f64() * 1e3).round() / 1e3;
        let whole = Whole { verdict: self.verdict(), checks: &self.checks, seconds };
        let text = serde_json::to_string(&whole)
            .unwrap_or_else(|error| format!("{{\"verdict\":\"fail\",\"error\":\"{error}\"}}"));
        format!("{text}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let checks = vec![
            Finding::ok("fine").of("dns"),
            Finding::warn("off", "switch it on").of("apparmor"),
            Finding::fail("gone\n\x1b[31m", "start it").of("engine"),
        ];
        Report { checks, took: Duration::from_millis(1_234) }
    }

    #[test]
    fn hints_stand_below_failures_and_below_warnings_where_asked_for() {
        let text = "ok    dns       fine\n\
                    warn  apparmor  off\n\
                    fail  engine    gone \\u{1b}[31m\n                -> start it\n\
                    1 ok, 1 warn, 1 fail in 1.2 s; --fix-hints says what to do about a warn\n";
        assert_eq!(report().text(false), text);
        assert!(report().text(true).contains("off\n                -> switch it on\n"));
    }

    #[test]
    fn the_worst_is_the_verdict() {
        let mut report = report();
        assert_eq!((report.verdict(), report.code()), (Grade::Fail, exit::FAILED));
        report.checks.pop();
        assert_eq!((report.verdict(), report.code()), (Grade::Warn, exit::OK));
        report.checks.pop();
        assert_eq!((report.verdict(), report.code()), (Grade::Ok, exit::OK));
        report.checks.pop();
        assert_eq!(report.code(), exit::FAILED, "nothing was looked at");
    }

    #[test]
    fn json_has_the_promised_shape() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).expect("JSON");
        assert_eq!(value["verdict"], "fail");
        assert_eq!(value["seconds"], 1.234);
        let second =
            serde_json::json!({"name": "apparmor", "result": "warn", "measured": "off", "hint": "switch it on"});
        assert_eq!(value["checks"][1], second);
    }
}

//! What a user sees of a job: its entry in the log, by which today's pages show it. An answer that looks right in the job's
//! row can still be an empty page.

use std::collections::VecDeque;

use crate::store::Stamp;

/// States of the page that are kept of one job: enough for minutes of live output, and a bound.
const LIVE_KEPT: usize = 500;

/// A job's page.
#[derive(Debug, Clone)]
pub struct Shown {
    /// `PENDING`, `RUNNING`, `SUCCESS`, `FAILURE`, `TIMEOUT` or `PARTIAL`.
    pub status: &'static str,
    /// The text below "output". The page has no such part when it is empty.
    pub output: String,
    /// The text below "error": stderr of a failed job. The page has no such part when it is empty.
    pub error: String,
    pub execution_ms: Option<u64>,
    pub setup_ms: Option<u64>,
    /// What an open page was told while the job ran, the oldest first: the whole output as of then.
    pub live: VecDeque<Live>,
}

/// The output at a moment of the job's run.
#[derive(Debug, Clone)]
pub struct Live {
    pub at: Stamp,
    pub output: String,
}

impl Default for Shown {
    fn default() -> Self {
        let (output, error) = (String::new(), String::new());
        Self { status: "PENDING", output, error, execution_ms: None, setup_ms: None, live: VecDeque::new() }
    }
}

impl Shown {
    /// An open page was told the output as it is now.
    pub(crate) fn tell(&mut self, at: Stamp) {
        if self.live.len() == LIVE_KEPT {
            self.live.pop_front();
        }
        self.live.push_back(Live { at, output: self.output.clone() });
    }

    /// The two texts that a report's `stdout` and `stderr` become. A failed job has them apart, any other has one.
    pub(crate) fn report(&mut self, verdict: &str, exit_code: Option<i64>, stdout: &str, stderr: &str) {
        stdout.clone_into(&mut self.output);
        let timed_out = verdict == "timeout" || (verdict == "failed" && exit_code == Some(-1));
        match (verdict, stderr) {
            ("failed" | "timeout", "") if timed_out => "The job timed out".clone_into(&mut self.error),
            ("failed" | "timeout", "") => {}
            ("failed" | "timeout", stderr) if timed_out => self.error = format!("The job timed out\n{stderr}"),
            ("failed" | "timeout", stderr) => stderr.clone_into(&mut self.error),
            (_, "") => {}
            (_, stderr) => self.output = format!("{stdout}\n[stderr]\n{stderr}"),
        }
    }

    /// The word for a status of the row. A failed job that says "timeout" anywhere is taken for one that timed out, and
    /// a completed one with an exit code of 100 and more for one that failed on some servers.
    pub(crate) fn set_status(&mut self, status: &str, exit_code: Option<i64>) {
        let late = || ["timeout", "timed out"].iter().any(|word| self.error.to_lowercase().contains(word));
        self.status = match status {
            "queued" | "claimed" => "PENDING",
            "running" => "RUNNING",
            "completed" if exit_code.is_some_and(|code| code >= 100) => "PARTIAL",
            "completed" => "SUCCESS",
            "failed" if exit_code == Some(-1) || late() => "TIMEOUT",
            _ => "FAILURE",
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report as the page shows it: status, output, error.
    fn shown(verdict: &str, code: i64, stdout: &str, stderr: &str) -> (&'static str, String, String) {
        let mut page = Shown::default();
        page.report(verdict, Some(code), stdout, stderr);
        let status = if verdict == "timeout" { "failed" } else { verdict };
        page.set_status(status, Some(code));
        (page.status, page.output, page.error)
    }

    #[test]
    fn a_page_shows_what_a_report_says_and_nothing_else() {
        for (verdict, code, stdout, stderr, status, output, error) in [
            ("completed", 0, "hi\n", "", "SUCCESS", "hi\n", ""),
            ("completed", 0, "hi\n", "careful", "SUCCESS", "hi\n\n[stderr]\ncareful", ""),
            ("completed", 102, "", "two failed", "PARTIAL", "\n[stderr]\ntwo failed", ""),
            ("failed", 7, "hi\n", "no", "FAILURE", "hi\n", "no"),
            ("failed", 7, "", "", "FAILURE", "", ""),
            ("failed", 1, "", "see jobs.timeout", "TIMEOUT", "", "see jobs.timeout"),
            ("failed", 1, "", "the connect Timed Out", "TIMEOUT", "", "the connect Timed Out"),
            ("failed", -1, "hi", "", "TIMEOUT", "hi", "The job timed out"),
            ("timeout", -1, "hi", "killed", "TIMEOUT", "hi", "The job timed out\nkilled"),
            ("timeout", 137, "", "", "TIMEOUT", "", "The job timed out"),
            ("cancelled", 143, "hi", "by a user: timeout", "FAILURE", "hi\n[stderr]\nby a user: timeout", ""),
        ] {
            let wanted = (status, output.to_owned(), error.to_owned());
            assert_eq!(shown(verdict, code, stdout, stderr), wanted, "{verdict} {code} {stdout:?} {stderr:?}");
        }
    }
}

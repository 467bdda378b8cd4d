//! From the server's record of a script's end to the verdict: pure, so that every ending can be tested without a server.

use std::time::Duration;

use crate::executors::control::Signal;
use crate::executors::ending::{ended_in_time, signal_name, stopped};
use crate::limits;
use crate::policy::stop::Reason;
use crate::verdict::{Cause, Phase, Verdict};

/// The content of the server's `status` line; see `remote`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ending {
    /// The script's exit code; `None` if nothing on the server saw its end.
    pub code: Option<i32>,
    /// Bytes of stdout and stderr in all.
    pub sizes: [u64; 2],
    /// Processes of a stopped script that could not be killed.
    pub left: u32,
    /// Whether the script still ran at the request for its end, and was killed then.
    pub killed: bool,
    /// The reason why `run` could not become the interpreter.
    pub why: Option<String>,
    /// Kilobytes left on the file system of the job's folder.
    pub free: Option<u64>,
    /// Whether the server has been up since the script's start.
    pub same_boot: bool,
    /// Whether a stream could not be kept whole.
    pub output_lost: bool,
    /// Processor time of the script and its children, in seconds.
    pub cpu_seconds: f64,
    /// When the script began and ended by the server's clock, in whole seconds.
    pub span: [Option<u64>; 2],
    pub pid: Option<u32>,
}

impl Ending {
    /// Reads `out=1 err=2 left=0 free=9 boot=same pid=7 code=0 kept=0,0 cpu=0m0.1s+0m0.2s`; what is missing stays unknown.
    pub fn read(text: &str) -> Self {
        let (text, why) = text.split_once(" why=").unwrap_or((text, ""));
        let why = why.trim().trim_end_matches(':');
        let why = (!why.is_empty()).then(|| why.chars().take(limits::SSH_WHY).collect());
        let mut ending = Self { why, ..Self::default() };
        for (name, value) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
            match name {
                "out" => ending.sizes[0] = value.parse().unwrap_or(0),
                "err" => ending.sizes[1] = value.parse().unwrap_or(0),
                "left" => ending.left = value.parse().unwrap_or(0),
                "killed" => ending.killed = value == "1",
                "free" => ending.free = value.parse().ok(),
                "boot" => ending.same_boot = value == "same",
                "code" => ending.code = value.parse().ok(),
                // 129: closed by the supervisor, since a background process held it open.
                "kept" => ending.output_lost = value.split(',').any(|code| !matches!(code, "0" | "129")),
                "cpu" => ending.cpu_seconds = value.split('+').filter_map(minutes).sum(),
                "from" => ending.span[0] = value.parse().ok(),
                "to" => ending.span[1] = value.parse().ok(),
                "pid" => ending.pid = value.parse().ok(),
                _ => {}
            }
        }
        ending
    }
}

impl Ending {
    /// How long it ran, in whole seconds of the server's clock.
    fn ran(&self) -> Option<u64> {
        Some(self.span[1]?.saturating_sub(self.span[0]?))
    }

    /// Whether it ran for less than this, compared in whole seconds.
    fn ran_less(&self, than: Duration) -> bool {
        self.ran().is_some_and(|ran| ran < than.as_secs())
    }
}

/// Whether an earlier agent ended it for its time limit before it was killed itself: the script ran that long, and ended like
/// one that got TERM or KILL.
pub fn ended_late(ending: &Ending, (after, limit): (Duration, &'static str)) -> Option<(Reason, Signal)> {
    let signal = match ending.code? {
        143 => Signal::Term,
        137 => Signal::Kill,
        _ => return None,
    };
    (ending.ran()? >= after.as_secs()).then_some((Reason::Timeout { limit, after }, signal))
}

/// `0m1.25s` in seconds.
fn minutes(text: &str) -> Option<f64> {
    let (minutes, seconds) = text.strip_suffix('s')?.split_once('m')?;
    let time = minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?;
    // Not a finite number: a record could not hold it.
    (0.0..1e10).contains(&time).then_some(time)
}

/// The evidence of a script's end.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The server, as messages name it.
    pub server: String,
    pub temp_dir: String,
    pub ending: Ending,
    /// Why the agent stopped it, and the last signal that reached the server.
    pub reason: Option<Reason>,
    pub sent: Option<Signal>,
    /// Whether the end of stderr speaks of a full device.
    pub no_space: bool,
    /// A hint from the script's text, as the end of a sentence.
    pub hint: String,
}

/// Says how the script ended.
pub fn judge(evidence: &Evidence) -> Verdict {
    let Evidence { server, ending, .. } = evidence;
    let verdict = |cause, exit_code, message| Verdict { phase: Phase::Execution, cause, exit_code, message };
    let hints = hints(evidence);
    if let (Some(reason), Some(_)) = (&evidence.reason, evidence.sent)
        && !ended_in_time(reason, ending.code.unwrap_or_default().into(), false, |than| ending.ran_less(than))
    {
        let mut verdict = stopped(reason, evidence.sent);
        verdict.message.push_str(&format!(" on {server}{hints}"));
        return verdict;
    }
    let Some(code) = ending.code else {
        let message = if ending.left > 0 {
            format!("the script on {server} could not be ended: its end is unknown{hints}")
        } else if ending.same_boot {
            format!(
                "the script on {server} is over, but its end was not recorded: somebody killed the process that waits \
                 for it, or the server ran out of memory; its exit code is unknown{hints}"
            )
        } else {
            rebooted(server)
        };
        return Verdict::infrastructure(Phase::Execution, message);
    };
    if let Some(why) = &ending.why {
        let message = format!("the script could not be started on {server}: {why}");
        return Verdict::infrastructure(Phase::Setup, message);
    }
    if code == 0 && ending.output_lost {
        // A success would claim that the output is complete.
        let message = format!("the script ended with exit code 0, but lines of it are missing{hints}");
        return Verdict::infrastructure(Phase::Execution, message);
    }
    match code {
        0 => verdict(Cause::Success, 0, format!("the script ended with exit code 0 on {server}{hints}")),
        129..=192 => {
            let number = code - 128;
            let name = signal_name(number.into());
            let message = format!(
                "the script ended with exit code {code} on {server}, as a process does that {name} ended; the agent did \
                 not send it{hints}"
            );
            verdict(Cause::Signal(number), code, message)
        }
        _ => verdict(Cause::Exit, code, format!("the script ended with exit code {code} on {server}{hints}")),
    }
}

/// The message for a server that was restarted under a script.
pub fn rebooted(server: &str) -> String {
    format!("{server} was restarted while the script ran there: its end is unknown")
}

/// The message for a job whose folder is gone.
pub fn vanished(server: &str, directory: &str) -> String {
    format!(
        "the job's folder {directory} is gone from {server}, as after a restart of the host or when somebody empties its \
         temporary files: the script's end is unknown"
    )
}

fn hints(evidence: &Evidence) -> String {
    let Evidence { server, temp_dir, ending, .. } = evidence;
    let mut text = String::new();
    if ending.output_lost {
        text.push_str(&format!("; {server} could not keep all of its output in {temp_dir}: no space left there"));
    } else if evidence.no_space && ending.code != Some(0) {
        text.push_str(&format!("; its last words speak of a full device on {server}"));
    }
    if ending.code.is_some_and(|code| code != 0) {
        text.push_str(&evidence.hint);
    }
    if ending.left > 0 {
        text.push_str(&format!("; {} processes of it are still there and could not be killed", ending.left));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Status;

    #[test]
    fn the_status_line_is_read_with_distrust() {
        let line = "out=12 err=3 left=1 free=900 boot=same pid=77 code=3 kept=0,129 cpu=1m0.5s+0m0.25s from=8 to=9 why=cannot enter: no";
        let want = Ending {
            code: Some(3),
            sizes: [12, 3],
            left: 1,
            killed: false,
            why: Some("cannot enter: no".to_owned()),
            free: Some(900),
            same_boot: true,
            output_lost: false,
            cpu_seconds: 60.75,
            span: [Some(8), Some(9)],
            pid: Some(77),
        };
        assert_eq!(Ending::read(line), want);
        let long = Ending::read(&format!("code=125 why={}", "x".repeat(limits::SSH_WHY * 2)));
        assert_eq!(long.why.map(|why| why.len()), Some(limits::SSH_WHY));
        assert!(Ending::read("kept=0,1").output_lost);
        for hostile in ["infm1s", "0minfs", "0mNaNs", "-1m0s", "0m-1s", "1e308m0s"] {
            let seconds = Ending::read(&format!("cpu={hostile}+{hostile}")).cpu_seconds;
            assert!(seconds == 0.0, "{hostile}: {seconds}");
        }
        assert_eq!(Ending::read("out=x err=-1 boot=other none code= =7"), Ending::default());
    }

    #[test]
    fn an_end_that_an_earlier_agent_forced_is_told_from_one_that_came_by_itself() {
        let after = Duration::from_millis(2500);
        let late = |text: &str| ended_late(&Ending::read(text), (after, "the job's timeout")).map(|(_, signal)| signal);
        assert_eq!(late("code=143 from=10 to=12"), Some(Signal::Term));
        assert_eq!(late("code=137 from=10 to=99"), Some(Signal::Kill));
        assert_eq!(late("code=143 from=10 to=11"), None);
        assert_eq!(late("code=3 from=10 to=99"), None);
        // Of a version that did not write it, or a clock that went back.
        assert_eq!((late("code=143"), late("code=143 from=99 to=10")), (None, None));
    }

    #[test]
    fn every_ending_has_its_verdict() {
        let with = |code| Evidence {
            server: "web-1 (h:22)".to_owned(),
            temp_dir: "/tmp/cronium".to_owned(),
            ending: Ending { code, same_boot: true, ..Ending::default() },
            ..Evidence::default()
        };
        let timeout = Some(Reason::Timeout { limit: "the job's timeout", after: Duration::from_secs(2) });
        // It was sent TERM for its limit of 2 s, and ended after that time by its server's clock.
        let told = |code, seconds: u64| {
            let ending = Ending { code: Some(code), span: [Some(10), Some(10 + seconds)], ..Ending::default() };
            Evidence { ending, reason: timeout.clone(), sent: Some(Signal::Term), ..with(None) }
        };
        let code = |code| Ending { code: Some(code), same_boot: true, ..Ending::default() };
        let full = Ending { code: Some(1), output_lost: true, ..Ending::default() };
        let lost = Ending { code: Some(0), output_lost: true, ..Ending::default() };
        let table = [
            (Evidence { ending: lost, ..with(None) }, Status::Failed, "infrastructure", 125, "lines of it are missing"),
            (with(Some(0)), Status::Completed, "success", 0, "exit code 0 on web-1 (h:22)"),
            (told(3, 1), Status::Failed, "script", 3, "exit code 3"),
            (told(3, 2), Status::Timeout, "timeout", -1, "ended by SIGTERM"),
            (told(143, 1), Status::Timeout, "timeout", -1, "ended by SIGTERM"),
            (with(Some(3)), Status::Failed, "script", 3, "exit code 3"),
            (with(Some(137)), Status::Failed, "signal", 137, "SIGKILL"),
            (with(Some(125)), Status::Failed, "script", 125, "exit code 125"),
            (
                Evidence { ending: Ending { why: Some("no such folder".into()), ..code(125) }, ..with(None) },
                Status::Failed,
                "infrastructure",
                125,
                "could not be started on web-1 (h:22): no such folder",
            ),
            (with(None), Status::Failed, "infrastructure", 125, "exit code is unknown"),
            (
                Evidence { ending: Ending::default(), ..with(None) },
                Status::Failed,
                "infrastructure",
                125,
                "was restarted",
            ),
            (
                Evidence { reason: timeout.clone(), sent: Some(Signal::Kill), ..with(Some(137)) },
                Status::Timeout,
                "timeout",
                -1,
                "SIGKILL on web-1",
            ),
            // It ended by itself before the signal came to the server.
            (Evidence { reason: timeout, ..with(Some(0)) }, Status::Completed, "success", 0, "exit code 0"),
            (Evidence { ending: full, ..with(Some(1)) }, Status::Failed, "script", 1, "no space left"),
            (Evidence { no_space: true, ..with(Some(1)) }, Status::Failed, "script", 1, "full device on web-1"),
        ];
        for (evidence, status, reason, code, words) in table {
            let verdict = judge(&evidence);
            assert_eq!((verdict.status(), verdict.reason(), verdict.exit_code), (status, reason, code), "{verdict}");
            assert!(verdict.message.contains(words), "{verdict}");
        }
    }
}

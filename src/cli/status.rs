//! `status`: what the agent that runs on this host does, as a table or as its own JSON.

use std::fmt::Write as _;
use std::path::Path;

use crate::cli::{exit, print};
use crate::config::types::Config;
use crate::health::ask::ask;
use crate::jobs::record::QUARANTINE;
use crate::jobs::status::{Images, Job, Proofs, Reload, Reports, Status};

/// Asks and prints; gives the program's exit code.
pub fn run(config: &Config, json: bool) -> u8 {
    let dir = &config.state.dir;
    match ask::<Status>(dir, "GET /status") {
        Ok((raw, status)) => print::out(&if json { raw + "\n" } else { table(&status, dir) }),
        Err(error) => print::say(error, exit::FAILED),
    }
}

/// The answer for people.
fn table(status: &Status, dir: &Path) -> String {
    let mut out = String::new();
    let mut row = |name: &str, text: &str| {
        let _ = writeln!(out, "{name:<10}{}", plain(text));
    };
    let agent = &status.agent;
    let up = span(agent.uptime_seconds);
    row("agent", &format!("{}, version {}, pid {}, up {up} since {}", agent.id, agent.version, agent.pid, agent.since));
    match &status.why_not {
        None if status.ready => row("ready", "yes"),
        why => row("ready", &format!("no: {}", why.as_deref().unwrap_or("it does not say why"))),
    }
    row("workers", &format!("{} of {} busy", status.pool.busy, status.pool.workers));
    if !status.asked_of_jobs.is_empty() {
        row("jobs need", &status.asked_of_jobs);
    }
    if let Some(warm) = &status.warm {
        let why = warm.why_fewer.as_ref().map_or(String::new(), |why| format!(": {why}"));
        row("warm", &format!("{} of {} containers wait for a script{why}", warm.waiting, warm.wanted));
    }
    let live = &status.live_log;
    match (live.enabled, live.connected, &live.last_error) {
        (_, true, _) => row("live log", "connected"),
        _ if live.by_updates => row("live log", "by updates of each execution (no WebSocket has answered)"),
        (false, ..) => row("live log", "switched off"),
        (_, _, Some(error)) => row("live log", &format!("not connected: {error}")),
        (_, _, None) => row("live log", "not connected"),
    }
    let outbox = &status.outbox;
    row("outbox", &waiting(outbox));
    if outbox.set_aside > 0 || !outbox.asides.is_empty() {
        let (now, all, folder) = (outbox.set_aside, outbox.asides.len(), dir.join(QUARANTINE));
        row("", &format!("{now} given up since the start; {all} in {}:", folder.display()));
    }
    for aside in &outbox.asides {
        row("", &format!("  {}  {}  {}", aside.at, aside.job.as_ref().unwrap_or(&aside.file), aside.why));
    }
    for breaker in &status.breakers {
        row("breaker", &format!("{} {} after {} failures", breaker.server, breaker.state, breaker.failures));
    }
    for (at, line) in proofs(&status.proofs).iter().enumerate() {
        row(if at == 0 { "proofs" } else { "" }, line);
    }
    if let Some(text) = images(&status.images) {
        row("images", &text);
    }
    if let Some(reload) = &status.reload {
        for (at, line) in reloaded(reload).iter().enumerate() {
            match at {
                0 => row("reload", &format!("{}: {line}", reload.at)),
                _ => row("", line),
            }
        }
    }
    out.push('\n');
    out.push_str(&jobs(&status.jobs));
    out
}

/// The lines about the walls around jobs.
fn proofs(proofs: &Proofs) -> Vec<String> {
    let ago = proofs.age_seconds.map_or_else(String::new, |age| format!(" {} ago", span(age)));
    match (proofs.required.as_str(), &proofs.why_not) {
        ("", _) => Vec::new(),
        ("off", _) => vec!["none is made (jobs.requireProof: off)".to_owned()],
        (required, Some(why)) => vec![format!("{why} (jobs.requireProof: {required})")],
        _ if proofs.failed.is_empty() => vec![format!("all walls around jobs held{ago}")],
        _ => {
            let head = format!("of the walls around jobs, {} not found standing{ago}:", proofs.failed.len());
            std::iter::once(head).chain(proofs.failed.iter().map(|wall| format!("  {wall}"))).collect()
        }
    }
}

/// What there is to say of images, if anything.
fn images(images: &Images) -> Option<String> {
    let ahead = match (images.pre_pull, &images.pulling, &images.trouble, images.to_pull) {
        (false, ..) => None,
        (_, Some(image), ..) => Some(format!("pulls {image} ahead of jobs")),
        (_, _, Some(why), _) => Some(format!("not pulled ahead: {why}")),
        (_, _, _, 0) => Some("all pulled ahead of jobs".to_owned()),
        (.., count) => Some(format!("{count} to pull ahead of jobs")),
    };
    let disk = images.used_percent.zip(images.prune_from_percent).map(|(used, from)| {
        let removed = if images.removed > 0 { format!(", {} removed", images.removed) } else { String::new() };
        format!("{used} % of the engine's disk used, unused images go from {from} %{removed}")
    });
    let parts: Vec<String> = ahead.into_iter().chain(disk).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The lines about a reload.
pub(in crate::cli) fn reloaded(reload: &Reload) -> Vec<String> {
    let mut lines = vec![outcome(reload).to_owned()];
    let mut list = |texts: &[String]| lines.extend(texts.iter().map(|text| format!("  {text}")));
    list(&reload.in_effect);
    list(&reload.problems);
    if !reload.needs_restart.is_empty() {
        lines.push("not in effect before a restart of the agent:".to_owned());
        lines.extend(reload.needs_restart.iter().map(|text| format!("  {text}")));
    }
    lines
}

/// The result of the reload, as the head of the list below it.
fn outcome(reload: &Reload) -> &str {
    match reload.result.as_str() {
        "changed" => "in effect since then:",
        "unchanged" if reload.needs_restart.is_empty() => "nothing had changed",
        "unchanged" => "nothing took effect",
        "refused" => "refused, since it is not valid; the agent goes on with the configuration before:",
        other => other,
    }
}

fn waiting(outbox: &Reports) -> String {
    let mut text = match outbox.waiting {
        0 => "no report waits".to_owned(),
        1 => "1 report waits".to_owned(),
        count => format!("{count} reports wait"),
    };
    if let Some(age) = outbox.oldest_seconds {
        let _ = write!(text, ", the oldest for {}", span(age));
    }
    if let Some(error) = &outbox.last_error {
        let _ = write!(text, "; last error: {error}");
    }
    text
}

/// One line a job, in columns.
fn jobs(jobs: &[Job]) -> String {
    if jobs.is_empty() {
        return "no job runs\n".to_owned();
    }
    let unknown = || "-".to_owned();
    let mut rows = vec![["JOB", "KIND", "PHASE", "AGE", "WHERE", "EXECUTION"].map(str::to_owned)];
    rows.extend(jobs.iter().map(|job| {
        let phase = match &job.cancelled_by {
            Some(who) => format!("{}, cancelled by {who}", job.phase),
            None => job.phase.clone(),
        };
        let age = span(job.age_seconds);
        let [kind, place, execution] =
            [&job.kind, &job.place, &job.execution].map(|o| o.clone().unwrap_or_else(unknown));
        let kind = if job.warm { format!("{kind}, warm") } else { kind };
        [job.id.clone(), kind, phase, age, place, execution].map(|cell| plain(&cell))
    }));
    print::columns(&rows)
}

/// A length of time in its two largest units.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// Makes others' words safe for a terminal: nothing in them may move its cursor or forge a line.
pub(in crate::cli) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::record::QUARANTINE;
    use crate::jobs::status::{Agent, Breaker, LiveLog, Pool, SetAside, Warm};

    fn full() -> Status {
        let some = |text: &str| Some(text.to_owned());
        Status {
            ok: true,
            agent: Agent {
                id: "edge-7".into(),
                version: "0.2.0".into(),
                pid: 4242,
                since: "2025-10-09T10:00:00Z".into(),
                uptime_seconds: 93_784,
            },
            ready: false,
            why_not: some("docker answers 500"),
            asked_of_jobs: "a signature by ci".into(),
            pool: Pool { workers: 5, busy: 2 },
            warm: Some(Warm { waiting: 1, wanted: 3, why_fewer: some("no room") }),
            jobs: vec![
                Job {
                    id: "job_a".into(),
                    execution: some("exec-job_a-1"),
                    kind: some("container"),
                    phase: "running".into(),
                    age_seconds: 754,
                    place: some("cronium-x"),
                    warm: true,
                    cancelled_by: some("the operator"),
                    ..Job::default()
                },
                Job { id: "job_bbb".into(), phase: "claimed".into(), ..Job::default() },
            ],
            outbox: Reports {
                waiting: 3,
                oldest_seconds: Some(61),
                set_aside: 1,
                last_error: some("the backend answered 503"),
                retention_seconds: 604_800,
                asides: vec![SetAside {
                    job: some("job_c"),
                    at: "2025-10-09T09:00:00Z".into(),
                    why: "409\u{1b}[2J\nready     yes".into(),
                    ..SetAside::default()
                }],
            },
            breakers: vec![Breaker { server: "10.0.0.5:22".into(), state: "open".into(), failures: 5 }],
            live_log: LiveLog { enabled: true, last_error: some("refused"), ..LiveLog::default() },
            proofs: Proofs {
                required: "warn".into(),
                at: some("2025-10-10T12:00:00Z"),
                age_seconds: Some(3_700),
                failed: vec!["proof-end: open\u{1b}[2J; close it".into()],
                why_not: None,
            },
            images: Images {
                pre_pull: true,
                trouble: some("registry away"),
                used_percent: Some(83),
                prune_from_percent: Some(85),
                removed: 2,
                ..Images::default()
            },
            reload: Some(Reload {
                number: 2,
                answers: 0,
                at: "2025-10-10T11:00:00Z".into(),
                result: "changed".into(),
                in_effect: vec!["jobs.maxConcurrent 3 → 5".into()],
                needs_restart: vec!["api.token \"***\" → (another value)".into()],
                problems: Vec::new(),
            }),
        }
    }

    #[test]
    fn everything_that_is_known_is_shown_and_nothing_is_forged() {
        let want = "\
agent     edge-7, version 0.2.0, pid 4242, up 1d 2h since 2025-10-09T10:00:00Z
ready     no: docker answers 500
workers   2 of 5 busy
jobs need a signature by ci
warm      1 of 3 containers wait for a script: no room
live log  not connected: refused
outbox    3 reports wait, the oldest for 1m 1s; last error: the backend answered 503
          1 given up since the start; 1 in /var/lib/cronium/QUARANTINE:
            2025-10-09T09:00:00Z  job_c  409\u{FFFD}[2J\u{FFFD}ready     yes
breaker   10.0.0.5:22 open after 5 failures
proofs    of the walls around jobs, 1 not found standing 1h 1m ago:
            proof-end: open\u{FFFD}[2J; close it
images    not pulled ahead: registry away; 83 % of the engine's disk used, unused images go from 85 %, 2 removed
reload    2025-10-10T11:00:00Z: in effect since then:
            jobs.maxConcurrent 3 → 5
          not in effect before a restart of the agent:
            api.token \"***\" → (another value)

JOB      KIND             PHASE                             AGE     WHERE      EXECUTION
job_a    container, warm  running, cancelled by the operator  12m 34s  cronium-x  exec-job_a-1
job_bbb  -          claimed                           0s      -          -
";
        let shown = table(&full(), Path::new("/var/lib/cronium"));
        let squeezed =
            |text: &str| text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
        assert_eq!(squeezed(&shown), squeezed(&want.replace("QUARANTINE", QUARANTINE)));
        let columns: Vec<_> =
            shown.lines().rev().take(3).map(|line| line.find("job_a-1").or(line.find("EXEC"))).collect();
        assert_eq!(columns[0], None);
        assert_eq!(columns[1].map(|at| at - "exec-".len()), columns[2], "{shown}");
    }

    #[test]
    fn an_idle_agent_takes_few_words() {
        let mut idle = Status { ready: true, ..Status::default() };
        let shown = table(&idle, Path::new("/x"));
        assert!(shown.contains("ready     yes\n") && shown.ends_with("\nno job runs\n"), "{shown}");
        assert!(shown.contains("live log  switched off") && shown.contains("outbox    no report waits\n"), "{shown}");
        assert!(!shown.contains("given up"), "{shown}");
        idle.outbox = Reports { waiting: 1, ..Reports::default() };
        assert!(table(&idle, Path::new("/x")).contains("outbox    1 report waits\n"));
    }

    #[test]
    fn each_state_of_the_proofs_has_its_words() {
        let shown = |required: &str, age_seconds: Option<u64>, why_not: Option<&str>| {
            let why_not = why_not.map(str::to_owned);
            let proofs = Proofs { required: required.into(), age_seconds, why_not, ..Proofs::default() };
            table(&Status { proofs, ..Status::default() }, Path::new("/x"))
        };
        assert!(!shown("", None, None).contains("proofs"), "an older agent");
        assert!(shown("off", None, None).contains("proofs    none is made (jobs.requireProof: off)\n"));
        assert!(shown("require", Some(61), None).contains("proofs    all walls around jobs held 1m 1s ago\n"));
        assert!(shown("require", None, Some("none yet")).contains("proofs    none yet (jobs.requireProof: require)\n"));
    }

    #[test]
    fn each_outcome_of_a_reload_has_its_words() {
        let shown = |result: &str, problems: &[&str], needs_restart: &[&str]| {
            let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            let (result, problems, needs_restart) = (result.to_owned(), texts(problems), texts(needs_restart));
            let reload = Reload { at: "T".into(), result, problems, needs_restart, ..Reload::default() };
            table(&Status { reload: Some(reload), ..Status::default() }, Path::new("/x"))
        };
        assert!(shown("unchanged", &[], &[]).contains("reload    T: nothing had changed\n\n"));
        let waits =
            "reload    T: nothing took effect\n          not in effect before a restart of the agent:\n            a\n";
        assert!(shown("unchanged", &[], &["a"]).contains(waits));
        let refused = shown("refused", &["x.yaml:7: jobs: \u{1b}[2J"], &[]);
        assert!(refused.contains("T: refused") && refused.contains("\n            x.yaml:7: jobs: \u{FFFD}[2J\n"));
        assert!(!refused.contains("restart"), "{refused}");
    }

    #[test]
    fn spans_have_two_units_at_most() {
        let shown = [0, 59, 60, 3599, 3600, 86_399, 86_400, 1_000_000].map(span);
        assert_eq!(shown, ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "11d 13h"]);
    }
}

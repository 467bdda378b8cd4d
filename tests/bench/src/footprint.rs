//! What an agent costs that has nothing to do: memory, threads, CPU, descriptors, and how soon it asks for work.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::Agent;
use crate::table::median;

/// The targets: PSS in MB, threads, share of one core in percent, ms from start to first poll.
const PSS_MB: f64 = 4.0;
const THREADS: usize = 20;
const CPU_PERCENT: f64 = 0.1;
const FIRST_POLL_MS: f64 = 20.0;
/// Starts whose median counts.
const STARTS: usize = 10;
/// After the first poll, until what a start needs is given back.
const SETTLE: Duration = Duration::from_secs(6);
/// Five workers, and a poll every second, jobs or not.
const SETTINGS: [(&str, &str); 3] =
    [("jobs.maxConcurrent", "5"), ("jobs.pollInterval", "1s"), ("jobs.maxPollInterval", "1s")];

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Setup {
    pub agent: PathBuf,
    pub socket: PathBuf,
    /// docs/threads.md, which names the threads.
    pub threads: PathBuf,
    /// How long the agent's CPU time is counted.
    pub length: Duration,
}

/// The figures as text, and each target that is missed.
#[derive(Debug)]
pub struct Footprint {
    pub text: String,
    pub missed: Vec<String>,
}

/// Starts agents and looks at them.
pub fn measure(setup: &Setup) -> Result<Footprint, String> {
    let starts = starts(setup)?;
    let cached = memory(&settled(setup)?)?;
    forget(&setup.agent)?;
    let agent = settled(setup)?;
    let (before, polls) = (on_cpu(&agent)?, polls(&agent));
    std::thread::sleep(setup.length);
    let percent = 100.0 * (on_cpu(&agent)? - before) / setup.length.as_secs_f64();
    let polls = self::polls(&agent) - polls;

    let mut out = Footprint { text: String::new(), missed: Vec::new() };
    let memory = memory(&agent)?;
    let pss = memory.get("Pss").copied().unwrap_or(f64::NAN);
    out.line(
        pss <= PSS_MB,
        &format!("PSS: {pss:.1} MB with the program read from the disk, as after a boot (target {PSS_MB} MB)"),
    );
    out.parts(&memory);
    let pss = cached.get("Pss").copied().unwrap_or(f64::NAN);
    let _ = writeln!(
        out.text,
        "      PSS: {pss:.1} MB with the program in the kernel's cache, which may map large pages of it whole"
    );
    out.parts(&cached);
    out.line(
        percent < CPU_PERCENT,
        &format!(
            "CPU: {percent:.3} % of one core over {} s with {polls} polls (target {CPU_PERCENT} %)",
            setup.length.as_secs()
        ),
    );
    let first = median(starts.iter().copied());
    let (least, most) = starts.iter().fold((f64::MAX, 0.0_f64), |(a, b), ms| (a.min(*ms), b.max(*ms)));
    out.line(
        first < FIRST_POLL_MS,
        &format!("start to first poll: {first:.1} ms, median of {STARTS}, {least:.1} to {most:.1} (target {FIRST_POLL_MS} ms)"),
    );
    threads(&agent, &setup.threads, &mut out)?;
    descriptors(&agent, &mut out)?;
    Ok(out)
}

impl Footprint {
    fn line(&mut self, good: bool, text: &str) {
        let _ = writeln!(self.text, "{:<5} {text}", if good { "ok" } else { "MISS" });
        if !good {
            self.missed.push(text.to_owned());
        }
    }

    fn parts(&mut self, memory: &BTreeMap<String, f64>) {
        let part = |name: &str| memory.get(name).copied().unwrap_or(0.0);
        let _ = writeln!(
            self.text,
            "      of it {:.1} MB of files (the program), {:.1} MB of private memory; RSS {:.1} MB",
            part("Pss_File"),
            part("Pss_Anon"),
            part("Rss")
        );
    }
}

/// An agent that has given back what a start needs.
fn settled(setup: &Setup) -> Result<Agent, String> {
    let mut agent = Agent::start(&setup.agent, &setup.socket, &SETTINGS)?;
    agent.wait_ready()?;
    std::thread::sleep(SETTLE);
    Ok(agent)
}

/// Puts a file out of the kernel's cache.
fn forget(file: &Path) -> Result<(), String> {
    let mut dd = std::process::Command::new("dd");
    dd.arg(format!("if={}", file.display())).args(["iflag=nocache", "count=0", "status=none"]);
    match dd.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("dd on {}: {status}", file.display())),
        Err(error) => Err(format!("dd: {error}")),
    }
}

fn starts(setup: &Setup) -> Result<Vec<f64>, String> {
    (0..STARTS)
        .map(|_| {
            let mut agent = Agent::start(&setup.agent, &setup.socket, &SETTINGS)?;
            agent.wait("its first poll", |agent| agent.first_poll().is_some())?;
            Ok(agent.first_poll().unwrap_or_default().as_secs_f64() * 1000.0)
        })
        .collect()
}

fn polls(agent: &Agent) -> usize {
    agent.backend.requests().iter().filter(|request| request.target.contains("/jobs/queue")).count()
}

/// Ids of its threads.
fn tasks(agent: &Agent) -> Result<Vec<String>, String> {
    let path = format!("/proc/{}/task", agent.pid());
    let list = std::fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
    Ok(list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Seconds on a core of all threads that live, to the nanosecond: what the kernel's ticks cannot tell of so little.
fn on_cpu(agent: &Agent) -> Result<f64, String> {
    let mut sum = 0.0;
    for task in tasks(agent)? {
        let text = agent.proc(&format!("task/{task}/schedstat"))?;
        let nanos = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        sum += Duration::from_nanos(nanos.ok_or("a kernel without schedstat")?).as_secs_f64();
    }
    Ok(sum)
}

/// `smaps_rollup` in MB (10^6 bytes).
fn memory(agent: &Agent) -> Result<BTreeMap<String, f64>, String> {
    let text = agent.proc("smaps_rollup")?;
    let row = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let kib: f64 = rest.split_whitespace().next()?.parse().ok()?;
        Some((name.to_owned(), kib * 1024.0 / 1e6))
    };
    Ok(text.lines().filter_map(row).collect())
}

fn threads(agent: &Agent, table: &Path, out: &mut Footprint) -> Result<(), String> {
    let document = std::fs::read_to_string(table).map_err(|error| format!("{}: {error}", table.display()))?;
    let known = documented(&document);
    let mut names: Vec<String> = Vec::new();
    for task in tasks(agent)? {
        // The first thread bears the name of the program's file.
        let first = task == agent.pid().to_string();
        names.push(if first {
            "main".to_owned()
        } else {
            agent.proc(&format!("task/{task}/comm"))?.trim_end().to_owned()
        });
    }
    names.sort();
    out.line(names.len() <= THREADS, &format!("threads: {} (target {THREADS})", names.len()));
    let _ = writeln!(out.text, "      {}", names.join(" "));
    let strange: Vec<&str> =
        names.iter().map(|name| plain(name)).filter(|name| !known.iter().any(|k| k == name)).collect();
    out.line(strange.is_empty(), &format!("threads that docs/threads.md does not name: {}", list(&strange)));
    Ok(())
}

/// `worker-3` is a `worker-N`.
fn plain(name: &str) -> &str {
    if name.strip_prefix("worker-").is_some_and(|rest| rest.parse::<u32>().is_ok()) { "worker-N" } else { name }
}

/// The names in the table of docs/threads.md.
fn documented(document: &str) -> Vec<String> {
    let section = document.split("\n## Names\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
    let name = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    section.lines().filter_map(name).collect()
}

fn list<T: AsRef<str>>(items: &[T]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ") }
}

fn descriptors(agent: &Agent, out: &mut Footprint) -> Result<(), String> {
    let folder = format!("/proc/{}/fd", agent.pid());
    let mut open: Vec<(u32, String)> = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))?.flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let number = entry.file_name().to_string_lossy().parse().unwrap_or(u32::MAX);
        // What the caller of this program left open is open in every process below it.
        let inherited = std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|own| own == target);
        if number <= 2 || !inherited {
            open.push((number, target.to_string_lossy().into_owned()));
        }
    }
    open.sort();
    let mut sockets = Sockets::read(agent)?;
    sockets.add_pairs(open.iter().map(|(_, target)| target.as_str()));
    sockets.add_engine(agent, open.iter().map(|(_, target)| target.as_str()))?;
    let mut strange = Vec::new();
    let _ = writeln!(out.text, "      {} descriptors:", open.len());
    for (number, target) in open {
        let what = meaning(number, &target, &sockets);
        let _ = writeln!(out.text, "      {number:>4} {}", what.as_deref().unwrap_or(&target));
        if what.is_none() {
            strange.push(target);
        }
    }
    out.line(strange.is_empty(), &format!("descriptors that are not explained: {}", list(&strange)));
    Ok(())
}

/// What a descriptor is for; none when an agent should not have it.
fn meaning(number: u32, target: &str, sockets: &Sockets) -> Option<String> {
    match number {
        0 => return Some(format!("stdin ({target})")),
        1 | 2 => return Some(format!("stdout and stderr, the agent's log ({target})")),
        _ => {}
    }
    if let Some(inode) = inode(target) {
        return sockets.0.get(&inode).cloned();
    }
    if target.contains("eventfd") {
        return Some("an eventfd: wakes a thread that waits in poll".to_owned());
    }
    if target.contains("signalfd") {
        return Some("a signalfd: the signals that end the agent".to_owned());
    }
    let file = Path::new(target).file_name()?.to_str()?;
    target.contains("/state").then(|| format!("state.dir: {file}"))
}

fn inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Meanings of sockets by inode.
struct Sockets(BTreeMap<u64, String>);

impl Sockets {
    fn read(agent: &Agent) -> Result<Self, String> {
        let mut out = BTreeMap::new();
        let (own, backend) = (format!(":{:04X}", agent.port), format!(":{:04X}", agent.backend.address().port()));
        for line in agent.proc("net/tcp")?.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, remote, state, ..] = fields[..] {
                let inode = fields.get(9).and_then(|text| text.parse().ok()).unwrap_or_default();
                if local.ends_with(&own) && state == "0A" {
                    out.insert(inode, "TCP, listens: health and metrics".to_owned());
                } else if remote.ends_with(&backend) {
                    out.insert(inode, "TCP to the backend: calls, or the live log".to_owned());
                }
            }
        }
        for line in agent.proc("net/unix")?.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let Some(inode) = fields.get(6).and_then(|text| text.parse().ok()) else { continue };
            if fields.get(7).is_some_and(|path| path.contains("cronium-bench")) {
                out.insert(inode, "Unix, listens: the control socket".to_owned());
            }
        }
        Ok(Self(out))
    }

    /// One connected socket without a name: a stream of the engine's that ends when the engine does.
    fn add_engine<'a>(&mut self, agent: &Agent, targets: impl Iterator<Item = &'a str>) -> Result<(), String> {
        let unknown: Vec<u64> = targets.filter_map(inode).filter(|inode| !self.0.contains_key(inode)).collect();
        let all = agent.proc("net/unix")?;
        let rows = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let connected = rows.filter(|row| row.len() == 7 && row[5] == "03").filter_map(|row| row[6].parse().ok());
        if let [one] = connected.filter(|inode| unknown.contains(inode)).collect::<Vec<u64>>()[..] {
            self.0.insert(one, "Unix to the engine: ends when the engine does, so that a restart is seen".to_owned());
        }
        Ok(())
    }

    /// A pair stops a thread that waits for sockets: two neighbours, and both ends are the agent's.
    fn add_pairs<'a>(&mut self, targets: impl Iterator<Item = &'a str>) {
        let unknown: Vec<u64> = targets.filter_map(inode).filter(|inode| !self.0.contains_key(inode)).collect();
        for first in &unknown {
            if unknown.contains(&(first + 1)) {
                for end in [*first, first + 1] {
                    self.0.insert(end, "Unix, one end of a pair: tells a thread to stop".to_owned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_table_of_threads_alone() {
        let document = "# A\n| `no` | x |\n\n## Names\n\n| name | c |\n| --- |\n| `main` | 1 |\n| `worker-N` | n |\n\n## Next\n| `no` |\n";
        assert_eq!(documented(document), ["main", "worker-N"]);
        assert_eq!(plain("worker-12"), "worker-N");
        assert_eq!(plain("worker-x"), "worker-x");
    }

    #[test]
    fn what_is_not_known_has_no_meaning() {
        let mut sockets = Sockets(BTreeMap::from([(7, "known".to_owned())]));
        sockets.add_pairs(["socket:[20]", "socket:[7]", "socket:[21]", "socket:[8]"].into_iter());
        assert!(meaning(5, "socket:[20]", &sockets).is_some_and(|text| text.contains("pair")));
        assert_eq!(meaning(5, "socket:[7]", &sockets).as_deref(), Some("known"));
        for target in ["socket:[8]", "/etc/passwd", "pipe:[9]", "anon_inode:[timerfd]"] {
            assert_eq!(meaning(5, target, &sockets), None, "{target}");
        }
    }
}

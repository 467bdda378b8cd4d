//! A container's resource use, read from its control group on this host.
//!
//! Reading the kernel's files costs microseconds, and works once more at the very end; the engine's statistics take up to a
//! second and are gone with the container. Both versions of control groups are read. Where the files cannot be read (a
//! remote engine, no permission), the caller asks the engine.

use std::path::{Path, PathBuf};

use super::{owner, proc};

/// The files of one container.
#[derive(Debug, Clone)]
pub struct Cgroup {
    folders: Folders,
    first: First,
}

/// The container's first process, whose network is the container's: its number, and when it started. Once it has ended,
/// another process may have the number.
#[derive(Debug, Clone)]
struct First {
    pid: i64,
    started: u64,
}

impl First {
    fn of(pid: i64) -> Option<Self> {
        Some(Self { pid, started: owner::started(pid)? })
    }

    /// Reads a file of it below `/proc`. The check comes after the reading: a process that is the same now was so before.
    fn read(&self, file: &str) -> Option<String> {
        let text = proc::text(format!("/proc/{}/{file}", self.pid)).ok()?;
        (owner::started(self.pid) == Some(self.started)).then_some(text)
    }
}

#[derive(Debug, Clone)]
enum Folders {
    V1 { cpu: PathBuf, memory: PathBuf, blkio: PathBuf, pids: PathBuf },
    V2(PathBuf),
}

/// One sample. A value that could not be read is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    pub cpu_nanos: Option<u64>,
    pub memory_peak: Option<u64>,
    pub disk_read: Option<u64>,
    pub disk_write: Option<u64>,
    pub network_rx: Option<u64>,
    pub network_tx: Option<u64>,
    /// Processes that the kernel killed for the group's memory.
    pub oom_kills: Option<u64>,
    /// Forks that the pids limit refused.
    pub pids_refused: Option<u64>,
}

impl Reading {
    /// What was counted after `before`. A peak is no count and stays.
    #[must_use]
    pub fn beyond(self, before: &Self) -> Self {
        let less = |now: Option<u64>, before: Option<u64>| now.map(|now| now.saturating_sub(before.unwrap_or(0)));
        Self {
            cpu_nanos: less(self.cpu_nanos, before.cpu_nanos),
            memory_peak: self.memory_peak,
            disk_read: less(self.disk_read, before.disk_read),
            disk_write: less(self.disk_write, before.disk_write),
            network_rx: less(self.network_rx, before.network_rx),
            network_tx: less(self.network_tx, before.network_tx),
            oom_kills: less(self.oom_kills, before.oom_kills),
            pids_refused: less(self.pids_refused, before.pids_refused),
        }
    }
}

impl Cgroup {
    /// The groups of process `pid`, if they are those of container `id`.
    pub fn of(pid: i64, id: &str) -> Option<Self> {
        let first = First::of(pid)?;
        let folders = folders(&first.read("cgroup")?, id, Path::new("/sys/fs/cgroup"))?;
        Some(Self { folders, first })
    }

    /// Reads what can be read: nothing once the container has ended.
    pub fn read(&self) -> Reading {
        let (Folders::V1 { cpu: one, .. } | Folders::V2(one)) = &self.folders;
        if !one.is_dir() {
            return Reading::default();
        }
        let number = |folder: &Path, file: &str| proc::text(folder.join(file)).ok()?.trim().parse().ok();
        let text = |folder: &Path, file: &str| proc::text(folder.join(file)).unwrap_or_default();
        let mut reading = match &self.folders {
            Folders::V1 { cpu, memory, blkio, pids } => {
                let io = blkio_v1(&text(blkio, "blkio.throttle.io_service_bytes_recursive"));
                Reading {
                    cpu_nanos: number(cpu, "cpuacct.usage"),
                    memory_peak: number(memory, "memory.max_usage_in_bytes"),
                    disk_read: io.map(|(read, _)| read),
                    disk_write: io.map(|(_, write)| write),
                    oom_kills: keyed(&text(memory, "memory.oom_control"), "oom_kill"),
                    pids_refused: keyed(&text(pids, "pids.events"), "max"),
                    ..Reading::default()
                }
            }
            Folders::V2(folder) => {
                let io = io_v2(&text(folder, "io.stat"));
                Reading {
                    cpu_nanos: keyed(&text(folder, "cpu.stat"), "usage_usec").map(|micros| micros.saturating_mul(1000)),
                    memory_peak: number(folder, "memory.peak").or_else(|| number(folder, "memory.current")),
                    disk_read: io.map(|(read, _)| read),
                    disk_write: io.map(|(_, write)| write),
                    oom_kills: keyed(&text(folder, "memory.events"), "oom_kill"),
                    pids_refused: keyed(&text(folder, "pids.events"), "max"),
                    ..Reading::default()
                }
            }
        };
        if let Some((rx, tx)) = self.first.read("net/dev").as_deref().and_then(net_dev) {
            (reading.network_rx, reading.network_tx) = (Some(rx), Some(tx));
        }
        reading
    }
}

/// How many processes this host's kernel has killed for memory so far, in any group (`oom_kill`, since 4.13). It outlives
/// the group, whose count is gone with its last process.
pub fn host_oom_kills() -> Option<u64> {
    keyed(&proc::text("/proc/vmstat").ok()?, "oom_kill")
}

/// Whether a count rose between two samples; false if one of them is missing.
pub fn rose(before: Option<u64>, after: Option<u64>) -> bool {
    matches!((before, after), (Some(before), Some(after)) if after > before)
}

/// Finds the folders from the text of `/proc/<pid>/cgroup`; only those that name the container count.
fn folders(text: &str, id: &str, root: &Path) -> Option<Folders> {
    let path_of = |controller: &str| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let found = controllers.split(',').any(|name| name == controller);
            (found && path.contains(id)).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    if let Some(memory) = path_of("memory") {
        let of = |controller: &str| Some(root.join(controller).join(path_of(controller)?));
        return Some(Folders::V1 {
            memory: root.join("memory").join(memory),
            cpu: of("cpuacct")?,
            blkio: of("blkio")?,
            pids: of("pids")?,
        });
    }
    path_of("").map(|path| Folders::V2(root.join(path)))
}

/// The value behind `key` in lines of `key value`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok())
}

/// Sums `major:minor Read|Write n`.
fn blkio_v1(text: &str) -> Option<(u64, u64)> {
    let sum = |operation: &str| {
        text.lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                (words.next()? == operation).then(|| words.next()?.parse::<u64>().ok())?
            })
            .fold(0, u64::saturating_add)
    };
    (!text.is_empty()).then(|| (sum("Read"), sum("Write")))
}

/// Sums `major:minor rbytes=n wbytes=n …`.
fn io_v2(text: &str) -> Option<(u64, u64)> {
    let sum = |key: &str| {
        text.split_whitespace()
            .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())
            .fold(0, u64::saturating_add)
    };
    Some((sum("rbytes="), sum("wbytes=")))
}

/// Sums bytes in and out over all interfaces but the loopback.
fn net_dev(text: &str) -> Option<(u64, u64)> {
    let mut sums = (0u64, 0u64);
    for line in text.lines().skip(2) {
        let (name, numbers) = line.split_once(':')?;
        if name.trim() != "lo" {
            let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            sums.0 = sums.0.saturating_add(*numbers.first()?);
            sums.1 = sums.1.saturating_add(*numbers.get(8)?);
        }
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_both_versions() {
        let v1 = "12:pids:/docker/abc\n5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:blkio:/docker/abc\n0::/\n";
        let root = Path::new("/c");
        match folders(v1, "abc", root) {
            Some(Folders::V1 { cpu, memory, .. }) => {
                assert_eq!(cpu, Path::new("/c/cpuacct/docker/abc"));
                assert_eq!(memory, Path::new("/c/memory/docker/abc"));
            }
            other => panic!("{other:?}"),
        }
        match folders("0::/system.slice/docker-abc.scope\n", "abc", root) {
            Some(Folders::V2(path)) => assert_eq!(path, Path::new("/c/system.slice/docker-abc.scope")),
            other => panic!("{other:?}"),
        }
        assert!(folders("0::/user.slice\n", "abc", root).is_none());
        assert!(folders("5:memory:/docker/other\n", "abc", root).is_none());
    }

    #[test]
    fn a_process_that_has_anothers_number_tells_nothing_of_it() {
        let pid = i64::from(std::process::id());
        let own = First::of(pid).expect("this process");
        let before = First { pid, started: own.started - 1 };
        assert_eq!(before.read("net/dev"), None, "its number was given again");
        let read = |first| Cgroup { folders: Folders::V2("/".into()), first }.read();
        assert!(read(own).network_rx.is_some());
        assert_eq!((read(before.clone()).network_rx, read(before).network_tx), (None, None));
        let gone = First::of(pid).expect("this process");
        assert_eq!(Cgroup { folders: Folders::V2("/nowhere".into()), first: gone }.read(), Reading::default());
    }

    #[test]
    fn a_count_rose_when_both_looks_saw_it() {
        for (before, after, want) in [
            (Some(3), Some(4), true),
            (Some(3), Some(3), false),
            (None, Some(4), false),
            (Some(3), None, false),
            (None, None, false),
        ] {
            assert_eq!(rose(before, after), want, "{before:?} {after:?}");
        }
    }

    #[test]
    fn counters_are_found_and_summed() {
        assert_eq!(keyed("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(keyed("low 0\noom_kill 2\noom_group_kill 0\n", "oom_kill"), Some(2));
        let v1 = "254:0 Read 10\n254:0 Write 5\n254:0 Total 15\n8:0 Read 1\nTotal 16\n";
        assert_eq!(blkio_v1(v1), Some((11, 5)));
        assert_eq!(blkio_v1(""), None);
        assert_eq!(io_v2("254:0 rbytes=10 wbytes=5 rios=1\n8:0 rbytes=1 wbytes=0\n"), Some((11, 5)));
        let net =
            "h\nh\n    lo: 9 1 0 0 0 0 0 0 9 1\n  eth0: 100 1 0 0 0 0 0 0 50 1 0\n  eth1: 1 1 0 0 0 0 0 0 2 1 0\n";
        assert_eq!(net_dev(net), Some((101, 52)));
    }
}

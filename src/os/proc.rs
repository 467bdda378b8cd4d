//! The kernel's figures for this process: memory, processor time, descriptors, threads. For `/metrics`.
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Figures of this process. One that could not be read is `None`, never a guess.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// Bytes of resident memory.
    pub resident_bytes: Option<u64>,
    /// User and system processor time since the start, in seconds.
    pub cpu_seconds: Option<f64>,
    pub open_fds: Option<u64>,
    /// The soft limit on descriptors.
    pub max_fds: Option<u64>,
    pub threads: Option<u64>,
    /// Start of the process, in seconds since 1970.
    pub start_seconds: Option<f64>,
}

/// Room for most files of the kernel's.
const ROOM: usize = 16 * 1024;

/// Reads a file of the kernel's, below `/proc` or `/sys`. Such a file has no size and is made anew for each read, so one
/// with room for all of it costs a tenth of many small ones.
pub fn text(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(ROOM);
    fs::File::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Reads `/proc/self`: four small files and one folder.
pub fn read() -> Process {
    let status = text("/proc/self/status").unwrap_or_default();
    let stat = text("/proc/self/stat").unwrap_or_default();
    let limits = text("/proc/self/limits").unwrap_or_default();
    let ticks = ticks_per_second();
    let (cpu, started) = times(&stat).unzip();
    Process {
        resident_bytes: status_number(&status, "VmRSS:").map(|kib| kib * 1024),
        cpu_seconds: cpu.map(|t| seconds(t, ticks)),
        // Less the one that lists the folder.
        open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| (fds.count() as u64).saturating_sub(1)),
        max_fds: soft_limit(&limits, "Max open files"),
        threads: status_number(&status, "Threads:"),
        start_seconds: started.and_then(|t| Some(boot_time()? + seconds(t, ticks))),
    }
}

/// Has the kernel keep nothing of this process's memory, which holds secrets, should it crash: at 1 byte neither a file nor a
/// handler of the host (apport, systemd-coredump) gets it; at 0 a handler would. A hard limit of 0 stays.
pub fn leave_no_core() {
    let limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: the pointer is to a live value of this stack, which is only read.
    let _ = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) };
}

/// The host's name, where the kernel tells one.
pub fn host_name() -> Option<String> {
    let name = text("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Whether standard output is the stream that `$JOURNAL_STREAM` names, as `DEVICE:INODE`, and was not redirected since.
pub fn stdout_is_stream(stream: &str) -> bool {
    let found = fs::metadata("/proc/self/fd/1").map(|about| format!("{}:{}", about.dev(), about.ino()));
    found.is_ok_and(|found| found == stream)
}

/// The number after `name` in the form of `/proc/self/status`.
fn status_number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processor time and start time in ticks, from the form of `/proc/self/stat`: fields 14, 15 and 22 of proc(5). The
/// second field is the program's name in parentheses and may itself hold spaces and parentheses.
fn times(stat: &str) -> Option<(u64, u64)> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    let started = fields.nth(6)?.ok()?;
    Some((user + system, started))
}

/// The soft value of `name` in the form of `/proc/self/limits`; `None` when unlimited.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// When the machine started, in seconds since 1970.
fn boot_time() -> Option<f64> {
    let stat = text("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[allow(clippy::cast_precision_loss)]
fn seconds(ticks: u64, per_second: u64) -> f64 {
    ticks as f64 / per_second as f64
}

fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes a number and returns a number.
    let n = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(n).ok().filter(|&n| n > 0).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_spaces_and_parentheses() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 9000 1 2";
        assert_eq!(times(stat), Some((300, 9000)));
        for cut in 0..stat.len() - 8 {
            assert_ne!(times(&stat[..cut]), Some((300, 9000)), "{cut}");
        }
        assert_eq!(status_number("Name:\tx\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(
            soft_limit("Max open files            1024                 4096   files\n", "Max open files"),
            Some(1024)
        );
        assert_eq!(soft_limit("Max open files            unlimited  unlimited files\n", "Max open files"), None);
    }

    #[test]
    fn this_process_is_plausible() {
        let p = read();
        assert!(p.resident_bytes.is_some_and(|n| n > 100_000));
        assert!(p.cpu_seconds.is_some_and(|n| n >= 0.0));
        assert!(p.threads.is_some_and(|n| n >= 1));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("clock").as_secs_f64();
        assert!(p.start_seconds.is_some_and(|s| s <= now + 2.0 && s > now - 86_400.0), "{p:?} {now}");
        let before = p.open_fds.expect("fds");
        let file = std::fs::File::open("/proc/self/stat").expect("open");
        // Other tests open and close files meanwhile, so only a small figure can be expected.
        assert!(read().open_fds.expect("fds") > 0 && before < 10_000);
        drop(file);
    }
}

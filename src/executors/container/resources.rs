//! What one job may use: its own wishes, else the defaults, never more than the limits.

use crate::config::types::ResourceSet;
use crate::executors::ending::bytes;
use crate::job::Resources;
use crate::limits::CPU_LEAST;

/// The resources of a job, and a sentence for each wish that was cut down.
pub fn effective(wish: &Resources, defaults: &ResourceSet, limits: &ResourceSet) -> (ResourceSet, Vec<String>) {
    let mut notes = Vec::new();
    let mut whole = |name: &str, wish: Option<u64>, default: u64, limit: u64, show: fn(u64) -> String| {
        let asked = wish.filter(|&n| n > 0).unwrap_or(default);
        if asked > limit {
            notes.push(format!("{name}: the job asks for {}, the limit is {}", show(asked), show(limit)));
        }
        asked.min(limit)
    };
    let memory = whole("memory", wish.memory, defaults.memory, limits.memory, bytes);
    let disk = whole("disk", wish.disk, defaults.disk, limits.disk, bytes);
    let pids = whole("pids", wish.pids, defaults.pids, limits.pids, |n| n.to_string());
    // The engine takes a share that rounds to nothing for no limit at all.
    let asked = wish.cpu.filter(|&n| n > 0.0).unwrap_or(defaults.cpu).max(CPU_LEAST);
    if asked > limits.cpu {
        notes.push(format!("cpu: the job asks for {asked} cores, the limit is {}", limits.cpu));
    }
    let rate = |default: Option<u64>, limit: Option<u64>| match (default, limit) {
        (Some(default), Some(limit)) => Some(default.min(limit)),
        (default, limit) => default.or(limit),
    };
    let set = ResourceSet {
        cpu: asked.min(limits.cpu),
        memory,
        disk,
        pids,
        read_bps: rate(defaults.read_bps, limits.read_bps),
        write_bps: rate(defaults.write_bps, limits.write_bps),
        read_iops: rate(defaults.read_iops, limits.read_iops),
        write_iops: rate(defaults.write_iops, limits.write_iops),
    };
    (set, notes)
}

/// How the disk limit is shared out when the root is read-only: three quarters for `/workspace`, the rest for `/tmp`,
/// so that both together are exactly the limit.
pub fn tmpfs_sizes(disk: u64) -> (u64, u64) {
    let tmp = disk / 4;
    (disk - tmp, tmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: ResourceSet = ResourceSet {
        cpu: 0.5,
        memory: 512 << 20,
        disk: 1 << 30,
        pids: 100,
        read_bps: None,
        write_bps: Some(10),
        read_iops: Some(500),
        write_iops: None,
    };
    const LIMITS: ResourceSet = ResourceSet {
        cpu: 2.0,
        memory: 2 << 30,
        disk: 10 << 30,
        pids: 1000,
        read_bps: Some(7),
        write_bps: Some(20),
        read_iops: Some(400),
        write_iops: None,
    };

    #[test]
    fn wishes_defaults_and_limits() {
        let (set, notes) = effective(&Resources::default(), &DEFAULTS, &LIMITS);
        assert_eq!((set.cpu, set.memory, set.disk, set.pids), (0.5, 512 << 20, 1 << 30, 100));
        assert_eq!((set.read_bps, set.write_bps, set.read_iops, set.write_iops), (Some(7), Some(10), Some(400), None));
        assert!(notes.is_empty());

        let wish = Resources { cpu: Some(64.0), memory: Some(1 << 40), disk: Some(5), pids: Some(0) };
        let (set, notes) = effective(&wish, &DEFAULTS, &LIMITS);
        assert_eq!((set.cpu, set.memory, set.disk, set.pids), (2.0, 2 << 30, 5, 100));
        assert_eq!(
            notes,
            ["memory: the job asks for 1024 GiB, the limit is 2 GiB", "cpu: the job asks for 64 cores, the limit is 2"]
        );
    }

    #[test]
    fn both_tmpfs_together_are_the_limit() {
        for disk in [0, 1, 7, 1 << 30] {
            let (workspace, tmp) = tmpfs_sizes(disk);
            assert_eq!(workspace + tmp, disk);
        }
    }

    #[test]
    fn a_wish_for_next_to_nothing_is_not_one_for_everything() {
        for (cpu, want) in
            [(1e-320, CPU_LEAST), (1e-10, CPU_LEAST), (0.02, 0.02), (0.0, 0.5), (-1.0, 0.5), (f64::NAN, 0.5)]
        {
            let (set, _) = effective(&Resources { cpu: Some(cpu), ..Resources::default() }, &DEFAULTS, &DEFAULTS);
            assert_eq!(set.cpu, want, "{cpu}");
        }
    }
}

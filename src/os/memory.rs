//! How short of memory this host is.

use super::proc;

/// Figures of this host. One that could not be read is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    /// Bytes that new programs can have without swap.
    pub available: Option<u64>,
    /// The share of the last ten seconds in which some program waited for memory (PSI, since Linux 4.20).
    pub stalled_percent: Option<f64>,
}

/// Reads two small files below `/proc`.
pub fn read() -> Memory {
    let text = |path| proc::text(path).unwrap_or_default();
    Memory { available: available(&text("/proc/meminfo")), stalled_percent: stalled(&text("/proc/pressure/memory")) }
}

fn available(meminfo: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn stalled(pressure: &str) -> Option<f64> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    let average = some.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
    average.parse().ok().filter(|percent: &f64| percent.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   123 kB\n"), Some(123 * 1024));
        assert_eq!(available("MemAvailable: x kB"), None);
        assert_eq!(stalled("some avg10=1.50 avg60=0.00\nfull avg10=9.00"), Some(1.5));
        assert_eq!((stalled(""), stalled("some avg10=NaN")), (None, None));
        assert!(read().available.is_some());
    }
}

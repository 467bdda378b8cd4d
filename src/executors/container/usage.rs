//! What each running job uses: looked at now and then by one thread, and once more by the worker at the very end.
//!
//! The kernel's counters are read where this host has them; otherwise the engine is asked. The same thread watches the
//! size of a writable root, since that is a look of the same kind.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::docker;
use crate::executors::Control;
use crate::limits;
use crate::os::bell::Bell;
use crate::os::cgroup::{Cgroup, Reading};
use crate::os::clock;
use crate::os::stop::Stop;
use crate::os::threads::{self, Thread};
use crate::policy::stop::Reason;
use crate::verdict::Usage;
use crate::wire::amount;
use crate::wire::scan::Json;

/// The handle to the thread.
#[derive(Debug, Clone)]
pub struct Sampler {
    meters: Arc<Mutex<Vec<Arc<Meter>>>>,
    bell: Bell,
    stop: Stop,
    docker: docker::Client,
}

/// The counters of one container.
#[derive(Debug)]
pub struct Meter {
    container: String,
    control: Arc<Control>,
    /// Bytes that the writable layer may hold; `None` when the root is read-only.
    layer_limit: Option<u64>,
    /// What is not the job's.
    before: Reading,
    state: Mutex<State>,
}

/// What a container had used before its job began: nothing, where that was started for it.
#[derive(Debug, Clone, Default)]
pub struct Before {
    cgroup: Option<Cgroup>,
    used: Reading,
}

impl Before {
    /// Of a container whose first process is `pid`.
    pub fn of(docker: &docker::Client, container: &str, pid: i64) -> Self {
        let cgroup = if docker.is_local() { Cgroup::of(pid, container) } else { None };
        let used = match &cgroup {
            Some(cgroup) => cgroup.read(),
            None => docker.stats(container).ok().and_then(|body| statistics(&body)).unwrap_or_default(),
        };
        Self { cgroup, used }
    }

    /// Looks once more, where that costs no call; false if a limit was already met in it.
    pub fn look(&mut self) -> bool {
        if let Some(cgroup) = &self.cgroup {
            self.used = cgroup.read();
        }
        self.used.oom_kills.unwrap_or(0) == 0 && self.used.pids_refused.unwrap_or(0) == 0
    }
}

#[derive(Debug)]
struct State {
    cgroup: Option<Cgroup>,
    looked_for_cgroup: bool,
    reading: Reading,
    peak_cpu: f64,
    last: Option<(Instant, u64)>,
    next: Instant,
    next_question: Instant,
    next_layer: Instant,
    pause: Duration,
    ended: bool,
}

/// Reads the engine's statistics. A counter that is missing or no number costs that counter alone.
fn statistics(body: &[u8]) -> Option<Reading> {
    let stats = Json::strict(body).ok()?;
    let at = |path: &[&'static str]| path.iter().try_fold(stats, |value, name| value.field(name));
    let count = |path| at(path).and_then(Json::count);
    let sum = |counts: &mut dyn Iterator<Item = u64>| counts.fold(0, u64::saturating_add);
    let moved = |operation: &str| {
        let rows = at(&["blkio_stats", "io_service_bytes_recursive"])?.items()?.map_while(Result::ok);
        let mut of = rows.filter_map(|row| {
            let word = row.field("op")?.beginning(WORD)?;
            word.eq_ignore_ascii_case(operation).then(|| row.field("value")?.count())?
        });
        Some(sum(&mut of))
    };
    let network = |name: &'static str| {
        let networks = at(&["networks"])?.members()?.map_while(Result::ok);
        Some(sum(&mut networks.filter_map(|(_, network)| network.field(name)?.count())))
    };
    Some(Reading {
        cpu_nanos: count(&["cpu_stats", "cpu_usage", "total_usage"]),
        memory_peak: count(&["memory_stats", "max_usage"]).max(count(&["memory_stats", "usage"])),
        disk_read: moved("read"),
        disk_write: moved("write"),
        network_rx: network("rx_bytes"),
        network_tx: network("tx_bytes"),
        ..Reading::default()
    })
}

/// Bytes of the name of an operation.
const WORD: usize = 16;

impl Sampler {
    /// Starts the thread.
    pub fn start(docker: docker::Client) -> std::io::Result<(Self, Thread)> {
        let sampler = Self { meters: Arc::default(), bell: Bell::default(), stop: Stop::new(), docker };
        let own = sampler.clone();
        let thread = threads::spawn("sampler", move || own.run())?;
        Ok((sampler, thread))
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.stop.set();
        self.bell.ring();
    }

    /// Begins to look at a container that was started, and counts what it uses beyond `before`.
    pub fn watch(
        &self,
        container: &str,
        control: Arc<Control>,
        layer_limit: Option<u64>,
        before: &Before,
    ) -> Arc<Meter> {
        let state = State {
            looked_for_cgroup: before.cgroup.is_some() || !self.docker.is_local(),
            cgroup: before.cgroup.clone(),
            reading: Reading::default(),
            peak_cpu: 0.0,
            last: None,
            next: clock::now(),
            next_question: clock::now(),
            next_layer: clock::now(),
            pause: limits::SAMPLE_FIRST,
            ended: false,
        };
        let (container, state) = (container.to_owned(), Mutex::new(state));
        let meter = Arc::new(Meter { container, control, layer_limit, before: before.used, state });
        self.meters.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&meter));
        self.bell.ring();
        meter
    }

    fn run(&self) {
        while !self.stop.is_set() {
            let meters = {
                let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
                meters.retain(|meter| !meter.lock().ended);
                meters.clone()
            };
            let next = meters.iter().map(|meter| meter.look_if_due(&self.docker)).min();
            self.bell.wait(next);
        }
    }
}

impl Meter {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks when it is time to; gives the moment of the next look.
    fn look_if_due(&self, docker: &docker::Client) -> Instant {
        let now = clock::now();
        {
            let mut state = self.lock();
            if state.ended || now < state.next {
                return state.next;
            }
            state.next = now + state.pause;
            state.pause = (state.pause * 2).min(limits::SAMPLE_LONGEST);
        }
        self.find_cgroup(docker);
        if !self.look_at_cgroup() {
            self.rarely(|state| &mut state.next_question, || self.ask_engine(docker));
        }
        if self.layer_limit.is_some() {
            self.rarely(|state| &mut state.next_layer, || self.check_layer(docker));
        }
        self.lock().next
    }

    /// Does what costs the engine work, not more often than every `limits::SAMPLE_ENGINE`.
    fn rarely(&self, next: fn(&mut State) -> &mut Instant, act: impl FnOnce()) {
        let now = clock::now();
        let due = {
            let mut state = self.lock();
            let next = next(&mut state);
            let due = now >= *next;
            if due {
                *next = now + limits::SAMPLE_ENGINE;
            }
            due
        };
        if due {
            act();
        }
    }

    /// Learns the container's process id, once, and its control group with it.
    fn find_cgroup(&self, docker: &docker::Client) {
        if self.lock().looked_for_cgroup {
            return;
        }
        let pid = docker.inspect(&self.container, false).map(|found| found.state.pid);
        let mut state = self.lock();
        state.looked_for_cgroup = true;
        state.cgroup = pid.ok().filter(|&pid| pid > 0).and_then(|pid| Cgroup::of(pid, &self.container));
    }

    /// Reads the kernel's counters; false when there are none to read.
    fn look_at_cgroup(&self) -> bool {
        let Some(cgroup) = self.lock().cgroup.clone() else { return false };
        let reading = cgroup.read();
        self.take(reading);
        true
    }

    fn ask_engine(&self, docker: &docker::Client) {
        if let Some(reading) = docker.stats(&self.container).ok().and_then(|body| statistics(&body)) {
            self.take(reading);
        }
    }

    /// Counters only grow: the larger of two looks is the later one, and a failed look takes nothing away.
    fn take(&self, new: Reading) {
        let new = new.beyond(&self.before);
        let mut state = self.lock();
        if let Some(cpu) = new.cpu_nanos {
            let now = clock::now();
            if let Some((at, before)) = state.last {
                let passed = now.duration_since(at).as_secs_f64();
                if passed > 0.01 {
                    #[allow(clippy::cast_precision_loss)]
                    let percent = amount::sound(cpu.saturating_sub(before) as f64 / 1e7 / passed);
                    state.peak_cpu = state.peak_cpu.max(percent);
                    state.last = Some((now, cpu));
                }
            } else {
                state.last = Some((now, cpu));
            }
        }
        let old = &mut state.reading;
        for (old, new) in [
            (&mut old.cpu_nanos, new.cpu_nanos),
            (&mut old.memory_peak, new.memory_peak),
            (&mut old.disk_read, new.disk_read),
            (&mut old.disk_write, new.disk_write),
            (&mut old.network_rx, new.network_rx),
            (&mut old.network_tx, new.network_tx),
            (&mut old.oom_kills, new.oom_kills),
            (&mut old.pids_refused, new.pids_refused),
        ] {
            *old = (*old).max(new);
        }
    }

    /// Stops the job when its writable layer outgrew the limit.
    fn check_layer(&self, docker: &docker::Client) {
        let Some(limit) = self.layer_limit else { return };
        let size = docker.inspect(&self.container, true).ok().and_then(|found| found.layer);
        if size.and_then(|size| u64::try_from(size).ok()).is_some_and(|size| size > limit) {
            self.control.request(Reason::Disk(limit));
        }
    }

    /// A look of the worker's own: just after the start (so that even a short job's group is known) and at the end.
    pub fn look(&self, docker: &docker::Client) {
        self.find_cgroup(docker);
        self.look_at_cgroup();
    }

    /// No more looks; what was seen.
    pub fn finish(&self) -> (Usage, Reading) {
        let mut state = self.lock();
        state.ended = true;
        let reading = state.reading;
        #[allow(clippy::cast_precision_loss)]
        let usage = Usage {
            cpu_seconds: amount::sound(reading.cpu_nanos.unwrap_or(0) as f64 / 1e9),
            peak_cpu_percent: state.peak_cpu,
            peak_memory: reading.memory_peak.unwrap_or(0),
            network_rx: reading.network_rx.unwrap_or(0),
            network_tx: reading.network_tx.unwrap_or(0),
            disk_read: reading.disk_read.unwrap_or(0),
            disk_write: reading.disk_write.unwrap_or(0),
        };
        (usage, reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_with_distrust() {
        let whole = Reading {
            cpu_nanos: Some(5),
            memory_peak: Some(9),
            disk_read: Some(11),
            disk_write: Some(u64::MAX),
            network_rx: Some(3),
            network_tx: Some(4),
            ..Reading::default()
        };
        let text = r#"{"cpu_stats":{"cpu_usage":{"total_usage":5}},"memory_stats":{"usage":9,"max_usage":7},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"Read","value":10},{"op":"read","value":1},
                {"op":"Write","value":18446744073709551615},{"op":"write","value":1},{"op":7},7]},
            "networks":{"eth0":{"rx_bytes":1,"tx_bytes":4},"eth1":{"rx_bytes":2,"tx_bytes":-1},"eth2":null}}"#;
        assert_eq!(statistics(text.as_bytes()), Some(whole));
        // One wrong number is one number less.
        for (from, to, want) in [
            ("\"total_usage\":5", "\"total_usage\":1e999", Reading { cpu_nanos: None, ..whole }),
            ("\"total_usage\":5", "\"total_usage\":-5", Reading { cpu_nanos: None, ..whole }),
            ("{\"usage\":9,\"max_usage\":7}", "null", Reading { memory_peak: None, ..whole }),
            ("\"usage\":9", "\"usage\":0.5", Reading { memory_peak: Some(7), ..whole }),
        ] {
            assert_eq!(statistics(text.replace(from, to).as_bytes()), Some(want), "{to}");
        }
        assert_eq!(statistics(b"{}"), Some(Reading::default()));
        assert_eq!((statistics(b"[]"), statistics(b"{")), (Some(Reading::default()), None));
    }
}

//! The one table of metrics, and the page that `/metrics` makes of it.
//!
//! A counter or histogram with few label values is on the page from the start with 0, so that `rate()` sees the first
//! event. Of a metric with many combinations, the page shows those that occurred, since most never do.

use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

use super::cells::{Counter, Gauge, Histogram};
use super::counts::*;
use super::labels::{
    CODE, ENDPOINT, KIND, LANGUAGE, Label, METHOD, OPERATION, OUTCOME, PHASE, PLACE, POLL, REASON, RELOAD, STREAM,
    WARM_END, WARM_USE,
};
use crate::limits;
use crate::os::proc::{self, Process};
use crate::wire::prometheus::{Page, Type};

/// One row: what the page says of a metric, and where its values come from.
struct Metric {
    kind: Type,
    name: &'static str,
    labels: &'static [Label],
    source: Source,
    help: &'static str,
}

/// Where the values are: a cell for each combination of the labels' values, or a function.
enum Source {
    Counters(&'static [Counter]),
    Histograms(&'static [Histogram]),
    /// Only those that are not 0.
    SeenCounters(&'static [Counter]),
    SeenHistograms(&'static [Histogram]),
    /// Only those that are known.
    Gauges(&'static [Gauge]),
    /// One number, once it is known.
    Number(fn(&Process) -> Option<f64>),
    /// Numbers with labels that are not in a list.
    Samples(fn() -> Vec<Sample>),
}

type Sample = (Vec<(&'static str, String)>, u64);

use Source::{Counters, Gauges, Histograms, Number, Samples, SeenCounters, SeenHistograms};
use std::slice::from_ref as one;

/// Rows of kind, name, labels and source, and the help below.
macro_rules! table {
    ($($kind:ident $name:literal $labels:tt $source:expr, $help:literal;)*) => {
        &[$(Metric { kind: Type::$kind, name: $name, labels: &$labels, source: $source, help: $help }),*]
    };
}

static TABLE: &[Metric] = table! {
    Counter "cronium_jobs_received_total" [KIND] Counters(&RECEIVED),
        "Jobs claimed from the backend.";
    Counter "cronium_jobs_completed_total" [KIND] Counters(&COMPLETED),
        "Jobs whose script ended with exit code 0.";
    Counter "cronium_jobs_failed_total" [KIND, REASON] Counters(&FAILED),
        "Jobs that ended in any other way, by reason.";
    Histogram "cronium_job_duration_seconds" [KIND] Histograms(&DURATION),
        "Time from hand-out to verdict of a job.";
    Histogram "cronium_job_phase_seconds" [PHASE] Histograms(&PHASES),
        "Time that one phase of a job took.";
    Counter "cronium_log_lines_total" [STREAM] Counters(&LINES),
        "Lines read from jobs, and the agent's own about them.";
    Counter "cronium_log_lines_dropped_total" [] Counters(one(&LOG_LINES_DROPPED)),
        "Lines left out of the live stream; they are still in the result.";

    Counter "cronium_api_requests_total" [ENDPOINT, METHOD, CODE] SeenCounters(&API),
        "Calls to the backend, by how they ended.";
    Histogram "cronium_api_request_duration_seconds" [] Histograms(one(&API_DURATION)),
        "Time that one call to the backend took.";
    Gauge "cronium_api_last_success_timestamp_seconds" [] Gauges(one(&API_SUCCESS)),
        "When the backend last answered a call with success, in seconds since 1970.";
    Gauge "cronium_clock_skew_seconds" [] Number(clock_skew),
        "By how much this host's clock is ahead of the backend's, within a second or so.";
    Histogram "cronium_docker_request_duration_seconds" [OPERATION] SeenHistograms(&DOCKER),
        "Time that one call to the Docker engine took.";
    Counter "cronium_image_pulls_total" [OUTCOME] Counters(&PULLS),
        "Pulls of images, by how they ended.";
    Counter "cronium_image_removals_total" [OUTCOME] Counters(&REMOVALS),
        "Removals of images that nobody used, by how they ended.";

    Gauge "cronium_warm_containers" [LANGUAGE] Gauges(&WARM),
        "Containers that wait for a script, by language.";
    Counter "cronium_warm_jobs_total" [WARM_USE] Counters(&WARM_JOBS),
        "Jobs of a language with warm containers, by how they came to theirs.";
    Counter "cronium_warm_discarded_total" [WARM_END] Counters(&WARM_DISCARDED),
        "Warm containers that no job used, by reason.";

    Gauge "cronium_ssh_connections" [] Samples(ssh_connections),
        "Connections to servers, by whether jobs use them.";
    Histogram "cronium_ssh_connect_duration_seconds" [] Histograms(one(&SSH_CONNECT)),
        "Time to resolve a server's name and connect.";
    Histogram "cronium_ssh_handshake_duration_seconds" [] Histograms(one(&SSH_HANDSHAKE)),
        "Time to exchange keys and log in.";
    Counter "cronium_ssh_sessions_resumed_total" [] Counters(one(&SSH_RESUMED)),
        "Sessions in which a job came back to its server.";
    Counter "cronium_ssh_resumed_bytes_total" [] Counters(one(&SSH_RESUMED_BYTES)),
        "Bytes of output that need not be sent again when a job came back.";
    Gauge "cronium_ssh_breaker_state" [] Samples(ssh_breakers),
        "Circuit breaker of a server: 0 closed, 1 half-open, 2 open.";

    Counter "cronium_jobs_unsigned_total" [] Counters(one(&JOBS_UNSIGNED)),
        "Jobs without a valid signature that were refused, or ran under security.signatures.mode: warn.";
    Gauge "cronium_jobs_active" [] Gauges(one(&JOBS_ACTIVE)),
        "Jobs that run now.";
    Gauge "cronium_workers" [] Gauges(one(&WORKERS)),
        "Workers, each of which runs one job at a time.";
    Gauge "cronium_workers_busy" [] Gauges(one(&JOBS_ACTIVE)),
        "Workers that have a job.";
    Gauge "cronium_agent_ready" [] Gauges(one(&AGENT_READY)),
        "1 while the agent claims jobs.";
    Counter "cronium_polls_total" [POLL] Counters(&POLLS),
        "Polls of the queue, by result.";
    Counter "cronium_config_reloads_total" [RELOAD] Counters(&RELOADS),
        "Reloads of the configuration, by result.";
    Gauge "cronium_config_last_reload_successful" [] Gauges(one(&RELOAD_OK)),
        "0 while the configuration that was read last is refused, and the one before it in effect.";
    Gauge "cronium_websocket_connected" [] Gauges(one(&WEBSOCKET)),
        "1 while the live log's connection is up.";
    Counter "cronium_websocket_reconnects_total" [] Number(|_| Some(whole(WEBSOCKET_UPS.get().saturating_sub(1)))),
        "Times the live log's connection came up again.";
    Gauge "cronium_disk_free_bytes" [PLACE] Gauges(&DISK),
        "Bytes left on a file system.";
    Gauge "cronium_disk_free_inodes" [PLACE] Gauges(&INODES),
        "Files that can still be made on a file system.";
    Counter "cronium_janitor_removed_total" [] Counters(one(&JANITOR_REMOVED)),
        "Leftover containers of no running job that were removed.";
    Gauge "cronium_proof_age_seconds" [] Number(|_| proof_age(SystemTime::now())),
        "Since a proof last found all walls around jobs standing; before the first one, since the start.";
    Gauge "cronium_proof_walls_failed" [] Gauges(one(&PROOFS_FAILED)),
        "Walls around jobs that the last proof did not find standing.";
    Gauge "cronium_build_info" [] Samples(build_info),
        "Always 1; the labels say which build this is.";

    Counter "cronium_journal_writes_total" [OUTCOME] Counters(&JOURNAL),
        "Writes of a job's entry to disk, by how they ended.";
    Gauge "cronium_outbox_reports" [] Gauges(one(&OUTBOX)),
        "Reports that wait for the backend to take them.";
    Gauge "cronium_outbox_oldest_seconds" [] Number(|_| Some(outbox_age(SystemTime::now()))),
        "For how long the oldest of them has waited.";
    Counter "cronium_reports_set_aside_total" [] Counters(one(&REPORTS_SET_ASIDE)),
        "Reports given up: refused by the backend, or not taken for too long.";

    Counter "process_cpu_seconds_total" [] Number(|process| process.cpu_seconds),
        "User and system processor time, in seconds.";
    Gauge "process_resident_memory_bytes" [] Number(|process| process.resident_bytes.map(whole)),
        "Resident memory, in bytes.";
    Gauge "process_open_fds" [] Number(|process| process.open_fds.map(whole)),
        "Open file descriptors.";
    Gauge "process_max_fds" [] Number(|process| process.max_fds.map(whole)),
        "The limit on open file descriptors.";
    Gauge "process_threads" [] Number(|process| process.threads.map(whole)),
        "Threads of this process.";
    Gauge "process_start_time_seconds" [] Number(|process| process.start_seconds),
        "Start of the process, in seconds since 1970.";
};

/// Every metric in the Prometheus text format 0.0.4, about 25 KB.
pub fn render() -> String {
    let mut page = Page::with_capacity(32 * 1024);
    let process = proc::read();
    for metric in TABLE {
        metric.show(&mut page, &process);
    }
    page.finish()
}

impl Metric {
    fn show(&self, page: &mut Page, process: &Process) {
        let Self { name, labels, .. } = *self;
        let open = |page: &mut Page| page.family(name, self.kind, self.help);
        match self.source {
            Counters(cells) | SeenCounters(cells) => {
                let all = matches!(self.source, Counters(_));
                open(page);
                for (i, n) in cells.iter().map(Counter::get).enumerate().filter(|(_, n)| all || *n > 0) {
                    page.integer(name, &combination(labels, i), n);
                }
            }
            Histograms(cells) | SeenHistograms(cells) => {
                let all = matches!(self.source, Histograms(_));
                open(page);
                for (i, seen) in cells.iter().map(Histogram::read).enumerate().filter(|(_, h)| all || h.count() > 0) {
                    page.histogram(name, &combination(labels, i), &seen.buckets, seen.over, seen.sum);
                }
            }
            Gauges(cells) => {
                let known: Vec<_> = cells.iter().enumerate().filter(|(_, gauge)| gauge.known().is_some()).collect();
                if !known.is_empty() {
                    open(page);
                }
                for (i, gauge) in known {
                    page.integer(name, &combination(labels, i), gauge.get());
                }
            }
            Number(read) => {
                if let Some(value) = read(process) {
                    open(page);
                    page.number(name, &[], value);
                }
            }
            Samples(read) => {
                let samples = read();
                if !samples.is_empty() {
                    open(page);
                }
                for (labels, value) in samples {
                    let labels: Vec<_> = labels.iter().map(|(label, value)| (*label, value.as_str())).collect();
                    page.integer(name, &labels, value);
                }
            }
        }
    }
}

/// The labels of the cell at `index`.
fn combination(labels: &[Label], mut index: usize) -> Vec<(&'static str, &'static str)> {
    let mut pairs = Vec::new();
    for Label(name, words) in labels.iter().rev() {
        pairs.insert(0, (*name, words[index % words.len()]));
        index /= words.len();
    }
    pairs
}

/// A float holds every number below 2^53 exactly.
fn whole(n: u64) -> f64 {
    n as f64
}

/// From milliseconds to seconds.
fn clock_skew(_: &Process) -> Option<f64> {
    CLOCK_SKEW.known().map(|ahead| ahead as f64 / 1000.0)
}

fn ssh_connections() -> Vec<Sample> {
    let (total, busy) = (SSH_CONNECTIONS.get(), SSH_BUSY.get());
    let state = |word: &str| vec![("state", word.to_owned())];
    vec![(state("busy"), busy.min(total)), (state("idle"), total.saturating_sub(busy))]
}

fn ssh_breakers() -> Vec<Sample> {
    let table = BREAKERS.lock().unwrap_or_else(PoisonError::into_inner);
    let (shown, others) = table.split_at(table.len().min(limits::SSH_BREAKERS_SHOWN));
    let worst = others.iter().map(|(_, state)| ("other", *state)).max();
    let shown = shown.iter().map(|(server, state)| (server.as_str(), *state));
    shown.chain(worst).map(|(server, state)| (vec![("server", server.to_owned())], u64::from(state))).collect()
}

fn build_info() -> Vec<Sample> {
    let build = [("version", env!("CARGO_PKG_VERSION")), ("commit", env!("CRONIUM_BUILD_COMMIT"))];
    vec![(build.map(|(label, value)| (label, value.to_owned())).to_vec(), 1)]
}

/// In seconds; see [`outbox_age`].
fn proof_age(now: SystemTime) -> Option<f64> {
    let held = u64::try_from(PROOF_HELD.known()?).unwrap_or(0);
    Some(whole(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().saturating_sub(held)))
}

/// In seconds. The cell holds the moment, since an age would stand still between two looks.
fn outbox_age(now: SystemTime) -> f64 {
    match OUTBOX_OLDEST.get() {
        0 => 0.0,
        since => whole(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().saturating_sub(since)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::job::{Kind, Stream};
    use crate::limits;
    use crate::verdict::{Phase, Verdict};
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    /// A strict reader of the format: each family once, HELP then TYPE then samples, names and labels well-formed, no
    /// series twice, histograms complete. Returns series and value.
    fn check(text: &str) -> BTreeMap<String, f64> {
        let mut families = BTreeSet::new();
        let mut family = (String::new(), String::new());
        let mut series = BTreeMap::new();
        let mut lines = text.lines().peekable();
        assert!(text.ends_with('\n'));
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').expect("help");
                assert!(!text.is_empty() && families.insert(name.to_owned()), "{line}");
                let kind = lines.next().and_then(|l| l.strip_prefix("# TYPE ")).and_then(|l| l.strip_prefix(name));
                family = (name.to_owned(), kind.expect("type").trim().to_owned());
                assert!(name.ends_with("_total") == (family.1 == "counter"), "{name}");
                continue;
            }
            let (key, value) = line.rsplit_once(' ').expect("sample");
            let name = key.split('{').next().expect("name");
            let allowed = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.chars().all(allowed), "{line}");
            let base = match family.1.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).expect("suffix"),
                _ => name,
            };
            assert_eq!(base, family.0, "{line}");
            if let Some(labels) = key.strip_prefix(name).filter(|l| !l.is_empty()) {
                let inner = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}')).expect("braces");
                for pair in inner.split(',') {
                    let (label, value) = pair.split_once('=').expect("label");
                    assert!(label.chars().all(allowed), "{line}");
                    assert!(value.len() > 1 && value.starts_with('"') && value.ends_with('"'), "{line}");
                }
            }
            let value = value.parse::<f64>().expect("number");
            assert!(series.insert(key.to_owned(), value).is_none(), "twice: {line}");
        }
        for (key, count) in
            series.iter().filter(|(key, _)| key.split('{').next().is_some_and(|n| n.ends_with("_count")))
        {
            let bucket = match key.replace("_count", "_bucket") {
                plain if !plain.contains('{') => format!("{plain}{{le=\"+Inf\"}}"),
                labelled => labelled.replace('}', ",le=\"+Inf\"}"),
            };
            assert_eq!(series.get(&bucket), Some(count), "{bucket}");
        }
        series
    }

    #[test]
    fn the_first_servers_are_shown_by_name_and_the_worst_of_the_others_as_other() {
        let name = |n: usize| format!("many-{n}:22");
        for n in 0..limits::SSH_BREAKERS_SHOWN + 10 {
            ssh_breaker(&name(n), 2);
        }
        let page = render();
        let shown: Vec<&str> = page.lines().filter(|line| line.starts_with("cronium_ssh_breaker_state{")).collect();
        assert_eq!(shown.len(), limits::SSH_BREAKERS_SHOWN + 1);
        assert_eq!(shown.last(), Some(&r#"cronium_ssh_breaker_state{server="other"} 2"#));
        (0..limits::SSH_BREAKERS_SHOWN + 10).for_each(|n| ssh_breaker(&name(n), 0));
    }

    #[test]
    fn the_page_is_well_formed_and_has_every_name() {
        let failed = Verdict::infrastructure(Phase::Setup, "no engine");
        job_finished(Kind::Ssh, &failed, Duration::from_millis(60));
        let before = check(&render());
        job_received(Kind::Ssh);
        job_finished(Kind::Ssh, &failed, Duration::from_millis(60));
        job_phase(Phase::Cleanup, Duration::from_secs(2));
        api_request(Endpoint::Orphaned, "POST", Code::Status(204), Duration::from_millis(3));
        api_request(Endpoint::Orphaned, "POST", Code::Timeout, Duration::from_secs(31));
        docker_request(DockerOperation::Stats, Duration::from_micros(900));
        image_pull(false);
        poll(PollResult::Skipped);
        config_reload(ReloadResult::Refused);
        log_lines(Stream::System, 3);
        LOG_LINES_DROPPED.add(2);
        disk_free(Place::State, 5_000_000_000, None);
        disk_free(Place::Docker, 1, Some(70_000));
        journal_write(false);
        REPORTS_SET_ASIDE.add(1);
        JANITOR_REMOVED.add(1);
        JOBS_UNSIGNED.add(1);
        CLOCK_SKEW.set(-31_250);
        WORKERS.set(5);
        for up in [true, true, false, true] {
            websocket_connected(up);
        }
        let page = render();
        assert!(page.len() < 64 * 1024, "{}", page.len());
        let after = check(&page);
        let grew = |key: &str| after.get(key).copied().expect(key) - before.get(key).copied().unwrap_or(0.0);
        for (key, by) in [
            (r#"cronium_jobs_received_total{type="ssh"}"#, 1.0),
            (r#"cronium_jobs_failed_total{type="ssh",reason="infrastructure"}"#, 1.0),
            (r#"cronium_job_duration_seconds_bucket{type="ssh",le="0.05"}"#, 0.0),
            (r#"cronium_job_duration_seconds_bucket{type="ssh",le="0.1"}"#, 1.0),
            (r#"cronium_job_phase_seconds_count{phase="cleanup"}"#, 1.0),
            (r#"cronium_api_requests_total{endpoint="orphaned",method="POST",code="204"}"#, 1.0),
            (r#"cronium_api_requests_total{endpoint="orphaned",method="POST",code="timeout"}"#, 1.0),
            ("cronium_api_request_duration_seconds_count", 2.0),
            (r#"cronium_docker_request_duration_seconds_bucket{operation="stats",le="0.001"}"#, 1.0),
            (r#"cronium_image_pulls_total{result="failure"}"#, 1.0),
            (r#"cronium_polls_total{result="skipped"}"#, 1.0),
            (r#"cronium_config_reloads_total{result="refused"}"#, 1.0),
            (r#"cronium_log_lines_total{stream="system"}"#, 3.0),
            ("cronium_log_lines_dropped_total", 2.0),
            ("cronium_websocket_reconnects_total", 1.0),
            (r#"cronium_journal_writes_total{result="failure"}"#, 1.0),
            ("cronium_reports_set_aside_total", 1.0),
            ("cronium_janitor_removed_total", 1.0),
            ("cronium_jobs_unsigned_total", 1.0),
        ] {
            // Other tests of this binary count too, so the growth is a lower bound.
            assert!(grew(key) >= by, "{key} {}", grew(key));
        }
        for key in [
            r#"cronium_jobs_completed_total{type="container"}"#,
            "cronium_jobs_active",
            "cronium_workers",
            "cronium_workers_busy",
            "cronium_websocket_connected",
            "cronium_agent_ready",
            "cronium_config_last_reload_successful",
            "cronium_outbox_reports",
            "cronium_outbox_oldest_seconds",
            r#"cronium_disk_free_bytes{path="state"}"#,
            r#"cronium_disk_free_inodes{path="docker"}"#,
            "cronium_api_last_success_timestamp_seconds",
            "cronium_clock_skew_seconds",
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_threads",
            "process_start_time_seconds",
        ] {
            assert!(after.contains_key(key), "{key}");
        }
        assert!(page.contains("cronium_build_info{version=\""));
        assert!(!page.contains(r#"method="DELETE""#), "only what occurred is shown");
    }
}

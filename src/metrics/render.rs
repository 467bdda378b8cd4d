//! The page that `/metrics` shows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cells::{Counter, Histogram};
use super::labels::{
    CODES, ENDPOINTS, KINDS, METHODS, OPERATIONS, PHASES, PLACES, POLLS, PULLS, REASONS, RELOADS, STREAMS, WRITES,
};
use super::{BREAKERS, BUILD, CELLS, Cells, Place, PollResult, PullResult, WriteResult};
use std::sync::PoisonError;

use crate::limits;
use crate::os::proc::{self, Process};
use crate::wire::prometheus::{Label, Page, Type};

/// Every metric in the Prometheus text format 0.0.4, about 25 KB.
pub fn render() -> String {
    let mut page = Page::with_capacity(32 * 1024);
    jobs(&mut page, &CELLS);
    calls(&mut page, &CELLS);
    ssh(&mut page, &CELLS);
    agent(&mut page, &CELLS);
    reports(&mut page, &CELLS, SystemTime::now());
    process(&mut page, &proc::read());
    page.finish()
}

fn jobs(page: &mut Page, cells: &Cells) {
    page.family("cronium_jobs_received_total", Type::Counter, "Jobs claimed from the backend.");
    for (kind, n) in KINDS.iter().zip(&cells.received) {
        page.integer("cronium_jobs_received_total", &[("type", kind.as_str())], n.get());
    }
    page.family("cronium_jobs_completed_total", Type::Counter, "Jobs whose script ended with exit code 0.");
    for (kind, n) in KINDS.iter().zip(&cells.completed) {
        page.integer("cronium_jobs_completed_total", &[("type", kind.as_str())], n.get());
    }
    page.family("cronium_jobs_failed_total", Type::Counter, "Jobs that ended in any other way, by reason.");
    for (kind, reasons) in KINDS.iter().zip(&cells.failed) {
        for (reason, n) in REASONS.iter().zip(reasons) {
            page.integer("cronium_jobs_failed_total", &[("type", kind.as_str()), ("reason", reason)], n.get());
        }
    }
    page.family("cronium_job_duration_seconds", Type::Histogram, "Time from hand-out to verdict of a job.");
    for (kind, h) in KINDS.iter().zip(&cells.duration) {
        histogram(page, "cronium_job_duration_seconds", &[("type", kind.as_str())], h);
    }
    page.family("cronium_job_phase_seconds", Type::Histogram, "Time that one phase of a job took.");
    for (phase, h) in PHASES.iter().zip(&cells.phase) {
        histogram(page, "cronium_job_phase_seconds", &[("phase", phase.as_str())], h);
    }
    page.family("cronium_log_lines_total", Type::Counter, "Lines read from jobs, and the agent's own about them.");
    for (stream, n) in STREAMS.iter().zip(&cells.lines) {
        page.integer("cronium_log_lines_total", &[("stream", stream.as_str())], n.get());
    }
    let name = "cronium_log_lines_dropped_total";
    counter(page, name, "Lines left out of the live stream; they are still in the result.", &cells.dropped);
}

fn calls(page: &mut Page, cells: &Cells) {
    page.family("cronium_api_requests_total", Type::Counter, "Calls to the backend, by how they ended.");
    for ((_, endpoint), methods) in ENDPOINTS.iter().zip(&cells.api) {
        for (method, codes) in METHODS.iter().zip(methods) {
            for (code, n) in CODES.iter().zip(codes).filter(|(_, n)| n.get() > 0) {
                let labels = [("endpoint", *endpoint), ("method", *method), ("code", *code)];
                page.integer("cronium_api_requests_total", &labels, n.get());
            }
        }
    }
    page.family("cronium_api_request_duration_seconds", Type::Histogram, "Time that one call to the backend took.");
    histogram(page, "cronium_api_request_duration_seconds", &[], &cells.api_duration);
    if let Some(at) = cells.api_success.known() {
        let name = "cronium_api_last_success_timestamp_seconds";
        gauge(page, name, "When the backend last answered a call with success, in seconds since 1970.", at);
    }
    if let Some(ahead) = cells.clock.signed() {
        let name = "cronium_clock_skew_seconds";
        page.family(
            name,
            Type::Gauge,
            "By how much this host's clock is ahead of the backend's, within a second or so.",
        );
        let distance = Duration::from_millis(ahead.unsigned_abs()).as_secs_f64();
        page.number(name, &[], if ahead < 0 { -distance } else { distance });
    }
    let name = "cronium_docker_request_duration_seconds";
    page.family(name, Type::Histogram, "Time that one call to the Docker engine took.");
    for ((_, operation), h) in OPERATIONS.iter().zip(&cells.docker).filter(|(_, h)| h.count() > 0) {
        histogram(page, name, &[("operation", operation)], h);
    }
    page.family("cronium_image_pulls_total", Type::Counter, "Pulls of images, by how they ended.");
    for (result, n) in PULLS.iter().zip(&cells.pulls) {
        let word = match result {
            PullResult::Success => "success",
            PullResult::Failure => "failure",
        };
        page.integer("cronium_image_pulls_total", &[("result", word)], n.get());
    }
}

fn ssh(page: &mut Page, cells: &Cells) {
    let (total, busy) = (cells.ssh_total.get(), cells.ssh_busy.get());
    let name = "cronium_ssh_connections";
    page.family(name, Type::Gauge, "Connections to servers, by whether jobs use them.");
    page.integer(name, &[("state", "busy")], busy.min(total));
    page.integer(name, &[("state", "idle")], total.saturating_sub(busy));
    for (name, help, h) in [
        ("cronium_ssh_connect_duration_seconds", "Time to resolve a server's name and connect.", &cells.ssh_connect),
        ("cronium_ssh_handshake_duration_seconds", "Time to exchange keys and log in.", &cells.ssh_handshake),
    ] {
        page.family(name, Type::Histogram, help);
        histogram(page, name, &[], h);
    }
    counter(
        page,
        "cronium_ssh_sessions_resumed_total",
        "Sessions in which a job came back to its server.",
        &cells.ssh_reconnects,
    );
    let help = "Bytes of output that need not be sent again when a job came back.";
    counter(page, "cronium_ssh_resumed_bytes_total", help, &cells.ssh_resumed);
    let table = BREAKERS.lock().unwrap_or_else(PoisonError::into_inner);
    if table.is_empty() {
        return;
    }
    let name = "cronium_ssh_breaker_state";
    page.family(name, Type::Gauge, "Circuit breaker of a server: 0 closed, 1 half-open, 2 open.");
    for (server, state) in table.iter().take(limits::SSH_BREAKERS_SHOWN) {
        page.integer(name, &[("server", server)], u64::from(*state));
    }
    if let Some(worst) = table.iter().skip(limits::SSH_BREAKERS_SHOWN).map(|(_, state)| *state).max() {
        page.integer(name, &[("server", "other")], u64::from(worst));
    }
}

fn reloads(page: &mut Page, cells: &Cells) {
    let name = "cronium_config_reloads_total";
    page.family(name, Type::Counter, "Times the configuration was read again, by what came of it.");
    for (result, n) in RELOADS.iter().zip(&cells.reloads) {
        page.integer(name, &[("result", result.as_str())], n.get());
    }
    let help = "0 while the configuration that was read last is refused, and the one before it in effect.";
    gauge(page, "cronium_config_last_reload_successful", help, cells.reload_ok.get());
}

fn agent(page: &mut Page, cells: &Cells) {
    let active = cells.active.get();
    gauge(page, "cronium_jobs_active", "Jobs that run now.", active);
    gauge(page, "cronium_workers", "Workers, each of which runs one job at a time.", cells.workers.get());
    gauge(page, "cronium_workers_busy", "Workers that have a job.", active);
    gauge(page, "cronium_agent_ready", "1 while the agent claims jobs.", cells.ready.get());
    page.family("cronium_polls_total", Type::Counter, "Polls of the queue, by what came of them.");
    for (result, n) in POLLS.iter().zip(&cells.polls) {
        let word = match result {
            PollResult::Jobs => "jobs",
            PollResult::Empty => "empty",
            PollResult::Error => "error",
            PollResult::Skipped => "skipped",
        };
        page.integer("cronium_polls_total", &[("result", word)], n.get());
    }
    reloads(page, cells);
    gauge(page, "cronium_websocket_connected", "1 while the live log's connection is up.", cells.websocket.get());
    page.family("cronium_websocket_reconnects_total", Type::Counter, "Times the live log's connection came up again.");
    page.integer("cronium_websocket_reconnects_total", &[], cells.websocket_ups.get().saturating_sub(1));
    for (name, help, gauges) in [
        ("cronium_disk_free_bytes", "Bytes left on a file system.", &cells.disk),
        ("cronium_disk_free_inodes", "Files that can still be made on a file system.", &cells.inodes),
    ] {
        if gauges.iter().any(|free| free.known().is_some()) {
            page.family(name, Type::Gauge, help);
        }
        for (place, free) in PLACES.iter().zip(gauges) {
            let word = match place {
                Place::Docker => "docker",
                Place::State => "state",
            };
            if let Some(n) = free.known() {
                page.integer(name, &[("path", word)], n);
            }
        }
    }
    let name = "cronium_janitor_removed_total";
    counter(
        page,
        name,
        "Containers that were left behind, belonged to no job in hand, and were removed.",
        &cells.janitor,
    );
    let unknown = (env!("CARGO_PKG_VERSION").to_owned(), "unknown".to_owned());
    let (version, commit) = BUILD.get().unwrap_or(&unknown);
    page.family("cronium_build_info", Type::Gauge, "Always 1; the labels say which build this is.");
    page.integer("cronium_build_info", &[("version", version), ("commit", commit)], 1);
}

fn reports(page: &mut Page, cells: &Cells, now: SystemTime) {
    page.family("cronium_journal_writes_total", Type::Counter, "Writes of a job's entry to disk, by how they ended.");
    for (result, n) in WRITES.iter().zip(&cells.journal) {
        let word = match result {
            WriteResult::Success => "success",
            WriteResult::Failure => "failure",
        };
        page.integer("cronium_journal_writes_total", &[("result", word)], n.get());
    }
    gauge(page, "cronium_outbox_reports", "Reports that wait for the backend to take them.", cells.outbox.get());
    // The moment is kept and not the age, which would stand still while nobody looks.
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let age = match cells.outbox_oldest.get() {
        0 => 0,
        since => now.saturating_sub(since),
    };
    gauge(page, "cronium_outbox_oldest_seconds", "For how long the oldest of them has waited.", age);
    let name = "cronium_reports_set_aside_total";
    counter(page, name, "Reports given up: refused for good, or not taken for too long.", &cells.set_aside);
}

fn process(page: &mut Page, p: &Process) {
    if let Some(seconds) = p.cpu_seconds {
        page.family("process_cpu_seconds_total", Type::Counter, "User and system processor time, in seconds.");
        page.number("process_cpu_seconds_total", &[], seconds);
    }
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Resident memory, in bytes.", p.resident_bytes),
        ("process_open_fds", "Open file descriptors.", p.open_fds),
        ("process_max_fds", "The limit on open file descriptors.", p.max_fds),
        ("process_threads", "Threads of this process.", p.threads),
    ] {
        if let Some(value) = value {
            gauge(page, name, help, value);
        }
    }
    if let Some(seconds) = p.start_seconds {
        page.family("process_start_time_seconds", Type::Gauge, "Start of the process, in seconds since 1970.");
        page.number("process_start_time_seconds", &[], seconds);
    }
}

fn counter(page: &mut Page, name: &str, help: &str, n: &Counter) {
    page.family(name, Type::Counter, help);
    page.integer(name, &[], n.get());
}

fn gauge(page: &mut Page, name: &str, help: &str, value: u64) {
    page.family(name, Type::Gauge, help);
    page.integer(name, &[], value);
}

fn histogram<const N: usize>(page: &mut Page, name: &str, labels: &[Label], h: &Histogram<N>) {
    let read = h.read();
    page.histogram(name, labels, &read.buckets, read.over, read.sum);
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use std::collections::{BTreeMap, BTreeSet};

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
    fn so_many_servers_are_told_apart_and_the_worst_of_the_others_is_shown() {
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
        image_pull(PullResult::Failure);
        poll(PollResult::Skipped);
        config_reload(ReloadResult::Refused);
        log_lines(Stream::System, 3);
        log_lines_dropped(2);
        disk_free(Place::State, 5_000_000_000);
        disk_free_inodes(Place::Docker, 70_000);
        journal_write(WriteResult::Failure);
        report_set_aside();
        janitor_removed();
        clock_skew(-31_250);
        workers(5);
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
        ] {
            // Other tests of this binary count too: at least by so much.
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
        assert!(totals().failed >= 2 && totals().lines_dropped >= 2);
    }
}

//! Alerts and dashboard: Prometheus' own tools take the rules, each alert has a test that fires it, and every metric that
//! is named exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Folder, eventually, finish, job, shared};
use crate::scraper::Prometheus;
use crate::ssh_rig::Rig;

/// Families that rules and panels name before the agent has them: with the outbox and with SSH jobs.
const TO_COME: &[&str] = &[];

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs promtool on `rules` and the tests of them; whether it was content, and what it said.
fn promtool(arguments: &[&str], rules: &str) -> (bool, String) {
    promtool_of("alerts", arguments, rules)
}

/// The same with the file of this name.
fn promtool_of(name: &str, arguments: &[&str], rules: &str) -> (bool, String) {
    let (folder, tests) = (Folder::new(), format!("{name}_test.yaml"));
    std::fs::write(folder.path().join(format!("{name}.yaml")), rules).expect("write");
    std::fs::write(folder.path().join(&tests), text(&format!("configs/prometheus/{tests}"))).expect("write");
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(folder.path())
        .output()
        .expect("promtool: apt-get install prometheus");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Names of alerts, in order.
fn alerts(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")).collect()
}

/// Every word of `text` that begins with `prefix`, as of a metric.
fn metrics<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.split(|c| !part(c)).filter(|word| word.starts_with(prefix) && word.len() > prefix.len()).collect()
}

/// Families that the agent's page has, or will have.
fn known() -> BTreeSet<String> {
    let table = text("src/metrics/table.rs");
    let product = table.split("#[cfg(test)]").next().expect("product").to_owned();
    let mut names: BTreeSet<String> = metrics(&product, "cronium_").into_iter().map(str::to_owned).collect();
    names.extend(metrics(&product, "process_").into_iter().map(str::to_owned));
    assert!(names.len() > 20, "{names:?}");
    for name in TO_COME {
        assert!(!names.contains(*name), "{name} is there now: take it out of TO_COME");
        names.insert((*name).to_owned());
    }
    names
}

/// Whether `name` is a family, or a series of a histogram.
fn exists(known: &BTreeSet<String>, name: &str) -> bool {
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    known.contains(name) || base.is_some_and(|base| known.contains(base) && base.ends_with("_seconds"))
}

#[test]
fn promtool_takes_the_rules_and_every_alert_has_a_test_that_fires_it() {
    let rules = text("configs/prometheus/alerts.yaml");
    let (good, said) = promtool(&["check", "rules", "alerts.yaml"], &rules);
    assert!(good, "{said}");
    let (good, said) = promtool(&["test", "rules", "alerts_test.yaml"], &rules);
    assert!(good, "{said}");
    let names = alerts(&rules);
    assert!(names.len() >= 10, "{names:?}");
    for name in &names {
        let renamed = rules.replace(&format!("alert: {name}\n"), &format!("alert: {name}Renamed\n"));
        assert_ne!(renamed, rules);
        let (good, _) = promtool(&["test", "rules", "alerts_test.yaml"], &renamed);
        assert!(!good, "no test notices that {name} is gone");
    }
    let (good, _) = promtool(&["test", "rules", "alerts_test.yaml"], &rules.replace("== 2", ">= 0"));
    assert!(!good, "no test notices an alert that always fires");
}

#[test]
fn promtool_takes_the_figures_of_a_fleet_and_each_has_a_test() {
    let rules = text("configs/prometheus/recording.yaml");
    let (good, said) = promtool_of("recording", &["check", "rules", "recording.yaml"], &rules);
    assert!(good, "{said}");
    let (good, said) = promtool_of("recording", &["test", "rules", "recording_test.yaml"], &rules);
    assert!(good, "{said}");
    let names: Vec<&str> = rules.lines().filter_map(|line| line.trim_start().strip_prefix("- record: ")).collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let renamed = rules.replace(&format!("record: {name}\n"), &format!("record: {name}_renamed\n"));
        let (good, _) = promtool_of("recording", &["test", "rules", "recording_test.yaml"], &renamed);
        assert!(!good, "no test notices that {name} is gone");
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let rules = text("configs/prometheus/alerts.yaml");
    for block in rules.split("- alert: ").skip(1) {
        let name = block.lines().next().expect("a name");
        for key in ["severity: page", "severity: ticket"].iter().filter(|key| block.contains(*key)) {
            assert!(block.contains(&format!("labels: {{{key}}}")), "{name}");
        }
        assert!(block.contains("severity: "), "{name} has no severity");
        for key in ["summary: \"", "runbook: \""] {
            let line = block.lines().find_map(|line| line.trim_start().strip_prefix(key)).unwrap_or_default();
            assert!(line.len() > 40, "{name} has no {key}");
        }
    }
    for (word, alert) in [
        ("cronium_api_last_success_timestamp_seconds", "CroniumBackendUnreachable"),
        ("reason=\"infrastructure\"", "CroniumJobsFailingByInfrastructure"),
        ("cronium_outbox_reports", "CroniumOutboxGrowing"),
        ("cronium_outbox_oldest_seconds", "CroniumOutboxOld"),
        ("cronium_disk_free_bytes", "CroniumDiskLow"),
        ("cronium_ssh_breaker_state", "CroniumSshBreakerOpen"),
        ("up{", "CroniumAgentDown"),
        ("cronium_agent_ready", "CroniumAgentNotReady"),
        ("cronium_log_lines_dropped_total", "CroniumLiveLinesDropped"),
        ("cronium_config_last_reload_successful", "CroniumConfigRefused"),
        ("cronium_proof_walls_failed", "CroniumWallOpen"),
        ("cronium_proof_age_seconds", "CroniumProofOld"),
        ("cronium_build_info", "CroniumVersionSkew"),
        ("unless on (instance, job) cronium_proof_age_seconds", "CroniumAgentUnproven"),
    ] {
        let block = rules.split("- alert: ").find(|block| block.starts_with(alert)).unwrap_or_default();
        assert!(block.contains(word), "{alert} does not look at {word}");
    }
}

#[test]
fn every_metric_that_is_named_exists() {
    let known = known();
    for path in [
        "configs/prometheus/alerts.yaml",
        "configs/prometheus/alerts_test.yaml",
        "configs/prometheus/recording.yaml",
        "configs/prometheus/recording_test.yaml",
        "configs/grafana/cronium-agent.json",
    ] {
        let text = text(path);
        let named: BTreeSet<_> = metrics(&text, "cronium_").into_iter().chain(metrics(&text, "process_")).collect();
        assert!(named.len() >= 10, "{path}: {named:?}");
        // `cronium_outbox_*` in a comment is a family of names.
        let missing: Vec<_> = named.iter().filter(|name| !name.ends_with('_') && !exists(&known, name)).collect();
        assert!(missing.is_empty(), "{path} names metrics that the agent does not have: {missing:?}");
    }
    assert!(!exists(&known, "cronium_jobs_lost_total") && !exists(&known, "cronium_jobs_active_count"));
}

#[test]
fn the_dashboard_is_whole_and_its_queries_are_promql() {
    let board: Value = serde_json::from_str(&text("configs/grafana/cronium-agent.json")).expect("JSON");
    // Grafana 10.0 writes 38; a newer Grafana migrates it.
    assert_eq!(board["schemaVersion"], 38);
    assert_eq!(board["uid"], "cronium-agent");
    let panels = board["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    let mut queries = 0;
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("id")), "twice: {}", panel["id"]);
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(x < 24 && cells.insert((x, y)), "{} overlaps another panel", panel["title"]);
        }
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        assert!(panel["type"] == "row" || !targets.is_empty(), "{} shows nothing", panel["title"]);
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            let expr = target["expr"].as_str().expect("a query");
            assert!(expr.contains("$instance"), "not of the chosen agents: {expr}");
            let plain = expr.replace("$__rate_interval", "5m").replace("$instance", ".*");
            assert!(!plain.contains('$'), "a variable that nobody sets: {plain}");
            queries += 1;
            rules += &format!("  - {{record: 'dashboard:q{queries}', expr: {}}}\n", Value::from(plain));
        }
    }
    assert!(queries > 25, "{queries}");
    // Promtool reads queries only as rules.
    let (good, said) = promtool(&["check", "rules", "alerts.yaml"], &rules);
    assert!(good && said.contains(&format!("{queries} rules found")), "{said}");
    for wanted in [
        "cronium_jobs_failed_total",
        "cronium_job_duration_seconds_bucket",
        "cronium_jobs_active",
        "cronium_workers",
        "cronium_log_lines_total",
        "cronium_api_request_duration_seconds_bucket",
        "cronium_api_requests_total",
        "cronium_docker_request_duration_seconds_bucket",
        "cronium_disk_free_bytes",
        "cronium_outbox_reports",
        "cronium_ssh_breaker_state",
        "cronium_config_reloads_total",
        "process_resident_memory_bytes",
        "process_threads",
        "cronium_build_info",
        "cronium_proof_age_seconds",
        "cronium_proof_walls_failed",
        "cronium_outbox_oldest_seconds",
    ] {
        assert!(rules.contains(wanted), "no panel shows {wanted}");
    }
}

/// Every query of the dashboard, over five minutes and all agents.
fn queries() -> Vec<String> {
    let board: Value = serde_json::from_str(&text("configs/grafana/cronium-agent.json")).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().map_or(&[][..], Vec::as_slice));
    targets
        .map(|target| target["expr"].as_str().expect("a query"))
        .map(|query| query.replace("$__rate_interval", "5m").replace("$instance", ".*"))
        .collect()
}

#[test]
fn every_query_of_the_dashboard_finds_what_a_real_run_exposes() {
    let _machine = shared();
    let rig = Rig::start(&[("jobs.requireProof", "warn")]);
    let prometheus = Prometheus::scraping(&rig.agent);
    let up = || prometheus.query("up == 1").is_some_and(|found| !found.is_empty());
    eventually("the first scrape", up);
    for script in ["echo one; echo two >&2", "exit 3", "sleep 1"] {
        finish(&rig.backend, job("BASH", script));
    }
    rig.bash("echo on a server");
    let page = rig.agent.get("/metrics").1;
    let families: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let mut missing = BTreeSet::new();
    for query in queries() {
        for name in metrics(&query, "cronium_").into_iter().chain(metrics(&query, "process_")) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            if !families.contains(base) && !families.contains(name) {
                missing.insert(name.to_owned());
            }
        }
        // No call has failed.
        eventually(&format!("an answer to {query}"), || {
            prometheus.query(&query).is_some_and(|found| !found.is_empty() || query.contains("code!~"))
        });
    }
    assert_eq!(missing, BTreeSet::new(), "names of the dashboard that are not in\n{page}");
    rig.stop();
}

//! The main job: claimed, run, streamed, reported once; and what a script sees of its surroundings.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Agent, PROVING, deployed, eventually, finish, finished, job, record, report, shared, stderr, stdout, told_live,
    with_socket,
};

#[test]
pub fn three_languages_are_claimed_run_streamed_and_reported_once() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[PROVING]);
    let jobs = [
        job("BASH", "echo \"bash $BASH_VERSION\"\necho oops >&2\nexit 3"),
        job("PYTHON", "import sys\nprint('python', sys.version_info[0])\n"),
        job("NODEJS", "console.log('node', process.version)"),
    ];
    let ids: Vec<String> = jobs.into_iter().map(|job| backend.enqueue(job).expect("queued")).collect();
    let rows: Vec<_> = ids.iter().map(|id| finished(&backend, id)).collect();

    assert!(stdout(&rows[0]).starts_with("bash 5."), "{:?}", rows[0]);
    assert_eq!(stderr(&rows[0]), "oops\n");
    assert_eq!((report(&rows[0])["status"].as_str(), rows[0].exit_code), (Some("failed"), Some(3)));
    assert_eq!(stdout(&rows[1]), "python 3\n");
    assert!(stdout(&rows[2]).starts_with("node v"));
    for row in &rows[1..] {
        assert_eq!((report(row)["status"].as_str(), row.exit_code), (Some("completed"), Some(0)));
    }
    for row in &rows {
        // Acknowledged, running, then the report: the order in which the backend heard of it. The row is looked at again
        // right before `running`, which would undo a cancel.
        let kinds: Vec<&str> = row.reports.iter().map(|report| report.kind).collect();
        let want = ["acknowledge", "execution-create", "acknowledge", "status", "execution-update", "complete"];
        assert_eq!(kinds, want, "{row:?}");
        // Every line was there live, in order, without a gap; the verdict is the last.
        let lines = backend.lines(&row.id);
        let sequences: Vec<u64> = lines.iter().map(|line| line.sequence).collect();
        assert_eq!(sequences, (1..=lines.len() as u64).collect::<Vec<_>>());
        assert_eq!(lines.last().map(|line| line.stream), Some("system"));
    }
    assert_eq!(backend.problems(), Vec::<String>::new());
    agent.stop();
}

#[test]
fn who_watches_is_told_live_that_a_job_runs_and_how_it_ended() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, &[PROVING]);
    // The live log is up from then on.
    finish(&backend, job("BASH", "echo first"));
    let last = || told_live(&backend);
    let id = backend.enqueue(job("BASH", "sleep 1; exit 3")).expect("queued");
    eventually("its start is shown", || last()["jobId"] == *id && last()["status"] == "running");
    finished(&backend, &id);
    eventually("its end is shown", || last()["status"] == "failed");
    let told = last();
    assert_eq!(told["jobId"], *id);
    assert!(told["details"].as_str().is_some_and(|text| text.contains("exit code 3")), "{told}");
    assert_eq!(backend.problems(), Vec::<String>::new());
    agent.stop();
}

#[test]
pub fn tracebacks_name_a_real_file_and_the_right_line() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING]);
    let row = finish(&backend, job("PYTHON", "x = 1\n\n\nraise ValueError('boom')\n"));
    assert!(stderr(&row).contains("File \"/workspace/script.py\", line 4, in <module>"), "{}", stderr(&row));
    let row = finish(&backend, job("NODEJS", "const x = 1;\n\nthrow new Error('boom')\n"));
    assert!(stderr(&row).contains("/workspace/script.js:3"), "{}", stderr(&row));
    let row = finish(&backend, job("BASH", "true\nno_such_command\n"));
    assert!(stderr(&row).contains("/workspace/script.sh: line 2: no_such_command"), "{}", stderr(&row));
    agent.stop();
}

#[test]
pub fn environment_working_directory_and_large_scripts_arrive() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING]);
    let value = "it's \"$HOME\" `x` \\ ü\nsecond line\ttab";
    let mut with = job("BASH", "pwd; printf '%s|' \"$PLAIN\"; printenv MY-VAR; env | grep -c ^CRONIUM_");
    with["execution"]["environment"] = json!({ "PLAIN": value, "MY-VAR": "odd", "CRONIUM_JOB_ID": "forged" });
    with["execution"]["script"]["workingDirectory"] = json!("a b/c");
    let row = finish(&backend, with);
    assert_eq!(stdout(&row), format!("/workspace/a b/c\n{value}|odd\n7\n"));

    let mut forged =
        job("BASH", "echo $CRONIUM_JOB_ID $CRONIUM_JOB_TYPE $CRONIUM_EXECUTION_MODE $CRONIUM_EXECUTION_ID");
    forged["execution"]["environment"] = json!({ "CRONIUM_JOB_ID": "forged" });
    let row = finish(&backend, forged);
    assert_eq!(stdout(&row), format!("{} container container {}\n", row.id, row.executions[0]));

    let large = format!(
        "{}print('done', len(open(__file__).read()) > 5_000_000)\n",
        "# padding padding padding\n".repeat(200_000)
    );
    assert!(large.len() > 5_000_000);
    assert_eq!(stdout(&finish(&backend, job("PYTHON", &large))), "done True\n");
    agent.stop();
}

#[test]
pub fn a_nul_byte_and_a_directory_outside_are_refused_with_reasons() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING]);
    let row = finish(&backend, job("BASH", "echo a\necho \0b"));
    assert_eq!(report(&row)["status"], "failed");
    assert!(stderr(&row).contains("the script's line 2 holds a NUL byte"), "{}", stderr(&row));
    let mut outside = job("BASH", "pwd");
    outside["execution"]["script"]["workingDirectory"] = json!("../../etc");
    let row = finish(&backend, outside);
    assert!(stderr(&row).contains("not below /workspace"), "{}", stderr(&row));
    // Exit code −1 would be shown as TIMEOUT.
    assert_eq!(row.exit_code, Some(125));
    agent.stop();
}

#[test]
pub fn the_record_has_timings_usage_and_evidence() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING]);
    // Processor time, whatever else the host does.
    let script = "import time\nend = time.time() + 0.6\nx = bytearray(40_000_000)\n\
                  while time.time() < end or time.process_time() < 0.3: pass\n";
    let row = finish(&backend, job("PYTHON", script));
    let record = record(&backend, &row);
    for name in ["setup", "execution", "cleanup"] {
        for suffix in ["StartedAt", "CompletedAt"] {
            assert!(record[format!("{name}{suffix}")].is_string(), "{name}{suffix}: {record}");
        }
        assert!(record[format!("{name}Duration")].is_u64(), "{record}");
    }
    assert!(record["executionDuration"].as_u64().expect("ms") >= 600);
    // With the status `running` it is no second report, and gives the pages their times.
    assert!(record["completedAt"].is_string() && record["startedAt"].is_string(), "{record}");
    let facts = &record["executionMetadata"];
    let number = |name: &str| facts[name].as_str().and_then(|text| text.parse::<f64>().ok()).expect(name);
    assert!((0.2..1.5).contains(&number("cpuSeconds")), "{facts}");
    assert!(number("peakMemoryBytes") > 40_000_000.0, "{facts}");
    assert_eq!(facts["oomKilled"], "false");
    assert!(facts["containerId"].is_string() && facts["image"].is_string());
    let usage = &report(&row)["metrics"]["resourceUsage"];
    assert!(usage["peakMemory"].as_u64().expect("bytes") > 40_000_000, "{usage}");
    agent.stop();
}

#[test]
fn a_job_without_a_script_fails_with_its_kind_and_harms_nothing() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[PROVING]);
    let mut none = job("BASH", "");
    none["execution"].as_object_mut().expect("object").remove("script");
    assert!(stderr(&finish(&backend, none)).contains("the job has no script"));
    assert!(stderr(&finish(&backend, job("RUBY", "puts 1"))).contains("RUBY"));
    assert_eq!(stdout(&finish(&backend, job("sh", "echo fine"))), "fine\n");
    agent.stop();
}

#[test]
pub fn nanoseconds_and_seconds_are_both_timeouts_and_output_is_kept() {
    let _machine = shared();
    let backend = deployed();
    // A script that SIGTERM ends must be seen to end within the grace, also on a busy machine.
    let agent = Agent::start(&backend, &[PROVING, ("jobs.stopGrace", "5s")]);
    for timeout in [json!(1_000_000_000_u64), json!(1)] {
        let mut slow = job("BASH", "echo begun; sleep 30; echo never");
        slow["execution"]["timeout"] = timeout;
        let row = finish(&backend, slow);
        assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("timeout"), Some(-1)));
        assert_eq!(stdout(&row), "begun\n");
        assert!(stderr(&row).contains("limit of 1 s (the job's timeout); ended by SIGTERM"), "{}", stderr(&row));
    }
    // A script that will not hear TERM is killed after the grace.
    let mut deaf = job("BASH", "trap '' TERM; echo deaf; while :; do sleep 1; done");
    deaf["execution"]["timeout"] = json!(1);
    let row = finish(&backend, deaf);
    assert!(stderr(&row).contains("ended by SIGKILL"), "{}", stderr(&row));
    let took = Duration::from_millis(row.duration_ms.expect("duration"));
    assert!((Duration::from_secs(6)..Duration::from_secs(12)).contains(&took), "{took:?}");
    agent.stop();
}

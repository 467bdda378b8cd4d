//! An execution's record is owed as much as the report: it is complete before the report goes, through outages and kills.

use std::time::{Duration, Instant};

use cronium_dev_backend::{Action, DevBackend, Fault, JobRow, Via};
use serde_json::{Value, json};

use crate::harness::{Agent, deployed, eventually, finished, job, record, report, shared, stderr, stdout};
use crate::ssh_multi::{NAMES, Three};

const SCRIPT: &str = "echo kept; sleep 2; exit 3";

/// From now on each call whose path has this part gets a 500, as where the database is away.
fn fails(backend: &DevBackend, path: Option<&str>) {
    let action = Action::Status { status: 500, headers: Default::default(), body: None };
    backend.set_faults(vec![Fault { path: path.map(str::to_owned), action, ..Fault::default() }]);
}

fn begun(backend: &DevBackend, script: &str) -> String {
    let id = backend.enqueue(job("BASH", script)).expect("queued");
    eventually("it runs", || backend.job(&id).is_some_and(|row| row.status == "running"));
    id
}

/// One report, its record was completed before it, and nothing came after that.
fn whole(backend: &DevBackend, row: &JobRow) {
    assert_eq!((row.status, row.exit_code, stdout(row)), ("failed", Some(3), "kept\n"), "{}", stderr(row));
    let told = row.reports.iter().map(|report| report.kind);
    // The rest are questions.
    let kinds: Vec<&str> = told.filter(|kind| *kind != "acknowledge").collect();
    assert_eq!(kinds[kinds.len() - 2..], ["execution-update", "complete"], "{kinds:?}");
    assert_eq!(row.terminal_reports(), 1);
    let record = record(backend, row);
    assert_eq!((&record["exitCode"], &record["output"]), (&json!(3), &json!("kept\n")), "{record}");
    for time in ["startedAt", "completedAt", "executionCompletedAt"] {
        assert!(record[time].is_string(), "{time} of {record}");
    }
    assert!(record["executionDuration"].as_u64().is_some_and(|ms| ms >= 2000), "{record}");
}

fn waits(agent: &Agent) {
    eventually("the report waits", || agent.metric("cronium_outbox_reports") == Some(1.0));
}

#[test]
fn a_database_that_is_away_for_15_s_at_the_end_of_a_job_costs_neither_record_nor_report() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let id = begun(&backend, SCRIPT);
    fails(&backend, None);
    std::thread::sleep(Duration::from_secs(15));
    backend.set_faults(Vec::new());
    whole(&backend, &finished(&backend, &id));
    agent.stop();
    assert_eq!(backend.problems(), Vec::<String>::new());
}

#[test]
fn a_record_that_waits_when_the_agent_is_killed_is_completed_by_the_next() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let id = begun(&backend, SCRIPT);
    fails(&backend, None);
    waits(&agent);
    let agent = agent.again(&backend, &[]);
    backend.set_faults(Vec::new());
    whole(&backend, &finished(&backend, &id));
    agent.stop();
}

#[test]
fn a_record_that_is_refused_for_ever_does_not_hold_up_its_report() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("logging.live", "off")]);
    let id = begun(&backend, SCRIPT);
    fails(&backend, Some("/update"));
    let began = Instant::now();
    let row = finished(&backend, &id);
    assert_eq!((row.exit_code, row.terminal_reports()), (Some(3), 1));
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    assert!(agent.log().contains("the report goes without the execution's record"));
    agent.stop();
}

/// An update sets the job of the deployed backend to `running`. So the next agent asks before it sends one.
#[test]
fn a_report_that_was_taken_right_before_a_kill_is_not_opened_again_by_its_record() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    backend.set_fault(Fault { path: Some("/complete".into()), action: Action::Hang, ..Fault::default() });
    let id = begun(&backend, SCRIPT);
    eventually("it is taken", || backend.job(&id).is_some_and(|row| row.terminal_reports() == 1));
    let agent = agent.again(&backend, &[]);
    backend.set_faults(Vec::new());
    agent.wait_ready();
    eventually("nothing waits", || agent.metric("cronium_outbox_reports") == Some(0.0));
    whole(&backend, &backend.job(&id).expect("row"));
    agent.stop();
}

#[test]
fn a_cancel_while_the_report_waits_and_a_kill_cost_no_report() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let id = begun(&backend, SCRIPT);
    fails(&backend, None);
    waits(&agent);
    assert!(backend.cancel(&id, Via::Row));
    let agent = agent.again(&backend, &[]);
    backend.set_faults(Vec::new());
    whole(&backend, &finished(&backend, &id));
    assert_eq!(backend.shown(&id).expect("a page").status, "FAILURE");
    agent.stop();
}

/// The database goes away between the claim and the record's creation, which is tried for some seconds.
#[test]
fn a_record_that_could_not_be_made_is_made_with_its_end() {
    let _machine = shared();
    let backend = deployed();
    let settings = [("logging.live", "off"), ("api.retry.initialDelay", "100ms")];
    let agent = Agent::start(&backend, &settings);
    let action = Action::Status { status: 500, headers: Default::default(), body: None };
    backend.set_fault(Fault { path: Some("/create".into()), count: Some(3), action, ..Fault::default() });
    let id = begun(&backend, SCRIPT);
    whole(&backend, &finished(&backend, &id));
    agent.stop();
}

#[test]
fn each_servers_record_is_kept_through_an_outage_and_a_kill() {
    let _machine = shared();
    let three = Three::start(&[]);
    let id = three.backend.enqueue(three.job("echo \"kept on $(id -un)\"; sleep 2; exit 3")).expect("queued");
    let lines = || three.backend.lines(&id).iter().filter(|line| line.text.contains("kept on")).count();
    eventually("it runs everywhere", || lines() == NAMES.len());
    fails(&three.backend, None);
    waits(&three.agent);
    let text = std::fs::read_to_string(three.agent.state().join("jobs").join(format!("{id}.job"))).expect("page");
    assert_eq!(text.matches("kept on cs-").count(), 2 * NAMES.len(), "in the report, and in each record: {text}");
    let three = three.again(&[]);
    three.backend.set_faults(Vec::new());
    let row = finished(&three.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), row.terminal_reports()), (Some("failed"), 1), "{}", stderr(&row));
    let all: Vec<Value> = three.executions(&row);
    for name in NAMES {
        let found = all.iter().find(|execution| execution["created"]["serverName"] == *name).expect("a record");
        let output = json!(format!("kept on {}\n", three.user_of(name)));
        assert_eq!((&found["row"]["exitCode"], &found["row"]["output"]), (&json!(3), &output), "{found}");
    }
    three.stop();
}

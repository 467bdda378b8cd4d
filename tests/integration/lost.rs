//! A journal that lost a page, a clock that was wrong, an engine that is slow to remove: what becomes of the jobs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cronium_dev_backend::JobRow;
use serde_json::json;

use crate::engine_proxy::{Break, Proxy};
use crate::harness::{
    Agent, LONG, deployed, docker, eventually, finish, finished, job, report, shared, stderr, stdout, with_socket,
};
use crate::restart::{COUNT, whole};
use crate::ssh_multi::Three;

fn page(agent: &Agent, id: &str) -> PathBuf {
    agent.state().join("jobs").join(format!("{id}.job"))
}

type Loss = (&'static str, fn(&Path));

/// What may become of a page.
const LOSSES: [Loss; 3] = [
    ("removed", |page| std::fs::remove_file(page).expect("removed")),
    ("torn", |page| {
        let bytes = std::fs::read(page).expect("a page");
        std::fs::write(page, &bytes[..bytes.len() / 2]).expect("written");
    }),
    ("a folder", |page| {
        std::fs::remove_file(page).expect("removed");
        std::fs::create_dir(page).expect("made");
    }),
];

/// The row of a job whose report is all the script's own.
fn none_of_ours(row: &JobRow) {
    assert!(!stderr(row).contains("cronium"), "{}", stderr(row));
}

/// Loses the page of a script that runs, in each way, after a kill of its agent and `meanwhile`: the next agent reports all.
fn loses_nothing(meanwhile: fn(&Agent)) {
    let _machine = shared();
    for (what, lose) in LOSSES {
        let backend = with_socket();
        let mut agent = Agent::start(&backend, &[]);
        let id = backend.enqueue(job("BASH", COUNT)).expect("queued");
        eventually("some lines", || backend.lines(&id).len() > 5);
        agent.signal("KILL");
        agent.wait(LONG);
        meanwhile(&agent);
        lose(&page(&agent, &id));
        let agent = agent.again(&backend, &[]);
        let row = finished(&backend, &id);
        whole(&backend, &row);
        none_of_ours(&row);
        assert_eq!(row.claims, 1, "{what}");
        agent.stop();
    }
}

#[test]
fn a_script_whose_page_is_lost_goes_on_and_every_line_comes() {
    loses_nothing(|_| {});
}

#[test]
fn a_script_whose_page_is_lost_and_that_ended_meanwhile_is_told_by_its_own_end() {
    loses_nothing(|agent| {
        let filter = format!("label=cronium.agent.id={}", agent.id);
        eventually("the script has ended", || docker(&["ps", "-q", "--filter", &filter]).is_empty());
    });
}

/// Puts another container in the place of the agent's one: the same name and labels but those named, this command.
fn swap(agent: &Agent, without: &[&str], script: &str) {
    let containers = agent.containers();
    let [container] = containers.as_slice() else { panic!("{containers:?}") };
    let told = docker(&["inspect", container]);
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let (name, config) = (told[0]["Name"].as_str().expect("a name"), &told[0]["Config"]);
    docker(&["rm", "-f", container]);
    let labels = config["Labels"].as_object().expect("labels").iter();
    let labels = labels.filter(|(name, _)| !without.iter().any(|start| name.starts_with(start)));
    let labels: Vec<String> =
        labels.map(|(name, value)| format!("--label={name}={}", value.as_str().expect("text"))).collect();
    let mut arguments = vec!["run", "-d", "--network=none", "--name", name.trim_start_matches('/')];
    arguments.extend(labels.iter().map(String::as_str));
    let image = config["Image"].as_str().expect("an image");
    arguments.extend(["--entrypoint=/bin/sh", image, "-c", script]);
    let made = docker(&arguments);
    docker(&["wait", &made]);
}

/// A job of a killed agent, in whose place there is this container; what the next agent reports.
fn instead(lost: bool, without: &[&str], script: &str) -> JobRow {
    let backend = with_socket();
    let mut agent = Agent::start(&backend, &[]);
    let id = backend.enqueue(job("BASH", "echo run; sleep 2; exit 5")).expect("queued");
    eventually("the first line", || !backend.lines(&id).is_empty());
    agent.signal("KILL");
    agent.wait(LONG);
    swap(&agent, without, script);
    if lost {
        std::fs::remove_file(page(&agent, &id)).expect("a page");
    }
    let agent = agent.again(&backend, &[]);
    let row = finished(&backend, &id);
    agent.stop();
    row
}

/// The shell's stdin ended before the program had come, at once or in the middle of it.
#[test]
fn a_container_whose_program_never_came_is_no_end_of_the_script() {
    let _machine = shared();
    for script in ["exit 0", "echo 'sh: syntax error: unexpected end of file (expecting \"}\")' >&2; exit 2"] {
        for lost in [true, false] {
            let row = instead(lost, &[], script);
            // It was run then, from its beginning.
            assert_eq!((row.exit_code, stdout(&row), row.claims), (Some(5), "run\n", 2), "{script} {}", stderr(&row));
            none_of_ours(&row);
        }
    }
}

#[test]
fn a_container_of_an_earlier_version_is_told_by_its_own_end() {
    let _machine = shared();
    let new = ["cronium.nonce", "cronium.timeout", "cronium.limits", "cronium.job.attempts", "cronium.job.language"];
    let row = instead(true, &new, "echo 'cronium ready 00ff' >&2; echo out; echo err >&2; exit 3");
    assert_eq!((row.exit_code, stdout(&row), stderr(&row), row.claims), (Some(3), "out\n", "err\n", 1));
    let row = instead(true, &new, "exit 0");
    assert_eq!((row.exit_code, stdout(&row), row.claims), (Some(5), "run\n", 2), "{}", stderr(&row));
}

#[test]
fn labels_that_make_no_sense_give_no_time_and_harm_nothing() {
    let _machine = shared();
    let backend = with_socket();
    let settings = [("jobs.maxTimeout", "6s"), ("jobs.defaultTimeout", "6s"), ("jobs.stopGrace", "1s")];
    let mut agent = Agent::start(&backend, &settings);
    let mut long = job("BASH", "echo begun; sleep 300");
    long["execution"]["timeout"] = json!(6);
    let id = backend.enqueue(long).expect("queued");
    eventually("the first line", || !backend.lines(&id).is_empty());
    agent.signal("KILL");
    agent.wait(LONG);
    std::fs::remove_file(page(&agent, &id)).expect("a page");
    let containers = agent.containers();
    let [container] = containers.as_slice() else { panic!("{containers:?}") };
    let text = docker(&["inspect", container]);
    let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    docker(&["rm", "-f", container]);
    let label = |name: &str| format!("--label={name}={}", told[0]["Config"]["Labels"][name].as_str().expect("a label"));
    let name = told[0]["Name"].as_str().expect("a name").trim_start_matches('/').to_owned();
    let mut arguments: Vec<String> = ["run", "-d", "--network=none", "--name", &name].map(str::to_owned).to_vec();
    for name in ["cronium.managed", "cronium.agent.id", "cronium.job.id", "cronium.execution.id"] {
        arguments.push(label(name));
    }
    for (name, value) in [
        ("timeout.ms", "18446744073709551615"),
        ("timeout.name", "a century"),
        ("nonce", "../../x"),
        ("limits.cpu", "NaN"),
        ("limits.memory", "-1"),
        ("limits.disk", "inf"),
        ("limits.pids", ""),
        ("job.attempts", "99999999999"),
        ("job.language", "COBOL"),
    ] {
        arguments.push(format!("--label=cronium.{name}={value}"));
    }
    let script = "echo 'cronium ready 00ff' >&2; echo begun; sleep 300";
    let image = told[0]["Config"]["Image"].as_str().expect("an image");
    arguments.extend(["--entrypoint=/bin/sh", image, "-c", script].map(str::to_owned));
    docker(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let begun = Instant::now();
    let agent = agent.again(&backend, &settings);
    let row = finished(&backend, &id);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("timeout"), Some(-1)), "{}", stderr(&row));
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    assert_eq!(stdout(&row), "begun\n");
    agent.stop();
}

#[test]
fn a_container_that_was_made_and_not_started_goes_back_to_the_queue() {
    let _machine = shared();
    let (backend, proxy) = (deployed(), Proxy::start());
    proxy.break_calls("POST", "/start", 1, Break::Silence);
    let mut agent = Agent::start(&backend, &[("container.docker.endpoint", proxy.endpoint().as_str())]);
    let id = backend.enqueue(job("BASH", "echo run; exit 5")).expect("queued");
    eventually("it is about to start", || proxy.count("POST", "/start") == 1);
    agent.signal("KILL");
    agent.wait(LONG);
    std::fs::remove_file(page(&agent, &id)).expect("a page");
    let agent = agent.again(&backend, &[]);
    let row = finished(&backend, &id);
    assert_eq!((row.exit_code, stdout(&row), row.claims), (Some(5), "run\n", 2), "{}", stderr(&row));
    agent.stop();
}

/// As zip has it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

/// Writes the page anew with other text in place of each deadline, as if a clock that was wrong had written it.
fn set_deadlines(page: &Path, to: &str) {
    let text = std::fs::read_to_string(page).expect("a page");
    let (_, body) = text.split_once('\n').expect("two lines");
    let mut parts = body.split("\"deadline_ms\":");
    let mut body = parts.next().expect("a part").to_owned();
    for part in parts {
        body += &format!("\"deadline_ms\":{to}{}", part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    let head = format!("cronium-journal 1 {:08x} {}\n", crc32(body.as_bytes()), body.len());
    std::fs::write(page, head + &body).expect("written");
}

const DECADES: &str = "4000000000000";

#[test]
fn a_clock_that_was_wrong_gives_no_job_more_than_its_limit() {
    let _machine = shared();
    for (deadline, least) in
        [(DECADES, 4), ("18446744073709551615", 4), ("0", 0), ("-5", 0), ("1e999", 0), ("\"NaN\"", 0)]
    {
        let backend = with_socket();
        let settings = [("jobs.stopGrace", "1s")];
        let mut agent = Agent::start(&backend, &settings);
        let mut long = job("BASH", "echo begun; sleep 300");
        long["execution"]["timeout"] = json!(4);
        let id = backend.enqueue(long).expect("queued");
        eventually("the first line", || !backend.lines(&id).is_empty());
        agent.signal("KILL");
        agent.wait(LONG);
        let page = page(&agent, &id);
        set_deadlines(&page, deadline);
        let begun = Instant::now();
        let agent = agent.again(&backend, &settings);
        if deadline == DECADES {
            let written = || std::fs::read_to_string(&page).is_ok_and(|text| !text.contains(DECADES));
            eventually("the page has a deadline that can be", written);
        }
        let row = finished(&backend, &id);
        let said = (report(&row)["status"].as_str(), row.exit_code);
        assert_eq!(said, (Some("timeout"), Some(-1)), "{deadline}: {}", stderr(&row));
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(least) && took < Duration::from_secs(20), "{deadline}: {took:?}");
        agent.stop();
    }
}

#[test]
fn nor_a_job_on_several_servers() {
    let _machine = shared();
    let mut three = Three::start(&[]);
    let mut long = three.job("echo begun; sleep 300");
    long["execution"]["timeout"] = json!(6);
    let id = three.backend.enqueue(long).expect("queued");
    let lines = || three.backend.lines(&id).iter().filter(|line| line.text.ends_with("begun")).count();
    eventually("all have begun", || lines() == 3);
    three.agent.signal("KILL");
    three.agent.wait(LONG);
    set_deadlines(&page(&three.agent, &id), DECADES);
    let begun = Instant::now();
    let three = three.again(&[]);
    let row = finished(&three.backend, &id);
    assert_eq!(report(&row)["status"], "timeout", "{}", stderr(&row));
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    three.stop();
}

/// An engine that takes ten seconds to remove a container.
#[test]
fn a_report_does_not_wait_until_its_container_is_removed() {
    let _machine = shared();
    let (backend, proxy) = (with_socket(), Proxy::start());
    let mut agent = Agent::start(&backend, &[("container.docker.endpoint", proxy.endpoint().as_str())]);
    agent.wait_ready();
    proxy.break_calls("DELETE", "/containers/", u32::MAX, Break::Delay(10_000));
    let id = backend.enqueue(job("BASH", "echo first; sleep 0.5; echo last")).expect("queued");
    eventually("the last line", || backend.lines(&id).iter().any(|line| line.text == "last"));
    let ended = Instant::now();
    let row = finished(&backend, &id);
    assert!(ended.elapsed() < Duration::from_secs(4), "{:?}", ended.elapsed());
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "first\nlast\n"));
    // A further attempt is not kept waiting by the removal either.
    assert!(backend.requeue(&id, true));
    eventually("it ran once more", || backend.job(&id).expect("row").terminal_reports() == 2);
    assert!(ended.elapsed() < Duration::from_secs(9), "{:?}", ended.elapsed());
    assert_eq!(agent.containers().len(), 2, "none was removed yet");
    agent.signal("KILL");
    agent.wait(LONG);
    drop(proxy);
    let agent = agent.again(&backend, &[]);
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    eventually("nothing is left", || agent.containers().is_empty());
    assert_eq!(backend.job(&id).expect("row").terminal_reports(), 2);
    assert!(std::fs::read_dir(agent.state().join("jobs")).expect("jobs").next().is_none());
    assert_eq!(backend.problems(), Vec::<String>::new());
    agent.stop();
}

//! A job on several servers whose agent is killed, stopped or cut off: each server is gone on with by itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cronium_dev_backend::{JobRow, Via};
use serde_json::{Value, json};

use crate::harness::{LONG, eventually, finished, report, shared, stderr, stdout};
use crate::ssh_multi::{NAMES, Three};
use crate::ssh_rig::{has_words, said};

/// Counts its starts in a file of the server's, prints numbered lines for some seconds and ends with 7 on one of them.
fn counting(three: &Three) -> String {
    let beta = three.user_of("beta");
    format!(
        "echo \"$CRONIUM_EXECUTION_ID\" >>\"$HOME/starts\"; for n in $(seq 1 60); do echo \"line $n\"; \
         [ $((n % 7)) = 0 ] && echo \"error $n\" >&2; sleep 0.05; done; [ \"$(id -un)\" != {beta} ] || exit 7"
    )
}

pub fn starts(three: &Three) -> Vec<Vec<String>> {
    let read = |sshd: &crate::sshd::Sshd| std::fs::read_to_string(sshd.path("home").join("starts")).unwrap_or_default();
    three.servers.iter().map(|sshd| read(sshd).lines().map(str::to_owned).collect()).collect()
}

fn begun_everywhere(three: &Three, id: &str, lines: usize) {
    eventually("some lines of each", || {
        let all = three.backend.lines(id);
        let of = |name: &&str| all.iter().filter(|line| line.text.starts_with(&format!("[{name}] line "))).count();
        NAMES.iter().all(|name| of(name) > lines)
    });
}

/// The lines of one server in a text.
fn lines_of<'a>(text: impl Iterator<Item = &'a str>, name: &str) -> Vec<&'a str> {
    let prefix = format!("[{name}] ");
    text.filter_map(|line| line.strip_prefix(&prefix)).filter(|line| line.starts_with("line ")).collect()
}

/// The script ran once on each server, all of its output is in the result, and every line was live.
fn whole(three: &Three, row: &JobRow) {
    let numbered: Vec<String> = (1..=60).map(|n| format!("line {n}")).collect();
    assert_eq!((report(row)["status"].as_str(), row.exit_code), (Some("completed"), Some(101)), "{}", stderr(row));
    assert_eq!((row.claims, row.terminal_reports()), (1, 1));
    let live = three.backend.lines(&row.id);
    for name in NAMES {
        assert_eq!(lines_of(stdout(row).lines(), name), numbered, "{name}");
        let seen: BTreeSet<&str> = lines_of(live.iter().map(|line| line.text.as_str()), name).into_iter().collect();
        let missing: Vec<_> = numbered.iter().filter(|line| !seen.contains(line.as_str())).collect();
        assert_eq!(missing, Vec::<&String>::new(), "lines of {name} that were never live");
        let errors = stderr(row).lines().filter(|line| line.starts_with(&format!("[{name}] error "))).count();
        assert_eq!(errors, 8, "{}", stderr(row));
    }
    assert!(starts(three).iter().all(|all| all.len() == 1), "{:?}", starts(three));
    assert_eq!(codes(three, row), [0, 7, 0]);
    for execution in three.executions(row) {
        let output = execution["row"]["output"].as_str().expect("output");
        assert_eq!(output.lines().collect::<Vec<_>>(), numbered, "{execution}");
    }
}

/// The exit codes of the records, in the servers' order.
fn codes(three: &Three, row: &JobRow) -> Vec<i64> {
    let all = three.executions(row);
    assert_eq!(all.len(), NAMES.len(), "{all:?}");
    let of = |name: &str| {
        let found = all.iter().find(|execution| execution["created"]["serverName"] == *name);
        found.and_then(|execution| execution["row"]["exitCode"].as_i64()).unwrap_or(-99)
    };
    NAMES.iter().map(|name| of(name)).collect()
}

#[test]
fn scripts_on_several_servers_go_on_when_their_agent_is_killed() {
    let _machine = shared();
    let three = Three::start(&[]);
    let id = three.backend.enqueue(three.job(&counting(&three))).expect("queued");
    begun_everywhere(&three, &id, 10);
    let three = three.again(&[]);
    whole(&three, &finished(&three.backend, &id));
    assert!(three.agent.log().contains("going on with it"));
    three.stop();
}

#[test]
fn the_end_of_an_agent_leaves_scripts_on_several_servers_to_the_next() {
    let _machine = shared();
    let mut three = Three::start(&[("jobs.drainTimeout", "500ms")]);
    let id = three.backend.enqueue(three.job(&counting(&three))).expect("queued");
    begun_everywhere(&three, &id, 5);
    three.agent.signal("TERM");
    assert_eq!(three.agent.wait(LONG).code(), Some(4), "{}", three.agent.log());
    assert_eq!(three.backend.job(&id).expect("row").terminal_reports(), 0);
    assert!(three.servers.iter().all(|sshd| !sshd.user_processes().is_empty()), "the scripts were ended");
    let three = three.again(&[]);
    whole(&three, &finished(&three.backend, &id));
    three.stop();
}

#[test]
fn what_had_ended_before_the_kill_keeps_its_end_and_its_record() {
    let _machine = shared();
    let three = Three::start(&[]);
    let alpha = three.user_of("alpha").to_owned();
    let script = format!("echo here; [ $(id -un) != {alpha} ] || exit 3; sleep 3; echo later");
    let id = three.backend.enqueue(three.job(&script)).expect("queued");
    let page = three.agent.state().join("jobs").join(format!("{id}.job"));
    // Its output is there until the backend has it.
    let is_taken = |text: String| text.contains("\"recorded\":true") && !text.contains("\"owed\"");
    eventually("its end is written down", || std::fs::read_to_string(&page).is_ok_and(is_taken));
    let text = std::fs::read_to_string(&page).expect("page");
    assert!(!text.contains("here") && !text.contains("PRIVATE KEY"), "output or a key in {text}");
    let three = three.again(&[]);
    let row = finished(&three.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("completed"), Some(101)), "{}", stderr(&row));
    assert_eq!((row.terminal_reports(), codes(&three, &row)), (1, vec![3, 0, 0]));
    let later: Vec<&str> = stdout(&row).lines().filter(|line| line.ends_with("later")).collect();
    assert_eq!(later.len(), 2, "{}", stdout(&row));
    assert!(stderr(&row).contains("[alpha] it had ended before the agent was restarted"), "{}", stderr(&row));
    has_words(&said(&three.backend, &row), &["alpha: the script ended with exit code 3"]);
    let records = three.executions(&row);
    let record = records.iter().find(|record| record["created"]["serverName"] == "alpha").expect("a record");
    assert_eq!(record["row"]["output"], "here\n", "{record}");
    three.stop();
}

#[test]
fn time_without_an_agent_counts_on_every_server_and_a_cancel_finds_what_was_adopted() {
    let _machine = shared();
    let mut three = Three::start(&[]);
    let mut slow = three.job("echo line 0; sleep 60");
    slow["execution"]["timeout"] = json!(6);
    let begun = Instant::now();
    let id = three.backend.enqueue(slow).expect("queued");
    begun_everywhere(&three, &id, 0);
    three.agent.signal("KILL");
    three.agent.wait(LONG);
    std::thread::sleep(Duration::from_secs(4));
    let three = three.again(&[]);
    let row = finished(&three.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("timeout"), Some(-1)), "{}", stderr(&row));
    assert!(begun.elapsed() < Duration::from_millis(9500), "{:?}", begun.elapsed());
    let id = three.backend.enqueue(three.job("echo line 0; sleep 60")).expect("queued");
    begun_everywhere(&three, &id, 0);
    let three = three.again(&[]);
    eventually("all are adopted", || {
        three.backend.lines(&id).iter().filter(|line| line.text.contains("going on with the script")).count() == 3
    });
    assert!(three.backend.cancel(&id, Via::WebSocket));
    let row = finished(&three.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), row.terminal_reports()), (Some("cancelled"), 1), "{row:?}");
    for sshd in &three.servers {
        let left = sshd.user_processes();
        assert!(left.iter().all(|process| !process.arguments.contains("sleep 60")), "{left:?}");
    }
    three.stop();
}

#[test]
fn a_server_that_is_away_after_the_restart_is_unknown_alone() {
    let _machine = shared();
    let mut three = Three::start(&[]);
    let id = three.backend.enqueue(three.job(&counting(&three))).expect("queued");
    begun_everywhere(&three, &id, 5);
    three.agent.signal("KILL");
    three.agent.wait(LONG);
    three.servers[2].stop();
    let mut three = three.again(&[("ssh.execution.reconnectTimeout", "3s")]);
    let row = finished(&three.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("completed"), Some(102)), "{}", stderr(&row));
    assert_eq!((row.terminal_reports(), codes(&three, &row)), (1, vec![0, 7, 125]));
    let words = ["gamma", "could not be reached", "ssh.execution.reconnectTimeout", "its end is unknown"];
    has_words(&said(&three.backend, &row), &words);
    assert!(starts(&three).iter().all(|all| all.len() == 1), "{:?}", starts(&three));
    three.servers[2].start_again();
    three.stop();
}

/// A job for eighteen servers, two more than are worked on at once, which are three in truth. Its scripts wait for
/// [`let_end`].
pub fn eighteen(three: &Three) -> Value {
    let go = three.place().join("go");
    let wait = format!("until [ -e {} ]; do sleep 0.1; done", go.display());
    let mut job = three.job(&format!("echo \"$CRONIUM_EXECUTION_ID\" >>\"$HOME/starts\"; {wait}; echo over"));
    let servers: Vec<Value> = (0..18)
        .map(|n| {
            let mut server = job["metadata"]["servers"][n % 3].clone();
            server["name"] = json!(format!("s{n}"));
            server
        })
        .collect();
    job["metadata"]["serverCount"] = json!(servers.len());
    job["metadata"]["servers"] = json!(servers);
    job
}

pub fn let_end(three: &Three) {
    std::fs::write(three.place().join("go"), "").expect("a file");
}

/// Waits until as many have begun as may be worked on at once, and sees that no other does while they run.
pub fn sixteen_begin(three: &Three) {
    let begun = || starts(three).iter().flatten().count();
    eventually("sixteen have begun", || begun() >= 16);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(begun(), 16);
}

#[test]
fn servers_that_had_not_begun_at_the_kill_are_begun_once_by_the_next_agent() {
    let _machine = shared();
    let three = Three::start(&[]);
    let id = three.backend.enqueue(eighteen(&three)).expect("queued");
    sixteen_begin(&three);
    let three = three.again(&[]);
    let_end(&three);
    let row = finished(&three.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("completed"), Some(0)), "{}", stderr(&row));
    assert_eq!(row.terminal_reports(), 1);
    let begun: Vec<String> = starts(&three).concat();
    assert_eq!((begun.len(), begun.iter().collect::<BTreeSet<_>>().len()), (18, 18), "{begun:?}");
    assert_eq!(stdout(&row).lines().filter(|line| line.ends_with("over")).count(), 18, "{}", stdout(&row));
    three.stop();
}

#[test]
fn without_a_login_what_had_not_begun_is_told_as_not_run() {
    let _machine = shared();
    let three = Three::start(&[]);
    let id = three.backend.enqueue(eighteen(&three)).expect("queued");
    sixteen_begin(&three);
    // The logins in the record are sealed with the token of before, and the deployed backend tells none.
    let three = three.again_with("another-token", &[]);
    let row = finished(&three.backend, &id);
    // Without a login the ends of the others are unknown.
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(125)), "{}", stderr(&row));
    assert_eq!(row.terminal_reports(), 1);
    assert_eq!(starts(&three).iter().flatten().count(), 16);
    let errors: Vec<String> = three.executions(&row).iter().map(|all| all["row"]["error"].to_string()).collect();
    let count = |words: &str| errors.iter().filter(|error| error.contains(words)).count();
    assert_eq!((errors.len(), count("not run: "), count("its end is unknown")), (18, 2, 16), "{errors:?}");
    assert!(stderr(&row).contains("not run: "), "{}", stderr(&row));
    let_end(&three);
    three.stop();
}

//! The end of a script on a server, and an agent that is killed between that end and the report: the folder there is the
//! only witness until the report is on disk, and goes then, by this agent or by the next.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cronium_dev_backend::{Action, Fault, JobRow};

use crate::control::{row, status};
use crate::harness::{LONG, eventually, finished, report, shared, stderr, stdout};
use crate::ssh_multi::{NAMES, Three};
use crate::ssh_rig::{Rig, has_words};
use crate::sshd::{Sshd, list};
use crate::sshd_faults::signal;

/// Counts its starts in a file of the server's, waits for a file `go`, says something on both streams and ends with 7.
const GATED: &str =
    "echo begun >>\"$HOME/starts\"; until [ -e \"$HOME/go\" ]; do sleep 0.05; done; echo out; echo err >&2; exit 7";

/// A call that gets no answer is given up soon.
const IMPATIENT: [(&str, &str); 2] = [("api.timeout", "1s"), ("api.retry.maxAttempts", "1")];

fn on(path: &str, action: Action) -> Fault {
    Fault { path: Some(path.to_owned()), action, ..Fault::default() }
}

fn page(rig: &Rig, id: &str) -> String {
    std::fs::read_to_string(rig.agent.state().join("jobs").join(format!("{id}.job"))).unwrap_or_default()
}

/// The folders of jobs below `place` whose script has ended.
fn ended(place: &Path) -> Vec<PathBuf> {
    list(place).into_iter().filter(|folder| folder.join("status").exists()).collect()
}

#[test]
fn after_another_token_the_end_of_a_script_on_a_server_is_unknown() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let id =
        rig.begin(rig.job("BASH", "echo begun >>\"$HOME/starts\"; echo begun; sleep 4; echo end >>\"$HOME/starts\""));
    // The login in the record is sealed with the token of before, and the deployed backend tells none.
    let rig = rig.again_with("another-token");
    let row = finished(&rig.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(125)), "{}", rig.said(&row));
    has_words(&rig.said(&row), &["does not tell any more how to log in", "its end is unknown"]);
    assert_eq!((row.claims, row.terminal_reports()), (1, 1));
    // It goes on there, and is left alone.
    let said = || std::fs::read_to_string(rig.sshd.path("home/starts")).expect("the script's file");
    eventually("the script ends", || said() == "begun\nend\n");
    rig.leave();
}

/// The script ran once and is reported once, as it ended.
fn told(rig: &Rig, row: &JobRow) {
    assert_eq!((row.exit_code, stdout(row), row.claims), (Some(7), "out\n", 1), "{}", rig.said(row));
    assert!(stderr(row).starts_with("err\n"), "{}", stderr(row));
    let starts = std::fs::read_to_string(rig.sshd.path("home/starts")).expect("the script's file");
    assert_eq!(starts, "begun\n");
}

/// A disk that takes long: no file of the agent's comes to its place until this is dropped.
struct SlowDisk(Child);

impl SlowDisk {
    fn of(agent: u32) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=rename,renameat,renameat2"]);
        command.args(["-e", "inject=rename,renameat,renameat2:delay_enter=100s", "-p", &agent.to_string()]);
        let child = command.stdin(Stdio::null()).spawn().expect("strace, which scripts/test.sh installs");
        let traced = |task: PathBuf| {
            let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        };
        eventually("each thread is held", || list(Path::new(&format!("/proc/{agent}/task"))).into_iter().all(traced));
        Self(child)
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // What it held goes on, or ends where it was killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A job whose script has ended, whose ending the agent has, and whose report is not on disk yet.
fn unreported(rig: &Rig) -> (String, SlowDisk) {
    rig.agent.wait_ready();
    let id = rig.queue(rig.job("BASH", GATED));
    eventually("it runs", || rig.sshd.path("home/starts").exists() && page(rig, &id).contains("\"Started\""));
    let disk = SlowDisk::of(rig.agent.pid());
    std::fs::write(rig.sshd.path("home/go"), "").expect("go");
    let reporting = || row(&status(&rig.agent), &id).is_some_and(|row| row["phase"] == "reporting");
    eventually("its ending has arrived", reporting);
    assert!(page(rig, &id).contains("\"Started\""), "its report is on disk: {}", page(rig, &id));
    (id, disk)
}

#[test]
fn an_end_that_had_arrived_before_the_kill_is_told_by_the_next_agent() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let (id, disk) = unreported(&rig);
    assert_eq!(ended(&rig.sshd.temp_dir()).len(), 1, "the only witness is gone before the report is on disk");
    rig.agent.signal("KILL");
    drop(disk);
    let rig = rig.again();
    told(&rig, &finished(&rig.backend, &id));
    rig.stop();
}

#[test]
fn a_folder_is_removed_by_the_next_agent_when_the_report_was_on_disk_at_the_kill() {
    let _machine = shared();
    let mut rig = Rig::start(&IMPATIENT);
    let (id, disk) = unreported(&rig);
    // Its server goes away before the folder is to go, and the backend does not take the report.
    let refused = Action::Status { status: 503, headers: Default::default(), body: None };
    rig.backend.set_faults(vec![on("/complete", refused)]);
    rig.sshd.stop();
    drop(disk);
    eventually("the report is on disk", || page(&rig, &id).contains("\"Ended\""));
    rig.agent.signal("KILL");
    rig.agent.wait(LONG);
    rig.backend.set_faults(Vec::new());
    rig.sshd.start_again();
    assert_eq!(ended(&rig.sshd.temp_dir()).len(), 1);
    assert_eq!(rig.backend.job(&id).expect("row").terminal_reports(), 0);
    let rig = rig.again();
    told(&rig, &finished(&rig.backend, &id));
    rig.stop();
}

/// The backend tells no login of a job that was reported: the folder cannot be removed, and the log says so.
#[test]
fn a_folder_that_cannot_be_removed_after_a_kill_is_named() {
    let _machine = shared();
    let mut rig = Rig::start(&IMPATIENT);
    let (id, disk) = unreported(&rig);
    rig.sshd.stop();
    drop(disk);
    told(&rig, &finished(&rig.backend, &id));
    rig.agent.signal("KILL");
    rig.agent.wait(LONG);
    let folder = ended(&rig.sshd.temp_dir()).pop().expect("the folder");
    assert!(page(&rig, &id).contains("\"remains\":true"), "{}", page(&rig, &id));
    rig.backend.set_faults(Vec::new());
    rig.sshd.start_again();
    let rig = rig.again_with("another-token");
    let words = format!("{} may be left behind on ", folder.display());
    eventually("it is named", || rig.agent.log().contains(&words));
    eventually("its page is gone", || page(&rig, &id).is_empty());
    assert_eq!(rig.backend.job(&id).expect("row").terminal_reports(), 1);
    rig.leave();
}

#[test]
fn a_folder_goes_also_when_the_program_that_waits_in_it_was_killed() {
    let _machine = shared();
    let rig = Rig::start(&IMPATIENT);
    let (id, disk) = unreported(&rig);
    let shells: Vec<u32> =
        rig.sshd.user_processes().iter().filter(|p| p.arguments.trim_end() == "/bin/sh -s").map(|p| p.pid).collect();
    assert_eq!(shells.len(), 1, "{:?}", rig.sshd.user_processes());
    signal("KILL", &shells);
    drop(disk);
    told(&rig, &finished(&rig.backend, &id));
    rig.stop();
}

#[test]
fn a_server_that_is_away_when_the_folder_is_to_go_does_not_hold_up_the_report() {
    let _machine = shared();
    let mut rig = Rig::start(&[IMPATIENT[0], IMPATIENT[1], ("jobs.cleanupTimeout", "8s")]);
    let (id, disk) = unreported(&rig);
    rig.sshd.freeze();
    drop(disk);
    eventually("the report is on disk", || page(&rig, &id).contains("\"Ended\""));
    let begun = Instant::now();
    told(&rig, &finished(&rig.backend, &id));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let folder = ended(&rig.sshd.temp_dir()).pop().expect("the folder");
    let words = format!("{} is left behind on ", folder.display());
    eventually("it is named", || rig.agent.log().contains(&words));
    rig.sshd.thaw();
    rig.sshd.stop();
    rig.sshd.start_again();
    rig.leave();
}

#[test]
fn an_end_while_no_agent_lived_is_told_by_when_it_came() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let queue = |script: &str, limit: u32| {
        let mut job = rig.job("BASH", script);
        job["execution"]["timeout"] = serde_json::json!(limit);
        rig.begin(job)
    };
    // One ends by itself within its limit, one is ended for its limit by an agent that does not live to report that.
    let in_time = queue("echo begun; sleep 1.2; exit 3", 3);
    let too_late = queue("trap 'echo caught; sleep 0.5; exit 143' TERM; echo begun; while :; do sleep 0.1; done", 1);
    eventually("TERM was sent", || rig.backend.lines(&too_late).iter().any(|line| line.text == "caught"));
    let mut rig = rig;
    rig.agent.signal("KILL");
    rig.agent.wait(LONG);
    std::thread::sleep(Duration::from_secs(3));
    let rig = rig.again();
    let row = finished(&rig.backend, &too_late);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("timeout"), Some(-1)), "{}", rig.said(&row));
    let row = finished(&rig.backend, &in_time);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(3)), "{}", rig.said(&row));
    rig.stop();
}

#[test]
fn agents_killed_at_any_moment_of_a_script_know_its_end_and_leave_no_folder() {
    let _machine = shared();
    let mut rig = Rig::start(&[]);
    let script = "echo \"$CRONIUM_JOB_ID\" >>\"$HOME/starts\"; echo out; sleep 0.2; exit 7";
    let mut ids = Vec::new();
    for round in 0..8_u64 {
        let id = rig.queue(rig.job("BASH", script));
        eventually("its first line", || rig.backend.line_sums(&id).is_some_and(|sums| sums.counts[0] > 0));
        ids.push(id);
        // Moments from there to some time after its report.
        std::thread::sleep(Duration::from_millis(round * 137 % 450));
        rig = rig.again();
    }
    for id in &ids {
        let row = finished(&rig.backend, id);
        assert_eq!((row.exit_code, stdout(&row)), (Some(7), "out\n"), "{}", rig.said(&row));
    }
    let starts = std::fs::read_to_string(rig.sshd.path("home/starts")).expect("the scripts' file");
    let mut starts: Vec<&str> = starts.lines().collect();
    starts.sort_unstable();
    ids.sort_unstable();
    assert_eq!(starts, ids, "each ran once");
    rig.stop();
}

/// A job that runs on each of the servers, whose next words in the records do not come to the disk.
fn held(three: &Three, script: &str) -> (String, SlowDisk) {
    three.agent.wait_ready();
    let id = three.backend.enqueue(three.job(script)).expect("queued");
    eventually("it runs everywhere", || three.servers.iter().all(|server| server.path("home/starts").exists()));
    (id, SlowDisk::of(three.agent.pid()))
}

/// Waits until the script has ended on `count` servers, and the agent has had time to hear of it.
fn arrived(three: &Three, count: usize) {
    eventually("it has ended there", || ended(&three.place()).len() == count);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(ended(&three.place()).len(), count, "the only witness is gone before the end is on disk");
}

#[test]
fn ends_on_several_servers_that_had_arrived_before_the_kill_are_told_with_their_output() {
    let _machine = shared();
    let three = Three::start(&[]);
    let (id, disk) = held(&three, GATED);
    three.servers.iter().for_each(|server| std::fs::write(server.path("home/go"), "").expect("go"));
    arrived(&three, 3);
    three.agent.signal("KILL");
    drop(disk);
    let three = three.again(&[]);
    let row = finished(&three.backend, &id);
    let mut lines: Vec<&str> = stdout(&row).lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[alpha] out", "[beta] out", "[gamma] out"], "{}", stderr(&row));
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(7)), "{}", stderr(&row));
    for name in NAMES {
        assert!(stderr(&row).contains(&format!("[{name}] err\n")), "{}", stderr(&row));
    }
    eventually("no folder is left behind", || list(&three.place()).is_empty());
    three.stop();
}

#[test]
fn a_folder_on_one_of_several_servers_is_removed_by_the_next_agent() {
    let _machine = shared();
    let mut three = Three::start(&IMPATIENT);
    let alpha = three.user_of("alpha").to_owned();
    let (id, disk) = held(&three, &format!("[ $(id -un) = {alpha} ] || {{ touch ~/starts; exec sleep 10; }}\n{GATED}"));
    std::fs::write(three.servers[0].path("home/go"), "").expect("go");
    arrived(&three, 1);
    three.servers[0].stop();
    drop(disk);
    let page = three.agent.state().join("jobs").join(format!("{id}.job"));
    eventually("its end is on disk", || {
        std::fs::read_to_string(&page).is_ok_and(|text| text.contains("\"recorded\":true"))
    });
    three.agent.signal("KILL");
    three.agent.wait(LONG);
    three.servers[0].start_again();
    assert_eq!(ended(&three.place()).len(), 1);
    let three = three.again(&[]);
    let row = finished(&three.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), row.terminal_reports()), (Some("completed"), 1), "{}", stderr(&row));
    eventually("no folder is left behind", || list(&three.place()).is_empty());
    three.stop();
}

#[test]
fn a_script_that_ended_in_time_is_told_by_its_own_end_though_the_line_came_back_after_its_limit() {
    let _machine = shared();
    // With the first, the connection outlives the pulled cable, and TERM is written into it; with the second it does not.
    let short = [("ssh.connectionPool.connectionTimeout", "2s"), ("ssh.connectionPool.healthCheckInterval", "1s")];
    for settings in [&[][..], &short] {
        let rig = Rig::with(Sshd::start_in_netns(), settings);
        let mut limited = rig.job("BASH", "echo begun; sleep 2; exit 3");
        limited["execution"]["timeout"] = serde_json::json!(6);
        let id = rig.begin(limited);
        let network = rig.sshd.network.as_ref().expect("a network");
        network.cut();
        std::thread::sleep(Duration::from_secs(9));
        network.restore();
        let row = finished(&rig.backend, &id);
        assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(3)), "{}", rig.said(&row));
        assert_eq!(stdout(&row), "begun\n");
        rig.stop();
    }
}

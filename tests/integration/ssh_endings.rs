//! How a session on a server can end, and what may be said of the script then: the table in `docs/endings.md`, each row on
//! a real sshd, with dash, bash and busybox as `/bin/sh`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cronium_dev_backend::JobRow;
use serde_json::json;

use crate::harness::{eventually, finished, report, shared, stderr, stdout};
use crate::ssh_rig::{HOST, Rig, has_words};
use crate::sshd::{Options, Sshd, list};
use crate::sshd_faults::{Process, signal};

/// What `/bin/sh` may be.
pub const SHELLS: [&str; 3] = ["/usr/bin/dash", "/bin/bash", "/bin/busybox"];

/// Does the same on a server of each shell, side by side. `prepare` may write files of the login.
pub fn on_each_shell(settings: &[(&str, &str)], config: &[&str], bashrc: &str, act: impl Fn(&str, Rig) + Sync) {
    std::thread::scope(|scope| {
        for sh in SHELLS {
            let act = &act;
            scope.spawn(move || {
                let sshd = Sshd::start(&Options { sh: Some(sh), config, ..Options::default() });
                std::fs::write(sshd.path("home/.bashrc"), bashrc).expect("write");
                act(sh, Rig::with(sshd, settings));
            });
        }
    });
}

/// The folder of the only job.
fn folder(rig: &Rig) -> PathBuf {
    let all = rig.sshd.job_dirs();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

/// The user's processes that stand in a job's folder, which are the agent's own programs there.
fn ours(rig: &Rig, folder: &Path) -> Vec<Process> {
    let stands = |process: &Process| {
        let cwd = std::fs::read_link(format!("/proc/{}/cwd", process.pid)).unwrap_or_default();
        cwd.to_string_lossy().trim_end_matches(" (deleted)") == folder.to_string_lossy()
    };
    rig.sshd.user_processes().into_iter().filter(stands).collect()
}

/// Sends a signal to those whose command line holds one of `words`; there must be one.
fn hit(rig: &Rig, name: &str, words: &[&str]) {
    let all = ours(rig, &folder(rig));
    let meant = |process: &&Process| words.iter().any(|word| process.arguments.contains(word));
    let pids: Vec<u32> = all.iter().filter(meant).map(|process| process.pid).collect();
    assert!(!pids.is_empty(), "nothing of {words:?} in {all:?}");
    signal(name, &pids);
}

fn status(row: &JobRow) -> &str {
    report(row)["status"].as_str().unwrap_or_default()
}

/// It ended with 7, and all of its output is there once.
fn ended_with_seven(sh: &str, rig: &Rig, row: &JobRow) {
    assert_eq!((row.exit_code, stdout(row)), (Some(7), "begun\nend\n"), "{sh}: {}", rig.said(row));
    assert!(stderr(row).starts_with("last words\n"), "{sh}: {}", stderr(row));
}

const SLEEPS: &str = "echo begun; sleep 5; echo end; echo last words >&2; exit 7";

#[test]
fn a_silent_session_that_the_server_closes_is_no_end() {
    let _machine = shared();
    on_each_shell(&[], &["ChannelTimeout session:*=2s"], "", |sh, rig| {
        let id = rig.begin(rig.job("BASH", "echo begun; sleep 9; echo end; echo last words >&2; exit 7"));
        let folder = folder(&rig);
        std::thread::sleep(Duration::from_secs(4));
        assert!(folder.join("pid").exists(), "{sh}: the folder is gone under the running script");
        ended_with_seven(sh, &rig, &finished(&rig.backend, &id));
        rig.stop();
    });
}

#[test]
fn a_follower_that_somebody_ends_is_no_end() {
    let _machine = shared();
    for name in ["TERM", "KILL", "HUP"] {
        on_each_shell(&[], &[], "", |sh, rig| {
            let id = rig.begin(rig.job("BASH", SLEEPS));
            hit(&rig, name, &["sh -s"]);
            std::thread::sleep(Duration::from_millis(1500));
            hit(&rig, name, &["sh -s", "tail "]);
            ended_with_seven(sh, &rig, &finished(&rig.backend, &id));
            rig.stop();
        });
    }
}

#[test]
fn what_follows_may_be_ended_piece_by_piece_and_costs_nothing() {
    let _machine = shared();
    on_each_shell(&[], &[], "", |sh, rig| {
        let id = rig.begin(rig.job("BASH", SLEEPS));
        hit(&rig, "KILL", &["tail "]);
        ended_with_seven(sh, &rig, &finished(&rig.backend, &id));
        rig.stop();
    });
}

#[test]
fn a_supervisor_that_somebody_kills_is_no_end_and_the_true_one_is_called_not_recorded() {
    let _machine = shared();
    on_each_shell(&[], &[], "", |sh, rig| {
        let id = rig.begin(rig.job("BASH", SLEEPS));
        let folder = folder(&rig);
        hit(&rig, "KILL", &["supervise"]);
        std::thread::sleep(Duration::from_millis(2500));
        assert!(folder.join("pid").exists(), "{sh}: the folder is gone under the running script");
        assert_eq!(rig.backend.job(&id).expect("row").terminal_reports(), 0, "{sh}");
        let row = finished(&rig.backend, &id);
        assert_eq!((status(&row), stdout(&row)), ("failed", "begun\nend\n"), "{sh}: {}", rig.said(&row));
        has_words(&rig.said(&row), &["is over, but its end was not recorded", HOST]);
        rig.stop();
    });
}

#[test]
fn a_supervisor_and_a_follower_that_go_together_are_no_end() {
    let _machine = shared();
    on_each_shell(&[], &[], "", |sh, rig| {
        let id = rig.begin(rig.job("BASH", SLEEPS));
        // As `pkill sh` does.
        hit(&rig, "TERM", &["sh -s", "supervise"]);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(rig.backend.job(&id).expect("row").terminal_reports(), 0, "{sh}");
        let row = finished(&rig.backend, &id);
        assert_eq!((status(&row), stdout(&row)), ("failed", "begun\nend\n"), "{sh}: {}", rig.said(&row));
        has_words(&rig.said(&row), &["end was not recorded", HOST]);
        rig.stop();
    });
}

#[test]
fn a_child_of_the_logins_that_holds_the_session_open_holds_up_no_job() {
    let _machine = shared();
    on_each_shell(&[], &[], "sleep 300 &\n", |sh, rig| {
        let begun = Instant::now();
        for _ in 0..2 {
            let row = rig.bash("echo begun; sleep 1; echo end; echo last words >&2; exit 7");
            ended_with_seven(sh, &rig, &row);
        }
        assert!(begun.elapsed() < Duration::from_secs(25), "{sh}: {:?}", begun.elapsed());
        // The agent first: each session that it opens has such a child.
        let sshd = rig.leave();
        sshd.end_user_processes();
        assert_eq!(sshd.job_dirs(), Vec::<PathBuf>::new(), "{sh}");
    });
}

#[test]
fn nothing_of_ours_lives_on_beside_a_daemon_that_prints_for_ever() {
    let _machine = shared();
    on_each_shell(&[], &[], "", |sh, rig| {
        let daemon = "trap '' PIPE; while :; do echo noise; echo noise >&2; sleep 0.01; done";
        let row = rig.bash(&format!("echo begun; nohup setsid bash -c {daemon:?} & sleep 0.3; exit 0"));
        assert_eq!((row.exit_code, status(&row)), (Some(0), "completed"), "{sh}: {}", rig.said(&row));
        eventually("the folder is gone", || rig.sshd.job_dirs().is_empty());
        let left = || -> Vec<Process> {
            let all = rig.sshd.user_processes();
            all.into_iter().filter(|p| !p.arguments.contains("noise") && !p.arguments.contains("sleep 0.01")).collect()
        };
        eventually("our own programs are gone", || left().is_empty());
        // A `cat` of ours would keep the deleted file, and fill the disk with it.
        for process in rig.sshd.user_processes() {
            let open = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
            let targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
            let deleted: Vec<PathBuf> = targets.filter(|to| to.to_string_lossy().ends_with("(deleted)")).collect();
            let files: Vec<_> = deleted.iter().filter(|to| to.to_string_lossy().contains("/out")).collect();
            assert!(files.is_empty(), "{sh}: {process:?} holds {files:?}");
        }
        rig.sshd.end_user_processes();
        rig.stop();
    });
}

#[test]
fn a_login_whose_files_redirect_the_streams_is_told_and_no_script_is_sent() {
    let _machine = shared();
    let cases = ["exec 2>/dev/null\n", "exec >/dev/null\n", "exec 2>&1\n", "exec 1>&2\n", "exec >/dev/null 2>&1\n"];
    for bashrc in cases {
        let rig = Rig::start(&[("jobs.setupTimeout", "8s")]);
        std::fs::write(rig.sshd.path("home/.bashrc"), bashrc).expect("write");
        let row = rig.refused(rig.job("BASH", "touch \"$HOME/ran\""), &["could not be started", HOST]);
        if bashrc != cases[4] {
            has_words(&rig.said(&row), &[".bashrc", "stdout|stderr"]);
        }
        assert!(!rig.sshd.path("home/ran").exists(), "{bashrc}");
        rig.stop();
    }
}

#[test]
fn a_prompt_that_holds_our_word_changes_nothing() {
    let _machine = shared();
    on_each_shell(&[], &[], "printf 'cronium $ '; printf 'cronium $ ' >&2\n", |sh, rig| {
        ended_with_seven(sh, &rig, &rig.bash("echo begun; echo end; echo last words >&2; exit 7"));
        rig.stop();
    });
}

#[test]
fn an_end_before_the_limit_is_asked_for_once_more_though_its_follower_is_frozen() {
    let _machine = shared();
    on_each_shell(&[], &[], "", |sh, rig| {
        let queue = |script: &str| {
            let mut job = rig.job("BASH", script);
            job["execution"]["timeout"] = json!(3);
            rig.begin(job)
        };
        let in_time = queue("echo begun; sleep 1.5; echo end; echo last words >&2; exit 7");
        hit(&rig, "STOP", &["sh -s", "tail "]);
        ended_with_seven(sh, &rig, &finished(&rig.backend, &in_time));
        eventually("its folder is gone", || rig.sshd.job_dirs().is_empty());
        let too_late = queue("echo begun; sleep 1000");
        hit(&rig, "STOP", &["sh -s", "tail "]);
        let row = finished(&rig.backend, &too_late);
        assert_eq!((status(&row), row.exit_code), ("timeout", Some(-1)), "{sh}: {}", rig.said(&row));
        has_words(&rig.said(&row), &["SIGKILL", HOST]);
        rig.sshd.end_user_processes();
        rig.stop();
    });
}

#[test]
fn a_script_cannot_pose_as_a_setup_failure() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let row = rig.bash("echo 'cronium setup 00112233: it has no bash' >&2; exit 125");
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(125)));
    has_words(&rig.said(&row), &["ended with exit code 125"]);
    assert!(!rig.said(&row).contains("could not be started"), "{}", rig.said(&row));
    rig.stop();
}

#[test]
fn an_interpreter_that_cannot_be_run_is_a_setup_failure_and_no_exit_code() {
    let _machine = shared();
    // It may be entered, which makes it executable for a shell's test.
    on_each_shell(&[("ssh.execution.defaultShell", "/usr")], &[], "", |_, rig| {
        let row = rig.bash("echo ran");
        assert_eq!((status(&row), row.exit_code, stdout(&row)), ("failed", Some(125), ""), "{}", rig.said(&row));
        has_words(&rig.said(&row), &["could not be started", "/usr", HOST]);
        rig.stop();
    });
}

#[test]
fn a_server_without_its_folder_or_its_boot_is_told_as_it_is() {
    let _machine = shared();
    on_each_shell(&[("ssh.execution.reconnectTimeout", "20s")], &[], "", |sh, rig| {
        let id = rig.begin(rig.job("BASH", "echo begun; sleep 30"));
        std::fs::write(folder(&rig).join("boot"), "another\n").expect("write");
        rig.sshd.kill_sessions();
        let row = finished(&rig.backend, &id);
        has_words(&rig.said(&row), &["was restarted", "end is unknown"]);
        assert_eq!(status(&row), "failed", "{sh}");
        assert_eq!(list(&rig.sshd.temp_dir()).len(), 1, "{sh}: it stays for a person to look at");
        rig.sshd.end_user_processes();
        rig.leave();
    });
}

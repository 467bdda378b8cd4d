//! Jobs on a server: the three languages, what a script sees, its lines and its directory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cronium_dev_backend::{JobRow, Via, checksum, checksum_start};
use serde_json::json;

use crate::harness::{
    Folder, alone, binary, eventually, finish, finished, record, report, shared, stderr, stdout, unique,
};
use crate::ssh_rig::{HOST, Rig, has_words, walk};
use crate::sshd::{Options, Sshd, list};
use crate::sshd_faults::processes;

#[test]
fn three_languages_run_on_a_server_and_are_reported_once() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let jobs = [
        rig.job("BASH", "echo \"bash $BASH_VERSION\"\necho oops >&2\nexit 3"),
        rig.job("PYTHON", "import sys\nprint('python', sys.version_info[0])\nprint('warn', file=sys.stderr)\n"),
        rig.job("NODEJS", "console.log('node', process.version)"),
    ];
    let ids: Vec<String> = jobs.into_iter().map(|job| rig.queue(job)).collect();
    let rows: Vec<JobRow> = ids.iter().map(|id| finished(&rig.backend, id)).collect();
    assert!(stdout(&rows[0]).starts_with("bash 5."), "{:?}", rows[0]);
    assert!(stderr(&rows[0]).starts_with("oops\n"), "{}", stderr(&rows[0]));
    assert_eq!((report(&rows[0])["status"].as_str(), rows[0].exit_code), (Some("failed"), Some(3)));
    assert_eq!((stdout(&rows[1]), stderr(&rows[1])), ("python 3\n", "warn\n"));
    assert!(stdout(&rows[2]).starts_with("node v"));
    for row in &rows {
        let kinds: Vec<&str> = row.reports.iter().map(|report| report.kind).collect();
        assert_eq!(
            kinds,
            ["acknowledge", "execution-create", "acknowledge", "status", "execution-update", "complete"],
            "{row:?}"
        );
        let lines = rig.backend.lines(&row.id);
        let sequences: Vec<u64> = lines.iter().map(|line| line.sequence).collect();
        assert_eq!(sequences, (1..=lines.len() as u64).collect::<Vec<_>>());
        assert_eq!(lines.last().map(|line| line.stream), Some("system"));
        let record = record(&rig.backend, row);
        for name in ["setup", "execution", "cleanup"] {
            assert!(record[format!("{name}StartedAt")].is_string() && record[format!("{name}Duration")].is_u64());
        }
    }
    for row in &rows[1..] {
        assert_eq!((report(row)["status"].as_str(), row.exit_code), (Some("completed"), Some(0)));
    }
    rig.stop();
}

#[test]
fn values_and_names_survive_whatever_they_hold() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let value = "a'b\"c\\d $HOME `id` $(id) \n  two\n\tüñ€ 🦀 !! %s * ~ #end ";
    let script = "printf '%s|' \"$PLAIN\" \"$EMPTY\"; printenv MY-VAR; echo $CRONIUM_JOB_ID $CRONIUM_JOB_TYPE \
                  $CRONIUM_EXECUTION_MODE $CRONIUM_EXECUTION_ID";
    let mut job = rig.job("BASH", script);
    job["execution"]["environment"] =
        json!({ "PLAIN": value, "EMPTY": "", "MY-VAR": "odd name", "CRONIUM_JOB_ID": "forged" });
    let row = finish(&rig.backend, job);
    let want = format!("{value}||odd name\n{} ssh ssh {}\n", row.id, row.executions[0]);
    assert_eq!(stdout(&row), want, "{}", stderr(&row));
    for (language, script) in [
        ("PYTHON", "import os, sys; sys.stdout.buffer.write(os.environb[b'PLAIN'])"),
        ("NODEJS", "process.stdout.write(process.env.PLAIN)"),
    ] {
        let mut job = rig.job(language, script);
        job["execution"]["environment"] = json!({ "PLAIN": value });
        assert_eq!(stdout(&finish(&rig.backend, job)), value, "{language}");
    }
    rig.stop();
}

#[test]
fn the_working_directory_is_made_below_the_jobs_or_is_one_of_the_servers() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let at = |directory: &str| {
        let mut job = rig.job("BASH", "pwd; echo x > made && echo writable");
        job["execution"]["script"]["workingDirectory"] = json!(directory);
        finish(&rig.backend, job)
    };
    let temp_dir = rig.sshd.temp_dir().display().to_string();
    let row = at("a b/c'd");
    let (place, rest) = stdout(&row).split_once('\n').unwrap_or_else(|| panic!("{}", stderr(&row)));
    assert!(place.starts_with(&temp_dir) && place.ends_with("/a b/c'd"), "{place}");
    assert_eq!(rest, "writable\n");
    let home = rig.sshd.path("home").display().to_string();
    assert_eq!(stdout(&at(&home)), format!("{home}\nwritable\n"));
    let row = at("/no/such/place");
    assert_eq!(report(&row)["status"], "failed");
    has_words(&rig.said(&row), &["/no/such/place"]);
    rig.stop();
}

#[test]
fn a_script_of_five_megabytes_and_one_without_a_last_newline_run_whole() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let large = format!(
        "{}print('done', len(open(__file__).read()) > 5_000_000)\n",
        "# padding padding padding\n".repeat(200_000)
    );
    assert_eq!(stdout(&finish(&rig.backend, rig.job("PYTHON", &large))), "done True\n");
    let large = format!("{}echo done", ": padding padding padding\n".repeat(200_000));
    assert_eq!(stdout(&rig.bash(&large)), "done\n");
    rig.stop();
}

#[test]
fn a_script_reads_nothing_from_its_input() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    assert_eq!(stdout(&rig.bash("cat; read x || echo nothing; echo end")), "nothing\nend\n");
    assert_eq!(stdout(&finish(&rig.backend, rig.job("PYTHON", "import sys; print(repr(sys.stdin.read()))"))), "''\n");
    rig.stop();
}

#[test]
fn nobody_else_on_the_server_can_read_script_or_environment() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let (in_script, in_environment, in_output) = (unique("canary-s"), unique("canary-e"), unique("canary-o"));
    let mut job = rig.job("BASH", &format!("x={in_script}; echo '{in_output}'; sleep 3"));
    job["execution"]["environment"] = json!({ "SECRET": in_environment });
    let id = rig.begin(job);
    for process in processes() {
        // The test's own process is no server's.
        for canary in [&in_script, &in_environment, &in_output] {
            assert!(!process.arguments.contains(canary.as_str()), "{process:?}");
        }
    }
    let dirs = rig.sshd.job_dirs();
    assert_eq!(dirs.len(), 1, "{dirs:?}");
    let row = rig.backend.job(&id).expect("row");
    assert_eq!(dirs[0].file_name().and_then(|name| name.to_str()), Some(row.executions[0].as_str()));
    let mode = |path: &Path| path.symlink_metadata().expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&dirs[0]), 0o700);
    let inside = walk(&dirs[0]);
    assert!(!inside.is_empty(), "nothing in the job's directory while it runs");
    for path in inside.iter().filter(|path| !path.is_symlink()) {
        assert_eq!(mode(path) & 0o077, 0, "{} is open to others", path.display());
    }
    assert_eq!(finished(&rig.backend, &id).exit_code, Some(0));
    rig.stop();
}

#[test]
fn the_jobs_directory_is_removed_however_the_job_ends() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    // A script may make it hard.
    let stubborn = "mkdir -p a/b && echo x > a/b/c && chmod 500 a/b a && echo begun";
    for (end, code) in [("exit 0", Some(0)), ("exit 9", Some(9)), ("kill -KILL $$", Some(137))] {
        assert_eq!(rig.bash(&format!("{stubborn}; {end}")).exit_code, code);
        eventually(&format!("the folder is gone after {end}"), || rig.sshd.job_dirs().is_empty());
    }
    let mut slow = rig.job("BASH", &format!("{stubborn}; sleep 60"));
    slow["execution"]["timeout"] = json!(1);
    let row = finish(&rig.backend, slow);
    assert_eq!((report(&row)["status"].as_str(), row.exit_code, stdout(&row)), (Some("timeout"), Some(-1), "begun\n"));
    eventually("the folder is gone after a timeout", || rig.sshd.job_dirs().is_empty());
    let id = rig.begin(rig.job("BASH", &format!("{stubborn}; sleep 60")));
    assert!(rig.backend.cancel(&id, Via::WebSocket));
    let row = finished(&rig.backend, &id);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("cancelled"), "begun\n"));
    eventually("the folder is gone after a cancel", || rig.sshd.job_dirs().is_empty());
    rig.stop();
}

#[test]
fn the_jobs_directory_is_kept_when_asked_for_and_still_closed() {
    let _machine = shared();
    let rig = Rig::start(&[("ssh.execution.cleanupAfter", "false")]);
    for code in [0, 4] {
        assert_eq!(rig.bash(&format!("echo kept; exit {code}")).exit_code, Some(code));
    }
    let dirs = rig.sshd.job_dirs();
    // The report does not wait for what becomes of the folder: its pipes go.
    eventually("the pipes are gone", || dirs.iter().all(|dir| !dir.join("done").exists()));
    assert_eq!(dirs.len(), 2, "{dirs:?}");
    for dir in dirs {
        assert_eq!(dir.metadata().expect("metadata").permissions().mode() & 0o777, 0o700);
        assert!(
            walk(&dir).iter().any(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("echo kept")))
        );
    }
    rig.leave();
}

#[test]
fn a_script_may_open_its_own_streams_by_name() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    // With files in the place of pipes, a second opening must neither fail nor overwrite what is there.
    let row = rig.bash(
        "echo e1 >&2; echo e2 > /dev/stderr; echo e3 >> /dev/stderr; echo e4 > /dev/fd/2; echo e5 >&2
         echo o1; echo o2 > /dev/stdout; echo o3 >> /dev/stdout; echo o4 > /proc/self/fd/1; echo o5",
    );
    assert_eq!((stdout(&row), row.exit_code), ("o1\no2\no3\no4\no5\n", Some(0)), "{}", stderr(&row));
    assert_eq!(stderr(&row), "e1\ne2\ne3\ne4\ne5\n");
    rig.stop();
}

#[test]
fn odd_bytes_and_odd_line_ends_are_told_right() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let row = rig.bash("printf 'a\\r\\n\\n\\xff\\xfeb\\nn\\000l\\nü\\rx\\nend'; printf 'e1\\ne2' >&2");
    assert_eq!(stdout(&row), "a\r\n\n\u{fffd}\u{fffd}b\nn\u{fffd}l\nü\rx\nend");
    assert_eq!(stderr(&row), "e1\ne2");
    assert_eq!(rig.live(&row.id, "stdout"), "a\n\n\u{fffd}\u{fffd}b\nn\u{fffd}l\nü\rx\nend\n");
    rig.stop();
}

/// A script that prints `count` numbered lines of 80 bytes, line feed included.
pub fn numbered(count: u64) -> String {
    format!("exec perl -e 'printf(\"%079d\\n\", $_) for 1..{count}'")
}

/// Asserts that each of the numbered lines came live, once, in order and byte-exact, and the verdict after them.
pub fn all_numbered(rig: &Rig, row: &JobRow, count: u64) {
    assert_eq!(row.exit_code, Some(0), "{}", stderr(row));
    let dropped = record(&rig.backend, row)["executionMetadata"]["liveLinesDropped"].clone();
    assert_eq!(dropped, json!("0"), "lines were left out of the live stream");
    let sums = rig.backend.line_sums(&row.id).expect("lines");
    let want = (1..=count).fold(checksum_start(), |sum, n| checksum(sum, format!("{n:079}").as_bytes()));
    assert_eq!(sums.counts[0], count, "lines of stdout");
    assert_eq!((sums.gaps(), sums.duplicates, sums.out_of_order), (0, 0, 0));
    assert_eq!(sums.checksums[0], want, "the bytes of the lines");
}

#[test]
fn two_hundred_thousand_lines_arrive_live_in_order_and_byte_exact() {
    let _machine = alone();
    let rig = Rig::start(&[]);
    let begun = Instant::now();
    let row = rig.bash(&numbered(200_000));
    let (took, peak) = (begun.elapsed(), rig.agent.memory_kb("VmHWM"));
    eprintln!("200,000 lines of 80 bytes over SSH in {took:.1?}; agent RSS at its highest {peak} kB");
    all_numbered(&rig, &row, 200_000);
    assert!(peak < 40 * 1024, "{peak} kB");
    rig.stop();
}

#[test]
fn a_line_of_ten_megabytes_is_cut_live_and_never_held_whole() {
    let _machine = alone();
    let rig = Rig::start(&[]);
    let row = rig.bash("perl -e 'print \"x\" x 10_000_000, \"\\nlast\"'");
    let lines = rig.backend.lines(&row.id);
    assert_eq!(lines.len(), 3, "a cut line, a last line without an end, the verdict");
    assert_eq!(lines[0].text, format!("{} […9934464 bytes of this line were left out]", "x".repeat(65_536)));
    assert_eq!(lines[1].text, "last");
    assert!((4_000_000..4_200_000).contains(&stdout(&row).len()), "{}", stdout(&row).len());
    let peak = rig.agent.memory_kb("VmHWM");
    assert!(peak < 40 * 1024, "{peak} kB");
    rig.stop();
}

#[test]
fn lines_arrive_while_the_script_runs() {
    let _machine = alone();
    let rig = Rig::start(&[]);
    let script =
        "import time\nfor _ in range(100):\n    print(f'T{time.time_ns()}', flush=True)\n    time.sleep(0.02)\n";
    let row = finish(&rig.backend, rig.job("PYTHON", script));
    let figures = rig.backend.line_sums(&row.id).expect("lines").latency();
    let of = |name: &str| Duration::from_micros(figures[name].as_u64().expect("microseconds"));
    eprintln!("from print on a server to receipt: median {:?}, 99th percentile {:?}", of("p50"), of("p99"));
    assert_eq!(figures["samples"], 100);
    assert!(of("p50") < Duration::from_millis(500), "{figures}");
    rig.stop();
}

#[test]
fn exit_codes_are_the_scripts_own() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    for (end, code) in
        [("exit 1", 1), ("exit 42", 42), ("exit 100", 100), ("exit 255", 255), ("no-such-command", 127), ("false", 1)]
    {
        let row = rig.bash(&format!("echo ran\n{end}"));
        assert_eq!((row.exit_code, stdout(&row)), (Some(code), "ran\n"), "{end}");
        assert_eq!(report(&row)["status"], "failed", "{end}");
        assert_eq!(record(&rig.backend, &row)["executionMetadata"]["reason"], "script", "{end}");
    }
    for (name, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139)] {
        let row = rig.bash(&format!("echo ran; kill -{name} $$"));
        assert_eq!((row.exit_code, stdout(&row)), (Some(code), "ran\n"), "{name}");
        assert_eq!(report(&row)["status"], "failed", "{name}");
    }
    assert_eq!(finish(&rig.backend, rig.job("PYTHON", "exit(7)")).exit_code, Some(7));
    assert_eq!(finish(&rig.backend, rig.job("NODEJS", "process.exit(8)")).exit_code, Some(8));
    rig.stop();
}

/// What a server without Python and Node.js still has.
const FEW: &[&str] = &[
    "sh", "bash", "dash", "cat", "chmod", "cp", "cut", "date", "dd", "echo", "env", "expr", "false", "find", "grep",
    "head", "id", "kill", "ln", "ls", "mkdir", "mkfifo", "mktemp", "mv", "nohup", "od", "printf", "ps", "pwd", "rm",
    "rmdir", "sed", "seq", "setsid", "sleep", "sort", "stat", "stty", "tail", "tee", "test", "touch", "tr", "true",
    "tty", "umask", "uname", "wc", "awk", "basename", "dirname", "readlink", "sync", "df", "base64",
];

#[test]
fn a_missing_interpreter_is_told_with_the_hosts_name() {
    let _machine = shared();
    let there: Vec<&str> = FEW
        .iter()
        .copied()
        .filter(|name| Path::new("/usr/bin").join(name).exists() || Path::new("/bin").join(name).exists())
        .collect();
    let sshd = Sshd::start(&Options { programs: Some(&there), ..Options::default() });
    let rig = Rig::with(sshd, &[]);
    for (language, program, script) in [("PYTHON", "python3", "print(1)"), ("NODEJS", "node", "console.log(1)")] {
        let row = finish(&rig.backend, rig.job(language, script));
        assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), ""));
        has_words(&rig.said(&row), &[program, HOST, "not found|not installed|no such|missing"]);
    }
    assert_eq!(stdout(&rig.bash("echo fine")), "fine\n");
    rig.stop();
}

#[test]
fn the_configured_shell_is_used_and_a_missing_one_is_named() {
    let _machine = shared();
    let rig = Rig::start(&[("ssh.execution.defaultShell", "/bin/dash")]);
    assert_eq!(stdout(&rig.bash("echo \"<$BASH_VERSION>\"")), "<>\n");
    rig.stop();
    let rig = Rig::start(&[("ssh.execution.defaultShell", "/opt/none/bash")]);
    let row = rig.bash("echo ran");
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), ""));
    has_words(&rig.said(&row), &["/opt/none/bash", HOST]);
    rig.stop();
}

#[test]
fn a_full_temporary_directory_is_told_with_the_hosts_name() {
    let _machine = shared();
    let mut sshd = Sshd::with_config(&[]);
    let place = sshd.mount_small_disk();
    let rig = Rig::with(sshd, &[("ssh.execution.tempDir", place.join("jobs").to_str().expect("text"))]);
    let disk = rig.sshd.disk.as_ref().expect("a disk");
    disk.fill(0);
    let row = rig.bash("echo ran");
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), ""));
    has_words(&rig.said(&row), &["space", HOST]);
    // Room for the directory, none for the script.
    disk.empty();
    disk.fill(40_000);
    let row = rig.bash(&format!("{}echo ran", ": padding\n".repeat(20_000)));
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), ""));
    has_words(&rig.said(&row), &["space", HOST]);
    eventually("half a job is gone", || list(&place.join("jobs")).is_empty());
    disk.empty();
    assert_eq!(stdout(&rig.bash("echo fine")), "fine\n");
    rig.stop();
}

#[test]
fn output_that_fills_the_servers_disk_is_never_lost_in_silence() {
    let _machine = shared();
    let mut sshd = Sshd::with_config(&[]);
    let place = sshd.mount_small_disk();
    let rig = Rig::with(sshd, &[("ssh.execution.tempDir", place.join("jobs").to_str().expect("text"))]);
    let row = rig.bash("for i in $(seq 1 20000); do echo \"a line of some length, number $i\" || exit 5; done");
    let whole: String = (1..=20_000).map(|n| format!("a line of some length, number {n}\n")).collect();
    let got = stdout(&row);
    if report(&row)["status"] == "completed" {
        assert!(got == whole, "a success with lines missing: {} of {} bytes", got.len(), whole.len());
    } else {
        assert!(!got.is_empty() && whole.starts_with(got), "lines are missing in the middle");
        has_words(&rig.said(&row), &["space", HOST]);
    }
    rig.stop();
}

#[test]
fn a_terminal_is_there_when_asked_for_and_only_then() {
    let _machine = shared();
    let ask = "test -t 1 && echo terminal || echo none; exit 6";
    let rig = Rig::start(&[("ssh.execution.ptyMode", "true")]);
    let row = rig.bash(ask);
    assert_eq!((stdout(&row).trim_end(), row.exit_code), ("terminal", Some(6)), "{}", stderr(&row));
    rig.stop();
    let rig = Rig::start(&[]);
    let row = rig.bash(ask);
    assert_eq!((stdout(&row), row.exit_code), ("none\n", Some(6)), "{}", stderr(&row));
    rig.stop();
}

#[test]
fn a_login_that_talks_and_a_banner_change_nothing() {
    let _machine = shared();
    let sshd = Sshd::with_config(&["Banner /etc/passwd"]);
    std::fs::write(sshd.path("home/.bashrc"), "echo welcome; echo 'mind the gap' >&2\n").expect("write");
    let rig = Rig::with(sshd, &[]);
    for _ in 0..2 {
        let row = rig.bash("echo only this; echo and that >&2; exit 2");
        assert_eq!((stdout(&row), row.exit_code), ("only this\n", Some(2)));
        assert!(stderr(&row).starts_with("and that\n") && !stderr(&row).contains("gap"), "{}", stderr(&row));
    }
    rig.stop();
}

#[test]
fn the_login_shell_may_be_another_and_one_that_lets_nobody_in_is_told() {
    let _machine = shared();
    let rig = Rig::with(Sshd::start(&Options { shell: "/bin/dash", ..Options::default() }), &[]);
    assert!(stdout(&rig.bash("echo \"$BASH_VERSION\"")).starts_with("5."));
    rig.stop();
    let rig = Rig::with(Sshd::start(&Options { shell: "/usr/sbin/nologin", ..Options::default() }), &[]);
    let row = rig.bash("echo ran");
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("failed"), ""));
    has_words(&rig.said(&row), &[HOST, "not available"]);
    rig.stop();
}

#[test]
fn a_process_left_in_the_background_holds_nothing_up() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let begun = Instant::now();
    let row = rig.bash("sleep 300 & echo done");
    assert_eq!((stdout(&row), row.exit_code), ("done\n", Some(0)));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    rig.sshd.end_user_processes();
    rig.stop();
}

#[test]
fn two_users_of_one_server_share_the_default_place_and_see_nothing_of_each_other() {
    let _machine = shared();
    let place = Folder::new();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o1777)).expect("mode");
    let shared_dir = place.path().join("cronium-{uid}");
    let setting = [("ssh.execution.tempDir", shared_dir.to_str().expect("text"))];
    let rigs = [Rig::start(&setting), Rig::start(&setting)];
    let script = "echo begun; sleep 2; cd ../../..; ls -d cronium-* | wc -l; ls cronium-*/* 2>/dev/null | grep -c exec-; sleep 1";
    let ids = rigs.each_ref().map(|rig| rig.begin(rig.job("BASH", script)));
    for (rig, id) in rigs.iter().zip(&ids) {
        let row = finished(&rig.backend, id);
        assert_eq!((stdout(&row), row.exit_code), ("begun\n2\n0\n", Some(0)), "{}", rig.said(&row));
    }
    for rig in rigs {
        rig.stop();
    }
}

#[test]
fn exec_runs_a_local_script_on_a_server() {
    let _machine = shared();
    let sshd = Sshd::with_config(&[]);
    let known = sshd.path("known_hosts");
    std::fs::write(&known, sshd.known_hosts()).expect("write");
    let script = sshd.path("a.sh");
    std::fs::write(&script, "id -un; echo \"$A\"; echo e >&2; exit 3").expect("write");
    let run = |more: &[&str]| {
        let mut command = binary();
        command.args(["exec", "--server", &format!("{}@{}:{}", sshd.user, sshd.host, sshd.port), "--identity"]);
        command.arg(&sshd.key.path).args(more);
        command.arg("--set").arg(format!("ssh.security.knownHostsFile={}", known.display()));
        command.arg("--set").arg(format!("ssh.execution.tempDir={}", sshd.temp_dir().display()));
        command.output().expect("exec")
    };
    let output = run(&["-e", "A=x y", script.to_str().expect("text")]);
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(out, format!("{}\nx y\n", sshd.user), "{error}");
    assert_eq!(output.status.code(), Some(3));
    assert!(error.lines().any(|line| line == "e"), "{error}");
    assert_eq!(sshd.job_dirs().len(), 0);
    // An encrypted key is opened by the variable, and by nothing else.
    let locked = sshd.client_key(&["-t", "ed25519"], "open sesame");
    for (passphrase, code) in [("open sesame", Some(3)), ("wrong", Some(125))] {
        let mut command = binary();
        command.args(["exec", "--server", &format!("{}@{}:{}", sshd.user, sshd.host, sshd.port), "--identity"]);
        command.arg(&locked.path).arg(&script).env("CRONIUM_EXEC_PASSPHRASE", passphrase);
        command.arg("--set").arg(format!("ssh.security.knownHostsFile={}", known.display()));
        command.arg("--set").arg(format!("ssh.execution.tempDir={}", sshd.temp_dir().display()));
        let output = command.output().expect("exec");
        assert_eq!(output.status.code(), code, "{}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::write(&known, "").expect("write");
    let output = run(&[script.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(125));
    has_words(&String::from_utf8_lossy(&output.stderr), &[&sshd.known_hosts_line("ed25519")]);
}

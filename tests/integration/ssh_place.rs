//! The place of the jobs' folders on a server: nobody may put another folder there, and another user of the server tries.

use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cronium_agent::parts::{Language, Script, Secret, place, remote};
use serde_json::Value;

use crate::harness::{Folder, eventually, finished, report, shared, stdout};
use crate::ssh_rig::{HOST, Rig, has_words, server_job};
use crate::sshd::{Sshd, list};

/// The number of a user who has no part in any job.
const STRANGER: u32 = 65534;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
}

fn make(path: &Path, owner: u32, bits: u32) {
    std::fs::create_dir(path).expect("a folder");
    chown(path, Some(owner), None).expect("chown");
    mode(path, bits);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn places_that_others_can_change_are_refused_with_owner_mode_and_cure() {
    let _machine = shared();
    let folder = Folder::new();
    let root = folder.path();
    mode(root, 0o755);
    // The path of the place, and words that the verdict must have.
    let mut cases: Vec<(PathBuf, Vec<String>)> = Vec::new();
    let foreign = root.join("foreign");
    make(&foreign, STRANGER, 0o777);
    cases.push((foreign.clone(), vec![format!("belongs to user {STRANGER}"), "drwxrwxrwx".to_owned()]));
    cases.push((foreign.join("below"), vec![text(&foreign).to_owned()]));
    let sticky = root.join("sticky");
    make(&sticky, STRANGER, 0o1777);
    cases.push((sticky.join("jobs"), vec![text(&sticky).to_owned(), "drwxrwxrwt".to_owned()]));
    let open = root.join("open");
    make(&open, 0, 0o777);
    cases.push((open.join("jobs"), vec!["others may write".to_owned(), "drwxrwxrwx".to_owned()]));
    let group = root.join("group");
    make(&group, 0, 0o775);
    cases.push((group.join("jobs"), vec!["others may write".to_owned(), "drwxrwxr-x".to_owned()]));
    // A stranger's link in a sticky folder of root's, to a folder that would do.
    let shared_place = root.join("shared");
    make(&shared_place, 0, 0o1777);
    let good = root.join("good");
    make(&good, 0, 0o755);
    let link = shared_place.join("link");
    symlink(&good, &link).expect("a link");
    std::os::unix::fs::lchown(&link, Some(STRANGER), None).expect("lchown");
    cases.push((link.join("jobs"), vec![text(&link).to_owned(), format!("user {STRANGER}")]));
    // Root's link to a stranger's folder.
    let away = root.join("away");
    symlink(&foreign, &away).expect("a link");
    cases.push((away, vec![text(&foreign).to_owned()]));
    for (place, words) in cases {
        let rig = Rig::start(&[("ssh.execution.tempDir", text(&place))]);
        let row = rig.refused(rig.job("BASH", "touch \"$HOME/ran\""), &["tempDir", HOST]);
        for word in words {
            assert!(rig.said(&row).contains(&word), "{}: no {word} in {}", place.display(), rig.said(&row));
        }
        has_words(&rig.said(&row), &["0755|another folder"]);
        assert!(!rig.sshd.path("home/ran").exists(), "{}: it ran", place.display());
        rig.stop();
    }
}

#[test]
fn the_default_place_is_the_logins_own_and_closed() {
    let _machine = shared();
    let rigs = [(); 2].map(|()| Rig::start(&[("ssh.execution.tempDir", "/tmp/cronium-{uid}")]));
    let script = "cd ..; pwd -P; stat -c %a .. ; sleep 1";
    let ids = rigs.each_ref().map(|rig| rig.begin(rig.job("BASH", script)));
    for (rig, id) in rigs.iter().zip(&ids) {
        let row = finished(&rig.backend, id);
        let place = format!("/tmp/cronium-{}/", rig.sshd.uid);
        assert!(stdout(&row).starts_with(&place) && stdout(&row).ends_with("\n700\n"), "{}", rig.said(&row));
        let record = rig.backend.job_json(&row.id).expect("the job");
        let directory = &record["executions"][0]["row"]["executionMetadata"]["remoteDirectory"];
        assert!(directory.as_str().is_some_and(|text| text.starts_with(&place)), "{directory}");
    }
    for rig in rigs {
        let place = PathBuf::from(format!("/tmp/cronium-{}", rig.sshd.uid));
        eventually("the folders are gone", || list(&place).is_empty());
        rig.stop();
        std::fs::remove_dir(place).expect("the empty place");
    }
}

#[test]
fn a_place_that_turned_unsafe_under_a_job_is_not_entered_again() {
    let _machine = shared();
    let rig = Rig::start(&[]);
    let id = rig.begin(rig.job("BASH", "echo begun; sleep 3; exit 7"));
    let place = rig.sshd.temp_dir();
    let folders = list(&place);
    mode(&place, 0o777);
    rig.sshd.kill_sessions();
    let row = finished(&rig.backend, &id);
    assert_eq!(report(&row)["status"], "failed");
    has_words(&rig.said(&row), &["end is unknown", "others may write", HOST]);
    assert_eq!(list(&place), folders, "it stays for a person to look at");
    rig.sshd.end_user_processes();
    rig.leave();
}

/// Jobs that each race runs; thousands are run by the programs alone, in `src/executors/ssh/remote_tests.rs`.
const ROUNDS: usize = 100;

/// A user who swaps whatever appears in a place, woken by the kernel at each change.
struct Attacker(Child);

impl Attacker {
    /// Watches these folders as `user`, and puts folders with scripts of their own in the place of new ones.
    fn start(user: u32, folders: &[&Path], marks: &Path) -> Self {
        let code = r#"
import ctypes, os, select, sys, time
user, marks, folders = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
os.setgroups([]); os.setgid(user); os.setuid(user)
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(os.O_NONBLOCK)
script = "echo HIJACKED $(id -u) $SECRET >>%s/hijacked\n" % marks
def attack(path, n):
    try:
        if os.lstat(path).st_uid == user: return
    except OSError: pass
    try: os.rename(path, "%s.old%d" % (path, n))
    except OSError: pass
    try:
        os.mkdir(path); os.chmod(path, 0o777)
        for file in ("script.sh", "run", "supervise"):
            with open(path + "/" + file, "w") as f: f.write(script)
        os.mkdir(path + "/work"); os.chmod(path + "/work", 0o777)
    except OSError: pass
for folder in folders: libc.inotify_add_watch(watch, folder.encode(), 0x100 | 0x40 | 0x80 | 0x200)
poll = select.poll(); poll.register(watch, select.POLLIN)
sys.stdout.write("ready\n"); sys.stdout.flush()
end = time.monotonic() + 300
n = 0
while time.monotonic() < end and os.getppid() != 1:
    if poll.poll(200): os.read(watch, 65536)
    for folder in folders:
        try: names = os.listdir(folder)
        except OSError: continue
        for name in names:
            n += 1
            if name.startswith(("exec-", "cronium-")) and ".old" not in name: attack(folder + "/" + name, n)
"#;
        let mut command = Command::new("python3");
        command.args(["-c", code, &user.to_string(), text(marks)]).args(folders);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("python3");
        let mut line = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().expect("stdout"), &mut line).expect("it is ready");
        Self(child)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Folders for what an attacker leaves, and for the places that are fought for.
fn field() -> (Folder, Folder) {
    let (marks, folder) = (Folder::new(), Folder::new());
    mode(marks.path(), 0o777);
    mode(folder.path(), 0o755);
    (marks, folder)
}

/// Fails if a script of an attacker's ran.
fn no_mark(marks: &Path) {
    let hijacked = std::fs::read_to_string(marks.join("hijacked")).unwrap_or_default();
    assert_eq!(hijacked, "", "a script of the attacker's ran");
}

/// Runs jobs against an attacker; each either runs its own script or is refused, and nothing else ever runs.
fn race(rig: &Rig, details: &Value, place: &Path, marks: &Path, rounds: usize) -> (usize, usize) {
    let (mut ran, mut refused) = (0, 0);
    for batch in 0..rounds.div_ceil(20) {
        let ids: Vec<String> = (0..20)
            .map(|n| {
                let mut job = server_job(details, "BASH", &format!("echo mine {batch} {n}"));
                job["execution"]["environment"] = serde_json::json!({ "SECRET": "s3cr3t" });
                rig.queue(job)
            })
            .collect();
        for (n, id) in ids.iter().enumerate() {
            let row = finished(&rig.backend, id);
            match report(&row)["status"].as_str() {
                Some("completed") => {
                    assert_eq!(stdout(&row), format!("mine {batch} {n}\n"), "{}", rig.said(&row));
                    ran += 1;
                }
                _ => {
                    assert_eq!(stdout(&row), "", "{}", rig.said(&row));
                    refused += 1;
                }
            }
        }
        no_mark(marks);
        // The next batch finds no place, so that its making is raced for too.
        let _ = std::fs::remove_dir_all(place);
    }
    (ran, refused)
}

#[test]
fn another_user_who_races_for_the_place_of_a_login_gains_nothing() {
    let _machine = shared();
    let (marks, folder) = field();
    let sticky = folder.path().join("sticky");
    make(&sticky, 0, 0o1777);
    let rig = Rig::start(&[
        ("jobs.maxConcurrent", "4"),
        ("ssh.execution.tempDir", &format!("{}/cronium-{{uid}}", sticky.display())),
    ]);
    let place = sticky.join(format!("cronium-{}", rig.sshd.uid));
    let attacker = Attacker::start(STRANGER, &[&sticky], marks.path());
    let details = crate::ssh_rig::details(&rig.sshd, crate::ssh_rig::NAME);
    let (ran, refused) = race(&rig, &details, &place, marks.path(), ROUNDS);
    assert_eq!(ran + refused, ROUNDS);
    drop(attacker);
    rig.stop();
}

#[test]
fn another_user_who_owns_a_sticky_place_or_races_in_roots_own_gains_nothing() {
    let _machine = shared();
    let (marks, folder) = field();
    // As `/tmp`: anybody may make entries in it, and nobody may change those of others.
    let sticky = folder.path().join("sticky");
    make(&sticky, 0, 0o1777);
    let sshd = Sshd::with_config(&[]);
    let rig = Rig::with(sshd, &[("jobs.maxConcurrent", "4"), ("ssh.execution.tempDir", text(&sticky))]);
    let attacker = Attacker::start(STRANGER, &[&sticky], marks.path());
    let details = crate::ssh_rig::details(&rig.sshd, crate::ssh_rig::NAME);
    let none = folder.path().join("none");
    let (ran, _) = race(&rig, &details, &none, marks.path(), ROUNDS);
    assert!(ran > 0, "nothing ran at all");
    drop(attacker);
    rig.stop();
}

/// Runs the programs that start a script, as a server's shell does, for `rounds` jobs of one login.
fn starts(login: u32, place: &Path, rounds: usize, worker: usize) -> (usize, usize) {
    let (mut ran, mut refused) = (0, 0);
    let base = place.join(format!("cronium-{login}"));
    for round in 0..rounds {
        let name = format!("exec-{worker}-{round}");
        let place = place::Place {
            temp_dir: format!("{}/cronium-{{uid}}", place.display()),
            name: name.clone(),
            shell: "/bin/bash".to_owned(),
            pty: false,
        };
        let content = format!("echo mine {name}");
        let script = Script { language: Language::Bash, content, working_directory: String::new() };
        let variables = [("SECRET".to_owned(), Secret::new("s3cr3t"))];
        let start = remote::start(&place, &name, &script, (&variables, None), "00ff").expect("a program");
        let program = [place::begin(&place, "00ff"), start].concat();
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={login}"), "--clear-groups", "/bin/sh", "-s"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("setpriv");
        let mut stdin = child.stdin.take().expect("stdin");
        // A program that refuses does not read to the end.
        let _ = std::io::Write::write_all(&mut stdin, &program);
        let output = child.wait_with_output().expect("an end");
        drop(stdin);
        let out = String::from_utf8_lossy(&output.stdout);
        if let Some((_, rest)) = out.split_once("cronium follow 00ff 1\n") {
            // A short script may be over before anything was followed: its output is in the file then.
            let mine = format!("mine {name}\n");
            let kept = std::fs::read_to_string(base.join(&name).join("out")).unwrap_or_default();
            assert!([rest, kept.as_str()].contains(&mine.as_str()), "it ran something else: {out:?} {kept:?}");
            ran += 1;
        } else {
            assert!(out.contains("cronium setup 00ff: "), "neither ran nor refused: {out}");
            refused += 1;
        }
        if round % 3 == 0 {
            // The next job finds no place, so that its making is raced for too.
            let _ = std::fs::remove_dir_all(&base);
        }
    }
    (ran, refused)
}

#[test]
fn thousands_of_starts_beside_an_attacker_run_their_own_script_or_none() {
    let _machine = shared();
    let (marks, folder) = field();
    for login in [0, 54321] {
        let places = [0, 1].map(|worker| {
            let sticky = folder.path().join(format!("sticky-{login}-{worker}"));
            make(&sticky, 0, 0o1777);
            sticky
        });
        let all = [&places[0], &places[1]];
        let attacker = Attacker::start(STRANGER, &all.map(PathBuf::as_path), marks.path());
        let counts: Vec<(usize, usize)> = std::thread::scope(|scope| {
            let start = |worker: usize| scope.spawn(move || starts(login, all[worker].as_path(), 500, worker));
            [start(0), start(1)].into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        drop(attacker);
        no_mark(marks.path());
        let ran: usize = counts.iter().map(|(ran, _)| ran).sum();
        eprintln!("login {login}: {ran} of 1000 starts ran, the others were refused");
        assert!(ran > 0, "nothing ran at all");
    }
}

//! `state.dir`: whose it may be, and where. The tests run as root, and the others are real users.

use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use crate::harness::{Agent, Folder, LONG, binary, deployed, eventually, finish, job, require_engine, shared};

/// A user of no account.
const SOMEBODY: u32 = 61_234;

/// A folder of this owner with this mode.
fn folder(parent: &Path, name: &str, owner: u32, mode: u32) -> PathBuf {
    let path = parent.join(name);
    std::fs::create_dir(&path).expect("a folder");
    chown(&path, Some(owner), Some(owner)).expect("root may");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    path
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
}

/// An agent that must not start with this folder; what it says.
fn refused(dir: &Path) -> String {
    let mut command = binary();
    command.arg("run").env("CRONIUM_API_TOKEN", "t");
    for (key, value) in [("api.endpoint", "http://127.0.0.1:9"), ("monitoring.enabled", "false")] {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command.arg("--set").arg(format!("state.dir={}", dir.display()));
    let Output { status, stdout, stderr } = command.output().expect("the agent");
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

#[test]
fn a_folder_that_others_can_change_or_replace_is_refused_and_left_as_it_is() {
    let _machine = shared();
    let place = Folder::new();
    let theirs = folder(place.path(), "theirs", SOMEBODY, 0o755);
    let said = refused(&theirs);
    for word in ["state.dir", &theirs.display().to_string(), "user 61234", "mode 755", "chown"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!((mode(&theirs), std::fs::read_dir(&theirs).expect("list").count()), (0o755, 0));
    // Below a folder of theirs, and below one in which all or a group may rename.
    refused(&theirs.join("state"));
    assert!(!theirs.join("state").exists());
    let open = folder(place.path(), "open", 0, 0o777);
    let said = refused(&open.join("state"));
    assert!(said.contains("others may rename in") && said.contains("mode 777"), "{said}");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o775)).expect("a mode");
    chown(&open, None, Some(SOMEBODY)).expect("root may");
    refused(&open.join("state"));
    // A link that they planted in a sticky folder, to a folder of root's.
    let sticky = folder(place.path(), "sticky", 0, 0o1777);
    let target = folder(place.path(), "target", 0, 0o755);
    symlink(&target, sticky.join("state")).expect("a link");
    lchown(sticky.join("state"), Some(SOMEBODY), Some(SOMEBODY)).expect("root may");
    let said = refused(&sticky.join("state"));
    assert!(said.contains("a link that user 61234 made"), "{said}");
    assert_eq!((mode(&target), std::fs::read_dir(&target).expect("list").count()), (0o755, 0));
    // A lock that they have put there before the folder was made private.
    let ours = folder(place.path(), "ours", 0, 0o700);
    let secret = place.path().join("secret");
    std::fs::write(&secret, "kept").expect("a file");
    symlink(&secret, ours.join("lock")).expect("a link");
    refused(&ours);
    assert_eq!(std::fs::read_to_string(&secret).expect("read"), "kept");
}

#[test]
fn a_folder_of_ones_own_is_made_private_and_found_through_ones_own_links() {
    let _machine = shared();
    let (place, backend) = (Folder::new(), deployed());
    let real = folder(place.path(), "real", 0, 0o755);
    let link = place.path().join("link");
    symlink("real", &link).expect("a link");
    // What stands in the folder itself: the agent's id, its key for receipts, the key of helpers' sockets.
    let own = [("orchestrator.id", "auto"), ("security.receipts", "true")];
    let agent = Agent::start(&backend, &[("state.dir", link.to_str().expect("text")), own[0], own[1]]);
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    assert_eq!((mode(&real), mode(&real.join("jobs"))), (0o700, 0o700));
    assert!(agent.log().contains("had mode 755; it is 700 now"));
    agent.stop();
}

#[test]
fn another_user_has_theirs_in_a_sticky_folder() {
    let _machine = shared();
    require_engine();
    let place = Folder::new();
    let sticky = folder(place.path(), "sticky", 0, 0o1777);
    // Where that user can run it.
    let program = sticky.join("agent");
    // By another process: a file that a thread of this one writes can be open in a child of another test, and is busy then.
    let copied = std::process::Command::new("cp").arg(binary().get_program()).arg(&program).status().expect("cp");
    assert!(copied.success());
    let state = sticky.join("a/state");
    let mut command = std::process::Command::new(&program);
    command.uid(SOMEBODY).gid(SOMEBODY).arg("run").env("CRONIUM_API_TOKEN", "t").env("HOME", &sticky);
    for (key, value) in [("api.endpoint", "http://127.0.0.1:9"), ("monitoring.enabled", "false")] {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command.arg("--set").arg(format!("state.dir={}", state.display()));
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().expect("the agent");
    eventually("its folder is made", || state.join("jobs").is_dir());
    assert_eq!([mode(&state), mode(&sticky.join("a"))], [0o700; 2]);
    let stopped = std::process::Command::new("kill").arg(child.id().to_string()).status().expect("kill");
    assert!(stopped.success());
    let until = std::time::Instant::now() + LONG;
    while child.try_wait().expect("wait").is_none() {
        assert!(std::time::Instant::now() < until, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(refused(&state).contains("user 61234"), "root takes nothing of theirs");
}

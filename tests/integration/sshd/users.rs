//! Users of this machine, one for each server.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Options, PASSWORD, output};
use crate::harness::eventually;

/// A lock on the files of users, taken by each process that changes them.
static USERS: Mutex<()> = Mutex::new(());

pub(super) fn add_user(folder: &Path, options: &Options<'_>) -> (String, u32) {
    let _lock = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    let user = crate::harness::unique("cs");
    let home = folder.join("home");
    fs::create_dir(&home).expect("home");
    let mut command = Command::new("useradd");
    // The star is no password, but unlike the usual mark it does not lock the account.
    command.args(["-M", "-N", "-p", "*", "-s", options.shell, "-d"]).arg(&home).arg(&user);
    // Another run of the tests may hold the lock.
    eventually("useradd", || command.output().expect("useradd; apt-get install passwd").status.success());
    if options.password {
        let line = format!("{user}:{PASSWORD}");
        eventually("chpasswd", || {
            let mut child = Command::new("chpasswd").stdin(Stdio::piped()).spawn().expect("chpasswd");
            std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), line.as_bytes()).expect("write");
            child.wait().expect("wait").success()
        });
    }
    output(Command::new("chown").arg(&user).arg(&home));
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).expect("mode");
    let uid = output(Command::new("id").args(["-u", &user])).parse().expect("a number");
    (user, uid)
}

pub fn remove_user(user: &str) {
    let _lock = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..10 {
        let output = Command::new("userdel").arg(user).output();
        if output.is_ok_and(|output| matches!(output.status.code(), Some(0 | 6))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

//! Podman's API service with its own folders, and the images of the real engine in it; dropping it removes all.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Folder, docker};

/// Takes what a container's processes may open out of a bundle: Podman raises it beyond what a machine without
/// CAP_SYS_RESOURCE may grant. Everything else stays as Podman made it.
const RUNTIME: &str = r#"#!/bin/sh
bundle= next=
for word; do
    [ -z "$next" ] || bundle=$word
    next=
    case $word in --bundle | -b) next=1 ;; esac
done
if [ -n "$bundle" ]; then
    jq 'del(.process.rlimits)' "$bundle/config.json" >"$bundle/config.new" && mv "$bundle/config.new" "$bundle/config.json"
fi
exec runc "$@"
"#;

/// Its first start makes a database and a store; a busy machine needs its time.
const STARTS_WITHIN: Duration = Duration::from_secs(180);

pub struct Podman {
    child: Child,
    folder: Folder,
}

impl Podman {
    /// Starts the service and gives it `images`.
    pub fn start(images: &[&str]) -> Self {
        // Podman refuses a longer path than 50 characters for what runs, and a socket has 107 at most.
        let folder = Folder::inside(Path::new("/tmp"));
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("runtime"), RUNTIME).expect("write");
        std::fs::set_permissions(at("runtime"), std::fs::Permissions::from_mode(0o755)).expect("mode");
        let conf = format!(
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\nruntime = \"{}\"\n",
            at("runtime").display()
        );
        std::fs::write(at("containers.conf"), conf).expect("write");
        std::fs::create_dir(at("copies")).expect("folder");
        let log = File::create(at("log")).expect("log");
        let mut command = command(&folder);
        command.args(["system", "service", "--time=0", &format!("unix://{}", at("podman.sock").display())]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("clone")).stderr(log);
        let child = command.spawn().expect("podman; apt-get install podman catatonit");
        let mut podman = Self { child, folder };
        podman.wait_until_it_answers();
        let archive = podman.folder.path().join("images.tar");
        let mut arguments = vec!["save", "-o", archive.to_str().expect("text")];
        arguments.extend_from_slice(images);
        docker(&arguments);
        podman.run(&["load", "-i", archive.to_str().expect("text")]);
        podman
    }

    fn wait_until_it_answers(&mut self) {
        let begun = Instant::now();
        loop {
            let Err(error) = UnixStream::connect(self.socket()) else { return };
            let status = self.child.try_wait().expect("wait");
            if status.is_some() || begun.elapsed() > STARTS_WITHIN {
                let log = std::fs::read(self.folder.path().join("log")).expect("log");
                let end = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned();
                let state = status.map_or("it still runs".to_owned(), |status| format!("it ended with {status}"));
                let waited = begun.elapsed();
                panic!("podman's service does not answer after {waited:?} ({error}); {state}; its log:\n{end}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("podman.sock")
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Runs Podman's own command line; its standard output. A failure is a panic with its words.
    pub fn run(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = command(&self.folder).args(arguments).output().expect("podman");
        assert!(status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).trim().to_owned()
    }
}

fn command(folder: &Folder) -> Command {
    let at = |name: &str| folder.path().join(name);
    let mut command = Command::new("podman");
    // Its conmon writes an empty file `oom` where it was started when a container is killed at its memory limit.
    command.current_dir(folder.path());
    // Nothing of the tester's own environment or settings reaches it.
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.env("HOME", folder.path()).env("TMPDIR", at("copies"));
    command.env("CONTAINERS_CONF", at("containers.conf"));
    for (flag, name) in
        [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp"), ("--network-config-dir", "networks")]
    {
        command.arg(flag).arg(at(name));
    }
    command.arg("--runtime").arg(at("runtime"));
    command
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = command(&self.folder).args(["rm", "-af", "-t", "0"]).output();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Podman mounts a part of its root over itself.
        let _ = Command::new("umount").arg(self.folder.path().join("root/overlay")).output();
    }
}

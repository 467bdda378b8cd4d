//! The engine's create request: every line here is a promise about what a script can and cannot do.
//!
//! It holds nothing of the job but its ids, its limits and its start's random word: no script text and no environment
//! value, since the engine keeps this on its disk and shows it to all who may use it.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::types::{ResourceSet, Security};
use crate::executors::container::labels::Labels;
use crate::executors::container::program::WORKSPACE;
use crate::executors::container::resources::tmpfs_sizes;
use crate::executors::helpers::MOUNT;
use crate::job::Id;
use crate::limits;

/// What a container is made from.
#[derive(Debug)]
pub struct Spec<'a> {
    pub image: &'a str,
    pub labels: Labels<'a>,
    pub resources: &'a ResourceSet,
    pub security: &'a Security,
    /// The engine's `NetworkMode`.
    pub network: &'a str,
    pub dns: &'a [String],
    /// The block device that holds the engine's data, when a rate on it is limited.
    pub device: Option<&'a str>,
    /// The profile of system calls, as [`seccomp::option`](super::seccomp::option) gives it.
    pub seccomp: Option<&'a str>,
    /// Podman refuses some of the kernel's words for a tmpfs.
    pub podman: bool,
    /// The folder with the script's socket to the agent.
    pub helpers: Option<&'a Path>,
}

/// The container's name: one for each execution, in the characters that the engine allows.
pub fn container_name(execution: &Id) -> String {
    format!("cronium-{}", execution.as_str().replace(':', "-"))
}

/// Job and execution of a container of this name, as far as the name tells them: a colon in an id is a dash in it.
pub fn execution_of(name: &str) -> Option<(Id, Id)> {
    let execution = name.strip_prefix("cronium-")?;
    let (job, claimed_ms) = execution.strip_prefix("exec-")?.rsplit_once('-')?;
    let is_time = !claimed_ms.is_empty() && claimed_ms.bytes().all(|b| b.is_ascii_digit());
    Id::parse(job).ok().zip(Id::parse(execution).ok()).filter(|_| is_time)
}

impl Spec<'_> {
    /// The body of `POST /containers/create`.
    pub fn body(&self) -> Value {
        let (uid, gid) = self.security.user;
        json!({
            "Image": self.image,
            // The whole command: a shell that waits for the program on its stdin.
            "Entrypoint": ["/bin/sh", "-s"],
            "Cmd": [],
            // The first is for the init process alone: TERM goes to the script and to what it started. The program unsets
            // it. A name alone takes the image's variable away: with these, Bash as /bin/sh would print the program, or
            // not start.
            "Env": ["TINI_KILL_PROCESS_GROUP=1", "SHELLOPTS", "BASHOPTS", "POSIXLY_CORRECT"],
            "User": format!("{uid}:{gid}"),
            "WorkingDir": WORKSPACE,
            "Labels": self.labels.json(),
            "OpenStdin": true,
            "StdinOnce": true,
            "AttachStdin": true,
            "AttachStdout": true,
            "AttachStderr": true,
            "Tty": false,
            "StopSignal": "SIGTERM",
            "Healthcheck": { "Test": ["NONE"] },
            "HostConfig": self.host(),
        })
    }

    fn host(&self) -> Value {
        let set = self.resources;
        let mut host = json!({
            "Init": true,
            "AutoRemove": false,
            "Privileged": false,
            "RestartPolicy": { "Name": "no" },
            "NetworkMode": self.network,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "ReadonlyRootfs": self.security.readonly_rootfs,
            "CapDrop": self.security.drop_capabilities,
            "SecurityOpt": self.security_options(),
            "Memory": set.memory,
            // Equal to Memory: no swap at all.
            "MemorySwap": set.memory,
            "NanoCpus": nano_cpus(set.cpu),
            "PidsLimit": set.pids,
            "ShmSize": limits::SHM_SIZE.min(set.memory),
            // At 1 the kernel starts no handler of the host's for a program that crashed; at 0 it would.
            "Ulimits": [{ "Name": "core", "Soft": 1, "Hard": 1 }],
            // The copy that an agent reads which was restarted while the script ran.
            "LogConfig": { "Type": "json-file", "Config": {
                "max-size": format!("{}m", limits::COPY_FILE_MIB),
                "max-file": limits::COPY_FILES.to_string(),
            } },
        });
        if !self.dns.is_empty() {
            host["Dns"] = json!(self.dns);
        }
        if self.security.readonly_rootfs {
            host["Tmpfs"] = self.tmpfs();
        }
        if let Some(folder) = self.helpers {
            host["Mounts"] = json!([{ "Type": "bind", "Source": folder, "Target": MOUNT, "ReadOnly": true }]);
        }
        if let Some(device) = self.device {
            for (key, rate) in [
                ("BlkioDeviceReadBps", set.read_bps),
                ("BlkioDeviceWriteBps", set.write_bps),
                ("BlkioDeviceReadIOps", set.read_iops),
                ("BlkioDeviceWriteIOps", set.write_iops),
            ] {
                if let Some(rate) = rate {
                    host[key] = json!([{ "Path": device, "Rate": rate }]);
                }
            }
        }
        host
    }

    fn security_options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if self.security.no_new_privileges {
            options.push("no-new-privileges".to_owned());
        }
        options.extend(self.seccomp.map(|profile| format!("seccomp={profile}")));
        options
    }

    fn tmpfs(&self) -> Value {
        let (uid, gid) = self.security.user;
        let (workspace, tmp) = tmpfs_sizes(self.resources.disk);
        // Podman: the container's user owns it (U), and only memory bounds the number of files.
        let (owner, inodes) = if self.podman {
            ("U".to_owned(), String::new())
        } else {
            (format!("uid={uid},gid={gid}"), format!(",nr_inodes={}", limits::TMPFS_INODES))
        };
        let mut mounts = json!({
            WORKSPACE: format!("rw,exec,nosuid,nodev,size={workspace}{inodes},mode=0700,{owner}"),
            "/tmp": format!("rw,noexec,nosuid,nodev,size={tmp}{inodes},mode=1777"),
        });
        if self.podman {
            // Where nothing is asked for, Podman puts a writable tmpfs of any size there, although the root is read-only.
            for place in ["/run", "/var/tmp"] {
                mounts[place] = json!("ro,noexec,nosuid,nodev");
            }
        }
        mounts
    }
}

/// Cores as the engine counts them.
#[allow(clippy::cast_possible_truncation)]
fn nano_cpus(cores: f64) -> i64 {
    // The configuration and the limits keep cores between 0 and a few thousand.
    (cores * 1e9).round() as i64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::types::Seccomp;
    use crate::executors::container::labels::JobLabels;
    use crate::job::Language;

    fn body(readonly: bool, device: Option<&str>) -> Value {
        body_for(readonly, device, false)
    }

    fn body_for(readonly: bool, device: Option<&str>, podman: bool) -> Value {
        let id = |text| Id::parse(text).expect("id");
        let resources = ResourceSet {
            cpu: 0.5,
            memory: 512 << 20,
            disk: 1 << 30,
            pids: 100,
            read_bps: Some(1000),
            write_bps: None,
            read_iops: None,
            write_iops: Some(7),
        };
        let security = Security {
            user: (1000, 1001),
            no_new_privileges: true,
            drop_capabilities: vec!["ALL".into()],
            readonly_rootfs: readonly,
            seccomp: Seccomp::Builtin,
        };
        let (job, execution) = (id("job_1"), id("exec-job_1-5"));
        let timeout = (Duration::from_secs(60), "jobs.defaultTimeout");
        let labels = Labels {
            job: Some(JobLabels { job: &job, execution: &execution, attempts: 0, timeout }),
            agent: "agent-1",
            owner: None,
            is_canary: false,
            language: Language::Bash,
            resources: &resources,
            nonce: "00ff",
        };
        Spec {
            image: "cronium/runner:bash-alpine",
            labels,
            resources: &resources,
            security: &security,
            network: "cronium0",
            dns: &["10.0.0.1".to_owned()],
            device,
            seccomp: Some("{}"),
            podman,
            helpers: Some(Path::new("/run/cronium/a/b")).filter(|_| readonly),
        }
        .body()
    }

    #[test]
    fn every_lock_is_in_the_request() {
        let body = body(true, Some("/dev/vda"));
        let host = &body["HostConfig"];
        assert_eq!(body["User"], "1000:1001");
        assert_eq!(host["Memory"], host["MemorySwap"]);
        assert_eq!(host["NanoCpus"], 500_000_000_i64);
        assert_eq!(host["PidsLimit"], 100);
        assert_eq!(host["CapDrop"], json!(["ALL"]));
        assert_eq!(host["SecurityOpt"], json!(["no-new-privileges", "seccomp={}"]));
        assert_eq!(host["ReadonlyRootfs"], true);
        assert_eq!(host["Privileged"], false);
        assert_eq!(host["Ulimits"], json!([{ "Name": "core", "Soft": 1, "Hard": 1 }]));
        assert_eq!(host["NetworkMode"], "cronium0");
        assert_eq!(host["Dns"], json!(["10.0.0.1"]));
        assert_eq!(host["BlkioDeviceReadBps"], json!([{ "Path": "/dev/vda", "Rate": 1000 }]));
        assert_eq!(host["BlkioDeviceWriteIOps"], json!([{ "Path": "/dev/vda", "Rate": 7 }]));
        assert_eq!(host["BlkioDeviceWriteBps"], Value::Null);
        assert!(
            host["Tmpfs"]["/workspace"]
                .as_str()
                .is_some_and(|o| o.contains("size=805306368,") && o.contains("uid=1000,gid=1001"))
        );
        assert_eq!(host["Binds"], Value::Null);
        assert_eq!(
            host["Mounts"],
            json!([{ "Type": "bind", "Source": "/run/cronium/a/b", "Target": "/run/cronium", "ReadOnly": true }])
        );
        assert_eq!(body["Labels"]["cronium.execution.id"], "exec-job_1-5");
        assert_eq!(body["Labels"]["cronium.timeout.ms"], "60000");
    }

    #[test]
    fn podman_gets_the_same_locks_in_its_own_words() {
        let (docker, mut podman) = (body_for(true, None, false), body_for(true, None, true));
        assert_eq!(
            podman["HostConfig"]["Tmpfs"],
            json!({
                "/workspace": "rw,exec,nosuid,nodev,size=805306368,mode=0700,U",
                "/tmp": "rw,noexec,nosuid,nodev,size=268435456,mode=1777",
                "/run": "ro,noexec,nosuid,nodev",
                "/var/tmp": "ro,noexec,nosuid,nodev",
            })
        );
        for key in ["Tmpfs", "SecurityOpt"] {
            podman["HostConfig"][key] = docker["HostConfig"][key].clone();
        }
        assert_eq!(podman, docker);
    }

    #[test]
    fn a_writable_root_has_no_tmpfs() {
        assert_eq!(body(false, None)["HostConfig"]["Tmpfs"], Value::Null);
        assert_eq!(body(false, None)["HostConfig"]["Mounts"], Value::Null, "a script without helpers");
        assert_eq!(body(false, None)["HostConfig"]["BlkioDeviceReadBps"], Value::Null);
    }

    #[test]
    fn names_are_ones_that_the_engine_takes() {
        let id = Id::parse("exec-a:b_c.d-1").expect("id");
        assert_eq!(container_name(&id), "cronium-exec-a-b_c.d-1");
        let (job, execution) = execution_of("cronium-exec-a-b_c.d-1").expect("ids");
        assert_eq!((job.as_str(), execution.as_str()), ("a-b_c.d", "exec-a-b_c.d-1"));
        for other in ["cronium-warm-0a", "cronium-exec-a", "cronium-exec-a-x", "cronium-exec--1", "exec-a-1", ""] {
            assert_eq!(execution_of(other), None, "{other}");
        }
    }
}

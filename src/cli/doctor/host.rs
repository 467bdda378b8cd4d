//! What this host must have for the agent: a state folder that can be written, room on its disk, a list of host keys.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::types::{Config, SignatureMode, Ssh, Trust};
use crate::config::{Loaded, Origin};
use crate::executors::ending::bytes;
use crate::executors::ssh::known_hosts::KnownHosts;
use crate::jobs::admission;
use crate::jobs::receipt_key;
use crate::limits;
use crate::os::private::{self, Refused};
use crate::os::{disk, random};
use crate::proofs::finding::{Finding, Grade};
use crate::signing::receipt::key_id;

pub(super) const CONFIGURATION: &str = "configuration";
/// Of [`checks`].
pub(super) const NAMES: [&str; 6] = ["state-dir", "state-disk", "known-hosts", "jump-hosts", "signed-jobs", "receipts"];

/// The configuration that was loaded. [`super::problem`] reports one that was not.
pub(super) fn configuration(loaded: &Loaded) -> Finding {
    let file = loaded.file.as_ref().map_or_else(|| "no file".to_owned(), |file| file.display().to_string());
    if loaded.warnings.is_empty() {
        return Finding::ok(format!("valid ({file})"));
    }
    let words: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    Finding::warn(format!("valid ({file}), and to know: {}", words.join("; ")), "see cronium-agent validate --explain")
}

/// All checks of this file, in the order of [`NAMES`].
pub(super) fn checks(config: &Config, known_hosts_given: bool) -> Vec<Finding> {
    let state = &config.state;
    vec![
        state_dir(&state.dir),
        free_disk(&state.dir, state.min_free_disk),
        known_hosts(&config.ssh, known_hosts_given),
        super::jumps::check(&config.ssh),
        signed_jobs(&config.trust),
        receipts(config.receipts, &state.dir),
    ]
}

/// What is asked of jobs. The files themselves were checked with the configuration.
fn signed_jobs(trust: &Trust) -> Finding {
    let measured = format!("a job needs {}", admission::shown(trust));
    match trust.signatures {
        SignatureMode::Warn if trust.scripts.path.is_none() => Finding::warn(
            measured,
            "set security.signatures.mode: require once cronium_jobs_unsigned_total stays the same",
        ),
        _ => Finding::ok(measured),
    }
}

/// Whether reports are signed. A key that cannot be used stops the agent's start.
fn receipts(wanted: bool, state: &Path) -> Finding {
    if !wanted {
        return Finding::ok("off (security.receipts)");
    }
    match receipt_key::known(state) {
        Ok(Some(key)) => Finding::ok(format!("on, signed by a key …{}", key_id("", key.public()))),
        Ok(None) => Finding::ok("on; the agent makes its key at its next start"),
        Err(why) => Finding::fail(why, "see docs/receipts.md"),
    }
}

/// Whether the configuration names the file of host keys.
pub(super) fn known_hosts_given(loaded: &Loaded) -> bool {
    !matches!(
        loaded.origins.get("ssh.security.knownHostsFile"),
        None | Some(Origin::Default | Origin::DefaultBecause(_))
    )
}

/// The folder itself, or the nearest one above it that exists.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// The user of this process, as the kernel says.
fn user() -> String {
    fs::metadata("/proc/self").map_or_else(|_| "this user".to_owned(), |own| format!("uid {}", own.uid()))
}

/// Writes a file, waits for the disk, removes it.
fn try_writing(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".doctor-{}", random::hex(6)));
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&[0; limits::RECORD_PROBE])?;
        file.sync_all()
    };
    let written = write();
    let removed = fs::remove_file(&path);
    written.and(removed)
}

fn state_dir(dir: &Path) -> Finding {
    let (folder, shown) = (nearest(dir), dir.display());
    let there = folder == dir;
    if let Err(refused) = private::look(dir) {
        let measured = format!("an agent of {} does not use {shown}: {refused}", user());
        let hint = "state.dir has to belong to the agent's user, where nobody else may rename; run this as that user";
        // It belongs to an agent of another user, and root looks at that host.
        let is_anothers = matches!(&refused, Refused::Foreign { path, .. } if path == dir);
        return if is_anothers { Finding::warn(measured, hint) } else { Finding::fail(measured, hint) };
    }
    if let Err(error) = try_writing(&folder) {
        let what = if there { String::new() } else { format!(", and {} is the nearest folder", folder.display()) };
        let missing = if there { "" } else { " does not exist" };
        return Finding::fail(
            format!("{shown}{missing}{what}: {} cannot write there: {error}", user()),
            "make state.dir, owned by the agent's user, or set another; run this as that user",
        );
    }
    if !there {
        let made = format!("{shown} is not there; the first start makes it in {}", folder.display());
        return Finding::ok(format!("{made}, which {} can write", user()));
    }
    let Ok(found) = fs::metadata(dir) else { return Finding::unknown(format!("{shown} went away")) };
    let (mode, owner) = (found.mode() & 0o777, found.uid());
    let written = format!("{shown}: written by {}; owner uid {owner}, mode {mode:o}", user());
    if mode != 0o700 {
        return Finding::warn(written, format!("others may look into it: chmod 700 {shown}; the next start does it"));
    }
    Finding::ok(written)
}

/// Compares the room on the file system of `path` with what the agent needs to claim jobs.
pub(super) fn free_disk(path: &Path, least: u64) -> Finding {
    let folder = nearest(path);
    let free = match disk::free(&folder) {
        Ok(free) => free,
        Err(error) => return Finding::unknown(format!("{}: {error}", folder.display())),
    };
    let inodes = free.inodes.map_or_else(String::new, |n| format!(", {n} inodes"));
    let measured = format!(
        "{} free{inodes} at {}; at least {} (state.minFreeDisk)",
        bytes(free.bytes),
        folder.display(),
        bytes(least)
    );
    let few = free.inodes.is_some_and(|n| n < limits::MIN_FREE_INODES);
    let hint = "make room, or set state.minFreeDisk: below it the agent claims nothing";
    let grade = if free.bytes < least || few {
        Grade::Fail
    } else if free.bytes / 2 < least {
        Grade::Warn
    } else {
        return Finding::ok(measured);
    };
    Finding { grade, ..Finding::warn(measured, hint) }
}

fn known_hosts(ssh: &Ssh, given: bool) -> Finding {
    let file = ssh.known_hosts_file.display();
    let known = match KnownHosts::count(&ssh.known_hosts_file) {
        Ok(known) => known,
        Err(error) => {
            let hint =
                "make ssh.security.knownHostsFile a file that the agent's user can read: no job can reach a server";
            return Finding::fail(format!("{file}: cannot be read: {error}"), hint);
        }
    };
    if !ssh.strict_host_key_checking {
        let hint = "set ssh.security.strictHostKeyChecking: true and pin keys with cronium-agent known-hosts add";
        return Finding::warn(format!("{file}: {} keys; a server's first key is believed", known.counts().keys), hint);
    }
    if !ssh.known_hosts_file.exists() {
        let measured = format!("{file} is not there: no server's key is known, and jobs on servers are refused");
        return if given {
            Finding::warn(measured, "cronium-agent known-hosts add HOST makes it")
        } else {
            Finding::ok(format!("{measured}; of no matter where all jobs run in containers"))
        };
    }
    let read = format!("{file}: {} keys", known.counts().keys);
    let counts = known.counts();
    if counts.skipped == 0 && counts.authorities == 0 {
        return Finding::ok(read);
    }
    let (mut measured, mut hints) = (read, Vec::new());
    if counts.authorities > 0 {
        measured.push_str(&format!(
            "; {} lines are of certificate authorities, which count for nothing here",
            counts.authorities
        ));
        hints.push(
            "for each host of such a line run cronium-agent known-hosts add HOST: this agent knows hosts by plain keys",
        );
    }
    if counts.skipped > 0 {
        measured.push_str(&format!("; {} lines cannot be read", counts.skipped));
        known.skipped().iter().for_each(|line| measured.push_str(&format!("; line {}: {}", line.line, line.why)));
        hints.push("correct or remove the lines that cannot be read");
    }
    Finding::warn(measured, hints.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_is_written_and_left_as_it_was() {
        let place = crate::os::scratch::Scratch::new();
        let dir = place.join("state");
        let check = state_dir(&dir);
        assert_eq!(check.grade, Grade::Ok, "{check:?}");
        assert!(check.measured.contains("the first start makes it") && !dir.exists());
        fs::DirBuilder::new().create(&dir).expect("mkdir");
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        assert_eq!(state_dir(&dir).grade, Grade::Warn);
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
        assert_eq!(state_dir(&dir).grade, Grade::Ok);
        assert_eq!(fs::read_dir(&dir).expect("list").count(), 0);
        fs::remove_dir(&dir).expect("remove");
        // A folder that nobody can write, root neither.
        assert_eq!(state_dir(Path::new("/proc/self/task")).grade, Grade::Fail);
        assert_eq!(state_dir(Path::new("/proc/no/such")).grade, Grade::Fail);
    }

    #[test]
    fn room_is_compared_with_what_is_needed() {
        let free = disk::free(Path::new("/")).expect("statvfs").bytes;
        for (least, grade) in
            [(free / 3, Grade::Ok), (free / 4 * 3, Grade::Warn), (free.saturating_mul(2), Grade::Fail)]
        {
            assert_eq!(free_disk(Path::new("/no/such"), least).grade, grade, "{least}");
        }
    }
}

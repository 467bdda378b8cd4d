//! Turns what the canaries found into a line for each proof. Pure, so that tests need no container.
//!
//! A proof is ok only where the attempt failed *and* its control worked: the same within what is allowed. A door that the
//! configuration opens is a warning; a door that should be closed and is not is a failure.

use super::facts::{Facts, Found, NotRun, last_line};
use super::finding::{Check, Finding};
use super::judge_network::{host, isolation, metadata, names, socket};
use crate::config::types::{Container, Seccomp, Security};
use crate::executors::ending::bytes;
use crate::limits;
use crate::verdict::Cause;

pub(super) const NAMES: [&str; 13] =
    [ROOT, PRIVILEGE, KERNEL, PROCESSES, MEMORY, CORES, DISK, END, ISOLATION, HOST, METADATA, DNS, SOCKET];
const ROOT: &str = "proof-root";
const PRIVILEGE: &str = "proof-privilege";
const KERNEL: &str = "proof-kernel";
const PROCESSES: &str = "proof-processes";
const MEMORY: &str = "proof-memory";
const CORES: &str = "proof-cores";
const DISK: &str = "proof-disk";
const END: &str = "proof-end";
const ISOLATION: &str = "proof-other-job";
const HOST: &str = "proof-host";
const METADATA: &str = "proof-metadata";
const DNS: &str = "proof-dns";
const SOCKET: &str = "proof-engine-socket";
pub(super) const CLEANUP: &str = "cleanup";

/// The finding where a proof was not possible.
pub(super) fn not_proven(why: &str) -> Finding {
    let hint = if why.contains("limits::PROOF_SETUP") {
        "run this again at a quiet time, and once more: the engine takes long to start containers, longest the first ones"
    } else {
        "a job would fail in the same way: correct that, then run this again"
    };
    Finding::fail(format!("not proven: {why}"), hint)
}

/// All proofs, in the order of [`NAMES`].
pub(super) fn judge(found: &Found, container: &Container) -> Vec<Check> {
    let Container { security, network, .. } = container;
    let all = [
        (ROOT, root(found, security)),
        (PRIVILEGE, privilege(found, security)),
        (KERNEL, kernel(found, security)),
        (PROCESSES, processes(found)),
        (MEMORY, memory(found)),
        (CORES, cores(found)),
        (DISK, disk(found, security)),
        (END, end(found, security)),
        (ISOLATION, isolation(found, network)),
        (HOST, host(found, network)),
        (METADATA, metadata(found, network)),
        (DNS, names(found, network)),
        (SOCKET, socket(found)),
    ];
    all.into_iter().map(|(name, found)| found.unwrap_or_else(|why| not_proven(&why)).of(name)).collect()
}

fn root(found: &Found, security: &Security) -> Result<Finding, NotRun> {
    let facts = Facts::whole(&found.locks)?;
    let mount = facts.one("root").ok_or("the root's mount is not in /proc/self/mounts")?;
    facts.one("workspace").ok_or("the control failed: /workspace cannot be written either")?;
    let options = mount.split_whitespace().nth(1).unwrap_or_default();
    let read_only = options.split(',').any(|option| option == "ro");
    let (own, added): (Vec<&str>, Vec<&str>) =
        facts.all("wrote").partition(|place| place.starts_with("/ ") || place.ends_with(" root"));
    let folders =
        |places: &[&str]| places.iter().filter_map(|place| place.split(' ').next()).collect::<Vec<_>>().join(", ");
    if !read_only || !own.is_empty() {
        let written = if own.is_empty() { String::new() } else { format!(", and {} could be written", folders(&own)) };
        let mode = if read_only { "read-only" } else { "read-write" };
        let hint =
            "set container.security.readOnlyRootfs: true; where it is set, this engine does not act on it: use another";
        return Ok(Finding::open(!security.readonly_rootfs, format!("the root is mounted {mode}{written}"), hint));
    }
    let refused = facts.all("refused").count();
    let measured = format!("mounted read-only, {refused} places refused; /workspace can be written");
    if added.is_empty() {
        return Ok(Finding::ok(measured));
    }
    let hint = "what is written there counts as the job's memory, and is gone with it; Podman: read_only_tmpfs";
    Ok(Finding::warn(format!("{measured}; the engine adds writable {}", folders(&added)), hint))
}

fn privilege(found: &Found, security: &Security) -> Result<Finding, NotRun> {
    let facts = Facts::whole(&found.locks)?;
    let status = |name: &str| {
        let value = facts.all("status").find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(str::trim).ok_or_else(|| format!("/proc/self/status has no {name}"))
    };
    if !facts.all("gained").any(|what| what == "control") {
        return Err("the control failed: no program can be run".to_owned());
    }
    let gained: Vec<&str> = facts.all("gained").filter(|what| *what != "control").collect();
    let denied: Vec<&str> = facts.all("denied").collect();
    let uids: Vec<&str> = status("Uid")?.split_whitespace().collect();
    let mut flags = Vec::new();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let value = status(set)?;
        if value.chars().any(|digit| digit != '0') {
            flags.push(format!("{set} is {value}"));
        }
    }
    if status("NoNewPrivs")? != "1" {
        flags.push("no_new_privs is off".to_owned());
    }
    if uids.contains(&"0") {
        flags.push("it is uid 0".to_owned());
    }
    let seccomp = status("Seccomp")?;
    let hint = "leave container.security at its defaults (dropCapabilities [ALL], noNewPrivileges, user 1000:1000); where \
                they are set, this engine does not act on them: use another";
    if gained == ["user-namespace"] && seccomp == "2" && flags.is_empty() {
        let hint = "the engine's own seccomp profile lets a script make a namespace in which it is root, and so reach more of the \
                    kernel: set container.security.seccompProfile: builtin, or the sysctl user.max_user_namespaces=0";
        return Ok(Finding::fail("a script can make a user namespace; beyond it, it gains nothing", hint));
    }
    if !gained.is_empty() || seccomp != "2" {
        let filter = if seccomp == "2" { "" } else { "; no seccomp filter is in force" };
        let what = if gained.is_empty() { "nothing tried".to_owned() } else { gained.join(", ") };
        return Ok(Finding::fail(format!("a script can gain: {what}{filter}; {}", flags.join(", ")), hint));
    }
    if !flags.is_empty() {
        let all = security.drop_capabilities.iter().any(|name| name == "ALL");
        let wanted = !security.no_new_privileges || !all || security.user.0 == 0;
        return Ok(Finding::open(wanted, flags.join(", "), hint));
    }
    let setuid = facts.all("setuid").count();
    let files =
        if setuid == 0 { "none in the image".to_owned() } else { format!("{setuid} in the image, without effect") };
    let uid = uids.first().copied().unwrap_or_default();
    let confined =
        facts.one("confined").filter(|word| !word.is_empty()).map_or(String::new(), |word| format!(", {word}"));
    let measured = format!(
        "uid {uid}, no capability, no_new_privs, a seccomp filter{confined}; denied: {}; setuid files: {files}",
        denied.join(", ")
    );
    Ok(Finding::ok(measured))
}

/// A call that fails only since this kernel has no such module proves nothing.
fn kernel(found: &Found, security: &Security) -> Result<Finding, NotRun> {
    let facts = Facts::whole(&found.calls)?;
    let tried = facts.0.out.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| *name != "end");
    let is_refused = |(name, answer): &(&str, &str)| {
        matches!(*answer, "EPERM" | "SIGSYS") || (*name == "clone3" && *answer == "ENOSYS")
    };
    let (refused, others): (Vec<_>, Vec<_>) = tried.partition(is_refused);
    if others.is_empty() {
        let measured =
            format!("{} calls refused: io_uring, ptrace, bpf, AF_ALG, AF_VSOCK, netlink and others", refused.len());
        return Ok(Finding::ok(measured));
    }
    let (open, absent): (Vec<_>, Vec<_>) = others.iter().partition(|(_, answer)| answer.starts_with("open"));
    let names = |calls: &[&(&str, &str)]| calls.iter().take(5).map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let measured = match open.len() {
        0 => {
            format!("no filter refuses {}; they fail here for other reasons, such as {}", absent.len(), names(&absent))
        }
        count => format!(
            "a script can make {count} calls, such as {}; no filter refuses {} more",
            names(&open),
            absent.len()
        ),
    };
    let hint =
        "set container.security.seccompProfile: builtin; where it is set, this engine does not act on it: use another";
    Ok(Finding::open(security.seccomp != Seccomp::Builtin, measured, hint))
}

const LIMITS_HINT: &str =
    "this engine does not enforce the limit: see the lines cgroup and limits; do not run untrusted scripts here";

fn processes(found: &Found) -> Result<Finding, NotRun> {
    let ran = found.pids.as_ref().map_err(NotRun::clone)?;
    let facts = Facts(ran);
    let (limit, tried) = (ran.limits.pids, limits::PROOF_PIDS_MORE);
    let started = facts.number("started").unwrap_or(0);
    if facts.one("all").is_some() || started > limit {
        let measured = format!("{started} of {tried} processes were started with a limit of {limit}");
        return Ok(Finding::fail(measured, LIMITS_HINT));
    }
    let err = ran.err.to_ascii_lowercase();
    if started == 0 || !(err.contains("fork") || err.contains("resource temporarily unavailable")) {
        return Err(format!("{started} processes were started, and none was refused: {}", last_line(&ran.err)));
    }
    let measured = format!("{started} processes were started, then a fork was refused; the limit is {limit}");
    Ok(Finding::ok(measured))
}

fn memory(found: &Found) -> Result<Finding, NotRun> {
    let ran = found.memory.as_ref().map_err(NotRun::clone)?;
    let facts = Facts(ran);
    let limit = bytes(ran.limits.memory);
    let fits =
        facts.number("fits").ok_or_else(|| format!("the control failed: {} {}", ran.message, last_line(&ran.err)))?;
    if let Some(held) = facts.number("survived") {
        return Ok(Finding::fail(format!("it held {} with a limit of {limit}", bytes(held)), LIMITS_HINT));
    }
    let held = format!("{} within the limit of {limit} worked", bytes(fits));
    match ran.cause {
        Cause::Memory(_) => Ok(Finding::ok(format!("{held}; beyond it the kernel killed the script"))),
        // Some engines refuse the memory instead.
        Cause::Exit if ran.err.to_ascii_lowercase().contains("memory") => {
            Ok(Finding::ok(format!("{held}; more was refused: {}", last_line(&ran.err))))
        }
        _ => Err(format!("{held}, but the end beyond it was not the kernel's: {}", ran.message)),
    }
}

fn cores(found: &Found) -> Result<Finding, NotRun> {
    let ran = found.cpu.as_ref().map_err(NotRun::clone)?;
    let facts = Facts(ran);
    let used = facts.one("used").and_then(cpu_time);
    let used = used.ok_or_else(|| format!("it told no use: {} {}", ran.message, last_line(&ran.err)))?;
    let rounds = facts.number("rounds").and_then(|rounds| u32::try_from(rounds).ok()).unwrap_or(1).max(1);
    let used = used / f64::from(rounds);
    let limit = ran.limits.cpu;
    let held = facts.number("held");
    let measured = format!("two busy processes got {used:.2} s a second with a limit of {limit} cores");
    // The timer's second may begin and end within a period, whose quota comes on top.
    if used > limit * 2.0 + 0.1 {
        return Ok(Finding::fail(measured, LIMITS_HINT));
    }
    Ok(match held {
        Some(times) if times > 0 => Finding::ok(format!("{measured}; the kernel held them up {times} times")),
        _ => {
            let hint = "the kernel does not say that it held them up: on a busy host they may have got no more in any case; run \
                        this again while it is idle";
            Finding::warn(measured, hint)
        }
    })
}

/// Reads `0m0.123s 1m0.004s` and sums it.
fn cpu_time(text: &str) -> Option<f64> {
    let one = |word: &str| {
        let (minutes, seconds) = word.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.replace(',', ".").parse::<f64>().ok()?)
    };
    text.split_whitespace().map(one).try_fold(0.0, |sum, time| Some(sum + time?)).filter(|_| !text.is_empty())
}

fn disk(found: &Found, security: &Security) -> Result<Finding, NotRun> {
    let facts = Facts::whole(&found.locks)?;
    if !security.readonly_rootfs {
        let measured =
            "the root is writable: the agent looks once a second and ends a job that wrote too much".to_owned();
        return Ok(Finding::open(
            true,
            measured,
            "set container.security.readOnlyRootfs: true for a limit that the kernel keeps",
        ));
    }
    let limit = bytes(facts.0.limits.disk);
    let words: Vec<&str> = facts.all("disk").collect();
    if !words.contains(&"fits") {
        return Err("the control failed: nothing could be written within the limit".to_owned());
    }
    let full = words.iter().find_map(|word| word.strip_prefix("full "));
    match full.and_then(|rest| rest.split_once(' ')) {
        Some((written, why)) => {
            let written = bytes(written.parse().unwrap_or(0));
            let fits = bytes(limits::PROOF_DISK_FITS);
            Ok(Finding::ok(format!(
                "{fits} worked, then /workspace was full after {written} ({why}); the limit is {limit}"
            )))
        }
        None if words.contains(&"more") => {
            let more = bytes(limits::PROOF_DISK_MORE);
            Ok(Finding::fail(format!("{more} could be written with a limit of {limit}"), LIMITS_HINT))
        }
        None => Err("it is not known how far writing came".to_owned()),
    }
}

/// A script that stops, kills or traces process 1, or freezes its control group, would keep its container from ending.
fn end(found: &Found, security: &Security) -> Result<Finding, NotRun> {
    let ran = found.end.as_ref().map_err(NotRun::clone)?;
    let (facts, calls) = (Facts::whole(&found.end)?, Facts::whole(&found.calls)?);
    let state = |fact: &str| facts.one(fact).ok_or_else(|| format!("it did not say {fact}"));
    let hint = "the agent ends such a job at its limit, and not before: use an engine whose containers are in a process \
                namespace of their own, with their control group mounted read-only";
    let stopped = |state: &str| matches!(state, "T" | "t" | "Z" | "X");
    if stopped(state("after-STOP")?) || stopped(state("after-KILL")?) {
        return Ok(Finding::fail("a script can stop or kill process 1 of its container", hint));
    }
    let frozen: Vec<&str> = facts.all("froze").collect();
    if !frozen.is_empty() {
        return Ok(Finding::fail(format!("a script can freeze its control group by {}", frozen.join(", ")), hint));
    }
    if let Cause::Timeout { .. } = ran.cause {
        return Ok(Finding::fail("a script that kills everything else in its container does not end", hint));
    }
    if calls.one("ptrace_init").ok_or("it did not try to trace process 1")?.starts_with("open") {
        let measured = "a script can trace process 1, and so keep its container from ending before its limit";
        let hint = "set container.security.seccompProfile: builtin";
        return Ok(Finding::open(security.seccomp != Seccomp::Builtin, measured, hint));
    }
    let measured =
        "a script cannot stop, kill or trace process 1, nor freeze its control group; it ends when all else is killed";
    let broken = match facts.one("memory") {
        Some("open") => "; it can break process 1 by /proc/1/mem, and then ends at its limit",
        _ => "",
    };
    Ok(Finding::ok(format!("{measured}{broken}")))
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;

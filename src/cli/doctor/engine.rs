//! What the container engine says of itself, and what that means for jobs. [`crate::proofs`] proves it.

use std::path::Path;

use super::host::free_disk;
use super::versions;
use crate::config::types::{Config, Container, Docker, NetworkMode, PullPolicy};
use crate::docker::client::{EngineInfo, EngineVersion, NEWEST, OLDEST, number};
use crate::docker::{Client, Error};
use crate::proofs::finding::{Check, Finding, Grade, named};

/// Of [`checks`], without the versions.
const NAMES: [&str; 13] = [
    "engine",
    "engine-host",
    "engine-api",
    "rootless",
    "user-namespaces",
    "cgroup",
    "limits",
    "storage-driver",
    "log-driver",
    "apparmor",
    "engine-disk",
    "images",
    "speed",
];

/// Those, and the versions.
fn names() -> Vec<&'static str> {
    [&NAMES[..], &versions::NAMES[..]].concat()
}

/// The major version of Docker from which on no newer one starts a container much faster.
const FAST: u32 = 28;

/// Where the kernel keeps the second version of control groups, and only that one.
const UNIFIED: &str = "/sys/fs/cgroup/cgroup.controllers";

/// All checks of this file; without an answer of the engine the error too.
pub(super) fn checks(docker: &Client, config: &Config) -> (Vec<Check>, Result<(), String>) {
    let info = match docker.ping().and_then(|()| docker.info()) {
        Ok(info) => info,
        Err(error) => {
            let hint = "start the engine, set container.docker.endpoint, or put the agent's user into the group docker";
            let mut findings = vec![Finding::unknown("the engine does not answer"); names().len()];
            findings[0] = Finding::fail(error.to_string(), hint);
            return (named(&names(), findings), Err("the engine does not answer".to_owned()));
        }
    };
    let podman = docker.is_podman().unwrap_or(false);
    let version = docker.version();
    let mut findings = vec![
        engine(docker, &info, podman),
        host(docker, &config.container.docker),
        api(docker, &version, config.container.docker.version.as_deref()),
        rootless(&info),
        user_namespaces(&info),
        cgroup(&info, docker.is_local() && Path::new(UNIFIED).exists()),
        limits(&info),
        storage(&info),
        logging(&info, podman),
        apparmor(&info),
        disk(docker, &info, config.state.min_free_disk),
        images(docker, &config.container),
        speed(&info, podman, &config.container),
    ];
    findings.extend(versions::checks(&info, version.as_ref().ok(), podman));
    (named(&names(), findings), Ok(()))
}

fn has(info: &EngineInfo, option: &str) -> bool {
    let of = |found: &String| found.split(',').any(|part| part == format!("name={option}"));
    info.security.iter().flatten().any(of)
}

fn engine(docker: &Client, info: &EngineInfo, podman: bool) -> Finding {
    let name = if podman { "Podman" } else { "Docker" };
    let EngineInfo { version, system, kernel, .. } = info;
    let measured = format!("{name} {version} at {}, {system}, kernel {kernel}", docker.endpoint());
    if !podman {
        return Finding::ok(measured);
    }
    let hint = "jobs run here with container.network.mode none, or a network of your own; Podman sets no limit on the \
                number of files in a job's folders, and its init passes TERM to the script alone, not to its children";
    Finding::warn(format!("{measured}: it does not keep jobs of one network apart"), hint)
}

/// What works less well with an engine on another host.
fn host(docker: &Client, engine: &Docker) -> Finding {
    if docker.is_local() {
        return Finding::ok("this host, by a Unix socket");
    }
    let way = if engine.tls_verify { "over TLS" } else { "over plain TCP" };
    let measured = format!("tcp, taken for another host, {way}. {}", LESS.join("; "));
    let hint = match engine.tls_verify {
        true => "run an agent beside that engine, where any of this matters",
        false => {
            "use TLS (container.docker.tlsVerify, certPath): everyone who reaches that port is root there; or run an agent there"
        }
    };
    Finding::warn(measured, hint)
}

const LESS: [&str; 5] = [
    "Helpers of scripts (cronium.getVariable, …) fail, since the engine cannot mount the agent's sockets",
    "use of memory and cores is sampled by the engine's calls, so that short peaks are missed",
    "a script that the kernel killed for memory is known by the engine's word alone",
    "free disk and free memory are not watched, and rates of block devices are refused",
    "the ways to that host's services and name servers are not tried",
];

fn api(docker: &Client, version: &Result<EngineVersion, Error>, fixed: Option<&str>) -> Finding {
    let engine = match version {
        Ok(version) => version,
        Err(error) => return Finding::unknown(error.to_string()),
    };
    let used = match docker.api_version() {
        Ok(used) => used,
        Err(error) => return Finding::unknown(error.to_string()),
    };
    let (oldest, newest) = (&engine.oldest_api, &engine.api);
    let measured = format!("{used} is spoken; the engine has {oldest} to {newest}, this agent {OLDEST} to {NEWEST}");
    let outside = number(&used) < number(oldest) || number(&used) > number(newest) || number(&used) < number(OLDEST);
    match (outside, fixed) {
        (true, Some(_)) => Finding::fail(measured, "set container.docker.version to auto"),
        (true, None) => Finding::fail(measured, "update the older of the two"),
        (false, _) => Finding::ok(measured),
    }
}

fn rootless(info: &EngineInfo) -> Finding {
    let words = if has(info, "rootless") {
        "yes: the engine runs as a user of this host"
    } else {
        "no: the engine is root, and so is anyone who may use its socket"
    };
    Finding::ok(words)
}

fn user_namespaces(info: &EngineInfo) -> Finding {
    let words = if has(info, "userns") {
        "containers' users are mapped to others of this host"
    } else if has(info, "rootless") {
        "containers' root is the engine's user"
    } else {
        "not mapped: a container's uid is the same uid on this host; jobs are not root and cannot become it"
    };
    Finding::ok(words)
}

fn cgroup(info: &EngineInfo, unified: bool) -> Finding {
    let version = match info.cgroup_version.as_deref() {
        Some(version) if !version.is_empty() => version,
        _ if unified => "2",
        _ => "1",
    };
    let driver = if info.cgroup_driver.is_empty() { "unknown" } else { &info.cgroup_driver };
    let measured = format!("version {version}, driver {driver}");
    if driver == "none" {
        return Finding::fail(format!("{measured}: no limit of a container is set"), LIMITS_HINT);
    }
    if version == "1" && has(info, "rootless") {
        return Finding::fail(format!("{measured}: a rootless engine can set no limit there"), LIMITS_HINT);
    }
    Finding::ok(measured)
}

const LIMITS_HINT: &str = "use control groups version 2 with all controllers (systemd.unified_cgroup_hierarchy=1; for a \
                           rootless engine Delegate=cpu cpuset io memory pids), or boot with cgroup_enable=memory swapaccount=1";

/// The limits that the engine says it can set. The canaries prove whether it does.
fn limits(info: &EngineInfo) -> Finding {
    let all = [
        ("memory", info.memory_limit, Grade::Fail),
        ("processes", info.pids_limit, Grade::Fail),
        ("cores", info.cpu_limit, Grade::Fail),
        ("swap", info.swap_limit, Grade::Warn),
    ];
    let word = |told: Option<bool>| match told {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "not told",
    };
    let words: Vec<String> = all.iter().map(|(name, told, _)| format!("{name} {}", word(*told))).collect();
    let measured = format!("the engine can limit: {}", words.join(", "));
    let worst = all.iter().filter(|(_, told, _)| *told != Some(true)).map(|(.., grade)| *grade).max();
    match worst {
        None => Finding::ok(measured),
        Some(grade) => Finding { grade, ..Finding::fail(measured, LIMITS_HINT) },
    }
}

fn storage(info: &EngineInfo) -> Finding {
    let driver = &info.storage;
    match driver.as_str() {
        "overlay2" | "overlay" | "overlayfs" | "btrfs" | "zfs" | "fuse-overlayfs" => Finding::ok(driver),
        "vfs" => Finding::warn("vfs: each container is a whole copy of its image", "use overlay2"),
        _ => Finding::warn(format!("{driver}: not tried with this agent"), "use overlay2"),
    }
}

fn logging(info: &EngineInfo, podman: bool) -> Finding {
    let default = if info.logging.is_empty() { "not told" } else { &info.logging };
    let kept = if podman { "json-file, which Podman keeps as k8s-file" } else { "json-file with a cap" };
    Finding::ok(format!("jobs use {kept}; the engine's default ({default}) does not matter to them"))
}

fn apparmor(info: &EngineInfo) -> Finding {
    for (option, word) in [("apparmor", "AppArmor"), ("selinux", "SELinux")] {
        if has(info, option) {
            return Finding::ok(format!("{word} is on"));
        }
    }
    let hint = if has(info, "rootless") {
        "a rootless engine loads no AppArmor profile; its users' namespace stands there instead, and SELinux with container-selinux can"
    } else {
        "boot with lsm=…,apparmor and install apparmor, or SELinux with container-selinux: one more wall around a script"
    };
    Finding::warn("neither AppArmor nor SELinux is used by the engine", hint)
}

fn disk(docker: &Client, info: &EngineInfo, least: u64) -> Finding {
    if !docker.is_local() {
        let hint = "watch the disk on that host; the agent cannot";
        return Finding::warn("the engine is on another host: its disk cannot be seen from here", hint);
    }
    if info.root.is_empty() {
        return Finding::unknown("the engine does not tell where its data is");
    }
    free_disk(Path::new(&info.root), least)
}

fn images(docker: &Client, container: &Container) -> Finding {
    let images = &container.images;
    let mut names = vec![&images.bash, &images.python, &images.nodejs];
    names.dedup();
    let mut missing = Vec::new();
    for name in &names {
        match docker.has_image(name) {
            Ok(true) => {}
            Ok(false) => missing.push(name.as_str()),
            Err(error) => return Finding::unknown(describe(&error)),
        }
    }
    let count = names.len();
    if missing.is_empty() {
        let all: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        return Finding::ok(format!("all {count} are there: {}", all.join(", ")));
    }
    let measured = format!("{} of {count} are missing: {}", missing.len(), missing.join(", "));
    let hint = format!("pull or build them (docker pull {}; scripts/build-images.sh)", missing.join(" "));
    if container.pull_policy == PullPolicy::Never {
        return Finding::fail(format!("{measured}; container.images.pullPolicy is never"), hint);
    }
    Finding::warn(format!("{measured}; the first job waits for the pull"), hint)
}

/// The two choices that shorten a job's start most on this host: of what BENCHMARKS.md has measured, most first.
fn speed(info: &EngineInfo, podman: bool, container: &Container) -> Finding {
    let warm = &container.warm;
    let choices = [
        (
            warm.bash + warm.python + warm.nodejs == 0,
            "container.warm: a script's first line comes after some 10 ms, and not after the start of a container",
        ),
        (!podman && number(&info.version).0 < FAST, "Docker 28 or later: a job starts in about half the time of 20.10"),
        (
            container.network.mode != NetworkMode::None,
            "container.network.mode: none, where no script needs a network: a third of a job's time less",
        ),
    ];
    let open: Vec<&str> = choices.iter().filter(|(is_open, _)| *is_open).map(|(_, text)| *text).take(2).collect();
    Finding::ok(match open.as_slice() {
        [] => "no choice is open that would make a job's start much shorter".to_owned(),
        open => format!("what would make a job's start shorter: {}", open.join("; ")),
    })
}

fn describe(error: &Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(security: &[&str]) -> EngineInfo {
        EngineInfo {
            security: Some(security.iter().map(|word| (*word).to_owned()).collect()),
            memory_limit: Some(true),
            pids_limit: Some(true),
            cpu_limit: Some(true),
            swap_limit: Some(true),
            cgroup_driver: "systemd".to_owned(),
            cgroup_version: Some("2".to_owned()),
            storage: "overlay2".to_owned(),
            ..EngineInfo::default()
        }
    }

    #[test]
    fn the_two_choices_that_pay_most_and_are_open_are_named() {
        let of = |version: &str, podman, container: &Container| {
            speed(&EngineInfo { version: version.to_owned(), ..info(&[]) }, podman, container).measured
        };
        let (mut container, words) = (Container::default(), ["container.warm", "Docker 28", "container.network.mode"]);
        let named = |text: String| words.map(|word| text.contains(word));
        assert_eq!(named(of("20.10.24+dfsg1", false, &container)), [true, true, false]);
        assert_eq!(named(of("28.5.2", false, &container)), [true, false, true]);
        assert_eq!(named(of("5.4.2", true, &container)), [true, false, true]);
        (container.warm.python, container.network.mode) = (1, NetworkMode::None);
        assert_eq!(named(of("26.1.5", false, &container)), [false, true, false]);
        assert_eq!(of("29.0.0", false, &container), "no choice is open that would make a job's start much shorter");
    }

    #[test]
    fn limits_that_do_not_bite_are_told() {
        let good = info(&[]);
        assert_eq!(limits(&good).grade, Grade::Ok);
        assert_eq!(limits(&EngineInfo { swap_limit: Some(false), ..good.clone() }).grade, Grade::Warn);
        for bad in [
            EngineInfo { memory_limit: Some(false), ..good.clone() },
            EngineInfo { pids_limit: None, ..good.clone() },
            EngineInfo { cpu_limit: Some(false), swap_limit: Some(false), ..good.clone() },
        ] {
            assert_eq!(limits(&bad).grade, Grade::Fail);
        }
        assert!(limits(&EngineInfo { pids_limit: Some(false), ..good }).measured.contains("processes NO"));
    }

    #[test]
    fn a_rootless_engine_needs_the_second_version_of_control_groups() {
        let rootless_info = info(&["name=seccomp,profile=default", "name=rootless"]);
        assert_eq!(cgroup(&rootless_info, true).grade, Grade::Ok);
        let first = EngineInfo { cgroup_version: Some("1".to_owned()), ..rootless_info.clone() };
        assert_eq!(cgroup(&first, false).grade, Grade::Fail);
        assert_eq!(
            cgroup(&EngineInfo { cgroup_driver: "none".to_owned(), ..rootless_info.clone() }, true).grade,
            Grade::Fail
        );
        let untold = EngineInfo { cgroup_version: None, security: None, ..rootless_info.clone() };
        assert!(cgroup(&untold, true).measured.starts_with("version 2"));
        assert!(cgroup(&untold, false).measured.starts_with("version 1"));
        assert!(rootless(&rootless_info).measured.starts_with("yes"));
        assert!(rootless(&untold).measured.starts_with("no"));
    }

    #[test]
    fn walls_that_are_missing_are_told() {
        assert_eq!(apparmor(&info(&["name=apparmor"])).grade, Grade::Ok);
        assert_eq!(apparmor(&info(&["name=selinux"])).grade, Grade::Ok);
        assert_eq!(apparmor(&info(&[])).grade, Grade::Warn);
        assert!(apparmor(&info(&[])).hint.contains("boot with"));
        let rootless = apparmor(&info(&["name=rootless"]));
        assert!(rootless.grade == Grade::Warn && !rootless.hint.contains("boot with"), "{}", rootless.hint);
        assert_eq!(storage(&EngineInfo { storage: "vfs".to_owned(), ..info(&[]) }).grade, Grade::Warn);
        assert!(user_namespaces(&info(&["name=userns"])).measured.contains("mapped to others"));
    }
}

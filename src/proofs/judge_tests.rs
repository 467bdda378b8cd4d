//! Each proof by what its canary may have found: that it holds, that it does not, and that nothing was shown.

use super::*;
use crate::config::defaults;
use crate::config::types::{NetworkMode, ResourceSet};
use crate::proofs::facts::{Listener, Ran};
use crate::proofs::finding::Grade;

/// What a canary of a good host says of its locks.
const LOCKS: &str = "root overlay ro,relatime\nrefused / Read-only file system\nrefused /etc Read-only file system\n\
    workspace written\nstatus Uid 1000\t1000\t1000\t1000\nstatus CapInh 0000000000000000\nstatus CapPrm 0000000000000000\n\
    status CapEff 0000000000000000\nstatus CapBnd 0000000000000000\nstatus CapAmb 0000000000000000\nstatus NoNewPrivs 1\n\
    status Seccomp 2\nconfined \ngained control\ndenied mount\ndenied user-namespace\nlooked for-sockets\ndisk fits\n\
    disk full 10485760 No space left on device\ninterfaces eth0 lo\nway-out eth0\nway-out-6 \n\
    metadata closed: no answer within 2 s\nend of-locks\n";

fn ran(out: &str, err: &str, cause: Cause) -> Result<Ran, NotRun> {
    let limits = ResourceSet { memory: 64 << 20, pids: 32, cpu: 0.2, disk: 16 << 20, ..defaults().container.defaults };
    Ok(Ran { out: out.to_owned(), err: err.to_owned(), cause, message: "how it ended".to_owned(), limits, used: 0.1 })
}

fn found() -> Found {
    Found {
        locks: ran(LOCKS, "", Cause::Success),
        memory: ran("fits 4194304\n", "", Cause::Memory(64 << 20)),
        pids: ran("started 1\nstarted 30\n", "sh: 1: Cannot fork\n", Cause::Exit),
        cpu: ran("cores 2\nused 0m0.210s 0m0.010s\nheld 9\n", "", Cause::Success),
        calls: ran(
            "io_uring_setup EPERM\nptrace_init EPERM\nclone3 ENOSYS\nx32 SIGSYS\nend of-calls\n",
            "",
            Cause::Success,
        ),
        end: ran("after-STOP S\nafter-KILL S\nrefused x y\nend of-end\n", "", Cause::Signal(9)),
        names: None,
        host_resolver: None,
        listening: Listener::read("listening 172.18.0.2 40000 itself").ok_or_else(String::new),
        listener: ran(
            "listening 172.18.0.2 40000 itself\ncame 172.18.0.2\ncame 172.18.0.1\n",
            "",
            Cause::Cancelled("x"),
        ),
        reached: ran(
            "interfaces eth0 lo \nown 172.18.0.3\nreached no: no answer within 2 s\nhost closed 172.18.0.1: x\nend of-reach\n",
            "",
            Cause::Success,
        ),
        host_reaches: Some(true),
        host_reaches_cloud: false,
    }
}

fn container() -> Container {
    defaults().container
}

fn one(name: &str, found: &Found, container: &Container) -> Finding {
    judge(found, container).into_iter().find(|check| check.name == name).expect("a check of that name").finding
}

fn expect(name: &str, found: &Found, container: &Container, grade: Grade, words: &str) {
    let check = one(name, found, container);
    assert_eq!(check.grade, grade, "{check:?}");
    assert!(check.measured.contains(words), "{check:?} does not say {words:?}");
    assert!(grade == Grade::Ok || !check.hint.is_empty(), "{check:?} says nothing of what to do");
}

/// Facts of the locks with one line changed for another.
fn changed(from: &str, to: &str) -> Found {
    assert!(LOCKS.contains(from), "{from}");
    Found { locks: ran(&LOCKS.replace(from, to), "", Cause::Success), ..found() }
}

#[test]
fn a_good_host_has_a_good_line_for_each() {
    let checks = judge(&found(), &container());
    assert_eq!(checks.iter().map(|check| check.name).collect::<Vec<_>>(), NAMES);
    for check in checks {
        assert_eq!(check.finding.grade, Grade::Ok, "{check:?}");
    }
}

#[test]
fn what_did_not_run_is_never_well() {
    let none = || Err("no such image".to_owned());
    let found = Found {
        locks: none(),
        memory: none(),
        pids: none(),
        cpu: none(),
        calls: none(),
        end: none(),
        names: Some(none()),
        host_resolver: None,
        listening: Err("no such image".to_owned()),
        listener: none(),
        reached: none(),
        host_reaches: None,
        host_reaches_cloud: true,
    };
    for check in judge(&found, &container()) {
        assert_eq!(check.finding.grade, Grade::Fail);
        assert!(check.finding.measured.contains("not proven: no such image"), "{check:?}");
    }
    // Nor what was cut off at any line.
    let lines: Vec<&str> = LOCKS.lines().collect();
    for cut in 0..lines.len() {
        let found = Found { locks: ran(&lines[..cut].join("\n"), "", Cause::Success), ..self::found() };
        for name in [ROOT, PRIVILEGE, DISK, METADATA, SOCKET] {
            expect(name, &found, &container(), Grade::Fail, "not proven");
        }
    }
    for pieces in ["", "fits 1\n"] {
        expect(
            MEMORY,
            &Found { memory: ran(pieces, "", Cause::Success), ..self::found() },
            &container(),
            Grade::Fail,
            "not proven",
        );
        expect(
            CORES,
            &Found { cpu: ran(pieces, "", Cause::Success), ..self::found() },
            &container(),
            Grade::Fail,
            "not proven",
        );
        expect(
            PROCESSES,
            &Found { pids: ran(pieces, "", Cause::Success), ..self::found() },
            &container(),
            Grade::Fail,
            "not proven",
        );
        expect(
            ISOLATION,
            &Found { reached: ran(pieces, "", Cause::Success), ..self::found() },
            &container(),
            Grade::Fail,
            "not proven",
        );
    }
}

#[test]
fn a_root_that_can_be_written() {
    let mut open = container();
    open.security.readonly_rootfs = false;
    let writable = changed("overlay ro,", "overlay rw,");
    expect(ROOT, &writable, &container(), Grade::Fail, "mounted read-write");
    expect(ROOT, &writable, &open, Grade::Warn, "as configured");
    expect(DISK, &writable, &open, Grade::Warn, "once a second");
    let refused = "refused /etc Read-only file system";
    expect(ROOT, &changed(refused, "wrote /etc root"), &container(), Grade::Fail, "/etc could be written");
    expect(ROOT, &changed(refused, "wrote /var/tmp tmpfs"), &container(), Grade::Warn, "adds writable /var/tmp");
    expect(ROOT, &changed("workspace written", "x"), &container(), Grade::Fail, "the control failed");
}

#[test]
fn privileges_that_were_gained_or_left() {
    let mut open = container();
    open.security.no_new_privileges = false;
    let flag = changed("NoNewPrivs 1", "NoNewPrivs 0");
    expect(PRIVILEGE, &flag, &container(), Grade::Fail, "no_new_privs is off");
    expect(PRIVILEGE, &flag, &open, Grade::Warn, "as configured");
    let bound = changed("CapBnd 0000000000000000", "CapBnd 00000000a80425fb");
    expect(PRIVILEGE, &bound, &container(), Grade::Fail, "CapBnd is 00000000a80425fb");
    expect(PRIVILEGE, &changed("Uid 1000\t1000", "Uid 1000\t0"), &container(), Grade::Fail, "uid 0");
    expect(PRIVILEGE, &changed("Seccomp 2", "Seccomp 0"), &container(), Grade::Fail, "no seccomp filter");
    expect(PRIVILEGE, &changed("denied mount", "gained mount"), &open, Grade::Fail, "can gain: mount");
    let namespace = changed("denied user-namespace", "gained user-namespace");
    expect(PRIVILEGE, &namespace, &container(), Grade::Fail, "beyond it, it gains nothing");
    expect(PRIVILEGE, &changed("gained control", "denied control"), &container(), Grade::Fail, "the control failed");
}

#[test]
fn system_calls_that_no_filter_refuses() {
    let said = |calls: &str| Found { calls: ran(&format!("{calls}end of-calls\n"), "", Cause::Success), ..found() };
    let mut engines = container();
    engines.security.seccomp = Seccomp::Engine;
    expect(KERNEL, &said("bpf EPERM\nint80 SIGSYS\nclone3 ENOSYS\n"), &container(), Grade::Ok, "3 calls refused");
    let open = said("bpf EPERM\nptrace_init open\nAF_ALG_1 EAFNOSUPPORT\n");
    expect(KERNEL, &open, &container(), Grade::Fail, "can make 1 calls, such as ptrace_init; no filter refuses 1 more");
    expect(KERNEL, &open, &engines, Grade::Warn, "as configured");
    // A module that is missing is no proof.
    expect(
        KERNEL,
        &said("AF_ALG_1 EAFNOSUPPORT\n"),
        &container(),
        Grade::Fail,
        "fail here for other reasons, such as AF_ALG_1",
    );
    expect(KERNEL, &said("bpf ENOSYS\n"), &container(), Grade::Fail, "such as bpf");
}

#[test]
fn the_way_to_this_hosts_services() {
    let said = |line: &str| {
        let out = format!("interfaces eth0 lo \nown 172.18.0.3\nreached no: x\n{line}end of-reach\n");
        Found { reached: ran(&out, "", Cause::Success), ..found() }
    };
    expect(HOST, &said("host open 172.18.0.1\n"), &container(), Grade::Warn, "by its gateway 172.18.0.1");
    expect(HOST, &said("host closed 172.18.0.1: x\n"), &container(), Grade::Ok, "did not answer a job");
    expect(HOST, &said(""), &container(), Grade::Ok, "not tried");
    let mut none = container();
    none.network.mode = NetworkMode::None;
    expect(HOST, &said("host open 172.18.0.1\n"), &none, Grade::Ok, "no job has a network");
}

#[test]
fn limits_that_do_not_bite() {
    let all = container();
    let memory = |out: &str, err: &str, cause| Found { memory: ran(out, err, cause), ..found() };
    expect(MEMORY, &memory("fits 9\nsurvived 268435456\n", "", Cause::Success), &all, Grade::Fail, "held 256 MiB");
    expect(MEMORY, &memory("fits 9\n", "awk: out of memory", Cause::Exit), &all, Grade::Ok, "refused");
    expect(MEMORY, &memory("fits 9\n", "", Cause::Signal(11)), &all, Grade::Fail, "not proven");
    expect(MEMORY, &memory("", "", Cause::Memory(1)), &all, Grade::Fail, "the control failed");
    let pids = |out: &str, err: &str| Found { pids: ran(out, err, Cause::Exit), ..found() };
    expect(PROCESSES, &pids("started 96\nall 96\n", ""), &all, Grade::Fail, "96 of 96");
    expect(PROCESSES, &pids("started 40\n", "Cannot fork"), &all, Grade::Fail, "40 of 96");
    expect(PROCESSES, &pids("", "Cannot fork"), &all, Grade::Fail, "not proven");
    let cpu = |out: &str| Found { cpu: ran(out, "", Cause::Success), ..found() };
    expect(CORES, &cpu("used 0m1.900s 0m0.050s\nheld 0\n"), &all, Grade::Fail, "got 1.95 s");
    expect(CORES, &cpu("rounds 2\nused 0m0.400s 0m0.020s\nheld 3\n"), &all, Grade::Ok, "got 0.21 s");
    expect(CORES, &cpu("used 0m0.200s 0m0.000s\nheld 0\n"), &all, Grade::Warn, "got 0.20 s");
    expect(CORES, &cpu("used 0m0.200s 0m0.000s\nheld \n"), &all, Grade::Warn, "got 0.20 s");
    expect(
        DISK,
        &changed("disk full 10485760 No space left on device", "disk more"),
        &all,
        Grade::Fail,
        "24 MiB could",
    );
    expect(DISK, &changed("disk fits\n", ""), &all, Grade::Fail, "the control failed");
    assert_eq!(cpu_time("1m0.5s 0m0,25s"), Some(60.75));
    assert_eq!(cpu_time("x"), None);
    assert_eq!(cpu_time(""), None);
}

#[test]
fn jobs_that_reach_each_other() {
    let mut open = container();
    open.network.enable_icc = true;
    let reached = |text: &str| Found { reached: ran(text, "", Cause::Success), ..found() };
    let yes = reached("interfaces eth0 lo\nown 172.18.0.3\nreached yes\nend of-reach\n");
    expect(ISOLATION, &yes, &container(), Grade::Fail, "172.18.0.3 reaches another at 172.18.0.2");
    expect(ISOLATION, &yes, &open, Grade::Warn, "as configured");
    let came = ran("listening 172.18.0.2 1 itself\ncame 172.18.0.3\n", "", Cause::Cancelled("x"));
    expect(ISOLATION, &Found { listener: came, ..found() }, &container(), Grade::Fail, "reaches another");
    // Without its own network, the one that calls shows nothing; without a listener, neither.
    let alone = reached("interfaces lo\nown \nreached no: refused\nend of-reach\n");
    expect(ISOLATION, &alone, &container(), Grade::Fail, "the control failed");
    let deaf = Listener::read("listening 172.18.0.2 40000 nobody: timed out").ok_or_else(String::new);
    let deaf = Found { listening: deaf, host_reaches: Some(false), ..found() };
    expect(ISOLATION, &deaf, &container(), Grade::Fail, "the control failed");
    let mut none = container();
    none.network.mode = NetworkMode::None;
    let listening = || Listener::read("listening none 40000 itself").ok_or_else(String::new);
    let without = Found { listening: listening(), reached: alone.reached, ..found() };
    expect(ISOLATION, &without, &none, Grade::Ok, "no job has a network");
    expect(ISOLATION, &without, &container(), Grade::Fail, "not proven");
    for line in ["", "listening", "listening x 1 itself", "listening none x itself", "Traceback none 1 itself"] {
        assert_eq!(Listener::read(line), None, "{line}");
    }
}

#[test]
fn the_way_to_the_clouds_address() {
    let mut closed = container();
    closed.network.internal = true;
    let open = changed("closed: no answer within 2 s", "open");
    expect(METADATA, &open, &container(), Grade::Warn, "does not forbid");
    expect(METADATA, &open, &closed, Grade::Fail, "although");
    // Nobody there, and a route: that it ends in a firewall must be shown.
    expect(METADATA, &found(), &closed, Grade::Warn, "may lead somewhere");
    expect(METADATA, &Found { host_reaches_cloud: true, ..found() }, &closed, Grade::Ok, "it does answer this host");
    expect(METADATA, &changed("way-out eth0", "way-out "), &closed, Grade::Ok, "no route");
    let outside = |word: &str| changed("end of-locks", &format!("outside {word}\nend of-locks"));
    expect(METADATA, &outside("open"), &closed, Grade::Fail, "reaches the backend");
    expect(METADATA, &outside("closed: no answer"), &closed, Grade::Ok, "nor does the backend");
}

#[test]
fn an_engine_within_reach() {
    let seen = changed("looked for-sockets", "socket /run/docker.sock\nlooked for-sockets");
    expect(SOCKET, &seen, &container(), Grade::Fail, "sees /run/docker.sock");
    let port = changed("looked for-sockets", "engine open\nlooked for-sockets");
    expect(SOCKET, &port, &container(), Grade::Fail, "the engine's port");
    let port = changed("looked for-sockets", "engine closed: Connection refused\nlooked for-sockets");
    expect(SOCKET, &port, &container(), Grade::Ok, "closed: Connection refused");
}

#[test]
fn a_container_that_a_script_keeps_from_ending() {
    let end = |out: &str, cause| Found { end: ran(out, "", cause), ..found() };
    let good = "after-STOP S\nafter-KILL S\nend of-end\n";
    expect(END, &found(), &container(), Grade::Ok, "cannot stop, kill or trace process 1");
    let stopped = good.replace("STOP S", "STOP T");
    expect(END, &end(&stopped, Cause::Signal(9)), &container(), Grade::Fail, "can stop or kill process 1");
    let froze = format!("froze /sys/fs/cgroup/cgroup.freeze\n{good}");
    expect(END, &end(&froze, Cause::Signal(9)), &container(), Grade::Fail, "by /sys/fs/cgroup/cgroup.freeze");
    let late = Cause::Timeout { limit: "x", after: limits::PROOF_CANARY };
    expect(END, &end(good, late), &container(), Grade::Fail, "does not end");
    expect(
        END,
        &end("after-STOP S\nend of-end\n", Cause::Signal(9)),
        &container(),
        Grade::Fail,
        "did not say after-KILL",
    );
    expect(END, &end("", Cause::Signal(9)), &container(), Grade::Fail, "did not come to its end");
    let calls = |answer: &str| {
        let out = format!("ptrace_init {answer}\nend of-calls\n");
        Found { calls: ran(&out, "", Cause::Success), ..found() }
    };
    expect(END, &calls("open"), &container(), Grade::Fail, "can trace process 1");
    expect(END, &calls("ESRCH"), &container(), Grade::Ok, "");
    let mut engines = container();
    engines.security.seccomp = Seccomp::Engine;
    expect(END, &calls("open"), &engines, Grade::Warn, "as configured");
    assert!(one(END, &calls("open"), &engines).is_strict);
    let without = Found { calls: ran("end of-calls\n", "", Cause::Success), ..found() };
    expect(END, &without, &container(), Grade::Fail, "did not try to trace");
}

#[test]
fn names_that_a_job_on_an_internal_network_gets_resolved() {
    let said = |lines: &str, host: Option<&str>| {
        let out = format!("{lines}end of-resolve\n");
        Found { names: Some(ran(&out, "", Cause::Success)), host_resolver: host.map(str::to_owned), ..found() }
    };
    let closed = "dns 127.0.0.11 udp code 2\ndns 127.0.0.11 tcp timed out\ndns 10.0.0.2 udp unreachable\ncontrol 127.0.0.11 udp answered\n";
    expect(DNS, &said(closed, Some("10.0.0.2")), &container(), Grade::Ok, "10.0.0.2 does answer this host");
    expect(DNS, &said(closed, None), &container(), Grade::Warn, "none answers this host either");
    let open = closed.replace("udp code 2", "udp answered");
    expect(DNS, &said(&open, None), &container(), Grade::Fail, "resolved by 127.0.0.11 udp");
    let mut named = container();
    named.network.dns = vec!["172.18.0.1".to_owned()];
    expect(DNS, &said(&open, None), &named, Grade::Warn, "as configured");
    let dead = closed.replace("udp answered", "udp timed out");
    expect(DNS, &said(&dead, Some("10.0.0.2")), &container(), Grade::Fail, "the control failed");
    let unrun = Found { names: Some(Err("no container".to_owned())), ..found() };
    expect(DNS, &unrun, &container(), Grade::Fail, "not proven: no container");
    // Where names may be resolved there is nothing to prove.
    expect(DNS, &found(), &container(), Grade::Ok, "container.network.internal is false");
    let mut none = container();
    none.network.mode = NetworkMode::None;
    expect(DNS, &found(), &none, Grade::Ok, "no job has a network");
    none.network.mode = NetworkMode::Bridge;
    expect(DNS, &found(), &none, Grade::Ok, "no isolated network");
}

//! The filter of system calls that jobs get by default: a list of what is allowed, in the engine's JSON.
//!
//! What a script's programs need is allowed, and no more. An engine's own profile depends on the engine's age, and the
//! older ones allow what escapes of recent years were made from: `io_uring`, sockets of AF_VSOCK and of netlink families,
//! `ptrace`. A call that is not listed fails with EPERM. Programs of another architecture than the engine's, 32-bit
//! and x32 ones, are killed at their first call. docs/system-calls.md tells who needs each call.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::config::types::Seccomp;
use crate::os::files;

/// Allowed with any arguments: the kernel's groups, each in the order of the alphabet.
const ALLOWED: &[&str] = &[
    // Files: by path, by descriptor, their names and attributes. No mount, no handle that passes by a path.
    "access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 \
     fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock \
     fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat \
     lchown lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat \
     mknod mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead \
     readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile setxattr \
     setxattrat splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink \
     unlinkat utime utimensat utimes vmsplice write writev",
    // Waiting for descriptors, events and files. Of asynchronous I/O only the old kind: no io_uring.
    "epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 inotify_add_watch \
     inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit \
     pipe pipe2 poll ppoll pselect6 select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime",
    // Memory. No userfaultfd.
    "brk madvise map_shadow_stack membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap mseal \
     msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect",
    // Processes and threads: one's own and one's children. No look into the memory of another.
    "arch_prctl execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake getcpu \
     getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid gettid ioprio_get ioprio_set kill \
     pidfd_open pidfd_send_signal prctl restart_syscall rseq sched_get_priority_max sched_get_priority_min \
     sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity \
     sched_setattr sched_setparam sched_setscheduler sched_yield set_robust_list set_tid_address setpgid setpriority \
     setsid tgkill tkill uretprobe vfork wait4 waitid",
    // Signals.
    "pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
     rt_tgsigqueueinfo sigaltstack",
    // Users and capabilities: the kernel refuses what the job's user may not. A setuid image on another user needs them.
    "capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid setgroups \
     setregid setresgid setresuid setreuid setuid",
    // Further walls that a program puts up for itself.
    "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    // Time: read, and waited for. No clock is set.
    "alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create \
     timer_delete timer_getoverrun timer_gettime timer_settime times",
    // Talk between processes, in the job's own IPC namespace.
    "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl \
     semget semop semtimedop shmat shmctl shmdt shmget",
    // Sockets that are open; which may be opened, set and sent to is below.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg shutdown",
    // The host in general.
    "getrandom sysinfo uname",
];

const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const NETLINK_ROUTE: u64 = 0;
/// Of `socket`'s second argument: without SOCK_CLOEXEC and SOCK_NONBLOCK.
const SOCK_TYPE: u64 = 0xf;
const SOCK_STREAM: u64 = 1;
const SOCK_DGRAM: u64 = 2;
/// 0 (the default), TCP and MPTCP.
const STREAMS: &[u64] = &[0, 6, 262];
/// 0 (the default), UDP, and the two of `ping` without a capability.
const DATAGRAMS: &[u64] = &[0, 17, 1, 58];
/// Each namespace that `clone` can make.
const CLONE_NEW: u64 = 0x7e02_0000;
/// The usual Linux, with or without an old version's name, with 32-bit addresses, and the question which it is.
const PERSONALITIES: &[u64] = &[0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Of a terminal: bytes as if its user had typed them, the console's selection, and the line discipline, which loads a
/// module of the kernel.
const TERMINAL: &[u64] = &[TIOCSTI, 0x541c, 0x5423];
const TIOCSTI: u64 = 0x5412;
/// Of `setsockopt`, all but TCP's: IP, sockets, UDP, IPv6, ICMPv6, netlink, MPTCP.
const LEVELS: &[u64] = &[0, 1, 17, 41, 58, 270, 284];
const SOL_TCP: u64 = 6;
/// Of 64 options of TCP. Puts another protocol into a connection: TLS in the kernel, which changes pages in place.
const TCP_ULP: u64 = 31;
/// Of the calls that send, with the place of their flags. Of AF_UNIX it has been a way into the kernel.
const MSG_OOB: u64 = 1;
const SENDERS: &[(&str, u32)] = &[("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)];
/// Of 16 limits of processes. At 1, which [`spec`](super::spec) sets, the kernel keeps no memory of a program that crashed and starts
/// no handler on the host for it; at 0 it does start one.
const RLIMIT_CORE: u64 = 4;
const ALL_BITS: u64 = 0xffff_ffff;
const ENOSYS: u32 = 38;

/// What the engine is given after `seccomp=`; `None` leaves it to the engine's own profile. Podman takes the path of a file
/// and nothing else.
pub fn option(seccomp: &Seccomp, podman: bool) -> io::Result<Option<Cow<'_, str>>> {
    Ok(match seccomp {
        Seccomp::Engine => None,
        Seccomp::Builtin if podman => Some(Cow::Borrowed(file()?)),
        Seccomp::Builtin => Some(Cow::Borrowed(profile())),
        Seccomp::Profile { path, .. } if podman => Some(Cow::Owned(path.display().to_string())),
        Seccomp::Profile { json, .. } => Some(Cow::Borrowed(json)),
    })
}

/// A path under which Podman on this host finds the profile as long as this process lives: a file without a name, so that
/// nobody can put another in its place and nothing is left behind.
fn file() -> io::Result<&'static str> {
    static FILE: OnceLock<(File, String)> = OnceLock::new();
    if let Some((_, path)) = FILE.get() {
        return Ok(path);
    }
    let file = files::nameless(profile().as_bytes())?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    Ok(&FILE.get_or_init(|| (file, path)).1)
}

/// The profile for the engine. The same for all jobs, and made once.
pub fn profile() -> &'static str {
    static PROFILE: OnceLock<String> = OnceLock::new();
    PROFILE.get_or_init(|| made().to_string())
}

fn allowed() -> Vec<&'static str> {
    ALLOWED.iter().flat_map(|group| group.split_whitespace()).collect()
}

fn made() -> Value {
    let mut rules = vec![json!({ "names": allowed(), "action": "SCMP_ACT_ALLOW" })];
    let mut allow = |name: &str, conditions: &[Value]| {
        rules.push(json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": conditions }));
    };
    for name in ["socket", "socketpair"] {
        allow(name, &[is(0, AF_UNIX)]);
    }
    for domain in [AF_INET, AF_INET6] {
        for (kind, protocols) in [(SOCK_STREAM, STREAMS), (SOCK_DGRAM, DATAGRAMS)] {
            for protocol in protocols {
                allow("socket", &[is(0, domain), masked(1, SOCK_TYPE, kind), is(2, *protocol)]);
            }
        }
    }
    allow("socket", &[is(0, AF_NETLINK), is(2, NETLINK_ROUTE)]);
    allow("clone", &[masked(0, CLONE_NEW, 0)]);
    for personality in PERSONALITIES {
        allow("personality", &[is(0, *personality)]);
    }
    for (mask, value) in all_but(TERMINAL, 32) {
        allow("ioctl", &[masked(1, mask, value)]);
    }
    for level in LEVELS {
        allow("setsockopt", &[is(1, *level)]);
    }
    for (mask, value) in all_but(&[TCP_ULP], 6) {
        allow("setsockopt", &[is(1, SOL_TCP), masked(2, mask, value)]);
    }
    for (name, flags) in SENDERS {
        allow(name, &[masked(*flags, MSG_OOB, 0)]);
    }
    for (mask, value) in all_but(&[RLIMIT_CORE], 4) {
        allow("setrlimit", &[masked(0, mask, value)]);
        allow("prlimit64", &[masked(1, mask, value)]);
    }
    // Reads it and sets nothing.
    allow("prlimit64", &[masked(1, ALL_BITS, RLIMIT_CORE), is(2, 0)]);
    // Programs that hold keys want no such files, and end where they cannot forbid them: there are none, so that is so.
    let mut answer = |name: &str, conditions: &[Value], errno: u32| {
        rules.push(json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": conditions }));
    };
    answer("setrlimit", &[masked(0, ALL_BITS, RLIMIT_CORE)], 0);
    answer("prlimit64", &[masked(1, ALL_BITS, RLIMIT_CORE), is_not(2, 0)], 0);
    // Its flags are in memory, where a filter cannot look. The C library asks `clone` instead.
    answer("clone3", &[], ENOSYS);
    let arch = |name: &str| json!({ "architecture": name, "subArchitectures": [] });
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [arch("SCMP_ARCH_X86_64"), arch("SCMP_ARCH_AARCH64")],
        "syscalls": rules,
    })
}

/// Masks and values that together fit each word of `width` bits but these. The kernel looks at 32 bits, "not equal" would
/// compare 64. One for each bit at which a word can leave all of these; the engine takes time for each.
fn all_but(refused: &[u64], width: u32) -> BTreeSet<(u64, u64)> {
    let leave = |value: &u64| {
        let value = *value;
        (0..width).map(move |at| {
            let mask = ALL_BITS >> at << at;
            (mask, (value ^ 1 << at) & mask)
        })
    };
    let keeps = |(mask, value): &(u64, u64)| refused.iter().all(|word| word & mask != *value);
    refused.iter().flat_map(leave).filter(keeps).collect()
}

/// That the argument at this place has this value.
fn is(index: u32, value: u64) -> Value {
    json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" })
}

fn is_not(index: u32, value: u64) -> Value {
    json!({ "index": index, "value": value, "op": "SCMP_CMP_NE" })
}

/// That those bits of the argument which `mask` has make this value.
fn masked(index: u32, mask: u64, value: u64) -> Value {
    json!({ "index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    fn allows(name: &str, arguments: &[u64]) -> bool {
        action(name, arguments) == ["SCMP_ACT_ALLOW"]
    }

    /// The actions of the rules that a call with these arguments fits, as the kernel would find them.
    fn action(name: &str, arguments: &[u64]) -> Vec<String> {
        let profile: Value = serde_json::from_str(profile()).expect("JSON");
        let rules = profile["syscalls"].as_array().expect("rules");
        let fits = rules.iter().filter(|rule| {
            let named = rule["names"].as_array().expect("names").iter().any(|known| known == name);
            let fits = |condition: &Value| {
                let number = |key: &str| condition[key].as_u64().expect("a number");
                let argument = arguments[usize::try_from(number("index")).expect("an index")];
                match condition["op"].as_str().expect("an operator") {
                    "SCMP_CMP_EQ" => argument == number("value"),
                    "SCMP_CMP_NE" => argument != number("value"),
                    "SCMP_CMP_MASKED_EQ" => argument & number("value") == number("valueTwo"),
                    other => panic!("{other}"),
                }
            };
            let conditions = rule["args"].as_array().cloned().unwrap_or_default();
            named && conditions.iter().all(fits)
        });
        let mut found: Vec<_> = fits
            .map(|rule| format!("{}{}", rule["action"].as_str().expect("text"), rule["errnoRet"]).replace("null", ""))
            .collect();
        found.dedup();
        found
    }

    #[test]
    fn what_escapes_are_made_from_is_not_listed() {
        let names = "acct add_key adjtimex bpf cachestat chroot clock_adjtime clock_settime clone3 delete_module fanotify_init \
            file_setattr finit_module fsconfig fsmount fsopen fspick get_robust_list init_module io_uring_enter \
            io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl listmount listns \
            lookup_dcookie lsm_list_modules lsm_set_self_attr mbind memfd_secret modify_ldt mount mount_setattr move_mount move_pages name_to_handle_at \
            open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root process_madvise process_mrelease \
            process_vm_readv process_vm_writev ptrace quotactl reboot remap_file_pages request_key set_mempolicy \
            setdomainname sethostname setns settimeofday statmount swapoff swapon syslog umount2 unshare \
            userfaultfd uselib vhangup";
        for name in names.split_whitespace() {
            assert!(!allows(name, &[0; 6]), "{name}");
        }
    }

    #[test]
    fn sockets_are_those_of_the_host_and_of_the_internet() {
        const CLOEXEC: u64 = 0x8_0000;
        for (domain, kind, protocol, allowed) in [
            (AF_UNIX, SOCK_STREAM, 0, true),
            (AF_UNIX, 5, 0, true),
            (AF_INET, SOCK_STREAM | CLOEXEC, 6, true),
            (AF_INET6, SOCK_DGRAM | CLOEXEC | 0x800, 17, true),
            (AF_INET, SOCK_DGRAM, 1, true),
            (AF_INET, SOCK_STREAM, 132, false),
            (AF_INET, 6, 0, false),
            (AF_INET, 3, 1, false),
            (AF_NETLINK, 3 | CLOEXEC, NETLINK_ROUTE, true),
            (AF_NETLINK, 3, 6, false),
            (AF_NETLINK, 3, 9, false),
            (AF_NETLINK, 3, 12, false),
            (AF_INET | 1 << 32, SOCK_STREAM, 0, false),
        ] {
            assert_eq!(allows("socket", &[domain, kind, protocol]), allowed, "{domain} {kind:#x} {protocol}");
        }
        // AX.25, X.25, key, packet, TIPC, RDS, CAN, Bluetooth, RxRPC, phonet, ALG, NFC, VSOCK, KCM, SMC, XDP and all others.
        let open: BTreeSet<u64> = (0..64).filter(|domain| allows("socket", &[*domain, SOCK_STREAM, 0])).collect();
        assert_eq!(open, [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK].into());
        let pairs: Vec<u64> = (0..64).filter(|domain| allows("socketpair", &[*domain, SOCK_STREAM, 0])).collect();
        assert_eq!(pairs, [AF_UNIX]);
    }

    #[test]
    fn arguments_are_looked_at_where_a_call_can_do_harm() {
        for (request, allowed) in [
            (TIOCSTI, false),
            (TIOCSTI | 1 << 32, false),
            (TIOCSTI | 0xffff_ffff << 32, false),
            (0x541c, false),
            (0x5423, false),
            (0x5423 | 1 << 32, false),
            (TIOCSTI ^ 1, true),
            (0x5413, true),
            (0x541d, true),
            (0x5424, true),
            (0x8000_5423, true),
            (0x5401, true),
            (0, true),
            (0xffff_ffff, true),
        ] {
            assert_eq!(allows("ioctl", &[3, request]), allowed, "{request:#x}");
        }
        for (flags, allowed) in
            [(0x3d_0f00, true), (0x1200_0011, false), (0x2_0000, false), (0x1000_0000, false), (17, true)]
        {
            assert_eq!(allows("clone", &[flags]), allowed, "{flags:#x}");
        }
        for (level, option, allowed) in [
            (6, 31, false),
            (6 | 1 << 32, 31, false),
            (6, 31 | 1 << 40, false),
            (6, 1, true),
            (6, 30, true),
            (6, 63, true),
            (6, 64, false),
            (6, 31 | 64, false),
            (41, 31, true),
            (282, 1, false),
            (1, 31, true),
            (0, 0, true),
        ] {
            assert_eq!(allows("setsockopt", &[3, level, option]), allowed, "{level:#x} {option:#x}");
        }
        for (flags, allowed) in [(0, true), (0x4000, true), (1, false), (0x4001, false), (1 << 32, true)] {
            assert_eq!(allows("sendto", &[3, 0, 0, flags]), allowed, "{flags:#x}");
            assert_eq!(allows("sendmsg", &[3, 0, flags]), allowed, "{flags:#x}");
            assert_eq!(allows("sendmmsg", &[3, 0, 0, flags]), allowed, "{flags:#x}");
        }
        for resource in [4, 4 | 1 << 32] {
            assert_eq!(action("setrlimit", &[resource, 9]), ["SCMP_ACT_ERRNO0"]);
            assert_eq!(action("prlimit64", &[0, resource, 9, 0]), ["SCMP_ACT_ERRNO0"]);
            assert_eq!(action("prlimit64", &[0, resource, 0, 9]), ["SCMP_ACT_ALLOW"]);
        }
        for resource in [16, 20, 1 << 31] {
            assert_eq!(action("setrlimit", &[resource, 9]), [""; 0]);
            assert_eq!(action("prlimit64", &[0, resource, 9, 0]), [""; 0]);
        }
        for resource in (0..16).filter(|resource| *resource != 4) {
            assert_eq!(action("setrlimit", &[resource, 9]), ["SCMP_ACT_ALLOW"]);
            assert_eq!(action("prlimit64", &[0, resource, 9, 0]), ["SCMP_ACT_ALLOW"]);
        }
        assert_eq!(action("clone3", &[]), ["SCMP_ACT_ERRNO38"]);
        for (personality, allowed) in [(0, true), (0xffff_ffff, true), (0x4_0000, false), (0x10_0000, false)] {
            assert_eq!(allows("personality", &[personality]), allowed, "{personality:#x}");
        }
    }

    #[test]
    fn the_list_has_each_name_once_and_the_profile_is_for_64_bit_alone() {
        let names: BTreeSet<_> = allowed().into_iter().collect();
        assert_eq!(names.len(), allowed().len());
        let profile: Value = serde_json::from_str(profile()).expect("JSON");
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let archs = profile["archMap"].as_array().expect("a list");
        assert!(archs.len() == 2 && archs.iter().all(|arch| arch["subArchitectures"] == json!([])));
    }

    #[test]
    fn each_engine_gets_the_profile_in_the_way_that_it_takes() {
        let of_file = Seccomp::Profile { path: "/x".into(), json: "{}".into() };
        let option = |seccomp: &Seccomp, podman| option(seccomp, podman).expect("a file").map(Cow::into_owned);
        for podman in [false, true] {
            assert_eq!(option(&Seccomp::Engine, podman), None);
        }
        assert_eq!(option(&Seccomp::Builtin, false).as_deref(), Some(profile()));
        assert_eq!((option(&of_file, false), option(&of_file, true)), (Some("{}".to_owned()), Some("/x".to_owned())));
        let path = option(&Seccomp::Builtin, true).expect("a path");
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), profile());
        assert_eq!(option(&Seccomp::Builtin, true), Some(path), "one file for all jobs");
    }

    /// The rows of the page's table below this heading: the calls of the first cell, and the second one.
    fn rows<'a>(page: &'a str, heading: &str) -> Vec<(Vec<&'a str>, &'a str)> {
        let at = page.find(heading).expect(heading) + heading.len();
        let section = page[at..].split("\n## ").next().expect("a section");
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        rows.map(|line| {
            let mut cells = line.trim_matches(['|', ' ']).split(" | ");
            let calls = cells.next().expect("calls").split_whitespace().map(|call| call.trim_matches('`')).collect();
            (calls, cells.next().expect("a second cell"))
        })
        .collect()
    }

    /// Which programs make each call, by tests/programs/traces.txt, and the programs.
    fn traces() -> (BTreeMap<&'static str, Vec<&'static str>>, BTreeSet<&'static str>) {
        let text = include_str!("../../../tests/programs/traces.txt");
        let line = |line: &'static str| line.split_once(':').map(|(call, by)| (call, by.split_whitespace().collect()));
        let traces: BTreeMap<_, Vec<_>> = text.lines().map(|each| line(each).expect("CALL: PROGRAMS")).collect();
        let programs = traces.values().flatten().copied().collect();
        (traces, programs)
    }

    #[test]
    fn the_page_of_calls_tells_who_needs_each_call_that_is_allowed() {
        const USED: &str = "## Used by these programs\n\n| call | programs |\n|---|---|\n";
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = folder.join("docs/system-calls.md");
        let mut page = std::fs::read_to_string(&file).expect("the page");
        let allowed: BTreeSet<String> = {
            let profile: Value = serde_json::from_str(profile()).expect("JSON");
            let rules = profile["syscalls"].as_array().expect("rules").iter();
            let rules = rules.filter(|rule| rule["action"] == "SCMP_ACT_ALLOW");
            let names = rules.flat_map(|rule| rule["names"].as_array().expect("names").clone());
            names.map(|name| name.as_str().expect("a name").to_owned()).collect()
        };
        let (traces, programs) = traces();
        let (used, refused): (Vec<_>, Vec<_>) = traces.into_iter().partition(|(call, _)| allowed.contains(*call));
        let row = |(call, by): &(&str, Vec<&str>)| {
            let by = if by.len() == programs.len() { "all".to_owned() } else { by.join(", ") };
            format!("| `{call}` | {by} |\n")
        };
        let wanted: String = used.iter().map(row).collect();
        if std::env::var_os("CRONIUM_WRITE_DOCS").is_some() {
            let from = page.find(USED).expect("the first table") + USED.len();
            let to = from + page[from..].find("\n## ").expect("the second table");
            page.replace_range(from..to, &wanted);
            std::fs::write(&file, &page).expect("the page is written");
        }
        let advice = "stale: CRONIUM_WRITE_DOCS=1 cargo test --lib page_of_calls";
        assert!(page.contains(&format!("{USED}{wanted}\n## ")), "{advice}");
        let kept = rows(&page, "## Allowed, and used by none of them");
        assert!(kept.iter().all(|(_, why)| why.len() > 8), "a reason for each");
        let kept: Vec<_> = kept.into_iter().flat_map(|(calls, _)| calls).collect();
        let mut both: Vec<_> = used.iter().map(|(call, _)| *call).chain(kept).collect();
        both.sort_unstable();
        assert_eq!(both, allowed.iter().map(String::as_str).collect::<Vec<_>>());
        let said: BTreeSet<_> = rows(&page, "## Asked for, and refused").into_iter().flat_map(|row| row.0).collect();
        assert_eq!(said, refused.iter().map(|(call, _)| *call).collect());
        let left_out = rows(&page, "## Left out on purpose").into_iter().flat_map(|row| row.0);
        assert!(left_out.into_iter().all(|call| !allowed.contains(call)), "one is allowed");

        let entries = std::fs::read_dir(folder.join("tests/programs")).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let scripts = paths.filter(|path| path.extension().is_some_and(|kind| kind != "txt"));
        let scripts: BTreeSet<_> = scripts.map(|path| path.file_stem().expect("a name").to_owned()).collect();
        assert_eq!(scripts, programs.into_iter().map(Into::into).collect(), "scripts/programs.sh --trace");
    }
}

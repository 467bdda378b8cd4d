//! The filter of system calls: what it refuses, and that real programs run under it.

use crate::harness::{Agent, deployed, finish, job, report, shared, stderr, stdout};

/// Tries each call, and prints a line for it.
const TRIES: &str = include_str!("../../src/proofs/calls.py");

#[test]
fn each_call_that_escapes_are_made_from_is_refused() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let row = finish(&backend, job("PYTHON", TRIES));
    let said = stdout(&row);
    assert!(said.lines().count() > 190, "{said}{}", stderr(&row));
    let open: Vec<&str> = said.lines().filter(|line| !line.ends_with(" EPERM") && !line.ends_with(" SIGSYS")).collect();
    // The C library asks `clone` when it hears that there is no such call.
    assert_eq!(open, ["clone3 ENOSYS", "end of-calls"]);
    for name in
        ["io_uring_setup", "ptrace_init", "AF_VSOCK_1", "AF_ALG_5", "AF_RXRPC_2", "NETLINK_6", "ioctl_tiocsti_high"]
    {
        assert!(said.contains(&format!("{name} EPERM\n")), "{name} was not tried");
    }
    agent.stop();
}

#[test]
fn the_engines_own_profile_can_be_had_and_a_refused_call_is_hinted_at() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("container.security.seccompProfile", "engine")]);
    let row = finish(&backend, job("PYTHON", TRIES));
    let said = stdout(&row);
    assert!(said.contains("mount EPERM\n"), "{said}");
    let is_ours = |line: &str| line.ends_with(" EPERM") || line.ends_with(" SIGSYS");
    assert!(said.lines().filter(|line| !is_ours(line)).count() > 2, "it is another one: {said}");
    agent.stop();

    let agent = Agent::start(&backend, &[]);
    let row = finish(&backend, job("BASH", "unshare -r true"));
    let verdict = stderr(&row);
    assert!(verdict.contains("see container.security.seccompProfile"), "{verdict}");
    assert_eq!(report(&row)["status"], "failed");
    agent.stop();
}

/// What programs of each language do with the kernel, one line for each that worked.
const PYTHON: &str = include_str!("../programs/python.py");

const NODE: &str = include_str!("../programs/node.js");

const SHELL: &str = include_str!("../programs/shell.sh");

#[test]
fn what_scripts_of_each_language_do_with_the_kernel_works() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    for (language, script) in [("PYTHON", PYTHON), ("NODEJS", NODE), ("BASH", SHELL)] {
        let row = finish(&backend, job(language, script));
        assert!(stdout(&row).ends_with("end\n"), "{language}: {}{}", stdout(&row), stderr(&row));
        assert_eq!(report(&row)["exitCode"], 0, "{language}");
    }
    agent.stop();
}

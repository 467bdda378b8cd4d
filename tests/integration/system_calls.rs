//! The filter of system calls: what it refuses, and that real programs run under it.

use crate::harness::{Agent, deployed, finish, job, report, shared, stderr, stdout};

/// Tries each call, and prints a line for it.
const TRIES: &str = include_str!("../../src/cli/doctor/calls.py");

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
const PYTHON: &str = r#"
import asyncio, ctypes, mmap, multiprocessing, os, select, signal, socket, sqlite3, ssl, subprocess, tempfile, threading, time

def double(n):
    return 2 * n

def pool():
    with multiprocessing.Pool(2) as workers:
        assert workers.map(double, range(5)) == [0, 2, 4, 6, 8]

def shared_memory():
    value = multiprocessing.Value("i", 0)
    process = multiprocessing.Process(target=lambda: setattr(value, "value", 7))
    process.start(); process.join()
    assert value.value == 7

def threads():
    done = []
    all = [threading.Thread(target=done.append, args=(n,)) for n in range(20)]
    [t.start() for t in all]; [t.join() for t in all]
    assert len(done) == 20

def loop():
    async def main():
        process = await asyncio.create_subprocess_exec("echo", "x", stdout=asyncio.subprocess.PIPE)
        assert (await process.communicate())[0] == b"x\n"
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.01)
    asyncio.run(main())

def timer():
    heard = []
    signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    signal.pause()
    assert heard

def memory():
    with tempfile.TemporaryFile(dir="/workspace") as file:
        file.truncate(8192)
        with mmap.mmap(file.fileno(), 8192) as view:
            view[:4] = b"abcd"
            assert view[:4] == b"abcd"
    os.close(os.memfd_create("x"))

def sockets():
    a, b = socket.socketpair()
    a.send(b"x"); assert b.recv(1) == b"x"
    for family, kind in [(socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_DGRAM)]:
        socket.socket(family, kind).close()
    assert socket.getaddrinfo("localhost", 80)
    assert socket.if_nameindex()

def files():
    os.makedirs("/workspace/a/b"); os.symlink("b", "/workspace/a/c"); os.link(__file__, "/workspace/l") if os.path.exists(globals().get("__file__", "")) else None
    os.rename("/workspace/a", "/workspace/d"); os.utime("/workspace/d"); os.sync()
    poll = select.epoll(); poll.close()
    os.sendfile; os.copy_file_range

def database():
    with sqlite3.connect("/workspace/x.db") as db:
        db.execute("create table t (n)"); db.executemany("insert into t values (?)", [(n,) for n in range(100)])
        assert db.execute("select sum(n) from t").fetchone() == (4950,)

for name, test in [(f.__name__, f) for f in (pool, shared_memory, threads, loop, timer, memory, sockets, files, database)]:
    test()
    print(name)
subprocess.run(["sh", "-c", "nice -n 5 true && ulimit -n 64 && sleep 0 | cat"], check=True)
ssl.create_default_context()
print("end")
"#;

const NODE: &str = r#"
const { Worker } = require("worker_threads");
const fs = require("fs"), cp = require("child_process"), crypto = require("crypto"), net = require("net"), dns = require("dns");
const steps = {
  worker: () => new Promise((ok, no) => new Worker("require('worker_threads').parentPort.postMessage(6*7)", { eval: true })
    .on("message", (n) => n === 42 ? ok() : no(n)).on("error", no)),
  child: () => new Promise((ok, no) => cp.execFile("echo", ["x"], (e, out) => e || out !== "x\n" ? no(e || out) : ok())),
  fork: () => new Promise((ok, no) => { fs.writeFileSync("/workspace/f.js", "process.send('x')");
    cp.fork("/workspace/f.js").on("message", ok).on("error", no); }),
  crypto: () => new Promise((ok, no) => crypto.generateKeyPair("ec", { namedCurve: "P-256" }, (e) => e ? no(e) : ok())),
  scrypt: () => new Promise((ok, no) => crypto.scrypt("a", "b", 32, (e) => e ? no(e) : ok())),
  watch: () => new Promise((ok) => { const w = fs.watch("/workspace", () => { w.close(); ok(); }); fs.writeFileSync("/workspace/w", ""); }),
  files: async () => { await fs.promises.writeFile("/workspace/p", "x".repeat(1e6)); await fs.promises.copyFile("/workspace/p", "/workspace/q");
    if ((await fs.promises.stat("/workspace/q")).size !== 1e6) throw new Error("size"); },
  server: () => new Promise((ok, no) => { const s = net.createServer((c) => c.end("x")).listen(0, "127.0.0.1", () =>
    net.connect(s.address().port, "127.0.0.1").on("data", () => { s.close(); ok(); }).on("error", no)); }),
  lookup: () => new Promise((ok, no) => dns.lookup("localhost", (e) => e ? no(e) : ok())),
};
(async () => { for (const [name, step] of Object.entries(steps)) { await step(); console.log(name); } console.log("end"); })();
"#;

const SHELL: &str = r#"
set -eu
cd /workspace
mkdir -p a/b && echo text > a/b/c && tar -czf a.tar.gz a && rm -r a && tar -xzf a.tar.gz && cat a/b/c
find . -name c -exec grep -c text {} \;
mkfifo p && (echo through > p &) && cat p
id > /dev/null; df /workspace > /dev/null; date > /dev/null
(sleep 5 & kill $!; wait $! || true)
timeout 0.1 sleep 5 || echo timed
sort -R < /proc/self/status | sort | head -n 1 > /dev/null
trap 'echo heard' USR1; kill -USR1 $$
for i in 1 2 3; do (sleep 0.01; echo $i) & done | sort; wait
echo end
"#;

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

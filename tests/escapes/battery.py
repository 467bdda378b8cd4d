# Tries ways out of a container that no other proof tries, and prints a line for each: NAME ANSWER. The answer is the error's
# name; "masked" for a file that is there and says nothing; "none" for a list without anything odd; else it begins with "open".
# The first part of a name says what kind of wall it meets. Nothing here changes the host, in a container without walls either.
import array
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
HOME = os.environ.get("PLACE", "/workspace")


def say(name, answer):
    print(name, answer, flush=True)


def tried(name, attempt):
    """What the attempt returns stands behind "open", unless it returns one of the words for no hole."""
    try:
        answer = attempt()
    except OSError as error:
        say(name, errno.errorcode.get(error.errno, error.errno))
        return
    say(name, answer if answer in ("masked", "none", "absent") else f"open {answer or ''}".strip())


def worst(name, attempts):
    """One line for all: the one that got furthest."""
    answers = []
    for attempt in attempts:
        try:
            attempt()
            answers.append("open")
        except OSError as error:
            answers.append(errno.errorcode.get(error.errno, str(error.errno)))
    refused = [answer for answer in answers if answer in ("EROFS", "EACCES", "EPERM")]
    others = [answer for answer in answers if answer not in refused]
    say(name, (others or refused or ["absent"])[0])


def call(function, *arguments):
    ctypes.set_errno(0)
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")


def apart(name, attempt):
    """In a process of its own, which may end or change for it."""
    child = os.fork()
    if child == 0:
        tried(name, attempt)
        os._exit(0)
    ended = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(ended):
        say(name, signal.Signals(os.WTERMSIG(ended)).name)


# --- files of the kernel, opened for writing and not written
def written(path):
    if path in RUNNING:
        # A program that runs refuses writers in any case. A mount that is read-only refuses this as well.
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))
        return
    made = os.O_CREAT if path in NEW else 0
    os.close(os.open(path, os.O_WRONLY | made))
    if made:
        os.unlink(path)


RUNNING = ["/sbin/docker-init", "/proc/1/exe"]
NEW = ["/etc/ld.so.preload", "/usr/bin/cronium-battery", "/cronium-battery", "/run/cronium-battery", "/var/tmp/cronium-battery"]


MOUNTS = [line.split() for line in open("/proc/self/mountinfo")]
PLACES = [fields[4] for fields in MOUNTS]
KINDS = {fields[4]: fields[fields.index("-") + 1] for fields in MOUNTS}
for path in [
    "/proc/sys/kernel/core_pattern",  # a program that the kernel starts as root on the host
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/usermodehelper/bset",
    "/proc/sys/kernel/poweroff_cmd",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/kernel/domainname",
    "/proc/sys/kernel/shmmax",
    "/proc/sys/fs/file-max",
    "/proc/sys/fs/suid_dumpable",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/vm/mmap_min_addr",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sysrq-trigger",
    "/proc/mtrr",
    "/proc/irq/default_smp_affinity",
    "/proc/acpi/wakeup",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/profiling",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/ksm/run",
    "/sys/power/state",
    "/sys/power/disk",
    "/sys/block/zram0/reset",
    "/sys/devices/system/cpu/cpu1/online",
    "/sys/module/nf_conntrack/parameters/hashsize",
    "/sys/bus/pci/rescan",
    "/etc/hosts",  # these three stand on the host's disk
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/passwd",
    "/bin/sh",
    *RUNNING,
    *NEW,
]:
    if os.path.lexists(path) or path in NEW:
        tried(f"write:{path}", lambda: written(path))
    else:
        say(f"write:{path}", "absent")
for name in ["cgroup.procs", "tasks", "release_agent", "notify_on_release", "devices.allow", "cgroup.freeze", "cgroup.kill",
             "cgroup.subtree_control", "memory.max", "memory.limit_in_bytes", "pids.max", "cpu.max", "cpu.cfs_quota_us"]:
    files = [f"{at}/{name}" for at, kind in KINDS.items() if kind.startswith("cgroup") and os.path.exists(f"{at}/{name}")]
    worst(f"write:cgroup/{name}", [lambda path=path: written(path) for path in files])


def group(at):
    os.mkdir(f"{at}/cronium-battery")
    os.rmdir(f"{at}/cronium-battery")


worst("write:cgroup/NEW", [lambda at=at: group(at) for at, kind in KINDS.items() if kind.startswith("cgroup")])


def lower():
    """So that the kernel would end all others first, where memory is short."""
    with open("/proc/self/oom_score_adj", "r+") as file:
        file.write("-999")


apart("root:oom_score_adj", lower)

# --- what the kernel tells of the host
for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats", "/proc/kpagecount",
             "/proc/kpageflags", "/proc/kpagecgroup", "/proc/vmallocinfo", "/proc/slabinfo", "/proc/kmsg", "/proc/pagetypeinfo",
             "/sys/class/dmi/id/product_serial",
             "/sys/devices/virtual/powercap/intel-rapl/intel-rapl:0/energy_uj"]:
    def read():
        with open(path, "rb", 0) as file:
            # A reader of the kernel's log would wait.
            return "" if path == "/proc/kmsg" or file.read(64) else "masked"
    if os.path.lexists(path):
        tried(f"read:{path}", read)
    else:
        say(f"read:{path}", "absent")
for path in ["/proc/kallsyms", "/proc/iomem", "/proc/ioports"]:
    def addresses():
        words = [line.split()[0] for line in open(path)][:200]
        return "" if any(set(word) - set("0-") for word in words) else "masked"
    tried(f"read:{path}", addresses)
for path in ["/sys/firmware", "/proc/acpi", "/proc/scsi"]:
    if os.path.isdir(path):
        tried(f"read:{path}", lambda: "" if os.listdir(path) else "masked")
    else:
        say(f"read:{path}", "absent")

# --- devices
KNOWN = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0), "ptmx": (5, 2)}


def odd_devices():
    odd = []
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = f"{folder}/{name}"
            at = os.lstat(path)
            if stat.S_ISLNK(at.st_mode):
                odd += [path] if os.readlink(path) not in ("/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2",
                                                           "/proc/kcore", "pts/ptmx") else []
            elif stat.S_ISCHR(at.st_mode) or stat.S_ISBLK(at.st_mode):
                number = (os.major(at.st_rdev), os.minor(at.st_rdev))
                odd += [path] if stat.S_ISBLK(at.st_mode) or KNOWN.get(name) != number else []
    return " ".join(odd[:9]) if odd or os.path.islink("/dev") else "none"


tried("have:devices", odd_devices)
for name in ["mem", "kmem", "port", "kmsg", "kvm", "fuse", "loop-control", "loop0", "net/tun", "mapper/control", "vhost-vsock", "vsock",
             "userfaultfd", "vga_arbiter", "cpu_dma_latency", "btrfs-control", "autofs", "uinput", "dri/card0", "nvidia0", "console",
             "tty0", "tty1", "vcs", "hwrng", "zram0", "rtc0", "vda", "sda", "nvme0n1"]:
    tried(f"device:{name}", lambda: os.close(os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK)))
for name, kind, number in [("memory", stat.S_IFCHR, (1, 1)), ("disk", stat.S_IFBLK, (8, 0)), ("fuse", stat.S_IFCHR, (10, 229))]:
    def node():
        os.mknod(f"{HOME}/node-{name}", kind | 0o600, os.makedev(*number))
        os.unlink(f"{HOME}/node-{name}")
    tried(f"node:{name}", node)

# --- mounts, descriptors and the working directory: a trace of the host, as runc's leaks were
FILES = {"/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/sbin/docker-init", "/usr/sbin/docker-init", "/run/cronium", "/dev/init", "/run/podman-init"}
VIRTUAL = {"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"}
MEMORY = {"/dev", "/dev/shm", "/workspace", "/tmp", "/run", "/var/tmp", "/sys/fs/cgroup"}


def odd_mounts():
    odd = []
    for at, kind in KINDS.items():
        # Over a file or folder below these it is a mask.
        mask = kind in ("tmpfs", "devtmpfs") and at.startswith(("/proc/", "/sys/")) or kind == "tmpfs" and at in MEMORY
        if not (at == "/" or kind in VIRTUAL or mask or at in FILES):
            odd.append(f"{kind} on {at}")
    return ", ".join(odd) or "none"


tried("have:mounts", odd_mounts)


def odd_descriptors(process):
    odd = []
    for number in os.listdir(f"/proc/{process}/fd"):
        try:
            to = os.readlink(f"/proc/{process}/fd/{number}")
        except OSError:
            continue
        if not to.startswith(("pipe:", "/dev/null", f"/proc/{process}/fd", "socket:", "anon_inode:", "/dev/pts/")) and int(number) < 200:
            odd.append(f"{number}->{to}")
    return " ".join(odd) or "none"


tried("have:descriptors-of-init", lambda: odd_descriptors(1))
tried("have:own-descriptors", lambda: odd_descriptors(os.getpid()))


def around():
    """From every open folder upwards: does a way end elsewhere than in the container's root?"""
    root = os.stat("/")
    for start in [f"/proc/{process}/{name}" for process in ("self", "1") for name in ("cwd", "root")]:
        at = os.stat(start + "/.." * 40)
        if (at.st_dev, at.st_ino) != (root.st_dev, root.st_ino):
            return start
    return "none"


tried("have:another-root", around)
tried("have:host-processes", lambda: "" if "kthreadd" in (open("/proc/2/comm").read() if os.path.exists("/proc/2") else "") else "none")

# --- users and rights
tried("root:chown", lambda: (open(f"{HOME}/own", "w").close(), os.chown(f"{HOME}/own", 12, 12)) and "")
tried("root:file-capability", lambda: os.setxattr(f"{HOME}/own", "security.capability", struct.pack("<5I", 0x2000001, 0x200000, 0, 0, 0)))
tried("root:trusted-attribute", lambda: os.setxattr(f"{HOME}/own", "trusted.cronium", b"y"))
tried("root:immutable", lambda: fcntl.ioctl(os.open(f"{HOME}/own", os.O_RDONLY), 0x40086602, array.array("l", [0x10])))
for name, change in [("setuid", lambda: os.setuid(12)), ("setgid", lambda: os.setgid(12)), ("setgroups", lambda: os.setgroups([12])),
                     ("setresuid", lambda: os.setresuid(12, 12, 12))]:
    apart(f"root:{name}", change)
apart("root:set-mm", lambda: call(libc.prctl, 35, 6, ctypes.c_ulong(4096), 0, 0))


def setuid_program():
    """A file of another owner's with the setuid bit, which gives its user's rights where a file system and the process let it."""
    path = f"{HOME}/setuid"
    with open(sys.executable, "rb") as source, open(path, "wb") as copy:
        copy.write(source.read())
    if os.geteuid() == 0:
        os.chown(path, 12, 12)
    os.chmod(path, 0o4755)
    answer, end = os.pipe()
    if os.fork() == 0:
        if os.geteuid() == 0:
            os.setuid(13)
        os.dup2(end, 1)
        os.execve(path, [path, "-c", "import os; print(os.getuid(), os.geteuid())"], {"PYTHONHOME": sys.prefix})
    os.close(end)
    os.wait()
    real, effective = os.read(answer, 99).decode().split()
    return f"{real} is {effective}" if real != effective else "none"


apart("have:rights-by-setuid", setuid_program)


def off():
    text = open("/proc/self/status").read()
    wanted = ["NoNewPrivs:\t1", "Seccomp:\t2", *(f"Cap{name}:\t{0:016}" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb"))]
    return " ".join(word.split(":")[0] for word in wanted if word not in text) or "none"


tried("have:locks-that-are-off", off)
apart("root:nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
apart("root:realtime", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
apart("root:realtime-io", lambda: call(libc.syscall, 251 if X86 else 30, 1, 0, 1 << 13))


def cores():
    """At another limit than 1 the kernel starts the handler that the host's core_pattern names, as root, for a crash."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return "none" if resource.getrlimit(resource.RLIMIT_CORE) == (1, 1) else str(resource.getrlimit(resource.RLIMIT_CORE))


apart("have:handler-of-crashes", cores)
tried("root:lease-of-a-program", lambda: fcntl.fcntl(os.open("/etc/passwd", os.O_RDONLY), 1024, fcntl.F_RDLCK))
for name, number in [("add-entropy", 0x40085203), ("forget-entropy", 0x5206)]:
    tried(f"root:{name}", lambda: fcntl.ioctl(os.open("/dev/random", os.O_RDWR), number, struct.pack("ii8x", 0, 0)))

# --- the network: netlink's ROUTE is open for reading alone
INTERFACE = next((name for _, name in socket.if_nameindex() if name != "lo"), "lo")
INDEX = socket.if_nametoindex(INTERFACE)


def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def netlink(kind, body, flags=0x600):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        route.send(struct.pack("=IHHII", 16 + len(body), kind, 5 | flags, 1, 0) + body)
        answer = route.recv(65536)
    code = struct.unpack("=i", answer[16:20])[0] if struct.unpack("=H", answer[4:6])[0] == 2 else 0
    if code:
        raise OSError(-code, "")


def link(kind):
    return struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0) + attribute(18, attribute(1, kind))


for name, kind, body in [
    ("new-bridge", 16, link(b"bridge")),
    ("new-vlan", 16, link(b"vlan")),
    ("new-wireguard", 16, link(b"wireguard")),
    ("new-address", 20, struct.pack("=BBBBI", 2, 32, 0, 0, INDEX) + attribute(2, bytes([10, 99, 99, 99]))),
    ("new-route", 24, struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 4, 253, 1, 0) + attribute(1, bytes([10, 99, 99, 98])) +
     attribute(4, struct.pack("=I", INDEX))),
    ("new-neighbour", 28, struct.pack("=BBHiHBB", 2, 0, 0, INDEX, 0x80, 0, 0) + attribute(1, bytes([10, 99, 99, 97])) +
     attribute(2, b"\2\0\0\0\0\1")),
    ("new-rule", 32, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0)),
    ("new-queue", 36, struct.pack("=BBHiIII", 0, 0, 0, INDEX, 0, 0xFFFFFFFF, 0) + attribute(1, b"pfifo\0")),
    ("new-filter", 44, struct.pack("=BBHiIII", 0, 0, 0, INDEX, 0, 0xFFFFFFFF, 0) + attribute(1, b"u32\0")),
    ("other-hardware-address", 19, struct.pack("=BBHiII", 0, 0, 0, INDEX, 0, 0) + attribute(1, b"\2\0\0\0\0\2")),
]:
    tried(f"net:{name}", lambda: netlink(kind, body))
with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
    for name, number in [("interface-flags", 0x8914), ("interface-address", 0x8916), ("new-arp-entry", 0x8955), ("add-route", 0x890B)]:
        tried(f"net:ioctl-{name}", lambda: fcntl.ioctl(plain, number, INTERFACE.encode().ljust(16, b"\0") + bytes([2, 0, 0, 0, 10, 9, 9, 9]) + bytes(96)))
    for name, level, option, value in [
        ("iptables", 0, 64, bytes(96)),
        ("transparent", 0, 19, 1),
        ("mark", 1, 36, 1),
        ("priority", 1, 12, 7),
        ("force-buffer", 1, 33, 1 << 24),
        ("debug", 1, 1, 1),
        ("kernel-tls", 6, 31, b"tls"),
        ("other-protocol", 6, 31, b"espintcp"),
    ]:
        tried(f"net:option-{name}", lambda: plain.setsockopt(level, option, value))


def urgent():
    one, other = socket.socketpair()
    one.send(b"x", socket.MSG_OOB)


tried("net:urgent-byte-of-a-local-socket", urgent)

# --- terminals: a new one is there for all, what loads modules or types for others is not
try:
    master, terminal = os.openpty()
except OSError as error:
    say("tty:none", errno.errorcode[error.errno])
else:
    for name, number in [("slip", 1), ("ppp", 3), ("hdlc", 13), ("gsm", 21), ("can", 25)]:
        tried(f"tty:discipline-{name}", lambda: fcntl.ioctl(terminal, 0x5423, struct.pack("i", number)))
    tried("tty:typing-for-others", lambda: fcntl.ioctl(terminal, 0x5412, b"x"))
    tried("tty:selection", lambda: fcntl.ioctl(terminal, 0x541C, b"\3"))


# --- the page cache
def dirty_pipe():
    """Writes into a file that is only open for reading, by a pipe that holds its page (CVE-2022-0847)."""
    path = f"{HOME}/page"
    with open(path, "wb") as file:
        file.write(b"as it was" * 500)
    os.chmod(path, 0o400)
    file, (reader, writer) = os.open(path, os.O_RDONLY), os.pipe()
    size = fcntl.fcntl(writer, 1032)
    for act in (lambda: os.write(writer, bytes(4096)), lambda: os.read(reader, 4096)):
        for _ in range(size // 4096):
            act()
    if os.splice(file, writer, 1, 1) == 1:
        os.write(writer, b"changed")
    return "" if b"changed" in open(path, "rb").read() else "none"


tried("have:pages-of-a-file-changed-by-a-pipe", dirty_pipe)
say("end", "of-battery")

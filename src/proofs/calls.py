# Tries each system call that a job's filter must refuse, and prints the result of each: NAME and the error's name, or "open".
import ctypes
import errno
import mmap
import os
import platform
import signal

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
page = ctypes.create_string_buffer(4096)
here = ctypes.addressof(page)
me = os.getpid()
BOTH = {  # NAME: (x86_64, aarch64, arguments)
    "io_uring_setup": (425, 425, (4, here)),
    "io_uring_enter": (426, 426, (0, 0, 0, 0, 0, 0)),
    "io_uring_register": (427, 427, (0, 0, 0, 0)),
    "userfaultfd": (323, 282, (0,)),
    "bpf": (321, 280, (0, here, 64)),
    "perf_event_open": (298, 241, (here, 0, -1, -1, 0)),
    "ptrace_traceme": (101, 117, (0, 0, 0, 0)),
    "ptrace_init": (101, 117, (0x4206, 1, 0, 0)),
    "process_vm_readv": (310, 270, (me, here, 1, here, 1, 0)),
    "process_vm_writev": (311, 271, (me, here, 1, here, 1, 0)),
    "keyctl": (250, 219, (0, -1, 0, 0, 0)),
    "add_key": (248, 217, (here, here, here, 0, -1)),
    "request_key": (249, 218, (here, here, 0, -1)),
    "open_by_handle_at": (304, 265, (-100, here, 0)),
    "kcmp": (312, 272, (me, me, 0, 0, 0)),
    "unshare_user": (272, 97, (0x10000000,)),
    "unshare_net": (272, 97, (0x40000000,)),
    "unshare_files": (272, 97, (0x400,)),
    "setns": (308, 268, (0, 0)),
    "clone_user": (56, 220, (0x10000011, 0, 0, 0, 0)),
    "clone_mount": (56, 220, (0x00020011, 0, 0, 0, 0)),
    "clone_cgroup": (56, 220, (0x02000011, 0, 0, 0, 0)),
    "mount": (165, 40, (here, here, here, 0, 0)),
    "umount2": (166, 39, (here, 0)),
    "pivot_root": (155, 41, (here, here)),
    "open_tree": (428, 428, (-100, here, 0)),
    "move_mount": (429, 429, (-1, here, -1, here, 0)),
    "fsopen": (430, 430, (here, 0)),
    "fsconfig": (431, 431, (-1, 0, 0, 0, 0)),
    "fsmount": (432, 432, (-1, 0, 0)),
    "fspick": (433, 433, (-100, here, 0)),
    "mount_setattr": (442, 442, (-100, here, 0, here, 32)),
    "init_module": (175, 105, (here, 0, here)),
    "finit_module": (313, 273, (-1, here, 0)),
    "delete_module": (176, 106, (here, 0)),
    "kexec_load": (246, 104, (0, 0, 0, 0)),
    "reboot": (169, 142, (0, 0, 0, 0)),
    "settimeofday": (164, 170, (here, 0)),
    "clock_settime": (227, 112, (0, here)),
    "adjtimex": (159, 171, (here,)),
    "clock_adjtime": (305, 266, (0, here)),
    "swapon": (167, 224, (here, 0)),
    "acct": (163, 89, (0,)),
    "syslog": (103, 116, (3, here, 16)),
    "chroot": (161, 51, (here,)),
    "sethostname": (170, 161, (here, 1)),
    "quotactl": (179, 60, (0, 0, 0, 0)),
    "vhangup": (153, 58, ()),
    "fanotify_init": (300, 262, (0, 0)),
    "mbind": (237, 235, (0, 0, 0, 0, 0, 0)),
    "move_pages": (279, 239, (me, 0, 0, 0, 0, 0)),
    "pidfd_getfd": (438, 438, (-1, 0, 0)),
    "process_madvise": (440, 440, (-1, here, 0, 0, 0)),
    "personality_no_random": (135, 92, (0x0040000,)),
    "personality_read_exec": (135, 92, (0x0400000,)),
    "ioctl_tiocsti": (16, 29, (0, 0x5412, here)),
    "ioctl_tiocsti_high": (16, 29, (0, 0x100005412, here)),
    "clone3": (435, 435, (here, 88)),
}
X86_ONLY = {
    "modify_ldt": (154, (0, here, 16)),
    "iopl": (172, (3,)),
    "ioperm": (173, (0, 1, 1)),
    "uselib": (134, (here,)),
    "_sysctl": (156, (here,)),
}
FAMILIES = {
    "AX25": 3, "IPX": 4, "APPLETALK": 5, "NETROM": 6, "X25": 9, "KEY": 15, "PACKET": 17, "RDS": 21, "LLC": 26, "CAN": 29,
    "TIPC": 30, "BLUETOOTH": 31, "IUCV": 32, "RXRPC": 33, "ISDN": 34, "PHONET": 35, "IEEE802154": 36, "CAIF": 37, "ALG": 38,
    "NFC": 39, "VSOCK": 40, "KCM": 41, "QIPCRTR": 42, "SMC": 43, "XDP": 44, "MCTP": 45,
}


def tried(name, number, arguments):
    ctypes.set_errno(0)
    given = [ctypes.c_long(argument) for argument in arguments]
    answer = libc.syscall(ctypes.c_long(number), *given)
    if answer == 0 and name.startswith("clone"):
        os._exit(0)
    code = ctypes.get_errno()
    print(name, "open" if answer != -1 else errno.errorcode.get(code, code), flush=True)


for name, (x86, arm, arguments) in BOTH.items():
    # A process that is traced stops at its next signal.
    child = os.fork() if name.startswith("ptrace") else None
    if child:
        os.waitpid(child, 0)
        continue
    tried(name, x86 if X86 else arm, arguments)
    if child == 0:
        os._exit(0)
if X86:
    for name, (number, arguments) in X86_ONLY.items():
        tried(name, number, arguments)
    # The entries of other architectures: 32 bits by interrupt 0x80 (getpid), x32 by its bit in the number.
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    interrupt = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    for name, call in {"int80": interrupt, "x32": lambda: libc.syscall(ctypes.c_long(0x40000000 | 39))}.items():
        child = os.fork()
        if child == 0:
            os._exit(0 if call() > 0 else 1)
        ended = os.waitpid(child, 0)[1]
        print(name, "SIGSYS" if os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGSYS else f"open ({ended})")
socket = 41 if X86 else 198
for name, family in FAMILIES.items():
    for kind in (1, 2, 3, 5):
        tried(f"AF_{name}_{kind}", socket, (family, kind, 0))
for protocol in range(1, 23):
    tried(f"NETLINK_{protocol}", socket, (16, 3, protocol))
for name, kind, protocol in [("SCTP", 1, 132), ("DCCP", 6, 0), ("UDPLITE", 2, 136), ("RAW", 3, 255), ("SEQPACKET", 5, 132)]:
    for family in (2, 10):
        tried(f"INET{family}_{name}", socket, (family, kind, protocol))
print("end of-calls")

# Two jobs of one agent. HOLD: has something of each kind that namespaces keep apart, looks at it itself, then waits for packets.
# LOOK: looks for it, then sends packets to PEER in each way that a job without rights can. A line for each: NAME ANSWER.
import ctypes
import fcntl
import os
import select
import socket
import struct
import time

libc = ctypes.CDLL(None, use_errno=True)
KEY, PORT = 0x63726F6E, 7777
CREATE = 0o1666


def shared_memory():
    return libc.shmget(KEY, 0, 0) != -1


def answers(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(2)
        return one.connect_ex(address) == 0


def is_locked():
    try:
        fcntl.flock(os.open("/etc/passwd", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


LOOKS = {
    "shared-memory": shared_memory,
    "message-queue": lambda: libc.msgget(KEY, 0) != -1,
    "semaphore": lambda: libc.semget(KEY, 0, 0) != -1,
    "posix-queue": lambda: libc.mq_open(b"/cronium-held", os.O_RDONLY) != -1,
    "file-in-shm": lambda: os.path.exists("/dev/shm/cronium-held"),
    "file-in-tmp": lambda: os.path.exists("/tmp/cronium-held"),
    "file-in-workspace": lambda: os.path.exists("/workspace/cronium-held"),
    "abstract-socket": lambda: answers(socket.AF_UNIX, "\0cronium-held"),
    "name-of-a-socket": lambda: "@cronium-held" in open("/proc/net/unix").read(),
    "loopback": lambda: answers(socket.AF_INET, ("127.0.0.1", PORT)),
    "lock-on-a-file-of-the-image": is_locked,
}


def look():
    for name, seen in LOOKS.items():
        print("look", name, "seen" if seen() else "no", flush=True)


def send(peer):
    mask = next(line.split()[7] for line in open("/proc/net/route") if line.split()[2] == "00000000")
    number = struct.unpack("!I", socket.inet_aton(peer))[0] | ~struct.unpack("!I", bytes.fromhex(mask)[::-1])[0] & 0xFFFFFFFF
    around = socket.inet_ntoa(struct.pack("!I", number))
    print("send tcp", "seen" if answers(socket.AF_INET, (peer, PORT)) else "no")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for to in (peer, around, "255.255.255.255", "224.0.0.251"):
            try:
                plain.sendto({peer: "unicast", around: "of-the-network"}.get(to, to).encode(), (to, PORT))
            except OSError as error:
                print("send", to, error.strerror)
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
            for index, name in socket.if_nameindex():
                if name != "lo":
                    six.sendto(b"ff02::1", ("ff02::1", PORT, 0, index))
    except OSError as error:
        print("send six", error.strerror)
    time.sleep(1)


def hold():
    libc.shmget(KEY, 4096, CREATE)
    libc.msgget(KEY, CREATE)
    libc.semget(KEY, 1, CREATE)
    libc.mq_open(b"/cronium-held", os.O_RDWR | os.O_CREAT, 0o666, None)
    for place in ("/dev/shm", "/tmp", "/workspace"):
        open(f"{place}/cronium-held", "w").close()
    local = socket.socket(socket.AF_UNIX)
    local.bind("\0cronium-held")
    local.listen()
    locked = os.open("/etc/passwd", os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)
    tcp = socket.create_server(("0.0.0.0", PORT))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("0.0.0.0", PORT))
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + socket.inet_aton("0.0.0.0"))
    waiting = [tcp, udp]
    try:
        six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        six.bind(("::", PORT))
        waiting.append(six)
    except OSError:
        pass
    look()
    print("address", socket.gethostbyname(socket.gethostname()), socket.gethostname(), flush=True)
    own, until = None, time.monotonic() + 25
    while time.monotonic() < until:
        for ready in select.select(waiting, [], [], 0.2)[0]:
            if ready is tcp:
                connection, peer = tcp.accept()
                connection.close()
                if not peer[0].startswith("127."):
                    print("came tcp", flush=True)
            else:
                print("came", ready.recv(99).decode(), flush=True)


if os.environ["ROLE"] == "hold":
    hold()
else:
    look()
    send(os.environ["PEER"])
    try:
        print("name", socket.gethostbyname(os.environ["NAME"]))
    except OSError as error:
        print("name", error.strerror)

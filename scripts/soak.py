"""The loop of soak.sh: keeps jobs coming, makes faults, and adds up what came of it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

BIN, SCRATCH, MINUTES = sys.argv[1], sys.argv[2], float(sys.argv[3])
SEED = int(os.environ.get("SOAK_SEED", str(int(time.time()))))
AGENT_ID = f"soak-{os.getpid()}"
# So many jobs wait or run at a time.
OPEN_JOBS = 10
# How long the end may take, once the faults are over.
PATIENCE = 180
RNG = random.Random(SEED)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def call(method, path, body=None, base=None, tries=60):
    """A call to the backend's own side; it is away for moments, since that is one of the faults."""
    data = None if body is None else json.dumps(body).encode()
    for attempt in range(tries):
        request = urllib.request.Request((base or URL) + path, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read().decode()
                return json.loads(text) if text.startswith(("{", "[")) else text
        except (urllib.error.URLError, OSError):
            if attempt + 1 == tries:
                raise
            time.sleep(0.25)
    return None


class Agent:
    """The agent's process; the next one is always on the same state folder."""

    def __init__(self):
        self.port = free_port()
        self.process = None
        self.worst = 0.0

    def start(self):
        settings = {
            "api.endpoint": URL,
            "orchestrator.id": AGENT_ID,
            "state.dir": os.path.join(SCRATCH, "state"),
            "monitoring.healthPort": self.port,
            "monitoring.metricsPort": self.port,
            "jobs.pollInterval": "200ms",
            "jobs.maxPollInterval": "1s",
            "jobs.drainTimeout": "300ms",
            "jobs.leaseRenewal": "2s",
            "api.retry.maxAttempts": 2,
            "api.retry.maxDelay": "1s",
            "api.rateLimit.enabled": "false",
        }
        command = [os.path.join(BIN, "cronium-agent"), "run"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        log = open(os.path.join(SCRATCH, "agent.log"), "ab")
        environment = dict(os.environ, CRONIUM_API_TOKEN="soak")
        begun = time.monotonic()
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        while True:
            if self.process.poll() is not None:
                sys.exit(f"the agent ended by itself: {self.process.returncode}; see {SCRATCH}/agent.log")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=2).read()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
            # It is not ready while the backend is away, and no fault lasts longer than this.
            if time.monotonic() - begun > 60:
                sys.exit("the agent did not become ready within 60 s")
        self.worst = max(self.worst, time.monotonic() - begun)

    def end(self, number):
        self.process.send_signal(number)
        self.process.wait(timeout=120)

    def figures(self):
        """RSS in kB, threads, descriptors."""
        folder = f"/proc/{self.process.pid}"
        with open(f"{folder}/status", encoding="utf-8") as status:
            fields = dict(line.split(":", 1) for line in status if ":" in line)
        return int(fields["VmRSS"].split()[0]), int(fields["Threads"]), len(os.listdir(f"{folder}/fd"))


def a_job(number):
    length = RNG.choice([0, 0.1, 0.3, 1, 2])
    script = (
        'echo "run $(cat /proc/sys/kernel/random/uuid)"; '
        f"for n in $(seq 1 20); do echo line $n; done; sleep {length}; echo over; exit {number % 3}"
    )
    return {
        "id": f"soak-{os.getpid()}-{number}",
        "type": "container",
        "priority": 5,
        "attempts": 0,
        "execution": {
            "target": {"type": "local"},
            "script": {"type": "BASH", "content": script, "workingDirectory": ""},
            "environment": {},
            "timeout": 60_000_000_000,
        },
        "metadata": {"eventId": 1, "originalType": "SCRIPT"},
    }


def fault(agent, counts):
    """One fault of a random kind."""
    kind = RNG.choice(["kill -9", "kill -9", "stop", "refuse", "500", "cut", "delay"])
    counts[kind] = counts.get(kind, 0) + 1
    if kind == "kill -9":
        agent.end(signal.SIGKILL)
        time.sleep(RNG.random())
        agent.start()
    elif kind == "stop":
        agent.end(signal.SIGTERM)
        agent.start()
    elif kind == "refuse":
        call("POST", f"/dev/refuse?seconds={RNG.choice([1, 2, 5])}")
    else:
        path = RNG.choice(["/complete", "/complete", "/acknowledge", "/update", "/queue", "/heartbeat"])
        action = {
            "500": {"kind": "status", "status": 500},
            "cut": {"kind": "cut_after_processing"},
            "delay": {"kind": "delay", "millis": 1500},
        }[kind]
        call("PUT", "/dev/faults", [{"path": path, "count": RNG.randint(1, 5), "action": action}])


def main():
    global URL
    backend_log = open(os.path.join(SCRATCH, "backend.out"), "wb+")
    backend = subprocess.Popen(
        [os.path.join(BIN, "cronium-dev-backend"), "--listen", "127.0.0.1:0", "--token", "soak", "--quiet"],
        stdout=backend_log,
        stderr=subprocess.STDOUT,
    )
    agent = Agent()
    try:
        for _ in range(100):
            with open(backend_log.name, encoding="utf-8") as text:
                words = text.readline().split()
            if len(words) == 3:
                break
            time.sleep(0.1)
        URL = words[2].rstrip("/")
        return soak(agent)
    finally:
        for process in (agent.process, backend):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        leftovers = containers()
        if leftovers:
            subprocess.run(["docker", "rm", "-f", *leftovers], stdout=subprocess.DEVNULL, check=False)


def containers():
    shown = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label=cronium.agent.id={AGENT_ID}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.split()


def soak(agent):
    print(f"seed {SEED} (SOAK_SEED), {MINUTES:g} minutes", flush=True)
    agent.start()
    time.sleep(2)
    first = agent.figures()
    until, next_fault, number, counts = time.monotonic() + MINUTES * 60, time.monotonic() + 2, 0, {}
    while time.monotonic() < until:
        jobs = call("GET", "/dev/jobs")["jobs"]
        waiting = sum(1 for job in jobs if job["terminalReports"] == 0)
        fresh = [a_job(number + n) for n in range(max(0, OPEN_JOBS - waiting))]
        number += len(fresh)
        if fresh:
            call("POST", "/dev/jobs", fresh)
        if time.monotonic() >= next_fault:
            fault(agent, counts)
            next_fault = time.monotonic() + RNG.uniform(0.5, 4)
        time.sleep(0.2)
    call("PUT", "/dev/faults", [])
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and any(j["terminalReports"] == 0 for j in call("GET", "/dev/jobs")["jobs"]):
        time.sleep(0.5)
    time.sleep(3)
    return table(agent, number, counts, first)


def table(agent, number, counts, first):
    jobs = call("GET", "/dev/jobs")["jobs"]
    lost = [j["id"] for j in jobs if j["terminalReports"] == 0]
    twice = [j["id"] for j in jobs if j["terminalReports"] > 1]
    again, unknown = [], 0
    for job in jobs:
        row = call("GET", f"/dev/jobs/{job['id']}")
        lines = call("GET", f"/dev/jobs/{job['id']}/lines?from=0")["lines"]
        runs = {line["line"] for line in lines if line["line"].startswith("run ")}
        reports = [r["body"] for r in row["reports"] if r["terminal"]]
        runs |= {line for body in reports for line in body["output"]["stdout"].splitlines() if line.startswith("run ")}
        if len(runs) > 1:
            again.append(job["id"])
        unknown += any("unknown" in body["output"]["stderr"] for body in reports)
    left, last = containers(), agent.figures()
    rows = [
        ("jobs", number),
        *((f"fault: {kind}", count) for kind, count in sorted(counts.items())),
        ("reports lost", len(lost)),
        ("reports twice", len(twice)),
        ("scripts run twice", len(again)),
        ("ends reported as unknown", unknown),
        ("containers left", len(left)),
        ("longest start to ready", f"{agent.worst:.1f} s"),
        ("memory (RSS) at start, end", f"{first[0]} kB, {last[0]} kB"),
        ("threads at start, end", f"{first[1]}, {last[1]}"),
        ("descriptors at start, end", f"{first[2]}, {last[2]}"),
    ]
    for name, value in rows:
        print(f"{name:30} {value}")
    for name, ids in (("lost", lost), ("twice", twice), ("run twice", again)):
        if ids:
            print(f"{name}: {', '.join(ids)}")
    agent.end(signal.SIGTERM)
    return 1 if lost or twice or again or left else 0


URL = ""
if __name__ == "__main__":
    sys.exit(main())

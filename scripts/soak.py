"""The loop of soak.sh: queues jobs, makes faults, and adds up the results."""

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

import soak_secrets
from soak_engine import FAULTS, Engine

BIN, SCRATCH, MINUTES = sys.argv[1], sys.argv[2], float(sys.argv[3])
SEED = int(os.environ.get("SOAK_SEED", str(int(time.time()))))
AGENT_ID = f"soak-{os.getpid()}"
# Jobs that wait or run at a time.
OPEN_JOBS = 10
# How long the end may take, once the faults are over.
PATIENCE = 180
# Jobs without a fault at the end, over which backend, metrics and engine must have counted the same.
CALM = 50
# What could not be removed while the engine was away is the janitor's after a grace of 120 s, in rounds of 60 s.
JANITOR = 200
COUNTED = 20
# Of each job, but for its first and its last.
LINES = COUNTED + soak_secrets.LINES
RNG = random.Random(SEED)
# What may happen, each as often as it is named. SOAK_FAULTS="kill -9,stop" has only those happen.
KINDS = ["kill -9"] * 4 + ["stop", "refuse", "500", "cut", "delay"] * 2 + [*FAULTS, "all killed"]
KINDS = [kind for kind in os.environ.get("SOAK_FAULTS", "").split(",") if kind] or KINDS


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

    def __init__(self, engine):
        self.engine = engine
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
            "container.docker.endpoint": self.engine.host,
            # SOAK_LEAK=1 shows that the search at the end finds what is let out.
            "redact.environment": "off" if os.environ.get("SOAK_LEAK") else "names",
            # Its engine has no network.
            "container.network.mode": "none",
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
            # The agent is not ready while the backend is away, and no fault lasts longer than this.
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

    def counted(self):
        """Jobs received, completed and failed, and lines of the scripts, by its metrics."""
        sums = dict.fromkeys(("jobs_received", "jobs_completed", "jobs_failed", "log_lines"), 0)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                name, _, value = line.rpartition(" ")
                key = name.split("{")[0].removeprefix("cronium_").removesuffix("_total")
                if key in sums and 'stream="system"' not in name:
                    sums[key] += int(float(value))
        return sums


def a_job(number):
    length = RNG.choice([0, 0.1, 0.3, 1, 2])
    script = (
        'echo "run $(cat /proc/sys/kernel/random/uuid)"; '
        f"for n in $(seq 1 {COUNTED}); do echo line $n; done; {soak_secrets.SCRIPT}sleep {length}; echo over; exit {number % 3}"
    )
    return {
        "id": f"soak-{os.getpid()}-{number}",
        "type": "container",
        "priority": 5,
        "attempts": 0,
        "execution": {
            "target": {"type": "local"},
            "script": {"type": "BASH", "content": script, "workingDirectory": ""},
            "environment": soak_secrets.ENVIRONMENT,
            "timeout": 60_000_000_000,
        },
        "metadata": {"eventId": 1, "originalType": "SCRIPT"},
    }


def fault(agent, counts):
    """One fault of a random kind."""
    kind = RNG.choice(KINDS)
    counts[kind] = counts.get(kind, 0) + 1
    if kind == "kill -9":
        agent.end(signal.SIGKILL)
        time.sleep(RNG.random())
        agent.start()
    elif kind == "stop":
        agent.end(signal.SIGTERM)
        agent.start()
    elif kind == "all killed":
        # As when a host goes down; but the scripts are ended or found by the engine's next start.
        agent.end(signal.SIGKILL)
        agent.engine.fault("engine killed")
        agent.start()
    elif kind in FAULTS:
        agent.engine.fault(kind)
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
        [os.path.join(BIN, "cronium-dev-backend"), "--listen", "127.0.0.1:0", "--token", "soak", "--log-socket", "v2", "--quiet"],
        stdout=backend_log,
        stderr=subprocess.STDOUT,
    )
    engine = Engine(SCRATCH, RNG)
    agent = Agent(engine)
    try:
        engine.up()
        engine.load()
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
        engine.end()


def queue(number, count):
    """Queues that number of jobs; returns the number of the next."""
    if count > 0:
        call("POST", "/dev/jobs", [a_job(number + n) for n in range(count)])
    return number + max(0, count)


def all_reported(patience):
    """Waits until each job has its report, and a while longer for a second one that must not come."""
    end = time.monotonic() + patience
    while time.monotonic() < end and any(j["terminalReports"] == 0 for j in call("GET", "/dev/jobs")["jobs"]):
        time.sleep(0.5)
    time.sleep(3)


def soak(agent):
    print(f"seed {SEED} (SOAK_SEED), {MINUTES:g} minutes", flush=True)
    agent.start()
    time.sleep(2)
    first = agent.figures()
    until, next_fault, number, counts = time.monotonic() + MINUTES * 60, time.monotonic() + 2, 0, {}
    while time.monotonic() < until:
        jobs = call("GET", "/dev/jobs")["jobs"]
        waiting = sum(1 for job in jobs if job["terminalReports"] == 0)
        number = queue(number, OPEN_JOBS - waiting)
        if time.monotonic() >= next_fault:
            fault(agent, counts)
            next_fault = time.monotonic() + RNG.uniform(0.5, 4)
        time.sleep(0.2)
    call("PUT", "/dev/faults", [])
    all_reported(PATIENCE)
    swept = swept_within(agent)
    counted = calm(agent, number)
    leaks = soak_secrets.leaks(call, call("GET", "/dev/jobs")["jobs"], SCRATCH)
    return table(agent, number + CALM, counts, first, (swept, counted, leaks))


def swept_within(agent):
    """Seconds until no container was left, at most as long as the janitor needs."""
    begun = time.monotonic()
    while agent.engine.containers(AGENT_ID) and time.monotonic() - begun < JANITOR:
        time.sleep(1)
    return time.monotonic() - begun


def calm(agent, number):
    """Jobs without faults. Returns what the sides did not count alike, as text."""
    following, before = agent.engine.follow(AGENT_ID), agent.counted()
    known = {job["id"] for job in call("GET", "/dev/jobs")["jobs"]}
    queue(number, CALM)
    all_reported(PATIENCE)
    after = agent.counted()
    figures = {key: after[key] - before[key] for key in after}
    rows = [call("GET", f"/dev/jobs/{job['id']}") for job in call("GET", "/dev/jobs")["jobs"] if job["id"] not in known]
    reports = [r["body"] for row in rows for r in row["reports"] if r["terminal"]]
    good = sum(1 for body in reports if body["exitCode"] == 0)
    lines = sum(
        1 for row in rows for line in call("GET", f"/dev/jobs/{row['id']}/lines?from=0")["lines"]
        if line["stream"] != "system"
    )  # fmt: skip
    backend = {"jobs_received": len(rows), "jobs_completed": good, "jobs_failed": len(reports) - good, "log_lines": lines}
    created, destroyed = agent.engine.followed(following)
    faults = []
    if figures != backend:
        faults.append(f"the metrics say {figures}, the backend {backend}")
    if (created, destroyed) != (CALM, CALM):
        faults.append(f"the engine made {created} containers and removed {destroyed}")
    if len(reports) != CALM or lines != CALM * (LINES + 2):
        faults.append(f"{len(reports)} reports and {lines} lines came of {CALM} jobs with {LINES + 2} lines each")
    return faults


def table(agent, number, counts, first, after):
    swept, counted, leaks = after
    jobs = call("GET", "/dev/jobs")["jobs"]
    lost = [j["id"] for j in jobs if j["terminalReports"] == 0]
    twice = [j["id"] for j in jobs if j["terminalReports"] > 1]
    again, unknown, ended, missing, repeated = [], 0, 0, 0, 0
    for job in jobs:
        row = call("GET", f"/dev/jobs/{job['id']}")
        lines = [l["line"] for l in call("GET", f"/dev/jobs/{job['id']}/lines?from=0")["lines"] if l["stream"] == "stdout"]
        runs = {line for line in lines if line.startswith("run ")}
        reports = [r["body"] for r in row["reports"] if r["terminal"]]
        kept = [line for body in reports for line in body["output"]["stdout"].splitlines()]
        runs |= {line for line in kept if line.startswith("run ")}
        if len(runs) > 1:
            again.append(job["id"])
        unknown += any("unknown" in body["output"]["stderr"] for body in reports)
        if "over" in kept:
            ended += 1
            missing += LINES + 2 - len(set(lines))
        repeated += len(lines) - len(set(lines))
    left, last = agent.engine.containers(AGENT_ID), agent.figures()
    rows = [
        ("jobs", number),
        *((f"fault: {kind}", count) for kind, count in sorted(counts.items())),
        ("reports lost", len(lost)),
        ("reports twice", len(twice)),
        ("scripts run twice", len(again)),
        ("ends reported as unknown", unknown),
        ("scripts that reached their end", ended),
        ("of their lines, never live", f"{missing} of {ended * (LINES + 2)}"),
        ("lines that came twice", repeated),
        ("places with a secret, core files", len(leaks)),
        ("containers left", len(left)),
        ("the last was gone after", f"{swept:.0f} s"),
        (f"{CALM} jobs more, without a fault", "; ".join(counted) or "backend, metrics and engine agree"),
        ("longest start to ready", f"{agent.worst:.1f} s"),
        ("memory (RSS) at start, end", f"{first[0]} kB, {last[0]} kB"),
        ("threads at start, end", f"{first[1]}, {last[1]}"),
        ("descriptors at start, end", f"{first[2]}, {last[2]}"),
    ]
    for name, value in rows:
        print(f"{name:30} {value}")
    for name, ids in (("lost", lost), ("twice", twice), ("run twice", again), ("leaks", leaks[:20])):
        if ids:
            print(f"{name}: {', '.join(ids)}")
    agent.end(signal.SIGTERM)
    return 1 if lost or twice or again or left or counted or leaks else 0


URL = ""
if __name__ == "__main__":
    sys.exit(main())

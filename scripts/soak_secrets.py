"""The secrets that the soak plants in its jobs, how their scripts print them, and the search for them at its end."""

import base64
import json
import os
import random
import string

# Lines of SCRIPT, each different from the others in its beginning.
LINES = 15


def word(length):
    return "".join(random.SystemRandom().choice(string.ascii_letters + string.digits) for _ in range(length))


# What is searched for must be letters and digits, which no encoding but base64 and hex changes.
CORE, KEY = word(12), [word(16), word(16)]
# Two alignments of base64 keep the whole core but for its edges; the third one too.
TRACES = [CORE, *KEY, CORE.encode().hex(), CORE.encode().hex().upper()]
for text in (CORE, *KEY):
    for lead in range(3):
        encoded = base64.b64encode(b"\0" * lead + text.encode()).decode().rstrip("=")
        TRACES.append(encoded[(0, 2, 3)[lead] : len(encoded) - 2])

ENVIRONMENT = {
    "DEPLOY_TOKEN": f"p'\"$w/ {CORE} &+",
    "SSH_KEY": f"-----BEGIN X-----\n{KEY[0]}\n{KEY[1]}\n-----END X-----\n",
    "OTHER_PASSWORD": f"{CORE}-and-more-{KEY[0]}",
}

SCRIPT = r"""
hex() { printf %s "$1" | od -An -v -tx1 | tr -d ' \n'; }
b64() { printf '%s' "$1" | base64 | tr -d '\n'; }
echo "secret 1 $DEPLOY_TOKEN"
echo "secret 2 $(b64 "$DEPLOY_TOKEN")"
echo "secret 3 $(b64 "user:$DEPLOY_TOKEN")"
echo "secret 4 $(b64 "u$DEPLOY_TOKEN" | tr '+/' '-_')"
echo "secret 5 $(hex "$DEPLOY_TOKEN")"
echo "secret 6 $(hex "$DEPLOY_TOKEN" | tr a-f A-F)"
echo "secret 7 $(hex "$DEPLOY_TOKEN" | sed 's/../%&/g')"
printf 'secret 8 %s' "${DEPLOY_TOKEN:0:12}"; sleep 0.4; printf '%s\n' "${DEPLOY_TOKEN:12}"
echo "secret 9 $(printf %q "$DEPLOY_TOKEN")"
echo "secret 10 $OTHER_PASSWORD$DEPLOY_TOKEN"
n=0; printf %s "$SSH_KEY" | while read -r line; do n=$((n + 1)); echo "secret key $n $line"; done
echo "::error::$DEPLOY_TOKEN"
cronium_output "{\"$OTHER_PASSWORD\": \"$(b64 "user:$OTHER_PASSWORD")\"}"
"""


def found_in(texts):
    """The places, of (place, bytes), in which a trace of a secret stands."""
    traces = [trace.encode() for trace in TRACES]
    return [place for place, content in texts if any(trace in content for trace in traces)]


def files(folder):
    """Every file below a folder."""
    for at, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(at, name)
            try:
                with open(path, "rb") as file:
                    yield path, file.read()
            except OSError:
                # A socket, or a file that has gone meanwhile.
                continue


def cores(scratch):
    """Core files, here and in the soak's folder."""
    places = (scratch, os.path.join(scratch, "state"), os.getcwd())
    return [os.path.join(at, name) for at in places for name in os.listdir(at) if name.startswith("core")]


def sinks(call, jobs, scratch):
    """Everything that came to the backend, and everything that the agents kept or said."""
    # The jobs themselves are what the backend was given.
    state = call("GET", "/dev/state")
    state.pop("jobs", None)
    yield "the backend's state", json.dumps(state).encode()
    yield "requests", json.dumps(call("GET", "/dev/requests")).encode()
    for job in jobs:
        row = call("GET", f"/dev/jobs/{job['id']}")
        row.pop("payload", None)
        yield f"the row of {job['id']}", json.dumps(row).encode()
        yield f"lines of {job['id']}", json.dumps(call("GET", f"/dev/jobs/{job['id']}/lines?from=0")).encode()
    yield from files(os.path.join(scratch, "state"))
    for log in ("agent.log", "backend.out"):
        with open(os.path.join(scratch, log), "rb") as file:
            yield log, file.read()


def leaks(call, jobs, scratch):
    """Where secrets are that should not be, and core files."""
    # A search that finds nothing must be able to find.
    assert found_in([("itself", SCRIPT.encode() + json.dumps(ENVIRONMENT).encode())]) == ["itself"]
    return found_in(sinks(call, jobs, scratch)) + cores(scratch)

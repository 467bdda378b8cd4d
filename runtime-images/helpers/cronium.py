"""The helpers of a Cronium script in Python.

The agent sends this file along with a script that names them. The name `cronium` is there without an import; `import
cronium` works too. `input` and `event` are files beside this one. Everything else is a request to the agent: over its Unix
socket in a container, by files in the job's folder on a server. A call waits while the agent or a server is away.

Nothing here is needed from outside the standard library, and nothing is loaded before the first call.
"""

import os
import sys

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_SOCKET = os.environ.get("CRONIUM_RUNTIME_SOCKET")
_TOKEN = os.environ.get("CRONIUM_EXECUTION_TOKEN", "")
_EXECUTION = os.environ.get("CRONIUM_EXECUTION_ID", "")
# The longest that one call takes, in seconds.
_LIMIT = 600

__all__ = [
    "input", "output", "event", "getVariable", "setVariable", "getCondition", "setCondition",
    "redact", "get_variable", "set_variable", "get_condition", "set_condition", "variable_exists",
    "increment_variable", "append_variable", "CroniumError",
]


class CroniumError(Exception):
    """A helper could not do what it was asked for. The text says why; `status_code` is the agent's, if it answered."""

    def __init__(self, message, status_code=None):
        Exception.__init__(self, message)
        self.message = message
        self.status_code = status_code


def input():
    """What this script is given to work on: what the script before it in the workflow gave as its output, else {}."""
    return _read("input")


def event():
    """What is known of the event: id, name, type, runLocation, userId, executionId, jobId, and server or None."""
    return _read("event")


def output(data):
    """Hands on any JSON value. The last call counts."""
    _ask("POST", "output", {"data": data})


def getVariable(key, default=None):
    """A variable of the event's owner: a text, or the dict or list that was set. Without one, `default`."""
    found = _ask("GET", _variable(key), missing=True)
    return default if found is None else found["value"]


def setVariable(key, value):
    """Sets a variable. A dict or a list comes back as such, everything else as text."""
    _ask("PUT", _variable(key), {"value": value})


def redact(value):
    """From here on the agent takes this text out of all that it passes on of this script. True, or False where the text is
    too short or a common word."""
    return _ask("POST", "redact", {"value": value.decode("utf-8") if isinstance(value, bytes) else value})["redacted"]


def getCondition():
    """What was set as this script's condition, else False."""
    return _ask("GET", "condition")["condition"]


def setCondition(condition):
    """True runs what depends on this script's condition."""
    _ask("POST", "condition", {"condition": bool(condition)})


def variable_exists(key):
    """Whether there is such a variable."""
    return _ask("GET", _variable(key), missing=True) is not None


def increment_variable(key, by=1):
    """Adds to a number, 0 where there is none; the sum. Two scripts at once may count one for both."""
    text = getVariable(key)
    try:
        value = (int(text) if text else 0) + by
    except (TypeError, ValueError):
        raise CroniumError("the variable %r is not a whole number" % (key,))
    setVariable(key, str(value))
    return value


def append_variable(key, text, separator=""):
    """Appends to a text, with the separator between the two; the new text."""
    before = getVariable(key)
    value = text if not before else "%s%s%s" % (before, separator, text)
    setVariable(key, value)
    return value


def executeToolAction(*_arguments, **_named):
    """Not to be had: the backend has no way for a script's tool actions."""
    raise CroniumError("tool actions and mails are not to be had from a script: use an action of the event", 501)


get_variable, set_variable = getVariable, setVariable
get_condition, set_condition = getCondition, setCondition
variableExists, incrementVariable, appendVariable = variable_exists, increment_variable, append_variable
execute_tool_action = send_email = send_slack_message = send_discord_message = executeToolAction
sendEmail = sendSlackMessage = sendDiscordMessage = executeToolAction


def _variable(key):
    try:
        from urllib.parse import quote
    except ImportError:
        from urllib import quote
    key = str(key)
    if not key:
        raise CroniumError("a variable needs a name")
    return "variables/" + quote(key.encode("utf-8"), safe="")


def _read(name):
    import io
    import json

    with io.open(os.path.join(_FOLDER, name), encoding="utf-8") as file:
        return json.load(file)


def _ask(method, path, body=None, missing=False):
    """One call; the answer's data. `missing`: a 404 is None."""
    import json
    import time

    text = b""
    if body is not None:
        try:
            text = json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise CroniumError("this cannot be written as JSON: %s" % error)
    until, pause = time.time() + _LIMIT, 0.02
    while True:
        try:
            status, answer = (_over_socket if _SOCKET else _by_files)(method, path, text, until)
            break
        except EnvironmentError as error:
            if getattr(error, "errno", None) in (1, 13):
                raise CroniumError("this script may not reach the agent: %s" % error)
            if time.time() + pause > until:
                raise CroniumError("the agent did not answer within %d s: %s" % (_LIMIT, error))
        time.sleep(pause)
        pause = min(pause * 2, 1)
    if status == 404 and missing:
        return None
    try:
        answer = json.loads(answer.decode("utf-8"))
    except ValueError:
        answer = {"message": answer.decode("utf-8", "replace").strip()}
    if status != 200:
        raise CroniumError(answer.get("message") or "the agent answered %d" % status, status)
    return answer["data"]


def _over_socket(method, path, body, until):
    import socket
    import time

    head = "%s /executions/%s/%s HTTP/1.1\r\nHost: agent\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n"
    request = (head % (method, _EXECUTION, path, _TOKEN, len(body))).encode("ascii") + body
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(max(until - time.time(), 1))
        connection.connect(_SOCKET)
        answer, broken = b"", None
        try:
            connection.sendall(request)
        except EnvironmentError as error:
            # The agent may have refused it before it had read all.
            broken = error
        try:
            for part in iter(lambda: connection.recv(65536), b""):
                answer += part
        except EnvironmentError as error:
            broken = error
    finally:
        connection.close()
    head, end, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if not end or len(body) != int(fields.get(b"content-length", -1)):
        raise broken or EnvironmentError("the agent hung up")
    return int(head.split()[1]), body


def _by_files(method, path, body, until):
    import time

    calls = os.path.join(_FOLDER, "calls")
    if not os.path.isdir(calls):
        raise CroniumError(_unreachable())
    name = os.path.join(calls, "%d-%s" % (os.getpid(), "".join("%02x" % byte for byte in bytearray(os.urandom(8)))))
    with open(name + ".new", "wb") as file:
        file.write(("%s %s\n" % (method, path)).encode("ascii") + body)
    os.rename(name + ".new", name + ".q")
    pause, rung = 0.002, 0
    while not os.path.exists(name + ".a"):
        if time.time() > until:
            raise CroniumError("the agent did not answer within %d s" % _LIMIT)
        if time.time() > rung + 5:
            rung = time.time()
            bell = os.open(os.path.join(_FOLDER, "bell"), os.O_RDWR | os.O_NONBLOCK)
            try:
                os.write(bell, b"\n")
            except EnvironmentError:
                pass  # It is full: what reads it will look.
            finally:
                os.close(bell)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
    with open(name + ".a", "rb") as file:
        status, _, answer = file.read().partition(b"\n")
    os.remove(name + ".a")
    return int(status), answer


def _unreachable():
    try:
        with open(os.path.join(_FOLDER, "unreachable")) as file:
            why = file.read().strip()
    except EnvironmentError:
        why = "it is not there"
    return "this script cannot reach the agent: " + why


def _begin():
    """Makes the name known everywhere, and leaves the script's search path and the image's own site file as they were."""
    try:
        import builtins
    except ImportError:
        import __builtin__ as builtins
    builtins.cronium = sys.modules["cronium"]
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != _FOLDER]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", ours)

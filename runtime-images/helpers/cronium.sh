# The helpers of a Cronium script in Bash.
#
# The agent sends this file along with a script that names them, and has Bash read it first (BASH_ENV), so that the functions
# are there without a `source`, in the script and in every bash that it starts. `input` and `event` are files beside this one.
# Everything else is a request to the agent: over its Unix socket in a container, by files in the job's folder on a server.
# A call waits while the agent or a server is away. When one fails, it says why on stderr and its exit code is 1.

_cronium_folder=${BASH_SOURCE[0]%/*}
# For scripts that `source cronium.sh` as they had to once.
case :$PATH: in *":$_cronium_folder:"*) ;; *) PATH=$PATH:$_cronium_folder ;; esac
_cronium_socket=${CRONIUM_RUNTIME_SOCKET-}
_cronium_token=${CRONIUM_EXECUTION_TOKEN-}
_cronium_execution=${CRONIUM_EXECUTION_ID-}
# The longest that one call takes, in seconds.
_cronium_limit=600

# What this script is given to work on, as JSON: what the script before it gave as its output, else {}.
cronium_input() { _cronium_file input; }

# What is known of the event, as JSON; one field of it.
cronium_event() { _cronium_file event; }
cronium_event_field() { _cronium_ask GET "event/$(_cronium_escaped "${1-}")" '' null; }

# Hands on an argument, or what comes on stdin. What is JSON is JSON, the rest a text. The last call counts.
cronium_output() { _cronium_with_value cronium_output POST output "$@"; }

# A variable of the event's owner; nothing where there is none.
cronium_getVariable() { _cronium_variable "${1-}" && _cronium_ask GET "$_cronium_path" '' null; }

# Sets a variable to an argument, or to what comes on stdin.
cronium_setVariable() {
  _cronium_variable "${1-}" || return 1
  shift
  _cronium_with_value cronium_setVariable PUT "$_cronium_path" "$@"
}

# From here on the agent takes this text, or what comes on stdin, out of all that it passes on of this script. A text that is
# too short or a common word is not: a line on stderr says so.
cronium_redact() {
  local why
  why=$(_cronium_with_value cronium_redact POST redact "$@") || return 1
  [ -z "$why" ] || _cronium_complain "the value is not redacted: $why"
}

# true, 1, yes, on run what depends on this script's condition; false, 0, no, off do not.
cronium_setCondition() { _cronium_ask POST condition "${1-}"; }

# true or false, as it was set.
cronium_getCondition() { _cronium_ask GET condition '' && echo; }

cronium_variable_exists() {
  _cronium_variable "${1-}" && _cronium_ask GET "$_cronium_path" '' missing >/dev/null
}

# Adds to a number, 0 where there is none, and prints the sum. Two scripts at once may count one for both.
cronium_increment_variable() {
  local before sum
  before=$(cronium_getVariable "${1-}") || return 1
  [[ ${before:=0} =~ ^-?[0-9]+$ && ${2:-1} =~ ^-?[0-9]+$ ]] || {
    _cronium_complain "the variable ${1-} or ${2:-1} is not a whole number"
    return 1
  }
  case $before in -*) sum=$((-10#${before#-})) ;; *) sum=$((10#$before)) ;; esac
  case ${2:-1} in -*) sum=$((sum - 10#${2#-})) ;; *) sum=$((sum + 10#${2:-1})) ;; esac
  cronium_setVariable "$1" "$sum" && echo "$sum"
}

# Appends to a text, with a separator between the two.
cronium_append_variable() {
  local before
  before=$(cronium_getVariable "${1-}") || return 1
  cronium_setVariable "$1" "${before:+$before${3-}}${2-}"
}

cronium_execute_tool_action() {
  _cronium_complain 'tool actions and mails are not to be had from a script: use an action of the event'
  return 1
}

cronium_get_variable() { cronium_getVariable "$@"; }
cronium_set_variable() { cronium_setVariable "$@"; }
cronium_get_condition() { cronium_getCondition "$@"; }
cronium_set_condition() { cronium_setCondition "$@"; }
cronium_send_email() { cronium_execute_tool_action; }
cronium_send_slack_message() { cronium_execute_tool_action; }
cronium_send_discord_message() { cronium_execute_tool_action; }

# The same under the names that scripts on servers have. A strict POSIX shell cannot read such names.
eval 'cronium.input() { cronium_input "$@"; }
cronium.event() { cronium_event "$@"; }
cronium.output() { cronium_output "$@"; }
cronium.getVariable() { cronium_getVariable "$@"; }
cronium.setVariable() { cronium_setVariable "$@"; }
cronium.redact() { cronium_redact "$@"; }
cronium.getCondition() { cronium_getCondition "$@"; }
cronium.setCondition() { cronium_setCondition "$@"; }' 2>/dev/null

_cronium_complain() { printf 'cronium: %s\n' "$1" >&2; }

_cronium_file() {
  local line
  while IFS= read -r line || [ -n "$line" ]; do printf '%s\n' "$line"; done <"$_cronium_folder/$1"
}

# Sets _cronium_path to that of a variable.
_cronium_variable() {
  [ -n "$1" ] || {
    _cronium_complain 'a variable needs a name'
    return 1
  }
  _cronium_path=variables/$(_cronium_escaped "$1")
}

# A text for a path: every byte that is not a letter or a digit as %XX.
_cronium_escaped() {
  local LC_ALL=C text=$1 out= byte at
  for ((at = 0; at < ${#text}; at++)); do
    byte=${text:at:1}
    case $byte in
      [a-zA-Z0-9_.~-]) out+=$byte ;;
      *) printf -v byte '%%%02X' "'$byte" && out+=%${byte: -2} ;;
    esac
  done
  printf '%s' "$out"
}

# NAME METHOD PATH [VALUE]: a call with that value, or with what comes on stdin.
_cronium_with_value() {
  local value=
  if [ $# -gt 3 ]; then
    value=$4
  elif [ -t 0 ] || ! IFS= read -r -d '' value && [ -z "$value" ]; then
    _cronium_complain "$1 needs a value, as an argument or on stdin"
    return 1
  fi
  _cronium_ask "$2" "$3" "$value"
}

# METHOD PATH BODY [null|missing]: one call; prints the answer. With null, a 404 is nothing; with missing, exit code 1.
_cronium_ask() {
  case $- in
    *x*)
      # A trace would show the token.
      { set +x; } 2>/dev/null
      local code=0
      _cronium_call "$@" || code=$?
      set -x
      return "$code"
      ;;
    *) _cronium_call "$@" ;;
  esac
}

_cronium_call() {
  local answer status until=$((SECONDS + _cronium_limit)) pause=0.05
  while :; do
    if [ -n "$_cronium_socket" ]; then
      answer=$(_cronium_over_socket "$@"; printf x)
    elif [ -d "$_cronium_folder/calls" ]; then
      answer=$(_cronium_by_files "$@"; printf x)
    else
      _cronium_complain "this script cannot reach the agent: $(_cronium_file unreachable 2>/dev/null)"
      return 1
    fi
    # The status on the last line, then the x, which keeps the answer's own newlines.
    answer=${answer%x}
    status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    case $status in
      200)
        printf '%s' "$answer"
        return 0
        ;;
      404)
        [ "${4-}" != null ] || return 0
        [ "${4-}" != missing ] || return 1
        ;;
      000 | '')
        if [ "$SECONDS" -lt "$until" ]; then
          _cronium_sleep "$pause"
          pause=1
          continue
        fi
        answer="the agent did not answer within $_cronium_limit s"
        ;;
    esac
    _cronium_complain "${answer%$'\n'}"
    return 1
  done
}

# METHOD PATH BODY: prints the answer and, on the last line, the status; 000 without an answer.
_cronium_over_socket() {
  local url=http://agent/executions/$_cronium_execution/$2?raw
  if command -v curl >/dev/null; then
    # The token is in no argument: those of a process can be seen by others.
    printf '%s' "$3" | curl -q -s -g --unix-socket "$_cronium_socket" -X "$1" --max-time "$_cronium_limit" -H Expect: \
      -K <(printf 'header = "Authorization: Bearer %s"\n' "$_cronium_token") --data-binary @- -w '\n%{http_code}' "$url"
  elif command -v perl >/dev/null; then
    printf '%s' "$3" | CRONIUM_CALL="$1 ${url#http://agent}" CRONIUM_SOCKET=$_cronium_socket \
      CRONIUM_EXECUTION_TOKEN=$_cronium_token perl -MSocket -e "$_cronium_perl"
  elif command -v python3 >/dev/null; then
    printf '%s' "$3" | CRONIUM_CALL="$1 ${url#http://agent}" CRONIUM_SOCKET=$_cronium_socket \
      CRONIUM_EXECUTION_TOKEN=$_cronium_token python3 -S -c "$_cronium_python"
  else
    printf 'this image has neither curl nor perl nor python3, one of which Bash needs to reach the agent\n500'
  fi
}

_cronium_perl='socket(S, AF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un($ENV{CRONIUM_SOCKET})) or print("\n000"), exit;
$SIG{PIPE} = "IGNORE"; local $/; $b = <STDIN>; $n = length $b; select(S); $| = 1; select(STDOUT);
print S "$ENV{CRONIUM_CALL} HTTP/1.1\r\nAuthorization: Bearer $ENV{CRONIUM_EXECUTION_TOKEN}\r\nContent-Length: $n\r\n\r\n$b";
($h, $a) = split /\r\n\r\n/, <S>, 2; ($l) = $h =~ /^content-length: (\d+)/im;
print defined $l && $l == length $a ? ($a, "\n", (split " ", $h)[1]) : "\n000";'

_cronium_python='
import os, socket, sys
call, token, body = os.environ["CRONIUM_CALL"], os.environ["CRONIUM_EXECUTION_TOKEN"], sys.stdin.buffer.read()
head = "%s HTTP/1.1\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n" % (call, token, len(body))
agent, answer = socket.socket(socket.AF_UNIX), b""
try:
    agent.connect(os.environ["CRONIUM_SOCKET"])
    agent.sendall(head.encode() + body)
except OSError:
    pass
try:
    for part in iter(lambda: agent.recv(65536), b""):
        answer += part
except OSError:
    pass
head, end, answer = answer.partition(b"\r\n\r\n")
length = [line.split()[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
whole = end and length and int(length[0]) == len(answer)
sys.stdout.buffer.write(answer + b"\n" + head.split()[1] if whole else b"\n000")'

# The same by files in the job's folder, which the agent's session with this server passes on.
_cronium_by_files() {
  local name=$_cronium_folder/calls/$BASHPID-$RANDOM$RANDOM$RANDOM rung=-9 until=$((SECONDS + _cronium_limit)) looks=0 line
  printf '%s %s?raw\n%s' "$1" "$2" "$3" >"$name.new" && mv -f -- "$name.new" "$name.q" || {
    printf 'cannot write in %s\n500' "$_cronium_folder"
    return
  }
  until [ -e "$name.a" ]; do
    if [ "$SECONDS" -ge "$until" ]; then
      printf 'the agent did not answer within %s s\n500' "$_cronium_limit"
      return
    fi
    # Open for both ways, so that it waits for nobody.
    if [ "$SECONDS" -ge $((rung + 5)) ]; then
      rung=$SECONDS
      echo 1<>"$_cronium_folder/bell"
    fi
    looks=$((looks + 1))
    if [ "$looks" -lt 5 ]; then _cronium_sleep 0.005; elif [ "$looks" -lt 50 ]; then _cronium_sleep 0.05; else _cronium_sleep 0.25; fi
  done
  {
    IFS= read -r rung
    IFS= read -r -d '' line || :
  } <"$name.a"
  rm -f -- "$name.a"
  printf '%s\n%s' "${line%$'\n'}" "$rung"
}

# Without a process, where Bash can: the end of a wait for nothing.
_cronium_sleep() { sleep "$1" 2>/dev/null || sleep 1; }

# What the job itself wants Bash to read first.
if [ -n "${CRONIUM_BASH_ENV+x}" ]; then
  export BASH_ENV=$CRONIUM_BASH_ENV
  unset CRONIUM_BASH_ENV
  if [ -r "$BASH_ENV" ]; then . "$BASH_ENV"; fi
fi

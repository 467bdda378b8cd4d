#!/usr/bin/env bash
# demo.sh [--binary FILE]: the agent at work in one command, on a fresh machine too.
#
# Installs what is missing, starts a Docker engine if none answers, builds the agent and makes the images side by side, then
# lets a real agent claim five jobs from a local backend: Bash, Python and Node.js that succeed, one that fails, one that
# runs into its timeout. Their lines are shown as they come, then the verdicts and what was checked.
# Exits 0 only if all of it happened as it should, and leaves neither process nor container behind.
#   --binary FILE  an agent that is there already: it is not built. Nor is the backend, if a cronium-dev-backend lies beside it
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

JOBS=$ROOT/tests/dev-backend/demo-jobs.json
# job, verdict, exit code
EXPECTED="job_demo_bash completed 0
job_demo_python completed 0
job_demo_node completed 0
job_demo_fails failed 1
job_demo_timeout timeout -1"
# This job prints over more than a second, so its first line must be here well before its end.
LIVE_JOB=job_demo_python
LIVE_LEAD_MS=800

AGENT=
case ${1:-} in
    '') ;;
    --binary)
        [ $# -eq 2 ] || die "--binary takes the file of an agent"
        AGENT=$(realpath -- "$2")
        [ -x "$AGENT" ] || die "$2 is no program: is the path right, and may you run it (chmod +x)?"
        "$AGENT" version >/dev/null 2>&1 || die "$2 is not a cronium-agent, or not for this machine ($(uname -m))"
        ;;
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *) die "demo.sh takes --binary FILE and nothing else, not '$*'" ;;
esac

FAILURES=0
check() { # check TEXT COMMAND...
    local text=$1
    shift
    if "$@"; then say "  ok    $text"; else
        say "  WRONG $text"
        FAILURES=$((FAILURES + 1))
    fi
}
get() { curl -sS --max-time 10 "$@"; }

# The development profile, which builds in the least time; and no more than what the demo runs.
build() {
    local built=${CARGO_TARGET_DIR:-$ROOT/target}/debug packages=()
    if [ -n "$AGENT" ]; then
        BACKEND=$(dirname "$AGENT")/cronium-dev-backend
        [ ! -x "$BACKEND" ] || return 0
    else
        packages=(cronium-agent)
        AGENT=$built/cronium-agent
    fi
    packages+=(cronium-dev-backend)
    BACKEND=$built/cronium-dev-backend
    ensure_rust build
    lasting "building ${packages[*]} (development profile)" 60 cargo_build "${packages[@]/#/--package=}" || die "cargo build failed"
    if [ ! -x "$AGENT" ] || [ ! -x "$BACKEND" ]; then die "cargo built no programs in $built"; fi
}
cargo_build() { (cd "$ROOT" && timeout -k 10 1800 cargo build --quiet --bins "$@"); }

# In a new session, so that an early end ends all of it.
start_images() {
    setsid "$ROOT/scripts/build-images.sh" &
    IMAGES_PID=$!
    on_exit stop_images
}
images_ended() { ! pgrep -g "$IMAGES_PID" >/dev/null; }
stop_images() {
    images_ended && return 0
    as_root kill -TERM -- "-$IMAGES_PID" 2>/dev/null || true
    wait_until 20 images_ended || as_root kill -KILL -- "-$IMAGES_PID"
}

show() {
    local line
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$SCRATCH/backend.out"
        say "  $line"
    done
}

start_backend() {
    : >"$SCRATCH/backend.out"
    "$BACKEND" --listen 127.0.0.1:0 --token dev --log-socket v2 --jobs "$JOBS" > >(show) 2>&1 </dev/null &
    BACKEND_PID=$!
    on_exit stop_pid "$BACKEND_PID" cronium-dev-backend
    wait_until 10 grep -q '^listening on ' "$SCRATCH/backend.out" || die "the backend did not start"
    URL=$(awk '/^listening on / {sub(/\/$/, "", $3); print $3; exit}' "$SCRATCH/backend.out")
}

start_agent() {
    local port
    port=$(free_port) || die "no free port"
    MONITOR=http://127.0.0.1:$port
    (umask 077 && : >"$SCRATCH/agent.yaml") # it holds a token
    cat >"$SCRATCH/agent.yaml" <<YAML
orchestrator:
  id: "$AGENT_ID"
api:
  endpoint: "$URL"
  token: dev
jobs:
  maxConcurrent: 5
  stopGrace: 1s
  drainTimeout: 10s
logging:
  format: text
monitoring:
  bindAddress: 127.0.0.1
  healthPort: $port
  metricsPort: $port
state:
  dir: "$SCRATCH/state"
YAML
    # Nothing from the caller's environment may reach into the demo's configuration.
    env -u STATE_DIRECTORY -u CREDENTIALS_DIRECTORY -u CRONIUM_API_URL -u CRONIUM_SERVICE_TOKEN -u CRONIUM_WS_URL \
        "$AGENT" run --config "$SCRATCH/agent.yaml" >"$SCRATCH/agent.log" 2>&1 </dev/null &
    AGENT_PID=$!
    on_exit stop_pid "$AGENT_PID" cronium-agent 20
}

agent_log() {
    [ -s "$SCRATCH/agent.log" ] || return 0
    say "the end of the agent's log:"
    tail -n 30 "$SCRATCH/agent.log"
}

healthy() {
    get "$MONITOR/health" >"$SCRATCH/health.json" 2>/dev/null && jq -e '.status == "healthy"' "$SCRATCH/health.json" >/dev/null 2>&1
}
healthy_or_dead() { ! alive "$AGENT_PID" || healthy; }

wait_for_jobs() {
    local end=$((SECONDS + 90))
    while [ "$SECONDS" -lt "$end" ] && alive "$AGENT_PID" && alive "$BACKEND_PID"; do
        get "$URL/dev/wait-done?seconds=5" 2>/dev/null | jq -e .done >/dev/null 2>&1 && return 0
    done
    return 1
}

has_verdict() { # JOB VERDICT CODE
    jq -e --arg id "$1" --arg verdict "$2" --argjson code "$3" \
        '.jobs | map(select(.id == $id)) | length == 1 and .[0].verdict == $verdict and .[0].exitCode == $code
         and .[0].terminalReports == 1' "$SCRATCH/jobs.json" >/dev/null
}

# Every line once and in order, and the first one well before the job was over.
lines_were_live() {
    get "$URL/dev/jobs/$LIVE_JOB/lines?from=0" >"$SCRATCH/lines.json" || return 1
    jq -e --slurpfile jobs "$SCRATCH/jobs.json" --arg id "$LIVE_JOB" --argjson lead "$LIVE_LEAD_MS" '
        def ms: (.[0:19] + "Z" | fromdate) * 1000 + ((capture("\\.(?<ms>[0-9]{1,3})").ms // "0") | tonumber);
        ($jobs[0].jobs[] | select(.id == $id) | .finished.at | ms) as $finished
        | ([.lines[] | select(.stream == "stdout")][0].received | ms) as $first
        | (.count > 0) and ([.lines[].sequence] == [range(1; .count + 1)]) and ($finished - $first >= $lead)' \
        "$SCRATCH/lines.json" >/dev/null
}

# Other agents' containers on this host are not the demo's.
nothing_left() {
    local left
    left=$(timeout 20 docker ps -aq --filter "label=cronium.agent.id=$AGENT_ID") || return 1
    [ -z "$left" ]
}
agent_ended_well() {
    local status=0
    stop_pid "$AGENT_PID" cronium-agent 20
    wait "$AGENT_PID" || status=$?
    [ "$status" -eq 0 ] || say "  the agent's exit code was $status"
    [ "$status" -eq 0 ]
}
has_metric() { grep -q "^$1" "$SCRATCH/metrics.txt"; }

need_packages "the demo asks the backend and the agent with them" curl jq ca-certificates procps
ensure_engine
make_scratch
AGENT_ID=demo-$$-$RANDOM
start_images
build
wait "$IMAGES_PID" || die "the images could not be made; the reason is above"
say "an agent claims five jobs; one is made to fail, one to run too long. Their lines, live:"
start_backend
start_agent
if ! wait_until 20 healthy_or_dead || ! healthy; then
    agent_log
    die "the agent is not healthy: $(cat "$SCRATCH/health.json" 2>/dev/null)"
fi
if ! wait_for_jobs; then
    agent_log
    FAILURES=$((FAILURES + 1))
    say "WRONG: the jobs were not all reported within 90 s"
fi

say "what the agent reported"
get "$URL/dev/jobs" >"$SCRATCH/jobs.json" || die "the backend no longer answers"
jq -r '.jobs[] | [.id, .language, (.verdict // .status), (.exitCode // "-"), ((.durationMs // 0 | tostring) + " ms")] | @tsv' \
    "$SCRATCH/jobs.json" | while IFS=$'\t' read -r id language verdict code time; do
    printf '    %-18s %-7s %-10s exit code %3s  %8s\n' "$id" "$language" "$verdict" "$code" "$time"
done

healthy || true
get "$MONITOR/metrics" >"$SCRATCH/metrics.txt" || true
say "was it so?"
while read -r id verdict code; do
    check "$id: $verdict, exit code $code, reported once" has_verdict "$id" "$verdict" "$code"
done <<<"$EXPECTED"
check "the lines of $LIVE_JOB came in order, without a gap, while it ran" lines_were_live
check "/health says healthy" healthy
for name in cronium_jobs_received_total cronium_jobs_completed_total cronium_jobs_failed_total cronium_log_lines_total; do
    check "/metrics has $name" has_metric "$name"
done
check "the agent ended cleanly on TERM" agent_ended_well
check "no container is left" nothing_left

if [ "$FAILURES" -gt 0 ]; then
    agent_log
    die "$FAILURES of the checks failed"
fi
say "all of it happened as it should"

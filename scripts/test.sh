#!/usr/bin/env bash
# test.sh [--fast | --full] [--only NAME]
#
# Every check of the project in one command, on a fresh machine too: installs what is missing, starts a Docker engine if
# none answers, and ends what it started.
#   --fast       only steps that need no engine: format, lint, scripts, unit
#   --full       long steps too: decoders and parsers under Miri, real programs under the filter of system calls, the
#                static binary, jobs on servers with it, its size against the README, the same bytes from other folders, the
#                cost of an idle agent, limits and locks on other engines (engines) and on another kind of host (vm), some
#                minutes of faults (soak); for a night or a release
#   --only NAME  one step: format, lint, scripts, unit, measured, integration, or one of --full: miri, programs, static,
#                released, size, reproducible, footprint, engines, vm, soak
# The last line is "N passed, N failed", counted over tests and, where a step has none, steps.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

STEPS=(format lint scripts unit measured integration)
LONG_STEPS=(miri programs static released size reproducible footprint engines vm soak)
SOAK_MINUTES=3
FAST='' FULL='' ONLY=''
while [ $# -gt 0 ]; do
    case $1 in
        --fast) FAST=1 ;;
        --full) FULL=1 ;;
        --only)
            [ $# -ge 2 ] || die "--only needs the name of a step: ${STEPS[*]} ${LONG_STEPS[*]}"
            ONLY=$2
            shift
            ;;
        --only=*) ONLY=${1#*=} ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) die "unknown argument '$1': see --help" ;;
    esac
    shift
done
ALL=" ${STEPS[*]} ${LONG_STEPS[*]} "
[ -z "$ONLY" ] || [[ $ALL == *" $ONLY "* ]] || die "no step is called '$ONLY'; there are$ALL"
[ -z "$FAST" ] || [ -z "$FULL" ] || die "--fast and --full do not go together"

PASSED=0 FAILED=0 SUMMARY=()
STARTED=${EPOCHREALTIME/[.,]/}
make_scratch

# Registered early, so it is printed last, after what was started has ended; and also when a step ends the script.
summary() {
    local line
    [ ${#SUMMARY[@]} -gt 0 ] || return 0
    printf '\n%-14s %-7s %9s  %s\n' step result time tests
    for line in "${SUMMARY[@]}"; do printf '%s\n' "$line"; done
    line=$(elapsed_ms "$STARTED")
    printf '%-14s %-7s %7d.%d s\n\n' total "" $((line / 1000)) $((line % 1000 / 100))
    printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
}
on_exit summary

# note NAME PASSED FAILED STARTED: one row of the table.
note() {
    local ms word=ok
    ms=$(elapsed_ms "$4")
    [ "$3" -eq 0 ] || word=FAILED
    PASSED=$((PASSED + $2)) FAILED=$((FAILED + $3))
    SUMMARY+=("$(printf '%-14s %-7s %7d.%d s  %d passed, %d failed' "$1" "$word" $((ms / 1000)) $((ms % 1000 / 100)) "$2" "$3")")
    say "$1: $word"
}

# sum_of WORD LOG: over cargo's "test result:" lines.
sum_of() { awk -v word="$1" '/^test result:/ {for (i = 2; i <= NF; i++) if ($i ~ "^" word) n += $(i - 1)} END {print n + 0}' "$2"; }

STEP_PID=
stop_step() {
    local child
    alive "$STEP_PID" || return 0
    for child in $(pgrep -P "$STEP_PID"); do stop_pid "$child" "the running step" 20; done
}
on_exit stop_step

# step NAME SECONDS COMMAND...: runs it within a time limit, shows and keeps its output. In the background, so that
# a signal to this script is acted on at once.
step() {
    local name=$1 limit=$2 log=$SCRATCH/$1.log started=${EPOCHREALTIME/[.,]/} status=0 passed failed
    shift 2
    wanted "$name" || return 0
    say "--- $name: $*"
    (
        cd "$ROOT"
        timeout -k 15 "$limit" "$@" 2>&1 </dev/null | tee "$log"
    ) &
    STEP_PID=$!
    wait "$STEP_PID" || status=$?
    STEP_PID=
    passed=$(sum_of passed "$log") failed=$(sum_of failed "$log")
    if [ $((passed + failed)) -eq 0 ]; then
        # No tests were counted: the step itself is the check.
        if [ "$status" -eq 0 ]; then passed=1; else failed=1; fi
    elif [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
        failed=1
    fi
    if [ "$status" -ne 0 ]; then
        say "--- $name failed (exit code $status$([ "$status" -ne 124 ] || echo ": over its limit of $limit s")); the end of its output:"
        tail -n 40 "$log"
    fi
    note "$name" "$passed" "$failed" "$started"
}

wanted() {
    if [ -n "$ONLY" ]; then
        [ "$ONLY" = "$1" ]
    elif [[ " ${LONG_STEPS[*]} " == *" $1 "* ]]; then
        [ -n "$FULL" ]
    else
        [ -z "$FAST" ] || [[ " measured integration " != *" $1 "* ]]
    fi
}

# Whether tests run that need an engine.
on_engine() { wanted measured || wanted integration || wanted programs || wanted released; }

# The integration tests that measure, and so hold the machine for themselves: those that call `alone()`.
measured_tests() {
    awk '/^fn / {name = $2; sub(/\(.*/, "", name)}
         /= alone\(\);/ {file = FILENAME; sub(/.*\//, "", file); sub(/\.rs$/, "", file); print file "::" name}' \
        "$ROOT"/tests/integration/*.rs
}
mapfile -t MEASURED < <(measured_tests)
[ ${#MEASURED[@]} -gt 0 ] || die "no test in tests/integration measures: the way to find them is wrong"

# The integration tests in an image that only the step `programs` makes.
PROGRAMS=()
while read -r name; do PROGRAMS+=("programs::$name"); done < <(
    awk '/^#\[test\]/ {getline; sub(/^fn /, ""); sub(/\(.*/, ""); print}' "$ROOT/tests/integration/programs.rs"
)

# What the tests made must be gone. What was there before is not theirs, nor what a process that still runs works with:
# somebody else may use this engine, or run these tests, at the same time.
left() {
    if on_engine; then left_in_engine; fi
    left_on_host
}
new_left() { left | sort -u | comm -13 "$SCRATCH/left.before" - >"$SCRATCH/left" && [ ! -s "$SCRATCH/left" ]; }
leftovers() {
    local started=${EPOCHREALTIME/[.,]/} bad=0 each
    # The folder that was given to the tests for theirs: nothing may be in it, whatever its name.
    find "$TESTS_TMP" -mindepth 1 -maxdepth 1 >"$SCRATCH/left"
    pgrep -af -- "$TESTS_TMP" | sed 's/^/process:/' >>"$SCRATCH/left" || true
    while read -r each; do bad=1 && say "left behind: $each"; done <"$SCRATCH/left"
    # The containers of a doctor that somebody runs now are gone within a minute.
    wait_until 60 new_left || while read -r each; do bad=1 && say "left behind: $each"; done <"$SCRATCH/left"
    note leftovers $((1 - bad)) "$bad" "$started"
}

started=${EPOCHREALTIME/[.,]/}
need_packages "to stop and watch what is started here" procps ca-certificates
if wanted unit; then need_packages "the tests make certificates and keys with them" openssl openssh-client; fi
if wanted scripts; then need_packages "to check the scripts" shellcheck; fi
ensure_rust lint
if on_engine; then
    need_packages "the tests pull from a real registry, with a password" docker-registry apache2-utils
    need_packages "a test goes to the backend through it" tinyproxy
    need_packages "the tests check and scrape /metrics with it" prometheus
    need_packages "a test opens the agent's page in it" chromium
    need_packages "a test puts an engine on a small disk" e2fsprogs mount
    need_packages "the tests run jobs on real OpenSSH servers, some in a network of their own" openssh-server openssh-client iproute2 passwd util-linux
    need_packages "the scripts on those servers need them" python3 nodejs perl
    need_packages "a test starts the agent's own container with it" docker-compose
    need_packages "the tests have it judge the unit; it is not started" systemd
    need_packages "a test looks at Podman's engine with it; no service of it is started" podman catatonit
    need_packages "a test sends packets through the firewall for jobs" nftables iptables iproute2
    need_packages "some tests hold back what the agent asks of the disk" strace
    need_packages "the tests read the manual, try the completions and look at the package with them" mandoc zsh fish cmark-gfm dpkg-dev lintian rpm
    need_packages "the tests validate manifests with what it gets" python3-pip
    need_packages "the tests use them" curl jq python3 python3-yaml
    ensure_engine
    ensure_images
    "$ROOT/scripts/boot-image.sh"
fi
# Every user of a test's server may come through to what is theirs in it.
TESTS_TMP=$SCRATCH/tmp
mkdir -m 1777 "$TESTS_TMP" && chmod 1777 "$TESTS_TMP" && chmod 711 "$SCRATCH"
left | sort -u >"$SCRATCH/left.before"
note preparation 1 0 "$started"

step format 120 cargo fmt --all --check
step scripts 120 shellcheck -x scripts/*.sh runtime-images/prepare.sh configs/firewall/keep.sh .ci/run src/proofs/*.sh configs/completions/*.bash configs/package/p*
step lint 1800 cargo clippy --workspace --all-targets -- -D warnings
step unit 1800 env TMPDIR="$TESTS_TMP" cargo test --workspace --lib --bins -- --test-threads=8
# Tests wait more than they compute, so more of them run at once than a small host has cores. Those that measure run
# before, and one at a time.
step measured 1200 env TMPDIR="$TESTS_TMP" cargo test --test integration -- --exact --test-threads=1 "${MEASURED[@]}"
step integration 2400 env TMPDIR="$TESTS_TMP" cargo test --test integration -- --exact --test-threads=4 "${MEASURED[@]/#/--skip=}" "${PROGRAMS[@]/#/--skip=}"
if wanted programs; then "$ROOT/scripts/programs.sh"; fi
step programs 1200 env TMPDIR="$TESTS_TMP" cargo test --test integration -- --exact --test-threads=1 --nocapture "${PROGRAMS[@]}"
if wanted unit || on_engine; then leftovers; fi
step miri 7200 scripts/miri.sh
step static 2400 scripts/build-static.sh x86_64
# The other tests link the host's OpenSSL; the release has its own.
step released 1800 env TMPDIR="$TESTS_TMP" CRONIUM_TEST_AGENT="$(static_file x86_64)" cargo test --test integration -- --test-threads=4 ssh
step size 300 scripts/size.sh x86_64 --check
step reproducible 5400 scripts/build-static.sh x86_64 --check-reproducible
if [ -x "$ROOT/scripts/footprint.sh" ]; then step footprint 600 scripts/footprint.sh --check; fi
step engines 9000 scripts/engines.sh all
step vm 4800 scripts/vm.sh
step soak $((SOAK_MINUTES * 60 + 900)) scripts/soak.sh "$SOAK_MINUTES"
[ "$FAILED" -eq 0 ]

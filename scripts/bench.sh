#!/usr/bin/env bash
# bench.sh [--quick | --least] [--lines | --parts | --server | --away]
# bench.sh --fleet [N]
#
# One table: jobs and lines through the agent, each figure beside its floor: the same container run by raw calls to the
# engine over its Unix socket. Agent and floor take turns within one run; figures are medians, and a ratio is the median of
# the pairs' ratios. BENCHMARKS.md says what bounds each. Measures the static binary in dist/ (scripts/build-static.sh), else
# the release build. Takes about eight minutes.
#   --quick   fewer pairs: about a minute, and less reliable
#   --least   only shows that it works
#   --lines   only the lines from attach to WebSocket
#   --parts   only what the raw calls of one job are made of, and what each choice of the create request costs
#   --server  only scripts on a server, beside the client of OpenSSH
#   --away    only a slow backend, and reports after it was away
#   --fleet   N agents (500) at one backend: its requests, how long jobs wait, and what comes after it was away. Five are
#             processes, the others threads with the agent's own polls and heartbeats. Takes four minutes
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

OPTIONS=()
AGENTS=
while [ $# -gt 0 ]; do
    argument=$1
    shift
    case $argument in
        --fleet)
            AGENTS=500
            [[ ! ${1-} =~ ^[1-9][0-9]*$ ]] || { AGENTS=$1 && shift; }
            ;;
        --quick | --least | --lines | --parts | --server | --away) OPTIONS+=("$argument") ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) die "unknown argument '$argument': see --help" ;;
    esac
done
ensure_rust build
ensure_engine
ensure_images
if [ -n "$AGENTS" ]; then
    bench_programs
    # Each agent has two connections, both of whose ends are here, and three threads.
    ulimit -n "$(ulimit -Hn)"
    say "$AGENTS agents at one backend"
    RUST_MIN_STACK=262144 run_bench fleet --agents "$AGENTS" --agent "$AGENT"
    exit
fi
need_packages "one row runs a script on a server" openssh-server openssh-client
bench_programs
say "measuring $AGENT"
say "load of this machine before: $(cut -d ' ' -f 1-3 /proc/loadavg), on $(nproc) cores"
run_bench bench ${OPTIONS[@]+"${OPTIONS[@]}"} --agent "$AGENT"
say "load of this machine after: $(cut -d ' ' -f 1-3 /proc/loadavg)"
cat <<'TEXT'
Settings that are not the defaults, and why:
  api.rateLimit.enabled: false       the engine is measured; the row "with default api.rateLimit" (not with --quick) has the
                                     default, 100 requests a second
  jobs.maxConcurrent: 1, 5, 10       what the rows say; the default is 5
  the jobs' cpuLimit: 2 (lines)      with the default's half core the script would be what is measured
TEXT

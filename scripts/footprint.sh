#!/usr/bin/env bash
# footprint.sh [--check] [--seconds N]
#
# What an idle agent with five workers costs, polling each second: memory (PSS), threads by name, share of one core, time from
# start to first poll (median of 10), open descriptors and their use. The backend is in memory. Measures the static binary in
# dist/ (scripts/build-static.sh), else the release build.
#   --check       fails when a target is missed
#   --seconds N   how long CPU time is counted (30)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

OPTIONS=()
while [ $# -gt 0 ]; do
    case $1 in
        --check) OPTIONS+=(--check) ;;
        --seconds)
            OPTIONS+=(--seconds "${2:?--seconds takes a number}")
            shift
            ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) die "unknown argument '$1': see --help" ;;
    esac
    shift
done
ensure_rust build
ensure_engine
ensure_images
bench_programs
say "looking at $AGENT ($(stat -c %s "$AGENT") bytes)"
run_bench footprint ${OPTIONS[@]+"${OPTIONS[@]}"} --agent "$AGENT" --threads "$ROOT/docs/threads.md" ||
    die "a target is missed, or nothing could be measured; see above"

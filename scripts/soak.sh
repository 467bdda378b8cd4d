#!/usr/bin/env bash
# soak.sh [MINUTES]: jobs without end under faults, and the table of what came of them (default: 10 minutes).
#
# A real agent runs jobs from a local backend while it is killed and stopped at random moments, while the backend refuses
# connections, answers 500, cuts answers after it has taken what was sent, and delays, and while the engine, one of the
# soak's own, is stopped, killed, frozen and cut off. At the end fifty jobs run without a fault, over which the counts of the
# backend, of the agent's metrics and of the engine must be the same. Exits 0 only if they are, no report was lost, none
# came twice, no script ran twice, and no container is left.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-10} in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *[!0-9]*) die "soak.sh takes a number of minutes" ;;
esac

need_packages "the soak is driven by it" python3
ensure_rust build
ensure_engine
ensure_images
make_scratch
say "building the agent and the backend (development profile)"
(cd "$ROOT" && timeout -k 10 1800 cargo build --workspace --bins) || die "cargo build failed"
BIN=${CARGO_TARGET_DIR:-$ROOT/target}/debug
PYTHONDONTWRITEBYTECODE=1 python3 "$ROOT/scripts/soak.py" "$BIN" "$SCRATCH" "${1:-10}"

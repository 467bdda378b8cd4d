#!/usr/bin/env bash
# soak.sh [MINUTES]: endless jobs under faults, and a table of their results (default: 10 minutes).
#
# A real agent runs jobs from a local backend. Meanwhile the agent is killed and stopped at random moments; the backend
# refuses connections, answers 500, delays, and cuts answers after it took what was sent; and the soak's own engine is
# stopped, killed, frozen and cut off. At the end fifty jobs run without a fault, and backend, metrics and engine must have
# counted the same. Each job prints planted secrets in every encoding; at the end all that came to the backend, state.dir
# and the logs are searched for them. Exits 0 only if nothing was found, the counts agree, no report was lost or came twice,
# no script ran twice, and no container is left.
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
say "building the agent and the backend (as the tests have them)"
(cd "$ROOT" && timeout -k 10 1800 cargo build --profile test -p cronium-agent -p cronium-dev-backend --bins) || die "cargo build failed"
BIN=${CARGO_TARGET_DIR:-$ROOT/target}/debug
PYTHONDONTWRITEBYTECODE=1 python3 "$ROOT/scripts/soak.py" "$BIN" "$SCRATCH" "${1:-10}"

#!/usr/bin/env bash
# miri.sh [FILTER...]: the unit tests of decoders, decisions and parsers under Miri, which finds undefined behaviour.
#
# Miri interprets the program, thousands of times slower than it runs: tests with many rounds do fewer there, those with
# large inputs none, and those that need a process or a C library are left out. Exits 1 when a test fails, or when Miri
# cannot be had.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

FILTERS=("$@")
[ $# -gt 0 ] || FILTERS=(wire:: policy:: config::value config::url executors::shebang executors::complaint executors::container::marker
    executors::ssh::preamble executors::ssh::judge executors::ssh::helper_calls jobs::helpers::request)

ensure_rust build
ensure_nightly "Miri"
rustup component list --toolchain nightly 2>/dev/null | grep -q '^miri.*(installed)' || {
    say "rustup component add miri rust-src --toolchain nightly"
    rustup component add miri rust-src --toolchain nightly >/dev/null 2>&1 ||
        die "the nightly toolchain has no Miri today: rustup component add miri --toolchain nightly"
}
cd "$ROOT"
# Tests read the clock and the limits of files.
MIRIFLAGS=${MIRIFLAGS:--Zmiri-disable-isolation} nice -n 19 cargo +nightly miri test --lib -- "${FILTERS[@]}"

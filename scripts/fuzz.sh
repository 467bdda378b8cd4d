#!/usr/bin/env bash
# fuzz.sh [MINUTES] [TARGET...]: feeds each reader of foreign bytes with made-up ones, and prints a table (10 minutes in all).
#
# Builds the targets of fuzz/ with AddressSanitizer and the nightly compiler, then runs one after the other, each for its
# share of the time, at the lowest priority. A target starts from its seeds in fuzz/seeds and from fuzz/corpus, which earlier
# runs have left. An input may take 10 seconds and 512 MiB. Exits 1 when a target found something: then the file with the
# input is named, and the command that replays it. docs/fuzzing.md says what each target holds.
#   CARGO_BUILD_JOBS=N  compilers at once (1)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

INPUT_SECONDS=10 INPUT_MIB=512 CARGO_FUZZ=0.13.2
MINUTES=10
case ${1:-} in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    '' | *[!0-9]*) ;;
    *)
        MINUTES=$1
        shift
        ;;
esac
[ "$MINUTES" -gt 0 ] || die "fuzz.sh takes a number of minutes above 0"
FUZZ=$ROOT/fuzz
mapfile -t ALL < <(find "$FUZZ/seeds" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort)
TARGETS=("$@")
[ $# -gt 0 ] || TARGETS=("${ALL[@]}")
for target in "${TARGETS[@]}"; do
    [[ " ${ALL[*]} " == *" $target "* ]] || die "no target is called '$target'; there are ${ALL[*]}"
done

ensure_rust build
need_packages "a target has real shells run hostile values" dash busybox
ensure_nightly "the fuzzer's instrumentation"
if [ "$(cargo fuzz --version 2>/dev/null)" != "cargo-fuzz $CARGO_FUZZ" ]; then
    say "installing cargo-fuzz $CARGO_FUZZ: it builds the targets"
    timeout -k 10 1800 nice -n 19 cargo install --locked --version "$CARGO_FUZZ" cargo-fuzz || die "cargo install failed"
fi
make_scratch

RUN_PID=
stop_run() { stop_pid "$RUN_PID" "the running target" 20; }
on_exit stop_run
# patiently SECONDS LOG COMMAND...: in the background, so that a signal to this script is acted on at once.
patiently() {
    local limit=$1 log=$2 status=0
    shift 2
    timeout -k 15 "$limit" nice -n 19 "$@" >"$log" 2>&1 </dev/null &
    RUN_PID=$!
    wait "$RUN_PID" || status=$?
    RUN_PID=
    return "$status"
}

say "building the program of all ${#ALL[@]} targets"
cd "$ROOT"
export CARGO_BUILD_JOBS=${CARGO_BUILD_JOBS:-1}
patiently 7200 "$SCRATCH/build" cargo +nightly fuzz build || {
    tail -n 40 "$SCRATCH/build"
    die "cargo fuzz build failed"
}
HOST=$(rustc +nightly -vV | sed -n 's/^host: //p')
SHARE=$((MINUTES * 60 / ${#TARGETS[@]}))
[ "$SHARE" -gt 0 ] || SHARE=1
# Freed memory is kept apart for a while, to find its use; 16 MiB of it, so that the limit is the reader's.
export ASAN_OPTIONS=quarantine_size_mb=16 TMPDIR=$SCRATCH

# of NAME LOG: a figure of libFuzzer's last words.
of() { awk -v name="stat::$1:" '$1 == name {print $2}' "$2" | tail -n 1; }
# The edges of the last line that names them.
edges() { grep -ao 'cov: [0-9]*' "$1" | tail -n 1 | cut -d ' ' -f 2 || true; }
# What a finding says first; its log may hold any bytes.
first_words() { (grep -a -m 1 -A 1 -e 'panicked at' -e 'ERROR: ' "$1" || true) | tr '\n' ' ' | cut -c 1-300; }

ROWS=() FOUND=()
for target in "${TARGETS[@]}"; do
    say "$target: $SHARE s"
    log=$SCRATCH/$target word=ok
    mkdir -p "$FUZZ/corpus/$target" "$FUZZ/artifacts/$target"
    patiently $((SHARE + 300)) "$log" env CRONIUM_FUZZ="$target" "$FUZZ/target/$HOST/release/readers" "$FUZZ/corpus/$target" "$FUZZ/seeds/$target" \
        -max_total_time="$SHARE" -timeout="$INPUT_SECONDS" -rss_limit_mb="$INPUT_MIB" -print_final_stats=1 \
        -artifact_prefix="$FUZZ/artifacts/$target/" || {
        word=FOUND
        artifact=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        FOUND+=("$target: ${artifact:-it ended without a word, see above}" "  $(first_words "$log")")
        [ -z "$artifact" ] || FOUND+=("  replay: CRONIUM_FUZZ=$target cargo +nightly fuzz run readers ${artifact#"$ROOT/"}")
        [ -n "$artifact" ] || tail -n 20 "$log"
    }
    ROWS+=("$(printf '| %s | %s | %s | %s | %s | %s |' "\`$target\`" "$(of number_of_executed_units "$log")" \
        "$(of average_exec_per_sec "$log")" "$(edges "$log")" "$(of peak_rss_mb "$log")" "$word")")
done

printf '\n| target | executions | a second | edges | peak MiB | result |\n| --- | ---: | ---: | ---: | ---: | --- |\n'
printf '%s\n' "${ROWS[@]}"
[ ${#FOUND[@]} -eq 0 ] || {
    printf '\n%s\n' "${FOUND[@]}"
    exit 1
}

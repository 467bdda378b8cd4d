#!/usr/bin/env bash
# sbom.sh [--dist]
#
# The static program's bill of materials, CycloneDX 1.5 as JSON, from Cargo.lock: to standard output, or with --dist to
# dist/cronium-agent-VERSION.cdx.json beside the program. The same sources give the same bytes; a timestamp is in it only
# when SOURCE_DATE_EPOCH is set. Needs cargo, the crates that a build has downloaded, and python3 (3.11 or newer).
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=''
while [ $# -gt 0 ]; do
    case $1 in
        --dist) TARGET=dist ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *)
            echo "sbom: unknown argument '$1': see --help" >&2
            exit 2
            ;;
    esac
    shift
done

# The tree is the same for both processors: one of them stands for Linux.
bill() {
    cargo metadata --manifest-path "$ROOT/Cargo.toml" --all-features --format-version 1 --locked --filter-platform x86_64-unknown-linux-musl |
        python3 "$ROOT/scripts/sbom.py" "$ROOT"
}

if [ -z "$TARGET" ]; then
    bill
else
    version=$(awk -F'"' '/^version *=/ {print $2; exit}' "$ROOT/Cargo.toml")
    file=$ROOT/dist/cronium-agent-$version.cdx.json
    mkdir -p "$ROOT/dist"
    # Beside and renamed: a failure leaves no half of it.
    bill >"$file.new"
    mv -f "$file.new" "$file"
    echo "${file#"$ROOT"/}"
fi

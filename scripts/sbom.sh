#!/usr/bin/env bash
# sbom.sh [--dist | --licences]
#
# The static program's bill of materials, CycloneDX 1.5 as JSON, from Cargo.lock: to standard output, or with --dist to
# dist/cronium-agent-VERSION.cdx.json beside the program. With --licences: holders and licences of the same libraries, in the
# form of Debian's copyright files. The same sources give the same bytes; a timestamp is in it only
# when SOURCE_DATE_EPOCH is set. Needs cargo, the crates that a build has downloaded, and python3 (3.11 or newer).
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=''
while [ $# -gt 0 ]; do
    case $1 in
        --dist | --licences) TARGET=${1#--} ;;
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
metadata() {
    cargo metadata --manifest-path "$ROOT/Cargo.toml" --all-features --format-version 1 --locked --filter-platform x86_64-unknown-linux-musl
}
bill() { metadata | python3 "$ROOT/scripts/sbom.py" "$ROOT"; }

if [ -z "$TARGET" ]; then
    bill
elif [ "$TARGET" = licences ]; then
    # Imported modules are not kept as files in the tree.
    metadata | python3 -B "$ROOT/scripts/licences.py"
else
    version=$(awk -F'"' '/^version *=/ {print $2; exit}' "$ROOT/Cargo.toml")
    file=$ROOT/dist/cronium-agent-$version.cdx.json
    mkdir -p "$ROOT/dist"
    # Beside and renamed: a failure leaves no half of it.
    bill >"$file.new"
    mv -f "$file.new" "$file"
    echo "${file#"$ROOT"/}"
fi

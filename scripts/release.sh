#!/usr/bin/env bash
# release.sh [x86_64|aarch64] [--binary FILE] [--out DIR]
#
# Builds what a release consists of, for one kind of machine: the static program, the Debian and the RPM package, a tarball with
# scripts/install.sh and all that it places, the bill of materials, the provenance (in-toto Statement, SLSA v1), and
# SHA256SUMS over them. The same sources give the same bytes; scripts/verify-release.sh checks that.
#   --binary FILE  a program that is there already; the provenance then says nothing of how it was built
#   --out DIR      where the files go (default: dist/release-ARCH); made anew
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ARCH=x86_64 BINARY='' OUT=''
arguments 'ARCH --binary --out' "$@"
source_facts
TARGET=$ARCH-unknown-linux-musl
OUT=${OUT:-$ROOT/dist/release-$ARCH}
FACTS=()
make_scratch
if [ -z "$BINARY" ]; then
    "$ROOT/scripts/build-static.sh" "$ARCH"
    BINARY=$(static_file "$ARCH")
    FACTS=("$ROOT/target/static/$TARGET/release/flags" "${CRONIUM_MUSL_DIR:-$CACHE/musl-$ARCH}/VERSIONS")
fi
[ -f "$BINARY" ] || die "--binary $BINARY: no such file"
NAME=$(basename "$(static_file "$ARCH")")
rm -rf "$OUT"
mkdir -p "$OUT"
umask 022
install -m 0755 "$BINARY" "$OUT/$NAME"
(cd "$OUT" && sha256sum "$NAME" >"$NAME.sha256")
"$ROOT/scripts/package.sh" "$ARCH" --binary "$BINARY" --out "$OUT"
"$ROOT/scripts/rpm.sh" "$OUT"/*.deb
"$ROOT/scripts/sbom.sh" >"$OUT/$NAME.cdx.json"

# What install.sh needs of the tree, the program beside it.
TREE=$SCRATCH/$NAME
{
    awk '/^0/ && $2 != "PROGRAM" {print $2}' "$ROOT/configs/package/files"
    printf '%s\n' configs/package/files scripts/install.sh LICENSE CHANGELOG.md
} | while read -r file; do
    mode=0644
    [ ! -x "$ROOT/$file" ] || mode=0755
    install -D -m "$mode" "$ROOT/$file" "$TREE/$file"
done
install -m 0755 "$BINARY" "$TREE/cronium-agent"
(cd "$TREE" && sha256sum cronium-agent >cronium-agent.sha256)
tar -C "$SCRATCH" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --format=ustar \
    -cf - "$NAME" | gzip -9n >"$OUT/$NAME.tar.gz"

(cd "$OUT" && sha256sum -- *) >"$SCRATCH/subjects"
python3 "$ROOT/scripts/provenance.py" "$ROOT" "$TARGET" "$SCRATCH/subjects" "$OUT/$NAME.cdx.json" ${FACTS[@]+"${FACTS[@]}"} \
    >"$SCRATCH/provenance"
mv "$SCRATCH/provenance" "$OUT/$NAME.provenance.json"
(cd "$OUT" && sha256sum -- *) >"$SCRATCH/sums"
mv "$SCRATCH/sums" "$OUT/SHA256SUMS"
say "$(wc -l <"$OUT/SHA256SUMS") files and their sums: $OUT"

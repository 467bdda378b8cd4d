#!/usr/bin/env bash
# verify-release.sh DIR [--binary FILE]
#
# Is the release in DIR what these sources give? Compares its files with SHA256SUMS and with the provenance, builds all of it
# again in a copy of this tree, and compares every byte. The tree must be at the commit that the provenance names.
#   --binary FILE  this program in place of a static build: checks everything but the build of the program, and what the
#                  provenance says of that
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

DIR='' BINARY=''
arguments 'DIR --binary' "$@"
[ -n "$DIR" ] || die "which release? see --help"
need_packages "to read the provenance" jq
make_scratch
(cd "$DIR" && sha256sum --check --strict --quiet SHA256SUMS) || die "$DIR is not what its SHA256SUMS says"
PROVENANCE=$(find "$DIR" -name '*.provenance.json' -print -quit)
[ -n "$PROVENANCE" ] || die "$DIR has no provenance"
jq -r '.subject[] | .digest.sha256 + "  " + .name' "$PROVENANCE" >"$SCRATCH/subjects"
(cd "$DIR" && sha256sum --check --strict --quiet "$SCRATCH/subjects") || die "$DIR is not what its provenance says"

# fact FILTER: a text of the provenance.
fact() { jq -er ".predicate.buildDefinition.$1" "$PROVENANCE" || die "the provenance has no $1"; }
TARGET=$(fact externalParameters.target)
[ -n "$BINARY" ] || [ "$(fact externalParameters.program)" = built ] ||
    die "the program of $DIR was given to release.sh, not built: give it to me too, with --binary"
source_facts
WANTED=$(fact internalParameters.CRONIUM_COMMIT)
[ "$WANTED" = "$CRONIUM_COMMIT" ] || die "$DIR was made from $WANTED, and this tree is $CRONIUM_COMMIT: check that out first"
SOURCE_DATE_EPOCH=$(fact internalParameters.SOURCE_DATE_EPOCH)
CRONIUM_REVISION=$(fact 'resolvedDependencies[0].digest.gitCommit')
export SOURCE_DATE_EPOCH CRONIUM_REVISION

COPY=$SCRATCH/tree
mkdir "$COPY"
(cd "$ROOT" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf -) | tar -C "$COPY" -xf -
say "building $TARGET again in $COPY"
"$COPY/scripts/release.sh" "${TARGET%%-*}" ${BINARY:+--binary "$BINARY"} --out "$SCRATCH/again"
# A provenance with flags and toolchain is not that of a program that was given.
SKIP='^$'
[ -z "$BINARY" ] || [ "$(fact externalParameters.program)" = given ] || SKIP='provenance\.json$'
if ! diff <(grep -v "$SKIP" "$DIR/SHA256SUMS") <(grep -v "$SKIP" "$SCRATCH/again/SHA256SUMS"); then
    die "$DIR differs from what these sources give: see above, < is the release"
fi
say "verified: $(grep -vc "$SKIP" "$DIR/SHA256SUMS") files of $WANTED, the same bytes again"

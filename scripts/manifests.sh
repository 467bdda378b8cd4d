#!/usr/bin/env bash
# manifests.sh [FILE...]
#
# Validates what is shipped for Kubernetes and Nomad (configs/kubernetes, configs/nomad), or these files.
#   .yaml  against the schemas of Kubernetes' API, the oldest and the newest that kubernetes-validate has; unknown keys are faults
#   .hcl   by the parser python-hcl2, and against the blocks and keys of Nomad's job specification in scripts/manifests.py
# Both come from PyPI by pip, with the versions in scripts/manifests.txt, into target/manifests.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
esac
FILES=("$@")
[ $# -gt 0 ] || FILES=("$ROOT"/configs/kubernetes/*.yaml "$ROOT"/configs/nomad/*.hcl)
PLACE=$ROOT/target/manifests
need_packages "to get the validators" python3 python3-pip
# One for each list of versions and each Python.
WANTED=$(python3 -c 'import sys; print(sys.version)' | cat - "$ROOT/scripts/manifests.txt" | sha256sum | cut -c1-16)
mkdir -p "$PLACE"
# Two at once install one after the other.
exec {lock}>"$PLACE/lock"
flock -w 300 "$lock" || die "another $0 installs for five minutes already"
if [ ! -e "$PLACE/$WANTED/done" ]; then
    rm -rf "${PLACE:?}/$WANTED"
    say "installing the validators into target/manifests/$WANTED"
    timeout -k 10 300 python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
        --only-binary :all: --target "$PLACE/$WANTED" -r "$ROOT/scripts/manifests.txt" ||
        die "pip cannot install scripts/manifests.txt: is PyPI in reach?"
    touch "$PLACE/$WANTED/done"
fi
exec {lock}>&-
# Not exec: the script's own end cleans up.
PYTHONPATH=$PLACE/$WANTED PYTHONDONTWRITEBYTECODE=1 python3 "$ROOT/scripts/manifests.py" "${FILES[@]}"

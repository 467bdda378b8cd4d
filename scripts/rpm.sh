#!/usr/bin/env bash
# rpm.sh FILE.deb [--out DIR]
#
# Makes an RPM package of a Debian package that scripts/package.sh made: the same files, the scripts of configs/package for
# RPM. The same input gives the same bytes. Prints the file's name as its last line. rpm has no purge: a removal keeps
# token, state and user.
#   --out DIR  where it goes (default: beside the Debian package)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

DEB='' OUT=''
arguments 'DEB --out' "$@"
[ -f "$DEB" ] || die "which package? '$DEB' is no file: see --help"
OUT=$(mkdir -p "${OUT:-$(dirname "$DEB")}" && cd "${OUT:-$(dirname "$DEB")}" && pwd)
need_packages "to build an RPM package" rpm
source_facts
make_scratch
# What dpkg and others leave when they are ended goes with it.
export TMPDIR=$SCRATCH
field() { dpkg-deb -f "$DEB" "$1"; }
case $(field Architecture) in
    amd64) ARCH=x86_64 ;;
    *) ARCH=aarch64 ;;
esac
TREE=$SCRATCH/tree
dpkg-deb -x "$DEB" "$TREE"
rm -r "$TREE/usr/share/lintian"
mv "$TREE/usr/share/zsh/vendor-completions" "$TREE/usr/share/zsh/site-functions"

{
    cat <<SPEC
Name: cronium-agent
Version: $(field Version)
Release: 1
Summary: $(field Description | head -n 1)
License: Cronium
Requires: systemd >= 252
Requires: bash
Recommends: (docker-ce or moby-engine or podman)
AutoReqProv: no
%description
$(field Description | sed -n 's/^ //p')
%install
cp -a '$TREE/.' '%{buildroot}/'
%post
$(cat "$ROOT"/configs/package/{rpm-post,take-effect})
%preun
$(cat "$ROOT/configs/package/rpm-preun")
%postun
[ ! -d /run/systemd/system ] || systemctl daemon-reload
%files
%defattr(-,root,root)
%dir /etc/cronium
%dir /usr/share/cronium-agent
SPEC
    (cd "$TREE" && find . -type f -printf '/%P\n') | LC_ALL=C sort | sed 's|^/etc/|%config(noreplace) &|'
} >"$SCRATCH/spec"
rpmbuild --quiet -bb --target "$ARCH-linux" -D "_topdir $SCRATCH/build" -D "_rpmdir $SCRATCH/out" -D "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
    -D '_buildhost reproducible' -D 'use_source_date_epoch_as_buildtime 1' -D 'clamp_mtime_to_source_date_epoch 1' \
    -D '__os_install_post %{nil}' -D 'debug_package %{nil}' -D '_build_id_links none' -D '_binary_payload w9.gzdio' \
    "$SCRATCH/spec" >"$SCRATCH/log" 2>&1 || {
    tail -n 20 "$SCRATCH/log" >&2
    die "rpmbuild failed"
}
FILE=$(find "$SCRATCH/out" -name '*.rpm')
mv "$FILE" "$OUT/"
echo "$OUT/$(basename "$FILE")"

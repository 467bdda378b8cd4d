#!/usr/bin/env bash
# package.sh [x86_64|aarch64] [--binary FILE] [--version VERSION] [--out DIR]
#
# Builds the Debian package of the agent: the files of configs/package/files, the changelog, the bill of materials and the
# scripts of configs/package. The same sources give the same bytes. Prints the file's name as its last line.
#   --binary FILE      the program (default: what scripts/build-static.sh made in dist/, built now if it is missing)
#   --version VERSION  the package's (default: that of CHANGELOG.md's first section; until it is released, with ~ and the
#                      time of the last commit, so that a later build is newer and the release newer still)
#   --out DIR          where the package goes (default: dist/)
# CRONIUM_MAINTAINER names the maintainer of the package.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ARCH=x86_64 BINARY='' VERSION='' OUT=$ROOT/dist
arguments 'ARCH --binary --version --out' "$@"
source_facts
MAINTAINER=${CRONIUM_MAINTAINER:-Cronium <agent@cronium.example>}
NAME=cronium-agent
case $ARCH in
    x86_64) DEB_ARCH=amd64 ;;
    *) DEB_ARCH=arm64 ;;
esac
if [ -z "$BINARY" ]; then
    BINARY=$(static_file "$ARCH")
    [ -f "$BINARY" ] || "$ROOT/scripts/build-static.sh" "$ARCH"
fi
[ -f "$BINARY" ] || die "--binary $BINARY: no such file"
# A program for another kind of machine would be found out on the hosts.
LC_ALL=C readelf -h "$BINARY" 2>/dev/null | grep -iq "Machine: .*${ARCH/_/-}" || die "$BINARY is no program for $ARCH"
if [ -z "$VERSION" ]; then
    VERSION=$(sed -n '/^## /{s/^## \[\([0-9.]*\)\].*/\1/p;q}' "$ROOT/CHANGELOG.md")
    ! grep -m1 '^## ' "$ROOT/CHANGELOG.md" | grep -q unreleased ||
        VERSION+="~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M)"
fi
need_packages "to build the package" dpkg-dev binutils
make_scratch
# What dpkg and others leave when they are ended goes with it.
export TMPDIR=$SCRATCH
TREE=$SCRATCH/tree
DOC=$TREE/usr/share/doc/$NAME
umask 022

# put MODE SOURCE TARGET: a file of the list.
put() {
    local mode=$1 source=$ROOT/$2 target=$TREE$3
    [ "$2" != PROGRAM ] || source=$BINARY
    install -D -m "$mode" "$source" "$target"
    case $3 in
        /usr/share/man/*) gzip -9n "$target" ;;
        *.service) sed -i 's|/usr/local/bin/|/usr/bin/|' "$target" ;;
    esac
}

# Debian's form of CHANGELOG.md. What was not released belongs to the release above it.
changelog() {
    awk -v name=$NAME -v version="$VERSION" -v maintainer="$MAINTAINER" -v now="$SOURCE_DATE_EPOCH" '
        function ends(command, day) {
            if (!top) return
            command = "LC_ALL=C date -u -R -d \"" date "\""
            command | getline day
            close(command)
            print "\n -- " maintainer "  " day "\n"
        }
        /^## \[/ {
            if (top && $NF == "unreleased") next
            ends()
            date = $NF == "unreleased" ? "@" now : $NF
            print name " (" (top++ ? substr($2, 2, length($2) - 2) : version) ") unstable; urgency=medium"
            next
        }
        !top || NF == 0 {next}
        /^### / {print "\n  [ " substr($0, 5) " ]"; next}
        {
            line = /^- / ? "  *" : "   "
            for (i = /^- / ? 2 : 1; i <= NF; i++) {
                if (length(line $i) > 78) {print line; line = "   "}
                line = line " " $i
            }
            print line
        }
        END {ends()}' "$ROOT/CHANGELOG.md"
}

copyright() {
    cat <<TEXT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: $NAME
Comment: The program contains libraries of others, each under its own licence: the paragraphs after the first one.
 cronium-agent.cdx.json beside this file lists them with checksums.

Files: *
Copyright: $(sed -n 's/^Copyright (c) \([^.]*\)\..*/\1/p' "$ROOT/LICENSE")
License: Cronium
$(sed 's/^$/./; s/^/ /' "$ROOT/LICENSE")

TEXT
    "$ROOT/scripts/sbom.sh" --licences
}

# The packages with the libraries that the program needs of its host: none, for the static one.
libraries() {
    mkdir -p "$SCRATCH/debian"
    : >"$SCRATCH/debian/control"
    (cd "$SCRATCH" && dpkg-shlibdeps -O -e"$TREE/usr/bin/cronium-agent" 2>/dev/null) | sed -n 's/^shlibs:Depends=/, /p'
}

control() {
    cat <<TEXT
Package: $NAME
Version: $VERSION
Architecture: $DEB_ARCH
Maintainer: $MAINTAINER
Section: admin
Priority: optional
Depends: systemd (>= 252), passwd$(libraries)
Recommends: docker.io | docker-ce | podman
Suggests: nftables
Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$TREE" | cut -f 1)
Description: runs jobs of a Cronium backend in containers and on servers
 It claims jobs from the backend over HTTP, runs each script (Bash, Python,
 Node.js) in a locked-down container or on a server over SSH, streams every
 line live and reports exactly one result.
TEXT
}

while read -r mode source target; do
    [[ $mode != 0* ]] || put "$mode" "$source" "$target"
done <"$ROOT/configs/package/files"
mkdir -p "$DOC" "$TREE/DEBIAN" "$OUT"
changelog | gzip -9n >"$DOC/changelog.gz"
copyright >"$DOC/copyright"
"$ROOT/scripts/sbom.sh" >"$DOC/$NAME.cdx.json"
install -m 0755 "$ROOT"/configs/package/{postinst,prerm,postrm} "$TREE/DEBIAN/"
cat "$ROOT/configs/package/take-effect" >>"$TREE/DEBIAN/postinst"
control >"$TREE/DEBIAN/control"
install -D -m 0644 "$ROOT/configs/package/lintian-overrides" "$TREE/usr/share/lintian/overrides/$NAME"
(cd "$TREE" && find etc -type f | LC_ALL=C sort | sed 's|^|/|' >DEBIAN/conffiles)
(cd "$TREE" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
FILE=$OUT/${NAME}_${VERSION}_$DEB_ARCH.deb
# gzip: the same bytes whatever the number of cores.
dpkg-deb --root-owner-group -Zgzip --build "$TREE" "$FILE" >/dev/null
echo "$FILE"

#!/usr/bin/env bash
# boot-image.sh [--force]
#
# Makes cronium/test:systemd: a Debian whose first process is systemd, in which tests/integration/systemd_boot.rs
# installs the agent as a host would have it. Made from the packages of this machine's own Debian mirror, on the base of
# the job images where that is there; kept in ${XDG_CACHE_HOME:-~/.cache}/cronium-agent.
# What is up to date is left alone.
#   --force  makes it again, which picks up security updates
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TAG=cronium/test:systemd
# systemd, the bus that systemctl asks over, kill, which every host has, and the libraries of a program that is not
# linked statically.
PACKAGES=(systemd systemd-sysv dbus procps libgcc-s1 zlib1g)
# Work of a real host's that would only disturb a machine that lives for a minute.
MASKED=(apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer motd-news.timer
    systemd-timesyncd.service systemd-networkd.service systemd-resolved.service getty.target console-getty.service)

# make_tree FILE: the packed tree (runs as root).
make_tree() {
    local file=$1 suite work base
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/cronium-boot.$$.XXXXXX")
    on_exit drop_trees "$work"
    chmod 755 "$work"
    mkdir "$work/boot"
    for base in "$(dirname "$file")"/bases-*/core.tar.gz; do
        # One of an earlier release may lie there too.
        [ ! -f "$base" ] || ! tar -xOzf "$base" ./usr/lib/os-release | grep -qx "VERSION_CODENAME=$suite" || break
        base=
    done
    if [ -n "$base" ]; then
        say "on $base"
        tar -C "$work/boot" -xzf "$base"
    else
        make_core "$suite" "$work/boot"
    fi
    add_packages "$work/boot" install "${PACKAGES[@]}"
    chroot "$work/boot" systemctl mask "${MASKED[@]}"
    chroot "$work/boot" systemctl set-default multi-user.target
    # Each machine makes its own.
    : >"$work/boot/etc/machine-id"
    tar -C "$work/boot" -c --numeric-owner --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' \
        --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' \
        --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' . | gzip -1 >"$file.new"
    mv "$file.new" "$file"
    [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$file"
}

FORCE=
case ${1:-} in
    '') ;;
    --force) FORCE=1 ;;
    --make-tree) # the part of this script that needs root
        make_tree "$2"
        exit 0
        ;;
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *) die "unknown argument '$1': see --help" ;;
esac
HASH=$({ cat "${BASH_SOURCE[0]}" && declare -f make_core add_packages && grep CODENAME /etc/os-release; } | sha256sum | cut -c1-16)
engine_answers || die "no Docker engine answers: start one, or run scripts/test.sh, which does"
if [ -z "$FORCE" ] && [ "$(docker image inspect --format '{{index .Config.Labels "cronium.build.hash"}}' "$TAG" 2>/dev/null)" = "$HASH" ]; then
    say "$TAG: up to date"
    exit 0
fi
FILE=$CACHE/boot-$HASH.tar.gz
started=${EPOCHREALTIME/[.,]/}
if [ -n "$FORCE" ] || [ ! -f "$FILE" ]; then
    need_packages "to make a base image from Debian's packages" debootstrap
    apt_update_once
    mkdir -p "$CACHE"
    say "a Debian with systemd (log: $CACHE/boot.log)"
    if ! as_root env CRONIUM_CLOCK="$CRONIUM_CLOCK" "$ROOT/scripts/boot-image.sh" --make-tree "$FILE" >"$CACHE/boot.log" 2>&1; then
        tail -n 20 "$CACHE/boot.log" >&2
        die "the system could not be made; the end of $CACHE/boot.log is above"
    fi
    # Older ones are of no use any more.
    find "$CACHE" -maxdepth 1 -name 'boot-*.tar.gz' ! -name "boot-$HASH.tar.gz" -delete
fi
gzip -dc "$FILE" | docker import -c 'ENV container=docker' -c "LABEL cronium.build.hash=$HASH" - "$TAG" >/dev/null
say "$TAG: $(($(docker image inspect --format '{{.Size}}' "$TAG") / 1000000)) MB, $(elapsed_ms "$started") ms"

#!/usr/bin/env bash
# programs.sh [--force | --trace]
#
# Makes cronium/test:programs: a Debian with the programs that people call from scripts. tests/integration/programs.rs
# runs each file of tests/programs in it as a job, under the agent's own filter of system calls. Made from the packages of
# this machine's own Debian mirror and one wheel of the Python registry; kept in ${XDG_CACHE_HOME:-~/.cache}/cronium-agent.
# What is up to date is left alone.
#   --force  makes it again, which picks up security updates
#   --trace  then runs each file under strace without a filter, and writes which system calls it made to
#            tests/programs/traces.txt; docs/system-calls.md is made of that
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TAG=cronium/test:programs
# No compiler of Go, since Debian has programs in it; and the small one of Java, which is itself a program in Java.
PACKAGES=(procps curl jq git openssl zstd xz-utils bzip2 rsync gawk sqlite3 postgresql-client openssh-client
    openssh-server imagemagick python3 python3-pip nodejs node-sqlite3 openjdk-17-jre-headless ecj restic docker-registry
    gdb-minimal strace)
WHEEL=numpy

# make_tree FILE: the packed tree (runs as root).
make_tree() {
    local file=$1 suite work tree
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/cronium-programs.$$.XXXXXX")
    on_exit drop_trees "$work"
    chmod 755 "$work"
    tree=$work/tree
    mkdir "$tree"
    make_core "$suite" "$tree"
    # Java's own packages look there while they are set up.
    mount -t proc proc "$tree/proc"
    add_packages "$tree" install "${PACKAGES[@]}"
    umount "$tree/proc"
    mkdir -p "$tree/opt/wheels"
    # With this machine's pip, which knows its registry, for the Python of the tree.
    python3 -m pip download -q --no-deps --only-binary :all: --dest "$tree/opt/wheels" \
        --python-version "$(chroot "$tree" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')" "$WHEEL"
    chroot "$tree" sh -c '
        echo "runner:x:1000:1000:Cronium job:/workspace:/bin/sh" >>/etc/passwd
        echo "runner:x:1000:" >>/etc/group
        mkdir -m 700 /workspace
        chown 1000:1000 /workspace
        find / -xdev \( -type f -o -type d \) \( -perm -4000 -o -perm -2000 \) -exec chmod ug-s {} +'
    tar -C "$tree" -c --numeric-owner --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' \
        --exclude='./var/cache/*' --exclude='./var/lib/apt/*' --exclude='./var/lib/dpkg/*' --exclude='./var/log/*' \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
        --exclude='./usr/share/info/*' --exclude=__pycache__ --exclude='./debootstrap' . | gzip -1 >"$file.new"
    mv "$file.new" "$file"
    [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$file"
}

# trace FILE: the system calls that FILE makes as the job's user, without a filter and without a network, one a line.
# Without restart_syscall, which is the kernel's after a stop by strace.
trace() {
    local file=$1 interpreter=bash
    case $file in *.py) interpreter=python3 ;; *.js) interpreter=node ;; esac
    # shellcheck disable=SC2016 # expanded in the container
    timeout 600 docker run --rm -i --network none --security-opt seccomp=unconfined --entrypoint sh \
        --tmpfs /workspace:exec,uid=1000,gid=1000,size=1g --tmpfs /trace:uid=1000 "$TAG" -c '
            cat >/workspace/.script
            strace -f -qq -c -o /trace/calls "$1" /workspace/.script >/trace/output 2>&1
            [ "$(tail -n 1 /trace/output)" = end ] || { cat /trace/output >&2; exit 1; }
            awk "NR > 2 && /^ *[0-9]/ && \$NF !~ /^(total|restart_syscall)\$/ { print \$NF }" /trace/calls' - "$interpreter" <"$file"
}

# trace_all: tests/programs/traces.txt, a line for each call: its name, and the programs.
trace_all() {
    local file name started
    make_scratch
    for file in "$ROOT"/tests/programs/*.{sh,py,js}; do
        name=$(basename "${file%.*}") started=${EPOCHREALTIME/[.,]/}
        trace "$file" >"$SCRATCH/calls" || die "$name failed under strace"
        say "$name: $(wc -l <"$SCRATCH/calls") system calls, $(elapsed_ms "$started") ms"
        sed "s/\$/ $name/" "$SCRATCH/calls" >>"$SCRATCH/all"
    done
    LC_ALL=C sort -u "$SCRATCH/all" | awk '$1 != call {printf "%s%s:", call ? "\n" : "", $1; call = $1} {printf " %s", $2} END {print ""}' \
        >"$ROOT/tests/programs/traces.txt"
}

FORCE='' TRACE=''
case ${1:-} in
    '') ;;
    --force) FORCE=1 ;;
    --trace) TRACE=1 ;;
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
HASH=$({ declare -p PACKAGES WHEEL && declare -f make_tree make_core add_packages && grep CODENAME /etc/os-release; } | sha256sum | cut -c1-16)
engine_answers || die "no Docker engine answers: start one, or run scripts/test.sh, which does"
if [ -n "$FORCE" ] || [ "$(docker image inspect --format '{{index .Config.Labels "cronium.build.hash"}}' "$TAG" 2>/dev/null)" != "$HASH" ]; then
    FILE=$CACHE/programs-$HASH.tar.gz
    started=${EPOCHREALTIME/[.,]/}
    if [ -n "$FORCE" ] || [ ! -f "$FILE" ]; then
        need_packages "to make an image from Debian's packages, and to get a wheel for it" debootstrap python3-pip
        apt_update_once
        mkdir -p "$CACHE"
        say "a Debian with programs (log: $CACHE/programs.log)"
        if ! as_root env CRONIUM_CLOCK="$CRONIUM_CLOCK" "$ROOT/scripts/programs.sh" --make-tree "$FILE" >"$CACHE/programs.log" 2>&1; then
            tail -n 20 "$CACHE/programs.log" >&2
            die "the system could not be made; the end of $CACHE/programs.log is above"
        fi
        # Older ones are of no use any more.
        find "$CACHE" -maxdepth 1 -name 'programs-*.tar.gz' ! -name "programs-$HASH.tar.gz" -delete
    fi
    gzip -dc "$FILE" | docker import -c 'ENV LANG=C.UTF-8 HOME=/workspace PYTHONDONTWRITEBYTECODE=1' -c 'WORKDIR /workspace' \
        -c 'USER 1000:1000' -c 'ENTRYPOINT ["tini", "--"]' -c 'CMD ["sh"]' -c "LABEL cronium.build.hash=$HASH" - "$TAG" >/dev/null
    say "$TAG: $(($(docker image inspect --format '{{.Size}}' "$TAG") / 1000000)) MB, $(elapsed_ms "$started") ms"
else
    say "$TAG: up to date"
fi
[ -z "$TRACE" ] || trace_all

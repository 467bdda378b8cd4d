#!/usr/bin/env bash
# vm.sh [--force] [PATTERN...]
#
# Runs tests on a typical host, which this machine may not be: a Debian with its own kernel, systemd as the first process and
# as the driver of control groups, cgroup v2, AppArmor on. It is a virtual machine without a network, made from the packages
# of this machine's own mirror; under KVM where that works, else emulated, ten times slower. In it doctor gives its proofs, on
# Docker's engine and on a rootless one; then tests run.
#   PATTERN  tests to run, as `cargo test` takes them; default: limits and locks of a script
#   --force  makes the system again, which picks up security updates
# Exits 1 when a test failed. Its output is kept in ${XDG_CACHE_HOME:-~/.cache}/cronium-agent/vm.log.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PATTERNS=(limits:: security::)
# Not there: what needs an SSH server, another engine or a registry, or judges by the second.
SKIP=(ssh podman registry time_is_limited)
MEMORY=4G DISK=10G
# Seconds: for a kernel to say something, and for all of it.
BOOT_LIMIT=20 LIMIT=3000
PACKAGES=(linux-image-cloud-amd64 initramfs-tools systemd systemd-sysv dbus udev kmod iproute2 procps netbase apparmor
    docker.io iptables python3 dbus-user-session rootlesskit slirp4netns uidmap)
MASKED=(apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer getty.target)

# make_tree FILE: the packed tree (runs as root).
make_tree() {
    local file=$1 suite work
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/cronium-vm.$$.XXXXXX")
    on_exit drop_trees "$work"
    make_core "$suite" "$work/vm"
    # The making of the first ram disk looks there.
    mount -t proc proc "$work/vm/proc"
    add_packages "$work/vm" install "${PACKAGES[@]}"
    umount "$work/vm/proc"
    chroot "$work/vm" systemctl mask "${MASKED[@]}"
    : >"$work/vm/etc/fstab"
    echo vm >"$work/vm/etc/hostname"
    echo '127.0.0.1 localhost vm' >"$work/vm/etc/hosts"
    tar -C "$work/vm" -c --numeric-owner --exclude='./proc/*' --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' . | gzip -1 >"$file.new"
    mv "$file.new" "$file"
}

# make_disk FILE TREE: a disk with the tree, these sources, the tests and the images, all in their places (runs as root).
make_disk() {
    local file=$1 packed=$2 binary=$3 work
    shift 3
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/cronium-vm.$$.XXXXXX")
    on_exit drop_trees "$work"
    mkdir "$work/vm"
    tar -C "$work/vm" -xzf "$packed"
    mkdir -p "$work/vm$ROOT" "$work/vm$(dirname "$binary")" "$work/vm/opt/vm"
    git -C "$ROOT" ls-files -z | tar -C "$ROOT" --null -T - -c | tar -C "$work/vm$ROOT" -x
    cp "$binary" "$work/vm$binary"
    cp "$(dirname "$binary")/../cronium-agent" "$work/vm$(dirname "$binary")/../cronium-agent"
    cp "$(dirname "$file")/images.tar" "$work/vm/opt/vm/images.tar"
    # A boot would empty /tmp, where these sources may lie.
    ln -sf /dev/null "$work/vm/etc/tmpfiles.d/tmp.conf"
    printf '#!/bin/bash\n%s\ncheck %q' "$(declare -f check)" "$binary" >"$work/vm/opt/vm/check"
    printf ' %q' "$@" >>"$work/vm/opt/vm/check"
    printf '#!/bin/bash\n%s\nrootless\n' "$(declare -f rootless)" >"$work/vm/opt/vm/rootless"
    chmod 755 "$work/vm/opt/vm" "$work/vm/opt/vm/check" "$work/vm/opt/vm/rootless"
    # What systemd keeps for itself of a user's control groups.
    mkdir "$work/vm/etc/systemd/system/user@.service.d"
    printf '[Service]\nDelegate=cpu cpuset io memory pids\n' >"$work/vm/etc/systemd/system/user@.service.d/delegate.conf"
    cat >"$work/vm/etc/systemd/system/check.service" <<'UNIT'
[Unit]
After=docker.service
Wants=docker.service
[Service]
Type=oneshot
ExecStart=/opt/vm/check
ExecStopPost=systemctl poweroff
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
UNIT
    chroot "$work/vm" systemctl enable --quiet check.service
    cp "$work/vm"/boot/vmlinuz-* "$(dirname "$file")/kernel"
    cp "$work/vm"/boot/initrd.img-* "$(dirname "$file")/initrd"
    mke2fs -q -t ext4 -d "$work/vm" "$file" "$DISK" >/dev/null
    chmod 644 "$(dirname "$file")"/{kernel,initrd}
    [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$file"
}

# check BINARY ARGS...: what runs inside.
check() {
    export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin
    echo "kernel $(uname -r), $(stat -fc %T /sys/fs/cgroup): $(cat /sys/fs/cgroup/cgroup.controllers)"
    docker load --quiet --input /opt/vm/images.tar
    docker info --format 'Docker {{.ServerVersion}}, cgroup {{.CgroupVersion}} by {{.CgroupDriver}}, {{.SecurityOptions}}'
    cd "$(dirname "$1")"
    # Of the backend, which is not there, doctor has nothing good to say.
    ../cronium-agent doctor --set api.endpoint=http://127.0.0.1:1 --set api.token=none
    "$@"
    echo "the tests ended with $?"
    systemctl stop docker.service docker.socket
    useradd --create-home edge && loginctl enable-linger edge
    cp ../cronium-agent /opt/vm/cronium-agent
    chmod 644 /opt/vm/images.tar
    timeout 300 setpriv --reuid=edge --regid=edge --init-groups /opt/vm/rootless
}

# rootless: the same, by a user whose engine is.
rootless() {
    export HOME=/home/edge XDG_RUNTIME_DIR PATH=/usr/share/docker.io/contrib:/usr/sbin:/usr/bin:/sbin:/bin
    XDG_RUNTIME_DIR=/run/user/$(id -u)
    export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/docker.sock DBUS_SESSION_BUS_ADDRESS=unix:path=$XDG_RUNTIME_DIR/bus
    cd "$HOME" || exit
    until [ -S "$XDG_RUNTIME_DIR/bus" ]; do sleep 1; done
    systemd-run --quiet --user -p Delegate=yes --setenv="PATH=$PATH" dockerd-rootless.sh
    until docker info >/dev/null 2>&1; do sleep 1; done
    docker load --quiet --input /opt/vm/images.tar
    /opt/vm/cronium-agent doctor --set "container.docker.endpoint=$DOCKER_HOST" --set "state.dir=$HOME/state" \
        --set api.endpoint=http://127.0.0.1:1 --set api.token=none
}

FORCE='' GIVEN=()
while [ $# -gt 0 ]; do
    case $1 in
        --force) FORCE=1 ;;
        --make-tree) # the parts of this script that need root
            make_tree "$2"
            exit 0
            ;;
        --make-disk)
            shift
            make_disk "$@"
            exit 0
            ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        -*) die "unknown argument '$1': see --help" ;;
        *) GIVEN+=("$1") ;;
    esac
    shift
done
[ ${#GIVEN[@]} -eq 0 ] || PATTERNS=("${GIVEN[@]}")
[ "$(uname -m)" = x86_64 ] || die "the machine is made for x86_64 only, and this is $(uname -m)"
make_scratch
ensure_rust build
ensure_engine
ensure_images
need_packages "to run the virtual machine" qemu-system-x86 e2fsprogs jq git
say "building the tests"
BINARY=$(cd "$ROOT" && timeout -k 10 1800 cargo test --test integration --no-run --message-format=json |
    jq -r 'select(.reason == "compiler-artifact" and .target.name == "integration") | .executable') || die "cargo failed"
[ -x "$BINARY" ] || die "cargo named no test program"

HASH=$({ declare -p PACKAGES MASKED && declare -f make_tree make_core add_packages && grep CODENAME /etc/os-release; } | sha256sum | cut -c1-16)
TREE=$CACHE/vm-$HASH.tar.gz
mkdir -p "$CACHE"
if [ -n "$FORCE" ] || [ ! -f "$TREE" ]; then
    need_packages "to make a system from Debian's packages" debootstrap
    apt_update_once
    say "a Debian with a kernel, systemd and Docker (log: $CACHE/vm-tree.log)"
    if ! as_root env CRONIUM_CLOCK="$CRONIUM_CLOCK" "$ROOT/scripts/vm.sh" --make-tree "$TREE" >"$CACHE/vm-tree.log" 2>&1; then
        tail -n 20 "$CACHE/vm-tree.log" >&2
        die "the system could not be made; the end of $CACHE/vm-tree.log is above"
    fi
    find "$CACHE" -maxdepth 1 -name 'vm-*.tar.gz' ! -name "vm-$HASH.tar.gz" -delete
fi
say "its disk"
docker save -o "$SCRATCH/images.tar" cronium/runner:{bash,python,node}-alpine
skip=()
for word in "${SKIP[@]}"; do skip+=(--skip "$word"); done
as_root env CRONIUM_CLOCK="$CRONIUM_CLOCK" "$ROOT/scripts/vm.sh" --make-disk "$SCRATCH/disk" "$TREE" "$BINARY" \
    --color=never --test-threads=1 "${skip[@]}" "${PATTERNS[@]}"

# qemu SECONDS ARGS...: a machine of this kernel.
qemu() {
    local limit=$1
    shift
    exec timeout -k 10 "$limit" qemu-system-x86_64 "$@" -smp 2 -display none -monitor none -no-reboot -net none -kernel "$SCRATCH/kernel"
}
# A kernel without a disk says who it is, panics and is over. Under a KVM that does not work it says nothing.
kvm_works() {
    [ -w /dev/kvm ] || return 1
    (qemu "$BOOT_LIMIT" -accel kvm -cpu host -append 'console=ttyS0 panic=-1' -serial "file:$SCRATCH/kvm.log") >/dev/null 2>&1 </dev/null || true
    grep -q 'Linux version' "$SCRATCH/kvm.log"
}
stop_vm() { stop_pid "${VM_PID:-}" "the virtual machine" 15; }
on_exit stop_vm

how=KVM acceleration=(-accel kvm -cpu host)
{ kvm_works; } 2>/dev/null || how='emulation, since KVM does not work here' acceleration=(-accel 'tcg,thread=multi' -cpu max)
: >"$SCRATCH/tests.log"
# The kernel speaks on one line, the tests on another.
qemu "$LIMIT" "${acceleration[@]}" -m "$MEMORY" -initrd "$SCRATCH/initrd" -append 'root=/dev/vda rw console=ttyS0 systemd.show_status=0' \
    -drive "file=$SCRATCH/disk,if=virtio,format=raw,cache=unsafe" -serial "file:$SCRATCH/kernel.log" \
    -serial "file:$SCRATCH/tests.log" >"$SCRATCH/qemu.log" 2>&1 </dev/null &
VM_PID=$!
say "the machine runs, by $how; at most $LIMIT s"
# In the background, so that a signal to this script is acted on at once.
tail -n +1 --pid="$VM_PID" -f "$SCRATCH/tests.log" | sed -u 's/\r$//; /^{/d' | tee "$CACHE/vm.log" &
FOLLOWER=$!
wait "$VM_PID" || die "the machine ended with $? ($(tail -n 1 "$SCRATCH/qemu.log")); its kernel's last words: $(tail -n 3 "$SCRATCH/kernel.log")"
wait "$FOLLOWER"
grep -q cgroup2fs "$CACHE/vm.log" || die "it had no control groups of version 2"
[ "$(grep -cE '^(ok|warn)  *proof-' "$CACHE/vm.log")" -eq 26 ] ||
    die "doctor's thirteen proofs were not all given by both engines there; all that it said: $CACHE/vm.log"
grep -q '^ok  *rootless  *yes' "$CACHE/vm.log" || die "no engine there was rootless"
grep -qx 'the tests ended with 0' "$CACHE/vm.log" || die "tests failed there; all that they said: $CACHE/vm.log"
grep -q '^test result: ok. [1-9]' "$CACHE/vm.log" || die "no test ran there"
say "limits and walls hold there"

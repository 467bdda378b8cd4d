# shellcheck shell=bash
# What a job must not be able to do, tried from the inside. Each line that is printed is a fact: a word, then the rest.
# FITS, MORE: bytes to write within and beyond the disk limit, or empty. ENGINE: the engine's socket, or empty.
# HOST, PORT: the engine's address, where it is on another host. OUTSIDE, OUTSIDE_PORT: a place that the host reaches, or empty.
say() { printf '%s %s\n' "$1" "${*:2}"; }
oneline() { tr '\n' ' '; }
reach() {
    local words
    # shellcheck disable=SC2016 # For the inner shell.
    if words=$(timeout 1 bash -c ': <"/dev/tcp/$0/$1"' "$1" "$2" 2>&1); then echo open; else
        words=${words##*: }
        echo "closed: ${words:-no answer within 1 s}" | head -n 1
    fi
}
cloud=$(mktemp)
reach 169.254.169.254 80 >"$cloud" &
outside=$(mktemp)
[ -z "$OUTSIDE" ] || reach "$OUTSIDE" "$OUTSIDE_PORT" >"$outside" &

# --- the root
while read -r _ at type options _; do
    [ "$at" != / ] || say root "$type" "$options"
done </proc/self/mounts
for folder in / /etc /usr/bin /root /var/tmp /run /opt; do
    [ -d "$folder" ] || continue
    if words=$( { : >"$folder/.cronium-doctor"; } 2>&1); then
        rm -f "$folder/.cronium-doctor"
        say wrote "$folder" "$(awk -v at="$folder" '$2 == at {kind = $3} END {print kind ? kind : "root"}' /proc/self/mounts)"
    else
        say refused "$folder" "${words##*: }"
    fi
done
: >/workspace/.cronium-doctor && say workspace written

# --- privileges
grep -E '^(Uid|NoNewPrivs|Seccomp|Cap[A-Z][a-z]+):' /proc/self/status | while read -r name value; do
    say status "${name%:}" "$value"
done
say confined "$(tr -d '\0' </proc/self/attr/current 2>/dev/null)"
try() {
    local name=$1
    shift
    command -v "$1" >/dev/null || return 0
    if timeout 2 "$@" >/dev/null 2>&1 </dev/null; then say gained "$name"; else say denied "$name"; fi
}
try control true
try mount mount -t tmpfs none /mnt
try user-namespace unshare -r true
try chroot chroot / true
try device mknod /workspace/.device b 8 0
try owner chown 0 /workspace/.cronium-doctor
try hostname hostname doctor

# --- files that should not be there
find / /run /tmp -xdev \( -type s -o -type f -perm -4000 -o -type f -perm -2000 \) 2>/dev/null | head -n 20 | sort -u |
    while read -r file; do if [ -S "$file" ]; then say socket "$file"; else say setuid "$file"; fi; done
for file in /var/run/docker.sock /run/docker.sock /run/podman/podman.sock /run/containerd/containerd.sock "$ENGINE"; do
    [ -z "$file" ] || [ ! -e "$file" ] || say socket "$file"
done
while read -r _ at _; do [ ! -S "$at" ] || say socket "$at"; done </proc/self/mounts
grep -oE '[@/][^ ]*(docker|containerd|podman)[^ ]*$' /proc/net/unix | sort -u | head -n 5 | while read -r name; do say socket "$name"; done
if [ -n "$HOST" ]; then say engine "$(reach "$HOST" "$PORT")"; fi
say looked for-sockets

# --- the disk
if [ -n "$MORE" ]; then
    if head -c "$FITS" /dev/zero >/workspace/.fits 2>/dev/null; then say disk fits; fi
    if words=$( { head -c "$MORE" /dev/zero >/workspace/.more; } 2>&1); then
        say disk more
    else
        say disk full "$(wc -c </workspace/.more)" "${words##*: }"
    fi
    rm -f /workspace/.fits /workspace/.more
fi

# --- the network
say interfaces "$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort | oneline)"
say way-out "$(awk 'NR > 1 && ($2 == "00000000" || $2 ~ /FEA9$/) {print $1}' /proc/net/route | sort -u | oneline)"
say way-out-6 "$(awk '$1 ~ /^0+$/ && $2 == "00" && $10 != "lo" {print $10}' /proc/net/ipv6_route 2>/dev/null | sort -u | oneline)"
wait
say metadata "$(cat "$cloud")"
[ -z "$OUTSIDE" ] || say outside "$(cat "$outside")"
say end of-locks

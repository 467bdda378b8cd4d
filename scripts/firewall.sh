#!/usr/bin/env bash
# cronium-firewall [strict|metadata|off] [--root DIR]
#
# Sets up the firewall around the jobs of cronium-agent, and prints how to start it. Without a mode: renews the rules of the
# mode that is set, and does nothing where none is.
#   metadata    closes link-local addresses and the clouds' metadata services
#   strict      closes this host's own addresses and private ranges too, but for /etc/cronium/cronium-jobs-allow.nft
#   off         removes it; the list of exceptions stays
#   --root DIR  works below DIR, for an image: needs no nft, starts and stops nothing
set -euo pipefail

SHARE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../share/cronium-agent" && pwd)
MODE='' ROOT=''

say() { printf 'firewall: %s\n' "$*"; }
die() {
    printf 'firewall: error: %s\n' "$*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        strict | metadata | off) MODE=$1 ;;
        --root)
            [[ ${2:-} == /?* ]] || die "--root needs an absolute path, and not /"
            ROOT=${2%/}
            shift
            ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) die "'$1' is no mode; strict, metadata and off are: see --help" ;;
    esac
    shift
done

SETTINGS=$ROOT/etc/cronium
RULES=$SETTINGS/cronium-jobs.nft
ALLOW=$SETTINGS/cronium-jobs-allow.nft
# The agent does not start without the firewall.
GUARD=$ROOT/etc/systemd/system/cronium-agent.service.d/firewall.conf
# The service of the nftables package flushes all tables when it starts.
AFTER_FLUSH=$ROOT/etc/systemd/system/nftables.service.d/cronium-firewall.conf

on_host() { [ -z "$ROOT" ]; }
systemd_runs() { on_host && [ -d /run/systemd/system ]; }

# The name servers that Docker asks from inside a job's network: this host's, but for those on its loopback.
name_servers() {
    local file=$ROOT/etc/resolv.conf
    # The loopback's alone: systemd-resolved, whose own servers Docker takes then.
    awk '$1 == "nameserver" && $2 !~ /^(127\.|::1$)/ {found = 1} END {exit !found}' "$file" 2>/dev/null ||
        file=$ROOT/run/systemd/resolve/resolv.conf
    [ ! -r "$file" ] || awk '$1 == "nameserver" && $2 !~ /^(127\.|::1$)/ && $2 ~ /^[0-9a-fA-F.:]+$/ {
        print "        " ($2 ~ /:/ ? "ip6" : "ip") " daddr " $2 " meta l4proto { tcp, udp } th dport 53 accept"}' "$file"
}

# place TARGET: from standard input, beside and renamed, so that nobody sees half a file.
place() {
    mkdir -p "$(dirname "$1")"
    cat >"$1.new"
    chmod 0644 "$1.new"
    mv -f "$1.new" "$1"
}

switch_on() {
    ! on_host || command -v nft >/dev/null || die "it needs nft: install the package nftables"
    if [ -e "$ALLOW" ]; then
        say "$ALLOW is kept as it is"
    else
        name_servers | sed '/^    chain allowed {/r /dev/stdin' "$SHARE/cronium-jobs-allow.nft" | place "$ALLOW"
    fi
    grep -q '^define mode = ' "$SHARE/cronium-jobs.nft" || die "the rules have no mode to set"
    sed "s/^define mode = .*/define mode = $MODE/" "$SHARE/cronium-jobs.nft" | place "$RULES"
    ! on_host || nft -c -f "$RULES" || die "nft does not take $RULES and $ALLOW: see above"
    place "$GUARD" <"$SHARE/cronium-agent-firewall.conf"
    place "$AFTER_FLUSH" <"$SHARE/nftables-cronium.conf"
    if systemd_runs; then systemctl daemon-reload; fi
    say "$MODE. Next:"
    say "  - look at ${ALLOW#"$ROOT"}: what jobs may reach, name servers among it"
    say "  - systemctl enable cronium-firewall && systemctl reload-or-restart cronium-firewall"
}

switch_off() {
    [ -e "$RULES" ] || [ -e "$GUARD" ] || return 0
    if systemd_runs; then systemctl disable --now cronium-firewall.service; fi
    rm -f "$RULES" "$GUARD" "$AFTER_FLUSH"
    rmdir "$(dirname "$GUARD")" "$(dirname "$AFTER_FLUSH")" 2>/dev/null || true
    if systemd_runs; then systemctl daemon-reload; fi
    say "no firewall around jobs"
}

[ -n "$MODE" ] || MODE=$(sed -n 's/^define mode = \([a-z]*\)$/\1/p' "$RULES" 2>/dev/null || true)
case $MODE in
    '') ;;
    off) switch_off ;;
    *) switch_on ;;
esac

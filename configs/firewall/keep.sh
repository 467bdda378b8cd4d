#!/bin/sh
# keep.sh [once]
#
# The firewall around jobs from a container with the node's network and the capability NET_ADMIN: sets up the rules of
# $MODE (metadata, strict), loads them, says so by a file, and loads them again when somebody has flushed them. With `once`
# it ends after it has loaded them. The rules stay when it ends: an update of the container opens nothing. After
# `nft delete table inet cronium_jobs` on the node they are gone.
set -eu
# The list of exceptions is made from the name servers in /etc/resolv.conf, unless one is mounted.
cronium-firewall "${MODE:-metadata}" >/dev/null
nft -f /etc/cronium/cronium-jobs.nft
[ "${1:-}" != once ] || exit 0
: >"${LOADED:-/run/cronium-firewall/loaded}"
trap 'exit 0' TERM INT
while :; do
    sleep "${PAUSE:-10}" &
    wait $!
    nft list chain inet cronium_jobs prerouting >/dev/null 2>&1 || nft -f /etc/cronium/cronium-jobs.nft
done
